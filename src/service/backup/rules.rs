//! Retention as the mover applies it: the policy of a spec, the backups of a store, a reasoned ruling on each. Pure.
//!
//! The rules themselves are shared with the records of operations ([`retention`]). The mover lies below this layer, so
//! the programs hand [`apply`] to it.

use std::time::Duration;

use chrono::{DateTime, Utc};

use crate::api::{Retention, duration};
use crate::datapath::prune::{BadPolicy, Candidate, Ruling};
use crate::service::opslifecycle::retention::{self, Item, Policy};

/// A ruling on each candidate, newest first. `policy` is `spec.backup.retention` as JSON.
pub fn apply(policy: &str, candidates: &[Candidate], now: DateTime<Utc>) -> Result<Vec<Ruling>, BadPolicy> {
    let retention: Retention = serde_json::from_str(policy).map_err(|error| BadPolicy(error.to_string()))?;
    let policy = read(&retention)?;
    let newest = |counts_only: bool| {
        // One of the future is kept for that, and must not stand in for the newest true one.
        let true_ones = candidates.iter().filter(|candidate| candidate.taken_at <= now);
        let among = true_ones.filter(|candidate| candidate.counts || !counts_only);
        among.max_by(|a, b| (a.taken_at, &a.key).cmp(&(b.taken_at, &b.key))).map(|candidate| candidate.key.clone())
    };
    // The newest of all, and the newest that is no safety backup: neither may ever be lost to a cap.
    let newest = [newest(false), newest(true)];
    let items: Vec<Item> = candidates
        .iter()
        .map(|candidate| {
            let mut protected = Vec::new();
            if newest.iter().flatten().any(|key| *key == candidate.key) {
                protected.push("the newest".to_owned());
            }
            if candidate.pinned {
                protected.push("pinned".to_owned());
            }
            protected.extend(candidate.protected.clone());
            Item { id: candidate.key.clone(), at: candidate.taken_at, protected, counts: candidate.counts }
        })
        .collect();
    let verdicts = retention::judge(&items, &policy, now);
    let item = |key: &str| items.iter().find(|item| item.id == key);
    let kept = verdicts.iter().filter(|verdict| verdict.keep).filter_map(|verdict| item(&verdict.id));
    let horizon = kept.filter(|item| item.counts && item.at <= now).map(|item| item.at).min();
    Ok(verdicts
        .into_iter()
        .map(|verdict| {
            let uncounted = item(&verdict.id).filter(|item| !item.counts && item.protected.is_empty());
            match uncounted.and_then(|item| of_uncounted(item, &policy, horizon, now)) {
                Some((keep, reason)) => Ruling { key: verdict.id, keep, reason: reason.to_owned() },
                None => Ruling { key: verdict.id, keep: verdict.keep, reason: verdict.reasons.join("; ") },
            }
        })
        .collect())
}

/// A safety backup stands outside the counts, so no count keeps or removes it: it stays as long as something older does.
fn of_uncounted(
    item: &Item,
    policy: &Policy,
    horizon: Option<DateTime<Utc>>,
    now: DateTime<Utc>,
) -> Option<(bool, &'static str)> {
    if *policy == Policy::default() {
        return None;
    }
    let age = (now - item.at).to_std().unwrap_or_default();
    if policy.max_age.is_some_and(|most| age > most) {
        return Some((false, "older than maxAge"));
    }
    match horizon {
        Some(horizon) if item.at < horizon => Some((false, "a safety backup older than every backup that stays")),
        _ => Some((true, "a safety backup younger than the oldest backup that stays")),
    }
}

/// The fields of the spec, read once. 0 means no limit for the caps, as it does in the Go operator, and no rule for the
/// others: a rule that keeps none would be an order to remove all.
fn read(retention: &Retention) -> Result<Policy, BadPolicy> {
    let count = |field: Option<i32>| field.and_then(|count| u32::try_from(count).ok()).filter(|count| *count > 0);
    let time = |name: &str, field: &Option<String>| {
        let read = |text: &String| duration::parse(text).map_err(|error| BadPolicy(format!("{name}: {error}")));
        field.as_ref().map(read).transpose().map(|time| time.filter(|time| *time > Duration::ZERO))
    };
    Ok(Policy {
        last: count(retention.keep_last),
        hourly: count(retention.keep_hourly),
        daily: count(retention.keep_daily),
        weekly: count(retention.keep_weekly),
        monthly: count(retention.keep_monthly),
        yearly: count(retention.keep_yearly),
        within: time("keepWithin", &retention.keep_within)?,
        max_count: count(retention.max_count),
        max_age: time("maxAge", &retention.max_age)?,
    })
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;
    use proptest::prelude::*;

    use super::*;

    fn now() -> DateTime<Utc> {
        "2026-11-21T12:00:00Z".parse().unwrap()
    }

    fn aged(hours: i64) -> Candidate {
        let taken_at = now() - TimeDelta::hours(hours);
        Candidate { key: format!("{hours:05}.snap"), taken_at, pinned: false, protected: None, counts: true }
    }

    fn removed(policy: &str, candidates: &[Candidate]) -> Vec<String> {
        let rulings = apply(policy, candidates, now()).unwrap();
        assert!(rulings.iter().all(|ruling| !ruling.reason.is_empty()), "every ruling says why");
        rulings.into_iter().filter(|ruling| !ruling.keep).map(|ruling| ruling.key).collect()
    }

    #[test]
    fn an_empty_policy_removes_nothing_and_caps_of_zero_are_none() {
        let all: Vec<_> = (0..5).map(aged).collect();
        assert_eq!(removed("{}", &all), [""; 0]);
        assert_eq!(removed(r#"{"maxCount":0,"maxAge":"0s"}"#, &all), [""; 0]);
    }

    #[test]
    fn a_keep_rule_of_zero_is_no_rule() {
        let all: Vec<_> = (0..5).map(aged).collect();
        for policy in [r#"{"keepLast":0}"#, r#"{"keepWithin":"0s"}"#, r#"{"keepDaily":0,"maxAge":"90h"}"#] {
            assert_eq!(removed(policy, &all), [""; 0], "{policy}");
        }
    }

    #[test]
    fn one_of_the_future_stays_and_does_not_stand_in_for_the_newest() {
        let all = [aged(-8760), aged(100), aged(200)];
        for policy in [r#"{"maxAge":"1h"}"#, r#"{"maxCount":1}"#, r#"{"keepWithin":"72h"}"#] {
            assert_eq!(removed(policy, &all), ["00200.snap"], "{policy}");
        }
    }

    #[test]
    fn the_newest_outlives_every_cap() {
        assert_eq!(removed(r#"{"maxAge":"1h"}"#, &[aged(100), aged(200)]), ["00200.snap"]);
        assert_eq!(removed(r#"{"maxCount":1}"#, &[aged(1), aged(2), aged(3)]), ["00002.snap", "00003.snap"]);
    }

    #[test]
    fn what_is_pinned_or_protected_stays() {
        let pinned = Candidate { pinned: true, ..aged(3) };
        let protected = Candidate { protected: Some("restore reef/pearl reads it".into()), ..aged(4) };
        assert_eq!(removed(r#"{"keepLast":1}"#, &[aged(1), aged(2), pinned, protected]), ["00002.snap"]);
    }

    #[test]
    fn a_safety_backup_takes_no_place_and_leaves_with_the_last_older_backup() {
        let safety = |hours| Candidate { counts: false, ..aged(hours) };
        let all = [aged(1), safety(2), aged(3), aged(5), safety(6)];
        assert_eq!(removed(r#"{"keepLast":2}"#, &all), ["00005.snap", "00006.snap"]);
        assert_eq!(removed(r#"{"maxCount":2}"#, &all), ["00005.snap", "00006.snap"]);
        assert_eq!(removed(r#"{"maxAge":"90m"}"#, &all), ["00002.snap", "00003.snap", "00005.snap", "00006.snap"]);
        let newest_is_safety = [safety(1), aged(2), aged(3)];
        assert_eq!(removed(r#"{"maxCount":1}"#, &newest_is_safety), ["00003.snap"]);
    }

    #[test]
    fn a_policy_that_cannot_be_read_removes_nothing() {
        assert!(apply(r#"{"maxAge":"soon"}"#, &[aged(1)], now()).is_err());
        assert!(apply("no", &[aged(1)], now()).is_err());
    }

    proptest! {
        #[test]
        fn a_backup_is_always_left_and_applying_again_removes_nothing_more(
            hours in prop::collection::btree_set(0i64..2_000, 1..30),
            last in prop::option::of(0i32..5), daily in prop::option::of(0i32..5), most in prop::option::of(0i32..5),
            uncounted in prop::collection::vec(any::<bool>(), 30),
        ) {
            let all: Vec<Candidate> = hours.into_iter().zip(uncounted)
                .map(|(hours, uncounted)| Candidate { counts: !uncounted, ..aged(hours) }).collect();
            let policy = Retention { keep_last: last, keep_daily: daily, max_count: most, ..Retention::default() };
            let policy = serde_json::to_string(&policy).unwrap();
            let gone = removed(&policy, &all);
            let left: Vec<Candidate> = all.iter().filter(|candidate| !gone.contains(&candidate.key)).cloned().collect();
            prop_assert!(!left.is_empty());
            prop_assert_eq!(removed(&policy, &left), Vec::<String>::new());
        }
    }
}
