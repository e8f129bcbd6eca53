//! The proof of the seal: only the operator may read a static key, so only it can tell whether a backup opens with it.

use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use secrecy::SecretSlice;

use super::mover::MoverError;
use super::steps::{Work, failed};
use crate::adapter::kubernetes::client::timed;
use crate::datapath::seal::{self, SealError};
use crate::service::cluster::names;
use crate::service::opslifecycle::StepOutcome;

/// The reason where even the kind of seal differs.
pub(super) const SEAL_OTHER_TYPE: &str = "SealOtherType";

/// What the mover reported.
pub(super) struct Proof<'a> {
    /// `SHA256SUMS.sealed` and `SHA256SUMS` of the archive.
    pub sealed_sums: Vec<u8>,
    pub sums: Vec<u8>,
    /// The seal as the archive names it.
    pub kind: &'a str,
}

/// Why there is no proof.
pub(super) enum Refused {
    /// The key could not be read: says nothing about the backup.
    Unreadable(Box<StepOutcome>),
    /// The backup does not open with this cluster's key.
    NotProven { reason: &'static str, message: String },
}

/// Proves that this cluster's key opens the backup; the answer is a sentence for the journal.
pub(super) async fn prove(work: &Work<'_>, proof: &Proof<'_>) -> Result<String, Refused> {
    let seal = &work.frozen.seal;
    if !proof.kind.is_empty() && proof.kind != seal.kind {
        return Err(Refused::NotProven {
            reason: SEAL_OTHER_TYPE,
            message: format!("the snapshot is sealed with {}, this cluster with {}", proof.kind, seal.kind),
        });
    }
    let (Some(secret), Some(id)) = (&seal.secret, &seal.key_id) else {
        return Ok(format!(
            "not proven: the operator may not read the key of seal {}; everything else was checked",
            seal.kind
        ));
    };
    let key = key(work, secret).await.map_err(Refused::Unreadable)?;
    match seal::prove(&key, id, &proof.sealed_sums, &proof.sums) {
        Ok(()) => Ok(format!("proven: it opens with key {id}")),
        // A key that is none says nothing about the backup.
        Err(error @ SealError::KeyLength(_)) => {
            let message = format!("Secret {secret}: {error}. The backup stays as it is, not proven");
            Err(Refused::Unreadable(Box::new(StepOutcome::fatal(error.reason(), message))))
        }
        Err(error) => Err(Refused::NotProven { reason: error.reason(), message: error.to_string() }),
    }
}

/// A name for the static key, for the manifest; `None` where the operator cannot read the key.
pub(super) async fn fingerprint(work: &Work<'_>) -> Result<Option<String>, Box<StepOutcome>> {
    let Some(secret) = &work.frozen.seal.secret else { return Ok(None) };
    let key = key(work, secret).await?;
    let print = seal::fingerprint(&key);
    print.map(Some).map_err(|error| Box::new(StepOutcome::fatal(error.reason(), format!("Secret {secret}: {error}"))))
}

async fn key(work: &Work<'_>, secret: &str) -> Result<SecretSlice<u8>, Box<StepOutcome>> {
    let namespace = &work.operation.namespace;
    let api: Api<Secret> = Api::namespaced(work.call.ad.client.clone(), namespace);
    let found = timed(api.get_opt(secret)).await.map_err(|source| {
        let (kind, name) = ("Secret".to_owned(), secret.to_owned());
        Box::new(failed(&MoverError::Request { verb: "read", kind, namespace: namespace.clone(), name, source }))
    })?;
    let bytes = found.and_then(|secret| secret.data).and_then(|mut data| data.remove(names::UNSEAL_KEY_FIELD));
    let field = names::UNSEAL_KEY_FIELD;
    bytes.map(|bytes| SecretSlice::from(bytes.0)).ok_or_else(|| {
        let message = format!(
            "Secret {namespace}/{secret} has no data key {field}: without it no backup of this cluster can be opened"
        );
        Box::new(StepOutcome::fatal("UnsealKeyMissing", message))
    })
}
