//! Certificates and the unseal key: what is there, what is missing, what may be made.
//!
//! Certificates can always be made again. The unseal key is made once, before any volume exists, and never after: a new key
//! over old data would look like a working cluster that has forgotten everything.

use super::{
    apply::{Applier, Error as ApplyError},
    asked::Asked,
    authorities,
    bootstrap::Stage,
    build::{config_maps::GRANTED_VOLUME, hash, secrets},
    config::{SHARED_FILE, seal},
    facts::Facts,
    headcount, last_copy, names, static_key,
    tls::{self, IssueError, KeyedCert},
    trouble::{TlsState, Trouble, reasons},
    validate::{TlsPlan, ValidatedCluster},
};
use crate::{
    adapter::kubernetes::{
        client::{RequestError, timed},
        owner::is_controlled_by,
    },
    api::conditions::reason,
    service::backup::opened::Opened,
};
use chrono::{DateTime, Utc};
use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client, ResourceExt};
use rand::RngCore;
use secrecy::SecretString;
use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::time::Instant;

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

/// Certificates, whoever makes them. `believed` is the bundle of the last look, `new` whether the spec asks for something new.
pub async fn certificates(
    applier: &Applier,
    cluster: &ValidatedCluster,
    facts: &Facts,
    remembered: &Remembered,
    believed: &mut Option<String>,
    new: bool,
    now: DateTime<Utc>,
) -> Result<Certificates, Error> {
    let found = match &cluster.tls {
        TlsPlan::Off => Certificates { state: TlsState::Off, bundle: None, hash: None, secret: None, obstacle: None },
        TlsPlan::External => external(applier, cluster, facts, remembered, now).await?,
        TlsPlan::Managed { rotation, extra_names } => {
            let asked = Asked::of(cluster, extra_names, new);
            managed(applier, cluster, facts, *rotation, &asked, believed.as_deref(), now).await?
        }
    };
    if let Some(bundle) = &found.bundle {
        *believed = Some(bundle.clone());
    }
    Ok(found)
}

async fn managed(
    applier: &Applier,
    cluster: &ValidatedCluster,
    facts: &Facts,
    rotation: Duration,
    asked: &Asked,
    believed: Option<&str>,
    now: DateTime<Utc>,
) -> Result<Certificates, Error> {
    let server = names::server_secret(&cluster.name);
    // Its Secret may be gone as well; the operator remembers.
    let before = facts.secret_text(&server, "ca.crt").or_else(|| believed.map(str::to_owned));
    let before = before.or_else(|| authorities::under_theirs(facts, &cluster.name, &cluster.uid)).unwrap_or_default();
    let (authority, older) = authority(applier, cluster, facts, &before, now).await?;
    let bundle = authorities::bundle(&authority.cert, &older);
    let current = facts
        .secret_text(&server, "tls.crt")
        .zip(facts.secret_text(&server, "tls.key"))
        .map(|(cert, key)| KeyedCert { cert, key: key.into() });
    let (serving, until) = if let Some(kept) =
        kept(current, &authority.cert, &asked.enough, rotation, &cluster.uid, now)
    {
        kept
    } else {
        let fresh = tls::issue(&authority, &asked.all, rotation, now)?;
        match tls::judge(&fresh.cert, &fresh.key, &bundle, &asked.all, now) {
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
    uid: &str,
    now: DateTime<Utc>,
) -> Option<(KeyedCert, DateTime<Utc>)> {
    let current = current?;
    let until = tls::judge(&current.cert, &current.key, authority, needed, now).ok()?;
    (!tls::is_due(until, rotation, uid, now)).then_some((current, until))
}

/// The cluster's own authority, as it is, or made or renewed now, and the older ones that are believed beside it. `before` is what
/// was believed last.
async fn authority(
    applier: &Applier,
    cluster: &ValidatedCluster,
    facts: &Facts,
    before: &str,
    now: DateTime<Utc>,
) -> Result<(KeyedCert, String), Error> {
    let name = names::ca_secret(&cluster.name);
    let known: Option<&Secret> = facts.secrets.get(&name).map(AsRef::as_ref);
    let ours = authorities::ours(facts, &name, &cluster.uid);
    if let Some(current) = known.and_then(keyed) {
        let older = authorities::beside_own(&current.cert, ours, before, now);
        if let Some(renewed) = tls::renewed(&current, &cluster.name, &cluster.namespace, now)? {
            let older = authorities::older(&renewed.cert, &authorities::bundle(&current.cert, &older), now);
            applier.ensure(known, secrets::authority(cluster, &renewed, &older)).await?;
            return Ok((renewed, older));
        }
        if let Some(ours) = ours {
            authorities::keep(applier, ours, &older).await?;
        }
        return Ok((current, older));
    }
    let fresh = tls::new_authority(&cluster.name, &cluster.namespace, now)?;
    let older = authorities::beside_own(&fresh.cert, ours, before, now);
    let secret = secrets::authority(cluster, &fresh, &older);
    if known.is_some() {
        // It exists without usable content: an authority can be made again.
        applier.ensure(known, secret).await?;
        return Ok((fresh, older));
    }
    if applier.create(secret).await? {
        return Ok((fresh, older));
    }
    // Made a moment ago and not seen by the watch yet, or somebody else's.
    let api: Api<Secret> = Api::namespaced(applier.client.clone(), &applier.namespace);
    let found = timed(api.get(&name)).await.map_err(|source| Error::Read { name: name.clone(), source })?;
    let current = keyed(&found).filter(|_| is_controlled_by(&found, &cluster.uid));
    let Some(current) = current else {
        return Err(Error::Apply(ApplyError::NotOurs { kind: "Secret".into(), name }));
    };
    let older = authorities::beside_own(&current.cert, Some(&found), before, now);
    Ok((current, older))
}

/// The authority in a Secret.
fn keyed(secret: &Secret) -> Option<KeyedCert> {
    let text = |field: &str| authorities::text(secret, field).filter(|text| !text.is_empty());
    text("ca.crt").zip(text("ca.key")).map(|(cert, key)| KeyedCert { cert, key: key.into() })
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
    let state = match tls::judge(&cert, &key, &bundle, &asked_for(cluster, 0..cluster.replicas), now) {
        Ok(until) => {
            remembered.keep(&name, &secret, cluster.generation);
            TlsState::Good(until)
        }
        Err(flaw) => {
            let bad =
                bad(reason::TLS_SECRET_INVALID, format!("the certificate in Secret {name} cannot be used: {flaw}"));
            let there = asked_for(cluster, there(facts).into_iter());
            if tls::judge(&cert, &key, &bundle, &there, now).is_err() {
                let come_back = tls::is_good_but_for_its_end(&cert, &key, &bundle, &there, now);
                return Ok(Certificates { obstacle: bad.obstacle.filter(|_| !come_back), ..bad });
            }
            // It lacks only those that are to come: the others do not wait for them with one that ends.
            bad.state
        }
    };
    let hash = Some(hash::certificate(&cert));
    // Servers that were not restarted yet show what the authority before signed: whoever could not verify them would take them
    // for dead.
    let memory = authorities::under_theirs(facts, &cluster.name, &cluster.uid);
    let own = authorities::ours(facts, &names::ca_secret(&cluster.name), &cluster.uid);
    let older = authorities::beside_theirs(&bundle, own, memory.as_deref(), now);
    let bundle = authorities::bundle(&bundle, &older);
    authorities::keep_theirs(applier, cluster, facts, &bundle).await?;
    Ok(Certificates { state, bundle: Some(bundle), hash, secret: None, obstacle: None })
}

/// The members that there are, those included whose pod is away for a moment: it comes back with what the others start with.
fn there(facts: &Facts) -> BTreeSet<u32> {
    let count = facts.stateful_set.as_deref().and_then(headcount::of).unwrap_or_default();
    facts.pods.keys().copied().chain(0..count).collect()
}

/// What the operator and joining members ask these members for; what clients ask for is the user's business.
fn asked_for(cluster: &ValidatedCluster, members: impl Iterator<Item = u32>) -> BTreeSet<String> {
    let (name, namespace) = (&cluster.name, &cluster.namespace);
    members
        .map(|n| names::tls_name(name, namespace, &names::pod(name, n)))
        .chain([names::shared_tls_name(name, namespace)])
        .collect()
}

/// Sees to the key or credentials of the seal. The trouble says why pods could not unseal; nothing is restarted for it. `in_use`
/// names the Secret with whose static key the servers run, `opened` what a key must open that somebody put into it since.
pub async fn unseal(
    applier: &Applier,
    cluster: &ValidatedCluster,
    facts: &Facts,
    stage: Stage,
    remembered: &Remembered,
    in_use: Option<&str>,
    opened: Option<&Opened>,
) -> Result<Option<Trouble>, Error> {
    let unseal = &cluster.spec.unseal;
    if !seal::is_key_ours(unseal) {
        return foreign_credentials(applier, cluster, facts, remembered, in_use, opened).await;
    }
    let (name, field) = (names::unseal_secret(&cluster.name), names::UNSEAL_KEY_FIELD);
    let found = read(applier, facts, &name).await?;
    match found.as_deref().map(|secret| static_key::of(secret, field).unwrap_or_default()) {
        Some(written) => {
            let Some(key) = static_key::decoded(written) else {
                return Ok(Some(Trouble::new(
                    reasons::UNSEAL_KEY_INVALID,
                    format!(
                        "key `{field}` of Secret {name} {}: put back the key that the data was sealed with",
                        static_key::is_no_key(written)
                    ),
                )));
            };
            let other = beside(applier, facts, &name, in_use).await?;
            let flaw = other.and_then(|other| static_key::another(&key, field, &name, &other, &cluster.name));
            let flaw = flaw.or_else(|| opened?.flaw_of(&key, seal::static_key_id(unseal), field, &name));
            Ok(flaw.map(|flaw| Trouble::new(reasons::UNSEAL_KEY_INVALID, flaw)))
        }
        None => {
            let grant = facts.config_maps.get(&names::bootstrap_config_map(&cluster.name));
            let granted = grant.is_some_and(|object| object.annotations().contains_key(GRANTED_VOLUME));
            if stage == Stage::Bootstrapped || granted {
                return Ok(Some(last_copy::own_key_gone(cluster, facts, in_use)));
            }
            let mut key = [0_u8; 32];
            rand::rng().fill_bytes(&mut key);
            applier.create(secrets::unseal_key(cluster, &key)).await?;
            Ok(None)
        }
    }
}

/// A Secret as the watch knows it or, where nobody watches it, as it is.
async fn read(applier: &Applier, facts: &Facts, name: &str) -> Result<Option<Arc<Secret>>, Error> {
    if let Some(known) = facts.secrets.get(name) {
        return Ok(Some(known.clone()));
    }
    let api: Api<Secret> = Api::namespaced(applier.client.clone(), &applier.namespace);
    let found = timed(api.get_opt(name)).await.map_err(|source| Error::Read { name: name.to_owned(), source })?;
    Ok(found.map(Arc::new))
}

/// The Secret with whose key the servers run, where that is another one than `name`, and there.
async fn beside(
    applier: &Applier,
    facts: &Facts,
    name: &str,
    in_use: Option<&str>,
) -> Result<Option<Arc<Secret>>, Error> {
    match in_use.filter(|in_use| *in_use != name) {
        Some(other) => read(applier, facts, other).await,
        None => Ok(None),
    }
}

async fn foreign_credentials(
    applier: &Applier,
    cluster: &ValidatedCluster,
    facts: &Facts,
    remembered: &Remembered,
    in_use: Option<&str>,
    opened: Option<&Opened>,
) -> Result<Option<Trouble>, Error> {
    let unseal = &cluster.spec.unseal;
    let Some(reference) = &unseal.credentials_secret_ref else { return Ok(None) };
    let name = &reference.name;
    let Some(secret) = remembered.get(&applier.client, &applier.namespace, name, cluster.generation).await? else {
        let field = seal::static_key_field(unseal);
        let field = field.map(|field| live_field(facts, &cluster.name).map_or(field, str::to_owned));
        return Ok(Some(Trouble::new(
            reasons::SEAL_CREDENTIALS_MISSING,
            format!(
                "Secret {name} of spec.unseal.credentialsSecretRef does not exist: create it; pods wait for it, and servers that run keep the settings that they have{}",
                last_copy::of_theirs(cluster, facts, name, field.as_deref(), in_use)
            ),
        )));
    };
    if let Some(field) = seal::static_key_field(unseal) {
        let other = beside(applier, facts, name, in_use).await?;
        let live = live_field(facts, &cluster.name).filter(|live| in_use == Some(name.as_str()) && *live != field);
        let flaw = static_key::flaw_of(&secret, &field, name, other.as_deref(), &cluster.name);
        let flaw = flaw.or_else(|| static_key::moved(&secret, &field, live?, name));
        let key = static_key::of(&secret, &field).and_then(static_key::decoded);
        if let Some(flaw) = flaw.or_else(|| opened?.flaw_of(&key?, seal::static_key_id(unseal), &field, name)) {
            return Ok(Some(Trouble::new(reasons::UNSEAL_KEY_INVALID, flaw)));
        }
    }
    remembered.keep(name, &secret, cluster.generation);
    Ok(None)
}

/// The data key in which the settings that lie there have the servers look for a static key of the user's.
fn live_field<'a>(facts: &'a Facts, cluster: &str) -> Option<&'a str> {
    let settings = facts.config_maps.get(&names::config_map(cluster))?.data.as_ref()?.get(SHARED_FILE)?;
    seal::static_key_field_in(settings)
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::{ByteString, api::core::v1::ConfigMap};
    use secrecy::ExposeSecret;

    /// Asks nobody: a request fails.
    fn applier(cluster: &ValidatedCluster) -> Applier {
        drop(rustls::crypto::ring::default_provider().install_default());
        Applier {
            client: Client::try_from(kube::Config::new("http://127.0.0.1:1".parse().unwrap())).unwrap(),
            namespace: "reef".into(),
            cluster: "kelp".into(),
            uid: cluster.uid.clone(),
            settled: crate::service::cluster::apply::Settled::default(),
        }
    }

    // A client wants a runtime, though nothing is asked of it.
    #[tokio::test]
    async fn an_authority_that_somebody_wrote_into_the_public_config_map_is_neither_told_on_nor_kept() {
        let cluster = crate::service::cluster::validate::tests::valid(|_| {});
        let now: DateTime<Utc> = "2026-11-21T09:00:00Z".parse().unwrap();
        let [own, before, stranger] = [(); 3].map(|()| tls::new_authority("kelp", "reef", now).unwrap());
        let published = format!("{}{}{}", own.cert, before.cert, stranger.cert);
        let facts = Facts {
            secrets: [("kelp-tls-ca".to_owned(), Arc::new(secrets::authority(&cluster, &own, &before.cert)))].into(),
            config_maps: [(
                "kelp-ca".to_owned(),
                Arc::new(ConfigMap { data: Some([("ca.crt".to_owned(), published)].into()), ..ConfigMap::default() }),
            )]
            .into(),
            ..Facts::default()
        };
        let mut believed = None;
        let remembered = Remembered::default();
        let found =
            certificates(&applier(&cluster), &cluster, &facts, &remembered, &mut believed, true, now).await.unwrap();
        let expected = format!("{}{}", own.cert, before.cert);
        assert_eq!(found.bundle.as_ref(), Some(&expected));
        assert_eq!(found.secret.and_then(|secret| authorities::text(&secret, "ca.crt")), Some(expected.clone()));
        assert_eq!(believed, Some(expected), "it is what the next look goes by");
    }

    #[tokio::test]
    async fn a_certificate_stands_in_the_way_of_those_that_run_only_if_it_does_them_harm() {
        let cluster = crate::service::cluster::validate::tests::valid(|s| {
            s["tls"] = serde_json::json!({"enabled": true, "mode": "External"});
            s["replicas"] = serde_json::json!(5);
        });
        let applier = applier(&cluster);
        let now: DateTime<Utc> = "2026-11-21T09:00:00Z".parse().unwrap();
        let authority = tls::new_authority("kelp", "reef", now).unwrap();
        let believed = secrets::older_authorities(&cluster, &authorities::bundle(&authority.cert, ""));
        let three = Facts {
            pods: (0..3).map(|n| (n, Arc::default())).collect(),
            secrets: [("kelp-tls-older".to_owned(), Arc::new(believed))].into(),
            ..Facts::default()
        };
        let for_members = |count: u32| asked_for(&cluster, 0..count);
        let issued = |count: u32| tls::issue(&authority, &for_members(count), tls::DEFAULT_ROTATION, now).unwrap();
        let told = async |cert: &str, key: &KeyedCert, now: DateTime<Utc>| {
            let fields = [("tls.crt", cert), ("tls.key", key.key.expose_secret()), ("ca.crt", authority.cert.as_str())];
            let data = fields.map(|(field, text)| (field.to_owned(), ByteString(text.as_bytes().to_vec())));
            let secret = Secret { data: Some(data.into()), ..Secret::default() };
            let remembered = Remembered::default();
            remembered.keep("kelp-tls-server", &secret, cluster.generation);
            let found = external(&applier, &cluster, &three, &remembered, now).await.unwrap();
            let served = found.hash.filter(|hash| *hash == hash::certificate(cert)).and(found.bundle);
            (matches!(found.state, TlsState::Bad(_)), found.obstacle.is_some(), served.is_some())
        };
        let (five, some, few) = (issued(5), issued(3), issued(2));
        assert_eq!(told(&five.cert, &five, now).await, (false, false, true));
        let lacks_new = told(&some.cert, &some, now).await;
        assert_eq!(lacks_new, (true, false, true), "it lacks only those that are to come, and the others get it");
        assert_eq!(told(&few.cert, &few, now).await, (true, true, false), "it lacks one that runs");
        let late: DateTime<Utc> = "2028-01-01T00:00:00Z".parse().unwrap();
        let expired = told(&five.cert, &five, late).await;
        assert_eq!(expired, (true, false, false), "those that run serve it, expired as it is");
        assert_eq!(told(&five.cert, &some, now).await, (true, true, false), "another key: no server starts with it");
    }

    #[test]
    fn a_member_whose_pod_is_away_for_a_moment_is_there_all_the_same() {
        use crate::service::cluster::build::statefulset;
        let cluster = crate::service::cluster::validate::tests::valid(|_| {});
        let set = statefulset::build(&cluster, &statefulset::Inputs { replicas: 3, ..statefulset::tests::inputs() });
        let pods = [0, 1, 4].map(|ordinal| (ordinal, Arc::default()));
        let facts = Facts { pods: pods.into(), stateful_set: Some(Arc::new(set)), ..Facts::default() };
        assert_eq!(there(&facts), BTreeSet::from([0, 1, 2, 4]));
        assert_eq!(there(&Facts { stateful_set: None, ..facts }), BTreeSet::from([0, 1, 4]));
    }

    #[tokio::test]
    async fn another_key_of_the_same_secret_keeps_the_settings_before_a_server_restarts_with_it() {
        let brings = |field: &str| {
            let current = format!("/openbao/seal-credentials/{field}");
            crate::service::cluster::validate::tests::valid(|spec| {
                spec["unseal"] = serde_json::json!({"type": "static", "credentialsSecretRef": {"name": "mine"},
                    "static": {"currentKey": current}});
            })
        };
        let cluster = brings("key");
        let settings = crate::service::cluster::build::config_maps::build(&brings("old"), None).remove(0);
        let facts = Facts { config_maps: [("kelp-config".to_owned(), Arc::new(settings))].into(), ..Facts::default() };
        let told = async |old: u8, in_use: Option<&str>| {
            let keys = [("key", 8), ("old", old)].map(|(field, byte)| (field.to_owned(), ByteString(vec![byte; 32])));
            let secret = Secret { data: Some(keys.into()), ..Secret::default() };
            let remembered = Remembered::default();
            remembered.keep("mine", &secret, cluster.generation);
            foreign_credentials(&applier(&cluster), &cluster, &facts, &remembered, in_use, None).await.unwrap()
        };
        let flaw = told(7, Some("mine")).await.unwrap();
        assert!(flaw.reason == reasons::UNSEAL_KEY_INVALID && flaw.message.contains("`old`"), "{flaw:?}");
        assert_eq!(told(8, Some("mine")).await, None, "it is the same key");
        assert_eq!(told(7, None).await, None, "nobody runs with it");
    }

    #[tokio::test]
    async fn a_key_that_somebody_put_into_the_servers_secret_is_told_when_it_does_not_open_their_last_backup() {
        let opened = crate::service::backup::opened::tests::opened();
        let right = crate::service::backup::opened::tests::KEY;
        let told = async |name: &str, key: &[u8], opened: Option<&Opened>| {
            let cluster = crate::service::cluster::validate::tests::valid(|spec| {
                spec["unseal"] = serde_json::json!({"type": "static", "static": {"currentKeyID": "k1"}});
                if name == "mine" {
                    spec["unseal"]["credentialsSecretRef"] = serde_json::json!({"name": name});
                }
            });
            let data = [("key".to_owned(), ByteString(key.to_vec()))];
            let secret = Secret { data: Some(data.into()), ..Secret::default() };
            let remembered = Remembered::default();
            remembered.keep(name, &secret, cluster.generation);
            let facts = Facts { secrets: [(name.to_owned(), Arc::new(secret))].into(), ..Facts::default() };
            let stage = Stage::Bootstrapped;
            unseal(&applier(&cluster), &cluster, &facts, stage, &remembered, Some(name), opened).await.unwrap()
        };
        for name in ["kelp-unseal-key", "mine"] {
            let flaw = told(name, &[7; 32], Some(&opened)).await.unwrap();
            assert!(flaw.reason == reasons::UNSEAL_KEY_INVALID && flaw.message.contains(name), "{flaw:?}");
            assert_eq!(told(name, right, Some(&opened)).await, None);
            assert_eq!(told(name, &[7; 32], None).await, None, "no backup says anything of it");
        }
    }

    #[test]
    fn a_serving_certificate_is_kept_until_it_is_due_or_its_authority_was_replaced() {
        let now: DateTime<Utc> = "2026-11-21T09:00:00Z".parse().unwrap();
        let [old, new] = [(); 2].map(|()| tls::new_authority("kelp", "reef", now).unwrap());
        let names = tls::serving_names("kelp", "reef", &[]);
        let rotation = tls::DEFAULT_ROTATION;
        let serving = || Some(tls::issue(&old, &names, rotation, now).unwrap());
        assert!(kept(serving(), &old.cert, &names, rotation, "uid", now).is_some());
        assert!(
            kept(serving(), &new.cert, &names, rotation, "uid", now).is_none(),
            "signed by an authority that is gone"
        );
        assert!(kept(serving(), &old.cert, &names, rotation * 24, "uid", now).is_none(), "due");
        assert!(kept(None, &old.cert, &names, rotation, "uid", now).is_none());
    }
}
