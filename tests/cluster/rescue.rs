//! Ways out by hand that docs/troubleshooting.md tells, done as they stand there.

use openbao_operator::api::MemberState;

use super::trouble::directly;
use super::{PATIENCE, condition, get, keeping, must_hold, put, says, settled, uid};
use crate::harness::{Cluster, Namespace, Operator, eventually};

/// A line of the page, typed by somebody whose `kubectl` looks at this namespace.
async fn shell(namespace: &Namespace, line: &str) {
    let devcluster = namespace.cluster().devcluster();
    let line = line.replace("kubectl ", &format!("kubectl --namespace {} ", namespace.name()));
    let mut command = tokio::process::Command::new("sh");
    command
        .args(["-c", &line])
        .env("PATH", devcluster.path().expect("kubectl"))
        .env("KUBECONFIG", devcluster.kubeconfig());
    let output = command.output().await.expect("a shell");
    assert!(output.status.success(), "{line}: {output:?}");
}

/// "The unseal key is gone": every server that runs still has it.
#[tokio::test]
#[ignore = "long: cargo xtask test --soak"]
async fn an_unseal_key_that_somebody_deleted_is_read_out_of_a_running_server_and_put_back() {
    let cluster = Cluster::get().await;
    let namespace = cluster.namespace("cluster-lost-key").await;
    let _operator = Operator::start(&namespace, &[]).await;
    let token = keeping(&namespace, "  replicas: 1\n", 0).await;
    namespace.kubectl(&["delete", "secret", "kelp-unseal-key"]).await;
    let told = says(&namespace, "kelp", "Degraded", "True", "UnsealKeyMissing").await;
    let advice = condition(&told, "Degraded").1;
    assert!(advice.contains("cat /openbao/unseal/key"), "{advice}");

    let key = namespace.folder().join("key");
    let script = format!("kubectl exec kelp-0 -c openbao -- cat /openbao/unseal/key > {}", key.display());
    shell(&namespace, &script).await;
    let script = format!("kubectl create secret generic kelp-unseal-key --from-file=key={}", key.display());
    shell(&namespace, &script).await;
    says(&namespace, "kelp", "Degraded", "False", "Reconciled").await;
    let before = uid(&namespace, "kelp-0").await;
    namespace.kubectl(&["delete", "pod", "kelp-0"]).await;
    eventually("it unseals with the key that was put back", PATIENCE, async || {
        let now = uid(&namespace, "kelp-0").await;
        if now.is_empty() || now == before { Err(now) } else { Ok(()) }
    })
    .await;
    settled(&namespace, 0).await;
    must_hold(&namespace, "kelp", &token, "kept").await;
}

async fn members(namespace: &Namespace) -> Vec<(String, MemberState)> {
    let status = get(namespace, "kelp").await.unwrap().status.unwrap_or_default();
    status.members.into_iter().map(|member| (member.name, member.state)).collect()
}

/// "A majority of volumes is lost for good": the one that is left is told that it is alone, and the others join it.
#[tokio::test]
#[ignore = "long: cargo xtask test --soak"]
async fn when_a_majority_of_volumes_is_lost_the_survivor_is_told_that_it_is_alone_and_the_others_join_it() {
    let cluster = Cluster::get().await;
    let namespace = cluster.namespace("cluster-lost-quorum").await;
    let _operator = Operator::start(&namespace, &[]).await;
    let token = keeping(&namespace, "", 1).await;
    put(&namespace, "kelp", &token, "last").await;
    must_hold(&namespace, "kelp", &token, "last").await;

    // Two of three volumes go; what is left is as the page finds it.
    namespace.kubectl(&["delete", "pvc", "data-kelp-0", "data-kelp-1", "--wait=false"]).await;
    namespace.kubectl(&["delete", "pod", "kelp-0", "kelp-1", "--force"]).await;
    let told = says(&namespace, "kelp", "Available", "False", "QuorumLost").await;
    let advice = condition(&told, "Available").1;
    assert!(advice.contains("troubleshooting"), "{advice}");

    let folder = namespace.folder().display();
    shell(&namespace, &format!("kubectl exec kelp-2 -c openbao -- cat /openbao/data/vault.db > {folder}/vault.db"))
        .await;
    shell(&namespace, &format!("kubectl exec kelp-2 -c openbao -- cat /openbao/data/raft/raft.db > {folder}/raft.db"))
        .await;
    let script = format!(
        r#"echo '[{{"id": "kelp-2", "address": "kelp-2.kelp.{}.svc:8201", "non_voter": false}}]' |
           kubectl exec -i kelp-2 -c openbao -- sh -c 'cat > /openbao/data/raft/peers.json'"#,
        namespace.name()
    );
    shell(&namespace, &script).await;
    namespace.kubectl(&["delete", "pod", "kelp-2"]).await;
    eventually("it leads and the others have joined it", PATIENCE * 2, async || {
        let members = members(&namespace).await;
        let leads = members.contains(&("kelp-2".to_owned(), MemberState::Active));
        let joined = members.iter().filter(|(_, state)| *state == MemberState::Standby).count();
        if leads && joined == 2 { Ok(()) } else { Err(format!("{members:?}")) }
    })
    .await;
    settled(&namespace, 1).await;
    must_hold(&namespace, "kelp", &token, "last").await;
    let peers = directly(&namespace, "kelp-2", &token, "GET", "sys/storage/raft/configuration").await;
    for member in ["kelp-0", "kelp-1", "kelp-2"] {
        assert!(peers.contains(&format!("{member}.kelp.{}.svc:8201", namespace.name())), "{peers}");
    }
    says(&namespace, "kelp", "Degraded", "False", "Reconciled").await;
}
