//! How far a long reading is: a bar on a terminal, a plain line now and then elsewhere.
//!
//! Shared by `replay`, backfills and `demo`. It is told numbers; what they count is in [`Measure`].

use std::io::IsTerminal;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use tidewatch_dataflows::rows::WindowStats;
use tidewatch_dataflows::settings::duration;

use super::stack::Stack;

const REPORT_EVERY: Duration = Duration::from_secs(2);
const PATIENCE: Duration = Duration::from_millis(200);

/// What is counted on the way to the end.
#[derive(Clone, Copy, Debug)]
pub enum Measure {
    /// Bytes of an input; how many there are, if that is known.
    Bytes(Option<u64>),
    /// Milliseconds of event time.
    Time(u64),
}

impl Measure {
    fn total(self) -> Option<u64> {
        match self {
            Measure::Bytes(total) => total,
            Measure::Time(total) => Some(total),
        }
    }

    fn template(self) -> &'static str {
        match self {
            Measure::Bytes(_) => "{bar:30} {bytes}/{total_bytes} {msg} ETA {eta}",
            Measure::Time(_) => "{bar:30} {percent}% {msg} ETA {eta}",
        }
    }

    fn words(self, done: u64) -> String {
        match self {
            Measure::Bytes(None) => format!("{done} bytes"),
            Measure::Bytes(Some(total)) => format!("{done} of {total} bytes"),
            Measure::Time(total) => format!("{} of {}", minutes(whole(done)), minutes(whole(total))),
        }
    }
}

fn whole(ms: u64) -> i64 {
    i64::try_from(ms).unwrap_or(i64::MAX)
}

/// A length of time to the minute, or below one to the second.
pub fn minutes(ms: i64) -> String {
    if ms < 60_000 { duration(ms / 1_000 * 1_000) } else { duration(ms / 60_000 * 60_000) }
}

/// Shows how far it is.
pub struct ProgressLine {
    bar: Option<ProgressBar>,
    started: Instant,
    reported: Instant,
    measure: Measure,
}

impl ProgressLine {
    /// Nothing is done yet.
    pub fn new(measure: Measure) -> ProgressLine {
        let now = Instant::now();
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = measure.total().map_or_else(ProgressBar::new_spinner, ProgressBar::new);
            let style = ProgressStyle::with_template(measure.template())
                .unwrap_or_else(|_| ProgressStyle::default_bar());
            bar.with_style(style)
        });
        ProgressLine { bar, started: now, reported: now, measure }
    }

    /// So many samples are read, and so much of what is measured is done.
    pub fn tick(&mut self, samples: u64, done: u64) {
        let rate = samples as f64 / self.started.elapsed().as_secs_f64().max(1e-9);
        if let Some(bar) = &self.bar {
            bar.set_position(done);
            bar.set_message(format!("{:.2} M samples/s", rate / 1e6));
        } else if self.reported.elapsed() >= REPORT_EVERY {
            self.reported = Instant::now();
            eprintln!("{samples} samples, {}, {:.2} M samples/s", self.measure.words(done), rate / 1e6);
        }
    }

    /// All is read; what is left to do shows in rows.
    fn storing(&mut self, computed: u64, rows: u64) {
        if let Some(bar) = &self.bar {
            // Beside the bar, in 80 columns.
            bar.set_message(format!("all read; {rows} rows stored"));
        } else if self.reported.elapsed() >= REPORT_EVERY {
            self.reported = Instant::now();
            eprintln!("all read; {computed} samples computed, {rows} rows stored");
        }
    }

    /// Waits until the store has this epoch, or the engine waits for room in its outbox that nobody makes; since
    /// when it is computed, if it is.
    pub fn until_stored(&mut self, stack: &Stack, epoch: u64) -> Option<Instant> {
        let mut computed_at = None;
        while stack.stored.epoch() < epoch && stack.stuck().is_none() {
            if stack.outbox.wait_for_epoch(epoch, PATIENCE) {
                computed_at.get_or_insert_with(Instant::now);
            }
            let computed = stack.engine_progress.samples.load(Ordering::Relaxed);
            self.storing(computed, stack.stored.rows_of::<WindowStats>());
            std::thread::sleep(Duration::from_millis(2));
        }
        computed_at
    }

    /// Takes the bar away.
    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_done_is_told_in_its_own_measure() {
        let table = [
            (Measure::Bytes(None), 7, "7 bytes"),
            (Measure::Bytes(Some(9)), 7, "7 of 9 bytes"),
            (Measure::Time(172_800_123), 90_061_000, "1d1h1m of 2d"),
            (Measure::Time(61_000), 59_999, "59s of 1m"),
        ];
        for (measure, done, words) in table {
            assert_eq!(measure.words(done), words);
        }
    }
}
