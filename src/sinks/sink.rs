//! The contract of a sink.
//!
//! A sink takes batches of whole epochs and tells which epoch it holds. Everything else is the runner's: reading the
//! outbox, the size of batches, trying again, metrics, status, and the drain at shutdown.
//!
//! Not here: reading the outbox ([`super::runner`]), what is asked about all sinks together ([`super::list`]).

use std::sync::Arc;

use crate::outbox::OutboxBatch;

/// What goes wrong at the other end of a sink.
pub type Cause = Box<dyn std::error::Error + Send + Sync>;

/// Why a sink did not take a batch.
#[derive(Debug, thiserror::Error)]
pub enum SinkError {
    /// The same batch may be taken later: the runner tries it again, for as long as it takes.
    #[error("{0}")]
    Transient(Cause),
    /// It will never be taken: the runner ends the sink.
    #[error("{cause}")]
    Definite {
        /// What went wrong.
        cause: Cause,
        /// Whether another start of the process may do better.
        restart_helps: bool,
    },
}

impl SinkError {
    /// Whether the same batch may be taken later.
    pub fn is_transient(&self) -> bool {
        matches!(self, SinkError::Transient(_))
    }
}

/// Makes what a sink has written safe from a power cut, and returns the newest epoch that is. Called from other threads
/// while the sink writes.
pub type SyncHook = Arc<dyn Fn() -> Result<Option<u64>, SinkError> + Send + Sync>;

/// Whether a sink still holds what it has written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SinkRecovery {
    /// It does.
    Intact,
    /// It had to begin anew, and holds everything up to this epoch: the runner goes on behind it.
    Reopened(Option<u64>),
}

/// How many rows of each kind a sink has written.
pub type RowCounts = Vec<(&'static str, u64)>;

/// Where rows go.
///
/// # Contract
/// - Epochs come in rising order, each whole, and each behind [`Sink::written`]. An epoch without rows comes as well.
/// - Once [`Sink::write`] has returned, a restart finds at least these epochs in [`Sink::written`], or takes them again.
/// - An epoch may come again after a kill or a reopening. A sink that cannot write its epoch in the same transaction as
///   the rows delivers them at least once; readers keep the highest revision of a key.
/// - No call waits for ever: each has its own time limit. Only one thread calls, but for the [`SyncHook`].
pub trait Sink: Send {
    /// Its name in metrics, logs and the status.
    fn name(&self) -> &'static str;

    /// Whether the process is of no use without it. It ends with such a sink; without another it goes on, and the outbox
    /// keeps what that one lacks.
    fn essential(&self) -> bool {
        false
    }

    /// The newest epoch that it holds; none if it holds nothing.
    ///
    /// # Errors
    /// It cannot be asked.
    fn written(&self) -> Result<Option<u64>, SinkError>;

    /// How its rows are made safe from a power cut; none if they are when [`Sink::write`] returns.
    fn sync_hook(&self) -> Option<SyncHook> {
        None
    }

    /// Called before each batch and some times a second while there is none: chores, such as retention.
    fn tick(&mut self) {}

    /// Begins anew if what was written is in doubt. Called before each batch and after each transient error.
    ///
    /// # Errors
    /// It cannot begin anew, or not yet.
    fn recover(&mut self) -> Result<SinkRecovery, SinkError> {
        Ok(SinkRecovery::Intact)
    }

    /// Takes these epochs.
    ///
    /// # Errors
    /// None of them counts as written.
    fn write(&mut self, batches: &[OutboxBatch]) -> Result<RowCounts, SinkError>;
}
