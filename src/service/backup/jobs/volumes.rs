//! What a mover's pod mounts: one token per audience, one credential, a disk only where a whole archive has to lie. Pure.

use k8s_openapi::api::core::v1::{
    ConfigMapProjection, ConfigMapVolumeSource, DownwardAPIProjection, DownwardAPIVolumeFile, EmptyDirVolumeSource,
    KeyToPath, ObjectFieldSelector, PersistentVolumeClaimVolumeSource, ProjectedVolumeSource, SecretVolumeSource,
    ServiceAccountTokenProjection, Volume, VolumeMount, VolumeProjection,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::{Mover, Task};
use crate::datapath::environment::path;

/// Life of projected tokens; the kubelet renews them in time.
const TOKEN_SECONDS: i64 = 600;
/// The audience that AWS expects of a web identity.
const AWS_AUDIENCE: &str = "sts.amazonaws.com";
/// The kubelet evicts whoever exceeds a volume's limit; the mover's own, lower one ends a backup with a reason first.
const SPARE: u64 = 64 << 20;

/// The pod's volumes, each with its mount.
#[derive(Default)]
pub(super) struct Pieces {
    pub volumes: Vec<Volume>,
    pub mounts: Vec<VolumeMount>,
}

impl Pieces {
    pub(super) fn of(mover: &Mover<'_>) -> Self {
        let mut pieces = Self::default();
        if mover.task.reports() {
            pieces.add("kubernetes", path::KUBERNETES, true, |v| v.projected = Some(kubernetes_access()));
        }
        if mover.task.needs_scratch() {
            let limit = mover.task.scratch_limit().map(|limit| Quantity(limit.saturating_add(SPARE).to_string()));
            let disk = EmptyDirVolumeSource { size_limit: limit, medium: None };
            pieces.add("scratch", path::SCRATCH, false, |v| v.empty_dir = Some(disk));
        }
        if let Some(login) = mover.task.login() {
            if mover.task.uses_jwt(login) {
                pieces.add("openbao", path::JWT, true, |v| v.projected = Some(token_file(Some(&login.audience))));
            }
            if let Some(secret) = &login.token_secret {
                pieces.add("token", path::TOKEN, true, |v| v.secret = Some(secret_files(secret)));
            }
            if let Some(ca) = &login.ca_config_map {
                pieces.add("ca", path::CA, true, |v| {
                    v.config_map = Some(ConfigMapVolumeSource { name: ca.clone(), ..ConfigMapVolumeSource::default() });
                });
            }
        }
        if let Some(secret) = &mover.store.credentials_secret {
            pieces.add("credentials", path::CREDENTIALS, true, |v| v.secret = Some(secret_files(secret)));
        }
        if mover.store.target.role_arn.is_some() {
            pieces.add("cloud", path::CLOUD, true, |v| v.projected = Some(token_file(Some(AWS_AUDIENCE))));
        }
        if let Some(claim) = &mover.store.claim {
            // Only who writes backups may write to the volume.
            let read_only = !matches!(mover.task, Task::Backup { .. } | Task::Prune(_));
            pieces.add("store", path::STORE, read_only, |v| {
                v.persistent_volume_claim =
                    Some(PersistentVolumeClaimVolumeSource { claim_name: claim.clone(), read_only: None });
            });
        }
        pieces
    }

    fn add(&mut self, name: &str, at: &str, read_only: bool, source: impl FnOnce(&mut Volume)) {
        let mut volume = Volume { name: name.to_owned(), ..Volume::default() };
        source(&mut volume);
        self.volumes.push(volume);
        self.mounts.push(VolumeMount {
            name: name.to_owned(),
            mount_path: at.to_owned(),
            read_only: read_only.then_some(true),
            ..VolumeMount::default()
        });
    }
}

fn secret_files(secret: &str) -> SecretVolumeSource {
    SecretVolumeSource {
        secret_name: Some(secret.to_owned()),
        default_mode: Some(0o440),
        ..SecretVolumeSource::default()
    }
}

fn token_source(audience: Option<&str>) -> VolumeProjection {
    VolumeProjection {
        service_account_token: Some(ServiceAccountTokenProjection {
            audience: audience.map(str::to_owned),
            expiration_seconds: Some(TOKEN_SECONDS),
            path: "token".to_owned(),
        }),
        ..VolumeProjection::default()
    }
}

fn token_file(audience: Option<&str>) -> ProjectedVolumeSource {
    ProjectedVolumeSource { sources: Some(vec![token_source(audience)]), default_mode: Some(0o440) }
}

/// What a Kubernetes client expects to find: the automatic mount, but with a short-lived token of the API server's own
/// audience, and only in this container.
fn kubernetes_access() -> ProjectedVolumeSource {
    let ca = ConfigMapProjection {
        name: "kube-root-ca.crt".to_owned(),
        items: Some(vec![KeyToPath { key: "ca.crt".to_owned(), path: "ca.crt".to_owned(), mode: None }]),
        optional: None,
    };
    let namespace = DownwardAPIVolumeFile {
        path: "namespace".to_owned(),
        field_ref: Some(ObjectFieldSelector { field_path: "metadata.namespace".to_owned(), api_version: None }),
        ..DownwardAPIVolumeFile::default()
    };
    ProjectedVolumeSource {
        sources: Some(vec![
            token_source(None),
            VolumeProjection { config_map: Some(ca), ..VolumeProjection::default() },
            VolumeProjection {
                downward_api: Some(DownwardAPIProjection { items: Some(vec![namespace]) }),
                ..VolumeProjection::default()
            },
        ]),
        default_mode: Some(0o440),
    }
}
