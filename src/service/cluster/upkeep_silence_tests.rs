//! Members that Kubernetes calls ready and that the operator hears nothing from.

use super::*;

/// Three members, all of them to get a newer certificate. Those at these places have it already.
fn outdated(renewed: &[u32]) -> (Facts, Vec<Member>) {
    let mut facts = facts(&[], 3);
    for (_, pod) in facts.pods.iter_mut().filter(|(ordinal, _)| !renewed.contains(ordinal)) {
        Arc::make_mut(pod).annotations_mut().insert(CERTIFICATE_HASH.into(), "old".into());
    }
    let mut members = members(&[Standby, Standby, Standby], 0);
    for member in members.iter_mut().filter(|member| !renewed.contains(&member.ordinal)) {
        refuse(member, "the certificate that it serves has expired");
    }
    (facts, members)
}

/// The operator does not believe what it serves.
fn refuse(member: &mut Member, why: &str) {
    (member.health, member.view, member.refused, member.silence) = (None, None, true, Some(why.into()));
}

#[test]
fn members_whose_certificates_have_expired_are_given_the_newer_ones_one_at_a_time() {
    let step = |(facts, members): &(Facts, Vec<Member>)| next(facts, members, Some(&voters(3)), 3, 3);
    assert_eq!(restarted(step(&outdated(&[]))), "kelp-2");
    assert_eq!(restarted(step(&outdated(&[2]))), "kelp-1", "it answers");
    assert_eq!(restarted(step(&outdated(&[1, 2]))), "kelp-0");
    let waits = |change: fn(&mut Member)| {
        let mut seen = outdated(&[2]);
        change(&mut seen.1[2]);
        match step(&seen) {
            Step::Wait(why) => why,
            other => panic!("{other:?}"),
        }
    };
    let starts = waits(|member| (member.ready, member.health) = (false, None));
    assert!(starts.contains("has expired") && starts.contains("kelp-tls-server"), "{starts}");
    waits(|member| member.terminating = true);
    waits(|member| member.view = None);
    let cut_off = waits(|member| (member.health, member.silence) = (None, Some("no route".into())));
    assert!(cut_off.contains("kelp-2 is Ready") && cut_off.contains("no route"), "{cut_off}");
    let shows_it_still = waits(|member| refuse(member, "it shows the old one"));
    assert!(
        shows_it_still.contains("it shows the old one") && shows_it_still.contains("delete pod kelp-2"),
        "no restart in a circle: {shows_it_still}"
    );
    let mut away = outdated(&[2]);
    away.1.pop();
    assert!(matches!(step(&away), Step::Wait(_)), "its pod is not made again yet");
}

#[test]
fn a_member_with_a_certificate_for_another_name_is_given_the_newer_one() {
    // Two joined with a certificate that named three, and a better one came for all five.
    let mut facts = facts(&[], 5);
    for pod in facts.pods.values_mut() {
        Arc::make_mut(pod).annotations_mut().insert(CERTIFICATE_HASH.into(), "old".into());
    }
    let mut members = members(&[Active, Standby, Standby, Standby, Standby], 0);
    for member in &mut members[3..] {
        refuse(member, "certificate not valid for name");
    }
    let step = |members: &[Member]| next(&facts, members, Some(&voters(5)), 5, 5);
    assert_eq!(restarted(step(&members)), "kelp-4");
    members[4].terminating = true;
    let waits = step(&members);
    assert!(matches!(&waits, Step::Wait(why) if why.contains("kelp-3") && why.contains("not valid")), "{waits:?}");
    members[4].terminating = false;
    members[1].health = None;
    let waits = step(&members);
    assert!(matches!(&waits, Step::Wait(why) if why.contains("kelp-1")), "whether it serves is not known: {waits:?}");
}

#[test]
fn where_there_is_no_newer_certificate_a_restart_would_change_nothing() {
    let (_, members) = outdated(&[]);
    let step = next(&facts(&[2], 3), &members, Some(&voters(3)), 3, 3);
    assert!(matches!(&step, Step::Wait(why) if why.contains("no newer one")), "{step:?}");
}

#[test]
fn a_member_that_is_to_leave_may_be_silent_while_all_that_stay_serve_and_vote() {
    let five = |silent: &[usize]| {
        let mut five = members(&[Active, Standby, Standby, Standby, Standby], 0);
        for place in silent {
            refuse(&mut five[*place], "certificate not valid for name");
        }
        five
    };
    let all = voters(5);
    let step =
        |members: &[Member], voters: &BTreeSet<String>, wanted| next(&facts(&[1], 5), members, Some(voters), wanted, 5);
    let leaves = |removed| Step::Shrink { pod: "kelp-4".into(), leads: false, removed };
    assert_eq!(step(&five(&[3, 4]), &all, 3), leaves(false));
    assert_eq!(step(&five(&[4]), &voters(4), 3), leaves(true));
    for (silent, wanted, named, why) in [
        (&[3, 4][..], 4, "kelp-3", "it is to stay"),
        (&[3], 3, "kelp-3", "it is not the last"),
        (&[1, 4], 3, "kelp-1", "it is to stay"),
        (&[4], 5, "kelp-4", "nobody is to leave"),
    ] {
        let waits = step(&five(silent), &all, wanted);
        let way_out = format!("delete pod {named}");
        assert!(matches!(&waits, Step::Wait(words) if words.contains(&way_out)), "{why}: {waits:?}");
    }
    let without_vote = BTreeSet::from([0, 1, 3, 4].map(|ordinal| names::pod("kelp", ordinal)));
    assert!(matches!(step(&five(&[3, 4]), &without_vote, 3), Step::Wait(_)), "kelp-2 does not vote yet");
    let mut leads = five(&[4]);
    for member in &mut leads[..4] {
        *member = self::member(member.ordinal, Standby, Some(4));
    }
    let waits = step(&leads, &all, 3);
    assert!(matches!(&waits, Step::Wait(words) if words.contains("delete pod kelp-4")), "it may lead: {waits:?}");
}
