//! A change of settings: what a shard's windows keep of their state.
//!
//! A window that keeps its length and its hop goes on: its panes are copied, and what was built of them is built anew in the
//! same shape. Any other is added: it begins with the panes of its hop that can be made whole of panes that are
//! held, and is partial until it reaches back no further than these. It never answers a key that lay in the past then.
//!
//! If the base pane changes, what the raw ring holds is folded anew, and each older base pane moves to the new one that
//! holds its newest sample or its end. A window whose hop is a multiple of both never sees the difference.
//!
//! Not here: which late samples are taken after a change (`admit` refuses those whose pane is not wholly in the raw ring).

use std::collections::BTreeMap;
use std::sync::Arc;

use super::panes::{self, BuildProgress, Layout, PaneSpan, PaneStore, WindowPlan};
use super::record::{PaneRecord, Ring};
use super::state::{AddedWindow, BaseLimit, Marks, NEVER, Windows};
use crate::kernels::moments::Moments;
use crate::mutants::{Mutant, mutant};
use crate::seal::Sealing;
use crate::settings::Settings;
use crate::shard::{AdmittedBatch, CarriedSeries, Timers, pane_of};

/// A shard as it was.
struct OldLayout {
    settings: Arc<Settings>,
    plans: Arc<[WindowPlan]>,
    panes: PaneStore,
    marks: Vec<Marks>,
    young: BTreeMap<(u32, u32), AddedWindow>,
    /// For each window now, which it was.
    kept: Vec<Option<usize>>,
}

/// A series' panes as they were.
struct PaneSource<'a> {
    record: &'a PaneRecord,
    base: Ring,
    /// Base panes after this are held.
    base_from: i64,
    /// Rings of coarser panes, the coarsest first, and from when on each is held.
    rings: Vec<(Ring, i64)>,
    /// Whether late samples find all base panes of a pane of `hop` that they may fall into.
    settled: i64,
    /// The newest sample.
    newest: i64,
}

impl PaneSource<'_> {
    /// Whether base panes as they were make up panes of this hop.
    fn divides(&self, hop_ms: i64) -> bool {
        hop_ms % self.base.pane_ms == 0
    }

    /// Whether panes of this hop may be made of coarser ones: only if a late sample finds all of its base panes.
    fn coarser(&self, hop_ms: i64) -> bool {
        self.base_from <= (pane_of(self.settled, hop_ms) - 1) * hop_ms
    }

    /// The rings that panes of this hop can be made of, and from when on.
    fn rings(&self, hop_ms: i64) -> impl Iterator<Item = (Ring, i64)> {
        let coarser = self.coarser(hop_ms).then(|| self.rings.iter().copied());
        let base = self.divides(hop_ms).then_some((self.base, self.base_from));
        coarser.into_iter().flatten().filter(move |(ring, _)| hop_ms % ring.pane_ms == 0).chain(base)
    }

    /// The pane of this number, if its ring holds it and still reaches back to it: what lies there of older panes depends
    /// on when the ring was loaded.
    fn held_pane(&self, ring: &Ring, number: i64) -> Option<Moments> {
        let reached = number >= ring.oldest(pane_of(self.newest, ring.pane_ms));
        reached.then(|| self.record.pane(ring, number)).filter(|pane| !pane.is_empty())
    }

    /// The pane of `hop_ms` with this number, if all of it was held.
    fn pane(&self, hop_ms: i64, number: i64) -> Option<Moments> {
        let (ring, _) = self.rings(hop_ms).find(|(_, from)| *from <= (number - 1) * hop_ms)?;
        let parts = hop_ms / ring.pane_ms;
        Some(panes::folded(self.record, &ring, (number - 1) * parts + 1, parts, number))
    }
}

impl Windows {
    /// Carries everything over to other settings.
    pub(super) fn carry_over(&mut self, settings: &Arc<Settings>, batch: &AdmittedBatch) {
        let layout = Layout::new(settings);
        let plans: Arc<[WindowPlan]> = layout.plans.as_slice().into();
        let same = layout.base == self.panes.base && plans == self.plans;
        let was = |plan: &WindowPlan| {
            let mut old = self.plans.iter();
            old.position(|was| (was.length_ms, was.hop_ms) == (plan.length_ms, plan.hop_ms))
        };
        let kept: Vec<Option<usize>> = plans.iter().map(was).collect();
        let before_settings = std::mem::replace(&mut self.settings, Arc::clone(settings));
        if settings.allowed_lateness_ms > before_settings.allowed_lateness_ms {
            // Late samples may now touch panes that were saved as sealed.
            self.sealing = Sealing::anew(self.heads.len());
        }
        if !same {
            let marks = vec![Marks::NEW; self.heads.len() * plans.len()];
            let mut panes = PaneStore::new(&layout);
            for (head, slot) in self.heads.iter_mut().zip(0..) {
                panes.add_slot();
                head.store_pane(slot, &mut self.panes);
                head.pane_end = NEVER;
            }
            let mut before = OldLayout {
                settings: before_settings,
                plans: std::mem::replace(&mut self.plans, plans),
                panes: std::mem::replace(&mut self.panes, panes),
                marks: std::mem::replace(&mut self.marks, marks),
                young: std::mem::take(&mut self.added),
                kept,
            };
            let newest = batch.carried.iter().map(|carried| self.heads[carried.slot as usize].newest);
            self.reshaped_to = newest.max().unwrap_or(NEVER).max(self.reshaped_to);
            for carried in &batch.carried {
                let series = self.heads[carried.slot as usize].series;
                self.position.on(series);
                #[cfg(feature = "faults")]
                crate::faults::check_settings(series.0);
                self.carry(&mut before, carried, batch);
            }
            self.prefill.values_mut().for_each(|held| held.carry(&before.kept));
            self.reopened.clear();
            self.sealing = Sealing::anew(self.heads.len());
        }
        // Other waits: every timer is set anew.
        self.timers = Timers::default();
        for carried in &batch.carried {
            let slot = carried.slot;
            let newest = self.heads[slot as usize].newest;
            if newest != NEVER && self.bootstraps(slot) && !mutant(Mutant::LoweredAllowedLatenessNotPassed) {
                // Rings reach back over the new lateness only: keys before that are passed, as samples to come pass them.
                self.pass(slot, newest - self.settings.allowed_lateness_ms - self.panes.base.pane_ms, newest);
            }
            self.heads[slot as usize].armed = i64::MAX;
            self.arm(slot);
        }
    }

    /// Carries one series over.
    fn carry(&mut self, before: &mut OldLayout, carried: &CarriedSeries, batch: &AdmittedBatch) {
        let slot = carried.slot;
        let newest = self.heads[slot as usize].newest;
        for (w, was) in before.kept.iter().enumerate() {
            let young = was.and_then(|was| before.young.get(&(slot, was as u32)));
            self.added.extend(young.map(|young| ((slot, w as u32), *young)));
        }
        if newest != NEVER {
            self.carry_panes(before, carried, batch);
        } else if carried.newest_ms != NEVER && !mutant(Mutant::AddedNotMuted) {
            // Before a bootstrap it may have published keys of a window that was there once.
            for (w, plan) in self.plans.iter().enumerate().filter(|(w, _)| before.kept[*w].is_none()) {
                let mute_to = mute_to(carried, plan, batch);
                self.added.insert((slot, w as u32), AddedWindow { known_from: NEVER, mute_to });
            }
        }
        self.sum_up(slot);
        let keys = &mut self.keys[slot as usize];
        let now = |was: usize| before.kept.iter().position(|kept| *kept == Some(was));
        let revised = std::mem::take(&mut keys.revised).into_iter();
        keys.revised = revised.filter_map(|((at, was), revised)| Some(((at, now(was)?), revised))).collect();
    }

    /// What the marks of all windows of a series come to.
    pub(super) fn sum_up(&mut self, slot: u32) {
        let newest = self.heads[slot as usize].newest;
        let plans = Arc::clone(&self.plans);
        let (mut next_key, mut open_key, mut sealed) = (i64::MAX, i64::MAX, NEVER);
        for (w, plan) in plans.iter().enumerate().filter(|_| newest != NEVER) {
            let closed = self.marks(slot, w).closed;
            next_key = next_key.min(closed + plan.hop_ms);
            if closed < plan.last_key(newest) {
                open_key = open_key.min(closed + plan.hop_ms);
            }
            sealed = sealed.max(closed);
        }
        let head = &mut self.heads[slot as usize];
        (head.next_key, head.open_key, head.sealed) = (next_key, open_key, sealed);
    }

    fn carry_panes(&mut self, before: &mut OldLayout, carried: &CarriedSeries, batch: &AdmittedBatch) {
        let (slot, plans) = (carried.slot, Arc::clone(&self.plans));
        let newest = self.heads[slot as usize].newest;
        let whole = carried.raw_from_ms == NEVER;
        let of = slot as usize * before.plans.len();
        let marks: Vec<Marks> = before.marks[of..of + before.plans.len()].to_vec();
        let young = |was: usize| AddedWindow::of(&before.young, slot, was);
        // As far as there are samples, so that all of them are in what is copied.
        for (was, plan) in before.plans.iter().enumerate() {
            let (mut built, floor) = (marks[was].built, young(was).floor(plan));
            let at_ms = pane_of(newest, plan.hop_ms) * plan.hop_ms;
            let span = PaneSpan { floor, newest_ms: newest };
            before.panes.series(slot, None).build(plan, &mut built, at_ms, span);
        }
        let base = before.panes.base;
        let base_from = (pane_of(newest, base.pane_ms) - base.length) * base.pane_ms;
        let left = self.base_from.remove(&slot).unwrap_or(BaseLimit { from: NEVER, sealed_to: NEVER });
        let base_from = base_from.max(left.from);
        let ring = |(was, plan): (usize, &WindowPlan)| {
            let from = (pane_of(newest, plan.hop_ms) - plan.panes) * plan.hop_ms;
            let from = if whole { NEVER } else { from.max(young(was).known_from) };
            (plan.parts > 1).then_some((plan.ring, from))
        };
        let mut rings: Vec<_> = before.plans.iter().enumerate().filter_map(ring).collect();
        rings.sort_by_key(|(ring, from)| (std::cmp::Reverse(ring.pane_ms), *from));
        let source = PaneSource {
            record: before.panes.of(slot),
            base,
            base_from: if whole { NEVER } else { base_from },
            rings,
            settled: newest - before.settings.allowed_lateness_ms,
            newest,
        };
        self.carry_base(&source, carried, batch);
        let raw_from =
            if self.panes.base.pane_ms == before.panes.base.pane_ms { NEVER } else { carried.raw_from_ms };
        let base = BaseLimit { from: base_from.max(raw_from), sealed_to: source.settled.max(left.sealed_to) };
        if !whole && !self.outgrown(slot, base) {
            self.base_from.insert(slot, base);
        }
        for (w, plan) in plans.iter().enumerate() {
            match before.kept[w] {
                Some(was) => self.keep(slot, w, (&before.plans[was], &marks[was]), &source),
                None => self.add(carried, w, plan, &source, batch),
            }
        }
    }

    /// Whether the base ring reaches no further back than what is held, and no late sample so far.
    fn outgrown(&self, slot: u32, base: BaseLimit) -> bool {
        let newest = self.heads[slot as usize].newest;
        let reach =
            (pane_of(newest, self.panes.base.pane_ms) - self.panes.base.length) * self.panes.base.pane_ms;
        base.from <= reach && base.sealed_to <= newest - self.settings.allowed_lateness_ms
    }

    /// The base ring.
    fn carry_base(&mut self, source: &PaneSource, carried: &CarriedSeries, batch: &AdmittedBatch) {
        let ring = self.panes.base;
        let newest = self.heads[carried.slot as usize].newest;
        let last = pane_of(newest, ring.pane_ms);
        let own = self.plans.iter().any(|plan| plan.parts == 1);
        let record = self.panes.of_mut(carried.slot);
        if ring.pane_ms == source.base.pane_ms {
            return copy(source.record, &source.base, record, &ring, last);
        }
        if carried.raw_from_ms != NEVER {
            let upto = if own { carried.raw_from_ms.div_euclid(ring.pane_ms).min(last - 1) } else { NEVER };
            let made = older(source, record, &ring, ring.oldest(last)..=upto);
            let upto = pane_of(carried.raw_from_ms.min(newest), source.base.pane_ms);
            for number in source.base.oldest(upto)..=upto {
                let Some(pane) = source.held_pane(&source.base, number) else { continue };
                let to = pane_of((number * source.base.pane_ms).min(newest), ring.pane_ms);
                if !made.contains(&to) {
                    add(record, &ring, last, to, |all| *all = all.then(&pane));
                }
            }
        }
        for i in carried.raw.0 as usize..carried.raw.1 as usize {
            let (at, value) = (batch.raw_at_ms[i], batch.raw_value[i]);
            add(record, &ring, last, pane_of(at, ring.pane_ms), |all| all.push(at, value));
        }
    }

    /// A window that goes on.
    fn keep(&mut self, slot: u32, w: usize, (old, marks): (&WindowPlan, &Marks), source: &PaneSource) {
        let plan = self.plans[w];
        let last = pane_of(self.heads[slot as usize].newest, plan.hop_ms);
        // The pane of the newest sample is built anew, of the new base panes: whether it had been built before is chance.
        let built = BuildProgress::before(last);
        *self.marks(slot, w) = Marks { built, ..*marks };
        if plan.parts > 1 {
            copy(source.record, &old.ring, self.panes.of_mut(slot), &plan.ring, last);
        }
    }

    /// A window that is added.
    fn add(
        &mut self,
        carried: &CarriedSeries,
        w: usize,
        plan: &WindowPlan,
        source: &PaneSource,
        batch: &AdmittedBatch,
    ) {
        let (slot, hop_ms) = (carried.slot, plan.hop_ms);
        let newest = self.heads[slot as usize].newest;
        let from = source.rings(hop_ms).map(|(_, from)| from).min().unwrap_or(carried.raw_from_ms);
        let young = AddedWindow {
            known_from: if from == NEVER { NEVER } else { pane_of(from, hop_ms) * hop_ms },
            mute_to: mute_to(carried, plan, batch),
        };
        let last = pane_of(newest, hop_ms);
        *self.marks(slot, w) =
            Marks { closed: young.mute_to, silent: NEVER, built: BuildProgress::before(last) };
        self.added.insert((slot, w as u32), young);
        if plan.parts == 1 {
            return;
        }
        let record = self.panes.of_mut(slot);
        if source.divides(hop_ms) {
            for number in young.floor(plan).saturating_add(1).max(plan.ring.oldest(last))..=last {
                if let Some(pane) = source.pane(hop_ms, number).filter(|pane| !pane.is_empty()) {
                    record.set_pane(&plan.ring, number, &pane);
                }
            }
            return;
        }
        for i in carried.raw.0 as usize..carried.raw.1 as usize {
            let (at, value) = (batch.raw_at_ms[i], batch.raw_value[i]);
            if at > young.known_from {
                add(record, &plan.ring, last, pane_of(at, hop_ms), |all| all.push(at, value));
            }
        }
    }

    /// Forgets what an added window of this series is held to once none of its keys can show it any more.
    pub(super) fn grow(&mut self, slot: u32) {
        if !self.added.is_empty() {
            let reach = self.heads[slot as usize].newest
                - self.settings.allowed_lateness_ms
                - self.panes.base.pane_ms;
            for (w, plan) in self.plans.iter().enumerate() {
                let over = |young: &mut AddedWindow| {
                    let shown = young.known_from.saturating_add(plan.length_ms);
                    reach > shown.max(young.mute_to.saturating_add(plan.hop_ms))
                };
                if self.added.get_mut(&(slot, w as u32)).is_some_and(over) {
                    self.added.remove(&(slot, w as u32));
                }
            }
        }
        if !self.base_from.is_empty()
            && self.base_from.get(&slot).is_some_and(|base| self.outgrown(slot, *base))
        {
            self.base_from.remove(&slot);
        }
    }

    /// The state of the series begins anew: nothing is missing in its panes.
    pub(super) fn made_whole(&mut self, slot: u32) {
        self.base_from.remove(&slot);
        self.added.range_mut((slot, 0)..=(slot, u32::MAX)).for_each(|(_, young)| young.known_from = NEVER);
    }

    /// A slot is free.
    pub(super) fn forget_young(&mut self, slot: u32) {
        self.base_from.remove(&slot);
        for w in 0..self.plans.len() as u32 {
            self.added.remove(&(slot, w));
        }
    }

    /// What a window of a series is held to.
    #[inline]
    pub(super) fn added_window(&self, slot: u32, w: usize) -> AddedWindow {
        AddedWindow::of(&self.added, slot, w)
    }
}

/// The last key of an added window that lay in the past when it was added.
pub(super) fn mute_to(carried: &CarriedSeries, plan: &WindowPlan, batch: &AdmittedBatch) -> i64 {
    carried.newest_ms.max(batch.end.watermark_ms).div_euclid(plan.hop_ms) * plan.hop_ms
}

/// Puts into the base ring what only rings of coarser panes hold, as far back as windows need it that have their panes
/// there; the numbers of the panes made.
fn older(
    source: &PaneSource,
    record: &mut PaneRecord,
    ring: &Ring,
    numbers: std::ops::RangeInclusive<i64>,
) -> Vec<i64> {
    let (mut made, base_ms) = (Vec::new(), ring.pane_ms);
    for number in numbers.take_while(|number| (number - 1) * base_ms < source.base_from) {
        let kept = source.rings.iter().filter(|(ring, _)| ring.pane_ms == base_ms);
        let kept = kept.filter_map(|(ring, _)| source.held_pane(ring, number)).next();
        if let Some(pane) = kept.or_else(|| source.pane(base_ms, number)).filter(|pane| !pane.is_empty()) {
            record.set_pane(ring, number, &pane);
            made.push(number);
        }
    }
    made
}

/// Copies what one ring holds up to the pane `last` into another.
fn copy(old: &PaneRecord, was: &Ring, new: &mut PaneRecord, ring: &Ring, last: i64) {
    for number in last - was.length.min(ring.length) + 1..=last {
        let pane = old.pane(was, number);
        if !pane.is_empty() {
            new.set_pane(ring, number, &pane);
        }
    }
}

/// Changes a pane of a ring whose newest pane is `last`.
fn add(record: &mut PaneRecord, ring: &Ring, last: i64, number: i64, change: impl FnOnce(&mut Moments)) {
    if number < ring.oldest(last) {
        return;
    }
    let mut pane = record.pane(ring, number);
    change(&mut pane);
    record.set_pane(ring, number, &pane);
}
