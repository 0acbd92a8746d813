//! The laws of the decoders, for any bytes: shared by the fuzz targets and by `tests/fuzz_corpus.rs`, which holds them over
//! the kept corpora on every test run.
//!
//! Beyond "no panic": bytes that cannot be decoded change nothing; what is accepted is within its bounds and the counts
//! add up; a known series is read as a new one is; what was read, written down again, reads the same.
//!
//! Not here: compression and transport.

mod logs;

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt::{Debug, Write as _};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tidewatch::labels::{Labels, Limits, NAME};
use tidewatch::metrics::Metrics;
use tidewatch::source::csv::{CsvError, CsvTable};
use tidewatch::source::dump;
use tidewatch::source::exposition::{self, Dialect, LineSeries};
use tidewatch::source::openmetrics;
use tidewatch::source::query::answer::{self, QueryData, QuerySeries};
use tidewatch::source::remote_write::{self, DecodeError, DecodedBody};
use tidewatch::source::remote_write2::{self, Decoded2};
use tidewatch::source::replay::{FileFormat, ReplayError, ReplayOptions, ReplayReader, ReplaySummary};
use tidewatch::source::validate::{EventTimeBounds, Refusals, own_result};
use tidewatch_dataflows::sample::{Samples, SeriesId};

pub use self::logs::{journal, outbox, series, snapshots};

/// The clock: 2024-05-01T00:00:00Z.
const NOW_MS: i64 = 1_714_521_600_000;
const EPOCH: u64 = 7;
/// Small, so that inputs of a few hundred bytes reach them.
const LIMITS: Limits = Limits { series: 12, series_per_name: 6, labels: 5, label_bytes: 96 };
/// Inputs with one rig: what it queues for its series log, and the types of families, are forgotten with it.
const RIG_INPUTS_MAX: u32 = 4_096;
/// Most bytes of a sentence about an input, however long the input is.
const SENTENCE_BYTES_MAX: usize = 2_000;

/// Times of answers are compared up to here, some 35,000 years away.
const FAR_MS: i64 = 1 << 50;

/// Labels of a process, without series before and after each input.
struct Rig {
    folder: PathBuf,
    labels: Arc<Labels>,
    metrics: Arc<Metrics>,
    inputs: u32,
}

impl Rig {
    fn new() -> Rig {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let name = format!("tidewatch-fuzz-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        // Memory, where there is such a folder: nothing of it is meant to last.
        let memory = PathBuf::from("/dev/shm");
        let folder = if memory.is_dir() { memory } else { std::env::temp_dir() }.join(name);
        let metrics = Arc::new(Metrics::new());
        let labels = Labels::open(folder.join("series"), LIMITS, metrics.clone());
        Rig { folder, labels: Arc::new(labels.expect("the series log opens")), metrics, inputs: 0 }
    }

    /// Forgets the series of `out`. False if others are left.
    fn forget(&self, out: &Samples) -> bool {
        let series: BTreeSet<SeriesId> = out.series.iter().copied().map(SeriesId).collect();
        self.labels.release(&series.into_iter().collect::<Vec<_>>(), EPOCH + 1);
        self.labels.is_empty()
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        // A folder that stays behind harms nobody.
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// Gives a rig without series to `check`, which says whether it left it so.
fn with_rig(check: impl FnOnce(&Rig) -> bool) {
    thread_local!(static RIG: RefCell<Option<Rig>> = const { RefCell::new(None) });
    RIG.with_borrow_mut(|held| {
        let rig = held.get_or_insert_with(Rig::new);
        rig.inputs += 1;
        let clean = check(rig);
        if !clean || rig.inputs == RIG_INPUTS_MAX {
            *held = None;
        }
    });
}

fn bounds() -> EventTimeBounds {
    EventTimeBounds::at(NOW_MS, false)
}

/// The samples of a batch, values as bits so that NaN equals itself.
fn bits(samples: &Samples) -> Vec<(u64, i64, u64)> {
    assert_eq!((samples.at_ms.len(), samples.value.len()), (samples.len(), samples.len()));
    let times = samples.at_ms.iter().zip(&samples.value);
    samples.series.iter().zip(times).map(|(series, (at, value))| (*series, *at, value.to_bits())).collect()
}

/// Every sample that was given out is within the bounds, and its series has labels that are within theirs.
fn are_within_bounds(samples: &Samples, labels: &Labels) {
    assert!(samples.at_ms.iter().all(|at_ms| bounds().contain(*at_ms)), "{samples:?}");
    for series in samples.series.iter().collect::<BTreeSet<_>>() {
        let held = labels.get(SeriesId(*series)).expect("a series that was given out is known");
        assert_eq!(held.series_id(), SeriesId(*series));
        let pairs: Vec<(&str, &str)> = held.iter().collect();
        assert!(pairs.is_sorted_by(|a, b| a.0 < b.0), "{held}");
        assert!(pairs.iter().all(|(name, value)| !name.is_empty() && !value.is_empty()), "{held}");
        assert!(!held.name().is_empty() && !own_result(held.name()), "{held}");
        assert!(pairs.len() <= LIMITS.labels, "{held}");
        let bytes: usize = pairs.iter().map(|(name, value)| name.len() + value.len()).sum();
        assert!(bytes <= LIMITS.label_bytes, "{held}");
    }
    assert!(labels.len() <= LIMITS.series);
}

/// No series was registered without a sample, but for one at a limit of series: of the two that are kept of a native
/// histogram the first may have found the last place, and the next histogram of it finds it known.
fn none_is_registered_in_vain(samples: &Samples, labels: &Labels, refusals: &Refusals) {
    let given = samples.series.iter().collect::<BTreeSet<_>>().len();
    let at_limit = refusals.count("series_limit") + refusals.count("series_per_name_limit");
    assert!(labels.len() >= given && (labels.len() - given) as u64 <= at_limit);
}

fn are_readable(refusals: &Refusals) {
    for refusal in refusals.iter() {
        assert!(!refusal.first.is_empty() && refusal.first.len() <= SENTENCE_BYTES_MAX, "{refusal:?}");
    }
}

/// Requests of remote write 1.0.
pub fn remote_write(body: &[u8]) {
    with_rig(|rig| {
        let decode = |body: &[u8], out: &mut Samples| {
            let decoded = remote_write::decode(body, &rig.labels, bounds(), EPOCH, out)?;
            // In 2.0 a series may be refused of which there are only exemplars.
            assert!(decoded.refusals.iter().all(|refusal| refusal.count > 0), "{decoded:?}");
            Ok(Decoded2 { decoded, exemplars: 0 })
        };
        request(rig, body, &decode)
    });
}

/// Requests of remote write 2.0.
pub fn remote_write2(body: &[u8]) {
    with_rig(|rig| {
        let decode =
            |body: &[u8], out: &mut Samples| remote_write2::decode(body, &rig.labels, bounds(), EPOCH, out);
        request(rig, body, &decode)
    });
}

type Decode<'a> = &'a dyn Fn(&[u8], &mut Samples) -> Result<Decoded2, DecodeError>;

/// What holds for a request of either version.
fn request(rig: &Rig, body: &[u8], decode: Decode) -> bool {
    let labels = &rig.labels;
    // Another request's sample stands in front.
    let mut out = Samples::default();
    out.push(1, 2, 3.0);
    let before = bits(&out);
    let bytes = labels.bytes();
    let cold = match decode(body, &mut out) {
        Ok(decoded) => decoded,
        Err(undecodable) => {
            assert!(undecodable.at <= body.len(), "{undecodable}");
            assert_eq!((bits(&out), labels.len(), labels.bytes()), (before, 0, bytes), "{undecodable}");
            return true;
        }
    };
    assert_eq!(bits(&out)[..1], before);
    let mut first = out.split_off(1);
    judge(&cold, &first, labels);

    // A request of known series is read as one of new ones.
    let mut second = Samples::default();
    let warm = decode(body, &mut second).expect("it was decodable before");
    assert_eq!((bits(&second), facts(&warm)), (bits(&first), facts(&cold)));
    if !rig.forget(&first) {
        return false;
    }

    // Protobuf joins two messages that stand one after the other: the same samples twice.
    let mut twice = Samples::default();
    let joined = decode(&[body, body].concat(), &mut twice).expect("it was decodable before");
    judge(&joined, &twice, labels);
    let (kept, mut doubled) = (first.len(), facts(&cold));
    first.append(&mut second);
    doubled.0 = doubled.0.map(|count| 2 * count);
    doubled.1.iter_mut().for_each(|(_, count, _)| *count *= 2);
    assert_eq!((bits(&twice), facts(&joined)), (bits(&first), doubled), "{kept} samples");
    rig.forget(&twice)
}

/// The counts of a request, and what was refused. Types are not among them: those said before need not be said again.
type Facts = ([u64; 4], Vec<(&'static str, u64, String)>);

fn facts(decoded: &Decoded2) -> Facts {
    let Decoded2 { decoded: DecodedBody { received, histograms, ignored, refusals, .. }, exemplars } =
        decoded;
    let refused = refusals.iter().map(|refusal| (refusal.reason, refusal.count, refusal.first.clone()));
    ([*received, *histograms, *ignored, *exemplars], refused.collect())
}

fn judge(decoded: &Decoded2, samples: &Samples, labels: &Labels) {
    let DecodedBody { received, histograms, types, refusals, .. } = &decoded.decoded;
    // Of a native histogram two samples are given out.
    assert!(2 * histograms <= samples.len() as u64, "{decoded:?}");
    let kept = samples.len() as u64 - histograms;
    assert_eq!(*received, kept + refusals.total(), "{decoded:?}");
    for (series, _) in types {
        assert!(labels.get(SeriesId(*series)).is_some(), "a type of no series: {decoded:?}");
    }
    are_readable(refusals);
    are_within_bounds(samples, labels);
    none_is_registered_in_vain(samples, labels, refusals);
}

/// Lines of Prometheus text.
pub fn exposition(text: &[u8]) {
    text.split(|byte| *byte == b'\n').for_each(|line| line_holds(line, Dialect::Prometheus));
}

/// Lines of OpenMetrics.
pub fn openmetrics(text: &[u8]) {
    let mut file = openmetrics::OpenMetricsFile::default();
    for line in text.split(|byte| *byte == b'\n') {
        let ended = file.ended();
        let taken = file.takes(line);
        assert!(file.ended() >= ended && (file.ended() == ended || line.trim_ascii() == b"# EOF"));
        if !taken {
            assert!(!exposition::is_empty(line), "a line without a sample is taken");
            line_holds(line, Dialect::OpenMetrics);
        }
        if let Ok(Ok(read)) = str::from_utf8(line).map(|line| exposition::read(line, Dialect::OpenMetrics)) {
            let created = read.pairs.iter().any(|(name, value)| name == NAME && file.is_created(value));
            let spelled = line.windows(8).any(|part| part == b"_created");
            assert!(!created || !spelled || file.may_be_created(line), "{read:?}");
        }
    }
}

/// A line read from its end equals one read from its start, and what was read can be written and read again.
fn line_holds(line: &[u8], dialect: Dialect) {
    let glanced = exposition::glance(line, dialect);
    let read = str::from_utf8(line).ok().map(|line| exposition::read(line, dialect));
    if let Some(glanced) = &glanced
        && let Ok(key) = str::from_utf8(glanced.key)
        && is_series(key, dialect)
    {
        // These bytes may be known as a series, and then nobody reads the line from its start.
        let read = read.as_ref().expect("the series and two numbers are UTF-8");
        let read = read.as_ref().expect("a known series and two numbers make a line");
        let (got, want) = ((glanced.key, glanced.at_ms), (read.key, read.at_ms));
        assert_eq!(got, want, "{}", line.escape_ascii());
        let number =
            |value| matches!(value, LineSeries::Float(float) if float.to_bits() == glanced.value.to_bits());
        assert!(number(read.value), "{}", line.escape_ascii());
    }
    let read = match read {
        Some(Ok(read)) => read,
        Some(Err(why)) => return assert!(!why.is_empty()),
        None => return,
    };
    assert!(!read.pairs.is_empty() || read.key.starts_with(b"{"), "{read:?}");
    let value = match read.value {
        LineSeries::Float(value) => value.to_string(),
        LineSeries::Histogram(histogram) => match histogram.judge() {
            Ok(kept) => write_histogram(kept),
            Err(why) => return assert!(!why.is_empty() && why.len() <= SENTENCE_BYTES_MAX, "{why}"),
        },
    };
    let text = write_line(&read, &value, dialect);
    let again = exposition::read(&text, dialect).unwrap_or_else(|why| panic!("{why}: {text:?} of {read:?}"));
    assert_eq!((&again.pairs, again.at_ms), (&read.pairs, read.at_ms), "{text:?}");
    let both = match (read.value, again.value) {
        (LineSeries::Float(a), LineSeries::Float(b)) => same(a, b),
        (LineSeries::Histogram(a), LineSeries::Histogram(b)) => equal(&a, &b),
        _ => false,
    };
    assert!(both, "{text:?} of {read:?}");
}

/// Whether the same is kept of two histograms.
fn equal(a: &dump::DumpHistogram, b: &dump::DumpHistogram) -> bool {
    let kept = |histogram: &dump::DumpHistogram| histogram.judge().expect("it was judged");
    kept(a).into_iter().zip(kept(b)).all(|(a, b)| same(a, b))
}

/// A histogram of which this is kept.
fn write_histogram([count, sum]: [f64; 2]) -> String {
    match count.is_nan() {
        true => "{count:0, sum:NaN}".to_owned(),
        false => format!("{{count:{count}, sum:{sum}, [-Inf,+Inf]:{count}}}"),
    }
}

/// Whether these bytes are those by which a series is known once it was read.
fn is_series(key: &str, dialect: Dialect) -> bool {
    let line = format!("{key} 1 1");
    exposition::read(&line, dialect).is_ok_and(|read| read.key == key.as_bytes())
}

fn write_line(read: &exposition::ExpositionLine<'_>, value: &str, dialect: Dialect) -> String {
    let quoted = |text: &str| text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    let dumped = matches!(read.value, LineSeries::Histogram(_));
    let mut text = "{".to_owned();
    for (name, value) in &read.pairs {
        // Only so is the line one of a dump.
        let _ = match dumped && name == NAME {
            true => write!(text, "{name}=\"{}\",", quoted(value)),
            false => write!(text, "\"{}\"=\"{}\",", quoted(name), quoted(value)),
        };
    }
    let _ = write!(text, "}} {value} ");
    let _ = match dialect {
        Dialect::Prometheus => write!(text, "{}", read.at_ms),
        Dialect::OpenMetrics => write!(text, "{}", seconds(read.at_ms)),
    };
    text
}

/// Milliseconds as decimal seconds.
fn seconds(at_ms: i64) -> String {
    let (sign, size) = (if at_ms < 0 { "-" } else { "" }, at_ms.unsigned_abs());
    format!("{sign}{}.{:03}", size / 1_000, size % 1_000)
}

/// Whether two numbers are the same as text tells them: it knows one NaN.
fn same(a: f64, b: f64) -> bool {
    a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan()
}

/// A header of CSV and rows.
pub fn csv(text: &[u8]) {
    let mut lines = text.split(|byte| *byte == b'\n');
    let header = lines.next().unwrap_or_default();
    let mut table = match CsvTable::new(header) {
        Ok(table) => table,
        Err(why) => return assert!(!why.is_empty() && why.len() <= SENTENCE_BYTES_MAX, "{why}"),
    };
    for line in lines {
        let row = match table.read(line) {
            Ok(row) => row,
            Err(CsvError::Open) => continue,
            Err(CsvError::Malformed(why)) => {
                assert!(!why.is_empty() && why.len() <= SENTENCE_BYTES_MAX, "{why}");
                continue;
            }
        };
        let key = table.key().to_vec();
        assert_eq!(key.first(), Some(&0));
        let Ok(pairs) = table.pairs() else { continue };
        let labels = pairs.iter().map(|(name, value)| format!("{name}\u{0}{value}\u{0}"));
        let spelled = labels.collect::<String>().into_bytes();
        let zeros = |bytes: &[u8]| bytes.iter().map(|byte| if *byte == 0xff { 0 } else { *byte }).collect();
        let key: Vec<u8> = zeros(&key[1..]);
        assert_eq!(key, spelled, "the key is the labels");

        // The same row, each cell in quotes.
        let quoted = |text: &str| format!("\"{}\",", text.replace('"', "\"\""));
        let names: String = pairs.iter().map(|(name, _)| quoted(name)).collect();
        let cells: String = pairs.iter().map(|(_, value)| quoted(value)).collect();
        if !pairs.iter().any(|(name, _)| *name == NAME) {
            continue;
        }
        let mut other =
            CsvTable::new(format!("{names}timestamp_ms,value").as_bytes()).expect("a good header");
        let again = other.read(format!("{cells}{},{}", row.at_ms, row.value).as_bytes()).expect("a good row");
        assert_eq!((other.pairs().as_ref(), again.at_ms), (Ok(&pairs), row.at_ms));
        assert!(same(again.value, row.value), "{row:?}");
    }
}

/// A file of a format, read as `replay` does. Too slow to be a target of its own: it is held over the corpora of the formats.
pub fn file(format: FileFormat, text: &[u8]) {
    // What is compressed is another matter.
    if text.starts_with(&[0x1f, 0x8b]) || text.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
        return;
    }
    with_rig(|rig| {
        let path = rig.folder.join("input");
        std::fs::write(&path, text).expect("the file is written");
        let name = path.to_str().expect("the folder has a plain name").to_owned();
        let read = |strict| read_file(rig, &name, format, strict);
        let (samples, summary, error) = read(false);
        let lines = samples.len() as u64 - summary.histograms;
        assert_eq!(summary.received, lines + summary.refusals.total());
        assert_eq!(summary.first.len() as u64, summary.refusals.total().min(20));
        assert!(summary.lines <= text.iter().filter(|byte| **byte == b'\n').count() as u64 + 1);
        assert!(summary.refusals.iter().all(|refusal| refusal.count > 0), "{summary:?}");
        are_readable(&summary.refusals);
        are_within_bounds(&samples, &rig.labels);
        none_is_registered_in_vain(&samples, &rig.labels, &summary.refusals);
        // Known series are read as new ones are.
        let again = read(false);
        assert_eq!((bits(&again.0), &again.1), (bits(&samples), &summary));
        assert_eq!(again.2.map(|error| error.to_string()), error.as_ref().map(ToString::to_string));
        // Strict reading ends at the first refusal, with what came before.
        let (before, _, stopped) = read(true);
        assert_eq!(bits(&before)[..], bits(&samples)[..before.len()]);
        match (summary.first.first(), stopped) {
            (Some(first), Some(ReplayError::Strict(bad))) => assert_eq!(&bad, first),
            (None, stopped) => {
                assert_eq!(stopped.map(|error| error.to_string()), error.map(|error| error.to_string()));
                assert_eq!(before.len(), samples.len());
            }
            (first, stopped) => panic!("{first:?} and {stopped:?}"),
        }
        rig.forget(&samples)
    });
}

fn read_file(
    rig: &Rig,
    name: &str,
    format: FileFormat,
    strict: bool,
) -> (Samples, ReplaySummary, Option<ReplayError>) {
    let options = ReplayOptions { format: Some(format), strict, allow_future: false, clock: || NOW_MS };
    let opened = ReplayReader::open(&[name.to_owned()], options, rig.labels.clone(), rig.metrics.clone());
    let mut replay = opened.expect("the file is there");
    let (mut all, mut batch) = (Samples::default(), Samples::default());
    let error = loop {
        let more = replay.next_batch(&mut batch, EPOCH);
        all.append(&mut batch);
        match more {
            Ok(true) => {}
            Ok(false) => break None,
            Err(error) => break Some(error),
        }
    };
    (all, replay.summary().clone(), error)
}

/// What a Prometheus answers a query with, and what it refuses one with.
pub fn answer(body: &[u8]) {
    for status in [400, 422, 503] {
        let said = answer::refusal(status, None, body).to_string();
        assert!(said.len() <= SENTENCE_BYTES_MAX, "{} bytes: {said}", said.len());
    }
    match answer::data::<QueryData>(body) {
        Err(why) => assert!(!why.is_empty() && why.len() <= SENTENCE_BYTES_MAX, "{} bytes", why.len()),
        Ok((data, _)) => {
            let series = data.series();
            let text = write_answer(&series);
            let again = answer::data::<QueryData>(text.as_bytes());
            let (again, partial) = again.unwrap_or_else(|why| panic!("{why}: {text}"));
            assert_eq!((facts_of(&again.series()), partial), (facts_of(&series), None), "{text}");
        }
    }
}

fn facts_of(result: &[QuerySeries]) -> impl PartialEq + Debug {
    let bits = |value: f64| if value.is_nan() { f64::NAN.to_bits() } else { value.to_bits() };
    // What is no time that a float tells to the millisecond is only known to be far away.
    let time = |at_ms: i64| at_ms.clamp(-FAR_MS, FAR_MS);
    let samples =
        |one: &QuerySeries| one.samples.iter().map(|(at, v)| (time(*at), bits(*v))).collect::<Vec<_>>();
    result.iter().map(|one| (one.labels.clone(), samples(one), one.histograms)).collect::<Vec<_>>()
}

/// A matrix as Prometheus writes it.
fn write_answer(result: &[QuerySeries]) -> String {
    let quoted = |text: &str| {
        let mut out = "\"".to_owned();
        for c in text.chars() {
            let _ = match c {
                '"' | '\\' => write!(out, "\\{c}"),
                '\0'..='\u{1f}' => write!(out, "\\u{:04x}", u32::from(c)),
                _ => write!(out, "{c}"),
            };
        }
        out + "\""
    };
    let series = result.iter().map(|one| {
        let labels: Vec<_> =
            one.labels.iter().map(|(name, value)| format!("{}:{}", quoted(name), quoted(value))).collect();
        let time = |at_ms: i64| seconds(at_ms.clamp(-FAR_MS, FAR_MS));
        let values: Vec<_> = one.samples.iter().map(|(at, v)| format!("[{},\"{v}\"]", time(*at))).collect();
        let histograms = vec!["0"; one.histograms].join(",");
        let (labels, values) = (labels.join(","), values.join(","));
        format!("{{\"metric\":{{{labels}}},\"values\":[{values}],\"histograms\":[{histograms}]}}")
    });
    let series: Vec<String> = series.collect();
    let data = format!("{{\"resultType\":\"matrix\",\"result\":[{}]}}", series.join(","));
    format!("{{\"status\":\"success\",\"data\":{data}}}")
}
