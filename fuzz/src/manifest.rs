//! The reader of manifests: what anyone may have put beside a snapshot.
//!
//! Checked: no panic; what is accepted belongs to the key that was asked for, names a digest and a size, and is the same
//! after it is written and read again.

use openbao_operator::adapter::objectstore::Manifest;

const KEY: &str = "p/ns/c/x.snap";

pub fn check(bytes: &[u8]) {
    let Ok(manifest) = Manifest::parse(KEY, bytes) else { return };
    assert_eq!(manifest.key, KEY);
    assert_eq!(manifest.sha256.len(), 64);
    assert!(manifest.size_bytes > 0);
    let written = manifest.to_bytes().expect("what was read can be written");
    assert_eq!(Manifest::parse(KEY, &written).expect("what was written can be read"), manifest);
}
