//! The audit: a few random series a second are computed again in the running server, from their raw samples and panes.
//! A few others are followed through the journal, and their rows computed again from its samples alone (`follow`).
//!
//! What a check of the state is, and how exactly numbers have to agree, is in `dataflows` (`stages/window/check.rs`).
//! Here is who is checked and when, and who is told. A check changes nothing and never stops the server: whoever finds a
//! mismatch has to judge it.
//!
//! Not here: series that nobody sends any more; of the state, windows that are older than the newest closed one.

mod deps;
mod follow;
mod followed;
mod judge;
mod state;

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tidewatch_dataflows::rows::inspect::{Mismatch, StateCheck, Unavailable, What};
use tidewatch_dataflows::sample::SeriesId;
use tidewatch_dataflows::settings::duration;

use crate::config::Config;
use crate::engine::AskError;
use crate::metrics::{self, Metrics};

pub use self::deps::AuditDeps;
use self::deps::{ROW, WARN_EVERY, time_in_words};
use self::follow::Follower;
use self::followed::SkipReason;

/// A second's series are dealt out to so many moments, so that no worker is held for long.
const MOMENTS_A_SECOND: u32 = 10;
/// Series that could not be looked at because their shard was between two epochs, and are tried again.
const AGAIN_MAX: usize = 64;

/// The running audit.
pub struct Audit {
    stop: [Sender<()>; 2],
    threads: [JoinHandle<()>; 2],
}

impl Audit {
    /// Starts it, unless no series are to be checked. `accept_loss`: records of the journal may be missing.
    ///
    /// # Errors
    /// A thread cannot be started.
    pub fn start(config: &Config, accept_loss: bool, deps: &AuditDeps) -> std::io::Result<Option<Audit>> {
        // So that the metrics are there, and 0, from the start.
        for what in What::ALL.map(What::as_str).into_iter().chain([ROW]) {
            let what = metrics::CheckLabels { what };
            deps.metrics.audit_mismatches.get_or_create(&what).inc_by(0);
            deps.metrics.audit_checks.get_or_create(&what).inc_by(0);
        }
        for reason in SkipReason::ALL.map(|skip| metrics::SkipLabels { reason: skip.as_str() }) {
            deps.metrics.audit_skipped.get_or_create(&reason).inc_by(0);
        }
        let series_a_second = config.audit;
        if series_a_second == 0 {
            return Ok(None);
        }
        let run =
            AuditRun { deps: deps.clone(), random: fastrand::Rng::new(), again: Vec::new(), warned_at: None };
        let follower = Follower::new(config, accept_loss, deps);
        let ((stop, stopped), (stop_following, followed)) = (channel(), channel());
        let thread = |name: &str| std::thread::Builder::new().name(name.to_owned());
        let following = thread("audit-journal").spawn(move || follower.until(&followed))?;
        let asking = thread("audit").spawn(move || run.until(&stopped, series_a_second))?;
        Ok(Some(Audit { stop: [stop, stop_following], threads: [asking, following] }))
    }

    /// Ends it; at most one question and one round are waited for.
    pub fn stop(self) {
        drop(self.stop);
        for thread in self.threads {
            // A panic there was printed; it takes nothing with it.
            let _ = thread.join();
        }
    }
}

struct AuditRun {
    deps: AuditDeps,
    random: fastrand::Rng,
    /// Tried once, between two epochs.
    again: Vec<SeriesId>,
    /// When a mismatch was last told.
    warned_at: Option<Instant>,
}

impl AuditRun {
    fn until(mut self, stopped: &Receiver<()>, series_a_second: u32) {
        let moments = series_a_second.min(MOMENTS_A_SECOND);
        let pause = Duration::from_secs(1) / moments;
        for moment in (0..moments).cycle() {
            if stopped.recv_timeout(pause) != Err(RecvTimeoutError::Timeout) {
                return;
            }
            let share = |moments_done: u32| series_a_second * moments_done / moments;
            let some = share(moment + 1) - share(moment);
            // While the state is computed anew the workers have better things to do, and it is not what it was.
            if (self.deps.caught_up)() {
                // Busy, or beginning anew: the next moment is soon.
                let _ = self.some(some as usize);
            }
        }
    }

    /// Checks so many random series, and those that could not be looked at before.
    fn some(&mut self, n: usize) -> Result<(), AskError> {
        let numbers: Vec<u64> = (0..n).map(|_| self.random.u64(..)).collect();
        let mut series = std::mem::take(&mut self.again);
        series.extend(self.deps.questions.pick(&numbers)?);
        for (series, checked) in self.deps.questions.audit(&series)? {
            match checked {
                Ok(checked) => self.count(series, &checked),
                Err(Unavailable::Between) if self.again.len() < AGAIN_MAX => self.again.push(series),
                // It takes a bootstrap, or was freed since, or another one of a random choice is as good.
                Err(_) => {}
            }
        }
        Ok(())
    }

    fn count(&mut self, series: SeriesId, checked: &StateCheck) {
        let metrics: &Metrics = &self.deps.metrics;
        metrics.audit_series.inc();
        for (what, n) in What::ALL.into_iter().zip(checked.checked) {
            metrics.audit_checks.get_or_create(&metrics::CheckLabels { what: what.as_str() }).inc_by(n);
        }
        if checked.difference > metrics.audit_difference.get() {
            metrics.audit_difference.set(checked.difference);
        }
        for what in What::ALL.into_iter().filter(|what| checked.wrong[*what as usize] > 0) {
            let label = metrics::CheckLabels { what: what.as_str() };
            metrics.audit_mismatches.get_or_create(&label).inc_by(checked.wrong[what as usize]);
        }
        let Some(first) = checked.mismatches.first() else { return };
        if self.warned_at.is_none_or(|last| last.elapsed() >= WARN_EVERY) {
            self.warned_at = Some(Instant::now());
            let labels = self.deps.labels.get(series).map(|labels| format!(" {labels:?}"));
            let more = checked.wrong.iter().sum::<u64>() - 1;
            let (labels, words) = (labels.unwrap_or_default(), in_words(first));
            tracing::error!("audit: series {series}{labels}: {words}; {more} more numbers of it differ");
        }
    }
}

/// A mismatch as a human reads it.
fn in_words(m: &Mismatch) -> String {
    let length = m.window_ms.map_or_else(String::new, |ms| format!(" of {}", duration(ms)));
    format!(
        "the {} of the {}{length} after {} up to {} is held as {:e}, and is {:e} when computed again",
        m.field,
        m.what.as_str(),
        time_in_words(m.start_ms),
        time_in_words(m.end_ms),
        m.kept,
        m.again
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mismatch_names_the_place_and_both_numbers() {
        let mut mismatch = Mismatch {
            what: What::Window,
            window_ms: Some(3_600_000),
            start_ms: 1_700_000_000_000,
            end_ms: 1_700_003_600_000,
            field: "avg",
            kept: 1.5,
            again: 1.25,
        };
        assert_eq!(
            in_words(&mismatch),
            "the avg of the window of 1h after 2023-11-14T22:13:20Z up to 2023-11-14T23:13:20Z \
             is held as 1.5e0, and is 1.25e0 when computed again"
        );
        (mismatch.what, mismatch.window_ms) = (What::Pane, None);
        assert!(in_words(&mismatch).starts_with("the avg of the pane after 2023"));
    }
}
