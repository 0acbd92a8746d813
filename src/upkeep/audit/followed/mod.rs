//! One series that the audit follows: which of its samples in the journal count, by the rules of docs/semantics.md once more.
//!
//! It knows all applied samples after some time, or says why not. Where only the gate's own memory could tell whether a
//! sample was applied, everything up to then is given up: nothing is guessed.
//!
//! Not here: reading the journal, choosing series, comparing rows.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};
use tidewatch_dataflows::pipeline;
use tidewatch_dataflows::rows::WindowStats;
use tidewatch_dataflows::sample::{EpochEnd, SeriesId};
use tidewatch_dataflows::settings::Settings;

/// Why a row is not computed again, or a series is followed no longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SkipReason {
    /// The window reaches back to before the series was chosen.
    Young,
    /// The window reaches back to before the samples that are kept at most.
    Samples,
    /// A late sample came, and only the raw ring could tell whether it was applied.
    LateRing,
    /// The base pane changed, and with it what becomes of late samples.
    Settings,
    /// The row says itself that it is partial.
    Partial,
    /// The series takes a bootstrap.
    Bootstrap,
    /// The series is quarantined, or let in again.
    Quarantine,
    /// The clock was set back, and with it what silence closes.
    Clock,
    /// The series fell silent, and its slot may be free.
    Silent,
    /// The journal or the outbox cannot be read on: it was trimmed, most often.
    Journal,
    /// An epoch has more rows of followed series than are held at once.
    Rows,
}

impl SkipReason {
    /// All of them.
    pub const ALL: [SkipReason; 11] = [
        SkipReason::Young,
        SkipReason::Samples,
        SkipReason::LateRing,
        SkipReason::Settings,
        SkipReason::Partial,
        SkipReason::Bootstrap,
        SkipReason::Quarantine,
        SkipReason::Clock,
        SkipReason::Silent,
        SkipReason::Journal,
        SkipReason::Rows,
    ];

    /// The word in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            SkipReason::Young => "young",
            SkipReason::Samples => "samples",
            SkipReason::LateRing => "late_ring",
            SkipReason::Settings => "settings",
            SkipReason::Partial => "partial",
            SkipReason::Bootstrap => "bootstrap",
            SkipReason::Quarantine => "quarantine",
            SkipReason::Clock => "clock",
            SkipReason::Silent => "silent",
            SkipReason::Journal => "journal",
            SkipReason::Rows => "rows",
        }
    }
}

/// What of the settings decides which samples count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AdmitRules {
    allowed_lateness_ms: i64,
    base_ms: i64,
    ring_max: usize,
    /// How far behind the newest sample a row may reach that is still written.
    reach_ms: i64,
    keep_ms: i64,
    /// Most samples kept of one series.
    samples_max: usize,
}

impl AdmitRules {
    /// Those of these settings.
    pub fn of(settings: &Settings, samples_max: usize) -> AdmitRules {
        let hop_ms = settings.windows.iter().map(|window| window.hop_ms).max().unwrap_or(0);
        AdmitRules {
            allowed_lateness_ms: settings.allowed_lateness_ms,
            base_ms: settings.base_ms(),
            ring_max: settings.late_samples_max as usize,
            reach_ms: settings.longest_ms() + settings.allowed_lateness_ms + hop_ms,
            keep_ms: pipeline::keep_ms(settings),
            samples_max,
        }
    }

    /// The start of the base pane that holds this time.
    fn pane_start(&self, at_ms: i64) -> i64 {
        (at_ms - 1).div_euclid(self.base_ms) * self.base_ms
    }

    /// The end of the base pane that holds this time.
    fn pane_end(&self, at_ms: i64) -> i64 {
        self.pane_start(at_ms) + self.base_ms
    }
}

/// Room that stays taken from one epoch to the next, for each sample that is kept at most.
const CAPACITY_FACTOR_MAX: usize = 2;

/// A series, and its applied samples after some time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FollowedSeries {
    /// The series.
    pub series: SeriesId,
    /// At this processing time another series takes its place.
    pub until_ms: i64,
    /// The newest applied sample, or the newest known so far.
    newest: i64,
    /// Processing time of the epoch that last applied one that is known.
    last_applied_ms: i64,
    /// From the end of this epoch on `newest` is exact; `None` once it is.
    exact_from: Option<u64>,
    /// Every applied sample after this is in `samples`; an end of a base pane, or further back than any row reaches.
    known_from: i64,
    /// Why not those before.
    why: SkipReason,
    /// Of panes that begin before this the raw ring may have lost samples.
    ring_from: i64,
    /// Times rising.
    #[serde(skip)]
    pub samples: VecDeque<(i64, f64)>,
    /// Of the epoch that is being read.
    #[serde(skip)]
    epoch: Vec<(i64, f64)>,
}

impl FollowedSeries {
    /// A series whose newest sample was `newest` when it was asked for; `exact_from` is the journal's last epoch after that.
    /// What follows the epoch that was read last has to be heard.
    pub fn join(series: SeriesId, newest: i64, exact_from: u64, until_ms: i64) -> FollowedSeries {
        FollowedSeries {
            series,
            until_ms,
            newest,
            last_applied_ms: i64::MIN,
            exact_from: Some(exact_from),
            known_from: i64::MAX,
            why: SkipReason::Young,
            ring_from: i64::MAX,
            samples: VecDeque::new(),
            epoch: Vec::new(),
        }
    }

    /// Whether it is known which of its samples count.
    pub fn is_exact(&self) -> bool {
        self.exact_from.is_none()
    }

    /// A sample of the epoch that is being read. What is not finite changes nothing, staleness markers included.
    pub fn record(&mut self, at_ms: i64, value: f64) {
        if value.is_finite() {
            self.epoch.push((at_ms, value));
        }
    }

    /// The epoch that was read ends.
    pub fn end(&mut self, end: EpochEnd, rules: &AdmitRules) {
        let mut epoch = std::mem::take(&mut self.epoch);
        // As the gate orders them: of equal times the lowest bits come first, and the first one applied stays.
        epoch.sort_unstable_by_key(|(at_ms, value)| (*at_ms, value.to_bits()));
        if let Some(exact_from) = self.exact_from {
            // A sample newer than all others is applied, whatever else is unknown.
            self.newest = epoch.last().map_or(self.newest, |(at_ms, _)| self.newest.max(*at_ms));
            if end.epoch >= exact_from {
                self.exact_from = None;
                // It may have applied one earlier, and its slot be free earlier: keys that reach back to before that are
                // withheld then, and what comes after counts as if it had not been.
                self.last_applied_ms = end.processing_ms;
                self.begin(SkipReason::Young, rules);
            }
        } else {
            for (at_ms, value) in epoch.drain(..) {
                if self.apply(at_ms, value, rules) {
                    self.last_applied_ms = end.processing_ms;
                }
            }
        }
        epoch.clear();
        self.epoch = epoch;
    }

    /// Whether the sample is applied, as far as it is known.
    fn apply(&mut self, at_ms: i64, value: f64, rules: &AdmitRules) -> bool {
        if at_ms > self.newest {
            if self.in_ring(at_ms, rules) >= rules.ring_max {
                // The gate's ring drops its oldest sample, which is one of these at most.
                self.ring_from = self.ring_from.max(self.newest);
            }
            if at_ms > self.known_from {
                self.samples.push_back((at_ms, value));
            }
            self.newest = at_ms;
            return true;
        }
        if at_ms < self.newest - rules.allowed_lateness_ms || at_ms <= self.known_from {
            return false;
        }
        let Err(place) = self.samples.binary_search_by_key(&at_ms, |(at_ms, _)| *at_ms) else { return false };
        if rules.pane_start(at_ms) < self.ring_from || self.in_ring(self.newest, rules) >= rules.ring_max {
            self.begin(SkipReason::LateRing, rules);
            return false;
        }
        self.samples.insert(place, (at_ms, value));
        true
    }

    /// How many of the known samples the raw ring holds when this is the newest; there may be older ones in it.
    fn in_ring(&self, newest: i64, rules: &AdmitRules) -> usize {
        let from_ms = newest - rules.allowed_lateness_ms - rules.base_ms;
        self.samples.len() - self.samples.partition_point(|(at_ms, _)| *at_ms <= from_ms)
    }

    /// Knows nothing of what came before. The ends of base panes are where the gate's memory of older samples, and of
    /// those it dropped, no longer decides about a later one.
    pub fn begin(&mut self, why: SkipReason, rules: &AdmitRules) {
        self.samples.clear();
        (self.known_from, self.why) = (rules.pane_end(self.newest), why);
        self.ring_from = self.known_from;
    }

    /// Lets go of what no later row reaches back to, and of what is too much. Rows of the epoch that was read last have to
    /// be judged before: in one epoch a series may go far.
    pub fn prune(&mut self, rules: &AdmitRules) {
        let out_of_reach = self.newest - rules.reach_ms;
        while self.samples.pop_front_if(|(at_ms, _)| *at_ms <= out_of_reach).is_some() {
            self.known_from = self.known_from.max(out_of_reach);
        }
        if let Some(excess) = self.samples.len().checked_sub(rules.samples_max + 1) {
            (self.known_from, self.why) = (rules.pane_end(self.samples[excess].0), SkipReason::Samples);
            while self.samples.pop_front_if(|(at_ms, _)| *at_ms <= self.known_from).is_some() {}
        }
        // One epoch may have brought far more.
        let most = CAPACITY_FACTOR_MAX * rules.samples_max;
        if self.samples.capacity() > most {
            self.samples.shrink_to(rules.samples_max);
        }
        if self.epoch.capacity() > most {
            self.epoch.shrink_to(rules.samples_max);
        }
    }

    /// Other settings hold from this epoch on.
    pub fn reconfigure(&mut self, old: &AdmitRules, new: &AdmitRules) {
        if self.exact_from.is_some() {
            return;
        }
        if old.base_ms != new.base_ms {
            self.begin(SkipReason::Settings, new);
        } else {
            // Windows that stay go on with all of their samples, but a late one may find that its pane is gone.
            self.ring_from = self.ring_from.max(self.newest);
        }
    }

    /// Whether its slot may be free at the end of this epoch.
    pub fn is_silent(&self, end: EpochEnd, rules: &AdmitRules) -> bool {
        let before = |at_ms: i64| at_ms.saturating_add(rules.keep_ms);
        self.is_exact()
            && end.watermark_ms > before(self.newest)
            && end.processing_ms > before(self.last_applied_ms)
    }

    /// The samples that a row of the epoch that was read last is made of.
    ///
    /// # Errors
    /// They are not all known.
    pub fn samples_of(&self, row: &WindowStats) -> Result<Vec<(i64, f64)>, SkipReason> {
        let start_ms = row.at_ms - row.window_ms;
        if row.partial {
            return Err(SkipReason::Partial);
        }
        if !self.is_exact() || start_ms < self.known_from {
            return Err(self.why);
        }
        let from = self.samples.partition_point(|(at_ms, _)| *at_ms <= start_ms);
        let to = self.samples.partition_point(|(at_ms, _)| *at_ms <= row.at_ms).max(from);
        Ok(self.samples.range(from..to).copied().collect())
    }

    /// Whether this can have been written by [`super::kept`]: nothing in it makes the arithmetic overflow.
    pub fn is_sound(&self) -> bool {
        use tidewatch_dataflows::sample::{AT_MS_MAX, AT_MS_MIN};
        let time = |at_ms: &i64| (AT_MS_MIN..=AT_MS_MAX).contains(at_ms);
        let rising = self.samples.iter().zip(self.samples.iter().skip(1)).all(|(a, b)| a.0 < b.0);
        let after = self.samples.front().is_none_or(|(at_ms, _)| *at_ms > self.known_from);
        let upto = self.samples.back().is_none_or(|(at_ms, _)| *at_ms <= self.newest);
        let finite = self.samples.iter().all(|(_, value)| value.is_finite());
        self.is_exact() && time(&self.newest) && rising && after && upto && finite
    }
}

#[cfg(test)]
mod tests;
