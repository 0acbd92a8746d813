//! A disk in memory that keeps to the words of `tidewatch::disk` and to not one more: what was not synced may be lost,
//! whole or in part, in any order, when the power goes.
//!
//! Each change and each sync is a *step* with a number and a name; a [`Trouble`] says at which of them what goes wrong.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

use tidewatch::disk::{Disk, DiskDir, DiskFile, DiskFolder, Step};
use tidewatch::segments::HEADER_BYTES;

/// What a disk writes at once, or not at all.
const SECTOR: usize = 512;
/// Steps that are kept for the one who reads why a law was broken.
const STEPS_SHOWN: usize = 24;
const ENOSPC: i32 = 28;
const EIO: i32 = 5;

/// Which step.
#[derive(Clone, Debug)]
pub enum At {
    Number(u64),
    Named(String, u64),
}

/// How much of the step at which everything ends is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Done {
    Nothing,
    Half,
    All,
}

/// What goes wrong.
#[derive(Clone, Debug, Default)]
pub enum Trouble {
    #[default]
    None,
    /// From this step on nothing works any more.
    Death { at: At, done: Done },
    /// From this step on so many steps that need room find none.
    Full { at: At, times: u32 },
    /// From this step on so many syncs fail.
    NoSync { at: At, times: u32 },
    /// From this step on so many steps of any kind fail.
    Errors { at: At, times: u32 },
}

/// A change to a file that is not durable yet.
#[derive(Clone, Debug)]
pub enum Change {
    Write(usize, Vec<u8>),
    Length(usize),
}

impl Change {
    fn apply(&self, content: &mut Vec<u8>) {
        match self {
            Change::Write(at, bytes) => {
                content.resize(content.len().max(at + bytes.len()), 0);
                content[*at..at + bytes.len()].copy_from_slice(bytes);
            }
            Change::Length(length) => content.resize(*length, 0),
        }
    }
}

/// A file: what of it is durable, and what a process sees.
#[derive(Debug, Default)]
pub struct File {
    durable: Vec<u8>,
    pub now: Vec<u8>,
    pub unsynced: Vec<Change>,
}

impl File {
    pub fn change(&mut self, change: Change) {
        change.apply(&mut self.now);
        self.unsynced.push(change);
    }

    /// Makes the first `n` changes durable.
    pub fn settle(&mut self, n: usize) {
        for change in self.unsynced.drain(..n.min(self.unsynced.len())) {
            change.apply(&mut self.durable);
        }
    }

    /// What is left of it after a power cut.
    pub fn survive(&mut self, mood: Mood, rng: &mut fastrand::Rng) {
        for change in std::mem::take(&mut self.unsynced) {
            match (mood.keeps(rng), change) {
                (Kept::Whole, change) => change.apply(&mut self.durable),
                (Kept::Torn, Change::Write(at, bytes)) => tear(at, &bytes, rng, &mut self.durable),
                (Kept::Torn | Kept::Not, _) => {}
            }
        }
        self.now.clone_from(&self.durable);
    }
}

/// Lets a part of a write through: the first bytes of it, or some of the sectors it touches.
fn tear(at: usize, bytes: &[u8], rng: &mut fastrand::Rng, content: &mut Vec<u8>) {
    if rng.bool() {
        Change::Write(at, bytes[..rng.usize(0..=bytes.len())].to_vec()).apply(content);
        return;
    }
    let (mut from, end) = (at, at + bytes.len());
    // The length may have become durable though the data has not: zeros.
    if rng.bool() {
        content.resize(content.len().max(end), 0);
    }
    while from < end {
        let to = ((from / SECTOR + 1) * SECTOR).min(end);
        if rng.bool() {
            Change::Write(from, bytes[from - at..to - at].to_vec()).apply(content);
        }
        from = to;
    }
}

/// How a power cut treats what was not synced.
#[derive(Clone, Copy, Debug)]
pub enum Mood {
    LosesAll,
    KeepsAll,
    Mixed,
}

enum Kept {
    Whole,
    Torn,
    Not,
}

impl Mood {
    pub fn of(rng: &mut fastrand::Rng) -> Mood {
        [Mood::LosesAll, Mood::KeepsAll, Mood::Mixed, Mood::Mixed][rng.usize(0..4)]
    }

    fn keeps(self, rng: &mut fastrand::Rng) -> Kept {
        match (self, rng.u8(0..3)) {
            (Mood::KeepsAll, _) | (Mood::Mixed, 0) => Kept::Whole,
            (Mood::Mixed, 1) => Kept::Torn,
            (Mood::LosesAll, _) | (Mood::Mixed, _) => Kept::Not,
        }
    }
}

/// A change to a folder that is not durable yet.
#[derive(Clone, Debug)]
pub enum Entry {
    Link(String, usize),
    Rename(String, String, usize),
    Unlink(String),
}

impl Entry {
    fn apply(&self, names: &mut Names) {
        match self {
            Entry::Link(name, file) => {
                names.insert(name.clone(), *file);
            }
            Entry::Rename(from, to, file) => {
                names.remove(from);
                names.insert(to.clone(), *file);
            }
            Entry::Unlink(name) => {
                names.remove(name);
            }
        }
    }
}

pub type Names = BTreeMap<String, usize>;

/// The names in a folder.
#[derive(Debug, Default)]
pub struct Dir {
    durable: Names,
    pub now: Names,
    pub unsynced: Vec<Entry>,
}

impl Dir {
    pub fn change(&mut self, entry: Entry) {
        entry.apply(&mut self.now);
        self.unsynced.push(entry);
    }

    /// Makes the first `n` changes durable.
    pub fn settle(&mut self, n: usize) {
        for entry in self.unsynced.drain(..n) {
            entry.apply(&mut self.durable);
        }
    }

    /// Any of the first changes, or any changes at all, may have come to the disk.
    pub fn survive(&mut self, mood: Mood, rng: &mut fastrand::Rng) {
        let first = matches!(mood, Mood::Mixed) && rng.bool();
        let n = if first { rng.usize(0..=self.unsynced.len()) } else { self.unsynced.len() };
        for entry in self.unsynced.drain(..).take(n) {
            if first || matches!(mood, Mood::KeepsAll) || (matches!(mood, Mood::Mixed) && rng.bool()) {
                entry.apply(&mut self.durable);
            }
        }
        self.now.clone_from(&self.durable);
    }
}

/// Looks at the disk after each step that changed it; what it says against it ends the run.
pub trait Watch: Send {
    /// What was just written, though nothing of it is synced, may survive: what must hold then.
    fn written(&mut self, look: &Look<'_>, folder: &str, file: &[u8]) -> Result<(), String>;

    /// Something became durable in this folder: `names`, or bytes of a file.
    fn settled(&mut self, look: &Look<'_>, folder: &str, names: bool) -> Result<(), String>;

    /// A file with this content is to be removed.
    fn removed(&mut self, look: &Look<'_>, folder: &str, content: &[u8]) -> Result<(), String>;
}

/// What is durable.
pub struct Look<'a>(&'a State);

impl Look<'_> {
    /// The durable files of a folder, by name.
    pub fn files(&self, folder: &str) -> impl Iterator<Item = (&str, &[u8])> {
        let dirs = self.0.dirs.iter().filter(move |(path, _)| path.ends_with(folder));
        dirs.flat_map(|(_, dir)| &dir.durable)
            .map(|(name, file)| (name.as_str(), self.0.files[*file].durable.as_slice()))
    }
}

#[derive(Default)]
struct State {
    files: Vec<File>,
    dirs: BTreeMap<PathBuf, Dir>,
    /// Files that were removed, as they were: what trimming takes away is needed for comparing.
    removed: BTreeMap<PathBuf, Vec<u8>>,
    /// Processes so far; the handles of an earlier one work no more.
    process: u64,
    dead: bool,
    steps: u64,
    names: BTreeMap<String, u64>,
    recent: VecDeque<String>,
    trouble: Trouble,
    /// Times that trouble strikes yet, once it has begun.
    strikes: Option<u32>,
    struck: u32,
    slow: Option<fastrand::Rng>,
    watch: Option<Box<dyn Watch>>,
    broken: Option<String>,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} steps, {:?}", self.steps, self.trouble)
    }
}

/// What is to become of a step.
enum Fate {
    Done,
    /// It fails, having done a part if it is a write.
    Fails(i32),
    Dies(Done),
}

impl State {
    /// Counts a step and says what becomes of it. `room`: it needs room; `sync`: it is one.
    fn step(&mut self, process: u64, step: Step, path: &Path) -> io::Result<Fate> {
        self.alive(process)?;
        let name = step.name(path);
        let number = self.steps;
        self.steps += 1;
        let n = self.names.entry(name.clone()).or_default();
        let nth = *n;
        *n += 1;
        if self.recent.len() == STEPS_SHOWN {
            self.recent.pop_front();
        }
        self.recent.push_back(format!("{number} {name}"));
        let reached = |at: &At| match at {
            At::Number(at) => number >= *at,
            At::Named(at, n) => *at == name && nth >= *n,
        };
        let concerns = match &self.trouble {
            Trouble::None => return Ok(Fate::Done),
            Trouble::Death { at, done } => {
                let done = *done;
                let dies = reached(at);
                return Ok(if dies { Fate::Dies(done) } else { Fate::Done });
            }
            Trouble::Full { at, times } => {
                let needs_room = matches!(step, Step::Write | Step::Create | Step::MakeDir);
                (needs_room && (self.strikes.is_some() || reached(at)), *times, ENOSPC)
            }
            Trouble::NoSync { at, times } => {
                let syncs = matches!(step, Step::Sync | Step::SyncDir);
                (syncs && (self.strikes.is_some() || reached(at)), *times, EIO)
            }
            Trouble::Errors { at, times } => (self.strikes.is_some() || reached(at), *times, EIO),
        };
        let (true, times, errno) = concerns else { return Ok(Fate::Done) };
        let left = self.strikes.get_or_insert(times);
        if *left == 0 {
            return Ok(Fate::Done);
        }
        *left -= 1;
        self.struck += 1;
        Ok(Fate::Fails(errno))
    }

    fn alive(&self, process: u64) -> io::Result<()> {
        if self.dead || process != self.process {
            return Err(off());
        }
        Ok(())
    }

    fn dir(&mut self, path: &Path) -> io::Result<&mut Dir> {
        self.dirs.get_mut(path).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn in_dir(&mut self, path: &Path) -> io::Result<(&mut Dir, String)> {
        let name = path.file_name().expect("a file has a name").to_str().expect("and it is text").to_owned();
        Ok((self.dir(path.parent().expect("and a folder"))?, name))
    }

    fn watched(&mut self, see: impl FnOnce(&mut dyn Watch, &Look<'_>) -> Result<(), String>) {
        let Some(mut watch) = self.watch.take() else { return };
        if self.broken.is_none()
            && let Err(why) = see(watch.as_mut(), &Look(self))
        {
            self.broken = Some(format!("{why}\nsteps: {}", Vec::from(self.recent.clone()).join(", ")));
            // Nothing that comes after is worth looking at.
            self.dead = true;
        }
        self.watch = Some(watch);
    }

    fn settled(&mut self, folder: &Path, names: bool) {
        let folder = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        self.watched(|watch, look| watch.settled(look, &folder, names));
    }
}

fn off() -> io::Error {
    io::Error::other("the machine is off")
}

/// The disk; what a process sees of it is a [`SimDisk::process`].
#[derive(Clone, Debug, Default)]
pub struct SimDisk {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    died: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Does a step that takes no time: `change` when it happens, `half` when it is cut short in its middle.
    fn step<T>(
        &self,
        process: u64,
        step: Step,
        path: &Path,
        half: impl FnOnce(&mut State),
        change: impl FnOnce(&mut State) -> io::Result<T>,
    ) -> io::Result<T> {
        let mut state = self.lock();
        let result = match state.step(process, step, path)? {
            Fate::Done => change(&mut state),
            Fate::Fails(errno) => {
                half(&mut state);
                Err(io::Error::from_raw_os_error(errno))
            }
            Fate::Dies(done) => {
                match done {
                    Done::Nothing => {}
                    Done::Half => half(&mut state),
                    Done::All => drop(change(&mut state)),
                }
                state.dead = true;
                Err(off())
            }
        };
        if state.dead {
            self.died.notify_all();
        }
        result
    }
}

impl SimDisk {
    /// A disk on which nothing goes wrong by itself.
    pub fn new() -> SimDisk {
        SimDisk::default()
    }

    /// Has `watch` look at every change from now on.
    pub fn watch(&self, watch: Box<dyn Watch>) {
        self.shared.lock().watch = Some(watch);
    }

    /// Syncs take a while, so that who does not wait for one is seen.
    pub fn slow(&self, seed: u64) {
        self.shared.lock().slow = Some(fastrand::Rng::with_seed(seed));
    }

    /// A new process sees the disk; steps are counted anew, and `trouble` waits for it.
    pub fn process(&self, trouble: Trouble) -> DiskFolder {
        let mut state = self.shared.lock();
        state.process += 1;
        (state.dead, state.strikes, state.struck, state.steps) = (false, None, 0, 0);
        state.names.clear();
        state.recent.clear();
        state.trouble = trouble;
        let process = Process { shared: Arc::clone(&self.shared), number: state.process };
        DiskFolder::on(Arc::new(process), "/data")
    }

    /// The process ends as by kill -9: what it wrote is there for the next one, and as little durable as before.
    pub fn kill(&self) {
        self.shared.lock().dead = true;
        self.shared.died.notify_all();
    }

    /// The power goes: what was not synced is lost, kept or torn.
    pub fn cut_power(&self, rng: &mut fastrand::Rng) {
        let mut state = self.shared.lock();
        state.dead = true;
        let (files, dirs) = (Mood::of(rng), Mood::of(rng));
        state.files.iter_mut().for_each(|file| file.survive(files, rng));
        state.dirs.values_mut().for_each(|dir| dir.survive(dirs, rng));
    }

    /// Waits until nothing has come to the disk for a moment.
    pub fn quiet(&self) {
        let steps = || self.shared.lock().steps;
        let mut before = steps();
        loop {
            std::thread::sleep(Duration::from_millis(2));
            let now = steps();
            if now == before {
                return;
            }
            before = now;
        }
    }

    /// Whether the process has ended.
    pub fn dead(&self) -> bool {
        self.shared.lock().dead
    }

    /// How often trouble has struck this process.
    pub fn struck(&self) -> u32 {
        self.shared.lock().struck
    }

    /// The law that a watch found broken.
    pub fn broken(&self) -> Option<String> {
        self.shared.lock().broken.clone()
    }

    /// How often this process has done which step.
    pub fn steps(&self) -> BTreeMap<String, u64> {
        self.shared.lock().names.clone()
    }

    /// The files of a folder as a process would see them, by name; also those that were removed, if `removed`.
    pub fn files(&self, folder: &str, removed: bool) -> BTreeMap<String, Vec<u8>> {
        let state = self.shared.lock();
        let mut files = BTreeMap::new();
        let gone = state.removed.iter().filter(|_| removed);
        for (path, content) in gone.filter(|(path, _)| path.parent().unwrap().ends_with(folder)) {
            files.insert(path.file_name().unwrap().to_string_lossy().into_owned(), content.clone());
        }
        for (_, dir) in state.dirs.iter().filter(|(path, _)| path.ends_with(folder)) {
            files.extend(dir.now.iter().map(|(name, file)| (name.clone(), state.files[*file].now.clone())));
        }
        files
    }

    /// A disk with the same files, all of them durable.
    pub fn copy(&self) -> SimDisk {
        let copy = SimDisk::new();
        {
            let (from, mut to) = (self.shared.lock(), copy.shared.lock());
            to.removed.clone_from(&from.removed);
            for (path, dir) in &from.dirs {
                let mut copied = Dir::default();
                for (name, file) in &dir.now {
                    let content = from.files[*file].now.clone();
                    to.files.push(File { durable: content.clone(), now: content, unsynced: Vec::new() });
                    copied.now.insert(name.clone(), to.files.len() - 1);
                }
                copied.durable.clone_from(&copied.now);
                to.dirs.insert(path.clone(), copied);
            }
        }
        copy
    }

    /// Changes a file behind everyone's back.
    pub fn damage(&self, folder: &str, name: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let mut state = self.shared.lock();
        let dir = state.dirs.iter().find(|(path, _)| path.ends_with(folder)).expect("the folder is there").1;
        let file = dir.now[name];
        let file = &mut state.files[file];
        change(&mut file.now);
        file.durable.clone_from(&file.now);
        file.unsynced.clear();
    }

    /// Puts a file there, durable.
    pub fn put(&self, folder: &str, name: &str, content: Vec<u8>) {
        let mut state = self.shared.lock();
        state.files.push(File { durable: content.clone(), now: content, unsynced: Vec::new() });
        let file = state.files.len() - 1;
        let dir = state.dirs.entry(Path::new("/data").join(folder)).or_default();
        dir.now.insert(name.to_owned(), file);
        dir.durable.insert(name.to_owned(), file);
    }
}

/// The disk as one process sees it.
#[derive(Debug)]
struct Process {
    shared: Arc<Shared>,
    number: u64,
}

impl Process {
    fn handle(&self, file: usize, path: &Path) -> Box<dyn DiskFile> {
        Box::new(Handle {
            shared: Arc::clone(&self.shared),
            process: self.number,
            file,
            path: path.to_owned(),
        })
    }

    fn step<T>(
        &self,
        step: Step,
        path: &Path,
        change: impl FnOnce(&mut State) -> io::Result<T>,
    ) -> io::Result<T> {
        self.shared.step(self.number, step, path, |_| {}, change)
    }
}

impl Disk for Process {
    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let mut state = self.shared.lock();
        state.alive(self.number)?;
        Ok(state.dir(dir)?.now.keys().cloned().collect())
    }

    fn make_dir(&self, dir: &Path) -> io::Result<()> {
        if self.shared.lock().dirs.contains_key(dir) {
            return self.shared.lock().alive(self.number);
        }
        self.step(Step::MakeDir, dir, |state| {
            for dir in dir.ancestors() {
                state.dirs.entry(dir.to_owned()).or_default();
            }
            Ok(())
        })
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let file = self.step(Step::Create, path, |state| {
            let file = state.files.len();
            let (dir, name) = state.in_dir(path)?;
            if dir.now.contains_key(&name) {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            dir.change(Entry::Link(name, file));
            state.files.push(File::default());
            Ok(file)
        })?;
        Ok(self.handle(file, path))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let mut state = self.shared.lock();
        state.alive(self.number)?;
        let (dir, name) = state.in_dir(path)?;
        let file = *dir.now.get(&name).ok_or(io::ErrorKind::NotFound)?;
        Ok(self.handle(file, path))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        assert_eq!(from.parent(), to.parent(), "folders are not crossed");
        self.step(Step::Rename, to, |state| {
            let (dir, old) = state.in_dir(from)?;
            let file = *dir.now.get(&old).ok_or(io::ErrorKind::NotFound)?;
            let (dir, new) = state.in_dir(to)?;
            dir.change(Entry::Rename(old, new, file));
            Ok(())
        })
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.step(Step::Remove, path, |state| {
            let (dir, name) = state.in_dir(path)?;
            let file = *dir.now.get(&name).ok_or(io::ErrorKind::NotFound)?;
            dir.change(Entry::Unlink(name));
            let content = state.files[file].now.clone();
            let folder = path.parent().and_then(Path::file_name).unwrap_or_default().to_string_lossy();
            state.watched(|watch, look| watch.removed(look, &folder, &content));
            // A segment that could not be begun was never part of a log, which goes on in the one before.
            if content.len() as u64 >= HEADER_BYTES {
                state.removed.insert(path.to_owned(), content);
            }
            Ok(())
        })
    }

    fn open_dir(&self, dir: &Path) -> io::Result<Box<dyn DiskDir>> {
        let mut state = self.shared.lock();
        state.alive(self.number)?;
        state.dir(dir)?;
        Ok(Box::new(OpenDir { shared: Arc::clone(&self.shared), process: self.number, path: dir.to_owned() }))
    }
}

#[derive(Debug)]
struct OpenDir {
    shared: Arc<Shared>,
    process: u64,
    path: PathBuf,
}

impl DiskDir for OpenDir {
    fn sync(&self) -> io::Result<()> {
        let settle = |state: &mut State, part: usize| {
            let held = state.dir(&self.path)?;
            held.settle(held.unsynced.len() / part);
            state.settled(&self.path, true);
            Ok(())
        };
        self.shared.step(
            self.process,
            Step::SyncDir,
            &self.path,
            |state| drop(settle(state, 2)),
            |state| settle(state, 1),
        )
    }
}

#[derive(Debug)]
struct Handle {
    shared: Arc<Shared>,
    process: u64,
    file: usize,
    path: PathBuf,
}

impl Handle {
    fn change(&self, state: &mut State, change: Change) {
        state.files[self.file].change(change);
        let folder = self.path.parent().and_then(Path::file_name).unwrap_or_default();
        let folder = folder.to_string_lossy().into_owned();
        let now = std::mem::take(&mut state.files[self.file].now);
        state.watched(|watch, look| watch.written(look, &folder, &now));
        state.files[self.file].now = now;
    }
}

impl DiskFile for Handle {
    fn len(&self) -> io::Result<u64> {
        let state = self.shared.lock();
        state.alive(self.process)?;
        Ok(state.files[self.file].now.len() as u64)
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let state = self.shared.lock();
        state.alive(self.process)?;
        let from = usize::try_from(offset).unwrap();
        let held = state.files[self.file].now.get(from..from + buf.len());
        buf.copy_from_slice(held.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let at = usize::try_from(offset).unwrap();
        self.shared.step(
            self.process,
            Step::Write,
            &self.path,
            |state| self.change(state, Change::Write(at, bytes[..bytes.len() / 2].to_vec())),
            |state| {
                self.change(state, Change::Write(at, bytes.to_vec()));
                Ok(())
            },
        )
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let length = usize::try_from(len).unwrap();
        self.shared.step(
            self.process,
            Step::Cut,
            &self.path,
            |_| {},
            |state| {
                self.change(state, Change::Length(length));
                Ok(())
            },
        )
    }

    fn sync(&self) -> io::Result<()> {
        // What is written while it goes on is for the next one.
        let (held, pause) = {
            let mut state = self.shared.lock();
            state.alive(self.process)?;
            let pause = state.slow.as_mut().map(|rng| rng.u64(0..400));
            (state.files[self.file].unsynced.len(), pause)
        };
        if let Some(pause) = pause.filter(|pause| *pause > 0) {
            std::thread::sleep(Duration::from_micros(pause));
        }
        let settle = |state: &mut State, n: usize| {
            state.files[self.file].settle(n);
            state.settled(self.path.parent().expect("a file is in a folder"), false);
        };
        self.shared.step(
            self.process,
            Step::Sync,
            &self.path,
            |state| settle(state, held / 2),
            |state| {
                settle(state, held);
                Ok(())
            },
        )
    }
}
