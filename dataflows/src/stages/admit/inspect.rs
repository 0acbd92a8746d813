//! Looking at the gate from outside, between epochs. Nothing here changes anything.

use super::{Admit, NEVER};
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
        let span_ms = self.settings.allowed_lateness_ms + self.base_ms;
        let whole_after_ms = head.raw.whole_after(head.newest, span_ms);
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
            });
            let newest_ms = head.newest.max(self.bootstraps.newest(slot));
            let from = out.raw_at_ms.len() as u32;
            let mut raw_from_ms = NEVER;
            if head.newest != NEVER {
                let held_ms = self.settings.allowed_lateness_ms + self.base_ms;
                if let Some(held_from) = head.raw.held_from(head.newest, held_ms) {
                    raw_from_ms = pane_of(held_from, self.base_ms) * self.base_ms;
                }
                let (at_ms, value) = (&mut out.raw_at_ms, &mut out.raw_value);
                head.raw.copy_pane(head.newest, raw_from_ms, head.newest, at_ms, value);
            }
            let raw = (from, out.raw_at_ms.len() as u32);
            let (newest_applied_ms, last_applied_ms) = (head.newest, head.last_applied_ms);
            out.carried.push(CarriedSeries {
                slot,
                newest_ms,
                newest_applied_ms,
                last_applied_ms,
                bootstrap_from_ms: self.bootstraps.publish_from(slot),
                raw_from_ms,
                raw,
            });
        }
    }
}
