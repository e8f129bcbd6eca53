//! The only writer of `status.operationLock`.
