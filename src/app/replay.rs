//! `replay`: computes over files; a file is its own log, so epochs end by count and not by the clock.

use std::io::IsTerminal;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::Context;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use tidewatch_dataflows::sample::Samples;

use crate::cli;
use crate::config::Config;
use crate::journal::{Journal, Mode};
use crate::source::replay::{Options, Replay, SOURCE, Summary, judge};

use super::now_ms;
use super::stack::{OnFatal, Stack};

/// Samples of one epoch of a file.
const EPOCH_SAMPLES: usize = 65_536;
const REPORT_EVERY: Duration = Duration::from_secs(2);
const PATIENCE: Duration = Duration::from_millis(200);

/// Replays the files and returns when the store holds the last epoch.
pub fn replay(config: Config, args: &cli::Replay) -> anyhow::Result<ExitCode> {
    let format = args
        .format
        .as_deref()
        .map(str::parse)
        .transpose()
        .map_err(|error: String| anyhow::anyhow!("--{error}"))?;
    // Before the data directory is touched: a mistyped name leaves nothing behind.
    judge(&args.files, format)?;
    let options = Options { format, strict: args.strict, allow_future: args.allow_future, clock: now_ms };
    let on_fatal: OnFatal = Arc::new(|message| {
        tracing::error!("{message}");
        // Threads may wait for one that is gone; what is in the journal is durable and is computed at the next start.
        #[allow(clippy::disallowed_methods)]
        std::process::exit(1);
    });
    let stack = Stack::open(&config, Mode::File, args.allow_future, &on_fatal)?;
    let mut replay =
        Replay::open(&args.files, options, Arc::clone(&stack.labels), Arc::clone(&stack.metrics))?;
    let started = Instant::now();
    let cut =
        Cut { journal: stack.journal.clone(), settle_ms: config.settle_ms, live_order: args.live_order };
    let mut progress = Progress::new(replay.bytes_total());
    let read = read(&mut replay, &cut, &mut progress);
    // What was read before an error is in the log already; but the input has not ended, so nothing is judged by its end.
    let end = match &read {
        Ok(()) => cut.last(replay.summary().highest_ms),
        Err(_) => cut.stop(),
    }?;
    let summary = replay.summary().clone();
    let full = || stack.engine_progress.outbox_full.load(Ordering::Relaxed);
    let mut computed_at = None;
    while stack.sink_progress.epoch.load(Ordering::Acquire) < end && !full() {
        if stack.outbox.wait_for_epoch(end, PATIENCE) {
            computed_at.get_or_insert_with(Instant::now);
        }
        let computed = stack.engine_progress.samples.load(Ordering::Relaxed);
        progress.storing(computed, stack.sink_progress.rows.load(Ordering::Relaxed));
        std::thread::sleep(Duration::from_millis(2));
    }
    let stored_at = Instant::now();
    let done = Done {
        seconds_computed: (computed_at.unwrap_or(stored_at) - started).as_secs_f64().max(1e-9),
        seconds_stored: (stored_at - started).as_secs_f64().max(1e-9),
        computed: stack.engine_progress.samples.load(Ordering::Relaxed),
        rows: stack.sink_progress.rows.load(Ordering::Relaxed),
        series: stack.labels.len(),
    };
    let full = full();
    stack.close()?;
    progress.finish();
    report(&summary, args.common.json, &done);
    read?;
    // Nobody makes room in the outbox, so waiting for it would be for ever.
    anyhow::ensure!(
        !full,
        "the outbox is at its bound outbox.bytes_max ({}); everything read is in the journal and is computed at the next start with more room",
        config.outbox.bytes_max
    );
    Ok(ExitCode::SUCCESS)
}

/// Ends epochs as DESIGN.md §4 Files says.
struct Cut {
    journal: Journal,
    settle_ms: i64,
    live_order: bool,
}

impl Cut {
    /// An epoch is full.
    fn full(&self, highest_ms: Option<i64>) -> anyhow::Result<()> {
        let last =
            self.journal.last_epoch_end().map_or((i64::MIN, i64::MIN), |end| (end.stream_ms, end.close_ms));
        let upto = highest_ms.filter(|_| self.live_order).map_or(i64::MIN, |at| at - self.settle_ms);
        // Not waited for: the cut after the last waits for all.
        drop(self.journal.cut(last.0.max(upto), last.1.max(upto), false)?);
        Ok(())
    }

    /// The input has ended; returns the number of the last epoch once it is durable.
    ///
    /// The times of the end are those of an epoch without samples: one with samples would have heard their series
    /// just now, so which series silence closes would depend on the order of the file.
    fn last(&self, highest_ms: Option<i64>) -> anyhow::Result<u64> {
        self.full(highest_ms)?;
        let last =
            self.journal.last_epoch_end().map_or((i64::MIN, i64::MIN), |end| (end.stream_ms, end.close_ms));
        let upto = highest_ms.unwrap_or(i64::MIN);
        self.durably(last.0.max(upto), last.1.max(upto), true)
    }

    /// Reading has stopped before the end of the input: as after a kill, time stays where it is.
    fn stop(&self) -> anyhow::Result<u64> {
        self.durably(i64::MIN, i64::MIN, false)
    }

    fn durably(&self, stream_ms: i64, close_ms: i64, last_of_input: bool) -> anyhow::Result<u64> {
        let synced = self.journal.cut(stream_ms, close_ms, last_of_input)?;
        synced
            .blocking_recv()
            .context("the journal ended")?
            .map_err(|why| anyhow::anyhow!("the journal failed: {why}"))?;
        Ok(self.journal.last_epoch_end().map_or(0, |end| end.epoch))
    }
}

fn read(replay: &mut Replay, cut: &Cut, progress: &mut Progress) -> anyhow::Result<()> {
    let (mut batch, mut in_epoch, mut total) = (Samples::default(), 0, 0);
    loop {
        let more = replay.next_batch(&mut batch, cut.journal.current_epoch());
        // Also what came before an error: who mends that line and starts again knows what is in.
        // An epoch is exactly EPOCH_SAMPLES, wherever batches end.
        while !batch.is_empty() {
            let room = (EPOCH_SAMPLES - in_epoch).min(batch.len());
            let rest = batch.split_off(room);
            let part = std::mem::replace(&mut batch, rest);
            (in_epoch, total) = (in_epoch + part.len(), total + part.len() as u64);
            cut.journal.append_blocking(part, SOURCE)?;
            if in_epoch == EPOCH_SAMPLES {
                cut.full(replay.summary().highest_ms)?;
                in_epoch = 0;
            }
        }
        progress.tick(total, replay.bytes_read());
        if !more? {
            return Ok(());
        }
    }
}

/// A bar on a terminal, a plain line now and then elsewhere.
struct Progress {
    bar: Option<ProgressBar>,
    started: Instant,
    reported: Instant,
    total: Option<u64>,
}

impl Progress {
    fn new(total: Option<u64>) -> Progress {
        let now = Instant::now();
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = total.map_or_else(ProgressBar::new_spinner, ProgressBar::new);
            let style = ProgressStyle::with_template("{bar:30} {bytes}/{total_bytes} {msg} ETA {eta}")
                .unwrap_or_else(|_| ProgressStyle::default_bar());
            bar.with_style(style)
        });
        Progress { bar, started: now, reported: now, total }
    }

    fn tick(&mut self, samples: u64, bytes: u64) {
        let rate = samples as f64 / self.started.elapsed().as_secs_f64().max(1e-9);
        if let Some(bar) = &self.bar {
            bar.set_position(bytes);
            bar.set_message(format!("{:.2} M samples/s", rate / 1e6));
        } else if self.reported.elapsed() >= REPORT_EVERY {
            self.reported = Instant::now();
            let of = self.total.map_or_else(String::new, |total| format!(" of {total}"));
            eprintln!("{samples} samples, {bytes}{of} bytes, {:.2} M samples/s", rate / 1e6);
        }
    }

    /// All is read; what is left to do shows in rows.
    fn storing(&mut self, computed: u64, rows: u64) {
        let words = format!("all read; {computed} samples computed, {rows} rows stored");
        if let Some(bar) = &self.bar {
            bar.set_message(words);
        } else if self.reported.elapsed() >= REPORT_EVERY {
            self.reported = Instant::now();
            eprintln!("{words}");
        }
    }

    fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// What a replay came to.
struct Done {
    /// From the start until every outcome was durable in the outbox.
    seconds_computed: f64,
    /// From the start until the store held the last epoch.
    seconds_stored: f64,
    /// Samples computed on, those the journal held before included.
    computed: u64,
    /// Window rows stored.
    rows: u64,
    series: usize,
}

fn report(summary: &Summary, as_json: bool, done: &Done) {
    let taken = summary.received - summary.refusals.total();
    let computed_rate = done.computed as f64 / done.seconds_computed;
    let stored_rate = taken as f64 / done.seconds_stored;
    let row_rate = done.rows as f64 / done.seconds_stored;
    if as_json {
        let refused: serde_json::Map<String, serde_json::Value> = summary
            .refusals
            .iter()
            .map(|refusal| (refusal.reason.to_owned(), refusal.count.into()))
            .collect();
        let first: Vec<String> = summary.first.iter().map(ToString::to_string).collect();
        let value = json!({"lines": summary.lines, "received": summary.received, "samples": taken, "refused": refused,
            "created_skipped": summary.created, "first_refused": first, "series": done.series, "computed": done.computed, "rows_stored": done.rows,
            "seconds_computed": done.seconds_computed, "seconds": done.seconds_stored,
            "computed_samples_per_second": computed_rate, "samples_per_second": stored_rate,
            "rows_per_second": row_rate});
        println!("{value}");
        return;
    }
    for bad in &summary.first {
        eprintln!("{bad}");
    }
    println!("{taken} samples of {} series in {:.1} s", done.series, done.seconds_stored);
    println!("computed {} samples: {computed_rate:.0} samples/s", done.computed);
    println!(
        "stored {} rows: {stored_rate:.0} samples/s from file to stored rows, {row_rate:.0} rows/s",
        done.rows
    );
    if summary.created > 0 {
        println!("{} samples of when a metric was created left out", summary.created);
    }
    if summary.refusals.total() > 0 {
        println!("{} lines refused: {}", summary.refusals.total(), summary.refusals.sentence());
    }
}
