//! Any bytes as what a Prometheus answers.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tidewatch_fuzz::answer(bytes));
