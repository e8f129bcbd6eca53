//! Which devices servers are given, and under which paths.

use super::*;
use crate::service::cluster::validate::{tests::cluster, validate};
use serde_json::json;

fn spec(audit: &Value) -> OpenBaoClusterSpec {
    let spec = json!({"version": "2.7.2", "storage": {"size": "1Gi"}, "audit": audit});
    serde_json::from_value(spec).unwrap()
}

/// One that stands beside those that need another host.
fn log() -> Value {
    json!({"type": "file", "path": "log", "fileOptions": {"filePath": "stdout"}})
}

fn read_at(version: &str, device: &Value) -> Result<Device, Invalid> {
    known_at(&Version::parse(version).unwrap(), &spec(&json!([device, log()]))).map(|mut all| all.remove(0))
}

fn refusal(device: &Value) -> String {
    let refused = read_at("2.7.2", device).unwrap_err();
    assert!(matches!(&refused, Invalid::Audit { path, .. } if path == "f"), "{refused:?}");
    refused.to_string()
}

#[test]
fn each_device_is_a_stanza_of_its_own_in_the_order_of_the_spec() {
    let spec = spec(&json!([
        {"type": "file", "path": "log/", "description": "for the \"watch\"", "fileOptions": {"filePath": "stdout"},
         "options": {"log_raw": false}},
        {"type": "socket", "path": "far", "socketOptions": {"address": "audit.svc:9090", "writeTimeout": "2s"}},
        {"type": "http", "path": "web/hook", "httpOptions": {"uri": "https://audit.svc/bao", "headers": {"X-From": "kelp"}}},
    ]));
    let all = known_at(&Version::new(2, 7, 2), &spec).unwrap();
    let path = |at: usize| all[at].path();
    let expected = format!(
        r#"audit "file" "{}" {{
  description = "for the \"watch\""
  options {{
    file_path = "stdout"
    log_raw = "false"
  }}
}}
audit "socket" "{}" {{
  options {{
    address = "audit.svc:9090"
    skip_test = "true"
    write_timeout = "2s"
  }}
}}
audit "http" "{}" {{
  options {{
    headers = "{{\"X-From\":[\"kelp\"]}}"
    skip_test = "true"
    uri = "https://audit.svc/bao"
  }}
}}
"#,
        path(0),
        path(1),
        path(2)
    );
    assert_eq!(declare(Body::new(), &all).to_string(), expected);
    assert!(path(0).starts_with("log-") && path(0).ends_with('/'), "{}", path(0));
    assert!(path(2).starts_with("web-hook-"), "{}", path(2));
}

#[test]
fn no_device_stands_under_the_path_of_another_one() {
    let at = |path: &str| {
        let mut device = log();
        device["path"] = json!(path);
        read_at("2.7.2", &device).unwrap().path()
    };
    for path in ["file/stdout", "file/of/all/", "file"] {
        let found = at(path);
        assert_eq!(found.find('/'), Some(found.len() - 1), "somebody may have made file/ by hand: {found}");
    }
    assert_ne!(at("a/b"), at("a-b"), "both may be declared");
}

#[test]
fn devices_that_all_need_another_host_are_refused_before_a_server_sets_itself_up_with_them() {
    let socket = || json!({"type": "socket", "path": "far", "socketOptions": {"address": "audit.svc:9090"}});
    let http = || json!({"type": "http", "path": "web", "httpOptions": {"uri": "https://audit.svc"}});
    let discard = || json!({"type": "file", "path": "none", "fileOptions": {"filePath": "discard"}});
    for (audit, first) in [
        (json!([]), None),
        (json!([log()]), None),
        (json!([socket()]), Some("far")),
        (json!([http()]), Some("web")),
        (json!([http(), socket()]), Some("web")),
        (json!([socket(), log()]), None),
        (json!([http(), discard()]), None),
    ] {
        let at = |status: Value| {
            let mut object = cluster(|s| s["audit"] = audit.clone());
            object.status = serde_json::from_value(status).unwrap();
            validate(&object)
        };
        let wiped = json!({"servers": {"count": 1, "initialize": true, "closed": true}});
        for status in [Value::Null, json!({"initialized": false}), json!({"initialized": true, "upgrade": wiped})] {
            match (at(status), first) {
                (Ok(_), None) => {}
                (Err(Invalid::Audit { path, cause }), Some(first)) => {
                    assert!(path == first && cause.contains("add a device of type file"), "{audit}: {cause}");
                }
                (found, _) => panic!("{audit}: {found:?}"),
            }
        }
        // Its servers have set themselves up, and the certificates and backups of such a cluster are looked after.
        assert!(at(json!({"initialized": true, "upgrade": {}})).is_ok(), "{audit}");
        assert_eq!(has_a_file(&spec(&audit)), first.is_none(), "{audit}");
    }
}

#[test]
fn a_socket_that_does_not_answer_is_given_up_soon_unless_the_spec_says_when() {
    let socket = |options: Value| json!({"type": "socket", "path": "f", "socketOptions": {"address": "a.svc:1"}, "options": options});
    let waits = |device: &Value| {
        let mut device = read_at("2.7.2", device).unwrap();
        device.options.remove("write_timeout")
    };
    assert_eq!(waits(&socket(json!({}))).as_deref(), Some("500ms"));
    assert_eq!(waits(&socket(json!({"write_timeout": 5}))).as_deref(), Some("5"));
    assert_eq!(waits(&log()), None, "it is nothing that a file takes");
}

#[test]
fn where_records_go_is_known_with_protocol_and_address() {
    let of = |device: Value| collector(&serde_json::from_value(device).unwrap());
    let socket = |options: Value| of(json!({"type": "socket", "path": "f", "socketOptions": options}));
    let at = |protocol, address: &str| Some((protocol, address.to_owned()));
    assert_eq!(socket(json!({"address": "a.svc:1"})), at("TCP", "a.svc:1"));
    assert_eq!(socket(json!({"address": "a.svc:1", "socketType": "udp4"})), at("UDP", "a.svc:1"));
    let http = json!({"type": "http", "path": "f", "options": {"uri": "https://a.svc/bao"}});
    assert_eq!(of(http), at("TCP", "https://a.svc/bao"));
    assert_eq!((of(log()), socket(json!({}))), (None, None));
}

#[test]
fn a_device_that_is_not_what_it_was_has_another_path_and_one_that_is_has_the_same() {
    let at = |change: &Value| {
        let mut device = json!({"type": "file", "path": "log", "fileOptions": {"filePath": "stdout"}});
        device.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        read_at("2.7.2", &device).unwrap().path()
    };
    let before = at(&json!({}));
    assert_eq!(at(&json!({"path": "log/"})), before);
    assert_eq!(at(&json!({"fileOptions": null, "options": {"file_path": "stdout"}})), before, "said otherwise");
    for change in [
        json!({"description": "another"}),
        json!({"options": {"elide_list_responses": true}}),
        json!({"fileOptions": {"filePath": "/tmp/audit.log"}}),
        json!({"path": "other"}),
    ] {
        assert_ne!(at(&change), before, "{change}");
    }
}

#[test]
fn a_version_that_would_serve_without_the_record_is_refused_and_told_the_first_that_would_not() {
    let file = json!({"type": "file", "path": "f", "fileOptions": {"filePath": "stdout"}});
    let http = json!({"type": "http", "path": "f", "httpOptions": {"uri": "https://audit.svc"}});
    for (version, device, since) in [
        ("2.3.2", &file, Some("2.4.0")),
        ("2.4.0", &file, None),
        ("2.4.4", &http, Some("2.5.0")),
        ("2.5.0", &http, None),
        ("2.7.2", &http, None),
    ] {
        match (read_at(version, device), since) {
            (Ok(_), None) => {}
            (Err(refused), Some(since)) => {
                assert!(refused.is_unsupported() && refused.to_string().contains(since), "{refused}");
            }
            (found, _) => panic!("{version}: {found:?}"),
        }
    }
}

#[test]
fn a_device_is_good_for_the_oldest_server_that_runs_or_that_somebody_is_about_to_start() {
    let audit = json!([{"type": "http", "path": "a", "httpOptions": {"uri": "https://audit.svc"}}, log()]);
    let nothing = [None; 3];
    // The version of the spec; whether there is data; what runs, what the template shows, and where an operation leads.
    for (wanted, initialized, [runs, shown, target], too_old) in [
        ("2.7.2", false, nothing, None),
        ("2.4.4", false, nothing, Some("2.4.4")),
        ("2.7.2", false, [Some("2.4.4"), None, None], None),
        ("2.7.2", true, nothing, None),
        ("2.7.2", true, [Some("2.7.1"), None, None], None),
        ("2.7.2", true, [Some("2.4.4"), None, None], Some("2.4.4")),
        // A rollout brought it there, or spec.version was lowered, which changes nothing.
        ("2.4.4", true, [Some("2.7.1"), Some("2.7.1"), None], None),
        // An upgrade, before and after its first server.
        ("2.7.2", true, [Some("2.5.0"), Some("2.5.0"), Some("2.7.2")], None),
        ("2.7.2", true, [Some("2.4.4"), Some("2.7.2"), Some("2.7.2")], Some("2.4.4")),
        // A rollback, before and after the first volume goes, and one that left the servers half restored.
        ("2.7.2", true, [Some("2.7.2"), Some("2.7.2"), Some("2.6.1")], None),
        ("2.7.2", true, [Some("2.7.2"), Some("2.7.2"), Some("2.4.4")], Some("2.4.4")),
        ("2.7.2", true, [Some("2.7.2"), Some("2.4.4"), Some("2.4.4")], Some("2.4.4")),
        ("2.7.2", true, [Some("2.7.2"), Some("2.4.4"), None], Some("2.4.4")),
    ] {
        let directive = shown.map(|version| json!({"version": version, "image": "bao"}));
        let status = json!({"initialized": initialized, "currentVersion": runs,
            "upgrade": {"directive": directive, "target": target}});
        let mut object = cluster(|s| {
            s["audit"] = audit.clone();
            s["version"] = json!(wanted);
        });
        object.status = serde_json::from_value(status.clone()).unwrap();
        match (validate(&object), too_old) {
            (Ok(valid), None) => assert_eq!(valid.audit.len(), 2),
            (Err(Invalid::AuditUnknown { version, .. }), Some(too_old)) => assert_eq!(version, too_old, "{status}"),
            (found, _) => panic!("{wanted} {status}: {found:?}"),
        }
    }
}

#[test]
fn a_device_with_which_nobody_could_lead_is_refused_by_what_to_change() {
    let file = |path: &str| json!({"type": "file", "path": "f", "fileOptions": {"filePath": path}});
    let mode =
        |path: &str, mode: &str| json!({"type": "file", "path": "f", "fileOptions": {"filePath": path, "mode": mode}});
    let socket = |options: Value| json!({"type": "socket", "path": "f", "socketOptions": options});
    let http = |options: Value| json!({"type": "http", "path": "f", "httpOptions": options});
    let free = |options: Value| json!({"type": "file", "path": "f", "options": options});
    for (device, word) in [
        (file("/var/log/audit.log"), "/tmp"),
        (file("/dev/stdout"), "stdout"),
        (file("/openbao/data/logs/audit.log"), "directly"),
        (file("/openbao/data/vault.db"), "OpenBao's data"),
        (file("/openbao/data/raft"), "OpenBao's data"),
        (file("/openbao/data/plugins"), "OpenBao's data"),
        (mode("/tmp/audit.log", "rw"), "octal"),
        (mode("/tmp/audit.log", "+600"), "octal"),
        (mode("/tmp/audit.log", "1777777"), "octal"),
        (mode("/tmp/audit.log", "0000"), "owner"),
        (mode("/tmp/audit.log", "0444"), "owner"),
        (socket(json!({})), "address is missing"),
        (socket(json!({"address": "audit.svc"})), "host:port"),
        (socket(json!({"address": ":9090"})), "host:port"),
        (socket(json!({"address": "audit.svc:0"})), "host:port"),
        (socket(json!({"address": "audit.svc:+90"})), "host:port"),
        (socket(json!({"address": "/run/audit.sock:1", "socketType": "unix"})), "tcp or udp"),
        (socket(json!({"address": "audit.svc:9090", "writeTimeout": "0s"})), "2s"),
        (http(json!({"uri": "audit.svc"})), "https://"),
        (http(json!({"uri": "file:///tmp/uri"})), "https://"),
        (http(json!({"uri": "https://audit.svc/%zz"})), "https://"),
        (http(json!({"uri": "https://audit.logging.svc:84a3/bao"})), "https://"),
        (http(json!({"uri": "https://collector:PORT/"})), "https://"),
        (http(json!({"uri": "https://collector:+80/"})), "https://"),
        (http(json!({"uri": "https://collector:70000/"})), "https://"),
        (http(json!({"uri": "http://[collector]:8080/"})), "https://"),
        (http(json!({"uri": "http://[::1]8080/"})), "https://"),
        (http(json!({"uri": "http://collector/\u{7f}"})), "https://"),
        (http(json!({"uri": "https://a.svc", "headers": {"X-From": "file:///tmp/x"}})), "X-From"),
        (http(json!({"uri": "https://a.svc", "headers": {"X-From": "a\tb"}})), "X-From"),
        (http(json!({"uri": "https://a.svc", "headers": {"X-From": "//a b"}})), "X-From"),
        (http(json!({"uri": "https://a.svc", "headers": {"X-From": [" //a b"]}})), "X-From"),
        (http(json!({"uri": "https://a.svc", "headers": {"X From": "kelp"}})), "X From"),
        (http(json!({"uri": "https://a.svc", "headers": {"X-From": 1}})), "X-From"),
        (http(json!({"uri": "https://a.svc", "headers": ["X-From"]})), "an object"),
        (free(json!({})), "filePath is missing"),
        (free(json!({"file_path": "stdout", "format": "jsonx"})), "json"),
        (free(json!({"file_path": "stdout", "log_raw": "yes"})), "true or false"),
        (free(json!({"file_path": "stdout", "prefix": "@"})), "allowAuditLogPrefixing"),
        (free(json!({"file_path": "stdout", "hmac-accessor": false})), "hmac_accessor"),
        (free(json!({"file_path": "stdout", "address": "a:1"})), "file_path"),
        (free(json!({"file_path": {"a": "b"}})), "must be text"),
        (free(json!("stdout")), "an object"),
        (
            json!({"type": "file", "path": "f", "fileOptions": {"filePath": "stdout"}, "options": {"file_path": "stdout"}}),
            "say it once",
        ),
        (
            json!({"type": "file", "path": "f", "socketOptions": {}, "options": {"file_path": "stdout"}}),
            "socketOptions",
        ),
    ] {
        let refused = refusal(&device);
        assert!(refused.contains(word), "{device}: {refused}");
    }
}

#[test]
fn a_device_that_works_is_not_refused() {
    for device in [
        json!({"type": "file", "path": "f", "fileOptions": {"filePath": "STDOUT", "mode": "0000"}}),
        json!({"type": "file", "path": "f", "fileOptions": {"filePath": "/tmp/audit.log", "mode": "0640"}}),
        json!({"type": "file", "path": "f", "fileOptions": {"filePath": "/openbao/data/audit.log"}}),
        json!({"type": "file", "path": "f", "fileOptions": {"filePath": "/openbao/data/plugins.log"}}),
        json!({"type": "socket", "path": "f", "options": {"address": "[::1]:9090", "socket_type": "udp", "write_timeout": 5}}),
        json!({"type": "http", "path": "f", "options": {"uri": "http://a.svc/x%20y", "headers": "{\"X-From\": [\"a\", \"b\"]}"}}),
        json!({"type": "http", "path": "f", "httpOptions": {"uri": "https://[fd00::7]:8443/bao", "headers": {"X-From": "a//b"}}}),
        json!({"type": "http", "path": "f", "httpOptions": {"uri": "https://[fd00::7]/bao?from=kelp"}}),
        json!({"type": "http", "path": "f", "httpOptions": {"uri": "https://audit.logging.svc:8443/bao"}}),
    ] {
        assert!(read_at("2.7.2", &device).is_ok(), "{device}: {:?}", read_at("2.7.2", &device));
    }
}

#[test]
fn a_prefix_is_taken_where_the_servers_allow_it() {
    let device = json!([{"type": "file", "path": "f", "options": {"file_path": "stdout", "prefix": "@cee: "}}]);
    let mut spec = spec(&device);
    spec.configuration.allow_audit_log_prefixing = Some(true);
    assert!(known_at(&Version::new(2, 7, 2), &spec).is_ok());
}

#[test]
fn what_lets_somebody_in_elsewhere_is_known_by_its_name() {
    let http = |options: Value| serde_json::from_value(json!({"type": "http", "path": "f", "httpOptions": options}));
    for (options, holds) in [
        (json!({"uri": "https://a.svc", "headers": {"Authorization": ["Bearer x"]}}), true),
        (json!({"uri": "https://a.svc", "headers": {"X-Api-Key": "x"}}), true),
        (json!({"uri": "https://me:mine@a.svc"}), true),
        (json!({"uri": "https://a.svc/?access_token=x"}), true),
        (json!({"uri": "https://a.svc/token?from=kelp", "headers": {"Content-Type": "application/json"}}), false),
    ] {
        let device: AuditDevice = http(options.clone()).unwrap();
        assert_eq!(holds_a_credential(&device), holds, "{options}");
    }
}
