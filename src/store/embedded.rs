//! The embedded home of the result rows: one SQLite file in WAL mode.
//!
//! ```text
//!  meta       key, value                        the durable epoch
//!  catalogue  series, name, labels, ...         every series that has a row
//!  types      series, type, ...                 what sources said that series are
//!  corrections series, window_ms, at_ms, revision ...  the newest revisions of keys that were corrected
//!  manifest   kind, hour, window_ms, at_min ... what each table holds, so that readers open few
//!  windows_H, rejects_H                         the rows written in hour H since the Unix epoch
//! ```
//!
//! Rows go to the table of the hour they are *written* in, so retention drops whole tables and a replayed quarter stays
//! as long as a live one. The price is that a key may be in several tables, when a later hour corrected it: readers
//! take the highest rank (`WindowStats::rank`) and only then filter and page.
//!
//! A series id is stored as an integer with its top bit flipped ([`key_of`]), so that SQLite's signed order is the
//! order of the id; the catalogue's column `id` shows it as the 16 hex digits used everywhere else.
//!
//! One writer and many readers, in this process or another; a reader sees the store as it was when it began.

mod amend;
#[cfg(test)]
mod broken;
mod catalogue;
mod corrections;
mod expire;
mod matching;
mod merge;
mod ranked;
mod read;
mod rejects;
mod schema;
#[cfg(test)]
mod tests;
mod view;
mod write;

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rusqlite::Connection;
use tidewatch_dataflows::sample::{MetricType, SeriesId};

use super::row::{CorrectionRow, NameRow, RejectRow, SeriesRow, WindowRow};
use super::{
    Batch, CatalogueQuery, CorrectionQuery, Dropped, ExportQuery, ExportRow, LabelPairs, NamesQuery, Offer,
    Page, RejectQuery, Status, Store, StoreError, Told, Verdict, WindowQuery, Written,
};
use view::View;
use write::Writer;

/// Most connections kept open between questions.
const IDLE_READERS_MAX: usize = 8;
/// Most of these that keep what they have read.
const WARM_READERS_MAX: usize = 2;

/// How the embedded store behaves.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// How long rows are kept after they were written.
    pub retention_ms: i64,
    /// Longest time a page may take.
    pub deadline: Duration,
    /// Most revisions of corrected keys that are kept.
    pub corrections_max: u64,
    /// Series whose entry in the catalogue the writer remembers as up to date: as many as are alive at once, or it reads
    /// entries again.
    pub series_seen: usize,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            retention_ms: 30 * 86_400_000,
            deadline: Duration::from_secs(10),
            corrections_max: 1_000_000,
            series_seen: 2_400_000,
        }
    }
}

/// A store in one SQLite file.
pub struct Embedded {
    path: PathBuf,
    options: Options,
    /// Dropped before the writer: the last connection to close folds the log into the file, and must be able to.
    idle: Mutex<Vec<Connection>>,
    writer: Option<Mutex<Writer>>,
    /// Dropped after all connections, see [`Files`].
    files: Option<Files>,
}

/// SQLite's own files, held open to sync them.
///
/// Closing any descriptor of a file gives up all locks that the process has on it, those of SQLite as well; without them
/// another program would take the store for one that nobody has open, and remove the log under the writer. So these are
/// closed only after the last connection.
struct Files {
    log: File,
    store: File,
}

impl Files {
    /// Opens them after the writer, which has made both, and makes their names durable.
    fn open(path: &Path) -> Result<Files, StoreError> {
        let fail = |path: &Path, attempt, error: io::Error| StoreError::Unavailable {
            path: path.to_owned(),
            attempt,
            why: error.to_string(),
        };
        let open = |path: &Path| File::open(path).map_err(|error| fail(path, "open for syncing", error));
        let mut log = path.as_os_str().to_owned();
        log.push("-wal");
        let files = Files { log: open(Path::new(&log))?, store: open(path)? };
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let folder = folder.unwrap_or(Path::new("."));
        let synced = File::open(folder).and_then(|folder| folder.sync_all());
        synced.map_err(|error| fail(folder, "sync the folder of the store", error))?;
        Ok(files)
    }

    /// SQLite's log first, then the file: what a checkpoint has moved from one to the other it has synced itself.
    fn sync(&self) -> io::Result<()> {
        self.log.sync_all()?;
        self.store.sync_all()
    }
}

impl Embedded {
    /// Opens the store at `path` for writing and reading; makes it if there is none.
    ///
    /// One process at a time may do so; the lock of the data directory sees to it.
    ///
    /// # Errors
    /// The file is not a store, of another version, damaged, or cannot be opened.
    pub fn open(path: &Path, options: Options) -> Result<Embedded, StoreError> {
        let writer =
            Writer::new(schema::open_for_writing(path)?, options.corrections_max, options.series_seen);
        let files = Some(Files::open(path)?);
        Ok(Embedded {
            files,
            path: path.to_owned(),
            options,
            writer: Some(Mutex::new(writer)),
            idle: Mutex::default(),
        })
    }

    /// Opens the store at `path` for reading only, also while another process writes to it.
    ///
    /// # Errors
    /// As for [`Embedded::open`], and if there is no file.
    pub fn open_read_only(path: &Path, options: Options) -> Result<Embedded, StoreError> {
        let conn = schema::open_for_reading(path)?;
        Ok(Embedded {
            path: path.to_owned(),
            options,
            writer: None,
            idle: Mutex::new(vec![conn]),
            files: None,
        })
    }

    /// A consistent view of the store as it is now, bounded in time if `deadline` is given.
    fn view(&self, deadline: Option<Duration>) -> Result<View<'_>, StoreError> {
        let idle = lock(&self.idle).pop();
        let conn = match idle {
            Some(conn) => conn,
            None => schema::open_for_reading(&self.path)?,
        };
        View::begin(self, conn, deadline)
    }

    fn page_view(&self) -> Result<View<'_>, StoreError> {
        self.view(Some(self.options.deadline))
    }

    fn give_back(&self, conn: Connection) {
        let mut idle = lock(&self.idle);
        if idle.len() >= IDLE_READERS_MAX {
            return;
        }
        // Many at once are a burst, and each holds a cache. One that fails to give it up is not kept.
        if idle.len() < WARM_READERS_MAX || conn.execute_batch("PRAGMA shrink_memory").is_ok() {
            idle.push(conn);
        }
    }

    fn writer(&self) -> Result<MutexGuard<'_, Writer>, StoreError> {
        let Some(writer) = &self.writer else {
            let path = self.path.display();
            return Err(StoreError::Refused(format!(
                "cannot write to the store {path}: it was opened for reading only"
            )));
        };
        Ok(lock(writer))
    }
}

impl Store for Embedded {
    fn epoch(&self) -> Result<Option<u64>, StoreError> {
        self.view(None)?.epoch()
    }

    fn sync(&self) -> Result<Option<u64>, StoreError> {
        let epoch = self.epoch()?;
        let Some(files) = &self.files else {
            let path = self.path.display();
            return Err(StoreError::Refused(format!(
                "cannot sync the store {path}: it was opened for reading only"
            )));
        };
        match files.sync() {
            Ok(()) => Ok(epoch),
            Err(error) => {
                let (path, why) = (self.path.clone(), error.to_string());
                Err(StoreError::Unavailable { path, attempt: "sync what was written", why })
            }
        }
    }

    fn write(
        &self,
        batches: &[Batch<'_>],
        labels: &dyn Fn(SeriesId) -> Option<LabelPairs>,
    ) -> Result<Written, StoreError> {
        self.writer()?.write(&self.path, batches, labels)
    }

    fn amend(
        &self,
        written_ms: i64,
        offers: &[Offer],
        labels: &dyn Fn(SeriesId) -> Option<LabelPairs>,
    ) -> Result<Vec<Verdict>, StoreError> {
        // First the lock, then the view: nobody writes between what it shows and what is written here.
        let mut writer = self.writer()?;
        amend::amend(&mut writer, self.view(None)?, &self.path, written_ms, offers, labels)
    }

    fn names(&self, query: &NamesQuery) -> Result<Page<NameRow>, StoreError> {
        catalogue::names(&self.page_view()?, query)
    }

    fn catalogue(&self, query: &CatalogueQuery) -> Result<Page<SeriesRow>, StoreError> {
        catalogue::page(&self.page_view()?, query)
    }

    fn types(&self) -> Result<Vec<(SeriesId, MetricType)>, StoreError> {
        self.view(None)?.types()
    }

    fn windows(&self, query: &WindowQuery) -> Result<Page<WindowRow>, StoreError> {
        match &query.sort {
            Some(sort) => ranked::page(&self.page_view()?, query, sort),
            None => read::page(&self.page_view()?, query),
        }
    }

    fn explain(&self, series: SeriesId, window_ms: i64, at_ms: i64) -> Result<Told, StoreError> {
        corrections::told(&self.page_view()?, series, window_ms, at_ms)
    }

    fn corrections(&self, query: &CorrectionQuery) -> Result<Page<CorrectionRow>, StoreError> {
        corrections::page(&self.page_view()?, query)
    }

    fn rejects(&self, query: &RejectQuery) -> Result<Page<RejectRow>, StoreError> {
        rejects::page(&self.page_view()?, query)
    }

    fn export(
        &self,
        query: &ExportQuery,
        each: &mut dyn FnMut(ExportRow<'_>) -> io::Result<()>,
    ) -> Result<u64, StoreError> {
        merge::export(&self.view(None)?, query, each)
    }

    fn status(&self) -> Result<Status, StoreError> {
        let mut status = self.view(None)?.status()?;
        for suffix in ["", "-wal"] {
            let mut file = self.path.clone().into_os_string();
            file.push(suffix);
            status.bytes += std::fs::metadata(file).map_or(0, |meta| meta.len());
        }
        Ok(status)
    }

    fn drop_expired(&self, now_ms: i64) -> Result<Dropped, StoreError> {
        self.writer()?.drop_expired(&self.path, now_ms, self.options.retention_ms)
    }
}

/// Locks, also after a panic elsewhere: what is behind our locks is checked again before it is used.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A series id as it is stored: an integer whose signed order is the order of the id.
fn key_of(series: SeriesId) -> i64 {
    (series.0 ^ (1 << 63)).cast_signed()
}

/// The series id of what is stored.
fn series_of(key: i64) -> SeriesId {
    SeriesId(key.cast_unsigned() ^ (1 << 63))
}

/// The hour since the Unix epoch that an instant falls in.
fn hour_of(ms: i64) -> i64 {
    ms.div_euclid(3_600_000)
}

/// A column that holds the type of a series; none if nobody said it.
fn kind(row: &rusqlite::Row<'_>, column: usize) -> rusqlite::Result<Option<MetricType>> {
    let code: Option<u8> = row.get(column)?;
    code.map(|code| {
        let unknown = || rusqlite::Error::IntegralValueOutOfRange(column, code.into());
        MetricType::from_code(code).ok_or_else(unknown)
    })
    .transpose()
}

/// A column that holds a count.
fn unsigned(row: &rusqlite::Row<'_>, column: usize) -> rusqlite::Result<u64> {
    let value: i64 = row.get(column)?;
    u64::try_from(value).map_err(|_| rusqlite::Error::IntegralValueOutOfRange(column, value))
}

/// A count as it is stored.
fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn gcd(a: i64, b: i64) -> i64 {
    if b == 0 { a } else { gcd(b, a % b) }
}
