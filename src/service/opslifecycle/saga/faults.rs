//! Test hooks that are part of the engine: fail step n, fail the undoing of n, run step n twice, crash after write n.
//!
//! Plain data for the engine. Only a build made for tests reads them from the environment, so a released operator has no
//! way to be told to misbehave.

/// What is to go wrong. Steps are named by their name in the plan.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// This step fails for good instead of running.
    pub fail: Option<String>,
    /// The undoing of this step fails for good instead of running.
    pub fail_undo: Option<String>,
    /// This step is run again after it said that it is done.
    pub repeat: Option<String>,
    /// The process dies right after this many status writes, counted from its start.
    pub crash_after_write: Option<u64>,
}

/// The environment variable that test builds read, for example `fail=Snapshot,crash-after-write=3`.
pub const VARIABLE: &str = "OPENBAO_FAULTS";

/// A word that is no fault.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{VARIABLE}: {0:?} is not one of fail=STEP, fail-undo=STEP, repeat=STEP, crash-after-write=N")]
pub struct UnknownFault(String);

impl Faults {
    /// Reads `fail=STEP,fail-undo=STEP,repeat=STEP,crash-after-write=N`, each at most once.
    pub fn parse(text: &str) -> Result<Self, UnknownFault> {
        let mut faults = Self::default();
        for word in text.split(',').map(str::trim).filter(|word| !word.is_empty()) {
            let unknown = || UnknownFault(word.to_owned());
            let (key, value) = word.split_once('=').ok_or_else(unknown)?;
            match key {
                "fail" => faults.fail = Some(value.to_owned()),
                "fail-undo" => faults.fail_undo = Some(value.to_owned()),
                "repeat" => faults.repeat = Some(value.to_owned()),
                "crash-after-write" => faults.crash_after_write = Some(value.parse().map_err(|_| unknown())?),
                _ => return Err(unknown()),
            }
        }
        Ok(faults)
    }

    /// What the environment asks for, in a build made for tests.
    #[cfg(any(test, feature = "fault-injection"))]
    pub fn from_environment() -> Result<Self, UnknownFault> {
        Self::parse(&std::env::var(VARIABLE).unwrap_or_default())
    }

    /// Nothing goes wrong on purpose.
    #[cfg(not(any(test, feature = "fault-injection")))]
    #[allow(clippy::unnecessary_wraps)] // the twin above can fail
    pub fn from_environment() -> Result<Self, UnknownFault> {
        Ok(Self::default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_read_by_name_and_anything_else_is_refused() {
        let faults = Faults::parse("fail=a, fail-undo=b,repeat=c,crash-after-write=3").unwrap();
        let expected = Faults {
            fail: Some("a".into()),
            fail_undo: Some("b".into()),
            repeat: Some("c".into()),
            crash_after_write: Some(3),
        };
        assert_eq!(faults, expected);
        assert_eq!(Faults::parse(""), Ok(Faults::default()));
        for word in ["explode", "explode=1", "crash-after-write=soon"] {
            assert!(Faults::parse(word).is_err(), "{word}");
        }
    }
}
