//! Any bytes as requests of remote write 2.0, decompressed.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tidewatch_fuzz::remote_write2(bytes));
