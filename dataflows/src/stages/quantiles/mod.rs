//! `quantiles`: of the series that `select` sets it for, the quantiles of each window, within 1 % of themselves.
//!
//! ```text
//!  AdmittedBatch ──► [ quantiles ×workers ] ──► fills in `p50`, `p99`, ... of the window rows of the same epoch
//! ```
//! A series has a sketch for each base pane; the quantiles of a window are those of the sum of its panes. The stage makes no rows: the
//! windows stage answers and corrects keys, and what it has answered in an epoch is completed here. A late sample changes the pane that
//! it is in, so the row that corrects a window has the quantiles of all its samples.
//!
//! A row has quantiles if all of its samples are known here. That is judged twice: by when they were first kept, and by their number.
//! Where `select` sets quantiles for a series that has samples already, the windows that begin after its next sample have them.
//! Other base panes (a change of `windows`) keep what is known if they are multiples of those before; else the raw samples remain.
//!
//! Not here: what a sketch is (`kernels/sketch.rs`), and which keys are answered (`window`).
//!
//! # State
//! None for other series. Per series some 150 bytes, and the panes of the longest window and of lateness: 4 bytes, and 2 to 3 for each
//! group of values within 2 %. With the default windows and a sample each 15 s that is 6 KB of a constant and 12 KB of full-entropy values.

mod series;
#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use self::series::{GROUP_PANES, NEVER, SeriesSketches, VERSION};
use crate::kernels::sketch::{QuantileSketch, SketchSum};
use crate::rows::inspect::{Mismatch, StateCheck, What};
use crate::rows::{Rows, WindowStats};
use crate::sample::SeriesId;
use crate::seal::Sealing;
use crate::settings::{QUANTILES, SeriesClass, Settings};
use crate::shard::{
    AdmittedBatch, BootstrapStep, CarriedSeries, ClassChange, RawSamples, SeriesEvents, SeriesMap,
    SlotAssignment, Slots, WorkPosition, pane_of,
};
use crate::snapshot::{CHAINS, StateError};
use crate::stage::{
    PartReader, PartWriter, Progress, Query, SavePoint, SeriesView, Stage, StageInput, StageSpec,
};

thread_local! {
    /// Room for sums: one for each worker.
    static ROOM: RefCell<SketchSum> = RefCell::default();
}

/// Units that the quantiles of a row cost: some microseconds.
const ROW_UNITS: u64 = 40;
/// Bytes that a pane of four samples 15 s apart is reckoned with: its place, its length, three for each sample, and
/// what memory has to spare.
const PANE_BYTES: i64 = 16;

/// Bytes that quantiles take for a series of samples 15 s apart, once its panes are full.
pub fn series_bytes(settings: &Settings) -> usize {
    let panes = reach_ms(settings) / settings.base_ms() + GROUP_PANES;
    let samples_share = (settings.base_ms() + 59_999) / 60_000;
    (panes * PANE_BYTES * samples_share) as usize + size_of::<SeriesSketches>()
}

/// How far back from the newest sample panes are held: whatever key may still be answered, all of its window is there.
fn reach_ms(settings: &Settings) -> i64 {
    let longest_hop = settings.windows.iter().map(|window| window.hop_ms).max().unwrap_or(0);
    settings.longest_ms() + settings.raw_kept_ms() + longest_hop
}

/// The quantiles of the series of one shard.
pub struct Quantiles {
    settings: Arc<Settings>,
    base_ms: i64,
    reach_ms: i64,
    /// By slot, of the series that have them.
    of: BTreeMap<u32, SeriesSketches>,
    sealing: Sealing,
    position: Arc<WorkPosition>,
}

impl Quantiles {
    fn new(settings: &Arc<Settings>) -> Quantiles {
        Quantiles {
            base_ms: settings.base_ms(),
            reach_ms: reach_ms(settings),
            settings: Arc::clone(settings),
            of: BTreeMap::new(),
            sealing: Sealing::default(),
            position: Arc::default(),
        }
    }

    /// The series in this slot is that one now, of whose samples all after `known_from` come.
    fn give(&mut self, slot: u32, series: SeriesId, class: SeriesClass, known_from: i64) {
        self.of.remove(&slot);
        let set = class.options.quantiles;
        if !set.is_empty() {
            self.of.insert(slot, SeriesSketches::new(series, set, known_from));
            self.sealing.begin(slot);
        }
    }

    /// As if no sample had come.
    fn begin(&mut self, slot: u32) {
        if let Some(series) = self.of.get_mut(&slot) {
            *series = SeriesSketches::new(series.series, series.set, NEVER);
            self.sealing.begin(slot);
        }
    }

    fn push(&mut self, slot: u32, batch: &AdmittedBatch, new: Range<usize>) {
        let base_ms = self.base_ms;
        if let Some(series) = self.of.get_mut(&slot) {
            series.push(base_ms, &batch.at_ms[new.clone()], &batch.value[new]);
        }
    }

    /// Takes the raw samples of a series that is carried over, as far back as they are held.
    fn begin_from_raw(&mut self, carried: &CarriedSeries, batch: &AdmittedBatch) {
        let base_ms = self.base_ms;
        if let Some(series) = self.of.get_mut(&carried.slot) {
            *series = SeriesSketches::new(series.series, series.set, carried.raw_from_ms);
            let raw = carried.raw.0 as usize..carried.raw.1 as usize;
            series.push(base_ms, &batch.raw_at_ms[raw.clone()], &batch.raw_value[raw]);
        }
    }

    /// The quantiles of a row, if all its samples are known.
    fn fill_in(&self, slot: u32, row: &mut WindowStats) -> bool {
        let Some(series) = self.of.get(&slot).filter(|series| series.series == row.series) else {
            return false;
        };
        let from_ms = row.at_ms - row.window_ms;
        if from_ms < series.known_from {
            return false;
        }
        let panes = from_ms.div_euclid(self.base_ms) + 1..=pane_of(row.at_ms, self.base_ms);
        let sketch = ROOM.with_borrow_mut(|room| {
            series.sum(panes, room);
            room.finish()
        });
        if sketch.count() == u64::from(row.count) {
            // No quantile lies beyond the values, so those of a constant are exact.
            let quantile = |q| sketch.quantile(q).clamp(row.min, row.max);
            let found = series.set.places().map(|place| (place, quantile(QUANTILES[place])));
            found.for_each(|(place, value)| row.quantiles.0[place] = value);
        }
        true
    }

    /// Computes again the panes whose raw samples are held.
    fn check(&self, slot: u32, raw: &RawSamples, found: &mut StateCheck) {
        let Some(series) = self.of.get(&slot) else { return };
        let base_ms = self.base_ms;
        let from_ms = raw.whole_after_ms.max(series.known_from);
        let samples = raw.at_ms.iter().zip(&raw.value).filter(|(at_ms, _)| **at_ms > from_ms);
        let samples: Vec<(i64, f64)> =
            samples.map(|(at_ms, value)| (pane_of(*at_ms, base_ms), *value)).collect();
        // A pane that began before this may have more samples than these.
        let whole = samples.chunk_by(|a, b| a.0 == b.0).filter(|pane| (pane[0].0 - 1) * base_ms >= from_ms);
        for samples in whole {
            let (mut again, number) = (QuantileSketch::default(), samples[0].0);
            samples.iter().for_each(|(_, value)| again.add(*value));
            let kept = series.pane(number);
            found.checked[What::Sketch as usize] += 1;
            if kept != again {
                let median = |sketch: &QuantileSketch| sketch.quantile(0.5);
                found.found(Mismatch {
                    what: What::Sketch,
                    window_ms: None,
                    start_ms: (number - 1) * base_ms,
                    end_ms: number * base_ms,
                    field: "p50",
                    kept: median(&kept),
                    again: median(&again),
                });
            }
        }
    }

    /// Groups before this one can change no more.
    fn horizon(&self, series: &SeriesSketches) -> i64 {
        let newest_ms = series.newest_ms.max(i64::MIN / 2);
        pane_of(newest_ms - self.settings.raw_kept_ms() - self.base_ms, self.base_ms).div_euclid(GROUP_PANES)
    }

    fn save_series(&mut self, slot: u32, chain: usize, part: &mut PartWriter) {
        let Some(series) = self.of.get(&slot) else { return };
        let (horizon, before) = (self.horizon(series), self.sealing.before(slot, chain));
        if before < horizon || before == NEVER {
            part.sealed.u64(series.series.0);
            // Something of a series that had this id may be in the chain.
            part.sealed.u8(u8::from(before == NEVER));
            series.save_groups(before, horizon, &mut part.sealed);
            self.sealing.advance(slot, chain, horizon.max(NEVER + 1));
        }
        part.state.u32(slot);
        (0..CHAINS).for_each(|chain| part.state.i64(self.sealing.before(slot, chain)));
        // Not from the horizon on: where lateness was raised since, it lies behind what the chain holds.
        series.save(self.sealing.before(slot, chain), &mut part.state);
    }

    fn load(settings: &Arc<Settings>, part: PartReader<'_>) -> Result<Quantiles, StateError> {
        let PartReader { live, state: mut take, sealed, .. } = part;
        let mut quantiles = Quantiles::new(settings);
        let mut all: SeriesMap<SeriesSketches> = SeriesMap::default();
        let unset = SeriesClass::default().options.quantiles;
        for mut piece in sealed {
            while !piece.0.is_empty() {
                let (series, anew) = (piece.u64()?, piece.flag()?);
                let begun = || SeriesSketches::new(SeriesId(series), unset, NEVER);
                let of = all.entry(series).or_insert_with(begun);
                if anew {
                    *of = begun();
                }
                of.load_groups(&mut piece)?;
            }
        }
        quantiles.sealing.loaded();
        let series_of: BTreeMap<u32, SeriesId> = live.iter().copied().collect();
        while !take.0.is_empty() {
            let slot = take.u32()?;
            let unknown = StateError("gate and quantiles differ in what they hold");
            let series = *series_of.get(&slot).ok_or(unknown)?;
            quantiles.sealing.begin(slot);
            for chain in 0..CHAINS {
                quantiles.sealing.advance(slot, chain, take.i64()?);
            }
            let begun = SeriesSketches::new(series, unset, NEVER);
            let mut sketches = all.remove(&series.0).unwrap_or(begun);
            sketches.load(&mut take)?;
            if quantiles.of.insert(slot, sketches).is_some() {
                return Err(unknown);
            }
        }
        Ok(quantiles)
    }
}

/// The quantiles in the list of stages.
pub const SPEC: StageSpec = StageSpec {
    name: "quantiles",
    version: VERSION,
    input: StageInput::Samples,
    new: |settings| Box::new(Quantiles::new(settings)),
    load: |settings, part| Ok(Box::new(Quantiles::load(settings, part)?)),
    rebuild: Some(|settings, batch, _| {
        let mut quantiles = Quantiles::new(settings);
        batch.given.iter().for_each(|given| quantiles.give(given.slot, given.series, given.class, NEVER));
        batch.carried.iter().for_each(|carried| quantiles.begin_from_raw(carried, batch));
        Box::new(quantiles)
    }),
    // Of most series none: `series_bytes` says what one takes that has them.
    series_bytes: |_| 0,
    keep_ms: |settings| settings.longest_ms().max(settings.allowed_lateness_ms),
    is_concerned: |old, new| old.windows != new.windows || old.allowed_lateness_ms != new.allowed_lateness_ms,
};

impl Stage for Quantiles {
    fn attach(&mut self, position: &Arc<WorkPosition>) {
        self.position = Arc::clone(position);
    }

    fn reconfigure(&mut self, settings: &Arc<Settings>, batch: &AdmittedBatch) {
        let (was_ms, base_ms) = (self.base_ms, settings.base_ms());
        (self.settings, self.base_ms) = (Arc::clone(settings), base_ms);
        self.reach_ms = reach_ms(settings);
        if base_ms == was_ms {
            return;
        }
        for carried in &batch.carried {
            if base_ms % was_ms != 0 {
                self.begin_from_raw(carried, batch);
            } else if let Some(series) = self.of.get_mut(&carried.slot) {
                *series = series.in_larger_panes(was_ms, base_ms);
            }
        }
        let slots = self.of.last_key_value().map_or(0, |(slot, _)| *slot as usize + 1);
        self.sealing = Sealing::anew(slots);
    }

    fn assign(&mut self, slot: &SlotAssignment) {
        self.give(slot.slot, slot.series, slot.class, NEVER);
    }

    fn reclassify(&mut self, change: &ClassChange) {
        let set = change.class.options.quantiles;
        match self.of.get_mut(&change.slot) {
            Some(series) if !set.is_empty() => series.set = set,
            Some(_) => {
                self.of.remove(&change.slot);
            }
            None => self.give(change.slot, change.series, change.class, i64::MAX),
        }
    }

    fn observes(&self) -> bool {
        !self.of.is_empty()
    }

    fn observe(&mut self, series: &SeriesEvents<'_>, batch: &AdmittedBatch, _: &mut Rows) {
        let (slot, base_ms, reach_ms) = (series.slot, self.base_ms, self.reach_ms);
        let Some(sketches) = self.of.get_mut(&slot) else { return };
        self.position.on(sketches.series);
        // By what was newest before: the samples of this epoch close keys that hold none of them.
        if sketches.newest_ms != NEVER {
            sketches.forget_before(pane_of(sketches.newest_ms - reach_ms, base_ms), base_ms);
        }
        for (new, step) in series.phases() {
            self.push(slot, batch, new);
            match step {
                BootstrapStep::Begin { .. } | BootstrapStep::Drop => self.begin(slot),
                BootstrapStep::End => {}
            }
        }
        if let Some(sketches) = self.of.get_mut(&slot) {
            for late in series.late {
                let mut sketch = QuantileSketch::default();
                batch.raw_value[late.raw.0 as usize..late.raw.1 as usize]
                    .iter()
                    .for_each(|value| sketch.add(*value));
                sketches.set(late.pane, sketch);
            }
        }
        self.push(slot, batch, series.rest());
    }

    fn complete(&self, rows: &mut [WindowStats], slots: &Slots) -> u64 {
        if self.of.is_empty() {
            return 0;
        }
        let filled = rows.iter_mut().filter_map(|row| Some((slots.get(row.series.0)?, row)));
        filled.filter_map(|(slot, row)| self.fill_in(slot, row).then_some(ROW_UNITS)).sum()
    }

    fn forget(&mut self, slot: u32) {
        self.of.remove(&slot);
    }

    fn bytes(&self) -> usize {
        let entry = size_of::<SeriesSketches>() + size_of::<u32>();
        let sketches: usize = self.of.values().map(|series| entry + series.bytes()).sum();
        sketches + self.sealing.bytes()
    }

    fn continues(&self, chain: usize) -> bool {
        self.sealing.continues(chain)
    }

    fn begin_save(&mut self, at: SavePoint, _: usize) -> PartWriter {
        self.sealing.begin_save(at.chain, at.whole);
        PartWriter::default()
    }

    fn save_some(&mut self, part: &mut PartWriter, at: SavePoint, live: &[u32], at_most: usize) -> Progress {
        let upto = live.len().min(part.next + at_most);
        live[part.next..upto].iter().for_each(|slot| self.save_series(*slot, at.chain, part));
        part.next = upto;
        if upto == live.len() { Progress::Done } else { Progress::More }
    }

    fn inspect(&self, query: &Query<'_>, view: &mut SeriesView) {
        let Some(slot) = view.slot else { return };
        match query {
            Query::Open { .. } => view.open.iter_mut().for_each(|row| {
                self.fill_in(slot, row);
            }),
            Query::Check => {
                if let (Ok(raw), Some(found)) = (&view.raw, &mut view.check) {
                    self.check(slot, raw, found);
                }
            }
            _ => {}
        }
    }
}
