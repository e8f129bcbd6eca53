//! The layer in our Kubernetes client.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::Body;
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use kube::client::Body as Outgoing;
use tokio::sync::Mutex;
use tower::{BoxError, Layer, Service, ServiceExt};

use super::engine::{Engine, through};
use super::rules::Call;
use super::watch;

/// Stands next to the connection, so that everything else sees its faults as the network's.
#[derive(Clone, Copy, Debug)]
pub struct FaultLayer;

/// The client's service with faults in it.
#[derive(Debug)]
pub struct Faulty<S> {
    // Shared, because a repeated request needs it twice.
    inner: Arc<Mutex<S>>,
}

impl<S> Layer<S> for FaultLayer {
    type Service = Faulty<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Faulty { inner: Arc::new(Mutex::new(inner)) }
    }
}

impl<S, R> Service<Request<Outgoing>> for Faulty<S>
where
    S: Service<Request<Outgoing>, Response = Response<R>, Error = BoxError> + Send + 'static,
    S::Future: Send + 'static,
    R: axum::body::HttpBody<Data = Bytes> + Send + 'static,
    R::Error: Into<BoxError>,
{
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Outgoing>) -> Self::Future {
        let inner = self.inner.clone();
        Box::pin(async move {
            let (head, body) = request.into_parts();
            let call = Call::kubernetes(&head.method, head.uri.path(), head.uri.query().unwrap_or_default());
            // Every body of kube's own is one piece of bytes.
            let mut bodies = vec![body.try_clone().unwrap_or_else(Outgoing::empty), body];
            let send = || {
                let (inner, head, body) = (inner.clone(), head.clone(), bodies.pop().unwrap_or_else(Outgoing::empty));
                async move {
                    let answer = inner.lock().await.ready().await?.call(Request::from_parts(head, body));
                    Ok(answer.await?.map(Body::new))
                }
            };
            let Some(engine) = Engine::global() else {
                let mut send = send;
                return send().await;
            };
            let silence =
                |why: &'static str| BoxError::from(std::io::Error::new(std::io::ErrorKind::ConnectionReset, why));
            let answer = through(engine, &call, send, silence, refusal, |answer| answer.status().as_u16()).await?;
            Ok(if call.verb == "watch" { watch::disturb(engine, call, answer) } else { answer })
        })
    }
}

/// What an API server says with such a status.
fn refusal(status: u16) -> Response<Body> {
    let reason = match status {
        409 => "Conflict",
        429 => "TooManyRequests",
        500 => "InternalError",
        503 => "ServiceUnavailable",
        _ => "Unknown",
    };
    let told = serde_json::json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason,
        "message": "refused on purpose", "code": status});
    let mut answer = Response::new(Body::from(told.to_string()));
    *answer.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    answer
}
