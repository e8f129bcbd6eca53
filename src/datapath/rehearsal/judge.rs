//! What a restored server must show. Pure.

use serde_json::Value;

use super::error::RehearsalError;
use super::fetch::Fetched;
use crate::adapter::openbao;
use crate::datapath::archive::Inspection;

/// How many places are named.
const NAMED: usize = 3;

/// Whether the server has the data of the backup's cluster. A manifest of an earlier release does not say whose they are.
pub fn is_of(fetched: &Fetched, cluster_id: &str) -> Result<(), RehearsalError> {
    if fetched.openbao_cluster_id.is_empty() || fetched.openbao_cluster_id == cluster_id {
        return Ok(());
    }
    let (found, expected) = (cluster_id.to_owned(), fetched.openbao_cluster_id.clone());
    Err(RehearsalError::OtherData { found, expected })
}

/// Whether every mount has what it had. It may have more: the test's own login leaves traces. Tokens that have run out since
/// take what they kept in `short_lived` (the cubbyhole) with them; while it is not known which mount that is, and in
/// namespaces, which have one each, only what is gone as a whole counts where much was.
pub fn has_all(backup: &Inspection, found: &Inspection, short_lived: &Option<String>) -> Result<(), RehearsalError> {
    let lost = backup.keys_per_mount.iter().filter_map(|(place, had)| {
        let has = found.keys_per_mount.get(place).copied().unwrap_or(0);
        let lost = match short_lived {
            _ if !is_mount(place) => false,
            // No cubbyhole lies among the auth methods.
            _ if is_auth(place) => has < *had,
            Some(uuid) if *place == format!("logical/{uuid}/") => false,
            Some(_) if !place.starts_with("namespaces/") => has < *had,
            Some(_) | None => has == 0 && *had >= MANY,
        };
        lost.then(|| format!("{place} has {has} of {had}"))
    });
    let lost: Vec<String> = lost.collect();
    if lost.is_empty() {
        return Ok(());
    }
    let others = lost.len().saturating_sub(NAMED);
    let others = if others > 0 { format!(" and {others} more mounts") } else { String::new() };
    Err(RehearsalError::KeysMissing(format!("{}{others}", lost[..lost.len().min(NAMED)].join(", "))))
}

/// So many keys are no wrapped answers that nobody fetched.
const MANY: u64 = 1000;

/// Secrets engines and auth methods, of all namespaces. What is under `core/` and `sys/` changes by itself.
fn is_mount(place: &str) -> bool {
    ["logical/", "auth/"].iter().any(|kind| place.starts_with(kind) || place.contains(&format!("/{kind}")))
}

fn is_auth(place: &str) -> bool {
    place.starts_with("auth/") || place.contains("/auth/")
}

/// How many mounts have anything in them.
pub fn mounts(found: &Inspection) -> u64 {
    found.keys_per_mount.keys().filter(|place| is_mount(place)).count() as u64
}

/// Whether something stands there. What it is goes nowhere.
pub fn is_canary(path: &str, read: openbao::Result<Value>) -> Result<(), RehearsalError> {
    let missing = |why: &str| Err(RehearsalError::Canary { path: path.to_owned(), why: why.to_owned() });
    match read {
        Ok(answer) if is_empty(&answer["data"]) => missing("nothing stands there in what came back"),
        Ok(_) => Ok(()),
        Err(error) if error.is_not_found() => missing(
            "nothing stands there in what came back (a KV engine of version 2 has its secrets under <mount>/data/<path>)",
        ),
        Err(error) if error.is_denied() => {
            missing("the test's role may not read it: give it read there, in a role that the backup already has")
        }
        Err(error) => missing(&crate::adapter::objectstore::error::detail(&error)),
    }
}

/// A deleted version of a KV secret is an answer too, with `data: null` in it.
fn is_empty(data: &Value) -> bool {
    match data {
        Value::Null => true,
        Value::Object(fields) => {
            fields.is_empty() || (fields.contains_key("metadata") && fields.get("data") == Some(&Value::Null))
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn inspection(places: &[(&str, u64)]) -> Inspection {
        let keys_per_mount = places.iter().map(|(place, count)| ((*place).to_owned(), *count)).collect();
        Inspection { keys_per_mount, ..Inspection::default() }
    }

    #[test]
    fn the_data_is_of_the_cluster_that_the_manifest_names_where_it_names_one() {
        let fetched = |id: &str| Fetched { openbao_cluster_id: id.into(), ..Fetched::default() };
        assert!(is_of(&fetched("a"), "a").is_ok() && is_of(&fetched(""), "b").is_ok());
        let error = is_of(&fetched("a"), "b").unwrap_err();
        assert_eq!(error.reason(), "OtherData");
    }

    #[test]
    fn a_mount_with_fewer_keys_fails_and_one_with_more_does_not() {
        let (known, unknown) = (Some("cc".to_owned()), None);
        let backup = [("core/", 9), ("sys/", 50), ("logical/aa/", 4), ("logical/cc/", 7), ("auth/bb/", 2)];
        for (found, cubbyhole, fails) in [
            (vec![("sys/", 1), ("logical/aa/", 4), ("logical/cc/", 7), ("auth/bb/", 3)], &known, false),
            (vec![("logical/aa/", 4), ("auth/bb/", 2)], &known, false),
            (vec![("logical/aa/", 3), ("logical/cc/", 7), ("auth/bb/", 2)], &known, true),
            (vec![("logical/aa/", 4), ("logical/cc/", 7)], &known, true),
            (vec![("logical/aa/", 4), ("auth/bb/", 2)], &unknown, false),
        ] {
            let result = has_all(&inspection(&backup), &inspection(&found), cubbyhole);
            assert_eq!(result.is_err(), fails, "{found:?} {cubbyhole:?}: {result:?}");
        }
    }

    #[test]
    fn what_is_gone_as_a_whole_is_seen_although_the_cubbyhole_is_not_known() {
        let backup =
            inspection(&[("logical/aa/", 4000), ("namespaces/n/logical/dd/", 3), ("namespaces/n/auth/ee/", 2000)]);
        let error = has_all(&backup, &inspection(&[("logical/aa/", 1), ("namespaces/n/auth/ee/", 2000)]), &None);
        assert!(error.is_ok(), "{error:?}");
        let error = has_all(&backup, &inspection(&[]), &None).unwrap_err().to_string();
        assert!(
            error.contains("logical/aa/ has 0 of 4000") && error.contains("auth/ee/") && !error.contains("dd"),
            "{error}"
        );
    }

    #[test]
    fn many_missing_mounts_are_counted_and_the_first_are_named() {
        let names: Vec<String> = (0..9).map(|n| format!("logical/{n}/")).collect();
        let places: Vec<(&str, u64)> = names.iter().map(|name| (name.as_str(), 2)).collect();
        let error = has_all(&inspection(&places), &inspection(&[]), &Some("c".into())).unwrap_err().to_string();
        assert!(
            error.contains("logical/2/") && !error.contains("logical/3/") && error.ends_with("and 6 more mounts"),
            "{error}"
        );
    }

    #[test]
    fn a_canary_is_something_that_stands_there() {
        let read = |answer: Value| is_canary("secret/data/canary", Ok(answer)).is_ok();
        assert!(read(json!({"data": {"v": "1"}})) && read(json!({"data": {"data": {"v": 1}, "metadata": {}}})));
        assert!(read(json!({"data": {"data": null, "v": 1}})), "a secret of version 1 may have a field of that name");
        for gone in
            [json!({}), json!({"data": null}), json!({"data": {}}), json!({"data": {"data": null, "metadata": {}}})]
        {
            assert!(!read(gone.clone()), "{gone}");
        }
        let refused =
            |status| openbao::Error::Refused { pod: "p".into(), request: "GET".into(), status, detail: "d".into() };
        let error = is_canary("a/b", Err(refused(404))).unwrap_err();
        assert!(error.to_string().starts_with("canary a/b: ") && error.reason() == "CanaryMissing", "{error}");
    }
}
