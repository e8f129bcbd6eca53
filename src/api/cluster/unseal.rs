//! How the servers unseal: one seal, and what it needs.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::api::common::{SecretRef, SecretText};

/// The id of the static key that the operator makes.
pub const DEFAULT_STATIC_KEY_ID: &str = "operator-generated-v1";

/// How the servers unseal.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[x_kube(validation = ("self.type != 'awskms' || has(self.awskms)", "unseal.type awskms needs the block unseal.awskms"))]
#[x_kube(validation = ("self.type != 'azurekeyvault' || has(self.azureKeyVault)", "unseal.type azurekeyvault needs the block unseal.azureKeyVault"))]
#[x_kube(validation = ("self.type != 'gcpckms' || has(self.gcpCloudKMS)", "unseal.type gcpckms needs the block unseal.gcpCloudKMS"))]
#[x_kube(validation = ("self.type != 'kmip' || has(self.kmip)", "unseal.type kmip needs the block unseal.kmip"))]
#[x_kube(validation = ("self.type != 'ocikms' || has(self.ocikms)", "unseal.type ocikms needs the block unseal.ocikms"))]
#[x_kube(validation = ("self.type != 'pkcs11' || has(self.pkcs11)", "unseal.type pkcs11 needs the block unseal.pkcs11"))]
#[x_kube(validation = ("self.type != 'transit' || has(self.transit)", "unseal.type transit needs the block unseal.transit"))]
#[serde(rename_all = "camelCase")]
pub struct Unseal {
    /// The seal: `static` (default, a key in a Secret of the namespace), `awskms`, `gcpckms`, `azurekeyvault`, `transit` (another
    /// OpenBao), `kmip`, `ocikms` or `pkcs11`. Every type but `static` needs its block beside it. It cannot be changed later.
    /// OpenBao 2.7 has no `awskms`, `ocikms` and `pkcs11` any more.
    #[serde(rename = "type", default)]
    pub type_: SealType,
    /// `static`: a 32-byte key.
    #[serde(rename = "static", skip_serializing_if = "Option::is_none")]
    pub static_: Option<StaticSeal>,
    /// Secret with the seal's credentials. Its keys become environment variables of the servers and files in
    /// `/openbao/seal-credentials`. `static`: `key`, 32 bytes, as they are, in hex or in base64, without a line break. `transit`:
    /// `token`, and `ca.crt` where `tlsCACert` is not set. `gcpckms`: `credentials.json`. `awskms`: `AWS_ACCESS_KEY_ID`,
    /// `AWS_SECRET_ACCESS_KEY`, `AWS_SESSION_TOKEN`. `azurekeyvault`: `AZURE_TENANT_ID`, `AZURE_CLIENT_ID`,
    /// `AZURE_CLIENT_SECRET`. `pkcs11`: `BAO_HSM_PIN`. While the Secret is missing or wrong, servers that run are left as they are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub credentials_secret_ref: Option<SecretRef>,
    /// `awskms`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub awskms: Option<AwsKmsSeal>,
    /// `azurekeyvault`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub azure_key_vault: Option<AzureKeyVaultSeal>,
    /// `gcpckms`.
    #[serde(rename = "gcpCloudKMS", skip_serializing_if = "Option::is_none")]
    pub gcp_cloud_kms: Option<GcpCloudKmsSeal>,
    /// `kmip`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kmip: Option<KmipSeal>,
    /// `ocikms`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ocikms: Option<OciKmsSeal>,
    /// `pkcs11`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pkcs11: Option<Pkcs11Seal>,
    /// `transit`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub transit: Option<TransitSeal>,
}

/// The kinds of seal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum SealType {
    /// A key in a Secret of the namespace.
    #[default]
    Static,
    /// AWS KMS.
    AwsKms,
    /// Google Cloud KMS.
    GcpcKms,
    /// Azure Key Vault.
    AzureKeyVault,
    /// Another OpenBao's transit engine.
    Transit,
    /// A KMIP server.
    Kmip,
    /// Oracle Cloud KMS.
    OciKms,
    /// A hardware module.
    Pkcs11,
}

impl SealType {
    /// The word OpenBao and the manifests use.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Static => "static",
            Self::AwsKms => "awskms",
            Self::GcpcKms => "gcpckms",
            Self::AzureKeyVault => "azurekeyvault",
            Self::Transit => "transit",
            Self::Kmip => "kmip",
            Self::OciKms => "ocikms",
            Self::Pkcs11 => "pkcs11",
        }
    }
}

/// A 32-byte key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StaticSeal {
    /// File of the key: `/openbao/seal-credentials/<name>` for another key of the `credentialsSecretRef` than `key`; backups cannot
    /// be proven with one. Default: the `key` of the `credentialsSecretRef`; without one, the key that the operator makes and keeps
    /// in `<name>-unseal-key`. `file:///etc/bao/unseal/key`, the Go operator's default, is read as that default.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    pub current_key: Option<String>,
    /// The name that OpenBao stores beside what the key encrypts. Default `operator-generated-v1`. It cannot be
    /// changed later.
    #[serde(rename = "currentKeyID", skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128))]
    pub current_key_id: Option<String>,
}

/// AWS KMS.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AwsKmsSeal {
    /// Region of the key.
    #[schemars(length(min = 1, max = 64))]
    pub region: String,
    /// Id, ARN or alias of the key.
    #[serde(rename = "kmsKeyID")]
    #[schemars(length(min = 1, max = 2048))]
    pub kms_key_id: String,
    /// Another address than AWS's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 2048))]
    pub endpoint: Option<String>,
    /// Prefer `credentialsSecretRef`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub access_key: Option<SecretText>,
    /// Prefer `credentialsSecretRef`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret_key: Option<SecretText>,
    /// Prefer `credentialsSecretRef`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session_token: Option<SecretText>,
}

/// Azure Key Vault.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AzureKeyVaultSeal {
    /// Name of the vault.
    #[schemars(length(min = 1, max = 127))]
    pub vault_name: String,
    /// Name of the key.
    #[schemars(length(min = 1, max = 127))]
    pub key_name: String,
    /// Directory of the application.
    #[serde(rename = "tenantID", skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128))]
    pub tenant_id: Option<String>,
    /// Id of the application.
    #[serde(rename = "clientID", skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128))]
    pub client_id: Option<String>,
    /// Prefer `credentialsSecretRef`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_secret: Option<SecretText>,
    /// The Azure cloud, for example `AzurePublicCloud`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    pub environment: Option<String>,
    /// Host of the key vault service, for example `managedhsm.azure.net`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub resource: Option<String>,
}

/// Google Cloud KMS.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GcpCloudKmsSeal {
    /// Project of the key ring.
    #[schemars(length(min = 1, max = 63))]
    pub project: String,
    /// Location of the key ring.
    #[schemars(length(min = 1, max = 63))]
    pub region: String,
    /// The key ring.
    #[schemars(length(min = 1, max = 63))]
    pub key_ring: String,
    /// The key.
    #[schemars(length(min = 1, max = 63))]
    pub crypto_key: String,
    /// Path of a credentials file in the pod, such as `/openbao/seal-credentials/credentials.json`, or its content. Default where
    /// there is a `credentialsSecretRef`: that path. Prefer workload identity.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub credentials: Option<SecretText>,
}

/// A KMIP server.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct KmipSeal {
    /// `host:port`.
    #[schemars(length(min = 1, max = 512))]
    pub address: String,
    /// Path of the client certificate in the pod, such as `/openbao/seal-credentials/client.crt` for a key of the
    /// `credentialsSecretRef`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16384))]
    pub certificate: Option<String>,
    /// Path of the client key in the pod, or the PEM text itself. Prefer a path into the `credentialsSecretRef`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<SecretText>,
    /// Path of the server's CA in the pod.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16384))]
    pub ca_cert: Option<String>,
    /// Name to expect in the server's certificate.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub tls_server_name: Option<String>,
    /// Do not check the server's certificate.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub tls_skip_verify: bool,
}

/// Oracle Cloud KMS.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct OciKmsSeal {
    /// OCID of the key.
    #[serde(rename = "keyID")]
    #[schemars(length(min = 1, max = 512))]
    pub key_id: String,
    /// Crypto endpoint of the vault.
    #[schemars(length(min = 1, max = 2048))]
    pub crypto_endpoint: String,
    /// Management endpoint of the vault.
    #[schemars(length(min = 1, max = 2048))]
    pub management_endpoint: String,
    /// How to log in, for example `instance_principal`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    pub auth_type: Option<String>,
    /// OCID of the compartment.
    #[serde(rename = "compartmentID", skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub compartment_id: Option<String>,
}

/// A hardware module.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Pkcs11Seal {
    /// Path of the module's library in the image.
    #[schemars(length(min = 1, max = 1024))]
    pub lib: String,
    /// Label of the key.
    #[schemars(length(min = 1, max = 255))]
    pub key_label: String,
    /// Slot number.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    pub slot: Option<String>,
    /// Prefer `credentialsSecretRef`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pin: Option<SecretText>,
    /// Label of the HMAC key.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 255))]
    pub hmac_key_label: Option<String>,
    /// Make the key if it is missing.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub generate_key: bool,
    /// Encrypt with the public key outside the module.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub rsa_encrypt_local: bool,
    /// Hash of RSA-OAEP: `sha1`, `sha224`, `sha256`, `sha384` or `sha512`.
    #[serde(rename = "rsaOAEPHash", skip_serializing_if = "Option::is_none")]
    pub rsa_oaep_hash: Option<RsaOaepHash>,
}

/// Hashes of RSA-OAEP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum RsaOaepHash {
    /// SHA-1.
    Sha1,
    /// SHA-224.
    Sha224,
    /// SHA-256.
    Sha256,
    /// SHA-384.
    Sha384,
    /// SHA-512.
    Sha512,
}

/// Another OpenBao's transit engine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TransitSeal {
    /// URL of that OpenBao.
    #[schemars(length(min = 1, max = 2048))]
    pub address: String,
    /// Name of the key.
    #[schemars(length(min = 1, max = 128))]
    pub key_name: String,
    /// Where the engine is mounted, for example `transit/`.
    #[schemars(length(min = 1, max = 512))]
    pub mount_path: String,
    /// OpenBao namespace of the mount.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    pub namespace: Option<String>,
    /// Prefer `credentialsSecretRef`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<SecretText>,
    /// Do not renew the token.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub disable_renewal: bool,
    /// Path of that OpenBao's CA in the pod, such as `/openbao/seal-credentials/ca.crt`. Default: the key `ca.crt` of the
    /// `credentialsSecretRef`, if there is one, else the CAs of the image.
    #[serde(rename = "tlsCACert", skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16384))]
    pub tls_ca_cert: Option<String>,
    /// Path of a client certificate in the pod.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16384))]
    pub tls_client_cert: Option<String>,
    /// Path of its key in the pod, or the PEM text itself. Prefer a path into the `credentialsSecretRef`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_client_key: Option<SecretText>,
    /// Name to expect in the certificate.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub tls_server_name: Option<String>,
    /// Do not check the certificate.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub tls_skip_verify: bool,
}
