//! The data mover: snapshot archives streamed, verified, stored and fetched in constant memory.
//!
//! | file | what |
//! |---|---|
//! | [`archive`] | what a snapshot archive must be, and what can be read from it without a key |
//! | [`protocol`] | what mover and operator say to each other: plain data |

pub mod archive;
pub mod protocol;
