//! The kubectl plugin: `kubectl openbao …`.

use std::process::ExitCode;

fn main() -> ExitCode {
    openbao_operator::kubectl::main()
}
