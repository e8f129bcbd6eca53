//! How large the data volumes are, and what to say of a size that they cannot have. Pure.

use super::{facts::Facts, growth, trouble::Trouble, validate::bytes};
use crate::{adapter::kubernetes::claim, api::conditions::reason};
use chrono::{DateTime, Utc};
use kube::ResourceExt;

/// A data volume.
#[derive(Debug, PartialEq, Eq)]
pub struct Volume<'a> {
    /// Its claim.
    pub claim: String,
    /// What the claim asks for, or what it has where it is not given that; as it stands there.
    pub size: &'a str,
    /// The same in bytes.
    pub bytes: u64,
    /// What the claim asks for, in bytes.
    pub asked: u64,
}

impl Volume<'_> {
    /// Whether its claim has to ask for another size than it does. Kubernetes lets it ask for less, but only for more than it has.
    pub fn differs(&self, wanted: u64) -> bool {
        self.asked < wanted || self.asked > wanted && self.bytes < wanted
    }
}

/// The volumes that stay. `since`: when one was first seen to have less than it was asked to grow to.
pub fn of(facts: &Facts, since: Option<DateTime<Utc>>, now: DateTime<Utc>) -> Vec<Volume<'_>> {
    let stay = facts.claims.values().filter(|claim| claim.metadata.deletion_timestamp.is_none());
    stay.filter_map(|claim| {
        let asked = claim::asked(claim)?;
        let size = growth::left_at(claim, since, now).unwrap_or(asked);
        Some(Volume { claim: claim.name_any(), size, bytes: bytes(size)?, asked: bytes(asked)? })
    })
    .collect()
}

/// The one below which the size of the spec cannot go.
pub fn largest<'a>(volumes: &'a [Volume<'a>]) -> Option<&'a Volume<'a>> {
    volumes.iter().max_by_key(|volume| volume.bytes)
}

/// The spec asks for less than there is.
pub fn too_small(wanted: &str, largest: &Volume<'_>) -> Trouble {
    let Volume { claim, size, .. } = largest;
    Trouble::new(
        reason::STORAGE_SHRINK_NOT_SUPPORTED,
        format!(
            "spec.storage.size {wanted} is less than the {size} of {claim}: volumes cannot shrink, set it back to {size} or more"
        ),
    )
}

/// Kubernetes refused to let a claim grow, in these words. `back` is the largest volume, while none has grown to that size.
pub fn cannot_grow(wanted: &str, why: &str, back: Option<&Volume<'_>>) -> Trouble {
    let (what, back) = match back {
        Some(Volume { size, .. }) => (
            format!("volumes cannot grow to {wanted}, and nothing was changed"),
            format!("Set spec.storage.size back to {size}, or set"),
        ),
        None => (format!("some volumes cannot grow to {wanted}, and others have"), "Set".to_owned()),
    };
    Trouble::new(
        reason::STORAGE_RESIZE_NOT_SUPPORTED,
        format!(
            "{what}: {why}. {back} allowVolumeExpansion: true in the storage class if its driver can expand volumes (tried again \
             within ten minutes); if not, make a new cluster with larger volumes and restore a backup into it"
        ),
    )
}

/// Kubernetes refused to let a claim ask for less again, in these words, although it was not given what it asks for.
pub fn cannot_return(wanted: &str, why: &str, volume: &Volume<'_>) -> Trouble {
    let Volume { claim, size, .. } = volume;
    Trouble::new(
        reason::STORAGE_RESIZE_NOT_SUPPORTED,
        format!(
            "volume claim {claim} has {size}, is not given the larger size that it asks for, and cannot ask for {wanted} instead: \
             {why}. Kubernetes allows that from 1.32 on (tried again within ten minutes); if it does not, see to it that what stores \
             the volume gives it what the claim asks for, or make a new cluster and restore a backup into it"
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::PersistentVolumeClaim;
    use serde_json::json;
    use std::sync::Arc;

    fn claimed(sizes: &[&str]) -> Facts {
        let claim = |(ordinal, size): (usize, &&str)| {
            let claim: PersistentVolumeClaim = serde_json::from_value(json!({
                "metadata": {"name": format!("data-kelp-{ordinal}")},
                "spec": {"resources": {"requests": {"storage": size}}}
            }))
            .unwrap();
            (u32::try_from(ordinal).unwrap(), Arc::new(claim))
        };
        Facts { claims: sizes.iter().enumerate().map(claim).collect(), ..Facts::default() }
    }

    fn of(facts: &Facts) -> Vec<Volume<'_>> {
        super::of(facts, None, "2026-11-21T09:00:00Z".parse().unwrap())
    }

    #[test]
    fn the_largest_volume_is_told_by_its_size_and_not_by_its_text() {
        let facts = claimed(&["9Gi", "10Gi", "2048Mi"]);
        let found = of(&facts);
        assert_eq!(largest(&found).map(|volume| (volume.claim.as_str(), volume.size)), Some(("data-kelp-1", "10Gi")));
        assert_eq!(largest(&of(&Facts::default())), None, "nothing was claimed yet");
    }

    #[test]
    fn a_size_that_no_volume_was_given_binds_nobody_and_its_claims_go_back_to_a_smaller_one() {
        let mut facts = claimed(&["100Ti", "100Ti"]);
        for claim in facts.claims.values_mut().map(Arc::make_mut) {
            claim.status = serde_json::from_value(json!({
                "capacity": {"storage": "10Gi"},
                "conditions": [{"type": "ControllerResizeError", "status": "True", "message": "too large"}]
            }))
            .unwrap();
        }
        let found = of(&facts);
        assert_eq!(largest(&found).map(|volume| volume.size), Some("10Gi"));
        let differs = |wanted: &str| found.iter().all(|volume| volume.differs(bytes(wanted).unwrap()));
        assert!(differs("11Gi"), "down, to more than they have");
        assert!(differs("101Ti"), "and up");
        assert!(!differs("10Gi"), "Kubernetes refuses to ask for what they have");
        assert!(!differs("100Ti"), "they ask for that");
        let told = cannot_return("11Gi", "the field cannot be less", &found[0]).message;
        assert!(told.contains("data-kelp-0 has 10Gi") && told.contains("11Gi instead: the field"), "{told}");
        let claim = facts.claims.get_mut(&0).map(Arc::make_mut).unwrap();
        claim.status = serde_json::from_value(json!({"capacity": {"storage": "100Ti"}})).unwrap();
        assert_eq!(largest(&of(&facts)).map(|volume| volume.size), Some("100Ti"), "one was given it");
    }

    #[test]
    fn a_claim_that_is_on_its_way_out_holds_nobody_to_its_size() {
        let mut facts = claimed(&["1Gi", "20Gi"]);
        let leaving = facts.claims.get_mut(&1).map(Arc::make_mut).unwrap();
        leaving.metadata.deletion_timestamp = serde_json::from_value(json!("2026-11-21T09:00:00Z")).unwrap();
        assert_eq!(largest(&of(&facts)).map(|volume| volume.size), Some("1Gi"));
    }

    #[test]
    fn a_size_that_volumes_cannot_have_comes_with_the_one_to_go_back_to() {
        let facts = claimed(&["10Gi", "10Gi"]);
        let found = of(&facts);
        let told = cannot_grow("20Gi", "the class says no", largest(&found)).message;
        assert!(
            told.contains("nothing was changed: the class says no. Set spec.storage.size back to 10Gi, or"),
            "{told}"
        );
        let shrinks = too_small("5Gi", largest(&found).unwrap()).message;
        assert!(
            shrinks.contains("10Gi of data-kelp-") && shrinks.ends_with("set it back to 10Gi or more"),
            "{shrinks}"
        );
        let partly = cannot_grow("20Gi", "the quota is used up", None).message;
        assert!(!partly.contains("back to") && partly.contains("others have: the quota is used up"), "{partly}");
    }
}
