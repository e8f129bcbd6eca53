//! Whether somebody who may do so has asked for an upgrade: the cluster, by what its spec names, or a rollout that has claimed the
//! operation. Without that, whoever may create operations could have any image started as the servers, with their keys and their
//! data at hand.

use super::{request, versions};
use crate::{
    adapter::{Adapters, kubernetes::client::timed},
    api::{
        OpenBaoCluster, OpenBaoOperation, OpenBaoRollout, OperationKind, OperationPhase, ROLLOUT_NAME, UpgradeDirective,
    },
    causes::chain,
    service::opslifecycle::{Refusal, RetryClass},
};
use kube::{Api, ResourceExt};

/// Reason of an operation that nobody asked for.
pub const NOT_ASKED: &str = "NotAsked";

/// Whether both are one version of one image.
pub fn is_same(one: &UpgradeDirective, other: &UpgradeDirective) -> bool {
    versions::is_same(&one.version, &other.version) && one.image == other.image
}

/// Asked before an upgrade is planned, and again before it takes the lock: `to` is what the cluster's spec asks for, or what the
/// rollout does that the operation belongs to.
pub async fn check(
    ad: &Adapters,
    op: &OpenBaoOperation,
    cluster: &OpenBaoCluster,
    to: &UpgradeDirective,
) -> Result<(), Refusal> {
    let repository = &ad.settings.openbao_image_repository;
    let wish = request::wish(&cluster.spec.version, cluster.spec.image.as_ref(), repository);
    if is_same(&wish, to) {
        return Ok(());
    }
    let Some(name) = rollout_of(op) else {
        let asks = format!("OpenBaoCluster {} asks for {}", cluster.name_any(), words(&wish));
        return Err(not_asked(to, &asks));
    };
    let rollouts: Api<OpenBaoRollout> = Api::namespaced(ad.client.clone(), &op.namespace().unwrap_or_default());
    match timed(rollouts.get_opt(name)).await {
        Ok(found) => claimed(op, name, found.as_ref(), to, repository),
        Err(error) => {
            let message = format!("trying again: cannot read OpenBaoRollout {name}: {}", chain(&error));
            Err(Refusal::wait(RetryClass::ProgressPoll, "RolloutUnread", message))
        }
    }
}

/// The rollout that an operation says it belongs to. In the identity of who asks there may not be room for its whole name.
fn rollout_of(op: &OpenBaoOperation) -> Option<&str> {
    let identity = request::rollout(op)?;
    op.annotations().get(ROLLOUT_NAME).map(String::as_str).or_else(|| identity.strip_prefix("openbaorollout/"))
}

/// Whether that rollout stands behind the operation. Anybody could name it, or its UID, in an operation; its status is written by
/// the operator alone, and it names the operation of a member before that is created.
fn claimed(
    op: &OpenBaoOperation,
    name: &str,
    rollout: Option<&OpenBaoRollout>,
    to: &UpgradeDirective,
    repository: &str,
) -> Result<(), Refusal> {
    let own = op.name_any();
    let says = match rollout {
        None => "does not exist".to_owned(),
        Some(rollout) if rollout.metadata.deletion_timestamp.is_some() => "is being deleted".to_owned(),
        Some(rollout) => {
            let wish = request::wish(&rollout.spec.version, rollout.spec.image.as_ref(), repository);
            let listed = rollout.spec.members.iter().any(|member| member.cluster == op.spec.cluster);
            let mut members = rollout.status.iter().flat_map(|status| &status.members);
            let is_its = members
                .any(|member| member.cluster == op.spec.cluster && member.operation.as_deref() == Some(own.as_str()));
            if !listed || !is_its {
                format!("has not begun {own}")
            } else if !is_same(&wish, to) {
                format!("asks for {}", words(&wish))
            } else {
                return Ok(());
            }
        }
    };
    Err(not_asked(to, &format!("OpenBaoRollout {name} {says}")))
}

fn words(wish: &UpgradeDirective) -> String {
    format!("{} ({})", wish.version, wish.image)
}

fn not_asked(to: &UpgradeDirective, but: &str) -> Refusal {
    let message = format!(
        "nobody asks for {}: {but}. Nothing was changed. An upgrade is asked for by spec.version and spec.image of the \
         OpenBaoCluster, or by an OpenBaoRollout; the operator then creates its operation",
        words(to)
    );
    Refusal::failed(NOT_ASKED, message)
}

/// Whether an operation says nothing about the cluster: nobody asked for it, which was found when it was looked at, or will be. That
/// is not said of one that waits with a plan, for it was asked then. `running` is what the template shows and `wanted` what the spec
/// asks for.
pub(super) fn is_nobodys(op: &OpenBaoOperation, running: &UpgradeDirective, wanted: &UpgradeDirective) -> bool {
    if op.spec.operation != OperationKind::Upgrade {
        return false;
    }
    let planned = op.status.as_ref().is_some_and(|status| status.plan.is_some());
    let fits = |told: Option<UpgradeDirective>, is: &UpgradeDirective| told.is_some_and(|told| is_same(&told, is));
    let fits = fits(request::origin(op), running) && fits(request::target(op), wanted);
    let waits = op.phase() == OperationPhase::Pending && !planned;
    was_refused(op) || waits && request::rollout(op).is_none() && !fits
}

/// Whether it ended because nobody asked for it.
pub(super) fn was_refused(op: &OpenBaoOperation) -> bool {
    op.has_ended() && op.status.as_ref().is_some_and(|status| status.reason.as_deref() == Some(NOT_ASKED))
}

/// Whether it ended untouched because it was made for another image or version than is `wished` for by now: with the operator its
/// repository may have changed while it waited.
pub fn is_overtaken(op: &OpenBaoOperation, wished: &UpgradeDirective) -> bool {
    let other = request::target(op).is_some_and(|target| !is_same(&target, wished));
    other && was_refused(op) && !request::has_begun(op)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        api::{Actor, ActorSource, OpenBaoOperationSpec},
        service::opslifecycle::RefusalPhase,
    };
    use serde_json::json;

    fn at(version: &str, image: &str) -> UpgradeDirective {
        UpgradeDirective { version: version.into(), image: image.into() }
    }

    /// What a person may write who may create operations and nothing else.
    fn operation(name: &str) -> OpenBaoOperation {
        let mut op = OpenBaoOperation::new(
            name,
            OpenBaoOperationSpec {
                cluster: "kelp".into(),
                operation: OperationKind::Upgrade,
                actor: Some(Actor { identity: "openbaorollout/wave".into(), source: ActorSource::Rollout }),
                ..OpenBaoOperationSpec::default()
            },
        );
        op.metadata.namespace = Some("reef".into());
        op
    }

    fn rollout() -> OpenBaoRollout {
        serde_json::from_value(json!({
            "apiVersion": "openbao.org/v1alpha1", "kind": "OpenBaoRollout",
            "metadata": {"name": "wave", "namespace": "reef", "uid": "0123456789"},
            "spec": {"version": "v2.7.2", "members": [{"cluster": "kelp"}, {"cluster": "coral"}]},
            "status": {"members": [{"cluster": "kelp", "state": "Preparing", "operation": "kelp-rollout-01234567-1"},
                {"cluster": "coral"}]},
        }))
        .unwrap()
    }

    #[test]
    fn an_upgrade_of_a_rollout_is_one_that_this_rollout_has_claimed_with_its_version_and_image() {
        let own = operation("kelp-rollout-01234567-1");
        let judged = |op: &OpenBaoOperation, rollout: Option<&OpenBaoRollout>, to: &UpgradeDirective| {
            claimed(op, "wave", rollout, to, "bao").map_err(|refusal| (refusal.reason, refusal.phase))
        };
        let good = at("2.7.2", "bao:2.7.2");
        let refused = Err((NOT_ASKED, RefusalPhase::Failed));
        assert_eq!(judged(&own, Some(&rollout()), &good), Ok(()));
        assert_eq!(judged(&own, None, &good), refused, "there is none of that name");
        assert_eq!(judged(&own, Some(&rollout()), &at("2.7.2", "evil")), refused);
        assert_eq!(judged(&own, Some(&rollout()), &at("2.7.3", "bao:2.7.2")), refused);
        assert_eq!(judged(&operation("of-mine"), Some(&rollout()), &good), refused, "it never began that one");
        let cases: [fn(&mut OpenBaoRollout); 4] = [
            |rollout| rollout.status = None,
            |rollout| rollout.status.as_mut().unwrap().members[0].cluster = "coral".into(),
            |rollout| rollout.spec.members.retain(|member| member.cluster != "kelp"),
            |rollout| rollout.spec.image = Some("mirror/bao:2.7.2".into()),
        ];
        for (index, change) in cases.into_iter().enumerate() {
            let mut rollout = rollout();
            change(&mut rollout);
            assert_eq!(judged(&own, Some(&rollout), &good), refused, "case {index}");
        }
    }

    #[test]
    fn an_operation_that_fits_neither_what_runs_nor_what_is_wanted_says_nothing_about_the_cluster() {
        let (running, wanted) = (at("2.6.1", "bao:2.6.1"), at("2.7.2", "bao:2.7.2"));
        let asked = |from: &UpgradeDirective, to: &UpgradeDirective| {
            let mut op = operation("own");
            op.spec.actor = None;
            let pairs = [
                (request::FROM_VERSION, &from.version),
                (request::FROM_IMAGE, &from.image),
                (request::VERSION, &to.version),
                (request::IMAGE, &to.image),
            ];
            op.spec.parameters = pairs.map(|(key, value)| (key.to_owned(), value.clone())).into();
            op
        };
        let nobodys = |op: &OpenBaoOperation| is_nobodys(op, &running, &wanted);
        assert!(!nobodys(&asked(&running, &wanted)), "as the operator makes it");
        assert!(nobodys(&asked(&running, &at("2.7.2", "evil"))));
        assert!(nobodys(&asked(&at("2.6.1", "evil"), &wanted)), "turning back would start that");
        let mut planned = asked(&running, &at("2.7.0", "bao:2.7.0"));
        planned.status = Some(serde_json::from_value(json!({"phase": "Pending", "plan": {"steps": []}})).unwrap());
        assert!(!nobodys(&planned), "it was asked for when it was planned");
        let mut refused = asked(&running, &wanted);
        refused.status = Some(serde_json::from_value(json!({"phase": "Failed", "reason": NOT_ASKED})).unwrap());
        assert!(nobodys(&refused));
    }
}
