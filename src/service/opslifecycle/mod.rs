//! The shared safety model of every disruptive act: lock, retry classes, audit, saga, operation records, retention.
