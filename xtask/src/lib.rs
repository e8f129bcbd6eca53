//! The project's own commands, as a library: `cargo xtask` is a thin command line over it, and the test harness calls the
//! same functions, so that a test and a person start the same cluster in the same way.

pub mod bench;
pub mod crds;
pub mod demo;
pub mod devcluster;
pub mod dockerfile;
pub mod image;
pub mod install;
pub mod machine;
pub mod oci;
pub mod plugins;
pub mod report;
pub mod stores;
pub mod suite;

use std::path::{Path, PathBuf};

/// The repository this was compiled in.
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("/")).to_path_buf()
}
