//! How rows are shown: their columns, and JSON and CSV written from one list of cells, so that they cannot disagree.
//!
//! A list of numbers is an array in JSON, and its text in one field of CSV. In JSON a number that is not finite is `null`, and a column that does not apply to a row (`rate` of a gauge) is
//! left out; in CSV both are empty cells. Times are shown as RFC 3339 (`at`) and as Unix milliseconds (`at_ms`).
//!
//! Not here: which rows there are, and what their columns are called (`row.rs`, and `rows` in the dataflow's crate).

use std::fmt;
use std::io::{self, Write};

pub use tidewatch_dataflows::rows::columns::{Cell, CellType, Column, Columns};
use tidewatch_dataflows::settings::duration;

/// A row as columns.
pub trait RowRecord {
    /// Its columns.
    const COLUMNS: Columns;

    /// Appends one cell per column.
    fn cells<'a>(&'a self, cells: &mut Vec<Cell<'a>>);
}

fn flat(columns: Columns) -> impl Iterator<Item = &'static Column> {
    columns.iter().copied().flatten()
}

fn cells<R: RowRecord>(row: &R) -> Vec<Cell<'_>> {
    let mut cells = Vec::with_capacity(flat(R::COLUMNS).count());
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
    write_json_cells(R::COLUMNS, &cells(row), shape, out)
}

/// [`write_json`] of the cells of a row.
///
/// # Errors
/// What `out` refuses.
pub fn write_json_cells(
    columns: Columns,
    cells: &[Cell<'_>],
    shape: ColumnShape,
    out: &mut dyn Write,
) -> io::Result<()> {
    let shown =
        flat(columns).zip(cells).filter(|(column, cell)| shape.shows(column) && **cell != Cell::Absent);
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
            Cell::Floats(values) => serde_json::to_writer(&mut *out, values)?,
            Cell::Bool(value) => write!(out, "{value}")?,
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
pub fn write_csv_header(columns: Columns, shape: ColumnShape, out: &mut dyn Write) -> io::Result<()> {
    let shown = flat(columns).filter(|column| shape.shows(column));
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
    write_csv_cells(R::COLUMNS, &cells(row), shape, out)
}

/// [`write_csv`] of the cells of a row.
///
/// # Errors
/// What `out` refuses.
pub fn write_csv_cells(
    columns: Columns,
    cells: &[Cell<'_>],
    shape: ColumnShape,
    out: &mut dyn Write,
) -> io::Result<()> {
    let shown = flat(columns).zip(cells).filter(|(column, _)| shape.shows(column));
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
            Cell::Floats(values) => write_csv_text(&serde_json::to_string(values)?, out)?,
            Cell::Bool(value) => write!(out, "{value}")?,
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

#[cfg(test)]
mod tests {
    use super::*;

    struct Lags(&'static [f64]);

    impl RowRecord for Lags {
        const COLUMNS: Columns = &[&[
            Column::new("by_lag", CellType::Floats { most: 3 }, "By lag."),
            Column::new("n", CellType::UInt, "How many."),
        ]];

        fn cells<'a>(&'a self, cells: &mut Vec<Cell<'a>>) {
            cells.extend([Cell::Floats(self.0), Cell::UInt(self.0.len() as u64)]);
        }
    }

    #[test]
    fn a_list_is_an_array_in_json_and_one_field_in_csv() {
        for (values, json, csv) in [
            (&[][..], r#"{"by_lag":[],"n":0}"#, "[],0\n"),
            (&[1.5], r#"{"by_lag":[1.5],"n":1}"#, "[1.5],1\n"),
            (
                &[0.25, f64::NAN, -1e300],
                r#"{"by_lag":[0.25,null,-1e+300],"n":3}"#,
                "\"[0.25,null,-1e+300]\",3\n",
            ),
        ] {
            let (mut as_json, mut as_csv) = (Vec::new(), Vec::new());
            write_json(&Lags(values), ColumnShape::default(), &mut as_json).unwrap();
            write_csv(&Lags(values), ColumnShape::default(), &mut as_csv).unwrap();
            assert_eq!(
                (String::from_utf8(as_json).unwrap().as_str(), String::from_utf8(as_csv).unwrap().as_str()),
                (json, csv)
            );
        }
    }
}
