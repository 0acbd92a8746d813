//! The writer thread: group commit, the cutting of epochs, and what becomes of a disk that refuses.
//!
//! Batches are merged into records of up to [`RECORD_SAMPLES_MAX`] samples; one batch may end up in two epochs, never in
//! two commits.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use tidewatch_dataflows::sample::{Control, EpochEnd, Samples};
use tidewatch_dataflows::settings::{SeriesOptions, Settings};

use super::queue::{CommitCallback, EndOnPanic, Item, QueueShared, QueueState, QueueStop, answer};
use super::record::{
    BootstrapState, KIND_BOOTSTRAPS, KIND_EPOCH_END, KIND_SETTINGS, RECORD_SAMPLES_MAX, RECORD_TYPES_MAX,
    encode_bootstraps, encode_columns, encode_control, encode_epoch_end, encode_settings, kind_of,
};
use super::{EpochCutter, EpochMode, JournalError, JournalOptions, LOG, NewSeries, SyncMode};
use crate::faults::mutant;
use crate::metrics::{Gauge, Histogram, LogLabels, Metrics, SourceLabels};
use crate::segments::{HEADER_BYTES, KIND_SYNCED, Position, Segments, SegmentsError, encode_synced};

/// How often a stalled writer looks whether the disk takes something.
const PROBE_EVERY: Duration = Duration::from_secs(1);
/// What must fit on the disk before a stalled journal goes on: a commit or two, so that it does not stall at once again.
const PROBE_BYTES: usize = 1 << 20;
/// The series log in metrics and messages; it is written by `before_commit`.
const SERIES_LOG: &str = "series";

/// The one who writes.
pub(super) struct JournalWriter {
    shared: Arc<QueueShared>,
    segments: Segments,
    cutter: EpochCutter,
    config: JournalOptions,
    before_commit: Box<dyn FnMut() -> io::Result<()> + Send>,
    metrics: Arc<Metrics>,
    bytes: Gauge,
    sync_seconds: Histogram,
    settings: Vec<u8>,
    bootstraps: BootstrapState,
    /// Samples of the current epoch not yet encoded; less than a record.
    partial: Samples,
    epoch_samples: usize,
    /// The epoch holds samples of a bootstrap.
    bootstrapped: bool,
    epoch_began_ms: i64,
    /// Something was appended since the last commit.
    dirty: bool,
    waiting: Vec<CommitCallback>,
    /// Those who are answered when their commit is synced, however long after the write that is.
    waiting_for_sync: Vec<CommitCallback>,
    /// Since when something is written and not synced.
    unsynced_since: Option<Instant>,
    /// The next sync does not wait.
    urgent: bool,
    /// How far the log was synced, as the last record of that says.
    proven: Position,
    /// What stands in the log: where a failed commit goes back to.
    committed: CommittedState,
    /// What came from [`super::DescribeSeries`] and is not in a commit yet.
    described: NewSeries,
    /// A control came since `committed` was taken.
    controls: bool,
    /// The log whose write failed; nothing is taken.
    stalled: Option<&'static str>,
    /// Samples by source, and epochs, that become durable with the next commit.
    accepted: Vec<(&'static str, u64)>,
    epochs: u64,
}

/// The state of the writer behind the last commit.
struct CommittedState {
    cutter: EpochCutter,
    bootstraps: BootstrapState,
    epoch_samples: usize,
    bootstrapped: bool,
    epoch_began_ms: i64,
}

/// Why a commit was not made.
enum CommitError {
    /// The disk did not take it, and may later.
    Write { log: &'static str, why: String },
    /// Nobody knows what is on disk.
    Definite(String),
}

impl CommitError {
    fn why(self) -> String {
        match self {
            CommitError::Write { why, .. } | CommitError::Definite(why) => why,
        }
    }
}

impl From<SegmentsError> for CommitError {
    fn from(error: SegmentsError) -> CommitError {
        match error.is_transient() {
            true => CommitError::Write { log: LOG, why: error.to_string() },
            false => CommitError::Definite(error.to_string()),
        }
    }
}

impl JournalWriter {
    pub(super) fn new(
        segments: Segments,
        cutter: EpochCutter,
        settings: &Settings,
        bootstraps: BootstrapState,
        config: JournalOptions,
        before_commit: Box<dyn FnMut() -> io::Result<()> + Send>,
        metrics: Arc<Metrics>,
    ) -> JournalWriter {
        let log = LogLabels { log: LOG };
        let shared = QueueShared::new(&config, &segments, &cutter, &metrics);
        let mut payload = Vec::new();
        encode_settings(settings, &mut payload);
        let bytes = metrics.log_bytes.get_or_create(&log).clone();
        let sync_seconds = metrics.log_sync_seconds.get_or_create(&log).clone();
        // An epoch of no samples would never be filled.
        let config = JournalOptions { epoch_samples_max: config.epoch_samples_max.max(1), ..config };
        let epoch_began_ms = (config.clock)();
        let committed = CommittedState {
            cutter: cutter.clone(),
            bootstraps: bootstraps.clone(),
            epoch_samples: 0,
            bootstrapped: false,
            epoch_began_ms,
        };
        JournalWriter {
            shared: Arc::new(shared),
            segments,
            cutter,
            epoch_began_ms,
            config,
            before_commit,
            bytes,
            sync_seconds,
            metrics,
            settings: payload,
            bootstraps,
            partial: Samples::with_capacity(RECORD_SAMPLES_MAX),
            epoch_samples: 0,
            bootstrapped: false,
            dirty: false,
            waiting: Vec::new(),
            waiting_for_sync: Vec::new(),
            unsynced_since: None,
            urgent: false,
            proven: Position { segment: 0, offset: 0 },
            committed,
            described: NewSeries::default(),
            controls: false,
            stalled: None,
            accepted: Vec::new(),
            epochs: 0,
        }
    }

    pub(super) fn shared(&self) -> Arc<QueueShared> {
        self.shared.clone()
    }

    /// Before anything is taken: settings at the head of the segment, and an end for an epoch that was cut short.
    ///
    /// `before` are the settings that held until now, if they were others: they hold to the end of the epoch that was
    /// cut short. With `reset_to_ms` processing time goes back to it then.
    pub(super) fn begin(
        &mut self,
        open_epoch: bool,
        before: Option<&Settings>,
        reset_to_ms: Option<i64>,
    ) -> Result<(), JournalError> {
        let now = before.map(|before| {
            let mut payload = Vec::new();
            encode_settings(before, &mut payload);
            std::mem::replace(&mut self.settings, payload)
        });
        self.head();
        if open_epoch {
            let end = self.cutter.cut_at((self.config.clock)(), i64::MIN, i64::MIN, false);
            tracing::warn!(epoch = end.epoch, "closing an epoch that was cut short");
            self.end_epoch(end);
        }
        if let Some(now) = now {
            // In one epoch with the settings, and before them: a start that is cut short in between says all of it again.
            self.describe_series();
            self.head();
            self.settings = now;
            self.segments.append(KIND_SETTINGS, &self.settings);
            self.dirty = true;
        }
        if let Some(to_ms) = reset_to_ms {
            self.reset_clock(to_ms);
        }
        self.urgent = true;
        self.commit().map_err(|failure| JournalError::Failed(failure.why()))
    }

    pub(super) fn run(mut self) {
        let _guard = EndOnPanic(self.shared.clone());
        loop {
            let taken = self.shared.take(self.patience());
            if taken.stop == Some(QueueStop::Now) {
                return self.shared.end(QueueState::Closed);
            }
            let finish = taken.stop == Some(QueueStop::Finish);
            let done = if self.stalled.is_some() { self.probe() } else { Ok(()) };
            let done = done.and_then(|()| self.work(taken.items, finish));
            match done {
                Err(CommitError::Write { log, why }) if self.config.mode == EpochMode::Live && !finish => {
                    if let Err(failure) = self.stall(log, &why) {
                        return self.fail(failure.why());
                    }
                }
                Err(failure) => return self.fail(failure.why()),
                Ok(()) if finish => return self.shared.end(QueueState::Closed),
                Ok(()) => {}
            }
        }
    }

    /// Puts what was taken from the queue into the log.
    fn work(&mut self, items: Vec<Item>, finish: bool) -> Result<(), CommitError> {
        for item in items {
            self.encode(item);
        }
        if self.config.mode == EpochMode::Live && (finish || self.time_left() == Some(Duration::ZERO)) {
            self.cut_live();
        }
        self.urgent |= finish;
        self.commit()
    }

    /// Nothing is taken before a restart.
    fn fail(&mut self, why: String) {
        tracing::error!(why, "the journal has failed; nothing is taken before a restart");
        // First the state, then the answers: who hears of the failure finds the journal failed.
        self.shared.end(QueueState::Failed(why.clone()));
        answer(self.waiting.drain(..).chain(self.waiting_for_sync.drain(..)), &Err(why));
    }

    /// Goes back to what stands in the log, and takes nothing until the disk does.
    fn stall(&mut self, log: &'static str, why: &str) -> Result<(), CommitError> {
        let CommittedState { cutter, bootstraps, epoch_samples, bootstrapped, epoch_began_ms } =
            &self.committed;
        (self.cutter, self.bootstraps) = (cutter.clone(), bootstraps.clone());
        (self.epoch_samples, self.bootstrapped) = (*epoch_samples, *bootstrapped);
        self.epoch_began_ms = *epoch_began_ms;
        self.partial.clear();
        self.accepted.clear();
        let described = std::mem::take(&mut self.described);
        self.config.new_series.iter().for_each(|series| series.give_back(described.clone()));
        (self.dirty, self.controls, self.epochs) = (false, false, 0);
        self.proven = Position { segment: 0, offset: 0 };
        self.shared.current_epoch.store(self.cutter.current_epoch(), Relaxed);
        let label = LogLabels { log };
        if self.stalled.replace(log).is_none() {
            tracing::error!("the {log} log cannot be written, nothing is taken until it can: {why}");
            self.metrics.log_stalls.get_or_create(&label).inc();
            self.metrics.log_stalled.get_or_create(&label).set(1);
        }
        let rewound = self.segments.rewind();
        // First the state, then the answers, as for a failure.
        self.shared.stall(why);
        answer(self.waiting.drain(..).chain(self.waiting_for_sync.drain(..)), &Err(why.to_owned()));
        match rewound.map_err(CommitError::from) {
            // Tried again before anything is written.
            Err(CommitError::Write { .. }) | Ok(()) => Ok(()),
            Err(definite) => Err(definite),
        }
    }

    /// Whether the disk takes something again; then everything goes on.
    fn probe(&mut self) -> Result<(), CommitError> {
        self.sync_series_log()?;
        self.segments.probe(PROBE_BYTES)?;
        if let Some(log) = self.stalled.take() {
            tracing::info!("the {log} log can be written again");
            self.metrics.log_stalled.get_or_create(&LogLabels { log }).set(0);
        }
        self.shared.resume();
        Ok(())
    }

    fn sync_series_log(&mut self) -> Result<(), CommitError> {
        (self.before_commit)().map_err(|e| {
            let segments = e.get_ref().and_then(|e| e.downcast_ref::<SegmentsError>());
            let passes = segments.is_some_and(SegmentsError::is_transient);
            let why = format!("cannot sync the series log: {e}");
            if passes { CommitError::Write { log: SERIES_LOG, why } } else { CommitError::Definite(why) }
        })
    }

    /// How long the queue may stay empty before there is something else to do.
    fn patience(&self) -> Option<Duration> {
        if self.stalled.is_some() {
            return Some(PROBE_EVERY);
        }
        let until_sync = match (self.config.sync, self.unsynced_since) {
            (SyncMode::Interval(most), Some(since)) => Some(most.saturating_sub(since.elapsed())),
            _ => None,
        };
        self.time_left().into_iter().chain(until_sync).min()
    }

    /// How long the epoch may last yet; no bound when the caller ends epochs.
    fn time_left(&self) -> Option<Duration> {
        if self.config.mode == EpochMode::File {
            return None;
        }
        let lasted_ms = (self.config.clock)().saturating_sub(self.epoch_began_ms);
        // A clock that was set back must not make an epoch last until it has caught up.
        if lasted_ms < 0 {
            return Some(Duration::ZERO);
        }
        Some(Duration::from_millis(self.config.epoch_ms.saturating_sub(lasted_ms).max(0).unsigned_abs()))
    }

    fn encode(&mut self, item: Item) {
        match item {
            Item::Samples { samples, source, done } => {
                self.describe_series();
                self.add(&samples);
                self.waiting.extend(done);
                match self.accepted.iter_mut().find(|(known, _)| *known == source) {
                    Some((_, n)) => *n += samples.len() as u64,
                    None => self.accepted.push((source, samples.len() as u64)),
                }
            }
            Item::Control { control, done } => {
                self.add_control(control);
                self.waiting.push(done);
            }
            Item::Cut { processing_ms, watermark_ms, last_of_input, done } => {
                let end =
                    self.cutter.cut_at((self.config.clock)(), processing_ms, watermark_ms, last_of_input);
                self.end_epoch(end);
                // Who cuts asks next how far the journal is durable.
                self.waiting_for_sync.push(done);
                self.urgent |= last_of_input;
            }
        }
    }

    /// Takes both times back, in an epoch of its own: no sample is judged by both clocks.
    fn reset_clock(&mut self, to_ms: i64) {
        self.flush();
        self.head();
        let mut payload = Vec::new();
        let kind = encode_control(&Control::ClockReset { to_ms }, &mut payload);
        self.segments.append(kind, &payload);
        self.cutter.reset(to_ms);
        let end = self.cutter.cut_at((self.config.clock)(), i64::MIN, i64::MIN, false);
        self.epoch_began_ms = (self.config.clock)();
        self.end_epoch(end);
        self.controls = true;
    }

    /// What new series are comes before their samples.
    fn describe_series(&mut self) {
        let NewSeries { types, options } =
            self.config.new_series.as_ref().map(|series| series.take()).unwrap_or_default();
        if !types.is_empty() {
            self.described.types.extend_from_slice(&types);
            self.add_control(Control::NamedTypes(types));
        }
        self.described.options.extend_from_slice(&options);
        let mut by_options: Vec<(SeriesOptions, Vec<u64>)> = Vec::new();
        for (id, options) in options {
            match by_options.iter_mut().find(|(held, _)| *held == options) {
                Some((_, series)) => series.push(id),
                None => by_options.push((options, vec![id])),
            }
        }
        for (options, series) in by_options {
            self.add_control(Control::Options { options, series });
        }
    }

    fn add_control(&mut self, control: Control) {
        if let Control::ClockReset { to_ms } = control {
            let end = self.cutter.cut_at((self.config.clock)(), i64::MIN, i64::MIN, false);
            self.end_epoch(end);
            return self.reset_clock(to_ms);
        }
        // A control applies to its whole epoch, so the end of a bootstrap must not be in one with the bootstrap's samples.
        if self.bootstrapped && matches!(control, Control::BootstrapEnd { .. }) {
            match self.config.mode {
                EpochMode::Live => self.cut_live(),
                // Times of a file are the caller's.
                EpochMode::File => {
                    let end = self.cutter.cut_at((self.config.clock)(), i64::MIN, i64::MIN, false);
                    self.end_epoch(end);
                }
            }
        }
        self.flush();
        let parts = match control {
            Control::Types(types) => {
                types.chunks(RECORD_TYPES_MAX).map(|part| Control::Types(part.to_vec())).collect()
            }
            Control::NamedTypes(types) => {
                types.chunks(RECORD_TYPES_MAX).map(|part| Control::NamedTypes(part.to_vec())).collect()
            }
            Control::Options { options, series } => {
                let parts = series.chunks(RECORD_TYPES_MAX);
                parts.map(|part| Control::Options { options, series: part.to_vec() }).collect()
            }
            other => vec![other],
        };
        for part in parts {
            self.head();
            let mut payload = Vec::new();
            let kind = encode_control(&part, &mut payload);
            self.segments.append(kind, &payload);
            // Only now: a head that knew it already would say so even if the tail from here on is torn off.
            self.bootstraps.note(&part);
        }
        (self.dirty, self.controls) = (true, true);
    }

    /// Puts samples into records, and ends the epoch each time it is full.
    fn add(&mut self, samples: &Samples) {
        if self.partial.bootstrap != samples.bootstrap {
            self.flush();
            self.partial.bootstrap = samples.bootstrap;
        }
        self.bootstrapped |= samples.bootstrap != 0;
        let bootstrap = samples.bootstrap;
        let mut from = 0;
        while from < samples.len() {
            let mut n = (samples.len() - from).min(RECORD_SAMPLES_MAX - self.partial.len());
            if self.config.mode == EpochMode::Live {
                n = n.min(self.config.epoch_samples_max - self.epoch_samples);
            }
            let to = from + n;
            let (series, at_ms) = (&samples.series[from..to], &samples.at_ms[from..to]);
            let value = &samples.value[from..to];
            if self.partial.is_empty() && n == RECORD_SAMPLES_MAX {
                self.head();
                self.segments.append_with(kind_of(bootstrap), |out| {
                    encode_columns(bootstrap, series, at_ms, value, out)
                });
            } else {
                self.partial.series.extend_from_slice(series);
                self.partial.at_ms.extend_from_slice(at_ms);
                self.partial.value.extend_from_slice(value);
            }
            self.dirty = true;
            from = to;
            self.epoch_samples += n;
            if self.partial.len() == RECORD_SAMPLES_MAX {
                self.flush();
            }
            if self.config.mode == EpochMode::Live && self.epoch_samples >= self.config.epoch_samples_max {
                self.cut_live();
                self.bootstrapped = bootstrap != 0 && from < samples.len();
            }
        }
    }

    /// Encodes the samples that do not bootstrap a record.
    fn flush(&mut self) {
        if self.partial.is_empty() {
            return;
        }
        self.head();
        let Samples { series, at_ms, value, bootstrap } = &self.partial;
        self.segments
            .append_with(kind_of(*bootstrap), |out| encode_columns(*bootstrap, series, at_ms, value, out));
        self.partial.clear();
    }

    fn cut_live(&mut self) {
        let now_ms = (self.config.clock)();
        let end = self.cutter.cut(now_ms);
        self.epoch_began_ms = now_ms;
        self.end_epoch(end);
    }

    fn end_epoch(&mut self, end: EpochEnd) {
        self.flush();
        self.head();
        self.segments.append_with(KIND_EPOCH_END, |out| encode_epoch_end(&end, out));
        self.dirty = true;
        self.epoch_samples = 0;
        self.bootstrapped = false;
        self.epochs += 1;
        self.shared.current_epoch.store(self.cutter.current_epoch(), Relaxed);
    }

    /// Every segment begins with the state of bootstraps, if there were any, and the settings in force: whoever finds
    /// these in a segment has found those.
    fn head(&mut self) {
        if self.segments.at_segment_start() {
            if !self.bootstraps.is_empty() {
                let mut payload = Vec::new();
                encode_bootstraps(&self.bootstraps, &mut payload);
                self.segments.append(KIND_BOOTSTRAPS, &payload);
            }
            self.segments.append(KIND_SETTINGS, &self.settings);
            self.dirty = true;
        }
    }

    /// Writes what was appended, makes it durable when it is time for that, and tells everyone.
    fn commit(&mut self) -> Result<(), CommitError> {
        if self.dirty || !self.waiting.is_empty() {
            self.flush();
            // In all modes before the write: no crash leaves an id in the journal whose labels are nowhere.
            if !mutant(4) {
                self.sync_series_log()?;
            }
            self.prove();
            self.segments.write()?;
            if mutant(2) {
                self.shared.durable.advance(self.segments.end(), self.cutter.last().map(|end| end.epoch));
            }
            if mutant(3) {
                answer(self.waiting.drain(..), &Ok(()));
            }
            self.dirty = false;
            self.unsynced_since.get_or_insert_with(Instant::now);
            if self.config.sync != SyncMode::Commit {
                self.segments.keep();
            }
        }
        let Some(since) = self.unsynced_since else { return Ok(()) };
        let due = match self.config.sync {
            SyncMode::Commit => true,
            SyncMode::Interval(most) => {
                self.acknowledge();
                since.elapsed() >= most
            }
            SyncMode::Never => false,
        };
        if due || self.urgent || self.segments.full() {
            let begun = Instant::now();
            self.segments.sync()?;
            self.sync_seconds.observe(begun.elapsed().as_secs_f64());
        } else if self.config.sync != SyncMode::Never {
            return Ok(());
        }
        self.urgent = false;
        self.unsynced_since = None;
        let last = self.cutter.last();
        *self.shared.last_end.lock() = last;
        self.shared.durable.advance(self.segments.end(), last.map(|end| end.epoch));
        self.acknowledge();
        answer(self.waiting_for_sync.drain(..), &Ok(()));
        Ok(())
    }

    /// What was written stands, however the next commit ends.
    fn acknowledge(&mut self) {
        self.committed.cutter.clone_from(&self.cutter);
        if std::mem::take(&mut self.controls) {
            self.committed.bootstraps.clone_from(&self.bootstraps);
        }
        (self.committed.epoch_samples, self.committed.bootstrapped) = (self.epoch_samples, self.bootstrapped);
        self.committed.epoch_began_ms = self.epoch_began_ms;
        self.bytes.set(i64::try_from(self.segments.bytes()).unwrap_or(i64::MAX));
        self.shared.written(self.segments.current_bytes());
        self.described = NewSeries::default();
        for (source, n) in self.accepted.drain(..) {
            self.metrics.accepted.get_or_create(&SourceLabels { source }).inc_by(n);
        }
        self.metrics.epochs.inc_by(std::mem::take(&mut self.epochs));
        answer(self.waiting.drain(..), &Ok(()));
    }

    /// Says in the commit how far the log was durable before it.
    fn prove(&mut self) {
        let synced = self.segments.synced();
        if self.segments.has_buffered() && synced.offset > HEADER_BYTES && synced != self.proven {
            self.segments.append_with(KIND_SYNCED, |out| encode_synced(synced, out));
            self.proven = synced;
        }
    }
}
