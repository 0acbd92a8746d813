//! The bootstraps of one shard, and the live samples that wait for their ends. Not here: how samples come in (`bootstrap`).

use std::collections::BTreeMap;
use std::sync::Arc;

use super::ring::NEVER;
use crate::sample::{Bootstrap, Control, Reason, set_back};

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
pub(super) enum Waits {
    Yes,
    No(Reason),
    Full,
}

impl WaitingSamples {
    pub(super) fn first(&self) -> Option<i64> {
        self.samples.first().map(|(at_ms, _)| *at_ms)
    }

    pub(super) fn newest(&self) -> i64 {
        self.samples.last().map_or(NEVER, |(at_ms, _)| *at_ms)
    }

    pub(super) fn take(&mut self, at_ms: i64, value: f64, max: usize) -> Waits {
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
    pub(super) fn of(&self, ended: &[u64]) -> Vec<u32> {
        let takings = self.takings.iter().filter(|(_, taking)| ended.contains(&taking.bootstrap));
        takings.map(|(slot, _)| *slot).collect()
    }
}
