//! Any bytes as lines of OpenMetrics.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tidewatch_fuzz::openmetrics(bytes));
