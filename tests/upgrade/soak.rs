//! Upgrades in bad weather: the leader killed at each step, quorum lost, five servers, one upgrade after the other.

use std::time::{Duration, Instant};

use openbao_operator::api::{OpenBaoOperation, OperationKind, OperationPhase, StepState};
use rustix::process::Signal;
use serde_json::json;

use super::{LONG, ended, nothing_lost, took, wish};
use crate::harness::{Cluster, Operator, eventually};
use crate::restore::setup::Bay;
use crate::upgrade::traffic::Traffic;

/// Every version the devcluster has, in order.
const VERSIONS: [&str; 5] = ["2.6.1", "2.6.2", "2.7.0", "2.7.1", "2.7.2"];

/// Waits until the newest upgrade has `step` under way (by the beginning of its name).
pub async fn at_step(bay: &Bay<'_>, count: usize, step: &str) {
    eventually(&format!("the upgrade reaches {step}"), LONG, async || {
        let all = bay.namespace.api::<OpenBaoOperation>().list(&kube::api::ListParams::default()).await;
        let all = all.map_err(|error| error.to_string())?.items;
        let upgrades: Vec<_> = all.into_iter().filter(|op| op.spec.operation == OperationKind::Upgrade).collect();
        let Some(newest) = upgrades.iter().max_by_key(|op| op.metadata.creation_timestamp.as_ref().map(|at| at.0))
        else {
            return Err("none".to_owned());
        };
        let steps = newest.status.clone().unwrap_or_default().steps;
        let begun = |state| state != StepState::Pending;
        if upgrades.len() == count && steps.iter().any(|known| known.name.starts_with(step) && begun(known.state)) {
            Ok(())
        } else {
            Err(format!("{} upgrades", upgrades.len()))
        }
    })
    .await;
}

#[tokio::test]
#[ignore = "long: cargo xtask test --soak"]
async fn a_leader_killed_at_any_step_delays_an_upgrade_and_loses_nothing() {
    let cluster = Cluster::get().await;
    let namespace = cluster.namespace("upgrade-kill").await;
    let _operator = Operator::start(&namespace, &[]).await;
    let bay = Bay::named(&namespace, "kelp", 3, VERSIONS[0], "upgrade: {soak: 1s}").await;
    let steps = ["UpdateTemplate", "UpgradeStandby/", "StepDown", "ReplaceOldLeader"];
    for (number, (version, step)) in (1..).zip(VERSIONS[1..].iter().zip(steps)) {
        let token = bay.login().await;
        let traffic = Traffic::start(&bay, &token).await;
        let leader = bay.leader().await;
        wish(&bay, json!({ "version": version })).await;
        at_step(&bay, number, step).await;
        bay.kill(&leader).await;
        let upgrade = ended(&bay, number).await;
        let status = upgrade.status.clone().unwrap();
        assert_eq!(status.phase, OperationPhase::Succeeded, "{version}, killed at {step}: {:?}", status.message);
        bay.whole(3).await;
        let counted = traffic.stop().await;
        println!("{version}, killed at {step}: {}; no write for {} ms", took(&upgrade), counted.longest_write_gap_ms);
        nothing_lost(&bay, &token, &counted).await;
    }
}

#[tokio::test]
#[ignore = "long: cargo xtask test --soak"]
async fn an_upgrade_waits_while_quorum_is_lost_and_goes_on_when_it_is_back() {
    let cluster = Cluster::get().await;
    let namespace = cluster.namespace("upgrade-quorum").await;
    let _operator = Operator::start(&namespace, &[]).await;
    let bay = Bay::named(&namespace, "kelp", 3, VERSIONS[0], "upgrade: {soak: 1s}").await;
    let steps = ["UpdateTemplate", "UpgradeStandby/", "StepDown", "ReplaceOldLeader"];
    for (number, (version, step)) in (1..).zip(VERSIONS[1..].iter().zip(steps)) {
        let leader = bay.leader().await;
        wish(&bay, json!({ "version": version })).await;
        at_step(&bay, number, step).await;
        // Two of three are gone again and again for a while: nobody can lead.
        let until = Instant::now() + Duration::from_secs(20);
        while Instant::now() < until {
            for ordinal in 0..3 {
                let pod = format!("kelp-{ordinal}");
                if pod != leader {
                    namespace
                        .kubectl(&[
                            "delete",
                            "pod",
                            &pod,
                            "--grace-period=0",
                            "--force",
                            "--wait=false",
                            "--ignore-not-found",
                        ])
                        .await;
                }
            }
            tokio::time::sleep(Duration::from_secs(2)).await;
        }
        let status = ended(&bay, number).await.status.unwrap();
        assert_eq!(status.phase, OperationPhase::Succeeded, "{version}, quorum lost at {step}: {:?}", status.message);
        bay.whole(3).await;
    }
}

/// Leadership goes back to the last server of the old version before it is replaced: raft forbids that to nobody. (Not
/// from 2.6 to 2.7: where 2.7 has led, a 2.6 wins elections and fails to start as the active server.)
#[tokio::test]
#[ignore = "long: cargo xtask test --soak"]
async fn an_old_leader_that_wins_again_is_replaced_all_the_same() {
    let cluster = Cluster::get().await;
    let namespace = cluster.namespace("upgrade-again").await;
    // It is stopped for longer than a lease lasts.
    let operator = Operator::start(&namespace, &[("OPENBAO_LEADER_ELECT", "false")]).await;
    let bay = Bay::named(&namespace, "kelp", 3, "2.7.1", "upgrade: {soak: 1s}").await;
    let token = bay.login().await;
    bay.put(&token, "before", "kept").await;
    let old = bay.leader().await;
    wish(&bay, json!({ "version": "2.7.2" })).await;
    at_step(&bay, 1, "StepDown").await;
    operator.signal(Signal::STOP);
    // It may have been stopped before it asked for the step-down, or after.
    let lost = eventually("the old leader has given up", Duration::from_secs(60), async || {
        let leads = bay.leader().await;
        if leads == old {
            bay.step_down(&token).await;
        }
        if leads == old { Err(format!("{leads} leads")) } else { Ok(leads) }
    });
    lost.await;
    eventually("the old leader wins again", Duration::from_secs(240), async || {
        let leads = bay.leader().await;
        if leads == old {
            return Ok(());
        }
        // Who gave up sits out 10 s; of the other two one wins.
        bay.step_down(&token).await;
        tokio::time::sleep(Duration::from_secs(6)).await;
        Err(format!("{leads} led"))
    })
    .await;
    let image = ["get", "pod", &old, "-o", "jsonpath={.spec.containers[0].image}"];
    assert!(namespace.kubectl(&image).await.ends_with(":2.7.1"), "{old} leads on the old version");
    operator.signal(Signal::CONT);
    let upgrade = ended(&bay, 1).await;
    assert_eq!(upgrade.status.clone().unwrap().phase, OperationPhase::Succeeded, "{:?}", upgrade.status);
    println!("{}", took(&upgrade));
    bay.whole(3).await;
    assert!(namespace.kubectl(&image).await.ends_with(":2.7.2"));
    assert_eq!(bay.word(&token, "before").await.as_deref(), Some("kept"));
}

#[tokio::test]
#[ignore = "long: cargo xtask test --soak"]
async fn five_servers_are_upgraded_with_two_failures_to_spare() {
    let cluster = Cluster::get().await;
    let namespace = cluster.namespace("upgrade-five").await;
    let _operator = Operator::start(&namespace, &[]).await;
    let bay = Bay::named(&namespace, "kelp", 5, "2.6.1", "upgrade: {soak: 1s}").await;
    let token = bay.login().await;
    let traffic = Traffic::start(&bay, &token).await;
    wish(&bay, json!({ "version": "2.7.2" })).await;
    let upgrade = ended(&bay, 1).await;
    assert_eq!(upgrade.status.clone().unwrap().phase, OperationPhase::Succeeded, "{:?}", upgrade.status);
    let counted = traffic.stop().await;
    println!("{}", took(&upgrade));
    nothing_lost(&bay, &token, &counted).await;
    bay.whole(5).await;
}

#[tokio::test]
#[ignore = "long: cargo xtask test --soak"]
async fn thirty_upgrades_in_a_row_end_each_time() {
    const ALL: usize = 30;
    let cluster = Cluster::get().await;
    let namespace = cluster.namespace("upgrade-thirty").await;
    let _operator = Operator::start(&namespace, &[]).await;
    let mut upgrades = 0;
    // A version only goes up, so a new cluster follows when the last one is reached.
    for round in 0..8 {
        let name = format!("kelp{round}");
        let bay = Bay::named(&namespace, &name, 3, VERSIONS[0], "upgrade: {soak: 1s}").await;
        for (number, version) in (1..).zip(&VERSIONS[1..]) {
            if upgrades == ALL {
                return;
            }
            upgrades += 1;
            wish(&bay, json!({ "version": version })).await;
            let status = ended(&bay, number).await.status.unwrap();
            assert_eq!(status.phase, OperationPhase::Succeeded, "{name} to {version}: {:?}", status.message);
            bay.whole(3).await;
        }
        namespace.kubectl(&["delete", "openbaocluster", &name, "--wait=false"]).await;
        gone(&bay).await;
    }
    assert_eq!(upgrades, ALL);
}

/// The records of a deleted cluster go with it, so that the next one's are counted anew.
async fn gone(bay: &Bay<'_>) {
    eventually("the records of the deleted cluster are gone", LONG, async || {
        let all = bay.namespace.api::<OpenBaoOperation>().list(&kube::api::ListParams::default()).await;
        let left = all.map_err(|error| error.to_string())?.items.len();
        if left == 0 { Ok(()) } else { Err(format!("{left} records")) }
    })
    .await;
}
