//! When something is due: five-field cron in UTC or a named zone, spread by a jitter that never changes its mind.
//!
//! Pure: time comes in. The status keeps one planned time per schedule ([`Planned`]); missed ticks collapse into one
//! because the next plan is always made from the present, and a changed schedule counts from now because the plan
//! remembers which schedule made it.

use std::str::FromStr;

use chrono::{DateTime, TimeDelta, Utc};
use chrono_tz::Tz;
use croner::Cron;
use sha2::{Digest, Sha256};

use crate::api::duration;

/// Why a schedule cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScheduleError {
    #[error(
        "schedule \"{schedule}\" has {found} fields: write five (minute hour day-of-month month day-of-week), for \
         example \"0 3 * * *\"; a time zone goes into timeZone"
    )]
    Fields { schedule: String, found: usize },
    #[error("schedule \"{schedule}\" is not a cron expression: {detail}")]
    Cron { schedule: String, detail: String },
    #[error("schedule \"{schedule}\" never fires: no calendar has such a day")]
    Never { schedule: String },
    #[error("timeZone \"{0}\" is unknown: write a name of the IANA database, for example Europe/Amsterdam, or UTC")]
    Zone(String),
    #[error("jitter \"{0}\" is not a duration: write a number and a unit, for example 10m")]
    Jitter(String),
}

/// A schedule that fires.
#[derive(Clone, Debug)]
pub struct Schedule {
    cron: Cron,
    zone: Tz,
    jitter: TimeDelta,
    text: String,
}

/// What was planned, and by which schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Planned<'a> {
    pub at: DateTime<Utc>,
    /// [`Schedule::text`] of the schedule that planned it.
    pub by: &'a str,
}

/// What a look at the clock says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Due {
    /// The planned time that has come, if one has. However many ticks were missed, it is one.
    pub tick: Option<DateTime<Utc>>,
    /// The time to plan for from now on.
    pub next: DateTime<Utc>,
}

impl Schedule {
    /// Reads a schedule and makes sure that it fires at all.
    pub fn parse(cron: &str, zone: Option<&str>, jitter: Option<&str>) -> Result<Self, ScheduleError> {
        let fields = cron.split_whitespace().count();
        if fields != 5 {
            return Err(ScheduleError::Fields { schedule: cron.to_owned(), found: fields });
        }
        let parsed = Cron::from_str(cron)
            .map_err(|error| ScheduleError::Cron { schedule: cron.to_owned(), detail: error.to_string() })?;
        let zone_name = zone.unwrap_or("UTC");
        let zone = Tz::from_str(zone_name).map_err(|_| ScheduleError::Zone(zone_name.to_owned()))?;
        let jitter_text = jitter.unwrap_or("0s");
        let jitter = duration::parse(jitter_text).map_err(|_| ScheduleError::Jitter(jitter_text.to_owned()))?;
        // A jitter is capped by the distance of two ticks anyway; an absurd one must not overflow.
        let jitter = TimeDelta::from_std(jitter).unwrap_or(TimeDelta::MAX);
        let normal = cron.split_whitespace().collect::<Vec<_>>().join(" ");
        let text =
            format!("{normal} {zone}{}", if jitter.is_zero() { String::new() } else { format!(" ~{jitter_text}") });
        let schedule = Self { cron: parsed, zone, jitter, text };
        if schedule.tick_after(DateTime::UNIX_EPOCH).is_none() {
            return Err(ScheduleError::Never { schedule: cron.to_owned() });
        }
        Ok(schedule)
    }

    /// The schedule as a plan remembers it: the same text means the same times.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The first time after `now` at which this schedule, for the object with this UID, fires. Later than `now` always.
    pub fn next(&self, now: DateTime<Utc>, uid: &str) -> DateTime<Utc> {
        let Some(tick) = self.tick_after(now) else { return DateTime::<Utc>::MAX_UTC };
        // Capped by the distance to the tick that follows, so that a jitter wider than the period loses no tick.
        let room = self.tick_after(tick).map_or(self.jitter, |following| self.jitter.min(following - tick));
        tick + spread(uid, tick, room)
    }

    /// Compares the plan with the clock. No plan, or the plan of another schedule, is never due: it counts from now. A plan
    /// that lies beyond the next time was made while a clock was ahead, and holds nothing up.
    pub fn due(&self, planned: Option<Planned<'_>>, now: DateTime<Utc>, uid: &str) -> Due {
        match planned.filter(|planned| planned.by == self.text) {
            Some(planned) if planned.at > now => Due { tick: None, next: planned.at.min(self.next(now, uid)) },
            Some(planned) => Due { tick: Some(planned.at), next: self.next(now, uid) },
            None => Due { tick: None, next: self.next(now, uid) },
        }
    }

    /// Whether the schedule itself (without its jitter) fires at this very time.
    pub fn fires_at(&self, at: DateTime<Utc>) -> bool {
        self.tick_after(at - TimeDelta::seconds(1)) == Some(at)
    }

    fn tick_after(&self, after: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let next = self.cron.find_next_occurrence(&after.with_timezone(&self.zone), false).ok()?;
        Some(next.with_timezone(&Utc))
    }
}

/// A part of `room` in whole seconds that depends on the object and the tick alone: a restarted operator plans the same
/// time, and a thousand clusters with one schedule do not all start at once.
pub fn spread(uid: &str, tick: DateTime<Utc>, room: TimeDelta) -> TimeDelta {
    let Ok(room) = u64::try_from(room.num_seconds()) else { return TimeDelta::zero() };
    if room == 0 {
        return TimeDelta::zero();
    }
    let digest = Sha256::digest(format!("{uid}/{}", tick.timestamp()).as_bytes());
    let number = digest.iter().take(8).fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte));
    TimeDelta::seconds(i64::try_from(number % room).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    fn schedule(cron: &str) -> Schedule {
        Schedule::parse(cron, None, None).unwrap()
    }

    #[test]
    fn the_next_time_is_the_next_tick_in_utc() {
        for (cron, now, next) in [
            ("0 3 * * *", "2026-11-21T02:59:59Z", "2026-11-21T03:00:00Z"),
            ("0 3 * * *", "2026-11-21T03:00:00Z", "2026-11-22T03:00:00Z"),
            ("*/15 * * * *", "2026-11-21T03:00:00.5Z", "2026-11-21T03:15:00Z"),
            ("0 5 * * 0", "2026-11-21T09:00:00Z", "2026-11-22T05:00:00Z"),
            ("0 5 * * 7", "2026-11-21T09:00:00Z", "2026-11-22T05:00:00Z"),
            ("0 5 * * sun", "2026-11-21T09:00:00Z", "2026-11-22T05:00:00Z"),
            ("0 0 1 1 *", "2026-11-21T09:00:00Z", "2027-01-01T00:00:00Z"),
            ("0 0 29 2 *", "2026-11-21T09:00:00Z", "2028-02-29T00:00:00Z"),
            // Both days restricted: either of them, as cron has always had it.
            ("0 0 13 * 5", "2026-11-21T09:00:00Z", "2026-11-27T00:00:00Z"),
        ] {
            assert_eq!(schedule(cron).next(at(now), "u"), at(next), "{cron} after {now}");
        }
    }

    #[test]
    fn a_zone_moves_the_hour_with_the_season_and_survives_the_hour_that_does_not_exist() {
        let nightly = Schedule::parse("30 2 * * *", Some("Europe/Amsterdam"), None).unwrap();
        let winter = nightly.next(at("2026-01-10T12:00:00Z"), "u");
        assert_eq!(winter, at("2026-01-11T01:30:00Z"));
        assert_eq!(nightly.next(at("2026-07-10T12:00:00Z"), "u"), at("2026-07-11T00:30:00Z"));
        // 2026-03-29 has no 02:30 there. It must not be skipped for a day, nor run twice.
        let first = nightly.next(at("2026-03-28T12:00:00Z"), "u");
        let second = nightly.next(first, "u");
        assert!(first >= at("2026-03-29T00:59:59Z") && first <= at("2026-03-29T01:30:00Z"), "{first}");
        assert_eq!(second, at("2026-03-30T00:30:00Z"));
        // 2026-10-25 has it twice: it runs once.
        let first = nightly.next(at("2026-10-24T12:00:00Z"), "u");
        assert_eq!((first, nightly.next(first, "u")), (at("2026-10-25T00:30:00Z"), at("2026-10-26T01:30:00Z")));
    }

    #[test]
    fn what_can_never_work_is_refused_and_the_message_says_what_to_write() {
        let error = |cron: &str, zone, jitter| Schedule::parse(cron, zone, jitter).unwrap_err();
        assert!(matches!(error("0 0 31 2 *", None, None), ScheduleError::Never { .. }));
        assert!(matches!(error("0 0 30 2 *", None, None), ScheduleError::Never { .. }));
        assert!(matches!(error("@daily", None, None), ScheduleError::Fields { found: 1, .. }));
        assert!(matches!(error("0 0 3 * * *", None, None), ScheduleError::Fields { found: 6, .. }));
        assert!(matches!(error("TZ=UTC 0 3 * * *", None, None), ScheduleError::Fields { .. }));
        assert!(matches!(error("", None, None), ScheduleError::Fields { found: 0, .. }));
        assert!(matches!(error("61 * * * *", None, None), ScheduleError::Cron { .. }));
        assert!(matches!(error("a b c d e", None, None), ScheduleError::Cron { .. }));
        let zone = error("0 3 * * *", Some("Mars/Olympus"), None);
        assert!(zone.to_string().contains("Mars/Olympus") && zone.to_string().contains("Europe/Amsterdam"), "{zone}");
        assert!(matches!(error("0 3 * * *", None, Some("soon")), ScheduleError::Jitter(_)));
    }

    #[test]
    fn missed_ticks_collapse_into_one() {
        let hourly = schedule("0 * * * *");
        let planned = Planned { at: at("2026-11-21T03:00:00Z"), by: hourly.text() };
        let due = hourly.due(Some(planned), at("2026-11-21T09:30:00Z"), "u");
        assert_eq!(due, Due { tick: Some(planned.at), next: at("2026-11-21T10:00:00Z") });
    }

    #[test]
    fn a_plan_holds_until_its_time_and_is_due_at_it() {
        let hourly = schedule("0 * * * *");
        let planned = Planned { at: at("2026-11-21T04:00:00Z"), by: hourly.text() };
        let early = hourly.due(Some(planned), at("2026-11-21T03:59:59Z"), "u");
        assert_eq!(early, Due { tick: None, next: planned.at });
        let exact = hourly.due(Some(planned), planned.at, "u");
        assert_eq!(exact, Due { tick: Some(planned.at), next: at("2026-11-21T05:00:00Z") });
    }

    #[test]
    fn a_plan_that_a_clock_ahead_of_time_made_holds_nothing_up() {
        let nightly = Schedule::parse("0 3 * * *", None, Some("30m")).unwrap();
        let now = at("2026-11-21T09:30:00Z");
        let far = nightly.next(at("2027-11-21T09:30:00Z"), "u");
        let due = nightly.due(Some(Planned { at: far, by: nightly.text() }), now, "u");
        assert_eq!(due, Due { tick: None, next: nightly.next(now, "u") });
        // The jitter of a tick that has passed is no such plan.
        let next = nightly.next(at("2026-11-21T02:00:00Z"), "u");
        let between = next - TimeDelta::seconds(1);
        assert!(between >= at("2026-11-21T03:00:00Z"), "{next}");
        assert_eq!(nightly.due(Some(Planned { at: next, by: nightly.text() }), between, "u").next, next);
    }

    #[test]
    fn a_changed_schedule_counts_from_now() {
        let now = at("2026-11-21T09:30:00Z");
        let old = schedule("0 * * * *");
        let missed = Planned { at: at("2026-11-21T09:00:00Z"), by: old.text() };
        let new = schedule("0 12 * * *");
        assert_eq!(new.due(Some(missed), now, "u"), Due { tick: None, next: at("2026-11-21T12:00:00Z") });
        let moved = Schedule::parse("0 * * * *", Some("Asia/Kolkata"), None).unwrap();
        assert_eq!(moved.due(Some(missed), now, "u").tick, None, "another zone is another schedule");
        assert_eq!(old.due(None, now, "u"), Due { tick: None, next: at("2026-11-21T10:00:00Z") });
        let spaced = schedule(" 0  * * * * ");
        assert_eq!(spaced.text(), old.text(), "spaces are not a change");
    }

    #[test]
    fn jitter_differs_between_clusters_and_ticks_but_not_between_two_looks() {
        let spread = Schedule::parse("0 3 * * *", None, Some("30m")).unwrap();
        let now = at("2026-11-21T09:00:00Z");
        let of = |uid: &str| spread.next(now, uid);
        assert_eq!(of("a"), of("a"));
        let different: std::collections::BTreeSet<_> = (0..50).map(|n| of(&format!("uid-{n}"))).collect();
        assert!(different.len() > 25, "{}", different.len());
        let days: std::collections::BTreeSet<_> = (0..10)
            .map(|day| (of("a") + TimeDelta::days(day)).time())
            .chain([spread.next(of("a"), "a").time()])
            .collect();
        assert!(days.len() > 1, "the same minute every day would make one quiet hour crowded");
    }

    proptest! {
        #[test]
        fn the_plan_is_always_ahead_and_never_further_than_one_period_and_its_jitter(
            offset in 0i64..100_000_000, jitter in 0u32..7_200, uid in "[a-f0-9]{8}",
        ) {
            let hourly = Schedule::parse("0 * * * *", None, Some(&format!("{jitter}s"))).unwrap();
            let now = at("2026-01-01T00:00:00Z") + TimeDelta::seconds(offset);
            let next = hourly.next(now, &uid);
            prop_assert!(next > now);
            prop_assert!(next - now < TimeDelta::hours(2));
            // Each tick keeps its own hour, however wide the jitter: none is lost and none doubled.
            let following = hourly.next(next, &uid);
            let hour = |time: DateTime<Utc>| time.timestamp() / 3_600;
            prop_assert_eq!(hour(following), hour(next) + 1);
        }

        #[test]
        fn arbitrary_text_never_breaks_the_reader(text in "\\PC{0,40}") {
            let _ = Schedule::parse(&text, Some(&text), Some(&text));
        }
    }
}
