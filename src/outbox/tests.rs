//! What is put in comes out, once, in order, and only when it is durable.

use std::fs::OpenOptions;
use std::sync::Arc;
use std::time::Duration;

use tidewatch_dataflows::rows::{RowLists, Rows};
use tidewatch_dataflows::sample::SeriesId;

use super::record::RECORD_ROWS_MAX;
use super::record::tests::{bits, outcomes};
use super::*;
use crate::disk::testing::Faults;
use crate::segments::tests::Dir;

/// Bytes of the record that says how far the log was synced.
const MARK_BYTES: u64 = 9 + 16;

fn open(dir: &Dir, segment_bytes: u64) -> Outbox {
    let config = OutboxOptions { segment_bytes, ..OutboxOptions::default() };
    Outbox::open(dir.path(), config, Arc::new(Metrics::new())).unwrap()
}

fn same(batch: &OutboxBatch, epoch: u64, outcomes: &Rows) -> bool {
    batch.epoch == epoch
        && batch.windows.iter().map(bits).eq(outcomes.windows.iter().map(bits))
        && batch.rejects == outcomes.rejects
}

#[test]
fn batches_come_out_in_order_over_segments_and_restarts() {
    let dir = Dir::new();
    let mut rng = fastrand::Rng::with_seed(5);
    let sizes = [
        (0, 0),
        (1, 1),
        (RECORD_ROWS_MAX, 0),
        (RECORD_ROWS_MAX, 1),
        (RECORD_ROWS_MAX + 1, 2),
        (0, 40_000),
        (3, 3),
    ];
    let all: Vec<(u64, Rows)> =
        sizes.iter().enumerate().map(|(i, (w, r))| (10 * i as u64, outcomes(&mut rng, *w, *r))).collect();
    for some in all.chunks(3) {
        let mut outbox = open(&dir, 10_000);
        for (epoch, outcomes) in some {
            assert!(outbox.append(*epoch, outcomes).unwrap());
            outbox.sync().unwrap();
        }
    }
    let outbox = open(&dir, 10_000);
    assert_eq!(outbox.last_epoch(), Some(60));
    assert_eq!(outbox.durable().epoch(), Some(60));
    for from in
        [None, Some(0), Some(5), Some(9), Some(10), Some(30), Some(45), Some(59), Some(60), Some(1_000)]
    {
        let mut tail = Tail::open(dir.path(), outbox.durable(), from).unwrap();
        for (epoch, outcomes) in all.iter().filter(|(epoch, _)| from.is_none_or(|from| *epoch > from)) {
            let batch = tail.next().unwrap().unwrap_or_else(|| panic!("epoch {epoch} after {from:?}"));
            assert!(same(&batch, *epoch, outcomes), "epoch {epoch} after {from:?}");
        }
        assert_eq!(tail.next().unwrap(), None);
        assert!(!tail.finished());
        pick(&dir, &outbox, from, &all);
    }
}

/// Reads the windows of a third of all series.
fn pick(dir: &Dir, outbox: &Outbox, from: Option<u64>, all: &[(u64, Rows)]) {
    let wanted = |series: SeriesId| series.0.is_multiple_of(3);
    let (mut tail, mut found) = (Tail::open(dir.path(), outbox.durable(), from).unwrap(), Vec::new());
    for (epoch, outcomes) in all.iter().filter(|(epoch, _)| from.is_none_or(|from| *epoch > from)) {
        let ended = loop {
            match tail.pick(wanted, &mut found).unwrap() {
                ReadStep::Part => {}
                ReadStep::End(epoch) => break epoch,
                ReadStep::Nothing => panic!("epoch {epoch} after {from:?}"),
            }
        };
        let want = outcomes.windows.iter().filter(|row| wanted(row.series)).map(bits);
        assert_eq!(ended, *epoch, "after {from:?}");
        assert!(std::mem::take(&mut found).iter().map(bits).eq(want), "epoch {epoch} after {from:?}");
    }
    while let picked @ (ReadStep::Part | ReadStep::End(_)) = tail.pick(wanted, &mut found).unwrap() {
        assert_eq!(picked, ReadStep::Part, "after {from:?}");
    }
    assert_eq!(found.len(), 0);
}

#[test]
fn an_epoch_held_already_is_ignored() {
    let dir = Dir::new();
    let mut rng = fastrand::Rng::with_seed(6);
    let (first, other) = (outcomes(&mut rng, 2, 1), outcomes(&mut rng, 3, 0));
    let mut outbox = open(&dir, 1 << 20);
    assert!(outbox.append(7, &first).unwrap());
    assert!(!outbox.append(7, &other).unwrap());
    outbox.sync().unwrap();
    drop(outbox);
    let mut outbox = open(&dir, 1 << 20);
    for epoch in [0, 6, 7] {
        assert!(!outbox.append(epoch, &other).unwrap());
    }
    assert!(outbox.append(8, &other).unwrap());
    outbox.sync().unwrap();
    let mut tail = Tail::open(dir.path(), outbox.durable(), None).unwrap();
    assert!(same(&tail.next().unwrap().unwrap(), 7, &first));
    assert!(same(&tail.next().unwrap().unwrap(), 8, &other));
    assert_eq!(tail.next().unwrap(), None);
}

#[test]
fn sinks_see_a_batch_when_it_is_durable_and_learn_when_none_follows() {
    let dir = Dir::new();
    let mut outbox = open(&dir, 200);
    let mut tail = Tail::open(dir.path(), outbox.durable(), None).unwrap();
    outbox.append(1, &RowLists::default()).unwrap();
    assert_eq!(tail.wait(Duration::ZERO).unwrap(), None);
    let reader = std::thread::spawn(move || {
        let mut epochs = vec![];
        while let Some(batch) = tail.wait(Duration::from_secs(60)).unwrap() {
            epochs.push(batch.epoch);
        }
        assert!(tail.finished());
        epochs
    });
    for epoch in 2..200 {
        outbox.sync().unwrap();
        outbox.append(epoch, &RowLists::default()).unwrap();
    }
    outbox.sync().unwrap();
    drop(outbox);
    assert_eq!(reader.join().unwrap(), (1..200).collect::<Vec<_>>());
}

#[test]
fn an_epoch_written_in_part_is_gone_after_a_crash() {
    let dir = Dir::new();
    let mut rng = fastrand::Rng::with_seed(7);
    let (small, large) = (outcomes(&mut rng, 1, 0), outcomes(&mut rng, 2 * RECORD_ROWS_MAX, 5));
    let mut outbox = open(&dir, 1 << 30);
    outbox.append(1, &small).unwrap();
    outbox.sync().unwrap();
    let held = outbox.bytes();
    outbox.append(2, &large).unwrap();
    outbox.sync().unwrap();
    let whole = outbox.bytes();
    drop(outbox);
    let path = dir.path().join(format!("{:020}.seg", 0));
    for cut in [1, 170, 200, 1_500_000, whole - MARK_BYTES - held] {
        // The last record says how far it was synced, and is lost with the power.
        OpenOptions::new().write(true).open(&path).unwrap().set_len(whole - MARK_BYTES - cut).unwrap();
        let mut outbox = open(&dir, 1 << 30);
        assert_eq!((outbox.last_epoch(), outbox.bytes()), (Some(1), held), "{cut} bytes cut off");
        assert!(outbox.append(2, &large).unwrap());
        outbox.sync().unwrap();
        assert_eq!(outbox.bytes(), whole, "the same bytes as without the crash");
        let mut tail = Tail::open(dir.path(), outbox.durable(), Some(1)).unwrap();
        assert!(same(&tail.next().unwrap().unwrap(), 2, &large));
    }
}

#[test]
fn a_full_outbox_says_so() {
    let dir = Dir::new();
    let config = OutboxOptions { segment_bytes: 1 << 20, bytes_max: 100, ..OutboxOptions::default() };
    let mut outbox = Outbox::open(dir.path(), config, Arc::new(Metrics::new())).unwrap();
    assert!(!outbox.full());
    for epoch in 1..=3 {
        outbox.append(epoch, &RowLists::default()).unwrap();
    }
    outbox.sync().unwrap();
    assert!(outbox.full());
    // What every sink has does not count, though it cannot go.
    outbox.trimmer().trim(2).unwrap();
    assert!(outbox.full());
    outbox.trimmer().trim(3).unwrap();
    assert!(!outbox.full() && outbox.bytes() > 100);
    outbox.append(4, &RowLists::default()).unwrap();
    assert!(outbox.full());
}

/// The outcomes of three epochs, the second with so many rows.
fn around(seed: u64, rows: usize) -> Vec<(u64, Rows)> {
    let mut rng = fastrand::Rng::with_seed(seed);
    [5, rows, 5].into_iter().zip(1..).map(|(rows, epoch)| (epoch, outcomes(&mut rng, rows, 0))).collect()
}

fn append_all(outbox: &mut Outbox, all: &[(u64, Rows)]) {
    for (epoch, outcomes) in all {
        outbox.append(*epoch, outcomes).unwrap();
    }
}

/// Segments end within an epoch that is larger than all of them, so that what was before it can go.
#[test]
fn an_epoch_lies_in_many_segments_and_is_gone_as_one() {
    let (dir, all) = (Dir::new(), around(10, 7 * RECORD_ROWS_MAX));
    let mut outbox = open(&dir, 100_000);
    append_all(&mut outbox, &all);
    assert!(segments::list(dir.path()).unwrap().len() > 6, "not one of them waits for a sync");
    outbox.sync().unwrap();
    let all_segments = segments::list(dir.path()).unwrap();
    // While some sink has not all of it, all of it stays.
    outbox.trimmer().trim(1).unwrap();
    assert_eq!(segments::list(dir.path()).unwrap(), all_segments);
    for from in [None, Some(0), Some(1), Some(2)] {
        let mut tail = Tail::open(dir.path(), outbox.durable(), from).unwrap();
        for (epoch, outcomes) in all.iter().filter(|(epoch, _)| from.is_none_or(|from| *epoch > from)) {
            assert!(same(&tail.next().unwrap().unwrap(), *epoch, outcomes), "epoch {epoch} after {from:?}");
        }
        assert_eq!(tail.next().unwrap(), None);
        pick(&dir, &outbox, from, &all);
    }
    outbox.trimmer().trim(2).unwrap();
    assert!(segments::list(dir.path()).unwrap().len() <= 2);
    // A sink that holds nothing does not take the end of an epoch for the whole of it.
    std::fs::remove_file(dir.path().join(format!("{:020}.seg", all_segments[0]))).ok();
    let mut tail = Tail::open(dir.path(), outbox.durable(), None).unwrap();
    assert!(same(&tail.next().unwrap().unwrap(), 3, &all[2].1));
    assert_eq!(tail.next().unwrap(), None);
}

/// Killed, or without room, in the middle of an epoch that lies in many segments: written anew, it is there once.
#[test]
fn an_epoch_cut_short_behind_the_end_of_a_segment_is_written_anew() {
    let (source, all) = (Dir::new(), around(11, 4 * RECORD_ROWS_MAX));
    let mut outbox = open(&source, 100_000);
    append_all(&mut outbox, &all[..2]);
    drop(outbox);
    let segments = segments::list(source.path()).unwrap();
    let name = |segment: u64| format!("{segment:020}.seg");
    for kept in 1..segments.len() - 1 {
        for cut in [0, 1, 700_000] {
            let dir = Dir::new();
            for segment in &segments[..=kept] {
                std::fs::copy(source.path().join(name(*segment)), dir.path().join(name(*segment))).unwrap();
            }
            let last = OpenOptions::new().write(true).open(dir.path().join(name(segments[kept]))).unwrap();
            let length = last.metadata().unwrap().len();
            last.set_len(length.saturating_sub(cut).max(32)).unwrap();
            let mut outbox = open(&dir, 100_000);
            let last = outbox.last_epoch();
            if last == Some(2) {
                continue;
            }
            assert_eq!(last, Some(1), "{kept} segments, {cut} bytes less");
            outbox.trimmer().trim(1).unwrap();
            append_all(&mut outbox, &all);
            outbox.sync().unwrap();
            for from in [None, Some(1)] {
                let mut tail = Tail::open(dir.path(), outbox.durable(), from).unwrap();
                let first = tail.next().unwrap().unwrap();
                let second = if first.epoch == 1 { tail.next().unwrap().unwrap() } else { first };
                assert!(same(&second, 2, &all[1].1), "{kept} segments, {cut} bytes less, after {from:?}");
                assert!(same(&tail.next().unwrap().unwrap(), 3, &all[2].1));
            }
            pick(&dir, &outbox, Some(1), &all);
        }
    }
    let (dir, faults) = (Dir::new(), Arc::<Faults>::default());
    let config = OutboxOptions { segment_bytes: 100_000, ..OutboxOptions::default() };
    let mut outbox = Outbox::open(faults.folder(dir.path()), config, Arc::new(Metrics::new())).unwrap();
    outbox.append(1, &all[0].1).unwrap();
    for room in [1_700_000, 0, 4_000_000] {
        faults.room(Some(room));
        assert!(outbox.append(2, &all[1].1).unwrap_err().is_transient());
        outbox.sync().unwrap();
        assert_eq!(outbox.durable().epoch(), Some(1));
    }
    faults.room(None);
    append_all(&mut outbox, &all[1..]);
    outbox.sync().unwrap();
    pick(&dir, &outbox, None, &all);
    let mut tail = Tail::open(dir.path(), outbox.durable(), None).unwrap();
    for (epoch, outcomes) in &all {
        assert!(same(&tail.next().unwrap().unwrap(), *epoch, outcomes), "epoch {epoch}");
    }
}

#[test]
fn trimming_removes_what_every_sink_holds_and_no_more() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut rng = fastrand::Rng::with_seed(seed);
    for _ in 0..20 {
        let dir = Dir::new();
        let metrics = Arc::new(Metrics::new());
        let config = OutboxOptions { segment_bytes: 2_000, ..OutboxOptions::default() };
        let mut outbox = Outbox::open(dir.path(), config, metrics.clone()).unwrap();
        let mut tail = Tail::open(dir.path(), outbox.durable(), None).unwrap();
        let (mut epoch, mut held, mut trimmed) = (0, None, 0);
        for _ in 0..200 {
            epoch += rng.u64(1..50);
            let rows = if rng.u8(..) < 5 { RECORD_ROWS_MAX + 1 } else { rng.usize(..8) };
            outbox.append(epoch, &outcomes(&mut rng, rows, 0)).unwrap();
            if rng.bool() {
                outbox.sync().unwrap();
            }
            // The sink goes on a little, and what it holds is given.
            for _ in 0..rng.usize(..4) {
                let Some(batch) = tail.next().unwrap() else { break };
                assert!(Some(batch.epoch) > held, "seed {seed}");
                held = Some(batch.epoch);
            }
            if let Some(upto) = held {
                let before = outbox.bytes();
                let freed = outbox.trimmer().trim(upto).unwrap();
                assert_eq!(before - outbox.bytes(), freed, "seed {seed}");
                trimmed += freed;
                // Every epoch after it is there, for a sink that begins now as well.
                let mut other = Tail::open(dir.path(), outbox.durable(), Some(upto)).unwrap();
                if let Some(next) = other.next().unwrap() {
                    assert!(next.epoch > upto, "seed {seed}");
                }
            }
        }
        outbox.sync().unwrap();
        let text = metrics.text();
        let gauge = format!("tidewatch_log_bytes{{log=\"outbox\"}} {}\n", outbox.bytes());
        assert!(text.contains(&gauge), "seed {seed}: {gauge} in {text}");
        assert!(trimmed > 0, "seed {seed}");
        // Everything may go but what tells the last epoch.
        outbox.trimmer().trim(u64::MAX).unwrap();
        assert!(segments::list(dir.path()).unwrap().len() <= 2, "seed {seed}");
        drop(outbox);
        let mut outbox = Outbox::open(dir.path(), config, metrics).unwrap();
        assert_eq!(outbox.last_epoch(), Some(epoch), "seed {seed}");
        outbox.trimmer().trim(u64::MAX).unwrap();
        assert!(!outbox.append(epoch, &RowLists::default()).unwrap());
        assert!(outbox.append(epoch + 1, &RowLists::default()).unwrap());
    }
}

#[test]
fn a_segment_goes_with_the_last_epoch_in_it() {
    let dir = Dir::new();
    let mut outbox = open(&dir, 1);
    for epoch in [10, 20, 30, 40] {
        outbox.append(epoch, &RowLists::default()).unwrap();
        outbox.sync().unwrap();
    }
    let trimmer = outbox.trimmer();
    let left = || segments::list(dir.path()).unwrap().len();
    // The last segment is empty, so the one before it tells the last epoch.
    for (upto, want) in [(9, 5), (10, 4), (19, 4), (20, 3), (29, 3), (u64::MAX, 2), (u64::MAX, 2)] {
        trimmer.trim(upto).unwrap();
        assert_eq!(left(), want, "up to {upto}");
    }
    assert_eq!(segments::list(dir.path()).unwrap(), [3, 4]);
}

#[test]
fn a_full_disk_takes_the_same_epoch_later() {
    let dir = Dir::new();
    let faults: Arc<Faults> = Arc::default();
    let mut rng = fastrand::Rng::with_seed(8);
    let config = OutboxOptions { segment_bytes: 1 << 20, ..OutboxOptions::default() };
    let mut outbox = Outbox::open(faults.folder(dir.path()), config, Arc::new(Metrics::new())).unwrap();
    let mut all = Vec::new();
    for epoch in 1..40 {
        let outcomes = outcomes(&mut rng, if epoch % 7 == 0 { 2 * RECORD_ROWS_MAX } else { 20 }, 3);
        if epoch % 3 == 0 {
            for room in [0, 1, 100, 1_000_000] {
                faults.room(Some(room));
                if let Err(error) = outbox.append(epoch, &outcomes) {
                    assert!(error.is_transient(), "{error}");
                    assert_eq!(outbox.last_epoch(), Some(epoch - 1));
                } else {
                    break;
                }
            }
            // What was appended before can be shown meanwhile.
            outbox.sync().unwrap();
            assert!(outbox.durable().epoch() >= Some(epoch - 1));
        }
        faults.room(None);
        outbox.append(epoch, &outcomes).unwrap();
        if epoch % 5 == 0 {
            outbox.sync().unwrap();
        }
        all.push((epoch, outcomes));
    }
    outbox.sync().unwrap();
    let mut tail = Tail::open(dir.path(), outbox.durable(), None).unwrap();
    for (epoch, outcomes) in &all {
        assert!(same(&tail.next().unwrap().unwrap(), *epoch, outcomes), "epoch {epoch}");
    }
    assert_eq!(tail.next().unwrap(), None);
    // A failed sync is for good.
    outbox.append(40, &RowLists::default()).unwrap();
    faults.no_sync.store(true, std::sync::atomic::Ordering::SeqCst);
    assert!(!outbox.sync().unwrap_err().is_transient());
    faults.no_sync.store(false, std::sync::atomic::Ordering::SeqCst);
    assert!(!outbox.append(41, &RowLists::default()).unwrap_err().is_transient());
    drop(outbox);
    let outbox = open(&dir, 1 << 20);
    assert!(outbox.last_epoch() >= Some(39));
}

#[test]
fn an_outbox_that_ends_before_what_was_made_from_it_is_damaged() {
    let (dir, mut rng) = (Dir::new(), fastrand::Rng::with_seed(9));
    let mut outbox = open(&dir, 1 << 20);
    let all: Vec<(u64, Rows)> = (1..=5).map(|epoch| (10 * epoch, outcomes(&mut rng, 3, 0))).collect();
    let mut ends = Vec::new();
    for (epoch, outcomes) in &all {
        outbox.append(*epoch, outcomes).unwrap();
        outbox.sync().unwrap();
        ends.push(outbox.bytes());
    }
    drop(outbox);
    let path = dir.path().join(format!("{:020}.seg", 0));
    // A record that was cut short, and what had been synced behind it is gone.
    let mut bytes = std::fs::read(&path).unwrap();
    bytes.truncate(ends[1] as usize + 20);
    std::fs::write(&path, &bytes).unwrap();
    let with = |proof| {
        let config = OutboxOptions { segment_bytes: 1 << 20, proof, ..OutboxOptions::default() };
        Outbox::open(dir.path(), config, Arc::new(Metrics::new()))
    };
    for (snapshot, stored, what) in [
        (Some(30), None, "newest snapshot"),
        (Some(30), Some(21), "newest snapshot"),
        (None, Some(50), "store"),
    ] {
        let error = with(AcceptProof::new(snapshot, &[("store", stored)], false))
            .err()
            .expect("it is damaged")
            .to_string();
        let epoch = snapshot.or(stored).unwrap();
        let says = [
            format!("{} is damaged at offset {}", path.display(), ends[1]),
            "ends with epoch 20".to_owned(),
            format!("the {what} holds epoch {epoch}"),
        ];
        assert!(says.iter().all(|says| error.contains(says)), "{error}");
        assert_eq!(std::fs::read(&path).unwrap(), bytes, "nothing is cut off");
    }
    // What is accepted holds for the next start, too: nobody comes back to what is lost.
    let accepted = AcceptProof::new(Some(30), &[("store", Some(40)), ("other", None)], true);
    assert_eq!(with(accepted).unwrap().last_epoch(), Some(40));
    let mut outbox = with(AcceptProof { accept_loss: false, ..accepted }).unwrap();
    assert_eq!(outbox.last_epoch(), Some(40));
    assert!(!outbox.append(30, &all[2].1).unwrap());
    assert!(outbox.append(60, &all[4].1).unwrap());
    outbox.sync().unwrap();
    let mut tail = Tail::open(dir.path(), outbox.durable(), Some(40)).unwrap();
    assert!(same(&tail.next().unwrap().unwrap(), 60, &all[4].1));
    let mut tail = Tail::open(dir.path(), outbox.durable(), Some(10)).unwrap();
    let epochs: Vec<u64> = std::iter::from_fn(|| tail.next().unwrap().map(|batch| batch.epoch)).collect();
    assert_eq!(epochs, [20, 40, 60]);
    // One that is gone altogether.
    drop(outbox);
    std::fs::remove_file(&path).unwrap();
    let error =
        with(AcceptProof::new(None, &[("store", Some(60))], false)).err().expect("it is gone").to_string();
    assert!(error.contains("ends without an epoch"), "{error}");
    let behind = AcceptProof::new(Some(60), &[("store", Some(20))], true);
    assert_eq!(with(behind).unwrap().last_epoch(), Some(60));
}

/// Without anything that was made from it: the outbox itself says how far it was synced.
#[test]
fn damage_in_what_was_synced_is_named_and_passed_over_where_that_is_accepted() {
    // Records of one segment, and of several, of which the damaged one is the first or the last.
    for (segment_bytes, damaged) in [(1 << 20, 0), (9_000, 0), (9_000, 2)] {
        let (dir, mut rng) = (Dir::new(), fastrand::Rng::with_seed(12));
        let all: Vec<(u64, Rows)> = (1..=8).map(|epoch| (epoch, outcomes(&mut rng, 40, 0))).collect();
        let mut outbox = open(&dir, segment_bytes);
        for (epoch, outcomes) in &all {
            outbox.append(*epoch, outcomes).unwrap();
            outbox.sync().unwrap();
        }
        drop(outbox);
        let list = segments::list(dir.path()).unwrap();
        let (path, last) = (dir.path().join(format!("{:020}.seg", list[damaged])), damaged + 1 == list.len());
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[100] ^= 4;
        std::fs::write(&path, &bytes).unwrap();
        let with = |accept_loss| {
            let proof = AcceptProof { accept_loss, ..AcceptProof::default() };
            let config = OutboxOptions { segment_bytes, proof, ..OutboxOptions::default() };
            Outbox::open(dir.path(), config, Arc::new(Metrics::new()))
        };
        let opened = with(false).and_then(|outbox| {
            // What is no segment's end is read by a sink first.
            let mut tail = Tail::open(dir.path(), outbox.durable(), None)?;
            while tail.next()?.is_some() {}
            Ok(())
        });
        let error = opened.expect_err("it had been synced").to_string();
        let says = [&*path.display().to_string(), "is damaged at offset 32", "--accept-loss goes on without"];
        assert!(says.iter().all(|says| error.contains(says)), "{error}");
        assert!(!last || error.contains("had been synced"), "{error}");
        assert_eq!(std::fs::read(&path).unwrap(), bytes, "nothing is cut off");
        let mut outbox = with(true).unwrap();
        assert_eq!(outbox.last_epoch(), Some(8));
        outbox.append(9, &all[0].1).unwrap();
        outbox.sync().unwrap();
        let read = |from| {
            let mut tail = Tail::open_accepting(dir.path(), outbox.durable(), from, true).unwrap();
            std::iter::from_fn(move || tail.next().unwrap().map(|batch| batch.epoch)).collect::<Vec<_>>()
        };
        let epochs = read(None);
        assert_eq!(epochs.len(), 8, "one is lost: {epochs:?}");
        let behind: Vec<u64> = epochs.iter().copied().filter(|epoch| *epoch > 6).collect();
        assert_eq!(read(Some(6)), behind);
        outbox.trimmer().trim(9).unwrap();
    }
}

/// Of an epoch that lacks a part nothing is handed on.
#[test]
fn an_epoch_of_which_a_part_is_damaged_is_passed_over_as_a_whole() {
    let (dir, all) = (Dir::new(), around(13, 3 * RECORD_ROWS_MAX));
    let mut outbox = open(&dir, 1 << 30);
    append_all(&mut outbox, &all);
    outbox.sync().unwrap();
    let path = dir.path().join(format!("{:020}.seg", 0));
    let whole = std::fs::read(&path).unwrap();
    for part in 0..3 {
        let mut bytes = whole.clone();
        bytes[600 + part * 1_523_000 + 700_000] ^= 1;
        std::fs::write(&path, &bytes).unwrap();
        let mut tail = Tail::open_accepting(dir.path(), outbox.durable(), None, true).unwrap();
        assert!(same(&tail.next().unwrap().unwrap(), 1, &all[0].1));
        assert!(same(&tail.next().unwrap().unwrap(), 3, &all[2].1), "part {part}");
        assert_eq!(tail.next().unwrap(), None);
        let mut tail = Tail::open_accepting(dir.path(), outbox.durable(), None, true).unwrap();
        let (mut found, mut ended) = (Vec::new(), Vec::new());
        loop {
            match tail.pick(|_| true, &mut found).unwrap() {
                ReadStep::Nothing => break,
                ReadStep::Part => {}
                ReadStep::End(epoch) => ended.push((epoch, std::mem::take(&mut found).len())),
            }
        }
        assert_eq!(ended, [(1, 5), (3, 5)], "part {part}");
    }
}
