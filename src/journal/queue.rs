//! The queue between those who append and the writer. Its lock is held for moments only, never over a disk access.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard};
use tidewatch_dataflows::sample::{Control, EpochEnd, Samples};
use tokio::sync::oneshot;

use super::{EpochCutter, FailureHook, JournalOptions, LOG, QueueError};
use crate::metrics::{Gauge, Metrics, QueueLabels as QueueLabel};
use crate::segments::{DurablePosition, SegmentTrimmer, Segments};

/// Samples after which a group commit takes no further batch: about 5 MB, some milliseconds.
const COMMIT_SAMPLES: usize = 131_072;
/// Bytes a sample takes on disk, about; to see `bytes_max` coming.
const SAMPLE_BYTES: u64 = 20;

pub(super) type CommitCallback = oneshot::Sender<Result<(), String>>;

/// What waits for the writer.
pub(super) enum Item {
    /// Samples, and who waits for them.
    Samples { samples: Samples, source: &'static str, done: Option<CommitCallback> },
    /// What is no sample, and who waits for it.
    Control { control: Control, done: CommitCallback },
    /// An epoch end, after what was queued before it.
    Cut { processing_ms: i64, watermark_ms: i64, last_of_input: bool, done: CommitCallback },
}

impl Item {
    fn samples(&self) -> usize {
        match self {
            Item::Samples { samples, .. } => samples.len(),
            // On disk they take half of what a sample takes.
            Item::Control { control: Control::Types(types), .. } => types.len(),
            Item::Control { .. } | Item::Cut { .. } => 0,
        }
    }

    /// Who waits for it.
    fn done(self) -> Option<CommitCallback> {
        match self {
            Item::Samples { done, .. } => done,
            Item::Control { done, .. } | Item::Cut { done, .. } => Some(done),
        }
    }
}

pub(super) enum QueueState {
    Running,
    /// Write what is queued, end the epoch, stop.
    Closing,
    /// Stop at once: all handles are gone.
    Abandoned,
    Closed,
    Failed(String),
}

struct CommitQueue {
    items: VecDeque<Item>,
    samples: usize,
    /// Samples that the writer has taken and not yet made durable: in neither `samples` nor the bytes on disk.
    writing: usize,
    state: QueueState,
    /// Why nothing is taken at the moment.
    stalled: Option<String>,
    poked: bool,
}

/// What the handles and the writer share.
pub(super) struct QueueShared {
    queue: Mutex<CommitQueue>,
    /// There is something for the writer.
    work: Condvar,
    /// There may be room in the queue.
    room: Condvar,
    batches_max: usize,
    samples_max: usize,
    bytes_max: u64,
    pub(super) durable: Arc<DurablePosition>,
    pub(super) current_epoch: AtomicU64,
    /// Bytes of the segment being written; those before it know theirs.
    current_bytes: AtomicU64,
    earlier: SegmentTrimmer,
    pub(super) last_end: Mutex<Option<EpochEnd>>,
    metrics: Arc<Metrics>,
    depth: Gauge,
    on_failed: Option<FailureHook>,
}

impl QueueShared {
    pub(super) fn new(
        config: &JournalOptions,
        segments: &Segments,
        cutter: &EpochCutter,
        metrics: &Arc<Metrics>,
    ) -> QueueShared {
        QueueShared {
            queue: Mutex::new(CommitQueue {
                items: VecDeque::new(),
                samples: 0,
                writing: 0,
                state: QueueState::Running,
                stalled: None,
                poked: false,
            }),
            work: Condvar::new(),
            room: Condvar::new(),
            batches_max: config.queue_batches,
            samples_max: config.queue_samples,
            bytes_max: config.bytes_max,
            durable: Arc::new(DurablePosition::new(segments.end(), cutter.last().map(|end| end.epoch))),
            current_epoch: AtomicU64::new(cutter.current_epoch()),
            current_bytes: AtomicU64::new(segments.current_bytes()),
            earlier: segments.trimmer(),
            last_end: Mutex::new(cutter.last()),
            depth: metrics.queue_depth.get_or_create(&QueueLabel { queue: LOG }).clone(),
            metrics: metrics.clone(),
            on_failed: config.on_failed.clone(),
        }
    }

    /// Bytes on disk.
    pub(super) fn bytes(&self) -> u64 {
        self.earlier.bytes() + self.current_bytes.load(Relaxed)
    }

    /// Queues `item`; waits for room if `wait`.
    pub(super) fn offer(&self, item: Item, wait: bool) -> Result<(), QueueError> {
        let samples = item.samples();
        let mut queue = self.lock();
        loop {
            match &queue.state {
                QueueState::Running => {}
                QueueState::Failed(why) => return Err(QueueError::Failed(why.clone())),
                QueueState::Closing | QueueState::Abandoned | QueueState::Closed => {
                    return Err(QueueError::Closed);
                }
            }
            if let Some(why) = &queue.stalled {
                return Err(QueueError::Stalled(why.clone()));
            }
            let coming = (queue.samples + queue.writing + samples) as u64 * SAMPLE_BYTES;
            let bytes = self.bytes();
            // Epoch ends and those of bootstraps are taken even then: they let what is there be computed.
            if bytes + coming > self.bytes_max && samples > 0 {
                self.metrics.limit("journal.bytes_max");
                return Err(QueueError::BytesMax { bytes, bytes_max: self.bytes_max });
            }
            let fits = queue.items.len() < self.batches_max && queue.samples + samples <= self.samples_max;
            if fits || queue.items.is_empty() {
                break;
            }
            if !wait {
                self.metrics.limit("journal.queue");
                let (batches, samples) = (queue.items.len(), queue.samples);
                let (batches_max, samples_max) = (self.batches_max, self.samples_max);
                return Err(QueueError::Full { batches, batches_max, samples, samples_max });
            }
            self.room.wait(&mut queue);
        }
        queue.samples += samples;
        queue.items.push_back(item);
        self.depth.set(queue.samples as i64);
        drop(queue);
        self.work.notify_one();
        Ok(())
    }

    /// Everything taken from the queue is written, and that is how large the last segment is now.
    pub(super) fn written(&self, current_bytes: u64) {
        let mut queue = self.lock();
        queue.writing = 0;
        self.current_bytes.store(current_bytes, Relaxed);
    }

    /// Nothing is taken from now on; whoever waits hears why.
    pub(super) fn stall(&self, why: &str) {
        let mut queue = self.lock();
        queue.stalled = Some(why.to_owned());
        let waiting = std::mem::take(&mut queue.items);
        (queue.samples, queue.writing) = (0, 0);
        drop(queue);
        self.depth.set(0);
        self.room.notify_all();
        answer(waiting.into_iter().filter_map(Item::done), &Err(why.to_owned()));
    }

    /// The disk takes something again.
    pub(super) fn resume(&self) {
        self.lock().stalled = None;
    }

    pub(super) fn stalled(&self) -> Option<String> {
        let queue = self.lock();
        queue.stalled.clone().filter(|_| matches!(queue.state, QueueState::Running | QueueState::Closing))
    }

    pub(super) fn failed(&self) -> Option<String> {
        match &self.lock().state {
            QueueState::Failed(why) => Some(why.clone()),
            _ => None,
        }
    }

    /// Asks the writer to finish.
    pub(super) fn close(&self) {
        self.leave(QueueState::Closing);
    }

    /// Asks the writer to stop at once.
    pub(super) fn abandon(&self) {
        self.leave(QueueState::Abandoned);
    }

    fn leave(&self, state: QueueState) {
        let mut queue = self.lock();
        if matches!(queue.state, QueueState::Running) {
            queue.state = state;
        }
        drop(queue);
        self.work.notify_one();
        self.room.notify_all();
    }

    #[cfg(test)]
    pub(super) fn poke(&self) {
        self.lock().poked = true;
        self.work.notify_one();
    }

    /// What is queued, for one commit; nothing after `wait`, or when the journal closes.
    pub(super) fn take(&self, wait: Option<Duration>) -> CommitBatch {
        let begun = Instant::now();
        let mut queue = self.lock();
        loop {
            if matches!(queue.state, QueueState::Abandoned) {
                return CommitBatch { items: Vec::new(), stop: Some(QueueStop::Now) };
            }
            if !queue.items.is_empty() {
                break;
            }
            if matches!(queue.state, QueueState::Closing) {
                return CommitBatch { items: Vec::new(), stop: Some(QueueStop::Finish) };
            }
            if std::mem::take(&mut queue.poked) {
                return CommitBatch::default();
            }
            let Some(wait) = wait else {
                self.work.wait(&mut queue);
                continue;
            };
            let Some(left) = wait.checked_sub(begun.elapsed()).filter(|left| !left.is_zero()) else {
                return CommitBatch::default();
            };
            self.work.wait_for(&mut queue, left);
        }
        let (mut items, mut samples) = (Vec::new(), 0);
        while samples < COMMIT_SAMPLES
            && let Some(item) = queue.items.pop_front()
        {
            samples += item.samples();
            items.push(item);
        }
        queue.samples -= samples;
        queue.writing += samples;
        self.depth.set(queue.samples as i64);
        drop(queue);
        self.room.notify_all();
        CommitBatch { items, stop: None }
    }

    /// Ends the writer's work; with a reason the journal has failed and all who wait hear it.
    pub(super) fn end(&self, state: QueueState) {
        let mut queue = self.lock();
        let waiting = std::mem::take(&mut queue.items);
        queue.samples = 0;
        let why = match &state {
            QueueState::Failed(why) => why.clone(),
            _ => "the journal is closed".to_owned(),
        };
        let failed = matches!(state, QueueState::Failed(_));
        queue.state = state;
        drop(queue);
        self.depth.set(0);
        self.durable.close();
        self.room.notify_all();
        answer(waiting.into_iter().filter_map(Item::done), &Err(why.clone()));
        if let Some(on_failed) = self.on_failed.as_ref().filter(|_| failed) {
            on_failed(&why);
        }
    }

    fn lock(&self) -> MutexGuard<'_, CommitQueue> {
        self.queue.lock()
    }
}

pub(super) fn answer(waiting: impl Iterator<Item = CommitCallback>, result: &Result<(), String>) {
    for done in waiting {
        // Whoever has stopped waiting does not need the answer.
        let _ = done.send(result.clone());
    }
}

#[derive(Default)]
pub(super) struct CommitBatch {
    pub(super) items: Vec<Item>,
    pub(super) stop: Option<QueueStop>,
}

#[derive(PartialEq, Eq)]
pub(super) enum QueueStop {
    Finish,
    Now,
}

/// If the writer panics, nobody may wait for it.
pub(super) struct EndOnPanic(pub(super) Arc<QueueShared>);

impl Drop for EndOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.end(QueueState::Failed("the journal's writer panicked".to_owned()));
        }
    }
}
