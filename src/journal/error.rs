//! Why the journal cannot be opened or read, and why it does not take a batch.

use std::io;

use crate::segments::SegmentsError;

/// The journal cannot be opened or read. All of these are definite.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The files.
    #[error(transparent)]
    Segments(#[from] SegmentsError),
    /// Records that were durable cannot be read.
    #[error(
        "{source}; {bytes} bytes of the journal are lost, {}; --accept-loss goes on without them",
        between(*before, *after)
    )]
    Damaged { source: SegmentsError, bytes: u64, before: Option<u64>, after: Option<u64> },
    /// What was asked for is not in the journal any more.
    #[error("the journal cannot be read {}: it was trimmed, and holds what follows epoch {}", after(*wanted), first.unwrap_or(0))]
    Trimmed { wanted: Option<u64>, first: Option<u64> },
    /// What is made from the journal is ahead of it.
    #[error(
        "the {what} holds epoch {epoch}, which the journal (last epoch {found}) does not: the journal lost its end, or is another one; --accept-loss starts above it"
    )]
    Behind { what: &'static str, epoch: u64, found: u64 },
    /// A record of a kind this program does not know.
    #[error(
        "the journal holds a record of kind {kind}, which this program does not know; was it written by a newer one?"
    )]
    UnknownKind { kind: u8 },
    /// A record that is not what its kind says.
    #[error("a journal record of kind {kind} cannot be used: {why}")]
    Malformed { kind: u8, why: String },
    /// The clock is far behind what the journal has seen.
    #[error("the clock says {}, more than 10m behind the journal's processing time {}; set the clock, wait, or go by the clock from now on with --accept-clock", time(*clock_ms), time(*processing_ms))]
    ClockBehind { clock_ms: i64, processing_ms: i64 },
    /// The writer thread could not be started.
    #[error("cannot start the journal's writer thread: {0}")]
    Thread(io::Error),
    /// Writing failed.
    #[error("{0}")]
    Failed(String),
}

impl JournalError {
    /// Whether another start of the process may do better.
    pub fn restart_helps(&self) -> bool {
        match self {
            JournalError::Segments(error) => error.restart_helps(),
            JournalError::Thread(_) | JournalError::Failed(_) => true,
            _ => false,
        }
    }
}

pub(super) fn time(ms: i64) -> String {
    jiff::Timestamp::from_millisecond(ms).map_or_else(|_| format!("{ms} ms"), |time| time.to_string())
}

fn between(before: Option<u64>, after: Option<u64>) -> String {
    let name =
        |epoch: Option<u64>, none: &str| epoch.map_or_else(|| none.to_owned(), |e| format!("epoch {e}"));
    format!("between {} and {}", name(before, "the beginning"), name(after, "its end"))
}

fn after(wanted: Option<u64>) -> String {
    wanted.map_or_else(|| "from its beginning".to_owned(), |epoch| format!("after epoch {epoch}"))
}

/// Why the journal did not take a batch. For a source these are all "not now".
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QueueError {
    /// The queue has no room; trying again in a moment helps.
    #[error(
        "the journal's queue is full: {batches} batches of {batches_max}, {samples} samples of {samples_max}"
    )]
    Full { batches: usize, batches_max: usize, samples: usize, samples_max: usize },
    /// The journal is as large as it may be.
    #[error("the journal holds {bytes} bytes; journal.bytes_max is {bytes_max}")]
    BytesMax { bytes: u64, bytes_max: u64 },
    /// A write failed; trying again helps when there is room on the disk.
    #[error("the journal is stalled: {0}")]
    Stalled(String),
    /// A sync failed; nothing is taken before a restart.
    #[error("the journal has failed and takes nothing before a restart: {0}")]
    Failed(String),
    /// Shutting down.
    #[error("the journal is closed")]
    Closed,
}
