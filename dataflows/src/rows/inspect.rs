//! What somebody sees who looks at the state of one series: whether it adds up, what a window is made of, and what is
//! not closed yet.

use super::WindowStats;

/// Why a series cannot be looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unavailable {
    /// No sample of it is held.
    Unknown,
    /// It takes a bootstrap: its state is being built anew.
    Bootstrapping,
    /// The operators are at different epochs of its shard; come again.
    Between,
}

/// What was checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum What {
    /// A pane, against the raw samples or the smaller panes in it.
    Pane,
    /// A window, against its panes merged plainly, or its raw samples.
    Window,
    /// The sketch of a pane, against its raw samples.
    Sketch,
    /// A step of a profile, against its raw samples.
    Step,
    /// A profile, against that of the slow twins of the same steps.
    Profile,
}

impl What {
    /// Each kind, in the order of their numbers.
    pub const ALL: [What; 5] = [What::Pane, What::Window, What::Sketch, What::Step, What::Profile];

    /// The word for logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            What::Pane => "pane",
            What::Window => "window",
            What::Sketch => "sketch",
            What::Step => "step",
            What::Profile => "profile",
        }
    }
}

/// Two numbers that should be the same.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Mismatch {
    /// Of what.
    pub what: What,
    /// Length of the window, or of the window whose pane it is; `None` for a base pane.
    pub window_ms: Option<i64>,
    /// The span it covers: samples after this ...
    pub start_ms: i64,
    /// ... and up to this.
    pub end_ms: i64,
    /// Which number.
    pub field: &'static str,
    /// As the state has it.
    pub kept: f64,
    /// As it was computed again.
    pub again: f64,
}

/// Most mismatches that are told of one series; all are counted.
pub const MISMATCHES_MAX: usize = 16;

/// What a check of one series came to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StateCheck {
    /// How many were computed again, by [`What`].
    pub checked: [u64; What::ALL.len()],
    /// The largest difference of sums that may differ by rounding, relative to what was summed.
    pub difference: f64,
    /// How many numbers differ, by [`What`].
    pub wrong: [u64; What::ALL.len()],
    /// The first [`MISMATCHES_MAX`] of them.
    pub mismatches: Vec<Mismatch>,
}

impl StateCheck {
    /// Counts a mismatch, and keeps it if there is room.
    pub fn found(&mut self, mismatch: Mismatch) {
        self.wrong[mismatch.what as usize] += 1;
        if self.mismatches.len() < MISMATCHES_MAX {
            self.mismatches.push(mismatch);
        }
    }
}

/// A pane of a window that holds samples.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PaneView {
    /// It covers the samples after this ...
    pub start_ms: i64,
    /// ... and up to this.
    pub end_ms: i64,
    /// How many samples.
    pub count: u32,
    /// Smallest value.
    pub min: f64,
    /// Largest value.
    pub max: f64,
    /// Arithmetic mean.
    pub avg: f64,
    /// Whether all its raw samples are still held.
    pub raw: bool,
}

/// What a worker knows of one key of a series.
#[derive(Clone, Debug, PartialEq)]
pub struct Explanation {
    /// The epoch as of which this is so.
    pub epoch: u64,
    /// Newest applied sample.
    pub newest_ms: i64,
    /// Processing time of the epoch that last applied one.
    pub last_applied_ms: i64,
    /// Every key of the window at or before this is closed.
    pub closed_ms: i64,
    /// Whether the series takes a bootstrap.
    pub bootstrapping: bool,
    /// Keys whose window begins before this are withheld: samples were forgotten.
    pub withheld_ms: Option<i64>,
    /// Keys before this are not published, unless they were before a bootstrap.
    pub publish_from_ms: Option<i64>,
    /// Panes that begin before this are no longer held.
    pub held_from_ms: i64,
    /// The panes of the window that are held and not empty.
    pub panes: Vec<PaneView>,
}

/// The steps of a series that its profile looks back on; NaN is a step without a value.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StepsView {
    /// Whether the series takes a bootstrap: its steps are not all there.
    pub bootstrapping: bool,
    /// Whether a step is the rate of a counter; else it is the mean of its samples.
    pub is_rate: bool,
    /// Values of a step of one minute each, the newest last.
    pub minutes: Vec<f64>,
    /// Where the newest of them ends, Unix milliseconds.
    pub minutes_end_ms: i64,
    /// Their means over whole quarters of an hour, the newest last; they reach back over days.
    pub quarters: Vec<f64>,
    /// Where the newest of these ends, Unix milliseconds.
    pub quarters_end_ms: i64,
    /// Length of the season that the last search found, in minutes; 0 for none.
    pub period_minutes: u32,
}

/// The windows of a series that are not closed.
#[derive(Clone, Debug, PartialEq)]
pub struct OpenWindows {
    /// The epoch as of which this is so.
    pub epoch: u64,
    /// Each window's next key after the processing time of that epoch, as far as it is filled.
    pub rows: Vec<WindowStats>,
}
