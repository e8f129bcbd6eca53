//! Counts every request to the API server by verb, resource and status class: a layer around our Kubernetes client.

use std::pin::Pin;
use std::task::{Context, Poll};

use http::{Request, Response};
use tower::{Layer, Service};

use crate::adapter::kubernetes::classify::classify;
use crate::adapter::metrics::metrics;

/// Wraps the client's service. Outermost, so that it sees requests as our code makes them.
#[derive(Clone, Copy, Debug)]
pub struct CountRequests;

#[derive(Clone, Debug)]
pub struct Counting<S> {
    inner: S,
}

impl<S> Layer<S> for CountRequests {
    type Service = Counting<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Counting { inner }
    }
}

impl<S, B, R> Service<Request<B>> for Counting<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        // By kind only: the names of objects never become labels.
        let called = classify(request.method(), request.uri().path(), request.uri().query().unwrap_or_default());
        let answer = self.inner.call(request);
        Box::pin(async move {
            let answer = answer.await;
            let code = match &answer {
                Err(_) => "error",
                Ok(answer) => class(answer.status().as_u16()),
            };
            metrics().api_request(called.verb, called.resource, code);
            answer
        })
    }
}

/// Conflicts and refusals are worth telling apart from other 4xx; nothing else is.
fn class(status: u16) -> &'static str {
    match status {
        200..300 => "2xx",
        403 => "403",
        404 => "404",
        409 => "409",
        429 => "429",
        400..500 => "4xx",
        500..600 => "5xx",
        _ => "other",
    }
}
