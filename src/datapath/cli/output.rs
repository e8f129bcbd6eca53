//! What the mover says at its end.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::PathBuf;

use serde::Serialize;
use serde_json::{Value, json};

use crate::datapath::archive::Inspection;
use crate::datapath::environment::TERMINATION_LOG;
use crate::datapath::protocol::{JobResult, MAX_TERMINATION_MESSAGE};

const DEFAULT_TERMINATION_LOG: &str = "/dev/termination-log";

/// The last line of standard output, whole, and the termination message, shortened where it must be.
pub(super) fn result<T: Serialize>(result: &JobResult<T>) {
    line(result);
    let Ok(value) = serde_json::to_value(result) else { return };
    let told = std::env::var_os(TERMINATION_LOG).map(PathBuf::from);
    let path = told.or_else(|| Some(PathBuf::from(DEFAULT_TERMINATION_LOG)).filter(|path| path.exists()));
    if let Some(path) = path
        && let Err(error) = std::fs::write(&path, shortened(value))
    {
        eprintln!("the termination message could not be written to {}: {error}", path.display());
    }
}

/// One JSON document on a line of its own.
pub(super) fn line(value: &impl Serialize) {
    if let Ok(text) = serde_json::to_string(value) {
        // A closed pipe is the reader's decision.
        let _ = writeln!(std::io::stdout(), "{text}");
    }
}

/// Leaves out what the report has anyway, most expendable first, until it fits.
fn shortened(mut value: Value) -> String {
    let steps: [fn(&mut Value); 6] = [
        |value| value["inspection"]["keysPerMount"] = json!({}),
        |value| value["inspection"]["members"] = json!([]),
        |value| shorten_lists(value, 8),
        |value| shorten_lists(value, 0),
        |value| {
            for field in ["sealedSums", "sums"] {
                if let Some(field) = value.get_mut(field) {
                    *field = json!("");
                }
            }
        },
        |value| {
            if let Some(message) = value.get_mut("message") {
                let text: String = message.as_str().unwrap_or_default().chars().take(900).collect();
                *message = json!(text);
            }
        },
    ];
    let mut text = value.to_string();
    for (index, step) in steps.iter().enumerate() {
        if text.len() <= MAX_TERMINATION_MESSAGE {
            break;
        }
        // The first two are about an inspection, which only some results have.
        if index > 1 || value.get("inspection").is_some() {
            step(&mut value);
            if value.get("message").is_none() {
                value["shortened"] = json!(true);
            }
        }
        text = value.to_string();
    }
    text
}

/// Leaves the first few of each list of keys.
fn shorten_lists(value: &mut Value, most: usize) {
    for list in ["removed", "finished", "cleaned", "kept"] {
        if let Some(list) = value.get_mut(list).and_then(Value::as_array_mut) {
            list.truncate(most);
        }
    }
}

/// An inspection for people.
pub(super) fn text(found: &Inspection) -> String {
    let mut text = String::new();
    let mut row = |name: &str, value: String| {
        let _ = writeln!(text, "{name:<14}{value}");
    };
    row("integrity", "every check that needs no key passed".to_owned());
    row("sha256", found.sha256.clone());
    row("size", format!("{} bytes, state {} bytes", found.size_bytes, found.state_bytes));
    row("raft", format!("index {}, term {}", found.raft_index, found.raft_term));
    let seal = match (&found.seal.key_id, found.seal.threshold, found.seal.shares) {
        (Some(id), _, _) => format!("{}, key id {id}", found.seal.kind),
        (None, Some(threshold), Some(shares)) => format!("{}, {threshold} of {shares} shares", found.seal.kind),
        _ => found.seal.kind.clone(),
    };
    row("seal", seal);
    row("versions", format!("{} (ever active; restore into the last or newer)", found.versions_ever_active.join(", ")));
    for (index, member) in found.members.iter().enumerate() {
        let role = if member.voter { "voter" } else { "non-voter" };
        row(if index == 0 { "members" } else { "" }, format!("{} at {}, {role}", member.id, member.address));
    }
    row("keys", format!("{} in {} places", found.keys_total, found.keys_per_mount.len()));
    for (place, count) in &found.keys_per_mount {
        row("", format!("{count:>8}  {place}"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datapath::protocol::{Cause, Failure, VerifyDone};

    fn verify(mounts: usize) -> JobResult<VerifyDone> {
        let mut inspection = Inspection { sha256: "0".repeat(64), ..Inspection::default() };
        inspection.keys_per_mount = (0..mounts).map(|n| (format!("logical/{n:036}/"), 1)).collect();
        JobResult::Done(VerifyDone {
            key: "k".into(),
            sha256: "0".repeat(64),
            size_bytes: 1,
            manifest: true,
            inspection,
            sealed_sums: "x".repeat(300),
            sums: "y".repeat(200),
            duration_ms: 1,
            shortened: false,
        })
    }

    #[test]
    fn a_termination_message_always_fits_and_still_reads() {
        for mounts in [0, 10, 5000] {
            let text = shortened(serde_json::to_value(verify(mounts)).unwrap());
            assert!(text.len() <= MAX_TERMINATION_MESSAGE, "{mounts}");
            let JobResult::Done(read) = serde_json::from_str::<JobResult<VerifyDone>>(&text).unwrap() else {
                panic!("{text}")
            };
            assert_eq!((read.shortened, read.sealed_sums.len()), (mounts == 5000, 300));
        }
        let failure = Failure { cause: Cause::Store, reason: "r".into(), message: "ä".repeat(9000) };
        let text = shortened(serde_json::to_value(JobResult::<VerifyDone>::Failed(failure)).unwrap());
        assert!(text.len() <= MAX_TERMINATION_MESSAGE);
        assert!(matches!(serde_json::from_str::<JobResult<VerifyDone>>(&text).unwrap(), JobResult::Failed(_)));
    }

    #[test]
    fn an_inspection_reads_as_text() {
        let mut found =
            Inspection { versions_ever_active: vec!["2.6.1".into(), "2.7.2".into()], ..Inspection::default() };
        found.seal.kind = "static".into();
        found.seal.key_id = Some("k1".into());
        found.keys_per_mount.insert("core/".into(), 23);
        let text = text(&found);
        for expected in ["static, key id k1", "2.6.1, 2.7.2", "23  core/"] {
            assert!(text.contains(expected), "{expected} in {text}");
        }
    }
}
