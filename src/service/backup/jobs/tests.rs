use insta::assert_yaml_snapshot;
use serde_json::json;

use super::*;

pub(crate) fn operation(name: &str) -> Operation {
    Operation {
        name: name.into(),
        uid: "0f0f0f0f-1111".into(),
        namespace: "reef".into(),
        cluster: "kelp".into(),
        cluster_uid: "c1c1".into(),
        intent: "before the $(HOLIDAYS)".into(),
        role: String::new(),
        actor: "ops@example.org".into(),
        owner: OwnerReference {
            api_version: "openbao.org/v1alpha1".into(),
            kind: "OpenBaoOperation".into(),
            name: name.into(),
            uid: "0f0f0f0f-1111".into(),
            controller: Some(true),
            ..OwnerReference::default()
        },
    }
}

fn login() -> Login {
    Login {
        mount: "jwt".into(),
        role: "openbao-operator-backup".into(),
        audience: "openbao:reef/kelp".into(),
        ca_config_map: Some("kelp-ca".into()),
        token_secret: None,
    }
}

fn store(spec: serde_json::Value) -> Store {
    Store::freeze(&serde_json::from_value(spec).unwrap()).unwrap()
}

fn bucket() -> Store {
    store(json!({"endpoint": "https://tide:9000", "bucket": "shells", "credentialsSecretRef": {"name": "pearl"}}))
}

fn claim() -> Store {
    store(json!({"provider": "file", "file": {"claimName": "sand", "path": "deep"}}))
}

fn peers() -> Vec<Peer> {
    vec![Peer {
        pod: "kelp-0".into(),
        pod_uid: "p0".into(),
        address: "10.0.0.7:8200".into(),
        tls_name: "kelp-0.kelp.reef.svc".into(),
    }]
}

fn build(task: Task<'_>, store: &Store) -> Job {
    let operation = operation("kelp-backup-1795316400");
    let name = job_name(&operation.name, task.word());
    job(&Mover {
        operation: &operation,
        name: &name,
        task,
        store,
        image: "registry.example/openbao-operator:1.0.0",
        image_pull_secrets: &[],
        service_account: "kelp-backup",
        max_expanded: Some(1 << 40),
        deadline: "2026-11-21T03:30:00Z".parse().unwrap(),
        now: "2026-11-21T03:00:00Z".parse().unwrap(),
    })
    .unwrap()
}

fn backup(store: &Store) -> Job {
    let (login, peers) = (login(), peers());
    let task = Task::Backup {
        spool_limit: Some(3 << 30),
        key: "reef/kelp/2026-11-21T03-00-00Z-0f0f0f0f.snap",
        login: &login,
        peers: &peers,
        expected_size: Some(525_000_000),
        key_fingerprint: Some("abcd"),
    };
    build(task, store)
}

#[test]
fn a_backup_job_to_a_bucket_looks_like_this() {
    assert_yaml_snapshot!(backup(&bucket()));
}

#[test]
fn a_prune_job_on_a_claim_looks_like_this() {
    let retention = Retention { keep_last: Some(7), keep_within: Some("72h".into()), ..Retention::default() };
    let protected = BTreeMap::from([("reef/kelp/a.snap".to_owned(), "the last verified".to_owned())]);
    let orders =
        Orders { retention: Some(&retention), protected, clean: vec!["reef/kelp/b.snap".into()], ..Orders::default() };
    assert_yaml_snapshot!(build(Task::Prune(orders), &claim()));
}

#[test]
fn a_job_that_only_cleans_is_told_what_must_stay_too() {
    let told = |protected: &[&str]| {
        let protected = protected.iter().map(|key| ((*key).to_owned(), "a restore reads it".to_owned())).collect();
        let orders = Orders { clean: vec!["reef/kelp/b.snap".into()], protected, ..Orders::default() };
        let job = build(Task::Prune(orders), &claim());
        let env = job.spec.unwrap().template.spec.unwrap().containers.remove(0).env.unwrap();
        env.into_iter().find(|variable| variable.name == env::PROTECTED).and_then(|variable| variable.value)
    };
    assert_eq!(told(&["reef/kelp/a.snap"]).as_deref(), Some(r#"{"reef/kelp/a.snap":"a restore reads it"}"#));
    assert_eq!(told(&[]), None);
}

#[test]
fn orders_that_no_program_could_be_started_with_are_told_from_those_that_fit() {
    let orders = |count: usize| {
        let key = |n| format!("reef/kelp/{n:0>1000}.snap");
        let protected = (0..count).map(|n| (key(n), "a restore in another namespace reads it".to_owned())).collect();
        Orders { protected, ..Orders::default() }
    };
    assert_eq!(orders(100).excess(), None);
    let why = orders(150).excess().unwrap();
    assert!(why.contains("150 backups") && why.contains("delete restores"), "{why}");
}

#[test]
fn a_restore_job_looks_like_this() {
    let login = Login { token_secret: Some("user-token".into()), ..login() };
    let (peers, waive) = (peers(), ["OtherSeal".to_owned()]);
    let task = Task::Restore { source: &Source::Latest, login: &login, peers: &peers, waive: &waive, submit: true };
    let role = store(json!({"bucket": "shells", "roleArn": "arn:aws:iam::1:role/x"}));
    assert_yaml_snapshot!(build(task, &role));
}

#[test]
fn mover_objects_are_limited_to_one_name() {
    let operation = operation("kelp-backup-1795316400");
    let role = mover_role(&operation);
    let rules = role.rules.unwrap();
    assert_eq!(rules.len(), 1);
    assert_eq!(rules[0].resource_names.as_deref(), Some(&["kelp-backup-1795316400-mover".to_owned()][..]));
    let binding = mover_binding(&operation, "kelp-backup");
    assert_eq!(binding.role_ref.name, mover_config_map(&operation).metadata.name.unwrap());
    assert_eq!(binding.subjects.unwrap()[0].name, "kelp-backup");
}

#[test]
fn names_are_deterministic_and_long_ones_stay_distinct() {
    assert_eq!(job_name("kelp-backup-1", "snapshot"), "kelp-backup-1-snapshot");
    assert_eq!(attempt_name("kelp-backup-1", "snapshot", 1), "kelp-backup-1-snapshot");
    assert_eq!(attempt_name("kelp-backup-1", "snapshot", 3), "kelp-backup-1-snapshot-3");
    let long = "k".repeat(70);
    let (a, b) = (job_name(&format!("{long}a"), "snapshot"), job_name(&format!("{long}b"), "snapshot"));
    assert!(a.len() <= 63 && a.ends_with("-snapshot"), "{a}");
    assert_ne!(a, b);
    assert_eq!(a, job_name(&format!("{long}a"), "snapshot"));
}

#[test]
fn a_job_holds_no_more_than_it_needs() {
    let names = |job: &Job| -> Vec<String> {
        let spec = job.spec.as_ref().unwrap().template.spec.as_ref().unwrap();
        assert_eq!(spec.automount_service_account_token, Some(false));
        spec.volumes.as_ref().unwrap().iter().map(|volume| volume.name.clone()).collect()
    };
    assert_eq!(names(&backup(&bucket())), ["kubernetes", "scratch", "openbao", "ca", "credentials"]);
    assert_eq!(names(&backup(&claim())), ["kubernetes", "scratch", "openbao", "ca", "store"]);
    // A backup has one way to log in. A restore's named token may be valid in the snapshot only.
    let named = Login { token_secret: Some("user-token".into()), ..login() };
    let task = Task::Restore { source: &Source::Latest, login: &named, peers: &[], waive: &[], submit: true };
    assert_eq!(names(&build(task, &claim())), ["kubernetes", "scratch", "openbao", "token", "ca", "store"]);
    // Verification and retention never speak to OpenBao, so they get no token for it.
    assert_eq!(names(&build(Task::Verify { source: &Source::Latest }, &bucket())), ["kubernetes", "credentials"]);
}

#[test]
fn a_users_pod_label_cannot_make_a_job_look_like_a_server() {
    let mut store = bucket();
    store.pod_labels.insert(names::COMPONENT_LABEL.into(), names::SERVER_COMPONENT.into());
    store.pod_labels.insert("azure.workload.identity/use".into(), "true".into());
    let labels = backup(&store).spec.unwrap().template.metadata.unwrap().labels.unwrap();
    assert_eq!(labels[names::COMPONENT_LABEL], "backup");
    assert_eq!(labels["azure.workload.identity/use"], "true");
}

#[test]
fn the_pods_of_every_job_are_those_that_the_network_policy_of_jobs_selects() {
    let named = Source::Key("reef/kelp/a.snap".into());
    let login = login();
    let restore = Task::Restore { source: &named, login: &login, peers: &[], waive: &[], submit: true };
    let others = [
        Task::Inspect { source: &named },
        Task::List,
        Task::Prune(Orders::default()),
        restore,
        Task::RestoreTest { source: &named, login: &login },
        Task::Verify { source: &named },
    ];
    let jobs = std::iter::once(backup(&bucket())).chain(others.into_iter().map(|task| build(task, &bucket())));
    let words: Vec<String> = jobs
        .map(|job| job.spec.unwrap().template.metadata.unwrap().labels.unwrap().remove(names::COMPONENT_LABEL).unwrap())
        .collect();
    assert_eq!(words, names::MOVER_COMPONENTS);
}

#[test]
fn the_mover_is_told_to_end_before_it_is_killed() {
    let job = backup(&bucket());
    let spec = job.spec.unwrap();
    assert_eq!(spec.active_deadline_seconds, Some(1800));
    let env = spec.template.spec.unwrap().containers.remove(0).env.unwrap();
    let deadline = env.iter().find(|variable| variable.name == env::DEADLINE).unwrap();
    assert_eq!(deadline.value.as_deref(), Some("2026-11-21T03:29:40Z"));
}

#[test]
fn a_job_tells_which_backup_it_reads_from_end_to_end() {
    let named = Source::Key("$(deep)/reef/kelp/a.snap".into());
    let read = |task: Task<'_>| key_read(&build(task, &bucket()));
    assert_eq!(read(Task::Verify { source: &named }).as_deref(), Some("$(deep)/reef/kelp/a.snap"));
    let login = login();
    let test = Task::RestoreTest { source: &named, login: &login };
    assert_eq!(read(test).as_deref(), Some("$(deep)/reef/kelp/a.snap"));
    assert_eq!(read(Task::Verify { source: &Source::Latest }), None);
    assert_eq!(read(Task::Inspect { source: &named }), None);
    assert_eq!(key_read(&backup(&bucket())), None, "it writes one");
}

#[test]
fn an_archive_may_be_as_large_as_the_clusters_volumes_make_it() {
    let most = |size: &str| {
        let spec = json!({"version": "2.7.2", "storage": {"size": size}});
        max_expanded(&OpenBaoCluster::new("kelp", serde_json::from_value(spec).unwrap()))
    };
    assert_eq!((most("10Gi"), most("16Gi")), (None, None), "the mover's own bound is not lowered");
    assert_eq!(most("100Gi"), Some(400 << 30));
    let told = |task: Task<'_>| {
        let job = build(task, &bucket());
        let env = job.spec.unwrap().template.spec.unwrap().containers.remove(0).env.unwrap();
        env.into_iter().find(|variable| variable.name == env::MAX_EXPANDED).and_then(|variable| variable.value)
    };
    assert_eq!(told(Task::Verify { source: &Source::Latest }).as_deref(), Some("1099511627776"));
    assert_eq!(told(Task::List), None);
}
