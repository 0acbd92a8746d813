//! What windows show that are not closed yet. Nothing here changes anything.

use super::panes::PaneSpan;
use super::row;
use super::state::{NEVER, Windows};
use crate::rows::WindowStats;
use crate::sample::SeriesId;

impl Windows {
    /// The windows of these lengths (all of them, if none is named) that end at their next key after `processing_ms`, as far
    /// as they are filled: each that holds a sample. A series that takes a bootstrap shows none.
    ///
    /// A row is partial also if it reaches back to samples that were forgotten, or to panes that left their ring: those
    /// of a series that is ahead of `processing_ms` by more than lateness.
    pub fn open(
        &self,
        slot: u32,
        series: SeriesId,
        lengths_ms: &[i64],
        processing_ms: i64,
    ) -> Vec<WindowStats> {
        let Some(head) = self.heads.get(slot as usize) else { return Vec::new() };
        // The gate may be ahead, and have given the slot to another one.
        if head.series != series || head.newest == NEVER || processing_ms == NEVER || self.bootstraps(slot) {
            return Vec::new();
        }
        let keys = &self.keys[slot as usize];
        let mut panes = None;
        let mut rows = Vec::with_capacity(self.plans.len());
        for (w, plan) in self.plans.iter().enumerate() {
            let at_ms = (processing_ms.div_euclid(plan.hop_ms) + 1).saturating_mul(plan.hop_ms);
            let asked = lengths_ms.is_empty() || lengths_ms.contains(&plan.length_ms);
            if !asked || at_ms.saturating_sub(plan.length_ms) >= head.newest {
                continue;
            }
            // On a copy: what is built for this answer must not be found by the next sample.
            let panes = panes.get_or_insert_with(|| self.copy_panes(slot));
            let mut built = self.marks[slot as usize * self.plans.len() + w].built;
            let young = self.added_window(slot, w);
            // What a ring still holds of older panes depends on when it was loaded.
            let oldest = plan.oldest(head.newest);
            let floor = young.floor(plan).max(oldest - 1);
            let left = oldest > *plan.numbers(at_ms).start();
            if left {
                built.forget_partials();
            }
            let span = PaneSpan { floor, newest_ms: head.newest };
            panes.series().build(plan, &mut built, at_ms, span);
            let moments = panes.series().combine(plan, &mut built, floor, (at_ms, None));
            if moments.is_empty() {
                continue;
            }
            let known = keys.revised.get(&(at_ms, w));
            let from_ms = at_ms - plan.length_ms;
            let partial = left || from_ms < young.known_from.max(keys.withhold);
            let revision = known.map_or(0, |revised| revised.revision);
            rows.push(row::of_moments(series, plan, at_ms, &moments, (revision, partial)));
        }
        rows
    }
}
