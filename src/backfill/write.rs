//! What of a backfill goes to the store: docs/semantics.md, Backfill.
//!
//! A key T of a series is *offered* if T is in (from, to] and at or below the *limit* of the series, up to which the live
//! engine has said its last word: newest - lateness, its tombstone if its slot was freed, processing time if it is not known.
//! The store judges what is offered (`Store::amend`). The backfill's outbox is read twice, because of a key that it
//! corrected only the last answer counts.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::Ordering;
use std::time::Duration;

use tidewatch_dataflows::rows::{ResultRow, SeriesPresence, WindowStats};
use tidewatch_dataflows::sample::{Reason, SeriesId};

use crate::engine::AskError;
use crate::outbox::{OutboxError, Tail};
use crate::store::{LabelPairs, Offer};

use super::summary::BackfillSummary;
use super::{BackfillError, BackfillProgress, BackfillRun, Extent, LiveServer, PATIENCE};

/// Most keys of a backfill with more than one answer; late samples make them, and each takes about 50 bytes.
pub const CORRECTED_KEYS_MAX: usize = 2_000_000;
/// Rows judged under one lock of the store: the live engine's rows wait for no longer.
const OFFERS_MAX: usize = 4_096;
/// Times a write that may succeed later is tried, and a question to busy workers asked.
const TRIES: u32 = 8;

type BackfillKey = (SeriesId, i64, i64);

/// What the first reading of the outbox tells.
#[derive(Default)]
struct CorrectedKeys {
    /// The highest revision of keys that have more than one.
    last: HashMap<BackfillKey, u32>,
    /// Series of which a sample could not be applied: their windows may lack it.
    lacking: HashSet<SeriesId>,
    /// As before, of series that are not known by name.
    lacking_others: bool,
}

impl BackfillRun {
    /// Writes what the live engine has finished with, and says what became of every row.
    ///
    /// # Errors
    /// The store or the engine cannot be asked, a bound that was reached, or [`BackfillError::Cancelled`]; what was written by
    /// then stays, and the same backfill again writes the rest.
    pub fn write(&mut self, live: &LiveServer) -> Result<BackfillSummary, BackfillError> {
        let mut summary = BackfillSummary::new(&self.config.windows, self.keys());
        (summary.samples, summary.outside) = (self.span.taken, self.span.outside);
        summary.series = self.extents.len() as u64;
        if self.extents.is_empty() {
            return Ok(summary);
        }
        let limits = self.limits(live)?;
        let corrected = self.corrected(&mut summary)?;
        summary.look_back(self.extents.iter().map(|(series, extent)| (limits[series], extent.last_ms)));
        let mut offers = Vec::with_capacity(OFFERS_MAX);
        let mut tail = self.tail()?;
        while let Some(batch) = tail.next()? {
            for stats in batch.rows.windows {
                let last = corrected.last.get(&stats.key()).is_none_or(|last| *last == stats.revision);
                if !last || !summary.is_requested(stats.at_ms) {
                    continue;
                }
                if limits.get(&stats.series.0).is_none_or(|limit| stats.at_ms > *limit) {
                    summary.live(&stats);
                    continue;
                }
                let extent = self.extents.get(&stats.series.0);
                offers.push(Offer { stats, whole: corrected.whole(&stats, extent) });
                if offers.len() == OFFERS_MAX {
                    self.offer(live, &mut offers, &mut summary)?;
                }
            }
        }
        self.offer(live, &mut offers, &mut summary)?;
        Ok(summary)
    }

    fn tail(&self) -> Result<Tail, OutboxError> {
        Tail::open(self.folder.0.join("outbox"), self.computed.clone(), None)
    }

    /// Up to which time the live engine has said its last word of each series, and the store holds it.
    fn limits(&self, live: &LiveServer) -> Result<HashMap<u64, i64>, BackfillError> {
        let end = live.journal.last_epoch_end().ok_or(BackfillError::NothingComputed)?;
        // A series that waits in the journal would seem unknown.
        stored(live, end.epoch, &self.progress)?;
        let series: Vec<u64> = self.extents.keys().copied().collect();
        let mut tries = 0;
        let seen = loop {
            match live.questions.newest(&series) {
                Ok(seen) => break seen,
                Err(AskError::Busy | AskError::Late | AskError::Rebuilding) if tries < TRIES => tries += 1,
                Err(error) => return Err(error.into()),
            }
            self.progress.go_on()?;
            std::thread::sleep(PATIENCE);
        };
        // What the workers have seen is in an epoch of the journal; once that is stored, so is what they answered.
        stored(live, live.journal.last_epoch_end().map_or(0, |end| end.epoch), &self.progress)?;
        let allowed_lateness_ms = self.config.allowed_lateness_ms;
        let limit = |seen| match seen {
            SeriesPresence::Live { newest_ms } => newest_ms.saturating_sub(allowed_lateness_ms),
            SeriesPresence::Freed { newest_ms } | SeriesPresence::Given { freed_ms: Some(newest_ms) } => {
                newest_ms
            }
            SeriesPresence::Given { freed_ms: None } | SeriesPresence::Unknown => end.processing_ms,
        };
        Ok(series.into_iter().zip(seen.into_iter().map(limit)).collect())
    }

    /// Reads the outbox for the keys with more than one answer, and for samples that were not applied.
    fn corrected(&self, summary: &mut BackfillSummary) -> Result<CorrectedKeys, BackfillError> {
        let mut corrected = CorrectedKeys::default();
        let mut tail = self.tail()?;
        while let Some(batch) = tail.next()? {
            self.progress.go_on()?;
            for row in batch.windows.iter().filter(|row| row.revision > 0 && summary.is_requested(row.at_ms))
            {
                let last = corrected.last.entry(row.key()).or_default();
                *last = row.revision.max(*last);
            }
            if corrected.last.len() > CORRECTED_KEYS_MAX {
                self.metrics.limit("backfill.corrected_keys");
                return Err(BackfillError::CorrectedKeys { most: CORRECTED_KEYS_MAX });
            }
            for reject in batch.rows.rejects {
                summary.rejected(reject.reason, reject.count);
                if matches!(reject.reason, Reason::TooOld | Reason::LateRingFull) {
                    match reject.series {
                        Some(series) => drop(corrected.lacking.insert(series)),
                        None => corrected.lacking_others = true,
                    }
                }
            }
        }
        Ok(corrected)
    }

    /// Has the store judge the offers.
    fn offer(
        &self,
        live: &LiveServer,
        offers: &mut Vec<Offer>,
        summary: &mut BackfillSummary,
    ) -> Result<(), BackfillError> {
        self.progress.go_on()?;
        let labels = |series| {
            let set = self.labels.get(series)?;
            Some(set.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect::<LabelPairs>())
        };
        let mut pause = PATIENCE;
        for attempt in 1.. {
            match live.store.amend((live.clock)(), offers, &labels) {
                Ok(verdicts) => {
                    let pairs = offers.iter().zip(verdicts);
                    pairs.for_each(|(offer, verdict)| summary.judged(&offer.stats, verdict));
                    break;
                }
                Err(error) if error.is_transient() && attempt < TRIES => {
                    tracing::warn!("writing a backfill failed and is tried again in {pause:?}: {error}");
                    self.progress.go_on()?;
                    std::thread::sleep(pause);
                    pause = (pause * 2).min(Duration::from_secs(5));
                }
                Err(error) => return Err(error.into()),
            }
        }
        self.progress.judged.fetch_add(offers.len() as u64, Ordering::Relaxed);
        self.progress.written.store(summary.written(), Ordering::Relaxed);
        offers.clear();
        Ok(())
    }
}

impl CorrectedKeys {
    /// Whether nothing is missing in the window, as far as one can know.
    fn whole(&self, stats: &WindowStats, extent: Option<&Extent>) -> bool {
        let reaches = extent.is_some_and(|extent| extent.first_ms <= stats.at_ms - stats.window_ms);
        reaches && !self.lacking_others && !self.lacking.contains(&stats.series)
    }
}

/// Waits until the store holds an epoch of the live engine.
fn stored(live: &LiveServer, epoch: u64, progress: &BackfillProgress) -> Result<(), BackfillError> {
    while live.stored.epoch() < epoch {
        progress.go_on()?;
        if let Some(why) = (live.stuck)() {
            return Err(BackfillError::LiveStuck(why));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}
