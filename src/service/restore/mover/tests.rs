use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use serde_json::{Value, json};

use super::state::{left, state};
use super::*;
use crate::datapath::protocol::{self, Claim, Report};

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

/// A pod that was told to go at this time, on a node that may not hear of it.
fn told_to_go(at: &str) -> Pod {
    let mut pod = pod("Running", None);
    pod.metadata.namespace = Some("reef".into());
    pod.metadata.deletion_timestamp = Some(serde_json::from_value(json!(at)).unwrap());
    pod.spec = Some(serde_json::from_value(json!({"containers": [], "nodeName": "n7"})).unwrap());
    pod
}

#[test]
fn a_pod_that_was_told_to_go_is_never_ready_and_is_named_with_its_node() {
    let leaving = state(&job(json!({})), &[&told_to_go("2026-11-21T03:00:00Z")]);
    let State::Leaving { pod_uid, why } = &leaving else { panic!("{leaving:?}") };
    assert_eq!(pod_uid, "p1");
    assert!(why.contains("pod m on node n7") && why.contains("--namespace reef delete pod m --force"), "{why}");
    let exchange = Exchange { report: Some(report("p1", "Verified")), ..Exchange::default() };
    let current = Current { state: leaving, ..running("p1") };
    assert!(matches!(readiness(Some(&exchange), Some(&current)), Readiness::Ended { .. }), "another one is made");
    let deleted = job(json!({"metadata": {"deletionTimestamp": "2026-11-21T03:00:00Z"}}));
    assert!(
        matches!(state(&deleted, &[&pod("Running", None)]), State::Leaving { .. }),
        "its Job was deleted a moment ago"
    );
}

#[test]
fn what_is_left_of_the_movers_is_named_and_overdue_a_minute_after_it_should_have_been_gone() {
    let at = |second: i64| DateTime::from_timestamp(1_795_000_000 + second, 0).unwrap();
    let gone = told_to_go(&at(0).to_rfc3339());
    let late = |pods: &[Pod], second| left(&[failed()], pods, at(second)).unwrap().overdue;
    assert!(!late(std::slice::from_ref(&gone), 60));
    assert!(late(std::slice::from_ref(&gone), 61));
    assert!(!late(&[gone.clone(), pod("Running", None)], 500), "this one was not even told yet");
    let what = left(&[failed()], &[gone], at(0)).unwrap().what;
    assert!(what.contains("pod m on node n7"), "{what}");
    assert!(!late(&[pod("Succeeded", None)], 500), "its Job is still there");
    assert_eq!(left(&[], &[pod("Succeeded", None)], at(0)), None);
}

#[test]
fn only_a_mover_that_claimed_and_has_not_answered_may_be_sending() {
    let claim: Claim =
        serde_json::from_value(json!({"podUID": "p1", "fence": 1, "leaderPodUID": "l", "at": "2026-11-21T03:00:00Z"}))
            .unwrap();
    let result = |pod: &str| -> protocol::Submission {
        serde_json::from_value(
            json!({"podUID": pod, "fence": 1, "outcome": "Accepted", "message": "", "at": "2026-11-21T03:00:09Z"}),
        )
        .unwrap()
    };
    assert!(!Exchange::default().may_be_sending());
    let mut exchange = Exchange { claim: Some(claim), ..Exchange::default() };
    assert!(exchange.may_be_sending());
    exchange.result = Some(result("another"));
    assert!(exchange.may_be_sending());
    assert!(!is_disarmed(Some(&exchange)));
    exchange.result = Some(result("p1"));
    assert!(!exchange.may_be_sending() && is_disarmed(Some(&exchange)));
}

#[test]
fn a_config_map_that_is_gone_frees_nobody_from_waiting_for_a_mover() {
    assert!(is_disarmed(Some(&Exchange::default())), "it was refused, and had not claimed");
    assert!(!is_disarmed(None), "whether it has claimed nobody knows");
}

#[test]
fn the_end_of_a_mover_tells_its_cause() {
    let message = r#"{"ok":false,"cause":"Store","reason":"NoObject","message":"there is no such key"}"#;
    let end = json!({"exitCode": 5, "message": message, "finishedAt": "2026-11-21T03:00:09Z"});
    let State::Ended { failure, why } = state(&failed(), &[&pod("Failed", Some(end))]) else { panic!() };
    assert_eq!((failure.unwrap().cause, why.as_str()), (protocol::Cause::Store, "there is no such key"));
    let end = json!({"exitCode": 137, "reason": "OOMKilled"});
    let State::Ended { failure, why } = state(&failed(), &[&pod("Failed", Some(end))]) else { panic!() };
    assert!(failure.is_none() && why.contains("OOMKilled"), "{why}");
}

#[test]
fn only_the_pod_that_runs_now_can_be_ready() {
    let exchange = Exchange { report: Some(report("p1", "Verified")), ..Exchange::default() };
    assert!(matches!(readiness(Some(&exchange), Some(&running("p1"))), Readiness::Ready { .. }));
    assert!(matches!(readiness(Some(&exchange), Some(&running("p2"))), Readiness::Working(_)));
    let ended = State::Ended { failure: None, why: String::new() };
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

#[test]
fn what_an_earlier_operation_of_this_name_left_behind_is_waited_for_and_what_is_somebody_elses_is_no_movers() {
    let owned_by = |kind: &str, name: &str| -> ConfigMap {
        let owner =
            json!({"apiVersion": "openbao.org/v1alpha1", "kind": kind, "name": name, "uid": "u1", "controller": true});
        serde_json::from_value(json!({"metadata": {"name": "back-mover", "ownerReferences": [owner]}})).unwrap()
    };
    let told = |map: &ConfigMap| taken("ConfigMap", map, "back", "u2");
    let going = told(&owned_by("OpenBaoOperation", "back"));
    assert!(matches!(going, MoverError::Going { .. }) && !going.is_final(), "{going}");
    for map in [owned_by("OpenBaoOperation", "other"), owned_by("OpenBaoCluster", "back"), ConfigMap::default()] {
        let foreign = told(&map);
        assert!(matches!(foreign, MoverError::NotOurs { .. }) && foreign.is_final(), "{foreign}");
    }
}
