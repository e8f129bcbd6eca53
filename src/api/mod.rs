//! The four kinds people touch: what their YAML looks like, what it defaults to, and what is refused at admission.
//!
//! Nothing here acts. Every other layer imports this one; this one imports none of them.

pub mod operation;
