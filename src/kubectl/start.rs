//! The commands that ask for something new: a backup, a restore, the test of one.

use chrono::{DateTime, Utc};
use kube::api::ObjectMeta;

use super::args::{Restore, Wait, Waive};
use super::connection::Connection;
use super::follow::{Ended, follow};
use super::view::{backups, operation as operation_view, restore as restore_view};
use super::{Error, confirm, here, say};
use crate::api::{
    Actor, ActorSource, OpenBaoCluster, OpenBaoOperation, OpenBaoOperationSpec, OpenBaoRestore, OpenBaoRestoreSpec,
    OperationKind, RestoreSource, Waiver,
};
use crate::service::backup::request::{KEY, SAFETY, role};

pub async fn backup(
    connection: &Connection,
    cluster: &str,
    intent: Option<String>,
    wait: &Wait,
) -> Result<Ended, Error> {
    let asked = OpenBaoOperationSpec { operation: OperationKind::Backup, intent, ..OpenBaoOperationSpec::default() };
    operation(connection, cluster, "backup", asked, wait).await
}

pub async fn restore_test(
    connection: &Connection,
    cluster: &str,
    key: Option<String>,
    intent: Option<String>,
    wait: &Wait,
) -> Result<Ended, Error> {
    operation(connection, cluster, "restoretest", test_of(key, intent), wait).await
}

/// A test of the backup with this key, or of the newest one.
fn test_of(key: Option<String>, intent: Option<String>) -> OpenBaoOperationSpec {
    OpenBaoOperationSpec {
        operation: OperationKind::RestoreTest,
        intent,
        parameters: key.map(|key| (KEY.to_owned(), key)).into_iter().collect(),
        ..OpenBaoOperationSpec::default()
    }
}

/// Creates the operation that was `asked` for, with its cluster and who asked, and follows it.
async fn operation(
    connection: &Connection,
    cluster: &str,
    what: &str,
    asked: OpenBaoOperationSpec,
    wait: &Wait,
) -> Result<Ended, Error> {
    let (now, paint) = here();
    // A name that is mistyped should not become a record that waits for ever.
    let _: OpenBaoCluster = connection.get(cluster).await?;
    let name = named(cluster, what, now);
    let spec = OpenBaoOperationSpec {
        cluster: cluster.to_owned(),
        actor: Some(Actor { identity: connection.user().to_owned(), source: ActorSource::Kubectl }),
        ..asked
    };
    let metadata = ObjectMeta { name: Some(name.clone()), ..ObjectMeta::default() };
    let created = connection.create(&OpenBaoOperation { metadata, spec, status: None }, false).await?;
    if let Some(text) = connection.encode(&created)?.filter(|_| !wait.wait) {
        say(&text)?;
        return Ok(Ended::NotAwaited);
    }
    eprintln!("openbaooperation {name} created");
    if !wait.wait {
        eprintln!("follow it with: kubectl openbao{} op {name}", connection.words());
    }
    let (ended, object) = follow(connection, created, wait).await?;
    if wait.wait {
        match connection.encode(&object)? {
            Some(text) => say(&text)?,
            None => say(&operation_view::tree(&object, Utc::now(), paint))?,
        }
    }
    Ok(ended)
}

pub async fn restore(connection: &Connection, asked: Restore) -> Result<Ended, Error> {
    let (now, paint) = here();
    let Restore {
        cluster,
        key,
        latest,
        before,
        name,
        force,
        override_operation_lock,
        waive,
        pre_restore_backup,
        dry_run,
        yes,
        wait,
    } = asked;
    // A name that is mistyped should not become a record that waits.
    let _: OpenBaoCluster = connection.get(&cluster).await?;
    let mut operations: Vec<OpenBaoOperation> = connection.list(false).await?;
    operations.retain(|operation| operation.spec.cluster == cluster);
    let records = backups::records(operations);
    let source = RestoreSource { target: None, key, latest, before };
    let record = chosen(&records, &source);
    let described = describe(&source, record);
    if !dry_run && !yes {
        eprint!("{}", restore_view::facts(&cluster, &described, record, now, paint));
        confirm("Go on?")?;
    }
    let name = name.unwrap_or_else(|| named(&cluster, "restore", now));
    let waive = waive
        .into_iter()
        .map(|one| match one {
            Waive::MissingManifest => Waiver::MissingManifest,
            Waive::OtherSeal => Waiver::OtherSeal,
        })
        .collect();
    let spec = OpenBaoRestoreSpec {
        cluster,
        source,
        force,
        override_operation_lock,
        waive,
        pre_restore_backup,
        dry_run,
        ..OpenBaoRestoreSpec::default()
    };
    let metadata = ObjectMeta { name: Some(name.clone()), ..ObjectMeta::default() };
    let created = connection.create(&OpenBaoRestore { metadata, spec, status: None }, false).await?;
    if let Some(text) = connection.encode(&created)?.filter(|_| !wait.wait) {
        say(&text)?;
        return Ok(Ended::NotAwaited);
    }
    let what = if dry_run { " (dry run: nothing will be changed)" } else { "" };
    eprintln!("openbaorestore {name} created{what}");
    if !wait.wait {
        eprintln!("follow it with: kubectl openbao{} op {name}", connection.words());
    }
    let (ended, object) = follow(connection, created, &wait).await?;
    if wait.wait {
        match connection.encode(&object)? {
            Some(text) => say(&text)?,
            None => say(&restore_view::describe(&object, Utc::now(), paint))?,
        }
    }
    Ok(ended)
}

/// The record of the snapshot that the operator is going to choose, as far as records tell.
fn chosen<'a>(records: &'a [OpenBaoOperation], source: &RestoreSource) -> Option<&'a OpenBaoOperation> {
    match (&source.key, source.before) {
        (Some(key), _) => records.iter().find(|record| backups::key(record) == Some(key)),
        (None, Some(before)) => records.iter().find(|record| backups::taken(record).is_some_and(|at| at < before)),
        // A safety backup is the latest only where there is no other: the operator chooses like that.
        (None, None) => records.iter().find(|record| role(record) != Some(SAFETY)).or_else(|| records.first()),
    }
}

fn describe(source: &RestoreSource, record: Option<&OpenBaoOperation>) -> String {
    let known = record.and_then(backups::key).map(|key| format!(": {key}")).unwrap_or_default();
    match (&source.key, source.before) {
        (Some(key), _) => key.clone(),
        (None, Some(before)) => format!("the newest before {}{known}", before.to_rfc3339()),
        (None, None) => format!("the newest{known}"),
    }
}

/// Unique for a person: nobody asks twice within a second. The name is short enough for what is derived from it.
fn named(cluster: &str, what: &str, now: DateTime<Utc>) -> String {
    let short: String = cluster.chars().take(43_usize.saturating_sub(what.len())).collect();
    format!("{}-{what}-{}", short.trim_end_matches('-'), now.format("%Y%m%d-%H%M%S"))
}

#[cfg(test)]
mod tests {
    use kube::ResourceExt;

    use super::*;

    fn record(name: &str, day: u8) -> OpenBaoOperation {
        serde_saphyr::from_str(&format!(
            "metadata: {{name: {name}}}\nspec: {{cluster: fern, operation: Backup}}\n\
             status: {{phase: Succeeded, startedAt: '2026-11-{day}T03:00:00Z', artifacts: {{key: {name}.snap}}}}"
        ))
        .unwrap()
    }

    #[test]
    fn the_facts_shown_are_those_of_the_snapshot_that_will_be_taken() {
        let records = [record("c", 20), record("b", 19), record("a", 18)];
        let pick = |source: RestoreSource| chosen(&records, &source).map(ResourceExt::name_any);
        assert_eq!(pick(RestoreSource { latest: true, ..RestoreSource::default() }).as_deref(), Some("c"));
        let key = Some("a.snap".to_owned());
        assert_eq!(pick(RestoreSource { key, ..RestoreSource::default() }).as_deref(), Some("a"));
        let before = Some("2026-11-20T00:00:00Z".parse().unwrap());
        assert_eq!(pick(RestoreSource { before, ..RestoreSource::default() }).as_deref(), Some("b"));
        let key = Some("elsewhere.snap".to_owned());
        assert_eq!(pick(RestoreSource { key, ..RestoreSource::default() }), None);
    }

    #[test]
    fn what_a_restore_saved_before_itself_is_not_shown_as_the_latest_while_there_is_another() {
        let mut records = [record("c", 20), record("b", 19)];
        records[0].spec.parameters.insert("role".to_owned(), SAFETY.to_owned());
        let latest = RestoreSource { latest: true, ..RestoreSource::default() };
        assert_eq!(chosen(&records, &latest).map(ResourceExt::name_any).as_deref(), Some("b"));
        assert_eq!(chosen(&records[..1], &latest).map(ResourceExt::name_any).as_deref(), Some("c"));
    }

    #[test]
    fn a_test_names_the_backup_that_was_named_and_else_leaves_the_choice_to_the_operator() {
        let spec = test_of(Some("a/b.snap".to_owned()), Some("audit".to_owned()));
        assert_eq!((spec.operation, spec.intent.as_deref()), (OperationKind::RestoreTest, Some("audit")));
        assert_eq!(spec.parameters.get("key").map(String::as_str), Some("a/b.snap"));
        assert!(test_of(None, None).parameters.is_empty());
    }

    #[test]
    fn a_long_cluster_name_still_gives_a_name_that_jobs_can_extend() {
        let now = "2026-11-21T12:00:00Z".parse().unwrap();
        for what in ["backup", "restore", "restoretest"] {
            let name = named(&"x".repeat(63), what, now);
            assert!(name.len() <= 63, "{name}");
        }
        assert_eq!(named("fern", "backup", now), "fern-backup-20261121-120000");
    }
}
