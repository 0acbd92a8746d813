//! What is held of one series, when it is evaluated, and its bytes in a snapshot.

use super::evaluate::{Evaluator, Season, WantedSeason};
use super::ring::{BLOCK_STEPS, NEVER, QUARTER_STEPS, QuarterRing, StepRing, span_of};
use super::sliding::SlidingSums;
use crate::kernels::order::TRAILING_MAX;
use crate::rows::inspect::StepsView;
use crate::rows::verdicts::{ProfileChange, Verdict};
use crate::rows::{ProfileEvent, Rows, SeriesProfile};
use crate::sample::SeriesId;
use crate::settings::{Model, ProfileSettings, STEP_MS, SeriesClass};
use crate::snapshot::{StateError, StateReader, StateWriter};

/// Version of the part.
pub(super) const VERSION: u8 = 2;
/// How many evaluations in turn must find another verdict than before.
const EVALUATIONS_TO_CHANGE: u8 = 2;
/// A series that was silent for longer begins anew, as one does whose slot was freed meanwhile; a slot is kept as long.
pub(super) const SILENCE_STEPS_MAX: i64 = 720;
/// Steps between two searches for a season: six hours.
const SEARCH_STEPS: i64 = 360;

/// A series.
#[derive(Clone, Debug)]
pub(super) struct SeriesState {
    pub(super) series: SeriesId,
    pub(super) is_rate: bool,
    pub(super) bootstraps: bool,
    pub(super) wanted: WantedSeason,
    pub(super) steps: StepRing,
    pub(super) quarters: QuarterRing,
    /// The sums of the window as of the last evaluation; what follows from the steps is not in snapshots.
    pub(super) sliding: Option<Box<SlidingSums>>,
    evaluated: Cadence,
    searched: Cadence,
    published: Cadence,
    /// Whether a row of it was ever published: then also that it has become too short is said.
    has_row: bool,
    /// What the last search found; nothing before the first.
    season: Option<Season>,
    /// Whether it is stationary, seasonal, autocorrelated.
    verdicts: [SettledVerdict; 3],
}

/// Something that is done once in each span of so many steps. Spans begin at another step for each series, so that the load is
/// flat.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Cadence {
    /// The step at which it was done last, or counts as done.
    last: i64,
    /// It was put off, and is not again before it is done.
    deferred: bool,
}

impl Cadence {
    const NEVER: Cadence = Cadence { last: NEVER, deferred: false };

    /// Whether a span has begun since it was done.
    fn is_due(&self, series: SeriesId, step: i64, steps: i64) -> bool {
        let offset = (series.0 >> 32).rem_euclid(steps.max(1) as u64) as i64;
        let span = |step: i64| (step - offset).div_euclid(steps.max(1));
        self.last == NEVER || span(step) > span(self.last)
    }

    /// It is done now.
    fn done(&mut self, step: i64) {
        *self = Cadence { last: step, deferred: false };
    }

    /// What became due in a gap waits for the next span: else all series of an outage would be due at its end.
    fn defer(&mut self, series: SeriesId, step: i64, steps: i64) {
        if self.last != NEVER && !self.deferred && self.is_due(series, step, steps) {
            *self = Cadence { last: step, deferred: true };
        }
    }

    fn save(&self, put: &mut StateWriter) {
        put.i64(self.last);
        put.u8(u8::from(self.deferred));
    }

    fn load(take: &mut StateReader) -> Result<Cadence, StateError> {
        let last = take.i64()?;
        if last != NEVER && last.unsigned_abs() > 1 << 40 {
            return Err(StateError("a profile was computed at no step"));
        }
        Ok(Cadence { last, deferred: take.flag()? })
    }
}

/// A verdict that changes only once it was found again.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct SettledVerdict {
    verdict: Verdict,
    /// Found by so many evaluations in turn.
    other: Verdict,
    times: u8,
}

impl SettledVerdict {
    /// Takes what an evaluation found; the verdict before, if that changes it.
    fn take(&mut self, found: Verdict) -> Option<Verdict> {
        if found == Verdict::Unknown || found == self.verdict {
            self.times = 0;
            return None;
        }
        if self.verdict == Verdict::Unknown {
            // The first word is no change.
            *self = SettledVerdict { verdict: found, ..SettledVerdict::default() };
            return None;
        }
        self.times = if self.other == found { self.times.saturating_add(1) } else { 1 };
        self.other = found;
        if self.times < EVALUATIONS_TO_CHANGE {
            return None;
        }
        let before = self.verdict;
        *self = SettledVerdict { verdict: found, ..SettledVerdict::default() };
        Some(before)
    }
}

impl SeriesState {
    pub(super) fn new(series: SeriesId, class: SeriesClass) -> SeriesState {
        SeriesState {
            series,
            is_rate: class.is_rate(),
            bootstraps: false,
            wanted: WantedSeason::of(&class.options),
            steps: StepRing::EMPTY,
            quarters: QuarterRing::EMPTY,
            sliding: None,
            evaluated: Cadence::NEVER,
            searched: Cadence::NEVER,
            published: Cadence::NEVER,
            has_row: false,
            season: None,
            verdicts: [SettledVerdict::default(); 3],
        }
    }

    /// As if no step of it had come.
    pub(super) fn begin(&mut self) {
        let SeriesState { is_rate, bootstraps, wanted, has_row, .. } = *self;
        let begun = SeriesState::new(self.series, SeriesClass::default());
        *self = SeriesState { is_rate, bootstraps, wanted, has_row, ..begun };
    }

    /// Something else is known of it, or set. Where its season is meant, that is looked for anew.
    pub(super) fn reclassify(&mut self, class: SeriesClass) {
        self.is_rate = class.is_rate();
        let wanted = WantedSeason::of(&class.options);
        if self.wanted != wanted {
            (self.wanted, self.season, self.searched) = (wanted, None, Cadence::NEVER);
        }
    }

    /// A step is about to be taken that is newer than all others.
    pub(super) fn approach(&mut self, step: i64, settings: &ProfileSettings) {
        if self.steps.newest == NEVER {
            return;
        }
        let gap = step - self.steps.newest;
        if gap > SILENCE_STEPS_MAX {
            self.begin();
            self.has_row = false;
        } else if gap > settings.every_ms / STEP_MS {
            self.evaluated.defer(self.series, step, settings.every_ms / STEP_MS);
            self.searched.defer(self.series, step, SEARCH_STEPS);
        }
    }

    /// Takes a step. The quarter that it ends or changes, and its mean.
    pub(super) fn take(&mut self, step: i64, value: f64, room: &mut Evaluator) -> Option<(i64, f64)> {
        let newest = self.steps.newest;
        if newest == NEVER || step > newest {
            // The ring is about to forget what leaves the window.
            if newest != NEVER
                && span_of(step, BLOCK_STEPS) != span_of(newest, BLOCK_STEPS)
                && let Some(sliding) = &mut self.sliding
                && !room.slide(&self.steps, sliding)
            {
                self.sliding = None;
            }
            return self.steps.push(step, value);
        }
        let is_summed = self.sliding.as_ref().is_some_and(|sliding| step <= sliding.upto);
        if is_summed && self.steps.value(step).to_bits() != value.to_bits() {
            self.sliding = None;
        }
        self.steps.set(step, value)
    }

    pub(super) fn is_due(&self, step: i64, settings: &ProfileSettings) -> bool {
        !self.bootstraps && self.evaluated.is_due(self.series, step, settings.every_ms / STEP_MS)
    }

    /// Evaluates the series as of its newest step: an event for each verdict that has changed, and its row, if it is published.
    pub(super) fn evaluate(
        &mut self,
        step: i64,
        settings: &ProfileSettings,
        room: &mut Evaluator,
        out: &mut Rows,
    ) {
        self.evaluated.done(step);
        if self.searched.is_due(self.series, step, SEARCH_STEPS) {
            self.steps.window(&mut room.steps);
            self.quarters.means(&mut room.quarters);
            // With too many gaps nothing is known; what was found before stays, and the next evaluation looks again.
            if let Some(season) = room.search(self.wanted) {
                self.season = Some(season);
                self.searched.done(step);
            }
        }
        room.sum(&self.steps, &mut self.sliding);
        let judgement = room.judge(self.season, |steps| self.steps.window(steps));
        let found = [judgement.stationary, judgement.seasonal, judgement.autocorrelated];
        let at_ms = step.saturating_mul(STEP_MS);
        let mut is_changed = false;
        for ((settled, found), change) in self.verdicts.iter_mut().zip(found).zip(ProfileChange::ALL) {
            if let Some(from) = settled.take(found) {
                is_changed = true;
                let event = ProfileEvent { series: self.series, at_ms, change, from, to: found };
                out.events.push(event);
            }
        }
        // Before it has an hour of steps there is nothing to say, unless that takes something back.
        let is_known = !judgement.is_too_short() || self.has_row;
        let is_due = self.published.is_due(self.series, step, settings.publish_every_ms / STEP_MS);
        if is_known && (is_changed || is_due) {
            self.published.done(step);
            self.has_row = true;
            room.steps.clear();
            let from = self.steps.from().max(step - TRAILING_MAX as i64 + 1);
            self.steps.read(from, step, &mut room.steps);
            out.profiles.push(self.named(room.row(step, self.season, &judgement)));
        }
    }

    fn named(&self, row: SeriesProfile) -> SeriesProfile {
        SeriesProfile { series: self.series, is_rate: self.is_rate, ..row }
    }

    /// The profile as of the newest step, from scratch, and the steps that it is of; none without steps.
    pub(super) fn now(&self, room: &mut Evaluator) -> Option<(SeriesProfile, Vec<f64>)> {
        self.steps.window(&mut room.steps);
        let newest = self.steps.newest;
        let row = (newest != NEVER).then(|| self.named(room.profile(newest, self.season)))?;
        Some((row, room.steps.clone()))
    }

    /// What is held of it; nothing before its first step.
    pub(super) fn view(&self) -> Option<StepsView> {
        if self.steps.newest == NEVER {
            return None;
        }
        let mut view = StepsView {
            bootstrapping: self.bootstraps,
            is_rate: self.is_rate,
            minutes_end_ms: self.steps.newest.saturating_mul(STEP_MS),
            quarters_end_ms: self.quarters.end().saturating_mul(STEP_MS),
            period_minutes: self.season.map_or(0, |season| season.period),
            ..StepsView::default()
        };
        self.steps.window(&mut view.minutes);
        self.quarters.means(&mut view.quarters);
        Some(view)
    }

    pub(super) fn ring_bytes(&self) -> usize {
        let sliding = self.sliding.as_ref().map_or(0, |_| size_of::<SlidingSums>());
        self.steps.bytes() + self.quarters.bytes() + sliding
    }

    /// What ends in `(before, horizon]` steps, and changes no more.
    pub(super) fn save_sealed(&self, before: i64, horizon: i64, put: &mut StateWriter) {
        self.steps.save_blocks(before, horizon, put);
        self.quarters.save(before, horizon, put);
    }

    pub(super) fn load_sealed(&mut self, take: &mut StateReader, most: usize) -> Result<(), StateError> {
        self.steps.load_blocks(take)?;
        self.quarters.load(take, most)
    }

    /// Everything but what ends at or before this step, which is sealed.
    pub(super) fn save(&self, sealed_to: i64, put: &mut StateWriter) {
        let is_wanted = self.wanted != WantedSeason::default();
        let flags = [self.is_rate, self.bootstraps, self.has_row, self.season.is_some(), is_wanted];
        put.u8((0..).zip(flags).map(|(bit, set)| u8::from(set) << bit).sum());
        if is_wanted {
            put.u32(self.wanted.period);
            put.u8(self.wanted.model as u8);
        }
        [self.evaluated, self.searched, self.published].iter().for_each(|cadence| cadence.save(put));
        let season = self.season.unwrap_or(Season::NONE);
        put.u32(season.period);
        put.u64(season.strength.to_bits());
        put.u64(season.trend.to_bits());
        for settled in &self.verdicts {
            put.u8(settled.verdict as u8);
            put.u8(settled.other as u8);
            put.u8(settled.times);
        }
        self.steps.save_blocks(sealed_to, i64::MAX, put);
        self.quarters.save(sealed_to, i64::MAX, put);
        put.i64(self.quarters.oldest());
        self.steps.save_open(put);
    }

    pub(super) fn load(&mut self, take: &mut StateReader, most: usize) -> Result<(), StateError> {
        let flags = take.u8()?;
        if flags > 31 {
            return Err(StateError("a profile has flags that are not known"));
        }
        let flag = |bit: u8| flags >> bit & 1 == 1;
        (self.is_rate, self.bootstraps, self.has_row) = (flag(0), flag(1), flag(2));
        if flag(4) {
            let unknown = StateError("there is no such model of a season");
            let (period, model) = (take.u32()?, Model::from_code(take.u8()?).ok_or(unknown)?);
            self.wanted = WantedSeason { period, model };
        }
        self.evaluated = Cadence::load(take)?;
        self.searched = Cadence::load(take)?;
        self.published = Cadence::load(take)?;
        let season = Season {
            period: take.u32()?,
            strength: f64::from_bits(take.u64()?),
            trend: f64::from_bits(take.u64()?),
        };
        self.season = flag(3).then_some(season);
        let verdict = |code| Verdict::from_code(code).ok_or(StateError("there is no such verdict"));
        for settled in &mut self.verdicts {
            *settled = SettledVerdict {
                verdict: verdict(take.u8()?)?,
                other: verdict(take.u8()?)?,
                times: take.u8()?,
            };
        }
        self.steps.load_blocks(take)?;
        self.quarters.load(take, most)?;
        // What was forgotten since it was sealed.
        self.quarters.forget_before(take.i64()?);
        self.steps.load_open(take)
    }
}

const _: () = assert!(BLOCK_STEPS % QUARTER_STEPS == 0, "a block is made of whole quarters");
