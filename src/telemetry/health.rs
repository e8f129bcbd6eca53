//! What `/readyz` answers: a few named facts that the process sets as they become true.

use std::sync::{Arc, Mutex, PoisonError};

/// What must be true before this replica is worth anything. A standby is ready when it knows who leads.
#[derive(Clone, Debug, Default)]
pub struct Readiness {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    /// What is still awaited, in words; empty means nothing was started yet.
    stage: Option<Stage>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Not ready: the text says what for.
    Waiting(String),
    /// Ready and idle: another replica leads.
    Standby,
    /// Ready and acting.
    Leading,
    /// Not ready any more: told to stop.
    Stopping,
}

impl Readiness {
    pub fn set(&self, stage: Stage) {
        self.lock().stage = Some(stage);
    }

    /// Whether to answer 200, and the sentence to answer with.
    pub fn report(&self) -> (bool, String) {
        match &self.lock().stage {
            None => (false, "starting".to_owned()),
            Some(Stage::Waiting(what)) => (false, format!("waiting for {what}")),
            Some(Stage::Standby) => (true, "standby: another replica leads".to_owned()),
            Some(Stage::Leading) => (true, "leading".to_owned()),
            Some(Stage::Stopping) => (false, "stopping".to_owned()),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_is_said_by_a_leader_and_by_a_standby_and_by_nobody_else() {
        let readiness = Readiness::default();
        assert_eq!(readiness.report(), (false, "starting".to_owned()));
        for (stage, ready) in [
            (Stage::Waiting("its CRDs".to_owned()), false),
            (Stage::Standby, true),
            (Stage::Leading, true),
            (Stage::Stopping, false),
        ] {
            readiness.set(stage.clone());
            assert_eq!(readiness.report().0, ready, "{stage:?}");
        }
    }
}
