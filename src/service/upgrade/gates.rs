//! The gates that look beyond the members themselves: whether the new image is there, and whether the volumes suffice.

use super::{
    headroom, image as check,
    manager::{BACKUP_BYTES, GLANCE, LINGER},
    steps::Turn,
};
use crate::{
    adapter::kubernetes::claim,
    api::{OpenBaoCluster, UpgradeDirective},
    service::{
        backup::{
            found::is_ours,
            jobs::{self, Operation},
            mover::{self, Clear},
        },
        cluster::names,
        opslifecycle::{FinishCall, StepCall, StepOutcome, lineage},
    },
};
use kube::{ResourceExt, runtime::reflector::ObjectRef};

/// Has the target's image pulled and started once, by a Job.
pub async fn image(call: &StepCall<'_>, cluster: &OpenBaoCluster, to: &UpgradeDirective) -> StepOutcome {
    let (namespace, name) = (cluster.namespace().unwrap_or_default(), cluster.name_any());
    let operation = match Operation::of(call.op, mover::uid_of(Some(cluster))) {
        Ok(operation) => operation,
        Err(error) => return StepOutcome::fatal("NotStored", error.text()),
    };
    let set = call.ad.caches.stateful_sets.get(&ObjectRef::new(&names::statefulset(&name)).within(&namespace));
    let Some(servers) = set.and_then(|set| set.spec.as_ref()?.template.spec.clone()) else {
        return StepOutcome::in_progress("the StatefulSet is not there");
    };
    let job_name = jobs::job_name(&operation.name, check::WORD);
    let mut made = false;
    let mut reason = String::new();
    let linger = call.turns.linger(LINGER);
    loop {
        let known = call.ad.caches.jobs_of(&namespace, &operation.name);
        let known = known.iter().find(|job| job.name_any() == job_name && is_ours(job.as_ref(), &operation.uid));
        if let Some(job) = known {
            let pods = mover::known_pods(call.ad, &operation, &job_name);
            match check::judge(job, &pods, to) {
                Turn::Done(record) => return StepOutcome::done_with([("observed", record)]),
                Turn::Fail { reason, message } => return StepOutcome::fatal(reason, message),
                Turn::Wait(awaited) => reason = awaited,
                Turn::Delete { .. } | Turn::StepDown { .. } | Turn::Overtaken(_) => {}
            }
        } else if !made {
            let job = check::job(&operation, &job_name, to, &servers);
            if let Err(error) = mover::start(call.ad, &operation, &job).await {
                return StepOutcome::in_progress(format!("Job {job_name}: {}", error.text()));
            }
            made = true;
            reason = format!("Job {job_name} was just made");
        }
        if !linger.pause(GLANCE).await {
            return StepOutcome::in_progress(reason);
        }
    }
}

/// Removes the Job of [`image`] when its operation ends: before the journal knows what it said, an operator that dies would make
/// it again. Best effort: what stays has a deadline, and goes by itself.
pub async fn clear(call: &FinishCall<'_>) {
    let Ok(operation) = Operation::of(call.op, mover::uid_of(call.cluster)) else { return };
    if let Err(error) = mover::clear(call.ad, &operation, Clear::All).await {
        tracing::warn!(error = %error.text(), operation = %operation.name, "failed to remove a Job that has done its work");
    }
}

/// The last steps before the template shows the goal are done only while servers that start would come back: once it does, a pod
/// that dies comes up with the new version, and there is little time for what may be over in minutes. Here there is, and
/// nothing was touched.
pub fn unhindered(cluster: &OpenBaoCluster, outcome: StepOutcome) -> StepOutcome {
    match (cluster.obstacle(), outcome) {
        (Some(why), StepOutcome::Done { .. }) => StepOutcome::in_progress(format!("waiting, as {why}")),
        (_, outcome) => outcome,
    }
}

/// Compares the volumes with what the backup just found.
pub fn storage(call: &StepCall<'_>, cluster: &OpenBaoCluster) -> StepOutcome {
    let namespace = cluster.namespace().unwrap_or_default();
    let bytes = lineage::output(call.op, BACKUP_BYTES).and_then(|bytes| bytes.parse::<u64>().ok());
    let Some(bytes) = bytes else {
        return StepOutcome::done_with([("observed", "the backup's size is not known: nothing to compare")]);
    };
    let claims: Vec<(String, String)> = call
        .ad
        .caches
        .claims_of(&namespace, &cluster.name_any())
        .iter()
        .filter_map(|claim| Some((claim.name_any(), claim::capacity(claim)?.to_owned())))
        .collect();
    match headroom::shortage(bytes, claims.iter().map(|(name, capacity)| (name.as_str(), capacity.as_str()))) {
        Some(shortage) => StepOutcome::in_progress(shortage),
        None => StepOutcome::done_with([("observed", format!("{} volumes hold {bytes} bytes twice", claims.len()))]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{OpenBaoClusterSpec, OpenBaoClusterStatus, UpgradeStatus};

    #[test]
    fn the_template_does_not_show_the_new_version_while_no_server_that_starts_would_come_back() {
        let cluster = |obstacle: Option<&str>| {
            let upgrade = UpgradeStatus { obstacle: obstacle.map(str::to_owned), ..UpgradeStatus::default() };
            let mut cluster = OpenBaoCluster::new("kelp", OpenBaoClusterSpec::default());
            cluster.status = Some(OpenBaoClusterStatus { upgrade: Some(upgrade), ..OpenBaoClusterStatus::default() });
            cluster
        };
        let hindered = cluster(Some("Secret mine does not exist"));
        let waits = unhindered(&hindered, StepOutcome::done());
        assert!(matches!(&waits, StepOutcome::Waiting { reason, .. } if reason.contains("Secret mine")), "{waits:?}");
        let failed = || StepOutcome::fatal("PreUpgradeBackupFailed", "no room");
        assert_eq!(unhindered(&hindered, failed()), failed(), "that is no use waiting for");
        assert_eq!(unhindered(&cluster(None), StepOutcome::done()), StepOutcome::done());
    }
}
