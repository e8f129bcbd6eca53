//! The Job of a restore test. Pure: what a mover's Job would be, and the server's container beside it.
//!
//! The first container is a mover: it has the store's credentials, and fetches. The second is the server: it has the seal and a
//! token for the login, and nothing of the store. Neither may ask the API server anything. They share one disposable volume.

use k8s_openapi::api::{
    batch::v1::Job,
    core::v1::{Container, EnvVar, EphemeralVolumeSource, PersistentVolumeClaimTemplate, PodSpec, Volume, VolumeMount},
};

use super::super::jobs::{self, FETCH, Mover, escaped};
use super::manager::settings;
use crate::api::{BackupSpec, RestoreTestSpec, TestNetwork};
use crate::datapath::environment as env;
use crate::datapath::rehearsal::fetch::PROGRAM;
use crate::service::cluster::build::{
    rehearsal,
    statefulset::{CONTAINER, claim_of},
};
use crate::service::cluster::config::{DATA_DIR, server};
use crate::service::cluster::names;
use crate::service::cluster::validate::ValidatedCluster;

/// Below the server's data: one volume for both.
const FOLDER: &str = "/openbao/data/restore-test";
/// What of a mover's pod is the server's: the ways to log in.
const LOGIN_VOLUMES: [&str; 2] = ["openbao", "token"];
const LOGIN_VARIABLES: [&str; 5] = [env::JWT_MOUNT, env::JWT_ROLE, env::JWT_FILE, env::AUDIENCE, env::TOKEN_FILE];
const SHARED_VARIABLES: [&str; 2] = [env::DEADLINE, env::MAX_EXPANDED];

/// What a test is made from.
#[derive(Clone, Debug)]
pub struct Test<'a> {
    pub cluster: &'a ValidatedCluster,
    pub spec: &'a BackupSpec,
    /// The image that the cluster's servers run.
    pub image: &'a str,
}

/// Builds it on what `mover`, whose task is a restore test, would be alone.
pub fn job(mover: &Mover<'_>, test: &Test<'_>) -> Result<Job, serde_json::Error> {
    let mut job = jobs::job(mover)?;
    if let Some(pod) = job.spec.as_mut().and_then(|spec| spec.template.spec.as_mut()) {
        pair(pod, test)?;
    }
    Ok(job)
}

fn pair(pod: &mut PodSpec, test: &Test<'_>) -> Result<(), serde_json::Error> {
    let settings = settings(test.spec);
    let pieces = rehearsal::pieces(test.cluster);
    let Some(mut fetch) = pod.containers.pop() else { return Ok(()) };
    FETCH.clone_into(&mut fetch.name);
    let (mine, logins): (Vec<VolumeMount>, Vec<VolumeMount>) = fetch
        .volume_mounts
        .take()
        .unwrap_or_default()
        .into_iter()
        .partition(|mount| !is_one(&LOGIN_VOLUMES, &mount.name));
    let (mine_too, login_variables): (Vec<EnvVar>, Vec<EnvVar>) = fetch
        .env
        .take()
        .unwrap_or_default()
        .into_iter()
        .partition(|variable| !is_one(&LOGIN_VARIABLES, &variable.name));
    let shared: Vec<EnvVar> =
        mine_too.iter().filter(|variable| is_one(&SHARED_VARIABLES, &variable.name)).cloned().collect();
    let data = VolumeMount { name: names::DATA_VOLUME.into(), mount_path: DATA_DIR.into(), ..VolumeMount::default() };
    let folder = plain(env::REHEARSAL, FOLDER);
    fetch.volume_mounts = Some([mine, vec![data.clone()]].concat());
    fetch.env = Some([mine_too, vec![folder.clone()]].concat());
    pod.init_containers = Some(vec![fetch]);
    pod.containers = vec![Container {
        name: CONTAINER.into(),
        image: Some(test.image.to_owned()),
        image_pull_policy: Some("IfNotPresent".to_owned()),
        command: Some(vec![format!("{FOLDER}/{PROGRAM}"), "rehearse".to_owned()]),
        env: Some([pieces.env, login_variables, shared, vec![folder], orders(test, &settings)?].concat()),
        env_from: pieces.env_from,
        resources: settings.resources.clone().or_else(|| test.cluster.spec.pod.resources.clone()),
        security_context: Some(pieces.security),
        volume_mounts: Some([vec![data], pieces.mounts, logins].concat()),
        ..Container::default()
    }];
    let volumes = pod.volumes.take().unwrap_or_default();
    pod.volumes = Some([volumes, pieces.volumes, vec![disposable(test.cluster, &settings)]].concat());
    // One user for both: what the first writes the second reads.
    pod.security_context = Some(pieces.pod_security);
    let place = &test.cluster.spec.pod;
    pod.node_selector = (!place.node_selector.is_empty()).then(|| place.node_selector.clone());
    pod.tolerations = (!place.tolerations.is_empty()).then(|| place.tolerations.clone());
    Ok(())
}

fn is_one(names: &[&str], name: &str) -> bool {
    names.contains(&name)
}

/// What the server's container is told.
fn orders(test: &Test<'_>, settings: &RestoreTestSpec) -> Result<Vec<EnvVar>, serde_json::Error> {
    let isolated = settings.network == TestNetwork::Isolated;
    Ok(vec![
        plain(env::SERVER_CONFIG, &server::rehearsal(test.cluster)),
        plain(env::SERVER_ADDRESS, &format!("127.0.0.1:{}", names::API_PORT)),
        plain(env::ISOLATED, &isolated.to_string()),
        plain(env::CANARIES, &serde_json::to_string(&settings.canaries)?),
    ])
}

fn plain(name: &str, value: &str) -> EnvVar {
    EnvVar { name: name.to_owned(), value: Some(escaped(value)), value_from: None }
}

/// A volume that Kubernetes makes with the pod, and removes with it.
fn disposable(cluster: &ValidatedCluster, settings: &RestoreTestSpec) -> Volume {
    let wanted = settings.storage.clone().unwrap_or_default();
    let storage = &cluster.spec.storage;
    let size = wanted.size.unwrap_or_else(|| storage.size.clone());
    Volume {
        name: names::DATA_VOLUME.into(),
        ephemeral: Some(EphemeralVolumeSource {
            volume_claim_template: Some(PersistentVolumeClaimTemplate {
                metadata: None,
                spec: claim_of(size, wanted.storage_class_name.or_else(|| storage.storage_class_name.clone())),
            }),
        }),
        ..Volume::default()
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::PersistentVolumeClaimSpec;
    use serde_json::json;

    use super::super::super::jobs::tests::operation;
    use super::super::super::jobs::{Login, Source, Task};
    use super::super::super::store::Store;
    use super::*;
    use crate::api::BackupSpec;
    use crate::service::cluster::validate::tests::valid;

    fn build(spec: serde_json::Value, token: Option<&str>) -> PodSpec {
        let cluster = valid(|_| {});
        let spec: BackupSpec = serde_json::from_value(spec).unwrap();
        let store = Store::freeze(&spec.target).unwrap();
        let operation = operation("kelp-restoretest-1795316400");
        let login = Login {
            mount: "jwt".into(),
            role: "tester".into(),
            audience: "openbao:reef/kelp".into(),
            ca_config_map: None,
            token_secret: token.map(str::to_owned),
        };
        let source = Source::Latest;
        let mover = Mover {
            operation: &operation,
            name: "kelp-restoretest-1795316400-test",
            task: Task::RestoreTest { source: &source, login: &login },
            store: &store,
            image: "own:1",
            image_pull_secrets: &[],
            service_account: "kelp-backup",
            max_expanded: None,
            deadline: "2026-11-21T03:30:00Z".parse().unwrap(),
            now: "2026-11-21T03:00:00Z".parse().unwrap(),
        };
        let test = Test { cluster: &cluster, spec: &spec, image: "bao:2.7.2" };
        job(&mover, &test).unwrap().spec.unwrap().template.spec.unwrap()
    }

    fn bucket() -> serde_json::Value {
        json!({"target": {"endpoint": "https://tide:9000", "bucket": "shells", "credentialsSecretRef": {"name": "pearl"}}})
    }

    fn mounts(container: &Container) -> Vec<&str> {
        container.volume_mounts.iter().flatten().map(|mount| mount.name.as_str()).collect()
    }

    fn value<'a>(container: &'a Container, name: &str) -> Option<&'a str> {
        container.env.iter().flatten().find(|variable| variable.name == name)?.value.as_deref()
    }

    #[test]
    fn who_reaches_the_store_has_no_seal_and_who_has_the_seal_reaches_no_store() {
        let pod = build(bucket(), None);
        let (fetch, server) = (&pod.init_containers.as_ref().unwrap()[0], &pod.containers[0]);
        assert_eq!((fetch.name.as_str(), server.name.as_str()), ("fetch", "openbao"));
        assert_eq!(mounts(fetch), ["credentials", "data"]);
        assert_eq!(mounts(server), ["data", "tmp", "unseal", "openbao"]);
        assert_eq!(value(server, env::TARGET), None);
        assert_eq!((value(fetch, env::JWT_ROLE), value(server, env::JWT_ROLE)), (None, Some("tester")));
        assert_eq!(value(fetch, env::CONFIG_MAP), None, "neither of them asks the API server");
        assert!(pod.volumes.unwrap().iter().all(|volume| volume.name != "kubernetes"));
        assert_eq!(pod.automount_service_account_token, Some(false));
    }

    #[test]
    fn the_server_is_isolated_unless_the_spec_opens_the_network() {
        let mut spec = bucket();
        let isolated = |spec: &serde_json::Value| {
            value(&build(spec.clone(), None).containers[0], env::ISOLATED).unwrap().to_owned()
        };
        assert_eq!(isolated(&spec), "true");
        spec["restoreTest"] = json!({"network": "Open"});
        assert_eq!(isolated(&spec), "false");
    }

    #[test]
    fn the_volume_is_as_large_as_a_members_unless_told_otherwise_and_goes_with_the_pod() {
        let claim = |spec: serde_json::Value| {
            let volumes = build(spec, None).volumes.unwrap();
            let data = volumes.into_iter().find(|volume| volume.name == "data").unwrap();
            data.ephemeral.unwrap().volume_claim_template.unwrap().spec
        };
        let size =
            |claim: &PersistentVolumeClaimSpec| claim.resources.clone().unwrap().requests.unwrap()["storage"].0.clone();
        let cluster = valid(|_| {});
        assert_eq!(size(&claim(bucket())), cluster.spec.storage.size);
        let mut spec = bucket();
        spec["restoreTest"] =
            json!({"storage": {"size": "7Gi", "storageClassName": "slow"}, "canaries": ["secret/data/a$(b)"]});
        let named = claim(spec.clone());
        assert_eq!((size(&named).as_str(), named.storage_class_name.as_deref()), ("7Gi", Some("slow")));
        let pod = build(spec, Some("mine"));
        assert_eq!(value(&pod.containers[0], env::CANARIES), Some(r#"["secret/data/a$$(b)"]"#));
        assert_eq!(value(&pod.containers[0], env::TOKEN_FILE), Some("/etc/openbao/token/token"));
        assert_eq!(mounts(&pod.containers[0]), ["data", "tmp", "unseal", "token"]);
    }
}
