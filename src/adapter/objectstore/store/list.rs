//! Lists of objects, around keys that are none of ours and that the client takes for no path: an empty part
//! (`backups//x`), a dot, a control character. The client gives up a whole page over one of them; here it is stepped over
//! and named, and everything else is listed. Nothing is ever done to such an object.

use chrono::{DateTime, Utc};
use object_store::list::{PaginatedListOptions, PaginatedListResult, PaginatedListStore};
use object_store::path::{Error as OddPath, Path};

use super::{Store, StoreError, Stored, detail};

/// What a store gives at most in one answer.
const PAGE: usize = 1000;

/// What is under a prefix.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listed {
    /// In no particular order.
    pub objects: Vec<Stored>,
    /// Keys that are no paths: passed over.
    pub odd: Vec<String>,
}

impl Store {
    /// Everything under a prefix that ends in `/`; of a folder what lies directly in it, as every backup does.
    pub async fn list(&self, prefix: &str) -> Result<Listed, StoreError> {
        let Some(pages) = &self.pages else { return self.folder(prefix).await };
        around(&**pages, prefix).await.map_err(|error| match error {
            object_store::Error::InvalidPath { .. } => {
                StoreError::OddKey { target: self.name.to_string(), prefix: prefix.to_owned(), detail: detail(&error) }
            }
            error => self.failed(&format!("the list of {prefix}"), &error),
        })
    }

    async fn folder(&self, prefix: &str) -> Result<Listed, StoreError> {
        let failed = |error: std::io::Error| StoreError::Server {
            target: self.name.to_string(),
            key: format!("the list of {prefix}"),
            detail: detail(&error),
        };
        let root = self.target.file.as_ref().map(|file| file.root.as_str()).unwrap_or_default();
        let mut listed = Listed::default();
        let mut entries = match tokio::fs::read_dir(std::path::Path::new(root).join(prefix)).await {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(listed),
            Err(error) => return Err(failed(error)),
        };
        while let Some(entry) = entries.next_entry().await.map_err(failed)? {
            let name = entry.file_name();
            let key = format!("{prefix}{}", name.to_string_lossy());
            if name.to_str().is_none() || Path::parse(&key).is_err() {
                listed.odd.push(key);
                continue;
            }
            match tokio::fs::metadata(entry.path()).await {
                Ok(found) if found.is_file() => {
                    listed.objects.push(Stored { key, size: found.len(), written: written(&found) });
                }
                Ok(_) => {}
                // Removed meanwhile, or a link that leads nowhere.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(failed(error)),
            }
        }
        Ok(listed)
    }
}

fn written(file: &std::fs::Metadata) -> Option<DateTime<Utc>> {
    let since = file.modified().ok()?.duration_since(std::time::UNIX_EPOCH).ok()?;
    DateTime::from_timestamp(i64::try_from(since.as_secs()).ok()?, since.subsec_nanos())
}

/// Page by page. One that holds an odd key is asked for again in ever smaller pieces, until the odd key is alone in it; the
/// list then goes on behind that key.
async fn around(store: &dyn PaginatedListStore, prefix: &str) -> object_store::Result<Listed> {
    let mut listed = Listed::default();
    let (mut token, mut offset, mut size) = (None, None, PAGE);
    loop {
        let options = PaginatedListOptions {
            page_token: token.clone(),
            offset: offset.clone(),
            max_keys: Some(size),
            ..PaginatedListOptions::default()
        };
        match store.list_paginated(Some(prefix), options).await {
            Ok(PaginatedListResult { result, page_token }) => {
                listed.objects.extend(result.objects.into_iter().map(|meta| Stored {
                    key: meta.location.to_string(),
                    size: meta.size,
                    written: Some(meta.last_modified),
                }));
                if page_token.is_none() {
                    return Ok(listed);
                }
                (token, offset, size) = (page_token, None, PAGE.min(size * 2));
            }
            Err(object_store::Error::InvalidPath { .. }) if size > 1 => size /= 2,
            Err(object_store::Error::InvalidPath { source }) => match raw(&source) {
                // One that comes again is not stepped over in this way.
                Some(key) if offset.as_deref() != Some(key) => {
                    listed.odd.push(key.to_owned());
                    (token, offset) = (None, Some(key.to_owned()));
                }
                _ => return Err(source.into()),
            },
            Err(error) => return Err(error),
        }
    }
}

/// The key as the store has it.
fn raw(error: &OddPath) -> Option<&str> {
    match error {
        OddPath::EmptySegment { path } | OddPath::BadSegment { path, .. } => Some(path),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures::FutureExt;
    use futures::future::{BoxFuture, ready};
    use object_store::{ListResult, ObjectMeta};
    use proptest::prelude::*;

    use super::*;

    /// Keys in order, as every store lists them.
    #[derive(Default)]
    struct Bucket {
        keys: Vec<String>,
        asked: AtomicUsize,
    }

    impl Bucket {
        fn of(keys: impl IntoIterator<Item = String>) -> Self {
            let mut keys: Vec<String> = keys.into_iter().collect();
            keys.sort();
            keys.dedup();
            Self { keys, asked: AtomicUsize::new(0) }
        }
    }

    impl Bucket {
        fn page(
            &self,
            prefix: Option<&str>,
            options: PaginatedListOptions,
        ) -> object_store::Result<PaginatedListResult> {
            self.asked.fetch_add(1, Ordering::Relaxed);
            let after = options.page_token.or(options.offset);
            let is_wanted = |key: &&String| key.starts_with(prefix.unwrap_or_default()) && after.as_ref() < Some(*key);
            let mut rest = self.keys.iter().filter(is_wanted);
            let page: Vec<&String> = rest.by_ref().take(options.max_keys.unwrap()).collect();
            let page_token = rest.next().and_then(|_| page.last().map(ToString::to_string));
            let meta = |key: &&String| {
                let location = Path::parse(key.as_str())?;
                Ok(ObjectMeta { location, last_modified: chrono::Utc::now(), size: 1, e_tag: None, version: None })
            };
            let objects = page.iter().map(meta).collect::<object_store::Result<_>>()?;
            let result = ListResult { common_prefixes: vec![], objects, extensions: options.extensions };
            Ok(PaginatedListResult { result, page_token })
        }
    }

    impl PaginatedListStore for Bucket {
        fn list_paginated<'a, 'b, 'c>(
            &'a self,
            prefix: Option<&'b str>,
            options: PaginatedListOptions,
        ) -> BoxFuture<'c, object_store::Result<PaginatedListResult>>
        where
            'a: 'c,
            'b: 'c,
        {
            ready(self.page(prefix, options)).boxed()
        }
    }

    fn names(listed: &Listed) -> Vec<String> {
        listed.objects.iter().map(|object| object.key.clone()).collect()
    }

    #[tokio::test]
    async fn odd_keys_are_named_and_hide_nothing() {
        let good = (0..2500).map(|n| format!("p/c/{n:04}.snap"));
        let odd = ["p/c//x", "p/c/0999.snap/../y", "p/c/1000\u{1}", "p/c/1000\u{2}", "p/c/zz//"].map(str::to_owned);
        let bucket = Bucket::of(good.clone().chain(odd.clone()).chain(["q/other//".to_owned()]));
        let listed = around(&bucket, "p/c/").await.unwrap();
        assert_eq!(names(&listed), good.collect::<Vec<_>>());
        assert_eq!(listed.odd, odd);
        let asked = bucket.asked.load(Ordering::Relaxed);
        assert!(asked < 100, "{asked} requests");
    }

    #[tokio::test]
    async fn a_list_without_odd_keys_takes_one_request_for_each_full_page() {
        let bucket = Bucket::of((0..2500).map(|n| format!("p/c/{n:04}.snap")));
        assert_eq!(around(&bucket, "p/c/").await.unwrap().objects.len(), 2500);
        assert_eq!(bucket.asked.load(Ordering::Relaxed), 3);
    }

    /// A store that does not know where to go on.
    struct Stuck;

    impl PaginatedListStore for Stuck {
        fn list_paginated<'a, 'b, 'c>(
            &'a self,
            _: Option<&'b str>,
            _: PaginatedListOptions,
        ) -> BoxFuture<'c, object_store::Result<PaginatedListResult>>
        where
            'a: 'c,
            'b: 'c,
        {
            ready(Err(Path::parse("p//x").unwrap_err().into())).boxed()
        }
    }

    #[tokio::test]
    async fn a_store_that_gives_the_same_odd_key_for_ever_is_an_error() {
        assert!(matches!(around(&Stuck, "p/").await, Err(object_store::Error::InvalidPath { .. })));
    }

    proptest! {
        #[test]
        fn every_key_is_listed_once_or_named_once(
            keys in prop::collection::btree_set("p/[a-c./\u{1}]{1,4}", 0..60),
        ) {
            let bucket = Bucket::of(keys.iter().cloned());
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let listed = runtime.block_on(around(&bucket, "p/")).unwrap();
            let (odd, good): (Vec<&String>, Vec<&String>) = keys.iter().partition(|key| Path::parse(key).is_err());
            prop_assert_eq!(listed.odd.iter().collect::<Vec<_>>(), odd);
            // A key that ends in a slash is listed without it.
            prop_assert_eq!(names(&listed).len(), good.len());
        }
    }
}
