//! The contract of a stage: what computes on the complete batches of a shard, with its state.
//!
//! The stages of a shard stand in one ordered list ([`crate::pipeline::STAGES`]). For each epoch the pipeline calls them
//! in that order, one method after the other:
//!
//! ```text
//!  retire ─► forget(quarantined) reconfigure reset_clock assign reclassify observe ─► tick, tick, ... ─► end ─► forget(freed)
//!  1st stage │                      every other stage                              │ every stage      │ 1st   │ every other
//! ```
//! The window rows of `observe` and of each `tick` are handed to `complete` of every stage.
//!
//! A stage reads samples or steps, as its entry says: `observe` or `observe_steps`. One that makes steps of samples stands
//! before those that read them, and hands them on (`take_steps`).
//!
//! and then, if a snapshot is wanted, `begin_save` and `save_some` until that is done. The first stage is the gate: it gives
//! slots, orders the samples, and writes the [`AdmittedBatch`] that the others read.
//!
//! What a stage must keep to:
//! * Everything it does follows from the batches alone: no clock, no order of a hash map, no other shard.
//! * `tick` and `save_some` return as soon as the budget is spent, and go on where they stopped. Nothing else comes between.
//! * What it holds after a load gives the same rows as if it had never been saved, timers included.
//!
//! Not here: capabilities and frontiers (`driver`), which stages there are (`pipeline`).

use std::sync::Arc;

use crate::driver::EpochBatch;
use crate::rows::inspect::{Explanation, StateCheck, StepsView, Unavailable};
use crate::rows::{Rows, SeriesPresence, WindowStats};
use crate::sample::{EpochEnd, SeriesId};
use crate::settings::Settings;
use crate::shard::{
    AdmittedBatch, ClassChange, ClockChange, RawSamples, SeriesEvents, SeriesStep, SlotAssignment, Slots,
    WorkPosition,
};
use crate::snapshot::{CHAINS, StateError, StateReader, StateWriter};

/// Series that a stage approaches together: as many as a processor waits for at once.
pub const SERIES_APPROACHED: usize = 8;

/// What one activation of the driver may cost. A row costs one unit, about 100 ns; a stage whose rows cost more says so.
#[derive(Debug)]
pub struct Budget {
    left: u64,
}

impl Budget {
    /// So many units.
    pub fn new(units: u64) -> Budget {
        Budget { left: units }
    }

    /// Takes what something cost, which may be more than is left.
    #[inline]
    pub fn spend(&mut self, units: u64) {
        self.left = self.left.saturating_sub(units);
    }

    /// Takes all of it: what was done is as much as an activation may do.
    pub fn spend_all(&mut self) {
        self.left = 0;
    }

    /// Whether nothing is left.
    #[inline]
    pub fn is_spent(&self) -> bool {
        self.left == 0
    }
}

/// How far a piece of work is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// It is done.
    Done,
    /// The budget is spent, and there is more to do.
    More,
}

/// Which part of a chain is saved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SavePoint {
    /// The chain, below [`CHAINS`].
    pub chain: usize,
    /// Whether the chain begins anew: then nothing that is sealed counts as held by it.
    pub whole: bool,
}

/// A stage's part of a snapshot while it is made.
#[derive(Default)]
pub struct PartWriter {
    /// How many slots are saved.
    pub(crate) next: usize,
    /// What each save writes anew.
    pub(crate) state: StateWriter,
    /// What is sealed and not in the chain yet.
    pub(crate) sealed: StateWriter,
}

/// A stage's part of a stored snapshot, and the shard it is of.
pub struct PartReader<'a> {
    /// The shard.
    pub shard: usize,
    /// How many slots there are, free ones included; 0 for the stage that gives them.
    pub slots: usize,
    /// The slots in use, rising, and their series; empty for the stage that gives them.
    pub live: &'a [(u32, SeriesId)],
    /// What the last save wrote.
    pub(crate) state: StateReader<'a>,
    /// What was sealed, save by save.
    pub(crate) sealed: Vec<StateReader<'a>>,
}

/// A question about one series, between two epochs. Answering changes nothing.
#[derive(Clone, Copy, Debug)]
pub enum Query<'a> {
    /// What is known of its time.
    Presence,
    /// The raw samples that are held.
    Raw,
    /// Whether what is held adds up.
    Check,
    /// What a key of a window is made of.
    Explain {
        /// Length of the window.
        window_ms: i64,
        /// End of the window.
        at_ms: i64,
    },
    /// The steps that its profile looks back on.
    Steps,
    /// The windows of these lengths that are open; all if none is named.
    Open {
        /// Lengths of windows.
        lengths_ms: &'a [i64],
    },
}

/// What stages know of one series; each fills in what it has for a query.
#[derive(Debug)]
pub struct SeriesView {
    /// The series.
    pub series: SeriesId,
    /// Its slot, if it has one.
    pub slot: Option<u32>,
    /// The epoch as of which this is so.
    pub epoch: u64,
    /// The processing time of that epoch.
    pub processing_ms: i64,
    /// What is known of its time.
    pub presence: Option<SeriesPresence>,
    /// Its raw samples.
    pub raw: Result<RawSamples, Unavailable>,
    /// Whether what is held adds up.
    pub check: Option<StateCheck>,
    /// What a key is made of.
    pub explanation: Option<Explanation>,
    /// Its steps, if it has any.
    pub steps: Option<StepsView>,
    /// Open windows.
    pub open: Vec<WindowStats>,
}

/// What computes on the complete batches of a shard; see the top of this file.
pub trait Stage {
    /// What it is at is noted here.
    fn attach(&mut self, position: &Arc<WorkPosition>);

    /// The first stage only: how long a silent series keeps its slot, which is as long as any stage needs it.
    fn keep_slots_for(&mut self, _keep_ms: fn(&Settings) -> i64) {}

    /// The first stage only: turns the input of an epoch into the batch that the others read.
    fn retire(&mut self, _input: &EpochBatch<'_>, _batch: &mut AdmittedBatch) {}

    /// Goes on under other settings, which differ in what concerns this stage. The batch has every series that is carried
    /// over.
    fn reconfigure(&mut self, _settings: &Arc<Settings>, _batch: &AdmittedBatch) {}

    /// Goes on under a clock that was set back.
    fn reset_clock(&mut self, _change: &ClockChange) {}

    /// A slot was given to a series: whatever the slot held before is gone.
    fn assign(&mut self, _slot: &SlotAssignment) {}

    /// Of a series that has had its slot something else is known, or set.
    fn reclassify(&mut self, _change: &ClassChange) {}

    /// Whether it has a use for samples at all, as it is now: if not, none are shown to it.
    fn observes(&self) -> bool {
        true
    }

    /// A hint: this series is observed soon. Reads what that takes first, so that memory is waited for once for several series.
    fn approach(&self, _series: &SeriesEvents<'_>, _batch: &AdmittedBatch) {}

    /// Takes what happens to one series in this epoch.
    fn observe(&mut self, _series: &SeriesEvents<'_>, _batch: &AdmittedBatch, _out: &mut Rows) {}

    /// Fills in what it has to say of window rows of this epoch, once every stage has taken its samples. What that cost, in units.
    fn complete(&self, _rows: &mut [WindowStats], _slots: &Slots) -> u64 {
        0
    }

    /// Hands on the steps that were closed in this epoch, in the order of slots, and of each in the order of events.
    fn take_steps(&mut self, _steps: &mut Vec<SeriesStep>) {}

    /// Takes the steps that were closed in this epoch.
    fn observe_steps(&mut self, _steps: &[SeriesStep], _out: &mut Rows) {}

    /// Does what time brings, by watermark and processing time, until it is done or the budget is spent.
    fn tick(&mut self, _end: EpochEnd, _budget: &mut Budget, _out: &mut Rows) -> Progress {
        Progress::Done
    }

    /// The first stage only: frees the slots that it needs no more and for which no other stage votes, and says the last
    /// words of the epoch.
    fn end(&mut self, _batch: &mut AdmittedBatch, _holds: &dyn Fn(u32) -> bool) {}

    /// Whether the stage still has something to say about this slot: then it is not freed.
    fn holds(&self, _slot: u32) -> bool {
        false
    }

    /// The slot is free, or nothing more of its series is computed.
    fn forget(&mut self, _slot: u32) {}

    /// The first stage only: the slots that it has given.
    fn slots(&self) -> Option<&Slots> {
        None
    }

    /// The first stage only: describes every series that has a slot, for a stage that is built anew.
    fn introduce(&self, _batch: &mut AdmittedBatch) {}

    /// Bytes of state.
    fn bytes(&self) -> usize;

    /// Whether what it sealed so far in this chain is still sealed; if not, the chain begins anew.
    fn continues(&self, _chain: usize) -> bool {
        true
    }

    /// Begins its part of a snapshot as of the end of the epoch.
    fn begin_save(&mut self, at: SavePoint, live: usize) -> PartWriter;

    /// Saves so many more of `live`, the slots in use.
    fn save_some(
        &mut self,
        _part: &mut PartWriter,
        _at: SavePoint,
        _live: &[u32],
        _at_most: usize,
    ) -> Progress {
        Progress::Done
    }

    /// Fills in what it knows of a series.
    fn inspect(&self, _query: &Query<'_>, _view: &mut SeriesView) {}
}

/// Makes a stage of a shard without series.
pub type NewStage = fn(&Arc<Settings>) -> Box<dyn Stage>;
/// Makes a stage as it was saved.
pub type LoadStage = fn(&Arc<Settings>, PartReader<'_>) -> Result<Box<dyn Stage>, StateError>;
/// Makes a stage of what the first one describes, in a shard of so many slots.
pub type RebuildStage = fn(&Arc<Settings>, &AdmittedBatch, usize) -> Box<dyn Stage>;

/// What a stage reads of an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StageInput {
    /// Samples, series by series.
    Samples,
    /// Steps, in the order in which they were closed.
    Steps,
}

/// A stage of the list: what is needed to make one.
#[derive(Clone, Copy)]
pub struct StageSpec {
    /// Its name in metrics and snapshots.
    pub name: &'static str,
    /// Version of its part of a snapshot.
    pub version: u8,
    /// What it reads; the first stage has its own way.
    pub input: StageInput,
    /// One of a shard without series.
    pub new: NewStage,
    /// One as it was saved.
    pub load: LoadStage,
    /// One of a shard whose series are known from the first stage alone, because its own part of the snapshot is missing or of
    /// another version. None for the first stage, without which there is no shard.
    pub rebuild: Option<RebuildStage>,
    /// Bytes that one series takes once it is full, of samples 15 s apart.
    pub series_bytes: fn(&Settings) -> usize,
    /// How long after its newest sample something may still depend on a series.
    pub keep_ms: fn(&Settings) -> i64,
    /// Whether the stage computes otherwise under the second settings.
    pub is_concerned: fn(&Settings, &Settings) -> bool,
}

/// The epochs of the last save of each chain.
pub type ChainEpochs = [Option<u64>; CHAINS];
