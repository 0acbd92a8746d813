//! Where samples come from: bytes → samples. Transports (`receive`, `replay`) are kept apart from formats
//! (`remote_write`, `remote_write2` with `histogram`, `exposition` with `dump`, `openmetrics`, `csv`); what passes the gate `validate` leaves as batches of
//! `(series, at_ms, value)`, labels resolved.
//!
//! Not here: the journal. Whoever composes the server hands in an [`Intake`].

pub mod csv;
pub mod dump;
pub mod exposition;
mod histogram;
pub mod openmetrics;
mod protobuf;
pub mod query;
pub mod receive;
pub mod remote_write;
pub mod remote_write2;
pub mod replay;
pub mod validate;

use std::net::IpAddr;

use tidewatch_dataflows::sample::{MetricType, Samples};
use tokio::sync::oneshot;

/// Resolves when the samples are durable, or with the reason why they are not and will not be.
pub type DurableFuture = oneshot::Receiver<Result<(), String>>;

/// The journal as sources see it.
pub trait Intake: Send + Sync {
    /// Hands samples over for the next group commit. Never waits.
    ///
    /// # Errors
    /// If they cannot be taken now: full, failed, or shutting down. None of them was taken then.
    fn offer(&self, samples: Samples) -> Result<DurableFuture, IntakeRefusal>;

    /// Hands over the types of series, as [`Intake::offer`] does samples.
    ///
    /// # Errors
    /// If they cannot be taken now; none of them was taken then.
    fn record_types(&self, types: Vec<(u64, MetricType)>) -> Result<DurableFuture, IntakeRefusal>;

    /// The number of the epoch being filled: the mark of last use for labels.
    fn epoch(&self) -> u64;

    /// Whether series that ended before the start may still be counted: what was released is known again until the
    /// journal has been read back, so limits on series are no reason to refuse for good.
    fn catching_up(&self) -> bool {
        false
    }

    /// The newest processing time that is durable: the clock was there once. `i64::MIN` for none.
    fn processing_ms(&self) -> i64 {
        i64::MIN
    }

    /// A sender has pushed a sample of this time, its newest.
    fn observe_sender(&self, _sender: IpAddr, _newest_ms: i64) {}
}

/// The journal does not take samples now. The sender is asked to come again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{why}; try again in {retry_after_seconds} s")]
pub struct IntakeRefusal {
    /// When it is worth trying again.
    pub retry_after_seconds: u64,
    /// What is full, failed or closed, with the bound.
    pub why: String,
}

#[cfg(test)]
pub(crate) mod support {
    use std::path::{Path, PathBuf};

    /// A folder for one test, removed at its end.
    pub struct Folder {
        /// Where it is.
        pub path: PathBuf,
        _removed: tempfile::TempDir,
    }

    impl Folder {
        /// Makes a folder nobody else uses.
        pub fn new() -> Folder {
            let removed = tempfile::tempdir().unwrap();
            Folder { path: Path::to_owned(removed.path()), _removed: removed }
        }
    }
}
