//! The only wiring: samples to their shards, the stages of each shard, rows out.
//!
//! ```text
//!  samples ──exchange by shard──► [ stages ×workers ] ──local──► rows
//!  marks ───────local────────────►┘
//! ```

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use timely::dataflow::{Stream, StreamVec};

use crate::driver::{self, EpochBatch, owner};
use crate::pipeline::{Meter, STAGES, ShardState};
use crate::rows::inspect::{Explanation, OpenWindows, StateCheck, StepsView, Unavailable};
use crate::rows::{Rows, SeriesPresence};
use crate::sample::{Control, Mark, MetricType, SHARDS, Samples, SeriesId};
use crate::settings::{SeriesOptions, Settings};
use crate::shard::{AdmittedBatch, RawSamples, WorkPosition};
use crate::stage::{Budget, Progress};

/// The name of the operator that the stages are in.
pub const OPERATOR: &str = "stages";

/// Each shard's state is measured once in so many epochs.
const MEASURED_EVERY: u64 = 16;

/// What the workers of one graph hold, added up over shards; the bytes of each shard are measured once in 16 epochs.
#[derive(Debug, Default)]
pub struct Sizes {
    /// Bytes of state by stage, as in [`STAGES`].
    pub bytes: [AtomicU64; STAGES.len()],
    /// Series with a slot.
    pub series: AtomicU64,
}

/// What is read off a worker from outside.
#[derive(Clone)]
pub struct Instruments {
    /// What it holds; shared by the workers.
    pub sizes: Arc<Sizes>,
    /// What it is at.
    pub position: Arc<WorkPosition>,
    /// How long its stages take.
    pub meter: Rc<dyn Meter>,
}

impl Default for Instruments {
    fn default() -> Instruments {
        Instruments { sizes: Arc::default(), position: Arc::default(), meter: Rc::new(()) }
    }
}

/// Adds up a changing figure over shards.
struct PerShard(Vec<u64>);

impl PerShard {
    fn new() -> Self {
        PerShard(vec![0; SHARDS])
    }

    fn set(&mut self, shard: usize, now: u64, total: &AtomicU64) {
        total.fetch_add(now.wrapping_sub(std::mem::replace(&mut self.0[shard], now)), Ordering::Relaxed);
    }
}

/// What one epoch brings about series beside samples, by shard.
#[derive(Default)]
struct ClassesByShard {
    epoch: Option<u64>,
    shards: Vec<ShardClasses>,
}

/// The same of series of one shard, in the order of the journal.
#[derive(Default)]
struct ShardClasses {
    /// Types, as sources said.
    said: Vec<(SeriesId, MetricType)>,
    /// Types by their names.
    named: Vec<(SeriesId, MetricType)>,
    /// What is set.
    options: Vec<(SeriesId, SeriesOptions)>,
}

impl ClassesByShard {
    /// Those of a shard's series; all shards of a worker ask, one after the other.
    fn take(&mut self, shard: usize, epoch: &EpochBatch) -> ShardClasses {
        if epoch.controls.is_empty() {
            return ShardClasses::default();
        }
        if self.epoch != Some(epoch.end.epoch) {
            self.epoch = Some(epoch.end.epoch);
            self.shards = (0..SHARDS).map(|_| ShardClasses::default()).collect();
            for control in epoch.controls {
                let (types, is_said) = match &**control {
                    Control::Types(types) => (types, true),
                    Control::NamedTypes(types) => (types, false),
                    Control::Options { options, series } => {
                        for series in series.iter().copied().map(SeriesId) {
                            self.shards[series.shard()].options.push((series, *options));
                        }
                        continue;
                    }
                    _ => continue,
                };
                for (series, kind) in types {
                    let series = SeriesId(*series);
                    let of_shard = &mut self.shards[series.shard()];
                    let list = if is_said { &mut of_shard.said } else { &mut of_shard.named };
                    list.push((series, *kind));
                }
            }
        }
        std::mem::take(&mut self.shards[shard])
    }
}

/// The shards of one worker and what they share.
struct WorkerState {
    /// By number; `None` for those of other workers.
    shards: Vec<Option<ShardState>>,
    batch: AdmittedBatch,
    classes: ClassesByShard,
    instruments: Instruments,
    bytes: [PerShard; STAGES.len()],
    series: PerShard,
    /// Epochs that were begun, and the last shard of each.
    epochs: u64,
    last: usize,
}

impl WorkerState {
    fn new(mut shards: Vec<Option<ShardState>>, instruments: &Instruments) -> WorkerState {
        shards.iter_mut().flatten().for_each(|shard| shard.attach(&instruments.position));
        WorkerState {
            last: shards.iter().rposition(Option::is_some).unwrap_or(0),
            shards,
            batch: AdmittedBatch::default(),
            classes: ClassesByShard::default(),
            instruments: instruments.clone(),
            bytes: std::array::from_fn(|_| PerShard::new()),
            series: PerShard::new(),
            epochs: 0,
        }
    }

    fn step(
        &mut self,
        shard: usize,
        epoch: &EpochBatch<'_>,
        budget: &mut Budget,
        out: &mut Rows,
    ) -> Progress {
        let Instruments { sizes, position, meter } = &self.instruments;
        let state = self.shards[shard].as_mut().expect("only owned shards are retired");
        position.begin(epoch.end.epoch);
        // All of them the first time that the shard comes to this epoch.
        let mut classes = self.classes.take(shard, epoch);
        self.batch.types.append(&mut classes.said);
        self.batch.named_types.append(&mut classes.named);
        self.batch.options.append(&mut classes.options);
        let progress = state.step(epoch, &mut self.batch, budget, &**meter, out);
        position.rest();
        if progress == Progress::More {
            return Progress::More;
        }
        // What a shard knows already, the outbox holds with the rows of then.
        self.batch.named_types = Vec::new();
        self.batch.options = Vec::new();
        let types = std::mem::take(&mut self.batch.types);
        if state.epoch() == Some(epoch.end.epoch) {
            out.types.extend(types);
        }
        self.series.set(shard, state.slots().len() as u64, &sizes.series);
        if self.epochs % MEASURED_EVERY == shard as u64 % MEASURED_EVERY {
            for (stage, bytes) in self.bytes.iter_mut().enumerate() {
                bytes.set(shard, state.bytes(stage) as u64, &sizes.bytes[stage]);
            }
        }
        self.epochs += u64::from(shard == self.last);
        Progress::Done
    }
}

/// The shards of one worker, to be looked at between its steps. Looking changes nothing.
#[derive(Clone)]
pub struct StateQueries {
    worker: Rc<RefCell<WorkerState>>,
    /// This worker, and how many there are.
    place: (usize, usize),
}

impl StateQueries {
    /// What the shard of a series says; `None` if another worker owns it.
    fn shard<T>(&self, series: SeriesId, ask: impl FnOnce(&ShardState) -> T) -> Option<T> {
        self.worker.borrow().shards[series.shard()].as_ref().map(ask)
    }

    /// What is known of a series, as of the last epoch its shard has seen; `None` if another worker owns it.
    pub fn presence(&self, series: SeriesId) -> Option<SeriesPresence> {
        self.shard(series, |shard| shard.presence(series))
    }

    /// A series with a slot for a number: any for some number. `None` if another worker answers to it, or has none.
    pub fn pick(&self, number: u64) -> Option<SeriesId> {
        let (index, peers) = (self.place.0 as u64, self.place.1 as u64);
        if number % peers != index {
            return None;
        }
        let worker = self.worker.borrow();
        let slots = || worker.shards.iter().flatten().map(ShardState::slots);
        let mut left = number / peers % slots().map(|slots| slots.len() as u64).sum::<u64>().max(1);
        for slots in slots() {
            match slots.len() as u64 {
                n if left < n => return slots.near(number / peers),
                n => left -= n,
            }
        }
        None
    }

    /// Computes again what is held of a series; `None` if another worker owns it.
    pub fn check(&self, series: SeriesId) -> Option<Result<StateCheck, Unavailable>> {
        self.shard(series, |shard| shard.check(series))
    }

    /// What the key `at_ms` of a window of a series is made of; `None` if another worker owns the series, or there is
    /// no window of this length.
    pub fn explain(
        &self,
        series: SeriesId,
        window_ms: i64,
        at_ms: i64,
    ) -> Option<Result<Explanation, Unavailable>> {
        self.shard(series, |shard| shard.explain(series, window_ms, at_ms))?.transpose()
    }

    /// The raw samples that are held of a series; `None` if another worker owns it.
    pub fn raw(&self, series: SeriesId) -> Option<Result<RawSamples, Unavailable>> {
        self.shard(series, |shard| shard.raw(series))
    }

    /// The steps of a series that its profile looks back on; `None` if another worker owns it.
    pub fn steps(&self, series: SeriesId) -> Option<Result<StepsView, Unavailable>> {
        self.shard(series, |shard| shard.steps(series))
    }

    /// The windows of these lengths of a series that are open, as far as they reach; all if no length is named. `None`
    /// if another worker owns it.
    pub fn open(&self, series: SeriesId, lengths_ms: &[i64]) -> Option<Result<OpenWindows, Unavailable>> {
        self.shard(series, |shard| shard.open(series, lengths_ms))
    }
}

/// Builds the dataflow on one worker: samples and epoch ends in, rows out; and questions to its state.
///
/// Every worker must be given the same settings, and the marks of every epoch: its controls and its end.
pub fn build<'scope>(
    samples: Stream<'scope, u64, Samples>,
    marks: StreamVec<'scope, u64, Mark>,
    settings: &Arc<Settings>,
    instruments: &Instruments,
) -> (StreamVec<'scope, u64, Rows>, StateQueries) {
    let mine = owned(samples.scope().index(), samples.scope().peers());
    let shards = (0..SHARDS).map(|shard| mine(shard).then(|| ShardState::new(settings))).collect();
    build_from(samples, marks, shards, instruments)
}

/// Whether the worker `index` of `peers` owns a shard.
pub fn owned(index: usize, peers: usize) -> impl Fn(usize) -> bool {
    move |shard| owner(shard, peers) == index
}

/// [`build`] with these shards to begin with: those that the worker owns, each in its place.
///
/// A shard that was saved ignores the epochs up to its own: their rows lack it, and whoever takes them has them already.
pub fn build_from<'scope>(
    samples: Stream<'scope, u64, Samples>,
    marks: StreamVec<'scope, u64, Mark>,
    shards: Vec<Option<ShardState>>,
    instruments: &Instruments,
) -> (StreamVec<'scope, u64, Rows>, StateQueries) {
    let scope = samples.scope();
    let place = (scope.index(), scope.peers());
    // Borrowed once per step of a shard, and never while a worker is between steps.
    let worker = Rc::new(RefCell::new(WorkerState::new(shards, instruments)));
    let queries = StateQueries { worker: Rc::clone(&worker), place };
    let rows = driver::by_shard(samples, marks, OPERATOR, move |shard, epoch, budget, out| {
        worker.borrow_mut().step(shard, epoch, budget, out)
    });
    (rows, queries)
}
