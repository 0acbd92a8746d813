//! Any bytes as lines of Prometheus text.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tidewatch_fuzz::exposition(bytes));
