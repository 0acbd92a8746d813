//! What a kind of row says of itself. Everything that handles rows of all kinds (the outbox, stores, JSON, CSV, the API's
//! description, the export) reads this, and has no list of kinds of its own.
//!
//! To add a kind: a file like `rejects.rs`, and a line in the list of `mod.rs`.
//!
//! Not here: how rows are computed, and questions that only one kind answers.

use std::fmt;

use super::columns::{Cell, Columns, RowField, RowFields};
use crate::sample::SeriesId;

/// How a store keeps the rows of a kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowStorage {
    /// Rows of one hour of writing together, so that they expire together.
    Hourly {
        /// Whether the epoch that gave a row is the first part of its key.
        epoch: bool,
        /// The field whose values are kept apart, if there is one; it comes before the key.
        partition: Option<&'static str>,
        /// The fields of the key, in order. If the first is `at_ms`, rows are found by time.
        key: &'static [&'static str],
        /// The fields of [`ResultRow::rank`], in order: a row never replaces one of a higher rank.
        rank: &'static [&'static str],
    },
    /// The last row of each series, for as long as the series is known.
    Latest,
}

impl RowStorage {
    /// Whether rows are found by the end of their window.
    pub fn by_time(&self) -> bool {
        matches!(self, RowStorage::Hourly { key: ["at_ms", ..], epoch: false, .. })
    }
}

/// The words of a row's series.
#[derive(Clone, Copy, Debug)]
pub struct SeriesText<'a> {
    /// Its metric name.
    pub name: &'a str,
    /// Its other labels: the text of a JSON object of strings, sorted by label name.
    pub labels: &'a str,
    /// Whether its value only grows.
    pub counter: bool,
}

/// A kind of row.
pub trait ResultRow: RowFields + Clone + PartialEq + fmt::Debug + Send + Sync + 'static {
    /// Its number in the outbox; never given to another kind.
    const KIND: u8;
    /// The version of its encoding: one more whenever [`RowFields::FIELDS`] change.
    const VERSION: u8;
    /// The word for many, also in file names, tables and metrics.
    const NAME: &'static str;
    /// The word for one.
    const SINGULAR: &'static str;
    /// The bytes that most rows end with: where all rows of a record do, they are left out.
    const TAIL: &'static [u8] = &[];
    /// How a store keeps it.
    const STORAGE: RowStorage;
    /// What is shown of it; empty if it is not exported.
    const COLUMNS: Columns;

    /// Its key: the order of rows in the outbox.
    type Key: Ord;
    /// Its key.
    fn key(&self) -> Self::Key;

    /// Which of two rows of one key counts: that of the higher rank. Always the same where there is one row a key.
    fn rank(&self) -> (u32, u32) {
        (0, 0)
    }

    /// Whether another answer to the same key shows the same, and so is no revision.
    fn same(&self, other: &Self) -> bool {
        self == other
    }

    /// Its series, if it is of one.
    fn series(&self) -> Option<SeriesId>;

    /// Its place among the rows of its partition in a store.
    type Place: Ord;
    /// That is the key of [`RowStorage::Hourly`], without partition and epoch.
    fn place(&self) -> Self::Place;

    /// What rows are kept apart by: [`RowStorage::Hourly::partition`].
    fn partition(&self) -> i64 {
        0
    }

    /// The first and the last instant that it tells of, Unix milliseconds; none if it is not of a time.
    fn span_ms(&self) -> Option<(i64, i64)>;

    /// Appends one cell for each of [`ResultRow::COLUMNS`].
    fn cells<'a>(&'a self, series: Option<SeriesText<'a>>, cells: &mut Vec<Cell<'a>>);

    /// Puts the rows of one epoch, which come from several workers, into the order of the outbox.
    fn normalize(rows: &mut Vec<Self>) {
        // Stable, because it merges the sorted runs of the workers where an unstable sort would begin anew.
        rows.sort_by_key(Self::key);
    }
}

/// A kind of row, for whoever loops over them.
#[derive(Clone, Copy, Debug)]
pub struct KindInfo {
    /// [`ResultRow::KIND`].
    pub kind: u8,
    /// [`ResultRow::VERSION`].
    pub version: u8,
    /// [`ResultRow::NAME`].
    pub name: &'static str,
    /// [`ResultRow::SINGULAR`].
    pub singular: &'static str,
    /// [`RowFields::FIELDS`].
    pub fields: &'static [RowField],
    /// [`RowFields::BYTES`].
    pub bytes: usize,
    /// [`ResultRow::TAIL`].
    pub tail: &'static [u8],
    /// [`ResultRow::STORAGE`].
    pub storage: RowStorage,
    /// [`ResultRow::COLUMNS`].
    pub columns: Columns,
}

impl KindInfo {
    /// That of a kind.
    pub const fn of<K: ResultRow>() -> KindInfo {
        KindInfo {
            kind: K::KIND,
            version: K::VERSION,
            name: K::NAME,
            singular: K::SINGULAR,
            fields: K::FIELDS,
            bytes: K::BYTES,
            tail: K::TAIL,
            storage: K::STORAGE,
            columns: K::COLUMNS,
        }
    }

    /// Whether its rows can be exported.
    pub fn is_exported(&self) -> bool {
        !self.columns.is_empty()
    }
}
