//! `admit`: the second gate. Orders each epoch's batch, refuses duplicates and what is too old, merges late
//! samples into the raw ring, gives and frees slots.
//!
//! ```text
//!  samples ──exchange by shard──► [ admit ×workers ] ──► Admitted, one per epoch and shard
//! ```
//!
//! Not here: windows, or any judgement about silence other than when a slot may be freed.
//!
//! # State
//! Per series about 120 bytes and the raw ring: 12 bytes a sample over lateness and one base pane
//! (0.6 KB at 15 s), at most `limits.late_samples`. Per forgotten series a tombstone of 16 bytes.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use crate::driver::Epoch;
use crate::outcome::Reject;
use crate::sample::{EpochEnd, Reason, STALE_NAN_BITS, Samples, SeriesId};
use crate::settings::Settings;
use crate::shard::{Admitted, Given, LatePane, SeriesMap, Slots, Timers, pane_of, wait_ms};

/// No time yet.
const NEVER: i64 = i64::MIN;
/// Reject rows of one shard and minute that name their series.
pub const REJECT_ROWS_MAX: usize = 1_000;
const MINUTE_MS: i64 = 60_000;

/// The gate of one shard.
pub struct Admit {
    settings: Arc<Settings>,
    base_ms: i64,
    slots: Slots,
    heads: Vec<Head>,
    timers: Timers,
    tombstones: Tombstones,
    rejects: Rejects,
    order: Order,
}

/// One series.
struct Head {
    /// Newest applied sample.
    newest: i64,
    /// Stream time of the epoch that last applied a sample; until then of the one that gave the slot.
    heard: i64,
    /// What is not newer than this was forgotten.
    tombstone: i64,
    raw: Ring,
}

impl Admit {
    /// An empty shard.
    pub fn new(settings: Arc<Settings>) -> Self {
        let tombstones_max = (settings.series_max / 256) as usize;
        Admit {
            base_ms: settings.base_ms(),
            slots: Slots::default(),
            heads: Vec::new(),
            timers: Timers::default(),
            tombstones: Tombstones { max: tombstones_max, floor: NEVER, ..Tombstones::default() },
            rejects: Rejects { minute: NEVER, ..Rejects::default() },
            order: Order::default(),
            settings,
        }
    }

    /// Retires one epoch of this shard.
    pub fn retire(&mut self, shard: usize, Epoch { end, live: batch, .. }: Epoch) -> Admitted {
        let mut out = Admitted::new(end, shard);
        if !batch.is_empty() {
            let mut order = std::mem::take(&mut self.order);
            if order.look_up(batch, &self.slots) {
                self.give_slots(batch, &order, end, &mut out);
                order.look_up(batch, &self.slots);
            }
            order.sort(batch, self.slots.capacity());
            out.slot.reserve_exact(batch.len());
            out.at_ms.reserve_exact(batch.len());
            out.value.reserve_exact(batch.len());
            let mut from = 0;
            while from < order.rows.len() {
                let slot = order.rows[from].slot;
                let to = from + order.rows[from..].iter().take_while(|row| row.slot == slot).count();
                self.apply(slot, &order.rows[from..to], end, &mut out);
                from = to;
            }
            self.order = order;
        }
        self.free_slots(end, &mut out);
        self.rejects.flush(end, &mut out.rejects);
        out
    }

    /// Series with a slot.
    pub fn series(&self) -> usize {
        self.slots.len()
    }

    /// Bytes of state.
    pub fn bytes(&self) -> usize {
        let rings: usize = self.heads.iter().map(|head| head.raw.samples.capacity() * 12).sum();
        let heads = self.heads.capacity() * size_of::<Head>();
        self.slots.bytes() + heads + rings + self.timers.bytes() + self.tombstones.bytes()
    }

    fn give_slots(&mut self, batch: &Samples, order: &Order, end: EpochEnd, out: &mut Admitted) {
        let pairs = batch.series.iter().zip(&order.slots);
        let mut unknown: Vec<u64> = pairs.filter(|(_, slot)| **slot == NO_SLOT).map(|(id, _)| *id).collect();
        unknown.sort_unstable();
        unknown.dedup();
        for series in unknown {
            let slot = self.slots.give(series);
            let tombstone = self.tombstones.take(series);
            let head = Head {
                newest: NEVER,
                heard: end.stream_ms,
                tombstone: tombstone.unwrap_or(NEVER),
                raw: Ring::default(),
            };
            match self.heads.get_mut(slot as usize) {
                Some(old) => *old = head,
                None => self.heads.push(head),
            }
            let withhold_ms = tombstone.unwrap_or(self.tombstones.floor);
            out.given.push(Given { slot, series: SeriesId(series), withhold_ms });
            self.timers.arm(slot, NEVER); // its first due time is judged at the end of this epoch
            out.counts.slots_given += 1;
        }
    }

    /// Applies the rows of one series: late ones come first, for they are the oldest.
    fn apply(&mut self, slot: u32, rows: &[Row], end: EpochEnd, out: &mut Admitted) {
        let head = &mut self.heads[slot as usize];
        let series = self.slots.series(slot);
        let (ring_max, lateness_ms, base_ms) =
            (self.settings.late_samples_max as usize, self.settings.lateness_ms, self.base_ms);
        let late_from = out.late_at_ms.len();
        let mut applied = 0;
        for row in rows {
            if row.value.to_bits() == STALE_NAN_BITS {
                out.counts.stale_markers += 1;
                continue;
            }
            let behind = head.newest != NEVER && row.at_ms < head.newest - lateness_ms;
            let verdict = if behind || row.at_ms <= head.tombstone {
                Err(Reason::TooOld)
            } else if !row.value.is_finite() {
                Err(Reason::NotFinite)
            } else if row.at_ms > head.newest {
                close_late(head, slot, base_ms, late_from, out);
                // The pane of the oldest sample that may still be late begins after this.
                let from_ms = row.at_ms - lateness_ms - base_ms;
                head.raw.push(head.newest, row.at_ms, row.value, from_ms, ring_max);
                head.newest = row.at_ms;
                out.slot.push(slot);
                out.at_ms.push(row.at_ms);
                out.value.push(row.value);
                Ok(())
            } else {
                // Merging may push out samples of the pane before: that one is handed on while it is whole.
                if out.late_at_ms[late_from..]
                    .last()
                    .is_some_and(|at| pane_of(*at, base_ms) != pane_of(row.at_ms, base_ms))
                {
                    close_late(head, slot, base_ms, late_from, out);
                }
                head.raw
                    .merge(head.newest, row.at_ms, row.value, pane_start(row.at_ms, base_ms), ring_max)
                    .map(|()| {
                        out.late_at_ms.push(row.at_ms);
                        out.counts.late += 1;
                    })
            };
            match verdict {
                Ok(()) => applied += 1,
                Err(reason) => {
                    out.counts.rejected[reason as usize] += 1;
                    self.rejects.add(series, reason, row.at_ms);
                }
            }
        }
        close_late(head, slot, base_ms, late_from, out);
        if applied > 0 {
            head.heard = end.stream_ms;
            out.counts.applied += applied;
        }
    }

    fn free_slots(&mut self, end: EpochEnd, out: &mut Admitted) {
        let keep = self.settings.keep_ms();
        if end.close_ms == NEVER {
            return;
        }
        let mut again = Vec::new();
        while let Some((_, slots)) = self.timers.due(end.close_ms) {
            for slot in slots {
                let head = &self.heads[slot as usize];
                let newest = if head.newest == NEVER { head.heard } else { head.newest };
                let quiet = end.close_ms > newest.saturating_add(keep)
                    && end.stream_ms > head.heard.saturating_add(keep);
                let silent = head.newest == NEVER
                    || head.heard.saturating_add(wait_ms(&self.settings, head.heard, head.newest))
                        <= end.close_ms;
                if quiet && silent {
                    out.freed.push(slot);
                } else {
                    // Looked at again when close time has come far enough; each epoch if only stream time lacks.
                    again.push((slot, newest.saturating_add(keep).max(end.close_ms)));
                }
            }
        }
        again.into_iter().for_each(|(slot, due)| self.timers.arm(slot, due));
        out.freed.sort_unstable();
        for slot in out.freed.iter().copied() {
            let head = &mut self.heads[slot as usize];
            let series = self.slots.series(slot);
            let forgotten = head.newest.max(head.tombstone);
            if forgotten != NEVER {
                self.tombstones.put(series.0, forgotten);
            }
            head.raw = Ring::default();
            self.slots.free(slot);
            out.freed_series.push(series);
        }
        out.counts.slots_freed += out.freed.len() as u64;
    }
}

/// The start of the base pane that holds `at`; its samples are strictly newer.
fn pane_start(at_ms: i64, base_ms: i64) -> i64 {
    (pane_of(at_ms, base_ms) - 1) * base_ms
}

/// Hands on the panes that the late samples from `late_from` on touched, whole.
fn close_late(head: &Head, slot: u32, base_ms: i64, late_from: usize, out: &mut Admitted) {
    let done =
        out.late.last().filter(|pane| pane.slot == slot).map_or(late_from, |pane| pane.late.1 as usize);
    let mut from = done;
    while from < out.late_at_ms.len() {
        let pane = pane_of(out.late_at_ms[from], base_ms);
        let to = from + out.late_at_ms[from..].iter().take_while(|at| pane_of(**at, base_ms) == pane).count();
        let raw_from = out.raw_at_ms.len() as u32;
        head.raw.copy_pane(
            head.newest,
            (pane - 1) * base_ms,
            pane * base_ms,
            &mut out.raw_at_ms,
            &mut out.raw_value,
        );
        let raw = (raw_from, out.raw_at_ms.len() as u32);
        out.late.push(LatePane { slot, pane, raw, late: (from as u32, to as u32) });
        from = to;
    }
}

/// The raw samples of the last lateness and base pane, 12 bytes each, in time order.
#[derive(Default)]
struct Ring {
    /// Low 32 bits of the time, then the value's bits, low word first.
    samples: VecDeque<[u32; 3]>,
    /// The newest sample that was pushed out although it was young enough; `None` if none was.
    dropped: Option<i64>,
}

impl Ring {
    fn at(&self, index: usize, newest_ms: i64) -> i64 {
        newest_ms - i64::from((newest_ms as u32).wrapping_sub(self.samples[index][0]))
    }

    fn word(at_ms: i64, value: f64) -> [u32; 3] {
        let bits = value.to_bits();
        [at_ms as u32, bits as u32, (bits >> 32) as u32]
    }

    fn bits(&self, index: usize) -> u64 {
        let [_, low, high] = self.samples[index];
        u64::from(low) | u64::from(high) << 32
    }

    /// Appends a sample newer than `newest_ms`, the newest held, forgetting what is at or before `from_ms`.
    fn push(&mut self, newest_ms: i64, at_ms: i64, value: f64, from_ms: i64, max: usize) {
        while !self.samples.is_empty() && self.at(0, newest_ms) <= from_ms {
            self.samples.pop_front();
        }
        if self.samples.len() >= max {
            self.dropped = Some(self.at(0, at_ms));
            self.samples.pop_front();
        }
        if self.samples.len() == self.samples.capacity() {
            self.samples.reserve_exact((self.samples.len() / 4).max(4));
        }
        self.samples.push_back(Ring::word(at_ms, value));
    }

    /// Merges a sample that is not newer than the newest.
    fn merge(
        &mut self,
        newest_ms: i64,
        at_ms: i64,
        value: f64,
        pane_start_ms: i64,
        max: usize,
    ) -> Result<(), Reason> {
        let behind = |words: &[u32; 3]| i64::from((newest_ms as u32).wrapping_sub(words[0]));
        let mut index = self.samples.partition_point(|words| behind(words) > newest_ms - at_ms);
        if index < self.samples.len() && self.at(index, newest_ms) == at_ms {
            let same = self.bits(index) == value.to_bits();
            return Err(if same { Reason::Duplicate } else { Reason::DuplicateTimestamp });
        }
        if self.dropped.is_some_and(|dropped| dropped > pane_start_ms) {
            return Err(Reason::LateRingFull);
        }
        if self.samples.len() >= max {
            let front = self.at(0, newest_ms);
            if front > pane_start_ms {
                return Err(Reason::LateRingFull);
            }
            self.dropped = Some(front);
            self.samples.pop_front();
            index -= 1;
        }
        self.samples.insert(index, Ring::word(at_ms, value));
        Ok(())
    }

    fn copy_pane(
        &self,
        newest_ms: i64,
        start_ms: i64,
        end_ms: i64,
        at_ms: &mut Vec<i64>,
        value: &mut Vec<f64>,
    ) {
        let from = self.samples.partition_point(|words| {
            newest_ms - i64::from((newest_ms as u32).wrapping_sub(words[0])) <= start_ms
        });
        for index in from..self.samples.len() {
            let at = self.at(index, newest_ms);
            if at > end_ms {
                break;
            }
            at_ms.push(at);
            value.push(f64::from_bits(self.bits(index)));
        }
    }
}

/// What is left of series whose slot was freed, bounded; what is evicted raises the floor.
#[derive(Default)]
struct Tombstones {
    by_age: BTreeSet<(i64, u64)>,
    newest: SeriesMap<i64>,
    max: usize,
    floor: i64,
}

impl Tombstones {
    fn put(&mut self, series: u64, newest_ms: i64) {
        if let Some(old) = self.newest.insert(series, newest_ms) {
            self.by_age.remove(&(old, series));
        }
        self.by_age.insert((newest_ms, series));
        while self.by_age.len() > self.max {
            if let Some((newest_ms, series)) = self.by_age.pop_first() {
                self.newest.remove(&series);
                self.floor = self.floor.max(newest_ms);
            }
        }
    }

    fn take(&mut self, series: u64) -> Option<i64> {
        let newest_ms = self.newest.remove(&series)?;
        self.by_age.remove(&(newest_ms, series));
        Some(newest_ms)
    }

    fn bytes(&self) -> usize {
        self.newest.capacity() * 17 + self.by_age.len() * 24
    }
}

/// Reject rows of the running minute of stream time.
#[derive(Default)]
struct Rejects {
    minute: i64,
    rows: Vec<Reject>,
    index: HashMap<(u64, Reason), usize, std::hash::BuildHasherDefault<crate::shard::SeriesHasher>>,
    rest: [Option<Reject>; Reason::ALL.len()],
}

impl Rejects {
    fn add(&mut self, series: SeriesId, reason: Reason, at_ms: i64) {
        if reason == Reason::Duplicate {
            return;
        }
        let row = match self.index.get(&(series.0, reason)) {
            Some(index) => &mut self.rows[*index],
            None if self.rows.len() < REJECT_ROWS_MAX => {
                self.index.insert((series.0, reason), self.rows.len());
                self.rows.push(Reject {
                    series: Some(series),
                    reason,
                    count: 0,
                    first_at_ms: at_ms,
                    last_at_ms: at_ms,
                });
                self.rows.last_mut().expect("a row was pushed")
            }
            None => self.rest[reason as usize].get_or_insert(Reject {
                series: None,
                reason,
                count: 0,
                first_at_ms: at_ms,
                last_at_ms: at_ms,
            }),
        };
        row.count += 1;
        row.first_at_ms = row.first_at_ms.min(at_ms);
        row.last_at_ms = row.last_at_ms.max(at_ms);
    }

    /// Emits the rows when a minute of stream time is full, or at the end of an input.
    fn flush(&mut self, end: EpochEnd, out: &mut Vec<Reject>) {
        let minute = if end.stream_ms == NEVER { NEVER } else { end.stream_ms.div_euclid(MINUTE_MS) };
        if minute > self.minute || end.last_of_input {
            out.append(&mut self.rows);
            out.extend(self.rest.iter_mut().filter_map(Option::take));
            self.index.clear();
        }
        self.minute = self.minute.max(minute);
    }
}

/// In place of the slot of a series that has none yet.
const NO_SLOT: u32 = u32::MAX;
/// Key of a staleness marker: after every sample of its instant. A NaN may have these bits, so it only sorts.
const MARKER_KEY: u64 = u64::MAX;

#[derive(Clone, Copy)]
struct Row {
    slot: u32,
    at_ms: i64,
    key: u64,
    value: f64,
}

/// Sorts a batch by (slot, at, value bits). Keeps its buffers.
#[derive(Default)]
struct Order {
    slots: Vec<u32>,
    starts: Vec<u32>,
    rows: Vec<Row>,
}

impl Order {
    /// Finds the slot of every sample; returns whether some series has none.
    fn look_up(&mut self, batch: &Samples, slots: &Slots) -> bool {
        self.slots.clear();
        self.slots.extend(batch.series.iter().map(|id| slots.get(*id).unwrap_or(NO_SLOT)));
        self.slots.contains(&NO_SLOT)
    }

    fn sort(&mut self, batch: &Samples, capacity: usize) {
        let n = batch.len();
        self.rows.clear();
        let row = |i: usize, slot: u32| {
            let bits = batch.value[i].to_bits();
            let key = if bits == STALE_NAN_BITS { MARKER_KEY } else { bits };
            Row { slot, at_ms: batch.at_ms[i], key, value: batch.value[i] }
        };
        if capacity > 8 * n {
            self.rows.extend(self.slots.iter().enumerate().map(|(i, slot)| row(i, *slot)));
            self.rows.sort_unstable_by_key(|row| (row.slot, row.at_ms, row.key));
            return;
        }
        self.starts.clear();
        self.starts.resize(capacity + 1, 0);
        self.slots.iter().for_each(|slot| self.starts[*slot as usize + 1] += 1);
        for slot in 1..self.starts.len() {
            self.starts[slot] += self.starts[slot - 1];
        }
        self.rows.resize(n, Row { slot: 0, at_ms: 0, key: 0, value: 0.0 });
        for (i, slot) in self.slots.iter().enumerate() {
            let place = &mut self.starts[*slot as usize];
            self.rows[*place as usize] = row(i, *slot);
            *place += 1;
        }
        let mut from = 0;
        while from < n {
            let slot = self.rows[from].slot;
            let to = self.starts[slot as usize] as usize;
            let run = &mut self.rows[from..to];
            if !run.is_sorted_by_key(|row| (row.at_ms, row.key)) {
                run.sort_unstable_by_key(|row| (row.at_ms, row.key));
            }
            from = to;
        }
    }
}
