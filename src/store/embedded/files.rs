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

use std::ffi::c_int;
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Release};

use rusqlite::config::DbConfig;
use rusqlite::hooks::Wal;
use rusqlite::{Connection, ErrorCode};

use super::write::StoreWriter;
use super::{Embedded, schema};
use crate::disk::forget_cached;
use crate::faults::sync_fails;
use crate::store::{ReopenSummary, Store, StoreError};

/// SQLite's own files, held open to sync them.
///
/// Closing any descriptor of a file gives up all locks that the process has on it, those of SQLite as well; without them
/// another program would take the store for one that nobody has open, and remove the log under the writer. So these are
/// closed only after the last connection.
pub struct StoreFiles {
    log: File,
    store: File,
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
    fn sync(&self) -> io::Result<()> {
        if sync_fails("store") {
            return Err(io::Error::from_raw_os_error(5));
        }
        self.log.sync_all()?;
        self.store.sync_all()
    }
}

impl Embedded {
    /// As if a sync had failed, with what became of the files then.
    #[cfg(test)]
    pub(crate) fn fail_sync(&self, became: impl FnOnce()) {
        let _nobody_writes = self.writer().unwrap();
        became();
        self.doubtful.store(true, Release);
        assert!(self.sync_files().is_err(), "nothing is safe before the files are opened anew");
    }

    pub(super) fn sync_files(&self) -> Result<Option<u64>, StoreError> {
        let fail = |why: String| {
            let path = self.path.clone();
            Err(StoreError::Unavailable { path, attempt: "sync what was written", why })
        };
        let reopened = self.reopened.load(Acquire);
        let epoch = self.epoch()?;
        let Some(files) = &self.files else {
            let path = self.path.display();
            return Err(StoreError::Refused(format!(
                "cannot sync the store {path}: it was opened for reading only"
            )));
        };
        let files = files.lock();
        if self.doubtful.load(Acquire) || self.reopened.load(Acquire) != reopened {
            return fail("an earlier sync failed, and the files are opened anew first".to_owned());
        }
        match files.sync() {
            Ok(()) => {
                self.safe.fetch_max(epoch.map_or(0, |epoch| epoch.saturating_add(1)), AcqRel);
                Ok(epoch)
            }
            Err(error) => {
                self.doubtful.store(true, Release);
                fail(error.to_string())
            }
        }
    }

    /// Opens the connection that writes. Its checkpoints are made as SQLite makes them by itself; but a sync that fails in
    /// one, which SQLite keeps to itself and tries again, is one that failed.
    pub(super) fn open_writer(&self) -> Result<Connection, StoreError> {
        let mut conn = schema::open_for_writing(&self.path)?;
        let doubtful = Arc::clone(&self.doubtful);
        let hook = move |log: &mut Wal, pages: c_int| {
            if pages >= schema::CHECKPOINT_PAGES {
                note(&log.checkpoint(), &doubtful);
            }
            Ok(())
        };
        conn.wal_hook(Some(hook)).map_err(|error| schema::failure(&self.path, "open", error))?;
        Ok(conn)
    }

    /// Opens the files anew if a sync failed; questions that are at work are waited for, others wait.
    pub(super) fn reopen_if_doubtful(&self) -> Result<Option<ReopenSummary>, StoreError> {
        let (true, Some(writer), Some(files)) = (self.doubtful.load(Acquire), &self.writer, &self.files)
        else {
            return Ok(None);
        };
        let mut writer = writer.lock();
        let before = self.epoch().unwrap_or(None);
        let _alone = self.open.write();
        let mut files = files.lock();
        self.idle.lock().clear();
        // The connection that is closed last would fold the log into the file, and believe what it reads there.
        let fail = |error| schema::failure(&self.path, "open anew", error);
        let closed = Connection::open_in_memory().map_err(fail)?;
        let closed = std::mem::replace(&mut writer.conn, closed);
        closed.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).map_err(fail)?;
        closed.close().map_err(|(_, error)| fail(error))?;
        for file in [&files.log, &files.store] {
            // A system that does not do so can only be believed.
            let _ = forget_cached(file);
        }
        let conn = self.open_writer()?;
        *files = StoreFiles::open(&self.path)?;
        *writer = StoreWriter::new(conn, self.options.corrections_max, self.options.series_seen);
        let epoch = super::view::epoch(&writer.conn).map_err(fail)?;
        let safe = self.safe.load(Acquire);
        if epoch.map_or(0, |epoch| epoch.saturating_add(1)) < safe {
            let held = epoch.map_or_else(|| "no epoch".to_owned(), |epoch| format!("epoch {epoch}"));
            let why = format!("it holds {held}, and epoch {} had been synced", safe - 1);
            return Err(StoreError::Damaged { path: self.path.clone(), why });
        }
        self.reopened.fetch_add(1, AcqRel);
        self.doubtful.store(false, Release);
        Ok(Some(ReopenSummary { before, epoch }))
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
