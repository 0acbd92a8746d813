//! The stages of a shard, in order, and the way of an epoch through them.
//!
//! Everything that concerns all stages loops over [`STAGES`]: retiring, time, settings, freeing, sizes, snapshots, questions.
//! A stage that is added is a folder under `stages/` and one entry here.
//!
//! ```text
//!  EpochBatch ─► gate ─► AdmittedBatch ─► every other stage ─► rows
//!  then for every stage: what time brings ─► the gate frees slots ─► a snapshot, if it is wanted
//! ```
//! Between two calls of [`ShardState::step`] a shard may be inside an epoch: it then goes on where the budget ended.

use std::sync::Arc;

use crate::driver::EpochBatch;
use crate::rows::inspect::{Explanation, OpenWindows, StateCheck, StepsView, Unavailable};
use crate::rows::{Rows, SeriesPresence, WindowStats};
use crate::sample::{EpochEnd, SeriesId};
use crate::settings::Settings;
use crate::shard::{AdmittedBatch, RawSamples, SeriesStep, Slots, WorkPosition};
use crate::snapshot::{
    self, CHAINS, Pieces, SaveRequest, ShardSnapshot, SnapshotPart, StateError, StoredShard, assemble,
};
use crate::stage::{
    Budget, ChainEpochs, PartReader, PartWriter, Progress, Query, SERIES_APPROACHED, SavePoint, SeriesView,
    Stage, StageInput, StageSpec,
};
use crate::stages::{admit, profile, quantiles, resample, window};

/// The stages, in the order in which they see an epoch. The first is the gate.
pub const STAGES: &[StageSpec] = &[admit::SPEC, window::SPEC, quantiles::SPEC, resample::SPEC, profile::SPEC];

/// Series of which one slice of a snapshot is made: some milliseconds.
const SLICE_SAVED: usize = 64;
/// Samples that cost one unit.
const SAMPLES_PER_UNIT: u64 = 4;

/// Bytes that a series takes in all stages once its rings are full, of samples 15 s apart.
pub fn series_bytes(settings: &Settings) -> u64 {
    STAGES.iter().map(|stage| (stage.series_bytes)(settings) as u64).sum()
}

/// How long a silent series keeps its slot: as long as any stage needs it.
pub fn keep_ms(settings: &Settings) -> i64 {
    STAGES
        .iter()
        .map(|stage| (stage.keep_ms)(settings))
        .max()
        .unwrap_or(0)
        .saturating_add(settings.idle_timeout_ms)
}

/// Has a stage take what happens to each series.
fn observe(stage: &mut dyn Stage, batch: &AdmittedBatch, out: &mut Rows) {
    let (mut series, mut group) = (batch.series(), Vec::with_capacity(SERIES_APPROACHED));
    loop {
        group.extend(series.by_ref().take(SERIES_APPROACHED));
        if group.is_empty() {
            return;
        }
        group.iter().for_each(|series| stage.approach(series, batch));
        group.drain(..).for_each(|series| stage.observe(&series, batch, out));
    }
}

/// Told when a stage begins to compute and when it stops; the pure crate has no clock of its own.
pub trait Meter {
    /// The stage with this place in the list begins.
    fn enter(&self, stage: usize);
    /// It stops, and gave so many rows. `retired` once for each batch.
    fn leave(&self, stage: usize, rows: usize, retired: bool);
}

/// Measures nothing.
impl Meter for () {
    fn enter(&self, _: usize) {}
    fn leave(&self, _: usize, _: usize, _: bool) {}
}

/// Where a shard is inside an epoch.
enum Phase {
    /// Between two epochs.
    Between,
    /// At what time brings, in this stage.
    Ticking(usize),
    /// At a snapshot.
    Saving(Save),
}

/// A snapshot that is being made.
struct Save {
    end: EpochEnd,
    /// What was asked for, and whether it is the whole chain in the end.
    request: SaveRequest,
    /// The slots in use.
    live: Vec<u32>,
    /// The stage at hand, and its part once that is begun.
    stage: usize,
    part: Option<PartWriter>,
}

/// One shard: its stages and how far they are.
pub struct ShardState {
    settings: Arc<Settings>,
    stages: Vec<Box<dyn Stage>>,
    /// The end of the epoch that it was loaded at: this one and those before it change nothing.
    loaded: Option<EpochEnd>,
    /// The end of the last epoch it has retired, or was loaded at.
    last: Option<EpochEnd>,
    phase: Phase,
    /// The epochs of the last saves.
    chains: ChainEpochs,
    /// What stages read in place of samples; empty between two epochs.
    steps: Vec<SeriesStep>,
}

impl ShardState {
    /// Of no samples.
    pub fn new(settings: &Arc<Settings>) -> ShardState {
        let mut stages: Vec<Box<dyn Stage>> = STAGES.iter().map(|stage| (stage.new)(settings)).collect();
        stages[0].keep_slots_for(keep_ms);
        ShardState {
            settings: Arc::clone(settings),
            stages,
            loaded: None,
            last: None,
            phase: Phase::Between,
            chains: [None; CHAINS],
            steps: Vec::new(),
        }
    }

    /// As it was saved.
    ///
    /// # Errors
    /// Bytes that no shard wrote, or that lack the gate.
    pub fn load(shard: usize, stored: &StoredShard) -> Result<ShardState, StateError> {
        let settings = stored.settings.clone().computable();
        let settings = Arc::new(settings.map_err(|_| StateError("nothing is computed with its settings"))?);
        let (mut chains, mut state) = snapshot::read_state(stored.state)?;
        let sealed: Vec<Pieces> =
            stored.sealed.iter().map(|bytes| snapshot::read_sealed(bytes)).collect::<Result<_, _>>()?;
        let mut stages: Vec<Box<dyn Stage>> = Vec::with_capacity(STAGES.len());
        for spec in STAGES {
            let (slots, live) =
                stages.first().and_then(|gate| gate.slots()).map_or((0, Vec::new()), |slots| {
                    (slots.capacity(), slots.given().map(|slot| (slot, slots.series(slot))).collect())
                });
            let of_version = |(version, piece)| (version == spec.version).then_some(piece);
            let sealed: Vec<_> =
                sealed.iter().filter_map(|pieces| of_version(*pieces.get(spec.name)?)).collect();
            let whole = sealed.len() == stored.sealed.len();
            match state.remove(spec.name).and_then(of_version).filter(|_| whole) {
                Some(state) => {
                    let part = PartReader { shard, slots, live: &live, state, sealed };
                    stages.push((spec.load)(&settings, part)?);
                }
                None => {
                    let rebuild = spec.rebuild.ok_or(StateError("the part of the gate is missing"))?;
                    let mut batch = AdmittedBatch::new(stored.end);
                    stages.iter().for_each(|stage| stage.introduce(&mut batch));
                    stages.push(rebuild(&settings, &batch, slots));
                    // What the chains hold of it is of no use.
                    chains = [None; CHAINS];
                }
            }
        }
        stages[0].keep_slots_for(keep_ms);
        let end = Some(stored.end);
        Ok(ShardState {
            settings,
            stages,
            loaded: end,
            last: end,
            phase: Phase::Between,
            chains,
            steps: Vec::new(),
        })
    }

    /// The epoch of the last save of a chain, as the shard knows it.
    pub fn saved_epoch(&self, chain: usize) -> Option<u64> {
        self.chains[chain]
    }

    /// The epoch it is the state of.
    pub fn epoch(&self) -> Option<u64> {
        self.last.map(|end| end.epoch)
    }

    /// Notes in `position` what it is at.
    pub fn attach(&mut self, position: &Arc<WorkPosition>) {
        self.stages.iter_mut().for_each(|stage| stage.attach(position));
    }

    /// Bytes of the state of a stage.
    pub fn bytes(&self, stage: usize) -> usize {
        self.stages[stage].bytes()
    }

    /// The slots of its series.
    pub fn slots(&self) -> &Slots {
        self.stages[0].slots().expect("the gate gives the slots")
    }

    /// Computes one epoch, or goes on with it, until it is done or the budget is spent. `batch` belongs to the worker, and is
    /// that of this epoch until it is done.
    pub fn step(
        &mut self,
        epoch: &EpochBatch<'_>,
        batch: &mut AdmittedBatch,
        budget: &mut Budget,
        meter: &dyn Meter,
        out: &mut Rows,
    ) -> Progress {
        if let Phase::Between = self.phase {
            if self.loaded.is_some_and(|loaded| epoch.end.epoch <= loaded.epoch) {
                return Progress::Done;
            }
            self.retire(epoch, batch, budget, meter, out);
            self.phase = Phase::Ticking(0);
        }
        if let Phase::Ticking(from) = self.phase {
            for stage in from..self.stages.len() {
                meter.enter(stage);
                let (before, windows) = (out.len(), out.windows.len());
                let progress = self.stages[stage].tick(epoch.end, budget, out);
                self.complete(&mut out.windows[windows..], budget);
                meter.leave(stage, out.len() - before, false);
                if progress == Progress::More {
                    self.phase = Phase::Ticking(stage);
                    return Progress::More;
                }
            }
            self.end(epoch.end, batch, meter, out);
            self.phase = match epoch.save {
                Some(request) => Phase::Saving(self.begin_save(epoch.end, request)),
                None => Phase::Between,
            };
        }
        if let Phase::Saving(save) = std::mem::replace(&mut self.phase, Phase::Between) {
            // A slice of it is as much as an activation may do.
            budget.spend_all();
            let mut left = Some(save);
            while let Some(save) = left.take() {
                let stage = save.stage;
                match self.save(save, &mut out.saved) {
                    Some(save) if save.stage == stage => {
                        self.phase = Phase::Saving(save);
                        return Progress::More;
                    }
                    next => left = next,
                }
            }
        }
        Progress::Done
    }

    /// Computes one epoch to its end, whatever it costs.
    pub fn retire_whole(&mut self, epoch: &EpochBatch<'_>, batch: &mut AdmittedBatch, slice: u64) -> Rows {
        let mut out = Rows::default();
        while self.step(epoch, batch, &mut Budget::new(slice), &(), &mut out) == Progress::More {}
        out
    }

    /// The samples of an epoch, and what changes how they are computed.
    fn retire(
        &mut self,
        epoch: &EpochBatch<'_>,
        batch: &mut AdmittedBatch,
        budget: &mut Budget,
        meter: &dyn Meter,
        out: &mut Rows,
    ) {
        batch.reset(epoch.end);
        let windows = out.windows.len();
        let (gate, others) = self.stages.split_first_mut().expect("the list of stages is not empty");
        meter.enter(0);
        gate.retire(epoch, batch);
        meter.leave(0, 0, true);
        let batch = &*batch;
        for (n, (stage, spec)) in others.iter_mut().zip(&STAGES[1..]).enumerate() {
            meter.enter(n + 1);
            let before = out.len();
            // Before anything else, so that nothing of them is computed.
            batch.quarantined.iter().for_each(|slot| stage.forget(*slot));
            if let Some(settings) = &batch.settings
                && (spec.is_concerned)(&self.settings, settings)
            {
                stage.reconfigure(settings, batch);
            }
            batch.clock.iter().for_each(|change| stage.reset_clock(change));
            batch.given.iter().for_each(|slot| stage.assign(slot));
            batch.classes.iter().for_each(|change| stage.reclassify(change));
            match spec.input {
                StageInput::Samples if stage.observes() => observe(&mut **stage, batch, out),
                StageInput::Samples => {}
                StageInput::Steps => stage.observe_steps(&self.steps, out),
            }
            stage.take_steps(&mut self.steps);
            meter.leave(n + 1, out.len() - before, true);
        }
        self.complete(&mut out.windows[windows..], budget);
        // Of some hundred shards none keeps the memory of its largest epoch.
        self.steps = Vec::new();
        if let Some(settings) = &batch.settings {
            self.settings = Arc::clone(settings);
            // To carry a shard over takes long: one at a time.
            budget.spend_all();
        }
        budget.spend(epoch.samples() as u64 / SAMPLES_PER_UNIT);
    }

    /// Has every stage fill in what it has to say of window rows.
    fn complete(&self, rows: &mut [WindowStats], budget: &mut Budget) {
        if !rows.is_empty() {
            self.stages.iter().for_each(|stage| budget.spend(stage.complete(rows, self.slots())));
        }
    }

    /// The end of an epoch: slots are freed.
    fn end(&mut self, end: EpochEnd, batch: &mut AdmittedBatch, meter: &dyn Meter, out: &mut Rows) {
        let (gate, others) = self.stages.split_first_mut().expect("the list of stages is not empty");
        meter.enter(0);
        gate.end(batch, &|slot| others.iter().any(|stage| stage.holds(slot)));
        meter.leave(0, batch.rejects.len(), false);
        for stage in others {
            batch.freed.iter().for_each(|slot| stage.forget(*slot));
        }
        out.rejects.append(&mut batch.rejects);
        out.freed.extend_from_slice(&batch.freed_series);
        out.counts.add(&batch.counts);
        self.last = Some(end);
    }

    /// Its snapshot as of the last epoch, made at once; nothing of a shard that is inside an epoch, or has seen none.
    pub fn snapshot(&mut self, request: SaveRequest) -> Option<ShardSnapshot> {
        let end = self.last.filter(|_| matches!(self.phase, Phase::Between))?;
        let (mut save, mut parts) = (Some(self.begin_save(end, request)), Vec::new());
        while let Some(left) = save {
            save = self.save(left, &mut parts);
        }
        assemble(parts).pop()
    }

    fn begin_save(&mut self, end: EpochEnd, request: SaveRequest) -> Save {
        let chain = request.chain % CHAINS;
        for (chain, epoch) in self.chains.iter_mut().enumerate() {
            if self.stages.iter().any(|stage| !stage.continues(chain)) {
                *epoch = None;
            }
        }
        let whole = request.whole || self.chains[chain].is_none();
        self.chains[chain] = Some(end.epoch);
        let live = self.slots().given().collect();
        Save { end, request: SaveRequest { chain, whole, ..request }, live, stage: 0, part: None }
    }

    /// A slice of a snapshot; nothing if it is done with it.
    fn save(&mut self, mut save: Save, parts: &mut Vec<SnapshotPart>) -> Option<Save> {
        let Save { end, request, live, stage, part } = &mut save;
        let at = SavePoint { chain: request.chain, whole: request.whole };
        let state = &mut self.stages[*stage];
        let mut so_far = part.take().unwrap_or_else(|| state.begin_save(at, live.len()));
        if state.save_some(&mut so_far, at, live, SLICE_SAVED) == Progress::More {
            *part = Some(so_far);
            return Some(save);
        }
        let spec = &STAGES[*stage];
        parts.push(SnapshotPart {
            save: *request,
            end: *end,
            settings: Arc::clone(&self.settings),
            chains: self.chains,
            stage: spec.name,
            version: spec.version,
            state: so_far.state.0,
            sealed: so_far.sealed.0,
        });
        *stage += 1;
        (*stage < self.stages.len()).then_some(save)
    }

    /// The epoch as of which it can be looked at.
    fn at(&self) -> Result<(u64, i64), Unavailable> {
        match self.phase {
            Phase::Between => Ok(self.last.map_or((0, i64::MIN), |end| (end.epoch, end.processing_ms))),
            _ => Err(Unavailable::Between),
        }
    }

    /// What all stages have to say to a query.
    fn inspect(&self, series: SeriesId, query: &Query<'_>, (epoch, processing_ms): (u64, i64)) -> SeriesView {
        let mut view = SeriesView {
            series,
            slot: self.slots().get(series.0),
            epoch,
            processing_ms,
            presence: None,
            raw: Err(Unavailable::Unknown),
            check: None,
            explanation: None,
            steps: None,
            open: Vec::new(),
        };
        self.stages.iter().for_each(|stage| stage.inspect(query, &mut view));
        view
    }

    /// What is known of the time of a series.
    pub fn presence(&self, series: SeriesId) -> SeriesPresence {
        self.inspect(series, &Query::Presence, (0, 0)).presence.unwrap_or(SeriesPresence::Unknown)
    }

    /// The raw samples that are held of a series.
    ///
    /// # Errors
    /// [`Unavailable::Unknown`].
    pub fn raw(&self, series: SeriesId) -> Result<RawSamples, Unavailable> {
        self.inspect(series, &Query::Raw, (0, 0)).raw
    }

    /// The steps of a series that its profile looks back on.
    ///
    /// # Errors
    /// It cannot be looked at now, or has no step.
    pub fn steps(&self, series: SeriesId) -> Result<StepsView, Unavailable> {
        self.inspect(series, &Query::Steps, (0, 0)).steps.ok_or(Unavailable::Unknown)
    }

    /// Computes again what is held of a series.
    ///
    /// # Errors
    /// It cannot be looked at now.
    pub fn check(&self, series: SeriesId) -> Result<StateCheck, Unavailable> {
        let view = self.inspect(series, &Query::Check, self.at()?);
        match view.raw? {
            raw if raw.bootstrapping => Err(Unavailable::Bootstrapping),
            _ => Ok(view.check.unwrap_or_default()),
        }
    }

    /// What the key `at_ms` of a window of a series is made of; nothing if there is no window of this length.
    ///
    /// # Errors
    /// It cannot be looked at now.
    pub fn explain(
        &self,
        series: SeriesId,
        window_ms: i64,
        at_ms: i64,
    ) -> Result<Option<Explanation>, Unavailable> {
        let view = self.inspect(series, &Query::Explain { window_ms, at_ms }, self.at()?);
        view.raw.map(|_| view.explanation)
    }

    /// The windows of these lengths of a series that are open, as far as they reach; all if no length is named.
    ///
    /// # Errors
    /// It cannot be looked at now.
    pub fn open(&self, series: SeriesId, lengths_ms: &[i64]) -> Result<OpenWindows, Unavailable> {
        let at = self.at()?;
        let view = self.inspect(series, &Query::Open { lengths_ms }, at);
        Ok(OpenWindows { epoch: at.0, rows: view.open })
    }
}
