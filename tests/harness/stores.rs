//! A real S3 server as a pod in the test's namespace.

use std::time::Duration;

use xtask::devcluster::wheels;

use super::{Namespace, Relay, eventually};

/// SeaweedFS with one bucket and one identity that may do everything in it.
pub struct Store {
    namespace: String,
    pub bucket: String,
    pub access_key: String,
    pub secret_key: String,
}

/// Name of the Deployment and the Service.
const NAME: &str = "s3";
const PORT: u16 = 8333;

impl Store {
    /// Starts it and returns once the bucket takes writes.
    pub async fn start(namespace: &Namespace) -> Self {
        let store = Self {
            namespace: namespace.name().to_owned(),
            bucket: "backups".into(),
            access_key: "test-access".into(),
            secret_key: "test-secret".into(),
        };
        namespace.apply(&store.manifest()).await;
        namespace.kubectl(&["rollout", "status", "deployment/s3", "--timeout=120s"]).await;
        eventually("the store makes a bucket", Duration::from_mins(1), async || {
            let script =
                format!("echo s3.bucket.create -name {} | weed shell -master localhost:9333 2>&1", store.bucket);
            namespace.kubectl(&["exec", "deployment/s3", "--", "sh", "-c", &script]).await;
            let list = "echo s3.bucket.list | weed shell -master localhost:9333 2>&1";
            let buckets = namespace.kubectl(&["exec", "deployment/s3", "--", "sh", "-c", list]).await;
            if buckets.contains(&store.bucket) { Ok(()) } else { Err(buckets) }
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

    fn manifest(&self) -> String {
        let identities = serde_json::json!({"identities": [{
            "name": "test",
            "credentials": [{"accessKey": self.access_key, "secretKey": self.secret_key}],
            "actions": ["Admin", "Read", "List", "Tagging", "Write"],
        }]});
        let image = wheels::seaweedfs_image();
        format!(
            r"apiVersion: v1
kind: ConfigMap
metadata: {{name: {NAME}}}
data:
  s3.json: '{identities}'
---
apiVersion: v1
kind: Service
metadata: {{name: {NAME}}}
spec: {{selector: {{app: {NAME}}}, ports: [{{port: {PORT}}}]}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: {NAME}}}
spec:
  selector: {{matchLabels: {{app: {NAME}}}}}
  template:
    metadata: {{labels: {{app: {NAME}}}}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: weed
        image: {image}
        args: [server, -dir=/data, -ip=127.0.0.1, -ip.bind=0.0.0.0, -master.volumeSizeLimitMB=256, -volume.max=50,
               -s3, -s3.port={PORT}, -s3.config=/etc/s3/s3.json]
        readinessProbe: {{tcpSocket: {{port: {PORT}}}, periodSeconds: 1}}
        volumeMounts:
        - {{name: config, mountPath: /etc/s3}}
        - {{name: data, mountPath: /data}}
      volumes:
      - name: config
        configMap: {{name: {NAME}}}
      - name: data
        emptyDir: {{}}
"
        )
    }
}
