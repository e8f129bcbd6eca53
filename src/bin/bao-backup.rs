//! The data mover on its own: what a Job's container runs. The released image has the same function under the operator's
//! binary, by this name.

use std::process::ExitCode;

fn main() -> ExitCode {
    openbao_operator::datapath::cli::run(std::env::args_os().collect(), openbao_operator::service::backup::rules::apply)
}
