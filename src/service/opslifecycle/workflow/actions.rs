//! `Wait`, `HTTPGet` and `Annotate`.

use std::{collections::BTreeMap, time::Duration};

use chrono::{DateTime, TimeDelta, Utc};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Api, ResourceExt,
    api::{Patch, PatchParams},
};
use serde_json::json;

use super::super::{
    manager::{StepCall, StepOutcome},
    saga::plan::LONGEST,
};
use crate::{
    adapter::kubernetes::client::timed,
    api::{cluster::OpenBaoCluster, duration},
    causes::chain,
};

/// Up to this much is waited for inside one call, so that short waits are exact; not while others wait for their turn.
const INLINE: Duration = Duration::from_secs(5);
/// How long one request may take.
const HTTP_TIMEOUT: Duration = Duration::from_secs(5);
/// Annotations of workflows live under this prefix and nowhere else: others mean something to us.
const ANNOTATION_PREFIX: &str = "workflow.openbao.org/";

type Config = BTreeMap<String, String>;

fn required<'a>(config: &'a Config, key: &str) -> Result<&'a str, String> {
    config
        .get(key)
        .map(String::as_str)
        .filter(|value| !value.is_empty())
        .ok_or_else(|| format!("config.{key} is missing"))
}

/// How long to wait; like a step's own times never longer than [`LONGEST`].
pub(super) fn wait_config(config: &Config) -> Result<Duration, String> {
    let wait = duration::parse(required(config, "duration")?).map_err(|error| format!("config.duration: {error}"))?;
    if wait > LONGEST {
        return Err(format!("config.duration is longer than {}", duration::format(LONGEST)));
    }
    Ok(wait)
}

/// When a wait that began `from` is over. A start that somebody else wrote into the journal may lie near the end of all time:
/// then there is no such moment, and a plain addition would end the process.
fn wait_until(from: DateTime<Utc>, wait: Duration) -> Option<DateTime<Utc>> {
    from.checked_add_signed(TimeDelta::from_std(wait).ok()?)
}

pub(super) async fn wait(call: StepCall<'_>) -> StepOutcome {
    let duration = match wait_config(&call.step.config) {
        Ok(duration) => duration,
        Err(problem) => return StepOutcome::fatal("InvalidPlan", problem),
    };
    let Some(until) = wait_until(call.state.started_at.unwrap_or(call.now), duration) else {
        return StepOutcome::fatal("InvalidPlan", format!("step {} would wait for ever", call.step.name));
    };
    let left = (until - call.now).to_std().unwrap_or_default();
    if left.is_zero() || left <= INLINE && !call.turns.are_awaited() {
        tokio::time::sleep(left).await;
        return StepOutcome::done();
    }
    StepOutcome::in_progress(format!("waiting until {until}"))
}

/// The path, and the answers that are fine.
pub(super) fn http_config(config: &Config) -> Result<(String, Vec<u16>), String> {
    let path = required(config, "path")?;
    let plain = path.starts_with('/') && !path.starts_with("//") && path.bytes().all(|byte| byte.is_ascii_graphic());
    if !plain || path.contains(['@', '\\', '#']) {
        return Err("config.path must be a path of the cluster's own service, such as /v1/sys/health".into());
    }
    let status = config.get("status").map_or("200", String::as_str);
    let codes: Result<Vec<u16>, _> = status.split(',').map(|code| code.trim().parse::<u16>()).collect();
    let codes = codes.map_err(|_| format!("config.status {status:?} is no list of HTTP codes such as 200,429"))?;
    Ok((path.to_owned(), codes))
}

pub(super) async fn http_get(call: StepCall<'_>) -> StepOutcome {
    let (path, codes) = match http_config(&call.step.config) {
        Ok(config) => config,
        Err(problem) => return StepOutcome::fatal("InvalidPlan", problem),
    };
    let Some(cluster) = call.cluster else {
        return StepOutcome::fatal("ClusterGone", "the cluster does not exist any more");
    };
    match get(call, cluster, &path).await {
        Ok(code) if codes.contains(&code) => StepOutcome::done_with([("status", code.to_string())]),
        Ok(code) => StepOutcome::retryable("UnexpectedAnswer", format!("{path} answered {code}, not one of {codes:?}")),
        Err(problem) => StepOutcome::retryable("NoAnswer", problem),
    }
}

/// Asks the cluster's public service over its own certificate authority. The name is built here, never taken from a step.
async fn get(call: StepCall<'_>, cluster: &OpenBaoCluster, path: &str) -> Result<u16, String> {
    let (name, namespace) = (cluster.name_any(), cluster.namespace().unwrap_or_default());
    let maps: Api<ConfigMap> = Api::namespaced(call.ad.client.clone(), &namespace);
    let map = timed(maps.get_opt(&format!("{name}-ca")))
        .await
        .map_err(|error| format!("failed to read ConfigMap {name}-ca: {error}"))?;
    let bundle = map.and_then(|map| map.data?.remove("ca.crt")).unwrap_or_default();
    let scheme = if cluster.spec.tls.enabled { "https" } else { "http" };
    let certificates = reqwest::Certificate::from_pem_bundle(bundle.as_bytes())
        .map_err(|error| format!("ConfigMap {name}-ca holds no certificates: {error}"))?;
    let client = reqwest::Client::builder()
        .tls_certs_only(certificates)
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .timeout(HTTP_TIMEOUT)
        .pool_max_idle_per_host(0)
        .build()
        .map_err(|error| format!("no HTTP client: {error}"))?;
    let url = format!("{scheme}://{name}-public.{namespace}.svc:8200{path}");
    let answer = client.get(&url).send().await.map_err(|error| format!("{url}: {}", chain(&error)))?;
    Ok(answer.status().as_u16())
}

/// The key, and the value that it gets; none takes it away.
pub(super) fn annotate_config(config: &Config) -> Result<(String, Option<String>), String> {
    let key = required(config, "key")?;
    let name = key.strip_prefix(ANNOTATION_PREFIX).unwrap_or_default();
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let edges = |c: char| c.is_ascii_alphanumeric();
    if name.is_empty()
        || name.len() > 63
        || !name.chars().all(plain)
        || !name.starts_with(edges)
        || !name.ends_with(edges)
    {
        return Err(format!("config.key must be {ANNOTATION_PREFIX} and a name of letters, digits and dashes"));
    }
    Ok((key.to_owned(), config.get("value").filter(|value| !value.is_empty()).cloned()))
}

pub(super) async fn annotate(call: StepCall<'_>) -> StepOutcome {
    let (key, value) = match annotate_config(&call.step.config) {
        Ok(config) => config,
        Err(problem) => return StepOutcome::fatal("InvalidPlan", problem),
    };
    let Some(cluster) = call.cluster else {
        return StepOutcome::fatal("ClusterGone", "the cluster does not exist any more");
    };
    let namespace = cluster.namespace().unwrap_or_default();
    let clusters: Api<OpenBaoCluster> = Api::namespaced(call.ad.client.clone(), &namespace);
    let patch = json!({"metadata": {"uid": cluster.uid(), "annotations": {key: value}}});
    match timed(clusters.patch_metadata(&cluster.name_any(), &PatchParams::default(), &Patch::Merge(&patch))).await {
        Ok(_) => StepOutcome::done(),
        Err(error) => {
            StepOutcome::retryable("Annotate", format!("failed to annotate cluster {}: {error}", cluster.name_any()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_wait_is_so_long_that_its_end_cannot_be_told() {
        let config = |duration: String| Config::from([("duration".to_owned(), duration)]);
        assert_eq!(wait_config(&config("30d".into())), Ok(LONGEST));
        let problem = wait_config(&config("30d1s".into())).unwrap_err();
        assert!(problem.contains("longer than 30d"), "{problem}");
        // Each part of it can be counted, and so can their sum.
        assert!(wait_config(&config("213503d".repeat(450))).is_err());
        assert_eq!(wait_until(DateTime::<Utc>::MAX_UTC, LONGEST), None);
    }
}
