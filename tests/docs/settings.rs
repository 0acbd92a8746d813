//! docs/settings.md names every setting that the program knows, with its default and what the program says it must be.
//!
//! The program is asked: a key that nobody knows is answered with the keys that there are, a value that nobody takes
//! with its bound.

use std::collections::BTreeMap;

use tidewatch::config::{Config, ConfigError, ConfigFlags};

use super::read;
use crate::support::Folder;

const EXAMPLE: &str = include_str!("../../deploy/tidewatch.example.yml");

/// Lists of maps: where they are, and what an entry needs.
const LISTS: [(&str, &str); 3] = [
    ("windows", "length: 1h, hop: 1m"),
    ("sources.prometheus", "url: 'http://a', match: [up]"),
    ("select", "match: up"),
];

/// Asks the program about configurations.
struct Asker(Folder);

impl Asker {
    /// What is wrong with a configuration that has this value at this path.
    fn ask(&self, path: &str, value: &str) -> Option<ConfigError> {
        let mut text = value.to_owned();
        let mut rest = path;
        while !rest.is_empty() {
            let (above, key) = rest.rsplit_once('.').unwrap_or(("", rest));
            // A later key takes the place of an earlier one only by being the only one.
            let needs = LISTS.iter().find(|(list, _)| above == format!("{list}[]"));
            let needs = needs.map_or(String::new(), |(_, needs)| {
                let others = needs.split(", ").filter(|need| !need.starts_with(&format!("{key}:")));
                others.map(|need| format!("{need}, ")).collect()
            });
            let (key, list) = key.strip_suffix("[]").map_or((key, false), |key| (key, true));
            let value = if list { format!("[{text}]") } else { text };
            text = format!("{{{needs}{key}: {value}}}");
            rest = above;
        }
        let file = self.0.path().join("tidewatch.yml");
        std::fs::write(&file, &text).unwrap();
        Config::load(Some(&file), std::iter::empty(), ConfigFlags::default()).err()
    }

    /// The keys below a section; none if it is no section.
    fn keys(&self, section: &str) -> Option<Vec<String>> {
        let at = |key: &str| if section.is_empty() { key.to_owned() } else { format!("{section}.{key}") };
        match self.ask(&at("nope"), "1") {
            Some(ConfigError::Unknown { hint, .. }) => {
                let keys = hint.split_once(" there are ").unwrap_or_else(|| panic!("{section}: {hint}")).1;
                Some(keys.split(", ").map(at).collect())
            }
            _ => None,
        }
    }

    /// What the value at a path must be: of a time first its range.
    fn bound(&self, path: &str) -> String {
        for value in ["99999d", "{nope: [1]}"] {
            match self.ask(path, value) {
                Some(ConfigError::Bad { path: at, bound, .. }) if at == path.replace("[]", "[0]") => {
                    return bound;
                }
                _ => {}
            }
        }
        panic!("{path} takes anything")
    }

    /// Every setting with its bound, from this section on.
    fn settings(&self, section: &str, all: &mut BTreeMap<String, String>) {
        for path in self.keys(section).unwrap_or_else(|| panic!("{section} is no section")) {
            let list = LISTS.iter().any(|(list, _)| *list == path);
            if !list && self.keys(&path).is_some() {
                self.settings(&path, all);
                continue;
            }
            let bound = self.bound(&path);
            assert!(list || !bound.contains("[{"), "the entries of {path} have to be in LISTS");
            all.insert(path.clone(), bound);
            if list {
                self.settings(&format!("{path}[]"), all);
            }
        }
    }
}

/// The defaults that the example has, which another test holds to those of the program.
fn defaults() -> BTreeMap<String, String> {
    let mut section = "";
    let mut settings = BTreeMap::new();
    for line in EXAMPLE.lines().filter(|line| !line.trim_start().starts_with(['#', '-'])) {
        let Some((key, value)) = line.split_once(':') else { continue };
        match (line.starts_with(' '), value.trim()) {
            (false, "") => section = key,
            (false, value) => drop(settings.insert(key.to_owned(), value.to_owned())),
            (true, value) => drop(settings.insert(format!("{section}.{}", key.trim()), value.to_owned())),
        }
    }
    settings
}

#[test]
fn every_setting_is_in_the_table_with_its_default_and_bound() {
    let asker = Asker(Folder::new("settings"));
    let mut settings = BTreeMap::new();
    asker.settings("", &mut settings);
    assert!(settings.len() >= 50, "{settings:#?}");
    let page = read("docs/settings.md");
    let rows: Vec<Vec<&str>> = page
        .lines()
        .filter(|line| line.starts_with("| `"))
        .map(|line| line.trim_matches(['|', ' ']).split(" | ").collect())
        .collect();
    let defaults = defaults();
    assert_eq!(defaults.len(), 31, "{defaults:?}");
    let mut missing = String::new();
    for (path, bound) in &settings {
        let name = format!("`{path}`");
        let found = rows.iter().find(|cells| cells[0] == name);
        let default = defaults.get(path).map(String::as_str);
        let right = found.is_some_and(|cells| {
            let same = default.is_none_or(|default| cells[1] == default) && cells[2] == bound;
            cells.len() == 4 && same && !cells[3].is_empty()
        });
        if !right {
            missing += &format!("| {name} | {} | {bound} | ... |\n", default.unwrap_or("?"));
        }
    }
    assert!(missing.is_empty(), "docs/settings.md lacks these rows:\n{missing}");
    for cells in rows.iter().filter(|cells| cells.len() == 4) {
        let path = cells[0].trim_matches('`');
        assert!(settings.contains_key(path), "docs/settings.md: there is no setting {path}");
    }
}
