//! Why snapshots cannot be read or written.

use std::io;
use std::path::PathBuf;

pub(super) const MANIFEST: &str = "manifest";

/// Snapshots cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The operating system refused.
    #[error("cannot {doing} {}: {source}", path.display())]
    Io { doing: &'static str, path: PathBuf, source: io::Error },
    /// Bytes are not what was written.
    #[error("{} is damaged at offset {offset}: {why}", path.display())]
    Damaged { path: PathBuf, offset: u64, why: String },
    /// Written by a program of another age.
    #[error(
        "{} has version {found} of the snapshot format; this program reads version {known}. Start the program that wrote \
         it, or move the folder away: what the journal still holds is computed again, and windows that reach back \
         further lack the samples before it",
        path.display()
    )]
    Version { path: PathBuf, found: u32, known: u32 },
    /// A save does not go on from what its chain holds.
    #[error("a save cannot be used: {0}")]
    Unfit(&'static str),
    /// The writer thread could not be started.
    #[error("cannot start the snapshots' thread: {0}")]
    Thread(io::Error),
}

impl SnapshotError {
    /// Whether another start of the process may do better.
    pub fn restart_helps(&self) -> bool {
        matches!(self, SnapshotError::Io { .. } | SnapshotError::Thread(_))
    }
}
