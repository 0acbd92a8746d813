//! What Tidewatch computes: a pure function from a journal of samples to result rows.
pub mod outcome;
pub mod sample;
pub mod settings;
