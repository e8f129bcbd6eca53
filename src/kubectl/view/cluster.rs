//! Clusters: all of them in a table, one of them on one screen.

use std::fmt::Write as _;

use chrono::{DateTime, Utc};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::ResourceExt;

use super::operation::{current_step, phase_of, progress};
use super::operation_tone;
use crate::api::conditions::{cluster as condition, reason};
use crate::api::{
    ClusterPhase, LockMode, MemberState, OpenBaoCluster, OpenBaoClusterStatus, OpenBaoOperation, OpenBaoRestore,
    RestoreTestStatus,
};
use crate::kubectl::table::{Cell, Paint, Table, Tone, WIDTH, ago, bytes, fact, span, wrap};
use crate::service::cluster::trouble::reasons;

/// One line a cluster.
pub fn list(clusters: &[OpenBaoCluster], namespaces: bool, now: DateTime<Utc>, paint: Paint) -> String {
    let mut header = vec!["NAME", "READY", "PHASE", "VERSION", "LEADER", "LOCK", "LAST BACKUP"];
    if namespaces {
        header.insert(0, "NAMESPACE");
    }
    let mut table = Table::new(header);
    for cluster in clusters {
        let status = cluster.status.clone().unwrap_or_default();
        let phase = status.phase.unwrap_or_default();
        let lock = status.operation_lock.as_ref();
        let backup = status.backup.as_ref().and_then(|backup| backup.last_success);
        let mut cells: Vec<Cell> = vec![
            cluster.name_any().into(),
            status.ready.clone().unwrap_or_default().into(),
            if is_unseen(&status) {
                Cell::toned("not looked at yet", Tone::Bad)
            } else {
                Cell::toned(format!("{phase:?}"), phase_tone(phase))
            },
            status.current_version.clone().unwrap_or_default().into(),
            status.active_leader.clone().map_or_else(|| Cell::toned("none", Tone::Bad), Cell::from),
            lock.map(|lock| format!("{} {}", lock.operation, span(now - lock.acquired_at))).unwrap_or_default().into(),
            backup.map(|at| ago(at, now)).unwrap_or_default().into(),
        ];
        if namespaces {
            cells.insert(0, cluster.namespace().unwrap_or_default().into());
        }
        table.row(cells);
    }
    table.render(paint)
}

fn phase_tone(phase: ClusterPhase) -> Tone {
    match phase {
        ClusterPhase::Running => Tone::Good,
        ClusterPhase::Failed => Tone::Bad,
        ClusterPhase::Initializing
        | ClusterPhase::Upgrading
        | ClusterPhase::BackingUp
        | ClusterPhase::Restoring
        | ClusterPhase::Maintenance => Tone::Warn,
    }
}

/// Everything about one cluster that fits a screen. `operations` and `restores` are its own.
pub fn screen(
    cluster: &OpenBaoCluster,
    operations: &[OpenBaoOperation],
    restores: &[OpenBaoRestore],
    now: DateTime<Utc>,
    paint: Paint,
) -> String {
    let mut out = String::new();
    let status = cluster.status.clone().unwrap_or_default();
    let phase = status.phase.unwrap_or_default();
    let name = format!("{}/{}", cluster.namespace().unwrap_or_default(), cluster.name_any());
    if is_unseen(&status) {
        let _ = writeln!(out, "{name}");
        let nobody = "none has looked at this object yet: does one run, and does it watch this namespace?";
        fact(&mut out, "Operator", nobody, Tone::Bad, paint);
        work(&mut out, operations, restores, now, paint);
        return out;
    }
    let _ = writeln!(out, "{name}  {}", paint.on(&format!("{phase:?}"), phase_tone(phase)));
    overview(&mut out, &status, now, paint);
    lock(&mut out, &status, now, paint);
    backups(&mut out, &status, now, paint);
    work(&mut out, operations, restores, now, paint);
    if let Some(upgrade) = &status.upgrade {
        if let Some(target) = &upgrade.target {
            let step = upgrade.step.as_ref().map(|step| format!(": {step}")).unwrap_or_default();
            fact(&mut out, "Upgrade", &format!("to {target}{step}"), Tone::Warn, paint);
        }
        if let Some(held) = &upgrade.held_target {
            let why = upgrade.held_reason.clone().unwrap_or_default();
            fact(&mut out, "Held back", &format!("{held}: {why}"), Tone::Warn, paint);
        }
        if let Some(half) = upgrade.half_restored.as_ref().filter(|half| half.servers.closed) {
            let text = format!(
                "{} wiped the servers and has not restored them: clients, backups, restores and upgrades are kept away until a \
                 Rollback ends well",
                half.rollback
            );
            fact(&mut out, "Rollback", &text, Tone::Bad, paint);
        }
    }
    members(&mut out, &status, paint);
    concerns(&mut out, &status.conditions, paint);
    out
}

/// Whether nobody has ever told anything about it: then nothing can be said of its servers, its seal and its lock.
fn is_unseen(status: &OpenBaoClusterStatus) -> bool {
    status.phase.is_none() && status.conditions.is_empty()
}

fn overview(out: &mut String, status: &OpenBaoClusterStatus, now: DateTime<Utc>, paint: Paint) {
    let version = status.current_version.clone().unwrap_or_else(|| "not known yet".to_owned());
    let ready = status.ready.clone().unwrap_or_else(|| "none".to_owned());
    fact(out, "OpenBao", &format!("{version}, {ready} ready"), Tone::Plain, paint);
    match (&status.active_leader, status.failure_tolerance) {
        (None, _) => fact(out, "Leader", "none: nobody is served", Tone::Bad, paint),
        (Some(leader), Some(tolerance)) => {
            let may = match tolerance {
                ..=0 => "no other voter may fail".to_owned(),
                1 => "1 more voter may fail".to_owned(),
                more => format!("{more} more voters may fail"),
            };
            let text = format!("{leader}; {may}");
            fact(out, "Leader", &text, if tolerance > 0 { Tone::Plain } else { Tone::Warn }, paint);
        }
        (Some(leader), None) => fact(out, "Leader", leader, Tone::Plain, paint),
    }
    let sealed: Vec<&str> = status
        .members
        .iter()
        .filter(|member| member.state == MemberState::Sealed)
        .map(|member| member.name.as_str())
        .collect();
    let serves = |state: MemberState| matches!(state, MemberState::Active | MemberState::Standby);
    match (status.initialized, sealed.as_slice()) {
        (Some(false), _) => fact(out, "Seal", "not initialised yet", Tone::Warn, paint),
        (_, []) if status.members.iter().any(|member| serves(member.state)) => {
            fact(out, "Seal", "unsealed", Tone::Plain, paint);
        }
        (_, []) => fact(out, "Seal", "not known: no server answers", Tone::Bad, paint),
        (_, sealed) => fact(out, "Seal", &format!("sealed: {}", sealed.join(", ")), Tone::Bad, paint),
    }
    if let Some(tls) = status.conditions.iter().find(|one| one.type_ == condition::TLS_READY) {
        let tone = if tls.status == "True" { Tone::Plain } else { Tone::Bad };
        fact(out, "TLS", if tls.message.is_empty() { &tls.reason } else { &tls.message }, tone, paint);
    }
    if let Some(restore) = &status.pending_restore {
        fact(
            out,
            "Restore",
            &format!("{restore} waits or runs; backups and upgrades start nothing new"),
            Tone::Warn,
            paint,
        );
    }
    let _ = now;
}

fn lock(out: &mut String, status: &OpenBaoClusterStatus, now: DateTime<Utc>, paint: Paint) {
    let Some(lock) = &status.operation_lock else {
        fact(out, "Lock", "free", Tone::Plain, paint);
        return;
    };
    let mode = match lock.mode {
        LockMode::Held => "held",
        LockMode::Parked => "parked",
    };
    let mut text = format!("{mode} for {} by {} for {}", lock.operation, lock.holder, span(now - lock.acquired_at));
    if let Some(operation) = &lock.operation_ref {
        let _ = write!(text, " (operation {operation})");
    }
    if !lock.message.is_empty() {
        let _ = write!(text, ": {}", lock.message);
    }
    fact(out, "Lock", &text, Tone::Warn, paint);
}

fn backups(out: &mut String, status: &OpenBaoClusterStatus, now: DateTime<Utc>, paint: Paint) {
    let Some(backup) = &status.backup else {
        fact(out, "Backup", "none yet", Tone::Plain, paint);
        return;
    };
    let (mut text, mut tone) = match backup.last_success {
        None => ("none yet".to_owned(), Tone::Warn),
        Some(at) => (format!("last {}", ago(at, now)), Tone::Plain),
    };
    if let Some(size) = backup.last_size_bytes {
        let _ = write!(text, ", {}", bytes(size));
    }
    if let Some(took) = &backup.last_duration {
        let _ = write!(text, " in {took}");
    }
    if let Some(next) = backup.next_run {
        let _ = write!(text, "; next {}", due(next, now));
    }
    if backup.consecutive_failures > 0 {
        let _ = write!(text, "; {} failed since", backup.consecutive_failures);
        if let Some(why) = &backup.last_failure_message {
            let _ = write!(text, ": {why}");
        }
        tone = Tone::Bad;
    }
    if let Some(why) = &backup.last_verify_failure
        && !text.contains(why)
    {
        let _ = write!(text, "; {why}");
        tone = Tone::Bad;
    }
    fact(out, "Backup", &text, tone, paint);
    if let Some(key) = &backup.last_key {
        fact(out, "", key, Tone::Faint, paint);
    }
    if let Some(why) = &backup.last_retention_failure {
        fact(out, "Retention", why, Tone::Warn, paint);
    }
    if let Some(skip) = &backup.last_skip {
        let at = skip.at.map(|at| ago(at, now)).unwrap_or_default();
        let why = if skip.message.is_empty() { &skip.reason } else { &skip.message };
        fact(out, "Skipped", &format!("{at}: {why}"), Tone::Warn, paint);
    }
    if let Some(test) = &backup.restore_test {
        restore_test(out, test, now, paint);
    }
}

/// Whether a backup came back when that was last tried.
fn restore_test(out: &mut String, test: &RestoreTestStatus, now: DateTime<Utc>, paint: Paint) {
    let mut text = match test.last_success {
        None => "no backup was restored as a test yet".to_owned(),
        Some(at) => format!("a backup came back {}", ago(at, now)),
    };
    if let Some(took) = &test.last_duration {
        let _ = write!(text, " in {took}");
    }
    if let Some(next) = test.next {
        let _ = write!(text, "; next {}", due(next, now));
    }
    let mut tone = Tone::Plain;
    if let Some(why) = &test.last_failure_message {
        let when = test.last_failure.map(|at| format!(" {}", ago(at, now))).unwrap_or_default();
        let _ = write!(text, "; failed{when}: {why}");
        tone = Tone::Bad;
    }
    fact(out, "Tested", &text, tone, paint);
    if let Some(key) = &test.last_key {
        fact(out, "", key, Tone::Faint, paint);
    }
}

fn due(next: DateTime<Utc>, now: DateTime<Utc>) -> String {
    if next > now { format!("in {}", span(next - now)) } else { "due now".to_owned() }
}

fn work(
    out: &mut String,
    operations: &[OpenBaoOperation],
    restores: &[OpenBaoRestore],
    now: DateTime<Utc>,
    paint: Paint,
) {
    for operation in operations.iter().filter(|operation| !phase_of(operation).is_terminal()) {
        let phase = phase_of(operation);
        let status = operation.status.clone().unwrap_or_default();
        let mut text = format!("{} {} {}", operation.name_any(), phase.as_str(), progress(&status.steps));
        if let Some(step) = current_step(&status.steps) {
            let since = step.started_at.map(|at| format!(" for {}", span(now - at))).unwrap_or_default();
            let _ = write!(text, " {}{since}", step.name);
        }
        if let Some(message) = status.message.filter(|message| !message.is_empty()) {
            let _ = write!(text, ": {message}");
        }
        fact(out, "Operation", text.trim(), operation_tone(phase), paint);
    }
    let waiting = |restore: &&OpenBaoRestore| restore.status.as_ref().is_none_or(|status| !status.phase.is_terminal());
    for restore in restores.iter().filter(waiting) {
        let text = format!("{} {}", restore.name_any(), super::restore::progress(restore, Paint::Off));
        fact(out, "Restore", &text, Tone::Warn, paint);
    }
}

fn members(out: &mut String, status: &OpenBaoClusterStatus, paint: Paint) {
    if status.members.is_empty() {
        return;
    }
    let mut table = Table::new(["MEMBER", "STATE", "VERSION", "VOTER", "APPLIED"]);
    for member in &status.members {
        let tone = match member.state {
            MemberState::Active => Tone::Good,
            MemberState::Standby => Tone::Plain,
            MemberState::Joining => Tone::Warn,
            MemberState::Sealed | MemberState::Down => Tone::Bad,
        };
        table.row([
            member.name.clone().into(),
            Cell::toned(format!("{:?}", member.state), tone),
            member.version.clone().unwrap_or_default().into(),
            member.voter.map(|voter| if voter { "yes" } else { "no" }).unwrap_or_default().into(),
            member.applied_index.map(|index| index.to_string()).unwrap_or_default().into(),
        ]);
    }
    out.push('\n');
    out.push_str(&table.without_empty().render(paint));
}

/// Conditions in the state that needs a look, with their whole message.
fn concerns(out: &mut String, conditions: &[Condition], paint: Paint) {
    let mut heading = "\n";
    for one in conditions.iter().filter(|one| needs_a_look(one)) {
        let name = paint.on(&format!("{}={}", one.type_, one.status), Tone::Warn);
        let _ = writeln!(out, "{heading}{name}  {}", one.reason);
        heading = "";
        // Never cut: the words are what a person needs.
        for line in wrap(&one.message, WIDTH - 2) {
            let _ = writeln!(out, "  {line}");
        }
    }
}

/// What only tells what runs, or who holds the lock, is shown above already. What waits, or was refused, is told nowhere else.
fn needs_a_look(one: &Condition) -> bool {
    match one.type_.as_str() {
        condition::DEGRADED | condition::SEALED => one.status != "False",
        condition::UPGRADING => one.status != "True" && one.reason != reason::IDLE,
        condition::PROGRESSING if one.status == "True" => {
            [reason::WAITING, reasons::DELETION_WAITS].contains(&one.reason.as_str())
        }
        condition::PROGRESSING => one.reason != reason::RECONCILED,
        condition::BACKING_UP | condition::RESTORING | condition::OPERATION_LOCK => false,
        // Soon nobody can mend it any more.
        condition::VALID => one.status != "True" || one.reason == reasons::NOBODY_CAN_LOG_IN,
        _ => one.status != "True",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kubectl::table::length;

    fn now() -> DateTime<Utc> {
        "2026-11-21T12:00:00Z".parse().unwrap()
    }

    fn fern() -> OpenBaoCluster {
        serde_saphyr::from_str(
            "metadata: {name: fern, namespace: vault}\n\
             spec: {version: 2.7.2, replicas: 3, storage: {size: 1Gi}, tls: {enabled: true}}\n\
             status:\n  phase: BackingUp\n  currentVersion: 2.7.2\n  activeLeader: fern-1\n  ready: 3/3\n  failureTolerance: 1\n  initialized: true\n\
             \x20 operationLock: {operation: Backup, holder: openbaocluster/backup, holderUID: u, operationRef: fern-backup-1, message: taking a snapshot,\n\
             \x20   mode: Held, fence: 7, acquiredAt: '2026-11-21T11:59:48Z', renewedAt: '2026-11-21T11:59:48Z'}\n\
             \x20 backup: {lastSuccess: '2026-11-21T03:00:00Z', lastSizeBytes: 12897485, lastDuration: 3.2s, nextRun: '2026-11-22T03:00:00Z', lastKey: a/b.snap}\n\
             \x20 members:\n  - {name: fern-0, state: Standby, version: 2.7.2, voter: true}\n  - {name: fern-1, state: Active, version: 2.7.2, voter: true}\n\
             \x20 - {name: fern-2, state: Sealed, version: 2.7.2}\n\
             \x20 conditions:\n  - {type: Degraded, status: 'True', reason: Sealed, message: fern-2 is sealed, lastTransitionTime: '2026-11-21T11:00:00Z'}\n\
             \x20 - {type: Available, status: 'True', reason: Serving, message: '', lastTransitionTime: '2026-11-21T11:00:00Z'}\n",
        )
        .unwrap()
    }

    #[test]
    fn one_screen_names_leader_seal_lock_backup_operation_and_members() {
        let running: OpenBaoOperation = serde_saphyr::from_str(
            "metadata: {name: fern-backup-1}\nspec: {cluster: fern, operation: Backup}\n\
             status: {phase: Running, steps: [{name: Gate, state: completed}, {name: Snapshot, state: running, startedAt: '2026-11-21T11:59:50Z'}]}",
        )
        .unwrap();
        let text = screen(&fern(), &[running], &[], now(), Paint::Off);
        for wanted in [
            "vault/fern  BackingUp",
            "fern-1; 1 more voter may fail",
            "sealed: fern-2",
            "held for Backup by openbaocluster/backup for 12s (operation fern-backup-1): taking a",
            "last 9h00m ago, 12.3 MiB in 3.2s; next in 15h00m",
            "fern-backup-1 Running 1/2 Snapshot for 10s",
            "fern-2  Sealed",
            "Degraded=True  Sealed\n  fern-2 is sealed",
        ] {
            assert!(text.contains(wanted), "{wanted}:\n{text}");
        }
        assert!(!text.contains("Available"), "what is fine is not listed:\n{text}");
        assert!(text.lines().all(|line| length(line) <= WIDTH), "{text}");
    }

    #[test]
    fn what_waits_or_was_refused_is_shown_with_its_way_out_and_what_runs_is_not() {
        let shown = |type_: &str, status: &str, why: &str| {
            let mut cluster = fern();
            let one = serde_json::json!({"type": type_, "status": status, "reason": why, "message": "add a target",
                "lastTransitionTime": "2026-11-21T11:00:00Z"});
            cluster.status.as_mut().unwrap().conditions = vec![serde_json::from_value(one).unwrap()];
            let text = screen(&cluster, &[], &[], now(), Paint::Off);
            text.contains(&format!("{type_}={status}  {why}\n  add a target"))
        };
        for (type_, status, why, wanted) in [
            ("Upgrading", "False", "PrerequisitesMissing", true),
            ("Upgrading", "False", "Unfinished", true),
            ("Upgrading", "False", "Waiting", true),
            ("Upgrading", "False", "Idle", false),
            ("Upgrading", "True", "InProgress", false),
            ("Progressing", "True", "Waiting", true),
            ("Progressing", "True", "DeletionWaits", true),
            ("Progressing", "True", "Restarting", false),
            ("Progressing", "False", "ApplyFailed", true),
            ("Progressing", "False", "Reconciled", false),
            ("Restoring", "True", "InProgress", false),
            ("OpenBaoSealed", "Unknown", "Waiting", true),
            ("Available", "True", "Ready", false),
            ("Valid", "True", "EvenReplicas", false),
            ("Valid", "True", "NobodyCanLogIn", true),
        ] {
            assert_eq!(shown(type_, status, why), wanted, "{type_}={status} {why}");
        }
    }

    #[test]
    fn servers_that_a_rollback_left_half_restored_are_called_so() {
        let mut cluster = fern();
        let half = serde_json::json!({"halfRestored": {"rollback": "fern-back", "wipedAt": "2026-11-21T11:00:00Z",
            "servers": {"count": 1, "initialize": false, "closed": true}}});
        cluster.status.as_mut().unwrap().upgrade = Some(serde_json::from_value(half).unwrap());
        let text = screen(&cluster, &[], &[], now(), Paint::Off);
        assert!(text.contains("fern-back wiped the servers"), "{text}");
        assert!(text.lines().all(|line| length(line) <= WIDTH), "{text}");
    }

    #[test]
    fn a_retention_that_left_something_is_shown() {
        let mut cluster = fern();
        let backup = cluster.status.as_mut().unwrap().backup.as_mut().unwrap();
        backup.last_retention_failure = Some("fern-backup-1: 1 of the backups could not be removed".into());
        let text = screen(&cluster, &[], &[], now(), Paint::Off);
        assert!(text.contains("Retention  fern-backup-1: 1 of the backups could not be removed"), "{text}");
    }

    #[test]
    fn the_last_test_of_a_backup_is_shown_with_its_key_or_with_the_reason_why_it_failed() {
        let shown = |test: serde_json::Value| {
            let mut cluster = fern();
            let backup = cluster.status.as_mut().unwrap().backup.as_mut().unwrap();
            backup.restore_test = Some(serde_json::from_value(test).unwrap());
            screen(&cluster, &[], &[], now(), Paint::Off)
        };
        let passed = serde_json::json!({"lastSuccess": "2026-11-21T06:00:00Z", "lastDuration": "41s", "lastKey": "a/tested.snap",
            "next": "2026-11-28T06:00:00Z"});
        let text = shown(passed.clone());
        assert!(text.contains("Tested     a backup came back 6h00m ago in 41s; next in 6d\n"), "{text}");
        assert!(text.contains("\n           a/tested.snap\n") && !text.contains("failed"), "{text}");
        let mut failed = passed;
        failed["lastFailure"] = "2026-11-21T11:00:00Z".into();
        failed["lastFailureMessage"] = "secret/data/canary is not there".into();
        let text = shown(failed);
        assert!(text.contains("failed 60m ago:") && text.contains("secret/data/canary"), "{text}");
        assert!(text.lines().all(|line| length(line) <= WIDTH), "{text}");
        let text = shown(serde_json::json!({"next": "2026-11-21T11:00:00Z"}));
        assert!(text.contains("no backup was restored as a test yet; next due now"), "{text}");
    }

    #[test]
    fn a_cluster_that_no_operator_has_looked_at_says_so_and_nothing_else() {
        let mut cluster = fern();
        cluster.status = None;
        let text = screen(&cluster, &[], &[], now(), Paint::Off);
        assert!(text.contains("none has looked at this object yet"), "{text}");
        for unknown in ["unsealed", "free", "Initializing"] {
            assert!(!text.contains(unknown), "{unknown}:\n{text}");
        }
        assert!(text.lines().all(|line| length(line) <= WIDTH), "{text}");
        assert!(list(&[cluster], false, now(), Paint::Off).contains("not looked at yet"));
    }

    #[test]
    fn servers_that_do_not_answer_are_not_called_unsealed() {
        let mut cluster = fern();
        for member in &mut cluster.status.as_mut().unwrap().members {
            member.state = MemberState::Down;
        }
        let text = screen(&cluster, &[], &[], now(), Paint::Off);
        assert!(text.contains("not known: no server answers") && !text.contains("unsealed"), "{text}");
        cluster.status.as_mut().unwrap().members[0].state = MemberState::Standby;
        assert!(screen(&cluster, &[], &[], now(), Paint::Off).contains("unsealed"));
    }

    #[test]
    fn the_list_has_one_line_a_cluster() {
        let text = list(&[fern()], true, now(), Paint::Off);
        assert_eq!(text.lines().count(), 2);
        assert!(text.contains("vault") && text.contains("Backup 12s") && text.contains("9h00m ago"), "{text}");
        assert!(text.lines().all(|line| length(line) <= WIDTH), "{text}");
    }
}
