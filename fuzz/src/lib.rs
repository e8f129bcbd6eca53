//! What the targets check, a module each. The targets themselves only hand over their input, so that the project's ordinary
//! tests can take in this file and run every check on its seeds (`tests/fuzz/mod.rs`): what only fuzzing compiles goes out
//! of date without anybody seeing it.

pub mod cron;
pub mod hcl;
pub mod journal;
pub mod manifest;
pub mod plan;
pub mod snapshot;

use serde::de::DeserializeOwned;

/// Splits an input into a JSON document and the bytes after its first NUL: a target that needs decisions takes them from
/// there, so that a mutation of one does not disturb the other.
pub fn document<T: DeserializeOwned>(input: &[u8]) -> Option<(T, &[u8])> {
    let end = input.iter().position(|byte| *byte == 0).unwrap_or(input.len());
    let document = serde_json::from_slice(&input[..end]).ok()?;
    Some((document, input.get(end + 1..).unwrap_or_default()))
}
