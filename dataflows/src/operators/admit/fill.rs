//! Fills: history that is applied before the live samples of its series.
//!
//! A series takes a fill at its first sample of it, if it has applied none or still has all of them: its state then
//! begins anew. Until the fill ends, its samples apply as they rise, and live samples wait in a ring of their own,
//! judged among themselves; those of the fill that are not older than the ring's first join them there, so that what
//! is applied stays below what waits. When the fill ends the ring is applied, as if it had come just then. A ring that is
//! full before that throws out the fill: the series is what its live samples alone make of it.
//!
//! Not here: which keys are published (`window` is told by [`Phase`]).

use super::ring::Found;
use super::{Admit, Arc, BTreeMap, EpochEnd, Head, NEVER, Order, Reason, Ring, Row, Samples};
use crate::sample::{Control, Fill, set_back};
use crate::shard::{Admitted, FillStep, Phase};

/// The fills of one shard.
#[derive(Default)]
pub(super) struct Fills {
    /// Begun and not ended.
    pub(super) open: Vec<Fill>,
    /// By slot: series that take one, or have left one that is still open.
    pub(super) takings: BTreeMap<u32, Taking>,
}

/// A series and a fill.
pub(super) struct Taking {
    pub(super) fill: u64,
    /// `None` once it left the fill, or was too late for it.
    pub(super) waiting: Option<Waiting>,
}

/// Live samples that wait for the end of a fill, in order.
#[derive(Default)]
pub(super) struct Waiting {
    pub(super) samples: Vec<(i64, f64)>,
}

/// What became of a sample that is to wait.
enum Waits {
    Yes,
    No(Reason),
    Full,
}

impl Waiting {
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

impl Fills {
    /// Takes note of the epoch's controls; the fills that end in it.
    pub(super) fn hear(&mut self, controls: &[Arc<Control>]) -> Vec<u64> {
        let mut ended = Vec::new();
        for control in controls {
            match &**control {
                // One that is resumed after a restart begins again and is known.
                Control::FillBegin(fill) if self.open.iter().all(|open| open.id != fill.id) => {
                    self.open.push(fill.clone());
                }
                Control::FillEnd { fill } => ended.push(*fill),
                Control::FillBegin(_)
                | Control::Types(_)
                | Control::Settings(_)
                | Control::Quarantine { .. }
                | Control::Lift { .. }
                | Control::ClockReset { .. } => {}
            }
        }
        ended
    }

    /// These fills have ended.
    pub(super) fn close(&mut self, ended: &[u64]) {
        if !ended.is_empty() {
            self.takings.retain(|_, taking| !ended.contains(&taking.fill));
            self.open.retain(|fill| !ended.contains(&fill.id));
        }
    }

    /// Whether no series takes a fill.
    pub(super) fn is_idle(&self) -> bool {
        self.takings.is_empty()
    }

    /// Whether the series of this slot takes a fill.
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
        waiting.map_or(NEVER, Waiting::newest)
    }

    /// The clock was set back.
    pub(super) fn set_back(&mut self, to_ms: i64) {
        for fill in &mut self.open {
            fill.publish_from_ms = set_back(to_ms, fill.publish_from_ms);
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

    /// Slots of series whose fill ends.
    fn of(&self, ended: &[u64]) -> Vec<u32> {
        let takings = self.takings.iter().filter(|(_, taking)| ended.contains(&taking.fill));
        takings.map(|(slot, _)| *slot).collect()
    }
}

/// Rows of one slot and one fill.
type FillRows<'a> = (u64, &'a [Row]);

impl Admit {
    /// The samples of an epoch in which series take fills.
    pub(super) fn apply_with_fills(
        &mut self,
        live: &Order,
        fills: &[Samples],
        ended: &[u64],
        end: EpochEnd,
        out: &mut Admitted,
    ) {
        self.give_slots(fills.iter(), end, out);
        let orders: Vec<(u64, Order)> = fills
            .iter()
            .map(|samples| {
                let mut order = Order::default();
                order.look_up(samples, &self.slots);
                order.sort(samples, self.slots.capacity());
                (samples.fill, order)
            })
            .collect();
        // A series may take a fill in the very epoch that ends it.
        let mut ending: Vec<u32> = self.fills.of(ended);
        for (_, order) in orders.iter().filter(|(fill, _)| ended.contains(fill)) {
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
            let mut rows: Vec<FillRows> = Vec::new();
            for ((fill, order), place) in orders.iter().zip(&mut places) {
                let to = order.of(slot, *place);
                if to > *place {
                    rows.push((*fill, &order.rows[*place..to]));
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

    /// One series: samples of fills, then what waited if its fill ends here, then live samples.
    fn apply_series(
        &mut self,
        slot: u32,
        fills: &[FillRows],
        live: &[Row],
        ended: &[u64],
        end: EpochEnd,
        out: &mut Admitted,
    ) {
        self.working.on(self.slots.series(slot));
        let mut rest = Vec::new();
        for (fill, rows) in fills {
            for row in *rows {
                self.apply_filled(*fill, row, end, &mut rest, out);
            }
        }
        let taking = self.fills.takings.get(&slot).filter(|taking| taking.waiting.is_some());
        if taking.is_some_and(|taking| ended.contains(&taking.fill)) {
            self.leave(slot, FillStep::End, &mut rest, out);
            // However long the fill of other series took, this one is waited for from now on.
            self.heads[slot as usize].heard = end.stream_ms;
        }
        for (at, row) in live.iter().enumerate() {
            if !self.fills.takes(slot) {
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
    fn join(&mut self, slot: u32, rest: &mut Vec<Row>, live: &[Row], out: &mut Admitted) {
        if rest.is_empty() {
            rest.extend_from_slice(live);
            return;
        }
        let oldest = rest[rest.len() - 1].at_ms - self.settings.lateness_ms;
        for row in live {
            // As if what waited had been applied in an epoch before.
            match row.at_ms < oldest && !row.is_marker() {
                true => self.refuse(slot, Reason::TooOld, row.at_ms, out),
                false => rest.push(*row),
            }
        }
        rest.sort_by_key(|row| row.at_ms);
    }

    fn refuse(&mut self, slot: u32, reason: Reason, at_ms: i64, out: &mut Admitted) {
        out.counts.rejected[reason as usize] += 1;
        self.rejects.add(self.slots.series(slot), reason, at_ms);
    }

    /// A sample of a fill. What waited is put into `rest` if the series has to leave the fill.
    fn apply_filled(&mut self, fill: u64, row: &Row, end: EpochEnd, rest: &mut Vec<Row>, out: &mut Admitted) {
        if row.is_marker() {
            out.counts.stale_markers += 1;
            return;
        }
        if let Err(reason) = self.judge_filled(fill, row, out) {
            return self.refuse(row.slot, reason, row.at_ms, out);
        }
        let (ring_max, lateness_ms) = (self.settings.late_samples_max as usize, self.settings.lateness_ms);
        let head = &mut self.heads[row.slot as usize];
        if row.at_ms <= head.newest {
            // A fill that was resumed brings again what was taken; what was not taken then is behind.
            let reason = match head.raw.find(head.newest, row.at_ms) {
                Found::Held(bits) if bits != row.value.to_bits() => Reason::DuplicateTimestamp,
                Found::Held(_) | Found::Forgotten => Reason::Duplicate,
                Found::Missing => Reason::FillTooLate,
            };
            return self.refuse(row.slot, reason, row.at_ms, out);
        }
        let taking = self.fills.takings.get_mut(&row.slot).and_then(|taking| taking.waiting.as_mut());
        let waiting = taking.expect("it was judged to take the fill");
        if waiting.first().is_none_or(|first| row.at_ms < first) {
            head.heard = end.stream_ms;
            let from_ms = row.at_ms - lateness_ms - self.base_ms;
            head.raw.push(head.newest, row.at_ms, row.value, from_ms, ring_max);
            head.newest = row.at_ms;
            out.slot.push(row.slot);
            out.at_ms.push(row.at_ms);
            out.value.push(row.value);
            out.counts.applied += 1;
            return;
        }
        match waiting.take(row.at_ms, row.value, ring_max) {
            Waits::Yes => head.heard = end.stream_ms,
            Waits::No(reason) => self.refuse(row.slot, reason, row.at_ms, out),
            Waits::Full => {
                self.leave(row.slot, FillStep::Drop, rest, out);
                self.refuse(row.slot, Reason::FillTooLate, row.at_ms, out);
            }
        }
    }

    /// Whether the series takes this sample's fill, from now on if need be.
    fn judge_filled(&mut self, fill: u64, row: &Row, out: &mut Admitted) -> Result<(), Reason> {
        let head = &self.heads[row.slot as usize];
        if row.at_ms <= head.tombstone {
            return Err(Reason::TooOld);
        }
        if !row.value.is_finite() {
            return Err(Reason::NotFinite);
        }
        if let Some(taking) = self.fills.takings.get(&row.slot) {
            let takes = taking.fill == fill && taking.waiting.is_some();
            return if takes { Ok(()) } else { Err(Reason::FillTooLate) };
        }
        let open = self.fills.open.iter().find(|open| open.id == fill);
        let publish_from_ms = open.ok_or(Reason::FillTooLate)?.publish_from_ms;
        let Some(had) = head.raw.all(head.newest) else {
            self.fills.takings.insert(row.slot, Taking { fill, waiting: None });
            return Err(Reason::FillTooLate);
        };
        let raw_from = out.raw_at_ms.len() as u32;
        out.raw_at_ms.extend(had.iter().map(|(at_ms, _)| *at_ms));
        out.raw_value.extend(had.iter().map(|(_, value)| *value));
        let step = FillStep::Begin { publish_from_ms, had: (raw_from, out.raw_at_ms.len() as u32) };
        out.phases.push(Phase { slot: row.slot, place: out.slot.len() as u32, step });
        self.begin_anew(row.slot);
        let waiting = Some(Waiting { samples: had });
        self.fills.takings.insert(row.slot, Taking { fill, waiting });
        Ok(())
    }

    /// A live sample of a series that takes a fill.
    fn wait(&mut self, row: &Row, end: EpochEnd, rest: &mut Vec<Row>, out: &mut Admitted) {
        if row.is_marker() {
            out.counts.stale_markers += 1;
            return;
        }
        let (ring_max, lateness_ms) = (self.settings.late_samples_max as usize, self.settings.lateness_ms);
        let head = &mut self.heads[row.slot as usize];
        let taking = self.fills.takings.get_mut(&row.slot).and_then(|taking| taking.waiting.as_mut());
        let waiting = taking.expect("the caller saw that it takes a fill");
        let newest = waiting.newest().max(head.newest);
        let behind = newest != NEVER && row.at_ms < newest - lateness_ms;
        if behind || row.at_ms <= head.tombstone {
            return self.refuse(row.slot, Reason::TooOld, row.at_ms, out);
        }
        if !row.value.is_finite() {
            return self.refuse(row.slot, Reason::NotFinite, row.at_ms, out);
        }
        match waiting.take(row.at_ms, row.value, ring_max) {
            Waits::Yes => head.heard = end.stream_ms,
            Waits::No(reason) => self.refuse(row.slot, reason, row.at_ms, out),
            Waits::Full => {
                self.leave(row.slot, FillStep::Drop, rest, out);
                self.join(row.slot, rest, &[*row], out);
            }
        }
    }

    /// The series takes its fill no more; what waited goes to `rest`.
    fn leave(&mut self, slot: u32, step: FillStep, rest: &mut Vec<Row>, out: &mut Admitted) {
        let taking = self.fills.takings.get_mut(&slot).and_then(|taking| taking.waiting.take());
        let Some(waiting) = taking else { return };
        out.phases.push(Phase { slot, place: out.slot.len() as u32, step });
        // While it took the bootstrap nothing freed it; its newest sample may be another one now.
        self.arm(slot, NEVER);
        if step == FillStep::Drop {
            self.begin_anew(slot);
        }
        rest.extend(waiting.samples.iter().map(|(at_ms, value)| Row::new(slot, *at_ms, *value)));
    }

    /// As if no sample of this series had been applied.
    fn begin_anew(&mut self, slot: u32) {
        let head = &mut self.heads[slot as usize];
        *head = Head { newest: NEVER, raw: Ring::default(), ..*head };
    }
}
