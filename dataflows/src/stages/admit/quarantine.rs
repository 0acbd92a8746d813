//! Quarantine: series whose computation panics again and again are kept out, by a control of the journal.
//!
//! From the epoch of the control on every sample of such a series is refused, staleness markers as well, before
//! anything is computed. Its slot is freed and leaves its tombstone as any other, so what it holds is never touched
//! again; a series that is let in again begins behind that tombstone.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::state::Admit;
use crate::sample::{Control, Reason, Samples, SeriesId};
use crate::shard::AdmittedBatch;

impl Admit {
    /// Takes note of the epoch's controls; in one epoch those that keep out win.
    pub(super) fn apply_quarantines(
        &mut self,
        shard: usize,
        controls: &[Arc<Control>],
        out: &mut AdmittedBatch,
    ) {
        for control in controls {
            if let Control::Lift { series } = &**control {
                self.quarantined.remove(series);
            }
        }
        for control in controls {
            let Control::Quarantine { series, .. } = &**control else { continue };
            if SeriesId(*series).shard() != shard || !self.quarantined.insert(*series) {
                continue;
            }
            if let Some(slot) = self.slots.get(*series) {
                self.bootstraps.forget(slot);
                // It is freed at the end of this epoch, and nothing is to look at it before: no change of settings either.
                self.heads[slot as usize].armed = i64::MAX;
                out.quarantined.push(slot);
            }
        }
    }

    /// The samples without those of quarantined series, which are refused.
    pub(super) fn keep_out(
        &mut self,
        live: &Samples,
        bootstraps: &[Samples],
        out: &mut AdmittedBatch,
    ) -> (Samples, Vec<Samples>) {
        // Summed by series, because the samples come in any order and the first rows of a minute name their series.
        let mut refused: BTreeMap<u64, (u64, i64, i64)> = BTreeMap::new();
        let mut keep = |all: &Samples| {
            let mut kept = Samples::of_bootstrap(all.bootstrap);
            for i in 0..all.len() {
                let (series, at_ms) = (all.series[i], all.at_ms[i]);
                if self.quarantined.contains(&series) {
                    let (count, first, last) = refused.entry(series).or_insert((0, at_ms, at_ms));
                    (*count, *first, *last) = (*count + 1, at_ms.min(*first), at_ms.max(*last));
                } else {
                    kept.push(series, at_ms, all.value[i]);
                }
            }
            kept
        };
        let kept = (keep(live), bootstraps.iter().map(keep).collect());
        for (series, (count, first_at_ms, last_at_ms)) in refused {
            out.counts.rejected[Reason::Quarantined as usize] += count;
            self.rejects.add_all(SeriesId(series), Reason::Quarantined, count, (first_at_ms, last_at_ms));
        }
        kept
    }
}
