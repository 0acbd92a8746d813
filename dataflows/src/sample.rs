//! What enters the dataflow: samples in batches, and the marks that end epochs.
//!
//! Not here: labels (the rim owns label strings) and file or wire formats.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::settings::{SeriesOptions, Settings};
use crate::snapshot::SaveRequest;

/// The number of fixed key groups. State, snapshots and ownership are per shard, never per worker.
pub const SHARDS: usize = 256;

/// The bits of Prometheus' staleness marker: "this series has ended here". Compare bits, never the float.
pub const STALE_NAN_BITS: u64 = 0x7ff0_0000_0000_0002;

/// The earliest event time taken: 2000-01-01T00:00:00Z. Anything before it is a unit mistake.
pub const AT_MS_MIN: i64 = 946_684_800_000;

/// The latest event time taken even with `--allow-future`: 9999-12-31T23:59:59.999Z.
pub const AT_MS_MAX: i64 = 253_402_300_799_999;

/// How far ahead of the clock the time of a live sample may be.
pub const AHEAD_MS_MAX: i64 = 600_000;

/// Whether a time is further ahead of a clock that says `to_ms` than the time of a live sample may be.
pub fn ahead_of(to_ms: i64, at_ms: i64) -> bool {
    at_ms > to_ms.saturating_add(AHEAD_MS_MAX)
}

/// A bound that was judged by a clock, now that it says `to_ms`.
pub fn set_back(to_ms: i64, bound_ms: i64) -> i64 {
    if ahead_of(to_ms, bound_ms) { to_ms } else { bound_ms }
}

/// Identity of one series: xxh3_64 over its labels sorted by name, each written `name 0xFF value 0xFF`.
///
/// Stable for ever; printed as 16 hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct SeriesId(pub u64);

impl SeriesId {
    /// The shard this series lives in.
    pub fn shard(self) -> usize {
        (self.0 % SHARDS as u64) as usize
    }
}

impl fmt::Display for SeriesId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for SeriesId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// The text is not a series id.
#[derive(Debug, PartialEq, Eq)]
pub struct NotASeriesId;

impl FromStr for SeriesId {
    type Err = NotASeriesId;

    fn from_str(text: &str) -> Result<Self, NotASeriesId> {
        if text.len() != 16 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(NotASeriesId);
        }
        u64::from_str_radix(text, 16).map(SeriesId).map_err(|_| NotASeriesId)
    }
}

/// A batch of samples, structure of arrays: element `i` of the three columns is one sample.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Samples {
    /// Series identities.
    pub series: Vec<u64>,
    /// Event times, Unix milliseconds.
    pub at_ms: Vec<i64>,
    /// Observed values; staleness markers and other NaN are carried bit for bit.
    pub value: Vec<f64>,
    /// The bootstrap that all of them belong to; 0 for live samples.
    pub bootstrap: u64,
}

impl Samples {
    /// An empty batch of live samples with room for `n`.
    pub fn with_capacity(n: usize) -> Self {
        Samples {
            series: Vec::with_capacity(n),
            at_ms: Vec::with_capacity(n),
            value: Vec::with_capacity(n),
            bootstrap: 0,
        }
    }

    /// An empty batch of samples of a bootstrap.
    pub fn of_bootstrap(bootstrap: u64) -> Self {
        Samples { bootstrap, ..Samples::default() }
    }

    /// Appends one sample.
    #[inline]
    pub fn push(&mut self, series: u64, at_ms: i64, value: f64) {
        self.series.push(series);
        self.at_ms.push(at_ms);
        self.value.push(value);
    }

    /// How many samples are held.
    pub fn len(&self) -> usize {
        self.series.len()
    }

    /// Whether no sample is held.
    pub fn is_empty(&self) -> bool {
        self.series.is_empty()
    }

    /// Empties the batch, keeping its memory.
    pub fn clear(&mut self) {
        self.series.clear();
        self.at_ms.clear();
        self.value.clear();
    }

    /// Empties the batch, keeping the memory of at most so many samples.
    pub fn clear_to(&mut self, kept: usize) {
        self.clear();
        if self.series.capacity() > kept {
            self.series.shrink_to(kept);
            self.at_ms.shrink_to(kept);
            self.value.shrink_to(kept);
        }
    }

    /// A copy of the samples in `range`, of the same bootstrap.
    pub fn part(&self, range: std::ops::Range<usize>) -> Samples {
        Samples {
            series: self.series[range.clone()].to_vec(),
            at_ms: self.at_ms[range.clone()].to_vec(),
            value: self.value[range].to_vec(),
            bootstrap: self.bootstrap,
        }
    }

    /// Takes the samples from `at` on out of the batch.
    pub fn split_off(&mut self, at: usize) -> Samples {
        Samples {
            series: self.series.split_off(at),
            at_ms: self.at_ms.split_off(at),
            value: self.value.split_off(at),
            bootstrap: self.bootstrap,
        }
    }

    /// Appends all samples of `other`, which are of the same bootstrap, leaving it empty.
    pub fn append(&mut self, other: &mut Samples) {
        self.series.append(&mut other.series);
        self.at_ms.append(&mut other.at_ms);
        self.value.append(&mut other.value);
    }
}

/// A bootstrap: the past of live series, applied before the live samples of its series.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bootstrap {
    /// Its identity in the journal; never 0.
    pub id: u64,
    /// Where its samples come from, in the words of whoever began it: what it is resumed by.
    pub source: String,
    /// The first event time asked for, Unix milliseconds.
    pub from_ms: i64,
    /// Keys before this that were not published before bootstrap state and are never published.
    pub publish_from_ms: i64,
}

/// What kind of metric a series is: whether its value is a count that only grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[repr(u8)]
#[serde(rename_all = "snake_case")]
pub enum MetricType {
    /// Grows, and falls only when it is reset.
    Counter = 1,
    /// Goes up and down.
    Gauge = 2,
}

impl MetricType {
    /// What a metric is by the ending that its users gave its name, if a source has not said what it is.
    pub fn by_name(name: &str) -> Option<MetricType> {
        let counters = ["_total", "_count", "_sum", "_bucket"];
        counters.iter().any(|ending| name.ends_with(ending)).then_some(MetricType::Counter)
    }

    /// The type with this code, if there is one.
    pub fn from_code(code: u8) -> Option<MetricType> {
        [MetricType::Counter, MetricType::Gauge].into_iter().find(|known| *known as u8 == code)
    }

    /// The word used in rows and JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            MetricType::Counter => "counter",
            MetricType::Gauge => "gauge",
        }
    }
}

/// What changes results and is no sample. Applies to the whole epoch it is in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Control {
    /// Samples of this bootstrap may follow.
    BootstrapBegin(Bootstrap),
    /// All samples of the bootstrap are in epochs before this one: live samples that waited for them are applied.
    BootstrapEnd {
        /// The bootstrap.
        bootstrap: u64,
    },
    /// The types of series, as far as a source said so.
    Types(Vec<(u64, MetricType)>),
    /// What series are by their names, of which no source had said anything. What a source says counts more.
    NamedTypes(Vec<(u64, MetricType)>),
    /// What is set for these series. In an epoch with settings whose `select` is another one, every series that is not named has
    /// nothing set any more.
    Options {
        /// What is set.
        options: SeriesOptions,
        /// The series.
        series: Vec<u64>,
    },
    /// The settings from this epoch on; of several in one epoch the last.
    Settings(Arc<Settings>),
    /// Nothing of this series is computed any more: it made the computation panic. Written after the epoch that it
    /// begins with, because only then it is known.
    Quarantine {
        /// The series.
        series: u64,
        /// Number of the first epoch, or of one before it.
        epoch: u64,
    },
    /// The series is computed again.
    Lift {
        /// The series.
        series: u64,
    },
    /// The clock was wrong, and says this now: processing time and the watermark go back to it. It has an epoch of its own,
    /// without samples.
    ClockReset {
        /// The clock, Unix milliseconds.
        to_ms: i64,
    },
}

/// The end of an epoch as it is *written* in the journal: the only clock the computation sees.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EpochEnd {
    /// Number of the epoch; grows, with gaps.
    pub epoch: u64,
    /// Processing time: wall clock when the epoch was cut. It goes back only at a [`Control::ClockReset`]. `i64::MIN` before
    /// the first clock.
    pub processing_ms: i64,
    /// How far silence may be judged; never above `processing_ms`.
    pub watermark_ms: i64,
    /// Whether an input ends here (the last epoch of a replayed file): pending reject rows are emitted now.
    pub last_of_input: bool,
}

impl EpochEnd {
    /// The same with the times that hold once the clock was set back to `to_ms`.
    pub fn reset(self, to_ms: i64) -> EpochEnd {
        EpochEnd {
            processing_ms: self.processing_ms.min(to_ms),
            watermark_ms: self.watermark_ms.min(to_ms),
            ..self
        }
    }
}

/// What every worker is told of an epoch: its controls, and last its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mark {
    /// Something that is no sample.
    Control(Arc<Control>),
    /// The state of this shard as of the end of the epoch is wanted. Changes no outcome, so it is in no journal.
    Save(SaveRequest),
    /// Nothing more of this epoch comes.
    End(EpochEnd),
}

/// Why `admit` did not apply a sample it was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[repr(u8)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// Same time, same bits: a success that only counts, never a row.
    Duplicate = 0,
    /// Same time, another value: the first applied wins.
    DuplicateTimestamp = 1,
    /// Further behind the newest sample of its series than `allowed_lateness`, or not newer than its tombstone.
    TooOld = 2,
    /// Its base pane is no longer wholly in the raw ring.
    LateRingFull = 3,
    /// NaN or infinite, and not a staleness marker.
    NotFinite = 4,
    /// A bootstrap's, of a series that has forgotten some of its live samples already, or is in another bootstrap.
    BootstrapTooLate = 5,
    /// Its series is quarantined, because it made the computation panic twice.
    Quarantined = 6,
}

impl Reason {
    /// All reasons, in code order.
    pub const ALL: [Reason; 7] = [
        Reason::Duplicate,
        Reason::DuplicateTimestamp,
        Reason::TooOld,
        Reason::LateRingFull,
        Reason::NotFinite,
        Reason::BootstrapTooLate,
        Reason::Quarantined,
    ];

    /// The word used in metrics, rows and JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::Duplicate => "duplicate",
            Reason::DuplicateTimestamp => "duplicate_timestamp",
            Reason::TooOld => "too_old",
            Reason::LateRingFull => "late_ring_full",
            Reason::NotFinite => "not_finite",
            Reason::BootstrapTooLate => "bootstrap_too_late",
            Reason::Quarantined => "quarantined",
        }
    }

    /// The reason with this code, if there is one.
    pub fn from_code(code: u8) -> Option<Reason> {
        Reason::ALL.get(usize::from(code)).copied()
    }
}
