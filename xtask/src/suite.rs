//! `cargo xtask test`: the checks and the tests, cheapest first, and one line that sums them up. The long series run when asked
//! for, and are counted as skipped else.

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
}

impl Tally {
    /// Adds a long series, whose tests an earlier run has counted as skipped. A program that died is no test.
    fn add_long(&mut self, long: &Tested) {
        let tests = long.tally.passed + long.failed.len() as u64;
        self.skipped = self.skipped.saturating_sub(tests);
        *self += long.tally;
    }

    /// Adds a long series that ran whole. Those whose names miss the filter nobody has counted yet.
    fn add_whole(&mut self, series: &str, filter: &str, long: &Tested) {
        if series.contains(filter) {
            self.add_long(long);
        } else {
            *self += long.tally;
        }
    }
}

impl std::ops::AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

/// What one `cargo test` said.
#[derive(Debug, Default)]
struct Tested {
    tally: Tally,
    failed: Vec<String>,
    /// Whether the program that began last came to its sum. One that died has not run all of its tests.
    whole: bool,
}

impl Tested {
    /// Takes in a line of what cargo prints. False: it is nothing for people, who read one sum at the end.
    fn hear(&mut self, line: &str) -> bool {
        self.failed.extend(failure(line));
        if let Some(result) = summed(line) {
            self.tally += result;
            self.whole = true;
            return false;
        }
        let begins = line.starts_with("running ");
        self.whole &= !begins;
        !begins && !line.is_empty()
    }

    /// Cargo has ended. True: not for a test that failed, and that counts as a failure too.
    fn end(&mut self, success: bool) -> bool {
        let died = !self.whole || (!success && self.tally.failed == 0);
        self.tally.failed += u64::from(died);
        died
    }

    /// What counts after a second try of those that failed: what the second run itself says has passed, and nothing if a
    /// program died in either, since nobody knows what it would have said of the others.
    fn settled(&self, second: &Self) -> Tally {
        let recovered = if self.whole && second.whole { second.tally.passed.min(self.tally.failed) } else { 0 };
        Tally { passed: self.tally.passed + recovered, failed: self.tally.failed - recovered, ..self.tally }
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
    let units = ["--workspace", "--lib", "--bins"];
    tally += cargo_tests("unit tests", &units, filter, &[])?.tally;
    if selection.soak {
        tally.add_long(&cargo_tests("the long models", &units, filter, &["--ignored"])?);
    }
    if selection.no_cluster {
        say("tests on the devcluster are left out, as asked");
    } else {
        tally += on_the_devcluster(cluster, selection, filter)?;
    }
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
    let options = [NO_TESTS.as_slice(), &[threads.as_str()]].concat();
    let first = cargo_tests("tests on the devcluster", &target, filter, &options)?;
    let mut tally = first.tally;
    if first.whole && !first.failed.is_empty() && first.failed.len() <= MOST_AGAIN {
        tally = first.settled(&again(&first.failed, &target)?);
    }
    if selection.soak {
        let options = ["--ignored", "--test-threads=1", "--skip", "bench_", "--skip", "matrix", "--skip", "chaos::"];
        let options = [options.as_slice(), NO_TESTS.as_slice()].concat();
        tally.add_long(&cargo_tests("the long series", &target, filter, &options)?);
    }
    if selection.matrix {
        let series = "matrix";
        let matrix = cargo_tests("the crash matrix", &target, series, &["--ignored", "--test-threads=1"])?;
        tally.add_whole(series, filter, &matrix);
    }
    if let Some(minutes) = selection.chaos {
        let options = ["--ignored", "--nocapture", "--test-threads=1"];
        let minutes = ("OPENBAO_CHAOS_MINUTES", minutes.to_string());
        let series = "chaos::";
        tally.add_whole(series, filter, &cargo_tests_with(&[minutes], "chaos", &target, series, &options)?);
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

/// Leaves out what is written as a test and is none: programs that tests start, which end at once when nobody did.
const NO_TESTS: [&str; 6] =
    ["--skip", "child::a_process_of_its_own", "--skip", "traffic::driver", "--skip", "scale::answers_for_every_server"];

/// How many failed tests get a second try: more than this is no noise.
const MOST_AGAIN: usize = 4;

/// Runs failed tests once more, one at a time. Real servers on a machine whose cores others use too miss a deadline now and
/// then; a test that passes alone is counted as passed and named, so that nobody overlooks it.
fn again(failed: &[String], target: &[&str]) -> Result<Tested> {
    say(format!("once more, alone: {}", failed.join(", ")));
    let names: Vec<&str> = failed.iter().map(String::as_str).collect();
    let options = [names.as_slice(), &["--exact", "--test-threads=1"]].concat();
    let second = cargo_tests("second try", target, "", &options)?;
    for name in failed.iter().filter(|name| second.whole && !second.failed.contains(name)) {
        say(format!("PASSED AT THE SECOND TRY: {name}"));
    }
    Ok(second)
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
    let mut tested = Tested::default();
    if let Some(stdout) = child.stdout.take() {
        for line in BufReader::new(stdout).lines() {
            let line = line?;
            if tested.hear(&line) {
                say(line);
            }
        }
    }
    let status = child.wait()?;
    if tested.end(status.success()) {
        say(format!(
            "{what}: cargo test ended with {status}: a program did not compile, was killed or left before its last test, and \
             what it had not run yet was not run"
        ));
    }
    Ok(tested)
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
    Some(Tally { passed: count("passed"), failed: count("failed"), skipped: count("ignored") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cargos_own_sums_are_read() {
        let line =
            "test result: FAILED. 31 passed; 2 failed; 4 ignored; 0 measured; 7 filtered out; finished in 23.56s";
        assert_eq!(summed(line), Some(Tally { passed: 31, failed: 2, skipped: 4 }));
        assert_eq!(summed("test a::b ... ok"), None);
        assert_eq!(failure("test a::b ... FAILED"), Some("a::b".to_owned()));
        assert_eq!(failure("test a::b ... ok"), None);
    }

    /// As the lines of one `cargo test` make it.
    fn heard(lines: &[&str], success: bool) -> Tested {
        let mut tested = Tested::default();
        for line in lines {
            tested.hear(line);
        }
        tested.end(success);
        tested
    }

    const ONE_FAILED: &str = "test result: FAILED. 7 passed; 1 failed; 3 ignored; 0 measured; 0 filtered out";
    const ONE_PASSED: &str = "test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 11 filtered out";

    #[test]
    fn a_program_that_died_is_failed_although_the_test_that_failed_before_passes_alone() {
        let first = heard(&["running 9 tests", "test a::b ... FAILED"], false);
        let second = heard(&["running 1 test", "test a::b ... ok", ONE_PASSED], true);
        assert_eq!((first.failed.as_slice(), first.whole), (["a::b".to_owned()].as_slice(), false));
        assert_eq!(first.settled(&second).failed, 1);
        // Nor is a way out by its own door an end.
        assert_eq!(heard(&["running 9 tests", "test a::c ... ok"], true).tally.failed, 1);
        // And what died while others had failed counts beside them.
        assert_eq!(heard(&["running 11 tests", ONE_FAILED, "running 2 tests"], false).tally.failed, 2);
        assert_eq!(heard(&[], false).tally.failed, 1, "nothing was compiled");
    }

    #[test]
    fn only_what_passes_at_a_second_try_that_came_to_its_end_is_recovered() {
        let first = heard(&["running 11 tests", "test a::b ... FAILED", ONE_FAILED], false);
        let second = heard(&["running 1 test", "test a::b ... ok", ONE_PASSED], true);
        assert_eq!(first.settled(&second), Tally { passed: 8, failed: 0, skipped: 3 });
        for second in [
            heard(&["running 1 test"], false),
            heard(
                &["running 1 test", "test a::b ... FAILED", "test result: FAILED. 0 passed; 1 failed; 0 ignored"],
                false,
            ),
            heard(&["running 0 tests", "test result: ok. 0 passed; 0 failed; 0 ignored"], true),
        ] {
            assert_eq!(first.settled(&second), Tally { passed: 7, failed: 1, skipped: 3 }, "{second:?}");
        }
    }

    #[test]
    fn a_long_series_that_ran_is_not_counted_as_skipped_as_well() {
        let before = Tally { passed: 20, failed: 0, skipped: 5 };
        let sum = "test result: FAILED. 3 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out";
        let long = heard(&["running 4 tests", "test matrix::b ... FAILED", sum], false);
        let mut tally = before;
        tally.add_long(&long);
        assert_eq!(tally, Tally { passed: 23, failed: 1, skipped: 1 });
        for (filter, skipped) in [("", 1), ("mat", 1), ("restore", 5)] {
            let mut tally = before;
            tally.add_whole("matrix", filter, &long);
            assert_eq!(tally, Tally { passed: 23, failed: 1, skipped }, "{filter}");
        }
        let mut tally = before;
        tally.add_long(&heard(&["running 4 tests"], false));
        assert_eq!(tally, Tally { passed: 20, failed: 1, skipped: 5 }, "none of them has ended");
    }
}
