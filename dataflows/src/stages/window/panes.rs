//! How a window is put together from panes.
//!
//! Samples fold into *base panes* (one pass in time order). A window of `m = length / hop` panes of its hop
//! has blocks of `m` panes fixed by absolute time. `(T - length, T]` is the tail of one block and the head of
//! the next: the tail is folded from its newest pane back, the head from its oldest pane on, and the two are
//! merged. That shape depends on `T` alone, so the numbers depend on the samples in the window alone, and
//! heads and tails are shared between neighbouring windows: a new answer costs about six merges however long
//! the window is (the head grows by one pane; of the tail every eighth partial fold is kept).
//! Heads and tails are caches: a late sample refolds its base pane and forgets what was built on it.

use crate::kernels::moments::{Moments, Words};
use crate::settings::Settings;
use crate::shard::pane_of;

const NEVER: i64 = i64::MIN;
/// Every how many panes a partial tail is kept.
const TAIL_STEP: i64 = 8;

/// A slot's flat record: rings of panes, partial tails and heads.
pub type PaneRecords = [Words];

/// What lies where in the record of a slot: the base ring first.
pub struct Layout {
    /// Length of a base pane.
    pub base_ms: i64,
    /// Base panes held.
    pub base_ring: i64,
    /// Where each window has its parts.
    pub plans: Vec<WindowPlan>,
    /// Entries of a record.
    pub records: usize,
}

/// Where the parts of one window lie in the record of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WindowPlan {
    /// Length of the window.
    pub length_ms: i64,
    /// Distance of its keys.
    pub hop_ms: i64,
    /// Panes in the window.
    pub(super) panes: i64,
    /// Base panes in a pane; 1 means the base ring is its ring.
    pub(super) parts: i64,
    /// Its ring: first entry and length.
    pub(super) ring: (usize, i64),
    /// Partial tails: first entry.
    pub(super) tails: usize,
    /// The head.
    pub(super) head: usize,
}

impl Layout {
    /// The layout for these settings.
    pub fn new(settings: &Settings) -> Layout {
        let base_ms = settings.base_ms();
        let shared =
            settings.windows.iter().filter(|w| w.hop_ms == base_ms).map(|w| settings.ring_panes(*w)).max();
        let base_ring = settings.base_panes().max(shared.unwrap_or(0));
        let mut next = base_ring as usize;
        let mut take = |n: i64| {
            next += n as usize;
            next - n as usize
        };
        let mut plans = Vec::new();
        for w in &settings.windows {
            let (panes, parts) = (w.length_ms / w.hop_ms, w.hop_ms / base_ms);
            let ring = if parts == 1 {
                (0, base_ring)
            } else {
                (take(settings.ring_panes(*w)), settings.ring_panes(*w))
            };
            let (tails, head) = (take((panes + TAIL_STEP - 1) / TAIL_STEP), take(1));
            plans.push(WindowPlan {
                length_ms: w.length_ms,
                hop_ms: w.hop_ms,
                panes,
                parts,
                ring,
                tails,
                head,
            });
        }
        Layout { base_ms, base_ring, plans, records: next }
    }
}

impl WindowPlan {
    /// Its ring of panes, first entry and length, where it is not that of base panes.
    pub fn own_ring(&self) -> Option<(usize, i64)> {
        (self.parts > 1).then_some(self.ring)
    }

    /// The last key whose window holds `newest_ms`.
    pub fn last_key(&self, newest_ms: i64) -> i64 {
        (newest_ms + self.length_ms - 1).div_euclid(self.hop_ms) * self.hop_ms
    }

    /// The numbers of the panes of the window ending at the key `at_ms`.
    pub fn numbers(&self, at_ms: i64) -> std::ops::RangeInclusive<i64> {
        let last = at_ms.div_euclid(self.hop_ms);
        last - self.panes + 1..=last
    }

    /// The oldest pane that a series whose newest sample is this may still hold.
    pub fn oldest(&self, newest_ms: i64) -> i64 {
        pane_of(newest_ms, self.hop_ms) - self.ring.1 + 1
    }

    /// A pane; empty if it is not held.
    pub fn pane(&self, record: &PaneRecords, number: i64) -> Moments {
        TailWalk::from(record, self.ring, number).pane()
    }

    /// A pane folded from its base panes; `None` where it is one itself, or some of them may be held no more.
    pub fn refolded(
        &self,
        record: &PaneRecords,
        base_ring: i64,
        number: i64,
        newest_base: i64,
    ) -> Option<Moments> {
        let first = (number - 1) * self.parts + 1;
        (self.parts > 1 && first > newest_base - base_ring).then(|| {
            let mut walk = TailWalk::from(record, (0, base_ring), first);
            fold(&mut walk, self.parts, number)
        })
    }
}

/// Merges `parts` panes, oldest first, into the pane `number`.
fn fold(walk: &mut TailWalk<'_>, parts: i64, number: i64) -> Moments {
    let mut all = Moments::EMPTY;
    for _ in 0..parts {
        all = all.then(&walk.pane());
        walk.forward();
    }
    Moments { tag: if all.is_empty() { 0 } else { number as u32 }, ..all }
}

/// How far the parts of one window of one series are built. Everything here can be forgotten and built again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BuildProgress {
    /// Every pane at or before this is built from base panes.
    pub(super) panes: i64,
    /// The head holds the panes of its block up to this one.
    head: i64,
    /// The block whose partial tails are kept.
    tail_block: i64,
}

impl BuildProgress {
    /// Of a slot without samples.
    pub const NOTHING: BuildProgress = BuildProgress { panes: NEVER, head: NEVER, tail_block: NEVER };

    /// Of a series whose first sample is in `pane`.
    pub fn before(pane: i64) -> BuildProgress {
        BuildProgress { panes: pane - 1, ..BuildProgress::NOTHING }
    }

    /// Every pane at or before this is built from base panes.
    pub fn upto(&self) -> i64 {
        self.panes
    }

    /// Forgets heads and tails, whose panes count no more.
    pub fn forget_partials(&mut self) {
        (self.head, self.tail_block) = (NEVER, NEVER);
    }

    /// Forgets what was built on the panes that hold `at_ms` or anything newer.
    pub fn forget(&mut self, plan: &WindowPlan, at_ms: i64) {
        let pane = pane_of(at_ms, plan.hop_ms);
        self.panes = self.panes.min(pane - 1);
        if self.head >= pane {
            self.head = NEVER;
        }
        if self.tail_block != NEVER && (self.tail_block + 1) * plan.panes >= pane {
            self.tail_block = NEVER;
        }
    }
}

/// What limits the panes of one window of one series.
#[derive(Clone, Copy, Debug)]
pub struct PaneSpan {
    /// No pane at or before this one is the window's.
    pub floor: i64,
    /// The newest sample.
    pub newest_ms: i64,
}

/// Builds the panes of a hop up to the key `at_ms` from base panes, oldest first.
pub fn build(
    record: &mut PaneRecords,
    plan: &WindowPlan,
    built: &mut BuildProgress,
    base_ring: i64,
    at_ms: i64,
    PaneSpan { floor, newest_ms }: PaneSpan,
) {
    if plan.parts == 1 {
        return;
    }
    let upto = at_ms / plan.hop_ms;
    if built.panes >= upto {
        return;
    }
    let last = upto.min(pane_of(newest_ms, plan.hop_ms));
    let newest_base = pane_of(newest_ms, plan.hop_ms / plan.parts);
    for number in (built.panes + 1).max(floor + 1).max(last - plan.ring.1 + 1)..=last {
        let held = (number - 1) * plan.parts + 1 > newest_base - base_ring;
        debug_assert!(
            held,
            "pane {number} of {} ms is built after its base panes left their ring",
            plan.hop_ms
        );
        if !held {
            // Rather what was there than a pane of a part of its samples.
            continue;
        }
        let mut walk = TailWalk::from(record, (0, base_ring), (number - 1) * plan.parts + 1);
        let all = fold(&mut walk, plan.parts, number);
        if !all.is_empty() {
            record[plan.ring.0 + number.rem_euclid(plan.ring.1) as usize] = all.to_words();
        }
    }
    built.panes = upto;
}

/// `n` panes of a ring from `first` on, as the pane `number`.
pub(super) fn folded(record: &PaneRecords, ring: (usize, i64), first: i64, n: i64, number: i64) -> Moments {
    fold(&mut TailWalk::from(record, ring, first), n, number)
}

/// The window ending at the key `at_ms`, whose panes are built: the tail of one block and the head of the next.
pub fn combine(
    record: &mut PaneRecords,
    plan: &WindowPlan,
    built: &mut BuildProgress,
    floor: i64,
    at_ms: i64,
) -> Moments {
    let last = at_ms / plan.hop_ms;
    let block = (last - 1).div_euclid(plan.panes);
    let start = block * plan.panes + 1;
    let (mut head, from) = if (start..=last).contains(&built.head) {
        (Moments::from_words(&record[plan.head]), built.head + 1)
    } else {
        (Moments::EMPTY, start)
    };
    let mut walk = TailWalk { floor, ..TailWalk::from(record, plan.ring, from) };
    for _ in from..=last {
        head = head.then(&walk.pane());
        walk.forward();
    }
    record[plan.head] = head.to_words();
    built.head = last;
    let skipped = last + 1 - start;
    if skipped == plan.panes {
        return head;
    }
    let before = start - plan.panes;
    if built.tail_block != block - 1 {
        let mut tail = Moments::EMPTY;
        let mut place = TailWalk::from(record, plan.ring, before + plan.panes - 1).place;
        for offset in (0..plan.panes).rev() {
            let mut walk = TailWalk {
                ring: &record[plan.ring.0..plan.ring.0 + plan.ring.1 as usize],
                number: before + offset,
                place,
                floor,
            };
            tail = walk.pane().then(&tail);
            walk.back();
            place = walk.place;
            if offset % TAIL_STEP == 0 {
                record[plan.tails + (offset / TAIL_STEP) as usize] = tail.to_words();
            }
        }
        built.tail_block = block - 1;
    }
    let kept = (skipped + TAIL_STEP - 1) / TAIL_STEP;
    let (mut tail, upto) = if kept * TAIL_STEP < plan.panes {
        (Moments::from_words(&record[plan.tails + kept as usize]), kept * TAIL_STEP)
    } else {
        (Moments::EMPTY, plan.panes)
    };
    let mut walk = TailWalk { floor, ..TailWalk::from(record, plan.ring, before + upto - 1) };
    for _ in skipped..upto {
        tail = walk.pane().then(&tail);
        walk.back();
    }
    tail.then(&head)
}

/// Whether a record is that of `pane`.
#[inline]
pub fn holds(words: &Words, pane: i64) -> bool {
    (words[8] >> 32) as u32 == pane as u32 && words[8] as u32 != 0
}

/// Walks the panes of a ring one by one, with one division in all.
struct TailWalk<'a> {
    ring: &'a PaneRecords,
    number: i64,
    place: usize,
    /// Panes at or before this one count as empty.
    floor: i64,
}

impl<'a> TailWalk<'a> {
    #[inline]
    fn from(record: &'a PaneRecords, (start, length): (usize, i64), number: i64) -> Self {
        let ring = &record[start..start + length as usize];
        TailWalk { ring, number, place: number.rem_euclid(length) as usize, floor: NEVER }
    }

    /// The pane at hand; empty if the ring does not hold it.
    #[inline]
    fn pane(&self) -> Moments {
        let words = &self.ring[self.place];
        if holds(words, self.number) && self.number > self.floor {
            Moments::from_words(words)
        } else {
            Moments::EMPTY
        }
    }

    #[inline]
    fn forward(&mut self) {
        self.number += 1;
        self.place = if self.place + 1 == self.ring.len() { 0 } else { self.place + 1 };
    }

    #[inline]
    fn back(&mut self) {
        self.number -= 1;
        self.place = if self.place == 0 { self.ring.len() - 1 } else { self.place - 1 };
    }
}
