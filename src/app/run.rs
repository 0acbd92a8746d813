//! `run`: takes samples over HTTP until it is told to stop.

use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use anyhow::Context;
use axum::middleware::from_fn_with_state;
use parking_lot::Mutex;
use tidewatch_dataflows::sample::{Control, SeriesId};
use tokio::sync::{mpsc, watch};

use crate::api::boundary::Boundary;
use crate::api::server::{Backfills, ServerState};
use crate::api::{self, Api, Deps};
use crate::config::Config;
use crate::journal::EpochMode;
use crate::metrics::Metrics;
use crate::sinks::sink::Sink;
use crate::source::Intake;
use crate::source::receive::{self, Receiver};
use crate::store::{Store, StoreError};
use crate::threads::Pool;

use super::clock::ClockWitnesses;
use super::connections::{self, ConnectionBounds};
use super::memory::SeriesRoom;
use super::rate::{self, Rate};
use super::rows_per_day::{self, DiskRoom, Warning};
use super::server::RunningServer;
use super::stack::{AcceptedRisks, Stack};
use super::time::now_ms;
use super::{clock_reset, process, raw, store_check};
use crate::backfill::jobs::BackfillJobs;
use crate::fatal::{Fatal, FatalHook};
use crate::pull::{self, Guest, RunningSources};
use crate::upkeep::audit::{Audit, AuditDeps};
use crate::upkeep::watchdog::Watchdog;

/// How long requests may take to end after SIGTERM.
const GRACE: Duration = Duration::from_secs(10);
/// How often it is looked whether the state is there again.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Runs until SIGTERM or SIGINT, drains, and returns 0. A guest is one more source; `sinks` stand beside that of the store.
pub fn run(
    config: Config,
    accepted: AcceptedRisks,
    lift: &[String],
    guest: Option<Guest>,
    sinks: Vec<Box<dyn Sink>>,
) -> anyhow::Result<ExitCode> {
    let runtime = process::runtime(config.workers, config.sources.prometheus.len() + guest.iter().len())
        .context("the limits of the process cannot be used")?;
    runtime.block_on(serve(config, accepted, lift, guest, sinks))
}

#[expect(
    clippy::too_many_lines,
    reason = "the server is put together here, in the order that a reader follows"
)]
async fn serve(
    config: Config,
    accepted: AcceptedRisks,
    lift: &[String],
    guest: Option<Guest>,
    sinks: Vec<Box<dyn Sink>>,
) -> anyhow::Result<ExitCode> {
    // Before the data directory is touched.
    let clients =
        pull::clients(&config, &Arc::new(Metrics::new())).context("the configuration cannot be used")?;
    process::judge_open_files(clients.len()).context("the limits of the process cannot be used")?;
    let (fatal_to, mut fatal_from) = mpsc::unbounded_channel();
    // The receiver lives as long as this function: a message is lost only when the process ends anyway.
    let on_fatal: FatalHook = Arc::new(move |fatal| drop(fatal_to.send(fatal)));
    let opened = Instant::now();
    let stack = Arc::new(Stack::open(&config, EpochMode::Live, accepted, &on_fatal, sinks)?);
    lift_quarantine(&stack, lift).await?;
    let watchdog = Watchdog::start(
        Duration::from_millis(config.watchdog_ms.unsigned_abs()),
        stack.journal.clone(),
        Arc::clone(&stack.engine_progress),
        Arc::clone(&stack.metrics),
        Arc::clone(&on_fatal),
    )?;
    let store: Arc<dyn Store> = Arc::clone(&stack.store) as _;
    let check = store_check::StoreCheck::start(config.data_dir.clone(), store, Arc::clone(&on_fatal))
        .context("starting the check of the store")?;
    announce(&config, &stack, opened);
    let mut statuses = pull::statuses(&config);
    statuses.extend(guest.iter().map(|guest| Arc::clone(&guest.status)));
    let catalog = match stack.store.status() {
        Ok(status) => status.series,
        // Whoever found that ends the process in a moment, with a mark for the next start.
        Err(StoreError::Corrupt { .. }) => 0,
        Err(error) => return Err(error).context("reading the store"),
    };
    let server = Arc::new(RunningServer {
        // The catalog holds those that fell silent as well, as long as their rows are kept, and the log some of them.
        series: AtomicU64::new(catalog.min(stack.labels.len() as u64).min(config.limits.series)),
        disk: Mutex::new(DiskRoom::of(&config.data_dir)),
        stack: Arc::clone(&stack),
        config: config.clone(),
        closing: AtomicBool::new(false),
        opened,
        sources: statuses,
        rate: Rate::default(),
        clock: ClockWitnesses::default(),
    });
    let mut warning = Warning::default();
    if server.report_rows_per_day(&mut warning).is_none() && catalog > 0 {
        tracing::info!("the store gets {}", server.rows_per_day());
    }
    tokio::spawn(note_rate(Arc::downgrade(&server)));
    // All that is ever needed: who asks later may get none.
    let threads = Pool::start("blocking", process::POOL_THREADS);
    let threads = threads.context("starting the threads that answer")?;
    tokio::spawn(clock_reset::watch(Arc::downgrade(&server)));
    tokio::spawn(watch_rows_per_day(Arc::downgrade(&server), warning, threads.clone()));
    let receiver = Receiver::new(
        Arc::clone(&server) as Arc<dyn Intake>,
        Arc::clone(&stack.labels),
        Arc::clone(&stack.metrics),
        config.limits.body_bytes,
        now_ms,
        threads.clone(),
    );
    let backfills = Arc::new(BackfillJobs::new(config.clone(), stack.live()));
    let api = Api::new(Deps {
        store: Arc::clone(&stack.store) as Arc<dyn Store>,
        latest: Arc::new(stack.questions.clone()),
        raw: Arc::new(raw::RawSource::new(Arc::clone(&stack), clients)),
        labels: Arc::clone(&stack.labels),
        server: Arc::clone(&server) as Arc<dyn ServerState>,
        backfills: Arc::clone(&backfills) as Arc<dyn Backfills>,
        metrics: Arc::clone(&stack.metrics),
        threads: threads.clone(),
    });
    let router = api::router(api).merge(receive::router(Arc::new(receiver)));
    let boundary = Boundary::new(config.listen, &config.web.hosts, Arc::clone(&stack.metrics));
    let router = router.layer(from_fn_with_state(Arc::new(boundary), api::boundary::guard));
    let router = router.layer(from_fn_with_state(Arc::clone(&stack.metrics), api::drain_unread));
    let listener =
        connections::listen(config.listen).with_context(|| format!("binding {}", config.listen))?;
    let address = listener.local_addr()?;
    tracing::info!("listening on http://{address}; remote write goes to http://{address}/api/v1/write");
    let parts = pull::SourceDeps {
        log: Arc::clone(&server) as Arc<dyn pull::SourceJournal>,
        journal: stack.journal.clone(),
        labels: Arc::clone(&stack.labels),
        metrics: Arc::clone(&stack.metrics),
        clock: now_ms,
    };
    let mut sources = RunningSources::start(&config, &server.sources, &parts)?;
    guest.map_or(Ok(()), |guest| sources.host(guest, &parts, address))?;
    drop(parts);
    let audit = Audit::start(&config, accepted.loss, &audit_deps(&stack)).context("starting the audit")?;
    let (stop_to, stop_from) = watch::channel(false);
    let most = connections::most(config.limits.connections, process::connections_room(server.sources.len()));
    let (bounds, metrics) = (ConnectionBounds::of(most), Arc::clone(&stack.metrics));
    let connections = tokio::spawn(connections::serve(listener, router, bounds, metrics, stop_from));
    let fatal = tokio::select! {
        signal = stop_signal() => { tracing::info!("{signal}: draining"); None }
        fatal = fatal_from.recv() => fatal,
    };
    server.closing.store(true, Ordering::Relaxed);
    drop(stop_to);
    threads.run(move || sources.stop()).await.context("stopping the sources")?;
    if tokio::time::timeout(GRACE, connections).await.is_err() {
        tracing::warn!("some requests did not end within {GRACE:?} and are cut off");
    }
    if let Some(Fatal { message, code }) = fatal {
        tracing::error!("{message}");
        // Threads may wait for one that is gone; everything acknowledged is durable, so the process just ends.
        #[allow(clippy::disallowed_methods)]
        std::process::exit(code.into());
    }
    drop(server);
    let full = Arc::clone(&stack);
    let close = move || {
        // It asks the engine and writes to the store: first it, then those.
        backfills.close();
        drop(check);
        audit.into_iter().for_each(Audit::stop);
        let closed = stack.close();
        // Only now: what stands still would be waited for for ever.
        drop(watchdog);
        closed
    };
    let closed = threads.run(close).await.context("closing")?;
    if let Ok(Fatal { message, code }) = fatal_from.try_recv() {
        tracing::error!("{message}");
        return Ok(ExitCode::from(code));
    }
    closed?;
    let last = full.journal.last_epoch_end().map_or(0, |end| end.epoch);
    if let Some(why) = full.engine_progress.blocked_on() {
        tracing::warn!("everything taken is durable; {why}, so not all of it is stored");
    } else if full.stored.epoch() < last {
        tracing::warn!("everything taken is durable; not all of it is computed, the next start does it");
    } else if full.sinks.least() < last {
        tracing::warn!("everything taken is stored; not all sinks have it, the next start goes on");
    } else {
        tracing::info!("everything taken is stored");
    }
    Ok(ExitCode::SUCCESS)
}

fn audit_deps(stack: &Arc<Stack>) -> AuditDeps {
    let caught_up = {
        let stack = Arc::clone(stack);
        Arc::new(move || stack.caught_up())
    };
    AuditDeps {
        journal: stack.journal.clone(),
        outbox: Arc::clone(&stack.outbox),
        labels: Arc::clone(&stack.labels),
        metrics: Arc::clone(&stack.metrics),
        questions: stack.questions.clone(),
        caught_up,
    }
}

/// Lets series that were quarantined in again; the journal holds it once this returns.
async fn lift_quarantine(stack: &Stack, lift: &[String]) -> anyhow::Result<()> {
    let held = stack.engine_progress.quarantined();
    let mut series = Vec::new();
    for text in lift {
        if text == "all" {
            series.extend_from_slice(&held);
            continue;
        }
        let one: Option<SeriesId> = text.parse().ok();
        let known = one.filter(|one| held.contains(one));
        let names = || held.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        series.push(known.with_context(|| {
            format!(
                "--lift-quarantine must be all or the id of a quarantined series ({}); got {text:?}",
                if held.is_empty() { "there is none".to_owned() } else { names() }
            )
        })?);
    }
    for series in series {
        let synced = stack.journal.try_control(Control::Lift { series: series.0 });
        let synced = synced.context("lifting a quarantine")?;
        // The writer answers each item it took, so only a panic of it closes the channel.
        let written = synced.await.unwrap_or_else(|_| Err("the journal's writer is gone".to_owned()));
        written.map_err(anyhow::Error::msg).context("lifting a quarantine")?;
        tracing::info!("series {series} is computed again");
    }
    Ok(())
}

/// Says what was opened, and when the state is what it was before the start.
fn announce(config: &Config, stack: &Stack, opened: Instant) {
    tracing::info!(
        "tidewatch {} on {}: {} workers, windows {}",
        env!("CARGO_PKG_VERSION"),
        config.data_dir.display(),
        config.workers,
        config.windows_in_words().join(", ")
    );
    let room = SeriesRoom::here(&config.settings());
    match room.exceeded(config) {
        true => tracing::warn!("{}: more than that may come", room.sentence(config)),
        false => tracing::info!("{}", room.sentence(config)),
    }
    let (found, progress) = (stack.found_epoch, Arc::clone(&stack.engine_progress));
    if found == 0 {
        return;
    }
    tracing::info!(
        "reading the state back from snapshots and the journal ({:.1} MiB); stored results are served meanwhile",
        stack.journal.bytes() as f64 / f64::from(1 << 20)
    );
    tokio::spawn(async move {
        while progress.epoch.load(Ordering::Relaxed) < found {
            tokio::time::sleep(LOOK_EVERY).await;
        }
        tracing::info!("the state is there again, after {:.1} s", opened.elapsed().as_secs_f64());
    });
}

/// Notes how many samples are computed, for as long as the server is there.
async fn note_rate(server: Weak<RunningServer>) {
    let mut every = tokio::time::interval(rate::EVERY);
    loop {
        every.tick().await;
        let Some(server) = server.upgrade() else { return };
        server.rate.note(Instant::now(), server.stack.engine_progress.live_samples());
    }
}

/// Looks now and then what the disk has free and whether there are more rows a day than the store is meant for, for as
/// long as the server is there.
async fn watch_rows_per_day(server: Weak<RunningServer>, mut warning: Warning, threads: Pool) {
    loop {
        tokio::time::sleep(rows_per_day::LOOK_EVERY).await;
        let Some(data_dir) = server.upgrade().map(|server| server.config.data_dir.clone()) else { return };
        // A file system may take its time, so no question waits for it.
        let looked = threads.run(move || DiskRoom::of(&data_dir)).await;
        let Some(server) = server.upgrade() else { return };
        if let Ok(disk) = looked {
            *server.disk.lock() = disk;
        }
        server.report_rows_per_day(&mut warning);
    }
}

async fn stop_signal() -> &'static str {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut terminate), Ok(mut interrupt)) =
        (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        tracing::warn!("signals cannot be caught; a kill is as safe as a stop");
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    }
}
