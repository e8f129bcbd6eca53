//! Plugins of the spec: what is mounted with them answers, from the first start on and after each restart, and one that is not what it
//! should be stops at the first server.

use std::sync::{Mutex, PoisonError};

use serde_json::{Value, json};
use xtask::plugins::{self, FILE, Loaded, PORT, VERSION};

use super::audit::restarted;
use super::certificates::{all_restarted, uids};
use super::{PATIENCE, available, bao, change, login, manifest, must_hold, put, says, settled, uid};
use crate::harness::{Cluster, Namespace, Operator, eventually};

/// Made once, by whichever test comes first.
static LOADED: Mutex<Option<Loaded>> = Mutex::new(None);

async fn loaded(cluster: &Cluster) -> Loaded {
    let devcluster = cluster.devcluster().clone();
    let load = move || {
        let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
        let load = || plugins::load(&devcluster).unwrap_or_else(|error| panic!("the plugin's images: {error:#}"));
        loaded.get_or_insert_with(load).clone()
    };
    tokio::task::spawn_blocking(load).await.expect("the images are made")
}

/// A plugin that answers with `word`, from where `from` says.
fn plugin(loaded: &Loaded, from: (&str, &str), word: &str) -> Value {
    let mut plugin = json!({"type": "secret", "name": "word", "version": VERSION, "binaryName": FILE,
        "sha256sum": loaded.sum, "args": ["-reef"], "env": [format!("WORD={word}")]});
    plugin[from.0] = json!(from.1);
    plugin
}

/// A cluster that mounts the plugin when it sets itself up.
fn mounts(image: &str, plugin: &Value, extra: &str) -> String {
    let kv = "secretEngine: {type: kv}}\n";
    let word = "    - {name: word, operation: update, path: sys/mounts/word, secretEngine: {type: word}}\n";
    let text = manifest("kelp", &format!("  plugins: [{plugin}]\n{extra}"));
    assert!(text.contains(kv), "{text}");
    text.replace(kv, &format!("{kv}{word}")).replace("docker.io/openbao/openbao:2.7.2", image)
}

/// Waits until the plugin answers with this word, and returns the file that runs.
async fn answers(namespace: &Namespace, token: &str, word: &str) -> String {
    eventually(&format!("the plugin says {word}"), PATIENCE, async || {
        let answer = bao(namespace, "kelp", token, &["GET", "word/word"]).await?;
        let answer: Value = serde_json::from_str(&answer).map_err(|error| error.to_string())?;
        let data = &answer["data"];
        let is_it = data["word"] == word && data["args"] == json!(["-reef"]);
        let command = data["command"].as_str().filter(|_| is_it);
        command.map(str::to_owned).ok_or_else(|| answer.to_string())
    })
    .await
}

#[tokio::test]
async fn a_plugin_in_the_servers_image_answers_from_the_first_start_on_and_is_what_the_spec_says_after_a_change() {
    let cluster = Cluster::get().await;
    let loaded = loaded(&cluster).await;
    let namespace = cluster.namespace("cluster-plugin-file").await;
    let _operator = Operator::start(&namespace, &[]).await;
    let with = |word: &str| plugin(&loaded, ("command", FILE), word);
    namespace.apply(&mounts(&loaded.server, &with("kelp"), "  replicas: 1\n")).await;
    available(&namespace, "kelp").await;
    let token = login(&namespace, "kelp").await;
    assert_eq!(answers(&namespace, &token, "kelp").await, format!("/openbao/plugins/{FILE}"));

    let pod = uid(&namespace, "kelp-0").await;
    change(&namespace, "kelp", json!({"maintenance": {"restartAt": "now"}})).await;
    restarted(&namespace, &pod).await;
    answers(&namespace, &token, "kelp").await;

    let pod = uid(&namespace, "kelp-0").await;
    change(&namespace, "kelp", json!({"plugins": [with("moss")]})).await;
    restarted(&namespace, &pod).await;
    answers(&namespace, &token, "moss").await;

    // Beside it one with an image of its own, for which OpenBao has no second folder.
    let pod = uid(&namespace, "kelp-0").await;
    let mut other = plugin(&loaded, ("image", "example.org/reef"), "reef");
    other["name"] = json!("reef");
    change(&namespace, "kelp", json!({"plugins": [with("moss"), other]})).await;
    says(&namespace, "kelp", "Valid", "False", "spec.plugins[word]").await;
    assert_eq!(uid(&namespace, "kelp-0").await, pod, "it would not lead again");
    answers(&namespace, &token, "moss").await;
}

#[tokio::test]
async fn a_plugin_from_a_registry_is_fetched_once_and_a_server_that_starts_again_needs_no_registry() {
    let cluster = Cluster::get().await;
    let loaded = loaded(&cluster).await;
    let namespace = cluster.namespace("cluster-plugin-image").await;
    namespace.apply(&plugins::manifest(&loaded)).await;
    namespace.kubectl(&["rollout", "status", "deployment/registry", "--timeout=120s"]).await;
    let _operator = Operator::start(&namespace, &[]).await;
    // Without TLS OpenBao asks private addresses only, and no names.
    let at = namespace.kubectl(&["get", "service/registry", "-o", "jsonpath={.spec.clusterIP}"]).await;
    let image = format!("{}:{PORT}/{FILE}", at.trim());
    let fetched = plugin(&loaded, ("image", &image), "kelp");
    namespace.apply(&mounts("docker.io/openbao/openbao:2.7.2", &fetched, "  replicas: 1\n")).await;
    available(&namespace, "kelp").await;
    let token = login(&namespace, "kelp").await;
    let file = answers(&namespace, &token, "kelp").await;
    assert!(file.starts_with("/openbao/data/plugins/"), "{file}");

    namespace.kubectl(&["delete", "deployment/registry", "--wait=true"]).await;
    let pod = uid(&namespace, "kelp-0").await;
    change(&namespace, "kelp", json!({"maintenance": {"restartAt": "now"}})).await;
    restarted(&namespace, &pod).await;
    assert_eq!(answers(&namespace, &token, "kelp").await, file);
}

#[tokio::test]
#[ignore = "long: cargo xtask test --soak"]
async fn three_servers_take_up_a_plugin_one_by_one_and_one_that_is_not_what_it_should_be_costs_no_leader() {
    let cluster = Cluster::get().await;
    let loaded = loaded(&cluster).await;
    let namespace = cluster.namespace("cluster-plugin-three").await;
    let _operator = Operator::start(&namespace, &[]).await;
    let with = |word: &str| plugin(&loaded, ("command", FILE), word);
    namespace.apply(&mounts(&loaded.server, &with("kelp"), "")).await;
    settled(&namespace, 1).await;
    let token = login(&namespace, "kelp").await;
    put(&namespace, "kelp", &token, "kept").await;
    answers(&namespace, &token, "kelp").await;
    let before = uids(&namespace).await;
    change(&namespace, "kelp", json!({"plugins": [with("moss")]})).await;
    all_restarted(&namespace, &before).await;
    answers(&namespace, &token, "moss").await;

    let before = uids(&namespace).await;
    let mut another = with("moss");
    another["sha256sum"] = json!("0".repeat(64));
    change(&namespace, "kelp", json!({"plugins": [another]})).await;
    says(&namespace, "kelp", "Degraded", "True", &format!("/openbao/plugins/{FILE}: FAILED")).await;
    answers(&namespace, &token, "moss").await;
    let now = uids(&namespace).await;
    let others = before.iter().zip(&now).filter(|(before, now)| before != now).count();
    assert_eq!(others, 1, "the first that is restarted stops the others: {before:?}, {now:?}");

    change(&namespace, "kelp", json!({"plugins": [with("moss")]})).await;
    settled(&namespace, 1).await;
    must_hold(&namespace, "kelp", &token, "kept").await;
    answers(&namespace, &token, "moss").await;
}
