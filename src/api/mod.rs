//! The HTTP API: what the store holds and how the server fares, for people, scripts and Prometheus.
//!
//! What can be asked for is in the list of [`operations`]; `/` and `/docs` are pages ([`page`]).
//!
//! A list is `{"data":[...],"next":cursor|null}`, or CSV with the cursor in the header `x-next-cursor`. Every error is
//! `application/problem+json`.
//!
//! Not here: `POST /api/v1/write`, whose router is merged with this one; what a backfill is ([`Backfills`](server::Backfills) is
//! asked for it).

mod analysis;
mod backfill;
pub mod boundary;
mod catalog;
mod corrections;
mod cursor;
mod error;
mod events;
mod explain;
mod health;
mod list;
mod measure;
mod names;
mod now;
mod openapi;
mod operation;
pub mod operations;
mod page;
mod params;
mod problems;
mod profiles;
mod questions;
mod rejects;
mod router;
mod samples;
mod series;
pub mod server;
mod status;
#[cfg(test)]
mod tests;
mod unread;
mod windows;
mod write;

pub use error::{Problem, shown};
pub use questions::{Api, Deps, QUESTIONS_MAX, THREADS};
pub use router::router;
pub use unread::drain_unread;
