//! `kubectl openbao`: what a person asks of the operator's objects, and asks the operator to do.
//!
//! It talks to the API server only, with the person's own rights. What it prints is decided by pure functions over the
//! objects that were read; what it asks for is an object or an entry in `spec.requests`, so that everything it does can
//! be done with kubectl alone.

pub mod args;
mod table;
mod view;
