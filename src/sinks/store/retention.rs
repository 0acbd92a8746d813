//! What is dropped from the store as too old: once a minute, by a clock that has kept step.

use std::time::Duration;

use tidewatch_dataflows::settings::duration;

use super::deps::{SINK, StoreSinkDeps};
use super::trusted_time::{ClockJudgement, STEADY, TrustedTime};

/// How often tables are dropped.
const RETENTION_EVERY: Duration = Duration::from_secs(60);

/// Drops what is too old, by a clock that has kept step.
pub(super) struct Retention {
    time: TrustedTime,
    /// When tables were dropped last, by the monotonic clock.
    dropped: Option<Duration>,
    /// Nothing was observed yet: who was away finds the clock elsewhere.
    first: bool,
}

impl Retention {
    pub(super) fn new(retained_ms: Option<i64>, deps: &StoreSinkDeps) -> Retention {
        let clock_ms = (deps.clock)();
        let time = TrustedTime::new(retained_ms.unwrap_or(clock_ms), (deps.uptime)());
        Retention { time, dropped: None, first: true }
    }

    /// Looks at both clocks, drops tables once a minute, and gives the time of writing.
    pub(super) fn observe(&mut self, deps: &StoreSinkDeps) -> i64 {
        let (clock_ms, uptime) = ((deps.clock)(), (deps.uptime)());
        let found = self.time.judge(clock_ms, uptime);
        let first = std::mem::take(&mut self.first);
        deps.metrics.retention_clock_ahead.set(self.time.apart_ms() as f64 / 1e3);
        let hold = duration(i64::try_from(STEADY.as_millis()).unwrap_or(i64::MAX));
        let words = |by_ms: i64| {
            format!(
                "{} {}",
                duration(by_ms.saturating_abs() / 1_000 * 1_000),
                if by_ms < 0 { "behind" } else { "ahead" }
            )
        };
        match found {
            ClockJudgement::Nothing => {}
            ClockJudgement::Jumped(by_ms) if first => tracing::warn!(
                "the clock is {} of when rows were last dropped; no more are dropped by it before it has gone on \
                 evenly for {hold}",
                words(by_ms)
            ),
            ClockJudgement::Jumped(by_ms) => tracing::error!(
                "the clock has jumped and is now {} of where it should be; no stored rows are dropped by it before it \
                 has gone on evenly for {hold}: set it right before that if it is wrong",
                words(by_ms)
            ),
            ClockJudgement::Back => tracing::info!("the clock is where it should be again"),
            ClockJudgement::Believed(by_ms) => tracing::warn!(
                "the clock has gone on evenly for {hold}, {} of where it was; stored rows are dropped by it now",
                words(by_ms)
            ),
        }
        if self.dropped.is_none_or(|dropped| uptime.saturating_sub(dropped) >= RETENTION_EVERY) {
            self.dropped = Some(uptime);
            Retention::drop_expired(self.time.expires_by_ms(), deps);
        }
        self.time.written_ms(clock_ms)
    }

    fn drop_expired(now_ms: i64, deps: &StoreSinkDeps) {
        match deps.store.drop_expired(now_ms) {
            Ok(dropped) if dropped.tables > 0 => {
                tracing::info!("retention dropped {} tables with {} rows", dropped.tables, dropped.rows);
                if dropped.tables_left > 0 {
                    deps.metrics.limit("store.tables_dropped");
                    let left = dropped.tables_left;
                    tracing::warn!(
                        "{left} more tables are older than store.retention; a tenth of all goes each minute"
                    );
                }
            }
            Ok(_) => {}
            Err(error) => {
                deps.metrics.sink_errors.get_or_create(&SINK).inc();
                tracing::warn!("retention could not drop tables: {error}");
            }
        }
    }
}
