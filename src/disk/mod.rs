//! What logs and snapshots need of a disk, and nothing more: files at offsets, names in folders, and when each is durable.
//!
//! Two implementations: [`Os`] here, and the simulated one of the tests, which loses what was not synced. So a method
//! says what is durable after it, and callers rely on that alone:
//! - bytes and length of a file after [`DiskFile::sync`],
//! - a name made, renamed or removed after [`DiskDir::sync`] of its folder; of these [`Disk::make_dir`] needs none.
//!
//! Not here: what is in the files, retrying, the store (SQLite brings its own).

mod os;
mod steps;

use std::fmt::Debug;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

pub use self::os::{Os, forget_cached, free_bytes, no_descriptor};
pub use self::steps::Step;

/// A disk with folders and files.
pub trait Disk: Send + Sync + Debug {
    /// The names in a folder, in any order.
    ///
    /// # Errors
    /// A folder that is not there or cannot be read.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;

    /// Makes a folder with those it is in, if they are not there; durable when it returns.
    ///
    /// # Errors
    /// Folders that cannot be made or synced.
    fn make_dir(&self, dir: &Path) -> io::Result<()>;

    /// Makes a file for reading and writing.
    ///
    /// # Errors
    /// `AlreadyExists` if there is one, or the disk's.
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;

    /// Opens a file for reading and writing.
    ///
    /// # Errors
    /// `NotFound` if there is none, or the disk's.
    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;

    /// Gives a file another name; one that had it is replaced, at once.
    ///
    /// # Errors
    /// The disk's.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Takes a file away. Who has it open can go on reading it.
    ///
    /// # Errors
    /// `NotFound` if there is none, or the disk's.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Opens a folder, to make durable which names it has.
    ///
    /// # Errors
    /// `NotFound` if there is none, or the disk's.
    fn open_dir(&self, dir: &Path) -> io::Result<Box<dyn DiskDir>>;
}

/// An open folder.
pub trait DiskDir: Send + Sync + Debug {
    /// Makes durable which names the folder has.
    ///
    /// # Errors
    /// The disk's.
    fn sync(&self) -> io::Result<()>;
}

/// An open file. All methods take `&self`: offsets are the callers' own.
#[expect(clippy::len_without_is_empty, reason = "nobody asks whether a file is empty")]
pub trait DiskFile: Send + Sync + Debug {
    /// Bytes in it.
    ///
    /// # Errors
    /// The disk's.
    fn len(&self) -> io::Result<u64>;

    /// Fills `buf` with what is at `offset`.
    ///
    /// # Errors
    /// `UnexpectedEof` if the file ends before, or the disk's.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()>;

    /// Writes all of `bytes` at `offset`, making the file longer if needed.
    ///
    /// # Errors
    /// The disk's; some of the bytes may have been written.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Cuts the file off, or makes it longer by zeros.
    ///
    /// # Errors
    /// The disk's.
    fn set_len(&self, len: u64) -> io::Result<()>;

    /// Makes bytes and length durable. What became of them after an error nobody knows, also after a later success.
    ///
    /// # Errors
    /// The disk's.
    fn sync(&self) -> io::Result<()>;
}

/// A folder on a disk; cheap to clone. A path alone means the operating system's.
#[derive(Clone, Debug)]
pub struct DiskFolder {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    /// Open since it was synced first, for all clones: a log that goes on must not depend on a descriptor to be had.
    open: Arc<OnceLock<Box<dyn DiskDir>>>,
}

impl DiskFolder {
    /// A folder of the operating system.
    pub fn new(path: impl Into<PathBuf>) -> DiskFolder {
        DiskFolder::on(Arc::new(Os), path)
    }

    /// A folder on another disk.
    pub fn on(disk: Arc<dyn Disk>, path: impl Into<PathBuf>) -> DiskFolder {
        DiskFolder { disk, path: path.into(), open: Arc::default() }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The folder of this name in it.
    #[must_use]
    pub fn join(&self, name: impl AsRef<Path>) -> DiskFolder {
        DiskFolder::on(Arc::clone(&self.disk), self.path.join(name))
    }

    /// See [`Disk::list`].
    ///
    /// # Errors
    /// As there.
    pub fn list(&self) -> io::Result<Vec<String>> {
        self.disk.list(&self.path)
    }

    /// See [`Disk::make_dir`].
    ///
    /// # Errors
    /// As there.
    pub fn make(&self) -> io::Result<()> {
        self.disk.make_dir(&self.path)
    }

    /// See [`Disk::create`].
    ///
    /// # Errors
    /// As there.
    pub fn create(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        self.disk.create(&self.path.join(name))
    }

    /// See [`Disk::open`].
    ///
    /// # Errors
    /// As there.
    pub fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        self.disk.open(&self.path.join(name))
    }

    /// See [`Disk::rename`]; both names are in this folder.
    ///
    /// # Errors
    /// As there.
    pub fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.disk.rename(&self.path.join(from), &self.path.join(to))
    }

    /// See [`Disk::remove`].
    ///
    /// # Errors
    /// As there.
    pub fn remove(&self, name: &str) -> io::Result<()> {
        self.disk.remove(&self.path.join(name))
    }

    /// See [`DiskDir::sync`]. The folder stays open from the first time on, so it must not be replaced by another of its
    /// name as long as this one, or a clone, is used.
    ///
    /// # Errors
    /// As there, and the first time as of [`Disk::open_dir`].
    pub fn sync(&self) -> io::Result<()> {
        match self.open.get() {
            Some(open) => open.sync(),
            None => {
                let open = self.disk.open_dir(&self.path)?;
                self.open.get_or_init(|| open).sync()
            }
        }
    }
}

impl From<&Path> for DiskFolder {
    fn from(path: &Path) -> DiskFolder {
        DiskFolder::new(path)
    }
}

impl From<PathBuf> for DiskFolder {
    fn from(path: PathBuf) -> DiskFolder {
        DiskFolder::new(path)
    }
}

impl From<&PathBuf> for DiskFolder {
    fn from(path: &PathBuf) -> DiskFolder {
        DiskFolder::new(path)
    }
}

impl From<&DiskFolder> for DiskFolder {
    fn from(folder: &DiskFolder) -> DiskFolder {
        folder.clone()
    }
}

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
