//! Circles inside a room: files that import one another, directly or through others. A reader of one of them has to know all.
//!
//! An import is a path that leads to another file of the room. Declaring a module is none, and neither is handing an item on by
//! `pub use`: whoever takes such an item imports the file that it comes from.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::Path;

use super::paths::{Found, Tokens, code_without_tests, module_of, paths_of};
use super::{House, PURE_HOUSE, SERVER_HOUSE, read, rust_files, supers};

/// How often a name may be handed on before its file is reached.
const HANDED_ON_MAX: usize = 8;

/// One file of a crate.
struct SourceFile {
    path: String,
    module: Vec<String>,
    paths: Vec<Found>,
    /// What each name stands for that a `use` brings in.
    imported: BTreeMap<String, Vec<String>>,
    /// How often each word occurs.
    words: BTreeMap<String, usize>,
}

impl SourceFile {
    fn of(file: &Path, source: &str) -> SourceFile {
        let code = code_without_tests(source);
        let (paths, mut words) = (paths_of(&code), BTreeMap::new());
        for word in Tokens::of(&code).texts() {
            *words.entry(word.to_owned()).or_default() += 1;
        }
        let uses = paths.iter().filter_map(|path| Some((path.brings.clone()?, path.parts.clone())));
        let (path, module) = (file.display().to_string(), module_of(file));
        SourceFile { path, module, imported: uses.collect(), paths, words }
    }

    /// Whether a path only hands an item on that the file itself does not use.
    fn hands_on(&self, path: &Found) -> bool {
        path.public && path.brings.as_ref().is_some_and(|name| self.words.get(name) == Some(&1))
    }
}

/// The files of a crate, and which of them import which.
struct ImportGraph<'a> {
    house: &'a House,
    files: Vec<SourceFile>,
    places: BTreeMap<Vec<String>, usize>,
}

impl ImportGraph<'_> {
    fn of(house: &House, files: Vec<SourceFile>) -> ImportGraph<'_> {
        let places = files.iter().enumerate().map(|(place, file)| (file.module.clone(), place)).collect();
        ImportGraph { house, files, places }
    }

    fn file_of(&self, module: &[String]) -> Option<usize> {
        self.places.get(module).copied()
    }

    /// Where a path of a file leads to in the crate, if it does.
    fn absolute(&self, from: &SourceFile, parts: &[String]) -> Option<Vec<String>> {
        let first = parts.first()?;
        let below = |rest: &[String]| from.module.iter().chain(rest).cloned().collect::<Vec<_>>();
        if self.house.roots.contains(&first.as_str()) {
            return Some(parts[1..].to_vec());
        }
        if first == "self" {
            return Some(below(&parts[1..]));
        }
        let child = || self.file_of(&below(&parts[..1])).map(|_| below(parts));
        supers(&from.module, parts).or_else(child)
    }

    /// The file that an item is from, whatever file hands it on.
    fn target(&self, path: &[String], handed_on: usize) -> Option<usize> {
        let known = |length: &usize| self.file_of(&path[..*length]).is_some();
        let length = (0..=path.len()).rev().find(known)?;
        let file = self.file_of(&path[..length])?;
        let name = path.get(length).and_then(|name| self.files[file].imported.get(name));
        let Some(name) = name.filter(|_| handed_on < HANDED_ON_MAX) else { return Some(file) };
        let mut origin = self.absolute(&self.files[file], name)?;
        origin.extend_from_slice(&path[length + 1..]);
        self.target(&origin, handed_on + 1)
    }

    fn room(&self, file: usize) -> &str {
        self.files[file].module.first().map_or("lib", String::as_str)
    }

    /// The files of its room that each file imports.
    fn imports(&self) -> Vec<BTreeSet<usize>> {
        let of = |(index, file): (usize, &SourceFile)| {
            let paths = file.paths.iter().filter(|path| !file.hands_on(path));
            let targets = paths.filter_map(|path| self.target(&self.absolute(file, &path.parts)?, 0));
            targets.filter(|target| *target != index && self.room(*target) == self.room(index)).collect()
        };
        self.files.iter().enumerate().map(of).collect()
    }

    /// The shortest circle through each file that is in one, as a list of paths that ends where it begins; each once.
    fn circles(&self) -> Vec<Vec<&str>> {
        let imports = self.imports();
        let mut circles: BTreeMap<BTreeSet<usize>, Vec<&str>> = BTreeMap::new();
        for first in 0..self.files.len() {
            let (mut from, mut queue) = (BTreeMap::new(), VecDeque::from([first]));
            while let Some(file) = queue.pop_front() {
                for next in &imports[file] {
                    if !from.contains_key(next) {
                        from.insert(*next, file);
                        queue.push_back(*next);
                    }
                }
            }
            let Some(last) = from.get(&first) else { continue };
            let mut circle = vec![first, *last];
            while circle[circle.len() - 1] != first {
                circle.push(from[&circle[circle.len() - 1]]);
            }
            circle.reverse();
            let paths = circle.iter().map(|file| self.files[*file].path.as_str()).collect();
            circles.entry(circle.into_iter().collect()).or_insert(paths);
        }
        circles.into_values().collect()
    }
}

fn graph(house: &House) -> ImportGraph<'_> {
    let mut files = Vec::new();
    for file in rust_files(house.src) {
        let stem = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        if !stem.ends_with("tests") && stem != "testing" {
            files.push(SourceFile::of(&file, &read(house.src, &file)));
        }
    }
    ImportGraph::of(house, files)
}

#[test]
fn no_files_of_a_room_import_one_another() {
    let mut wrong = Vec::new();
    for house in [SERVER_HOUSE, PURE_HOUSE] {
        for circle in graph(&house).circles() {
            wrong.push(format!("{}: {}", house.src, circle.join(" imports ")));
        }
    }
    assert!(
        wrong.is_empty(),
        "move what both need into a file of its own, or pass it:\n{}\n",
        wrong.join("\n")
    );
}

#[test]
fn the_reader_finds_seeded_circles() {
    let circles = |files: &[(&str, &str)]| {
        let files = files.iter().map(|(path, source)| SourceFile::of(Path::new(path), source)).collect();
        let graph = ImportGraph::of(&SERVER_HOUSE, files);
        graph.circles().into_iter().map(|circle| circle.join(" ")).collect::<Vec<_>>()
    };
    let two = [("a/b.rs", "use super::c::C;"), ("a/c.rs", "fn f() { crate::a::b::f(); }")];
    assert_eq!(circles(&two), ["a/b.rs a/c.rs a/b.rs"]);
    // Through a file that hands it on, and through another one.
    let through = [
        ("a/mod.rs", "mod b;\n#[cfg(test)]\nmod tests;\npub use b::B;"),
        ("a/b.rs", "use super::c::C; pub struct B;"),
        ("a/c.rs", "use crate::a::d::D;"),
        ("a/d.rs", "use super::B;"),
    ];
    assert_eq!(circles(&through), ["a/b.rs a/c.rs a/d.rs a/b.rs"]);
    let parent = [("a/mod.rs", "mod b; pub struct A; fn f() { b::f(); }"), ("a/b.rs", "use super::A;")];
    assert_eq!(circles(&parent), ["a/mod.rs a/b.rs a/mod.rs"]);
    let uses_itself = [("a/mod.rs", "pub use self::b::B; pub struct A(B);"), ("a/b.rs", "use super::A;")];
    assert_eq!(circles(&uses_itself).len(), 1);

    let innocent = [
        // Handing on is none, and neither are unit tests, other rooms, or items that come from outside.
        &[("a/mod.rs", "mod b; pub use b::B; pub struct A;"), ("a/b.rs", "use super::A;")][..],
        &[("a/b.rs", "use super::c::C;"), ("a/c.rs", "#[cfg(test)]\nmod tests { use super::super::b::B; }")],
        &[("a/b.rs", "use crate::c::C;"), ("c/mod.rs", "use crate::a::b::B;")],
        &[("a/mod.rs", "mod b; pub use std::io::Error; fn f() { b::f(); }"), ("a/b.rs", "use super::Error;")],
    ];
    for files in innocent {
        assert!(circles(files).is_empty(), "{:?}", circles(files));
    }
}
