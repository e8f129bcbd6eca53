//! Which authorities are believed beside the one of now: until every server was restarted, some show what an older one signed.
//!
//! What was believed is written down in a Secret that nobody but the operator fills. It is never read from the ConfigMap that tells
//! clients: whoever may write that one would make himself an authority.

use super::{
    apply::{Applier, Error as ApplyError, MANAGER},
    build::secrets,
    facts::Facts,
    names,
    validate::ValidatedCluster,
};
use crate::{
    adapter::kubernetes::{apply::ApplyError as WriteError, client::timed, owner::is_controlled_by},
    causes::chain,
};
use chrono::{DateTime, Utc};
use k8s_openapi::{
    ByteString,
    api::core::v1::{ConfigMap, Secret},
};
use kube::{
    Api, ResourceExt,
    api::{Patch, PatchParams},
};
use rustls::pki_types::{CertificateDer, pem::PemObject};
use serde_json::json;

/// Key of the Secrets in which it is written down.
pub const OLDER: &str = "older.crt";
/// How many older authorities are believed.
const LIMIT: usize = 2;

/// The bundle that is told to everybody.
pub fn bundle(current: &str, older: &str) -> String {
    current.trim_end().to_owned() + "\n" + older
}

/// The first ones of `known` that are still valid and not among `current`.
pub fn older(current: &str, known: &str, now: DateTime<Utc>) -> String {
    // A user's bundle may hold several.
    let mut told = ders(current);
    let mut all = String::new();
    let mut kept = 0;
    for block in pem_blocks(known) {
        let Some(der) = der(&block) else { continue };
        let valid = x509_parser::parse_x509_certificate(&der)
            .is_ok_and(|(_, cert)| cert.validity().not_after.timestamp() > now.timestamp());
        if valid && kept < LIMIT && !told.contains(&der) {
            all.push_str(&block);
            told.push(der);
            kept += 1;
        }
    }
    all
}

/// Beside the operator's own authority, whose Secret is `own`. `before` is what was believed last, by the serving certificate's
/// Secret: it counts when the authority was replaced since, and where nothing is written down yet.
pub fn beside_own(current: &str, own: Option<&Secret>, before: &str, now: DateTime<Utc>) -> String {
    match own.and_then(|own| text(own, OLDER)) {
        Some(memory) if holds(before, current) => older(current, &memory, now),
        Some(memory) => older(current, &format!("{before}{memory}"), now),
        None => older(current, before, now),
    }
}

/// Beside the user's. What the operator's own authority signed is shown still right after `spec.tls.mode` was changed, so when the
/// user's is a new one, the operator's is an older one.
pub fn beside_theirs(current: &str, own: Option<&Secret>, memory: Option<&str>, now: DateTime<Utc>) -> String {
    let memory = memory.unwrap_or_default();
    if holds(memory, current) {
        return older(current, memory, now);
    }
    let own = own.and_then(|own| text(own, "ca.crt")).unwrap_or_default();
    older(current, &format!("{own}{memory}"), now)
}

/// What was believed under a user's authority, current one and all.
pub fn under_theirs(facts: &Facts, cluster: &str, cluster_uid: &str) -> Option<String> {
    ours(facts, &names::older_secret(cluster), cluster_uid).and_then(|secret| text(secret, OLDER))
}

/// The bundle that the operator itself goes by: what it has written down in this field of a Secret of this cluster. What clients are
/// told counts only where nothing is written down yet: others may write there, and a paused cluster's is not put back.
pub fn believed(kept: Option<&Secret>, field: &str, cluster_uid: &str, told: Option<&ConfigMap>) -> Option<String> {
    let kept = kept.filter(|secret| is_controlled_by(*secret, cluster_uid)).and_then(|secret| text(secret, field));
    let told = || told?.data.as_ref()?.get("ca.crt").cloned();
    kept.filter(|pem| !pem.is_empty()).or_else(told).filter(|pem| !pem.is_empty())
}

/// The Secret of that name, if it is this cluster's.
pub fn ours<'a>(facts: &'a Facts, name: &str, cluster_uid: &str) -> Option<&'a Secret> {
    facts.secrets.get(name).map(AsRef::as_ref).filter(|secret: &&Secret| is_controlled_by(*secret, cluster_uid))
}

/// A field of a Secret, as text.
pub fn text(secret: &Secret, field: &str) -> Option<String> {
    String::from_utf8(secret.data.as_ref()?.get(field)?.0.clone()).ok()
}

/// Writes down what is believed, where the Secret says something else. Whoever has changed it meanwhile wins: this look ends then.
pub async fn keep(applier: &Applier, secret: &Secret, believed: &str) -> Result<(), ApplyError> {
    if text(secret, OLDER).as_deref() == Some(believed) {
        return Ok(());
    }
    let (namespace, name) = (applier.namespace.clone(), secret.name_any());
    let api: Api<Secret> = Api::namespaced(applier.client.clone(), &namespace);
    // Nothing but this key: the authority beside it may be a person's to write.
    let patch = json!({
        "metadata": {"uid": secret.uid(), "resourceVersion": secret.resource_version()},
        "data": {(OLDER): ByteString(believed.as_bytes().to_vec())},
    });
    let params = PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
    timed(api.patch(&name, &params, &Patch::Merge(&patch))).await.map(drop).map_err(|source| {
        WriteError::Write { verb: "change", kind: "Secret".to_owned(), namespace, name, source }.into()
    })
}

/// The same under a user's authority, for which there is a Secret of its own. It is a precaution for the day when that authority is
/// replaced: where the namespace takes no Secret, everything else goes on.
pub async fn keep_theirs(
    applier: &Applier,
    cluster: &ValidatedCluster,
    facts: &Facts,
    believed: &str,
) -> Result<(), ApplyError> {
    let name = names::older_secret(&cluster.name);
    let kept = match ours(facts, &name, &cluster.uid) {
        Some(secret) => keep(applier, secret, believed).await,
        // Where the name is somebody else's nothing is remembered.
        None => applier.create(secrets::older_authorities(cluster, believed)).await.map(drop),
    };
    match kept {
        Err(error) if error.is_refused() => {
            tracing::warn!(
                secret = name.as_str(),
                error = chain(&error),
                "which authorities are believed could not be written down: when this one is replaced, servers that were not \
                 restarted yet may be taken for dead. See the quotas and policies of the namespace"
            );
            Ok(())
        }
        kept => kept,
    }
}

/// Whether a bundle has all of these certificates.
fn holds(bundle: &str, current: &str) -> bool {
    let known = ders(bundle);
    ders(current).iter().all(|der| known.contains(der))
}

fn ders(text: &str) -> Vec<CertificateDer<'static>> {
    pem_blocks(text).iter().filter_map(|block| der(block)).collect()
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::cluster::{
        apply::tests::refused,
        tls::{KeyedCert, new_authority, renewed},
        validate::tests::valid,
    };
    use std::sync::Arc;

    fn now() -> DateTime<Utc> {
        "2026-11-21T09:00:00Z".parse().unwrap()
    }

    fn authorities<const N: usize>() -> [String; N] {
        [(); N].map(|()| new_authority("kelp", "reef", now()).unwrap().cert)
    }

    fn secret(fields: &[(&str, &str)]) -> Secret {
        let data = fields.iter().map(|(key, text)| ((*key).to_owned(), ByteString(text.as_bytes().to_vec())));
        Secret { data: Some(data.collect()), ..Secret::default() }
    }

    #[test]
    fn an_older_authority_is_kept_once_and_only_until_it_expires() {
        let [old, new] = authorities();
        assert_eq!(older(&new, &format!("{new}{old}{old}"), now()), old);
        assert_eq!(bundle(new.trim_end(), &old), format!("{new}{old}"));
        assert_eq!(older(&new, &old, "2040-01-01T00:00:00Z".parse().unwrap()), "");
        let [a, b, c] = authorities();
        assert_eq!(older(&new, &format!("{a}{b}{c}"), now()), format!("{a}{b}"), "bounded");
    }

    #[test]
    fn an_authority_that_was_replaced_is_believed_until_it_expires_or_a_person_drops_it() {
        let [older, old, new] = authorities();
        let served = format!("{old}{older}");
        let edited = secret(&[("ca.crt", new.as_str()), (OLDER, older.as_str())]);
        assert_eq!(beside_own(&new, Some(&edited), &served, now()), served, "its Secret was written over");
        assert_eq!(beside_own(&new, None, &served, now()), served, "or deleted");
        let [told, dropped] = [served.as_str(), ""].map(|text| secret(&[("ca.crt", new.as_str()), (OLDER, text)]));
        let now_served = format!("{new}{served}");
        assert_eq!(beside_own(&new, Some(&told), &now_served, now()), served, "stable");
        assert_eq!(beside_own(&new, Some(&told), "", now()), served, "and does not depend on what is served");
        assert_eq!(beside_own(&new, Some(&dropped), &now_served, now()), "");
    }

    #[test]
    fn a_rotation_that_was_under_way_when_nothing_was_written_down_yet_goes_on() {
        let [old, new] = authorities();
        let from_before = secret(&[("ca.crt", new.as_str())]);
        assert_eq!(beside_own(&new, Some(&from_before), &format!("{new}{old}"), now()), old);
        assert_eq!(beside_own(&new, None, "", now()), "", "a new cluster");
    }

    #[test]
    fn a_users_bundle_stays_whole_beside_what_running_servers_were_signed_with() {
        let [old, root, next, own] = authorities();
        let theirs = format!("{root}{next}");
        let kept = beside_theirs(&theirs, None, Some(&old), now());
        assert_eq!(kept, old);
        let believed = bundle(&theirs, &kept);
        assert_eq!(beside_theirs(&theirs, None, Some(&believed), now()), old, "stable");
        let operators = secret(&[("ca.crt", own.as_str()), (OLDER, "")]);
        assert_eq!(beside_theirs(&theirs, Some(&operators), None, now()), own, "the mode was changed a moment ago");
        assert_eq!(beside_theirs(&theirs, Some(&operators), Some(&believed), now()), old, "it was not");
    }

    #[test]
    fn an_authority_that_was_renewed_is_believed_under_its_certificate_of_before_too() {
        let before = new_authority("kelp", "reef", now()).unwrap();
        let later = "2032-01-01T09:00:00Z".parse().unwrap();
        let after = renewed(&before, "kelp", "reef", later).unwrap().unwrap();
        let [older_still] = authorities();
        let known = bundle(&before.cert, &older_still);
        assert_eq!(older(&after.cert, &known, later), known);
    }

    // A client wants a runtime.
    #[tokio::test]
    async fn a_namespace_that_takes_no_secret_stops_nothing_but_the_memory() {
        let cluster = valid(|_| {});
        let [theirs] = authorities();
        let applier = refused(&cluster.uid);
        assert!(keep_theirs(&applier, &cluster, &Facts::default(), &theirs).await.is_ok(), "none is made");
        let before = Arc::new(secrets::older_authorities(&cluster, ""));
        let facts = Facts { secrets: [("kelp-tls-older".to_owned(), before)].into(), ..Facts::default() };
        assert!(keep_theirs(&applier, &cluster, &facts, &theirs).await.is_ok(), "nor changed");
    }

    #[test]
    fn the_operator_goes_by_what_it_has_written_down_and_not_by_what_stands_in_the_public_config_map() {
        let cluster = valid(|_| {});
        let [own, stranger] = [(); 2].map(|()| new_authority("kelp", "reef", now()).unwrap());
        let told =
            ConfigMap { data: Some([("ca.crt".to_owned(), stranger.cert.clone())].into()), ..ConfigMap::default() };
        let serving = KeyedCert { cert: String::new(), key: String::new().into() };
        let kept = secrets::serving(&cluster, &serving, &own.cert);
        let found = |kept: Option<&Secret>, uid: &str| believed(kept, "ca.crt", uid, Some(&told));
        assert_eq!(found(Some(&kept), &cluster.uid), Some(own.cert.clone()));
        assert_eq!(found(Some(&kept), "another"), Some(stranger.cert.clone()), "that of an earlier namesake");
        assert_eq!(found(None, &cluster.uid), Some(stranger.cert.clone()), "nothing is known yet");
        assert_eq!(believed(None, "ca.crt", &cluster.uid, None), None);
        let theirs = secrets::older_authorities(&cluster, &own.cert);
        assert_eq!(believed(Some(&theirs), OLDER, &cluster.uid, Some(&told)), Some(own.cert.clone()));
    }
}
