//! The gate of a shard as bytes, and back: slots in their order, heads, raw rings, tombstones, rejects, bootstraps.
//!
//! Timers are not kept. When a slot is freed is judged from its head; a timer only says when to look, is never later than
//! the moment it is for, and after a restart every slot is looked at once.

use std::sync::Arc;

use super::class_sets::PlacedClass;
use super::rejects::Rejects;
use super::ring::{NEVER, RawRing};
use super::state::{Admit, GateSeries};
use super::waiting::{OpenBootstraps, SeriesBootstrap, WaitingSamples};
use crate::rows::Reject;
use crate::sample::{AT_MS_MAX, Bootstrap, MetricType, Reason, SHARDS, SeriesId};
use crate::settings::{Model, QuantileSet, SeriesClass, SeriesOptions, Settings, Transform};
use crate::snapshot::{StateError, StateReader, StateWriter};
use crate::stage::PartReader;

/// Version of these bytes.
pub(super) const VERSION: u8 = 2;
/// Beside the type of a series: its options follow.
const HAS_OPTIONS: u8 = 0x80;
/// Beside [`HAS_OPTIONS`]: quantiles are among them.
const HAS_QUANTILES: u8 = 0x40;

impl Admit {
    /// Writes the state as of the last epoch retired.
    pub(super) fn save(&self, put: &mut StateWriter) {
        self.slots.save(put);
        for slot in self.slots.given() {
            let head = &self.heads[slot as usize];
            put.i64(head.newest);
            put.i64(head.last_applied_ms);
            put.i64(head.tombstone);
            self.save_class(head.class, put);
            head.raw.save(put);
        }
        put.i64(self.tombstones.floor);
        put.n(self.tombstones.by_age.len());
        for (newest_ms, series) in &self.tombstones.by_age {
            put.i64(*newest_ms);
            put.u64(*series);
        }
        put.n(self.early.of.len());
        for (series, class) in &self.early.of {
            put.u64(*series);
            self.save_class(*class, put);
        }
        self.rejects.save(put);
        self.bootstraps.save(put);
        put.n(self.quarantined.len());
        self.quarantined.iter().for_each(|series| put.u64(*series));
    }

    /// The gate of a shard with this state.
    ///
    /// # Errors
    /// Bytes that no gate wrote.
    pub(super) fn load(settings: Arc<Settings>, part: PartReader<'_>) -> Result<Admit, StateError> {
        let PartReader { shard, state: mut take, .. } = part;
        let mut admit = Admit::new(settings);
        let live = admit.slots.load(&mut take, shard)?;
        let armed = i64::MAX;
        let nothing = || GateSeries {
            newest: NEVER,
            last_applied_ms: NEVER,
            tombstone: NEVER,
            armed,
            class: PlacedClass::default(),
            raw: RawRing::default(),
        };
        admit.heads.extend((0..admit.slots.capacity()).map(|_| nothing()));
        for (slot, _) in &live {
            let newest = time(&mut take)?;
            let (last_applied_ms, tombstone) = (take.i64()?, take.i64()?);
            let class = admit.load_class(&mut take)?;
            let raw = RawRing::load(&mut take, newest)?;
            admit.heads[*slot as usize] =
                GateSeries { newest, last_applied_ms, tombstone, armed, class, raw };
            admit.arm(*slot, NEVER);
        }
        admit.tombstones.floor = take.i64()?;
        for _ in 0..take.n(16)? {
            let (newest_ms, series) = (take.i64()?, take.u64()?);
            if admit.tombstones.newest.insert(series, newest_ms).is_some() {
                return Err(StateError("a series has two tombstones"));
            }
            admit.tombstones.by_age.insert((newest_ms, series));
        }
        for _ in 0..take.n(9)? {
            let series = take.u64()?;
            let class = admit.load_class(&mut take)?;
            admit.early.put(series, class);
        }
        admit.rejects.load(&mut take)?;
        admit.bootstraps.load(&mut take, |slot| admit.heads.get(slot as usize).is_some())?;
        for _ in 0..take.n(8)? {
            admit.quarantined.insert(take.u64()?);
        }
        take.end()?;
        Ok(admit)
    }

    /// One byte, and the options of a series that has some: so it is what it was before there were any.
    fn save_class(&self, class: PlacedClass, put: &mut StateWriter) {
        let SeriesClass { kind, options } = self.sets.class(class);
        let has_options = if class.options == 0 { 0 } else { HAS_OPTIONS };
        let has_quantiles = if options.quantiles.is_empty() { 0 } else { HAS_QUANTILES };
        put.u8(kind.map_or(0, |kind| kind as u8) | has_options | has_quantiles);
        if has_options > 0 {
            put.u8(options.transform as u8);
            put.u8(options.model as u8);
            put.i64(options.period_ms);
        }
        if has_quantiles > 0 {
            put.u8(options.quantiles.code());
        }
    }

    fn load_class(&mut self, take: &mut StateReader) -> Result<PlacedClass, StateError> {
        let code = take.u8()?;
        let kind = match code & !(HAS_OPTIONS | HAS_QUANTILES) {
            0 => None,
            code => Some(metric_type(code)?),
        };
        if code & HAS_OPTIONS == 0 {
            return Ok(PlacedClass { kind, options: 0 });
        }
        let unknown = StateError("a series has options that are not known");
        let options = SeriesOptions {
            transform: Transform::from_code(take.u8()?).ok_or(unknown)?,
            model: Model::from_code(take.u8()?).ok_or(unknown)?,
            period_ms: take.i64()?,
            quantiles: match code & HAS_QUANTILES {
                0 => QuantileSet::default(),
                _ => QuantileSet::from_code(take.u8()?),
            },
        };
        if !options.is_computable() {
            return Err(unknown);
        }
        Ok(PlacedClass { kind, options: self.sets.place(&options) })
    }
}

fn metric_type(code: u8) -> Result<MetricType, StateError> {
    MetricType::from_code(code).ok_or(StateError("a metric is of a type that is not known"))
}

/// A time of a sample, or none yet.
fn time(take: &mut StateReader) -> Result<i64, StateError> {
    let at_ms = take.i64()?;
    let known = at_ms == NEVER || at_ms.unsigned_abs() <= AT_MS_MAX.unsigned_abs();
    if known { Ok(at_ms) } else { Err(StateError("a time is out of range")) }
}

impl RawRing {
    fn save(&self, put: &mut StateWriter) {
        put.u8(u8::from(self.forgot)
            | u8::from(self.dropped.is_some()) << 1
            | u8::from(self.is_older_cut) << 2);
        if let Some(dropped) = self.dropped {
            put.i64(dropped);
        }
        put.n(self.samples.len());
        self.samples.iter().flatten().for_each(|word| put.u32(*word));
        put.n(self.older.len());
        for (at_ms, value) in &self.older {
            put.i64(*at_ms);
            put.u64(value.to_bits());
        }
    }

    fn load(take: &mut StateReader, newest_ms: i64) -> Result<RawRing, StateError> {
        let flags = take.u8()?;
        if flags > 7 {
            return Err(StateError("a raw ring has flags that are not known"));
        }
        let dropped = if flags & 2 == 0 { None } else { Some(take.i64()?) };
        let n = take.n(12)?;
        let mut ring =
            RawRing { forgot: flags & 1 == 1, is_older_cut: flags & 4 == 4, dropped, ..RawRing::default() };
        ring.samples.reserve_exact(n);
        for _ in 0..n {
            ring.samples.push_back([take.u32()?, take.u32()?, take.u32()?]);
        }
        let rising = (1..n).all(|i| ring.at(i - 1, newest_ms) < ring.at(i, newest_ms));
        let last = n.checked_sub(1).map(|last| ring.at(last, newest_ms));
        if !rising || last.is_some_and(|last| last != newest_ms) || (newest_ms == NEVER && n > 0) {
            return Err(StateError("a raw ring is not in the order of time"));
        }
        let n = take.n(16)?;
        ring.older.reserve_exact(n);
        for _ in 0..n {
            ring.older.push_back((time(take)?, f64::from_bits(take.u64()?)));
        }
        if !ring.older.iter().is_sorted_by(|a, b| a.0 < b.0) {
            return Err(StateError("older samples are not in the order of time"));
        }
        Ok(ring)
    }
}

impl Rejects {
    fn save(&self, put: &mut StateWriter) {
        put.i64(self.minute);
        put.n(self.rows.len());
        let rest = self.rest.iter().flatten();
        put.n(rest.clone().count());
        for row in self.rows.iter().chain(rest) {
            put.u64(row.series.unwrap_or_default().0);
            put.u8(row.reason as u8);
            put.u64(row.count);
            put.i64(row.first_at_ms);
            put.i64(row.last_at_ms);
        }
    }

    fn load(&mut self, take: &mut StateReader) -> Result<(), StateError> {
        self.minute = take.i64()?;
        let (rows, rest) = (take.n(33)?, take.n(33)?);
        for n in 0..rows + rest {
            let series = SeriesId(take.u64()?);
            let reason = Reason::from_code(take.u8()?).ok_or(StateError("a reason is not known"))?;
            let (count, first_at_ms, last_at_ms) = (take.u64()?, take.i64()?, take.i64()?);
            let series = (n < rows).then_some(series);
            let row = Reject { series, reason, count, first_at_ms, last_at_ms };
            match series {
                Some(series) => {
                    self.index.insert((series.0, reason), self.rows.len());
                    self.rows.push(row);
                }
                None => self.rest[reason as usize] = Some(row),
            }
        }
        Ok(())
    }
}

impl OpenBootstraps {
    fn save(&self, put: &mut StateWriter) {
        put.n(self.open.len());
        for bootstrap in &self.open {
            put.u64(bootstrap.id);
            put.text(&bootstrap.source);
            put.i64(bootstrap.from_ms);
            put.i64(bootstrap.publish_from_ms);
        }
        put.n(self.takings.len());
        for (slot, taking) in &self.takings {
            put.u32(*slot);
            put.u64(taking.bootstrap);
            put.u8(u8::from(taking.waiting.is_some()));
            for waiting in taking.waiting.iter() {
                put.n(waiting.samples.len());
                for (at_ms, value) in &waiting.samples {
                    put.i64(*at_ms);
                    put.u64(value.to_bits());
                }
            }
        }
    }

    fn load(&mut self, take: &mut StateReader, known: impl Fn(u32) -> bool) -> Result<(), StateError> {
        for _ in 0..take.n(28)? {
            let (id, source) = (take.u64()?, take.text()?);
            self.open.push(Bootstrap { id, source, from_ms: take.i64()?, publish_from_ms: take.i64()? });
        }
        for _ in 0..take.n(13)? {
            let (slot, bootstrap) = (take.u32()?, take.u64()?);
            if !known(slot) {
                return Err(StateError("a bootstrap names a slot that is not there"));
            }
            let waiting = if take.flag()? { Some(waiting(take)?) } else { None };
            self.takings.insert(slot, SeriesBootstrap { bootstrap, waiting });
        }
        Ok(())
    }
}

fn waiting(take: &mut StateReader) -> Result<WaitingSamples, StateError> {
    let mut waiting = WaitingSamples::default();
    for _ in 0..take.n(16)? {
        let sample = (time(take)?, f64::from_bits(take.u64()?));
        if waiting.samples.last().is_some_and(|(last, _)| *last >= sample.0) || sample.0 == NEVER {
            return Err(StateError("samples that wait are not in the order of time"));
        }
        waiting.samples.push(sample);
    }
    Ok(waiting)
}

impl crate::shard::Slots {
    fn save(&self, put: &mut StateWriter) {
        put.n(self.series.len());
        self.series.iter().for_each(|series| put.u64(*series));
        put.n(self.free.len());
        self.free.iter().for_each(|slot| put.u32(*slot));
    }

    fn load(&mut self, take: &mut StateReader, shard: usize) -> Result<Vec<(u32, SeriesId)>, StateError> {
        let n = take.n(8)?;
        self.series = (0..n).map(|_| take.u64()).collect::<Result<_, _>>()?;
        let n = take.n(4)?;
        self.free = (0..n).map(|_| take.u32()).collect::<Result<_, _>>()?;
        let mut used = vec![true; self.series.len()];
        for slot in &self.free {
            let slot = used.get_mut(*slot as usize).ok_or(StateError("a free slot is not there"))?;
            if !std::mem::take(slot) {
                return Err(StateError("a slot is free twice"));
            }
        }
        let mut live = Vec::with_capacity(used.len() - n);
        for (slot, series) in self.series.iter().enumerate().filter(|(slot, _)| used[*slot]) {
            if *series % SHARDS as u64 != shard as u64 {
                return Err(StateError("a series is of another shard"));
            }
            if self.by_series.insert(*series, slot as u32).is_some() {
                return Err(StateError("a series has two slots"));
            }
            live.push((slot as u32, SeriesId(*series)));
        }
        Ok(live)
    }
}
