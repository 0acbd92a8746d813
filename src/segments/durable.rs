//! How far a log is durable: a number that those who tail the log wait for.

use std::time::{Duration, Instant};

use super::Position;
use parking_lot::{Condvar, Mutex, MutexGuard};

/// How far a log is durable, for those who tail it.
#[derive(Debug)]
pub struct DurablePosition {
    state: Mutex<DurableState>,
    changed: Condvar,
}

#[derive(Clone, Copy, Debug)]
struct DurableState {
    end: Position,
    epoch: Option<u64>,
    closed: bool,
}

impl DurablePosition {
    /// A log durable up to `end`, whose last complete epoch is `epoch`.
    pub fn new(end: Position, epoch: Option<u64>) -> DurablePosition {
        DurablePosition {
            state: Mutex::new(DurableState { end, epoch, closed: false }),
            changed: Condvar::new(),
        }
    }

    /// The end of what is durable.
    pub fn end(&self) -> Position {
        self.lock().end
    }

    /// The last epoch that is durable as a whole.
    pub fn epoch(&self) -> Option<u64> {
        self.lock().epoch
    }

    /// Whether nothing will be added any more.
    pub fn closed(&self) -> bool {
        self.lock().closed
    }

    /// Waits until the log is durable beyond `position`, is closed, or `timeout` has passed; the end as it is then.
    pub fn wait_beyond(&self, position: Position, timeout: Duration) -> Position {
        let begun = Instant::now();
        let mut state = self.lock();
        while state.end <= position && !state.closed {
            let Some(left) = timeout.checked_sub(begun.elapsed()).filter(|left| !left.is_zero()) else {
                break;
            };
            self.changed.wait_for(&mut state, left);
        }
        state.end
    }

    /// Waits until `epoch` or a later one is durable (`true`), the log is closed or `timeout` has passed.
    pub fn wait_for_epoch(&self, epoch: u64, timeout: Duration) -> bool {
        let begun = Instant::now();
        let mut state = self.lock();
        while state.epoch.is_none_or(|held| held < epoch) && !state.closed {
            let Some(left) = timeout.checked_sub(begun.elapsed()).filter(|left| !left.is_zero()) else {
                break;
            };
            self.changed.wait_for(&mut state, left);
        }
        state.epoch.is_some_and(|held| held >= epoch)
    }

    /// Tells all who wait that the log is durable up to `end`.
    pub fn advance(&self, end: Position, epoch: Option<u64>) {
        let mut state = self.lock();
        (state.end, state.epoch) = (end, epoch);
        self.changed.notify_all();
    }

    /// Tells all who wait that nothing will be added any more.
    pub fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, DurableState> {
        self.state.lock()
    }
}
