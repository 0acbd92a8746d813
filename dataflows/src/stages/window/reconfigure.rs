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

use super::panes::{self, BuildProgress, Layout, PaneRecords, PaneSpan, WindowPlan};
use super::{
    AdmittedBatch, Arc, BTreeMap, Marks, Moments, NEVER, Sealing, Settings, Timers, WORDS, Windows, pane_of,
};
use crate::mutants::{Mutant, mutant};
use crate::shard::{CarriedSeries, Flat};

/// What an added window of a series is held to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct AddedWindow {
    /// Its samples are newer than this, a multiple of its hop; `NEVER` if it has all of them.
    pub(super) known_from: i64,
    /// Keys at or before this are never answered.
    pub(super) mute_to: i64,
}

impl AddedWindow {
    /// Of a window that was not added.
    pub(super) const GROWN: AddedWindow = AddedWindow { known_from: NEVER, mute_to: NEVER };

    /// That of a window of a series.
    pub(super) fn of(young: &BTreeMap<(u32, u32), AddedWindow>, slot: u32, w: usize) -> AddedWindow {
        match young.is_empty() {
            true => AddedWindow::GROWN,
            false => young.get(&(slot, w as u32)).copied().unwrap_or(AddedWindow::GROWN),
        }
    }

    /// The newest pane that is not the window's.
    pub(super) fn floor(&self, plan: &WindowPlan) -> i64 {
        if self.known_from == NEVER { NEVER } else { self.known_from / plan.hop_ms }
    }
}

/// What a change of settings left of the base panes of a series.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BaseLimit {
    /// They are held after this.
    pub(super) from: i64,
    /// No late sample is older than this.
    pub(super) sealed_to: i64,
}

/// A shard as it was.
struct OldLayout {
    settings: Arc<Settings>,
    base_ms: i64,
    base_ring: i64,
    plans: Arc<[WindowPlan]>,
    records: Flat<WORDS>,
    marks: Vec<Marks>,
    young: BTreeMap<(u32, u32), AddedWindow>,
    /// For each window now, which it was.
    kept: Vec<Option<usize>>,
}

/// A series' panes as they were.
struct PaneSource<'a> {
    record: &'a PaneRecords,
    base_ms: i64,
    base_ring: (usize, i64),
    /// Base panes after this are held.
    base_from: i64,
    /// Rings of coarser panes, the coarsest first: each with its hop, and from when on it is held.
    rings: Vec<((usize, i64), i64, i64)>,
    /// Whether late samples find all base panes of a pane of `hop` that they may fall into.
    settled: i64,
    /// The newest sample.
    newest: i64,
}

impl PaneSource<'_> {
    /// Whether base panes as they were make up panes of this hop.
    fn divides(&self, hop_ms: i64) -> bool {
        hop_ms % self.base_ms == 0
    }

    /// Whether panes of this hop may be made of coarser ones: only if a late sample finds all of its base panes.
    fn coarser(&self, hop_ms: i64) -> bool {
        self.base_from <= (pane_of(self.settled, hop_ms) - 1) * hop_ms
    }

    /// The rings that panes of this hop can be made of: place, hop, and from when on.
    fn rings(&self, hop_ms: i64) -> impl Iterator<Item = ((usize, i64), i64, i64)> {
        let coarser = self.coarser(hop_ms).then(|| self.rings.iter().copied());
        let base = self.divides(hop_ms).then_some((self.base_ring, self.base_ms, self.base_from));
        coarser.into_iter().flatten().filter(move |(_, hop, _)| hop_ms % hop == 0).chain(base)
    }

    /// The pane of this number, if its ring holds it and still reaches back to it: what lies there of older panes depends
    /// on when the ring was loaded.
    fn held_pane(&self, ring: (usize, i64), pane_ms: i64, number: i64) -> Option<Moments> {
        let reached = number > pane_of(self.newest, pane_ms) - ring.1;
        if reached { held(self.record, ring, number) } else { None }
    }

    /// The pane of `hop_ms` with this number, if all of it was held.
    fn pane(&self, hop_ms: i64, number: i64) -> Option<Moments> {
        let (ring, hop, _) = self.rings(hop_ms).find(|(_, _, from)| *from <= (number - 1) * hop_ms)?;
        let parts = hop_ms / hop;
        Some(panes::folded(self.record, ring, (number - 1) * parts + 1, parts, number))
    }
}

impl Windows {
    /// Carries everything over to other settings.
    pub(super) fn carry_over(&mut self, settings: &Arc<Settings>, batch: &AdmittedBatch) {
        let layout = Layout::new(settings);
        let plans: Arc<[WindowPlan]> = layout.plans.into();
        let same =
            (layout.base_ms, layout.base_ring) == (self.base_ms, self.base_ring) && plans == self.plans;
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
            let mut before = OldLayout {
                settings: before_settings,
                base_ms: std::mem::replace(&mut self.base_ms, layout.base_ms),
                base_ring: std::mem::replace(&mut self.base_ring, layout.base_ring),
                plans: std::mem::replace(&mut self.plans, plans),
                records: std::mem::replace(&mut self.records, Flat::new(layout.records)),
                marks: std::mem::replace(&mut self.marks, marks),
                young: std::mem::take(&mut self.added),
                kept,
            };
            if let Some(last) = self.heads.len().checked_sub(1) {
                self.records.reserve(last as u32);
            }
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
                self.pass(slot, newest - self.settings.allowed_lateness_ms - self.base_ms, newest);
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
        let head = &mut self.heads[slot as usize];
        let now = |was: usize| before.kept.iter().position(|kept| *kept == Some(was));
        let revised = std::mem::take(&mut head.revised).into_iter();
        head.revised = revised.filter_map(|((at, was), revised)| Some(((at, now(was)?), revised))).collect();
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
        let record = before.records.of_mut(slot);
        for (was, plan) in before.plans.iter().enumerate() {
            let (mut built, floor) = (marks[was].built, young(was).floor(plan));
            let at_ms = pane_of(newest, plan.hop_ms) * plan.hop_ms;
            panes::build(
                record,
                plan,
                &mut built,
                before.base_ring,
                at_ms,
                PaneSpan { floor, newest_ms: newest },
            );
        }
        let base_from = (pane_of(newest, before.base_ms) - before.base_ring) * before.base_ms;
        let left = self.base_from.remove(&slot).unwrap_or(BaseLimit { from: NEVER, sealed_to: NEVER });
        let base_from = base_from.max(left.from);
        let ring = |(was, plan): (usize, &WindowPlan)| {
            let from = (pane_of(newest, plan.hop_ms) - plan.panes) * plan.hop_ms;
            let from = if whole { NEVER } else { from.max(young(was).known_from) };
            (plan.parts > 1).then_some((plan.ring, plan.hop_ms, from))
        };
        let mut rings: Vec<_> = before.plans.iter().enumerate().filter_map(ring).collect();
        rings.sort_by_key(|(_, hop_ms, from)| (std::cmp::Reverse(*hop_ms), *from));
        let source = PaneSource {
            record,
            base_ms: before.base_ms,
            base_ring: (0, before.base_ring),
            base_from: if whole { NEVER } else { base_from },
            rings,
            settled: newest - before.settings.allowed_lateness_ms,
            newest,
        };
        self.carry_base(&source, carried, batch);
        let raw_from = if self.base_ms == before.base_ms { NEVER } else { carried.raw_from_ms };
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
        let reach = (pane_of(newest, self.base_ms) - self.base_ring) * self.base_ms;
        base.from <= reach && base.sealed_to <= newest - self.settings.allowed_lateness_ms
    }

    /// The base ring, and where the newest sample is in it.
    fn carry_base(&mut self, source: &PaneSource, carried: &CarriedSeries, batch: &AdmittedBatch) {
        let (base_ms, ring) = (self.base_ms, (0, self.base_ring));
        let head = &mut self.heads[carried.slot as usize];
        let last = pane_of(head.newest, base_ms);
        (head.pane_end, head.pane_at) = (last * base_ms, last.rem_euclid(ring.1) as usize);
        let own = self.plans.iter().any(|plan| plan.parts == 1);
        let record = self.records.of_mut(carried.slot);
        if base_ms == source.base_ms {
            return copy(source.record, source.base_ring, record, ring, last);
        }
        let newest = head.newest;
        if carried.raw_from_ms != NEVER {
            let upto = if own { carried.raw_from_ms.div_euclid(base_ms).min(last - 1) } else { NEVER };
            let made = older(source, record, ring, last - ring.1 + 1..=upto, base_ms);
            let upto = pane_of(carried.raw_from_ms.min(newest), source.base_ms);
            for number in upto - source.base_ring.1 + 1..=upto {
                let Some(pane) = source.held_pane(source.base_ring, source.base_ms, number) else { continue };
                let to = pane_of((number * source.base_ms).min(newest), base_ms);
                if !made.contains(&to) {
                    add(record, ring, last, to, |all| *all = all.then(&pane));
                }
            }
        }
        for i in carried.raw.0 as usize..carried.raw.1 as usize {
            let (at, value) = (batch.raw_at_ms[i], batch.raw_value[i]);
            add(record, ring, last, pane_of(at, base_ms), |all| all.push(at, value));
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
            copy(source.record, old.ring, self.records.of_mut(slot), plan.ring, last);
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
        let from = source.rings(hop_ms).map(|(.., from)| from).min().unwrap_or(carried.raw_from_ms);
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
        let record = self.records.of_mut(slot);
        if source.divides(hop_ms) {
            for number in young.floor(plan).saturating_add(1).max(last - plan.ring.1 + 1)..=last {
                if let Some(pane) = source.pane(hop_ms, number).filter(|pane| !pane.is_empty()) {
                    record[plan.ring.0 + place(plan.ring, number)] = pane.to_words();
                }
            }
            return;
        }
        for i in carried.raw.0 as usize..carried.raw.1 as usize {
            let (at, value) = (batch.raw_at_ms[i], batch.raw_value[i]);
            if at > young.known_from {
                add(&mut record[plan.ring.0..], plan.ring, last, pane_of(at, hop_ms), |all| {
                    all.push(at, value)
                });
            }
        }
    }

    /// Forgets what an added window of this series is held to once none of its keys can show it any more.
    pub(super) fn grow(&mut self, slot: u32) {
        if !self.added.is_empty() {
            let reach = self.heads[slot as usize].newest - self.settings.allowed_lateness_ms - self.base_ms;
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
    record: &mut PaneRecords,
    ring: (usize, i64),
    numbers: std::ops::RangeInclusive<i64>,
    base_ms: i64,
) -> Vec<i64> {
    let mut made = Vec::new();
    for number in numbers.take_while(|number| (number - 1) * base_ms < source.base_from) {
        let kept = source.rings.iter().filter(|(_, hop_ms, _)| *hop_ms == base_ms);
        let kept = kept.filter_map(|(ring, ..)| source.held_pane(*ring, base_ms, number)).next();
        if let Some(pane) = kept.or_else(|| source.pane(base_ms, number)).filter(|pane| !pane.is_empty()) {
            record[place(ring, number)] = pane.to_words();
            made.push(number);
        }
    }
    made
}

/// Where a ring has a pane, from its first entry on.
fn place((_, length): (usize, i64), number: i64) -> usize {
    number.rem_euclid(length) as usize
}

/// The pane of this number, if the ring holds it.
fn held(record: &PaneRecords, ring: (usize, i64), number: i64) -> Option<Moments> {
    let words = &record[ring.0 + place(ring, number)];
    panes::holds(words, number).then(|| Moments::from_words(words))
}

/// Copies what one ring holds up to the pane `last` into another.
fn copy(old: &PaneRecords, was: (usize, i64), new: &mut PaneRecords, ring: (usize, i64), last: i64) {
    for number in last - was.1.min(ring.1) + 1..=last {
        if let Some(pane) = held(old, was, number) {
            new[ring.0 + place(ring, number)] = pane.to_words();
        }
    }
}

/// Changes a pane of a ring, given from its first entry on, whose newest pane is `last`.
fn add(
    ring_on: &mut PaneRecords,
    ring: (usize, i64),
    last: i64,
    number: i64,
    change: impl FnOnce(&mut Moments),
) {
    if number <= last - ring.1 {
        return;
    }
    let words = &mut ring_on[place(ring, number)];
    let mut pane = if panes::holds(words, number) { Moments::from_words(words) } else { Moments::EMPTY };
    change(&mut pane);
    *words = Moments { tag: number as u32, ..pane }.to_words();
}
