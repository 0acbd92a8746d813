//! What is known of series by their id: those that are in use, and for a while those that were released.
//!
//! Not here: locks, spellings, the series log.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed};

use tidewatch_dataflows::sample::SeriesId;

use super::ByHash;
use super::log::record_bytes;
use super::set::{self, LabelSet, LabelsRefusal, Limits};

/// Most released label sets kept in memory for sinks that lag; older ones are read from the series log.
pub(super) const RELEASED_MAX: usize = 16_384;
/// In place of the segment of a series that is not in the log yet.
pub(super) const NO_SEGMENT: u64 = u64::MAX;

/// A series in use.
pub(super) struct SeriesEntry {
    pub(super) labels: Arc<LabelSet>,
    /// Epoch of the last registration or `intern`; uses by `find` are marked in the spellings.
    pub(super) used: AtomicU64,
    /// The code of the type that the journal holds of it; 0 for none.
    pub(super) recorded_type: AtomicU8,
    /// The segment of the series log that holds its newest record.
    pub(super) segment: AtomicU64,
    pub(super) spellings: Vec<u64>,
}

/// A series that was released.
pub(super) struct ReleasedSeries {
    pub(super) labels: Arc<LabelSet>,
    pub(super) used: u64,
    pub(super) segment: AtomicU64,
    /// Which release it was.
    number: u64,
}

/// All series by their id.
#[derive(Default)]
pub(super) struct Entries {
    pub(super) by_id: ByHash<SeriesEntry>,
    pub(super) per_name: HashMap<Box<str>, usize>,
    pub(super) released: ByHash<ReleasedSeries>,
    /// Releases in their order, each with its number; the series may have come back since.
    order: VecDeque<(u64, u64)>,
    releases: u64,
    /// How often the last series of a name was released.
    pub(super) names_gone: u64,
    /// Bytes of the records that the series log needs: one of each series here.
    pub(super) record_bytes: u64,
}

impl Entries {
    /// Judges whether one more series with these labels fits.
    pub(super) fn admit(&self, labels: &LabelSet, limits: &Limits) -> Result<(), LabelsRefusal> {
        let name = labels.name();
        if self.by_id.len() >= limits.series {
            return Err(LabelsRefusal::SeriesLimit { name: set::shown(name), max: limits.series });
        }
        if self.per_name.get(name).is_some_and(|n| *n >= limits.series_per_name) {
            return Err(LabelsRefusal::SeriesPerNameLimit {
                name: set::shown(name),
                max: limits.series_per_name,
            });
        }
        Ok(())
    }

    pub(super) fn insert(&mut self, series: SeriesId, epoch: u64, labels: Arc<LabelSet>, segment: u64) {
        match self.per_name.get_mut(labels.name()) {
            Some(n) => *n += 1,
            None => {
                self.per_name.insert(labels.name().into(), 1);
            }
        }
        match self.released.remove(&series.0) {
            Some(_) => {}
            None => self.record_bytes += record_bytes(&labels),
        }
        self.by_id.insert(
            series.0,
            SeriesEntry {
                labels,
                used: AtomicU64::new(epoch),
                recorded_type: AtomicU8::new(0),
                segment: AtomicU64::new(segment),
                spellings: Vec::new(),
            },
        );
    }

    /// Moves a series to the released ones; `used` is the epoch of its last use.
    pub(super) fn release(&mut self, series: SeriesId, used: u64) {
        let Some(entry) = self.by_id.remove(&series.0) else { return };
        let name = entry.labels.name();
        if let Some(n) = self.per_name.get_mut(name) {
            *n -= 1;
            if *n == 0 {
                self.per_name.remove(name);
                self.names_gone += 1;
            }
        }
        if self.order.len() == RELEASED_MAX
            && let Some((oldest, number)) = self.order.pop_front()
            && self.released.get(&oldest).is_some_and(|released| released.number == number)
            && let Some(forgotten) = self.released.remove(&oldest)
        {
            self.record_bytes -= record_bytes(&forgotten.labels);
        }
        self.releases += 1;
        self.order.push_back((series.0, self.releases));
        let SeriesEntry { labels, segment, .. } = entry;
        self.released.insert(series.0, ReleasedSeries { labels, used, segment, number: self.releases });
    }

    /// Takes note of the segment of the log that holds the newest record of a series.
    pub(super) fn written(&self, series: SeriesId, segment: u64) {
        let place = match self.by_id.get(&series.0) {
            Some(entry) => &entry.segment,
            None => match self.released.get(&series.0) {
                Some(released) => &released.segment,
                None => return,
            },
        };
        place.store(segment, Relaxed);
    }

    /// What would be lost with the segments of the log up to this one: series, epoch and labels.
    pub(super) fn only_in(&self, segment: u64) -> Vec<(SeriesId, u64, Arc<LabelSet>)> {
        let known = self.by_id.iter().map(|(id, e)| (*id, &e.segment, e.used.load(Relaxed), &e.labels));
        let released = self.released.iter().map(|(id, r)| (*id, &r.segment, r.used, &r.labels));
        known
            .chain(released)
            .filter(|(_, held_in, ..)| held_in.load(Relaxed) <= segment)
            .map(|(id, _, used, labels)| (SeriesId(id), used, Arc::clone(labels)))
            .collect()
    }
}
