//! How ids, counts and types are stored.

use tidewatch_dataflows::sample::{MetricType, SeriesId};

/// A series id as it is stored: an integer whose signed order is the order of the id.
pub(super) fn key_of(series: SeriesId) -> i64 {
    (series.0 ^ (1 << 63)).cast_signed()
}

/// The series id of what is stored.
pub(super) fn series_of(key: i64) -> SeriesId {
    SeriesId(key.cast_unsigned() ^ (1 << 63))
}

/// The hour since the Unix epoch that an instant falls in.
pub(super) fn hour_of(ms: i64) -> i64 {
    ms.div_euclid(3_600_000)
}

/// A column that holds the type of a series; none if nobody said it.
pub(super) fn kind(row: &rusqlite::Row<'_>, column: usize) -> rusqlite::Result<Option<MetricType>> {
    let code: Option<u8> = row.get(column)?;
    code.map(|code| {
        let unknown = || rusqlite::Error::IntegralValueOutOfRange(column, code.into());
        MetricType::from_code(code).ok_or_else(unknown)
    })
    .transpose()
}

/// A column that holds a count.
pub(super) fn unsigned(row: &rusqlite::Row<'_>, column: usize) -> rusqlite::Result<u64> {
    let value: i64 = row.get(column)?;
    u64::try_from(value).map_err(|_| rusqlite::Error::IntegralValueOutOfRange(column, value))
}

/// A count as it is stored.
pub(super) fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

pub(super) fn gcd(a: i64, b: i64) -> i64 {
    if b == 0 { a } else { gcd(b, a % b) }
}
