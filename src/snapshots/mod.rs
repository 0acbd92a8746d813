//! Snapshots: the state of each shard as of the end of some epoch, so that a start needs the journal only from there.
//!
//! Each shard is saved once in a while, a few a second, never all at once. A save goes to one of the shard's two
//! chains in turn; each chain is complete without the other, so a snapshot that is damaged falls back to the one before.
//! A chain is a file of what is sealed, to which each save appends what was sealed since, and a file of everything else,
//! which each save writes anew (see [`format`]).
//!
//! **Order of durability.** A save comes here only when the outbox holds its epoch. Panes are appended and synced, then
//! the state is written aside, synced and renamed, then the folder synced, then a manifest that lists it is written
//! aside, synced, renamed, and the folder synced again. Only then does it count, and only then are the files removed
//! that no manifest names. Whatever is cut short leaves what the last manifest lists as it was.
//!
//! A manifest that cannot be read is made again from the files of states, which say what they are and were renamed
//! into place only after the outbox held their epoch as well.
//!
//! Not here: what a state means (`dataflows`), when an epoch is in the outbox (`engine`), trimming.

mod error;
pub mod format;
mod table;
mod writer;

use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};
use tidewatch_dataflows::sample::EpochEnd;
use tidewatch_dataflows::settings::Settings;
use tidewatch_dataflows::snapshot::{CHAINS, SaveRequest, ShardSnapshot, StoredShard};

use self::error::MANIFEST;
pub use self::error::SnapshotError;
use self::format::{ManifestEntry, SealedFile};
use self::table::ChainTable;
use self::writer::SnapshotWriter;
use crate::disk::DiskFolder;
use crate::metrics::Metrics;

/// The last good save of a chain, read back.
pub struct LoadedShard {
    /// Which chain.
    pub chain: usize,
    end: EpochEnd,
    settings: Settings,
    state: Vec<u8>,
    sealed: SealedFile,
}

impl LoadedShard {
    /// The epoch whose end it is the state of.
    pub fn epoch(&self) -> u64 {
        self.end.epoch
    }

    /// What a shard begins with.
    pub fn stored(&self) -> StoredShard<'_> {
        StoredShard {
            end: self.end,
            settings: self.settings.clone(),
            state: &self.state,
            sealed: self.sealed.blocks(),
        }
    }
}

/// The snapshots of one data directory; cheap to clone. The last one that is dropped waits for what is under way.
#[derive(Clone)]
pub struct Snapshots {
    inner: Arc<SnapshotsInner>,
}

struct SnapshotsInner {
    folder: DiskFolder,
    table: Arc<Mutex<ChainTable>>,
    metrics: Arc<Metrics>,
    to_writer: Option<Sender<Vec<ShardSnapshot>>>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for SnapshotsInner {
    fn drop(&mut self) {
        self.to_writer = None;
        if let Some(thread) = self.thread.take() {
            // A panic of it was printed; what it had not finished does not count.
            let _ = thread.join();
        }
    }
}

impl Snapshots {
    /// Opens the snapshots in `folder`, making it if needed. Each shard is to be saved once in `every`.
    ///
    /// # Errors
    /// A folder that cannot be read, or a version that is not known.
    pub fn open(
        folder: impl Into<DiskFolder>,
        every: Duration,
        metrics: Arc<Metrics>,
    ) -> Result<Snapshots, SnapshotError> {
        let folder = folder.into();
        let io = |doing| {
            let path = folder.path().to_owned();
            move |source| SnapshotError::Io { doing, path, source }
        };
        folder.make().map_err(io("create the folder"))?;
        let names = folder.list().map_err(io("list"))?;
        let entries = match format::read_manifest(&folder, MANIFEST) {
            Ok(entries) => {
                // What replaced the one before may not be durable yet, and that one needs what is removed now.
                folder.sync().map_err(io("sync"))?;
                remove_unlisted(&folder, &names, &entries);
                entries
            }
            Err(SnapshotError::Damaged { path, offset, why }) => {
                if names.iter().any(|name| name == MANIFEST) {
                    tracing::error!(file = %path.display(), offset, why, "the manifest of the snapshots is damaged; it is made again from the snapshots");
                }
                // Until there is a manifest again nothing is removed.
                survey(&folder, &names)?
            }
            Err(other) => return Err(other),
        };
        let table = Arc::new(Mutex::new(ChainTable::new(&entries, every)));
        let (to_writer, saves) = channel();
        let writer = SnapshotWriter::new(folder.clone(), Arc::clone(&table), Arc::clone(&metrics));
        writer.publish();
        let thread = std::thread::Builder::new().name("snapshots".to_owned());
        let thread = thread.spawn(move || writer.run(&saves)).map_err(SnapshotError::Thread)?;
        let (to_writer, thread) = (Some(to_writer), Some(thread));
        Ok(Snapshots { inner: Arc::new(SnapshotsInner { folder, table, metrics, to_writer, thread }) })
    }

    /// The newest good snapshot of a shard, if there is one. One that is damaged is told, and counts no more.
    ///
    /// # Errors
    /// A file that cannot be read for another reason, or is of a version that is not known.
    pub fn load(&self, shard: usize) -> Result<Option<LoadedShard>, SnapshotError> {
        let candidates = self.table().newest(shard);
        for entry in candidates {
            match self.read(&entry) {
                Ok(loaded) => return Ok(Some(loaded)),
                Err(SnapshotError::Damaged { path, offset, why }) => {
                    tracing::error!(file = %path.display(), offset, why, "a snapshot of shard {shard} is damaged; the one before it is used, if there is one");
                    self.lose(shard, entry.chain);
                }
                Err(other) => return Err(other),
            }
        }
        Ok(None)
    }

    /// What was loaded makes no sense to the computation: it counts no more.
    pub fn refuse(&self, shard: usize, loaded: &LoadedShard, why: &str) {
        tracing::error!(
            why,
            "the snapshot of shard {shard} at epoch {} cannot be used; the one before it is used, if there is one",
            loaded.end.epoch
        );
        self.lose(shard, loaded.chain);
    }

    fn lose(&self, shard: usize, chain: usize) {
        self.inner.metrics.snapshots_damaged.inc();
        self.table().lose(shard, chain);
    }

    fn read(&self, entry: &ManifestEntry) -> Result<LoadedShard, SnapshotError> {
        let name = entry.state_name();
        let read = format::read_state(&self.inner.folder, &name)?;
        if (ManifestEntry { state_bytes: entry.state_bytes, ..read.entry }) != *entry {
            let path = self.inner.folder.path().join(name);
            let why = "it is not the one that the manifest lists".to_owned();
            return Err(SnapshotError::Damaged { path, offset: 0, why });
        }
        let sealed = format::read_sealed(&self.inner.folder, entry)?;
        Ok(LoadedShard {
            chain: entry.chain,
            end: read.end,
            settings: read.settings,
            state: read.state,
            sealed,
        })
    }

    /// The computation begins with this shard, which believes these epochs to be the last saves of its chains.
    pub fn begin(&self, shard: usize, saved: [Option<u64>; CHAINS]) {
        self.table().begin(shard, saved);
    }

    /// The save that is due now, as of the end of `epoch`, if one is; the caller has it made, and brings it to
    /// [`Snapshots::take`].
    pub fn next(&self, epoch: u64) -> Option<SaveRequest> {
        self.table().next(epoch, Instant::now())
    }

    /// Whether the journal is filling up, so that snapshots, behind which it is trimmed, are to come faster.
    pub fn hurry(&self, hurry: bool) {
        self.table().hurry(hurry);
    }

    /// Takes saves whose epochs the outbox holds durably. Never waits: what is asked for is bounded.
    pub fn take(&self, saves: Vec<ShardSnapshot>) {
        self.table().wait(saves.iter().map(ShardSnapshot::bytes).sum(), 0);
        if let Some(to_writer) = &self.inner.to_writer {
            // A writer that panicked was told of; nothing is trimmed any more.
            let _ = to_writer.send(saves);
        }
    }

    /// Whether nothing that was taken is still to be written.
    pub fn is_settled(&self) -> bool {
        self.table().is_settled()
    }

    /// The epoch up to which nobody needs the journal any more; `None` while some shard has not two snapshots.
    pub fn trim_epoch(&self) -> Option<u64> {
        self.table().trim_epoch()
    }

    /// The epoch of the newest snapshot of any shard.
    pub fn newest_epoch(&self) -> Option<u64> {
        self.table().entries().map(|entry| entry.epoch).max()
    }

    /// Snapshots made durable since the start, and those that failed.
    pub fn written(&self) -> u64 {
        self.inner.metrics.snapshots.get() + self.inner.metrics.snapshot_failures.get()
    }

    /// Bytes on disk.
    pub fn bytes(&self) -> u64 {
        self.table().bytes()
    }

    fn table(&self) -> MutexGuard<'_, ChainTable> {
        self.inner.table.lock()
    }
}

/// The chains that the files of states tell of.
fn survey(folder: &DiskFolder, names: &[String]) -> Result<Vec<ManifestEntry>, SnapshotError> {
    let mut found: Vec<ManifestEntry> = Vec::new();
    for name in names.iter().filter(|name| name.ends_with(".state")) {
        match format::read_state(folder, name) {
            Ok(state) if state.entry.state_name() == *name => found.push(state.entry),
            Ok(_) => {}
            Err(SnapshotError::Damaged { path, offset, why }) => {
                tracing::warn!(file = %path.display(), offset, why, "a snapshot is damaged");
            }
            Err(other) => return Err(other),
        }
    }
    // Of a chain the newest that has its sealed.
    found.sort_by_key(|entry| (entry.shard, entry.chain, std::cmp::Reverse(entry.epoch)));
    let mut whole: Vec<ManifestEntry> = Vec::new();
    for entry in found {
        let other = whole.last().is_none_or(|last| (last.shard, last.chain) != (entry.shard, entry.chain));
        if !other {
            continue;
        }
        match format::read_sealed(folder, &entry) {
            Ok(_) => whole.push(entry),
            Err(SnapshotError::Damaged { path, offset, why }) => {
                tracing::warn!(file = %path.display(), offset, why, "a snapshot is damaged");
            }
            Err(other) => return Err(other),
        }
    }
    Ok(whole)
}

/// Removes what a save that was cut short left behind, and what it was to replace.
fn remove_unlisted(folder: &DiskFolder, names: &[String], entries: &[ManifestEntry]) {
    let listed: std::collections::HashSet<String> =
        entries.iter().flat_map(|entry| [entry.state_name(), entry.sealed_name()]).collect();
    for name in names.iter().filter(|name| writer::is_ours(name) && !listed.contains(*name)) {
        if let Err(error) = folder.remove(name) {
            tracing::warn!(file = name, "a file that no snapshot needs cannot be removed: {error}");
        }
    }
}

#[cfg(test)]
mod tests;
