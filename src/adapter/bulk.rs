//! Data that the watches do not remember because there is so much of it: read by name where it is needed.

use super::kubernetes::{
    Namespaced,
    client::{RequestError, timed},
    feed,
};
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::{Api, Client, ResourceExt};
use std::{
    borrow::Cow,
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::time::Instant;

/// The most data of one `ConfigMap` or Secret that a watch remembers. Whoever may create one may give it our label, and ours are
/// smaller: a bundle of all public certificate authorities has up to 290 KiB.
const MOST_DATA: usize = 512 * 1024;
/// How long what was read by name is kept. As long as the object stays as it is, it is right; this is for those that are gone.
const KEPT: Duration = Duration::from_secs(600);

/// An object whose data a watch may leave out.
pub trait Bulky: Namespaced {
    /// Whether some of it is there. Of an object that never had any that cannot be told: it is read by name as well.
    fn has_data(&self) -> bool;
}

impl Bulky for ConfigMap {
    fn has_data(&self) -> bool {
        self.data.is_some() || self.binary_data.is_some()
    }
}

impl Bulky for Secret {
    fn has_data(&self) -> bool {
        self.data.is_some()
    }
}

/// What a watch remembers of a `ConfigMap`.
pub(super) fn slim_config_map(map: &mut ConfigMap) {
    feed::forget_managers(map);
    let text = map.data.iter().flatten().map(|(key, value)| key.len() + value.len());
    let bytes = map.binary_data.iter().flatten().map(|(key, value)| key.len() + value.0.len());
    if text.chain(bytes).sum::<usize>() > MOST_DATA {
        (map.data, map.binary_data) = (None, None);
    }
}

/// What a watch remembers of a Secret.
pub(super) fn slim_secret(secret: &mut Secret) {
    feed::forget_managers(secret);
    let bytes = secret.data.iter().flatten().map(|(key, value)| key.len() + value.0.len());
    if bytes.sum::<usize>() > MOST_DATA {
        secret.data = None;
    }
}

/// An object that is there could not be read whole. Nothing may be concluded from what it seems to lack.
#[derive(Debug, thiserror::Error)]
#[error("failed to read {kind} {namespace}/{name}")]
pub struct Unread {
    kind: Cow<'static, str>,
    namespace: String,
    name: String,
    #[source]
    source: RequestError,
}

/// Objects that were read by name.
#[derive(Clone, Debug, Default)]
pub struct Whole<K>(Arc<Mutex<ByName<K>>>);

/// By namespace and name.
type ByName<K> = HashMap<(String, String), Kept<K>>;

#[derive(Clone, Debug)]
struct Kept<K> {
    since: Instant,
    object: Arc<K>,
}

impl<K: Bulky> Whole<K> {
    /// `known` with its data. Asks the API server only where the watch left it out, and once for each state of the object.
    pub async fn of(&self, client: &Client, known: Arc<K>) -> Result<Arc<K>, Unread> {
        if known.has_data() {
            return Ok(known);
        }
        let (namespace, name) = (known.namespace().unwrap_or_default(), known.name_any());
        let key = (namespace.clone(), name.clone());
        if let Some(kept) = self.kept(&key, &known) {
            return Ok(kept);
        }
        let api: Api<K> = Api::namespaced(client.clone(), &namespace);
        let answer = timed(api.get_opt(&name)).await;
        let answer = answer.map_err(|source| Unread { kind: K::kind(&()), namespace, name, source })?;
        // Gone since: the watch will tell.
        let Some(mut found) = answer else { return Ok(known) };
        feed::forget_managers(&mut found);
        let object = Arc::new(found);
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, kept| kept.since.elapsed() < KEPT);
        all.insert(key, Kept { since: Instant::now(), object: object.clone() });
        Ok(object)
    }

    fn kept(&self, key: &(String, String), known: &K) -> Option<Arc<K>> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let object = &all.get(key)?.object;
        let is_same = object.uid() == known.uid() && object.resource_version() == known.resource_version();
        is_same.then(|| object.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::ByteString;
    use std::collections::BTreeMap;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        sync::mpsc::{UnboundedReceiver, unbounded_channel},
    };

    #[test]
    fn of_what_is_larger_than_anything_of_ours_no_data_is_remembered() {
        let left = |bytes: usize| {
            let data = Some(BTreeMap::from([("ca.crt".to_owned(), "x".repeat(bytes))]));
            let mut map = ConfigMap { data, ..ConfigMap::default() };
            let value = ByteString(vec![0; bytes]);
            let data = Some(BTreeMap::from([("tls.key".to_owned(), value)]));
            let mut secret = Secret { data: data.clone(), ..Secret::default() };
            let mut binary = ConfigMap { binary_data: data, ..ConfigMap::default() };
            slim_config_map(&mut map);
            slim_config_map(&mut binary);
            slim_secret(&mut secret);
            (map.has_data(), binary.has_data(), secret.has_data())
        };
        assert_eq!(left(300 * 1024), (true, true, true), "a bundle of all public authorities");
        assert_eq!(left(1024 * 1024), (false, false, false));
    }

    /// An API server that gives the same Secret to everybody and tells what it was asked.
    async fn serves(secret: &Secret) -> (Client, UnboundedReceiver<String>) {
        // No client is built without one, whatever it speaks. Where another test installed one, that does.
        drop(rustls::crypto::ring::default_provider().install_default());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (tell, asked) = unbounded_channel();
        let body = serde_json::to_string(secret).unwrap();
        tokio::spawn(async move {
            while let Ok((mut connection, _)) = listener.accept().await {
                let mut request = [0; 4096];
                let length = connection.read(&mut request).await.unwrap();
                let line = String::from_utf8_lossy(&request[..length]).lines().next().unwrap_or_default().to_owned();
                tell.send(line).unwrap();
                let head = "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-type: application/json\r\n";
                let answer = format!("{head}content-length: {}\r\n\r\n{body}", body.len());
                connection.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        let config = kube::Config::new(format!("http://{address}").parse().unwrap());
        (Client::try_from(config).unwrap(), asked)
    }

    #[tokio::test]
    async fn what_the_watch_left_out_is_read_by_name_and_once_for_each_state_of_the_object() {
        let data = BTreeMap::from([("older.crt".to_owned(), ByteString(vec![b'x'; 600 * 1024]))]);
        let mut whole = Secret { data: Some(data), ..Secret::default() };
        whole.metadata.namespace = Some("reef".into());
        whole.metadata.name = Some("kelp-tls-older".into());
        whole.metadata.uid = Some("u1".into());
        whole.metadata.resource_version = Some("7".into());
        let (client, mut asked) = serves(&whole).await;
        let mut cut = whole.clone();
        slim_secret(&mut cut);
        assert!(!cut.has_data());
        let known = Whole::default();
        for _ in 0..3 {
            let found = known.of(&client, Arc::new(cut.clone())).await.unwrap();
            assert_eq!(found.data, whole.data, "it does not look empty");
        }
        let mut changed = cut.clone();
        changed.metadata.resource_version = Some("8".into());
        known.of(&client, Arc::new(changed)).await.unwrap();
        let mut small = cut.clone();
        small.data = Some(BTreeMap::new());
        known.of(&client, Arc::new(small)).await.unwrap();
        let mut lines = Vec::new();
        while let Ok(line) = asked.try_recv() {
            lines.push(line);
        }
        assert_eq!(lines.len(), 2, "{lines:?}");
        assert!(lines.iter().all(|line| line.contains("/api/v1/namespaces/reef/secrets/kelp-tls-older")), "{lines:?}");
    }

    #[tokio::test]
    async fn what_cannot_be_read_is_an_error_and_no_empty_object() {
        drop(rustls::crypto::ring::default_provider().install_default());
        let nobody = Client::try_from(kube::Config::new("http://127.0.0.1:1".parse().unwrap())).unwrap();
        let mut cut = Secret::default();
        cut.metadata.name = Some("kelp-tls-ca".into());
        cut.metadata.namespace = Some("reef".into());
        let error = Whole::default().of(&nobody, Arc::new(cut)).await.unwrap_err();
        assert!(error.to_string().contains("Secret reef/kelp-tls-ca"), "{error}");
    }
}
