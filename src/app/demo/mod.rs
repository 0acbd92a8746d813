//! `demo`: generated samples of the last two days, computed as fast as they can be, and then live ones; for the rest `run`.
//!
//! ```text
//!  made (demo.json) ──► feed: what is delivered when ──► 1. history: a journal of its own times, as `replay --live-order`
//!                                                   └──► 2. live: a guest of `run`, each sample when its time has come
//! ```
//! How far it has come is kept as any source keeps it: `sources/demo` says up to when everything is durable. So after a
//! kill, in either phase, some samples are sent again and refused as duplicates, and none is missing. A demo that was
//! away begins with the history of what it missed.

mod feed;
mod spec;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use tidewatch_dataflows::rows::WindowStats;
use tidewatch_dataflows::sample::Samples;
use tidewatch_dataflows::settings::duration;

use self::feed::{DemoFeed, SOURCE};
use self::spec::DemoSpec;
use super::progress::{Measure, ProgressLine, minutes};
use super::stack::{self, AcceptedRisks, Stack};
use super::status::reached;
use super::time::now_ms;
use super::{replay, run};
use crate::cli;
use crate::config::Config;
use crate::journal::EpochMode;
use crate::pull::{
    self, Guest, GuestRun, SourceDeps, SourceState, SourceStatus, StopSignal, read_progress, write_progress,
};
use crate::reading::EpochCut;
use crate::source::DurableFuture;
use crate::upkeep::watchdog::Watchdog;

/// Where the data is unless a directory is given; the default of `run` is never a demo's.
const DATA_DIR: &str = "./tidewatch-demo";
/// What was missed for longer is not made up for.
const GAP_MS_MAX: i64 = 48 * 3_600_000;
/// A history is over when it is this near to the present.
const NEAR_MS: i64 = 1_000;
/// Samples after which an epoch of a history ends all the same.
const EPOCH_SAMPLES: usize = 65_536;
/// How long is waited where Tidewatch takes nothing, and at most for the next sample.
const PAUSE: Duration = Duration::from_secs(1);

/// Makes or goes on with a demo, and runs until told to stop.
pub fn demo(mut config: Config, args: &cli::DemoArgs) -> anyhow::Result<ExitCode> {
    if args.common.data_dir.is_none() && config.data_dir == Config::default().data_dir {
        config.data_dir = PathBuf::from(DATA_DIR);
    }
    // Judged before anything is written, and before two days are computed in vain.
    let fresh = DemoSpec::new(args, config.allowed_lateness_ms, now_ms())?;
    std::net::TcpListener::bind(config.listen).map(drop).with_context(|| {
        format!("binding {}; if a server runs there, choose another address with --listen", config.listen)
    })?;
    let spec = begin(&config, args, fresh)?;
    let series_max = config.limits.series;
    ensure!(
        spec.series <= series_max,
        "--series must be at most limits.series ({series_max}); got {}",
        spec.series
    );
    let started = Instant::now();
    let progress = config.data_dir.join(pull::FOLDER).join(SOURCE);
    let sent_to_ms = read_progress(&progress);
    let gap_ms = now_ms() - sent_to_ms.unwrap_or(spec.start_ms);
    if gap_ms > GAP_MS_MAX + if sent_to_ms.is_some() { 0 } else { spec.history_ms() } {
        bail!(
            "the demo in {} lacks the last {}, and at most {} are made up for; begin anew with --fresh, or choose another directory with --data-dir",
            config.data_dir.display(),
            minutes(gap_ms),
            minutes(GAP_MS_MAX)
        );
    }
    // A shorter time is no gap to the computation either.
    if gap_ms > config.idle_timeout_ms {
        let (samples, rows) = history(&config, &spec, &progress, sent_to_ms)?;
        let (time, seconds) = (minutes(gap_ms), started.elapsed().as_secs_f64());
        println!("{time} of {} series: {samples} samples, {rows} rows stored in {seconds:.1} s", spec.series);
    }
    let status = Arc::new(SourceStatus::within(SOURCE));
    let guest = Guest { status: Arc::clone(&status), run: live(config.clone(), spec, progress, status) };
    run::run(config, AcceptedRisks::default(), &[], Some(guest), Vec::new())
}

/// What the demo in the data directory is made of: what is there, or what was asked for.
fn begin(config: &Config, args: &cli::DemoArgs, fresh: DemoSpec) -> anyhow::Result<DemoSpec> {
    let dir = &config.data_dir;
    // Before even a lock is left in a directory of others.
    if !args.fresh || !dir.join(spec::FILE).exists() {
        DemoSpec::read(dir)?;
    }
    let _lock = stack::lock(dir, config.umask)?;
    if args.fresh {
        spec::remove(dir)?;
    }
    match DemoSpec::read(dir)? {
        Some(spec) => spec.same(args).map(|()| spec),
        None => fresh.write(dir).map(|()| fresh),
    }
}

/// Computes and stores everything from where the demo is to the present; gives the numbers of samples and
/// of rows.
fn history(
    config: &Config,
    spec: &DemoSpec,
    progress: &Path,
    sent_to_ms: Option<i64>,
) -> anyhow::Result<(u64, u64)> {
    let on_fatal = replay::end_process();
    let stack = Stack::open(config, EpochMode::File, AcceptedRisks::default(), &on_fatal, Vec::new())?;
    let watchdog = Watchdog::start(
        Duration::from_millis(config.watchdog_ms.unsigned_abs()),
        stack.journal.clone(),
        Arc::clone(&stack.engine_progress),
        Arc::clone(&stack.metrics),
        on_fatal,
    )?;
    let from_ms = sent_to_ms.unwrap_or(spec.start_ms - 1);
    let mut shown = ProgressLine::new(Measure::Time((now_ms() - from_ms).max(0).unsigned_abs()));
    let mut feed =
        DemoFeed::new(spec.options(), from_ms, Arc::clone(&stack.labels), Arc::clone(&stack.metrics))?;
    let cut = EpochCut::new(stack.journal.clone(), config.idle_timeout_ms, true);
    let (mut at_ms, mut samples) = (from_ms, 0);
    loop {
        let now_ms = now_ms();
        if now_ms - at_ms < NEAR_MS {
            break;
        }
        let (to_ms, taken) = epoch(&stack, &mut feed, at_ms.saturating_add(spec.epoch_ms()).min(now_ms))?;
        (at_ms, samples) = (to_ms, samples + taken);
        write_progress(progress, at_ms).with_context(|| format!("writing {}", progress.display()))?;
        cut.full(Some(at_ms))?;
        shown.tick(samples, (at_ms - from_ms).unsigned_abs());
    }
    let end = cut.last(Some(at_ms))?;
    shown.until_stored(&stack, end);
    shown.finish();
    let stuck = stack.stuck();
    stack.close()?;
    drop(watchdog);
    match stuck {
        Some(why) => {
            bail!("{why}; everything made is in the journal and is computed at the next start with more room")
        }
        None => Ok((samples, stack.stored.rows_of::<WindowStats>())),
    }
}

/// Sends one epoch of a history, up to `to_ms` or as far as fits; gives up to when it is, and its number of samples.
fn epoch(stack: &Stack, feed: &mut DemoFeed, to_ms: i64) -> anyhow::Result<(i64, u64)> {
    let (mut upto_ms, mut samples) = (i64::MIN, 0);
    let mut waiting: Vec<DurableFuture> = Vec::new();
    while upto_ms < to_ms && samples < EPOCH_SAMPLES {
        let mut batch = Samples::default();
        upto_ms = feed.take(to_ms, stack.journal.current_epoch(), &mut batch);
        samples += batch.len();
        if !batch.is_empty() {
            waiting.push(stack.journal.try_append(batch, SOURCE).context("writing the history")?);
        }
    }
    for durable in waiting {
        let written = durable.blocking_recv().unwrap_or_else(|_| Err("the journal ended".to_owned()));
        written.map_err(anyhow::Error::msg).context("writing the history")?;
    }
    Ok((upto_ms, samples as u64))
}

/// Sends each sample when its time has come, until told to stop.
fn live(config: Config, spec: DemoSpec, progress: PathBuf, status: Arc<SourceStatus>) -> GuestRun {
    Box::new(move |parts, stop, listening| {
        let sent_to_ms = read_progress(&progress).unwrap_or(spec.start_ms - 1);
        let (labels, metrics) = (Arc::clone(&parts.labels), Arc::clone(&parts.metrics));
        let feed = match DemoFeed::new(spec.options(), sent_to_ms, labels, metrics) {
            Ok(feed) => feed,
            Err(error) => return tracing::error!("the demo cannot go on: {error}"),
        };
        // Stored results are there before, but what is shown first should not lack what a kill left uncomputed.
        while parts.log.catching_up() {
            if !stop.pause(Duration::from_millis(50)) {
                return;
            }
        }
        welcome(&config, &spec, listening);
        let sending = LivePhase { parts, stop, status: &status, progress: &progress };
        status.enter(SourceState::Sending);
        let state = sending.run(feed, sent_to_ms);
        status.enter(state);
    })
}

/// The live phase.
struct LivePhase<'a> {
    parts: &'a SourceDeps,
    stop: &'a StopSignal,
    status: &'a SourceStatus,
    progress: &'a Path,
}

impl LivePhase<'_> {
    /// Why it ended.
    fn run(&self, mut feed: DemoFeed, mut sent_to_ms: i64) -> SourceState {
        loop {
            let now_ms = (self.parts.clock)();
            let mut batch = Samples::default();
            let upto_ms = feed.take(now_ms, self.parts.log.epoch(), &mut batch);
            if !batch.is_empty() && !self.send(&batch) {
                return SourceState::Stopped;
            }
            if upto_ms > sent_to_ms {
                sent_to_ms = upto_ms;
                self.status.read_to(sent_to_ms);
                if !batch.is_empty()
                    && let Err(error) = write_progress(self.progress, sent_to_ms)
                {
                    tracing::warn!("writing {}: {error}", self.progress.display());
                }
            }
            let Some(next_ms) = feed.next_ms() else {
                tracing::warn!("the demo has come to its end, after ten years");
                return SourceState::Done;
            };
            let pause = Duration::from_millis((next_ms - (self.parts.clock)()).max(0).unsigned_abs());
            if !self.stop.pause(pause.min(PAUSE)) {
                return SourceState::Stopped;
            }
        }
    }

    /// Offers samples until they are durable; `false` if Tidewatch ends before.
    fn send(&self, batch: &Samples) -> bool {
        loop {
            let durable = self.parts.log.append(batch.clone(), SOURCE);
            let failed = match durable.map(DurableFuture::blocking_recv) {
                Ok(Ok(Ok(()))) => {
                    if self.status.succeeded((self.parts.clock)()) {
                        tracing::info!("the demo goes on");
                    }
                    return true;
                }
                Ok(Ok(Err(why))) => why,
                Ok(Err(_)) => "the journal is closed".to_owned(),
                Err(refused) => refused.why,
            };
            self.parts.metrics.limit("sources.intake");
            // Tidewatch that ends refuses as well, and there is nothing to say of it.
            if !self.stop.pause(PAUSE) {
                return false;
            }
            if self.status.failed((self.parts.clock)(), failed.clone()) {
                tracing::warn!("the demo waits: {failed}");
            }
        }
    }
}

/// Says what there is to see.
fn welcome(config: &Config, spec: &DemoSpec, listening: SocketAddr) {
    let url = format!("http://{}", reached(listening));
    // As it was called: it need not be on the path.
    let program = std::env::args().next().unwrap_or_else(|| "tidewatch".to_owned());
    println!(
        "
The demo runs: {} series, a live sample of each every {}.

  page   {url}/
  api    {url}/docs
  data   {}
  ask    curl -sG {url}/api/v1/windows -d window=1h --data-urlencode 'match[]=node_load1'
         curl -sG {url}/api/v1/windows -d window=12h -d min_rate=200000 -d format=csv
         curl -s '{url}/api/v1/rejects?by=name,reason'
  state  {program} status --url {url}

Ctrl-C ends it; the same command goes on where it was, and --fresh begins anew.
",
        spec.series,
        duration(spec.step_ms),
        config.data_dir.display(),
    );
}
