//! The data mover: snapshot archives streamed, verified, stored and fetched in constant memory.
//!
//! | file | what |
//! |---|---|
//! | [`archive`] | what a snapshot archive must be, and what can be read from it without a key |
//! | [`environment`] | names of what a Job hands to the mover |
//! | [`seal`] | what a static key proves about an archive |
//! | [`protocol`] | what mover and operator say to each other: plain data |

pub mod archive;
pub mod environment;
pub mod protocol;
pub mod seal;
