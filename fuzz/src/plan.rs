//! Plan validation: any plan that parses.
//!
//! Checked: a plan that is accepted has an order, the order respects every dependency, no undoing step is in it, every
//! time in it can be read and is bounded; the hash depends on nothing but the content.

use std::collections::{BTreeMap, BTreeSet};

use openbao_operator::{
    api::operation::Plan,
    service::opslifecycle::{
        saga::plan::{LONGEST, compensations, hash, max_attempts, order, retry_delay, timeout, validate},
        workflow,
    },
};

use super::document;

pub fn check(input: &[u8]) {
    let Some((plan, _)) = document::<Plan>(input) else { return };
    for step in &plan.steps {
        // A workflow's own configuration is judged before anything else.
        let _ = workflow::check(step);
    }
    let _ = validate(&plan, Some(&workflow::ACTIONS));
    let Ok(()) = validate(&plan, None) else { return };
    let order = order(&plan).expect("an accepted plan has an order");
    let undoing: BTreeSet<&str> = compensations(&plan);
    let mut done = BTreeSet::new();
    for step in order {
        let step = &plan.steps[step];
        assert!(!undoing.contains(step.name.as_str()), "{} only undoes", step.name);
        assert!(step.depends_on.iter().all(|name| done.contains(name.as_str())), "{} comes too early", step.name);
        assert!(done.insert(step.name.as_str()), "{} comes twice", step.name);
        assert!(timeout(step) <= LONGEST && !timeout(step).is_zero());
        let policy = step.retry_policy.as_ref();
        assert!(max_attempts(policy) >= 1);
        for retries in [i32::MIN, 0, 1, 2, 31, 32, 33, i32::MAX] {
            assert!(retry_delay(policy, retries) <= LONGEST);
        }
    }
    assert_eq!(done.len() + undoing.len(), plan.steps.len(), "a step is neither forward nor undoing");
    let again: Plan = serde_json::from_str(&serde_json::to_string(&plan).unwrap()).unwrap();
    assert_eq!(hash(&plan, &BTreeMap::new()), hash(&again, &BTreeMap::new()), "the hash does not survive storage");
}
