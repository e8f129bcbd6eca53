//! `plugin "<type>" "<name>" { … }`: the plugins of `spec.plugins`, as the configuration of every server declares them. Pure.
//!
//! OpenBao registers them when a server becomes the leader, and takes those out of its catalog that are not declared any more.
//! Whatever it cannot carry out keeps that server from leading, and so one server after the other, while those that follow hardly
//! look. Hence two rules. What would fail by what the spec says is refused here, before a server restarts with it. And a server that
//! has not got its plugins does not start, so that the first one that is restarted stops the others: OpenBao itself ends over one that
//! it cannot fetch, and one that lies in the image is compared with its sum before OpenBao begins.

use super::{FETCHED_PLUGIN_DIR, PLUGIN_DIR};
use crate::{
    api::{OpenBaoClusterSpec, Plugin},
    service::cluster::{hcl::Body, invalid::Invalid},
};
use semver::Version;

/// The first version whose configuration can declare plugins.
const SINCE: (u64, u64) = (2, 5);
/// Where a registry is asked that is named without a port.
const HTTPS: u16 = 443;
/// Variables that a server has itself. OpenBao gives a plugin its own environment last, so its own value wins.
const OF_SERVERS: [&str; 12] = [
    "BAO_ADDR",
    "BAO_API_ADDR",
    "BAO_CACERT",
    "BAO_CLUSTER_ADDR",
    "BAO_K8S_NAMESPACE",
    "BAO_K8S_POD_NAME",
    "BAO_RAFT_NODE_ID",
    "DOCKER_CONFIG",
    "HOME",
    "PATH",
    "POD_NAME",
    "TMPDIR",
];
/// Beginnings of variables that Kubernetes, or the way in which plugins are run, sets.
const SET_BY_OTHERS: [&str; 3] = ["HOSTNAME", "KUBERNETES_", "PLUGIN_"];
/// What lets somebody in is called so.
const LETS_IN: [&str; 3] = ["auth", "authorization", "pass"];
/// The same, also as the end of a longer word such as `PGPASSWORD`.
const LETS_IN_AT_THE_END: [&str; 9] =
    ["cookie", "credential", "credentials", "key", "passphrase", "passwd", "password", "secret", "token"];
/// A value that begins so says where a credential lies, and not what it is.
const PLACES: [&str; 6] = ["/etc/", "/openbao/", "/run/", "/tmp/", "/usr/", "/var/"];

/// The folder of plugins that servers are told of; `None` where no plugin is declared.
pub fn folder(spec: &OpenBaoClusterSpec) -> Option<&'static str> {
    let first = spec.plugins.first()?;
    Some(if first.image.is_some() { FETCHED_PLUGIN_DIR } else { PLUGIN_DIR })
}

/// Whether servers fetch any.
pub fn are_fetched(spec: &OpenBaoClusterSpec) -> bool {
    spec.plugins.iter().any(|plugin| plugin.image.is_some())
}

/// `plugin_auto_download`: without it a plugin that is to be fetched would never be.
pub fn auto_download(spec: &OpenBaoClusterSpec) -> Option<bool> {
    let said = spec.configuration.plugin.as_ref().and_then(|plugin| plugin.auto_download);
    said.or_else(|| are_fetched(spec).then_some(true))
}

/// `plugin_auto_register`: without it OpenBao reads the stanzas and does nothing with them.
pub fn auto_register(spec: &OpenBaoClusterSpec) -> Option<bool> {
    let said = spec.configuration.plugin.as_ref().and_then(|plugin| plugin.auto_register);
    said.or_else(|| (!spec.plugins.is_empty()).then_some(true))
}

/// Adds one stanza for each plugin, in the order of the spec.
pub fn declare(body: Body, plugins: &[Plugin]) -> Body {
    plugins
        .iter()
        .fold(body, |body, plugin| body.block("plugin", &[plugin.type_.as_str(), plugin.name.as_str()], stanza(plugin)))
}

fn stanza(plugin: &Plugin) -> Body {
    let list = |items: &[String]| (!items.is_empty()).then(|| items.to_vec());
    Body::new()
        .maybe("image", plugin.image.as_ref())
        .maybe("command", plugin.command.as_ref())
        .set("version", &plugin.version)
        .maybe("binary_name", plugin.image.as_ref().map(|_| &plugin.binary_name))
        .set("sha256sum", sum(plugin))
        .maybe("args", list(&plugin.args))
        .maybe("env", list(&plugin.env))
}

/// OpenBao names a folder by it, and looks for that in small letters.
fn sum(plugin: &Plugin) -> String {
    plugin.sha256sum.to_ascii_lowercase()
}

/// The program that the container of a server starts with. Plugins that lie in the image are compared with their sums first: OpenBao
/// would lead without one that is another, and not lead at all without one that is missing, long after this server is back. Names of
/// files need no quotes: see [`known_at`].
pub fn start(plugins: &[Plugin]) -> Vec<String> {
    let mut checks: Vec<String> = plugins
        .iter()
        .filter_map(|plugin| Some(format!("{}  {PLUGIN_DIR}/{}", sum(plugin), plugin.command.as_ref()?)))
        .map(|line| format!("echo '{line}' | sha256sum -c -"))
        .collect();
    if checks.is_empty() {
        return vec!["bao".to_owned()];
    }
    checks.push(r#"exec "$0" "$@""#.to_owned());
    vec!["sh".to_owned(), "-c".to_owned(), checks.join(" && "), "bao".to_owned()]
}

/// The Secret with what the registry asks for. OpenBao reads one file, so it is the first that images are pulled with.
pub fn registry_secret(spec: &OpenBaoClusterSpec) -> Option<&str> {
    spec.image_pull_secrets.first().filter(|_| are_fetched(spec)).map(|secret| secret.name.as_str())
}

/// The ports at which registries are asked.
pub fn registry_ports(spec: &OpenBaoClusterSpec) -> impl Iterator<Item = u16> {
    spec.plugins.iter().filter_map(|plugin| plugin.image.as_deref()).map(|image| {
        let host = image.split_once('/').map_or("", |(host, _)| host);
        host.rsplit_once(':').and_then(|(_, port)| port.parse().ok()).unwrap_or(HTTPS)
    })
}

/// Whether a plugin's settings would put into a `ConfigMap` what lets somebody in elsewhere.
pub fn holds_a_credential(plugin: &Plugin) -> bool {
    let env = plugin.env.iter().filter_map(|text| text.split_once('='));
    let next = plugin.args.iter().skip(1).map(String::as_str).chain([""]);
    let args = plugin.args.iter().zip(next).filter(|(arg, _)| arg.starts_with('-'));
    // A value may stand in the argument behind its name.
    let args =
        args.map(|(arg, next)| arg.split_once('=').unwrap_or((arg, if next.starts_with('-') { "" } else { next })));
    let is_one = |(name, value): (&str, &str)| {
        let is_place = PLACES.iter().any(|place| value.starts_with(place));
        is_named_so(name) && !value.is_empty() && !is_place || has_a_password(value)
    };
    env.chain(args).any(is_one)
}

/// The last word of a name says what it is: `API_KEY` and `clientSecret` are credentials, `KEY_TYPE` and `TOKEN_FILE` are not.
fn is_named_so(name: &str) -> bool {
    let name = name.trim_end_matches(|char: char| !char.is_ascii_alphabetic());
    let last = name.rsplit(|char: char| !char.is_ascii_alphanumeric()).next().unwrap_or_default();
    let starts = last.char_indices().rev().find(|(at, char)| {
        char.is_ascii_uppercase()
            && last.get(..*at).is_some_and(|before| before.ends_with(|char: char| char.is_ascii_lowercase()))
    });
    let word = starts.and_then(|(at, _)| last.get(at..)).unwrap_or(last).to_ascii_lowercase();
    LETS_IN.contains(&word.as_str()) || LETS_IN_AT_THE_END.iter().any(|end| word.ends_with(end))
}

/// An address with a name and a password in it.
fn has_a_password(value: &str) -> bool {
    let Some((_, rest)) = value.split_once("://") else { return false };
    let host = rest.split(['/', '?']).next().unwrap_or_default();
    host.rsplit_once('@').is_some_and(|(who, _)| who.contains(':'))
}

/// Checks `spec.plugins` for servers of which the `oldest` is this one: one that does not know the stanza serves without what is
/// mounted with them.
pub fn known_at(oldest: &Version, spec: &OpenBaoClusterSpec) -> Result<(), Invalid> {
    if !spec.plugins.is_empty() && (oldest.major, oldest.minor) < SINCE {
        let since = format!("{}.{}.0", SINCE.0, SINCE.1);
        return Err(Invalid::PluginsUnknown { since, version: oldest.to_string() });
    }
    spec.plugins
        .iter()
        .try_for_each(|plugin| read(plugin, spec).map_err(|cause| Invalid::Plugin { name: plugin.name.clone(), cause }))
}

fn read(plugin: &Plugin, spec: &OpenBaoClusterSpec) -> Result<(), String> {
    match (&plugin.image, &plugin.command) {
        (Some(_), None) if auto_download(spec) == Some(false) => {
            return Err("nobody would fetch its image: take spec.configuration.plugin.autoDownload out".to_owned());
        }
        (None, Some(_)) if are_fetched(spec) => {
            return Err(format!(
                "it lies in the servers' image, and another plugin has an image of its own. OpenBao has one folder for both: the one in \
                 {PLUGIN_DIR} cannot be written to. Give each plugin an image, or put all of them into spec.image"
            ));
        }
        (None, Some(command)) => check_file(command, plugin, &spec.plugins)?,
        (Some(_), None) => {}
        _ => return Err("it needs either image or command".to_owned()),
    }
    plugin.env.iter().try_for_each(|text| check_variable(text))
}

/// Whether the name is one of a file, and two plugins that run it want the same of it.
fn check_file(command: &str, plugin: &Plugin, all: &[Plugin]) -> Result<(), String> {
    let is_plain = |char: char| char.is_ascii_alphanumeric() || "._-".contains(char);
    if command.is_empty() || command.starts_with('.') || !command.chars().all(is_plain) {
        return Err(format!("command {command} must be the name of a file in {PLUGIN_DIR}"));
    }
    let is_another = |other: &&Plugin| other.command.as_deref() == Some(command) && sum(other) != sum(plugin);
    match all.iter().find(is_another) {
        Some(other) => Err(format!(
            "{} {} runs the same file {command} and gives it another sha256sum: each version needs a file of its own",
            other.name, other.version
        )),
        None => Ok(()),
    }
}

fn check_variable(text: &str) -> Result<(), String> {
    let Some((name, _)) = text.split_once('=').filter(|(name, _)| !name.is_empty()) else {
        return Err("each entry of env must be NAME=value".to_owned());
    };
    if OF_SERVERS.contains(&name) || SET_BY_OTHERS.iter().any(|set| name.starts_with(set)) {
        return Err(format!("env sets {name}, which every server has itself, and its own value wins: take it out"));
    }
    Ok(())
}

#[cfg(test)]
#[path = "plugins_tests.rs"]
mod tests;
