//! The mover's one object in the API server: the config map `<operation>-mover`. Read and replaced whole, each time over a
//! fresh read; the claim is the one write that is never repeated.

use std::time::Duration;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, PostParams};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::error::MoverError;
use super::protocol::{CLAIM, Claim, GRANT, Grant, MayNotClaim, Permit, may_claim};
use crate::adapter::kubernetes::client::{RequestError, timed};

/// A conflict or a short silence of the API server must not cost a backup that is already stored.
const TRIES: u32 = 6;
const FIRST_WAIT: Duration = Duration::from_millis(250);

#[derive(Clone)]
pub(super) struct Mailbox {
    api: Api<ConfigMap>,
    name: String,
}

impl std::fmt::Debug for Mailbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mailbox").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Mailbox {
    pub(super) fn new(client: kube::Client, namespace: &str, name: &str) -> Self {
        Self { api: Api::namespaced(client, namespace), name: name.to_owned() }
    }

    fn failed(&self, what: &'static str) -> impl FnOnce(RequestError) -> MoverError {
        let name = self.name.clone();
        move |source| MoverError::Kubernetes { name, what, source }
    }

    async fn get(&self) -> Result<ConfigMap, MoverError> {
        timed(self.api.get(&self.name)).await.map_err(self.failed("read"))
    }

    /// Sets one key, over a fresh read, again on conflict.
    pub(super) async fn write(&self, key: &'static str, value: &impl Serialize) -> Result<(), MoverError> {
        let text = self.encode(key, value)?;
        let mut wait = FIRST_WAIT;
        for attempt in 1.. {
            let written = async {
                let mut map = timed(self.api.get(&self.name)).await?;
                map.data.get_or_insert_default().insert(key.to_owned(), text.clone());
                timed(self.api.replace(&self.name, &PostParams::default(), &map)).await
            };
            match written.await {
                Ok(_) => return Ok(()),
                Err(error) if attempt >= TRIES || error.is_not_found() || error.is_forbidden() => {
                    return Err(self.failed("written")(error));
                }
                Err(_) => tokio::time::sleep(wait).await,
            }
            wait *= 2;
        }
        Ok(())
    }

    fn encode(&self, key: &'static str, value: &impl Serialize) -> Result<String, MoverError> {
        serde_json::to_string(value).map_err(|source| MoverError::Protocol { name: self.name.clone(), key, source })
    }

    fn decode<T: DeserializeOwned>(&self, map: &ConfigMap, key: &'static str) -> Result<Option<T>, MoverError> {
        let text = map.data.as_ref().and_then(|data| data.get(key)).filter(|text| !text.is_empty());
        let read = text.map(|text| serde_json::from_str(text)).transpose();
        read.map_err(|source| MoverError::Protocol { name: self.name.clone(), key, source })
    }

    /// The operator's answer, once there is one.
    pub(super) async fn grant(&self) -> Result<Option<Grant>, MoverError> {
        self.decode(&self.get().await?, GRANT)
    }

    /// Writes the claim, once. The object is read fresh; a claim in it, whosever, or a grant other than `permit`, forbids
    /// it. The write is conditional on that read. Any error means: do not submit.
    ///
    /// A conflict says for certain that nothing was written: our own progress stands in the same object, and operators write
    /// there too. So all of it is looked at and tried again; a mover that gave up here would have to download again.
    pub(super) async fn claim(&self, permit: &Permit, claim: &Claim) -> Result<(), MoverError> {
        for _ in 1..TRIES {
            match self.try_claim(permit, claim).await {
                Err(MoverError::Kubernetes { source, .. }) if source.is_conflict() => {}
                other => return other,
            }
        }
        self.try_claim(permit, claim).await
    }

    async fn try_claim(&self, permit: &Permit, claim: &Claim) -> Result<(), MoverError> {
        let mut map = self.get().await?;
        let (standing, grant) = (self.decode::<Claim>(&map, CLAIM)?, self.decode::<Grant>(&map, GRANT)?);
        may_claim(standing.as_ref(), grant.as_ref(), permit).map_err(|why| match why {
            MayNotClaim::Claimed { by } => MoverError::Claimed { by },
            MayNotClaim::Changed => MoverError::BadGrant("was changed or taken back".to_owned()),
        })?;
        map.data.get_or_insert_default().insert(CLAIM.to_owned(), self.encode(CLAIM, claim)?);
        // `map` carries the resourceVersion of the read: a write in between makes this one fail.
        timed(self.api.replace(&self.name, &PostParams::default(), &map)).await.map_err(self.failed("claimed"))?;
        Ok(())
    }
}
