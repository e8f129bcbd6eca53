//! The operator as a process: what it says at its start, how it waits, how it leaves.

use std::process::Command;
use std::time::{Duration, Instant};

use crate::harness::{Cluster, Operator, eventually};

const OPERATOR: &str = env!("CARGO_BIN_EXE_openbao-operator");

#[test]
fn the_version_is_told_without_a_cluster() {
    let output = Command::new(OPERATOR).arg("--version").output().unwrap();
    assert!(output.status.success());
    assert_eq!(
        String::from_utf8_lossy(&output.stdout).trim(),
        format!("openbao-operator {}", env!("CARGO_PKG_VERSION"))
    );
}

#[test]
fn wrong_arguments_are_refused_with_the_reason() {
    for (arguments, reason) in [
        (["--requeue-standard", "0s"], "without a pause"),
        (["--listen", "everywhere"], "--listen"),
        (["--no-such-flag", "x"], "--no-such-flag"),
    ] {
        let output = Command::new(OPERATOR).args(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains(reason), "{arguments:?}: {output:?}");
    }
}

#[test]
fn a_log_filter_that_cannot_be_read_is_refused() {
    let output = Command::new(OPERATOR).env("RUST_LOG", "openbao=loud").output().unwrap();
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("RUST_LOG"), "{output:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_replicas_are_both_ready_one_leads_and_the_other_follows_within_a_second_of_sigterm() {
    let cluster = Cluster::get().await;
    let namespace = cluster.namespace("two-replicas").await;
    let mut first = Operator::start(&namespace, &[]).await;
    says(&first, "leading").await;
    let second = Operator::start(&namespace, &[]).await;
    says(&second, "standby: another replica leads").await;

    let asked = Instant::now();
    let status = first.stop(Duration::from_secs(5)).await;
    assert!(status.success(), "{status}");
    // The answer takes a process to start inside the node's network: the log's own times are exact.
    says(&second, "leading").await;
    let released = line(&first, "lease released");
    let taken = line(&second, "leading");
    assert!(taken - released < chrono::TimeDelta::seconds(1), "taken {} after the release", taken - released);
    assert!(asked.elapsed() < Duration::from_secs(10));
}

async fn says(operator: &Operator, what: &str) {
    eventually(&format!("it says {what}"), Duration::from_secs(30), async || {
        let body = operator.http("/readyz").await?;
        if body.trim() == what { Ok(()) } else { Err(body) }
    })
    .await;
}

/// When a log line with this message was written.
fn line(operator: &Operator, message: &str) -> chrono::DateTime<chrono::Utc> {
    let lines = operator.lines();
    let line =
        lines.iter().find(|line| line["message"] == message).unwrap_or_else(|| panic!("no {message:?} in {lines:?}"));
    line["timestamp"].as_str().unwrap().parse().unwrap()
}
