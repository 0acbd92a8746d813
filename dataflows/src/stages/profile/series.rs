//! What is held of one series, when it is evaluated, and its bytes in a snapshot.

use super::evaluate::{Evaluator, Season};
use super::ring::{BLOCK_STEPS, NEVER, QUARTER_STEPS, QuarterRing, StepRing};
use crate::rows::profiles::SeriesProfile;
use crate::rows::verdicts::{ProfileStatus, Verdict};
use crate::sample::{MetricType, SeriesId};
use crate::settings::{ProfileSettings, STEP_MS};
use crate::snapshot::{StateError, StateReader, StateWriter};

/// Version of the part.
pub(super) const VERSION: u8 = 1;
/// How many evaluations in turn must find another verdict than before.
const EVALUATIONS_TO_CHANGE: u8 = 2;
/// Steps between two searches for a season: six hours.
const SEARCH_STEPS: i64 = 360;

/// A series.
#[derive(Clone, Debug)]
pub(super) struct SeriesState {
    pub(super) series: SeriesId,
    pub(super) is_rate: bool,
    pub(super) bootstraps: bool,
    pub(super) steps: StepRing,
    pub(super) quarters: QuarterRing,
    /// The spans in which it was evaluated, published and searched last.
    evaluated: i64,
    published: i64,
    searched: i64,
    season: Season,
    /// Whether it is stationary, seasonal, autocorrelated.
    verdicts: [SettledVerdict; 3],
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
    /// Takes what an evaluation found; whether that changes a verdict.
    fn take(&mut self, found: Verdict) -> bool {
        if found == Verdict::Unknown || found == self.verdict {
            self.times = 0;
            return false;
        }
        if self.verdict == Verdict::Unknown {
            // The first word is no change.
            *self = SettledVerdict { verdict: found, ..SettledVerdict::default() };
            return false;
        }
        self.times = if self.other == found { self.times.saturating_add(1) } else { 1 };
        self.other = found;
        if self.times < EVALUATIONS_TO_CHANGE {
            return false;
        }
        *self = SettledVerdict { verdict: found, ..SettledVerdict::default() };
        true
    }
}

impl SeriesState {
    pub(super) fn new(series: SeriesId, kind: Option<MetricType>) -> SeriesState {
        SeriesState {
            series,
            is_rate: kind == Some(MetricType::Counter),
            bootstraps: false,
            steps: StepRing::EMPTY,
            quarters: QuarterRing::EMPTY,
            evaluated: NEVER,
            published: NEVER,
            searched: NEVER,
            season: Season::NONE,
            verdicts: [SettledVerdict::default(); 3],
        }
    }

    /// As if no step of it had come.
    pub(super) fn begin(&mut self) {
        let kind = self.is_rate.then_some(MetricType::Counter);
        *self = SeriesState { bootstraps: self.bootstraps, ..SeriesState::new(self.series, kind) };
    }

    /// The number of the span of so many steps that a step is in; spans begin at another step for each series.
    fn span(&self, step: i64, steps: i64) -> i64 {
        let offset = (self.series.0 >> 32).rem_euclid(steps.max(1) as u64) as i64;
        (step - offset).div_euclid(steps.max(1))
    }

    pub(super) fn is_due(&self, step: i64, settings: &ProfileSettings) -> bool {
        self.span(step, settings.every_ms / STEP_MS) > self.evaluated
    }

    /// Evaluates the series as of its newest step. The row, if it is published.
    pub(super) fn evaluate(
        &mut self,
        step: i64,
        settings: &ProfileSettings,
        room: &mut Evaluator,
    ) -> Option<SeriesProfile> {
        self.evaluated = self.span(step, settings.every_ms / STEP_MS);
        self.steps.window(&mut room.steps);
        let search = self.span(step, SEARCH_STEPS);
        if search > self.searched {
            self.searched = search;
            self.quarters.means(&mut room.quarters);
            self.season = room.search();
        }
        let row = self.row(step, room);
        let found = [row.stationary, row.seasonal, row.autocorrelated];
        let mut is_changed = false;
        for (settled, found) in self.verdicts.iter_mut().zip(found) {
            is_changed |= settled.take(found);
        }
        let hour = self.span(step, settings.publish_every_ms / STEP_MS);
        // Before it has an hour of steps there is nothing to say, unless that takes something back.
        let is_known = row.status != ProfileStatus::TooShort || self.published != NEVER;
        let is_published = is_known && (is_changed || hour > self.published);
        if is_published {
            self.published = hour;
        }
        is_published.then_some(row)
    }

    fn row(&self, step: i64, room: &mut Evaluator) -> SeriesProfile {
        SeriesProfile { series: self.series, is_rate: self.is_rate, ..room.profile(step, &self.season) }
    }

    /// The profile as of the newest step; none without steps.
    #[cfg(test)]
    pub(super) fn now(&self, room: &mut Evaluator) -> Option<SeriesProfile> {
        self.steps.window(&mut room.steps);
        (self.steps.newest != NEVER).then(|| self.row(self.steps.newest, room))
    }

    pub(super) fn ring_bytes(&self) -> usize {
        self.steps.bytes() + self.quarters.bytes()
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
        put.u8(u8::from(self.is_rate) | u8::from(self.bootstraps) << 1);
        [self.evaluated, self.published, self.searched].into_iter().for_each(|span| put.i64(span));
        put.u32(self.season.period);
        put.u64(self.season.strength.to_bits());
        put.u64(self.season.trend.to_bits());
        for settled in &self.verdicts {
            put.u8(settled.verdict as u8);
            put.u8(settled.other as u8);
            put.u8(settled.times);
        }
        self.steps.save_blocks(sealed_to, i64::MAX, put);
        self.quarters.save(sealed_to, i64::MAX, put);
        self.steps.save_open(put);
    }

    pub(super) fn load(&mut self, take: &mut StateReader, most: usize) -> Result<(), StateError> {
        let flags = take.u8()?;
        if flags > 3 {
            return Err(StateError("a profile has flags that are not known"));
        }
        (self.is_rate, self.bootstraps) = (flags & 1 == 1, flags & 2 == 2);
        (self.evaluated, self.published, self.searched) = (take.i64()?, take.i64()?, take.i64()?);
        self.season = Season {
            period: take.u32()?,
            strength: f64::from_bits(take.u64()?),
            trend: f64::from_bits(take.u64()?),
        };
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
        self.steps.load_open(take)
    }
}

const _: () = assert!(BLOCK_STEPS % QUARTER_STEPS == 0, "a block is made of whole quarters");
