//! The order in which a shard sees the samples of an epoch: slot, time, value bits.

use crate::sample::{STALE_NAN_BITS, Samples};
use crate::shard::Slots;

/// Samples of an epoch for which the buffers of a shard stay; what a larger epoch took is given back.
const ROWS_KEPT: usize = 512;
/// In place of the slot of a series that has none yet.
const NO_SLOT: u32 = u32::MAX;
/// Key of a staleness marker: after every sample of its instant. A NaN may have these bits, so it only sorts.
const MARKER_KEY: u64 = u64::MAX;

#[derive(Clone, Copy)]
pub(super) struct SampleRow {
    pub(super) slot: u32,
    pub(super) at_ms: i64,
    key: u64,
    pub(super) value: f64,
}

impl SampleRow {
    pub(super) fn new(slot: u32, at_ms: i64, value: f64) -> SampleRow {
        let bits = value.to_bits();
        SampleRow { slot, at_ms, key: if bits == STALE_NAN_BITS { MARKER_KEY } else { bits }, value }
    }

    pub(super) fn is_marker(&self) -> bool {
        self.value.to_bits() == STALE_NAN_BITS
    }
}

/// Sorts a batch by (slot, at, value bits). Keeps its buffers.
#[derive(Default)]
pub(super) struct BatchOrder {
    pub(super) slots: Vec<u32>,
    starts: Vec<u32>,
    pub(super) rows: Vec<SampleRow>,
}

impl BatchOrder {
    /// The rows of the slot that comes next, from `from` on: none if `from` is another's.
    pub(super) fn of(&self, slot: u32, from: usize) -> usize {
        from + self.rows[from..].iter().take_while(|row| row.slot == slot).count()
    }

    /// Finds the slot of every sample; returns whether some series has none.
    pub(super) fn resolve(&mut self, batch: &Samples, slots: &Slots) -> bool {
        self.slots.clear();
        self.give_back(batch.len());
        self.slots.extend(batch.series.iter().map(|id| slots.get(*id).unwrap_or(NO_SLOT)));
        self.slots.contains(&NO_SLOT)
    }

    /// Gives memory back that only a burst needed, when fewer samples come.
    pub(super) fn give_back(&mut self, n: usize) {
        if n < ROWS_KEPT && self.rows.capacity() > ROWS_KEPT {
            self.rows.clear();
            self.rows.shrink_to(ROWS_KEPT);
            self.slots.shrink_to(ROWS_KEPT);
        }
    }

    pub(super) fn sort(&mut self, batch: &Samples, capacity: usize) {
        let n = batch.len();
        self.rows.clear();
        let row = |i: usize, slot: u32| SampleRow::new(slot, batch.at_ms[i], batch.value[i]);
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
        self.rows.resize(n, SampleRow { slot: 0, at_ms: 0, key: 0, value: 0.0 });
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
