//! Steering what runs: one entry in `spec.requests`, which the operator answers in `status.handledRequests`.

use std::time::Duration;

use kube::ResourceExt;

use super::args::Steer;
use super::connection::{Connection, Kind};
use super::{Error, say};
use crate::api::{HandledRequest, OpenBaoOperation, OpenBaoRestore, Request, RequestAction, RequestOutcome};

/// Requests that a list may hold; the oldest answered ones make room.
const KEPT: usize = 20;
/// How long to wait for the answer before pointing to where it will stand.
const ANSWER: Duration = Duration::from_secs(10);

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    Cancel,
    Resume,
    Abandon,
    Retry,
    Skip { step: String },
}

impl Action {
    fn request(&self, nonce: String, reason: &str, by: &str) -> Request {
        let (action, step) = match self {
            Self::Cancel => (RequestAction::Cancel, ""),
            Self::Resume => (RequestAction::Resume, ""),
            Self::Abandon => (RequestAction::Abandon, ""),
            Self::Retry => (RequestAction::Retry, ""),
            Self::Skip { step } => (RequestAction::Skip, step.as_str()),
        };
        Request {
            nonce,
            action,
            step: step.to_owned(),
            reason: reason.to_owned(),
            by: by.to_owned(),
            holder_uid: None,
            fence: None,
        }
    }
}

/// What takes requests and answers them.
pub trait Asked: Kind {
    fn requests(&self) -> &[Request];
    fn answers(&self) -> &[HandledRequest];
}

impl Asked for OpenBaoOperation {
    fn requests(&self) -> &[Request] {
        &self.spec.requests
    }
    fn answers(&self) -> &[HandledRequest] {
        self.status.as_ref().map(|status| status.handled_requests.as_slice()).unwrap_or_default()
    }
}

impl Asked for OpenBaoRestore {
    fn requests(&self) -> &[Request] {
        &self.spec.requests
    }
    fn answers(&self) -> &[HandledRequest] {
        self.status.as_ref().map(|status| status.handled_requests.as_slice()).unwrap_or_default()
    }
}

impl Asked for crate::api::OpenBaoCluster {
    fn requests(&self) -> &[Request] {
        &self.spec.requests
    }
    fn answers(&self) -> &[HandledRequest] {
        self.status.as_ref().map(|status| status.handled_requests.as_slice()).unwrap_or_default()
    }
}

/// To an operation, or to a restore: by `restore/NAME`, or when no operation has that name.
pub async fn send(connection: &Connection, steer: &Steer, action: Action) -> Result<(), Error> {
    let (kind, name) = steer.name.split_once('/').unwrap_or(("", &steer.name));
    let request = action.request(nonce(), &steer.reason, connection.user());
    match kind {
        "restore" | "openbaorestore" => ask::<OpenBaoRestore>(connection, name, request).await,
        "op" | "operation" | "openbaooperation" => ask::<OpenBaoOperation>(connection, name, request).await,
        "" if connection.find::<OpenBaoOperation>(name).await?.is_some() => {
            ask::<OpenBaoOperation>(connection, name, request).await
        }
        "" if connection.find::<OpenBaoRestore>(name).await?.is_some() => {
            ask::<OpenBaoRestore>(connection, name, request).await
        }
        "" => Err(Error::Missing(
            "openbaooperation or openbaorestore",
            name.to_owned(),
            connection.namespace().to_owned(),
        )),
        other => Err(Error::Refused(format!("{other} is neither op nor restore"))),
    }
}

/// Writes the request and waits a moment for the operator's answer.
pub async fn ask<K: Asked>(connection: &Connection, name: &str, request: Request) -> Result<(), Error> {
    let object: K = connection.get(name).await?;
    let nonce = request.nonce.clone();
    let action = request.action;
    connection.request(&object, &with(object.requests(), object.answers(), request)).await?;
    let deadline = tokio::time::Instant::now() + ANSWER;
    while tokio::time::Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(300)).await;
        let now: K = connection.get(name).await?;
        let Some(answer) = now.answers().iter().find(|answer| answer.nonce == nonce) else { continue };
        return match answer.outcome {
            RequestOutcome::Applied => say(&format!("{action:?} of {}: {}", now.name_any(), answer.message)),
            RequestOutcome::Superseded | RequestOutcome::Refused => Err(Error::Refused(answer.message.clone())),
        };
    }
    say(&format!("{action:?} asked of {name}; the answer will stand in status.handledRequests under nonce {nonce}"))
}

/// The list with one more, and without the oldest answered ones where it would grow too long.
fn with(before: &[Request], answers: &[HandledRequest], request: Request) -> Vec<Request> {
    let mut requests = before.to_vec();
    while requests.len() >= KEPT {
        let answered = requests.iter().position(|one| answers.iter().any(|answer| answer.nonce == one.nonce));
        requests.remove(answered.unwrap_or(0));
    }
    requests.push(request);
    requests
}

/// Never used before: the time for people, something random for two of them in the same second.
pub fn nonce() -> String {
    format!("{}-{:04x}", chrono::Utc::now().format("%Y-%m-%dT%H-%M-%SZ"), rand::random::<u16>())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(nonce: &str) -> Request {
        Action::Cancel.request(nonce.to_owned(), "", "ann")
    }

    #[test]
    fn a_request_is_added_and_nothing_unanswered_is_lost() {
        let before: Vec<Request> = (0..20).map(|number| request(&format!("n{number}"))).collect();
        let answers = [HandledRequest { nonce: "n3".to_owned(), ..HandledRequest::default() }];
        let after = with(&before, &answers, request("new"));
        assert_eq!(after.len(), 20);
        assert!(after.iter().all(|one| one.nonce != "n3"), "the answered one made room");
        assert_eq!(after.last().unwrap().nonce, "new");
    }

    #[test]
    fn a_skip_names_its_step_and_other_requests_name_none() {
        let skip = Action::Skip { step: "SafetyBackup".to_owned() };
        assert_eq!(skip.request("n".into(), "", "ann").step, "SafetyBackup");
        assert_eq!(Action::Retry.request("n".into(), "", "ann").step, "");
    }
}
