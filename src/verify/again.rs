//! When rows that differ are read again, and when that ends: pure, so that time is a parameter.

use std::time::{Duration, Instant};

/// Pauses before rows that differ are read again. Apart from each other, so that they do not meet a sender's rhythm.
const PAUSES_MS: [u64; 8] = [1_500, 2_500, 3_700, 1_900, 4_300, 3_100, 5_900, 6_700];
/// A store whose epoch stood still for so long is written by nobody. One transaction of a busy sink takes seconds.
const STILL: Duration = Duration::from_millis(9_500);
/// Time for rows that differ in one run, all together.
const BUDGET: Duration = Duration::from_secs(120);

/// The rounds of one run.
pub struct Rounds {
    /// What is left of [`BUDGET`].
    left: Duration,
    /// Until when that was counted.
    counted: Instant,
    /// Rounds of these rows so far.
    round: usize,
    /// The newest epoch seen in the store, and when it was first seen.
    epoch: Option<u64>,
    seen: Instant,
}

impl Rounds {
    /// For a store that is at this epoch.
    pub fn new(epoch: Option<u64>, now: Instant) -> Rounds {
        Rounds { left: BUDGET, counted: now, round: 0, epoch, seen: now }
    }

    /// Begins anew with other rows.
    pub fn begin(&mut self, now: Instant) {
        (self.counted, self.round) = (now, 0);
    }

    /// When the time is over for all rows of the run.
    pub fn end(&self) -> Instant {
        self.counted + self.left
    }

    /// The pause before these rows are read once more; none when that would change nothing, or the time is over.
    pub fn next(&mut self, epoch: Option<u64>, now: Instant) -> Option<Duration> {
        self.left = self.left.saturating_sub(now.saturating_duration_since(self.counted));
        self.counted = now;
        if epoch != self.epoch {
            (self.epoch, self.seen) = (epoch, now);
        }
        let still = self.round > 0 && now.saturating_duration_since(self.seen) >= STILL;
        if still || self.left.is_zero() {
            return None;
        }
        let pause_ms = PAUSES_MS.get(self.round)?;
        self.round += 1;
        Some(Duration::from_millis(*pause_ms).min(self.left))
    }

    /// Whether there is time for more rows.
    pub fn is_over(&self) -> bool {
        self.left.is_zero()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pauses for one list of rows whose reading takes `look`; the store's epoch is asked for at each time since `begun`.
    fn run(
        rounds: &mut Rounds,
        now: &mut Instant,
        look: Duration,
        epoch: impl Fn(Instant) -> u64,
    ) -> (usize, Duration) {
        let begun = *now;
        rounds.begin(*now);
        let mut looks = 0;
        while let Some(pause) = rounds.next(Some(epoch(*now)), *now) {
            *now += pause + look;
            looks += 1;
        }
        (looks, *now - begun)
    }

    #[test]
    fn a_store_that_stands_still_for_ten_seconds_is_written_by_nobody() {
        let begun = Instant::now();
        let (mut rounds, mut now) = (Rounds::new(Some(7), begun), begun);
        let (looks, took) = run(&mut rounds, &mut now, Duration::ZERO, |_| 7);
        assert_eq!((looks, took), (4, Duration::from_millis(9_600)));
        // That is known for the rows after them; each is read again once all the same.
        assert_eq!(run(&mut rounds, &mut now, Duration::ZERO, |_| 7), (1, Duration::from_millis(1_500)));
    }

    #[test]
    fn a_sink_that_is_busy_for_seconds_does_not_end_it() {
        let begun = Instant::now();
        let (mut rounds, mut now) = (Rounds::new(Some(7), begun), begun);
        // One transaction takes nine seconds.
        let epoch = |at: Instant| (at - begun).as_secs() / 9;
        let (looks, took) = run(&mut rounds, &mut now, Duration::ZERO, epoch);
        assert_eq!((looks, took), (8, Duration::from_millis(29_600)));
    }

    #[test]
    fn all_rows_of_a_run_share_one_time() {
        let begun = Instant::now();
        let (mut rounds, mut now) = (Rounds::new(Some(7), begun), begun);
        let moving = |at: Instant| (at - begun).as_millis() as u64;
        let lists = (0..2_000).take_while(|_| {
            run(&mut rounds, &mut now, Duration::from_millis(700), moving);
            !rounds.is_over()
        });
        assert_eq!(lists.count(), 3, "{:?}", now - begun);
        assert!(now - begun <= BUDGET + Duration::from_millis(700), "{:?}", now - begun);
        assert_eq!(run(&mut rounds, &mut now, Duration::ZERO, moving), (0, Duration::ZERO));
    }
}
