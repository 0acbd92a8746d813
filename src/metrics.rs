//! Every metric of our own, declared once.
//!
//! Names follow Prometheus' base units. They never share a name with our *result* metrics
//! (`tidewatch_window_*`, ...), so scraping Tidewatch with Tidewatch is an ordinary thing to do.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, AtomicU64};

use parking_lot::Mutex;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use tidewatch_dataflows::rows::KINDS;
use tidewatch_dataflows::sample::Reason;

pub use prometheus_client::metrics::counter::Counter;
pub use prometheus_client::metrics::gauge::Gauge;
pub use prometheus_client::metrics::histogram::Histogram;

/// A label of one name: where a sample came from.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct SourceLabels {
    /// `remote_write`, `replay`, `prometheus`.
    pub source: &'static str,
}

/// Why a sample was not taken, and by which gate.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct RejectLabels {
    /// The source for the gate `validate`; `journal` for the gate `admit`.
    pub source: &'static str,
    /// `validate` or `admit`.
    pub gate: &'static str,
    /// The reason's word.
    pub reason: &'static str,
}

impl RejectLabels {
    /// Those of the gate `admit`.
    pub fn admit(reason: Reason) -> RejectLabels {
        RejectLabels { source: "journal", gate: "admit", reason: reason.as_str() }
    }
}

/// One HTTP route and its answer.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct RouteLabels {
    /// The route's pattern, never the raw path.
    pub route: &'static str,
}

/// One HTTP route and its answer.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct AnswerLabels {
    /// The route's pattern, never the raw path.
    pub route: &'static str,
    /// The status code.
    pub code: u16,
}

/// A limit by its setting's path.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct LimitLabels {
    /// Path of the setting, e.g. `limits.series`.
    pub limit: &'static str,
}

/// A queue between two rooms.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct QueueLabels {
    /// Which queue.
    pub queue: &'static str,
}

/// A log on disk.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct LogLabels {
    /// `journal`, `outbox`, `series`.
    pub log: &'static str,
}

/// A sink.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct SinkLabels {
    /// Which sink, e.g. `store`.
    pub sink: &'static str,
}

/// A kind of row.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct RowsLabels {
    /// Which sink wrote it.
    pub sink: &'static str,
    /// `windows`, `rejects`, `types`.
    pub kind: &'static str,
}

/// An operator of the dataflow.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct OperatorLabels {
    /// Its name in the graph: `source`, `stages`, `outbox`.
    pub operator: &'static str,
}

/// A worker: a thread that computes.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct WorkerLabels {
    /// Its number, from 0 on.
    pub worker: usize,
}

/// A stage of the computation.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct StageLabels {
    /// Its name in the list of stages.
    pub stage: &'static str,
}

/// Why the engine was built anew.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct RestartLabels {
    /// What panicked: `worker`, `feeder`, `merger`.
    pub cause: &'static str,
}

/// What was checked.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct CheckLabels {
    /// `pane`, `window`: within the state of the workers. `row`: of the outbox, against samples of the journal.
    pub what: &'static str,
}

/// Why something was not checked.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct SkipLabels {
    /// The reason's word.
    pub reason: &'static str,
}

/// How a request of ours ended.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct OutcomeLabels {
    /// `ok`, `transient`, `too_much`, `definite`.
    pub outcome: &'static str,
}

/// What was built.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct BuildLabels {
    /// The version of the package.
    pub version: &'static str,
}

/// Every limit that counts as reached: the path of its setting, or a name of its own.
pub const LIMITS: [&str; 45] = [
    "api.deadline",
    "api.questions",
    "api.regex_work",
    "api.rows",
    "backfill.beginning",
    "backfill.body_bytes",
    "backfill.body_seconds",
    "backfill.corrected_keys",
    "backfill.running",
    "clock_behind",
    "engine.quarantined",
    "engine.questions",
    "engine.restarts",
    "http.answer_rate",
    "http.cross_site",
    "http.files",
    "http.head_seconds",
    "http.idle_seconds",
    "http.unread_body",
    "journal.bytes_max",
    "journal.queue",
    "limits.body_bytes",
    "limits.connections",
    "limits.label_bytes",
    "limits.labels",
    "limits.late_samples",
    "limits.series",
    "limits.series_per_name",
    "outbox.bytes_max",
    "prometheus.answer_bytes",
    "prometheus.partial",
    "prometheus.piece",
    "prometheus.refused_names",
    "sources.intake",
    "store.corrections",
    "store.log_bytes",
    "store.rows_per_day_max",
    "store.tables_dropped",
    "web.hosts",
    "write.body_rate",
    "write.body_room",
    "write.body_seconds",
    "write.families",
    "write.requests",
    "write.type_changes",
];

/// What can panic, so that the engine is built anew.
pub const RESTART_CAUSES: [&str; 3] = ["worker", "feeder", "merger"];

/// Logs that intake waits for.
const STALLING_LOGS: [&str; 2] = ["journal", "outbox"];

/// How a request of ours can end.
const OUTCOMES: [&str; 4] = ["ok", "transient", "too_much", "definite"];

type FloatCounter = Counter<f64, AtomicU64>;
type FloatGauge = Gauge<f64, AtomicU64>;
type IntGauge = Gauge<i64, AtomicI64>;

fn seconds() -> Histogram {
    Histogram::new([0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0])
}

/// Questions to other servers may take minutes.
fn long_seconds() -> Histogram {
    Histogram::new([0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0])
}

macro_rules! metrics {
    ($( $(#[doc = $help:literal])+ $field:ident: $type:ty = $name:literal, $make:expr; )+) => {
        /// The metrics of one process; each field's text is the metric's help.
        pub struct Metrics {
            registry: Registry,
            /// As `limit_hits`, which cannot be read back as a whole.
            reached: Mutex<BTreeMap<&'static str, u64>>,
            $( $(#[doc = $help])+ pub $field: $type, )+
        }

        impl Metrics {
            /// Registers every metric.
            pub fn new() -> Self {
                let mut registry = Registry::default();
                $( let $field: $type = $make;
                   registry.register($name, concat!($($help),+).trim().trim_end_matches('.'), $field.clone()); )+
                let metrics = Metrics { registry, reached: Mutex::default(), $($field),+ };
                metrics.begin_at_zero();
                metrics
            }
        }
    };
}

metrics! {
    /// Samples and native histograms that arrived, before any check.
    received: Family<SourceLabels, Counter> = "tidewatch_samples_received", Family::default();
    /// Samples that passed validation and are durable in the journal.
    accepted: Family<SourceLabels, Counter> = "tidewatch_samples_accepted", Family::default();
    /// Samples not taken, by gate and reason.
    rejected: Family<RejectLabels, Counter> = "tidewatch_samples_rejected", Family::default();
    /// Samples applied to windows.
    applied: Counter = "tidewatch_samples_applied", Counter::default();
    /// Samples that were late and corrected windows.
    late: Counter = "tidewatch_samples_late", Counter::default();
    /// Staleness markers seen.
    stale_markers: Counter = "tidewatch_stale_markers", Counter::default();
    /// Exemplars, and metadata that says no type, received and not used.
    ignored: Family<SourceLabels, Counter> = "tidewatch_write_entries_ignored", Family::default();
    /// Native histograms of which the count and the sum are kept and no bucket.
    reduced: Family<SourceLabels, Counter> = "tidewatch_native_histograms_reduced", Family::default();
    /// Seconds from request to answer.
    request_seconds: Family<RouteLabels, Histogram> = "tidewatch_http_request_duration_seconds", Family::new_with_constructor(seconds);
    /// Connections that are open.
    connections: IntGauge = "tidewatch_http_connections", IntGauge::default();
    /// Answers by status code.
    responses: Family<AnswerLabels, Counter> = "tidewatch_http_responses", Family::default();
    /// Requests to Prometheus servers by outcome.
    prometheus_requests: Family<OutcomeLabels, Counter> = "tidewatch_prometheus_requests", Family::default();
    /// Seconds from a request to a Prometheus server to the end of its answer.
    prometheus_seconds: Histogram = "tidewatch_prometheus_request_duration_seconds", long_seconds();
    /// Seconds that the source furthest behind is behind the clock.
    source_lag_seconds: Family<SourceLabels, FloatGauge> = "tidewatch_source_lag_seconds", Family::default();
    /// Times that a series got a row and nobody knew its labels: it is in the store's catalog without them.
    series_unlabelled: Counter = "tidewatch_series_unlabelled", Counter::default();
    /// Times a limit refused or held back something.
    limit_hits: Family<LimitLabels, Counter> = "tidewatch_limit_reached", Family::default();
    /// Epochs cut.
    epochs: Counter = "tidewatch_epochs", Counter::default();
    /// Seconds that processing time of the newest finished epoch is behind the clock.
    lag_seconds: FloatGauge = "tidewatch_processing_lag_seconds", FloatGauge::default();
    /// Seconds that the clock is behind the journal's processing time, which stands still until the clock is there.
    clock_behind_seconds: FloatGauge = "tidewatch_clock_behind_seconds", FloatGauge::default();
    /// Series with a slot.
    active_series: IntGauge = "tidewatch_active_series", IntGauge::default();
    /// Label sets held in memory.
    label_entries: IntGauge = "tidewatch_label_entries", IntGauge::default();
    /// Slots given to series.
    slots_given: Counter = "tidewatch_slots_given", Counter::default();
    /// Slots freed because their series fell silent.
    slots_freed: Counter = "tidewatch_slots_freed", Counter::default();
    /// Series forgotten because their slots were freed, or because they never had one.
    series_released: Counter = "tidewatch_series_released", Counter::default();
    /// Entries waiting in a queue.
    queue_depth: Family<QueueLabels, IntGauge> = "tidewatch_queue_depth", Family::default();
    /// Bytes of a log on disk.
    log_bytes: Family<LogLabels, IntGauge> = "tidewatch_log_bytes", Family::default();
    /// Times a log could not be written, so that intake was refused until it could.
    log_stalls: Family<LogLabels, Counter> = "tidewatch_log_stalls", Family::default();
    /// Whether a log cannot be written now (1), and intake is refused.
    log_stalled: Family<LogLabels, IntGauge> = "tidewatch_log_stalled", Family::default();
    /// Bytes of the journal that are damaged and were left out, as `--accept-loss` says.
    journal_lost_bytes: Counter = "tidewatch_journal_lost_bytes", Counter::default();
    /// Times the store was opened anew because a sync of it had failed.
    store_recoveries: Counter = "tidewatch_store_recoveries", Counter::default();
    /// Seconds a sync of a log took.
    log_sync_seconds: Family<LogLabels, Histogram> = "tidewatch_log_sync_duration_seconds", Family::new_with_constructor(seconds);
    /// Snapshots of shards made durable.
    snapshots: Counter = "tidewatch_snapshots", Counter::default();
    /// Snapshots that failed and are made anew; logs are not trimmed meanwhile.
    snapshot_failures: Counter = "tidewatch_snapshot_failures", Counter::default();
    /// Snapshots that were found damaged; the one before was used.
    snapshots_damaged: Counter = "tidewatch_snapshots_damaged", Counter::default();
    /// Bytes of snapshots written.
    snapshot_bytes_written: Counter = "tidewatch_snapshot_written_bytes", Counter::default();
    /// Bytes of snapshots on disk.
    snapshot_bytes: IntGauge = "tidewatch_snapshot_bytes", IntGauge::default();
    /// Seconds from a snapshot's arrival at the disk until it counts.
    snapshot_seconds: Histogram = "tidewatch_snapshot_write_duration_seconds", seconds();
    /// Epoch that the older of two snapshots of every shard has reached; 0 while some shard has not two.
    snapshot_epoch: IntGauge = "tidewatch_snapshot_epoch", IntGauge::default();
    /// Rows written by a sink.
    rows_written: Family<RowsLabels, Counter> = "tidewatch_rows_written", Family::default();
    /// Newest epoch a sink holds durably.
    sink_epoch: Family<SinkLabels, IntGauge> = "tidewatch_sink_epoch", Family::default();
    /// Seconds between the newest epoch of the outbox and the newest one a sink holds.
    sink_lag_seconds: Family<SinkLabels, FloatGauge> = "tidewatch_sink_lag_seconds", Family::default();
    /// Window rows that the series make in a day; the store is meant for tidewatch_store_rows_per_day_max.
    rows_per_day: IntGauge = "tidewatch_store_rows_per_day", IntGauge::default();
    /// Window rows a day that the store is meant for: the setting store.rows_per_day_max.
    rows_per_day_max: IntGauge = "tidewatch_store_rows_per_day_max", IntGauge::default();
    /// Seconds that the clock is ahead of the time that retention goes by; 0 unless it has jumped by more than 10 minutes within the hour.
    retention_clock_ahead: FloatGauge = "tidewatch_retention_clock_ahead_seconds", FloatGauge::default();
    /// Bytes of the write-ahead log of the store, which readers that last hold up.
    store_log_bytes: IntGauge = "tidewatch_store_log_bytes", IntGauge::default();
    /// Failed writes of a sink that will be tried again.
    sink_errors: Family<SinkLabels, Counter> = "tidewatch_sink_errors", Family::default();
    /// Rows of the outbox that a sink passed over, because this program does not know their kind.
    sink_rows_unknown: Family<SinkLabels, Counter> = "tidewatch_sink_rows_unknown", Family::default();
    /// Rows that corrected an earlier row.
    corrections: Counter = "tidewatch_corrections", Counter::default();
    /// Bytes of state a stage holds.
    stage_bytes: Family<StageLabels, IntGauge> = "tidewatch_stage_state_bytes", Family::default();
    /// Seconds a stage has computed.
    stage_seconds: Family<StageLabels, FloatCounter> = "tidewatch_stage_busy_seconds", Family::default();
    /// Batches, each of one shard and epoch, that a stage has retired.
    stage_batches: Family<StageLabels, Counter> = "tidewatch_stage_batches", Family::default();
    /// Rows that a stage has given, before the outbox drops those it holds already.
    stage_rows: Family<StageLabels, Counter> = "tidewatch_stage_rows", Family::default();
    /// Seconds a worker has computed or looked for something to compute.
    worker_busy_seconds: Family<WorkerLabels, FloatCounter> = "tidewatch_worker_busy_seconds", Family::default();
    /// Seconds a worker has been parked: it waited for input, for another worker, or for the outbox.
    worker_waiting_seconds: Family<WorkerLabels, FloatCounter> = "tidewatch_worker_waiting_seconds", Family::default();
    /// Seconds an operator has computed.
    operator_seconds: Family<OperatorLabels, FloatCounter> = "tidewatch_operator_busy_seconds", Family::default();
    /// Panics after which the engine was built anew in the same process, or was to be.
    engine_restarts: Family<RestartLabels, Counter> = "tidewatch_engine_restarts", Family::default();
    /// Longest time an operator ran before others of its worker could.
    operator_longest_seconds: Family<OperatorLabels, FloatGauge> = "tidewatch_operator_longest_run_seconds", Family::default();
    /// Series whose state was computed again and compared.
    audit_series: Counter = "tidewatch_audit_series", Counter::default();
    /// Panes, windows, steps, profiles and rows that were computed again.
    audit_checks: Family<CheckLabels, Counter> = "tidewatch_audit_checks", Family::default();
    /// Numbers that are not what computing them again gives.
    audit_mismatches: Family<CheckLabels, Counter> = "tidewatch_audit_mismatches", Family::default();
    /// The largest relative difference of sums since the start: rounding, if nothing is wrong.
    audit_difference: FloatGauge = "tidewatch_audit_relative_difference_max", FloatGauge::default();
    /// Rows of followed series that were not computed again, and series followed no longer, by reason.
    audit_skipped: Family<SkipLabels, Counter> = "tidewatch_audit_skipped", Family::default();
    /// Series whose samples are taken from the journal, so that their rows are computed again.
    audit_followed: IntGauge = "tidewatch_audit_followed_series", IntGauge::default();
    /// Samples of followed series that are kept.
    audit_samples: IntGauge = "tidewatch_audit_samples", IntGauge::default();
    /// Epoch up to which what is followed is in the file audit; a restart goes on from there.
    audit_epoch: IntGauge = "tidewatch_audit_epoch", IntGauge::default();
    /// Seconds that were spent on following series.
    audit_seconds: FloatCounter = "tidewatch_audit_busy_seconds", FloatCounter::default();
    /// Series that are quarantined.
    quarantined: IntGauge = "tidewatch_quarantined_series", IntGauge::default();
    /// Times the watchdog ended the process because nothing was computed.
    watchdog_expired: Counter = "tidewatch_watchdog_expired", Counter::default();
    /// What was built, always 1.
    build_info: Family<BuildLabels, IntGauge> = "tidewatch_build_info", Family::default();
    /// Seconds of processor time used.
    process_cpu_seconds: FloatCounter = "process_cpu_seconds", FloatCounter::default();
    /// Bytes of resident memory.
    process_resident_bytes: IntGauge = "process_resident_memory_bytes", IntGauge::default();
    /// Bytes of virtual memory.
    process_virtual_bytes: IntGauge = "process_virtual_memory_bytes", IntGauge::default();
    /// Open file descriptors.
    process_fds: IntGauge = "process_open_fds", IntGauge::default();
    /// Most file descriptors that may be open.
    process_fds_max: IntGauge = "process_max_fds", IntGauge::default();
    /// Start of the process in seconds since the Unix epoch.
    process_start_seconds: FloatGauge = "process_start_time_seconds", FloatGauge::default();
}

impl Default for Metrics {
    fn default() -> Self {
        Metrics::new()
    }
}

impl Metrics {
    /// Counts `n` samples refused by the gate `validate`.
    pub fn refuse(&self, source: &'static str, reason: &'static str, n: u64) {
        self.rejected.get_or_create(&RejectLabels { source, gate: "validate", reason }).inc_by(n);
    }

    /// Makes the counters whose labels are known at start: one that begins with its first event hides it from `increase`.
    fn begin_at_zero(&self) {
        for limit in LIMITS {
            self.limit_hits.get_or_create(&LimitLabels { limit }).inc_by(0);
        }
        for cause in RESTART_CAUSES {
            self.engine_restarts.get_or_create(&RestartLabels { cause }).inc_by(0);
        }
        for log in STALLING_LOGS {
            self.log_stalls.get_or_create(&LogLabels { log }).inc_by(0);
        }
        for outcome in OUTCOMES {
            self.prometheus_requests.get_or_create(&OutcomeLabels { outcome }).inc_by(0);
        }
        for reason in Reason::ALL {
            self.rejected.get_or_create(&RejectLabels::admit(reason)).inc_by(0);
        }
    }

    /// Makes the counters of a sink.
    pub fn begin_sink(&self, sink: &'static str) {
        for kind in KINDS {
            self.rows_written.get_or_create(&RowsLabels { sink, kind: kind.name }).inc_by(0);
        }
        self.sink_errors.get_or_create(&SinkLabels { sink }).inc_by(0);
        self.sink_rows_unknown.get_or_create(&SinkLabels { sink }).inc_by(0);
    }

    /// Counts that a limit refused or held back something.
    pub fn limit(&self, limit: &'static str) {
        debug_assert!(LIMITS.contains(&limit), "{limit} is not in the list of limits");
        self.limit_hits.get_or_create(&LimitLabels { limit }).inc();
        *self.reached.lock().entry(limit).or_default() += 1;
    }

    /// Every limit that refused or held back something, and how often.
    pub fn limits_reached(&self) -> BTreeMap<&'static str, u64> {
        self.reached.lock().clone()
    }

    /// OpenMetrics text 1.0.0, ending with `# EOF`.
    pub fn open_metrics(&self) -> String {
        let mut text = String::new();
        encode(&mut text, &self.registry).expect("writing to a string cannot fail");
        text
    }

    /// Prometheus text 0.0.4: as OpenMetrics, but a counter's family bears the name of its samples.
    pub fn text(&self) -> String {
        let open = self.open_metrics();
        let mut text = String::with_capacity(open.len());
        let mut help = "";
        for line in open.lines() {
            if line == "# EOF" || line.starts_with("# UNIT ") {
                continue;
            }
            if let Some(rest) = line.strip_prefix("# HELP ") {
                help = rest;
                continue;
            }
            if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
                let suffix = if kind == "counter" { "_total" } else { "" };
                let help = help.strip_prefix(name).unwrap_or(help).trim();
                text.push_str(&format!("# HELP {name}{suffix} {help}\n# TYPE {name}{suffix} {kind}\n"));
                continue;
            }
            text.push_str(line);
            text.push('\n');
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_at_start_is_there_with_a_zero() {
        let metrics = Metrics::new();
        metrics.begin_sink("store");
        let text = metrics.text();
        let mut lines: Vec<String> = LIMITS
            .map(|limit| format!("tidewatch_limit_reached_total{{limit=\"{limit}\"}} 0\n"))
            .into_iter()
            .chain(
                RESTART_CAUSES
                    .map(|cause| format!("tidewatch_engine_restarts_total{{cause=\"{cause}\"}} 0\n")),
            )
            .chain(KINDS.iter().map(|kind| {
                format!("tidewatch_rows_written_total{{sink=\"store\",kind=\"{}\"}} 0\n", kind.name)
            }))
            .collect();
        lines.extend(Reason::ALL.map(|reason| {
            let labels = format!("source=\"journal\",gate=\"admit\",reason=\"{}\"", reason.as_str());
            format!("tidewatch_samples_rejected_total{{{labels}}} 0\n")
        }));
        for line in lines {
            assert!(text.contains(&line), "{line} is not in {text}");
        }
        // What was not reached is not told as reached.
        assert!(metrics.limits_reached().is_empty());
        assert!(LIMITS.is_sorted());
    }
}
