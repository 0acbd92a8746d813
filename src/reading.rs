//! Samples into a journal as a log of their own: which are taken, and where epochs end.
//!
//! Shared by `replay`, backfills and `demo`. Not here: where samples come from, and what is made of them.

use std::sync::Arc;

use parking_lot::Mutex;
use tidewatch_dataflows::sample::Samples;

use crate::journal::{Journal, QueueError};
use crate::source::DurableFuture;
use crate::source::replay::{ReplayError, ReplayReader, ReplaySummary, SeriesLimitHit};

/// Samples of one epoch of a file.
const EPOCH_SAMPLES: usize = 65_536;

/// Why samples do not come into the journal. All definite: what was read before stays.
#[derive(Debug, thiserror::Error)]
pub enum ReadingError {
    /// The line that ends strict reading.
    #[error(transparent)]
    Input(#[from] ReplayError),
    /// The journal does not take them.
    #[error(transparent)]
    Queue(#[from] QueueError),
    /// The journal's writer is gone.
    #[error("the journal ended")]
    JournalEnded,
    /// A write or sync of the journal failed.
    #[error("the journal failed: {0}")]
    JournalFailed(String),
}

/// Replaces the batch by the next samples; `false` at the end of the input. What came before an error is in the batch.
pub type NextBatch<'a, E> = dyn FnMut(&mut Samples) -> Result<bool, E> + 'a;

/// What [`NextBatch`] is for files: an input that fails ends there and is noted, and the others are read all the same.
///
/// # Errors
/// The line that ends strict reading.
pub fn next_of(
    replay: &mut ReplayReader,
    failed: &mut Vec<ReplayError>,
    batch: &mut Samples,
    epoch: u64,
) -> Result<bool, ReadingError> {
    match replay.next_batch(batch, epoch) {
        Err(error) if !error.is_strict() => {
            failed.push(error);
            Ok(true)
        }
        more => Ok(more?),
    }
}

/// What reading came to, where some inputs failed: all but the last failure are told here.
///
/// # Errors
/// What ended reading, else the last failure.
pub fn all_read<T, E: From<ReplayError>>(done: Result<T, E>, mut failed: Vec<ReplayError>) -> Result<T, E> {
    let last = if done.is_ok() { failed.pop() } else { None };
    failed.iter().for_each(|error| eprintln!("tidewatch: {error}"));
    match last {
        Some(error) => Err(error.into()),
        None => done,
    }
}

/// Prints what was odd in files, and the first lines that were refused, on standard error.
pub fn show(summary: &ReplaySummary) {
    summary.warnings.iter().for_each(|warning| eprintln!("warning: {warning}"));
    summary.first.iter().for_each(|bad| eprintln!("{bad}"));
}

/// Ends epochs of a file: docs/semantics.md, Files.
pub struct EpochCut {
    /// The log.
    pub journal: Journal,
    /// How far the input may be behind its end, with `live_order`.
    pub idle_timeout_ms: i64,
    /// Whether times follow the input.
    pub live_order: bool,
    /// Samples of the input that are beyond the limits on series: with `live_order` they count for where epochs end.
    pub beyond: Arc<SeriesLimitHit>,
    requested_end: RequestedEnd,
}

/// The end of an epoch that was asked for last.
#[derive(Clone, Default)]
pub struct RequestedEnd(Arc<Mutex<Option<DurableFuture>>>);

impl RequestedEnd {
    /// Waits until it is durable, or cannot become so any more.
    pub fn wait(&self) {
        if let Some(synced) = self.0.lock().take() {
            // Whoever asks for the last end is told what went wrong.
            let _ = synced.blocking_recv();
        }
    }
}

impl EpochCut {
    /// Ends epochs of this journal.
    pub fn new(journal: Journal, idle_timeout_ms: i64, live_order: bool) -> EpochCut {
        EpochCut {
            journal,
            idle_timeout_ms,
            live_order,
            beyond: Arc::default(),
            requested_end: RequestedEnd::default(),
        }
    }

    /// The end of an epoch that was asked for last.
    pub fn requested_end(&self) -> RequestedEnd {
        self.requested_end.clone()
    }

    /// An epoch is full; the input has come to this time.
    pub fn full(&self, highest_ms: Option<i64>) -> Result<(), ReadingError> {
        let last = self
            .journal
            .last_epoch_end()
            .map_or((i64::MIN, i64::MIN), |end| (end.processing_ms, end.watermark_ms));
        let highest_ms = highest_ms.max(self.beyond.highest_ms()).filter(|_| self.live_order);
        let upto = highest_ms.map_or(i64::MIN, |at| at - self.idle_timeout_ms);
        // Not waited for: the cut after the last waits for all.
        let synced = self.journal.cut(last.0.max(upto), last.1.max(upto), false)?;
        *self.requested_end.0.lock() = Some(synced);
        Ok(())
    }

    /// The input has ended; returns the number of the last epoch once it is durable.
    ///
    /// The times of the end are those of an epoch without samples: one with samples would have heard their series
    /// just now, so which series silence closes would depend on the order of the file.
    pub fn last(&self, highest_ms: Option<i64>) -> Result<u64, ReadingError> {
        self.full(highest_ms)?;
        let last = self
            .journal
            .last_epoch_end()
            .map_or((i64::MIN, i64::MIN), |end| (end.processing_ms, end.watermark_ms));
        let upto = highest_ms.unwrap_or(i64::MIN);
        self.durably(last.0.max(upto), last.1.max(upto), true)
    }

    /// Reading has stopped before the end of the input: as after a kill, time stays where it is.
    pub fn stop(&self) -> Result<u64, ReadingError> {
        self.durably(i64::MIN, i64::MIN, false)
    }

    fn durably(
        &self,
        processing_ms: i64,
        watermark_ms: i64,
        last_of_input: bool,
    ) -> Result<u64, ReadingError> {
        let synced = self.journal.cut(processing_ms, watermark_ms, last_of_input)?;
        let synced = synced.blocking_recv().map_err(|_| ReadingError::JournalEnded)?;
        synced.map_err(ReadingError::JournalFailed)?;
        Ok(self.journal.last_epoch_end().map_or(0, |end| end.epoch))
    }
}

/// Which samples are taken, and what was.
#[derive(Clone, Debug)]
pub struct TimeBounds {
    /// Inclusive bounds, Unix milliseconds.
    pub bounds: (i64, i64),
    /// Samples taken.
    pub taken: u64,
    /// Samples outside the bounds, left out.
    pub outside: u64,
    /// The highest time taken.
    pub highest_ms: Option<i64>,
}

impl TimeBounds {
    /// Takes what is from `first_ms` to `last_ms`, inclusive.
    pub fn new(first_ms: Option<i64>, last_ms: Option<i64>) -> TimeBounds {
        let bounds = (first_ms.unwrap_or(i64::MIN), last_ms.unwrap_or(i64::MAX));
        TimeBounds { bounds, taken: 0, outside: 0, highest_ms: None }
    }

    /// Leaves out what is outside.
    fn limit(&mut self, batch: &mut Samples) {
        let (first, last) = self.bounds;
        let n = batch.len();
        if !batch.at_ms.iter().all(|at| (first..=last).contains(at)) {
            let all = std::mem::replace(batch, Samples::of_bootstrap(batch.bootstrap));
            for i in (0..n).filter(|i| (first..=last).contains(&all.at_ms[*i])) {
                batch.push(all.series[i], all.at_ms[i], all.value[i]);
            }
        }
        self.taken += batch.len() as u64;
        self.outside += (n - batch.len()) as u64;
        self.highest_ms = self.highest_ms.max(batch.at_ms.iter().copied().max());
    }
}

/// Reads to the end of the input: what `span` takes goes into the journal, epoch by epoch. `tick` is called after each
/// batch with the samples taken so far.
pub fn read<E: From<ReadingError>>(
    next: &mut NextBatch<'_, E>,
    cut: &EpochCut,
    span: &mut TimeBounds,
    source: &'static str,
    tick: &mut dyn FnMut(u64) -> Result<(), E>,
) -> Result<(), E> {
    let (mut batch, mut in_epoch, mut beyond) = (Samples::default(), 0, 0);
    loop {
        let more = next(&mut batch);
        span.limit(&mut batch);
        // Also what came before an error: who mends that line and starts again knows what is in.
        // An epoch is exactly EPOCH_SAMPLES, wherever batches end.
        let mut from = 0;
        while from < batch.len() {
            let to = batch.len().min(from + EPOCH_SAMPLES - in_epoch);
            let part = batch.part(from..to);
            cut.journal.append_blocking(part, source).map_err(ReadingError::from)?;
            in_epoch += to - from;
            from = to;
            if in_epoch == EPOCH_SAMPLES {
                cut.full(span.highest_ms)?;
                in_epoch = 0;
            }
        }
        batch.clear();
        if cut.live_order {
            in_epoch += (cut.beyond.count() - std::mem::replace(&mut beyond, cut.beyond.count())) as usize;
            if in_epoch >= EPOCH_SAMPLES {
                cut.full(span.highest_ms)?;
                in_epoch = 0;
            }
        }
        tick(span.taken)?;
        if !more? {
            return Ok(());
        }
    }
}
