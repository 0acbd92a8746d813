//! What Tidewatch computes: a pure function from a journal of samples to result rows.
//!
//! ```text
//!  samples ──exchange by shard──► admit ──► window ──► outcomes, one batch per epoch
//! ```
//!
//! No clock, no I/O, no randomness, no logging here: the same journal gives the same bytes, for any number
//! of workers. What cannot be used becomes a reject row, never an error.
//!
//! Read in this order: [`sample`], [`rows`], [`statistics`], [`settings`], [`snapshot`] (the nouns); [`graph`] (the wiring);
//! [`driver`] and [`shard`] (what operators share); [`stages`]; [`kernels`].
#![deny(clippy::print_stdout, clippy::print_stderr, clippy::unwrap_used)]
#![warn(missing_docs)]

#[cfg(feature = "faults")]
pub mod faults;

pub mod mutants;

pub mod sample;

pub mod rows;

pub mod statistics;

pub mod settings;

pub mod snapshot;

pub mod graph;

pub mod driver;

pub mod shard;

pub mod stages;

pub mod kernels;
