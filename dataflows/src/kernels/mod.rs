//! Mathematics on slices and plain values: no timely, no state of ours, no I/O.

pub mod acf;
pub mod adf;
mod exact;
#[cfg(test)]
pub(crate) mod golden;
pub mod lag_sums;
mod lanes;
pub mod ljung_box;
pub mod mackinnon;
pub mod moments;
pub mod packed;
pub mod reference;
#[cfg(test)]
pub(crate) mod shapes;
