//! The steps of one series that a profile is made of: a day of minutes, and means of quarters of an hour over some days.
//!
//! Closed blocks of 60 minutes are packed to the bit (`kernels::blocks`); the open one is as it is. The means are f32 offsets
//! from the first of them: seasons need no more, and they take a third of the minutes. A season that is smaller than 1e-7 of how
//! far the level has gone since is not seen among them, and values from 1e39 on are absent.
//!
//! Not here: what is seen in them.

use std::collections::VecDeque;

use crate::kernels::blocks;
use crate::kernels::grid::largest_exponent;
use crate::snapshot::{StateError, StateReader, StateWriter};

/// No step yet.
pub(super) const NEVER: i64 = i64::MIN;
/// Steps that a profile looks back: a day of minutes.
pub(super) const WINDOW_STEPS: i64 = 1_440;
/// Steps of a block.
pub(super) const BLOCK_STEPS: i64 = 60;
/// Steps of a quarter of an hour; a block is made of whole ones.
pub(super) const QUARTER_STEPS: i64 = 15;
/// Quarters of a day.
pub(super) const DAY_QUARTERS: usize = 96;

/// The number of the span of so many steps that a step is in.
pub(super) fn span_of(step: i64, steps: i64) -> i64 {
    (step - 1).div_euclid(steps)
}

/// The place of a step in its block.
fn place(step: i64) -> usize {
    (step - 1).rem_euclid(BLOCK_STEPS) as usize
}

/// A day of steps.
#[derive(Clone, Debug)]
pub(super) struct StepRing {
    /// The first step since the series began, and the newest.
    pub(super) first: i64,
    pub(super) newest: i64,
    /// Of the block of the newest step, up to it; NaN is absent.
    open: Vec<f64>,
    /// Closed blocks behind each other, the oldest first, up to the one before the open.
    closed: Vec<u8>,
    /// The number of the oldest closed block.
    oldest: i64,
    /// What is known of each closed block. It follows from them, so snapshots do not have it.
    index: Vec<BlockEntry>,
}

/// What is known of a block that is not decoded.
#[derive(Clone, Copy, Debug)]
struct BlockEntry {
    bytes: u16,
    /// The largest exponent of its values ([`largest_exponent`]).
    largest: u16,
}

impl BlockEntry {
    fn new(bytes: usize, values: &[f64]) -> BlockEntry {
        BlockEntry { bytes: bytes as u16, largest: largest_exponent(values) }
    }
}

impl StepRing {
    pub(super) const EMPTY: StepRing = StepRing {
        first: NEVER,
        newest: NEVER,
        open: Vec::new(),
        closed: Vec::new(),
        oldest: 0,
        index: Vec::new(),
    };

    /// How many closed blocks there are.
    fn blocks(&self) -> i64 {
        self.index.len() as i64
    }

    /// Forgets all closed blocks.
    fn clear(&mut self) {
        (self.closed, self.index) = (Vec::new(), Vec::new());
    }

    /// Takes a step that is newer than all others. The quarter that it ends, and its mean.
    pub(super) fn push(&mut self, step: i64, value: f64) -> Option<(i64, f64)> {
        let mut ended = None;
        if self.newest == NEVER {
            (self.first, self.newest) = (step, step);
        } else {
            let quarter = span_of(self.newest, QUARTER_STEPS);
            if quarter != span_of(step, QUARTER_STEPS) {
                ended = mean_of_quarter(&self.open, quarter).map(|mean| (quarter, mean));
            }
            let (was, now) = (span_of(self.newest, BLOCK_STEPS), span_of(step, BLOCK_STEPS));
            if was != now {
                self.close(was, now);
            }
            self.newest = step;
        }
        self.open.reserve_exact(BLOCK_STEPS as usize - self.open.len());
        self.open.resize(place(step), f64::NAN);
        self.open.push(value);
        ended
    }

    /// The open block `was` is closed, and so are those between it and `now`, in which there is nothing.
    fn close(&mut self, was: i64, now: i64) {
        let keep_from = now - WINDOW_STEPS / BLOCK_STEPS;
        if was < keep_from {
            self.clear();
            self.open.clear();
            return;
        }
        if self.index.is_empty() {
            self.oldest = was;
        }
        self.open.resize(BLOCK_STEPS as usize, f64::NAN);
        let mut bytes = Vec::new();
        self.index.reserve_exact((now - was) as usize);
        for block in was..now {
            let values = if block == was { &self.open[..] } else { &[f64::NAN; BLOCK_STEPS as usize] };
            self.index.push(BlockEntry::new(blocks::encode(values, &mut bytes), values));
        }
        // Just the room it takes.
        self.closed.reserve_exact(bytes.len());
        self.closed.extend_from_slice(&bytes);
        self.forget_before(keep_from);
        self.open.clear();
    }

    /// Forgets the blocks before this one.
    fn forget_before(&mut self, block: i64) {
        let gone = (block - self.oldest).clamp(0, self.blocks()) as usize;
        if gone > 0 {
            let cut = self.index.drain(..gone).map(|entry| usize::from(entry.bytes)).sum::<usize>();
            self.closed = self.closed[cut..].to_vec();
            self.oldest += gone as i64;
        }
    }

    /// Gives a step that is not newer than the newest another value. If its quarter has ended, that and its mean.
    pub(super) fn set(&mut self, step: i64, value: f64) -> Option<(i64, f64)> {
        if step <= self.newest - WINDOW_STEPS {
            return None;
        }
        self.first = self.first.min(step);
        let (block, quarter) = (span_of(step, BLOCK_STEPS), span_of(step, QUARTER_STEPS));
        let ended = quarter < span_of(self.newest, QUARTER_STEPS);
        if block == span_of(self.newest, BLOCK_STEPS) {
            self.open[place(step)] = value;
            return ended.then(|| mean_of_quarter(&self.open, quarter)).flatten().map(|mean| (quarter, mean));
        }
        if self.value(step).to_bits() == value.to_bits() {
            return None;
        }
        let mut all = Vec::new();
        let oldest = if self.index.is_empty() { span_of(self.newest, BLOCK_STEPS) } else { self.oldest };
        self.oldest = oldest.min(block);
        let before = oldest - self.oldest;
        all.resize((before * BLOCK_STEPS) as usize, f64::NAN);
        self.decode(&mut all);
        let at = ((block - self.oldest) * BLOCK_STEPS) as usize;
        all[at + place(step)] = value;
        self.closed.clear();
        self.index.clear();
        self.index.reserve_exact(all.len() / BLOCK_STEPS as usize);
        for values in all.chunks(BLOCK_STEPS as usize) {
            self.index.push(BlockEntry::new(blocks::encode(values, &mut self.closed), values));
        }
        self.closed.shrink_to_fit();
        let values = &all[at..at + BLOCK_STEPS as usize];
        mean_of_quarter(values, quarter).map(|mean| (quarter, mean))
    }

    /// The value of a step that is not newer than the newest; NaN is absent.
    pub(super) fn value(&self, step: i64) -> f64 {
        let mut values = Vec::new();
        self.read(step, step, &mut values);
        values[0]
    }

    /// Appends the values of the steps `from` to `to`, of which none is newer than the newest; NaN is absent.
    pub(super) fn read(&self, from: i64, to: i64, values: &mut Vec<f64>) {
        let (first, last) = (span_of(from, BLOCK_STEPS), span_of(to, BLOCK_STEPS));
        let before = values.len();
        let skipped = (first - self.oldest).clamp(0, self.blocks()) as usize;
        let mut at = self.index[..skipped].iter().map(|entry| usize::from(entry.bytes)).sum::<usize>();
        for block in first..=last {
            let entry = usize::try_from(block - self.oldest).ok().and_then(|i| self.index.get(i));
            if let Some(entry) = entry {
                blocks::decode(&self.closed[at..], values).expect("a block was encoded here");
                at += usize::from(entry.bytes);
            } else if block == span_of(self.newest, BLOCK_STEPS) {
                values.extend_from_slice(&self.open);
            } else {
                values.resize(values.len() + BLOCK_STEPS as usize, f64::NAN);
            }
        }
        values.drain(before..before + place(from));
        values.truncate(before + (to - from + 1) as usize);
    }

    /// The first step of the window that ends with the newest.
    pub(super) fn from(&self) -> i64 {
        self.first.max(self.newest - WINDOW_STEPS + 1)
    }

    /// The first step that is held.
    pub(super) fn held_from(&self) -> i64 {
        let oldest = if self.index.is_empty() { span_of(self.newest, BLOCK_STEPS) } else { self.oldest };
        oldest * BLOCK_STEPS + 1
    }

    /// The largest exponent of the values of the window ([`largest_exponent`]).
    pub(super) fn largest(&self) -> u16 {
        let from = self.from();
        let whole = (span_of(from - 1, BLOCK_STEPS) + 1 - self.oldest).clamp(0, self.blocks()) as usize;
        let (part, whole) = self.index.split_at(whole);
        let largest = whole.iter().map(|entry| entry.largest).fold(largest_exponent(&self.open), u16::max);
        match part.last() {
            // Of the oldest block a part is in the window.
            Some(entry) if entry.largest > largest && place(from) > 0 => {
                let mut values = Vec::new();
                self.read(from, (span_of(from, BLOCK_STEPS) + 1) * BLOCK_STEPS, &mut values);
                largest.max(largest_exponent(&values))
            }
            _ => largest,
        }
    }

    /// Appends the values of all closed blocks.
    fn decode(&self, values: &mut Vec<f64>) {
        let mut at = 0;
        while at < self.closed.len() {
            at += blocks::decode(&self.closed[at..], values).expect("a block was encoded here");
        }
    }

    /// The steps of the window that ends with the newest, as far as the series reaches back; NaN is absent.
    pub(super) fn window(&self, values: &mut Vec<f64>) {
        values.clear();
        if self.newest == NEVER {
            return;
        }
        self.decode(values);
        values.extend_from_slice(&self.open);
        let steps = WINDOW_STEPS.min(self.newest - self.first + 1) as usize;
        match values.len().checked_sub(steps) {
            Some(more) => drop(values.drain(..more)),
            // What lies before a gap that is longer than the ring was forgotten.
            None => drop(values.splice(..0, std::iter::repeat_n(f64::NAN, steps - values.len()))),
        }
    }

    pub(super) fn bytes(&self) -> usize {
        self.open.capacity() * 8 + self.closed.capacity() + self.index.capacity() * size_of::<BlockEntry>()
    }

    /// Writes the closed blocks that end in `(before, upto]`, with their numbers.
    pub(super) fn save_blocks(&self, before: i64, upto: i64, put: &mut StateWriter) {
        let (mut at, mut found) = (0, Vec::new());
        for (number, entry) in (self.oldest..).zip(&self.index) {
            let (length, end) = (usize::from(entry.bytes), (number + 1) * BLOCK_STEPS);
            if end > before && end <= upto {
                found.push((number, &self.closed[at..at + length]));
            }
            at += length;
        }
        put.n(found.len());
        for (number, bytes) in found {
            put.i64(number);
            put.part(bytes);
        }
    }

    /// Reads what [`StepRing::save_blocks`] wrote, behind the blocks that there are.
    pub(super) fn load_blocks(&mut self, take: &mut StateReader) -> Result<(), StateError> {
        let absent = [f64::NAN; BLOCK_STEPS as usize];
        for _ in 0..take.n(16)? {
            let (number, bytes) = (take.i64()?, take.part()?.0);
            let mut room = Vec::new();
            let whole = blocks::decode(bytes, &mut room) == Some(bytes.len());
            if !whole || room.len() != BLOCK_STEPS as usize || number.unsigned_abs() > 1 << 40 {
                return Err(StateError("a block of steps is not what it says"));
            }
            let next = self.oldest + self.blocks();
            if self.index.is_empty() || number - next > WINDOW_STEPS / BLOCK_STEPS {
                self.clear();
                self.oldest = number;
            } else if number < next {
                return Err(StateError("blocks of steps are not in the order of time"));
            }
            for _ in self.oldest + self.blocks()..number {
                self.index.push(BlockEntry::new(blocks::encode(&absent, &mut self.closed), &absent));
            }
            self.closed.extend_from_slice(bytes);
            self.index.push(BlockEntry::new(bytes.len(), &room));
            self.forget_before(number - WINDOW_STEPS / BLOCK_STEPS);
        }
        Ok(())
    }

    /// Writes first, newest and the open block.
    pub(super) fn save_open(&self, put: &mut StateWriter) {
        put.i64(self.first);
        put.i64(self.newest);
        put.n(self.open.len());
        self.open.iter().for_each(|value| put.u64(value.to_bits()));
    }

    /// Reads what [`StepRing::save_open`] wrote, once all closed blocks are there.
    pub(super) fn load_open(&mut self, take: &mut StateReader) -> Result<(), StateError> {
        (self.first, self.newest) = (take.i64()?, take.i64()?);
        let n = take.n(8)?;
        self.open = (0..n).map(|_| take.u64().map(f64::from_bits)).collect::<Result<_, _>>()?;
        let wrong = Err(StateError("the open block of steps is not that of the newest"));
        if self.newest == NEVER || self.newest.unsigned_abs() > 1 << 40 {
            return if n == 0 && self.index.is_empty() { Ok(()) } else { wrong };
        }
        let block = span_of(self.newest, BLOCK_STEPS);
        if self.first > self.newest || n != place(self.newest) + 1 || self.oldest + self.blocks() > block {
            return wrong;
        }
        if self.oldest + self.blocks() < block {
            // What lies before a gap that is longer than the ring was forgotten.
            self.clear();
        }
        self.forget_before(block - WINDOW_STEPS / BLOCK_STEPS);
        self.closed.shrink_to_fit();
        self.index.shrink_to_fit();
        Ok(())
    }
}

/// The mean of the steps of a quarter that a block holds; nothing if there are none.
fn mean_of_quarter(block: &[f64], quarter: i64) -> Option<f64> {
    let from = (quarter.rem_euclid(BLOCK_STEPS / QUARTER_STEPS) * QUARTER_STEPS) as usize;
    let steps = block.iter().skip(from).take(QUARTER_STEPS as usize).filter(|value| !value.is_nan());
    let first = steps.clone().next()?;
    let (mut sum, mut n) = (0.0, 0.0);
    for step in steps {
        sum += step - first;
        n += 1.0;
    }
    let mean = first + sum / n;
    mean.is_finite().then_some(mean)
}

/// Means of quarters of an hour, over some days.
#[derive(Clone, Debug)]
pub(super) struct QuarterRing {
    newest: i64,
    anchor: f64,
    /// Less the anchor, the oldest first; NaN is absent.
    values: VecDeque<f32>,
}

impl QuarterRing {
    pub(super) const EMPTY: QuarterRing = QuarterRing { newest: NEVER, anchor: 0.0, values: VecDeque::new() };

    /// Puts a mean in its place, and keeps the newest `most`.
    pub(super) fn put(&mut self, (quarter, mean): (i64, f64), most: usize) {
        if self.newest == NEVER {
            (self.newest, self.anchor) = (quarter - 1, mean);
        }
        let value = (mean - self.anchor) as f32;
        let value = if value.is_finite() { value } else { f32::NAN };
        if quarter <= self.newest {
            let back = (self.newest - quarter) as usize;
            if let Some(index) = self.values.len().checked_sub(1 + back) {
                self.values[index] = value;
            }
            return;
        }
        let gap = (quarter - self.newest - 1).min(most as i64) as usize;
        for value in std::iter::repeat_n(f32::NAN, gap).chain([value]) {
            while self.values.len() >= most {
                self.values.pop_front();
            }
            if self.values.len() == self.values.capacity() {
                self.values.reserve_exact(DAY_QUARTERS / 2);
            }
            self.values.push_back(value);
        }
        self.newest = quarter;
    }

    /// The step with which the newest quarter ends; 0 if there is none.
    pub(super) fn end(&self) -> i64 {
        if self.values.is_empty() { 0 } else { (self.newest + 1) * QUARTER_STEPS }
    }

    /// The number of the oldest that is held.
    pub(super) fn oldest(&self) -> i64 {
        self.newest.saturating_sub(self.values.len() as i64 - 1)
    }

    /// Forgets the means before this one.
    pub(super) fn forget_before(&mut self, quarter: i64) {
        while !self.values.is_empty() && self.oldest() < quarter {
            self.values.pop_front();
        }
    }

    /// The means, the oldest first; NaN is absent.
    pub(super) fn means(&self, means: &mut Vec<f64>) {
        means.clear();
        means.extend(self.values.iter().map(|value| self.anchor + f64::from(*value)));
    }

    /// Keeps the newest `most`.
    pub(super) fn shrink(&mut self, most: usize) {
        while self.values.len() > most {
            self.values.pop_front();
        }
        self.values.shrink_to(most);
    }

    pub(super) fn bytes(&self) -> usize {
        self.values.capacity() * 4
    }

    /// Writes the means of the quarters that end in `(before, upto]` steps, with the number of the first.
    pub(super) fn save(&self, before: i64, upto: i64, put: &mut StateWriter) {
        let numbered = (self.oldest()..).zip(&self.values).filter(|(quarter, _)| {
            let end = (quarter + 1) * QUARTER_STEPS;
            end > before && end <= upto
        });
        let found: Vec<(i64, f32)> = numbered.map(|(quarter, value)| (quarter, *value)).collect();
        put.u64(self.anchor.to_bits());
        put.n(found.len());
        put.i64(found.first().map_or(0, |(quarter, _)| *quarter));
        found.iter().for_each(|(_, value)| put.u32(value.to_bits()));
    }

    /// Reads what [`QuarterRing::save`] wrote, behind the means that there are.
    pub(super) fn load(&mut self, take: &mut StateReader, most: usize) -> Result<(), StateError> {
        let anchor = f64::from_bits(take.u64()?);
        let (n, first) = (take.n(4)?, take.i64()?);
        if n > 0 && (first.unsigned_abs() > 1 << 40 || (self.newest != NEVER && first <= self.newest)) {
            return Err(StateError("means of quarters are not in the order of time"));
        }
        for i in 0..n as i64 {
            let value = f32::from_bits(take.u32()?);
            self.put((first + i, 0.0), most);
            *self.values.back_mut().expect("it was put there") = value;
        }
        self.anchor = anchor;
        Ok(())
    }
}
