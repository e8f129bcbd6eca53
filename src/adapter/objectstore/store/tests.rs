use super::super::target::FileTarget;
use super::*;

fn folder() -> (tempfile::TempDir, Store) {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("backups").to_string_lossy().into_owned();
    let target = Target { provider: Provider::File, file: Some(FileTarget { root }), ..Target::default() };
    (folder, Store::open(&target, &Credentials::default()).unwrap())
}

#[tokio::test]
async fn a_folder_is_a_store() {
    let (_keep, store) = folder();
    assert!(store.preflight("p/ns/c/.preflight").await.unwrap(), "a folder honours create-only");
    assert_eq!(store.list("p/ns/c/").await.unwrap(), Listed::default());
    store.create("p/ns/c/a", Bytes::from_static(b"one")).await.unwrap();
    assert_eq!(store.head("p/ns/c/a").await.unwrap(), Some(3));
    assert_eq!(store.head("p/ns/c/b").await.unwrap(), None);
    assert!(matches!(
        store.create("p/ns/c/a", Bytes::from_static(b"two")).await,
        Err(StoreError::AlreadyExists { .. })
    ));
    assert_eq!(store.small("p/ns/c/a", 10).await.unwrap(), "one");
    assert!(matches!(store.small("p/ns/c/a", 2).await, Err(StoreError::Size { .. })));
    store.delete("p/ns/c/a").await.unwrap();
    store.delete("p/ns/c/a").await.unwrap();
}

#[tokio::test]
async fn odd_files_in_a_folder_hide_no_backup() {
    use std::os::unix::ffi::OsStrExt;
    let (keep, store) = folder();
    store.create("p/ns/c/a.snap", Bytes::from_static(b"one")).await.unwrap();
    let folder = keep.path().join("backups/p/ns/c");
    std::fs::write(folder.join("b\n.snap"), "").unwrap();
    std::fs::write(folder.join(std::ffi::OsStr::from_bytes(b"c\xff.snap")), "").unwrap();
    std::fs::create_dir(folder.join("old")).unwrap();
    let mut listed = store.list("p/ns/c/").await.unwrap();
    listed.odd.sort();
    let written = listed.objects[0].written;
    assert_eq!(listed.objects, [Stored { key: "p/ns/c/a.snap".into(), size: 3, written }]);
    assert!(chrono::Utc::now() - written.unwrap() < chrono::TimeDelta::minutes(1));
    assert_eq!(listed.odd, ["p/ns/c/b\n.snap", "p/ns/c/c\u{fffd}.snap"]);
}

#[tokio::test]
async fn an_object_longer_than_a_range_streams_whole_and_in_order() {
    let (_keep, store) = folder();
    let content: Vec<u8> = (0..RANGE * 2 + 77).map(|n| u8::try_from(n % 251).unwrap()).collect();
    store.create("big", content.clone().into()).await.unwrap();
    let chunks: Vec<Bytes> = store.stream("big", content.len() as u64).try_collect().await.unwrap();
    assert!(chunks.concat() == content);
    let too_long: Result<Vec<Bytes>, _> = store.stream("big", content.len() as u64 + 1).try_collect().await;
    assert!(matches!(too_long, Err(StoreError::Size { .. })));
}

#[tokio::test]
async fn staged_leftovers_of_one_key_are_cleared_and_nothing_else() {
    let (keep, store) = folder();
    let folder = keep.path().join("backups/ns/c");
    std::fs::create_dir_all(&folder).unwrap();
    for name in ["x.snap#1", "x.snap#27", "x.snap", "x.snap#a", "y.snap#1"] {
        std::fs::write(folder.join(name), "").unwrap();
    }
    store.clear_staged("ns/c/x.snap").await.unwrap();
    let mut left: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["x.snap", "x.snap#a", "y.snap#1"]);
}

#[test]
fn buckets_become_part_of_the_host_only_where_that_can_resolve() {
    let cases = [
        ("https://s3.eu-west-1.amazonaws.com", false, "https://abc.s3.eu-west-1.amazonaws.com", true),
        ("https://s3.eu-west-1.amazonaws.com", true, "https://s3.eu-west-1.amazonaws.com", false),
        ("https://store.example:9000/", false, "https://abc.store.example:9000", true),
        ("http://10.0.0.1:9000", false, "http://10.0.0.1:9000", false),
        ("http://[::1]:9000", false, "http://[::1]:9000", false),
        ("http://seaweedfs:8333", false, "http://seaweedfs:8333", false),
        ("http://minio.storage.svc:9000", false, "http://minio.storage.svc:9000", false),
        ("http://minio.storage.svc.cluster.local:9000", false, "http://minio.storage.svc.cluster.local:9000", false),
    ];
    for (endpoint, path_style, expected, virtual_hosted) in cases {
        assert_eq!(s3_endpoint(endpoint, "abc", path_style), (expected.to_owned(), virtual_hosted), "{endpoint}");
    }
}

#[test]
fn nothing_is_set_up_without_credentials() {
    for provider in [Provider::S3, Provider::Gcs, Provider::Azure] {
        let target = Target { provider, bucket: Some("abc".into()), ..Target::default() };
        let refused = Store::open(&target, &Credentials::default());
        assert!(matches!(refused, Err(StoreError::Credentials(_))), "{provider}");
    }
}

/// The client would go on to the node's identity by the metadata address.
#[test]
fn workload_identity_without_the_pod_s_variables_is_refused() {
    for provider in [Provider::S3, Provider::Azure] {
        let azure = Some(super::super::target::AzureTarget { storage_account: Some("acc".into()), container: None });
        let target =
            Target { provider, bucket: Some("abc".into()), workload_identity: true, azure, ..Target::default() };
        assert!(matches!(Store::open(&target, &Credentials::default()), Err(StoreError::Setup { .. })), "{provider}");
    }
}
