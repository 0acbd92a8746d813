//! Series that take a bootstrap: what they had published, and keys that do not close until the bootstrap ends.
//!
//! While a series takes a bootstrap its keys are passed in silence, as far behind its samples as the raw ring reaches: from
//! the panes that are held, later keys can still be answered. When the bootstrap ends they close, and what waited follows as new samples do.

use super::panes::PaneSpan;
use super::state::{AddedWindow, Marks, NEVER, PrefillKey, PrefillKeys, PrefillState, Windows};
use crate::rows::Rows;
use crate::shard::{AdmittedBatch, BootstrapStep, pane_of};

impl Windows {
    /// Whether the series takes a bootstrap.
    pub(super) fn bootstraps(&self, slot: u32) -> bool {
        self.in_state(slot, PrefillState::Bootstrapping)
    }

    /// Whether the bootstrap of the series has ended and its keys are still to be closed.
    pub(super) fn ended(&self, slot: u32) -> bool {
        self.in_state(slot, PrefillState::Ended)
    }

    fn in_state(&self, slot: u32, state: PrefillState) -> bool {
        !self.prefill.is_empty() && self.prefill.get(&slot).is_some_and(|held| held.state == state)
    }

    /// A bootstrap begins or ends for this series.
    pub(super) fn step(&mut self, slot: u32, step: BootstrapStep, batch: &AdmittedBatch) {
        match step {
            BootstrapStep::Begin { publish_from_ms, had } => {
                let had = batch.raw_at_ms[had.0 as usize..had.1 as usize].to_vec();
                self.hold(slot, publish_from_ms, had);
            }
            BootstrapStep::End => self.set(slot, PrefillState::Ended),
            BootstrapStep::Drop => {
                self.begin_anew(slot);
                self.keys[slot as usize].publish_from = NEVER;
                self.set(slot, PrefillState::Over);
            }
        }
    }

    fn set(&mut self, slot: u32, state: PrefillState) {
        if let Some(held) = self.prefill.get_mut(&slot) {
            held.state = state;
        }
    }

    pub(super) fn hold(&mut self, slot: u32, publish_from_ms: i64, had: Vec<i64>) {
        let marks = &self.marks[slot as usize * self.plans.len()..][..self.plans.len()];
        let published = |of: fn(&Marks) -> i64| marks.iter().map(of).collect::<Vec<_>>();
        let (closed, silent) = (published(|marks| marks.closed), published(|marks| marks.silent));
        let earlier = self.prefill.remove(&slot).map(Box::new);
        let last_key = closed.iter().chain(&silent).copied().max().unwrap_or(NEVER);
        let last_key = last_key.max(earlier.as_ref().map_or(NEVER, |earlier| earlier.last_key));
        let since = self.keys[slot as usize].publish_from;
        let held =
            PrefillKeys { had, closed, silent, last_key, since, earlier, state: PrefillState::Bootstrapping };
        self.prefill.insert(slot, held);
        self.begin_anew(slot);
        self.keys[slot as usize].publish_from = publish_from_ms;
    }

    /// As if no sample of this series had been applied; what was published stays known.
    fn begin_anew(&mut self, slot: u32) {
        self.clear(slot);
        self.made_whole(slot);
        let head = &mut self.heads[slot as usize];
        (head.newest, head.pane_end, head.stored) = (NEVER, NEVER, true);
        (head.next_key, head.open_key, head.sealed) = (i64::MAX, i64::MAX, NEVER);
    }

    /// Applies samples of a bootstrap; keys are passed in silence.
    pub(super) fn bootstrap(&mut self, slot: u32, batch: &AdmittedBatch, new: std::ops::Range<usize>) {
        let mut at_hand = new.start;
        while at_hand < new.end {
            let at = batch.at_ms[at_hand];
            match self.heads[slot as usize].newest {
                NEVER => self.begin(slot, at),
                newest => {
                    self.pass(slot, at - self.settings.allowed_lateness_ms - self.panes.base.pane_ms, newest)
                }
            }
            // One by one: each passes keys.
            at_hand = self.push(slot, (&batch.at_ms, &batch.value), at_hand..at_hand + 1);
            self.heads[slot as usize].last_applied_ms = batch.end.processing_ms;
        }
    }

    /// Closes the keys before `before` without an answer.
    pub(super) fn pass(&mut self, slot: u32, before: i64, newest: i64) {
        let marks = &mut self.marks[slot as usize * self.plans.len()..];
        let mut windows = self.plans.iter().zip(&*marks);
        if !windows.any(|(plan, marks)| before > marks.closed + plan.hop_ms) {
            return;
        }
        let head = &mut self.heads[slot as usize];
        head.store_pane(slot, &mut self.panes);
        let open = head.open_pane(self.panes.base.pane_ms);
        for (w, (plan, marks)) in self.plans.iter().zip(marks).enumerate() {
            if before > marks.closed + plan.hop_ms {
                let to = (pane_of(before, plan.hop_ms) - 1) * plan.hop_ms;
                let floor = AddedWindow::of(&self.added, slot, w).floor(plan);
                let span = PaneSpan { floor, newest_ms: newest };
                self.panes.series(slot, open).build(plan, &mut marks.built, to, span);
                marks.closed = to;
            }
        }
    }

    /// The bootstrap has ended: closes the keys before its newest sample that were not passed.
    pub(super) fn release(&mut self, slot: u32, out: &mut Rows) {
        self.set(slot, PrefillState::Over);
        let newest = self.heads[slot as usize].newest;
        if newest == NEVER {
            return;
        }
        let plans = std::sync::Arc::clone(&self.plans);
        let (mut next_key, mut sealed) = (i64::MAX, NEVER);
        for (w, plan) in plans.iter().enumerate() {
            let closed = self.marks(slot, w).closed;
            let below = (pane_of(newest, plan.hop_ms) - 1) * plan.hop_ms;
            self.close_keys(slot, w, closed, below, out);
            let closed = below.max(closed);
            self.marks(slot, w).closed = closed;
            next_key = next_key.min(closed + plan.hop_ms);
            sealed = sealed.max(closed);
        }
        let head = &mut self.heads[slot as usize];
        (head.next_key, head.open_key, head.sealed) = (next_key, next_key, sealed);
    }

    /// Whether an answer to a key is what was published of it before a bootstrap.
    pub(super) fn unchanged(
        &self,
        slot: u32,
        w: usize,
        at: i64,
        count: u32,
        before: Option<PrefillKey>,
    ) -> bool {
        // Samples are only ever added, so the same count is the same answer. A key with an entry is judged by it.
        before == Some(PrefillKey::Count(count)) && !self.keys[slot as usize].revised.contains_key(&(at, w))
    }

    /// Forgets what was published once late samples cannot touch it any more.
    pub(super) fn let_go(&mut self, slot: u32) {
        if self.prefill.is_empty() {
            return;
        }
        let floor = self.heads[slot as usize]
            .newest
            .saturating_sub(self.settings.allowed_lateness_ms + self.panes.base.pane_ms);
        let over = |held: &PrefillKeys| held.state == PrefillState::Over && held.last_key < floor;
        if self.prefill.get(&slot).is_some_and(over) {
            self.prefill.remove(&slot);
        }
    }
}
