//! The plain HTTP server for probes and scrapes: `/healthz`, `/readyz`, `/metrics`.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::health::Readiness;
use crate::adapter::metrics;

const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot listen on {address} for health and metrics: is the port in use?")]
    Listen { address: SocketAddr, source: std::io::Error },
    #[error("the health and metrics server ended")]
    Serve(#[source] std::io::Error),
}

#[derive(Clone)]
struct Shared {
    readiness: Readiness,
    registry: Arc<Registry>,
}

/// A bound server; it answers once [`Server::run`] is polled.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
}

impl Server {
    /// Binds now, so that a port in use is found at start.
    pub async fn bind(address: SocketAddr) -> Result<Self, Error> {
        let bound = match TcpListener::bind(address).await {
            Err(error) => match without_ipv6(address, error.kind()) {
                Some(instead) => {
                    tracing::info!(%address, %instead, "there is no IPv6 here");
                    TcpListener::bind(instead).await
                }
                None => Err(error),
            },
            bound => bound,
        };
        let listener = bound.map_err(|source| Error::Listen { address, source })?;
        Ok(Self { listener })
    }

    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until `stop`.
    pub async fn run(
        self,
        readiness: Readiness,
        registry: Arc<Registry>,
        stop: CancellationToken,
    ) -> Result<(), Error> {
        let app = Router::new()
            .route("/healthz", get(healthz))
            .route("/readyz", get(readyz))
            .route("/metrics", get(scrape))
            .with_state(Shared { readiness, registry });
        axum::serve(self.listener, app)
            .with_graceful_shutdown(async move { stop.cancelled().await })
            .await
            .map_err(Error::Serve)
    }
}

/// Where to listen instead: "every address" means those of IPv4 on a node that has IPv6 switched off. A port in use is in use
/// for both.
fn without_ipv6(address: SocketAddr, error: ErrorKind) -> Option<SocketAddr> {
    let everywhere = address.is_ipv6() && address.ip().is_unspecified();
    let its_own_trouble = matches!(error, ErrorKind::AddrInUse | ErrorKind::PermissionDenied);
    (everywhere && !its_own_trouble).then(|| (Ipv4Addr::UNSPECIFIED, address.port()).into())
}

/// Alive means that the runtime still answers. Whatever is broken outside is not mended by a restart.
async fn healthz() -> &'static str {
    "ok\n"
}

async fn readyz(State(shared): State<Shared>) -> (StatusCode, String) {
    let (ready, text) = shared.readiness.report();
    (if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, text + "\n")
}

async fn scrape(State(shared): State<Shared>) -> Response {
    match metrics::encode(&shared.registry) {
        Ok(text) => ([(header::CONTENT_TYPE, OPENMETRICS)], text).into_response(),
        Err(_) => (StatusCode::INTERNAL_SERVER_ERROR, "metrics could not be written").into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::health::Stage;
    use super::*;
    use crate::adapter::metrics::Metrics;

    async fn ask(address: SocketAddr, path: &str) -> (u16, String) {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        (answer[9..12].parse().unwrap(), answer)
    }

    #[tokio::test]
    async fn probes_and_metrics_are_answered_truthfully() {
        let server = Server::bind(([127, 0, 0, 1], 0).into()).await.unwrap();
        let address = server.address().unwrap();
        let readiness = Readiness::default();
        let mut registry = Registry::with_prefix("openbao_operator");
        Metrics::default().register(&mut registry);
        let stop = CancellationToken::new();
        let running = tokio::spawn(server.run(readiness.clone(), Arc::new(registry), stop.clone()));

        assert_eq!(ask(address, "/healthz").await.0, 200);
        assert_eq!(ask(address, "/readyz").await.0, 503);
        readiness.set(Stage::Standby);
        assert_eq!(ask(address, "/readyz").await.0, 200);
        let (code, text) = ask(address, "/metrics").await;
        assert_eq!(code, 200);
        assert!(text.contains("application/openmetrics-text") && text.ends_with("# EOF\n"), "{text}");

        stop.cancel();
        running.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn listening_everywhere_answers_ipv4_too_with_or_without_ipv6() {
        let server = Server::bind("[::]:0".parse().unwrap()).await.unwrap();
        let port = server.address().unwrap().port();
        let stop = CancellationToken::new();
        let running = tokio::spawn(server.run(Readiness::default(), Arc::new(Registry::default()), stop.clone()));
        assert_eq!(ask(([127, 0, 0, 1], port).into(), "/healthz").await.0, 200);
        stop.cancel();
        running.await.unwrap().unwrap();
    }

    #[test]
    fn only_everywhere_and_only_without_ipv6_becomes_every_ipv4_address() {
        for (address, error, instead) in [
            ("[::]:8080", ErrorKind::Unsupported, Some("0.0.0.0:8080")),
            ("[::]:8080", ErrorKind::Other, Some("0.0.0.0:8080")),
            ("[::]:8080", ErrorKind::AddrNotAvailable, Some("0.0.0.0:8080")),
            ("[::]:8080", ErrorKind::AddrInUse, None),
            ("[::]:80", ErrorKind::PermissionDenied, None),
            ("[::1]:8080", ErrorKind::AddrNotAvailable, None),
            ("10.0.0.9:8080", ErrorKind::AddrNotAvailable, None),
        ] {
            let instead = instead.map(|text: &str| text.parse().unwrap());
            assert_eq!(without_ipv6(address.parse().unwrap(), error), instead, "{address} {error}");
        }
    }

    #[tokio::test]
    async fn a_port_in_use_is_named_at_start() {
        let first = Server::bind(([127, 0, 0, 1], 0).into()).await.unwrap();
        let address = first.address().unwrap();
        let error = Server::bind(address).await.unwrap_err();
        assert!(error.to_string().contains(&address.to_string()));
    }
}
