//! Which version the pods run. Pure.
//!
//! The spec's version is a wish: what runs changes only by an upgrade's directive, or by the very first start. So neither an
//! edited spec nor a deleted StatefulSet ever upgrades OpenBao by accident. And as an older version never leads over data that a
//! newer one has led, each volume says which one has: that outlives the object, which may be applied again as it once was.

use super::{
    bootstrap::Stage,
    build::statefulset,
    facts::Facts,
    members::{self, Member},
    validate::ValidatedCluster,
};
use crate::{
    api::{ClusterPhase, OpenBaoClusterStatus},
    service::upgrade::versions,
};
use k8s_openapi::{
    api::{apps::v1::StatefulSet, core::v1::PodSpec},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::ResourceExt;
use semver::Version;

/// Annotation of a data claim: the newest version that has led over its data.
pub const LED_BY: &str = "openbao.org/led-by-version";

/// Version and image of the pod template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Running {
    /// `2.7.2`
    pub version: String,
    /// Full image.
    pub image: String,
}

/// The image that servers were asked for, by a pod or by the template of pods. What a webhook made of it, or put before it, does
/// not matter. Those of an older operator do not say.
pub fn asked_image(metadata: Option<&ObjectMeta>, pod: Option<&PodSpec>) -> Option<String> {
    let written = metadata.and_then(|metadata| metadata.annotations.as_ref()?.get(statefulset::IMAGE));
    let server = || pod?.containers.iter().find(|container| container.name == statefulset::CONTAINER);
    written.or_else(|| server()?.image.as_ref()).cloned()
}

/// The image that the template asks for.
pub fn template_image(set: &StatefulSet) -> Option<String> {
    let template = &set.spec.as_ref()?.template;
    asked_image(template.metadata.as_ref(), template.spec.as_ref())
}

/// The newest version that has led over any of these volumes, as far as they say.
fn led_by(facts: &Facts) -> Option<String> {
    let noted = facts.claims.values().filter_map(|claim| versions::parse(claim.annotations().get(LED_BY)?));
    noted.max_by(Version::cmp_precedence).map(|version| version.to_string())
}

/// The claims that do not say yet that `version` has led. What they say is never lowered: the data of an older version comes with
/// other claims.
pub fn unnoted(facts: &Facts, version: &str) -> Vec<String> {
    let Some(led) = versions::parse(version) else { return Vec::new() };
    let says_less = |note: Option<Version>| note.is_none_or(|note| note.cmp_precedence(&led).is_lt());
    let claims = facts.claims.values().filter(|claim| claim.metadata.deletion_timestamp.is_none());
    claims
        .filter(|claim| says_less(claim.annotations().get(LED_BY).and_then(|note| versions::parse(note))))
        .map(|claim| claim.name_any())
        .collect()
}

/// Whether nobody has led yet, as far as can be known: neither under this object, nor over its volumes before. No clients are
/// served then, and a wrong version may be why: a corrected one is carried out at once, as there is nothing to upgrade. But a
/// server that starts for the first time is not disturbed, for it may be about to hold data.
pub fn is_unled(status: &OpenBaoClusterStatus, facts: &Facts, members: &[Member], stage: Stage) -> bool {
    let undisturbed = || members.iter().all(|member| member.endpoint.is_none());
    status.phase == Some(ClusterPhase::Initializing)
        && led_by(facts).is_none()
        && members::leader(members).is_none()
        && (stage == Stage::Bootstrapped || undisturbed())
}

/// The version that the volumes say has led, where the status names an older one, `than`. That status was put back from a backup of
/// the objects, or the volumes of an object made again outlived it. A template that shows yet another version was changed with a
/// reason, and an image may call itself otherwise than the spec: there the status is right. So it is while a rollback has wiped
/// some of the volumes and not others.
fn has_led_since(than: &str, status: &OpenBaoClusterStatus, facts: &Facts) -> Option<String> {
    let upgrade = status.upgrade.as_ref();
    if upgrade.is_some_and(|upgrade| upgrade.half_restored.is_some() || upgrade.servers.is_some()) {
        return None;
    }
    let led = led_by(facts)?;
    let shows_it = || facts.annotation(statefulset::VERSION).is_some_and(|shown| versions::is_same(shown, &led));
    let newer = versions::parse(&led)?.cmp_precedence(&versions::parse(than)?).is_gt();
    (newer && (facts.stateful_set.is_none() || shows_it())).then_some(led)
}

/// Decides what the template says. `unled`: see [`is_unled`].
pub fn running(
    cluster: &ValidatedCluster,
    status: &OpenBaoClusterStatus,
    facts: &Facts,
    stage: Stage,
    unled: bool,
    repository: &str,
) -> Running {
    let wanted = cluster.version.to_string();
    let image_of = |version: &str| match &cluster.spec.image {
        Some(image) if version == wanted => image.clone(),
        _ => format!("{repository}:{version}"),
    };
    if let Some(directive) = status.upgrade.as_ref().and_then(|upgrade| upgrade.directive.as_ref())
        && has_led_since(&directive.version, status, facts).is_none()
    {
        return Running { version: directive.version.clone(), image: directive.image.clone() };
    }
    let kept = match &facts.stateful_set {
        _ if unled => None,
        Some(set) => facts.annotation(statefulset::VERSION).map(str::to_owned).zip(template_image(set)),
        None if stage == Stage::Bootstrapped => {
            let known = status.current_version.clone();
            let known = known.filter(|known| has_led_since(known, status, facts).is_none());
            known.or_else(|| led_by(facts)).map(|version| {
                let image = image_of(&version);
                (version, image)
            })
        }
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
        adapter::openbao::{
            Endpoint,
            HealthState::{Active, Standby},
        },
        api::{ServersDirective, UpgradeDirective, UpgradeStatus},
        service::cluster::{members::tests::member, names, validate::tests::valid},
    };
    use k8s_openapi::api::core::v1::PersistentVolumeClaim;
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
        running(&valid(|s| s["version"] = json!(spec)), status, facts, Stage::Bootstrapped, false, "repo")
    }

    /// Volumes that outlived an object, with what they say about the version that has led.
    fn retained(notes: &[Option<&str>]) -> Facts {
        let claims = (0..).zip(notes).map(|(ordinal, note)| {
            let mut claim = PersistentVolumeClaim::default();
            claim.metadata.name = Some(names::data_claim("kelp", ordinal));
            claim.metadata.annotations = note.map(|note| [(LED_BY.to_owned(), note.to_owned())].into());
            (ordinal, Arc::new(claim))
        });
        Facts { claims: claims.collect(), ..Facts::default() }
    }

    #[test]
    fn a_manifest_applied_again_starts_the_version_that_has_led_over_its_volumes_and_no_other() {
        let nothing = OpenBaoClusterStatus::default();
        let volumes = retained(&[Some("2.7.2"), None, Some("2.6.1")]);
        assert_eq!(decide("2.6.1", &volumes, &nothing).image, "repo:2.7.2", "an old one never leads over them");
        assert_eq!(decide("2.8.0", &volumes, &nothing).version, "2.7.2", "a newer one is an upgrade");
        assert_eq!(decide("2.10.0", &retained(&[Some("2.9.0"), Some("2.10.0")]), &nothing).version, "2.10.0");
        assert_eq!(decide("2.6.1", &retained(&[None; 3]), &nothing).version, "2.6.1", "nobody knows better");
    }

    fn directed(version: &str) -> OpenBaoClusterStatus {
        let directive = UpgradeDirective { version: version.into(), image: format!("x:{version}") };
        let upgrade = UpgradeStatus { directive: Some(directive), ..UpgradeStatus::default() };
        OpenBaoClusterStatus {
            current_version: Some(version.into()),
            upgrade: Some(upgrade),
            ..OpenBaoClusterStatus::default()
        }
    }

    #[test]
    fn a_status_that_is_older_than_the_volumes_starts_no_older_version_over_them() {
        let volumes = retained(&[Some("2.7.2"), None, Some("2.6.1")]);
        let old = directed("2.6.1");
        assert_eq!(decide("2.6.1", &volumes, &old).image, "repo:2.7.2");
        let bare = OpenBaoClusterStatus { upgrade: None, ..directed("2.6.1") };
        assert_eq!(decide("2.6.1", &volumes, &bare).version, "2.7.2");
        // What was made of that decision is seen before it is.
        let made = Facts { claims: volumes.claims.clone(), ..existing("2.7.2") };
        assert_eq!(decide("2.6.1", &made, &old).image, "img:2.7.2");
        for status in [directed("2.7.2"), directed("2.8.0")] {
            assert_eq!(Some(decide("2.6.1", &volumes, &status).version), status.current_version, "it is no older");
        }
    }

    #[test]
    fn a_status_that_names_an_older_version_than_led_is_right_where_servers_or_a_rollback_say_so() {
        let noted = Facts { claims: retained(&[Some("2.7.2")]).claims, ..existing("2.6.1") };
        assert_eq!(
            decide("2.6.1", &noted, &directed("2.6.1")).image,
            "x:2.6.1",
            "an image that calls itself otherwise"
        );
        let mut wiped = directed("2.6.1");
        wiped.upgrade.as_mut().unwrap().servers = Some(ServersDirective::default());
        assert_eq!(decide("2.6.1", &retained(&[Some("2.7.2")]), &wiped).image, "x:2.6.1");
    }

    #[test]
    fn the_image_that_a_webhook_made_of_the_template_is_not_the_one_that_was_asked_for() {
        let mut facts = existing("2.7.3");
        let set = Arc::make_mut(facts.stateful_set.as_mut().unwrap());
        let pod = set.spec.as_mut().unwrap().template.spec.as_mut().unwrap();
        for server in &mut pod.containers {
            server.image = Some("mirror/img:2.7.3".into());
        }
        assert_eq!(template_image(set).as_deref(), Some("img:2.7.3"));
        let nothing = OpenBaoClusterStatus::default();
        assert_eq!(decide("2.8.0", &facts, &nothing).image, "img:2.7.3", "the status was lost");
        let set = Arc::make_mut(facts.stateful_set.as_mut().unwrap());
        set.spec.as_mut().unwrap().template.metadata = None;
        assert_eq!(template_image(set).as_deref(), Some("mirror/img:2.7.3"), "an older operator did not write it down");
    }

    #[test]
    fn each_volume_is_told_the_newest_version_that_led_and_never_an_older_one() {
        let mut facts = retained(&[Some("2.7.2"), None, Some("2.6.1"), Some("?")]);
        assert_eq!(unnoted(&facts, "2.7.2"), ["data-kelp-1", "data-kelp-2", "data-kelp-3"]);
        assert_eq!(unnoted(&facts, "2.6.1"), ["data-kelp-1", "data-kelp-3"]);
        assert_eq!(unnoted(&facts, ""), [""; 0]);
        facts.claims.retain(|ordinal, _| *ordinal == 0);
        assert_eq!(unnoted(&facts, "2.7.2"), [""; 0]);
    }

    #[test]
    fn a_corrected_version_is_carried_out_while_nobody_has_ever_led() {
        let starts = |phase| OpenBaoClusterStatus { phase: Some(phase), ..OpenBaoClusterStatus::default() };
        let (new, ran) = (starts(ClusterPhase::Initializing), starts(ClusterPhase::Failed));
        let follows = [member(0, Standby, None)];
        let unnoted = Facts { claims: retained(&[None]).claims, ..existing("2.6.1") };
        let noted = Facts { claims: retained(&[Some("2.6.1")]).claims, ..existing("2.6.1") };
        let unled = |status: &OpenBaoClusterStatus, facts: &Facts, members: &[Member]| {
            is_unled(status, facts, members, Stage::Bootstrapped)
        };
        assert!(unled(&new, &unnoted, &follows));
        assert!(!unled(&new, &unnoted, &[member(0, Active, Some(0))]), "one leads");
        assert!(!unled(&new, &noted, &follows), "one has led");
        assert!(!unled(&ran, &unnoted, &follows), "clients were served");
        assert!(!unled(&OpenBaoClusterStatus::default(), &unnoted, &follows), "a status that was lost");
        let wanted = valid(|s| s["version"] = json!("2.7.2"));
        assert_eq!(running(&wanted, &new, &unnoted, Stage::Bootstrapped, true, "repo").image, "repo:2.7.2");

        let mut first = [member(0, Standby, None)];
        first[0].health = None;
        assert!(is_unled(&new, &unnoted, &first, Stage::Bootstrapping), "its image is not there");
        first[0].endpoint = Some(Endpoint {
            pod: "kelp-0".into(),
            address: std::net::SocketAddr::from(([10, 0, 0, 1], 8200)),
            tls_name: "kelp-0.kelp.reef.svc".into(),
            ca_pem: None,
        });
        assert!(!is_unled(&new, &unnoted, &first, Stage::Bootstrapping), "it may be initialising itself");
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
