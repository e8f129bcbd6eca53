//! Runs cells: the clean run, then the same operation once for each cell, and compares the ends.

use std::collections::{BTreeMap, VecDeque};
use std::panic::AssertUnwindSafe;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use futures::FutureExt;
use serde_json::Value;

use super::cell::{Cell, Outcome, Table};
use super::place::Place;
use super::rules::describe;
use crate::harness::Audit;

/// An operation that the matrix kills.
pub trait Scenario: Sized {
    const NAME: &'static str;
    /// How often one place can be used.
    const ROUNDS: usize;
    /// How long the operation may take, with an operator that dies in the middle, on two shared cores.
    const LIMIT: Duration;

    /// A place where it can begin.
    async fn open() -> Self;
    fn place(&mut self) -> &mut Place;
    /// Before each round, while nothing goes wrong.
    async fn prepare(&mut self, round: usize);
    /// Asks for the operation.
    async fn begin(&mut self, round: usize);
    /// Whether it has ended, and as it should.
    async fn over(&mut self, round: usize) -> Result<(), String>;
    /// What is true afterwards, beside the objects that every scenario compares.
    async fn facts(&mut self, round: usize) -> BTreeMap<String, String>;
    /// What is counted before and after: files, requests in OpenBao's audit log.
    async fn counts(&mut self, round: usize) -> BTreeMap<String, i64>;
    /// After each round.
    async fn finish(&mut self, round: usize);
}

/// The state at the end of a round, without what differs from round to round.
pub type End = BTreeMap<String, String>;

/// How long the end may take to become what it has to be, once the operation says that it is over.
const AFTERWARDS: Duration = Duration::from_secs(45);

pub struct Before {
    objects: BTreeMap<String, Value>,
    counts: BTreeMap<String, i64>,
    audit: Audit,
}

pub async fn before<S: Scenario>(scenario: &mut S, round: usize) -> Before {
    scenario.prepare(round).await;
    scenario.place().settled(Duration::from_secs(60)).await.expect("nothing is under way");
    let objects = scenario.place().objects().await;
    let counts = scenario.counts(round).await;
    Before { objects, counts, audit: scenario.place().namespace.cluster().audit() }
}

pub async fn end<S: Scenario>(scenario: &mut S, round: usize, before: &Before) -> End {
    let mut end = scenario.facts(round).await;
    for (what, count) in scenario.counts(round).await {
        let was = before.counts.get(&what).copied().unwrap_or_default();
        end.insert(format!("change of {what}"), (count - was).to_string());
    }
    let place = scenario.place();
    for resource in ["jobs", "openbaooperations", "persistentvolumeclaims", "secrets"] {
        end.insert(format!("{resource} created"), place.created(&before.audit, resource).to_string());
    }
    let after = place.objects().await;
    let mut changes: BTreeMap<String, i64> = BTreeMap::new();
    for (name, object) in after.iter().filter(|(name, _)| !before.objects.contains_key(*name)) {
        *changes.entry(format!("new {}", plain(name, object))).or_default() += 1;
    }
    for (name, object) in before.objects.iter().filter(|(name, _)| !after.contains_key(*name)) {
        *changes.entry(format!("gone {}", plain(name, object))).or_default() += 1;
    }
    end.extend(changes.into_iter().map(|(what, count)| (what, count.to_string())));
    for (name, object) in &after {
        if let Some(state) = state(object) {
            let is_new = !before.objects.contains_key(name);
            if is_new
                || name.starts_with("openbaocluster/")
                || name.starts_with("pod/")
                || name.starts_with("statefulset/")
            {
                end.insert(format!("state of {}", plain(name, object)), state);
            }
        }
    }
    end
}

/// An object's name without its numbers and hashes. The random end of a Job's pod may hold no digit to know it by.
fn plain(name: &str, object: &Value) -> String {
    match object["metadata"]["generateName"].as_str() {
        Some(base) if name.starts_with("pod/") => format!("pod/{}#", numberless(base)),
        _ => numberless(name),
    }
}

/// Words that are numbers or hashes become `#`.
fn numberless(name: &str) -> String {
    let word = |word: &str| {
        let hash = word.len() >= 5
            && word.chars().any(|c| c.is_ascii_digit())
            && word.chars().all(|c| c.is_ascii_alphanumeric());
        if hash || word.chars().all(|c| c.is_ascii_digit()) { "#".to_owned() } else { word.to_owned() }
    };
    name.split('-').map(word).collect::<Vec<_>>().join("-")
}

/// What must be the same of an object, whenever it was made.
fn state(object: &Value) -> Option<String> {
    let status = &object["status"];
    let conditions = || {
        let all = status["conditions"].as_array().into_iter().flatten();
        let mut all: Vec<String> = all.map(|c| format!("{}={}", text(&c["type"]), text(&c["status"]))).collect();
        all.sort();
        all.join(" ")
    };
    match object["kind"].as_str()? {
        "OpenBaoOperation" => {
            let steps = status["steps"].as_array().into_iter().flatten();
            let steps: Vec<String> =
                steps.map(|step| format!("{}={}", numberless(text(&step["name"])), text(&step["state"]))).collect();
            let finalizers = object["metadata"]["finalizers"].as_array().map_or(0, Vec::len);
            Some(format!(
                "{} {} [{}] finalizers {finalizers}",
                text(&status["phase"]),
                text(&status["reason"]),
                steps.join(" ")
            ))
        }
        "OpenBaoRestore" => {
            let finalizers = object["metadata"]["finalizers"].as_array().map_or(0, Vec::len);
            Some(format!("{} {} finalizers {finalizers}", text(&status["phase"]), conditions()))
        }
        "OpenBaoCluster" => Some(format!(
            "{} {} lock {} pending {} ready {}",
            text(&status["phase"]),
            conditions(),
            !status["operationLock"].is_null(),
            !status["pendingRestore"].is_null(),
            status["readyReplicas"]
        )),
        "Pod" => Some(format!("{} {}", text(&status["phase"]), conditions())),
        "Job" => Some(conditions()),
        "StatefulSet" => Some(format!("{} ready, {} updated", status["readyReplicas"], status["updatedReplicas"])),
        _ => None,
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or("-")
}

/// One round without a fault: the end to compare with, and the writes on the way.
pub async fn clean<S: Scenario>(scenario: &mut S, round: usize) -> (End, Vec<String>) {
    let before = before(scenario, round).await;
    scenario.place().rules.watch();
    scenario.begin(round).await;
    let start = Instant::now();
    while let Err(why) = scenario.over(round).await {
        assert!(start.elapsed() < S::LIMIT, "the clean run of {} did not end: {why}", S::NAME);
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    scenario.place().settled(Duration::from_secs(60)).await.expect("the clean run comes to rest");
    tokio::time::sleep(Duration::from_secs(3)).await;
    let writes = scenario.place().rules.writes().iter().map(describe).collect();
    scenario.place().rules.clear();
    let end = end(scenario, round, &before).await;
    if let Err(why) = good(&end) {
        panic!("the clean run of {} did not end well: {why}", S::NAME);
    }
    scenario.finish(round).await;
    (end, writes)
}

/// Whether a run in which nothing goes wrong ended well. In a cell an end is an end, since the comparison shows it; this one
/// is what all others are compared with.
fn good(end: &End) -> Result<(), String> {
    let bad = |(what, state): (&String, &String)| {
        let wanted = match what.strip_prefix("state of ")?.split_once('/')?.0 {
            "openbaooperation" => "Succeeded",
            "openbaorestore" => "Completed",
            _ => return None,
        };
        (state.split(' ').next() != Some(wanted)).then(|| format!("{what} is {state}"))
    };
    let bad: Vec<String> = end.iter().filter_map(bad).collect();
    if bad.is_empty() { Ok(()) } else { Err(bad.join("; ")) }
}

#[test]
fn a_clean_run_whose_operation_or_restore_failed_is_no_measure() {
    let end = |what: &str, state: &str| End::from([(format!("state of {what}"), state.to_owned())]);
    for (what, phase) in [("openbaooperation/round-#", "Succeeded"), ("openbaorestore/round-#", "Completed")] {
        assert_eq!(good(&end(what, &format!("{phase} - [] finalizers 0"))), Ok(()));
        for phase in ["Failed", "Unknown", "ConstraintFailed", "Running", "-"] {
            assert!(good(&end(what, &format!("{phase} - [] finalizers 0"))).is_err(), "{what} {phase}");
        }
    }
    assert_eq!(good(&end("openbaocluster/kelp", "Running - lock false")), Ok(()), "the scenario sees to the others");
}

/// One cell. Panics where even the harness can't go on.
async fn strike<S: Scenario>(scenario: &mut S, round: usize, cell: Cell, wanted: &End) -> Outcome {
    scenario.place().revive().await;
    let before = before(scenario, round).await;
    scenario.place().rules.set(&cell.rules());
    scenario.begin(round).await;
    let start = Instant::now();
    loop {
        scenario.place().revive().await;
        match scenario.over(round).await {
            Ok(()) => break,
            Err(why) if start.elapsed() > S::LIMIT => {
                let struck = scenario.place().rules.struck().unwrap_or_default();
                return Outcome::Differs(format!("at {struck}: no end: {why}"));
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(250)).await,
        }
    }
    if let Err(why) = scenario.place().settled(Duration::from_secs(60)).await {
        return Outcome::Differs(why);
    }
    let ended = Instant::now();
    let struck = scenario.place().rules.struck();
    loop {
        // A write after the end may have been the one.
        scenario.place().revive().await;
        let found = end(scenario, round, &before).await;
        if found == *wanted {
            break;
        }
        if ended.elapsed() > AFTERWARDS {
            return Outcome::Differs(format!("at {}: {}", struck.unwrap_or_default(), difference(wanted, &found)));
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    scenario.place().rules.clear();
    scenario.finish(round).await;
    struck.map_or(Outcome::NotReached, Outcome::Same)
}

pub fn difference(wanted: &End, found: &End) -> String {
    let mut told = Vec::new();
    for (what, value) in wanted {
        match found.get(what) {
            Some(other) if other == value => {}
            other => told.push(format!("{what} is {} instead of {value}", other.map_or("missing", String::as_str))),
        }
    }
    for (what, value) in found.iter().filter(|(what, _)| !wanted.contains_key(*what)) {
        told.push(format!("{what} is {value}, which the clean run has not"));
    }
    told.join("; ")
}

/// Which cells of an operation of so many writes.
pub enum Choice {
    /// One for each way of failing.
    Sample,
    /// All of them, or those that the environment names.
    Whole,
}

impl Choice {
    fn cells(&self, writes: usize) -> VecDeque<Cell> {
        match self {
            Self::Sample => Cell::sample(writes).into(),
            Self::Whole => match std::env::var("OPENBAO_MATRIX_CELLS") {
                Ok(named) => named.split(',').map(|cell| cell.trim().parse().expect("OPENBAO_MATRIX_CELLS")).collect(),
                Err(_) => {
                    // Every nth first: a run that is broken off has seen all of the operation.
                    let mut all: Vec<(usize, Cell)> = Cell::all(writes).into_iter().enumerate().collect();
                    all.sort_by_key(|(index, _)| (index % 5, *index));
                    all.into_iter().map(|(_, cell)| cell).collect()
                }
            },
        }
    }
}

/// Runs the cells of one operation in so many places at once, prints the table, and fails if one came out otherwise.
pub async fn matrix<S: Scenario>(choice: Choice, lanes: usize) {
    let lanes = std::env::var("OPENBAO_MATRIX_LANES").ok().and_then(|text| text.parse().ok()).unwrap_or(lanes);
    let until = std::env::var("OPENBAO_MATRIX_MINUTES").ok().and_then(|text| text.parse().ok());
    let until = until.map(|minutes: u64| Instant::now() + Duration::from_mins(minutes));
    let mut first = S::open().await;
    let (wanted, writes) = clean(&mut first, 0).await;
    assert!(!writes.is_empty(), "the clean run writes something: is the fault layer in this build?");
    eprintln!("{}: {} writes in a clean run, which ends with {wanted:#?}", S::NAME, writes.len());
    let cells = Mutex::new(choice.cells(writes.len()));
    let table = Mutex::new(Table { operation: S::NAME, writes, ..Table::default() });
    let next = || {
        let over = until.is_some_and(|until| Instant::now() > until);
        cells.lock().unwrap().pop_front().filter(|_| !over)
    };
    let lane = async |mut scenario: Option<(S, usize)>| {
        while let Some(cell) = next() {
            let (mut place, round) = match scenario.take() {
                Some((place, used)) if used < S::ROUNDS => (place, used),
                _ => (S::open().await, 0),
            };
            let begun = Instant::now();
            let outcome = AssertUnwindSafe(strike(&mut place, round, cell, &wanted)).catch_unwind().await;
            let outcome = outcome.unwrap_or_else(|panic| {
                let why = panic.downcast_ref::<String>().cloned();
                Outcome::Differs(
                    why.or_else(|| panic.downcast_ref::<&str>().map(|&text| text.to_owned())).unwrap_or_default(),
                )
            });
            eprintln!("{} {cell} in {} s: {outcome:?}", S::NAME, begun.elapsed().as_secs());
            if matches!(outcome, Outcome::Differs(_)) {
                // What it left is evidence, and no place for another round.
                place.place().namespace.keep_evidence();
            } else {
                scenario = Some((place, round + 1));
            }
            table.lock().unwrap().cells.insert(cell, outcome);
        }
    };
    let mut first = Some((first, 1));
    futures::future::join_all((0..lanes.max(1)).map(|_| lane(first.take()))).await;
    let table = table.into_inner().unwrap();
    eprintln!("{table}");
    let folder = xtask::image::target_folder().join("matrix");
    std::fs::create_dir_all(&folder).expect("a folder for the results");
    std::fs::write(folder.join(format!("{}.json", S::NAME)), table.summary().to_string()).expect("the results");
    assert!(table.same() > 0 || !table.failed().is_empty(), "no fault struck: nothing was tested");
    assert!(table.failed().is_empty(), "{} of {} cells failed", table.failed().len(), table.cells.len());
}
