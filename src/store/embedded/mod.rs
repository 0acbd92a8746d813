//! The embedded home of the result rows: one SQLite file in WAL mode.
//!
//! ```text
//!  meta       key, value                        the durable epoch
//!  catalog  series, name, labels, ...         every series that has a row
//!  types      series, type, ...                 what sources said that series are
//!  corrections series, window_ms, at_ms, revision ...  the newest revisions of keys that were corrected
//!  manifest   kind, hour, partition, at_min ... what each table holds, so that readers open few
//!  profiles   series, at_ms, ...                the last profile of each series
//!  windows_H, rejects_H, events_H               the rows written in hour H since the Unix epoch
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
mod events;
mod expire;
mod files;
mod matching;
mod merge;
mod options;
mod profiles;
mod ranked;
mod read;
mod readers;
mod rejects;
mod reopen;
mod schema;
mod sweep;
#[cfg(test)]
mod tests;
mod values;
mod view;
mod wal;
#[cfg(test)]
mod wal_tests;
mod write;

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};
use tidewatch_dataflows::sample::{MetricType, SeriesId};

use super::budget::Budget;
use super::row::{CorrectionRow, EventRow, NameRow, ProfileRow, RejectRow, SeriesRow, WindowRow};
use super::{
    CatalogQuery, CorrectionQuery, EventsQuery, ExportQuery, ExportRow, LabelPairs, NamesQuery, Offer,
    OfferVerdict, OwnLog, Page, ProfilesQuery, RejectQuery, ReopenSummary, RetentionSummary, Soundness,
    Store, StoreBatch, StoreError, StoreStatus, StoredKey, WindowQuery, WriteSummary,
};
use files::StoreFiles;
pub use options::EmbeddedOptions;
use readers::Readers;
use view::View;
use write::StoreWriter;

/// What a checkpoint waits for questions beyond the time that they have.
const TURN: Duration = Duration::from_secs(1);
/// Questions are not made to wait more often for a checkpoint that is in vain.
const CHECKPOINT_AGAIN: Duration = Duration::from_secs(60);

/// A store in one SQLite file.
pub struct Embedded {
    /// Dropped before the writer: the last connection to close folds the log into the file, and must be able to.
    readers: Readers,
    writer: Option<Mutex<StoreWriter>>,
    /// When a checkpoint was in vain: somebody reads whom nobody can make wait.
    in_vain: Mutex<Option<Instant>>,
    /// Times that questions had to wait for a checkpoint.
    emptied: AtomicU64,
    /// No row counts as written before this: the latest time of a retention.
    written_ms_min: AtomicI64,
    /// Dropped after all connections, see [`Files`].
    files: Option<Mutex<StoreFiles>>,
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
            readers: Readers::new(path, options),
            in_vain: Mutex::default(),
            emptied: AtomicU64::new(0),
            written_ms_min: AtomicI64::new(i64::MIN),
            writer: None,
            files: None,
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
        store.readers.idle.lock().push(conn);
        Ok(store)
    }

    /// A consistent view of the store as it is now, without a bound in time.
    fn view(&self) -> Result<View<'_>, StoreError> {
        self.view_within(None, &Budget::default())
    }

    /// One that is bounded in time by the store and by whoever asks.
    fn page_view(&self, asked: &Budget) -> Result<View<'_>, StoreError> {
        self.view_within(Some(self.readers.options.deadline), asked)
    }

    fn view_within(&self, limit: Option<Duration>, asked: &Budget) -> Result<View<'_>, StoreError> {
        View::begin(&self.readers, limit, asked)
    }

    fn note(&self, error: StoreError) -> StoreError {
        self.readers.note(error)
    }

    /// Empties SQLite's log if it has grown too large.
    fn bound_log(&self, writer: &StoreWriter) {
        let mut in_vain = self.in_vain.lock();
        let again = in_vain.is_none_or(|last| last.elapsed() >= CHECKPOINT_AGAIN);
        if wal::log_bytes(&self.readers.path) <= self.readers.options.log_bytes_max || !again {
            return;
        }
        let emptied =
            self.readers.turnstile.alone(self.readers.options.deadline + TURN, || wal::empty(&writer.conn));
        files::note(&emptied, &self.doubtful);
        *in_vain = if emptied.is_ok_and(|emptied| emptied) { None } else { Some(Instant::now()) };
        self.emptied.fetch_add(1, Ordering::Relaxed);
    }

    fn writer(&self) -> Result<MutexGuard<'_, StoreWriter>, StoreError> {
        let Some(writer) = &self.writer else {
            let path = self.readers.path.display();
            return Err(StoreError::Refused(format!(
                "cannot write to the store {path}: it was opened for reading only"
            )));
        };
        let writer = writer.lock();
        match self.doubtful.load(Ordering::Acquire) {
            false => Ok(writer),
            true => Err(StoreError::Unavailable {
                path: self.readers.path.clone(),
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
        let written = writer.write(&self.readers.path, &batches, labels).map_err(|error| self.note(error))?;
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
        amend::amend(&mut writer, self.view()?, &self.readers.path, written_ms, offers, labels)
            .map_err(|error| self.note(error))
    }

    fn names(&self, query: &NamesQuery) -> Result<Page<NameRow>, StoreError> {
        catalog::names(&self.page_view(query.select.budget())?, query)
    }

    fn catalog(&self, query: &CatalogQuery) -> Result<Page<SeriesRow>, StoreError> {
        catalog::page(&self.page_view(query.select.budget())?, query)
    }

    fn profiles(&self, query: &ProfilesQuery) -> Result<Page<ProfileRow>, StoreError> {
        profiles::page(&self.page_view(query.select.budget())?, query)
    }

    fn events(&self, query: &EventsQuery) -> Result<Page<EventRow>, StoreError> {
        events::page(&self.page_view(query.select.budget())?, query)
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
            let mut file = self.readers.path.clone().into_os_string();
            file.push(suffix);
            status.bytes += std::fs::metadata(file).map_or(0, |meta| meta.len());
        }
        Ok(status)
    }

    fn drop_expired(&self, now_ms: i64) -> Result<RetentionSummary, StoreError> {
        self.written_ms_min.fetch_max(now_ms, Ordering::Relaxed);
        self.writer()?
            .drop_expired(&self.readers.path, now_ms, &self.readers.options)
            .map_err(|error| self.note(error))
    }

    fn check(&self, limit: Duration, stop: &(dyn Fn() -> bool + Sync)) -> Result<Soundness, StoreError> {
        check::check(&self.readers.path, limit, stop).map_err(|error| self.note(error))
    }

    fn log(&self) -> OwnLog {
        OwnLog { bytes: wal::log_bytes(&self.readers.path), emptied: self.emptied.load(Ordering::Relaxed) }
    }

    fn damage(&self) -> Option<String> {
        self.readers.damage.get().cloned()
    }

    fn retained_at_ms(&self) -> Result<Option<i64>, StoreError> {
        self.view()?.retained_at_ms()
    }
}
