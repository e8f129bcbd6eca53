//! The stanza with which the very first member initialises itself, once, on empty storage.
//!
//! First come the operator's own identities: login for service accounts of this Kubernetes cluster, with the smallest rights
//! that backups, restores and restarts need. Then the requests of the spec, in their order.

use crate::service::cluster::{
    autopilot,
    hcl::{Body, Value},
    names,
    validate::{Invalid, ValidatedCluster, request_body},
    voters,
};

/// What the stanza needs beside the spec.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The API server's issuer.
    pub issuer: String,
    /// Its signing keys, PEM.
    pub keys: Vec<String>,
    /// `sub` of the operator's own service account.
    pub operator_subject: String,
}

/// Step-down is for upgrades, raft for scaling and waiting, markers for proving restores.
const OPERATOR_POLICY: &str = r#"path "sys/step-down" {
  capabilities = ["update", "sudo"]
}
path "sys/storage/raft/configuration" {
  capabilities = ["read"]
}
path "sys/storage/raft/autopilot/state" {
  capabilities = ["read"]
}
path "sys/storage/raft/autopilot/configuration" {
  capabilities = ["read", "update"]
}
path "sys/storage/raft/remove-peer" {
  capabilities = ["update"]
}
path "sys/policies/acl/openbao-operator-marker-*" {
  capabilities = ["create", "read", "update", "delete"]
}
"#;

const BACKUP_POLICY: &str = r#"path "sys/storage/raft/snapshot" {
  capabilities = ["read"]
}
"#;

const RESTORE_POLICY: &str = r#"path "sys/storage/raft/snapshot" {
  capabilities = ["update"]
}
path "sys/storage/raft/snapshot-force" {
  capabilities = ["update"]
}
"#;

/// Renders the stanza. `identity` is needed when the spec asks for JWT login.
pub fn render(cluster: &ValidatedCluster, identity: Option<&Identity>) -> Result<String, Invalid> {
    let mut body = Body::new();
    if let (Some(oidc), Some(identity)) = (&cluster.oidc, identity) {
        let issuer = oidc.issuer.as_deref().unwrap_or(&identity.issuer);
        body = body.block("initialize", &["openbao-operator"], access(cluster, identity, issuer, &oidc.audience));
    }
    if let Some(request) = autopilot_request(cluster) {
        body = body.block("initialize", &["autopilot"], request);
    }
    let requests = cluster.spec.self_init.as_ref().map(|init| init.requests.as_slice()).unwrap_or_default();
    if !requests.is_empty() {
        let mut block = Body::new();
        for request in requests {
            let inner = Body::new()
                .set("operation", &request.operation)
                .set("path", &request.path)
                .maybe("allow_failure", request.allow_failure.then_some(true))
                .maybe("data", request_body(request)?);
            block = block.block("request", &[&request.name], inner);
        }
        body = body.block("initialize", &["spec"], block);
    }
    if body.is_empty() {
        // A server without any stanza does not initialise itself at all; reading its own state is the smallest request.
        body = body.block(
            "initialize",
            &["openbao-operator"],
            Body::new().block("request", &["nothing"], Body::new().set("operation", "read").set("path", "sys/auth")),
        );
    }
    Ok(body.to_string())
}

fn access(cluster: &ValidatedCluster, identity: &Identity, issuer: &str, audience: &str) -> Body {
    access_requests(cluster, identity, issuer, audience)
        .into_iter()
        .fold(Body::new(), |body, request| body.block("request", &[&request.name], update(&request.path, request.data)))
}

/// One API request that sets up access.
#[derive(Clone, Debug)]
pub struct AccessRequest {
    /// For messages.
    pub name: String,
    /// Without `/v1/`.
    pub path: String,
    /// Its body.
    pub data: Value,
}

/// What lets the operator and its Jobs log in, in order. The first start makes these requests to itself; a restore of
/// data that knows nobody of ours makes them again.
pub fn access_requests(
    cluster: &ValidatedCluster,
    identity: &Identity,
    issuer: &str,
    audience: &str,
) -> Vec<AccessRequest> {
    let jwt = names::JWT_MOUNT;
    let account = |name: String| names::subject(&cluster.namespace, &name);
    let request = |name: &str, path: String, data| AccessRequest { name: name.to_owned(), path, data };
    let roles = [
        (names::OPERATOR_ROLE, OPERATOR_POLICY, identity.operator_subject.clone(), "10m"),
        (names::BACKUP_ROLE, BACKUP_POLICY, account(names::backup_service_account(&cluster.name)), "1h"),
        (names::RESTORE_ROLE, RESTORE_POLICY, account(names::restore_service_account(&cluster.name)), "1h"),
    ];
    let mut requests = vec![
        request("jwt-mount", format!("sys/auth/{jwt}"), Value::object([("type", "jwt")])),
        request(
            "jwt-config",
            format!("auth/{jwt}/config"),
            Value::Object(vec![
                ("bound_issuer".into(), issuer.into()),
                ("jwt_validation_pubkeys".into(), identity.keys.clone().into()),
            ]),
        ),
    ];
    for (role, policy, subject, ttl) in roles {
        requests.push(request(
            &format!("{role}-policy"),
            format!("sys/policies/acl/{role}"),
            Value::object([("policy", policy)]),
        ));
        requests.push(request(
            &format!("{role}-role"),
            format!("auth/{jwt}/role/{role}"),
            Value::Object(vec![
                ("role_type".into(), "jwt".into()),
                ("bound_audiences".into(), vec![audience].into()),
                ("bound_subject".into(), subject.into()),
                ("user_claim".into(), "sub".into()),
                ("token_policies".into(), vec![role].into()),
                ("token_ttl".into(), ttl.into()),
                ("token_max_ttl".into(), ttl.into()),
            ]),
        ));
    }
    requests
}

/// Autopilot is configured through the API only. Where the operator can log in it tells the settings again when OpenBao serves,
/// with a condition if they are refused; a refusal here would end the first start for good.
fn autopilot_request(cluster: &ValidatedCluster) -> Option<Body> {
    let request = update(autopilot::PATH, autopilot::settings(cluster)?)
        .maybe("allow_failure", voters::may_log_in(cluster).then_some(true));
    Some(Body::new().block("request", &["configuration"], request))
}

fn update(path: &str, data: Value) -> Body {
    Body::new().set("operation", "update").set("path", path).set("data", data)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::cluster::validate::tests::valid;
    use serde_json::json;

    fn identity() -> Identity {
        Identity {
            issuer: "https://kubernetes.default.svc".into(),
            keys: vec!["-----BEGIN PUBLIC KEY-----\nAA==\n-----END PUBLIC KEY-----\n".into()],
            operator_subject: names::subject("operators", "bao-op"),
        }
    }

    #[test]
    fn access_for_operator_backup_and_restore_then_the_users_requests() {
        let cluster = valid(|s| {
            s["configuration"] = json!({"raft": {"autopilot": {"cleanupDeadServers": true, "minQuorum": 3}}});
            s["selfInit"]["requests"] = json!([
                {"name": "kv", "operation": "update", "path": "sys/mounts/secret",
                 "secretEngine": {"type": "kv", "options": {"version": "2"}}},
                {"name": "optional", "operation": "update", "path": "sys/policies/acl/app", "allowFailure": true,
                 "policy": {"policy": "path \"secret/*\" { capabilities = [\"read\"] }"}}
            ]);
        });
        insta::assert_snapshot!(render(&cluster, Some(&identity())).unwrap());
    }

    #[test]
    fn self_init_without_any_request_still_initialises() {
        let cluster = valid(|s| s["selfInit"] = json!({"enabled": true}));
        assert!(render(&cluster, None).unwrap().starts_with("initialize"));
    }
}
