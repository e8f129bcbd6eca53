//! `meta.json` and `SHA256SUMS`: the two small plain entries.

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::Value;

use super::error::{ArchiveError, MetaError};
use super::inspection::RaftMember;

/// Far above what any cluster reaches, far below where the server's own arithmetic on it goes wrong.
const MAX_INDEX: u64 = 1 << 53;

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Meta {
    pub index: u64,
    pub term: u64,
    /// Bytes of state.bin, as announced.
    pub size: u64,
    pub members: Vec<RaftMember>,
}

/// Reads `meta.json` as strictly as the server reads it loosely: Go takes field names in any case and lets the last of
/// two win, so names that differ only in case are refused.
pub(super) fn parse(bytes: &[u8]) -> Result<Meta, ArchiveError> {
    parse_meta(bytes).map_err(ArchiveError::Meta)
}

fn parse_meta(bytes: &[u8]) -> Result<Meta, MetaError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Raw {
        version: u64,
        index: u64,
        term: u64,
        size: u64,
        configuration: RawConfiguration,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct RawConfiguration {
        servers: Vec<RawServer>,
    }
    #[derive(Deserialize)]
    struct RawServer {
        #[serde(rename = "Suffrage")]
        suffrage: u8,
        #[serde(rename = "ID")]
        id: String,
        #[serde(rename = "Address")]
        address: String,
    }
    let fields: Fields = serde_json::from_slice(bytes).map_err(MetaError::Json)?;
    let mut seen = std::collections::BTreeSet::new();
    for (name, _) in &fields.0 {
        if !seen.insert(name.to_ascii_lowercase()) {
            return Err(MetaError::Twice(name.clone()));
        }
    }
    let raw: Raw = serde_json::from_value(Value::Object(fields.0.into_iter().collect())).map_err(MetaError::Json)?;
    if raw.version != 1 {
        return Err(MetaError::Version(raw.version));
    }
    for (field, value) in [("Index", raw.index), ("Term", raw.term)] {
        if value == 0 || value > MAX_INDEX {
            return Err(MetaError::Absurd { field, value });
        }
    }
    if raw.configuration.servers.is_empty() {
        return Err(MetaError::NoMembers);
    }
    let member = |server: RawServer| RaftMember { id: server.id, address: server.address, voter: server.suffrage == 0 };
    let members = raw.configuration.servers.into_iter().map(member).collect();
    Ok(Meta { index: raw.index, term: raw.term, size: raw.size, members })
}

/// The fields of an object in order, duplicates kept.
struct Fields(Vec<(String, Value)>);

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect;
        impl<'de> Visitor<'de> for Collect {
            type Value = Fields;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields, A::Error> {
                let mut fields = Vec::new();
                while let Some(field) = map.next_entry()? {
                    fields.push(field);
                }
                Ok(Fields(fields))
            }
        }
        deserializer.deserialize_map(Collect)
    }
}

/// The two digests of `SHA256SUMS`, as `(meta.json, state.bin)`; the lines come in any order.
pub(super) fn parse_sums(bytes: &[u8]) -> Result<([u8; 32], [u8; 32]), ArchiveError> {
    let text = std::str::from_utf8(bytes).map_err(|_| ArchiveError::Sums)?;
    let (mut meta, mut state) = (None, None);
    for line in text.strip_suffix('\n').ok_or(ArchiveError::Sums)?.split('\n') {
        let (digest, name) = line.split_once("  ").ok_or(ArchiveError::Sums)?;
        let slot = match name {
            "meta.json" => &mut meta,
            "state.bin" => &mut state,
            _ => return Err(ArchiveError::Sums),
        };
        if slot.replace(digest_from_hex(digest).ok_or(ArchiveError::Sums)?).is_some() {
            return Err(ArchiveError::Sums);
        }
    }
    meta.zip(state).ok_or(ArchiveError::Sums)
}

fn digest_from_hex(hex: &str) -> Option<[u8; 32]> {
    let hex = hex.as_bytes();
    let nibble = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let mut digest = [0; 32];
    if hex.len() != 64 {
        return None;
    }
    for (byte, pair) in digest.iter_mut().zip(hex.chunks_exact(2)) {
        *byte = nibble(pair[0])? << 4 | nibble(pair[1])?;
    }
    Some(digest)
}

/// Lower-case hex, as `sha256sum` prints it.
pub(crate) fn to_hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"{"Version":1,"ID":"bolt-snapshot","Index":50,"Term":3,"Peers":null,"Configuration":{"Servers":[{"Suffrage":0,"ID":"n1","Address":"127.0.0.1:8201"}]},"ConfigurationIndex":1,"Size":17910}
"#;

    #[test]
    fn the_meta_data_that_a_server_writes_is_read() {
        let meta = parse(GOOD.as_bytes()).unwrap();
        assert_eq!((meta.index, meta.term, meta.size), (50, 3, 17910));
        assert_eq!(meta.members, [RaftMember { id: "n1".into(), address: "127.0.0.1:8201".into(), voter: true }]);
    }

    #[test]
    fn meta_data_that_a_server_would_choke_on_is_refused() {
        let with = |from: &str, to: &str| parse(GOOD.replace(from, to).as_bytes());
        assert!(matches!(with("\"Version\":1", "\"Version\":2"), Err(ArchiveError::Meta(MetaError::Version(2)))));
        assert!(matches!(with("\"Index\":50", "\"Index\":0"), Err(ArchiveError::Meta(MetaError::Absurd { .. }))));
        assert!(matches!(
            with("\"Index\":50", "\"Index\":18446744073709551615"),
            Err(ArchiveError::Meta(MetaError::Absurd { .. }))
        ));
        assert!(matches!(with("\"Term\":3", "\"Term\":-3"), Err(ArchiveError::Meta(MetaError::Json(_)))));
        assert!(matches!(with("\"Term\":3", "\"Term\":3,\"size\":1"), Err(ArchiveError::Meta(MetaError::Twice(_)))));
        assert!(matches!(with("}\n", "} {}"), Err(ArchiveError::Meta(MetaError::Json(_)))));
        assert!(matches!(
            with(r#"[{"Suffrage":0,"ID":"n1","Address":"127.0.0.1:8201"}]"#, "[]"),
            Err(ArchiveError::Meta(MetaError::NoMembers))
        ));
    }

    #[test]
    fn sums_come_in_any_order_and_once_each() {
        let (a, b) = ("a".repeat(64), "b".repeat(64));
        let meta_first = format!("{a}  meta.json\n{b}  state.bin\n");
        let state_first = format!("{b}  state.bin\n{a}  meta.json\n");
        assert_eq!(parse_sums(meta_first.as_bytes()).unwrap(), ([0xaa; 32], [0xbb; 32]));
        assert_eq!(parse_sums(state_first.as_bytes()).unwrap(), ([0xaa; 32], [0xbb; 32]));
        let bad = [
            format!("{a}  meta.json\n"),
            format!("{meta_first}{a}  meta.json\n"),
            meta_first.trim_end().to_owned(),
            meta_first.replace("  ", " "),
            meta_first.to_uppercase(),
            format!("{meta_first}\n"),
            String::new(),
        ];
        for text in bad {
            assert!(parse_sums(text.as_bytes()).is_err(), "{text:?}");
        }
    }
}
