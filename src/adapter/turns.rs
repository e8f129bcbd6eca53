//! Turns at a controller's work: first come, first served.
//!
//! What is due beyond its own limit kube serves in the order of a hash table, which stays the same for as long as the process
//! lives: those late in it are not looked at while more is due than there is room for. So that limit is off (`concurrency(0)`;
//! an object is still reconciled once at a time), and whatever is due waits here, in the order in which it came. It holds no
//! more than its name meanwhile, and is read anew when its turn comes.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use kube::{
    Resource, ResourceExt,
    runtime::reflector::{ObjectRef, Store},
};
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::metrics::metrics;

/// The turns of one controller.
#[derive(Debug)]
pub struct Turns {
    kind: &'static str,
    free: Semaphore,
    waiting: AtomicUsize,
    stop: CancellationToken,
}

impl Turns {
    /// So many turns at the same time for objects of `kind`, and none any more after `stop`.
    pub fn new(kind: &'static str, at_once: u16, stop: CancellationToken) -> Self {
        Self { kind, free: Semaphore::new(at_once.into()), waiting: AtomicUsize::new(0), stop }
    }

    /// Waits for a turn, which is given back with the permit, and reads the object as it is by then. `None`: it is gone (another
    /// one under its name comes with an event of its own), or the controller stops.
    pub async fn take<K>(&self, known: &K, store: &Store<K>) -> Option<(SemaphorePermit<'_>, Arc<K>)>
    where
        K: Resource<DynamicType = ()> + Clone + 'static,
    {
        let object = ObjectRef::from_obj(known);
        let waits = Waits::begin(self, object.namespace.as_deref().unwrap_or_default(), &object.name);
        let turn = tokio::select! {
            biased;
            () = self.stop.cancelled() => None,
            turn = self.free.acquire() => turn.ok(),
        };
        drop(waits);
        let turn = turn?;
        let now = store.get(&object).filter(|now| now.uid() == known.uid())?;
        Some((turn, now))
    }

    /// Whether somebody waits for a turn.
    pub fn are_awaited(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0 && self.free.available_permits() == 0
    }

    /// For whoever goes on looking by itself within its turn, for so long at most.
    pub fn linger(&self, most: Duration) -> Linger<'_> {
        Linger { turns: self, until: Instant::now() + most }
    }
}

/// One that waits: it is counted until this goes out of scope, also when it is given up.
struct Waits<'a> {
    turns: &'a Turns,
    namespace: &'a str,
    name: &'a str,
}

impl<'a> Waits<'a> {
    fn begin(turns: &'a Turns, namespace: &'a str, name: &'a str) -> Self {
        turns.waiting.fetch_add(1, Ordering::Relaxed);
        metrics().queued(turns.kind, namespace, name);
        Self { turns, namespace, name }
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.turns.waiting.fetch_sub(1, Ordering::Relaxed);
        metrics().left_queue(self.turns.kind, self.namespace, self.name);
    }
}

/// The time in which a call may look again by itself instead of coming back for another turn.
#[derive(Debug)]
pub struct Linger<'a> {
    turns: &'a Turns,
    until: Instant,
}

impl Linger<'_> {
    /// Waits before another look, and says whether there is to be one: not when the time is up, and not while others wait for
    /// a turn.
    pub async fn pause(&self, pause: Duration) -> bool {
        !self.turns.are_awaited() && self.hold(pause).await
    }

    /// The same for a moment at which nobody may go, whoever waits.
    pub async fn hold(&self, pause: Duration) -> bool {
        let goes_on = Instant::now() + pause <= self.until;
        if goes_on {
            tokio::time::sleep(pause).await;
        }
        goes_on
    }
}

#[cfg(test)]
mod tests {
    use std::{
        collections::{BTreeMap, BTreeSet},
        convert::Infallible,
        sync::Mutex,
    };

    use futures::{FutureExt, StreamExt, stream};
    use k8s_openapi::api::core::v1::ConfigMap;
    use kube::runtime::{
        applier,
        controller::{Action, Config},
        reflector::store,
        watcher::Event,
    };

    use super::*;

    const KIND: &str = "ConfigMap";

    fn object(name: &str, uid: &str) -> ConfigMap {
        let mut object = ConfigMap::default();
        object.metadata.name = Some(name.to_owned());
        object.metadata.namespace = Some("reef".to_owned());
        object.metadata.uid = Some(uid.to_owned());
        object
    }

    fn stored(objects: &[ConfigMap]) -> (Store<ConfigMap>, kube::runtime::reflector::store::Writer<ConfigMap>) {
        let (reader, mut writer) = store::<ConfigMap>();
        writer.apply_watcher_event(&Event::Init);
        for object in objects {
            writer.apply_watcher_event(&Event::InitApply(object.clone()));
        }
        writer.apply_watcher_event(&Event::InitDone);
        (reader, writer)
    }

    struct Context {
        turns: Turns,
        store: Store<ConfigMap>,
        looks: Mutex<BTreeMap<String, usize>>,
        under_way: Mutex<BTreeSet<String>>,
    }

    /// A look that takes ten seconds, and another one five seconds after it.
    async fn look(object: Arc<ConfigMap>, context: Arc<Context>) -> Result<Action, std::io::Error> {
        let Some((_turn, object)) = context.turns.take(object.as_ref(), &context.store).await else {
            return Ok(Action::await_change());
        };
        let name = object.name_any();
        assert!(context.under_way.lock().unwrap().insert(name.clone()), "{name} is looked at twice at once");
        assert!(context.under_way.lock().unwrap().len() <= 16, "more than were allowed");
        *context.looks.lock().unwrap().entry(name.clone()).or_default() += 1;
        tokio::time::sleep(Duration::from_secs(10)).await;
        context.under_way.lock().unwrap().remove(&name);
        Ok(Action::requeue(Duration::from_secs(5)))
    }

    fn policy(_: Arc<ConfigMap>, _: &std::io::Error, _: Arc<Context>) -> Action {
        Action::await_change()
    }

    #[tokio::test(start_paused = true)]
    async fn every_object_has_its_turn_however_many_wait() {
        let objects: Vec<ConfigMap> = (0..60).map(|n| object(&format!("kelp-{n}"), &format!("uid-{n}"))).collect();
        let (store, _writer) = stored(&objects);
        let context = Arc::new(Context {
            turns: Turns::new(KIND, 16, CancellationToken::new()),
            store: store.clone(),
            looks: Mutex::default(),
            under_way: Mutex::default(),
        });
        let all: Vec<_> = objects.iter().map(|object| Ok::<_, Infallible>(ObjectRef::from_obj(object))).collect();
        let queue = stream::iter(all).chain(stream::pending());
        let reconciler = |object, context| Box::pin(look(object, context));
        let config = Config::default().concurrency(0);
        let work = applier(reconciler, policy, context.clone(), store, queue, config).for_each(|_| async {});
        assert!(tokio::time::timeout(Duration::from_secs(600), work).await.is_err(), "it goes on for ever");
        let looks = context.looks.lock().unwrap();
        assert_eq!(looks.len(), 60, "some were never looked at");
        assert!(looks.values().all(|looks| *looks >= 8), "on average it is sixteen: {looks:?}");
    }

    #[tokio::test]
    async fn whoever_comes_first_is_served_first_and_sees_the_object_as_it_is_by_then() {
        let (first, second) = (object("fern", "uid-f"), object("moss", "uid-m"));
        let (store, mut writer) = stored(&[first.clone(), second.clone()]);
        let turns = Turns::new(KIND, 1, CancellationToken::new());
        let (turn, _) = turns.take(&first, &store).await.unwrap();
        assert!(!turns.are_awaited());
        let mut one = Box::pin(turns.take(&second, &store));
        assert!((&mut one).now_or_never().is_none());
        let mut other = Box::pin(turns.take(&first, &store));
        assert!((&mut other).now_or_never().is_none());
        assert!(turns.are_awaited());
        let mut changed = second.clone();
        changed.data = Some(BTreeMap::from([("changed".to_owned(), "meanwhile".to_owned())]));
        writer.apply_watcher_event(&Event::Apply(changed.clone()));
        drop(turn);
        assert!((&mut other).now_or_never().is_none(), "it came later");
        let (turn, seen) = one.await.unwrap();
        assert_eq!(*seen, changed);
        writer.apply_watcher_event(&Event::Delete(first.clone()));
        drop(turn);
        assert!(other.await.is_none(), "it is gone");
        writer.apply_watcher_event(&Event::Apply(object("fern", "another")));
        assert!(turns.take(&first, &store).await.is_none(), "a namesake is not it");
        assert!(turns.take(&second, &store).await.is_some(), "those who went without have given their turn back");
    }

    #[tokio::test]
    async fn nobody_has_a_turn_any_more_once_the_controller_stops() {
        let known = object("kelp", "uid-k");
        let (store, _writer) = stored(std::slice::from_ref(&known));
        let stop = CancellationToken::new();
        let turns = Turns::new(KIND, 1, stop.clone());
        let _turn = turns.take(&known, &store).await.unwrap();
        let mut waits = Box::pin(turns.take(&known, &store));
        assert!((&mut waits).now_or_never().is_none());
        stop.cancel();
        assert!(waits.await.is_none());
        assert!(!turns.are_awaited());
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_looks_on_within_its_turn_goes_when_its_time_is_up_or_others_wait() {
        const GLANCE: Duration = Duration::from_millis(250);
        let known = object("kelp", "uid-k");
        let (store, _writer) = stored(std::slice::from_ref(&known));
        let turns = Turns::new(KIND, 1, CancellationToken::new());
        let _turn = turns.take(&known, &store).await.unwrap();
        let begun = Instant::now();
        let linger = turns.linger(Duration::from_secs(10));
        let mut looks = 1;
        while linger.pause(GLANCE).await {
            // A server that says nothing makes each look long.
            tokio::time::sleep(Duration::from_secs(4)).await;
            looks += 1;
        }
        assert_eq!(looks, 4);
        assert!(begun.elapsed() < Duration::from_secs(15), "its time, and one look: {:?}", begun.elapsed());
        let linger = turns.linger(Duration::from_secs(10));
        let mut waits = Box::pin(turns.take(&known, &store));
        assert!((&mut waits).now_or_never().is_none());
        assert!(!linger.pause(GLANCE).await, "somebody waits");
        assert!(linger.hold(GLANCE).await, "at this moment nobody goes");
    }
}
