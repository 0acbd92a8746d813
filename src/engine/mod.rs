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
//! The timestamp of an epoch is its ordinal since the journal's first record.
//!
//! These threads together are a *generation*. A panic ends it, and the supervisor starts the next one in the same
//! process, while API and intake go on.
//!
//! Between its steps a worker answers questions about what it holds ([`Questions`]).
//!
//! Not here: what is computed (`dataflows`), and when epochs end (the journal says so).

mod busy;
mod feeder;
mod generation;
mod merger;
mod questions;
mod start;
mod supervisor;
mod workers;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;
use tidewatch_dataflows::graph::Sizes;
use tidewatch_dataflows::pipeline::STAGES;
use tidewatch_dataflows::sample::{MetricType, SeriesId};
use tidewatch_dataflows::settings::Settings;
use tidewatch_dataflows::shard::WorkPosition;

use self::feeder::ToldTypes;
use self::generation::EngineShared;
pub use self::questions::{AskError, Questions};
use self::supervisor::{QUARANTINED_MAX, RESTARTS_MAX, Supervisor, WITHIN};
use crate::journal::{Journal, JournalError, QuarantineEntry};
use crate::metrics::{Metrics, StageLabels};
use crate::outbox::{Outbox, OutboxError};
use crate::snapshots::{SnapshotError, Snapshots};

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
    /// Snapshots cannot be read.
    #[error("the snapshots cannot be read: {0}")]
    Snapshots(#[from] SnapshotError),
    /// Nobody knows what the outbox holds in memory; opening it again tells.
    #[error("{message}, and it was in the outbox, which has to be opened again")]
    OutboxPanic {
        /// The panic.
        message: String,
    },
    /// Building the engine anew does not help.
    #[error("{message}; the engine was built anew {RESTARTS_MAX} times within {} minutes already", WITHIN.as_secs() / 60)]
    TooManyRestarts {
        /// The last panic.
        message: String,
    },
    /// A panic was not followed by the end of the other threads.
    #[error("{threads} did not end within {seconds} s; before that: {after}")]
    Stuck {
        /// Those that go on.
        threads: String,
        /// Why they were to end.
        after: String,
        /// How long they were waited for.
        seconds: u64,
    },
    /// One more series would have to be quarantined.
    #[error("{message}; {QUARANTINED_MAX} series were quarantined already")]
    QuarantineFull {
        /// The panic.
        message: String,
    },
    /// A thread cannot be started.
    #[error("a thread of the engine cannot be started: {0}")]
    Thread(#[from] std::io::Error),
    /// The workers cannot be started.
    #[error("the timely workers cannot be started: {0}")]
    Timely(String),
    /// Rows of two epochs would be written as those of one.
    #[error("a worker handed over epoch {other} while another one handed over epoch {first}")]
    EpochsDiffer {
        /// The epoch of the first worker.
        first: u64,
        /// That of another one.
        other: u64,
    },
}

impl EngineError {
    /// Whether another start of the process may do better: nothing that is durable is wrong.
    pub fn restart_helps(&self) -> bool {
        match self {
            EngineError::Journal(error) => error.restart_helps(),
            EngineError::Outbox(error) => error.restart_helps(),
            EngineError::Snapshots(error) => error.restart_helps(),
            _ => true,
        }
    }
}

/// Where the engine is; read by the API.
#[derive(Debug)]
pub struct EngineProgress {
    /// Samples handed to the workers since the process started, those that it read back included.
    pub samples: AtomicU64,
    /// Of these, those of epochs that ended after the start, each counted once.
    live: AtomicU64,
    /// The newest epoch that is counted there, or that the journal held at start.
    live_upto: AtomicU64,
    /// The newest epoch computed since the process started, and durable in the outbox; 0 for none.
    pub epoch: AtomicU64,
    /// Its processing time; `i64::MIN` for none.
    pub processing_ms: AtomicI64,
    /// Window rows computed since the process started.
    pub rows: AtomicU64,
    /// Why the engine waits for the outbox, if it does.
    held_up: Mutex<Option<BlockedOn>>,
    /// What the workers hold.
    pub sizes: Arc<Sizes>,
    /// What each worker is at.
    positions: Vec<Arc<WorkPosition>>,
    /// The newest epoch that the present generation has computed; 0 for none.
    computed: AtomicU64,
    /// The newest epoch that the journal held when the present generation began.
    upto: AtomicU64,
    /// Generations begun, and waits before them.
    generation: AtomicU64,
    /// Epochs handed to the outbox, those that it holds already included, and shards that were loaded.
    steps: AtomicU64,
    /// Series that were kept out of the computation, and those that still are.
    quarantined: Mutex<Vec<QuarantineEntry>>,
    restarted: Mutex<Option<EngineRestart>>,
}

/// Why the engine waits for the outbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BlockedOn {
    /// It is at its bound `outbox.bytes_max`.
    Full,
    /// It cannot be written now, for this reason: the disk is full, most often.
    Unwritable(String),
}

impl std::fmt::Display for BlockedOn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            BlockedOn::Full => f.write_str("the outbox is at its bound outbox.bytes_max"),
            BlockedOn::Unwritable(why) => f.write_str(why),
        }
    }
}

/// Why the engine was built anew the last time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineRestart {
    /// The panic.
    pub after: String,
    /// The epoch with which the state is there again.
    pub upto: u64,
}

impl EngineProgress {
    fn new(workers: usize, quarantined: Vec<QuarantineEntry>, found: u64) -> EngineProgress {
        EngineProgress {
            samples: AtomicU64::new(0),
            live: AtomicU64::new(0),
            live_upto: AtomicU64::new(found),
            epoch: AtomicU64::new(0),
            processing_ms: AtomicI64::new(i64::MIN),
            rows: AtomicU64::new(0),
            held_up: Mutex::new(None),
            sizes: Arc::default(),
            positions: (0..workers).map(|_| Arc::default()).collect(),
            computed: AtomicU64::new(0),
            upto: AtomicU64::new(0),
            generation: AtomicU64::new(0),
            steps: AtomicU64::new(0),
            quarantined: Mutex::new(quarantined),
            restarted: Mutex::new(None),
        }
    }

    /// Samples handed to the workers that no start and no generation before had to compute.
    pub fn live_samples(&self) -> u64 {
        self.live.load(Ordering::Relaxed)
    }

    /// Counts the samples of an epoch that was handed to the workers. The feeder calls it, one at a time.
    fn count_live(&self, epoch: u64, samples: u64) {
        if epoch > self.live_upto.load(Ordering::Relaxed) {
            self.live_upto.store(epoch, Ordering::Relaxed);
            self.live.fetch_add(samples, Ordering::Relaxed);
        }
    }

    /// Why the engine waits for the outbox, if it does: nothing is computed, so nothing should be taken.
    pub fn blocked_on(&self) -> Option<BlockedOn> {
        self.held_up.lock().clone()
    }

    /// Sets why it waits; what was said before.
    fn set_held_up(&self, why: Option<BlockedOn>) -> Option<BlockedOn> {
        std::mem::replace(&mut *self.held_up.lock(), why)
    }

    /// The newest epoch that the present generation has computed; 0 for none.
    pub fn computed(&self) -> u64 {
        self.computed.load(Ordering::Acquire)
    }

    /// Whether the workers do not yet know what the journal held when they were built.
    pub fn rebuilding(&self) -> bool {
        self.computed() < self.upto.load(Ordering::Acquire)
    }

    /// Why the state is being computed again, if it is after a panic.
    pub fn restarted(&self) -> Option<EngineRestart> {
        let restarted = self.restarted.lock().clone();
        restarted.filter(|restarted| self.computed() < restarted.upto)
    }

    /// A figure that stands still only if the engine does.
    pub fn moved(&self) -> (u64, u64) {
        (self.generation.load(Ordering::Relaxed), self.steps.load(Ordering::Relaxed))
    }

    /// What the workers are at, as a sentence.
    pub fn at(&self) -> String {
        let at = self.positions.iter().enumerate().filter_map(|(index, position)| {
            let (epoch, series) = position.now()?;
            let series = series.map_or_else(|| "a shard".to_owned(), |series| format!("series {series}"));
            Some(format!("worker {index} is at {series} of epoch {epoch}"))
        });
        let at: Vec<String> = at.collect();
        if at.is_empty() { "the workers are at no epoch".to_owned() } else { at.join(", ") }
    }

    /// Series that are kept out of the computation, in the order in which they were found.
    pub fn quarantined(&self) -> Vec<SeriesId> {
        let held = self.quarantined.lock();
        held.iter().filter(|held| !held.lifted).map(|held| SeriesId(held.series)).collect()
    }
}

/// Slots that were freed in an epoch: the labels room may forget their series once sinks hold that epoch.
pub type FreedSlots = (u64, Vec<SeriesId>);

/// Told of types of series that the journal holds.
pub type OnTypes = Box<dyn FnMut(&[(u64, MetricType)]) + Send>;

/// Told of a series that is quarantined, and of the panic.
pub type OnQuarantine = Box<dyn Fn(SeriesId, &str) + Send>;

/// Who is told what the engine meets; none of them may block for long.
pub struct Listeners {
    /// Freed slots, epoch by epoch.
    pub freed: Box<dyn FnMut(FreedSlots) + Send>,
    /// Types of series, as the journal holds them.
    pub types: OnTypes,
    /// A series that is quarantined, and the panic.
    pub quarantined: OnQuarantine,
}

/// What an engine reads and writes.
pub struct EngineLogs {
    /// The log in.
    pub journal: Journal,
    /// The log out.
    pub outbox: Outbox,
    /// Where shards begin and are saved; without them each generation begins with the journal.
    pub snapshots: Option<Snapshots>,
}

/// Called once with what stopped the engine.
pub type OnFatal = Arc<dyn Fn(EngineError) + Send + Sync>;

/// A running engine. It ends when the journal is closed and everything in it has reached the outbox.
pub struct Engine {
    supervisor: Option<JoinHandle<()>>,
    progress: Arc<EngineProgress>,
    quit: Arc<AtomicBool>,
    closing: Arc<AtomicBool>,
    questions: Questions,
}

impl Engine {
    /// Starts the supervisor, which starts `workers` timely workers, the feeder and the merger. Does not wait for any
    /// of them.
    ///
    /// # Errors
    /// If the supervisor's thread cannot be started.
    pub fn start(
        workers: usize,
        settings: &Settings,
        EngineLogs { journal, outbox, snapshots }: EngineLogs,
        metrics: Arc<Metrics>,
        listeners: Listeners,
        on_fatal: OnFatal,
    ) -> Result<Engine, EngineError> {
        let found = journal.last_epoch_end().map_or(0, |end| end.epoch);
        let progress = Arc::new(EngineProgress::new(workers, journal.quarantined().to_vec(), found));
        let questions = Questions::new(Arc::clone(&progress));
        let (quit, closing) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let shared = EngineShared {
            workers,
            settings: Arc::new(settings.clone()),
            progress: Arc::clone(&progress),
            busy: Arc::default(),
            metrics,
            outbox: Arc::new(std::sync::Mutex::new(outbox)),
            freed: Arc::new(Mutex::new(listeners.freed)),
            types: Arc::new(Mutex::new(ToldTypes::new(listeners.types))),
            questions: questions.clone(),
            snapshots,
        };
        let supervisor = Supervisor {
            shared,
            journal,
            quarantined: listeners.quarantined,
            quit: Arc::clone(&quit),
            closing: Arc::clone(&closing),
            on_fatal,
        };
        let builder = std::thread::Builder::new().name("engine".to_owned());
        let supervisor = Some(builder.spawn(move || supervisor.run())?);
        Ok(Engine { supervisor, progress, quit, closing, questions })
    }

    /// Where the engine is.
    pub fn progress(&self) -> Arc<EngineProgress> {
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
        self.wait();
    }

    fn wait(&mut self) {
        if let Some(supervisor) = self.supervisor.take()
            && supervisor.join().is_err()
        {
            // Its words were printed; what is durable is computed at the next start.
            tracing::error!("the engine's supervisor panicked");
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.quit.store(true, Ordering::Relaxed);
        self.wait();
    }
}

/// Sets the gauges of what the workers hold.
pub fn publish_sizes(progress: &EngineProgress, metrics: &Metrics) {
    metrics.active_series.set(progress.sizes.series.load(Ordering::Relaxed) as i64);
    for (stage, bytes) in STAGES.iter().zip(&progress.sizes.bytes) {
        let label = StageLabels { stage: stage.name };
        metrics.stage_bytes.get_or_create(&label).set(bytes.load(Ordering::Relaxed) as i64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::{self, EpochMode};
    use crate::outbox;
    use tidewatch_dataflows::rows::SeriesPresence;
    use tidewatch_dataflows::sample::Samples;

    fn logs(journal: &Journal, outbox: Outbox) -> EngineLogs {
        EngineLogs { journal: journal.clone(), outbox, snapshots: None }
    }

    #[test]
    fn after_a_panic_the_engine_is_built_anew_and_can_be_left() {
        let folder = std::env::temp_dir().join(format!("tidewatch-engine-{}", std::process::id()));
        let metrics = Arc::new(Metrics::new());
        let config = journal::JournalOptions::new(EpochMode::File);
        let journal = Journal::open(
            folder.join("journal"),
            config,
            Settings::default(),
            Box::new(|| Ok(())),
            Arc::clone(&metrics),
        )
        .unwrap();
        let outbox =
            Outbox::open(folder.join("outbox"), outbox::OutboxOptions::default(), Arc::clone(&metrics))
                .unwrap();
        let on_fatal: OnFatal = Arc::new(|error| panic!("{error}"));
        let listeners =
            Listeners { freed: Box::new(drop), types: Box::new(|_| {}), quarantined: Box::new(|_, _| {}) };
        let engine = Engine::start(
            2,
            &Settings::default(),
            logs(&journal, outbox),
            Arc::clone(&metrics),
            listeners,
            on_fatal,
        )
        .unwrap();
        // A time that no gate lets pass: counting back from it panics.
        let mut samples = Samples::default();
        // Three series of one worker: each is found out after two panics, so there are enough of them.
        [4, 6, 8].into_iter().for_each(|series| samples.push(series, i64::MIN + 1, 1.0));
        journal.append_blocking(samples, "test").unwrap();
        journal.cut(i64::MIN, i64::MIN, false).unwrap().blocking_recv().unwrap().unwrap();
        let restarts = || {
            metrics.engine_restarts.get_or_create(&crate::metrics::RestartLabels { cause: "worker" }).get()
        };
        let deadline = std::time::Instant::now() + Duration::from_secs(60);
        while restarts() < 3 {
            assert!(std::time::Instant::now() < deadline, "{} restarts", restarts());
            std::thread::sleep(Duration::from_millis(1));
        }
        let progress = engine.progress();
        let after = progress.restarted().unwrap().after;
        assert!(after.starts_with("worker 0 panicked: attempt to"), "{after}");
        assert!(after.contains(", at series 00000000000000"), "{after}");
        assert_eq!(progress.quarantined(), [SeriesId(4)]);
        assert!(progress.rebuilding());
        let questions = engine.questions();
        assert_eq!(questions.newest(&[4]), Err(AskError::Rebuilding));
        drop(engine);
        assert_eq!(questions.newest(&[4]), Err(AskError::Ended));
        drop(journal);
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn a_full_disk_holds_the_engine_up_and_no_longer() {
        held_up_by_a_full_disk(false);
    }

    #[test]
    fn a_full_disk_on_which_nothing_can_be_cut_off_either_is_no_end() {
        held_up_by_a_full_disk(true);
    }

    fn held_up_by_a_full_disk(no_cut: bool) {
        let folder =
            std::env::temp_dir().join(format!("tidewatch-engine-full-{no_cut}-{}", std::process::id()));
        let metrics = Arc::new(Metrics::new());
        let (config, settings) = (journal::JournalOptions::new(EpochMode::File), Settings::default());
        let open = Box::new(|| Ok(()));
        let journal =
            Journal::open(folder.join("journal"), config, settings.clone(), open, Arc::clone(&metrics))
                .unwrap();
        let faults: Arc<crate::disk::testing::Faults> = Arc::default();
        let outbox = Outbox::open(
            faults.folder(folder.join("outbox")),
            outbox::OutboxOptions::default(),
            Arc::clone(&metrics),
        )
        .unwrap();
        let durable = outbox.durable();
        let fatal: OnFatal = Arc::new(|error| panic!("{error}"));
        let listeners =
            Listeners { freed: Box::new(drop), types: Box::new(|_| {}), quarantined: Box::new(|_, _| {}) };
        let logs = logs(&journal, outbox);
        let engine = Engine::start(2, &settings, logs, Arc::clone(&metrics), listeners, fatal).unwrap();
        let epoch = |at_ms: i64| {
            let mut samples = Samples::default();
            (0..100).for_each(|id| samples.push(id, at_ms + id as i64, 1.0));
            journal.append_blocking(samples, "test").unwrap();
            journal.cut(at_ms, at_ms, false).unwrap().blocking_recv().unwrap().unwrap();
            journal.last_epoch_end().unwrap().epoch
        };
        let first = epoch(1_700_000_000_000);
        assert!(durable.wait_for_epoch(first, Duration::from_secs(30)));
        faults.room(Some(20));
        faults.no_cut.store(no_cut, Ordering::SeqCst);
        let second = epoch(1_700_000_300_000);
        let progress = engine.progress();
        let deadline = std::time::Instant::now() + Duration::from_secs(60);
        let why = loop {
            if let Some(why) = progress.blocked_on() {
                break why.to_string();
            }
            assert!(std::time::Instant::now() < deadline, "it is not held up");
            std::thread::sleep(Duration::from_millis(1));
        };
        assert!(why.starts_with("cannot write to ") && why.contains("No space left"), "{why}");
        assert_eq!(durable.epoch(), Some(first));
        faults.room(None);
        faults.no_cut.store(false, Ordering::SeqCst);
        assert!(durable.wait_for_epoch(second, Duration::from_secs(30)));
        assert_eq!(progress.blocked_on(), None);
        let text = metrics.text();
        assert!(text.contains(r#"tidewatch_log_stalls_total{log="outbox"} 1"#), "{text}");
        assert!(text.contains(r#"tidewatch_log_stalled{log="outbox"} 0"#), "{text}");
        journal.close().unwrap();
        engine.join();
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
            let config = journal::JournalOptions::new(EpochMode::File);
            let (dir, settings) = (folder.join("journal"), Settings::default());
            let journal =
                Journal::open(&dir, config, settings.clone(), open(), Arc::clone(&metrics)).unwrap();
            let outbox =
                Outbox::open(folder.join("outbox"), outbox::OutboxOptions::default(), Arc::clone(&metrics))
                    .unwrap();
            let durable = outbox.durable();
            let fatal: OnFatal = Arc::new(|error| panic!("{error}"));
            let listeners = Listeners {
                freed: Box::new(drop),
                types: Box::new(|_| {}),
                quarantined: Box::new(|_, _| {}),
            };
            let engine =
                Engine::start(workers, &settings, logs(&journal, outbox), metrics, listeners, fatal).unwrap();
            let questions = engine.questions();
            let later = T + 2 * tidewatch_dataflows::pipeline::keep_ms(&settings);
            for (series, at_ms) in [(0..400, T), (200..300, later)] {
                let mut samples = Samples::default();
                series.for_each(|id| samples.push(id, at_ms + id as i64, 1.0));
                if at_ms == later {
                    // They get slots, and nothing of them is applied.
                    (400..450).for_each(|id| samples.push(id, at_ms, f64::NAN));
                }
                journal.append_blocking(samples, "test").unwrap();
                journal.cut(at_ms, at_ms, false).unwrap().blocking_recv().unwrap().unwrap();
            }
            assert!(durable.wait_for_epoch(journal.last_epoch_end().unwrap().epoch, Duration::from_secs(30)));
            let ids: Vec<u64> = (0..500).rev().collect();
            for (id, seen) in ids.iter().zip(questions.newest(&ids).unwrap()) {
                let want = match id {
                    200..300 => SeriesPresence::Live { newest_ms: later + *id as i64 },
                    400..450 => SeriesPresence::Given { freed_ms: None },
                    0..400 => SeriesPresence::Freed { newest_ms: T + *id as i64 },
                    _ => SeriesPresence::Unknown,
                };
                assert_eq!(seen, want, "{workers} workers, series {id}");
                assert_eq!(seen.has_slot(), matches!(id, 200..300 | 400..450), "series {id}");
            }
            assert_eq!(questions.newest(&[]), Ok(Vec::new()));
            journal.close().unwrap();
            engine.join();
            assert_eq!(questions.newest(&[1]), Err(AskError::Ended));
            std::fs::remove_dir_all(&folder).unwrap();
        }
    }
}
