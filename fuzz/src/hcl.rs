//! Free-form data of a spec becomes OpenBao's configuration.
//!
//! Checked, by a small reader of what was written: every string comes back as it was, nothing outside of a string can be
//! told by one (no key, brace or line more than the data has), and the same data gives the same bytes.

use openbao_operator::service::cluster::hcl::{Body, Value};
use serde_json::Value as Json;

use super::document;

pub fn check(input: &[u8]) {
    let Some((data, _)) = document::<Json>(input) else { return };
    let Ok(value) = Value::from_json(&data, "data") else { return };
    let text = Body::new().set("data", value.clone()).to_string();
    assert_eq!(text, Body::new().set("data", Value::from_json(&data, "data").unwrap()).to_string());
    let mut wanted = vec![];
    strings(&data, &mut wanted);
    let (mut found, bare) = read(&text);
    wanted.sort();
    found.sort();
    assert_eq!(found, wanted, "{text}");
    let (objects, lists) = count(&data);
    assert_eq!(bare.matches('{').count(), objects, "{text}");
    assert_eq!(bare.matches('}').count(), objects, "{text}");
    assert_eq!(bare.matches('[').count(), lists, "{text}");
    assert!(!bare.contains('#') && !bare.contains("//") && !bare.contains("<<"), "{text}");
}

fn strings(data: &Json, into: &mut Vec<String>) {
    match data {
        Json::String(text) => into.push(text.clone()),
        Json::Array(items) => items.iter().for_each(|item| strings(item, into)),
        Json::Object(map) => {
            for (key, value) in map {
                into.push(key.clone());
                strings(value, into);
            }
        }
        Json::Null | Json::Bool(_) | Json::Number(_) => {}
    }
}

fn count(data: &Json) -> (usize, usize) {
    let sum = |items: &mut dyn Iterator<Item = &Json>| {
        items.map(count).fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1))
    };
    match data {
        Json::Array(items) => {
            let inside = sum(&mut items.iter());
            (inside.0, inside.1 + 1)
        }
        Json::Object(map) => {
            let inside = sum(&mut map.values());
            (inside.0 + 1, inside.1)
        }
        _ => (0, 0),
    }
}

/// The strings in `text`, and what is left when they are cut out.
fn read(text: &str) -> (Vec<String>, String) {
    let (mut found, mut bare) = (vec![], String::new());
    let mut rest = text.chars();
    while let Some(char) = rest.next() {
        if char != '"' {
            bare.push(char);
            continue;
        }
        let mut string = String::new();
        loop {
            match rest.next().expect("a string that does not end") {
                '"' => break,
                '\\' => match rest.next().expect("an escape that does not end") {
                    'n' => string.push('\n'),
                    'r' => string.push('\r'),
                    't' => string.push('\t'),
                    'u' => {
                        let digits: String = rest.by_ref().take(4).collect();
                        let code = u32::from_str_radix(&digits, 16).expect("four hexadecimal digits");
                        string.push(char::from_u32(code).expect("a character"));
                    }
                    plain @ ('"' | '\\') => string.push(plain),
                    other => panic!("an escape that HCL does not know: {other:?}"),
                },
                '\n' => panic!("a line break inside a string"),
                plain => {
                    assert!(!(plain == '{' && string.ends_with('$') && !text.contains("\\u0024")), "a template");
                    string.push(plain);
                }
            }
        }
        found.push(string);
    }
    (found, bare)
}
