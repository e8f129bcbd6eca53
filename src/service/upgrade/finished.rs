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
