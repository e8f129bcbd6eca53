//! Lineage: which operations one follows from, and what is refused about it. Pure.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};

use super::manager::Refusal;
use crate::api::operation::{OpenBaoOperation, OpenBaoOperationStatus, OperationKind, OperationPhase, StepState};

/// What an upgrade's journal calls the key of the backup that was taken before it.
pub const BACKUP_KEY: &str = "backupKey";
/// What it calls the operation that took that backup.
pub const BACKUP: &str = "backup";
/// What a rollback's journal calls the step that lets the others join the server that was restored: before it, what that one holds
/// is proven.
pub const JOIN_OTHERS: &str = "JoinOthers";

/// One operation as a node of the lineage.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Its cluster.
    pub cluster: String,
    /// What it does.
    pub kind: OperationKind,
    /// Where it stands.
    pub phase: OperationPhase,
    /// It is past its point of no return.
    pub past: bool,
    /// When it ended.
    pub ended_at: Option<DateTime<Utc>>,
    /// The operation it continues.
    pub parent: Option<String>,
    /// The operation it turns back.
    pub rollback_of: Option<String>,
}

impl From<&OpenBaoOperation> for Node {
    fn from(op: &OpenBaoOperation) -> Self {
        let (lineage, status) = (op.spec.lineage.as_ref(), op.status.as_ref());
        let named = lineage.and_then(|lineage| lineage.parent_operation.clone());
        Self {
            name: op.metadata.name.clone().unwrap_or_default(),
            cluster: op.spec.cluster.clone(),
            kind: op.spec.operation,
            phase: op.phase(),
            past: status.is_some_and(|status| status.point_of_no_return_at.is_some()),
            ended_at: status.and_then(|status| status.ended_at),
            parent: named.or_else(|| status.and_then(|status| status.parent_operation.clone())),
            rollback_of: lineage.and_then(|lineage| lineage.rollback_of.clone()),
        }
    }
}

/// The parent of `me` among `others` (all operations of the namespace but itself), or why its lineage is refused.
pub fn judge(me: &Node, others: &[Node]) -> Result<Option<String>, Refusal> {
    let refused = |message: String| Err(Refusal::failed("InvalidLineage", message));
    let find = |name: &str| others.iter().find(|node| node.name == name);
    for link in me.parent.iter().chain(&me.rollback_of) {
        if *link == me.name {
            return refused(format!("operation {link} refers to itself in lineage"));
        }
        if let Some(node) = find(link)
            && node.cluster != me.cluster
        {
            return refused(format!("lineage names operation {link}, which is about cluster {}", node.cluster));
        }
    }
    if let Some(target) = &me.rollback_of {
        let Some(node) = find(target) else {
            return refused(format!("lineage.rollbackOf names operation {target}, which does not exist"));
        };
        if !turns_back(me.kind, node.kind) {
            return refused(format!(
                "lineage.rollbackOf names operation {target} of kind {}, which a {} does not turn back: {}",
                node.kind.as_str(),
                me.kind.as_str(),
                way_back(node.kind)
            ));
        }
        if !node.phase.is_terminal() {
            return refused(if node.past {
                format!(
                    "operation {target} has not ended, and is past its point of no return: roll it back when it has. A step that \
                     only watches, as Soak does, is left out by a Skip"
                )
            } else {
                format!("operation {target} has not ended: cancel it instead of rolling it back")
            });
        }
        if node.phase == OperationPhase::RolledBack {
            return refused(format!("operation {target} was rolled back already"));
        }
        let rival = others.iter().find(|other| {
            other.rollback_of.as_ref() == Some(target)
                && turns_back(other.kind, node.kind)
                && (!other.phase.is_terminal() || other.phase == OperationPhase::Succeeded)
        });
        if let Some(rival) = rival {
            return refused(format!("operation {} already rolls back {target}; that can be done once", rival.name));
        }
    }
    if let Some(name) = circle(me, others) {
        return refused(format!("lineage leads from {} through {name} back to itself", me.name));
    }
    let newest = || {
        others
            .iter()
            .filter(|node| node.cluster == me.cluster && node.phase == OperationPhase::Succeeded)
            .max_by_key(|node| (node.ended_at, node.name.clone()))
            .map(|node| node.name.clone())
    };
    Ok(me.parent.clone().or_else(newest))
}

/// Whether an operation of kind `by` that ends well has turned back the one of kind `turned` that it names. One that has done
/// anything else would close the true way back, and the backup for it would go.
pub fn turns_back(by: OperationKind, turned: OperationKind) -> bool {
    match turned {
        OperationKind::Upgrade | OperationKind::Restore | OperationKind::Rollback => by == OperationKind::Rollback,
        OperationKind::Workflow => by == OperationKind::Workflow,
        OperationKind::Backup | OperationKind::RestoreTest | OperationKind::DryRun => false,
    }
}

/// What to create instead.
fn way_back(turned: OperationKind) -> &'static str {
    match turned {
        OperationKind::Upgrade => "create an OpenBaoOperation with operation: Rollback, or leave rollbackOf out",
        OperationKind::Workflow => "create an OpenBaoOperation with operation: Workflow, or leave rollbackOf out",
        OperationKind::Restore | OperationKind::Rollback => {
            "create an OpenBaoRestore of the backup that was taken before it, or leave rollbackOf out"
        }
        OperationKind::Backup | OperationKind::RestoreTest | OperationKind::DryRun => {
            "it left nothing to turn back, so leave rollbackOf out"
        }
    }
}

/// A node whose links lead back to `me`. Links into nothing end there: an old parent may be pruned.
fn circle(me: &Node, others: &[Node]) -> Option<String> {
    let mut ahead: Vec<&String> = me.parent.iter().chain(&me.rollback_of).collect();
    let mut seen = BTreeSet::new();
    while let Some(name) = ahead.pop() {
        if !seen.insert(name) {
            continue;
        }
        let Some(node) = others.iter().find(|node| node.name == *name) else { continue };
        if node.parent.iter().chain(&node.rollback_of).any(|link| *link == me.name) {
            return Some(node.name.clone());
        }
        ahead.extend(node.parent.iter().chain(&node.rollback_of));
    }
    None
}

/// The upgrades of one cluster, among `records`, whose way back has to stay open: each that has not ended, and of those
/// that came past their point of no return the last one that nobody rolled back. An earlier one can be rolled back only
/// when the later one was, and one that was undone before that point needs no backup any more.
pub fn revertible<'a>(records: impl Iterator<Item = &'a OpenBaoOperation> + Clone) -> Vec<&'a OpenBaoOperation> {
    let past = |record: &OpenBaoOperation| {
        record
            .status
            .as_ref()
            .is_some_and(|status| status.point_of_no_return_at.is_some() && status.phase != OperationPhase::RolledBack)
    };
    let made = |record: &OpenBaoOperation| record.metadata.creation_timestamp.as_ref().map(|at| at.0);
    let upgrades = records.filter(|record| record.spec.operation == OperationKind::Upgrade);
    let last = upgrades.clone().filter(|record| past(record)).map(made).max();
    upgrades.filter(|record| !record.has_ended() || (past(record) && Some(made(record)) == last)).collect()
}

/// The rollback that wiped the servers and did not end well, or has not ended yet: what they hold is nobody's data until
/// another one ends well. One that fails before it wiped anything changes nothing about that, and one that fails when the data
/// was proven leaves nothing but members that are to join.
pub fn unfinished_rollback<'a>(records: impl Iterator<Item = &'a OpenBaoOperation>) -> Option<&'a OpenBaoOperation> {
    let past = |record: &OpenBaoOperation| record.status.as_ref()?.point_of_no_return_at;
    records
        .filter(|record| record.spec.operation == OperationKind::Rollback && past(record).is_some())
        .max_by_key(|record| past(record))
        .filter(|record| record.phase() != OperationPhase::Succeeded && !has_proven(record))
}

/// Whether it is a rollback that ended with the old data back and proven, whatever it failed at afterwards.
pub fn has_proven(record: &OpenBaoOperation) -> bool {
    record.has_ended() && record.status.as_ref().is_some_and(|status| is_proven(record.spec.operation, status))
}

/// Whether a rollback has the old data back, and proven.
fn is_proven(kind: OperationKind, status: &OpenBaoOperationStatus) -> bool {
    kind == OperationKind::Rollback
        && status.point_of_no_return_at.is_some()
        && status.steps.iter().any(|step| step.name == JOIN_OTHERS && step.state != StepState::Pending)
}

/// Whether what ends like this has turned back the operation that it names: it ended well, or the data is back, which another
/// rollback of the same would wipe once more, with all that was written since.
pub fn has_turned_back(kind: OperationKind, status: &OpenBaoOperationStatus, ending: OperationPhase) -> bool {
    ending == OperationPhase::Succeeded || is_proven(kind, status)
}

/// What a step of `record` put out under `key`, whichever step that was.
pub fn output<'a>(record: &'a OpenBaoOperation, key: &str) -> Option<&'a str> {
    let steps = &record.status.as_ref()?.steps;
    steps.iter().find_map(|step| step.output.get(key)).map(String::as_str).filter(|value| !value.is_empty())
}

/// A moment that a step of `record` put out under `key`, and never later than the end of that step. A step may tell it by another
/// clock, which can be ahead by days; the operator's own is what everything else goes by.
pub fn moment(record: &OpenBaoOperation, key: &str) -> Option<DateTime<Utc>> {
    let steps = &record.status.as_ref()?.steps;
    let (told, step) = steps.iter().find_map(|step| Some((step.output.get(key)?, step)))?;
    let told: DateTime<Utc> = told.parse().ok()?;
    Some(step.completed_at.map_or(told, |end| told.min(end)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, phase: OperationPhase, minute: i64) -> Node {
        Node {
            name: name.into(),
            cluster: "prod".into(),
            phase,
            ended_at: DateTime::from_timestamp(minute * 60, 0),
            ..Node::default()
        }
    }

    fn me(parent: Option<&str>, rollback_of: Option<&str>) -> Node {
        Node {
            parent: parent.map(str::to_owned),
            rollback_of: rollback_of.map(str::to_owned),
            ..node("me", OperationPhase::Pending, 0)
        }
    }

    fn refusal(me: &Node, others: &[Node]) -> String {
        judge(me, others).unwrap_err().message
    }

    use OperationPhase::{Failed, RolledBack, Running, Succeeded};

    #[test]
    fn the_parent_is_the_newest_success_of_the_cluster_unless_named() {
        let mut elsewhere = node("c", Succeeded, 9);
        elsewhere.cluster = "other".into();
        let others = [node("a", Succeeded, 1), node("b", Succeeded, 2), elsewhere, node("d", Failed, 8)];
        assert_eq!(judge(&me(None, None), &others), Ok(Some("b".into())));
        assert_eq!(judge(&me(Some("a"), None), &others), Ok(Some("a".into())));
        assert_eq!(judge(&me(None, None), &[]), Ok(None));
    }

    #[test]
    fn an_ordinary_parent_may_be_gone_but_what_is_rolled_back_must_exist() {
        assert_eq!(judge(&me(Some("pruned"), None), &[]), Ok(Some("pruned".into())));
        assert!(refusal(&me(None, Some("pruned")), &[]).contains("does not exist"));
    }

    #[test]
    fn references_to_itself_to_other_clusters_and_in_circles_are_refused() {
        assert!(refusal(&me(Some("me"), None), &[]).contains("itself"));
        assert!(refusal(&me(None, Some("me")), &[]).contains("itself"));
        let mut elsewhere = node("a", Succeeded, 1);
        elsewhere.cluster = "other".into();
        assert!(refusal(&me(Some("a"), None), std::slice::from_ref(&elsewhere)).contains("other"));
        let mut a = node("a", Succeeded, 1);
        a.parent = Some("b".into());
        let mut b = node("b", Succeeded, 1);
        b.parent = Some("me".into());
        assert!(refusal(&me(Some("a"), None), &[a.clone(), b.clone()]).contains("back to itself"));
        // A circle that does not contain it is somebody else's, and ends.
        b.parent = Some("a".into());
        assert!(judge(&me(Some("a"), None), &[a, b]).is_ok());
    }

    #[test]
    fn an_operation_is_rolled_back_once_and_only_after_its_end() {
        assert_eq!(judge(&me(None, Some("a")), &[node("a", Failed, 1)]), Ok(None));
        assert!(refusal(&me(None, Some("a")), &[node("a", Running, 1)]).contains("has not ended"));
        assert!(refusal(&me(None, Some("a")), &[node("a", RolledBack, 1)]).contains("already"));
        for phase in [Running, Succeeded] {
            let mut rival = node("b", phase, 2);
            rival.rollback_of = Some("a".into());
            assert!(refusal(&me(None, Some("a")), &[node("a", Succeeded, 1), rival]).contains("once"), "{phase:?}");
        }
        let mut failed = node("b", Failed, 2);
        failed.rollback_of = Some("a".into());
        assert!(judge(&me(None, Some("a")), &[node("a", Succeeded, 1), failed]).is_ok(), "a failed attempt counts not");
        let mut other = node("b", Succeeded, 2);
        (other.kind, other.rollback_of) = (OperationKind::Backup, Some("a".into()));
        assert!(judge(&me(None, Some("a")), &[node("a", Succeeded, 1), other]).is_ok(), "it turned nothing back");
    }

    #[test]
    fn only_a_rollback_turns_an_upgrade_back() {
        use OperationKind::{Backup, Restore, Rollback, Upgrade, Workflow};
        let judged = |by: OperationKind, turned: OperationKind| {
            let (me, target) =
                (Node { kind: by, ..me(None, Some("a")) }, Node { kind: turned, ..node("a", Failed, 1) });
            judge(&me, &[target])
        };
        for (by, turned) in [(Rollback, Upgrade), (Workflow, Workflow)] {
            assert_eq!(judged(by, turned), Ok(None), "{by:?} {turned:?}");
        }
        for (by, turned, instead) in [
            (Workflow, Upgrade, "operation: Rollback"),
            (Backup, Upgrade, "operation: Rollback"),
            (Restore, Upgrade, "operation: Rollback"),
            (Rollback, Workflow, "operation: Workflow"),
            (Workflow, Restore, "OpenBaoRestore"),
            (Workflow, Backup, "leave rollbackOf out"),
        ] {
            let refusal = judged(by, turned).unwrap_err();
            assert_eq!(refusal.reason, "InvalidLineage");
            assert!(refusal.message.contains(instead), "{by:?} {turned:?}: {refusal}");
        }
    }

    #[test]
    fn nobody_is_told_to_cancel_what_is_past_its_point_of_no_return() {
        let words = |past| refusal(&me(None, Some("a")), &[Node { past, ..node("a", Running, 1) }]);
        assert!(words(false).contains("cancel it"), "{}", words(false));
        assert!(!words(true).contains("cancel") && words(true).contains("Skip"), "{}", words(true));
    }

    #[test]
    fn a_rollback_that_failed_after_its_data_was_proven_is_not_unfinished() {
        let rollback = |join: &str, phase: &str| -> OpenBaoOperation {
            serde_json::from_value(serde_json::json!({
                "apiVersion": "openbao.org/v1alpha1", "kind": "OpenBaoOperation", "metadata": {"name": "back"},
                "spec": {"cluster": "prod", "operation": "Rollback"},
                "status": {"phase": phase, "pointOfNoReturnAt": "2026-11-21T13:00:00Z",
                    "steps": [{"name": "StartFirst", "state": "completed"}, {"name": JOIN_OTHERS, "state": join}]},
            }))
            .unwrap()
        };
        let unfinished =
            |join: &str, phase: &str| unfinished_rollback(std::iter::once(&rollback(join, phase))).is_some();
        assert!(unfinished("pending", "Failed"), "nobody knows what the first one holds");
        assert!(!unfinished("failed", "Failed"), "the others are all that is missing");
        assert!(unfinished("running", "Running"), "it is at work");
    }

    #[test]
    fn a_rollback_that_failed_after_its_data_was_proven_has_turned_its_upgrade_back_and_no_other_one_follows() {
        use OperationKind::{Rollback, Upgrade};
        let status = |join: &str, past: bool| -> OpenBaoOperationStatus {
            serde_json::from_value(serde_json::json!({
                "pointOfNoReturnAt": past.then_some("2026-11-21T13:00:00Z"), "steps": [{"name": JOIN_OTHERS, "state": join}],
            }))
            .unwrap()
        };
        let turned = |kind, join: &str, past, ending| has_turned_back(kind, &status(join, past), ending);
        assert!(turned(Rollback, "failed", true, Failed));
        assert!(!turned(Rollback, "pending", true, Failed), "nobody knows what the first one holds");
        assert!(!turned(Rollback, "pending", false, Failed), "it began nothing");
        assert!(!turned(Upgrade, "failed", true, Failed));
        assert!(turned(Rollback, "completed", true, Succeeded));
        // As it stands then, whether the rollback's own record is kept or deleted.
        let mut failed = node("back", Failed, 2);
        failed.rollback_of = Some("a".into());
        for others in [vec![node("a", RolledBack, 1), failed], vec![node("a", RolledBack, 1)]] {
            assert!(refusal(&me(None, Some("a")), &others).contains("rolled back already"));
        }
    }

    #[test]
    fn only_the_last_upgrade_past_its_point_of_no_return_and_live_ones_can_be_turned_back() {
        let upgrade = |name: &str, minute: u32, phase: &str, past: bool| -> OpenBaoOperation {
            serde_json::from_value(serde_json::json!({
                "apiVersion": "openbao.org/v1alpha1", "kind": "OpenBaoOperation",
                "metadata": {"name": name, "creationTimestamp": format!("2026-11-21T12:{minute:02}:00Z")},
                "spec": {"cluster": "prod", "operation": "Upgrade"},
                "status": {"phase": phase, "pointOfNoReturnAt": past.then_some("2026-11-21T13:00:00Z")},
            }))
            .unwrap()
        };
        let names = |records: &[OpenBaoOperation]| -> Vec<String> {
            revertible(records.iter()).into_iter().filter_map(|record| record.metadata.name.clone()).collect()
        };
        let first = upgrade("first", 1, "Succeeded", true);
        assert_eq!(names(std::slice::from_ref(&first)), ["first"]);
        assert_eq!(names(&[first.clone(), upgrade("undone", 2, "Failed", false)]), ["first"]);
        assert_eq!(names(&[first.clone(), upgrade("second", 2, "Failed", true)]), ["second"]);
        assert_eq!(names(&[first.clone(), upgrade("second", 2, "RolledBack", true)]), ["first"]);
        assert_eq!(names(&[first, upgrade("second", 2, "Running", false)]), ["first", "second"]);
    }
}
