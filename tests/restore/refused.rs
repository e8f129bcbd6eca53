//! What must be refused is refused before the lock, with the reason, and nothing is touched.

use std::time::Duration;

use openbao_operator::api::RestorePhase;
use serde_json::json;

use super::setup::{Bay, end, manifest, operator, reason};
use crate::harness::Cluster;

const SOON: Duration = Duration::from_secs(180);

/// A restore that must fail for this reason, and leave lock, fence and data as they were.
async fn refused(bay: &Bay<'_>, name: &str, spec: serde_json::Value, wanted: &str, says: &str) {
    let fence = bay.cluster().await.status.unwrap().operation_fence;
    bay.restore(name, spec).await;
    let restore = bay.ended(name, SOON).await;
    let (phase, message) = end(&restore);
    assert_eq!(phase, RestorePhase::Failed, "{name}: {message}");
    assert!(message.contains(says), "{name}: {message}");
    if !wanted.is_empty() {
        assert_eq!(reason(&restore), wanted, "{name}: {message}");
    }
    let status = bay.cluster().await.status.unwrap();
    assert_eq!((status.operation_lock, status.operation_fence), (None, fence), "{name} took the lock");
}

#[tokio::test]
async fn damaged_foreign_and_newer_snapshots_are_refused_before_the_lock() {
    let cluster = Cluster::get().await;
    let namespace = cluster.namespace("restore-refused").await;
    let _operator = operator(&namespace).await;
    let bay = Bay::named(&namespace, "kelp", 1, "2.7.2", "").await;
    namespace.apply(&manifest("coral", 1, "2.6.1", "")).await;
    let (token, key) = bay.backed_up().await;
    let snap = format!("/store/{key}");

    // Copies of the one good snapshot, each damaged in its own way, none with a manifest.
    bay.on_claim(&format!(
        "cd /store && size=$(wc -c < {snap}) && mkdir -p bad && \
         head -c $((size / 2)) {snap} > bad/half.snap && head -c $((size - 3)) {snap} > bad/tail.snap && \
         (cat {snap}; echo more) > bad/more.snap && (cat {snap} {snap}) > bad/twice.snap && \
         : > bad/empty.snap && echo not-a-snapshot > bad/text.snap && gzip -c /bin/busybox > bad/other.snap && \
         dd if=/dev/zero bs=1M count=64 2>/dev/null | gzip > bad/zeroes.snap && \
         (gunzip -c {snap}; dd if=/dev/zero bs=1M count=512 2>/dev/null) | gzip > bad/swollen.snap && \
         mkdir -p bomb && (cd bomb && truncate -s 80G state.bin && tar c state.bin | head -c 50000000 | gzip > ../bad/bomb.snap) && \
         cp {snap} bad/flipped.snap && printf X | dd of=bad/flipped.snap bs=1 seek=$((size / 2)) conv=notrunc 2>/dev/null && \
         cp {snap} bad/whole.snap && \
         mkdir -p parts && (cd parts && gunzip -c {snap} | tar x && \
         tar c meta.json state.bin SHA256SUMS | gzip > ../bad/unsealed.snap && \
         tar c meta.json state.bin SHA256SUMS SHA256SUMS.sealed meta.json | gzip > ../bad/again.snap && \
         sed -e s/^0/1/ -e t -e s/./0/ SHA256SUMS > s && mv s SHA256SUMS && \
         tar c meta.json state.bin SHA256SUMS SHA256SUMS.sealed | gzip > ../bad/sums.snap && \
         : > SHA256SUMS.sealed && tar c meta.json state.bin SHA256SUMS SHA256SUMS.sealed | gzip > ../bad/hollow.snap) && \
         cp {snap} bad/lied.snap && sed 's/first/first/; s#\"key\": \"[^\"]*\"#\"key\": \"bad/lied.snap\"#; \
         s/\"sha256\": \"..../\"sha256\": \"0000/' {snap}.manifest.json > bad/lied.snap.manifest.json && chmod -R a+rX bad"
    ))
    .await;
    for what in [
        "half", "tail", "more", "twice", "empty", "text", "other", "zeroes", "swollen", "flipped", "unsealed", "again",
        "sums", "hollow",
    ] {
        let spec = json!({"source": {"key": format!("bad/{what}.snap")}, "waive": ["MissingManifest", "OtherSeal"]});
        refused(&bay, what, spec, "", "Nothing was changed").await;
    }
    let source = |key: &str| json!({"source": {"key": key}});
    // Refused for what it would become, before it has become that.
    let bomb = json!({"source": {"key": "bad/bomb.snap"}, "waive": ["MissingManifest", "OtherSeal"], "force": true});
    refused(&bay, "bomb", bomb, "", "Nothing was changed").await;
    refused(&bay, "lied", source("bad/lied.snap"), "", "Nothing was changed").await;
    refused(&bay, "bare", source("bad/whole.snap"), "", "anifest").await;
    refused(&bay, "absent", source("bad/absent.snap"), "", "Nothing was changed").await;

    // A newer snapshot into an older cluster: refused whatever is waived, long before the seals are compared.
    let coral = Bay { namespace: &namespace, name: "coral".to_owned() };
    coral.whole(1).await;
    let newer = json!({"source": {"key": key}, "force": true, "waive": ["OtherSeal"]});
    refused(&coral, "newer", newer, "", "2.7.2").await;

    // Another cluster's key.
    namespace.apply(&manifest("sponge", 1, "2.7.2", "")).await;
    let sponge = Bay { namespace: &namespace, name: "sponge".to_owned() };
    sponge.whole(1).await;
    refused(&sponge, "foreign", source(&key), "", "OtherSeal").await;

    // What the object itself can tell.
    refused(
        &bay,
        "claimless",
        json!({"source": {"key": "a.snap",
        "target": {"provider": "s3", "bucket": "abc", "credentialsSecretRef": {"name": "no-such"}}}}),
        "ObjectMissing",
        "no-such",
    )
    .await;

    // Nowhere to take a safety backup to: seen before anything is downloaded.
    namespace.apply(&manifest("mussel", 1, "2.7.2", "")).await;
    let mussel = Bay { namespace: &namespace, name: "mussel".to_owned() };
    mussel.patch(json!({"spec": {"backup": null}})).await;
    mussel.whole(1).await;
    let homeless = json!({"source": {"key": key, "target": {"provider": "file", "file": {"claimName": "sand"}}},
        "preRestoreBackup": true});
    refused(&mussel, "homeless", homeless, "NoBackupTarget", "spec.backup.target").await;

    let too_early = json!({"source": {"before": "2020-01-01T00:00:00Z"}});
    refused(&bay, "early", too_early, "", "Nothing was changed").await;
    bay.secret("hollow", "password", "x").await;
    let tokenless = json!({"source": {"key": key}, "tokenSecretRef": {"name": "hollow"}});
    refused(&bay, "tokenless", tokenless, "ObjectIncomplete", "hollow").await;
    // Whoever may create a restore gets at no key by it, and starts no image of their own beside what it is given.
    let greedy = json!({"source": {"key": key}, "tokenSecretRef": {"name": format!("{}-unseal-key", bay.name)}});
    refused(&bay, "greedy", greedy, "ObjectNotAllowed", "itself").await;
    let strange = json!({"source": {"key": key}, "image": "docker.io/library/busybox:1.36"});
    refused(&bay, "strange", strange, "ImageNotAllowed", "spec.backup.image").await;

    assert_eq!(bay.word(&token, "pearl").await.as_deref(), Some("before"));
    assert_eq!(bay.posts(1).await, 0, "a server was sent something");
    bay.free().await;
}

#[tokio::test]
async fn a_dry_run_judges_and_touches_nothing_and_a_waived_manifest_restores() {
    let cluster = Cluster::get().await;
    let namespace = cluster.namespace("restore-dry").await;
    let _operator = operator(&namespace).await;
    let bay = Bay::start(&namespace, 1, "2.7.2").await;
    let (token, key) = bay.backed_up().await;
    bay.put(&token, "pearl", "after").await;

    bay.restore("dry", json!({"source": {"latest": true}, "dryRun": true})).await;
    let restore = bay.ended("dry", SOON).await;
    assert_eq!(end(&restore).0, RestorePhase::Completed, "{:?}", restore.status);
    assert_eq!(restore.status.unwrap().source.unwrap().key, key);
    assert_eq!(bay.cluster().await.status.unwrap().operation_lock, None);
    assert_eq!(bay.word(&token, "pearl").await.as_deref(), Some("after"));
    // What would refuse the restore refuses its rehearsal.
    let nobody = json!({"source": {"latest": true}, "dryRun": true, "jwtAuthRole": "nobody"});
    refused(&bay, "nobody", nobody, "", "the login was refused").await;

    bay.on_claim(&format!("cp /store/{key} /store/found.snap && chmod a+r /store/found.snap")).await;
    let spec = json!({"source": {"key": "found.snap"}, "waive": ["MissingManifest"], "preRestoreBackup": false});
    bay.restore("found", spec).await;
    let restore = bay.ended("found", SOON * 2).await;
    assert_eq!(end(&restore).0, RestorePhase::Completed, "{:?}", restore.status);
    assert_eq!(bay.word(&token, "pearl").await.as_deref(), Some("before"));
}
