//! The only wiring: which operator feeds which, under which name.
//!
//! ```text
//!  samples ──exchange by shard──► admit ──local──► window ──local──► outcomes
//!  marks ───────local────────────►┘
//! ```

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use timely::dataflow::{Stream, StreamVec};

use crate::driver::{self, EpochBatch, SLICE_ROWS, Slice, owner};
use crate::rows::inspect::{Explanation, OpenWindows, StateCheck, Unavailable};
use crate::rows::{Rows, SeriesPresence};
use crate::sample::{Control, EpochEnd, Mark, MetricType, SHARDS, Samples, SeriesId};
use crate::settings::Settings;
use crate::shard::{AdmittedBatch, GateSnapshot, RawSamples, WorkPosition};
use crate::snapshot::{BadState, CHAINS, SaveRequest, ShardSnapshot, StateReader, StateWriter, StoredShard};
use crate::stages::admit::Admit;
use crate::stages::window::{SnapshotCursor, Windows};

/// The operators, by their names in the graph.
pub const OPERATORS: [&str; 2] = ["admit", "window"];

/// In place of the epoch that an operator has retired of a shard, while it retires another one slice by slice.
const AT_WORK: u64 = u64::MAX;

/// Series whose windows are saved in one slice: some milliseconds.
const SLICE_SAVED: usize = 64;

/// Each shard's state is measured once in so many epochs.
const MEASURED_EVERY: u64 = 16;

/// Bytes that a series takes in all operators once its rings are full, of samples 15 s apart.
pub fn series_bytes(settings: &Settings) -> u64 {
    let bytes = Admit::series_bytes(settings) + Windows::series_bytes(settings);
    bytes as u64
}

/// What the workers of one graph hold, added up over shards; the bytes of each shard are measured once in 16 epochs.
#[derive(Debug, Default)]
pub struct Sizes {
    /// Bytes of state by operator, as in [`OPERATORS`].
    pub bytes: [AtomicU64; 2],
    /// Series with a slot.
    pub series: AtomicU64,
    /// What each worker is at.
    pub working: Mutex<BTreeMap<usize, Arc<WorkPosition>>>,
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

/// The types of series that were told in one epoch, by shard.
#[derive(Default)]
struct TypesByShard {
    epoch: Option<u64>,
    shards: Vec<Vec<(SeriesId, MetricType)>>,
}

impl TypesByShard {
    /// Those of a shard's series, in the order of the journal; all shards of a worker ask, one after the other.
    fn take(&mut self, shard: usize, epoch: &EpochBatch) -> Vec<(SeriesId, MetricType)> {
        if epoch.controls.is_empty() {
            return Vec::new();
        }
        if self.epoch != Some(epoch.end.epoch) {
            self.epoch = Some(epoch.end.epoch);
            self.shards = vec![Vec::new(); SHARDS];
            for control in epoch.controls {
                let Control::Types(types) = &**control else { continue };
                for (series, kind) in types {
                    let series = SeriesId(*series);
                    self.shards[series.shard()].push((series, *kind));
                }
            }
        }
        std::mem::take(&mut self.shards[shard])
    }
}

/// What each shard of one worker holds; `None` for those of other workers.
type Shards<T> = Rc<RefCell<Vec<Option<T>>>>;

/// The gates and windows of one worker, to be looked at between its steps. Looking changes nothing.
#[derive(Clone)]
pub struct StateQueries {
    admits: Shards<Admit>,
    windows: Shards<Windows>,
    /// By shard: the epoch that each operator has retired, or began with; [`AT_WORK`] while it retires one.
    retired: Rc<RefCell<Vec<[u64; OPERATORS.len()]>>>,
    /// By shard: the processing time of the epoch that `window` has retired.
    processing_ms: Rc<RefCell<Vec<i64>>>,
    /// This worker, and how many there are.
    place: (usize, usize),
}

impl StateQueries {
    /// What is known of a series, as of the last epoch its shard retired; `None` if another worker owns it.
    pub fn seen(&self, series: u64) -> Option<SeriesPresence> {
        let gates = self.admits.borrow();
        gates[SeriesId(series).shard()].as_ref().map(|gate| gate.seen(series))
    }

    /// A series with a slot for a number: any for some number. `None` if another worker answers to it, or has none.
    pub fn pick(&self, number: u64) -> Option<SeriesId> {
        let (index, peers) = (self.place.0 as u64, self.place.1 as u64);
        if number % peers != index {
            return None;
        }
        let gates = self.admits.borrow();
        let mut left = number / peers;
        left %= gates.iter().flatten().map(|gate| gate.series() as u64).sum::<u64>().max(1);
        for gate in gates.iter().flatten() {
            match gate.series() as u64 {
                n if left < n => return gate.near(number / peers),
                n => left -= n,
            }
        }
        None
    }

    /// Computes again what is held of a series; `None` if another worker owns it.
    pub fn check(&self, series: u64) -> Option<Result<StateCheck, Unavailable>> {
        let (admits, windows) = (self.admits.borrow(), self.windows.borrow());
        let shard = SeriesId(series).shard();
        let (admit, windows) = (admits[shard].as_ref()?, windows[shard].as_ref()?);
        Some(self.at_one(shard).and_then(|_| match admit.raw(series)? {
            raw if raw.bootstrapping => Err(Unavailable::Bootstrapping),
            raw => Ok(windows.check(&raw)),
        }))
    }

    /// What the key `at_ms` of a window of a series is made of; `None` if another worker owns the series, or there is
    /// no window of this length.
    pub fn explain(
        &self,
        series: u64,
        window_ms: i64,
        at_ms: i64,
    ) -> Option<Result<Explanation, Unavailable>> {
        let (admits, windows) = (self.admits.borrow(), self.windows.borrow());
        let shard = SeriesId(series).shard();
        let (admit, windows) = (admits[shard].as_ref()?, windows[shard].as_ref()?);
        match self.at_one(shard).and_then(|epoch| Ok((epoch, admit.raw(series)?))) {
            Ok((epoch, raw)) => windows.explain(epoch, &raw, window_ms, at_ms).map(Ok),
            Err(why) => Some(Err(why)),
        }
    }

    /// The raw samples that are held of a series; `None` if another worker owns it.
    pub fn raw(&self, series: u64) -> Option<Result<RawSamples, Unavailable>> {
        let gates = self.admits.borrow();
        gates[SeriesId(series).shard()].as_ref().map(|gate| gate.raw(series))
    }

    /// The windows of these lengths of a series that are open, as far as they are filled; all if no length is named. `None`
    /// if another worker owns it.
    pub fn open(&self, series: SeriesId, lengths_ms: &[i64]) -> Option<Result<OpenWindows, Unavailable>> {
        let (admits, windows) = (self.admits.borrow(), self.windows.borrow());
        let shard = series.shard();
        let (admit, windows) = (admits[shard].as_ref()?, windows[shard].as_ref()?);
        let epoch = self.retired.borrow()[shard][1];
        if epoch == AT_WORK {
            return Some(Err(Unavailable::Between));
        }
        let processing_ms = self.processing_ms.borrow()[shard];
        let rows = admit.slot(series.0).map(|slot| windows.open(slot, series, lengths_ms, processing_ms));
        Some(Ok(OpenWindows { epoch, rows: rows.unwrap_or_default() }))
    }

    /// The epoch that both operators have retired of a shard: between two steps one may be ahead.
    fn at_one(&self, shard: usize) -> Result<u64, Unavailable> {
        match self.retired.borrow()[shard] {
            [admit, window] if admit == window && admit != AT_WORK => Ok(admit),
            _ => Err(Unavailable::Between),
        }
    }
}

/// A shard to begin with.
pub struct ShardState {
    gate: Admit,
    windows: Windows,
    /// The end of the epoch it is the state of: this one and those before it change nothing.
    upto: Option<EpochEnd>,
}

impl ShardState {
    /// Of no samples.
    pub fn new(settings: &Arc<Settings>) -> ShardState {
        ShardState {
            gate: Admit::new(Arc::clone(settings)),
            windows: Windows::new(Arc::clone(settings)),
            upto: None,
        }
    }

    /// As it was saved.
    ///
    /// # Errors
    /// Bytes that no shard wrote.
    pub fn load(shard: usize, held: &StoredShard) -> Result<ShardState, BadState> {
        let settings = Arc::new(
            held.settings
                .clone()
                .computable()
                .map_err(|_| BadState("nothing is computed with its settings"))?,
        );
        let mut state = StateReader(held.state);
        let (gate, windows) = (state.part()?, state.part()?);
        state.end()?;
        let (gate, live) = Admit::load(Arc::clone(&settings), shard, gate.0)?;
        let windows = Windows::load(settings, gate.slots(), &live, windows.0, &held.panes)?;
        Ok(ShardState { gate, windows, upto: Some(held.end) })
    }

    /// The epoch of the last save of a chain, as the shard knows it.
    pub fn saved_epoch(&self, chain: usize) -> Option<u64> {
        self.windows.saved_epoch(chain)
    }

    /// The epoch it is the state of.
    pub fn epoch(&self) -> Option<u64> {
        self.upto.map(|end| end.epoch)
    }
}

/// Puts the two parts of a shard's state together.
fn saved(gate: &GateSnapshot, saving: SnapshotCursor, end: EpochEnd, settings: &Settings) -> ShardSnapshot {
    let save = SaveRequest { chain: gate.save.chain % CHAINS, whole: saving.whole, ..gate.save };
    let (state, panes) = saving.bytes();
    let mut both = StateWriter(Vec::with_capacity(gate.state.len() + state.len() + 16));
    for part in [&gate.state, &state] {
        both.part(part);
    }
    ShardSnapshot { save, end, settings: settings.clone(), state: both.0, panes }
}

/// Builds the dataflow on one worker: samples and epoch ends in, outcomes out; and a look at its gates.
///
/// Every worker must be given the same settings, and the marks of every epoch: its controls and its end.
pub fn build<'scope>(
    samples: Stream<'scope, u64, Samples>,
    marks: StreamVec<'scope, u64, Mark>,
    settings: &Arc<Settings>,
    sizes: &Arc<Sizes>,
) -> (StreamVec<'scope, u64, Rows>, StateQueries) {
    let mine = owned(samples.scope().index(), samples.scope().peers());
    let shards = (0..SHARDS).map(|shard| mine(shard).then(|| ShardState::new(settings))).collect();
    build_from(samples, marks, shards, sizes)
}

/// Whether the worker `index` of `peers` owns a shard.
pub fn owned(index: usize, peers: usize) -> impl Fn(usize) -> bool {
    move |shard| owner(shard, peers) == index
}

/// [`build`] with these shards to begin with: those that the worker owns, each in its place.
///
/// A shard that was saved ignores the epochs up to its own: their outcomes lack it, and whoever takes them has them
/// already.
pub fn build_from<'scope>(
    samples: Stream<'scope, u64, Samples>,
    marks: StreamVec<'scope, u64, Mark>,
    shards: Vec<Option<ShardState>>,
    sizes: &Arc<Sizes>,
) -> (StreamVec<'scope, u64, Rows>, StateQueries) {
    let scope = samples.scope();
    let mine = owned(scope.index(), scope.peers());
    let (mut gates, mut windows, mut known) = (Vec::new(), Vec::new(), Vec::new());
    let working: Arc<WorkPosition> = Arc::default();
    let mut workers = sizes.working.lock().unwrap_or_else(PoisonError::into_inner);
    workers.insert(scope.index(), Arc::clone(&working));
    drop(workers);
    for shard in shards {
        let (gate, window, upto) = match shard {
            Some(mut shard) => {
                shard.gate.note_in(&working);
                shard.windows.note_in(&working);
                (Some(shard.gate), Some(shard.windows), shard.upto)
            }
            None => (None, None, None),
        };
        gates.push(gate);
        windows.push(window);
        known.push(upto);
    }
    let began = |upto: &Option<EpochEnd>| upto.map_or((0, i64::MIN), |end| (end.epoch, end.processing_ms));
    let (retired, processing_ms): (Vec<_>, _) =
        known.iter().map(began).map(|(epoch, ms)| ([epoch; OPERATORS.len()], ms)).unzip();
    let gates = StateQueries {
        admits: Rc::new(RefCell::new(gates)),
        windows: Rc::new(RefCell::new(windows)),
        retired: Rc::new(RefCell::new(retired)),
        processing_ms: Rc::new(RefCell::new(processing_ms)),
        place: (scope.index(), scope.peers()),
    };

    let (held, mut bytes, mut series, mut turn) = (Arc::clone(sizes), PerShard::new(), PerShard::new(), 0);
    let mut told = TypesByShard::default();
    let last = (0..SHARDS).rev().find(|shard| mine(*shard)).unwrap_or(0);
    // Borrowed once per shard and epoch, and never while a worker is between steps.
    let held_here = gates.clone();
    let at_work = Arc::clone(&working);
    let admitted = driver::by_shard(samples, marks, OPERATORS[0], move |shard, epoch| {
        let mut gates = held_here.admits.borrow_mut();
        let gate = gates[shard].as_mut().expect("only owned shards are retired");
        let types = told.take(shard, &epoch);
        let (end, save) = (epoch.end, epoch.save);
        if known[shard].is_some_and(|upto| end.epoch <= upto.epoch) {
            return AdmittedBatch { known: true, ..AdmittedBatch::new(end, shard) };
        }
        at_work.begin(end.epoch);
        let mut out = gate.retire(shard, epoch);
        held_here.retired.borrow_mut()[shard][0] = end.epoch;
        out.types = types;
        out.saved = save.map(|save| {
            let mut state = Vec::new();
            let live = gate.save(&mut state);
            GateSnapshot { save, state, live }
        });
        series.set(shard, gate.series() as u64, &held.series);
        if turn % MEASURED_EVERY == shard as u64 % MEASURED_EVERY {
            bytes.set(shard, gate.bytes() as u64, &held.bytes[0]);
        }
        turn += u64::from(shard == last);
        at_work.rest();
        out
    });

    let (held, mut bytes, mut turn) = (Arc::clone(sizes), PerShard::new(), 0);
    let held_here = gates.clone();
    let mut saving: Option<SnapshotCursor> = None;
    let outcomes = driver::in_slices(admitted, OPERATORS[1], move |batch: &AdmittedBatch, first, out| {
        let mut windows = held_here.windows.borrow_mut();
        let state = windows[batch.shard].as_mut().expect("only owned shards are handed on");
        if batch.known {
            return Slice::Done;
        }
        if saving.is_none() {
            working.begin(batch.end.epoch);
            if first {
                held_here.retired.borrow_mut()[batch.shard][1] = AT_WORK;
                out.rejects.extend_from_slice(&batch.rejects);
                out.types.extend_from_slice(&batch.types);
                out.freed.extend_from_slice(&batch.freed_series);
                out.counts = batch.counts;
                state.retire(batch, out);
            }
            let done = state.close_silent(batch.end.watermark_ms, SLICE_ROWS, out);
            if done {
                state.free(batch);
                held_here.retired.borrow_mut()[batch.shard][1] = batch.end.epoch;
                held_here.processing_ms.borrow_mut()[batch.shard] = batch.end.processing_ms;
                if turn % MEASURED_EVERY == batch.shard as u64 % MEASURED_EVERY {
                    bytes.set(batch.shard, state.bytes() as u64, &held.bytes[1]);
                }
                turn += u64::from(batch.shard == last);
            }
            working.rest();
            if !done {
                return Slice::More;
            }
        }
        let Some(gate) = &batch.saved else { return Slice::Done };
        // The state is that of the epoch's end until the next batch, so it need not be written down in one go.
        let of = (batch.end.epoch, gate.save.chain % CHAINS, gate.save.whole);
        let mut so_far = saving.take().unwrap_or_else(|| state.begin_save(of, gate.live.len()));
        if !state.save_some(&mut so_far, &gate.live, SLICE_SAVED) {
            saving = Some(so_far);
            return Slice::Pause;
        }
        out.saved.push(saved(gate, so_far, batch.end, state.settings()));
        Slice::Done
    });
    (outcomes, gates)
}
