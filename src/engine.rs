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

mod questions;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TryRecvError, TrySendError, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use tidewatch_dataflows::driver::{self, BATCH_SAMPLES};
use tidewatch_dataflows::graph::{self, OPERATORS, Sizes};
use tidewatch_dataflows::outcome::Outcomes;
use tidewatch_dataflows::sample::{Control, EpochEnd, Mark, MetricType, Reason, Samples, SeriesId};
use tidewatch_dataflows::settings::Settings;
use timely::container::{CapacityContainerBuilder, NoopBuilder};
use timely::dataflow::operators::Probe;
use timely::dataflow::operators::generic::{OutputBuilder, builder_rc::OperatorBuilder};
use timely::dataflow::{ProbeHandle, Scope, Stream, StreamVec};
use timely::logging::{StartStop, TimelyEvent, TimelyEventBuilder};
use timely::scheduling::SyncActivator;

pub use self::questions::{AskError, Questions};
use self::questions::{Asked, serve};
use crate::journal::{JournalError, Reader, Record};
use crate::metrics::{Metrics, Operator, Queue, Rejected};
use crate::outbox::{Outbox, OutboxError};

/// Batches that may wait for one worker.
const BATCHES_QUEUED: usize = 64;
/// Epochs a source may be ahead of the output.
const EPOCHS_IN_FLIGHT: u64 = 4;
/// Finished epochs of one worker that may wait for the merger.
const EPOCHS_QUEUED: usize = 4;
/// Epochs written to the outbox between two syncs, at most.
const EPOCHS_PER_SYNC: u32 = 64;
/// How long a worker may take to build its dataflow.
const START_MAX: Duration = Duration::from_secs(30);
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

enum Message {
    Batch(Samples),
    Mark(Mark),
}

/// The sending side of one worker's source.
struct Feed {
    queue: SyncSender<Message>,
    activator: SyncActivator,
    asked: Asked,
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

type Guards = timely::communication::WorkerGuards<()>;

/// Starts the workers and waits until each has built its dataflow.
fn start_workers(
    workers: usize,
    settings: &Settings,
    to_merger: Vec<SyncSender<(EpochEnd, Outcomes)>>,
    progress: &Arc<Progress>,
    busy: &Arc<Busy>,
    quit: &Arc<AtomicBool>,
    on_fatal: &OnFatal,
) -> Result<(Vec<Feed>, Guards), EngineError> {
    let (announce, announced) = sync_channel(workers);
    let announce = Mutex::new(announce);
    let shared = (
        Arc::new(settings.clone()),
        Arc::clone(&progress.sizes),
        Arc::clone(busy),
        Arc::clone(quit),
        Arc::clone(on_fatal),
    );
    let to_merger: Vec<_> = to_merger.into_iter().map(|sender| Mutex::new(Some(sender))).collect();
    let guards = timely::execute(timely::Config::process(workers), move |worker| {
        let (settings, sizes, busy, quit, on_fatal) = shared.clone();
        let index = worker.index();
        let announce = announce.lock().expect("no worker panics while announcing").clone();
        let to_merger = to_merger[index]
            .lock()
            .expect("each worker takes its own")
            .take()
            .expect("each worker takes it once");
        let run = std::panic::AssertUnwindSafe(|| {
            log_operators(worker, &busy);
            let (queue, messages) = sync_channel(BATCHES_QUEUED);
            let (activator, gates) = worker.dataflow(|scope| {
                let probe = ProbeHandle::new();
                let (samples, marks, activator) = source(scope, messages, probe.clone());
                let (outcomes, gates) = graph::build(samples, marks.clone(), &settings, &sizes);
                driver::complete(outcomes, marks, "outbox", move |end, all| send(&to_merger, end, all))
                    .probe_with(&probe);
                (activator, gates)
            });
            let (asked, questions) = Asked::new(activator.clone());
            announce.send((index, Feed { queue, activator, asked })).expect("start waits for every worker");
            while worker.has_dataflows() {
                worker.step_or_park(Some(PATIENCE));
                serve(&questions, &gates);
                if quit.load(Ordering::Relaxed) {
                    worker.installed_dataflows().into_iter().for_each(|flow| worker.drop_dataflow(flow));
                }
            }
        });
        let ended = std::panic::catch_unwind(run);
        // Otherwise timely would go on stepping a dataflow that a panic has left half done.
        worker.installed_dataflows().into_iter().for_each(|flow| worker.drop_dataflow(flow));
        if let Err(panic) = ended {
            on_fatal(EngineError::Panic { worker: index, message: message_of(panic.as_ref()) });
        }
    })
    .map_err(EngineError::Timely)?;
    let mut feeds: Vec<Option<Feed>> = (0..workers).map(|_| None).collect();
    for _ in 0..workers {
        let ready = announced.recv_timeout(START_MAX);
        let (index, feed) =
            ready.map_err(|_| EngineError::Timely(format!("a worker was not ready within {START_MAX:?}")))?;
        feeds[index] = Some(feed);
    }
    Ok((feeds.into_iter().flatten().collect(), guards))
}

/// Hands an epoch to the merger; false if it is full.
fn send(to_merger: &SyncSender<(EpochEnd, Outcomes)>, end: EpochEnd, all: &mut Outcomes) -> bool {
    all.settle();
    match to_merger.try_send((end, std::mem::take(all))) {
        Ok(()) => true,
        Err(TrySendError::Full((_, back))) => {
            *all = back;
            false
        }
        // The merger ended with an error that is being reported; there is nobody to hand this to.
        Err(TrySendError::Disconnected(_)) => true,
    }
}

/// The zero-input operator that takes one worker's messages into the dataflow.
fn source<'scope>(
    scope: Scope<'scope, u64>,
    messages: Receiver<Message>,
    output: ProbeHandle<u64>,
) -> (Stream<'scope, u64, Samples>, StreamVec<'scope, u64, Mark>, SyncActivator) {
    let mut builder = OperatorBuilder::new("source".to_owned(), scope);
    let info = builder.operator_info();
    let outside = scope.worker().sync_activator_for(info.address.to_vec());
    let again = scope.activator_for(info.address);
    let (samples, sample_stream) = builder.new_output::<Samples>();
    let (marks, mark_stream) = builder.new_output::<Vec<Mark>>();
    let mut samples = OutputBuilder::<u64, NoopBuilder<Samples>>::from(samples);
    let mut marks = OutputBuilder::<u64, CapacityContainerBuilder<Vec<Mark>>>::from(marks);
    builder.build(move |capabilities| {
        let mut held = Some(capabilities);
        let mut epoch = 0_u64;
        move |_| {
            let Some(capabilities) = held.as_mut() else { return };
            let (mut samples, mut marks) = (samples.activate(), marks.activate());
            for _ in 0..BATCHES_QUEUED {
                if output.less_than(&epoch.saturating_sub(EPOCHS_IN_FLIGHT)) {
                    again.activate_after(Duration::from_micros(200));
                    return;
                }
                match messages.try_recv() {
                    Ok(Message::Batch(mut batch)) => {
                        samples.session_with_builder(&capabilities[0]).give_container(&mut batch)
                    }
                    Ok(Message::Mark(mark)) => {
                        let ends = matches!(mark, Mark::End(_));
                        marks.session(&capabilities[1]).give(mark);
                        if ends {
                            epoch += 1;
                            capabilities.iter_mut().for_each(|capability| capability.downgrade(&epoch));
                        }
                    }
                    Err(TryRecvError::Empty) => return,
                    Err(TryRecvError::Disconnected) => {
                        held = None;
                        return;
                    }
                }
            }
            again.activate();
        }
    });
    (sample_stream, mark_stream, outside)
}

/// Reads the journal and deals its batches out to the workers in turn; every worker gets every epoch's marks.
///
/// Ends when the journal is read to its end, or when a worker is gone: that one has told why, and the rest of the
/// journal is for the next start.
fn feed(
    mut reader: Reader,
    feeds: &[Feed],
    progress: &Progress,
    quit: &AtomicBool,
    mut types: impl FnMut(&[(u64, MetricType)]),
) -> Result<(), JournalError> {
    let (mut turn, mut all_there) = (0, true);
    let put = |to: usize, message: Message| {
        let sent = feeds[to].queue.send(message).is_ok();
        sent && feeds[to].activator.activate().is_ok()
    };
    let tell = |mark: Mark| (0..feeds.len()).all(|to| put(to, Message::Mark(mark.clone())));
    while all_there && !quit.load(Ordering::Relaxed) {
        match reader.next(PATIENCE)? {
            Some(Record::Samples(samples)) => {
                progress.samples.fetch_add(samples.len() as u64, Ordering::Relaxed);
                all_there = parts(samples).all(|part| {
                    turn = (turn + 1) % feeds.len();
                    put(turn, Message::Batch(part))
                });
            }
            Some(Record::EpochEnd(end)) => all_there = tell(Mark::End(end)),
            Some(Record::Control(control)) => {
                if let Control::Types(told) = &control {
                    types(told);
                }
                all_there = tell(Mark::Control(Arc::new(control)));
            }
            // Checked when the journal was opened: they are the settings this process runs with.
            Some(Record::Settings(_) | Record::Fills(_)) => {}
            None if reader.finished() => return Ok(()),
            None => {}
        }
    }
    Ok(())
}

/// Splits what is too large for one batch.
fn parts(samples: Samples) -> impl Iterator<Item = Samples> {
    let mut rest = Some(samples);
    std::iter::from_fn(move || {
        let mut all = rest.take().filter(|all| !all.is_empty())?;
        if all.len() > BATCH_SAMPLES {
            rest = Some(all.split_off(BATCH_SAMPLES));
        }
        Some(all)
    })
}

/// Ends the sources, so that the dataflows drain, and waits for the workers.
fn finish((feeds, guards): (Vec<Feed>, Guards)) {
    for Feed { queue, activator, .. } in feeds {
        drop(queue);
        // An activator fails only if its worker is gone, which is what is wanted.
        let _ = activator.activate();
    }
    guards.join().into_iter().for_each(drop);
}

/// Merges the workers' outcomes epoch by epoch into the outbox.
struct Merger {
    outbox: Outbox,
    progress: Arc<Progress>,
    metrics: Arc<Metrics>,
    busy: Arc<Busy>,
    quit: Arc<AtomicBool>,
    closing: Arc<AtomicBool>,
    freed: Box<dyn FnMut(Freed) + Send>,
}

impl Merger {
    fn run(mut self, workers: &[Receiver<(EpochEnd, Outcomes)>]) -> Result<(), OutboxError> {
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

/// Nanoseconds operators were scheduled for, by name, summed over workers.
#[derive(Default)]
struct Busy(Mutex<HashMap<String, u64>>);

impl Busy {
    fn add(&self, seen: &mut HashMap<String, u64>) {
        let mut all = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        for (name, nanos) in seen.drain() {
            *all.entry(name).or_default() += nanos;
        }
    }

    fn publish(&self, metrics: &Metrics) {
        let mut all = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        for (operator, nanos) in all.drain() {
            metrics.operator_seconds.get_or_create(&Operator { operator }).inc_by(nanos as f64 / 1e9);
        }
    }
}

/// Has timely tell when operators run; sums it up by name.
fn log_operators(worker: &timely::worker::Worker, busy: &Arc<Busy>) {
    let names = [OPERATORS[0], OPERATORS[1], "source", "outbox"];
    let (mut operators, mut running) =
        (HashMap::<usize, &'static str>::new(), HashMap::<usize, Duration>::new());
    let (mut seen, busy) = (HashMap::new(), Arc::clone(busy));
    let Some(mut register) = worker.log_register() else { return };
    register.insert::<TimelyEventBuilder, _>("timely", move |_, events| {
        for (at, event) in events.iter_mut().flat_map(|events| events.drain(..)) {
            match event {
                TimelyEvent::Operates(operates) => {
                    operators.extend(
                        names.iter().find(|name| **name == operates.name).map(|name| (operates.id, *name)),
                    );
                }
                TimelyEvent::Schedule(schedule) => match (operators.get(&schedule.id), schedule.start_stop) {
                    (Some(_), StartStop::Start) => {
                        running.insert(schedule.id, at);
                    }
                    (Some(name), StartStop::Stop) => {
                        if let Some(start) = running.remove(&schedule.id) {
                            *seen.entry((*name).to_owned()).or_default() +=
                                at.saturating_sub(start).as_nanos() as u64;
                        }
                    }
                    (None, _) => {}
                },
                _ => {}
            }
        }
        busy.add(&mut seen);
    });
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
    use super::*;
    use crate::journal::{self, Journal, Mode};
    use crate::outbox;
    use tidewatch_dataflows::outcome::Seen;

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
            assert!(durable.wait_for_epoch(journal.last_epoch_end().unwrap().epoch, START_MAX));
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
