//! Which version may follow which: one pure table.
//!
//! OpenBao migrates its data forward when a newer binary leads for the first time and knows no way back, so an older
//! binary never leads again (measured: 2.7.2 → 2.6.1 leaves a cluster without a leader). Big steps forward are allowed;
//! what is known to break on the way is listed in `hazards`.

use crate::api::conditions::reason;
use semver::Version;

/// What a change of version means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// Nothing to do: the same version.
    Same,
    /// An upgrade.
    Upgrade,
    /// Refused; the reason is a constant, the message says what to change.
    Refused {
        /// CamelCase.
        reason: &'static str,
        /// For people.
        message: String,
    },
}

/// Something that breaks when a version is crossed, for clusters with a certain seal.
struct Hazard {
    /// The first version that has it.
    since: Version,
    /// The seal types that are gone.
    seals: &'static [&'static str],
    /// What to do instead.
    advice: &'static str,
}

/// A version that an upgrade must not pass by: data or members of older ones cannot be taken over by newer ones directly.
struct Stop {
    /// The version that has to lead once on the way.
    through: Version,
    /// Why.
    why: &'static str,
}

/// None is known between 2.6 and 2.7: OpenBao migrates data over any distance, and members of both forward to each other
/// (measured). The rule is here for the first release that demands it.
fn stops() -> Vec<Stop> {
    Vec::new()
}

/// 2.7 no longer has these seals built in (`unknown wrapper` at start): a 2.7 server with such a stanza never unseals.
fn hazards() -> [Hazard; 1] {
    [Hazard {
        since: Version::new(2, 7, 0),
        seals: &["awskms", "pkcs11", "ocikms"],
        advice: "a seal cannot be changed, so this cluster stays on 2.6. Set spec.version back, and move what it holds into a \
                 new cluster with another seal by way of OpenBao's API: a backup of it opens under no other seal",
    }]
}

/// Parses a version as people write it: `2.7.2`, `v2.7.2`, `2.8.0-rc.1`.
pub fn parse(version: &str) -> Option<Version> {
    Version::parse(version.trim_start_matches('v')).ok()
}

/// The version as servers and image tags write it: without a leading `v`. What is no version stays as it is.
pub fn plain(version: &str) -> String {
    parse(version).map_or_else(|| version.to_owned(), |version| version.to_string())
}

/// Whether both name the same release; build metadata makes no difference.
pub fn is_same(one: &str, other: &str) -> bool {
    match (parse(one), parse(other)) {
        (Some(one), Some(other)) => one.cmp_precedence(&other).is_eq(),
        _ => one == other,
    }
}

/// Judges going from `from` to `to` for a cluster sealed by `seal` (`static`, `transit`, `awskms`, …).
pub fn judge(from: &str, to: &str, seal: &str) -> Judgement {
    let refused = |reason, message| Judgement::Refused { reason, message };
    let Some(target) = parse(to) else {
        return refused(
            reason::INVALID_VERSION,
            format!("spec.version {to:?} is not a version: write major.minor.patch, for example 2.7.2"),
        );
    };
    let Some(current) = parse(from) else {
        return refused(
            reason::INVALID_VERSION,
            format!("the running version {from:?} is not a version, so nothing can be said about going to {to}"),
        );
    };
    match target.cmp_precedence(&current) {
        std::cmp::Ordering::Equal => Judgement::Same,
        std::cmp::Ordering::Less => refused(
            reason::DOWNGRADE_BLOCKED,
            format!(
                "spec.version {to} is lower than the running {from}: an older OpenBao cannot read newer data and would \
                 never lead again. Set spec.version to {from} or higher; to go back, create an OpenBaoOperation with \
                 operation: Rollback"
            ),
        ),
        std::cmp::Ordering::Greater => {
            if let Some(hazard) = crossed(&current, &target, seal) {
                return refused(
                    "SealNotSupported",
                    format!(
                        "OpenBao {to} has no {seal} seal any more (gone since {}): {}",
                        hazard.since, hazard.advice
                    ),
                );
            }
            match skipped(&stops(), &current, &target) {
                Some(message) => refused("IntermediateVersionRequired", message),
                None => Judgement::Upgrade,
            }
        }
    }
}

/// The first required version that the way would pass by, in words.
fn skipped(stops: &[Stop], from: &Version, to: &Version) -> Option<String> {
    // Any release of the required line will do.
    let passed = |stop: &&Stop| *from < stop.through && (to.major, to.minor) > (stop.through.major, stop.through.minor);
    let stop = stops.iter().filter(passed).min_by(|one, other| one.through.cmp(&other.through))?;
    Some(format!(
        "from {from} to {to} the way leads through {}: {}. Set spec.version to {0} first, and to {to} when that upgrade is \
         finished",
        stop.through, stop.why
    ))
}

/// Whether OpenBao `version` knows the seal at all: also asked when a cluster is created.
pub fn seal_is_supported(version: &str, seal: &str) -> bool {
    parse(version)
        .is_none_or(|version| !hazards().iter().any(|hazard| version >= hazard.since && hazard.seals.contains(&seal)))
}

fn crossed(from: &Version, to: &Version, seal: &str) -> Option<Hazard> {
    hazards().into_iter().find(|hazard| *from < hazard.since && hazard.since <= *to && hazard.seals.contains(&seal))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reason(from: &str, to: &str, seal: &str) -> &'static str {
        match judge(from, to, seal) {
            Judgement::Same => "Same",
            Judgement::Upgrade => "Upgrade",
            Judgement::Refused { reason, .. } => reason,
        }
    }

    #[test]
    fn each_pair_of_versions_is_judged_by_semver_precedence() {
        for (from, to, expected) in [
            ("2.6.1", "2.6.2", "Upgrade"),
            ("2.6.1", "2.7.2", "Upgrade"),
            ("2.9.0", "2.10.0", "Upgrade"),
            ("2.7.0-rc.1", "2.7.0", "Upgrade"),
            ("2.7.0-rc.2", "2.7.0-rc.10", "Upgrade"),
            ("2.7.0-alpha", "2.7.0-beta", "Upgrade"),
            ("2.7.2", "2.7.2", "Same"),
            ("2.7.2", "v2.7.2", "Same"),
            ("2.7.2", "2.7.2+build.5", "Same"),
            ("2.7.2", "2.6.2", "DowngradeBlocked"),
            ("2.7.0", "2.7.0-rc.1", "DowngradeBlocked"),
            ("2.7.2", "latest", "InvalidVersion"),
            ("2.7.2", "2.7", "InvalidVersion"),
            ("unknown", "2.7.2", "InvalidVersion"),
        ] {
            assert_eq!(reason(from, to, "static"), expected, "{from} to {to}");
        }
    }

    #[test]
    fn a_required_version_on_the_way_is_named_and_the_nearest_one_first() {
        let stop = |minor| Stop { through: Version::new(2, minor, 0), why: "it rewrites the mounts" };
        let stops = [stop(9), stop(7)];
        let way = |from: &str, to: &str| skipped(&stops, &parse(from).unwrap(), &parse(to).unwrap());
        let message = way("2.6.1", "2.10.0").unwrap();
        assert!(message.contains("Set spec.version to 2.7.0 first") && message.contains("rewrites"), "{message}");
        assert_eq!(way("2.6.1", "2.7.1"), None, "a release of the required line");
        assert_eq!(way("2.7.0", "2.8.0"), None, "past it already");
        assert!(way("2.7.1", "2.10.0").unwrap().contains("2.9.0"));
        assert_eq!(reason("2.6.1", "2.7.2", "static"), "Upgrade", "the shipped table has none");
    }

    #[test]
    fn a_seal_that_the_target_no_longer_has_stops_the_upgrade_that_crosses_its_end_only() {
        assert_eq!(reason("2.6.1", "2.7.2", "awskms"), "SealNotSupported");
        assert_eq!(reason("2.6.1", "2.6.2", "awskms"), "Upgrade");
        assert_eq!(reason("2.6.1", "2.7.2", "transit"), "Upgrade");
        let Judgement::Refused { message, .. } = judge("2.6.1", "2.7.2", "awskms") else { panic!("not refused") };
        assert!(!message.contains("migrate") && message.contains("cannot be changed"), "nobody can: {message}");
        assert!(!seal_is_supported("2.7.0", "pkcs11"));
        assert!(seal_is_supported("2.6.2", "pkcs11"));
    }
}
