//! Object stores: from a target in a spec to an `object_store` client, object keys, and the backup manifest.
