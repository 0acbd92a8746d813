//! Checks profiles by computing them again, slowly: from the same steps by the slow twins, and steps from their samples.
//!
//! ```text
//!  raw samples ──kernels::steps──► steps ──slow twins──► profile
//!       kept: the ring ────────────┘                        │
//!       kept: a row, or an evaluation of the ring ──────────┘ compared
//! ```
//! The season is not computed again: it is as old as the last search for it.
//!
//! Not here: which series are checked, and when.

use super::ring::{NEVER, WINDOW_STEPS};
use super::series::SeriesState;
use crate::kernels::mackinnon::Regression;
use crate::kernels::order::TRAILING;
use crate::kernels::reference::{moments, seasonality, stationarity};
use crate::kernels::steps;
use crate::rows::SeriesProfile;
use crate::rows::inspect::{Mismatch, StateCheck, What};
use crate::rows::verdicts::{AdfStatus, ProfileStatus};
use crate::settings::STEP_MS;
use crate::shard::RawSamples;

/// How far means may be off, of the largest value; variances and statistics, of themselves; correlations and probabilities.
const MEAN_TOLERANCE: f64 = 1e-13;
const VARIANCE_TOLERANCE: f64 = 1e-9;
const STATISTIC_TOLERANCE: f64 = 1e-6;
const PROBABILITY_TOLERANCE: f64 = 1e-7;
/// The twins do not scale: what they square must stay a number.
const SPREADS: std::ops::Range<f64> = 1e-140..1e140;
/// Below this a regression is of columns that hardly differ, and rounding decides its statistic.
const CONDITIONING_MIN: f64 = 1e-11;
/// The lag is not certain where another has nearly the same criterion.
const AIC_GAP_MIN: f64 = 1e-6;

/// Compares a profile with what the slow twins make of the steps it is of, the newest last; NaN is a step without a value.
/// `wrong` hears of each number that differs: its name, as the profile has it, and as computed again.
pub fn compare(row: &SeriesProfile, steps: &[f64], mut wrong: impl FnMut(&'static str, f64, f64)) {
    let present: Vec<f64> = steps.iter().copied().filter(|value| !value.is_nan()).collect();
    let n = present.len();
    let mut near = |field: &'static str, ours: f64, again: f64, tolerance: f64| {
        let same = ours == again || (ours - again).abs() <= tolerance || (ours.is_nan() && again.is_nan());
        if !same {
            wrong(field, ours, again);
        }
    };
    near("steps", row.steps.into(), n as f64, 0.0);
    if n == 0 || row.steps as usize != n {
        return;
    }
    near("gap_ratio", row.gap_ratio, 1.0 - n as f64 / steps.len() as f64, 1e-12);
    for (i, length) in TRAILING.into_iter().enumerate() {
        let again = seasonality::order_statistics(&steps[steps.len().saturating_sub(length)..]);
        let (median, mad, names) = match i {
            0 => (row.median_15, row.mad_15, ("median_15", "mad_15")),
            1 => (row.median_60, row.mad_60, ("median_60", "mad_60")),
            _ => (row.median_240, row.mad_240, ("median_240", "mad_240")),
        };
        // Two middle values are put together in another way.
        let unit = again.median.abs().max(again.mad) * 1e-15;
        near(names.0, median, again.median, unit);
        near(names.1, mad, again.mad, 2.0 * unit);
    }
    let exact = moments(&present);
    let largest = exact.min.abs().max(exact.max.abs());
    near("mean", row.mean, exact.avg, MEAN_TOLERANCE * largest);
    if !SPREADS.contains(&(exact.max - exact.min)) {
        return;
    }
    let variance = stationarity::autocovariance(&present, 0)[0];
    near("variance", row.variance, variance, VARIANCE_TOLERANCE * variance);
    if row.adf_status == AdfStatus::Ok
        && let Some(again) = stationarity::adf(&present, Regression::Constant)
        && again.conditioning > CONDITIONING_MIN
        && again.aic_gap > AIC_GAP_MIN
    {
        near("adf_used_lag", row.adf_used_lag.into(), again.used_lag as f64, 0.0);
        near("adf_nobs", row.adf_nobs.into(), again.nobs as f64, 0.0);
        let tolerance = STATISTIC_TOLERANCE * again.statistic.abs().max(1.0);
        near("adf_statistic", row.adf_statistic, again.statistic, tolerance);
        near("adf_p_value", row.adf_p_value, again.p_value, STATISTIC_TOLERANCE);
    }
    if row.status == ProfileStatus::Ok {
        let lags = row.acf.len().saturating_sub(1);
        for (ours, again) in row.acf.iter().zip(stationarity::autocorrelation(&present, lags)) {
            near("acf", *ours, again, PROBABILITY_TOLERANCE);
        }
        let tested = row.ljung_box_lags as usize;
        let statistic = stationarity::ljung_box(&present, tested);
        near(
            "ljung_box_statistic",
            row.ljung_box_statistic,
            statistic,
            STATISTIC_TOLERANCE * statistic.max(1.0),
        );
        let p_value = stationarity::chi_squared_survival(statistic, tested);
        near("ljung_box_p_value", row.ljung_box_p_value, p_value, PROBABILITY_TOLERANCE);
    }
}

/// The value of a step from its samples, and of a counter the sample before it; NaN where it has none.
pub fn step_of(is_rate: bool, before: Option<(i64, f64)>, at_ms: &[i64], values: &[f64]) -> f64 {
    if is_rate { steps::rate(before, at_ms, values) } else { steps::mean(values) }
}

impl SeriesState {
    /// Compares the newest steps with their samples, as far as these are held, and a profile of the ring with that of the slow twins.
    pub(super) fn check(
        &self,
        profile: &SeriesProfile,
        steps: &[f64],
        raw: &RawSamples,
        found: &mut StateCheck,
    ) {
        if self.steps.newest == NEVER {
            return;
        }
        let span = |what, start: i64, end: i64, field, kept, again| Mismatch {
            what,
            window_ms: None,
            start_ms: start.saturating_mul(STEP_MS),
            end_ms: end.saturating_mul(STEP_MS),
            field,
            kept,
            again,
        };
        let oldest = self.steps.newest - steps.len() as i64 + 1;
        // The first step may have begun before the series did.
        let from = raw.whole_after_ms.saturating_add(STEP_MS - 1).div_euclid(STEP_MS).saturating_add(1);
        for step in from.max(oldest).max(self.steps.first + 1)..=self.steps.newest {
            let places = raw.within((step - 1) * STEP_MS, step * STEP_MS);
            let before = places.start.checked_sub(1).map(|i| (raw.at_ms[i], raw.value[i]));
            if self.is_rate && before.is_none() {
                continue;
            }
            let again = step_of(self.is_rate, before, &raw.at_ms[places.clone()], &raw.value[places]);
            let kept = steps[(step - oldest) as usize];
            found.checked[What::Step as usize] += 1;
            if kept.to_bits() != again.to_bits() && !(kept.is_nan() && again.is_nan()) {
                found.found(span(What::Step, step - 1, step, "value", kept, again));
            }
        }
        debug_assert!(steps.len() as i64 <= WINDOW_STEPS);
        found.checked[What::Profile as usize] += 1;
        compare(profile, steps, |field, kept, again| {
            found.found(span(What::Profile, oldest - 1, self.steps.newest, field, kept, again));
        });
    }
}

#[cfg(test)]
mod tests {
    use super::super::evaluate::Evaluator;
    use super::*;
    use crate::kernels::shapes::{FAMILIES, Random, family};
    use crate::rows::columns::Floats;
    use crate::sample::SeriesId;
    use crate::settings::SeriesClass;

    fn profile(steps: &[f64]) -> SeriesProfile {
        let mut room = Evaluator::default();
        room.steps.extend_from_slice(steps);
        room.profile(28_000_000, None)
    }

    fn differences(row: &SeriesProfile, steps: &[f64]) -> Vec<(&'static str, f64, f64)> {
        let mut found = Vec::new();
        compare(row, steps, |field, ours, again| found.push((field, ours, again)));
        found
    }

    #[test]
    fn profiles_of_any_steps_are_those_of_the_slow_twins() {
        let mut random = Random::new(1);
        for kind in FAMILIES {
            for n in [3, 59, 61, 240, 700, 1_440] {
                let mut steps = family(&mut random, kind, n);
                if n > 100 && random.below(2) == 0 {
                    (0..n / 9).for_each(|_| steps[random.below(n)] = f64::NAN);
                }
                let found = differences(&profile(&steps), &steps);
                assert!(found.is_empty(), "family {kind}, {n} steps: {found:?}");
            }
        }
    }

    /// Whatever is changed in a profile is found, and so is a step that is missing.
    #[test]
    fn a_profile_that_is_wrong_is_found() {
        let mut random = Random::new(2);
        let steps: Vec<f64> = (0..600).map(|_| 4e10 + random.unit()).collect();
        let right = profile(&steps);
        type Change = fn(&mut SeriesProfile);
        let changes: [(&str, Change); 12] = [
            ("steps", |row| row.steps += 1),
            ("gap_ratio", |row| row.gap_ratio += 1e-6),
            ("mean", |row| row.mean += 0.01),
            ("variance", |row| row.variance *= 1.0 + 1e-6),
            ("median_15", |row| row.median_15 += 1e-3),
            ("mad_240", |row| row.mad_240 += 1e-3),
            ("adf_statistic", |row| row.adf_statistic += 1e-3),
            ("adf_p_value", |row| row.adf_p_value += 1e-4),
            ("adf_used_lag", |row| row.adf_used_lag += 1),
            ("ljung_box_statistic", |row| row.ljung_box_statistic += 1e-3),
            ("ljung_box_p_value", |row| row.ljung_box_p_value += 1e-4),
            ("acf", |row| {
                let mut acf = row.acf.to_vec();
                acf[7] += 1e-5;
                row.acf = Floats::new(acf).unwrap();
            }),
        ];
        for (field, change) in changes {
            let mut row = right.clone();
            change(&mut row);
            let found = differences(&row, &steps);
            assert!(found.iter().any(|(found, ..)| *found == field), "{field}: {found:?}");
        }
        let mut other = steps;
        other[300] = f64::NAN;
        assert!(!differences(&right, &other).is_empty());
    }

    /// Samples every 15 s or so, the steps that they make, and the newest ten minutes of them.
    fn fed(is_rate: bool) -> (SeriesState, RawSamples) {
        let mut random = Random::new(7);
        let (mut at, mut total, mut samples) = (1_700_000_000_000 / STEP_MS * STEP_MS, 0.0, Vec::new());
        for _ in 0..2_000 {
            at += if random.below(80) == 0 { 300_000 } else { 14_000 + random.below(2_000) as i64 };
            total = if random.below(50) == 0 { 0.0 } else { total + random.unit() + 1.0 };
            samples.push((at, if is_rate { total } else { 4e10 + random.unit() }));
        }
        let (times, values): (Vec<i64>, Vec<f64>) = samples.iter().copied().unzip();
        let mut state = SeriesState::new(SeriesId(7), SeriesClass::default());
        state.is_rate = is_rate;
        let of = |at: i64| (at - 1).div_euclid(STEP_MS) + 1;
        // The step of the newest sample is open.
        for step in of(times[0])..of(at) {
            let inside =
                times.partition_point(|at| of(*at) < step)..times.partition_point(|at| of(*at) <= step);
            let before = inside.start.checked_sub(1).map(|i| samples[i]);
            let value = step_of(is_rate, before, &times[inside.clone()], &values[inside]);
            if !value.is_nan() {
                state.steps.push(step, value);
            }
        }
        let whole_after_ms = at - 600_000;
        let from = times.partition_point(|at| *at <= whole_after_ms);
        let raw = RawSamples {
            slot: 0,
            newest_ms: at,
            whole_after_ms,
            bootstrapping: false,
            at_ms: times[from..].to_vec(),
            value: values[from..].to_vec(),
        };
        (state, raw)
    }

    #[test]
    fn steps_are_checked_against_their_samples() {
        for is_rate in [false, true] {
            let (mut state, raw) = fed(is_rate);
            let check = |state: &SeriesState| {
                let (profile, steps) = state.now(&mut Evaluator::default()).unwrap();
                let mut found = StateCheck::default();
                state.check(&profile, &steps, &raw, &mut found);
                found
            };
            let found = check(&state);
            assert_eq!(found.mismatches, [], "rate {is_rate}");
            let [steps, profiles] = [What::Step, What::Profile].map(|what| found.checked[what as usize]);
            assert!(steps >= 5 && profiles == 1, "{found:?}");
            let newest = state.steps.newest;
            state.steps.set(newest, 1.0);
            let found = check(&state);
            assert_eq!((found.wrong[What::Step as usize], found.mismatches[0].kept), (1, 1.0), "{found:?}");
            assert_eq!(found.mismatches[0].end_ms, newest * STEP_MS);
        }
    }
}
