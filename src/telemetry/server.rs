//! The plain HTTP server for probes and scrapes: `/healthz`, `/readyz`, `/metrics`.

use std::net::SocketAddr;
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
        let listener = TcpListener::bind(address).await.map_err(|source| Error::Listen { address, source })?;
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
    async fn a_port_in_use_is_named_at_start() {
        let first = Server::bind(([127, 0, 0, 1], 0).into()).await.unwrap();
        let address = first.address().unwrap();
        let error = Server::bind(address).await.unwrap_err();
        assert!(error.to_string().contains(&address.to_string()));
    }
}
