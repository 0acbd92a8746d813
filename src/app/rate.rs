//! Samples a second, over the last half minute: scrapes come in bursts, and a shorter time would show these.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// The time the rate is over.
pub const OVER: Duration = Duration::from_secs(30);
/// How often a total is noted.
pub const EVERY: Duration = Duration::from_secs(1);

/// A total as it was noted, oldest first.
#[derive(Default)]
pub struct Rate(Mutex<VecDeque<(Instant, u64)>>);

impl Rate {
    /// Notes a total; to be called [`EVERY`] so often.
    pub fn note(&self, now: Instant, total: u64) {
        let mut noted = self.0.lock();
        // One that is older than the time stays, to reckon from.
        while noted.get(1).is_some_and(|(at, _)| now.duration_since(*at) >= OVER) {
            noted.pop_front();
        }
        noted.push_back((now, total));
    }

    /// What came a second since the oldest total that is noted; none before a second has passed.
    pub fn per_second(&self, now: Instant, total: u64) -> Option<f64> {
        let noted = self.0.lock();
        let (at, then) = *noted.front()?;
        let seconds = now.duration_since(at).as_secs_f64();
        (seconds >= 1.0).then(|| total.saturating_sub(then) as f64 / seconds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bursts_are_spread_over_half_a_minute() {
        let (rate, begun) = (Rate::default(), Instant::now());
        let at = |seconds: u64| begun + Duration::from_secs(seconds);
        assert_eq!(rate.per_second(at(0), 0), None);
        for second in 0..=100 {
            // 150 samples each quarter of a minute.
            rate.note(at(second), second / 15 * 150);
            if second >= 45 {
                let found = rate.per_second(at(second), second / 15 * 150).unwrap();
                assert!((9.0..=11.0).contains(&found), "{found} at {second} s");
            }
        }
        assert!(rate.0.lock().len() < 40);
    }
}
