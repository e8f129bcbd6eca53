//! What stands in where no real server can be had: a double of GCS's XML API (the part the client speaks), and the one
//! signed request that makes a container in Azurite.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Path, Query, State};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

#[derive(Clone, Default)]
struct Shelf(Arc<Mutex<Objects>>);

#[derive(Default)]
struct Objects {
    whole: BTreeMap<String, Bytes>,
    parts: BTreeMap<String, BTreeMap<u32, Bytes>>,
}

/// A double of GCS. It checks no credentials.
pub struct Double {
    pub url: String,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Double {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Double {
    pub async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let router = Router::new()
            .route("/{bucket}", axum::routing::any(list))
            .route("/{bucket}/{*key}", axum::routing::any(object))
            .layer(DefaultBodyLimit::disable())
            .with_state(Shelf::default());
        let task = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { url, task }
    }
}

async fn list(State(shelf): State<Shelf>, Query(query): Query<BTreeMap<String, String>>) -> Response {
    let prefix = query.get("prefix").cloned().unwrap_or_default();
    let objects = shelf.0.lock().unwrap();
    let entries: String = objects
        .whole
        .iter()
        .filter(|(key, _)| key.starts_with(&prefix))
        .map(|(key, bytes)| {
            format!(
                "<Contents><Key>{key}</Key><Size>{}</Size><ETag>\"e\"</ETag><LastModified>2026-01-01T00:00:00.000Z</LastModified></Contents>",
                bytes.len()
            )
        })
        .collect();
    format!("<ListBucketResult>{entries}</ListBucketResult>").into_response()
}

async fn object(
    State(shelf): State<Shelf>,
    method: Method,
    Path((bucket, key)): Path<(String, String)>,
    Query(query): Query<BTreeMap<String, String>>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let mut objects = shelf.0.lock().unwrap();
    let upload = query.get("uploadId").cloned();
    match (method.as_str(), upload) {
        ("POST", None) => {
            let id = format!("{key}-{}", objects.parts.len());
            objects.parts.insert(id.clone(), BTreeMap::new());
            let (open, close) = ("<InitiateMultipartUploadResult>", "</InitiateMultipartUploadResult>");
            format!("{open}<Bucket>{bucket}</Bucket><Key>{key}</Key><UploadId>{id}</UploadId>{close}").into_response()
        }
        ("PUT", Some(id)) => {
            let number: u32 = query["partNumber"].parse().unwrap();
            objects.parts.get_mut(&id).unwrap().insert(number, body);
            ([("etag", format!("\"{number}\""))], "").into_response()
        }
        ("POST", Some(id)) => {
            let whole: Vec<u8> = objects.parts.remove(&id).unwrap().into_values().flatten().collect();
            objects.whole.insert(key.clone(), whole.into());
            let (open, close) = ("<CompleteMultipartUploadResult>", "</CompleteMultipartUploadResult>");
            format!("{open}<Key>{key}</Key><ETag>\"e\"</ETag>{close}").into_response()
        }
        ("DELETE", Some(id)) => {
            objects.parts.remove(&id);
            StatusCode::NO_CONTENT.into_response()
        }
        ("PUT", None) => {
            let create = headers.get("x-goog-if-generation-match").is_some_and(|value| value == "0");
            if create && objects.whole.contains_key(&key) {
                return StatusCode::PRECONDITION_FAILED.into_response();
            }
            objects.whole.insert(key, body);
            ([("etag", "\"e\"")], "").into_response()
        }
        ("DELETE", None) => match objects.whole.remove(&key) {
            Some(_) => StatusCode::NO_CONTENT.into_response(),
            None => StatusCode::NOT_FOUND.into_response(),
        },
        (_, _) => match objects.whole.get(&key) {
            Some(bytes) => read(bytes, &headers),
            None => (StatusCode::NOT_FOUND, "<Error><Code>NoSuchKey</Code></Error>").into_response(),
        },
    }
}

fn read(bytes: &Bytes, headers: &HeaderMap) -> Response {
    let fixed = [("etag", "\"e\"".to_owned()), ("last-modified", "Thu, 01 Jan 2026 00:00:00 GMT".to_owned())];
    let range = headers.get("range").and_then(|range| range.to_str().ok()?.strip_prefix("bytes=")?.split_once('-'));
    let Some((start, end)) = range else { return (fixed, bytes.clone()).into_response() };
    let start: usize = start.parse().unwrap();
    let end = end.parse::<usize>().unwrap().min(bytes.len() - 1);
    let told = [("content-range", format!("bytes {start}-{end}/{}", bytes.len()))];
    (StatusCode::PARTIAL_CONTENT, fixed, told, bytes.slice(start..=end)).into_response()
}

/// Credentials of a service account that asks nobody for a token.
pub fn service_account() -> String {
    serde_json::json!({
        "gcs_base_url": "", "disable_oauth": true, "client_email": "", "private_key": "", "private_key_id": "",
    })
    .to_string()
}

/// `PUT <container>?restype=container`, signed with the account's shared key.
pub async fn create_azure_container(endpoint: &str, account: &str, key: &str, container: &str) -> Result<(), String> {
    const VERSION: &str = "2023-11-03";
    let date = chrono::Utc::now().format("%a, %d %b %Y %H:%M:%S GMT").to_string();
    // Azurite's path holds the account, which is signed once more in front of it.
    let signed = format!(
        "PUT\n\n\n\n\n\n\n\n\n\n\n\nx-ms-date:{date}\nx-ms-version:{VERSION}\n/{account}/{account}/{container}\nrestype:container"
    );
    let mut mac = Hmac::<Sha256>::new_from_slice(&STANDARD.decode(key).unwrap()).unwrap();
    mac.update(signed.as_bytes());
    let signature = STANDARD.encode(mac.finalize().into_bytes());
    let request = reqwest::Client::new()
        .put(format!("{endpoint}/{container}?restype=container"))
        .header("x-ms-date", &date)
        .header("x-ms-version", VERSION)
        .header("content-length", 0)
        .header("authorization", format!("SharedKey {account}:{signature}"));
    let answer = request.send().await.map_err(|error| error.to_string())?;
    if answer.status().is_success() || answer.status() == StatusCode::CONFLICT {
        Ok(())
    } else {
        Err(format!("{}: {}", answer.status(), answer.text().await.unwrap_or_default()))
    }
}
