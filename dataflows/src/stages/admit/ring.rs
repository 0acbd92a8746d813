//! The raw samples of one series, as far back as a late one may still be merged.

use std::collections::VecDeque;

use crate::sample::Reason;
use crate::settings::STEP_MS;

/// No time yet.
pub(super) const NEVER: i64 = i64::MIN;

/// What a ring knows of a time.
pub(super) enum RingPlace {
    /// A sample with these bits.
    Held(u64),
    /// There is none, and none was forgotten.
    Missing,
    /// It is older than what is held.
    Forgotten,
}

/// Most older samples that are kept: of a step of samples that are half a second apart.
const OLDER_MAX: usize = 128;

/// The raw samples of the last lateness and base pane, 12 bytes each, in time order.
#[derive(Default)]
pub(super) struct RawRing {
    /// Low 32 bits of the time, then the value's bits, low word first.
    pub(super) samples: VecDeque<[u32; 3]>,
    /// The last of those that are held no more: the step of a late sample may reach back to before the ring, and is computed
    /// with the sample before it. Nothing else looks at them.
    pub(super) older: VecDeque<(i64, f64)>,
    /// Whether there was something before these.
    pub(super) is_older_cut: bool,
    /// Whether some applied sample is held no more.
    pub(super) forgot: bool,
    /// The newest sample that was pushed out although it was young enough, or as far as a change of settings made
    /// panes unusable; `None` if neither.
    pub(super) dropped: Option<i64>,
}

impl RawRing {
    pub(super) fn at(&self, index: usize, newest_ms: i64) -> i64 {
        newest_ms - i64::from((newest_ms as u32).wrapping_sub(self.samples[index][0]))
    }

    fn word(at_ms: i64, value: f64) -> [u32; 3] {
        let bits = value.to_bits();
        [at_ms as u32, bits as u32, (bits >> 32) as u32]
    }

    fn bits(&self, index: usize) -> u64 {
        let [_, low, high] = self.samples[index];
        u64::from(low) | u64::from(high) << 32
    }

    /// Every sample that was ever applied, in order; `None` if some are held no more.
    pub(super) fn all(&self, newest_ms: i64) -> Option<Vec<(i64, f64)>> {
        let sample = |index| (self.at(index, newest_ms), f64::from_bits(self.bits(index)));
        (!self.forgot).then(|| (0..self.samples.len()).map(sample).collect())
    }

    /// Every sample that is held, in order.
    pub(super) fn iter(&self, newest_ms: i64) -> impl Iterator<Item = (i64, f64)> {
        (0..self.samples.len())
            .map(move |index| (self.at(index, newest_ms), f64::from_bits(self.bits(index))))
    }

    /// Every applied sample after this time is held, if `span_ms` is how far the ring reaches back.
    pub(super) fn whole_after(&self, newest_ms: i64, span_ms: i64) -> i64 {
        match self.forgot {
            true => self.dropped.unwrap_or(i64::MIN).max(newest_ms.saturating_sub(span_ms)),
            false => i64::MIN,
        }
    }

    /// What the ring knows of a time that is not after the newest.
    pub(super) fn find(&self, newest_ms: i64, at_ms: i64) -> RingPlace {
        let index = self.place(newest_ms, at_ms);
        match self.samples.get(index) {
            Some(_) if self.at(index, newest_ms) == at_ms => RingPlace::Held(self.bits(index)),
            _ if index == 0 && self.forgot => RingPlace::Forgotten,
            _ => RingPlace::Missing,
        }
    }

    /// Where the first sample is that is not before `at_ms`.
    fn place(&self, newest_ms: i64, at_ms: i64) -> usize {
        let behind = |words: &[u32; 3]| i64::from((newest_ms as u32).wrapping_sub(words[0]));
        self.samples.partition_point(|words| behind(words) > newest_ms - at_ms)
    }

    /// The time of the first sample that is held after `at_ms`.
    pub(super) fn first_after(&self, newest_ms: i64, at_ms: i64) -> Option<i64> {
        let index = self.place(newest_ms, at_ms + 1);
        (index < self.samples.len()).then(|| self.at(index, newest_ms))
    }

    /// Copies the samples in `(start_ms, end_ms]`, older ones included, and gives the last one before them; false if some may
    /// be missing.
    pub(super) fn copy_step(
        &self,
        newest_ms: i64,
        (start_ms, end_ms): (i64, i64),
        at_ms: &mut Vec<i64>,
        value: &mut Vec<f64>,
    ) -> (bool, Option<(i64, f64)>) {
        let behind = self.older.partition_point(|(at, _)| *at <= start_ms);
        let is_whole = behind > 0 || !self.is_older_cut;
        let mut before = behind.checked_sub(1).map(|index| self.older[index]);
        if let Some(index) = self.place(newest_ms, start_ms + 1).checked_sub(1) {
            before = Some((self.at(index, newest_ms), f64::from_bits(self.bits(index))));
        }
        for (at, older) in self.older.iter().skip(behind).take_while(|(at, _)| *at <= end_ms) {
            at_ms.push(*at);
            value.push(*older);
        }
        self.copy_pane(newest_ms, start_ms, end_ms, at_ms, value);
        (is_whole, before)
    }

    /// Reads both ends, and nothing else.
    pub(super) fn approach(&self) -> u32 {
        let ends = [self.samples.front(), self.samples.back()];
        ends.into_iter().flatten().fold(0, |read, words| read ^ words[0])
    }

    /// Bytes held.
    pub(super) fn bytes(&self) -> usize {
        self.samples.capacity() * 12 + self.older.capacity() * 16
    }

    /// Everything newer than this is held; `None` if everything is. `kept_ms` is how far back samples were kept.
    pub(super) fn held_from(&self, newest_ms: i64, kept_ms: i64) -> Option<i64> {
        let kept_from = newest_ms - kept_ms;
        self.forgot.then(|| self.dropped.map_or(kept_from, |dropped| dropped.max(kept_from)))
    }

    /// No pane that begins before this is whole, if anything was forgotten.
    pub(super) fn lose(&mut self, before_ms: i64) {
        if self.forgot {
            self.drop_to(before_ms);
        }
    }

    /// Forgets what is at or before `from_ms`.
    pub(super) fn forget(&mut self, newest_ms: i64, from_ms: i64) {
        while !self.samples.is_empty() && self.at(0, newest_ms) <= from_ms {
            self.forget_first(newest_ms);
        }
    }

    fn forget_first(&mut self, newest_ms: i64) {
        let (at_ms, value) = (self.at(0, newest_ms), f64::from_bits(self.bits(0)));
        self.samples.pop_front();
        self.forgot = true;
        // The step of the sample that is now the first begins after this.
        let from_ms = at_ms - STEP_MS;
        while self.older.get(1).is_some_and(|(next_ms, _)| *next_ms <= from_ms)
            || self.older.len() >= OLDER_MAX
        {
            self.older.pop_front();
            self.is_older_cut = true;
        }
        if self.older.len() == self.older.capacity() {
            self.older.reserve_exact(2);
        }
        self.older.push_back((at_ms, value));
    }

    /// Holds at most `max` samples.
    pub(super) fn shrink(&mut self, newest_ms: i64, max: usize) {
        while self.samples.len() > max {
            self.drop_to(self.at(0, newest_ms));
            self.forget_first(newest_ms);
        }
    }

    fn drop_to(&mut self, at_ms: i64) {
        self.dropped = Some(self.dropped.map_or(at_ms, |dropped| dropped.max(at_ms)));
    }

    /// Appends a sample newer than `newest_ms`, the newest held, forgetting what is at or before `from_ms`.
    pub(super) fn push(&mut self, newest_ms: i64, at_ms: i64, value: f64, from_ms: i64, max: usize) {
        self.forget(newest_ms, from_ms);
        if self.samples.len() >= max {
            self.drop_to(self.at(0, newest_ms));
            self.forget_first(newest_ms);
        }
        if self.samples.len() == self.samples.capacity() {
            self.samples.reserve_exact((self.samples.len() / 4).max(4));
        }
        self.samples.push_back(RawRing::word(at_ms, value));
    }

    /// Merges a sample that is not newer than the newest.
    pub(super) fn merge(
        &mut self,
        newest_ms: i64,
        at_ms: i64,
        value: f64,
        pane_start_ms: i64,
        max: usize,
    ) -> Result<(), Reason> {
        let mut index = self.place(newest_ms, at_ms);
        if index < self.samples.len() && self.at(index, newest_ms) == at_ms {
            let same = self.bits(index) == value.to_bits();
            return Err(if same { Reason::Duplicate } else { Reason::DuplicateTimestamp });
        }
        if self.dropped.is_some_and(|dropped| dropped > pane_start_ms) {
            return Err(Reason::LateRingFull);
        }
        if self.samples.len() >= max {
            let front = self.at(0, newest_ms);
            if front > pane_start_ms {
                return Err(Reason::LateRingFull);
            }
            self.drop_to(front);
            self.forget_first(newest_ms);
            index -= 1;
        }
        self.samples.insert(index, RawRing::word(at_ms, value));
        Ok(())
    }

    pub(super) fn copy_pane(
        &self,
        newest_ms: i64,
        start_ms: i64,
        end_ms: i64,
        at_ms: &mut Vec<i64>,
        value: &mut Vec<f64>,
    ) {
        let from = self.samples.partition_point(|words| {
            newest_ms - i64::from((newest_ms as u32).wrapping_sub(words[0])) <= start_ms
        });
        for index in from..self.samples.len() {
            let at = self.at(index, newest_ms);
            if at > end_ms {
                break;
            }
            at_ms.push(at);
            value.push(f64::from_bits(self.bits(index)));
        }
    }
}
