//! Servers that a rollback wiped and did not restore take no restore. Pure.
//!
//! Nothing but a rollback that ends well lets clients and members in to them again. What a restore put there would be proven and
//! serve nobody, and the rollback that has to follow would wipe it once more.

use crate::api::OpenBaoCluster;
use kube::ResourceExt;

/// Why no snapshot goes into `cluster`, as things are. A rollback that is at work may still end well.
pub(super) fn obstacle(cluster: &OpenBaoCluster) -> Option<String> {
    let half = cluster.left_half_restored()?;
    let anew = "delete the cluster, its volume claims and its rollbacks, apply it again and restore into that";
    let way_on = match &half.rollback_of {
        Some(of) => {
            format!("create another Rollback with lineage.rollbackOf: {of}. If that record is gone as well, {anew}")
        }
        None => anew.to_owned(),
    };
    Some(format!(
        "rollback {} has wiped the servers of OpenBaoCluster {} and not restored them, and until one has ended well nobody is let \
         in to them, whatever is restored: {way_on}",
        half.rollback,
        cluster.name_any()
    ))
}

/// Why a restore that asks now is refused: as [`obstacle`], unless a rollback is at work, whose end is waited for.
pub(super) fn refusal(cluster: &OpenBaoCluster) -> Option<String> {
    let upgrade = cluster.status.as_ref().and_then(|status| status.upgrade.as_ref());
    let at_work = upgrade.is_some_and(|upgrade| upgrade.target.is_some());
    obstacle(cluster).filter(|_| !at_work)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn cluster(upgrade: &Value) -> OpenBaoCluster {
        let mut cluster = OpenBaoCluster::new("kelp", crate::api::OpenBaoClusterSpec::default());
        cluster.status = Some(serde_json::from_value(json!({"upgrade": upgrade})).unwrap());
        cluster
    }

    fn half(closed: bool) -> Value {
        json!({"rollback": "back", "rollbackOf": "up", "wipedAt": "2026-11-21T11:00:00Z",
            "servers": {"count": 1, "initialize": false, "closed": closed}})
    }

    #[test]
    fn servers_that_a_rollback_left_half_restored_take_no_restore_and_the_way_on_is_named() {
        let left = cluster(&json!({"halfRestored": half(true)}));
        let why = obstacle(&left).unwrap();
        assert!(why.contains("rollback back") && why.contains("lineage.rollbackOf: up"), "{why}");
        assert_eq!(refusal(&left), Some(why));
        for proven in [json!({}), json!({"halfRestored": half(false)})] {
            assert_eq!(obstacle(&cluster(&proven)), None, "{proven}");
        }
    }

    #[test]
    fn a_restore_that_asks_while_a_rollback_is_at_work_is_not_refused_for_it_and_still_does_not_begin() {
        let at_work = cluster(&json!({"halfRestored": half(true), "target": "2.6.1", "operation": "again"}));
        assert_eq!(refusal(&at_work), None);
        assert!(obstacle(&at_work).is_some());
    }
}
