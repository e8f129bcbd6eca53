//! Processes that the tests of this folder start: this very program, told by its environment to be one of them.

use std::{
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

use openbao_operator::{
    adapter::{
        Adapters,
        caches::Caches,
        kubernetes::events::Events,
        leadership::Leadership,
        settings::{Scope, Settings},
    },
    controller::operation,
    service::opslifecycle::saga::faults::Faults,
};
use tokio_util::sync::CancellationToken;

use crate::harness::{Cluster, Namespace};

/// What a child is to be: `driver` or `claimant`.
pub const ROLE: &str = "OPSLIFECYCLE_CHILD";
/// The namespace it works in.
pub const NAMESPACE: &str = "OPSLIFECYCLE_NAMESPACE";
/// The faults of a driver; the number and the rounds of a claimant.
pub const ARGUMENT: &str = "OPSLIFECYCLE_ARGUMENT";

/// This program once more, as a child in `role`; its output goes to `log`.
pub fn command(namespace: &Namespace, role: &str, argument: &str, log: &Path) -> Command {
    let out = std::fs::OpenOptions::new().create(true).append(true).open(log).expect("the child's log");
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command.args(["--exact", "opslifecycle::child::a_process_of_its_own", "--ignored", "--nocapture"]);
    command.env(ROLE, role).env(NAMESPACE, namespace.name()).env(ARGUMENT, argument);
    command.stdin(Stdio::null()).stdout(out.try_clone().expect("its log")).stderr(out);
    command
}

/// Not a test: what the children of the other tests do.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "started by the tests of this folder"]
async fn a_process_of_its_own() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let namespace = std::env::var(NAMESPACE).expect("a namespace");
    let argument = std::env::var(ARGUMENT).unwrap_or_default();
    match role.as_str() {
        "driver" => drive(&namespace, &argument).await,
        "claimant" => super::lock::claim(&namespace, &argument).await,
        other => panic!("no such role: {other}"),
    }
}

/// Runs the operations of a namespace, and nothing else of the operator, until it is killed.
async fn drive(namespace: &str, faults: &str) {
    tracing_subscriber::fmt().json().flatten_event(true).with_writer(std::io::stdout).init();
    let client = Cluster::get().await.client();
    let scope = Scope::Namespace(namespace.to_owned());
    let stop = CancellationToken::new();
    let caches = Caches::start(&client, &scope, |_, _| {}, &stop);
    caches.filled(&client, &scope, Duration::from_secs(60)).await.expect("the caches fill");
    let settings = Settings {
        operator_namespace: namespace.to_owned(),
        operator_pod_labels: std::collections::BTreeMap::new(),
        operator_service_account: "none".into(),
        instance: format!("child-{}", std::process::id()),
        operator_image: "none".into(),
        openbao_image_repository: "none".into(),
        scope,
        requeue_standard: Duration::from_secs(5),
    };
    let events = Events::new(client.clone(), settings.instance.clone());
    let ad = Adapters { client, settings, events, caches, leadership: Leadership::always() };
    let faults = Faults::parse(faults).expect("faults");
    operation::run_with(Arc::new(ad), vec![], faults, stop).await;
}
