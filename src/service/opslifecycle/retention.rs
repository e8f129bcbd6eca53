//! What may go and what stays, for backups and for records alike. Pure: items and a policy in, a reasoned verdict on each
//! item out.
//!
//! Newest first. Each rule keeps the newest item of each new bucket (hour, day, ISO week, month, year; UTC) until its
//! count is used up, and the oldest item while it still has count left, so that a young series does not lose its
//! beginning. A policy without any rule removes nothing. Caps apply after the rules; protections beat everything. What is
//! dated after now (a clock was ahead once) stays and counts nowhere: measured from it, everything true would be old.

use std::time::Duration;

use chrono::{DateTime, Datelike, TimeDelta, Timelike, Utc};

/// How much is kept. All `None` removes nothing; a rule of zero is no rule.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// The newest ones.
    pub last: Option<u32>,
    /// The newest of so many hours that have one.
    pub hourly: Option<u32>,
    /// The newest of so many days that have one.
    pub daily: Option<u32>,
    /// The newest of so many ISO weeks that have one.
    pub weekly: Option<u32>,
    /// The newest of so many months that have one.
    pub monthly: Option<u32>,
    /// The newest of so many years that have one.
    pub yearly: Option<u32>,
    /// Everything that is at most this much older than the newest one.
    pub within: Option<Duration>,
    /// At most so many in all.
    pub max_count: Option<u32>,
    /// Nothing older than this.
    pub max_age: Option<Duration>,
}

impl Policy {
    /// What operation records are kept by.
    pub const RECORDS: Self = Self {
        last: Some(50),
        monthly: Some(12),
        yearly: Some(3),
        hourly: None,
        daily: None,
        weekly: None,
        within: None,
        max_count: None,
        max_age: None,
    };

    fn has_rules(&self) -> bool {
        let counts = [self.last, self.hourly, self.daily, self.weekly, self.monthly, self.yearly];
        self.within.is_some_and(|within| !within.is_zero()) || counts.into_iter().flatten().any(|count| count > 0)
    }
}

/// One thing that is kept or goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// Its name: an object key, or a record's name.
    pub id: String,
    /// When it was made.
    pub at: DateTime<Utc>,
    /// Why it must not go, if anything says so: `pinned`, `last verified`, …
    pub protected: Vec<String>,
    /// Whether it uses up counts. A safety backup does not.
    pub counts: bool,
}

/// What becomes of one item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The item.
    pub id: String,
    /// It stays.
    pub keep: bool,
    /// Why it stays, or why it goes. Never empty.
    pub reasons: Vec<String>,
}

/// A verdict on each of `items`, newest first. Items of the same time are ordered by their names.
pub fn judge(items: &[Item], policy: &Policy, now: DateTime<Utc>) -> Vec<Verdict> {
    let mut items: Vec<&Item> = items.iter().collect();
    items.sort_by(|a, b| b.at.cmp(&a.at).then_with(|| b.id.cmp(&a.id)));
    let mut reasons: Vec<Vec<String>> = items.iter().map(|_| vec![]).collect();
    if policy.has_rules() {
        apply_rules(&items, policy, now, &mut reasons);
    } else {
        for reasons in &mut reasons {
            reasons.push("no keep rule".to_owned());
        }
    }
    let mut counted = 0_u32;
    items
        .iter()
        .zip(reasons)
        .map(|(item, reasons)| {
            let capped = if reasons.is_empty() || item.at > now { None } else { cap(item, policy, counted, now) };
            let by_rule = !reasons.is_empty() && capped.is_none();
            let keep = by_rule || !item.protected.is_empty();
            if keep && item.counts && item.at <= now {
                counted = counted.saturating_add(1);
            }
            let reasons = match (by_rule, keep) {
                (true, _) => reasons.into_iter().chain(item.protected.iter().cloned()).collect(),
                (false, true) => item.protected.clone(),
                (false, false) => vec![capped.unwrap_or_else(|| "no rule keeps it".to_owned())],
            };
            Verdict { id: item.id.clone(), keep, reasons }
        })
        .collect()
}

/// The cap that takes `item` away, if one does.
fn cap(item: &Item, policy: &Policy, counted: u32, now: DateTime<Utc>) -> Option<String> {
    if let Some(most) = policy.max_count.filter(|&most| item.counts && counted >= most) {
        return Some(format!("more than maxCount {most}"));
    }
    let oldest = policy.max_age.and_then(|age| TimeDelta::from_std(age).ok());
    oldest.filter(|&age| now - item.at > age).map(|_| "older than maxAge".to_owned())
}

/// The bucket that a rule puts a time into.
type Bucket = fn(DateTime<Utc>, usize) -> (i64, u32, u32);

fn apply_rules(items: &[&Item], policy: &Policy, now: DateTime<Utc>, reasons: &mut [Vec<String>]) {
    // Newest first, so those of the future are at the beginning.
    let present = items.partition_point(|item| item.at > now);
    for reasons in &mut reasons[..present] {
        reasons.push("dated in the future".to_owned());
    }
    let rules: [(&str, Option<u32>, Bucket); 6] = [
        // Every item is a bucket of its own.
        ("last", policy.last, |_, index| (i64::try_from(index).unwrap_or(i64::MAX), 0, 0)),
        ("hourly", policy.hourly, |at, _| (i64::from(at.year()), at.ordinal(), at.hour())),
        ("daily", policy.daily, |at, _| (i64::from(at.year()), at.ordinal(), 0)),
        ("weekly", policy.weekly, |at, _| (i64::from(at.iso_week().year()), at.iso_week().week(), 0)),
        ("monthly", policy.monthly, |at, _| (i64::from(at.year()), at.month(), 0)),
        ("yearly", policy.yearly, |at, _| (i64::from(at.year()), 0, 0)),
    ];
    // A rule only looks at what uses up counts; the oldest of those is its last candidate.
    let candidates: Vec<usize> = (present..items.len()).filter(|&index| items[index].counts).collect();
    for (name, count, bucket) in rules {
        let Some(count) = count else { continue };
        let mut left = count;
        let mut last = None;
        for &index in &candidates {
            if left == 0 {
                break;
            }
            let at = bucket(items[index].at, index);
            let is_new = last != Some(at);
            if is_new || Some(&index) == candidates.last() {
                last = Some(at);
                left -= 1;
                let why = if is_new { String::new() } else { " (the oldest)".to_owned() };
                reasons[index].push(format!("{name} {} of {count}{why}", count - left));
            }
        }
    }
    if let Some(within) = policy.within.and_then(|within| TimeDelta::from_std(within).ok())
        && let Some(newest) = items.get(present)
    {
        for (index, item) in items.iter().enumerate().skip(present) {
            if newest.at - item.at <= within {
                reasons[index].push("within".to_owned());
            }
        }
    }
}

#[cfg(test)]
#[path = "retention_tests.rs"]
mod tests;
