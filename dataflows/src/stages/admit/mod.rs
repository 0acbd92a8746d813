//! `admit`: the second gate. Orders each epoch's batch, refuses duplicates and what is too old, merges late
//! samples into the raw ring, gives and frees slots.
//!
//! ```text
//!  samples ──exchange by shard──► [ admit ×workers ] ──► Admitted, one per epoch and shard
//! ```
//!
//! Not here: windows, or any judgement about silence other than when a slot may be freed.
//!
//! # State
//! Per series about 170 bytes and the raw ring: 12 bytes a sample over lateness and one base pane, 16 a sample of a step
//! more (0.7 KB at 15 s), at most `limits.late_samples`. Per forgotten series a tombstone of 16 bytes. Per series in a
//! bootstrap the live samples that wait for its end, 16 bytes each.

mod bootstrap;
mod class_sets;
mod classes;
#[cfg(test)]
mod classes_tests;
mod clock;
mod inspect;
mod late;
mod order;
mod quarantine;
mod reconfigure;
mod rejects;
mod ring;
mod snapshot;
mod state;
mod waiting;

use std::collections::BTreeSet;
use std::sync::Arc;

use self::class_sets::{EarlyClasses, OptionSets};
use self::late::{close_late, close_late_steps, pane_start};
use self::order::{BatchOrder, SampleRow};
pub use self::rejects::REJECT_ROWS_MAX;
use self::rejects::Rejects;
use self::ring::{NEVER, RawRing};
pub use self::state::Admit;
use self::state::{GateSeries, Tombstones};
use self::waiting::OpenBootstraps;
use crate::driver::EpochBatch;
use crate::mutants::{Mutant, mutant};
use crate::rows::SeriesPresence;
use crate::sample::{EpochEnd, Reason, Samples, SeriesId, ahead_of};
use crate::settings::{STEP_MS, Settings};
use crate::shard::{AdmittedBatch, SlotAssignment, Slots, Timers, WorkPosition, pane_of, wait_ms};
use crate::stage::{
    PartWriter, Query, SERIES_APPROACHED, SavePoint, SeriesView, Stage, StageInput, StageSpec,
};

impl Admit {
    /// An empty shard.
    pub fn new(settings: Arc<Settings>) -> Self {
        let tombstones_max = (settings.series_max / 256) as usize;
        Admit {
            base_ms: settings.base_ms(),
            slots: Slots::default(),
            heads: Vec::new(),
            timers: Timers::default(),
            tombstones: Tombstones { max: tombstones_max, floor: NEVER, ..Tombstones::default() },
            early: EarlyClasses { max: tombstones_max, ..EarlyClasses::default() },
            sets: OptionSets::default(),
            rejects: Rejects::default(),
            bootstraps: OpenBootstraps::default(),
            quarantined: BTreeSet::new(),
            order: BatchOrder::default(),
            position: Arc::default(),
            keep_ms: |settings| settings.allowed_lateness_ms + settings.idle_timeout_ms,
            ended: Vec::new(),
            settings,
        }
    }

    /// Bytes that one series takes, of samples 15 s apart.
    pub fn series_bytes(settings: &Settings) -> usize {
        let kept_ms = settings.raw_kept_ms().unsigned_abs() as usize;
        let raw = (kept_ms / 15_000 + 1).min(settings.late_samples_max as usize) * 12;
        let older = (STEP_MS as usize / 15_000 + 2) * 16;
        // The slot with its maps and its timer.
        size_of::<GateSeries>() + 48 + raw + older
    }

    /// Bytes of state.
    fn state_bytes(&self) -> usize {
        let rings: usize = self.heads.iter().map(|head| head.raw.bytes()).sum();
        let heads = self.heads.capacity() * size_of::<GateSeries>();
        self.slots.bytes()
            + heads
            + rings
            + self.timers.bytes()
            + self.tombstones.bytes()
            + self.early.bytes()
            + self.bootstraps.bytes()
    }

    /// Gives slots to the series of these batches that have none, by rising id.
    fn give_slots<'a>(
        &mut self,
        batches: impl Iterator<Item = &'a Samples>,
        end: EpochEnd,
        out: &mut AdmittedBatch,
    ) {
        let ids = batches.flat_map(|batch| batch.series.iter().copied());
        let mut unknown: Vec<u64> = ids.filter(|id| self.slots.get(*id).is_none()).collect();
        unknown.sort_unstable();
        unknown.dedup();
        for series in unknown {
            let slot = self.slots.give(series);
            let tombstone = self.tombstones.take(series);
            let class = self.early.of.remove(&series).unwrap_or_default();
            let head = GateSeries {
                newest: NEVER,
                last_applied_ms: end.processing_ms,
                tombstone: tombstone.unwrap_or(NEVER),
                armed: i64::MAX,
                class,
                raw: RawRing::default(),
            };
            match self.heads.get_mut(slot as usize) {
                Some(old) => *old = head,
                None => self.heads.push(head),
            }
            let withhold_ms = tombstone.unwrap_or(self.tombstones.floor);
            let class = self.sets.class(class);
            out.given.push(SlotAssignment { slot, series: SeriesId(series), withhold_ms, class });
            self.arm(slot, NEVER); // its first due time is judged at the end of this epoch
            out.counts.slots_given += 1;
        }
    }

    /// Applies the rows of one series: late ones come first, for they are the oldest.
    fn apply(&mut self, slot: u32, rows: &[SampleRow], end: EpochEnd, out: &mut AdmittedBatch) {
        let head = &mut self.heads[slot as usize];
        let series = self.slots.series(slot);
        self.position.on(series);
        let (ring_max, allowed_lateness_ms, base_ms) =
            (self.settings.late_samples_max as usize, self.settings.allowed_lateness_ms, self.base_ms);
        let (late_from, kept_ms) = (out.late_at_ms.len(), self.settings.raw_kept_ms());
        let (mut applied, first) = (0, head.newest == NEVER);
        for row in rows {
            if row.is_marker() {
                out.counts.stale_markers += 1;
                continue;
            }
            let behind = head.newest != NEVER && row.at_ms < head.newest - allowed_lateness_ms;
            let verdict = if behind || row.at_ms <= head.tombstone {
                Err(Reason::TooOld)
            } else if !row.value.is_finite() {
                Err(Reason::NotFinite)
            } else if row.at_ms > head.newest {
                close_late(head, slot, base_ms, late_from, out);
                close_late_steps(head, slot, late_from, out);
                head.raw.push(head.newest, row.at_ms, row.value, row.at_ms - kept_ms, ring_max);
                head.newest = row.at_ms;
                out.slot.push(slot);
                out.at_ms.push(row.at_ms);
                out.value.push(row.value);
                Ok(())
            } else {
                // Merging may push out samples of the pane before: that one is handed on while it is whole.
                if out.late_at_ms[late_from..]
                    .last()
                    .is_some_and(|at| pane_of(*at, base_ms) != pane_of(row.at_ms, base_ms))
                {
                    close_late(head, slot, base_ms, late_from, out);
                }
                head.raw
                    .merge(head.newest, row.at_ms, row.value, pane_start(row.at_ms, base_ms), ring_max)
                    .map(|()| {
                        out.late_at_ms.push(row.at_ms);
                        out.counts.late += 1;
                    })
            };
            match verdict {
                Ok(()) => applied += 1,
                Err(reason) => {
                    out.counts.rejected[reason as usize] += 1;
                    self.rejects.add(series, reason, row.at_ms);
                }
            }
        }
        close_late(head, slot, base_ms, late_from, out);
        close_late_steps(head, slot, late_from, out);
        if applied > 0 {
            head.last_applied_ms = end.processing_ms;
            out.counts.applied += applied;
            let newest = head.newest;
            if first && !mutant(Mutant::TimerNotArmed) {
                // Its timer stands where it does for a slot without a sample, which may be later.
                self.arm(slot, newest.saturating_add((self.keep_ms)(&self.settings)));
            }
        }
    }

    /// Reads the ends of the raw rings of the next slots, so that memory is waited for once for several series. The row up to
    /// which that is done.
    fn approach(&self, rows: &[SampleRow], from: usize) -> usize {
        let (mut at, mut slots, mut read) = (from, 0, 0);
        while at < rows.len() && slots < SERIES_APPROACHED {
            let slot = rows[at].slot;
            read ^= self.heads[slot as usize].raw.approach();
            slots += 1;
            at += rows[at..].iter().take_while(|row| row.slot == slot).count();
        }
        std::hint::black_box(read);
        at
    }

    /// Looks at a slot once the watermark is at or after `due_ms`, if it is not to be looked at before.
    fn arm(&mut self, slot: u32, due_ms: i64) {
        let armed = &mut self.heads[slot as usize].armed;
        if due_ms < *armed {
            *armed = due_ms;
            self.timers.arm(slot, due_ms);
        }
    }

    /// Slots to look at; none before there is a watermark.
    fn due(&mut self, watermark_ms: i64) -> Option<Vec<u32>> {
        if watermark_ms == NEVER {
            return None;
        }
        let (bucket, mut slots) = self.timers.due(watermark_ms)?;
        // A slot that was armed for an earlier time since, or was freed, has no mark here any more.
        slots.retain(|slot| {
            let armed = &mut self.heads[*slot as usize].armed;
            let here = Timers::bucket(*armed) == bucket;
            if here {
                *armed = i64::MAX;
            }
            here
        });
        Some(slots)
    }

    fn free_slots(&mut self, end: EpochEnd, out: &mut AdmittedBatch, holds: &dyn Fn(u32) -> bool) {
        let keep = (self.keep_ms)(&self.settings);
        out.freed.extend_from_slice(&out.quarantined);
        let mut again = Vec::new();
        while let Some(slots) = self.due(end.watermark_ms) {
            for slot in slots {
                let head = &self.heads[slot as usize];
                let newest = if head.newest == NEVER { head.last_applied_ms } else { head.newest };
                let quiet = end.watermark_ms > newest.saturating_add(keep)
                    && end.processing_ms > head.last_applied_ms.saturating_add(keep);
                let bootstrapping = self.bootstraps.takes(slot);
                let silent = head.newest == NEVER
                    || head.last_applied_ms.saturating_add(wait_ms(
                        &self.settings,
                        head.last_applied_ms,
                        head.newest,
                    )) <= end.watermark_ms;
                // Who forgets a series when its slot is freed needs its labels no more.
                let unpublished = self.rejects.hold(self.slots.series(slot)) || holds(slot);
                if quiet && silent && !bootstrapping && !unpublished {
                    out.freed.push(slot);
                } else {
                    // Looked at again when the watermark has come far enough; each epoch if only processing time lacks.
                    again.push((slot, newest.saturating_add(keep).max(end.watermark_ms)));
                }
            }
        }
        again.into_iter().for_each(|(slot, due)| self.arm(slot, due));
        out.freed.sort_unstable();
        for slot in out.freed.iter().copied() {
            let head = &mut self.heads[slot as usize];
            let series = self.slots.series(slot);
            let forgotten = head.newest.max(head.tombstone);
            let wrong = out.clock.as_ref().is_some_and(|clock| ahead_of(clock.to_ms, forgotten));
            if forgotten != NEVER && !wrong {
                self.tombstones.put(series.0, forgotten);
            }
            head.raw = RawRing::default();
            head.armed = i64::MAX;
            // Whoever said so does not say it again while the labels are known.
            self.early.put(series.0, std::mem::take(&mut head.class));
            self.bootstraps.forget(slot);
            self.slots.free(slot);
            out.freed_series.push(series);
        }
        out.counts.slots_freed += out.freed.len() as u64;
    }

    /// What is known of a series, as of the last epoch retired.
    pub fn presence(&self, series: u64) -> SeriesPresence {
        let slot = self.slots.get(series);
        // Of a series in a bootstrap no key at or after the first sample that waits is final.
        if let Some(first_ms) = slot.and_then(|slot| self.bootstraps.first(slot)) {
            let newest_ms = self.heads[slot.expect("it takes a bootstrap") as usize].newest;
            return SeriesPresence::Live { newest_ms: if newest_ms == NEVER { first_ms } else { newest_ms } };
        }
        match slot.map(|slot| &self.heads[slot as usize]) {
            Some(head) if head.newest != NEVER => SeriesPresence::Live { newest_ms: head.newest },
            Some(head) => SeriesPresence::Given {
                freed_ms: Some(head.tombstone).filter(|tombstone| *tombstone != NEVER),
            },
            None => {
                let tombstone = self.tombstones.newest.get(&series);
                tombstone.map_or(SeriesPresence::Unknown, |newest_ms| SeriesPresence::Freed {
                    newest_ms: *newest_ms,
                })
            }
        }
    }
}

/// The gate in the list of stages.
pub const SPEC: StageSpec = StageSpec {
    name: "admit",
    version: snapshot::VERSION,
    input: StageInput::Samples,
    new: |settings| Box::new(Admit::new(Arc::clone(settings))),
    load: |settings, part| Ok(Box::new(Admit::load(Arc::clone(settings), part)?)),
    rebuild: None,
    series_bytes: Admit::series_bytes,
    keep_ms: |settings| settings.allowed_lateness_ms,
    // It hears of other settings before all others, from the controls themselves.
    is_concerned: |_, _| false,
};

impl Stage for Admit {
    fn attach(&mut self, position: &Arc<WorkPosition>) {
        self.position = Arc::clone(position);
    }

    fn keep_slots_for(&mut self, keep_ms: fn(&Settings) -> i64) {
        self.keep_ms = keep_ms;
    }

    fn retire(&mut self, input: &EpochBatch<'_>, out: &mut AdmittedBatch) {
        let EpochBatch { shard, end, controls, bootstraps, live, .. } = *input;
        // Before other settings, which may be what such a series panics at.
        self.apply_quarantines(shard, controls, out);
        let before = self.apply_settings(controls, out);
        self.ended = self.bootstraps.observe(controls);
        self.reset_clock(controls, out);
        self.take_classes(before.as_deref(), out);
        let without;
        let (live, bootstraps) = if self.quarantined.is_empty() {
            (live, bootstraps)
        } else {
            without = self.keep_out(live, bootstraps, out);
            (&without.0, &without.1[..])
        };
        let mut order = std::mem::take(&mut self.order);
        if !live.is_empty() {
            if order.resolve(live, &self.slots) {
                self.give_slots([live].into_iter().chain(bootstraps), end, out);
                order.resolve(live, &self.slots);
            }
            order.sort(live, self.slots.capacity());
            out.slot.reserve(live.len());
            out.at_ms.reserve(live.len());
            out.value.reserve(live.len());
        } else {
            order.rows.clear();
            order.give_back(0);
        }
        if bootstraps.is_empty() && self.bootstraps.is_idle() {
            let (mut from, mut approached) = (0, 0);
            while from < order.rows.len() {
                if from >= approached {
                    approached = self.approach(&order.rows, from);
                }
                let slot = order.rows[from].slot;
                let to = order.of(slot, from);
                self.apply(slot, &order.rows[from..to], end, out);
                from = to;
            }
        } else {
            let ended = std::mem::take(&mut self.ended);
            self.apply_with_bootstraps(&order, bootstraps, &ended, end, out);
            self.ended = ended;
        }
        self.order = order;
    }

    fn end(&mut self, out: &mut AdmittedBatch, holds: &dyn Fn(u32) -> bool) {
        self.bootstraps.close(&std::mem::take(&mut self.ended));
        self.free_slots(out.end, out, holds);
        self.rejects.flush(out.end, &mut out.rejects);
    }

    fn slots(&self) -> Option<&Slots> {
        Some(&self.slots)
    }

    fn introduce(&self, batch: &mut AdmittedBatch) {
        self.describe(batch);
    }

    fn bytes(&self) -> usize {
        self.state_bytes()
    }

    fn begin_save(&mut self, _: SavePoint, _: usize) -> PartWriter {
        let mut part = PartWriter::default();
        self.save(&mut part.state);
        part
    }

    fn inspect(&self, query: &Query<'_>, view: &mut SeriesView) {
        if let Query::Presence = query {
            view.presence = Some(self.presence(view.series.0));
        } else {
            view.raw = self.raw(view.series.0);
        }
    }
}
