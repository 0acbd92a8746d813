//! The engine: timely workers beside tokio. Epochs come from the journal, outcomes go to the outbox.
//!
//! ```text
//!  journal ──feeder──► [ source │ admit │ window │ complete ] ×workers ──merger──► outbox
//!  (1 thread, reads     (one thread each; one exchange)         (1 thread, merges, sorts, syncs)
//!   what is durable)
//! ```
//!
//! Everything between is bounded: the channels to the workers by batches, the workers by epochs in flight
//! (a source stops while the output is [`EPOCHS_IN_FLIGHT`] epochs behind), the channels to the merger by epochs.
//! So a slow outbox holds the workers, slow workers hold the feeder, and the feeder only reads files.
//!
//! The timestamp of an epoch is its ordinal since the journal's first record. A worker's panic ends the process
//! with its message: its siblings would wait for ever.
//!
//! Between its steps a worker answers questions about what it holds ([`Questions`]).
//!
//! Not here: what is computed (`dataflows`), and when epochs end (the journal says so).

mod busy;
mod feeder;
mod merger;
mod questions;
mod workers;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::mpsc::sync_channel;
use std::thread::JoinHandle;
use std::time::Duration;

use tidewatch_dataflows::graph::{OPERATORS, Sizes};
use tidewatch_dataflows::sample::{MetricType, SeriesId};
use tidewatch_dataflows::settings::Settings;

use self::busy::Busy;
use self::feeder::{feed, finish};
use self::merger::Merger;
pub use self::questions::{AskError, Questions};
use self::workers::start_workers;
use crate::journal::{JournalError, Reader};
use crate::metrics::{Metrics, Operator};
use crate::outbox::{Outbox, OutboxError};

/// Finished epochs of one worker that may wait for the merger.
const EPOCHS_QUEUED: usize = 4;
/// How long a thread sleeps before it looks at the stop flag again.
const PATIENCE: Duration = Duration::from_millis(200);

/// What stops the engine for good; the process has to end.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The journal cannot be read back.
    #[error("the journal cannot be read back: {0}")]
    Journal(#[from] JournalError),
    /// The outbox cannot be written.
    #[error("the outbox cannot be written: {0}")]
    Outbox(#[from] OutboxError),
    /// A worker panicked; its message went to standard error.
    #[error("worker {worker} panicked: {message}")]
    Panic {
        /// Index of the worker.
        worker: usize,
        /// The panic's message.
        message: String,
    },
    /// Another thread of the engine panicked; its message went to standard error.
    #[error("the engine's {thread} panicked: {message}")]
    ThreadPanic {
        /// Name of the thread.
        thread: &'static str,
        /// The panic's message.
        message: String,
    },
    /// A thread cannot be started.
    #[error("a thread of the engine cannot be started: {0}")]
    Thread(#[from] std::io::Error),
    /// The workers cannot be started.
    #[error("the timely workers cannot be started: {0}")]
    Timely(String),
}

/// Where the engine is; read by the API.
#[derive(Debug)]
pub struct Progress {
    /// Samples handed to the workers since the process started.
    pub samples: AtomicU64,
    /// The newest epoch in the outbox; 0 for none.
    pub epoch: AtomicU64,
    /// Its stream time; `i64::MIN` for none.
    pub stream_ms: AtomicI64,
    /// Window rows computed since the process started.
    pub rows: AtomicU64,
    /// Whether the outbox is at its bound and the engine waits.
    pub outbox_full: AtomicBool,
    /// What the workers hold.
    pub sizes: Arc<Sizes>,
}

/// Slots that were freed in an epoch: the labels room may forget their series once sinks hold that epoch.
pub type Freed = (u64, Vec<SeriesId>);

/// Told of types of series that the journal holds.
pub type OnTypes = Box<dyn FnMut(&[(u64, MetricType)]) + Send>;

/// Who is told what the engine meets; none of them may block for long.
pub struct Listeners {
    /// Freed slots, epoch by epoch.
    pub freed: Box<dyn FnMut(Freed) + Send>,
    /// Types of series, as the journal holds them.
    pub types: OnTypes,
}

/// Called once with what stopped the engine.
pub type OnFatal = Arc<dyn Fn(EngineError) + Send + Sync>;

/// A running engine. It ends when the journal is closed and everything in it has reached the outbox.
pub struct Engine {
    threads: Vec<JoinHandle<()>>,
    progress: Arc<Progress>,
    quit: Arc<AtomicBool>,
    closing: Arc<AtomicBool>,
    questions: Questions,
}

impl Engine {
    /// Starts `workers` timely workers, the feeder and the merger.
    ///
    /// # Errors
    /// If a thread cannot be started.
    pub fn start(
        workers: usize,
        settings: &Settings,
        reader: Reader,
        outbox: Outbox,
        metrics: Arc<Metrics>,
        listeners: Listeners,
        on_fatal: OnFatal,
    ) -> Result<Engine, EngineError> {
        let progress = Arc::new(Progress {
            samples: AtomicU64::new(0),
            epoch: AtomicU64::new(0),
            stream_ms: AtomicI64::new(i64::MIN),
            rows: AtomicU64::new(0),
            outbox_full: AtomicBool::new(false),
            sizes: Arc::default(),
        });
        let Listeners { freed, types } = listeners;
        let quit = Arc::new(AtomicBool::new(false));
        let busy: Arc<Busy> = Arc::default();
        let (to_merger, from_workers): (Vec<_>, Vec<_>) =
            (0..workers).map(|_| sync_channel(EPOCHS_QUEUED)).unzip();
        let feeds = start_workers(workers, settings, to_merger, &progress, &busy, &quit, &on_fatal)?;
        let questions = Questions::new(feeds.0.iter().map(|feed| feed.asked.clone()));

        let (progress_, quit_, fatal) = (Arc::clone(&progress), Arc::clone(&quit), Arc::clone(&on_fatal));
        let feeder = std::thread::Builder::new().name("feeder".to_owned()).spawn(move || {
            guarded("feeder", &fatal, || Ok(feed(reader, &feeds.0, &progress_, &quit_, types)?));
            finish(feeds);
        })?;
        let closing = Arc::new(AtomicBool::new(false));
        let (progress_, quit_, closing_) = (Arc::clone(&progress), Arc::clone(&quit), Arc::clone(&closing));
        let merger = std::thread::Builder::new().name("merger".to_owned()).spawn(move || {
            let merger =
                Merger { outbox, progress: progress_, metrics, busy, quit: quit_, closing: closing_, freed };
            guarded("merger", &on_fatal, || Ok(merger.run(&from_workers)?));
        })?;
        Ok(Engine { threads: vec![feeder, merger], progress, quit, closing, questions })
    }

    /// Where the engine is.
    pub fn progress(&self) -> Arc<Progress> {
        Arc::clone(&self.progress)
    }

    /// Asks the workers what they hold.
    pub fn questions(&self) -> Questions {
        self.questions.clone()
    }

    /// Waits until the engine has ended. The journal must have been closed.
    ///
    /// An outbox at its bound is not waited for: nobody makes room any more, and the next start computes the rest.
    pub fn join(mut self) {
        self.closing.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // A panic of the feeder or merger has been printed; the caller ends the process anyway.
            let _ = thread.join();
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.quit.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// Runs the work of a thread; an error or a panic ends the process, for the others would wait for ever.
fn guarded(thread: &'static str, on_fatal: &OnFatal, work: impl FnOnce() -> Result<(), EngineError>) {
    let error = match std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)) {
        Ok(Ok(())) => return,
        Ok(Err(error)) => error,
        Err(panic) => EngineError::ThreadPanic { thread, message: message_of(panic.as_ref()) },
    };
    on_fatal(error);
}

fn message_of(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()))
        .unwrap_or_else(|| "no message".to_owned())
}

/// Sets the gauges of what the workers hold.
pub fn publish_sizes(progress: &Progress, metrics: &Metrics) {
    metrics.active_series.set(progress.sizes.series.load(Ordering::Relaxed) as i64);
    for (name, bytes) in OPERATORS.iter().zip(&progress.sizes.bytes) {
        let label = Operator { operator: (*name).to_owned() };
        metrics.operator_bytes.get_or_create(&label).set(bytes.load(Ordering::Relaxed) as i64);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::journal::{self, Journal, Mode};
    use crate::outbox;
    use tidewatch_dataflows::outcome::Seen;
    use tidewatch_dataflows::sample::Samples;

    #[test]
    fn a_panic_is_told_once_with_its_message_and_the_engine_can_be_left() {
        let folder = std::env::temp_dir().join(format!("tidewatch-engine-{}", std::process::id()));
        let metrics = Arc::new(Metrics::new());
        let config = journal::Config::new(Mode::File);
        let journal = Journal::open(
            &folder.join("journal"),
            config,
            Settings::default(),
            Box::new(|| Ok(())),
            Arc::clone(&metrics),
        )
        .unwrap();
        let outbox =
            Outbox::open(&folder.join("outbox"), outbox::Config::default(), Arc::clone(&metrics)).unwrap();
        // Settings that no one validated: a window shorter than its hop has no panes, and dividing by that panics.
        let mut broken = Settings::default();
        broken.windows[0].length_ms = 30_000;
        let (to, told) = std::sync::mpsc::channel();
        let on_fatal: OnFatal = Arc::new(move |error| to.send(error.to_string()).unwrap());
        let listeners = Listeners { freed: Box::new(drop), types: Box::new(|_| {}) };
        let engine =
            Engine::start(2, &broken, journal.reader().unwrap(), outbox, metrics, listeners, on_fatal)
                .unwrap();
        let mut samples = Samples::default();
        (0..100).for_each(|i| samples.push(4, 1_700_000_000_000 + i * 15_000, 1.0));
        journal.append_blocking(samples, "test").unwrap();
        journal.cut(i64::MIN, i64::MIN, false).unwrap().blocking_recv().unwrap().unwrap();
        let message = told.recv_timeout(Duration::from_secs(60)).unwrap();
        assert!(message.starts_with("worker 0 panicked: attempt to"), "{message}");
        drop(engine);
        drop(journal);
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn workers_say_what_they_know_of_a_series() {
        const T: i64 = 1_700_000_000_000;
        for workers in [1, 3] {
            let name = format!("tidewatch-engine-asked-{workers}-{}", std::process::id());
            let folder = std::env::temp_dir().join(name);
            let metrics = Arc::new(Metrics::new());
            let open = || Box::new(|| Ok(()));
            let config = journal::Config::new(Mode::File);
            let (dir, settings) = (folder.join("journal"), Settings::default());
            let journal =
                Journal::open(&dir, config, settings.clone(), open(), Arc::clone(&metrics)).unwrap();
            let outbox =
                Outbox::open(&folder.join("outbox"), outbox::Config::default(), Arc::clone(&metrics))
                    .unwrap();
            let durable = outbox.durable();
            let fatal: OnFatal = Arc::new(|error| panic!("{error}"));
            let listeners = Listeners { freed: Box::new(drop), types: Box::new(|_| {}) };
            let reader = journal.reader().unwrap();
            let engine =
                Engine::start(workers, &settings, reader, outbox, metrics, listeners, fatal).unwrap();
            let questions = engine.questions();
            let later = T + 2 * settings.keep_ms();
            for (series, at_ms) in [(0..400, T), (200..300, later)] {
                let mut samples = Samples::default();
                series.for_each(|id| samples.push(id, at_ms + id as i64, 1.0));
                journal.append_blocking(samples, "test").unwrap();
                journal.cut(at_ms, at_ms, false).unwrap().blocking_recv().unwrap().unwrap();
            }
            assert!(durable.wait_for_epoch(journal.last_epoch_end().unwrap().epoch, Duration::from_secs(30)));
            let ids: Vec<u64> = (0..500).rev().collect();
            for (id, seen) in ids.iter().zip(questions.newest(&ids).unwrap()) {
                let want = match id {
                    200..300 => Seen::Live { newest_ms: later + *id as i64 },
                    0..400 => Seen::Freed { newest_ms: T + *id as i64 },
                    _ => Seen::Unknown,
                };
                assert_eq!(seen, want, "{workers} workers, series {id}");
            }
            assert_eq!(questions.newest(&[]), Ok(Vec::new()));
            journal.close().unwrap();
            engine.join();
            assert_eq!(questions.newest(&[1]), Err(AskError::Ended));
            std::fs::remove_dir_all(&folder).unwrap();
        }
    }

    #[test]
    fn a_panic_of_any_thread_is_told() {
        let told = Arc::new(Mutex::new(Vec::new()));
        let tell: OnFatal = {
            let told = Arc::clone(&told);
            Arc::new(move |error| told.lock().unwrap().push(error.to_string()))
        };
        guarded("merger", &tell, || Ok(()));
        assert!(told.lock().unwrap().is_empty());
        guarded("merger", &tell, || panic!("no {}", "more"));
        guarded("feeder", &tell, || Err(EngineError::Timely("gone".to_owned())));
        let want = ["the engine's merger panicked: no more", "the timely workers cannot be started: gone"];
        assert_eq!(*told.lock().unwrap(), want);
    }
}
