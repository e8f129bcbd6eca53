//! Schedules: `cron | zone | jitter` as text.
//!
//! Checked: what is accepted fires, always later than now; a plan that has come due yields one tick and a later next; the
//! schedule fires at the times it names.

use std::time::Duration;

use chrono::{DateTime, TimeDelta};
use openbao_operator::{
    api::duration,
    service::backup::schedule::{Planned, Schedule},
};

pub fn check(text: &str) {
    let mut parts = text.splitn(3, '|');
    let cron = parts.next().unwrap_or_default();
    let zone = parts.next().filter(|zone| !zone.is_empty());
    let jitter = parts.next().filter(|jitter| !jitter.is_empty());
    if let Ok(read) = duration::parse(jitter.unwrap_or_default()) {
        // Written for people: cut to what they read, never rounded up.
        let again = duration::parse(&duration::format(read)).expect("what is written can be read");
        assert!(again <= read && read - again < Duration::from_secs(1), "{read:?} is written as {again:?}");
    }
    let Ok(schedule) = Schedule::parse(cron, zone, jitter) else { return };
    // Around the changes of the clock in Europe and the Americas, and a leap day.
    for seconds in [1_761_440_400, 1_774_746_000, 1_772_964_000, 1_793_512_800, 1_835_395_200, 1_800_000_000] {
        let now = DateTime::from_timestamp(seconds, 0).unwrap();
        let next = schedule.next(now, "uid");
        assert!(next > now, "{next} is not after {now}");
        let due = schedule.due(Some(Planned { at: now, by: schedule.text() }), now + TimeDelta::seconds(1), "uid");
        assert_eq!(due.tick, Some(now));
        assert!(due.next > now);
        let other = schedule.due(Some(Planned { at: now, by: "another" }), now, "uid");
        assert_eq!(other.tick, None, "the plan of another schedule is never due");
        if jitter.is_none() && next < DateTime::from_timestamp(4_000_000_000, 0).unwrap() {
            assert!(schedule.fires_at(next), "{next} is named and does not fire");
        }
    }
}
