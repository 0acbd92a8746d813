//! What becomes of a journal whose disk is full, fails, forgets or changes bytes; and one that was trimmed.

use std::fs;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use super::tests::{LONG, START_MS, batch, config, epochs, open, records, synced, try_open};
use super::*;
use crate::disk::testing::Faults;
use crate::segments::tests::Dir;
use crate::segments::{SegmentsError, list};

fn open_on(dir: &Dir, faults: &Arc<Faults>, config: &JournalOptions, metrics: &Arc<Metrics>) -> Journal {
    let (folder, nothing) = (faults.folder(dir.path()), Box::new(|| Ok(())));
    Journal::open(folder, config.clone(), Settings::default(), nothing, metrics.clone()).unwrap()
}

/// Makes a stalled writer look at the disk until it goes on.
fn wake(journal: &Journal) {
    while journal.stalled().is_some() {
        journal.poke();
        std::thread::yield_now();
    }
}

/// The first values of all batches, in their order.
fn seen(records: &[Record]) -> Vec<u64> {
    let samples = records.iter().filter_map(|record| match record {
        Record::Samples(samples) => Some(samples),
        _ => None,
    });
    samples.flat_map(|samples| samples.series.clone()).collect()
}

#[test]
fn a_full_disk_is_told_to_everyone_and_the_journal_goes_on_when_there_is_room() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut rng = fastrand::Rng::with_seed(seed);
    let modes = [SyncMode::Commit, SyncMode::Interval(Duration::ZERO), SyncMode::Never];
    for mode in modes.into_iter().cycle().take(9) {
        let (dir, faults, metrics) = (Dir::new(), Arc::new(Faults::default()), Arc::new(Metrics::new()));
        let (config, hand) = config(EpochMode::Live);
        let config = JournalOptions { sync: mode, segment_bytes: 3_000, epoch_samples_max: 50, ..config };
        let journal = open_on(&dir, &faults, &config, &metrics);
        let (mut taken, mut stalls) = (vec![], 0);
        for number in 0..60 {
            if rng.u8(..4) == 0 {
                faults.room(Some(rng.u64(..2_000)));
            }
            hand.fetch_add(rng.i64(0..700), Relaxed);
            match journal.try_append(batch(number, 0, 7), "test") {
                Ok(waiting) => match synced(waiting) {
                    Ok(()) => taken.push(number),
                    Err(why) => assert!(why.contains("No space left") && why.contains(".seg"), "{why}"),
                },
                Err(QueueError::Stalled(why)) => assert!(why.contains("No space left"), "{why}"),
                Err(other) => panic!("{other}"),
            }
            if journal.stalled().is_some() && rng.bool() {
                stalls += 1;
                faults.room(None);
                wake(&journal);
            }
        }
        assert!(stalls > 0 && journal.failed().is_none());
        faults.room(None);
        wake(&journal);
        let lasting: Vec<u64> = taken.iter().flat_map(|number| [*number; 7]).collect();
        journal.close().unwrap();
        let before = records(&journal);
        // What was answered with an error went back wholly: the log is as if it had never come.
        assert_eq!(seen(&before), lasting, "{mode:?}");
        let (ends, open_samples) = epochs(&before);
        assert!(ends.windows(2).all(|two| two[0].1.epoch < two[1].1.epoch) && open_samples == 0);
        let text = metrics.text();
        assert!(!text.contains(r#"tidewatch_log_stalls_total{log="journal"} 0"#), "{text}");
        assert!(text.contains(r#"tidewatch_log_stalled{log="journal"} 0"#), "{text}");
        drop(journal);
        assert_eq!(records(&open(&dir, &config)), before, "{mode:?}: the same after a restart");
    }
}

#[test]
fn a_series_log_that_cannot_be_written_stalls_the_journal() {
    let dir = Dir::new();
    let (config, _) = config(EpochMode::Live);
    let (full, metrics) = (Arc::new(std::sync::atomic::AtomicBool::new(false)), Arc::new(Metrics::new()));
    let switch = full.clone();
    let before_commit = Box::new(move || {
        let (path, source) = ("series.seg".into(), io::Error::from_raw_os_error(28));
        let error = || io::Error::other(SegmentsError::Write { path, source });
        if switch.load(SeqCst) { Err(error()) } else { Ok(()) }
    });
    let journal =
        Journal::open(dir.path(), config, Settings::default(), before_commit, metrics.clone()).unwrap();
    full.store(true, SeqCst);
    let why = synced(journal.try_append(batch(1, 0, 5), "test").unwrap()).unwrap_err();
    assert!(why.contains("series.seg"), "{why}");
    assert!(journal.stalled().is_some() && journal.failed().is_none());
    assert!(metrics.text().contains(r#"tidewatch_log_stalled{log="series"} 1"#));
    full.store(false, SeqCst);
    wake(&journal);
    synced(journal.try_append(batch(2, 0, 5), "test").unwrap()).unwrap();
    journal.close().unwrap();
    assert_eq!(seen(&records(&journal)), [2; 5]);
}

#[test]
fn a_failed_sync_is_for_good_and_a_stalled_journal_can_be_closed() {
    let (dir, faults, metrics) = (Dir::new(), Arc::new(Faults::default()), Arc::new(Metrics::new()));
    let (config, _) = config(EpochMode::Live);
    let told: Arc<Mutex<Vec<String>>> = Arc::default();
    let on_failed: FailureHook = {
        let told = Arc::clone(&told);
        Arc::new(move |why| told.lock().push(why.to_owned()))
    };
    let config = JournalOptions { on_failed: Some(on_failed), ..config };
    let journal = open_on(&dir, &faults, &config, &metrics);
    faults.no_sync.store(true, SeqCst);
    synced(journal.try_append(batch(1, 0, 5), "test").unwrap()).unwrap_err();
    assert!(journal.failed().is_some() && journal.stalled().is_none());
    assert!(journal.close().is_err_and(|error| error.restart_helps()));
    // Whoever can start the process again is told, once.
    assert_eq!(*told.lock(), [journal.failed().unwrap()]);
    assert!(matches!(journal.try_append(batch(1, 0, 1), "test"), Err(QueueError::Failed(_))));
    faults.no_sync.store(false, SeqCst);
    drop(journal);
    let journal = open_on(&dir, &faults, &config, &metrics);
    faults.room(Some(0));
    synced(journal.try_append(batch(2, 0, 5), "test").unwrap()).unwrap_err();
    assert!(matches!(journal.close(), Err(JournalError::Failed(why)) if why.contains("No space left")));
}

#[test]
fn readers_wait_for_the_sync_and_with_never_for_the_write() {
    let (dir, faults, metrics) = (Dir::new(), Arc::new(Faults::default()), Arc::new(Metrics::new()));
    let (config, _) = config(EpochMode::File);
    let seldom = JournalOptions { sync: SyncMode::Interval(LONG * 60), ..config.clone() };
    let journal = open_on(&dir, &faults, &seldom, &metrics);
    let (end, syncs) = (journal.durable().end(), faults.syncs.load(SeqCst));
    synced(journal.try_append(batch(1, 0, 5), "test").unwrap()).unwrap();
    synced(journal.try_append(batch(1, 5, 5), "test").unwrap()).unwrap();
    assert_eq!((journal.durable().end(), faults.syncs.load(SeqCst)), (end, syncs));
    // The end of an input is waited for by someone who asks next how far all is durable.
    synced(journal.cut(5, 5, true).unwrap()).unwrap();
    assert_eq!(epochs(&records(&journal)).0[0].0, 10);
    assert_eq!(faults.syncs.load(SeqCst), syncs + 1);
    synced(journal.try_append(batch(1, 10, 5), "test").unwrap()).unwrap();
    journal.close().unwrap();
    assert_eq!((epochs(&records(&journal)).1, faults.syncs.load(SeqCst)), (5, syncs + 2));
    drop(journal);

    let often = JournalOptions { sync: SyncMode::Interval(Duration::from_millis(1)), ..config.clone() };
    let journal = open_on(&dir, &faults, &often, &metrics);
    let end = journal.durable().end();
    synced(journal.try_append(batch(1, 15, 5), "test").unwrap()).unwrap();
    assert!(journal.durable().wait_beyond(end, LONG) > end, "nobody asks, and it is synced all the same");
    drop(journal);

    let never = JournalOptions { sync: SyncMode::Never, segment_bytes: 2_000, ..config };
    let journal = open_on(&dir, &faults, &never, &metrics);
    let (end, syncs) = (journal.durable().end(), faults.syncs.load(SeqCst));
    synced(journal.try_append(batch(1, 20, 5), "test").unwrap()).unwrap();
    synced(journal.cut(6, 6, false).unwrap()).unwrap();
    assert!(journal.durable().end() > end && journal.last_epoch_end().unwrap().processing_ms == 6);
    assert_eq!(faults.syncs.load(SeqCst), syncs);
    synced(journal.try_append(batch(1, 25, 100), "test").unwrap()).unwrap();
    assert_eq!(faults.syncs.load(SeqCst), syncs + 2, "the full segment, and the head of the next one");
}

#[test]
fn a_journal_behind_what_was_made_from_it_starts_above_only_if_told_so() {
    let dir = Dir::new();
    let (config, _) = config(EpochMode::Live);
    let journal = open(&dir, &config);
    synced(journal.try_append(batch(1, 0, 5), "test").unwrap()).unwrap();
    // As if killed: the epoch is open, and closing it would give it a number above all.
    drop(journal);
    let ahead = START_MS as u64 + 5_000;
    let derived = vec![("outbox", ahead - 1), ("store", ahead)];
    let behind = JournalOptions { derived, ..config };
    let text = try_open(&dir, &behind, Settings::default()).err().unwrap().to_string();
    assert!(
        text.contains(&format!("the store holds epoch {ahead}")) && text.contains("last epoch 0"),
        "{text}"
    );
    let journal = open(&dir, &JournalOptions { accept_loss: true, ..behind.clone() });
    assert_eq!(journal.last_epoch_end().unwrap().epoch, ahead + 1);
    drop(journal);
    open(&dir, &behind);
}

/// A journal of many small segments, some epochs in one and some over several; and everything in it.
fn long_journal(dir: &Dir, config: &JournalOptions) -> (Journal, Vec<Record>) {
    let journal = open(dir, config);
    let mut rng = fastrand::Rng::with_seed(9);
    for number in 0..120 {
        synced(journal.try_append(batch(number, 0, rng.usize(1..40)), "test").unwrap()).unwrap();
        if rng.u8(..3) == 0 {
            synced(journal.cut(number as i64, 0, false).unwrap()).unwrap();
        }
    }
    synced(journal.cut(1_000, 0, true).unwrap()).unwrap();
    let records = records(&journal);
    (journal, records)
}

fn all_after(journal: &Journal, epoch: u64) -> Result<Vec<Record>, JournalError> {
    let mut reader = journal.reader_after(Some(epoch))?;
    std::iter::from_fn(|| reader.next_ready().transpose()).collect()
}

#[test]
fn reading_after_an_epoch_gives_what_follows_it_and_trimming_keeps_that() {
    let dir = Dir::new();
    let config = JournalOptions { segment_bytes: 1_500, ..config(EpochMode::File).0 };
    let (journal, all) = long_journal(&dir, &config);
    let ends: Vec<(usize, u64)> = all
        .iter()
        .enumerate()
        .filter_map(|(at, record)| match record {
            Record::EpochEnd(end) => Some((at, end.epoch)),
            _ => None,
        })
        .collect();
    let (_, first) = ends[0];
    assert_eq!(all_after(&journal, first - 1).unwrap(), all, "nothing is passed over, the settings come");
    for (at, epoch) in &ends {
        assert_eq!(all_after(&journal, *epoch).unwrap(), all[at + 1..], "after epoch {epoch}");
    }
    let (mut journal, whole) = (journal, list(dir.path()).unwrap().len());
    assert!(whole > 30);
    for (round, upto) in
        [first - 1, ends[3].1, ends[3].1, ends[20].1, ends.last().unwrap().1].iter().enumerate()
    {
        let (before, freed) = (journal.bytes(), journal.trim(*upto).unwrap());
        assert_eq!(journal.bytes(), before - freed, "round {round}");
        assert_eq!(freed == 0, matches!(round, 0 | 2), "round {round}");
        for (at, epoch) in ends.iter().filter(|(_, epoch)| epoch >= upto) {
            assert_eq!(all_after(&journal, *epoch).unwrap(), all[at + 1..], "after epoch {epoch}");
        }
        if freed > 0 {
            let text = journal.reader().err().unwrap().to_string();
            assert!(text.contains("from its beginning: it was trimmed"), "{text}");
            let text = all_after(&journal, first).unwrap_err().to_string();
            assert!(text.contains(&format!("after epoch {first}:")), "{text}");
        }
        let last = journal.last_epoch_end();
        drop(journal);
        journal = open(&dir, &config);
        assert_eq!(journal.last_epoch_end(), last);
    }
    assert!(list(dir.path()).unwrap().len() <= 2, "the last segments");
    synced(journal.try_append(batch(1, 0, 1), "test").unwrap()).unwrap();
}

#[test]
fn a_journal_at_its_bound_takes_again_what_trimming_made_room_for() {
    let dir = Dir::new();
    let config = JournalOptions { segment_bytes: 1_500, bytes_max: 20_000, ..config(EpochMode::File).0 };
    let journal = open(&dir, &config);
    while let Ok(waiting) = journal.try_append(batch(1, 0, 40), "test") {
        synced(waiting).unwrap();
        synced(journal.cut(1, 1, false).unwrap()).unwrap();
    }
    assert!(matches!(journal.try_append(batch(1, 0, 40), "test"), Err(QueueError::BytesMax { .. })));
    assert!(journal.trim(journal.last_epoch_end().unwrap().epoch).unwrap() > 10_000);
    synced(journal.try_append(batch(1, 0, 40), "test").unwrap()).unwrap();
}

#[test]
fn damage_is_an_error_that_says_what_is_lost_or_is_gone_round_and_counted() {
    for (segment_bytes, last) in [(1_500, false), (1 << 20, true)] {
        let dir = Dir::new();
        let config = JournalOptions { segment_bytes, ..config(EpochMode::File).0 };
        let (journal, all) = long_journal(&dir, &config);
        let (ends, _) = epochs(&all);
        drop(journal);
        let segments = list(dir.path()).unwrap();
        let segment = if last { segments[0] } else { segments[segments.len() / 2] };
        let path = dir.path().join(format!("{segment:020}.seg"));
        let whole = fs::read(&path).unwrap();
        for at in (32..whole.len() - if last { 200 } else { 0 }).step_by(if last { 1_801 } else { 97 }) {
            let mut changed = whole.clone();
            changed[at] ^= 0x40;
            fs::write(&path, &changed).unwrap();
            let broken = try_open(&dir, &config, Settings::default()).and_then(|journal| {
                let mut reader = journal.reader()?;
                while reader.next_ready()?.is_some() {}
                Ok(())
            });
            let Err(error) = broken else { panic!("byte {at} of {segment} was not missed") };
            let JournalError::Damaged { bytes, before, after, .. } = &error else { panic!("{error}") };
            let text = error.to_string();
            assert!(text.contains(&path.display().to_string()) && text.contains("--accept-loss"), "{text}");
            let (before, after, bytes) = (before.unwrap_or(0), after.unwrap_or(u64::MAX), *bytes);
            let inside = ends.iter().filter(|(_, end)| end.epoch > before && end.epoch < after).count();
            assert!(inside <= 1, "at most the end that is lost itself is between {before} and {after}");

            let metrics = Arc::new(Metrics::new());
            let accepts = JournalOptions { accept_loss: true, ..config.clone() };
            let nothing = Box::new(|| Ok(()));
            let journal =
                Journal::open(dir.path(), accepts, Settings::default(), nothing, metrics.clone()).unwrap();
            let mut strict = journal.strict_reader_after(0).unwrap();
            let met = std::iter::from_fn(|| strict.next_ready().transpose()).find_map(Result::err);
            assert!(matches!(met, Some(JournalError::Damaged { .. })), "byte {at}: {met:?}");
            let left = records(&journal);
            let mut of_all = all.iter();
            assert!(left.iter().all(|record| of_all.any(|one| one == record)), "byte {at}: in order");
            assert!(left.len() + 1 >= all.len(), "byte {at}: one record is lost, if any that is read");
            let counted = format!("tidewatch_journal_lost_bytes_total {bytes}\n");
            assert!(metrics.text().contains(&counted), "byte {at}: {counted}");
        }
        fs::write(&path, &whole).unwrap();
        assert_eq!(records(&open(&dir, &config)), all);
    }
}

#[test]
fn what_follows_the_last_sync_is_still_a_torn_tail() {
    let dir = Dir::new();
    let config = config(EpochMode::File).0;
    let (journal, all) = long_journal(&dir, &config);
    drop(journal);
    let path = dir.path().join(format!("{:020}.seg", 0));
    let whole = fs::read(&path).unwrap();
    // The last commit is an epoch's end, and how far the log was synced before it.
    for cut in [1, 20, 25, 26, 40] {
        fs::write(&path, &whole[..whole.len() - cut]).unwrap();
        let found = records(&open(&dir, &config));
        let same = found.iter().zip(&all).take_while(|(a, b)| a == b).count();
        assert!(same >= all.len() - 1, "{cut} bytes cut off");
    }
    // A bit of the last commit that flipped: nobody had said that it was synced.
    let mut changed = whole.clone();
    let at = changed.len() - 40;
    changed[at] ^= 1;
    fs::write(&path, &changed).unwrap();
    open(&dir, &config);
}
