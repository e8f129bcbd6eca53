//! Rolling upgrades that can stop, turn back, and be rolled back.
//!
//! [`decide`] says whether an upgrade is due and what the pods' template must show; [`steps`] decides each turn of a
//! running one; [`manager`] looks and acts. Truth is each pod's own health, never a label: an old leader was seen to
//! leave its label behind for ever.

pub mod decide;
mod gates;
pub mod headroom;
pub mod image;
pub mod manager;
pub mod request;
pub mod rollback;
pub mod steps;
pub mod trouble;
pub mod versions;

pub use decide::{TurnBack, UpgradeDecision, UpgradeFacts, decide};
pub use manager::{FINISH, PARK, SOAK, UpgradeManager};
pub use request::Park;
pub use rollback::RollbackManager;
