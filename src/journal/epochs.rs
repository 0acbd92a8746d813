//! Epoch numbers, processing time and the watermark: the one place that turns a clock into what the computation sees.
//!
//! Pure: the clock is an argument. `closing_model.py` beside the design calls this `live`.

use tidewatch_dataflows::sample::EpochEnd;

use crate::faults::mutant;

/// A step of so many epochs may be a jump.
const EPOCHS_PER_JUMP: i64 = 10;
/// So is one of so many times the step before it.
const CADENCES_PER_JUMP: i64 = 3;

/// Cuts epochs: knows the last [`EpochEnd`] and whether silence may be judged.
///
/// - number = max(previous + 1, clock in milliseconds)
/// - processing time = the clock, never going back
/// - the watermark = processing time; but after a jump of processing time (nobody was there) it stands still until processing time is
///   `catch_up` past the jump. One that begins with `watermark_ms < processing_ms` begins that wait anew.
/// - a jump is longer than `idle_timeout`, than [`EPOCHS_PER_JUMP`] epochs, and than [`CADENCES_PER_JUMP`] times the shorter of
///   the last two steps: cuts that come late again and again, as on a slow disk, are a slow cadence, and somebody is there.
#[derive(Clone, Debug)]
pub struct EpochCutter {
    last: Option<EpochEnd>,
    catch_up_ms: i64,
    /// No step up to this is a jump.
    jump_above_ms: i64,
    /// The last two steps of processing time.
    steps_ms: [i64; 2],
    /// The watermark stands still until processing time reaches this.
    hold_until_ms: Option<i64>,
    /// The wait was going on when the last process ended; it begins at the next cut.
    wait_anew: bool,
    /// No epoch has a lower number.
    epoch_min: u64,
}

impl EpochCutter {
    /// Goes on after `last`, the newest epoch end in the journal.
    ///
    /// `epoch_ms` is how long an epoch lasts when nothing is in the way.
    pub fn new(last: Option<EpochEnd>, idle_timeout_ms: i64, catch_up_ms: i64, epoch_ms: i64) -> EpochCutter {
        let wait_anew = last.is_some_and(|last| last.watermark_ms < last.processing_ms);
        let jump_above_ms = if mutant(12) {
            idle_timeout_ms
        } else {
            idle_timeout_ms.max(epoch_ms.saturating_mul(EPOCHS_PER_JUMP))
        };
        EpochCutter {
            last,
            catch_up_ms,
            jump_above_ms,
            steps_ms: [0; 2],
            hold_until_ms: None,
            wait_anew,
            epoch_min: 1,
        }
    }

    /// Numbers all epochs from here on at or above `epoch`.
    pub fn begin_at(&mut self, epoch: u64) {
        self.epoch_min = self.epoch_min.max(epoch);
    }

    /// Ends the current epoch at the clock's `now_ms`: for live sources.
    pub fn cut(&mut self, now_ms: i64) -> EpochEnd {
        let processing_ms = self.last.map_or(now_ms, |last| last.processing_ms.max(now_ms));
        let step_ms = self.last.map_or(0, |last| processing_ms.saturating_sub(last.processing_ms));
        let [before, last] = self.steps_ms;
        let cadence_ms = if mutant(13) { 0 } else { before.min(last).saturating_mul(CADENCES_PER_JUMP) };
        let jumped = step_ms > self.jump_above_ms.max(cadence_ms);
        self.steps_ms = [last, step_ms];
        if jumped || self.wait_anew {
            self.hold_until_ms = Some(processing_ms.saturating_add(self.catch_up_ms));
            self.wait_anew = false;
        }
        let held = self.hold_until_ms.is_some_and(|until| processing_ms < until);
        if !held {
            self.hold_until_ms = None;
        }
        let watermark_ms = match self.last {
            Some(last) if held => last.watermark_ms,
            _ => processing_ms,
        };
        self.end(EpochEnd {
            epoch: self.next_epoch(now_ms),
            processing_ms,
            watermark_ms,
            last_of_input: false,
        })
    }

    /// Ends the current epoch at given times: for files, and for the torn end of a journal.
    ///
    /// Neither time goes back: `i64::MIN` leaves the last values as they are, which in a new journal are `i64::MIN`.
    /// `now_ms` only numbers the epoch.
    pub fn cut_at(
        &mut self,
        now_ms: i64,
        processing_ms: i64,
        watermark_ms: i64,
        last_of_input: bool,
    ) -> EpochEnd {
        let (last_processing_ms, last_watermark_ms) =
            self.last.map_or((i64::MIN, i64::MIN), |l| (l.processing_ms, l.watermark_ms));
        let processing_ms = processing_ms.max(last_processing_ms);
        let watermark_ms = watermark_ms.max(last_watermark_ms).min(processing_ms);
        self.hold_until_ms = None;
        self.wait_anew = watermark_ms < processing_ms;
        self.end(EpochEnd { epoch: self.next_epoch(now_ms), processing_ms, watermark_ms, last_of_input })
    }

    /// The clock was wrong and says `to_ms`: both times go back to it, and epochs go on from there.
    pub fn reset(&mut self, to_ms: i64) {
        self.last = self.last.map(|last| last.reset(to_ms));
        (self.steps_ms, self.hold_until_ms) = ([0; 2], None);
    }

    /// The newest epoch end.
    pub fn last(&self) -> Option<EpochEnd> {
        self.last
    }

    /// The lowest number the epoch being filled can get.
    pub fn current_epoch(&self) -> u64 {
        self.last.map_or(1, |last| last.epoch.saturating_add(1)).max(self.epoch_min)
    }

    fn next_epoch(&self, now_ms: i64) -> u64 {
        self.current_epoch().max(u64::try_from(now_ms).unwrap_or(0))
    }

    fn end(&mut self, end: EpochEnd) -> EpochEnd {
        self.last = Some(end);
        end
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `live` of closing_model.py, line by line: (stream, close) for each clock reading.
    fn model(start: i64, clock: &[i64], idle_timeout: i64, catch_up: i64) -> Vec<(i64, i64)> {
        let (mut last, mut close, mut hold, mut out, mut steps) = (start, start, None, Vec::new(), [0, 0]);
        for &now in clock {
            let cadence = steps[0].min(steps[1]);
            let jumped = now - last > idle_timeout && now - last > 10_000 && now - last > 3 * cadence;
            steps = [steps[1], now - last];
            if jumped {
                hold = Some(now + catch_up);
            }
            if hold.is_none() || Some(now) >= hold {
                (close, hold) = (now, None);
            }
            out.push((now, close));
            last = now;
        }
        out
    }

    /// Seconds of a server that is now and then away.
    fn clock(rng: &mut fastrand::Rng, start: i64) -> Vec<i64> {
        let mut now = start;
        (0..300)
            .map(|_| {
                now += match rng.u8(..20) {
                    0 => rng.i64(0..120_000),
                    1 => rng.i64(29_998..30_003),
                    _ => rng.i64(0..1_500),
                };
                now
            })
            .collect()
    }

    #[test]
    fn processing_time_and_watermark_are_those_of_the_model() {
        for seed in 0..500 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let (idle_timeout, catch_up) = (30_000, [0, 30_000, 40_000, 300_000][rng.usize(..4)]);
            let start = rng.i64(0..2_000_000_000_000);
            let clock = clock(&mut rng, start);
            let begin =
                EpochEnd { epoch: 5, processing_ms: start, watermark_ms: start, last_of_input: false };
            let mut cutter = EpochCutter::new(Some(begin), idle_timeout, catch_up, 1_000);
            let cuts: Vec<EpochEnd> = clock.iter().map(|now| cutter.cut(*now)).collect();
            let times: Vec<(i64, i64)> = cuts.iter().map(|c| (c.processing_ms, c.watermark_ms)).collect();
            assert_eq!(times, model(start, &clock, idle_timeout, catch_up), "seed {seed}");
            let numbers = std::iter::once(5).chain(cuts.iter().map(|c| c.epoch)).collect::<Vec<_>>();
            for (two, now) in numbers.windows(2).zip(&clock) {
                assert_eq!(two[1], (two[0] + 1).max(*now as u64), "seed {seed}");
            }
        }
    }

    /// Epochs are cut a second apart and a little more; with an idle timeout of a second each was taken for a jump, and
    /// silence never closed anything. So it was for any cadence slower than the idle timeout.
    #[test]
    fn a_steady_cadence_is_no_jump_however_short_the_idle_timeout() {
        for (idle_timeout, cadence) in
            [(1_000, 1_003), (1_000, 4_000), (5_000, 9_999), (1_000, 25_000), (30_000, 300_000)]
        {
            let start = 1_700_000_000_000;
            let begin =
                EpochEnd { epoch: 5, processing_ms: start, watermark_ms: start, last_of_input: false };
            let mut cutter = EpochCutter::new(Some(begin), idle_timeout, 60_000, 1_000);
            let cuts: Vec<EpochEnd> = (1..200).map(|n| cutter.cut(start + n * cadence)).collect();
            // The first two slow steps may be jumps; once the wait for it is over, the watermark follows.
            let waited = |end: &EpochEnd| end.processing_ms >= start + 2 * cadence + 60_000;
            assert!(cuts.iter().filter(|end| waited(end)).all(|end| end.watermark_ms == end.processing_ms));
            if cadence < 10_000 {
                assert!(
                    cuts.iter().all(|end| end.watermark_ms == end.processing_ms),
                    "{idle_timeout} {cadence}"
                );
            }
        }
    }

    #[test]
    fn no_clock_makes_time_go_back_or_the_watermark_overtake() {
        for seed in 0..300 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let mut cutter = EpochCutter::new(None, 30_000, 300_000, 1_000);
            for _ in 0..200 {
                let before = cutter.last();
                let now = match rng.u8(..8) {
                    0 => rng.i64(..),
                    1 => i64::MAX,
                    2 => i64::MIN,
                    _ => rng.i64(0..1 << 41),
                };
                let end =
                    if rng.bool() { cutter.cut(now) } else { cutter.cut_at(now, now, rng.i64(..), false) };
                assert!(end.watermark_ms <= end.processing_ms, "seed {seed}");
                if let Some(before) = before {
                    assert!(end.epoch > before.epoch, "seed {seed}");
                    assert!(
                        end.processing_ms >= before.processing_ms && end.watermark_ms >= before.watermark_ms,
                        "seed {seed}"
                    );
                }
            }
        }
    }

    #[test]
    fn a_wait_cut_short_by_a_restart_begins_anew() {
        let last = EpochEnd { epoch: 9, processing_ms: 100_000, watermark_ms: 40_000, last_of_input: false };
        let mut cutter = EpochCutter::new(Some(last), 30_000, 300_000, 1_000);
        assert_eq!(cutter.cut(101_000).watermark_ms, 40_000);
        assert_eq!(cutter.cut(130_000).watermark_ms, 40_000);
        let times: Vec<i64> = (1..=13).map(|i| cutter.cut(130_000 + i * 25_000).watermark_ms).collect();
        // 101 s + 300 s = 401 s: the cut at 405 s is the first past the wait.
        assert_eq!(times[..10], [40_000; 10]);
        assert_eq!(times[10..], [405_000, 430_000, 455_000]);
    }

    #[test]
    fn files_leave_the_times_alone_until_their_end() {
        let mut cutter = EpochCutter::new(None, 30_000, 300_000, 1_000);
        let end = cutter.cut_at(7, i64::MIN, i64::MIN, false);
        assert_eq!((end.epoch, end.processing_ms, end.watermark_ms), (7, i64::MIN, i64::MIN));
        let end = cutter.cut_at(7, 5_000, 5_000, true);
        assert_eq!(
            (end.epoch, end.processing_ms, end.watermark_ms, end.last_of_input),
            (8, 5_000, 5_000, true)
        );
        let end = cutter.cut_at(7, i64::MIN, i64::MIN, false);
        assert_eq!((end.epoch, end.processing_ms, end.watermark_ms), (9, 5_000, 5_000));
        // A live server that goes on from a file was away: it waits for senders.
        let end = cutter.cut(1_000_000);
        assert_eq!((end.processing_ms, end.watermark_ms), (1_000_000, 5_000));
    }
}
