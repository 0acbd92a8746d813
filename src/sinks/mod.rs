//! Sinks: each tails the outbox at its own pace and keeps its own durable epoch. A dead sink lags; it stops
//! neither intake nor the others until the outbox's bound.
//!
//! [`sink`] is the contract, [`runner`] does what is the same for all of them, [`list`] is what the process asks about
//! all at once. A sink is a folder beside them.
//!
//! Not here: what rows look like (`store::row`), what they mean (`dataflows`).

pub mod list;
pub mod runner;
pub mod sink;
pub mod store;

#[cfg(test)]
mod tests;
