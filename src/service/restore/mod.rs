//! Restores: refuse early, submit once, prove, restart.
