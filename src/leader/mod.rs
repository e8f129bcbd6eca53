//! Leader election over a Lease: a pure decision, a conflict-checked write, fail-stop on loss.
