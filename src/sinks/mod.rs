//! Sinks: each tails the outbox at its own pace and keeps its own durable epoch. A dead sink lags; it stops
//! neither intake nor the others until the outbox's bound.
//!
//! Not here: what rows look like (`store::row`), what they mean (`dataflows`).

pub mod retention;
pub mod store;
