//! Which OpenBao cluster this one is known to be. Pure.
//!
//! A server on an emptied volume may have started a cluster of its own. While it is the only one that is heard, it would pass for
//! the whole: so a known id gives way only to a majority, or to those whose work it is to replace the data.

use super::members::Member;
use crate::api::{LockOperation, OpenBaoClusterStatus};
use std::collections::BTreeSet;

/// The id to remember from now on.
pub fn next(members: &[Member], wanted: usize, status: &OpenBaoClusterStatus) -> Option<String> {
    let found = agreed_id(members).filter(|found| !is_doubtful(found, members, wanted, status));
    found.map(str::to_owned).or_else(|| status.cluster_id.clone())
}

/// Whether those that are heard name another cluster than the known one, and are too few to be believed.
pub fn is_doubtful(found: &str, members: &[Member], wanted: usize, status: &OpenBaoClusterStatus) -> bool {
    let heard = members.iter().filter(|member| member.serves()).count();
    let other = status.cluster_id.as_deref().is_some_and(|known| known != found);
    other && heard <= wanted / 2 && !is_being_replaced(status)
}

/// The id that a serving member names.
pub(super) fn serving_id(member: &Member) -> Option<&str> {
    member.health.as_ref().filter(|_| member.serves())?.cluster_id.as_deref()
}

/// The one id that all serving members name; `None` if they differ or none serves.
fn agreed_id(members: &[Member]) -> Option<&str> {
    let mut ids = members.iter().filter_map(serving_id);
    let first = ids.next()?;
    ids.all(|id| id == first).then_some(first)
}

/// All ids that serving members name.
pub(super) fn ids(members: &[Member]) -> BTreeSet<&str> {
    members.iter().filter_map(serving_id).collect()
}

/// A restore or a rollback changes the id of one member after the other.
fn is_being_replaced(status: &OpenBaoClusterStatus) -> bool {
    let restores = status.operation_lock.as_ref().is_some_and(|lock| lock.operation == LockOperation::Restore);
    restores || status.upgrade.as_ref().is_some_and(|upgrade| upgrade.servers.is_some())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        adapter::openbao::HealthState::{Active, Standby},
        api::{ServersDirective, UpgradeStatus},
        service::cluster::members::tests::member,
    };

    fn known(id: Option<&str>) -> OpenBaoClusterStatus {
        OpenBaoClusterStatus { cluster_id: id.map(str::to_owned), ..OpenBaoClusterStatus::default() }
    }

    #[test]
    fn a_known_cluster_gives_way_to_a_majority_and_to_no_single_newcomer() {
        let all = [member(0, Active, Some(0)), member(1, Standby, Some(0)), member(2, Standby, Some(0))];
        let next = |count: usize, wanted, status: &OpenBaoClusterStatus| next(&all[..count], wanted, status);
        assert_eq!(next(1, 3, &known(Some("old"))).as_deref(), Some("old"));
        assert_eq!(next(2, 3, &known(Some("old"))).as_deref(), Some("id-1"), "somebody restored it by hand");
        assert_eq!(next(1, 1, &known(Some("old"))).as_deref(), Some("id-1"), "all there is");
        assert_eq!(next(1, 3, &known(None)).as_deref(), Some("id-1"), "the first start");
        assert_eq!(next(0, 3, &known(Some("old"))).as_deref(), Some("old"));
    }

    #[test]
    fn a_rollback_brings_the_restored_id_with_its_first_server() {
        let servers = ServersDirective { count: 1, ..ServersDirective::default() };
        let upgrade = UpgradeStatus { servers: Some(servers), ..UpgradeStatus::default() };
        let status = OpenBaoClusterStatus { upgrade: Some(upgrade), ..known(Some("old")) };
        assert_eq!(next(&[member(0, Active, Some(0))], 3, &status).as_deref(), Some("id-1"));
    }
}
