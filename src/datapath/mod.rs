//! The data mover: snapshot archives streamed, verified, stored and fetched in constant memory.
//!
//! | file | what |
//! |---|---|
//! | [`archive`] | what a snapshot archive must be, and what can be read from it without a key |
//! | [`seal`] | what a static key proves about an archive |
//! | [`environment`], [`protocol`] | what mover and operator say to each other: plain data |
//! | [`cli`] | flags in, one JSON result out |
//! | [`backup`] | leader → spool → verification and upload → manifest |
//! | [`restore`] | store → scratch → verification → leave → claim → leader, once |
//! | [`rehearsal`] | store → scratch → a server of its own, restored and looked at |
//! | [`isolated`] | a program that can open no connection |
//! | [`stored`] | backups in a store: found, listed, read again |
//! | [`prune`] | deletion that a crash cannot leave half done |
//! | [`leader`] | who leads, and with which identity it is asked |
//! | `spool`, `feed`, `upload`, `buffers` | the pieces of the pipeline, each with its bound |
//! | `patience` | deadlines, and being told to stop |
//! | `mailbox`, `progress` | the mover's own object in the API server, and how far it is |
//! | [`error`] | why a command failed, by cause |

pub mod archive;
pub mod backup;
mod buffers;
pub mod cli;
pub mod environment;
pub mod error;
mod feed;
pub mod isolated;
pub mod leader;
mod mailbox;
mod patience;
mod progress;
pub mod protocol;
pub mod prune;
pub mod rehearsal;
pub mod restore;
pub mod seal;
mod spool;
pub mod stored;
mod upload;
