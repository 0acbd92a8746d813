//! A folder on a disk: what rooms are handed to keep their files in.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use super::os::Os;
use super::{Disk, DiskDir, DiskFile};

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
