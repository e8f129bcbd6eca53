//! What a failed test leaves for whoever looks for the reason.

use std::fs;
use std::path::Path;

use super::Namespace;

/// Everything but Secrets: evidence is read by people and kept by CI.
const KINDS: &str = "openbaoclusters.openbao.org,openbaorestores.openbao.org,openbaooperations.openbao.org,\
                     openbaorollouts.openbao.org,statefulsets,deployments,jobs,pods,persistentvolumeclaims,configmaps,\
                     services,serviceaccounts,roles,rolebindings,leases,poddisruptionbudgets,networkpolicies,ingresses";

/// Writes events, objects and pod logs into the test's folder, and says where that is.
pub fn collect(namespace: &Namespace) {
    let folder = namespace.folder();
    write(folder, "objects.yaml", &namespace.kubectl_now(&["get", KINDS, "-o", "yaml"]));
    write(folder, "events.txt", &namespace.kubectl_now(&["get", "events", "--sort-by=.metadata.creationTimestamp"]));
    write(folder, "pods.txt", &namespace.kubectl_now(&["get", "pods", "-o", "wide"]));
    for pod in namespace.kubectl_now(&["get", "pods", "-o", "name"]).split_whitespace() {
        let Some(name) = pod.strip_prefix("pod/") else { continue };
        let log = namespace.kubectl_now(&["logs", name, "--all-containers", "--prefix", "--tail=5000"]);
        write(folder, &format!("pod-{name}.log"), &log);
        let before =
            namespace.kubectl_now(&["logs", name, "--all-containers", "--prefix", "--previous", "--tail=5000"]);
        if !before.contains("not found") {
            write(folder, &format!("pod-{name}-before.log"), &before);
        }
    }
    eprintln!("evidence of this failure: {}", folder.display());
}

fn write(folder: &Path, name: &str, text: &str) {
    if let Err(error) = fs::write(folder.join(name), text) {
        eprintln!("could not keep {name}: {error}");
    }
}
