//! A mergeable sketch of the values of a pane: any quantile within 1 % of itself. Not here: exact quantiles of steps (`order`).
//!
//! # Formula
//! DDSketch (Masson, Rim and Lee 2019). With `g = 1.01 / 0.99` a value `x > 0` counts in bin `ceil(log_g x)`, which stands for
//! `2 g^bin / (g + 1)`: within 1 % of everything in it. Negative values have bins of their own, zeros one. A quantile `q` of `n`
//! values stands at `h = q (n - 1)`, between the values of the bins that hold the two ranks next to `h`: as `order` and PromQL define it.
//!
//! The crate `sketches-ddsketch` takes logarithms from the system, whose last bit differs between machines, and keeps 128 bins of
//! eight bytes for a pane of four samples. These bins are a sorted list, and logarithms come from `libm`.
//!
//! # Limits
//! There are at most [`BINS_MAX`] bins; beyond that the smallest magnitudes count as zeros. They span 17 powers of ten. Which values
//! these are does not depend on the order of merges, because larger magnitudes never go. Below 1e-307 there are not 1 % between numbers.
//!
//! # Cost
//! 8 bytes a bin in memory, 2 to 3 stored; about 20 ns to add a value. A sum of many sketches ([`SketchSum`]) takes their bytes as they
//! are stored, at some nanoseconds a bin.

/// Bins of a sketch, at most.
pub const BINS_MAX: usize = 2_048;
/// The natural logarithm of 1.01 / 0.99.
const LN_BASE: f64 = 0.020_000_666_706_669_525;
/// What a bin stands for, relative to its upper end.
const MIDDLE: f64 = 0.99;
/// Added to the bin of a positive value it is positive, and so tells it from a negative one.
const OFFSET: i32 = 40_000;
/// Keys of real values lie below.
const KEY_MAX: i32 = 2 * OFFSET;

/// Values that are counted together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Bin {
    /// In the order of the values: below 0 for negative values, 0 for zeros.
    key: i32,
    count: u32,
}

/// A sketch of some values.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QuantileSketch {
    /// By key, none twice and none without values.
    bins: Vec<Bin>,
}

impl QuantileSketch {
    /// Adds a value. One that is not finite is left out.
    pub fn add(&mut self, value: f64) {
        if !value.is_finite() {
            return;
        }
        let key = key(value);
        match self.bins.binary_search_by_key(&key, |bin| bin.key) {
            Ok(at) => self.bins[at].count = self.bins[at].count.saturating_add(1),
            Err(at) => {
                self.bins.insert(at, Bin { key, count: 1 });
                self.collapse();
            }
        }
    }

    /// Adds the values of another sketch. The result is the same for any order of merges.
    pub fn merge(&mut self, other: &QuantileSketch) {
        if other.bins.is_empty() {
            return;
        }
        let own = std::mem::take(&mut self.bins);
        self.bins.reserve(own.len() + other.bins.len());
        let (mut own, mut others) = (own.into_iter().peekable(), other.bins.iter().copied().peekable());
        loop {
            let bin = match (own.peek().copied(), others.peek().copied()) {
                (Some(a), Some(b)) if a.key == b.key => {
                    others.next();
                    own.next().map(|a| Bin { count: a.count.saturating_add(b.count), ..a })
                }
                (Some(a), Some(b)) if b.key < a.key => others.next(),
                (Some(_), _) => own.next(),
                (None, _) => others.next(),
            };
            let Some(bin) = bin else { break };
            self.bins.push(bin);
        }
        self.collapse();
    }

    /// How many values there are.
    pub fn count(&self) -> u64 {
        self.bins.iter().map(|bin| u64::from(bin.count)).sum()
    }

    /// The quantile `q`, with `q` below 0 taken for 0 and above 1 for 1. Of no values, and for a `q` of NaN, it is NaN.
    ///
    /// Where the ranks next to it are of one sign it is within 1 % of itself, otherwise within 1 % of the larger of them.
    pub fn quantile(&self, q: f64) -> f64 {
        let count = self.count();
        if count == 0 || q.is_nan() {
            return f64::NAN;
        }
        let at = q.clamp(0.0, 1.0) * (count - 1) as f64;
        let low = self.value_of_rank(at as u64);
        let part = at - (at as u64) as f64;
        if part == 0.0 {
            return low;
        }
        let high = self.value_of_rank(at as u64 + 1);
        if low == high { low } else { low * (1.0 - part) + high * part }
    }

    /// What stands for the value with so many before it.
    fn value_of_rank(&self, rank: u64) -> f64 {
        let mut before = 0;
        for bin in &self.bins {
            before += u64::from(bin.count);
            if before > rank {
                return value(bin.key);
            }
        }
        self.bins.last().map_or(f64::NAN, |bin| value(bin.key))
    }

    /// Counts the smallest magnitudes as zeros until there are few enough bins.
    fn collapse(&mut self) {
        while self.bins.len() > BINS_MAX {
            let zero = self.bins.partition_point(|bin| bin.key < 0);
            let zero_is_there = self.bins.get(zero).is_some_and(|bin| bin.key == 0);
            if !zero_is_there {
                self.bins.insert(zero, Bin { key: 0, count: 0 });
            }
            // The neighbours of zero; one more bin has to go if zero was not there.
            let magnitude = |at: Option<usize>| at.and_then(|at| self.bins.get(at)).map(|bin| bin.key.abs());
            let (below, above) = (magnitude(zero.checked_sub(1)), magnitude(Some(zero + 1)));
            let nearest = below.into_iter().chain(above).min();
            let (mut from, mut to) = (zero, zero + 1);
            if below == nearest && from > 0 {
                from -= 1;
            }
            if above == nearest && to < self.bins.len() {
                to += 1;
            }
            let count = self.bins[from..to].iter().fold(0_u32, |sum, bin| sum.saturating_add(bin.count));
            self.bins.splice(from..to, [Bin { key: 0, count }]);
        }
    }

    /// Appends the sketch as bytes: the number of bins, then for each how far its key is from the one before it, and its count.
    pub fn write(&self, bytes: &mut Vec<u8>) {
        write_number(self.bins.len() as u64, bytes);
        let mut before = -i64::from(KEY_MAX);
        for bin in &self.bins {
            write_number((i64::from(bin.key) - before) as u64, bytes);
            write_number(bin.count.into(), bytes);
            before = bin.key.into();
        }
    }

    /// How many of these bytes are the sketch that they begin with; bytes that are none may give `None`.
    pub fn stored_bytes(bytes: &[u8]) -> Option<usize> {
        let mut rest = bytes;
        for _ in 0..2 * read_number(&mut rest)? {
            read_number(&mut rest)?;
        }
        Some(bytes.len() - rest.len())
    }

    /// Bytes held in memory.
    pub fn bytes(&self) -> usize {
        self.bins.capacity() * size_of::<Bin>()
    }

    /// The sketch that these bytes begin with, and how many they are. Other bytes give `None`.
    pub fn read(bytes: &[u8]) -> Option<(QuantileSketch, usize)> {
        let mut bins = Vec::new();
        let length = read_bins(bytes, &mut bins)?;
        Some((QuantileSketch { bins }, length))
    }
}

/// Most keys that are counted at a place each; a sum of sketches further apart is sorted.
const DENSE_MAX: usize = 1 << 14;

/// The sum of many sketches, most of whose bins are the same: used again for one sum after the other.
#[derive(Debug, Default)]
pub struct SketchSum {
    bins: Vec<Bin>,
    counts: Vec<u32>,
}

impl SketchSum {
    /// Adds a sketch.
    pub fn add(&mut self, sketch: &QuantileSketch) {
        self.bins.extend_from_slice(&sketch.bins);
    }

    /// Adds the sketch that these bytes begin with; how many they are. Other bytes give `None`.
    pub fn add_bytes(&mut self, bytes: &[u8]) -> Option<usize> {
        read_bins(bytes, &mut self.bins)
    }

    /// The sum of what was added, which is the same in any order. Then it is empty.
    pub fn finish(&mut self) -> QuantileSketch {
        let keys = self.bins.iter().map(|bin| bin.key);
        let (Some(low), Some(high)) = (keys.clone().min(), keys.max()) else {
            return QuantileSketch::default();
        };
        let mut bins: Vec<Bin> = Vec::new();
        if (high - low) as usize >= DENSE_MAX {
            self.bins.sort_unstable_by_key(|bin| bin.key);
            for bin in self.bins.drain(..) {
                match bins.last_mut() {
                    Some(last) if last.key == bin.key => last.count = last.count.saturating_add(bin.count),
                    _ => bins.push(bin),
                }
            }
        } else {
            self.counts.clear();
            self.counts.resize((high - low) as usize + 1, 0);
            for bin in self.bins.drain(..) {
                let count = &mut self.counts[(bin.key - low) as usize];
                *count = count.saturating_add(bin.count);
            }
            let counted = self.counts.iter().zip(low..).filter(|(count, _)| **count > 0);
            bins.extend(counted.map(|(count, key)| Bin { key, count: *count }));
        }
        let mut sum = QuantileSketch { bins };
        sum.collapse();
        sum
    }
}

/// Appends the bins of the sketch that these bytes begin with; how many bytes they are. Other bytes give `None`.
fn read_bins(bytes: &[u8], bins: &mut Vec<Bin>) -> Option<usize> {
    let mut rest = bytes;
    let length = read_number(&mut rest)?;
    // A bin has two bytes at least.
    if length > BINS_MAX as u64 || length > rest.len() as u64 / 2 {
        return None;
    }
    let mut before = -i64::from(KEY_MAX);
    for _ in 0..length {
        let distance = i64::try_from(read_number(&mut rest)?).ok()?;
        let key = before.checked_add(distance)?;
        let count = u32::try_from(read_number(&mut rest)?).ok()?;
        if distance == 0 || key >= i64::from(KEY_MAX) || count == 0 {
            return None;
        }
        bins.push(Bin { key: key as i32, count });
        before = key;
    }
    Some(bytes.len() - rest.len())
}

/// The key of a finite value.
fn key(value: f64) -> i32 {
    if value == 0.0 {
        return 0;
    }
    let bin = (libm::log(value.abs()) / LN_BASE).ceil() as i32 + OFFSET;
    if value < 0.0 { -bin } else { bin }
}

/// What stands for the values with this key; magnitudes beyond `f64::MAX` are taken for it.
fn value(key: i32) -> f64 {
    if key == 0 {
        return 0.0;
    }
    let magnitude = (libm::exp(f64::from(key.abs() - OFFSET) * LN_BASE) * MIDDLE).min(f64::MAX);
    if key < 0 { -magnitude } else { magnitude }
}

/// Seven bits a byte, the lowest first; the eighth says that more follow.
fn write_number(mut number: u64, bytes: &mut Vec<u8>) {
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

fn read_number(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..63).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        number |= u64::from(byte & 0x7F) << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::reference::seasonality as slow;
    use crate::kernels::shapes::Random;

    fn sketch(values: &[f64]) -> QuantileSketch {
        let mut sketch = QuantileSketch::default();
        values.iter().for_each(|value| sketch.add(*value));
        sketch
    }

    fn values(random: &mut Random) -> Vec<f64> {
        let n = 1 + random.below(3_000);
        let (sign, offset) = ([1.0, -1.0][random.below(2)], [0.0, 1.0, 4e10][random.below(3)]);
        let kind = random.below(5);
        (0..n)
            .map(|_| match kind {
                0 => sign * (offset + random.unit().abs()),
                1 => sign * libm::exp(20.0 * random.unit()),
                2 => random.unit(),
                3 => (random.below(7) as f64 - 3.0) * 1e-3,
                _ => random.scaled(-900, 1_900),
            })
            .collect()
    }

    #[test]
    fn quantiles_are_within_one_percent() {
        let mut worst = 0.0_f64;
        for seed in 0..300 {
            let mut random = Random::new(seed);
            let values = values(&mut random);
            let sketch = sketch(&values);
            assert_eq!(sketch.count(), values.len() as u64);
            if sketch.bins.len() == BINS_MAX {
                continue;
            }
            for q in [0.0, 0.01, 0.5, 0.9, 0.99, 1.0, random.unit().abs()] {
                let at = q * (values.len() - 1) as f64;
                let ranks = [at.floor(), at.ceil()].map(|at| at / (values.len() as f64 - 1.0).max(1.0));
                let largest = ranks.map(|q| slow::quantile(&values, q).abs()).into_iter().fold(0.0, f64::max);
                let (got, want) = (sketch.quantile(q), slow::quantile(&values, q));
                let apart = if got == want { 0.0 } else { (got - want).abs() / largest };
                assert!(apart <= 0.010_000_1, "seed {seed}, {q}: {got:e} {want:e}");
                worst = worst.max(apart);
            }
        }
        println!("quantiles are off by at most {worst:.5} of themselves");
        assert!(worst > 0.005, "{worst}");
    }

    #[test]
    fn merges_in_any_order_are_the_sketch_of_all_values_and_bytes_hold_it() {
        for seed in 0..200 {
            let mut random = Random::new(seed);
            let values = values(&mut random);
            let whole = sketch(&values);
            let mut parts: Vec<QuantileSketch> = values.chunks(1 + random.below(500)).map(sketch).collect();
            while parts.len() > 1 {
                let part = parts.swap_remove(random.below(parts.len()));
                let into = random.below(parts.len());
                parts[into].merge(&part);
            }
            assert_eq!(parts[0], whole, "seed {seed}");
            let mut sum = SketchSum::default();
            for _ in 0..2 {
                for (n, part) in values.chunks(1 + random.below(500)).map(sketch).enumerate() {
                    let mut bytes = Vec::new();
                    part.write(&mut bytes);
                    match n % 2 {
                        0 => sum.add(&part),
                        _ => assert_eq!(sum.add_bytes(&bytes), Some(bytes.len())),
                    }
                }
                assert_eq!(sum.finish(), whole, "seed {seed}");
            }
            let mut bytes = vec![7];
            whole.write(&mut bytes);
            let length = bytes.len() - 1;
            bytes.push(0x80);
            assert_eq!(QuantileSketch::read(&bytes[1..]), Some((whole, length)), "seed {seed}");
            assert_eq!(QuantileSketch::stored_bytes(&bytes[1..]), Some(length));
            for cut in 0..length.min(50) {
                assert_eq!(QuantileSketch::read(&bytes[1..1 + cut]), None, "seed {seed} cut at {cut}");
            }
        }
    }

    #[test]
    fn too_many_bins_lose_the_smallest_magnitudes() {
        let values: Vec<f64> = (0..3_000).map(|i| libm::exp(0.05 * f64::from(i) - 75.0)).collect();
        let mixed: Vec<f64> =
            values.iter().enumerate().map(|(i, x)| if i % 3 == 0 { -x } else { *x }).collect();
        for values in [values, mixed] {
            let sketch = sketch(&values);
            assert!(sketch.bins.len() <= BINS_MAX && sketch.count() == 3_000);
            let zeros = sketch.bins.iter().find(|bin| bin.key == 0).map_or(0, |bin| bin.count);
            assert!((900..1_000).contains(&zeros), "{zeros}");
        }
    }

    #[test]
    fn degenerate_sketches_have_documented_results() {
        let empty = QuantileSketch::default();
        assert!(empty.quantile(0.5).is_nan() && empty.count() == 0);
        assert_eq!(SketchSum::default().finish(), empty);
        assert_eq!(sketch(&[f64::NAN, f64::INFINITY, f64::NEG_INFINITY]), empty);
        let zeros = sketch(&[0.0, -0.0]);
        assert_eq!((zeros.quantile(-1.0), zeros.quantile(9.0), zeros.bins.len()), (0.0, 0.0, 1));
        assert!(zeros.quantile(f64::NAN).is_nan());
        let ends = sketch(&[f64::MAX, -f64::MAX, f64::from_bits(1), -f64::from_bits(1)]);
        assert_eq!(ends.bins.len(), 4);
        assert!(ends.quantile(1.0) >= 0.989 * f64::MAX && ends.quantile(0.0) <= -0.989 * f64::MAX);
        assert!((LN_BASE - libm::log(1.01 / 0.99)).abs() < 1e-16);
        let mut bytes = Vec::new();
        sketch(&[3.0, 3.1, 250.0, 1e6]).write(&mut bytes);
        assert!(bytes.len() <= 14, "{} bytes", bytes.len());
    }

    #[test]
    fn bytes_that_nobody_wrote_are_read_without_a_panic() {
        let mut random = Random::new(9);
        for _ in 0..100_000 {
            let bytes: Vec<u8> =
                (0..random.below(40)).map(|_| random.below(256) as u8 & [255, 15][random.below(2)]).collect();
            let length = QuantileSketch::stored_bytes(&bytes);
            assert!(length.is_none_or(|length| length <= bytes.len()));
            if let Some((sketch, length)) = QuantileSketch::read(&bytes) {
                assert!(length <= bytes.len() && sketch.quantile(0.5).is_finite() != sketch.bins.is_empty());
            }
        }
    }
}
