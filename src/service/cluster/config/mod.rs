//! OpenBao's configuration, rendered from a validated spec: the file that all members share, the seal, and the stanza with
//! which the first member initialises itself. Pure; the bytes depend on the input alone.

pub mod audit;
pub mod initialize;
pub mod plugins;
pub mod seal;
pub mod server;

use crate::{api::OpenBaoCluster, service::upgrade::versions};
use semver::Version;

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
/// Where an image of OpenBao has the plugins that were put into it.
pub const PLUGIN_DIR: &str = "/openbao/plugins";
/// Where a server keeps the plugins that it fetches: on the volume, so that one that starts again needs no registry.
pub const FETCHED_PLUGIN_DIR: &str = "/openbao/data/plugins";
/// Where the pod finds what a registry asks for.
pub const REGISTRY_DIR: &str = "/openbao/registry";
/// The file that all members share.
pub const SHARED_FILE: &str = "config.hcl";

/// Whether a server can make this file: directly in one of the two folders that it may write to. Others do not exist, and OpenBao
/// makes none; it ends if it cannot write its log.
pub fn is_writable(path: &str) -> bool {
    ["/tmp", DATA_DIR].into_iter().any(|folder| {
        let name = path.strip_prefix(folder).and_then(|rest| rest.strip_prefix('/')).unwrap_or_default();
        !name.trim_start_matches('.').is_empty() && !name.contains(['/', '*', '?', '['])
    })
}

/// The oldest version that reads what is rendered now: all servers read the same configuration, so it decides what may stand there.
/// Before there is data that is the `wanted` one. Then it is what runs, what the template shows, or where an upgrade or a rollback at
/// work leads, from its beginning on: the spec with which a rollback goes on must be good for the server that it starts.
pub fn oldest(cluster: &OpenBaoCluster, wanted: &Version) -> Version {
    let led = cluster.status.as_ref().filter(|status| status.initialized == Some(true));
    let upgrade = led.and_then(|status| status.upgrade.as_ref());
    let texts = [
        led.and_then(|status| status.current_version.as_deref()),
        upgrade.and_then(|upgrade| Some(upgrade.directive.as_ref()?.version.as_str())),
        upgrade.and_then(|upgrade| upgrade.target.as_deref()),
    ];
    texts.into_iter().flatten().filter_map(versions::parse).min().unwrap_or_else(|| wanted.clone())
}
