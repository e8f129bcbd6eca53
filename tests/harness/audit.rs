//! How much a client asks of the API server, from the API server's own audit log.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};
use serde_json::Value;

/// A window into the audit log, open at its end.
pub struct Audit {
    log: PathBuf,
    from: u64,
}

/// One request as the API server saw it.
#[derive(Debug, Clone)]
pub struct Request {
    pub user: String,
    /// Which of the user's tokens.
    pub credential: String,
    pub verb: String,
    /// With its subresource: `openbaoclusters/status`.
    pub resource: String,
    pub namespace: String,
    pub name: String,
    pub code: i64,
    pub at: DateTime<Utc>,
}

impl Request {
    pub fn writes(&self) -> bool {
        matches!(self.verb.as_str(), "create" | "update" | "patch" | "delete" | "deletecollection")
    }
}

impl Audit {
    pub fn from_now(log: &Path) -> Self {
        let from = fs::metadata(log).map_or(0, |metadata| metadata.len());
        Self { log: log.to_path_buf(), from }
    }

    /// Every request of users whose name contains `user` since the window opened. A watch counts when it is answered,
    /// any other request when it is done.
    pub fn requests(&self, user: &str) -> Vec<Request> {
        let mut file = File::open(&self.log).expect("the audit log");
        file.seek(SeekFrom::Start(self.from)).expect("the audit log's end");
        BufReader::new(file)
            .lines()
            .map_while(Result::ok)
            .filter_map(|line| serde_json::from_str::<Value>(&line).ok())
            .filter_map(|event| request(&event))
            .filter(|request| request.user.contains(user))
            .collect()
    }

    /// The same, counted by verb and resource.
    pub fn count(&self, user: &str) -> BTreeMap<(String, String), usize> {
        let mut counts = BTreeMap::new();
        for request in self.requests(user) {
            *counts.entry((request.verb, request.resource)).or_default() += 1;
        }
        counts
    }
}

fn request(event: &Value) -> Option<Request> {
    let text = |pointer: &str| event.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
    let (verb, stage) = (text("/verb"), text("/stage"));
    let counted = if verb == "watch" { "ResponseStarted" } else { "ResponseComplete" };
    if stage != counted {
        return None;
    }
    let mut resource = text("/objectRef/resource");
    if resource.is_empty() {
        resource = text("/requestURI");
    }
    let subresource = text("/objectRef/subresource");
    if !subresource.is_empty() {
        resource = format!("{resource}/{subresource}");
    }
    Some(Request {
        user: text("/user/username"),
        credential: text("/user/extra/authentication.kubernetes.io~1credential-id/0"),
        verb,
        resource,
        namespace: text("/objectRef/namespace"),
        name: text("/objectRef/name"),
        code: event.pointer("/responseStatus/code").and_then(Value::as_i64).unwrap_or_default(),
        at: DateTime::parse_from_rfc3339(&text("/requestReceivedTimestamp")).ok()?.to_utc(),
    })
}
