//! What the gate of one shard holds, and of each series. Not here: what is done with it.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::class_sets::{EarlyClasses, OptionSets, PlacedClass};
use super::order::BatchOrder;
use super::rejects::Rejects;
use super::ring::RawRing;
use super::waiting::OpenBootstraps;
use crate::sample::{AHEAD_MS_MAX, set_back};
use crate::settings::Settings;
use crate::shard::{SeriesMap, Slots, Timers, WorkPosition};

/// The gate of one shard.
pub struct Admit {
    pub(super) settings: Arc<Settings>,
    pub(super) base_ms: i64,
    pub(super) slots: Slots,
    pub(super) heads: Vec<GateSeries>,
    pub(super) timers: Timers,
    pub(super) tombstones: Tombstones,
    /// What is known of series that have no slot.
    pub(super) early: EarlyClasses,
    /// What is set for series.
    pub(super) sets: OptionSets,
    pub(super) rejects: Rejects,
    pub(super) bootstraps: OpenBootstraps,
    /// Nothing of these is computed.
    pub(super) quarantined: BTreeSet<u64>,
    pub(super) order: BatchOrder,
    pub(super) position: Arc<WorkPosition>,
    /// How long a silent series keeps its slot.
    pub(super) keep_ms: fn(&Settings) -> i64,
    /// Bootstraps that end in the epoch at hand.
    pub(super) ended: Vec<u64>,
}

/// One series.
pub(super) struct GateSeries {
    /// Newest applied sample.
    pub(super) newest: i64,
    /// Processing time of the epoch that last applied a sample; until then of the one that gave the slot.
    pub(super) last_applied_ms: i64,
    /// What is not newer than this was forgotten.
    pub(super) tombstone: i64,
    /// When the slot's timer fires; `i64::MAX` if it has none.
    pub(super) armed: i64,
    pub(super) class: PlacedClass,
    pub(super) raw: RawRing,
}

/// What is left of series whose slot was freed, bounded; what is evicted raises the floor.
#[derive(Default)]
pub(super) struct Tombstones {
    pub(super) by_age: BTreeSet<(i64, u64)>,
    pub(super) newest: SeriesMap<i64>,
    pub(super) max: usize,
    pub(super) floor: i64,
}

impl Tombstones {
    pub(super) fn put(&mut self, series: u64, newest_ms: i64) {
        if let Some(old) = self.newest.insert(series, newest_ms) {
            self.by_age.remove(&(old, series));
        }
        self.by_age.insert((newest_ms, series));
        self.shrink(self.max);
    }

    /// Keeps at most `max` from now on.
    pub(super) fn shrink(&mut self, max: usize) {
        self.max = max;
        while self.by_age.len() > self.max {
            if let Some((newest_ms, series)) = self.by_age.pop_first() {
                self.newest.remove(&series);
                self.floor = self.floor.max(newest_ms);
            }
        }
    }

    /// Forgets what lies ahead of a clock that was set back.
    pub(super) fn set_back(&mut self, to_ms: i64) {
        let ahead = self.by_age.split_off(&(to_ms.saturating_add(AHEAD_MS_MAX + 1), 0));
        for (_, series) in ahead {
            self.newest.remove(&series);
        }
        self.floor = set_back(to_ms, self.floor);
    }

    pub(super) fn take(&mut self, series: u64) -> Option<i64> {
        let newest_ms = self.newest.remove(&series)?;
        self.by_age.remove(&(newest_ms, series));
        Some(newest_ms)
    }

    pub(super) fn bytes(&self) -> usize {
        self.newest.capacity() * 17 + self.by_age.len() * 24
    }
}
