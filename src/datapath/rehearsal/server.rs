//! The server of a restore test: a child of this process, started, watched and stopped by it.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::time::Instant;

use super::Plan;
use super::error::RehearsalError;
use crate::adapter::openbao::{Client, Endpoint, Health, HealthState};
use crate::datapath::error::MoverError;

/// What the configuration is called in the folder.
const CONFIG: &str = "server.hcl";
/// A server that was told to stop and has not by then is killed.
const STOPS_WITHIN: Duration = Duration::from_secs(60);
/// Until a server with the whole data leads: it reads all leases first.
const LEADS_WITHIN: Duration = Duration::from_mins(15);
/// A server that has its key unseals itself at once; one that does not tries again every five seconds.
const UNSEALS_WITHIN: Duration = Duration::from_secs(30);
/// Until an empty server answers.
const ANSWERS_WITHIN: Duration = Duration::from_mins(2);
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// Lines of its log that a message repeats, and how long each may be.
const WORDS: usize = 3;
const WORD: usize = 300;

/// A server that runs.
pub(super) struct Server {
    child: Mutex<Child>,
    client: Client,
    words: Words,
}

/// The last lines of a server's log that tell of trouble.
#[derive(Clone, Default)]
struct Words(Arc<Mutex<VecDeque<String>>>);

impl Server {
    /// Starts an empty one and waits until it answers.
    pub(super) async fn start(plan: &Plan) -> Result<Self, MoverError> {
        let path = plan.folder.join(CONFIG);
        let written = tokio::fs::write(&path, &plan.config).await;
        written.map_err(|source| MoverError::Scratch { what: "write", path, source })?;
        let address: SocketAddr = plan
            .address
            .parse()
            .map_err(|_| MoverError::Config(format!("the address \"{}\" is not ip:port", plan.address)))?;
        let endpoint =
            Endpoint { pod: "the test's server".to_owned(), address, tls_name: address.ip().to_string(), ca_pem: None };
        let client = Client::for_transfer(&endpoint).map_err(MoverError::Leader)?;
        let words = Words::default();
        let server = Self { child: Mutex::new(spawn(plan, &words)?), client, words };
        server.until(ANSWERS_WITHIN, |health| health.state == HealthState::Uninitialized).await?;
        Ok(server)
    }

    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    /// Until it says that it leads.
    pub(super) async fn until_it_leads(&self) -> Result<Health, MoverError> {
        self.until(LEADS_WITHIN, |health| health.state == HealthState::Active).await
    }

    async fn until(&self, within: Duration, there: impl Fn(&Health) -> bool) -> Result<Health, MoverError> {
        let begun = Instant::now();
        let mut sealed_since: Option<Instant> = None;
        loop {
            self.is_alive()?;
            let state = match self.client.health().await {
                Ok(health) if there(&health) => return Ok(health),
                Ok(health) => {
                    let sealed = health.state == HealthState::Sealed;
                    sealed_since = sealed_since.filter(|_| sealed).or_else(|| sealed.then(Instant::now));
                    format!("{:?}", health.state)
                }
                Err(error) => error.to_string(),
            };
            let sealed = sealed_since.is_some_and(|since| since.elapsed() > UNSEALS_WITHIN);
            if sealed || begun.elapsed() > within {
                let (seconds, words) = (begun.elapsed().as_secs(), self.words.last());
                return Err(RehearsalError::NotLeading { seconds, state, words }.into());
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// A server that ended answers nothing any more: better than silence is why.
    pub(super) fn is_alive(&self) -> Result<(), MoverError> {
        let mut child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        match child.try_wait() {
            Ok(Some(status)) => {
                let (status, words) = (status.to_string(), self.words.last());
                Err(RehearsalError::Ended { status, words }.into())
            }
            Ok(None) | Err(_) => Ok(()),
        }
    }

    /// Stops it and starts it over what it has on its disk.
    pub(super) async fn restart(&mut self, plan: &Plan) -> Result<(), MoverError> {
        self.stop().await;
        self.child = Mutex::new(spawn(plan, &self.words)?);
        Ok(())
    }

    /// Stops it, by force where it does not by itself.
    pub(super) async fn stop(&mut self) {
        let child = self.child.get_mut().unwrap_or_else(PoisonError::into_inner);
        let pid = child.id().and_then(|id| i32::try_from(id).ok()).and_then(rustix::process::Pid::from_raw);
        if let Some(pid) = pid {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        if tokio::time::timeout(STOPS_WITHIN, child.wait()).await.is_err() {
            eprintln!("the test's server did not stop in {STOPS_WITHIN:?} and is killed");
            let _ = child.kill().await;
        }
    }
}

fn spawn(plan: &Plan, words: &Words) -> Result<Child, MoverError> {
    let not_started = |why: String| MoverError::from(RehearsalError::NotStarted(why));
    let mut line: Vec<PathBuf> = Vec::new();
    if plan.isolated {
        let own =
            std::env::current_exe().map_err(|error| not_started(format!("this program is not found: {error}")))?;
        line.extend([own, "isolated".into(), "--".into()]);
    }
    line.extend(plan.server.iter().map(PathBuf::from));
    let (program, arguments) = line.split_first().ok_or_else(|| not_started("no program was named".to_owned()))?;
    let mut command = Command::new(program);
    command
        .args(arguments)
        .arg("server")
        .arg(format!("-config={}", plan.folder.join(CONFIG).display()))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let mut child =
        command.spawn().map_err(|error| not_started(format!("{} could not be run: {error}", program.display())))?;
    if let Some(output) = child.stdout.take() {
        tokio::spawn(listen(output, words.clone()));
    }
    if let Some(output) = child.stderr.take() {
        tokio::spawn(listen(output, words.clone()));
    }
    Ok(child)
}

/// Its log is this container's log.
async fn listen(output: impl AsyncRead + Unpin, words: Words) {
    let mut lines = BufReader::new(output).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        eprintln!("{line}");
        words.hear(&line);
    }
}

impl Words {
    fn hear(&self, line: &str) {
        // Its audit log may go to the same place: that is no trouble, and holds what was asked and answered.
        let mut fields = line.split_whitespace().skip(1);
        let of_log = match fields.next() {
            Some("[ERROR]") => true,
            Some("[WARN]") => line.contains("failed"),
            _ => line.starts_with("{\"@level\":\"error\""),
        };
        let troubled = of_log || ["Error", "error:"].iter().any(|sign| line.starts_with(sign));
        if !troubled {
            return;
        }
        let mut words = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if words.len() == WORDS {
            words.pop_front();
        }
        words.push_back(line.chars().take(WORD).collect());
    }

    fn last(&self) -> String {
        let words = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if words.is_empty() {
            "none of trouble".to_owned()
        } else {
            words.iter().cloned().collect::<Vec<_>>().join(" | ")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_words_are_those_of_trouble_and_never_too_many() {
        let words = Words::default();
        assert_eq!(words.last(), "none of trouble");
        words.hear("2026-11-30T11:20:45.035Z [INFO]  core: vault is unsealed");
        for n in 0..5 {
            words.hear(&format!("2026-11-30T11:20:45.035Z [ERROR] core: trouble {n}{}", "x".repeat(900)));
        }
        words.hear(r#"{"type":"response","error":"[ERROR] no","response":{"data":{"password":"hunter2"}}}"#);
        let last = words.last();
        assert!(!last.contains("hunter2"), "an audit log is no last word");
        assert!(!last.contains("unsealed") && !last.contains("trouble 1") && last.contains("trouble 4"), "{last}");
        assert!(last.len() < WORDS * (WORD + 3), "{}", last.len());
    }
}
