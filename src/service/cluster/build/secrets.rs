//! Secrets: certificates that may be made again, and keys that may not.

use super::{meta, names, unowned_meta};
use crate::service::cluster::{authorities::OLDER, config::seal, tls::KeyedCert, validate::ValidatedCluster};
use k8s_openapi::{ByteString, api::core::v1::Secret};
use secrecy::ExposeSecret;
use std::collections::BTreeMap;

/// The cluster's own authority, and the older ones that are believed beside it.
pub fn authority(cluster: &ValidatedCluster, authority: &KeyedCert, older: &str) -> Secret {
    secret(
        cluster,
        names::ca_secret(&cluster.name),
        [
            ("ca.crt", authority.cert.as_bytes()),
            ("ca.key", authority.key.expose_secret().as_bytes()),
            (OLDER, older.as_bytes()),
        ],
    )
}

/// What is believed under a user's authority, whose own Secrets are not ours to write.
pub fn older_authorities(cluster: &ValidatedCluster, believed: &str) -> Secret {
    secret(cluster, names::older_secret(&cluster.name), [(OLDER, believed.as_bytes())])
}

/// The serving certificate with the bundle it chains to.
pub fn serving(cluster: &ValidatedCluster, serving: &KeyedCert, bundle: &str) -> Secret {
    let mut built = secret(
        cluster,
        names::server_secret(&cluster.name),
        [
            ("tls.crt", serving.cert.as_bytes()),
            ("tls.key", serving.key.expose_secret().as_bytes()),
            ("ca.crt", bundle.as_bytes()),
        ],
    );
    built.type_ = Some("kubernetes.io/tls".into());
    built
}

/// The static unseal key: without owner, because whoever loses it loses the data, and immutable, because the key belongs
/// to its id for ever.
pub fn unseal_key(cluster: &ValidatedCluster, key: &[u8; 32]) -> Secret {
    Secret {
        metadata: unowned_meta(cluster, names::unseal_secret(&cluster.name)),
        data: Some(BTreeMap::from([(names::UNSEAL_KEY_FIELD.into(), ByteString(key.to_vec()))])),
        immutable: Some(true),
        type_: Some("Opaque".into()),
        ..Secret::default()
    }
}

/// Where root token and recovery keys of a cluster without self-init will lie: without owner, as above.
pub fn root_token(cluster: &ValidatedCluster) -> Secret {
    Secret {
        metadata: unowned_meta(cluster, names::root_token_secret(&cluster.name)),
        type_: Some("Opaque".into()),
        ..Secret::default()
    }
}

/// Credentials that the spec holds in plain text, if any.
pub fn seal_credentials(cluster: &ValidatedCluster) -> Option<Secret> {
    let inline = seal::inline_credentials(&cluster.spec.unseal);
    (!inline.is_empty()).then(|| Secret {
        metadata: meta(cluster, seal_credentials_name(&cluster.name)),
        data: Some(
            inline.iter().map(|(key, text)| (key.clone(), ByteString(text.expose().as_bytes().to_vec()))).collect(),
        ),
        type_: Some("Opaque".into()),
        ..Secret::default()
    })
}

/// The Secret of [`seal_credentials`].
pub fn seal_credentials_name(cluster: &str) -> String {
    format!("{cluster}-seal-credentials")
}

fn secret<const N: usize>(cluster: &ValidatedCluster, name: String, data: [(&str, &[u8]); N]) -> Secret {
    Secret {
        metadata: meta(cluster, name),
        data: Some(data.into_iter().map(|(key, bytes)| (key.to_owned(), ByteString(bytes.to_vec()))).collect()),
        type_: Some("Opaque".into()),
        ..Secret::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::cluster::validate::tests::valid;
    use kube::ResourceExt;

    #[test]
    fn keys_without_an_owner_are_pruned_neither_by_kubernetes_nor_by_a_gitops_tool() {
        let cluster = valid(|_| {});
        for secret in [unseal_key(&cluster, &[7; 32]), root_token(&cluster)] {
            let name = secret.name_any();
            assert_eq!(secret.metadata.owner_references, None, "{name}");
            assert!(!secret.labels().contains_key("app.kubernetes.io/instance"), "{name}");
            assert_eq!(secret.labels()[names::CLUSTER_LABEL], "kelp", "{name}");
            let sync = &secret.annotations()["argocd.argoproj.io/sync-options"];
            assert_eq!(sync, "Prune=false,Delete=false", "{name}");
            let compare = &secret.annotations()["argocd.argoproj.io/compare-options"];
            assert_eq!(compare, "IgnoreExtraneous", "{name}");
        }
    }
}
