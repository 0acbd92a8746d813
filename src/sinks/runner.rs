//! Runs one sink on a thread of its own: reads the outbox, batches, tries again, counts, and drains at the end.
//!
//! The thread ends when the outbox is closed and all of it is written, or when its handle is dropped. A sink that refuses
//! while the process is shutting down is waited for
//! [`RetryPolicy::drain_max`]; the next start goes on where it is.
//!
//! Not here: what a sink does with rows ([`super::sink`] is the contract).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;
use tidewatch_dataflows::rows::{KINDS, ResultRow, place_of};

use super::sink::{RowCounts, Sink, SinkError, SinkRecovery};
use crate::disk::DiskFolder;
use crate::metrics::{Metrics, QueueLabels, RowsLabels, SinkLabels};
use crate::outbox::{DurablePosition, OutboxBatch, OutboxError, Tail};

/// Rows of one batch, at most (one epoch is never split).
const ROWS_PER_BATCH: usize = 131_072;
/// Epochs of one batch, at most.
const EPOCHS_PER_BATCH: usize = 256;
/// How long the outbox is waited for before chores are done again.
const PATIENCE: Duration = Duration::from_millis(200);

/// What stopped a sink for good.
#[derive(Debug, thiserror::Error)]
pub enum SinkFailure {
    /// The outbox cannot be read back.
    #[error("the outbox cannot be read back: {0}")]
    Outbox(#[from] OutboxError),
    /// The sink refuses for good.
    #[error("the sink {sink} cannot be written: {error}")]
    Sink { sink: &'static str, error: SinkError },
    /// The sink panicked; its message went to standard error.
    #[error("the thread of the sink {0} panicked")]
    Panic(&'static str),
    /// The thread cannot be started.
    #[error("the thread of a sink cannot be started: {0}")]
    Thread(#[from] std::io::Error),
}

impl SinkFailure {
    /// Whether another start of the process may do better.
    pub fn restart_helps(&self) -> bool {
        match self {
            SinkFailure::Outbox(error) => error.restart_helps(),
            SinkFailure::Sink { error: SinkError::Transient(_), .. } => true,
            SinkFailure::Sink { error: SinkError::Definite { restart_helps, .. }, .. } => *restart_helps,
            SinkFailure::Panic(_) | SinkFailure::Thread(_) => true,
        }
    }
}

/// How a sink is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum SinkCondition {
    /// It takes what comes.
    #[default]
    Running,
    /// Its last write failed for this, and is tried again.
    Retrying(String),
    /// It has ended for this.
    Failed(String),
}

/// Where a sink is, for all who ask.
#[derive(Debug)]
pub struct SinkProgress {
    /// Its name.
    pub name: &'static str,
    epoch: AtomicU64,
    /// Rows of each kind, in the order of [`KINDS`].
    rows: [AtomicU64; KINDS.len()],
    condition: Mutex<SinkCondition>,
}

impl SinkProgress {
    fn new(name: &'static str, epoch: Option<u64>) -> SinkProgress {
        let epoch = AtomicU64::new(epoch.unwrap_or(0));
        SinkProgress { name, epoch, rows: Default::default(), condition: Mutex::default() }
    }

    /// The newest epoch that the sink holds; 0 for none.
    pub fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    /// Rows of each kind written since the process started, in the order of [`KINDS`].
    pub fn rows(&self) -> [u64; KINDS.len()] {
        std::array::from_fn(|place| self.rows[place].load(Ordering::Relaxed))
    }

    /// Rows of a kind written since the process started.
    pub fn rows_of<K: ResultRow>(&self) -> u64 {
        self.rows[place_of::<K>()].load(Ordering::Relaxed)
    }

    /// How it is.
    pub fn condition(&self) -> SinkCondition {
        self.condition.lock().clone()
    }
}

/// How often and for how long a sink is tried again.
#[derive(Clone, Copy, Debug)]
pub struct RetryPolicy {
    /// Pause after the first failure; each one that follows is twice as long.
    pub first_pause: Duration,
    /// The longest pause.
    pub longest_pause: Duration,
    /// Pause after a sink has begun anew: a disk that goes on refusing is not asked all the time.
    pub reopen_pause: Duration,
    /// How long a sink may go on refusing the same batch once the outbox is closed.
    pub drain_max: Duration,
}

impl Default for RetryPolicy {
    fn default() -> RetryPolicy {
        RetryPolicy {
            first_pause: Duration::from_millis(100),
            longest_pause: Duration::from_secs(5),
            reopen_pause: Duration::from_secs(1),
            drain_max: Duration::from_secs(10),
        }
    }
}

/// The outbox that sinks read, and how.
#[derive(Clone)]
pub struct SinkInput {
    /// Its folder.
    pub outbox: DiskFolder,
    /// How far it is durable.
    pub durable: Arc<DurablePosition>,
    /// Whether epochs whose rows are damaged are passed over.
    pub accept_loss: bool,
    /// When they are tried again.
    pub retry: RetryPolicy,
}

/// Called with what ended a sink without which the process is of no use.
pub type OnSinkFailure = Arc<dyn Fn(SinkFailure) + Send + Sync>;

/// A running sink. It ends when the outbox is closed and all of it is written.
pub struct SinkRunner {
    thread: Option<JoinHandle<()>>,
    progress: Arc<SinkProgress>,
    quit: Option<Sender<()>>,
}

impl SinkRunner {
    /// Starts the sink behind the epoch that it holds. One that cannot be asked yet is asked until it answers, unless it is
    /// essential.
    ///
    /// # Errors
    /// The sink or the outbox cannot be read, or the thread not started.
    pub fn start(
        sink: Box<dyn Sink>,
        input: SinkInput,
        metrics: Arc<Metrics>,
        on_fatal: OnSinkFailure,
    ) -> Result<SinkRunner, SinkFailure> {
        let name = sink.name();
        let written = match sink.written() {
            Ok(epoch) => Some(epoch),
            // It is asked again until it answers.
            Err(error) if error.is_transient() && !sink.essential() => None,
            Err(error) => return Err(SinkFailure::Sink { sink: name, error }),
        };
        let progress = Arc::new(SinkProgress::new(name, written.flatten()));
        let (quit, quits) = channel();
        let labels = SinkLabels { sink: name };
        metrics.begin_sink(name);
        let mut run =
            RunnerThread { sink, input, metrics, labels, progress: Arc::clone(&progress), quit: quits };
        let tail = written.map(|epoch| run.tail(epoch)).transpose()?;
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            let ran = std::panic::AssertUnwindSafe(|| run.begin(tail));
            if let Err(failure) = std::panic::catch_unwind(ran).unwrap_or(Err(SinkFailure::Panic(name))) {
                run.fail(failure, &on_fatal);
            }
        })?;
        Ok(SinkRunner { thread: Some(thread), progress, quit: Some(quit) })
    }

    /// Where the sink is.
    pub fn progress(&self) -> Arc<SinkProgress> {
        Arc::clone(&self.progress)
    }

    /// Waits until everything in the outbox is written, or the sink has refused for [`RetryPolicy::drain_max`]. The outbox must have
    /// been closed.
    pub fn join(mut self) {
        self.wait();
    }

    /// Tells the thread to end where it is.
    pub fn stop(&mut self) {
        drop(self.quit.take());
    }

    fn wait(&mut self) {
        if let Some(thread) = self.thread.take() {
            // A panic was printed and told.
            let _ = thread.join();
        }
    }
}

impl Drop for SinkRunner {
    fn drop(&mut self) {
        self.stop();
        self.wait();
    }
}

/// What became of a batch.
enum WriteOutcome {
    Written,
    /// The sink has begun anew: go on from here.
    Reopened(Box<Tail>),
    /// The handle was dropped, or there was no time left to try again.
    GivenUp,
}

/// How long is waited before the next try, and was since the outbox was closed.
struct RetryTimer {
    policy: RetryPolicy,
    pause: Duration,
    drained: Duration,
}

impl RetryTimer {
    fn new(policy: RetryPolicy) -> RetryTimer {
        RetryTimer { policy, pause: policy.first_pause, drained: Duration::ZERO }
    }
}

struct RunnerThread {
    sink: Box<dyn Sink>,
    input: SinkInput,
    metrics: Arc<Metrics>,
    labels: SinkLabels,
    progress: Arc<SinkProgress>,
    quit: Receiver<()>,
}

impl RunnerThread {
    /// Asks the sink where it is, unless that is known, and runs.
    fn begin(&mut self, tail: Option<Tail>) -> Result<(), SinkFailure> {
        if let Some(tail) = tail {
            return self.run(tail);
        }
        let mut retry = RetryTimer::new(self.input.retry);
        loop {
            let error = match self.sink.written() {
                Ok(epoch) => {
                    self.progress.epoch.store(epoch.unwrap_or(0), Ordering::Release);
                    *self.progress.condition.lock() = SinkCondition::Running;
                    let tail = self.tail(epoch)?;
                    return self.run(tail);
                }
                Err(error) if error.is_transient() => error,
                Err(error) => return Err(SinkFailure::Sink { sink: self.labels.sink, error }),
            };
            if !self.wait_after(&error, &mut retry) {
                return Ok(());
            }
        }
    }

    fn run(&mut self, mut tail: Tail) -> Result<(), SinkFailure> {
        let mut batches: Vec<OutboxBatch> = Vec::new();
        while !self.quits() {
            self.sink.tick();
            if let Some(anew) = self.recover()? {
                tail = anew;
            }
            let Some(first) = tail.wait(PATIENCE)? else {
                if tail.finished() {
                    break;
                }
                continue;
            };
            let mut rows = first.rows.rows();
            batches.push(first);
            while rows < ROWS_PER_BATCH && batches.len() < EPOCHS_PER_BATCH {
                let Some(next) = tail.next()? else { break };
                rows += next.rows.rows();
                batches.push(next);
            }
            self.metrics.queue_depth.get_or_create(&QueueLabels { queue: self.labels.sink }).set(rows as i64);
            match self.write(&batches)? {
                WriteOutcome::Written => {}
                WriteOutcome::Reopened(anew) => tail = *anew,
                WriteOutcome::GivenUp => break,
            }
            batches.clear();
        }
        Ok(())
    }

    /// Tries until it is written, or the sink has begun anew. Only a definite error ends the sink.
    fn write(&mut self, batches: &[OutboxBatch]) -> Result<WriteOutcome, SinkFailure> {
        let mut retry = RetryTimer::new(self.input.retry);
        loop {
            let error = match self.sink.write(batches) {
                Ok(counts) => {
                    self.count(batches, &counts);
                    return Ok(WriteOutcome::Written);
                }
                Err(error) => error,
            };
            if !error.is_transient() {
                return Err(SinkFailure::Sink { sink: self.labels.sink, error });
            }
            if let Some(anew) = self.recover()? {
                return Ok(WriteOutcome::Reopened(Box::new(anew)));
            }
            if !self.wait_after(&error, &mut retry) {
                return Ok(WriteOutcome::GivenUp);
            }
        }
    }

    /// Notes a failure that may pass, and waits; whether it is to be tried again.
    fn wait_after(&self, error: &SinkError, retry: &mut RetryTimer) -> bool {
        let sink = self.labels.sink;
        self.note_error(error);
        if retry.drained >= retry.policy.drain_max {
            tracing::warn!(
                "the sink {sink} has refused for {:?} and is not waited for any longer; the next start goes on behind epoch {}: {error}",
                retry.drained,
                self.progress.epoch()
            );
            return false;
        }
        let pause = retry.pause;
        tracing::warn!("the sink {sink} refuses and is tried again in {pause:?}: {error}");
        if self.pause(pause) {
            return false;
        }
        if self.input.durable.closed() {
            retry.drained += pause;
        }
        retry.pause = (pause * 2).min(retry.policy.longest_pause);
        true
    }

    fn count(&self, batches: &[OutboxBatch], counts: &RowCounts) {
        let last = batches.last().map_or(0, |batch| batch.epoch);
        for (kind, n) in counts {
            let labels = RowsLabels { sink: self.labels.sink, kind };
            self.metrics.rows_written.get_or_create(&labels).inc_by(*n);
            if let Some(place) = KINDS.iter().position(|known| known.name == *kind) {
                self.progress.rows[place].fetch_add(*n, Ordering::Relaxed);
            }
        }
        self.metrics.sink_epoch.get_or_create(&self.labels).set(last as i64);
        self.progress.epoch.store(last, Ordering::Release);
        *self.progress.condition.lock() = SinkCondition::Running;
    }

    /// Where to go on, if the sink has begun anew.
    fn recover(&mut self) -> Result<Option<Tail>, SinkFailure> {
        let epoch = match self.sink.recover() {
            Ok(SinkRecovery::Intact) => return Ok(None),
            Ok(SinkRecovery::Reopened(epoch)) => epoch,
            Err(error) if error.is_transient() => {
                self.note_error(&error);
                tracing::warn!("the sink {} cannot begin anew yet: {error}", self.labels.sink);
                self.pause(self.input.retry.longest_pause);
                return Ok(None);
            }
            Err(error) => return Err(SinkFailure::Sink { sink: self.labels.sink, error }),
        };
        self.progress.epoch.store(epoch.unwrap_or(0), Ordering::Release);
        self.pause(self.input.retry.reopen_pause);
        self.tail(epoch).map(Some)
    }

    fn tail(&self, epoch: Option<u64>) -> Result<Tail, SinkFailure> {
        let SinkInput { outbox, durable, accept_loss, .. } = &self.input;
        Ok(Tail::open_accepting(outbox, Arc::clone(durable), epoch, *accept_loss)?)
    }

    fn note_error(&self, error: &SinkError) {
        self.metrics.sink_errors.get_or_create(&self.labels).inc();
        *self.progress.condition.lock() = SinkCondition::Retrying(error.to_string());
    }

    /// The sink has ended: alone, where the process can do without it.
    fn fail(&self, failure: SinkFailure, on_fatal: &OnSinkFailure) {
        *self.progress.condition.lock() = SinkCondition::Failed(failure.to_string());
        // A damaged outbox is no matter of one sink.
        if self.sink.essential() || matches!(failure, SinkFailure::Outbox(_)) {
            return on_fatal(failure);
        }
        self.metrics.sink_errors.get_or_create(&self.labels).inc();
        tracing::error!(
            "{failure}; it has ended at epoch {}, and the outbox keeps what follows until the next start",
            self.progress.epoch()
        );
    }

    fn quits(&self) -> bool {
        self.quit.try_recv() == Err(TryRecvError::Disconnected)
    }

    /// Waits; whether the handle was dropped meanwhile.
    fn pause(&self, time: Duration) -> bool {
        self.quit.recv_timeout(time) == Err(RecvTimeoutError::Disconnected)
    }
}
