//! The clock against the journal's processing time, which never goes back by itself.
//!
//! After a clock was far ahead and was set right, processing time stands still: silence closes nothing until the clock is
//! there. So processing time goes back to the clock when its operator says so (`--accept-clock`), or by itself when
//! several senders, each of them a clock of its own, agree with the clock for a while. Servers that are polled do not
//! count: they are asked for samples up to our clock.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tidewatch_dataflows::sample::ahead_of;

use super::time::now_ms;

/// A sender whose newest sample is no further from the clock than this agrees with it.
const AGREE_MS: i64 = 60_000;
/// A sender counts as long as it was heard within this.
const RECENT: Duration = Duration::from_secs(60);
/// For so long each sender must have agreed.
const AGREED_FOR: Duration = Duration::from_secs(10);
/// So many senders must agree, and more than twice as many as those who say that it is later.
pub(super) const SENDERS_MIN: usize = 2;
/// Most senders remembered; then the one heard longest ago is forgotten.
const SENDERS_MAX: usize = 1_024;

/// Who pushes, and whether their newest samples are of the clock's time.
#[derive(Debug, Default)]
pub(super) struct Senders {
    by_address: BTreeMap<IpAddr, SenderClock>,
}

#[derive(Clone, Copy, Debug)]
struct SenderClock {
    /// Whether its newest sample was of the clock's time; otherwise it was ahead of it.
    agrees: bool,
    /// Since when it has said the same.
    since: Duration,
    last: Duration,
}

impl Senders {
    /// Takes note of the newest sample of a push; `at` is of the monotonic clock.
    pub(super) fn observe(&mut self, sender: IpAddr, newest_ms: i64, clock_ms: i64, at: Duration) {
        let ahead_ms = newest_ms.saturating_sub(clock_ms);
        let agrees = match ahead_ms {
            _ if ahead_ms.saturating_abs() <= AGREE_MS => true,
            _ if ahead_of(clock_ms, newest_ms) => false,
            // A backlog says nothing of its sender's clock.
            _ => return,
        };
        if !self.by_address.contains_key(&sender) && self.by_address.len() >= SENDERS_MAX {
            let oldest =
                self.by_address.iter().min_by_key(|(_, sender)| sender.last).map(|(sender, _)| *sender);
            oldest.map(|oldest| self.by_address.remove(&oldest));
        }
        let new = SenderClock { agrees, since: at, last: at };
        let known = self.by_address.entry(sender).or_insert(new);
        let gone = at.saturating_sub(known.last) > RECENT;
        if known.agrees != agrees || gone {
            *known = new;
        }
        known.last = at;
    }

    /// Whether enough of them agree with the clock, and how many do.
    pub(super) fn agree(&self, at: Duration) -> Option<usize> {
        let recent = self.by_address.values().filter(|heard| at.saturating_sub(heard.last) <= RECENT);
        let (mut agree, mut ahead) = (0, 0);
        for heard in recent {
            match heard.agrees {
                true if heard.last.saturating_sub(heard.since) >= AGREED_FOR => agree += 1,
                true => {}
                false => ahead += 1,
            }
        }
        (agree >= SENDERS_MIN && agree > 2 * ahead).then_some(agree)
    }
}

/// The senders of a running server.
#[derive(Debug)]
pub(super) struct ClockWitnesses {
    began: Instant,
    senders: Mutex<Senders>,
}

impl Default for ClockWitnesses {
    fn default() -> ClockWitnesses {
        ClockWitnesses { began: Instant::now(), senders: Mutex::default() }
    }
}

impl ClockWitnesses {
    /// As [`Senders::hear`], now.
    pub(super) fn hear(&self, sender: IpAddr, newest_ms: i64) {
        let at = self.began.elapsed();
        self.senders.lock().observe(sender, newest_ms, now_ms(), at);
    }

    pub(super) fn agree(&self) -> Option<usize> {
        self.senders.lock().agree(self.began.elapsed())
    }

    pub(super) fn forget(&self) {
        self.senders.lock().by_address.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_790_000_000_000;

    fn sender(n: u32) -> IpAddr {
        IpAddr::from((0x0a00_0000 + n).to_be_bytes())
    }

    /// What senders come to that push once a second from 0 to 20 s, each with its newest sample so far ahead.
    pub(super) fn agree(ahead_ms: &[i64]) -> Option<usize> {
        let mut senders = Senders::default();
        for s in 0..=20 {
            for (n, ahead_ms) in ahead_ms.iter().enumerate() {
                let clock_ms = NOW + s as i64 * 1_000;
                senders.observe(sender(n as u32), clock_ms + ahead_ms, clock_ms, Duration::from_secs(s));
            }
        }
        senders.agree(Duration::from_secs(20))
    }

    #[test]
    fn several_senders_must_agree_and_few_may_say_that_it_is_later() {
        const HOUR_MS: i64 = 3_600_000;
        assert_eq!(agree(&[0, -5_000]), Some(2));
        assert_eq!(agree(&[0]), None, "one is not several");
        assert_eq!(agree(&[0, -HOUR_MS, -HOUR_MS]), None, "a backlog is no clock");
        assert_eq!(agree(&[0, 0, HOUR_MS]), None);
        assert_eq!(agree(&[0, 0, 0, HOUR_MS]), Some(3));
        assert_eq!(agree(&[0, 0, 0, HOUR_MS, HOUR_MS]), None);
    }

    #[test]
    fn agreement_takes_a_while_and_does_not_last() {
        let mut senders = Senders::default();
        let mut hear = |n: u32, at: u64, ahead_ms: i64| {
            senders.observe(sender(n), NOW + ahead_ms, NOW, Duration::from_secs(at));
            senders.agree(Duration::from_secs(at))
        };
        assert_eq!((hear(0, 0, 0), hear(1, 0, 0), hear(0, 5, 0), hear(1, 9, 0)), (None, None, None, None));
        assert_eq!((hear(0, 11, 0), hear(1, 12, 0)), (None, Some(2)));
        assert_eq!(hear(0, 13, 7_200_000), None, "one of them says that it is later");
        assert_eq!((hear(0, 14, 0), hear(0, 25, 0)), (None, Some(2)));
        assert_eq!(hear(1, 100, 0), None, "neither was heard lately");
        assert_eq!((hear(0, 101, 0), hear(1, 109, 0), hear(0, 112, 0)), (None, None, None));
        assert_eq!(hear(1, 113, 0), Some(2));
    }

    #[test]
    fn a_flood_of_senders_is_bounded() {
        let mut senders = Senders::default();
        (0..5_000).for_each(|n| senders.observe(sender(n), NOW, NOW, Duration::from_secs(u64::from(n))));
        assert_eq!(senders.by_address.len(), SENDERS_MAX);
        assert!(
            senders.by_address.contains_key(&sender(4_999)) && !senders.by_address.contains_key(&sender(0))
        );
    }
}
