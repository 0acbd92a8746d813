//! Power cuts of a real process: every write, sync and change of a name that it makes, the store's included, is traced,
//! and images of the disk are made from that for moments in between: what was synced is there, of the rest anything.
//! A start from each image holds all that was acknowledged by then, and the rows that its journal gives.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::crashes::{any_settings, config, rerun};
use crate::kill_and_rerun::{Sender, value};
use crate::simulated::disk::{Change, Dir, Entry, File, Mood};
use crate::support::process::Tidewatch;
use crate::support::{Folder, server, stored};

use tidewatch_dataflows::sample::Samples;
use tidewatch_dataflows::settings::Settings;

const CALLS: &str = "trace=openat,write,writev,sendto,sendmsg,pwrite64,pwritev,ftruncate,fsync,fdatasync,rename,renameat,\
                     renameat2,unlink,unlinkat";

/// A call, as the trace has it: when it begins and when it has ended.
#[derive(Debug)]
enum Event {
    Begin { pid: u32, call: Call },
    End { pid: u32, ok: bool },
}

/// What changes a disk, makes a change durable, or tells a sender that it is.
#[derive(Clone, Debug)]
enum Call {
    Open {
        path: PathBuf,
        create: bool,
        truncate: bool,
    },
    /// Without an offset it goes to the end.
    Write {
        path: PathBuf,
        offset: Option<usize>,
        bytes: Vec<u8>,
    },
    Length {
        path: PathBuf,
        length: usize,
    },
    Sync {
        path: PathBuf,
    },
    Rename {
        from: PathBuf,
        to: PathBuf,
    },
    Unlink {
        path: PathBuf,
    },
    Acknowledge,
    Other,
}

/// The arguments of a call in a trace: strings in quotes and paths of descriptors in angle brackets, all in hexadecimal.
struct Arguments<'a>(&'a str);

impl<'a> Arguments<'a> {
    /// The next argument; strings come without their quotes.
    fn next(&mut self) -> &'a str {
        let rest = self.0.trim_start_matches([',', ' ']);
        if let Some(text) = rest.strip_prefix('"') {
            let (text, after) = text.split_once('"').expect("a string ends");
            self.0 = after;
            return text;
        }
        // Lists of buffers stay whole.
        let end = if rest.starts_with('[') { rest.find(']').map(|end| end + 1) } else { rest.find(", ") };
        let (argument, after) = rest.split_at(end.unwrap_or(rest.len()));
        self.0 = after;
        argument
    }

    fn bytes(&mut self) -> Vec<u8> {
        unescape(self.next())
    }

    fn path(&mut self) -> PathBuf {
        PathBuf::from(String::from_utf8(self.bytes()).unwrap())
    }

    /// The path of a descriptor; nothing for what is no file.
    fn descriptor(&mut self) -> PathBuf {
        let argument = self.next();
        let path = argument.split_once('<').map_or("", |(_, path)| path.trim_end_matches('>'));
        PathBuf::from(String::from_utf8_lossy(&unescape(path)).trim_end_matches(" (deleted)"))
    }

    fn number(&mut self) -> usize {
        let argument = self.next();
        argument.parse().unwrap_or_else(|_| panic!("{argument} is no number"))
    }
}

fn unescape(text: &str) -> Vec<u8> {
    text.split("\\x").skip(1).map(|digits| u8::from_str_radix(&digits[..2], 16).unwrap()).collect()
}

fn call(name: &str, arguments: &str) -> Call {
    let mut arguments = Arguments(arguments);
    match name {
        "openat" => {
            let at = arguments.descriptor();
            let path = at.join(arguments.path());
            let flags = arguments.next();
            Call::Open { path, create: flags.contains("O_CREAT"), truncate: flags.contains("O_TRUNC") }
        }
        "pwrite64" => {
            let (path, bytes, length) = (arguments.descriptor(), arguments.bytes(), arguments.number());
            assert_eq!(bytes.len(), length, "the trace holds a part of a write only");
            Call::Write { path, offset: Some(arguments.number()), bytes }
        }
        "write" | "sendto" | "sendmsg" | "writev" => {
            let answer: String = "HTTP/1.1 204".bytes().map(|byte| format!("\\x{byte:02x}")).collect();
            if arguments.0.contains(&answer) {
                return Call::Acknowledge;
            }
            let path = arguments.descriptor();
            if name == "write" {
                Call::Write { path, offset: None, bytes: arguments.bytes() }
            } else {
                Call::Other
            }
        }
        "ftruncate" => Call::Length { path: arguments.descriptor(), length: arguments.number() },
        "fsync" | "fdatasync" => Call::Sync { path: arguments.descriptor() },
        "rename" => Call::Rename { from: arguments.path(), to: arguments.path() },
        "unlink" => Call::Unlink { path: arguments.path() },
        // Of a thread that ends at that moment.
        "???" => Call::Other,
        other => panic!("nobody expected the call {other} of {}", arguments.0),
    }
}

/// The calls of a trace in their order.
fn events(trace: &str) -> Vec<Event> {
    let mut events = Vec::new();
    for line in trace.lines() {
        let (pid, rest) = line.split_once(' ').expect("a line begins with the thread");
        let (pid, rest) = (pid.parse().unwrap(), rest.trim_start());
        let ok = |rest: &str| !rest.rsplit_once(" = ").is_some_and(|(_, result)| result.starts_with('-'));
        if rest.starts_with("<...") {
            events.push(Event::End { pid, ok: ok(rest) });
        } else if let Some((name, arguments)) = rest.split_once('(') {
            let ended = arguments.rsplit_once(") ").map(|(arguments, _)| arguments);
            // Of a thread that ended in a call, the trace says that it was left there.
            let begun = [" <unfinished ...>", " <detached ...>"]
                .iter()
                .find_map(|suffix| arguments.strip_suffix(suffix));
            let Some(known) = begun.or(ended) else { panic!("a line of the trace makes no sense: {rest}") };
            events.push(Event::Begin { pid, call: call(name, known) });
            if begun.is_none() {
                events.push(Event::End { pid, ok: ok(rest) });
            }
        }
    }
    events
}

/// Files and folders as far as a trace goes, each with what of it is durable.
#[derive(Default)]
struct Machine {
    root: PathBuf,
    files: Vec<File>,
    dirs: BTreeMap<PathBuf, Dir>,
    /// Changes of files and folders that became durable so far; a sync covers what was there when it began.
    settled: HashMap<Place, usize>,
    waiting: HashMap<u32, (Place, usize)>,
    acknowledged: usize,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Place {
    File(usize),
    Dir(PathBuf),
}

impl Machine {
    fn new(root: &Path) -> Machine {
        Machine { root: root.to_owned(), ..Machine::default() }
    }

    fn see(&mut self, event: &Event) {
        match event {
            Event::Begin { pid, call } => {
                self.waiting.remove(pid);
                self.begin(*pid, call);
            }
            Event::End { pid, ok } => {
                if let Some((place, upto)) = self.waiting.remove(pid).filter(|_| *ok) {
                    self.settle(place, upto);
                }
            }
        }
    }

    fn begin(&mut self, pid: u32, call: &Call) {
        match call {
            Call::Open { path, create, truncate } => {
                let Some((dir, name)) = self.name(path).filter(|_| *create || *truncate) else { return };
                let held = self.dirs.entry(dir.clone()).or_default().now.get(&name).copied();
                if let Some(file) = held.filter(|_| *truncate) {
                    self.files[file].change(Change::Length(0));
                }
                if held.is_none() && *create {
                    self.files.push(File::default());
                    let file = self.files.len() - 1;
                    self.dirs.entry(dir).or_default().change(Entry::Link(name, file));
                }
            }
            Call::Write { path, offset, bytes } => {
                let Some(file) = self.file(path) else { return };
                let at = offset.unwrap_or(self.files[file].now.len());
                self.files[file].change(Change::Write(at, bytes.clone()));
            }
            Call::Length { path, length } => {
                let Some(file) = self.file(path) else { return };
                self.files[file].change(Change::Length(*length));
            }
            Call::Sync { path } => {
                let place = match (self.file(path), self.dirs.contains_key(path)) {
                    (Some(file), _) => Place::File(file),
                    (None, true) => Place::Dir(path.clone()),
                    (None, false) => return,
                };
                let upto = self.settled.get(&place).copied().unwrap_or(0) + self.unsynced(&place);
                self.waiting.insert(pid, (place, upto));
            }
            Call::Rename { from, to } => {
                let (Some(file), Some((dir, new)), Some((_, old))) =
                    (self.file(from), self.name(to), self.name(from))
                else {
                    return;
                };
                self.dirs.entry(dir).or_default().change(Entry::Rename(old, new, file));
            }
            Call::Unlink { path } => {
                let Some((dir, name)) = self.name(path).filter(|_| self.file(path).is_some()) else { return };
                self.dirs.entry(dir).or_default().change(Entry::Unlink(name));
            }
            Call::Acknowledge => self.acknowledged += 1,
            Call::Other => {}
        }
    }

    /// Folder and name of what is in the data directory; the store's shared memory is made anew by whoever opens it.
    fn name(&self, path: &Path) -> Option<(PathBuf, String)> {
        let path = if path.is_absolute() { path.to_owned() } else { self.root.parent()?.join(path) };
        let name = path.file_name()?.to_str()?.to_owned();
        (path.starts_with(&self.root) && !name.ends_with("-shm"))
            .then(|| (path.parent().unwrap().to_owned(), name))
    }

    fn file(&self, path: &Path) -> Option<usize> {
        let (dir, name) = self.name(path)?;
        self.dirs.get(&dir)?.now.get(&name).copied()
    }

    fn unsynced(&self, place: &Place) -> usize {
        match place {
            Place::File(file) => self.files[*file].unsynced.len(),
            Place::Dir(dir) => self.dirs[dir].unsynced.len(),
        }
    }

    fn settle(&mut self, place: Place, upto: usize) {
        let settled = self.settled.entry(place.clone()).or_default();
        let n = upto.saturating_sub(*settled);
        *settled += n;
        match place {
            Place::File(file) => self.files[file].settle(n),
            Place::Dir(dir) => self.dirs.get_mut(&dir).unwrap().settle(n),
        }
    }

    /// The power goes: what is left is written into a folder.
    fn cut(mut self, rng: &mut fastrand::Rng, image: &Path) -> usize {
        let (files, dirs) = (Mood::of(rng), Mood::of(rng));
        self.files.iter_mut().for_each(|file| file.survive(files, rng));
        for (path, dir) in &mut self.dirs {
            dir.survive(dirs, rng);
            let folder = image.join(path.strip_prefix(&self.root).unwrap());
            std::fs::create_dir_all(&folder).unwrap();
            for (name, file) in &dir.now {
                std::fs::write(folder.join(name), &self.files[*file].now).unwrap();
            }
        }
        self.acknowledged
    }
}

/// A traced run: its events, and the samples that each acknowledgement added.
struct Traced {
    root: PathBuf,
    events: Vec<Event>,
    acknowledged: Vec<BTreeSet<(u64, i64)>>,
    sent: BTreeSet<(u64, i64)>,
}

fn trace(seed: u64, settings: &Settings, strace: &Path) -> Traced {
    let folder = Folder::new("traced");
    let root = folder.path().join("data");
    let file = folder.path().join("trace");
    let wrap = [
        strace.to_str().unwrap(),
        "-f",
        "-qq",
        "--seccomp-bpf",
        "-y",
        "-xx",
        "-s",
        "16777216",
        "-e",
        CALLS,
        "-o",
    ];
    let wrap: Vec<&str> = wrap.into_iter().chain([file.to_str().unwrap()]).collect();
    std::fs::write(folder.path().join("tidewatch.yml"), config(settings, 2, "off")).unwrap();
    let mut tidewatch = Tidewatch::start_under(folder, &wrap);
    let names = (0..30).map(|i| format!("{}cut_{i}{}", ["", "hours_"][i / 2 % 2], ["", "_total"][i % 2]));
    let mut sender = Sender::new(seed, names);
    let (url, mut acknowledged) = (tidewatch.url("/api/v1/write"), Vec::new());
    let mut before = BTreeSet::new();
    for n in 0..80 {
        assert!(sender.send(&url), "{}", tidewatch.process().log_tail());
        acknowledged.push(sender.acknowledged.difference(&before).copied().collect());
        before.clone_from(&sender.acknowledged);
        // Some of it within one commit of the journal, some in epochs and snapshots apart.
        std::thread::sleep(Duration::from_millis([0, 20, 150, 400][n % 4]));
    }
    tidewatch.terminate_inner();
    let events = events(&std::fs::read_to_string(&file).unwrap());
    Traced { root, events, acknowledged, sent: sender.sent }
}

/// Starts from the disk as it may be after so many events; how many rows of profiles its journal gives.
fn start_from(
    seed: u64,
    settings: &Settings,
    traced: &Traced,
    upto: usize,
    rng: &mut fastrand::Rng,
) -> usize {
    let mut machine = Machine::new(&traced.root);
    traced.events[..upto].iter().for_each(|event| machine.see(event));
    let image = Folder::new("image");
    let acknowledged = machine.cut(rng, &image.path().join("data"));
    std::fs::write(image.path().join("tidewatch.yml"), config(settings, [1, 2, 4][rng.usize(0..3)], "off"))
        .unwrap();
    let what = format!("seed {seed}, the power cut after {upto} of {} calls", traced.events.len());
    println!("{what}: {acknowledged} requests were acknowledged");
    let mut tidewatch = Tidewatch::start_in(image);
    let range = [("start", "2025-12-31T00:00:00Z"), ("end", "2026-01-02T00:00:00Z")];
    let (rows, profiles) =
        (tidewatch.rows("/api/v1/windows", &range), tidewatch.rows("/api/v1/profiles", &[]));
    assert_eq!(tidewatch.process().terminate().code(), Some(0), "{what}: {}", tidewatch.process().log_tail());
    let data = tidewatch.folder().join("data");
    let journal = stored::samples(&data);
    let held: BTreeSet<(u64, i64)> =
        journal.series.iter().copied().zip(journal.at_ms.iter().copied()).collect();
    let lost = traced.acknowledged[..acknowledged].iter().flatten().find(|sample| !held.contains(sample));
    assert!(lost.is_none(), "{what}: acknowledged and lost: {lost:?}");
    assert!(held.is_subset(&traced.sent), "{what}: nobody sent {:?}", held.difference(&traced.sent).next());
    let mut samples = Samples::default();
    held.iter().for_each(|(series, at)| samples.push(*series, *at, value(*series, *at)));
    stored::check(&what, settings, &rows, &samples);
    let again = rerun(&what, settings, &data);
    assert_eq!(profiles, again.stored, "{what}: stored profiles");
    again.profiles
}

/// A moment of a run: just after an answer, or something synced, or any.
fn moment(events: &[Event], kind: usize, rng: &mut fastrand::Rng) -> usize {
    let is_of = |event: &Event| match (kind, event) {
        // All that was answered counts at once.
        (0 | 1, Event::Begin { call, .. }) => matches!(call, Call::Acknowledge),
        (2, Event::Begin { call, .. }) => {
            matches!(call, Call::Sync { .. } | Call::Rename { .. } | Call::Unlink { .. })
        }
        (3, _) => true,
        _ => false,
    };
    let all: Vec<usize> = (0..events.len()).filter(|n| is_of(&events[*n])).collect();
    // The first answers are those of new series.
    let upto = if kind == 0 { all[rng.usize(0..all.len().min(6))] } else { all[rng.usize(0..all.len())] };
    (upto + 1 + rng.usize(0..3)).min(events.len())
}

#[test]
fn after_a_power_cut_at_any_moment_nothing_acknowledged_is_lost() {
    let Some(strace) = server("TEST_STRACE") else { return };
    let first = crate::first_seed(0xC07);
    for seed in first..first + crate::rounds(1) {
        let mut rng = fastrand::Rng::with_seed(seed);
        let settings = any_settings(&mut rng);
        println!("seed {seed}: {}", config(&settings, 1, "off").replace('\n', ", "));
        let traced = trace(seed, &settings, &strace);
        let acknowledgements = traced
            .events
            .iter()
            .filter(|event| matches!(event, Event::Begin { call: Call::Acknowledge, .. }));
        assert_eq!(acknowledgements.count(), traced.acknowledged.len(), "an answer is missing in the trace");
        let mut profiles = 0;
        for n in 0..8 {
            // The last one after all that was sent.
            let upto = if n < 7 { moment(&traced.events, n % 4, &mut rng) } else { traced.events.len() };
            profiles += start_from(seed, &settings, &traced, upto, &mut rng);
        }
        println!("{profiles} profile rows");
        assert!(profiles > 0, "seed {seed}: no series has a profile");
    }
}
