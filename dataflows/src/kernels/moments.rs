//! Count, min, max, mean, variance, first, last and increase of a run of samples, mergeable.
//!
//! # Formula
//! With anchor `c` = the first value and `u_i = x_i - c`, one pass in time order keeps the mean offset
//! `m` and the centred sum of squares `M2` (Welford 1962):
//! `d = u_n - m;  m += d / n;  M2 += d (u_n - m)`.
//! Two adjacent runs merge by Chan, Golub and LeVeque 1979:
//! `d = (c_b - c_a) + (m_b - m_a);  m = m_a + d n_b/n;  M2 = M2_a + M2_b + d^2 n_a n_b/n`.
//! Means stay split as (anchor, offset), so an offset of 4e10 costs no digits of the deviation.
//! `increase` sums `b >= a ? b - a : b` over consecutive values; merging adds the seam.
//!
//! Adding is not associative to the last bit, so *which* runs are merged in which order is part of a
//! result: `operators/window.rs` fixes that shape by absolute time alone.
//!
//! # Cost
//! 72 bytes; one division a sample, one division a merge.

/// The moments of a run of finite samples in time order.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Moments {
    /// Oldest value; the anchor of `mean`.
    pub first: f64,
    /// Newest value.
    pub last: f64,
    /// Mean minus `first`.
    pub mean: f64,
    /// Sum of squared deviations from the mean.
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
    /// For the holder's use (a ring writes which pane this is); no part of the mathematics.
    pub tag: u32,
}

impl Moments {
    /// The moments of no samples.
    pub const EMPTY: Moments = Moments {
        first: 0.0,
        last: 0.0,
        mean: 0.0,
        m2: 0.0,
        min: 0.0,
        max: 0.0,
        increase: 0.0,
        first_at: 0,
        last_at: 0,
        count: 0,
        tag: 0,
    };

    /// Whether there is no sample.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Adds one sample that is newer than all before it.
    #[inline]
    pub fn push(&mut self, at_ms: i64, value: f64) {
        let at = at_ms as u32;
        if self.count == 0 {
            let tag = self.tag;
            *self = Moments {
                first: value,
                last: value,
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
        self.count += 1;
        let offset = value - self.first;
        let delta = offset - self.mean;
        self.mean += delta / f64::from(self.count);
        self.m2 += delta * (offset - self.mean);
        self.min = if value < self.min { value } else { self.min };
        self.max = if value > self.max { value } else { self.max };
        self.increase += step(self.last, value);
        self.last = value;
        self.last_at = at;
    }

    /// The moments of `self` followed by `next`. The tag is that of the older non-empty side.
    #[inline]
    pub fn then(&self, next: &Moments) -> Moments {
        if self.count == 0 {
            return *next;
        }
        if next.count == 0 {
            return *self;
        }
        let count = self.count + next.count;
        let share = f64::from(next.count) / f64::from(count);
        let delta = (next.first - self.first) + (next.mean - self.mean);
        Moments {
            first: self.first,
            last: next.last,
            mean: self.mean + delta * share,
            m2: self.m2 + next.m2 + delta * delta * (f64::from(self.count) * share),
            min: if next.min < self.min { next.min } else { self.min },
            max: if next.max > self.max { next.max } else { self.max },
            increase: self.increase + (next.increase + step(self.last, next.first)),
            first_at: self.first_at,
            last_at: next.last_at,
            count,
            tag: self.tag,
        }
    }

    /// Arithmetic mean; 0 without samples.
    #[inline]
    pub fn avg(&self) -> f64 {
        self.first + self.mean
    }

    /// Population standard deviation (ddof 0); 0 without samples.
    #[inline]
    pub fn std(&self) -> f64 {
        if self.count == 0 { 0.0 } else { (self.m2 / f64::from(self.count)).sqrt() }
    }

    /// Milliseconds from the first to the last sample; exact up to 49 days.
    #[inline]
    pub fn span_ms(&self) -> u32 {
        self.last_at.wrapping_sub(self.first_at)
    }

    /// As nine words, for flat arrays that start as zeroed memory.
    #[inline]
    pub fn to_words(&self) -> [u64; 9] {
        let pair = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
        [
            self.first.to_bits(),
            self.last.to_bits(),
            self.mean.to_bits(),
            self.m2.to_bits(),
            self.min.to_bits(),
            self.max.to_bits(),
            self.increase.to_bits(),
            pair(self.first_at, self.last_at),
            pair(self.count, self.tag),
        ]
    }

    /// From nine words; zeroed words are [`Moments::EMPTY`].
    #[inline]
    pub fn from_words(words: &[u64; 9]) -> Moments {
        Moments {
            first: f64::from_bits(words[0]),
            last: f64::from_bits(words[1]),
            mean: f64::from_bits(words[2]),
            m2: f64::from_bits(words[3]),
            min: f64::from_bits(words[4]),
            max: f64::from_bits(words[5]),
            increase: f64::from_bits(words[6]),
            first_at: words[7] as u32,
            last_at: (words[7] >> 32) as u32,
            count: words[8] as u32,
            tag: (words[8] >> 32) as u32,
        }
    }
}

/// What a counter gained from `a` to `b`: after a reset the new value itself.
#[inline]
pub fn step(a: f64, b: f64) -> f64 {
    if b >= a { b - a } else { b }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::reference;

    /// A small deterministic stream of awkward values.
    fn values(seed: u64, n: usize) -> Vec<f64> {
        let mut x = seed | 1;
        let offset = [0.0, 1.0, 4e10, -3e12][seed as usize % 4];
        (0..n)
            .map(|_| {
                x ^= x << 13;
                x ^= x >> 7;
                x ^= x << 17;
                offset + (x >> 11) as f64 / (1u64 << 53) as f64 * 2.0 - 1.0
            })
            .collect()
    }

    #[test]
    fn one_pass_and_any_split_equal_the_slow_twin() {
        for seed in 0..200u64 {
            let xs = values(seed, 1 + seed as usize * 7 % 300);
            let want = reference::moments(&xs);
            let fold = |xs: &[f64], from: usize| {
                let mut m = Moments::EMPTY;
                xs.iter().enumerate().for_each(|(i, x)| m.push((from + i) as i64 * 15_000, *x));
                m
            };
            let cut = xs.len() * (seed as usize % 11) / 10;
            for got in
                [fold(&xs, 0), fold(&xs[..cut.min(xs.len())], 0).then(&fold(&xs[cut.min(xs.len())..], cut))]
            {
                assert_eq!(
                    (got.count as usize, got.min, got.max),
                    (xs.len(), want.min, want.max),
                    "seed {seed}"
                );
                assert_eq!((got.first, got.last), (xs[0], xs[xs.len() - 1]), "seed {seed}");
                assert!((got.avg() - want.avg).abs() <= 4e-16 * want.avg.abs() + 4e-15, "seed {seed}");
                assert!(
                    (got.std() - want.std).abs() <= 1e-14 * want.std,
                    "seed {seed}: {} {}",
                    got.std(),
                    want.std
                );
                assert!(
                    (got.increase - want.increase).abs() <= 1e-14 * want.increase.abs() + 1e-9,
                    "seed {seed}"
                );
                assert_eq!(got.span_ms() as usize, (xs.len() - 1) * 15_000);
            }
        }
    }

    #[test]
    fn degenerate_runs_have_documented_results() {
        let mut m = Moments::EMPTY;
        assert_eq!((m.avg(), m.std()), (0.0, 0.0));
        m.push(5, 7.5);
        assert_eq!((m.avg(), m.std(), m.increase, m.span_ms()), (7.5, 0.0, 0.0, 0));
        for at in 6..100 {
            m.push(at, 7.5);
        }
        assert_eq!((m.avg(), m.std(), m.increase), (7.5, 0.0, 0.0));
        let mut reset = Moments::EMPTY;
        [5.0, 8.0, 2.0, 3.0].iter().enumerate().for_each(|(i, x)| reset.push(i as i64, *x));
        assert_eq!(reset.increase, 3.0 + 2.0 + 1.0);
    }

    #[test]
    fn words_hold_every_bit() {
        let mut m = Moments { tag: 77, ..Moments::EMPTY };
        values(3, 50).iter().enumerate().for_each(|(i, x)| m.push(i64::from(u32::MAX) - 20 + i as i64, *x));
        assert_eq!(Moments::from_words(&m.to_words()), m);
        assert_eq!(m.span_ms(), 49);
        assert_eq!(Moments::from_words(&[0; 9]), Moments::EMPTY);
    }
}
