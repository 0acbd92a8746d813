//! Window rows that the series make in a day, beside what the store is meant for (`store.rows_per_day_max`).
//!
//! More than that is told, in the log, the metrics, `/status` and on the page, and nothing is refused: a server that ran
//! must run again.

use std::fmt;
use std::path::Path;
use std::time::{Duration, Instant};

use tidewatch_dataflows::settings::duration;

use super::data_dir::STORE_FILE;
use super::status::{bytes, thousands};
use crate::config::Config;
use crate::disk;
use crate::status::RowsPerDayStatus;

/// Bytes of the store that a window row takes, indices included; measured, see docs/operations.md.
const ROW_BYTES: u64 = 110;
const DAY_MS: f64 = 86_400_000.0;
/// How often the log says it again while it holds.
pub const AGAIN: Duration = Duration::from_secs(3_600);
/// How often it is looked whether it holds, and what the disk has free.
pub const LOOK_EVERY: Duration = Duration::from_secs(60);

/// The arithmetic for a number of series.
#[derive(Clone, Debug, PartialEq)]
pub struct RowsPerDay {
    /// Series that make rows.
    series: u64,
    /// Rows of one series in a day.
    of_one: u64,
    /// `store.rows_per_day_max`.
    max: u64,
    /// `store.retention`.
    retention_ms: i64,
    disk: DiskRoom,
}

/// The store on its disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskRoom {
    /// Bytes that the file system has free; none where it does not say.
    free_bytes: Option<u64>,
    /// Bytes that the store takes already. Rows that go leave their place to others.
    store_bytes: u64,
}

impl DiskRoom {
    /// As it is now; asks the file system, which may take its time.
    pub fn of(data_dir: &Path) -> DiskRoom {
        let files = ["", "-wal"].map(|end| data_dir.join([STORE_FILE, end].concat()));
        let bytes = files.iter().filter_map(|file| file.metadata().ok()).map(|file| file.len());
        DiskRoom { free_bytes: free_bytes(data_dir), store_bytes: bytes.sum() }
    }

    fn bytes(&self) -> Option<u64> {
        self.free_bytes.map(|free| free.saturating_add(self.store_bytes))
    }
}

impl RowsPerDay {
    /// With the settings at hand.
    pub fn new(config: &Config, series: u64, disk: DiskRoom) -> RowsPerDay {
        RowsPerDay {
            series,
            of_one: config.rows_per_day(1),
            max: config.store.rows_per_day_max,
            retention_ms: config.store.retention_ms,
            disk,
        }
    }

    /// Rows of all series in a day.
    pub fn estimate(&self) -> u64 {
        self.series.saturating_mul(self.of_one)
    }

    /// Whether that is more than the store is meant for.
    pub fn exceeded(&self) -> bool {
        self.estimate() > self.max
    }

    /// Series whose rows the store is meant for.
    pub fn series_that_fit(&self) -> u64 {
        self.max / self.of_one.max(1)
    }

    fn bytes_a_day(&self) -> u64 {
        self.estimate().saturating_mul(ROW_BYTES)
    }

    /// Days of these rows for which the store and what is free beside it have room; none without rows, or where the disk
    /// does not say what is free.
    pub fn days_that_fit(&self) -> Option<f64> {
        let a_day = self.bytes_a_day();
        self.disk.bytes().filter(|_| a_day > 0).map(|bytes| bytes as f64 / a_day as f64)
    }

    /// Whether that is the whole retention, so that the disk never fills.
    pub fn retention_fits(&self) -> Option<bool> {
        self.days_that_fit().map(|days| days >= self.retention_ms as f64 / DAY_MS)
    }

    /// As `/status` shows it.
    pub fn status(&self) -> RowsPerDayStatus {
        RowsPerDayStatus {
            series: self.series,
            estimate: self.estimate(),
            max: self.max,
            exceeded: self.exceeded(),
            days_that_fit: self.days_that_fit(),
            retention: duration(self.retention_ms),
            retention_fits: self.retention_fits(),
        }
    }
}

/// The arithmetic, on one line.
impl fmt::Display for RowsPerDay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = |n: u64| thousands(n as f64);
        let (series, of_one, estimate, max) =
            (words(self.series), words(self.of_one), words(self.estimate()), words(self.max));
        write!(
            f,
            "{series} series x {of_one} rows = {estimate} rows a day; store.rows_per_day_max is {max}"
        )?;
        write!(f, ", enough for {} series", words(self.series_that_fit()))?;
        let (Some(days), Some(fits), Some(free)) =
            (self.days_that_fit(), self.retention_fits(), self.disk.free_bytes)
        else {
            return Ok(());
        };
        let [a_day, free, taken] =
            [self.bytes_a_day(), free, self.disk.store_bytes].map(|count| bytes(count as f64));
        let kept = duration(self.retention_ms);
        write!(f, "; about {a_day} a day are kept for {kept}, ")?;
        write!(f, "the {taken} of the store and {free} free ")?;
        match fits {
            true => write!(f, "are enough for that"),
            false => write!(f, "hold {days:.1} days"),
        }
    }
}

/// What is free where the data directory is or will be made.
fn free_bytes(data_dir: &Path) -> Option<u64> {
    let there = data_dir.ancestors().map(|dir| if dir.as_os_str().is_empty() { Path::new(".") } else { dir });
    disk::free_bytes(there.into_iter().find(|dir| dir.is_dir())?).ok()
}

/// What the log should say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// There are too many rows, for the first time or again.
    Exceeded,
    /// There are no longer too many.
    Over,
}

/// When the log said so, and whether it holds since.
#[derive(Debug, Default)]
pub struct Warning {
    warned_at: Option<Instant>,
    holds: bool,
}

impl Warning {
    /// Takes note of how it is `now`; what the log should say, if anything.
    pub fn judge(&mut self, exceeded: bool, now: Instant) -> Option<Notice> {
        if !exceeded {
            return std::mem::take(&mut self.holds).then_some(Notice::Over);
        }
        // A number that goes up and down around the bound is no reason to say it more often.
        let due = self.warned_at.is_none_or(|last| now.duration_since(last) >= AGAIN);
        due.then(|| {
            *self = Warning { warned_at: Some(now), holds: true };
            Notice::Exceeded
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(series: u64, free_bytes: Option<u64>, store_bytes: u64) -> RowsPerDay {
        RowsPerDay::new(&Config::default(), series, DiskRoom { free_bytes, store_bytes })
    }

    #[test]
    fn the_arithmetic_is_told() {
        let table = [
            (
                rows(24_509, None, 5 << 30),
                false,
                "24,509 series x 2,040 rows = 49,998,360 rows a day; store.rows_per_day_max is 50,000,000, enough for 24,509 series",
            ),
            (
                rows(24_510, Some(0), 0),
                true,
                "24,510 series x 2,040 rows = 50,000,400 rows a day; store.rows_per_day_max is 50,000,000, enough for 24,509 series; about 5.1 GiB a day are kept for 30d, the 0 B of the store and 0 B free hold 0.0 days",
            ),
            (
                rows(100_000, Some(100 << 30), 20 << 30),
                true,
                "100,000 series x 2,040 rows = 204,000,000 rows a day; store.rows_per_day_max is 50,000,000, enough for 24,509 series; about 20.9 GiB a day are kept for 30d, the 20 GiB of the store and 100 GiB free hold 5.7 days",
            ),
            (
                rows(10_000, Some(1 << 30), 63 << 30),
                false,
                "10,000 series x 2,040 rows = 20,400,000 rows a day; store.rows_per_day_max is 50,000,000, enough for 24,509 series; about 2.1 GiB a day are kept for 30d, the 63 GiB of the store and 1 GiB free are enough for that",
            ),
        ];
        for (rows, exceeded, words) in table {
            assert_eq!((rows.exceeded(), rows.to_string().as_str()), (exceeded, words));
        }
        assert_eq!(rows(0, Some(1), 1).days_that_fit(), None);
        assert_eq!(rows(u64::MAX, Some(1), u64::MAX).estimate(), u64::MAX);
        let unknown = rows(100_000, None, 1).status();
        assert_eq!((unknown.days_that_fit, unknown.retention_fits), (None, None));
    }

    #[test]
    fn a_store_that_has_its_size_never_fills_the_disk() {
        // 30 days of 10,000 series are 67.32 GB. What goes makes place for what comes.
        let all = 30 * 10_000 * 2_040 * ROW_BYTES;
        for (free, store, fits) in [(all, 0, true), (0, all, true), (1, all - 1, true), (0, all - 1, false)] {
            let rows = rows(10_000, Some(free), store);
            assert_eq!(rows.status().retention_fits, Some(fits), "{free} {store}: {rows}");
            assert_eq!(rows.status().retention, "30d");
            assert_eq!(rows.to_string().ends_with("are enough for that"), fits, "{rows}");
        }
    }

    #[test]
    fn the_log_says_it_at_once_and_every_hour_while_it_holds() {
        let (mut warning, begun) = (Warning::default(), Instant::now());
        let after = |minutes: u64| begun + Duration::from_secs(60 * minutes);
        let table = [
            (0, false, None),
            (1, true, Some(Notice::Exceeded)),
            (2, true, None),
            (60, true, None),
            (61, true, Some(Notice::Exceeded)),
            (120, true, None),
            (121, true, Some(Notice::Exceeded)),
            (122, false, Some(Notice::Over)),
            (123, false, None),
            (124, true, None),
            (125, false, None),
            (181, true, Some(Notice::Exceeded)),
            (182, false, Some(Notice::Over)),
        ];
        for (minute, exceeded, say) in table {
            assert_eq!(warning.judge(exceeded, after(minute)), say, "minute {minute}");
        }
    }

    #[test]
    fn the_bytes_of_the_store_are_those_of_its_files() {
        let folder = crate::store::testing::TempDir::new();
        assert_eq!(DiskRoom::of(folder.path()).store_bytes, 0);
        for (file, bytes) in [(STORE_FILE.to_owned(), 5_000), (format!("{STORE_FILE}-wal"), 700)] {
            std::fs::write(folder.path().join(file), vec![0; bytes]).unwrap();
        }
        let disk = DiskRoom::of(folder.path());
        assert!(disk.store_bytes == 5_700 && disk.free_bytes > Some(0), "{disk:?}");
    }

    #[test]
    fn a_directory_that_is_not_there_yet_is_on_the_disk_of_those_above_it() {
        let folder = std::env::temp_dir();
        for dir in [folder.join("tidewatch-not-there/data"), folder, Path::new("not-there").to_owned()] {
            assert!(free_bytes(&dir) > Some(0), "{}", dir.display());
        }
    }
}
