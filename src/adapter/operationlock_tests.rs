//! The lock's table, row by row, and a model of many claimants with stale copies.

use proptest::prelude::*;

use super::*;

pub(super) fn at(second: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_800_000_000 + second, 0).unwrap()
}

pub(super) fn claim(holder: &str, uid: &str) -> Claim {
    Claim {
        operation: LockOperation::Backup,
        holder: holder.into(),
        holder_uid: uid.into(),
        operation_ref: Some(format!("op-{uid}")),
        message: format!("{uid} works"),
        mode: LockMode::Held,
    }
}

fn free(fence: Option<i64>) -> View {
    View { uid: Some("c1".into()), resource_version: Some("10".into()), has_status: true, fence, lock: None }
}

fn held_by(owner: &Claim, fence: i64) -> View {
    let lock = decide(&free(Some(fence - 1)), owner, Force::Never, at(0)).unwrap().lock;
    View { fence: Some(fence), lock: Some(lock), ..free(None) }
}

#[test]
fn a_free_lock_is_taken_with_both_times_now_and_the_fence_raised() {
    let taken = decide(&free(Some(6)), &claim("a", "1"), Force::Never, at(5)).unwrap();
    assert_eq!(taken.how, How::Taken);
    assert_eq!((taken.lock.acquired_at, taken.lock.renewed_at, taken.lock.fence), (at(5), at(5), 7));
}

#[test]
fn the_first_lock_of_a_cluster_has_fence_one() {
    assert_eq!(decide(&free(None), &claim("a", "1"), Force::Never, at(0)).unwrap().lock.fence, 1);
}

#[test]
fn the_same_holder_renews_and_keeps_when_it_was_taken() {
    let mut mine = claim("a", "1");
    let view = held_by(&mine, 3);
    mine.message = "still at it".into();
    let renewed = decide(&view, &mine, Force::Never, at(60)).unwrap();
    assert_eq!(renewed.how, How::Renewed);
    assert_eq!(renewed.lock.message, "still at it");
    assert_eq!((renewed.lock.acquired_at, renewed.lock.renewed_at, renewed.lock.fence), (at(0), at(60), 3));
}

#[test]
fn holder_uid_and_operation_all_belong_to_the_identity() {
    let view = held_by(&claim("a", "1"), 3);
    let mut upgrade = claim("a", "1");
    upgrade.operation = LockOperation::Upgrade;
    for other in [claim("b", "1"), claim("a", "2"), upgrade] {
        let refused = decide(&view, &other, Force::Never, at(9)).unwrap_err();
        assert_eq!((refused.holder.as_str(), refused.holder_uid.as_str()), ("a", "1"));
        assert_eq!(refused.message, "1 works");
        assert!(decide_release(&view, &other, None).is_err());
    }
}

#[test]
fn force_replaces_with_fresh_times_and_returns_what_it_replaced() {
    let view = held_by(&claim("a", "1"), 3);
    let other = claim("b", "2");
    let is_backup = |lock: &OperationLock| lock.operation == LockOperation::Backup;
    for force in [Force::Always, Force::If(&is_backup)] {
        let replaced = decide(&view, &other, force, at(9)).unwrap();
        assert_eq!((replaced.lock.acquired_at, replaced.lock.renewed_at, replaced.lock.fence), (at(9), at(9), 4));
        assert!(matches!(replaced.how, How::Replaced(before) if before.holder == "a" && before.fence == 3));
    }
}

#[test]
fn a_lock_that_was_replaced_is_told_by_whoever_finds_it_his_own() {
    let view = held_by(&claim("a", "1"), 3);
    let other = claim("b", "2");
    let taken = decide(&view, &other, Force::Always, at(9)).unwrap().lock;
    let told = taken.replaced.clone();
    assert!(told.as_ref().is_some_and(|told| told.contains("Backup a (UID 1, fence 3")), "{told:?}");
    // It dies before it can write down how it came by the lock, and its successor finds it.
    let view = View { fence: Some(4), lock: Some(taken), ..free(None) };
    let found = decide(&view, &other, Force::Never, at(60)).unwrap();
    assert_eq!((found.how, &found.lock.replaced), (How::Renewed, &told));
    assert_eq!(decide_renewal(&view, &other, 4, true, at(61)).unwrap().replaced, told);
    assert_eq!(
        decide(&free(Some(4)), &other, Force::Never, at(99)).unwrap().lock.replaced,
        None,
        "the next one is free"
    );
}

#[test]
fn force_if_leaves_alone_what_it_was_not_meant_for() {
    let view = held_by(&claim("a", "1"), 3);
    let only_restores = |lock: &OperationLock| lock.operation == LockOperation::Restore;
    assert!(decide(&view, &claim("b", "2"), Force::If(&only_restores), at(9)).is_err());
}

#[test]
fn release_clears_ones_own_lock_is_fine_without_one_and_leaves_anothers() {
    let mine = claim("a", "1");
    assert_eq!(decide_release(&held_by(&mine, 3), &mine, Some(3)), Ok(true));
    assert_eq!(decide_release(&held_by(&mine, 3), &mine, None), Ok(true));
    assert_eq!(decide_release(&free(Some(3)), &mine, Some(3)), Ok(false));
    assert!(decide_release(&held_by(&claim("b", "2"), 3), &mine, Some(3)).is_err());
}

#[test]
fn release_with_the_fence_of_an_earlier_tenure_is_refused() {
    let mine = claim("a", "1");
    assert!(decide_release(&held_by(&mine, 5), &mine, Some(4)).is_err());
}

#[test]
fn a_claim_without_holder_or_uid_is_an_error_of_its_own() {
    assert!(matches!(check(&claim("", "1")), Err(LockError::EmptyHolder)));
    assert!(matches!(check(&claim("a", "")), Err(LockError::EmptyHolderUid)));
}

#[tokio::test]
async fn a_lock_without_a_cluster_name_is_an_error_of_its_own() {
    // Reading a configuration is all that this client ever does.
    let config = kube::Config::new("http://127.0.0.1:1".parse().unwrap());
    let client = Client::try_from(config).unwrap();
    assert!(matches!(of(&client, &OpenBaoCluster::default()).map(drop), Err(LockError::EmptyCluster)));
}

#[derive(Debug, Error)]
#[error("outer")]
struct Outer(#[source] Box<dyn StdError + Send + Sync>);

#[test]
fn held_is_found_through_any_wrapping_and_nowhere_else() {
    let held_error = HeldError::from(&held_by(&claim("a", "1"), 3).lock.unwrap());
    let wrapped = Outer(Box::new(LockError::Held { cluster: "prod".into(), source: held_error.clone() }));
    let twice = Outer(Box::new(Outer(Box::new(Box::new(held_error.clone())))));
    assert!(is_lock_held(&held_error));
    assert_eq!(held(&wrapped), Some(&held_error));
    assert_eq!(held(&twice), Some(&held_error));
    assert!(!is_lock_held(&LockError::EmptyHolder));
    assert!(!is_lock_held(&Outer(Box::new(LockError::Contended("prod".into())))));
}

/// What an API server does with our patches, on a plain JSON value: enough of RFC 6902 for `test`, `add` and `remove`.
pub(super) fn serve(object: &mut Value, patch: &[Value]) -> Result<(), ()> {
    let mut next = object.clone();
    for operation in patch {
        let path = operation["path"].as_str().unwrap();
        let (parent, member) = path.rsplit_once('/').unwrap();
        match operation["op"].as_str().unwrap() {
            "test" if next.pointer(path) == Some(&operation["value"]) => {}
            "add" => {
                let parent = if parent.is_empty() { Some(&mut next) } else { next.pointer_mut(parent) };
                parent.and_then(Value::as_object_mut).ok_or(())?.insert(member.into(), operation["value"].clone());
            }
            "remove" => {
                let parent = next.pointer_mut(parent).and_then(Value::as_object_mut).ok_or(())?;
                parent.remove(member).ok_or(())?;
            }
            _ => return Err(()),
        }
    }
    let version: u64 = next["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap();
    next["metadata"]["resourceVersion"] = Value::String((version + 1).to_string());
    *object = next;
    Ok(())
}

pub(super) fn view_of(object: &Value) -> View {
    View {
        uid: object["metadata"]["uid"].as_str().map(str::to_owned),
        resource_version: object["metadata"]["resourceVersion"].as_str().map(str::to_owned),
        has_status: object.get("status").is_some(),
        fence: object["status"]["operationFence"].as_i64(),
        lock: serde_json::from_value(object["status"]["operationLock"].clone()).ok(),
    }
}

pub(super) fn new_object(with_status: bool) -> Value {
    let mut object = json!({"metadata": {"uid": "c1", "resourceVersion": "1"}});
    if with_status {
        object["status"] = json!({"phase": "Running"});
    }
    object
}

#[derive(Clone, Debug)]
enum Act {
    Acquire { who: usize, stale: usize, force: bool },
    Release { who: usize, stale: usize },
    Unrelated,
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        (0..4_usize, 0..6_usize, prop::bool::weighted(0.1)).prop_map(|(who, stale, force)| Act::Acquire {
            who,
            stale,
            force
        }),
        (0..4_usize, 0..6_usize).prop_map(|(who, stale)| Act::Release { who, stale }),
        Just(Act::Unrelated),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 2_000, ..ProptestConfig::default() })]

    /// However stale the copies are that decisions rest on: the fence only grows, a lock is put in only over none, over
    /// one's own or by force, and a release takes away nothing but the very lock that was judged.
    #[test]
    fn stale_copies_never_mislead(with_status in any::<bool>(), acts in prop::collection::vec(act(), 1..40)) {
        let mut object = new_object(with_status);
        let mut past = vec![view_of(&object)];
        for act in acts {
            let before = view_of(&object);
            let known = |stale: usize| past[past.len().saturating_sub(1 + stale)].clone();
            match act {
                Act::Acquire { who, stale, force } => {
                    let me = claim(&format!("h{who}"), &who.to_string());
                    let force = if force { Force::Always } else { Force::Never };
                    let known = known(stale);
                    if let Ok(acquired) = decide(&known, &me, force, at(1))
                        && serve(&mut object, &put(&known, &acquired.lock)).is_ok() {
                            let after = view_of(&object);
                            prop_assert!(me.owns(after.lock.as_ref().unwrap()));
                            match acquired.how {
                                How::Taken => prop_assert!(before.lock.is_none()),
                                How::Renewed => prop_assert!(me.owns(before.lock.as_ref().unwrap())),
                                How::Replaced(replaced) => prop_assert_eq!(Some(*replaced).map(|lock| lock.fence), before.lock.as_ref().map(|lock| lock.fence)),
                            }
                            let raised = after.fence.unwrap() - before.fence.unwrap_or(0);
                            let renewed = before.lock.as_ref().is_some_and(|lock| me.owns(lock));
                            prop_assert_eq!(raised, i64::from(!renewed));
                        }
                }
                Act::Release { who, stale } => {
                    let me = claim(&format!("h{who}"), &who.to_string());
                    let known = known(stale);
                    let fence = known.lock.as_ref().map(|lock| lock.fence);
                    if decide_release(&known, &me, fence) == Ok(true) && serve(&mut object, &clear(&known)).is_ok() {
                        prop_assert!(me.owns(before.lock.as_ref().unwrap()));
                        prop_assert_eq!(before.lock.as_ref().map(|lock| lock.fence), fence);
                        prop_assert!(view_of(&object).lock.is_none());
                        prop_assert_eq!(view_of(&object).fence, before.fence);
                    }
                }
                Act::Unrelated => serve(&mut object, &[]).unwrap(),
            }
            past.push(view_of(&object));
        }
    }
}

#[test]
fn a_renewal_changes_what_the_lock_shows_and_nothing_else() {
    let mut mine = claim("a", "1");
    let view = held_by(&mine, 3);
    mine.mode = LockMode::Parked;
    let parked = decide_renewal(&view, &mine, 3, false, at(60)).unwrap();
    assert_eq!((parked.mode, parked.committed, parked.fence), (LockMode::Parked, Some(false), 3));
    assert_eq!((parked.acquired_at, parked.renewed_at), (at(0), at(60)));
    let view = View { lock: Some(decide_renewal(&view, &mine, 3, true, at(61)).unwrap()), ..view };
    let held = decide_renewal(&view, &claim("a", "1"), 3, false, at(62)).unwrap();
    assert_eq!((held.mode, held.committed), (LockMode::Held, Some(true)), "it is never taken back");
}

#[test]
fn a_renewal_never_takes_a_lock() {
    let mine = claim("a", "1");
    for view in [free(Some(3)), held_by(&claim("b", "2"), 3), held_by(&mine, 4)] {
        assert_eq!(decide_renewal(&view, &mine, 3, true, at(1)), None);
    }
}

#[test]
fn a_stale_renewal_cannot_undo_what_the_lock_shows() {
    let mine = claim("a", "1");
    let mut object = new_object(true);
    let before = view_of(&object);
    let taken = decide(&before, &mine, Force::Never, at(0)).unwrap().lock;
    serve(&mut object, &put(&before, &taken)).unwrap();
    let stale = view_of(&object);
    let marked = decide_renewal(&stale, &mine, 1, true, at(1)).unwrap();
    serve(&mut object, &put(&stale, &marked)).unwrap();
    let unmarked = decide_renewal(&stale, &mine, 1, false, at(2)).unwrap();
    assert!(serve(&mut object, &put(&stale, &unmarked)).is_err());
    assert_eq!(view_of(&object).lock.unwrap().committed, Some(true));
}
