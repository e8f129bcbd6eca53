//! Volumes that were asked to grow and have not: what a claim asks for is a wish, its capacity is what there is. Pure.

use super::{
    autopilot::Open,
    facts::Facts,
    trouble::{Trouble, reasons},
    validate::bytes,
};
use crate::{
    adapter::kubernetes::{claim, time::from_kube},
    api::conditions::reason,
};
use chrono::{DateTime, Duration, Utc};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, PersistentVolumeClaimCondition};
use kube::ResourceExt;

/// How long a volume may take before a person is asked to see to it.
const PATIENCE: Duration = Duration::minutes(5);
/// The file system grows when the volume is mounted the next time.
const MOUNT_PENDING: &str = "FileSystemResizePending";
/// What Kubernetes says of a claim whose volume grows, the most telling last.
const WORDS: [&str; 4] = ["Resizing", MOUNT_PENDING, ERRORS[0], ERRORS[1]];
/// What it says where the driver or the node has refused. Both are tried again for ever.
const ERRORS: [&str; 2] = ["ControllerResizeError", "NodeResizeError"];

/// A volume that has less than its claim asks for.
struct Small<'a> {
    claim: String,
    wanted: &'a str,
    has: &'a str,
    said: Option<&'a PersistentVolumeClaimCondition>,
}

impl Small<'_> {
    /// It has had its time since Kubernetes began, or since it was first `seen`.
    fn is_late(&self, seen: DateTime<Utc>, now: DateTime<Utc>) -> bool {
        let begun = self.said.and_then(|said| said.last_transition_time.as_ref()).map_or(seen, from_kube);
        now - begun > PATIENCE
    }
}

/// What a claim has, where that is less than it asks for and no more will come as things are: Kubernetes says that it failed, or it
/// has had its time. What only waits to be mounted has not failed. `since` as in [`look`].
pub(super) fn left_at(claim: &PersistentVolumeClaim, since: Option<DateTime<Utc>>, now: DateTime<Utc>) -> Option<&str> {
    let small = measured(claim)?;
    let says = |words: &[&str]| small.said.is_some_and(|said| words.contains(&said.type_.as_str()));
    let late = since.is_some_and(|seen| small.is_late(seen, now));
    (says(&ERRORS) || late && !says(&[MOUNT_PENDING])).then_some(small.has)
}

/// What is still open about the size of volumes. `since` remembers when one was first seen to have less than it was asked for: not
/// every driver says anything.
pub(super) fn look(facts: &Facts, since: &mut Option<DateTime<Utc>>, now: DateTime<Utc>) -> Option<Open> {
    let all = small(facts);
    let Some(first) = all.first() else {
        *since = None;
        return None;
    };
    let seen = *since.get_or_insert(now);
    let late = all.iter().find(|one| one.is_late(seen, now));
    Some(late.map_or_else(|| Open::Waits(grows(first)), |late| Open::Refused(stuck(late))))
}

/// Of members that are there: nobody mounts the volume of one that has left.
fn small(facts: &Facts) -> Vec<Small<'_>> {
    let mounted = facts.claims.iter().filter(|(ordinal, _)| facts.pods.contains_key(ordinal));
    let stay = mounted.map(|(_, claim)| claim).filter(|claim| claim.metadata.deletion_timestamp.is_none());
    stay.filter_map(|claim| measured(claim)).collect()
}

/// `None` of a claim that has what it asks for.
fn measured(claim: &PersistentVolumeClaim) -> Option<Small<'_>> {
    let (wanted, has) = (claim::asked(claim)?, claim::capacity(claim)?);
    let status = claim.status.as_ref()?;
    let said = status.conditions.iter().flatten().filter(|said| said.status == "True" && weight(said).is_some());
    let said = said.max_by_key(|said| weight(said));
    (bytes(has)? < bytes(wanted)?).then(|| Small { claim: claim.name_any(), wanted, has, said })
}

/// How much a condition tells; `None` of one that is about something else.
fn weight(said: &PersistentVolumeClaimCondition) -> Option<usize> {
    WORDS.iter().position(|word| *word == said.type_)
}

fn grows(one: &Small<'_>) -> Trouble {
    let Small { claim, wanted, has, .. } = one;
    Trouble::new(reason::IN_PROGRESS, format!("volumes grow: {claim} has {has} of {wanted}"))
}

fn stuck(one: &Small<'_>) -> Trouble {
    let Small { claim, wanted, has, said } = one;
    let what = format!("volume claim {claim} was asked to grow to {wanted} and has {has}");
    let rest = match said {
        Some(said) if said.type_ == MOUNT_PENDING => {
            "its file system grows when it is mounted the next time: give spec.maintenance.restartAt another value, and the \
             servers are restarted one by one"
                .to_owned()
        }
        said => {
            let why = said.map_or_else(
                || "Kubernetes does not say why".to_owned(),
                |said| format!("{}: {}", said.type_, said.message.as_deref().unwrap_or("no message")),
            );
            format!(
                "{why}. See the events of the claim; once what stores it can, it grows by itself. To ask for less again, set \
                 spec.storage.size to more than {has}, as Kubernetes demands, and to no less than status.volumeSize"
            )
        }
    };
    Trouble::new(reasons::VOLUME_NOT_GROWN, format!("{what}; {rest}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::Pod;
    use serde_json::json;
    use std::sync::Arc;

    fn facts(has: &str, conditions: serde_json::Value) -> Facts {
        let claim: PersistentVolumeClaim = serde_json::from_value(json!({
            "metadata": {"name": "data-kelp-1"},
            "spec": {"resources": {"requests": {"storage": "20Gi"}}},
            "status": {"capacity": {"storage": has}, "conditions": conditions}
        }))
        .unwrap();
        Facts {
            claims: [(1, Arc::new(claim))].into(),
            pods: [(1, Arc::new(Pod::default()))].into(),
            ..Facts::default()
        }
    }

    fn condition(type_: &str, message: &str) -> serde_json::Value {
        json!({"type": type_, "status": "True", "message": message, "lastTransitionTime": "2026-11-21T09:00:00Z"})
    }

    fn at(minutes: i64) -> DateTime<Utc> {
        "2026-11-21T09:00:00Z".parse::<DateTime<Utc>>().unwrap() + Duration::minutes(minutes)
    }

    fn waits(open: Option<Open>) -> String {
        match open {
            Some(Open::Waits(waits)) => waits.message,
            Some(Open::Refused(trouble)) => panic!("too early: {trouble:?}"),
            None => panic!("it counts as grown"),
        }
    }

    fn refused(open: Option<Open>) -> String {
        match open {
            Some(Open::Refused(trouble)) => trouble.message,
            _ => panic!("nobody is asked to help"),
        }
    }

    #[test]
    fn a_claim_that_was_asked_to_grow_and_has_not_is_no_volume_of_that_size() {
        let mut since = None;
        let grows = waits(look(&facts("10Gi", json!(null)), &mut since, at(0)));
        assert!(grows.contains("data-kelp-1 has 10Gi of 20Gi"), "{grows}");
        waits(look(&facts("10Gi", json!(null)), &mut since, at(5)));
        let told = refused(look(&facts("10Gi", json!(null)), &mut since, at(6)));
        assert!(told.contains("has 10Gi; Kubernetes does not say why"), "{told}");
        assert!(look(&facts("20Gi", json!(null)), &mut since, at(7)).is_none());
        assert_eq!(since, None, "the next time is counted anew");
        let mut left = facts("10Gi", json!(null));
        left.pods.clear();
        assert!(look(&left, &mut since, at(60)).is_none(), "nobody mounts it");
    }

    #[test]
    fn a_volume_that_grows_only_when_it_is_mounted_anew_says_so_however_late_somebody_looks() {
        let pending =
            || facts("10Gi", json!([condition("Resizing", ""), condition("FileSystemResizePending", "waits")]));
        waits(look(&pending(), &mut None, at(1)));
        let told = refused(look(&pending(), &mut None, at(6)));
        assert!(told.contains("spec.maintenance.restartAt"), "{told}");
        let failed =
            facts("10Gi", json!([condition("ControllerResizeError", "out of quota"), condition("Resizing", "")]));
        let told = refused(look(&failed, &mut None, at(6)));
        assert!(told.contains("ControllerResizeError: out of quota") && told.contains("more than 10Gi"), "{told}");
    }

    #[test]
    fn what_a_claim_is_not_given_is_nothing_that_it_has() {
        let left = |conditions, since, minute| {
            let facts = facts("10Gi", conditions);
            left_at(&facts.claims[&1], since, at(minute)).map(str::to_owned)
        };
        let has = Some("10Gi".to_owned());
        assert_eq!(left(json!([condition("ControllerResizeError", "too large")]), None, 0), has);
        assert_eq!(left(json!([condition("NodeResizeError", "no space"), condition("Resizing", "")]), None, 0), has);
        assert_eq!(left(json!([condition("Resizing", "")]), Some(at(0)), 4), None, "it grows");
        assert_eq!(left(json!([condition("Resizing", "")]), Some(at(0)), 6), has, "for too long");
        assert_eq!(left(json!(null), Some(at(0)), 6), has, "nobody does anything about it");
        assert_eq!(left(json!([condition("FileSystemResizePending", "")]), Some(at(0)), 60), None, "it will be given");
        assert_eq!(left_at(&facts("20Gi", json!(null)).claims[&1], Some(at(0)), at(60)), None);
    }
}
