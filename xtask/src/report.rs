//! What a person sees while a command works: one line per step with its time, a sign of life in long ones, and on failure
//! the log to read with its last lines.

use std::fs::{self, File};
use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// Lines of a log that are shown when what wrote it failed.
const TAIL_LINES: usize = 15;
/// How often a long step says that it still runs, when nobody watches a terminal.
const SIGN_OF_LIFE: Duration = Duration::from_secs(30);

/// Says one line on stderr, which leaves stdout to what a command was asked for.
pub fn say(line: impl AsRef<str>) {
    let mut err = io::stderr().lock();
    // A closed stderr is no reason to stop working.
    let _ = writeln!(err, "{}", line.as_ref());
}

/// `5m17s`, `3.4s`.
pub fn human(elapsed: Duration) -> String {
    let seconds = elapsed.as_secs();
    if seconds >= 60 {
        format!("{}m{:02}s", seconds / 60, seconds % 60)
    } else {
        format!("{:.1}s", elapsed.as_secs_f64())
    }
}

/// Runs one step, and says what it was and how long it took.
pub fn step<T>(what: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let start = Instant::now();
    let done = work()?;
    say(format!("  {what} ({})", human(start.elapsed())));
    Ok(done)
}

/// A sign of life for work whose length nobody knows.
#[derive(Debug)]
pub struct Pulse {
    what: String,
    start: Instant,
    last: Instant,
    terminal: bool,
}

impl Pulse {
    pub fn new(what: &str) -> Self {
        let now = Instant::now();
        Self { what: what.into(), start: now, last: now, terminal: io::stderr().is_terminal() }
    }

    pub fn beat(&mut self) {
        let every = if self.terminal { Duration::from_millis(500) } else { SIGN_OF_LIFE };
        if self.last.elapsed() < every {
            return;
        }
        self.last = Instant::now();
        if self.terminal {
            let mut err = io::stderr().lock();
            let _ = write!(err, "\r  {} … {} ", self.what, human(self.start.elapsed()));
            let _ = err.flush();
        } else {
            say(format!("  {} … {}", self.what, human(self.start.elapsed())));
        }
    }

    /// Says how long it took, over the sign of life if there was one.
    pub fn end(self) {
        let done = format!("  {} ({})", self.what, human(self.start.elapsed()));
        if self.terminal { say(format!("\r{done}          ")) } else { say(done) }
    }
}

/// Runs a command with its output in `log`. Its failure names the log and shows its last lines.
///
/// The child is told to die with us, so that a killed run leaves no compiler behind.
pub fn logged(what: &str, command: &Command, log: &Path) -> Result<()> {
    if let Some(folder) = log.parent() {
        fs::create_dir_all(folder).with_context(|| format!("could not create {}", folder.display()))?;
    }
    let out = File::create(log).with_context(|| format!("could not write {}", log.display()))?;
    let err = out.try_clone()?;
    let mut pulse = Pulse::new(what);
    let mut child = bound(command)
        .stdin(Stdio::null())
        .stdout(out)
        .stderr(err)
        .spawn()
        .with_context(|| format!("{what}: could not start {}", command.get_program().display()))?;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        pulse.beat();
        sleep(Duration::from_millis(50));
    };
    if !status.success() {
        bail!("{what} failed ({status}). Log: {}\n{}", log.display(), tail(log));
    }
    pulse.end();
    Ok(())
}

/// The same command, run so that the kernel ends it when we end.
fn bound(command: &Command) -> Command {
    let mut bound = Command::new("setpriv");
    bound.args(["--pdeathsig", "TERM", "--"]).arg(command.get_program()).args(command.get_args());
    for (key, value) in command.get_envs() {
        match value {
            Some(value) => bound.env(key, value),
            None => bound.env_remove(key),
        };
    }
    if let Some(folder) = command.get_current_dir() {
        bound.current_dir(folder);
    }
    bound
}

/// Runs a command and returns its stdout; its failure carries its stderr.
pub fn output(command: &mut Command) -> Result<String> {
    let program = command.get_program().display().to_string();
    let out = command.stdin(Stdio::null()).output().with_context(|| format!("could not start {program}"))?;
    if !out.status.success() {
        let err = String::from_utf8_lossy(&out.stderr);
        bail!("{program} failed ({}): {}", out.status, err.trim());
    }
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

/// One sentence instead of a log where a failure comes down to the network or a full disk: the log says the same, many
/// times. Any other failure is left as it is.
pub fn plainly(error: anyhow::Error, registry: &str) -> anyhow::Error {
    const NETWORK: &[&str] = &[
        "dial tcp",
        "no such host",
        "network is unreachable",
        "Network is unreachable",
        "Connection refused",
        "Name or service not known",
        "Temporary failure in name resolution",
        "Failed to establish a new connection",
        "ConnectTimeoutError",
        "module lookup disabled by GOPROXY=off",
        "ENOTFOUND",
        "EAI_AGAIN",
        "ECONNREFUSED",
        "ETIMEDOUT",
        "Could not resolve host",
        "Couldn't resolve host",
        "Could not connect to server",
    ];
    const DISK: &[&str] = &["no space left on device", "No space left on device", "ENOSPC"];
    let text = format!("{error:#}");
    let has = |signs: &[&str]| signs.iter().any(|sign| text.contains(sign));
    let log = text.split("Log: ").nth(1).and_then(|rest| rest.split_whitespace().next());
    let log = log.map(|log| format!(" (log: {log})")).unwrap_or_default();
    if has(DISK) {
        anyhow::anyhow!("the disk is full: free some space, or set OPENBAO_DEVCLUSTER_DIR to a larger disk{log}")
    } else if has(NETWORK) {
        anyhow::anyhow!("{registry} cannot be reached: check this machine's network and proxy settings{log}")
    } else {
        error
    }
}

/// The last lines of a log, indented, or why there are none.
pub fn tail(log: &Path) -> String {
    match fs::read(log) {
        Ok(bytes) => {
            let text = String::from_utf8_lossy(&bytes);
            let lines: Vec<&str> = text.lines().collect();
            let from = lines.len().saturating_sub(TAIL_LINES);
            lines[from..].iter().flat_map(|line| ["    ", line, "\n"]).collect()
        }
        Err(error) => format!("    (could not be read: {error})\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_command_names_its_log_and_shows_the_end_of_it() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("deep/some.log");
        let mut command = Command::new("sh");
        command.args(["-c", "seq 100; echo the reason >&2; exit 3"]);
        let error = logged("counting", &command, &log).unwrap_err().to_string();
        assert!(error.contains("counting failed"), "{error}");
        assert!(error.contains(log.to_str().unwrap()), "{error}");
        assert!(error.contains("the reason"), "{error}");
        assert!(!error.contains("    50\n"), "only the last lines: {error}");
    }

    #[test]
    fn a_missing_network_and_a_full_disk_are_one_sentence_and_other_failures_are_left_alone() {
        let said = |text: &'static str| format!("{:#}", plainly(anyhow::anyhow!(text), "the Go module proxy"));
        let text =
            "building x failed (exit status: 1). Log: /a/x.log\n    go: dial tcp: lookup y: no such host\n    again";
        assert_eq!(
            said(text),
            "the Go module proxy cannot be reached: check this machine's network and proxy settings (log: /a/x.log)"
        );
        let text = said("building x failed. Log: /a/x.log\n    write $WORK/b001: no space left on device");
        assert!(text.starts_with("the disk is full") && !text.contains('\n'), "{text}");
        assert_eq!(said("undefined: foo"), "undefined: foo");
    }

    #[test]
    fn times_are_read_at_a_glance() {
        assert_eq!(human(Duration::from_millis(3440)), "3.4s");
        assert_eq!(human(Duration::from_secs(317)), "5m17s");
    }
}
