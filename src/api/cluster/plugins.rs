//! Plugins written into OpenBao's configuration.

use kube::KubeSchema;
use kube::core::Rule;
use serde::{Deserialize, Serialize};

/// One plugin: from an image, or from a file that is already there.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[x_kube(validation = ("has(self.image) != has(self.command)", "a plugin needs either image or command"))]
#[x_kube(validation = ("self.type in ['secret', 'auth', 'database']", "a plugin's type must be secret, auth or database"))]
#[x_kube(validation = ("!has(self.image) || !self.version.contains('+')", "the version of a plugin with an image is its tag, which cannot have a +"))]
#[serde(rename_all = "camelCase")]
pub struct Plugin {
    /// `secret`, `auth` or `database`.
    #[serde(rename = "type")]
    #[schemars(length(min = 1, max = 32))]
    pub type_: String,
    /// Name it is registered under, and the `type` of what is mounted with it.
    #[schemars(length(min = 1, max = 128))]
    #[x_kube(validation = plugin_name())]
    pub name: String,
    /// Its version as it tells it itself, for example `v1.2.0`: OpenBao has no leader with a plugin that says another one. With
    /// `image` it is the tag too. Two versions of one plugin may stand beside each other.
    #[schemars(length(min = 1, max = 64))]
    #[x_kube(validation = plugin_version())]
    #[x_kube(validation = ("!self.contains('builtin')", "a version with builtin in it is one of OpenBao's own plugins, which need not be declared"))]
    pub version: String,
    /// The file in the root of `image`. With `command` it says nothing.
    #[schemars(length(min = 1, max = 255))]
    #[x_kube(validation = file_name("binaryName"))]
    pub binary_name: String,
    /// Hex SHA-256 of that file, not of the image.
    #[schemars(regex(pattern = r"^[0-9a-fA-F]{64}$"))]
    pub sha256sum: String,
    /// OCI image to take it from, without tag or digest, for example `ghcr.io/openbao/openbao-plugin-secrets-aws`. The servers fetch it
    /// when they start, and keep it on their volumes. Not together with `command`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    #[x_kube(validation = repository())]
    pub image: Option<String>,
    /// File in `/openbao/plugins` of the servers' own image, `spec.image`. Not together with `image`, and not in a cluster that has
    /// plugins with `image`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    #[x_kube(validation = file_name("command"))]
    pub command: Option<String>,
    /// Arguments. They lie in a `ConfigMap`, so one that is named like a credential is refused.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(max = 1024)))]
    pub args: Vec<String>,
    /// Environment, as `NAME=value`. It lies in a `ConfigMap`, so a variable that is named like a credential is refused.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(max = 4096)))]
    pub env: Vec<String>,
}

/// It becomes a part of paths, in OpenBao's storage and in the plugin folder.
fn plugin_name() -> Rule {
    Rule::new("self.matches(r'^[A-Za-z0-9][A-Za-z0-9._-]*$')")
        .message("a plugin's name must be of letters, digits, dashes, dots and underscores")
}

/// OpenBao finds a version only as it writes versions itself, and never leads again with one in its catalog that is none.
fn plugin_version() -> Rule {
    Rule::new(
        "self.matches(r'^v(0|[1-9][0-9]*)[.](0|[1-9][0-9]*)[.](0|[1-9][0-9]*)(-[0-9A-Za-z.-]+)?([+][0-9A-Za-z.-]+)?$')",
    )
    .message("a plugin's version must be v and major.minor.patch, as in v1.2.0")
}

/// OpenBao runs no file that lies deeper.
fn file_name(field: &str) -> Rule {
    Rule::new("self.matches(r'^[A-Za-z0-9_][A-Za-z0-9._-]*$')")
        .message(format!("a plugin's {field} must be the name of a file, without a folder").as_str())
}

fn repository() -> Rule {
    Rule::new("self.matches(r'^([A-Za-z0-9][A-Za-z0-9.-]*(:[0-9]+)?/)?[a-z0-9][a-z0-9._/-]*$')").message(
        "a plugin's image must be a repository without tag or digest: its tag is the version, for example ghcr.io/openbao/openbao-plugin-secrets-aws",
    )
}
