//! The operator's own way into a cluster: a short-lived token, got at the member that is to be spoken to.

use super::{members::Member, names};
use crate::{
    adapter::{
        Adapters,
        kubernetes::{
            client::{RequestError, timed},
            token::{self, TokenError},
        },
        openbao::{Error as BaoError, Token},
    },
    api::OpenBaoCluster,
};
use k8s_openapi::api::core::v1::Secret;
use kube::{Api, ResourceExt};

/// Why the operator cannot act inside OpenBao.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// The API server gave us no token for our own service account.
    #[error("failed to get a token for the operator's own service account")]
    Token(#[from] TokenError),
    /// OpenBao refused the login, or did not answer.
    #[error(
        "failed to log in to OpenBao as role {role} at mount {mount}: was the cluster bootstrapped with selfInit.oidc? Was it restored from another one, or were the API server's signing keys rotated? {advice}"
    )]
    Login {
        /// The JWT mount.
        mount: &'static str,
        /// The role.
        role: &'static str,
        /// What lets it in again, whichever it was.
        advice: Box<str>,
        /// OpenBao's answer.
        #[source]
        source: BaoError,
    },
    /// The pod has no address or no CA bundle yet.
    #[error("pod {0} cannot be dialled yet")]
    NoAddress(String),
    /// The Secret with the root token could not be read.
    #[error("failed to read Secret {name} with the root token")]
    RootToken {
        /// The Secret.
        name: String,
        /// The refusal.
        #[source]
        source: RequestError,
    },
    /// The cluster has neither JWT roles nor a root token that we know.
    #[error(
        "the cluster was set up without selfInit.oidc and has no Secret {0} with a token: the operator has no identity in it, so members cannot leave and nobody learns who votes. Enable JWT login at mount jwt, make the policy and the role openbao-operator, and set spec.selfInit: {{enabled: true, oidc: {{enabled: true}}}}"
    )]
    NoIdentity(String),
}

impl AccessError {
    /// OpenBao itself said no, as opposed to silence or a server in trouble: waiting will not help.
    pub fn is_refused(&self) -> bool {
        match self {
            Self::Login { source, .. } => source.is_refusal(),
            Self::NoIdentity(_) => true,
            Self::Token(_) | Self::NoAddress(_) | Self::RootToken { .. } => false,
        }
    }
}

/// The audience of the operator's own tokens for this cluster, and nobody else's. The spec has no say in it: whoever writes one could
/// have the operator send him a token that the API server, or another cluster, takes.
pub fn audience(cluster: &OpenBaoCluster) -> String {
    names::audience(&cluster.namespace().unwrap_or_default(), &cluster.name_any())
}

/// The audience of the tokens that this cluster's Jobs log in with. Their accounts are the namespace's own.
pub fn jobs_audience(cluster: &OpenBaoCluster) -> String {
    let named =
        cluster.spec.self_init.as_ref().and_then(|init| init.oidc.as_ref()).and_then(|oidc| oidc.audience.clone());
    named.unwrap_or_else(|| audience(cluster))
}

/// What a person types to let the operator in under its own role, where JWT login is on.
pub fn role_command(ad: &Adapters, cluster: &OpenBaoCluster) -> String {
    let settings = &ad.settings;
    let subject = names::subject(&settings.operator_namespace, &settings.operator_service_account);
    let role = names::OPERATOR_ROLE;
    names::role_command(names::JWT_MOUNT, role, role, &audience(cluster), &subject)
}

/// A short-lived OpenBao token of the operator itself, got at that very member: by JWT where self-init set it up, else
/// with the root token that the operator keeps for clusters without self-init.
pub async fn operator_token(ad: &Adapters, cluster: &OpenBaoCluster, member: &Member) -> Result<Token, AccessError> {
    let namespace = cluster.namespace().unwrap_or_default();
    let settings = &ad.settings;
    let subject = names::subject(&settings.operator_namespace, &settings.operator_service_account);
    let login_failed = |source| login_failed(source, cluster, &subject);
    let client = match member.client() {
        None => return Err(AccessError::NoAddress(member.name.clone())),
        Some(client) => client.map_err(login_failed)?,
    };
    let by_jwt = cluster
        .spec
        .self_init
        .as_ref()
        .is_some_and(|init| init.enabled && init.oidc.as_ref().is_some_and(|oidc| oidc.enabled));
    if !by_jwt {
        let name = names::root_token_secret(&cluster.name_any());
        let secrets: Api<Secret> = Api::namespaced(ad.client.clone(), &namespace);
        return match timed(secrets.get_opt(&name)).await {
            Ok(Some(secret)) => secret
                .data
                .and_then(|mut data| data.remove("token"))
                .and_then(|token| String::from_utf8(token.0).ok())
                .map(Token::new)
                .ok_or(AccessError::NoIdentity(name)),
            Ok(None) => Err(AccessError::NoIdentity(name)),
            Err(source) => Err(AccessError::RootToken { name, source }),
        };
    }
    let jwt = token::request(
        &ad.client,
        &settings.operator_namespace,
        &settings.operator_service_account,
        &audience(cluster),
    )
    .await?;
    client.login_jwt(names::JWT_MOUNT, names::OPERATOR_ROLE, &jwt).await.map_err(login_failed)
}

fn login_failed(source: BaoError, cluster: &OpenBaoCluster, subject: &str) -> AccessError {
    let (mount, role) = (names::JWT_MOUNT, names::OPERATOR_ROLE);
    let keys = names::issuer_command(mount, &cluster.namespace().unwrap_or_default(), &cluster.name_any());
    let command = names::role_command(mount, role, role, &audience(cluster), subject);
    let advice = format!(
        "Then give OpenBao the issuer and the keys of now (bound_issuer= and one jwt_validation_pubkeys= a key): `{keys}`. Does the operator run in another namespace or under another service account than then? Or does spec.selfInit.oidc.audience name one, and was the role made by an operator that logged in with that? Then set the role again: {command}"
    );
    AccessError::Login { mount, role, advice: advice.into(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_spec_chooses_the_audience_of_the_operators_own_token() {
        for named in ["https://kubernetes.default.svc", "openbao:other/prod", "sts.amazonaws.com"] {
            let spec = serde_json::json!({"version": "2.7.2", "storage": {"size": "1Gi"},
                "selfInit": {"enabled": true, "oidc": {"enabled": true, "audience": named}}});
            let mut cluster = OpenBaoCluster::new("kelp", serde_json::from_value(spec).unwrap());
            cluster.metadata.namespace = Some("reef".into());
            assert_eq!(audience(&cluster), "openbao:reef/kelp");
            assert_eq!(jobs_audience(&cluster), named);
        }
    }

    #[test]
    fn a_refused_login_names_the_subject_of_now_and_what_sets_issuer_keys_and_role_again() {
        let timed_out = BaoError::TimedOut {
            pod: "kelp-0".into(),
            request: "POST auth/jwt/login".into(),
            timeout: std::time::Duration::from_secs(2),
        };
        let spec = serde_json::json!({"version": "2.7.2", "storage": {"size": "1Gi"}});
        let mut cluster = OpenBaoCluster::new("kelp", serde_json::from_value(spec).unwrap());
        cluster.metadata.namespace = Some("reef".into());
        let error = login_failed(timed_out, &cluster, "system:serviceaccount:ops:operator");
        let text = error.to_string();
        assert!(crate::causes::chain(&error).len() < 1024, "a condition shows all of it");
        for part in [
            "bound_issuer=",
            "kubectl openbao -n reef issuer kelp | bao write auth/jwt/config -",
            "bao write auth/jwt/role/openbao-operator role_type=jwt",
            "bound_audiences=openbao:reef/kelp",
            "bound_subject=system:serviceaccount:ops:operator",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
        let (asked, command) = (text.find("spec.selfInit.oidc.audience"), text.find("bao write auth/jwt/role"));
        assert!(asked.is_some() && asked < command, "whoever made it so is asked about it first: {text}");
    }
}
