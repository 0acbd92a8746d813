//! What a store is asked: which rows, and where the page before ended.

use tidewatch_dataflows::rows::SeriesProfile;
use tidewatch_dataflows::rows::verdicts::Verdict;
use tidewatch_dataflows::sample::SeriesId;

use super::Statistic;
use super::row::{EventRow, ExportKind, RejectGrouping, RejectRow};
use super::search::Search;
use super::selector::Selectors;
use super::sort::Sort;

/// Inclusive bounds of time, Unix milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// The first instant.
    pub start_ms: i64,
    /// The last instant.
    pub end_ms: i64,
}

impl Range {
    /// All of time.
    pub const ALL: Range = Range { start_ms: i64::MIN, end_ms: i64::MAX };
}

/// Inclusive bounds of one statistic. A row that does not show the statistic is outside.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Filter {
    /// Which statistic.
    pub stat: &'static Statistic,
    /// Least value.
    pub least: f64,
    /// Greatest value.
    pub most: f64,
}

/// Where a page of window rows ended: its last row. The order of fields is the order of rows.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct WindowKey {
    /// Metric name.
    pub name: String,
    /// Series.
    pub series: SeriesId,
    /// Length of the window.
    pub window_ms: i64,
    /// End of the window.
    pub at_ms: i64,
}

/// Where a page of the catalog ended. The order of fields is the order of rows.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SeriesKey {
    /// Metric name.
    pub name: String,
    /// Series.
    pub series: SeriesId,
}

/// Where a page of rejects ended. The order of fields is the order of rows: those without name or series last.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RejectKey {
    /// Whether the row has no name.
    pub nameless: bool,
    /// Metric name; empty if not shown.
    pub name: String,
    /// Whether the row has no series.
    pub unlisted: bool,
    /// Series; 0 if not shown.
    pub series: SeriesId,
    /// Code of the reason; 0 if not shown.
    pub reason: u8,
}

impl RejectKey {
    /// The key of a row.
    pub fn of(row: &RejectRow) -> RejectKey {
        RejectKey {
            nameless: row.name.is_none(),
            name: row.name.clone().unwrap_or_default(),
            unlisted: row.series.is_none(),
            series: row.series.unwrap_or_default(),
            reason: if row.by.reason { row.reason as u8 } else { 0 },
        }
    }
}

/// Which window rows are asked for.
#[derive(Clone, Debug)]
pub struct WindowQuery {
    /// Of which series; every one if none is named.
    pub select: Selectors,
    /// And of those only what this means.
    pub search: Search,
    /// Of which window lengths in milliseconds; of all if empty.
    pub windows: Vec<i64>,
    /// Between which times; the latest row per (series, window) if absent.
    pub range: Option<Range>,
    /// All of these hold.
    pub filters: Vec<Filter>,
    /// Only rows after this one, where they are not sorted.
    pub after: Option<WindowKey>,
    /// The latest rows of one window in another order.
    pub sort: Option<Sort>,
    /// Most rows of the page.
    pub limit: usize,
}

/// Which revisions of a series are asked for.
#[derive(Clone, Debug)]
pub struct CorrectionQuery {
    /// Whose.
    pub series: SeriesId,
    /// Of which window lengths in milliseconds; of all if empty.
    pub windows: Vec<i64>,
    /// Only what was kept before the row of this number.
    pub before: Option<i64>,
    /// Most rows of the page.
    pub limit: usize,
}

/// Which series are asked for.
#[derive(Clone, Debug)]
pub struct CatalogQuery {
    /// Every one if none is named.
    pub select: Selectors,
    /// Only series after this one.
    pub after: Option<SeriesKey>,
    /// Most rows of the page.
    pub limit: usize,
}

/// Which profiles are asked for.
#[derive(Clone, Debug)]
pub struct ProfilesQuery {
    /// Every one if none is named.
    pub select: Selectors,
    /// And of those only these; all if none is named.
    pub series: Vec<SeriesId>,
    /// What they have to say.
    pub verdicts: Verdicts,
    /// Only series after this one.
    pub after: Option<SeriesKey>,
    /// Most rows of the page.
    pub limit: usize,
}

/// Which events are asked for.
#[derive(Clone, Debug)]
pub struct EventsQuery {
    /// Of which series; of every one if none is named.
    pub select: Selectors,
    /// Of these instants.
    pub range: Range,
    /// Only events after this one.
    pub after: Option<EventKey>,
    /// Most rows of the page.
    pub limit: usize,
}

/// Where a page of events ended. The order of fields is the order of rows.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct EventKey {
    /// Metric name.
    pub name: String,
    /// Series.
    pub series: SeriesId,
    /// When.
    pub at_ms: i64,
    /// Code of what has changed.
    pub change: u8,
}

impl EventKey {
    /// The key of a row.
    pub fn of(row: &EventRow) -> EventKey {
        EventKey {
            name: row.series.name.clone(),
            series: row.series.series,
            at_ms: row.event.at_ms,
            change: row.event.change as u8,
        }
    }
}

/// Verdicts that a profile must give; one that gives none is not meant where one is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verdicts {
    /// Whether it is stationary.
    pub stationary: Option<bool>,
    /// Whether it is seasonal.
    pub seasonal: Option<bool>,
    /// Whether it is autocorrelated.
    pub autocorrelated: Option<bool>,
}

impl Verdicts {
    /// Whether a profile gives them.
    pub fn mean(&self, profile: &SeriesProfile) -> bool {
        let given = |asked: Option<bool>, verdict| asked.is_none_or(|asked| verdict == Verdict::of(asked));
        given(self.stationary, profile.stationary)
            && given(self.seasonal, profile.seasonal)
            && given(self.autocorrelated, profile.autocorrelated)
    }
}

/// Which metric names are asked for.
#[derive(Clone, Debug)]
pub struct NamesQuery {
    /// Names of these series; of every one if none is named.
    pub select: Selectors,
    /// Only names after this one.
    pub after: Option<String>,
    /// Most rows of the page.
    pub limit: usize,
}

/// Which sums of rejects are asked for.
#[derive(Clone, Debug)]
pub struct RejectQuery {
    /// Of which series; of every one, and of those not listed, if none is named.
    pub select: Selectors,
    /// What the sums are by.
    pub by: RejectGrouping,
    /// Rows whose [first, last] event time touches this range.
    pub range: Range,
    /// Only sums after this one.
    pub after: Option<RejectKey>,
    /// Most rows of the page.
    pub limit: usize,
}

/// Which rows are exported.
#[derive(Clone, Debug)]
pub struct ExportQuery {
    /// Rows in the order of their place in the store: windows by (window, at, series), rejects by (epoch, series, reason).
    pub kind: ExportKind,
    /// Of which series; of every one if none is named.
    pub select: Selectors,
    /// Rows that tell of an instant in this range.
    pub range: Range,
}
