//! A Prometheus server as source: `client` asks it, `answer` reads what it says; `read` gets spans of raw samples in pieces,
//! `take` resolves labels and drops what came before, `choose` leaves series out.
//!
//! Not here: when what is asked and where samples go. Whoever composes Tidewatch does that.

pub mod answer;
pub mod choose;
pub mod client;
pub mod read;
pub mod take;

/// The name of the source in metrics.
pub const SOURCE: &str = "prometheus";
