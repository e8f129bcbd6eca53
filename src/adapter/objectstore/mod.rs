//! Object stores: from a target in a spec to an `object_store` client, object keys, and the backup manifest.
//!
//! | file | what |
//! |---|---|
//! | [`target`] | where backups go, as plain data: the operator freezes it and hands it to a Job as JSON |
//! | [`credentials`] | what the mounted Secret holds; missing means refused |
//! | [`store`] | the requests themselves |
//! | [`error`] | what went wrong, by cause |
//! | [`keys`] | names of the objects of one backup, and the way back from a name |
//! | [`manifest`] | the small object that makes a snapshot a backup |

pub mod credentials;
pub mod error;
pub mod keys;
pub mod manifest;
pub mod store;
pub mod target;

pub use credentials::Credentials;
pub use error::StoreError;
pub use keys::{BackupName, ObjectKind};
pub use manifest::Manifest;
pub use store::{Listed, Store};
pub use target::{Provider, Target};
