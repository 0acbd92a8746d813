//! Syncing the store, and opening its files anew after a sync that failed.
//!
//! Not here: why that is needed, and the files themselves (`files`).

use std::ffi::c_int;
use std::sync::Arc;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Release};

use rusqlite::Connection;
use rusqlite::config::DbConfig;
use rusqlite::hooks::Wal;

use super::files::{StoreFiles, note};
use super::write::StoreWriter;
use super::{Embedded, schema};
use crate::disk::forget_cached;
use crate::store::{ReopenSummary, Store, StoreError};

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
            let path = self.readers.path.clone();
            Err(StoreError::Unavailable { path, attempt: "sync what was written", why })
        };
        let reopened = self.reopened.load(Acquire);
        let epoch = self.epoch()?;
        let Some(files) = &self.files else {
            let path = self.readers.path.display();
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
        let mut conn = schema::open_for_writing(&self.readers.path)?;
        let doubtful = Arc::clone(&self.doubtful);
        let hook = move |log: &mut Wal, pages: c_int| {
            if pages >= schema::CHECKPOINT_PAGES {
                note(&log.checkpoint(), &doubtful);
            }
            Ok(())
        };
        conn.wal_hook(Some(hook)).map_err(|error| schema::failure(&self.readers.path, "open", error))?;
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
        let _alone = self.readers.open.write();
        let mut files = files.lock();
        self.readers.idle.lock().clear();
        // The connection that is closed last would fold the log into the file, and believe what it reads there.
        let fail = |error| schema::failure(&self.readers.path, "open anew", error);
        let closed = Connection::open_in_memory().map_err(fail)?;
        let closed = std::mem::replace(&mut writer.conn, closed);
        closed.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).map_err(fail)?;
        closed.close().map_err(|(_, error)| fail(error))?;
        for file in [&files.log, &files.store] {
            // A system that does not do so can only be believed.
            let _ = forget_cached(file);
        }
        let conn = self.open_writer()?;
        *files = StoreFiles::open(&self.readers.path)?;
        *writer =
            StoreWriter::new(conn, self.readers.options.corrections_max, self.readers.options.series_seen);
        let epoch = super::view::epoch(&writer.conn).map_err(fail)?;
        let safe = self.safe.load(Acquire);
        if epoch.map_or(0, |epoch| epoch.saturating_add(1)) < safe {
            let held = epoch.map_or_else(|| "no epoch".to_owned(), |epoch| format!("epoch {epoch}"));
            let why = format!("it holds {held}, and epoch {} had been synced", safe - 1);
            return Err(StoreError::Damaged { path: self.readers.path.clone(), why });
        }
        self.reopened.fetch_add(1, AcqRel);
        self.doubtful.store(false, Release);
        Ok(Some(ReopenSummary { before, epoch }))
    }
}
