//! The operator's binary. The same file is also the data mover: started as `bao-backup`, or with that word as its first
//! argument, it runs one Job's work and nothing else.

use std::process::ExitCode;

fn main() -> ExitCode {
    openbao_operator::operator::main()
}
