//! What went wrong at a store, told apart by cause: each calls for another remedy.

use object_store::Error;

use super::credentials::CredentialsError;
use super::manifest::ManifestError;
use super::target::InvalidTarget;

/// Reason of a store without room: the one failure that fewer backups mend.
pub const STORE_FULL: &str = "StoreFull";

/// A failed attempt at a store. `target` is [`super::Target::describe`], `key` an object's key or what was attempted.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error(transparent)]
    Target(#[from] InvalidTarget),
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    #[error("the client for {target} could not be set up: {what}")]
    Setup { target: String, what: String },
    #[error("{target} refused {key}: access denied. Check the rights of these credentials on the bucket: {detail}")]
    Permission { target: String, key: String, detail: String },
    #[error("{target} does not accept the credentials (wrong key or secret): {detail}")]
    Unauthenticated { target: String, detail: String },
    #[error("{target} says that its clock and ours differ too much: check the time on the nodes: {detail}")]
    ClockSkew { target: String, detail: String },
    #[error("{target}: there is no such bucket or container; create it first: {detail}")]
    MissingBucket { target: String, detail: String },
    #[error("{target}: there is no object {key}")]
    NotFound { target: String, key: String },
    #[error("{target}: the object {key} exists already")]
    AlreadyExists { target: String, key: String },
    #[error("{target} could not be reached for {key}: {detail}")]
    Unreachable { target: String, key: String, detail: String },
    #[error(
        "{target} has a certificate that is not trusted; put its CA into caCert of the credentials Secret: {detail}"
    )]
    UntrustedCertificate { target: String, detail: String },
    #[error("{target} speaks {spoken}, the endpoint says {said}: correct its scheme")]
    Scheme { target: String, spoken: &'static str, said: &'static str },
    #[error("{target} did not answer in time for {key}: {detail}")]
    Timeout { target: String, key: String, detail: String },
    #[error(
        "{target} has no room left for {key}: give it more, or let fewer backups stay (spec.backup.retention): {detail}"
    )]
    Full { target: String, key: String, detail: String },
    #[error(
        "{target}: an object under {prefix} has a key that is no path (an empty part, a dot or a control character), this \
         store cannot list what comes behind it, and somebody has to rename or remove it: {detail}"
    )]
    OddKey { target: String, prefix: String, detail: String },
    #[error("{target} failed at {key}: {detail}")]
    Server { target: String, key: String, detail: String },
    #[error("{target}: the object {key} has {found} bytes where {expected} were written")]
    Size { target: String, key: String, expected: u64, found: u64 },
    #[error("{target}: the object {key} came back with other bytes than were written")]
    Content { target: String, key: String },
    #[error("{target}: {key} is not a usable manifest")]
    Manifest { target: String, key: String, source: ManifestError },
}

impl StoreError {
    /// A constant for conditions, events and metrics.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Target(_) => "InvalidTarget",
            Self::Credentials(_) => "CredentialsMissing",
            Self::Setup { .. } => "StoreSetup",
            Self::Permission { .. } => "StorePermissionDenied",
            Self::Unauthenticated { .. } => "StoreCredentialsRefused",
            Self::ClockSkew { .. } => "StoreClockSkew",
            Self::MissingBucket { .. } => "StoreBucketMissing",
            Self::NotFound { .. } => "StoreObjectMissing",
            Self::AlreadyExists { .. } => "StoreObjectExists",
            Self::Unreachable { .. } => "StoreUnreachable",
            Self::UntrustedCertificate { .. } => "StoreCertificateUntrusted",
            Self::Scheme { .. } => "StoreSchemeMismatch",
            Self::Timeout { .. } => "StoreTimeout",
            Self::Full { .. } => STORE_FULL,
            Self::OddKey { .. } => "StoreOddKey",
            Self::Server { .. } => "StoreFailed",
            Self::Size { .. } => "StoreSizeMismatch",
            Self::Content { .. } => "StoreContentMismatch",
            Self::Manifest { .. } => "ManifestInvalid",
        }
    }

    pub const fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound { .. })
    }

    /// The client library's error, by what it means. It reports a refused list, a closed port and an untrusted CA all as
    /// one generic error, so the chain of sources and the server's own error code in the text decide.
    pub(super) fn classify(target: &str, key: &str, error: &Error) -> Self {
        let target = target.to_owned();
        let key = key.to_owned();
        let detail = detail(error);
        // Without the key, which may hold any word.
        let said = detail.replace(&key, "");
        let says = |needles: &[&str]| needles.iter().any(|needle| said.contains(needle));
        if let Error::AlreadyExists { .. } | Error::Precondition { .. } = error {
            return Self::AlreadyExists { target, key };
        }
        if says(&["RequestTimeTooSkewed", "RequestExpired", "Request date header too old", "is not valid yet"]) {
            return Self::ClockSkew { target, detail };
        }
        if says(&["NoSuchBucket", "ContainerNotFound", "The specified bucket does not exist"]) {
            return Self::MissingBucket { target, detail };
        }
        if let Error::NotFound { .. } = error {
            return Self::NotFound { target, key };
        }
        // The words of rustls, which bucket, folder and host have no reason to hold.
        if says(&["invalid peer certificate", "UnknownIssuer", "CaUsedAsEndEntity", "sent no certificates"]) {
            return Self::UntrustedCertificate { target, detail };
        }
        if says(&["InvalidContentType", "received corrupt message"]) {
            return Self::Scheme { target, spoken: "plain HTTP", said: "https" };
        }
        if says(&[
            "HTTP request to an HTTPS server",
            "HTTP request was sent to HTTPS port",
            "URL scheme is not allowed",
        ]) {
            return Self::Scheme { target, spoken: "HTTPS", said: "http" };
        }
        // A volume's quota (EDQUOT) by its number: its words differ by the C library, and Google says them of too many requests.
        if says(&["No space left", "(os error 122)", "QuotaExceeded", "XMinioStorageFull", "InsufficientStorage"]) {
            return Self::Full { target, key, detail };
        }
        let bad_key = [
            "SignatureDoesNotMatch",
            "InvalidAccessKeyId",
            "AuthenticationFailed",
            "AuthorizationFailure",
            "InvalidToken",
            "ExpiredToken",
            "invalid_grant",
        ];
        if says(&bad_key) || matches!(error, Error::Unauthenticated { .. }) || says(&["401 Unauthorized"]) {
            return Self::Unauthenticated { target, detail };
        }
        if matches!(error, Error::PermissionDenied { .. })
            || says(&["AccessDenied", "403 Forbidden", "Permission denied"])
        {
            return Self::Permission { target, key, detail };
        }
        if says(&["Connection refused", "dns error", "failed to lookup", "No route to host", "Network is unreachable"])
            || says(&["client error (Connect)", "connection closed before", "Connection reset", "Broken pipe"])
        {
            return Self::Unreachable { target, key, detail };
        }
        if says(&["operation timed out", "timed out", "deadline has elapsed"]) {
            return Self::Timeout { target, key, detail };
        }
        if says(&["error sending request"]) {
            return Self::Unreachable { target, key, detail };
        }
        Self::Server { target, key, detail }
    }
}

/// The whole chain of an error on one line: what matters is usually its last link.
pub(crate) fn detail(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(link) = source {
        let link_text = link.to_string();
        if !text.contains(&link_text) {
            text.push_str(": ");
            text.push_str(&link_text);
        }
        source = link.source();
    }
    let mut line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if line.len() > MAX_DETAIL {
        let mut end = MAX_DETAIL;
        while !line.is_char_boundary(end) {
            end -= 1;
        }
        line.truncate(end);
        line.push('…');
    }
    line
}

/// Some stores answer with a page of XML; a termination message holds 4 KiB in all.
const MAX_DETAIL: usize = 700;

#[cfg(test)]
mod tests {
    use super::*;

    fn generic(text: &str) -> Error {
        Error::Generic { store: "S3", source: text.to_owned().into() }
    }

    #[test]
    fn one_generic_error_is_told_apart_by_what_it_says() {
        let cases = [
            ("403 Forbidden: <Code>AccessDenied</Code>", "StorePermissionDenied"),
            ("403: <Code>SignatureDoesNotMatch</Code>", "StoreCredentialsRefused"),
            ("403: <Code>RequestTimeTooSkewed</Code>", "StoreClockSkew"),
            ("404: <Code>NoSuchBucket</Code>", "StoreBucketMissing"),
            (
                "error sending request: client error (Connect): tcp connect error: Connection refused (os error 111)",
                "StoreUnreachable",
            ),
            ("error sending request: invalid peer certificate: UnknownIssuer", "StoreCertificateUntrusted"),
            ("error sending request: received corrupt message of type InvalidContentType", "StoreSchemeMismatch"),
            ("400: Client sent an HTTP request to an HTTPS server", "StoreSchemeMismatch"),
            ("error sending request: operation timed out", "StoreTimeout"),
            ("500 Internal Server Error", "StoreFailed"),
            ("write: No space left on device", "StoreFull"),
            ("write: Disk quota exceeded (os error 122)", "StoreFull"),
            ("write: Quota exceeded (os error 122)", "StoreFull"),
            ("403: <Code>QuotaExceeded</Code>", "StoreFull"),
            ("429 Too Many Requests: Quota exceeded for quota metric 'Read requests'", "StoreFailed"),
            ("403 Forbidden: Quota exceeded for quota metric 'Read requests'", "StorePermissionDenied"),
        ];
        for (text, reason) in cases {
            assert_eq!(StoreError::classify("s3", "ns/c/a.snap", &generic(text)).reason(), reason, "{text}");
        }
    }

    #[test]
    fn a_full_store_says_what_makes_room() {
        let told = StoreError::classify("file /store", "k", &generic("No space left on device")).to_string();
        assert!(told.contains("give it more") && told.contains("spec.backup.retention"), "{told}");
    }

    #[test]
    fn a_missing_bucket_is_not_taken_for_a_missing_object() {
        let not_found = |text: &str| Error::NotFound { path: "ns/c/a.snap".into(), source: text.to_owned().into() };
        assert_eq!(
            StoreError::classify("s3", "ns/c/a.snap", &not_found("<Code>NoSuchBucket</Code>")).reason(),
            "StoreBucketMissing"
        );
        assert!(StoreError::classify("s3", "ns/c/a.snap", &not_found("<Code>NoSuchKey</Code>")).is_not_found());
    }

    #[test]
    fn the_words_in_a_key_or_a_folder_are_nobodys_complaint() {
        let key = "certificate/timed out/reef/kelp/a.snap.manifest.json";
        let absent = Error::NotFound { path: key.into(), source: format!("/store/certificates/{key}").into() };
        assert!(StoreError::classify("file /store/certificates", key, &absent).is_not_found());
        let forbidden = generic(&format!("403 Forbidden for certificate-backups/{key}"));
        assert_eq!(StoreError::classify("s3", key, &forbidden).reason(), "StorePermissionDenied");
        let missing = Error::NotFound { path: key.into(), source: "<Code>NoSuchBucket</Code>".into() };
        assert_eq!(StoreError::classify("s3", key, &missing).reason(), "StoreBucketMissing");
    }
}
