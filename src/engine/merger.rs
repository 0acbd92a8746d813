//! The merger: takes each epoch from all workers, sorts it, and makes it durable in the outbox.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};

use tidewatch_dataflows::outcome::Outcomes;
use tidewatch_dataflows::sample::{EpochEnd, Reason};

use super::busy::Busy;
use super::{Freed, PATIENCE, Progress};
use crate::metrics::{Metrics, Queue, Rejected};
use crate::outbox::{Outbox, OutboxError};

/// Epochs written to the outbox between two syncs, at most.
const EPOCHS_PER_SYNC: u32 = 64;

/// Merges the workers' outcomes epoch by epoch into the outbox.
pub(super) struct Merger {
    pub(super) outbox: Outbox,
    pub(super) progress: Arc<Progress>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) busy: Arc<Busy>,
    pub(super) quit: Arc<AtomicBool>,
    pub(super) closing: Arc<AtomicBool>,
    pub(super) freed: Box<dyn FnMut(Freed) + Send>,
}

impl Merger {
    pub(super) fn run(mut self, workers: &[Receiver<(EpochEnd, Outcomes)>]) -> Result<(), OutboxError> {
        let mut unsynced = 0;
        let mut waiting = None;
        while let Some((end, mut all)) = waiting.take().or_else(|| self.receive(&workers[0])) {
            for worker in &workers[1..] {
                let Some((_, mut more)) = self.receive(worker) else { return self.outbox.sync() };
                all.append(&mut more);
            }
            all.settle();
            if !self.hand_over(end, all)? {
                self.quit.store(true, Ordering::Relaxed);
                break;
            }
            unsynced += 1;
            waiting = workers[0].try_recv().ok();
            if waiting.is_none() || unsynced >= EPOCHS_PER_SYNC {
                self.outbox.sync()?;
                unsynced = 0;
                self.progress.epoch.store(end.epoch, Ordering::Relaxed);
                self.progress.stream_ms.store(end.stream_ms, Ordering::Relaxed);
                self.busy.publish(&self.metrics);
                let depth = self.metrics.queue_depth.get_or_create(&Queue { queue: "outbox" });
                depth.set(i64::from(waiting.is_some()));
            }
        }
        self.outbox.sync()
    }

    /// The next epoch of a worker; `None` when it has ended or the engine is to quit.
    fn receive(&self, worker: &Receiver<(EpochEnd, Outcomes)>) -> Option<(EpochEnd, Outcomes)> {
        loop {
            match worker.recv_timeout(PATIENCE) {
                Ok(epoch) => return Some(epoch),
                Err(RecvTimeoutError::Timeout) if !self.quit.load(Ordering::Relaxed) => {}
                Err(_) => return None,
            }
        }
    }

    /// Whether the outbox took the epoch: not if it is full and the engine is to end.
    fn hand_over(&mut self, end: EpochEnd, all: Outcomes) -> Result<bool, OutboxError> {
        // What the outbox holds already needs no room: after a restart state is built up to its end all the same.
        while self.outbox.last_epoch().is_none_or(|last| last < end.epoch) && self.outbox.full() {
            if self.quit.load(Ordering::Relaxed) || self.closing.load(Ordering::Relaxed) {
                return Ok(false);
            }
            if !self.progress.outbox_full.swap(true, Ordering::Relaxed) {
                self.metrics.limit("outbox.bytes_max");
                // Sinks see what is synced only, and room comes from them.
                self.outbox.sync()?;
                tracing::error!(
                    "the outbox is at its bound outbox.bytes_max; nothing is computed until there is room"
                );
            }
            std::thread::sleep(PATIENCE);
        }
        self.progress.outbox_full.store(false, Ordering::Relaxed);
        if self.outbox.append(end.epoch, &all)? {
            self.count(&all);
        }
        self.progress.rows.fetch_add(all.windows.len() as u64, Ordering::Relaxed);
        if !all.freed.is_empty() {
            (self.freed)((end.epoch, all.freed));
        }
        Ok(true)
    }

    /// Counts an epoch that the outbox did not hold yet: what a restart computes again was counted before.
    fn count(&self, all: &Outcomes) {
        let (metrics, counts) = (&self.metrics, &all.counts);
        metrics.applied.inc_by(counts.applied);
        metrics.late.inc_by(counts.late);
        metrics.stale_markers.inc_by(counts.stale_markers);
        metrics.corrections.inc_by(counts.corrections);
        for (reason, n) in Reason::ALL.into_iter().zip(counts.rejected).filter(|(_, n)| *n > 0) {
            let label = Rejected { source: "journal", gate: "admit", reason: reason.as_str() };
            metrics.rejected.get_or_create(&label).inc_by(n);
            if reason == Reason::LateRingFull {
                metrics.limit("limits.late_samples");
            }
        }
    }
}
