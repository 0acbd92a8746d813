//! The transport of files: `replay FILE...`, `-` for standard input, gzip or plain → batches of samples.
//!
//! Reading is streamed: memory does not grow with the input. A line that holds no sample we can take is counted by
//! reason and the first [`BAD_LINES_SHOWN`] are kept with their numbers; `strict` stops at the first. A line whose
//! series is known costs no allocation.
//!
//! Not here: epochs. The caller cuts them, because a file is its own log.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use flate2::bufread::MultiGzDecoder;
use tidewatch_dataflows::sample::Samples;

use crate::labels::Labels;
use crate::metrics::{Metrics, Source};
use crate::source::csv::{Bad, Table};
use crate::source::exposition;
use crate::source::validate::{self, Bounds, Refusals, Refusing};

/// The name of the source in metrics.
pub const SOURCE: &str = "replay";
/// The reason of a line that cannot be read.
pub const MALFORMED: &str = "malformed";
/// Most samples of a batch.
pub const BATCH_SAMPLES_MAX: usize = 4_096;
/// Most bytes of a line, and of the lines of one CSV row.
pub const LINE_BYTES_MAX: usize = 1 << 20;
/// Most lines of one CSV row.
pub const ROW_LINES_MAX: usize = 64;
/// Lines that were refused and are kept with their numbers.
pub const BAD_LINES_SHOWN: usize = 20;
/// Lines read before a call returns, so that progress shows also where nothing is taken.
const LINES_PER_CALL: usize = 65_536;
const BUFFER_BYTES: usize = 1 << 18;
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];

/// A format of files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Prometheus text 0.0.4 with timestamps.
    Prometheus,
    /// Comma-separated values with a header row.
    Csv,
}

impl std::str::FromStr for Format {
    type Err = String;

    fn from_str(text: &str) -> Result<Format, String> {
        match text {
            "prometheus" => Ok(Format::Prometheus),
            "csv" => Ok(Format::Csv),
            _ => Err(format!("format must be prometheus or csv; got {text:?}")),
        }
    }
}

/// How files are read.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// The format of all inputs; guessed from each name if none is given.
    pub format: Option<Format>,
    /// Stop at the first line that is refused.
    pub strict: bool,
    /// Take times that are far ahead of the clock.
    pub allow_future: bool,
    /// Unix milliseconds.
    pub clock: fn() -> i64,
}

/// Why reading cannot go on. All definite.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// The format cannot be guessed.
    #[error(
        "the format of {input} cannot be guessed from its name (.prom, .txt, .csv, each also with .gz); give --format prometheus or csv"
    )]
    UnknownFormat {
        /// The input as named.
        input: String,
    },
    /// There is nothing to read.
    #[error("there is no input; name files, or - for standard input")]
    NoInput,
    /// An input cannot be opened or read.
    #[error("reading {input}: {error}")]
    Read {
        /// The input as named.
        input: String,
        /// What the system said.
        error: io::Error,
    },
    /// The header row of a CSV file cannot be used.
    #[error("{input} line 1: {message}")]
    Header {
        /// The input as named.
        input: String,
        /// What is wrong.
        message: String,
    },
    /// The first refused line, in strict reading.
    #[error("{0}")]
    Strict(BadLine),
}

/// A line that was not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{input} line {line}: {message}")]
pub struct BadLine {
    /// The input as named.
    pub input: String,
    /// Counted from 1.
    pub line: u64,
    /// The reason's word.
    pub reason: &'static str,
    /// What is wrong.
    pub message: String,
}

/// What was read so far. `received` is always the samples given out plus `refusals.total()`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Lines, comments and headers included.
    pub lines: u64,
    /// Lines (CSV: rows) that should hold a sample.
    pub received: u64,
    /// Of these, those not taken, by reason.
    pub refusals: Refusals,
    /// The first of them.
    pub first: Vec<BadLine>,
    /// The highest event time given out: what the last epoch's stream time is made from.
    pub highest_ms: Option<i64>,
}

/// Reads inputs one after another.
pub struct Replay {
    waiting: Inputs,
    reading: Option<Input>,
    options: Options,
    labels: Arc<Labels>,
    metrics: Arc<Metrics>,
    bytes: Arc<AtomicU64>,
    bytes_total: Option<u64>,
    summary: Summary,
}

impl Replay {
    /// Checks that every input is there and has a format; reads nothing yet.
    ///
    /// # Errors
    /// The first input that is missing or whose format is unclear.
    pub fn open(
        inputs: &[String],
        options: Options,
        labels: Arc<Labels>,
        metrics: Arc<Metrics>,
    ) -> Result<Replay, ReplayError> {
        let (waiting, bytes_total) = judge(inputs, options.format)?;
        let summary = Summary::default();
        Ok(Replay {
            waiting,
            reading: None,
            options,
            labels,
            metrics,
            bytes: Arc::default(),
            bytes_total,
            summary,
        })
    }

    /// Replaces `batch` by the next samples, up to [`BATCH_SAMPLES_MAX`]; `epoch` marks the last use of their series.
    ///
    /// `false` at the end of all inputs, with an empty batch. A batch may be empty before that. From standard input,
    /// what has arrived is given out without waiting for more.
    ///
    /// # Errors
    /// If reading cannot go on; `batch` then holds what came before.
    pub fn next_batch(&mut self, batch: &mut Samples, epoch: u64) -> Result<bool, ReplayError> {
        batch.clear();
        let mut refusals = Refusals::default();
        let more = self.fill(batch, epoch, &mut refusals);
        let received = batch.len() as u64 + refusals.total();
        self.metrics.received.get_or_create(&Source { source: SOURCE }).inc_by(received);
        refusals.record(SOURCE, &self.metrics);
        self.summary.received += received;
        self.summary.refusals.append(refusals);
        self.summary.highest_ms = self.summary.highest_ms.max(batch.at_ms.iter().copied().max());
        more
    }

    fn fill(
        &mut self,
        batch: &mut Samples,
        epoch: u64,
        refusals: &mut Refusals,
    ) -> Result<bool, ReplayError> {
        let bounds = Bounds::at((self.options.clock)(), self.options.allow_future);
        for _ in 0..LINES_PER_CALL {
            if batch.len() == BATCH_SAMPLES_MAX {
                break;
            }
            let Some(input) = &mut self.reading else {
                let Some((name, format)) = self.waiting.pop_front() else { return Ok(!batch.is_empty()) };
                self.reading = Some(Input::open(name, format, self.bytes.clone())?);
                continue;
            };
            let lines = input.line_number;
            let step = input.step(&self.labels, bounds, epoch)?;
            self.summary.lines += input.line_number - lines;
            match step {
                Step::Sample { series, at_ms, value } => batch.push(series, at_ms, value),
                Step::Nothing => {}
                Step::Refused { line, why: (reason, message) } => {
                    let bad = BadLine { input: input.name.clone(), line, reason, message };
                    refusals.add(reason, 1, || bad.to_string());
                    if self.options.strict {
                        return Err(ReplayError::Strict(bad));
                    }
                    if self.summary.first.len() < BAD_LINES_SHOWN {
                        self.summary.first.push(bad);
                    }
                }
                Step::End => self.reading = None,
            }
            if self.reading.as_ref().is_some_and(Input::would_wait) {
                break;
            }
        }
        Ok(true)
    }

    /// Bytes read so far, before decompression.
    pub fn bytes_read(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Bytes of all inputs, if all are files.
    pub fn bytes_total(&self) -> Option<u64> {
        self.bytes_total
    }

    /// What was read so far.
    pub fn summary(&self) -> &Summary {
        &self.summary
    }
}

/// Inputs with their formats, in order.
type Inputs = VecDeque<(String, Format)>;

/// Checks that every input is there and has a format; gives them, and their bytes if all are files.
///
/// # Errors
/// The first input that is missing or whose format is unclear.
pub fn judge(inputs: &[String], format: Option<Format>) -> Result<(Inputs, Option<u64>), ReplayError> {
    if inputs.is_empty() {
        return Err(ReplayError::NoInput);
    }
    let mut judged = VecDeque::new();
    let mut bytes_total = Some(0);
    for input in inputs {
        let format = format.or_else(|| guess(input));
        let format = format.ok_or_else(|| ReplayError::UnknownFormat { input: input.clone() })?;
        let size = size(input).map_err(|error| ReplayError::Read { input: input.clone(), error })?;
        bytes_total = bytes_total.zip(size).map(|(all, one)| all + one);
        judged.push_back((input.clone(), format));
    }
    Ok((judged, bytes_total))
}

/// The format that the name of an input tells; standard input is text.
fn guess(input: &str) -> Option<Format> {
    if input == "-" {
        return Some(Format::Prometheus);
    }
    let lower = input.to_ascii_lowercase();
    match Path::new(lower.strip_suffix(".gz").unwrap_or(&lower)).extension()?.to_str()? {
        "prom" | "prometheus" | "txt" | "text" | "metrics" => Some(Format::Prometheus),
        "csv" => Some(Format::Csv),
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

/// What one line came to.
enum Step {
    Sample { series: u64, at_ms: i64, value: f64 },
    Nothing,
    Refused { line: u64, why: Refusing },
    End,
}

enum Rows {
    Text,
    /// The table begins with the header.
    Csv(Option<Box<Table>>),
}

/// One input while it is read.
struct Input {
    name: String,
    bytes: BufReader<Box<dyn Read + Send>>,
    rows: Rows,
    line: Vec<u8>,
    line_number: u64,
}

/// Counts what goes through.
struct Counted<R> {
    inner: R,
    bytes: Arc<AtomicU64>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.bytes.fetch_add(n as u64, Ordering::Relaxed);
        Ok(n)
    }
}

/// The decompressed bytes of an input; `counter` counts them as they stand in it.
fn open(name: &str, counter: Arc<AtomicU64>) -> io::Result<Box<dyn Read + Send>> {
    let inner: Box<dyn Read + Send> = match name {
        "-" => Box::new(io::stdin()),
        _ => Box::new(File::open(name)?),
    };
    let mut plain = BufReader::with_capacity(BUFFER_BYTES, Counted { inner, bytes: counter });
    let gzip = name.to_ascii_lowercase().ends_with(".gz") || plain.fill_buf()?.starts_with(&GZIP_MAGIC);
    match gzip {
        true => Ok(Box::new(MultiGzDecoder::new(plain))),
        false => Ok(Box::new(plain)),
    }
}

/// What reading one line gave.
#[derive(PartialEq)]
enum Got {
    Line,
    TooLong,
    End,
}

impl Input {
    fn open(name: String, format: Format, counter: Arc<AtomicU64>) -> Result<Input, ReplayError> {
        let inner = match open(&name, counter) {
            Ok(inner) => inner,
            Err(error) => return Err(ReplayError::Read { input: name, error }),
        };
        let bytes = BufReader::with_capacity(BUFFER_BYTES, inner);
        let rows = match format {
            Format::Prometheus => Rows::Text,
            Format::Csv => Rows::Csv(None),
        };
        Ok(Input { name, bytes, rows, line: Vec::new(), line_number: 0 })
    }

    /// Whether reading on may wait for someone who writes into a pipe.
    fn would_wait(&self) -> bool {
        self.name == "-" && self.bytes.buffer().is_empty()
    }

    /// Reads one line or row.
    fn step(&mut self, labels: &Labels, bounds: Bounds, epoch: u64) -> Result<Step, ReplayError> {
        self.line.clear();
        let got = self.next_line()?;
        let line = self.line_number;
        let refused = |reason, message| Ok(Step::Refused { line, why: (reason, message) });
        match got {
            Got::End => return Ok(Step::End),
            Got::TooLong => {
                return refused(MALFORMED, format!("a line cannot exceed {LINE_BYTES_MAX} bytes"));
            }
            Got::Line => {}
        }
        let done = match &mut self.rows {
            Rows::Text => text_line(&self.line, labels, bounds, epoch),
            Rows::Csv(None) => {
                let table = Table::new(without_line_end(&self.line))
                    .map_err(|message| ReplayError::Header { input: self.name.clone(), message })?;
                self.rows = Rows::Csv(Some(Box::new(table)));
                Ok(None)
            }
            Rows::Csv(Some(_)) => self.csv_row(labels, bounds, epoch)?,
        };
        match done {
            Ok(Some((series, at_ms, value))) => Ok(Step::Sample { series, at_ms, value }),
            Ok(None) => Ok(Step::Nothing),
            Err((reason, message)) => refused(reason, message),
        }
    }

    /// Reads the row that begins with the line at hand, and further lines while a quoted cell is open.
    fn csv_row(&mut self, labels: &Labels, bounds: Bounds, epoch: u64) -> Result<Taken, ReplayError> {
        let Rows::Csv(Some(_)) = self.rows else { return Ok(Ok(None)) };
        for _ in 0..ROW_LINES_MAX {
            let Rows::Csv(Some(table)) = &mut self.rows else { break };
            match csv_row(table, without_line_end(&self.line), labels, bounds, epoch) {
                Ok(taken) => return Ok(taken),
                Err(Open) if self.next_line()? == Got::Line => {}
                Err(Open) => break,
            }
        }
        let why = format!(
            "a quoted cell that begins here is not closed within {ROW_LINES_MAX} lines, {LINE_BYTES_MAX} bytes and the file"
        );
        Ok(Err((MALFORMED, why)))
    }

    /// Appends a line, with its end, to what is held.
    fn next_line(&mut self) -> Result<Got, ReplayError> {
        let held = self.line.len();
        let wrap = |error| ReplayError::Read { input: self.name.clone(), error };
        let room = (LINE_BYTES_MAX + 1).saturating_sub(held) as u64;
        let n = (&mut self.bytes).take(room).read_until(b'\n', &mut self.line).map_err(wrap)?;
        if n == 0 && room > 0 {
            return Ok(Got::End);
        }
        if self.line_number == 0 && self.line.starts_with(b"\xef\xbb\xbf") {
            self.line.drain(..3);
        }
        self.line_number += 1;
        if self.line.len() > LINE_BYTES_MAX {
            if self.line.last() != Some(&b'\n') {
                self.bytes.skip_until(b'\n').map_err(wrap)?;
            }
            return Ok(Got::TooLong);
        }
        Ok(Got::Line)
    }
}

/// A sample taken from a line, nothing, or why the line is refused.
type Taken = Result<Option<(u64, i64, f64)>, Refusing>;

/// The row goes on in the next line.
struct Open;

fn without_line_end(line: &[u8]) -> &[u8] {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    line.strip_suffix(b"\r").unwrap_or(line)
}

fn text_line(line: &[u8], labels: &Labels, bounds: Bounds, epoch: u64) -> Taken {
    if let Some(glance) = exposition::glance(line)
        && bounds.contain(glance.at_ms)
        && let Some(series) = labels.find(glance.key, epoch)
    {
        return Ok(Some((series.0, glance.at_ms, glance.value)));
    }
    if exposition::is_empty(line) {
        return Ok(None);
    }
    let malformed = |why: String| (MALFORMED, why);
    let line = str::from_utf8(line).map_err(|error| {
        malformed(format!("the line must be UTF-8; byte {} is not", error.valid_up_to() + 1))
    })?;
    let line = exposition::read(line).map_err(malformed)?;
    if !bounds.contain(line.at_ms) {
        return Err((bounds.reason(line.at_ms), bounds.sentence(line.at_ms)));
    }
    let mut pairs = line.pairs.iter().map(|(name, value)| (name.as_ref(), value.as_ref())).collect();
    let series = validate::intern(labels, &mut pairs, line.key, epoch)?;
    Ok(Some((series, line.at_ms, line.value)))
}

fn csv_row(
    table: &mut Table,
    line: &[u8],
    labels: &Labels,
    bounds: Bounds,
    epoch: u64,
) -> Result<Taken, Open> {
    if line.is_empty() {
        return Ok(Ok(None));
    }
    let row = match table.read(line) {
        Ok(row) => row,
        Err(Bad::Open) => return Err(Open),
        Err(Bad::Malformed(why)) => return Ok(Err((MALFORMED, why))),
    };
    if !bounds.contain(row.at_ms) {
        let seconds = table.in_seconds();
        let sentence =
            if seconds { bounds.sentence_for_seconds(row.at_ms) } else { bounds.sentence(row.at_ms) };
        return Ok(Err((bounds.reason(row.at_ms), sentence)));
    }
    if let Some(series) = labels.find(table.key(), epoch) {
        return Ok(Ok(Some((series.0, row.at_ms, row.value))));
    }
    let interned = match table.pairs() {
        Ok(mut pairs) => validate::intern(labels, &mut pairs, table.key(), epoch),
        Err(why) => Err((MALFORMED, why)),
    };
    Ok(interned.map(|series| Some((series, row.at_ms, row.value))))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::write::GzEncoder;

    use super::*;
    use crate::labels::{Limits, series_id};
    use crate::source::support::Folder;

    const NOW: i64 = 1_714_521_600_000;
    const OPTIONS: Options = Options { format: None, strict: false, allow_future: false, clock: || NOW };

    struct Rig {
        folder: Folder,
        labels: Arc<Labels>,
        metrics: Arc<Metrics>,
    }

    fn rig() -> Rig {
        let (folder, metrics) = (Folder::new(), Arc::new(Metrics::new()));
        let limits = Limits { series: 100, ..Limits::default() };
        let labels = Labels::open(&folder.path.join("labels"), limits, metrics.clone()).unwrap();
        Rig { folder, labels: Arc::new(labels), metrics }
    }

    impl Rig {
        fn file(&self, name: &str, content: &[u8]) -> String {
            let path = self.folder.path.join(name);
            std::fs::write(&path, content).unwrap();
            path.to_str().unwrap().to_owned()
        }

        fn open(&self, inputs: &[String], options: Options) -> Result<Replay, ReplayError> {
            Replay::open(inputs, options, self.labels.clone(), self.metrics.clone())
        }

        /// All samples of the inputs, and the replay at its end.
        fn all(&self, inputs: &[String], options: Options) -> Result<(Samples, Replay), ReplayError> {
            let mut replay = self.open(inputs, options)?;
            let (mut all, mut batch) = (Samples::default(), Samples::default());
            while replay.next_batch(&mut batch, 1)? {
                assert!(batch.len() <= BATCH_SAMPLES_MAX);
                all.append(&mut batch);
            }
            let summary = replay.summary();
            assert_eq!(summary.received, all.len() as u64 + summary.refusals.total());
            assert_eq!(summary.highest_ms, all.at_ms.iter().copied().max());
            Ok((all, replay))
        }

        /// The one refusal of a file with this content.
        fn refusal(&self, name: &str, content: &[u8]) -> (u64, &'static str, String) {
            let input = self.file(name, content);
            let (_, replay) = self.all(&[input], OPTIONS).unwrap();
            assert_eq!(replay.summary().refusals.total(), 1, "{:?}", replay.summary());
            let bad = replay.summary().first[0].clone();
            (bad.line, bad.reason, bad.message)
        }
    }

    fn gzip(content: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(content).unwrap();
        encoder.finish().unwrap()
    }

    /// The same samples in every format give the same batches, cold and warm.
    #[test]
    fn formats_and_compression_do_not_matter() {
        let rig = rig();
        let (mut text, mut csv) = (String::from("# HELP m x\n\n"), String::from("name,timestamp,l,value\n"));
        let mut want = Samples::default();
        for n in 0..10_000_i64 {
            let (at, value, label) = (NOW - 1_000 * n, n as f64 / 3.0, format!("a,{}\"", n % 7));
            text.push_str(&format!("m{{l=\"{}\"}} {value} {at}\n", label.replace('"', "\\\"")));
            csv.push_str(&format!("m,{},\"{}\",{value}\n", at / 1_000, label.replace('"', "\"\"")));
            want.push(series_id(&[("__name__", "m"), ("l", &label)]).0, at, value);
        }
        let two_members = |text: &str| {
            let middle = text.len() / 2;
            [gzip(&text.as_bytes()[..middle]), gzip(&text.as_bytes()[middle..])].concat()
        };
        let last_line_open = text.trim_end().to_owned();
        let inputs = [
            rig.file("a.prom", text.as_bytes()),
            rig.file("a.prom.gz", &gzip(text.as_bytes())),
            rig.file("two.txt.gz", &two_members(&text)),
            rig.file("unnamed_gzip.txt", &two_members(&text)),
            rig.file("a.csv", csv.as_bytes()),
            rig.file("a.CSV.gz", &two_members(&csv)),
            rig.file("crlf.csv", csv.replace('\n', "\r\n").as_bytes()),
            rig.file("crlf.prom", text.replace('\n', "\r\n").as_bytes()),
            rig.file("bom.csv", format!("\u{feff}{csv}").as_bytes()),
            rig.file("open.prom", last_line_open.as_bytes()),
        ];
        for input in &inputs {
            let (got, replay) = rig.all(std::slice::from_ref(input), OPTIONS).unwrap();
            assert!(got == want, "{input}");
            assert_eq!(Some(replay.bytes_read()), replay.bytes_total(), "{input}");
        }
        let (all, replay) = rig.all(&inputs, OPTIONS).unwrap();
        assert_eq!((all.len(), rig.labels.len()), (want.len() * inputs.len(), 7));
        assert_eq!(Some(replay.bytes_read()), replay.bytes_total());
        let line = "tidewatch_samples_received_total{source=\"replay\"} 200000";
        assert!(rig.metrics.text().contains(line));
    }

    #[test]
    fn bad_lines_are_refused_with_number_and_reason_and_the_rest_kept() {
        let rig = rig();
        let row = |text: &str| [b"name,job,timestamp,value\n", text.as_bytes()].concat();
        let long = [b"up 1 ", "5".repeat(LINE_BYTES_MAX).as_bytes(), b"\nup 1 1714521600000\n"].concat();
        let table: Vec<(&str, Vec<u8>, u64, &str, &str)> = vec![
            (
                "a.prom",
                b"# c\n\nup 1\nup 1 1714521600000\n".to_vec(),
                3,
                MALFORMED,
                "column 5: expected a timestamp in milliseconds (every line needs one); got the end of the line",
            ),
            (
                "a.prom",
                b"up 1 1714521600\n".to_vec(),
                1,
                "before_2000",
                "timestamp_ms cannot be before the year 2000 (946684800000); got 1714521600, which looks like seconds",
            ),
            (
                "a.prom",
                b"up 1 1714522200001".to_vec(),
                1,
                "too_far_ahead",
                "timestamp_ms cannot be more than 10 minutes ahead of the clock (1714521600000); got 1714522200001",
            ),
            (
                "a.prom",
                b"up{a=\"\xff\"} 1 1714521600000\n".to_vec(),
                1,
                MALFORMED,
                "the line must be UTF-8; byte 7 is not",
            ),
            (
                "a.prom",
                b"{a=\"b\"} 1 1714521600000\n".to_vec(),
                1,
                "missing_name",
                "label __name__ must be present and not empty; got labels {a=\"b\"}",
            ),
            (
                "a.prom",
                b"tidewatch_window_avg 1 1714521600000\n".to_vec(),
                1,
                "own_result",
                "tidewatch_window_avg is a result of tidewatch; taking it in would compute on results",
            ),
            ("a.prom", long, 1, MALFORMED, "a line cannot exceed 1048576 bytes"),
            ("a.csv", row("up,x,1714521600\n"), 2, MALFORMED, "a row has 4 cells as the header; got 3"),
            (
                "a.csv",
                row("\nup,x,1714521600000,1\nup,x,1714521600,1"),
                3,
                "too_far_ahead",
                "timestamp_ms cannot be more than 10 minutes ahead of the clock (1714521600000); got 1714521600000000; 1714521600000 looks like milliseconds where seconds belong",
            ),
            (
                "a.csv",
                row("up,\"x,1714521600,1\n\n"),
                2,
                MALFORMED,
                "a quoted cell that begins here is not closed within 64 lines, 1048576 bytes and the file",
            ),
            (
                "a.csv",
                row(",x,1714521600,1\n"),
                2,
                "missing_name",
                "label __name__ must be present and not empty; got labels {job=\"x\"}",
            ),
            (
                "a.csv",
                [&row("")[..], b"up,\xff,1714521600,1\n"].concat(),
                2,
                MALFORMED,
                "the cell of job is not UTF-8; got \"\u{fffd}\"",
            ),
        ];
        for (name, content, line, reason, message) in table {
            let got = rig.refusal(name, &content);
            assert_eq!((got.0, got.1, got.2.as_str()), (line, reason, message));
        }
        let open = format!(
            "{}up,\"x\ny\",1714521600,1\nup,\"x{}up,z,1714521600,1\n",
            "name,job,timestamp,value\n",
            "\n".repeat(100)
        );
        let input = rig.file("open.csv", open.as_bytes());
        let (got, replay) = rig.all(&[input], OPTIONS).unwrap();
        assert_eq!((got.len(), replay.summary().refusals.total(), replay.summary().first[0].line), (2, 1, 4));
        assert_eq!(got.series[0], series_id(&[("__name__", "up"), ("job", "x\ny")]).0);
    }

    #[test]
    fn the_first_bad_lines_are_kept_and_strict_stops_at_the_first() {
        let rig = rig();
        let mut text = String::from("up 1 1714521600000\n");
        for n in 0..50 {
            text.push_str(&format!("bad {n}\nup 1 {}\n", NOW - n));
        }
        let input = rig.file("a.prom", text.as_bytes());
        let (got, replay) = rig.all(std::slice::from_ref(&input), OPTIONS).unwrap();
        let summary = replay.summary();
        assert_eq!((got.len(), summary.refusals.count(MALFORMED), summary.lines), (51, 50, 101));
        let numbers: Vec<u64> = summary.first.iter().map(|bad| bad.line).collect();
        assert_eq!(numbers, (1..=BAD_LINES_SHOWN as u64).map(|n| 2 * n).collect::<Vec<_>>());
        let mut strict = rig.open(std::slice::from_ref(&input), Options { strict: true, ..OPTIONS }).unwrap();
        let mut batch = Samples::default();
        let error = strict.next_batch(&mut batch, 1).unwrap_err();
        let want = format!(
            "{input} line 2: column 6: expected a timestamp in milliseconds (every line needs one); got the end of the line"
        );
        assert_eq!((error.to_string(), batch.len()), (want, 1));
        let text = rig.metrics.text();
        assert!(text.contains(
            "tidewatch_samples_rejected_total{source=\"replay\",gate=\"validate\",reason=\"malformed\"} 51"
        ));
    }

    #[test]
    fn the_future_is_taken_when_allowed() {
        let rig = rig();
        let input = rig.file("a.prom", b"up 1 4102444800000\nup 1 253402300800000\n");
        let open = Options { allow_future: true, ..OPTIONS };
        let (got, replay) = rig.all(&[input], open).unwrap();
        assert_eq!(
            (got.at_ms, replay.summary().refusals.count("too_far_ahead")),
            (vec![4_102_444_800_000], 1)
        );
    }

    #[test]
    fn inputs_that_cannot_be_read_are_named() {
        let rig = rig();
        let missing = rig.folder.path.join("none.prom").to_str().unwrap().to_owned();
        let folder = rig.folder.path.join("labels").to_str().unwrap().to_owned();
        let odd = rig.file("a.json", b"");
        let bare = rig.file("csv", b"");
        let guessing = "cannot be guessed from its name (.prom, .txt, .csv, each also with .gz); give --format prometheus or csv";
        let with_format = Options { format: Some(Format::Csv), ..OPTIONS };
        let table = [
            (vec![], OPTIONS, "there is no input; name files, or - for standard input".to_owned()),
            (
                vec![missing.clone()],
                OPTIONS,
                format!("reading {missing}: No such file or directory (os error 2)"),
            ),
            (vec![folder.clone()], with_format, format!("reading {folder}: it is a directory")),
            (vec![odd.clone()], OPTIONS, format!("the format of {odd} {guessing}")),
            (vec![bare.clone()], OPTIONS, format!("the format of {bare} {guessing}")),
        ];
        for (inputs, options, message) in table {
            let error = rig.open(&inputs, options).err().expect("the inputs are refused before reading");
            assert_eq!(error.to_string(), message);
        }
        assert_eq!(
            "json".parse::<Format>(),
            Err("format must be prometheus or csv; got \"json\"".to_owned())
        );
        assert_eq!(("csv".parse(), "prometheus".parse()), (Ok(Format::Csv), Ok(Format::Prometheus)));
    }

    #[test]
    fn damaged_files_end_with_an_error_that_names_them() {
        let rig = rig();
        let text = "up 1 1714521600000\n".repeat(10_000);
        let whole = gzip(text.as_bytes());
        let mut torn = whole.clone();
        torn.truncate(whole.len() / 2);
        let files = [
            rig.file("torn.prom.gz", &torn),
            rig.file("plain.prom.gz", text.as_bytes()),
            rig.file("empty.prom.gz", b""),
        ];
        for input in files {
            let message =
                rig.all(std::slice::from_ref(&input), OPTIONS).err().expect("it is damaged").to_string();
            assert!(message.starts_with(&format!("reading {input}: ")), "{message}");
        }
        let header = rig.file("a.csv", b"name,value\n");
        let message =
            rig.all(std::slice::from_ref(&header), OPTIONS).err().expect("there is no time").to_string();
        let want = "the header needs one of the columns timestamp and timestamp_ms; got \"name,value\"";
        assert_eq!(message, format!("{header} line 1: {want}"));
        let empty = rig.file("empty.prom", b"");
        assert_eq!(rig.all(&[empty], OPTIONS).unwrap().0.len(), 0);
    }

    #[test]
    fn any_bytes_are_read_without_a_panic() {
        let rig = rig();
        let lines =
            b"up{a=\"b\\n\"} 1 1714521600000\nname,job,timestamp,value\nup,\"x\",2024-05-01T00:00:00Z,1\n";
        let seed = 11;
        let mut random = fastrand::Rng::with_seed(seed);
        for _ in 0..3_000 {
            let mut content = b"name,job,timestamp,value\n".to_vec();
            for _ in 0..random.usize(1..6) {
                let at = random.usize(..lines.len());
                content.extend_from_slice(&lines[at..random.usize(at..=lines.len())]);
                let place = random.usize(25..=content.len());
                content.insert(place, random.u8(..));
            }
            let input = rig.file("any", &content);
            for format in [Format::Csv, Format::Prometheus] {
                rig.all(std::slice::from_ref(&input), Options { format: Some(format), ..OPTIONS }).unwrap();
            }
        }
    }
}
