//! The operator process: arguments, telemetry, client, leader, controllers, drain.

mod args;
mod kinds;
mod run;

use std::ffi::OsStr;
use std::path::Path;
use std::process::ExitCode;

use clap::Parser;

use crate::causes::chain;

pub use args::Args;
pub use run::Error;

/// The name under which the same binary is the data mover.
const MOVER: &str = "bao-backup";

/// What tests steer a program into faults with. A released one has no such thing, and says so instead of ignoring it.
const FAULTS: &str = "OPENBAO_FAULT_RULES";

/// The whole program.
pub fn main() -> ExitCode {
    // reqwest and kube find the provider here; a second installation is refused and harmless.
    drop(rustls::crypto::ring::default_provider().install_default());

    if !cfg!(feature = "fault-injection") && std::env::var_os(FAULTS).is_some() {
        eprintln!("{FAULTS} is set, but this program was built without fault injection: unset it");
        return ExitCode::FAILURE;
    }
    let arguments: Vec<_> = std::env::args_os().collect();
    if let Some(arguments) = mover_arguments(&arguments) {
        return crate::datapath::cli::run(arguments, crate::service::backup::rules::apply);
    }
    let plan = Args::parse_from(arguments).plan();
    if let Err(error) = crate::telemetry::logs::init(plan.log_format) {
        eprintln!("{}", chain(&error));
        return ExitCode::FAILURE;
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(error = chain(&error), "cannot start the runtime");
            return ExitCode::FAILURE;
        }
    };
    let outcome = runtime.block_on(run::run(plan));
    // Whatever still runs on it is past its time: nothing may act once the lease is given back.
    runtime.shutdown_background();
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = chain(&error), "operator stopped");
            ExitCode::FAILURE
        }
    }
}

/// The mover's arguments (its name first), if this process was started as one.
fn mover_arguments(arguments: &[std::ffi::OsString]) -> Option<Vec<std::ffi::OsString>> {
    let is_mover = |text: &OsStr| Path::new(text).file_name() == Some(OsStr::new(MOVER));
    if arguments.first().is_some_and(|name| is_mover(name)) {
        return Some(arguments.to_vec());
    }
    arguments.get(1).is_some_and(|first| first == MOVER).then(|| arguments[1..].to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mover(arguments: &[&str]) -> Option<Vec<String>> {
        let arguments: Vec<_> = arguments.iter().map(Into::into).collect();
        mover_arguments(&arguments).map(|all| all.into_iter().map(|one| one.into_string().unwrap()).collect())
    }

    #[test]
    fn the_binary_is_a_mover_by_its_name_or_by_its_first_word() {
        let wanted = Some(vec!["/usr/bin/bao-backup".to_owned(), "verify".to_owned()]);
        assert_eq!(mover(&["/usr/bin/bao-backup", "verify"]), wanted);
        assert_eq!(
            mover(&["openbao-operator", "bao-backup", "verify"]),
            Some(vec!["bao-backup".into(), "verify".into()])
        );
        assert_eq!(mover(&["openbao-operator", "--log-format", "bao-backup"]), None);
        assert_eq!(mover(&["openbao-operator"]), None);
    }
}
