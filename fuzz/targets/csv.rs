//! Any bytes as a header and rows of CSV.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tidewatch_fuzz::csv(bytes));
