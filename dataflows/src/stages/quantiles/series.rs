//! The sketches of one series, pane by pane, and their bytes in a snapshot.

use std::collections::VecDeque;
use std::ops::RangeInclusive;

use crate::kernels::sketch::{QuantileSketch, SketchSum};
use crate::sample::SeriesId;
use crate::settings::QuantileSet;
use crate::shard::pane_of;
use crate::snapshot::{StateError, StateReader, StateWriter};

/// Version of the part.
pub(super) const VERSION: u8 = 1;
/// No time, and no pane, yet.
pub(super) const NEVER: i64 = i64::MIN;
/// Panes whose bytes lie together.
pub(super) const GROUP_PANES: i64 = 32;

/// The sketches of some panes, oldest first: for each its place in the group, and its bytes.
#[derive(Clone, Debug, PartialEq)]
struct PaneGroup {
    /// It holds the panes from `number * GROUP_PANES`.
    number: i64,
    bytes: Vec<u8>,
}

impl PaneGroup {
    /// Its panes: numbers, and their sketches with what follows them.
    fn panes(&self) -> impl Iterator<Item = (i64, &[u8])> {
        let (first, mut rest) = (self.number * GROUP_PANES, self.bytes.as_slice());
        std::iter::from_fn(move || {
            let (place, sketch) = rest.split_first()?;
            rest = &sketch[QuantileSketch::stored_bytes(sketch).unwrap_or(sketch.len())..];
            Some((first + i64::from(*place), sketch))
        })
    }

    /// Appends a pane that is newer than all others.
    fn push(&mut self, pane: i64, sketch: &QuantileSketch) {
        self.bytes.push(pane.rem_euclid(GROUP_PANES) as u8);
        sketch.write(&mut self.bytes);
    }

    /// Puts a pane into its place.
    fn set(&mut self, pane: i64, sketch: &QuantileSketch) {
        let mut changed = PaneGroup { number: self.number, bytes: Vec::with_capacity(self.bytes.len() + 16) };
        let mut waiting = Some(sketch);
        for (number, bytes) in self.panes() {
            if number >= pane
                && let Some(sketch) = waiting.take()
            {
                changed.push(pane, sketch);
            }
            if number != pane {
                changed.bytes.push(number.rem_euclid(GROUP_PANES) as u8);
                let length = QuantileSketch::stored_bytes(bytes).unwrap_or(bytes.len());
                changed.bytes.extend_from_slice(&bytes[..length]);
            }
        }
        waiting.into_iter().for_each(|sketch| changed.push(pane, sketch));
        *self = changed;
    }

    fn load(take: &mut StateReader) -> Result<PaneGroup, StateError> {
        let number = take.i64()?;
        let bytes = take.part()?.0.to_vec();
        let wrong = StateError("panes of quantiles are no sketches in order");
        if number.unsigned_abs() > (i64::MAX / GROUP_PANES / 1_000).unsigned_abs() {
            return Err(wrong);
        }
        let (mut rest, mut after) = (bytes.as_slice(), None);
        while let Some((place, sketch)) = rest.split_first() {
            let (_, length) = QuantileSketch::read(sketch).ok_or(wrong)?;
            if i64::from(*place) >= GROUP_PANES || after.is_some_and(|after| *place <= after) {
                return Err(wrong);
            }
            (rest, after) = (&sketch[length..], Some(*place));
        }
        Ok(PaneGroup { number, bytes })
    }
}

/// The sketches of one series.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct SeriesSketches {
    pub(super) series: SeriesId,
    pub(super) set: QuantileSet,
    /// Every sample after this is in the panes; `i64::MAX` if that is said by the next sample.
    pub(super) known_from: i64,
    pub(super) newest_ms: i64,
    /// Groups before this one were forgotten.
    floor: i64,
    groups: VecDeque<PaneGroup>,
    /// The newest pane.
    open_pane: i64,
    open: QuantileSketch,
}

impl SeriesSketches {
    /// Of no samples.
    pub(super) fn new(series: SeriesId, set: QuantileSet, known_from: i64) -> SeriesSketches {
        SeriesSketches {
            series,
            set,
            known_from,
            newest_ms: NEVER,
            floor: NEVER,
            groups: VecDeque::new(),
            open_pane: NEVER,
            open: QuantileSketch::default(),
        }
    }

    /// Takes samples by time, in panes of so many milliseconds.
    pub(super) fn push(&mut self, base_ms: i64, at_ms: &[i64], value: &[f64]) {
        for (at_ms, value) in at_ms.iter().zip(value) {
            if self.known_from == i64::MAX {
                self.known_from = at_ms - 1;
            }
            let pane = pane_of(*at_ms, base_ms);
            if pane == self.open_pane {
                self.open.add(*value);
            } else {
                let mut sketch = self.pane(pane);
                sketch.add(*value);
                self.set(pane, sketch);
            }
            self.newest_ms = self.newest_ms.max(*at_ms);
        }
    }

    /// Puts a pane into its place, unless it was forgotten.
    pub(super) fn set(&mut self, pane: i64, sketch: QuantileSketch) {
        if pane >= self.open_pane {
            if pane > self.open_pane {
                self.store_open();
                self.open_pane = pane;
            }
            self.open = sketch;
            return;
        }
        let number = pane.div_euclid(GROUP_PANES);
        if number < self.floor {
            return;
        }
        let place = self.groups.partition_point(|group| group.number < number);
        if self.groups.get(place).is_none_or(|group| group.number != number) {
            self.groups.insert(place, PaneGroup { number, bytes: Vec::new() });
        }
        self.groups[place].set(pane, &sketch);
    }

    /// Stores the open pane behind the others.
    fn store_open(&mut self) {
        let sketch = std::mem::take(&mut self.open);
        if self.open_pane == NEVER || sketch == QuantileSketch::default() {
            return;
        }
        let number = self.open_pane.div_euclid(GROUP_PANES);
        if self.groups.back().is_none_or(|last| last.number != number) {
            self.groups.back_mut().into_iter().for_each(|full| full.bytes.shrink_to_fit());
            self.groups.push_back(PaneGroup { number, bytes: Vec::new() });
        }
        let open_pane = self.open_pane;
        self.groups.back_mut().into_iter().for_each(|group| group.push(open_pane, &sketch));
    }

    /// The sketch of a pane.
    pub(super) fn pane(&self, pane: i64) -> QuantileSketch {
        let mut sum = SketchSum::default();
        self.sum(pane..=pane, &mut sum);
        sum.finish()
    }

    /// Adds the panes of these numbers to a sum.
    pub(super) fn sum(&self, panes: RangeInclusive<i64>, sum: &mut SketchSum) {
        let from = self.groups.partition_point(|group| group.number < panes.start().div_euclid(GROUP_PANES));
        for group in self.groups.range(from..) {
            if group.number > panes.end().div_euclid(GROUP_PANES) {
                break;
            }
            for (_, bytes) in group.panes().filter(|(number, _)| panes.contains(number)) {
                sum.add_bytes(bytes);
            }
        }
        if panes.contains(&self.open_pane) {
            sum.add(&self.open);
        }
    }

    /// Forgets the groups that end before this pane, in panes of so many milliseconds.
    pub(super) fn forget_before(&mut self, pane: i64, base_ms: i64) {
        let floor = pane.div_euclid(GROUP_PANES);
        if floor <= self.floor {
            return;
        }
        self.floor = floor;
        while self.groups.front().is_some_and(|group| group.number < floor) {
            self.groups.pop_front();
        }
        self.known_from = self.known_from.max((floor * GROUP_PANES - 1) * base_ms);
    }

    /// The same in panes of another size, a multiple of the one before.
    pub(super) fn in_larger_panes(&self, base_ms: i64, larger_ms: i64) -> SeriesSketches {
        let mut all = SeriesSketches::new(self.series, self.set, self.known_from);
        all.newest_ms = self.newest_ms;
        let numbers = self.groups.iter().flat_map(|group| group.panes().map(|(number, _)| number));
        for number in numbers.chain((self.open_pane != NEVER).then_some(self.open_pane)) {
            let into = pane_of(number * base_ms, larger_ms);
            let mut sketch = all.pane(into);
            sketch.merge(&self.pane(number));
            all.set(into, sketch);
        }
        all
    }

    /// Bytes held beside the record itself.
    pub(super) fn bytes(&self) -> usize {
        let groups: usize = self.groups.iter().map(|group| group.bytes.capacity()).sum();
        groups + self.groups.capacity() * size_of::<PaneGroup>() + self.open.bytes()
    }

    /// The groups in `[before, horizon)`.
    pub(super) fn save_groups(&self, before: i64, horizon: i64, put: &mut StateWriter) {
        let groups = self.groups.iter().filter(|group| (before..horizon).contains(&group.number));
        put.n(groups.clone().count());
        for group in groups {
            put.i64(group.number);
            put.part(&group.bytes);
        }
    }

    /// Takes groups that are newer than all before them.
    pub(super) fn load_groups(&mut self, take: &mut StateReader) -> Result<(), StateError> {
        for _ in 0..take.n(16)? {
            let group = PaneGroup::load(take)?;
            if self.groups.back().is_some_and(|last| last.number >= group.number) {
                return Err(StateError("panes of quantiles are not in order"));
            }
            self.groups.push_back(group);
        }
        Ok(())
    }

    /// Everything but the groups before this one, which are sealed.
    pub(super) fn save(&self, sealed_before: i64, put: &mut StateWriter) {
        put.u8(self.set.code());
        put.i64(self.known_from);
        put.i64(self.newest_ms);
        put.i64(self.floor);
        self.save_groups(sealed_before, i64::MAX, put);
        put.i64(self.open_pane);
        let mut open = Vec::new();
        self.open.write(&mut open);
        put.part(&open);
    }

    /// Adds what [`SeriesSketches::save`] wrote to the sealed groups.
    pub(super) fn load(&mut self, take: &mut StateReader) -> Result<(), StateError> {
        self.set = QuantileSet::from_code(take.u8()?);
        (self.known_from, self.newest_ms) = (take.i64()?, take.i64()?);
        self.floor = take.i64()?;
        self.load_groups(take)?;
        // What was forgotten since it was sealed.
        while self.groups.front().is_some_and(|group| group.number < self.floor) {
            self.groups.pop_front();
        }
        self.open_pane = take.i64()?;
        let open = take.part()?.0;
        let wrong = StateError("an open pane of quantiles is no sketch");
        let (sketch, length) = QuantileSketch::read(open).ok_or(wrong)?;
        let last = self.groups.back().map_or(NEVER, |group| group.number);
        if length != open.len() || last > self.open_pane.div_euclid(GROUP_PANES) {
            return Err(wrong);
        }
        self.open = sketch;
        Ok(())
    }
}
