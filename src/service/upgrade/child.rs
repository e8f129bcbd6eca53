//! The backup before an upgrade: an operation of its own, under the upgrade's lock.

use super::manager::BACKUP_BYTES;
use crate::{
    adapter::kubernetes::{client::timed, owner::is_controlled_by},
    api::{OpenBaoOperation, OperationPhase, conditions::reason},
    service::{
        backup,
        opslifecycle::{StepCall, StepOutcome, lineage},
    },
};
use kube::{Api, ResourceExt, api::PostParams};

/// Asks for it, and waits for its end.
pub async fn pre_upgrade_backup(call: &StepCall<'_>) -> StepOutcome {
    let (namespace, name) = (call.op.namespace().unwrap_or_default(), call.op.name_any());
    let child = backup::request::child(call.op, backup::request::PRE_UPGRADE, "the state before an upgrade");
    let (Some(child), Some(uid)) = (child, call.op.uid()) else {
        return StepOutcome::fatal("NotStored", format!("operation {name} has no UID"));
    };
    let child_name = child.name_any();
    // Of another one's the watch may show what is gone by now.
    let seen = call.ad.caches.operation(&namespace, &child_name);
    if let Some(seen) = seen.filter(|seen| is_controlled_by(&**seen, &uid)) {
        return judge(&seen, &child, &uid);
    }
    let operations: Api<OpenBaoOperation> = Api::namespaced(call.ad.client.clone(), &namespace);
    match timed(operations.create(&PostParams::default(), &child)).await {
        Ok(created) => judge(&created, &child, &uid),
        Err(error) if error.is_already_exists() => match timed(operations.get_opt(&child_name)).await {
            Ok(Some(found)) => judge(&found, &child, &uid),
            Ok(None) => StepOutcome::in_progress(format!("backup {child_name} is asked for again: it is gone")),
            Err(error) => StepOutcome::in_progress(format!("failed to read {child_name}, trying again: {error}")),
        },
        Err(error) => StepOutcome::retryable("BackupNotAsked", format!("failed to create {child_name}: {error}")),
    }
}

/// What came of `wanted`. A name proves nothing: what the same name was given to before may have stored its backup weeks ago, and a
/// rollback would restore that. Nor does an owner alone, whom anybody can name.
fn judge(found: &OpenBaoOperation, wanted: &OpenBaoOperation, uid: &str) -> StepOutcome {
    let name = found.name_any();
    if !is_controlled_by(found, uid) || !found.does_the_work_of(wanted) {
        if found.metadata.deletion_timestamp.is_some() {
            return StepOutcome::in_progress(format!(
                "OpenBaoOperation {name} is not this upgrade's and is being deleted: the backup is asked for when it is gone"
            ));
        }
        return StepOutcome::fatal(
            "NameTaken",
            format!(
                "OpenBaoOperation {name} exists and is not this upgrade's, so what it stored is not the state before it: \
                 delete it, then send a Retry to the OpenBaoCluster"
            ),
        );
    }
    let status = found.status.clone().unwrap_or_default();
    match status.phase {
        OperationPhase::Succeeded => {
            let artifacts = status.artifacts.unwrap_or_default();
            let mut output = vec![(lineage::BACKUP, name), (lineage::BACKUP_KEY, artifacts.key.unwrap_or_default())];
            output.extend(artifacts.size_bytes.map(|bytes| (BACKUP_BYTES, bytes.to_string())));
            StepOutcome::done_with(output)
        }
        phase if phase.is_terminal() => StepOutcome::fatal(
            reason::PRE_UPGRADE_BACKUP_FAILED,
            format!("backup {name} ended {}: {}", phase.as_str(), status.message.unwrap_or_default()),
        ),
        _ => StepOutcome::in_progress(format!(
            "backup {name}: {}",
            status.message.unwrap_or_else(|| "starting".to_owned())
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        adapter::kubernetes::time::to_kube,
        api::operation::{Artifacts, OpenBaoOperationSpec, OpenBaoOperationStatus},
    };

    fn upgrade(uid: &str) -> OpenBaoOperation {
        let mut upgrade = OpenBaoOperation::new("kelp-upgrade-2-7-2-1", OpenBaoOperationSpec::default());
        upgrade.metadata.uid = Some(uid.into());
        upgrade
    }

    /// The backup of that upgrade, which has stored something.
    fn backup_of(parent: &OpenBaoOperation) -> OpenBaoOperation {
        let mut child = backup::request::child(parent, backup::request::PRE_UPGRADE, "before").unwrap();
        let artifacts = Artifacts { key: Some("old.snap".into()), ..Artifacts::default() };
        child.status = Some(OpenBaoOperationStatus {
            phase: OperationPhase::Succeeded,
            artifacts: Some(artifacts),
            ..OpenBaoOperationStatus::default()
        });
        child
    }

    #[test]
    fn a_backup_of_an_earlier_upgrade_of_the_same_name_is_not_taken_for_this_ones() {
        let (now, before) = (upgrade("now"), upgrade("before"));
        let wanted = backup_of(&now);
        let judge = |found: &OpenBaoOperation| judge(found, &wanted, "now");
        assert_eq!(wanted.name_any(), backup_of(&before).name_any(), "names repeat");
        let StepOutcome::Done { output } = judge(&backup_of(&now)) else { panic!("its own") };
        assert_eq!(output[lineage::BACKUP_KEY], "old.snap");
        let mut earlier = backup_of(&before);
        let StepOutcome::Failed { reason, message, retryable } = judge(&earlier) else { panic!("it is foreign") };
        assert_eq!((reason, retryable), ("NameTaken", false));
        assert!(message.contains(&earlier.name_any()), "{message}");
        let mut orphan = backup_of(&now);
        orphan.metadata.owner_references = None;
        assert!(matches!(judge(&orphan), StepOutcome::Failed { reason: "NameTaken", .. }), "nobody's");
        earlier.metadata.deletion_timestamp = Some(to_kube(chrono::Utc::now()));
        assert!(matches!(judge(&earlier), StepOutcome::Waiting { .. }), "it is about to go");
    }

    #[test]
    fn an_operation_that_stored_something_else_is_no_backup_of_the_state_before_whoever_it_says_its_owner_is() {
        let now = upgrade("now");
        let wanted = backup_of(&now);
        type Change = fn(&mut OpenBaoOperationSpec);
        let forged: [(&str, Change); 4] = [
            ("it reads an old one", |spec| {
                spec.parameters = [(backup::request::MODE.to_owned(), backup::request::VERIFY.to_owned())].into();
            }),
            ("of another cluster", |spec| spec.cluster = "coral".into()),
            ("no backup at all", |spec| spec.operation = crate::api::OperationKind::Workflow),
            ("of no parent", |spec| spec.lineage = None),
        ];
        for (what, change) in forged {
            let mut found = backup_of(&now);
            change(&mut found.spec);
            let outcome = judge(&found, &wanted, "now");
            assert!(matches!(outcome, StepOutcome::Failed { reason: "NameTaken", .. }), "{what}: {outcome:?}");
        }
        let mut told = backup_of(&now);
        told.spec.intent = Some("in other words".into());
        assert!(matches!(judge(&told, &wanted, "now"), StepOutcome::Done { .. }));
    }
}
