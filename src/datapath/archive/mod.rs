//! Snapshot archives: a strict reader in constant memory.
//!
//! A server accepts broken trailers, appended data, doubled entries and foreign versions, and fails later or never says
//! so. This reader accepts exactly what a server writes. [`reader::read`] is one pass: [`gzip`] → [`tar`] → [`meta`] and
//! [`records`] → [`sealed`].

mod error;
mod gzip;
pub mod inspection;
pub(crate) mod meta;
mod reader;
mod records;
pub(crate) mod sealed;
mod tar;
#[cfg(test)]
mod tests;

pub use error::{ArchiveError, MetaError};
pub use inspection::{Inspection, RaftMember, SealInfo};
pub use reader::{Limits, Verified, read};
