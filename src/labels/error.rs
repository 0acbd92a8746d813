//! Why the series log cannot be used.

use std::io;

use crate::segments::SegmentsError;

/// The series log cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LabelsError {
    /// The files cannot be read or written, or are damaged.
    #[error(transparent)]
    Segments(#[from] SegmentsError),
    /// Records that were durable cannot be read.
    #[error(
        "{0}; --accept-loss goes on without the labels that lie there and takes them when they are sent again"
    )]
    Damaged(SegmentsError),
    /// What the log no longer needs to hold is not safe where it should be.
    #[error("the series log is not made shorter, because the store cannot be synced: {0}")]
    Sink(io::Error),
    /// A record passed its check and still makes no sense.
    #[error("series log entry {number} cannot be used: {why}")]
    Entry {
        /// Counted from 0.
        number: u64,
        /// What is wrong with it.
        why: String,
    },
}
