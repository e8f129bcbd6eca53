//! The CRDs as files: what `cargo xtask crds` writes and checks.
//!
//! The derived schemas are finished here in one pass: `nullable` goes (the API server then drops an explicit `null`
//! before it applies defaults, so nobody ever meets one), the doc comments of Kubernetes' own types go (they are most of
//! the bytes and `kubectl explain pod` has them), and line breaks inside a paragraph become spaces.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{CustomResourceDefinition, JSONSchemaProps};
use kube::CustomResourceExt;
use serde_json::Value;
use thiserror::Error;

use super::{OpenBaoCluster, OpenBaoOperation, OpenBaoRestore, OpenBaoRollout};

/// Fields whose type is Kubernetes' own. The field keeps its description, what is inside loses it.
const BORROWED: [&str; 9] = [
    "affinity",
    "conditions",
    "egressRules",
    "imagePullSecrets",
    "ingressRules",
    "resources",
    "securityContext",
    "tolerations",
    "topologySpreadConstraints",
];

/// Why the files could not be made. Both mean a mistake in the types, not in the surroundings.
#[derive(Debug, Error)]
pub enum ManifestError {
    /// The finished schema is no schema.
    #[error("the schema of {kind} does not survive finishing: {source}")]
    Finish {
        /// Which kind.
        kind: String,
        /// What serde says.
        source: serde_json::Error,
    },
    /// It cannot be written as YAML.
    #[error("the definition of {kind} cannot be written as YAML: {source}")]
    Yaml {
        /// Which kind.
        kind: String,
        /// What the writer says.
        source: serde_saphyr::ser::Error,
    },
}

/// The definitions of all kinds, in the order people meet them.
pub fn crds() -> Result<Vec<CustomResourceDefinition>, ManifestError> {
    [OpenBaoCluster::crd(), OpenBaoRestore::crd(), OpenBaoOperation::crd(), OpenBaoRollout::crd()]
        .into_iter()
        .map(finished)
        .collect()
}

/// File name and content of each definition. The same types always give the same bytes.
pub fn crd_files() -> Result<Vec<(String, String)>, ManifestError> {
    let file = |crd: CustomResourceDefinition| {
        let name = format!("{}_{}.yaml", crd.spec.group, crd.spec.names.plural);
        let text = serde_saphyr::to_string(&crd)
            .map_err(|source| ManifestError::Yaml { kind: crd.spec.names.kind.clone(), source })?;
        Ok((name, text))
    };
    crds()?.into_iter().map(file).collect()
}

fn finished(mut crd: CustomResourceDefinition) -> Result<CustomResourceDefinition, ManifestError> {
    let kind = crd.spec.names.kind.clone();
    for version in &mut crd.spec.versions {
        let Some(schema) = version.schema.as_mut().and_then(|s| s.open_api_v3_schema.as_mut()) else { continue };
        *schema = finished_schema(schema).map_err(|source| ManifestError::Finish { kind: kind.clone(), source })?;
    }
    Ok(crd)
}

fn finished_schema(schema: &JSONSchemaProps) -> Result<JSONSchemaProps, serde_json::Error> {
    let mut value = serde_json::to_value(schema)?;
    finish(&mut value, false);
    serde_json::from_value(value)
}

/// Finishes one schema and all below it. `borrowed` says that it is part of a type that is not ours.
fn finish(schema: &mut Value, borrowed: bool) {
    let Some(fields) = schema.as_object_mut() else { return };
    fields.remove("nullable");
    if borrowed {
        fields.remove("description");
    } else if let Some(Value::String(text)) = fields.get_mut("description") {
        *text = paragraphs(text);
    }
    if let Some(properties) = fields.get_mut("properties").and_then(Value::as_object_mut) {
        for (name, property) in properties {
            let description = property.get("description").cloned();
            finish(property, borrowed || BORROWED.contains(&name.as_str()));
            // The field itself is ours even where its type is not.
            if !borrowed && let (Some(Value::String(text)), Some(fields)) = (description, property.as_object_mut()) {
                fields.insert("description".to_owned(), paragraphs(&text).into());
            }
        }
    }
    for nested in ["items", "additionalProperties"] {
        if let Some(nested) = fields.get_mut(nested) {
            finish(nested, borrowed);
        }
    }
}

/// One line per paragraph.
fn paragraphs(text: &str) -> String {
    text.split("\n\n").map(|paragraph| paragraph.replace('\n', " ")).collect::<Vec<_>>().join("\n\n")
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn schemas() -> Vec<Value> {
        let schema = |crd: CustomResourceDefinition| {
            serde_json::to_value(crd.spec.versions[0].schema.clone().unwrap().open_api_v3_schema.unwrap()).unwrap()
        };
        crds().unwrap().into_iter().map(schema).collect()
    }

    fn visit(schema: &Value, path: &str, see: &mut impl FnMut(&str, &Value)) {
        see(path, schema);
        for (name, property) in schema["properties"].as_object().into_iter().flatten() {
            visit(property, &format!("{path}.{name}"), see);
        }
        for nested in ["items", "additionalProperties"] {
            if schema[nested].is_object() {
                visit(&schema[nested], &format!("{path}[]"), see);
            }
        }
    }

    /// `UPDATE_CRDS=1 cargo test --lib crd_files` writes them, as `cargo xtask crds` does.
    #[test]
    fn the_crd_files_are_what_the_types_say() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        for folder in ["crds", "charts/openbao-operator/files/crds"] {
            for (name, text) in crd_files().unwrap() {
                let path = root.join(folder).join(name);
                if std::env::var_os("UPDATE_CRDS").is_some() {
                    std::fs::create_dir_all(root.join(folder)).unwrap();
                    std::fs::write(&path, &text).unwrap();
                }
                let stored = std::fs::read_to_string(&path).unwrap_or_default();
                assert!(stored == text, "{} is stale: run `cargo xtask crds`", path.display());
            }
        }
    }

    #[test]
    fn every_field_of_ours_is_documented() {
        for schema in schemas() {
            visit(&schema, "", &mut |path, schema| {
                let borrowed = path.split('.').any(|part| BORROWED.contains(&part.trim_end_matches("[]")));
                let structural = path.is_empty() || path.ends_with("[]") || path == ".metadata";
                assert!(
                    borrowed || structural || schema["description"].is_string(),
                    "{path} has no description: {schema}"
                );
            });
        }
    }

    #[test]
    fn no_schema_asks_for_what_kubernetes_does_not_know() {
        for schema in schemas() {
            visit(&schema, "", &mut |path, schema| {
                if let Some(format) = schema["format"].as_str() {
                    assert!(["int32", "int64", "double", "date-time"].contains(&format), "{path}: {format}");
                }
                assert!(schema.get("nullable").is_none(), "{path} is nullable");
            });
        }
    }

    #[test]
    fn every_definition_fits_into_a_client_side_apply() {
        for (name, text) in crd_files().unwrap() {
            assert!(text.len() < 200_000, "{name} has {} bytes; an annotation holds 256 KiB", text.len());
        }
    }
}
