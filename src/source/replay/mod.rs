//! The transport of files: `replay FILE...`, `-` for standard input, plain, gzip or Zstandard → batches of samples.
//!
//! Reading is streamed: memory does not grow with the input. A line that holds no sample we can take is counted by
//! reason and the first [`BAD_LINES_SHOWN`] are kept with their numbers; `strict` stops at the first. A line with a
//! number whose series is known costs no allocation.
//!
//! An input that is damaged, or of which nothing can be taken, is an error of its own: what came before it is taken,
//! and the next call goes on with the next input.
//!
//! Not here: epochs. The caller cuts them, because a file is its own log.

mod error;
mod format;
mod gzip;
mod input;
mod open;
mod stream;
mod utf16;
mod zstd;

use std::collections::VecDeque;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use tidewatch_dataflows::sample::Samples;

use crate::labels::Labels;
use crate::metrics::{Metrics, SourceLabels};
use crate::source::validate::{EventTimeBounds, Refusals};
pub use error::{BadLine, ReplayError};
pub use format::{FileFormat, LINE_BYTES_MAX, MALFORMED, ROW_LINES_MAX};
use input::{LineStep, OpenInput};

/// The name of the source in metrics.
pub const SOURCE: &str = "replay";
/// Samples at which a batch is full; where its last line holds a native histogram it has one more.
pub const BATCH_SAMPLES_MAX: usize = 4_096;
/// Lines that were refused and are kept with their numbers.
pub const BAD_LINES_SHOWN: usize = 20;
/// Lines read before a call returns, so that progress shows also where nothing is taken.
const LINES_PER_CALL: usize = 65_536;
/// What the name of a compressed input ends in.
const COMPRESSED: [&str; 2] = [".gz", ".zst"];

/// How files are read.
#[derive(Clone, Copy, Debug)]
pub struct ReplayOptions {
    /// The format of all inputs; guessed from each name if none is given.
    pub format: Option<FileFormat>,
    /// Stop at the first line that is refused.
    pub strict: bool,
    /// Take times that are far ahead of the clock.
    pub allow_future: bool,
    /// Unix milliseconds.
    pub clock: fn() -> i64,
}

/// What was read so far. `received` is always the samples given out, those of a histogram as one, plus
/// `refusals.total()`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReplaySummary {
    /// Lines, comments and headers included.
    pub lines: u64,
    /// Lines (CSV: rows) that should hold a sample.
    pub received: u64,
    /// Of these, those not taken, by reason.
    pub refusals: Refusals,
    /// The first of them.
    pub first: Vec<BadLine>,
    /// OpenMetrics' samples that tell when a metric was created: read and left out, in none of the counts above.
    pub created: u64,
    /// Native histograms taken: two samples each.
    pub histograms: u64,
    /// What was odd and is no error, a sentence each; at most one of an input.
    pub warnings: Vec<String>,
}

/// What one input came to so far.
#[derive(Default)]
struct InputSummary {
    taken: u64,
    refused: u64,
    first: Option<BadLine>,
}

/// Samples whose only fault was that there were as many series as may be: an input that is ordered by time goes on in
/// them as well, or series that were freed by then would never be.
#[derive(Debug)]
pub struct SeriesLimitHit {
    count: AtomicU64,
    highest_ms: AtomicI64,
}

impl Default for SeriesLimitHit {
    fn default() -> Self {
        SeriesLimitHit { count: AtomicU64::new(0), highest_ms: AtomicI64::new(i64::MIN) }
    }
}

impl SeriesLimitHit {
    fn add(&self, at_ms: i64) {
        self.count.fetch_add(1, Ordering::Relaxed);
        self.highest_ms.fetch_max(at_ms, Ordering::Relaxed);
    }

    /// How many there were so far.
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// The highest time of one.
    pub fn highest_ms(&self) -> Option<i64> {
        Some(self.highest_ms.load(Ordering::Relaxed)).filter(|at_ms| *at_ms != i64::MIN)
    }
}

/// Reads inputs one after another.
pub struct ReplayReader {
    waiting: Inputs,
    reading: Option<OpenInput>,
    of_input: InputSummary,
    options: ReplayOptions,
    labels: Arc<Labels>,
    metrics: Arc<Metrics>,
    bytes: Arc<AtomicU64>,
    bytes_total: Option<u64>,
    beyond: Arc<SeriesLimitHit>,
    summary: ReplaySummary,
}

impl ReplayReader {
    /// Checks that every input is there and has a format; reads nothing yet.
    ///
    /// # Errors
    /// The first input that is missing or whose format is unclear.
    pub fn open(
        inputs: &[String],
        options: ReplayOptions,
        labels: Arc<Labels>,
        metrics: Arc<Metrics>,
    ) -> Result<ReplayReader, ReplayError> {
        let (waiting, bytes_total) = judge(inputs, options.format)?;
        let summary = ReplaySummary::default();
        Ok(ReplayReader {
            waiting,
            reading: None,
            of_input: InputSummary::default(),
            options,
            labels,
            metrics,
            bytes: Arc::default(),
            bytes_total,
            beyond: Arc::default(),
            summary,
        })
    }

    /// Replaces `batch` by the next samples, about [`BATCH_SAMPLES_MAX`]; `epoch` marks the last use of their series.
    ///
    /// `false` at the end of all inputs, with an empty batch. A batch may be empty before that. From standard input,
    /// what has arrived is given out without waiting for more.
    ///
    /// # Errors
    /// If the input at hand cannot be read on; `batch` then holds what came before, and the next call goes on with the
    /// next input.
    pub fn next_batch(&mut self, batch: &mut Samples, epoch: u64) -> Result<bool, ReplayError> {
        batch.clear();
        let (mut refusals, before) = (Refusals::default(), self.summary.histograms);
        let more = self.fill(batch, epoch, &mut refusals);
        let (source, histograms) = (SourceLabels { source: SOURCE }, self.summary.histograms - before);
        let received = batch.len() as u64 - histograms + refusals.total();
        self.metrics.received.get_or_create(&source).inc_by(received);
        self.metrics.reduced.get_or_create(&source).inc_by(histograms);
        refusals.record(SOURCE, &self.metrics);
        self.summary.received += received;
        self.summary.refusals.append(refusals);
        more
    }

    fn fill(
        &mut self,
        batch: &mut Samples,
        epoch: u64,
        refusals: &mut Refusals,
    ) -> Result<bool, ReplayError> {
        let bounds = EventTimeBounds::at((self.options.clock)(), self.options.allow_future);
        for _ in 0..LINES_PER_CALL {
            if batch.len() >= BATCH_SAMPLES_MAX {
                break;
            }
            let Some(input) = &mut self.reading else {
                let Some((name, format)) = self.waiting.pop_front() else { return Ok(!batch.is_empty()) };
                self.reading = Some(OpenInput::open(name, format, self.bytes.clone())?);
                self.of_input = InputSummary::default();
                continue;
            };
            let lines = input.line_number;
            let step = input.step(&self.labels, bounds, epoch);
            self.summary.lines += input.line_number - lines;
            match step {
                Ok(LineStep::Sample { series, at_ms, value }) => {
                    batch.push(series, at_ms, value);
                    self.of_input.taken += 1;
                }
                Ok(LineStep::Histogram { series, at_ms, values }) => {
                    series
                        .into_iter()
                        .zip(values)
                        .for_each(|(series, value)| batch.push(series, at_ms, value));
                    self.of_input.taken += 1;
                    self.summary.histograms += 1;
                }
                Ok(LineStep::Created) => self.summary.created += 1,
                Ok(LineStep::Nothing) => {}
                Ok(LineStep::Refused { line, why: (reason, message), at_ms }) => {
                    at_ms.into_iter().for_each(|at_ms| self.beyond.add(at_ms));
                    let bad = BadLine { input: input.name.clone(), line, reason, message };
                    refusals.add(reason, 1, || bad.to_string());
                    self.refuse(bad)?;
                }
                Ok(LineStep::End) => self.end()?,
                Err(error) => {
                    self.reading = None;
                    return Err(error);
                }
            }
            if self.reading.as_ref().is_some_and(OpenInput::would_wait) {
                break;
            }
        }
        Ok(true)
    }

    /// Notes a line that was not taken; an error in strict reading.
    fn refuse(&mut self, bad: BadLine) -> Result<(), ReplayError> {
        if self.options.strict {
            return Err(ReplayError::Strict(bad));
        }
        self.of_input.refused += 1;
        if self.of_input.first.is_none() {
            self.of_input.first = Some(bad.clone());
        }
        if self.summary.first.len() < BAD_LINES_SHOWN {
            self.summary.first.push(bad);
        }
        Ok(())
    }

    /// The input at hand has ended well; an error if nothing of it could be taken.
    fn end(&mut self) -> Result<(), ReplayError> {
        let (input, done) = (self.reading.take(), std::mem::take(&mut self.of_input));
        let ignored = input.as_ref().map_or(0, OpenInput::ignored);
        let name = input.map(|input| input.name).unwrap_or_default();
        if ignored > 0 {
            let end = "its last compressed part belong to none and are left out";
            self.summary.warnings.push(format!("{name}: {ignored} bytes behind {end}"));
        }
        match done {
            InputSummary { taken: 0, refused, first: Some(first) } => {
                Err(ReplayError::NothingTaken { refused, first })
            }
            _ => Ok(()),
        }
    }

    /// Bytes read so far, before decompression; goes on counting while inputs are read.
    pub fn bytes_counter(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.bytes)
    }

    /// Samples beyond the limits on series; goes on counting while inputs are read.
    pub fn beyond(&self) -> Arc<SeriesLimitHit> {
        Arc::clone(&self.beyond)
    }

    /// Bytes of all inputs, if all are files.
    pub fn bytes_total(&self) -> Option<u64> {
        self.bytes_total
    }

    /// What was read so far.
    pub fn summary(&self) -> &ReplaySummary {
        &self.summary
    }
}

/// Inputs with their formats, in order.
type Inputs = VecDeque<(String, FileFormat)>;

/// Checks that every input is there and has a format; gives them, and their bytes if all are files.
///
/// # Errors
/// The first input that is missing or whose format is unclear.
pub fn judge(inputs: &[String], format: Option<FileFormat>) -> Result<(Inputs, Option<u64>), ReplayError> {
    if inputs.is_empty() {
        return Err(ReplayError::NoInput);
    }
    let mut judged = VecDeque::new();
    let mut bytes_total = Some(0);
    for input in inputs {
        let format = format.or_else(|| guess(input));
        let format = format.ok_or_else(|| ReplayError::UnknownFormat { input: input.clone() })?;
        let size =
            size(input).map_err(|error| ReplayError::Read { input: input.clone(), error, lines: 0 })?;
        bytes_total = bytes_total.zip(size).map(|(all, one)| all + one);
        judged.push_back((input.clone(), format));
    }
    Ok((judged, bytes_total))
}

/// The format that the name of an input tells; standard input is text.
fn guess(input: &str) -> Option<FileFormat> {
    if input == "-" {
        return Some(FileFormat::Prometheus);
    }
    let lower = input.to_ascii_lowercase();
    let plain = COMPRESSED.iter().find_map(|ending| lower.strip_suffix(ending)).unwrap_or(&lower);
    match Path::new(plain).extension()?.to_str()? {
        "prom" | "prometheus" | "txt" | "text" | "metrics" => Some(FileFormat::Prometheus),
        "om" | "openmetrics" => Some(FileFormat::OpenMetrics),
        "csv" => Some(FileFormat::Csv),
        _ => None,
    }
}

/// The bytes of an input, if it is a file that knows them.
fn size(input: &str) -> io::Result<Option<u64>> {
    if input == "-" {
        return Ok(None);
    }
    let metadata = std::fs::metadata(input)?;
    if metadata.is_dir() {
        return Err(io::Error::new(io::ErrorKind::IsADirectory, "it is a directory"));
    }
    Ok(metadata.is_file().then_some(metadata.len()))
}

#[cfg(test)]
mod tests;
