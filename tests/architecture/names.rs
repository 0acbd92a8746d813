//! Names: one name has one meaning, and none of them is a riddle. And no file is too long to be read.

use std::collections::BTreeMap;
use std::fs;

use super::sources;
use crate::support::repository;

/// Type names that may stand for more than one thing. Each costs a reader the question which of them is meant.
const SHARED_NAMES_MAX: usize = 19;

/// Lines of a file of code, at most; unit tests in files of their own and tables of data may be longer.
const LINES_MAX: usize = 600;

/// Files that are longer, with the number that they must not pass.
const LONGER: &[(&str, usize)] = &[];

/// Names that say nothing by themselves: bare participles and everyday nouns. A field's word takes their place.
const BANNED: [&str; 47] = [
    "Admitted",
    "Asked",
    "Begun",
    "Carried",
    "Changed",
    "Checked",
    "Corrected",
    "Counted",
    "Decoded",
    "Done",
    "Ended",
    "Explained",
    "Failing",
    "Filled",
    "Followed",
    "Found",
    "Given",
    "Got",
    "Heard",
    "Held",
    "Hashed",
    "Kept",
    "Known",
    "Labelled",
    "Learned",
    "Listed",
    "Live",
    "Loaded",
    "Made",
    "Meant",
    "Named",
    "Opened",
    "Panicked",
    "Parts",
    "Picked",
    "Refused",
    "Rejected",
    "Released",
    "Saved",
    "Seen",
    "Sent",
    "Skipped",
    "Taken",
    "Told",
    "Trusted",
    "Written",
    "Young",
];

/// Names of modules that say nothing by themselves.
const BANNED_MODULES: [&str; 13] = [
    "away", "broken", "change", "common", "held", "helpers", "kept", "look", "made", "rim", "saved",
    "types_", "utils",
];

/// Types of the code outside of tests, by name: where each is defined.
fn types() -> BTreeMap<String, Vec<String>> {
    let mut all: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (path, code) in sources() {
        for line in code.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            let words = match words.first() {
                Some(word) if word.starts_with("pub") => &words[1..],
                // A type inside an `impl` is that of a trait.
                _ if line.starts_with(' ') => continue,
                _ => &words[..],
            };
            if let [kind, name, ..] = words
                && ["struct", "enum", "trait", "type", "union"].contains(kind)
            {
                let name: String = name.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                all.entry(name).or_default().push(path.clone());
            }
        }
    }
    all
}

#[test]
fn one_name_has_one_meaning() {
    let shared: Vec<_> = types().into_iter().filter(|(_, places)| places.len() > 1).collect();
    let n = shared.len();
    assert!(
        n <= SHARED_NAMES_MAX,
        "{n} type names are defined more than once, {SHARED_NAMES_MAX} may be: {shared:#?}"
    );
}

#[test]
fn no_type_or_module_is_named_by_a_bare_participle() {
    let types = types();
    let banned: Vec<_> = BANNED.iter().filter_map(|name| types.get_key_value(*name)).collect();
    assert!(banned.is_empty(), "these names say nothing by themselves: {banned:#?}");
    let module = |path: &str| {
        let stem = path.trim_end_matches("/mod.rs").trim_end_matches(".rs");
        stem.rsplit('/').next().map(str::to_owned).unwrap_or_default()
    };
    let modules: Vec<_> = sources().into_iter().map(|(path, _)| path).collect();
    let banned: Vec<_> =
        modules.iter().filter(|path| BANNED_MODULES.contains(&module(path).as_str())).collect();
    assert!(banned.is_empty(), "these modules say nothing by their names: {banned:#?}");
}

#[test]
fn no_file_is_too_long_to_be_read() {
    let mut wrong = Vec::new();
    for (path, _) in sources().into_iter().filter(|(path, _)| !path.ends_with("tests.rs")) {
        let lines = fs::read_to_string(repository().join(&path)).unwrap().lines().count();
        let most = LONGER.iter().find(|(longer, _)| *longer == path).map_or(LINES_MAX, |(_, most)| *most);
        if lines > most {
            wrong.push(format!("{path}: {lines} lines, {most} may be"));
        }
    }
    assert!(wrong.is_empty(), "split by idea: {wrong:#?}");
}
