//! One lock, four processes, sixteen tasks each.

use std::{collections::BTreeMap, io::Write, time::Duration};

use chrono::Utc;
use kube::Api;
use openbao_operator::{
    adapter::operationlock::{self, Claim, Force, How, LockError},
    api::cluster::{
        OpenBaoCluster,
        status::{LockMode, LockOperation},
    },
};

use super::{PATIENCE, bare_cluster, child};
use crate::harness::{Cluster, eventually};

const PROCESSES: usize = 4;
const TASKS: usize = 16;
const NAME: &str = "contended";

pub fn claim_of(holder: &str) -> Claim {
    Claim {
        operation: LockOperation::Maintenance,
        holder: format!("openbaooperation/{holder}"),
        holder_uid: format!("uid-{holder}"),
        operation_ref: Some(holder.to_owned()),
        message: "claiming".into(),
        mode: LockMode::Held,
    }
}

/// What a claiming process does: its tasks take the lock, see that it is theirs, give it back, and try to give it back
/// once more with the fence that is no longer valid, until the fence has reached the number of rounds.
pub async fn claim(namespace: &str, argument: &str) {
    let (process, rounds) = argument.split_once('/').expect("process/rounds");
    let rounds: i64 = rounds.parse().expect("a number");
    let client = Cluster::get().await.client();
    let clusters: Api<OpenBaoCluster> = Api::namespaced(client.clone(), namespace);
    let tasks = (0..TASKS).map(|task| {
        let (client, clusters) = (client.clone(), clusters.clone());
        let mine = claim_of(&format!("p{process}-t{task}"));
        tokio::spawn(async move {
            // Never refreshed on purpose: every decision starts from a copy that grows staler.
            let mut known = clusters.get(NAME).await.expect("the cluster");
            loop {
                if known.status.as_ref().and_then(|status| status.operation_fence).unwrap_or(0) >= rounds {
                    return;
                }
                match operationlock::of(&client, &known).expect("a lock").acquire(&mine, Force::Never, Utc::now()).await
                {
                    Ok(taken) => {
                        assert_eq!(taken.how, How::Taken, "it was given back each time");
                        let fence = taken.lock.fence;
                        let now = clusters.get(NAME).await.expect("the cluster");
                        let lock = now.status.as_ref().and_then(|status| status.operation_lock.clone());
                        let lock = lock.expect("the lock that was taken");
                        assert!(mine.owns(&lock) && lock.fence == fence, "taken by {mine:?}, held by {lock:?}");
                        let handle = operationlock::of(&client, &known).expect("a lock");
                        assert!(handle.release(&mine, Some(fence)).await.expect("a release"));
                        match handle.release(&mine, Some(fence)).await {
                            Ok(false) | Err(LockError::Held { .. }) => {}
                            other => panic!("a stale release did something: {other:?}"),
                        }
                        let mut out = std::io::stdout().lock();
                        writeln!(out, "TOOK {fence}").expect("said so");
                        drop(out);
                        // The copy stays as stale as it is, so the end is told by the lock itself.
                        if fence >= rounds {
                            return;
                        }
                    }
                    Err(LockError::Held { .. } | LockError::Contended(_)) => {
                        tokio::time::sleep(Duration::from_millis(5).mul_f64(rand::random::<f64>() * 8.0)).await;
                        known = clusters.get(NAME).await.expect("the cluster");
                    }
                    Err(error) => panic!("{error:?}"),
                }
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.expect("a task that does not panic");
    }
}

/// `OPSLIFECYCLE_LOCK_ROUNDS=1000` for the long series.
#[tokio::test]
#[ignore = "long: cargo xtask test --soak"]
async fn of_64_tasks_in_4_processes_exactly_one_gets_the_lock_each_time() {
    let rounds: i64 = std::env::var("OPSLIFECYCLE_LOCK_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(100);
    let cluster = Cluster::get().await;
    let namespace = cluster.namespace("ops-lock").await;
    bare_cluster(&namespace, NAME).await;
    let logs: Vec<_> =
        (0..PROCESSES).map(|process| namespace.folder().join(format!("claimant-{process}.log"))).collect();
    let mut children: Vec<_> = logs
        .iter()
        .enumerate()
        .map(|(process, log)| {
            child::command(&namespace, "claimant", &format!("{process}/{rounds}"), log).spawn().expect("a child")
        })
        .collect();
    eventually("the claimants end", PATIENCE * 4, async || {
        let mut left = 0;
        for child in &mut children {
            left += usize::from(matches!(child.try_wait(), Ok(None)));
        }
        if left == 0 { Ok(()) } else { Err(format!("{left} still run")) }
    })
    .await;
    for (child, log) in children.iter_mut().zip(&logs) {
        let status = child.wait().expect("a status");
        assert!(status.success(), "{status}\n{}", std::fs::read_to_string(log).unwrap_or_default());
    }
    let mut winners: BTreeMap<i64, usize> = BTreeMap::new();
    for log in &logs {
        for line in std::fs::read_to_string(log).expect("its log").lines() {
            if let Some((_, fence)) = line.split_once("TOOK ") {
                *winners.entry(fence.trim().parse().expect("a fence")).or_default() += 1;
            }
        }
    }
    let after = namespace.api::<OpenBaoCluster>().get(NAME).await.expect("the cluster").status.expect("a status");
    let last = after.operation_fence.expect("a fence");
    assert!(last >= rounds && after.operation_lock.is_none());
    let expected: BTreeMap<i64, usize> = (1..=last).map(|fence| (fence, 1)).collect();
    assert_eq!(winners, expected, "each fence has exactly one winner");
}

#[tokio::test]
async fn a_lock_is_taken_and_given_back_in_two_requests_and_a_foreign_release_changes_nothing() {
    let cluster = Cluster::get().await;
    let namespace = cluster.namespace("ops-lock-calm").await;
    let bare = bare_cluster(&namespace, "calm").await;
    let client = namespace.client();
    let api = namespace.api::<OpenBaoCluster>();
    let mine = claim_of("mine");
    let taken = operationlock::of(&client, &bare).unwrap().acquire(&mine, Force::Never, Utc::now()).await.unwrap();
    assert_eq!((taken.lock.fence, &taken.how), (1, &How::Taken), "the status was absent");
    let held = api.get("calm").await.unwrap();

    let stranger = claim_of("stranger");
    let handle = operationlock::of(&client, &held).unwrap();
    assert!(matches!(handle.acquire(&stranger, Force::Never, Utc::now()).await, Err(LockError::Held { .. })));
    assert!(matches!(handle.release(&stranger, None).await, Err(LockError::Held { .. })));
    let replaced = handle.acquire(&stranger, Force::Always, Utc::now()).await.unwrap();
    assert!(matches!(replaced.how, How::Replaced(before) if before.fence == 1));
    // The one that was replaced gives back what it no longer has.
    assert!(matches!(handle.release(&mine, Some(1)).await, Err(LockError::Held { .. })));
    assert_eq!(api.get("calm").await.unwrap().status.unwrap().operation_lock.unwrap().holder, stranger.holder);

    // From here on the copy is fresh: one request each.
    let known = api.get("calm").await.unwrap();
    let before: u64 = known.metadata.resource_version.as_deref().unwrap().parse().unwrap();
    assert!(operationlock::of(&client, &known).unwrap().release(&stranger, Some(2)).await.unwrap());
    let free = api.get("calm").await.unwrap();
    operationlock::of(&client, &free).unwrap().acquire(&mine, Force::Never, Utc::now()).await.unwrap();
    let after = api.get("calm").await.unwrap();
    assert_ne!(after.metadata.resource_version, Some(before.to_string()));
    assert_eq!(after.status.unwrap().operation_fence, Some(3));
}
