//! The devcluster is a real Kubernetes, and the harness does what it says.

use std::time::Duration;

use crate::harness::{Azurite, Cluster, Relay, Store, eventually};

#[tokio::test]
async fn a_job_writes_to_a_volume_that_was_made_for_it_and_resolves_names() {
    let cluster = Cluster::get().await;
    let namespace = cluster.namespace("job-with-volume").await;
    namespace
        .apply(
            r#"
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: data}
spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}
---
apiVersion: batch/v1
kind: Job
metadata: {name: writer}
spec:
  template:
    spec:
      restartPolicy: Never
      containers:
      - name: writer
        image: docker.io/library/busybox:1.36
        command: [sh, -c, "echo kept > /data/word && cat /data/word && nslookup kubernetes.default.svc.cluster.local"]
        volumeMounts: [{name: data, mountPath: /data}]
      volumes: [{name: data, persistentVolumeClaim: {claimName: data}}]
"#,
        )
        .await;
    namespace.kubectl(&["wait", "--for=condition=complete", "job/writer", "--timeout=90s"]).await;
    let log = namespace.kubectl(&["logs", "job/writer"]).await;
    assert!(log.contains("kept"), "{log}");
    assert!(log.contains("10.43.0.1"), "{log}");
}

#[tokio::test]
async fn every_supported_openbao_starts_from_its_image_and_says_its_version() {
    let cluster = Cluster::get().await;
    let namespace = cluster.namespace("openbao-images").await;
    for wheel in xtask::devcluster::wheels::OPENBAO {
        let name = format!("bao-{}", wheel.version.replace('.', "-"));
        let image = xtask::devcluster::wheels::openbao_image(wheel.version);
        namespace
            .kubectl(&["run", &name, "--image", &image, "--restart=Never", "--command", "--", "bao", "version"])
            .await;
    }
    for wheel in xtask::devcluster::wheels::OPENBAO {
        let name = format!("bao-{}", wheel.version.replace('.', "-"));
        eventually("the version is printed", Duration::from_secs(90), async || {
            let log = namespace.cluster().inside(&["kubectl", "-n", namespace.name(), "logs", &name]).await;
            let text = String::from_utf8_lossy(&log.stdout).into_owned();
            if text.contains(&format!("v{}", wheel.version)) { Ok(()) } else { Err(text) }
        })
        .await;
    }
}

#[tokio::test]
async fn a_pod_is_reached_from_a_test_through_a_relay_and_from_inside_by_name() {
    let cluster = Cluster::get().await;
    let namespace = cluster.namespace("relay").await;
    let store = Store::start(&namespace).await;
    let answer =
        cluster.expect_inside(&["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", &store.endpoint()]).await;
    assert_eq!(answer, "403", "the store answers, and not to strangers");
    let relay: Relay = store.relay(&namespace).await;
    let url = format!("http://{}", relay.address());
    let output =
        tokio::process::Command::new("curl").args(["-s", "-o", "/dev/null", "-w", "%{http_code}", &url]).output();
    assert_eq!(String::from_utf8_lossy(&output.await.unwrap().stdout), "403");
}

#[tokio::test]
#[ignore = "long: cargo xtask test --soak"]
async fn the_azure_blob_server_runs_as_a_pod_and_refuses_strangers() {
    let cluster = Cluster::get().await;
    let namespace = cluster.namespace("azurite").await;
    let store = Azurite::start(&namespace).await;
    let answer = cluster.expect_inside(&["curl", "-s", "-i", &format!("{}?comp=list", store.endpoint())]).await;
    assert!(answer.contains("Azurite-Blob/3.37.0"), "{answer}");
    assert!(answer.starts_with("HTTP/1.1 4") && !answer.contains("<Containers"), "a stranger lists nothing: {answer}");
}

#[tokio::test]
async fn the_audit_log_counts_one_users_requests_and_nobody_elses() {
    let cluster = Cluster::get().await;
    let namespace = cluster.namespace("audit").await;
    let audit = cluster.audit();
    let name = format!("--as=system:serviceaccount:{}:counted", namespace.name());
    for _ in 0..3 {
        // Refused, and counted all the same.
        cluster.inside(&["kubectl", "-n", namespace.name(), &name, "get", "pods"]).await;
    }
    let requests = audit.requests("kubernetes-admin-nobody");
    assert!(requests.is_empty(), "{requests:?}");
    let admin = audit.count("admin");
    assert!(admin.get(&("list".to_owned(), "pods".to_owned())).is_some_and(|count| *count >= 3), "{admin:?}");
}
