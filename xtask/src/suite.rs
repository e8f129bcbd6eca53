//! `cargo xtask test`: every check there is, cheapest first, and one line that sums them up.

use std::env;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result};

use crate::demo::{self, Place};
use crate::devcluster::Devcluster;
use crate::{crds, dockerfile, install, machine, report, report::say, repository};

/// Which of the tests.
#[derive(Debug, Default, Clone)]
#[expect(clippy::struct_excessive_bools, reason = "one per flag of the command line")]
pub struct Selection {
    /// Only those whose name contains this.
    pub filter: Option<String>,
    /// The long series as well: hours, run by hand.
    pub soak: bool,
    pub matrix: bool,
    /// So many minutes of chaos as well.
    pub chaos: Option<u32>,
    /// Leave out what needs the devcluster.
    pub no_cluster: bool,
    /// Leave the devcluster up if this run started it.
    pub keep: bool,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Tally {
    passed: u64,
    failed: u64,
    skipped: u64,
    /// Of those counted as failed: passed at the second try.
    recovered: u64,
}

/// What one `cargo test` said.
struct Tested {
    tally: Tally,
    failed: Vec<String>,
}

impl std::ops::AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
        self.recovered += other.recovered;
    }
}

enum Verdict {
    Passed,
    /// With the reason.
    Skipped(String),
}

type Check = fn(&Devcluster) -> Result<Verdict>;

/// Runs them and prints the closing line. `Ok(false)` when one failed.
pub fn run(cluster: &Devcluster, selection: &Selection) -> Result<bool> {
    let start = Instant::now();
    let mut tally = Tally::default();
    let filter = selection.filter.as_deref().unwrap_or_default();
    let checks: [(&str, Check); 5] = [
        ("the code is formatted (fmt)", |_| cargo_check(&["fmt", "--all", "--check"])),
        ("clippy has nothing to say (clippy)", |_| {
            cargo_check(&["clippy", "--quiet", "--workspace", "--all-targets", "--", "-D", "warnings"])
        }),
        ("the CRD files are what the types say (crds)", |_| crds::run(true).map(|()| Verdict::Passed)),
        ("hadolint accepts the Dockerfile (dockerfile)", |cluster| dockerfile::lint(cluster).map(|()| Verdict::Passed)),
        ("the Dockerfile's last stage builds (dockerfile)", |cluster| {
            Ok(dockerfile::last_stage(cluster)?.map_or(Verdict::Passed, Verdict::Skipped))
        }),
    ];
    for (name, check) in checks.into_iter().filter(|(name, _)| name.contains(filter)) {
        let begun = Instant::now();
        match check(cluster) {
            Ok(Verdict::Passed) => {
                tally.passed += 1;
                say(format!("check {name} ... ok ({})", report::human(begun.elapsed())));
            }
            Ok(Verdict::Skipped(reason)) => {
                tally.skipped += 1;
                say(format!("check {name} ... skipped: {reason}"));
            }
            Err(error) => {
                tally.failed += 1;
                say(format!("check {name} ... FAILED\n{error:#}"));
            }
        }
    }
    tally += cargo_test("unit tests", &["--workspace", "--lib", "--bins"], filter, &[])?;
    if selection.no_cluster {
        say("tests on the devcluster are left out, as asked");
    } else {
        tally += on_the_devcluster(cluster, selection, filter)?;
    }
    tally.failed = tally.failed.saturating_sub(tally.recovered);
    say(format!("tests took {}", report::human(start.elapsed())));
    writeln!(std::io::stdout(), "{} passed, {} failed, {} skipped", tally.passed, tally.failed, tally.skipped)?;
    Ok(tally.failed == 0 && tally.passed > 0)
}

fn on_the_devcluster(cluster: &Devcluster, selection: &Selection, filter: &str) -> Result<Tally> {
    machine::can_run_a_node()?;
    let found_up = cluster.is_up()?;
    cluster.up()?;
    // Each test may run three OpenBao servers: more threads than cores only make all of them late.
    let cores = std::thread::available_parallelism().map_or(2, usize::from);
    let threads = format!("--test-threads={}", cores.clamp(2, 4));
    // The same packages as for the unit tests: another choice would be other features and so another build of everything.
    let target = ["--workspace", "--test", "cluster"];
    let Tested { mut tally, failed } = cargo_tests("tests on the devcluster", &target, filter, &[&threads])?;
    if !failed.is_empty() && failed.len() <= MOST_AGAIN {
        tally += again(&failed, &target)?;
    }
    if selection.soak {
        let options = ["--ignored", "--test-threads=1", "--skip", "bench_", "--skip", "matrix", "--skip", "chaos::"];
        tally += cargo_test("the long series", &target, filter, &options)?;
    }
    if selection.matrix {
        tally += cargo_test("the crash matrix", &target, "matrix", &["--ignored", "--test-threads=1"])?;
    }
    if let Some(minutes) = selection.chaos {
        let options = ["--ignored", "--nocapture", "--test-threads=1"];
        let minutes = ("OPENBAO_CHAOS_MINUTES", minutes.to_string());
        tally += cargo_tests_with(&[minutes], "chaos", &target, "chaos::", &options)?.tally;
    }
    tally += demonstrate(cluster, filter)?;
    if !found_up && !selection.keep {
        cluster.down()?;
    }
    Ok(tally)
}

/// The demo is the end-to-end test: the image that people get, installed by the chart, from nothing to a proven restore.
/// Last, because its operator looks after every namespace.
fn demonstrate(cluster: &Devcluster, filter: &str) -> Result<Tally> {
    let name = "the demo ends with a proof (demo)";
    if !name.contains(filter) {
        return Ok(Tally::default());
    }
    let begun = Instant::now();
    let played = demo::run(cluster, &Place::default());
    // Left behind by a failure, it would act on what the next tests make.
    install::remove(cluster)?;
    match played {
        Ok(()) => {
            say(format!("check {name} ... ok ({})", report::human(begun.elapsed())));
            Ok(Tally { passed: 1, ..Tally::default() })
        }
        Err(error) => {
            say(format!("check {name} ... FAILED\n{error:#}"));
            Ok(Tally { failed: 1, ..Tally::default() })
        }
    }
}

/// How many failed tests get a second try: more than this is no noise.
const MOST_AGAIN: usize = 4;

/// Runs failed tests once more, one at a time. Real servers on a machine whose cores others use too miss a deadline now and
/// then; a test that passes alone is counted as passed and named, so that nobody overlooks it.
fn again(failed: &[String], target: &[&str]) -> Result<Tally> {
    say(format!("once more, alone: {}", failed.join(", ")));
    let names: Vec<&str> = failed.iter().map(String::as_str).collect();
    let options = [names.as_slice(), &["--exact", "--test-threads=1"]].concat();
    let second = cargo_tests("second try", target, "", &options)?;
    for name in failed.iter().filter(|name| !second.failed.contains(name)) {
        say(format!("PASSED AT THE SECOND TRY: {name}"));
    }
    // These were counted as failed once already.
    let recovered = (failed.len() as u64).saturating_sub(second.tally.failed);
    Ok(Tally { passed: recovered, failed: 0, skipped: 0, recovered })
}

fn cargo() -> Command {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(repository()).env("CARGO_TERM_COLOR", "never");
    cargo
}

fn cargo_check(arguments: &[&str]) -> Result<Verdict> {
    let output = cargo().args(arguments).stdin(Stdio::null()).output().context("could not start cargo")?;
    if output.status.success() {
        return Ok(Verdict::Passed);
    }
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    anyhow::bail!("cargo {}: {}\n{text}", arguments.join(" "), output.status)
}

/// Runs `cargo test`, shows what it prints, and adds up what it says.
fn cargo_test(what: &str, target: &[&str], filter: &str, options: &[&str]) -> Result<Tally> {
    cargo_tests(what, target, filter, options).map(|tested| tested.tally)
}

/// The same, and which tests failed.
fn cargo_tests(what: &str, target: &[&str], filter: &str, options: &[&str]) -> Result<Tested> {
    cargo_tests_with(&[], what, target, filter, options)
}

/// The same with more variables.
fn cargo_tests_with(
    variables: &[(&str, String)],
    what: &str,
    target: &[&str],
    filter: &str,
    options: &[&str],
) -> Result<Tested> {
    say(format!("{what}:"));
    let mut command = cargo();
    command.envs(variables.iter().map(|(key, value)| (key, value)));
    command.args(["test", "--no-fail-fast"]).args(target).arg("--");
    if !filter.is_empty() {
        command.arg(filter);
    }
    command.args(options);
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("could not start cargo")?;
    let mut tally = Tally::default();
    let mut failed = Vec::new();
    if let Some(stdout) = child.stdout.take() {
        for line in BufReader::new(stdout).lines() {
            let line = line?;
            failed.extend(failure(&line));
            if let Some(result) = summed(&line) {
                tally += result;
            } else if !line.is_empty() && !line.starts_with("running ") {
                say(line);
            }
        }
    }
    let status = child.wait()?;
    // Without a failed test this is a program that did not compile or that was killed.
    if !status.success() && tally.failed == 0 {
        say(format!("{what}: cargo test ended with {status}"));
        tally.failed += 1;
    }
    Ok(Tested { tally, failed })
}

/// `test a::b ... FAILED`
fn failure(line: &str) -> Option<String> {
    Some(line.strip_prefix("test ")?.strip_suffix(" ... FAILED")?.to_owned())
}

/// `test result: ok. 3 passed; 0 failed; 1 ignored; …`
fn summed(line: &str) -> Option<Tally> {
    let counts = line.strip_prefix("test result: ")?;
    let count = |of: &str| -> u64 {
        let words: Vec<&str> = counts.split([' ', ';']).collect();
        words.windows(2).find(|pair| pair[1] == of).and_then(|pair| pair[0].parse().ok()).unwrap_or_default()
    };
    Some(Tally { passed: count("passed"), failed: count("failed"), skipped: count("ignored"), recovered: 0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cargos_own_sums_are_read() {
        let line =
            "test result: FAILED. 31 passed; 2 failed; 4 ignored; 0 measured; 7 filtered out; finished in 23.56s";
        assert_eq!(summed(line), Some(Tally { passed: 31, failed: 2, skipped: 4, recovered: 0 }));
        assert_eq!(summed("test a::b ... ok"), None);
        assert_eq!(failure("test a::b ... FAILED"), Some("a::b".to_owned()));
        assert_eq!(failure("test a::b ... ok"), None);
    }
}
