//! Any bytes as a manifest, or a shard's state or panes.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tidewatch_fuzz::snapshots(bytes));
