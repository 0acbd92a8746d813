//! The supervisor: one thread that runs generation after generation until the journal is closed and computed.
//!
//! A panic ends a generation, and the next one begins in the same process while API and intake go on. Restarts wait
//! longer each time, are counted, and are bounded: after [`RESTARTS_MAX`] within [`WITHIN`] the process is the next
//! thing to start anew.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use tidewatch_dataflows::graph::Sizes;

use super::generation::{Ended, Generation, JOIN_MAX, Panicked, Shared, Signals, Thread};
use super::{EngineError, OnFatal, PATIENCE, Progress, Restarted};
use crate::journal::Journal;
use crate::metrics::Restart;

/// Restarts within [`WITHIN`] that the engine tries; the next panic ends the process.
pub(super) const RESTARTS_MAX: usize = 8;
/// The time in which restarts are counted; without a panic in it the first wait is short again.
pub(super) const WITHIN: Duration = Duration::from_mins(10);
/// The wait before the first restart; it doubles with each that follows.
const BACKOFF_MIN: Duration = Duration::from_millis(100);
/// The longest wait before a restart.
const BACKOFF_MAX: Duration = Duration::from_secs(10);

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
    pub(super) shared: Shared,
    pub(super) journal: Journal,
    pub(super) quit: Arc<AtomicBool>,
    pub(super) closing: Arc<AtomicBool>,
    pub(super) on_fatal: OnFatal,
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
        let mut after = None;
        loop {
            let upto = self.journal.last_epoch_end().map_or(0, |end| end.epoch);
            self.shared.progress.begin(after.take(), upto);
            let signals = Signals::new(&self.quit, &self.closing);
            let panicked = match Generation::run(&self.shared, &self.journal, signals) {
                Ended::Done => return Ok(()),
                Ended::Failed(error) => return Err(error),
                Ended::Stuck(threads, after) => return Err(stuck(&threads, after)),
                Ended::Panicked(panicked) => panicked,
            };
            if self.leaving() {
                // Everything acknowledged is in the journal; the next start computes it.
                tracing::error!("{panicked}; the rest of the journal is computed at the next start");
                return Ok(());
            }
            if self.shared.outbox.is_poisoned() {
                return Err(EngineError::OutboxPanic { message: panicked.to_string() });
            }
            self.restart(&mut restarts, &panicked)?;
            after = Some(panicked.to_string());
        }
    }

    /// Counts, tells and waits; an error if there were too many restarts.
    fn restart(&self, restarts: &mut Restarts, panicked: &Panicked) -> Result<(), EngineError> {
        let cause = Restart { cause: panicked.thread.kind() };
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
            if left.is_zero() {
                break;
            }
            std::thread::sleep(left.min(PATIENCE));
        }
        Ok(())
    }

    fn leaving(&self) -> bool {
        self.quit.load(Ordering::Relaxed) || self.closing.load(Ordering::Relaxed)
    }
}

fn stuck(threads: &[Thread], after: String) -> EngineError {
    let threads: Vec<String> = threads.iter().map(ToString::to_string).collect();
    EngineError::Stuck { threads: threads.join(", "), after, seconds: JOIN_MAX.as_secs() }
}

impl Progress {
    /// A generation begins, after this panic, and has its state again once it has computed `upto`.
    fn begin(&self, after: Option<String>, upto: u64) {
        if let Some(after) = after {
            let mut restarted = self.restarted.lock().unwrap_or_else(PoisonError::into_inner);
            *restarted = Some(Restarted { after, upto });
        }
        let Sizes { bytes, series, .. } = &*self.sizes;
        // What a generation held is gone with it.
        bytes.iter().chain([series]).for_each(|size| size.store(0, Ordering::Relaxed));
        self.computed.store(0, Ordering::Release);
        self.upto.store(upto, Ordering::Release);
        self.generation.fetch_add(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
