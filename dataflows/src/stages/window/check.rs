//! Checks what is held of one series by computing it again, slowly. Nothing here changes anything.
//!
//! ```text
//!  raw samples ─same loop──► base panes ─same merges─► panes of a hop ─one after another─► window
//!       └───────────── slow twin, where the raw samples reach back over the whole window ─────┘
//! ```
//!
//! Panes have to be equal to the last bit, for they are the same loop over the same samples. Of a window everything that
//! is copied or counted has to be equal; its sums are merged in another shape and may differ by rounding
//! ([`TOLERANCE`]).
//!
//! Not here: which series are checked, and when. `admit` and `window` must have retired the same epoch.

use super::panes::{PaneCopy, PaneSpan, WindowPlan};
use super::record::PaneRecord;
use super::row;
use super::state::{AddedWindow, Marks, Windows};
use crate::kernels::moments::Moments;
use crate::kernels::moments::step;
use crate::kernels::reference;
use crate::rows::inspect::{Mismatch, StateCheck, What};
use crate::shard::{RawSamples, pane_of};
use crate::statistics::{Agreement, STATISTICS};

/// How far sums may differ, relative to what was summed.
///
/// Merging rounds each sum by at most 2^-52 a merge; with the most panes a window may have, 4,096, that is 1e-12. One
/// sample more or less is told by the count, one that is wrong by far more than this unless it is lost in the rounding of
/// its own series.
pub const TOLERANCE: f64 = 1e-10;

/// Beyond this, what is summed may leave the numbers on the way.
const SUMMED_MAX: f64 = f64::MAX / 4.0;

/// What is being compared.
struct Compared<'a> {
    what: What,
    window_ms: Option<i64>,
    start_ms: i64,
    end_ms: i64,
    found: &'a mut StateCheck,
}

impl Compared<'_> {
    fn wrong(&mut self, field: &'static str, kept: f64, again: f64) {
        let (what, window_ms, start_ms, end_ms) = (self.what, self.window_ms, self.start_ms, self.end_ms);
        self.found.found(Mismatch { what, window_ms, start_ms, end_ms, field, kept, again });
    }

    /// Every bit, the tag of the holder included.
    fn bits(&mut self, kept: &Moments, again: &Moments) {
        let (a, b) = (kept.named(), again.named());
        if let Some((a, b)) = a.iter().zip(&b).find(|(a, b)| a.value.to_bits() != b.value.to_bits()) {
            self.wrong(a.name, a.value, b.value);
        }
    }

    /// Numbers that are copied or counted.
    fn copied(&mut self, kept: &Moments, again: &Moments) {
        for (a, b) in kept.named().iter().zip(&again.named()).filter(|(a, _)| a.copied) {
            // As numbers: which of two zeros is the smallest depends on the order.
            if a.value != b.value {
                self.wrong(a.name, a.value, b.value);
            }
        }
    }

    /// A sum over things that come to `scale` in all.
    fn summed(&mut self, field: &'static str, kept: f64, again: f64, scale: f64) {
        // Beyond what a number can be, the shape of the merges decides what is left.
        let beyond = !scale.is_finite() || scale > SUMMED_MAX;
        if reference::near(kept, again) || beyond {
            return;
        }
        let difference = (kept - again).abs() / scale;
        self.found.difference = self.found.difference.max(difference);
        // Also what is no number: a sum over nothing, or one that is not finite.
        if difference.partial_cmp(&TOLERANCE).is_none_or(|order| order.is_gt()) {
            self.wrong(field, kept, again);
        }
    }
}

impl Windows {
    /// Computes again what is held of a series whose raw samples are these.
    pub fn check(&self, raw: &RawSamples) -> StateCheck {
        let mut found = StateCheck::default();
        let panes = self.copy_panes(raw.slot);
        self.check_base(raw, &panes.record, &mut found);
        for (w, plan) in self.plans.iter().enumerate() {
            let marks = &self.marks[raw.slot as usize * self.plans.len() + w];
            self.check_hops((raw, &panes.record), plan, marks, &mut found);
            self.check_window((raw, &panes), plan, self.added_window(raw.slot, w), marks, &mut found);
        }
        found
    }

    /// Base panes, each from its raw samples.
    fn check_base(&self, raw: &RawSamples, record: &PaneRecord, found: &mut StateCheck) {
        let newest = pane_of(raw.newest_ms, self.panes.base.pane_ms);
        for number in self.panes.base.oldest(newest)..=newest {
            let (start_ms, end_ms) =
                ((number - 1) * self.panes.base.pane_ms, number * self.panes.base.pane_ms);
            if !raw.whole(start_ms) {
                continue;
            }
            let kept = record.pane(&self.panes.base, number);
            let mut again = Moments::EMPTY;
            for i in raw.within(start_ms, end_ms) {
                again.tag = number as u32;
                again.push(raw.at_ms[i], raw.value[i]);
            }
            found.checked[What::Pane as usize] += u64::from(!again.is_empty());
            Compared { what: What::Pane, window_ms: None, start_ms, end_ms, found }.bits(&kept, &again);
        }
    }

    /// Panes of a hop in the newest window that is closed, each from the base panes that are held.
    fn check_hops(
        &self,
        (raw, record): (&RawSamples, &PaneRecord),
        plan: &WindowPlan,
        Marks { built, closed, .. }: &Marks,
        found: &mut StateCheck,
    ) {
        let newest_base = pane_of(raw.newest_ms, self.panes.base.pane_ms);
        // Carried over from other rings, merges of other shapes: the same samples, not the same bits.
        let same = |number: &i64| *number <= built.upto() && (number - 1) * plan.hop_ms >= self.reshaped_to;
        for number in plan.numbers(*closed).filter(same) {
            let again = plan.refolded(record, &self.panes.base, number, newest_base);
            let Some(again) = again else { continue };
            let (start_ms, end_ms) = ((number - 1) * plan.hop_ms, number * plan.hop_ms);
            found.checked[What::Pane as usize] += u64::from(!again.is_empty());
            Compared { what: What::Pane, window_ms: Some(plan.length_ms), start_ms, end_ms, found }
                .bits(&plan.pane(record, number), &again);
        }
    }

    /// The newest window that is closed: as it would be answered, and from its panes merged one after another.
    fn check_window(
        &self,
        (raw, panes): (&RawSamples, &PaneCopy),
        plan: &WindowPlan,
        young: AddedWindow,
        &Marks { built, closed, .. }: &Marks,
        found: &mut StateCheck,
    ) {
        // On a copy: an answer leaves tails behind.
        let (mut panes, mut built) = (panes.clone(), built);
        let floor = young.floor(plan);
        let span = PaneSpan { floor, newest_ms: raw.newest_ms };
        panes.series().build(plan, &mut built, closed, span);
        let kept = panes.series().combine(plan, &mut built, floor, (closed, None));
        let (mut again, mut gained) = (Moments::EMPTY, 0.0);
        for pane in plan
            .numbers(closed)
            .filter(|number| *number > floor)
            .map(|number| plan.pane(&panes.record, number))
        {
            if !pane.is_empty() {
                gained += pane.increase.abs();
                gained += if again.is_empty() { 0.0 } else { step(again.last, pane.first).abs() };
            }
            again = again.then(&pane);
        }
        let (start_ms, end_ms) = ((closed - plan.length_ms).max(young.known_from).min(closed), closed);
        found.checked[What::Window as usize] += u64::from(!again.is_empty());
        let mut compared =
            Compared { what: What::Window, window_ms: Some(plan.length_ms), start_ms, end_ms, found };
        compared.copied(&kept, &again);
        // Quarters, because sizes may be of any number and ranges of twice that.
        let size = again.min.abs().max(again.max.abs()) / 4.0;
        let range = again.max / 4.0 - again.min / 4.0;
        compared.summed("avg", kept.avg(), again.avg(), size);
        compared.summed("std", kept.std(), again.std(), range);
        // Both merge the same panes, so what cancelled inside of a pane was summed for both.
        compared.summed("increase", kept.increase, again.increase, gained);
        if raw.whole(start_ms) {
            let samples = raw.within(start_ms, end_ms).map(|i| (raw.at_ms[i], raw.value[i]));
            let samples: Vec<(i64, f64)> = samples.collect();
            if samples.is_empty() || kept.is_empty() {
                if samples.len() != kept.count as usize {
                    compared.wrong("count", f64::from(kept.count), samples.len() as f64);
                }
                return;
            }
            let (numbers, slow) = (row::numbers(&kept), row::exact(&samples));
            let counted = STATISTICS.iter().filter(|statistic| statistic.agreement == Agreement::Exact);
            let mut pairs = counted.map(|s| (s.name(), (s.value)(&numbers), (s.value)(&slow.row)));
            if let Some((name, Some(a), Some(b))) = pairs.find(|(_, a, b)| a != b) {
                compared.wrong(name, a, b);
            }
            let (slow, steps) = (slow.row, slow.steps);
            compared.summed("avg", kept.avg(), slow.avg, size);
            compared.summed("std", kept.std(), slow.std, range);
            compared.summed("increase", kept.increase, slow.increase, steps);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::record::Ring;
    use super::*;
    use crate::driver::EpochBatch;
    use crate::kernels::moments::{WORDS, Words};
    use crate::kernels::shapes::{Random, TINY, values};
    use crate::rows::Rows;
    use crate::sample::{EpochEnd, Samples};
    use crate::settings::{Settings, Window};
    use crate::shard::AdmittedBatch;
    use crate::stage::{Budget, Progress, Stage};
    use crate::stages::admit::Admit;
    use std::sync::Arc;

    const T0: i64 = 1_700_000_000_000;

    /// One shard, fed epoch by epoch.
    struct CheckShard {
        admit: Admit,
        windows: Windows,
        epoch: u64,
    }

    impl CheckShard {
        fn new(settings: Settings) -> CheckShard {
            let settings = Arc::new(settings.validated().unwrap());
            let mut admit = Admit::new(Arc::clone(&settings));
            admit.keep_slots_for(crate::pipeline::keep_ms);
            CheckShard { admit, windows: Windows::new(settings), epoch: 0 }
        }

        fn feed(&mut self, samples: &Samples, processing_ms: i64) -> Rows {
            self.epoch += 1;
            let end = EpochEnd {
                epoch: self.epoch,
                processing_ms,
                watermark_ms: processing_ms,
                last_of_input: false,
            };
            let epoch =
                EpochBatch { shard: 0, end, controls: &[], bootstraps: &[], live: samples, save: None };
            let (mut batch, mut out) = (AdmittedBatch::new(end), Rows::default());
            self.admit.retire(&epoch, &mut batch);
            batch.given.iter().for_each(|given| self.windows.assign(given));
            batch.series().for_each(|series| self.windows.observe(&series, &batch, &mut out));
            while self.windows.tick(end, &mut Budget::new(1_000), &mut out) == Progress::More {}
            self.admit.end(&mut batch, &|_| false);
            batch.freed.iter().for_each(|slot| self.windows.forget(*slot));
            out
        }

        fn check(&self, series: u64) -> StateCheck {
            self.windows.check(&self.admit.raw(series).unwrap())
        }

        /// What is found while a pane is another one.
        fn check_changed(
            &mut self,
            raw: &RawSamples,
            ring: &Ring,
            number: i64,
            change: impl FnOnce(&mut Words),
        ) -> StateCheck {
            self.windows.store_pane(raw.slot);
            let before = self.windows.panes.of(raw.slot).clone();
            let mut words = before.pane(ring, number).to_words();
            change(&mut words);
            let record = self.windows.panes.of_mut(raw.slot);
            record.set_pane(ring, number, &Moments::from_words(&words));
            let found = self.windows.check(raw);
            *self.windows.panes.of_mut(raw.slot) = before;
            found
        }
    }

    fn settings() -> Settings {
        let window = |length: i64, hop: i64| Window { length_ms: length * 1_000, hop_ms: hop * 1_000 };
        Settings {
            windows: vec![window(10, 5), window(60, 10), window(7_200, 60), window(900, 15)],
            idle_timeout_ms: 5_000,
            allowed_lateness_ms: 60_000,
            late_samples_max: 64,
            ..Settings::default()
        }
    }

    /// Series of awkward values: of a few hours, some of them late, with outages and jumps.
    fn fed(seed: u64) -> CheckShard {
        let mut shard = CheckShard::new(settings());
        let mut x = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        let mut random = |n: u64| {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            (x >> 20) % n
        };
        let mut now = T0;
        for _ in 0..400 {
            now += [1_000, 5_000, 20_000, 20_000, 900_000][random(20).min(4) as usize];
            let mut samples = Samples::default();
            for series in 0..4 {
                for _ in 0..random(6) {
                    let at = now - [random(2_000), random(40_000)][random(4).min(1) as usize] as i64;
                    let offset = [0.0, 1.0, 4e10, -3e12][series as usize];
                    samples.push(series * 256, at, offset + random(1_000_000) as f64 / 997.0 - 400.0);
                }
            }
            shard.feed(&samples, now);
        }
        shard
    }

    #[test]
    fn what_is_held_is_what_its_samples_give() {
        let (mut panes, mut windows) = (0, 0);
        for seed in 1..40 {
            let shard = fed(seed);
            for series in 0..4 {
                let checked = shard.check(series * 256);
                assert_eq!(checked.mismatches, [], "seed {seed} series {series}");
                assert!(checked.difference < TOLERANCE / 100.0, "seed {seed}: {checked:?}");
                panes += checked.checked[What::Pane as usize];
                windows += checked.checked[What::Window as usize];
            }
        }
        assert!(panes > 1_000 && windows > 300, "{panes} panes, {windows} windows");
    }

    #[test]
    fn looking_changes_nothing() {
        let (mut looked, mut not) = (fed(3), fed(3));
        (0..4).for_each(|series| drop(looked.check(series * 256)));
        let mut samples = Samples::default();
        samples.push(0, T0 + 400 * 1_000_000, 5.0);
        let now = T0 + 400 * 1_000_000;
        assert_eq!(looked.feed(&samples, now), not.feed(&samples, now));
    }

    #[test]
    fn a_raw_sample_that_is_lost_or_wrong_is_found() {
        let shard = fed(5);
        let raw = shard.admit.raw(256).unwrap();
        assert!(raw.at_ms.len() > 3, "{raw:?}");
        for i in 0..raw.at_ms.len() {
            if !raw.whole((pane_of(raw.at_ms[i], 5_000) - 1) * 5_000) {
                continue;
            }
            let mut less = raw.clone();
            less.at_ms.remove(i);
            less.value.remove(i);
            assert!(shard.windows.check(&less).wrong[What::Pane as usize] > 0, "sample {i}");
            let mut other = raw.clone();
            other.value[i] = f64::from_bits(other.value[i].to_bits() ^ 1);
            assert!(shard.windows.check(&other).wrong[What::Pane as usize] > 0, "sample {i}");
        }
    }

    /// A flip of a bit that counts in something that is held is found wherever it is looked at.
    #[test]
    fn a_bit_that_flips_is_found() {
        let mut shard = fed(7);
        let raw = shard.admit.raw(256).unwrap();
        let base = shard.windows.panes.base;
        let newest = pane_of(raw.newest_ms, base.pane_ms);
        for word in 0..WORDS {
            let checked = shard.check_changed(&raw, &base, newest, |words| words[word] ^= 1);
            assert!(checked.wrong[What::Pane as usize] > 0, "word {word} of the newest base pane");
        }
        // The newest pane of each hop, in a high bit of the sum.
        let plans = Arc::clone(&shard.windows.plans);
        for (w, plan) in plans.iter().enumerate() {
            let closed = shard.windows.marks(raw.slot, w).closed;
            let record = shard.windows.copy_panes(raw.slot).record;
            let number = plan.numbers(closed).rev().find(|n| !plan.pane(&record, *n).is_empty());
            let Some(number) = number else { continue };
            let checked = shard.check_changed(&raw, &plan.ring, number, |words| words[2] ^= 1 << 51);
            assert!(checked.wrong.iter().sum::<u64>() > 0, "a pane of window {w}");
        }
        assert_eq!(shard.windows.check(&raw).mismatches, []);
    }

    #[test]
    fn a_kept_head_or_tail_that_is_wrong_is_found() {
        let mut seen = [0, 0];
        for seed in 1..20 {
            let mut shard = fed(seed);
            let raw = shard.admit.raw(256).unwrap();
            shard.windows.store_pane(raw.slot);
            let before = shard.windows.panes.of(raw.slot).clone();
            for entry in 0..before.stored_entries().len() {
                shard.windows.panes.of_mut(raw.slot).change_count(entry);
                seen[0] += shard.windows.check(&raw).wrong[What::Window as usize];
                *shard.windows.panes.of_mut(raw.slot) = before.clone();
            }
            for w in 0..shard.windows.plans.len() {
                let head = shard.windows.plans[w].head;
                shard.windows.panes.series(raw.slot, None).partials[head][8] ^= 4;
                seen[1] += shard.windows.check(&raw).wrong[What::Window as usize];
                shard.windows.panes.series(raw.slot, None).partials[head][8] ^= 4;
            }
        }
        assert!(seen[0] > 100 && seen[1] > 30, "{seen:?} wrong windows");
    }

    /// Series of every shape, of which each is checked after each epoch.
    struct Shapes {
        shard: CheckShard,
        random: Random,
        series: Vec<Vec<f64>>,
        at: usize,
    }

    impl Shapes {
        const SERIES: usize = 25;
        const STEP_MS: i64 = 2_000;

        fn new(seed: u64) -> Shapes {
            let mut random = Random::new(seed);
            let series = (0..Self::SERIES).map(|_| values(&mut random)).collect();
            Shapes { shard: CheckShard::new(settings()), random, series, at: 0 }
        }

        /// Feeds the next samples of each series, some of them an epoch late; false if there are no more.
        fn feed(&mut self) -> bool {
            let (from, upto) = (self.at, self.at + 1 + self.random.below(40));
            let mut samples = Samples::default();
            for (id, values) in self.series.iter().enumerate() {
                let late = |i: usize| (i * 7 + id).is_multiple_of(11);
                let old = (from.saturating_sub(5)..from).filter(|i| late(*i));
                for i in old.chain((from..upto).filter(|i| !late(*i) || *i + 5 < upto)) {
                    let Some(value) = values.get(i) else { continue };
                    samples.push(id as u64 * 256, T0 + i as i64 * Self::STEP_MS, *value);
                }
            }
            self.at = upto;
            self.shard.feed(&samples, T0 + upto as i64 * Self::STEP_MS);
            upto < 300
        }

        fn raw(&self) -> impl Iterator<Item = RawSamples> {
            (0..Self::SERIES).filter_map(|id| self.shard.admit.raw(id as u64 * 256).ok())
        }
    }

    #[test]
    fn no_shape_of_a_series_is_a_false_alarm() {
        let mut checks = 0;
        for seed in 0..80 {
            let mut shapes = Shapes::new(seed);
            while shapes.feed() {
                for raw in shapes.raw() {
                    let checked = shapes.shard.windows.check(&raw);
                    assert_eq!(checked.mismatches, [], "seed {seed} series {}: {:?}", raw.slot, raw.value);
                    assert!(checked.difference < TOLERANCE / 100.0, "seed {seed}: {checked:?}");
                    checks += checked.checked[What::Window as usize];
                }
            }
        }
        assert!(checks > 30_000, "{checks} windows");
    }

    /// Of whatever shape the series is: a sample that is gone, one that is another by a millionth of the largest, a bit.
    #[test]
    fn in_any_shape_of_a_series_what_is_wrong_is_found() {
        let mut found = 0;
        for seed in 0..40 {
            let mut shapes = Shapes::new(seed);
            while shapes.feed() {
                let raws: Vec<RawSamples> = shapes.raw().collect();
                for raw in raws {
                    let i = shapes.random.below(raw.at_ms.len());
                    if !raw.whole((pane_of(raw.at_ms[i], 5_000) - 1) * 5_000) {
                        continue;
                    }
                    let wrong = |checked: StateCheck| checked.wrong[What::Pane as usize] > 0;
                    let mut less = raw.clone();
                    less.at_ms.remove(i);
                    less.value.remove(i);
                    assert!(wrong(shapes.shard.windows.check(&less)), "seed {seed} without {i}: {raw:?}");
                    let size = raw.value.iter().fold(TINY * 1e7, |size, x| x.abs().max(size));
                    let mut other = raw.clone();
                    other.value[i] -= (size * 1e-6).copysign(other.value[i]);
                    assert!(wrong(shapes.shard.windows.check(&other)), "seed {seed} other {i}: {raw:?}");
                    let base = shapes.shard.windows.panes.base;
                    let number = pane_of(raw.at_ms[i], base.pane_ms);
                    let (word, bit) = (shapes.random.below(WORDS), shapes.random.below(64));
                    // The number of a pane is not one of its moments.
                    let bit = if word == 8 { bit % 32 } else { bit };
                    let flip = |words: &mut Words| words[word] ^= 1 << bit;
                    let checked = shapes.shard.check_changed(&raw, &base, number, flip);
                    assert!(wrong(checked), "seed {seed} word {word} bit {bit}: {raw:?}");
                    found += 1;
                }
            }
        }
        assert!(found > 5_000, "{found} of each");
    }
}
