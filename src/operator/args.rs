//! What the operator can be told, as flags or in the environment.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use clap::{ArgAction, Parser};

use crate::adapter::settings::{Scope, Settings};
use crate::telemetry::logs::LogFormat;

/// Runs OpenBao clusters on Kubernetes: backups that are verified, restores that are proven, upgrades that can stop.
#[derive(Debug, Parser)]
// The chart sets most flags itself; what `extraArgs` adds behind them wins.
#[command(name = "openbao-operator", version, args_override_self = true)]
pub struct Args {
    /// Namespaces to watch, separated by commas; without it, all of them
    #[arg(long, env = "OPENBAO_WATCH_NAMESPACES", value_delimiter = ',', value_name = "NAMESPACE")]
    watch_namespaces: Vec<String>,

    /// The namespace that the operator itself runs in
    #[arg(long, env = "POD_NAMESPACE", default_value = "openbao-operator-system", value_name = "NAMESPACE")]
    operator_namespace: String,

    /// Labels of the operator's own pods, as KEY=VALUE separated by commas: network policies let in whoever carries all of them in
    /// the operator's namespace. Without any, everybody there
    #[arg(
        long,
        env = "OPENBAO_OPERATOR_POD_LABELS",
        value_delimiter = ',',
        value_parser = label,
        value_name = "KEY=VALUE"
    )]
    operator_pod_labels: Vec<(String, String)>,

    /// This replica's pod, for the lease and for events
    #[arg(long, env = "POD_NAME", default_value = "openbao-operator", value_name = "NAME")]
    pod_name: String,

    /// The service account that the operator runs as: the only one it asks tokens for
    #[arg(long, env = "OPENBAO_OPERATOR_SERVICE_ACCOUNT", default_value = "openbao-operator", value_name = "NAME")]
    service_account: String,

    /// The image of backup and restore Jobs: the operator's own
    #[arg(long, env = "OPENBAO_OPERATOR_IMAGE", default_value = concat!("ghcr.io/openbao-operator/openbao-operator:", env!("CARGO_PKG_VERSION")), value_name = "IMAGE")]
    operator_image: String,

    /// Where OpenBao's images come from when a cluster names none; its version becomes the tag
    #[arg(
        long,
        env = "OPENBAO_IMAGE_REPOSITORY",
        default_value = "docker.io/openbao/openbao",
        value_name = "REPOSITORY"
    )]
    openbao_image_repository: String,

    /// The delay between background retries, such as `90s` or `2m`
    #[arg(
        long,
        env = "OPENBAO_REQUEUE_STANDARD",
        default_value = "1m",
        value_parser = positive_duration,
        value_name = "DURATION"
    )]
    requeue_standard: Duration,

    /// Let only one of several replicas act. Switch it off only where there can never be a second one
    #[arg(long, env = "OPENBAO_LEADER_ELECT", default_value_t = true, action = ArgAction::Set, value_name = "BOOL")]
    leader_elect: bool,

    /// The Lease that replicas compete for, in the operator's namespace
    #[arg(long, env = "OPENBAO_LEASE_NAME", default_value = "openbao-operator", value_name = "NAME")]
    lease_name: String,

    /// Where /healthz, /readyz and /metrics are served. [::] is every address, of IPv4 too, and 0.0.0.0 where IPv6 is off
    #[arg(long, env = "OPENBAO_LISTEN", default_value = "[::]:8080", value_name = "ADDRESS")]
    listen: SocketAddr,

    /// How log lines look; `RUST_LOG` filters them
    #[arg(long, env = "OPENBAO_LOG_FORMAT", value_enum, default_value_t = LogFormat::Json)]
    log_format: LogFormat,
}

/// The same, sorted by who needs it.
#[derive(Debug)]
pub struct Plan {
    pub log_format: LogFormat,
    pub listen: SocketAddr,
    /// `None` when this process is alone by arrangement.
    pub election: Option<Election>,
    /// One set of controllers each.
    pub settings: Vec<Settings>,
}

#[derive(Debug)]
pub struct Election {
    pub namespace: String,
    pub lease: String,
    pub pod: String,
}

impl Args {
    /// Uses every flag: one that nothing reads does not compile.
    pub fn plan(self) -> Plan {
        let Self {
            watch_namespaces,
            operator_namespace,
            operator_pod_labels,
            pod_name,
            service_account,
            operator_image,
            openbao_image_repository,
            requeue_standard,
            leader_elect,
            lease_name,
            listen,
            log_format,
        } = self;
        let operator_pod_labels: BTreeMap<String, String> = operator_pod_labels.into_iter().collect();
        let settings = scopes(&watch_namespaces)
            .into_iter()
            .map(|scope| Settings {
                operator_namespace: operator_namespace.clone(),
                operator_pod_labels: operator_pod_labels.clone(),
                operator_service_account: service_account.clone(),
                instance: pod_name.clone(),
                operator_image: operator_image.clone(),
                openbao_image_repository: openbao_image_repository.clone(),
                scope,
                requeue_standard,
            })
            .collect();
        let election =
            leader_elect.then_some(Election { namespace: operator_namespace, lease: lease_name, pod: pod_name });
        Plan { log_format, listen, election, settings }
    }
}

/// Every namespace once, in order; nothing named means everything.
fn scopes(namespaces: &[String]) -> Vec<Scope> {
    let mut names: Vec<String> = namespaces.iter().map(|name| name.trim().to_owned()).collect();
    names.retain(|name| !name.is_empty());
    names.sort();
    names.dedup();
    if names.is_empty() { vec![Scope::All] } else { names.into_iter().map(Scope::Namespace).collect() }
}

fn label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(format!("{text:?} is no label: write KEY=VALUE, such as app.kubernetes.io/component=operator")),
    }
}

fn positive_duration(text: &str) -> Result<Duration, String> {
    let duration = crate::api::duration::parse(text).map_err(|error| error.to_string())?;
    if duration.is_zero() {
        return Err(format!("{text:?} would retry without a pause: write a duration above zero, such as 90s"));
    }
    Ok(duration)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &[&str]) -> Result<Plan, clap::Error> {
        let all = std::iter::once("openbao-operator").chain(arguments.iter().copied());
        Args::try_parse_from(all).map(Args::plan)
    }

    #[test]
    fn the_command_line_is_well_formed() {
        use clap::CommandFactory;
        Args::command().debug_assert();
    }

    #[test]
    fn without_arguments_everything_is_watched_and_a_leader_elected() {
        let plan = parse(&[]).unwrap();
        assert_eq!(plan.settings.len(), 1);
        assert_eq!(plan.settings[0].scope, Scope::All);
        assert_eq!(plan.settings[0].requeue_standard, Duration::from_secs(60));
        assert!(plan.election.is_some());
    }

    #[test]
    fn a_list_of_namespaces_becomes_one_scope_each_without_doubles() {
        let plan = parse(&["--watch-namespaces", "team-b, team-a,,team-b"]).unwrap();
        let scopes: Vec<_> = plan.settings.into_iter().map(|settings| settings.scope).collect();
        assert_eq!(scopes, [Scope::Namespace("team-a".to_owned()), Scope::Namespace("team-b".to_owned())]);
    }

    #[test]
    fn a_requeue_delay_that_cannot_work_is_refused_at_start() {
        for bad in ["0s", "-5s", "soon", "", "5"] {
            let error = parse(&[&format!("--requeue-standard={bad}")]).unwrap_err().to_string();
            assert!(error.contains("90s"), "the message shows a good value: {error}");
        }
        assert_eq!(parse(&["--requeue-standard=2m"]).unwrap().settings[0].requeue_standard, Duration::from_secs(120));
    }

    #[test]
    fn a_flag_that_is_given_again_replaces_the_first() {
        let plan = parse(&["--requeue-standard=1m", "--log-format=json", "--requeue-standard=2m"]).unwrap();
        assert_eq!(plan.settings[0].requeue_standard, Duration::from_secs(120));
    }

    #[test]
    fn probes_are_answered_whichever_family_the_pod_has() {
        let listen = parse(&[]).unwrap().listen;
        assert!(listen.is_ipv6() && listen.ip().is_unspecified(), "{listen}");
    }

    #[test]
    fn the_operators_pods_are_known_by_the_labels_that_it_was_told() {
        let labels = |arguments: &[&str]| parse(arguments).unwrap().settings.remove(0).operator_pod_labels;
        assert_eq!(labels(&[]), BTreeMap::new());
        let told =
            labels(&["--operator-pod-labels=app.kubernetes.io/instance=tide,app.kubernetes.io/component=operator"]);
        let expected = [("app.kubernetes.io/component", "operator"), ("app.kubernetes.io/instance", "tide")];
        assert_eq!(told, expected.map(|(key, value)| (key.to_owned(), value.to_owned())).into());
        for bad in ["operator", "=operator", "a=b,c"] {
            let error = parse(&[&format!("--operator-pod-labels={bad}")]).unwrap_err().to_string();
            assert!(error.contains("KEY=VALUE, such as"), "{error}");
        }
    }

    #[test]
    fn unknown_flags_are_refused() {
        assert!(parse(&["--leader-elects"]).is_err());
    }

    #[test]
    fn the_election_can_be_switched_off() {
        assert!(parse(&["--leader-elect=false"]).unwrap().election.is_none());
    }
}
