//! Looking at the gate from outside, between epochs. Nothing here changes anything.

use super::{Admit, NEVER};
use crate::rows::inspect::Unavailable;
use crate::sample::SeriesId;
use crate::shard::RawSamples;

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

    /// The series in the slot of this number, or near it.
    pub fn near(&self, number: u64) -> Option<SeriesId> {
        self.slots.near(number)
    }
}
