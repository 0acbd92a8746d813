//! `replay`: computes over files; a file is its own log, so epochs end by count and not by the clock.

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;
use tidewatch_dataflows::rows::WindowStats;
use tidewatch_dataflows::sample::Samples;

use crate::cli;
use crate::config::Config;
use crate::journal::EpochMode;
use crate::source::replay::{ReplayOptions, ReplayReader, ReplaySummary, SOURCE, judge};

use super::backfill;
use super::progress::{Measure, ProgressLine};
use super::stack::{AcceptedRisks, Stack};
use super::time::{now_ms, time_ms};
use crate::fatal::FatalHook;
use crate::reading::{EpochCut, TimeBounds, all_read, next_of, read, show};
use crate::upkeep::watchdog::Watchdog;

/// Replays the files and returns when the store holds the last epoch.
#[expect(clippy::too_many_lines, reason = "the steps of one command, from top to bottom")]
pub fn replay(config: Config, args: &cli::ReplayArgs) -> anyhow::Result<ExitCode> {
    let format = args
        .format
        .as_deref()
        .map(str::parse)
        .transpose()
        .map_err(|error: String| anyhow::anyhow!("--{error}"))?;
    // Before the data directory is touched: a mistyped name leaves nothing behind.
    judge(&args.files, format)?;
    let options =
        ReplayOptions { format, strict: args.strict, allow_future: args.allow_future, clock: now_ms };
    let (from_ms, to_ms) = range(args)?;
    let on_fatal = end_process();
    let accepted =
        AcceptedRisks { loss: args.accept_loss, future: args.allow_future, clock: args.accept_clock };
    let stack = Stack::open(&config, EpochMode::File, accepted, &on_fatal, Vec::new());
    if args.backfill {
        return backfill::replay(&config, args, options, stack, (from_ms, to_ms));
    }
    let stack = Arc::new(stack?);
    let watchdog = Watchdog::start(
        Duration::from_millis(config.watchdog_ms.unsigned_abs()),
        stack.journal.clone(),
        Arc::clone(&stack.engine_progress),
        Arc::clone(&stack.metrics),
        Arc::clone(&on_fatal),
    )?;
    let mut replay =
        ReplayReader::open(&args.files, options, Arc::clone(&stack.labels), Arc::clone(&stack.metrics))?;
    let started = Instant::now();
    let mut cut = EpochCut::new(stack.journal.clone(), config.idle_timeout_ms, args.live_order);
    cut.beyond = replay.beyond();
    wait_for_room(&stack, &cut);
    let mut progress = ProgressLine::new(Measure::Bytes(replay.bytes_total()));
    let mut span = TimeBounds::new(from_ms, to_ms);
    let bytes = replay.bytes_counter();
    let mut failed = Vec::new();
    let mut next =
        |batch: &mut Samples| next_of(&mut replay, &mut failed, batch, cut.journal.current_epoch());
    let mut tick = |samples| {
        progress.tick(samples, bytes.load(Ordering::Relaxed));
        Ok(())
    };
    let read = read(&mut next, &cut, &mut span, SOURCE, &mut tick);
    // An input that failed has ended there. What strict reading took is in the log already; but the input has not ended,
    // so nothing is judged by its end.
    let end = match &read {
        Ok(()) => cut.last(span.highest_ms),
        Err(_) => cut.stop(),
    }?;
    let summary = replay.summary().clone();
    let computed_at = progress.until_stored(&stack, end);
    let stored_at = Instant::now();
    let done = ReplayOutcome {
        seconds_computed: (computed_at.unwrap_or(stored_at) - started).as_secs_f64().max(1e-9),
        seconds_stored: (stored_at - started).as_secs_f64().max(1e-9),
        computed: stack.engine_progress.samples.load(Ordering::Relaxed),
        rows: stack.stored.rows_of::<WindowStats>(),
        series: stack.labels.len(),
        slots: (stack.metrics.slots_given.get(), stack.metrics.slots_freed.get()),
        released: stack.metrics.series_released.get(),
        outside: span.outside,
    };
    let full = stack.stuck();
    stack.close()?;
    drop(watchdog);
    progress.finish();
    report(&summary, args.common.json, &done);
    all_read(read, failed)?;
    // Nobody makes room in the outbox, so waiting for it would be for ever.
    if let Some(why) = full {
        anyhow::bail!(
            "{why} ({}); everything read is in the journal and is computed at the next start with more room",
            config.outbox.bytes_max
        );
    }
    Ok(ExitCode::SUCCESS)
}

/// What ends the process ends it at once.
pub fn end_process() -> FatalHook {
    Arc::new(|fatal| {
        tracing::error!("{}", fatal.message);
        // Threads may wait for one that is gone; what is in the journal is durable and is computed at the next start.
        #[allow(clippy::disallowed_methods)]
        std::process::exit(fatal.code.into());
    })
}

/// Before a series is refused because there are as many as may be, those go that are freed by what was read so far: what
/// is refused depends on the file, not on how far the computation is behind the reading.
fn wait_for_room(stack: &Arc<Stack>, cut: &EpochCut) {
    let (stack, asked, tried) = (Arc::downgrade(stack), cut.requested_end(), AtomicU64::new(0));
    let labels = stack.upgrade().map(|stack| Arc::clone(&stack.labels));
    let room = move || {
        let Some(stack) = stack.upgrade() else { return false };
        asked.wait();
        let end = stack.journal.last_epoch_end().map_or(0, |end| end.epoch).max(stack.found_epoch);
        if tried.swap(end, Ordering::Relaxed) == end && stack.released.settled() {
            return false;
        }
        let behind = || stack.released.epoch() < end || !stack.released.settled();
        while behind() && stack.stuck().is_none() && !stack.sinks.ended() {
            std::thread::sleep(Duration::from_millis(1));
        }
        true
    };
    if let Some(labels) = labels {
        labels.when_full(Box::new(room));
    }
}

/// `--from` and `--to`.
fn range(args: &cli::ReplayArgs) -> anyhow::Result<(Option<i64>, Option<i64>)> {
    let time = |field, text: &Option<String>| text.as_deref().map(|text| time_ms(field, text)).transpose();
    let (from, to) = (time("--from", &args.from)?, time("--to", &args.to)?);
    if let (Some(from_ms), Some(to_ms)) = (from, to) {
        anyhow::ensure!(
            from_ms < to_ms,
            "--to must be after --from ({:?}); got {:?}",
            args.from.as_deref().unwrap_or_default(),
            args.to.as_deref().unwrap_or_default()
        );
    }
    Ok((from, to))
}

/// What a replay came to.
struct ReplayOutcome {
    /// From the start until every outcome was durable in the outbox.
    seconds_computed: f64,
    /// From the start until the store held the last epoch.
    seconds_stored: f64,
    /// Samples computed on, those the journal held before included.
    computed: u64,
    /// Window rows stored.
    rows: u64,
    series: usize,
    /// Slots given and freed.
    slots: (u64, u64),
    /// Series forgotten because their slots were freed.
    released: u64,
    /// Samples outside `--from` and `--to`.
    outside: u64,
}

fn report(summary: &ReplaySummary, as_json: bool, done: &ReplayOutcome) {
    let taken = summary.received + summary.histograms - summary.refusals.total() - done.outside;
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
            "outside_range": done.outside,
            "created_skipped": summary.created, "histograms": summary.histograms, "warnings": summary.warnings, "first_refused": first, "series": done.series,
            "slots_given": done.slots.0, "slots_freed": done.slots.1, "series_released": done.released, "computed": done.computed, "rows_stored": done.rows,
            "seconds_computed": done.seconds_computed, "seconds": done.seconds_stored,
            "computed_samples_per_second": computed_rate, "samples_per_second": stored_rate,
            "rows_per_second": row_rate});
        println!("{value}");
        return;
    }
    show(summary);
    println!("{taken} samples of {} series in {:.1} s", done.series, done.seconds_stored);
    println!("computed {} samples: {computed_rate:.0} samples/s", done.computed);
    println!(
        "stored {} rows: {stored_rate:.0} samples/s from file to stored rows, {row_rate:.0} rows/s",
        done.rows
    );
    if summary.histograms > 0 {
        println!("{} native histograms kept as their count and sum", summary.histograms);
    }
    if summary.created > 0 {
        println!("{} samples of when a metric was created left out", summary.created);
    }
    if done.outside > 0 {
        println!("{} samples left out: outside --from and --to", done.outside);
    }
    if summary.refusals.total() > 0 {
        println!("{} lines refused: {}", summary.refusals.total(), summary.refusals.sentence());
    }
}
