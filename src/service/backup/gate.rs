//! What must hold before a snapshot is asked for: one leader, agreed on, unsealed; and everything there that the Job's pod
//! mounts, because a pod that waits for a missing Secret says so to nobody.

use std::time::Duration;

use chrono::TimeDelta;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Secret};
use kube::{Api, Resource};
use serde::de::DeserializeOwned;

use super::steps::Work;
use crate::adapter::Adapters;
use crate::adapter::kubernetes::client::{RequestError, timed};
use crate::api::OpenBaoCluster;
use crate::datapath::protocol::Peer;
use crate::service::cluster::members::{self, Member};
use crate::service::cluster::observe;
use crate::service::opslifecycle::StepOutcome;

/// How long before its deadline the gate gives its own reason instead of "timed out".
const LAST_WORD: TimeDelta = TimeDelta::seconds(10);
/// How long something that is missing is waited for: one `kubectl apply` brings cluster, Secret and request together.
const PATIENCE: Duration = Duration::from_mins(1);

/// Why nothing backs up servers whose data is nobody's.
pub(super) const HALF_RESTORED: &str =
    "a rollback has wiped the servers and not restored them: a backup of them would pass for the newest good one";

pub(super) async fn run(work: &Work<'_>, cluster: &OpenBaoCluster) -> StepOutcome {
    if cluster.is_half_restored() {
        return StepOutcome::fatal("RollbackUnfinished", HALF_RESTORED);
    }
    if let Some(missing) = missing(work).await {
        return wait_or_fail(work, "Prerequisites", missing, PATIENCE);
    }
    match peers(work.call.ad, cluster).await {
        Ok(peers) => {
            let leader = peers.first().map(|peer| peer.pod.clone()).unwrap_or_default();
            StepOutcome::done_with([("leader", leader)])
        }
        Err(why) => wait_or_fail(work, "NoLeader", why, Duration::MAX),
    }
}

fn wait_or_fail(work: &Work<'_>, reason: &'static str, why: String, patience: Duration) -> StepOutcome {
    let call = &work.call;
    let waited = call.state.started_at.map(|at| call.now - at).unwrap_or_default();
    let patience = TimeDelta::from_std(patience).unwrap_or(TimeDelta::MAX);
    if waited >= patience || call.now >= call.deadline - LAST_WORD {
        StepOutcome::fatal(reason, why)
    } else {
        StepOutcome::in_progress(why)
    }
}

/// The servers as the mover dials them, the leader first; or why there is none to ask.
pub(super) async fn peers(ad: &Adapters, cluster: &OpenBaoCluster) -> Result<Vec<Peer>, String> {
    let members = observe::members(ad, cluster).await;
    candidates(&members, cluster.spec.tls.enabled)
}

/// Pure part of [`peers`].
fn candidates(members: &[Member], tls: bool) -> Result<Vec<Peer>, String> {
    let Some(leader) = members::leader(members) else { return Err(why_no_leader(members)) };
    let ids = |member: &Member| member.health.as_ref().and_then(|health| health.cluster_id.clone());
    if let Some(other) = members
        .iter()
        .find(|member| member.serves() && ids(member).is_some() && ids(leader).is_some() && ids(member) != ids(leader))
    {
        return Err(format!(
            "{} and {} belong to two OpenBao clusters: a backup would be of one of them only",
            leader.name, other.name
        ));
    }
    let peer = |member: &Member| {
        let endpoint = member.endpoint.as_ref()?;
        Some(Peer {
            pod: member.name.clone(),
            pod_uid: member.uid.clone(),
            address: endpoint.address.to_string(),
            tls_name: if tls { endpoint.tls_name.clone() } else { String::new() },
        })
    };
    let others = members.iter().filter(|member| member.name != leader.name && !member.terminating);
    Ok(std::iter::once(leader).chain(others).filter_map(peer).collect())
}

fn why_no_leader(members: &[Member]) -> String {
    if members.is_empty() {
        return "waiting for a leader: the cluster has no pods".to_owned();
    }
    let words: Vec<String> = members
        .iter()
        .map(|member| match (&member.silence, member.state()) {
            (_, Some(state)) => format!("{} says {state:?}", member.name),
            (Some(silence), None) => format!("{}: {silence}", member.name),
            (None, None) => format!("{} does not answer", member.name),
        })
        .collect();
    format!("waiting for exactly one leader: {}", words.join("; "))
}

/// What the Job would wait for in silence.
async fn missing(work: &Work<'_>) -> Option<String> {
    let frozen = &work.frozen;
    for (secret, field) in [
        (&frozen.store.credentials_secret, "target.credentialsSecretRef"),
        (&frozen.login.token_secret, "tokenSecretRef"),
    ] {
        if let Some(name) = secret
            && !exists::<Secret>(work, name).await
        {
            return Some(format!("waiting for Secret {name}, named by spec.backup.{field}: it does not exist"));
        }
    }
    if let Some(claim) = &frozen.store.claim
        && !exists::<PersistentVolumeClaim>(work, claim).await
    {
        return Some(format!(
            "waiting for PersistentVolumeClaim {claim}, named by spec.backup.target.file.claimName: it does not exist"
        ));
    }
    None
}

/// Metadata only: the operator has no business with the content. Where it may not even look, the Job will tell.
async fn exists<K>(work: &Work<'_>, name: &str) -> bool
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + DeserializeOwned + Clone + std::fmt::Debug,
{
    let api: Api<K> = Api::namespaced(work.call.ad.client.clone(), &work.operation.namespace);
    !matches!(timed(api.get_metadata(name)).await, Err(error) if RequestError::is_not_found(&error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapter::openbao::{
        Endpoint,
        HealthState::{Active, Sealed, Standby},
    };
    use crate::service::cluster::members::tests::member;

    fn reachable(mut member: Member) -> Member {
        member.endpoint = Some(Endpoint {
            pod: member.name.clone(),
            address: std::net::SocketAddr::new(member.ip.unwrap(), 8200),
            tls_name: format!("{}.kelp.reef.svc", member.name),
            ca_pem: None,
        });
        member
    }

    #[test]
    fn the_leader_comes_first_and_every_reachable_server_is_a_candidate() {
        let members =
            [member(0, Standby, Some(1)), member(1, Active, Some(1)), member(2, Standby, Some(1))].map(reachable);
        let pods = |members: &[Member]| -> Vec<String> {
            candidates(members, true).unwrap().into_iter().map(|peer| peer.pod).collect()
        };
        assert_eq!(pods(&members), ["kelp-1", "kelp-0", "kelp-2"]);
        let mut leaving = members.clone();
        leaving[2].terminating = true;
        assert_eq!(pods(&leaving), ["kelp-1", "kelp-0"]);
        assert_eq!(candidates(&members, false).unwrap()[0].tls_name, "", "plain HTTP has no name to check");
    }

    #[test]
    fn one_member_down_is_no_reason_to_go_without_a_backup() {
        let mut down = member(2, Standby, None);
        (down.health, down.view) = (None, None);
        let members = [reachable(member(0, Active, Some(0))), reachable(member(1, Standby, Some(0))), down];
        assert_eq!(candidates(&members, true).unwrap().len(), 2);
    }

    #[test]
    fn without_a_leader_each_servers_word_is_repeated() {
        let why = candidates(&[member(0, Sealed, None), member(1, Standby, None)].map(reachable), true).unwrap_err();
        assert!(why.contains("kelp-0 says Sealed") && why.contains("kelp-1 says Standby"), "{why}");
        assert!(candidates(&[], true).is_err());
    }

    #[test]
    fn members_of_two_clusters_are_not_backed_up() {
        let mut stranger = member(1, Standby, Some(0));
        stranger.health.as_mut().unwrap().cluster_id = Some("id-2".into());
        let why = candidates(&[member(0, Active, Some(0)), stranger].map(reachable), true).unwrap_err();
        assert!(why.contains("two OpenBao clusters"), "{why}");
    }
}
