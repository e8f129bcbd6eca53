//! Prints the CRDs as a JSON list of file name and content. `cargo xtask crds` runs this, so that the commands that have
//! nothing to do with our types need not compile them.

use std::error::Error;
use std::io;

fn main() -> Result<(), Box<dyn Error>> {
    let files = openbao_operator::api::crd_files()?;
    serde_json::to_writer(io::stdout().lock(), &files)?;
    Ok(())
}
