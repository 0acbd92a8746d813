//! What a demo was made of: the file `demo.json` of its data directory, which also tells a demo's directory from others.
//!
//! It is written once, before anything else is there. With it every start makes the same samples, so that a demo goes on
//! where it was. Not here: how far it has come (`sources/demo`, as of any other source).

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::Path;

use anyhow::{Context, bail, ensure};
use serde::{Deserialize, Serialize};
use tidewatch_dataflows::settings::{duration, parse_duration};

use super::super::data_dir::{LOCK_FILE, STORE_FILE};
use crate::cli;
use crate::generate::{ALLOWED_LATENESS_MS, GenerateOptions, SPAN_MS_MAX};

/// Name of the file in the data directory.
pub const FILE: &str = "demo.json";
/// While it is written.
const NEXT: &str = "demo.json.next";
/// What the file's version has to be.
const VERSION: u32 = 1;

/// Most series; ten thousand with the default step and history are two minutes of computing.
const SERIES_MAX: u64 = 10_000;
const HOURS_MAX: f64 = 168.0;
const STEP_MS: std::ops::RangeInclusive<i64> = 1_000..=300_000;
const SERIES: u64 = 200;
const HOURS: f64 = 48.0;
const SEED: u64 = 1;

/// What the samples of a demo are made of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DemoSpec {
    version: u32,
    pub series: u64,
    pub step_ms: i64,
    seed: u64,
    /// First time of the history.
    pub start_ms: i64,
    pub hours: f64,
    /// How far behind the newest of its series a sample may be delivered.
    allowed_lateness_ms: i64,
    late_ratio: f64,
    duplicate_ratio: f64,
    conflict_ratio: f64,
}

impl DemoSpec {
    /// A new demo, as the flags say.
    ///
    /// # Errors
    /// The first flag outside its bounds.
    pub fn new(args: &cli::DemoArgs, allowed_lateness_ms: i64, now_ms: i64) -> anyhow::Result<DemoSpec> {
        let (series, hours) = (args.series.unwrap_or(SERIES), args.hours.unwrap_or(HOURS));
        ensure!((1..=SERIES_MAX).contains(&series), "--series must be 1 to {SERIES_MAX}; got {series}");
        ensure!(
            hours > 0.0 && hours <= HOURS_MAX,
            "--hours must be above 0, at most {HOURS_MAX}; got {hours}"
        );
        Ok(DemoSpec {
            version: VERSION,
            series,
            step_ms: step_ms(args)?.unwrap_or(15_000),
            seed: SEED,
            start_ms: now_ms - (hours * 3_600_000.0) as i64,
            hours,
            // Half of what Tidewatch takes: also one that is sent again after a kill is then no older than that.
            allowed_lateness_ms: ALLOWED_LATENESS_MS.min(allowed_lateness_ms) / 2,
            late_ratio: 0.002,
            duplicate_ratio: 0.001,
            conflict_ratio: 0.0005,
        })
    }

    /// What the generator makes it of, for ten years.
    pub fn options(&self) -> GenerateOptions {
        GenerateOptions {
            series: self.series,
            seed: self.seed,
            step_ms: self.step_ms,
            allowed_lateness_ms: self.allowed_lateness_ms,
            late_ratio: self.late_ratio,
            duplicate_ratio: self.duplicate_ratio,
            conflict_ratio: self.conflict_ratio,
            ..GenerateOptions::over(self.start_ms, self.start_ms.saturating_add(SPAN_MS_MAX))
        }
    }

    /// How long the history is.
    pub fn history_ms(&self) -> i64 {
        (self.hours * 3_600_000.0) as i64
    }

    /// Longest epoch of a history, by its own time. What a kill makes it send again is then within Tidewatch's lateness.
    pub fn epoch_ms(&self) -> i64 {
        self.allowed_lateness_ms.max(30_000)
    }

    /// Reads what the demo in a data directory is made of; none if nothing is there yet.
    ///
    /// # Errors
    /// A directory that no demo made, or a file that cannot be read.
    pub fn read(dir: &Path) -> anyhow::Result<Option<DemoSpec>> {
        let path = dir.join(FILE);
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return foreign(dir).map(|()| None),
            Err(error) => return Err(error).with_context(|| format!("reading {}", path.display())),
        };
        let advice =
            || format!("{} is not what this program writes; begin anew with --fresh", path.display());
        let made: DemoSpec = serde_json::from_str(&text).with_context(advice)?;
        ensure!(made.version == VERSION, "its version is {}, not {VERSION}: {}", made.version, advice());
        made.options().validated().with_context(advice)?;
        Ok(Some(made))
    }

    /// Writes it down for good.
    ///
    /// # Errors
    /// The disk's.
    pub fn write(&self, dir: &Path) -> anyhow::Result<()> {
        let (next, path) = (dir.join(NEXT), dir.join(FILE));
        let write = || {
            let mut file = File::create(&next)?;
            file.write_all(&serde_json::to_vec(self)?)?;
            file.sync_all()?;
            std::fs::rename(&next, &path)?;
            File::open(dir)?.sync_all()
        };
        write().with_context(|| format!("writing {}", path.display()))
    }

    /// Refuses flags that ask for another demo than the one that is there.
    ///
    /// # Errors
    /// The first such flag.
    pub fn same(&self, args: &cli::DemoArgs) -> anyhow::Result<()> {
        let step = step_ms(args)?;
        let asked = [
            ("series", args.series.map(|n| n.to_string()), self.series.to_string()),
            ("hours", args.hours.map(|n| n.to_string()), self.hours.to_string()),
            ("step", step.map(duration), duration(self.step_ms)),
        ];
        for (flag, asked, made) in asked {
            if let Some(asked) = asked.filter(|asked| *asked != made) {
                bail!(
                    "the demo that is there was made with --{flag} {made}; got {asked}: leave it out, or begin anew with --fresh"
                );
            }
        }
        Ok(())
    }
}

fn step_ms(args: &cli::DemoArgs) -> anyhow::Result<Option<i64>> {
    let judge = |text: &String| {
        let step_ms = parse_duration(text).filter(|step_ms| STEP_MS.contains(step_ms));
        step_ms.with_context(|| format!("--step must be a duration from 1s to 5m; got {text:?}"))
    };
    args.step.as_ref().map(judge).transpose()
}

/// Refuses a directory with anything in it but what is there before `demo.json` is.
fn foreign(dir: &Path) -> anyhow::Result<()> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).with_context(|| format!("reading {}", dir.display())),
    };
    for entry in entries {
        let name = entry.with_context(|| format!("reading {}", dir.display()))?.file_name();
        if [LOCK_FILE, NEXT].iter().any(|ours| name == *ours) {
            continue;
        }
        let what = if name == STORE_FILE { "the data of a server" } else { "other files" };
        bail!(
            "{} holds {what} and was not made by a demo (there is no {FILE}); choose another directory with --data-dir",
            dir.display()
        );
    }
    Ok(())
}

/// Removes everything an earlier demo left, but the lock, which the caller holds.
///
/// # Errors
/// A directory that no demo made, or what cannot be removed.
pub fn remove(dir: &Path) -> anyhow::Result<()> {
    if !dir.join(FILE).exists() {
        return foreign(dir);
    }
    let failed = || format!("removing the demo in {}", dir.display());
    for entry in std::fs::read_dir(dir).with_context(failed)? {
        let entry = entry.with_context(failed)?;
        let name = entry.file_name();
        // The name of the file that says whose all this is goes last.
        if name == LOCK_FILE || name == FILE {
            continue;
        }
        let is_folder = entry.file_type().with_context(failed)?.is_dir();
        let removed = if is_folder {
            std::fs::remove_dir_all(entry.path())
        } else {
            std::fs::remove_file(entry.path())
        };
        removed.with_context(failed)?;
    }
    std::fs::remove_file(dir.join(FILE)).with_context(failed)
}
