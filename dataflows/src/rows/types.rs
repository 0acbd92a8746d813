//! What sources said that series are, as far as it was said in an epoch. Not exported: other rows show it.

use super::columns::{Cell, Columns};
use super::kind::{ResultRow, RowStorage, SeriesText};
use crate::sample::{MetricType, SeriesId};

/// A series and its type.
pub type SeriesType = (SeriesId, MetricType);

row_fields! {
    SeriesType, |row| { series: SeriesId = row.0, metric_type: MetricType = row.1 } => (series, metric_type)
}

impl ResultRow for SeriesType {
    const KIND: u8 = 3;
    const VERSION: u8 = 1;
    const NAME: &'static str = "types";
    const SINGULAR: &'static str = "type";
    const STORAGE: RowStorage = RowStorage::Latest;
    const COLUMNS: Columns = &[];

    type Key = SeriesId;

    fn key(&self) -> SeriesId {
        self.0
    }

    fn series(&self) -> Option<SeriesId> {
        Some(self.0)
    }

    type Place = SeriesId;

    fn place(&self) -> Self::Place {
        self.0
    }

    fn span_ms(&self) -> Option<(i64, i64)> {
        None
    }

    fn cells<'a>(&'a self, _: Option<SeriesText<'a>>, _: &mut Vec<Cell<'a>>) {}

    /// Of a series, all of whose types come from one shard, the last one told stays.
    fn normalize(rows: &mut Vec<Self>) {
        rows.sort_by_key(Self::key);
        rows.dedup_by(|next, kept| {
            let same = next.0 == kept.0;
            if same {
                *kept = *next;
            }
            same
        });
    }
}
