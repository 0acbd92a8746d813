//! The operators: one file, one name in the graph. Each is a *tactic*: per-shard state and what to do with
//! a complete batch. The driver owns capabilities and frontiers; the graph wires. No operator knows another.

pub mod admit;
pub mod profile;
pub mod quantiles;
pub mod resample;
pub mod window;
