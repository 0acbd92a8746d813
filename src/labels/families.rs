//! Metric families: which types their series have, and what was said of them.
//!
//! Not here: which series are known, and what the journal holds of their types (`types`).

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize};

use parking_lot::{Mutex, RwLock};
use tidewatch_dataflows::sample::MetricType::{self, Counter, Gauge};

/// Most metric families whose type is remembered; most that are heard of in one request.
pub const FAMILIES_MAX: usize = 65_536;

/// How long a family, and the series of a name, keep a type that was changed, in the milliseconds that epochs count.
pub const CHANGE_EVERY_MS: u64 = 3_600_000;

/// The type of a metric family, as far as it decides what its series are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TypeFamily {
    /// One series, which may be named `_total`.
    Counter,
    /// One series; also what `info` and `stateset` are made of.
    Gauge,
    /// Buckets, a count and a sum.
    Histogram,
    /// The same of values that come and go.
    GaugeHistogram,
    /// Quantiles, a count and a sum.
    Summary,
}

/// The endings of names that families give to their series.
const SUFFIXES: [&str; 6] = ["_total", "_bucket", "_count", "_sum", "_gcount", "_gsum"];

impl TypeFamily {
    /// The type with this number in both versions of remote write; none for `unknown`, and for numbers of later ones.
    pub fn from_code(code: i64) -> Option<TypeFamily> {
        match code {
            1 => Some(TypeFamily::Counter),
            2 | 6 | 7 => Some(TypeFamily::Gauge),
            3 => Some(TypeFamily::Histogram),
            4 => Some(TypeFamily::GaugeHistogram),
            5 => Some(TypeFamily::Summary),
            _ => None,
        }
    }

    /// The series of a family of this type, by what their names have more than its name.
    pub(super) fn series(self) -> &'static [(&'static str, MetricType)] {
        match self {
            TypeFamily::Counter => &[("", Counter), ("_total", Counter)],
            TypeFamily::Gauge => &[("", Gauge)],
            TypeFamily::Histogram => &[("_bucket", Counter), ("_count", Counter), ("_sum", Counter)],
            // A native one is kept as `_count` and `_sum`.
            TypeFamily::GaugeHistogram => &[
                ("_bucket", Gauge),
                ("_gcount", Gauge),
                ("_gsum", Gauge),
                ("_count", Gauge),
                ("_sum", Gauge),
            ],
            TypeFamily::Summary => &[("", Gauge), ("_count", Counter), ("_sum", Counter)],
        }
    }

    /// The type of a series with this name that belongs to a family of this type, whatever the family's name is.
    pub fn of(self, name: &[u8]) -> Option<MetricType> {
        let fitting = self.series().iter().filter(|(suffix, _)| name.ends_with(suffix.as_bytes()));
        fitting.max_by_key(|(suffix, _)| suffix.len()).map(|(_, kind)| *kind)
    }

    /// The type of what is kept of a native histogram of a family of this type.
    pub fn of_derived(self) -> Option<MetricType> {
        self.of(b"_count").filter(|_| matches!(self, TypeFamily::Histogram | TypeFamily::GaugeHistogram))
    }
}

/// What was heard of a family.
pub(super) struct FamilyType {
    pub(super) family: TypeFamily,
    /// The epoch in which it was another one before.
    pub(super) changed: Option<u64>,
}

/// Types by the name of their family.
#[derive(Default)]
pub(super) struct Families(pub(super) HashMap<Box<str>, FamilyType>);

/// Types that were said of series of a name, where others were in the journal; and since which epoch.
#[derive(Default)]
pub(super) struct Changes(HashMap<Box<str>, (MetricType, u64)>);

impl Changes {
    /// Whether series of this name may be of another type from this epoch on.
    pub(super) fn allow(&mut self, name: &str, kind: MetricType, epoch: u64) -> bool {
        if let Some((held, since)) = self.0.get_mut(name) {
            let over = is_over(*since, epoch);
            if over {
                (*held, *since) = (kind, epoch);
            }
            return over || *held == kind;
        }
        if self.0.len() >= FAMILIES_MAX {
            self.0.retain(|_, (_, since)| !is_over(*since, epoch));
        }
        let fits = self.0.len() < FAMILIES_MAX;
        if fits {
            self.0.insert(name.into(), (kind, epoch));
        }
        fits
    }
}

/// Whether a type that was changed in one epoch may change in another.
pub(super) fn is_over(since: u64, epoch: u64) -> bool {
    epoch >= since.saturating_add(CHANGE_EVERY_MS)
}

impl Families {
    /// The type of a series by its name: as the family of just this name says, else one that its ending belongs to.
    pub(super) fn of(&self, name: &str) -> Option<MetricType> {
        let kind_of = |(family, suffix): (&str, &str)| {
            let family = self.0.get(family)?.family;
            family.series().iter().find(|(of, _)| *of == suffix).map(|(_, kind)| *kind)
        };
        let ends = |suffix: &'static str| name.strip_suffix(suffix).map(|family| (family, suffix));
        kind_of((name, "")).or_else(|| SUFFIXES.into_iter().filter_map(ends).find_map(kind_of))
    }
}

/// What was heard of types.
#[derive(Default)]
pub(super) struct KnownTypes {
    pub(super) families: RwLock<Families>,
    pub(super) changes: Mutex<Changes>,
    /// Found new, and not yet in the journal: whoever found them could not write them, or not yet.
    pub(super) waiting: Mutex<HashMap<u64, MetricType>>,
    pub(super) waits: AtomicUsize,
    /// What new series are by their names, of which no source has said what they are; not yet in the journal.
    pub(super) by_name: Mutex<Vec<(u64, MetricType)>>,
    pub(super) named: AtomicUsize,
    /// The number of names gone when families were last forgotten.
    pub(super) looked: AtomicU64,
}
