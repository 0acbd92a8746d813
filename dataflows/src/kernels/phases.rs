//! Phase profiles: what is usual at each phase of a cycle (each minute of the hour, each quarter of the day), without the level.
//! Kept for no series: a profile is computed from the ring of steps whenever it is asked for.
//!
//! # Formula
//! Cycles are counted back from the newest step, so each ends with the phase of that step. With `m_c` the mean of the present steps
//! of cycle `c`, the profile of phase `p` is the mean of `x_{c,p} - m_c` over the cycles where that step is present.
//! At most four cycles count, and only those of which three quarters are present: the mean of fewer steps says little about
//! the level.
//!
//! # Bytes
//! An hour of minutes looks back 240 steps, a day of quarters 384. The rings of minutes and of 15-minute means hold both, so the
//! 1.2 KB that profiles would take are saved. A late sample changes a step of a ring and nothing else.
//!
//! # Cost
//! `O(n)`: about 2 ns a step, beside that of decoding the ring.

/// Cycles that a profile is made of, at most.
pub const CYCLES_MAX: usize = 4;
/// Phases of an hour of steps of one minute.
pub const HOUR_PHASES: usize = 60;
/// Phases of a day of steps of 15 minutes.
pub const DAY_PHASES: usize = 96;

/// What is usual at each phase.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PhaseProfile {
    /// By phase: how far its values are from the mean of their cycles; NaN without values.
    pub deviations: Vec<f64>,
    /// By phase: cycles that it is the mean of.
    pub cycles: Vec<u8>,
}

/// The profile of steps, the newest last, of which the newest has this number; NaN is an absent step.
///
/// The phase of a step is the remainder of its number by `phases`. With 0 phases the profile is empty.
pub fn phase_profile(steps: &[f64], newest: i64, phases: usize) -> PhaseProfile {
    let mut profile = PhaseProfile { deviations: vec![0.0; phases], cycles: vec![0; phases] };
    if phases == 0 {
        return profile;
    }
    for cycle in 0..CYCLES_MAX.min(steps.len().div_ceil(phases)) {
        let end = steps.len() - cycle * phases;
        // The oldest cycle may have begun before the ring.
        profile.add(&steps[end.saturating_sub(phases)..end], newest);
    }
    for (deviation, count) in profile.deviations.iter_mut().zip(&profile.cycles) {
        // Of 0 values it is NaN.
        *deviation /= f64::from(*count);
    }
    profile
}

impl PhaseProfile {
    /// Adds the deviations of a cycle that ends with the phase of the newest step.
    fn add(&mut self, cycle: &[f64], newest: i64) {
        let phases = self.deviations.len();
        let present = || cycle.iter().copied().filter(|value| value.is_finite());
        let count = present().count();
        let Some(anchor) = present().next() else { return };
        let mean = present().map(|value| value - anchor).sum::<f64>() / count as f64;
        if 4 * count < 3 * phases || !mean.is_finite() {
            return;
        }
        let last = newest.rem_euclid(i64::try_from(phases).unwrap_or(i64::MAX)) as usize;
        let first = (last + 1 + phases - cycle.len()) % phases;
        for (i, value) in cycle.iter().enumerate().filter(|(_, value)| value.is_finite()) {
            let phase = (first + i) % phases;
            self.deviations[phase] += (value - anchor) - mean;
            self.cycles[phase] += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::reference::seasonality as slow;
    use crate::kernels::shapes::Random;

    #[test]
    fn profiles_equal_those_of_the_slow_twin() {
        for seed in 0..2_000 {
            let mut random = Random::new(seed);
            let phases = [1, 2, 7, HOUR_PHASES, DAY_PHASES][random.below(5)];
            let n = random.below(6 * phases + 1);
            let (offset, gaps) = ([0.0, 4e10, -3e12][random.below(3)], random.below(3) * 10);
            let newest = random.below(1 << 40) as i64 - (1 << 39);
            let mut value = |_| match random.below(100) < gaps {
                true => f64::NAN,
                false => offset + 10.0 * random.unit(),
            };
            let steps: Vec<f64> = (0..n).map(&mut value).collect();
            let (got, want) =
                (phase_profile(&steps, newest, phases), slow::phase_profile(&steps, newest, phases));
            assert_eq!(got.cycles, want.cycles, "seed {seed}");
            for (got, want) in got.deviations.iter().zip(&want.deviations) {
                let near = got.is_nan() && want.is_nan() || (got - want).abs() <= 1e-12;
                assert!(near, "seed {seed}: {got} {want}");
            }
        }
    }

    #[test]
    fn a_season_comes_out_whatever_the_level_does() {
        let season = |step: i64| if step.rem_euclid(60) < 5 { 11.0 } else { -1.0 };
        // The level jumps from cycle to cycle; one step in eleven is missing.
        let newest = 1_000_019;
        let first = newest - 239;
        let value = |step: i64| 4e10 + 100.0 * ((step - first) / 60) as f64 + season(step);
        let steps: Vec<f64> =
            (first..=newest).map(|step| if step % 11 == 0 { f64::NAN } else { value(step) }).collect();
        let profile = phase_profile(&steps, newest, HOUR_PHASES);
        for (phase, deviation) in profile.deviations.iter().enumerate() {
            let want = season(phase as i64);
            assert!((deviation - want).abs() < 1.0, "{phase}: {deviation} {want}");
            assert!((3..=4).contains(&profile.cycles[phase]), "{phase}");
        }
    }

    #[test]
    fn degenerate_slices_have_documented_results() {
        assert_eq!(phase_profile(&[1.0; 9], 7, 0), PhaseProfile::default());
        for steps in [&[][..], &[f64::NAN; 300], &[1.0; 44], &[f64::MAX, -f64::MAX], &[f64::INFINITY; 99]] {
            let profile = phase_profile(steps, i64::MIN, 60);
            assert!(profile.cycles.iter().all(|count| *count == 0), "{}", steps.len());
            assert!(profile.deviations.iter().all(|deviation| deviation.is_nan()), "{}", steps.len());
        }
        let young = phase_profile(&[7.0; 45], i64::MAX, 60);
        assert_eq!(young.cycles.iter().map(|count| u32::from(*count)).sum::<u32>(), 45);
        assert_eq!(phase_profile(&[0.1; 500], 0, 60).deviations, [0.0; 60]);
    }
}
