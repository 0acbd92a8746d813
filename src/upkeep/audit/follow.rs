//! The audit's own source: a few series are followed through the journal, and their rows in the outbox are computed again.
//!
//! ```text
//!  outbox ──► rows of followed series, epoch by epoch ──┐
//!  journal ─► their samples, up to the same epoch ──────┴─► which of them count ─► the slow twin ─► the same numbers?
//! ```
//! Panes, rings and snapshots have no part in it, so it sees samples that they lose, at a restart above all. Why samples
//! are kept, in memory and in a file: the journal is trimmed behind the snapshots, some ten minutes with the defaults, and
//! windows are hours long. A restart reads the file, and the journal on from the file's epoch; then rows that lack what was
//! lost are found, however long their window. Judging them by counts alone would need as much of a file, and see less.
//!
//! It reads what is durable with readers of its own and has a share of time. Nobody waits for it: if the logs are
//! trimmed before it has read them, it gives up what it follows and counts that.
//!
//! Not here: what the store makes of the rows (`verify` reads the store), and which samples count (`followed`).

use std::cell::Cell;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use tidewatch_dataflows::rows::WindowStats;
use tidewatch_dataflows::sample::{Control, EpochEnd, SeriesId};
use tidewatch_dataflows::settings::{Settings, duration};
use tidewatch_dataflows::shard::RawSamples;

use super::deps::{AuditDeps, ROW, WARN_EVERY, time_in_words};
use super::followed::{AdmitRules, FollowedSeries, SkipReason};
use super::judge::{RowDifference, differences};
use super::state::{self, AuditState};
use crate::config::Config;
use crate::engine::AskError;
use crate::journal::{JournalReader, Record};
use crate::metrics;
use crate::outbox::{ReadStep, Tail};

/// Name of the file in the data directory.
pub const FILE: &str = "audit";
/// Series that are followed for each series a second that is audited, and most of all.
const FOLLOWED_PER_SERIES: usize = 2;
const FOLLOWED_MAX: usize = 64;
/// Most samples kept of all series: 4 MiB.
const SAMPLES_MAX: usize = 1 << 18;
/// Most rows of an epoch that are held until its samples are read.
const ROWS_MAX: usize = 1 << 16;
/// A pause between two rounds.
const PAUSE: Duration = Duration::from_secs(1);
/// How long a round may take for each series a second that is audited, and at most.
const ROUND_PER_SERIES: Duration = Duration::from_micros(1_500);
const ROUND_MAX: Duration = Duration::from_millis(500);
/// How often series are chosen, and how many at a time at most.
const CHOOSE_EVERY: Duration = Duration::from_secs(1);
const CHOSEN_MAX: usize = 4;
/// How often the file is written, unless snapshots are made more often: the journal is trimmed behind those.
const KEEP_EVERY: Duration = Duration::from_secs(60);

/// Where it is in the logs.
struct LogPlace {
    journal: JournalReader,
    outbox: Tail,
    /// The epoch whose samples were read last.
    epoch: u64,
    /// Rows of the next epoch, of followed series.
    rows: Vec<WindowStats>,
    /// That epoch, once all of its rows are there.
    due: Option<u64>,
    /// Settings that hold from the epoch on that is being read.
    settings: Option<Settings>,
}

/// The logs cannot be read on.
#[derive(Debug, thiserror::Error)]
#[error("{attempt}: {why}")]
struct FollowError {
    attempt: &'static str,
    why: String,
}

impl FollowError {
    /// What an attempt failed of.
    fn because<E: std::fmt::Display>(attempt: &'static str) -> impl FnOnce(E) -> FollowError {
        move |error| FollowError { attempt, why: error.to_string() }
    }
}

/// Follows series.
pub struct Follower {
    deps: AuditDeps,
    outbox: PathBuf,
    file: PathBuf,
    random: fastrand::Rng,
    /// How many series are to be followed.
    wanted: usize,
    /// How long a round may take.
    round: Duration,
    keep_every: Duration,
    settings: Settings,
    rules: AdmitRules,
    followed: Vec<FollowedSeries>,
    /// Their ids, sorted.
    ids: Vec<u64>,
    /// The epoch to begin with, if it is not the present one.
    begin: Option<u64>,
    place: Option<LogPlace>,
    last: Option<EpochEnd>,
    /// Chosen so far: windows take turns in deciding how long a series is followed.
    turn: usize,
    chosen: Instant,
    written: Instant,
    warned_at: Option<Instant>,
    warned: Option<Instant>,
}

impl Follower {
    /// Begins with what an earlier process kept, unless records of the journal may be missing, as was accepted.
    pub fn new(config: &Config, accept_loss: bool, deps: &AuditDeps) -> Follower {
        let wanted = FOLLOWED_MAX.min(config.audit as usize * FOLLOWED_PER_SERIES);
        let settings = config.settings();
        let every = Duration::from_millis(config.snapshots.every_ms.unsigned_abs());
        let mut follower = Follower {
            deps: deps.clone(),
            outbox: config.data_dir.join("outbox"),
            file: config.data_dir.join(FILE),
            random: fastrand::Rng::new(),
            wanted,
            round: ROUND_MAX.min(ROUND_PER_SERIES * config.audit),
            keep_every: KEEP_EVERY.min(every),
            rules: AdmitRules::of(&settings, SAMPLES_MAX / wanted.max(1)),
            settings,
            followed: Vec::new(),
            ids: Vec::new(),
            begin: None,
            place: None,
            last: None,
            turn: 0,
            chosen: Instant::now(),
            written: Instant::now(),
            warned_at: None,
            warned: None,
        };
        if !accept_loss {
            follower.go_on();
        }
        follower.list();
        follower
    }

    /// Goes on with what is in the file.
    fn go_on(&mut self) {
        let kept = match state::read(&self.file) {
            Ok(None) => return,
            Ok(Some(kept)) if kept.epoch <= self.deps.outbox.epoch().unwrap_or(0) => kept,
            Ok(Some(kept)) => {
                let epoch = kept.epoch;
                return tracing::warn!(
                    "the audit begins anew: {FILE} is ahead of the outbox, at epoch {epoch}"
                );
            }
            Err(why) => return tracing::warn!("the audit begins anew: {FILE} cannot be used: {why}"),
        };
        self.rules = AdmitRules::of(&kept.settings, self.rules_samples_max());
        self.settings = kept.settings;
        self.followed = kept.followed;
        self.followed.truncate(self.wanted);
        self.begin = Some(kept.epoch);
    }

    fn rules_samples_max(&self) -> usize {
        SAMPLES_MAX / self.wanted.max(1)
    }

    /// Runs until it is stopped.
    pub fn until(mut self, stopped: &Receiver<()>) {
        while stopped.recv_timeout(PAUSE) == Err(RecvTimeoutError::Timeout) {
            let begun = Instant::now();
            while begun.elapsed() < self.round && self.step() {}
            self.keep(false);
            self.deps.metrics.audit_seconds.inc_by(begun.elapsed().as_secs_f64());
        }
        self.keep(true);
    }

    /// Reads a record; whether there may be another.
    fn step(&mut self) -> bool {
        let read = self.read();
        if read.is_ok() && self.chosen.elapsed() >= CHOOSE_EVERY && self.is_between() {
            self.chosen = Instant::now();
            self.choose();
        }
        read.unwrap_or_else(|error| {
            self.give_up(&error);
            false
        })
    }

    /// Whether samples and rows are read up to the end of the same epoch.
    fn is_between(&self) -> bool {
        self.place.as_ref().is_some_and(|place| place.due.is_none())
    }

    fn read(&mut self) -> Result<bool, FollowError> {
        let Some(place) = &mut self.place else {
            self.place = Some(self.open()?);
            return Ok(true);
        };
        let Some(due) = place.due else {
            let (ids, held, left_out) = (&self.ids, Cell::new(place.rows.len()), Cell::new(0));
            let wanted = |series: SeriesId| {
                let wanted = ids.binary_search(&series.0).is_ok();
                let room = held.get() < ROWS_MAX;
                held.set(held.get() + usize::from(wanted && room));
                left_out.set(left_out.get() + u64::from(wanted && !room));
                wanted && room
            };
            let picked = place
                .outbox
                .pick(wanted, &mut place.rows)
                .map_err(FollowError::because("reading the outbox"))?;
            if let ReadStep::End(epoch) = picked {
                place.due = Some(epoch);
            }
            self.skip(SkipReason::Rows, left_out.get());
            return Ok(picked != ReadStep::Nothing);
        };
        if place.epoch < due {
            let Some(record) =
                place.journal.next_ready().map_err(FollowError::because("reading the journal"))?
            else {
                return Ok(false);
            };
            self.take(record);
            return Ok(true);
        }
        let rows = std::mem::take(&mut place.rows);
        place.due = None;
        // An epoch that is in the outbox only has no rows: it was written in place of some that were lost. Those of the
        // epoch that was read last come later then, and have to be judged before anything goes.
        if place.epoch == due {
            rows.iter().for_each(|row| self.judge(row, due));
            self.prune();
        }
        Ok(true)
    }

    fn open(&mut self) -> Result<LogPlace, FollowError> {
        let epoch = self.begin.take().or_else(|| self.deps.outbox.epoch()).unwrap_or(0);
        let journal = self
            .deps
            .journal
            .strict_reader_after(epoch)
            .map_err(FollowError::because("opening the journal"))?;
        let outbox = Tail::open(&self.outbox, Arc::clone(&self.deps.outbox), Some(epoch));
        let outbox = outbox.map_err(FollowError::because("opening the outbox"))?;
        // Those that it has passed over are not handed on, and what is here may be of another place, or of a file.
        if let Some(settings) = journal.settings().filter(|settings| **settings != self.settings) {
            self.rules = AdmitRules::of(settings, self.rules_samples_max());
            self.settings = settings.clone();
            // Up to here late samples were judged by other rules than those in force.
            self.followed.iter_mut().for_each(|followed| followed.begin(SkipReason::Settings, &self.rules));
        }
        Ok(LogPlace { journal, outbox, epoch, rows: Vec::new(), due: None, settings: None })
    }

    /// A record of the journal.
    fn take(&mut self, record: Record) {
        let Some(place) = &mut self.place else { return };
        match record {
            Record::Samples(samples) => {
                let mut bootstrapped = Vec::new();
                for (at, id) in samples.series.iter().enumerate() {
                    if self.ids.binary_search(id).is_err() {
                        continue;
                    }
                    if samples.bootstrap != 0 {
                        bootstrapped.push(*id);
                    } else if let Some(followed) = self.followed.iter_mut().find(|one| one.series.0 == *id) {
                        followed.record(samples.at_ms[at], samples.value[at]);
                    }
                }
                bootstrapped.into_iter().for_each(|id| self.drop_one(id, SkipReason::Bootstrap));
            }
            Record::EpochEnd(end) => self.end(end),
            Record::Settings(settings) => place.settings = Some(settings),
            Record::Control(Control::Settings(settings)) => place.settings = Some((*settings).clone()),
            Record::Control(Control::Quarantine { series, .. } | Control::Lift { series }) => {
                self.drop_one(series, SkipReason::Quarantine);
            }
            // Closing by silence begins anew at another time, and some series are forgotten.
            Record::Control(Control::ClockReset { .. }) => {
                let all: Vec<u64> = self.followed.iter().map(|followed| followed.series.0).collect();
                all.into_iter().for_each(|id| self.drop_one(id, SkipReason::Clock));
            }
            Record::Control(
                Control::BootstrapBegin(_)
                | Control::BootstrapEnd { .. }
                | Control::Types(_)
                | Control::NamedTypes(_)
                | Control::Options { .. },
            )
            | Record::Bootstraps(_) => {}
        }
    }

    fn end(&mut self, end: EpochEnd) {
        let Some(place) = &mut self.place else { return };
        place.epoch = end.epoch;
        let (settings, due) = (place.settings.take(), place.due);
        // They apply to the whole epoch.
        if let Some(settings) = settings.filter(|settings| *settings != self.settings) {
            let rules = AdmitRules::of(&settings, self.rules_samples_max());
            self.followed.iter_mut().for_each(|followed| followed.reconfigure(&self.rules, &rules));
            (self.settings, self.rules) = (settings, rules);
        }
        self.followed.iter_mut().for_each(|followed| followed.end(end, &self.rules));
        self.last = Some(end);
        // The outbox has no rows of it: nothing will be judged before more samples come.
        if due.is_some_and(|due| end.epoch < due) {
            self.prune();
        }
        let silent = self.followed.iter().filter(|followed| followed.is_silent(end, &self.rules));
        let silent: Vec<u64> = silent.map(|followed| followed.series.0).collect();
        silent.into_iter().for_each(|id| self.drop_one(id, SkipReason::Silent));
    }

    fn prune(&mut self) {
        self.followed.iter_mut().for_each(|followed| followed.prune(&self.rules));
    }

    fn drop_one(&mut self, series: u64, why: SkipReason) {
        let before = self.followed.len();
        self.followed.retain(|followed| followed.series.0 != series);
        if self.followed.len() < before {
            self.skip(why, 1);
            self.list();
        }
    }

    fn list(&mut self) {
        self.ids = self.followed.iter().map(|followed| followed.series.0).collect();
        self.ids.sort_unstable();
        let exact = self.followed.iter().filter(|followed| followed.is_exact()).count();
        self.deps.metrics.audit_followed.set(exact as i64);
    }

    fn skip(&self, why: SkipReason, n: u64) {
        if n > 0 {
            let reason = metrics::SkipLabels { reason: why.as_str() };
            self.deps.metrics.audit_skipped.get_or_create(&reason).inc_by(n);
        }
    }

    /// Chooses series in place of those that were followed long enough.
    ///
    /// Samples and rows are read up to the end of one epoch, which the workers have computed, since it is in the outbox: so
    /// all that they apply after what they answer here will be heard.
    fn choose(&mut self) {
        let processing_ms = self.last.map_or(i64::MIN, |end| end.processing_ms);
        self.followed.retain(|followed| followed.until_ms > processing_ms);
        let room = self.wanted.saturating_sub(self.followed.len()).min(CHOSEN_MAX);
        if room > 0 && self.last.is_some() && (self.deps.caught_up)() {
            let numbers: Vec<u64> = (0..room).map(|_| self.random.u64(..)).collect();
            // Busy, or beginning anew: the next time is soon, and nobody who stops it waits for more than two answers.
            for series in self.deps.questions.pick(&numbers).unwrap_or_default() {
                if self.join(series, processing_ms).is_err() {
                    break;
                }
            }
        }
        self.list();
        let samples: usize = self.followed.iter().map(|followed| followed.samples.len()).sum();
        self.deps.metrics.audit_samples.set(samples as i64);
    }

    fn join(&mut self, series: SeriesId, processing_ms: i64) -> Result<(), AskError> {
        if self.followed.iter().any(|followed| followed.series == series) {
            return Ok(());
        }
        let raw = self.deps.questions.raw(series)?;
        // Only after the answer: what it knows is in the journal by now.
        let last = self.deps.journal.last_epoch_end();
        let (Ok(RawSamples { newest_ms, bootstrapping: false, .. }), Some(last)) = (raw, last) else {
            return Ok(());
        };
        // The longest window first: each is judged as long again as it takes to bootstrap it.
        let windows = &self.settings.windows;
        let window = windows[windows.len() - 1 - self.turn % windows.len()];
        self.turn += 1;
        let until_ms = processing_ms.saturating_add(2 * window.length_ms + self.settings.allowed_lateness_ms);
        self.followed.push(FollowedSeries::join(series, newest_ms, last.epoch, until_ms));
        Ok(())
    }

    /// The logs cannot be read on where it is.
    fn give_up(&mut self, why: &FollowError) {
        self.skip(SkipReason::Journal, self.followed.len() as u64);
        if self.warned.is_none_or(|warned| warned.elapsed() >= WARN_EVERY) {
            self.warned = Some(Instant::now());
            tracing::warn!("audit: {}", given_up(self.followed.len(), why));
        }
        self.followed.clear();
        self.place = None;
        self.list();
    }

    /// Computes a row again, as of the end of its epoch.
    fn judge(&mut self, row: &WindowStats, epoch: u64) {
        let Some(followed) = self.followed.iter().find(|followed| followed.series == row.series) else {
            return;
        };
        let samples = match followed.samples_of(row) {
            Ok(samples) => samples,
            Err(why) => return self.skip(why, 1),
        };
        let label = metrics::CheckLabels { what: ROW };
        self.deps.metrics.audit_checks.get_or_create(&label).inc();
        let found = differences(row, &samples);
        let Some(first) = found.first() else { return };
        self.deps.metrics.audit_mismatches.get_or_create(&label).inc_by(found.len() as u64);
        if self.warned_at.is_none_or(|last| last.elapsed() >= WARN_EVERY) {
            self.warned_at = Some(Instant::now());
            let labels = self.deps.labels.get(row.series).map(|labels| format!(" {labels:?}"));
            let (labels, words) = (labels.unwrap_or_default(), in_words(row, epoch, &samples, first));
            tracing::error!(
                "audit: series {}{labels}: {words}; {} more numbers of it differ",
                row.series,
                found.len() - 1
            );
        }
    }

    /// Writes the file, if it is time or `now`.
    fn keep(&mut self, now: bool) {
        let Some(place) = &self.place else { return };
        if !now && self.written.elapsed() < self.keep_every {
            return;
        }
        self.written = Instant::now();
        let exact = self.followed.iter().filter(|followed| followed.is_exact());
        let kept = AuditState {
            epoch: place.epoch,
            settings: self.settings.clone(),
            followed: exact.cloned().collect(),
        };
        match state::write(&self.file, &kept) {
            Ok(()) => {
                self.deps.metrics.audit_epoch.set(i64::try_from(kept.epoch).unwrap_or(i64::MAX));
            }
            Err(error) if self.warned.is_none_or(|warned| warned.elapsed() >= WARN_EVERY) => {
                self.warned = Some(Instant::now());
                tracing::warn!("audit: what is followed cannot be kept for a restart: {error}");
            }
            Err(_) => {}
        }
    }
}

/// Why it cannot read on, and what that costs if it costs anything.
fn given_up(series: usize, why: &FollowError) -> String {
    match series {
        0 => format!("{why}"),
        1 => format!("1 series is followed no longer, and others anew: {why}"),
        n => format!("{n} series are followed no longer, and others anew: {why}"),
    }
}

/// A row that is not what its samples give, as a human reads it.
fn in_words(row: &WindowStats, epoch: u64, samples: &[(i64, f64)], difference: &RowDifference) -> String {
    let RowDifference { field, kept, again } = difference;
    let span = match (samples.first(), samples.last()) {
        (Some(first), Some(last)) => {
            format!(" after {} up to {}", time_in_words(first.0 - 1), time_in_words(last.0))
        }
        _ => String::new(),
    };
    format!(
        "the {field} of the window of {} up to {} is {kept:e} in the outbox (epoch {epoch}, revision {}), and \
         {again:e} by the journal, which has {} samples{span} in it",
        duration(row.window_ms),
        time_in_words(row.at_ms),
        row.revision,
        samples.len()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_follows_no_series_gives_up_none() {
        let why = FollowError::because("opening the journal")("it was trimmed");
        let told = [0, 1, 7].map(|series| given_up(series, &why));
        assert_eq!(
            told,
            [
                "opening the journal: it was trimmed",
                "1 series is followed no longer, and others anew: opening the journal: it was trimmed",
                "7 series are followed no longer, and others anew: opening the journal: it was trimmed",
            ]
        );
    }

    #[test]
    fn a_mismatch_names_the_row_and_where_both_numbers_are_from() {
        let row = WindowStats {
            series: SeriesId(1),
            window_ms: 3_600_000,
            at_ms: 1_700_003_600_000,
            revision: 2,
            count: 1,
            span_ms: 0,
            min: 5.0,
            max: 5.0,
            avg: 5.0,
            std: 0.0,
            first: 5.0,
            last: 5.0,
            sum: 5.0,
            ..WindowStats::default()
        };
        let samples = [(1_700_000_060_000, 4.0), (1_700_003_600_000, 5.0)];
        let count = differences(&row, &samples)[0];
        assert_eq!(
            in_words(&row, 77, &samples, &count),
            "the count of the window of 1h up to 2023-11-14T23:13:20Z is 1e0 in the outbox (epoch 77, revision 2), and \
             2e0 by the journal, which has 2 samples after 2023-11-14T22:14:19.999Z up to 2023-11-14T23:13:20Z in it"
        );
    }
}
