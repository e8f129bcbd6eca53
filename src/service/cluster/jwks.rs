//! The signing keys of the API server's tokens, in the form that OpenBao's JWT method takes: PEM public keys.
//!
//! OpenBao could fetch the keys itself, but only from an address whose certificate it trusts and that answers without a
//! token; many clusters have none. So the operator reads `/openid/v1/jwks` and hands the keys over at bootstrap.

use base64::{Engine, engine::general_purpose::STANDARD, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::Deserialize;

/// Why the keys of the API server cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum JwksError {
    /// Not the document that `OpenID` Connect describes.
    #[error("the API server's signing keys (/openid/v1/jwks) are not a key set")]
    Malformed(#[source] serde_json::Error),
    /// Every key is of a type that this operator cannot translate.
    #[error("the API server's key set (/openid/v1/jwks) holds no RSA or elliptic-curve key that can be used")]
    NoUsableKey,
}

#[derive(Deserialize)]
struct KeySet {
    #[serde(default)]
    keys: Vec<Key>,
}

#[derive(Deserialize)]
struct Key {
    kty: String,
    #[serde(default)]
    n: String,
    #[serde(default)]
    e: String,
    #[serde(default)]
    crv: String,
    #[serde(default)]
    x: String,
    #[serde(default)]
    y: String,
}

/// All usable keys of a JWKS document as `PUBLIC KEY` PEM blocks, sorted, so that the order in which the API server lists
/// them does not matter.
pub fn public_keys(jwks: &str) -> Result<Vec<String>, JwksError> {
    let set: KeySet = serde_json::from_str(jwks).map_err(JwksError::Malformed)?;
    let mut keys: Vec<String> = set.keys.iter().filter_map(spki).map(|der| pem(&der)).collect();
    keys.sort();
    keys.dedup();
    if keys.is_empty() { Err(JwksError::NoUsableKey) } else { Ok(keys) }
}

// Object identifiers, already encoded: rsaEncryption, id-ecPublicKey and the three NIST curves.
const RSA: &[u8] = &[0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];
const EC: &[u8] = &[0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
const P256: &[u8] = &[0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
const P384: &[u8] = &[0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x22];
const P521: &[u8] = &[0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x23];

/// `SubjectPublicKeyInfo` (RFC 5280) of one key; `None` for types or values that cannot be used.
fn spki(key: &Key) -> Option<Vec<u8>> {
    let decode = |text: &str| URL_SAFE_NO_PAD.decode(text.trim_end_matches('=')).ok().filter(|bytes| !bytes.is_empty());
    match key.kty.as_str() {
        "RSA" => {
            let numbers = [integer(&decode(&key.n)?), integer(&decode(&key.e)?)].concat();
            let algorithm = [RSA, &[0x05, 0x00]].concat();
            Some(sequence(&[sequence(&algorithm), bit_string(&sequence(&numbers))].concat()))
        }
        "EC" => {
            let (curve, size) = match key.crv.as_str() {
                "P-256" => (P256, 32),
                "P-384" => (P384, 48),
                "P-521" => (P521, 66),
                _ => return None,
            };
            let (x, y) = (decode(&key.x)?, decode(&key.y)?);
            if x.len() != size || y.len() != size {
                return None;
            }
            let point = [&[0x04][..], &x, &y].concat();
            Some(sequence(&[sequence(&[EC, curve].concat()), bit_string(&point)].concat()))
        }
        _ => None,
    }
}

fn sequence(content: &[u8]) -> Vec<u8> {
    tagged(0x30, content)
}

/// An unsigned number: DER's are signed, so a leading one bit needs a zero byte before it.
fn integer(bytes: &[u8]) -> Vec<u8> {
    let significant = &bytes[bytes.iter().take_while(|&&byte| byte == 0).count().min(bytes.len() - 1)..];
    let padded = if significant[0] & 0x80 == 0 { significant.to_vec() } else { [&[0], significant].concat() };
    tagged(0x02, &padded)
}

fn bit_string(content: &[u8]) -> Vec<u8> {
    tagged(0x03, &[&[0], content].concat())
}

fn tagged(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    let length = content.len();
    if let Some(short) = u8::try_from(length).ok().filter(|&short| short < 0x80) {
        out.push(short);
    } else {
        let bytes = length.to_be_bytes();
        let significant = &bytes[bytes.iter().take_while(|&&byte| byte == 0).count()..];
        out.push(0x80 | u8::try_from(significant.len()).unwrap_or(0));
        out.extend_from_slice(significant);
    }
    out.extend_from_slice(content);
    out
}

fn pem(der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let lines: Vec<&str> = (0..text.len()).step_by(64).map(|at| &text[at..(at + 64).min(text.len())]).collect();
    format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::PublicKeyData;

    fn jwk_of(key: &rcgen::KeyPair) -> String {
        let point = key.der_bytes();
        let half = (point.len() - 1) / 2;
        format!(
            r#"{{"kty":"EC","crv":"P-256","x":"{}","y":"{}"}}"#,
            URL_SAFE_NO_PAD.encode(&point[1..=half]),
            URL_SAFE_NO_PAD.encode(&point[half + 1..])
        )
    }

    #[test]
    fn an_elliptic_curve_key_becomes_the_pem_that_another_library_writes_for_it() {
        let key = rcgen::KeyPair::generate().unwrap();
        let keys = public_keys(&format!(r#"{{"keys":[{}]}}"#, jwk_of(&key))).unwrap();
        let expected: String = key.public_key_pem().replace("\r\n", "\n");
        assert_eq!(keys, [expected]);
    }

    /// Any number whose first bit is set: what matters is that it stays positive.
    const RSA_N: &str = "xYb3DyOAFaBqQp2-n3S7Mn0pFhnT_jmhV8rIBcIDtlNAM5N3-VLiBcJ6wHhP4Cq3xTQ2hkqfFEXAMPLE";

    #[test]
    fn an_rsa_key_is_read_back_with_the_same_numbers() {
        use x509_parser::prelude::{FromDer, SubjectPublicKeyInfo};
        let jwks = format!(r#"{{"keys":[{{"kty":"RSA","n":"{RSA_N}","e":"AQAB"}}]}}"#);
        let pem = public_keys(&jwks).unwrap().remove(0);
        let body: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
        let der = STANDARD.decode(body).unwrap();
        let (rest, info) = SubjectPublicKeyInfo::from_der(&der).unwrap();
        assert!(rest.is_empty());
        let x509_parser::public_key::PublicKey::RSA(rsa) = info.parsed().unwrap() else { panic!("not RSA") };
        assert_eq!(rsa.modulus, [&[0], URL_SAFE_NO_PAD.decode(RSA_N).unwrap().as_slice()].concat(), "positive");
        assert_eq!(rsa.exponent, [1, 0, 1]);
    }

    #[test]
    fn keys_that_cannot_be_used_are_left_out_and_none_at_all_is_an_error() {
        let key = rcgen::KeyPair::generate().unwrap();
        let mixed = format!(r#"{{"keys":[{{"kty":"OKP","crv":"Ed25519","x":"AAAA"}},{}]}}"#, jwk_of(&key));
        assert_eq!(public_keys(&mixed).unwrap().len(), 1);
        assert!(matches!(public_keys(r#"{"keys":[]}"#), Err(JwksError::NoUsableKey)));
        assert!(matches!(public_keys("<html>"), Err(JwksError::Malformed(_))));
    }

    #[test]
    fn the_order_of_the_keys_does_not_matter() {
        let (a, b) = (rcgen::KeyPair::generate().unwrap(), rcgen::KeyPair::generate().unwrap());
        let (a, b) = (jwk_of(&a), jwk_of(&b));
        let one = public_keys(&format!(r#"{{"keys":[{a},{b}]}}"#)).unwrap();
        let other = public_keys(&format!(r#"{{"keys":[{b},{a},{b}]}}"#)).unwrap();
        assert_eq!(one, other);
    }
}
