//! Labels and series: the only owner of label strings.
//!
//! - [`Labels::find`] is the warm path: bytes as they came over the wire → series, without decoding a label.
//!   A look-up is one hash, one lock that readers share, one comparison of bytes.
//! - [`Labels::intern`] is the cold path: judges labels, gives the series its identity, queues it for the series log.
//! - [`Labels::sync`] makes the queued entries durable; it runs before every commit of the journal, so that the
//!   journal never holds an id whose labels could be lost.
//! - [`Labels::release`] forgets series whose slots were freed, unless they were used since.
//! - [`Labels::list`] lists series page by page (`list`).
//! - [`Labels::compact`] takes from the series log what nobody needs any more (`compact`).
//!
//! - [`Labels::find_options`] has it found what is set for each series (`options`).
//! - [`Labels::observe_families`] and [`Labels::unrecorded_type`] find types of series that the journal does not hold yet (`types`).
//!
//! A series costs its label text once for the [`LabelSet`] and once per spelling it arrives in (a sender's encoding;
//! at most [`SPELLINGS_MAX`]), and about 150 bytes for the maps.
//!
//! Locks are taken in the order entries → families → spellings → pending, and never held over a disk access.

mod compact;
mod entries;
mod error;
mod families;
mod found;
mod hash;
mod list;
mod log;
mod options;
mod set;
mod types;

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Acquire, Ordering::Relaxed, Ordering::Release};
use std::sync::{Arc, OnceLock};

use parking_lot::{Mutex, RwLock};
use tidewatch_dataflows::sample::{MetricType, SeriesId};
use xxhash_rust::xxh3::xxh3_64;

pub use self::compact::CompactionSummary;
use self::entries::{Entries, NO_SEGMENT, SeriesEntry};
pub use self::error::LabelsError;
use self::families::KnownTypes;
pub use self::families::{FAMILIES_MAX, TypeFamily};
pub use self::found::FindOptions;
use self::found::FoundOptions;
use self::hash::ByHash;
pub use self::list::LabelsOfSeries;
use self::log::SeriesLog;
pub use self::set::{Iter, LABEL_BYTES_MAX, LabelSet, LabelsRefusal, Limits, NAME, check, series_id};
use crate::disk::DiskFolder;
use crate::metrics::Metrics;

/// Most spellings (encodings of one label set) that [`Labels::find`] knows of one series.
pub const SPELLINGS_MAX: usize = 4;
/// Bytes after which the series log begins a new segment: what is not needed any more goes segment by segment.
const SEGMENT_BYTES: u64 = 16 << 20;
/// Spellings are spread over this many locks, so that threads that decode seldom meet.
const STRIPES: usize = 64;

/// One encoding of a series' labels.
struct Spelling {
    encoded: Box<[u8]>,
    series: SeriesId,
    /// Epoch of the last use, and in the lowest two bits the code of the type as of the entry: in one word, because a
    /// look-up of a known series waits for memory more than for anything else.
    state: AtomicU64,
}

impl Spelling {
    fn new(encoded: &[u8], series: SeriesId, epoch: u64, recorded_type: u8) -> Spelling {
        Spelling {
            encoded: encoded.into(),
            series,
            state: AtomicU64::new(epoch << 2 | u64::from(recorded_type & 3)),
        }
    }

    /// Epoch of the last use.
    fn used(&self) -> u64 {
        self.state.load(Relaxed) >> 2
    }

    #[cold]
    fn mark(&self, epoch: u64) {
        let newer = |state: u64| (state >> 2 < epoch).then_some(epoch << 2 | state & 3);
        // Another thread may have marked a newer one.
        let _ = self.state.fetch_update(Relaxed, Relaxed, newer);
    }

    fn record_type(&self, kind: MetricType) {
        let with_type = |state: u64| Some(state & !3 | kind as u64);
        self.state.fetch_update(Relaxed, Relaxed, with_type).expect("every state has room for a type");
    }
}

/// An entry on its way to the series log.
struct PendingSeries {
    series: SeriesId,
    epoch: u64,
    labels: Arc<LabelSet>,
}

/// All series known to this process. `Send + Sync`, shared in an [`Arc`].
pub struct Labels {
    limits: Limits,
    metrics: Arc<Metrics>,
    entries: RwLock<Entries>,
    spellings: Vec<RwLock<ByHash<Spelling>>>,
    pending: Mutex<Vec<PendingSeries>>,
    /// Entries that are not yet durable; also counts those [`Labels::sync`] has taken and not finished with.
    unsynced: AtomicUsize,
    text_bytes: AtomicUsize,
    log: Mutex<SeriesLog>,
    /// Held for reading by those who read the log, for writing while a segment is taken away.
    segments: RwLock<()>,
    /// Held by the one who compacts.
    compacting: Mutex<()>,
    types: KnownTypes,
    options: FoundOptions,
    when_full: OnceLock<Box<dyn Fn() -> bool + Send + Sync>>,
}

impl Labels {
    /// Opens the series log in `folder`, making it if needed, and loads every series in it.
    ///
    /// What the log holds is loaded whatever `limits` says: the journal refers to it. Limits judge new series.
    ///
    /// # Errors
    /// Files that cannot be read or written, or are damaged before their end.
    pub fn open(
        folder: impl Into<DiskFolder>,
        limits: Limits,
        metrics: Arc<Metrics>,
    ) -> Result<Labels, LabelsError> {
        Labels::open_with(folder, limits, SEGMENT_BYTES, false, metrics)
    }

    /// [`Labels::open`], which goes on without what is damaged.
    ///
    /// # Errors
    /// Files that cannot be read or written.
    pub fn open_accepting_loss(
        folder: impl Into<DiskFolder>,
        limits: Limits,
        metrics: Arc<Metrics>,
    ) -> Result<Labels, LabelsError> {
        Labels::open_with(folder, limits, SEGMENT_BYTES, true, metrics)
    }

    /// [`Labels::open`] with segments of the series log of so many bytes.
    ///
    /// # Errors
    /// As [`Labels::open`].
    pub fn open_with_segments(
        folder: impl Into<DiskFolder>,
        limits: Limits,
        segment_bytes: u64,
        metrics: Arc<Metrics>,
    ) -> Result<Labels, LabelsError> {
        Labels::open_with(folder, limits, segment_bytes, false, metrics)
    }

    fn open_with(
        folder: impl Into<DiskFolder>,
        limits: Limits,
        segment_bytes: u64,
        accept_loss: bool,
        metrics: Arc<Metrics>,
    ) -> Result<Labels, LabelsError> {
        let mut entries = Entries::default();
        let mut text_bytes = 0;
        let visit = |segment, series: SeriesId, epoch, labels: LabelSet| {
            if let Some(held) = entries.by_id.get(&series.0) {
                held.used.fetch_max(epoch, Relaxed);
                entries.written(series, segment);
                return;
            }
            text_bytes += labels.bytes();
            entries.insert(series, epoch, Arc::new(labels), segment);
        };
        let log = SeriesLog::open(&folder.into(), segment_bytes, accept_loss, &metrics, visit)?;
        metrics.label_entries.set(i64::try_from(entries.by_id.len()).unwrap_or(i64::MAX));
        Ok(Labels {
            limits,
            metrics,
            entries: RwLock::new(entries),
            spellings: (0..STRIPES).map(|_| RwLock::default()).collect(),
            pending: Mutex::default(),
            unsynced: AtomicUsize::new(0),
            text_bytes: AtomicUsize::new(text_bytes),
            log: Mutex::new(log),
            segments: RwLock::default(),
            compacting: Mutex::default(),
            types: KnownTypes::default(),
            options: FoundOptions::default(),
            when_full: OnceLock::new(),
        })
    }

    /// The series whose labels were interned with these encoded bytes; marks it as used in `epoch`.
    ///
    /// `None` sends the caller to [`Labels::intern`]. Allocates nothing.
    #[inline]
    pub fn find(&self, encoded: &[u8], epoch: u64) -> Option<SeriesId> {
        self.find_recorded(encoded, epoch, None).map(|(series, _)| series)
    }

    /// [`Labels::find`], and whether the journal holds the type that is said of the series, if one is.
    #[inline]
    pub fn find_recorded(
        &self,
        encoded: &[u8],
        epoch: u64,
        said: Option<MetricType>,
    ) -> Option<(SeriesId, bool)> {
        let hash = xxh3_64(encoded);
        let spellings = self.stripe(hash).read();
        let spelling = spellings.get(&hash)?;
        if *spelling.encoded != *encoded {
            return None;
        }
        let state = spelling.state.load(Relaxed);
        if state >> 2 < epoch {
            spelling.mark(epoch);
        }
        Some((spelling.series, said.is_none_or(|said| state & 3 == said as u64)))
    }

    /// Judges and sorts `pairs`, and gives their series; one not known yet is queued for the series log.
    ///
    /// `encoded` is remembered as a spelling for [`Labels::find`]. Labels with empty values are dropped.
    ///
    /// # Errors
    /// Labels that are malformed or beyond a limit, or an id that belongs to other labels.
    pub fn intern(
        &self,
        pairs: &mut Vec<(&str, &str)>,
        encoded: Option<&[u8]>,
        epoch: u64,
    ) -> Result<SeriesId, LabelsRefusal> {
        let checked = check(pairs, &self.limits);
        let mut done = checked.and_then(|()| self.intern_as(series_id(pairs), pairs, encoded, epoch));
        if let Err(LabelsRefusal::SeriesLimit { .. } | LabelsRefusal::SeriesPerNameLimit { .. }) = done
            && self.when_full.get().is_some_and(|room| room())
        {
            done = self.intern_as(series_id(pairs), pairs, encoded, epoch);
        }
        if let Some(limit) = done.as_ref().err().and_then(LabelsRefusal::limit) {
            self.metrics.limit(limit);
        }
        done
    }

    /// Has `room` asked before a series is refused because there are as many as may be: it may wait until others are
    /// released, and says whether to try again. The first one stays.
    pub fn when_full(&self, room: Box<dyn Fn() -> bool + Send + Sync>) {
        let _ = self.when_full.set(room);
    }

    /// [`Labels::intern`] for checked `pairs` with the identity `series`.
    fn intern_as(
        &self,
        series: SeriesId,
        pairs: &[(&str, &str)],
        encoded: Option<&[u8]>,
        epoch: u64,
    ) -> Result<SeriesId, LabelsRefusal> {
        // Before the lock: regexes take their time. Who comes here knows no such series, but for another spelling.
        let options = self.options_of(pairs);
        let mut entries = self.entries.write();
        if let Some(entry) = entries.by_id.get(&series.0) {
            if !entry.labels.same(pairs) {
                let refused = set::shown(&set::selector(pairs.iter().copied()));
                return Err(LabelsRefusal::IdCollision {
                    id: series,
                    held: set::shown(&entry.labels.to_string()),
                    refused,
                });
            }
            entry.used.fetch_max(epoch, Relaxed);
        } else {
            let labels = Arc::new(LabelSet::from_sorted(pairs.iter().copied()));
            entries.admit(&labels, &self.limits)?;
            self.note_name(series, labels.name());
            self.note_options(series, options);
            self.text_bytes.fetch_add(labels.bytes(), Relaxed);
            entries.insert(series, epoch, labels.clone(), NO_SEGMENT);
            self.metrics.label_entries.set(i64::try_from(entries.by_id.len()).unwrap_or(i64::MAX));
            // Queued before anyone else can find the series, so a sync that follows its first use covers it.
            let mut pending = self.pending.lock();
            pending.push(PendingSeries { series, epoch, labels });
            self.unsynced.fetch_add(1, Release);
        }
        if let (Some(encoded), Some(entry)) = (encoded, entries.by_id.get_mut(&series.0)) {
            self.spell(entry, series, encoded, epoch);
        }
        Ok(series)
    }

    /// Remembers `encoded` as a spelling of `series`, within bounds.
    fn spell(&self, entry: &mut SeriesEntry, series: SeriesId, encoded: &[u8], epoch: u64) {
        if entry.spellings.len() >= SPELLINGS_MAX || encoded.len() > 4 * entry.labels.bytes() + 64 {
            return;
        }
        let hash = xxh3_64(encoded);
        let mut spellings = self.stripe(hash).write();
        // Another spelling with this hash keeps its place: the newcomer goes through `intern` each time.
        spellings.entry(hash).or_insert_with(|| {
            entry.spellings.push(hash);
            self.text_bytes.fetch_add(encoded.len(), Relaxed);
            Spelling::new(encoded, series, epoch, entry.recorded_type.load(Relaxed))
        });
    }

    /// Writes and syncs the entries that are not durable yet; cheap when there are none.
    ///
    /// # Errors
    /// Disk errors. What could not be written is written by the next call; after a failed sync none can succeed.
    pub fn sync(&self) -> io::Result<()> {
        if self.unsynced.load(Acquire) == 0 {
            return Ok(());
        }
        let mut log = self.log.lock();
        let pending = std::mem::take(&mut *self.pending.lock());
        let records = pending.iter().map(|entry| (entry.series, entry.epoch, &*entry.labels));
        let segment = match log.write_all(records) {
            Ok(segment) => segment,
            Err(error) => {
                // Nothing of it is in the log; the next call writes it, before what was queued meanwhile.
                self.pending.lock().splice(..0, pending);
                return Err(io::Error::other(error));
            }
        };
        drop(log);
        self.unsynced.fetch_sub(pending.len(), Release);
        let entries = self.entries.read();
        pending.iter().for_each(|entry| entries.written(entry.series, segment));
        Ok(())
    }

    /// The labels of `series`, also for a while after it was released.
    pub fn get(&self, series: SeriesId) -> Option<Arc<LabelSet>> {
        let entries = self.entries.read();
        if let Some(entry) = entries.by_id.get(&series.0) {
            return Some(entry.labels.clone());
        }
        entries.released.get(&series.0).map(|released| released.labels.clone())
    }

    /// Forgets those of `series` whose last use, or registration, was before `freed_epoch`; how many.
    ///
    /// One that was used since is registered anew, durably with the next commit: after a restart its freeing, which is
    /// computed again, then finds it used. One whose id somebody has found and not written yet may be forgotten, if he took
    /// his epoch before that one was cut: [`Labels::get`] still knows it, and its next arrival registers it.
    pub fn release(&self, series: &[SeriesId], freed_epoch: u64) -> usize {
        if series.is_empty() {
            return 0;
        }
        let mut entries = self.entries.write();
        let before = entries.by_id.len();
        for &series in series {
            let Some(entry) = entries.by_id.get_mut(&series.0) else { continue };
            let mut used = entry.used.load(Relaxed);
            let mut bytes = 0;
            while let Some(hash) = entry.spellings.last().filter(|_| used < freed_epoch) {
                // Under the lock for writing: who finds it has marked it, or does not find it any more.
                let mut spellings = self.stripe(*hash).write();
                let spelled = spellings.get(hash).map_or(0, Spelling::used);
                used = used.max(spelled);
                if used < freed_epoch {
                    bytes += spellings.remove(hash).map_or(0, |spelling| spelling.encoded.len());
                    entry.spellings.pop();
                }
            }
            if used < freed_epoch {
                bytes += entry.labels.bytes();
                entries.release(series, used);
            } else if entry.used.fetch_max(used, Relaxed) < freed_epoch {
                self.pending.lock().push(PendingSeries { series, epoch: used, labels: entry.labels.clone() });
                self.unsynced.fetch_add(1, Release);
            }
            self.text_bytes.fetch_sub(bytes, Relaxed);
        }
        let released = before - entries.by_id.len();
        self.metrics.label_entries.set(i64::try_from(entries.by_id.len()).unwrap_or(i64::MAX));
        self.metrics.series_released.inc_by(released as u64);
        released
    }

    /// Whether a series is known now.
    pub fn knows(&self, series: SeriesId) -> bool {
        self.entries.read().by_id.contains_key(&series.0)
    }

    /// The bounds that new series are judged by.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Refuses, and counts, a series of this name with so many labels that nobody gathers them.
    pub fn too_many(&self, name: &str, got: usize) -> LabelsRefusal {
        self.metrics.limit("limits.labels");
        LabelsRefusal::TooManyLabels { name: set::shown(name), got, max: self.limits.labels }
    }

    /// Refuses, and counts, a series of this name with labels so long that nobody copies them.
    pub fn too_long(&self, name: &str, got: usize) -> LabelsRefusal {
        self.metrics.limit("limits.label_bytes");
        let max = self.limits.label_bytes.min(LABEL_BYTES_MAX);
        LabelsRefusal::LabelsTooLong { name: set::shown(name), got, max }
    }

    /// Series known.
    pub fn len(&self) -> usize {
        self.entries.read().by_id.len()
    }

    /// Whether no series is known.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of memory for label texts and the maps around them, estimated.
    pub fn bytes(&self) -> usize {
        const PER_SERIES: usize = 150;
        self.text_bytes.load(Relaxed) + self.len() * PER_SERIES
    }

    /// Whether the series log takes nothing before it is opened anew.
    pub fn log_has_failed(&self) -> bool {
        self.log.lock().has_failed()
    }

    /// Bytes of the series log on disk.
    pub fn log_bytes(&self) -> u64 {
        self.log.lock().bytes()
    }

    /// Reads the labels of `series` from the series log: for sinks, when [`Labels::get`] has forgotten them. Slow.
    ///
    /// # Errors
    /// Files that cannot be read or are damaged.
    pub fn find_in_log(&self, series: SeriesId) -> Result<Option<LabelSet>, LabelsError> {
        Ok(self.find_many_in_log(&[series])?.remove(&series))
    }

    /// [`Labels::find_in_log`] for many series in one pass over the log.
    ///
    /// # Errors
    /// Files that cannot be read or are damaged.
    pub fn find_many_in_log(&self, series: &[SeriesId]) -> Result<HashMap<SeriesId, LabelSet>, LabelsError> {
        let _nothing_goes = self.segments.read();
        let place = self.log.lock().place();
        log::find(&place, series)
    }

    /// The last use of a spelling.
    fn used(&self, hash: u64) -> u64 {
        let spellings = self.stripe(hash).read();
        spellings.get(&hash).map_or(0, Spelling::used)
    }

    fn stripe(&self, hash: u64) -> &RwLock<ByHash<Spelling>> {
        // The map inside uses the highest and the lowest bits.
        &self.spellings[(hash >> 32) as usize % STRIPES]
    }
}

#[cfg(test)]
mod tests;
