//! What one key of a series is made of, as far as it is still held. Nothing here changes anything.

use super::panes::PaneSpan;
use super::state::{NEVER, Windows};
use crate::rows::inspect::{Explanation, PaneView};
use crate::shard::RawSamples;

impl Windows {
    /// What is known of the key `at_ms` of the window of this length; `None` if there is no such window.
    pub fn explain(&self, epoch: u64, raw: &RawSamples, window_ms: i64, at_ms: i64) -> Option<Explanation> {
        let w = self.plans.iter().position(|plan| plan.length_ms == window_ms)?;
        let (plan, head) = (&self.plans[w], &self.heads[raw.slot as usize]);
        let keys = &self.keys[raw.slot as usize];
        let marks = &self.marks[raw.slot as usize * self.plans.len() + w];
        // On a copy: a key that is not closed has panes that are not built yet.
        let mut panes = self.copy_panes(raw.slot);
        let mut built = marks.built;
        let floor = self.added_window(raw.slot, w).floor(plan);
        let span = PaneSpan { floor, newest_ms: raw.newest_ms };
        panes.series().build(plan, &mut built, at_ms, span);
        let oldest = plan.oldest(raw.newest_ms).max(floor.saturating_add(1));
        let seen = |number: i64| {
            let pane = plan.pane(&panes.record, number);
            let start_ms = (number - 1) * plan.hop_ms;
            (!pane.is_empty()).then(|| PaneView {
                start_ms,
                end_ms: number * plan.hop_ms,
                count: pane.count,
                min: pane.min,
                max: pane.max,
                avg: pane.avg(),
                raw: raw.whole(start_ms),
            })
        };
        let known = |ms: i64| (ms != NEVER).then_some(ms);
        Some(Explanation {
            epoch,
            newest_ms: raw.newest_ms,
            last_applied_ms: head.last_applied_ms,
            closed_ms: marks.closed,
            bootstrapping: raw.bootstrapping,
            withheld_ms: known(keys.withhold),
            publish_from_ms: known(keys.publish_from),
            held_from_ms: (oldest - 1) * plan.hop_ms,
            panes: plan.numbers(at_ms).filter(|number| *number >= oldest).filter_map(seen).collect(),
        })
    }
}
