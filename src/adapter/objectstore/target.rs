//! Where backups go, as plain data. The operator builds a [`Target`] from a spec, freezes it, and hands it to the data
//! mover as JSON; nothing in it is secret.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Parts smaller than this are refused by S3 (all but the last part of an upload).
pub const MIN_PART_SIZE: u64 = 5 * MIB;
/// The Go operator's default, kept.
pub const DEFAULT_PART_SIZE: u64 = 10 * MIB;
/// The Go operator's default, kept.
pub const DEFAULT_CONCURRENCY: u32 = 3;
/// The most that parts in flight may occupy together. With some 25 MiB for everything else this keeps the mover
/// under 64 MiB, whatever part size and concurrency a spec asks for.
pub const UPLOAD_MEMORY: u64 = 30 * MIB;

const MIB: u64 = 1024 * 1024;
const DEFAULT_REGION: &str = "us-east-1";

/// The kind of store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Provider {
    #[default]
    S3,
    Gcs,
    Azure,
    /// A folder: a mounted volume claim.
    File,
}

impl fmt::Display for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::S3 => "s3",
            Self::Gcs => "gcs",
            Self::Azure => "azure",
            Self::File => "file",
        })
    }
}

/// A backup target as an operation froze it. Field names are those of `spec.backup.target`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Target {
    #[serde(default)]
    pub provider: Provider,
    /// Scheme and host of the store (`https://minio.example:9000`). Required for stores other than the clouds' own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// Bucket; for Azure the container when `azure.container` is absent; unused by `file`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bucket: Option<String>,
    /// First part of every key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_prefix: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// A role assumed with the pod's web identity (S3 only). Naming one is asking for workload identity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role_arn: Option<String>,
    #[serde(default)]
    pub use_path_style: bool,
    /// Bytes of one part of an upload.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub part_size: Option<u64>,
    /// Parts in flight at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<u32>,
    #[serde(default)]
    pub insecure_skip_verify: bool,
    /// PEM certificates trusted besides the system's; the Secret's `caCert` is used as well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_bundle: Option<String>,
    /// The pod's own identity is used instead of a credentials Secret. Never assumed: without it, missing credentials
    /// are an error, because the clients would otherwise ask the cloud's metadata address and send what it says.
    #[serde(default)]
    pub workload_identity: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub azure: Option<AzureTarget>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gcs: Option<GcsTarget>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<FileTarget>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AzureTarget {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage_account: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GcsTarget {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FileTarget {
    /// Folder in the Job's own file system under which keys are paths (the claim's mount point and its sub-path).
    pub root: String,
}

/// A target that cannot work, whatever the store says.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidTarget {
    #[error("target.bucket is missing: name the bucket that holds the backups")]
    NoBucket,
    #[error(
        "target.bucket \"{0}\" is not a bucket name: 3 to 63 lower-case letters, digits, dots, dashes or underscores"
    )]
    Bucket(String),
    #[error("target.endpoint \"{0}\" has no scheme: write https://{0}")]
    EndpointWithoutScheme(String),
    #[error("target.endpoint \"{0}\" is not a URL of a server (scheme, host, port, path; no user, query or fragment)")]
    Endpoint(String),
    #[error(
        "target.pathPrefix \"{0}\" is not a plain path: no empty, \".\" or \"..\" parts, no control characters, no backslash"
    )]
    Prefix(String),
    #[error("target.azure.storageAccount is missing: name the account, or give a connection string or an endpoint")]
    NoAccount,
    #[error("target.file is missing: provider file needs the folder (a mounted claim) that holds the backups")]
    NoFolder,
    #[error("target.partSize {0} is below the 5 MiB that stores accept")]
    PartSize(u64),
    #[error("target.concurrency {0} is outside 1 to 10")]
    Concurrency(u32),
}

impl Target {
    /// What can be refused without asking the store.
    pub fn validate(&self) -> Result<(), InvalidTarget> {
        if let Some(prefix) = &self.path_prefix {
            valid_prefix(prefix)?;
        }
        if let Some(size) = self.part_size
            && size < MIN_PART_SIZE
        {
            return Err(InvalidTarget::PartSize(size));
        }
        if let Some(n) = self.concurrency
            && !(1..=10).contains(&n)
        {
            return Err(InvalidTarget::Concurrency(n));
        }
        if self.provider == Provider::File {
            return match &self.file {
                Some(file) if !file.root.is_empty() => Ok(()),
                _ => Err(InvalidTarget::NoFolder),
            };
        }
        if let Some(endpoint) = &self.endpoint {
            valid_endpoint(endpoint)?;
        }
        let bucket = self.bucket_or_container().ok_or(InvalidTarget::NoBucket)?;
        let plain = bucket.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-' | b'_'));
        if !(3..=63).contains(&bucket.len()) || !plain || bucket.contains("..") {
            return Err(InvalidTarget::Bucket(bucket.to_owned()));
        }
        Ok(())
    }

    /// The bucket, or what Azure calls a container.
    pub fn bucket_or_container(&self) -> Option<&str> {
        let container = self.azure.as_ref().and_then(|azure| azure.container.as_deref());
        let container = container.filter(|_| self.provider == Provider::Azure);
        container.or(self.bucket.as_deref()).filter(|name| !name.is_empty())
    }

    pub fn prefix(&self) -> &str {
        self.path_prefix.as_deref().unwrap_or_default().trim_matches('/')
    }

    /// The region that requests are signed for; `secret` is what the credentials say. A spec always has one, by default
    /// `us-east-1`, so that one is taken for an answer only where the credentials have none.
    pub fn region<'a>(&'a self, secret: Option<&'a str>) -> &'a str {
        let named = self.region.as_deref().filter(|region| *region != DEFAULT_REGION);
        named.or(secret).unwrap_or(DEFAULT_REGION)
    }

    /// Whether the pod's own identity is to be used.
    pub fn wants_workload_identity(&self) -> bool {
        self.workload_identity || self.role_arn.is_some()
    }

    /// Part size and number of parts in flight, such that together they stay within [`UPLOAD_MEMORY`]. A part size
    /// above that bound is lowered to it: memory is the promise, the part size only a wish.
    pub fn upload_shape(&self) -> (u64, usize) {
        let size = self.part_size.unwrap_or(DEFAULT_PART_SIZE).clamp(MIN_PART_SIZE, UPLOAD_MEMORY);
        let wanted = u64::from(self.concurrency.unwrap_or(DEFAULT_CONCURRENCY)).max(1);
        let parts = wanted.min(UPLOAD_MEMORY / size).max(1);
        (size, usize::try_from(parts).unwrap_or(1))
    }

    /// What [`Self::upload_shape`] has lowered, asked and used; `None` where both are used as they are.
    pub fn lowered(&self) -> Option<String> {
        let (part, at_once) = self.upload_shape();
        let (size, n) = (self.part_size.unwrap_or(part), self.concurrency.unwrap_or(1));
        let at_once = u32::try_from(at_once).unwrap_or(u32::MAX);
        let size = (size > part).then(|| format!("partSize {size} is used as {part}"));
        let n = (n > at_once).then(|| format!("concurrency {n} is used as {at_once}"));
        let lowered: Vec<String> = size.into_iter().chain(n).collect();
        let most = UPLOAD_MEMORY / MIB;
        (!lowered.is_empty()).then(|| format!("{}: parts in flight take {most} MiB at most", lowered.join(", ")))
    }

    /// One line for people: provider and place, nothing secret.
    pub fn describe(&self) -> String {
        match self.provider {
            Provider::File => format!("file {}", self.file.as_ref().map_or("", |file| file.root.as_str())),
            provider => {
                let bucket = self.bucket_or_container().unwrap_or_default();
                match &self.endpoint {
                    Some(endpoint) => format!("{provider} bucket {bucket} at {endpoint}"),
                    None => format!("{provider} bucket {bucket}"),
                }
            }
        }
    }
}

fn valid_endpoint(endpoint: &str) -> Result<(), InvalidTarget> {
    let Some((scheme, rest)) = endpoint.split_once("://") else {
        return Err(InvalidTarget::EndpointWithoutScheme(endpoint.to_owned()));
    };
    let bad = || InvalidTarget::Endpoint(endpoint.to_owned());
    if scheme != "http" && scheme != "https" {
        return Err(bad());
    }
    let uri: http::Uri = endpoint.parse().map_err(|_| bad())?;
    let host = uri.host().unwrap_or_default();
    if host.is_empty() || rest.contains(['@', '?', '#']) {
        return Err(bad());
    }
    Ok(())
}

/// A prefix is joined into keys and, for `file`, into paths: it must not be able to leave its place.
pub fn valid_prefix(prefix: &str) -> Result<(), InvalidTarget> {
    let trimmed = prefix.trim_matches('/');
    let bad = |part: &str| part.is_empty() || part == "." || part == "..";
    let odd = |c: char| c.is_control() || c == '\\';
    if !trimmed.is_empty() && (trimmed.split('/').any(bad) || trimmed.contains(odd)) {
        return Err(InvalidTarget::Prefix(prefix.to_owned()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bucket(name: &str) -> Target {
        Target { bucket: Some(name.to_owned()), ..Target::default() }
    }

    #[test]
    fn a_target_survives_its_trip_through_json() {
        let target = Target {
            endpoint: Some("https://store.example:9000".into()),
            path_prefix: Some("prod".into()),
            role_arn: Some("arn:aws:iam::1:role/x".into()),
            ..bucket("backups")
        };
        let text = serde_json::to_string(&target).unwrap();
        assert!(text.contains("\"pathPrefix\":\"prod\"") && text.contains("\"provider\":\"s3\""), "{text}");
        assert_eq!(serde_json::from_str::<Target>(&text).unwrap(), target);
    }

    #[test]
    fn bad_input_is_refused_with_the_field_named() {
        assert_eq!(Target::default().validate(), Err(InvalidTarget::NoBucket));
        assert!(matches!(bucket("with space").validate(), Err(InvalidTarget::Bucket(_))));
        let at = |endpoint: &str| Target { endpoint: Some(endpoint.into()), ..bucket("abc") }.validate();
        assert!(matches!(at("minio:9000"), Err(InvalidTarget::EndpointWithoutScheme(_))));
        assert!(matches!(at("ftp://minio"), Err(InvalidTarget::Endpoint(_))));
        assert!(matches!(at("https://user:secret@minio"), Err(InvalidTarget::Endpoint(_))));
        assert!(matches!(at("https://"), Err(InvalidTarget::Endpoint(_))));
        assert_eq!(at("https://minio:9000"), Ok(()));
        for prefix in ["a/../b", "..", "a//b", "a\\b", "a\nb"] {
            let target = Target { path_prefix: Some(prefix.into()), ..bucket("abc") };
            assert!(matches!(target.validate(), Err(InvalidTarget::Prefix(_))), "{prefix}");
        }
        assert_eq!(Target { provider: Provider::File, ..Target::default() }.validate(), Err(InvalidTarget::NoFolder));
    }

    #[test]
    fn parts_in_flight_never_exceed_the_memory_promised() {
        for (size, n) in
            [(None, None), (Some(5), Some(10)), (Some(64), Some(10)), (Some(1), Some(1)), (Some(16), Some(4))]
        {
            let target = Target { part_size: size.map(|mib: u64| mib * MIB), concurrency: n, ..bucket("abc") };
            let (part, parts) = target.upload_shape();
            assert!(parts >= 1 && part >= MIN_PART_SIZE && part * parts as u64 <= UPLOAD_MEMORY, "{size:?} {n:?}");
        }
        assert_eq!(bucket("abc").upload_shape(), (DEFAULT_PART_SIZE, 3));
    }

    #[test]
    fn what_is_lowered_is_named_with_the_value_that_is_used() {
        let told = |size: Option<u64>, concurrency| {
            Target { part_size: size.map(|mib| mib * MIB), concurrency, ..bucket("abc") }.lowered()
        };
        assert_eq!((told(None, None), told(Some(10), Some(3)), told(Some(5), Some(6))), (None, None, None));
        let fewer = told(Some(10), Some(10)).unwrap();
        assert_eq!(fewer, "concurrency 10 is used as 3: parts in flight take 30 MiB at most");
        let both = told(Some(64), Some(4)).unwrap();
        assert!(both.starts_with("partSize 67108864 is used as 31457280, concurrency 4 is used as 1"), "{both}");
    }

    #[test]
    fn the_region_of_the_credentials_wins_over_the_default_and_not_over_one_that_was_named() {
        let target = |region: Option<&str>| Target { region: region.map(str::to_owned), ..bucket("abc") };
        assert_eq!(target(Some("us-east-1")).region(Some("eu-west-1")), "eu-west-1");
        assert_eq!(target(None).region(Some("eu-west-1")), "eu-west-1");
        assert_eq!(target(Some("eu-north-1")).region(Some("eu-west-1")), "eu-north-1");
        assert_eq!((target(Some("us-east-1")).region(None), target(None).region(None)), ("us-east-1", "us-east-1"));
    }
}
