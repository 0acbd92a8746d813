//! A clock that was set back: what a shard's windows keep of their state.
//!
//! All that hangs on the times of samples stays. What was judged by the clock is lowered: when a series last applied a sample, before
//! which keys are withheld or not published, and up to where an added window is silent.

use super::state::{NEVER, Windows};
use crate::sample::{AHEAD_MS_MAX, ahead_of, set_back};
use crate::shard::{ClockChange, Timers};

impl Windows {
    /// Goes on under a clock that says `to_ms`.
    pub(super) fn set_clock_back(&mut self, set: &ClockChange) {
        let to_ms = set.to_ms;
        self.timers = Timers::default();
        self.reshaped_to = self.reshaped_to.min(to_ms.saturating_add(AHEAD_MS_MAX));
        let longest_ms = self.plans.iter().map(|plan| plan.length_ms).max().unwrap_or(0);
        for slot in set.slots.iter().copied() {
            let (head, keys) = (&mut self.heads[slot as usize], &mut self.keys[slot as usize]);
            self.position.on(head.series);
            head.last_applied_ms = head.last_applied_ms.min(to_ms);
            head.armed = i64::MAX;
            // No key that holds a sample could be answered, so none that silence closed was.
            let reach = head.newest.max(to_ms).saturating_add(longest_ms);
            if ahead_of(to_ms, keys.withhold) || keys.publish_from > reach {
                keys.withhold = set_back(to_ms, keys.withhold);
                keys.publish_from = if keys.publish_from > reach { to_ms } else { keys.publish_from };
                let of = slot as usize * self.plans.len();
                self.marks[of..of + self.plans.len()].iter_mut().for_each(|marks| marks.silent = NEVER);
            }
            self.unmute(slot, to_ms);
            self.arm(slot);
        }
    }

    /// Lets windows answer again that were added under a clock so far ahead that none of their keys could be.
    fn unmute(&mut self, slot: u32, to_ms: i64) {
        let newest = self.heads[slot as usize].newest;
        let (latest, mut changed) = (newest.max(to_ms), false);
        for w in 0..self.plans.len() {
            let plan = self.plans[w];
            let Some(young) = self.added.get_mut(&(slot, w as u32)) else { continue };
            if young.mute_to <= latest.saturating_add(plan.length_ms) {
                continue;
            }
            young.mute_to = latest.div_euclid(plan.hop_ms) * plan.hop_ms;
            let mute_to = young.mute_to;
            if newest != NEVER {
                let marks = self.marks(slot, w);
                (marks.closed, marks.silent) = (mute_to.min(marks.closed), NEVER);
                changed = true;
            }
        }
        if changed {
            self.sum_up(slot);
        }
    }
}
