//! Each rule by table, and what must hold for every series and policy.

use proptest::prelude::*;

use super::*;

fn time(text: &str) -> DateTime<Utc> {
    format!("{text}:00Z").parse().unwrap()
}

fn items(times: &[&str]) -> Vec<Item> {
    times.iter().map(|text| Item { id: (*text).to_owned(), at: time(text), protected: vec![], counts: true }).collect()
}

fn kept(items: &[Item], policy: &Policy) -> Vec<String> {
    let verdicts = judge(items, policy, time("2026-11-21T12:00"));
    verdicts.into_iter().filter(|verdict| verdict.keep).map(|verdict| verdict.id).collect()
}

const SERIES: [&str; 9] = [
    "2026-11-21T10:50",
    "2026-11-21T10:10",
    "2026-11-21T09:00",
    "2026-11-20T09:00",
    "2026-11-16T09:00",
    "2026-11-15T09:00",
    "2026-10-31T09:00",
    "2026-01-01T09:00",
    "2025-12-31T09:00",
];

#[test]
fn an_empty_policy_removes_nothing() {
    assert_eq!(kept(&items(&SERIES), &Policy::default()), SERIES);
}

#[test]
fn each_rule_keeps_the_newest_of_each_bucket() {
    let none = Policy::default();
    for (policy, expected) in [
        (Policy { last: Some(2), ..none }, vec![0, 1]),
        (Policy { hourly: Some(2), ..none }, vec![0, 2]),
        (Policy { daily: Some(2), ..none }, vec![0, 3]),
        // ISO weeks begin on Monday: the 16th is in the week of the 21st, the 15th in the one before.
        (Policy { weekly: Some(2), ..none }, vec![0, 5]),
        (Policy { monthly: Some(3), ..none }, vec![0, 6, 7]),
        (Policy { yearly: Some(2), ..none }, vec![0, 8]),
        (Policy { within: Some(Duration::from_secs(2 * 3600)), ..none }, vec![0, 1, 2]),
    ] {
        let expected: Vec<&str> = expected.into_iter().map(|index: usize| SERIES[index]).collect();
        assert_eq!(kept(&items(&SERIES), &policy), expected, "{policy:?}");
    }
}

#[test]
fn the_oldest_is_kept_while_a_rule_has_count_left() {
    let series = items(&["2026-11-21T10:00", "2026-11-20T10:00", "2026-11-20T09:00"]);
    assert_eq!(kept(&series, &Policy { daily: Some(3), ..Policy::default() }).len(), 3);
    assert_eq!(kept(&series, &Policy { daily: Some(2), ..Policy::default() }).len(), 2);
}

#[test]
fn caps_apply_after_the_rules_and_protections_beat_caps() {
    let mut series = items(&SERIES);
    series[8].protected = vec!["pinned".into()];
    let capped = Policy { last: Some(9), max_count: Some(2), ..Policy::default() };
    assert_eq!(kept(&series, &capped), [SERIES[0], SERIES[1], SERIES[8]]);
    let aged = Policy { max_age: Some(Duration::from_secs(30 * 86_400)), ..Policy::default() };
    assert_eq!(kept(&series, &aged), [&SERIES[..7], &SERIES[8..]].concat());
}

#[test]
fn a_safety_backup_uses_up_no_count_and_no_rule_keeps_it() {
    let mut series = items(&SERIES);
    series[0].counts = false;
    assert_eq!(kept(&series, &Policy { last: Some(2), ..Policy::default() }), [SERIES[1], SERIES[2]]);
    series[0].protected = vec!["pre-upgrade".into()];
    assert_eq!(kept(&series, &Policy { max_count: Some(2), ..Policy::default() }), [SERIES[0], SERIES[1], SERIES[2]]);
}

#[test]
fn what_is_dated_in_the_future_stays_and_measures_nothing() {
    let mut series = vec!["2027-11-21T12:00"];
    series.extend(SERIES);
    let none = Policy::default();
    let hour = Duration::from_secs(3600);
    for policy in [
        Policy { within: Some(2 * hour), ..none },
        Policy { last: Some(3), ..none },
        Policy { hourly: Some(3), yearly: Some(1), ..none },
        Policy { max_count: Some(3), ..none },
        Policy { max_age: Some(4 * hour), ..none },
    ] {
        let true_ones = kept(&items(&SERIES), &policy);
        assert!(!true_ones.is_empty());
        let expected: Vec<&str> = series[..1].iter().copied().chain(true_ones.iter().map(String::as_str)).collect();
        assert_eq!(kept(&items(&series), &policy), expected, "{policy:?}");
    }
}

#[test]
fn a_rule_of_zero_is_no_rule() {
    let zero = Policy { last: Some(0), daily: Some(0), within: Some(Duration::ZERO), ..Policy::default() };
    assert_eq!(kept(&items(&SERIES), &zero), SERIES);
    let aged = Policy { max_age: Some(Duration::from_secs(30 * 86_400)), ..zero };
    assert_eq!(kept(&items(&SERIES), &aged), SERIES[..7]);
    assert_eq!(kept(&items(&SERIES), &Policy { weekly: Some(1), ..zero }), SERIES[..1]);
}

fn any_item() -> impl Strategy<Value = Item> {
    (-50..2_000_i64, "[a-z]{3}", prop::bool::weighted(0.1), prop::bool::weighted(0.9)).prop_map(
        |(hours, id, protected, counts)| Item {
            id,
            at: time("2026-11-21T12:00") - TimeDelta::minutes(hours * 37),
            protected: if protected { vec!["pinned".into()] } else { vec![] },
            counts,
        },
    )
}

fn any_policy() -> impl Strategy<Value = Policy> {
    let count = || prop::option::of(0..5_u32);
    (
        count(),
        count(),
        count(),
        count(),
        count(),
        count(),
        prop::option::of(0..1000_u64),
        count(),
        prop::option::of(0..1000_u64),
    )
        .prop_map(|(last, hourly, daily, weekly, monthly, yearly, within, max_count, max_age)| Policy {
            last,
            hourly,
            daily,
            weekly,
            monthly,
            yearly,
            within: within.map(|hours| Duration::from_secs(hours * 3600)),
            max_count,
            max_age: max_age.map(|hours| Duration::from_secs(hours * 3600)),
        })
}

proptest! {
    #![proptest_config(ProptestConfig::default())]

    /// Every item gets a verdict with a reason, nothing protected ever goes, and what is written in another order is
    /// judged the same.
    #[test]
    fn every_series_is_judged_with_reasons(series in prop::collection::vec(any_item(), 0..30), policy in any_policy()) {
        let now = time("2026-11-21T12:00");
        let verdicts = judge(&series, &policy, now);
        prop_assert_eq!(verdicts.len(), series.len());
        prop_assert!(verdicts.iter().all(|verdict| !verdict.reasons.is_empty()));
        let protected = series.iter().filter(|item| !item.protected.is_empty()).count();
        let saved = verdicts.iter().filter(|verdict| verdict.keep).count();
        prop_assert!(saved >= protected);
        let mut backwards = series.clone();
        backwards.reverse();
        let ids = |verdicts: &[Verdict]| -> Vec<(String, bool)> {
            let mut ids: Vec<_> = verdicts.iter().map(|verdict| (verdict.id.clone(), verdict.keep)).collect();
            ids.sort();
            ids
        };
        let distinct: std::collections::BTreeSet<_> = series.iter().map(|item| (item.at, item.id.clone())).collect();
        if distinct.len() == series.len() {
            prop_assert_eq!(ids(&verdicts), ids(&judge(&backwards, &policy, now)));
        }
    }

    /// What is left over is left alone by the next round: retention comes to rest.
    #[test]
    fn a_second_round_removes_nothing_more(series in prop::collection::vec(any_item(), 0..30), policy in any_policy()) {
        let now = time("2026-11-21T12:00");
        let mut series = series;
        for (index, item) in series.iter_mut().enumerate() {
            item.id = format!("{index}");
        }
        let keeps = |series: &[Item]| -> Vec<Item> {
            let verdicts = judge(series, &policy, now);
            series.iter().filter(|item| verdicts.iter().any(|one| one.keep && one.id == item.id)).cloned().collect()
        };
        let once = keeps(&series);
        let twice = keeps(&once);
        prop_assert_eq!(once, twice);
    }
}
