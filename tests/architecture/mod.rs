//! Who may import whom, as data, and a reader of the source that holds the table against every path in it.
//!
//! A change inside a room is cheap; a new arrow changes this table and ARCHITECTURE.md in the same commit.
//! What is read are the tokens of each file, without comments, strings and unit tests: `use` trees and paths that begin
//! with `crate`, `super`, `tidewatch` or `tidewatch_dataflows`, and names of outside crates. Inside a room files may import one
//! another as they like, as long as it goes in no circle (`circles`).

mod circles;
mod names;
mod paths;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use paths::{Tokens, code_of, code_without_tests, module_of, paths_of};

/// A room and what it may use beside itself. `a::b` allows that item of room `a` only; `*` allows every room.
struct Room {
    name: &'static str,
    may: &'static [&'static str],
    /// What to do instead, for whoever wanted another arrow.
    instead: &'static str,
}

const fn room(name: &'static str, may: &'static [&'static str], instead: &'static str) -> Room {
    Room { name, may, instead }
}

/// The nouns of the pure crate; every room may use them, and each other they may as well.
const NOUNS: [&str; 5] = ["sample", "rows", "statistics", "settings", "snapshot"];

const IN_APP: &str = "pass it a channel in app.rs";
const CLOSURE: &str = "let app.rs pass it a closure or a number";
const NOUN: &str = "move what both need to a noun, or hand it in as an argument";

/// The rooms of the server. `metrics` may be used by every one of them.
const SERVER: &[Room] = &[
    room("main", &["*"], ""),
    room("app", &["*"], ""),
    room("lib", &["*"], ""),
    room("metrics", &[], "count a number it is given"),
    room("threads", &[], "it does what it is handed"),
    room("faults", &[], "it only says which faults are in"),
    room("problem", &[], "let the room that has an error say which kind of problem it is"),
    room("status", &[], "it only names figures"),
    room("promql", &[], "it prints what it is given"),
    room("cli", &[], "it holds what was typed, and judges nothing"),
    room("config", &[], NOUN),
    room("disk", &[], NOUN),
    room("segments", &["disk"], NOUN),
    room("generate", &[], NOUN),
    room("labels", &["disk", "segments"], CLOSURE),
    room("pull", &["config", "journal", "labels", "source", "store::selector", "status"], IN_APP),
    room("logs", &["config", "journal", "labels", "outbox"], IN_APP),
    room("reading", &["journal", "source"], IN_APP),
    room("select", &["journal", "labels", "store::selector"], IN_APP),
    room(
        "backfill",
        &[
            "api::server",
            "api::shown",
            "config",
            "engine",
            "journal",
            "labels",
            "logs",
            "outbox",
            "reading",
            "select",
            "sinks::runner",
            "source",
            "store",
        ],
        IN_APP,
    ),
    room("fatal", &[], "it only says what ends the process"),
    room(
        "upkeep",
        &[
            "config",
            "engine",
            "fatal",
            "journal",
            "labels",
            "outbox",
            "sinks::list",
            "snapshots",
            "store::record",
            "verify",
        ],
        IN_APP,
    ),
    room("source", &["config", "labels", "problem", "threads"], IN_APP),
    room("agent", &["config", "labels"], IN_APP),
    room("journal", &["disk", "segments"], IN_APP),
    room("outbox", &["disk", "segments"], IN_APP),
    room("snapshots", &["disk"], IN_APP),
    room(
        "engine",
        &["journal", "outbox", "snapshots", "store::budget", "store::OpenWindowSource", "store::NoAnswer"],
        IN_APP,
    ),
    room("sinks", &["disk", "outbox", "store", "labels", "status"], IN_APP),
    room("store", &["disk::forget_cached", "labels"], CLOSURE),
    room("api", &["store", "labels", "problem", "threads", "status"], CLOSURE),
    room("verify", &["store", "source::query::client"], IN_APP),
    room("report", &["store", "labels"], CLOSURE),
];

/// The rooms of the pure crate. `x/*` is each file of a folder by itself, so they may not know one another.
const PURE: &[Room] = &[
    room("lib", &["*"], ""),
    room("sample", &[], NOUN),
    room("rows", &[], NOUN),
    room("statistics", &[], NOUN),
    room("settings", &[], NOUN),
    room("snapshot", &[], NOUN),
    room("faults", &[], "it only says which faults are in"),
    room("mutants", &[], "it only says which bugs are in"),
    room("kernels", &[], "mathematics takes slices and returns values"),
    room("shard", &[], NOUN),
    room("seal", &[], NOUN),
    room(
        "driver",
        &["stage::Budget", "stage::Progress"],
        "the driver calls a closure: put what it needs into the contract of a stage",
    ),
    room("stage", &["driver::EpochBatch", "shard"], "a contract knows no stage"),
    room("stages", &["*"], ""),
    room(
        "stages/*",
        &["driver", "shard", "seal", "stage", "kernels", "faults", "mutants"],
        "let the pipeline connect the two, with a noun between them",
    ),
    room("pipeline", &["stages", "stage", "driver", "shard"], "a pipeline only calls: compute in a stage"),
    room("graph", &["pipeline", "stage", "driver", "shard"], "a graph only wires: compute in a stage"),
];

/// Rooms of the server that may use what is not a noun of the pure crate.
const PURE_FROM_SERVER: &[(&str, &[&str])] = &[
    ("engine", &["graph", "pipeline", "driver", "shard"]),
    ("faults", &["faults"]),
    ("upkeep", &["kernels", "shard", "pipeline", "stages"]),
    ("api", &["kernels"]),
    ("verify", &["kernels", "stages"]),
];

/// An outside crate (or a part of std) and the only rooms that may name it.
struct Outside {
    name: &'static str,
    only: &'static [&'static str],
    instead: &'static str,
}

const fn outside(name: &'static str, only: &'static [&'static str], instead: &'static str) -> Outside {
    Outside { name, only, instead }
}

const TIMELY: &str = "keep it in driver.rs, graph.rs and engine/, which change when timely does";

const OUTSIDE_OF_SERVER: &[Outside] = &[
    outside("timely", &["engine"], TIMELY),
    outside("timely_communication", &["engine"], TIMELY),
    outside("anyhow", &["main", "app"], "give the room one thiserror enum, split by what the caller does"),
    outside("rusqlite", &["store"], "ask the store"),
    outside("axum", &["source", "api", "problem", "app"], "ports are bound by app.rs"),
    outside("promql_parser", &["store", "api"], "take a parsed selector from the store"),
    outside("prometheus_client", &["metrics"], "declare the metric in metrics.rs"),
    outside("rustix", &["disk", "app"], "ask the disk, or app/process.rs"),
    outside("reqwest", &["source"], "ask through the client of source/query"),
    outside("rustls", &["source"], "ask through the client of source/query"),
    outside("clap", &["main", "cli"], "take a plain struct"),
    outside("indicatif", &["main", "app"], "report progress as numbers"),
];

const PURE_IO: &str = "the pure crate does no such thing: do it in the server";

const OUTSIDE_OF_PURE: &[Outside] = &[
    outside("timely", &["driver", "graph"], TIMELY),
    outside("timely_communication", &[], TIMELY),
    outside("libm", &["kernels"], "mathematics is in kernels"),
    outside("tidewatch", &[], "the server knows the dataflows, never the other way round"),
    outside("tokio", &[], PURE_IO),
    outside("tracing", &[], PURE_IO),
    outside("log", &[], PURE_IO),
    outside("fastrand", &[], PURE_IO),
    outside("rand", &[], PURE_IO),
    outside("jiff", &[], PURE_IO),
    outside("std::fs", &[], PURE_IO),
    outside("std::net", &[], PURE_IO),
    outside("std::env", &[], PURE_IO),
    outside("std::process", &[], PURE_IO),
    outside("std::thread", &[], PURE_IO),
    outside("std::time::Instant", &[], PURE_IO),
    outside("std::time::SystemTime", &[], PURE_IO),
    // timely hands the driver a writer when batches cross a socket.
    outside("std::io", &["driver"], PURE_IO),
];

/// One of the two crates.
struct House {
    src: &'static str,
    rooms: &'static [Room],
    outside: &'static [Outside],
    /// Rooms every room of this crate may use.
    common: &'static [&'static str],
    /// Names under which a path leads into this crate.
    roots: &'static [&'static str],
}

const SERVER_HOUSE: House = House {
    src: "src",
    rooms: SERVER,
    outside: OUTSIDE_OF_SERVER,
    common: &["metrics", "faults", "promql"],
    roots: &["crate", "tidewatch"],
};
const PURE_HOUSE: House =
    House { src: "dataflows/src", rooms: PURE, outside: OUTSIDE_OF_PURE, common: &NOUNS, roots: &["crate"] };

impl House {
    /// The room a path leads to: its first part, or file by file where the table says `x/*`.
    fn room_of(&self, path: &[String]) -> String {
        let first = path.first().map_or("lib", String::as_str);
        let file_by_file = format!("{first}/*");
        match path.get(1) {
            // A word in lower case is a file, another is an item of the folder itself.
            Some(file)
                if file.starts_with(char::is_lowercase)
                    && self.rooms.iter().any(|room| room.name == file_by_file) =>
            {
                format!("{first}/{file}")
            }
            _ => first.to_owned(),
        }
    }

    fn rules(&self, room: &str) -> Option<&Room> {
        let folder = room.split_once('/').map(|(folder, _)| format!("{folder}/*"));
        self.rooms.iter().find(|r| r.name == room || folder.as_deref() == Some(r.name))
    }

    /// What is wrong with the paths of one file, each as a sentence. `file` is relative to the crate's `src`.
    fn violations(&self, file: &Path, source: &str) -> Vec<String> {
        let module = module_of(file);
        if module.last().is_some_and(|last| last == "tests") {
            // Unit tests in a file of their own.
            return Vec::new();
        }
        let room = self.room_of(&module);
        let at = |line: usize| format!("{}/{}:{line}", self.src, file.display());
        let Some(rules) = self.rules(&room) else {
            return vec![format!("{}: {room} is not in the import table: say there what it may use", at(1))];
        };
        let mut wrong = Vec::new();
        for path in paths_of(&code_without_tests(source)) {
            let Some(first) = path.parts.first() else { continue };
            let inside = if self.roots.contains(&first.as_str()) {
                Some(path.parts[1..].to_vec())
            } else {
                supers(&module, &path.parts)
            };
            let sentence = match inside {
                Some(target) => self.arrow(&room, rules, &target),
                None if first == "tidewatch_dataflows" => pure_from_server(&room, &path.parts[1..]),
                None => self.outside(&room, &path.parts),
            };
            wrong.extend(sentence.map(|sentence| format!("{}: {sentence}", at(path.line))));
        }
        wrong
    }

    /// Why room `from` may not use the module path `target` of the same crate, if it may not.
    fn arrow(&self, from: &str, rules: &Room, target: &[String]) -> Option<String> {
        if rules.may.contains(&"*") {
            return None;
        }
        let Some(first) = target.first() else {
            return Some(format!("{from} may not import the whole crate: name what it uses"));
        };
        let to = self.room_of(target);
        let own_folder = target.len() > 1 && to == *first && from.starts_with(&format!("{first}/"));
        if to == from || own_folder || self.common.contains(&first.as_str()) {
            return None;
        }
        let full = target.join("::");
        let allowed = rules
            .may
            .iter()
            .any(|may| *may == first || full == *may || full.starts_with(&format!("{may}::")));
        (!allowed).then(|| format!("{from} may not know {to}: {}", rules.instead))
    }

    /// Why room `from` may not name this outside path, if it may not.
    fn outside(&self, from: &str, parts: &[String]) -> Option<String> {
        let full = parts.join("::");
        let names = |o: &&Outside| full == o.name || full.starts_with(&format!("{}::", o.name));
        let rule = self.outside.iter().find(names)?;
        let only = rule.only.contains(&from);
        (!only).then(|| format!("{from} may not use {}: {}", rule.name, rule.instead))
    }
}

/// Where a path that begins with `super` leads, if it does.
fn supers(module: &[String], parts: &[String]) -> Option<Vec<String>> {
    let up = parts.iter().take_while(|part| *part == "super").count();
    let above = module.len().saturating_sub(up);
    (up > 0).then(|| module[..above].iter().chain(&parts[up..]).cloned().collect())
}

/// Why a room of the server may not use this part of the pure crate, if it may not.
fn pure_from_server(from: &str, target: &[String]) -> Option<String> {
    let first = target.first().map_or("", String::as_str);
    let more = PURE_FROM_SERVER.iter().find(|(room, _)| *room == from).map_or(&[][..], |(_, more)| more);
    let allowed = ["main", "app", "lib"].contains(&from) || NOUNS.contains(&first) || more.contains(&first);
    (!allowed).then(|| format!("{from} may not know {first} of the dataflows: only engine/ runs the graph"))
}

/// All Rust files below a folder of the repository, sorted, relative to it.
fn rust_files(folder: &str) -> Vec<PathBuf> {
    let top = crate::support::repository().join(folder);
    let (mut files, mut folders) = (Vec::new(), vec![top.clone()]);
    while let Some(folder) = folders.pop() {
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        for entry in entries {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path.strip_prefix(&top).unwrap().to_owned());
            }
        }
    }
    files.sort();
    files
}

/// The code of every file without its tests, by its path in the repository; files of tests only are left out.
fn sources() -> Vec<(String, String)> {
    let mut all = Vec::new();
    for house in [SERVER_HOUSE, PURE_HOUSE] {
        for file in rust_files(house.src) {
            let stem = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            if !stem.ends_with("tests") && stem != "testing" {
                let path = format!("{}/{}", house.src, file.display());
                all.push((path, code_without_tests(&read(house.src, &file))));
            }
        }
    }
    assert!(all.len() > 100, "nothing found");
    all
}

fn read(folder: &str, file: &Path) -> String {
    fs::read_to_string(crate::support::repository().join(folder).join(file)).unwrap()
}

#[test]
fn rooms_import_only_what_the_table_allows() {
    let mut wrong = Vec::new();
    for house in [SERVER_HOUSE, PURE_HOUSE] {
        let files = rust_files(house.src);
        assert!(files.len() > 2, "nothing found in {}", house.src);
        for file in files {
            wrong.extend(house.violations(&file, &read(house.src, &file)));
        }
    }
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}

#[test]
fn the_tables_name_each_room_once_and_only_rooms() {
    for house in [SERVER_HOUSE, PURE_HOUSE] {
        let names: BTreeSet<_> = house.rooms.iter().map(|room| room.name).collect();
        assert_eq!(names.len(), house.rooms.len(), "a room twice in {}", house.src);
        for room in house.rooms {
            for may in room.may.iter().filter(|may| **may != "*") {
                let first = may.split("::").next().unwrap();
                assert!(names.contains(first), "{} may use {may}, which is no room", room.name);
            }
        }
        for outside in house.outside {
            assert!(outside.only.iter().all(|only| names.contains(only)), "{}: unknown room", outside.name);
        }
    }
}

#[test]
fn every_file_says_what_it_is_and_none_leaves_work_undone() {
    let mut wrong = Vec::new();
    for folder in ["src", "dataflows/src", "tests", "benches"] {
        for file in rust_files(folder) {
            let source = read(folder, &file);
            let name = format!("{folder}/{}", file.display());
            if !source.starts_with("//!") {
                wrong.push(format!(
                    "{name}: begins with something else than //!, which says what the file is"
                ));
            }
            wrong.extend(undone(&source).into_iter().map(|(line, what)| format!("{name}:{line}: {what}")));
        }
    }
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}

/// Marks of unfinished work, with their lines.
fn undone(source: &str) -> Vec<(usize, &'static str)> {
    let tokens = Tokens::of(&code_of(source));
    let marks: [(&[&str], &str); 3] = [
        (&["#", "[", "ignore"], "a test that is not run proves nothing"),
        (&["todo", "!"], "write it, or return an error that says it is not there"),
        (&["unimplemented", "!"], "write it, or return an error that says it is not there"),
    ];
    let found =
        marks.iter().flat_map(|(mark, what)| tokens.find(mark).into_iter().map(move |line| (line, *what)));
    found.collect()
}

/// Each violation is a sentence in the answer, each innocent source gives none.
#[test]
fn the_reader_finds_seeded_violations() {
    let check = |house: &House, file: &str, source: &str| house.violations(Path::new(file), source);
    let server = |file: &str, source: &str| check(&SERVER_HOUSE, file, source);
    let pure = |file: &str, source: &str| check(&PURE_HOUSE, file, source);

    let sentence = "src/source/receive.rs:2: source may not know sinks: pass it a channel in app.rs";
    assert_eq!(server("source/receive.rs", "//! x\nuse crate::sinks::Sink;\n"), [sentence]);

    let seeded = [
        server("source/mod.rs", "use crate::{config::{self, Config}, sinks::{Sink}};"),
        server("source/receive.rs", "fn f() { crate::engine::run(); }"),
        server("source/receive.rs", "fn f() { super::super::engine::run(); }"),
        server("source/receive.rs", "use super::super::{labels::Labels, store};"),
        server("journal.rs", "use super::outbox::Outbox;"),
        server("engine/mod.rs", "use crate::store::Row;"),
        server("engine/mod.rs", "use crate::store::{OpenWindowSource, Row};"),
        server("engine/mod.rs", "use crate::store;"),
        server("labels.rs", "pub use crate :: journal\n:: Journal;"),
        server("labels.rs", "use crate::*;"),
        server("labels.rs", "use tidewatch::journal::Journal;"),
        server("labels.rs", "use tidewatch_dataflows::graph::Graph;"),
        server("sinks/store.rs", "use timely::dataflow::Scope;"),
        server("sinks/store.rs", "fn f() -> anyhow::Result<()> { Ok(()) }"),
        server("api/windows.rs", "fn f(c: &rusqlite::Connection) {}"),
        server("cupboard.rs", "fn f() {}"),
        server("source/mod.rs", "#[cfg(test)]\nmod tests;\nuse crate::sinks::Sink;"),
        pure("stages/admit.rs", "use super::window::Window;"),
        pure("stages/admit.rs", "use crate::stages::window::Window;"),
        pure("graph.rs", "use crate::kernels::moments;"),
        pure("driver.rs", "use crate::kernels;"),
        pure("kernels/moments.rs", "use crate::shard::Slot;"),
        pure("stages/window.rs", "use timely::progress::Antichain;"),
        pure("shard.rs", "fn f() { std::fs::read(\"x\"); }"),
        pure("shard.rs", "use std::{collections::BTreeMap, time::{Duration, Instant}};"),
        pure("sample.rs", "use tidewatch::labels::Labels;"),
    ];
    for (i, found) in seeded.iter().enumerate() {
        assert_eq!(found.len(), 1, "case {i}: {found:?}");
    }

    let innocent = [
        server("source/receive.rs", "use crate::{config::Config, labels::Labels, metrics::Metrics};"),
        server("source/receive.rs", "use super::validate; use self::x::Y; use crate::source::csv::Csv;"),
        server(
            "source/receive.rs",
            "/// As [`crate::sinks`] says.\nfn f() -> &'static str { \"crate::sinks\" }",
        ),
        server(
            "source/receive.rs",
            "/* use crate::sinks; /* nested */ use crate::engine; */ const C: char = '\"';",
        ),
        server("source/receive.rs", "const R: &str = r#\"use crate::sinks; \"quoted\" \"#;"),
        server("source/receive.rs", "fn f() {}\n#[cfg(test)]\nmod tests { use crate::sinks::Sink; }\n"),
        server("source/mod.rs", "#[cfg(test)]\nfn f(s: crate::sinks::Sink) { s.g() }\nmod receive;"),
        server("generate/tests.rs", "use crate::sinks::Sink;"),
        server(
            "engine/mod.rs",
            "use crate::{store::OpenWindowSource, journal::Reader}; use tidewatch_dataflows::graph;",
        ),
        server("engine/mod.rs", "use timely::dataflow::Scope;"),
        server("app.rs", "use crate::{api, sinks, source}; use anyhow::Context;"),
        server("lib.rs", "pub mod app; pub mod metrics;"),
        pure(
            "stages/admit.rs",
            "use crate::{kernels::moments, sample::Samples, shard::Slot}; use super::Tactic;",
        ),
        pure("kernels/moments.rs", "use super::reference; use std::time::Duration;"),
        pure("driver.rs", "use timely::progress::Antichain;"),
    ];
    for (i, found) in innocent.iter().enumerate() {
        assert!(found.is_empty(), "case {i}: {found:?}");
    }
}

#[test]
fn the_reader_finds_undone_work() {
    let lines = |source: &str| undone(source).into_iter().map(|(line, _)| line).collect::<Vec<_>>();
    assert_eq!(lines("fn a() {}\n#[ignore]\nfn b() { todo!() }\n"), [2, 3]);
    assert_eq!(lines("#[ignore = \"slow\"]\nfn b() { unimplemented ! (\"x\") }\n"), [1, 2]);
    assert!(lines("// todo!()\nconst A: &str = \"#[ignore] todo!()\"; fn todo() {}\n").is_empty());
}
