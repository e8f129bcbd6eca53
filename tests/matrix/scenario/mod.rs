//! The operations that the matrix kills. One server where three would add nothing but time.

pub mod backup;
pub mod bootstrap;
pub mod restore;
pub mod restoretest;
pub mod rollback;
pub mod rotation;
pub mod scale;
pub mod upgrade;
pub mod workflow;

use openbao_operator::api::{OpenBaoOperation, OperationPhase};

use super::place::Place;
use crate::restore::setup::Bay;

/// `Ok` once the operation has succeeded and everything around it is let go.
async fn succeeded(place: &Place, operation: &str) -> Result<(), String> {
    let found =
        place.namespace.api::<OpenBaoOperation>().get_opt(operation).await.map_err(|error| error.to_string())?;
    let found = found.ok_or("it is not there yet")?;
    let status = found.status.unwrap_or_default();
    if status.phase.is_terminal() && status.phase != OperationPhase::Succeeded {
        // An end is an end: the comparison shows it.
        return Ok(());
    }
    if status.phase == OperationPhase::Succeeded && found.metadata.finalizers.unwrap_or_default().is_empty() {
        return Ok(());
    }
    Err(format!("{:?}: {:?}", status.phase, status.message))
}

/// Files in the place's claim, by what they are.
async fn files(bay: &Bay<'_>) -> std::collections::BTreeMap<String, i64> {
    let said = bay.on_claim("find /store -type f").await;
    let mut counts = std::collections::BTreeMap::from([("snapshots".to_owned(), 0), ("manifests".to_owned(), 0)]);
    for file in said.lines() {
        let kind = if file.ends_with(".snap") {
            "snapshots"
        } else if file.ends_with(".manifest.json") {
            "manifests"
        } else {
            "other files"
        };
        *counts.entry(kind.to_owned()).or_default() += 1;
    }
    counts
}
