//! What can be wrong with a spec, in words that say what to change.

/// The longest name of a cluster. Its pods' names end in a label value (63) and its Services' in DNS labels.
pub(super) const NAME_LIMIT: usize = 40;

/// What is wrong with a spec, and what to change.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// Not reached through the API server.
    #[error("the object has no {0}: it was not read from the API server")]
    Identity(&'static str),
    /// Object names would not fit.
    #[error(
        "the name is {length} characters long; names of pods and Services derived from it need at most {NAME_LIMIT}: create the cluster under a shorter name"
    )]
    Name {
        /// How long it is.
        length: usize,
    },
    /// Not `MAJOR.MINOR.PATCH`.
    #[error("spec.version {text:?} is not a version like 2.7.2: {cause}")]
    Version {
        /// As written.
        text: String,
        /// The parser's words.
        cause: String,
    },
    /// A duration that is none.
    #[error("spec.{field}: {cause}")]
    Duration {
        /// Path below `spec`.
        field: &'static str,
        /// The parser's words.
        cause: String,
    },
    /// A quantity that is none.
    #[error("spec.storage.size {0:?} is not a quantity like 10Gi")]
    Size(String),
    /// Zero or too many members.
    #[error("spec.replicas is {0}: write a number from 1 to 9")]
    Replicas(i32),
    /// TLS switched off outside Development.
    #[error(
        "spec.tls.enabled is false: without TLS tokens cross the network in the clear, so this needs spec.profile: Development"
    )]
    PlainText,
    /// The block of the chosen seal is missing.
    #[error("spec.unseal.type is {0} but its block beside it is missing")]
    SealBlock(&'static str),
    /// The static key is to be read from where it cannot be. What the spec says is not repeated: it may be the key itself.
    #[error(
        "spec.unseal.static.currentKey names no file that the servers have: leave it out for the key that the operator makes, or for the `key` of the Secret that spec.unseal.credentialsSecretRef names; another key of that Secret is /openbao/seal-credentials/<its name>"
    )]
    KeyNowhere,
    /// The version has lost that seal.
    #[error("seal {seal} is no longer built into OpenBao {version}: choose static or transit, or stay below 2.7")]
    SealGone {
        /// The seal.
        seal: &'static str,
        /// The version.
        version: String,
    },
    /// An audit device with which no server could lead.
    #[error("spec.audit[{path}]: {cause}")]
    Audit {
        /// Which one.
        path: String,
        /// Why.
        cause: String,
    },
    /// The version, or one that runs or is about to, cannot declare such a device.
    #[error(
        "spec.audit: OpenBao {version}, which this cluster runs or is about to run, cannot be told of an audit device of type {kind}, which needs {since}: take it out, let status.currentVersion become {since} or newer, and add it then"
    )]
    AuditUnknown {
        /// The type.
        kind: &'static str,
        /// The first version that can.
        since: String,
        /// The version.
        version: String,
    },
    /// A plugin with which a server would not start, or none would lead.
    #[error("spec.plugins[{name}]: {cause}")]
    Plugin {
        /// Which one.
        name: String,
        /// Why.
        cause: String,
    },
    /// The version, or one that runs or is about to, cannot declare plugins.
    #[error(
        "spec.plugins: OpenBao {version}, which this cluster runs or is about to run, cannot be told of plugins, which needs {since}: take them out, let status.currentVersion become {since} or newer, and add them then"
    )]
    PluginsUnknown {
        /// The first version that can.
        since: String,
        /// The version.
        version: String,
    },
    /// A self-init request that cannot be written.
    #[error("spec.selfInit.requests[{name}]: {cause}")]
    Request {
        /// Which one.
        name: String,
        /// Why.
        cause: String,
    },
    /// Self-init requests without self-init.
    #[error("spec.selfInit.requests and spec.selfInit.oidc need spec.selfInit.enabled: true")]
    SelfInitOff,
    /// Hardened demands more.
    #[error("spec.profile Hardened demands {0}")]
    Hardened(&'static str),
    /// Accepted by the schema, not built, and dangerous to ignore.
    #[error("{0} is not supported yet and cannot be ignored safely: remove it")]
    UnsafeToIgnore(&'static str),
}

impl Invalid {
    /// Whether this is about missing support rather than a mistake.
    pub fn is_unsupported(&self) -> bool {
        matches!(
            self,
            Self::UnsafeToIgnore(_) | Self::SealGone { .. } | Self::AuditUnknown { .. } | Self::PluginsUnknown { .. }
        )
    }
}
