//! The `seal` stanza and the credentials that go with it.
//!
//! Credentials never enter the configuration, which lies in a `ConfigMap`: what a spec holds in plain text goes into a Secret
//! of ours and from there into the environment; what stands in the user's own Secret is mounted and put into the
//! environment by its keys. Where the Go operator knows a key or a path of its own, that one works too.

use super::{SEAL_CREDENTIALS_DIR, UNSEAL_DIR};
use crate::{
    api::{
        AwsKmsSeal, AzureKeyVaultSeal, DEFAULT_STATIC_KEY_ID, GcpCloudKmsSeal, KmipSeal, OciKmsSeal, Pkcs11Seal,
        RsaOaepHash, SealType, SecretText, TransitSeal, Unseal,
    },
    service::cluster::{hcl::Body, names},
};
use std::collections::BTreeMap;

/// Where the Go operator mounts the files of `spec.unseal.credentialsSecretRef`: manifests written for it name them there.
const GO_SEAL_CREDENTIALS_DIR: &str = "/etc/bao/seal-creds/";
/// Where the Go operator has the static key that it makes: its manifests may spell that default out.
const GO_STATIC_KEY: &str = "/etc/bao/unseal/key";
/// The credentials of a Google service account, in a Secret.
const GCP_CREDENTIALS: &str = "credentials.json";
/// The file that a client key of the transit seal becomes, where the spec holds the key itself.
const TRANSIT_KEY: &str = "tlsClientKey";
/// The same for KMIP.
const KMIP_KEY: &str = "kmipKey";

/// The id of the static key.
pub fn static_key_id(unseal: &Unseal) -> &str {
    unseal.static_.as_ref().and_then(|seal| seal.current_key_id.as_deref()).unwrap_or(DEFAULT_STATIC_KEY_ID)
}

/// Where the servers have the static key from.
#[derive(Debug, PartialEq, Eq)]
enum StaticKey {
    /// The Secret that the operator makes.
    Made,
    /// This data key of the Secret that the spec names.
    Theirs(String),
    /// A file that no server has: a spec mounts nothing but its Secret.
    Nowhere,
}

impl StaticKey {
    fn of(unseal: &Unseal) -> Self {
        let named = unseal.static_.as_ref().and_then(|seal| seal.current_key.as_deref()).map(in_pod);
        let made = |path: &str| path == GO_STATIC_KEY || path == format!("{UNSEAL_DIR}/{}", names::UNSEAL_KEY_FIELD);
        let theirs = unseal.credentials_secret_ref.is_some();
        match named {
            None if theirs => Self::Theirs(names::UNSEAL_KEY_FIELD.to_owned()),
            None => Self::Made,
            Some(path) if made(&path) && !theirs => Self::Made,
            // To the Go operator it says nothing, wherever it stands.
            Some(path) if path == GO_STATIC_KEY => Self::Theirs(names::UNSEAL_KEY_FIELD.to_owned()),
            Some(path) => {
                let field = path.strip_prefix(SEAL_CREDENTIALS_DIR).and_then(|rest| rest.strip_prefix('/'));
                let field = field.filter(|field| theirs && !field.is_empty() && !field.contains('/'));
                field.map_or(Self::Nowhere, |field| Self::Theirs(field.to_owned()))
            }
        }
    }
}

/// Whether the operator makes and keeps the key: a static seal whose key nobody else brings.
pub fn is_key_ours(unseal: &Unseal) -> bool {
    unseal.type_ == SealType::Static && StaticKey::of(unseal) == StaticKey::Made
}

/// Whether a static seal names a file that no server has.
pub fn is_key_nowhere(unseal: &Unseal) -> bool {
    unseal.type_ == SealType::Static && StaticKey::of(unseal) == StaticKey::Nowhere
}

/// The data key of `spec.unseal.credentialsSecretRef` in which the static key lies; `None` where it does not lie there.
pub fn static_key_field(unseal: &Unseal) -> Option<String> {
    match StaticKey::of(unseal) {
        StaticKey::Theirs(field) if unseal.type_ == SealType::Static => Some(field),
        _ => None,
    }
}

/// The data key of the user's Secret in which servers with these settings look for their static key.
pub fn static_key_field_in(settings: &str) -> Option<&str> {
    let path = settings.lines().find_map(|line| line.trim().strip_prefix("current_key = \"file://"))?;
    path.strip_suffix('"')?.strip_prefix(SEAL_CREDENTIALS_DIR)?.strip_prefix('/')
}

/// The Secret whose `key` is the static key, whoever brings it; `None` for other seals, and where the spec names another file,
/// which nobody is asked to read.
pub fn static_key_secret(unseal: &Unseal, cluster: &str) -> Option<String> {
    if is_key_ours(unseal) {
        return Some(names::unseal_secret(cluster));
    }
    static_key_field(unseal).filter(|field| field == names::UNSEAL_KEY_FIELD)?;
    unseal.credentials_secret_ref.as_ref().map(|reference| reference.name.clone())
}

/// `seal "<type>" { … }`, without any credential.
pub fn stanza(unseal: &Unseal) -> Body {
    let body = match unseal.type_ {
        SealType::Static => static_seal(unseal),
        SealType::AwsKms => unseal.awskms.as_ref().map_or_else(Body::new, awskms),
        SealType::GcpcKms => unseal.gcp_cloud_kms.as_ref().map_or_else(Body::new, |seal| gcpckms(seal, unseal)),
        SealType::AzureKeyVault => unseal.azure_key_vault.as_ref().map_or_else(Body::new, azure),
        SealType::Transit => unseal.transit.as_ref().map_or_else(Body::new, transit),
        SealType::Kmip => unseal.kmip.as_ref().map_or_else(Body::new, kmip),
        SealType::OciKms => unseal.ocikms.as_ref().map_or_else(Body::new, ocikms),
        SealType::Pkcs11 => unseal.pkcs11.as_ref().map_or_else(Body::new, pkcs11),
    };
    Body::new().block("seal", &[unseal.type_.as_str()], body)
}

fn static_seal(unseal: &Unseal) -> Body {
    let path = match StaticKey::of(unseal) {
        StaticKey::Theirs(field) => file(&field),
        StaticKey::Made | StaticKey::Nowhere => format!("{UNSEAL_DIR}/{}", names::UNSEAL_KEY_FIELD),
    };
    Body::new().set("current_key_id", static_key_id(unseal)).set("current_key", format!("file://{path}"))
}

fn awskms(seal: &AwsKmsSeal) -> Body {
    Body::new()
        .set("region", &seal.region)
        .set("kms_key_id", &seal.kms_key_id)
        .maybe("endpoint", seal.endpoint.as_ref())
}

fn gcpckms(seal: &GcpCloudKmsSeal, unseal: &Unseal) -> Body {
    let theirs = || unseal.credentials_secret_ref.as_ref().map(|_| file(GCP_CREDENTIALS));
    let credentials = file_of(seal.credentials.as_ref(), GCP_CREDENTIALS).or_else(theirs);
    Body::new()
        .set("project", &seal.project)
        .set("region", &seal.region)
        .set("key_ring", &seal.key_ring)
        .set("crypto_key", &seal.crypto_key)
        .maybe("credentials", credentials)
}

fn azure(seal: &AzureKeyVaultSeal) -> Body {
    Body::new()
        .set("vault_name", &seal.vault_name)
        .set("key_name", &seal.key_name)
        .maybe("tenant_id", seal.tenant_id.as_ref())
        .maybe("client_id", seal.client_id.as_ref())
        .maybe("environment", seal.environment.as_ref())
        .maybe("resource", seal.resource.as_ref())
}

fn transit(seal: &TransitSeal) -> Body {
    Body::new()
        .set("address", &seal.address)
        .set("key_name", &seal.key_name)
        .set("mount_path", &seal.mount_path)
        .maybe("namespace", seal.namespace.as_ref())
        .maybe("disable_renewal", seal.disable_renewal.then_some("true"))
        .maybe("tls_ca_cert", seal.tls_ca_cert.as_deref().map(in_pod))
        .maybe("tls_client_cert", seal.tls_client_cert.as_deref().map(in_pod))
        .maybe("tls_client_key", file_of(seal.tls_client_key.as_ref(), TRANSIT_KEY))
        .maybe("tls_server_name", seal.tls_server_name.as_ref())
        .maybe("tls_skip_verify", seal.tls_skip_verify.then_some("true"))
}

fn kmip(seal: &KmipSeal) -> Body {
    Body::new()
        .set("endpoint", &seal.address)
        .maybe("client_cert", seal.certificate.as_deref().map(in_pod))
        .maybe("client_key", file_of(seal.key.as_ref(), KMIP_KEY))
        .maybe("ca_cert", seal.ca_cert.as_deref().map(in_pod))
        .maybe("server_name", seal.tls_server_name.as_ref())
        .maybe("tls_skip_verify", seal.tls_skip_verify.then_some("true"))
}

fn ocikms(seal: &OciKmsSeal) -> Body {
    Body::new()
        .set("key_id", &seal.key_id)
        .set("crypto_endpoint", &seal.crypto_endpoint)
        .set("management_endpoint", &seal.management_endpoint)
        .maybe(
            "auth_type_api_key",
            seal.auth_type.as_ref().map(|kind| if kind == "api_key" { "true" } else { "false" }),
        )
}

fn pkcs11(seal: &Pkcs11Seal) -> Body {
    let hash = seal.rsa_oaep_hash.map(|hash| match hash {
        RsaOaepHash::Sha1 => "sha1",
        RsaOaepHash::Sha224 => "sha224",
        RsaOaepHash::Sha256 => "sha256",
        RsaOaepHash::Sha384 => "sha384",
        RsaOaepHash::Sha512 => "sha512",
    });
    Body::new()
        .set("lib", &seal.lib)
        .maybe("slot", seal.slot.as_ref())
        .set("key_label", &seal.key_label)
        .maybe("hmac_key_label", seal.hmac_key_label.as_ref())
        .maybe("generate_key", seal.generate_key.then_some("true"))
        .maybe("rsa_encrypt_local", seal.rsa_encrypt_local.then_some("true"))
        .maybe("rsa_oaep_hash", hash)
}

fn file(name: &str) -> String {
    format!("{SEAL_CREDENTIALS_DIR}/{name}")
}

/// A path of the spec as it is in the pod.
fn in_pod(path: &str) -> String {
    let path = path.strip_prefix("file://").unwrap_or(path);
    path.strip_prefix(GO_SEAL_CREDENTIALS_DIR).map_or_else(|| path.to_owned(), file)
}

/// The path in a field that takes a path or the content itself; `None` for content.
fn path_in(text: &SecretText) -> Option<String> {
    let text = text.expose();
    (text.starts_with('/') || text.starts_with("file://")).then(|| in_pod(text))
}

/// What the stanza says of such a field: its path, or the file of ours that its content becomes.
fn file_of(text: Option<&SecretText>, name: &str) -> Option<String> {
    let text = text.filter(|text| !text.is_empty())?;
    Some(path_in(text).unwrap_or_else(|| file(name)))
}

/// Variables that OpenBao reads, with the keys of `spec.unseal.credentialsSecretRef` under which the Go operator has them: of
/// what the spec does not say itself. Where the Secret lacks a key, one with the variable's own name counts.
pub fn variables(unseal: &Unseal) -> Vec<(&'static str, &'static str)> {
    let Some(seal) = unseal.transit.as_ref().filter(|_| unseal.type_ == SealType::Transit) else { return Vec::new() };
    let mut all = Vec::new();
    if seal.token.as_ref().is_none_or(SecretText::is_empty) {
        all.push(("BAO_TOKEN", "token"));
    }
    if seal.tls_ca_cert.is_none() {
        all.push(("BAO_CACERT_BYTES", "ca.crt"));
    }
    all
}

/// Credentials that a spec holds in plain text, by the name of the environment variable OpenBao reads them from (or by
/// file name, where it reads files). They go into a Secret of ours; empty for most clusters.
pub fn inline_credentials(unseal: &Unseal) -> BTreeMap<String, SecretText> {
    let mut all = BTreeMap::new();
    let mut add = |name: &str, text: &Option<SecretText>| {
        if let Some(text) = text.as_ref().filter(|text| !text.is_empty()) {
            all.insert(name.to_owned(), text.clone());
        }
    };
    let content = |text: &Option<SecretText>| text.clone().filter(|text| path_in(text).is_none());
    match unseal.type_ {
        SealType::AwsKms => {
            if let Some(seal) = &unseal.awskms {
                add("AWS_ACCESS_KEY_ID", &seal.access_key);
                add("AWS_SECRET_ACCESS_KEY", &seal.secret_key);
                add("AWS_SESSION_TOKEN", &seal.session_token);
            }
        }
        SealType::AzureKeyVault => {
            if let Some(seal) = &unseal.azure_key_vault {
                add("AZURE_CLIENT_SECRET", &seal.client_secret);
            }
        }
        SealType::GcpcKms => {
            if let Some(seal) = &unseal.gcp_cloud_kms {
                add(GCP_CREDENTIALS, &content(&seal.credentials));
            }
        }
        SealType::Transit => {
            if let Some(seal) = &unseal.transit {
                add("BAO_TOKEN", &seal.token);
                add(TRANSIT_KEY, &content(&seal.tls_client_key));
            }
        }
        SealType::Kmip => {
            if let Some(seal) = &unseal.kmip {
                add(KMIP_KEY, &content(&seal.key));
            }
        }
        SealType::Pkcs11 => {
            if let Some(seal) = &unseal.pkcs11 {
                add("BAO_HSM_PIN", &seal.pin);
            }
        }
        SealType::Static | SealType::OciKms => {}
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn unseal(value: serde_json::Value) -> Unseal {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn the_static_key_is_where_the_servers_find_it() {
        let secret = |value| static_key_secret(&unseal(value), "kelp");
        assert_eq!(secret(json!({"type": "static"})).as_deref(), Some("kelp-unseal-key"));
        let theirs = json!({"type": "static", "credentialsSecretRef": {"name": "mine"}});
        assert_eq!(secret(theirs).as_deref(), Some("mine"));
        let file = json!({"type": "static", "static": {"currentKey": "file:///openbao/seal-credentials/old"}, "credentialsSecretRef": {"name": "mine"}});
        assert_eq!(secret(file), None, "whoever asks for a Secret reads its `key`");
        let transit = json!({"type": "transit", "credentialsSecretRef": {"name": "mine"}});
        assert_eq!(secret(transit), None);
    }

    #[test]
    fn a_static_key_that_is_named_is_one_that_the_servers_have() {
        let of = |path: &str, secret: bool| {
            let secret = secret.then(|| json!({"name": "mine"}));
            let unseal = unseal(json!({"static": {"currentKey": path}, "credentialsSecretRef": secret}));
            let text = stanza(&unseal).to_string();
            let line = text.lines().find_map(|line| line.trim().strip_prefix("current_key = \"file://")).unwrap();
            (line.trim_end_matches('"').to_owned(), is_key_ours(&unseal), is_key_nowhere(&unseal))
        };
        let (made, theirs) = ("/openbao/unseal/key".to_owned(), "/openbao/seal-credentials/key".to_owned());
        assert_eq!(of("file:///etc/bao/unseal/key", false), (made.clone(), true, false), "the Go operator's default");
        assert_eq!(of("/openbao/unseal/key", false), (made, true, false), "and ours");
        assert_eq!(of("file:///etc/bao/unseal/key", true), (theirs.clone(), false, false));
        assert_eq!(of("/etc/bao/seal-creds/key", true), (theirs.clone(), false, false));
        assert_eq!(of("/openbao/seal-credentials/key", true), (theirs, false, false));
        assert_eq!(of("/openbao/seal-credentials/old", true).0, "/openbao/seal-credentials/old");
        let field = |unseal: serde_json::Value| {
            static_key_field_in(&stanza(&self::unseal(unseal)).to_string()).map(str::to_owned)
        };
        let old = json!({"static": {"currentKey": "/openbao/seal-credentials/old"}, "credentialsSecretRef": {"name": "mine"}});
        assert_eq!(field(old).as_deref(), Some("old"));
        assert_eq!(field(json!({"credentialsSecretRef": {"name": "mine"}})).as_deref(), Some("key"));
        assert_eq!(field(json!({})), None, "the operator's own");
        for (path, secret) in [
            ("file:///k", true),
            ("env://KEY", true),
            ("/openbao/seal-credentials/", true),
            ("/openbao/seal-credentials/../unseal/key", true),
            ("/openbao/seal-credentials-of-mine/key", true),
            ("/openbao/unseal/key", true),
            ("/openbao/seal-credentials/key", false),
        ] {
            assert!(of(path, secret).2, "{path}");
        }
        let named = unseal(
            json!({"static": {"currentKey": "/etc/bao/seal-creds/key"}, "credentialsSecretRef": {"name": "mine"}}),
        );
        assert_eq!(static_key_secret(&named, "kelp").as_deref(), Some("mine"), "backups are proven with it");
        let other = unseal(json!({"type": "transit", "static": {"currentKey": "/k"}}));
        assert!(!is_key_nowhere(&other) && static_key_field(&other).is_none());
    }

    fn transit(extra: &serde_json::Value) -> Unseal {
        let mut seal = json!({"address": "https://vault:8200", "keyName": "k", "mountPath": "transit/"});
        seal.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        unseal(json!({"type": "transit", "transit": seal, "credentialsSecretRef": {"name": "mine"}}))
    }

    #[test]
    fn a_path_goes_into_the_stanza_and_content_into_a_secret_of_ours() {
        let keyed = |key: &str| transit(&json!({"tlsClientKey": key}));
        for (key, path, inline) in [
            ("/openbao/seal-credentials/k.pem", "/openbao/seal-credentials/k.pem", false),
            ("file:///elsewhere/k.pem", "/elsewhere/k.pem", false),
            ("-----BEGIN PRIVATE KEY-----", "/openbao/seal-credentials/tlsClientKey", true),
        ] {
            let unseal = keyed(key);
            let text = stanza(&unseal).to_string();
            assert!(text.contains(&format!("tls_client_key = \"{path}\"")), "{key}: {text}");
            assert_eq!(inline_credentials(&unseal).contains_key(TRANSIT_KEY), inline, "{key}");
        }
        let kmip = |key: &str| unseal(json!({"type": "kmip", "kmip": {"address": "kmip:5696", "key": key}}));
        assert!(stanza(&kmip("/k.pem")).to_string().contains("client_key = \"/k.pem\""));
        assert!(inline_credentials(&kmip("/k.pem")).is_empty());
        assert!(inline_credentials(&kmip("-----BEGIN PRIVATE KEY-----")).contains_key(KMIP_KEY));
    }

    #[test]
    fn google_credentials_are_named_whichever_way_they_come() {
        let gcp = |credentials: serde_json::Value, secret: serde_json::Value| {
            unseal(json!({"type": "gcpckms", "credentialsSecretRef": secret, "gcpCloudKMS": {
                "project": "p", "region": "r", "keyRing": "kr", "cryptoKey": "ck", "credentials": credentials}}))
        };
        let none = || serde_json::Value::Null;
        let mounted = "credentials = \"/openbao/seal-credentials/credentials.json\"";
        for (credentials, secret, line) in [
            (json!("/x.json"), none(), Some("credentials = \"/x.json\"")),
            (json!("/etc/bao/seal-creds/credentials.json"), json!({"name": "gcp"}), Some(mounted)),
            (json!("{}"), none(), Some(mounted)),
            (none(), json!({"name": "gcp"}), Some(mounted)),
            (none(), none(), None),
        ] {
            let text = stanza(&gcp(credentials, secret)).to_string();
            assert_eq!(text.lines().map(str::trim).find(|line| line.starts_with("credentials")), line, "{text}");
        }
    }

    #[test]
    fn what_the_go_operator_mounts_elsewhere_is_found_where_it_is_here() {
        let seal = transit(&json!({
            "tlsCACert": "/etc/bao/seal-creds/ca.crt", "tlsClientCert": "/etc/bao/seal-creds/client.crt",
            "tlsClientKey": "/etc/bao/seal-creds/client.key"}));
        let text = stanza(&seal).to_string();
        assert!(!text.contains("/etc/bao"), "{text}");
        assert_eq!(text.matches("\"/openbao/seal-credentials/").count(), 3, "{text}");
        assert!(inline_credentials(&seal).is_empty());
    }

    #[test]
    fn the_token_and_authority_of_a_transit_seal_may_stand_under_the_go_operators_keys() {
        assert_eq!(variables(&transit(&json!({}))), [("BAO_TOKEN", "token"), ("BAO_CACERT_BYTES", "ca.crt")]);
        let named = transit(&json!({"tlsCACert": "/openbao/seal-credentials/ca.crt"}));
        assert_eq!(variables(&named), [("BAO_TOKEN", "token")], "the spec says where the authority is");
        let both = transit(&json!({"tlsCACert": "/ca.crt", "token": "s.inline"}));
        assert!(variables(&both).is_empty(), "and the token");
        assert!(variables(&unseal(json!({"type": "static"}))).is_empty());
    }
}
