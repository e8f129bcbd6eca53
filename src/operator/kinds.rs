//! Waits until the API server serves our kinds, with a message instead of a crash.
//!
//! Discovery is asked, not the definitions themselves: every authenticated client may, so the operator needs no right on
//! cluster-wide objects in namespaced mode. A watch that starts before its kind exists never ends at shutdown.

use std::collections::BTreeSet;
use std::time::Duration;

use kube::Client;

/// Group and version that the operator is written for.
const GROUP_VERSION: &str = "openbao.org/v1alpha1";
/// The kinds' plural names.
const NEEDED: [&str; 4] = ["openbaoclusters", "openbaooperations", "openbaorestores", "openbaorollouts"];
/// Cheap for the server, and short enough for whoever has just applied the definitions.
const ASK_EVERY: Duration = Duration::from_secs(2);
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// Returns once all kinds are served. `waiting` is told, whenever it changes, what for.
pub async fn served(client: &Client, waiting: impl Fn(String)) {
    let mut said = String::new();
    loop {
        let answer = tokio::time::timeout(REQUEST_TIMEOUT, client.list_api_group_resources(GROUP_VERSION)).await;
        let why = match answer {
            Ok(Ok(list)) => match missing(list.resources.iter().map(|resource| resource.name.as_str())) {
                None => return,
                Some(missing) => awaited(&missing),
            },
            // An unknown group is answered in plain text: a code without a reason.
            Ok(Err(kube::Error::Api(status))) if status.code == 404 => awaited(&NEEDED.join(", ")),
            Ok(Err(error)) => format!("the API server: {}", crate::causes::chain(&error)),
            Err(_) => format!("the API server: no answer within {} seconds", REQUEST_TIMEOUT.as_secs()),
        };
        if why != said {
            tracing::warn!(awaited = why, "not started yet");
            waiting(why.clone());
            said = why;
        }
        tokio::time::sleep(ASK_EVERY).await;
    }
}

fn awaited(missing: &str) -> String {
    format!(
        "the custom resource definitions {missing} of {GROUP_VERSION}: install the chart with its CRDs, or apply crds/"
    )
}

fn missing<'a>(served: impl Iterator<Item = &'a str>) -> Option<String> {
    let served: BTreeSet<&str> = served.collect();
    let missing: Vec<&str> = NEEDED.into_iter().filter(|name| !served.contains(name)).collect();
    (!missing.is_empty()).then(|| missing.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_waited_for_and_only_the_missing_ones_are_named() {
        assert_eq!(missing(NEEDED.into_iter()), None);
        let half = ["openbaoclusters", "openbaoclusters/status", "openbaorollouts"];
        assert_eq!(missing(half.into_iter()).as_deref(), Some("openbaooperations, openbaorestores"));
    }
}
