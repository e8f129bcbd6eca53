//! The reader against snapshots that real servers wrote, whole and harmed.

use std::io::{Read, Write};

use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use proptest::prelude::*;
use sha2::{Digest, Sha256};

use super::*;

const STATIC_272: &[u8] = include_bytes!("../../../tests/datapath/data/static-2.7.2.snap");
const STATIC_261: &[u8] = include_bytes!("../../../tests/datapath/data/static-2.6.1.snap");
const SHAMIR_272: &[u8] = include_bytes!("../../../tests/datapath/data/shamir-2.7.2.snap");

fn inspect(bytes: &[u8]) -> Result<Verified, ArchiveError> {
    read(bytes, Limits::default())
}

fn expand(bytes: &[u8]) -> Vec<u8> {
    let mut tar = Vec::new();
    GzDecoder::new(bytes).read_to_end(&mut tar).unwrap();
    tar
}

fn zip(tar: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(tar).unwrap();
    encoder.finish().unwrap()
}

/// The entries of a snapshot, to be put together again differently.
fn entries(bytes: &[u8]) -> Vec<(String, Vec<u8>)> {
    let mut archive = ::tar::Archive::new(GzDecoder::new(bytes));
    let read = |entry: std::io::Result<::tar::Entry<'_, _>>| {
        let mut entry: ::tar::Entry<'_, GzDecoder<&[u8]>> = entry.unwrap();
        let name = entry.path().unwrap().to_string_lossy().into_owned();
        let mut content = Vec::new();
        entry.read_to_end(&mut content).unwrap();
        (name, content)
    };
    archive.entries().unwrap().map(read).collect()
}

fn pack(entries: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut builder = ::tar::Builder::new(Vec::new());
    for (name, content) in entries {
        let mut header = ::tar::Header::new_ustar();
        header.set_size(content.len() as u64);
        header.set_mode(0o600);
        builder.append_data(&mut header, name, content.as_slice()).unwrap();
    }
    zip(&builder.into_inner().unwrap())
}

/// A snapshot whose entry was changed and whose plain sums were made to fit: what anyone can forge.
fn forged(name: &str, change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut entries = entries(STATIC_272);
    change(&mut entries.iter_mut().find(|(entry, _)| entry == name).unwrap().1);
    let line = |name: &str| {
        let content = &entries.iter().find(|(entry, _)| entry == name).unwrap().1;
        format!("{}  {name}\n", meta::to_hex(&Sha256::digest(content)))
    };
    let sums = line("meta.json") + &line("state.bin");
    entries.iter_mut().find(|(entry, _)| entry == "SHA256SUMS").unwrap().1 = sums.into_bytes();
    pack(&entries)
}

#[test]
fn a_snapshot_of_a_static_seal_tells_who_it_is() {
    let verified = inspect(STATIC_272).unwrap();
    let found = &verified.inspection;
    assert_eq!(found.sha256, meta::to_hex(&Sha256::digest(STATIC_272)));
    assert_eq!((found.size_bytes, found.expanded_bytes, found.state_bytes), (STATIC_272.len() as u64, 22_528, 17_910));
    assert_eq!((found.raft_index, found.raft_term, found.members.len()), (50, 3, 1));
    assert_eq!(
        (found.seal.kind.as_str(), found.seal.key_id.as_deref(), found.seal.shares),
        ("static", Some("k1"), None)
    );
    assert_eq!(found.versions_ever_active, ["2.7.2"]);
    assert_eq!((found.keys_total, found.keys_per_mount["core/"], found.keys_per_mount["sys/"]), (39, 21, 7));
    assert!(found.keys_per_mount.keys().any(|place| place.starts_with("logical/")));
}

#[test]
fn snapshots_of_an_older_version_and_of_a_shamir_seal_are_read_too() {
    assert_eq!(inspect(STATIC_261).unwrap().inspection.versions_ever_active, ["2.6.1"]);
    let shamir = inspect(SHAMIR_272).unwrap().inspection;
    assert_eq!((shamir.seal.kind.as_str(), shamir.seal.key_id), ("shamir", None));
    assert_eq!((shamir.seal.shares, shamir.seal.threshold), (Some(3), Some(2)));
    assert!(shamir.keys_per_mount.keys().any(|place| place.starts_with("namespaces/") && place.contains("/logical/")));
}

#[test]
fn compressed_again_by_hand_it_is_the_same_snapshot() {
    let again = inspect(&zip(&expand(STATIC_272))).unwrap();
    let first = inspect(STATIC_272).unwrap();
    assert_eq!((again.sums, again.sealed_sums), (first.sums, first.sealed_sums));
}

#[test]
fn cut_off_anywhere_it_is_refused() {
    for length in 0..STATIC_272.len() {
        assert!(inspect(&STATIC_272[..length]).is_err(), "{length} bytes were accepted");
    }
}

/// A few bits say nothing about the content: header fields of the gzip layer (text flag, time, extra flags, system) and
/// the fill bits of the deflate layer. Any other flip is refused; and these leave everything but the file's own digest as it was.
#[test]
fn a_flipped_bit_anywhere_is_refused_or_touches_no_content() {
    let good = inspect(STATIC_272).unwrap();
    let mut unnoticed = 0;
    for at in 0..STATIC_272.len() {
        // One bit per byte, another one each time, keeps the run short; all eight in the layers' own fields.
        let bits: Vec<usize> = if at < 600 || at > STATIC_272.len() - 1100 { (0..8).collect() } else { vec![at % 8] };
        for bit in bits {
            let mut bytes = STATIC_272.to_vec();
            bytes[at] ^= 1 << bit;
            if let Ok(mut found) = inspect(&bytes) {
                assert_ne!(found.inspection.sha256, good.inspection.sha256);
                found.inspection.sha256.clone_from(&good.inspection.sha256);
                assert_eq!(found, good, "bit {bit} of byte {at}");
                unnoticed += usize::from(!(3..10).contains(&at));
            }
        }
    }
    // Five fill bits before the stored block, six at the end of the deflate stream, and no other.
    assert_eq!(unnoticed, 5 + 6);
}

/// Flips below the gzip checksum: what a forger can do, who makes the trailer fit.
#[test]
fn a_flipped_bit_under_a_fitting_gzip_trailer_is_refused() {
    let (tar, good) = (expand(STATIC_272), inspect(STATIC_272).unwrap());
    for at in 0..tar.len() {
        let mut bytes = tar.clone();
        bytes[at] ^= 1 << (at % 8);
        // The sealed sums are opaque without the key, and a header's checksum field may be padded in two ways.
        if let Ok(found) = inspect(&zip(&bytes)) {
            assert_eq!(found.sums, good.sums, "byte {at}");
            let same_elsewhere = Inspection { sha256: String::new(), size_bytes: 0, ..found.inspection };
            let seal_id_aside = Inspection { seal: good.inspection.seal.clone(), ..same_elsewhere };
            let expected = Inspection { sha256: String::new(), size_bytes: 0, ..good.inspection.clone() };
            assert_eq!(seal_id_aside, expected, "byte {at}");
        }
    }
}

#[test]
fn what_a_server_accepts_though_it_is_broken_is_refused() {
    let appended = [STATIC_272, b"hello"].concat();
    assert!(matches!(inspect(&appended), Err(ArchiveError::Trailing(_))));
    let twice = [STATIC_272, STATIC_272].concat();
    assert!(matches!(inspect(&twice), Err(ArchiveError::Trailing(_))));
    let tar = expand(STATIC_272);
    assert!(matches!(inspect(&zip(&[&tar[..], &tar[..]].concat())), Err(ArchiveError::Trailing(_))));
    let no_trailer = &STATIC_272[..STATIC_272.len() - 8];
    assert!(matches!(inspect(no_trailer), Err(ArchiveError::Truncated { .. })));
}

#[test]
fn entries_missing_doubled_or_foreign_are_refused() {
    let all = entries(STATIC_272);
    for (index, (name, _)) in all.iter().enumerate() {
        let mut without = all.clone();
        without.remove(index);
        assert!(
            matches!(inspect(&pack(&without)), Err(ArchiveError::MissingEntry(missing)) if missing == name),
            "{name}"
        );
        let mut doubled = all.clone();
        doubled.push(all[index].clone());
        assert!(
            matches!(inspect(&pack(&doubled)), Err(ArchiveError::DuplicateEntry(twice)) if twice == name),
            "{name}"
        );
    }
    let mut foreign = all.clone();
    foreign.push(("extra.txt".into(), b"x".to_vec()));
    assert!(matches!(inspect(&pack(&foreign)), Err(ArchiveError::UnknownEntry(_))));
    let mut split = all.clone();
    let rest = split[1].1.split_off(100);
    split.push(("state.bin".into(), rest));
    assert!(inspect(&pack(&split)).is_err(), "a state in two pieces is joined by the server");
}

#[test]
fn forgeries_with_fitting_sums_are_caught_by_their_form() {
    assert!(inspect(&forged("state.bin", |_| {})).is_ok(), "the forge itself works");
    let cut = forged("state.bin", |state| state.truncate(state.len() - 1));
    assert!(inspect(&cut).is_err());
    let empty = forged("state.bin", Vec::clear);
    assert!(inspect(&empty).is_err());
    let replace = |from: &'static str, to: &'static str| {
        forged("meta.json", move |meta| *meta = String::from_utf8_lossy(meta).replace(from, to).into_bytes())
    };
    for (from, to) in [
        ("\"Size\":17910", "\"Size\":17911"),
        ("\"Version\":1", "\"Version\":9"),
        ("\"Index\":50", "\"Index\":18446744073709551615"),
    ] {
        assert!(matches!(inspect(&replace(from, to)), Err(ArchiveError::Meta(_))), "{to}");
    }
    let no_sealed = forged("SHA256SUMS.sealed", Vec::clear);
    assert!(matches!(inspect(&no_sealed), Err(ArchiveError::Sealed(_))));
    let mut honest = entries(STATIC_272);
    honest[1].1[5000] ^= 1;
    assert!(inspect(&pack(&honest)).is_err(), "and without fitting sums by the sums");
}

#[test]
fn a_link_in_place_of_the_state_is_refused() {
    let mut builder = ::tar::Builder::new(Vec::new());
    for (name, content) in entries(STATIC_272) {
        let mut header = ::tar::Header::new_ustar();
        header.set_size(if name == "state.bin" { 0 } else { content.len() as u64 });
        if name == "state.bin" {
            header.set_entry_type(::tar::EntryType::Symlink);
            builder.append_link(&mut header, &name, "/etc/passwd").unwrap();
        } else {
            builder.append_data(&mut header, &name, content.as_slice()).unwrap();
        }
    }
    let bytes = zip(&builder.into_inner().unwrap());
    assert!(matches!(inspect(&bytes), Err(ArchiveError::NotPlain { entry: "state.bin" })));
}

#[test]
fn the_announced_size_is_bounded_before_anything_expands() {
    let limit = Limits { expanded: 10_000 };
    assert!(matches!(read(STATIC_272, limit), Err(ArchiveError::TooLarge { limit: 10_000 })));
    assert!(read(STATIC_272, Limits { expanded: 22_528 }).is_ok(), "exactly at the limit is within it");
}

#[test]
fn a_failing_source_is_told_apart_from_bad_bytes() {
    struct Failing;
    impl Read for Failing {
        fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
            Err(std::io::Error::other("disk"))
        }
    }
    let source = (&STATIC_272[..9000]).chain(Failing);
    assert!(matches!(read(source, Limits::default()), Err(ArchiveError::Read(_))));
}

proptest! {
    #[test]
    fn arbitrary_bytes_are_refused_without_harm(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
        prop_assert!(inspect(&bytes).is_err());
        prop_assert!(inspect(&zip(&bytes)).is_err());
    }

    #[test]
    fn a_snapshot_with_a_stretch_replaced_is_refused(at in 10usize..22_000, patch in proptest::collection::vec(any::<u8>(), 1..300)) {
        let mut bytes = STATIC_272.to_vec();
        let end = (at + patch.len()).min(bytes.len());
        bytes[at..end].copy_from_slice(&patch[..end - at]);
        prop_assert!(bytes == STATIC_272 || inspect(&bytes).is_err());
    }
}
