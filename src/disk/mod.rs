//! What logs and snapshots need of a disk, and nothing more: files at offsets, names in folders, and when each is durable.
//!
//! Two implementations: [`Os`] here, and the simulated one of the tests, which loses what was not synced. So a method
//! says what is durable after it, and callers rely on that alone:
//! - bytes and length of a file after [`DiskFile::sync`],
//! - a name made, renamed or removed after [`DiskDir::sync`] of its folder; of these [`Disk::make_dir`] needs none.
//!
//! Not here: what is in the files, retrying, the store (SQLite brings its own).

mod folder;
mod os;
mod steps;

use std::fmt::Debug;
use std::io;
use std::path::Path;

pub use self::folder::DiskFolder;
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

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
