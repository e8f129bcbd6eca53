//! Admission rules that several kinds share, as functions from what they guard to a CEL rule with its message.
//!
//! A message says what to change. Rules run inside the API server, which refuses a CRD whose rules might cost too much:
//! everything a rule looks at has a bounded length.

use kube::core::Rule;

use super::duration;

/// A CEL string literal that needs no escaping of backslashes.
fn raw(text: &str) -> String {
    format!("r'{text}'")
}

fn matches(pattern: &str) -> String {
    format!("self.matches({})", raw(pattern))
}

/// `SemVer`, with the `v` that some people put in front.
const SEMVER: &str = r"^v?(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)(-[0-9A-Za-z-]+(\.[0-9A-Za-z-]+)*)?(\+[0-9A-Za-z-]+(\.[0-9A-Za-z-]+)*)?$";

/// The text is an OpenBao version.
pub fn version() -> Rule {
    Rule::new(matches(SEMVER))
        .message("version must be major.minor.patch as in 2.7.2, optionally with -rc.1 or the like")
}

/// The text is a duration.
pub fn duration(field: &str) -> Rule {
    Rule::new(matches(duration::PATTERN)).message(
        format!("{field} must be a duration: a number and a unit (ms, s, m, h, d), for example 90s or 1h30m").as_str(),
    )
}

/// What OpenBao reads as a duration: a number of seconds, whole days, or the units of Go, which knows no days.
const OPENBAO_DURATION: &str = r"^([0-9]+d?|([0-9]+(\.[0-9]+)?(ns|us|ms|s|m|h))+)$";

/// The text is passed to OpenBao, which ends at its start over a duration that it cannot read.
pub fn openbao_duration(field: &str) -> Rule {
    Rule::new(matches(OPENBAO_DURATION)).message(openbao_duration_message(field).as_str())
}

/// The same where OpenBao also takes `none`.
pub fn openbao_period(field: &str) -> Rule {
    Rule::new(format!("self == 'none' || {}", matches(OPENBAO_DURATION)))
        .message(format!("{}, or none", openbao_duration_message(field)).as_str())
}

fn openbao_duration_message(field: &str) -> String {
    format!("{field} must be a duration such as 768h or 1h30m, whole days such as 30d, or a number of seconds")
}

/// The text is passed to OpenBao as permissions, which ends at its start over other numbers.
pub fn octal(field: &str) -> Rule {
    Rule::new(matches("^[0-7]+$")).message(format!("{field} must be an octal number, for example 0755").as_str())
}

/// The text is a five-field cron expression whose numbers are in range.
pub fn cron(field: &str) -> Rule {
    Rule::new(matches(&cron_pattern())).message(
        format!(
            "{field} must be cron with five fields: minute hour day-of-month month day-of-week, for example 0 3 * * *"
        )
        .as_str(),
    )
}

fn cron_pattern() -> String {
    let list = |value: &str| {
        let item = format!(r"(\*|({value})(-({value}))?)(/[1-9][0-9]?)?");
        format!("{item}(,{item})*")
    };
    let minute = list("[0-5]?[0-9]");
    let hour = list("[01]?[0-9]|2[0-3]");
    let day = list("0?[1-9]|[12][0-9]|3[01]");
    let month = list("0?[1-9]|1[0-2]|(?i:JAN|FEB|MAR|APR|MAY|JUN|JUL|AUG|SEP|OCT|NOV|DEC)");
    let weekday = list("[0-7]|(?i:SUN|MON|TUE|WED|THU|FRI|SAT)");
    format!(r"^\s*{minute}\s+{hour}\s+({day}|\?)\s+{month}\s+({weekday}|\?)\s*$")
}

/// The text looks like a name from the time zone database. Whether it exists, only the operator can tell.
pub fn time_zone() -> Rule {
    Rule::new(matches("^[A-Za-z][A-Za-z0-9_+-]*(/[A-Za-z0-9_+-]+)*$"))
        .message("timeZone must be a name from the time zone database, for example Europe/Amsterdam or UTC")
}

/// The text is an absolute HTTP address.
pub fn http_url(field: &str) -> Rule {
    Rule::new(matches(r"^https?://[^/\s?#]+([/?#]\S*)?$")).message(
        format!("{field} must be a URL with http:// or https://, for example https://minio.storage.svc:9000").as_str(),
    )
}

/// The path does not climb out of where it is put.
pub fn no_climbing(field: &str) -> Rule {
    Rule::new(format!("!({})", matches(r"(^|/)\.\.(/|$)")))
        .message(format!("{field} must not contain a .. segment").as_str())
}

/// The text is the name of an object that other names are built from.
pub fn object_name(field: &str) -> Rule {
    Rule::new(matches("^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))
        .message(format!("{field} must be a name of lower-case letters, digits and dashes").as_str())
}

/// Every request asks for something this kind understands.
pub fn only_actions(kind: &str, actions: &[&str]) -> Rule {
    let list = actions.iter().map(|action| format!("'{action}'")).collect::<Vec<_>>().join(", ");
    Rule::new(format!("self.all(r, r.action in [{list}])"))
        .message(format!("requests on a {kind} can only be {}", actions.join(", ")).as_str())
}

/// Nothing of a spec changes but `requests`. One rule on the spec as a whole, because a transition rule on an optional
/// field is not asked when the field appears or goes.
pub fn immutable_but_requests(kind: &str, required: &[&str], optional: &[&str]) -> Rule {
    let mut same: Vec<String> = required.iter().map(|field| format!("self.{field} == oldSelf.{field}")).collect();
    same.extend(optional.iter().map(|field| {
        format!("has(self.{field}) == has(oldSelf.{field}) && (!has(self.{field}) || self.{field} == oldSelf.{field})")
    }));
    Rule::new(same.join(" && ")).message(
        format!("the spec of a {kind} cannot be changed, except requests: create another {kind} instead").as_str(),
    )
}

#[cfg(test)]
mod tests {
    use kube::core::cel::{Validator, cel};
    use serde_json::json;

    use super::*;

    fn accepts(rule: &Rule, value: &str) -> bool {
        let schema = json!({"type": "string", "x-kubernetes-validations": [rule]});
        Validator::new().validate(&schema, &json!(value), None).is_ok()
    }

    #[test]
    fn versions_are_semver() {
        for version in ["2.7.2", "v2.7.2", "2.8.0-rc.1", "2.8.0-beta20251201", "2.7.2+hsm.1"] {
            assert!(accepts(&super::version(), version), "{version}");
        }
        for version in ["2.7", "latest", "2.7.2.1", "02.7.2", "2.7.2-", ">=2.7.2", "2.7.2 "] {
            assert!(!accepts(&super::version(), version), "{version}");
        }
    }

    #[test]
    fn the_duration_rule_and_the_parser_agree() {
        for text in
            ["90s", "1h30m", "7d", "250ms", "1.5h", "0s", "", "5", "s", "-5s", "5 s", "5x", "1..5s", "1.s", "P1D"]
        {
            assert_eq!(accepts(&super::duration("x"), text), duration::parse(text).is_ok(), "{text}");
        }
    }

    #[test]
    fn a_duration_that_openbao_cannot_read_is_refused() {
        for text in ["768h", "1h30m", "1.5h", "250ms", "30d", "86400", "0"] {
            assert!(accepts(&openbao_duration("x"), text), "{text}");
        }
        for text in ["1d12h", "7d1h", "1.5d", "2d3d", "d", "", "a month", "-5s", "5 s", "none"] {
            assert!(!accepts(&openbao_duration("x"), text), "{text}");
        }
        assert!(accepts(&openbao_period("x"), "none") && accepts(&openbao_period("x"), "10m"));
        assert!(!accepts(&openbao_period("x"), "soon"));
    }

    #[test]
    fn cron_has_five_fields_with_numbers_in_range() {
        for schedule in [
            "* * * * *",
            "0 3 * * *",
            "*/15 0-6,20-23 1,15 JAN-mar MON-FRI",
            "5 4 ? * 7",
            "0 0 31 12 sun",
            "0  5 * * 0",
        ] {
            assert!(accepts(&cron("schedule"), schedule), "{schedule}");
        }
        for schedule in [
            "",
            "@daily",
            "* * * *",
            "* * * * * *",
            "60 * * * *",
            "0 24 * * *",
            "0 0 0 * *",
            "0 0 * 13 *",
            "0 0 * * 8",
            "*/0 * * * *",
        ] {
            assert!(!accepts(&cron("schedule"), schedule), "{schedule}");
        }
    }

    #[test]
    fn paths_do_not_climb() {
        for path in ["a/b", "a..b/c", "...", "", "a/..b"] {
            assert!(accepts(&no_climbing("path"), path), "{path}");
        }
        for path in ["..", "../a", "a/../b", "a/.."] {
            assert!(!accepts(&no_climbing("path"), path), "{path}");
        }
    }

    #[test]
    fn every_pattern_compiles() {
        let durations = [openbao_duration("a"), openbao_period("a")];
        let others = [version(), octal("a"), cron("a"), time_zone(), http_url("a"), object_name("a")];
        for rule in durations.into_iter().chain(others) {
            cel::Program::compile(&rule.rule).unwrap();
        }
    }
}
