use super::*;
use crate::adapter::objectstore::target::{FileTarget, Provider};
use crate::adapter::objectstore::{Credentials, Target};
use crate::datapath::stored::tests::manifest;

const PREFIX: &str = "p/ns/c/";

fn key(hour: u32) -> String {
    format!("{PREFIX}2026-11-21T{hour:02}-00-00Z-abcdefgh.snap")
}

async fn filled() -> (tempfile::TempDir, Store) {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().to_string_lossy().into_owned();
    let target = Target { provider: Provider::File, file: Some(FileTarget { root }), ..Target::default() };
    let store = Store::open(&target, &Credentials::default()).unwrap();
    for hour in 1..5 {
        for object in [key(hour), keys::manifest_key(&key(hour))] {
            store.create(&object, Bytes::from_static(b"x")).await.unwrap();
        }
    }
    store.create(&format!("{PREFIX}foreign.txt"), Bytes::from_static(b"x")).await.unwrap();
    (folder, store)
}

async fn left(store: &Store) -> Vec<String> {
    let mut keys: Vec<_> = store.list(PREFIX).await.unwrap().objects.into_iter().map(|object| object.key).collect();
    keys.sort();
    keys
}

fn remove(keys: &[String]) -> Orders {
    Orders { remove: keys.to_vec(), ..Orders::default() }
}

#[tokio::test]
async fn what_is_ordered_goes_and_nothing_else() {
    let (_keep, store) = filled().await;
    let foreign = format!("{PREFIX}foreign.txt");
    let done = run(&store, PREFIX, &remove(&[key(1), key(3), key(9), foreign.clone()])).await.unwrap();
    assert_eq!((done.removed, done.kept.len()), (vec![key(1), key(3)], 1));
    let expected = [key(2), keys::manifest_key(&key(2)), key(4), keys::manifest_key(&key(4)), foreign];
    assert_eq!(left(&store).await, expected);
}

#[tokio::test]
async fn a_pinned_backup_stays() {
    let (_keep, store) = filled().await;
    store.create(&keys::pin_key(&key(1)), Bytes::new()).await.unwrap();
    let done = run(&store, PREFIX, &remove(&[key(1)])).await.unwrap();
    assert_eq!((done.removed.len(), done.kept[0].reason.as_str()), (0, "it is pinned"));
    assert_eq!(left(&store).await.len(), 10);
}

#[tokio::test]
async fn a_dry_run_says_the_same_and_changes_nothing() {
    let (_keep, store) = filled().await;
    let dry = Orders { dry_run: true, ..remove(&[key(1)]) };
    assert_eq!(run(&store, PREFIX, &dry).await.unwrap().removed, [key(1)]);
    assert_eq!(left(&store).await.len(), 9);
}

/// The five steps of a deletion; a crash after each is finished by the next run, whatever that was ordered to do.
#[tokio::test]
async fn a_deletion_cut_off_after_any_step_is_finished_by_the_next_run() {
    for steps in 1..=4 {
        let (_keep, store) = filled().await;
        store.create(&keys::deleting_key(&key(1)), Bytes::new()).await.unwrap();
        let rest = [keys::manifest_key(&key(1)), key(1), keys::pin_key(&key(1))];
        for object in rest.iter().take(steps - 1) {
            store.delete(object).await.unwrap();
        }
        let done = run(&store, PREFIX, &Orders::default()).await.unwrap();
        assert_eq!(done.finished, [key(1)], "after step {steps}");
        assert!(left(&store).await.iter().all(|object| !object.starts_with(&key(1))), "after step {steps}");
    }
}

#[tokio::test]
async fn a_dead_mover_s_object_is_cleaned_and_a_complete_backup_is_not() {
    let (_keep, store) = filled().await;
    store.delete(&keys::manifest_key(&key(2))).await.unwrap();
    let orders = Orders { clean: vec![key(1), key(2), key(8)], ..Orders::default() };
    let done = run(&store, PREFIX, &orders).await.unwrap();
    assert_eq!((done.cleaned, done.kept.len()), (vec![key(2), key(8)], 1));
    assert!(!left(&store).await.contains(&key(2)) && left(&store).await.contains(&key(1)));
}

#[tokio::test]
async fn a_manifest_without_its_object_is_cleaned_or_it_would_be_in_the_way_of_every_next_attempt() {
    let (_keep, store) = filled().await;
    store.delete(&key(2)).await.unwrap();
    let orders = Orders { clean: vec![key(2)], ..Orders::default() };
    let dry = run(&store, PREFIX, &Orders { dry_run: true, ..orders.clone() }).await.unwrap();
    assert_eq!((dry.cleaned, left(&store).await.len()), (vec![key(2)], 8));
    assert_eq!(run(&store, PREFIX, &orders).await.unwrap().cleaned, [key(2)]);
    assert!(!left(&store).await.iter().any(|object| object.starts_with(&key(2))));
}

#[tokio::test]
async fn a_backup_whose_manifest_came_after_the_list_was_made_is_not_cleaned() {
    let (_keep, store) = filled().await;
    assert!(matches!(clean(&store, &key(2), false).await, Ok(Went::Kept(why)) if why.contains("completed")));
    assert_eq!(left(&store).await.len(), 9);
}

#[tokio::test]
async fn one_object_that_cannot_be_removed_holds_up_no_other() {
    let (keep, store) = filled().await;
    // A deletion that was begun, and cannot be finished: the manifest's place is taken by something that is no file.
    store.create(&keys::deleting_key(&key(1)), Bytes::new()).await.unwrap();
    store.delete(&keys::manifest_key(&key(1))).await.unwrap();
    std::fs::create_dir(keep.path().join(keys::manifest_key(&key(1)))).unwrap();
    store.delete(&keys::manifest_key(&key(3))).await.unwrap();
    let orders = Orders { clean: vec![key(3)], ..remove(&[key(2)]) };
    let done = run(&store, PREFIX, &orders).await.unwrap().counted();
    assert_eq!((&done.removed, &done.cleaned), (&vec![key(2)], &vec![key(3)]));
    assert!(done.refused(&key(1)).is_some_and(|why| !why.is_empty()), "{done:?}");
    assert_eq!((done.finished_count, done.failed_count, done.removed_count), (0, 1, 1));
    assert!(!left(&store).await.contains(&key(2)));
}

#[tokio::test]
async fn a_backup_whose_deletion_is_refused_is_one_again_and_is_found() {
    let (_keep, store) = filled().await;
    store.create(&keys::deleting_key(&key(1)), Bytes::new()).await.unwrap();
    let refusal = || StoreError::Permission { target: "s3".into(), key: key(1), detail: "legal hold".into() };
    let all = survey(&store, PREFIX).await.unwrap();
    let refused = unmarked(&store, &key(1), &all[&key(1)], refusal()).await;
    assert!(refused.about(&key(1)).unwrap().reason.contains("legal hold"));
    assert_eq!(survey(&store, PREFIX).await.unwrap()[&key(1)].state(), BackupState::Complete);
    let away = StoreError::Unreachable { target: "s3".into(), key: key(1), detail: "no route".into() };
    assert!(Refused::by(&store)(away).about(&key(1)).is_err(), "the rest would fare the same");
}

/// In the place of a file a folder can be seen, and not removed as a file.
fn keep(folder: &tempfile::TempDir, object: &str) {
    std::fs::create_dir(folder.path().join(object)).unwrap();
}

#[tokio::test]
async fn a_backup_is_removed_although_the_store_keeps_the_mark_of_that_for_a_time() {
    let (folder, store) = filled().await;
    keep(&folder, &keys::deleting_key(&key(1)));
    let Ok(went) = remove_one(&store, 1, false).await else { panic!("refused") };
    assert!(matches!(went, Went::MarkStays));
    assert!(!left(&store).await.iter().any(|object| object.starts_with(&key(1))));
    let done = run(&store, PREFIX, &remove(&[key(2)])).await.unwrap();
    assert_eq!((done.removed, done.failed.len()), (vec![key(2)], 0));
}

async fn remove_one(store: &Store, hour: u32, keeps_marks: bool) -> Result<Went, Refused> {
    let all = survey(store, PREFIX).await.unwrap();
    super::remove(store, &key(hour), &all[&key(hour)], keeps_marks, false).await
}

#[tokio::test]
async fn a_store_that_keeps_a_backup_and_its_mark_hides_no_other_one_and_lets_go_what_it_may() {
    let (folder, store) = filled().await;
    let held = keys::deleting_key(&key(1));
    keep(&folder, &held);
    let refusal = StoreError::Permission { target: "s3".into(), key: key(1), detail: "too young".into() };
    let all = survey(&store, PREFIX).await.unwrap();
    let refused = unmarked(&store, &key(1), &all[&key(1)], refusal).await;
    assert!(refused.keeps_mark && refused.about(&key(1)).is_ok(), "the others have their turn");
    // From now on the manifest goes first: where that is refused the backup stays as it was, and is found.
    store.delete(&keys::manifest_key(&key(3))).await.unwrap();
    keep(&folder, &keys::manifest_key(&key(3)));
    assert!(remove_one(&store, 3, true).await.is_err());
    assert!(!left(&store).await.contains(&keys::deleting_key(&key(3))), "no mark hides it");
    assert!(matches!(remove_one(&store, 2, true).await, Ok(Went::Gone)));
    assert!(!left(&store).await.iter().any(|object| object.starts_with(&key(2))));
}

#[tokio::test]
async fn a_deletion_that_was_begun_is_not_finished_under_somebody_who_relies_on_the_backup() {
    let (_keep, store) = filled().await;
    for hour in [1, 2, 3] {
        store.create(&keys::deleting_key(&key(hour)), Bytes::new()).await.unwrap();
    }
    store.create(&keys::pin_key(&key(2)), Bytes::new()).await.unwrap();
    let protected = BTreeMap::from([(key(1), "restore reef/pearl reads it".to_owned())]);
    let done = run(&store, PREFIX, &Orders { protected, ..Orders::default() }).await.unwrap();
    assert_eq!((done.finished, done.kept.len()), (vec![key(3)], 2));
    let all = survey(&store, PREFIX).await.unwrap();
    assert_eq!((all[&key(1)].state(), all[&key(2)].state()), (BackupState::Complete, BackupState::Complete));
}

/// The first was planned first and waited for a lock until after the second was taken.
#[tokio::test]
async fn the_rules_go_by_when_a_snapshot_was_taken() {
    let (_keep, store) = owned_by([Some("ours"); 4]).await;
    let late = manifest(&key(1), "2026-11-21T09:00:00Z".parse().unwrap(), "ours").to_bytes().unwrap();
    store.delete(&keys::manifest_key(&key(1))).await.unwrap();
    store.create(&keys::manifest_key(&key(1)), late.into()).await.unwrap();
    assert_eq!(removed(&store, "ours").await, [key(2), key(3), key(4)]);
}

fn keep_one(_: &str, candidates: &[Candidate], _: DateTime<Utc>) -> Result<Vec<Ruling>, BadPolicy> {
    let newest = candidates.iter().max_by_key(|candidate| candidate.taken_at).map(|candidate| candidate.key.clone());
    let rule = |candidate: &Candidate| Ruling {
        key: candidate.key.clone(),
        keep: Some(&candidate.key) == newest.as_ref(),
        reason: "the rule".to_owned(),
    };
    Ok(candidates.iter().map(rule).collect())
}

/// Four backups whose manifests name these clusters, oldest first.
async fn owned_by(owners: [Option<&str>; 4]) -> (tempfile::TempDir, Store) {
    let (keep, store) = filled().await;
    for (hour, owner) in (1..5).zip(owners) {
        let at = format!("2026-11-21T{hour:02}:00:00Z").parse().unwrap();
        let Some(owner) = owner else { continue };
        store.delete(&keys::manifest_key(&key(hour))).await.unwrap();
        let manifest = manifest(&key(hour), at, owner).to_bytes().unwrap();
        store.create(&keys::manifest_key(&key(hour)), manifest.into()).await.unwrap();
    }
    (keep, store)
}

fn of_cluster(uid: &str) -> Orders {
    Orders { cluster_uid: uid.to_owned(), ..Orders::default() }
}

async fn removed(store: &Store, cluster_uid: &str) -> Vec<String> {
    let mut orders = of_cluster(cluster_uid);
    let rulings = judge(store, PREFIX, &mut orders, "", &[], keep_one).await.unwrap();
    assert_eq!(rulings.len(), 4, "each has its ruling");
    orders.remove
}

fn newest_first(policy: &str, all: &[Candidate], now: DateTime<Utc>) -> Result<Vec<Ruling>, BadPolicy> {
    let mut rulings = keep_one(policy, all, now)?;
    rulings.reverse();
    Ok(rulings)
}

#[tokio::test]
async fn the_oldest_goes_first_whatever_the_rules_speak_of_first() {
    let (_keep, store) = owned_by([Some("ours"); 4]).await;
    let mut orders = of_cluster("ours");
    judge(&store, PREFIX, &mut orders, "", &[], newest_first).await.unwrap();
    assert_eq!(orders.remove, [key(1), key(2), key(3)]);
}

#[tokio::test]
async fn a_cluster_made_again_under_its_name_removes_nothing_of_the_one_before_it() {
    let (_keep, store) = owned_by([Some("old"), Some("old"), Some("new"), Some("new")]).await;
    assert_eq!(removed(&store, "new").await, [key(3)]);
    assert_eq!(removed(&store, "third").await, [""; 0]);
    assert_eq!(removed(&store, "").await.len(), 3, "a person's own call speaks of all");
}

#[tokio::test]
async fn what_goes_anyway_or_was_left_by_a_failed_operation_takes_the_place_of_no_good_backup() {
    let (_keep, store) = owned_by([Some("ours"); 4]).await;
    for (remove, clean) in [(vec![key(4)], vec![]), (vec![], vec![key(4)])] {
        let mut orders = Orders { remove: remove.clone(), clean, ..of_cluster("ours") };
        judge(&store, PREFIX, &mut orders, "", &[], keep_one).await.unwrap();
        let by_rule = [key(1), key(2)];
        assert_eq!(orders.remove, [remove, by_rule.to_vec()].concat(), "the newest of the others stays");
    }
}

#[tokio::test]
async fn a_deletion_that_a_namesake_cluster_began_is_left_to_it_and_an_own_one_is_finished() {
    let (_keep, store) = owned_by([Some("theirs"), Some("theirs"), Some("ours"), Some("")]).await;
    for hour in 1..5 {
        store.create(&keys::deleting_key(&key(hour)), Bytes::new()).await.unwrap();
    }
    store.delete(&keys::manifest_key(&key(2))).await.unwrap();
    let done = run(&store, PREFIX, &of_cluster("ours")).await.unwrap();
    assert_eq!(done.finished, [key(2), key(3), key(4)], "without a manifest nobody restores it");
    assert_eq!((done.kept.len(), done.kept[0].reason.as_str()), (1, OTHER_CLUSTER));
    let there = left(&store).await;
    let whole = [key(1), keys::deleting_key(&key(1)), keys::manifest_key(&key(1))];
    assert!(whole.iter().all(|object| there.contains(object)), "{there:?}");
    assert_eq!(run(&store, PREFIX, &of_cluster("theirs")).await.unwrap().finished, [key(1)]);
}

fn keep_one_that_counts(policy: &str, all: &[Candidate], now: DateTime<Utc>) -> Result<Vec<Ruling>, BadPolicy> {
    let counted: Vec<Candidate> = all.iter().filter(|candidate| candidate.counts).cloned().collect();
    let mut rulings = keep_one(policy, &counted, now)?;
    let others = all.iter().filter(|candidate| !candidate.counts);
    rulings.extend(others.map(|other| Ruling { key: other.key.clone(), keep: true, reason: "beside".to_owned() }));
    Ok(rulings)
}

#[tokio::test]
async fn a_safety_backup_is_known_by_its_manifest_when_its_record_is_gone() {
    let (_keep, store) = owned_by([Some("ours"); 4]).await;
    let at = "2026-11-21T04:00:00Z".parse().unwrap();
    let mut safety = manifest(&key(4), at, "ours");
    safety.operation.role = SAFETY.to_owned();
    store.delete(&keys::manifest_key(&key(4))).await.unwrap();
    store.create(&keys::manifest_key(&key(4)), safety.to_bytes().unwrap().into()).await.unwrap();
    let mut orders = of_cluster("ours");
    judge(&store, PREFIX, &mut orders, "", &[], keep_one_that_counts).await.unwrap();
    assert_eq!(orders.remove, [key(1), key(2)], "the newest of the others stays beside it");
}

#[tokio::test]
async fn a_namesakes_newer_backup_takes_the_place_of_none_of_ours() {
    let (_keep, store) = owned_by([Some("ours"), Some("ours"), Some("theirs"), Some("theirs")]).await;
    assert_eq!(removed(&store, "ours").await, [key(1)], "the newest of ours stays beside theirs");
}

#[tokio::test]
async fn a_backup_whose_manifest_cannot_be_read_is_left_alone_and_one_without_a_cluster_is_ours() {
    let (_keep, store) = owned_by([Some(""), None, Some("ours"), None]).await;
    assert_eq!(removed(&store, "ours").await, [key(1)]);
}
