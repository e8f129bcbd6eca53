//! The one writer of a cluster's objects.
//!
//! Nothing is written that is already so, nothing is taken over that somebody else made, and nothing is deleted without its
//! UID. Keys are created, never applied: a second writer must fail, not overwrite.

use super::{
    accounts,
    build::{Plain, names_of},
    facts::Facts,
    names,
};
use crate::adapter::kubernetes::{
    Namespaced,
    apply::{ApplyError, delete, prepare},
    client::{RequestError, timed},
    owner::is_controlled_by,
};
use futures::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use kube::{Api, Client, Resource, ResourceExt, api::PostParams};
use serde::Serialize;
use std::{
    collections::{BTreeMap, HashMap},
    fmt::Debug,
    sync::{Arc, Mutex, PoisonError},
};

/// Field manager of everything a cluster is made of, and of its status plane.
pub const MANAGER: &str = "openbao-operator-cluster";

/// How many objects are remembered as settled. When full, the memory is cleared: the price is one needless write each.
const REMEMBERED: usize = 20_000;

/// Why the objects of a cluster could not be brought into their wanted state.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A write was refused or not answered.
    #[error(transparent)]
    Apply(#[from] ApplyError),
    /// A name is taken by an object that is not ours.
    #[error(
        "{kind} {name} exists and was not made for this cluster: rename or delete it, or choose another name for the cluster"
    )]
    NotOurs {
        /// Its kind.
        kind: String,
        /// Its name.
        name: String,
    },
    /// Whether a name is taken could not be asked.
    #[error("failed to look whether {kind} {name} exists")]
    Look {
        /// Its kind.
        kind: String,
        /// Its name.
        name: String,
        /// The refusal.
        #[source]
        source: RequestError,
    },
}

impl Error {
    /// The API server's refusal, if there was one.
    pub fn request(&self) -> Option<&RequestError> {
        match self {
            Self::Apply(error) => error.request(),
            Self::Look { source, .. } => Some(source),
            Self::NotOurs { .. } => None,
        }
    }

    /// The API server will not have it so: a quota, a policy, a right. Not that another writer was faster, or that something is gone.
    pub fn is_refused(&self) -> bool {
        let refused = |error: &RequestError| error.is_refusal() && !error.is_conflict() && !error.is_not_found();
        matches!(self, Self::Apply(error) if error.request().is_some_and(refused))
    }
}

/// Objects whose live form says less than we do, because the API server wrote a value in its own way (`1000m` as `1`).
/// Remembered by what we sent and the version that came back, so that they are not sent again and again.
#[derive(Debug, Default, Clone)]
pub struct Settled(Arc<Mutex<HashMap<String, (String, String)>>>);

impl Settled {
    fn is(&self, uid: &str, digest: &str, version: &str) -> bool {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(uid).is_some_and(|(sent, back)| sent == digest && back == version)
    }

    fn remember(&self, uid: String, digest: String, version: String) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= REMEMBERED {
            known.clear();
        }
        known.insert(uid, (digest, version));
    }
}

/// Writes for one cluster.
#[derive(Clone)]
pub struct Applier {
    /// The API server.
    pub client: Client,
    /// The cluster's namespace.
    pub namespace: String,
    /// The cluster's name.
    pub cluster: String,
    /// The cluster's UID.
    pub uid: String,
    /// Shared by all clusters.
    pub settled: Settled,
}

impl Debug for Applier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Applier").field("cluster", &self.cluster).finish_non_exhaustive()
    }
}

impl Applier {
    /// Brings one object into its wanted state. `live` is what the watch knows.
    pub async fn ensure<K>(&self, live: Option<&K>, wanted: K) -> Result<(), Error>
    where
        K: Namespaced + Serialize,
    {
        let wanted = prepare(wanted)?;
        let digest =
            wanted.object.annotations().get(crate::adapter::kubernetes::apply::APPLIED).cloned().unwrap_or_default();
        if let Some(live) = live {
            self.must_be_ours(live, &wanted.object)?;
            let json = serde_json::to_value(live).unwrap_or_default();
            if !wanted.differs_from(Some(&json)) {
                return Ok(());
            }
            let version = live.resource_version().unwrap_or_default();
            if self.settled.is(&live.uid().unwrap_or_default(), &digest, &version) {
                return Ok(());
            }
        } else {
            // The watch knows only what carries our label: what lies under this name without it is somebody else's.
            let name = wanted.object.name_any();
            let api: Api<K> = Api::namespaced(self.client.clone(), &self.namespace);
            let found = timed(api.get_opt(&name)).await.map_err(|source| Error::Look {
                kind: K::kind(&()).into_owned(),
                name: name.clone(),
                source,
            })?;
            if let Some(found) = &found {
                self.must_be_ours(found, &wanted.object)?;
            }
        }
        let written = wanted.apply(&self.client, MANAGER).await?;
        let differs = serde_json::to_value(&written).is_ok_and(|json| wanted.differs_from(Some(&json)));
        if differs {
            self.settled.remember(
                written.uid().unwrap_or_default(),
                digest,
                written.resource_version().unwrap_or_default(),
            );
        }
        Ok(())
    }

    /// Creates an object that must never be overwritten. `Ok(false)`: it exists already.
    pub async fn create<K>(&self, wanted: K) -> Result<bool, Error>
    where
        K: Namespaced + Serialize,
    {
        let api: Api<K> = Api::namespaced(self.client.clone(), &self.namespace);
        let params = PostParams { field_manager: Some(MANAGER.into()), ..PostParams::default() };
        match timed(api.create(&params, &wanted)).await {
            Ok(_) => Ok(true),
            Err(error) if error.is_already_exists() => Ok(false),
            Err(source) => Err(Error::Apply(ApplyError::Write {
                verb: "create",
                kind: K::kind(&()).into_owned(),
                namespace: self.namespace.clone(),
                name: wanted.name_any(),
                source,
            })),
        }
    }

    /// Looks at what was in the way of [`Self::create`]: an error if it is somebody else's. What was made for a cluster of this
    /// name the watch shows in a moment.
    pub async fn must_be_of_this_name<K>(&self, name: &str) -> Result<(), Error>
    where
        K: Namespaced,
    {
        let api: Api<K> = Api::namespaced(self.client.clone(), &self.namespace);
        let found = timed(api.get_opt(name)).await.map_err(|source| Error::Look {
            kind: K::kind(&()).into_owned(),
            name: name.to_owned(),
            source,
        })?;
        match found {
            Some(found) if !is_of_cluster(&found, &self.cluster) => {
                Err(Error::NotOurs { kind: K::kind(&()).into_owned(), name: name.to_owned() })
            }
            _ => Ok(()),
        }
    }

    /// Deletes an object of ours that is no longer wanted.
    pub async fn remove<K>(&self, live: &K) -> Result<(), Error>
    where
        K: Namespaced,
    {
        if !is_controlled_by(live, &self.uid) || live.meta().deletion_timestamp.is_some() {
            return Ok(());
        }
        delete::<K>(&self.client, &self.namespace, &live.name_any(), &live.uid().unwrap_or_default()).await?;
        Ok(())
    }

    /// Owned by this very cluster object; or, for what has no owner on purpose, labelled with its name.
    fn must_be_ours<K: Resource<DynamicType = ()>>(&self, found: &K, wanted: &K) -> Result<(), Error> {
        let ours = if wanted.owner_references().is_empty() {
            is_of_cluster(found, &self.cluster)
        } else {
            is_controlled_by(found, &self.uid)
        };
        if ours { Ok(()) } else { Err(Error::NotOurs { kind: K::kind(&()).into_owned(), name: found.name_any() }) }
    }

    /// Everything that follows from the spec alone, at the same time. Only the binding waits for its role: whoever binds a
    /// role that is not there is refused, as the API server looks what it would grant.
    pub async fn plain(&self, facts: &Facts, wanted: Plain) -> Result<(), Error> {
        // A new kind of object does not compile before it is applied here.
        let Plain { services, service_accounts, role, role_binding, config_maps, budget } = wanted;
        let unwanted = accounts::unwanted(facts, &names_of(&service_accounts));
        let writes: FuturesUnordered<BoxFuture<'_, Result<(), Error>>> = FuturesUnordered::new();
        self.each(&writes, &facts.services, services);
        self.each(&writes, &facts.service_accounts, service_accounts);
        self.each(&writes, &facts.config_maps, config_maps);
        let rights = async {
            self.ensure(facts.role.as_deref(), role).await?;
            self.ensure(facts.role_binding.as_deref(), role_binding).await
        };
        writes.push(rights.boxed());
        match (budget, &facts.budget) {
            (Some(budget), live) => writes.push(self.ensure(live.as_deref(), budget).boxed()),
            (None, Some(live)) => writes.push(self.remove(live.as_ref()).boxed()),
            (None, None) => {}
        }
        for account in &unwanted {
            writes.push(self.remove(account.as_ref()).boxed());
        }
        // All of them to their end: a request that is dropped on its way is one to be made again.
        writes.collect::<Vec<_>>().await.into_iter().collect()
    }

    fn each<'a, K>(
        &'a self,
        writes: &FuturesUnordered<BoxFuture<'a, Result<(), Error>>>,
        live: &'a BTreeMap<String, Arc<K>>,
        wanted: Vec<K>,
    ) where
        K: Namespaced + Serialize,
    {
        for object in wanted {
            let live = live.get(&object.name_any()).map(AsRef::as_ref);
            writes.push(self.ensure(live, object).boxed());
        }
    }
}

/// Whether an object says that it was made for a cluster of this name: for this very object, or for an earlier one.
fn is_of_cluster(found: &impl ResourceExt, cluster: &str) -> bool {
    found.labels().get(names::CLUSTER_LABEL).is_some_and(|label| label == cluster)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::ConfigMap;
    use kube::{client::Body, core::Status};
    use serde_json::json;
    use std::future::ready;

    /// Of cluster `kelp`, in a namespace where nothing lies and that takes nothing. It wants a runtime.
    pub fn refused(cluster_uid: &str) -> Applier {
        let answer = |request: http::Request<Body>| {
            let asks = request.method() == http::Method::GET;
            let (code, reason) = if asks { (404, "NotFound") } else { (403, "Forbidden") };
            let status = Status::failure("exceeded quota: small", reason).with_code(code);
            ready(http::Response::builder().status(code).body(Body::from(serde_json::to_vec(&status).unwrap())))
        };
        Applier {
            client: Client::new(tower::service_fn(answer), "reef"),
            namespace: "reef".into(),
            cluster: "kelp".into(),
            uid: cluster_uid.into(),
            settled: Settled::default(),
        }
    }

    #[test]
    fn a_write_is_refused_only_where_the_answer_would_be_the_same_again() {
        let answered = |code: u16, reason: &str| {
            let answer = kube::Error::Api(Box::new(Status::failure("no", reason).with_code(code)));
            let (kind, namespace, name) = ("Secret".to_owned(), "reef".to_owned(), "kelp-tls-older".to_owned());
            Error::from(ApplyError::Write { verb: "create", kind, namespace, name, source: answer.into() })
        };
        assert!(answered(403, "Forbidden").is_refused() && answered(422, "Invalid").is_refused());
        for (code, reason) in
            [(404, "NotFound"), (409, "Conflict"), (500, "InternalError"), (503, "ServiceUnavailable")]
        {
            assert!(!answered(code, reason).is_refused(), "{code}");
        }
        let taken = Error::NotOurs { kind: "Secret".into(), name: "kelp-tls-older".into() };
        assert!(!taken.is_refused(), "nobody was asked");
    }

    #[test]
    fn an_object_is_of_a_cluster_only_if_its_label_says_so() {
        for (labels, expected) in [
            (json!({names::CLUSTER_LABEL: "kelp"}), true),
            (json!({names::CLUSTER_LABEL: "moss"}), false),
            (json!({"app": "kelp"}), false),
            (json!(null), false),
        ] {
            let object = json!({"metadata": {"name": "kelp-bootstrap", "labels": labels}});
            let object: ConfigMap = serde_json::from_value(object).unwrap();
            assert_eq!(is_of_cluster(&object, "kelp"), expected, "{object:?}");
        }
    }
}
