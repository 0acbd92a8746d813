//! SQLite's own files: making them safe from a power cut, and what becomes of them when that fails.
//!
//! **After a failed sync** nobody knows what is on the disk: the system may have marked pages as written that are not, so
//! the next sync that succeeds says nothing of them, and what is read comes from memory. So nothing is written any more and
//! nothing counts as safe until the files were opened anew: all connections are closed without folding the log into the
//! file, what the system remembers of both files is given up, and SQLite reads its log as a start after a power cut
//! does, as far as its checksums go. The epoch that is found then is on the disk, and what follows it is taken from the
//! outbox again, which was not trimmed beyond the last sync that succeeded.
//!
//! While another program has the store open SQLite does not read the log anew: its index of it is shared.
//!
//! Not here: how both is done (`reopen`).

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Release;

use rusqlite::ErrorCode;

use crate::faults::sync_fails;
use crate::store::StoreError;

/// SQLite's own files, held open to sync them.
///
/// Closing any descriptor of a file gives up all locks that the process has on it, those of SQLite as well; without them
/// another program would take the store for one that nobody has open, and remove the log under the writer. So these are
/// closed only after the last connection.
pub struct StoreFiles {
    pub(super) log: File,
    pub(super) store: File,
}

impl StoreFiles {
    /// Opens them after the writer, which has made both, and makes their names durable.
    pub(super) fn open(path: &Path) -> Result<StoreFiles, StoreError> {
        let fail = |path: &Path, attempt, error: io::Error| StoreError::Unavailable {
            path: path.to_owned(),
            attempt,
            why: error.to_string(),
        };
        let open = |path: &Path| File::open(path).map_err(|error| fail(path, "open for syncing", error));
        let mut log = path.as_os_str().to_owned();
        log.push("-wal");
        let files = StoreFiles { log: open(Path::new(&log))?, store: open(path)? };
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let folder = folder.unwrap_or(Path::new("."));
        let synced = File::open(folder).and_then(|folder| folder.sync_all());
        synced.map_err(|error| fail(folder, "sync the folder of the store", error))?;
        Ok(files)
    }

    /// SQLite's log first, then the file: what a checkpoint has moved from one to the other it has synced itself.
    pub(super) fn sync(&self) -> io::Result<()> {
        if sync_fails("store") {
            return Err(io::Error::from_raw_os_error(5));
        }
        self.log.sync_all()?;
        self.store.sync_all()
    }
}

/// Takes note of what a checkpoint came to. One that found a reader in its way, or no room, is made later and lost nothing.
pub(super) fn note<T>(checkpoint: &rusqlite::Result<T>, doubtful: &AtomicBool) {
    let code = checkpoint.as_ref().err().and_then(rusqlite::Error::sqlite_error_code);
    if code == Some(ErrorCode::SystemIoFailure) {
        doubtful.store(true, Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::Ordering::Acquire;

    #[test]
    fn a_checkpoint_that_the_disk_refused_leaves_a_doubt_and_one_in_whose_way_is_a_reader_does_not() {
        // SQLITE_IOERR_FSYNC; busy, locked, full.
        for (code, doubts) in [(1_034, true), (5, false), (6, false), (13, false)] {
            let doubtful = AtomicBool::new(false);
            let error = rusqlite::ffi::Error::new(code);
            note::<()>(&Err(rusqlite::Error::SqliteFailure(error, None)), &doubtful);
            note(&Ok(()), &doubtful);
            assert_eq!(doubtful.load(Acquire), doubts, "{code}");
        }
    }
}
