//! `kubectl explain` is the manual: what it prints for the main fields is kept here, so that a change of it is seen.

use crate::harness::Cluster;

#[tokio::test]
async fn kubectl_explains_the_main_fields() {
    let cluster = Cluster::get().await;
    for field in [
        "openbaocluster",
        "openbaocluster.spec",
        "openbaocluster.spec.backup",
        "openbaocluster.spec.backup.target",
        "openbaocluster.spec.backup.retention",
        "openbaocluster.spec.upgrade",
        "openbaocluster.status.operationLock",
        "openbaorestore.spec",
        "openbaorestore.spec.source",
        "openbaorestore.status",
        "openbaooperation.spec",
        "openbaorollout.spec",
    ] {
        let text = cluster.kubectl(&["explain", field, "--api-version=openbao.org/v1alpha1"]).await;
        insta::assert_snapshot!(field, text.trim_end());
    }
}
