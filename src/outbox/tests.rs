//! What is put in comes out, once, in order, and only when it is durable.

use std::fs::OpenOptions;
use std::sync::Arc;
use std::time::Duration;

use tidewatch_dataflows::outcome::Outcomes;

use super::record::RECORD_ROWS_MAX;
use super::record::tests::{bits, outcomes};
use super::*;
use crate::segments::tests::Dir;

fn open(dir: &Dir, segment_bytes: u64) -> Outbox {
    let config = Config { segment_bytes, ..Config::default() };
    Outbox::open(dir.path(), config, Arc::new(Metrics::new())).unwrap()
}

fn same(batch: &Batch, epoch: u64, outcomes: &Outcomes) -> bool {
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
    let all: Vec<(u64, Outcomes)> =
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
    }
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
    outbox.append(1, &Outcomes::default()).unwrap();
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
        outbox.append(epoch, &Outcomes::default()).unwrap();
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
    for cut in [1, 170, 200, 1_500_000, whole - held] {
        OpenOptions::new().write(true).open(&path).unwrap().set_len(whole - cut).unwrap();
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
    let config = Config { segment_bytes: 1 << 20, bytes_max: 100 };
    let mut outbox = Outbox::open(dir.path(), config, Arc::new(Metrics::new())).unwrap();
    assert!(!outbox.full());
    for epoch in 1..=3 {
        outbox.append(epoch, &Outcomes::default()).unwrap();
    }
    outbox.sync().unwrap();
    assert!(outbox.full());
}
