//! The time that retention goes by: the clock, once it has kept step with the monotonic clock.
//!
//! A clock that is wrong for a moment must cost no stored row. So this time goes on with the monotonic clock, which never
//! jumps, and takes the clock's reading only while both agree. A clock that has jumped is believed when it has kept its
//! distance for an hour. What is written meanwhile counts as written by the later of the two, so nothing is dropped early.
//!
//! Pure: both clocks are arguments.

use std::time::Duration;

/// A difference up to this is no jump: a restart, and a clock that is set in small steps.
pub const APART_MS_MAX: i64 = 600_000;
/// How long a clock that has jumped must keep its distance before it is believed.
pub const STEADY: Duration = Duration::from_secs(3_600);

/// Follows the clock.
#[derive(Clone, Debug)]
pub struct TrustedTime {
    trusted_ms: i64,
    /// Reading of the monotonic clock at `trusted_ms`.
    uptime: Duration,
    apart: Option<ClockJump>,
}

/// The clock is elsewhere.
#[derive(Clone, Copy, Debug)]
struct ClockJump {
    /// Since when it has kept this distance.
    since: Duration,
    /// How far it is ahead, or behind if that is negative.
    by_ms: i64,
}

/// What a look at the clock found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClockJudgement {
    /// Nothing new.
    Nothing,
    /// The clock has jumped, and is now so far ahead; behind, if that is negative.
    Jumped(i64),
    /// The clock is back where it was expected.
    Back,
    /// The clock has kept its distance for [`STEADY`]; it was so far ahead.
    Believed(i64),
}

impl TrustedTime {
    /// Goes on from the time that was trusted last, at this reading of the monotonic clock.
    pub fn new(trusted_ms: i64, uptime: Duration) -> TrustedTime {
        TrustedTime { trusted_ms, uptime, apart: None }
    }

    /// Looks at the clock, Unix milliseconds, and at the monotonic clock.
    pub fn judge(&mut self, clock_ms: i64, uptime: Duration) -> ClockJudgement {
        let elapsed = uptime.saturating_sub(self.uptime);
        // Whole milliseconds, so that many looks lose nothing.
        let elapsed_ms = i64::try_from(elapsed.as_millis()).unwrap_or(i64::MAX);
        self.uptime += Duration::from_millis(elapsed_ms.unsigned_abs());
        self.trusted_ms = self.trusted_ms.saturating_add(elapsed_ms);
        let by_ms = clock_ms.saturating_sub(self.trusted_ms);
        let close = |by_ms: i64| by_ms.unsigned_abs() <= APART_MS_MAX.unsigned_abs();
        if close(by_ms) {
            self.trusted_ms = clock_ms;
            return if self.apart.take().is_some() { ClockJudgement::Back } else { ClockJudgement::Nothing };
        }
        match self.apart {
            Some(apart) if close(by_ms.saturating_sub(apart.by_ms)) => {
                if uptime.saturating_sub(apart.since) < STEADY {
                    return ClockJudgement::Nothing;
                }
                self.trusted_ms = clock_ms;
                self.apart = None;
                ClockJudgement::Believed(by_ms)
            }
            _ => {
                self.apart = Some(ClockJump { since: uptime, by_ms });
                ClockJudgement::Jumped(by_ms)
            }
        }
    }

    /// The time that is trusted, as of the last look.
    pub fn trusted_ms(&self) -> i64 {
        self.trusted_ms
    }

    /// How far the clock is ahead of it, as of the last look: 0 while both agree.
    pub fn apart_ms(&self) -> i64 {
        self.apart.map_or(0, |apart| apart.by_ms)
    }

    /// By when everything that retention drops must be over.
    pub fn expires_by_ms(&self) -> i64 {
        self.trusted_ms.saturating_add(self.apart_ms().min(0))
    }

    /// When rows count as written.
    pub fn written_ms(&self, clock_ms: i64) -> i64 {
        clock_ms.max(self.trusted_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T0: i64 = 1_790_000_000_000;
    const HOUR_MS: i64 = 3_600_000;
    const DAY_MS: i64 = 24 * HOUR_MS;

    /// What looks once a second find that is worth saying; `clock` gives how far the clock is ahead in each second.
    fn looks(
        time: &mut TrustedTime,
        seconds: std::ops::Range<u64>,
        clock: impl Fn(u64) -> i64,
    ) -> Vec<ClockJudgement> {
        let found = seconds.map(|s| {
            let found = time.judge(T0 + s as i64 * 1_000 + clock(s), Duration::from_secs(s));
            let true_ms = T0 + s as i64 * 1_000;
            assert!(
                found != ClockJudgement::Nothing || time.expires_by_ms() <= true_ms.max(true_ms + clock(s))
            );
            found
        });
        found.filter(|found| *found != ClockJudgement::Nothing).collect()
    }

    #[test]
    fn a_clock_that_is_wrong_for_less_than_an_hour_moves_nothing() {
        for ahead in [40 * DAY_MS, 6 * HOUR_MS, -6 * HOUR_MS, 700_000, i64::MAX / 2] {
            let mut time = TrustedTime::new(T0, Duration::ZERO);
            let wrong = |s: u64| if (100..3_000).contains(&s) { ahead } else { 0 };
            assert_eq!(
                looks(&mut time, 0..5_000, wrong),
                [ClockJudgement::Jumped(ahead), ClockJudgement::Back]
            );
            assert_eq!((time.trusted_ms(), time.apart_ms()), (T0 + 4_999_000, 0));
        }
    }

    #[test]
    fn a_clock_that_keeps_its_distance_for_an_hour_is_believed() {
        for ahead in [40 * DAY_MS, -DAY_MS] {
            let mut time = TrustedTime::new(T0, Duration::ZERO);
            let set = |s: u64| if s >= 100 { ahead } else { 0 };
            assert_eq!(looks(&mut time, 0..3_700, set), [ClockJudgement::Jumped(ahead)]);
            assert_eq!(time.trusted_ms(), T0 + 3_699_000);
            assert_eq!(time.expires_by_ms(), T0 + 3_699_000 + ahead.min(0));
            assert_eq!(looks(&mut time, 3_700..3_800, set), [ClockJudgement::Believed(ahead)]);
            assert_eq!(time.trusted_ms(), T0 + 3_799_000 + ahead);
        }
    }

    #[test]
    fn each_further_jump_begins_the_hour_anew() {
        let mut time = TrustedTime::new(T0, Duration::ZERO);
        // It jumps by a day each 50 minutes, and is never believed.
        let set = |s: u64| (s / 3_000) as i64 * DAY_MS;
        let found = looks(&mut time, 0..30_000, set);
        assert_eq!(found, (1..10).map(|n| ClockJudgement::Jumped(n * DAY_MS)).collect::<Vec<_>>());
        assert_eq!(time.trusted_ms(), T0 + 29_999_000);
    }

    #[test]
    fn a_process_that_was_away_waits_an_hour_and_short_restarts_do_not_wait() {
        // Away for a day: as a jump.
        let mut time = TrustedTime::new(T0 - DAY_MS, Duration::from_secs(7));
        assert_eq!(time.judge(T0, Duration::from_secs(7)), ClockJudgement::Jumped(DAY_MS));
        assert_eq!(time.judge(T0 + HOUR_MS, Duration::from_secs(3_607)), ClockJudgement::Believed(DAY_MS));
        // Restarted each 50 minutes, away for 5: it keeps up.
        let mut trusted_ms = T0;
        for n in 0..50 {
            let begin = T0 + n * 55 * 60_000;
            let mut time = TrustedTime::new(trusted_ms, Duration::ZERO);
            assert_eq!(time.judge(begin, Duration::ZERO), ClockJudgement::Nothing);
            assert_eq!(time.judge(begin + 50 * 60_000, Duration::from_secs(3_000)), ClockJudgement::Nothing);
            trusted_ms = time.trusted_ms();
            assert_eq!(trusted_ms, begin + 50 * 60_000);
        }
    }

    #[test]
    fn rows_count_as_written_by_the_later_of_two_clocks() {
        let mut time = TrustedTime::new(T0, Duration::ZERO);
        time.judge(T0 - 40 * DAY_MS, Duration::from_secs(1));
        assert_eq!(time.written_ms(T0 - 40 * DAY_MS), T0 + 1_000);
        assert_eq!(time.written_ms(T0 + DAY_MS), T0 + DAY_MS);
    }
}
