//! Questions to the workers, answered between their steps: what a worker holds is seen as of an epoch's end, never
//! half-way through a shard.
//!
//! Each worker has a queue of [`QUESTIONS_QUEUED`]. A question goes to all workers, for each owns some shards, and
//! answers come back through a channel of its own. Nobody waits for an answer longer than [`ANSWER_MAX`].
//!
//! Not here: how far the workers are behind the journal. Who asks waits until they are where they should be.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tidewatch_dataflows::graph::StateQueries;
use tidewatch_dataflows::rows::SeriesPresence;
use tidewatch_dataflows::rows::inspect::{Explanation, OpenWindows, StateCheck, StepsView, Unavailable};
use tidewatch_dataflows::sample::SeriesId;
use tidewatch_dataflows::shard::RawSamples;
use timely::scheduling::SyncActivator;

use super::progress::EngineProgress;
use crate::store::budget::Budget;
use crate::store::{NoAnswer, OpenWindowSource};

/// Questions that may wait for one worker.
pub const QUESTIONS_QUEUED: usize = 4;
/// Series one question is about, so that a worker is soon back at its work.
const SERIES_PER_QUESTION: usize = 65_536;
/// Series one question has computed again: some ten milliseconds with the largest windows, less than one with the usual.
const CHECKS_PER_QUESTION: usize = 16;
/// Series whose open windows one question is about: some milliseconds of a worker.
const OPEN_PER_QUESTION: usize = 512;
/// How often series are looked at whose shard is inside an epoch, and the pause before each next look.
const LOOKS_MAX: u32 = 50;
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// Longest wait for an answer: many times the longest step.
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AskError {
    /// Too many questions wait already; come again.
    #[error("the workers have {QUESTIONS_QUEUED} questions waiting already; try again")]
    Busy,
    /// The workers are at a step that takes long; come again.
    #[error("the workers did not answer within {} s", ANSWER_MAX.as_secs())]
    Late,
    /// The workers are built anew, or have not yet computed what the journal held then; come again.
    #[error("the engine computes its state again; try again")]
    Rebuilding,
    /// The engine has ended.
    #[error("the engine has ended")]
    Ended,
}

impl From<AskError> for NoAnswer {
    fn from(error: AskError) -> NoAnswer {
        match error {
            AskError::Busy | AskError::Late => NoAnswer::Busy(error.to_string()),
            AskError::Rebuilding | AskError::Ended => NoAnswer::Later(error.to_string()),
        }
    }
}

/// A question to one worker. A kind of question is a variant here and an arm in [`Question::answer`].
pub enum WorkerQuestion {
    /// What is known of these series; answered with the place in the list of each that the worker owns.
    Newest {
        /// The list.
        series: Arc<[u64]>,
        /// Where the answer goes; has room for all workers.
        answer: SyncSender<Vec<(usize, SeriesPresence)>>,
    },
    /// A known series for each of these numbers, where the worker has one.
    Pick {
        /// Any numbers.
        numbers: Arc<[u64]>,
        /// Where the answer goes.
        answer: SyncSender<Vec<SeriesId>>,
    },
    /// Whether what is held of these series adds up.
    Audit {
        /// The list.
        series: Arc<[SeriesId]>,
        /// Where the answer goes.
        answer: SyncSender<Vec<AuditAnswer>>,
    },
    /// What a key of a series is made of.
    Explain {
        /// The series.
        series: SeriesId,
        /// Length of the window.
        window_ms: i64,
        /// End of the window.
        at_ms: i64,
        /// Where the answer goes.
        answer: SyncSender<Option<Result<Explanation, Unavailable>>>,
    },
    /// The raw samples that are held of a series.
    Raw {
        /// The series.
        series: SeriesId,
        /// Where the answer goes.
        answer: SyncSender<Option<Result<RawSamples, Unavailable>>>,
    },
    /// The steps of a series.
    Steps {
        /// The series.
        series: SeriesId,
        /// Where the answer goes.
        answer: SyncSender<Option<Result<StepsView, Unavailable>>>,
    },
    /// The open windows of these series; answered with the place in the list of each that the worker owns.
    Open {
        /// The list.
        series: Arc<[SeriesId]>,
        /// Lengths of the windows; all if there is none.
        lengths_ms: Arc<[i64]>,
        /// Where the answer goes.
        answer: SyncSender<Vec<(usize, Result<OpenWindows, Unavailable>)>>,
    },
}

/// A series, and what checking it came to.
pub type AuditAnswer = (SeriesId, Result<StateCheck, Unavailable>);

impl WorkerQuestion {
    /// Answers from what one worker holds.
    fn answer(self, queries: &StateQueries) {
        match self {
            WorkerQuestion::Newest { series, answer } => {
                let places = series.iter().enumerate();
                let seen = places
                    .filter_map(|(place, id)| queries.presence(SeriesId(*id)).map(|seen| (place, seen)));
                // Who asked may have given up waiting.
                let _ = answer.try_send(seen.collect());
            }
            WorkerQuestion::Pick { numbers, answer } => {
                let _ = answer.try_send(numbers.iter().filter_map(|n| queries.pick(*n)).collect());
            }
            WorkerQuestion::Audit { series, answer } => {
                let checked = series.iter().filter_map(|id| queries.check(*id).map(|found| (*id, found)));
                let _ = answer.try_send(checked.collect());
            }
            WorkerQuestion::Explain { series, window_ms, at_ms, answer } => {
                let _ = answer.try_send(queries.explain(series, window_ms, at_ms));
            }
            WorkerQuestion::Raw { series, answer } => {
                let _ = answer.try_send(queries.raw(series));
            }
            WorkerQuestion::Steps { series, answer } => {
                let _ = answer.try_send(queries.steps(series));
            }
            WorkerQuestion::Open { series, lengths_ms, answer } => {
                let places = series.iter().enumerate();
                let open = places.filter_map(|(place, id)| Some((place, queries.open(*id, &lengths_ms)?)));
                let _ = answer.try_send(open.collect());
            }
        }
    }
}

/// Answers what is waiting; the queue bounds how much that is.
pub fn serve(questions: &Receiver<WorkerQuestion>, queries: &StateQueries) {
    questions.try_iter().take(QUESTIONS_QUEUED).for_each(|question| question.answer(queries));
}

/// The asking side of one worker.
#[derive(Clone)]
pub struct WorkerQueue {
    queue: SyncSender<WorkerQuestion>,
    activator: SyncActivator,
}

impl WorkerQueue {
    /// A queue to the worker that `activator` wakes.
    pub fn new(activator: SyncActivator) -> (WorkerQueue, Receiver<WorkerQuestion>) {
        let (queue, questions) = sync_channel(QUESTIONS_QUEUED);
        (WorkerQueue { queue, activator }, questions)
    }
}

/// Who can be asked.
enum Workers {
    /// Those of the present generation.
    These(Arc<[WorkerQueue]>),
    /// Nobody between two generations.
    None,
    /// Nobody any more.
    Ended,
}

/// Asks the workers of one engine, whichever generation runs; cheap to clone.
#[derive(Clone)]
pub struct Questions {
    workers: Arc<Mutex<Workers>>,
    progress: Arc<EngineProgress>,
}

impl Questions {
    /// Questions to workers that are yet to come.
    pub(super) fn new(progress: Arc<EngineProgress>) -> Questions {
        Questions { workers: Arc::new(Mutex::new(Workers::None)), progress }
    }

    /// These workers are there now.
    pub(super) fn ask_these(&self, workers: impl Iterator<Item = WorkerQueue>) {
        self.set(Workers::These(workers.collect()));
    }

    /// They are gone, and others may come.
    pub(super) fn none(&self) {
        self.set(Workers::None);
    }

    /// Nobody comes any more.
    pub(super) fn end(&self) {
        self.set(Workers::Ended);
    }

    fn set(&self, workers: Workers) {
        *self.workers.lock() = workers;
    }

    /// Whether there are, or were, workers to ask: a generation is being built until they are.
    pub fn begun(&self) -> bool {
        !matches!(*self.workers.lock(), Workers::None)
    }

    /// The workers, if they know what the journal held when they were built.
    fn workers(&self) -> Result<Arc<[WorkerQueue]>, AskError> {
        match &*self.workers.lock() {
            Workers::These(workers) if !self.progress.rebuilding() => Ok(Arc::clone(workers)),
            Workers::These(_) | Workers::None => Err(AskError::Rebuilding),
            Workers::Ended => Err(AskError::Ended),
        }
    }

    /// What it means that a worker is gone.
    fn gone(&self) -> AskError {
        match &*self.workers.lock() {
            Workers::Ended => AskError::Ended,
            Workers::These(_) | Workers::None => AskError::Rebuilding,
        }
    }

    /// What the engine knows of each of `series`, each as of some epoch that the journal holds.
    ///
    /// # Errors
    /// The workers are busy, or gone.
    pub fn newest(&self, series: &[u64]) -> Result<Vec<SeriesPresence>, AskError> {
        let mut all = Vec::with_capacity(series.len());
        for part in series.chunks(SERIES_PER_QUESTION) {
            let part: Arc<[u64]> = part.into();
            let mut seen = vec![SeriesPresence::Unknown; part.len()];
            let newest = |answer| WorkerQuestion::Newest { series: Arc::clone(&part), answer };
            for answers in self.ask(newest)? {
                answers.into_iter().for_each(|(place, one)| seen[place] = one);
            }
            all.append(&mut seen);
        }
        Ok(all)
    }

    /// A known series for each of `numbers`, but for numbers that fall to a worker that has none.
    ///
    /// # Errors
    /// The workers are busy, or gone.
    pub fn pick(&self, numbers: &[u64]) -> Result<Vec<SeriesId>, AskError> {
        let numbers: Arc<[u64]> = numbers.into();
        let all = self.ask(|answer| WorkerQuestion::Pick { numbers: Arc::clone(&numbers), answer })?;
        Ok(all.into_iter().flatten().collect())
    }

    /// Whether what is held of each of `series` adds up, each as of some epoch.
    ///
    /// # Errors
    /// The workers are busy, or gone.
    pub fn audit(&self, series: &[SeriesId]) -> Result<Vec<AuditAnswer>, AskError> {
        let mut all = Vec::with_capacity(series.len());
        for part in series.chunks(CHECKS_PER_QUESTION) {
            let part: Arc<[SeriesId]> = part.into();
            let audit = |answer| WorkerQuestion::Audit { series: Arc::clone(&part), answer };
            all.extend(self.ask(audit)?.into_iter().flatten());
        }
        Ok(all)
    }

    /// What the key `at_ms` of a window of a series is made of.
    ///
    /// # Errors
    /// The workers are busy, or gone; inside, why the series cannot be looked at.
    pub fn explain(
        &self,
        series: SeriesId,
        window_ms: i64,
        at_ms: i64,
    ) -> Result<Result<Explanation, Unavailable>, AskError> {
        let explain = |answer| WorkerQuestion::Explain { series, window_ms, at_ms, answer };
        // One worker owns the series; the others have nothing to say.
        let found = self.ask(explain)?.into_iter().flatten().next();
        Ok(found.unwrap_or(Err(Unavailable::Unknown)))
    }

    /// The raw samples that are held of a series, as of the end of some epoch.
    ///
    /// # Errors
    /// The workers are busy, or gone; inside, why the series cannot be looked at.
    pub fn raw(&self, series: SeriesId) -> Result<Result<RawSamples, Unavailable>, AskError> {
        let found = self.ask(|answer| WorkerQuestion::Raw { series, answer })?.into_iter().flatten().next();
        Ok(found.unwrap_or(Err(Unavailable::Unknown)))
    }

    /// The steps of a series that its profile looks back on, as of the end of some epoch.
    ///
    /// # Errors
    /// The workers are busy, or gone; inside, why the series cannot be looked at.
    pub fn steps(&self, series: SeriesId) -> Result<Result<StepsView, Unavailable>, AskError> {
        let found = self.ask(|answer| WorkerQuestion::Steps { series, answer })?.into_iter().flatten().next();
        Ok(found.unwrap_or(Err(Unavailable::Unknown)))
    }

    /// The open windows of each of `series`, of these lengths or all; each as of the end of some epoch.
    ///
    /// # Errors
    /// The workers are busy, or gone.
    fn open_windows(
        &self,
        series: &[SeriesId],
        lengths_ms: &[i64],
        budget: &Budget,
    ) -> Result<Vec<OpenWindows>, NoAnswer> {
        let lengths_ms: Arc<[i64]> = lengths_ms.into();
        let mut all = vec![None; series.len()];
        let mut left: Vec<usize> = (0..series.len()).collect();
        for look in 0..LOOKS_MAX {
            if look > 0 {
                std::thread::sleep(LOOK_AGAIN);
            }
            for part in left.chunks(OPEN_PER_QUESTION) {
                let ids: Arc<[SeriesId]> = part.iter().map(|place| series[*place]).collect();
                let question = |answer| WorkerQuestion::Open {
                    series: ids.clone(),
                    lengths_ms: lengths_ms.clone(),
                    answer,
                };
                budget.check().map_err(NoAnswer::Over)?;
                let answers = self.ask_within(question, budget)?;
                for (place, open) in answers.into_iter().flatten() {
                    all[part[place]] = open.ok();
                }
            }
            left.retain(|place| all[*place].is_none());
            if left.is_empty() {
                return Ok(all.into_iter().flatten().collect());
            }
        }
        Err(AskError::Late.into())
    }

    /// Puts a question to every worker and waits for all answers.
    fn ask<T>(&self, question: impl Fn(SyncSender<T>) -> WorkerQuestion) -> Result<Vec<T>, AskError> {
        self.ask_while(question, || true)
    }

    /// The same for a question that has a budget.
    fn ask_within<T>(
        &self,
        question: impl Fn(SyncSender<T>) -> WorkerQuestion,
        budget: &Budget,
    ) -> Result<Vec<T>, NoAnswer> {
        let answers = self.ask_while(question, || budget.check().is_ok());
        answers.map_err(|error| budget.check().err().map_or_else(|| error.into(), NoAnswer::Over))
    }

    fn ask_while<T>(
        &self,
        question: impl Fn(SyncSender<T>) -> WorkerQuestion,
        wanted: impl Fn() -> bool,
    ) -> Result<Vec<T>, AskError> {
        let workers = self.workers()?;
        let (answer, answers) = sync_channel(workers.len());
        for worker in workers.iter() {
            worker.queue.try_send(question(answer.clone())).map_err(|error| match error {
                TrySendError::Full(_) => AskError::Busy,
                TrySendError::Disconnected(_) => self.gone(),
            })?;
            // One that cannot be woken is gone; its answer will be missing.
            let _ = worker.activator.activate();
        }
        // From here on a worker that ends lets go of its question, and the channel says so.
        drop(answer);
        let deadline = Instant::now() + ANSWER_MAX;
        let mut all = Vec::with_capacity(workers.len());
        while all.len() < workers.len() {
            let left = deadline.saturating_duration_since(Instant::now());
            match answers.recv_timeout(left.min(LOOK_AGAIN)) {
                Ok(answer) => all.push(answer),
                Err(RecvTimeoutError::Timeout) if left.is_zero() || !wanted() => return Err(AskError::Late),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Err(self.gone()),
            }
        }
        Ok(all)
    }
}

impl OpenWindowSource for Questions {
    fn open(
        &self,
        series: &[SeriesId],
        lengths_ms: &[i64],
        budget: &Budget,
    ) -> Result<Vec<OpenWindows>, NoAnswer> {
        self.open_windows(series, lengths_ms, budget)
    }
}
