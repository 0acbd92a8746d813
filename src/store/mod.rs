//! What can be read back: the result rows of every epoch the store holds.
//!
//! [`Store`] is what the sink writes to and the API reads from; [`embedded`] keeps it in one SQLite file. A write is
//! one transaction with the number of its epoch, so that a sink that starts again learns from [`Store::epoch`] where to
//! go on. A row never replaces one of a higher rank
//! (`WindowStats::rank`). Nothing is copied for "latest": it is the highest `at` of a
//! (series, window) in the store.
//!
//! [`Latest`] is what readers ask of the computation, because it is not stored.
//!
//! Not here: the outbox (the sink reads it), HTTP (the API), and labels of series that have no row yet.

pub mod budget;
pub mod embedded;
mod error;
pub mod export;
mod queries;
pub mod record;
pub mod row;
pub mod search;
pub mod selector;
pub mod sort;
#[cfg(test)]
pub mod testing;

pub use self::error::StoreError;
pub use self::queries::{
    CatalogQuery, CorrectionQuery, EventKey, EventsQuery, ExportQuery, Filter, NamesQuery, ProfilesQuery,
    Range, RejectKey, RejectQuery, SeriesKey, Verdicts, WindowKey, WindowQuery,
};
use std::borrow::Cow;
use std::io;
use std::time::Duration;

use tidewatch_dataflows::rows::inspect::OpenWindows;
use tidewatch_dataflows::rows::{KINDS, ResultRow, RowLists, WindowStats, place_of};
use tidewatch_dataflows::sample::{MetricType, SeriesId};
pub use tidewatch_dataflows::statistics::{STATISTICS, Statistic};

use budget::{Budget, BudgetExceeded};
pub use row::{Correction, ExportRow};
use row::{CorrectionRow, EventRow, NameRow, ProfileRow, RejectRow, SeriesRow, WindowRow};

/// Label names and values of a series, `__name__` among them.
pub type LabelPairs = Vec<(String, String)>;

/// Most rows of one page.
pub const PAGE_ROWS_MAX: usize = 10_000;

/// A page ends early once its rows print to about this many bytes.
pub const PAGE_BYTES_MAX: usize = 16 << 20;

/// Most groups a sum of rejects may have.
pub const REJECT_GROUPS_MAX: usize = 250_000;

/// Most bytes of names that such a sum may hold.
pub const REJECT_GROUP_BYTES_MAX: usize = 64 << 20;

/// The result rows of one epoch.
#[derive(Clone, Debug)]
pub struct StoreBatch<'a> {
    /// The epoch.
    pub epoch: u64,
    /// Wall clock at writing, Unix milliseconds: decides the hour whose tables take the rows, and so their retention.
    pub written_ms: i64,
    /// Its rows.
    pub rows: Cow<'a, RowLists>,
}

impl<'a> StoreBatch<'a> {
    /// The rows of an epoch.
    pub fn new(epoch: u64, written_ms: i64, rows: &'a RowLists) -> StoreBatch<'a> {
        StoreBatch { epoch, written_ms, rows: Cow::Borrowed(rows) }
    }
}

/// What a write did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WriteSummary {
    /// Rows taken of each kind, in the order of [`KINDS`]; those that a higher rank of the same batch or table outdid are
    /// not counted.
    pub rows: [u64; KINDS.len()],
    /// Batches whose epoch the store held already; nothing of them was written.
    pub batches_known: u64,
    /// Series written to the catalog without labels, because nobody knew them.
    pub series_unlabelled: u64,
    /// Revisions that were forgotten because there are too many.
    pub corrections_dropped: u64,
}

impl WriteSummary {
    /// Rows taken of a kind.
    pub fn rows_of<K: ResultRow>(&self) -> u64 {
        self.rows[place_of::<K>()]
    }
}

/// What the store knows of one key.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredKey {
    /// The series, if it is in the catalog.
    pub series: Option<SeriesRow>,
    /// The row as readers see it.
    pub row: Option<WindowStats>,
    /// Its revisions as far as they are known, rising; empty if it was never corrected.
    pub corrections: Vec<Correction>,
    /// The epoch the store holds.
    pub epoch: Option<u64>,
}

/// A row that a backfill computed beside the engine.
#[derive(Clone, Copy, Debug)]
pub struct Offer {
    /// The row; its revision is not looked at.
    pub stats: WindowStats,
    /// Whether its samples reach back over the whole window. If not, it only serves where there is no row at all.
    pub whole: bool,
}

/// What became of an [`Offer`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OfferVerdict {
    /// There was no row: written, at revision 1.
    Added,
    /// It outdid the row that was there: written, one revision higher.
    Replaced,
    /// The row that is there shows the same numbers.
    Unchanged,
    /// The row that is there is of more samples, and stays.
    Larger,
    /// The offer was not whole, and the row that is there stays.
    Partial,
}

/// Some rows, and whether more follow the last of them.
#[derive(Clone, Debug, PartialEq)]
pub struct Page<T> {
    /// The rows.
    pub rows: Vec<T>,
    /// Whether a further page may hold more.
    pub more: bool,
}

/// What the store holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoreStatus {
    /// Newest epoch held durably.
    pub epoch: Option<u64>,
    /// Series in the catalog.
    pub series: u64,
    /// Tables of windows and of rejects, one per hour of writing.
    pub tables: u64,
    /// Rows of each kind, in the order of [`KINDS`]: those written to the tables that are kept, corrections included, and
    /// where the last one of each series is kept, those.
    pub rows: [u64; KINDS.len()],
    /// Rows written to the newest 24 hours of writing.
    pub rows_last_day: u64,
    /// First and last `at_ms` of the windows.
    pub at_ms: Option<(i64, i64)>,
    /// Bytes of the store's files.
    pub bytes: u64,
}

impl StoreStatus {
    /// Rows of a kind.
    pub fn rows_of<K: ResultRow>(&self) -> u64 {
        self.rows[place_of::<K>()]
    }
}

/// What retention dropped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RetentionSummary {
    /// Whole tables.
    pub tables: u64,
    /// Rows written to them.
    pub rows: u64,
    /// Series that have no row any more.
    pub series: u64,
    /// Tables that are as old, and wait for the next time.
    pub tables_left: u64,
}

/// The store's own log, if it has one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OwnLog {
    /// Its bytes.
    pub bytes: u64,
    /// How often questions had to wait so that it could be emptied.
    pub emptied: u64,
}

/// What a check of the whole store found: nothing wrong.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Soundness {
    /// Tables there are.
    pub tables: usize,
    /// Of these, those that were read to their end.
    pub checked: usize,
    /// How long that took.
    pub seconds: f64,
}

/// What a store holds that was opened anew after a failed sync.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReopenSummary {
    /// The newest epoch that it seemed to hold.
    pub before: Option<u64>,
    /// The newest epoch that it holds.
    pub epoch: Option<u64>,
}

/// Where result rows are kept and read.
pub trait Store: Send + Sync {
    /// The newest epoch that is held; none in a new store. A power cut may take it back: see [`Store::sync`].
    ///
    /// # Errors
    /// The store cannot be read.
    fn epoch(&self) -> Result<Option<u64>, StoreError>;

    /// Makes everything that is written safe from a power cut; the newest epoch that is.
    ///
    /// # Errors
    /// The store cannot be read or synced; what is safe is what was before.
    fn sync(&self) -> Result<Option<u64>, StoreError>;

    /// After a sync that failed: opens the store anew, so that nothing counts but what is on the disk. `None` if none
    /// failed since. The one who writes calls it, and goes on behind the epoch that is held then.
    ///
    /// # Errors
    /// The store cannot be opened, or lacks what had been safe; until it can nothing is written.
    fn recover(&self) -> Result<Option<ReopenSummary>, StoreError>;

    /// Writes batches of rising epochs in one transaction; one whose epoch is held already is ignored.
    ///
    /// `labels` is asked about each series that is new, and at times again about those it knew nothing of.
    ///
    /// # Errors
    /// Nothing was written.
    fn write(
        &self,
        batches: &[StoreBatch<'_>],
        labels: &dyn Fn(SeriesId) -> Option<LabelPairs>,
    ) -> Result<WriteSummary, StoreError>;

    /// Judges rows that a backfill offers by what is held under their keys, and writes those that are better. The keys
    /// are different ones; no epoch is touched.
    ///
    /// # Errors
    /// Nothing was written.
    fn amend(
        &self,
        written_ms: i64,
        offers: &[Offer],
        labels: &dyn Fn(SeriesId) -> Option<LabelPairs>,
    ) -> Result<Vec<OfferVerdict>, StoreError>;

    /// Metric names, in order.
    ///
    /// # Errors
    /// The store cannot be read, or not in time.
    fn names(&self, query: &NamesQuery) -> Result<Page<NameRow>, StoreError>;

    /// Series, by (name, series).
    ///
    /// # Errors
    /// The store cannot be read, or not in time.
    fn catalog(&self, query: &CatalogQuery) -> Result<Page<SeriesRow>, StoreError>;

    /// The last profile of each series, by (name, series).
    ///
    /// # Errors
    /// The store cannot be read, or not in time.
    fn profiles(&self, query: &ProfilesQuery) -> Result<Page<ProfileRow>, StoreError>;

    /// Changes of what kind of series one is, by (name, series, at).
    ///
    /// # Errors
    /// The store cannot be read, or not in time.
    fn events(&self, query: &EventsQuery) -> Result<Page<EventRow>, StoreError>;

    /// What sources said that series are, of each series of which it is held.
    ///
    /// # Errors
    /// The store cannot be read.
    fn types(&self) -> Result<Vec<(SeriesId, MetricType)>, StoreError>;

    /// Window rows, by (name, series, window, at), or as the query sorts them.
    ///
    /// # Errors
    /// The store cannot be read, or not in time.
    fn windows(&self, query: &WindowQuery) -> Result<Page<WindowRow>, StoreError>;

    /// What is known of the key `at_ms` of a window of a series.
    ///
    /// # Errors
    /// The store cannot be read, or not in time.
    fn explain(&self, series: SeriesId, window_ms: i64, at_ms: i64) -> Result<StoredKey, StoreError>;

    /// Revisions of the corrected keys of a series, the newest first.
    ///
    /// # Errors
    /// The store cannot be read, or not in time.
    fn corrections(&self, query: &CorrectionQuery) -> Result<Page<CorrectionRow>, StoreError>;

    /// Sums of rejects, by (name, series, reason).
    ///
    /// # Errors
    /// The store cannot be read, or not in time, or there are too many groups.
    fn rejects(&self, query: &RejectQuery) -> Result<Page<RejectRow>, StoreError>;

    /// Hands every row that is asked for to `each`, in order, and returns how many: one consistent view of the store.
    ///
    /// # Errors
    /// The store cannot be read, or what `each` returned.
    fn export(
        &self,
        query: &ExportQuery,
        each: &mut dyn FnMut(ExportRow<'_>) -> io::Result<()>,
    ) -> Result<u64, StoreError>;

    /// What is held.
    ///
    /// # Errors
    /// The store cannot be read.
    fn status(&self) -> Result<StoreStatus, StoreError>;

    /// The time of the last [`Store::drop_expired`]. Where that is not known: the end of the hour that was written last,
    /// and none if nothing was written.
    ///
    /// # Errors
    /// The store cannot be read.
    fn retained_at_ms(&self) -> Result<Option<i64>, StoreError>;

    /// Reads through the store within `limit`, or until `stop` says so.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`], or it cannot be read.
    fn check(&self, limit: Duration, stop: &(dyn Fn() -> bool + Sync)) -> Result<Soundness, StoreError>;

    /// How large its own log is.
    fn log(&self) -> OwnLog;

    /// What was found damaged so far, if anything was: by whoever read or wrote.
    fn damage(&self) -> Option<String>;

    /// Drops tables whose rows were all written longer ago than the retention, the oldest first, and remembers `now_ms`.
    /// Of many it drops a part each time, so that a mistake costs little before it is seen.
    ///
    /// # Errors
    /// Nothing was dropped.
    fn drop_expired(&self, now_ms: i64) -> Result<RetentionSummary, StoreError>;
}

/// Why the computation does not answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoAnswer {
    /// Not now: come again.
    Later(String),
    /// Too much is asked already: come again.
    Busy(String),
    /// The budget is over.
    Over(BudgetExceeded),
}

/// What is not stored because it is not closed yet. The one thing that readers ask of the computation itself.
pub trait OpenWindowSource: Send + Sync {
    /// The open windows of each of `series`, in their order: of these lengths in milliseconds, or all if none is named.
    ///
    /// # Errors
    /// The workers are busy, computing their state again, or gone; or the budget is over.
    fn open(
        &self,
        series: &[SeriesId],
        lengths_ms: &[i64],
        budget: &Budget,
    ) -> Result<Vec<OpenWindows>, NoAnswer>;
}
