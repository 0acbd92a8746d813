//! The operating system's disk with a switch for each way to fail, for the unit tests of rooms above.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};

use super::{Disk, DiskDir, DiskFile, DiskFolder, Os};
use parking_lot::Mutex;

/// What fails from now on.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    /// No space: this many bytes more can be written, then a write is cut short there.
    room: Mutex<Option<u64>>,
    /// No space for a file either.
    pub(crate) no_create: AtomicBool,
    /// No file can be cut off.
    pub(crate) no_cut: AtomicBool,
    /// Syncs of files fail.
    pub(crate) no_sync: AtomicBool,
    /// No descriptor is to be had for a file or a folder.
    pub(crate) no_descriptor: AtomicBool,
    /// So many syncs succeed yet, then none.
    syncs_left: Mutex<Option<usize>>,
    /// Syncs of files that succeeded.
    pub(crate) syncs: AtomicUsize,
}

impl Faults {
    /// A folder of the operating system that fails as `self` says.
    pub(crate) fn folder(self: &Arc<Faults>, path: impl Into<PathBuf>) -> DiskFolder {
        DiskFolder::on(Arc::new(FailingDisk(Arc::clone(self))), path)
    }

    /// Lets so many syncs succeed yet.
    pub(crate) fn syncs_left(&self, syncs: usize) {
        *self.syncs_left.lock() = Some(syncs);
    }

    fn count_down(&self) {
        let mut left = self.syncs_left.lock();
        match left.as_mut() {
            Some(0) => {
                *left = None;
                self.no_sync.store(true, SeqCst);
            }
            Some(left) => *left -= 1,
            None => {}
        }
    }

    /// Bytes that can be written yet; `None` for any number.
    pub(crate) fn room(&self, bytes: Option<u64>) {
        *self.room.lock() = bytes;
    }
}

#[derive(Debug)]
struct FailingDisk(Arc<Faults>);

#[derive(Debug)]
struct FailingFile {
    file: Box<dyn DiskFile>,
    faults: Arc<Faults>,
}

fn full() -> io::Error {
    io::Error::from_raw_os_error(28)
}

impl Faults {
    fn descriptor(&self) -> io::Result<()> {
        if self.no_descriptor.load(SeqCst) { Err(io::Error::from_raw_os_error(24)) } else { Ok(()) }
    }
}

impl FailingDisk {
    fn file(&self, file: Box<dyn DiskFile>) -> Box<dyn DiskFile> {
        Box::new(FailingFile { file, faults: Arc::clone(&self.0) })
    }
}

impl Disk for FailingDisk {
    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        Os.list(dir)
    }

    fn make_dir(&self, dir: &Path) -> io::Result<()> {
        Os.make_dir(dir)
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        if self.0.no_create.load(SeqCst) {
            return Err(full());
        }
        self.0.descriptor()?;
        Ok(self.file(Os.create(path)?))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.0.descriptor()?;
        Ok(self.file(Os.open(path)?))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        Os.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        Os.remove(path)
    }

    fn open_dir(&self, dir: &Path) -> io::Result<Box<dyn DiskDir>> {
        self.0.descriptor()?;
        Os.open_dir(dir)
    }
}

impl DiskFile for FailingFile {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_at(buf, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut room = self.faults.room.lock();
        let Some(left) = room.as_mut() else { return self.file.write_at(bytes, offset) };
        let taken = bytes.len().min(usize::try_from(*left).unwrap());
        *left -= taken as u64;
        self.file.write_at(&bytes[..taken], offset)?;
        if taken < bytes.len() { Err(full()) } else { Ok(()) }
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        if self.faults.no_cut.load(SeqCst) {
            return Err(io::Error::from_raw_os_error(5));
        }
        self.file.set_len(len)
    }

    fn sync(&self) -> io::Result<()> {
        self.faults.count_down();
        if self.faults.no_sync.load(SeqCst) {
            return Err(io::Error::from_raw_os_error(5));
        }
        self.faults.syncs.fetch_add(1, SeqCst);
        self.file.sync()
    }
}
