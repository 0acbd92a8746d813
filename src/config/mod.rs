//! Settings: read from a YAML file, the environment and flags, judged here, all before a port is bound.
//!
//! A flag wins over the environment, the environment over the file, the file over the default. Whoever it comes
//! from, a setting is read by the same code and refused in the same words: path, bound, value, origin. The variable
//! of a setting is `TIDEWATCH_` and its path in capitals, joined by `__`: `limits.series` is
//! `TIDEWATCH_LIMITS__SERIES`, `windows[0].hop` is `TIDEWATCH_WINDOWS__0__HOP`. A file is ours alone, so an unknown key in
//! it is refused; the environment is not, so an unknown variable is only told.
//!
//! Not here: the bounds of numbers that change results. The nouns judge those (`Settings::validated`).

mod error;
mod flags;
pub mod http;
mod reader;
mod sources;
mod units;

use std::ffi::OsString;
use std::io::Read;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tidewatch_dataflows::settings::{ProfileSettings, SelectEntry, Settings, WINDOWS_MAX, Window, duration};

pub use self::error::ConfigError;
pub use self::flags::ConfigFlags;
use self::reader::{ConfigReader, ConfigValue};
pub use self::sources::{PrometheusSource, SelectConfig};
pub use self::units::parse_size;

/// The least that `limits.series` may be.
pub const LIMITS_SERIES_MIN: u64 = 256;
/// What `umask` must be.
const UMASK: &str = "an octal number in quotes from \"0000\" to \"0077\"";
/// What `web.hosts` must be.
const HOSTS: &str = "a list of up to 64 host names without ports such as [tidewatch.example.org]";
/// Largest configuration file read, in bytes.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Everything that can be set.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Where everything durable lives; one process at a time.
    pub data_dir: PathBuf,
    /// Address of the HTTP server.
    pub listen: SocketAddr,
    /// Timely worker threads, 1 to 256.
    pub workers: usize,
    /// Windows, by rising length.
    pub windows: Vec<Window>,
    /// How long a silent series is waited for before its window closes.
    pub idle_timeout_ms: i64,
    /// How far behind the newest sample of its series a late one still corrects.
    pub allowed_lateness_ms: i64,
    /// How long one that was away is waited for before silence closes windows again.
    pub catch_up_ms: i64,
    /// How long nothing may be computed, although there is something, before the process ends.
    pub watchdog_ms: i64,
    /// Which permissions new files and folders do not get.
    pub umask: u32,
    /// What browsers see.
    pub web: WebConfig,
    /// What is refused at the rim.
    pub limits: LimitsConfig,
    /// The log in.
    pub journal: JournalConfig,
    /// The log out.
    pub outbox: OutboxConfig,
    /// What a start begins from.
    pub snapshots: SnapshotsConfig,
    /// What can be read back.
    pub store: StoreConfig,
    /// Who is asked for samples, beside what is sent to us.
    pub sources: SourcesConfig,
    /// Whether and when it is looked at what kind of series each is.
    pub profile: ProfileSettings,
    /// What is done with which series.
    pub select: Vec<SelectConfig>,
    /// How many series a second are checked against their raw samples and panes; 0 for none.
    pub audit: u32,
}

/// What browsers see.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WebConfig {
    /// Names that the header `Host` may bear, beside addresses and `localhost`.
    pub hosts: Vec<String>,
}

/// Who is asked for samples.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SourcesConfig {
    /// Prometheus servers.
    pub prometheus: Vec<PrometheusSource>,
}

/// Bounds on what comes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LimitsConfig {
    /// Most series at once.
    pub series: u64,
    /// It is not set: as many as fit into the memory that is there.
    pub series_auto: bool,
    /// Most series of one metric name.
    pub series_per_name: u64,
    /// Most labels of one series, `__name__` included.
    pub labels: usize,
    /// Most bytes of the label names and values of one series together.
    pub label_bytes: usize,
    /// Most bytes of a request's body, before and after decompression.
    pub body_bytes: usize,
    /// Most raw samples kept per series for late corrections.
    pub late_samples: u32,
    /// Most connections to the HTTP server at once.
    pub connections: usize,
}

/// The journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JournalConfig {
    /// When a push is answered.
    pub sync: Sync,
    /// Whether what snapshots have made needless is removed from journal, series log and outbox.
    pub trim: bool,
    /// Most bytes on disk; beyond it intake is refused.
    pub bytes_max: u64,
}

/// When the journal is synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sync {
    /// Before every answer, in groups.
    Commit,
    /// At most so many milliseconds after the answer.
    Interval(i64),
    /// When a segment ends and when the server stops.
    Never,
}

/// The outbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutboxConfig {
    /// Most bytes on disk; beyond it the computation waits for the sinks.
    pub bytes_max: u64,
}

/// Snapshots of the computation's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnapshotsConfig {
    /// In which time each shard is saved once.
    pub every_ms: i64,
}

/// The store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreConfig {
    /// Which store.
    pub kind: StoreKind,
    /// How long rows stay, counted from when they were written.
    pub retention_ms: i64,
    /// Rows a day that the store is meant for; more are told, and nothing is refused.
    pub rows_per_day_max: u64,
}

/// Which store keeps the rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreKind {
    /// SQLite in the data directory.
    Embedded,
}

impl Default for Config {
    fn default() -> Self {
        let computing = Settings::default();
        Config {
            data_dir: PathBuf::from("./tidewatch-data"),
            listen: SocketAddr::from(([127, 0, 0, 1], 7464)),
            workers: 2,
            windows: computing.windows,
            idle_timeout_ms: computing.idle_timeout_ms,
            allowed_lateness_ms: computing.allowed_lateness_ms,
            catch_up_ms: computing.catch_up_ms,
            limits: LimitsConfig {
                series: computing.series_max,
                series_auto: true,
                series_per_name: 200_000,
                labels: 64,
                label_bytes: 4_096,
                body_bytes: 32 << 20,
                late_samples: computing.late_samples_max,
                connections: 512,
            },
            umask: 0o077,
            web: WebConfig::default(),
            watchdog_ms: 120_000,
            journal: JournalConfig { sync: Sync::Commit, trim: true, bytes_max: 20 << 30 },
            outbox: OutboxConfig { bytes_max: 10 << 30 },
            snapshots: SnapshotsConfig { every_ms: 300_000 },
            store: StoreConfig {
                kind: StoreKind::Embedded,
                retention_ms: 30 * 86_400_000,
                rows_per_day_max: 50_000_000,
            },
            sources: SourcesConfig::default(),
            profile: computing.profile,
            select: Vec::new(),
            audit: 5,
        }
    }
}

impl Config {
    /// The windows as people say them: `1h every 1m`.
    pub fn windows_in_words(&self) -> Vec<String> {
        let words = |w: &Window| format!("{} every {}", duration(w.length_ms), duration(w.hop_ms));
        self.windows.iter().map(words).collect()
    }

    /// Reads and judges every setting; with a sentence on each variable that is none. Touches nothing but `file`.
    ///
    /// # Errors
    /// The first key of the file that is unknown, or setting of the wrong type or outside its bounds, whoever gave it.
    pub fn load(
        file: Option<&Path>,
        env: impl Iterator<Item = (OsString, OsString)>,
        flags: ConfigFlags,
    ) -> Result<(Config, Vec<String>), ConfigError> {
        let text = match file {
            Some(path) => read(path).map_err(|error| ConfigError::Read { file: path.to_owned(), error })?,
            None => String::new(),
        };
        let origin = file.map_or_else(String::new, |path| format!("file {}", path.display()));
        Config::from_parts(&text, origin, env, flags)
    }

    /// As [`Config::load`], with the file's text at hand.
    fn from_parts(
        text: &str,
        origin: String,
        env: impl Iterator<Item = (OsString, OsString)>,
        flags: ConfigFlags,
    ) -> Result<(Config, Vec<String>), ConfigError> {
        ConfigReader::new(text, origin, env, flags).and_then(|mut reader| {
            let config = reader.config()?;
            reader.refuse_unknown()?;
            Ok((config, reader.unknown_variables()))
        })
    }

    /// The numbers that change results, as the journal records them.
    pub fn settings(&self) -> Settings {
        Settings {
            windows: self.windows.clone(),
            idle_timeout_ms: self.idle_timeout_ms,
            allowed_lateness_ms: self.allowed_lateness_ms,
            catch_up_ms: self.catch_up_ms,
            late_samples_max: self.limits.late_samples,
            // What was journalled must not depend on the memory of the machine.
            series_max: match self.limits.series_auto {
                true => Settings::default().series_max,
                false => self.limits.series,
            },
            profile: self.profile,
            select: self.select_entries(),
        }
    }

    /// The entries of `select` up to the last that changes results: those before it may mean the same series.
    fn select_entries(&self) -> Vec<SelectEntry> {
        let upto = self.select.iter().rposition(|entry| !entry.options.is_default()).map_or(0, |at| at + 1);
        let entry =
            |entry: &SelectConfig| SelectEntry { matching: entry.matching.clone(), options: entry.options };
        self.select[..upto].iter().map(entry).collect()
    }

    /// Window rows that `series` series make in a day: one per series and hop of each window.
    pub fn rows_per_day(&self, series: u64) -> u64 {
        let per_series: u64 =
            self.windows.iter().map(|w| (86_400_000 / w.hop_ms.max(1)).unsigned_abs()).sum();
        series.saturating_mul(per_series)
    }
}

/// The text of a file of bounded size.
fn read(path: &Path) -> std::io::Result<String> {
    let mut text = String::new();
    std::fs::File::open(path)?.take(FILE_BYTES_MAX + 1).read_to_string(&mut text)?;
    if text.len() as u64 > FILE_BYTES_MAX {
        let message = format!("it must not exceed {FILE_BYTES_MAX} bytes");
        return Err(std::io::Error::new(std::io::ErrorKind::FileTooLarge, message));
    }
    Ok(text)
}

/// Every setting is looked up here once, which is also how the reader learns what there is.
impl ConfigReader {
    #[expect(clippy::too_many_lines, reason = "one line a setting")]
    fn config(&mut self) -> Result<Config, ConfigError> {
        let d = Config::default();
        let range = LIMITS_SERIES_MIN..=100_000_000;
        let series =
            self.leaf("limits.series", "auto or a whole number from 256 to 100000000", |given| match given
                .text()
            {
                Some("auto") => Some(None),
                _ => given.whole_number().filter(|n| range.contains(n)).map(Some),
            })?;
        let series = series.flatten();
        let config = Config {
            data_dir: self
                .leaf("data_dir", "the path of a directory", |g| {
                    Some(PathBuf::from(g.text().filter(|t| !t.is_empty())?))
                })?
                .unwrap_or(d.data_dir),
            listen: self
                .leaf("listen", "an IP address and port such as 127.0.0.1:7464", |g| g.text()?.parse().ok())?
                .unwrap_or(d.listen),
            workers: self.whole("workers", 1, 256, d.workers as u64)? as usize,
            windows: self.windows()?,
            idle_timeout_ms: self.millis("idle_timeout", d.idle_timeout_ms)?,
            allowed_lateness_ms: self.millis("allowed_lateness", d.allowed_lateness_ms)?,
            catch_up_ms: self.millis("catch_up", d.catch_up_ms)?,
            watchdog_ms: self
                .leaf("watchdog", "a duration from 10s to 1h", |g| {
                    g.duration_ms().filter(|ms| (10_000..=3_600_000).contains(ms))
                })?
                .unwrap_or(d.watchdog_ms),
            umask: self.leaf("umask", UMASK, ConfigValue::umask)?.unwrap_or(d.umask),
            web: WebConfig {
                hosts: self.leaf("web.hosts", HOSTS, ConfigValue::hosts)?.unwrap_or(d.web.hosts),
            },
            limits: LimitsConfig {
                series: series.unwrap_or(d.limits.series),
                series_auto: series.is_none(),
                series_per_name: self.whole(
                    "limits.series_per_name",
                    1,
                    100_000_000,
                    d.limits.series_per_name,
                )?,
                labels: self.whole("limits.labels", 1, 1_024, d.limits.labels as u64)? as usize,
                label_bytes: self.whole("limits.label_bytes", 64, 1 << 20, d.limits.label_bytes as u64)?
                    as usize,
                body_bytes: self.size("limits.body_bytes", 1 << 10, 1 << 30, d.limits.body_bytes as u64)?
                    as usize,
                late_samples: self.whole("limits.late_samples", 16, 1 << 20, d.limits.late_samples.into())?
                    as u32,
                connections: self.whole("limits.connections", 16, 65_536, d.limits.connections as u64)?
                    as usize,
            },
            journal: JournalConfig {
                sync: self
                    .leaf("journal.sync", "commit, never, or an interval from 10ms to 1m", |g| {
                        match g.text()? {
                            "commit" => Some(Sync::Commit),
                            "never" => Some(Sync::Never),
                            _ => g.duration_ms().filter(|ms| (10..=60_000).contains(ms)).map(Sync::Interval),
                        }
                    })?
                    .unwrap_or(d.journal.sync),
                trim: self.leaf("journal.trim", "on or off", ConfigValue::switch)?.unwrap_or(d.journal.trim),
                bytes_max: self.size("journal.bytes_max", 1 << 20, 1 << 50, d.journal.bytes_max)?,
            },
            outbox: OutboxConfig {
                bytes_max: self.size("outbox.bytes_max", 1 << 20, 1 << 50, d.outbox.bytes_max)?,
            },
            snapshots: SnapshotsConfig {
                every_ms: self
                    .leaf("snapshots.every", "a duration from 1s to 1h", |g| {
                        g.duration_ms().filter(|ms| (1_000..=3_600_000).contains(ms))
                    })?
                    .unwrap_or(d.snapshots.every_ms),
            },
            store: StoreConfig {
                kind: self
                    .leaf("store.kind", "embedded", |g| {
                        (g.text()? == "embedded").then_some(StoreKind::Embedded)
                    })?
                    .unwrap_or(d.store.kind),
                retention_ms: self
                    .leaf("store.retention", "a duration from 1h to 3650d", |g| {
                        g.duration_ms().filter(|ms| (3_600_000..=3_650 * 86_400_000).contains(ms))
                    })?
                    .unwrap_or(d.store.retention_ms),
                rows_per_day_max: self.whole(
                    "store.rows_per_day_max",
                    1,
                    1_000_000_000_000,
                    d.store.rows_per_day_max,
                )?,
            },
            sources: d.sources,
            profile: ProfileSettings {
                enabled: self
                    .leaf("profile.enabled", "on or off", ConfigValue::switch)?
                    .unwrap_or(d.profile.enabled),
                every_ms: self.millis("profile.every", d.profile.every_ms)?,
                publish_every_ms: self.millis("profile.publish_every", d.profile.publish_every_ms)?,
                season_days: self.whole("profile.season_days", 1, 28, d.profile.season_days.into())? as u32,
            },
            select: self.select()?,
            audit: self.whole("audit", 0, 1_000, d.audit.into())? as u32,
        };
        let judged = config.settings().validated().map_err(|error| ConfigError::Bad {
            origin: self.origin(&error.field),
            path: error.field,
            bound: error.bound,
            value: error.value,
        })?;
        // How far sources reach back depends on the windows, so these have to be good.
        let longest_ms = judged.windows.iter().map(|window| window.length_ms).max().unwrap_or(0);
        let sources = SourcesConfig { prometheus: self.prometheus_sources(longest_ms)? };
        Ok(Config { windows: judged.windows, sources, ..config })
    }

    /// The windows given, or the default ones; an index in a message is the position in the list as written.
    fn windows(&mut self) -> Result<Vec<Window>, ConfigError> {
        let bound = format!("a list of 1 to {WINDOWS_MAX} windows such as [{{length: 1h, hop: 1m}}]");
        let given = match self.list("windows")? {
            None => None,
            Some(Value::Array(list)) if (1..=WINDOWS_MAX).contains(&list.len()) => Some(list),
            Some(other) => return Err(self.bad("windows", &bound, &ConfigValue::Yaml(other))),
        };
        let mut entries = given.iter().flatten().enumerate();
        if let Some((at, entry)) = entries.find(|(_, entry)| !entry.is_object()) {
            let entry = ConfigValue::Yaml(entry.clone());
            return Err(self.bad(&format!("windows[{at}]"), "a map such as {length: 1h, hop: 1m}", &entry));
        }
        let defaults = Settings::default().windows;
        let mut windows = Vec::new();
        for at in 0..given.as_ref().map_or(defaults.len(), Vec::len) {
            let default = if given.is_none() { defaults.get(at) } else { None };
            let length = format!("windows[{at}].length");
            let hop = format!("windows[{at}].hop");
            windows.push(Window {
                length_ms: self.needed_millis(&length, default.map(|w| w.length_ms))?,
                hop_ms: self.needed_millis(&hop, default.map(|w| w.hop_ms))?,
            });
        }
        Ok(windows)
    }
}

#[cfg(test)]
mod tests;
