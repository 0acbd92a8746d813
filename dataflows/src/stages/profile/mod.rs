//! `profile`: what kind of series one is, every five minutes of its own time: autocorrelation, stationarity, season, medians.
//!
//! ```text
//!  SeriesStep (resample) ──► [ profile ×workers ] ──► profile rows: hourly, and when a verdict has changed
//!                                                 ──► event rows: each such change
//! ```
//! A series is evaluated with the first step of each five minutes, which begin at another minute for each series, by its id.
//! So the load is flat, and nothing depends on workers. What became due in a gap waits for the next five minutes, so that the
//! end of an outage is no burst. A verdict has changed once two evaluations in turn have found the other one; a row shows what
//! its own evaluation found. The season, whose search costs most, is looked for every six hours; where `select` sets its
//! period, that is measured in its place. That a series has none is said of a whole day of steps only. After twelve hours of
//! silence a series begins anew, whether its slot was freed or not.
//!
//! Late samples change the steps that are held; profiles of the past are not revised, and the next one knows them.
//! While a series takes a bootstrap it is not evaluated.
//!
//! # State
//! Per series a day of steps, packed (0.3 KB where nothing changes, 4 KB of an ordinary gauge, at most 12), the open block (0.5 KB),
//! four days of means of quarters (1.5 KB), the sums of the window (0.6 KB), and 300 bytes.
//! An evaluation moves the sums by what came and went, and makes verdicts of them; medians and the rest of a row are computed
//! where one is published. What moved has the same bits as the same window from scratch.

pub mod check;
mod evaluate;
mod ring;
mod series;
mod sliding;
#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::sync::Arc;

use self::evaluate::Evaluator;
use self::ring::{DAY_QUARTERS, NEVER};
use self::series::{SILENCE_STEPS_MAX, SeriesState, VERSION};
use self::sliding::SlidingSums;
use crate::rows::Rows;
use crate::sample::SeriesId;
use crate::seal::Sealing;
use crate::settings::{STEP_MS, SeriesClass, Settings};
use crate::shard::{
    AdmittedBatch, ClassChange, SeriesMap, SeriesStep, SlotAssignment, StepEvent, WorkPosition,
};
use crate::snapshot::{StateError, StateReader, StateWriter};
use crate::stage::{
    PartReader, PartWriter, Progress, Query, SavePoint, SeriesView, Stage, StageInput, StageSpec,
};

thread_local! {
    /// Room for evaluations, some hundred kilobytes with the tables of its transforms: one for each worker, not one for each
    /// of its shards. What an evaluation gives does not depend on those before it.
    static ROOM: RefCell<Evaluator> = RefCell::default();
}

/// Bytes of a series beside its rings.
const STATE_BYTES: usize = size_of::<SeriesState>();
/// Bytes of the rings of an ordinary gauge.
const RING_BYTES: usize = 4_600 + 480 + 100 + size_of::<SlidingSums>();

/// The profiles of the series of one shard.
pub struct Profiles {
    settings: Arc<Settings>,
    series: Vec<SeriesState>,
    sealing: Sealing,
    position: Arc<WorkPosition>,
}

impl Profiles {
    fn new(settings: &Arc<Settings>) -> Profiles {
        Profiles {
            settings: Arc::clone(settings),
            series: Vec::new(),
            sealing: Sealing::default(),
            position: Arc::default(),
        }
    }

    /// Means of quarters that are kept.
    fn quarters_max(&self) -> usize {
        self.settings.profile.season_days as usize * DAY_QUARTERS
    }

    fn give(&mut self, slot: u32, series: SeriesId, class: SeriesClass) {
        let state = SeriesState::new(series, class);
        match self.series.get_mut(slot as usize) {
            Some(old) => *old = state,
            None => self.series.push(state),
        }
        self.sealing.begin(slot);
    }

    /// Takes a step; evaluates the series if it is the first of its five minutes.
    fn take(&mut self, slot: u32, step: i64, value: f64, out: &mut Rows) {
        let most = self.quarters_max();
        let series = &mut self.series[slot as usize];
        self.position.on(series.series);
        let is_newer = series.steps.newest == NEVER || step > series.steps.newest;
        if is_newer {
            series.approach(step, &self.settings.profile);
            if series.steps.newest == NEVER {
                self.sealing.begin(slot);
            }
        }
        let ended = ROOM.with_borrow_mut(|room| series.take(step, value, room));
        if let Some(quarter) = ended {
            series.quarters.put(quarter, most);
        }
        if is_newer && series.is_due(step, &self.settings.profile) {
            let settings = &self.settings.profile;
            ROOM.with_borrow_mut(|room| series.evaluate(step, settings, room, out));
        }
    }

    fn load(settings: &Arc<Settings>, part: PartReader<'_>) -> Result<Profiles, StateError> {
        let PartReader { slots, live, state: mut take, sealed, .. } = part;
        let mut profiles = Profiles::new(settings);
        (0..slots as u32).for_each(|slot| profiles.give(slot, SeriesId::default(), SeriesClass::default()));
        let most = profiles.quarters_max();
        let slot_of: SeriesMap<u32> = live.iter().map(|(slot, series)| (series.0, *slot)).collect();
        for mut piece in sealed {
            while !piece.0.is_empty() {
                // One whose slot was freed since counts no more.
                let mut other = SeriesState::new(SeriesId::default(), SeriesClass::default());
                let (series, anew) = (piece.u64()?, piece.flag()?);
                let state = match slot_of.get(&series) {
                    Some(slot) => &mut profiles.series[*slot as usize],
                    None => &mut other,
                };
                if anew {
                    state.begin();
                }
                state.load_sealed(&mut piece, most)?;
            }
        }
        profiles.sealing.loaded();
        if take.n(1)? != live.len() {
            return Err(StateError("gate and profiles differ in what they hold"));
        }
        for (slot, series) in live {
            profiles.load_series(*slot, *series, &mut take, most)?;
        }
        take.end()?;
        Ok(profiles)
    }

    fn load_series(
        &mut self,
        slot: u32,
        series: SeriesId,
        take: &mut StateReader,
        most: usize,
    ) -> Result<(), StateError> {
        let state = &mut self.series[slot as usize];
        state.series = series;
        for chain in 0..crate::snapshot::CHAINS {
            let before = take.i64()?;
            self.sealing.advance(slot, chain, before);
        }
        state.load(take, most)
    }

    /// Steps at or before this one can change no more.
    fn horizon(&self, slot: u32) -> i64 {
        let newest = self.series[slot as usize].steps.newest;
        newest.saturating_sub(self.settings.allowed_lateness_ms / STEP_MS + 2)
    }

    fn save_sealed(&mut self, slot: u32, chain: usize, put: &mut StateWriter) {
        let (horizon, before) = (self.horizon(slot), self.sealing.before(slot, chain));
        let state = &self.series[slot as usize];
        if state.steps.newest == NEVER {
            // Something of a series that had this id may be in the chain.
            if before == NEVER {
                put.u64(state.series.0);
                put.u8(1);
                SeriesState::new(state.series, SeriesClass::default()).save_sealed(NEVER, NEVER, put);
                // Said once.
                self.sealing.advance(slot, chain, NEVER + 1);
            }
            return;
        }
        if before >= horizon {
            return;
        }
        put.u64(state.series.0);
        put.u8(u8::from(before == NEVER));
        state.save_sealed(before, horizon, put);
        self.sealing.advance(slot, chain, horizon);
    }
}

/// The profiles in the list of stages.
pub const SPEC: StageSpec = StageSpec {
    name: "profile",
    version: VERSION,
    input: StageInput::Steps,
    new: |settings| Box::new(Profiles::new(settings)),
    load: |settings, part| Ok(Box::new(Profiles::load(settings, part)?)),
    // Steps of the past are held nowhere else: they come again from now on.
    rebuild: Some(|settings, batch, slots| {
        let mut profiles = Profiles::new(settings);
        (0..slots as u32).for_each(|slot| profiles.give(slot, SeriesId::default(), SeriesClass::default()));
        batch.given.iter().for_each(|given| profiles.give(given.slot, given.series, given.class));
        for carried in &batch.carried {
            profiles.series[carried.slot as usize].bootstraps = carried.bootstrap_from_ms.is_some();
        }
        Box::new(profiles)
    }),
    series_bytes: |settings| {
        let quarters = settings.profile.season_days as usize * DAY_QUARTERS * 4;
        STATE_BYTES + if settings.profile.enabled { RING_BYTES + quarters } else { 0 }
    },
    keep_ms: |settings| {
        let silence_ms = if settings.profile.enabled { SILENCE_STEPS_MAX * STEP_MS } else { 0 };
        settings.allowed_lateness_ms.max(silence_ms)
    },
    is_concerned: |old, new| old.profile != new.profile || old.allowed_lateness_ms != new.allowed_lateness_ms,
};

impl Stage for Profiles {
    fn attach(&mut self, position: &Arc<WorkPosition>) {
        self.position = Arc::clone(position);
    }

    fn reconfigure(&mut self, settings: &Arc<Settings>, _: &AdmittedBatch) {
        let was = std::mem::replace(&mut self.settings, Arc::clone(settings));
        let most = self.quarters_max();
        for slot in 0..self.series.len() {
            if was.profile.enabled && !settings.profile.enabled {
                self.series[slot].begin();
                self.sealing.begin(slot as u32);
            }
            self.series[slot].quarters.shrink(most);
        }
    }

    fn assign(&mut self, slot: &SlotAssignment) {
        self.give(slot.slot, slot.series, slot.class);
    }

    fn reclassify(&mut self, change: &ClassChange) {
        self.series[change.slot as usize].reclassify(change.class);
    }

    fn observe_steps(&mut self, steps: &[SeriesStep], out: &mut Rows) {
        let is_enabled = self.settings.profile.enabled;
        for SeriesStep { slot, event } in steps {
            match *event {
                StepEvent::Value { step, value } if is_enabled => self.take(*slot, step, value, out),
                StepEvent::Value { .. } => {}
                StepEvent::Begin { bootstraps } => {
                    let series = &mut self.series[*slot as usize];
                    series.begin();
                    series.bootstraps = bootstraps;
                    self.sealing.begin(*slot);
                }
                StepEvent::BootstrapEnd => self.series[*slot as usize].bootstraps = false,
            }
        }
    }

    fn forget(&mut self, slot: u32) {
        self.give(slot, SeriesId::default(), SeriesClass::default());
    }

    fn bytes(&self) -> usize {
        let rings: usize = self.series.iter().map(SeriesState::ring_bytes).sum();
        self.series.capacity() * STATE_BYTES + rings + self.sealing.bytes()
    }

    fn continues(&self, chain: usize) -> bool {
        self.sealing.continues(chain)
    }

    fn inspect(&self, query: &Query<'_>, view: &mut SeriesView) {
        let Some(slot) = view.slot else { return };
        let series = &self.series[slot as usize];
        match query {
            Query::Steps => view.steps = series.view(),
            // Where the gate holds no samples, or not all, there is nothing to compare with.
            Query::Check => {
                if let (Ok(raw), Some(found)) = (&view.raw, &mut view.check)
                    && let Some((profile, steps)) = ROOM.with_borrow_mut(|room| series.now(room))
                {
                    series.check(&profile, &steps, raw, found);
                }
            }
            _ => {}
        }
    }

    fn begin_save(&mut self, at: SavePoint, live: usize) -> PartWriter {
        self.sealing.begin_save(at.chain, at.whole);
        let mut part = PartWriter::default();
        part.state.n(live);
        part
    }

    fn save_some(&mut self, part: &mut PartWriter, at: SavePoint, live: &[u32], at_most: usize) -> Progress {
        let upto = live.len().min(part.next + at_most);
        for slot in &live[part.next..upto] {
            self.save_sealed(*slot, at.chain, &mut part.sealed);
            for chain in 0..crate::snapshot::CHAINS {
                part.state.i64(self.sealing.before(*slot, chain));
            }
            // Not from the horizon on: where lateness was raised since, it lies behind what the chain holds.
            let sealed_to = self.sealing.before(*slot, at.chain);
            self.series[*slot as usize].save(sealed_to, &mut part.state);
        }
        part.next = upto;
        if upto == live.len() { Progress::Done } else { Progress::More }
    }
}
