//! Whether all members run what the template shows. Pure.
//!
//! An upgrade that failed past its point of no return leaves the template at its target: no other version may start. That is
//! no proof that any member runs it, and a rollout must not count it as done.

use super::{decide::ended_at, holds, request, versions};
use crate::api::{
    MemberState, OpenBaoCluster, OpenBaoOperation, OperationPhase, UpgradeDirective, UpgradeStatus, conditions::reason,
};
use kube::ResourceExt;

/// The version that all members ran last, as long as they do not all run `shown`. It takes an operation that ended well, or
/// the word of every member. Where none has ever ended, nothing is unfinished: an image may call itself otherwise than the spec.
pub(super) fn short_of(
    cluster: &OpenBaoCluster,
    shown: &UpgradeDirective,
    last: Option<&OpenBaoOperation>,
    known: &UpgradeStatus,
) -> Option<String> {
    let status = cluster.status.as_ref().filter(|status| status.initialized == Some(true))?;
    let finished = status.current_version.as_ref().filter(|_| last.is_some() || known.accounted_for.is_some())?;
    let reached = versions::is_same(finished, &shown.version)
        || last.is_some_and(|operation| has_brought(operation, shown, known))
        || all_run(cluster, &shown.version);
    (!reached).then(|| finished.clone())
}

/// Whether it ended well with this version, and is the last one that the status knows of.
fn has_brought(operation: &OpenBaoOperation, shown: &UpgradeDirective, known: &UpgradeStatus) -> bool {
    operation.phase() == OperationPhase::Succeeded
        && ended_at(operation) >= known.accounted_for
        && request::directive(operation).is_some_and(|brought| versions::is_same(&brought.version, &shown.version))
}

/// Whether as many members as there should be serve, and each says that it is this version.
fn all_run(cluster: &OpenBaoCluster, version: &str) -> bool {
    let members = cluster.status.as_ref().map(|status| status.members.as_slice()).unwrap_or_default();
    members.len() >= usize::try_from(cluster.spec.replicas).unwrap_or_default()
        && members.iter().all(|member| {
            matches!(member.state, MemberState::Active | MemberState::Standby)
                && member.version.as_ref().is_some_and(|runs| versions::is_same(runs, version))
        })
}

/// The cluster as its status would tell of it if it had been decided anew since its last upgrade or rollback ended: that leads nowhere
/// any more, and what the template shows has been reached where that operation ended well with it, or where every member says so. A
/// spec that is refused for where an operation led leaves the status as it was; so once none is at work it is read by this.
pub fn concluded(cluster: &OpenBaoCluster, records: &[impl AsRef<OpenBaoOperation>]) -> OpenBaoCluster {
    let mut concluded = cluster.clone();
    let Some(known) = cluster.status.as_ref().and_then(|status| status.upgrade.as_ref()) else { return concluded };
    let is_it =
        |record: &&OpenBaoOperation| Some(record.name_any()) == known.operation && request::is_of(record, cluster);
    let last = records.iter().map(AsRef::as_ref).find(is_it);
    let is_reached = |shown: &&UpgradeDirective| {
        last.is_some_and(|record| has_brought(record, shown, known)) || all_run(cluster, &shown.version)
    };
    if let Some(status) = concluded.status.as_mut() {
        if let Some(shown) = known.directive.as_ref().filter(is_reached) {
            status.current_version = Some(shown.version.clone());
        }
        if let Some(upgrade) = status.upgrade.as_mut() {
            upgrade.target = None;
        }
    }
    concluded
}

/// For the condition: what the template shows is not what all members run.
pub(super) fn words(shown: &UpgradeDirective, finished: &str, last: Option<&OpenBaoOperation>) -> String {
    let brings = |operation: &&OpenBaoOperation| {
        request::directive(operation).is_some_and(|brings| versions::is_same(&brings.version, &shown.version))
    };
    let why = last
        .filter(brings)
        .map(|operation| format!("{} {}. ", operation.name_any(), holds::ending(operation)))
        .unwrap_or_default();
    format!("{why}Not all members serve with {} yet; before it they ran {finished}. See status.members", shown.version)
}

/// Why nobody upgrades such a cluster in passing: where it would come from is not where its members are.
pub(super) fn obstacle(cluster: &OpenBaoCluster) -> Option<(&'static str, String)> {
    let status = cluster.status.as_ref()?;
    let upgrade = status.upgrade.as_ref().filter(|upgrade| upgrade.accounted_for.is_some())?;
    let shown = &upgrade.directive.as_ref()?.version;
    let finished = status.current_version.as_ref()?;
    (!versions::is_same(shown, finished)).then(|| {
        let message = format!("the last upgrade has not brought all members to {shown} yet: see status.members");
        (reason::WAITING, message)
    })
}

#[cfg(test)]
#[path = "finished_tests.rs"]
mod tests;
