//! Mathematics on slices and plain values: no timely, no state of ours, no I/O.

pub mod acf;
pub mod adf;
pub mod blocks;
pub mod decompose;
mod exact;
pub mod gaps;
#[cfg(test)]
pub(crate) mod golden;
pub mod grid;
pub mod lag_sums;
mod lanes;
pub mod ljung_box;
pub mod mackinnon;
pub mod moments;
pub mod order;
pub mod packed;
pub mod phases;
pub mod reference;
#[cfg(test)]
pub(crate) mod shapes;
pub mod sketch;
pub mod smoothing;
pub mod spectrum;
pub mod steps;
