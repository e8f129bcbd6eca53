//! An API server for tests that need only one answer.

use std::future::ready;

use kube::{Client, client::Body, core::Status};

/// One that says no to everything, with this code. It wants a runtime.
pub(crate) fn refusing(code: u16, reason: &'static str) -> Client {
    let answer = move |_: http::Request<Body>| {
        let body = serde_json::to_vec(&Status::failure("no", reason).with_code(code)).unwrap();
        ready(http::Response::builder().status(code).body(Body::from(body)))
    };
    Client::new(tower::service_fn(answer), "reef")
}
