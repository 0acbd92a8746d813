//! What leaves the dataflow: result rows, in one batch per epoch.

pub mod inspect;

use crate::sample::{MetricType, Reason, SeriesId};
use crate::snapshot::SnapshotPart;

/// The statistics of one series over one window `(at_ms - window_ms, at_ms]`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct WindowStats {
    /// The series.
    pub series: SeriesId,
    /// Length of the window, its identity.
    pub window_ms: i64,
    /// End of the window, a multiple of its hop since the Unix epoch.
    pub at_ms: i64,
    /// 0 for the first answer to this key, one more each time a published answer changes.
    pub revision: u32,
    /// Number of samples in the window, at least 1.
    pub count: u32,
    /// Milliseconds from the first to the last sample.
    pub span_ms: u32,
    /// Smallest value.
    pub min: f64,
    /// Largest value.
    pub max: f64,
    /// Arithmetic mean.
    pub avg: f64,
    /// Population standard deviation (ddof 0, as PromQL's `stddev_over_time`).
    pub std: f64,
    /// Oldest value.
    pub first: f64,
    /// Newest value.
    pub last: f64,
    /// Sum over consecutive samples of `b >= a ? b - a : b`; not extrapolated. Meaningful from 2 samples on.
    pub increase: f64,
    /// The window was added by a change of settings and reaches back to before what was kept for it: older samples
    /// of it may be missing.
    pub partial: bool,
}

impl WindowStats {
    /// Sample standard deviation (ddof 1, as pandas); none below two samples.
    pub fn std_sample(&self) -> Option<f64> {
        (self.count > 1).then(|| self.std * (f64::from(self.count) / f64::from(self.count - 1)).sqrt())
    }

    /// Increase per second between the first and the last sample; none below two samples.
    pub fn rate(&self) -> Option<f64> {
        (self.count > 1 && self.span_ms > 0).then(|| self.increase / (f64::from(self.span_ms) / 1000.0))
    }

    /// Which of two rows of one key counts: the one of more samples, and among equals the later revision.
    ///
    /// The engine only ever adds samples to a key, so for its rows this is the order of revisions. It also holds
    /// between the engine and a backfill, which count revisions each by themselves.
    pub fn rank(&self) -> (u32, u32) {
        (self.count, self.revision)
    }

    /// The order of rows in the outbox.
    pub fn key(&self) -> (SeriesId, i64, i64) {
        (self.series, self.window_ms, self.at_ms)
    }
}

/// Samples of one series that `admit` did not apply for one reason, summed over a minute of processing time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reject {
    /// The series; `None` sums the series beyond the first thousand of the minute.
    pub series: Option<SeriesId>,
    /// Why.
    pub reason: Reason,
    /// How many samples.
    pub count: u64,
    /// The lowest event time among them.
    pub first_at_ms: i64,
    /// The highest event time among them.
    pub last_at_ms: i64,
}

impl Reject {
    /// The order of rows in the outbox: rows without series last.
    pub fn key(&self) -> (bool, SeriesId, Reason) {
        (self.series.is_none(), self.series.unwrap_or_default(), self.reason)
    }
}

/// What `admit` counted in one epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Samples applied, late ones included.
    pub applied: u64,
    /// Of these, late ones merged into closed or open windows.
    pub late: u64,
    /// Staleness markers seen.
    pub stale_markers: u64,
    /// Not applied, by [`Reason`] code.
    pub rejected: [u64; Reason::ALL.len()],
    /// Rows that corrected an earlier row.
    pub corrections: u64,
    /// Slots given.
    pub slots_given: u64,
    /// Slots freed.
    pub slots_freed: u64,
}

impl Counts {
    /// Adds `other` to these counts.
    pub fn add(&mut self, other: &Counts) {
        self.applied += other.applied;
        self.late += other.late;
        self.stale_markers += other.stale_markers;
        for (mine, theirs) in self.rejected.iter_mut().zip(other.rejected) {
            *mine += theirs;
        }
        self.corrections += other.corrections;
        self.slots_given += other.slots_given;
        self.slots_freed += other.slots_freed;
    }
}

/// What the engine knows of a series' time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SeriesPresence {
    /// It has a slot, and this is its newest applied sample.
    Live {
        /// Unix milliseconds.
        newest_ms: i64,
    },
    /// Its slot was freed; nothing up to this sample is ever computed again.
    Freed {
        /// Unix milliseconds.
        newest_ms: i64,
    },
    /// It has a slot, and since it got it no sample was applied: not a number, or too old.
    Given {
        /// If it had one before: nothing up to this sample is ever computed again. Unix milliseconds.
        freed_ms: Option<i64>,
    },
    /// It has no slot, and no sample of it was ever applied, or it was forgotten.
    Unknown,
}

impl SeriesPresence {
    /// Whether it has a slot: then its samples may still come to be rows, of windows or of rejects.
    pub fn has_slot(&self) -> bool {
        matches!(self, SeriesPresence::Live { .. } | SeriesPresence::Given { .. })
    }
}

/// All outcomes of one epoch (of one worker, or merged over workers).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rows {
    /// Window rows.
    pub windows: Vec<WindowStats>,
    /// Reject rows.
    pub rejects: Vec<Reject>,
    /// What kinds of metric series are, as far as it was told in this epoch.
    pub types: Vec<(SeriesId, MetricType)>,
    /// Series whose slot was freed. Stays inside: never in the outbox.
    pub freed: Vec<SeriesId>,
    /// What was counted. Stays inside: never in the outbox.
    pub counts: Counts,
    /// Parts of snapshots that were asked for. Stays inside: never in the outbox.
    pub saved: Vec<SnapshotPart>,
}

impl Rows {
    /// Whether there is nothing to hand on.
    pub fn is_empty(&self) -> bool {
        self.windows.is_empty()
            && self.rejects.is_empty()
            && self.types.is_empty()
            && self.freed.is_empty()
            && self.counts == Counts::default()
            && self.saved.is_empty()
    }

    /// How many rows there are.
    pub fn len(&self) -> usize {
        self.windows.len() + self.rejects.len() + self.types.len()
    }

    /// Moves everything of `other` into these outcomes.
    pub fn append(&mut self, other: &mut Rows) {
        self.windows.append(&mut other.windows);
        self.rejects.append(&mut other.rejects);
        self.types.append(&mut other.types);
        self.freed.append(&mut other.freed);
        self.counts.add(&std::mem::take(&mut other.counts));
        self.saved.append(&mut other.saved);
    }

    /// Sorts by (kind, series, window, at), the order of the outbox, sums the reject rows without series, and keeps
    /// the last type of each series.
    ///
    /// After this the outcomes of an epoch are the same bytes for any number of workers.
    pub fn sort(&mut self) {
        // Stable, because it merges the sorted runs of the workers where an unstable sort would begin anew.
        self.windows.sort_by_key(WindowStats::key);
        self.freed.sort_unstable();
        // Stable: of a series, all of whose types come from one shard, the last one told stays.
        self.types.sort_by_key(|(series, _)| *series);
        self.types.dedup_by(|next, kept| {
            let same = next.0 == kept.0;
            if same {
                *kept = *next;
            }
            same
        });
        self.rejects.sort_unstable_by_key(Reject::key);
        self.rejects.dedup_by(|next, kept| {
            let same = next.series.is_none() && kept.series.is_none() && next.reason == kept.reason;
            if same {
                kept.count += next.count;
                kept.first_at_ms = kept.first_at_ms.min(next.first_at_ms);
                kept.last_at_ms = kept.last_at_ms.max(next.last_at_ms);
            }
            same
        });
    }
}
