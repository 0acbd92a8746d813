//! Count, min, max, sum, variance, first, last, increase, changes and resets of a run of finite samples, mergeable.
//!
//! # Formula
//! The sum `S` is a pair `sum_hi + sum_lo`; what an addition rounds off `sum_hi` goes to `sum_lo` (Neumaier 1974, with
//! Knuth's TwoSum). The centred sum of squares `M2` grows by
//! `(n x - S)^2 / (n (n + 1))` with a sample `x` behind `n` others (Youngs and Cramer 1971), and by
//! `(a S_b - b S_a)^2 / (a b (a + b))` where runs of `a` and `b` samples merge (Chan, Golub and LeVeque 1979).
//! The products with a count are exact pairs as well: a deviation has all its digits, however far from 0 the samples are.
//! `increase` sums `b >= a ? b - a : b` over consecutive values, `changes` counts `b != a`, `resets` `b < a`; merging adds the seam.
//!
//! # Precision
//! With `u = 2^-53`, `X` the largest magnitude and fewer than 2^24 samples (beyond, products with a count are rounded):
//! the mean is off by `2 u` of itself and `n^2 u^2 X`, so of 2,880 samples it is right where they cancel down to 1e-25 of
//! the largest. `std` is off by `n u` of itself and `n^2 u^2 X`. Both hold for all finite samples: see [`Scale`].
//! `increase` is a plain sum, off by `n u` of its terms' magnitudes. A counter's terms are not negative, so that is
//! 3e-13 of itself for 2,880 samples. It is not finite where its terms come to more than `f64::MAX`.
//!
//! Adding is not associative to the last bit, so *which* runs are merged in which order is part of a
//! result: `stages/window.rs` fixes that shape by absolute time alone.
//!
//! # Cost
//! 88 bytes; one division a sample, one division a merge.

/// 64-bit words of a [`Moments`].
pub const WORDS: usize = 11;
/// A [`Moments`] for flat arrays that start as zeroed memory.
pub type Words = [u64; WORDS];

/// The moments of a run of finite samples in time order.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Moments {
    /// Oldest value.
    pub first: f64,
    /// Newest value.
    pub last: f64,
    /// The sum, rounded at each addition, in the unit that [`Scale`] gives.
    pub sum_hi: f64,
    /// What the roundings of `sum_hi` come to.
    pub sum_lo: f64,
    /// Sum of squared deviations from the mean, in the unit that [`Scale`] gives.
    pub m2: f64,
    /// Smallest value.
    pub min: f64,
    /// Largest value.
    pub max: f64,
    /// Sum of increases between consecutive values; a fall counts the new value.
    pub increase: f64,
    /// Time of the oldest value, the low 32 bits of Unix milliseconds.
    pub first_at: u32,
    /// Time of the newest value, likewise: differences up to 49 days are exact with `wrapping_sub`.
    pub last_at: u32,
    /// Number of values; 0 means every other field is 0.
    pub count: u32,
    /// How often a value differs from the one before it.
    pub changes: u32,
    /// How often a value is below the one before it.
    pub resets: u32,
    /// For the holder's use (a ring writes which pane this is); no part of the mathematics.
    pub tag: u32,
}

impl Moments {
    /// The moments of no samples.
    pub const EMPTY: Moments = Moments {
        first: 0.0,
        last: 0.0,
        sum_hi: 0.0,
        sum_lo: 0.0,
        m2: 0.0,
        min: 0.0,
        max: 0.0,
        increase: 0.0,
        first_at: 0,
        last_at: 0,
        count: 0,
        changes: 0,
        resets: 0,
        tag: 0,
    };

    /// Whether there is no sample.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Adds one sample that is newer than all before it.
    #[inline(always)]
    pub fn push(&mut self, at_ms: i64, value: f64) {
        let at = at_ms as u32;
        if self.count == 0 {
            let tag = self.tag;
            *self = Moments {
                first: value,
                last: value,
                sum_hi: value * Scale::of(value, value).sum,
                min: value,
                max: value,
                first_at: at,
                last_at: at,
                count: 1,
                tag,
                ..Moments::EMPTY
            };
            return;
        }
        let (min, max) = (least(self.min, value), most(self.max, value));
        let sums = if plain(min, max) && steady(self.max - self.min) {
            self.sums().add(self.count, value, Scale::PLAIN)
        } else {
            self.sums().add_scaled(self.count, value, [Scale::of(self.min, self.max), Scale::of(min, max)])
        };
        (self.sum_hi, self.sum_lo, self.m2) = (sums.hi, sums.lo, sums.m2);
        (self.min, self.max) = (min, max);
        self.increase += step(self.last, value);
        self.changes += u32::from(value != self.last);
        self.resets += u32::from(value < self.last);
        self.last = value;
        self.last_at = at;
        self.count += 1;
    }

    /// The moments of `self` followed by `next`. The tag is that of the older non-empty side.
    #[inline(always)] // as a call, its arguments would be stored and read again at another width
    pub fn then(&self, next: &Moments) -> Moments {
        if self.count == 0 {
            return *next;
        }
        if next.count == 0 {
            return *self;
        }
        let (min, max) = (least(self.min, next.min), most(self.max, next.max));
        let (counts, sums) = ((self.count, next.count), (self.sums(), next.sums()));
        let sums = if plain(min, max) && steady(self.max - self.min) && steady(next.max - next.min) {
            sums.0.merge(sums.1, counts, Scale::PLAIN)
        } else {
            let scales = [Scale::of(self.min, self.max), Scale::of(next.min, next.max), Scale::of(min, max)];
            sums.0.merge_scaled(sums.1, counts, scales)
        };
        Moments {
            first: self.first,
            last: next.last,
            sum_hi: sums.hi,
            sum_lo: sums.lo,
            m2: sums.m2,
            min,
            max,
            increase: self.increase + (next.increase + step(self.last, next.first)),
            first_at: self.first_at,
            last_at: next.last_at,
            count: self.count + next.count,
            changes: self.changes + (next.changes + u32::from(next.first != self.last)),
            resets: self.resets + (next.resets + u32::from(next.first < self.last)),
            tag: self.tag,
        }
    }

    #[inline(always)]
    fn sums(&self) -> Sums {
        Sums { hi: self.sum_hi, lo: self.sum_lo, m2: self.m2 }
    }

    /// The sum; infinite beyond `f64::MAX`, 0 without samples.
    #[inline]
    pub fn sum(&self) -> f64 {
        unscaled(self.sum_hi + self.sum_lo, Scale::of(self.min, self.max).sum)
    }

    /// Arithmetic mean, never outside of `min` to `max`; 0 without samples.
    #[inline]
    pub fn avg(&self) -> f64 {
        if self.count == 0 {
            return 0.0;
        }
        let n = f64::from(self.count);
        let part = 1.0 / n;
        let quotient = self.sum_hi * part;
        let (hi, lo) = product(quotient, n);
        let rest = (((self.sum_hi - hi) - lo) + self.sum_lo) * part;
        most(self.min, least(self.max, unscaled(quotient + rest, Scale::of(self.min, self.max).sum)))
    }

    /// Population standard deviation (ddof 0); 0 without samples, and where all are equal.
    #[inline]
    pub fn std(&self) -> f64 {
        if self.min == self.max {
            return 0.0;
        }
        let std = (self.m2 / f64::from(self.count)).sqrt();
        // Of `f64::MAX` and its opposite it is just that.
        least(f64::MAX, unscaled(std, Scale::of(self.min, self.max).square))
    }

    /// Milliseconds from the first to the last sample; exact up to 49 days.
    #[inline]
    pub fn span_ms(&self) -> u32 {
        self.last_at.wrapping_sub(self.first_at)
    }

    /// As words; the ninth holds count and tag.
    #[inline]
    pub fn to_words(&self) -> Words {
        let pair = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
        [
            self.first.to_bits(),
            self.last.to_bits(),
            self.sum_hi.to_bits(),
            self.m2.to_bits(),
            self.min.to_bits(),
            self.max.to_bits(),
            self.increase.to_bits(),
            pair(self.first_at, self.last_at),
            pair(self.count, self.tag),
            self.sum_lo.to_bits(),
            pair(self.changes, self.resets),
        ]
    }

    /// From words; zeroed ones are [`Moments::EMPTY`].
    #[inline]
    pub fn from_words(words: &Words) -> Moments {
        Moments {
            first: f64::from_bits(words[0]),
            last: f64::from_bits(words[1]),
            sum_hi: f64::from_bits(words[2]),
            m2: f64::from_bits(words[3]),
            min: f64::from_bits(words[4]),
            max: f64::from_bits(words[5]),
            increase: f64::from_bits(words[6]),
            first_at: words[7] as u32,
            last_at: (words[7] >> 32) as u32,
            count: words[8] as u32,
            tag: (words[8] >> 32) as u32,
            sum_lo: f64::from_bits(words[9]),
            changes: words[10] as u32,
            resets: (words[10] >> 32) as u32,
        }
    }
}

/// A field of [`Moments`], for whoever compares two of them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NamedNumber {
    /// Its name.
    pub name: &'static str,
    /// Its value.
    pub value: f64,
    /// Whether it is copied or counted, and so is the same whatever the shape of the merges.
    pub copied: bool,
}

impl Moments {
    /// Every field, the tag included.
    pub fn named(&self) -> [NamedNumber; 14] {
        let copied = |name, value| NamedNumber { name, value, copied: true };
        let other = |name, value| NamedNumber { name, value, copied: false };
        [
            copied("count", self.count.into()),
            copied("first", self.first),
            copied("changes", self.changes.into()),
            copied("resets", self.resets.into()),
            copied("last", self.last),
            copied("min", self.min),
            copied("max", self.max),
            copied("first_at", self.first_at.into()),
            copied("last_at", self.last_at.into()),
            other("sum_hi", self.sum_hi),
            other("sum_lo", self.sum_lo),
            other("m2", self.m2),
            other("increase", self.increase),
            other("tag", self.tag.into()),
        ]
    }
}

/// What is summed of a run, by value: on its way through memory it would cost as much again.
#[derive(Clone, Copy)]
struct Sums {
    hi: f64,
    lo: f64,
    m2: f64,
}

impl Sums {
    /// With one more value, behind `count` others; all in the units of `scale`.
    #[inline(always)]
    fn add(self, count: u32, value: f64, scale: Scale) -> Sums {
        let n = f64::from(count);
        let (hi, lo) = product(value, n);
        // The deviation from the mean, n times. One after the other: where the first is small, the others are exact.
        let deviation = (((hi - self.hi) + lo) - self.lo) * (scale.square / scale.sum);
        let (sum, lost) = two_sum(self.hi, value);
        Sums { hi: sum, lo: self.lo + lost, m2: self.m2 + deviation * deviation / (n * (n + 1.0)) }
    }

    #[cold]
    #[inline(never)]
    fn add_scaled(self, count: u32, value: f64, [now, scale]: [Scale; 2]) -> Sums {
        self.scaled(now, scale).add(count, value * scale.sum, scale)
    }

    /// Together with those of a run that follows; all in the units of `scale`.
    #[inline(always)]
    fn merge(self, next: Sums, counts: (u32, u32), scale: Scale) -> Sums {
        let (a, b) = (f64::from(counts.0), f64::from(counts.1));
        let (next_hi, next_lo) = product(next.hi, a);
        let (self_hi, self_lo) = product(self.hi, b);
        let rest = next.lo * a - self.lo * b;
        // The difference of the means, a b times.
        let difference = ((((next_hi - self_hi) + next_lo) - self_lo) + rest) * (scale.square / scale.sum);
        let (sum, lost) = two_sum(self.hi, next.hi);
        let m2 = self.m2 + next.m2 + difference * difference / (a * b * (a + b));
        Sums { hi: sum, lo: lost + (self.lo + next.lo), m2 }
    }

    #[cold]
    #[inline(never)]
    fn merge_scaled(self, next: Sums, counts: (u32, u32), [now, of_next, scale]: [Scale; 3]) -> Sums {
        self.scaled(now, scale).merge(next.scaled(of_next, scale), counts, scale)
    }

    /// In other units. What that takes from the last digits is far below those of the sample that needs it.
    fn scaled(self, now: Scale, scale: Scale) -> Sums {
        let (sum, square) = (scale.sum / now.sum, scale.square / now.square);
        // Not by the square of `square`, which may be below all numbers.
        Sums { hi: self.hi * sum, lo: self.lo * sum, m2: self.m2 * square * square }
    }
}

/// From this magnitude on values are summed in a larger unit.
const LARGE: f64 = power_of_two(900);
/// Below this range deviations are squared in a smaller unit.
const NARROW: f64 = power_of_two(-400);
/// From this range on deviations are squared in a larger unit.
const WIDE: f64 = power_of_two(400);

/// What values and deviations are multiplied by before they are summed and squared: powers of two, so that no sum and no
/// square of a run of 2^32 finite samples leaves the numbers that are held to full precision.
///
/// It is a function of the run's own `min` and `max`, so it needs no word. Nearly every run is of scale 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scale {
    /// Of values in a sum. Small ones need none: sums of any f64 are exact at their small end.
    pub sum: f64,
    /// Of deviations before they are squared. Where all samples are equal there are none, and any will do.
    pub square: f64,
}

impl Scale {
    const PLAIN: Scale = Scale { sum: 1.0, square: 1.0 };

    /// Of a run with these bounds.
    #[inline]
    pub fn of(min: f64, max: f64) -> Scale {
        let range = max - min; // beyond f64::MAX it is infinite, and wide
        // Values that large differ by a wide range, or not at all.
        let large = max >= LARGE || min <= -LARGE;
        let square = if range >= WIDE || large {
            power_of_two(-600)
        } else if range < NARROW && range > 0.0 {
            power_of_two(600)
        } else {
            1.0
        };
        Scale { sum: if large { power_of_two(-200) } else { 1.0 }, square }
    }
}

/// In the unit of the samples again.
#[inline(always)]
fn unscaled(value: f64, scale: f64) -> f64 {
    // A division takes longer than the branch that nearly always avoids it.
    if scale == 1.0 { value } else { value / scale }
}

/// Whether a run with these bounds is of scale 1, but for what [`steady`] has to say.
#[inline(always)]
fn plain(min: f64, max: f64) -> bool {
    max - min < WIDE && steady(max - min) && max < LARGE && min > -LARGE
}

/// Whether a range is none at all or not narrow: without 0 the bits of numbers count as the numbers do.
#[inline(always)]
fn steady(range: f64) -> bool {
    range.to_bits().wrapping_sub(1) >= NARROW.to_bits() - 1
}

pub(super) const fn power_of_two(exponent: i64) -> f64 {
    f64::from_bits(((1_023 + exponent) as u64) << 52)
}

#[inline(always)]
fn least(a: f64, b: f64) -> f64 {
    if b < a { b } else { a }
}

#[inline(always)]
fn most(a: f64, b: f64) -> f64 {
    if b > a { b } else { a }
}

/// `a + b` and what the sum rounds off.
#[inline(always)]
pub(super) fn two_sum(a: f64, b: f64) -> (f64, f64) {
    let sum = a + b;
    let of_b = sum - a;
    (sum, (a - (sum - of_b)) + (b - of_b))
}

/// `value * n` as two parts, each exact for whole `n` up to 2^26: that of the upper 26 bits of `value`, and that of the
/// other 27.
#[inline(always)]
pub(super) fn product(value: f64, n: f64) -> (f64, f64) {
    let upper = f64::from_bits(value.to_bits() & !0x7FF_FFFF);
    (upper * n, (value - upper) * n)
}

/// What a counter gained from `a` to `b`: after a reset the new value itself.
#[inline]
pub fn step(a: f64, b: f64) -> f64 {
    if b >= a { b - a } else { b }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::reference::{self, SlowMoments};
    use crate::kernels::shapes::{Random, TINY, values};

    fn fold(values: &[f64], from: usize) -> Moments {
        let mut m = Moments::EMPTY;
        values.iter().enumerate().for_each(|(i, x)| m.push((from + i) as i64 * 15_000, *x));
        m
    }

    /// Runs cut anywhere, and merged in any order.
    fn folded(values: &[f64], from: usize, random: &mut Random) -> Moments {
        if values.len() < 2 || random.below(4) == 0 {
            return fold(values, from);
        }
        let (older, newer) = values.split_at(random.below(values.len() + 1));
        folded(older, from, random).then(&folded(newer, from + older.len(), random))
    }

    /// As precise as the head of this file says, and as near as two numbers can be.
    fn check(what: &str, got: &Moments, want: &SlowMoments, values: &[f64]) {
        let (n, u) = (values.len() as f64, f64::EPSILON / 2.0);
        assert_eq!((got.count as usize, got.min, got.max), (values.len(), want.min, want.max), "{what}");
        assert_eq!((got.changes, got.resets), (want.changes, want.resets), "{what}");
        assert_eq!((got.first, got.last), (values[0], values[values.len() - 1]), "{what}");
        assert_eq!(got.span_ms() as usize, (values.len() - 1) * 15_000, "{what}");
        let lost = n * n * u * u * want.min.abs().max(want.max.abs());
        let near = |field: &str, got: f64, want: f64, relative: f64, lost: f64| {
            let most = relative * want.abs() + lost + TINY;
            assert!(
                got == want || (got - want).abs() <= most,
                "{what}: {field} {got:e} {want:e} of {values:?}"
            );
        };
        near("avg", got.avg(), want.avg, 2.0 * u, lost);
        near("sum", got.sum(), want.sum, 2.0 * u, n * lost);
        near("std", got.std(), want.std, (n + 8.0) * u, lost);
        if want.steps.is_finite() {
            near("increase", got.increase, want.increase, 0.0, (n + 1.0) * u * want.steps);
        }
        assert!(got.min <= got.avg() && got.avg() <= got.max, "{what}");
        assert!(got.std() <= got.max / 2.0 - got.min / 2.0 + got.std() * 4.0 * u + TINY, "{what}");
    }

    #[test]
    fn one_pass_and_any_split_equal_the_slow_twin() {
        for seed in 0..20_000 {
            let mut random = Random::new(seed);
            let values = values(&mut random);
            let want = reference::moments(&values);
            check(&format!("seed {seed} in one pass"), &fold(&values, 0), &want, &values);
            for round in 0..3 {
                let what = format!("seed {seed} split {round}");
                check(&what, &folded(&values, 0, &mut random), &want, &values);
            }
        }
    }

    /// What PromQL of Prometheus 2.42 prints of the same samples, where it is right; where it is not is said.
    #[test]
    fn samples_that_cancel_and_those_at_the_ends_of_the_range_have_a_mean_and_a_deviation() {
        let root = |x: f64| x.sqrt();
        for (values, avg, std) in [
            // PromQL's avg is 0.25.
            (&[1e16, 1.0, -1e16, 1.0][..], 0.5, 1e16 / root(2.0)),
            (&[1e100, 1.0, -1e100, 2.0], 0.75, 1e100 / root(2.0)),
            // PromQL's stddev is NaN.
            (&[1e308, -1e308], 0.0, 1e308),
            (&[1e308, -1e308, 1e308, 5e307], 3.75e307, 8.196_798_155_377_501e307),
            (&[f64::MAX, -f64::MAX], 0.0, f64::MAX),
            (&[f64::MAX, f64::MAX], f64::MAX, 0.0),
            (&[1e308, 1e308, 1e308], 1e308, 0.0),
            // PromQL's stddev is 0.
            (&[1e-310, 2e-310, 3e-310], 2e-310, 8.164_965_809_277_4e-311),
            (&[1e-170, 2e-170, 4e-170], 2.333_333_333_333_333_4e-170, 1.247_219_128_924_647_2e-170),
            (&[0.0, 4.0 * TINY], 2.0 * TINY, 2.0 * TINY),
            // PromQL's stddev is 0.5115848977714927 and 1.0408329997330663.
            (
                &[4e10, 40_000_000_000.5, 4e10, 40_000_000_001.25],
                40_000_000_000.437_5,
                0.511_584_548_242_028_1,
            ),
            (&[1e15, 1e15 + 1.0, 1e15 + 2.5], 1e15 + 1.125, 1.027_402_333_828_162_8),
            (&[0.1; 10], 0.1, 0.0),
        ] {
            for cut in 0..=values.len() {
                let m = fold(&values[..cut], 0).then(&fold(&values[cut..], cut));
                assert_eq!(m.avg(), avg, "{values:?} cut at {cut}");
                assert!((m.std() - std).abs() <= 4e-16 * std, "{values:?} cut at {cut}: {:e}", m.std());
            }
        }
    }

    /// Whatever the scale, runs of the same samples times a power of two are the same.
    #[test]
    fn a_power_of_two_changes_nothing_but_the_exponent() {
        for seed in 0..500 {
            let mut random = Random::new(seed);
            let values: Vec<f64> = (0..50).map(|_| 1.0 + random.unit() / 3.0).collect();
            let plain = fold(&values[..20], 0).then(&fold(&values[20..], 20));
            for exponent in [-900, -450, -350, 350, 450, 880, 920, 1_022] {
                let by = 2.0_f64.powi(exponent);
                let values: Vec<f64> = values.iter().map(|x| x * by).collect();
                let other = fold(&values[..20], 0).then(&fold(&values[20..], 20));
                assert_eq!(other.avg(), plain.avg() * by, "seed {seed}, 2^{exponent}");
                assert_eq!(other.std(), plain.std() * by, "seed {seed}, 2^{exponent}");
            }
        }
    }

    #[test]
    fn degenerate_runs_have_documented_results() {
        let mut m = Moments::EMPTY;
        assert_eq!((m.avg(), m.std(), m.sum()), (0.0, 0.0, 0.0));
        m.push(5, 7.5);
        assert_eq!((m.avg(), m.std(), m.sum(), m.increase, m.span_ms()), (7.5, 0.0, 7.5, 0.0, 0));
        for at in 6..100 {
            m.push(at, 7.5);
        }
        assert_eq!((m.avg(), m.std(), m.sum(), m.increase), (7.5, 0.0, 95.0 * 7.5, 0.0));
        let mut reset = Moments::EMPTY;
        [5.0, 8.0, 2.0, 3.0].iter().enumerate().for_each(|(i, x)| reset.push(i as i64, *x));
        assert_eq!(reset.increase, 3.0 + 2.0 + 1.0);
        let (largest, twice) = (fold(&[f64::MAX], 0), fold(&[f64::MAX, f64::MAX], 0));
        assert_eq!((largest.sum(), twice.sum(), twice.avg()), (f64::MAX, f64::INFINITY, f64::MAX));
    }

    #[test]
    fn words_hold_every_bit() {
        let mut m = Moments { tag: 77, ..Moments::EMPTY };
        let mut random = Random::new(3);
        (0..50).for_each(|i| m.push(i64::from(u32::MAX) - 20 + i, 1e16 * random.unit()));
        assert!(m.sum_lo != 0.0);
        assert_eq!(Moments::from_words(&m.to_words()), m);
        assert_eq!(m.span_ms(), 49);
        assert_eq!(Moments::from_words(&[0; WORDS]), Moments::EMPTY);
    }
}
