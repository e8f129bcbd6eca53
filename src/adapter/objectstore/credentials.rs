//! Credentials of a store, read from a mounted Secret. Missing ones are an error unless workload identity is asked for:
//! left without, the store clients ask the cloud's metadata address and send whatever it answers.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use secrecy::{ExposeSecret, SecretString};

use super::target::{Provider, Target};

/// Keys of the credentials Secret, as the Go operator names them (and `sasToken`, which it does not know).
pub mod key {
    pub const ACCESS_KEY_ID: &str = "accessKeyId";
    pub const SECRET_ACCESS_KEY: &str = "secretAccessKey";
    pub const SESSION_TOKEN: &str = "sessionToken";
    pub const REGION: &str = "region";
    pub const CA_CERT: &str = "caCert";
    pub const GCS_JSON: &str = "credentials.json";
    pub const ACCOUNT_KEY: &str = "accountKey";
    pub const CONNECTION_STRING: &str = "connectionString";
    pub const SAS_TOKEN: &str = "sasToken";
}

const ALL_KEYS: [&str; 9] = [
    key::ACCESS_KEY_ID,
    key::SECRET_ACCESS_KEY,
    key::SESSION_TOKEN,
    key::REGION,
    key::CA_CERT,
    key::GCS_JSON,
    key::ACCOUNT_KEY,
    key::CONNECTION_STRING,
    key::SAS_TOKEN,
];

/// No credential is longer; a file that is was not one.
const MAX_FILE: u64 = 256 * 1024;

/// What the mounted Secret held. Never printed: `Debug` names the keys only.
#[derive(Clone, Default)]
pub struct Credentials {
    values: BTreeMap<&'static str, SecretString>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.values.keys()).finish()
    }
}

#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    #[error("could not read the credential {key} in {folder}")]
    Read { key: &'static str, folder: PathBuf, source: std::io::Error },
    #[error("the credential {key} is longer than {MAX_FILE} bytes")]
    TooLong { key: &'static str },
    #[error(
        "no credentials for {provider}: the Secret needs {needed}. To use the pod's own cloud identity instead, ask for it \
         (workloadIdentity, or roleArn for s3)"
    )]
    Missing { provider: Provider, needed: &'static str },
    #[error("the credential {key} is there without {other}")]
    Half { key: &'static str, other: &'static str },
    #[error(
        "the connection string is not a list of Name=Value parts with AccountName and AccountKey or SharedAccessSignature"
    )]
    ConnectionString,
}

impl Credentials {
    /// Reads the known keys of a mounted Secret; others are ignored. `None`: no Secret was named.
    pub fn read(folder: Option<&Path>) -> Result<Self, CredentialsError> {
        let mut values = BTreeMap::new();
        let Some(folder) = folder else { return Ok(Self { values }) };
        for key in ALL_KEYS {
            let path = folder.join(key);
            let failed = |source| CredentialsError::Read { key, folder: folder.to_owned(), source };
            let text = match std::fs::metadata(&path) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                Err(error) => return Err(failed(error)),
                Ok(meta) if meta.len() > MAX_FILE => return Err(CredentialsError::TooLong { key }),
                Ok(_) => std::fs::read_to_string(&path).map_err(failed)?,
            };
            // A trailing newline is what `echo` and editors leave; no credential of ours ends in white space.
            let text = text.trim();
            if !text.is_empty() {
                values.insert(key, SecretString::from(text.to_owned()));
            }
        }
        Ok(Self { values })
    }

    /// From values instead of files; unknown keys are ignored.
    pub fn from_pairs<'a>(pairs: impl IntoIterator<Item = (&'a str, String)>) -> Self {
        let known = |(name, value): (&str, String)| {
            ALL_KEYS.iter().find(|key| **key == name).map(|key| (*key, SecretString::from(value)))
        };
        Self { values: pairs.into_iter().filter_map(known).collect() }
    }

    pub(super) fn get(&self, key: &str) -> Option<&str> {
        self.values.get(key).map(SecretString::expose_secret)
    }

    fn has(&self, key: &str) -> bool {
        self.values.contains_key(key)
    }

    /// The identity to use for this target, or why there is none.
    pub(super) fn identity(&self, target: &Target) -> Result<Identity, CredentialsError> {
        let provider = target.provider;
        let missing = |needed| {
            if target.wants_workload_identity() {
                Ok(Identity::Workload)
            } else {
                Err(CredentialsError::Missing { provider, needed })
            }
        };
        match provider {
            Provider::File => Ok(Identity::Given),
            Provider::S3 => match (self.has(key::ACCESS_KEY_ID), self.has(key::SECRET_ACCESS_KEY)) {
                (true, true) => Ok(Identity::Given),
                (true, false) => Err(CredentialsError::Half { key: key::ACCESS_KEY_ID, other: key::SECRET_ACCESS_KEY }),
                (false, true) => Err(CredentialsError::Half { key: key::SECRET_ACCESS_KEY, other: key::ACCESS_KEY_ID }),
                (false, false) => missing("accessKeyId and secretAccessKey"),
            },
            Provider::Gcs if self.has(key::GCS_JSON) => Ok(Identity::Given),
            Provider::Gcs => missing("credentials.json"),
            Provider::Azure => {
                if self.has(key::ACCOUNT_KEY) || self.has(key::CONNECTION_STRING) || self.has(key::SAS_TOKEN) {
                    Ok(Identity::Given)
                } else {
                    missing("accountKey, sasToken or connectionString")
                }
            }
        }
    }

    pub(super) fn connection_string(&self) -> Result<Option<ConnectionString>, CredentialsError> {
        self.get(key::CONNECTION_STRING).map(ConnectionString::parse).transpose()
    }
}

/// Whose identity the requests carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Identity {
    /// What stands in the Secret (nothing is needed for a folder).
    Given,
    /// The pod's own.
    Workload,
}

/// An Azure connection string taken apart.
pub(super) struct ConnectionString {
    pub account: Option<String>,
    pub key: Option<String>,
    pub sas: Option<String>,
    pub endpoint: Option<String>,
}

impl ConnectionString {
    fn parse(text: &str) -> Result<Self, CredentialsError> {
        let mut parts = BTreeMap::new();
        for part in text.split(';').map(str::trim).filter(|part| !part.is_empty()) {
            // Keys and signatures end in `=`: only the first one separates.
            let (name, value) = part.split_once('=').ok_or(CredentialsError::ConnectionString)?;
            parts.insert(name.to_ascii_lowercase(), value.to_owned());
        }
        let (account, key) = (parts.remove("accountname"), parts.remove("accountkey"));
        let (sas, endpoint) = (parts.remove("sharedaccesssignature"), parts.remove("blobendpoint"));
        if sas.is_none() && (account.is_none() || key.is_none()) {
            return Err(CredentialsError::ConnectionString);
        }
        let built = account.as_ref().map(|account| {
            let scheme = parts.get("defaultendpointsprotocol").map_or("https", String::as_str);
            let suffix = parts.get("endpointsuffix").map_or("core.windows.net", String::as_str);
            format!("{scheme}://{account}.blob.{suffix}")
        });
        Ok(Self { account, key, sas, endpoint: endpoint.or(built) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn s3() -> Target {
        Target { bucket: Some("abc".into()), ..Target::default() }
    }

    #[test]
    fn missing_credentials_are_refused_unless_workload_identity_is_asked_for() {
        let none = Credentials::read(None).unwrap();
        for provider in [Provider::S3, Provider::Gcs, Provider::Azure] {
            let target = Target { provider, ..s3() };
            assert!(matches!(none.identity(&target), Err(CredentialsError::Missing { .. })), "{provider}");
            let asked = Target { workload_identity: true, ..target };
            assert_eq!(none.identity(&asked).unwrap(), Identity::Workload);
        }
        let role = Target { role_arn: Some("arn".into()), ..s3() };
        assert_eq!(none.identity(&role).unwrap(), Identity::Workload);
        assert_eq!(none.identity(&Target { provider: Provider::File, ..s3() }).unwrap(), Identity::Given);
    }

    #[test]
    fn half_a_key_pair_is_never_completed_from_elsewhere() {
        let half = Credentials::from_pairs([(key::ACCESS_KEY_ID, "id".to_owned())]);
        let target = Target { workload_identity: true, ..s3() };
        assert!(matches!(half.identity(&target), Err(CredentialsError::Half { .. })));
    }

    #[test]
    fn a_mounted_secret_is_read_and_its_values_are_never_printed() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("accessKeyId"), "AKIA\n").unwrap();
        std::fs::write(folder.path().join("secretAccessKey"), "hush").unwrap();
        std::fs::write(folder.path().join("unrelated"), "x").unwrap();
        std::fs::write(folder.path().join("caCert"), "\n").unwrap();
        let credentials = Credentials::read(Some(folder.path())).unwrap();
        assert_eq!((credentials.get(key::ACCESS_KEY_ID), credentials.get(key::CA_CERT)), (Some("AKIA"), None));
        let printed = format!("{credentials:?}");
        assert!(
            printed.contains("secretAccessKey") && !printed.contains("hush") && !printed.contains("AKIA"),
            "{printed}"
        );
    }

    #[test]
    fn connection_strings_are_taken_apart() {
        let text = "DefaultEndpointsProtocol=https;AccountName=acc;AccountKey=a2V5==;EndpointSuffix=core.windows.net";
        let parsed = ConnectionString::parse(text).unwrap();
        assert_eq!((parsed.account.as_deref(), parsed.key.as_deref()), (Some("acc"), Some("a2V5==")));
        assert_eq!(parsed.endpoint.as_deref(), Some("https://acc.blob.core.windows.net"));
        let sas = ConnectionString::parse("BlobEndpoint=https://x/y;SharedAccessSignature=sv=1&sig=2").unwrap();
        assert_eq!((sas.sas.as_deref(), sas.endpoint.as_deref()), (Some("sv=1&sig=2"), Some("https://x/y")));
        for bad in ["", "AccountName=acc", "nonsense"] {
            assert!(matches!(ConnectionString::parse(bad), Err(CredentialsError::ConnectionString)), "{bad}");
        }
    }
}
