//! The embedded home of the result rows: one SQLite file in WAL mode.
//!
//! ```text
//!  meta       key, value                        the durable epoch
//!  catalog  series, name, labels, ...         every series that has a row
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
//! order of the id; the catalog's column `id` shows it as the 16 hex digits used everywhere else.
//!
//! One writer and many readers, in this process or another; a reader sees the store as it was when it began.

mod amend;
mod catalog;
mod check;
mod corrections;
#[cfg(test)]
mod damage_tests;
mod expire;
mod files;
mod matching;
mod merge;
mod ranked;
mod read;
mod rejects;
mod schema;
#[cfg(test)]
mod tests;
mod view;
mod wal;
#[cfg(test)]
mod wal_tests;
mod write;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard, RwLock};
use rusqlite::Connection;
use tidewatch_dataflows::sample::{MetricType, SeriesId};

use super::budget::Budget;
use super::row::{CorrectionRow, NameRow, RejectRow, SeriesRow, WindowRow};
use super::{
    CatalogQuery, CorrectionQuery, ExportQuery, ExportRow, LabelPairs, NamesQuery, Offer, OfferVerdict,
    OwnLog, Page, RejectQuery, ReopenSummary, RetentionSummary, Soundness, Store, StoreBatch, StoreError,
    StoreStatus, StoredKey, WindowQuery, WriteSummary,
};
use files::StoreFiles;
use view::View;
use wal::Turnstile;
use write::StoreWriter;

/// Most connections kept open between questions.
const IDLE_READERS_MAX: usize = 8;
/// Most of these that keep what they have read.
const WARM_READERS_MAX: usize = 2;

/// What a checkpoint waits for questions beyond the time that they have.
const TURN: Duration = Duration::from_secs(1);
/// Questions are not made to wait more often for a checkpoint that is in vain.
const CHECKPOINT_AGAIN: Duration = Duration::from_secs(60);

/// How the embedded store behaves.
#[derive(Clone, Copy, Debug)]
pub struct EmbeddedOptions {
    /// How long rows are kept after they were written.
    pub retention_ms: i64,
    /// Longest time a page may take.
    pub deadline: Duration,
    /// Most revisions of corrected keys that are kept.
    pub corrections_max: u64,
    /// Retention drops at most one of so many tables at a time, the oldest hour at least.
    pub drop_share: u64,
    /// Bytes of SQLite's log beyond which questions wait until a checkpoint had its turn.
    pub log_bytes_max: u64,
    /// How long an export shows one moment, if SQLite's log grows to half of its bound meanwhile.
    pub view_max: Duration,
    /// Series whose entry in the catalog the writer remembers as up to date: as many as are alive at once, or it reads
    /// entries again.
    pub series_seen: usize,
}

impl Default for EmbeddedOptions {
    fn default() -> Self {
        EmbeddedOptions {
            retention_ms: 30 * 86_400_000,
            deadline: Duration::from_secs(10),
            corrections_max: 1_000_000,
            drop_share: 10,
            log_bytes_max: 64 << 20,
            view_max: Duration::from_secs(30),
            series_seen: 2_400_000,
        }
    }
}

/// A store in one SQLite file.
pub struct Embedded {
    path: PathBuf,
    options: EmbeddedOptions,
    /// Dropped before the writer: the last connection to close folds the log into the file, and must be able to.
    idle: Mutex<Vec<Connection>>,
    writer: Option<Mutex<StoreWriter>>,
    turnstile: Turnstile,
    /// When a checkpoint was in vain: somebody reads whom nobody can make wait.
    in_vain: Mutex<Option<Instant>>,
    /// Times that questions had to wait for a checkpoint.
    emptied: AtomicU64,
    /// No row counts as written before this: the latest time of a retention.
    written_ms_min: AtomicI64,
    /// What SQLite found damaged first.
    damage: OnceLock<String>,
    /// Dropped after all connections, see [`Files`].
    files: Option<Mutex<StoreFiles>>,
    /// Held for reading by whoever has a connection, for writing while the files are opened anew.
    open: RwLock<()>,
    /// A sync failed, and the files were not opened anew since: nothing is written, and nothing is safe.
    doubtful: Arc<AtomicBool>,
    /// How often the files were opened anew.
    reopened: AtomicU64,
    /// The newest epoch that is safe, and one more; 0 for none that is known of.
    safe: AtomicU64,
}

impl Embedded {
    /// Opens the store at `path` for writing and reading; makes it if there is none.
    ///
    /// One process at a time may do so; the lock of the data directory sees to it.
    ///
    /// # Errors
    /// The file is not a store, of another version, damaged, or cannot be opened.
    pub fn open(path: &Path, options: EmbeddedOptions) -> Result<Embedded, StoreError> {
        let mut store = Embedded::over(path, options);
        let conn = store.open_writer()?;
        let writer = StoreWriter::new(conn, options.corrections_max, options.series_seen);
        let files = StoreFiles::open(path)?;
        (store.writer, store.files) = (Some(Mutex::new(writer)), Some(Mutex::new(files)));
        Ok(store)
    }

    fn over(path: &Path, options: EmbeddedOptions) -> Embedded {
        Embedded {
            path: path.to_owned(),
            options,
            idle: Mutex::default(),
            turnstile: Turnstile::default(),
            in_vain: Mutex::default(),
            emptied: AtomicU64::new(0),
            written_ms_min: AtomicI64::new(i64::MIN),
            damage: OnceLock::new(),
            writer: None,
            files: None,
            open: RwLock::default(),
            doubtful: Arc::default(),
            reopened: AtomicU64::new(0),
            safe: AtomicU64::new(0),
        }
    }

    /// Opens the store at `path` for reading only, also while another process writes to it.
    ///
    /// # Errors
    /// As for [`Embedded::open`], and if there is no file.
    pub fn open_read_only(path: &Path, options: EmbeddedOptions) -> Result<Embedded, StoreError> {
        let conn = schema::open_for_reading(path)?;
        let store = Embedded::over(path, options);
        store.idle.lock().push(conn);
        Ok(store)
    }

    /// A consistent view of the store as it is now, without a bound in time.
    fn view(&self) -> Result<View<'_>, StoreError> {
        self.view_within(None, &Budget::default())
    }

    /// One that is bounded in time by the store and by whoever asks.
    fn page_view(&self, asked: &Budget) -> Result<View<'_>, StoreError> {
        self.view_within(Some(self.options.deadline), asked)
    }

    fn view_within(&self, limit: Option<Duration>, asked: &Budget) -> Result<View<'_>, StoreError> {
        // What it says may be wrong.
        if let Some(why) = self.damage.get() {
            return Err(StoreError::Corrupt { path: self.path.clone(), why: why.clone() });
        }
        let open = self.open.read();
        let idle = self.idle.lock().pop();
        let conn = match idle {
            Some(conn) => conn,
            None => schema::open_for_reading(&self.path).map_err(|error| self.note(error))?,
        };
        View::begin(self, open, conn, limit, asked)
    }

    /// Takes note of an error that says that the file is damaged.
    fn note(&self, error: StoreError) -> StoreError {
        if let StoreError::Corrupt { why, .. } = &error {
            // The first one is as good as any.
            let _ = self.damage.set(why.clone());
        }
        error
    }

    /// Empties SQLite's log if it has grown too large.
    fn bound_log(&self, writer: &StoreWriter) {
        let mut in_vain = self.in_vain.lock();
        let again = in_vain.is_none_or(|last| last.elapsed() >= CHECKPOINT_AGAIN);
        if wal::log_bytes(&self.path) <= self.options.log_bytes_max || !again {
            return;
        }
        let emptied = self.turnstile.alone(self.options.deadline + TURN, || wal::empty(&writer.conn));
        files::note(&emptied, &self.doubtful);
        *in_vain = if emptied.is_ok_and(|emptied| emptied) { None } else { Some(Instant::now()) };
        self.emptied.fetch_add(1, Ordering::Relaxed);
    }

    fn give_back(&self, conn: Connection) {
        let mut idle = self.idle.lock();
        if idle.len() >= IDLE_READERS_MAX {
            return;
        }
        // Many at once are a burst, and each holds a cache. One that fails to give it up is not kept.
        if idle.len() < WARM_READERS_MAX || conn.execute_batch("PRAGMA shrink_memory").is_ok() {
            idle.push(conn);
        }
    }

    fn writer(&self) -> Result<MutexGuard<'_, StoreWriter>, StoreError> {
        let Some(writer) = &self.writer else {
            let path = self.path.display();
            return Err(StoreError::Refused(format!(
                "cannot write to the store {path}: it was opened for reading only"
            )));
        };
        let writer = writer.lock();
        match self.doubtful.load(Ordering::Acquire) {
            false => Ok(writer),
            true => Err(StoreError::Unavailable {
                path: self.path.clone(),
                attempt: "write rows",
                why: "a sync has failed, and the files are opened anew first".to_owned(),
            }),
        }
    }
}

impl Store for Embedded {
    fn epoch(&self) -> Result<Option<u64>, StoreError> {
        self.view()?.epoch()
    }

    fn sync(&self) -> Result<Option<u64>, StoreError> {
        self.sync_files()
    }

    fn recover(&self) -> Result<Option<ReopenSummary>, StoreError> {
        self.reopen_if_doubtful()
    }

    fn write(
        &self,
        batches: &[StoreBatch<'_>],
        labels: &dyn Fn(SeriesId) -> Option<LabelPairs>,
    ) -> Result<WriteSummary, StoreError> {
        // A clock that is behind what it was must not file rows where retention finds them soon.
        let least_ms = self.written_ms_min.load(Ordering::Relaxed);
        let mut batches = batches.to_vec();
        batches.iter_mut().for_each(|batch| batch.written_ms = batch.written_ms.max(least_ms));
        let mut writer = self.writer()?;
        let written = writer.write(&self.path, &batches, labels).map_err(|error| self.note(error))?;
        self.bound_log(&writer);
        Ok(written)
    }

    fn amend(
        &self,
        written_ms: i64,
        offers: &[Offer],
        labels: &dyn Fn(SeriesId) -> Option<LabelPairs>,
    ) -> Result<Vec<OfferVerdict>, StoreError> {
        // First the lock, then the view: nobody writes between what it shows and what is written here.
        let mut writer = self.writer()?;
        let written_ms = written_ms.max(self.written_ms_min.load(Ordering::Relaxed));
        amend::amend(&mut writer, self.view()?, &self.path, written_ms, offers, labels)
            .map_err(|error| self.note(error))
    }

    fn names(&self, query: &NamesQuery) -> Result<Page<NameRow>, StoreError> {
        catalog::names(&self.page_view(query.select.budget())?, query)
    }

    fn catalog(&self, query: &CatalogQuery) -> Result<Page<SeriesRow>, StoreError> {
        catalog::page(&self.page_view(query.select.budget())?, query)
    }

    fn types(&self) -> Result<Vec<(SeriesId, MetricType)>, StoreError> {
        self.view()?.types()
    }

    fn windows(&self, query: &WindowQuery) -> Result<Page<WindowRow>, StoreError> {
        match &query.sort {
            Some(sort) => ranked::page(&self.page_view(query.select.budget())?, query, sort),
            None => read::page(&self.page_view(query.select.budget())?, query),
        }
    }

    fn explain(&self, series: SeriesId, window_ms: i64, at_ms: i64) -> Result<StoredKey, StoreError> {
        corrections::stored_key(&self.page_view(&Budget::default())?, series, window_ms, at_ms)
    }

    fn corrections(&self, query: &CorrectionQuery) -> Result<Page<CorrectionRow>, StoreError> {
        corrections::page(&self.page_view(&Budget::default())?, query)
    }

    fn rejects(&self, query: &RejectQuery) -> Result<Page<RejectRow>, StoreError> {
        rejects::page(&self.page_view(query.select.budget())?, query)
    }

    fn export(
        &self,
        query: &ExportQuery,
        each: &mut dyn FnMut(ExportRow<'_>) -> io::Result<()>,
    ) -> Result<u64, StoreError> {
        merge::export(|| self.view(), query, each)
    }

    fn status(&self) -> Result<StoreStatus, StoreError> {
        let mut status = self.view()?.status()?;
        for suffix in ["", "-wal"] {
            let mut file = self.path.clone().into_os_string();
            file.push(suffix);
            status.bytes += std::fs::metadata(file).map_or(0, |meta| meta.len());
        }
        Ok(status)
    }

    fn drop_expired(&self, now_ms: i64) -> Result<RetentionSummary, StoreError> {
        self.written_ms_min.fetch_max(now_ms, Ordering::Relaxed);
        self.writer()?.drop_expired(&self.path, now_ms, &self.options).map_err(|error| self.note(error))
    }

    fn check(&self, limit: Duration, stop: &(dyn Fn() -> bool + Sync)) -> Result<Soundness, StoreError> {
        check::check(&self.path, limit, stop).map_err(|error| self.note(error))
    }

    fn log(&self) -> OwnLog {
        OwnLog { bytes: wal::log_bytes(&self.path), emptied: self.emptied.load(Ordering::Relaxed) }
    }

    fn damage(&self) -> Option<String> {
        self.damage.get().cloned()
    }

    fn retained_at_ms(&self) -> Result<Option<i64>, StoreError> {
        self.view()?.retained_at_ms()
    }
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
