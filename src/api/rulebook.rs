//! The table of admission rules in `tests/api/rules.yaml`, run through the CEL evaluator, and the check that no rule is
//! missing from it.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::admission::{SCHEMAS, admit};

#[path = "../../tests/api/table.rs"]
mod table;

use self::table::{Case, cases, merge, smallest};

fn merged(mut base: Value, patch: &Value) -> Value {
    merge(&mut base, patch);
    base
}

#[test]
fn every_rule_passes_what_it_should_and_refuses_the_rest_with_its_message() {
    let mut wrong = Vec::new();
    for Case { kind, message, before, accepted, refused } in cases() {
        let base = before.as_ref().map_or_else(|| smallest(&kind), |before| merged(smallest(&kind), before));
        let old = before.is_some().then_some(&base);
        let accepted = merged(base.clone(), &accepted);
        if let Err(errors) = admit(&accepted, old) {
            wrong.push(format!("{message}: refused what should pass: {accepted}: {errors:?}"));
        }
        let refused = merged(base.clone(), &refused);
        match admit(&refused, old) {
            Ok(_) => wrong.push(format!("{message}: let pass {refused}")),
            Err(errors) if errors.iter().any(|error| error.contains(&message)) => {}
            Err(errors) => wrong.push(format!("{message}: refused for another reason: {errors:?}")),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn an_audience_can_be_corrected_until_openbao_has_made_its_roles_with_it() {
    let cluster = |audience: &str, status: Value| {
        let oidc = json!({"enabled": true, "audience": audience});
        merged(
            smallest("OpenBaoCluster"),
            &json!({"spec": {"selfInit": {"enabled": true, "oidc": oidc}}, "status": status}),
        )
    };
    for (status, corrected) in
        [(json!({}), true), (json!({"initialized": false}), true), (json!({"initialized": true}), false)]
    {
        let (old, new) = (cluster("typo", status.clone()), cluster("mine", status.clone()));
        assert_eq!(admit(&new, Some(&old)).is_ok(), corrected, "{status}");
    }
    let (old, new) = (cluster("typo", Value::Null), cluster("mine", Value::Null));
    assert!(admit(&new, Some(&old)).is_ok(), "nobody has looked at it yet");
}

#[test]
fn no_rule_is_missing_from_the_table() {
    fn messages(schema: &Value, into: &mut BTreeSet<String>) {
        for rule in schema["x-kubernetes-validations"].as_array().into_iter().flatten() {
            into.insert(rule["message"].as_str().expect("every rule has a message").to_owned());
        }
        for property in schema["properties"].as_object().into_iter().flatten() {
            messages(property.1, into);
        }
        for nested in ["items", "additionalProperties"] {
            if schema[nested].is_object() {
                messages(&schema[nested], into);
            }
        }
    }
    let cases = cases();
    for (kind, schema) in SCHEMAS.iter() {
        let mut all = BTreeSet::new();
        messages(schema, &mut all);
        for message in all {
            assert!(
                cases.iter().any(|case| message.starts_with(&case.message)),
                "no case in tests/api/rules.yaml for: {message} ({kind})"
            );
        }
    }
}

/// A field added later must not slip past the rule that freezes a spec.
#[test]
fn the_immutability_rules_name_every_field_but_requests() {
    for (kind, schema) in SCHEMAS.iter().filter(|(kind, _)| *kind != "OpenBaoCluster") {
        let spec = &schema["properties"]["spec"];
        let rules = spec["x-kubernetes-validations"].as_array().unwrap();
        for field in spec["properties"].as_object().unwrap().keys().filter(|field| *field != "requests") {
            let frozen = format!("self.{field} == oldSelf.{field}");
            assert!(
                rules.iter().any(|rule| rule["rule"].as_str().unwrap().contains(&frozen)),
                "{kind}.spec.{field} may change after creation"
            );
        }
    }
}
