//! What else may happen beside a death: a second operator at the same time, watches that stand still and then tell
//! everything at once, events that come late, twice, or in another order. The end must be that of a calm run.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::run::{Scenario, before, clean, difference, end};

/// How the run is disturbed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// Two operators, each of which believes that it leads.
    TwoOperators,
    /// Every watch stands still for 30 s from this share of the writes on (in percent).
    Frozen(usize),
    /// Every event comes late: what a reconcile finds in its cache is what was true a few writes ago.
    Late,
    /// Of each object the cache knows what was true one write ago.
    OneBehind,
    /// Every event comes twice.
    Doubled,
    /// Neighbouring events of different objects change places.
    Swapped,
    /// Watches break off and are begun again.
    Cut,
}

impl How {
    /// Everything that one operator can meet.
    pub const ALL: [Self; 9] = [
        Self::TwoOperators,
        Self::Frozen(0),
        Self::Frozen(40),
        Self::Frozen(75),
        Self::Late,
        Self::OneBehind,
        Self::Doubled,
        Self::Swapped,
        Self::Cut,
    ];

    fn rules(self) -> Value {
        let fault = match self {
            Self::TwoOperators => return json!([]),
            Self::Frozen(_) => json!({"fault": "freeze", "seconds": 30}),
            Self::Late => json!({"fault": "behind", "millis": 1500}),
            Self::OneBehind => json!({"fault": "one-behind", "millis": 4000}),
            Self::Doubled => json!({"fault": "duplicate"}),
            Self::Swapped => json!({"fault": "swap"}),
            Self::Cut => json!({"fault": "cut"}),
        };
        json!([{"name": format!("{self:?}"), "match": {"server": "kubernetes", "verb": "watch"}, "do": fault}])
    }

    /// After how many of the writes it begins.
    fn after(self, writes: usize) -> usize {
        match self {
            Self::Frozen(percent) => writes * percent / 100,
            Self::Cut => writes / 3,
            _ => 0,
        }
    }
}

/// A calm run, then one round for each disturbance, in the same place as long as it bears them.
pub async fn disturbed<S: Scenario>(ways: &[How]) {
    let mut scenario = S::open().await;
    let (wanted, writes) = clean(&mut scenario, 0).await;
    let mut round = 1;
    let mut failed = Vec::new();
    for how in ways {
        if round >= S::ROUNDS {
            scenario = S::open().await;
            round = 0;
        }
        let begun = Instant::now();
        let outcome = one(&mut scenario, round, *how, writes.len(), &wanted).await;
        eprintln!("{} {how:?} in {} s: {outcome:?}", S::NAME, begun.elapsed().as_secs());
        round += 1;
        if let Err(why) = outcome {
            scenario.place().namespace.keep_evidence();
            failed.push(format!("{how:?}: {why}"));
            round = S::ROUNDS;
        }
    }
    assert!(failed.is_empty(), "{}: {failed:#?}", S::NAME);
}

async fn one<S: Scenario>(
    scenario: &mut S,
    round: usize,
    how: How,
    writes: usize,
    wanted: &super::run::End,
) -> Result<(), String> {
    scenario.place().revive().await;
    let mut second = None;
    if how == How::TwoOperators {
        second = Some(scenario.place().another().await);
    }
    let before = before(scenario, round).await;
    scenario.place().rules.watch();
    let mut pending = Some(how.after(writes));
    if pending == Some(0) {
        scenario.place().rules.set(&how.rules());
        pending = None;
    }
    scenario.begin(round).await;
    let start = Instant::now();
    loop {
        if pending.is_some_and(|after| scenario.place().rules.writes().len() >= after) {
            scenario.place().rules.set(&how.rules());
            pending = None;
        }
        match scenario.over(round).await {
            Ok(()) => break,
            Err(why) if start.elapsed() > S::LIMIT => return Err(format!("no end: {why}")),
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
    if pending.is_some() {
        return Err("it was over before it could be disturbed".to_owned());
    }
    scenario.place().settled(Duration::from_secs(90)).await?;
    let ended = Instant::now();
    loop {
        let found = end(scenario, round, &before).await;
        if found == *wanted {
            break;
        }
        if ended.elapsed() > Duration::from_secs(60) {
            return Err(difference(wanted, &found));
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    scenario.place().rules.clear();
    drop(second);
    scenario.finish(round).await;
    Ok(())
}
