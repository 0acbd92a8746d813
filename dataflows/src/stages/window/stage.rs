//! The windows in the list of stages: which method of the contract does what.

use std::sync::Arc;

use super::snapshot;
use super::state::{Marks, NEVER, PrefillKeys, REVISED_BYTES, SeriesHead, SeriesKeys, Windows};
use crate::rows::Rows;
use crate::sample::EpochEnd;
use crate::settings::Settings;
use crate::shard::{AdmittedBatch, ClockChange, SeriesEvents, SlotAssignment, WorkPosition};
use crate::stage::{
    Budget, PartWriter, Progress, Query, SavePoint, SeriesView, Stage, StageInput, StageSpec,
};

/// The windows in the list of stages.
pub const SPEC: StageSpec = StageSpec {
    name: "window",
    version: snapshot::VERSION,
    input: StageInput::Samples,
    new: |settings| Box::new(Windows::new(Arc::clone(settings))),
    load: |settings, part| Ok(Box::new(Windows::load(Arc::clone(settings), part)?)),
    rebuild: Some(|settings, batch, slots| Box::new(Windows::rebuild(settings, batch, slots))),
    series_bytes: Windows::series_bytes,
    keep_ms: |settings| settings.longest_ms().max(settings.allowed_lateness_ms),
    is_concerned: |old, new| {
        let times = |s: &Settings| (s.idle_timeout_ms, s.allowed_lateness_ms, s.catch_up_ms);
        old.windows != new.windows || times(old) != times(new)
    },
};

impl Stage for Windows {
    fn attach(&mut self, position: &Arc<WorkPosition>) {
        self.position = Arc::clone(position);
    }

    fn reconfigure(&mut self, settings: &Arc<Settings>, batch: &AdmittedBatch) {
        self.carry_over(settings, batch);
    }

    fn reset_clock(&mut self, change: &ClockChange) {
        self.set_clock_back(change);
    }

    fn assign(&mut self, slot: &SlotAssignment) {
        self.give(slot);
    }

    fn approach(&self, series: &SeriesEvents<'_>, batch: &AdmittedBatch) {
        if let Some(at_ms) = batch.at_ms.get(series.rest().start) {
            self.approach_panes(series.slot, *at_ms);
        }
    }

    fn observe(&mut self, series: &SeriesEvents<'_>, batch: &AdmittedBatch, out: &mut Rows) {
        let slot = series.slot;
        self.position.on(self.heads[slot as usize].series);
        for (new, step) in series.phases() {
            self.bootstrap(slot, batch, new);
            self.step(slot, step, batch);
        }
        if self.bootstraps(slot) {
            self.bootstrap(slot, batch, series.rest());
        } else {
            self.apply(slot, series.late, batch, series.rest(), out);
        }
    }

    /// Closes what silence closes.
    fn tick(&mut self, end: EpochEnd, budget: &mut Budget, out: &mut Rows) -> Progress {
        let watermark_ms = end.watermark_ms;
        if watermark_ms == NEVER {
            return Progress::Done;
        }
        if !std::mem::replace(&mut self.is_collected, true) {
            // Collected once: a slot armed anew for this very second waits for the next epoch.
            self.collect_due(watermark_ms);
        }
        while let Some(slot) = self.due.pop() {
            self.position.on(self.heads[slot as usize].series);
            let before = out.windows.len();
            if self.due_ms(slot) <= watermark_ms {
                self.silence(slot, watermark_ms, out);
            }
            self.arm(slot);
            budget.spend((out.windows.len() - before) as u64);
            if budget.is_spent() {
                return Progress::More;
            }
        }
        self.is_collected = false;
        Progress::Done
    }

    fn forget(&mut self, slot: u32) {
        self.forget_slot(slot);
    }

    fn bytes(&self) -> usize {
        let revised: usize = self.keys.iter().map(|keys| keys.revised.len() * REVISED_BYTES).sum();
        let heads = self.heads.capacity() * size_of::<SeriesHead>()
            + self.keys.capacity() * size_of::<SeriesKeys>()
            + self.marks.capacity() * size_of::<Marks>();
        let prefill: usize = self.prefill.values().map(PrefillKeys::bytes).sum();
        let added = self.added.len() * 40 + self.base_from.len() * 32;
        heads + self.panes.bytes() + self.timers.bytes() + revised + prefill + self.sealing.bytes() + added
    }

    fn continues(&self, chain: usize) -> bool {
        self.sealing.continues(chain)
    }

    fn begin_save(&mut self, at: SavePoint, live: usize) -> PartWriter {
        self.begin_part(at, live)
    }

    fn save_some(&mut self, part: &mut PartWriter, at: SavePoint, live: &[u32], at_most: usize) -> Progress {
        self.save_slots(part, at, live, at_most)
    }

    fn inspect(&self, query: &Query<'_>, view: &mut SeriesView) {
        match *query {
            Query::Presence | Query::Raw | Query::Steps => {}
            Query::Check => {
                view.check =
                    view.raw.as_ref().ok().filter(|raw| !raw.bootstrapping).map(|raw| self.check(raw));
            }
            Query::Explain { window_ms, at_ms } => {
                let raw = view.raw.as_ref().ok();
                view.explanation = raw.and_then(|raw| self.explain(view.epoch, raw, window_ms, at_ms));
            }
            Query::Open { lengths_ms } => {
                let open = view.slot.map(|slot| self.open(slot, view.series, lengths_ms, view.processing_ms));
                view.open = open.unwrap_or_default();
            }
        }
    }
}
