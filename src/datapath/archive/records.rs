//! `state.bin`: records of a varint length and a protobuf message (1: key, 2: value), keys strictly ascending. Fed in
//! pieces of any size; keys are looked at, values are passed over (they are ciphertext) but for the seal's description.

use std::collections::{BTreeMap, BTreeSet};

use semver::Version;
use serde::Deserialize;

use super::error::ArchiveError;
use super::inspection::SealInfo;

/// The database's own limit for a key; a longer one cannot be written by a server.
const MAX_KEY: u64 = 32_768;
/// The database's own limit for a value.
const MAX_VALUE: u64 = 2_147_483_646;
/// The seal's description is about a hundred bytes of JSON.
const MAX_CAPTURE: u64 = 64 * 1024;
/// Places counted one by one; the manifest stays small even with thousands of mounts.
const MAX_PLACES: usize = 2048;
const OTHER_PLACES: &str = "(other)";
const VERSION_PREFIX: &str = "core/versions/";
const SEAL_CONFIG: &str = "core/seal-config";

/// Keys without any of which a restored server never comes up, whatever the seal. A trailing slash stands for "one or
/// more below"; alternatives are what older versions call the same thing.
const CORE_KEYS: &[&[&str]] = &[
    &[SEAL_CONFIG],
    &["core/keyring"],
    &["core/root-key", "core/master"],
    &["core/hsm/barrier-unseal-keys"],
    &["core/mounts/", "core/mounts"],
    &["core/auth/", "core/auth"],
    &[VERSION_PREFIX],
];

/// What the keys of a state tell.
#[derive(Debug, Default)]
pub(super) struct Contents {
    pub seal: SealInfo,
    pub versions: Vec<String>,
    pub keys_total: u64,
    pub keys_per_mount: BTreeMap<String, u64>,
}

#[derive(Debug, Default)]
pub(super) struct Records {
    step: Step,
    varint: Varint,
    /// Bytes fed so far, for messages.
    at: u64,
    /// Bytes of the current record that are still to come.
    left: u64,
    key: Vec<u8>,
    previous: Vec<u8>,
    has_value: bool,
    capture: Option<Vec<u8>>,
    seal_config: Option<Vec<u8>>,
    core_seen: [bool; CORE_KEYS.len()],
    versions: BTreeSet<String>,
    place: String,
    place_count: u64,
    places: BTreeMap<String, u64>,
    total: u64,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Step {
    #[default]
    Length,
    Tag,
    KeyLength,
    Key(u64),
    ValueLength,
    Value(u64),
    UnknownVarint,
    UnknownLength,
    Unknown(u64),
}

#[derive(Debug, Default)]
struct Varint {
    value: u64,
    shift: u32,
}

impl Varint {
    fn push(&mut self, byte: u8) -> Result<Option<u64>, &'static str> {
        let bits = u64::from(byte & 0x7f);
        if self.shift > 63 || (self.shift == 63 && bits > 1) {
            return Err("a number is longer than 64 bits");
        }
        self.value |= bits << self.shift;
        self.shift += 7;
        if byte & 0x80 != 0 {
            return Ok(None);
        }
        let value = self.value;
        *self = Self::default();
        Ok(Some(value))
    }

    const fn is_empty(&self) -> bool {
        self.shift == 0
    }
}

impl Records {
    pub(super) fn feed(&mut self, mut chunk: &[u8]) -> Result<(), ArchiveError> {
        while !chunk.is_empty() {
            let used = self.advance(chunk).map_err(|what| ArchiveError::State { at: self.at, what })?;
            self.at += used as u64;
            chunk = &chunk[used..];
        }
        Ok(())
    }

    /// Takes one step and says how many bytes it used (at least one).
    fn advance(&mut self, chunk: &[u8]) -> Result<usize, &'static str> {
        match self.step {
            Step::Key(n) | Step::Value(n) | Step::Unknown(n) => {
                let used = usize::try_from(n).unwrap_or(usize::MAX).min(chunk.len());
                let piece = &chunk[..used];
                self.left -= used as u64;
                let rest = n - used as u64;
                match self.step {
                    Step::Key(_) => {
                        self.key.extend_from_slice(piece);
                        self.step = Step::Key(rest);
                        if rest == 0 {
                            self.key_done()?;
                        }
                    }
                    Step::Value(_) => {
                        if let Some(capture) = &mut self.capture {
                            capture.extend_from_slice(piece);
                        }
                        self.step = Step::Value(rest);
                    }
                    _ => self.step = Step::Unknown(rest),
                }
                if rest == 0 {
                    self.field_done()?;
                }
                Ok(used)
            }
            Step::Length => {
                if let Some(length) = self.varint.push(chunk[0])? {
                    if length == 0 {
                        return Err("an empty record");
                    }
                    if length > MAX_KEY + MAX_VALUE + 64 {
                        return Err("a record is longer than a server can store");
                    }
                    self.left = length;
                    self.step = Step::Tag;
                    self.key.clear();
                    self.has_value = false;
                }
                Ok(1)
            }
            step => {
                self.left = self.left.checked_sub(1).ok_or("a field reaches beyond its record")?;
                if let Some(number) = self.varint.push(chunk[0])? {
                    self.number(step, number)?;
                } else if self.left == 0 {
                    return Err("a field reaches beyond its record");
                }
                Ok(1)
            }
        }
    }

    /// A varint within a record is complete.
    fn number(&mut self, step: Step, number: u64) -> Result<(), &'static str> {
        let fits = |n: u64, left: u64| if n <= left { Ok(n) } else { Err("a field reaches beyond its record") };
        self.step = match step {
            Step::Tag => match (number >> 3, number & 7) {
                (1, 2) if self.key.is_empty() => Step::KeyLength,
                (1, 2) => return Err("a record with two keys"),
                (2, 2) if self.has_value => return Err("a record with two values"),
                (2, 2) if self.key.is_empty() => return Err("a value before its key"),
                (2, 2) => Step::ValueLength,
                (0..=2, _) => return Err("a field of the wrong type"),
                // Fields that a later version may add: passed over, as the server does.
                (_, 0) => Step::UnknownVarint,
                (_, 1) => Step::Unknown(fits(8, self.left)?),
                (_, 2) => Step::UnknownLength,
                (_, 5) => Step::Unknown(fits(4, self.left)?),
                _ => return Err("a field of an unknown type"),
            },
            Step::KeyLength if number == 0 => return Err("an empty key"),
            Step::KeyLength if number > MAX_KEY => return Err("a key is longer than a server can store"),
            Step::KeyLength => Step::Key(fits(number, self.left)?),
            Step::ValueLength if number > MAX_VALUE => return Err("a value is longer than a server can store"),
            Step::ValueLength => {
                self.has_value = true;
                let captured = self.key == SEAL_CONFIG.as_bytes();
                if captured && number > MAX_CAPTURE {
                    return Err("the seal's description is too long");
                }
                self.capture = captured.then(Vec::new);
                Step::Value(fits(number, self.left)?)
            }
            Step::UnknownLength => Step::Unknown(fits(number, self.left)?),
            _ => Step::Unknown(0),
        };
        if matches!(self.step, Step::Value(0) | Step::Unknown(0)) {
            self.field_done()?;
        } else if self.left == 0 {
            return Err("a field reaches beyond its record");
        }
        Ok(())
    }

    fn field_done(&mut self) -> Result<(), &'static str> {
        if let Some(captured) = self.capture.take() {
            self.seal_config = Some(captured);
        }
        self.step = Step::Tag;
        if self.left == 0 {
            if self.key.is_empty() {
                return Err("a record without a key");
            }
            std::mem::swap(&mut self.previous, &mut self.key);
            self.step = Step::Length;
        }
        Ok(())
    }

    fn key_done(&mut self) -> Result<(), &'static str> {
        if self.total > 0 && self.key <= self.previous {
            return Err("keys are not in ascending order");
        }
        let key = std::str::from_utf8(&self.key).map_err(|_| "a key is not text")?;
        self.total += 1;
        for (seen, names) in self.core_seen.iter_mut().zip(CORE_KEYS) {
            let named = |name: &&str| if name.ends_with('/') { key.starts_with(name) } else { key == *name };
            *seen = *seen || names.iter().any(named);
        }
        if let Some(version) = key.strip_prefix(VERSION_PREFIX) {
            if Version::parse(version).is_err() || self.versions.len() > 1000 {
                return Err("core/versions holds something that is not a version");
            }
            self.versions.insert(version.to_owned());
        }
        let place = place(key);
        if place == self.place {
            self.place_count += 1;
        } else {
            let place = place.to_owned();
            self.flush_place();
            (self.place, self.place_count) = (place, 1);
        }
        Ok(())
    }

    fn flush_place(&mut self) {
        if self.place_count > 0 {
            let place = std::mem::take(&mut self.place);
            let crowded = self.places.len() >= MAX_PLACES && !self.places.contains_key(&place);
            let name = if crowded { OTHER_PLACES.to_owned() } else { place };
            *self.places.entry(name).or_default() += self.place_count;
            self.place_count = 0;
        }
    }

    /// The state has ended: what it held, or why it is not whole.
    pub(super) fn finish(mut self) -> Result<Contents, ArchiveError> {
        if self.step != Step::Length || !self.varint.is_empty() {
            return Err(ArchiveError::State { at: self.at, what: "it ends in the middle of a record" });
        }
        for (seen, names) in self.core_seen.iter().zip(CORE_KEYS) {
            if !seen {
                return Err(ArchiveError::MissingCoreKey(names.first().copied().unwrap_or_default()));
            }
        }
        self.flush_place();
        let seal = seal_info(self.seal_config.as_deref().unwrap_or_default())?;
        let mut versions: Vec<Version> = self.versions.iter().filter_map(|text| Version::parse(text).ok()).collect();
        versions.sort();
        let versions = versions.iter().map(Version::to_string).collect();
        Ok(Contents { seal, versions, keys_total: self.total, keys_per_mount: self.places })
    }
}

fn seal_info(config: &[u8]) -> Result<SealInfo, ArchiveError> {
    #[derive(Deserialize)]
    struct SealConfig {
        #[serde(rename = "type")]
        kind: String,
        secret_shares: u64,
        secret_threshold: u64,
    }
    let config: SealConfig = serde_json::from_slice(config).map_err(|_| ArchiveError::SealConfig)?;
    if config.kind.is_empty() || config.kind.len() > 64 {
        return Err(ArchiveError::SealConfig);
    }
    let shamir = config.kind == "shamir";
    let only_shamir = |n: u64| shamir.then_some(n);
    Ok(SealInfo {
        shares: only_shamir(config.secret_shares),
        threshold: only_shamir(config.secret_threshold),
        kind: config.kind,
        key_id: None,
    })
}

/// Where a key lives: its mount where it has one, else its first part.
fn place(key: &str) -> &str {
    let end_of = |parts: usize| key.match_indices('/').nth(parts - 1).map(|(at, _)| at + 1);
    let in_namespace = key.starts_with("namespaces/");
    let base = if in_namespace { end_of(2).unwrap_or(key.len()) } else { 0 };
    let rest = &key[base..];
    let parts =
        if rest.starts_with("logical/") || rest.starts_with("auth/") || rest.starts_with("audit/") { 2 } else { 1 };
    let parts = if in_namespace { parts + 2 } else { parts };
    end_of(parts).or_else(|| end_of(1)).map_or(key, |end| &key[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn record(key: &str, value: &[u8]) -> Vec<u8> {
        let varint = |mut n: usize| {
            let mut bytes = Vec::new();
            while n > 127 {
                bytes.push(u8::try_from(n & 127).unwrap() | 128);
                n >>= 7;
            }
            bytes.push(u8::try_from(n).unwrap());
            bytes
        };
        let mut body = [vec![0x0a], varint(key.len()), key.as_bytes().to_vec()].concat();
        if !value.is_empty() {
            body = [body, vec![0x12], varint(value.len()), value.to_vec()].concat();
        }
        [varint(body.len()), body].concat()
    }

    const SEAL: &[u8] = br#"{"type":"static","secret_shares":1,"secret_threshold":1}"#;

    fn minimal() -> Vec<(&'static str, &'static [u8])> {
        vec![
            ("core/auth/a", b"1"),
            ("core/hsm/barrier-unseal-keys", b"1"),
            ("core/keyring", b"1"),
            ("core/mounts/m", b"1"),
            ("core/root-key", b"1"),
            (SEAL_CONFIG, SEAL),
            ("core/versions/2.10.0", b"1"),
            ("core/versions/2.7.2", b"1"),
            ("logical/m/a", b""),
            ("logical/m/b", b"1"),
        ]
    }

    fn read(bytes: &[u8], step: usize) -> Result<Contents, ArchiveError> {
        let mut records = Records::default();
        for chunk in bytes.chunks(step) {
            records.feed(chunk)?;
        }
        records.finish()
    }

    fn state(records: &[(&str, &[u8])]) -> Vec<u8> {
        records.iter().flat_map(|(key, value)| record(key, value)).collect()
    }

    #[test]
    fn the_same_state_reads_the_same_in_pieces_of_any_size() {
        let bytes = state(&minimal());
        for step in [1, 2, 3, 7, 64, bytes.len()] {
            let contents = read(&bytes, step).unwrap();
            assert_eq!(contents.versions, ["2.7.2", "2.10.0"], "versions are ordered as versions, not as text");
            assert_eq!(contents.seal.kind, "static");
            assert_eq!(
                (contents.keys_total, contents.keys_per_mount["logical/m/"], contents.keys_per_mount["core/"]),
                (10, 2, 8)
            );
        }
    }

    #[test]
    fn a_state_without_one_of_its_core_keys_is_refused() {
        for missing in [
            "core/auth/a",
            "core/hsm/barrier-unseal-keys",
            "core/keyring",
            "core/mounts/m",
            "core/root-key",
            SEAL_CONFIG,
        ] {
            let records: Vec<_> = minimal().into_iter().filter(|(key, _)| *key != missing).collect();
            assert!(matches!(read(&state(&records), 9), Err(ArchiveError::MissingCoreKey(_))), "{missing}");
        }
    }

    #[test]
    fn keys_out_of_order_or_twice_are_refused() {
        let mut swapped = minimal();
        swapped.swap(0, 1);
        let mut twice = minimal();
        twice.insert(3, twice[2]);
        for records in [swapped, twice] {
            assert!(matches!(read(&state(&records), 9), Err(ArchiveError::State { .. })));
        }
    }

    #[test]
    fn a_state_cut_within_a_record_is_refused() {
        let bytes = state(&minimal());
        let records = minimal();
        // Cut between two records it is a shorter state: that is what Size in meta.json is compared for.
        let whole: Vec<usize> = (7..records.len()).map(|n| state(&records[..n]).len()).collect();
        for length in 0..bytes.len() {
            assert_eq!(read(&bytes[..length], 16).is_ok(), whole.contains(&length), "{length}");
        }
    }

    #[test]
    fn fields_of_a_later_version_are_passed_over_and_bad_framing_is_not() {
        let mut bytes = state(&minimal());
        let later = [&[0x0a, 1, b'z'][..], &[0x18, 5], &[0x22, 2, 1, 2], &[0x2d, 1, 2, 3, 4]].concat();
        bytes.extend([u8::try_from(later.len()).unwrap()].iter().chain(&later));
        assert_eq!(read(&bytes, 5).unwrap().keys_total, 11);
        for bad in [
            &[0][..],
            &[1, 0x0a],
            &[3, 0x0a, 5, b'z'],
            &[4, 0x12, 0, 0x0a, 0],
            &[6, 0x0a, 1, b'z', 0x0a, 1, b'y'],
            &[2, 0x18, 1],
        ] {
            let mut bytes = state(&minimal());
            bytes.extend(bad);
            assert!(read(&bytes, 5).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_place_is_the_mount_of_a_key() {
        let cases = [
            ("core/lock", "core/"),
            ("logical/u/x/y", "logical/u/"),
            ("auth/u/user/admin", "auth/u/"),
            ("namespaces/n/logical/u/x", "namespaces/n/logical/u/"),
            ("namespaces/n/core/auth/x", "namespaces/n/core/"),
            ("loose", "loose"),
        ];
        for (key, expected) in cases {
            assert_eq!(place(key), expected);
        }
    }
}
