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
mod error;
mod feeder;
mod generation;
mod listeners;
mod merger;
mod progress;
mod questions;
mod shared;
mod start;
mod supervisor;
mod thread;
mod workers;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use parking_lot::Mutex;
use tidewatch_dataflows::pipeline::STAGES;
use tidewatch_dataflows::settings::Settings;

pub use self::error::EngineError;
use self::feeder::TypesNotifier;
pub use self::listeners::{FreedSlots, Listeners, OnFatal, OnQuarantine, OnTypes};
pub use self::progress::{BlockedOn, EngineProgress, EngineRestart};
pub use self::questions::{AskError, Questions};
use self::shared::EngineShared;
use self::supervisor::Supervisor;
use crate::journal::Journal;
use crate::metrics::{Metrics, StageLabels};
use crate::outbox::Outbox;
use crate::snapshots::Snapshots;

/// What an engine reads and writes.
pub struct EngineLogs {
    /// The log in.
    pub journal: Journal,
    /// The log out.
    pub outbox: Outbox,
    /// Where shards begin and are saved; without them each generation begins with the journal.
    pub snapshots: Option<Snapshots>,
}

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
            types: Arc::new(Mutex::new(TypesNotifier::new(listeners.types))),
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
    use std::time::Duration;
    use tidewatch_dataflows::rows::SeriesPresence;
    use tidewatch_dataflows::sample::{Samples, SeriesId};

    fn logs(journal: &Journal, outbox: Outbox) -> EngineLogs {
        EngineLogs { journal: journal.clone(), outbox, snapshots: None }
    }

    #[test]
    fn after_a_panic_the_engine_is_built_anew_and_can_be_left() {
        let removed = tempfile::tempdir().unwrap();
        let folder = removed.path();
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
        let removed = tempfile::tempdir().unwrap();
        let folder = removed.path();
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
    }

    #[test]
    fn workers_say_what_they_know_of_a_series() {
        const T: i64 = 1_700_000_000_000;
        for workers in [1, 3] {
            let removed = tempfile::tempdir().unwrap();
            let folder = removed.path();
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
        }
    }
}
