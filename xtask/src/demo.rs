//! `cargo xtask demo`: the whole promise in one run, told step by step, with a proof at the end. The exit status is the
//! proof's: digests of every secret before the loss and after the restore are equal, or it fails.

mod openbao;
mod stage;

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use sha2::{Digest, Sha256};

use self::openbao::Client;
use self::stage::Stage;
use crate::devcluster::{Devcluster, parts};
use crate::stores::{self, Identity};
use crate::{install, machine, oci, report, report::say};

/// How many secrets are written, lost and brought back.
const SECRETS: usize = 50;
/// What is told of a cluster without a status. It comes within a second where an operator watches the namespace.
const UNSEEN: &str =
    "waiting for the first status; if none comes, no operator watches this namespace (its watchNamespaces)";
const CLUSTER: &str = include_str!("../demo/cluster.yaml");
const BACKUP: &str = include_str!("../demo/backup.yaml");
const REHEARSAL: &str = include_str!("../demo/rehearsal.yaml");
const RESTORE: &str = include_str!("../demo/restore.yaml");
/// For three servers on two cores, with the image still being imported.
const CLUSTER_READY: Duration = Duration::from_mins(6);
const BACKUP_DONE: Duration = Duration::from_mins(6);
const RESTORE_DONE: Duration = Duration::from_mins(12);

/// Where the demo runs.
#[derive(Debug, Clone, Default)]
pub struct Place {
    /// A context of the user's own kubeconfig instead of the devcluster.
    pub context: Option<String>,
    /// Where the operator's image is there.
    pub registry: Option<String>,
    /// Leave everything up.
    pub keep: bool,
    /// A folder with the operator's programs, built already.
    pub programs: Option<PathBuf>,
}

pub fn run(cluster: &Devcluster, place: &Place) -> Result<()> {
    let start = Instant::now();
    let mut story = Story { count: 0, made: false };
    let scene = match play(cluster, place, &mut story) {
        Ok(scene) => scene,
        // What went wrong is there to be looked at.
        Err(error) => {
            if story.made {
                say(format!("\nThe demo failed; what it made is left in namespace {}.", stage::NAMESPACE));
            }
            return Err(error);
        }
    };
    if place.keep {
        next(&scene, start);
        return Ok(());
    }
    scene.stage.clear()?;
    if place.context.is_none() && !scene.found_up {
        cluster.down()?;
    }
    say(format!("\nAll of it took {}. Next:", report::human(start.elapsed())));
    let here = place.context.as_ref().map_or_else(String::new, |context| format!(" --context {context}"));
    say(format!("  cargo xtask demo{here} --keep     # the same, and leave it up to play with"));
    if here.is_empty() {
        say("  cargo xtask test            # every test there is");
    }
    say("  less docs/README.md         # how it works, and how to install it on your own cluster");
    Ok(())
}

struct Scene {
    stage: Stage,
    found_up: bool,
}

fn next(scene: &Scene, start: Instant) {
    let kubectl = scene.stage.kubectl_words();
    say(format!("\nAll of it took {}, and is still up. Next:", report::human(start.elapsed())));
    say(format!("  {kubectl} get openbao                       # everything of ours in the namespace"));
    say(format!("  {kubectl} describe openbaorestore undo-the-mistake"));
    say(format!("  {kubectl} get openbaooperations -o wide     # the record of every disruptive act"));
    say(format!("  {kubectl} explain openbaocluster.spec       # the manual"));
    if scene.stage.on_devcluster() {
        say("  cargo xtask down                            # leave nothing behind");
    }
}

/// Numbers the steps as they are told.
struct Story {
    count: u32,
    /// The demo's namespace exists.
    made: bool,
}

impl Story {
    fn tell(&mut self, what: &str) {
        self.count += 1;
        say(format!("\n{}. {what}", self.count));
    }
}

fn play(cluster: &Devcluster, place: &Place, story: &mut Story) -> Result<Scene> {
    say("A backup is worth what its restore is worth. This shows one, on a real Kubernetes with real OpenBao servers.");
    let (stage, found_up) = match &place.context {
        None => {
            let found_up = cluster.is_up().unwrap_or(false);
            story.tell("A real Kubernetes, compiled from its sources, on this machine");
            cluster.up()?;
            story.tell("The operator, built from this repository and installed by Helm");
            install::run_quietly(cluster, place.programs.as_deref())?;
            (Stage::devcluster(cluster)?, found_up)
        }
        Some(context) => {
            story.tell(&format!("The operator, installed by Helm into the cluster that context {context} names"));
            if machine::which("kubectl").is_none() {
                parts::build(cluster, &["kubernetes"])?;
            }
            install::into_context(cluster, context, place.registry.as_deref())?;
            (Stage::context(cluster, context)?, true)
        }
    };
    stage.clear()?;

    story.tell("Three OpenBao servers, and an S3 server for their backups");
    stage.make_namespace()?;
    story.made = true;
    let identity =
        Identity { access_key: "demo".into(), secret_key: oci::hex(&Sha256::digest(stage::nonce()))[..32].into() };
    stage.apply(&stores::manifest(&identity))?;
    stage.apply(&format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{name: s3-credentials}}\n\
         stringData: {{accessKeyId: {}, secretAccessKey: \"{}\"}}\n",
        identity.access_key, identity.secret_key
    ))?;
    stage.apply(CLUSTER)?;
    stage.make_bucket("backups")?;
    stage.watch("openbaocluster/demo", CLUSTER_READY, |object| {
        let available = object["status"]["conditions"]
            .as_array()
            .and_then(|all| all.iter().find(|condition| condition["type"] == "Available").cloned())
            .unwrap_or_default();
        let word = available["message"].as_str().unwrap_or(UNSEEN).to_owned();
        let ready = object["status"]["readyReplicas"].as_i64().unwrap_or(0) == 3;
        Ok((available["status"] == "True" && ready).then_some(()).ok_or(word))
    })?;
    say(stage.kubectl(&["get", "pods", "-l", "app.kubernetes.io/instance=demo"])?.trim_end());

    story.tell(&format!("{SECRETS} secrets, written by a service account that logs in with its own token"));
    let client = Client::log_in(&stage)?;
    let seed = oci::hex(&Sha256::digest(stage::nonce()));
    for number in 0..SECRETS {
        let value = oci::hex(&Sha256::digest(format!("{seed}-{number}")));
        client.write(&name(number), &value)?;
    }
    let before = client.read_all()?;
    ensure!(before.len() == SECRETS, "{} secrets were written, but {} can be read", SECRETS, before.len());
    say(format!("   {} secrets, digest {}", before.len(), short(&digest(&before))));

    story.tell("A backup: streamed from the leader, verified on the way, stored with its manifest");
    stage.apply(BACKUP)?;
    let backup = stage.watch("openbaooperation/before-the-mistake", BACKUP_DONE, |object| {
        ended(object, "Succeeded", &["Failed", "ConstraintFailed", "Cancelled", "Unknown", "RolledBack"])
    })?;
    let artifacts = &backup["status"]["artifacts"];
    say(format!("   {}", artifacts["key"].as_str().unwrap_or("(no key)")));
    say(format!("   {} bytes, sha256 {}", artifacts["sizeBytes"], artifacts["sha256"].as_str().unwrap_or("?")));

    story.tell("A rehearsal, before anybody needs it: the backup in a server of its own, which can reach nobody");
    stage.apply(REHEARSAL)?;
    let tested = stage.watch("openbaooperation/does-it-come-back", BACKUP_DONE, |object| {
        ended(object, "Succeeded", &["Failed", "ConstraintFailed", "Cancelled", "Unknown", "RolledBack"])
    })?;
    let found = &tested["status"]["steps"][0]["output"];
    let counted = |what: &str| found[what].as_str().unwrap_or("?").to_owned();
    say(format!(
        "   it came back: {} keys in {} mounts, unsealed and led after {} ms",
        counted("keys"),
        counted("mounts"),
        counted("restoreMs")
    ));

    story.tell("A mistake: somebody removes the whole engine, and every secret with it");
    client.remove_engine()?;
    let lost = client.read_all()?;
    ensure!(lost.is_empty(), "the secrets should be gone, but {} can still be read", lost.len());
    say("   every secret answers 404");

    story.tell("The restore: verified first, sent to the leader once, then proven");
    let restoring = Instant::now();
    stage.apply(RESTORE)?;
    let restore = stage.watch("openbaorestore/undo-the-mistake", RESTORE_DONE, |object| {
        ended(object, "Completed", &["Failed", "Unknown"])
    })?;
    let took = restoring.elapsed();
    if let Some(text) = restore["status"]["proof"]["text"].as_str() {
        say(format!("   the operator's proof: {text}"));
    }

    story.tell("The proof: every secret, read again");
    // A token of before the restore may be gone with the data it was kept in.
    let after = Client::log_in(&stage)?.read_all()?;
    prove(&before, &lost, &after, took)?;
    Ok(Scene { stage, found_up })
}

/// Ends when the phase is `good`; a phase in `bad` fails with the object's own message.
fn ended(object: &serde_json::Value, good: &str, bad: &[&str]) -> Result<Result<(), String>> {
    let phase = object["status"]["phase"].as_str().unwrap_or("Pending");
    let message = object["status"]["message"].as_str().unwrap_or_default();
    if bad.contains(&phase) {
        bail!("{} ended as {phase}: {message}", object["metadata"]["name"]);
    }
    Ok(if phase == good { Ok(()) } else { Err(format!("{phase}: {message}")) })
}

/// The table, and the verdict.
fn prove(before: &Secrets, lost: &Secrets, after: &Secrets, took: Duration) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "\n   {:22} {:>8}  sha256 of names and values", "", "secrets")?;
    for (when, secrets) in [("before the backup", before), ("after the mistake", lost), ("after the restore", after)] {
        writeln!(out, "   {when:22} {:>8}  {}", secrets.len(), digest(secrets))?;
    }
    let same = before.iter().filter(|(name, value)| after.get(*name) == Some(*value)).count();
    writeln!(
        out,
        "   {same} of {} secrets came back as they were, {} after the restore was asked for",
        before.len(),
        report::human(took)
    )?;
    out.flush()?;
    ensure!(digest(before) == digest(after), "what was restored is not what was backed up");
    ensure!(digest(before) != digest(lost), "nothing was lost, so nothing was proven");
    writeln!(out, "   PROVEN")?;
    Ok(())
}

type Secrets = BTreeMap<String, String>;

fn name(number: usize) -> String {
    format!("team-{}/password-{number}", number % 5)
}

/// Of names and values, in order, each with its length, so that no two sets look alike.
fn digest(secrets: &Secrets) -> String {
    let mut hash = Sha256::new();
    for (name, value) in secrets {
        for text in [name, value] {
            hash.update(text.len().to_be_bytes());
            hash.update(text);
        }
    }
    oci::hex(&hash.finalize())
}

fn short(digest: &str) -> &str {
    &digest[..16]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secrets(pairs: &[(&str, &str)]) -> Secrets {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn the_proof_fails_unless_everything_came_back_as_it_was() {
        let before = secrets(&[("a", "1"), ("b", "2")]);
        let none = secrets(&[]);
        assert!(prove(&before, &none, &before, Duration::ZERO).is_ok());
        assert!(prove(&before, &none, &secrets(&[("a", "1")]), Duration::ZERO).is_err(), "one is missing");
        assert!(prove(&before, &none, &secrets(&[("a", "1"), ("b", "3")]), Duration::ZERO).is_err(), "one differs");
        assert!(prove(&before, &before, &before, Duration::ZERO).is_err(), "nothing was lost");
    }

    #[test]
    fn digests_tell_a_name_from_a_value() {
        assert_ne!(digest(&secrets(&[("ab", "c")])), digest(&secrets(&[("a", "bc")])));
    }

    #[test]
    fn a_bad_end_stops_the_demo_with_the_objects_own_message() {
        let object =
            serde_json::json!({"metadata": {"name": "x"}, "status": {"phase": "Failed", "message": "no bucket"}});
        let error = ended(&object, "Completed", &["Failed"]).unwrap_err().to_string();
        assert!(error.contains("no bucket"), "{error}");
    }
}
