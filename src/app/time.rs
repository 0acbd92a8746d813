//! The machine's clock, and instants as users type them.

use anyhow::Context;

/// Unix milliseconds by the machine's clock.
pub(super) fn now_ms() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let now_ms = since.map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX));
    now_ms.saturating_add(crate::faults::clock_ahead_ms())
}

/// An instant as users type it: RFC 3339 or Unix seconds.
pub(super) fn time_ms(field: &str, text: &str) -> anyhow::Result<i64> {
    use tidewatch_dataflows::sample::{AT_MS_MAX, AT_MS_MIN};
    let seconds = text.parse::<f64>().ok().map(|seconds| (seconds * 1_000.0).round() as i64);
    let at = seconds.or_else(|| text.parse::<jiff::Timestamp>().ok().map(jiff::Timestamp::as_millisecond));
    at.filter(|at| (AT_MS_MIN..=AT_MS_MAX).contains(at)).with_context(|| {
        format!("{field} must be RFC 3339 or Unix seconds, from the year 2000 to 9999; got {text:?}")
    })
}
