//! Whether a cluster that sets itself up lets anybody in. Its first start is the last chance: nobody is left who could add a login
//! afterwards, as it keeps neither a root token nor recovery keys, and the roles of the operator and its Jobs may make none. Pure.

use crate::api::{OpenBaoClusterSpec, SelfInitRequest};

/// Whether nobody but the operator and its Jobs could ever log in after a first start with this spec.
pub(super) fn is_closed(spec: &OpenBaoClusterSpec) -> bool {
    spec.self_init.as_ref().is_some_and(|init| init.enabled && !init.requests.iter().any(may_let_in))
}

/// Whether a request may make a user, a role or a token. To switch a login method on, or to write a policy, lets nobody in.
fn may_let_in(request: &SelfInitRequest) -> bool {
    let parts: Vec<&str> = request.path.split('/').filter(|part| !part.is_empty()).collect();
    // Behind the name of a namespace, or at the very beginning.
    let Some(at) = parts.iter().position(|part| *part == "auth") else { return false };
    let is_method = at > 0 && parts[at - 1] == "sys";
    let writes = ["create", "update", "patch"].contains(&request.operation.as_str());
    writes && !is_method && parts.len() > at + 2
}

/// What to say of it while there is time.
pub(super) fn warning(cluster: &str) -> String {
    format!(
        "Nobody will be able to log in: no request of spec.selfInit makes a user, a role or a token, the first start leaves neither a \
         root token nor recovery keys, and nothing can be added after it. Unless a backup is to be restored into it, delete \
         OpenBaoCluster {cluster} and its volume claims, which hold nothing yet, add such requests \
         (docs/samples/cluster-first.yaml has them) and apply it again"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        api::{OpenBaoCluster, admission::admit, samples::samples},
        service::cluster::validate::tests::cluster,
    };
    use serde_json::{Value, json};

    fn is_closed_with(self_init: &Value) -> bool {
        is_closed(&cluster(|spec| spec["selfInit"] = self_init.clone()).spec)
    }

    #[test]
    fn a_first_start_lets_somebody_in_by_a_login_that_it_makes_and_by_nothing_else() {
        for (operation, path, lets_in) in [
            ("update", "auth/userpass/users/admin", true),
            ("create", "auth/jwt/role/people", true),
            ("update", "auth/token/create", true),
            ("patch", "team/auth/ldap/groups/ops", true),
            ("read", "auth/userpass/users/admin", false),
            ("delete", "auth/userpass/users/admin", false),
            ("update", "sys/auth/userpass", false),
            ("update", "sys/auth/userpass/tune", false),
            ("update", "team/sys/auth/userpass", false),
            ("update", "sys/policies/acl/auth", false),
            ("update", "sys/mounts/secret", false),
        ] {
            let request = json!({"name": "one", "operation": operation, "path": path});
            let whole = json!({"enabled": true, "oidc": {"enabled": true}, "requests": [request]});
            assert_eq!(is_closed_with(&whole), !lets_in, "{operation} {path}");
        }
    }

    #[test]
    fn one_login_among_the_requests_is_enough_and_a_root_token_needs_none() {
        let policy =
            json!({"name": "p", "operation": "update", "path": "sys/policies/acl/p", "policy": {"policy": "x"}});
        let user =
            json!({"name": "u", "operation": "update", "path": "auth/userpass/users/u", "data": {"password": "p"}});
        assert!(!is_closed_with(&json!({"enabled": true, "requests": [policy, user]})));
        assert!(is_closed_with(&json!({"enabled": true, "requests": [policy]})));
        assert!(is_closed_with(&json!({"enabled": true, "oidc": {"enabled": true}})));
        assert!(!is_closed_with(&json!({"enabled": false})));
        assert!(!is_closed_with(&json!(null)), "its root token is stored");
    }

    #[test]
    fn every_sample_that_sets_itself_up_lets_somebody_in() {
        let mut count = 0;
        for (file, object) in samples().into_iter().filter(|(_, object)| object["kind"] == "OpenBaoCluster") {
            if object["spec"]["selfInit"]["enabled"] != true {
                continue;
            }
            let object: OpenBaoCluster = serde_json::from_value(admit(&object, None).unwrap()).unwrap();
            assert!(!is_closed(&object.spec), "{file}: whoever makes a new cluster of it can never log in");
            count += 1;
        }
        assert!(count >= 14, "only {count} were found");
    }
}
