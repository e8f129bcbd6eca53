//! Which plugins servers are told of, and what is refused before any is.

use super::*;
use crate::service::cluster::validate::{tests::cluster, validate};
use serde_json::{Value, json};

/// A plugin that lies in the servers' image, with more to it; what is null is not there.
fn plugin(more: &Value) -> Value {
    let mut plugin = json!({"type": "secret", "name": "word", "version": "v1.0.0", "binaryName": "word-engine",
        "command": "word", "sha256sum": "0".repeat(64)});
    plugin.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    plugin
}

fn fetched(more: &Value) -> Value {
    let mut plugin = plugin(&json!({"command": null, "image": "ghcr.io/reef/word"}));
    plugin.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    plugin
}

fn spec(plugins: &Value, settings: &Value) -> OpenBaoClusterSpec {
    let spec = json!({"version": "2.7.2", "storage": {"size": "1Gi"}, "plugins": plugins,
        "configuration": {"plugin": settings}});
    serde_json::from_value(spec).unwrap()
}

fn read_at(version: &str, plugins: &Value) -> Result<(), Invalid> {
    known_at(&Version::parse(version).unwrap(), &spec(plugins, &json!({})))
}

#[test]
fn each_plugin_is_a_stanza_of_its_own_in_the_order_of_the_spec() {
    let sum = "AbC1".repeat(16);
    let all = spec(
        &json!([
            plugin(&json!({"args": ["-v"], "env": ["WORD=a \"b\""], "sha256sum": sum})),
            fetched(&json!({"type": "auth", "name": "reef", "version": "v2.0.0"})),
        ]),
        &json!({}),
    );
    let expected = format!(
        r#"plugin "secret" "word" {{
  command = "word"
  version = "v1.0.0"
  sha256sum = "{}"
  args = ["-v"]
  env = ["WORD=a \"b\""]
}}
plugin "auth" "reef" {{
  image = "ghcr.io/reef/word"
  version = "v2.0.0"
  binary_name = "word-engine"
  sha256sum = "{}"
}}
"#,
        sum.to_lowercase(),
        "0".repeat(64)
    );
    assert_eq!(declare(Body::new(), &all.plugins).to_string(), expected);
}

#[test]
fn servers_are_told_where_plugins_lie_and_to_take_them_up_unless_the_spec_says_otherwise() {
    let (lies_there, comes, none) = (json!([plugin(&json!({}))]), json!([fetched(&json!({}))]), json!([]));
    for (plugins, settings, expected) in [
        (&none, json!({}), (None, None, None)),
        (&none, json!({"autoRegister": true}), (None, None, Some(true))),
        (&lies_there, json!({}), (Some("/openbao/plugins"), None, Some(true))),
        (&lies_there, json!({"autoDownload": false}), (Some("/openbao/plugins"), Some(false), Some(true))),
        (&comes, json!({}), (Some("/openbao/data/plugins"), Some(true), Some(true))),
        (&comes, json!({"autoRegister": false}), (Some("/openbao/data/plugins"), Some(true), Some(false))),
    ] {
        let spec = spec(plugins, &settings);
        assert_eq!((folder(&spec), auto_download(&spec), auto_register(&spec)), expected, "{plugins} {settings}");
    }
}

#[test]
fn a_server_with_plugins_in_its_image_begins_only_when_each_of_them_is_what_it_should_be() {
    let of = |plugins: &Value| start(&spec(plugins, &json!({})).plugins);
    assert_eq!(of(&json!([])), ["bao"]);
    assert_eq!(of(&json!([fetched(&json!({}))])), ["bao"], "OpenBao itself ends over one that it cannot fetch");
    let two = of(&json!([plugin(&json!({})), plugin(&json!({"version": "v2.0.0", "command": "word-2"}))]));
    let sum = "0".repeat(64);
    let script = format!(
        "echo '{sum}  /openbao/plugins/word' | sha256sum -c - && echo '{sum}  /openbao/plugins/word-2' | sha256sum -c - && \
         exec \"$0\" \"$@\""
    );
    assert_eq!(two, ["sh", "-c", script.as_str(), "bao"]);
}

#[test]
fn a_version_that_cannot_be_told_of_plugins_is_refused_and_one_without_plugins_is_not() {
    for (version, knows) in [("2.4.4", false), ("2.5.0", true), ("2.6.2", true), ("2.7.2", true)] {
        let answer = read_at(version, &json!([plugin(&json!({}))]));
        assert_eq!(answer.is_ok(), knows, "{version}: {answer:?}");
        assert!(answer.is_ok() || answer.unwrap_err().is_unsupported());
        assert_eq!(read_at(version, &json!([])), Ok(()));
    }
}

#[test]
fn the_oldest_version_that_runs_or_is_about_to_decides() {
    for (initialized, current, target, is_known) in [
        (true, "2.4.4", None, false),
        (true, "2.6.2", None, true),
        (true, "2.7.2", Some("2.4.4"), false),
        (false, "2.4.4", None, true),
    ] {
        let mut object = cluster(|s| s["plugins"] = json!([plugin(&json!({}))]));
        let status = json!({"initialized": initialized, "currentVersion": current, "upgrade": {"target": target}});
        object.status = Some(serde_json::from_value(status).unwrap());
        assert_eq!(validate(&object).is_ok(), is_known, "{initialized} {current} {target:?}");
    }
}

#[test]
fn what_would_leave_servers_without_a_leader_is_refused_with_what_to_do() {
    let another = "1".repeat(64);
    for (plugins, settings, words) in [
        (json!([fetched(&json!({}))]), json!({"autoDownload": false}), "nobody would fetch its image"),
        (json!([plugin(&json!({})), fetched(&json!({"name": "reef"}))]), json!({}), "cannot be written to"),
        (
            json!([plugin(&json!({})), plugin(&json!({"version": "v2.0.0", "sha256sum": another}))]),
            json!({}),
            "a file of its own",
        ),
        (json!([plugin(&json!({"command": null}))]), json!({}), "either image or command"),
        (json!([plugin(&json!({"image": "ghcr.io/reef/word"}))]), json!({}), "either image or command"),
        (json!([plugin(&json!({"command": "a'b"}))]), json!({}), "the name of a file"),
        (json!([plugin(&json!({"command": "../word"}))]), json!({}), "the name of a file"),
        (json!([plugin(&json!({"env": ["WORD"]}))]), json!({}), "NAME=value"),
        (json!([plugin(&json!({"env": ["=word"]}))]), json!({}), "NAME=value"),
        (json!([plugin(&json!({"env": ["TMPDIR=/openbao/data"]}))]), json!({}), "its own value wins"),
        (json!([fetched(&json!({"env": ["KUBERNETES_PORT=1"]}))]), json!({}), "its own value wins"),
    ] {
        let refused = known_at(&Version::new(2, 7, 2), &spec(&plugins, &settings)).unwrap_err();
        assert!(matches!(&refused, Invalid::Plugin { .. }) && !refused.is_unsupported(), "{refused:?}");
        assert!(refused.to_string().contains(words), "{refused}");
    }
}

#[test]
fn two_versions_of_a_plugin_may_stand_beside_each_other() {
    let files = json!([plugin(&json!({})), plugin(&json!({"version": "v2.0.0", "command": "word-2"}))]);
    let images = json!([fetched(&json!({})), fetched(&json!({"version": "v2.0.0", "sha256sum": "1".repeat(64)}))]);
    let same_file = json!([plugin(&json!({})), plugin(&json!({"type": "auth"}))]);
    for plugins in [files, images, same_file] {
        assert_eq!(read_at("2.7.2", &plugins), Ok(()), "{plugins}");
    }
}

#[test]
fn a_credential_is_known_by_its_name_and_where_one_lies_is_none() {
    for (more, holds) in [
        (json!({}), false),
        (json!({"env": ["WORD=secret"]}), false),
        (json!({"env": ["API_TOKEN=x"]}), true),
        (json!({"env": ["db_password=x"]}), true),
        (json!({"env": ["TOKEN_FILE=/tmp/token"]}), false),
        (json!({"env": ["CLIENT_KEY=/openbao/tls/tls.key"]}), false),
        (json!({"args": ["-tls-skip-verify"]}), false),
        (json!({"args": ["--password=x"]}), true),
        (json!({"args": ["-token", "x"]}), true),
        (json!({"args": ["-client-key=/openbao/tls/tls.key"]}), false),
        (json!({"args": ["key"]}), false),
        (json!({"env": ["AWS_SECRET_ACCESS_KEY=/Ab3cDeFgHiJkLmNoPqRsTuVwXyZ0123456789ab"]}), true),
        (json!({"env": ["DB_PASS=x"]}), true),
        (json!({"env": ["PGPASSWORD=x"]}), true),
        (json!({"env": ["clientSecret=x"]}), true),
        (json!({"env": ["API_TOKEN_2=x"]}), true),
        (json!({"env": ["BASIC_AUTH=x"]}), true),
        (json!({"env": ["DSN=postgres://reef:x@db.shore:5432/kelp"]}), true),
        (json!({"env": ["DSN=postgres://reef@db.shore:5432/kelp"]}), false),
        (json!({"env": ["API_TOKEN="]}), false),
        (json!({"env": ["KEYCLOAK_URL=https://sso.shore"]}), false),
        (json!({"env": ["AUTHORITY=shore", "OAUTH_ISSUER=shore", "BYPASS=on"]}), false),
        (json!({"env": ["SECRET_NAME=kelp", "TOKEN_TTL=1h"]}), false),
        (json!({"args": ["-key-type=rsa"]}), false),
        (json!({"args": ["-key", "/openbao/tls/tls.key"]}), false),
        (json!({"args": ["-token", "-verbose"]}), false),
    ] {
        let one: Plugin = serde_json::from_value(plugin(&more)).unwrap();
        assert_eq!(holds_a_credential(&one), holds, "{more}");
    }
}

#[test]
fn a_registry_is_shown_the_first_secret_that_images_are_pulled_with_where_anything_is_fetched() {
    for (plugins, secrets, expected) in [
        (json!([fetched(&json!({}))]), json!([{"name": "mine"}, {"name": "other"}]), Some("mine")),
        (json!([fetched(&json!({}))]), json!([]), None),
        (json!([plugin(&json!({}))]), json!([{"name": "mine"}]), None),
        (json!([]), json!([{"name": "mine"}]), None),
    ] {
        let mut spec = spec(&plugins, &json!({}));
        spec.image_pull_secrets = serde_json::from_value(secrets.clone()).unwrap();
        assert_eq!(registry_secret(&spec), expected, "{plugins} {secrets}");
    }
}
