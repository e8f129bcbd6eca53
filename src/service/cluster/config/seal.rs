//! The `seal` stanza and the credentials that go with it.
//!
//! Credentials never enter the configuration, which lies in a `ConfigMap`: what a spec holds in plain text goes into a Secret
//! of ours and from there into the environment; what stands in the user's own Secret is mounted and put into the
//! environment by its keys.

use super::{SEAL_CREDENTIALS_DIR, UNSEAL_DIR};
use crate::{
    api::{
        AwsKmsSeal, AzureKeyVaultSeal, DEFAULT_STATIC_KEY_ID, GcpCloudKmsSeal, KmipSeal, OciKmsSeal, Pkcs11Seal,
        RsaOaepHash, SealType, SecretText, TransitSeal, Unseal,
    },
    service::cluster::{hcl::Body, names},
};
use std::collections::BTreeMap;

/// The id of the static key.
pub fn static_key_id(unseal: &Unseal) -> &str {
    unseal.static_.as_ref().and_then(|seal| seal.current_key_id.as_deref()).unwrap_or(DEFAULT_STATIC_KEY_ID)
}

/// Whether the operator makes and keeps the key: a static seal whose key nobody else brings.
pub fn is_key_ours(unseal: &Unseal) -> bool {
    unseal.type_ == SealType::Static
        && unseal.credentials_secret_ref.is_none()
        && unseal.static_.as_ref().is_none_or(|seal| seal.current_key.is_none())
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
    let own = unseal.static_.as_ref().and_then(|seal| seal.current_key.as_deref());
    let key = match (own, &unseal.credentials_secret_ref) {
        (Some(path), _) if path.contains("://") => path.to_owned(),
        (Some(path), _) => format!("file://{path}"),
        (None, Some(_)) => format!("file://{SEAL_CREDENTIALS_DIR}/{}", names::UNSEAL_KEY_FIELD),
        (None, None) => format!("file://{UNSEAL_DIR}/{}", names::UNSEAL_KEY_FIELD),
    };
    Body::new().set("current_key_id", static_key_id(unseal)).set("current_key", key)
}

fn awskms(seal: &AwsKmsSeal) -> Body {
    Body::new()
        .set("region", &seal.region)
        .set("kms_key_id", &seal.kms_key_id)
        .maybe("endpoint", seal.endpoint.as_ref())
}

fn gcpckms(seal: &GcpCloudKmsSeal, unseal: &Unseal) -> Body {
    Body::new()
        .set("project", &seal.project)
        .set("region", &seal.region)
        .set("key_ring", &seal.key_ring)
        .set("crypto_key", &seal.crypto_key)
        .maybe("credentials", unseal.credentials_secret_ref.as_ref().map(|_| file("credentials.json")))
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
        .maybe("tls_ca_cert", seal.tls_ca_cert.as_ref())
        .maybe("tls_client_cert", seal.tls_client_cert.as_ref())
        .maybe("tls_client_key", seal.tls_client_key.as_ref().map(|_| file("tlsClientKey")))
        .maybe("tls_server_name", seal.tls_server_name.as_ref())
        .maybe("tls_skip_verify", seal.tls_skip_verify.then_some("true"))
}

fn kmip(seal: &KmipSeal) -> Body {
    Body::new()
        .set("endpoint", &seal.address)
        .maybe("client_cert", seal.certificate.as_ref())
        .maybe("client_key", seal.key.as_ref().map(|_| file("kmipKey")))
        .maybe("ca_cert", seal.ca_cert.as_ref())
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

/// Credentials that a spec holds in plain text, by the name of the environment variable OpenBao reads them from (or by
/// file name, where it reads files). They go into a Secret of ours; empty for most clusters.
pub fn inline_credentials(unseal: &Unseal) -> BTreeMap<String, SecretText> {
    let mut all = BTreeMap::new();
    let mut add = |name: &str, text: &Option<SecretText>| {
        if let Some(text) = text.as_ref().filter(|text| !text.is_empty()) {
            all.insert(name.to_owned(), text.clone());
        }
    };
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
                add("credentials.json", &seal.credentials);
            }
        }
        SealType::Transit => {
            if let Some(seal) = &unseal.transit {
                add("BAO_TOKEN", &seal.token);
                add("tlsClientKey", &seal.tls_client_key);
            }
        }
        SealType::Kmip => {
            if let Some(seal) = &unseal.kmip {
                add("kmipKey", &seal.key);
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
