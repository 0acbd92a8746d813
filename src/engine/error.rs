//! What stops the engine for good, and the bounds whose end does.

use std::time::Duration;

use crate::journal::JournalError;
use crate::outbox::OutboxError;
use crate::snapshots::SnapshotError;

/// Restarts within [`WITHIN`] that the engine tries; the next panic ends the process.
pub(super) const RESTARTS_MAX: usize = 8;

/// The time in which restarts are counted; without a panic in it the first wait is short again.
pub(super) const WITHIN: Duration = Duration::from_mins(10);

/// Series that may be quarantined, those let in again included: every segment of the journal begins with them.
pub(super) const QUARANTINED_MAX: usize = 1_024;

/// What stops the engine for good; the process has to end.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The journal cannot be read back.
    #[error("the journal cannot be read back: {0}")]
    Journal(#[from] JournalError),
    /// The outbox cannot be written.
    #[error("the outbox cannot be written: {0}")]
    Outbox(#[from] OutboxError),
    /// Snapshots cannot be read.
    #[error("the snapshots cannot be read: {0}")]
    Snapshots(#[from] SnapshotError),
    /// Nobody knows what the outbox holds in memory; opening it again tells.
    #[error("{message}, and it was in the outbox, which has to be opened again")]
    OutboxPanic {
        /// The panic.
        message: String,
    },
    /// Building the engine anew does not help.
    #[error("{message}; the engine was built anew {RESTARTS_MAX} times within {} minutes already", WITHIN.as_secs() / 60)]
    TooManyRestarts {
        /// The last panic.
        message: String,
    },
    /// A panic was not followed by the end of the other threads.
    #[error("{threads} did not end within {seconds} s; before that: {after}")]
    Stuck {
        /// Those that go on.
        threads: String,
        /// Why they were to end.
        after: String,
        /// How long they were waited for.
        seconds: u64,
    },
    /// One more series would have to be quarantined.
    #[error("{message}; {QUARANTINED_MAX} series were quarantined already")]
    QuarantineFull {
        /// The panic.
        message: String,
    },
    /// A thread cannot be started.
    #[error("a thread of the engine cannot be started: {0}")]
    Thread(#[from] std::io::Error),
    /// The workers cannot be started.
    #[error("the timely workers cannot be started: {0}")]
    Timely(String),
    /// Rows of two epochs would be written as those of one.
    #[error("a worker handed over epoch {other} while another one handed over epoch {first}")]
    EpochsDiffer {
        /// The epoch of the first worker.
        first: u64,
        /// That of another one.
        other: u64,
    },
}

impl EngineError {
    /// Whether another start of the process may do better: nothing that is durable is wrong.
    pub fn restart_helps(&self) -> bool {
        match self {
            EngineError::Journal(error) => error.restart_helps(),
            EngineError::Outbox(error) => error.restart_helps(),
            EngineError::Snapshots(error) => error.restart_helps(),
            _ => true,
        }
    }
}
