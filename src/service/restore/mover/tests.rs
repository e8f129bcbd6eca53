use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use serde_json::{Value, json};

use super::state::state;
use super::*;
use crate::datapath::protocol::{self, Report};

fn job(value: Value) -> Job {
    serde_json::from_value(value).unwrap()
}

fn pod(phase: &str, terminated: Option<Value>) -> Pod {
    let state = terminated.map_or(json!({"running": {}}), |end| json!({"terminated": end}));
    serde_json::from_value(json!({
        "metadata": {"name": "m", "uid": "p1"},
        "status": {"phase": phase, "containerStatuses": [
            {"name": "mover", "image": "i", "imageID": "", "ready": false, "restartCount": 0, "state": state}]}
    }))
    .unwrap()
}

fn failed() -> Job {
    job(json!({"status": {"conditions": [{"type": "Failed", "status": "True", "message": "no more tries"}]}}))
}

fn running(pod_uid: &str) -> Current {
    Current { number: 1, job: "j".into(), job_uid: "u".into(), state: State::Running { pod_uid: pod_uid.to_owned() } }
}

fn report(pod_uid: &str, kind: &str) -> Report {
    serde_json::from_value(json!({"podUID": pod_uid, "kind": kind, "reason": "R", "message": "m",
        "at": "2026-11-21T03:00:00Z"}))
    .unwrap()
}

#[test]
fn a_job_with_a_pod_that_still_runs_has_not_ended_whatever_its_conditions_say() {
    assert_eq!(state(&failed(), &[&pod("Running", None)]), State::Running { pod_uid: "p1".into() });
    assert!(matches!(state(&job(json!({})), &[]), State::Starting(_)));
    assert!(matches!(state(&failed(), &[]), State::Ended { .. }));
}

#[test]
fn the_end_of_a_mover_tells_its_cause_and_its_time() {
    let message = r#"{"ok":false,"cause":"Store","reason":"NoObject","message":"there is no such key"}"#;
    let end = json!({"exitCode": 5, "message": message, "finishedAt": "2026-11-21T03:00:09Z"});
    let State::Ended { at, failure, why } = state(&failed(), &[&pod("Failed", Some(end))]) else { panic!() };
    assert_eq!(at.unwrap().to_rfc3339(), "2026-11-21T03:00:09+00:00");
    assert_eq!((failure.unwrap().cause, why.as_str()), (protocol::Cause::Store, "there is no such key"));
    let end = json!({"exitCode": 137, "reason": "OOMKilled"});
    let State::Ended { failure, why, .. } = state(&failed(), &[&pod("Failed", Some(end))]) else { panic!() };
    assert!(failure.is_none() && why.contains("OOMKilled"), "{why}");
}

#[test]
fn only_the_pod_that_runs_now_can_be_ready() {
    let exchange = Exchange { report: Some(report("p1", "Verified")), ..Exchange::default() };
    assert!(matches!(readiness(Some(&exchange), Some(&running("p1"))), Readiness::Ready { .. }));
    assert!(matches!(readiness(Some(&exchange), Some(&running("p2"))), Readiness::Working(_)));
    let ended = State::Ended { at: None, failure: None, why: String::new() };
    let current = Current { state: ended, ..running("p1") };
    assert!(matches!(readiness(Some(&exchange), Some(&current)), Readiness::Ended { .. }));
    let refused = Exchange { report: Some(report("p1", "Refused")), ..Exchange::default() };
    assert!(matches!(readiness(Some(&refused), Some(&current)), Readiness::Reported(_)));
    assert!(matches!(readiness(None, None), Readiness::Absent));
}

#[test]
fn a_config_map_that_somebody_else_wrote_into_is_told_and_not_guessed_at() {
    let map = |key: &str, text: &str| -> ConfigMap {
        serde_json::from_value(json!({"metadata": {"name": "m"}, "data": {key: text}})).unwrap()
    };
    assert!(matches!(Exchange::read(&map(protocol::CLAIM, "gibberish")), Err(MoverError::Unreadable { .. })));
    assert!(Exchange::read(&map(protocol::PROGRESS, "gibberish")).unwrap().progress.is_none());
    assert!(Exchange::read(&map("other", "x")).unwrap().claim.is_none());
}
