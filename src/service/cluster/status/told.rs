//! The conditions that are told of what was seen and judged.

use super::{
    conditions::Conditions,
    judgement::{Judgement, refused},
    observed::{Observed, any_initialized},
};
use crate::{
    adapter::openbao::HealthState,
    api::{
        LockOperation, OpenBaoClusterStatus,
        conditions::{cluster as kind, reason},
    },
    service::cluster::{
        even::even,
        members::Member,
        production,
        trouble::{TlsState, reasons},
        validate, way_in,
    },
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::ResourceExt;

impl Judgement {
    pub(super) fn report(
        &self,
        seen: &Observed<'_>,
        before: &OpenBaoClusterStatus,
        leader: Option<&Member>,
        out: &mut Conditions<'_>,
    ) {
        match &self.available {
            Ok(good) => out.set(kind::AVAILABLE, "True", good.reason, &good.message),
            Err(bad) => out.set(kind::AVAILABLE, "False", bad.reason, &bad.message),
        }
        match &self.degraded {
            Some(bad) => out.set(kind::DEGRADED, "True", bad.reason, &bad.message),
            None => out.set(kind::DEGRADED, "False", reason::RECONCILED, "nothing needs attention"),
        }
        match (&seen.progress, refused(seen).or_else(|| seen.stopped.clone())) {
            (Some(progress), _) => out.set(kind::PROGRESSING, "True", progress.reason, &progress.message),
            (None, Some(stopped)) => out.set(kind::PROGRESSING, "False", stopped.reason, &stopped.message),
            (None, None) => {
                out.set(kind::PROGRESSING, "False", reason::RECONCILED, "everything is as the spec says");
            }
        }
        match &seen.tls {
            TlsState::Off => {
                out.set(kind::TLS_READY, "False", reason::DISABLED, "spec.tls.enabled is false: plain HTTP");
            }
            TlsState::Good(until) => {
                out.set(
                    kind::TLS_READY,
                    "True",
                    reason::READY,
                    &format!("the serving certificate is good until {}", until.format("%Y-%m-%d")),
                );
            }
            TlsState::StillGood => out.keep(kind::TLS_READY),
            TlsState::Bad(bad) => out.set(kind::TLS_READY, "False", bad.reason, &bad.message),
        }
        report_openbao(seen, before, leader, out);
        report_operations(seen, before, out);
        if let Some((runs, why, message)) = seen.upgrading {
            out.set(kind::UPGRADING, if *runs { "True" } else { "False" }, why, message);
        }
        report_spec(seen, out);
        match &seen.access {
            Some(Ok(())) => out.set(kind::OPERATOR_ACCESS, "True", reason::LOGIN_WORKS, "the operator can log in"),
            Some(Err(why)) => out.set(kind::OPERATOR_ACCESS, "False", reason::LOGIN_FAILED, why),
            None => out.keep(kind::OPERATOR_ACCESS),
        }
    }
}

fn report_openbao(
    seen: &Observed<'_>,
    before: &OpenBaoClusterStatus,
    leader: Option<&Member>,
    out: &mut Conditions<'_>,
) {
    let initialized = before.initialized == Some(true) || any_initialized(seen);
    if initialized {
        out.set(kind::INITIALIZED, "True", reason::INITIALIZED, "OpenBao holds data");
    } else {
        out.set(kind::INITIALIZED, "False", reason::NOT_INITIALIZED, "OpenBao was not initialised yet");
    }
    let sealed: Vec<&str> = seen
        .members
        .iter()
        .filter(|member| member.health.as_ref().is_some_and(|health| health.sealed && health.initialized))
        .map(|member| member.name.as_str())
        .collect();
    let answered = seen.members.iter().any(|member| member.health.is_some());
    if !answered {
        out.set(kind::SEALED, "Unknown", reason::WAITING, "no member answers");
    } else if sealed.is_empty() {
        out.set(kind::SEALED, "False", reason::UNSEALED, "no member that answers is sealed");
    } else {
        out.set(kind::SEALED, "True", reason::SEALED, &format!("sealed: {}", sealed.join(", ")));
    }
    let active = seen.members.iter().filter(|member| member.state() == Some(HealthState::Active)).count();
    match leader {
        Some(leader) => out.set(kind::LEADER, "True", reason::LEADER_FOUND, &format!("{} leads", leader.name)),
        None if active > 1 => {
            out.set(kind::LEADER, "False", reason::MULTIPLE_LEADERS, "several members say that they lead");
        }
        None => out.set(kind::LEADER, "False", reason::LEADER_UNKNOWN, "no member leads"),
    }
}

fn report_operations(seen: &Observed<'_>, before: &OpenBaoClusterStatus, out: &mut Conditions<'_>) {
    let lock = before.operation_lock.as_ref();
    let running =
        |operation: LockOperation| lock.filter(|lock| lock.operation == operation).map(|lock| lock.holder.clone());
    for (type_, operation) in [
        (kind::BACKING_UP, LockOperation::Backup),
        (kind::UPGRADING, LockOperation::Upgrade),
        (kind::RESTORING, LockOperation::Restore),
    ] {
        match running(operation) {
            Some(holder) => out.set(type_, "True", reason::IN_PROGRESS, &format!("{holder} holds the lock")),
            None => out.set(type_, "False", reason::IDLE, "none runs"),
        }
    }
    if let Some(name) = seen.pending_restore.as_ref().filter(|_| running(LockOperation::Restore).is_none()) {
        out.set(kind::RESTORING, "True", reason::WAITING, &format!("restore {name} waits to begin"));
    }
    match lock {
        Some(lock) if seen.lock_orphaned => out.set(
            kind::OPERATION_LOCK,
            "True",
            reason::LOCK_ORPHANED,
            &format!(
                "{} by {}, which has ended or is gone: to free the lock, add to spec.requests {{nonce: <a new word>, action: Release, holderUID: {}, fence: {}}}",
                lock.operation, lock.holder, lock.holder_uid, lock.fence
            ),
        ),
        Some(lock) => {
            out.set(kind::OPERATION_LOCK, "True", reason::LOCK_HELD, &format!("{} by {}", lock.operation, lock.holder));
        }
        None => out.set(kind::OPERATION_LOCK, "False", reason::LOCK_FREE, "nobody holds it"),
    }
}

/// Which fields have no effect: what this release does not act on, and what needs something that is not here. While nobody has
/// looked for that, what was told of it last stays.
fn report_ignored(ignored: &[&str], missing: Option<&[String]>, out: &mut Conditions<'_>) {
    let told =
        |condition: &Condition| condition.type_ == kind::SUPPORTED && condition.reason == reason::PREREQUISITES_MISSING;
    if missing.is_none() && out.before.iter().any(told) {
        out.keep(kind::SUPPORTED);
        return;
    }
    let missing = missing.unwrap_or_default();
    // What a person can mend stands first.
    let all: Vec<&str> = missing.iter().map(String::as_str).chain(ignored.iter().copied()).collect();
    if all.is_empty() {
        out.set(kind::SUPPORTED, "True", reason::ALL_FIELDS_SUPPORTED, "every field has an effect");
    } else {
        let why = if missing.is_empty() { reason::FIELDS_IGNORED } else { reason::PREREQUISITES_MISSING };
        out.set(kind::SUPPORTED, "False", why, &format!("no effect yet: {}", all.join(", ")));
    }
}

fn report_spec(seen: &Observed<'_>, out: &mut Conditions<'_>) {
    let spec = &seen.cluster.spec;
    match &seen.spec {
        Ok(_) => {
            let closed = seen.lets_nobody_in.then(|| way_in::warning(&seen.cluster.name_any()));
            let even = even(spec.replicas);
            let why = match (&closed, &even) {
                (Some(_), _) => reasons::NOBODY_CAN_LOG_IN,
                (None, Some(_)) => reason::EVEN_REPLICAS,
                (None, None) => reason::VALID,
            };
            let passed = "the spec passed every check".to_owned();
            let words: Vec<String> = [Some(passed), closed, even].into_iter().flatten().collect();
            out.set(kind::VALID, "True", why, &words.join(". "));
            report_ignored(&validate::ignored(spec), seen.missing.as_deref(), out);
        }
        Err(invalid) => {
            out.set(kind::VALID, "False", reason::INVALID, &invalid.to_string());
            if invalid.is_unsupported() {
                out.set(kind::SUPPORTED, "False", reason::UNSAFE_TO_IGNORE, &invalid.to_string());
            } else {
                out.keep(kind::SUPPORTED);
            }
        }
    }
    let initialized = seen.cluster.status.as_ref().is_some_and(|status| status.initialized == Some(true));
    let missing = production::missing(spec, initialized, seen.root_token.is_some());
    match missing.first() {
        Some((why, _)) => {
            let all: Vec<&str> = missing.iter().map(|(_, message)| *message).collect();
            out.set(kind::PRODUCTION_READY, "False", why, &all.join("; "));
        }
        None => out.set(kind::PRODUCTION_READY, "True", reason::PRODUCTION_READY, "nothing is missing"),
    }
}
