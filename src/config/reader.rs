//! Looks settings up by their path in flags, environment and file, and refuses what nothing looked for.
//!
//! Not here: which settings there are (`config`).

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;

use serde_json::Value;
use tidewatch_dataflows::settings::parse_duration;

use super::units::{parse_size, size};
use super::{ConfigError, ConfigFlags};

/// What the name of every environment variable of ours begins with.
const ENV_PREFIX: &str = "TIDEWATCH_";
/// Variables with our prefix that are no settings: the log filter and the place of the file itself.
const ENV_RESERVED: [&str; 2] = ["TIDEWATCH_LOG", "TIDEWATCH_CONFIG"];
/// Kubernetes gives every pod such variables for a service that is named `tidewatch`.
const ENV_KUBERNETES: [&str; 3] = ["TIDEWATCH_SERVICE_HOST", "TIDEWATCH_SERVICE_PORT", "TIDEWATCH_PORT"];
/// Characters of a refused value, or of an unknown variable's name, that are shown.
const SHOWN_MAX: usize = 80;
/// Most names of hosts.
const HOSTS_MAX: usize = 64;
/// Most unknown variables that are named.
const UNKNOWN_NAMED_MAX: usize = 16;

/// One value as it was given: typed by YAML, or the bare text of a variable or flag.
#[derive(Clone)]
pub(super) enum ConfigValue {
    Yaml(Value),
    Text(String),
}

impl ConfigValue {
    /// The value as a user would recognise it, cut to a readable length.
    pub(super) fn shown(&self) -> String {
        let text = match self {
            ConfigValue::Yaml(value) => value.to_string(),
            ConfigValue::Text(text) => format!("{text:?}"),
        };
        match text.char_indices().nth(SHOWN_MAX) {
            Some((end, _)) => format!("{}...", &text[..end]),
            None => text,
        }
    }

    /// What it is, where it may be a secret.
    fn kind(&self) -> String {
        let kind = match self {
            ConfigValue::Yaml(Value::Null) => return "null".to_owned(),
            ConfigValue::Yaml(Value::Bool(flag)) => return flag.to_string(),
            ConfigValue::Yaml(Value::Array(_)) => "list",
            ConfigValue::Yaml(Value::Object(_)) => "map",
            ConfigValue::Yaml(Value::Number(_)) => "number",
            ConfigValue::Yaml(Value::String(_)) | ConfigValue::Text(_) => "text",
        };
        format!("a {kind} that is not shown")
    }

    pub(super) fn text(&self) -> Option<&str> {
        match self {
            ConfigValue::Yaml(Value::String(text)) | ConfigValue::Text(text) => Some(text),
            ConfigValue::Yaml(_) => None,
        }
    }

    pub(super) fn whole_number(&self) -> Option<u64> {
        match self {
            ConfigValue::Yaml(value) => value.as_u64(),
            ConfigValue::Text(text) => text.parse().ok(),
        }
    }

    pub(super) fn duration_ms(&self) -> Option<i64> {
        match self {
            ConfigValue::Yaml(value) if value.as_u64() == Some(0) => Some(0),
            _ => parse_duration(self.text()?),
        }
    }

    /// `on` and `off`, which older YAML reads as booleans itself.
    pub(super) fn switch(&self) -> Option<bool> {
        match self {
            ConfigValue::Yaml(Value::Bool(on)) => Some(*on),
            _ => match self.text()? {
                "on" | "true" => Some(true),
                "off" | "false" => Some(false),
                _ => None,
            },
        }
    }

    /// Bits of permissions, as text: YAML would read other numbers from `0027`.
    pub(super) fn umask(&self) -> Option<u32> {
        let text = self.text().filter(|text| text.bytes().all(|digit| digit.is_ascii_digit()))?;
        u32::from_str_radix(text, 8).ok().filter(|bits| *bits <= 0o077)
    }

    /// Names of hosts: a list, or in a text separated by commas.
    pub(super) fn hosts(&self) -> Option<Vec<String>> {
        let names: Vec<String> = match self {
            ConfigValue::Yaml(Value::Array(all)) => {
                all.iter().map(|one| one.as_str().map(str::to_owned)).collect::<Option<_>>()?
            }
            ConfigValue::Yaml(_) => return None,
            ConfigValue::Text(text) if text.trim().is_empty() => Vec::new(),
            ConfigValue::Text(text) => text.split(',').map(|name| name.trim().to_owned()).collect(),
        };
        let is_name = |name: &String| {
            let part = |part: &str| {
                !part.is_empty() && part.bytes().all(|c| c.is_ascii_alphanumeric() || b"-_".contains(&c))
            };
            name.len() <= 253 && name.split('.').all(part)
        };
        (names.len() <= HOSTS_MAX && names.iter().all(is_name)).then_some(names)
    }

    pub(super) fn bytes(&self) -> Option<u64> {
        self.whole_number().or_else(|| parse_size(self.text()?))
    }
}

/// The three origins of settings, and which of them exist.
pub(super) struct ConfigReader {
    tree: Value,
    file: String,
    env: BTreeMap<String, String>,
    /// Variables whose values are not UTF-8.
    unreadable: BTreeSet<String>,
    flags: BTreeMap<&'static str, String>,
    /// Paths of all settings that were looked for, which are all there are.
    pub(super) known: BTreeSet<String>,
}

impl ConfigReader {
    pub(super) fn new(
        text: &str,
        file: String,
        variables: impl Iterator<Item = (OsString, OsString)>,
        flags: ConfigFlags,
    ) -> Result<ConfigReader, ConfigError> {
        let mut tree = parse_yaml(text, &file)?;
        if tree.is_null() {
            tree = Value::Object(serde_json::Map::new());
        }
        if !tree.is_object() {
            return Err(ConfigError::Bad {
                path: "the configuration".to_owned(),
                bound: "a map of settings".to_owned(),
                value: ConfigValue::Yaml(tree).shown(),
                origin: file,
            });
        }
        let (mut env, mut unreadable) = (BTreeMap::new(), BTreeSet::new());
        for (name, value) in variables {
            let name = name.to_string_lossy().into_owned();
            if !name.starts_with(ENV_PREFIX) || is_foreign(&name) {
                continue;
            }
            match value.into_string() {
                Ok(value) => drop(env.insert(name, value)),
                Err(_) => drop(unreadable.insert(name)),
            }
        }
        let flags = [("data_dir", flags.data_dir), ("listen", flags.listen), ("workers", flags.workers)];
        let flags = flags.into_iter().filter_map(|(path, text)| Some((path, text?))).collect();
        Ok(ConfigReader { tree, file, env, unreadable, flags, known: BTreeSet::new() })
    }

    /// The value at `path` if anyone gave one, judged by `parse`.
    pub(super) fn leaf<T>(
        &mut self,
        path: &str,
        bound: &str,
        parse: impl Fn(&ConfigValue) -> Option<T>,
    ) -> Result<Option<T>, ConfigError> {
        self.known.insert(path.to_owned());
        match self.given(path) {
            None => Ok(None),
            Some(given) => match parse(&given) {
                Some(value) => Ok(Some(value)),
                None => Err(self.bad(path, bound, &given)),
            },
        }
    }

    pub(super) fn whole(
        &mut self,
        path: &str,
        low: u64,
        high: u64,
        default: u64,
    ) -> Result<u64, ConfigError> {
        let bound = format!("a whole number from {low} to {high}");
        let value = self.leaf(path, &bound, |g| g.whole_number().filter(|n| (low..=high).contains(n)))?;
        Ok(value.unwrap_or(default))
    }

    pub(super) fn size(&mut self, path: &str, low: u64, high: u64, default: u64) -> Result<u64, ConfigError> {
        let bound = format!("a size from {} to {} in B, KiB, MiB, GiB or TiB", size(low), size(high));
        let value = self.leaf(path, &bound, |g| g.bytes().filter(|n| (low..=high).contains(n)))?;
        Ok(value.unwrap_or(default))
    }

    pub(super) fn millis(&mut self, path: &str, default: i64) -> Result<i64, ConfigError> {
        let value = self.leaf(path, "a duration such as 30s or 1h30m", ConfigValue::duration_ms)?;
        Ok(value.unwrap_or(default))
    }

    pub(super) fn needed_millis(&mut self, path: &str, default: Option<i64>) -> Result<i64, ConfigError> {
        let bound = "a duration such as 30s or 1h30m";
        match self.leaf(path, bound, ConfigValue::duration_ms)?.or(default) {
            Some(value) => Ok(value),
            None => Err(self.bad(path, bound, &ConfigValue::Yaml(Value::Null))),
        }
    }

    /// The list at `path`, whose elements are looked up one by one; a variable replaces the whole list.
    pub(super) fn list(&mut self, path: &str) -> Result<Option<Value>, ConfigError> {
        let name = env_name(path);
        if let Some(text) = self.env.get(&name) {
            let list = parse_yaml(text, &format!("environment {name}"))?;
            let mut place = &mut self.tree;
            for key in path.split('.') {
                if !place.is_object() {
                    *place = Value::Object(serde_json::Map::new());
                }
                let map = place.as_object_mut().expect("it was made one, if it was none");
                place = map.entry(key).or_insert(Value::Null);
            }
            *place = list;
        }
        self.known.insert(path.to_owned());
        let pointer: String = path.split('.').map(|part| format!("/{part}")).collect();
        Ok(self.tree.pointer(&pointer).filter(|value| !value.is_null()).cloned())
    }

    /// What was given for `path`, by the highest origin. A key without a value counts as not given.
    pub(super) fn given(&self, path: &str) -> Option<ConfigValue> {
        if let Some(text) = self.flags.get(path).or_else(|| self.env.get(&env_name(path))) {
            return Some(ConfigValue::Text(text.clone()));
        }
        let pointer: String =
            path.split(['.', '[']).map(|part| format!("/{}", part.trim_end_matches(']'))).collect();
        self.tree.pointer(&pointer).filter(|value| !value.is_null()).cloned().map(ConfigValue::Yaml)
    }

    /// Who gave the value at `path`, or the nearest thing around it.
    pub(super) fn origin(&self, path: &str) -> String {
        if self.flags.contains_key(path) {
            return format!("flag --{}", path.replace('_', "-"));
        }
        let around = path.split('[').next().unwrap_or(path);
        for candidate in [path, around] {
            let name = env_name(candidate);
            if self.env.contains_key(&name) {
                return format!("environment {name}");
            }
        }
        let top = around.split('.').next().unwrap_or(around);
        match self.given(path).is_some() || self.given(around).is_some() || self.tree.get(top).is_some() {
            true => self.file.clone(),
            false => "default".to_owned(),
        }
    }

    pub(super) fn bad(&self, path: &str, bound: &str, given: &ConfigValue) -> ConfigError {
        ConfigError::Bad {
            path: path.to_owned(),
            bound: bound.to_owned(),
            value: if may_be_secret(path, given) { given.kind() } else { given.shown() },
            origin: self.origin(path),
        }
    }

    /// Refuses every key of the file that nothing looked for, and variables of settings that are no text.
    pub(super) fn refuse_unknown(&self) -> Result<(), ConfigError> {
        self.walk(&self.tree, "")?;
        match self.known.iter().find(|path| self.unreadable.contains(&env_name(path))) {
            None => Ok(()),
            Some(path) => Err(ConfigError::Bad {
                path: path.clone(),
                bound: "UTF-8".to_owned(),
                value: "bytes that are not".to_owned(),
                origin: format!("environment {}", env_name(path)),
            }),
        }
    }

    /// A sentence on each variable that nothing looked for, with the setting whose variable is nearest; of many the rest
    /// in one. None is refused: Kubernetes makes some for every service, and scripts have their own.
    pub(super) fn unknown_variables(&self) -> Vec<String> {
        let known: BTreeSet<String> = self.known.iter().map(|path| env_name(path)).collect();
        let given: BTreeSet<&String> = self.env.keys().chain(&self.unreadable).collect();
        let unknown: Vec<&String> = given.into_iter().filter(|name| !known.contains(*name)).collect();
        let named = unknown.iter().take(UNKNOWN_NAMED_MAX).map(|name| {
            let shown: String = name.chars().take(SHOWN_MAX).collect();
            let nearness = |known: &&String| strsim::normalized_damerau_levenshtein(&shown, known);
            let nearest = known.iter().max_by(|a, b| nearness(a).total_cmp(&nearness(b)));
            let nearest = nearest.map_or("", String::as_str);
            format!(
                "no setting has the variable {}, it is ignored; the nearest is {nearest}",
                shown.escape_debug()
            )
        });
        let mut sentences: Vec<String> = named.collect();
        if unknown.len() > UNKNOWN_NAMED_MAX {
            let more = unknown.len() - UNKNOWN_NAMED_MAX;
            sentences.push(format!("{more} more variables that begin with {ENV_PREFIX} are ignored"));
        }
        sentences
    }

    /// Compares the keys below `path` with the known ones.
    fn walk(&self, value: &Value, path: &str) -> Result<(), ConfigError> {
        match value {
            Value::Object(map) => map.iter().try_for_each(|(key, value)| {
                let below = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                self.step(value, &below, path)
            }),
            Value::Array(list) => (list.iter().enumerate())
                .try_for_each(|(at, value)| self.step(value, &format!("{path}[{at}]"), path)),
            _ => Ok(()),
        }
    }

    fn step(&self, value: &Value, path: &str, above: &str) -> Result<(), ConfigError> {
        let (section, list) = (format!("{path}."), format!("{path}["));
        if self.known.iter().any(|known| known.starts_with(&section)) {
            if !value.is_object() && !value.is_null() {
                return Err(self.bad(path, "a map of settings", &ConfigValue::Yaml(value.clone())));
            }
            return self.walk(value, path);
        }
        if self.known.iter().any(|known| known.starts_with(&list)) {
            return self.walk(value, path);
        }
        if self.known.contains(path) {
            return Ok(());
        }
        let from_env = above.starts_with("windows") && self.env.contains_key(&env_name("windows"));
        let origin = if from_env { self.origin("windows") } else { self.file.clone() };
        Err(ConfigError::Unknown { path: path.to_owned(), origin, hint: self.hint(above) })
    }

    /// The settings there are directly below `section`, or at the top.
    fn hint(&self, section: &str) -> String {
        let within = |section: &str| -> BTreeSet<&str> {
            let prefix = if section.is_empty() { String::new() } else { format!("{section}.") };
            let below = self.known.iter().filter_map(|known| known.strip_prefix(&prefix));
            below.map(|rest| rest.split(['.', '[']).next().unwrap_or(rest)).collect()
        };
        let (place, keys) = match within(section) {
            keys if keys.is_empty() => ("the top", within("")),
            keys if section.is_empty() => ("the top", keys),
            keys => (section, keys),
        };
        format!("at {place} there are {}", keys.into_iter().collect::<Vec<_>>().join(", "))
    }
}

/// Whether a value at `path` could hold a secret: everything about servers, but for a few settings.
fn may_be_secret(path: &str, given: &ConfigValue) -> bool {
    let key = path.rsplit('.').next().unwrap_or(path);
    let plain = match key {
        "match" | "bootstrap" | "chunk" | "poll" => true,
        "url" => given.text().is_some_and(|text| !text.contains('@')),
        _ => false,
    };
    path.starts_with("sources") && !plain
}

/// Whether a variable with our prefix is known not to be a setting.
fn is_foreign(name: &str) -> bool {
    let of_kubernetes = |prefix: &str| match name.strip_prefix(prefix) {
        Some(rest) => rest.is_empty() || (rest.starts_with('_') && !rest.starts_with("__")),
        None => false,
    };
    ENV_RESERVED.contains(&name) || ENV_KUBERNETES.into_iter().any(of_kubernetes)
}

/// The variable of the setting at `path`.
fn env_name(path: &str) -> String {
    let joined = path.replace(']', "").replace(['.', '['], "__");
    format!("{ENV_PREFIX}{}", joined.to_ascii_uppercase())
}

fn parse_yaml(text: &str, origin: &str) -> Result<Value, ConfigError> {
    let blank = |line: &str| line.trim().is_empty() || line.trim_start().starts_with('#');
    if text.lines().all(blank) {
        return Ok(Value::Null);
    }
    let options = serde_saphyr::options! { with_snippet: false };
    serde_saphyr::from_str_with_options(text, options)
        .map_err(|error| ConfigError::Syntax { origin: origin.to_owned(), message: error.to_string() })
}
