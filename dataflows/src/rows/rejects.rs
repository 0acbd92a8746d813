//! Samples that were not applied, summed.

use super::columns::{Cell, CellType, Column, Columns};
use super::kind::{ResultRow, RowStorage, SeriesText};
use super::windows::WHOSE;
use crate::sample::{Reason, SeriesId};

/// Samples of one series that `admit` did not apply for one reason, summed over a minute of processing time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reject {
    /// The series; `None` sums the series beyond the first thousand of the minute.
    pub series: Option<SeriesId>,
    /// Why.
    pub reason: Reason,
    /// How many samples.
    pub count: u64,
    /// The lowest event time among them.
    pub first_at_ms: i64,
    /// The highest event time among them.
    pub last_at_ms: i64,
}

row_fields! {
    Reject, |row| {
        series: SeriesId = row.series.unwrap_or_default(),
        unlisted: bool = row.series.is_none(),
        reason: Reason,
        count: u64,
        first_at_ms: i64,
        last_at_ms: i64,
    } => Reject { series: (!unlisted).then_some(series), reason, count, first_at_ms, last_at_ms }
}

/// What is shown of a row.
pub const REJECT_COLUMNS: [Column; 6] = {
    let [series, name, _] = WHOSE;
    [
        series.or_null().or_absent(),
        name.or_null().or_absent(),
        Column::new("reason", CellType::Text, "Why the samples were not applied.").or_absent(),
        Column::new("count", CellType::UInt, "Samples.").unit("samples"),
        Column::new("first_at_ms", CellType::Int, "The lowest event time among them, in Unix milliseconds.")
            .unit("ms"),
        Column::new("last_at_ms", CellType::Int, "The highest event time among them, in Unix milliseconds.")
            .unit("ms"),
    ]
};

impl ResultRow for Reject {
    const KIND: u8 = 2;
    const VERSION: u8 = 1;
    const NAME: &'static str = "rejects";
    const SINGULAR: &'static str = "reject";
    const STORAGE: RowStorage = RowStorage::Hourly {
        epoch: true,
        partition: None,
        key: &["unlisted", "series", "reason"],
        rank: &[],
    };
    const COLUMNS: Columns = &[&REJECT_COLUMNS];

    type Key = (bool, SeriesId, Reason);

    /// Rows without series last.
    fn key(&self) -> Self::Key {
        (self.series.is_none(), self.series.unwrap_or_default(), self.reason)
    }

    fn series(&self) -> Option<SeriesId> {
        self.series
    }

    type Place = (bool, SeriesId, Reason);

    fn place(&self) -> Self::Place {
        self.key()
    }

    fn span_ms(&self) -> Option<(i64, i64)> {
        Some((self.first_at_ms, self.last_at_ms))
    }

    fn cells<'a>(&'a self, series: Option<SeriesText<'a>>, cells: &mut Vec<Cell<'a>>) {
        cells.extend([
            self.series.map_or(Cell::Null, Cell::Series),
            series.map_or(Cell::Null, |series| Cell::Text(series.name)),
            Cell::Text(self.reason.as_str()),
            Cell::UInt(self.count),
            Cell::Int(self.first_at_ms),
            Cell::Int(self.last_at_ms),
        ]);
    }

    /// Sums those without series.
    fn normalize(rows: &mut Vec<Self>) {
        rows.sort_unstable_by_key(Self::key);
        rows.dedup_by(|next, kept| {
            let same = next.series.is_none() && kept.series.is_none() && next.reason == kept.reason;
            if same {
                kept.count += next.count;
                kept.first_at_ms = kept.first_at_ms.min(next.first_at_ms);
                kept.last_at_ms = kept.last_at_ms.max(next.last_at_ms);
            }
            same
        });
    }
}
