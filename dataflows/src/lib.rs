//! What Tidewatch computes: a pure function from a journal of samples to result rows.
//!
//! ```text
//!  samples ──exchange by shard──► stages of each shard (admit ──► window ...) ──► rows, one batch per epoch
//! ```
//!
//! No clock, no I/O, no randomness, no logging here: the same journal gives the same bytes, for any number
//! of workers. What cannot be used becomes a reject row, never an error.
//!
//! Read in this order: [`sample`], [`rows`], [`statistics`], [`settings`], [`snapshot`] (the nouns); [`graph`] (the wiring) and [`pipeline`]
//! (the list of stages); [`driver`], [`shard`], [`seal`] (what stages share); [`stage`] (their contract); [`stages`];
//! [`kernels`].
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

pub mod pipeline;

pub mod driver;

pub mod shard;

pub mod seal;

pub mod stage;

pub mod stages;

pub mod kernels;
