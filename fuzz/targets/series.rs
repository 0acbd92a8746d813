//! Any bytes as a segment of the series log.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tidewatch_fuzz::series(bytes));
