//! One input while it is read: cut into lines or rows, each judged.
//!
//! Not here: how it is opened and decompressed (`open`), and what becomes of a sample or a refusal, which is the same
//! for all inputs.

use std::io::{BufRead, BufReader, Read};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use super::error::ReplayError;
use super::format::{FileFormat, LINE_BYTES_MAX, MALFORMED, ROW_LINES_MAX};
use super::open::{InputStream, open};
use super::stream::IgnoredBytes;
use crate::labels::{Labels, NAME};
use crate::source::csv::{self, CsvError, CsvTable};
use crate::source::exposition::{self, Dialect, LineSeries};
use crate::source::validate::{self, BAD_HISTOGRAM, EventTimeBounds, SeriesRefusal};
use crate::source::{histogram, openmetrics};

/// Refusals for the number of series alone: the same sample would do at another time.
const SERIES_LIMITS: [&str; 2] = ["series_limit", "series_per_name_limit"];

/// What one line came to.
pub enum LineStep {
    Sample {
        series: u64,
        at_ms: i64,
        value: f64,
    },
    /// Of a native histogram, count and sum.
    Histogram {
        series: [u64; 2],
        at_ms: i64,
        values: [f64; 2],
    },
    /// A sample that tells when a metric was created.
    Created,
    Nothing,
    Refused {
        line: u64,
        why: SeriesRefusal,
        /// The time of a sample whose only fault is that there are as many series as may be.
        at_ms: Option<i64>,
    },
    End,
}

enum RowState {
    Text,
    OpenMetrics(openmetrics::OpenMetricsFile),
    Csv(CsvHeader),
}

/// How far the header of CSV is read.
enum CsvHeader {
    /// It is next; what separates its columns if a line before it says so.
    Next(Option<u8>),
    Read(Box<CsvTable>),
}

/// One input while it is read.
pub struct OpenInput {
    /// As named.
    pub name: String,
    /// Lines read so far.
    pub line_number: u64,
    bytes: BufReader<Box<dyn Read + Send>>,
    rows: RowState,
    line: Vec<u8>,
    ignored: IgnoredBytes,
}

/// What reading one line gave.
#[derive(PartialEq)]
enum LineRead {
    Line,
    TooLong,
    End,
}

impl OpenInput {
    /// Opens the input of this name; `counter` counts its bytes as they stand in it.
    pub fn open(name: String, format: FileFormat, counter: Arc<AtomicU64>) -> Result<OpenInput, ReplayError> {
        let InputStream { text, ignored } = match open(&name, counter) {
            Ok(opened) => opened,
            Err(error) => return Err(ReplayError::Read { input: name, error, lines: 0 }),
        };
        let rows = match format {
            FileFormat::Prometheus => RowState::Text,
            FileFormat::OpenMetrics => RowState::OpenMetrics(openmetrics::OpenMetricsFile::default()),
            FileFormat::Csv => RowState::Csv(CsvHeader::Next(None)),
        };
        Ok(OpenInput { name, bytes: text, rows, line: Vec::new(), line_number: 0, ignored })
    }

    /// Bytes that were left out behind the last part of what is compressed.
    pub fn ignored(&self) -> u64 {
        self.ignored.bytes()
    }

    /// Whether reading on may wait for someone who writes into a pipe.
    pub fn would_wait(&self) -> bool {
        self.name == "-" && self.bytes.buffer().is_empty()
    }

    /// Reads one line or row.
    pub fn step(
        &mut self,
        labels: &Labels,
        bounds: EventTimeBounds,
        epoch: u64,
    ) -> Result<LineStep, ReplayError> {
        self.line.clear();
        let got = self.next_line()?;
        let line = self.line_number;
        let refused = |reason, message| Ok(LineStep::Refused { line, why: (reason, message), at_ms: None });
        match got {
            LineRead::End => return self.end(),
            LineRead::TooLong => {
                return refused(MALFORMED, format!("a line cannot exceed {LINE_BYTES_MAX} bytes"));
            }
            LineRead::Line => {}
        }
        let done = match &mut self.rows {
            RowState::Text if exposition::is_empty(&self.line) => Ok(LineStep::Nothing),
            RowState::Text => text_line(&self.line, labels, bounds, epoch, Dialect::Prometheus),
            RowState::OpenMetrics(file) => openmetrics_line(file, &self.line, labels, bounds, epoch),
            RowState::Csv(CsvHeader::Next(separator)) => {
                let header = read_header(without_line_end(&self.line), *separator, line);
                let input = &self.name;
                let header =
                    header.map_err(|message| ReplayError::Header { input: input.clone(), line, message })?;
                self.rows = RowState::Csv(header);
                Ok(LineStep::Nothing)
            }
            RowState::Csv(CsvHeader::Read(_)) => self.csv_row(labels, bounds, epoch)?,
        };
        match done {
            // A row of several lines bears the number of its first.
            Ok(LineStep::Refused { why, at_ms, .. }) => Ok(LineStep::Refused { line, why, at_ms }),
            Ok(step) => Ok(step),
            Err((reason, message)) => refused(reason, message),
        }
    }

    /// The input has no further line.
    fn end(&self) -> Result<LineStep, ReplayError> {
        match &self.rows {
            RowState::OpenMetrics(file) if !file.ended() => {
                Err(ReplayError::CutOff { input: self.name.clone(), lines: self.line_number })
            }
            _ => Ok(LineStep::End),
        }
    }

    /// Reads the row that begins with the line at hand, and further lines while a quoted cell is open.
    fn csv_row(
        &mut self,
        labels: &Labels,
        bounds: EventTimeBounds,
        epoch: u64,
    ) -> Result<LineOutcome, ReplayError> {
        for _ in 0..ROW_LINES_MAX {
            let RowState::Csv(CsvHeader::Read(table)) = &mut self.rows else { break };
            match csv_row(table, without_line_end(&self.line), labels, bounds, epoch) {
                Ok(taken) => return Ok(taken),
                Err(RowContinues) if self.next_line()? == LineRead::Line => {}
                Err(RowContinues) => break,
            }
        }
        let why = format!(
            "a quoted cell that begins here is not closed within {ROW_LINES_MAX} lines, {LINE_BYTES_MAX} bytes and the file"
        );
        Ok(Err((MALFORMED, why)))
    }

    /// Appends a line, with its end, to what is held.
    fn next_line(&mut self) -> Result<LineRead, ReplayError> {
        let held = self.line.len();
        let lines = self.line_number;
        let wrap = |error| ReplayError::Read { input: self.name.clone(), error, lines };
        let room = (LINE_BYTES_MAX + 1).saturating_sub(held) as u64;
        let n = (&mut self.bytes).take(room).read_until(b'\n', &mut self.line).map_err(wrap)?;
        if n == 0 && room > 0 {
            return Ok(LineRead::End);
        }
        if self.line_number == 0 && self.line.starts_with(b"\xef\xbb\xbf") {
            self.line.drain(..3);
        }
        self.line_number += 1;
        if self.line.len() > LINE_BYTES_MAX {
            if self.line.last() != Some(&b'\n') {
                self.bytes.skip_until(b'\n').map_err(wrap)?;
            }
            return Ok(LineRead::TooLong);
        }
        Ok(LineRead::Line)
    }
}

/// What a line came to, or why it is refused.
type LineOutcome = Result<LineStep, SeriesRefusal>;

/// The row goes on in the next line.
struct RowContinues;

fn without_line_end(line: &[u8]) -> &[u8] {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    line.strip_suffix(b"\r").unwrap_or(line)
}

/// Reads the header of CSV, or in the first line what separates its columns.
fn read_header(line: &[u8], separator: Option<u8>, number: u64) -> Result<CsvHeader, String> {
    match (separator, csv::separator_of(line)) {
        (None, Some(said)) if number == 1 => Ok(CsvHeader::Next(Some(said?))),
        (Some(separator), _) => Ok(CsvHeader::Read(Box::new(CsvTable::separated(line, separator)?))),
        (None, _) => Ok(CsvHeader::Read(Box::new(CsvTable::new(line)?))),
    }
}

/// Reads a line of Prometheus text or OpenMetrics that should hold a sample.
fn text_line(
    line: &[u8],
    labels: &Labels,
    bounds: EventTimeBounds,
    epoch: u64,
    dialect: Dialect,
) -> LineOutcome {
    if let Some(glance) = exposition::glance(line, dialect)
        && bounds.contain(glance.at_ms)
        && let Some(series) = labels.find(glance.key, epoch)
    {
        return Ok(LineStep::Sample { series: series.0, at_ms: glance.at_ms, value: glance.value });
    }
    take(&in_full(line, dialect)?, labels, bounds, epoch, dialect)
}

fn openmetrics_line(
    file: &mut openmetrics::OpenMetricsFile,
    line: &[u8],
    labels: &Labels,
    bounds: EventTimeBounds,
    epoch: u64,
) -> LineOutcome {
    if file.takes(line) {
        return Ok(LineStep::Nothing);
    }
    if file.ended() {
        return Err((MALFORMED, "nothing may follow the line # EOF".to_owned()));
    }
    let dialect = Dialect::OpenMetrics;
    if !file.may_be_created(line) {
        return text_line(line, labels, bounds, epoch, dialect);
    }
    let line = in_full(line, dialect)?;
    if line.pairs.iter().any(|(name, value)| name == NAME && file.is_created(value)) {
        return Ok(LineStep::Created);
    }
    take(&line, labels, bounds, epoch, dialect)
}

fn in_full(line: &[u8], dialect: Dialect) -> Result<exposition::ExpositionLine<'_>, SeriesRefusal> {
    let line = str::from_utf8(line).map_err(|error| {
        (MALFORMED, format!("the line must be UTF-8; byte {} is not", error.valid_up_to() + 1))
    })?;
    exposition::read(line, dialect).map_err(|why| (MALFORMED, why))
}

/// The sample of a line that was read in full.
fn take(
    line: &exposition::ExpositionLine<'_>,
    labels: &Labels,
    bounds: EventTimeBounds,
    epoch: u64,
    dialect: Dialect,
) -> LineOutcome {
    if !bounds.contain(line.at_ms) {
        return Err(out_of_bounds(line.at_ms, bounds, dialect == Dialect::OpenMetrics));
    }
    let mut pairs = line.pairs.iter().map(|(name, value)| (name.as_ref(), value.as_ref())).collect();
    let at_ms = line.at_ms;
    match line.value {
        LineSeries::Float(value) => {
            let interned = validate::intern(labels, &mut pairs, line.key, epoch);
            or_beyond(interned, at_ms, |series| LineStep::Sample { series, at_ms, value })
        }
        LineSeries::Histogram(read) => {
            let values = read.judge().map_err(|why| (BAD_HISTOGRAM, why))?;
            let mut key = Vec::new();
            let interned = match histogram::find(labels, line.key, &mut key, epoch) {
                Some(known) => Ok(known),
                None => histogram::intern(labels, &pairs, line.key, &mut key, epoch),
            };
            or_beyond(interned, at_ms, |series| LineStep::Histogram { series, at_ms, values })
        }
    }
}

/// The sample of a series that was interned, or that it is one too many.
fn or_beyond<S>(
    interned: Result<S, SeriesRefusal>,
    at_ms: i64,
    sample: impl FnOnce(S) -> LineStep,
) -> LineOutcome {
    match interned {
        Ok(series) => Ok(sample(series)),
        Err(why) if SERIES_LIMITS.contains(&why.0) => {
            Ok(LineStep::Refused { line: 0, why, at_ms: Some(at_ms) })
        }
        Err(why) => Err(why),
    }
}

fn out_of_bounds(at_ms: i64, bounds: EventTimeBounds, in_seconds: bool) -> SeriesRefusal {
    let sentence = if in_seconds { bounds.sentence_for_seconds(at_ms) } else { bounds.sentence(at_ms) };
    (bounds.reason(at_ms), sentence)
}

fn csv_row(
    table: &mut CsvTable,
    line: &[u8],
    labels: &Labels,
    bounds: EventTimeBounds,
    epoch: u64,
) -> Result<LineOutcome, RowContinues> {
    if line.is_empty() {
        return Ok(Ok(LineStep::Nothing));
    }
    let row = match table.read(line) {
        Ok(row) => row,
        Err(CsvError::Open) => return Err(RowContinues),
        Err(CsvError::Malformed(why)) => return Ok(Err((MALFORMED, why))),
    };
    if !bounds.contain(row.at_ms) {
        return Ok(Err(out_of_bounds(row.at_ms, bounds, table.in_seconds())));
    }
    let sample = |series| LineStep::Sample { series, at_ms: row.at_ms, value: row.value };
    if let Some(series) = labels.find(table.key(), epoch) {
        return Ok(Ok(sample(series.0)));
    }
    let interned = match table.pairs() {
        Ok(mut pairs) => validate::intern(labels, &mut pairs, table.key(), epoch),
        Err(why) => Err((MALFORMED, why)),
    };
    Ok(or_beyond(interned, row.at_ms, sample))
}
