//! How a server is: what `/api/v1/status` answers and the command `status` prints.
//!
//! Only figures and their names. Not here: where they come from (`app`), and how they are told in words (`app::status`).

use std::collections::BTreeMap;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;
use tidewatch_dataflows::rows::{KINDS, KindInfo, ResultRow, place_of};

/// All figures of a server.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
pub struct ServerStatus {
    pub version: String,
    pub uptime_seconds: u64,
    pub ready: bool,
    /// Why it is not ready.
    pub waits_for: Option<String>,
    /// Series whose state is held.
    pub series: u64,
    /// Series whose labels are known.
    pub label_sets: u64,
    pub epoch: EpochNumbers,
    /// How far the newest computed sample is behind the clock; none before one is computed.
    pub lag_seconds: Option<f64>,
    pub clock_behind_seconds: f64,
    /// Samples computed since the start.
    pub samples: u64,
    pub samples_per_second: Option<f64>,
    pub store_log_bytes: i64,
    pub quarantined: QuarantineStatus,
    /// Rows computed since the start.
    pub rows: u64,
    pub disk: DiskStatus,
    pub sinks: Vec<SinkStatus>,
    /// How often each limit was reached since the start.
    pub limits_reached: BTreeMap<String, u64>,
    pub rows_per_day: RowsPerDayStatus,
    pub windows: Vec<WindowNames>,
    pub limits: LimitsStatus,
    pub workers: usize,
    pub sources: Vec<SourceReport>,
    pub store: StoreFigures,
}

/// The last epoch of each log.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
pub struct EpochNumbers {
    pub journal: Option<u64>,
    pub outbox: Option<u64>,
}

/// Series that are kept out.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
pub struct QuarantineStatus {
    pub count: usize,
    /// The first of them.
    pub series: Vec<String>,
}

/// Bytes of what lies in the data directory.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
pub struct DiskStatus {
    pub journal: BoundedBytes,
    pub outbox: BoundedBytes,
    pub series: FileBytes,
    pub snapshots: FileBytes,
}

/// Bytes that may not pass a bound.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
pub struct BoundedBytes {
    pub bytes: u64,
    pub bytes_max: u64,
}

/// Bytes without a bound of their own.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
pub struct FileBytes {
    pub bytes: u64,
}

/// How a sink is.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
pub struct SinkStatus {
    pub name: String,
    /// `running`, `retrying` or `failed`.
    pub state: String,
    /// The newest epoch that it holds; 0 for none.
    pub epoch: u64,
    /// How far that is behind the outbox.
    pub behind_seconds: f64,
    /// Rows written since the start.
    #[serde(flatten)]
    pub rows: KindRows,
    /// Why its last write failed, if that was not written since.
    pub last_error: Option<String>,
}

/// Window rows that the series make in a day, beside what the store is meant for.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
pub struct RowsPerDayStatus {
    pub series: u64,
    pub estimate: u64,
    pub max: u64,
    pub exceeded: bool,
    pub days_that_fit: Option<f64>,
    pub retention: String,
    pub retention_fits: Option<bool>,
}

/// A window as people write it.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
pub struct WindowNames {
    pub length: String,
    pub hop: String,
}

/// The settings under `limits`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
pub struct LimitsStatus {
    pub series: u64,
    pub series_per_name: u64,
    pub labels: usize,
    pub label_bytes: usize,
    pub body_bytes: usize,
    pub late_samples: usize,
}

/// How a source is.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
pub struct SourceReport {
    /// The word in metrics.
    pub source: String,
    /// The address of the server; none for what is no server.
    pub url: Option<String>,
    #[serde(rename = "match")]
    pub matching: Vec<String>,
    pub state: String,
    pub failing: bool,
    pub read_to: Option<String>,
    pub read_to_ms: Option<i64>,
    pub behind_seconds: Option<f64>,
    pub last_success: Option<String>,
    pub last_success_ms: Option<i64>,
    pub last_error: Option<String>,
    pub last_error_at: Option<String>,
    pub last_error_at_ms: Option<i64>,
    pub series_left_out: SeriesLeftOut,
    pub partial: Option<PartialReport>,
    pub not_read: Vec<UnreadReport>,
    pub not_read_total: u64,
}

/// Series of a source that are not taken, as `select` says.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
pub struct SeriesLeftOut {
    pub constant: usize,
    pub beyond_sample: usize,
}

/// Answers of a server that say that they may be partial.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
pub struct PartialReport {
    pub since: Option<String>,
    pub since_ms: i64,
    pub from: Option<String>,
    pub from_ms: i64,
    pub why: String,
    pub answers_taken: u64,
}

/// What of a selector is not read.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
pub struct UnreadReport {
    #[serde(rename = "match")]
    pub matching: String,
    pub from: Option<String>,
    pub to: Option<String>,
    pub parts: u64,
    pub error: String,
}

/// What the store holds.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
pub struct StoreFigures {
    pub epoch: Option<u64>,
    pub series: u64,
    pub tables: u64,
    #[serde(flatten)]
    pub rows: KindRows,
    pub rows_last_day: u64,
    pub first_at: Option<String>,
    pub first_at_ms: Option<i64>,
    pub last_at: Option<String>,
    pub last_at_ms: Option<i64>,
    pub bytes: u64,
}

/// Rows of each kind, in the order of [`KINDS`]; as JSON a field for each, named by [`KindRows::field`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KindRows(pub [u64; KINDS.len()]);

impl KindRows {
    /// Rows of a kind.
    pub fn of<K: ResultRow>(&self) -> u64 {
        self.0[place_of::<K>()]
    }

    /// The name of a kind's field: `window_rows`.
    pub fn field(kind: &KindInfo) -> String {
        format!("{}_rows", kind.singular)
    }
}

impl Serialize for KindRows {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(KINDS.iter().map(KindRows::field).zip(self.0))
    }
}

impl<'de> Deserialize<'de> for KindRows {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<KindRows, D::Error> {
        let fields = BTreeMap::<String, Value>::deserialize(deserializer)?;
        let mut all = KindRows::default();
        for (kind, rows) in KINDS.iter().zip(&mut all.0) {
            let name = KindRows::field(kind);
            let number = fields.get(&name).and_then(Value::as_u64);
            *rows = number.ok_or_else(|| D::Error::custom(format!("`{name}` is not a number of rows")))?;
        }
        Ok(all)
    }
}
