//! Any bytes as a segment of the outbox.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tidewatch_fuzz::outbox(bytes));
