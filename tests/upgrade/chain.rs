//! One version after the other, with people at work on the cluster all along.

use std::time::Duration;

use openbao_operator::api::OperationPhase;
use serde_json::json;

use super::{ended, nothing_lost, took, wish};
use crate::harness::{Cluster, Operator};
use crate::restore::setup::Bay;
use crate::upgrade::traffic::Traffic;

#[tokio::test]
#[ignore = "long: cargo xtask test --soak"]
async fn a_writer_and_a_reader_lose_nothing_from_2_6_1_over_2_6_2_and_2_7_0_to_2_7_2() {
    let cluster = Cluster::get().await;
    let namespace = cluster.namespace("upgrade-chain").await;
    let _operator = Operator::start(&namespace, &[]).await;
    let bay = Bay::named(&namespace, "kelp", 3, "2.6.1", "upgrade: {soak: 1s}").await;
    let token = bay.login().await;
    for (number, version) in (1..).zip(["2.6.2", "2.7.0", "2.7.2"]) {
        let traffic = Traffic::start(&bay, &token).await;
        tokio::time::sleep(Duration::from_secs(3)).await;
        wish(&bay, json!({ "version": version })).await;
        let upgrade = ended(&bay, number).await;
        let status = upgrade.status.clone().unwrap();
        assert_eq!(status.phase, OperationPhase::Succeeded, "{version}: {:?}", status.message);
        tokio::time::sleep(Duration::from_secs(3)).await;
        let counted = traffic.stop().await;
        println!("{version}: {}", took(&upgrade));
        println!(
            "{version}: {} of {} writes and {} of {} reads failed, no read for {} ms, no write for {} ms: {:?}",
            counted.failed_writes(),
            counted.writes,
            counted.failed_reads,
            counted.reads,
            counted.longest_read_gap_ms,
            counted.longest_write_gap_ms,
            counted.failures
        );
        nothing_lost(&bay, &token, &counted).await;
        bay.whole(3).await;
    }
}
