//! The block of a ring of steps: up to 64 values as few bytes, and every bit comes back. NaN is an absent step.
//!
//! # Format
//! ```text
//!  fixed point   count u8 | bits u8 | exponent i16 | anchor f64 | count numbers of that many bits
//!  as they are   count u8 | 64      | count f64
//!  all absent    count u8 | 255
//! ```
//! All finite f64 are whole numbers of some power of two. The largest that divides every value of a block is its unit, the
//! smallest value its anchor, and a value is `anchor + number * unit`. Where the range has fewer than 2^52 units both operations
//! are exact. With [`ABSENT`] in `bits`, the number with all bits set is an absent step. What does not come back bit for bit
//! (negative zeros, infinities, numbers next to the smallest and largest) is stored as it is.
//!
//! f32 offsets from an anchor hold the same values, as long as they have at most 24 bits, in 32 each. Here those that need
//! eight bits take eight.
//!
//! # Size
//! A day of minutes in blocks of 60 has 24 of them. It takes 288 bytes where all are equal, 1.4 KB of counts below 64, 4 KB of a gauge of
//! bytes in pages, 9 to 11.6 KB of values with all digits. 24 bits each, all that f32 offsets could hold, are 4.6 KB.
//!
//! # Cost
//! About 1 ns a value to decode, 6 ns to encode.

use super::moments::power_of_two;

/// Values of a block, at most.
pub const VALUES_MAX: usize = 64;
/// Set in the bits of a block that has an absent step.
const ABSENT: u8 = 0x80;
const AS_THEY_ARE: u8 = 64;
const ALL_ABSENT: u8 = 255;
const HEADER: usize = 12;
const SHORT_HEADER: usize = 2;
/// Bits of a number, at most: those of 2^52 units, and one for the absent step.
const BITS_MAX: u32 = 53;
/// Added to a number below 2^52 it makes the bits of 2^52 plus that number.
const WHOLE: u64 = 0x4330_0000_0000_0000;

/// Room for the numbers of a block, and for a load from any of its first 512 bytes.
const PADDED: usize = 512 + 8;

/// A block in fixed point, without its numbers.
#[derive(Clone, Copy)]
struct FixedPoint {
    anchor: f64,
    exponent: i16,
    bits: u32,
    absent: bool,
}

/// Appends a block of these values. It takes the first [`VALUES_MAX`], and says how many bytes it wrote.
pub fn encode(values: &[f64], bytes: &mut Vec<u8>) -> usize {
    let values = &values[..values.len().min(VALUES_MAX)];
    let before = bytes.len();
    bytes.push(values.len() as u8);
    if values.iter().all(|value| value.is_nan()) {
        bytes.push(ALL_ABSENT);
    } else if let Some(block) = FixedPoint::of(values) {
        bytes.push(block.bits as u8 | if block.absent { ABSENT } else { 0 });
        bytes.extend(block.exponent.to_le_bytes());
        bytes.extend(block.anchor.to_le_bytes());
        block.write(values, bytes);
    } else {
        bytes.push(AS_THEY_ARE);
        bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
    }
    bytes.len() - before
}

/// Appends the values of the block that these bytes begin with, and says how many bytes it has. Bytes behind it do no harm.
///
/// If there is no whole block it is `None`, and nothing is appended.
pub fn decode(bytes: &[u8], values: &mut Vec<f64>) -> Option<usize> {
    let [count, kind, body @ ..] = bytes else { return None };
    let count = usize::from(*count);
    if count > VALUES_MAX {
        return None;
    }
    match *kind {
        ALL_ABSENT => {
            values.extend(std::iter::repeat_n(f64::NAN, count));
            Some(SHORT_HEADER)
        }
        AS_THEY_ARE => {
            let chunks = body.get(..8 * count)?.chunks_exact(8);
            values.extend(chunks.map(|bytes| f64::from_le_bytes(bytes.try_into().expect("eight bytes"))));
            Some(SHORT_HEADER + 8 * count)
        }
        kind => {
            let (exponent, body) = body.split_first_chunk()?;
            let (anchor, body) = body.split_first_chunk()?;
            let block = FixedPoint {
                anchor: f64::from_le_bytes(*anchor),
                exponent: i16::from_le_bytes(*exponent),
                bits: u32::from(kind & !ABSENT),
                absent: kind & ABSENT != 0,
            };
            let bytes = (count * block.bits as usize).div_ceil(8);
            if block.bits > BITS_MAX || body.len() < bytes || !block.has_unit() {
                return None;
            }
            block.read(count, body, values);
            Some(HEADER + bytes)
        }
    }
}

impl FixedPoint {
    /// How these values are stored, if that is exact and shorter than they are. At least one is not NaN.
    fn of(values: &[f64]) -> Option<FixedPoint> {
        let (mut min, mut max, mut exponent, mut absent) =
            (f64::INFINITY, f64::NEG_INFINITY, i32::MAX, false);
        for value in values.iter().copied() {
            absent |= value.is_nan();
            min = min.min(value);
            max = max.max(value);
            exponent = exponent.min(lowest_exponent(value));
        }
        // Zeros are whole numbers of any unit.
        let exponent = if exponent == i32::MAX { 0 } else { exponent };
        let block = FixedPoint { anchor: min, exponent: exponent as i16, bits: 0, absent };
        if !min.is_finite() || !max.is_finite() || !block.has_unit() {
            return None;
        }
        let most = (max - min) * power_of_two(-i64::from(exponent));
        if most >= power_of_two(52) {
            return None;
        }
        let bits = u64::BITS - (most as u64 + u64::from(absent)).leading_zeros();
        let block = FixedPoint { bits, ..block };
        let shorter = HEADER + (values.len() * bits as usize).div_ceil(8) < SHORT_HEADER + 8 * values.len();
        let exact = || {
            values
                .iter()
                .all(|value| value.is_nan() || block.value(block.number(*value)).to_bits() == value.to_bits())
        };
        (shorter && exact()).then_some(block)
    }

    /// Whether the unit and its inverse are numbers of full precision.
    fn has_unit(&self) -> bool {
        (-1_000..=1_000).contains(&self.exponent)
    }

    /// The number of a value that is not NaN.
    fn number(&self, value: f64) -> u64 {
        ((value - self.anchor) * power_of_two(-i64::from(self.exponent))) as u64
    }

    /// The value of a number below 2^52.
    #[inline(always)]
    fn value(&self, number: u64) -> f64 {
        let whole = f64::from_bits(WHOLE | number) - f64::from_bits(WHOLE);
        self.anchor + whole * power_of_two(i64::from(self.exponent))
    }

    /// All bits of a number.
    fn mask(&self) -> u64 {
        (1 << self.bits) - 1
    }

    fn write(&self, values: &[f64], bytes: &mut Vec<u8>) {
        let (mut pending, mut filled) = (0_u128, 0);
        for value in values.iter().copied() {
            let number = if value.is_nan() { self.mask() } else { self.number(value) };
            pending |= u128::from(number) << filled;
            filled += self.bits;
            if filled >= u64::BITS {
                bytes.extend((pending as u64).to_le_bytes());
                pending >>= u64::BITS;
                filled -= u64::BITS;
            }
        }
        bytes.extend(&pending.to_le_bytes()[..filled.div_ceil(8) as usize]);
    }

    fn read(&self, count: usize, body: &[u8], values: &mut Vec<f64>) {
        // A copy that no load reads beyond, so that none has to be checked.
        let mut padded = [0; PADDED];
        let length = (count * self.bits as usize).div_ceil(8);
        padded[..length].copy_from_slice(&body[..length]);
        let (bits, mask) = (self.bits as usize, self.mask());
        let number = |i: usize| {
            let at = i * bits;
            (word(&padded, at / 8) >> (at % 8)) & mask
        };
        if self.absent {
            let value = |number| if number == mask { f64::NAN } else { self.value(number) };
            values.extend((0..count).map(|i| value(number(i))));
        } else {
            values.extend((0..count).map(|i| self.value(number(i))));
        }
    }
}

/// Eight bytes from here on.
#[inline(always)]
fn word(padded: &[u8; PADDED], at: usize) -> u64 {
    // Whatever the bytes are, this stays inside.
    let at = at & 511;
    u64::from_le_bytes(padded[at..at + 8].try_into().expect("eight bytes"))
}

/// The exponent of the lowest bit that is set in a value; the largest i32 for 0 and for what is not finite.
fn lowest_exponent(value: f64) -> i32 {
    let (exponent, fraction) = ((value.to_bits() >> 52 & 0x7FF) as i32, value.to_bits() & ((1 << 52) - 1));
    match (exponent, fraction) {
        (0, 0) | (0x7FF, _) => i32::MAX,
        (0, _) => fraction.trailing_zeros() as i32 - 1_074,
        _ => (fraction | 1 << 52).trailing_zeros() as i32 + exponent - 1_075,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::shapes::{Random, values};

    const DAY: usize = 1_440;

    fn encoded(values: &[f64]) -> Vec<u8> {
        let mut bytes = Vec::new();
        let written: usize = values.chunks(60).map(|block| encode(block, &mut bytes)).sum();
        assert_eq!(written, bytes.len());
        bytes
    }

    fn decoded(mut bytes: &[u8]) -> Vec<f64> {
        let mut values = Vec::new();
        while !bytes.is_empty() {
            bytes = &bytes[decode(bytes, &mut values).expect("a block")..];
        }
        values
    }

    /// Every bit, but that one NaN is as good as another.
    fn bits(values: &[f64]) -> Vec<u64> {
        values.iter().map(|value| if value.is_nan() { f64::NAN } else { *value }.to_bits()).collect()
    }

    #[test]
    fn every_bit_comes_back_of_blocks_of_any_shape_and_length() {
        for seed in 0..4_000 {
            let mut random = Random::new(seed);
            let mut values = values(&mut random);
            let unit = 2.0_f64.powi(random.below(60) as i32 - 30);
            if random.below(2) == 0 {
                let anchor = (1e12 * random.unit()).trunc() * unit;
                let bits = 1 + random.below(50);
                let size = random.below(1 << bits) + 1;
                values.iter_mut().for_each(|value| *value = anchor + random.below(size) as f64 * unit);
            }
            for _ in 0..random.below(values.len() + 1) * random.below(2) {
                let at = random.below(values.len());
                values[at] = [f64::NAN, f64::NAN, f64::NAN, -0.0, f64::INFINITY][random.below(5)];
            }
            assert_eq!(bits(&decoded(&encoded(&values))), bits(&values), "seed {seed}");
            let mut bytes = vec![7; 3];
            let taken = &values[..values.len().min(VALUES_MAX)];
            let n = encode(&values, &mut bytes);
            assert!(n <= SHORT_HEADER + 8 * taken.len() && bytes[..3] == [7; 3], "seed {seed}");
            let mut back = Vec::new();
            assert_eq!(decode(&bytes[3..], &mut back), Some(n), "seed {seed}");
            assert_eq!(bits(&back), bits(taken), "seed {seed}");
            for cut in 0..n {
                assert_eq!(decode(&bytes[3..3 + cut], &mut back), None, "seed {seed} cut at {cut}");
            }
            assert_eq!(back.len(), taken.len(), "seed {seed}");
        }
    }

    #[test]
    fn bytes_that_nobody_wrote_are_read_without_a_panic() {
        let (mut random, mut values) = (Random::new(9), Vec::new());
        for _ in 0..200_000 {
            let bytes: Vec<u8> = (0..random.below(200)).map(|_| random.below(256) as u8).collect();
            values.clear();
            let n = decode(&bytes, &mut values);
            assert!(n.is_none_or(|n| n <= bytes.len()) && values.len() <= VALUES_MAX);
        }
        assert_eq!(encode(&[], &mut Vec::new()), SHORT_HEADER);
        assert_eq!(decode(&[], &mut values), None);
    }

    #[test]
    fn a_day_of_ordinary_series_takes_few_bytes() {
        let mut random = Random::new(1);
        let mut size = |value: &dyn Fn(usize, &mut Random) -> f64| {
            let day: Vec<f64> = (0..DAY).map(|i| value(i, &mut random)).collect();
            encoded(&day).len()
        };
        let sizes = [
            ("constant", size(&|_, _| 0.1), 288),
            ("absent", size(&|_, _| f64::NAN), 48),
            ("counts below 64", size(&|_, random| random.below(64) as f64), 1_400),
            ("means of four counts", size(&|_, random| random.below(4_000) as f64 / 4.0), 2_500),
            ("bytes in pages", size(&|_, random| 4e10 + random.below(1 << 20) as f64 * 4_096.0), 4_000),
            ("24 bits", size(&|_, random| 4e10 + random.below(1 << 24) as f64 / 256.0), 4_650),
            ("32 bits", size(&|_, random| random.below(1 << 32) as f64), 6_100),
            ("all digits about 100", size(&|_, random| 100.0 + 5.0 * random.unit()), 9_700),
            ("all digits of a ratio", size(&|_, random| random.unit().abs()), 11_568),
        ];
        println!("bytes of a day of minutes: {sizes:?}");
        for (kind, size, most) in sizes {
            assert!(size <= most, "{kind}: {size} bytes");
        }
    }
}
