//! Rows to a file: JSON lines or CSV, streamed in key order, as they are shown by the API.

use std::fmt;
use std::io::Write;
use std::str::FromStr;

use super::record::{ColumnShape, write_csv_cells, write_csv_header, write_json_cells};
use super::{ExportQuery, Store, StoreError};

/// How rows are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExportFormat {
    /// One JSON object per line.
    JsonLines,
    /// A line of column names, then one line per row.
    Csv,
}

/// The text names no format.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("format must be jsonl or csv; got {0:?}")]
pub struct UnknownFormat(pub String);

impl FromStr for ExportFormat {
    type Err = UnknownFormat;

    fn from_str(text: &str) -> Result<Self, UnknownFormat> {
        match text {
            "jsonl" => Ok(ExportFormat::JsonLines),
            "csv" => Ok(ExportFormat::Csv),
            _ => Err(UnknownFormat(text.to_owned())),
        }
    }
}

impl fmt::Display for ExportFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ExportFormat::JsonLines => "jsonl",
            ExportFormat::Csv => "csv",
        })
    }
}

/// Writes the rows that are asked for to `out`, which should be buffered, and returns how many.
///
/// `last_word` leaves the revision out, so that what the same samples came to is the same bytes however they came.
///
/// # Errors
/// The store cannot be read, or `out` not written.
pub fn export(
    store: &dyn Store,
    query: &ExportQuery,
    format: ExportFormat,
    last_word: bool,
    out: &mut dyn Write,
) -> Result<u64, StoreError> {
    let shape = ColumnShape { without_revision: last_word };
    if format == ExportFormat::Csv {
        write_csv_header(query.kind.info().columns, shape, out)?;
    }
    let written = store.export(query, &mut |row| {
        let (columns, cells) = (row.columns(), row.cells());
        match format {
            ExportFormat::JsonLines => {
                write_json_cells(columns, &cells, shape, out)?;
                out.write_all(b"\n")
            }
            ExportFormat::Csv => write_csv_cells(columns, &cells, shape, out),
        }
    })?;
    out.flush()?;
    Ok(written)
}
