//! `replay --backfill`: a backfill out of files, while no server holds the data directory.

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use anyhow::anyhow;
use serde_json::json;
use tidewatch_dataflows::sample::Samples;

use crate::cli;
use crate::config::Config;
use crate::source::replay::{self, ReplayError, ReplayOptions, ReplayReader, SOURCE};

use super::progress::{Measure, ProgressLine as Shown};
use super::stack::{InUse, Stack};
use crate::backfill::{BackfillError, BackfillProgress, BackfillRun, BackfillSummary};
use crate::reading::{all_read, next_of, show};

/// Reads the files into a backfill and writes it.
pub fn replay(
    config: &Config,
    args: &cli::ReplayArgs,
    options: ReplayOptions,
    stack: anyhow::Result<Stack>,
    range: (Option<i64>, Option<i64>),
) -> anyhow::Result<ExitCode> {
    let stack = Arc::new(stack.map_err(|error| match error.downcast_ref::<InUse>() {
        Some(InUse(dir)) => anyhow!(
            "another tidewatch process holds the data directory {}; beside a running server, backfill comes by POST /api/v1/backfill",
            dir.display()
        ),
        None => error,
    })?);
    let mut failed = Vec::new();
    let done = read_and_write(config, args, options, &stack, range, &mut failed);
    stack.close()?;
    if let Ok((read, summary)) = &done {
        report(read, summary, args.common.json);
    }
    all_read(done, failed)?;
    Ok(ExitCode::SUCCESS)
}

fn read_and_write(
    config: &Config,
    args: &cli::ReplayArgs,
    options: ReplayOptions,
    stack: &Arc<Stack>,
    range: (Option<i64>, Option<i64>),
    failed: &mut Vec<ReplayError>,
) -> anyhow::Result<(replay::ReplaySummary, BackfillSummary)> {
    let mut backfill =
        BackfillRun::open(config, range, Arc::new(BackfillProgress::default()), Arc::clone(&stack.metrics))?;
    let mut replay = ReplayReader::open(&args.files, options, backfill.labels(), Arc::clone(&stack.metrics))?;
    let (bytes, mut shown) = (replay.bytes_counter(), Shown::new(Measure::Bytes(replay.bytes_total())));
    // Labels of a backfill are forgotten with its folder, so no epoch marks their use.
    let mut next = |batch: &mut Samples| next_of(&mut replay, failed, batch, 0).map_err(BackfillError::from);
    let mut tick = |samples| shown.tick(samples, bytes.load(Ordering::Relaxed));
    let read = backfill.read(&mut next, SOURCE, &mut tick);
    shown.finish();
    read?;
    let summary = backfill.write(&stack.live())?;
    Ok((replay.summary().clone(), summary))
}

fn report(read: &replay::ReplaySummary, summary: &BackfillSummary, as_json: bool) {
    let refused = &read.refusals;
    if as_json {
        let by_reason: serde_json::Map<String, serde_json::Value> =
            refused.iter().map(|refusal| (refusal.reason.to_owned(), refusal.count.into())).collect();
        let first: Vec<String> = read.first.iter().map(ToString::to_string).collect();
        let mut value = summary.json();
        value["lines"] = json!(read.lines);
        value["received"] = json!(read.received);
        value["refused"] = by_reason.into();
        value["first_refused"] = json!(first);
        value["histograms"] = json!(read.histograms);
        value["warnings"] = json!(read.warnings);
        println!("{value}");
        return;
    }
    show(read);
    println!("{}", summary.text());
    if refused.total() > 0 {
        println!("{} lines refused: {}", refused.total(), refused.sentence());
    }
}
