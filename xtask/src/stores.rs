//! A real S3 server as objects for Kubernetes: what the demo and the tests back up to.

use serde_json::json;

use crate::devcluster::wheels;

/// Name of its Deployment, Service and ConfigMap.
pub const NAME: &str = "s3";
/// Its port, plain HTTP.
pub const PORT: u16 = 8333;

/// One identity that may do everything.
#[derive(Debug, Clone)]
pub struct Identity {
    pub access_key: String,
    pub secret_key: String,
}

/// SeaweedFS: a Deployment, a Service, and a ConfigMap with the identity. Its data goes with its pod.
pub fn manifest(identity: &Identity) -> String {
    let identities = json!({"identities": [{
        "name": "backups",
        "credentials": [{"accessKey": identity.access_key, "secretKey": identity.secret_key}],
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

/// What to run in its pod to make a bucket and then list all of them. The server refuses while it starts.
pub fn make_bucket(name: &str) -> String {
    format!("printf 's3.bucket.create -name {name}\\ns3.bucket.list\\n' | weed shell -master localhost:9333 2>&1")
}

/// Name and port of the Azure Blob server.
pub const AZURITE_NAME: &str = "azurite";
pub const AZURITE_PORT: u16 = 10000;
/// Azurite's one account and its published key.
pub const AZURITE_ACCOUNT: &str = "devstoreaccount1";
pub const AZURITE_KEY: &str =
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";

/// Azurite: a Deployment and a Service. Its data goes with its pod.
pub fn azurite() -> String {
    let image = wheels::azurite_image();
    format!(
        r"apiVersion: v1
kind: Service
metadata: {{name: {AZURITE_NAME}}}
spec: {{selector: {{app: {AZURITE_NAME}}}, ports: [{{port: {AZURITE_PORT}}}]}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: {AZURITE_NAME}}}
spec:
  selector: {{matchLabels: {{app: {AZURITE_NAME}}}}}
  template:
    metadata: {{labels: {{app: {AZURITE_NAME}}}}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: azurite
        image: {image}
        args: [--blobHost, 0.0.0.0, --blobPort, '{AZURITE_PORT}', --location, /data, --skipApiVersionCheck, --silent, --disableTelemetry]
        readinessProbe: {{tcpSocket: {{port: {AZURITE_PORT}}}, periodSeconds: 1}}
        volumeMounts:
        - {{name: data, mountPath: /data}}
      volumes:
      - name: data
        emptyDir: {{}}
"
    )
}
