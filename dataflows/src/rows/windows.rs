//! The statistics of one series over one window.
//!
//! Not here: what each statistic is and how it is shown (`statistics.rs`).

use super::columns::{Cell, CellType, Column, Columns, NAN_BITS, RowFields};
use super::kind::{ResultRow, RowStorage, SeriesText};
use crate::sample::SeriesId;
use crate::settings::QUANTILES;
use crate::statistics::{REVISION, STATISTICS, WINDOW_STATISTICS};

/// Quantiles of a window, in the order of [`QUANTILES`]; NaN for those that it does not have.
#[derive(Clone, Copy, Debug)]
pub struct QuantileValues(pub [f64; QUANTILES.len()]);

impl Default for QuantileValues {
    fn default() -> QuantileValues {
        QuantileValues([f64::NAN; QUANTILES.len()])
    }
}

/// By the bits, except that one NaN is as another: what it does not have is the same as what another one does not have.
impl PartialEq for QuantileValues {
    fn eq(&self, other: &QuantileValues) -> bool {
        self.0.iter().zip(&other.0).all(|(a, b)| a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan()))
    }
}

/// The statistics of one series over one window `(at_ms - window_ms, at_ms]`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct WindowStats {
    /// The series.
    pub series: SeriesId,
    /// Length of the window, its identity.
    pub window_ms: i64,
    /// End of the window, a multiple of its hop since the Unix epoch.
    pub at_ms: i64,
    /// 0 for the first answer to this key, one more each time a published answer changes.
    pub revision: u32,
    /// Number of samples in the window, at least 1.
    pub count: u32,
    /// Milliseconds from the first to the last sample.
    pub span_ms: u32,
    /// Smallest value.
    pub min: f64,
    /// Largest value.
    pub max: f64,
    /// Arithmetic mean.
    pub avg: f64,
    /// Population standard deviation (ddof 0, as PromQL's `stddev_over_time`).
    pub std: f64,
    /// Oldest value.
    pub first: f64,
    /// Newest value.
    pub last: f64,
    /// Sum of the values; infinite beyond `f64::MAX`.
    pub sum: f64,
    /// How often a value differs from the one before it.
    pub changes: u32,
    /// Sum over consecutive samples of `b >= a ? b - a : b`; not extrapolated. Meaningful from 2 samples on.
    pub increase: f64,
    /// How often a value is below the one before it.
    pub resets: u32,
    /// The window was added by a change of settings and reaches back to before what was kept for it: older samples
    /// of it may be missing.
    pub partial: bool,
    /// Those that are set for the series.
    pub quantiles: QuantileValues,
}

impl WindowStats {
    /// Sample standard deviation (ddof 1, as pandas); none below two samples.
    pub fn std_sample(&self) -> Option<f64> {
        (self.count > 1).then(|| self.std * (f64::from(self.count) / f64::from(self.count - 1)).sqrt())
    }

    /// The quantile at this place of [`QUANTILES`]; none if the window does not have it.
    pub fn quantile(&self, place: usize) -> Option<f64> {
        Some(self.quantiles.0[place]).filter(|value| !value.is_nan())
    }

    /// Increase per second between the first and the last sample; none below two samples.
    pub fn rate(&self) -> Option<f64> {
        (self.count > 1 && self.span_ms > 0).then(|| self.increase / (f64::from(self.span_ms) / 1000.0))
    }
}

row_fields! {
    WindowStats, |row| {
        series: SeriesId,
        window_ms: i64,
        at_ms: i64,
        revision: u32,
        count: u32,
        span_ms: u32,
        min: f64,
        max: f64,
        avg: f64,
        std: f64,
        first: f64,
        last: f64,
        sum: f64,
        changes: u32,
        increase: f64,
        resets: u32,
        partial: bool,
        p5: f64 = row.quantiles.0[0],
        p25: f64 = row.quantiles.0[1],
        p50: f64 = row.quantiles.0[2],
        p75: f64 = row.quantiles.0[3],
        p90: f64 = row.quantiles.0[4],
        p95: f64 = row.quantiles.0[5],
        p99: f64 = row.quantiles.0[6],
        p999: f64 = row.quantiles.0[7],
    } => WindowStats {
        series, window_ms, at_ms, revision, count, span_ms, min, max, avg, std, first, last, sum, changes, increase, resets, partial,
        quantiles: QuantileValues([p5, p25, p50, p75, p90, p95, p99, p999]),
    }
}

/// The series of a row of which it is.
pub const WHOSE: [Column; 3] = [
    Column::new("series", CellType::Series, "The series: its id, 16 hex digits."),
    Column::new("name", CellType::Text, "Its metric name."),
    Column::new("labels", CellType::Labels, "Its other labels, sorted by label name."),
];

/// The window of a row.
pub const WHICH: [Column; 3] = [
    Column::new("window", CellType::Window, "The length of the window."),
    Column::new(
        "at",
        CellType::Time,
        "The end of the window, which reaches back from there without its beginning.",
    ),
    Column::new("at_ms", CellType::Int, "The same in Unix milliseconds.").unit("ms"),
];

/// The column of each statistic.
pub const NUMBERS: [Column; WINDOW_STATISTICS] = {
    let mut columns = [STATISTICS[0].column; WINDOW_STATISTICS];
    let mut place = 0;
    while place < WINDOW_STATISTICS {
        columns[place] = STATISTICS[place].column;
        place += 1;
    }
    columns
};

const PARTIAL: Column = Column::new(
    "partial",
    CellType::True,
    "Samples that belong in it were withheld from it or may be missing.",
);

/// What a window that is closed and one that is open show alike.
pub const OPEN: [&[Column]; 4] = [&WHOSE, &WHICH, &NUMBERS, &[PARTIAL]];

impl WindowStats {
    /// Appends a cell for each of [`OPEN`].
    pub fn open_cells<'a>(&self, series: SeriesText<'a>, cells: &mut Vec<Cell<'a>>) {
        cells.extend([
            Cell::Series(self.series),
            Cell::Text(series.name),
            Cell::Json(series.labels),
            Cell::Window(self.window_ms),
            Cell::Time(self.at_ms),
            Cell::Int(self.at_ms),
        ]);
        cells.extend(
            STATISTICS[..WINDOW_STATISTICS].iter().map(|statistic| statistic.cell(series.counter, self)),
        );
        cells.push(if self.partial { Cell::True } else { Cell::Absent });
    }
}

impl ResultRow for WindowStats {
    const KIND: u8 = 1;
    const VERSION: u8 = 5;
    const NAME: &'static str = "windows";
    const SINGULAR: &'static str = "window";
    /// The quantiles that a window does not have.
    const TAIL: &'static [u8] = [NAN_BITS.to_le_bytes(); QUANTILES.len()].as_flattened();
    const STORAGE: RowStorage = RowStorage::Hourly {
        epoch: false,
        partition: Some("window_ms"),
        key: &["at_ms", "series"],
        rank: &["count", "revision"],
    };
    const COLUMNS: Columns = &[OPEN[0], OPEN[1], OPEN[2], OPEN[3], &[REVISION.column]];

    type Key = (SeriesId, i64, i64);

    fn key(&self) -> Self::Key {
        (self.series, self.window_ms, self.at_ms)
    }

    /// The one of more samples, and among equals the later revision.
    ///
    /// The engine only ever adds samples to a key, so for its rows this is the order of revisions. It also holds
    /// between the engine and a backfill, which count revisions each by themselves.
    fn rank(&self) -> (u32, u32) {
        (self.count, self.revision)
    }

    /// By the numbers: of a NaN a store keeps no bits. A quantile that this one does not have takes none from the other.
    fn same(&self, other: &Self) -> bool {
        let mut quantiles = self.quantiles.0;
        quantiles
            .iter_mut()
            .zip(&other.quantiles.0)
            .filter(|(own, _)| own.is_nan())
            .for_each(|(own, of)| *own = *of);
        let quantiles = QuantileValues(quantiles);
        if quantiles != other.quantiles {
            return false;
        }
        let numbers = |row: &WindowStats| WindowStats { revision: 0, partial: false, quantiles, ..*row };
        let (mut mine, mut theirs) =
            ([0; <WindowStats as RowFields>::BYTES], [0; <WindowStats as RowFields>::BYTES]);
        RowFields::put(&numbers(self), &mut mine);
        RowFields::put(&numbers(other), &mut theirs);
        mine == theirs
    }

    fn series(&self) -> Option<SeriesId> {
        Some(self.series)
    }

    fn partition(&self) -> i64 {
        self.window_ms
    }

    type Place = (i64, SeriesId);

    fn place(&self) -> Self::Place {
        (self.at_ms, self.series)
    }

    fn span_ms(&self) -> Option<(i64, i64)> {
        Some((self.at_ms, self.at_ms))
    }

    fn cells<'a>(&'a self, series: Option<SeriesText<'a>>, cells: &mut Vec<Cell<'a>>) {
        self.open_cells(series.unwrap_or(SeriesText { name: "", labels: "{}", counter: false }), cells);
        cells.push(Cell::UInt(self.revision.into()));
    }
}
