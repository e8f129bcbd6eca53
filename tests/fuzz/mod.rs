//! What the fuzz targets check, on their seeds: that it compiles and holds. Fuzzing itself needs another compiler, and is
//! run by hand.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

#[path = "../../fuzz/src/lib.rs"]
#[allow(clippy::pedantic, reason = "of another workspace, without the project's lints")]
mod targets;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz")
}

/// What lies in a folder, by name.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty(), "nothing in {}", folder.display());
    files
}

#[test]
fn every_fuzz_target_holds_on_its_seeds() {
    type Check = fn(&[u8]);
    const TARGETS: [(&str, Check); 6] = [
        ("cron", |text| targets::cron::check(str::from_utf8(text).unwrap())),
        ("hcl", targets::hcl::check),
        ("journal", targets::journal::check),
        ("manifest", targets::manifest::check),
        ("plan", targets::plan::check),
        ("snapshot", targets::snapshot::check),
    ];
    let programs = files(&folder().join("fuzz_targets"));
    let programs: BTreeSet<_> = programs.iter().map(|program| program.file_stem().unwrap().to_str().unwrap()).collect();
    assert_eq!(programs, TARGETS.iter().map(|(name, _)| *name).collect::<BTreeSet<_>>(), "every target is run here");
    for (name, check) in TARGETS {
        for seed in files(&folder().join("seeds").join(name)) {
            eprintln!("{}", seed.display());
            check(&fs::read(seed).unwrap());
        }
    }
}
