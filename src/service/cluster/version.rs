//! Which version the pods run. Pure.
//!
//! The spec's version is a wish: what runs changes only by an upgrade's directive, or by the very first start. So neither an
//! edited spec nor a deleted StatefulSet ever upgrades OpenBao by accident.

use super::{bootstrap::Stage, build::statefulset, facts::Facts, validate::ValidatedCluster};
use crate::api::OpenBaoClusterStatus;

/// Version and image of the pod template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Running {
    /// `2.7.2`
    pub version: String,
    /// Full image.
    pub image: String,
}

/// Decides what the template says.
pub fn running(
    cluster: &ValidatedCluster,
    status: &OpenBaoClusterStatus,
    facts: &Facts,
    stage: Stage,
    repository: &str,
) -> Running {
    let wanted = cluster.version.to_string();
    let image_of = |version: &str| match &cluster.spec.image {
        Some(image) if version == wanted => image.clone(),
        _ => format!("{repository}:{version}"),
    };
    if let Some(directive) = status.upgrade.as_ref().and_then(|upgrade| upgrade.directive.as_ref()) {
        return Running { version: directive.version.clone(), image: directive.image.clone() };
    }
    let kept = match &facts.stateful_set {
        Some(set) => {
            let version = facts.annotation(statefulset::VERSION).map(str::to_owned);
            let containers = set.spec.as_ref().and_then(|spec| spec.template.spec.as_ref()).map(|pod| &pod.containers);
            let image = containers.into_iter().flatten().find(|container| container.name == statefulset::CONTAINER);
            version.zip(image.and_then(|container| container.image.clone()))
        }
        None if stage == Stage::Bootstrapped => status.current_version.clone().map(|version| {
            let image = image_of(&version);
            (version, image)
        }),
        None => None,
    };
    match kept {
        Some((version, image)) if version != wanted => Running { version, image },
        _ => Running { image: image_of(&wanted), version: wanted },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        api::{UpgradeDirective, UpgradeStatus},
        service::cluster::validate::tests::valid,
    };
    use serde_json::json;
    use std::sync::Arc;

    fn existing(version: &str) -> Facts {
        let built = statefulset::build(
            &valid(|_| {}),
            &statefulset::Inputs {
                version: version.into(),
                image: format!("img:{version}"),
                ..statefulset::tests::inputs()
            },
        );
        Facts { stateful_set: Some(Arc::new(built)), ..Facts::default() }
    }

    fn decide(spec: &str, facts: &Facts, status: &OpenBaoClusterStatus) -> Running {
        running(&valid(|s| s["version"] = json!(spec)), status, facts, Stage::Bootstrapped, "repo")
    }

    #[test]
    fn an_edited_version_alone_changes_nothing() {
        let kept = decide("2.7.2", &existing("2.6.1"), &OpenBaoClusterStatus::default());
        assert_eq!(kept, Running { version: "2.6.1".into(), image: "img:2.6.1".into() });
    }

    #[test]
    fn a_directive_does() {
        let directive = UpgradeDirective { version: "2.7.2".into(), image: "x:2.7.2".into() };
        let upgrade = UpgradeStatus { directive: Some(directive), ..UpgradeStatus::default() };
        let status = OpenBaoClusterStatus { upgrade: Some(upgrade), ..OpenBaoClusterStatus::default() };
        assert_eq!(decide("2.7.2", &existing("2.6.1"), &status).image, "x:2.7.2");
    }

    #[test]
    fn a_deleted_statefulset_comes_back_with_the_version_that_ran() {
        let status = OpenBaoClusterStatus { current_version: Some("2.6.1".into()), ..OpenBaoClusterStatus::default() };
        assert_eq!(decide("2.7.2", &Facts::default(), &status).version, "2.6.1");
    }

    #[test]
    fn a_new_cluster_runs_what_the_spec_says() {
        assert_eq!(decide("2.7.2", &Facts::default(), &OpenBaoClusterStatus::default()).image, "repo:2.7.2");
    }
}
