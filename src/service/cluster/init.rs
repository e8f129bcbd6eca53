//! The first initialisation through the API, for clusters without self-init.
//!
//! The answer to `sys/init` exists once: root token and recovery keys. It goes into a Secret before anything else happens,
//! and if it is lost nobody can ever administer that data.

use super::{
    apply::{Applier, Error as ApplyError},
    build::{config_maps::GRANTED_VOLUME, secrets},
    facts::Facts,
    names,
    observe::Member,
    status::{Trouble, reasons},
    validate::ValidatedCluster,
};
use crate::{
    adapter::{
        Adapters,
        kubernetes::client::{RequestError, timed},
        openbao::{Error as BaoError, HealthState, InitRequest},
    },
    api::OpenBaoClusterStatus,
};
use k8s_openapi::api::core::v1::Secret;
use kube::{Api, ResourceExt};
use std::time::Duration;

/// Recovery keys made, and how many of them a recovery needs.
const SHARES: (u8, u8) = (5, 3);
/// How often storing the answer is tried. Each try is a request with its own timeout.
const TRIES: u32 = 8;

/// Why initialisation did not happen.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// OpenBao refused or did not answer.
    #[error("failed to initialise OpenBao at pod {pod}")]
    Init {
        /// Ordinal 0.
        pod: String,
        /// Its answer.
        #[source]
        source: BaoError,
    },
    /// The answer could not be stored.
    #[error("OpenBao was initialised and its root token could not be stored")]
    Store(#[source] ApplyError),
    /// Whether it was stored could not be asked.
    #[error("failed to read Secret {name}")]
    Read {
        /// The Secret.
        name: String,
        /// The refusal.
        #[source]
        source: RequestError,
    },
}

/// Initialises ordinal 0 if it is empty, answers, and its volume is the one that was granted.
pub async fn run(
    ad: &Adapters,
    applier: &Applier,
    spec: &ValidatedCluster,
    facts: &Facts,
    members: &[Member],
) -> Result<Option<Trouble>, Error> {
    let first = members.iter().find(|member| member.ordinal == 0 && member.state() == Some(HealthState::Uninitialized));
    let Some(first) = first else { return Ok(None) };
    let volume = facts.claims.get(&0).and_then(|claim| claim.uid());
    let granted = facts
        .config_maps
        .get(&names::bootstrap_config_map(&spec.name))
        .and_then(|object| object.annotations().get(GRANTED_VOLUME).cloned());
    if granted.is_none() || granted != volume || !ad.leadership.still_leader() {
        return Ok(None);
    }
    let name = names::root_token_secret(&spec.name);
    if stored(applier, &name).await? {
        return Ok(Some(Trouble::new(
            reasons::INIT_ANSWER_LOST,
            format!(
                "Secret {name} of an earlier cluster exists: delete it, or keep its token elsewhere, so that this cluster can be initialised"
            ),
        )));
    }
    let failed = |source| Error::Init { pod: first.name.clone(), source };
    let Some(client) = first.client() else { return Ok(None) };
    let request = InitRequest { recovery_shares: SHARES.0, recovery_threshold: SHARES.1 };
    let answer = client.map_err(failed)?.init(&request).await.map_err(failed)?;
    let secret = secrets::root_token(spec, &answer.root_token, &answer.recovery_keys_base64);
    let mut last = None;
    for attempt in 0..TRIES {
        match applier.create(secret.clone()).await {
            Ok(_) => return Ok(None),
            Err(error) => {
                tracing::warn!(error = crate::causes::chain(&error), "the root token is not stored yet");
                last = Some(error);
            }
        }
        tokio::time::sleep(Duration::from_millis(250) * 2_u32.pow(attempt.min(5))).await;
    }
    last.map_or(Ok(None), |error| Err(Error::Store(error)))
}

/// Whether the answer was lost: initialised, and no Secret.
pub async fn lost(
    applier: &Applier,
    spec: &ValidatedCluster,
    facts: &Facts,
    status: &OpenBaoClusterStatus,
) -> Result<Option<Trouble>, Error> {
    let name = names::root_token_secret(&spec.name);
    // Once the cluster has been in use, people may well have taken the token away.
    if spec.self_init
        || status.initialized == Some(true)
        || facts.secrets.contains_key(&name)
        || stored(applier, &name).await?
    {
        return Ok(None);
    }
    Ok(Some(Trouble::new(
        reasons::INIT_ANSWER_LOST,
        format!(
            "OpenBao was initialised and Secret {name} with its root token does not exist: if nobody has the token, delete the cluster with its volumes and apply it again; it holds no data yet"
        ),
    )))
}

async fn stored(applier: &Applier, name: &str) -> Result<bool, Error> {
    let api: Api<Secret> = Api::namespaced(applier.client.clone(), &applier.namespace);
    let found = timed(api.get_metadata_opt(name)).await;
    found.map(|found| found.is_some()).map_err(|source| Error::Read { name: name.to_owned(), source })
}
