//! What a restore decides, as pure functions over facts and a time. They follow the specification in its order:
//! [`copy`] and [`admit`] before anything is started, [`judge`] what the mover found, [`prove`] what became of the submission, [`again`]
//! whether another one follows.

pub mod admit;
pub mod again;
pub mod copy;
pub mod judge;
pub mod orphan;
pub mod phase;
pub mod prove;
pub mod room;

#[cfg(test)]
mod claim_model;

/// A no that does not change by itself: one word for machines, one sentence that names what to change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    pub reason: &'static str,
    pub message: String,
}

impl Refused {
    pub fn new(reason: &'static str, message: impl Into<String>) -> Self {
        Self { reason, message: message.into() }
    }
}
