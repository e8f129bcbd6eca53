//! Kubernetes: server-side apply, tolerant watches, owner proofs, events, time conversion.
