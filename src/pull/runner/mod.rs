//! What one source does: it bootstraps once, then polls.
//!
//! A bootstrap happens when the journal knows of no finished one from this source, or of one that was begun and not
//! ended: that one is resumed under its id from its beginning. It is framed by control records and goes on until less
//! than a poll is missing. Polling reads what is newer as ordinary samples. After a restart it goes on where the source
//! wrote down that everything was durable, or where the journal ends, at most as far back as the bootstrap or the longest
//! window reaches. A new bootstrap of a Tidewatch that was away is followed from the journal's end, too: series that are
//! known for long refuse it. A clock that goes back takes polling with it.
//!
//! A server may say that its answers are partial. They are asked for again for [`PARTIAL_PATIENCE_MS`]; then what there
//! is is taken, while what `/status` and the file say is read stays before the first of them. Once polls are whole
//! again, reading goes back to there: at once, then, where old answers stay partial, after one hour, two, four and so on,
//! as far back as after a restart. So series that were missing come whole, and a server that is never whole is used.
//!
//! Spans that ended in the present are read again for [`OVERLAP_MS`], because a scrape becomes visible after its time.
//! A source has at most [`IN_FLIGHT_MAX`] batches in the journal's queue, so that others find room in it. It keeps them
//! until they are durable: a journal whose disk is full for a moment throws away what waits, and gets it again.

mod gap;
mod revisit;

use std::collections::{HashSet, VecDeque};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use tidewatch_dataflows::sample::{Bootstrap, Control, Samples};
use tidewatch_dataflows::settings::duration;
use tokio::sync::oneshot::error::TryRecvError;

use crate::config::PrometheusSource;
use crate::metrics::Metrics;
use crate::source::DurableFuture;
use crate::source::query::SOURCE;
use crate::source::query::client::{QueryError, QuerySeries};
use crate::source::query::read::{QueryPort, ReadObserver, ReadSpan, Reading, StoppedError};
use crate::source::query::take::{OVERLAP_MS, TakeContext, Taker};

use self::gap::{Gap, widened};
use super::port::{REFUSED, SourceJournal, StopSignal, write_progress};
use super::status::{SourceState, SourceStatus};

/// Most samples of a batch.
const BATCH_SAMPLES_MAX: usize = 4_096;
/// Most batches that are not yet durable.
const IN_FLIGHT_MAX: usize = 16;
/// How often progress is logged.
const REPORT_EVERY: Duration = Duration::from_secs(30);
/// What counts as caught up where nothing is polled.
const CAUGHT_UP_MS: i64 = 15_000;

/// How often a bootstrap reads up to the present before polling takes over.
const PRESENTS_MAX: u32 = 3;

/// How long partial answers are asked for again before they are taken as they are.
const PARTIAL_PATIENCE_MS: i64 = 300_000;
/// Where a source begins.
#[derive(Clone, Debug)]
pub struct SourceStart {
    /// The source's name in the journal.
    pub identity: String,
    /// What a bootstrap that is begun now is called; never 0.
    pub bootstrap_id: u64,
    /// Its bootstrap that was not ended.
    pub open: Option<Bootstrap>,
    /// Whether one was ended.
    pub bootstrapped: bool,
    /// Until when everything is durable, as far as known.
    pub read_to_ms: Option<i64>,
    /// How far back polling may go after a restart, if there is no bootstrap.
    pub reach_ms: i64,
}

/// One source at work.
pub struct Runner<'a> {
    /// Its settings.
    pub config: &'a PrometheusSource,
    /// Who is asked.
    pub ask: &'a dyn QueryPort,
    /// Where samples go.
    pub log: &'a dyn SourceJournal,
    /// Tells it to end.
    pub stop: &'a StopSignal,
    /// What it is doing.
    pub status: &'a SourceStatus,
    /// Metrics of this process.
    pub metrics: &'a Metrics,
    /// Unix milliseconds.
    pub clock: &'a (dyn Fn() -> i64 + Sync),
    /// Where it writes down how far it has read.
    pub progress: PathBuf,
}

/// What has been read so far.
struct ReadPosition {
    readings: Vec<Reading>,
    taker: Taker,
    /// Everything up to here was read.
    at_ms: i64,
    /// When that was, by the clock.
    read_ms: Option<i64>,
    /// What was taken of partial answers.
    gap: Option<Gap>,
    /// How far back is read what was missed.
    reach_ms: i64,
}

/// A batch that may not be durable yet: it is kept to be sent again. Sent twice it does no harm.
struct SentBatch {
    batch: Samples,
    durable: DurableFuture,
}

/// On the way to the journal.
#[derive(Default)]
struct SendWindow {
    /// The bootstrap that samples belong to; 0 for none.
    bootstrap: u64,
    /// It is written before its first sample.
    begin: Option<Bootstrap>,
    in_flight: VecDeque<SentBatch>,
    samples: u64,
    /// Series with samples in the bootstrap.
    series: HashSet<u64>,
}

impl Runner<'_> {
    /// Works until there is no more to do or it is told to stop.
    pub fn run(&self, start: SourceStart, taker: Taker, readings: Vec<Reading>) {
        let reach_ms = if self.config.bootstrap_ms > 0 { self.config.bootstrap_ms } else { start.reach_ms };
        let position = ReadPosition { readings, taker, at_ms: 0, read_ms: None, gap: None, reach_ms };
        let done = self.work(start, position);
        self.status.enter(if done.is_ok() { SourceState::Done } else { SourceState::Stopped });
    }

    fn work(&self, start: SourceStart, mut position: ReadPosition) -> Result<(), StoppedError> {
        let now_ms = (self.clock)();
        let wants_bootstrap = self.config.bootstrap_ms > 0 && !start.bootstrapped;
        let bootstrap = start.open.clone().or_else(|| {
            wants_bootstrap.then(|| Bootstrap {
                id: start.bootstrap_id,
                source: start.identity.clone(),
                from_ms: now_ms - self.config.bootstrap_ms,
                publish_from_ms: now_ms,
            })
        });
        match bootstrap {
            Some(bootstrap) => {
                position.at_ms = bootstrap.from_ms - 1;
                self.survey(&mut position, now_ms)?;
                self.bootstrap(&mut position, bootstrap, start.open.is_some())?;
                if let Some(read_to_ms) = start.read_to_ms.filter(|_| start.open.is_none()) {
                    self.go_back(&mut position, read_to_ms);
                }
            }
            None => {
                let from_ms = start.read_to_ms.unwrap_or(now_ms) - OVERLAP_MS;
                position.at_ms = from_ms.clamp(now_ms - position.reach_ms.max(OVERLAP_MS), now_ms);
                if self.config.poll_ms > 0 {
                    self.survey(&mut position, now_ms)?;
                }
            }
        }
        if self.config.poll_ms == 0 {
            return Ok(());
        }
        self.poll(&mut position)
    }

    /// Reads what comes first without taking it, if something is to be left out by what it shows.
    fn survey(&self, position: &mut ReadPosition, now_ms: i64) -> Result<(), StoppedError> {
        let ReadPosition { readings, taker, at_ms, .. } = position;
        if !taker.chooser().is_needed() {
            return Ok(());
        }
        self.status.enter(SourceState::Surveying);
        let mut rest = ReadSpan { after_ms: *at_ms, to_ms: now_ms };
        while rest.after_ms < rest.to_ms {
            let span = rest.chunk(self.config.chunk_ms);
            for reading in readings.iter_mut() {
                reading.read(self.ask, self, span, &mut |answer| {
                    taker.survey(&answer);
                    if self.stop.pause(Duration::ZERO) { Ok(()) } else { Err(StoppedError) }
                })?;
            }
            rest.after_ms = span.to_ms;
        }
        taker.chooser().decide();
        self.status.left_out(taker.chooser().left_out());
        Ok(())
    }

    fn bootstrap(
        &self,
        position: &mut ReadPosition,
        bootstrap: Bootstrap,
        resumed: bool,
    ) -> Result<(), StoppedError> {
        self.status.enter(SourceState::Bootstraping);
        let url = self.status.url();
        let reach = duration((((self.clock)() - bootstrap.from_ms) / 1_000).max(0) * 1_000);
        match resumed {
            true => tracing::info!("{url}: resuming the bootstrap of {reach} that was not finished"),
            false => tracing::info!("{url}: bootstrapping {reach}"),
        }
        let id = bootstrap.id;
        let begun = Instant::now();
        let mut sending =
            SendWindow { bootstrap: id, begin: (!resumed).then_some(bootstrap), ..SendWindow::default() };
        let behind_ms = if self.config.poll_ms > 0 { self.config.poll_ms } else { CAUGHT_UP_MS };
        let (mut reported, mut presents) = (Instant::now(), 0);
        loop {
            let now_ms = (self.clock)();
            // A server that takes longer than a poll for a poll would never be caught up with: polling has the rest.
            if now_ms - position.at_ms < behind_ms || presents == PRESENTS_MAX {
                break;
            }
            self.advance(position, &mut sending, now_ms)?;
            presents += u32::from(position.at_ms == now_ms);
            if reported.elapsed() >= REPORT_EVERY {
                reported = Instant::now();
                let left = duration(((now_ms - position.at_ms) / 1_000).max(0) * 1_000);
                tracing::info!(
                    "{url}: {} samples of {} series; {left} to go",
                    sending.samples,
                    sending.series.len()
                );
            }
        }
        // Also where there was nothing: that there was is not asked again.
        self.begin(&mut sending)?;
        self.confirm(&mut sending, 0)?;
        self.control(Control::BootstrapEnd { bootstrap: id })?;
        self.written(position);
        let (samples, series, seconds) =
            (sending.samples, sending.series.len(), begun.elapsed().as_secs_f64());
        tracing::info!("{url}: bootstrapped {samples} samples of {series} series in {seconds:.1} s");
        Ok(())
    }

    fn poll(&self, position: &mut ReadPosition) -> Result<(), StoppedError> {
        self.status.enter(SourceState::Polling);
        let mut sending = SendWindow::default();
        loop {
            let until_ms = (self.clock)();
            if until_ms < position.at_ms {
                self.clock_went_back(position, until_ms);
            }
            let mut whole = true;
            while position.at_ms < until_ms {
                whole = self.advance(position, &mut sending, until_ms)?;
            }
            self.confirm(&mut sending, 0)?;
            self.read_again(position);
            self.give_up_old(position);
            self.written(position);
            if whole && self.revisit(position) {
                continue;
            }
            let passed = (self.clock)() - until_ms;
            let wait = (self.config.poll_ms - passed).clamp(0, self.config.poll_ms);
            if !self.stop.pause(Duration::from_millis(wait.unsigned_abs())) {
                return Err(StoppedError);
            }
        }
    }

    /// Goes back to where the journal ended: series that it knows for long refuse a bootstrap of other selectors, and what
    /// was missed is new to them. Those that took the bootstrap have it twice, which the engine counts.
    fn go_back(&self, position: &mut ReadPosition, read_to_ms: i64) {
        let from_ms = (read_to_ms - OVERLAP_MS).max((self.clock)() - self.config.bootstrap_ms);
        if from_ms < position.at_ms {
            position.taker.begin_again();
            position.at_ms = from_ms;
        }
    }

    /// Goes back as well: while the clock was ahead the server had nothing at its times, so what was scraped meanwhile
    /// is newer than all that was taken. What is taken twice by that the engine counts as duplicates.
    fn clock_went_back(&self, position: &mut ReadPosition, now_ms: i64) {
        let newest_ms = position.taker.begin_again().unwrap_or(now_ms);
        let behind = duration(((position.at_ms - now_ms) / 1_000).max(1) * 1_000);
        position.gap = position.gap.filter(|gap| gap.from_ms < now_ms);
        tracing::warn!("{}: the clock is {behind} behind what was read; reading again", self.status.url());
        position.at_ms = newest_ms.min(now_ms);
        position.read_ms = Some(position.at_ms);
    }

    /// Reads the next chunk, which ends at `until_ms` or before; whether its answers were whole.
    fn advance(
        &self,
        position: &mut ReadPosition,
        sending: &mut SendWindow,
        until_ms: i64,
    ) -> Result<bool, StoppedError> {
        let ReadPosition { readings, taker, at_ms, read_ms, gap, .. } = position;
        let chunk = ReadSpan { after_ms: *at_ms, to_ms: until_ms }.chunk(self.config.chunk_ms);
        // What was the present when it was read may have got samples since.
        let overlap_ms = read_ms.map_or(0, |read_ms| (OVERLAP_MS - (read_ms - *at_ms)).clamp(0, OVERLAP_MS));
        let after_ms = *at_ms - overlap_ms;
        *read_ms = Some((self.clock)());
        let taken = || self.status.is_partial().map_or(0, |partial| partial.taken);
        let before = taken();
        for reading in readings.iter_mut() {
            let span = ReadSpan { after_ms, ..chunk };
            reading.read(self.ask, self, span, &mut |answer| self.send(taker, sending, answer))?;
        }
        taker.end_span(chunk.to_ms);
        let whole = taken() == before;
        if !whole {
            // With the overlap: what becomes visible there was in none of the whole answers.
            *gap = Some(widened(*gap, after_ms, chunk.to_ms, (self.clock)()));
        }
        *at_ms = chunk.to_ms;
        self.status.read_to(gap.map_or(*at_ms, |gap| gap.from_ms.min(*at_ms)));
        if gap.is_none() {
            self.whole_again(*at_ms);
        }
        self.status.left_out(taker.chooser().left_out());
        Ok(whole)
    }

    /// Everything read is durable.
    fn written(&self, position: &ReadPosition) {
        let read_to_ms = position.gap.map_or(position.at_ms, |gap| gap.from_ms);
        if let Err(error) = write_progress(&self.progress, read_to_ms) {
            let why = format!("writing {}: {error}", self.progress.display());
            if self.status.failed((self.clock)(), why.clone()) {
                tracing::warn!("{why}; after a restart the journal's end tells where to go on");
            }
        }
    }

    /// Says that a part will not be read.
    fn misses(&self, selector: &str, span: ReadSpan, why: &str) {
        self.metrics.limit("prometheus.piece");
        let now_ms = (self.clock)();
        if let Some(parts) = self.status.misses(now_ms, selector, span, why) {
            let ReadSpan { after_ms, to_ms } = span;
            tracing::error!(
                "{}: {selector} from {after_ms} to {to_ms} ms is left out: {why}; {parts} parts since this was \
                 last said, which is once an hour; /status lists what is not read",
                self.status.url()
            );
        }
    }

    /// Takes the samples of an answer to the journal.
    fn send(
        &self,
        taker: &mut Taker,
        sending: &mut SendWindow,
        answer: Vec<QuerySeries>,
    ) -> Result<(), StoppedError> {
        let mut left = answer;
        loop {
            let taking = TakeContext {
                now_ms: (self.clock)(),
                epoch: self.log.epoch(),
                again: self.log.catching_up(),
            };
            let mut samples = Samples::of_bootstrap(sending.bootstrap);
            left = taker.take(left, taking, &mut samples);
            self.append(sending, &samples)?;
            if left.is_empty() {
                return if self.stop.pause(Duration::ZERO) { Ok(()) } else { Err(StoppedError) };
            }
            // Series that ended before the start are still counted.
            if !self.stop.pause(REFUSED) {
                return Err(StoppedError);
            }
        }
    }

    fn append(&self, sending: &mut SendWindow, samples: &Samples) -> Result<(), StoppedError> {
        let mut begin = 0;
        while begin < samples.len() {
            let batch = samples.part(begin..samples.len().min(begin + BATCH_SAMPLES_MAX));
            begin += batch.len();
            self.begin(sending)?;
            self.confirm(sending, IN_FLIGHT_MAX - 1)?;
            sending.samples += batch.len() as u64;
            if sending.bootstrap != 0 {
                sending.series.extend(&batch.series);
            }
            self.hand_over(&mut sending.in_flight, VecDeque::from([batch]))?;
        }
        Ok(())
    }

    /// Writes that the bootstrap begins, if it has not.
    fn begin(&self, sending: &mut SendWindow) -> Result<(), StoppedError> {
        match sending.begin.take() {
            Some(bootstrap) => self.control(Control::BootstrapBegin(bootstrap)),
            None => Ok(()),
        }
    }

    /// Offers until it is durable.
    fn control(&self, control: Control) -> Result<(), StoppedError> {
        loop {
            match self.log.control(control.clone()) {
                Ok(durable) => match answer(durable.blocking_recv().ok()) {
                    Ok(()) => return Ok(()),
                    Err(why) => self.thrown_away(why)?,
                },
                Err(refused) => self.wait(refused.why)?,
            }
        }
    }

    /// Offers batches until they are taken, behind those in flight. Where the journal has thrown away some of these
    /// meanwhile they go first: of a series that has got newer samples they would be too old.
    fn hand_over(
        &self,
        in_flight: &mut VecDeque<SentBatch>,
        mut waiting: VecDeque<Samples>,
    ) -> Result<(), StoppedError> {
        while let Some(batch) = waiting.pop_front() {
            if let Some((why, lost)) = lost(in_flight) {
                waiting.push_front(batch);
                lost.into_iter().rev().for_each(|batch| waiting.push_front(batch));
                self.thrown_away(why)?;
                continue;
            }
            match self.log.append(batch.clone(), SOURCE) {
                Ok(durable) => in_flight.push_back(SentBatch { batch, durable }),
                Err(refused) => {
                    waiting.push_front(batch);
                    self.wait(refused.why)?;
                }
            }
        }
        Ok(())
    }

    /// Waits until at most `most` batches are not durable.
    fn confirm(&self, sending: &mut SendWindow, most: usize) -> Result<(), StoppedError> {
        let in_flight = &mut sending.in_flight;
        while in_flight.len() > most {
            let Some(SentBatch { batch, durable }) = in_flight.pop_front() else { break };
            if let Err(why) = answer(durable.blocking_recv().ok()) {
                self.thrown_away(why)?;
                let mut lost = not_durable(in_flight);
                lost.push_front(batch);
                self.hand_over(in_flight, lost)?;
            }
        }
        Ok(())
    }

    /// What was taken is not durable: the disk had no room for a while, or the journal takes nothing any more.
    fn thrown_away(&self, why: String) -> Result<(), StoppedError> {
        if self.log.ended() {
            // It says so itself.
            self.status.failed((self.clock)(), why);
            return Err(StoppedError);
        }
        self.wait(why)
    }

    /// Nothing is taken now.
    fn wait(&self, why: String) -> Result<(), StoppedError> {
        self.metrics.limit("sources.intake");
        if self.status.failed((self.clock)(), why.clone()) {
            tracing::warn!("{} waits: {why}", self.status.url());
        }
        if self.stop.pause(REFUSED) { Ok(()) } else { Err(StoppedError) }
    }
}

/// What became of something that was taken; nobody answers once the journal is closed.
pub(super) fn answer(answered: Option<Result<(), String>>) -> Result<(), String> {
    answered.unwrap_or_else(|| Err("the journal is closed".to_owned()))
}

/// What the journal has thrown away of what is in flight, and why. Answers come in order, and what is thrown away is all
/// that waited.
fn lost(in_flight: &mut VecDeque<SentBatch>) -> Option<(String, VecDeque<Samples>)> {
    loop {
        let answered = match in_flight.front_mut()?.durable.try_recv() {
            Ok(answered) => Some(answered),
            Err(TryRecvError::Closed) => None,
            Err(TryRecvError::Empty) => return None,
        };
        let SentBatch { batch, .. } = in_flight.pop_front()?;
        if let Err(why) = answer(answered) {
            let mut lost = not_durable(in_flight);
            lost.push_front(batch);
            return Some((why, lost));
        }
    }
}

/// Waits for everything in flight; what did not become durable.
fn not_durable(in_flight: &mut VecDeque<SentBatch>) -> VecDeque<Samples> {
    let all = in_flight.drain(..);
    all.filter_map(|sent| answer(sent.durable.blocking_recv().ok()).err().map(|_| sent.batch)).collect()
}

impl ReadObserver for Runner<'_> {
    fn answered(&self) {
        if self.status.succeeded((self.clock)()) {
            tracing::info!("{} answers again", self.status.url());
        }
    }

    fn failed(&self, error: &QueryError, again_in: Duration) {
        let news = self.status.failed((self.clock)(), error.to_string());
        match error {
            _ if !news => {}
            QueryError::Definite(_) => tracing::error!("{error}; asked again every {again_in:?}"),
            QueryError::Transient(_) | QueryError::TooMuch(_) => tracing::warn!("{error}; asked again"),
        }
    }

    fn partial(&self, why: &str, span: ReadSpan, again_in: Duration) -> bool {
        self.metrics.limit("prometheus.partial");
        let now_ms = (self.clock)();
        let since_ms = self.status.is_partial().map_or(now_ms, |partial| partial.since_ms);
        let taken = now_ms - since_ms >= PARTIAL_PATIENCE_MS;
        let say = self.status.partial(now_ms, span.after_ms, why, taken);
        let url = self.status.url();
        match taken {
            true if say => tracing::warn!("{url}: answers are still partial and taken as they are: {why}"),
            false if say => tracing::warn!("{url}: the answer is partial: {why}; asked again"),
            _ => {}
        }
        if !taken {
            let seconds = again_in.as_secs_f64();
            self.status.remark(now_ms, format!("the answer is partial: {why}; asked again in {seconds} s"));
        }
        taken
    }

    fn left_out(&self, error: &QueryError, selector: &str, span: ReadSpan) {
        let why = match error {
            QueryError::TooMuch(_) => format!("it is too much even so: {error}"),
            _ => error.to_string(),
        };
        self.misses(selector, span, &why);
        self.status.remark((self.clock)(), format!("{selector} is left out: {why}"));
    }

    fn full(&self) {
        self.metrics.limit("prometheus.refused_names");
    }

    fn pause(&self, time: Duration) -> bool {
        self.stop.pause(time)
    }
}
