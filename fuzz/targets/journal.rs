//! Any bytes as a segment of the journal.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tidewatch_fuzz::journal(bytes));
