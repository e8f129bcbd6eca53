//! One version brought to several clusters: in which order members are prepared, and who lets leadership move.
//!
//! Each member is an `Upgrade` operation of its own cluster, under that cluster's lock. The rollout only decides when a member
//! begins ([`decide`]) and, where leadership moves in order, when a parked one may go on; a person stops, resumes and retries
//! it by [`requests`]. A claim is written to the rollout's status against the resourceVersion it was decided on, and only
//! then acted upon: two operators never begin the same member, and never move the leadership of two at once.

pub mod claimed;
mod cutover;
pub mod decide;
pub mod member;
pub mod policy;
pub mod requests;

pub use decide::{Decision, Effect, Facts, decide};

#[cfg(test)]
mod fixtures;
#[cfg(test)]
mod model_tests;
