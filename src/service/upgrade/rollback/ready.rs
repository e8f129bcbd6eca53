//! Whether a rollback that was planned may still begin. It may have waited for hours, for its download and for the lock, and what it
//! is about may be another thing by then. Pure.

use super::{
    super::{asked, request},
    judge, plan,
};
use crate::{
    api::{OpenBaoCluster, OpenBaoOperation, OpenBaoRestore, OperationKind},
    service::{
        cluster::{facts::MAX_MEMBERS, names},
        opslifecycle::{Refusal, RetryClass, pending},
    },
};
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube::ResourceExt;
use std::{collections::BTreeMap, sync::Arc};

/// An upgrade that has not ended. Where it leads, and with it what a rollback means, is known when it has.
pub fn upgrade_at_work(all: &[Arc<OpenBaoOperation>]) -> Option<String> {
    let lives = |other: &&Arc<OpenBaoOperation>| other.spec.operation == OperationKind::Upgrade && !other.has_ended();
    all.iter().find(lives).map(|other| other.name_any())
}

/// Why it must not begin any more, or not yet: the way back is another one, or the cluster runs something else than what the plan
/// says it comes from. Until the first wipe the servers would be started with that again.
pub fn still_from_here(
    op: &OpenBaoOperation,
    cluster: &OpenBaoCluster,
    all: &[Arc<OpenBaoOperation>],
) -> Result<(), Refusal> {
    judge::way(cluster, op, all)
        .map_err(|refusal| Refusal { message: format!("{}. Nothing was changed", refusal.message), ..refusal })?;
    let Some(from) = request::origin(op) else {
        return Err(Refusal::failed("PlanUnreadable", "the operation's inputs name no versions"));
    };
    let name = cluster.name_any();
    let Some(runs) = cluster.status.as_ref().and_then(|status| status.upgrade.as_ref()?.directive.as_ref()) else {
        let message = format!("OpenBaoCluster {name} does not say yet what it runs");
        return Err(Refusal::wait(RetryClass::ProgressPoll, "VersionUnknown", message));
    };
    if asked::is_same(runs, &from) {
        return Ok(());
    }
    let message = format!(
        "this rollback goes from {} ({}) and OpenBaoCluster {name} runs {} ({}) by now: nothing was changed. If it is still \
         wanted, create it again",
        from.version, from.image, runs.version, runs.image
    );
    Err(Refusal::failed("NotFromHere", message))
}

/// The announced restore that goes first: what is restored after a rollback was meant for what ran before it. Servers that an earlier
/// rollback left half restored take no restore, so there the restore waits for this one.
pub fn restore_before(restores: &[Arc<OpenBaoRestore>], cluster: &OpenBaoCluster) -> Option<String> {
    pending(restores, cluster).filter(|_| cluster.left_half_restored().is_none())
}

/// The UID of a claim that is there, and stays: under its name may lie another one than was seen before.
pub fn stays(claim: Option<&PersistentVolumeClaim>) -> Option<String> {
    claim.filter(|claim| claim.metadata.deletion_timestamp.is_none())?.uid()
}

/// The data claims that are there and stay, name by name with their UIDs: those that are planned to be wiped, and those that are
/// found later. One on its way out goes with its pod, and beyond the most members there can be no server is started.
pub fn data_claims<'a>(
    cluster: &str,
    claims: impl IntoIterator<Item = &'a PersistentVolumeClaim>,
) -> BTreeMap<String, String> {
    let is_members = |claim: &&PersistentVolumeClaim| {
        names::ordinal_of_claim(cluster, &claim.name_any()).is_some_and(|ordinal| ordinal < MAX_MEMBERS)
    };
    let members = claims.into_iter().filter(is_members);
    members.filter_map(|claim| Some((claim.name_any(), stays(Some(claim))?))).collect()
}

/// How the volumes there are (see [`data_claims`]) differ from those that the plan wipes. One of the newer version that it passes
/// by would be started with the old one; from one that is gone nothing can be.
pub fn other_volumes(op: &OpenBaoOperation, found: &BTreeMap<String, String>) -> Option<String> {
    let steps = op.status.iter().filter_map(|status| status.plan.as_ref()).flat_map(|plan| &plan.steps);
    let wipes = steps.filter(|step| step.action == plan::WIPE);
    let planned: BTreeMap<&String, &String> =
        wipes.filter_map(|step| Some((step.config.get(plan::CLAIM)?, step.config.get(plan::CLAIM_UID)?))).collect();
    let how = found.iter().find_map(|(claim, uid)| match planned.get(claim) {
        Some(planned) if *planned == uid => None,
        Some(_) => Some(format!("{claim} is another one")),
        None => Some(format!("{claim} was added")),
    })?;
    Some(format!(
        "the volumes are not those any more that this rollback was planned for: {how}. None was wiped: create it again"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        adapter::kubernetes::time::to_kube,
        api::{
            OpenBaoClusterStatus,
            restore::{OpenBaoRestoreStatus, RestorePhase},
        },
        service::opslifecycle::RefusalPhase,
    };
    use serde_json::{Value, json};

    fn cluster(runs: &Value) -> OpenBaoCluster {
        let mut cluster = OpenBaoCluster::new(
            "kelp",
            serde_json::from_value(json!({"version": "2.7.2", "storage": {"size": "1Gi"},
                "selfInit": {"enabled": true, "oidc": {"enabled": true}}}))
            .unwrap(),
        );
        let upgrade = Some(serde_json::from_value(json!({"directive": runs})).unwrap());
        cluster.status = Some(OpenBaoClusterStatus { upgrade, ..OpenBaoClusterStatus::default() });
        cluster
    }

    fn operation(whole: &Value) -> Arc<OpenBaoOperation> {
        let mut text = json!({"apiVersion": "openbao.org/v1alpha1", "kind": "OpenBaoOperation"});
        for (key, value) in whole.as_object().unwrap() {
            text[key] = value.clone();
        }
        Arc::new(serde_json::from_value(text).unwrap())
    }

    fn upgrade(name: &str, minute: u32, phase: &str, past: bool) -> Arc<OpenBaoOperation> {
        operation(&json!({
            "metadata": {"name": name, "creationTimestamp": format!("2026-11-21T12:{minute:02}:00Z")},
            "spec": {"cluster": "kelp", "operation": "Upgrade", "parameters": {"version": "2.7.2", "image": "bao:2.7.2",
                "fromVersion": "2.6.1", "fromImage": "bao:2.6.1"}},
            "status": {"phase": phase, "pointOfNoReturnAt": past.then_some("2026-11-21T12:30:00Z"), "steps": [
                {"name": "PreUpgradeBackup", "output": {"backup": "up-backup", "backupKey": "pre.snap"}}]},
        }))
    }

    fn rollback() -> Arc<OpenBaoOperation> {
        let wipe = |claim: &str, uid: &str| json!({"name": format!("Wipe/{claim}"), "action": "Wipe", "config": {"claim": claim, "uid": uid}});
        operation(&json!({
            "metadata": {"name": "back", "creationTimestamp": "2026-11-21T12:50:00Z"},
            "spec": {"cluster": "kelp", "operation": "Rollback", "lineage": {"rollbackOf": "up"},
                "consent": ["DataOlderThanRollback"]},
            "status": {"phase": "Running", "inputs": {"fromVersion": "2.7.2", "fromImage": "bao:2.7.2"},
                "plan": {"steps": [wipe("data-kelp-0", "u0"), wipe("data-kelp-1", "u1")]}},
        }))
    }

    #[test]
    fn a_rollback_that_waited_does_not_begin_when_another_version_has_led_since() {
        let (back, up) = (rollback(), upgrade("up", 1, "Succeeded", true));
        let judged = |runs: Value, all: &[Arc<OpenBaoOperation>]| {
            still_from_here(&back, &cluster(&runs), all).map_err(|refusal| (refusal.reason, refusal.phase))
        };
        let as_planned = || json!({"version": "2.7.2", "image": "bao:2.7.2"});
        let failed = |reason| Err((reason, RefusalPhase::Failed));
        let alone = [up.clone()];
        assert_eq!(judged(as_planned(), &alone), Ok(()));
        let newer = json!({"version": "2.7.3", "image": "bao:2.7.3"});
        assert_eq!(judged(newer, &alone), failed("NotFromHere"));
        assert_eq!(judged(json!({"version": "2.7.2", "image": "mirror"}), &alone), failed("NotFromHere"));
        let both = [up.clone(), upgrade("later", 2, "Succeeded", true)];
        assert_eq!(judged(as_planned(), &both), failed("LaterUpgrade"));
        assert_eq!(judged(as_planned(), &[up, upgrade("later", 2, "Failed", false)]), Ok(()), "it was undone");
        let unknown = judged(Value::Null, &alone).unwrap_err();
        assert!(matches!(unknown.1, RefusalPhase::Wait(_)), "{unknown:?}");
    }

    #[test]
    fn a_rollback_is_not_planned_while_an_upgrade_is_at_work() {
        let up = upgrade("up", 1, "Succeeded", true);
        assert_eq!(upgrade_at_work(&[up.clone(), rollback()]), None);
        assert_eq!(upgrade_at_work(&[up, upgrade("later", 2, "Running", false)]).as_deref(), Some("later"));
    }

    #[test]
    fn a_rollback_lets_an_announced_restore_go_first_unless_that_one_waits_for_a_rollback() {
        let restore = |operation: Option<&str>, phase| {
            let spec = crate::api::OpenBaoRestoreSpec { cluster: "kelp".into(), ..Default::default() };
            let mut restore = OpenBaoRestore::new("undo-monday", spec);
            let operation = operation.map(str::to_owned);
            restore.status = Some(OpenBaoRestoreStatus { phase, operation, ..Default::default() });
            [Arc::new(restore)]
        };
        let runs = json!({"version": "2.7.2", "image": "bao:2.7.2"});
        let whole = cluster(&runs);
        let left = |closed: bool| {
            let mut left = cluster(&runs);
            let half = json!({"rollback": "back", "rollbackOf": "up", "wipedAt": "2026-11-21T12:40:00Z",
                "servers": {"count": 1, "initialize": false, "closed": closed}});
            let upgrade = Some(serde_json::from_value(json!({"directive": runs, "halfRestored": half})).unwrap());
            left.status = Some(OpenBaoClusterStatus { upgrade, ..OpenBaoClusterStatus::default() });
            left
        };
        let announced = || restore(Some("undo-monday-restore"), RestorePhase::Running);
        for (case, restores, cluster, first) in [
            ("it is announced", announced(), &whole, true),
            ("it is not let in yet", restore(None, RestorePhase::Pending), &whole, false),
            ("it has ended", restore(Some("undo-monday-restore"), RestorePhase::Failed), &whole, false),
            ("it waits for what this rollback brings", announced(), &left(true), false),
            ("that is proven", announced(), &left(false), true),
        ] {
            assert_eq!(restore_before(&restores, cluster).is_some(), first, "{case}");
        }
        assert_eq!(restore_before(&announced(), &whole).as_deref(), Some("undo-monday"));
    }

    #[test]
    fn another_volume_of_the_same_name_is_not_the_one_that_was_to_be_wiped() {
        let volumes = |found: &[(&str, &str)]| {
            let found = found.iter().map(|(claim, uid)| ((*claim).to_owned(), (*uid).to_owned())).collect();
            other_volumes(&rollback(), &found).unwrap_or_default()
        };
        assert_eq!(volumes(&[("data-kelp-0", "u0"), ("data-kelp-1", "u1")]), "");
        assert!(volumes(&[("data-kelp-0", "u0"), ("data-kelp-1", "u9")]).contains("data-kelp-1 is another one"));
        assert_eq!(volumes(&[("data-kelp-0", "u0")]), "", "one that is gone is as good as wiped");
        assert_eq!(volumes(&[]), "");
        let three = [("data-kelp-0", "u0"), ("data-kelp-1", "u1"), ("data-kelp-2", "u2")];
        assert!(volumes(&three).contains("data-kelp-2 was added"));
    }

    #[test]
    fn a_claim_on_its_way_out_is_neither_planned_nor_missed_and_one_that_no_server_can_have_is_not_looked_at() {
        let claim = |name: &str, goes: bool| {
            let mut claim = PersistentVolumeClaim::default();
            (claim.metadata.name, claim.metadata.uid) = (Some(name.into()), Some(format!("uid-{name}")));
            claim.metadata.deletion_timestamp = goes.then(|| to_kube(chrono::Utc::now()));
            claim
        };
        let names =
            |claims: &[PersistentVolumeClaim]| -> Vec<String> { data_claims("kelp", claims).into_keys().collect() };
        let before = [
            claim("data-kelp-0", false),
            claim("data-kelp-2", true),
            claim("data-kelp-8", false),
            // Somebody once scaled the StatefulSet.
            claim("data-kelp-9", false),
            claim("data-coral-1", false),
            claim("backups", false),
        ];
        assert_eq!(names(&before), ["data-kelp-0", "data-kelp-8"]);
        assert_eq!(names(&before[..1]), ["data-kelp-0"], "when its pod has stopped");
    }

    #[test]
    fn a_volume_is_wiped_when_none_of_its_name_stays() {
        let mut claim = PersistentVolumeClaim::default();
        claim.metadata.uid = Some("made-since".into());
        assert_eq!(stays(Some(&claim)).as_deref(), Some("made-since"), "whichever was planned");
        claim.metadata.deletion_timestamp = Some(to_kube(chrono::Utc::now()));
        assert_eq!((stays(Some(&claim)), stays(None)), (None, None));
    }
}
