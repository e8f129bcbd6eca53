//! Rolling upgrades that can stop, turn back, and be rolled back.
//!
//! [`decide`] says whether an upgrade is due and what the pods' template must show; [`steps`] decides each turn of a
//! running one; [`manager`] looks and acts. Truth is each pod's own health, never a label: an old leader was seen to
//! leave its label behind for ever.

pub mod asked;
mod child;
mod cutover;
pub mod decide;
mod finished;
mod gates;
mod guest;
mod half;
pub mod headroom;
mod holds;
pub mod image;
pub mod manager;
mod park;
mod plan;
pub mod request;
pub mod rollback;
mod soak;
pub mod steps;
pub mod trouble;
pub mod versions;
mod votes;

pub use decide::{TurnBack, UpgradeDecision, UpgradeFacts, decide};
pub use finished::concluded;
pub use manager::UpgradeManager;
pub use plan::{FINISH, PARK, SOAK};
pub use request::Park;
pub use rollback::RollbackManager;
