//! How large the volumes are into which a restored database has to fit: what the servers have, which may be less than the spec
//! asks for. Volumes take their time to grow, and some cannot.

use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube::ResourceExt;

use crate::adapter::kubernetes::claim;
use crate::service::cluster::{names, validate};

/// Bytes of the smallest volume of a cluster's first `servers`. Claims that were left by others say nothing. `None`: there is none yet.
pub fn smallest<'a>(
    cluster: &str,
    servers: i32,
    claims: impl Iterator<Item = &'a PersistentVolumeClaim>,
) -> Option<u64> {
    let servers = u32::try_from(servers).unwrap_or(0);
    let used = |claim: &&PersistentVolumeClaim| {
        names::ordinal_of_claim(cluster, &claim.name_any()).is_some_and(|ordinal| ordinal < servers)
    };
    claims.filter(used).filter_map(size_of).min()
}

/// What to do where a volume of this many bytes is needed.
pub fn more(asked: Option<u64>, needed: u64) -> &'static str {
    match asked {
        Some(asked) if asked >= needed => {
            "the volumes have not grown to spec.storage.size yet (where they cannot, the cluster's conditions say why)"
        }
        _ => "raise spec.storage.size",
    }
}

/// What it has; one that is not bound yet will have what it asks for.
fn size_of(claim: &PersistentVolumeClaim) -> Option<u64> {
    validate::bytes(claim::capacity(claim).or_else(|| claim::asked(claim))?)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn claim(name: &str, asks: &str, has: Option<&str>) -> PersistentVolumeClaim {
        let status = has.map_or(Value::Null, |has| json!({"capacity": {"storage": has}}));
        let spec = json!({"resources": {"requests": {"storage": asks}}});
        serde_json::from_value(json!({"metadata": {"name": name}, "spec": spec, "status": status})).unwrap()
    }

    #[test]
    fn a_restore_has_to_fit_what_the_volumes_have_and_not_what_is_asked_for() {
        let gib = 1 << 30;
        let grown = claim("data-kelp-0", "10Gi", Some("10Gi"));
        let grows = claim("data-kelp-1", "10Gi", Some("1Gi"));
        let unbound = claim("data-kelp-2", "5Gi", None);
        let of = |servers, claims: &[&PersistentVolumeClaim]| smallest("kelp", servers, claims.iter().copied());
        assert_eq!(of(3, &[&grown, &grows, &unbound]), Some(gib));
        assert_eq!(of(3, &[&grown, &unbound]), Some(5 * gib));
        assert_eq!(of(1, &[&grown, &grows, &unbound]), Some(10 * gib), "the others were left by members that went");
        assert_eq!(of(3, &[&claim("data-eel-0", "1Gi", None)]), None, "nor is another cluster's of ours");
    }
}
