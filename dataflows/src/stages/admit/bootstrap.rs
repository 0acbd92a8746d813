//! Bootstraps: history that is applied before the live samples of its series.
//!
//! A series takes a bootstrap at its first sample of it, if it has applied none or still has all of them: its state then
//! begins anew. Until the bootstrap ends, its samples apply as they rise, and live samples wait in a ring of their own,
//! judged among themselves; those of the bootstrap that are not older than the ring's first join them there, so that what
//! is applied stays below what waits. When the bootstrap ends the ring is applied, as if it had come just then. A ring that is
//! full before that throws out the bootstrap: the series is what its live samples alone make of it.
//!
//! Not here: which keys are published (`window` is told by [`Phase`]).

use super::ring::RingPlace;
use super::{
    Admit, Arc, BTreeMap, BatchOrder, EpochEnd, GateSeries, NEVER, RawRing, Reason, SampleRow, Samples,
};
use crate::sample::{Bootstrap, Control, set_back};
use crate::shard::{AdmittedBatch, BootstrapPhase, BootstrapStep};

/// The bootstraps of one shard.
#[derive(Default)]
pub(super) struct OpenBootstraps {
    /// Begun and not ended.
    pub(super) open: Vec<Bootstrap>,
    /// By slot: series that take one, or have left one that is still open.
    pub(super) takings: BTreeMap<u32, SeriesBootstrap>,
}

/// A series and a bootstrap.
pub(super) struct SeriesBootstrap {
    pub(super) bootstrap: u64,
    /// `None` once it left the bootstrap, or was too late for it.
    pub(super) waiting: Option<WaitingSamples>,
}

/// Live samples that wait for the end of a bootstrap, in order.
#[derive(Default)]
pub(super) struct WaitingSamples {
    pub(super) samples: Vec<(i64, f64)>,
}

/// What became of a sample that is to wait.
enum Waits {
    Yes,
    No(Reason),
    Full,
}

impl WaitingSamples {
    fn first(&self) -> Option<i64> {
        self.samples.first().map(|(at_ms, _)| *at_ms)
    }

    fn newest(&self) -> i64 {
        self.samples.last().map_or(NEVER, |(at_ms, _)| *at_ms)
    }

    fn take(&mut self, at_ms: i64, value: f64, max: usize) -> Waits {
        let place = self.samples.partition_point(|(at, _)| *at < at_ms);
        match self.samples.get(place) {
            Some((at, held)) if *at == at_ms => Waits::No(match held.to_bits() == value.to_bits() {
                true => Reason::Duplicate,
                false => Reason::DuplicateTimestamp,
            }),
            _ if self.samples.len() >= max => Waits::Full,
            _ => {
                self.samples.insert(place, (at_ms, value));
                Waits::Yes
            }
        }
    }
}

impl OpenBootstraps {
    /// Takes note of the epoch's controls; the bootstraps that end in it.
    pub(super) fn observe(&mut self, controls: &[Arc<Control>]) -> Vec<u64> {
        let mut ended = Vec::new();
        for control in controls {
            match &**control {
                // One that is resumed after a restart begins again and is known.
                Control::BootstrapBegin(bootstrap)
                    if self.open.iter().all(|open| open.id != bootstrap.id) =>
                {
                    self.open.push(bootstrap.clone());
                }
                Control::BootstrapEnd { bootstrap } => ended.push(*bootstrap),
                Control::BootstrapBegin(_)
                | Control::Types(_)
                | Control::NamedTypes(_)
                | Control::Options { .. }
                | Control::Settings(_)
                | Control::Quarantine { .. }
                | Control::Lift { .. }
                | Control::ClockReset { .. } => {}
            }
        }
        ended
    }

    /// These bootstraps have ended.
    pub(super) fn close(&mut self, ended: &[u64]) {
        if !ended.is_empty() {
            self.takings.retain(|_, taking| !ended.contains(&taking.bootstrap));
            self.open.retain(|bootstrap| !ended.contains(&bootstrap.id));
        }
    }

    /// Whether no series takes a bootstrap.
    pub(super) fn is_idle(&self) -> bool {
        self.takings.is_empty()
    }

    /// Whether the series of this slot takes a bootstrap.
    pub(super) fn takes(&self, slot: u32) -> bool {
        self.takings.get(&slot).is_some_and(|taking| taking.waiting.is_some())
    }

    /// The first sample that waits in this slot.
    pub(super) fn first(&self, slot: u32) -> Option<i64> {
        self.takings.get(&slot)?.waiting.as_ref()?.first()
    }

    /// The newest sample that waits in this slot; [`NEVER`] if none does.
    pub(super) fn newest(&self, slot: u32) -> i64 {
        let waiting = self.takings.get(&slot).and_then(|taking| taking.waiting.as_ref());
        waiting.map_or(NEVER, WaitingSamples::newest)
    }

    /// If the series of this slot takes a bootstrap, the time from which on it publishes.
    pub(super) fn publish_from(&self, slot: u32) -> Option<i64> {
        let taking = self.takings.get(&slot).filter(|taking| taking.waiting.is_some())?;
        self.open.iter().find(|open| open.id == taking.bootstrap).map(|open| open.publish_from_ms)
    }

    /// The clock was set back.
    pub(super) fn set_back(&mut self, to_ms: i64) {
        for bootstrap in &mut self.open {
            bootstrap.publish_from_ms = set_back(to_ms, bootstrap.publish_from_ms);
        }
    }

    /// The slot is free.
    pub(super) fn forget(&mut self, slot: u32) {
        self.takings.remove(&slot);
    }

    /// Bytes held.
    pub(super) fn bytes(&self) -> usize {
        let waiting = self.takings.values().filter_map(|taking| taking.waiting.as_ref());
        let samples: usize = waiting.map(|waiting| waiting.samples.capacity()).sum();
        self.takings.len() * 48 + samples * 16
    }

    /// Slots of series whose bootstrap ends.
    fn of(&self, ended: &[u64]) -> Vec<u32> {
        let takings = self.takings.iter().filter(|(_, taking)| ended.contains(&taking.bootstrap));
        takings.map(|(slot, _)| *slot).collect()
    }
}

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
