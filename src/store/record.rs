//! How rows are shown: their columns, and JSON and CSV written from one list of cells, so that they cannot disagree.
//!
//! In JSON a number that is not finite is `null`, and a column that does not apply to a row (`rate` of a gauge) is
//! left out; in CSV both are empty cells. Times are shown as RFC 3339 (`at`) and as Unix milliseconds (`at_ms`).
//!
//! Not here: which rows there are, and what their columns are called (`row.rs`).

use std::fmt;
use std::io::{self, Write};

use tidewatch_dataflows::sample::SeriesId;
use tidewatch_dataflows::settings::duration;

/// What the cells of a column are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CellType {
    /// Text.
    Text,
    /// A JSON object of strings; in CSV its text.
    Labels,
    /// A series id, 16 hex digits.
    Series,
    /// The length of a window, such as `1h30m`.
    Window,
    /// RFC 3339.
    Time,
    /// A whole number.
    Int,
    /// A whole number from 0.
    UInt,
    /// A number; `null` if it is not finite.
    Float,
    /// `true`, or left out.
    True,
}

/// One column of a kind of row.
#[derive(Clone, Copy, Debug)]
pub struct Column {
    /// Its name in JSON and CSV.
    pub name: &'static str,
    /// What its cells are.
    pub of: CellType,
    /// Whether a cell may be known to be unknown.
    pub nullable: bool,
    /// Whether it does not apply to every row.
    pub optional: bool,
    /// What it says, with its unit.
    pub about: &'static str,
}

impl Column {
    /// A column that every row shows.
    pub const fn new(name: &'static str, of: CellType, about: &'static str) -> Column {
        let (nullable, optional) = (matches!(of, CellType::Float), matches!(of, CellType::True));
        Column { name, of, nullable, optional, about }
    }

    /// It may be `null`.
    pub const fn or_null(self) -> Column {
        Column { nullable: true, ..self }
    }

    /// It does not apply to every row.
    pub const fn or_absent(self) -> Column {
        Column { optional: true, ..self }
    }
}

/// The columns of a kind of row, in order, as lists that are put together.
pub type Columns = &'static [&'static [Column]];

/// One cell of a row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Cell<'a> {
    /// Text.
    Text(&'a str),
    /// Text that is JSON already.
    Json(&'a str),
    /// A series id, 16 hex digits.
    Series(SeriesId),
    /// A window's length in milliseconds, shown as `1h30m`.
    Window(i64),
    /// Unix milliseconds, shown as RFC 3339.
    Time(i64),
    /// A whole number.
    Int(i64),
    /// A whole number.
    UInt(u64),
    /// A number; `null` if it is not finite.
    Float(f64),
    /// What is left out where it is not so.
    True,
    /// Known to be unknown.
    Null,
    /// Does not apply to this row.
    Absent,
}

/// A row as columns.
pub trait RowRecord {
    /// Its columns.
    const COLUMNS: Columns;

    /// Appends one cell per column.
    fn cells<'a>(&'a self, cells: &mut Vec<Cell<'a>>);
}

/// The columns of a row, beside its cells.
fn columns<R: RowRecord>() -> impl Iterator<Item = &'static Column> {
    R::COLUMNS.iter().copied().flatten()
}

fn cells<R: RowRecord>(row: &R) -> Vec<Cell<'_>> {
    let mut cells = Vec::with_capacity(columns::<R>().count());
    row.cells(&mut cells);
    cells
}

/// Whether a column of a row is left out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ColumnShape {
    /// Leaves out `revision`, so that the same samples give the same bytes however they came.
    pub without_revision: bool,
}

impl ColumnShape {
    fn shows(self, column: &Column) -> bool {
        !(self.without_revision && column.name == "revision")
    }
}

/// Writes a row as one JSON object, without a line end.
///
/// # Errors
/// What `out` refuses.
pub fn write_json<R: RowRecord>(row: &R, shape: ColumnShape, out: &mut dyn Write) -> io::Result<()> {
    let cells = cells(row);
    let shown =
        columns::<R>().zip(&cells).filter(|(column, cell)| shape.shows(column) && **cell != Cell::Absent);
    out.write_all(b"{")?;
    for (i, (column, cell)) in shown.enumerate() {
        write!(out, "{}\"{}\":", if i == 0 { "" } else { "," }, column.name)?;
        match *cell {
            Cell::Text(text) => serde_json::to_writer(&mut *out, text)?,
            Cell::Json(text) => out.write_all(text.as_bytes())?,
            Cell::Series(series) => write!(out, "\"{series}\"")?,
            Cell::Window(ms) => write!(out, "\"{}\"", duration(ms))?,
            Cell::Time(ms) => match Rfc3339::from_ms(ms) {
                Some(time) => write!(out, "\"{time}\"")?,
                None => out.write_all(b"null")?,
            },
            Cell::Int(value) => write!(out, "{value}")?,
            Cell::UInt(value) => write!(out, "{value}")?,
            Cell::Float(value) => serde_json::to_writer(&mut *out, &value)?,
            Cell::True => out.write_all(b"true")?,
            Cell::Null | Cell::Absent => out.write_all(b"null")?,
        }
    }
    out.write_all(b"}")
}

/// Writes the line with the names of the columns.
///
/// # Errors
/// What `out` refuses.
pub fn write_csv_header<R: RowRecord>(shape: ColumnShape, out: &mut dyn Write) -> io::Result<()> {
    let shown = columns::<R>().filter(|column| shape.shows(column));
    for (i, column) in shown.enumerate() {
        write!(out, "{}{}", if i == 0 { "" } else { "," }, column.name)?;
    }
    out.write_all(b"\n")
}

/// Writes a row as one line of CSV (RFC 4180, but with `\n`).
///
/// A cell of text that a spreadsheet would take for a formula gets a leading apostrophe.
///
/// # Errors
/// What `out` refuses.
pub fn write_csv<R: RowRecord>(row: &R, shape: ColumnShape, out: &mut dyn Write) -> io::Result<()> {
    let cells = cells(row);
    let shown = columns::<R>().zip(&cells).filter(|(column, _)| shape.shows(column));
    for (i, (_, cell)) in shown.enumerate() {
        if i > 0 {
            out.write_all(b",")?;
        }
        match *cell {
            Cell::Text(text) | Cell::Json(text) => write_csv_text(text, out)?,
            Cell::Series(series) => write!(out, "{series}")?,
            Cell::Window(ms) => write_csv_text(&duration(ms), out)?,
            Cell::Time(ms) => {
                if let Some(time) = Rfc3339::from_ms(ms) {
                    write!(out, "{time}")?;
                }
            }
            Cell::Int(value) => write!(out, "{value}")?,
            Cell::UInt(value) => write!(out, "{value}")?,
            Cell::Float(value) if value.is_finite() => serde_json::to_writer(&mut *out, &value)?,
            Cell::True => out.write_all(b"true")?,
            Cell::Float(_) | Cell::Null | Cell::Absent => {}
        }
    }
    out.write_all(b"\n")
}

/// One cell of text: formulas defused, quoted where CSV needs it.
fn write_csv_text(text: &str, out: &mut dyn Write) -> io::Result<()> {
    let number = text.parse::<f64>().is_ok_and(f64::is_finite);
    let formula = text.starts_with(['=', '+', '-', '@', '\t', '\r']) && !number;
    let apostrophe = if formula { "'" } else { "" };
    if text.contains(['"', ',', '\n', '\r']) {
        write!(out, "\"{apostrophe}{}\"", text.replace('"', "\"\""))
    } else {
        write!(out, "{apostrophe}{text}")
    }
}

/// The beginning of the year 0 in Unix milliseconds.
const YEAR_0_MS: i64 = -62_167_219_200_000;

/// An instant that prints as RFC 3339 in UTC.
pub struct Rfc3339(jiff::Timestamp);

impl Rfc3339 {
    /// The instant of Unix milliseconds; none outside the years 0 to 9999, which it has no words for.
    pub fn from_ms(ms: i64) -> Option<Rfc3339> {
        let time = jiff::Timestamp::from_millisecond(ms).ok();
        time.filter(|_| ms >= YEAR_0_MS).map(Rfc3339)
    }
}

impl fmt::Display for Rfc3339 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}
