//! Backups: when one is due, how it runs, what is kept.
