//! What a static key is, and whether it is the one that the data is sealed with, as far as that can be said before a server
//! starts with it. Pure.

use super::{build::secrets::seal_credentials_name, names};
use base64::{
    Engine,
    alphabet::{STANDARD, URL_SAFE},
    engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig, NO_PAD, PAD},
};
use k8s_openapi::api::core::v1::{PodSpec, Secret};
use kube::ResourceExt;

/// How long such a key is.
const LENGTH: usize = 32;
/// OpenBao does not look at the bits that are left over at the end.
const BASE64: GeneralPurpose = GeneralPurpose::new(&STANDARD, lenient(PAD));
const BASE64_URL: GeneralPurpose = GeneralPurpose::new(&URL_SAFE, lenient(NO_PAD));

const fn lenient(config: GeneralPurposeConfig) -> GeneralPurposeConfig {
    config.with_decode_allow_trailing_bits(true)
}

/// What stands in a Secret as a key.
pub fn of<'a>(secret: &'a Secret, field: &str) -> Option<&'a [u8]> {
    secret.data.as_ref()?.get(field).map(|key| key.0.as_slice())
}

/// The key itself, as OpenBao reads it: how it is written shows in nothing but its length. `None`: no server starts with it.
pub fn decoded(written: &[u8]) -> Option<[u8; LENGTH]> {
    match written.len() {
        LENGTH => written.try_into().ok(),
        64 => unhex(written),
        44 => BASE64.decode(written).ok()?.try_into().ok(),
        43 => BASE64_URL.decode(written).ok()?.try_into().ok(),
        _ => None,
    }
}

fn unhex(digits: &[u8]) -> Option<[u8; LENGTH]> {
    let mut key = [0_u8; LENGTH];
    for (byte, pair) in key.iter_mut().zip(digits.chunks_exact(2)) {
        for digit in pair {
            *byte = (*byte << 4) | u8::try_from(char::from(*digit).to_digit(16)?).ok()?;
        }
    }
    Some(key)
}

/// The Secret that a server of a static seal mounts its key from: the operator's, or else the one that the spec named.
pub fn mounted<'a>(server: &'a PodSpec, cluster: &str) -> Option<&'a str> {
    let (made, inline) = (names::unseal_secret(cluster), seal_credentials_name(cluster));
    let volumes = server.volumes.as_deref().unwrap_or_default();
    let mut own = volumes.iter().filter_map(|volume| volume.secret.as_ref()?.secret_name.as_deref());
    let projected = volumes.iter().filter_map(|volume| volume.projected.as_ref()?.sources.as_ref()).flatten();
    let mut brought = projected.filter_map(|source| Some(source.secret.as_ref()?.name.as_str()));
    own.find(|name| *name == made).or_else(|| brought.find(|name| *name != inline))
}

/// What is said of something that is none.
pub fn is_no_key(written: &[u8]) -> String {
    format!(
        "has {} bytes and is no static unseal key: that is {LENGTH} bytes, as they are or as 64 hexadecimal digits, 44 characters of \
         base64 or 43 of URL-safe base64, without a line break",
        written.len()
    )
}

/// Why no server would open its data with the user's static key. `in_use` is the Secret with whose key the servers run, where it
/// is another one.
pub fn flaw_of(theirs: &Secret, field: &str, name: &str, in_use: Option<&Secret>, cluster: &str) -> Option<String> {
    let written = of(theirs, field).unwrap_or_default();
    match decoded(written) {
        Some(key) => another(&key, field, name, in_use?, cluster),
        None => Some(format!("key `{field}` of Secret {name} {}", is_no_key(written))),
    }
}

/// The same of what is a key. Which field of the other Secret the servers read is not known: one of them.
pub fn another(key: &[u8; LENGTH], field: &str, name: &str, in_use: &Secret, cluster: &str) -> Option<String> {
    let mut keys = in_use.data.as_ref()?.values().filter_map(|written| decoded(&written.0)).peekable();
    keys.peek()?;
    if keys.any(|known| known == *key) {
        return None;
    }
    let (other, made) = (in_use.name_any(), names::unseal_secret(cluster));
    let put = format!("put the key of {other} into {name}");
    let mend = if other == made {
        format!("{put}, or take spec.unseal.credentialsSecretRef back")
    } else if name == made {
        format!("name {other} in spec.unseal.credentialsSecretRef again")
    } else {
        format!("{put}, or name {other} in spec.unseal.credentialsSecretRef again")
    };
    Some(format!(
        "key `{field}` of Secret {name} is another one than that of Secret {other}, with which the servers run and which their data is sealed with: {mend}. Until then the servers keep the settings that they have"
    ))
}

/// Why no server would open its data with what stands under `field`, where those that run have their key under `live` of the same
/// Secret.
pub fn moved(secret: &Secret, field: &str, live: &str, name: &str) -> Option<String> {
    let key = |field: &str| decoded(of(secret, field)?);
    if key(field)? == key(live)? {
        return None;
    }
    Some(format!(
        "key `{field}` of Secret {name} is another one than `{live}`, with which the servers run and which their data is sealed with: name `{live}` in spec.unseal.static.currentKey again, or put the same key under `{field}`. Until then the servers keep the settings that they have"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::{ByteString, apimachinery::pkg::apis::meta::v1::ObjectMeta};

    fn secret(name: &str, field: &str, key: &[u8]) -> Secret {
        Secret {
            metadata: ObjectMeta { name: Some(name.into()), ..ObjectMeta::default() },
            data: Some([(field.to_owned(), ByteString(key.to_vec()))].into()),
            ..Secret::default()
        }
    }

    #[test]
    fn a_static_key_of_the_users_must_be_the_one_that_the_data_is_sealed_with() {
        let made = secret("kelp-unseal-key", "key", &[7; 32]);
        let flaw =
            |key: &[u8], in_use: Option<&Secret>| flaw_of(&secret("mine", "key", key), "key", "mine", in_use, "kelp");
        assert_eq!(flaw(&[7; 32], Some(&made)), None, "the same key under another name");
        assert_eq!(flaw(&[8; 32], None), None, "nobody runs with another one");
        let other = flaw(&[8; 32], Some(&made)).unwrap();
        assert!(other.contains("mine") && other.contains("kelp-unseal-key"), "{other}");
        assert!(flaw(b"short", None).unwrap().contains("has 5 bytes"));
    }

    #[test]
    fn a_static_key_counts_in_every_form_in_which_openbao_reads_it_and_in_no_other() {
        let key: [u8; 32] = std::array::from_fn(|at| u8::try_from(at * 8 + 7).unwrap());
        let hex = key.iter().fold(String::new(), |all, byte| format!("{all}{byte:02x}"));
        let (upper, padded, raw) = (hex.to_uppercase(), BASE64.encode(key), BASE64_URL.encode(key));
        let forms = [hex.as_bytes(), upper.as_bytes(), padded.as_bytes(), raw.as_bytes(), &key];
        for written in forms {
            let theirs = secret("mine", "bao.key", written);
            for known in forms {
                let in_use = secret("kelp-unseal-key", "key", known);
                assert_eq!(flaw_of(&theirs, "bao.key", "mine", Some(&in_use), "kelp"), None, "{written:?}, {known:?}");
            }
            let in_use = secret("kelp-unseal-key", "key", &[8; 32]);
            assert!(flaw_of(&theirs, "bao.key", "mine", Some(&in_use), "kelp").is_some(), "another key");
        }
        for none in [&format!("{hex}\n"), &format!("{padded}\n"), &"z".repeat(64), &"=".repeat(44), &"+".repeat(43)] {
            assert_eq!(decoded(none.as_bytes()), None, "{none}");
        }
        assert_eq!(decoded(&[b'A'; 44]), None, "33 bytes");
        assert!(decoded(&[b'B'; 43]).is_some(), "bits are left over at its end");
    }

    #[test]
    fn another_key_of_the_same_secret_is_told_from_the_one_that_the_servers_have() {
        let mut both = secret("mine", "key", &[8; 32]);
        both.data.as_mut().unwrap().insert("old".into(), ByteString(vec![7; 32]));
        let flaw = moved(&both, "key", "old", "mine").unwrap();
        assert!(flaw.contains("name `old` in spec.unseal.static.currentKey again"), "{flaw}");
        both.data.as_mut().unwrap().insert("old".into(), ByteString([b'0', b'8'].repeat(32)));
        assert_eq!(moved(&both, "key", "old", "mine"), None, "the same, written in another way");
        assert_eq!(moved(&both, "key", "older", "mine"), None, "nobody can say any more");
    }

    #[test]
    fn another_key_of_the_users_is_known_before_a_server_restarts() {
        let in_use = secret("mine", "old", &[7; 32]);
        let theirs = |key: &[u8]| flaw_of(&secret("new", "key", key), "key", "new", Some(&in_use), "kelp");
        assert_eq!(theirs(&[7; 32]), None, "under whichever name");
        let flaw = theirs(&[8; 32]).unwrap();
        assert!(flaw.contains("the key of mine into new, or name mine in spec.unseal"), "{flaw}");
        let back = another(&[8; 32], "key", "kelp-unseal-key", &in_use, "kelp").unwrap();
        assert!(back.contains("sealed with: name mine in spec.unseal"), "{back}");
        let emptied = secret("mine", "note", b"moved");
        assert_eq!(another(&[8; 32], "key", "new", &emptied, "kelp"), None, "nobody can say any more");
    }
}
