//! OpenBao's configuration, rendered from a validated spec: the file that all members share, the seal, and the stanza with
//! which the first member initialises itself. Pure; the bytes depend on the input alone.

pub mod audit;
pub mod initialize;
pub mod seal;
pub mod server;

/// Where the pod finds its configuration files.
pub const CONFIG_DIR: &str = "/openbao/config";
/// Where the pod finds its serving certificate.
pub const TLS_DIR: &str = "/openbao/tls";
/// Where the pod finds the static unseal key.
pub const UNSEAL_DIR: &str = "/openbao/unseal";
/// Where the pod finds the files of `spec.unseal.credentialsSecretRef`.
pub const SEAL_CREDENTIALS_DIR: &str = "/openbao/seal-credentials";
/// The volume.
pub const DATA_DIR: &str = "/openbao/data";
/// The file that all members share.
pub const SHARED_FILE: &str = "config.hcl";
