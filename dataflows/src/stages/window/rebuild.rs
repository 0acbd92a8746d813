//! Windows built anew of what the gate holds, when their own part of a snapshot is missing or of another version.
//!
//! The raw ring reaches back over allowed lateness. So each window begins as one that settings have added: its rows are
//! partial until it knows all of its samples, and it answers no key that lay in the past then.

use std::sync::Arc;

use super::reconfigure::mute_to;
use super::state::{AddedWindow, BaseLimit, NEVER, Windows};
use crate::settings::Settings;
use crate::shard::{AdmittedBatch, CarriedSeries, pane_of};

impl Windows {
    /// Of the series that `batch` describes, in a shard of so many slots.
    pub(super) fn rebuild(settings: &Arc<Settings>, batch: &AdmittedBatch, slots: usize) -> Windows {
        let mut windows = Windows::new(Arc::clone(settings));
        windows.give_free(slots);
        batch.given.iter().for_each(|given| windows.give(given));
        batch.carried.iter().for_each(|carried| windows.rebuild_series(carried, batch));
        windows
    }

    fn rebuild_series(&mut self, carried: &CarriedSeries, batch: &AdmittedBatch) {
        let slot = carried.slot;
        let plans = Arc::clone(&self.plans);
        if let Some(publish_from_ms) = carried.bootstrap_from_ms {
            self.hold(slot, publish_from_ms, Vec::new());
        }
        for (w, plan) in plans.iter().enumerate() {
            let known_from = match carried.raw_from_ms {
                NEVER => NEVER,
                from => pane_of(from, plan.hop_ms) * plan.hop_ms,
            };
            let mute_to = mute_to(carried, plan, batch);
            self.added.insert((slot, w as u32), AddedWindow { known_from, mute_to });
        }
        if carried.newest_applied_ms == NEVER {
            return;
        }
        for i in carried.raw.0 as usize..carried.raw.1 as usize {
            let at_ms = batch.raw_at_ms[i];
            if self.heads[slot as usize].newest == NEVER {
                self.begin(slot, at_ms);
            }
            self.push(slot, (&batch.raw_at_ms, &batch.raw_value), i..i + 1);
        }
        if self.heads[slot as usize].newest == NEVER {
            // Of no pane all samples are held: what is known begins behind the newest.
            self.begin(slot, carried.newest_applied_ms);
            self.heads[slot as usize].newest = carried.newest_applied_ms;
        }
        for w in (0..plans.len()).filter(|_| carried.bootstrap_from_ms.is_none()) {
            let closed = self.added_window(slot, w).mute_to;
            let marks = self.marks(slot, w);
            (marks.closed, marks.silent) = (closed, NEVER);
        }
        let head = &mut self.heads[slot as usize];
        head.last_applied_ms = carried.last_applied_ms;
        if carried.raw_from_ms != NEVER {
            let sealed_to = head.newest - self.settings.allowed_lateness_ms;
            self.base_from.insert(slot, BaseLimit { from: carried.raw_from_ms, sealed_to });
        }
        self.sum_up(slot);
        self.arm(slot);
    }
}
