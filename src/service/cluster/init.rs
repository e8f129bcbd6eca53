//! The first initialisation through the API, for clusters without self-init.
//!
//! The answer to `sys/init` exists once: root token and recovery keys. If it is lost nobody can ever administer that data. So
//! the intent is on record before the call: the Secret that will hold the answer is made first, without a token, naming the
//! volume. A volume that says it is initialised while its Secret still has no token has lost its answer; nobody has used
//! it, since the cluster was never called available. It is given up and initialised again, once (decided by a
//! compare-and-swap on that Secret, so that an answer which is stored at the same moment wins or loses, never both).

use super::{
    apply::{Applier, Error as ApplyError},
    build::{config_maps::GRANTED_VOLUME, secrets},
    facts::Facts,
    members::Member,
    names,
    trouble::{Trouble, reasons},
    validate::ValidatedCluster,
};
use crate::adapter::{
    Adapters,
    kubernetes::{
        apply::{ApplyError as WriteError, delete},
        client::{RequestError, timed},
    },
    openbao::{Error as BaoError, HealthState, InitRequest, InitResponse},
};
use k8s_openapi::{
    ByteString,
    api::core::v1::{ConfigMap, PersistentVolumeClaim, Pod, Secret},
};
use kube::{
    Api, ResourceExt,
    api::{Patch, PatchParams},
};
use serde_json::json;
use std::time::Duration;

/// Recovery keys made, and how many of them a recovery needs.
const SHARES: (u8, u8) = (5, 3);
/// How often storing the answer is tried. Each try is a request with its own timeout.
const TRIES: u32 = 8;
/// Annotation of the Secret: UID of the volume that was, or is about to be, initialised.
const VOLUME: &str = "openbao.org/init-volume";
/// Annotation of the Secret: UID of a volume that was given up because the answer to its initialisation was lost.
const GIVEN_UP: &str = "openbao.org/init-given-up";
/// Key of the Secret.
const TOKEN: &str = "token";

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
    /// The intent could not be put on record: nothing was done.
    #[error(transparent)]
    Intent(#[from] ApplyError),
    /// The Secret could not be changed.
    #[error("failed to write Secret {name}")]
    Store {
        /// The Secret.
        name: String,
        /// The refusal.
        #[source]
        source: RequestError,
    },
    /// Whether it was stored could not be asked.
    #[error("failed to read Secret {name}")]
    Read {
        /// The Secret.
        name: String,
        /// The refusal.
        #[source]
        source: RequestError,
    },
    /// A volume could not be given up.
    #[error(transparent)]
    GiveUp(#[from] WriteError),
}

/// What the Secret says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Record {
    has_token: bool,
    volume: Option<String>,
    given_up: Option<String>,
}

impl Record {
    fn of(secret: &Secret) -> Self {
        let note = |key: &str| secret.annotations().get(key).cloned();
        Self { has_token: has_token(secret), volume: note(VOLUME), given_up: note(GIVEN_UP) }
    }
}

fn has_token(secret: &Secret) -> bool {
    secret.data.as_ref().and_then(|data| data.get(TOKEN)).is_some_and(|token| !token.0.is_empty())
}

/// What to do about ordinal 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Nothing,
    /// Put the intent on record, then initialise.
    Begin,
    /// The Secret holds the token of something else.
    Taken,
    /// The answer was lost: start over.
    GiveUp,
    /// It was lost again, or it is not known whose data this is.
    Lost,
}

/// Decides. `empty` is ordinal 0's own word: `None` while it does not answer. `granted`: its volume is the one that may be
/// initialised.
fn decide(record: Option<&Record>, empty: Option<bool>, volume: &str, granted: bool) -> Step {
    match (empty, record) {
        (Some(true), None) if granted => Step::Begin,
        (Some(true), Some(record)) if record.has_token => Step::Taken,
        (Some(true), Some(_)) if granted => Step::Begin,
        (Some(false), Some(record)) if !record.has_token => {
            let same = |uid: &Option<String>| uid.as_deref() == Some(volume);
            let first_time = record.given_up.is_none() || same(&record.given_up);
            if same(&record.volume) && first_time { Step::GiveUp } else { Step::Lost }
        }
        (None | Some(_), _) => Step::Nothing,
    }
}

/// Initialises ordinal 0 if it is empty, answers, and its volume is the one that was granted; starts over where the answer
/// was lost.
pub async fn run(
    ad: &Adapters,
    applier: &Applier,
    spec: &ValidatedCluster,
    facts: &Facts,
    members: &[Member],
) -> Result<Option<Trouble>, Error> {
    let Some(first) = members.iter().find(|member| member.ordinal == 0) else { return Ok(None) };
    let empty = match (first.state(), first.health.as_ref()) {
        (Some(HealthState::Uninitialized), _) => Some(true),
        (Some(_), Some(health)) if health.initialized => Some(false),
        _ => None,
    };
    let Some(volume) = facts.claims.get(&0).and_then(|claim| claim.uid()) else { return Ok(None) };
    if empty.is_none() || !ad.leadership.still_leader() {
        return Ok(None);
    }
    let granted = facts
        .config_maps
        .get(&names::bootstrap_config_map(&spec.name))
        .is_some_and(|object| object.annotations().get(GRANTED_VOLUME) == Some(&volume));
    let name = names::root_token_secret(&spec.name);
    let found = read(applier, &name).await?;
    let record = found.as_ref().map(Record::of);
    match decide(record.as_ref(), empty, &volume, granted) {
        Step::Nothing => Ok(None),
        Step::Begin => {
            let intent = match found {
                Some(secret) => noted(applier, secret, VOLUME, &volume).await?,
                None => begun(applier, spec, &volume).await?,
            };
            // Somebody else was faster: look again.
            let Some(intent) = intent else { return Ok(None) };
            let failed = |source| Error::Init { pod: first.name.clone(), source };
            let Some(client) = first.client() else { return Ok(None) };
            let request = InitRequest { recovery_shares: SHARES.0, recovery_threshold: SHARES.1 };
            let answer = client.map_err(failed)?.init(&request).await.map_err(failed)?;
            store(applier, intent, &answer).await?;
            Ok(None)
        }
        Step::Taken => Ok(Some(Trouble::new(
            reasons::INIT_ANSWER_LOST,
            format!(
                "Secret {name} of an earlier cluster exists: delete it, or keep its token elsewhere, so that this cluster can be initialised"
            ),
        ))),
        Step::GiveUp => {
            let Some(secret) = found else { return Ok(None) };
            if noted(applier, secret, GIVEN_UP, &volume).await?.is_some() {
                tracing::warn!(volume, "the answer to the first initialisation was lost: starting over on new volumes");
                give_up(applier, facts).await?;
            }
            Ok(Some(Trouble::new(
                reasons::INIT_ANSWER_LOST,
                "the answer to the first initialisation was lost before it was stored: the volumes, which nobody has used yet, are replaced and initialised again",
            )))
        }
        Step::Lost => Ok(Some(Trouble::new(
            reasons::INIT_ANSWER_LOST,
            format!(
                "OpenBao was initialised and Secret {name} has no root token: if somebody has it, put it there as key `token`; if nobody has, delete the cluster with its volumes and that Secret and apply it again; it holds no data yet"
            ),
        ))),
    }
}

/// Whether an initialisation was begun whose answer is not stored: the first start is not over.
pub async fn is_pending(applier: &Applier) -> Result<bool, Error> {
    let found = read(applier, &names::root_token_secret(&applier.cluster)).await?;
    Ok(found.is_some_and(|secret| secret.annotations().contains_key(VOLUME) && !has_token(&secret)))
}

/// The intent: the Secret without a token. `None`: it exists by now.
async fn begun(applier: &Applier, spec: &ValidatedCluster, volume: &str) -> Result<Option<Secret>, Error> {
    let mut secret = secrets::root_token(spec);
    secret.annotations_mut().insert(VOLUME.to_owned(), volume.to_owned());
    let name = secret.name_any();
    if applier.create(secret).await? { read(applier, &name).await } else { Ok(None) }
}

/// One more annotation. `None`: the Secret was changed meanwhile, so what was decided may no longer hold.
async fn noted(applier: &Applier, mut secret: Secret, key: &str, value: &str) -> Result<Option<Secret>, Error> {
    secret.annotations_mut().insert(key.to_owned(), value.to_owned());
    replace(applier, &secret).await
}

async fn store(applier: &Applier, mut secret: Secret, answer: &InitResponse) -> Result<(), Error> {
    let name = secret.name_any();
    let volume = secret.annotations().get(VOLUME).cloned();
    let keys = answer.recovery_keys_base64.join("\n").into_bytes();
    let mut last = None;
    for attempt in 0..TRIES {
        let data = secret.data.get_or_insert_default();
        data.insert(TOKEN.into(), ByteString(answer.root_token.as_bytes().to_vec()));
        data.insert("recovery-keys".into(), ByteString(keys.clone()));
        match replace(applier, &secret).await {
            Ok(Some(_)) => return Ok(()),
            Ok(None) => match read(applier, &name).await {
                // Given up, or initialised by somebody else: this answer is worth nothing any more.
                Ok(Some(now)) if now.annotations().contains_key(GIVEN_UP) && Record::of(&now).given_up == volume => {
                    return Ok(());
                }
                Ok(Some(now)) if has_token(&now) => return Ok(()),
                Ok(Some(now)) => secret = now,
                // Deleted a moment ago: made again.
                Ok(None) => {
                    secret.metadata.resource_version = None;
                    secret.metadata.uid = None;
                    if applier.create(secret.clone()).await? {
                        return Ok(());
                    }
                }
                Err(error) => last = Some(error),
            },
            Err(error) => {
                tracing::warn!(error = crate::causes::chain(&error), "the root token is not stored yet");
                last = Some(error);
            }
        }
        tokio::time::sleep(Duration::from_millis(250) * 2_u32.pow(attempt.min(5))).await;
    }
    last.map_or(Ok(()), Err)
}

/// Writes a Secret over the version it was read as. `None`: that version is history.
async fn replace(applier: &Applier, secret: &Secret) -> Result<Option<Secret>, Error> {
    let api: Api<Secret> = Api::namespaced(applier.client.clone(), &applier.namespace);
    let name = secret.name_any();
    // The resourceVersion makes it a compare-and-swap.
    let patch = json!({
        "metadata": {"resourceVersion": secret.resource_version(), "uid": secret.uid(), "annotations": secret.annotations()},
        "data": secret.data
    });
    match timed(api.patch(&name, &PatchParams::default(), &Patch::Merge(&patch))).await {
        Ok(written) => Ok(Some(written)),
        Err(error) if error.is_conflict() || error.is_not_found() => Ok(None),
        Err(source) => Err(Error::Store { name, source }),
    }
}

/// Every pod with its volume. The grant goes first: new volumes get a new one.
async fn give_up(applier: &Applier, facts: &Facts) -> Result<(), Error> {
    let (client, namespace) = (&applier.client, &applier.namespace);
    if let Some(grant) = facts.config_maps.get(&names::bootstrap_config_map(&applier.cluster)) {
        delete::<ConfigMap>(client, namespace, &grant.name_any(), &grant.uid().unwrap_or_default()).await?;
    }
    for claim in facts.claims.values() {
        delete::<PersistentVolumeClaim>(client, namespace, &claim.name_any(), &claim.uid().unwrap_or_default()).await?;
    }
    for pod in facts.pods.values() {
        delete::<Pod>(client, namespace, &pod.name_any(), &pod.uid().unwrap_or_default()).await?;
    }
    Ok(())
}

async fn read(applier: &Applier, name: &str) -> Result<Option<Secret>, Error> {
    let api: Api<Secret> = Api::namespaced(applier.client.clone(), &applier.namespace);
    timed(api.get_opt(name)).await.map_err(|source| Error::Read { name: name.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(has_token: bool, volume: &str, given_up: Option<&str>) -> Record {
        Record { has_token, volume: Some(volume.into()), given_up: given_up.map(str::to_owned) }
    }

    #[test]
    fn only_an_empty_member_on_the_granted_volume_is_initialised() {
        assert_eq!(decide(None, Some(true), "v1", true), Step::Begin);
        assert_eq!(decide(None, Some(true), "v1", false), Step::Nothing);
        assert_eq!(decide(None, None, "v1", true), Step::Nothing, "silence proves nothing");
        assert_eq!(decide(None, Some(false), "v1", true), Step::Nothing, "a person was faster: theirs to keep");
        assert_eq!(decide(Some(&record(true, "v0", None)), Some(true), "v1", true), Step::Taken);
    }

    #[test]
    fn an_intent_without_an_answer_is_repeated_while_the_volume_is_empty() {
        assert_eq!(decide(Some(&record(false, "v1", None)), Some(true), "v1", true), Step::Begin);
        assert_eq!(decide(Some(&record(false, "v1", Some("v1"))), Some(true), "v2", true), Step::Begin);
    }

    #[test]
    fn a_lost_answer_is_made_good_once_and_then_left_to_a_person() {
        assert_eq!(decide(Some(&record(false, "v1", None)), Some(false), "v1", true), Step::GiveUp);
        let begun = record(false, "v1", Some("v1"));
        assert_eq!(decide(Some(&begun), Some(false), "v1", false), Step::GiveUp, "killed in the middle: goes on");
        assert_eq!(decide(Some(&record(false, "v2", Some("v1"))), Some(false), "v2", true), Step::Lost);
    }

    #[test]
    fn data_of_another_volume_than_the_one_on_record_is_never_given_up() {
        assert_eq!(decide(Some(&record(false, "v1", None)), Some(false), "v9", true), Step::Lost);
        let nameless = Record { has_token: false, volume: None, given_up: None };
        assert_eq!(decide(Some(&nameless), Some(false), "v1", true), Step::Lost);
        assert_eq!(decide(Some(&record(true, "v1", None)), Some(false), "v1", true), Step::Nothing);
    }
}
