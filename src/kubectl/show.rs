//! The commands that only read.

use chrono::TimeDelta;
use kube::ResourceExt;

use super::args::Ops;
use super::connection::{Connection, List};
use super::view::operation::{ALL_PHASES, Filter, phase_named};
use super::view::{
    backups as backup_view, cluster as cluster_view, operation as operation_view, restore as restore_view,
};
use super::{Error, here, say};
use crate::api::{OpenBaoCluster, OpenBaoOperation, OpenBaoRestore};

pub async fn status(connection: &Connection, cluster: Option<String>, all: bool) -> Result<(), Error> {
    let (now, paint) = here();
    let Some(name) = cluster else {
        let clusters: Vec<OpenBaoCluster> = connection.list(all).await?;
        if let Some(text) = connection.encode(&List::from(clusters.as_slice()))? {
            return say(&text);
        }
        if clusters.is_empty() {
            eprintln!("no OpenBao cluster in {}", place(connection, all));
            return Ok(());
        }
        return say(&cluster_view::list(&clusters, all, now, paint));
    };
    let cluster: OpenBaoCluster = connection.get(&name).await?;
    if let Some(text) = connection.encode(&cluster)? {
        return say(&text);
    }
    let mut operations: Vec<OpenBaoOperation> = connection.list(false).await?;
    operations.retain(|operation| operation.spec.cluster == name);
    let mut restores: Vec<OpenBaoRestore> = connection.list(false).await?;
    restores.retain(|restore| restore.spec.cluster == name);
    say(&cluster_view::screen(&cluster, &operations, &restores, now, paint))
}

fn place(connection: &Connection, all: bool) -> String {
    if all { "any namespace".to_owned() } else { format!("namespace {}", connection.namespace()) }
}

pub async fn operations(connection: &Connection, filter: Ops) -> Result<(), Error> {
    let (now, paint) = here();
    let Ops { cluster, name, status, since, limit, all_namespaces } = filter;
    let phase = match status {
        None => None,
        Some(word) => {
            let all = || ALL_PHASES.map(crate::api::OperationPhase::as_str).join(", ");
            Some(phase_named(&word).ok_or_else(|| Error::Phase(word, all()))?)
        }
    };
    // Longer ago than a calendar reaches is no limit at all.
    let since = since.and_then(|since| now.checked_sub_signed(TimeDelta::from_std(since).ok()?));
    let filter = Filter { cluster, name, phase, since, limit };
    let operations = filter.apply(connection.list(all_namespaces).await?);
    match connection.encode(&List::from(operations.as_slice()))? {
        Some(text) => say(&text),
        None if operations.is_empty() => {
            eprintln!("no such operation in {}", place(connection, all_namespaces));
            Ok(())
        }
        None => say(&operation_view::list(&operations, all_namespaces, now, paint)),
    }
}

/// An operation; or a restore, which people know by the name they gave it.
pub async fn operation(connection: &Connection, name: &str) -> Result<(), Error> {
    let (now, paint) = here();
    if let Some(operation) = connection.find::<OpenBaoOperation>(name).await? {
        return match connection.encode(&operation)? {
            Some(text) => say(&text),
            None => say(&operation_view::tree(&operation, now, paint)),
        };
    }
    let Some(restore) = connection.find::<OpenBaoRestore>(name).await? else {
        return Err(Error::Missing("openbaooperation", name.to_owned(), connection.namespace().to_owned()));
    };
    if let Some(text) = connection.encode(&restore)? {
        return say(&text);
    }
    say(&restore_view::describe(&restore, now, paint))?;
    let operation = restore.status.as_ref().and_then(|status| status.operation.clone());
    match operation {
        None => Ok(()),
        Some(operation) => match connection.find::<OpenBaoOperation>(&operation).await? {
            None => Ok(()),
            Some(operation) => say(&format!("\n{}", operation_view::tree(&operation, now, paint))),
        },
    }
}

pub async fn backups(connection: &Connection, cluster: &str) -> Result<(), Error> {
    let (now, paint) = here();
    let object: OpenBaoCluster = connection.get(cluster).await?;
    let mut operations: Vec<OpenBaoOperation> = connection.list(false).await?;
    operations.retain(|operation| operation.spec.cluster == cluster);
    let mut restores: Vec<OpenBaoRestore> = connection.list(false).await?;
    restores.retain(|restore| restore.spec.cluster == cluster);
    let backups = backup_view::records(operations.clone());
    if let Some(text) = connection.encode(&List::from(backups.as_slice()))? {
        return say(&text);
    }
    if backups.is_empty() {
        eprintln!(
            "no finished backup of {cluster} is on record; take one with: kubectl openbao{} backup {cluster} --wait",
            connection.words()
        );
        return Ok(());
    }
    say(&backup_view::list(&object, &operations, &restores, now, paint))
}

/// A backup by its operation's name or by its object key.
pub async fn inspect(connection: &Connection, backup: &str) -> Result<(), Error> {
    let (now, paint) = here();
    let backups = backup_view::records(connection.list(false).await?);
    let found = backups.iter().find(|one| one.name_any() == backup || backup_view::key(one) == Some(backup));
    let Some(found) = found else {
        return Err(Error::Missing("record of backup", backup.to_owned(), connection.namespace().to_owned()));
    };
    match connection.encode(found)? {
        Some(text) => say(&text),
        None => say(&operation_view::tree(found, now, paint)),
    }
}
