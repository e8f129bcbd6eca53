//! The data mover against real OpenBao servers and real stores, on loopback: no Kubernetes needed, but for the part that
//! submits (`submit.rs`).

mod bao;
mod bench;
mod doubles;
mod faults;
mod mover;
mod rehearse;
mod roundtrip;
mod slow;
mod stores;
mod submit;
mod tools;
mod writes;
