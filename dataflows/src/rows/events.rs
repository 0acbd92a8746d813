//! Changes of what kind of series one is.

use super::columns::{Cell, CellType, Column, Columns};
use super::kind::{ResultRow, RowStorage, SeriesText};
use super::verdicts::{ProfileChange, Verdict};
use super::windows::WHOSE;
use crate::sample::SeriesId;

/// A verdict on a series has changed, and stayed so for a second evaluation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProfileEvent {
    /// The series.
    pub series: SeriesId,
    /// End of the newest step of the evaluation that confirmed it.
    pub at_ms: i64,
    /// Which verdict.
    pub change: ProfileChange,
    /// What it was.
    pub from: Verdict,
    /// What it is.
    pub to: Verdict,
}

row_fields! {
    ProfileEvent, |row| { series: SeriesId, at_ms: i64, change: ProfileChange, from: Verdict, to: Verdict }
        => ProfileEvent { series, at_ms, change, from, to }
}

/// What is shown of a row behind its series.
const SHOWN: [Column; 5] = [
    Column::new(
        "at",
        CellType::Time,
        "The end of the newest step of the evaluation that confirmed the change.",
    ),
    Column::new("at_ms", CellType::Int, "The same in Unix milliseconds.").unit("ms"),
    Column::new(
        "change",
        CellType::Text,
        "The verdict that has changed: `stationary`, `seasonal` or `autocorrelated`.",
    ),
    Column::new("from", CellType::Bool, "What it was.").or_null(),
    Column::new("to", CellType::Bool, "What it is.").or_null(),
];

impl ResultRow for ProfileEvent {
    const KIND: u8 = 5;
    const VERSION: u8 = 1;
    const NAME: &'static str = "events";
    const SINGULAR: &'static str = "event";
    const STORAGE: RowStorage =
        RowStorage::Hourly { epoch: false, partition: None, key: &["at_ms", "series", "change"], rank: &[] };
    const COLUMNS: Columns = &[&WHOSE, &SHOWN];

    type Key = (SeriesId, i64, ProfileChange);

    fn key(&self) -> Self::Key {
        (self.series, self.at_ms, self.change)
    }

    fn series(&self) -> Option<SeriesId> {
        Some(self.series)
    }

    type Place = (i64, SeriesId, ProfileChange);

    fn place(&self) -> Self::Place {
        (self.at_ms, self.series, self.change)
    }

    fn span_ms(&self) -> Option<(i64, i64)> {
        Some((self.at_ms, self.at_ms))
    }

    fn cells<'a>(&'a self, series: Option<SeriesText<'a>>, cells: &mut Vec<Cell<'a>>) {
        let series = series.unwrap_or(SeriesText { name: "", labels: "{}", counter: false });
        cells.extend([
            Cell::Series(self.series),
            Cell::Text(series.name),
            Cell::Json(series.labels),
            Cell::Time(self.at_ms),
            Cell::Int(self.at_ms),
            Cell::Text(self.change.as_str()),
            self.from.into(),
            self.to.into(),
        ]);
    }
}
