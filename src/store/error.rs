//! What goes wrong in a store: what may pass by itself, and what stays.

use std::io;
use std::path::PathBuf;

/// Why the store did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file is not a store; give up.
    #[error("{} is not a store of tidewatch: {why}", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// What gave it away.
        why: String,
    },
    /// Another version wrote the file; give up.
    #[error("{} is a store of version {found}; this program knows version {known}", path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// Version of the file.
        found: i64,
        /// Version of this program.
        known: i64,
    },
    /// Another version wrote the file, with other kinds of rows; give up.
    #[error("{} is a store of {found:?}; this program knows {known:?}", path.display())]
    Kinds {
        /// The file.
        path: PathBuf,
        /// The kinds of rows in the file, with their versions.
        found: String,
        /// Those of this program.
        known: String,
    },
    /// There is no file to read; give up.
    #[error("there is no store at {}", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// The file is damaged; give up, a human must act.
    #[error("the store {} is damaged: {why}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What SQLite said.
        why: String,
    },
    /// What SQLite finds in the file is not what it wrote: nothing in it is to be trusted.
    #[error("the store {} is damaged: {why}", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What SQLite said.
        why: String,
    },
    /// Busy, out of space, a failing disk: try again.
    #[error("cannot {attempt} in the store {}: {why}", path.display())]
    Unavailable {
        /// The file.
        path: PathBuf,
        /// What was attempted.
        attempt: &'static str,
        /// What SQLite said.
        why: String,
    },
    /// The question took too long; ask for less.
    #[error(
        "the query took longer than {limit_ms} ms; ask for fewer series, fewer windows or a shorter range"
    )]
    Deadline {
        /// The bound.
        limit_ms: u64,
    },
    /// A regex takes too much work; ask with another.
    #[error(
        "the regex {regex:?} takes too much work on these labels; choose one with fewer counted repetitions"
    )]
    Work {
        /// Its beginning.
        regex: String,
    },
    /// Nobody waits for the answer any more.
    #[error("nobody waits for the answer any more")]
    Cancelled,
    /// The answer has too many groups; ask for less.
    #[error("the sum has more than {limit} groups; sum by fewer columns, or match fewer series")]
    Groups {
        /// The bound.
        limit: usize,
    },
    /// What was given cannot be stored; give up.
    #[error("{0}")]
    Refused(String),
    /// The receiver of an export failed.
    #[error("cannot write the export: {0}")]
    Output(#[from] io::Error),
}

impl StoreError {
    /// Whether the same call may succeed later.
    pub fn is_transient(&self) -> bool {
        matches!(self, StoreError::Unavailable { .. })
    }
}
