//! How a window is put together from panes.
//!
//! Samples fold into *base panes* (one pass in time order). A window of `m = length / hop` panes of its hop
//! has blocks of `m` panes fixed by absolute time. `(T - length, T]` is the tail of one block and the head of
//! the next: the tail is folded from its newest pane back, the head from its oldest pane on, and the two are
//! merged. That shape depends on `T` alone, so the numbers depend on the samples in the window alone, and
//! heads and tails are shared between neighbouring windows: a new answer costs about five merges however long
//! the window is (the head grows by one pane; some partial folds of the tail are kept, see [`Tails`]).
//! Heads and tails are caches: a late sample refolds its base pane and forgets what was built on it.

use std::sync::Arc;

use super::record::{Area, PaneRecord, RecordShape, Ring, Walk};
use crate::kernels::moments::{Moments, WORDS, Words};
use crate::settings::{Settings, Window};
use crate::shard::{Flat, pane_of};

const NEVER: i64 = i64::MIN;

/// What lies where in the panes of a slot.
pub struct Layout {
    /// The ring of base panes.
    pub base: Ring,
    /// Where each window has its parts.
    pub plans: Vec<WindowPlan>,
    /// The areas of a record.
    pub shape: Arc<RecordShape>,
    /// How many partial folds are kept as they are.
    pub partials: usize,
}

/// Where the parts of one window lie in the panes of a slot.
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
    /// Its panes.
    pub(super) ring: Ring,
    /// The partial fold that is its head.
    pub(super) head: usize,
    /// The partial fold of the pane that base panes go into; not used if they are its panes.
    part: usize,
    tails: Tails,
}

/// The partial tails of a block: a packed one at each multiple of `far`, and between two of these, of the group of panes that
/// the tail has come to, one as it is at each multiple of `near`. Both are powers of two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Tails {
    area: Area,
    /// Their logarithms.
    far: u32,
    near: u32,
    /// The first partial fold of the group.
    group: usize,
}

impl Tails {
    /// For windows of so many panes. A new answer merges about `1 << near` of them, and there are some `panes >> far` tails
    /// and `(1 << (far - near)) - 1` partial folds: 8 and 3 for 60 panes.
    fn of(panes: i64, shape: &mut RecordShape, partials: &mut usize) -> Tails {
        let bits = 63 - panes.leading_zeros();
        let (near, far, group) = (bits / 4, bits.div_ceil(2), *partials);
        *partials += (1 << (far - near)) - 1;
        Tails { area: shape.add_tails((panes + (1 << far) - 1) >> far), far, near, group }
    }

    /// The partial fold that is the tail from this offset on, which is a multiple of `near` but not of `far`.
    #[inline]
    fn partial(&self, offset: i64) -> usize {
        self.group + (((offset & ((1 << self.far) - 1)) >> self.near) - 1) as usize
    }
}

impl Layout {
    /// The layout for these settings.
    pub fn new(settings: &Settings) -> Layout {
        let base_ms = settings.base_ms();
        let shared =
            settings.windows.iter().filter(|w| w.hop_ms == base_ms).map(|w| settings.ring_panes(*w)).max();
        let mut shape = RecordShape::default();
        let base = shape.add_ring(settings.base_panes().max(shared.unwrap_or(0)), base_ms);
        let rings: Vec<Ring> = settings
            .windows
            .iter()
            .map(|w| match w.hop_ms == base_ms {
                true => base,
                false => shape.add_ring(settings.ring_panes(*w), w.hop_ms),
            })
            .collect();
        let mut partials = 0;
        let plan = |(w, ring): (&Window, Ring)| {
            let (panes, head) = (w.length_ms / w.hop_ms, partials);
            partials += if w.hop_ms == base_ms { 1 } else { 2 };
            WindowPlan {
                length_ms: w.length_ms,
                hop_ms: w.hop_ms,
                panes,
                parts: w.hop_ms / base_ms,
                ring,
                head,
                part: partials - 1,
                tails: Tails::of(panes, &mut shape, &mut partials),
            }
        };
        let plans = settings.windows.iter().zip(rings).map(plan).collect();
        Layout { base, plans, shape: Arc::new(shape), partials }
    }
}

impl WindowPlan {
    /// Its ring of panes, where it is not that of base panes.
    pub fn own_ring(&self) -> Option<Ring> {
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
        self.ring.oldest(pane_of(newest_ms, self.hop_ms))
    }

    /// A pane; empty if it is not held.
    pub fn pane(&self, record: &PaneRecord, number: i64) -> Moments {
        record.pane(&self.ring, number)
    }

    /// A pane folded from its base panes; `None` where it is one itself, or some of them may be held no more.
    pub fn refolded(
        &self,
        record: &PaneRecord,
        base: &Ring,
        number: i64,
        newest_base: i64,
    ) -> Option<Moments> {
        let first = (number - 1) * self.parts + 1;
        (self.parts > 1 && first > newest_base - base.length)
            .then(|| folded(record, base, first, self.parts, number))
    }
}

/// Merges `n` panes of a ring from `first` on, oldest first, into the pane `number`.
pub(super) fn folded(record: &PaneRecord, ring: &Ring, first: i64, n: i64, number: i64) -> Moments {
    let mut walk = Walk::from(record, ring, first, NEVER);
    let mut all = Moments::EMPTY;
    for _ in 0..n {
        all = all.then(&walk.pane(record));
        walk.forward();
    }
    Moments { tag: if all.is_empty() { 0 } else { number as u32 }, ..all }
}

/// How far the parts of one window of one series are built. Everything here can be forgotten and built again.
#[derive(Clone, Copy, Debug)]
pub struct BuildProgress {
    /// Every pane at or before this is built from base panes.
    pub(super) panes: i64,
    /// The end of the pane whose part holds all its base panes but the open one.
    part_end: i64,
    /// The head holds the panes of its block up to this one.
    head_pane: i64,
    /// The block of the head.
    head_block: i64,
    /// The block whose partial tails are kept.
    tail_block: i64,
    /// The least offset into the block from which on the tails of its group are kept.
    tail_offset: i64,
}

impl BuildProgress {
    /// Of a slot without samples.
    pub const NOTHING: BuildProgress = BuildProgress {
        panes: NEVER,
        part_end: NEVER,
        head_pane: NEVER,
        head_block: NEVER,
        tail_block: NEVER,
        tail_offset: NEVER,
    };

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
        (self.head_pane, self.tail_block) = (NEVER, NEVER);
    }

    /// Forgets what was built on the panes that hold `at_ms` or anything newer.
    pub fn forget(&mut self, plan: &WindowPlan, at_ms: i64) {
        let pane = pane_of(at_ms, plan.hop_ms);
        self.panes = self.panes.min(pane - 1);
        if self.part_end >= at_ms {
            self.part_end = NEVER;
        }
        if self.head_pane >= pane {
            self.head_pane = NEVER;
        }
        if self.tail_block != NEVER && (self.tail_block + 1) * plan.panes >= pane {
            self.tail_block = NEVER;
        }
    }
}

/// A pane with its number.
pub type NumberedPane = (i64, Moments);
/// The pane that is open, with its number.
pub type OpenPane<'a> = (i64, &'a Moments);

/// What limits the panes of one window of one series.
#[derive(Clone, Copy, Debug)]
pub struct PaneSpan {
    /// No pane at or before this one is the window's.
    pub floor: i64,
    /// The newest sample.
    pub newest_ms: i64,
}

/// The panes of one series, to change.
pub struct SeriesPanes<'a> {
    /// Closed panes and tails, packed.
    pub record: &'a mut PaneRecord,
    /// Partial folds as they are: heads, tails of a group, parts of panes.
    pub partials: &'a mut [Words],
    /// The ring of base panes.
    pub base: Ring,
    /// The base pane that is open, with its number. The record holds it as well.
    pub open: Option<OpenPane<'a>>,
}

impl SeriesPanes<'_> {
    /// The open base pane closes, for a sample at `at_ms` is newer: it goes into the part of the pane it is in.
    pub fn close_base(
        &mut self,
        plan: &WindowPlan,
        built: &mut BuildProgress,
        (at_ms, newest_ms): (i64, i64),
    ) {
        if plan.parts == 1 {
            return;
        }
        let part = &mut self.partials[plan.part];
        if at_ms > built.part_end {
            // A part begins with its pane, or not at all.
            let end = pane_of(at_ms, plan.hop_ms) * plan.hop_ms;
            built.part_end = if newest_ms <= end - plan.hop_ms { end } else { NEVER };
            *part = Moments::EMPTY.to_words();
        } else if let Some((_, pane)) = self.open {
            *part = Moments::from_words(part).then(pane).to_words();
        } else {
            built.part_end = NEVER;
        }
    }

    /// Builds the panes of a hop up to the key `at_ms` from base panes, oldest first. The last of them, if there are any.
    pub fn build(
        &mut self,
        plan: &WindowPlan,
        built: &mut BuildProgress,
        at_ms: i64,
        PaneSpan { floor, newest_ms }: PaneSpan,
    ) -> Option<NumberedPane> {
        if plan.parts == 1 {
            return None;
        }
        let (upto, mut newest) = (at_ms / plan.hop_ms, None);
        if built.panes >= upto {
            return None;
        }
        let last = upto.min(pane_of(newest_ms, plan.hop_ms));
        let newest_base = pane_of(newest_ms, self.base.pane_ms);
        for number in (built.panes + 1).max(floor + 1).max(plan.ring.oldest(last))..=last {
            let first = (number - 1) * plan.parts + 1;
            let held = first > newest_base - self.base.length;
            debug_assert!(
                held,
                "pane {number} of {} ms is built after its base panes left their ring",
                plan.hop_ms
            );
            if !held {
                // Rather what was there than a pane of a part of its samples.
                continue;
            }
            let all = match self.open {
                Some((open, pane)) if built.part_end == number * plan.hop_ms && open >= first => {
                    let all = Moments::from_words(&self.partials[plan.part]).then(pane);
                    Moments { tag: number as u32, ..all }
                }
                _ => folded(self.record, &self.base, first, plan.parts, number),
            };
            debug_assert_eq!(
                all.to_words(),
                folded(self.record, &self.base, first, plan.parts, number).to_words()
            );
            if !all.is_empty() {
                self.record.set_pane(&plan.ring, number, &all);
                newest = Some((number, all));
            }
        }
        built.panes = upto;
        newest
    }

    /// The window ending at the key `at_ms`, whose panes are built: the tail of one block and the head of the next. A pane
    /// that is at hand need not be read.
    pub fn combine(
        &mut self,
        plan: &WindowPlan,
        built: &mut BuildProgress,
        floor: i64,
        (at_ms, built_pane): (i64, Option<&NumberedPane>),
    ) -> Moments {
        let at_hand = match plan.parts {
            1 => self.open,
            _ => built_pane.map(|(number, pane)| (*number, pane)),
        };
        // Nearly always the key after the one before: then nothing is divided.
        let next = built.head_pane.saturating_add(1);
        let last = if next.saturating_mul(plan.hop_ms) == at_ms { next } else { at_ms / plan.hop_ms };
        let goes_on = last == next && last <= (built.head_block + 1) * plan.panes;
        let block = if goes_on { built.head_block } else { (last - 1).div_euclid(plan.panes) };
        let start = block * plan.panes + 1;
        let (mut head, from) = if built.head_block == block && (start..=last).contains(&built.head_pane) {
            (Moments::from_words(&self.partials[plan.head]), next)
        } else {
            (Moments::EMPTY, start)
        };
        match at_hand {
            Some((number, pane)) if from == last && number == last && number > floor => {
                head = head.then(pane);
            }
            _ => {
                let mut walk = Walk::from(self.record, &plan.ring, from, floor);
                for _ in from..=last {
                    head = head.then(&walk.pane(self.record));
                    walk.forward();
                }
            }
        }
        (built.head_pane, built.head_block) = (last, block);
        self.partials[plan.head] = head.to_words();
        let skipped = last + 1 - start;
        if skipped == plan.panes {
            return head;
        }
        self.tail(plan, built, floor, (block - 1, skipped)).then(&head)
    }

    /// The panes of a block from an offset on.
    fn tail(
        &mut self,
        plan: &WindowPlan,
        built: &mut BuildProgress,
        floor: i64,
        (block, offset): (i64, i64),
    ) -> Moments {
        let Tails { area, far, near, .. } = plan.tails;
        let fold = TailFold { plan, start: block * plan.panes + 1, floor };
        if built.tail_block != block {
            fold.down(self.record, Moments::EMPTY, (plan.panes, 0), far, |record, at, tail| {
                record.set_tail(area, at >> far, tail);
            });
            (built.tail_block, built.tail_offset) = (block, NEVER);
        }
        let above = |bits: u32| ((offset + (1 << bits) - 1) >> bits << bits).min(plan.panes);
        let of_group = built.tail_offset >> far == offset >> far && built.tail_offset <= offset;
        let in_group = built.tail_offset != NEVER && of_group;
        let from = above(if in_group { near } else { far });
        let kept = match from & ((1 << far) - 1) {
            _ if from == plan.panes => Moments::EMPTY,
            0 => self.record.tail(area, from >> far),
            _ => Moments::from_words(&self.partials[plan.tails.partial(from)]),
        };
        if in_group || from == offset {
            return fold.down(self.record, kept, (from, offset), 62, |_, _, _| {});
        }
        built.tail_offset = offset;
        let partials = &mut *self.partials;
        fold.down(self.record, kept, (from, offset), near, |_, at, tail| {
            partials[plan.tails.partial(at)] = tail.to_words();
        })
    }
}

/// Folds panes of a block onto its tails.
struct TailFold<'a> {
    plan: &'a WindowPlan,
    /// The first pane of the block.
    start: i64,
    /// Panes at or before this one count as empty.
    floor: i64,
}

impl TailFold<'_> {
    /// The tail from the lower offset on, given that from the upper one on. On the way `keep` takes the tail at each multiple
    /// of this power of two.
    #[inline]
    fn down(
        &self,
        record: &mut PaneRecord,
        mut tail: Moments,
        (from, to): (i64, i64),
        power: u32,
        mut keep: impl FnMut(&mut PaneRecord, i64, &Moments),
    ) -> Moments {
        if from == to {
            return tail;
        }
        let mut walk = Walk::from(record, &self.plan.ring, self.start + from - 1, self.floor);
        for at in (to..from).rev() {
            tail = walk.pane(record).then(&tail);
            walk.back();
            if at & ((1 << power) - 1) == 0 {
                keep(record, at, &tail);
                walk.written(record);
            }
        }
        tail
    }
}

/// The panes of all series of a shard.
pub struct PaneStore {
    /// The ring of base panes.
    pub base: Ring,
    shape: Arc<RecordShape>,
    records: Vec<PaneRecord>,
    partials: Flat<WORDS>,
}

impl PaneStore {
    /// Of no slots.
    pub fn new(layout: &Layout) -> PaneStore {
        PaneStore {
            base: layout.base,
            shape: Arc::clone(&layout.shape),
            records: Vec::new(),
            partials: Flat::new(layout.partials),
        }
    }

    /// One more slot.
    pub fn add_slot(&mut self) {
        self.partials.reserve(self.records.len() as u32);
        self.records.push(PaneRecord::new(&self.shape));
    }

    /// Forgets what is held of a slot.
    pub fn clear(&mut self, slot: u32) {
        self.records[slot as usize] = PaneRecord::new(&self.shape);
    }

    /// The packed panes of a slot.
    #[inline]
    pub fn of(&self, slot: u32) -> &PaneRecord {
        &self.records[slot as usize]
    }

    /// The packed panes of a slot, to change.
    #[inline]
    pub fn of_mut(&mut self, slot: u32) -> &mut PaneRecord {
        &mut self.records[slot as usize]
    }

    /// The panes of a slot, of which this base pane is open.
    #[inline]
    pub fn series<'a>(&'a mut self, slot: u32, open: Option<OpenPane<'a>>) -> SeriesPanes<'a> {
        let partials = self.partials.of_mut(slot);
        SeriesPanes { record: &mut self.records[slot as usize], partials, base: self.base, open }
    }

    /// Reads what a new answer needs first, and nothing else, so that it is near then: of the pane that closes, and of each
    /// window in which a key closes with it.
    pub fn approach<'a>(
        &self,
        slot: u32,
        closing: i64,
        windows: impl Iterator<Item = (&'a WindowPlan, Option<i64>)>,
    ) {
        let (record, partials) = (&self.records[slot as usize], self.partials.of(slot));
        let both_ends = |partial: usize| partials[partial][0] ^ partials[partial][WORDS - 1];
        let mut read = u64::from(record.approach(&self.base, closing));
        for (plan, key) in windows {
            read ^= both_ends(plan.part);
            if let Some(key) = key {
                let oldest = *plan.numbers(key).start();
                read ^= u64::from(record.approach(&plan.ring, oldest)) ^ both_ends(plan.head);
            }
        }
        std::hint::black_box(read);
    }

    /// A copy of the panes of a slot, to build on for once.
    pub fn copy(&self, slot: u32) -> PaneCopy {
        PaneCopy {
            record: self.records[slot as usize].clone(),
            partials: self.partials.of(slot).to_vec(),
            base: self.base,
        }
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        let records: usize = self.records.iter().map(PaneRecord::bytes).sum();
        records + self.records.capacity() * size_of::<PaneRecord>() + self.partials.bytes(self.records.len())
    }
}

/// A copy of the panes of one series.
#[derive(Clone)]
pub struct PaneCopy {
    /// Closed panes and tails, packed, and the open base pane among them.
    pub record: PaneRecord,
    partials: Vec<Words>,
    base: Ring,
}

impl PaneCopy {
    /// To build on.
    pub fn series(&mut self) -> SeriesPanes<'_> {
        SeriesPanes { record: &mut self.record, partials: &mut self.partials, base: self.base, open: None }
    }
}
