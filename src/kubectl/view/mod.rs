//! What is printed about each kind: objects and a time in, text out.

pub mod backups;
pub mod cluster;
pub mod operation;
pub mod restore;

use super::table::Tone;
use crate::api::{OperationPhase, RestorePhase};

/// How an operation's phase looks.
pub fn operation_tone(phase: OperationPhase) -> Tone {
    match phase {
        OperationPhase::Succeeded => Tone::Good,
        OperationPhase::Failed | OperationPhase::ConstraintFailed | OperationPhase::Unknown => Tone::Bad,
        OperationPhase::Running | OperationPhase::Recovering | OperationPhase::RolledBack => Tone::Warn,
        OperationPhase::Pending | OperationPhase::Cancelled => Tone::Plain,
    }
}

/// How a restore's phase looks, and its word.
pub fn restore_phase(phase: RestorePhase) -> (&'static str, Tone) {
    let tone = match phase {
        RestorePhase::Pending => Tone::Plain,
        RestorePhase::Validating | RestorePhase::Running => Tone::Warn,
        RestorePhase::Completed => Tone::Good,
        RestorePhase::Failed | RestorePhase::Unknown => Tone::Bad,
    };
    (phase.as_str(), tone)
}
