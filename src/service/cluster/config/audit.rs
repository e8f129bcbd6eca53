//! `audit "<type>" "<path>" { … }`: the devices of `spec.audit`, as the configuration of every server declares them. Pure.
//!
//! OpenBao carries them out when a server becomes the leader: it makes those that are new, then takes away those that are not
//! declared any more. Whatever it cannot carry out keeps that server from leading, and so one server after the other. Hence four
//! rules. A device that would fail is refused here, before a server restarts with it. One that needs another host is not tried out
//! when it is made. It never stands alone: what a server does when it sets itself up is on record too, and is not done twice. And as
//! OpenBao refuses a device that is not what it was, be it since the last start or since the snapshot that was restored, each
//! device's path there tells its settings: another one is made before the one of before goes.

use super::{DATA_DIR, FETCHED_PLUGIN_DIR, is_writable};
use crate::{
    api::{AuditDevice, AuditType, OpenBaoClusterSpec, duration},
    service::cluster::{hcl::Body, invalid::Invalid},
};
use semver::Version;
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::{collections::BTreeMap, net::Ipv6Addr};

/// OpenBao's own names of options, with their values.
type Options = BTreeMap<String, String>;

/// What every kind of device takes.
const COMMON: [&str; 6] = ["elide_list_responses", "format", "hmac_accessor", "log_raw", "prefix", "skip_test"];
/// Those of them that are switches.
const SWITCHES: [&str; 4] = ["elide_list_responses", "hmac_accessor", "log_raw", "skip_test"];
/// Names of OpenBao's own in its data folder begin so. A device that wrote there would destroy the data.
const OWN_FILES: [&str; 4] = ["vault.db", "raft", "node-id", "lost+found"];
/// How long one write to a socket may take, where the spec does not say: the other devices, and all requests behind it, wait for it.
const WRITE_TIMEOUT: &str = "500ms";
/// A header, or a part of an address, whose name holds one of these words lets somebody in.
const SECRET_WORDS: [&str; 6] = ["auth", "cookie", "key", "password", "secret", "token"];

/// A device that servers can make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    kind: &'static str,
    name: String,
    description: Option<String>,
    options: Options,
}

impl Device {
    /// Where it stands in OpenBao: what the spec calls it, and a digest of all the rest. Without a / inside, as OpenBao makes no device
    /// under the path of another one, and somebody may have made `file/` through the API; the digest is then of the name too.
    pub fn path(&self) -> String {
        let plain = self.name.replace('/', "-");
        let name = if plain == self.name { String::new() } else { format!("{}\n", self.name) };
        let whole = Sha256::digest(format!("{}\n{name}{}", self.kind, self.body()));
        let first: [u8; 4] = std::array::from_fn(|at| whole[at]);
        format!("{plain}-{:08x}/", u32::from_be_bytes(first))
    }

    /// Whether it writes secrets and tokens as they are into the log of the pod.
    pub fn shows_secrets_in_log(&self) -> bool {
        let is = |key: &str, text: &str| self.options.get(key).is_some_and(|value| value.eq_ignore_ascii_case(text));
        is("file_path", "stdout") && is("log_raw", "true")
    }

    fn body(&self) -> Body {
        let options = self.options.iter().fold(Body::new(), |body, (key, value)| body.set(key, value));
        Body::new().maybe("description", self.description.as_ref()).block("options", &[], options)
    }
}

/// Adds one stanza for each device, in the order of the spec.
pub fn declare(body: Body, devices: &[Device]) -> Body {
    devices.iter().fold(body, |body, device| body.block("audit", &[device.kind, &device.path()], device.body()))
}

/// Reads `spec.audit` for servers of which the `oldest` is this one: one that does not know the stanza warns and serves without any
/// record, and one that does not know the type never leads.
pub fn known_at(oldest: &Version, spec: &OpenBaoClusterSpec) -> Result<Vec<Device>, Invalid> {
    let prefixing = spec.configuration.allow_audit_log_prefixing == Some(true);
    let device = |device: &AuditDevice| {
        let (kind, (major, minor)) = (kind(device.type_), since(device.type_));
        if (oldest.major, oldest.minor) < (major, minor) {
            let since = format!("{major}.{minor}.0");
            return Err(Invalid::AuditUnknown { kind, since, version: oldest.to_string() });
        }
        read(device, prefixing).map_err(|cause| Invalid::Audit { path: device.path.clone(), cause })
    };
    spec.audit.iter().map(device).collect()
}

/// Checks that a server that sets itself up has somewhere to write that down, whoever is away. Its only start would end for good. One
/// that did so long ago only answers nobody meanwhile.
pub fn check_first_start(spec: &OpenBaoClusterSpec) -> Result<(), Invalid> {
    match spec.audit.first().filter(|_| !has_a_file(spec)) {
        Some(first) => Err(Invalid::Audit {
            path: first.path.clone(),
            cause: "no device of type file stands beside it. A new server, also the first one of a rollback, has to write down how it \
                    sets itself up, and if no collector takes that, it never starts again: add a device of type file, for example on \
                    stdout"
                .to_owned(),
        }),
        None => Ok(()),
    }
}

/// Whether records go to something that is no other host, if they go anywhere.
pub fn has_a_file(spec: &OpenBaoClusterSpec) -> bool {
    spec.audit.is_empty() || spec.audit.iter().any(|device| device.type_ == AuditType::File)
}

/// Where a device sends its records, if that is another host: by which protocol, and to which address.
pub fn collector(device: &AuditDevice) -> Option<(&'static str, String)> {
    let mut options = options(device).ok()?;
    let is_udp = options.get("socket_type").is_some_and(|kind| kind.starts_with("udp"));
    let address = match device.type_ {
        AuditType::Socket => options.remove("address"),
        AuditType::Http => options.remove("uri"),
        AuditType::File | AuditType::Syslog => None,
    };
    Some((if is_udp { "UDP" } else { "TCP" }, address?))
}

/// Whether a device's settings would put into a `ConfigMap` what lets somebody in elsewhere.
pub fn holds_a_credential(device: &AuditDevice) -> bool {
    let Ok(options) = options(device) else { return false };
    let headers: BTreeMap<String, Value> =
        options.get("headers").and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
    let uri = options.get("uri").and_then(|uri| uri.parse::<http::Uri>().ok());
    let in_uri = uri.is_some_and(|uri| {
        let user = uri.authority().is_some_and(|authority| authority.as_str().contains('@'));
        let mut query = uri.query().unwrap_or_default().split('&');
        user || query.any(|part| is_secret(part.split('=').next().unwrap_or_default()))
    });
    in_uri || headers.keys().any(|name| is_secret(name))
}

/// Whether a header, or a part of an address, is called like what lets somebody in.
fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    SECRET_WORDS.iter().any(|word| name.contains(word))
}

fn kind(type_: AuditType) -> &'static str {
    match type_ {
        AuditType::File => "file",
        AuditType::Syslog => "syslog",
        AuditType::Socket => "socket",
        AuditType::Http => "http",
    }
}

/// The first version whose configuration can declare such a device.
fn since(type_: AuditType) -> (u64, u64) {
    match type_ {
        AuditType::File | AuditType::Syslog | AuditType::Socket => (2, 4),
        AuditType::Http => (2, 5),
    }
}

/// The options that only this kind of device takes.
fn own_options(type_: AuditType) -> &'static [&'static str] {
    match type_ {
        AuditType::File => &["file_path", "mode"],
        AuditType::Syslog => &["facility", "tag"],
        AuditType::Socket => &["address", "socket_type", "write_timeout"],
        AuditType::Http => &["headers", "uri"],
    }
}

fn read(device: &AuditDevice, prefixing: bool) -> Result<Device, String> {
    let mut options = options(device)?;
    check_common(&options, prefixing)?;
    match device.type_ {
        AuditType::File => check_file(&options)?,
        AuditType::Socket => check_socket(&options)?,
        AuditType::Http => check_http(&options)?,
        // With one no server is rendered: see `supported`.
        AuditType::Syslog => {}
    }
    // The test happens while nobody leads, and who listens there may be away. A later start does without it too.
    if matches!(device.type_, AuditType::Socket | AuditType::Http) {
        options.entry("skip_test".to_owned()).or_insert_with(|| "true".to_owned());
    }
    if device.type_ == AuditType::Socket {
        options.entry("write_timeout".to_owned()).or_insert_with(|| WRITE_TIMEOUT.to_owned());
    }
    Ok(Device {
        kind: kind(device.type_),
        name: device.path.trim_end_matches('/').to_owned(),
        description: device.description.clone(),
        options,
    })
}

/// The options of the block beside the type, and the free ones, in OpenBao's spelling.
fn options(device: &AuditDevice) -> Result<Options, String> {
    let (file, http) = (device.file_options.as_ref(), device.http_options.as_ref());
    let (socket, syslog) = (device.socket_options.as_ref(), device.syslog_options.as_ref());
    let blocks = [
        ("fileOptions", file.is_some(), AuditType::File),
        ("httpOptions", http.is_some(), AuditType::Http),
        ("socketOptions", socket.is_some(), AuditType::Socket),
        ("syslogOptions", syslog.is_some(), AuditType::Syslog),
    ];
    if let Some((block, ..)) = blocks.into_iter().find(|(_, present, of)| *present && *of != device.type_) {
        return Err(format!("{block} does not belong to type {}: take it out", kind(device.type_)));
    }
    let sent = http.and_then(|http| http.headers.as_ref()).map(headers).transpose()?;
    let typed = [
        ("file_path", file.map(|file| &file.file_path)),
        ("mode", file.and_then(|file| file.mode.as_ref())),
        ("uri", http.map(|http| &http.uri)),
        ("headers", sent.as_ref()),
        ("address", socket.and_then(|socket| socket.address.as_ref())),
        ("socket_type", socket.and_then(|socket| socket.socket_type.as_ref())),
        ("write_timeout", socket.and_then(|socket| socket.write_timeout.as_ref())),
        ("facility", syslog.and_then(|syslog| syslog.facility.as_ref())),
        ("tag", syslog.and_then(|syslog| syslog.tag.as_ref())),
    ];
    let mut all: Options =
        typed.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?.clone()))).collect();
    let free = match &device.options {
        None => return Ok(all),
        Some(Value::Object(free)) => free,
        Some(_) => return Err("options must be an object".to_owned()),
    };
    for (key, value) in free {
        let known = || own_options(device.type_).iter().chain(&COMMON).copied();
        if !known().any(|option| option == key) {
            let names: Vec<&str> = known().collect();
            let (kind, names) = (kind(device.type_), names.join(", "));
            return Err(format!("options.{key} is nothing that a device of type {kind} takes; it takes {names}"));
        }
        let text = match value {
            _ if key == "headers" => headers(value)?,
            Value::String(text) => text.clone(),
            Value::Bool(_) | Value::Number(_) => value.to_string(),
            _ => return Err(format!("options.{key} must be text, a number, true or false")),
        };
        if all.insert(key.clone(), text).is_some() {
            return Err(format!("options.{key} is said beside it too: say it once"));
        }
    }
    Ok(all)
}

/// OpenBao wants headers as JSON in which each name has a list of values. It takes each value for an address, which may name a file
/// or a variable of the server, and ends over what it cannot read so.
fn headers(value: &Value) -> Result<String, String> {
    let parsed: Value;
    let value = match value {
        Value::String(text) => {
            parsed = serde_json::from_str(text).map_err(|error| format!("headers are no JSON: {error}"))?;
            &parsed
        }
        other => other,
    };
    let Value::Object(map) = value else {
        return Err("headers must be an object of names, each with its value or a list of values".to_owned());
    };
    let mut all: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (name, values) in map {
        let values: Option<Vec<&str>> = match values {
            Value::String(one) => Some(vec![one.as_str()]),
            Value::Array(list) => list.iter().map(Value::as_str).collect(),
            _ => None,
        };
        let values = values.ok_or_else(|| format!("header {name} must have a text, or a list of texts"))?;
        let is_sound = |value: &&str| {
            let is_plain = !value.contains([':', '%', '\t']) && !value.trim_start().starts_with("//");
            is_plain && http::HeaderValue::from_str(value).is_ok()
        };
        if http::HeaderName::from_bytes(name.as_bytes()).is_err() || !values.iter().all(is_sound) {
            return Err(format!(
                "header {name} cannot be sent: in its value may be neither : nor % nor a tab or a line break, nor // at its beginning"
            ));
        }
        all.insert(name, values);
    }
    serde_json::to_string(&all).map_err(|error| error.to_string())
}

fn check_common(options: &Options, prefixing: bool) -> Result<(), String> {
    if options.get("format").is_some_and(|format| format != "json") {
        return Err("options.format can only be json".to_owned());
    }
    if options.contains_key("prefix") && !prefixing {
        return Err("options.prefix needs spec.configuration.allowAuditLogPrefixing: true".to_owned());
    }
    let is_odd = |key: &&str| options.get(*key).is_some_and(|text| text != "true" && text != "false");
    match SWITCHES.into_iter().find(is_odd) {
        Some(key) => Err(format!("options.{key} must be true or false")),
        None => Ok(()),
    }
}

fn check_file(options: &Options) -> Result<(), String> {
    let path = options.get("file_path").ok_or("fileOptions.filePath is missing")?;
    let is_file = !path.eq_ignore_ascii_case("stdout") && !path.eq_ignore_ascii_case("discard");
    if is_file && !is_writable(path) {
        return Err(format!(
            "a server can write to stdout, and to a file directly in /tmp or in {DATA_DIR}, not to {path}: OpenBao would have no \
             leader any more"
        ));
    }
    let inside = path.strip_prefix(DATA_DIR).and_then(|rest| rest.strip_prefix('/'));
    if path == FETCHED_PLUGIN_DIR || inside.is_some_and(|name| OWN_FILES.iter().any(|own| name.starts_with(own))) {
        return Err(format!(
            "{path} is, or may be, a file of OpenBao's data: choose another name, for example audit.log"
        ));
    }
    let Some(mode) = options.get("mode") else { return Ok(()) };
    let is_octal = mode.chars().all(|digit| digit.is_digit(8));
    let bits = u32::from_str_radix(mode, 8).ok().filter(|bits| is_octal && *bits <= 0o777);
    let bits = bits.ok_or_else(|| format!("mode {mode} must be an octal number up to 0777, for example 0640"))?;
    // A server that starts again opens the file anew; and with 0000 it makes none.
    if is_file && bits & 0o200 == 0 {
        return Err(format!(
            "with mode {mode} a server could not write to its own file: let the owner write, as 0600 does"
        ));
    }
    Ok(())
}

fn check_socket(options: &Options) -> Result<(), String> {
    let address = options.get("address").ok_or("socketOptions.address is missing")?;
    let (host, port) = address.rsplit_once(':').unwrap_or_default();
    if host.is_empty() || !is_port(port) {
        return Err(format!(
            "socketOptions.address must be host:port, for example audit.logging.svc:9090, not {address}"
        ));
    }
    let kind = options.get("socket_type").map_or("tcp", String::as_str);
    if !["tcp", "tcp4", "tcp6", "udp", "udp4", "udp6"].contains(&kind) {
        return Err(format!(
            "socketOptions.socketType must be tcp or udp, not {kind}: in a server's container nobody else listens"
        ));
    }
    match options.get("write_timeout") {
        Some(text) if !is_timeout(text) => {
            Err(format!("socketOptions.writeTimeout must be a time to wait such as 2s, not {text}"))
        }
        _ => Ok(()),
    }
}

/// A number of seconds, or one with units that OpenBao knows too; with none at all every write fails.
fn is_timeout(text: &str) -> bool {
    match text.parse::<u32>() {
        Ok(seconds) => seconds > 0,
        Err(_) => !text.contains('d') && duration::parse(text).is_ok_and(|time| !time.is_zero()),
    }
}

fn check_http(options: &Options) -> Result<(), String> {
    let uri = options.get("uri").ok_or("httpOptions.uri is missing")?;
    let is_address = uri.parse::<http::Uri>().is_ok_and(|parsed| {
        matches!(parsed.scheme_str(), Some("http" | "https"))
            && parsed.host().is_some_and(|host| !host.is_empty())
            && parsed.authority().is_some_and(|authority| is_host_and_port(authority.as_str()))
    });
    let is_hex = |rest: &str| rest.len() >= 2 && rest.bytes().take(2).all(|byte| byte.is_ascii_hexdigit());
    if is_address && uri.split('%').skip(1).all(is_hex) && !uri.contains(char::is_control) {
        return Ok(());
    }
    Err("httpOptions.uri must be a URL with http:// or https://, for example https://audit.logging.svc:8443/bao"
        .to_owned())
}

/// Whether OpenBao, which reads addresses by other rules than we do, finds a host there and, where anything follows it, a port: over
/// any other it makes no device.
fn is_host_and_port(authority: &str) -> bool {
    let (is_host, rest) = match authority.strip_prefix('[') {
        Some(inner) => match inner.split_once(']') {
            Some((address, rest)) => (address.parse::<Ipv6Addr>().is_ok(), rest),
            None => (false, ""),
        },
        None => (!authority.contains(['[', ']']), authority.find(':').map_or("", |at| &authority[at..])),
    };
    is_host && (rest.is_empty() || rest.strip_prefix(':').is_some_and(is_port))
}

fn is_port(text: &str) -> bool {
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
    is_number && text.parse::<u16>().is_ok_and(|port| port > 0)
}

#[cfg(test)]
#[path = "audit_tests.rs"]
mod tests;
