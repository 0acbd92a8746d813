//! The order of a sorted list: by one number of each row, and by (name, series) where those are equal.

use std::cmp::Ordering;

use tidewatch_dataflows::rows::WindowStats;
use tidewatch_dataflows::sample::SeriesId;
use tidewatch_dataflows::statistics::Statistic;

/// What a list is sorted by.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum SortBy {
    /// The name.
    Name,
    /// The end of the window.
    At,
    /// A statistic.
    Stat(&'static Statistic),
}

/// How a list is sorted, and where its last page ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Sort {
    /// By what.
    pub by: SortBy,
    /// Whether the greatest comes first. Rows that do not show the number are the last ones either way.
    pub descending: bool,
    /// The last row that was shown: its number, name and series.
    pub after: Option<(Option<f64>, String, SeriesId)>,
}

/// A place in a sorted list.
#[derive(Clone, Copy, Debug)]
pub struct SortPlace<'n> {
    descending: bool,
    by_name: bool,
    value: Option<f64>,
    name: &'n str,
    series: SeriesId,
}

impl Sort {
    /// The number a row is sorted by; none if it shows none.
    pub fn value(&self, counter: bool, stats: &WindowStats) -> Option<f64> {
        let value = match self.by {
            SortBy::Name => return None,
            SortBy::At => stats.at_ms as f64,
            SortBy::Stat(stat) => stat.of(counter, stats)?,
        };
        // A negative zero shows as another zero, and is none.
        Some(value + 0.0)
    }

    /// The place of a row.
    pub fn place<'n>(&self, value: Option<f64>, name: &'n str, series: SeriesId) -> SortPlace<'n> {
        let by_name = self.by == SortBy::Name;
        SortPlace { descending: self.descending, by_name, value, name, series }
    }
}

impl Ord for SortPlace<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        let turned = |order: Ordering, turn: bool| if turn { order.reverse() } else { order };
        let values = match (self.value, other.value) {
            (Some(mine), Some(theirs)) => turned(mine.total_cmp(&theirs), self.descending),
            (mine, theirs) => mine.is_none().cmp(&theirs.is_none()),
        };
        let names = || turned(self.name.cmp(other.name), self.by_name && self.descending);
        values.then_with(names).then_with(|| self.series.cmp(&other.series))
    }
}

impl PartialOrd for SortPlace<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for SortPlace<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for SortPlace<'_> {}
