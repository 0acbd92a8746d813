//! What every stateful operator shares: slots, timers, flat arrays, and the batch that `admit` hands on.
//!
//! A shard is one of 256 fixed key groups. Its state is dense: a series gets a *slot*, a small number that
//! indexes flat arrays. Slots are given in an order that depends on the journal alone (new series of a batch
//! by rising id, freed slots reused last in first out), so a rerun gives the same slots.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasherDefault, Hasher};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::rows::{Counts, Reject};
use crate::sample::{EpochEnd, MetricType, SeriesId};
use crate::settings::{SeriesClass, SeriesOptions, Settings};

/// What one worker is at, for whoever finds it panicked or standing still.
#[derive(Debug, Default)]
pub struct WorkPosition {
    epoch: AtomicU64,
    series: AtomicU64,
}

impl WorkPosition {
    /// A shard's part of the epoch with this number begins.
    pub fn begin(&self, epoch: u64) {
        self.series.store(0, Ordering::Relaxed);
        self.epoch.store(epoch, Ordering::Relaxed);
    }

    /// Now comes this series; once per series and epoch.
    #[inline]
    pub fn on(&self, series: SeriesId) {
        self.series.store(series.0, Ordering::Relaxed);
    }

    /// The part of the epoch is done.
    pub fn rest(&self) {
        self.epoch.store(0, Ordering::Relaxed);
    }

    /// The number of the epoch that is being computed, and the series if it is at one (0 is none).
    pub fn now(&self) -> Option<(u64, Option<SeriesId>)> {
        let (epoch, series) = (self.epoch.load(Ordering::Relaxed), self.series.load(Ordering::Relaxed));
        (epoch != 0).then_some((epoch, (series != 0).then_some(SeriesId(series))))
    }
}

/// A hasher for keys that are hashes already: series ids, whose low byte is the same in a whole shard.
#[derive(Clone, Copy, Default)]
pub struct SeriesHasher(u64);

impl Hasher for SeriesHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        }
    }

    fn write_u64(&mut self, id: u64) {
        self.0 = (id >> 8).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }
}

/// A map by series id with a fixed hash: no randomness in a pure crate.
pub type SeriesMap<V> = HashMap<u64, V, BuildHasherDefault<SeriesHasher>>;

/// Series to slot and back, for one shard.
#[derive(Default)]
pub struct Slots {
    pub(crate) by_series: SeriesMap<u32>,
    pub(crate) series: Vec<u64>,
    pub(crate) free: Vec<u32>,
}

impl Slots {
    /// The slot of a series, if it has one.
    #[inline]
    pub fn get(&self, series: u64) -> Option<u32> {
        self.by_series.get(&series).copied()
    }

    /// Gives a slot to a series that has none.
    pub fn give(&mut self, series: u64) -> u32 {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.series.push(0);
            u32::try_from(self.series.len() - 1).expect("a shard holds fewer than 2^32 series")
        });
        self.series[slot as usize] = series;
        self.by_series.insert(series, slot);
        slot
    }

    /// Takes a slot back.
    pub fn free(&mut self, slot: u32) {
        self.by_series.remove(&self.series[slot as usize]);
        self.free.push(slot);
    }

    /// The series in a slot.
    pub fn series(&self, slot: u32) -> SeriesId {
        SeriesId(self.series[slot as usize])
    }

    /// The series in the slot of this number, or in the next one that is taken; counted around.
    pub fn near(&self, number: u64) -> Option<SeriesId> {
        let n = self.series.len();
        let first = (number % n.max(1) as u64) as usize;
        let taken = |at: usize| self.by_series.get(&self.series[at]) == Some(&(at as u32));
        (0..n).map(|step| (first + step) % n).find(|at| taken(*at)).map(|at| SeriesId(self.series[at]))
    }

    /// The slots that are given, rising.
    pub fn given(&self) -> impl Iterator<Item = u32> {
        let slots = self.series.iter().zip(0..);
        slots.filter(|(series, slot)| self.get(**series) == Some(*slot)).map(|(_, slot)| slot)
    }

    /// How many slots exist, free ones included.
    pub fn capacity(&self) -> usize {
        self.series.len()
    }

    /// How many series have a slot.
    pub fn len(&self) -> usize {
        self.by_series.len()
    }

    /// Whether no series has a slot.
    pub fn is_empty(&self) -> bool {
        self.by_series.is_empty()
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.by_series.capacity() * 17 + self.series.capacity() * 8 + self.free.capacity() * 4
    }
}

/// Slots to look at again when the watermark reaches a moment; a second of granularity, never late.
#[derive(Default)]
pub struct Timers {
    buckets: BTreeMap<i64, Vec<u32>>,
}

impl Timers {
    /// Marks `slot` to be looked at once the watermark is at or after `due_ms`.
    pub fn arm(&mut self, slot: u32, due_ms: i64) {
        self.buckets.entry(Timers::bucket(due_ms)).or_default().push(slot);
    }

    /// The bucket of a time.
    pub fn bucket(due_ms: i64) -> i64 {
        due_ms.div_euclid(1_000)
    }

    /// Takes one due bucket and its number, the armed time in whole seconds.
    ///
    /// A slot may be due no more (its owner judges again) but none is missed.
    pub fn due(&mut self, watermark_ms: i64) -> Option<(i64, Vec<u32>)> {
        let first = self.buckets.first_entry()?;
        (*first.key() <= Timers::bucket(watermark_ms)).then(|| first.remove_entry())
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.buckets.values().map(|bucket| 48 + bucket.capacity() * 4).sum()
    }
}

/// Flat records of `stride` words per slot, those of one or three slots in a piece of memory that starts as zeroes.
///
/// A piece for many slots would be half empty in each of the 256 shards. An allocator rounds a piece up to its next size, of
/// which there are four between a power of two and the next: three slots in a piece are chosen where that wastes less.
/// Pieces never move, so growing copies nothing.
pub struct Flat<const WORDS: usize> {
    stride: usize,
    three: bool,
    pieces: Vec<Box<[[u64; WORDS]]>>,
}

impl<const WORDS: usize> Flat<WORDS> {
    /// No slots yet; `stride` records for each to come.
    pub fn new(stride: usize) -> Self {
        let bytes = stride * WORDS * 8;
        let three = allocated(3 * bytes) < 3 * allocated(bytes);
        Flat { stride, three, pieces: Vec::new() }
    }

    /// Makes room for `slot`.
    pub fn reserve(&mut self, slot: u32) {
        let (piece, _) = self.place(slot);
        while self.pieces.len() <= piece {
            let records = if self.three { 3 * self.stride } else { self.stride };
            self.pieces.push(vec![[0; WORDS]; records].into_boxed_slice());
        }
    }

    /// The piece that a slot is in, and where in it its records begin.
    #[inline]
    fn place(&self, slot: u32) -> (usize, usize) {
        let slot = slot as usize;
        if self.three { (slot / 3, slot % 3 * self.stride) } else { (slot, 0) }
    }

    /// The records of `slot`.
    #[inline]
    pub fn of(&self, slot: u32) -> &[[u64; WORDS]] {
        let (piece, first) = self.place(slot);
        &self.pieces[piece][first..first + self.stride]
    }

    /// The records of `slot`, to change.
    #[inline]
    pub fn of_mut(&mut self, slot: u32) -> &mut [[u64; WORDS]] {
        let (piece, first) = self.place(slot);
        &mut self.pieces[piece][first..first + self.stride]
    }

    /// Bytes of the records of `slots` slots; less is resident until every record was written once.
    pub fn bytes(&self, slots: usize) -> usize {
        slots * (self.stride * WORDS * 8 + size_of::<Box<[[u64; WORDS]]>>())
    }
}

/// What an allocator takes for so many bytes: the next of four sizes between a power of two and the next.
pub fn allocated(bytes: usize) -> usize {
    bytes.next_multiple_of((bytes.max(4).next_power_of_two() / 8).max(1))
}

/// The raw samples that are held of one series.
#[derive(Clone, Debug, PartialEq)]
pub struct RawSamples {
    /// Its slot.
    pub slot: u32,
    /// Newest applied sample.
    pub newest_ms: i64,
    /// Every applied sample after this is held.
    pub whole_after_ms: i64,
    /// Whether it takes a bootstrap.
    pub bootstrapping: bool,
    /// Times, rising.
    pub at_ms: Vec<i64>,
    /// Values.
    pub value: Vec<f64>,
}

impl RawSamples {
    /// Whether every applied sample in `(start_ms, ...]` is held.
    pub fn whole(&self, start_ms: i64) -> bool {
        start_ms >= self.whole_after_ms
    }

    /// The places of the samples in `(start_ms, end_ms]`.
    pub fn within(&self, start_ms: i64, end_ms: i64) -> std::ops::Range<usize> {
        let from = self.at_ms.partition_point(|at| *at <= start_ms);
        from..self.at_ms.partition_point(|at| *at <= end_ms).max(from)
    }
}

/// A slot was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotAssignment {
    /// The slot.
    pub slot: u32,
    /// Its series.
    pub series: SeriesId,
    /// Keys whose window reaches back to before this time lack forgotten samples and are withheld.
    pub withhold_ms: i64,
    /// What kind of series it is.
    pub class: SeriesClass,
}

/// Of a series that had its slot something else is known, or set, than before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClassChange {
    /// The slot.
    pub slot: u32,
    /// Its series.
    pub series: SeriesId,
    /// What kind of series it is now.
    pub class: SeriesClass,
}

/// Late samples of one slot in one base pane were merged; `raw` are *all* raw samples of the pane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LatePane {
    /// The slot.
    pub slot: u32,
    /// Number of the base pane: it covers `((pane - 1) * base, pane * base]`.
    pub pane: i64,
    /// Range of its raw samples in [`Admitted::raw_at_ms`] and [`Admitted::raw_value`].
    pub raw: (u32, u32),
    /// Range of the merged late times in [`Admitted::late_at_ms`].
    pub late: (u32, u32),
}

/// A step ([`STEP_MS`]) of one slot that late samples touched, or the next one that has samples; `raw` are *all* of its
/// samples that were applied before this epoch, and the late ones. A step that is not wholly held any more is left out.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LateStep {
    /// The slot.
    pub slot: u32,
    /// Number of the step: it covers `((step - 1) * STEP_MS, step * STEP_MS]`.
    pub step: i64,
    /// The last sample before the step, if there is one.
    pub before: Option<(i64, f64)>,
    /// Range of its raw samples in [`AdmittedBatch::raw_at_ms`] and [`AdmittedBatch::raw_value`].
    pub raw: (u32, u32),
}

/// What happened to the steps of one slot.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SeriesStep {
    /// The slot.
    pub slot: u32,
    /// What happened.
    pub event: StepEvent,
}

/// What happens to the steps of a series.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum StepEvent {
    /// What was known of them counts no more.
    Begin {
        /// Whether the past follows, of a series that takes a bootstrap.
        bootstraps: bool,
    },
    /// The past is complete.
    BootstrapEnd,
    /// A step was closed, or a closed one has another value.
    Value {
        /// Its number: it covers `((step - 1) * STEP_MS, step * STEP_MS]`.
        step: i64,
        /// Mean of a gauge, rate per second of a counter; finite.
        value: f64,
    },
}

/// A step of a bootstrap for one slot, taken before the new sample at `place`. Late panes come after the last of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BootstrapPhase {
    /// The slot.
    pub slot: u32,
    /// Index into the new samples.
    pub place: u32,
    /// What happens.
    pub step: BootstrapStep,
}

/// What happens to a series in a bootstrap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BootstrapStep {
    /// It takes the bootstrap: its state begins anew, and no key closes.
    Begin {
        /// Keys before this bootstrap state and are not published, unless they were before.
        publish_from_ms: i64,
        /// All samples it had applied, as a range of the raw samples.
        had: (u32, u32),
    },
    /// Its live samples that waited come next.
    End,
    /// It leaves the bootstrap and its state begins anew; its live samples that waited come next.
    Drop,
}

/// A series that lives on under other settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CarriedSeries {
    /// The slot.
    pub slot: u32,
    /// Its newest sample, be it applied or waiting for the end of a bootstrap; `i64::MIN` if it has none.
    pub newest_ms: i64,
    /// Its newest applied sample; `i64::MIN` if it has none.
    pub newest_applied_ms: i64,
    /// Processing time of the epoch that last applied one.
    pub last_applied_ms: i64,
    /// If it takes a bootstrap: keys before this build state and are not published.
    pub bootstrap_from_ms: Option<i64>,
    /// Everything newer than this is in the raw ring, a border of base panes as they were; `i64::MIN` if everything is.
    pub raw_from_ms: i64,
    /// Range of the raw samples newer than that, if the base pane changes; empty if it does not.
    pub raw: (u32, u32),
}

/// The clock was set back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClockChange {
    /// What it says.
    pub to_ms: i64,
    /// The slots that go on, rising.
    pub slots: Vec<u32>,
}

/// What the gate hands on for one epoch of one shard: complete and ordered. One is used again for every shard of a worker.
#[derive(Debug, Default)]
pub struct AdmittedBatch {
    /// The epoch.
    pub end: EpochEnd,
    /// What sources have said of series of this shard, whether they have a slot or not. Comes with the input.
    pub types: Vec<(SeriesId, MetricType)>,
    /// What others are by their names. Comes with the input.
    pub named_types: Vec<(SeriesId, MetricType)>,
    /// What is set for series of this shard. Comes with the input.
    pub options: Vec<(SeriesId, SeriesOptions)>,
    /// Of series that had a slot before this epoch: what was said of them, or is set otherwise, by slot; before every sample.
    pub classes: Vec<ClassChange>,
    /// New settings, which apply before everything else.
    pub settings: Option<Arc<Settings>>,
    /// The clock was set back; applies after the settings.
    pub clock: Option<ClockChange>,
    /// If there are new settings, all series that have a slot, by slot.
    pub carried: Vec<CarriedSeries>,
    /// Slots given in this epoch; before every sample.
    pub given: Vec<SlotAssignment>,
    /// Panes touched by late samples, by (slot, pane).
    pub late: Vec<LatePane>,
    /// Steps touched by late samples, by (slot, step).
    pub late_steps: Vec<LateStep>,
    /// Raw samples of touched panes and steps: times.
    pub raw_at_ms: Vec<i64>,
    /// Raw samples of touched panes and steps: values.
    pub raw_value: Vec<f64>,
    /// Times of the late samples merged.
    pub late_at_ms: Vec<i64>,
    /// Where bootstraps begin and end among the new samples, by (slot, place).
    pub phases: Vec<BootstrapPhase>,
    /// New samples by (slot, at): slots.
    pub slot: Vec<u32>,
    /// New samples: times.
    pub at_ms: Vec<i64>,
    /// New samples: values.
    pub value: Vec<f64>,
    /// Slots of series that are quarantined or were ahead of a clock that was set back: nothing more of them is computed,
    /// and they are freed at the end of this epoch.
    pub quarantined: Vec<u32>,
    /// Slots freed at the end of this epoch; after everything else.
    pub freed: Vec<u32>,
    /// The series of the freed slots.
    pub freed_series: Vec<SeriesId>,
    /// Reject rows due in this epoch.
    pub rejects: Vec<Reject>,
    /// What was counted.
    pub counts: Counts,
}

/// Samples for which the memory of a batch stays from shard to shard; what a larger one took is given back.
const BATCH_SAMPLES_KEPT: usize = 4_096;

impl AdmittedBatch {
    /// An empty batch.
    pub fn new(end: EpochEnd) -> Self {
        AdmittedBatch { end, ..AdmittedBatch::default() }
    }

    /// Empties the batch for another epoch or shard, but for the types and options it comes with, and keeps its memory as far as it is not
    /// much.
    pub fn reset(&mut self, end: EpochEnd) {
        let sizes = [self.at_ms.capacity(), self.raw_at_ms.capacity(), self.carried.capacity()];
        if sizes.into_iter().any(|size| size > BATCH_SAMPLES_KEPT) {
            let (types, named_types) =
                (std::mem::take(&mut self.types), std::mem::take(&mut self.named_types));
            let options = std::mem::take(&mut self.options);
            *self = AdmittedBatch { types, named_types, options, ..AdmittedBatch::new(end) };
            return;
        }
        self.end = end;
        (self.settings, self.clock) = (None, None);
        self.classes.clear();
        self.carried.clear();
        self.given.clear();
        self.late.clear();
        self.late_steps.clear();
        self.raw_at_ms.clear();
        self.raw_value.clear();
        self.late_at_ms.clear();
        self.phases.clear();
        self.slot.clear();
        self.at_ms.clear();
        self.value.clear();
        self.quarantined.clear();
        self.freed.clear();
        self.freed_series.clear();
        self.rejects.clear();
        self.counts = Counts::default();
    }

    /// What happens to each series, by rising slot.
    pub fn series(&self) -> impl Iterator<Item = SeriesEvents<'_>> {
        let (mut late, mut new, mut phase, mut step) = (0, 0, 0, 0);
        std::iter::from_fn(move || {
            let slots = self.late.get(late).map(|pane| pane.slot).into_iter();
            let slots = slots.chain(self.slot.get(new).copied());
            let slot = slots.chain(self.phases.get(phase).map(|phase| phase.slot)).min()?;
            let (late_from, new_from, phase_from, step_from) = (late, new, phase, step);
            while self.late.get(late).is_some_and(|pane| pane.slot == slot) {
                late += 1;
            }
            // Only a series with late panes has them.
            while self.late_steps.get(step).is_some_and(|step| step.slot == slot) {
                step += 1;
            }
            while self.slot.get(new) == Some(&slot) {
                new += 1;
            }
            while self.phases.get(phase).is_some_and(|phase| phase.slot == slot) {
                phase += 1;
            }
            let (late, phases) = (&self.late[late_from..late], &self.phases[phase_from..phase]);
            let late_steps = &self.late_steps[step_from..step];
            Some(SeriesEvents { slot, phases, late, late_steps, new: new_from..new })
        })
    }
}

/// What happens to one series in an epoch. In order of time: for each phase of a bootstrap the new samples before it and the
/// phase itself ([`SeriesEvents::phases`]), then the late samples, then the rest of the new ones ([`SeriesEvents::rest`]).
#[derive(Clone, Debug)]
pub struct SeriesEvents<'a> {
    /// Its slot.
    pub slot: u32,
    phases: &'a [BootstrapPhase],
    /// Its panes that late samples touched, by rising number.
    pub late: &'a [LatePane],
    /// Its steps that late samples touched, by rising number.
    pub late_steps: &'a [LateStep],
    new: Range<usize>,
}

impl SeriesEvents<'_> {
    /// Each step of a bootstrap with the new samples before it, as a range of those of the batch.
    pub fn phases(&self) -> impl Iterator<Item = (Range<usize>, BootstrapStep)> {
        let mut from = self.new.start;
        self.phases.iter().map(move |phase| {
            let place = phase.place as usize;
            (std::mem::replace(&mut from, place)..place, phase.step)
        })
    }

    /// The new samples behind the last step of a bootstrap, as a range of those of the batch.
    pub fn rest(&self) -> Range<usize> {
        self.phases.last().map_or(self.new.start, |phase| phase.place as usize)..self.new.end
    }
}

/// `ceil(at / size)`: the number of the right-closed pane `((n - 1) * size, n * size]` that holds `at`.
#[inline]
pub fn pane_of(at_ms: i64, size_ms: i64) -> i64 {
    -(-at_ms).div_euclid(size_ms)
}

/// How long silence must last: longer for a series that was behind at its last applied sample.
pub fn wait_ms(settings: &Settings, last_applied_ms: i64, newest_ms: i64) -> i64 {
    let behind = last_applied_ms.saturating_sub(newest_ms) > settings.idle_timeout_ms;
    if behind { settings.catch_up_ms } else { settings.idle_timeout_ms }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn panes_are_closed_on_the_right() {
        assert_eq!(pane_of(60_000, 60_000), 1);
        assert_eq!(pane_of(60_001, 60_000), 2);
        assert_eq!(pane_of(59_999, 60_000), 1);
        assert_eq!(pane_of(1, 60_000), 1);
        assert_eq!(pane_of(0, 60_000), 0);
    }

    #[test]
    fn slots_keep_their_records_whether_alone_or_three_in_a_piece() {
        for (stride, three) in [(226, true), (200, false), (1, false), (7, true)] {
            let mut flat: Flat<10> = Flat::new(stride);
            assert_eq!(flat.three, three, "{stride}");
            for slot in 0..20 {
                flat.reserve(slot);
                assert!(flat.of(slot).iter().all(|record| *record == [0; 10]), "{stride}");
                flat.of_mut(slot).fill([u64::from(slot) + 1; 10]);
            }
            for slot in 0..20 {
                assert_eq!(flat.of(slot), vec![[u64::from(slot) + 1; 10]; stride], "{stride}");
            }
        }
    }

    #[test]
    fn a_timer_is_never_late() {
        let mut timers = Timers::default();
        timers.arm(1, 5_500);
        timers.arm(2, 4_999);
        assert_eq!(timers.due(4_000), Some((4, vec![2])));
        assert_eq!(timers.due(4_999), None);
        assert_eq!(timers.due(5_500), Some((5, vec![1])));
    }
}
