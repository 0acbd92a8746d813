//! The threads of a generation: what they look at to see whether to end, what they are sent, and what they report.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, SyncSender};
use std::time::Duration;

use tidewatch_dataflows::sample::{Mark, Samples};
use timely::scheduling::SyncActivator;

use super::error::EngineError;
use super::questions::WorkerQueue;

/// How long a thread sleeps before it looks at the stop flag again.
pub(super) const PATIENCE: Duration = Duration::from_millis(200);

/// A thread of a generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Thread {
    Worker(usize),
    Feeder,
    Merger,
}

impl Thread {
    /// Its kind, as metrics say it.
    pub(super) fn kind(self) -> &'static str {
        match self {
            Thread::Worker(_) => "worker",
            Thread::Feeder => "feeder",
            Thread::Merger => "merger",
        }
    }
}

impl fmt::Display for Thread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Thread::Worker(index) => write!(f, "worker {index}"),
            other => write!(f, "the engine's {}", other.kind()),
        }
    }
}

/// What the threads of a generation look at, to see whether to end.
pub(super) struct Signals {
    /// The engine is dropped.
    quit: Arc<AtomicBool>,
    /// The journal is closed, and nobody makes room in the outbox any more.
    closing: Arc<AtomicBool>,
    /// One thread of this generation is gone, or has decided that it ends.
    poisoned: AtomicBool,
}

impl Signals {
    pub(super) fn new(quit: &Arc<AtomicBool>, closing: &Arc<AtomicBool>) -> Signals {
        let (quit, closing) = (Arc::clone(quit), Arc::clone(closing));
        Signals { quit, closing, poisoned: AtomicBool::new(false) }
    }

    /// Whether every thread of the generation has to end now.
    pub(super) fn over(&self) -> bool {
        self.poisoned.load(Ordering::Relaxed) || self.quit.load(Ordering::Relaxed)
    }

    /// Whether the engine drains for the last time.
    pub(super) fn closing(&self) -> bool {
        self.closing.load(Ordering::Relaxed)
    }

    /// Ends the generation.
    pub(super) fn poison(&self) {
        self.poisoned.store(true, Ordering::Relaxed);
    }
}

/// What is sent to a worker's source.
pub(super) enum WorkerMessage {
    Batch(Samples),
    Mark(Mark),
}

/// The sending side of one worker's source.
pub(super) struct WorkerFeed {
    pub(super) queue: SyncSender<WorkerMessage>,
    pub(super) activator: SyncActivator,
    pub(super) questions: WorkerQueue,
}

/// The epochs that shards begin with.
pub(super) type ShardEpochs = Vec<Option<u64>>;

/// A panic of one thread.
#[derive(Clone, Debug)]
pub(super) struct ThreadPanic {
    pub(super) thread: Thread,
    pub(super) message: String,
}

impl fmt::Display for ThreadPanic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} panicked: {}", self.thread, self.message)
    }
}

/// Why a thread ended that should not have.
pub(super) enum ThreadFailure {
    Panic(ThreadPanic),
    Error(EngineError),
}

/// What a thread of a generation tells.
pub(super) enum ThreadEvent {
    /// A worker has loaded one more shard.
    Loaded,
    /// A worker has built its dataflow.
    Ready(usize, WorkerFeed, ShardEpochs),
    /// A thread has ended.
    Ended(Thread, Result<(), ThreadFailure>),
}

/// Tells how a thread ended, also if it was by a panic outside of its work.
pub(super) struct ThreadReport {
    thread: Thread,
    to: Sender<ThreadEvent>,
    reported: bool,
}

impl ThreadReport {
    pub(super) fn new(thread: Thread, to: Sender<ThreadEvent>) -> ThreadReport {
        ThreadReport { thread, to, reported: false }
    }

    /// Does the thread's work and clears up after it, also after a panic; then tells how the work ended.
    pub(super) fn run<T>(
        mut self,
        with: &mut T,
        work: impl FnOnce(&mut T) -> Result<(), EngineError>,
        clear: impl FnOnce(&mut T),
    ) {
        let ended = catch(self.thread, || work(with));
        let cleared = catch(self.thread, || {
            clear(with);
            Ok(())
        });
        self.report(ended.and(cleared));
    }

    fn report(&mut self, ended: Result<(), ThreadFailure>) {
        self.reported = true;
        // Nobody listens after the engine has given this generation up.
        let _ = self.to.send(ThreadEvent::Ended(self.thread, ended));
    }
}

impl Drop for ThreadReport {
    fn drop(&mut self) {
        if !self.reported {
            let message = "it ended without a word".to_owned();
            self.report(Err(ThreadFailure::Panic(ThreadPanic { thread: self.thread, message })));
        }
    }
}

fn catch(thread: Thread, work: impl FnOnce() -> Result<(), EngineError>) -> Result<(), ThreadFailure> {
    match std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)) {
        Ok(ended) => ended.map_err(ThreadFailure::Error),
        Err(panic) => Err(ThreadFailure::Panic(ThreadPanic { thread, message: message_of(panic.as_ref()) })),
    }
}

fn message_of(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()))
        .unwrap_or_else(|| "no message".to_owned())
}
