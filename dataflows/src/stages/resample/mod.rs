//! `resample`: one value a step for each series: the mean of a gauge's samples, the rate of a counter.
//!
//! ```text
//!  AdmittedBatch ──► [ resample ×workers ] ──► SeriesStep: what the stages behind it read in place of samples
//! ```
//! A step of [`STEP_MS`](crate::settings::STEP_MS) that ends at `t` covers `(t - step, t]`. It is closed, and handed on, with the first sample behind it;
//! silence closes none, for what looks at steps looks back over hours. A late sample gives the step that it is in anew, and
//! the next one that has samples, for the first of those has another one before it now.
//!
//! A series is a counter if a source has said so before or with its samples; otherwise it is a gauge. What is set for it
//! (`select`, `transform`) counts more. Once its steps are to be of the other kind than before, they begin anew.
//!
//! Not here: rings of steps, and what is seen in them.
//!
//! # State
//! Per series the sums of its open step and its newest sample: [`STATE_BYTES`].

mod series;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use self::series::{NEVER, SeriesSteps, StepSum, VERSION};
use crate::rows::Rows;
use crate::sample::SeriesId;
use crate::settings::SeriesClass;
use crate::shard::{
    AdmittedBatch, BootstrapStep, ClassChange, SeriesEvents, SeriesStep, SlotAssignment, StepEvent,
    WorkPosition,
};
use crate::snapshot::StateError;
use crate::stage::{PartReader, PartWriter, Progress, SavePoint, Stage, StageInput, StageSpec};

/// Bytes of a series.
const STATE_BYTES: usize = size_of::<SeriesSteps>();

/// The steps of the series of one shard.
#[derive(Default)]
pub struct Resample {
    heads: Vec<SeriesSteps>,
    closed: Vec<SeriesStep>,
    position: Arc<WorkPosition>,
}

impl Resample {
    fn give(&mut self, slot: u32, series: SeriesId, class: SeriesClass) {
        let head = SeriesSteps::new(series, class);
        match self.heads.get_mut(slot as usize) {
            Some(old) => *old = head,
            None => self.heads.push(head),
        }
    }

    /// Begins anew, as after a bootstrap's first sample, or because the series is of another kind than it was taken for.
    fn begin(&mut self, slot: u32, head: SeriesSteps) {
        self.heads[slot as usize] = head;
        let event = StepEvent::Begin { bootstraps: head.bootstraps };
        self.closed.push(SeriesStep { slot, event });
    }

    fn step(&mut self, slot: u32, step: BootstrapStep) {
        let head = self.heads[slot as usize];
        let begun = SeriesSteps { step: NEVER, newest_ms: NEVER, sum: head.sum.emptied(), ..head };
        match step {
            BootstrapStep::Begin { .. } => self.begin(slot, SeriesSteps { bootstraps: true, ..begun }),
            BootstrapStep::Drop => self.begin(slot, SeriesSteps { bootstraps: false, ..begun }),
            BootstrapStep::End => {
                self.heads[slot as usize].bootstraps = false;
                self.closed.push(SeriesStep { slot, event: StepEvent::BootstrapEnd });
            }
        }
    }

    fn push(&mut self, slot: u32, batch: &AdmittedBatch, new: std::ops::Range<usize>) {
        let head = &mut self.heads[slot as usize];
        for (at_ms, value) in batch.at_ms[new.clone()].iter().zip(&batch.value[new]) {
            if let Some(event) = head.push(*at_ms, *value) {
                self.closed.push(SeriesStep { slot, event });
            }
        }
    }

    /// Saves so many more of `live`.
    fn save_slots(&mut self, part: &mut PartWriter, live: &[u32], at_most: usize) -> Progress {
        let upto = live.len().min(part.next + at_most);
        for slot in &live[part.next..upto] {
            self.heads[*slot as usize].save(&mut part.state);
        }
        part.next = upto;
        if upto == live.len() { Progress::Done } else { Progress::More }
    }

    /// The steps of a shard as they were saved.
    ///
    /// # Errors
    /// Bytes that no shard wrote.
    fn load(part: PartReader<'_>) -> Result<Resample, StateError> {
        let PartReader { slots, live, state: mut take, .. } = part;
        let mut resample = Resample::default();
        (0..slots as u32).for_each(|slot| resample.give(slot, SeriesId::default(), SeriesClass::default()));
        if take.n(1)? != live.len() {
            return Err(StateError("gate and steps differ in what they hold"));
        }
        for (slot, series) in live {
            resample.heads[*slot as usize] = SeriesSteps::load(*series, &mut take)?;
        }
        take.end()?;
        Ok(resample)
    }

    /// Of the series that the gate describes: their open steps, as far as their raw samples are held.
    fn rebuild(batch: &AdmittedBatch, slots: usize) -> Resample {
        let mut resample = Resample::default();
        (0..slots as u32).for_each(|slot| resample.give(slot, SeriesId::default(), SeriesClass::default()));
        batch.given.iter().for_each(|given| resample.give(given.slot, given.series, given.class));
        for carried in &batch.carried {
            let head = &mut resample.heads[carried.slot as usize];
            head.bootstraps = carried.bootstrap_from_ms.is_some();
            for i in carried.raw.0 as usize..carried.raw.1 as usize {
                head.push(batch.raw_at_ms[i], batch.raw_value[i]);
            }
        }
        resample
    }
}

/// The steps in the list of stages.
pub const SPEC: StageSpec = StageSpec {
    name: "resample",
    version: VERSION,
    input: StageInput::Samples,
    new: |_| Box::new(Resample::default()),
    load: |_, part| Ok(Box::new(Resample::load(part)?)),
    rebuild: Some(|_, batch, slots| Box::new(Resample::rebuild(batch, slots))),
    series_bytes: |_| STATE_BYTES,
    keep_ms: |settings| settings.allowed_lateness_ms,
    is_concerned: |_, _| false,
};

impl Stage for Resample {
    fn attach(&mut self, position: &Arc<WorkPosition>) {
        self.position = Arc::clone(position);
    }

    fn assign(&mut self, slot: &SlotAssignment) {
        self.give(slot.slot, slot.series, slot.class);
    }

    fn reclassify(&mut self, change: &ClassChange) {
        let slot = change.slot;
        let head = self.heads[slot as usize];
        let sum = StepSum::of(change.class);
        if std::mem::discriminant(&sum) != std::mem::discriminant(&head.sum) {
            self.begin(slot, SeriesSteps { step: NEVER, sum, ..head });
        }
    }

    fn observe(&mut self, series: &SeriesEvents<'_>, batch: &AdmittedBatch, _: &mut Rows) {
        let slot = series.slot;
        self.position.on(self.heads[slot as usize].series);
        for (new, step) in series.phases() {
            self.push(slot, batch, new);
            self.step(slot, step);
        }
        for late in series.late_steps {
            let raw = late.raw.0 as usize..late.raw.1 as usize;
            let samples = (&batch.raw_at_ms[raw.clone()], &batch.raw_value[raw]);
            if let Some(event) = self.heads[slot as usize].correct(late, samples) {
                self.closed.push(SeriesStep { slot, event });
            }
        }
        self.push(slot, batch, series.rest());
    }

    fn take_steps(&mut self, steps: &mut Vec<SeriesStep>) {
        // Of some hundred shards none keeps the memory of its largest epoch.
        steps.append(&mut std::mem::take(&mut self.closed));
    }

    fn forget(&mut self, slot: u32) {
        self.give(slot, SeriesId::default(), SeriesClass::default());
    }

    fn bytes(&self) -> usize {
        self.heads.capacity() * STATE_BYTES
    }

    fn begin_save(&mut self, _: SavePoint, live: usize) -> PartWriter {
        let mut part = PartWriter::default();
        part.state.n(live);
        part
    }

    fn save_some(&mut self, part: &mut PartWriter, _: SavePoint, live: &[u32], at_most: usize) -> Progress {
        self.save_slots(part, live, at_most)
    }
}
