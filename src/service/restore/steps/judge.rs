//! The verdict on the mover's report, with what only the operator knows: the servers' versions, the seal and its key.

use base64::{Engine, engine::general_purpose::STANDARD};
use kube::ResourceExt;

use super::{Step, trouble};
use crate::api::{OpenBaoCluster, SealType, VERSIONS_SHOWN, Waiver};
use crate::causes::chain;
use crate::datapath::protocol::Report;
use crate::service::backup::key::{self, InUse, NoKeys};
use crate::service::cluster::members::{self, Member};
use crate::service::cluster::{names, validate};
use crate::service::opslifecycle::manager::StepOutcome;
use crate::service::restore::decide::judge::{self, Accepted, ClusterSeal, Facts, Limits, SealProof, Verdict};
use crate::service::restore::decide::room;

/// Output keys of this step.
pub const KEY: &str = "key";
pub const SHA256: &str = "sha256";
pub const SIZE: &str = "sizeBytes";
pub const VERSIONS: &str = "versions";
pub const SEAL_TYPE: &str = "sealType";
pub const SEAL_KEY_ID: &str = "sealKeyID";
pub const TAKEN_AT: &str = "takenAt";
pub const ORIGIN: &str = "origin";
pub const KEY_NEEDED: &str = "keyNeeded";

pub async fn run(step: &Step<'_>) -> StepOutcome {
    let cluster = match step.cluster() {
        Ok(cluster) => cluster,
        Err(outcome) => return outcome,
    };
    let report = match step.movers.exchange().await {
        Ok(exchange) => exchange.and_then(|exchange| exchange.report),
        Err(error) => return trouble(&error),
    };
    let Some(report) = report else {
        return StepOutcome::fatal("ReportGone", "the mover's report is gone: somebody emptied its ConfigMap");
    };
    let members = step.members(cluster).await;
    match verdict(step, cluster, &members, &report).await {
        Ok(accepted) => StepOutcome::done_with(output(&accepted)),
        Err(outcome) => outcome,
    }
}

/// What the operator makes of the report with what it knows of the cluster at this moment.
pub async fn verdict(
    step: &Step<'_>,
    cluster: &OpenBaoCluster,
    members: &[Member],
    report: &Report,
) -> Result<Accepted, StepOutcome> {
    let (versions, cluster_id) = match &step.inputs.onto {
        // Servers that do not exist yet: none of those that run has a say, and the new one's id is nobody's.
        Some(version) => (vec![(names::pod(&cluster.name_any(), 0), version.clone())], Some(String::new())),
        None => {
            let leader = members::leader(members).ok_or_else(|| {
                StepOutcome::in_progress("waiting for the servers to agree on a leader, to compare versions")
            })?;
            let serving = members.iter().filter(|member| member.serves());
            let version = |member: &Member| member.version().unwrap_or_default().to_owned();
            (
                serving.map(|member| (member.name.clone(), version(member))).collect(),
                leader.health.as_ref().and_then(|health| health.cluster_id.clone()),
            )
        }
    };
    let key = key::in_use(step.call.ad, cluster);
    let proof = prove_seal(step, cluster, &key, report).await.map_err(StepOutcome::in_progress)?;
    let verdict = judge::judge(&Facts {
        report,
        waive_missing_manifest: step.inputs.waives(Waiver::MissingManifest),
        waive_other_seal: step.inputs.waives(Waiver::OtherSeal),
        versions,
        seal: seal_of(cluster),
        key_secret: key.secret,
        proof,
        limits: limits(step, cluster),
        cluster_id,
    });
    match verdict {
        Verdict::Accept(accepted) => Ok(*accepted),
        Verdict::Retry(message) => Err(StepOutcome::retryable("PreflightFailed", message)),
        Verdict::Refuse(refused) => {
            // So that it ends by itself; if this fails, the clean-up stops it.
            drop(step.movers.refuse(&refused.message).await);
            Err(StepOutcome::fatal(refused.reason, step.unchanged(&refused.message)))
        }
    }
}

fn output(accepted: &Accepted) -> Vec<(&'static str, String)> {
    let Accepted {
        key,
        sha256,
        size_bytes,
        versions,
        seal_type,
        seal_key_id,
        taken_at,
        // Asked again under the lock: another restore may come first.
        new_cluster_id: _,
        endpoint: _,
        origin,
        key_needed,
    } = accepted;
    let mut output = vec![
        (KEY, key.clone()),
        (SHA256, sha256.clone()),
        (SIZE, size_bytes.to_string()),
        // In their order: the newest are those that must not be cut off.
        (VERSIONS, versions[versions.len().saturating_sub(VERSIONS_SHOWN)..].join(",")),
        (SEAL_TYPE, seal_type.clone()),
    ];
    let optional = [
        (SEAL_KEY_ID, seal_key_id.clone()),
        (TAKEN_AT, taken_at.map(|at| at.to_rfc3339_opts(chrono::SecondsFormat::Secs, true))),
        (ORIGIN, origin.clone()),
        (KEY_NEEDED, key_needed.clone()),
    ];
    output.extend(optional.into_iter().filter_map(|(name, value)| Some((name, value?))));
    output
}

/// The seal that the servers have, as the cluster's spec says.
pub fn seal_of(cluster: &OpenBaoCluster) -> ClusterSeal {
    let unseal = &cluster.spec.unseal;
    let key_id = (unseal.type_ == SealType::Static).then(|| {
        let named = unseal.static_.as_ref().and_then(|seal| seal.current_key_id.clone());
        named.unwrap_or_else(|| names::DEFAULT_KEY_ID.to_owned())
    });
    ClusterSeal { kind: unseal.type_.as_str().to_owned(), key_id }
}

/// Opens the sealed sums with the static key that the servers have, where that is one the operator can read. `Err`: ask again.
async fn prove_seal(
    step: &Step<'_>,
    cluster: &OpenBaoCluster,
    key: &InUse,
    report: &Report,
) -> Result<SealProof, String> {
    if report.sealed_sums.is_empty() || report.sums.is_empty() {
        return Ok(SealProof::NotPossible);
    }
    let doubt = key.unsettled.as_ref().map(|why| format!("; and {why}")).unwrap_or_default();
    let keys = match key.keys(&step.call.ad.client, &cluster.namespace().unwrap_or_default()).await {
        Ok(Some(keys)) => keys,
        Ok(None) => return Ok(SealProof::NotPossible),
        Err(error @ NoKeys::Unread { .. }) => return Err(format!("trying again: {}", chain(&error))),
        Err(error @ NoKeys::Missing { .. }) => return Ok(SealProof::Disproven(error.to_string())),
    };
    let (Ok(sealed), Ok(sums)) = (STANDARD.decode(&report.sealed_sums), STANDARD.decode(&report.sums)) else {
        return Ok(SealProof::Disproven("the mover's report of the sealed sums is not readable".to_owned()));
    };
    let key_id = seal_of(cluster).key_id.unwrap_or_default();
    Ok(match keys.prove(&key_id, &sealed, &sums) {
        Ok(()) => SealProof::Proven,
        Err(error) => SealProof::Disproven(format!("{error}{doubt}")),
    })
}

fn limits(step: &Step<'_>, cluster: &OpenBaoCluster) -> Limits {
    let resources = cluster.spec.pod.resources.as_ref();
    let memory = resources.and_then(|resources| resources.limits.as_ref()?.get("memory"));
    let name = cluster.name_any();
    let claims = step.call.ad.caches.claims_of(&cluster.namespace().unwrap_or_default(), &name);
    let asked = validate::bytes(&cluster.spec.storage.size);
    Limits {
        memory: memory.and_then(|quantity| validate::bytes(&quantity.0)),
        // The servers' /tmp is an emptyDir without a limit of its own.
        tmp: None,
        volume: room::smallest(&name, step.all_servers(cluster), claims.iter().map(AsRef::as_ref)).or(asked),
        volume_asked: asked,
    }
}
