//! Certificates and the unseal key: what is there, what is missing, what may be made.
//!
//! Certificates can always be made again. The unseal key is made once, before any volume exists, and never after: a new key
//! over old data would look like a working cluster that has forgotten everything.

use super::{
    apply::{Applier, Error as ApplyError},
    bootstrap::Stage,
    build::{hash, secrets},
    config::seal,
    facts::Facts,
    names,
    status::{TlsState, Trouble, reasons},
    tls::{self, IssueError, KeyedCert},
    validate::{TlsPlan, ValidatedCluster},
};
use crate::{
    adapter::kubernetes::client::{RequestError, timed},
    api::{SealType, conditions::reason},
};
use chrono::{DateTime, Utc};
use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client, ResourceExt};
use rand::RngCore;
use rustls::pki_types::{CertificateDer, pem::PemObject};
use secrecy::SecretString;
use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::time::Instant;

/// How many older authorities a bundle keeps beside the current one.
const OLDER_AUTHORITIES: usize = 2;
/// How long a user's Secret that was good is not asked for again. Nothing may watch Secrets that are not ours.
const TRUST: Duration = Duration::from_secs(600);

/// Why keys could not be brought into place.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A write failed.
    #[error(transparent)]
    Apply(#[from] ApplyError),
    /// Making a certificate failed.
    #[error(transparent)]
    Issue(#[from] IssueError),
    /// A Secret could not be read.
    #[error("failed to read Secret {name}")]
    Read {
        /// Its name.
        name: String,
        /// The refusal.
        #[source]
        source: RequestError,
    },
}

/// What the rest of the reconcile needs to know about certificates.
#[derive(Debug, Clone)]
pub struct Certificates {
    /// For the status.
    pub state: TlsState,
    /// The public CA bundle.
    pub bundle: Option<String>,
    /// Of the serving certificate, for the pod template.
    pub hash: Option<String>,
    /// The serving Secret as it should be; `None` where it is not ours.
    pub secret: Option<Secret>,
    /// Why no server that restarts would come back with it.
    pub obstacle: Option<Trouble>,
}

impl Certificates {
    /// None that can be used.
    fn bad(trouble: Trouble) -> Self {
        Self { state: TlsState::Bad(trouble.clone()), bundle: None, hash: None, secret: None, obstacle: Some(trouble) }
    }
}

/// A user's Secret, remembered for a while.
#[derive(Debug, Clone, Default)]
pub struct Remembered(Arc<Mutex<Option<Good>>>);

#[derive(Debug, Clone)]
struct Good {
    since: Instant,
    /// Of the cluster: a changed spec is a reason to look again at once.
    generation: i64,
    name: String,
    secret: Secret,
}

impl Remembered {
    async fn get(
        &self,
        client: &Client,
        namespace: &str,
        name: &str,
        generation: i64,
    ) -> Result<Option<Secret>, Error> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(good) = known
            && good.name == name
            && good.generation == generation
            && good.since.elapsed() < TRUST
        {
            return Ok(Some(good.secret));
        }
        let api: Api<Secret> = Api::namespaced(client.clone(), namespace);
        timed(api.get_opt(name)).await.map_err(|source| Error::Read { name: name.to_owned(), source })
    }

    fn keep(&self, name: &str, secret: &Secret, generation: i64) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let same = |good: &Good| good.name == name && good.generation == generation && good.since.elapsed() < TRUST;
        if !known.as_ref().is_some_and(same) {
            let (name, secret) = (name.to_owned(), secret.clone());
            *known = Some(Good { since: Instant::now(), generation, name, secret });
        }
    }
}

/// Certificates, whoever makes them.
pub async fn certificates(
    applier: &Applier,
    cluster: &ValidatedCluster,
    facts: &Facts,
    remembered: &Remembered,
    now: DateTime<Utc>,
) -> Result<Certificates, Error> {
    match &cluster.tls {
        TlsPlan::Off => {
            Ok(Certificates { state: TlsState::Off, bundle: None, hash: None, secret: None, obstacle: None })
        }
        TlsPlan::External => external(applier, cluster, facts, remembered, now).await,
        TlsPlan::Managed { rotation, extra_names } => {
            managed(applier, cluster, facts, *rotation, extra_names, now).await
        }
    }
}

async fn managed(
    applier: &Applier,
    cluster: &ValidatedCluster,
    facts: &Facts,
    rotation: Duration,
    extra: &[String],
    now: DateTime<Utc>,
) -> Result<Certificates, Error> {
    let authority = authority(applier, cluster, facts, now).await?;
    let server = names::server_secret(&cluster.name);
    let older = published(facts, &cluster.name).or_else(|| facts.secret_text(&server, "ca.crt"));
    let bundle = bundle(&authority.cert, older.as_deref(), now);
    let needed = tls::serving_names(&cluster.name, &cluster.namespace, extra);
    let current = facts
        .secret_text(&server, "tls.crt")
        .zip(facts.secret_text(&server, "tls.key"))
        .map(|(cert, key)| KeyedCert { cert, key: key.into() });
    let (serving, until) = if let Some(kept) = kept(current, &authority.cert, &needed, rotation, now) {
        kept
    } else {
        let fresh = tls::issue(&authority, &needed, rotation, now)?;
        match tls::judge(&fresh.cert, &fresh.key, &bundle, &needed, now) {
            Ok(until) => (fresh, until),
            Err(flaw) => {
                let bad =
                    Trouble::new(reason::TLS_SECRET_INVALID, format!("the certificate just issued is refused: {flaw}"));
                return Ok(Certificates { bundle: Some(bundle), ..Certificates::bad(bad) });
            }
        }
    };
    Ok(Certificates {
        state: TlsState::Good(until),
        hash: Some(hash::certificate(&serving.cert)),
        secret: Some(secrets::serving(cluster, &serving, &bundle)),
        bundle: Some(bundle),
        obstacle: None,
    })
}

/// The serving certificate as it is, and until when, unless it is time for another. One of an older authority is not kept,
/// although the bundle still believes it: who replaces the authority wants to be rid of what the old one signed.
fn kept(
    current: Option<KeyedCert>,
    authority: &str,
    needed: &BTreeSet<String>,
    rotation: Duration,
    now: DateTime<Utc>,
) -> Option<(KeyedCert, DateTime<Utc>)> {
    let current = current?;
    let until = tls::judge(&current.cert, &current.key, authority, needed, now).ok()?;
    (!tls::is_due(until, rotation, now)).then_some((current, until))
}

/// The cluster's own authority: as it is, or made now.
async fn authority(
    applier: &Applier,
    cluster: &ValidatedCluster,
    facts: &Facts,
    now: DateTime<Utc>,
) -> Result<KeyedCert, Error> {
    let name = names::ca_secret(&cluster.name);
    if let Some((cert, key)) = facts.secret_text(&name, "ca.crt").zip(facts.secret_text(&name, "ca.key")) {
        return Ok(KeyedCert { cert, key: key.into() });
    }
    let fresh = tls::new_authority(&cluster.name, &cluster.namespace, now)?;
    let secret = secrets::authority(cluster, &fresh);
    if facts.secrets.contains_key(&name) {
        // It exists without usable content: an authority can be made again.
        applier.ensure(facts.secrets.get(&name).map(AsRef::as_ref), secret).await?;
        return Ok(fresh);
    }
    if applier.create(secret).await? {
        return Ok(fresh);
    }
    // Made a moment ago and not seen by the watch yet, or somebody else's.
    let api: Api<Secret> = Api::namespaced(applier.client.clone(), &applier.namespace);
    let found = timed(api.get(&name)).await.map_err(|source| Error::Read { name: name.clone(), source })?;
    let text = |field: &str| {
        let bytes = found.data.as_ref()?.get(field)?;
        String::from_utf8(bytes.0.clone()).ok()
    };
    let ours = crate::adapter::kubernetes::owner::is_controlled_by(&found, &cluster.uid);
    match (ours, text("ca.crt"), text("ca.key")) {
        (true, Some(cert), Some(key)) => Ok(KeyedCert { cert, key: key.into() }),
        _ => Err(Error::Apply(ApplyError::NotOurs { kind: "Secret".into(), name })),
    }
}

/// The bundle that clients and the operator were given last.
fn published(facts: &Facts, cluster: &str) -> Option<String> {
    facts.config_maps.get(&names::ca_config_map(cluster))?.data.as_ref()?.get("ca.crt").cloned()
}

/// The current authority, and older ones that are still valid: until every pod was restarted, some serve certificates of
/// an older one.
fn bundle(current: &str, older: Option<&str>, now: DateTime<Utc>) -> String {
    let current = current.trim_end().to_owned() + "\n";
    // A user's bundle may hold several.
    let known: Vec<_> = pem_blocks(&current).iter().filter_map(|block| der(block)).collect();
    let mut all = current;
    let mut kept = 0;
    for block in pem_blocks(older.unwrap_or_default()) {
        let Some(der) = der(&block) else { continue };
        let valid = x509_parser::parse_x509_certificate(&der)
            .is_ok_and(|(_, cert)| cert.validity().not_after.timestamp() > now.timestamp());
        if valid && !known.contains(&der) && kept < OLDER_AUTHORITIES {
            all.push_str(&block);
            kept += 1;
        }
    }
    all
}

fn der(block: &str) -> Option<CertificateDer<'static>> {
    CertificateDer::from_pem_slice(block.as_bytes()).ok()
}

fn pem_blocks(text: &str) -> Vec<String> {
    const END: &str = "-----END CERTIFICATE-----";
    text.split_inclusive(END)
        .filter_map(|part| part.find("-----BEGIN CERTIFICATE-----").map(|start| format!("{}\n", &part[start..])))
        .filter(|block| block.contains(END))
        .collect()
}

async fn external(
    applier: &Applier,
    cluster: &ValidatedCluster,
    facts: &Facts,
    remembered: &Remembered,
    now: DateTime<Utc>,
) -> Result<Certificates, Error> {
    let name = names::server_secret(&cluster.name);
    let bad = |reason: &'static str, message: String| Certificates::bad(Trouble::new(reason, message));
    let Some(secret) = remembered.get(&applier.client, &applier.namespace, &name, cluster.generation).await? else {
        return Ok(bad(
            reason::TLS_SECRET_MISSING,
            format!(
                "spec.tls.mode is External and Secret {name} does not exist: create it with tls.crt, tls.key and ca.crt"
            ),
        ));
    };
    let text = |field: &str| {
        let bytes = secret.data.as_ref()?.get(field)?;
        String::from_utf8(bytes.0.clone()).ok().filter(|text| !text.is_empty())
    };
    let (Some(cert), Some(key), Some(bundle)) = (text("tls.crt"), text("tls.key"), text("ca.crt")) else {
        return Ok(bad(reason::TLS_SECRET_INVALID, format!("Secret {name} lacks one of tls.crt, tls.key and ca.crt")));
    };
    let key = SecretString::from(key);
    match tls::judge(&cert, &key, &bundle, &asked_for(cluster, 0..cluster.replicas), now) {
        Ok(until) => {
            remembered.keep(&name, &secret, cluster.generation);
            let hash = Some(hash::certificate(&cert));
            // Servers that were not restarted yet show what the authority before signed: whoever could not verify them
            // would take them for dead.
            let bundle = self::bundle(&bundle, published(facts, &cluster.name).as_deref(), now);
            Ok(Certificates { state: TlsState::Good(until), bundle: Some(bundle), hash, secret: None, obstacle: None })
        }
        Err(flaw) => {
            let bad =
                bad(reason::TLS_SECRET_INVALID, format!("the certificate in Secret {name} cannot be used: {flaw}"));
            let there = asked_for(cluster, facts.pods.keys().copied());
            let come_back = tls::is_good_but_for_its_end(&cert, &key, &bundle, &there, now);
            Ok(Certificates { obstacle: bad.obstacle.filter(|_| !come_back), ..bad })
        }
    }
}

/// What the operator and joining members ask these members for; what clients ask for is the user's business.
fn asked_for(cluster: &ValidatedCluster, members: impl Iterator<Item = u32>) -> BTreeSet<String> {
    let (name, namespace) = (&cluster.name, &cluster.namespace);
    members
        .map(|n| names::tls_name(name, namespace, &names::pod(name, n)))
        .chain([names::shared_tls_name(name, namespace)])
        .collect()
}

/// Sees to the key or credentials of the seal. The trouble says why pods could not unseal; nothing is restarted for it. `made` is
/// the key that the operator made, where servers run with it.
pub async fn unseal(
    applier: &Applier,
    cluster: &ValidatedCluster,
    facts: &Facts,
    stage: Stage,
    remembered: &Remembered,
    made: Option<&Secret>,
) -> Result<Option<Trouble>, Error> {
    let unseal = &cluster.spec.unseal;
    if !seal::is_key_ours(unseal) {
        return foreign_credentials(applier, cluster, remembered, made).await;
    }
    let name = names::unseal_secret(&cluster.name);
    let length = |secret: &Secret| static_key(secret).map(<[u8]>::len);
    let known = if let Some(secret) = facts.secrets.get(&name) {
        Some(length(secret))
    } else {
        let api: Api<Secret> = Api::namespaced(applier.client.clone(), &applier.namespace);
        let found = timed(api.get_opt(&name)).await.map_err(|source| Error::Read { name: name.clone(), source })?;
        found.as_ref().map(length)
    };
    match known {
        Some(Some(32)) => Ok(None),
        Some(found) => Ok(Some(Trouble::new(
            reasons::UNSEAL_KEY_INVALID,
            format!(
                "the static unseal key in Secret {name} has {} bytes instead of 32: put back the key that the data was sealed with",
                found.unwrap_or(0)
            ),
        ))),
        None => {
            let granted = facts.config_maps.contains_key(&names::bootstrap_config_map(&cluster.name));
            if stage == Stage::Bootstrapped || granted {
                return Ok(Some(Trouble::new(
                    reasons::UNSEAL_KEY_MISSING,
                    format!(
                        "Secret {name} with the unseal key is gone, and data sealed with it may exist: restore the Secret from your copy (data key `key`, 32 bytes). The operator makes no new one, because a new key cannot open old data; pods that run stay unsealed until they restart"
                    ),
                )));
            }
            let mut key = [0_u8; 32];
            rand::rng().fill_bytes(&mut key);
            applier.create(secrets::unseal_key(cluster, &key)).await?;
            Ok(None)
        }
    }
}

fn static_key(secret: &Secret) -> Option<&[u8]> {
    secret.data.as_ref()?.get(names::UNSEAL_KEY_FIELD).map(|key| key.0.as_slice())
}

async fn foreign_credentials(
    applier: &Applier,
    cluster: &ValidatedCluster,
    remembered: &Remembered,
    made: Option<&Secret>,
) -> Result<Option<Trouble>, Error> {
    let unseal = &cluster.spec.unseal;
    let Some(reference) = &unseal.credentials_secret_ref else { return Ok(None) };
    let name = &reference.name;
    let Some(secret) = remembered.get(&applier.client, &applier.namespace, name, cluster.generation).await? else {
        return Ok(Some(Trouble::new(
            reasons::SEAL_CREDENTIALS_MISSING,
            format!(
                "Secret {name} of spec.unseal.credentialsSecretRef does not exist: create it; pods wait for it, and servers that run keep the settings that they have"
            ),
        )));
    };
    let named_file = unseal.static_.as_ref().and_then(|seal| seal.current_key.as_ref()).is_some();
    if unseal.type_ == SealType::Static
        && !named_file
        && let Some(flaw) = flaw_of(&secret, name, made)
    {
        return Ok(Some(Trouble::new(reasons::UNSEAL_KEY_INVALID, flaw)));
    }
    remembered.keep(name, &secret, cluster.generation);
    Ok(None)
}

/// Why no server would open its data with the user's static key, if that can be said.
fn flaw_of(theirs: &Secret, name: &str, made: Option<&Secret>) -> Option<String> {
    let field = names::UNSEAL_KEY_FIELD;
    let length = static_key(theirs).map_or(0, <[u8]>::len);
    if length != 32 {
        return Some(format!("key `{field}` of Secret {name} has {length} bytes: a static unseal key has 32"));
    }
    let made = made.filter(|made| static_key(made) != static_key(theirs))?.name_any();
    Some(format!(
        "key `{field}` of Secret {name} is another one than that of Secret {made}, with which the servers run and which their data is sealed with: put the key of {made} into {name}, or take spec.unseal.credentialsSecretRef back. Until then the servers keep the settings that they have"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::{ByteString, apimachinery::pkg::apis::meta::v1::ObjectMeta};
    use secrecy::ExposeSecret;

    #[test]
    fn a_bundle_keeps_the_older_authority_once_and_drops_expired_ones() {
        let now: DateTime<Utc> = "2026-11-21T09:00:00Z".parse().unwrap();
        let old = tls::new_authority("kelp", "reef", now).unwrap();
        let new = tls::new_authority("kelp", "reef", now).unwrap();
        let both = bundle(&new.cert, Some(&old.cert), now);
        assert_eq!(both.matches("BEGIN").count(), 2);
        assert_eq!(bundle(&new.cert, Some(&both), now), both, "stable");
        let later: DateTime<Utc> = "2040-01-01T00:00:00Z".parse().unwrap();
        assert_eq!(bundle(&new.cert, Some(&both), later).matches("BEGIN").count(), 1);
    }

    #[test]
    fn a_users_bundle_stays_whole_beside_what_running_servers_were_signed_with() {
        let now: DateTime<Utc> = "2026-11-21T09:00:00Z".parse().unwrap();
        let [old, root, next] = [(); 3].map(|()| tls::new_authority("kelp", "reef", now).unwrap().cert);
        let theirs = format!("{root}{next}");
        let published = bundle(&theirs, Some(&old), now);
        assert!(published.starts_with(theirs.trim_end()));
        assert_eq!(published.matches("BEGIN").count(), 3, "two of theirs and the one before");
        assert_eq!(bundle(&theirs, Some(&published), now), published, "stable");
    }

    #[test]
    fn a_static_key_of_the_users_must_be_the_one_that_the_data_is_sealed_with() {
        let secret = |name: &str, key: &[u8]| Secret {
            metadata: ObjectMeta { name: Some(name.into()), ..ObjectMeta::default() },
            data: Some([("key".to_owned(), ByteString(key.to_vec()))].into()),
            ..Secret::default()
        };
        let made = secret("kelp-unseal-key", &[7; 32]);
        let flaw = |key: &[u8], made: Option<&Secret>| flaw_of(&secret("mine", key), "mine", made);
        assert_eq!(flaw(&[7; 32], Some(&made)), None, "the same key under another name");
        assert_eq!(flaw(&[8; 32], None), None, "nobody runs with another one");
        let other = flaw(&[8; 32], Some(&made)).unwrap();
        assert!(other.contains("mine") && other.contains("kelp-unseal-key"), "{other}");
        assert!(flaw(b"short", None).unwrap().contains("has 5 bytes"));
    }

    // A client wants a runtime, though nothing is asked of it.
    #[tokio::test]
    async fn a_certificate_stands_in_the_way_of_those_that_run_only_if_it_does_them_harm() {
        drop(rustls::crypto::ring::default_provider().install_default());
        let client = Client::try_from(kube::Config::new("http://127.0.0.1:1".parse().unwrap())).unwrap();
        let cluster = crate::service::cluster::validate::tests::valid(|s| {
            s["tls"] = serde_json::json!({"enabled": true, "mode": "External"});
            s["replicas"] = serde_json::json!(5);
        });
        let applier = Applier {
            client,
            namespace: "reef".into(),
            cluster: "kelp".into(),
            uid: cluster.uid.clone(),
            settled: crate::service::cluster::apply::Settled::default(),
        };
        let now: DateTime<Utc> = "2026-11-21T09:00:00Z".parse().unwrap();
        let three = Facts { pods: (0..3).map(|n| (n, Arc::default())).collect(), ..Facts::default() };
        let authority = tls::new_authority("kelp", "reef", now).unwrap();
        let for_members = |count: u32| asked_for(&cluster, 0..count);
        let issued = |count: u32| tls::issue(&authority, &for_members(count), tls::DEFAULT_ROTATION, now).unwrap();
        let told = async |cert: &str, key: &KeyedCert, now: DateTime<Utc>| {
            let fields = [("tls.crt", cert), ("tls.key", key.key.expose_secret()), ("ca.crt", authority.cert.as_str())];
            let data = fields.map(|(field, text)| (field.to_owned(), ByteString(text.as_bytes().to_vec())));
            let secret = Secret { data: Some(data.into()), ..Secret::default() };
            let remembered = Remembered::default();
            remembered.keep("kelp-tls-server", &secret, cluster.generation);
            let found = external(&applier, &cluster, &three, &remembered, now).await.unwrap();
            (matches!(found.state, TlsState::Bad(_)), found.obstacle.is_some())
        };
        let (five, some, few) = (issued(5), issued(3), issued(2));
        assert_eq!(told(&five.cert, &five, now).await, (false, false));
        assert_eq!(told(&some.cert, &some, now).await, (true, false), "it lacks only those that are to come");
        assert_eq!(told(&few.cert, &few, now).await, (true, true), "it lacks one that runs");
        let late: DateTime<Utc> = "2028-01-01T00:00:00Z".parse().unwrap();
        assert_eq!(told(&five.cert, &five, late).await, (true, false), "those that run serve it, expired as it is");
        assert_eq!(told(&five.cert, &some, now).await, (true, true), "another key: no server starts with it");
    }

    #[test]
    fn a_serving_certificate_is_kept_until_it_is_due_or_its_authority_was_replaced() {
        let now: DateTime<Utc> = "2026-11-21T09:00:00Z".parse().unwrap();
        let [old, new] = [(); 2].map(|()| tls::new_authority("kelp", "reef", now).unwrap());
        let names = tls::serving_names("kelp", "reef", &[]);
        let rotation = tls::DEFAULT_ROTATION;
        let serving = || Some(tls::issue(&old, &names, rotation, now).unwrap());
        assert!(kept(serving(), &old.cert, &names, rotation, now).is_some());
        assert!(kept(serving(), &new.cert, &names, rotation, now).is_none(), "signed by an authority that is gone");
        assert!(kept(serving(), &old.cert, &names, rotation * 24, now).is_none(), "due");
        assert!(kept(None, &old.cert, &names, rotation, now).is_none());
    }
}
