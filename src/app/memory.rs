//! How many series fit into the memory that is there: what `limits.series: auto` means.
//!
//! The bound is applied at the rim, before the journal, as a bound that is set is. The settings in the journal have the fixed
//! default in its place, so another amount of memory changes no result of what the journal holds.

use std::fmt;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tidewatch_dataflows::settings::Settings;
use tidewatch_dataflows::stages::quantiles;

use super::status::thousands;
use crate::config::{Config, LIMITS_SERIES_MIN};

/// Of the memory, the state of series may have one part in so many: requests, caches and the rest need theirs.
const SHARE: u64 = 2;
/// What the labels of a series take, their text once and once a spelling, and the maps.
const LABELS_BYTES: u64 = 700;
/// Where the system tells of cgroups.
const CGROUPS: &str = "/sys/fs/cgroup";

/// What series may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SeriesRoom {
    /// Bytes of memory that this process may use, if the system tells.
    pub memory_bytes: Option<u64>,
    /// Bytes that a series takes with the windows in force, of samples 15 s apart.
    pub series_bytes: u64,
}

impl SeriesRoom {
    /// The room on this machine.
    pub fn here(settings: &Settings) -> SeriesRoom {
        SeriesRoom { memory_bytes: memory_bytes(), series_bytes: series_bytes(settings) }
    }

    /// Series that fit; as many as by default where the system does not tell.
    pub fn series(&self) -> u64 {
        let most = Settings::default().series_max;
        let fit = |bytes: u64| (bytes / SHARE / self.series_bytes.max(1)).clamp(LIMITS_SERIES_MIN, most);
        self.memory_bytes.map_or(most, fit)
    }

    /// Sets `limits.series` where it is not set.
    pub fn apply(&self, config: &mut Config) {
        if config.limits.series_auto {
            config.limits.series = self.series();
        }
    }

    /// Says how many series there may be, and what they take.
    pub fn sentence(&self, config: &Config) -> String {
        let mib = |bytes: u64| thousands((bytes >> 20) as f64);
        let (series, bytes) = (config.limits.series, self.series_bytes);
        let memory = self.memory_bytes.map_or_else(
            || "the system does not tell how much there is".to_owned(),
            |bytes| format!("there are {} MiB", mib(bytes)),
        );
        format!(
            "at most {} series ({}), which take {} MiB at about {} bytes each; {memory}",
            thousands(series as f64),
            if config.limits.series_auto { "limits.series: auto" } else { "limits.series" },
            mib(series.saturating_mul(bytes)),
            thousands(bytes as f64),
        )
    }

    /// Whether what is set may be more than fits.
    pub fn exceeded(&self, config: &Config) -> bool {
        let taken = config.limits.series.saturating_mul(self.series_bytes);
        self.memory_bytes.is_some_and(|bytes| taken > bytes)
    }
}

/// What the quantiles cost that an entry of `select` sets.
pub struct QuantileCost {
    place: usize,
    matching: String,
    bytes: u64,
}

/// That of each entry which sets some.
pub fn quantile_costs(settings: &Settings) -> Vec<QuantileCost> {
    let bytes = quantiles::series_bytes(settings) as u64;
    let entries = settings.select.iter().enumerate().filter(|(_, entry)| !entry.options.quantiles.is_empty());
    entries.map(|(place, entry)| QuantileCost { place, matching: entry.matching.clone(), bytes }).collect()
}

impl QuantileCost {
    /// For who reads it by a program.
    pub fn json(&self) -> Value {
        json!({"select": self.place, "match": self.matching, "bytes_per_series": self.bytes})
    }
}

impl fmt::Display for QuantileCost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let QuantileCost { place, matching, bytes } = self;
        let bytes = thousands(*bytes as f64);
        write!(
            f,
            "select[{place}].quantiles: each series that {matching} means takes up to {bytes} bytes more"
        )
    }
}

fn series_bytes(settings: &Settings) -> u64 {
    tidewatch_dataflows::pipeline::series_bytes(settings) + LABELS_BYTES
}

/// The memory of the machine, or of the cgroups around this process if that is less.
fn memory_bytes() -> Option<u64> {
    let machine = std::fs::read_to_string("/proc/meminfo").ok().and_then(|text| total(&text));
    let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let limits = limit_files(&groups).into_iter();
    let limits = limits.filter_map(|file| std::fs::read_to_string(file).ok()?.trim().parse::<u64>().ok());
    limits.chain(machine).min()
}

/// The total of /proc/meminfo in bytes.
fn total(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.split_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1 << 10)
}

/// Files that may hold a limit, by what /proc/self/cgroup says: those of the process' group and all around it.
fn limit_files(groups: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { continue };
        let (root, names): (_, &[&str]) = match controllers {
            "" => (PathBuf::from(CGROUPS), &["memory.max", "memory.high"]),
            some if some.split(',').any(|one| one == "memory") => {
                (Path::new(CGROUPS).join("memory"), &["memory.limit_in_bytes"])
            }
            _ => continue,
        };
        // In a container the path may be one of the host: what is there is read, and the root always.
        let around = Path::new(path).ancestors().map(|group| group.strip_prefix("/").unwrap_or(group));
        files.extend(
            around.flat_map(|group| names.iter().map(|name| root.join(group).join(name)).collect::<Vec<_>>()),
        );
    }
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_of_the_memory_is_for_series_and_what_is_set_stays() {
        let room = |memory_bytes| SeriesRoom { memory_bytes, series_bytes: 20_000 };
        assert_eq!(room(Some(2_000_000_000)).series(), 50_000);
        assert_eq!(room(Some(1 << 40)).series(), 1_200_000, "never more than by default");
        assert_eq!((room(Some(1_000)).series(), room(None).series()), (LIMITS_SERIES_MIN, 1_200_000));
        let mut config = Config::default();
        room(Some(2_000_000_000)).apply(&mut config);
        assert_eq!(config.limits.series, 50_000);
        assert_eq!(config.settings(), Settings::default(), "no result depends on the memory");
        let sentence = room(Some(2_000_000_000)).sentence(&config);
        assert_eq!(
            sentence,
            "at most 50,000 series (limits.series: auto), which take 953 MiB at about 20,000 bytes each; there are 1,907 MiB"
        );
        let mut set = Config::default();
        (set.limits.series, set.limits.series_auto) = (700_000, false);
        room(Some(2_000_000_000)).apply(&mut set);
        assert_eq!((set.limits.series, set.settings().series_max), (700_000, 700_000));
        assert!(room(Some(2_000_000_000)).exceeded(&set) && !room(None).exceeded(&set));
    }

    #[test]
    fn limits_of_cgroups_are_looked_for_around_the_process() {
        let names = |groups: &str| -> Vec<String> {
            limit_files(groups).into_iter().map(|file| file.display().to_string()).collect()
        };
        assert_eq!(
            names("0::/a.slice/b\n"),
            [
                "/sys/fs/cgroup/a.slice/b/memory.max",
                "/sys/fs/cgroup/a.slice/b/memory.high",
                "/sys/fs/cgroup/a.slice/memory.max",
                "/sys/fs/cgroup/a.slice/memory.high",
                "/sys/fs/cgroup/memory.max",
                "/sys/fs/cgroup/memory.high"
            ]
        );
        assert_eq!(
            names("7:cpu,memory:/x\n3:cpuset:/y\nnonsense\n"),
            ["/sys/fs/cgroup/memory/x/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.limit_in_bytes"]
        );
        assert_eq!(total("MemFree: 1 kB\nMemTotal:       24684000 kB\n"), Some(24_684_000 << 10));
        assert_eq!((total(""), total("MemTotal: x kB")), (None, None));
    }

    #[test]
    fn a_series_takes_what_the_documentation_says() {
        let bytes = series_bytes(&Settings::default());
        assert!((22_000..27_000).contains(&bytes), "{bytes} bytes");
    }
}
