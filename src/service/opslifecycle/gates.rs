//! The gates before an operation. Pure: facts in, a refusal that names the gate out.

use chrono::{DateTime, TimeDelta, Utc};

use super::manager::Refusal;
use crate::api::{
    cluster::status::OperationLock,
    duration,
    operation::{Constraints, FailureActionKind, Gate, GateKind, GateScope},
};
use crate::datapath::stored::AHEAD;

/// What the gates need to know.
#[derive(Clone, Debug, Default)]
pub struct GateFacts {
    /// The cluster's name.
    pub cluster: String,
    /// The cluster says that it serves.
    pub available: bool,
    /// Why not, in its own words.
    pub unavailable_because: String,
    /// When the newest verified backup was taken.
    pub last_backup: Option<DateTime<Utc>>,
    /// When a restore test last passed.
    pub last_restore_test: Option<DateTime<Utc>>,
    /// The lock, if somebody else has it.
    pub foreign_lock: Option<OperationLock>,
}

/// Whether everything holds that must hold before the operation starts.
pub fn judge(constraints: &Constraints, facts: &GateFacts, now: DateTime<Utc>) -> Result<(), Refusal> {
    for action in &constraints.on_failure {
        if action.action != FailureActionKind::Compensate {
            return Err(Refusal::constraint(
                "NotSupported",
                "onFailure: RestoreFrom is not supported yet; leave it out, and restore by an OpenBaoRestore if it comes to that",
            ));
        }
    }
    constraints.pre.iter().try_for_each(|gate| check(gate, facts, now))
}

fn check(gate: &Gate, facts: &GateFacts, now: DateTime<Utc>) -> Result<(), Refusal> {
    let name = gate.kind.as_str();
    if gate.scope == Some(GateScope::Indirect) {
        return Err(Refusal::constraint("NotSupported", format!("gate {name}: scope indirect is not supported yet")));
    }
    if let Some(resource) =
        gate.resource.as_ref().filter(|resource| !resource.is_empty() && **resource != facts.cluster)
    {
        return Err(Refusal::constraint(
            "NotSupported",
            format!("gate {name}: a gate about {resource} is not supported yet, only one about the cluster itself"),
        ));
    }
    // A mistyped parameter would leave the gate open.
    if let Some(key) = gate.params.keys().find(|key| !knows(gate.kind).contains(&key.as_str())) {
        let known = match knows(gate.kind) {
            [] => "takes none".to_owned(),
            known => format!("knows {}", known.join(", ")),
        };
        return Err(Refusal::constraint(name, format!("gate {name} does not know params.{key}; it {known}")));
    }
    match gate.kind {
        GateKind::Backup => {
            let wanted = Recent { at: facts.last_backup, what: "verified backup", remedy: "take one first" };
            recent(gate, &facts.cluster, wanted, now)
        }
        GateKind::Restore => {
            let at = facts.last_restore_test;
            let wanted = Recent { at, what: "passed restore test", remedy: "run one first (operation: RestoreTest)" };
            recent(gate, &facts.cluster, wanted, now)
        }
        GateKind::HealthCheck if facts.available => Ok(()),
        GateKind::HealthCheck => Err(Refusal::constraint(
            "HealthCheck",
            format!("gate HealthCheck: cluster {} is not available: {}", facts.cluster, facts.unavailable_because),
        )),
        GateKind::ConcurrentLock => match &facts.foreign_lock {
            None => Ok(()),
            Some(lock) => Err(Refusal::constraint(
                "ConcurrentLock",
                format!(
                    "gate ConcurrentLock: the lock is held by {} for {}: {}",
                    lock.holder, lock.operation, lock.message
                ),
            )),
        },
        GateKind::DryRunCheck => Err(Refusal::constraint("NotSupported", format!("gate {name} is not supported yet"))),
    }
}

/// The keys that `params` of a gate may have.
fn knows(kind: GateKind) -> &'static [&'static str] {
    match kind {
        GateKind::Backup | GateKind::Restore => &["maxAge"],
        GateKind::HealthCheck | GateKind::DryRunCheck | GateKind::ConcurrentLock => &[],
    }
}

/// What must have gone well, and not too long ago.
#[derive(Clone, Copy)]
struct Recent {
    /// When the newest did.
    at: Option<DateTime<Utc>>,
    what: &'static str,
    remedy: &'static str,
}

fn recent(gate: &Gate, cluster: &str, wanted: Recent, now: DateTime<Utc>) -> Result<(), Refusal> {
    let name = gate.kind.as_str();
    let refused = |message: String| Err(Refusal::constraint(name, format!("gate {name}: {message}")));
    let age = match gate.params.get("maxAge") {
        None => None,
        Some(text) => match duration::parse(text).map(TimeDelta::from_std) {
            Ok(Ok(age)) => Some((age, text)),
            Ok(Err(_)) => return refused(format!("params.maxAge {text:?} is too long")),
            Err(error) => return refused(format!("params.maxAge: {error}")),
        },
    };
    let Recent { at, what, remedy } = wanted;
    match (at, age) {
        (None, _) => refused(format!("there is no {what} of cluster {cluster}: {remedy}")),
        (Some(at), Some((age, text))) if now - at > age => {
            refused(format!("the newest {what} is from {at}, older than {text}: {remedy}"))
        }
        // By a clock that is ahead: it may be of any age.
        (Some(at), Some((_, text))) if at - now > AHEAD => refused(format!(
            "the newest {what} is dated {at}, which is yet to come, so nothing says that it is younger than {text}: {remedy}"
        )),
        (Some(_), _) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        api::{
            cluster::status::{LockMode, LockOperation},
            operation::FailureAction,
        },
        service::opslifecycle::manager::RefusalPhase,
    };

    fn at(hour: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_800_000_000 + hour * 3600, 0).unwrap()
    }

    fn healthy() -> GateFacts {
        GateFacts { cluster: "prod".into(), available: true, last_backup: Some(at(0)), ..GateFacts::default() }
    }

    fn gate(kind: GateKind) -> Gate {
        Gate { kind, ..Gate::default() }
    }

    fn judged(gate: Gate, facts: &GateFacts, hour: i64) -> Result<(), Refusal> {
        judge(&Constraints { pre: vec![gate], on_failure: vec![] }, facts, at(hour))
    }

    #[test]
    fn no_gates_hold_always() {
        assert_eq!(judge(&Constraints::default(), &GateFacts::default(), at(0)), Ok(()));
    }

    #[test]
    fn a_backup_must_be_there_and_fresh_enough() {
        let mut daily = gate(GateKind::Backup);
        daily.params.insert("maxAge".into(), "24h".into());
        assert_eq!(judged(daily.clone(), &healthy(), 24), Ok(()));
        assert!(judged(daily.clone(), &healthy(), 25).unwrap_err().message.contains("older than 24h"));
        assert!(judged(daily.clone(), &GateFacts { last_backup: None, ..healthy() }, 1).is_err());
        assert_eq!(judged(gate(GateKind::Backup), &healthy(), 9999), Ok(()), "without maxAge any age will do");
        daily.params.insert("maxAge".into(), "a day".into());
        assert!(judged(daily, &healthy(), 1).unwrap_err().message.contains("maxAge"));
    }

    #[test]
    fn a_backup_of_the_future_is_not_fresh() {
        let mut daily = gate(GateKind::Backup);
        daily.params.insert("maxAge".into(), "24h".into());
        let dated = |hour| GateFacts { last_backup: Some(at(hour)), ..healthy() };
        assert!(judged(daily.clone(), &dated(30 * 24), 0).unwrap_err().message.contains("yet to come"));
        let little = GateFacts { last_backup: Some(at(0) + AHEAD), ..healthy() };
        assert_eq!(judged(daily, &little, 0), Ok(()), "a clock may be a little ahead");
    }

    #[test]
    fn a_restore_test_must_have_passed_and_not_too_long_ago() {
        let tested = |hour: Option<i64>| GateFacts { last_restore_test: hour.map(at), ..healthy() };
        let mut weekly = gate(GateKind::Restore);
        weekly.params.insert("maxAge".into(), "7d".into());
        assert_eq!(judged(weekly.clone(), &tested(Some(0)), 7 * 24), Ok(()));
        assert_eq!(judged(gate(GateKind::Restore), &tested(Some(0)), 9999), Ok(()), "without maxAge any age will do");
        for (case, gate, last, hour, says) in [
            ("too old", weekly.clone(), Some(0), 7 * 24 + 1, "older than 7d"),
            ("of the future", weekly.clone(), Some(30 * 24), 0, "yet to come"),
            ("never", weekly, None, 1, "no passed restore test of cluster prod"),
            ("never, of any age", gate(GateKind::Restore), None, 1, "operation: RestoreTest"),
        ] {
            let refusal = judged(gate, &tested(last), hour).unwrap_err();
            assert_eq!((refusal.phase, refusal.reason), (RefusalPhase::ConstraintFailed, "Restore"), "{case}");
            assert!(
                refusal.message.starts_with("gate Restore: ") && refusal.message.contains(says),
                "{case}: {refusal}"
            );
        }
    }

    #[test]
    fn a_gate_with_a_parameter_that_it_does_not_know_is_not_open() {
        for (kind, key, says) in [
            (GateKind::Backup, "maxage", "gate Backup does not know params.maxage; it knows maxAge"),
            (GateKind::Backup, "max_age", "max_age"),
            (GateKind::Restore, "maxage", "gate Restore does not know params.maxage; it knows maxAge"),
            (GateKind::HealthCheck, "maxAge", "it takes none"),
            (GateKind::ConcurrentLock, "holder", "it takes none"),
        ] {
            let mut mistyped = gate(kind);
            mistyped.params.insert(key.into(), "1h".into());
            let refusal = judged(mistyped, &healthy(), 9000).unwrap_err();
            assert_eq!((refusal.phase, refusal.reason), (RefusalPhase::ConstraintFailed, kind.as_str()));
            assert!(refusal.message.contains(says), "{refusal}");
        }
    }

    #[test]
    fn an_unavailable_cluster_fails_the_health_check() {
        assert_eq!(judged(gate(GateKind::HealthCheck), &healthy(), 0), Ok(()));
        let sick = GateFacts { available: false, unavailable_because: "sealed".into(), ..healthy() };
        let refusal = judged(gate(GateKind::HealthCheck), &sick, 0).unwrap_err();
        assert_eq!((refusal.phase, refusal.reason), (RefusalPhase::ConstraintFailed, "HealthCheck"));
        assert!(refusal.message.contains("sealed"));
    }

    #[test]
    fn a_foreign_lock_fails_the_lock_gate_and_names_its_holder() {
        assert_eq!(judged(gate(GateKind::ConcurrentLock), &healthy(), 0), Ok(()));
        let lock = OperationLock {
            operation: LockOperation::Restore,
            holder: "openbaorestore/x".into(),
            holder_uid: "u".into(),
            operation_ref: None,
            message: "restoring".into(),
            mode: LockMode::Held,
            committed: None,
            replaced: None,
            fence: 1,
            acquired_at: at(0),
            renewed_at: at(0),
        };
        let held = GateFacts { foreign_lock: Some(lock), ..healthy() };
        assert!(judged(gate(GateKind::ConcurrentLock), &held, 0).unwrap_err().message.contains("openbaorestore/x"));
    }

    #[test]
    fn what_is_not_built_says_so() {
        let mut far = gate(GateKind::HealthCheck);
        far.scope = Some(GateScope::Indirect);
        let mut other = gate(GateKind::HealthCheck);
        other.resource = Some("transit".into());
        for gate in [gate(GateKind::DryRunCheck), far, other] {
            let refusal = judged(gate, &healthy(), 0).unwrap_err();
            assert_eq!((refusal.phase, refusal.reason), (RefusalPhase::ConstraintFailed, "NotSupported"));
        }
        let on_failure = |action| Constraints { pre: vec![], on_failure: vec![FailureAction { action, from: None }] };
        assert_eq!(judge(&on_failure(FailureActionKind::Compensate), &healthy(), at(0)), Ok(()));
        assert!(judge(&on_failure(FailureActionKind::RestoreFrom), &healthy(), at(0)).is_err());
    }
}
