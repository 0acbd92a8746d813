//! What is durable of each chain of each shard, which save is due next, and behind which epoch logs may be trimmed.
//!
//! Pure but for the clock it is given.

use std::time::{Duration, Instant};

use tidewatch_dataflows::sample::SHARDS;
use tidewatch_dataflows::snapshot::{CHAINS, SaveRequest};

use super::format::ManifestEntry;
use crate::faults::mutant;

/// Bytes of saves that may wait for the disk; beyond it no further one is asked for.
const WAITING_BYTES_MAX: usize = 256 << 20;
/// How far turns may be behind, and then be taken at once.
const BEHIND_MAX: Duration = Duration::from_secs(2);
/// In which time each shard is saved once while the journal is filling up.
const HURRIED: Duration = Duration::from_secs(20);
/// A chain begins anew when its sealed have grown to so many times what they were, in hundredths: by then as many of
/// them have left the longest window as are in it.
const GROWN_PERCENT: u64 = 150;
/// Panes that are not worth beginning anew for.
const SEALED_BYTES_MIN: u64 = 64 << 10;

/// One chain.
#[derive(Clone, Copy, Default)]
struct ChainState {
    /// What the manifest says of it.
    durable: Option<ManifestEntry>,
    /// A save is on its way.
    under_way: bool,
    /// The next save has to be whole: what the computation believes to be durable is not.
    broken: bool,
}

/// All chains.
pub struct ChainTable {
    chains: Vec<[ChainState; CHAINS]>,
    every: Duration,
    /// The shard whose turn is next, and when.
    turn: usize,
    due: Option<Instant>,
    /// The journal is filling up, and only newer snapshots let it be trimmed.
    hurry: bool,
    /// The last save failed: on a full disk it does not help to try more often.
    failing: bool,
    /// Bytes of saves that wait for the disk.
    waiting_bytes: usize,
}

impl ChainTable {
    /// These chains; each shard is to be saved once in `every`.
    pub fn new(entries: &[ManifestEntry], every: Duration) -> ChainTable {
        let mut chains = vec![[ChainState::default(); CHAINS]; SHARDS];
        for entry in entries {
            chains[entry.shard][entry.chain].durable = Some(*entry);
        }
        // Who has waited longest comes first, however short the life of a process is.
        let older = |shard: &usize| chains[*shard].iter().map(|c| c.durable.map(|entry| entry.epoch)).min();
        let turn = (0..SHARDS).min_by_key(older).unwrap_or(0);
        ChainTable { chains, every, turn, due: None, hurry: false, failing: false, waiting_bytes: 0 }
    }

    /// What is durable.
    pub fn entries(&self) -> impl Iterator<Item = ManifestEntry> {
        self.chains.iter().flatten().filter_map(|chain| chain.durable)
    }

    /// What is durable of a chain.
    pub fn durable(&self, shard: usize, chain: usize) -> Option<ManifestEntry> {
        self.chains[shard][chain].durable
    }

    /// The chains of a shard that can be begun from, the newest first.
    pub fn newest(&self, shard: usize) -> Vec<ManifestEntry> {
        let mut held: Vec<ManifestEntry> =
            self.chains[shard].iter().filter_map(|chain| chain.durable).collect();
        held.sort_by_key(|entry| std::cmp::Reverse(entry.epoch));
        held
    }

    /// A chain cannot be read: it is as if it were not there.
    pub fn lose(&mut self, shard: usize, chain: usize) {
        self.chains[shard][chain] = ChainState { broken: true, ..ChainState::default() };
    }

    /// The computation begins, with this shard believing that `saved` are the last saves of its chains.
    pub fn begin(&mut self, shard: usize, saved: [Option<u64>; CHAINS]) {
        for (chain, saved) in self.chains[shard].iter_mut().zip(saved) {
            chain.under_way = false;
            chain.broken = saved.is_none() || chain.durable.map(|entry| entry.epoch) != saved;
        }
    }

    /// The save that is due now, as of the end of `epoch`, if one is. It counts as under way.
    ///
    /// A shard that knows the epoch already, because it began with a newer snapshot, would not save anything: its turn
    /// passes.
    pub fn next(&mut self, epoch: u64, now: Instant) -> Option<SaveRequest> {
        let every = if self.hurry && !self.failing { self.every.min(HURRIED) } else { self.every };
        let turn = every / SHARDS as u32;
        // Each shard at most once, whatever is due.
        for _ in 0..SHARDS {
            let due = *self.due.get_or_insert(now + turn);
            if now < due || self.waiting_bytes >= WAITING_BYTES_MAX {
                return None;
            }
            // Epochs end once a second, so turns of that long may be due at once; those that were missed before are not.
            let oldest = now.checked_sub(BEHIND_MAX).unwrap_or(due);
            self.due = Some((due + turn).max(oldest));
            let shard = self.turn;
            self.turn = (shard + 1) % SHARDS;
            let save = self.save_of(shard, epoch);
            if save.is_some() {
                return save;
            }
        }
        None
    }

    /// The save of a shard whose turn it is.
    fn save_of(&mut self, shard: usize, epoch: u64) -> Option<SaveRequest> {
        let chains = &mut self.chains[shard];
        // The older one, so that the newer stays whatever becomes of it.
        let held = |chain: &ChainState| chain.durable.map(|entry| entry.epoch);
        let chain = if held(&chains[0]) <= held(&chains[1]) { 0 } else { 1 };
        if chains.iter().any(|chain| chain.under_way || held(chain) >= Some(epoch)) {
            return None;
        }
        chains[chain].under_way = true;
        let grown = chains[chain].durable.is_none_or(|held| {
            let enough = held.whole_bytes.max(SEALED_BYTES_MIN) / 100 * GROWN_PERCENT;
            held.sealed_bytes > enough
        });
        Some(SaveRequest { shard, chain, whole: grown || chains[chain].broken })
    }

    /// Whether saves are to come faster than they need.
    pub fn hurry(&mut self, hurry: bool) {
        if hurry && !self.hurry {
            self.due = None;
        }
        self.hurry = hurry;
    }

    /// So many bytes of saves more, or less, wait for the disk.
    pub fn wait(&mut self, more: usize, less: usize) {
        self.waiting_bytes = (self.waiting_bytes + more).saturating_sub(less);
    }

    /// Whether no save waits for the disk.
    pub fn is_settled(&self) -> bool {
        self.waiting_bytes == 0
    }

    /// A save is durable.
    pub fn done(&mut self, entry: ManifestEntry) {
        self.failing = false;
        let chain = &mut self.chains[entry.shard][entry.chain];
        *chain = ChainState { durable: Some(entry), ..ChainState::default() };
    }

    /// A save failed; what was durable before still is.
    pub fn failed(&mut self, save: SaveRequest) {
        self.failing = true;
        let chain = &mut self.chains[save.shard][save.chain];
        chain.under_way = false;
        chain.broken = true;
    }

    /// The epoch that the older of two snapshots of every shard has reached: nobody needs what is before it.
    ///
    /// `None` while some shard has not two.
    pub fn trim_epoch(&self) -> Option<u64> {
        let older = |chains: &[ChainState; CHAINS]| {
            let epochs = chains.iter().map(|chain| chain.durable.map(|entry| entry.epoch));
            if mutant(8) { epochs.max().flatten() } else { epochs.min().flatten() }
        };
        self.chains.iter().map(older).min().flatten()
    }

    /// Bytes on disk.
    pub fn bytes(&self) -> u64 {
        self.entries().map(|entry| entry.sealed_bytes + entry.state_bytes).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVERY: Duration = Duration::from_secs(256);

    fn entry(shard: usize, chain: usize, epoch: u64) -> ManifestEntry {
        ManifestEntry { shard, chain, epoch, begun: 1, sealed_bytes: 100, whole_bytes: 100, state_bytes: 9 }
    }

    #[test]
    fn every_shard_has_its_turn_and_chains_alternate() {
        let (mut table, mut now) = (ChainTable::new(&[], EVERY), Instant::now());
        assert_eq!(table.next(1, now), None);
        for epoch in 1..=3 * SHARDS as u64 {
            now += Duration::from_secs(1);
            let save = table.next(epoch, now).unwrap();
            assert_eq!(table.next(epoch, now), None, "one a second");
            let round = (epoch - 1) as usize / SHARDS;
            assert_eq!((save.shard, save.chain), ((epoch - 1) as usize % SHARDS, round % 2));
            assert_eq!(save.whole, round < 2);
            assert_eq!(table.trim_epoch(), if round < 2 { None } else { Some(epoch - SHARDS as u64 * 2) });
            table.done(entry(save.shard, save.chain, epoch));
        }
    }

    #[test]
    fn what_failed_or_is_not_what_the_computation_believes_begins_anew() {
        let all: Vec<ManifestEntry> = (0..SHARDS).flat_map(|s| [entry(s, 0, 5), entry(s, 1, 6)]).collect();
        let (mut table, now) = (ChainTable::new(&all, EVERY), Instant::now());
        assert_eq!(table.trim_epoch(), Some(5));
        table.begin(0, [Some(5), Some(6)]);
        table.begin(1, [Some(4), Some(6)]);
        table.begin(2, [None, None]);
        table.next(9, now);
        let mut next = |seconds| table.next(9, now + Duration::from_secs(seconds)).unwrap();
        let (first, second, third) = (next(1), next(2), next(3));
        assert_eq!([first.whole, second.whole, third.whole], [false, true, true]);
        table.failed(first);
        assert_eq!(table.trim_epoch(), Some(5), "what was durable is");
        for _ in 3..SHARDS {
            table.turn += 1;
        }
        table.turn %= SHARDS;
        let again = table.next(9, now + Duration::from_secs(1_000)).unwrap();
        assert_eq!((again.shard, again.chain, again.whole), (0, 0, true));
        table.lose(0, 0);
        assert_eq!(table.trim_epoch(), None);
        assert_eq!(table.newest(0), [entry(0, 1, 6)]);
    }

    #[test]
    fn turns_shorter_than_an_epoch_are_taken_together() {
        let (mut table, now) = (ChainTable::new(&[], Duration::from_secs(1)), Instant::now());
        table.next(9, now);
        let due = |table: &mut ChainTable, at| std::iter::from_fn(|| table.next(9, at)).count();
        assert_eq!(due(&mut table, now + Duration::from_secs(1)), SHARDS);
        // After a long pause two seconds' worth, not all that was missed.
        let mut table = ChainTable::new(&[], Duration::from_secs(256));
        table.next(9, now);
        assert_eq!(due(&mut table, now + Duration::from_secs(100)), 4);
    }

    #[test]
    fn while_much_waits_for_the_disk_nothing_is_asked_for() {
        let (mut table, mut now) = (ChainTable::new(&[], EVERY), Instant::now());
        table.next(9, now);
        now += Duration::from_secs(1);
        table.wait(WAITING_BYTES_MAX, 0);
        assert_eq!(table.next(9, now), None);
        table.wait(0, 1);
        assert!(table.next(9, now).is_some());
    }

    #[test]
    fn a_chain_that_has_grown_begins_anew() {
        let grown = ManifestEntry { sealed_bytes: 400_000, whole_bytes: 200_000, ..entry(0, 0, 1) };
        let mut table = ChainTable::new(&[grown, entry(0, 1, 2)], EVERY);
        table.begin(0, [Some(1), Some(2)]);
        let now = Instant::now();
        table.next(9, now);
        assert!(table.next(9, now + Duration::from_secs(1)).unwrap().whole);
    }

    #[test]
    fn a_shard_that_knows_more_than_the_epoch_is_passed_over_and_has_its_next_turn() {
        let (mut now, second) = (Instant::now(), Duration::from_secs(1));
        // While it catches up from epoch 1 on, every other shard knows epoch 300 already.
        let known = |shard: usize| if shard.is_multiple_of(2) { 300 } else { 2 };
        let all: Vec<ManifestEntry> =
            (0..SHARDS).flat_map(|s| [entry(s, 0, 1), entry(s, 1, known(s))]).collect();
        let mut table = ChainTable::new(&all, EVERY);
        (0..SHARDS).for_each(|shard| table.begin(shard, [Some(1), Some(known(shard))]));
        table.next(2, now);
        for epoch in 3..=900 {
            now += second;
            if let Some(save) = table.next(epoch, now) {
                assert!(epoch > known(save.shard), "shard {} knows epoch {epoch}", save.shard);
                table.done(entry(save.shard, save.chain, epoch));
            }
        }
        assert!(table.trim_epoch() > Some(300), "every shard has had its turns: {:?}", table.trim_epoch());
    }
}
