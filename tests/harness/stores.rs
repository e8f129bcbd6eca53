//! Real object stores as pods in the test's namespace: an S3 server, an Azure Blob server.

use std::time::Duration;

use xtask::devcluster::{images, wheels};
use xtask::stores::{self, Identity, NAME, PORT};

use super::{Namespace, Relay, eventually};

/// SeaweedFS with one bucket and one identity that may do everything in it.
pub struct Store {
    namespace: String,
    pub bucket: String,
    pub access_key: String,
    pub secret_key: String,
}

impl Store {
    /// Starts it and returns once the bucket takes writes.
    pub async fn start(namespace: &Namespace) -> Self {
        let store = Self {
            namespace: namespace.name().to_owned(),
            bucket: "backups".into(),
            access_key: "test-access".into(),
            secret_key: "test-secret".into(),
        };
        let identity = Identity { access_key: store.access_key.clone(), secret_key: store.secret_key.clone() };
        namespace.apply(&stores::manifest(&identity)).await;
        namespace.kubectl(&["rollout", "status", "deployment/s3", "--timeout=120s"]).await;
        eventually("the store makes a bucket", Duration::from_mins(1), async || {
            let script = stores::make_bucket(&store.bucket);
            let said = namespace.kubectl(&["exec", "deployment/s3", "--", "sh", "-c", &script]).await;
            // Once in the answer to the creation, once in the list.
            if said.matches(&store.bucket).count() > 1 { Ok(()) } else { Err(said) }
        })
        .await;
        store
    }

    /// As pods and the operator reach it.
    pub fn endpoint(&self) -> String {
        format!("http://{NAME}.{}.svc.cluster.local:{PORT}", self.namespace)
    }

    /// A Secret with the credentials, under the keys that a backup target reads.
    pub fn secret(&self, name: &str) -> String {
        format!(
            "apiVersion: v1\nkind: Secret\nmetadata: {{name: {name}}}\nstringData: {{accessKeyId: {}, secretAccessKey: {}}}\n",
            self.access_key, self.secret_key
        )
    }

    /// A port on this machine that leads to it.
    pub async fn relay(&self, namespace: &Namespace) -> Relay {
        Relay::open(namespace.cluster(), &format!("{NAME}.{}.svc.cluster.local:{PORT}", self.namespace)).await
    }
}

/// Azurite, with its one account.
pub struct Azurite {
    namespace: String,
}

impl Azurite {
    /// Starts it and returns once it takes connections. It has no container yet.
    pub async fn start(namespace: &Namespace) -> Self {
        let devcluster = namespace.cluster().devcluster().clone();
        let load = move || -> anyhow::Result<()> {
            if !images::known(&devcluster)?.contains(&wheels::azurite_image()) {
                images::import(&devcluster, &wheels::azurite(&devcluster)?)?;
            }
            Ok(())
        };
        let loaded = tokio::task::spawn_blocking(load).await.expect("the image is made");
        loaded.unwrap_or_else(|error| panic!("Azurite's image: {error:#}"));
        namespace.apply(&stores::azurite()).await;
        namespace.kubectl(&["rollout", "status", "deployment/azurite", "--timeout=120s"]).await;
        Self { namespace: namespace.name().to_owned() }
    }

    /// As pods reach it. The account is part of the path.
    pub fn endpoint(&self) -> String {
        let (name, namespace) = (stores::AZURITE_NAME, &self.namespace);
        format!("http://{name}.{namespace}.svc.cluster.local:{}/{}", stores::AZURITE_PORT, stores::AZURITE_ACCOUNT)
    }

    /// A Secret with the account's key, under the key that a backup target reads.
    #[expect(clippy::unused_self, reason = "called like the other store's")]
    pub fn secret(&self, name: &str) -> String {
        let key = stores::AZURITE_KEY;
        format!("apiVersion: v1\nkind: Secret\nmetadata: {{name: {name}}}\nstringData: {{accountKey: '{key}'}}\n")
    }

    /// A port on this machine that leads to it.
    pub async fn relay(&self, namespace: &Namespace) -> Relay {
        let (name, port) = (stores::AZURITE_NAME, stores::AZURITE_PORT);
        Relay::open(namespace.cluster(), &format!("{name}.{}.svc.cluster.local:{port}", self.namespace)).await
    }
}
