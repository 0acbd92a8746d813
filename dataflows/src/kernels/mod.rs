//! Mathematics on slices and plain values: no timely, no state of ours, no I/O.

mod exact;
pub mod moments;
pub mod packed;
pub mod reference;
#[cfg(test)]
pub(crate) mod shapes;
