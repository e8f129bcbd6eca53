//! What a request to the API server is about, in RBAC's words: for the metrics, and for faults made on purpose in tests.

use http::Method;

/// One request, named as RBAC names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Called {
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`.
    pub verb: &'static str,
    /// With its subresource: `serviceaccounts/token`.
    pub resource: String,
    /// Empty where a path names no object.
    pub name: String,
}

/// Reads it from the request line.
pub fn classify(method: &Method, path: &str, query: &str) -> Called {
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    let rest = match parts.as_slice() {
        ["api", _, rest @ ..] | ["apis", _, _, rest @ ..] => rest,
        _ => &[],
    };
    let rest = match rest {
        ["namespaces", _namespace, rest @ ..] if !rest.is_empty() => rest,
        rest => rest,
    };
    let (resource, name) = match rest {
        [] => ("nonresource".to_owned(), Some("")),
        [resource] => ((*resource).to_owned(), None),
        [resource, name] => ((*resource).to_owned(), Some(*name)),
        [resource, name, subresource, ..] => (format!("{resource}/{subresource}"), Some(*name)),
    };
    let watching = query.split('&').any(|pair| matches!(pair, "watch=true" | "watch=1" | "watch"));
    let verb = match *method {
        Method::GET if watching => "watch",
        Method::GET if name.is_some() => "get",
        Method::GET => "list",
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE if name.is_some() => "delete",
        Method::DELETE => "deletecollection",
        _ => "other",
    };
    Called { verb, resource, name: name.unwrap_or_default().to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_named_as_rbac_names_them() {
        for (method, path, query, verb, resource, name) in [
            (Method::GET, "/api/v1/namespaces/vault/pods", "", "list", "pods", ""),
            (Method::GET, "/api/v1/namespaces/vault/pods/prod-0", "", "get", "pods", "prod-0"),
            (Method::GET, "/api/v1/pods", "limit=5&watch=true", "watch", "pods", ""),
            (Method::GET, "/api/v1/namespaces/vault", "", "get", "namespaces", "vault"),
            (Method::POST, "/api/v1/namespaces/x/serviceaccounts/y/token", "", "create", "serviceaccounts/token", "y"),
            (
                Method::PATCH,
                "/apis/apps/v1/namespaces/x/statefulsets/y",
                "fieldManager=z",
                "patch",
                "statefulsets",
                "y",
            ),
            (
                Method::PUT,
                "/apis/openbao.org/v1alpha1/namespaces/x/openbaorestores/y/status",
                "",
                "update",
                "openbaorestores/status",
                "y",
            ),
            (Method::DELETE, "/apis/batch/v1/namespaces/x/jobs/y", "", "delete", "jobs", "y"),
            (Method::GET, "/openid/v1/jwks", "", "get", "nonresource", ""),
        ] {
            let expected = Called { verb, resource: resource.to_owned(), name: name.to_owned() };
            assert_eq!(classify(&method, path, query), expected, "{method} {path}");
        }
    }
}
