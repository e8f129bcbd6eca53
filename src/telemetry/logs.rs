//! Log output: JSON lines for machines, pretty lines for people, filtered by `RUST_LOG`.

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;
use tracing_subscriber::fmt::time::SystemTime;

/// What is logged without `RUST_LOG`: our own steps, and only trouble from the libraries.
const DEFAULT_FILTER: &str = "info,kube=warn,kube_client=warn,kube_runtime=warn,hyper=warn,rustls=warn,tower=warn";

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// One JSON object a line.
    #[default]
    Json,
    /// Coloured on a terminal.
    Pretty,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("RUST_LOG is not a filter: use a level (info) or targets (info,openbao_operator=debug)")]
    Filter(#[source] ParseError),
    #[error("logging is already set up in this process")]
    Twice(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Starts logging to standard error; a filter that cannot be read is refused rather than ignored.
pub fn init(format: LogFormat) -> Result<(), Error> {
    let filter = filter(std::env::var("RUST_LOG").ok().as_deref())?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_timer(SystemTime);
    match format {
        LogFormat::Json => builder.json().flatten_event(true).with_current_span(true).with_span_list(false).try_init(),
        LogFormat::Pretty => {
            let colours = std::io::IsTerminal::is_terminal(&std::io::stderr());
            builder.with_ansi(colours).try_init()
        }
    }
    .map_err(Error::Twice)
}

fn filter(given: Option<&str>) -> Result<EnvFilter, Error> {
    match given {
        Some(text) if !text.trim().is_empty() => EnvFilter::try_new(text).map_err(Error::Filter),
        _ => EnvFilter::try_new(DEFAULT_FILTER).map_err(Error::Filter),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_filter_is_valid_and_used_when_nothing_is_given() {
        for given in [None, Some(""), Some("  ")] {
            assert!(filter(given).unwrap().to_string().contains("kube_runtime=warn"));
        }
    }

    #[test]
    fn a_filter_that_cannot_be_read_is_refused() {
        assert!(filter(Some("openbao=loud")).is_err());
    }
}
