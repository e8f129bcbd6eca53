//! The one place where Kubernetes' time type (jiff) meets ours (chrono).

use chrono::{DateTime, Utc};
use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};

/// To the type of object metadata and conditions, at its precision: whole seconds.
pub fn to_kube(at: DateTime<Utc>) -> Time {
    // Both types span far more than the years either can meet here; the far ends meet in the middle.
    Time(Timestamp::from_second(at.timestamp()).unwrap_or(Timestamp::UNIX_EPOCH))
}

/// From the type of object metadata and conditions.
pub fn from_kube(at: &Time) -> DateTime<Utc> {
    DateTime::from_timestamp(at.0.as_second(), at.0.subsec_nanosecond().unsigned_abs()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_survives_the_way_there_and_back_to_the_second() {
        let at: DateTime<Utc> = "2026-11-21T03:00:07Z".parse().unwrap();
        assert_eq!(from_kube(&to_kube(at)), at);
    }
}
