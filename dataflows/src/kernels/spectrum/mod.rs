//! Which periods a slice of steps has, and how sure that is. White noise, random walks, trends and steps have none.
//! Not here: what the season looks like (`decompose`).
//!
//! # Formula
//! 1. A line is subtracted. If what remains is rounding, there is no period.
//! 2. Candidates: peaks of the periodogram of `u_t - r_1 u_{t-1}` under a Hann window. White noise passes their threshold with a
//!    probability of `significance` in all. A peak is refined by a parabola through three logarithms; twice and three times its period are
//!    candidates as well. So are the highest maxima of the autocorrelation, and `priors`.
//! 3. A candidate must stand on a hill of the autocorrelation. This is AUTOPERIOD (Vlachos, Yu and Castelli 2005).
//! 4. Its strength is the adjusted R^2 of phase means about a centred moving mean, the best of it and its neighbours. It must
//!    reach `strength_min`.
//! 5. The smallest period within 0.05 of the greatest strength comes first; multiples and fractions of one that is found are left out.
//! 6. The F test of the phase means must reject "no season" at `significance`, shared by all periods that there are (Bonferroni). Both
//!    degrees of freedom are divided by `1 + 2 sum r_k^2` over the residual's autocorrelations up to the period (Bartlett 1946): three
//!    cycles of a random walk resemble one another more often than those of noise. Its p-value is Paulson's approximation (1942).
//!
//! Steps 1 to 5 were modelled in numpy first. Step 6 is new here: it takes away nearly all periods that were
//! found in red noise, and those periods of seasonal series that are not theirs.
//!
//! # Cost
//! Two Fourier transforms of at least twice the length, a pass over the steps for each candidate, and two transforms more for each
//! that is tested. For 1,440 steps it is about 0.1 ms without a season and 0.25 ms with one.

mod fourier;

use std::f64::consts::{LN_2, PI};

use self::fourier::{Complex, Fourier};
use super::gaps::interpolate;
use super::order::select;

/// Peaks of the periodogram and of the autocorrelation that are looked at.
const PEAKS_MAX: usize = 6;
const HILLS_MAX: usize = 4;
/// Bins that a pass over a slice sums into, at least: with fewer, a short period would make short loops.
const BINS_MIN: usize = 64;
/// A slice that differs from a line by fewer roundings of its largest value is a line.
const ROUNDINGS: f64 = 8.0;

/// Which periods are looked for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PeriodSearch<'a> {
    /// The shortest period in steps.
    pub period_min: usize,
    /// How often the longest period fits into the slice.
    pub cycles_min: usize,
    /// The least adjusted strength.
    pub strength_min: f64,
    /// The probability at which something without a season may be taken for seasonal.
    pub significance: f64,
    /// How many periods are reported at most.
    pub periods_max: usize,
    /// Periods that are tried in any case, such as that of a day.
    pub priors: &'a [usize],
}

impl Default for PeriodSearch<'_> {
    fn default() -> Self {
        PeriodSearch {
            period_min: 4,
            cycles_min: 4,
            strength_min: 0.3,
            significance: 1e-3,
            periods_max: 3,
            priors: &[],
        }
    }
}

/// A period that was found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SeasonalPeriod {
    /// Its length in steps.
    pub steps: usize,
    /// The autocorrelation on its hill, as if all lags had as many pairs.
    pub autocorrelation: f64,
    /// The adjusted R^2 of phase means: 0 to 1.
    pub strength: f64,
    /// The probability of such phase means without a season, times the number of periods looked for; at most 1.
    pub p_value: f64,
}

/// Tables and room for searches. What a search finds does not depend on those before it.
#[derive(Clone, Debug, Default)]
pub struct SpectrumWorkspace {
    fourier: Fourier,
    /// Of fewer numbers, for the way back.
    inverse: Fourier,
    numbers: Complex,
    /// A Hann window.
    hann: Vec<f64>,
    /// The steps less a line, as multiples of the largest.
    detrended: Vec<f64>,
    /// Its sums up to each step.
    sums: Vec<f64>,
    autocorrelation: Vec<f64>,
    periodogram: Vec<f64>,
    /// By period: the strength, NaN if it is not known yet.
    strengths: Vec<f64>,
    bins: Vec<f64>,
    squares: Vec<f64>,
    room: Vec<f64>,
}

/// The periods of these steps, the best first; NaN is an absent step, and is interpolated.
///
/// Constants, lines, and slices shorter than `cycles_min` of the shortest period have none.
pub fn detect_periods(
    steps: &[f64],
    search: &PeriodSearch,
    workspace: &mut SpectrumWorkspace,
) -> Vec<SeasonalPeriod> {
    let period_min = search.period_min.max(2);
    // At least two cycles, or there is nothing to compare.
    let period_max = steps.len() / search.cycles_min.max(2);
    if period_max < period_min || !workspace.detrend(steps) {
        return Vec::new();
    }
    let bounds = Bounds { min: period_min, max: period_max };
    workspace.correlate((period_max + (period_max / 24).max(1) + 1).min(steps.len() / 2 + 2));
    let candidates = workspace.candidates(bounds, search);
    let mut periods: Vec<SeasonalPeriod> = Vec::new();
    for candidate in candidates {
        let Some(period) = workspace.on_hill(candidate, bounds, search) else { continue };
        periods.retain(|other| other.steps != period.steps);
        periods.push(period);
    }
    let best = periods.iter().map(|period| period.strength).fold(0.0, f64::max);
    periods.sort_by_key(|period| (period.strength < best - 0.05, period.steps));
    workspace.significant(&periods, bounds, search)
}

/// The shortest and the longest period that is looked for.
#[derive(Clone, Copy)]
struct Bounds {
    min: usize,
    max: usize,
}

/// What a centred moving mean leaves of the steps, split into phase means and the rest.
#[derive(Clone, Copy)]
struct PhaseFit {
    /// Steps that have a moving mean.
    count: f64,
    /// Sum of squares about the mean.
    total: f64,
    /// Sum of squares about the phase means.
    rest: f64,
}

impl PhaseFit {
    /// The adjusted R^2; 0 where there are no two cycles to judge by.
    fn strength(&self, period: usize) -> f64 {
        let period = period as f64;
        if self.count <= period || self.total <= 0.0 {
            return 0.0;
        }
        (1.0 - (self.rest / (self.count - period)) / (self.total / (self.count - 1.0))).max(0.0)
    }

    /// The probability of an F at least this large, where so many steps of noise are as good as one of white noise.
    fn p_value(&self, period: usize, steps_per_value: f64) -> f64 {
        let (between, within) = (period as f64 - 1.0, self.count - period as f64);
        if between < 1.0 || within < 1.0 || self.total <= self.rest {
            return 1.0;
        }
        if self.rest <= 0.0 {
            return 0.0;
        }
        let f = ((self.total - self.rest) / between) / (self.rest / within);
        let variance = |degrees: f64| 2.0 / (9.0 * (degrees / steps_per_value).max(1.0));
        let (a, b, root) = (variance(between), variance(within), libm::cbrt(f));
        let z = ((1.0 - b) * root - (1.0 - a)) / (b * root * root + a).sqrt();
        0.5 * libm::erfc(z / 2.0_f64.sqrt())
    }
}

impl SpectrumWorkspace {
    /// Subtracts a line; whether more than rounding remains.
    fn detrend(&mut self, steps: &[f64]) -> bool {
        interpolate(steps, &mut self.detrended);
        let values = &mut self.detrended;
        let largest = |values: &[f64]| values.iter().fold(0.0_f64, |most, value| most.max(value.abs()));
        // Powers of two, so that nothing is rounded and no square is too large or too small.
        let size = power_of_two_above(largest(values));
        let anchor = values[0] / size;
        values.iter_mut().for_each(|value| *value = *value / size - anchor);
        let n = values.len() as f64;
        let mean = values.iter().sum::<f64>() / n;
        let (mut product, mut square) = (0.0, 0.0);
        for (i, value) in values.iter().enumerate() {
            let distance = i as f64 - (n - 1.0) / 2.0;
            product += distance * (value - mean);
            square += distance * distance;
        }
        let slope = product / square;
        for (i, value) in values.iter_mut().enumerate() {
            *value = (*value - mean) - slope * (i as f64 - (n - 1.0) / 2.0);
        }
        let most = largest(values);
        // The largest of the steps is about 1.
        if most.is_nan() || most <= ROUNDINGS * f64::EPSILON {
            return false;
        }
        let size = power_of_two_above(most);
        values.iter_mut().for_each(|value| *value /= size);
        self.sums.clear();
        self.sums.push(0.0);
        let mut sum = 0.0;
        self.sums.extend(values.iter().map(|value| {
            sum += value;
            sum
        }));
        self.strengths.clear();
        true
    }

    /// Fills the periodogram, and the autocorrelation of so many lags from 0 on: by one transform of both series as real and
    /// imaginary part, and one back.
    fn correlate(&mut self, lags: usize) {
        let n = self.detrended.len();
        let length = (2 * n).next_power_of_two();
        self.numbers.reset(length);
        self.numbers.re[..n].copy_from_slice(&self.detrended);
        self.whiten();
        self.fourier.transform(&mut self.numbers);
        let Complex { re, im } = &mut self.numbers;
        self.periodogram.clear();
        self.room.clear();
        for k in 0..=length / 2 {
            let mirror = (length - k) % length;
            let (sum, gap) = (re[k] + re[mirror], im[k] - im[mirror]);
            self.room.push(sum * sum + gap * gap);
            let (sum, gap) = (im[k] + im[mirror], re[mirror] - re[k]);
            self.periodogram.push(sum * sum + gap * gap);
        }
        // Where the lags are few, every second power says enough: lags that fall on one another are beyond both.
        let every = if length / 2 + 1 >= n + lags { 2 } else { 1 };
        self.transform_back(length / every, every, lags);
        let scale = 1.0 / self.autocorrelation[0];
        self.autocorrelation.iter_mut().for_each(|value| *value *= scale);
    }

    /// Fills the autocorrelation, without its scale, of so many lags: the transform of one of `every` powers and of their mirror
    /// image, `length` in all. They are real, so those at even and at odd places are transformed as real and imaginary part.
    fn transform_back(&mut self, length: usize, every: usize, lags: usize) {
        let half = length / 2;
        let power = |at: usize| self.room[every * at.min(length - at)];
        self.numbers.reset(half);
        for j in 0..half {
            (self.numbers.re[j], self.numbers.im[j]) = (power(2 * j), power(2 * j + 1));
        }
        self.inverse.transform(&mut self.numbers);
        let Complex { re, im } = &self.numbers;
        self.autocorrelation.clear();
        self.autocorrelation.extend((0..lags).map(|lag| {
            let (at, mirror) = (lag % half, (half - lag % half) % half);
            let (cos, sin) = self.fourier.root(every * lag);
            let (odd, even) = (im[at] + im[mirror], re[at] - re[mirror]);
            (re[at] + re[mirror]) + (cos * odd + sin * even)
        }));
    }

    /// Leaves the steps without their autocorrelation of lag 1, under a Hann window, as imaginary part of the numbers.
    fn whiten(&mut self) {
        let values = &self.detrended;
        let (mut square, mut product) = (values[0] * values[0], 0.0);
        for pair in values.windows(2) {
            square += pair[1] * pair[1];
            product += pair[0] * pair[1];
        }
        let rho = product / square;
        let count = values.len() - 1;
        if self.hann.len() != count {
            let angle = 2.0 * PI / (count as f64 - 1.0).max(1.0);
            self.hann.clear();
            self.hann.extend((0..count).map(|i| 0.5 - 0.5 * libm::cos(angle * i as f64)));
        }
        let white = &mut self.numbers.im[..count];
        let mut sum = 0.0;
        for (value, pair) in white.iter_mut().zip(values.windows(2)) {
            *value = pair[1] - rho * pair[0];
            sum += *value;
        }
        let mean = sum / count as f64;
        let mut size = 0.0_f64;
        for (value, weight) in white.iter_mut().zip(&self.hann) {
            *value = (*value - mean) * weight;
            size = size.max(value.abs());
        }
        if size > 0.0 {
            // As large as the other series, so that each is exact beside the other.
            white.iter_mut().for_each(|value| *value /= size);
        }
    }

    /// Periods to look at, most promising first; whole numbers are no better than others here.
    fn candidates(&mut self, bounds: Bounds, search: &PeriodSearch) -> Vec<f64> {
        let mut candidates = Vec::new();
        let length = 2 * (self.periodogram.len() - 1);
        for peak in self.peaks(bounds, search.significance) {
            let log = |i: usize| libm::log(self.periodogram[i].max(1e-300));
            let (low, middle, high) = (log(peak - 1), log(peak), log(peak + 1));
            let curve = low - 2.0 * middle + high;
            let shift = if curve < 0.0 { 0.5 * (low - high) / curve } else { 0.0 };
            let period = length as f64 / (peak as f64 + shift);
            candidates.extend([period, 2.0 * period, 3.0 * period]);
        }
        let least = (2.0 * self.band(bounds.min)).max(0.15);
        let hill = |lag: usize| self.hill(lag);
        let mut hills: Vec<usize> = (bounds.min..=bounds.max)
            .filter(|lag| {
                let [before, here, after] = [lag - 1, *lag, lag + 1].map(|lag| self.autocorrelation[lag]);
                here > before && here >= after && hill(*lag) > least
            })
            .collect();
        hills.sort_by(|a, b| hill(*b).total_cmp(&hill(*a)).then(a.cmp(b)));
        candidates.extend(hills.iter().take(HILLS_MAX).chain(search.priors).map(|period| *period as f64));
        candidates
    }

    /// The highest peaks of the periodogram that noise would hardly have.
    fn peaks(&mut self, bounds: Bounds, significance: f64) -> Vec<usize> {
        let length = 2 * (self.periodogram.len() - 1);
        let (first, last) = (length.div_ceil(bounds.max).max(1), length / bounds.min);
        let last = last.min(self.periodogram.len() - 2);
        if first > last {
            return Vec::new();
        }
        self.room.clear();
        self.room.extend(&self.periodogram[first..=last]);
        let floor = select(&mut self.room, 0.5) / LN_2;
        let independent = ((last - first + 1) * self.detrended.len()) as f64 / length as f64;
        let threshold = floor * libm::log(independent.max(1.0) / significance);
        let power = &self.periodogram;
        let mut peaks: Vec<usize> = (first..=last)
            .filter(|i| power[*i] > threshold && power[*i] >= power[i - 1] && power[*i] >= power[i + 1])
            .collect();
        peaks.sort_by(|a, b| power[*b].total_cmp(&power[*a]).then(a.cmp(b)));
        peaks.truncate(PEAKS_MAX);
        peaks
    }

    /// Half the width of the band that holds 95 % of the autocorrelations beyond those below the shortest period.
    fn band(&self, period_min: usize) -> f64 {
        let squares: f64 = self.autocorrelation.iter().take(period_min).skip(1).map(|r| r * r).sum();
        1.96 * ((1.0 + 2.0 * squares) / self.detrended.len() as f64).sqrt()
    }

    /// The autocorrelation of a lag as if there were as many pairs as steps.
    fn hill(&self, lag: usize) -> f64 {
        let n = self.detrended.len() as f64;
        self.autocorrelation[lag] * n / (n - lag as f64)
    }

    /// The period at this candidate or next to it, if it stands on a hill and is strong enough.
    fn on_hill(&mut self, candidate: f64, bounds: Bounds, search: &PeriodSearch) -> Option<SeasonalPeriod> {
        let lag = candidate.round();
        if !(lag >= bounds.min as f64 && lag <= bounds.max as f64) {
            return None;
        }
        let lag = lag as usize;
        let r = &self.autocorrelation;
        let valley = match lag {
            8.. => r[1 + lag / 4..1 + 3 * lag / 4].iter().copied().fold(f64::INFINITY, f64::min),
            _ => r[(lag / 2).max(1)],
        };
        let around = (lag / 24).max(1);
        let top =
            r[(lag - around).max(1)..r.len().min(lag + around + 1)].iter().copied().fold(-1.0, f64::max);
        let n = self.detrended.len() as f64;
        let autocorrelation = top * n / (n - lag as f64);
        if autocorrelation - valley < (2.0 * self.band(bounds.min)).max(0.1) {
            return None;
        }
        let reach = if lag < 30 { 1 } else { 2 };
        let (mut steps, mut strength) = (lag, -1.0);
        for period in (lag - reach).max(bounds.min)..=(lag + reach).min(bounds.max) {
            let of_period = self.strength(period);
            let nearer = (period as f64 - candidate).abs() <= (steps as f64 - candidate).abs();
            if of_period > strength || of_period == strength && nearer {
                (steps, strength) = (period, of_period);
            }
        }
        let period = SeasonalPeriod { steps, autocorrelation, strength, p_value: 1.0 };
        (strength >= search.strength_min).then_some(period)
    }

    /// The strength of a period, computed once.
    fn strength(&mut self, period: usize) -> f64 {
        if self.strengths.len() <= period {
            self.strengths.resize(period + 1, f64::NAN);
        }
        if self.strengths[period].is_nan() {
            self.strengths[period] = self.fit(period).strength(period);
        }
        self.strengths[period]
    }

    /// Fits phase means; their sums stay in the first bins, one a phase.
    fn fit(&mut self, period: usize) -> PhaseFit {
        let half = period / 2;
        let count = self.detrended.len() - 2 * half;
        let width = period * BINS_MIN.div_ceil(period);
        for bins in [&mut self.bins, &mut self.squares] {
            bins.clear();
            bins.resize(width, 0.0);
        }
        let mut from = 0;
        while from < count {
            let to = count.min(from + width);
            let bins = self.bins.iter_mut().zip(&mut self.squares);
            let values = moving_deviations(&self.detrended, &self.sums, period, from..to);
            for (value, (sum, square)) in values.zip(bins) {
                *sum += value;
                *square += value * value;
            }
            from = to;
        }
        let (mut sum, mut squares, mut between) = (0.0, 0.0, 0.0);
        for phase in 0..period {
            let (mut of_phase, mut square) = (0.0, 0.0);
            for bin in (phase..width).step_by(period) {
                of_phase += self.bins[bin];
                square += self.squares[bin];
            }
            self.bins[phase] = of_phase;
            sum += of_phase;
            squares += square;
            between += of_phase * of_phase / phase_count(count, period, phase).max(1.0);
        }
        let total = (squares - sum * sum / count as f64).max(0.0);
        PhaseFit { count: count as f64, total, rest: (squares - between).max(0.0) }
    }

    /// Those of the sorted periods that are no multiples of one before, and of which the test is sure.
    fn significant(
        &mut self,
        sorted: &[SeasonalPeriod],
        bounds: Bounds,
        search: &PeriodSearch,
    ) -> Vec<SeasonalPeriod> {
        let tests = (bounds.max - bounds.min + 1) as f64;
        let mut periods: Vec<SeasonalPeriod> = Vec::new();
        for period in sorted {
            let multiple = |other: &SeasonalPeriod| {
                let ratio = period.steps as f64 / other.steps as f64;
                ratio >= 1.0 && (ratio - ratio.round()).abs() <= 0.04 * ratio
            };
            if periods.len() >= search.periods_max
                || periods.iter().any(multiple)
                || self.is_shorter(period, bounds)
            {
                continue;
            }
            let fit = self.fit(period.steps);
            let p_value = (fit.p_value(period.steps, self.steps_per_value(period.steps)) * tests).min(1.0);
            if p_value <= search.significance {
                periods.push(SeasonalPeriod { p_value, ..*period });
            }
        }
        periods
    }

    /// Whether a period is a multiple of one that is too short to be looked for, and no better.
    fn is_shorter(&mut self, period: &SeasonalPeriod, bounds: Bounds) -> bool {
        let mut divisors = (2..bounds.min).filter(|shorter| period.steps.is_multiple_of(*shorter));
        divisors.any(|shorter| self.strength(shorter) >= period.strength - 0.05)
    }

    /// How many steps of what the phase means leave are worth one of white noise: `1 + 2 sum r_k^2` for `k` up to the period.
    ///
    /// The bins are those of [`Self::fit`] for this period.
    fn steps_per_value(&mut self, period: usize) -> f64 {
        let count = self.detrended.len() - 2 * (period / 2);
        self.numbers.reset((2 * count).next_power_of_two());
        let rest = &mut self.numbers.re[..count];
        let values = moving_deviations(&self.detrended, &self.sums, period, 0..count);
        rest.iter_mut().zip(values).for_each(|(rest, value)| *rest = value);
        for phase in 0..period {
            let mean = self.bins[phase] / phase_count(count, period, phase).max(1.0);
            rest[phase..].iter_mut().step_by(period).for_each(|value| *value -= mean);
        }
        self.fourier.transform(&mut self.numbers);
        let Complex { re, im } = &mut self.numbers;
        for (re, im) in re.iter_mut().zip(im) {
            (*re, *im) = (*re * *re + *im * *im, 0.0);
        }
        self.fourier.transform(&mut self.numbers);
        let scale = 1.0 / self.numbers.re[0];
        if !scale.is_finite() {
            return 1.0;
        }
        let lags = &self.numbers.re[1..=period.min(count - 1)];
        1.0 + 2.0 * lags.iter().map(|value| (value * scale) * (value * scale)).sum::<f64>()
    }
}

/// What a centred moving mean leaves of these of the steps that have one.
#[inline(always)]
fn moving_deviations<'a>(
    values: &'a [f64],
    sums: &'a [f64],
    period: usize,
    steps: std::ops::Range<usize>,
) -> impl Iterator<Item = f64> + 'a {
    let (half, part) = (period / 2, 1.0 / period as f64);
    // Of an even period the mean takes half of the step behind it and leaves half of its first.
    let (reach, weight) = if period.is_multiple_of(2) { (period, 0.5 * part) } else { (0, 0.0) };
    let (from, to) = (steps.start, steps.end);
    let ends = values[from..to].iter().zip(&values[from + reach..to + reach]);
    let sums = sums[from..to].iter().zip(&sums[from + period..to + period]);
    let centres = &values[from + half..to + half];
    let all = centres.iter().zip(ends).zip(sums);
    all.map(move |((value, (first, behind)), (before, up_to))| {
        value - ((up_to - before) * part + (behind - first) * weight)
    })
}

/// How many of so many steps are of this phase.
fn phase_count(count: usize, period: usize, phase: usize) -> f64 {
    (count / period + usize::from(phase < count % period)) as f64
}

/// The least power of two that is not below a magnitude; the smallest normal one at least, 2^1023 at most.
fn power_of_two_above(magnitude: f64) -> f64 {
    let bits = magnitude.to_bits();
    let exponent = (bits >> 52) + u64::from(bits << 12 != 0);
    f64::from_bits(exponent.clamp(1, 2_046) << 52)
}

#[cfg(test)]
mod tests;
