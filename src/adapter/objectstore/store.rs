//! A target made usable: an `object_store` client with our timeouts, our trust and our errors around it.

mod list;

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::list::PaginatedListStore;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{
    BackoffConfig, Certificate, ClientOptions, GetOptions, GetRange, MultipartUpload, ObjectStore, ObjectStoreExt,
    PutMode, PutOptions, PutPayload, RetryConfig,
};

use super::credentials::{Credentials, Identity, key};
use super::error::{StoreError, detail};
use super::manifest::{MAX_MANIFEST_BYTES, Manifest};
use super::target::{Provider, Target};

pub use list::Listed;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Time without a byte before a request counts as dead. Not a limit for a whole transfer.
const READ_TIMEOUT: Duration = Duration::from_mins(1);
/// A whole request: one part of at most 30 MiB at 100 KB/s.
const REQUEST_TIMEOUT: Duration = Duration::from_mins(5);
/// Beyond this a request's signature is too old to be sent again.
const RETRY_FOR: Duration = Duration::from_mins(2);
const RETRIES: usize = 6;
/// Bytes of one ranged read of a download: a lost connection costs one range, not the whole object.
const RANGE: u64 = 16 * 1024 * 1024;

/// One object, as a list tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    pub key: String,
    pub size: u64,
    /// When it was written, by the store's own clock; `None` where a folder does not say.
    pub written: Option<DateTime<Utc>>,
}

/// A store, ready for requests. Cheap to clone.
#[derive(Clone)]
pub struct Store {
    inner: Arc<dyn ObjectStore>,
    /// The same, for lists. A folder has none.
    pages: Option<Arc<dyn PaginatedListStore>>,
    target: Arc<Target>,
    name: Arc<str>,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("inner", &self.inner).finish_non_exhaustive()
    }
}

/// What opens a store's connections: the library's own, but for the faults that tests put in.
#[cfg(not(feature = "fault-injection"))]
type Connector = object_store::client::ReqwestConnector;
#[cfg(feature = "fault-injection")]
type Connector = crate::adapter::faults::FaultyConnector;

/// A client, and the same once more for lists where it has pages.
type Client = (Arc<dyn ObjectStore>, Option<Arc<dyn PaginatedListStore>>);

fn paged<S: ObjectStore + PaginatedListStore>(store: S) -> Client {
    let store = Arc::new(store);
    (Arc::clone(&store) as Arc<dyn ObjectStore>, Some(store))
}

impl Store {
    /// Sets up the client; sends nothing.
    ///
    /// # Errors
    /// An impossible target, missing credentials, unreadable certificates.
    pub fn open(target: &Target, credentials: &Credentials) -> Result<Self, StoreError> {
        target.validate()?;
        let identity = credentials.identity(target)?;
        let (inner, pages) = match target.provider {
            Provider::S3 => s3(target, credentials, identity)?,
            Provider::Gcs => gcs(target, credentials, identity)?,
            Provider::Azure => azure(target, credentials, identity)?,
            Provider::File => file(target)?,
        };
        Ok(Self { inner, pages, target: Arc::new(target.clone()), name: target.describe().into() })
    }

    pub fn target(&self) -> &Target {
        &self.target
    }

    /// The target in one line for people.
    pub fn name(&self) -> &str {
        &self.name
    }

    fn failed(&self, key: &str, error: &object_store::Error) -> StoreError {
        StoreError::classify(&self.name, key, error)
    }

    fn path(&self, key: &str) -> Result<Path, StoreError> {
        // Parsed, not escaped: a key means the same object to us and to every other tool.
        Path::parse(key).map_err(|error| StoreError::Setup { target: self.name.to_string(), what: detail(&error) })
    }

    /// The object's size, or `None` when there is no such object.
    pub async fn head(&self, key: &str) -> Result<Option<u64>, StoreError> {
        match self.inner.head(&self.path(key)?).await {
            Ok(meta) => Ok(Some(meta.size)),
            Err(error) => match self.failed(key, &error) {
                StoreError::NotFound { .. } => Ok(None),
                other => Err(other),
            },
        }
    }

    /// Writes a small object that must not exist yet. A store that ignores the condition is caught by a HEAD first, as
    /// well as that can be.
    pub async fn create(&self, key: &str, bytes: Bytes) -> Result<(), StoreError> {
        if self.head(key).await?.is_some() {
            return Err(StoreError::AlreadyExists { target: self.name.to_string(), key: key.to_owned() });
        }
        let path = self.path(key)?;
        let create = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        match self.inner.put_opts(&path, PutPayload::from_bytes(bytes.clone()), create).await {
            Ok(_) => Ok(()),
            Err(error) => match self.failed(key, &error) {
                // A retried request may meet what its first attempt wrote: the same bytes are ours.
                StoreError::AlreadyExists { target, key } => match self.small(&key, bytes.len() as u64).await {
                    Ok(found) if found == bytes => Ok(()),
                    _ => Err(StoreError::AlreadyExists { target, key }),
                },
                // Nothing was there a moment ago, and only one operation uses this key.
                other if self.knows_no_condition(&other) => {
                    let put = self.inner.put(&path, PutPayload::from_bytes(bytes)).await;
                    put.map(drop).map_err(|error| self.failed(key, &error))
                }
                other => Err(other),
            },
        }
    }

    /// Whether this refusal of a create-only write may be about the condition: a volume without hard links (SMB, some FUSE
    /// drivers) has no such write, nor have some stores that speak the S3 protocol.
    fn knows_no_condition(&self, refusal: &StoreError) -> bool {
        match refusal {
            StoreError::Permission { .. } | StoreError::Server { .. } if self.target.provider == Provider::File => true,
            StoreError::Server { detail, .. } => ["501", "NotImplemented"].iter().any(|word| detail.contains(word)),
            _ => false,
        }
    }

    /// Begins the upload of a large object. It does not exist until it is completed.
    pub async fn begin_upload(&self, key: &str) -> Result<Box<dyn MultipartUpload>, StoreError> {
        self.inner.put_multipart(&self.path(key)?).await.map_err(|error| self.failed(key, &error))
    }

    /// For errors of an upload that [`Self::begin_upload`] began.
    pub fn upload_error(&self, key: &str, error: &object_store::Error) -> StoreError {
        self.failed(key, error)
    }

    /// A whole small object; one that is longer than `limit` bytes is an error.
    pub async fn small(&self, key: &str, limit: u64) -> Result<Bytes, StoreError> {
        let found = self.inner.get(&self.path(key)?).await.map_err(|error| self.failed(key, &error))?;
        if found.meta.size > limit {
            let (target, key, found) = (self.name.to_string(), key.to_owned(), found.meta.size);
            return Err(StoreError::Size { target, key, expected: limit, found });
        }
        found.bytes().await.map_err(|error| self.failed(key, &error))
    }

    /// The manifest beside a snapshot, or `None` when there is none.
    pub async fn manifest(&self, snapshot_key: &str) -> Result<Option<Manifest>, StoreError> {
        let key = super::keys::manifest_key(snapshot_key);
        let bytes = match self.small(&key, MAX_MANIFEST_BYTES).await {
            Ok(bytes) => bytes,
            Err(StoreError::NotFound { .. }) => return Ok(None),
            Err(other) => return Err(other),
        };
        let read = Manifest::parse(snapshot_key, &bytes);
        read.map(Some).map_err(|source| StoreError::Manifest { target: self.name.to_string(), key, source })
    }

    /// The bytes of an object of `size` bytes, in order, fetched range by range. A store that ends early or sends more is
    /// an error.
    pub fn stream(&self, key: &str, size: u64) -> BoxStream<'static, Result<Bytes, StoreError>> {
        let (store, key) = (self.clone(), key.to_owned());
        let ranges = (0..size.div_ceil(RANGE)).map(move |n| (n * RANGE, ((n + 1) * RANGE).min(size)));
        futures::stream::iter(ranges)
            .then(move |(start, end)| {
                let (store, key) = (store.clone(), key.clone());
                async move { store.range(&key, start, end).await }
            })
            .try_flatten()
            .boxed()
    }

    async fn range(
        &self,
        key: &str,
        start: u64,
        end: u64,
    ) -> Result<BoxStream<'static, Result<Bytes, StoreError>>, StoreError> {
        let options = GetOptions { range: Some(GetRange::Bounded(start..end)), ..GetOptions::default() };
        let found = self.inner.get_opts(&self.path(key)?, options).await.map_err(|error| self.failed(key, &error))?;
        if found.range != (start..end) {
            let (target, key, found) = (self.name.to_string(), key.to_owned(), found.range.end - found.range.start);
            return Err(StoreError::Size { target, key, expected: end - start, found });
        }
        let (store, key) = (self.clone(), key.to_owned());
        Ok(found.into_stream().map_err(move |error| store.failed(&key, &error)).boxed())
    }

    /// Removes an object; one that is not there is removed already.
    pub async fn delete(&self, key: &str) -> Result<(), StoreError> {
        match self.inner.delete(&self.path(key)?).await {
            Ok(()) => Ok(()),
            Err(error) => match self.failed(key, &error) {
                StoreError::NotFound { .. } => Ok(()),
                other => Err(other),
            },
        }
    }

    /// Staged uploads of a folder store that a killed process left behind (`key#1` …): they are no objects, so nothing
    /// lists them. Other stores keep such parts for themselves, and a bucket rule removes them.
    pub async fn clear_staged(&self, key: &str) -> Result<(), StoreError> {
        let Some(root) = self.target.file.as_ref().filter(|_| self.target.provider == Provider::File) else {
            return Ok(());
        };
        let path = std::path::Path::new(&root.root).join(key);
        let (Some(folder), Some(name)) = (path.parent(), path.file_name().and_then(|name| name.to_str())) else {
            return Ok(());
        };
        let failed = |error: &std::io::Error| StoreError::Server {
            target: self.name.to_string(),
            key: key.to_owned(),
            detail: detail(error),
        };
        let mut entries = match tokio::fs::read_dir(folder).await {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(failed(&error)),
        };
        while let Some(entry) = entries.next_entry().await.map_err(|error| failed(&error))? {
            let found = entry.file_name();
            let staged =
                found.to_str().and_then(|found| found.strip_prefix(name)).and_then(|rest| rest.strip_prefix('#'));
            if staged.is_some_and(|digits| digits.bytes().all(|byte| byte.is_ascii_digit())) {
                tokio::fs::remove_file(entry.path()).await.map_err(|error| failed(&error))?;
            }
        }
        Ok(())
    }

    /// Writes, reads and removes a small object: tells a wrong target apart before a snapshot is taken. Says whether the
    /// store honours create-only writes.
    pub async fn preflight(&self, key: &str) -> Result<bool, StoreError> {
        let (path, content) =
            (self.path(key)?, Bytes::from_static(b"openbao-operator checks that it can write here\n"));
        let payload = || PutPayload::from_bytes(content.clone());
        self.inner.put(&path, payload()).await.map_err(|error| self.failed(key, &error))?;
        let checked = async {
            if self.small(key, content.len() as u64).await? != content {
                return Err(StoreError::Content { target: self.name.to_string(), key: key.to_owned() });
            }
            let create = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
            let again = self.inner.put_opts(&path, payload(), create).await;
            Ok(matches!(again, Err(error) if matches!(self.failed(key, &error), StoreError::AlreadyExists { .. })))
        }
        .await;
        self.delete(key).await?;
        let create_only = checked?;
        // As a manifest is written, which comes last: better told now than after a whole snapshot.
        let created = self.create(key, content.clone()).await;
        self.delete(key).await?;
        created.map(|()| create_only)
    }
}

fn setup(target: &Target, error: &dyn std::error::Error) -> StoreError {
    StoreError::Setup { target: target.describe(), what: detail(error) }
}

fn client_options(target: &Target, credentials: &Credentials) -> Result<ClientOptions, StoreError> {
    let plain = target.endpoint.as_deref().is_some_and(|endpoint| endpoint.starts_with("http://"));
    let mut options = ClientOptions::new()
        .with_allow_http(plain)
        .with_connect_timeout(CONNECT_TIMEOUT)
        .with_read_timeout(READ_TIMEOUT)
        .with_timeout(REQUEST_TIMEOUT)
        .with_http1_only()
        .with_allow_invalid_certificates(target.insecure_skip_verify);
    for pem in [target.ca_bundle.as_deref(), credentials.get(key::CA_CERT)].into_iter().flatten() {
        for certificate in Certificate::from_pem_bundle(pem.as_bytes()).map_err(|error| setup(target, &error))? {
            options = options.with_root_certificate(certificate);
        }
    }
    Ok(options)
}

fn retry() -> RetryConfig {
    let backoff = BackoffConfig { max_backoff: Duration::from_secs(10), ..BackoffConfig::default() };
    RetryConfig { backoff, max_retries: RETRIES, retry_timeout: RETRY_FOR }
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

fn s3(target: &Target, credentials: &Credentials, identity: Identity) -> Result<Client, StoreError> {
    let bucket = target.bucket_or_container().unwrap_or_default();
    let region = target.region(credentials.get(key::REGION));
    let mut builder = AmazonS3Builder::new()
        .with_bucket_name(bucket)
        .with_region(region)
        // Some compatible stores know neither tags nor the bulk form of delete.
        .with_disable_tagging(true)
        .with_disable_bulk_delete(true)
        .with_client_options(client_options(target, credentials)?)
        .with_http_connector(Connector::default())
        .with_retry(retry());
    builder = match &target.endpoint {
        None => builder.with_virtual_hosted_style_request(!target.use_path_style),
        Some(endpoint) => {
            let (endpoint, virtual_hosted) = s3_endpoint(endpoint, bucket, target.use_path_style);
            builder.with_endpoint(endpoint).with_virtual_hosted_style_request(virtual_hosted)
        }
    };
    builder = match identity {
        Identity::Given => {
            let builder = builder
                .with_access_key_id(credentials.get(key::ACCESS_KEY_ID).unwrap_or_default())
                .with_secret_access_key(credentials.get(key::SECRET_ACCESS_KEY).unwrap_or_default());
            match credentials.get(key::SESSION_TOKEN) {
                Some(token) => builder.with_token(token),
                None => builder,
            }
        }
        Identity::Workload => {
            let role = target.role_arn.clone().or_else(|| variable("AWS_ROLE_ARN"));
            match (role, variable("AWS_WEB_IDENTITY_TOKEN_FILE")) {
                (Some(role), Some(token)) => {
                    let builder = builder
                        .with_config(AmazonS3ConfigKey::RoleArn, role)
                        .with_config(AmazonS3ConfigKey::WebIdentityTokenFile, token)
                        .with_config(AmazonS3ConfigKey::RoleSessionName, "openbao-backup");
                    match variable("AWS_ENDPOINT_URL_STS") {
                        Some(sts) => builder.with_config(AmazonS3ConfigKey::StsEndpoint, sts),
                        None => builder,
                    }
                }
                _ => pod_identity(target, builder)?,
            }
        }
    };
    Ok(paged(builder.build().map_err(|error| setup(target, &error))?))
}

/// The cluster's pod-identity agent, where it has set its variables. Nothing else may follow: the next in the client's
/// own order is the node's identity by the metadata address, which belongs to no pod.
fn pod_identity(target: &Target, builder: AmazonS3Builder) -> Result<AmazonS3Builder, StoreError> {
    let uri = variable("AWS_CONTAINER_CREDENTIALS_FULL_URI");
    match (uri, variable("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE")) {
        (Some(uri), Some(token)) => Ok(builder
            .with_config(AmazonS3ConfigKey::ContainerCredentialsFullUri, uri)
            .with_config(AmazonS3ConfigKey::ContainerAuthorizationTokenFile, token)),
        _ => Err(StoreError::Setup {
            target: target.describe(),
            what: "workload identity was asked for, but the pod has neither a role with a web identity token \
                   (roleArn, AWS_WEB_IDENTITY_TOKEN_FILE) nor a pod identity"
                .to_owned(),
        }),
    }
}

/// Where requests go, and whether the bucket is part of the host name. Hosts for which nobody makes bucket names
/// resolvable (addresses, single names, names within a Kubernetes cluster) are addressed by path in any case.
fn s3_endpoint(endpoint: &str, bucket: &str, path_style: bool) -> (String, bool) {
    let endpoint = endpoint.trim_end_matches('/');
    let Some((scheme, rest)) = endpoint.split_once("://") else { return (endpoint.to_owned(), false) };
    let authority = rest.split('/').next().unwrap_or_default();
    let host = if authority.starts_with('[') { authority } else { authority.split(':').next().unwrap_or_default() };
    let address = host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok();
    let within =
        !host.contains('.') || [".svc", ".local"].iter().any(|suffix| host.ends_with(suffix)) || host.contains(".svc.");
    if path_style || address || within || bucket.contains('.') {
        (endpoint.to_owned(), false)
    } else {
        (format!("{scheme}://{bucket}.{rest}"), true)
    }
}

fn gcs(target: &Target, credentials: &Credentials, identity: Identity) -> Result<Client, StoreError> {
    let mut builder = GoogleCloudStorageBuilder::new()
        .with_bucket_name(target.bucket_or_container().unwrap_or_default())
        .with_client_options(client_options(target, credentials)?)
        .with_http_connector(Connector::default())
        .with_retry(retry());
    if let Some(endpoint) = &target.endpoint {
        builder = builder.with_base_url(endpoint);
    }
    // With workload identity the metadata server is the way that the cloud documents, and it was asked for.
    if identity == Identity::Given {
        builder = builder.with_service_account_key(credentials.get(key::GCS_JSON).unwrap_or_default());
    } else if let Some(file) = variable("GOOGLE_APPLICATION_CREDENTIALS") {
        builder = builder.with_application_credentials(file);
    }
    Ok(paged(builder.build().map_err(|error| setup(target, &error))?))
}

fn azure(target: &Target, credentials: &Credentials, identity: Identity) -> Result<Client, StoreError> {
    let connection = credentials.connection_string()?;
    let account = target.azure.as_ref().and_then(|azure| azure.storage_account.clone());
    let account = account.or_else(|| connection.as_ref().and_then(|connection| connection.account.clone()));
    let endpoint =
        target.endpoint.clone().or_else(|| connection.as_ref().and_then(|connection| connection.endpoint.clone()));
    let account = account.or_else(|| endpoint.as_deref().and_then(account_in_host));
    let account = account.ok_or(super::target::InvalidTarget::NoAccount)?;
    let plain = endpoint.as_deref().is_some_and(|endpoint| endpoint.starts_with("http://"));
    let mut builder = MicrosoftAzureBuilder::new()
        .with_account(&account)
        .with_container_name(target.bucket_or_container().unwrap_or_default())
        .with_disable_tagging(true)
        .with_client_options(client_options(target, credentials)?.with_allow_http(plain))
        .with_http_connector(Connector::default())
        .with_retry(retry());
    if let Some(endpoint) = endpoint {
        builder = builder.with_endpoint(endpoint);
    }
    let given_key = credentials.get(key::ACCOUNT_KEY).map(str::to_owned);
    let given_key = given_key.or_else(|| connection.as_ref().and_then(|connection| connection.key.clone()));
    let given_sas =
        credentials.get(key::SAS_TOKEN).map(str::to_owned).or_else(|| connection.and_then(|connection| connection.sas));
    builder = match (identity, given_key, given_sas) {
        (Identity::Given, Some(key), _) => builder.with_access_key(key),
        (Identity::Given, None, Some(sas)) => builder.with_config(AzureConfigKey::SasKey, sas),
        _ => {
            let identity =
                (variable("AZURE_CLIENT_ID"), variable("AZURE_TENANT_ID"), variable("AZURE_FEDERATED_TOKEN_FILE"));
            let (Some(client), Some(tenant), Some(file)) = identity else {
                return Err(StoreError::Setup {
                    target: target.describe(),
                    what: "workload identity was asked for, but AZURE_CLIENT_ID, AZURE_TENANT_ID and \
                           AZURE_FEDERATED_TOKEN_FILE are not set in the pod: check its label and service account"
                        .to_owned(),
                });
            };
            let builder = builder.with_client_id(client).with_tenant_id(tenant).with_federated_token_file(file);
            match variable("AZURE_AUTHORITY_HOST") {
                Some(host) => builder.with_authority_host(host),
                None => builder,
            }
        }
    };
    Ok(paged(builder.build().map_err(|error| setup(target, &error))?))
}

/// `https://account.blob.core.windows.net` names its account.
fn account_in_host(endpoint: &str) -> Option<String> {
    let host = endpoint.split_once("://")?.1;
    let (account, rest) = host.split_once('.')?;
    rest.starts_with("blob.").then(|| account.to_owned())
}

fn file(target: &Target) -> Result<Client, StoreError> {
    let root = target.file.as_ref().map(|file| file.root.as_str()).unwrap_or_default();
    std::fs::create_dir_all(root).map_err(|error| setup(target, &error))?;
    // Flushed to the disk before a manifest says so: a power cut must not leave a manifest without its object.
    let store = LocalFileSystem::new_with_prefix(root).map_err(|error| setup(target, &error))?.with_fsync(true);
    Ok((Arc::new(store), None))
}

#[cfg(test)]
mod tests;
