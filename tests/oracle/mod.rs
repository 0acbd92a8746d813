//! The slow model: docs/semantics.md (closing, late, reopening, slots) written to be obviously right.
//!
//! It keeps every sample, recomputes every window from scratch and compares contents whole. What the
//! dataflow emits must equal it row for row, revision for revision, epoch for epoch.

pub mod feed;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tidewatch_dataflows::kernels::reference;
use tidewatch_dataflows::kernels::sketch::QuantileSketch;
use tidewatch_dataflows::rows::windows::QuantileValues;
use tidewatch_dataflows::rows::{ResultRow, Rows, WindowStats};
use tidewatch_dataflows::sample::{Control, EpochEnd, Reason, STALE_NAN_BITS, Samples, SeriesId};
use tidewatch_dataflows::settings::{QUANTILES, Settings, Window};

/// One epoch of a feed: what the journal would hold.
#[derive(Clone, Debug)]
pub struct Epoch {
    pub end: EpochEnd,
    pub controls: Vec<Arc<Control>>,
    pub bootstraps: Vec<Samples>,
    pub live: Samples,
}

impl Default for Epoch {
    fn default() -> Self {
        let end =
            EpochEnd { epoch: 0, processing_ms: i64::MIN, watermark_ms: i64::MIN, last_of_input: false };
        (end, Samples::default()).into()
    }
}

impl Epoch {
    /// The samples of this bootstrap.
    pub fn of_bootstrap(&mut self, bootstrap: u64) -> &mut Samples {
        if bootstrap == 0 {
            return &mut self.live;
        }
        let at =
            self.bootstraps.iter().position(|samples| samples.bootstrap == bootstrap).unwrap_or_else(|| {
                self.bootstraps.push(Samples::of_bootstrap(bootstrap));
                self.bootstraps.len() - 1
            });
        &mut self.bootstraps[at]
    }
}

impl From<(EpochEnd, Samples)> for Epoch {
    fn from((end, live): (EpochEnd, Samples)) -> Self {
        Epoch { end, controls: Vec::new(), bootstraps: Vec::new(), live }
    }
}

type Content = Vec<(i64, u64)>;

#[derive(Default)]
struct Series {
    samples: BTreeMap<i64, f64>,
    newest: Option<i64>,
    last_applied_ms: i64,
    tombstone: Option<i64>,
    withhold: i64,
    closed: Vec<Option<i64>>,
    published: BTreeMap<(usize, i64), (u32, Content)>,
    /// The times of the samples in the raw ring.
    ring: BTreeSet<i64>,
    /// Some applied sample is in the raw ring no more.
    forgot: bool,
    /// No pane that begins before this is whole in the raw ring.
    lost: Option<i64>,
    /// By window: what one that was added is held to.
    young: Vec<Young>,
    /// Base panes after this are held, however far back the ring of them reaches.
    base_from: i64,
    /// The bootstrap it takes with the samples that wait for its end; without them one it was too late for.
    taking: Option<(u64, Option<BTreeMap<i64, f64>>)>,
    publish_from: Option<i64>,
    /// Its bootstrap ends in this epoch.
    bootstrapped: bool,
    /// A row of its rejects waits for the end of the minute.
    rejected: bool,
}

/// A window that was added knows samples newer than the one and never answers keys up to the other.
#[derive(Clone, Copy)]
struct Young {
    known_from: i64,
    mute_to: i64,
}

const GROWN: Young = Young { known_from: i64::MIN, mute_to: i64::MIN };

/// How far ahead of a clock that was set back samples may be.
const AHEAD_MS: i64 = 600_000;

/// The next multiple of `size`.
fn up(at: i64, size: i64) -> i64 {
    -(-at).div_euclid(size) * size
}

/// A sample on its way: series, time, key of order, value.
type Row = (u64, i64, u64, f64);

/// The whole model.
pub struct Model {
    settings: Settings,
    live: BTreeMap<u64, Series>,
    tombstones: BTreeMap<usize, BTreeSet<(i64, u64)>>,
    floors: BTreeMap<usize, i64>,
    /// Bootstraps begun and not ended, and from when on they publish.
    open: BTreeMap<u64, i64>,
    quarantined: BTreeSet<u64>,
    /// The minute of processing time whose rejects are summed.
    minute: i64,
}

/// The samples of a batch, in order.
fn rows(samples: &Samples) -> Vec<Row> {
    let mut rows: Vec<Row> = (0..samples.len())
        .map(|i| {
            let bits = samples.value[i].to_bits();
            let key = if bits == STALE_NAN_BITS { u64::MAX } else { bits };
            (samples.series[i], samples.at_ms[i], key, samples.value[i])
        })
        .collect();
    rows.sort_by_key(|row| (row.0, row.1, row.2));
    rows
}

impl Model {
    pub fn new(settings: &Settings) -> Self {
        Model {
            settings: settings.clone(),
            live: BTreeMap::new(),
            tombstones: BTreeMap::new(),
            floors: BTreeMap::new(),
            open: BTreeMap::new(),
            quarantined: BTreeSet::new(),
            minute: i64::MIN,
        }
    }

    /// A series that is not live gets a place.
    fn meet(&mut self, id: u64, processing_ms: i64) {
        if self.live.contains_key(&id) {
            return;
        }
        let shard = SeriesId(id).shard();
        let stones = self.tombstones.entry(shard).or_default();
        let tombstone = stones.iter().find(|(_, series)| *series == id).copied();
        if let Some(stone) = tombstone {
            stones.remove(&stone);
        }
        let floor = self.floors.get(&shard).copied().unwrap_or(i64::MIN);
        let tombstone = tombstone.map(|(at, _)| at);
        self.live.insert(
            id,
            Series {
                last_applied_ms: processing_ms,
                tombstone,
                withhold: tombstone.unwrap_or(floor),
                closed: vec![None; self.settings.windows.len()],
                young: vec![GROWN; self.settings.windows.len()],
                base_from: i64::MIN,
                ..Series::default()
            },
        );
    }

    /// What one epoch must come to: windows (numbers by the slow twin), freed series, counts by reason.
    #[expect(clippy::too_many_lines, reason = "cases of one kind, one after the other")]
    pub fn epoch(&mut self, Epoch { end, controls, bootstraps, live }: &Epoch) -> Rows {
        let mut ended = BTreeSet::new();
        for control in controls {
            match &**control {
                Control::BootstrapBegin(bootstrap) => {
                    self.open.entry(bootstrap.id).or_insert(bootstrap.publish_from_ms);
                }
                Control::BootstrapEnd { bootstrap } => {
                    ended.insert(*bootstrap);
                }
                Control::Lift { series } => {
                    self.quarantined.remove(series);
                }
                Control::Types(_)
                | Control::NamedTypes(_)
                | Control::Options { .. }
                | Control::Quarantine { .. }
                | Control::Settings(_)
                | Control::ClockReset { .. } => {}
            }
        }
        // In one epoch those that keep out win.
        let mut freed: Vec<u64> = Vec::new();
        for control in controls {
            let Control::Quarantine { series, .. } = &**control else { continue };
            if self.quarantined.insert(*series) && self.live.contains_key(series) {
                freed.push(*series);
            }
        }
        let told = controls.iter().rev().find_map(|control| match &**control {
            Control::Settings(settings) => Some(settings),
            _ => None,
        });
        if let Some(settings) = told.filter(|settings| ***settings != self.settings) {
            let old = std::mem::replace(&mut self.settings, (**settings).clone());
            self.live.values_mut().for_each(|series| series.change(&old, settings, end.watermark_ms));
            let shards: Vec<usize> = self.tombstones.keys().copied().collect();
            shards.into_iter().for_each(|shard| self.evict(shard));
        }
        let mut out = Rows::default();
        let clock = controls.iter().filter_map(|control| match &**control {
            Control::ClockReset { to_ms } => Some(*to_ms),
            _ => None,
        });
        let clock = clock.min();
        if let Some(to_ms) = clock {
            self.set_back(to_ms, &freed, &mut out);
        }
        let mut dirty: BTreeMap<u64, BTreeSet<(usize, i64)>> = BTreeMap::new();
        let (live, mut bootstrapped) = (
            rows(live),
            bootstraps.iter().map(|bootstrap| (bootstrap.bootstrap, rows(bootstrap))).collect::<Vec<_>>(),
        );
        // Of bootstraps that begin in one epoch a series takes the one of the lowest number.
        bootstrapped.sort_by_key(|(bootstrap, _)| *bootstrap);
        let mut live = live;
        for rows in bootstrapped.iter_mut().map(|(_, rows)| rows).chain([&mut live]) {
            let all = rows.len();
            rows.retain(|row| !self.quarantined.contains(&row.0));
            out.counts.rejected[Reason::Quarantined as usize] += (all - rows.len()) as u64;
        }
        // It leaves its tombstone with those that are freed at the end of the epoch.
        let gone: Vec<(u64, Series)> =
            freed.drain(..).filter_map(|id| Some((id, self.live.remove(&id)?))).collect();
        let mut ids: BTreeSet<u64> = live.iter().map(|row| row.0).collect();
        ids.extend(bootstrapped.iter().flat_map(|(_, rows)| rows).map(|row| row.0));
        for id in ids.iter().copied() {
            self.meet(id, end.processing_ms);
        }
        ids.extend(self.live.iter().filter(|(_, series)| series.takes()).map(|(id, _)| *id));
        for id in ids {
            let of = |rows: &[Row]| rows.iter().copied().filter(|row| row.0 == id).collect::<Vec<_>>();
            let series = self.live.get_mut(&id).expect("it was met");
            let rejects_before = named_rejects(&out);
            let dirty = dirty.entry(id).or_default();
            let mut rest = Vec::new();
            for (bootstrap, rows) in &bootstrapped {
                for row in of(rows) {
                    series.bootstrap(
                        &self.settings,
                        &self.open,
                        *bootstrap,
                        row,
                        end.processing_ms,
                        &mut rest,
                        &mut out,
                    );
                }
            }
            if series.takes()
                && series.taking.as_ref().is_some_and(|(bootstrap, _)| ended.contains(bootstrap))
            {
                series.leave(&mut rest);
                series.last_applied_ms = end.processing_ms;
                series.bootstrapped = true;
            }
            for row in of(&live) {
                series.wait(&self.settings, row, end.processing_ms, &mut rest, &mut out);
            }
            rest.sort_by_key(|row| row.1);
            let newest = series.newest;
            let (late, new): (Vec<Row>, Vec<Row>) =
                rest.into_iter().partition(|row| newest.is_some_and(|newest| row.1 <= newest));
            series.apply_all(&self.settings, &late, end.processing_ms, dirty, &mut out);
            series.release(&self.settings, dirty);
            series.apply_all(&self.settings, &new, end.processing_ms, dirty, &mut out);
            series.rejected |= named_rejects(&out) > rejects_before;
        }
        for series in self.live.values_mut() {
            series.taking.take_if(|(bootstrap, _)| ended.contains(bootstrap));
        }
        self.open.retain(|bootstrap, _| !ended.contains(bootstrap));
        // A profile looks back over half a day of silence.
        let profile_ms = if self.settings.profile.enabled { 12 * 3_600_000 } else { 0 };
        let needed_ms = self.settings.longest_ms().max(self.settings.allowed_lateness_ms).max(profile_ms);
        let keep = needed_ms + self.settings.idle_timeout_ms;
        for (id, series) in &mut self.live {
            let mut keys = dirty.remove(id).unwrap_or_default();
            series.silence(&self.settings, end.watermark_ms, &mut keys);
            series.emit(&self.settings, SeriesId(*id), &keys, &mut out.windows);
            let newest = series.newest.unwrap_or(series.last_applied_ms);
            let quiet = end.watermark_ms > newest.saturating_add(keep)
                && end.processing_ms > series.last_applied_ms.saturating_add(keep);
            if quiet
                && !series.takes()
                && !series.rejected
                && (series.newest.is_none() || series.silent(&self.settings, end.watermark_ms))
            {
                freed.push(*id);
            }
        }
        let quiet = freed.into_iter().map(|id| (id, self.live.remove(&id).expect("it is live")));
        for (id, series) in quiet.collect::<Vec<_>>().into_iter().chain(gone) {
            out.freed.push(SeriesId(id));
            let Some(at) = series.newest.max(series.tombstone) else { continue };
            if clock.is_some_and(|to_ms| at > to_ms + AHEAD_MS) {
                continue;
            }
            let shard = SeriesId(id).shard();
            self.tombstones.entry(shard).or_default().insert((at, id));
            self.evict(shard);
        }
        let minute =
            if end.processing_ms == i64::MIN { i64::MIN } else { end.processing_ms.div_euclid(60_000) };
        if minute > self.minute || end.last_of_input {
            self.live.values_mut().for_each(|series| series.rejected = false);
            self.minute = self.minute.max(minute);
        }
        out.windows.sort_by_key(WindowStats::key);
        out.freed.sort_unstable();
        out
    }

    /// The clock was wrong and says `to_ms`: what lies far ahead of it goes, what was judged by it is lowered.
    fn set_back(&mut self, to_ms: i64, quarantined: &[u64], out: &mut Rows) {
        let back = |bound: i64| if bound > to_ms + AHEAD_MS { to_ms } else { bound };
        self.minute = self.minute.min(to_ms.div_euclid(60_000));
        self.open.values_mut().for_each(|publish_from| *publish_from = back(*publish_from));
        self.floors.values_mut().for_each(|floor| *floor = back(*floor));
        self.tombstones.values_mut().for_each(|stones| stones.retain(|(at, _)| *at <= to_ms + AHEAD_MS));
        let windows = self.settings.windows.clone();
        self.live.retain(|id, series| {
            let waiting = series.taking.as_ref().and_then(|(_, waiting)| waiting.as_ref());
            let waiting = waiting.and_then(|waiting| waiting.keys().next_back().copied());
            let latest = series.newest.max(series.tombstone).max(waiting);
            if quarantined.contains(id) {
                return true;
            }
            if latest.is_some_and(|latest| latest > to_ms + AHEAD_MS) {
                out.freed.push(SeriesId(*id));
                return false;
            }
            series.last_applied_ms = series.last_applied_ms.min(to_ms);
            series.withhold = back(series.withhold);
            let longest = windows.iter().map(|window| window.length_ms).max().unwrap_or(0);
            let reach = series.newest.unwrap_or(i64::MIN).max(to_ms) + longest;
            series.publish_from = series.publish_from.map(|from| if from > reach { to_ms } else { from });
            for (w, window) in windows.iter().enumerate() {
                // No key that holds a sample could be answered: it was added under a clock far ahead.
                let (now, young) = (series.newest.unwrap_or(i64::MIN).max(to_ms), &mut series.young[w]);
                if young.mute_to > now.saturating_add(window.length_ms) {
                    young.mute_to = now.div_euclid(window.hop_ms) * window.hop_ms;
                    series.closed[w] = series.closed[w].map(|closed| closed.min(young.mute_to));
                }
            }
            true
        });
    }

    /// Keeps so many tombstones as there may be.
    fn evict(&mut self, shard: usize) {
        let stones = self.tombstones.entry(shard).or_default();
        while stones.len() as u64 > self.settings.series_max / 256 {
            let (at, _) = stones.pop_first().expect("it is not empty");
            let floor = self.floors.entry(shard).or_insert(i64::MIN);
            *floor = (*floor).max(at);
        }
    }
}

/// Rejects that are made into rows: all but duplicates.
fn named_rejects(out: &Rows) -> u64 {
    out.counts.rejected.iter().sum::<u64>() - out.counts.rejected[Reason::Duplicate as usize]
}

impl Series {
    fn takes(&self) -> bool {
        matches!(self.taking, Some((_, Some(_))))
    }

    /// A sample of a bootstrap: applied, made to wait, skipped, or refused.
    #[allow(clippy::too_many_arguments)]
    fn bootstrap(
        &mut self,
        settings: &Settings,
        open: &BTreeMap<u64, i64>,
        bootstrap: u64,
        (_, at, key, value): Row,
        processing_ms: i64,
        rest: &mut Vec<Row>,
        out: &mut Rows,
    ) {
        if key == u64::MAX {
            out.counts.stale_markers += 1;
            return;
        }
        let reason = if self.tombstone.is_some_and(|stone| at <= stone) {
            Some(Reason::TooOld)
        } else if !value.is_finite() {
            Some(Reason::NotFinite)
        } else if let Some((taken, waiting)) = &self.taking {
            (*taken != bootstrap || waiting.is_none()).then_some(Reason::BootstrapTooLate)
        } else if !open.contains_key(&bootstrap) {
            Some(Reason::BootstrapTooLate)
        } else if self.forgot {
            self.taking = Some((bootstrap, None));
            Some(Reason::BootstrapTooLate)
        } else {
            self.taking = Some((bootstrap, Some(std::mem::take(&mut self.samples))));
            self.publish_from = Some(open[&bootstrap]);
            self.begin_anew();
            None
        };
        if let Some(reason) = reason {
            out.counts.rejected[reason as usize] += 1;
            return;
        }
        if let Some(newest) = self.newest.filter(|newest| at <= *newest) {
            // What the raw ring holds no more was taken before, as far as it knows.
            let held = self.ring.contains(&at);
            let forgotten = self.forgot && self.ring.range(..at).next().is_none();
            debug_assert!(at <= newest);
            let reason = match self.samples.get(&at).filter(|_| held) {
                None if forgotten => Reason::Duplicate,
                Some(held) if held.to_bits() == value.to_bits() => Reason::Duplicate,
                Some(_) => Reason::DuplicateTimestamp,
                None => Reason::BootstrapTooLate,
            };
            out.counts.rejected[reason as usize] += 1;
            return;
        }
        let Some((_, Some(waiting))) = &mut self.taking else { unreachable!("it takes the bootstrap") };
        if waiting.keys().next().is_none_or(|first| at < *first) {
            self.samples.insert(at, value);
            self.age(settings, at);
            for (w, window) in settings.windows.iter().enumerate() {
                let before = match self.newest {
                    None => at,
                    Some(_) => at - settings.allowed_lateness_ms - settings.base_ms(),
                };
                let below = -(-before).div_euclid(window.hop_ms) * window.hop_ms - window.hop_ms;
                self.closed[w] = Some(self.closed[w].map_or(below, |closed| closed.max(below)));
            }
            self.newest = Some(at);
            self.last_applied_ms = processing_ms;
            out.counts.applied += 1;
            return;
        }
        let reason = match waiting.get(&at) {
            Some(held) if held.to_bits() == value.to_bits() => Reason::Duplicate,
            Some(_) => Reason::DuplicateTimestamp,
            None if waiting.len() as u32 >= settings.late_samples_max => {
                self.drop_bootstrap(rest);
                Reason::BootstrapTooLate
            }
            None => {
                waiting.insert(at, value);
                self.last_applied_ms = processing_ms;
                return;
            }
        };
        out.counts.rejected[reason as usize] += 1;
    }

    /// A live sample: waits if the series takes a bootstrap, else goes to `rest`.
    fn wait(
        &mut self,
        settings: &Settings,
        row: Row,
        processing_ms: i64,
        rest: &mut Vec<Row>,
        out: &mut Rows,
    ) {
        let (_, at, key, value) = row;
        let Some((_, Some(waiting))) = &mut self.taking else {
            // What waited was there before.
            let newest = rest.iter().filter(|row| row.0 == u64::MAX).map(|row| row.1).max();
            match newest.is_some_and(|newest| at < newest - settings.allowed_lateness_ms) && key != u64::MAX {
                true => out.counts.rejected[Reason::TooOld as usize] += 1,
                false => rest.push(row),
            }
            return;
        };
        if key == u64::MAX {
            out.counts.stale_markers += 1;
            return;
        }
        let newest = waiting.keys().next_back().copied().max(self.newest);
        let old = newest.is_some_and(|newest| newest - at > settings.allowed_lateness_ms)
            || self.tombstone.is_some_and(|stone| at <= stone);
        let reason = match waiting.get(&at) {
            _ if old => Reason::TooOld,
            _ if !value.is_finite() => Reason::NotFinite,
            Some(held) if held.to_bits() == value.to_bits() => Reason::Duplicate,
            Some(_) => Reason::DuplicateTimestamp,
            None if waiting.len() as u32 >= settings.late_samples_max => {
                self.drop_bootstrap(rest);
                return self.wait(settings, row, processing_ms, rest, out);
            }
            None => {
                waiting.insert(at, value);
                self.last_applied_ms = processing_ms;
                return;
            }
        };
        out.counts.rejected[reason as usize] += 1;
    }

    /// As if nothing had been applied; what was published stays known.
    fn begin_anew(&mut self) {
        self.samples.clear();
        self.ring.clear();
        (self.newest, self.forgot, self.lost, self.base_from) = (None, false, None, i64::MIN);
        self.young.iter_mut().for_each(|young| young.known_from = i64::MIN);
        self.closed.fill(None);
    }

    fn drop_bootstrap(&mut self, rest: &mut Vec<Row>) {
        self.leave(rest);
        self.begin_anew();
        self.publish_from = None;
    }

    /// What waited goes to `rest`, marked as such by an id that no series has.
    fn leave(&mut self, rest: &mut Vec<Row>) {
        let waiting = self.taking.as_mut().and_then(|(_, waiting)| waiting.take());
        let rows = waiting.into_iter().flatten().map(|(at, value)| (u64::MAX, at, value.to_bits(), value));
        rest.extend(rows);
    }

    /// The bootstrap has ended: what was not passed closes, before the newest sample of the bootstrap.
    fn release(&mut self, settings: &Settings, dirty: &mut BTreeSet<(usize, i64)>) {
        if !std::mem::take(&mut self.bootstrapped) {
            return;
        }
        let Some(newest) = self.newest else { return };
        for (w, window) in settings.windows.iter().enumerate() {
            let below = (-(-newest).div_euclid(window.hop_ms) - 1) * window.hop_ms;
            let closed = self.closed[w].expect("a sample was applied");
            dirty.extend(
                (1..).map(|i| closed + i * window.hop_ms).take_while(|key| *key <= below).map(|key| (w, key)),
            );
            self.closed[w] = Some(closed.max(below));
        }
    }

    /// A newer sample goes into the raw ring, and pushes out what is too old or too much.
    fn age(&mut self, settings: &Settings, at: i64) {
        self.forget(at - settings.allowed_lateness_ms - settings.base_ms());
        self.shrink(settings.late_samples_max as usize - 1);
        self.ring.insert(at);
    }

    fn forget(&mut self, upto: i64) {
        while self.ring.first().is_some_and(|first| *first <= upto) {
            self.ring.pop_first();
            self.forgot = true;
        }
    }

    fn shrink(&mut self, max: usize) {
        while self.ring.len() > max {
            self.lost = self.lost.max(self.ring.pop_first());
            self.forgot = true;
        }
    }

    /// A late sample goes into the raw ring, if its base pane is wholly there and stays so.
    fn merge(&mut self, settings: &Settings, at: i64) -> Result<(), Reason> {
        let pane_start = up(at, settings.base_ms()) - settings.base_ms();
        let max = settings.late_samples_max as usize;
        let full = self.ring.len() >= max && self.ring.first().is_some_and(|first| *first > pane_start);
        if full || self.lost.is_some_and(|lost| lost > pane_start) {
            return Err(Reason::LateRingFull);
        }
        self.shrink(max - 1);
        self.ring.insert(at);
        Ok(())
    }

    /// Other settings: what a server that keeps panes and a raw ring, and no samples, knows from then on.
    fn change(&mut self, old: &Settings, new: &Settings, close: i64) {
        let (newest, base) = (self.newest.unwrap_or(i64::MIN), old.base_ms());
        let waiting = self.taking.as_ref().and_then(|(_, waiting)| waiting.as_ref());
        let waits = waiting.and_then(|waiting| waiting.keys().next_back().copied());
        let latest = self.newest.max(waits);
        let (mut closed, mut young) = (Vec::new(), Vec::new());
        let raw_from = match self.forgot {
            true => up((newest - old.allowed_lateness_ms - base).max(self.lost.unwrap_or(i64::MIN)), base),
            false => i64::MIN,
        };
        let own = old.windows.iter().filter(|window| window.hop_ms == base);
        let base_ring = old.base_panes().max(own.map(|window| old.ring_panes(*window)).max().unwrap_or(0));
        if self.forgot {
            self.base_from = self.base_from.max(up(newest, base) - base_ring * base);
        } else {
            self.base_from = i64::MIN;
        }
        let mut published = BTreeMap::new();
        for (w, window) in new.windows.iter().enumerate() {
            if let Some(was) = old.windows.iter().position(|was| was == window) {
                closed.push(self.closed[was]);
                young.push(self.young[was]);
                let keys = self.published.range((was, i64::MIN)..=(was, i64::MAX));
                published.extend(keys.map(|((_, at), row)| ((w, *at), row.clone())));
                continue;
            }
            let mute_to = latest.unwrap_or(i64::MIN).max(close).div_euclid(window.hop_ms) * window.hop_ms;
            let known_from = self.known_from(old, window, newest, raw_from);
            closed.push(self.newest.map(|_| mute_to));
            young.push(match (self.newest, latest) {
                (Some(_), _) => Young { known_from, mute_to },
                (None, Some(_)) => Young { mute_to, ..GROWN },
                (None, None) => GROWN,
            });
        }
        (self.closed, self.young, self.published) = (closed, young, published);
        if self.newest.is_none() {
            return;
        }
        if self.forgot && new.base_ms() != base {
            self.base_from = self.base_from.max(raw_from);
            self.lost = self.lost.max(Some(raw_from));
        }
        if self.forgot && new.allowed_lateness_ms > old.allowed_lateness_ms {
            self.lost = self.lost.max(Some(newest - old.allowed_lateness_ms));
        }
        self.forget(newest - new.allowed_lateness_ms - new.base_ms());
        self.shrink(new.late_samples_max as usize);
        if self.takes() {
            for (closed, window) in self.closed.iter_mut().zip(&new.windows) {
                let below =
                    up(newest - new.allowed_lateness_ms - new.base_ms(), window.hop_ms) - window.hop_ms;
                *closed = (*closed).max(Some(below));
            }
        }
    }

    /// From when on panes of a hop can be made whole of panes that are held.
    fn known_from(&self, old: &Settings, window: &Window, newest: i64, raw_from: i64) -> i64 {
        let (base, hop) = (old.base_ms(), window.hop_ms);
        if !self.forgot {
            return i64::MIN;
        }
        if hop % base != 0 {
            return up(raw_from, hop);
        }
        let mut from = self.base_from;
        // Coarser panes serve if a late sample would find all base panes beside it.
        if self.base_from <= up(newest - old.allowed_lateness_ms, hop) - hop {
            for (was, young) in old.windows.iter().zip(&self.young) {
                if was.hop_ms > base && hop % was.hop_ms == 0 {
                    from = from.min((up(newest, was.hop_ms) - was.length_ms).max(young.known_from));
                }
            }
        }
        up(from, hop)
    }

    fn apply_all(
        &mut self,
        settings: &Settings,
        rows: &[Row],
        processing_ms: i64,
        dirty: &mut BTreeSet<(usize, i64)>,
        out: &mut Rows,
    ) {
        for (_, at, key, value) in rows.iter().copied() {
            if key == u64::MAX {
                out.counts.stale_markers += 1;
                continue;
            }
            match self.apply(settings, at, value, dirty) {
                Ok(late) => {
                    self.last_applied_ms = processing_ms;
                    out.counts.applied += 1;
                    out.counts.late += u64::from(late);
                }
                Err(reason) => out.counts.rejected[reason as usize] += 1,
            }
        }
    }

    fn apply(
        &mut self,
        settings: &Settings,
        at: i64,
        value: f64,
        dirty: &mut BTreeSet<(usize, i64)>,
    ) -> Result<bool, Reason> {
        if self.tombstone.is_some_and(|stone| at <= stone)
            || self.newest.is_some_and(|newest| newest - at > settings.allowed_lateness_ms)
        {
            return Err(Reason::TooOld);
        }
        if !value.is_finite() {
            return Err(Reason::NotFinite);
        }
        if let Some(known) = self.samples.get(&at).filter(|_| self.ring.contains(&at)) {
            return Err(if known.to_bits() == value.to_bits() {
                Reason::Duplicate
            } else {
                Reason::DuplicateTimestamp
            });
        }
        // What a ring that was too small has lost is not known to be there.
        let late = self.newest.is_some_and(|newest| at <= newest);
        if late {
            self.merge(settings, at)?;
        }
        self.samples.insert(at, value);
        for (w, window) in settings.windows.iter().enumerate() {
            let (length, hop) = (window.length_ms, window.hop_ms);
            let up = -(-at).div_euclid(hop) * hop;
            if late {
                if at <= self.young[w].known_from {
                    continue;
                }
                let closed = self.closed[w].expect("a late sample has one before it");
                dirty.extend(
                    (0..)
                        .map(|i| up + i * hop)
                        .take_while(|key| *key < at + length && *key <= closed)
                        .map(|key| (w, key)),
                );
            } else {
                let below = up - hop;
                let closed = self.closed[w].unwrap_or(below).min(below);
                dirty.extend(
                    (1..).map(|i| closed + i * hop).take_while(|key| *key <= below).map(|key| (w, key)),
                );
                self.closed[w] = Some(below);
            }
        }
        if !late {
            self.age(settings, at);
            self.newest = Some(at);
        }
        Ok(late)
    }

    fn silent(&self, settings: &Settings, close: i64) -> bool {
        let Some(newest) = self.newest else { return false };
        let behind = self.last_applied_ms.saturating_sub(newest) > settings.idle_timeout_ms;
        let wait = if behind { settings.catch_up_ms } else { settings.idle_timeout_ms };
        self.last_applied_ms.saturating_add(wait) <= close
    }

    fn silence(&mut self, settings: &Settings, close: i64, dirty: &mut BTreeSet<(usize, i64)>) {
        let Some(newest) = self.newest else { return };
        if close == i64::MIN || self.takes() || !self.silent(settings, close) {
            return;
        }
        for (w, window) in settings.windows.iter().enumerate() {
            let upto = (close - settings.idle_timeout_ms).div_euclid(window.hop_ms) * window.hop_ms;
            let closed = self.closed[w].expect("it has a newest sample");
            let last = upto.min(newest + window.length_ms);
            dirty.extend(
                (1..).map(|i| closed + i * window.hop_ms).take_while(|key| *key <= last).map(|key| (w, key)),
            );
            self.closed[w] = Some(closed.max(upto));
        }
    }

    fn emit(
        &mut self,
        settings: &Settings,
        id: SeriesId,
        keys: &BTreeSet<(usize, i64)>,
        out: &mut Vec<WindowStats>,
    ) {
        for (w, at) in keys.iter().copied() {
            let (window, young) = (settings.windows[w], self.young[w]);
            if at - window.length_ms < self.withhold || at <= young.mute_to {
                continue;
            }
            let from = (at - window.length_ms).max(young.known_from);
            let content: Content = if from >= at {
                Content::new()
            } else {
                self.samples.range(from + 1..=at).map(|(t, v)| (*t, v.to_bits())).collect()
            };
            if content.is_empty() {
                continue;
            }
            let before = self.published.get(&(w, at));
            if before.is_none() && self.publish_from.is_some_and(|from| at < from) {
                continue;
            }
            if before.is_some_and(|(_, known)| *known == content) {
                continue;
            }
            let revision = before.map_or(0, |(revision, _)| revision + 1);
            let partial = at - window.length_ms < young.known_from;
            out.push(WindowStats { partial, ..direct(id, window.length_ms, at, revision, &content) });
            self.published.insert((w, at), (revision, content));
        }
    }
}

/// A row computed from scratch.
fn direct(
    series: SeriesId,
    window_ms: i64,
    at_ms: i64,
    revision: u32,
    content: &[(i64, u64)],
) -> WindowStats {
    let values: Vec<f64> = content.iter().map(|(_, bits)| f64::from_bits(*bits)).collect();
    let slow = reference::moments(&values);
    WindowStats {
        series,
        window_ms,
        at_ms,
        revision,
        count: content.len() as u32,
        span_ms: (content[content.len() - 1].0 - content[0].0) as u32,
        min: slow.min,
        max: slow.max,
        avg: slow.avg,
        std: slow.std,
        first: values[0],
        last: values[values.len() - 1],
        sum: slow.sum,
        changes: content.windows(2).filter(|p| f64::from_bits(p[1].1) != f64::from_bits(p[0].1)).count()
            as u32,
        increase: slow.increase,
        resets: content.windows(2).filter(|p| f64::from_bits(p[1].1) < f64::from_bits(p[0].1)).count() as u32,
        partial: false,
        quantiles: QuantileValues(quantiles(&values, (slow.min, slow.max))),
    }
}

/// All quantiles that a window can have.
fn quantiles(values: &[f64], (min, max): (f64, f64)) -> [f64; QUANTILES.len()] {
    let mut sketch = QuantileSketch::default();
    values.iter().for_each(|value| sketch.add(*value));
    QUANTILES.map(|q| sketch.quantile(q).clamp(min, max))
}

/// Final answers by direct computation from a set of samples: every key before the newest sample of its series.
pub fn from_scratch(settings: &Settings, samples: &Samples) -> BTreeMap<(SeriesId, i64, i64), WindowStats> {
    let mut all: BTreeMap<u64, BTreeMap<i64, f64>> = BTreeMap::new();
    for i in 0..samples.len() {
        all.entry(samples.series[i]).or_default().entry(samples.at_ms[i]).or_insert(samples.value[i]);
    }
    let mut rows = BTreeMap::new();
    for (id, samples) in all {
        let (first, newest) =
            (*samples.keys().next().expect("not empty"), *samples.keys().next_back().expect("not empty"));
        for window in &settings.windows {
            let mut at = -(-first).div_euclid(window.hop_ms) * window.hop_ms;
            while at < newest {
                let content: Content =
                    samples.range(at - window.length_ms + 1..=at).map(|(t, v)| (*t, v.to_bits())).collect();
                if !content.is_empty() {
                    let row = direct(SeriesId(id), window.length_ms, at, 0, &content);
                    rows.insert(row.key(), row);
                }
                at += window.hop_ms;
            }
        }
    }
    rows
}

/// Whether a row equals the slow model's: exact where exactness is promised, else to rounding.
pub fn same_row(got: &WindowStats, want: &WindowStats) -> bool {
    let near = |a: f64, b: f64, scale: f64| {
        a.to_bits() == b.to_bits() || (a - b).abs() <= 1e-13 * scale + f64::MIN_POSITIVE
    };
    // Which of them are set for a series, this model does not know.
    let quantiles = got.quantiles.0.iter().zip(&want.quantiles.0);
    let quantiles_agree =
        quantiles.clone().all(|(got, want)| got.is_nan() || got.to_bits() == want.to_bits());
    let size = want.min.abs().max(want.max.abs());
    let spread = (want.max - want.min).abs();
    (got.key(), got.revision, got.count, got.span_ms, got.partial)
        == (want.key(), want.revision, want.count, want.span_ms, want.partial)
        && (got.min, got.max, got.first, got.last) == (want.min, want.max, want.first, want.last)
        && (got.changes, got.resets) == (want.changes, want.resets)
        && quantiles_agree
        && near(got.avg, want.avg, size * 0.01 + spread)
        && near(got.std, want.std, want.std.max(spread * 1e-3))
        && near(got.sum, want.sum, size * f64::from(want.count))
        && near(got.increase, want.increase, want.increase.abs().max(size))
}
