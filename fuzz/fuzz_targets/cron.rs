//! What it checks is told in `src/cron.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|text: &str| openbao_operator_fuzz::cron::check(text));
