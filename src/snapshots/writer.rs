//! The thread that makes saves durable, in the order that [`super`] gives.

use std::cell::Cell;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};
use tidewatch_dataflows::snapshot::{SaveRequest, ShardSnapshot};

use super::format::{self, ManifestEntry};
use super::table::ChainTable;
use super::{MANIFEST, SnapshotError};
use crate::disk::{DiskFile, DiskFolder};
use crate::faults::mutant;
use crate::metrics::Metrics;

/// What is written aside ends so.
const ASIDE: &str = ".new";

/// Whether a file in the folder is one of ours that a manifest may name, or was written aside.
pub fn is_ours(name: &str) -> bool {
    name.ends_with(".state") || name.ends_with(".sealed") || name.ends_with(ASIDE)
}

/// How often is said that saves fail, while they do, and how long none fails before they do no more.
const LOG_EVERY: Duration = Duration::from_hours(1);
const QUIET: Duration = Duration::from_mins(1);

/// Saves that fail.
#[derive(Clone, Copy)]
struct FailedSaves {
    logged_at: Instant,
    last: Instant,
    /// So many since it was said.
    more: u64,
}

pub struct SnapshotWriter {
    folder: DiskFolder,
    table: Arc<Mutex<ChainTable>>,
    metrics: Arc<Metrics>,
    failing: Cell<Option<FailedSaves>>,
}

impl SnapshotWriter {
    pub fn new(folder: DiskFolder, table: Arc<Mutex<ChainTable>>, metrics: Arc<Metrics>) -> SnapshotWriter {
        SnapshotWriter { folder, table, metrics, failing: Cell::new(None) }
    }

    /// Writes what comes until nobody can send any more.
    pub fn run(&self, saves: &Receiver<Vec<ShardSnapshot>>) {
        while let Ok(some) = saves.recv() {
            if !some.is_empty() {
                self.write(&some);
                self.table().wait(0, some.iter().map(ShardSnapshot::bytes).sum());
            }
        }
    }

    /// Makes these durable, all of different chains, with one manifest.
    fn write(&self, saves: &[ShardSnapshot]) {
        let begun = Instant::now();
        let (mut written, mut bytes) = (Vec::new(), 0);
        for saved in saves {
            match self.files(saved) {
                Ok(entry) => {
                    bytes += saved.state.len() + saved.sealed.len();
                    written.push((saved.save, entry));
                }
                Err(error) => {
                    self.discard(saved.save, saved.end.epoch);
                    self.failed(saved.save, &error);
                }
            }
        }
        match self.list(&written) {
            Ok(()) => {
                if !written.is_empty() && self.failing.get().is_some_and(|f| f.last.elapsed() >= QUIET) {
                    self.failing.set(None);
                    tracing::info!("snapshots can be written again");
                }
                self.metrics.snapshots.inc_by(written.len() as u64);
                self.metrics.snapshot_bytes_written.inc_by(bytes as u64);
                self.metrics.snapshot_seconds.observe(begun.elapsed().as_secs_f64());
            }
            Err(error) => written.iter().for_each(|(save, _)| self.failed(*save, &error)),
        }
        self.publish();
    }

    /// Sets the gauges of what is durable.
    pub fn publish(&self) {
        let (on_disk, trim_epoch) = {
            let table = self.table();
            (table.bytes(), table.trim_epoch())
        };
        self.metrics.snapshot_bytes.set(i64::try_from(on_disk).unwrap_or(i64::MAX));
        self.metrics
            .snapshot_epoch
            .set(trim_epoch.map_or(0, |epoch| i64::try_from(epoch).unwrap_or(i64::MAX)));
    }

    fn failed(&self, save: SaveRequest, error: &SnapshotError) {
        // A folder that takes nothing fails every shard, some a second.
        let (now, before) = (Instant::now(), self.failing.get());
        let mut failing = before.unwrap_or(FailedSaves { logged_at: now, last: now, more: 0 });
        failing.last = now;
        if before.is_none() || now.duration_since(failing.logged_at) >= LOG_EVERY {
            tracing::warn!(
                "a snapshot of shard {} failed ({} others since this was said); each is made anew later, and logs are not trimmed meanwhile: {error}",
                save.shard,
                failing.more
            );
            (failing.logged_at, failing.more) = (now, 0);
        } else {
            failing.more += 1;
        }
        self.failing.set(Some(failing));
        self.metrics.snapshot_failures.inc();
        self.table().failed(save);
    }

    /// Makes sealed and state durable, but for the folder.
    fn files(&self, saved: &ShardSnapshot) -> Result<ManifestEntry, SnapshotError> {
        let SaveRequest { shard, chain, whole } = saved.save;
        let epoch = saved.end.epoch;
        let before = self.table().durable(shard, chain);
        let mut entry = match before.filter(|_| !whole) {
            Some(before) => ManifestEntry { epoch, ..before },
            None => ManifestEntry {
                shard,
                chain,
                epoch,
                begun: epoch,
                sealed_bytes: 0,
                whole_bytes: 0,
                state_bytes: 0,
            },
        };
        if before.is_none() && !whole {
            return Err(SnapshotError::Unfit("it continues a chain that is not there"));
        }
        // A later save of this chain, of an engine that has ended since: its sealed are not those that this one goes on from.
        if before.is_some_and(|before| before.epoch >= epoch) {
            return Err(SnapshotError::Unfit("the chain holds a later one"));
        }
        self.append_sealed(&mut entry, saved)?;
        let bytes = format::state(entry, &saved.end, &saved.settings, &saved.state);
        entry.state_bytes = bytes.len() as u64;
        if entry.state_bytes > format::FILE_BYTES_MAX || entry.sealed_bytes > format::FILE_BYTES_MAX {
            let too_large = io::Error::from(io::ErrorKind::FileTooLarge);
            return Err(self.io("write to", &entry.state_name())(too_large));
        }
        self.replace(&entry.state_name(), &bytes)?;
        Ok(entry)
    }

    fn append_sealed(&self, entry: &mut ManifestEntry, saved: &ShardSnapshot) -> Result<(), SnapshotError> {
        let name = entry.sealed_name();
        let io = |doing: &'static str| self.io(doing, &name);
        let too_large = || io("write to")(io::Error::from(io::ErrorKind::FileTooLarge));
        let block = format::block(&saved.sealed).ok_or_else(too_large)?;
        let file = if entry.sealed_bytes == 0 {
            let file = self.create(&name)?;
            let header = format::sealed_header(entry);
            file.write_at(&header, 0).map_err(io("write to"))?;
            entry.sealed_bytes = header.len() as u64;
            file
        } else {
            self.folder.open(&name).map_err(io("open"))?
        };
        file.write_at(&block, entry.sealed_bytes).map_err(io("write to"))?;
        entry.sealed_bytes += block.len() as u64;
        // One that was cut short may have left more behind it.
        file.set_len(entry.sealed_bytes).map_err(io("truncate"))?;
        file.sync().map_err(io("sync"))?;
        if entry.begun == entry.epoch {
            entry.whole_bytes = entry.sealed_bytes;
        }
        Ok(())
    }

    /// Removes what a save left that no manifest will list: else each try on a full disk would fill it further.
    fn discard(&self, SaveRequest { shard, chain, .. }: SaveRequest, epoch: u64) {
        let begun = ManifestEntry {
            shard,
            chain,
            epoch,
            begun: epoch,
            sealed_bytes: 0,
            whole_bytes: 0,
            state_bytes: 0,
        };
        let held = self.listed();
        let state = begun.state_name();
        for name in [format!("{state}{ASIDE}"), state, begun.sealed_name()] {
            if !held.contains(&name) {
                // What is not there was not made.
                let _ = self.folder.remove(&name);
            }
        }
    }

    /// The files that the manifest lists.
    fn listed(&self) -> Vec<String> {
        let table = self.table();
        table.entries().flat_map(|entry| [entry.state_name(), entry.sealed_name()]).collect()
    }

    /// Makes a new manifest durable with these in it, then removes what they replace.
    fn list(&self, written: &[(SaveRequest, ManifestEntry)]) -> Result<(), SnapshotError> {
        if written.is_empty() {
            return Ok(());
        }
        let replaced = self.replace_manifest(written).inspect_err(|_| {
            let _ = self.folder.remove(&format!("{MANIFEST}{ASIDE}"));
            written.iter().for_each(|(save, entry)| self.discard(*save, entry.epoch));
        })?;
        // From here on a start may find the new manifest: what it lists stays.
        self.sync_folder()?;
        let mut table = self.table();
        written.iter().for_each(|(_, entry)| table.done(*entry));
        drop(table);
        let held = self.listed();
        for old in replaced {
            for name in [old.state_name(), old.sealed_name()].iter().filter(|name| !held.contains(name)) {
                // A file that stays is removed at the next start.
                let _ = self.folder.remove(name);
            }
        }
        Ok(())
    }

    /// Puts a manifest with these in its place; what they replace. The folder is still to be synced.
    fn replace_manifest(
        &self,
        written: &[(SaveRequest, ManifestEntry)],
    ) -> Result<Vec<ManifestEntry>, SnapshotError> {
        self.sync_folder()?;
        let replaced: Vec<ManifestEntry> = {
            let table = self.table();
            written.iter().filter_map(|(save, _)| table.durable(save.shard, save.chain)).collect()
        };
        let kept = {
            let table = self.table();
            let kept = table.entries().filter(|entry| !replaced.contains(entry));
            kept.chain(written.iter().map(|(_, entry)| *entry)).collect::<Vec<_>>()
        };
        self.replace(MANIFEST, &format::manifest(kept.into_iter()))?;
        Ok(replaced)
    }

    /// Writes a file aside, syncs it, and puts it in its place; the folder is still to be synced.
    fn replace(&self, name: &str, bytes: &[u8]) -> Result<(), SnapshotError> {
        let aside = format!("{name}{ASIDE}");
        let file = self.create(&aside)?;
        file.write_at(bytes, 0).map_err(self.io("write to", &aside))?;
        if !mutant(9) {
            file.sync().map_err(self.io("sync", &aside))?;
        }
        self.folder.rename(&aside, name).map_err(self.io("rename", &aside))
    }

    /// Makes a file; what one that failed left behind is removed first.
    fn create(&self, name: &str) -> Result<Box<dyn DiskFile>, SnapshotError> {
        match self.folder.create(name) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                self.folder.remove(name).map_err(self.io("remove", name))?;
                self.folder.create(name).map_err(self.io("create", name))
            }
            other => other.map_err(self.io("create", name)),
        }
    }

    fn sync_folder(&self) -> Result<(), SnapshotError> {
        self.folder.sync().map_err(self.io("sync the folder", ""))
    }

    fn io(&self, doing: &'static str, name: &str) -> impl Fn(io::Error) -> SnapshotError + use<> {
        let path = self.folder.path().join(name);
        move |source| SnapshotError::Io { doing, path: path.clone(), source }
    }

    fn table(&self) -> MutexGuard<'_, ChainTable> {
        self.table.lock()
    }
}
