//! Object stores: from a target in a spec to an `object_store` client, object keys, and the backup manifest.
//!
//! | file | what |
//! |---|---|
//! | [`target`] | where backups go, as plain data: the operator freezes it and hands it to a Job as JSON |
//! | [`keys`] | names of the objects of one backup, and the way back from a name |
//! | [`manifest`] | the small object that makes a snapshot a backup |

pub mod keys;
pub mod manifest;
pub mod target;

pub use keys::{BackupName, ObjectKind};
pub use manifest::Manifest;
pub use target::{Provider, Target};
