//! Steering what runs: one entry in `spec.requests`, which the operator answers in `status.handledRequests`.

use std::time::Duration;

use kube::ResourceExt;
use tokio::time::{Instant, timeout_at};

use super::args::Steer;
use super::connection::{Connection, Kind};
use super::follow::Ended;
use super::{Error, tell};
use crate::api::{
    HandledRequest, OpenBaoCluster, OpenBaoOperation, OpenBaoRestore, OperationKind, Request, RequestAction,
    RequestOutcome,
};
use crate::causes::chain;
use crate::service::upgrade::{request as upgrade, versions};

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

impl Asked for OpenBaoCluster {
    fn requests(&self) -> &[Request] {
        &self.spec.requests
    }
    fn answers(&self) -> &[HandledRequest] {
        self.status.as_ref().map(|status| status.handled_requests.as_slice()).unwrap_or_default()
    }
}

/// To an operation, a restore or a cluster: by `restore/NAME` or `cluster/NAME`, or a restore when no operation has that name.
pub async fn send(connection: &Connection, steer: &Steer, action: Action) -> Result<Ended, Error> {
    let (kind, name) = steer.name.split_once('/').unwrap_or(("", &steer.name));
    let request = action.request(nonce(), &steer.reason, connection.user());
    match kind {
        "restore" | "openbaorestore" => ask::<OpenBaoRestore>(connection, name, request).await,
        "cluster" | "openbaocluster" => ask::<OpenBaoCluster>(connection, name, request).await,
        "op" | "operation" | "openbaooperation" => {
            to_operation(connection, &connection.get::<OpenBaoOperation>(name).await?, request).await
        }
        "" => {
            if let Some(operation) = connection.find::<OpenBaoOperation>(name).await? {
                return to_operation(connection, &operation, request).await;
            }
            if connection.find::<OpenBaoRestore>(name).await?.is_some() {
                return ask::<OpenBaoRestore>(connection, name, request).await;
            }
            let namespace = connection.namespace().to_owned();
            Err(Error::Missing("openbaooperation or openbaorestore", name.to_owned(), namespace))
        }
        other => Err(Error::Refused(format!("{other} is neither op nor restore nor cluster"))),
    }
}

async fn to_operation(connection: &Connection, operation: &OpenBaoOperation, request: Request) -> Result<Ended, Error> {
    let Some(cluster) = retried_by(operation, request.action)? else {
        return ask::<OpenBaoOperation>(connection, &operation.name_any(), request).await;
    };
    is_held(&connection.get::<OpenBaoCluster>(cluster).await?, operation)?;
    ask::<OpenBaoCluster>(connection, cluster, request).await
}

/// The cluster that tries an ended upgrade's version again: it holds the version back, and begins the next upgrade. What a rollout
/// began only the rollout begins again.
fn retried_by(operation: &OpenBaoOperation, action: RequestAction) -> Result<Option<&str>, Error> {
    let is_upgrade = operation.spec.operation == OperationKind::Upgrade;
    if action != RequestAction::Retry || !is_upgrade || !operation.has_ended() {
        return Ok(None);
    }
    match upgrade::rollout(operation) {
        Some(rollout) => Err(Error::Refused(format!(
            "{} is tried again by its rollout: put a Retry into spec.requests of {rollout}",
            operation.name_any()
        ))),
        None => Ok(Some(operation.spec.cluster.as_str())),
    }
}

/// The cluster lets go what it holds, whatever was asked about: that must be this upgrade's version.
fn is_held(cluster: &OpenBaoCluster, operation: &OpenBaoOperation) -> Result<(), Error> {
    let held = cluster.status.as_ref().and_then(|status| status.upgrade.as_ref()?.held_target.as_deref());
    let (name, record) = (cluster.name_any(), operation.name_any());
    let tried = upgrade::target(operation).map(|target| target.version).unwrap_or_default();
    match held {
        Some(held) if versions::is_same(held, &tried) => Ok(()),
        Some(held) => Err(Error::Refused(format!(
            "{record} went to {tried}, and cluster {name} holds back {held}: retry cluster/{name} tries that again"
        ))),
        None => Err(Error::Refused(format!(
            "{record} went to {tried}, and cluster {name} holds no version back: it goes to the one in its spec.version by itself"
        ))),
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
    fn an_upgrade_that_has_ended_is_tried_again_by_its_cluster_and_by_nobody_else() {
        let of = |kind: &str, phase: &str, action| {
            let text = format!(
                "metadata: {{name: a}}\nspec: {{cluster: fern, operation: {kind}}}\nstatus: {{phase: {phase}}}"
            );
            let operation: OpenBaoOperation = serde_saphyr::from_str(&text).unwrap();
            retried_by(&operation, action).unwrap().map(str::to_owned)
        };
        for phase in ["Failed", "RolledBack", "Cancelled", "ConstraintFailed"] {
            assert_eq!(of("Upgrade", phase, RequestAction::Retry).as_deref(), Some("fern"), "{phase}");
        }
        assert_eq!(of("Upgrade", "Running", RequestAction::Retry), None);
        assert_eq!(of("Upgrade", "Failed", RequestAction::Cancel), None);
        assert_eq!(of("Workflow", "Failed", RequestAction::Retry), None, "it says itself how often");
    }

    fn upgrade(version: &str, rollout: Option<&str>) -> OpenBaoOperation {
        let actor = rollout.map(|name| serde_json::json!({"identity": name, "source": "rollout"}));
        let json = serde_json::json!({
            "apiVersion": "openbao.org/v1alpha1", "kind": "OpenBaoOperation", "metadata": {"name": "fern-upgrade"},
            "spec": {
                "cluster": "fern", "operation": "Upgrade", "actor": actor,
                "parameters": {"version": version, "image": format!("bao:{version}")},
            },
            "status": {"phase": "Failed"},
        });
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn a_retry_lets_no_other_version_go_than_the_one_that_the_upgrade_was_about() {
        let holding = |held: Option<&str>| {
            let upgrade = crate::api::UpgradeStatus {
                held_target: held.map(str::to_owned),
                ..crate::api::UpgradeStatus::default()
            };
            let mut cluster = OpenBaoCluster::new("fern", crate::api::OpenBaoClusterSpec::default());
            cluster.status = Some(crate::api::OpenBaoClusterStatus { upgrade: Some(upgrade), ..Default::default() });
            cluster
        };
        let said = |held, tried| is_held(&holding(held), &upgrade(tried, None)).map_err(|error| error.to_string());
        assert_eq!(said(Some("2.7.2"), "v2.7.2"), Ok(()));
        let other = said(Some("2.7.1"), "2.7.2").unwrap_err();
        assert!(other.contains("went to 2.7.2") && other.contains("retry cluster/fern"), "{other}");
        assert!(said(None, "2.7.2").unwrap_err().contains("holds no version back"));
    }

    #[test]
    fn what_a_rollout_began_is_tried_again_by_the_rollout() {
        let operation = upgrade("2.7.2", Some("openbaorollout/spring"));
        let said = retried_by(&operation, RequestAction::Retry).unwrap_err().to_string();
        assert!(said.contains("spec.requests of openbaorollout/spring"), "{said}");
        assert_eq!(retried_by(&operation, RequestAction::Cancel).unwrap(), None);
    }

    #[test]
    fn a_skip_names_its_step_and_other_requests_name_none() {
        let skip = Action::Skip { step: "SafetyBackup".to_owned() };
        assert_eq!(skip.request("n".into(), "", "ann").step, "SafetyBackup");
        assert_eq!(Action::Retry.request("n".into(), "", "ann").step, "");
    }
}
