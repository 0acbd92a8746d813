//! A clock that was set back: what the gate keeps of its state.
//!
//! Processing time and the watermark never go back, except here. No sample was applied later than the clock says now, and
//! what lies further ahead of it than a sample may is of a wrong clock: such series are forgotten whole, as if they had never
//! been there, and begin anew with their next sample.

use std::sync::Arc;

use super::ring::NEVER;
use super::state::Admit;
use crate::sample::{Control, ahead_of};
use crate::shard::{AdmittedBatch, ClockChange, Timers};

impl Admit {
    /// Takes note of a reset of the clock, which comes in an epoch without samples.
    pub(super) fn reset_clock(&mut self, controls: &[Arc<Control>], out: &mut AdmittedBatch) {
        let resets = controls.iter().filter_map(|control| match &**control {
            Control::ClockReset { to_ms } => Some(*to_ms),
            _ => None,
        });
        let Some(to_ms) = resets.min() else { return };
        out.quarantined.sort_unstable();
        self.timers = Timers::default();
        let given: Vec<u32> = self.slots.given().collect();
        let (mut slots, mut wrong) = (Vec::with_capacity(given.len()), Vec::new());
        for slot in given.into_iter().filter(|slot| out.quarantined.binary_search(slot).is_err()) {
            self.position.on(self.slots.series(slot));
            let newest = self.bootstraps.newest(slot);
            let head = &mut self.heads[slot as usize];
            head.armed = i64::MAX;
            head.last_applied_ms = head.last_applied_ms.min(to_ms);
            if ahead_of(to_ms, head.newest.max(head.tombstone).max(newest)) {
                self.bootstraps.forget(slot);
                wrong.push(slot);
            } else {
                slots.push(slot);
            }
        }
        out.quarantined.extend(wrong);
        slots.iter().for_each(|slot| self.arm(*slot, NEVER));
        self.tombstones.set_back(to_ms);
        self.bootstraps.set_back(to_ms);
        if self.rejects.minute != NEVER {
            self.rejects.set_back(to_ms);
        }
        out.clock = Some(ClockChange { to_ms, slots });
    }
}
