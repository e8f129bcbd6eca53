//! Asking something of a running operation, on behalf of the object that it works for.

use kube::{
    Api, Client, ResourceExt,
    api::{Patch, PatchParams},
};
use serde_json::json;

use crate::{
    adapter::kubernetes::client::{RequestError, timed},
    api::{HandledRequest, OpenBaoOperation, Request},
};

/// The nonce with which `operation` is asked for one thing: `first`, the same each time, so that nothing is asked twice. If that
/// was answered `in_vain` and the operation, as the caller has seen, still has to be asked, it is the next one: a refusal must not
/// be the last word.
pub fn nonce(first: &str, operation: &OpenBaoOperation, in_vain: impl Fn(&HandledRequest) -> bool) -> String {
    let answers = operation.status.as_ref().map(|status| status.handled_requests.as_slice()).unwrap_or_default();
    let used = |nonce: &str| answers.iter().any(|answer| answer.nonce == nonce && in_vain(answer));
    let (mut nonce, mut count) = (first.to_owned(), 1);
    while used(&nonce) {
        count += 1;
        nonce = format!("{first}-{count}");
    }
    nonce
}

/// Adds the requests whose nonce `operation` does not know, and writes nothing if it knows them all. Against the
/// resourceVersion that was seen: what somebody else asks at the same moment is not lost.
pub async fn ask(
    client: &Client,
    operation: &OpenBaoOperation,
    requests: impl IntoIterator<Item = Request>,
) -> Result<(), RequestError> {
    let known = &operation.spec.requests;
    let new: Vec<Request> =
        requests.into_iter().filter(|request| !known.iter().any(|known| known.nonce == request.nonce)).collect();
    if new.is_empty() {
        return Ok(());
    }
    let all: Vec<&Request> = known.iter().chain(&new).collect();
    let patch = json!({ "metadata": { "resourceVersion": operation.resource_version() }, "spec": { "requests": all } });
    let api: Api<OpenBaoOperation> = Api::namespaced(client.clone(), &operation.namespace().unwrap_or_default());
    timed(api.patch(&operation.name_any(), &PatchParams::default(), &Patch::Merge(&patch))).await.map(drop)
}
