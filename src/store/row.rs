//! The rows that can be read back. Their columns are those of their kind (`rows` in the dataflow's crate); here are those
//! of what only a store knows: series, names, sums.
//!
//! A row lists its [`Cell`]s in the order of [`RowRecord::COLUMNS`]; JSON, CSV, the export and the API's description are
//! written from those lists.
//!
//! `labels` leaves out `__name__`, which has its own column. Not here: how cells are written (`record.rs`).

use std::any::Any;
use std::str::FromStr;
use std::sync::Arc;

use tidewatch_dataflows::rows::kind::SeriesText;
use tidewatch_dataflows::rows::windows::{OPEN, WHICH, WHOSE};
use tidewatch_dataflows::rows::{
    KINDS, KindInfo, ProfileEvent, Reject, ResultRow, SeriesProfile, WindowStats, place_of,
};
use tidewatch_dataflows::sample::{MetricType, Reason, SeriesId};

use super::record::{Cell, CellType, Column, Columns, RowRecord};

/// One series of the catalog.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeriesRow {
    /// The series.
    pub series: SeriesId,
    /// Its metric name; empty if its labels were not known when it was first written.
    pub name: String,
    /// Its other labels: the text of a JSON object of strings, sorted by label name.
    pub labels: String,
    /// What a source said that it is, if one did.
    pub kind: Option<MetricType>,
}

impl SeriesRow {
    /// About how many bytes it prints to.
    pub fn printed_bytes(&self) -> usize {
        self.name.len() + self.labels.len() + 64
    }

    /// Its words, for the rows of it.
    pub fn text(&self) -> SeriesText<'_> {
        SeriesText { name: &self.name, labels: &self.labels, counter: self.is_counter() }
    }

    /// Whether its value only grows, and so its rows show `increase` and `rate`: as a source said, else by the suffix
    /// that its users gave it.
    pub fn is_counter(&self) -> bool {
        self.kind.or_else(|| MetricType::by_name(&self.name)) == Some(MetricType::Counter)
    }
}

impl SeriesRow {
    /// Its labels, `__name__` included, sorted by name.
    pub fn pairs(&self) -> Vec<(String, String)> {
        let labels: std::collections::BTreeMap<String, String> =
            serde_json::from_str(&self.labels).unwrap_or_default();
        let name = ("__name__".to_owned(), self.name.clone());
        let mut pairs: Vec<_> = std::iter::once(name).chain(labels).collect();
        pairs.sort();
        pairs
    }
}

/// One metric name and how many series bear it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NameRow {
    /// The metric name.
    pub name: String,
    /// How many series of the catalog bear it.
    pub series: u64,
}

/// The statistics of one series over one window, at the highest rank that is stored.
#[derive(Clone, Debug, PartialEq)]
pub struct WindowRow {
    /// Whose.
    pub series: Arc<SeriesRow>,
    /// The numbers.
    pub stats: WindowStats,
}

/// The statistics of one series over one window that is not closed: as far as it is filled, and never stored.
#[derive(Clone, Debug, PartialEq)]
pub struct OpenRow {
    /// Whose.
    pub series: Arc<SeriesRow>,
    /// The numbers.
    pub stats: WindowStats,
    /// The epoch as of which they are so.
    pub epoch: u64,
}

/// One answer to a key that has been corrected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Correction {
    /// Its revision.
    pub revision: u32,
    /// Its epoch; none for what a backfill wrote, and for an answer that was not known to be corrected when it came.
    pub epoch: Option<u64>,
    /// When it was written, Unix milliseconds; without an epoch only the beginning of the hour may be known.
    pub written_ms: i64,
    /// Samples in it.
    pub count: u32,
}

/// One answer to a key that has been corrected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CorrectionRow {
    /// Its place in the order in which revisions were kept.
    pub number: i64,
    /// Length of the window.
    pub window_ms: i64,
    /// End of the window.
    pub at_ms: i64,
    /// The answer.
    pub correction: Correction,
}

/// What kind of series one is.
#[derive(Clone, Debug, PartialEq)]
pub struct ProfileRow {
    /// The series.
    pub series: SeriesRow,
    /// Its profile.
    pub profile: SeriesProfile,
}

/// A change of what kind of series one is.
#[derive(Clone, Debug, PartialEq)]
pub struct EventRow {
    /// The series.
    pub series: Arc<SeriesRow>,
    /// What has changed.
    pub event: ProfileEvent,
}

/// Samples that were not applied: one row of the store, or a sum over several.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RejectRow {
    /// Which of the next three tell rows apart; the others are not shown.
    pub by: RejectGrouping,
    /// The series; `None` where series beyond the first thousand of a minute are summed.
    pub series: Option<SeriesId>,
    /// The metric name of the series.
    pub name: Option<String>,
    /// Why.
    pub reason: Reason,
    /// How many samples.
    pub count: u64,
    /// The lowest event time among them.
    pub first_at_ms: i64,
    /// The highest event time among them.
    pub last_at_ms: i64,
}

/// What rejects are summed by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RejectGrouping {
    /// Rows of different series stay apart.
    pub series: bool,
    /// Rows of different metric names stay apart.
    pub name: bool,
    /// Rows of different reasons stay apart.
    pub reason: bool,
}

impl RejectGrouping {
    /// Everything stays apart: a row per (series, reason).
    pub const ALL: RejectGrouping = RejectGrouping { series: true, name: true, reason: true };
}

/// A kind of row that is exported.
#[derive(Clone, Copy, Debug)]
pub struct ExportKind(&'static KindInfo);

impl ExportKind {
    /// The kind of these rows.
    pub fn of<K: ResultRow>() -> ExportKind {
        ExportKind(&KINDS[place_of::<K>()])
    }

    /// What the kind says of itself.
    pub fn info(&self) -> &'static KindInfo {
        self.0
    }

    fn all() -> impl Iterator<Item = &'static KindInfo> {
        KINDS.iter().filter(|info| info.is_exported())
    }
}

/// The text names no kind of row.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("kind must be {known}; got {0:?}", known = ExportKind::all().map(|info| info.name).collect::<Vec<_>>().join(" or "))]
pub struct UnknownKind(pub String);

impl FromStr for ExportKind {
    type Err = UnknownKind;

    fn from_str(text: &str) -> Result<Self, UnknownKind> {
        let found = ExportKind::all().find(|info| [info.name, info.singular].contains(&text));
        found.map(ExportKind).ok_or_else(|| UnknownKind(text.to_owned()))
    }
}

/// A row on its way out, and its series.
#[derive(Clone, Copy)]
pub struct ExportRow<'a> {
    series: Option<&'a SeriesRow>,
    row: &'a dyn ExportedRow,
}

/// A row of any kind that is exported.
trait ExportedRow: Any {
    fn columns(&self) -> Columns;
    fn cells<'a>(&'a self, series: Option<SeriesText<'a>>, cells: &mut Vec<Cell<'a>>);
}

impl<K: ResultRow> ExportedRow for K {
    fn columns(&self) -> Columns {
        K::COLUMNS
    }

    fn cells<'a>(&'a self, series: Option<SeriesText<'a>>, cells: &mut Vec<Cell<'a>>) {
        ResultRow::cells(self, series, cells);
    }
}

impl<'a> ExportRow<'a> {
    /// A row of a series, or of none.
    pub fn new<K: ResultRow>(series: Option<&'a SeriesRow>, row: &'a K) -> ExportRow<'a> {
        ExportRow { series, row }
    }

    /// Its series, if it is of one.
    pub fn series(&self) -> Option<&'a SeriesRow> {
        self.series
    }

    /// The row, if it is of this kind.
    pub fn of<K: ResultRow>(&self) -> Option<&'a K> {
        let row: &dyn Any = self.row;
        row.downcast_ref()
    }

    /// Its columns.
    pub fn columns(&self) -> Columns {
        self.row.columns()
    }

    /// A cell for each column.
    pub fn cells(&self) -> Vec<Cell<'a>> {
        let mut cells = Vec::new();
        self.row.cells(self.series.map(SeriesRow::text), &mut cells);
        cells
    }
}

const TYPE: Column =
    Column::new("type", CellType::Text, "What a source said that it is, counter or gauge; null if none did.")
        .or_null();
impl RowRecord for SeriesRow {
    const COLUMNS: Columns = &[&WHOSE, &[TYPE]];

    fn cells<'a>(&'a self, cells: &mut Vec<Cell<'a>>) {
        cells.extend([Cell::Series(self.series), Cell::Text(&self.name), Cell::Json(&self.labels)]);
        cells.push(self.kind.map_or(Cell::Null, |kind| Cell::Text(kind.as_str())));
    }
}

impl RowRecord for NameRow {
    const COLUMNS: Columns =
        &[&[WHOSE[1], Column::new("series", CellType::UInt, "Series of the catalog that bear the name.")]];

    fn cells<'a>(&'a self, cells: &mut Vec<Cell<'a>>) {
        cells.extend([Cell::Text(&self.name), Cell::UInt(self.series)]);
    }
}

impl RowRecord for WindowRow {
    const COLUMNS: Columns = WindowStats::COLUMNS;

    fn cells<'a>(&'a self, cells: &mut Vec<Cell<'a>>) {
        ResultRow::cells(&self.stats, Some(self.series.text()), cells);
    }
}

impl RowRecord for ProfileRow {
    const COLUMNS: Columns = SeriesProfile::COLUMNS;

    fn cells<'a>(&'a self, cells: &mut Vec<Cell<'a>>) {
        ResultRow::cells(&self.profile, Some(self.series.text()), cells);
    }
}

impl RowRecord for EventRow {
    const COLUMNS: Columns = ProfileEvent::COLUMNS;

    fn cells<'a>(&'a self, cells: &mut Vec<Cell<'a>>) {
        ResultRow::cells(&self.event, Some(self.series.text()), cells);
    }
}

impl RowRecord for OpenRow {
    const COLUMNS: Columns = &[
        OPEN[0],
        OPEN[1],
        OPEN[2],
        OPEN[3],
        &[
            Column::new(
                "open",
                CellType::True,
                "The window is not closed: the row is so far, and is not stored.",
            ),
            Column::new("epoch", CellType::UInt, "The epoch as of which it is so."),
        ],
    ];

    fn cells<'a>(&'a self, cells: &mut Vec<Cell<'a>>) {
        self.stats.open_cells(self.series.text(), cells);
        cells.extend([Cell::True, Cell::UInt(self.epoch)]);
    }
}

impl RowRecord for CorrectionRow {
    const COLUMNS: Columns = &[
        &WHICH,
        &[
            Column::new("revision", CellType::UInt, "Which answer to the key it was; 0 is the first."),
            Column::new(
                "epoch",
                CellType::UInt,
                "The epoch that gave it; null where that is no longer known.",
            )
            .or_null(),
            Column::new(
                "written",
                CellType::Time,
                "When the store took it; where epoch is null it may be the beginning of that hour.",
            ),
            Column::new("written_ms", CellType::Int, "The same in Unix milliseconds."),
            Column::new("count", CellType::UInt, "Samples it was of."),
        ],
    ];

    fn cells<'a>(&'a self, cells: &mut Vec<Cell<'a>>) {
        let Correction { revision, epoch, written_ms, count } = self.correction;
        cells.extend([
            Cell::Window(self.window_ms),
            Cell::Time(self.at_ms),
            Cell::Int(self.at_ms),
            Cell::UInt(revision.into()),
            epoch.map_or(Cell::Null, Cell::UInt),
            Cell::Time(written_ms),
            Cell::Int(written_ms),
            Cell::UInt(count.into()),
        ]);
    }
}

impl RowRecord for RejectRow {
    const COLUMNS: Columns = Reject::COLUMNS;

    fn cells<'a>(&'a self, cells: &mut Vec<Cell<'a>>) {
        let shown =
            |by: bool, cell: Option<Cell<'a>>| if by { cell.unwrap_or(Cell::Null) } else { Cell::Absent };
        cells.extend([
            shown(self.by.series, self.series.map(Cell::Series)),
            shown(self.by.name, self.name.as_deref().map(Cell::Text)),
            shown(self.by.reason, Some(Cell::Text(self.reason.as_str()))),
            Cell::UInt(self.count),
            Cell::Int(self.first_at_ms),
            Cell::Int(self.last_at_ms),
        ]);
    }
}

/// The labels of a series, other than its name, as the text of a JSON object sorted by label name.
pub fn labels_json(pairs: &[(String, String)]) -> String {
    let mut sorted: Vec<_> = pairs.iter().filter(|(name, _)| name != "__name__").collect();
    sorted.sort();
    let map: serde_json::Map<_, _> =
        sorted.into_iter().map(|(name, value)| (name.clone(), value.as_str().into())).collect();
    serde_json::Value::Object(map).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::record::{ColumnShape, write_csv, write_csv_header, write_json};

    fn window(name: &str, count: u32) -> WindowRow {
        let series = SeriesRow {
            series: SeriesId(0xabc),
            name: name.to_owned(),
            labels: labels_json(&[("job".into(), "a \"b\"".into()), ("__name__".into(), name.into())]),
            kind: None,
        };
        let stats = WindowStats {
            series: SeriesId(0xabc),
            window_ms: 5_400_000,
            at_ms: 1_700_000_000_250,
            revision: 3,
            count,
            span_ms: 10_000,
            min: 1.0,
            max: 1e300,
            avg: 2.5,
            std: 3.0,
            first: f64::INFINITY,
            last: -0.5,
            sum: 5.0,
            changes: 1,
            increase: 20.0,
            resets: 1,
            ..WindowStats::default()
        };
        WindowRow { series: Arc::new(series), stats }
    }

    fn json<R: RowRecord>(row: &R, shape: ColumnShape) -> String {
        let mut out = Vec::new();
        write_json(row, shape, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    fn csv_line<R: RowRecord>(row: &R, shape: ColumnShape) -> String {
        let mut out = Vec::new();
        write_csv(row, shape, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_window_is_the_row_of_the_contract() {
        let text = json(&window("up", 2), ColumnShape::default());
        assert_eq!(
            text,
            concat!(
                r#"{"series":"0000000000000abc","name":"up","labels":{"job":"a \"b\""},"window":"1h30m","#,
                r#""at":"2023-11-14T22:13:20.25Z","at_ms":1700000000250,"count":2,"min":1.0,"max":1e+300,"avg":2.5,"#,
                r#""std":3.0,"std_sample":4.242640687119286,"first":null,"last":-0.5,"sum":5.0,"changes":1,"revision":3}"#
            )
        );
        let mut partial = window("up", 2);
        partial.stats.partial = true;
        let at = text.find(r#","revision""#).unwrap();
        let wanted = format!("{},\"partial\":true{}", &text[..at], &text[at..]);
        assert_eq!(json(&partial, ColumnShape::default()), wanted);
        assert!(csv_line(&partial, ColumnShape::default()).ends_with(",,,,,,,,,,,,true,3\n"));
        partial.stats.quantiles.0[2] = 2.5;
        partial.stats.quantiles.0[6] = f64::INFINITY;
        let wanted = wanted.replace(r#","partial""#, r#","p50":2.5,"p99":null,"partial""#);
        assert_eq!(json(&partial, ColumnShape::default()), wanted);
        assert!(csv_line(&partial, ColumnShape::default()).ends_with(",,,,,,2.5,,,,,,true,3\n"));
        let parsed: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(parsed["labels"]["job"], "a \"b\"");
    }

    #[test]
    fn counters_show_increase_and_rate_and_null_below_two_samples() {
        for (name, count, wanted) in [
            ("a_total", 2, r#""increase":20.0,"rate":2.0,"resets":1"#),
            ("a_count", 1, r#""increase":null,"rate":null,"resets":1"#),
            ("a_sum", 1, r#""std_sample":null"#),
            ("a_bucket", 3, r#""rate":2.0"#),
        ] {
            let text = json(&window(name, count), ColumnShape::default());
            assert!(text.contains(wanted), "{name} with {count} samples gave {text}, not {wanted}");
        }
        let gauge = json(&window("total_a", 2), ColumnShape::default());
        assert!(!gauge.contains("rate") && !gauge.contains("increase"), "{gauge}");
    }

    #[test]
    fn the_final_shape_leaves_the_revision_out() {
        let shape = ColumnShape { without_revision: true };
        assert!(!json(&window("up", 2), shape).contains("revision"));
        let mut header = Vec::new();
        write_csv_header(WindowRow::COLUMNS, shape, &mut header).unwrap();
        let header = String::from_utf8(header).unwrap();
        assert!(header.ends_with(",resets,p5,p25,p50,p75,p90,p95,p99,p999,partial\n"), "{header}");
        assert_eq!(
            csv_line(&window("up", 2), shape).matches(',').count(),
            header.matches(',').count(),
            "as many cells as columns"
        );
    }

    #[test]
    fn csv_cells_survive_a_csv_reader_and_formulas_are_defused() {
        for (name, wanted) in [
            ("=1+1", "'=1+1"),
            ("@x", "'@x"),
            ("-5", "-5"),
            ("-5x", "'-5x"),
            ("+", "'+"),
            ("\tx", "'\tx"),
            ("\rx", "'\rx"),
            ("a,\"b\"\nc", "a,\"b\"\nc"),
            ("plain", "plain"),
        ] {
            let line = csv_line(&NameRow { name: name.to_owned(), series: 7 }, ColumnShape::default());
            let mut reader = csv::ReaderBuilder::new().has_headers(false).from_reader(line.as_bytes());
            let record = reader.records().next().unwrap().unwrap();
            assert_eq!((&record[0], &record[1]), (wanted, "7"));
        }
    }

    #[test]
    fn sums_of_rejects_show_only_what_they_are_summed_by() {
        let mut row = RejectRow {
            by: RejectGrouping::ALL,
            series: None,
            name: None,
            reason: Reason::TooOld,
            count: 4,
            first_at_ms: 1,
            last_at_ms: 2,
        };
        assert_eq!(
            json(&row, ColumnShape::default()),
            r#"{"series":null,"name":null,"reason":"too_old","count":4,"first_at_ms":1,"last_at_ms":2}"#
        );
        row.by = RejectGrouping { series: false, name: false, reason: true };
        assert_eq!(
            json(&row, ColumnShape::default()),
            r#"{"reason":"too_old","count":4,"first_at_ms":1,"last_at_ms":2}"#
        );
    }

    /// As many cells as columns, each of what its column says.
    fn fits<R: RowRecord>(row: &R) {
        let mut cells = Vec::new();
        row.cells(&mut cells);
        let columns: Vec<&Column> = R::COLUMNS.iter().copied().flatten().collect();
        assert_eq!(cells.len(), columns.len());
        for (cell, column) in cells.iter().zip(columns) {
            let fits = match cell {
                Cell::Text(_) => column.of == CellType::Text,
                Cell::Json(_) => column.of == CellType::Labels,
                Cell::Series(_) => column.of == CellType::Series,
                Cell::Window(_) => column.of == CellType::Window,
                Cell::Time(_) => column.of == CellType::Time,
                Cell::Int(_) => column.of == CellType::Int,
                Cell::UInt(_) => column.of == CellType::UInt,
                Cell::Float(_) => column.of == CellType::Float,
                Cell::Floats(values) => {
                    matches!(column.of, CellType::Floats { most } if values.len() <= most)
                }
                Cell::Bool(_) => column.of == CellType::Bool,
                Cell::True => column.of == CellType::True,
                Cell::Null => column.nullable,
                Cell::Absent => column.optional,
            };
            assert!(fits, "{cell:?} is no {column:?}");
        }
    }

    #[test]
    fn cells_are_what_their_columns_say() {
        for name in ["up", "a_total"] {
            for count in [1, 2] {
                let mut row = window(name, count);
                row.stats.partial = count == 1;
                fits(&row);
                fits(&*row.series);
                fits(&OpenRow { series: row.series, stats: row.stats, epoch: 1 });
            }
        }
        fits(&SeriesRow { kind: Some(MetricType::Gauge), ..(*window("up", 1).series).clone() });
        fits(&NameRow { name: "up".to_owned(), series: 2 });
        for epoch in [None, Some(1)] {
            let correction = Correction { revision: 1, epoch, written_ms: 5, count: 2 };
            fits(&CorrectionRow { number: 1, window_ms: 1_000, at_ms: 2_000, correction });
        }
        let shown = (Some(SeriesId(1)), Some("up".to_owned()), RejectGrouping::ALL);
        for (series, name, by) in
            [shown, (None, None, RejectGrouping { series: true, name: true, reason: false })]
        {
            let reason = Reason::TooOld;
            fits(&RejectRow { by, series, name, reason, count: 1, first_at_ms: 0, last_at_ms: 0 });
        }
    }

    #[test]
    fn kinds_are_named_in_plural_and_singular() {
        for (text, kind) in [("windows", 1), ("window", 1), ("reject", 2), ("profiles", 4), ("event", 5)] {
            assert_eq!(text.parse::<ExportKind>().unwrap().info().kind, kind, "{text}");
        }
        assert!("types".parse::<ExportKind>().is_err(), "other rows show them");
        assert_eq!(
            "forecasts".parse::<ExportKind>().unwrap_err().to_string(),
            "kind must be windows or rejects or profiles or events; got \"forecasts\""
        );
    }
}
