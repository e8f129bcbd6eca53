//! What must hold of a store whatever happened before: no object without a manifest, no manifest without a good object,
//! nothing half deleted, nothing staged, nothing foreign.

use std::collections::BTreeMap;

use futures::TryStreamExt;
use openbao_operator::adapter::objectstore::{ObjectKind, Store, keys};
use openbao_operator::datapath::archive::{self, Limits};

/// Reads every object under a cluster's prefix and judges all of them. Returns the keys of the backups, oldest first.
///
/// Panics with everything that is wrong.
pub async fn sound(store: &Store, prefix: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut found: BTreeMap<String, Vec<ObjectKind>> = BTreeMap::new();
    for object in store.list(prefix).await.expect("the store lists").objects {
        match keys::parse(prefix, &object.key) {
            Some((name, kind)) => found.entry(name.key).or_default().push(kind),
            None => wrong.push(format!("{} is nothing of ours", object.key)),
        }
    }
    for (key, kinds) in &found {
        if kinds.contains(&ObjectKind::Deleting) {
            wrong.push(format!("{key} is half deleted: {kinds:?}"));
        } else if let Err(why) = good(store, key).await {
            wrong.push(format!("{key} ({kinds:?}): {why}"));
        }
    }
    wrong.extend(staged(store, prefix));
    assert!(wrong.is_empty(), "the store is not as it must be:\n{}", wrong.join("\n"));
    found.into_keys().collect()
}

/// The object has a manifest, and is byte for byte the whole archive that its manifest tells of.
async fn good(store: &Store, key: &str) -> Result<(), String> {
    let manifest = store.manifest(key).await.map_err(|error| error.to_string())?.ok_or("there is no manifest")?;
    let size = store.head(key).await.map_err(|error| error.to_string())?.ok_or("there is no object")?;
    let chunks: Vec<_> = store.stream(key, size).try_collect().await.map_err(|error| error.to_string())?;
    let verified = archive::read(chunks.concat().as_slice(), Limits::default()).map_err(|error| error.to_string())?;
    let seen = (verified.inspection.sha256, verified.inspection.size_bytes, verified.inspection.keys_per_mount);
    let said = (manifest.sha256, manifest.size_bytes, manifest.contents.keys_per_mount);
    if seen == said { Ok(()) } else { Err(format!("the manifest says {said:?}, the object is {seen:?}")) }
}

/// Files of a folder store that no list shows.
fn staged(store: &Store, prefix: &str) -> Vec<String> {
    let Some(root) = store.target().file.as_ref().map(|file| file.root.clone()) else { return Vec::new() };
    let entries = std::fs::read_dir(format!("{root}/{prefix}")).into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter(|name| name.contains('#')).map(|name| format!("{name} is staged and forgotten")).collect()
}
