//! What it checks is told in `src/hcl.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| openbao_operator_fuzz::hcl::check(input));
