//! The layer in the clients of object stores. A folder is no server, and has none.

use std::pin::Pin;

use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpService, ReqwestConnector,
};

use super::engine::{Engine, through};
use super::rules::Call;

/// Makes the clients that `object_store` would make, with faults in them where somebody asked for faults.
#[derive(Debug, Default)]
pub struct FaultyConnector(ReqwestConnector);

impl HttpConnector for FaultyConnector {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        let inner = self.0.connect(options)?;
        Ok(match Engine::global() {
            Some(engine) => HttpClient::new(Faulty { engine, inner }),
            None => inner,
        })
    }
}

#[derive(Debug)]
struct Faulty {
    engine: &'static Engine,
    inner: HttpClient,
}

impl HttpService for Faulty {
    fn call<'life, 'future>(
        &'life self,
        request: HttpRequest,
    ) -> Pin<Box<dyn Future<Output = Result<HttpResponse, HttpError>> + Send + 'future>>
    where
        'life: 'future,
        Self: 'future,
    {
        Box::pin(async move {
            let uri = request.uri();
            let conditional = request.headers().contains_key(http::header::IF_NONE_MATCH)
                || request.headers().contains_key("x-goog-if-generation-match");
            let verb = verb(request.method(), uri.query().unwrap_or_default(), conditional);
            let call = Call::store(verb, uri.path().trim_start_matches('/'));
            let send = || self.inner.execute(request.clone());
            // Interrupted, as a lost connection is: the client decides whether it may send the request again.
            let silence = |why: &'static str| HttpError::new(HttpErrorKind::Interrupted, std::io::Error::other(why));
            let answer = |status| {
                let mut answer = HttpResponse::new(String::from("refused on purpose").into());
                *answer.status_mut() =
                    http::StatusCode::from_u16(status).unwrap_or(http::StatusCode::INTERNAL_SERVER_ERROR);
                answer
            };
            through(self.engine, &call, send, silence, answer, |answer| answer.status().as_u16()).await
        })
    }
}

/// What a request does, in the words of [`Match::verb`](super::Match::verb). S3 and GCS tell it by `uploads`, `uploadId` and
/// `partNumber`, Azure by `comp`.
fn verb(method: &http::Method, query: &str, conditional: bool) -> &'static str {
    let has = |name: &str| query.split('&').any(|part| part.split('=').next() == Some(name));
    let comp = query.split('&').find_map(|part| part.strip_prefix("comp=")).unwrap_or_default();
    match method.as_str() {
        "HEAD" => "head",
        "GET" if has("list-type") || comp == "list" || has("prefix") => "list",
        "GET" => "read",
        "POST" if has("uploads") => "begin",
        "POST" if has("uploadId") => "complete",
        // Several at once.
        "POST" if has("delete") || comp == "batch" => "delete",
        "PUT" if has("partNumber") || comp == "block" => "upload",
        "PUT" if comp == "blocklist" => "complete",
        "PUT" if conditional => "create",
        "PUT" => "put",
        "DELETE" if has("uploadId") => "abort",
        "DELETE" => "delete",
        _ => "other",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Method;

    #[test]
    fn a_request_to_a_store_is_named_by_what_it_does() {
        for (method, query, conditional, named) in [
            (Method::HEAD, "", false, "head"),
            (Method::GET, "", false, "read"),
            (Method::GET, "list-type=2&prefix=prod", false, "list"),
            (Method::GET, "restype=container&comp=list", false, "list"),
            (Method::PUT, "", true, "create"),
            (Method::PUT, "", false, "put"),
            (Method::POST, "uploads", false, "begin"),
            (Method::POST, "uploads=", false, "begin"),
            (Method::PUT, "partNumber=3&uploadId=x", false, "upload"),
            (Method::PUT, "comp=block&blockid=MDAx", false, "upload"),
            (Method::PUT, "comp=blocklist", false, "complete"),
            (Method::POST, "uploadId=x", false, "complete"),
            (Method::DELETE, "uploadId=x", false, "abort"),
            (Method::DELETE, "", false, "delete"),
            (Method::POST, "delete", false, "delete"),
            (Method::POST, "restype=container&comp=batch", false, "delete"),
        ] {
            assert_eq!(verb(&method, query, conditional), named, "{method} ?{query}");
        }
    }
}
