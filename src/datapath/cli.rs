//! The command line: flags and environment in, one command, one JSON result as the last line of output and as the
//! termination message, one exit status per cause.

mod args;
mod output;
mod rehearsal_args;

use std::ffi::OsString;
use std::process::ExitCode;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use chrono::Utc;
use clap::Parser;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use args::{Arguments, BackupArgs, Command, InspectArgs, ListArgs, PreflightArgs, PruneArgs, RestoreArgs, VerifyArgs};
use rehearsal_args::{FetchArgs, RehearseArgs};

use super::archive::{self, Verified};
use super::error::MoverError;
use super::progress::Meter;
use super::protocol::{
    BackupDone, Failure, FetchDone, JobResult, KeptKey, PRUNED, PreflightDone, PruneDone, REPORT, RehearsalDone,
    Report, ReportKind, RestoreDone, Stage, VerifyDone,
};
use super::prune::Rules;
use super::{backup, isolated, prune, rehearsal, restore, stored};
use crate::adapter::objectstore::Manifest;

/// Enough for two streams and their checks; each thread costs memory that the part buffers could use.
const WORKERS: usize = 2;
const BLOCKING_THREADS: usize = 12;
/// A config map holds 1 MiB.
const NAMED_AT_MOST: usize = 5000;

/// The data mover as a program. `args` is the whole command line, its own name first; `rules` decide what `prune` removes.
pub fn run(args: Vec<OsString>, rules: Rules) -> ExitCode {
    let arguments = match Arguments::try_parse_from(args) {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help and version are no failures; anything else is told to who started the Job as well.
            let wrong = error.use_stderr();
            let _ = error.print();
            if wrong {
                output::result::<()>(&JobResult::Failed(MoverError::Config(error.to_string()).failure()));
            }
            return if wrong { ExitCode::from(2) } else { ExitCode::SUCCESS };
        }
    };
    // Before there are other threads: a filter is its thread's, and its children's.
    if let Command::Isolated(isolated) = &arguments.command {
        let error = isolated::exec(&isolated.command);
        eprintln!("error: {}", crate::adapter::objectstore::error::detail(&error));
        return ExitCode::FAILURE;
    }
    // A second installation in the same process is refused and harmless.
    drop(rustls::crypto::ring::default_provider().install_default());
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .max_blocking_threads(BLOCKING_THREADS)
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("the runtime could not be started: {error}");
            return ExitCode::FAILURE;
        }
    };
    let code = runtime.block_on(command(arguments.command, rules));
    // A reader that waits for bytes nobody will send must not hold the process.
    runtime.shutdown_background();
    code
}

async fn command(command: Command, rules: Rules) -> ExitCode {
    let stop = stop_on_signal();
    match command {
        Command::Backup(args) => end(backup(args, stop).await),
        Command::Verify(args) => stoppable(stop, async { end(verify(&args).await) }).await,
        Command::Restore(args) => end(restore(args, stop).await),
        Command::Prune(args) => stoppable(stop, async { end(prune(&args, rules).await) }).await,
        Command::Preflight(args) => stoppable(stop, async { end(preflight(&args).await) }).await,
        Command::List(args) => stoppable(stop, list(&args)).await,
        Command::Inspect(args) => stoppable(stop, inspect(&args)).await,
        Command::Fetch(args) => end(fetch(&args, stop).await),
        Command::Rehearse(args) => end(rehearse(&args, stop).await),
        // It gave this process up before there was a runtime.
        Command::Isolated(_) => ExitCode::FAILURE,
    }
}

/// For what can be left off anywhere: it only reads, or the next run finishes what it began.
async fn stoppable(stop: CancellationToken, work: impl Future<Output = ExitCode>) -> ExitCode {
    tokio::select! {
        biased;
        () = stop.cancelled() => end::<()>(Err(MoverError::Cancelled)),
        code = work => code,
    }
}

fn end<T: serde::Serialize>(outcome: Result<T, MoverError>) -> ExitCode {
    let (result, code) = match outcome {
        Ok(done) => (JobResult::Done(done), ExitCode::SUCCESS),
        Err(error) => {
            eprintln!("error: {}", error.line());
            (JobResult::Failed(error.failure()), ExitCode::from(error.cause().exit_code()))
        }
    };
    output::result(&result);
    code
}

fn stop_on_signal() -> CancellationToken {
    use tokio::signal::unix::{SignalKind, signal};
    let stop = CancellationToken::new();
    let told = stop.clone();
    tokio::spawn(async move {
        let (Ok(mut terminate), Ok(mut interrupt)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
        else {
            return;
        };
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        eprintln!("told to stop: undoing what is under way");
        told.cancel();
    });
    stop
}

async fn backup(args: BackupArgs, stop: CancellationToken) -> Result<BackupDone, MoverError> {
    let mailbox = args.report.mailbox(&args.store.namespace).await?;
    let meter = Meter::default();
    let _watch = meter.watch(mailbox.clone(), args.report.quiet);
    let pod_uid = args.report.pod_uid.clone();
    let outcome = async { backup::run(&args.plan(stop)?, &meter).await }.await;
    if let Some(mailbox) = mailbox {
        let report = match &outcome {
            Ok((done, manifest)) => backed_up(&pod_uid, done, manifest),
            Err(error) => failed(&pod_uid, error),
        };
        if let Err(error) = mailbox.write(REPORT, &report).await {
            // The backup is what it is; the termination message says the same.
            eprintln!("the report could not be written: {}", error.line());
        }
    }
    outcome.map(|(done, _)| done)
}

fn backed_up(pod_uid: &str, done: &BackupDone, manifest: &Manifest) -> Report {
    Report {
        pod_uid: pod_uid.to_owned(),
        kind: ReportKind::Verified,
        reason: "Verified".to_owned(),
        message: format!("{} bytes stored and verified", done.size_bytes),
        inspection: Some(done.inspection.clone()),
        manifest: Some(manifest.clone()),
        key: Some(done.key.clone()),
        sealed_sums: done.sealed_sums.clone(),
        sums: done.sums.clone(),
        at: Utc::now(),
    }
}

fn failed(pod_uid: &str, error: &MoverError) -> Report {
    let Failure { reason, message, .. } = error.failure();
    Report {
        pod_uid: pod_uid.to_owned(),
        kind: ReportKind::Failed,
        reason,
        message,
        inspection: None,
        manifest: None,
        key: None,
        sealed_sums: String::new(),
        sums: String::new(),
        at: Utc::now(),
    }
}

async fn verify(args: &VerifyArgs) -> Result<VerifyDone, MoverError> {
    let started = Instant::now();
    let mailbox = args.report.mailbox(&args.store.namespace).await?;
    let meter = Meter::default();
    let _watch = meter.watch(mailbox.clone(), args.report.quiet);
    let work = async {
        let store = args.store.open()?;
        let key = stored::resolve(&store, &args.store.cluster_prefix(), &args.source.source()?).await?;
        let found = stored::find(&store, key, !args.without_manifest).await?;
        meter.stage(Stage::Verify, found.size);
        let verified = stored::verify(&store, &found, args.limits.limits(), &meter).await?;
        Ok((found, verified))
    };
    let outcome = match tokio::time::timeout_at(args.report.until(), work).await {
        Ok(outcome) => outcome,
        Err(_) => Err(MoverError::Deadline("the backup was read again")),
    };
    let outcome = outcome.map(|(found, verified)| {
        let done = VerifyDone {
            key: found.key,
            sha256: verified.inspection.sha256.clone(),
            size_bytes: verified.inspection.size_bytes,
            manifest: found.manifest.is_some(),
            taken_at: found.manifest.as_ref().map(|manifest| manifest.taken_at),
            cluster_uid: found.manifest.as_ref().map(|manifest| manifest.cluster.uid.clone()).unwrap_or_default(),
            sealed_sums: STANDARD.encode(&verified.sealed_sums),
            sums: STANDARD.encode(&verified.sums),
            inspection: verified.inspection,
            duration_ms: u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
            shortened: false,
        };
        (done, found.manifest)
    });
    if let Some(mailbox) = mailbox {
        let report = match &outcome {
            Ok((done, manifest)) => verified_report(&args.report.pod_uid, done, manifest.clone()),
            Err(error) => failed(&args.report.pod_uid, error),
        };
        if let Err(error) = mailbox.write(REPORT, &report).await {
            eprintln!("the report could not be written: {}", error.line());
        }
    }
    outcome.map(|(done, _)| done)
}

fn verified_report(pod_uid: &str, done: &VerifyDone, manifest: Option<Manifest>) -> Report {
    Report {
        pod_uid: pod_uid.to_owned(),
        kind: ReportKind::Verified,
        reason: "Verified".to_owned(),
        message: format!("{} bytes read again and verified", done.size_bytes),
        inspection: Some(done.inspection.clone()),
        manifest,
        key: Some(done.key.clone()),
        sealed_sums: done.sealed_sums.clone(),
        sums: done.sums.clone(),
        at: Utc::now(),
    }
}

async fn restore(args: RestoreArgs, stop: CancellationToken) -> Result<RestoreDone, MoverError> {
    let mailbox = args.report.mailbox(&args.store.namespace).await?;
    if mailbox.is_none() && args.submit {
        let what = "a restore is submitted under an operation's lock only: run it through OpenBaoRestore, or pass --submit=false";
        return Err(MoverError::Config(what.to_owned()));
    }
    let meter = Meter::default();
    let _watch = meter.watch(mailbox.clone(), args.report.quiet);
    restore::run(&args.plan(stop)?, mailbox.as_ref(), &meter).await
}

async fn prune(args: &PruneArgs, rules: Rules) -> Result<PruneDone, MoverError> {
    let store = args.store.open()?;
    let prefix = args.store.cluster_prefix();
    let mut orders = args.orders()?;
    let work = async {
        let mut rulings = Vec::new();
        if let Some(policy) = &args.retention {
            let uncounted = args.uncounted()?;
            rulings = prune::judge(&store, &prefix, &mut orders, policy, &uncounted, rules).await?;
        }
        let mut done = prune::run(&store, &prefix, &orders).await?;
        let kept = rulings.into_iter().filter(|ruling| ruling.keep);
        done.kept.extend(kept.map(|ruling| KeptKey { key: ruling.key, reason: ruling.reason }));
        Ok(done.counted())
    };
    let outcome = match tokio::time::timeout_at(args.report.until(), work).await {
        Ok(outcome) => outcome,
        Err(_) => Err(MoverError::Deadline("backups were removed")),
    };
    if let Ok(done) = &outcome
        && output::loses_keys(done)
    {
        name_all(args, &done.removed).await;
    }
    outcome
}

/// Every removal is logged by the operator, which learns in this way of those that the last word has no room for.
async fn name_all(args: &PruneArgs, removed: &[String]) {
    let told = async {
        let Some(mailbox) = args.report.mailbox(&args.store.namespace).await? else { return Ok(()) };
        mailbox.write(PRUNED, &removed.iter().take(NAMED_AT_MOST).collect::<Vec<_>>()).await
    };
    if let Err(error) = told.await {
        eprintln!("the removed keys could not be reported: {}", error.line());
    }
}

async fn fetch(args: &FetchArgs, stop: CancellationToken) -> Result<FetchDone, MoverError> {
    let meter = Meter::default();
    let _watch = meter.watch(None, args.report.quiet);
    let fetched = rehearsal::fetch::run(&args.plan(stop)?, &meter).await?;
    Ok(FetchDone { key: fetched.key, sha256: fetched.sha256, size_bytes: fetched.size_bytes })
}

async fn rehearse(args: &RehearseArgs, stop: CancellationToken) -> Result<RehearsalDone, MoverError> {
    rehearsal::run(&args.plan(stop)?).await
}

async fn preflight(args: &PreflightArgs) -> Result<PreflightDone, MoverError> {
    let started = Instant::now();
    let store = args.store.open()?;
    let key = format!("{}.preflight-{:08x}", args.store.cluster_prefix(), rand::random::<u32>());
    let create_only = store.preflight(&key).await?;
    Ok(PreflightDone {
        target: store.name().to_owned(),
        create_only,
        duration_ms: u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
    })
}

async fn list(args: &ListArgs) -> ExitCode {
    let listed = async { stored::list(&args.store.open()?, &args.store.cluster_prefix()).await }.await;
    match listed {
        Ok(backups) => {
            for backup in &backups {
                output::line(backup);
            }
            ExitCode::SUCCESS
        }
        Err(error) => end::<()>(Err(error)),
    }
}

async fn inspect(args: &InspectArgs) -> ExitCode {
    match inspected(args).await {
        Ok(verified) => {
            if args.json {
                output::line(&verified.inspection);
            } else {
                print!("{}", output::text(&verified.inspection));
            }
            ExitCode::SUCCESS
        }
        Err(error) => end::<()>(Err(error)),
    }
}

async fn inspected(args: &InspectArgs) -> Result<Verified, MoverError> {
    let limits = args.limits.limits();
    if let Some(path) = args.file.clone() {
        let read = tokio::task::spawn_blocking(move || {
            let opened = std::fs::File::open(&path);
            let file = opened.map_err(|source| MoverError::ReadFile { what: "the archive", path, source })?;
            archive::read(file, limits).map_err(MoverError::Archive)
        });
        return read.await.map_err(MoverError::Task)?;
    }
    let store = args.store.open()?;
    let key = stored::resolve(&store, &args.store.cluster_prefix(), &args.source.source()?).await?;
    let found = stored::find(&store, key, false).await?;
    stored::verify(&store, &found, limits, &Meter::default()).await
}
