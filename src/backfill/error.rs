//! Why a backfill fails. All definite: whoever ordered it is told, and what was written by then stays.

use std::io;
use std::path::PathBuf;

use crate::engine::{AskError, EngineError};
use crate::journal::JournalError;
use crate::labels::LabelsError;
use crate::outbox::OutboxError;
use crate::reading::ReadingError;
use crate::select::SelectError;
use crate::store::StoreError;

/// Why a backfill fails.
#[derive(Debug, thiserror::Error)]
pub enum BackfillError {
    /// Someone asked it to end.
    #[error("cancelled")]
    Cancelled,
    /// The folder of one before cannot be removed.
    #[error("removing {}, which a backfill left behind", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Its series log cannot be made.
    #[error("opening the series log")]
    OpenLabels(#[source] LabelsError),
    /// Its outbox cannot be made.
    #[error("opening the outbox")]
    OpenOutbox(#[source] OutboxError),
    /// Its journal cannot be made.
    #[error("opening the backfill's journal")]
    OpenJournal(#[source] JournalError),
    /// What is set for series cannot be found.
    #[error(transparent)]
    Select(#[from] SelectError),
    /// Its engine cannot be started.
    #[error(transparent)]
    StartEngine(#[from] EngineError),
    /// Its engine has ended.
    #[error("the backfill's engine: {0}")]
    EngineFailed(String),
    /// The thread that asks the server cannot be started.
    #[error("starting to read")]
    Thread(#[source] io::Error),
    /// The server's answers cannot be had.
    #[error("reading into the backfill: {0}")]
    Source(String),
    /// Samples do not come into its journal.
    #[error("reading into the backfill")]
    Reading(#[from] ReadingError),
    /// Its outbox has no more room.
    #[error(
        "the backfill's outbox is at its bound outbox.bytes_max ({bytes_max}); take a shorter range or fewer series"
    )]
    OutboxFull {
        /// The bound.
        bytes_max: u64,
    },
    /// Its outbox cannot be written.
    #[error("the backfill's outbox cannot be written: {0}")]
    OutboxUnwritable(String),
    /// Its journal has failed at the end.
    #[error("closing the backfill's journal")]
    CloseJournal(#[source] JournalError),
    /// Its outbox cannot be read back.
    #[error("reading the backfill's outbox")]
    ReadOutbox(#[from] OutboxError),
    /// The live engine has computed nothing, so no key is finished.
    #[error(
        "nothing was computed here yet, so there is no time to write up to; use replay without --backfill"
    )]
    NothingComputed,
    /// The workers of the live engine do not answer.
    #[error("asking the live engine how far its series are")]
    Ask(#[from] AskError),
    /// Too many keys have more than one answer.
    #[error(
        "late samples may correct at most {most} keys of a backfill; these correct more: order them by time, or take a shorter range"
    )]
    CorrectedKeys {
        /// The bound.
        most: usize,
    },
    /// The store cannot be written.
    #[error("writing the backfill")]
    Write(#[from] StoreError),
    /// The live engine computes nothing, and nobody changes that.
    #[error("{0}, so the store does not hold what the live engine computes")]
    LiveStuck(String),
}
