//! What an operation asks for and nobody would do. It is refused before a plan is made: a parameter that is mistyped, or a
//! target that would be passed over, means something else than its author thinks. Pure.

use super::manager::Refusal;
use crate::api::operation::{OpenBaoOperation, TargetKind};

/// One key that `spec.parameters` may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parameter {
    name: &'static str,
    /// `None`: any value, which its manager judges.
    values: Option<&'static [&'static str]>,
}

impl Parameter {
    /// One whose value is judged by the manager.
    pub const fn any(name: &'static str) -> Self {
        Self { name, values: None }
    }

    /// One that has one of these values.
    pub const fn one_of(name: &'static str, values: &'static [&'static str]) -> Self {
        Self { name, values: Some(values) }
    }
}

/// Refuses what `op` asks for and no step of its kind would look at; `known` are the kind's parameters.
pub fn check(op: &OpenBaoOperation, known: &[Parameter]) -> Result<(), Refusal> {
    targets(op)?;
    parameters(op, known).map_err(|message| Refusal::failed("InvalidParameters", message))
}

/// Every operation is about its whole cluster.
fn targets(op: &OpenBaoOperation) -> Result<(), Refusal> {
    let cluster = &op.spec.cluster;
    let narrower = op.spec.targets.iter().find(|target| target.kind != TargetKind::Cluster || target.name != *cluster);
    let Some(target) = narrower else { return Ok(()) };
    let message = format!(
        "spec.targets names {} {}, and targets are not supported yet: an operation is about the whole cluster {cluster}. If \
         that is what you want, create it again without them",
        target.kind.as_str(),
        target.name
    );
    Err(Refusal::constraint("NotSupported", message))
}

fn parameters(op: &OpenBaoOperation, known: &[Parameter]) -> Result<(), String> {
    let kind = op.spec.operation.as_str();
    for (key, value) in &op.spec.parameters {
        let Some(parameter) = known.iter().find(|parameter| parameter.name == key) else {
            let names: Vec<&str> = known.iter().map(|parameter| parameter.name).collect();
            let knows = if names.is_empty() { "takes none".to_owned() } else { format!("knows {}", names.join(", ")) };
            return Err(format!("operation {kind} does not know parameters.{key}; it {knows}"));
        };
        if let Some(values) = parameter.values.filter(|values| !values.contains(&value.as_str())) {
            let choice = values.join(" or ");
            return Err(format!("parameters.{key} is \"{value}\"; it is {choice}, or left out"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::service::opslifecycle::RefusalPhase;

    const KNOWN: [Parameter; 2] = [Parameter::one_of("mode", &["Verify"]), Parameter::any("key")];

    fn operation(spec: &Value) -> OpenBaoOperation {
        let mut whole = json!({
            "apiVersion": "openbao.org/v1alpha1", "kind": "OpenBaoOperation",
            "metadata": {"name": "ask", "namespace": "reef"},
            "spec": {"cluster": "kelp", "operation": "Rollback"},
        });
        for (key, value) in spec.as_object().unwrap() {
            whole["spec"][key] = value.clone();
        }
        serde_json::from_value(whole).unwrap()
    }

    #[test]
    fn an_operation_on_less_than_the_whole_cluster_is_refused() {
        let of = |target: &Value| check(&operation(&json!({"targets": [target]})), &KNOWN);
        assert_eq!(of(&json!({"kind": "Cluster", "name": "kelp"})), Ok(()));
        for target in [json!({"kind": "Volume", "name": "data-kelp-1"}), json!({"kind": "Cluster", "name": "coral"})] {
            let refusal = of(&target).unwrap_err();
            assert_eq!((refusal.phase, refusal.reason), (RefusalPhase::ConstraintFailed, "NotSupported"));
            assert!(refusal.message.contains(target["name"].as_str().unwrap()), "{refusal}");
        }
    }

    #[test]
    fn a_mistyped_parameter_is_refused_and_told_what_the_kind_knows() {
        let of = |parameters: Value, known: &[Parameter]| check(&operation(&json!({"parameters": parameters})), known);
        assert_eq!(of(json!({"mode": "Verify", "key": "any/a.snap"}), &KNOWN), Ok(()));
        for (parameters, known, says) in [
            (json!({"mod": "Verify"}), &KNOWN[..], "does not know parameters.mod; it knows mode, key"),
            (json!({"mode": "verify"}), &KNOWN[..], "it is Verify, or left out"),
            (json!({"mode": "Verify"}), &KNOWN[..0], "operation Rollback does not know parameters.mode; it takes none"),
        ] {
            let refusal = of(parameters, known).unwrap_err();
            assert_eq!((refusal.phase, refusal.reason), (RefusalPhase::Failed, "InvalidParameters"));
            assert!(refusal.message.contains(says), "{refusal}");
        }
    }
}
