//! The operations that upgrades are: what is frozen in them, and what they ask of the pods' template. Pure.

use super::{steps, versions};
use crate::{
    adapter::kubernetes::owner,
    api::{
        Actor, ActorSource, Direction, OPERATION_FINALIZER, OpenBaoCluster, OpenBaoOperation, OpenBaoOperationSpec,
        OperationKind, OperationPhase, StepState, StepStatus, UpgradeDirective,
    },
    service::{
        cluster::names,
        opslifecycle::{asked::Parameter, lineage},
    },
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::ResourceExt;
use std::collections::BTreeMap;

/// Parameter: the version to reach.
pub const VERSION: &str = "version";
/// Parameter: its image.
pub const IMAGE: &str = "image";
/// Parameter: the version that runs when the upgrade is asked for.
pub const FROM_VERSION: &str = "fromVersion";
/// Parameter: its image.
pub const FROM_IMAGE: &str = "fromImage";

/// Input of a rollback: the version to go back to. Not [`VERSION`]: its inputs are also those of a restore.
pub const TO_VERSION: &str = "toVersion";
/// Input of a rollback: its image.
pub const TO_IMAGE: &str = "toImage";
/// Input of a rollback: how many servers there were.
pub const REPLICAS: &str = "replicas";

/// Input of a rollback: the version that is rolled back.
pub const ROLLED_BACK: &str = "rolledBack";

/// Parameter: the upgrade parks before leadership moves, and who lets it go on: a [`Park`]. Without it the cluster's
/// `spec.upgrade.deferCutover` decides.
pub const PARK: &str = "park";

/// All that `spec.parameters` of an upgrade may say.
pub const PARAMETERS: [Parameter; 5] = [
    Parameter::any(VERSION),
    Parameter::any(IMAGE),
    Parameter::any(FROM_VERSION),
    Parameter::any(FROM_IMAGE),
    Parameter::one_of(PARK, PARKS),
];
const PARKS: &[&str] = &[Park::Ordered.as_str(), Park::Manual.as_str()];

/// Who lets a parked upgrade go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Park {
    /// The rollout it belongs to, when it is this member's turn, however long that takes.
    Ordered,
    /// A person, who has a fortnight.
    Manual,
}

impl Park {
    /// The parameter's value.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ordered => "ordered",
            Self::Manual => "manual",
        }
    }

    /// How an upgrade parks, if it does.
    pub fn of(operation: &OpenBaoOperation, cluster: &OpenBaoCluster) -> Option<Self> {
        match operation.spec.parameters.get(PARK).map(String::as_str) {
            Some("ordered") => Some(Self::Ordered),
            Some(_) => Some(Self::Manual),
            None => cluster.spec.upgrade.defer_cutover.then_some(Self::Manual),
        }
    }
}

/// What a cluster or a rollout asks for: the version that its spec names, with the image that it names, or else that of the
/// operator's repository.
pub fn wish(version: &str, image: Option<&String>, repository: &str) -> UpgradeDirective {
    let version = versions::plain(version);
    let image = image.cloned().unwrap_or_else(|| format!("{repository}:{version}"));
    UpgradeDirective { version, image }
}

/// Whether an operation was begun on this very object, or on none yet. One of the same name may have been there before it.
pub fn is_of(operation: &OpenBaoOperation, cluster: &OpenBaoCluster) -> bool {
    let began_with = operation.status.as_ref().and_then(|status| status.cluster_uid.as_ref());
    began_with.is_none() || began_with == cluster.metadata.uid.as_ref()
}

/// The rollout that an operation belongs to, as `openbaorollout/<name>`.
pub fn rollout(operation: &OpenBaoOperation) -> Option<&str> {
    let actor = operation.spec.actor.as_ref()?;
    (actor.source == ActorSource::Rollout).then_some(actor.identity.as_str())
}

/// The step after which the template shows the target.
pub const UPDATE_TEMPLATE: &str = "UpdateTemplate";
/// The step with which leadership moves: the point of no return.
pub const STEP_DOWN: &str = "StepDown";

/// Output of a step that found a new server leading before anybody was asked to give up leadership.
pub const UNPLANNED_CUTOVER: &str = "unplannedCutover";

/// A rollback's step that lets all servers stop.
pub const STOP_SERVERS: &str = "StopServers";
/// Its step that starts one server on an empty volume.
pub const START_FIRST: &str = "StartFirst";
/// Its step that lets the others join the restored one.
pub const JOIN_OTHERS: &str = lineage::JOIN_OTHERS;

/// The target of an upgrade or, once it is planned, of a rollback.
pub fn target(operation: &OpenBaoOperation) -> Option<UpgradeDirective> {
    match operation.spec.operation {
        // Whoever asks for a rollback names an upgrade; what that means is frozen when it starts.
        OperationKind::Rollback => pair(&operation.status.as_ref()?.inputs, TO_VERSION, TO_IMAGE),
        _ => pair(&operation.spec.parameters, VERSION, IMAGE),
    }
}

/// Where it came from.
pub fn origin(operation: &OpenBaoOperation) -> Option<UpgradeDirective> {
    let values = match operation.spec.operation {
        OperationKind::Rollback => &operation.status.as_ref()?.inputs,
        _ => &operation.spec.parameters,
    };
    pair(values, FROM_VERSION, FROM_IMAGE)
}

fn pair(values: &BTreeMap<String, String>, version: &str, image: &str) -> Option<UpgradeDirective> {
    Some(UpgradeDirective { version: versions::plain(values.get(version)?), image: values.get(image)?.clone() })
}

/// The version that a rollback turned its back on.
pub fn rolled_back(operation: &OpenBaoOperation) -> Option<&str> {
    operation.status.as_ref()?.inputs.get(ROLLED_BACK).map(String::as_str)
}

/// Whether the template was, or may have been, changed for it.
pub fn has_begun(operation: &OpenBaoOperation) -> bool {
    let Some(status) = operation.status.as_ref() else { return false };
    let of = |step: &StepStatus| step.name == UPDATE_TEMPLATE || step.name == STOP_SERVERS;
    status.steps.iter().any(|step| of(step) && step.state != StepState::Pending)
}

/// What the pods' template must show because of this upgrade, running or ended; `None` while, or because, it never touched
/// it: what an operation says of itself is no reason to change a version.
///
/// The target from the moment `UpdateTemplate` began, the origin again as soon as the operation turns back. Past the
/// point of no return, or once a new server led without being asked to, it is the target whatever happens: an old binary
/// must never be started over data that a new one has led.
pub fn directive(operation: &OpenBaoOperation) -> Option<UpgradeDirective> {
    let status = operation.status.as_ref().filter(|_| has_begun(operation))?;
    let past = status.point_of_no_return_at.is_some();
    if operation.spec.operation == OperationKind::Rollback {
        // Wiping begins only when no server runs, and from then on none may start with the newer version.
        return if past { target(operation) } else { origin(operation) };
    }
    let led = status.steps.iter().any(|step| {
        step.output.contains_key(UNPLANNED_CUTOVER)
            || step.error.as_deref().is_some_and(|error| error.contains(steps::LEADS_ALREADY))
    });
    let back = status.direction == Direction::Unwinding
        || (status.phase.is_terminal() && status.phase != OperationPhase::Succeeded);
    if past || led || !back { target(operation) } else { origin(operation) }
}

/// `<cluster>-upgrade-<version with dashes>-<n>`, the next `n` after the upgrades to that version on record.
pub fn name(cluster: &str, version: &str, known: &[impl AsRef<OpenBaoOperation>]) -> String {
    let word: String =
        version.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' }).collect();
    let prefix = format!("{cluster}-upgrade-{word}-");
    let used = known
        .iter()
        .filter_map(|operation| operation.as_ref().name_any().strip_prefix(&prefix)?.parse::<u32>().ok())
        .max()
        .unwrap_or(0);
    format!("{prefix}{}", used + 1)
}

/// The operation that takes `cluster` from one version to another. `None` while the cluster has no UID.
pub fn upgrade(
    cluster: &OpenBaoCluster,
    name: String,
    from: &UpgradeDirective,
    to: &UpgradeDirective,
) -> Option<OpenBaoOperation> {
    let labels = names::labels(&cluster.name_any());
    let mut operation = OpenBaoOperation::new(
        &name,
        OpenBaoOperationSpec {
            cluster: cluster.name_any(),
            operation: OperationKind::Upgrade,
            actor: Some(Actor {
                identity: format!("openbaocluster/{}", cluster.name_any()),
                source: ActorSource::Controller,
            }),
            intent: Some(format!("spec.version changed from {} to {}", from.version, to.version)),
            parameters: BTreeMap::from([
                (VERSION.to_owned(), to.version.clone()),
                (IMAGE.to_owned(), to.image.clone()),
                (FROM_VERSION.to_owned(), from.version.clone()),
                (FROM_IMAGE.to_owned(), from.image.clone()),
            ]),
            ..OpenBaoOperationSpec::default()
        },
    );
    operation.metadata = ObjectMeta {
        namespace: cluster.namespace(),
        labels: Some(labels),
        owner_references: Some(vec![owner::controller_of(cluster)?]),
        // Here, the driver need not write it.
        finalizers: Some(vec![OPERATION_FINALIZER.to_owned()]),
        ..operation.metadata
    };
    Some(operation)
}
