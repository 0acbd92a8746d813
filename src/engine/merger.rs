//! The merger: takes each epoch from all workers, sorts it, and makes it durable in the outbox.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};

use parking_lot::Mutex;
use tidewatch_dataflows::rows::Rows;
use tidewatch_dataflows::sample::{EpochEnd, Reason};
use tidewatch_dataflows::snapshot::{SnapshotPart, assemble};

use super::busy::Busy;
use super::error::EngineError;
use super::listeners::FreedSlots;
use super::progress::{BlockedOn, EngineProgress};
use super::thread::{PATIENCE, Signals};
use crate::faults::mutant;
use crate::metrics::{LogLabels, Metrics, QueueLabels, RejectLabels};
use crate::outbox::Outbox;
use crate::snapshots::Snapshots;

const LOG: LogLabels = LogLabels { log: "outbox" };
/// Epochs written to the outbox between two syncs, at most.
const EPOCHS_PER_SYNC: u32 = 64;

/// Who is told of freed slots, by one generation after the other.
pub(super) type FreedHook = Arc<Mutex<Box<dyn FnMut(FreedSlots) + Send>>>;

/// Merges the workers' outcomes epoch by epoch into the outbox.
pub(super) struct Merger {
    pub(super) outbox: Arc<std::sync::Mutex<Outbox>>,
    pub(super) progress: Arc<EngineProgress>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) busy: Arc<Busy>,
    pub(super) signals: Arc<Signals>,
    pub(super) freed: FreedHook,
    pub(super) snapshots: Option<Snapshots>,
    /// Parts of snapshots as of epochs that the outbox does not hold durably yet.
    pub(super) saved: Vec<SnapshotPart>,
}

impl Merger {
    /// Runs until the workers have ended, or the generation is over.
    pub(super) fn run(mut self, workers: &[Receiver<(EpochEnd, Rows)>]) -> Result<(), EngineError> {
        let mut unsynced = 0;
        let mut waiting = None;
        while let Some((end, mut all)) = waiting.take().or_else(|| self.receive(&workers[0])) {
            for worker in &workers[1..] {
                let Some((theirs, mut more)) = self.receive(worker) else { return self.show() };
                if theirs != end {
                    return Err(EngineError::EpochsDiffer { first: end.epoch, other: theirs.epoch });
                }
                all.append(&mut more);
            }
            all.sort();
            self.saved.append(&mut all.saved);
            if !self.hand_over(end, all)? {
                // Nothing is lost: the next start computes it again.
                self.signals.poison();
                break;
            }
            unsynced += 1;
            waiting = workers[0].try_recv().ok();
            if waiting.is_none() || unsynced >= EPOCHS_PER_SYNC {
                if mutant(7)
                    && let Some(snapshots) = &self.snapshots
                {
                    snapshots.take(assemble(std::mem::take(&mut self.saved)));
                }
                self.outbox().sync()?;
                unsynced = 0;
                // Only now: a snapshot is never of an epoch that the outbox may still lose.
                let saved = assemble(std::mem::take(&mut self.saved));
                if let Some(snapshots) = &self.snapshots {
                    snapshots.take(saved);
                }
                self.done(end);
                self.busy.publish(&self.metrics);
                let depth = self.metrics.queue_depth.get_or_create(&QueueLabels { queue: "outbox" });
                depth.set(i64::from(waiting.is_some()));
            }
        }
        self.show()
    }

    /// Shows sinks what the outbox holds, unless it cannot be written now: then they see it later, or the next start
    /// computes it again.
    fn show(&self) -> Result<(), EngineError> {
        match self.outbox().sync() {
            Err(error) if error.is_transient() => Ok(()),
            done => Ok(done?),
        }
    }

    /// The outbox, for one call: a panic in it poisons the lock, and then nobody knows what it holds.
    fn outbox(&self) -> std::sync::MutexGuard<'_, Outbox> {
        self.outbox.lock().expect("after a panic in the outbox no generation follows")
    }

    /// This epoch and those before it are durable in the outbox.
    fn done(&self, end: EpochEnd) {
        // A generation after a panic begins with epochs that an earlier one has finished with.
        if self.progress.epoch.load(Ordering::Relaxed) <= end.epoch {
            self.progress.epoch.store(end.epoch, Ordering::Relaxed);
            self.progress.processing_ms.store(end.processing_ms, Ordering::Relaxed);
        }
    }

    /// The next epoch of a worker; `None` when it has ended or the generation is over.
    fn receive(&self, worker: &Receiver<(EpochEnd, Rows)>) -> Option<(EpochEnd, Rows)> {
        loop {
            match worker.recv_timeout(PATIENCE) {
                Ok(epoch) => return Some(epoch),
                Err(RecvTimeoutError::Timeout) if !self.signals.over() => {}
                Err(_) => return None,
            }
        }
    }

    /// Whether the outbox took the epoch: not if it is full and the engine is to end.
    fn hand_over(&mut self, end: EpochEnd, all: Rows) -> Result<bool, EngineError> {
        // What the outbox holds already needs no room: after a restart state is built up to its end all the same.
        let no_room = || {
            let outbox = self.outbox();
            outbox.last_epoch().is_none_or(|last| last < end.epoch) && outbox.full()
        };
        while no_room() {
            if self.signals.over() || self.signals.closing() {
                return Ok(false);
            }
            if self.block(BlockedOn::Full) {
                self.metrics.limit("outbox.bytes_max");
                // Sinks see what is synced only, and room comes from them.
                self.show()?;
                tracing::error!(
                    "the outbox is at its bound outbox.bytes_max; nothing is computed until there is room"
                );
            }
            std::thread::sleep(PATIENCE);
        }
        // Before any sink can see the epoch: whoever waited for it there may ask the workers.
        self.progress.computed.store(end.epoch, Ordering::Release);
        let Some(new) = self.append(end.epoch, &all)? else { return Ok(false) };
        if let Some(BlockedOn::Unwritable(_)) = self.progress.set_blocked_on(None) {
            self.metrics.log_stalled.get_or_create(&LOG).set(0);
            tracing::info!("the outbox can be written again");
        }
        if new {
            self.count(&all);
        }
        self.progress.steps.fetch_add(1, Ordering::Relaxed);
        self.progress.rows.fetch_add(all.windows.len() as u64, Ordering::Relaxed);
        if !all.freed.is_empty() {
            let mut freed = self.freed.lock();
            freed((end.epoch, all.freed));
        }
        Ok(true)
    }

    /// Appends an epoch, again and again while the disk takes no more; whether it is new. `None` if the engine is to end.
    fn append(&self, epoch: u64, all: &Rows) -> Result<Option<bool>, EngineError> {
        loop {
            // A lock for each attempt, so that others are served in between.
            let appended = self.outbox().append(epoch, all);
            match appended {
                Ok(new) => return Ok(Some(new)),
                Err(error) if error.is_transient() => {
                    if self.signals.over() || self.signals.closing() {
                        return Ok(None);
                    }
                    if self.block(BlockedOn::Unwritable(error.to_string())) {
                        self.metrics.log_stalls.get_or_create(&LOG).inc();
                        self.metrics.log_stalled.get_or_create(&LOG).set(1);
                        tracing::error!("{error}; nothing is computed until the outbox can be written again");
                        // Sinks go on with what there is.
                        self.show()?;
                    }
                    std::thread::sleep(PATIENCE);
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Says why the engine waits; whether it has not waited before.
    fn block(&self, why: BlockedOn) -> bool {
        self.progress.set_blocked_on(Some(why)).is_none()
    }

    /// Counts an epoch that the outbox did not hold yet: what a restart computes again was counted before.
    fn count(&self, all: &Rows) {
        let (metrics, counts) = (&self.metrics, &all.counts);
        metrics.applied.inc_by(counts.applied);
        metrics.late.inc_by(counts.late);
        metrics.stale_markers.inc_by(counts.stale_markers);
        metrics.corrections.inc_by(counts.corrections);
        metrics.slots_given.inc_by(counts.slots_given);
        metrics.slots_freed.inc_by(counts.slots_freed);
        for (reason, n) in Reason::ALL.into_iter().zip(counts.rejected).filter(|(_, n)| *n > 0) {
            metrics.rejected.get_or_create(&RejectLabels::admit(reason)).inc_by(n);
            if reason == Reason::LateRingFull {
                metrics.limit("limits.late_samples");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;
    use std::sync::mpsc::sync_channel;

    use super::*;
    use crate::outbox;

    fn end(epoch: u64) -> EpochEnd {
        EpochEnd { epoch, processing_ms: epoch as i64, watermark_ms: epoch as i64, last_of_input: false }
    }

    /// Were two epochs merged into one, the outbox would hold a mixture that no rerun gives.
    #[test]
    fn epochs_of_workers_that_differ_are_an_error_and_nothing_of_them_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let metrics = Arc::new(Metrics::new());
        let outbox =
            outbox::Outbox::open(folder.path(), outbox::OutboxOptions::default(), Arc::clone(&metrics))
                .unwrap();
        let outbox = Arc::new(std::sync::Mutex::new(outbox));
        let never: Arc<AtomicBool> = Arc::default();
        let merger = Merger {
            outbox: Arc::clone(&outbox),
            progress: Arc::new(EngineProgress::new(2, Vec::new(), 0)),
            metrics,
            busy: Arc::default(),
            signals: Arc::new(Signals::new(&never, &never)),
            freed: Arc::new(Mutex::new(Box::new(drop))),
            snapshots: None,
            saved: Vec::new(),
        };
        let (to, workers): (Vec<_>, Vec<_>) = (0..2).map(|_| sync_channel(4)).unzip();
        for (worker, epochs) in to.iter().zip([[1, 2], [1, 3]]) {
            epochs.iter().for_each(|epoch| worker.send((end(*epoch), Rows::default())).unwrap());
        }
        drop(to);
        let error = merger.run(&workers).unwrap_err();
        assert_eq!(error.to_string(), "a worker handed over epoch 3 while another one handed over epoch 2");
        assert!(error.restart_helps());
        assert_eq!(outbox.lock().unwrap().last_epoch(), Some(1));
    }
}
