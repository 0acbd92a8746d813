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
//! Per series 120 bytes and 88 bytes a pane: base panes for lateness and the longest hop; per window
//! `(length + lateness) / hop + 2` panes (none of its own where the hop is the base pane), `m / 8` partial
//! tails, one head, 40 bytes of marks. The default windows come to 20 KB, resident as they fill.

mod check;
mod clock;
mod explain;
mod late;
mod open;
mod panes;
mod prefill;
mod rebuild;
mod reconfigure;
pub mod row;
mod snapshot;
mod stage;

use std::collections::BTreeMap;
use std::sync::Arc;

use self::panes::{BuildProgress, Layout, PaneSpan, WindowPlan};
use self::prefill::PrefillKeys;
use self::reconfigure::{AddedWindow, BaseLimit};
pub use self::stage::SPEC;
use crate::kernels::moments::{Moments, WORDS};
use crate::mutants::{Mutant, mutant};
use crate::rows::Rows;
use crate::sample::SeriesId;
use crate::seal::Sealing;
use crate::settings::Settings;
use crate::shard::{AdmittedBatch, Flat, LatePane, SlotAssignment, Timers, WorkPosition, pane_of, wait_ms};

const NEVER: i64 = i64::MIN;

/// Marks of one window of one series.
#[derive(Clone, Copy, Debug)]
struct Marks {
    /// Every key at or before this is closed.
    closed: i64,
    /// Silence had once closed every key up to this one: a key reopened since was published before.
    silent: i64,
    /// What is built from base panes.
    built: BuildProgress,
}

impl Marks {
    /// Of a slot without samples.
    const NEW: Marks = Marks { closed: NEVER, silent: NEVER, built: BuildProgress::NOTHING };
}

/// One series.
struct WindowSeries {
    series: SeriesId,
    /// Newest applied sample.
    newest: i64,
    /// Processing time of the epoch that last applied one.
    last_applied_ms: i64,
    /// Keys whose window reaches back to before this are withheld.
    withhold: i64,
    /// Keys before this are withheld, unless they were published before a bootstrap.
    publish_from: i64,
    /// The lowest key not closed, over all windows: a sample beyond it closes something.
    next_key: i64,
    /// The lowest key not closed whose window holds a sample: silence may close it. `i64::MAX` for none.
    open_key: i64,
    /// The highest key closed, over all windows.
    sealed: i64,
    /// When the slot's timer fires.
    armed: i64,
    /// Base pane that the newest sample is in: its end and its record.
    pane_end: i64,
    pane_at: usize,
    /// Keys with a revision above 0, or emitted while open, that can still change: by end and window.
    revised: BTreeMap<(i64, usize), RevisedKey>,
}

#[derive(Clone, Copy, Debug)]
struct RevisedKey {
    revision: u32,
    count: u32,
}

/// Bytes of an entry of a revised key, with its share of the tree.
const REVISED_BYTES: usize = 40;

/// The windows of one shard.
pub struct Windows {
    settings: Arc<Settings>,
    base_ms: i64,
    base_ring: i64,
    plans: Arc<[WindowPlan]>,
    heads: Vec<WindowSeries>,
    marks: Vec<Marks>,
    records: Flat<WORDS>,
    timers: Timers,
    /// By slot: what was published before a bootstrap that the series took.
    prefill: BTreeMap<u32, PrefillKeys>,
    sealing: Sealing,
    /// By slot and window: what windows that were added are held to, until nothing shows it.
    added: BTreeMap<(u32, u32), AddedWindow>,
    /// By slot: what base panes a change of settings left, where their ring could reach further back.
    base_from: BTreeMap<u32, BaseLimit>,
    /// Panes that begin before this may have been put together in another shape, or their base panes be gone: the last
    /// change of the rings was then.
    reshaped_to: i64,
    /// Due slots of the epoch at hand, and whether they were collected already.
    due: Vec<u32>,
    is_collected: bool,
    /// Keys that late samples of the series at hand touched.
    dirty: Vec<(usize, i64)>,
    /// Per window, the lowest mark to which the series at hand was reopened.
    reopened: Vec<i64>,
    position: Arc<WorkPosition>,
}

impl Windows {
    /// An empty shard.
    pub fn new(settings: Arc<Settings>) -> Self {
        let layout = Layout::new(&settings);
        Windows {
            base_ms: layout.base_ms,
            base_ring: layout.base_ring,
            plans: layout.plans.into(),
            heads: Vec::new(),
            marks: Vec::new(),
            records: Flat::new(layout.records),
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

    /// Bytes that one series takes once its rings are full.
    pub fn series_bytes(settings: &Settings) -> usize {
        let layout = Layout::new(settings);
        layout.records * WORDS * 8 + size_of::<WindowSeries>() + layout.plans.len() * size_of::<Marks>() + 32
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
        self.heads[slot as usize].armed = i64::MAX;
        self.heads[slot as usize].revised = BTreeMap::new();
        self.prefill.remove(&slot);
        self.forget_young(slot);
    }

    fn give(&mut self, given: &SlotAssignment) {
        let slot = given.slot as usize;
        let head = WindowSeries {
            series: given.series,
            newest: NEVER,
            last_applied_ms: NEVER,
            withhold: given.withhold_ms,
            publish_from: NEVER,
            next_key: i64::MAX,
            open_key: i64::MAX,
            sealed: NEVER,
            armed: i64::MAX,
            pane_end: NEVER,
            pane_at: 0,
            revised: BTreeMap::new(),
        };
        if slot < self.heads.len() {
            self.heads[slot] = head;
            self.clear(given.slot);
        } else {
            debug_assert_eq!(slot, self.heads.len(), "admit gives new slots in order");
            self.heads.push(head);
            self.records.reserve(given.slot);
            self.marks.extend(std::iter::repeat_n(Marks::NEW, self.plans.len()));
            self.sealing.begin(given.slot);
        }
    }

    /// Forgets all samples of a slot.
    fn clear(&mut self, slot: u32) {
        self.records.of_mut(slot).fill([0; WORDS]);
        self.marks[slot as usize * self.plans.len()..][..self.plans.len()].fill(Marks::NEW);
        self.sealing.begin(slot);
    }

    /// Applies one series' samples of one epoch: late panes, then new samples, then corrections.
    fn apply(
        &mut self,
        slot: u32,
        late: &[LatePane],
        batch: &AdmittedBatch,
        new: std::ops::Range<usize>,
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
        for i in new.clone() {
            let at = batch.at_ms[i];
            let head = &self.heads[slot as usize];
            if head.newest == NEVER {
                self.begin(slot, at);
            } else if at > head.next_key || at <= head.sealed {
                self.advance(slot, at, out);
            }
            self.push(slot, at, batch.value[i]);
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
            panes::build(self.records.of_mut(slot), &plan, &mut marks.built, self.base_ring, last_ms, span);
        }
    }

    /// Folds a sample newer than all before it into its base pane.
    #[inline]
    fn push(&mut self, slot: u32, at: i64, value: f64) {
        if at > self.heads[slot as usize].pane_end {
            self.leave_panes(slot, at);
        }
        let head = &mut self.heads[slot as usize];
        let record = self.records.of_mut(slot);
        if at > head.pane_end {
            let pane = pane_of(at, self.base_ms);
            head.pane_end = pane * self.base_ms;
            head.pane_at = pane.rem_euclid(self.base_ring) as usize;
            let words = &mut record[head.pane_at];
            if !panes::holds(words, pane) {
                *words = Moments { tag: pane as u32, ..Moments::EMPTY }.to_words();
            }
        }
        let words = &mut record[head.pane_at];
        let mut moments = Moments::from_words(words);
        moments.push(at, value);
        *words = moments.to_words();
        head.newest = at;
        head.open_key = head.next_key; // every open key from here on may hold this sample
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
        let (plan, young) = (&self.plans[w], self.added_window(slot, w));
        let floor = young.floor(plan);
        let marks = &mut self.marks[slot as usize * self.plans.len() + w];
        let record = self.records.of_mut(slot);
        let head = &self.heads[slot as usize];
        let span = PaneSpan { floor, newest_ms: head.newest };
        panes::build(record, plan, &mut marks.built, self.base_ring, at, span);
        let held = || self.prefill.get(&slot).is_some_and(|held| held.count(w, plan, at).is_some());
        let withheld = at - plan.length_ms < head.withhold || (at < head.publish_from && !held());
        if withheld || at <= young.mute_to {
            return None;
        }
        let moments = panes::combine(record, plan, &mut marks.built, floor, at);
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
        let kept_ms = self.settings.allowed_lateness_ms + self.base_ms;
        let partial = at - self.plans[w].length_ms < self.added_window(slot, w).known_from;
        let head = &mut self.heads[slot as usize];
        let revision = match head.revised.get_mut(&(at, w)) {
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
                    while head.revised.first_key_value().is_some_and(|((end, _), _)| *end < from) {
                        head.revised.pop_first();
                    }
                    head.revised.insert((at, w), RevisedKey { revision, count: moments.count });
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
