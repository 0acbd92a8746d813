//! The supervisor: one thread that runs generation after generation until the journal is closed and computed.
//!
//! A panic ends a generation, and the next one begins in the same process while API and intake go on. Restarts wait
//! longer each time, are counted, and are bounded. A series that panics the same epoch twice is quarantined. After [`RESTARTS_MAX`] within [`WITHIN`] the process is the next
//! thing to start anew.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tidewatch_dataflows::graph::Sizes;
use tidewatch_dataflows::sample::{Control, SeriesId};

use super::error::{EngineError, QUARANTINED_MAX, RESTARTS_MAX, WITHIN};
use super::generation::{Generation, GenerationEnd, JOIN_MAX};
use super::listeners::{OnFatal, OnQuarantine};
use super::progress::{EngineProgress, EngineRestart};
use super::shared::EngineShared;
use super::thread::{PATIENCE, Signals, Thread, ThreadPanic};
use crate::journal::{Journal, QuarantineEntry, QueueError};
use crate::metrics::RestartLabels;
use crate::snapshots::Snapshots;

/// The wait before the first restart; it doubles with each that follows.
const BACKOFF_MIN: Duration = Duration::from_millis(100);
/// The longest wait before a restart.
const BACKOFF_MAX: Duration = Duration::from_secs(10);

/// How often it is looked whether the snapshots under way are written.
const IDLE_TIMEOUT: Duration = Duration::from_millis(5);

/// Panics remembered, to know them again.
const SUSPECTS_MAX: usize = 64;
/// Attempts to write a quarantine into a journal whose queue is full, [`PATIENCE`] apart.
const ATTEMPTS: usize = 50;

/// When the engine was restarted lately.
#[derive(Default)]
struct Restarts(VecDeque<Instant>);

impl Restarts {
    /// How long to wait before the restart after a panic `now`; none if there were too many.
    fn next(&mut self, now: Instant) -> Option<Duration> {
        while self.0.pop_front_if(|at| now.duration_since(*at) >= WITHIN).is_some() {}
        if self.0.len() >= RESTARTS_MAX {
            return None;
        }
        let wait = BACKOFF_MIN.saturating_mul(1 << self.0.len()).min(BACKOFF_MAX);
        self.0.push_back(now);
        Some(wait)
    }
}

/// Runs the generations of an engine.
pub(super) struct Supervisor {
    pub(super) shared: EngineShared,
    pub(super) journal: Journal,
    pub(super) quarantined: OnQuarantine,
    pub(super) quit: Arc<AtomicBool>,
    pub(super) closing: Arc<AtomicBool>,
    pub(super) on_fatal: OnFatal,
}

/// Panics that were met once, by epoch and series: the second time is no accident.
#[derive(Default)]
struct Suspects(VecDeque<(u64, SeriesId)>);

impl Suspects {
    /// Whether this is the second time.
    fn again(&mut self, at: (u64, SeriesId)) -> bool {
        if let Some(place) = self.0.iter().position(|known| *known == at) {
            self.0.remove(place);
            return true;
        }
        self.0.push_back(at);
        if self.0.len() > SUSPECTS_MAX {
            self.0.pop_front();
        }
        false
    }
}

impl Supervisor {
    /// Runs until the journal is closed and computed, or until the process has to end.
    pub(super) fn run(self) {
        let ended = self.generations();
        self.shared.questions.end();
        if let Err(error) = ended {
            (self.on_fatal)(error);
        }
    }

    fn generations(&self) -> Result<(), EngineError> {
        let mut restarts = Restarts::default();
        let mut suspects = Suspects::default();
        let mut after = None;
        loop {
            let upto = self.journal.last_epoch_end().map_or(0, |end| end.epoch);
            self.shared.progress.begin(after.take(), upto);
            let signals = Signals::new(&self.quit, &self.closing);
            let panicked = match Generation::run(&self.shared, &self.journal, signals) {
                GenerationEnd::Done => return Ok(()),
                GenerationEnd::Failed(error) => return Err(error),
                GenerationEnd::Stuck(threads, after) => return Err(stuck(&threads, after)),
                GenerationEnd::Panicked(panicked) => panicked,
            };
            if self.leaving() {
                // Everything acknowledged is in the journal; the next start computes it.
                tracing::error!("{panicked}; the rest of the journal is computed at the next start");
                return Ok(());
            }
            if self.shared.outbox.is_poisoned() {
                return Err(EngineError::OutboxPanic { message: panicked.to_string() });
            }
            let at = self.at(panicked.thread);
            if let Some((epoch, series)) = at.filter(|at| suspects.again(*at)) {
                self.quarantine(epoch, series, &panicked)?;
            }
            let panicked = ThreadPanic { message: describe(panicked.message, at), ..panicked };
            self.restart(&mut restarts, &panicked)?;
            after = Some(panicked.to_string());
        }
    }

    /// Counts, tells and waits; an error if there were too many restarts.
    fn restart(&self, restarts: &mut Restarts, panicked: &ThreadPanic) -> Result<(), EngineError> {
        let cause = RestartLabels { cause: panicked.thread.kind() };
        self.shared.metrics.engine_restarts.get_or_create(&cause).inc();
        let Some(wait) = restarts.next(Instant::now()) else {
            self.shared.metrics.limit("engine.restarts");
            return Err(EngineError::TooManyRestarts { message: panicked.to_string() });
        };
        tracing::error!("{panicked}; the engine is built anew in {wait:?} and computes its state again");
        let upto = self.journal.last_epoch_end().map_or(0, |end| end.epoch);
        self.shared.progress.begin(Some(panicked.to_string()), upto);
        let begun = Instant::now();
        while !self.leaving() {
            let left = wait.saturating_sub(begun.elapsed());
            // What the generation that is over had saved is written first: the next one begins with what is durable, and
            // a save that came between two of its own would not continue the one before.
            let settled = self.shared.snapshots.as_ref().is_none_or(Snapshots::is_settled);
            if left.is_zero() && settled {
                break;
            }
            if begun.elapsed() > wait + JOIN_MAX {
                return Err(stuck(&["snapshots"], panicked.to_string()));
            }
            std::thread::sleep(if left.is_zero() { IDLE_TIMEOUT } else { left.min(PATIENCE) });
        }
        Ok(())
    }

    /// The epoch and the series that a worker was at.
    fn at(&self, thread: Thread) -> Option<(u64, SeriesId)> {
        let Thread::Worker(index) = thread else { return None };
        let (epoch, series) = self.shared.progress.positions.get(index)?.now()?;
        Some((epoch, series?))
    }

    /// Keeps a series out from this epoch on, in the journal first. If the journal does not take it, the panic comes again.
    fn quarantine(&self, epoch: u64, series: SeriesId, panicked: &ThreadPanic) -> Result<(), EngineError> {
        let known = || self.shared.progress.quarantined.lock();
        if known().len() >= QUARANTINED_MAX {
            self.shared.metrics.limit("engine.quarantined");
            return Err(EngineError::QuarantineFull { message: panicked.to_string() });
        }
        let control = Control::Quarantine { series: series.0, epoch };
        let mut written = Err("the journal's queue stays full".to_owned());
        for _ in 0..ATTEMPTS {
            match self.journal.try_control(control.clone()) {
                Ok(synced) => {
                    let synced = synced.blocking_recv();
                    written = synced.unwrap_or_else(|_| Err("the journal is gone".to_owned()));
                    break;
                }
                Err(QueueError::Full { .. }) if !self.leaving() => std::thread::sleep(PATIENCE),
                Err(refused) => {
                    written = Err(refused.to_string());
                    break;
                }
            }
        }
        match written {
            Ok(()) => {
                known().push(QuarantineEntry { series: series.0, epoch, lifted: false });
                (self.quarantined)(series, &panicked.to_string());
            }
            Err(why) => tracing::error!("series {series} cannot be quarantined: {why}"),
        }
        Ok(())
    }

    fn leaving(&self) -> bool {
        self.quit.load(Ordering::Relaxed) || self.closing.load(Ordering::Relaxed)
    }
}

/// A panic's words, and where it was.
fn describe(message: String, at: Option<(u64, SeriesId)>) -> String {
    at.map_or(message.clone(), |(epoch, series)| format!("{message}, at series {series} of epoch {epoch}"))
}

fn stuck(threads: &[impl ToString], after: String) -> EngineError {
    let threads: Vec<String> = threads.iter().map(ToString::to_string).collect();
    EngineError::Stuck { threads: threads.join(", "), after, seconds: JOIN_MAX.as_secs() }
}

impl EngineProgress {
    /// A generation begins, after this panic, and has its state again once it has computed `upto`.
    fn begin(&self, after: Option<String>, upto: u64) {
        if let Some(after) = after {
            let mut restarted = self.restarted.lock();
            *restarted = Some(EngineRestart { after, upto });
        }
        let Sizes { bytes, series } = &*self.sizes;
        // What a generation held is gone with it.
        bytes.iter().chain([series]).for_each(|size| size.store(0, Ordering::Relaxed));
        self.positions.iter().for_each(|position| position.rest());
        self.computed.store(0, Ordering::Release);
        self.upto.store(upto, Ordering::Release);
        self.generation.fetch_add(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_panic_at_the_same_place_is_no_accident() {
        let mut suspects = Suspects::default();
        let (a, b) = ((7, SeriesId(1)), (8, SeriesId(1)));
        assert_eq!([a, b, a, a, a].map(|at| suspects.again(at)), [false, false, true, false, true]);
        (0..SUSPECTS_MAX as u64).for_each(|epoch| assert!(!suspects.again((100 + epoch, SeriesId(2)))));
        assert!(!suspects.again(b), "it was too long ago");
    }

    #[test]
    fn restarts_wait_longer_each_time_and_are_bounded() {
        let mut restarts = Restarts::default();
        let now = Instant::now();
        let waits: Vec<u128> = (0..RESTARTS_MAX).map(|_| restarts.next(now).unwrap().as_millis()).collect();
        assert_eq!(waits, [100, 200, 400, 800, 1_600, 3_200, 6_400, 10_000]);
        assert_eq!(restarts.next(now + WITHIN / 2), None);
        assert_eq!(restarts.next(now + WITHIN), Some(BACKOFF_MIN));
        assert_eq!(restarts.next(now + WITHIN), Some(BACKOFF_MIN * 2));
    }
}
