//! Looking at the gate from outside, between epochs. Nothing here changes anything.

use super::ring::NEVER;
use super::state::{Admit, GateSeries};
use crate::rows::inspect::Unavailable;
use crate::shard::{AdmittedBatch, CarriedSeries, RawSamples, SlotAssignment, pane_of};

impl Admit {
    /// The raw samples that are held of a series.
    ///
    /// # Errors
    /// [`NotNow::Unknown`].
    pub fn raw(&self, series: u64) -> Result<RawSamples, Unavailable> {
        let slot = self.slots.get(series).ok_or(Unavailable::Unknown)?;
        let head = &self.heads[slot as usize];
        if head.newest == NEVER {
            return Err(Unavailable::Unknown);
        }
        let (at_ms, value) = head.raw.iter(head.newest).unzip();
        let whole_after_ms = head.raw.whole_after(head.newest, self.settings.raw_kept_ms());
        let bootstrapping = self.bootstraps.takes(slot);
        Ok(RawSamples { slot, newest_ms: head.newest, whole_after_ms, bootstrapping, at_ms, value })
    }

    /// Describes each series that has a slot as if it had just been given one, and as it is carried over, with all its raw
    /// samples.
    pub(super) fn describe(&self, out: &mut AdmittedBatch) {
        for slot in self.slots.given() {
            let head = &self.heads[slot as usize];
            out.given.push(SlotAssignment {
                slot,
                series: self.slots.series(slot),
                withhold_ms: head.tombstone,
                class: self.sets.class(head.class),
            });
            let mut carried = self.carried(slot, self.settings.raw_kept_ms(), self.base_ms);
            carried.raw = head.copy_raw(carried.raw_from_ms, out);
            out.carried.push(carried);
        }
    }

    /// A series as it goes on, without its raw samples; so far back is the raw ring held in panes of this size.
    pub(super) fn carried(&self, slot: u32, held_ms: i64, base_ms: i64) -> CarriedSeries {
        let head = &self.heads[slot as usize];
        let applied = head.newest != NEVER;
        let held_from = if applied { head.raw.held_from(head.newest, held_ms) } else { None };
        CarriedSeries {
            slot,
            newest_ms: head.newest.max(self.bootstraps.newest(slot)),
            newest_applied_ms: head.newest,
            last_applied_ms: head.last_applied_ms,
            bootstrap_from_ms: self.bootstraps.publish_from(slot),
            raw_from_ms: held_from.map_or(NEVER, |from| pane_of(from, base_ms) * base_ms),
            raw: (0, 0),
        }
    }
}

impl GateSeries {
    /// Copies its raw samples after this time to those of the batch; their range there.
    pub(super) fn copy_raw(&self, after_ms: i64, out: &mut AdmittedBatch) -> (u32, u32) {
        let from = out.raw_at_ms.len() as u32;
        if self.newest != NEVER {
            self.raw.copy_pane(self.newest, after_ms, self.newest, &mut out.raw_at_ms, &mut out.raw_value);
        }
        (from, out.raw_at_ms.len() as u32)
    }
}
