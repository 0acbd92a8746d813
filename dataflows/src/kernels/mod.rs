//! Mathematics on slices and plain values: no timely, no state of ours, no I/O.

pub mod moments;
pub mod reference;
