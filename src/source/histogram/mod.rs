//! Native histograms of remote write, the same message in 1.0 and 2.0 → the samples of `<name>_count` and `<name>_sum`.
//!
//! ```text
//! Histogram  { count_int = 1 | count_float = 2, sum = 3, schema = 4 (sint32), zero_threshold = 5,
//!              zero_count_int = 6 | zero_count_float = 7, spans = 8, deltas = 9 (sint64), counts = 10 of the negative
//!              side, 11, 12, 13 of the positive one, reset_hint = 14, timestamp = 15, custom_values = 16 }
//! BucketSpan { offset = 1 (sint32), length = 2 }
//! ```
//!
//! A histogram is judged whole, as it is read and without keeping a bucket: what does not add up is refused. Nothing
//! computes on buckets, so of a good one the count and the sum are kept, as the samples that a classic histogram has.
//!
//! Not here: metadata, and the walk over a request (`remote_write`, `remote_write2`).

use std::fmt::Display;
use std::ops::Range;

use tidewatch_dataflows::sample::{MetricType, STALE_NAN_BITS, Samples};

use crate::labels::{Labels, NAME};
use crate::source::protobuf::{DecodeError, FieldCursor, unzigzag};
use crate::source::validate::{self, SeriesRefusal};

/// What the names of the derived series end in, and the mark in front of the spelling that their histogram came in:
/// no label of 1.0 is encoded with such a first byte, and spellings of 2.0 have a mark of their own.
const DERIVED: [(&str, u8); 2] = [("_count", 0xfe), ("_sum", 0xfd)];
/// The schema of buckets with bounds of their own.
const CUSTOM_BUCKETS: i64 = -53;
/// How far the buckets of a histogram of floats may be from its count, as a part of it: they were computed, and rounded.
const FLOAT_TOLERANCE: f64 = 1e-6;

/// What is kept of a good histogram.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct CountAndSum {
    pub(super) at_ms: i64,
    count: f64,
    sum: f64,
}

/// Buckets below or above zero, as far as they have been read.
#[derive(Default)]
struct BucketSide {
    /// Buckets that the spans announce, and how far they reach.
    announced: u64,
    reach: i64,
    spans: u64,
    /// The first offset of a span that goes back, where it may not.
    back: Option<i64>,
    first_offset: i64,
    ints: Ints,
    floats: Floats,
}

/// Buckets of integers: each is the one before plus a delta. Sums of 64-bit numbers, of which a body holds less than
/// 2^32, fit.
#[derive(Default)]
struct Ints {
    number: u64,
    bucket: i128,
    lowest: i128,
    sum: i128,
}

#[derive(Default)]
struct Floats {
    number: u64,
    /// The first that is no count: below zero, or not a number.
    bad: Option<f64>,
    sum: f64,
}

/// The bounds of custom buckets.
#[derive(Default)]
struct CustomBounds {
    number: u64,
    last: f64,
    /// The first that does not rise above the one before it, which is the other.
    bad: Option<(f64, f64)>,
}

/// A number that is an integer or a float, by the field that came last.
#[derive(Clone, Copy)]
enum IntOrFloat {
    Int(u64),
    Float(f64),
}

struct NativeHistogram {
    count: IntOrFloat,
    zero_count: IntOrFloat,
    zero_threshold: f64,
    sum: f64,
    schema: i64,
    at_ms: i64,
    negative: BucketSide,
    positive: BucketSide,
    bounds: CustomBounds,
}

/// Reads one histogram: what is kept of it, or the sentence that says why it is not taken; its time is not judged.
///
/// # Errors
/// If it is not the message it should be.
pub(super) fn read(mut fields: FieldCursor) -> Result<Result<CountAndSum, String>, DecodeError> {
    let mut histogram = NativeHistogram::new();
    while let Some(field) = fields.field()? {
        let h = &mut histogram;
        match field.number {
            1 => h.count = IntOrFloat::Int(field.int64()?.cast_unsigned()),
            2 => h.count = IntOrFloat::Float(f64::from_bits(field.fixed64()?)),
            3 => h.sum = f64::from_bits(field.fixed64()?),
            4 => h.schema = field.sint64()?,
            5 => h.zero_threshold = f64::from_bits(field.fixed64()?),
            6 => h.zero_count = IntOrFloat::Int(field.int64()?.cast_unsigned()),
            7 => h.zero_count = IntOrFloat::Float(f64::from_bits(field.fixed64()?)),
            8 => h.negative.span(field.message()?)?,
            9 => field.numbers(|number, _| h.negative.ints.add(number))?,
            10 => field.doubles(|bits| h.negative.floats.add(f64::from_bits(bits)))?,
            11 => h.positive.span(field.message()?)?,
            12 => field.numbers(|number, _| h.positive.ints.add(number))?,
            13 => field.doubles(|bits| h.positive.floats.add(f64::from_bits(bits)))?,
            15 => h.at_ms = field.int64()?,
            16 => field.doubles(|bits| h.bounds.add(f64::from_bits(bits)))?,
            14 | 17 => drop(field.int64()?),
            _ => {}
        }
    }
    Ok(histogram.judge())
}

impl BucketSide {
    fn span(&mut self, mut fields: FieldCursor) -> Result<(), DecodeError> {
        let (mut offset, mut length) = (0, 0);
        while let Some(field) = fields.field()? {
            match field.number {
                1 => offset = field.sint64()?,
                // As protobuf reads a uint32: what is above is cut off.
                2 => length = i64::from(field.int64()? as u32),
                _ => {}
            }
        }
        if self.spans == 0 {
            self.first_offset = offset;
        } else if offset < 0 {
            self.back.get_or_insert(offset);
        }
        self.spans += 1;
        self.announced = self.announced.saturating_add(length.cast_unsigned());
        self.reach = self.reach.saturating_add(offset).saturating_add(length);
        Ok(())
    }
}

impl Ints {
    fn add(&mut self, zigzag: u64) -> Result<(), DecodeError> {
        self.number += 1;
        self.bucket = self.bucket.saturating_add(i128::from(unzigzag(zigzag)));
        self.lowest = self.lowest.min(self.bucket);
        self.sum = self.sum.saturating_add(self.bucket);
        Ok(())
    }
}

impl Floats {
    fn add(&mut self, bucket: f64) {
        self.number += 1;
        self.sum += bucket;
        if bucket.is_nan() || bucket < 0.0 {
            self.bad.get_or_insert(bucket);
        }
    }
}

impl CustomBounds {
    fn add(&mut self, bound: f64) {
        let before = if self.number == 0 { f64::NEG_INFINITY } else { self.last };
        // Written so that NaN does not rise either; the last bucket ends at +Inf without saying so.
        if !(bound > before && bound < f64::INFINITY) {
            self.bad.get_or_insert((bound, before));
        }
        (self.number, self.last) = (self.number + 1, bound);
    }
}

impl NativeHistogram {
    fn new() -> NativeHistogram {
        let (count, zero_count) = (IntOrFloat::Int(0), IntOrFloat::Int(0));
        let (negative, positive, bounds) =
            (BucketSide::default(), BucketSide::default(), CustomBounds::default());
        let (zero_threshold, sum, schema, at_ms) = (0.0, 0.0, 0, 0);
        NativeHistogram { count, zero_count, zero_threshold, sum, schema, at_ms, negative, positive, bounds }
    }

    /// What is kept if everything adds up; else the first thing that does not.
    fn judge(&self) -> Result<CountAndSum, String> {
        self.judge_layout()?;
        let count = match self.count {
            IntOrFloat::Int(count) => self.judge_ints(count)?,
            IntOrFloat::Float(count) => self.judge_floats(count)?,
        };
        let stale = self.sum.to_bits() == STALE_NAN_BITS;
        Ok(CountAndSum { at_ms: self.at_ms, count: if stale { self.sum } else { count }, sum: self.sum })
    }

    /// Judges the schema, and what belongs to it.
    fn judge_layout(&self) -> Result<(), String> {
        match self.schema {
            -4..=8 if self.bounds.number > 0 => Err(format!(
                "histogram.custom_values belong to schema {CUSTOM_BUCKETS}; got {} with schema {}",
                self.bounds.number, self.schema
            )),
            -4..=8 => Ok(()),
            CUSTOM_BUCKETS => self.judge_custom(),
            schema => Err(format!(
                "histogram.schema must be -4 to 8, or {CUSTOM_BUCKETS} for custom buckets; got {schema}"
            )),
        }
    }

    fn judge_custom(&self) -> Result<(), String> {
        if let Some((bound, before)) = self.bounds.bad {
            return Err(format!(
                "histogram.custom_values must rise and be below +Inf; got {bound} after {before}"
            ));
        }
        let positive = &self.positive;
        if positive.first_offset < 0 {
            return Err(format!(
                "histogram.positive_spans of custom buckets begin at offset 0 or above; got {}",
                positive.first_offset
            ));
        }
        let max = self.bounds.number.saturating_add(1);
        if u64::try_from(positive.reach).is_ok_and(|reach| reach > max) {
            let reach = positive.reach;
            return Err(format!(
                "histogram.positive_spans reach over at most {max} custom buckets; got {reach}"
            ));
        }
        let zero = match self.zero_count {
            IntOrFloat::Int(count) => count as f64,
            IntOrFloat::Float(count) => count,
        };
        if zero != 0.0 || self.zero_threshold != 0.0 {
            let threshold = self.zero_threshold;
            return Err(format!(
                "histogram.zero_count and zero_threshold must be 0 with custom buckets; got {zero} and {threshold}"
            ));
        }
        let negative = self.negative.spans + self.negative.ints.number + self.negative.floats.number;
        if negative > 0 {
            return Err("histogram.negative_spans must be empty with custom buckets".to_owned());
        }
        Ok(())
    }

    fn judge_ints(&self, count: u64) -> Result<f64, String> {
        for (side, name) in self.sides() {
            side.judge_spans(name, side.ints.number, "deltas")?;
            if side.ints.lowest < 0 {
                let lowest = side.ints.lowest;
                return Err(format!("histogram.{name}_deltas must give no bucket below 0; got {lowest}"));
            }
        }
        let zero = match self.zero_count {
            IntOrFloat::Int(zero) => zero,
            IntOrFloat::Float(_) => {
                return Err("histogram.zero_count must be an integer as count is; got a float".to_owned());
            }
        };
        let sides = self.negative.ints.sum.saturating_add(self.positive.ints.sum);
        let buckets = sides.saturating_add(i128::from(zero));
        // What was observed as NaN is in no bucket and makes the sum NaN.
        let fits =
            if self.sum.is_nan() { buckets <= i128::from(count) } else { buckets == i128::from(count) };
        if fits { Ok(count as f64) } else { Err(not_the_count(&buckets, &count, self.sum)) }
    }

    fn judge_floats(&self, count: f64) -> Result<f64, String> {
        for (side, name) in self.sides() {
            side.judge_spans(name, side.floats.number, "counts")?;
            if let Some(bad) = side.floats.bad {
                return Err(format!("histogram.{name}_counts must be 0 or more; got {bad}"));
            }
        }
        let zero = match self.zero_count {
            // An empty message field is an integer; only 0 is left out on the way.
            IntOrFloat::Int(0) => 0.0,
            IntOrFloat::Int(_) => {
                return Err("histogram.zero_count must be a float as count is; got an integer".to_owned());
            }
            IntOrFloat::Float(zero) => zero,
        };
        for (value, name) in [(zero, "zero_count"), (count, "count")] {
            if value.is_nan() || value < 0.0 {
                return Err(format!("histogram.{name} must be 0 or more; got {value}"));
            }
        }
        let buckets = zero + self.negative.floats.sum + self.positive.floats.sum;
        if fits(buckets, count, self.sum) {
            Ok(count)
        } else {
            Err(not_the_count(&buckets, &count, self.sum))
        }
    }

    fn sides(&self) -> [(&BucketSide, &'static str); 2] {
        [(&self.negative, "negative"), (&self.positive, "positive")]
    }
}

/// Whether buckets of floats add up to their count, but for what was rounded. What was observed as NaN is in no bucket.
pub(super) fn fits(buckets: f64, count: f64, sum: f64) -> bool {
    let slack = FLOAT_TOLERANCE * count;
    buckets == count || buckets <= count + slack && (sum.is_nan() || (buckets - count).abs() <= slack)
}

pub(super) fn not_the_count(buckets: &dyn Display, count: &dyn Display, sum: f64) -> String {
    let relation = if sum.is_nan() { "at least" } else { "equal to" };
    format!("histogram.count must be {relation} the sum of its buckets ({buckets}); got {count}")
}

impl BucketSide {
    /// Judges the spans, of which there must be as many buckets as were sent.
    fn judge_spans(&self, name: &str, buckets: u64, field: &str) -> Result<(), String> {
        if let Some(offset) = self.back {
            return Err(format!(
                "histogram.{name}_spans must not go back after the first; got an offset of {offset}"
            ));
        }
        if self.announced != buckets {
            let announced = self.announced;
            return Err(format!(
                "histogram.{name}_{field} must be as many as {name}_spans announce ({announced}); got {buckets}"
            ));
        }
        Ok(())
    }
}

/// Puts the times and values of what was kept behind `out`: all counts, then all sums. Where they are.
pub(super) fn put(kept: &[CountAndSum], out: &mut Samples) -> Range<usize> {
    let begin = out.at_ms.len();
    out.at_ms.extend(kept.iter().map(|kept| kept.at_ms));
    out.at_ms.extend(kept.iter().map(|kept| kept.at_ms));
    out.value.extend(kept.iter().map(|kept| kept.count));
    out.value.extend(kept.iter().map(|kept| kept.sum));
    begin..out.at_ms.len()
}

/// Writes the series of what was [`put`] at `range`.
pub(super) fn name(range: &Range<usize>, [count, sum]: [u64; 2], out: &mut Samples) {
    let middle = range.start + range.len() / 2;
    out.series.resize(out.series.len().max(range.end), 0);
    out.series[range.start..middle].fill(count);
    out.series[middle..range.end].fill(sum);
}

/// The series derived from a histogram whose labels came in this spelling, if both are known; `key` is a buffer.
pub(super) fn find(labels: &Labels, spelling: &[u8], key: &mut Vec<u8>, epoch: u64) -> Option<[u64; 2]> {
    find_recorded(labels, spelling, key, epoch, None).map(|(found, _)| found)
}

/// [`find`], and whether the journal holds the type that is said of both.
pub(super) fn find_recorded(
    labels: &Labels,
    spelling: &[u8],
    key: &mut Vec<u8>,
    epoch: u64,
    said: Option<MetricType>,
) -> Option<([u64; 2], bool)> {
    let (mut series, mut all_told) = ([0; 2], true);
    for ((_, mark), series) in DERIVED.iter().zip(&mut series) {
        let (found, told) = labels.find_recorded(spell(*mark, spelling, key), epoch, said)?;
        (*series, all_told) = (found.0, all_told && told);
    }
    Some((series, all_told))
}

/// Gives the series derived from a histogram with these labels, if both pass the gate.
///
/// # Errors
/// What [`validate::intern`] refuses.
pub(super) fn intern(
    labels: &Labels,
    pairs: &[(&str, &str)],
    spelling: &[u8],
    key: &mut Vec<u8>,
    epoch: u64,
) -> Result<[u64; 2], SeriesRefusal> {
    let mut series = [0; 2];
    for ((suffix, mark), series) in DERIVED.iter().zip(&mut series) {
        // An empty name stays empty, and is refused for it.
        let named = |(name, value): &(&str, &str)| *name == NAME && !value.is_empty();
        let names: Vec<String> =
            pairs.iter().filter(|pair| named(pair)).map(|(_, value)| format!("{value}{suffix}")).collect();
        let mut names = names.iter();
        let mut derived: Vec<(&str, &str)> = Vec::with_capacity(pairs.len());
        for pair in pairs {
            let value = if named(pair) { names.next().map_or("", String::as_str) } else { pair.1 };
            derived.push((pair.0, value));
        }
        *series = validate::intern(labels, &mut derived, spell(*mark, spelling, key), epoch)?;
    }
    Ok(series)
}

/// The look-up key of a derived series.
fn spell<'a>(mark: u8, spelling: &[u8], key: &'a mut Vec<u8>) -> &'a [u8] {
    key.clear();
    key.push(mark);
    key.extend_from_slice(spelling);
    key
}

/// Encodes histograms for tests: what a sender does.
#[cfg(test)]
pub(crate) mod wire {
    use crate::source::remote_write::wire::{bytes, varint};

    /// One histogram, field by field.
    #[derive(Clone, Default)]
    pub struct Histogram(pub Vec<u8>);

    impl Histogram {
        /// A histogram with a sum at a time.
        pub fn at(at_ms: i64, sum: f64) -> Histogram {
            Histogram::default().number(15, at_ms.cast_unsigned()).double(3, sum)
        }

        /// Two buckets above zero, one below, one at it: 10 observations of integers.
        pub fn ten(at_ms: i64, sum: f64) -> Histogram {
            let above = Histogram::at(at_ms, sum).number(1, 10).number(6, 1).span(11, 0, 2);
            above.ints(12, &[3, 1]).span(8, -5, 1).ints(9, &[2]).number(4, 6).number(14, 2)
        }

        pub fn number(mut self, field: u64, value: u64) -> Histogram {
            varint(field << 3, &mut self.0);
            varint(value, &mut self.0);
            self
        }

        pub fn double(mut self, field: u64, value: f64) -> Histogram {
            varint(field << 3 | 1, &mut self.0);
            self.0.extend(value.to_bits().to_le_bytes());
            self
        }

        pub fn span(mut self, field: u64, offset: i64, length: u64) -> Histogram {
            let span = Histogram::default().number(1, zigzag(offset)).number(2, length);
            self.0.extend(bytes(field, &span.0));
            self
        }

        pub fn ints(mut self, field: u64, deltas: &[i64]) -> Histogram {
            let mut packed = Vec::new();
            deltas.iter().for_each(|delta| varint(zigzag(*delta), &mut packed));
            self.0.extend(bytes(field, &packed));
            self
        }

        pub fn doubles(mut self, field: u64, values: &[f64]) -> Histogram {
            let packed: Vec<u8> = values.iter().flat_map(|value| value.to_bits().to_le_bytes()).collect();
            self.0.extend(bytes(field, &packed));
            self
        }
    }

    pub fn zigzag(number: i64) -> u64 {
        (number << 1 ^ number >> 63).cast_unsigned()
    }
}

#[cfg(test)]
mod tests;
