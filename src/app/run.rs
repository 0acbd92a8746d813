//! `run`: takes samples over HTTP until it is told to stop.

use std::net::IpAddr;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use anyhow::Context;
use axum::middleware::from_fn_with_state;
use parking_lot::Mutex;
use tidewatch_dataflows::rows::SeriesPresence;
use tidewatch_dataflows::rows::inspect::Unavailable;
use tidewatch_dataflows::sample::{Control, MetricType, Samples, SeriesId};
use tidewatch_dataflows::settings::{Settings, Window, duration};
use tokio::sync::{mpsc, watch};

use crate::api::boundary::Boundary;
use crate::api::server::{Backfills, SeriesState, ServerState, Workings};
use crate::api::{self, Api, Deps};
use crate::config::Config;
use crate::engine::publish_sizes;
use crate::journal::{CLOCK_BEHIND_MS_MAX, EpochMode, QueueError as JournalRefused};
use crate::metrics::{LogLabels, Metrics};
use crate::sinks::sink::Sink;
use crate::source::receive::{self, Receiver};
use crate::source::remote_write;
use crate::source::{DurableFuture, Intake, IntakeRefusal};
use crate::status::{
    BoundedBytes, DiskStatus, EpochNumbers, FileBytes, LimitsStatus, QuarantineStatus, ServerStatus,
    StoreFigures, WindowNames,
};
use crate::store::{LabelPairs, Store, StoreError};
use crate::threads::Pool;

use super::clock::{self, ClockWitnesses};
use super::connections::{self, ConnectionBounds};
use super::memory::SeriesRoom;
use super::rate::{self, Rate};
use super::rows_per_day::{self, DiskRoom, Notice, RowsPerDay, Warning};
use super::stack::{AcceptedRisks, Stack};
use super::{now_ms, process, raw, store_check, windows_in_words};
use crate::backfill::jobs::BackfillJobs;
use crate::fatal::{Fatal, FatalHook};
use crate::pull::{self, Guest, RunningSources};
use crate::upkeep::audit::{Audit, AuditDeps};
use crate::upkeep::watchdog::Watchdog;

/// How long requests may take to end after SIGTERM.
const GRACE: Duration = Duration::from_secs(10);
/// How often it is looked whether the state is there again.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// How often a series is looked at whose shard is between two epochs, and the pause before each next look.
const LOOKS_MAX: u32 = 50;
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// Quarantined series that `/status` names.
const QUARANTINED_SHOWN: usize = 20;
/// When a refused sender should come again.
const RETRY_SECONDS: u64 = 5;

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
    tokio::spawn(clock::watch(Arc::downgrade(&server)));
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
        windows_in_words(config).join(", ")
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

/// The running server as sources and the API see it.
pub(super) struct RunningServer {
    rate: Rate,
    /// What senders say of the clock.
    pub(super) clock: ClockWitnesses,
    /// Series that make rows: what was found at start, until the workers have read all of it back.
    series: AtomicU64,
    /// The store on its disk, as it was looked at last.
    disk: Mutex<DiskRoom>,
    pub(super) stack: Arc<Stack>,
    config: Config,
    closing: AtomicBool,
    opened: Instant,
    sources: Vec<Arc<pull::SourceStatus>>,
}

fn refused(why: impl ToString) -> IntakeRefusal {
    IntakeRefusal { retry_after_seconds: RETRY_SECONDS, why: why.to_string() }
}

fn later(error: JournalRefused) -> IntakeRefusal {
    refused(error)
}

impl RunningServer {
    /// The rows that the series make in a day. While the state is read back the workers hold less than there is.
    fn rows_per_day(&self) -> RowsPerDay {
        let progress = &self.stack.engine_progress;
        let held = progress.sizes.series.load(Ordering::Relaxed);
        let series = if progress.rebuilding() || !self.stack.caught_up() {
            self.series.load(Ordering::Relaxed).max(held)
        } else {
            self.series.store(held, Ordering::Relaxed);
            held
        };
        let disk = *self.disk.lock();
        RowsPerDay::new(&self.config, series, disk)
    }

    /// Says in the log what is due of [`RunningServer::rows_per_day`].
    fn report_rows_per_day(&self, warning: &mut Warning) -> Option<Notice> {
        let rows = self.rows_per_day();
        let say = warning.judge(rows.exceeded(), Instant::now())?;
        match say {
            Notice::Exceeded => {
                self.stack.metrics.limit("store.rows_per_day_max");
                tracing::warn!(
                    "the store gets more rows than it is meant for: {rows}; choose longer hops or fewer series, or raise store.rows_per_day_max"
                );
            }
            Notice::Over => tracing::info!("the store gets no more rows than it is meant for: {rows}"),
        }
        Some(say)
    }

    /// How far the clock is behind the journal's processing time; negative if it is ahead.
    pub(super) fn clock_behind_ms(&self) -> i64 {
        let processing_ms = self.stack.journal.last_epoch_end().map_or(i64::MIN, |end| end.processing_ms);
        processing_ms.saturating_sub(now_ms())
    }

    /// Whether anything is taken at all now.
    fn open(&self) -> Result<(), IntakeRefusal> {
        if self.closing.load(Ordering::Relaxed) {
            return Err(refused("the server is shutting down"));
        }
        match self.stack.blocked_on() {
            Some(why) => Err(refused(why)),
            None => Ok(()),
        }
    }
}

/// Parts of the status.
impl RunningServer {
    fn quarantine_status(&self) -> QuarantineStatus {
        let held = self.stack.engine_progress.quarantined();
        let series = held.iter().take(QUARANTINED_SHOWN).map(ToString::to_string).collect();
        QuarantineStatus { count: held.len(), series }
    }

    fn disk_status(&self) -> DiskStatus {
        let (stack, config) = (&self.stack, &self.config);
        let size = |bytes: i64| u64::try_from(bytes).unwrap_or(0);
        let log_bytes = |log| size(stack.metrics.log_bytes.get_or_create(&LogLabels { log }).get());
        DiskStatus {
            journal: BoundedBytes { bytes: stack.journal.bytes(), bytes_max: config.journal.bytes_max },
            outbox: BoundedBytes { bytes: log_bytes("outbox"), bytes_max: config.outbox.bytes_max },
            series: FileBytes { bytes: log_bytes("series") },
            snapshots: FileBytes { bytes: size(stack.metrics.snapshot_bytes.get()) },
        }
    }

    fn limits_status(&self) -> LimitsStatus {
        let limits = &self.config.limits;
        LimitsStatus {
            series: limits.series,
            series_per_name: limits.series_per_name,
            labels: limits.labels,
            label_bytes: limits.label_bytes,
            body_bytes: limits.body_bytes,
            late_samples: limits.late_samples as usize,
        }
    }
}

fn window_names(window: &Window) -> WindowNames {
    WindowNames { length: duration(window.length_ms), hop: duration(window.hop_ms) }
}

impl pull::SourceJournal for RunningServer {
    fn append(&self, samples: Samples, source: &'static str) -> Result<DurableFuture, IntakeRefusal> {
        self.open()?;
        self.stack.journal.try_append(samples, source).map_err(later)
    }

    fn control(&self, control: Control) -> Result<DurableFuture, IntakeRefusal> {
        self.open()?;
        self.stack.journal.try_control(control).map_err(later)
    }

    fn epoch(&self) -> u64 {
        self.stack.journal.current_epoch()
    }

    fn catching_up(&self) -> bool {
        !self.stack.caught_up()
    }

    fn ended(&self) -> bool {
        self.closing.load(Ordering::Relaxed) || self.stack.journal.failed().is_some()
    }
}

impl Intake for RunningServer {
    fn offer(&self, samples: Samples) -> Result<DurableFuture, IntakeRefusal> {
        self.open()?;
        self.stack.journal.try_append(samples, remote_write::SOURCE).map_err(later)
    }

    fn record_types(&self, types: Vec<(u64, MetricType)>) -> Result<DurableFuture, IntakeRefusal> {
        self.open()?;
        self.stack.journal.try_control(Control::Types(types)).map_err(later)
    }

    fn epoch(&self) -> u64 {
        self.stack.journal.current_epoch()
    }

    fn catching_up(&self) -> bool {
        !self.stack.caught_up()
    }

    fn processing_ms(&self) -> i64 {
        self.stack.journal.last_epoch_end().map_or(i64::MIN, |end| end.processing_ms)
    }

    fn observe_sender(&self, sender: IpAddr, newest_ms: i64) {
        if self.clock_behind_ms() > CLOCK_BEHIND_MS_MAX {
            self.clock.hear(sender, newest_ms);
        }
    }
}

impl Workings for RunningServer {
    fn settings(&self) -> Settings {
        self.config.settings()
    }

    fn labels(&self, series: SeriesId) -> Option<LabelPairs> {
        let labels = self.stack.labels.get(series)?;
        Some(labels.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
    }

    fn explain(&self, series: SeriesId, window_ms: i64, at_ms: i64) -> Result<SeriesState, String> {
        let questions = &self.stack.questions;
        for _ in 0..LOOKS_MAX {
            match questions.explain(series, window_ms, at_ms).map_err(|error| error.to_string())? {
                Ok(explained) => return Ok(SeriesState::Held(Box::new(explained))),
                Err(Unavailable::Between) => std::thread::sleep(LOOK_AGAIN),
                Err(Unavailable::Unknown | Unavailable::Bootstrapping) => {
                    let seen = questions.newest(&[series.0]).map_err(|error| error.to_string())?;
                    return Ok(match seen[0] {
                        SeriesPresence::Freed { newest_ms }
                        | SeriesPresence::Given { freed_ms: Some(newest_ms) } => {
                            SeriesState::Freed { newest_ms }
                        }
                        SeriesPresence::Live { .. }
                        | SeriesPresence::Given { freed_ms: None }
                        | SeriesPresence::Unknown => SeriesState::Unknown,
                    });
                }
            }
        }
        Err("the workers are busy with the epochs of this series; try again".to_owned())
    }
}

impl ServerState for RunningServer {
    fn ready(&self) -> Result<(), String> {
        self.stack.ready()
    }

    fn status(&self) -> ServerStatus {
        let (stack, progress) = (&self.stack, &self.stack.engine_progress);
        let processing_ms = progress.processing_ms.load(Ordering::Relaxed);
        let waits_for = stack.ready().err();
        ServerStatus {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_seconds: self.opened.elapsed().as_secs(),
            ready: waits_for.is_none(),
            waits_for,
            series: progress.sizes.series.load(Ordering::Relaxed),
            label_sets: stack.labels.len() as u64,
            epoch: EpochNumbers {
                journal: stack.journal.last_epoch_end().map(|end| end.epoch),
                outbox: stack.outbox.epoch(),
            },
            lag_seconds: (processing_ms != i64::MIN).then(|| (now_ms() - processing_ms).max(0) as f64 / 1e3),
            clock_behind_seconds: self.clock_behind_ms().max(0) as f64 / 1e3,
            samples: progress.samples.load(Ordering::Relaxed),
            samples_per_second: self.rate.per_second(Instant::now(), progress.live_samples()),
            store_log_bytes: stack.metrics.store_log_bytes.get(),
            quarantined: self.quarantine_status(),
            rows: progress.rows.load(Ordering::Relaxed),
            disk: self.disk_status(),
            sinks: stack.sinks.status(),
            limits_reached: stack
                .metrics
                .limits_reached()
                .into_iter()
                .map(|(k, n)| (k.to_owned(), n))
                .collect(),
            rows_per_day: self.rows_per_day().status(),
            windows: self.config.windows.iter().map(window_names).collect(),
            limits: self.limits_status(),
            workers: self.config.workers,
            sources: pull::report(&self.sources, now_ms()),
            store: StoreFigures::default(),
        }
    }

    fn before_scrape(&self) {
        let (stack, metrics) = (&self.stack, &self.stack.metrics);
        process::publish(metrics);
        publish_sizes(&stack.engine_progress, metrics);
        metrics.quarantined.set(stack.engine_progress.quarantined().len() as i64);
        metrics.label_entries.set(stack.labels.len() as i64);
        let processing_ms = stack.engine_progress.processing_ms.load(Ordering::Relaxed);
        if processing_ms != i64::MIN {
            metrics.lag_seconds.set((now_ms() - processing_ms).max(0) as f64 / 1e3);
        }
        metrics.clock_behind_seconds.set(self.clock_behind_ms().max(0) as f64 / 1e3);
        metrics.rows_per_day.set(i64::try_from(self.rows_per_day().estimate()).unwrap_or(i64::MAX));
        metrics.rows_per_day_max.set(i64::try_from(self.config.store.rows_per_day_max).unwrap_or(i64::MAX));
        pull::publish(&self.sources, now_ms(), metrics);
        stack.sinks.publish(metrics);
    }
}
