//! A test's hand on the fault layer of the operator that it started.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::{Value, json};

use crate::harness::Namespace;

/// The rules file of one namespace's operator, and the trace that the layer writes.
pub struct Rules {
    path: PathBuf,
    folder: PathBuf,
    /// How often rules were set. Each time has a trace of its own, so that no file of rules is like the one before and
    /// the layer counts from one again.
    times: AtomicU32,
}

impl Rules {
    pub fn new(namespace: &Namespace) -> Self {
        let folder = namespace.folder().to_owned();
        let rules = Self { path: folder.join("faults.json"), folder, times: AtomicU32::new(0) };
        rules.clear();
        rules
    }

    /// For the operator's environment, as `OPENBAO_FAULT_RULES`.
    pub fn path(&self) -> String {
        self.path.display().to_string()
    }

    /// Puts these rules in force and begins a new trace. Counting begins with the next request.
    pub fn set(&self, rules: &Value) {
        self.times.fetch_add(1, Ordering::Relaxed);
        self.replace(&json!({"trace": self.trace(), "rules": rules}));
    }

    /// No faults, no trace from here on; the trace written so far stays.
    pub fn clear(&self) {
        self.replace(&json!({"rules": []}));
    }

    /// Only the trace.
    pub fn watch(&self) {
        self.set(&json!([]));
    }

    fn replace(&self, file: &Value) {
        let new = self.path.with_extension("new");
        fs::write(&new, file.to_string()).expect("the rules are written");
        fs::rename(&new, &self.path).expect("the rules are put in place");
    }

    fn trace(&self) -> PathBuf {
        self.folder.join(format!("trace-{}.jsonl", self.times.load(Ordering::Relaxed)))
    }

    fn lines(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.trace()).unwrap_or_default();
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// The writes since the rules were set, in order.
    pub fn writes(&self) -> Vec<Value> {
        self.lines().into_iter().filter(|line| line["what"] == "write").collect()
    }

    /// The first fault that struck, as one line for people.
    pub fn struck(&self) -> Option<String> {
        self.lines().iter().find(|line| line["what"] == "fault").map(describe)
    }
}

/// `patch openbaoclusters/status kelp`
pub fn describe(line: &Value) -> String {
    let word = |key: &str| line[key].as_str().unwrap_or_default().to_owned();
    format!("{} {} {}", word("verb"), word("resource"), word("name")).trim_end().to_owned()
}
