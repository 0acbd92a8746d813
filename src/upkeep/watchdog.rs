//! The watchdog: ends the process when nothing is computed although there is something to compute.
//!
//! It stands still when the journal holds newer durable epochs than the engine has computed, and the engine has
//! neither handed over an epoch nor begun a generation. Not counted is time in which the outbox is full, and
//! time in which this process did not run at all. A journal without room takes nothing, so there is nothing newer in it.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::engine::EngineProgress;
use crate::fatal::{Fatal, FatalHook, RESTART_ME};
use crate::journal::Journal;
use crate::metrics::Metrics;

/// How long the process may take to end once the watchdog has said so.
const END_MAX: Duration = Duration::from_secs(30);
/// Longest time between two looks.
const LOOK_MAX: Duration = Duration::from_secs(1);

/// How long the engine has stood still.
struct StandstillTimer {
    moved: (u64, u64),
    still: Duration,
}

impl StandstillTimer {
    /// Takes note that `passed` went by, and that the engine is here now; how long it has stood still.
    fn judge(&mut self, moved: (u64, u64), behind: bool, passed: Duration) -> Duration {
        if moved != self.moved || !behind {
            *self = StandstillTimer { moved, still: Duration::ZERO };
        } else {
            self.still += passed;
        }
        self.still
    }
}

/// A running watchdog; dropped, it ends.
pub struct Watchdog {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Watchdog {
    /// Looks after this engine; ends the process after `patience`.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn start(
        patience: Duration,
        journal: Journal,
        progress: Arc<EngineProgress>,
        metrics: Arc<Metrics>,
        on_fatal: FatalHook,
    ) -> std::io::Result<Watchdog> {
        let (stop, stopped) = channel();
        let run = move || {
            let Some(message) = watch(patience, &journal, &progress, &stopped) else { return };
            metrics.watchdog_expired.inc();
            on_fatal(Fatal { message: message.clone(), code: RESTART_ME });
            // Whoever ends the process may wait for what stands still.
            if stopped.recv_timeout(END_MAX) == Err(RecvTimeoutError::Timeout) {
                tracing::error!("{message}; the process did not end within {END_MAX:?} and is ended now");
                #[allow(clippy::disallowed_methods)]
                std::process::exit(RESTART_ME.into());
            }
        };
        let thread = std::thread::Builder::new().name("watchdog".to_owned()).spawn(run)?;
        Ok(Watchdog { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // It only looks; a panic of it was printed.
            let _ = thread.join();
        }
    }
}

/// Looks until the engine has stood still for too long, and says what stands still; nothing if it is stopped.
fn watch(
    patience: Duration,
    journal: &Journal,
    progress: &EngineProgress,
    stopped: &Receiver<()>,
) -> Option<String> {
    let tick = (patience / 20).min(LOOK_MAX);
    let mut standing = StandstillTimer { moved: progress.moved(), still: Duration::ZERO };
    let mut looked = Instant::now();
    while stopped.recv_timeout(tick) == Err(RecvTimeoutError::Timeout) {
        // A process that was stopped and goes on has not stood still all the while.
        let passed = looked.elapsed().min(tick * 2);
        looked = Instant::now();
        let held = journal.last_epoch_end().map_or(0, |end| end.epoch);
        let full = progress.blocked_on().is_some();
        let still = standing.judge(progress.moved(), held > progress.computed() && !full, passed);
        if still >= patience {
            let (computed, at) = (progress.computed(), progress.at());
            return Some(format!(
                "nothing was computed for {} s (watchdog) although the journal holds epoch {held}; computed is epoch {computed}; {at}",
                patience.as_secs()
            ));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_time_in_which_nothing_moves_while_something_waits_counts() {
        let second = Duration::from_secs(1);
        let mut standing = StandstillTimer { moved: (1, 0), still: Duration::ZERO };
        let looks = [
            ((1, 0), true, 1),
            ((1, 0), true, 2),
            // An epoch was handed over.
            ((1, 1), true, 0),
            ((1, 1), true, 1),
            // A generation began.
            ((2, 1), true, 0),
            ((2, 1), true, 1),
            // Nothing waits, or there is no room.
            ((2, 1), false, 0),
            ((2, 1), true, 1),
        ];
        for (n, (moved, behind, still)) in looks.into_iter().enumerate() {
            assert_eq!(standing.judge(moved, behind, second), second * still, "look {n}");
        }
    }
}
