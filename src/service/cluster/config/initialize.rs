//! The stanza with which the very first member initialises itself, once, on empty storage.
//!
//! First come the operator's own identities: login for service accounts of this Kubernetes cluster, with the smallest rights
//! that backups, restores and restarts need. Then the requests of the spec, in their order.

use crate::service::cluster::{
    autopilot,
    hcl::{Body, Value},
    identity::Identity,
    invalid::Invalid,
    names,
    validate::{ValidatedCluster, request_body},
};

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

/// What a backup's Job may do.
pub const BACKUP_POLICY: &str = r#"path "sys/storage/raft/snapshot" {
  capabilities = ["read"]
}
"#;

/// What a restore's Job may do.
pub const RESTORE_POLICY: &str = r#"path "sys/storage/raft/snapshot" {
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

/// A role at the mount `jwt`.
struct Role {
    /// For messages.
    request: String,
    name: String,
    policies: Vec<&'static str>,
    /// Who may log in under it.
    subjects: Vec<String>,
    ttl: &'static str,
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
    let own = names::audience(&cluster.namespace, &cluster.name);
    let account = |name: String| names::subject(&cluster.namespace, &name);
    let request = |name: &str, path: String, data| AccessRequest { name: name.to_owned(), path, data };
    let backup = account(names::backup_service_account(&cluster.name));
    let restore = account(names::restore_service_account(&cluster.name));
    let roles = [
        (names::OPERATOR_ROLE, OPERATOR_POLICY, identity.operator_subject.clone(), "10m"),
        (names::BACKUP_ROLE, BACKUP_POLICY, backup.clone(), "1h"),
        (names::RESTORE_ROLE, RESTORE_POLICY, restore.clone(), "1h"),
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
    for (name, policy, subject, ttl) in roles {
        requests.push(request(
            &format!("{name}-policy"),
            format!("sys/policies/acl/{name}"),
            Value::object([("policy", policy)]),
        ));
        // The operator's own token is for this cluster, whatever its spec names.
        let audience = if name == names::OPERATOR_ROLE { &own } else { audience };
        let (request, name, policies) = (format!("{name}-role"), name.to_owned(), vec![name]);
        requests.push(role_request(Role { request, name, policies, subjects: vec![subject], ttl }, audience));
    }
    let named = match cluster.spec.shared_role() {
        Some(name) => {
            vec![(Some(name), vec![names::BACKUP_ROLE, names::RESTORE_ROLE], vec![backup, restore])]
        }
        None => vec![
            (cluster.spec.named_backup_role(), vec![names::BACKUP_ROLE], vec![backup]),
            (cluster.spec.named_restore_role(), vec![names::RESTORE_ROLE], vec![restore]),
        ],
    };
    for (name, policies, subjects) in named {
        let Some(name) = name.filter(|name| may_be_made(cluster, &requests, name)) else { continue };
        let (request, name) = (format!("{}-named-role", policies[0]), name.to_owned());
        requests.push(role_request(Role { request, name, policies, subjects, ttl: "1h" }, audience));
    }
    requests
}

fn role_request(role: Role, audience: &str) -> AccessRequest {
    let Role { request, name, policies, subjects, ttl } = role;
    let who = match <[String; 1]>::try_from(subjects) {
        Ok([subject]) => ("bound_subject".into(), subject.into()),
        // Of several, each is as good as the other; `bound_subject` takes one only.
        Err(subjects) => ("bound_claims".into(), Value::object([("sub", subjects)])),
    };
    let data = Value::Object(vec![
        ("role_type".into(), "jwt".into()),
        ("bound_audiences".into(), vec![audience].into()),
        who,
        ("user_claim".into(), "sub".into()),
        ("token_policies".into(), policies.into()),
        ("token_ttl".into(), ttl.into()),
        ("token_max_ttl".into(), ttl.into()),
    ]);
    AccessRequest { name: request, path: role_path(&name), data }
}

fn role_path(name: &str) -> String {
    format!("auth/{}/role/{name}", names::JWT_MOUNT)
}

/// Whether a role that the spec names is made beside ours. Not one of ours, which stands already; and not one that the spec's own requests write, which would come to have fields of both. What OpenBao would not take for a name would end
/// the first start for good.
fn may_be_made(cluster: &ValidatedCluster, made: &[AccessRequest], name: &str) -> bool {
    let path = role_path(name);
    // OpenBao reads the name of a role in lower case.
    let is_it = |other: &str| other.trim_end_matches('/').eq_ignore_ascii_case(&path);
    let own = cluster.spec.self_init.as_ref().map(|init| init.requests.as_slice()).unwrap_or_default();
    let is_word = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
    name.starts_with(is_word)
        && name.ends_with(is_word)
        && name.chars().all(|letter| is_word(letter) || letter == '-' || letter == '.')
        && !made.iter().any(|request| is_it(&request.path))
        && !own.iter().any(|request| is_it(&request.path))
}

/// Autopilot is configured through the API only. Where the operator can log in it tells the settings again when OpenBao serves,
/// with a condition if they are refused; a refusal here would end the first start for good.
fn autopilot_request(cluster: &ValidatedCluster) -> Option<Body> {
    let request = update(autopilot::PATH, autopilot::settings(cluster)?)
        .maybe("allow_failure", cluster.may_log_in().then_some(true));
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

    fn roles(change: impl FnOnce(&mut serde_json::Value)) -> Vec<(String, serde_json::Value)> {
        let cluster = valid(change);
        let requests = access_requests(&cluster, &identity(), "i", "a").into_iter();
        requests
            .filter_map(|request| {
                Some((request.path.strip_prefix("auth/jwt/role/")?.to_owned(), (&request.data).into()))
            })
            .collect()
    }

    #[test]
    fn the_operators_role_is_for_its_own_audience_whatever_the_spec_names() {
        for (role, settings) in roles(|s| s["selfInit"]["oidc"] = json!({"enabled": true, "audience": "a"})) {
            let wanted = if role == "openbao-operator" { "openbao:reef/kelp" } else { "a" };
            assert_eq!(settings["bound_audiences"], json!([wanted]), "{role}");
        }
    }

    fn target() -> serde_json::Value {
        json!({"provider": "file", "file": {"claimName": "tide"}})
    }

    #[test]
    fn the_roles_that_the_spec_names_are_made_for_its_jobs() {
        let roles = roles(|s| {
            s["backup"] = json!({"target": target(), "jwtAuthRole": "team-backup"});
            s["restore"] = json!({"jwtAuthRole": "team-restore"});
        });
        for (name, of) in [("team-backup", "backup"), ("team-restore", "restore")] {
            let (_, role) = roles.iter().find(|(role, _)| role == name).expect("it is made");
            assert_eq!(role["bound_subject"], format!("system:serviceaccount:reef:kelp-{of}"));
            assert_eq!(role["token_policies"], json!([format!("openbao-operator-{of}")]));
        }
        assert_eq!(roles.len(), 5, "ours stay, so that the name may be taken back: {roles:?}");
    }

    #[test]
    fn a_role_that_the_spec_names_for_both_jobs_lets_both_in() {
        for restore in ["jobs", "Jobs"] {
            let roles = roles(|s| {
                s["backup"] = json!({"target": target(), "jwtAuthRole": "jobs"});
                s["restore"] = json!({"jwtAuthRole": restore});
            });
            let named: Vec<_> = roles.iter().filter(|(role, _)| role == "jobs").collect();
            let [(_, role)] = named[..] else { panic!("one role: {roles:?}") };
            assert_eq!(roles.len(), 4);
            assert_eq!(role.get("bound_subject"), None);
            let accounts = ["system:serviceaccount:reef:kelp-backup", "system:serviceaccount:reef:kelp-restore"];
            assert_eq!(role["bound_claims"], json!({"sub": accounts}));
            assert_eq!(role["token_policies"], json!(["openbao-operator-backup", "openbao-operator-restore"]));
        }
    }

    #[test]
    fn a_role_of_somebody_else_is_not_made_and_no_name_ends_the_first_start() {
        for name in
            ["openbao-operator", "OpenBao-Operator", "openbao-operator-backup", "a/b", "-x", "x y", "../x", "x."]
        {
            let roles = roles(|s| s["restore"] = json!({"jwtAuthRole": name}));
            assert_eq!(roles.len(), 3, "{name}: {roles:?}");
        }
        let own = roles(|s| {
            s["restore"] = json!({"jwtAuthRole": "mine"});
            s["selfInit"]["requests"] = json!([
                {"name": "mine", "operation": "update", "path": "auth/jwt/role/mine", "data": {"role_type": "jwt"}}
            ]);
        });
        assert_eq!(own.len(), 3, "the spec's own request makes it: {own:?}");
    }

    #[test]
    fn self_init_without_any_request_still_initialises() {
        let cluster = valid(|s| s["selfInit"] = json!({"enabled": true}));
        assert!(render(&cluster, None).unwrap().starts_with("initialize"));
    }
}
