//! A Prometheus server as source: `client` asks it, `answer` reads what it says, `tls` keeps the line private.
//!
//! Not here: when what is asked and where samples go. Whoever composes the worker does that.

pub mod answer;
pub mod client;
mod tls;

/// The name of the source in metrics.
pub const SOURCE: &str = "prometheus";
