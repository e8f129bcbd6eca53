//! Certificates: issuing (operator-managed) and judging (whoever made them). Pure but for the randomness of new keys.
//!
//! One serving certificate covers all members: a wildcard for the pods, so that scaling changes no certificate, and every
//! Service name. Whether a certificate is good is asked the way a client asks: does it verify for that name, now?

use chrono::{DateTime, TimeDelta, Utc};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls::{
    RootCertStore,
    client::{WebPkiServerVerifier, danger::ServerCertVerifier},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
    sign::CertifiedKey,
};
use secrecy::{ExposeSecret, SecretString};
use std::{collections::BTreeSet, net::IpAddr, sync::Arc, time::Duration};

use super::{names, outdated::outdated};
use crate::service::backup::schedule::spread;

const DAY: Duration = Duration::from_secs(86_400);
/// How long a serving certificate lives unless its rotation period asks for more.
const SERVING_LIFETIME: Duration = Duration::from_secs(365 * 86_400);
/// How long the operator's own authority lives.
const CA_LIFETIME: Duration = Duration::from_secs(3650 * 86_400);
/// Certificates start in the past, since clocks of nodes differ.
const BACKDATED: Duration = Duration::from_secs(3600);
/// Reissue when less than this is left, unless the spec says otherwise.
pub const DEFAULT_ROTATION: Duration = Duration::from_secs(30 * 86_400);

/// A certificate could not be made.
#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    /// The key or certificate generator refused.
    #[error("failed to make {what}")]
    Generate {
        /// `the authority` or `the serving certificate`.
        what: &'static str,
        /// Why.
        #[source]
        source: rcgen::Error,
    },
    /// The Secret that should hold the authority holds something else.
    #[error("the certificate authority in the Secret cannot be used to sign")]
    Authority(#[source] rcgen::Error),
    /// A SAN of the spec is neither a DNS name nor an address.
    #[error("{name:?} is not a DNS name or IP address: correct spec.tls.extraSANs")]
    Name {
        /// The name.
        name: String,
        /// Why.
        #[source]
        source: rcgen::Error,
    },
}

/// A certificate with its private key, both PEM.
#[derive(Debug, Clone)]
pub struct KeyedCert {
    /// One certificate.
    pub cert: String,
    /// Its key, PKCS #8.
    pub key: SecretString,
}

/// A new authority for one cluster.
pub fn new_authority(cluster: &str, namespace: &str, now: DateTime<Utc>) -> Result<KeyedCert, IssueError> {
    let key = KeyPair::generate().map_err(|source| IssueError::Generate { what: "the authority", source })?;
    Ok(KeyedCert { cert: authority_of(&key, cluster, namespace, now)?, key: pem(&key.serialize_pem()).into() })
}

/// The same authority for another ten years, once half of its time is over. Name and key stay: what it has signed is good under
/// the new certificate, and what it signs from now on is good for whoever knows only the old one, until that one ends. So
/// no server is restarted, and clients have five years to take the new one. `None`: it is not time, or the
/// authority is not one that [`new_authority`] made.
pub fn renewed(
    authority: &KeyedCert,
    cluster: &str,
    namespace: &str,
    now: DateTime<Utc>,
) -> Result<Option<KeyedCert>, IssueError> {
    let der = CertificateDer::from_pem_slice(authority.cert.as_bytes()).ok();
    let parsed = der.as_ref().and_then(|der| x509_parser::parse_x509_certificate(der).ok());
    let Some((_, parsed)) = parsed else { return Ok(None) };
    let ours = authority_name(cluster, namespace);
    let is_ours = |name: &x509_parser::x509::X509Name<'_>| {
        name.iter_common_name().filter_map(|part| part.as_str().ok()).eq([ours.as_str()])
    };
    let left = parsed.validity().not_after.timestamp() - now.timestamp();
    let is_due = left < i64::try_from(CA_LIFETIME.as_secs() / 2).unwrap_or(i64::MAX);
    if !is_due || !is_ours(parsed.subject()) || !is_ours(parsed.issuer()) {
        return Ok(None);
    }
    let key = KeyPair::from_pem(authority.key.expose_secret()).map_err(IssueError::Authority)?;
    let cert = authority_of(&key, cluster, namespace, now)?;
    Ok(Some(KeyedCert { cert, key: authority.key.clone() }))
}

fn authority_of(key: &KeyPair, cluster: &str, namespace: &str, now: DateTime<Utc>) -> Result<String, IssueError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = common_name(&authority_name(cluster, namespace));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    span(&mut params, now, CA_LIFETIME);
    let cert = params.self_signed(key).map_err(|source| IssueError::Generate { what: "the authority", source })?;
    Ok(pem(&cert.pem()))
}

fn authority_name(cluster: &str, namespace: &str) -> String {
    format!("OpenBao {namespace}/{cluster}")
}

/// A new serving certificate for `names`, signed by `authority`.
pub fn issue(
    authority: &KeyedCert,
    names: &BTreeSet<String>,
    rotation: Duration,
    now: DateTime<Utc>,
) -> Result<KeyedCert, IssueError> {
    let failed = |source| IssueError::Generate { what: "the serving certificate", source };
    let signer = KeyPair::from_pem(authority.key.expose_secret()).map_err(IssueError::Authority)?;
    let signer = Issuer::from_ca_cert_pem(&authority.cert, signer).map_err(IssueError::Authority)?;
    let key = KeyPair::generate().map_err(failed)?;
    for name in names {
        CertificateParams::new(vec![name.clone()]).map_err(|source| IssueError::Name { name: name.clone(), source })?;
    }
    let mut params = CertificateParams::new(names.iter().cloned().collect::<Vec<_>>()).map_err(failed)?;
    params.distinguished_name = common_name("OpenBao server");
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    // Members are clients of each other when they join.
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    span(&mut params, now, lifetime(rotation));
    let cert = params.signed_by(&key, &signer).map_err(failed)?;
    Ok(KeyedCert { cert: pem(&cert.pem()), key: pem(&key.serialize_pem()).into() })
}

/// A certificate must outlive its rotation period by far, or it would be reissued all the time.
fn lifetime(rotation: Duration) -> Duration {
    SERVING_LIFETIME.max(rotation * 2)
}

fn span(params: &mut CertificateParams, now: DateTime<Utc>, lifetime: Duration) {
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let now = epoch + Duration::from_secs(u64::try_from(now.timestamp()).unwrap_or(0));
    params.not_before = now - BACKDATED;
    params.not_after = now + lifetime;
}

fn common_name(text: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, text);
    name
}

/// PEM with the line ends of this system: some tools stumble over CRLF.
fn pem(text: &str) -> String {
    text.replace("\r\n", "\n")
}

/// Every name that clients, members and the operator use for this cluster, and the spec's own.
pub fn serving_names(cluster: &str, namespace: &str, extra: &[String]) -> BTreeSet<String> {
    let mut all: BTreeSet<String> = ["localhost", "127.0.0.1", "::1"].into_iter().map(str::to_owned).collect();
    for service in [names::headless_service(cluster), names::public_service(cluster), names::active_service(cluster)] {
        all.insert(service.clone());
        all.extend(["", ".svc", ".svc.cluster.local"].map(|suffix| format!("{service}.{namespace}{suffix}")));
    }
    all.extend(["", ".svc", ".svc.cluster.local"].map(|suffix| format!("*.{cluster}.{namespace}{suffix}")));
    all.extend(extra.iter().cloned());
    all
}

/// Whether a certificate can be issued for a name by which clients ask, and would be believed for it.
pub fn is_host(name: &str) -> bool {
    let wild = name.strip_prefix("*.");
    let bare = wild.unwrap_or(name);
    let letters = bare.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.'));
    let asked = ServerName::try_from(name.replacen("*.", "any.", 1));
    letters
        && !bare.ends_with('.')
        // No client believes one that stands for all of a top-level domain.
        && (wild.is_none() || bare.contains('.'))
        && matches!(asked, Ok(ServerName::DnsName(_)))
}

/// What is wrong with a serving certificate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Flaw {
    /// The PEM does not parse, or key and certificate do not belong together.
    #[error("tls.crt and tls.key are not a usable pair: {0}")]
    Pair(String),
    /// ca.crt holds no certificate.
    #[error("ca.crt holds no certificate authority: {0}")]
    Bundle(String),
    /// A client that asks for this name would refuse it.
    #[error("it does not verify for {name}: {cause}")]
    Refused {
        /// The name asked for.
        name: String,
        /// The verifier's words.
        cause: String,
    },
}

/// Judges a serving certificate as a client would, for each of `needed` (wildcards are tried with a host in place of the
/// star). Returns when it expires.
pub fn judge(
    cert: &str,
    key: &SecretString,
    bundle: &str,
    needed: &BTreeSet<String>,
    now: DateTime<Utc>,
) -> Result<DateTime<Utc>, Flaw> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let chain = CertificateDer::pem_slice_iter(cert.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| Flaw::Pair(error.to_string()))?;
    let Some((leaf, intermediates)) = chain.split_first() else {
        return Err(Flaw::Pair("tls.crt holds no certificate".into()));
    };
    let expires = expiry(leaf).ok_or_else(|| Flaw::Pair("tls.crt holds no X.509 certificate".into()))?;
    let private = PrivateKeyDer::from_pem_slice(key.expose_secret().as_bytes())
        .map_err(|_| Flaw::Pair("tls.key holds no private key".into()))?;
    CertifiedKey::from_der(chain.clone(), private, &provider).map_err(|error| Flaw::Pair(error.to_string()))?;
    let mut roots = RootCertStore::empty();
    for root in CertificateDer::pem_slice_iter(bundle.as_bytes()) {
        let root = root.map_err(|error| Flaw::Bundle(error.to_string()))?;
        roots.add(root).map_err(|error| Flaw::Bundle(error.to_string()))?;
    }
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
        .build()
        .map_err(|error| Flaw::Bundle(error.to_string()))?;
    let now = UnixTime::since_unix_epoch(Duration::from_secs(u64::try_from(now.timestamp()).unwrap_or(0)));
    for name in needed {
        let refused = |cause: String| Flaw::Refused { name: name.clone(), cause };
        let host = name.replacen("*.", "any.", 1);
        let host = match host.parse::<IpAddr>() {
            Ok(address) => ServerName::from(address),
            Err(_) => ServerName::try_from(host).map_err(|error| refused(error.to_string()))?,
        };
        verifier
            .verify_server_cert(leaf, intermediates, &host, &[], now)
            .map_err(|error| refused(outdated(&error).map_or_else(|| error.to_string(), |known| known.to_string())))?;
    }
    Ok(expires)
}

/// Whether a certificate has no other flaw than that it may have expired. A server that is restarted starts with such a one, and is
/// known to others as well as those that run with it.
pub fn is_good_but_for_its_end(
    cert: &str,
    key: &SecretString,
    bundle: &str,
    needed: &BTreeSet<String>,
    now: DateTime<Utc>,
) -> bool {
    let leaf = CertificateDer::from_pem_slice(cert.as_bytes()).ok();
    let end = leaf.as_ref().and_then(expiry).map_or(now, |end| end.min(now));
    judge(cert, key, bundle, needed, end).is_ok()
}

/// Whether a good certificate of the cluster with this UID should be replaced already. Clusters that were made together would all
/// restart their servers at once, each year: so it is replaced up to half a rotation period early, each cluster's on a day of its own.
/// One whose day went by before anybody looked is due at the end with the others, and not at once: a new operator restarts nobody.
pub fn is_due(expires: DateTime<Utc>, rotation: Duration, uid: &str, now: DateTime<Utc>) -> bool {
    let rotation = rotation.max(DAY);
    let early = spread(uid, expires, TimeDelta::from_std(rotation / 2).unwrap_or_default());
    let own = rotation + early.to_std().unwrap_or_default();
    let left = (expires - now).to_std().unwrap_or_default();
    // A certificate lives for at least two periods: a new one is never due.
    left < rotation || (left < own && left + DAY >= own)
}

fn expiry(cert: &CertificateDer<'_>) -> Option<DateTime<Utc>> {
    let (_, parsed) = x509_parser::parse_x509_certificate(cert).ok()?;
    DateTime::from_timestamp(parsed.validity().not_after.timestamp(), 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    fn issued(extra: &[&str]) -> (KeyedCert, KeyedCert, BTreeSet<String>) {
        let now = at("2026-11-21T09:00:00Z");
        let ca = new_authority("kelp", "reef", now).unwrap();
        let extra: Vec<String> = extra.iter().map(|&name| name.to_owned()).collect();
        let names = serving_names("kelp", "reef", &extra);
        let serving = issue(&ca, &names, DEFAULT_ROTATION, now).unwrap();
        (ca, serving, names)
    }

    #[test]
    fn an_issued_certificate_verifies_for_every_pod_service_and_extra_name() {
        let (ca, serving, mut names) = issued(&["bao.example.org", "10.1.2.3"]);
        names.insert(names::tls_name("kelp", "reef", "kelp-17"));
        names.insert(names::shared_tls_name("kelp", "reef"));
        let until = judge(&serving.cert, &serving.key, &ca.cert, &names, at("2026-11-21T09:00:00Z")).unwrap();
        assert_eq!(until, at("2027-11-21T09:00:00Z"));
    }

    #[test]
    fn a_certificate_is_refused_for_a_name_it_lacks_another_authority_another_key_and_after_its_end() {
        let (ca, serving, names) = issued(&[]);
        let now = at("2026-11-21T09:00:00Z");
        let more = BTreeSet::from(["elsewhere.example.org".to_owned()]);
        assert!(matches!(judge(&serving.cert, &serving.key, &ca.cert, &more, now), Err(Flaw::Refused { .. })));
        let (other_ca, other, _) = issued(&[]);
        assert!(matches!(judge(&serving.cert, &serving.key, &other_ca.cert, &names, now), Err(Flaw::Refused { .. })));
        assert!(matches!(judge(&serving.cert, &other.key, &ca.cert, &names, now), Err(Flaw::Pair(_))));
        let late = at("2028-01-01T00:00:00Z");
        assert!(matches!(judge(&serving.cert, &serving.key, &ca.cert, &names, late), Err(Flaw::Refused { .. })));
        assert!(matches!(judge("", &serving.key, &ca.cert, &names, now), Err(Flaw::Pair(_))));
        assert!(matches!(judge(&serving.cert, &serving.key, "", &names, now), Err(Flaw::Bundle(_))));
    }

    #[test]
    fn what_is_told_of_an_expired_certificate_stays_the_same_while_time_goes_on() {
        let (ca, serving, names) = issued(&[]);
        let told = |now| judge(&serving.cert, &serving.key, &ca.cert, &names, at(now)).unwrap_err();
        assert!(told("2028-01-01T00:00:00Z").to_string().contains("has expired"));
        assert_eq!(
            told("2028-01-01T00:00:00Z"),
            told("2028-01-01T00:00:01Z"),
            "each other word is a write of the status"
        );
    }

    #[test]
    fn a_certificate_that_has_only_expired_is_told_from_one_that_was_never_good() {
        let (ca, serving, names) = issued(&[]);
        let (other_ca, other, _) = issued(&[]);
        let good = |key: &SecretString, bundle: &str, names: &BTreeSet<String>, now: &str| {
            is_good_but_for_its_end(&serving.cert, key, bundle, names, at(now))
        };
        let (early, now, late) = ("2026-01-01T00:00:00Z", "2026-11-21T09:00:00Z", "2028-01-01T00:00:00Z");
        assert!(good(&serving.key, &ca.cert, &names, now));
        assert!(good(&serving.key, &ca.cert, &names, late), "it has expired");
        assert!(!good(&serving.key, &ca.cert, &names, early), "it is not valid yet");
        for now in [now, late] {
            assert!(!good(&serving.key, &other_ca.cert, &names, now), "another authority");
            assert!(!good(&other.key, &ca.cert, &names, now), "another key");
            assert!(!good(&serving.key, &ca.cert, &["elsewhere.example.org".to_owned()].into(), now), "another name");
        }
    }

    #[test]
    fn a_renewed_authority_is_the_same_one_to_those_who_know_only_the_old_and_to_what_the_old_signed() {
        let start = at("2026-11-21T09:00:00Z");
        let (old, serving, names) = issued(&[]);
        assert!(renewed(&old, "kelp", "reef", at("2031-11-01T09:00:00Z")).unwrap().is_none(), "not yet half its time");
        let later = at("2032-01-01T09:00:00Z");
        let new = renewed(&old, "kelp", "reef", later).unwrap().expect("more than half of its time is over");
        assert_ne!(new.cert, old.cert);
        assert!(renewed(&new, "kelp", "reef", later).unwrap().is_none(), "once");
        assert!(judge(&serving.cert, &serving.key, &new.cert, &names, start).is_ok(), "no server is restarted for it");
        let next = issue(&new, &names, DEFAULT_ROTATION, later).unwrap();
        assert!(judge(&next.cert, &next.key, &old.cert, &names, later).is_ok(), "nor is a client cut off");
        assert!(judge(&next.cert, &next.key, &new.cert, &names, later).is_ok());
    }

    #[test]
    fn an_authority_that_somebody_put_there_is_not_renewed_in_his_place() {
        let later = at("2036-01-01T09:00:00Z");
        let (ca, ..) = issued(&[]);
        assert!(renewed(&ca, "other", "reef", later).unwrap().is_none(), "another name");
        let broken = KeyedCert { cert: "-".into(), key: ca.key.clone() };
        assert!(renewed(&broken, "kelp", "reef", later).unwrap().is_none());
        // Signed by somebody else under the very name.
        let parent = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name = common_name("The company");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let parent = Issuer::new(params, parent);
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name = common_name(&authority_name("kelp", "reef"));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        span(&mut params, at("2026-11-21T09:00:00Z"), CA_LIFETIME);
        let cert = params.signed_by(&key, &parent).unwrap().pem();
        let theirs = KeyedCert { cert, key: key.serialize_pem().into() };
        assert!(renewed(&theirs, "kelp", "reef", later).unwrap().is_none());
    }

    #[test]
    fn no_rotation_period_makes_a_fresh_certificate_due_at_once() {
        let now = at("2026-11-21T09:00:00Z");
        for days in [0, 1, 30, 365, 3000] {
            let rotation = DAY * days;
            let expires = now + lifetime(rotation);
            for uid in 0..100 {
                let uid = format!("uid-{uid}");
                assert!(!is_due(expires, rotation, &uid, now), "{days} days, {uid}");
                assert!(
                    is_due(expires, rotation, &uid, expires - rotation + DAY / 2),
                    "{days} days, {uid}, at the end"
                );
            }
        }
    }

    #[test]
    fn certificates_that_were_issued_together_are_not_renewed_together() {
        let expires = at("2027-11-21T09:00:00Z");
        let due_with = |days: u32| {
            let when = expires - DAY * days;
            (0..1000).filter(|uid| is_due(expires, DEFAULT_ROTATION, &format!("uid-{uid}"), when)).count()
        };
        assert_eq!((due_with(46), due_with(29)), (0, 1000), "half a period is the most, and none is late");
        // Were whose day is over due as well, the first look of a new operator would restart them all.
        let due: Vec<_> = (30..45).map(due_with).collect();
        assert!(due.iter().all(|due| (1..150).contains(due)), "each has one day before the last: {due:?}");
        assert_eq!(due.iter().sum::<usize>(), 1000);
    }

    #[test]
    fn what_is_taken_for_a_host_can_be_issued_and_is_believed() {
        let hosts = ["bao.example.org", "bao", "*.example.org", "1a.x-y.example", "xn--bcher-kva.example"];
        let (ca, serving, _) = issued(&hosts);
        for host in hosts {
            assert!(is_host(host), "{host}");
            let asked = BTreeSet::from([host.to_owned()]);
            let judged = judge(&serving.cert, &serving.key, &ca.cert, &asked, at("2026-11-21T09:00:00Z"));
            assert!(judged.is_ok(), "{host}: {judged:?}");
        }
        let long = format!("{}.example.org", "a".repeat(64));
        for other in [
            "",
            "no host",
            "b\u{fc}cher.example",
            "Bao.example.org",
            "192.0.2.1",
            "::1",
            "*",
            "*.org",
            "a.*.b",
            "a..b",
            "a.",
            "-a.b",
            long.as_str(),
        ] {
            assert!(!is_host(other), "{other}");
        }
    }

    #[test]
    fn a_bad_extra_name_is_named() {
        let now = at("2026-11-21T09:00:00Z");
        let ca = new_authority("kelp", "reef", now).unwrap();
        let names = BTreeSet::from(["bücher".to_owned()]);
        let error = issue(&ca, &names, DEFAULT_ROTATION, now).unwrap_err();
        assert!(matches!(error, IssueError::Name { name, .. } if name == "bücher"));
    }

    #[test]
    fn a_key_does_not_show_itself() {
        let (ca, ..) = issued(&[]);
        assert!(!format!("{ca:?}").contains("PRIVATE"));
    }
}
