//! Late samples: base panes are folded again from their raw samples, and the closed keys that hold them are answered anew.

use std::sync::Arc;

use super::state::{NEVER, Windows};
use crate::kernels::moments::Moments;
use crate::mutants::{Mutant, mutant};
use crate::rows::Rows;
use crate::shard::{AdmittedBatch, LatePane, pane_of};

impl Windows {
    /// Refolds the base panes that late samples touched and notes the closed keys that hold them.
    pub(super) fn refold(&mut self, slot: u32, late: &[LatePane], batch: &AdmittedBatch) {
        let plans = Arc::clone(&self.plans);
        self.reopened.clear();
        self.reopened.resize(plans.len(), i64::MAX);
        // The next sample reads the newest pane again, for it may be one of these.
        self.store_pane(slot);
        self.heads[slot as usize].pane_end = NEVER;
        for pane in late {
            let raw = pane.raw.0 as usize..pane.raw.1 as usize;
            let mut moments = Moments { tag: pane.pane as u32, ..Moments::EMPTY };
            batch.raw_at_ms[raw.clone()]
                .iter()
                .zip(&batch.raw_value[raw])
                .for_each(|(at, value)| moments.push(*at, *value));
            let base = self.panes.base;
            self.panes.of_mut(slot).set_pane(&base, pane.pane, &moments);
            self.forget_built(slot, pane.pane * self.panes.base.pane_ms);
            for at in &batch.late_at_ms[pane.late.0 as usize..pane.late.1 as usize] {
                for (w, plan) in plans.iter().enumerate() {
                    if *at <= self.added_window(slot, w).known_from {
                        continue;
                    }
                    let closed = self.marks(slot, w).closed;
                    let mut key = pane_of(*at, plan.hop_ms) * plan.hop_ms;
                    while key < at + plan.length_ms && key <= closed {
                        self.dirty.push((w, key));
                        key += plan.hop_ms;
                    }
                }
            }
        }
        self.dirty.sort_unstable();
        self.dirty.dedup();
    }

    /// Emits the noted keys below `before` anew.
    pub(super) fn correct(
        &mut self,
        slot: u32,
        late: &[LatePane],
        batch: &AdmittedBatch,
        new: std::ops::Range<usize>,
        before: i64,
        out: &mut Rows,
    ) {
        let mut dirty = std::mem::take(&mut self.dirty);
        let late_at =
            late.first().zip(late.last()).map_or(0..0, |(a, b)| a.late.0 as usize..b.late.1 as usize);
        let added_at = [&batch.late_at_ms[late_at], &batch.at_ms[new]];
        dirty.retain(|(w, at)| {
            let (w, at) = (*w, *at);
            if at >= before {
                return true;
            }
            let closed = self.marks(slot, w).closed;
            if at <= closed && at > self.reopened[w] {
                return false; // closed anew, and answered, in this epoch
            }
            if let Some(moments) = self.answer(slot, w, at) {
                let from = (at - self.plans[w].length_ms).max(self.added_window(slot, w).known_from);
                // Both rise, so that this does not grow with how far back late samples are taken.
                let within = |all: &[i64]| {
                    all.partition_point(|t| *t <= at) - all.partition_point(|t| *t <= from.min(at))
                };
                let added: usize = added_at.iter().map(|all| within(all)).sum();
                self.emit(slot, w, at, &moments, moments.count as usize > added, at > closed, out);
            }
            if at > closed {
                // Samples may still come into what was built for this answer.
                let plan = self.plans[w];
                self.marks(slot, w).built.forget(&plan, closed + 1);
                if mutant(Mutant::OtherPanesForgotten) {
                    self.forget_built(slot, closed + 1);
                }
            }
            false
        });
        self.dirty = dirty;
    }
}
