//! SQLite's write-ahead log: how large it is, and a turn for checkpoints.
//!
//! A checkpoint can only begin the log anew in a moment in which nobody reads in it. Questions that overlap leave no such
//! moment, and the log grows. So beyond a bound new questions wait until those under way are done, for as long as one
//! may take, and a checkpoint empties the log. Readers of other processes cannot be made to wait: an export ends its
//! view by itself (`merge`).

use std::path::Path;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use rusqlite::Connection;

/// Bytes of the log at `path`; 0 if there is none.
pub fn log_bytes(path: &Path) -> u64 {
    let mut log = path.as_os_str().to_owned();
    log.push("-wal");
    std::fs::metadata(log).map_or(0, |meta| meta.len())
}

/// Moves everything from the log into the file, and empties the log; whether nobody was in the way.
pub fn empty(conn: &Connection) -> rusqlite::Result<bool> {
    conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| Ok(row.get::<_, i64>(0)? == 0))
}

/// Counts the readers of this process, and can hold up new ones.
#[derive(Debug, Default)]
pub struct Turnstile {
    state: Mutex<WalState>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct WalState {
    readers: usize,
    closed: bool,
}

impl Turnstile {
    /// Lets a reader in, if need be after a wait; false if that would take until `deadline`.
    pub fn enter(&self, deadline: Option<Instant>) -> bool {
        let mut state = self.state.lock();
        while state.closed {
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            match left {
                Some(Duration::ZERO) => return false,
                Some(left) => {
                    self.changed.wait_for(&mut state, left);
                }
                None => self.changed.wait(&mut state),
            }
        }
        state.readers += 1;
        true
    }

    /// A reader is done.
    pub fn leave(&self) {
        self.state.lock().readers -= 1;
        self.changed.notify_all();
    }

    /// Lets nobody in while `work` runs, which begins when all readers have left, or after `patience` all the same.
    pub fn alone<T>(&self, patience: Duration, work: impl FnOnce() -> T) -> T {
        let until = Instant::now() + patience;
        let mut state = self.state.lock();
        state.closed = true;
        while state.readers > 0 {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            self.changed.wait_for(&mut state, left);
        }
        drop(state);
        let _open = GateOpener(self);
        work()
    }
}

/// Lets readers in again, also after a panic.
struct GateOpener<'t>(&'t Turnstile);

impl Drop for GateOpener<'_> {
    fn drop(&mut self) {
        self.0.state.lock().closed = false;
        self.0.changed.notify_all();
    }
}
