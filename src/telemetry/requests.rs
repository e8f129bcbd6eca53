//! Counts every request to the API server by verb, resource and status class: a layer around our Kubernetes client.

use std::pin::Pin;
use std::task::{Context, Poll};

use http::{Method, Request, Response};
use tower::{Layer, Service};

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
        let (verb, resource) = classify(request.method(), request.uri().path(), request.uri().query().unwrap_or(""));
        let answer = self.inner.call(request);
        Box::pin(async move {
            let answer = answer.await;
            let code = match &answer {
                Err(_) => "error",
                Ok(answer) => class(answer.status().as_u16()),
            };
            metrics().api_request(verb, resource, code);
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

/// The verb and resource as RBAC names them: `get`, `statefulsets`; `create`, `serviceaccounts/token`.
fn classify(method: &Method, path: &str, query: &str) -> (&'static str, String) {
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    let rest = match parts.as_slice() {
        ["api", _, rest @ ..] | ["apis", _, _, rest @ ..] => rest,
        _ => &[],
    };
    let rest = match rest {
        ["namespaces", _namespace, rest @ ..] if !rest.is_empty() => rest,
        rest => rest,
    };
    let (resource, named) = match rest {
        [] => ("nonresource".to_owned(), true),
        [resource] => ((*resource).to_owned(), false),
        [resource, _name] => ((*resource).to_owned(), true),
        [resource, _name, subresource, ..] => (format!("{resource}/{subresource}"), true),
    };
    let watching = query.split('&').any(|pair| matches!(pair, "watch=true" | "watch=1" | "watch"));
    let verb = match *method {
        Method::GET if watching => "watch",
        Method::GET if named => "get",
        Method::GET => "list",
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE if named => "delete",
        Method::DELETE => "deletecollection",
        _ => "other",
    };
    (verb, resource)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_named_as_rbac_names_them_and_never_by_object() {
        for (method, path, query, verb, resource) in [
            (Method::GET, "/api/v1/namespaces/vault/pods", "", "list", "pods"),
            (Method::GET, "/api/v1/namespaces/vault/pods/prod-0", "", "get", "pods"),
            (Method::GET, "/api/v1/pods", "limit=5&watch=true", "watch", "pods"),
            (Method::GET, "/api/v1/namespaces/vault", "", "get", "namespaces"),
            (Method::POST, "/api/v1/namespaces/x/serviceaccounts/y/token", "", "create", "serviceaccounts/token"),
            (Method::PATCH, "/apis/apps/v1/namespaces/x/statefulsets/y", "fieldManager=z", "patch", "statefulsets"),
            (
                Method::PUT,
                "/apis/openbao.org/v1alpha1/namespaces/x/openbaorestores/y/status",
                "",
                "update",
                "openbaorestores/status",
            ),
            (Method::DELETE, "/apis/batch/v1/namespaces/x/jobs/y", "", "delete", "jobs"),
            (Method::GET, "/openid/v1/jwks", "", "get", "nonresource"),
        ] {
            assert_eq!(classify(&method, path, query), (verb, resource.to_owned()), "{method} {path}");
        }
    }
}
