//! Steering what runs: one entry in `spec.requests`, which the operator answers in `status.handledRequests`.

use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::args::Steer;
use super::connection::{Connection, Kind};
use super::follow::Ended;
use super::{Error, tell};
use crate::api::{HandledRequest, OpenBaoOperation, OpenBaoRestore, Request, RequestAction, RequestOutcome};
use crate::causes::chain;

/// Requests that a list may hold; the oldest answered ones make room.
const KEPT: usize = 20;
/// How long to wait for the answer before pointing to where it will stand.
const ANSWER: Duration = Duration::from_secs(10);
/// Between two looks for it, and between two tries to ask.
const PAUSE: Duration = Duration::from_millis(300);
/// How often a request is written when somebody else, mostly the operator, changed the object in between.
const TRIES: u32 = 5;

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
pub async fn send(connection: &Connection, steer: &Steer, action: Action) -> Result<Ended, Error> {
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
pub async fn ask<K: Asked>(connection: &Connection, name: &str, request: Request) -> Result<Ended, Error> {
    let nonce = request.nonce.clone();
    let action = request.action;
    let written: K = persistently(async || {
        let object: K = connection.get(name).await?;
        if object.requests().iter().any(|one| one.nonce == nonce) {
            return Ok(object);
        }
        connection.request(&object, &with(object.requests(), object.answers(), request.clone())).await
    })
    .await?;
    let found = answered(&nonce, async || connection.get::<K>(name).await).await;
    let ended = ended(&found)?;
    match found {
        Ok((now, answer)) => tell(connection, &now, &format!("{action:?} of {name}: {}", answer.message))?,
        Err(last) => {
            if let Some(error) = last {
                eprintln!("the answer could not be looked for: {}", chain(&error));
            }
            let sentence = format!(
                "{action:?} asked of {name}, and no operator has answered yet; the answer will stand in status.handledRequests \
                 under nonce {nonce}"
            );
            tell(connection, &written, &sentence)?;
        }
    }
    Ok(ended)
}

/// For the exit code. Without an answer nothing has been done: what a script does next would be too early.
fn ended<K>(found: &Result<(K, HandledRequest), Option<Error>>) -> Result<Ended, Error> {
    match found {
        Ok((_, answer)) => match answer.outcome {
            RequestOutcome::Applied => Ok(Ended::Well),
            RequestOutcome::Superseded | RequestOutcome::Refused => Err(Error::Refused(answer.message.clone())),
        },
        Err(_) => Ok(Ended::NotYet),
    }
}

/// Asks again, with a fresh look, while somebody else is faster.
async fn persistently<K>(mut attempt: impl AsyncFnMut() -> Result<K, Error>) -> Result<K, Error> {
    let mut left = TRIES;
    loop {
        left -= 1;
        match attempt().await {
            Err(Error::Write { source, .. }) if source.is_conflict() && left > 0 => tokio::time::sleep(PAUSE).await,
            ended => return ended,
        }
    }
}

/// Looks for the answer until [`ANSWER`] is over. The request stands by then: a look that fails changes nothing about that, so
/// it is told only if no later one succeeded.
async fn answered<K: Asked>(
    nonce: &str,
    mut look: impl AsyncFnMut() -> Result<K, Error>,
) -> Result<(K, HandledRequest), Option<Error>> {
    let deadline = Instant::now() + ANSWER;
    let mut last = None;
    while Instant::now() < deadline {
        tokio::time::sleep(PAUSE).await;
        match timeout_at(deadline, look()).await {
            Ok(Ok(now)) => {
                last = None;
                let answer = now.answers().iter().find(|answer| answer.nonce == nonce).cloned();
                if let Some(answer) = answer {
                    return Ok((now, answer));
                }
            }
            Ok(Err(error)) => last = Some(error),
            Err(_) => break,
        }
    }
    Err(last)
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

    fn refused(code: u16, reason: &str) -> Error {
        let status = kube::core::Status::failure("no", reason).with_code(code);
        let source = kube::Error::Api(Box::new(status)).into();
        Error::Write { what: "openbaooperation a".to_owned(), source }
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_meets_another_change_is_asked_again_and_any_other_refusal_is_final() {
        for (conflicts, other, tries, works) in
            [(0, false, 1, true), (4, false, 5, true), (5, false, 5, false), (0, true, 1, false), (2, true, 3, false)]
        {
            let mut made = 0;
            let outcome = persistently(async || {
                made += 1;
                match made {
                    made if made <= conflicts => Err(refused(409, "Conflict")),
                    _ if other => Err(refused(403, "Forbidden")),
                    _ => Ok(()),
                }
            })
            .await;
            assert_eq!((made, outcome.is_ok()), (tries, works), "{conflicts} {other}");
        }
    }

    fn operation(answers: Vec<HandledRequest>) -> OpenBaoOperation {
        let status = crate::api::operation::OpenBaoOperationStatus {
            handled_requests: answers,
            ..crate::api::operation::OpenBaoOperationStatus::default()
        };
        OpenBaoOperation {
            status: Some(status),
            ..OpenBaoOperation::new("a", crate::api::OpenBaoOperationSpec::default())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_look_that_fails_does_not_end_the_wait_for_the_answer() {
        let mut looks = 0;
        let found = answered("n1", async || {
            looks += 1;
            let answer =
                HandledRequest { nonce: "n1".to_owned(), message: "done".to_owned(), ..HandledRequest::default() };
            match looks {
                1 | 3 => Err(refused(500, "InternalError")),
                2 => Ok(operation(vec![])),
                _ => Ok(operation(vec![answer])),
            }
        })
        .await;
        assert_eq!(found.unwrap().1.message, "done");
    }

    #[tokio::test(start_paused = true)]
    async fn without_an_answer_the_wait_ends_in_time_and_tells_only_a_trouble_that_lasted() {
        let start = Instant::now();
        let away = answered::<OpenBaoOperation>("n1", async || Err(refused(500, "InternalError"))).await;
        assert!(matches!(away, Err(Some(_))));
        let silent = answered::<OpenBaoOperation>("n1", std::future::pending).await;
        assert!(matches!(silent, Err(None)));
        let unanswered = answered("n1", async || Ok(operation(vec![]))).await;
        assert!(matches!(unanswered, Err(None)));
        assert!(start.elapsed() < 3 * ANSWER + 4 * PAUSE, "{:?}", start.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_nobody_answered_is_not_done() {
        let silent = answered("n1", async || Ok(operation(vec![]))).await;
        assert_eq!(ended(&silent).unwrap(), Ended::NotYet);
        let away = answered::<OpenBaoOperation>("n1", async || Err(refused(500, "InternalError"))).await;
        assert_eq!(ended(&away).unwrap(), Ended::NotYet, "nor is one whose answer could not be looked for");
        let told = |outcome| {
            let answer = HandledRequest { nonce: "n1".to_owned(), outcome, ..HandledRequest::default() };
            ended(&Ok((operation(vec![]), answer)))
        };
        assert_eq!(told(RequestOutcome::Applied).unwrap(), Ended::Well);
        assert!(told(RequestOutcome::Refused).is_err());
    }

    #[test]
    fn a_skip_names_its_step_and_other_requests_name_none() {
        let skip = Action::Skip { step: "SafetyBackup".to_owned() };
        assert_eq!(skip.request("n".into(), "", "ann").step, "SafetyBackup");
        assert_eq!(Action::Retry.request("n".into(), "", "ann").step, "");
    }
}
