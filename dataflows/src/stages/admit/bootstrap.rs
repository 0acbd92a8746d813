//! Bootstraps: history that is applied before the live samples of its series.
//!
//! A series takes a bootstrap at its first sample of it, if it has applied none or still has all of them: its state then
//! begins anew. Until the bootstrap ends, its samples apply as they rise, and live samples wait in a ring of their own,
//! judged among themselves; those of the bootstrap that are not older than the ring's first join them there, so that what
//! is applied stays below what waits. When the bootstrap ends the ring is applied, as if it had come just then. A ring that is
//! full before that throws out the bootstrap: the series is what its live samples alone make of it.
//!
//! Not here: which keys are published (`window` is told by [`Phase`]).

use super::order::{BatchOrder, SampleRow};
use super::ring::{NEVER, RawRing, RingPlace};
use super::state::{Admit, GateSeries};
use super::waiting::{SeriesBootstrap, WaitingSamples, Waits};
use crate::sample::{EpochEnd, Reason, Samples};
use crate::shard::{AdmittedBatch, BootstrapPhase, BootstrapStep};

/// Rows of one slot and one bootstrap.
type BootstrapRows<'a> = (u64, &'a [SampleRow]);

impl Admit {
    /// The samples of an epoch in which series take bootstraps.
    pub(super) fn apply_with_bootstraps(
        &mut self,
        live: &BatchOrder,
        bootstraps: &[Samples],
        ended: &[u64],
        end: EpochEnd,
        out: &mut AdmittedBatch,
    ) {
        self.give_slots(bootstraps.iter(), end, out);
        let orders: Vec<(u64, BatchOrder)> = bootstraps
            .iter()
            .map(|samples| {
                let mut order = BatchOrder::default();
                order.resolve(samples, &self.slots);
                order.sort(samples, self.slots.capacity());
                (samples.bootstrap, order)
            })
            .collect();
        // A series may take a bootstrap in the very epoch that ends it.
        let mut ending: Vec<u32> = self.bootstraps.of(ended);
        for (_, order) in orders.iter().filter(|(bootstrap, _)| ended.contains(bootstrap)) {
            ending.extend(order.rows.iter().map(|row| row.slot));
        }
        ending.sort_unstable();
        ending.dedup();
        let mut places = vec![0; orders.len()];
        let (mut from, mut ends) = (0, 0);
        loop {
            let slots = orders.iter().zip(&places).filter_map(|((_, order), at)| order.rows.get(*at));
            let slots = slots.chain(live.rows.get(from)).map(|row| row.slot);
            let Some(slot) = slots.chain(ending.get(ends).copied()).min() else { break };
            let mut rows: Vec<BootstrapRows> = Vec::new();
            for ((bootstrap, order), place) in orders.iter().zip(&mut places) {
                let to = order.of(slot, *place);
                if to > *place {
                    rows.push((*bootstrap, &order.rows[*place..to]));
                }
                *place = to;
            }
            let to = live.of(slot, from);
            if ending.get(ends) == Some(&slot) {
                ends += 1;
            }
            self.apply_series(slot, &rows, &live.rows[from..to], ended, end, out);
            from = to;
        }
    }

    /// One series: samples of bootstraps, then what waited if its bootstrap ends here, then live samples.
    fn apply_series(
        &mut self,
        slot: u32,
        bootstraps: &[BootstrapRows],
        live: &[SampleRow],
        ended: &[u64],
        end: EpochEnd,
        out: &mut AdmittedBatch,
    ) {
        self.position.on(self.slots.series(slot));
        let mut rest = Vec::new();
        for (bootstrap, rows) in bootstraps {
            for row in *rows {
                self.apply_bootstrapped(*bootstrap, row, end, &mut rest, out);
            }
        }
        let taking = self.bootstraps.takings.get(&slot).filter(|taking| taking.waiting.is_some());
        if taking.is_some_and(|taking| ended.contains(&taking.bootstrap)) {
            self.leave(slot, BootstrapStep::End, &mut rest, out);
            // However long the bootstrap of other series took, this one is waited for from now on.
            self.heads[slot as usize].last_applied_ms = end.processing_ms;
        }
        for (at, row) in live.iter().enumerate() {
            if !self.bootstraps.takes(slot) {
                self.join(slot, &mut rest, &live[at..], out);
                break;
            }
            self.wait(row, end, &mut rest, out);
        }
        if !rest.is_empty() {
            self.apply(slot, &rest, end, out);
        }
    }

    /// Puts live samples behind those that waited, in the order of time; what waited came first.
    fn join(&mut self, slot: u32, rest: &mut Vec<SampleRow>, live: &[SampleRow], out: &mut AdmittedBatch) {
        if rest.is_empty() {
            rest.extend_from_slice(live);
            return;
        }
        let oldest = rest[rest.len() - 1].at_ms - self.settings.allowed_lateness_ms;
        for row in live {
            // As if what waited had been applied in an epoch before.
            match row.at_ms < oldest && !row.is_marker() {
                true => self.refuse(slot, Reason::TooOld, row.at_ms, out),
                false => rest.push(*row),
            }
        }
        rest.sort_by_key(|row| row.at_ms);
    }

    fn refuse(&mut self, slot: u32, reason: Reason, at_ms: i64, out: &mut AdmittedBatch) {
        out.counts.rejected[reason as usize] += 1;
        self.rejects.add(self.slots.series(slot), reason, at_ms);
    }

    /// A sample of a bootstrap. What waited is put into `rest` if the series has to leave the bootstrap.
    fn apply_bootstrapped(
        &mut self,
        bootstrap: u64,
        row: &SampleRow,
        end: EpochEnd,
        rest: &mut Vec<SampleRow>,
        out: &mut AdmittedBatch,
    ) {
        if row.is_marker() {
            out.counts.stale_markers += 1;
            return;
        }
        if let Err(reason) = self.judge_bootstrapped(bootstrap, row, out) {
            return self.refuse(row.slot, reason, row.at_ms, out);
        }
        let (ring_max, kept_ms) = (self.settings.late_samples_max as usize, self.settings.raw_kept_ms());
        let head = &mut self.heads[row.slot as usize];
        if row.at_ms <= head.newest {
            // A bootstrap that was resumed brings again what was taken; what was not taken then is behind.
            let reason = match head.raw.find(head.newest, row.at_ms) {
                RingPlace::Held(bits) if bits != row.value.to_bits() => Reason::DuplicateTimestamp,
                RingPlace::Held(_) | RingPlace::Forgotten => Reason::Duplicate,
                RingPlace::Missing => Reason::BootstrapTooLate,
            };
            return self.refuse(row.slot, reason, row.at_ms, out);
        }
        let taking = self.bootstraps.takings.get_mut(&row.slot).and_then(|taking| taking.waiting.as_mut());
        let waiting = taking.expect("it was judged to take the bootstrap");
        if waiting.first().is_none_or(|first| row.at_ms < first) {
            head.last_applied_ms = end.processing_ms;
            head.raw.push(head.newest, row.at_ms, row.value, row.at_ms - kept_ms, ring_max);
            head.newest = row.at_ms;
            out.slot.push(row.slot);
            out.at_ms.push(row.at_ms);
            out.value.push(row.value);
            out.counts.applied += 1;
            return;
        }
        match waiting.take(row.at_ms, row.value, ring_max) {
            Waits::Yes => head.last_applied_ms = end.processing_ms,
            Waits::No(reason) => self.refuse(row.slot, reason, row.at_ms, out),
            Waits::Full => {
                self.leave(row.slot, BootstrapStep::Drop, rest, out);
                self.refuse(row.slot, Reason::BootstrapTooLate, row.at_ms, out);
            }
        }
    }

    /// Whether the series takes this sample's bootstrap, from now on if need be.
    fn judge_bootstrapped(
        &mut self,
        bootstrap: u64,
        row: &SampleRow,
        out: &mut AdmittedBatch,
    ) -> Result<(), Reason> {
        let head = &self.heads[row.slot as usize];
        if row.at_ms <= head.tombstone {
            return Err(Reason::TooOld);
        }
        if !row.value.is_finite() {
            return Err(Reason::NotFinite);
        }
        if let Some(taking) = self.bootstraps.takings.get(&row.slot) {
            let takes = taking.bootstrap == bootstrap && taking.waiting.is_some();
            return if takes { Ok(()) } else { Err(Reason::BootstrapTooLate) };
        }
        let open = self.bootstraps.open.iter().find(|open| open.id == bootstrap);
        let publish_from_ms = open.ok_or(Reason::BootstrapTooLate)?.publish_from_ms;
        let Some(had) = head.raw.all(head.newest) else {
            self.bootstraps.takings.insert(row.slot, SeriesBootstrap { bootstrap, waiting: None });
            return Err(Reason::BootstrapTooLate);
        };
        let raw_from = out.raw_at_ms.len() as u32;
        out.raw_at_ms.extend(had.iter().map(|(at_ms, _)| *at_ms));
        out.raw_value.extend(had.iter().map(|(_, value)| *value));
        let step = BootstrapStep::Begin { publish_from_ms, had: (raw_from, out.raw_at_ms.len() as u32) };
        out.phases.push(BootstrapPhase { slot: row.slot, place: out.slot.len() as u32, step });
        self.begin_anew(row.slot);
        let waiting = Some(WaitingSamples { samples: had });
        self.bootstraps.takings.insert(row.slot, SeriesBootstrap { bootstrap, waiting });
        Ok(())
    }

    /// A live sample of a series that takes a bootstrap.
    fn wait(&mut self, row: &SampleRow, end: EpochEnd, rest: &mut Vec<SampleRow>, out: &mut AdmittedBatch) {
        if row.is_marker() {
            out.counts.stale_markers += 1;
            return;
        }
        let (ring_max, allowed_lateness_ms) =
            (self.settings.late_samples_max as usize, self.settings.allowed_lateness_ms);
        let head = &mut self.heads[row.slot as usize];
        let taking = self.bootstraps.takings.get_mut(&row.slot).and_then(|taking| taking.waiting.as_mut());
        let waiting = taking.expect("the caller saw that it takes a bootstrap");
        let newest = waiting.newest().max(head.newest);
        let behind = newest != NEVER && row.at_ms < newest - allowed_lateness_ms;
        if behind || row.at_ms <= head.tombstone {
            return self.refuse(row.slot, Reason::TooOld, row.at_ms, out);
        }
        if !row.value.is_finite() {
            return self.refuse(row.slot, Reason::NotFinite, row.at_ms, out);
        }
        match waiting.take(row.at_ms, row.value, ring_max) {
            Waits::Yes => head.last_applied_ms = end.processing_ms,
            Waits::No(reason) => self.refuse(row.slot, reason, row.at_ms, out),
            Waits::Full => {
                self.leave(row.slot, BootstrapStep::Drop, rest, out);
                self.join(row.slot, rest, &[*row], out);
            }
        }
    }

    /// The series takes its bootstrap no more; what waited goes to `rest`.
    fn leave(&mut self, slot: u32, step: BootstrapStep, rest: &mut Vec<SampleRow>, out: &mut AdmittedBatch) {
        let taking = self.bootstraps.takings.get_mut(&slot).and_then(|taking| taking.waiting.take());
        let Some(waiting) = taking else { return };
        out.phases.push(BootstrapPhase { slot, place: out.slot.len() as u32, step });
        // While it took the bootstrap nothing freed it; its newest sample may be another one now.
        self.arm(slot, NEVER);
        if step == BootstrapStep::Drop {
            self.begin_anew(slot);
        }
        rest.extend(waiting.samples.iter().map(|(at_ms, value)| SampleRow::new(slot, *at_ms, *value)));
    }

    /// As if no sample of this series had been applied.
    fn begin_anew(&mut self, slot: u32) {
        let head = &mut self.heads[slot as usize];
        *head = GateSeries { newest: NEVER, raw: RawRing::default(), ..*head };
    }
}
