//! What the windows of one shard hold, and of each series and window. Not here: what is done with it.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::panes::{BuildProgress, OpenPane, PaneStore, WindowPlan};
use crate::kernels::moments::Moments;
use crate::sample::SeriesId;
use crate::seal::Sealing;
use crate::settings::Settings;
use crate::shard::{Timers, WorkPosition};

/// No time yet.
pub(super) const NEVER: i64 = i64::MIN;

/// Marks of one window of one series.
#[derive(Clone, Copy, Debug)]
pub(super) struct Marks {
    /// Every key at or before this is closed.
    pub(super) closed: i64,
    /// Silence had once closed every key up to this one: a key reopened since was published before.
    pub(super) silent: i64,
    /// What is built from base panes.
    pub(super) built: BuildProgress,
}

impl Marks {
    /// Of a slot without samples.
    pub(super) const NEW: Marks = Marks { closed: NEVER, silent: NEVER, built: BuildProgress::NOTHING };
}

/// What every sample of a series touches. These lie together, by slot.
pub(super) struct SeriesHead {
    pub(super) series: SeriesId,
    /// Newest applied sample.
    pub(super) newest: i64,
    /// Processing time of the epoch that last applied one.
    pub(super) last_applied_ms: i64,
    /// The lowest key not closed, over all windows: a sample beyond it closes something.
    pub(super) next_key: i64,
    /// The lowest key not closed whose window holds a sample: silence may close it. `i64::MAX` for none.
    pub(super) open_key: i64,
    /// The highest key closed, over all windows.
    pub(super) sealed: i64,
    /// When the slot's timer fires.
    pub(super) armed: i64,
    /// The end of the base pane that is open: samples up to it go into `pane`. `NEVER` if none is.
    pub(super) pane_end: i64,
    /// The open base pane.
    pub(super) pane: Moments,
    /// Whether the record holds the open pane as it is.
    pub(super) stored: bool,
}

impl SeriesHead {
    /// Of a series without samples.
    pub(super) fn new(series: SeriesId) -> SeriesHead {
        SeriesHead {
            series,
            newest: NEVER,
            last_applied_ms: NEVER,
            next_key: i64::MAX,
            open_key: i64::MAX,
            sealed: NEVER,
            armed: i64::MAX,
            pane_end: NEVER,
            pane: Moments::EMPTY,
            stored: true,
        }
    }

    /// The open pane, if one is.
    #[inline]
    pub(super) fn open_pane(&self, base_ms: i64) -> Option<OpenPane<'_>> {
        (self.pane_end != NEVER).then(|| (self.pane_end / base_ms, &self.pane))
    }

    /// Writes the open pane into the record, if it is not there as it is.
    #[inline]
    pub(super) fn store_pane(&mut self, slot: u32, panes: &mut PaneStore) {
        if !std::mem::replace(&mut self.stored, true) {
            let base = panes.base;
            panes.of_mut(slot).set_pane(&base, self.pane_end / base.pane_ms, &self.pane);
        }
    }
}

/// Which keys of a series are withheld, and which were revised.
pub(super) struct SeriesKeys {
    /// Keys whose window reaches back to before this are withheld.
    pub(super) withhold: i64,
    /// Keys before this are withheld, unless they were published before a bootstrap.
    pub(super) publish_from: i64,
    /// Keys with a revision above 0, or emitted while open, that can still change: by end and window.
    pub(super) revised: BTreeMap<(i64, usize), RevisedKey>,
}

impl SeriesKeys {
    pub(super) fn new(withhold: i64) -> SeriesKeys {
        SeriesKeys { withhold, publish_from: NEVER, revised: BTreeMap::new() }
    }
}

#[derive(Clone, Copy, Debug)]
pub(super) struct RevisedKey {
    pub(super) revision: u32,
    pub(super) count: u32,
}

/// Bytes of an entry of a revised key, with its share of the tree.
pub(super) const REVISED_BYTES: usize = 40;

/// What was published before a bootstrap.
pub(super) struct PrefillKeys {
    /// Times of all samples that had been applied, rising.
    pub(super) had: Vec<i64>,
    /// Per window: every key up to this one was closed, and those with samples published.
    pub(super) closed: Vec<i64>,
    /// Per window: silence had closed every key up to this one.
    pub(super) silent: Vec<i64>,
    /// The newest key that may have been published.
    pub(super) last_key: i64,
    /// Keys before this were withheld, unless they were published before an earlier bootstrap.
    pub(super) since: i64,
    pub(super) earlier: Option<Box<PrefillKeys>>,
    pub(super) state: PrefillState,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum PrefillState {
    Bootstrapping,
    /// The bootstrap has ended; keys it passed by are still to be closed.
    Ended,
    /// As without a bootstrap, but for what was published.
    Over,
}

/// What is known of a published key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PrefillKey {
    /// It had so many samples.
    Count(u32),
    /// It was published with fewer samples than its series had when the bootstrap began.
    Fewer,
}

impl PrefillKeys {
    /// What a key had that was published before the bootstrap; `None` if it was not.
    pub(super) fn count(&self, w: usize, plan: &WindowPlan, at: i64) -> Option<PrefillKey> {
        if at < self.since || at > self.closed[w].max(self.silent[w]) {
            return self.earlier.as_ref().and_then(|earlier| earlier.count(w, plan, at));
        }
        let from = self.had.partition_point(|had| *had <= at - plan.length_ms);
        let to = self.had.partition_point(|had| *had <= at);
        if from == to {
            return None;
        }
        // A key that is open again had been published before the samples that opened it.
        Some(if at <= self.closed[w] { PrefillKey::Count((to - from) as u32) } else { PrefillKey::Fewer })
    }

    /// The windows are others: each now was the one that `kept` names.
    pub(super) fn carry(&mut self, kept: &[Option<usize>]) {
        let of = |was: &[i64]| kept.iter().map(|at| at.map_or(NEVER, |at| was[at])).collect();
        (self.closed, self.silent) = (of(&self.closed), of(&self.silent));
        self.earlier.iter_mut().for_each(|earlier| earlier.carry(kept));
    }

    /// Bytes held.
    pub(super) fn bytes(&self) -> usize {
        let earlier = self.earlier.as_ref().map_or(0, |earlier| earlier.bytes());
        earlier + 128 + (self.had.capacity() + self.closed.capacity() + self.silent.capacity()) * 8
    }
}

/// What an added window of a series is held to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct AddedWindow {
    /// Its samples are newer than this, a multiple of its hop; `NEVER` if it has all of them.
    pub(super) known_from: i64,
    /// Keys at or before this are never answered.
    pub(super) mute_to: i64,
}

impl AddedWindow {
    /// Of a window that was not added.
    pub(super) const GROWN: AddedWindow = AddedWindow { known_from: NEVER, mute_to: NEVER };

    /// That of a window of a series.
    pub(super) fn of(young: &BTreeMap<(u32, u32), AddedWindow>, slot: u32, w: usize) -> AddedWindow {
        match young.is_empty() {
            true => AddedWindow::GROWN,
            false => young.get(&(slot, w as u32)).copied().unwrap_or(AddedWindow::GROWN),
        }
    }

    /// The newest pane that is not the window's.
    pub(super) fn floor(&self, plan: &WindowPlan) -> i64 {
        if self.known_from == NEVER { NEVER } else { self.known_from / plan.hop_ms }
    }
}

/// What a change of settings left of the base panes of a series.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BaseLimit {
    /// They are held after this.
    pub(super) from: i64,
    /// No late sample is older than this.
    pub(super) sealed_to: i64,
}

/// The windows of one shard.
pub struct Windows {
    pub(super) settings: Arc<Settings>,
    pub(super) plans: Arc<[WindowPlan]>,
    pub(super) heads: Vec<SeriesHead>,
    pub(super) keys: Vec<SeriesKeys>,
    pub(super) marks: Vec<Marks>,
    pub(super) panes: PaneStore,
    pub(super) timers: Timers,
    /// By slot: what was published before a bootstrap that the series took.
    pub(super) prefill: BTreeMap<u32, PrefillKeys>,
    pub(super) sealing: Sealing,
    /// By slot and window: what windows that were added are held to, until nothing shows it.
    pub(super) added: BTreeMap<(u32, u32), AddedWindow>,
    /// By slot: what base panes a change of settings left, where their ring could reach further back.
    pub(super) base_from: BTreeMap<u32, BaseLimit>,
    /// Panes that begin before this may have been put together in another shape, or their base panes be gone: the last
    /// change of the rings was then.
    pub(super) reshaped_to: i64,
    /// Due slots of the epoch at hand, and whether they were collected already.
    pub(super) due: Vec<u32>,
    pub(super) is_collected: bool,
    /// Keys that late samples of the series at hand touched.
    pub(super) dirty: Vec<(usize, i64)>,
    /// Per window, the lowest mark to which the series at hand was reopened.
    pub(super) reopened: Vec<i64>,
    pub(super) position: Arc<WorkPosition>,
}
