//! The OpenBao HTTP client: health, leader, raft, login, policies. Pods are dialled by address with their TLS name.
