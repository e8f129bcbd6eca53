use super::*;
use crate::api::{ClusterPhase, UpgradeDirective, UpgradeStatus};
use crate::service::cluster::{
    members::tests::member,
    trouble::{TlsState, reasons},
    validate::{self, tests::cluster},
};
use HealthState::{Active, Sealed, Standby, Uninitialized};

fn status_of(object: &OpenBaoCluster, members: &[Member], stage: Stage, at: &str) -> OpenBaoClusterStatus {
    seen_of(object, members, stage, at, |_| {})
}

fn seen_of(
    object: &OpenBaoCluster,
    members: &[Member],
    stage: Stage,
    at: &str,
    more: impl FnOnce(&mut Observed<'_>),
) -> OpenBaoClusterStatus {
    let valid = validate::validate(object);
    let mut seen = Observed {
        cluster: object,
        spec: valid.as_ref(),
        members,
        stage,
        tls: TlsState::Good("2027-01-01T00:00:00Z".parse().unwrap()),
        troubles: vec![],
        progress: None,
        stopped: None,
        voters: None,
        behind: &BTreeSet::new(),
        settled: true,
        current_version: None,
        upgrading: None,
        handled: &[],
        lock_orphaned: false,
        pending_restore: None,
        access: None,
        last_restart_at: None,
        volume_size: None,
        root_token: None,
        lets_nobody_in: false,
        missing: Some(vec![]),
    };
    more(&mut seen);
    build(&seen, at.parse().unwrap())
}

fn word(status: &OpenBaoClusterStatus, type_: &str) -> (String, String) {
    let found = status.conditions.iter().find(|condition| condition.type_ == type_).unwrap();
    (found.status.clone(), found.reason.clone())
}

fn running(members: &[Member]) -> OpenBaoCluster {
    let mut object = cluster(|_| {});
    object.status = Some(status_of(&object, members, Stage::Bootstrapped, "2026-11-21T09:00:00Z"));
    object
}

fn three() -> Vec<Member> {
    vec![member(0, Active, Some(0)), member(1, Standby, Some(0)), member(2, Standby, Some(0))]
}

#[test]
fn a_new_cluster_is_available_only_when_all_its_members_serve() {
    let object = cluster(|_| {});
    let early = status_of(&object, &three()[..2], Stage::Bootstrapped, "2026-11-21T09:00:00Z");
    assert_eq!(word(&early, "Available"), ("False".into(), "NotReady".into()));
    let full = status_of(&object, &three(), Stage::Bootstrapped, "2026-11-21T09:00:00Z");
    assert_eq!(word(&full, "Available"), ("True".into(), "AllReplicasReady".into()));
    assert_eq!(full.phase, Some(ClusterPhase::Running));
    assert_eq!(full.active_leader.as_deref(), Some("kelp-0"));
}

#[test]
fn a_member_lost_leaves_the_cluster_available_and_degraded() {
    let object = running(&three());
    let mut members = three();
    members[2].health = None;
    members[2].ready = false;
    members[2].silence = Some("CrashLoopBackOff".into());
    let status = status_of(&object, &members, Stage::Bootstrapped, "2026-11-21T10:00:00Z");
    assert_eq!(word(&status, "Available").0, "True");
    assert_eq!(word(&status, "Degraded"), ("True".into(), "NotReady".into()));
}

#[test]
fn how_far_a_member_has_applied_the_log_is_told_while_an_operation_holds_the_lock() {
    let mut object = running(&three());
    let mut members = three();
    members[0].view.as_mut().unwrap().raft_applied_index = 42;
    members[1] = member(1, Sealed, None);
    members[2].view = None;
    let applied = |object: &OpenBaoCluster| -> Vec<Option<i64>> {
        let status = status_of(object, &members, Stage::Bootstrapped, "2026-11-21T10:00:00Z");
        status.members.iter().map(|member| member.applied_index).collect()
    };
    assert_eq!(applied(&object), [None, None, None], "it would move with each write of a client");
    let lock = serde_json::json!({"operation": "Upgrade", "holder": "openbaocluster/upgrade", "holderUID": "u", "message": "",
        "mode": "Held", "fence": 7, "acquiredAt": "2026-11-21T09:00:00Z", "renewedAt": "2026-11-21T09:00:00Z"});
    object.status.as_mut().unwrap().operation_lock = Some(serde_json::from_value(lock).unwrap());
    assert_eq!(applied(&object), [Some(42), None, None]);
}

#[test]
fn a_look_that_decided_nothing_believes_no_members_that_agree_without_the_others() {
    let mut object = running(&three());
    let status = object.status.as_mut().unwrap();
    status.current_version = Some("2.6.1".into());
    let shows = UpgradeDirective { version: "2.7.2".into(), image: "bao:2.7.2".into() };
    status.upgrade = Some(UpgradeStatus { directive: Some(shows), ..UpgradeStatus::default() });
    let version = |object: &OpenBaoCluster| {
        status_of(object, &three()[..2], Stage::Bootstrapped, "2026-11-21T10:00:00Z").current_version
    };
    assert_eq!(version(&object).as_deref(), Some("2.6.1"));
    object.status.as_mut().unwrap().upgrade = None;
    assert_eq!(version(&object).as_deref(), Some("2.7.2"), "during the first start nobody knows better");
}

#[test]
fn a_lost_majority_is_called_by_its_name_and_told_with_the_page_that_leads_on() {
    let object = running(&three());
    let status = status_of(&object, &[member(0, Standby, None)], Stage::Bootstrapped, "2026-11-21T10:00:00Z");
    assert_eq!(word(&status, "Available"), ("False".into(), "QuorumLost".into()));
    let told = &status.conditions.iter().find(|condition| condition.type_ == "Degraded").unwrap().message;
    assert!(told.contains("Keep the volumes") && told.contains("docs/troubleshooting.md"), "{told}");
    assert_eq!(word(&status, "Degraded"), ("True".into(), "QuorumLost".into()));
    assert_eq!(status.phase, Some(ClusterPhase::Failed));
}

/// Three replicas are wanted of a cluster that ran, in which `voters` vote.
fn scaled(members: &[Member], voters: &'static [&'static str]) -> OpenBaoClusterStatus {
    let object = running(&three());
    let voters: BTreeSet<String> = voters.iter().map(|name| (*name).to_owned()).collect();
    let voters: &'static BTreeSet<String> = Box::leak(Box::new(voters));
    seen_of(&object, members, Stage::Bootstrapped, "2026-11-21T10:00:00Z", |seen| seen.voters = Some(voters))
}

#[test]
fn members_that_are_to_join_make_no_outage() {
    let mut members = vec![member(0, Active, Some(0)), member(1, Uninitialized, None), member(2, Uninitialized, None)];
    for new in &mut members[1..] {
        new.ready = false;
        new.created = Some("2026-11-21T09:59:50Z".parse().unwrap());
    }
    let grows = scaled(&members, &["kelp-0"]);
    assert_eq!(word(&grows, "Available"), ("True".into(), "Ready".into()));
    assert_eq!(word(&grows, "Degraded").0, "False");
    assert_eq!(grows.phase, Some(ClusterPhase::Running));
    for new in &mut members[1..] {
        new.created = Some("2026-11-21T09:50:00Z".parse().unwrap());
    }
    assert_eq!(word(&scaled(&members, &["kelp-0"]), "Degraded"), ("True".into(), "NotReady".into()), "too long");
}

#[test]
fn a_majority_that_is_lost_is_no_joining() {
    let all = &["kelp-0", "kelp-1", "kelp-2"];
    let leads = scaled(&[member(0, Active, Some(0))], all);
    assert_eq!(word(&leads, "Available"), ("False".into(), "NotReady".into()), "it has not found out yet");
    let lost = scaled(&[member(0, Standby, None)], all);
    assert_eq!(word(&lost, "Available"), ("False".into(), "QuorumLost".into()));
    let restarts = scaled(&[member(0, Standby, None)], &["kelp-0"]);
    assert_eq!(word(&restarts, "Available"), ("False".into(), "LeaderUnknown".into()), "the only one that votes");
}

#[test]
fn members_of_two_clusters_are_never_available_and_told_apart_by_name() {
    let object = running(&three());
    let mut members = three();
    members[0].health.as_mut().unwrap().cluster_id = Some("another".into());
    let status = status_of(&object, &members, Stage::Bootstrapped, "2026-11-21T10:00:00Z");
    assert_eq!(word(&status, "Available"), ("False".into(), "ClusterIDMismatch".into()));
    let told = &status.conditions.iter().find(|condition| condition.type_ == "Available").unwrap().message;
    assert!(told.contains("kelp-0: another; kelp-1, kelp-2: id-1"), "{told}");
}

#[test]
fn a_newcomer_that_is_all_that_is_heard_does_not_become_the_known_cluster() {
    let object = running(&three());
    let mut newcomer = member(0, Active, Some(0));
    newcomer.health.as_mut().unwrap().cluster_id = Some("another".into());
    let status = status_of(&object, &[newcomer], Stage::Bootstrapped, "2026-11-21T10:00:00Z");
    assert_eq!(status.cluster_id.as_deref(), Some("id-1"));
}

#[test]
fn members_that_disagree_who_leads_are_named() {
    let object = running(&three());
    let torn = [member(0, Active, Some(0)), member(1, Standby, Some(2)), member(2, Standby, None)];
    let status = status_of(&object, &torn, Stage::Bootstrapped, "2026-11-21T10:00:00Z");
    let told = status.conditions.iter().find(|condition| condition.type_ == "Available").unwrap();
    assert_eq!(told.reason, "LeaderUnknown");
    assert!(told.message.contains("kelp-0 says that it leads, kelp-1 follows kelp-2"), "{}", told.message);
}

#[test]
fn a_root_token_is_told_of_only_while_it_lies_there() {
    let mut object = cluster(|spec| spec["selfInit"] = serde_json::json!(null));
    let at = "2026-11-21T10:00:00Z";
    object.status = Some(status_of(&object, &three(), Stage::Bootstrapped, at));
    let revoked = status_of(&object, &three(), Stage::Bootstrapped, at);
    assert_eq!(word(&revoked, "Degraded").0, "False");
    assert_ne!(word(&revoked, "ProductionReady").1, "RootTokenStored");
    let stored = seen_of(&object, &three(), Stage::Bootstrapped, at, |seen| seen.root_token = Some("bao write x"));
    assert_eq!(word(&stored, "Degraded"), ("True".into(), "RootTokenStored".into()));
    assert_eq!(word(&stored, "ProductionReady"), ("False".into(), "RootTokenStored".into()));
    let told = stored.conditions.iter().find(|condition| condition.type_ == "Degraded").unwrap();
    for part in ["kelp-root-token", "bao write x", "spec.selfInit: {enabled: true, oidc: {enabled: true}}"] {
        assert!(told.message.contains(part), "{part} in {}", told.message);
    }
    let at = |words: &str| told.message.find(words).unwrap_or_else(|| panic!("{words} in {}", told.message));
    assert!(at("recovery-keys") < at("delete the Secret"), "who deletes it has saved them");
}

#[test]
fn the_size_of_the_volumes_is_told_because_the_spec_may_go_back_to_it() {
    let object = running(&three());
    let told = seen_of(&object, &three(), Stage::Bootstrapped, "2026-11-21T10:00:00Z", |seen| {
        seen.volume_size = Some("10Gi".to_owned());
    });
    assert_eq!(plane(&told).volume_size.as_deref(), Some("10Gi"));
}

#[test]
fn a_cluster_that_nobody_backs_up_is_not_ready_for_production() {
    let ready = |backup: serde_json::Value| {
        let object = cluster(|spec| {
            spec["profile"] = serde_json::json!("Hardened");
            spec["tls"] = serde_json::json!({"enabled": true, "mode": "External"});
            spec["unseal"] = serde_json::json!({"type": "transit",
                "transit": {"address": "https://other:8200", "keyName": "k", "mountPath": "transit/"}});
            spec["backup"] = backup;
        });
        word(&status_of(&object, &three(), Stage::Bootstrapped, "2026-11-21T10:00:00Z"), "ProductionReady")
    };
    let none = ("False".to_owned(), "NoBackup".to_owned());
    assert_eq!(ready(serde_json::json!(null)), none);
    assert_eq!(ready(serde_json::json!({"target": {"bucket": "b"}})), none, "nobody asks for one by itself");
    let mut nightly = serde_json::json!({"schedule": "0 3 * * *", "target": {"bucket": "b"}});
    assert_eq!(ready(nightly.clone()).0, "True");
    nightly["suspend"] = serde_json::json!(true);
    assert_eq!(ready(nightly), none);
}

#[test]
fn nothing_is_called_as_the_spec_says_while_it_is_not_carried_out() {
    let mut object = running(&three());
    assert_eq!(word(object.status.as_ref().unwrap(), "Progressing"), ("False".into(), "Reconciled".into()));
    let at = "2026-11-21T10:00:00Z";
    let failed = seen_of(&object, &three(), Stage::Bootstrapped, at, |seen| {
        seen.stopped = Some(Trouble::new(reasons::APPLY_FAILED, "refused"));
    });
    assert_eq!(word(&failed, "Progressing"), ("False".into(), "ApplyFailed".into()));
    let busy = seen_of(&object, &three(), Stage::Bootstrapped, at, |seen| {
        seen.stopped = Some(Trouble::new(reasons::APPLY_FAILED, "refused"));
        seen.progress = Some(Trouble::new(reasons::SCALING, "new members join"));
    });
    assert_eq!(word(&busy, "Progressing"), ("True".into(), "Scaling".into()));
    object.spec.audit = serde_json::from_value(serde_json::json!([{"type": "syslog", "path": "s"}])).unwrap();
    let invalid = status_of(&object, &three(), Stage::Bootstrapped, at);
    assert_eq!(word(&invalid, "Progressing"), ("False".into(), word(&invalid, "Degraded").1));
}

#[test]
fn sealed_members_are_named_and_joining_ones_are_not_called_sealed() {
    let object = running(&three());
    let mut members = three();
    members[1] = member(1, Sealed, None);
    members[2] = member(2, Uninitialized, None);
    let status = status_of(&object, &members, Stage::Bootstrapped, "2026-11-21T10:00:00Z");
    let sealed = status.conditions.iter().find(|condition| condition.type_ == "OpenBaoSealed").unwrap();
    assert_eq!((sealed.status.as_str(), sealed.message.as_str()), ("True", "sealed: kelp-1"));
    assert_eq!(status.members[2].state, MemberState::Joining);
}

#[test]
fn a_restore_that_waits_is_told_of_by_the_restores_themselves_and_not_by_what_the_status_remembers() {
    let mut object = running(&three());
    object.status.as_mut().unwrap().pending_restore = Some("gone".into());
    let told = |pending: Option<&str>| {
        let status = seen_of(&object, &three(), Stage::Bootstrapped, "2026-11-21T10:00:00Z", |seen| {
            seen.pending_restore = pending.map(str::to_owned);
        });
        word(&status, "Restoring").0
    };
    assert_eq!(told(None), "False");
    assert_eq!(told(Some("pearl")), "True");
}

#[test]
fn an_event_is_told_once_for_each_new_reason() {
    let calm = running(&three()).status.unwrap();
    let mut object = running(&three());
    let degraded = status_of(&object, &three()[..1], Stage::Bootstrapped, "2026-11-21T10:00:00Z");
    let told: Vec<String> = news(&calm, &degraded).into_iter().map(|(reason, _)| reason).collect();
    assert_eq!(told, ["NotReady"]);
    assert_eq!(news(&degraded, &degraded), []);
    object.spec.audit = serde_json::from_value(serde_json::json!([{"type": "syslog", "path": "s"}])).unwrap();
    let refused = status_of(&object, &three(), Stage::Bootstrapped, "2026-11-21T10:00:00Z");
    assert_eq!(news(&calm, &refused).len(), 1, "two conditions with the same words are one event");
}

#[test]
fn an_idle_cluster_has_the_same_status_an_hour_later() {
    let object = running(&three());
    let later = status_of(&object, &three(), Stage::Bootstrapped, "2026-11-21T10:00:00Z");
    assert_eq!(plane(&later), plane(object.status.as_ref().unwrap()));
}

#[test]
fn a_transition_changes_its_time_and_a_new_reason_alone_does_not() {
    let object = running(&three());
    let status = status_of(&object, &[], Stage::Bootstrapped, "2026-11-21T10:00:00Z");
    let find = |status: &OpenBaoClusterStatus, type_: &str| {
        status.conditions.iter().find(|condition| condition.type_ == type_).unwrap().last_transition_time.clone()
    };
    let before = object.status.as_ref().unwrap();
    assert_ne!(find(&status, "Available"), find(before, "Available"));
    assert_eq!(find(&status, "TLSReady"), find(before, "TLSReady"));
}

#[test]
fn the_number_of_failures_it_bears_counts_voters_that_serve_and_follow() {
    let names = |ordinals: &[u32], prefix: &str| -> BTreeSet<String> {
        ordinals.iter().map(|ordinal| format!("{prefix}-{ordinal}")).collect()
    };
    let five: Vec<Member> =
        three().into_iter().chain([3, 4].map(|ordinal| member(ordinal, Standby, Some(0)))).collect();
    type Case<'a> = (&'a str, &'a [Member], &'a [u32], &'a [u32], i32);
    let cases: [Case<'_>; 9] = [
        ("all of three", &five[..3], &[0, 1, 2], &[], 1),
        ("one is down", &five[..2], &[0, 1, 2], &[], 0),
        ("joiners that do not vote yet bear nothing", &five[..3], &[0], &[], 0),
        ("one serves old data, and the others vote without it", &five[..3], &[0, 1, 2], &[2], 0),
        ("all of five", &five[..], &[0, 1, 2, 3, 4], &[], 2),
        ("one of five does not follow", &five[..], &[0, 1, 2, 3, 4], &[3], 1),
        ("one does not follow and one is down", &five[..4], &[0, 1, 2, 3, 4], &[3], 0),
        ("fewer than a majority follow", &five[..3], &[0, 1, 2], &[1, 2], 0),
        ("one that does not follow had no vote to lose", &five[..3], &[0, 1], &[2], 0),
    ];
    for (why, members, voters, behind, bears) in cases {
        assert_eq!(tolerance(&names(voters, "kelp"), members, &names(behind, "uid")), bears, "{why}");
    }
}

#[test]
fn a_member_that_does_not_follow_is_no_failure_that_the_cluster_bears() {
    let object = running(&three());
    let set = |names: &[&str]| -> &'static BTreeSet<String> {
        Box::leak(Box::new(names.iter().map(|name| (*name).to_owned()).collect()))
    };
    let bears = |behind: &[&str]| {
        let (voters, behind) = (set(&["kelp-0", "kelp-1", "kelp-2"]), set(behind));
        let status = seen_of(&object, &three(), Stage::Bootstrapped, "2026-11-21T10:00:00Z", |seen| {
            (seen.voters, seen.behind) = (Some(voters), behind);
        });
        status.failure_tolerance
    };
    assert_eq!(bears(&[]), Some(1));
    assert_eq!(bears(&["uid-2"]), Some(0));
}

#[test]
fn the_number_of_failures_it_bears_falls_at_once_and_rises_when_it_is_known_who_follows() {
    let set = |names: &[&str]| -> &'static BTreeSet<String> {
        Box::leak(Box::new(names.iter().map(|name| (*name).to_owned()).collect()))
    };
    let told = |before: Option<i32>, settled: bool, voters: Option<&'static BTreeSet<String>>, behind: &[&str]| {
        let behind = set(behind);
        let mut object = running(&three());
        object.status.as_mut().unwrap().failure_tolerance = before;
        let status = seen_of(&object, &three(), Stage::Bootstrapped, "2026-11-21T10:00:00Z", |seen| {
            (seen.voters, seen.behind, seen.settled) = (voters, behind, settled);
        });
        status.failure_tolerance
    };
    let voters = set(&["kelp-0", "kelp-1", "kelp-2"]);
    type Case<'a> = (&'a str, Option<i32>, bool, &'a [&'a str], Option<i32>);
    let cases: [Case<'_>; 6] = [
        ("all are known to follow", Some(0), true, &[], Some(1)),
        ("one may not", Some(0), false, &[], Some(0)),
        ("one may not, and may only be slow", Some(1), false, &[], Some(1)),
        ("one does not", Some(1), true, &["uid-2"], Some(0)),
        ("one does not, and of another it is not known", Some(1), false, &["uid-2"], Some(0)),
        ("nothing was told yet", None, false, &[], Some(1)),
    ];
    for (why, before, settled, behind, bears) in cases {
        assert_eq!(told(before, settled, Some(voters), behind), bears, "{why}");
        assert_eq!(told(before, settled, None, behind), before, "{why}: who votes is not known");
    }
}

#[test]
fn a_certificate_that_was_not_judged_again_is_told_as_the_last_look_that_did_told_it() {
    let mut object = running(&three());
    let at = "2026-11-21T10:00:00Z";
    let still = seen_of(&object, &three(), Stage::Bootstrapped, at, |seen| seen.tls = TlsState::StillGood);
    let condition = |status: &OpenBaoClusterStatus| {
        status.conditions.iter().find(|condition| condition.type_ == "TLSReady").cloned()
    };
    assert!(condition(&still).is_some_and(|known| known.message.ends_with("2027-01-01")), "{still:?}");
    assert_eq!(condition(&still), condition(object.status.as_ref().unwrap()));
    assert_eq!(word(&still, "Degraded").0, "False");
    // Nothing but the words of the status is asked, whatever they are.
    let known = &mut object.status.as_mut().unwrap().conditions;
    known.iter_mut().find(|condition| condition.type_ == "TLSReady").unwrap().message = "until one day".into();
    let still = seen_of(&object, &three(), Stage::Bootstrapped, at, |seen| seen.tls = TlsState::StillGood);
    assert_eq!(condition(&still).unwrap().message, "until one day");
}

#[test]
fn an_even_number_of_members_is_warned_about() {
    let of = |replicas: i32| {
        let object = cluster(|s| s["replicas"] = serde_json::json!(replicas));
        status_of(&object, &three(), Stage::Bootstrapped, "2026-11-21T09:00:00Z")
    };
    let (three, four) = (of(3), of(4));
    assert_eq!(word(&three, "Valid"), ("True".into(), "Valid".into()));
    assert_eq!(word(&four, "Valid"), ("True".into(), "EvenReplicas".into()), "it is allowed");
    assert_eq!(news(&OpenBaoClusterStatus::default(), &three), []);
    let told = news(&three, &four);
    let is_it = |(reason, words): &(String, String)| reason == "EvenReplicas" && words.contains("of 4 members 1");
    assert!(told.iter().any(is_it), "{told:?}");
    assert!(news(&four, &four).is_empty());
}

#[test]
fn a_first_start_that_lets_nobody_in_is_warned_about_once_and_until_it_is_over() {
    let of = |replicas: i32, starts: bool| {
        let object = cluster(|s| s["replicas"] = serde_json::json!(replicas));
        let stage = if starts { Stage::Bootstrapping } else { Stage::Bootstrapped };
        let members = if starts { vec![] } else { three() };
        seen_of(&object, &members, stage, "2026-11-21T09:00:00Z", |seen| seen.lets_nobody_in = starts)
    };
    let (closed, over) = (of(3, true), of(3, false));
    assert_eq!(word(&closed, "Valid"), ("True".into(), "NobodyCanLogIn".into()), "it is carried out all the same");
    assert_eq!(closed.phase, Some(ClusterPhase::Initializing), "nothing is called failed over it");
    let told = news(&OpenBaoClusterStatus::default(), &closed);
    let (_, words) = told.iter().find(|(reason, _)| reason == "NobodyCanLogIn").expect("an event");
    for part in ["spec.selfInit", "OpenBaoCluster kelp and its volume claims", "cluster-first.yaml", "a backup"] {
        assert!(words.contains(part), "{part} in {words}");
    }
    assert_eq!(news(&closed, &closed), []);
    assert_eq!(word(&over, "Valid"), ("True".into(), "Valid".into()));
    assert_eq!(news(&closed, &over), []);
    let even = of(4, true);
    let valid = even.conditions.iter().find(|condition| condition.type_ == "Valid").unwrap();
    assert_eq!(valid.reason, "NobodyCanLogIn", "the worse of two");
    assert!(valid.message.contains("an even number") && valid.message.len() < 1024, "{}", valid.message);
}

#[test]
fn a_field_whose_kind_is_not_served_is_named_until_somebody_has_looked_again() {
    let mut object = running(&three());
    let mut after = |missing: Option<Vec<&str>>| {
        let missing = missing.map(|all| all.into_iter().map(str::to_owned).collect());
        let next =
            seen_of(&object, &three(), Stage::Bootstrapped, "2026-11-21T10:00:00Z", |seen| seen.missing = missing);
        object.status = Some(next.clone());
        let told = next.conditions.iter().find(|condition| condition.type_ == "Supported").unwrap().message.clone();
        (word(&next, "Supported"), told, word(&next, "Degraded").0)
    };
    let (word, told, degraded) = after(Some(vec!["spec.gateway (no kind HTTPRoute)"]));
    assert_eq!(word, ("False".into(), "PrerequisitesMissing".into()));
    assert!(told.contains("HTTPRoute"), "{told}");
    assert_eq!(degraded, "False", "nothing of the cluster is wrong");
    assert_eq!(after(None).0, word, "a process that has just begun does not know");
    assert_eq!(after(Some(vec![])).0, ("True".into(), "AllFieldsSupported".into()));
    assert_eq!(after(None).0.0, "True");
}
