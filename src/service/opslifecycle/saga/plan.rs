//! Plans: what makes one sound, in which order its steps run, how long they may take, and when they are tried again.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Duration,
};

use serde::Serialize;
use sha2::{Digest, Sha256};
use thiserror::Error;

use crate::api::{
    duration,
    operation::{Backoff, Plan, RetryPolicy, StepKind, StepSpec},
};

/// More steps than this do not fit one journal.
pub const MOST_STEPS: usize = 64;
/// More bytes than this, as JSON, leave no room for the journal in one object.
pub const MOST_BYTES: usize = 256 * 1024;
/// What a step may take when it does not say.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(3600);
/// No step may take longer, and no delay last longer.
pub const LONGEST: Duration = Duration::from_secs(30 * 86_400);

/// Why a plan is not sound. Each names the step to change.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum PlanError {
    /// Nothing to do.
    #[error("the plan has no steps")]
    Empty,
    /// Too many steps.
    #[error(
        "the plan has {0} steps, more than the {MOST_STEPS} that one journal holds: split it into several operations"
    )]
    TooManySteps(usize),
    /// Too large.
    #[error("the plan has {0} bytes, more than the {MOST_BYTES} that one journal holds")]
    TooLarge(usize),
    /// A step without a name or action.
    #[error("step {0} of the plan needs a name and an action")]
    Unnamed(usize),
    /// Two steps of one name.
    #[error("two steps are named {0}")]
    Duplicate(String),
    /// A dependency on nothing.
    #[error("step {step} {relation} {missing}, which is no step of the plan")]
    Unknown {
        /// The step.
        step: String,
        /// `depends on`, `is undone by`, …
        relation: &'static str,
        /// What is missing.
        missing: String,
    },
    /// Steps that wait for each other.
    #[error("these steps depend on each other in a circle: {}", .0.join(" → "))]
    Cycle(Vec<String>),
    /// An undoing step that is part of the way forward, or of another step's undoing.
    #[error("step {compensation} undoes {step} and therefore cannot {conflict}")]
    CompensationMisused {
        /// The step that is undone.
        step: String,
        /// The step that undoes it.
        compensation: String,
        /// What it also is.
        conflict: &'static str,
    },
    /// An output that comes from elsewhere.
    #[error("step {step} needs the output of {source_step} but does not depend on it")]
    NeedsUnordered {
        /// The step.
        step: String,
        /// Whose output it needs.
        source_step: String,
    },
    /// Not a duration.
    #[error("step {step}: {field} {problem}")]
    Duration {
        /// The step.
        step: String,
        /// The field.
        field: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// No attempts.
    #[error("step {0}: retryPolicy.maxAttempts counts the first attempt, so it must be at least 1")]
    NoAttempts(String),
    /// An action nobody knows.
    #[error("step {step}: there is no action {action}; known are {known}")]
    UnknownAction {
        /// The step.
        step: String,
        /// Its action.
        action: String,
        /// The actions there are.
        known: String,
    },
    /// Bad configuration of an action.
    #[error("step {step}: {problem}")]
    Config {
        /// The step.
        step: String,
        /// What is wrong and what to write instead.
        problem: String,
    },
}

/// Checks everything about `plan` that can be checked without doing anything. `known`: the actions there are, if that
/// is a closed list.
pub fn validate(plan: &Plan, known: Option<&[&str]>) -> Result<(), PlanError> {
    if plan.steps.is_empty() {
        return Err(PlanError::Empty);
    }
    if plan.steps.len() > MOST_STEPS {
        return Err(PlanError::TooManySteps(plan.steps.len()));
    }
    let bytes = serde_json::to_vec(plan).map_or(usize::MAX, |json| json.len());
    if bytes > MOST_BYTES {
        return Err(PlanError::TooLarge(bytes));
    }
    let mut names = BTreeSet::new();
    for (index, step) in plan.steps.iter().enumerate() {
        if step.name.is_empty() || step.action.is_empty() {
            return Err(PlanError::Unnamed(index + 1));
        }
        if !names.insert(step.name.as_str()) {
            return Err(PlanError::Duplicate(step.name.clone()));
        }
        if let Some(known) = known
            && !known.contains(&step.action.as_str())
        {
            return Err(PlanError::UnknownAction {
                step: step.name.clone(),
                action: step.action.clone(),
                known: known.join(", "),
            });
        }
        check_timing(step)?;
    }
    check_references(plan, &names)?;
    check_compensations(plan)?;
    order(plan).map(drop)
}

fn check_timing(step: &StepSpec) -> Result<(), PlanError> {
    let read = |field, text: Option<&String>, zero_is_fine: bool| {
        let bad = |problem| PlanError::Duration { step: step.name.clone(), field, problem };
        let Some(text) = text else { return Ok(()) };
        let value = duration::parse(text).map_err(|error| bad(error.to_string()))?;
        if value > LONGEST {
            return Err(bad(format!("is longer than {}", duration::format(LONGEST))));
        }
        if value.is_zero() && !zero_is_fine {
            return Err(bad("must be longer than zero".to_owned()));
        }
        Ok(())
    };
    read("timeout", step.timeout.as_ref(), false)?;
    if let Some(policy) = &step.retry_policy {
        read("retryPolicy.initialDelay", policy.initial_delay.as_ref(), true)?;
        read("retryPolicy.maxDelay", policy.max_delay.as_ref(), true)?;
        if policy.max_attempts.is_some_and(|attempts| attempts < 1) {
            return Err(PlanError::NoAttempts(step.name.clone()));
        }
    }
    Ok(())
}

fn check_references(plan: &Plan, names: &BTreeSet<&str>) -> Result<(), PlanError> {
    let must_exist = |step: &str, relation, name: &String| {
        if names.contains(name.as_str()) {
            Ok(())
        } else {
            Err(PlanError::Unknown { step: step.to_owned(), relation, missing: name.clone() })
        }
    };
    for step in &plan.steps {
        for name in &step.depends_on {
            must_exist(&step.name, "depends on", name)?;
        }
        for name in &step.needs_output {
            must_exist(&step.name, "needs the output of", name)?;
            if !step.depends_on.contains(name) {
                return Err(PlanError::NeedsUnordered { step: step.name.clone(), source_step: name.clone() });
            }
        }
        if let Some(name) = &step.compensate {
            must_exist(&step.name, "is undone by", name)?;
        }
    }
    if let Some(name) = &plan.point_of_no_return {
        must_exist("pointOfNoReturn", "names", name)?;
    }
    if let Some(name) = plan.lock.as_ref().and_then(|lock| lock.before.as_ref()) {
        must_exist("lock.before", "names", name)?;
    }
    Ok(())
}

fn check_compensations(plan: &Plan) -> Result<(), PlanError> {
    let mut undoes: BTreeMap<&str, &str> = BTreeMap::new();
    for step in &plan.steps {
        let Some(compensation) = &step.compensate else { continue };
        let misused = |conflict| PlanError::CompensationMisused {
            step: step.name.clone(),
            compensation: compensation.clone(),
            conflict,
        };
        if *compensation == step.name {
            return Err(misused("be that very step"));
        }
        if undoes.insert(compensation, &step.name).is_some() {
            return Err(misused("undo another step as well"));
        }
    }
    for step in &plan.steps {
        let misused = |compensation: &str, conflict| PlanError::CompensationMisused {
            step: undoes.get(compensation).map_or_else(String::new, |name| (*name).to_owned()),
            compensation: compensation.to_owned(),
            conflict,
        };
        if undoes.contains_key(step.name.as_str()) {
            if step.compensate.is_some() {
                return Err(misused(&step.name, "be undone itself"));
            }
            if !step.depends_on.is_empty() {
                return Err(misused(&step.name, "depend on other steps"));
            }
            if step.kind == StepKind::OnceOnly {
                return Err(misused(
                    &step.name,
                    "happen only once (kind OnceOnly): undoing is tried again until it is done",
                ));
            }
            if plan.point_of_no_return.as_ref() == Some(&step.name) {
                return Err(misused(&step.name, "be the point of no return"));
            }
            if plan.lock.as_ref().and_then(|lock| lock.before.as_ref()) == Some(&step.name) {
                return Err(misused(&step.name, "be the step that the lock is taken before"));
            }
        }
        for name in &step.depends_on {
            if undoes.contains_key(name.as_str()) {
                return Err(misused(name, "be a forward step that others depend on"));
            }
        }
    }
    Ok(())
}

/// The steps that are only ever run to undo others.
pub fn compensations(plan: &Plan) -> BTreeSet<&str> {
    plan.steps.iter().filter_map(|step| step.compensate.as_deref()).collect()
}

/// The forward steps in the order in which they run: topological, and among steps that could run together the order in
/// which they are written. Also answers whether there is such an order.
pub fn order(plan: &Plan) -> Result<Vec<usize>, PlanError> {
    let index: HashMap<&str, usize> =
        plan.steps.iter().enumerate().map(|(index, step)| (step.name.as_str(), index)).collect();
    let undoing = compensations(plan);
    let mut left: Vec<usize> =
        (0..plan.steps.len()).filter(|index| !undoing.contains(plan.steps[*index].name.as_str())).collect();
    let mut done = vec![false; plan.steps.len()];
    let mut order = Vec::with_capacity(left.len());
    while !left.is_empty() {
        let ready = left.iter().position(|&step| {
            plan.steps[step].depends_on.iter().all(|name| index.get(name.as_str()).is_some_and(|&on| done[on]))
        });
        let Some(ready) = ready else {
            return Err(PlanError::Cycle(circle(plan, &left, &index)));
        };
        let step = left.remove(ready);
        done[step] = true;
        order.push(step);
    }
    Ok(order)
}

/// One circle among the steps that are `left`: every one of them waits for another of them.
fn circle(plan: &Plan, left: &[usize], index: &HashMap<&str, usize>) -> Vec<String> {
    let mut path: Vec<usize> = vec![];
    let mut step = left.first().copied();
    while let Some(at) = step {
        if let Some(start) = path.iter().position(|&seen| seen == at) {
            return path[start..].iter().chain([&at]).map(|&step| plan.steps[step].name.clone()).collect();
        }
        path.push(at);
        step = plan.steps[at]
            .depends_on
            .iter()
            .filter_map(|name| index.get(name.as_str()).copied())
            .find(|on| left.contains(on));
    }
    left.iter().map(|&step| plan.steps[step].name.clone()).collect()
}

/// SHA-256 over the plan and its inputs, in hexadecimal. Fields that say nothing are left out of the JSON, so a later
/// version with more fields computes the same hash for an old plan.
pub fn hash(plan: &Plan, inputs: &BTreeMap<String, String>) -> String {
    #[derive(Serialize)]
    struct Frozen<'a> {
        plan: &'a Plan,
        inputs: &'a BTreeMap<String, String>,
    }
    // Strings, numbers and maps with string keys always serialise; an empty hash would only ever match nothing.
    let json = serde_json::to_vec(&Frozen { plan, inputs }).unwrap_or_default();
    hex(&Sha256::digest(json))
}

/// Bytes as lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// How long `step` may take.
pub fn timeout(step: &StepSpec) -> Duration {
    step.timeout.as_deref().and_then(|text| duration::parse(text).ok()).unwrap_or(DEFAULT_TIMEOUT).min(LONGEST)
}

/// How often a step runs in all, counting the first time.
pub fn max_attempts(policy: Option<&RetryPolicy>) -> i32 {
    policy.and_then(|policy| policy.max_attempts).unwrap_or(3).max(1)
}

/// The delay before the next attempt, after `retries` retries have been decided on (the first one is 1).
pub fn retry_delay(policy: Option<&RetryPolicy>, retries: i32) -> Duration {
    let read = |text: Option<&String>, default| text.and_then(|text| duration::parse(text).ok()).unwrap_or(default);
    let initial = read(policy.and_then(|policy| policy.initial_delay.as_ref()), Duration::from_secs(5));
    let longest = read(policy.and_then(|policy| policy.max_delay.as_ref()), Duration::from_secs(60)).min(LONGEST);
    let retries = u32::try_from(retries.max(1)).unwrap_or(1);
    let delay = match policy.and_then(|policy| policy.backoff).unwrap_or_default() {
        Backoff::None => Duration::ZERO,
        Backoff::Linear => initial.saturating_mul(retries),
        Backoff::Exponential => initial.saturating_mul(2_u32.saturating_pow(retries - 1)),
    };
    delay.min(longest)
}

/// The longest delay that `policy` can ask for.
pub fn longest_delay(policy: Option<&RetryPolicy>) -> Duration {
    retry_delay(policy, i32::MAX)
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
