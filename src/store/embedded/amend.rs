//! Rows of a backfill beside those of the engine: each is judged by what readers see under its key.
//!
//! Judged and written under the writer's lock, so that nothing comes between the two.

use std::path::Path;

use tidewatch_dataflows::rows::{ResultRow, RowLists, WindowStats};
use tidewatch_dataflows::sample::SeriesId;

use super::read::keys;
use super::view::View;
use super::write::StoreWriter;
use crate::store::{LabelPairs, Offer, OfferVerdict, StoreError};

/// Judges the offers by what `view` shows and writes what is to be written.
pub fn amend(
    writer: &mut StoreWriter,
    view: View<'_>,
    path: &Path,
    written_ms: i64,
    offers: &[Offer],
    labels: &dyn Fn(SeriesId) -> Option<LabelPairs>,
) -> Result<Vec<OfferVerdict>, StoreError> {
    let stored = keys(&view, offers.iter().map(|offer| &offer.stats))?;
    drop(view);
    let (mut rows, mut verdicts) = (Vec::new(), Vec::with_capacity(offers.len()));
    for (offer, stored) in offers.iter().zip(stored) {
        let verdict = judge(offer, stored.as_ref());
        let revision = stored.map_or(0, |stored| stored.revision).saturating_add(1);
        if matches!(verdict, OfferVerdict::Added | OfferVerdict::Replaced) {
            // What replaces a partial row is as partial, unless it is known to be whole.
            let partial = !offer.whole && stored.is_some_and(|stored| stored.partial);
            rows.push(WindowStats { revision, partial, ..offer.stats });
        }
        verdicts.push(verdict);
    }
    if !rows.is_empty() {
        writer.add(path, written_ms, &RowLists { windows: rows, ..RowLists::default() }, labels)?;
    }
    Ok(verdicts)
}

fn judge(offer: &Offer, stored: Option<&WindowStats>) -> OfferVerdict {
    let Some(stored) = stored else { return OfferVerdict::Added };
    let improves = stored.partial && (offer.whole || offer.stats.count > stored.count);
    if improves && offer.stats.count >= stored.count {
        OfferVerdict::Replaced
    } else if offer.stats.same(stored) {
        OfferVerdict::Unchanged
    } else if stored.count > offer.stats.count {
        OfferVerdict::Larger
    } else if !offer.whole {
        OfferVerdict::Partial
    } else {
        OfferVerdict::Replaced
    }
}
