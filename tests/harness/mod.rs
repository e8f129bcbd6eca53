//! What tests stand on: a ready devcluster, a namespace each, the operator as a process that can be killed, real stores,
//! and on failure the evidence in a folder.
//!
//! ```ignore
//! #[tokio::test]
//! async fn a_backup_survives_the_loss_of_the_operator() {
//!     let cluster = Cluster::get().await;
//!     let namespace = cluster.namespace("backup-survives").await;
//!     let mut operator = Operator::start(&namespace, &[]).await;
//!     // … apply objects with `cluster.client()`, wait with `eventually` …
//!     operator.kill();
//! }
//! ```
#![allow(dead_code, unused_imports, reason = "a harness offers more than today's tests take")]

mod audit;
mod cluster;
mod evidence;
mod namespace;
mod operator;
pub mod oracle;
mod own;
mod relay;
mod stores;
mod wait;

pub use audit::{Audit, Request};
pub use cluster::{Cluster, client_with};
pub use namespace::Namespace;
pub use operator::{Operator, rights, token_kubeconfig};
pub use own::Own;
pub use relay::Relay;
pub use stores::{Azurite, Store};
pub use wait::eventually;
