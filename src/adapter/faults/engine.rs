//! The one place that counts requests and says what is to happen to each.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::VARIABLE;
use super::rules::{Call, Fault, RulesFile};

/// The rules in force and what was counted under them.
#[derive(Debug)]
pub struct Engine {
    /// `None`: the rules came with the environment and stay.
    path: Option<PathBuf>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    text: String,
    file: RulesFile,
    /// Matching requests per rule.
    counts: Vec<u64>,
    writes: u64,
    /// When these rules came.
    since: Instant,
}

impl State {
    fn new(text: String) -> Self {
        let file = serde_json::from_str(&text).unwrap_or_else(|error| {
            tracing::error!(%error, "the fault rules cannot be read: none are in force");
            RulesFile::default()
        });
        let counts = vec![0; file.rules.len()];
        Self { text, file, counts, writes: 0, since: Instant::now() }
    }

    fn tell(&self, line: &Value) {
        let Some(path) = &self.file.trace else { return };
        let written = OpenOptions::new().create(true).append(true).open(path);
        // One write call per line: processes that share a trace don't mix their lines.
        if let Err(error) = written.and_then(|mut file| file.write_all(format!("{line}\n").as_bytes())) {
            tracing::error!(%error, "the trace of faults cannot be written");
        }
    }
}

/// What is to happen to one request.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Verdict {
    /// Its number among the writes.
    pub(super) number: Option<u64>,
    pub(super) fault: Option<Fault>,
}

impl Engine {
    /// The process's engine; `None` when nobody asked for faults.
    pub fn global() -> Option<&'static Self> {
        static ENGINE: OnceLock<Option<Engine>> = OnceLock::new();
        ENGINE.get_or_init(|| std::env::var(VARIABLE).ok().map(|text| Self::new(&text))).as_ref()
    }

    /// By a path, or by the rules themselves.
    pub fn new(text: &str) -> Self {
        let inline = text.trim_start().starts_with('{');
        let path = (!inline).then(|| PathBuf::from(text));
        let first = path.as_deref().map_or_else(|| text.to_owned(), read);
        tracing::warn!(rules = text, "faults are injected on purpose");
        Self { path, state: Mutex::new(State::new(first)) }
    }

    fn current(&self) -> MutexGuard<'_, State> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(path) = &self.path {
            let text = read(path);
            if text != state.text {
                *state = State::new(text);
            }
        }
        state
    }

    /// Counts the request and decides.
    pub(super) fn judge(&self, call: &Call) -> Verdict {
        let mut state = self.current();
        let number = call.write.then(|| {
            state.writes += 1;
            state.writes
        });
        let mut struck = None;
        for index in 0..state.file.rules.len() {
            let rule = &state.file.rules[index];
            if rule.fault.is_of_watches() || !rule.matcher.covers(call) {
                continue;
            }
            state.counts[index] += 1;
            if struck.is_none() && state.file.rules[index].is_due(state.counts[index]) {
                struck = Some(index);
            }
        }
        let described = |what: &str| {
            json!({"what": what, "write": number, "server": call.server, "verb": call.verb,
                "resource": call.resource, "name": call.name, "pid": std::process::id()})
        };
        if number.is_some() {
            state.tell(&described("write"));
        }
        let fault = struck.map(|index| state.file.rules[index].fault.clone());
        if let (Some(index), Some(fault)) = (struck, &fault) {
            let mut line = described("fault");
            line["rule"] = json!(state.file.rules[index].name);
            line["fault"] = json!(format!("{fault:?}"));
            state.tell(&line);
        }
        Verdict { number, fault }
    }

    /// Notes the answer to a write.
    pub(super) fn answered(&self, number: Option<u64>, status: u16) {
        if let Some(number) = number {
            self.current()
                .tell(&json!({"what": "answer", "write": number, "status": status, "pid": std::process::id()}));
        }
    }

    /// What is to happen to the events of this watch now, and since when.
    pub(super) fn watching(&self, call: &Call) -> Option<(Fault, Instant)> {
        let state = self.current();
        let rule = state.file.rules.iter().find(|rule| rule.fault.is_of_watches() && rule.matcher.covers(call))?;
        Some((rule.fault.clone(), state.since))
    }
}

fn read(path: &Path) -> String {
    // A file that is being replaced is there again at the next request.
    fs::read_to_string(path).unwrap_or_else(|_| "{}".to_owned())
}

/// Sends a request as the rules want it. `silence` makes the error of a broken connection, `answer` an answer that no
/// server gave, `status` reads an answer's.
pub async fn through<T, E, F>(
    engine: &Engine,
    call: &Call,
    mut send: impl FnMut() -> F,
    silence: impl Fn(&'static str) -> E,
    answer: impl Fn(u16) -> T,
    status: impl Fn(&T) -> u16,
) -> Result<T, E>
where
    F: Future<Output = Result<T, E>>,
{
    let Verdict { number, fault } = engine.judge(call);
    let answered = match fault {
        None => send().await,
        Some(Fault::FailBefore) => return Err(silence("the request was not sent, on purpose")),
        Some(Fault::Answer { status }) => return Ok(answer(status)),
        Some(Fault::AbortBefore) => std::process::abort(),
        Some(Fault::Delay { millis }) => {
            tokio::time::sleep(Duration::from_millis(millis)).await;
            send().await
        }
        Some(Fault::Repeat) => {
            drop(send().await);
            send().await
        }
        Some(Fault::DropAnswer) => {
            let lost = send().await?;
            engine.answered(number, status(&lost));
            return Err(silence("the answer was dropped, on purpose"));
        }
        Some(Fault::AbortAfter) => {
            drop(send().await?);
            std::process::abort()
        }
        Some(
            Fault::Cut
            | Fault::Freeze { .. }
            | Fault::Behind { .. }
            | Fault::OneBehind { .. }
            | Fault::Duplicate
            | Fault::Swap
            | Fault::Skip { .. },
        ) => send().await,
    };
    if let Ok(answered) = &answered {
        engine.answered(number, status(answered));
    }
    answered
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Method;

    fn write(name: &str) -> Call {
        Call::kubernetes(&Method::PATCH, &format!("/api/v1/namespaces/x/configmaps/{name}"), "")
    }

    /// Sends one write; what the server saw is counted in `acted`.
    async fn send(engine: &Engine, acted: &std::cell::Cell<u32>) -> Result<u16, &'static str> {
        let act = || {
            acted.set(acted.get() + 1);
            async { Ok(200_u16) }
        };
        through(engine, &write("a"), act, |why| why, |status| status, |status| *status).await
    }

    #[tokio::test]
    async fn each_fault_is_what_its_name_says() {
        for (fault, seen, acted) in [
            (r#"{"fault": "fail-before"}"#, Err("the request was not sent, on purpose"), 0),
            (r#"{"fault": "drop-answer"}"#, Err("the answer was dropped, on purpose"), 1),
            (r#"{"fault": "repeat"}"#, Ok(200), 2),
            (r#"{"fault": "answer", "status": 503}"#, Ok(503), 0),
            (r#"{"fault": "delay", "millis": 1}"#, Ok(200), 1),
        ] {
            let engine = Engine::new(&format!(r#"{{"rules": [{{"at": 2, "do": {fault}}}]}}"#));
            let count = std::cell::Cell::new(0);
            assert_eq!(send(&engine, &count).await, Ok(200), "{fault}: the first is left alone");
            count.set(0);
            assert_eq!(send(&engine, &count).await, seen, "{fault}");
            assert_eq!(count.get(), acted, "{fault}");
            count.set(0);
            assert_eq!(send(&engine, &count).await, Ok(200), "{fault}: so is the third");
        }
    }

    #[test]
    fn a_changed_file_is_in_force_at_the_next_request_and_counts_from_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rules.json");
        let trace = folder.path().join("trace");
        let engine = Engine::new(path.to_str().unwrap());
        assert_eq!(engine.judge(&write("a")), Verdict { number: Some(1), fault: None });
        assert_eq!(engine.judge(&write("a")).number, Some(2));
        let rules = json!({"trace": trace, "rules": [{"name": "r", "at": 2, "do": {"fault": "fail-before"}}]});
        fs::write(&path, rules.to_string()).unwrap();
        assert_eq!(engine.judge(&write("b")), Verdict { number: Some(1), fault: None });
        let read = Call::kubernetes(&Method::GET, "/api/v1/namespaces/x/configmaps/a", "");
        assert_eq!(engine.judge(&read), Verdict { number: None, fault: Some(Fault::FailBefore) });
        let lines: Vec<Value> =
            fs::read_to_string(&trace).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!((&lines[0]["what"], &lines[0]["name"]), (&json!("write"), &json!("b")));
        assert_eq!((&lines[1]["what"], &lines[1]["rule"]), (&json!("fault"), &json!("r")));
    }
}
