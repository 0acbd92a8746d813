//! The operating system's disk, and the end of the process at a step that the environment names: for tests that kill
//! a real process between two durable steps. With the feature `faults` only.
//!
//! `TIDEWATCH_CRASH_AT='write journal:3'` aborts it instead of the third write to a segment of the journal;
//! [`super::Step`] has the names.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::{Disk, DiskFile, Os, Step};

/// Where the process ends.
#[derive(Debug)]
struct Plan {
    step: String,
    /// Such steps that are taken before.
    left: AtomicU64,
}

impl Plan {
    fn reached(&self, step: Step, path: &Path) {
        let one_less = |left: u64| left.checked_sub(1);
        if step.name(path) == self.step && self.left.fetch_update(Relaxed, Relaxed, one_less).is_err() {
            eprintln!("ending at step '{}' as TIDEWATCH_CRASH_AT says", self.step);
            std::process::abort();
        }
    }
}

/// The disk that ends the process.
#[derive(Clone, Debug)]
pub struct Crashing(Arc<Plan>);

impl Crashing {
    /// What `TIDEWATCH_CRASH_AT` says; counted over the whole process. `None` if it says nothing.
    ///
    /// # Panics
    /// If it is no step and number, for the test that set it would test nothing.
    pub fn from_env() -> Option<Crashing> {
        static PLAN: std::sync::LazyLock<Option<Crashing>> = std::sync::LazyLock::new(|| {
            let text = std::env::var("TIDEWATCH_CRASH_AT").ok()?;
            let (step, n) = text.rsplit_once(':').expect("TIDEWATCH_CRASH_AT is <step>:<n>");
            let n: u64 = n.parse().expect("TIDEWATCH_CRASH_AT ends with a number");
            let left = AtomicU64::new(n.saturating_sub(1));
            Some(Crashing(Arc::new(Plan { step: step.to_owned(), left })))
        });
        PLAN.clone()
    }

    fn file(&self, file: Box<dyn DiskFile>, path: &Path) -> Box<dyn DiskFile> {
        Box::new(CrashingFile { file, path: path.to_owned(), plan: Arc::clone(&self.0) })
    }
}

impl Disk for Crashing {
    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        Os.list(dir)
    }

    fn make_dir(&self, dir: &Path) -> io::Result<()> {
        if !dir.is_dir() {
            self.0.reached(Step::MakeDir, dir);
        }
        Os.make_dir(dir)
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.0.reached(Step::Create, path);
        Ok(self.file(Os.create(path)?, path))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        Ok(self.file(Os.open(path)?, path))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.0.reached(Step::Rename, to);
        Os.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.0.reached(Step::Remove, path);
        Os.remove(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.0.reached(Step::SyncDir, dir);
        Os.sync_dir(dir)
    }
}

#[derive(Debug)]
struct CrashingFile {
    file: Box<dyn DiskFile>,
    path: PathBuf,
    plan: Arc<Plan>,
}

impl DiskFile for CrashingFile {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_at(buf, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.plan.reached(Step::Write, &self.path);
        self.file.write_at(bytes, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.plan.reached(Step::Cut, &self.path);
        self.file.set_len(len)
    }

    fn sync(&self) -> io::Result<()> {
        self.plan.reached(Step::Sync, &self.path);
        self.file.sync()
    }
}
