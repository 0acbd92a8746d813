//! A generation: the workers, the feeder and the merger that begin together and end together.
//!
//! A panic in one of them poisons the generation: the others see it within [`PATIENCE`], drop their dataflows and
//! end. Without that they would wait for the one that is gone for ever.
//!
//! Not here: whether another generation follows (`supervisor`).

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::error::EngineError;
use super::feeder::{feed, finish};
use super::merger::Merger;
use super::shared::EngineShared;
use super::start::FeederStart;
use super::thread::{
    PATIENCE, ShardEpochs, Signals, Thread, ThreadEvent, ThreadFailure, ThreadPanic, ThreadReport, WorkerFeed,
};
use super::workers::{Guards, start_workers};
use crate::journal::Journal;

/// Finished epochs of one worker that may wait for the merger.
const EPOCHS_QUEUED: usize = 4;
/// How long a worker may take for one shard, or to build its dataflow.
const START_MAX: Duration = Duration::from_secs(30);
/// How long the threads of a poisoned generation may take to end.
pub(super) const JOIN_MAX: Duration = Duration::from_secs(30);

/// How a generation ended.
pub(super) enum GenerationEnd {
    /// The journal is closed and all of it is in the outbox, or the engine is left.
    Done,
    /// The first panic.
    Panicked(ThreadPanic),
    /// What no other generation would do better.
    Failed(EngineError),
    /// Some threads did not end within [`JOIN_MAX`] after this.
    Stuck(Vec<Thread>, String),
}

/// The threads of a generation.
pub(super) struct Generation {
    signals: Arc<Signals>,
    events: Receiver<ThreadEvent>,
    running: Vec<Thread>,
    threads: Vec<JoinHandle<()>>,
    guards: Option<Guards>,
    failure: Option<ThreadFailure>,
}

impl Generation {
    /// Starts all threads, runs until all of them have ended, and tells how that was.
    pub(super) fn run(shared: &EngineShared, journal: &Journal, signals: Signals) -> GenerationEnd {
        let (to, events) = channel();
        let mut generation = Generation {
            signals: Arc::new(signals),
            events,
            running: Vec::new(),
            threads: Vec::new(),
            guards: None,
            failure: None,
        };
        if let Err(error) = generation.start(shared, journal, to) {
            generation.fail(ThreadFailure::Error(error));
        }
        let ended = generation.wait();
        shared.questions.none();
        ended
    }

    fn start(
        &mut self,
        shared: &EngineShared,
        journal: &Journal,
        to: Sender<ThreadEvent>,
    ) -> Result<(), EngineError> {
        let (to_merger, from_workers): (Vec<_>, Vec<_>) =
            (0..shared.workers).map(|_| sync_channel(EPOCHS_QUEUED)).unzip();
        self.guards = Some(start_workers(shared, to_merger, &self.signals, &to)?);
        self.running.extend((0..shared.workers).map(Thread::Worker));
        let Some((feeds, begun)) = self.ready(shared)? else { return Ok(()) };
        let start = FeederStart::after(journal, &begun, shared.snapshots.clone())?;
        shared.progress.computed.store(start.after.unwrap_or(0), Ordering::Release);
        shared.questions.ask_these(feeds.iter().map(|feed| feed.questions.clone()));

        let (progress, signals, types) =
            (Arc::clone(&shared.progress), Arc::clone(&self.signals), Arc::clone(&shared.types));
        self.spawn(Thread::Feeder, &to, move || {
            let fed = feed(start, &feeds, &progress, &signals, &types);
            finish(feeds);
            Ok(fed?)
        })?;
        let merger = Merger {
            outbox: Arc::clone(&shared.outbox),
            progress: Arc::clone(&shared.progress),
            metrics: Arc::clone(&shared.metrics),
            busy: Arc::clone(&shared.busy),
            signals: Arc::clone(&self.signals),
            freed: Arc::clone(&shared.freed),
            snapshots: shared.snapshots.clone(),
            saved: Vec::new(),
        };
        self.spawn(Thread::Merger, &to, move || merger.run(&from_workers))
    }

    fn spawn(
        &mut self,
        thread: Thread,
        to: &Sender<ThreadEvent>,
        work: impl FnOnce() -> Result<(), EngineError> + Send + 'static,
    ) -> Result<(), EngineError> {
        let report = ThreadReport::new(thread, to.clone());
        let builder = std::thread::Builder::new().name(thread.kind().to_owned());
        self.threads.push(builder.spawn(move || report.run(&mut (), |()| work(), |()| {}))?);
        self.running.push(thread);
        Ok(())
    }

    /// Waits until each worker has built its dataflow; nothing if one of them ends before.
    fn ready(
        &mut self,
        shared: &EngineShared,
    ) -> Result<Option<(Vec<WorkerFeed>, ShardEpochs)>, EngineError> {
        let mut feeds: Vec<Option<WorkerFeed>> = (0..shared.workers).map(|_| None).collect();
        let mut deadline = Instant::now() + START_MAX;
        let mut begun = ShardEpochs::default();
        while feeds.iter().any(Option::is_none) {
            match self.events.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(ThreadEvent::Loaded) => {
                    shared.progress.steps.fetch_add(1, Ordering::Relaxed);
                    deadline = Instant::now() + START_MAX;
                }
                Ok(ThreadEvent::Ready(index, feed, shards)) => {
                    feeds[index] = Some(feed);
                    begun.extend(shards);
                }
                Ok(ThreadEvent::Ended(thread, ended)) => {
                    self.ended(thread, ended);
                    self.signals.poison();
                    return Ok(None);
                }
                Err(_) => {
                    return Err(EngineError::Timely(format!("a worker was not ready within {START_MAX:?}")));
                }
            }
        }
        Ok(Some((feeds.into_iter().flatten().collect(), begun)))
    }

    /// Waits for all threads; not for ever once one of them should make the others end.
    fn wait(mut self) -> GenerationEnd {
        let mut deadline = None;
        while !self.running.is_empty() {
            match self.events.recv_timeout(PATIENCE) {
                Ok(ThreadEvent::Ended(thread, ended)) => self.ended(thread, ended),
                // It was ready too late to matter.
                Ok(ThreadEvent::Ready(..) | ThreadEvent::Loaded) | Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            if self.signals.over() {
                let deadline = *deadline.get_or_insert_with(|| Instant::now() + JOIN_MAX);
                if Instant::now() >= deadline {
                    return self.stuck();
                }
            }
        }
        // Each has told that its work has ended: what is left of it takes moments.
        for thread in self.threads {
            // A panic was caught and told.
            let _ = thread.join();
        }
        self.guards.into_iter().for_each(|guards| guards.join().into_iter().for_each(drop));
        match self.failure {
            None => GenerationEnd::Done,
            Some(ThreadFailure::Panic(panicked)) => GenerationEnd::Panicked(panicked),
            Some(ThreadFailure::Error(error)) => GenerationEnd::Failed(error),
        }
    }

    fn stuck(self) -> GenerationEnd {
        // Dropping the guards would wait for the workers.
        self.guards.into_iter().for_each(std::mem::forget);
        let after = match self.failure {
            None => "the engine was left".to_owned(),
            Some(ThreadFailure::Panic(panicked)) => panicked.to_string(),
            Some(ThreadFailure::Error(error)) => error.to_string(),
        };
        GenerationEnd::Stuck(self.running, after)
    }

    fn ended(&mut self, thread: Thread, ended: Result<(), ThreadFailure>) {
        self.running.retain(|running| *running != thread);
        if let Err(failure) = ended {
            self.fail(failure);
        }
    }

    /// The first failure counts, for the others may come of it; but an error is more than a panic.
    fn fail(&mut self, failure: ThreadFailure) {
        self.signals.poison();
        if self.failure.is_none()
            || matches!((&self.failure, &failure), (Some(ThreadFailure::Panic(_)), ThreadFailure::Error(_)))
        {
            self.failure = Some(failure);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_a_thread_ended_is_told_whatever_ended_it() {
        let told = |work: fn() -> Result<(), EngineError>, clear: fn()| {
            let (to, from) = channel();
            ThreadReport::new(Thread::Merger, to).run(&mut (), |()| work(), |()| clear());
            let Ok(ThreadEvent::Ended(Thread::Merger, ended)) = from.recv() else {
                panic!("nothing was told")
            };
            assert!(from.recv().is_err(), "it was told twice");
            ended.map_err(|failure| match failure {
                ThreadFailure::Panic(panicked) => panicked.to_string(),
                ThreadFailure::Error(error) => error.to_string(),
            })
        };
        let panicked = |what: &str| Err(format!("the engine's merger panicked: {what}"));
        assert_eq!(told(|| Ok(()), || {}), Ok(()));
        assert_eq!(told(|| panic!("no {}", "more"), || {}), panicked("no more"));
        assert_eq!(told(|| Ok(()), || panic!("while clearing up")), panicked("while clearing up"));
        assert_eq!(told(|| panic!("first"), || panic!("second")), panicked("first"));
        let gone = told(|| Err(EngineError::Timely("gone".to_owned())), || {});
        assert_eq!(gone, Err("the timely workers cannot be started: gone".to_owned()));
        let (to, from) = channel();
        drop(ThreadReport::new(Thread::Worker(3), to));
        let Ok(ThreadEvent::Ended(Thread::Worker(3), Err(ThreadFailure::Panic(panicked)))) = from.recv()
        else {
            panic!("nothing was told")
        };
        assert_eq!(panicked.to_string(), "worker 3 panicked: it ended without a word");
    }
}
