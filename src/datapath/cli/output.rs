//! What the mover says at its end.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::PathBuf;

use serde::Serialize;
use serde_json::{Value, json};

use crate::datapath::archive::Inspection;
use crate::datapath::environment::TERMINATION_LOG;
use crate::datapath::protocol::{JobResult, MAX_TERMINATION_MESSAGE, PruneDone};

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

/// Whether a termination message has no room for all the keys that were removed.
pub(super) fn loses_keys(done: &PruneDone) -> bool {
    let Ok(value) = serde_json::to_value(JobResult::Done(done)) else { return true };
    let told: Result<PruneDone, _> = serde_json::from_str(&shortened(value));
    told.map_or(true, |told| told.removed.len() < done.removed.len())
}

/// Leaves out what the report has anyway, most expendable first, until it fits.
fn shortened(mut value: Value) -> String {
    let steps: [fn(&mut Value); 8] = [
        |value| value["inspection"]["keysPerMount"] = json!({}),
        |value| value["inspection"]["members"] = json!([]),
        // What stays is the most, and of the least use; what was removed is told before anything else.
        |value| shorten_lists(value, &["kept"], 8),
        |value| shorten_lists(value, &["kept"], 0),
        |value| shorten_lists(value, &["removed", "finished", "cleaned", "failed"], 8),
        |value| shorten_lists(value, &["removed", "finished", "cleaned", "failed"], 1),
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

/// Leaves the first few of each of these lists of keys.
fn shorten_lists(value: &mut Value, lists: &[&str], most: usize) {
    for list in lists {
        if let Some(list) = value.get_mut(*list).and_then(Value::as_array_mut) {
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
    use crate::datapath::protocol::{Cause, Failure, KeptKey, VerifyDone};

    fn verify(mounts: usize) -> JobResult<VerifyDone> {
        let mut inspection = Inspection { sha256: "0".repeat(64), ..Inspection::default() };
        inspection.keys_per_mount = (0..mounts).map(|n| (format!("logical/{n:036}/"), 1)).collect();
        JobResult::Done(VerifyDone {
            key: "k".into(),
            sha256: "0".repeat(64),
            size_bytes: 1,
            manifest: true,
            taken_at: Some(chrono::DateTime::UNIX_EPOCH),
            cluster_uid: String::new(),
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
    fn a_prune_says_how_many_it_removed_and_kept_however_few_it_can_name() {
        let key = |n: usize| format!("prod/{}/kelp/2026-11-21T03-00-00Z-{n:08}.snap", "reef".repeat(9));
        let reasoned = |n| KeptKey { key: key(n), reason: "daily 3 of 14; weekly 2 of 8".to_owned() };
        let pruned = |removed: usize, kept: usize, failed: usize| {
            let done = PruneDone {
                removed: (0..removed).map(key).collect(),
                kept: (0..kept).map(reasoned).collect(),
                failed: (0..failed).map(|n| KeptKey { reason: "x".repeat(300), ..reasoned(n) }).collect(),
                ..PruneDone::default()
            }
            .counted();
            let text = shortened(serde_json::to_value(JobResult::Done(&done)).unwrap());
            assert!(text.len() <= MAX_TERMINATION_MESSAGE, "{text}");
            let JobResult::Done(told) = serde_json::from_str::<JobResult<PruneDone>>(&text).unwrap() else {
                panic!("{text}")
            };
            assert_eq!((told.removed_count, told.kept_count, told.failed_count), (removed, kept, failed));
            (told, loses_keys(&done))
        };
        let (told, loses) = pruned(50, 90, 40);
        assert!(told.shortened && loses && !told.failed.is_empty());
        let (told, loses) = pruned(3, 90, 0);
        assert_eq!((told.removed.len(), told.kept.len() < 90, loses), (3, true, false), "what goes is told first");
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
