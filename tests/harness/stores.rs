//! A real S3 server as a pod in the test's namespace.

use std::time::Duration;

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
