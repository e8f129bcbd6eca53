//! One restore: the facts to confirm before it, its progress, its outcome.

use std::fmt::Write as _;

use chrono::{DateTime, Utc};
use kube::ResourceExt;

use super::restore_phase;
use crate::api::{OpenBaoOperation, OpenBaoRestore};
use crate::kubectl::table::{Paint, Tone, ago, bar, bytes, fact};

/// What a person should know before saying yes.
pub fn facts(
    cluster: &str,
    source: &str,
    backup: Option<&OpenBaoOperation>,
    now: DateTime<Utc>,
    paint: Paint,
) -> String {
    let mut out = String::new();
    let lost = "everything that was written to the cluster after the snapshot was taken is lost";
    fact(&mut out, "Restore", &format!("into cluster {cluster}"), Tone::Plain, paint);
    fact(&mut out, "Snapshot", source, Tone::Plain, paint);
    match backup {
        None => fact(
            &mut out,
            "Record",
            "no operation here knows this snapshot; its manifest is read and checked before anything is touched",
            Tone::Warn,
            paint,
        ),
        Some(backup) => {
            let status = backup.status.clone().unwrap_or_default();
            let artifacts = status.artifacts.unwrap_or_default();
            if let Some(at) = super::backups::taken(backup) {
                fact(
                    &mut out,
                    "Taken",
                    &format!("{} ({})", at.format("%Y-%m-%d %H:%M:%S UTC"), ago(at, now)),
                    Tone::Plain,
                    paint,
                );
            }
            if let Some(size) = artifacts.size_bytes {
                fact(&mut out, "Size", &bytes(size), Tone::Plain, paint);
            }
            if let Some(sha256) = artifacts.sha256 {
                fact(&mut out, "SHA-256", &sha256, Tone::Plain, paint);
            }
            fact(&mut out, "Taken by", &backup.name_any(), Tone::Plain, paint);
        }
    }
    fact(&mut out, "Effect", lost, Tone::Bad, paint);
    out
}

/// One line while it runs.
pub fn progress(restore: &OpenBaoRestore, paint: Paint) -> String {
    let status = restore.status.clone().unwrap_or_default();
    let (word, tone) = restore_phase(status.phase);
    let mut line = paint.on(word, tone);
    if !status.stage.is_empty() {
        let _ = write!(line, " {}", status.stage);
    }
    if let Some(progress) = &status.progress {
        if let Some(percent) = progress.percent {
            let _ = write!(line, " {}", bar(percent));
        }
        if progress.bytes > 0 {
            let _ = write!(line, " {}", bytes(progress.bytes));
        }
    }
    if !status.message.is_empty() && !status.message.starts_with("running step ") {
        let _ = write!(line, " {}", status.message);
    }
    line
}

/// The whole of it.
pub fn describe(restore: &OpenBaoRestore, now: DateTime<Utc>, paint: Paint) -> String {
    let mut out = String::new();
    let status = restore.status.clone().unwrap_or_default();
    let (word, tone) = restore_phase(status.phase);
    let _ = writeln!(out, "{}  restore into {}  {}", restore.name_any(), restore.spec.cluster, paint.on(word, tone));
    if !status.message.is_empty() {
        fact(&mut out, "Message", &status.message, tone, paint);
    }
    if let Some(source) = &status.source {
        let taken = source.taken_at.map(|at| format!(", taken {}", ago(at, now))).unwrap_or_default();
        let size = source.size_bytes.map(|size| format!(" ({})", bytes(size))).unwrap_or_default();
        fact(&mut out, "Snapshot", &format!("{}{size}{taken}", source.key), Tone::Plain, paint);
    }
    if let Some(proof) = &status.proof {
        fact(&mut out, "Proof", &format!("{:?} {}: {}", proof.kind, ago(proof.at, now), proof.text), Tone::Good, paint);
    }
    if let Some(total) = status.durations.as_ref().and_then(|durations| durations.total.clone()) {
        fact(&mut out, "Took", &total, Tone::Plain, paint);
    }
    if let Some(operation) = &status.operation {
        fact(&mut out, "Operation", operation, Tone::Plain, paint);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn before_a_restore_the_snapshots_facts_and_the_loss_are_named() {
        let now = "2026-11-21T12:00:00Z".parse().unwrap();
        let backup: OpenBaoOperation = serde_saphyr::from_str(
            "metadata: {name: fern-backup-1}\nspec: {cluster: fern, operation: Backup}\n\
             status: {phase: Succeeded, startedAt: '2026-11-21T03:00:00Z', artifacts: {key: a.snap, sizeBytes: 2048, sha256: beef}}",
        )
        .unwrap();
        let text = facts("fern", "a.snap", Some(&backup), now, Paint::Off);
        for wanted in ["into cluster fern", "a.snap", "9h00m ago", "2.0 KiB", "beef", "is lost"] {
            assert!(text.contains(wanted), "{wanted}: {text}");
        }
        assert!(facts("fern", "b.snap", None, now, Paint::Off).contains("no operation here knows"));
    }

    #[test]
    fn progress_shows_stage_bar_and_message_on_one_line() {
        let restore: OpenBaoRestore = serde_saphyr::from_str(
            "metadata: {name: back}\nspec: {cluster: fern, source: {latest: true}}\n\
             status: {phase: Validating, stage: Download, message: from the store, progress: {bytes: 1048576, totalBytes: 4194304, percent: 25}}",
        )
        .unwrap();
        let line = progress(&restore, Paint::Off);
        assert!(line.starts_with("Validating Download [#######"), "{line}");
        assert!(line.ends_with(" 25% 1.0 MiB from the store"), "{line}");
    }
}
