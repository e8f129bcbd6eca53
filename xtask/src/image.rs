//! The project's own image: one program under its two names, a CA bundle, and nothing else.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use flate2::Compression;
use flate2::write::GzEncoder;
use webpki_root_certs::TLS_SERVER_ROOT_CERTS;

use crate::devcluster::{Devcluster, images, wheels};
use crate::oci::{self, Content, Entry, Image};
use crate::{report, report::say, repository};

/// Where the image is published. The chart's default says the same.
pub const REPOSITORY: &str = "ghcr.io/openbao-operator/openbao-operator";
/// What it may weigh in a registry (bytes).
const LIMIT: u64 = 30 << 20;
const TARGET: &str = "x86_64-unknown-linux-gnu";
/// Cargo's profile for it: optimised, but built in minutes on two cores.
const PROFILE: &str = "image";
/// Nobody in particular, as distroless images call it.
const USER: u64 = 65532;

/// An image in the devcluster.
#[derive(Debug, Clone)]
pub struct Built {
    /// Changes whenever the content does, so that a Deployment notices.
    pub tag: String,
}

impl Built {
    pub fn reference(&self) -> String {
        format!("{REPOSITORY}:{}", self.tag)
    }
}

/// Builds the programs statically: they run in an empty image and still resolve names through DNS.
pub fn programs(features: &[&str]) -> Result<PathBuf> {
    let log = target_folder().join("image-build.log");
    let mut cargo = Command::new(option_env!("CARGO").unwrap_or("cargo"));
    cargo.current_dir(repository()).args(["build", "--package", "openbao-operator", "--bin", "openbao-operator"]);
    cargo.args(["--profile", PROFILE, "--target", TARGET, "--color", "never"]);
    if !features.is_empty() {
        cargo.arg("--features").arg(features.join(","));
    }
    cargo.env("CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUSTFLAGS", "-C target-feature=+crt-static");
    // The ones that `cargo xtask` itself was started with would be seen as a change and build everything again.
    for name in ["RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "CARGO_MANIFEST_DIR", "CARGO_PKG_NAME"] {
        cargo.env_remove(name);
    }
    report::logged("building the operator", &cargo, &log).map_err(|error| report::plainly(error, "crates.io"))?;
    Ok(target_folder().join(TARGET).join(PROFILE).join("openbao-operator"))
}

/// Builds the image and makes it known to the devcluster.
pub fn load(cluster: &Devcluster) -> Result<Built> {
    let program = programs(&[])?;
    has_no_faults(&program)?;
    let image = describe(&program);
    let weight = compressed(&image)?;
    if weight > LIMIT {
        bail!("the image weighs {} compressed, more than the {} it may", mebibytes(weight), mebibytes(LIMIT));
    }
    let folder = images::folder(cluster);
    fs::create_dir_all(&folder)?;
    let archive = folder.join("operator.tar");
    let digest = oci::write(&image, &archive)?;
    let tag = tag(&digest);
    let image = Image { reference: format!("{REPOSITORY}:{tag}"), ..image };
    oci::write(&image, &archive)?;
    report::step("importing the operator's image", || images::import(cluster, &archive))?;
    say(format!("  {REPOSITORY}:{tag}, {} compressed", mebibytes(weight)));
    Ok(Built { tag })
}

/// What people get must not be steerable into faults: such a program refuses to start where somebody tries.
fn has_no_faults(program: &Path) -> Result<()> {
    let output = Command::new(program).env("OPENBAO_FAULT_RULES", "{}").arg("--version").output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    if output.status.success() || !said.contains("built without fault injection") {
        bail!(
            "{} was built with the feature fault-injection: that is for tests only ({})",
            program.display(),
            output.status
        );
    }
    Ok(())
}

/// An image of programs as `cargo build` made them, with the libraries they are linked to.
pub fn load_programs(cluster: &Devcluster, operator: &Path, mover: &Path) -> Result<Built> {
    let mut image = describe(operator);
    image.entries.retain(|entry| entry.path != "bao-backup");
    image.entries.push(Entry::program("bao-backup", mover));
    image.entries.extend(images::libraries(operator)?);
    let folder = tempfile::tempdir_in(images::folder(cluster))?;
    let archive = folder.path().join("operator.tar");
    let digest = oci::write(&image, &archive)?;
    let built = Built { tag: tag(&digest) };
    image.reference = built.reference();
    if !images::known(cluster)?.contains(&image.reference) {
        oci::write(&image, &archive)?;
        images::import(cluster, &archive)?;
    }
    Ok(built)
}

/// OpenBao's newest image with the libraries that `program` is linked to, so that it runs there as `cargo build` made it. The
/// released one is static, and needs nothing of the image it is copied into.
pub fn load_server(cluster: &Devcluster, program: &Path) -> Result<String> {
    let newest = wheels::OPENBAO.first().context("no OpenBao is pinned")?;
    let reference = format!("example.org/openbao-with-libraries:{}", newest.version);
    if !images::known(cluster)?.contains(&reference) {
        report::step("image of OpenBao with libraries", || {
            let folder = tempfile::tempdir_in(images::folder(cluster))?;
            let archive = folder.path().join("image.tar");
            wheels::openbao_with(newest, reference.clone(), images::libraries(program)?, &archive)?;
            images::import(cluster, &archive)
        })?;
    }
    Ok(reference)
}

fn tag(digest: &str) -> String {
    let digest = digest.trim_start_matches("sha256:");
    format!("{}-{}", env!("CARGO_PKG_VERSION"), &digest[..12])
}

fn describe(program: &Path) -> Image {
    Image {
        reference: format!("{REPOSITORY}:{}", env!("CARGO_PKG_VERSION")),
        entrypoint: vec!["/openbao-operator".into()],
        user: format!("{USER}:{USER}"),
        entries: vec![
            Entry::folder("etc"),
            Entry::text("etc/passwd", format!("nonroot:x:{USER}:{USER}:nonroot:/:/sbin/nologin\n")),
            Entry::folder("etc/ssl"),
            Entry::folder("etc/ssl/certs"),
            Entry::text("etc/ssl/certs/ca-certificates.crt", ca_bundle()),
            Entry::folder("tmp").mode(0o1777),
            Entry::program("openbao-operator", program),
            Entry::hardlink("bao-backup", "openbao-operator"),
        ],
        ..Image::default()
    }
}

/// Mozilla's roots, as the file that TLS libraries look for.
fn ca_bundle() -> String {
    let mut bundle = String::new();
    for certificate in TLS_SERVER_ROOT_CERTS {
        bundle.push_str("-----BEGIN CERTIFICATE-----\n");
        let text = STANDARD.encode(certificate.as_ref());
        for line in text.as_bytes().chunks(64) {
            bundle.push_str(&String::from_utf8_lossy(line));
            bundle.push('\n');
        }
        bundle.push_str("-----END CERTIFICATE-----\n");
    }
    bundle
}

/// What an image of this program would weigh in a registry (bytes).
pub fn weight(program: &Path) -> Result<u64> {
    compressed(&describe(program))
}

/// What the content weighs as a registry would keep it (bytes).
fn compressed(image: &Image) -> Result<u64> {
    let mut gzip = GzEncoder::new(Counter(0), Compression::default());
    for entry in &image.entries {
        match &entry.content {
            Content::File(path) => {
                let mut file = fs::File::open(path).with_context(|| format!("could not open {}", path.display()))?;
                io::copy(&mut file, &mut gzip)?;
            }
            Content::Bytes(bytes) => gzip.write_all(bytes)?,
            _ => {}
        }
    }
    Ok(gzip.finish()?.0)
}

struct Counter(u64);

impl Write for Counter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn mebibytes(bytes: u64) -> String {
    format!("{}.{} MiB", bytes >> 20, ((bytes & 0xf_ffff) * 10) >> 20)
}

/// Where cargo puts what it builds.
pub fn target_folder() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| repository().join("target"), PathBuf::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ca_bundle_holds_every_root_as_pem() {
        let bundle = ca_bundle();
        assert_eq!(bundle.matches("BEGIN CERTIFICATE").count(), TLS_SERVER_ROOT_CERTS.len());
        assert!(bundle.lines().all(|line| line.len() <= 64));
    }

    #[test]
    fn both_names_are_the_same_program_and_nobody_is_root() {
        let image = describe(Path::new("/some/program"));
        assert_eq!(image.user, "65532:65532");
        let link = image.entries.iter().find(|entry| entry.path == "bao-backup").unwrap();
        assert!(matches!(&link.content, Content::Hardlink(target) if target == "openbao-operator"));
    }

    #[test]
    fn weights_are_said_to_one_digit() {
        assert_eq!(mebibytes((30 << 20) + (1 << 19)), "30.5 MiB");
    }
}
