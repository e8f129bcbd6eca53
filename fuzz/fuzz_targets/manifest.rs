//! What it checks is told in `src/manifest.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| openbao_operator_fuzz::manifest::check(bytes));
