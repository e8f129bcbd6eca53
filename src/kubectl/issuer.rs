//! `issuer`: who signs the tokens of this Kubernetes, in the words of OpenBao's JWT method.

use super::connection::Connection;
use super::{Error, say};
use crate::api::OpenBaoCluster;
use crate::service::cluster::identity;

/// For `bao write auth/jwt/config -`. All of it at once: OpenBao forgets what a write leaves out.
pub async fn run(connection: &Connection, cluster: &str) -> Result<(), Error> {
    let object: OpenBaoCluster = connection.get(cluster).await?;
    let found = identity::fetch(connection.client(), String::new()).await.map_err(Error::Issuer)?;
    let oidc = object.spec.self_init.as_ref().and_then(|init| init.oidc.as_ref());
    let named = oidc.and_then(|oidc| oidc.issuer.as_deref());
    say(&settings(named.unwrap_or(&found.issuer), &found.keys))
}

/// Each key an entry of its own: OpenBao refuses one that holds several.
fn settings(issuer: &str, keys: &[String]) -> String {
    serde_json::json!({"bound_issuer": issuer, "jwt_validation_pubkeys": keys}).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn issuer_and_keys_are_written_together_and_each_key_by_itself() {
        let text = settings("https://issuer", &["one".to_owned(), "two".to_owned()]);
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(json["bound_issuer"], "https://issuer");
        assert_eq!(json["jwt_validation_pubkeys"], serde_json::json!(["one", "two"]));
    }
}
