//! Plugins written into OpenBao's configuration.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

/// One plugin: from an image, or from a file that is already there.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[x_kube(validation = ("has(self.image) != has(self.command)", "a plugin needs either image or command"))]
#[x_kube(validation = ("self.type in ['secret', 'auth', 'database']", "a plugin's type must be secret, auth or database"))]
#[serde(rename_all = "camelCase")]
pub struct Plugin {
    /// `secret`, `auth` or `database`.
    #[serde(rename = "type")]
    #[schemars(length(min = 1, max = 32))]
    pub type_: String,
    /// Name it is registered under.
    #[schemars(length(min = 1, max = 128))]
    pub name: String,
    /// Its version, for example `v1.2.0`.
    #[schemars(length(min = 1, max = 64))]
    pub version: String,
    /// The file to run.
    #[schemars(length(min = 1, max = 255))]
    pub binary_name: String,
    /// Hex SHA-256 of that file.
    #[schemars(regex(pattern = r"^[0-9a-fA-F]{64}$"))]
    pub sha256sum: String,
    /// OCI image to take it from. Not together with `command`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub image: Option<String>,
    /// File in the plugin directory. Not together with `image`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    pub command: Option<String>,
    /// Arguments.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(max = 1024)))]
    pub args: Vec<String>,
    /// Environment, as `NAME=value`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(max = 4096)))]
    pub env: Vec<String>,
}
