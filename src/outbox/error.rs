//! Why the outbox cannot be opened, read or written.

use std::path::PathBuf;

use crate::segments::SegmentsError;

/// The outbox cannot be opened, read or written. All of these are definite, unless [`OutboxError::passes`].
#[derive(Debug, thiserror::Error)]
pub enum OutboxError {
    /// The files.
    #[error(transparent)]
    Segments(#[from] SegmentsError),
    /// Records that were durable cannot be read.
    #[error("{0}; --accept-loss goes on without the epochs whose rows lie there")]
    Damaged(SegmentsError),
    /// A record of a kind this program does not know.
    #[error(
        "the outbox holds a record of kind {kind}, which this program does not know; was it written by a newer one?"
    )]
    UnknownKind { kind: u8 },
    /// A record that is not what its kind says.
    #[error("an outbox record cannot be used: {why}")]
    Malformed { why: String },
    /// What was made from it is ahead of it.
    #[error("{} is damaged at offset {offset}: {why}; the outbox ends {} there, and the {what} holds epoch {epoch}, so what follows had been synced; --accept-loss goes on above it", path.display(), at(*found))]
    Behind {
        /// The last segment.
        path: PathBuf,
        offset: u64,
        why: String,
        what: &'static str,
        epoch: u64,
        found: Option<u64>,
    },
}

pub(super) fn at(found: Option<u64>) -> String {
    found.map_or_else(|| "without an epoch".to_owned(), |epoch| format!("with epoch {epoch}"))
}

impl OutboxError {
    /// What opening the log came to. What is wrong with a header says itself what to do.
    pub(super) fn of_opening(self) -> OutboxError {
        match self {
            OutboxError::Segments(error @ SegmentsError::Damaged { offset: 1.., .. }) => {
                OutboxError::Damaged(error)
            }
            other => other,
        }
    }

    /// Whether the same can be written again when this is over: the disk has no room, most often.
    pub fn is_transient(&self) -> bool {
        matches!(self, OutboxError::Segments(error) if error.is_transient())
    }

    /// Whether another start of the process may do better.
    pub fn restart_helps(&self) -> bool {
        matches!(self, OutboxError::Segments(error) if error.restart_helps())
    }
}
