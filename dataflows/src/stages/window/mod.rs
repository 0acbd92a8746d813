//! `window`: the statistics of sliding windows, kept in panes, with corrections and revisions.
//!
//! ```text
//!  Admitted, one per epoch and shard ──local──► [ window ×workers ] ──► WindowStats, first answers and corrections
//! ```
//!
//! How a window is put together from panes is in [`panes`].
//!
//! # Which keys are answered when
//! docs/semantics.md, Closing and Late samples; `tests/oracle` holds the rules once more, slowly.
//!
//! # State
//! What every sample touches is a dense array by slot (`heads`): the open base pane and when something closes. What only
//! the end of a pane touches lies apart: the packed panes ([`record`]), and per window a head and marks (`marks`).
//! Per series 270 bytes; per window some 500 bytes of marks and partial folds, `(length + lateness) / hop + 2` packed panes
//! (none of its own where the hop is the base pane), and some packed tails; and base panes for lateness and the longest hop. A
//! packed pane takes 20 bytes of a constant, 30 to 45 of a counter, 47 to 75 of a gauge.

mod check;
mod clock;
mod explain;
mod late;
mod open;
mod panes;
mod prefill;
mod rebuild;
mod reconfigure;
mod record;
pub mod row;
mod snapshot;
mod stage;
mod state;

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use self::panes::{BuildProgress, Layout, PaneCopy, PaneSpan, PaneStore};
pub use self::stage::SPEC;
pub use self::state::Windows;
use self::state::{AddedWindow, Marks, NEVER, RevisedKey, SeriesHead, SeriesKeys};
use crate::kernels::moments::Moments;
use crate::mutants::{Mutant, mutant};
use crate::rows::Rows;
use crate::seal::Sealing;
use crate::settings::Settings;
use crate::shard::{AdmittedBatch, LatePane, SlotAssignment, Timers, pane_of, wait_ms};

/// Bytes that a packed pane is reckoned with: the widest of a gauge with all digits.
const PANE_BYTES: usize = 66;
impl Windows {
    /// An empty shard.
    pub fn new(settings: Arc<Settings>) -> Self {
        let layout = Layout::new(&settings);
        Windows {
            panes: PaneStore::new(&layout),
            plans: layout.plans.into(),
            heads: Vec::new(),
            keys: Vec::new(),
            marks: Vec::new(),
            timers: Timers::default(),
            prefill: BTreeMap::new(),
            sealing: Sealing::default(),
            added: BTreeMap::new(),
            base_from: BTreeMap::new(),
            reshaped_to: NEVER,
            due: Vec::new(),
            is_collected: false,
            dirty: Vec::new(),
            reopened: Vec::new(),
            position: Arc::default(),
            settings,
        }
    }

    /// Bytes that one series takes once its rings are full, of panes that take as much as those of most gauges.
    pub fn series_bytes(settings: &Settings) -> usize {
        let layout = Layout::new(settings);
        let fixed = size_of::<SeriesHead>() + size_of::<SeriesKeys>() + 64;
        let panes = layout.shape.entries() * PANE_BYTES + layout.partials * size_of::<Moments>();
        panes + fixed + layout.plans.len() * size_of::<Marks>()
    }

    /// Takes the slots that are due.
    fn collect_due(&mut self, watermark_ms: i64) {
        while let Some((bucket, slots)) = self.timers.due(watermark_ms) {
            for slot in slots {
                let armed = &mut self.heads[slot as usize].armed;
                if Timers::bucket(*armed) == bucket {
                    *armed = i64::MAX;
                    self.due.push(slot);
                }
            }
        }
    }

    fn forget_slot(&mut self, slot: u32) {
        let head = &mut self.heads[slot as usize];
        (head.armed, head.pane_end, head.stored) = (i64::MAX, NEVER, true);
        self.keys[slot as usize].revised = BTreeMap::new();
        self.panes.clear(slot);
        self.prefill.remove(&slot);
        self.forget_young(slot);
    }

    fn give(&mut self, given: &SlotAssignment) {
        let slot = given.slot as usize;
        let (head, keys) = (SeriesHead::new(given.series), SeriesKeys::new(given.withhold_ms));
        if slot < self.heads.len() {
            (self.heads[slot], self.keys[slot]) = (head, keys);
            self.clear(given.slot);
        } else {
            debug_assert_eq!(slot, self.heads.len(), "admit gives new slots in order");
            self.heads.push(head);
            self.keys.push(keys);
            self.panes.add_slot();
            self.marks.extend(std::iter::repeat_n(Marks::NEW, self.plans.len()));
            self.sealing.begin(given.slot);
        }
    }

    /// Forgets all samples of a slot.
    fn clear(&mut self, slot: u32) {
        self.panes.clear(slot);
        self.marks[slot as usize * self.plans.len()..][..self.plans.len()].fill(Marks::NEW);
        self.sealing.begin(slot);
    }

    /// Applies one series' samples of one epoch: late panes, then new samples, then corrections.
    fn apply(
        &mut self,
        slot: u32,
        late: &[LatePane],
        batch: &AdmittedBatch,
        new: Range<usize>,
        out: &mut Rows,
    ) {
        #[cfg(feature = "faults")]
        if let Some(newest) = batch.at_ms[new.clone()].last() {
            crate::faults::check(self.heads[slot as usize].series.0, *newest);
        }
        if !late.is_empty() {
            self.refold(slot, late, batch);
            // Keys before the first new sample are final now, and their panes still held.
            let before = new.clone().next().map_or(i64::MAX, |i| batch.at_ms[i]);
            self.correct(slot, late, batch, new.clone(), before, out);
        }
        if self.ended(slot) {
            self.release(slot, out);
        }
        let mut at_hand = new.start;
        while at_hand < new.end {
            let at = batch.at_ms[at_hand];
            let head = &self.heads[slot as usize];
            if head.newest == NEVER {
                self.begin(slot, at);
            } else if at > head.next_key || at <= head.sealed {
                self.advance(slot, at, out);
            }
            at_hand = self.push(slot, (&batch.at_ms, &batch.value), at_hand..new.end);
        }
        self.heads[slot as usize].last_applied_ms = batch.end.processing_ms;
        if !self.dirty.is_empty() {
            self.correct(slot, late, batch, new, i64::MAX, out);
        }
        self.let_go(slot);
        self.grow(slot);
        self.arm(slot);
    }

    fn begin(&mut self, slot: u32, at: i64) {
        let head = &mut self.heads[slot as usize];
        head.next_key = i64::MAX;
        for (plan, marks) in self.plans.iter().zip(&mut self.marks[slot as usize * self.plans.len()..]) {
            let below = pane_of(at, plan.hop_ms) - 1;
            marks.closed = below * plan.hop_ms;
            marks.built = BuildProgress::before(below + 1);
            head.next_key = head.next_key.min(marks.closed + plan.hop_ms);
            head.sealed = head.sealed.max(marks.closed);
        }
    }

    /// Builds the panes of hops that the newest sample leaves when one at `at` comes, before it does.
    ///
    /// This is the invariant of panes: a pane of a hop that ends before the newest sample's is built, or can be built
    /// of base panes that are held, until the newest sample moves into another base pane. It holds for every way a
    /// sample comes in, so closing, load, a change of settings and bootstraps may leave panes for later.
    fn leave_panes(&mut self, slot: u32, at: i64) {
        let newest_ms = self.heads[slot as usize].newest;
        if newest_ms == NEVER {
            return;
        }
        for w in 0..self.plans.len() {
            let plan = self.plans[w];
            let built = &self.marks[slot as usize * self.plans.len() + w].built;
            if plan.parts == 1 || built.upto().saturating_add(1).saturating_mul(plan.hop_ms) >= at {
                continue;
            }
            let young = self.added_window(slot, w);
            let added = young != AddedWindow::GROWN;
            if mutant(Mutant::PanesLeftBehind) || (added && mutant(Mutant::AddedPanesLeftBehind)) {
                continue;
            }
            let span = PaneSpan { floor: young.floor(&plan), newest_ms };
            let marks = &mut self.marks[slot as usize * self.plans.len() + w];
            let last_ms = (pane_of(at, plan.hop_ms) - 1) * plan.hop_ms;
            let open = self.heads[slot as usize].open_pane(self.panes.base.pane_ms);
            self.panes.series(slot, open).build(&plan, &mut marks.built, last_ms, span);
        }
    }

    /// Folds samples newer than all before them into the base pane of the first, as far as they are in it and close nothing.
    /// The place of the next one.
    #[inline]
    fn push(&mut self, slot: u32, (at_ms, value): (&[i64], &[f64]), samples: Range<usize>) -> usize {
        let first = at_ms[samples.start];
        if first > self.heads[slot as usize].pane_end {
            self.open_pane(slot, first);
        }
        let head = &mut self.heads[slot as usize];
        let upto = head.pane_end.min(head.next_key);
        // By value: through memory each sample would cost half as much again.
        let mut pane = head.pane;
        pane.push(first, value[samples.start]);
        head.newest = first;
        let mut next = samples.start + 1;
        while next < samples.end && at_ms[next] <= upto {
            head.newest = at_ms[next];
            pane.push(head.newest, value[next]);
            next += 1;
        }
        head.pane = pane;
        head.stored = false;
        head.open_key = head.next_key; // every open key from here on may hold these samples
        next
    }

    /// Reads the panes that a sample at `at` needs first, if it closes something.
    fn approach_panes(&self, slot: u32, at: i64) {
        let head = &self.heads[slot as usize];
        if at <= head.pane_end || head.pane_end == NEVER {
            return;
        }
        let marks = &self.marks[slot as usize * self.plans.len()..];
        let windows = self.plans.iter().zip(marks).map(|(plan, marks)| {
            let key = marks.closed.saturating_add(plan.hop_ms);
            (plan, (at > key).then_some(key))
        });
        self.panes.approach(slot, head.pane_end / self.panes.base.pane_ms, windows);
    }

    /// Opens the base pane of a sample that is newer than all before it: the one the newest sample is in, or the next.
    fn open_pane(&mut self, slot: u32, at: i64) {
        self.store_pane(slot);
        self.leave_panes(slot, at);
        let (base, head) = (self.panes.base, &self.heads[slot as usize]);
        let (number, newest) = (pane_of(at, base.pane_ms), head.newest);
        let mut panes = self.panes.series(slot, head.open_pane(base.pane_ms));
        for (plan, marks) in self.plans.iter().zip(&mut self.marks[slot as usize * self.plans.len()..]) {
            panes.close_base(plan, &mut marks.built, (at, newest));
        }
        let goes_on = newest != NEVER && pane_of(newest, base.pane_ms) == number;
        let head = &mut self.heads[slot as usize];
        head.pane = if goes_on { self.panes.of(slot).pane(&base, number) } else { Moments::EMPTY };
        head.pane.tag = number as u32;
        head.pane_end = number * base.pane_ms;
    }

    /// Writes the open pane into the record, so that the record holds every sample.
    #[inline]
    fn store_pane(&mut self, slot: u32) {
        self.heads[slot as usize].store_pane(slot, &mut self.panes);
    }

    /// A copy of the panes with every sample, to look at.
    fn copy_panes(&self, slot: u32) -> PaneCopy {
        let (mut copy, head) = (self.panes.copy(slot), &self.heads[slot as usize]);
        if let Some((number, pane)) = head.open_pane(self.panes.base.pane_ms).filter(|_| !head.stored) {
            copy.record.set_pane(&self.panes.base, number, pane);
        }
        copy
    }

    /// Closes the keys before a new sample, or reopens what silence had closed beyond it.
    fn advance(&mut self, slot: u32, at: i64, out: &mut Rows) {
        let plans = Arc::clone(&self.plans);
        if at <= self.heads[slot as usize].sealed {
            self.forget_built(slot, at);
        }
        let newest = self.heads[slot as usize].newest;
        let (mut next_key, mut sealed) = (i64::MAX, NEVER);
        for (w, plan) in plans.iter().enumerate() {
            let closed = self.marks(slot, w).closed;
            let below = if closed < at && at <= closed + plan.hop_ms {
                closed
            } else if closed + plan.hop_ms < at && at <= closed + 2 * plan.hop_ms {
                closed + plan.hop_ms
            } else {
                (pane_of(at, plan.hop_ms) - 1) * plan.hop_ms
            };
            if below < closed {
                if let Some(reopened) = self.reopened.get_mut(w) {
                    *reopened = (*reopened).min(below);
                }
            } else {
                self.close_keys(slot, w, closed, below.min(plan.last_key(newest)), out);
            }
            self.marks(slot, w).closed = below;
            next_key = next_key.min(below + plan.hop_ms);
            sealed = sealed.max(below);
        }
        let head = &mut self.heads[slot as usize];
        (head.next_key, head.sealed) = (next_key, sealed);
    }

    /// Closes what may be closed because nothing came; the caller has judged that silence lasted long enough.
    fn silence(&mut self, slot: u32, watermark_ms: i64, out: &mut Rows) {
        let plans = Arc::clone(&self.plans);
        let newest = self.heads[slot as usize].newest;
        let (mut next_key, mut open_key, mut sealed) = (i64::MAX, i64::MAX, NEVER);
        for (w, plan) in plans.iter().enumerate() {
            let last = plan.last_key(newest);
            let upto = (watermark_ms - self.settings.idle_timeout_ms).div_euclid(plan.hop_ms) * plan.hop_ms;
            let closed = self.marks(slot, w).closed;
            let to = upto.min(last);
            if to > closed {
                self.close_keys(slot, w, closed, to, out);
                // Each of these keys holds the newest sample; of an added window that knows none yet, none is answered.
                let known =
                    newest > self.added_window(slot, w).known_from || mutant(Mutant::SilenceCountsAsAnswer);
                let marks = self.marks(slot, w);
                marks.closed = to;
                marks.silent = marks.silent.max(if known { to } else { NEVER });
            }
            let closed = self.marks(slot, w).closed;
            next_key = next_key.min(closed + plan.hop_ms);
            if closed < last {
                open_key = open_key.min(closed + plan.hop_ms);
            }
            sealed = sealed.max(closed);
        }
        let head = &mut self.heads[slot as usize];
        (head.next_key, head.open_key, head.sealed) = (next_key, open_key, sealed);
    }

    /// Closes the keys of one window in `(closed, to]`: each is answered for the first time, or anew after reopening.
    fn close_keys(&mut self, slot: u32, w: usize, closed: i64, to: i64, out: &mut Rows) {
        let plan = self.plans[w];
        let mut at = closed + plan.hop_ms;
        while at <= to {
            if let Some(moments) = self.answer(slot, w, at) {
                let before = self.prefill.get(&slot).and_then(|held| held.count(w, &plan, at));
                let published = at <= self.marks(slot, w).silent || before.is_some();
                // What a key had that was published before a bootstrap; none where it is not known to be the same.
                if !self.unchanged(slot, w, at, moments.count, before) {
                    self.emit(slot, w, at, &moments, published, false, out);
                }
            }
            at += plan.hop_ms;
        }
    }

    /// The moments of the window ending at `at`; `None` if it is empty or withheld.
    fn answer(&mut self, slot: u32, w: usize, at: i64) -> Option<Moments> {
        self.store_pane(slot);
        let (plan, young) = (&self.plans[w], self.added_window(slot, w));
        let floor = young.floor(plan);
        let marks = &mut self.marks[slot as usize * self.plans.len() + w];
        let keys = &self.keys[slot as usize];
        let span = PaneSpan { floor, newest_ms: self.heads[slot as usize].newest };
        let open = self.heads[slot as usize].open_pane(self.panes.base.pane_ms);
        let mut panes = self.panes.series(slot, open);
        let built = panes.build(plan, &mut marks.built, at, span);
        let held = || self.prefill.get(&slot).is_some_and(|held| held.count(w, plan, at).is_some());
        let withheld = at - plan.length_ms < keys.withhold || (at < keys.publish_from && !held());
        if withheld || at <= young.mute_to {
            return None;
        }
        let moments = panes.combine(plan, &mut marks.built, floor, (at, built.as_ref()));
        (!moments.is_empty()).then_some(moments)
    }

    /// Emits an answer with its revision, unless it is the one published last.
    #[allow(clippy::too_many_arguments)]
    fn emit(
        &mut self,
        slot: u32,
        w: usize,
        at: i64,
        moments: &Moments,
        published: bool,
        open: bool,
        out: &mut Rows,
    ) {
        // As far back as the raw ring, for a bootstrap may correct whatever it still holds.
        let kept_ms = self.settings.allowed_lateness_ms + self.panes.base.pane_ms;
        let partial = at - self.plans[w].length_ms < self.added_window(slot, w).known_from;
        let (head, keys) = (&self.heads[slot as usize], &mut self.keys[slot as usize]);
        let revision = match keys.revised.get_mut(&(at, w)) {
            // Samples are only ever added, so the same count is the same answer.
            Some(revised) if revised.count == moments.count => return,
            Some(revised) => {
                revised.revision += 1;
                revised.count = moments.count;
                revised.revision
            }
            None => {
                let revision = u32::from(published);
                if published || open {
                    let from = head.newest - kept_ms;
                    while keys.revised.first_key_value().is_some_and(|((end, _), _)| *end < from) {
                        keys.revised.pop_first();
                    }
                    keys.revised.insert((at, w), RevisedKey { revision, count: moments.count });
                }
                revision
            }
        };
        out.counts.corrections += u64::from(revision > 0);
        out.windows.push(row::of_moments(head.series, &self.plans[w], at, moments, (revision, partial)));
    }

    /// Forgets what was built on the panes that hold `at` or anything newer.
    fn forget_built(&mut self, slot: u32, at: i64) {
        for (plan, marks) in self.plans.iter().zip(&mut self.marks[slot as usize * self.plans.len()..]) {
            marks.built.forget(plan, at);
        }
    }

    /// When silence next closes a key of this series; never, if none of its open keys can hold a sample.
    fn due_ms(&self, slot: u32) -> i64 {
        let head = &self.heads[slot as usize];
        if head.open_key == i64::MAX || self.bootstraps(slot) {
            return i64::MAX;
        }
        let wait = wait_ms(&self.settings, head.last_applied_ms, head.newest);
        (head.open_key + self.settings.idle_timeout_ms).max(head.last_applied_ms.saturating_add(wait))
    }

    fn arm(&mut self, slot: u32) {
        let due = self.due_ms(slot);
        let armed = &mut self.heads[slot as usize].armed;
        if due < *armed {
            *armed = due;
            self.timers.arm(slot, due);
        }
    }

    fn marks(&mut self, slot: u32, w: usize) -> &mut Marks {
        &mut self.marks[slot as usize * self.plans.len() + w]
    }
}
