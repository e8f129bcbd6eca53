//! The Secret from which the servers have their static key: of all keys the one that is sure to open their data. Pure, but for
//! the look at what the watches know, and for reading that Secret.
//!
//! The spec may name another one. Settings with which no server would come back are kept from those that run, and others reach
//! them one by one.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{Pod, PodSpec, Secret};
use kube::{Api, Client, ResourceExt, runtime::reflector::ObjectRef};
use secrecy::SecretSlice;

use crate::adapter::kubernetes::client::{RequestError, timed};
use crate::adapter::{Adapters, kubernetes::owner::is_controlled_by};
use crate::api::{OpenBaoCluster, SealType};
use crate::datapath::seal::{SealError, prove};
use crate::service::cluster::config::seal;
use crate::service::cluster::trouble::reasons;
use crate::service::cluster::{names, static_key};

/// Reasons of a condition that says that the spec's seal is not the servers'.
const DOUBTS: [&str; 3] = [reasons::SEAL_CREDENTIALS_MISSING, reasons::UNSEAL_KEY_INVALID, reasons::UNSEAL_KEY_MISSING];

/// The static key of the servers, as far as it can be read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InUse {
    /// The Secret whose `key` it is; `None` where the operator is not to read it.
    pub secret: Option<String>,
    /// The spec does not name that Secret, nor any more which of its keys it is: mostly `key`. It may be gone, too.
    pub guessed: bool,
    /// Why it is not certain that all servers have this key. Then nothing is known of what it does not open.
    pub unsettled: Option<String>,
}

/// Why a Secret that the operator is to read tells no key.
#[derive(Debug, thiserror::Error)]
pub enum NoKeys {
    /// Whether it has one is not known.
    #[error("cannot read Secret {name}")]
    Unread {
        /// The Secret.
        name: String,
        /// The refusal.
        #[source]
        source: RequestError,
    },
    /// It is not there, or has none.
    #[error("Secret {namespace}/{name} has no data key {}", names::UNSEAL_KEY_FIELD)]
    Missing {
        /// Where it was looked for.
        namespace: String,
        /// The Secret.
        name: String,
    },
}

impl InUse {
    /// What its Secret holds now. `None` where the operator is not to read it, or cannot any more: the servers may have their key
    /// under a name that nobody tells now, or from a Secret that is gone.
    pub async fn keys(&self, client: &Client, namespace: &str) -> Result<Option<Keys>, NoKeys> {
        let Some(name) = &self.secret else { return Ok(None) };
        let api: Api<Secret> = Api::namespaced(client.clone(), namespace);
        let found = timed(api.get_opt(name)).await.map_err(|source| NoKeys::Unread { name: name.clone(), source })?;
        match found.as_ref().and_then(Keys::of) {
            None if !self.guessed => Err(NoKeys::Missing { namespace: namespace.to_owned(), name: name.clone() }),
            keys => Ok(keys),
        }
    }
}

/// The keys in a Secret. Which of them the servers read stands in settings that may not have reached them: any of them may be it.
#[derive(Debug)]
pub struct Keys {
    /// Under the name that the spec goes by.
    named: SecretSlice<u8>,
    others: Vec<SecretSlice<u8>>,
}

impl Keys {
    /// `None` where there is none under that name.
    pub fn of(secret: &Secret) -> Option<Self> {
        let named = static_key::of(secret, names::UNSEAL_KEY_FIELD)?;
        let key = |written: &[u8]| static_key::decoded(written).map(|key| SecretSlice::from(key.to_vec()));
        let others = secret.data.iter().flatten().filter(|(field, _)| *field != names::UNSEAL_KEY_FIELD);
        Some(Self {
            // What is no key is told as such by whoever uses it.
            named: key(named).unwrap_or_else(|| SecretSlice::from(named.to_vec())),
            others: others.filter_map(|(_, written)| key(&written.0)).collect(),
        })
    }

    /// The one that the spec goes by.
    pub fn named(&self) -> &SecretSlice<u8> {
        &self.named
    }

    /// Proves the seal with whichever of them opens it. The error is that of the one that the spec goes by.
    pub fn prove(&self, key_id: &str, sealed_sums: &[u8], sums: &[u8]) -> Result<(), SealError> {
        let Err(error) = prove(&self.named, key_id, sealed_sums, sums) else { return Ok(()) };
        let opens = |key: &SecretSlice<u8>| prove(key, key_id, sealed_sums, sums).is_ok();
        if self.others.iter().any(opens) { Ok(()) } else { Err(error) }
    }
}

/// What the watches know of it now.
pub fn in_use(ad: &Adapters, cluster: &OpenBaoCluster) -> InUse {
    let (namespace, name) = (cluster.namespace().unwrap_or_default(), cluster.name_any());
    let set = ad.caches.stateful_sets.get(&ObjectRef::new(&names::statefulset(&name)).within(&namespace));
    // An earlier cluster of this name leaves its own behind for a moment.
    let set = set.filter(|set| is_controlled_by(&**set, &cluster.uid().unwrap_or_default()));
    let template = set.as_ref().and_then(|set| set.spec.as_ref()?.template.spec.as_ref());
    let pods = ad.caches.pods_of(&namespace, &name);
    let servers = pods.iter().filter(|pod| names::ordinal_of(&name, &pod.name_any()).is_some());
    of(cluster, template, servers.map(AsRef::as_ref))
}

/// What the leader mounts, which has opened the data with it; or else what a server that starts now would.
fn of<'a>(cluster: &OpenBaoCluster, template: Option<&'a PodSpec>, servers: impl Iterator<Item = &'a Pod>) -> InUse {
    let (name, unseal) = (cluster.name_any(), &cluster.spec.unseal);
    if unseal.type_ != SealType::Static {
        return InUse::default();
    }
    let made = names::unseal_secret(&name);
    let theirs = unseal.credentials_secret_ref.as_ref().map(|reference| reference.name.as_str());
    let wanted = if seal::is_key_ours(unseal) { Some(made.as_str()) } else { theirs };
    let leader = cluster.status.as_ref().and_then(|status| status.active_leader.as_deref());
    let mut used = template.and_then(|spec| static_key::mounted(spec, &name));
    let mut all: BTreeSet<&str> = used.into_iter().collect();
    for pod in servers {
        let Some(secret) = pod.spec.as_ref().and_then(|spec| static_key::mounted(spec, &name)) else { continue };
        all.insert(secret);
        if pod.metadata.name.as_deref() == leader {
            used = Some(secret);
        }
    }
    let unsettled = doubt(cluster).or_else(|| match all.iter().find(|secret| Some(**secret) != wanted) {
        Some(other) => Some(format!(
            "servers run with the key in Secret {other}, and by spec.unseal it would be the one in {}",
            wanted.unwrap_or("another place")
        )),
        None if all.is_empty() => Some("no server shows from which Secret it has its key".to_owned()),
        None => None,
    });
    match used.filter(|used| Some(*used) != wanted) {
        Some(other) => InUse { secret: Some(other.to_owned()), guessed: true, unsettled },
        None => InUse { secret: seal::static_key_secret(unseal, &name), guessed: false, unsettled },
    }
}

/// What the cluster itself says against the spec's seal.
fn doubt(cluster: &OpenBaoCluster) -> Option<String> {
    let mut conditions = cluster.status.iter().flat_map(|status| &status.conditions);
    let told = conditions.find(|condition| DOUBTS.contains(&condition.reason.as_str()))?;
    Some(format!("{}: {}", told.reason, told.message))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::service::cluster::build::statefulset;
    use crate::service::cluster::validate::tests::{cluster, valid};

    /// What servers have that were started with this `spec.unseal`.
    fn server(unseal: &Value) -> PodSpec {
        let set = statefulset::build(&valid(|spec| spec["unseal"] = unseal.clone()), &statefulset::tests::inputs());
        set.spec.unwrap().template.spec.unwrap()
    }

    fn pod(name: &str, spec: PodSpec) -> Pod {
        let mut pod = Pod { spec: Some(spec), ..Pod::default() };
        pod.metadata.name = Some(name.to_owned());
        pod
    }

    fn own() -> Value {
        json!({"type": "static"})
    }

    fn brought(name: &str) -> Value {
        json!({"type": "static", "credentialsSecretRef": {"name": name}})
    }

    fn asks(unseal: &Value) -> OpenBaoCluster {
        cluster(|spec| spec["unseal"] = unseal.clone())
    }

    fn settled(unseal: &Value) -> InUse {
        let server = server(unseal);
        of(&asks(unseal), Some(&server), [pod("kelp-0", server.clone())].iter())
    }

    #[test]
    fn servers_that_keep_the_key_that_was_made_are_known_by_that_one_though_it_may_be_gone() {
        let keeps = server(&own());
        let found = of(&asks(&brought("mine")), Some(&keeps), [pod("kelp-0", keeps.clone())].iter());
        assert_eq!((found.secret.as_deref(), found.guessed), (Some("kelp-unseal-key"), true));
        let why = found.unsettled.unwrap();
        assert!(why.contains("kelp-unseal-key") && why.contains("mine"), "{why}");
    }

    #[test]
    fn the_key_is_the_one_of_the_secret_that_servers_and_spec_agree_on() {
        let secret = |name: &str| InUse { secret: Some(name.to_owned()), ..InUse::default() };
        assert_eq!(settled(&own()), secret("kelp-unseal-key"));
        assert_eq!(settled(&brought("mine")), secret("mine"), "and not one that lies beside it");
        let mut elsewhere = brought("mine");
        elsewhere["static"] = json!({"currentKey": "/openbao/seal-credentials/old"});
        assert_eq!(settled(&elsewhere), InUse::default(), "it lies under another name than `key`");
        let transit = json!({"type": "transit", "credentialsSecretRef": {"name": "mine"},
            "transit": {"address": "https://vault:8200", "keyName": "k", "mountPath": "transit/"}});
        assert_eq!(settled(&transit), InUse::default());
    }

    #[test]
    fn between_two_keys_it_is_the_leaders_that_opens_the_data() {
        let (before, next) = (server(&brought("mine")), server(&brought("other")));
        let mut asks = asks(&brought("other"));
        let pods = [pod("kelp-0", before), pod("kelp-1", next.clone())];
        let mut found = |leader: &str| {
            let status = json!({"activeLeader": leader});
            asks.status = Some(serde_json::from_value(status).unwrap());
            of(&asks, Some(&next), pods.iter())
        };
        let old = found("kelp-0");
        assert_eq!((old.secret.as_deref(), old.guessed), (Some("mine"), true));
        let new = found("kelp-1");
        assert_eq!((new.secret.as_deref(), new.guessed), (Some("other"), false));
        assert!(old.unsettled.is_some() && new.unsettled.is_some(), "they are not all of one key");
        assert!(of(&asks, None, [].iter()).unsettled.is_some(), "nobody is to be seen");
    }

    #[test]
    fn what_the_cluster_says_against_its_seal_is_a_doubt_and_other_troubles_are_none() {
        let server = server(&own());
        let doubts = |reason: &str| {
            let mut cluster = asks(&own());
            let condition = json!({"type": "Degraded", "status": "True", "reason": reason, "message": "Secret kelp-unseal-key …",
                "lastTransitionTime": "2026-11-21T03:00:00Z"});
            cluster.status = Some(serde_json::from_value(json!({"conditions": [condition]})).unwrap());
            of(&cluster, Some(&server), [].iter()).unsettled
        };
        assert!(doubts("UnsealKeyInvalid").unwrap().contains("Secret kelp-unseal-key"));
        assert!(doubts("SealCredentialsMissing").is_some());
        assert_eq!(doubts("QuorumLost"), None);
    }
}
