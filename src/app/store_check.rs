//! A store that is damaged: it is named, set aside, and begun anew with what the outbox holds.
//!
//! Nobody can take the file from under its readers, so whoever finds damage leaves a mark and ends the process with 75;
//! the next start sets the file aside. What is found when the file is opened is set aside at once.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, bail};

use super::data_dir::STORE_FILE;
use super::time::now_ms;
use crate::fatal::{Fatal, FatalHook, RESTART_ME};
use crate::store::embedded::{Embedded, EmbeddedOptions};
use crate::store::{Store, StoreError};

/// Says that the store is damaged, and how.
const MARK_FILE: &str = "store.damaged";
/// Most damaged stores that are kept: a disk that damages each new one must be seen to.
const SET_ASIDE_MAX: usize = 4;
/// How long a start reads through the store, in the background.
const CHECK_MAX: Duration = Duration::from_secs(600);
/// How often is looked whether damage was found.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Opens the store of a data directory; one that is damaged is set aside.
pub fn open(dir: &Path, options: EmbeddedOptions) -> anyhow::Result<Embedded> {
    let path = dir.join(STORE_FILE);
    if let Ok(why) = std::fs::read_to_string(dir.join(MARK_FILE)) {
        set_aside(dir, why.trim())?;
    }
    // What a start reads of it must be readable as well.
    let opened = Embedded::open(&path, options).and_then(|store| {
        store.epoch()?;
        store.types()?;
        Ok(store)
    });
    let why = match opened {
        Err(StoreError::Corrupt { why, .. } | StoreError::Damaged { why, .. }) => why,
        // Nobody else puts a file of this name beside a journal.
        Err(StoreError::Foreign { why, .. })
            if why.contains("not a database") && dir.join("journal").is_dir() =>
        {
            why
        }
        other => return other.context("opening the store"),
    };
    set_aside(dir, &why)?;
    Embedded::open(&path, options).context("opening the store")
}

/// Gives the store and what SQLite has beside it other names.
fn set_aside(dir: &Path, why: &str) -> anyhow::Result<()> {
    let aside = format!("{STORE_FILE}.damaged-");
    let names = std::fs::read_dir(dir).with_context(|| format!("listing {}", dir.display()))?;
    let held = names.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let held =
        held.filter(|name| name.starts_with(&aside) && !name.ends_with("-wal") && !name.ends_with("-shm"));
    if held.count() >= SET_ASIDE_MAX {
        bail!(
            "the store is damaged ({why}), as {SET_ASIDE_MAX} before it were, which are kept as {}*; see to the disk, and \
             remove them",
            dir.join(&aside).display()
        );
    }
    let to = format!("{aside}{}", now_ms());
    for beside in ["", "-wal", "-shm"] {
        let (from, to) = (dir.join(format!("{STORE_FILE}{beside}")), dir.join(format!("{to}{beside}")));
        match std::fs::rename(&from, &to) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("setting {} aside", from.display()));
            }
            _ => {}
        }
    }
    let mark = dir.join(MARK_FILE);
    match std::fs::remove_file(&mark) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("removing {}", mark.display()));
        }
        _ => {}
    }
    tracing::error!(
        "the store is damaged: {why}; it is set aside as {}, and begun anew with what the outbox holds: older rows are only \
         in there",
        dir.join(&to).display()
    );
    Ok(())
}

/// Leaves word for the next start.
pub fn mark(dir: &Path, why: &str) {
    if let Err(error) = std::fs::write(dir.join(MARK_FILE), why) {
        tracing::error!(
            "{} cannot be written, so the next start may not set the store aside: {error}",
            MARK_FILE
        );
    }
}

/// Reads through the store once, and ends the process when anybody finds damage in it.
pub struct StoreCheck {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl StoreCheck {
    /// Starts it.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn start(dir: PathBuf, store: Arc<dyn Store>, on_fatal: FatalHook) -> std::io::Result<StoreCheck> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let run = move || {
            let stop = || stopped.load(Ordering::Relaxed);
            match store.check(CHECK_MAX, &stop) {
                Ok(found) => tracing::debug!(
                    "{} of {} tables of the store are sound, read in {:.1} s",
                    found.checked,
                    found.tables,
                    found.seconds
                ),
                Err(error) => tracing::warn!("the check of the store ended: {error}"),
            }
            loop {
                if let Some(why) = store.damage() {
                    mark(&dir, &why);
                    let message = format!("the store is damaged: {why}; the next start sets it aside");
                    return on_fatal(Fatal { message, code: RESTART_ME });
                }
                if stop() {
                    return;
                }
                std::thread::sleep(LOOK_EVERY);
            }
        };
        let thread = std::thread::Builder::new().name("store-check".to_owned()).spawn(run)?;
        Ok(StoreCheck { stop, thread: Some(thread) })
    }
}

impl Drop for StoreCheck {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It only reads; a panic of it was printed.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::testing::TempDir;

    fn aside(dir: &TempDir) -> Vec<String> {
        let names = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name());
        let names = names.map(|name| name.into_string().unwrap());
        names.filter(|name| name.contains(".damaged-")).collect()
    }

    #[test]
    fn a_damaged_store_is_set_aside_and_one_of_others_is_not() {
        let dir = TempDir::new();
        std::fs::create_dir(dir.path().join("journal")).unwrap();
        drop(open(dir.path(), EmbeddedOptions::default()).unwrap());
        assert_eq!(aside(&dir), Vec::<String>::new());
        // Marked by whoever found damage.
        mark(dir.path(), "table windows_1: out of order");
        drop(open(dir.path(), EmbeddedOptions::default()).unwrap());
        assert_eq!(aside(&dir).len(), 1);
        drop(open(dir.path(), EmbeddedOptions::default()).unwrap());
        assert_eq!(aside(&dir).len(), 1, "the mark is gone");
        // Its first page is noise.
        let noise = || std::fs::write(dir.file(), vec![0x5a; 8_192]).unwrap();
        for n in 2..=SET_ASIDE_MAX {
            std::thread::sleep(Duration::from_millis(2));
            noise();
            drop(open(dir.path(), EmbeddedOptions::default()).unwrap());
            assert_eq!(aside(&dir).len(), n);
        }
        noise();
        let error = open(dir.path(), EmbeddedOptions::default()).err().unwrap().to_string();
        assert!(error.contains("4 before it were") && error.contains("store.sqlite.damaged-"), "{error}");
        // A database of somebody else stays where it is.
        let dir = TempDir::new();
        std::fs::create_dir(dir.path().join("journal")).unwrap();
        rusqlite::Connection::open(dir.file()).unwrap().execute_batch("CREATE TABLE other (x)").unwrap();
        let error = format!("{:#}", open(dir.path(), EmbeddedOptions::default()).err().unwrap());
        assert!(error.contains("is not a store of tidewatch"), "{error}");
        assert_eq!(aside(&dir), Vec::<String>::new());
    }
}
