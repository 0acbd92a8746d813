//! The windows of a shard as bytes, and back.
//!
//! A pane is *sealed* once no late sample can touch it any more: it ends before newest minus lateness. Sealed panes go
//! into the panes of a save, each once in a chain; what is not sealed goes into the state. Heads, partial tails and
//! hop panes that are not sealed are not kept: they are built again from what is, to the same bits. But for hop panes that
//! are older than a change of settings: those may have been put together in another shape, and are in the state as they are.
//!
//! The panes of a series that began anew since the last save of the chain (a slot was given, or a bootstrap begun) come
//! with a flag, and what the chain held of it before counts no more.

use std::sync::Arc;

use super::panes::{BuildProgress, PaneSpan};
use super::record::Ring;
use super::state::{AddedWindow, BaseLimit, Marks, NEVER, PrefillKeys, PrefillState, RevisedKey, Windows};
use crate::kernels::moments::{Moments, WORDS, Words};
use crate::mutants::{Mutant, mutant};
use crate::sample::{AT_MS_MAX, SeriesId};
use crate::settings::{SeriesClass, Settings};
use crate::shard::{SeriesMap, SlotAssignment, pane_of};
use crate::snapshot::{CHAINS, StateError, StateReader, StateWriter};
use crate::stage::{PartReader, PartWriter, Progress, SavePoint};

/// Version of the part.
pub(super) const VERSION: u8 = 1;

/// Bytes of a pane's words.
const WORDS_BYTES: usize = 8 * WORDS;
/// Bytes of a pane among those of a save.
const PANE_BYTES: usize = 8 + WORDS_BYTES;
/// Most bytes reserved for a save before it is made.
const RESERVED_MAX: usize = 64 << 20;

impl Windows {
    /// Begins the part of a save: what the chain lacks of the panes, and the state of so many slots in use.
    pub(super) fn begin_part(&mut self, at: SavePoint, live: usize) -> PartWriter {
        let mut sealed = Vec::new();
        if at.whole {
            let ring_panes: i64 = self.rings().map(|ring| ring.length).sum();
            sealed.reserve((live * ring_panes as usize * PANE_BYTES).min(RESERVED_MAX));
        }
        self.sealing.begin_save(at.chain, at.whole);
        let mut part = PartWriter { next: 0, state: StateWriter::default(), sealed: StateWriter(sealed) };
        self.save_shape(&mut part.sealed);
        part.state.i64(self.reshaped_to);
        part.state.n(live);
        part
    }

    /// Saves so many more of `live`.
    pub(super) fn save_slots(
        &mut self,
        part: &mut PartWriter,
        at: SavePoint,
        live: &[u32],
        at_most: usize,
    ) -> Progress {
        let upto = live.len().min(part.next + at_most);
        for slot in &live[part.next..upto] {
            self.store_pane(*slot);
            self.save_sealed(*slot, at.chain, &mut part.sealed);
            self.save_series(*slot, &mut part.state);
        }
        part.next = upto;
        if upto == live.len() { Progress::Done } else { Progress::More }
    }

    /// The windows of a shard as they were saved.
    ///
    /// # Errors
    /// Bytes that no shard wrote.
    pub(super) fn load(settings: Arc<Settings>, part: PartReader<'_>) -> Result<Windows, StateError> {
        let PartReader { slots, live, state: mut take, sealed, .. } = part;
        let mut windows = Windows::new(settings);
        windows.give_free(slots);
        // Before the state, which has what is newer.
        let slot_of = live.iter().map(|(slot, series)| (series.0, *slot)).collect();
        for piece in sealed {
            windows.load_sealed(&slot_of, piece)?;
        }
        windows.sealing.loaded();
        windows.reshaped_to = take.i64()?;
        if take.n(1)? != live.len() {
            return Err(StateError("gate and windows differ in what they hold"));
        }
        for (slot, series) in live {
            windows.heads[*slot as usize].series = *series;
            windows.load_series(*slot, &mut take)?;
        }
        take.end()?;
        live.iter().for_each(|(slot, _)| windows.arm(*slot));
        #[cfg(feature = "faults")]
        windows.lose(live);
        Ok(windows)
    }

    /// So many slots, all of them free.
    pub(super) fn give_free(&mut self, slots: usize) {
        for slot in 0..slots as u32 {
            self.give(&SlotAssignment {
                slot,
                series: SeriesId(0),
                withhold_ms: NEVER,
                class: SeriesClass::default(),
            });
        }
    }

    /// Loses the panes that tests ask for.
    #[cfg(feature = "faults")]
    fn lose(&mut self, live: &[(u32, SeriesId)]) {
        for (slot, series) in live {
            let Some(at_ms) = crate::faults::lost(series.0) else { continue };
            let number = pane_of(at_ms, self.panes.base.pane_ms);
            let base = self.panes.base;
            self.panes.of_mut(*slot).set_pane(&base, number, &Moments::EMPTY);
        }
    }

    /// The rings of panes: that of base panes first.
    fn rings(&self) -> impl Iterator<Item = Ring> + use<> {
        let plans = Arc::clone(&self.plans);
        std::iter::once(self.panes.base).chain((0..plans.len()).filter_map(move |w| plans[w].own_ring()))
    }

    /// The panes of a ring that are stored, of these numbers.
    fn stored(&self, slot: u32, ring: &Ring, numbers: impl Iterator<Item = i64>) -> Vec<(i64, Words)> {
        let pane = |number| (number, self.panes.of(slot).pane(ring, number));
        let panes = numbers.map(pane).filter(|(_, pane)| !pane.is_empty());
        panes.map(|(number, pane)| (number, pane.to_words())).collect()
    }

    /// Which rings there are: panes of other settings are none of ours.
    fn save_shape(&self, put: &mut StateWriter) {
        put.n(self.rings().count());
        for ring in self.rings() {
            put.i64(ring.length);
            put.i64(ring.pane_ms);
        }
    }

    /// Panes of this series that end before this are sealed.
    fn horizon(&self, slot: u32) -> i64 {
        let horizon = self.heads[slot as usize].newest.saturating_sub(self.settings.allowed_lateness_ms);
        // Of what is older than this the base panes may be gone, where lateness was shorter.
        self.base_from.get(&slot).map_or(horizon, |base| base.sealed_to.max(horizon))
    }

    fn save_sealed(&mut self, slot: u32, chain: usize, put: &mut StateWriter) {
        let horizon = self.horizon(slot);
        let newest = self.heads[slot as usize].newest;
        let before = self.sealing.before(slot, chain);
        if newest == NEVER && before == NEVER {
            // Something of a series that had this id may be in the chain.
            put.u64(self.heads[slot as usize].series.0);
            put.u8(1);
            self.rings().for_each(|_| put.n(0));
            return;
        }
        if before >= horizon {
            return;
        }
        put.u64(self.heads[slot as usize].series.0);
        put.u8(u8::from(before == NEVER));
        let plans = Arc::clone(&self.plans);
        let open = self.heads[slot as usize].open_pane(self.panes.base.pane_ms);
        for (w, plan) in plans.iter().enumerate() {
            let last = (pane_of(horizon, plan.hop_ms) - 1) * plan.hop_ms;
            let span = PaneSpan { floor: self.added_window(slot, w).floor(plan), newest_ms: newest };
            let marks = &mut self.marks[slot as usize * plans.len() + w];
            self.panes.series(slot, open).build(plan, &mut marks.built, last, span);
        }
        for ring in self.rings() {
            let last = pane_of(horizon, ring.pane_ms) - 1;
            let oldest = ring.oldest(pane_of(newest, ring.pane_ms));
            let from = if before == NEVER { oldest } else { oldest.max(pane_of(before, ring.pane_ms)) };
            let panes = self.stored(slot, &ring, from..=last);
            put.n(panes.len());
            for (number, words) in panes {
                put.i64(number);
                put.words(&words);
            }
        }
        self.sealing.advance(slot, chain, horizon);
    }

    fn load_sealed(&mut self, slot_of: &SeriesMap<u32>, mut take: StateReader<'_>) -> Result<(), StateError> {
        let rings: Vec<Ring> = self.rings().collect();
        let shape =
            (0..take.n(16)?).map(|_| Ok((take.i64()?, take.i64()?))).collect::<Result<Vec<_>, _>>()?;
        if shape != rings.iter().map(|ring| (ring.length, ring.pane_ms)).collect::<Vec<_>>() {
            return Err(StateError("the panes are of other settings"));
        }
        while !take.0.is_empty() {
            // One whose slot was freed since counts no more.
            let slot = slot_of.get(&take.u64()?).copied();
            let anew = take.flag()?;
            if let Some(slot) = slot.filter(|_| anew) {
                self.panes.clear(slot);
            }
            for ring in &rings {
                for _ in 0..take.n(PANE_BYTES)? {
                    let (number, words) = (take.i64()?, take.words()?);
                    if !is_pane(&words, number) {
                        return Err(StateError("a pane is not what it says"));
                    }
                    if let Some(slot) = slot {
                        let pane = Moments::from_words(&words);
                        self.panes.of_mut(slot).set_pane(ring, number, &pane);
                    }
                }
            }
        }
        Ok(())
    }

    /// The first base pane that is not sealed.
    fn unsealed_from(&self, slot: u32) -> i64 {
        pane_of(self.horizon(slot), self.panes.base.pane_ms)
    }

    /// The windows of which panes are saved as they are: those with a ring of their own of which a pane from before a change
    /// of settings is not sealed.
    fn reshaped_windows(&self, slot: u32) -> impl Iterator<Item = usize> + use<> {
        let (newest, horizon, reshaped_to) =
            (self.heads[slot as usize].newest, self.horizon(slot), self.reshaped_to);
        let any = newest != NEVER && reshaped_to != NEVER && !mutant(Mutant::ReshapedNotSaved);
        let plans = Arc::clone(&self.plans);
        (0..plans.len()).filter(move |w| {
            let hop_ms = plans[*w].hop_ms;
            any && plans[*w].parts > 1 && pane_of(horizon, hop_ms) <= pane_of(reshaped_to, hop_ms)
        })
    }

    /// The panes of a window that are built, not sealed, and begin before the last change of settings.
    fn reshaped(&self, slot: u32, w: usize, built: i64) -> Option<std::ops::RangeInclusive<i64>> {
        let plan = &self.plans[w];
        if built == NEVER || self.reshaped_to == NEVER || self.heads[slot as usize].newest == NEVER {
            return None;
        }
        let oldest = plan.oldest(self.heads[slot as usize].newest);
        let from = pane_of(self.horizon(slot), plan.hop_ms).max(oldest);
        Some(from..=built.min(pane_of(self.reshaped_to, plan.hop_ms)))
    }

    fn load_reshaped(
        &mut self,
        slot: u32,
        w: usize,
        built: i64,
        take: &mut StateReader,
    ) -> Result<(), StateError> {
        let (range, plan) = (self.reshaped(slot, w, built), self.plans[w]);
        for _ in 0..take.n(PANE_BYTES)? {
            let (number, words) = (take.i64()?, take.words()?);
            if !range.as_ref().is_some_and(|range| range.contains(&number)) || !is_pane(&words, number) {
                return Err(StateError("a pane that was put together in another shape is not what it says"));
            }
            self.panes.of_mut(slot).set_pane(&plan.ring, number, &Moments::from_words(&words));
        }
        Ok(())
    }

    fn save_series(&self, slot: u32, put: &mut StateWriter) {
        let (head, keys) = (&self.heads[slot as usize], &self.keys[slot as usize]);
        for value in [
            head.newest,
            head.last_applied_ms,
            keys.withhold,
            keys.publish_from,
            head.next_key,
            head.open_key,
            head.sealed,
        ] {
            put.i64(value);
        }
        put.n(keys.revised.len());
        for ((at, w), revised) in &keys.revised {
            put.u8(*w as u8);
            put.i64(*at);
            put.u32(revised.revision);
            put.u32(revised.count);
        }
        for marks in &self.marks[slot as usize * self.plans.len()..][..self.plans.len()] {
            put.i64(marks.closed);
            put.i64(marks.silent);
            put.i64(marks.built.upto());
        }
        (0..CHAINS).for_each(|chain| put.i64(self.sealing.before(slot, chain)));
        if head.newest != NEVER {
            let last = pane_of(head.newest, self.panes.base.pane_ms);
            let from = self.unsealed_from(slot).max(self.panes.base.oldest(last));
            let panes = self.stored(slot, &self.panes.base, from..=last);
            put.n(panes.len());
            panes.iter().for_each(|(_, words)| put.words(words));
        }
        let young = self.added.range((slot, 0)..=(slot, u32::MAX));
        put.n(young.clone().count());
        for ((_, w), young) in young {
            put.u8(*w as u8);
            put.i64(young.known_from);
            put.i64(young.mute_to);
        }
        put.u8(u8::from(self.base_from.contains_key(&slot)));
        self.base_from.get(&slot).into_iter().for_each(|base| {
            put.i64(base.from);
            put.i64(base.sealed_to);
        });
        for w in self.reshaped_windows(slot) {
            let built = self.marks[slot as usize * self.plans.len() + w].built.upto();
            let numbers = self.reshaped(slot, w, built).into_iter().flatten();
            let panes = self.stored(slot, &self.plans[w].ring, numbers);
            put.n(panes.len());
            for (number, words) in panes {
                put.i64(number);
                put.words(&words);
            }
        }
        put.u8(u8::from(self.prefill.contains_key(&slot)));
        self.prefill.get(&slot).into_iter().for_each(|held| held.save(put));
    }

    fn load_series(&mut self, slot: u32, take: &mut StateReader) -> Result<(), StateError> {
        let windows = self.plans.len();
        let (head, keys) = (&mut self.heads[slot as usize], &mut self.keys[slot as usize]);
        head.newest = time(take)?;
        head.last_applied_ms = take.i64()?;
        (keys.withhold, keys.publish_from) = (take.i64()?, take.i64()?);
        (head.next_key, head.open_key, head.sealed) = (key(take)?, key(take)?, key(take)?);
        for _ in 0..take.n(17)? {
            let window = usize::from(take.u8()?);
            if window >= windows {
                return Err(StateError("a revision is of a window that is not there"));
            }
            let (at, revision, count) = (take.i64()?, take.u32()?, take.u32()?);
            if keys.revised.insert((at, window), RevisedKey { revision, count }).is_some() {
                return Err(StateError("a key has two revisions"));
            }
        }
        let newest = head.newest;
        for w in 0..windows {
            let (closed, silent, built) = (key(take)?, key(take)?, take.i64()?);
            let built = if built == NEVER {
                BuildProgress::NOTHING
            } else {
                BuildProgress::before(built.min(AT_MS_MAX) + 1)
            };
            self.marks[slot as usize * windows + w] = Marks { closed, silent, built };
        }
        for chain in 0..CHAINS {
            self.sealing.advance(slot, chain, take.i64()?);
        }
        if newest != NEVER {
            let last = pane_of(newest, self.panes.base.pane_ms);
            for _ in 0..take.n(WORDS_BYTES)? {
                let words = take.words()?;
                // The low bits of the number; the pane is one of the last that the ring holds.
                let behind = (last as u32).wrapping_sub((words[8] >> 32) as u32);
                let pane = last - i64::from(behind);
                if i64::from(behind) >= self.panes.base.length || !is_pane(&words, pane) {
                    return Err(StateError("a pane is not what it says"));
                }
                let base = self.panes.base;
                self.panes.of_mut(slot).set_pane(&base, pane, &Moments::from_words(&words));
            }
        }
        for _ in 0..take.n(17)? {
            let w = take.u8()?;
            if usize::from(w) >= windows {
                return Err(StateError("a window that was added is not there"));
            }
            let young = AddedWindow { known_from: key(take)?, mute_to: key(take)? };
            self.added.insert((slot, u32::from(w)), young);
        }
        if take.flag()? {
            self.base_from.insert(slot, BaseLimit { from: key(take)?, sealed_to: key(take)? });
        }
        self.load_built(slot, take)?;
        if take.flag()? {
            self.prefill.insert(slot, PrefillKeys::load(take, windows, 0)?);
        }
        Ok(())
    }

    /// How far hop panes are built, as far as they were saved.
    fn load_built(&mut self, slot: u32, take: &mut StateReader) -> Result<(), StateError> {
        let (windows, newest) = (self.plans.len(), self.heads[slot as usize].newest);
        let horizon = self.horizon(slot);
        let reshaped: Vec<usize> = self.reshaped_windows(slot).collect();
        for w in 0..windows {
            let (plan, built) = (self.plans[w], self.marks[slot as usize * windows + w].built);
            // One without a sample that counts has no horizon, and nothing is built of it.
            let upto = if newest == NEVER || built.upto() == NEVER {
                None
            } else {
                let sealed = pane_of(horizon, plan.hop_ms) - 1;
                let as_it_is = self.reshaped(slot, w, built.upto());
                let kept = as_it_is.filter(|_| reshaped.contains(&w)).map_or(NEVER, |panes| *panes.end());
                Some(built.upto().min(sealed.max(kept)))
            };
            if reshaped.contains(&w) {
                self.load_reshaped(slot, w, built.upto(), take)?;
            }
            self.marks[slot as usize * windows + w].built =
                upto.map_or(BuildProgress::NOTHING, |upto| BuildProgress::before(upto + 1));
        }
        Ok(())
    }
}

/// Whether these are the words of the pane with this number.
fn is_pane(words: &Words, number: i64) -> bool {
    (words[8] >> 32) as u32 == number as u32 && words[8] as u32 != 0
}

/// A time of a sample, or none yet.
fn time(take: &mut StateReader) -> Result<i64, StateError> {
    let at_ms = take.i64()?;
    let known = at_ms == NEVER || at_ms.unsigned_abs() <= AT_MS_MAX.unsigned_abs();
    if known { Ok(at_ms) } else { Err(StateError("a time is out of range")) }
}

/// A key, or a bound that stands for none.
fn key(take: &mut StateReader) -> Result<i64, StateError> {
    let at = take.i64()?;
    // The longest window and then some.
    let known = at == NEVER || at == i64::MAX || at.unsigned_abs() <= 2 * AT_MS_MAX.unsigned_abs();
    if known { Ok(at) } else { Err(StateError("a key is out of range")) }
}

/// How many bootstraps one after the other are read back.
const BOOTSTRAPS_MAX: usize = 1_024;

impl PrefillKeys {
    fn save(&self, put: &mut StateWriter) {
        put.i64s(&self.had);
        put.i64s(&self.closed);
        put.i64s(&self.silent);
        put.i64(self.last_key);
        put.i64(self.since);
        put.u8(self.state as u8);
        put.u8(u8::from(self.earlier.is_some()));
        self.earlier.iter().for_each(|earlier| earlier.save(put));
    }

    fn load(take: &mut StateReader, windows: usize, depth: usize) -> Result<PrefillKeys, StateError> {
        let (had, closed, silent) = (take.i64s()?, take.i64s()?, take.i64s()?);
        if closed.len() != windows || silent.len() != windows || !had.is_sorted() || depth == BOOTSTRAPS_MAX {
            return Err(StateError("what a bootstrap holds is not of these windows"));
        }
        let (last_key, since) = (take.i64()?, take.i64()?);
        let state = match take.u8()? {
            0 => PrefillState::Bootstrapping,
            1 => PrefillState::Ended,
            2 => PrefillState::Over,
            _ => return Err(StateError("the state of a bootstrap is not known")),
        };
        let earlier =
            if take.flag()? { Some(Box::new(PrefillKeys::load(take, windows, depth + 1)?)) } else { None };
        Ok(PrefillKeys { had, closed, silent, last_key, since, earlier, state })
    }
}
