//! Durations as manifests write them: `90s`, `10m`, `1h30m`, `250ms`, `7d`.
//!
//! The units are those of Go's `time.ParseDuration`, which manifests of the Go operator use, plus `d` for days of 24 hours.

use std::time::Duration;

use thiserror::Error;

/// What admission accepts as a duration; the same language as [`parse`].
pub const PATTERN: &str = r"^([0-9]+(\.[0-9]+)?(ns|us|ms|s|m|h|d))+$";

/// Why a text is not a duration.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum DurationError {
    /// No number followed by a unit.
    #[error("{0:?} is not a duration: write a number and a unit (ms, s, m, h, d), for example 90s or 1h30m")]
    Malformed(String),
    /// It does not fit what we can count.
    #[error("{0:?} is too long for a duration")]
    TooLong(String),
}

/// Reads a duration such as `1h30m`.
pub fn parse(text: &str) -> Result<Duration, DurationError> {
    let malformed = || DurationError::Malformed(text.to_owned());
    let too_long = || DurationError::TooLong(text.to_owned());
    if text.is_empty() {
        return Err(malformed());
    }
    let (mut total, mut rest) = (Duration::ZERO, text);
    while !rest.is_empty() {
        let number = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(malformed)?;
        let (digits, tail) = rest.split_at(number);
        let unit = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
        let (unit, next) = tail.split_at(unit);
        let nanos_per_unit: u64 = match unit {
            "ns" => 1,
            "us" | "µs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60 * 1_000_000_000,
            "h" => 3_600 * 1_000_000_000,
            "d" => 86_400 * 1_000_000_000,
            _ => return Err(malformed()),
        };
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, "0"));
        if whole.is_empty() || fraction.is_empty() || fraction.contains('.') {
            return Err(malformed());
        }
        let whole: u64 = whole.parse().map_err(|_| too_long())?;
        let mut nanos = whole.checked_mul(nanos_per_unit).ok_or_else(too_long)?;
        let mut place = nanos_per_unit;
        for digit in fraction.bytes() {
            place /= 10;
            nanos = nanos.checked_add(u64::from(digit - b'0') * place).ok_or_else(too_long)?;
        }
        total = total.checked_add(Duration::from_nanos(nanos)).ok_or_else(too_long)?;
        rest = next;
    }
    Ok(total)
}

/// Writes a duration the way people read it: the largest units first, no part that is zero, tenths below ten seconds and
/// milliseconds below one. What is smaller is cut off.
pub fn format(duration: Duration) -> String {
    let millis = duration.as_millis();
    if millis < 1_000 {
        return format!("{millis}ms");
    }
    if millis < 10_000 && !millis.is_multiple_of(1_000) {
        return format!("{}.{}s", millis / 1_000, (millis % 1_000) / 100);
    }
    let seconds = duration.as_secs();
    let parts = [(seconds / 86_400, "d"), (seconds / 3_600 % 24, "h"), (seconds / 60 % 60, "m"), (seconds % 60, "s")];
    parts.iter().filter(|(count, _)| *count > 0).map(|(count, unit)| format!("{count}{unit}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_go_writes() {
        for (text, seconds) in [("90s", 90), ("1h30m", 5_400), ("720h", 2_592_000), ("7d", 604_800), ("0s", 0)] {
            assert_eq!(parse(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        assert_eq!(parse("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(parse("1.5s"), Ok(Duration::from_millis(1_500)));
    }

    #[test]
    fn refuses_numbers_without_units_and_units_without_numbers() {
        for text in ["", "5", "s", "-5s", "5 s", "5x", "1..5s", "1.s", "ten minutes"] {
            assert_eq!(parse(text), Err(DurationError::Malformed(text.to_owned())), "{text}");
        }
        assert!(matches!(parse("99999999999999d"), Err(DurationError::TooLong(_))));
    }

    #[test]
    fn writes_what_it_can_read_again() {
        for seconds in [1, 59, 60, 61, 3_600, 5_400, 86_400, 90_061] {
            let duration = Duration::from_secs(seconds);
            assert_eq!(parse(&format(duration)), Ok(duration));
        }
        assert_eq!(format(Duration::from_millis(3_260)), "3.2s");
        assert_eq!(format(Duration::from_millis(12)), "12ms");
    }
}
