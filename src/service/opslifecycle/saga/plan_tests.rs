//! Every way in which a plan is not sound, the order of its steps, and the delays of each policy.

use proptest::prelude::*;

use super::*;
use crate::api::operation::LockPlan;

fn step(name: &str, on: &[&str]) -> StepSpec {
    StepSpec {
        name: name.into(),
        action: "Wait".into(),
        depends_on: on.iter().map(|&name| name.into()).collect(),
        ..StepSpec::default()
    }
}

fn undone_by(mut step: StepSpec, compensation: &str) -> StepSpec {
    step.compensate = Some(compensation.into());
    step
}

fn plan(steps: Vec<StepSpec>) -> Plan {
    Plan { steps, ..Plan::default() }
}

fn refusal(steps: Vec<StepSpec>) -> PlanError {
    validate(&plan(steps), Some(&["Wait"])).unwrap_err()
}

#[test]
fn a_plan_needs_steps_but_not_too_many() {
    assert_eq!(refusal(vec![]), PlanError::Empty);
    let many = (0..65).map(|n| step(&format!("s{n}"), &[])).collect();
    assert_eq!(refusal(many), PlanError::TooManySteps(65));
}

#[test]
fn a_plan_that_would_not_fit_into_its_object_is_refused() {
    let mut large = step("a", &[]);
    large.config.insert("text".into(), "x".repeat(MOST_BYTES));
    assert!(matches!(refusal(vec![large]), PlanError::TooLarge(_)));
}

#[test]
fn names_are_there_and_unique() {
    assert_eq!(refusal(vec![step("", &[])]), PlanError::Unnamed(1));
    assert_eq!(refusal(vec![step("a", &[]), step("a", &[])]), PlanError::Duplicate("a".into()));
}

#[test]
fn what_a_step_refers_to_exists() {
    assert!(matches!(refusal(vec![step("a", &["b"])]), PlanError::Unknown { missing, .. } if missing == "b"));
    assert!(
        matches!(refusal(vec![undone_by(step("a", &[]), "u")]), PlanError::Unknown { missing, .. } if missing == "u")
    );
    let mut returning = plan(vec![step("a", &[])]);
    returning.point_of_no_return = Some("z".into());
    assert!(matches!(validate(&returning, None), Err(PlanError::Unknown { .. })));
    let mut locked = plan(vec![step("a", &[])]);
    locked.lock = Some(LockPlan {
        operation: crate::api::cluster::status::LockOperation::Backup,
        holder: "h".into(),
        holder_uid: "u".into(),
        before: Some("z".into()),
        force: false,
        message: None,
    });
    assert!(matches!(validate(&locked, None), Err(PlanError::Unknown { .. })));
}

#[test]
fn circles_are_named() {
    let error = refusal(vec![step("a", &["c"]), step("b", &["a"]), step("c", &["b"])]);
    assert_eq!(error, PlanError::Cycle(vec!["a".into(), "c".into(), "b".into(), "a".into()]));
    assert_eq!(refusal(vec![step("a", &["a"])]), PlanError::Cycle(vec!["a".into(), "a".into()]));
    // A step that only hangs on a circle is not part of it.
    let error = refusal(vec![step("tail", &["a"]), step("a", &["b"]), step("b", &["a"])]);
    assert_eq!(error, PlanError::Cycle(vec!["a".into(), "b".into(), "a".into()]));
}

#[test]
fn a_compensation_is_nothing_but_a_compensation() {
    let misused = |steps| matches!(refusal(steps), PlanError::CompensationMisused { .. });
    assert!(misused(vec![undone_by(step("a", &[]), "a")]), "undoing itself");
    assert!(misused(vec![undone_by(step("a", &[]), "u"), undone_by(step("b", &[]), "u"), step("u", &[])]), "shared");
    assert!(misused(vec![undone_by(step("a", &[]), "u"), step("u", &[]), step("b", &["u"])]), "a forward dependency");
    assert!(misused(vec![undone_by(step("a", &[]), "u"), step("u", &["a"])]), "depending on a forward step");
    assert!(misused(vec![undone_by(step("a", &[]), "u"), undone_by(step("u", &[]), "v"), step("v", &[])]), "a chain");
    let mut once = step("u", &[]);
    once.kind = StepKind::OnceOnly;
    assert!(misused(vec![undone_by(step("a", &[]), "u"), once]), "it would have to happen again");
}

#[test]
fn unknown_actions_and_bad_times_are_named() {
    let mut dance = step("a", &[]);
    dance.action = "Dance".into();
    assert!(matches!(refusal(vec![dance]), PlanError::UnknownAction { action, .. } if action == "Dance"));
    for text in ["soon", "0s", "40d"] {
        let mut slow = step("a", &[]);
        slow.timeout = Some(text.into());
        assert!(matches!(refusal(vec![slow]), PlanError::Duration { field: "timeout", .. }), "{text}");
    }
    let mut never = step("a", &[]);
    never.retry_policy = Some(RetryPolicy { max_attempts: Some(0), ..RetryPolicy::default() });
    assert_eq!(refusal(vec![never]), PlanError::NoAttempts("a".into()));
}

#[test]
fn an_output_is_needed_only_from_what_comes_before() {
    let mut reader = step("b", &[]);
    reader.needs_output = vec!["a".into()];
    assert!(matches!(refusal(vec![step("a", &[]), reader]), PlanError::NeedsUnordered { .. }));
}

#[test]
fn steps_run_after_what_they_depend_on_and_otherwise_as_written() {
    let plan = plan(vec![step("c", &["a"]), step("a", &[]), undone_by(step("b", &[]), "u"), step("u", &[])]);
    let names: Vec<&str> = order(&plan).unwrap().into_iter().map(|step| plan.steps[step].name.as_str()).collect();
    assert_eq!(names, ["a", "c", "b"], "and the compensation not at all");
}

#[test]
fn the_hash_sees_every_change_and_nothing_else() {
    let inputs = BTreeMap::from([("key".to_owned(), "value".to_owned())]);
    let one = plan(vec![step("a", &[])]);
    assert_eq!(hash(&one, &inputs), hash(&one.clone(), &inputs));
    assert_ne!(hash(&one, &inputs), hash(&one, &BTreeMap::new()));
    assert_ne!(hash(&one, &inputs), hash(&plan(vec![step("b", &[])]), &inputs));
    // Through the API server and back.
    let back: Plan = serde_json::from_value(serde_json::to_value(&one).unwrap()).unwrap();
    assert_eq!(hash(&one, &inputs), hash(&back, &inputs));
    // Pinned: an operation that was started by an older version must still match.
    assert_eq!(hash(&one, &inputs), "6f217a86d368f8917a0c6865679596bc33a391b83ad4413b4476f626d9d55406");
}

#[test]
fn each_policy_has_the_delays_that_its_row_says() {
    let policy = |backoff, initial: &str, longest: &str| RetryPolicy {
        max_attempts: None,
        backoff: Some(backoff),
        initial_delay: Some(initial.into()),
        max_delay: Some(longest.into()),
    };
    let seconds = |policy: Option<&RetryPolicy>| -> Vec<u64> {
        (1..=5).map(|retries| retry_delay(policy, retries).as_secs()).collect()
    };
    assert_eq!(seconds(Some(&policy(Backoff::None, "5s", "60s"))), [0, 0, 0, 0, 0]);
    assert_eq!(seconds(Some(&policy(Backoff::Linear, "5s", "20s"))), [5, 10, 15, 20, 20]);
    assert_eq!(seconds(Some(&policy(Backoff::Exponential, "2s", "20s"))), [2, 4, 8, 16, 20]);
    assert_eq!(seconds(None), [5, 10, 20, 40, 60], "the default");
    assert_eq!(max_attempts(None), 3);
    assert_eq!(timeout(&step("a", &[])), Duration::from_secs(3600));
}

fn any_step() -> impl Strategy<Value = StepSpec> {
    let name = || prop_oneof![4 => "[a-f]", 1 => Just(String::new()), 1 => "\\PC{0,6}"];
    (
        name(),
        prop::collection::vec(name(), 0..4),
        prop::option::of(name()),
        prop::option::of(prop_oneof![Just("5s".to_owned()), "\\PC{0,6}"]),
        prop::option::of(any::<i32>()),
    )
        .prop_map(|(name, depends_on, compensate, text, number)| StepSpec {
            name,
            action: "Wait".into(),
            depends_on,
            compensate,
            timeout: text.clone(),
            retry_policy: Some(RetryPolicy { max_attempts: number, initial_delay: text, ..RetryPolicy::default() }),
            ..StepSpec::default()
        })
}

proptest! {
    #![proptest_config(ProptestConfig::default())]

    /// Whatever is written, the answer is yes or a refusal with words, and a yes means an order that respects the plan.
    #[test]
    fn any_plan_is_judged_without_panic(steps in prop::collection::vec(any_step(), 0..8), number in any::<i32>()) {
        let plan = plan(steps);
        for step in &plan.steps {
            let _ = (timeout(step), retry_delay(step.retry_policy.as_ref(), number), max_attempts(step.retry_policy.as_ref()));
        }
        if let Err(error) = validate(&plan, None) { prop_assert!(!error.to_string().is_empty()) } else {
            let order = order(&plan).unwrap();
            let undoing = compensations(&plan);
            prop_assert_eq!(order.len() + undoing.len(), plan.steps.len());
            for (place, &step) in order.iter().enumerate() {
                for on in &plan.steps[step].depends_on {
                    prop_assert!(order[..place].iter().any(|&before| plan.steps[before].name == *on));
                }
            }
        }
    }
}
