//! Acknowledged means durable; epochs end by clock and size; a restart goes on where the last process ended.

use std::fs::OpenOptions;
use std::io::Write;
use std::sync::atomic::AtomicI64;
use std::sync::mpsc;
use std::time::Duration;

use super::*;
use crate::disk::testing::Faults;
use crate::segments::SegmentReader;
use crate::segments::tests::Dir;

pub(super) const LONG: Duration = Duration::from_secs(60);
pub(super) const START_MS: i64 = 1_700_000_000_000;

/// A clock that stands still until it is told otherwise.
pub(super) fn hand_clock() -> (Clock, Arc<AtomicI64>) {
    let hand = Arc::new(AtomicI64::new(START_MS));
    let clock = hand.clone();
    (Arc::new(move || clock.load(Relaxed)), hand)
}

pub(super) fn config(mode: EpochMode) -> (JournalOptions, Arc<AtomicI64>) {
    let (clock, hand) = hand_clock();
    (JournalOptions { clock, ..JournalOptions::new(mode) }, hand)
}

pub(super) fn open(dir: &Dir, config: &JournalOptions) -> Journal {
    try_open(dir, config, Settings::default()).unwrap()
}

pub(super) fn try_open(
    dir: &Dir,
    config: &JournalOptions,
    settings: Settings,
) -> Result<Journal, JournalError> {
    Journal::open(dir.path(), config.clone(), settings, Box::new(|| Ok(())), Arc::new(Metrics::new()))
}

/// `n` samples that tell where they come from.
pub(super) fn batch(series: u64, from: usize, n: usize) -> Samples {
    let mut samples = Samples::with_capacity(n);
    (from..from + n).for_each(|i| samples.push(series, START_MS + i as i64, i as f64));
    samples
}

pub(super) fn synced(waiting: SyncedCallback) -> Result<(), String> {
    waiting.blocking_recv().expect("the writer answers everyone")
}

/// Everything that is durable.
pub(super) fn records(journal: &Journal) -> Vec<Record> {
    let mut reader = journal.reader().unwrap();
    std::iter::from_fn(|| reader.next_ready().unwrap()).collect()
}

/// The number of samples in each finished epoch with its end, and those after the last end.
pub(super) fn epochs(records: &[Record]) -> (Vec<(usize, EpochEnd)>, usize) {
    let (mut ends, mut open) = (vec![], 0);
    for record in records {
        match record {
            Record::Samples(samples) => open += samples.len(),
            Record::EpochEnd(end) => ends.push((std::mem::take(&mut open), *end)),
            Record::Settings(_) | Record::Control(_) => {}
            Record::Bootstraps(_) => unreachable!("a reader leaves them out"),
        }
    }
    (ends, open)
}

#[test]
fn nothing_is_acknowledged_or_read_before_it_is_synced() {
    let dir = Dir::new();
    let (config, _) = config(EpochMode::File);
    let (let_go, gate) = mpsc::channel::<()>();
    let (arrived, arrivals) = mpsc::channel();
    // The first commit, that of the settings, happens while opening.
    let_go.send(()).unwrap();
    let before_commit = Box::new(move || {
        arrived.send(()).map_err(io::Error::other)?;
        gate.recv().map_err(io::Error::other)
    });
    let journal =
        Journal::open(dir.path(), config, Settings::default(), before_commit, Arc::new(Metrics::new()))
            .unwrap();
    arrivals.recv().unwrap();
    assert_eq!(records(&journal), [Record::Settings(Settings::default())]);
    let end = journal.durable().end();
    let mut waiting = journal.try_append(batch(1, 0, 10), "test").unwrap();
    arrivals.recv().unwrap();
    // The writer now stands before the write.
    assert_eq!(waiting.try_recv(), Err(oneshot::error::TryRecvError::Empty));
    assert_eq!((journal.durable().end(), records(&journal).len()), (end, 1));
    let_go.send(()).unwrap();
    assert_eq!(synced(waiting), Ok(()));
    assert!(journal.durable().end() > end);
    assert_eq!(records(&journal)[1], Record::Samples(batch(1, 0, 10)));
    let_go.send(()).unwrap();
    journal.close().unwrap();
}

#[test]
fn a_full_disk_is_told_to_everyone_and_for_good() {
    let dir = Dir::new();
    let (config, _) = config(EpochMode::File);
    let (let_go, gate) = mpsc::channel::<()>();
    let_go.send(()).unwrap();
    let before_commit = Box::new(move || gate.recv().map_err(io::Error::other));
    let (settings, metrics) = (Settings::default(), Arc::new(Metrics::new()));
    let faults = Arc::new(Faults::default());
    let folder = faults.folder(dir.path());
    let journal = Journal::open(folder, config.clone(), settings.clone(), before_commit, metrics).unwrap();
    faults.room(Some(0));
    let end = journal.durable().end();
    let mut waiting: Vec<SyncedCallback> =
        (0..10).map(|i| journal.try_append(batch(i, 0, 100), "test").unwrap()).collect();
    waiting.push(journal.cut(1, 1, true).unwrap());
    let_go.send(()).unwrap();
    for waiting in waiting {
        let why = synced(waiting).unwrap_err();
        assert!(why.contains("No space left") && why.contains(".seg"), "{why}");
    }
    assert!(journal.failed().is_some() && journal.durable().closed());
    assert_eq!(journal.durable().end(), end);
    assert!(matches!(journal.try_append(batch(1, 0, 1), "test"), Err(QueueError::Failed(_))));
    assert!(matches!(journal.append_blocking(batch(1, 0, 1), "test"), Err(QueueError::Failed(_))));
    assert!(matches!(journal.close(), Err(JournalError::Failed(_))));
    drop(journal);
    assert_eq!(records(&open(&dir, &config)), [Record::Settings(settings)]);
}

#[test]
fn a_failing_series_log_or_a_panic_fails_the_journal() {
    for panics in [false, true] {
        let dir = Dir::new();
        let (config, _) = config(EpochMode::Live);
        let mut calls = 0;
        let before_commit = Box::new(move || {
            calls += 1;
            assert!(!(panics && calls > 1), "this panic belongs to the test");
            if calls > 1 { Err(io::Error::other("series log gone")) } else { Ok(()) }
        });
        let metrics = Arc::new(Metrics::new());
        let journal =
            Journal::open(dir.path(), config.clone(), Settings::default(), before_commit, metrics).unwrap();
        let waiting = journal.try_append(batch(1, 0, 5), "test").unwrap();
        assert!(!matches!(waiting.blocking_recv(), Ok(Ok(()))));
        assert_eq!(journal.durable().wait_beyond(journal.durable().end(), LONG), journal.durable().end());
        let why = journal.failed().unwrap();
        assert!(why.contains(if panics { "panicked" } else { "series log gone" }), "{why}");
        assert!(matches!(journal.try_append(batch(1, 0, 5), "test"), Err(QueueError::Failed(_))));
        drop(journal);
        assert_eq!(epochs(&records(&open(&dir, &config))), (vec![], 0));
    }
}

#[test]
fn an_epoch_lasts_a_second_by_the_clock_idle_or_not() {
    let dir = Dir::new();
    let (config, hand) = config(EpochMode::Live);
    let journal = open(&dir, &config);
    assert_eq!(journal.current_epoch(), 1);
    synced(journal.try_append(batch(1, 0, 10), "test").unwrap()).unwrap();
    hand.store(START_MS + 999, Relaxed);
    journal.poke();
    synced(journal.try_append(batch(1, 10, 10), "test").unwrap()).unwrap();
    assert_eq!(epochs(&records(&journal)), (vec![], 20));
    for (i, clock_ms) in [START_MS + 1_000, START_MS + 2_000, START_MS + 3_500].into_iter().enumerate() {
        hand.store(clock_ms, Relaxed);
        journal.poke();
        assert!(journal.durable().wait_for_epoch(clock_ms as u64, LONG));
        let (ends, open) = epochs(&records(&journal));
        let end = EpochEnd {
            epoch: clock_ms as u64,
            processing_ms: clock_ms,
            watermark_ms: clock_ms,
            last_of_input: false,
        };
        assert_eq!((ends.len(), ends[i], open), (i + 1, (if i == 0 { 20 } else { 0 }, end), 0));
        assert_eq!(journal.last_epoch_end(), Some(end));
        assert_eq!(journal.current_epoch(), end.epoch + 1);
    }
    // A clock that is set back ends an epoch too, and takes no time back.
    hand.store(START_MS - 3_600_000, Relaxed);
    journal.poke();
    assert!(journal.durable().wait_for_epoch(START_MS as u64 + 3_501, LONG));
    let end = journal.last_epoch_end().unwrap();
    assert_eq!((end.processing_ms, end.watermark_ms), (START_MS + 3_500, START_MS + 3_500));
    synced(journal.try_append(batch(1, 20, 5), "test").unwrap()).unwrap();
    journal.close().unwrap();
    let (ends, open) = epochs(&records(&journal));
    assert_eq!((ends.len(), ends[4].0, open), (5, 5, 0), "closing ends the last epoch");
    assert!(matches!(journal.try_append(batch(1, 0, 1), "test"), Err(QueueError::Closed)));
}

#[test]
fn an_epoch_holds_at_most_256_ki_samples() {
    let dir = Dir::new();
    let (config, _) = config(EpochMode::Live);
    let journal = open(&dir, &config);
    let sizes = [100, 299_900, 7, 4_096, 300_000, 1];
    let total: usize = sizes.iter().sum();
    let mut from = 0;
    for n in sizes {
        journal.append_blocking(batch(1, from, n), "test").unwrap();
        from += n;
    }
    journal.close().unwrap();
    let records = records(&journal);
    let (ends, open) = epochs(&records);
    let numbers: Vec<u64> = ends.iter().map(|(_, end)| end.epoch).collect();
    let start = START_MS as u64;
    assert_eq!(ends.iter().map(|(n, _)| *n).collect::<Vec<_>>(), [262_144, 262_144, total - 2 * 262_144]);
    assert_eq!((numbers, open), (vec![start, start + 1, start + 2], 0));
    let mut at = 0;
    for record in &records {
        let Record::Samples(samples) = record else { continue };
        assert!(samples.len() <= RECORD_SAMPLES_MAX);
        assert_eq!(*samples, batch(1, at, samples.len()), "in order and whole");
        at += samples.len();
    }
    assert_eq!(at, total);
}

#[test]
fn an_epoch_cut_short_is_closed_with_the_last_times() {
    for torn in [0, 1, 300] {
        let dir = Dir::new();
        let (config, hand) = config(EpochMode::Live);
        let journal = open(&dir, &config);
        hand.fetch_add(1_000, Relaxed);
        journal.poke();
        assert!(journal.durable().wait_for_epoch(START_MS as u64 + 1_000, LONG));
        synced(journal.try_append(batch(1, 0, 10), "test").unwrap()).unwrap();
        drop(journal);
        let path = dir.path().join(format!("{:020}.seg", 0));
        OpenOptions::new().append(true).open(&path).unwrap().write_all(&vec![0x55; torn]).unwrap();
        let away_ms = START_MS + 7_200_000;
        hand.store(away_ms, Relaxed);
        let journal = open(&dir, &config);
        let last = EpochEnd {
            epoch: away_ms as u64,
            processing_ms: START_MS + 1_000,
            watermark_ms: START_MS + 1_000,
            last_of_input: false,
        };
        let (ends, open) = epochs(&records(&journal));
        assert_eq!((ends.len(), ends[1], open), (2, (10, last), 0), "{torn} torn bytes");
        assert_eq!((journal.last_epoch_end(), journal.durable().epoch()), (Some(last), Some(last.epoch)));
        // Then the server was away: the watermark stands still until senders had time to catch up.
        for (now_ms, watermark_ms) in
            [(away_ms + 1_000, last.watermark_ms), (away_ms + 20_000, last.watermark_ms)]
        {
            hand.store(now_ms, Relaxed);
            journal.poke();
            assert!(journal.durable().wait_for_epoch(now_ms as u64, LONG));
            let end = journal.last_epoch_end().unwrap();
            assert_eq!((end.processing_ms, end.watermark_ms), (now_ms, watermark_ms));
        }
        drop(journal);
        // Nothing was left open this time, so nothing is closed; the wait begins anew.
        let journal = self::open(&dir, &config);
        assert_eq!(epochs(&records(&journal)).0.len(), 4);
        hand.store(away_ms + 40_000, Relaxed);
        for now_ms in (away_ms + 40_000..=away_ms + 340_000).step_by(30_000) {
            assert!(journal.last_epoch_end().unwrap().watermark_ms == last.watermark_ms, "before {now_ms}");
            hand.store(now_ms, Relaxed);
            journal.poke();
            assert!(journal.durable().wait_for_epoch(now_ms as u64, LONG));
        }
        assert_eq!(journal.last_epoch_end().unwrap().watermark_ms, away_ms + 340_000);
    }
}

#[test]
fn a_bootstrap_ends_in_a_later_epoch_than_its_samples_and_is_known_to_the_next_start() {
    let dir = Dir::new();
    let (config, _) = config(EpochMode::Live);
    let config = JournalOptions { segment_bytes: 4_096, ..config };
    let journal = open(&dir, &config);
    let bootstrap = Bootstrap { id: 7, source: "a".to_owned(), from_ms: 5, publish_from_ms: 6 };
    let other = Bootstrap { id: 8, source: "b".to_owned(), ..bootstrap.clone() };
    let control = |journal: &Journal, control| synced(journal.try_control(control).unwrap()).unwrap();
    control(&journal, Control::BootstrapBegin(bootstrap.clone()));
    control(&journal, Control::BootstrapBegin(other.clone()));
    for i in 0..20 {
        synced(journal.try_append(batch(1, i, 10), "test").unwrap()).unwrap();
        synced(journal.try_append(Samples { bootstrap: 7, ..batch(1, i, 50) }, "test").unwrap()).unwrap();
    }
    assert!(
        (journal.open_bootstraps(), journal.bootstrapped("a")) == (&[][..], false),
        "what was found at the start"
    );
    drop(journal);
    let journal = open(&dir, &config);
    assert!(
        (journal.open_bootstraps(), journal.bootstrapped("a")) == (&[bootstrap, other.clone()][..], false)
    );
    synced(journal.try_append(Samples { bootstrap: 7, ..batch(1, 0, 10) }, "test").unwrap()).unwrap();
    synced(journal.try_append(batch(1, 0, 10), "test").unwrap()).unwrap();
    control(&journal, Control::BootstrapEnd { bootstrap: 7 });
    control(&journal, Control::BootstrapEnd { bootstrap: 99 });
    journal.close().unwrap();
    let (mut bootstrapped, mut of_epoch) = (0, 0);
    for record in records(&journal) {
        match record {
            Record::Samples(samples) if samples.bootstrap == 7 => {
                (bootstrapped, of_epoch) = (bootstrapped + samples.len(), 1)
            }
            Record::Control(Control::BootstrapEnd { .. }) => assert_eq!(of_epoch, 0, "an epoch of its own"),
            Record::EpochEnd(_) => of_epoch = 0,
            _ => {}
        }
    }
    assert_eq!(bootstrapped, 20 * 50 + 10);
    drop(journal);
    let journal = open(&dir, &config);
    assert!(
        (journal.open_bootstraps(), journal.bootstrapped("a"), journal.bootstrapped("b"))
            == (&[other][..], true, false)
    );
}

/// Keeps only as much of the last segment as ends with its first record of this kind, or right before that.
fn tear(dir: &Dir, kind: u8, with: bool) {
    let mut list = crate::segments::list(dir.path()).unwrap();
    let path = |segment: u64| dir.path().join(format!("{segment:020}.seg"));
    loop {
        let last = list.pop().expect("some segment holds it");
        let mut reader = SegmentReader::open_at(dir.path(), LOG, last).unwrap();
        let end = reader.segment_end().unwrap();
        let mut before = reader.position().offset;
        while let Some((found, _)) = reader.next(end).unwrap() {
            if found == kind {
                let length = if with { reader.position().offset } else { before };
                return OpenOptions::new().write(true).open(path(last)).unwrap().set_len(length).unwrap();
            }
            before = reader.position().offset;
        }
        std::fs::remove_file(path(last)).unwrap();
    }
}

#[test]
fn the_head_of_a_segment_says_nothing_of_bootstraps_that_a_lost_record_would_have_said() {
    let bootstrap = Bootstrap { id: 7, source: "a".to_owned(), from_ms: 5, publish_from_ms: 6 };
    let end = Control::BootstrapEnd { bootstrap: 7 };
    let control = |journal: &Journal, control| synced(journal.try_control(control).unwrap()).unwrap();
    // Each commit begins a segment.
    let config = JournalOptions { segment_bytes: 1, ..config(EpochMode::File).0 };
    let dir = Dir::new();
    let journal = open(&dir, &config);
    control(&journal, Control::BootstrapBegin(bootstrap.clone()));
    drop(journal);
    tear(&dir, record::KIND_BOOTSTRAP_BEGIN, false);
    let journal = open(&dir, &config);
    assert_eq!(journal.open_bootstraps(), [], "its begin was lost");
    control(&journal, Control::BootstrapBegin(bootstrap.clone()));
    control(&journal, end.clone());
    drop(journal);
    tear(&dir, record::KIND_BOOTSTRAP_END, false);
    let journal = open(&dir, &config);
    assert!(
        (journal.open_bootstraps(), journal.bootstrapped("a")) == (&[bootstrap.clone()][..], false),
        "its end was lost"
    );
    control(&journal, end.clone());
    drop(journal);
    // The head itself was torn in its middle: what follows is found all the same.
    tear(&dir, record::KIND_BOOTSTRAPS, true);
    let journal = open(&dir, &config);
    assert!((journal.open_bootstraps(), journal.bootstrapped("a")) == (&[bootstrap][..], false));
    control(&journal, end);
    drop(journal);
    let journal = open(&dir, &config);
    assert!((journal.open_bootstraps(), journal.bootstrapped("a")) == (&[][..], true));
}

#[test]
fn the_last_epoch_end_is_found_however_many_segments_back() {
    let dir = Dir::new();
    let (config, _) = config(EpochMode::File);
    let config = JournalOptions { segment_bytes: 64, ..config };
    let journal = open(&dir, &config);
    synced(journal.try_append(batch(1, 0, 5), "test").unwrap()).unwrap();
    synced(journal.cut(77, 66, false).unwrap()).unwrap();
    let end = journal.last_epoch_end().unwrap();
    assert_eq!((end.processing_ms, end.watermark_ms), (77, 66));
    for i in 0..10 {
        synced(journal.try_append(batch(2, i, 1), "test").unwrap()).unwrap();
    }
    journal.close().unwrap();
    assert!(crate::segments::list(dir.path()).unwrap().len() > 8);
    assert_eq!(journal.last_epoch_end(), Some(end), "a file's last epoch is ended by the caller");
    let before = records(&journal);
    drop(journal);
    let journal = open(&dir, &config);
    let closed = EpochEnd { epoch: end.epoch + 1, ..end };
    assert_eq!(journal.last_epoch_end(), Some(closed));
    let after = records(&journal);
    assert_eq!(
        (&after[..before.len()], &after[before.len()..]),
        (&before[..], &[Record::EpochEnd(closed)][..])
    );
    let settings = after.iter().filter(|record| matches!(record, Record::Settings(_))).count();
    assert_eq!(settings, 1, "each segment holds them, a reader sees them once");
    drop(journal);
    assert_eq!(records(&open(&dir, &config)), after, "a second start finds nothing to close");
}

#[test]
fn other_settings_hold_from_the_next_epoch_on() {
    let dir = Dir::new();
    let (config, hand) = config(EpochMode::Live);
    let first = Settings::default();
    let other = Settings { idle_timeout_ms: 45_000, late_samples_max: 99, ..Settings::default() };
    let told = differences(&first, &other);
    assert_eq!(
        told,
        [
            "idle_timeout_ms is 30000 in the journal and 45000 now",
            "late_samples_max is 1024 in the journal and 99 now"
        ]
    );
    let journal = open(&dir, &config);
    hand.fetch_add(1_000, Relaxed);
    synced(journal.try_append(batch(1, 0, 3), "test").unwrap()).unwrap();
    // As if killed: its epoch is closed under the settings it began with.
    drop(journal);
    let journal = try_open(&dir, &config, other.clone()).unwrap();
    synced(journal.try_append(batch(1, 3, 2), "test").unwrap()).unwrap();
    hand.fetch_add(1_000, Relaxed);
    journal.close().unwrap();
    drop(journal);
    let kinds = |records: &[Record]| -> Vec<String> {
        let word = |record: &Record| match record {
            Record::Settings(settings) => format!("idle_timeout {}", settings.idle_timeout_ms),
            Record::Samples(samples) => format!("{} samples", samples.len()),
            Record::EpochEnd(_) => "end".to_owned(),
            Record::Control(_) | Record::Bootstraps(_) => "other".to_owned(),
        };
        records.iter().map(word).filter(|word| word != "end").collect()
    };
    let want = ["idle_timeout 30000", "3 samples", "idle_timeout 45000", "2 samples"];
    let journal = try_open(&dir, &config, other.clone()).unwrap();
    let found = records(&journal);
    assert_eq!(kinds(&found), want, "the same settings again are no news");
    let at = |word: &str| {
        let is =
            |record: &Record| kinds(std::slice::from_ref(record)).first().is_some_and(|kind| kind == word);
        found.iter().position(is).unwrap()
    };
    assert!(matches!(found[at("idle_timeout 45000") - 1], Record::EpochEnd(_)), "{found:?}");
    // Who begins after an epoch is not handed the settings in force there, but can ask for them.
    let Record::EpochEnd(end) = found[at("idle_timeout 45000") - 1] else { panic!("{found:?}") };
    let idle_timeout = |reader: &JournalReader| reader.settings().map(|settings| settings.idle_timeout_ms);
    let mut reader = journal.strict_reader_after(end.epoch).unwrap();
    assert_eq!(idle_timeout(&reader), Some(30_000), "the others hold from the next epoch on");
    assert!(matches!(reader.next_ready(), Ok(Some(Record::Settings(_)))));
    assert_eq!(idle_timeout(&reader), Some(45_000));
    let last = journal.last_epoch_end().unwrap();
    assert_eq!(idle_timeout(&journal.strict_reader_after(last.epoch).unwrap()), Some(45_000));
    assert_eq!(idle_timeout(&journal.strict_reader_after(0).unwrap()), None, "none is passed over");
    drop(journal);
    // Back again, and once more before an epoch ended: each start finds the newest.
    for settings in [first.clone(), other, first] {
        drop(try_open(&dir, &config, settings).unwrap());
    }
    let journal = open(&dir, &config);
    let back = ["idle_timeout 30000", "idle_timeout 45000", "idle_timeout 30000"];
    assert_eq!(kinds(&records(&journal))[4..], back);
}

#[test]
fn a_clock_far_behind_refuses_the_start() {
    let dir = Dir::new();
    let (config, hand) = config(EpochMode::Live);
    let journal = open(&dir, &config);
    hand.fetch_add(1_000, Relaxed);
    journal.close().unwrap();
    drop(journal);
    hand.fetch_sub(CLOCK_BEHIND_MS_MAX + 1, Relaxed);
    // What runs live goes on, and waits until the clock is there or is accepted.
    drop(open(&dir, &config));
    let config = JournalOptions { mode: EpochMode::File, ..config };
    let text = try_open(&dir, &config, Settings::default()).err().unwrap().to_string();
    assert!(text.contains("2023-11-14T22:03:20.999Z") && text.contains("2023-11-14T22:13:21Z"), "{text}");
    try_open(&dir, &JournalOptions { allow_future: true, ..config.clone() }, Settings::default()).unwrap();
    hand.fetch_add(1, Relaxed);
    try_open(&dir, &config, Settings::default()).unwrap();
}

#[test]
fn a_clock_that_is_accepted_sets_both_times_back_in_an_epoch_of_its_own() {
    const DAY_MS: i64 = 86_400_000;
    for segment_bytes in [1, 64 << 20] {
        let dir = Dir::new();
        let (config, hand) = config(EpochMode::Live);
        let config = JournalOptions { segment_bytes, ..config };
        let journal = open(&dir, &config);
        hand.fetch_add(40 * DAY_MS, Relaxed);
        synced(journal.try_append(batch(1, 0, 3), "test").unwrap()).unwrap();
        journal.poke();
        let wrong_ms = START_MS + 40 * DAY_MS;
        while journal.last_epoch_end().is_none_or(|end| end.processing_ms < wrong_ms) {
            std::thread::yield_now();
        }
        hand.store(START_MS + 5_000, Relaxed);
        // A running one is told; the samples before it are in an epoch before it.
        synced(journal.try_append(batch(1, 3, 2), "test").unwrap()).unwrap();
        synced(journal.reset_clock(START_MS + 5_000).unwrap()).unwrap();
        synced(journal.try_append(batch(1, 5, 2), "test").unwrap()).unwrap();
        let last = journal.last_epoch_end().unwrap();
        assert!(
            last.processing_ms <= START_MS + 5_000 && last.watermark_ms <= last.processing_ms,
            "{last:?}"
        );
        journal.close().unwrap();
        let judge = |journal: &Journal| {
            let (mut before, mut resets, mut samples) = (None::<EpochEnd>, 0, 0);
            let mut reset = false;
            for record in records(journal) {
                match record {
                    Record::Control(Control::ClockReset { to_ms }) => {
                        assert!((to_ms, samples) == (START_MS + 5_000, 0), "{samples} samples in its epoch");
                        (reset, resets) = (true, resets + 1);
                    }
                    Record::Samples(more) => samples += more.len(),
                    Record::EpochEnd(end) => {
                        if let Some(before) = before {
                            assert!(end.epoch > before.epoch);
                            assert!(!reset || samples == 0, "{samples} samples in its epoch");
                            assert_eq!(
                                end.processing_ms < before.processing_ms,
                                reset && before.processing_ms == wrong_ms
                            );
                        }
                        (before, samples, reset) = (Some(end), 0, false);
                    }
                    _ => {}
                }
            }
            resets
        };
        assert_eq!(judge(&journal), 1);
        drop(journal);
        assert_eq!(open(&dir, &config).last_epoch_end().unwrap().processing_ms, START_MS + 5_000);
        // Torn behind the reset: its epoch is closed at the time it says.
        tear(&dir, record::KIND_CLOCK_RESET, true);
        let journal = open(&dir, &config);
        assert_eq!(journal.last_epoch_end().unwrap().processing_ms, START_MS + 5_000);
        assert_eq!(judge(&journal), 1);
        drop(journal);
        // Torn before it, the wrong time is there again, and a start may accept the clock.
        tear(&dir, record::KIND_CLOCK_RESET, false);
        assert_eq!(open(&dir, &config).last_epoch_end().unwrap().processing_ms, wrong_ms);
        let file = JournalOptions { mode: EpochMode::File, ..config.clone() };
        assert!(matches!(try_open(&dir, &file, Settings::default()), Err(JournalError::ClockBehind { .. })));
        let journal = open(&dir, &JournalOptions { accept_clock: true, ..file });
        assert_eq!(journal.last_epoch_end().unwrap().processing_ms, START_MS + 5_000);
        assert_eq!(judge(&journal), 1);
    }
}

#[test]
fn a_full_queue_refuses_or_waits_and_a_full_journal_refuses() {
    let dir = Dir::new();
    let (config, _) = config(EpochMode::File);
    let config = JournalOptions { queue_batches: 2, queue_samples: 100, ..config };
    let (let_go, gate) = mpsc::channel::<()>();
    let (arrived, arrivals) = mpsc::channel();
    let_go.send(()).unwrap();
    let before_commit = Box::new(move || {
        arrived.send(()).map_err(io::Error::other)?;
        gate.recv().map_err(io::Error::other)
    });
    let metrics = Arc::new(Metrics::new());
    let journal =
        Journal::open(dir.path(), config.clone(), Settings::default(), before_commit, metrics.clone())
            .unwrap();
    arrivals.recv().unwrap();
    // One batch is with the writer; a batch above the bound is taken by an empty queue, and then it is full.
    journal.append_blocking(batch(1, 0, 1), "file").unwrap();
    arrivals.recv().unwrap();
    journal.append_blocking(batch(1, 1, 150), "file").unwrap();
    let refused = journal.try_append(batch(1, 151, 1), "push").unwrap_err();
    assert_eq!(refused, QueueError::Full { batches: 1, batches_max: 2, samples: 150, samples_max: 100 });
    let blocked = journal.clone();
    let thread = std::thread::spawn(move || blocked.append_blocking(batch(1, 151, 1), "file"));
    (0..4).for_each(|_| let_go.send(()).unwrap());
    thread.join().unwrap().unwrap();
    synced(journal.cut(5, 5, true).unwrap()).unwrap();
    let (ends, _) = epochs(&records(&journal));
    assert_eq!((ends.len(), ends[0].0, ends[0].1.last_of_input), (1, 152, true));
    let text = metrics.text();
    assert!(text.contains(r#"tidewatch_samples_accepted_total{source="file"} 152"#), "{text}");
    assert!(text.contains(r#"tidewatch_limit_reached_total{limit="journal.queue"} 1"#), "{text}");
    let_go.send(()).unwrap();
    journal.close().unwrap();
    drop(journal);

    let journal = open(&dir, &JournalOptions { bytes_max: 4_000, ..config });
    let refused = journal.try_append(batch(1, 0, 100), "push").unwrap_err();
    assert!(matches!(refused, QueueError::BytesMax { bytes_max: 4_000, .. }), "{refused}");
}

#[test]
fn every_acknowledged_batch_is_read_whole_and_in_its_senders_order() {
    let dir = Dir::new();
    let (clock, _) = hand_clock();
    let config = JournalOptions {
        clock,
        segment_bytes: 20_000,
        epoch_samples_max: 1_000,
        queue_batches: 8,
        ..JournalOptions::new(EpochMode::Live)
    };
    let journal = open(&dir, &config);
    let mut reader = journal.reader().unwrap();
    let reading = std::thread::spawn(move || {
        let mut records = vec![];
        while let Some(record) = reader.next(LONG).unwrap() {
            records.push(record);
        }
        assert!(reader.finished());
        records
    });
    let senders: Vec<_> = (0..4_u64)
        .map(|sender| {
            let journal = journal.clone();
            std::thread::spawn(move || {
                let mut rng = fastrand::Rng::with_seed(sender);
                let mut from = 0;
                for _ in 0..100 {
                    let n = rng.usize(..200);
                    match journal.try_append(batch(sender, from, n), "push") {
                        Ok(waiting) => {
                            synced(waiting).unwrap();
                            from += n;
                        }
                        Err(QueueError::Full { .. }) => {}
                        Err(other) => panic!("{other}"),
                    }
                }
                from
            })
        })
        .collect();
    let sent: Vec<usize> = senders.into_iter().map(|sender| sender.join().unwrap()).collect();
    journal.close().unwrap();
    let records = reading.join().unwrap();
    let mut read = [0; 4];
    for record in &records {
        let Record::Samples(samples) = record else { continue };
        for (series, value) in samples.series.iter().zip(&samples.value) {
            assert_eq!(*value, read[*series as usize] as f64);
            read[*series as usize] += 1;
        }
    }
    assert_eq!(read.to_vec(), sent);
    let (ends, open) = epochs(&records);
    assert!(open == 0 && ends.iter().all(|(n, _)| *n <= 1_000));
    assert!(ends.windows(2).all(|two| two[0].1.epoch < two[1].1.epoch));
    assert!(crate::segments::list(dir.path()).unwrap().len() > 10);
    drop(journal);
    assert_eq!(self::records(&self::open(&dir, &config)), records);
}
