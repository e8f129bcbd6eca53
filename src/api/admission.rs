//! What the API server does with an object before anyone sees it, small enough for unit tests: defaults, structure, CEL.
//!
//! The tests against a real API server (`tests/api`) have the last word; these say within a second what they will say.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::core::cel::Validator;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use serde_json::Value;

use super::crds;

/// The finished schema of each kind. Deriving one takes long enough to do it once.
pub static SCHEMAS: LazyLock<BTreeMap<String, Value>> = LazyLock::new(|| {
    let schema = |crd: CustomResourceDefinition| {
        let schema = crd.spec.versions[0].schema.clone().unwrap().open_api_v3_schema.unwrap();
        (crd.spec.names.kind, serde_json::to_value(schema).unwrap())
    };
    crds().unwrap().into_iter().map(schema).collect()
});

/// The object as the server would store it, or everything it would complain about.
pub fn admit(object: &Value, old: Option<&Value>) -> Result<Value, Vec<String>> {
    let kind = object["kind"].as_str().unwrap();
    let schema = &SCHEMAS[kind];
    let (mut object, mut errors) = (object.clone(), Vec::new());
    default(schema, &mut object);
    let old = old.map(|old| {
        let mut old = old.clone();
        default(schema, &mut old);
        old
    });
    structure(schema, &object, "", &mut errors);
    if errors.is_empty()
        && let Err(refused) = Validator::new().validate(schema, &object, old.as_ref())
    {
        errors.extend(refused.iter().map(|error| format!("{}: {}", error.field_path, error.message)));
    }
    if errors.is_empty() { Ok(object) } else { Err(errors) }
}

fn default(schema: &Value, value: &mut Value) {
    if let Some(items) = value.as_array_mut() {
        for item in items.iter_mut() {
            default(&schema["items"], item);
        }
    }
    let (Some(properties), Some(fields)) = (schema["properties"].as_object(), value.as_object_mut()) else { return };
    fields.retain(|_, value| !value.is_null());
    for (name, property) in properties {
        if let Some(preset) = property.get("default") {
            fields.entry(name.clone()).or_insert_with(|| preset.clone());
        }
        if let Some(value) = fields.get_mut(name) {
            default(property, value);
        }
    }
}

fn complain(errors: &mut Vec<String>, path: &str, what: impl AsRef<str>) {
    errors.push(format!("{path}: {}", what.as_ref()));
}

fn structure(schema: &Value, value: &Value, path: &str, errors: &mut Vec<String>) {
    if schema["x-kubernetes-preserve-unknown-fields"] == true || schema["x-kubernetes-int-or-string"] == true {
        return;
    }
    let fits = match schema["type"].as_str() {
        Some("object") => value.is_object(),
        Some("array") => value.is_array(),
        Some("string") => value.is_string(),
        Some("boolean") => value.is_boolean(),
        Some("integer") => value.is_i64(),
        Some("number") => value.is_number(),
        _ => true,
    };
    if !fits {
        return complain(errors, path, format!("must be of type {}", schema["type"]));
    }
    if let Some(allowed) = schema["enum"].as_array()
        && !allowed.contains(value)
    {
        complain(errors, path, format!("Unsupported value: {value}: supported values: {allowed:?}"));
    }
    let length = match value {
        Value::String(text) => Some((text.chars().count() as u64, "minLength", "maxLength")),
        Value::Array(items) => Some((items.len() as u64, "minItems", "maxItems")),
        Value::Object(fields) => Some((fields.len() as u64, "minProperties", "maxProperties")),
        _ => None,
    };
    if let Some((length, least, most)) = length
        && (schema[least].as_u64().is_some_and(|least| length < least)
            || schema[most].as_u64().is_some_and(|most| length > most))
    {
        complain(errors, path, format!("has {length}, allowed are {} to {}", schema[least], schema[most]));
    }
    if let Some(number) = value.as_f64()
        && (schema["minimum"].as_f64().is_some_and(|least| number < least)
            || schema["maximum"].as_f64().is_some_and(|most| number > most))
    {
        complain(errors, path, format!("is {number}, allowed are {} to {}", schema["minimum"], schema["maximum"]));
    }
    for required in schema["required"].as_array().into_iter().flatten() {
        let required = required.as_str().unwrap();
        if value.get(required).is_none() {
            errors.push(format!("{path}.{required}: Required value"));
        }
    }
    if let Some(keys) = schema["x-kubernetes-list-map-keys"].as_array() {
        let mut seen = BTreeSet::new();
        for item in value.as_array().into_iter().flatten() {
            let key: Vec<String> = keys.iter().map(|key| item[key.as_str().unwrap()].to_string()).collect();
            if !seen.insert(key.clone()) {
                complain(errors, path, format!("Duplicate value: {}", key.join(", ")));
            }
        }
    }
    for (index, item) in value.as_array().into_iter().flatten().enumerate() {
        structure(&schema["items"], item, &format!("{path}[{index}]"), errors);
    }
    for (name, field) in value.as_object().into_iter().flatten() {
        let path = format!("{path}.{name}");
        match schema["properties"].get(name) {
            Some(property) => structure(property, field, &path, errors),
            None if schema["additionalProperties"].is_object() => {
                structure(&schema["additionalProperties"], field, &path, errors);
            }
            None if ["", ".metadata"]
                .iter()
                .any(|free| path == format!("{free}.{name}") || path.starts_with(".metadata.")) => {}
            None => errors.push(format!("{path}: unknown field")),
        }
    }
}
