//! The four kinds people touch: what their YAML looks like, what it defaults to, and what is refused at admission.
//!
//! Nothing here acts: every other layer imports this one and it imports none of them. One file is one concept, and
//! everything is re-exported flat, so that callers write `api::BackupTarget` whatever file it lives in.
//!
//! Three rules hold in all files. Doc comments end up in the CRDs and are the manual that `kubectl explain` prints.
//! Numbers are `i32` or `i64` with a stated range, because Kubernetes knows no unsigned formats. Durations and
//! quantities stay strings here, checked at admission and parsed where they are used.

#[cfg(test)]
pub(crate) mod admission;
pub mod cluster;
pub mod common;
pub mod conditions;
pub mod duration;
mod manifests;
pub mod operation;
pub mod restore;
pub mod rollout;
#[cfg(test)]
mod rulebook;
pub mod rules;
#[cfg(test)]
pub(crate) mod samples;
pub mod target;

pub use cluster::audit::*;
pub use cluster::backup::*;
pub use cluster::configuration::*;
pub use cluster::network::*;
pub use cluster::observability::*;
pub use cluster::plugins::*;
pub use cluster::selfinit::*;
pub use cluster::status::*;
pub use cluster::storage::*;
pub use cluster::tls::*;
pub use cluster::unseal::*;
pub use cluster::upgrade::*;
pub use cluster::workload::*;
pub use cluster::{DeletionPolicy, OpenBaoCluster, OpenBaoClusterSpec, Profile};
pub use common::*;
pub use manifests::{ManifestError, crd_files, crds};
pub use operation::*;
pub use restore::*;
pub use rollout::*;
pub use target::*;
