//! The connections that read: they are kept between questions, and wait for a checkpoint that has its turn.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use parking_lot::{Mutex, RwLock};
use rusqlite::Connection;

use super::options::EmbeddedOptions;
use super::schema;
use super::wal::Turnstile;
use crate::store::StoreError;

/// Most connections kept open between questions.
const IDLE_READERS_MAX: usize = 8;
/// Most of these that keep what they have read.
const WARM_READERS_MAX: usize = 2;

/// What all views of a store share.
pub struct Readers {
    pub(super) path: PathBuf,
    pub(super) options: EmbeddedOptions,
    pub(super) idle: Mutex<Vec<Connection>>,
    pub(super) turnstile: Turnstile,
    /// What SQLite found damaged first.
    pub(super) damage: OnceLock<String>,
    /// Held for reading by whoever has a connection, for writing while the files are opened anew.
    pub(super) open: RwLock<()>,
}

impl Readers {
    pub(super) fn new(path: &Path, options: EmbeddedOptions) -> Readers {
        Readers {
            path: path.to_owned(),
            options,
            idle: Mutex::default(),
            turnstile: Turnstile::default(),
            damage: OnceLock::new(),
            open: RwLock::default(),
        }
    }

    /// A connection, an idle one if there is one. Whoever takes it holds `open`.
    pub(super) fn take(&self) -> Result<Connection, StoreError> {
        let idle = self.idle.lock().pop();
        match idle {
            Some(conn) => Ok(conn),
            None => schema::open_for_reading(&self.path).map_err(|error| self.note(error)),
        }
    }

    /// Keeps a connection for the next question, or closes it.
    pub(super) fn give_back(&self, conn: Connection) {
        let mut idle = self.idle.lock();
        if idle.len() >= IDLE_READERS_MAX {
            return;
        }
        // Many at once are a burst, and each holds a cache. One that fails to give it up is not kept.
        if idle.len() < WARM_READERS_MAX || conn.execute_batch("PRAGMA shrink_memory").is_ok() {
            idle.push(conn);
        }
    }

    /// Takes note of an error that says that the file is damaged.
    pub(super) fn note(&self, error: StoreError) -> StoreError {
        if let StoreError::Corrupt { why, .. } = &error {
            // The first one is as good as any.
            let _ = self.damage.set(why.clone());
        }
        error
    }
}
