//! Identities are kept, durable before use, bounded, and forgotten only when nobody used them.

use std::fs;

use super::*;
use crate::segments::tests::Dir;

/// Bytes of the record that says how far the log was synced.
const MARK_BYTES: u64 = 9 + 16;

fn open(dir: &Dir, limits: Limits) -> Labels {
    Labels::open(dir.path(), limits, Arc::new(Metrics::new())).unwrap()
}

fn name(name: &str) -> Vec<(&str, &str)> {
    vec![("job", "x"), ("__name__", name)]
}

#[test]
fn a_series_is_found_by_every_spelling_it_came_in() {
    let dir = Dir::new();
    let labels = open(&dir, Limits::default());
    assert_eq!(labels.find(b"up{job=x}", 1), None);
    let id = labels.intern(&mut name("up"), Some(b"up{job=x}"), 1).unwrap();
    assert_eq!(id, series_id(&[("__name__", "up"), ("job", "x")]));
    let mut other_order = vec![("__name__", "up"), ("gone", ""), ("job", "x")];
    assert_eq!(labels.intern(&mut other_order, Some(b"{job=x}up"), 1), Ok(id));
    assert_eq!((labels.find(b"up{job=x}", 1), labels.find(b"{job=x}up", 1)), (Some(id), Some(id)));
    assert_eq!(labels.find(b"up{job=y}", 1), None);
    assert_eq!(labels.len(), 1);
    let held = labels.get(id).unwrap();
    assert!(held.iter().eq([("__name__", "up"), ("job", "x")]));
    // Spellings are bounded; a series whose sender changes them all the time is still known.
    for i in 0..100_u8 {
        assert_eq!(labels.intern(&mut name("up"), Some(&[i]), 1), Ok(id));
    }
    assert_eq!((0..100_u8).filter(|i| labels.find(&[*i], 1).is_some()).count(), SPELLINGS_MAX - 2);
    let long = vec![b'x'; 10_000];
    labels.intern(&mut name("down"), Some(&long), 1).unwrap();
    assert_eq!(labels.find(&long, 1), None, "a spelling far longer than the labels is not kept");
}

#[test]
fn find_compares_bytes() {
    let dir = Dir::new();
    let labels = open(&dir, Limits::default());
    let up = labels.intern(&mut name("up"), Some(b"up"), 1).unwrap();
    // As if the bytes "down" had the hash of "up": another spelling sits where they would be looked for.
    let hash = xxh3_64(b"down");
    let squatter = Spelling::new(b"up", up, 0, 0);
    labels.stripe(hash).write().insert(hash, squatter);
    assert_eq!(labels.find(b"down", 1), None);
    let down = labels.intern(&mut name("down"), Some(b"down"), 1).unwrap();
    assert_ne!(down, up);
    assert_eq!((labels.find(b"down", 1), labels.find(b"up", 1)), (None, Some(up)));
}

#[test]
fn other_labels_with_the_same_identity_are_refused() {
    let dir = Dir::new();
    let labels = open(&dir, Limits::default());
    let id = labels.intern(&mut name("up"), None, 1).unwrap();
    let other = [("__name__", "down"), ("job", "x")];
    let refused = labels.intern_as(id, &other, Some(b"down"), 1).unwrap_err();
    assert_eq!(refused.reason(), "id_collision");
    let text = refused.to_string();
    assert!(
        text.contains("up{job=\"x\"}") && text.contains("down{job=\"x\"}") && text.contains(&id.to_string()),
        "{text}"
    );
    assert_eq!((labels.find(b"down", 1), labels.len()), (None, 1));
}

#[test]
fn limits_hold_and_are_counted() {
    let dir = Dir::new();
    let metrics = Arc::new(Metrics::new());
    let limits = Limits { series: 3, series_per_name: 2, labels: 3, label_bytes: 30 };
    let labels = Labels::open(dir.path(), limits, metrics.clone()).unwrap();
    let intern = |pairs: &[(&str, &str)]| labels.intern(&mut pairs.to_vec(), None, 5).map_err(|e| e.reason());
    assert_eq!(intern(&[("job", "x")]), Err("missing_name"));
    assert_eq!(intern(&[("__name__", "up"), ("", "x")]), Err("empty_label_name"));
    assert_eq!(intern(&[("__name__", "up"), ("a", "1"), ("a", "1")]), Err("duplicate_label"));
    assert_eq!(intern(&[("__name__", "up"), ("a", "1"), ("b", "1"), ("c", "1")]), Err("too_many_labels"));
    assert_eq!(intern(&[("__name__", "up"), ("a", &"y".repeat(20))]), Err("labels_too_long"));
    intern(&[("__name__", "up"), ("a", "1")]).unwrap();
    let second = intern(&[("__name__", "up"), ("a", "2")]).unwrap();
    assert_eq!(intern(&[("__name__", "up"), ("a", "3")]), Err("series_per_name_limit"));
    intern(&[("__name__", "down")]).unwrap();
    assert_eq!(intern(&[("__name__", "other")]), Err("series_limit"));
    assert_eq!(intern(&[("__name__", "up"), ("a", "2")]), Ok(second), "a known series is no new one");
    // Room comes back with released series, for the name as well.
    labels.release(&[second], 6);
    intern(&[("__name__", "up"), ("a", "3")]).unwrap();
    assert_eq!(intern(&[("__name__", "other")]), Err("series_limit"));
    let text = metrics.text();
    for line in [
        "limits.labels\"} 1",
        "limits.label_bytes\"} 1",
        "limits.series_per_name\"} 1",
        "limits.series\"} 2",
        "tidewatch_label_entries 3",
    ] {
        assert!(text.contains(line), "{line} in {text}");
    }
}

#[test]
fn only_series_not_used_since_are_released() {
    let dir = Dir::new();
    let labels = open(&dir, Limits::default());
    let empty = labels.bytes();
    let id = labels.intern(&mut name("up"), Some(b"up"), 10).unwrap();
    let held = labels.bytes();
    labels.release(&[id], 10);
    assert_eq!(labels.find(b"up", 20), Some(id), "registered in the epoch that freed it");
    labels.release(&[id], 20);
    assert!(
        labels.find(b"up", 3).is_some(),
        "found in the epoch that freed it; an older use does not undo that"
    );
    labels.release(&[id], 20);
    assert_eq!(labels.len(), 1);
    labels.intern(&mut name("up"), None, 30).unwrap();
    labels.release(&[id, SeriesId(1)], 30);
    assert_eq!((labels.len(), labels.bytes()), (1, held), "interned again in the epoch that freed it");
    labels.release(&[id], 31);
    assert_eq!((labels.len(), labels.find(b"up", 40), labels.bytes()), (0, None, empty));
    assert_eq!(labels.get(id).unwrap().name(), "up", "sinks that lag still get its labels");
    assert_eq!(labels.intern(&mut name("up"), Some(b"up"), 50), Ok(id));
    assert_eq!((labels.find(b"up", 50), labels.bytes()), (Some(id), held));
}

#[test]
fn the_series_log_brings_series_back_with_their_epochs() {
    let dir = Dir::new();
    let labels = open(&dir, Limits::default());
    let up = labels.intern(&mut name("up"), Some(b"up"), 10).unwrap();
    labels.sync().unwrap();
    let bytes = labels.log_bytes();
    labels.sync().unwrap();
    assert_eq!(labels.log_bytes(), bytes, "nothing was pending");
    let down = labels.intern(&mut name("down"), None, 11).unwrap();
    assert_eq!(labels.find_in_log(down).unwrap(), None, "not synced yet");
    drop(labels);

    let labels = open(&dir, Limits::default());
    assert_eq!((labels.len(), labels.get(down), labels.find(b"up", 12)), (1, None, None));
    assert!(labels.get(up).unwrap().same(&[("__name__", "up"), ("job", "x")]));
    labels.intern(&mut name("down"), None, 12).unwrap();
    // Released and back: the log has it twice, and the newer registration counts.
    labels.release(&[up], 20);
    assert_eq!(labels.intern(&mut name("up"), None, 30), Ok(up));
    labels.sync().unwrap();
    drop(labels);

    let labels = open(&dir, Limits { series: 1, ..Limits::default() });
    assert_eq!(labels.len(), 2, "what the journal refers to is loaded whatever the limit");
    labels.release(&[up, down], 20);
    assert_eq!((labels.len(), labels.get(up).is_some()), (1, true));
    assert_eq!(labels.find_in_log(down).unwrap().unwrap().name(), "down");
    let many = labels.find_many_in_log(&[up, down, SeriesId(3)]).unwrap();
    assert_eq!((many.len(), many[&up].name(), many[&down].name()), (2, "up", "down"));
}

#[test]
fn a_torn_series_log_loses_only_what_was_not_synced() {
    let dir = Dir::new();
    let labels = open(&dir, Limits::default());
    labels.intern(&mut name("up"), None, 1).unwrap();
    labels.sync().unwrap();
    let whole = labels.log_bytes();
    labels.intern(&mut name("down"), None, 1).unwrap();
    labels.sync().unwrap();
    drop(labels);
    let path = dir.path().join(format!("{:020}.seg", 0));
    let bytes = fs::read(&path).unwrap();
    for length in whole as usize..bytes.len() - MARK_BYTES as usize {
        fs::write(&path, &bytes[..length]).unwrap();
        let labels = open(&dir, Limits::default());
        assert_eq!((labels.len(), labels.log_bytes()), (1, whole), "cut at {length}");
    }
}

#[test]
fn threads_agree_on_identities() {
    let dir = Dir::new();
    let labels = Arc::new(open(&dir, Limits::default()));
    let names: Vec<String> = (0..500).map(|i| format!("metric_{i}")).collect();
    let run = |seed: u64| {
        let (labels, mut names) = (labels.clone(), names.clone());
        std::thread::spawn(move || {
            let mut rng = fastrand::Rng::with_seed(seed);
            rng.shuffle(&mut names);
            for text in &names {
                let id = series_id(&[("__name__", text), ("job", "x")]);
                let found = labels.find(text.as_bytes(), 1);
                assert!(found.is_none() || found == Some(id));
                assert_eq!(labels.intern(&mut name(text), Some(text.as_bytes()), 1), Ok(id));
                if rng.u8(..) < 16 {
                    labels.sync().unwrap();
                }
            }
        })
    };
    let threads: Vec<_> = (0..4).map(run).collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    labels.sync().unwrap();
    assert_eq!(labels.len(), 500);
    assert_eq!(open(&dir, Limits::default()).len(), 500);
}

/// A label set of a known size with a number.
fn numbered(n: u64) -> [(String, String); 2] {
    [("__name__".to_owned(), "churn".to_owned()), ("n".to_owned(), format!("{n:08}"))]
}

fn intern_numbered(labels: &Labels, n: u64, epoch: u64) -> SeriesId {
    let held = numbered(n);
    let mut pairs: Vec<(&str, &str)> = held.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
    labels.intern(&mut pairs, Some(format!("churn{n}").as_bytes()), epoch).unwrap()
}

fn segmented(dir: &Dir) -> Labels {
    Labels::open_with_segments(dir.path(), Limits::default(), 4_096, Arc::new(Metrics::new())).unwrap()
}

#[test]
fn the_series_log_holds_what_is_needed_and_not_much_more() {
    let dir = Dir::new();
    let labels = segmented(&dir);
    let stays: Vec<_> = (0..20).map(|n| intern_numbered(&labels, n, 1)).collect();
    let (mut next, mut longest, mut removed) = (1_000, 0, 0);
    for epoch in 2..80 {
        let ids: Vec<_> = (0..1_000)
            .map(|_| {
                next += 1;
                intern_numbered(&labels, next, epoch)
            })
            .collect();
        labels.sync().unwrap();
        labels.release(&ids, epoch + 1);
        loop {
            let done = labels.compact(|| Ok(())).unwrap();
            removed += done.removed_bytes;
            if done.removed_bytes == 0 {
                break;
            }
        }
        longest = longest.max(labels.log_bytes());
        assert!(labels.log_bytes() <= 2 * labels.log_bytes_needed() + 4_096, "epoch {epoch}");
    }
    // Some 80,000 names went through; 20 are known and 16,384 remembered.
    assert_eq!(labels.len(), 20);
    assert!(longest < 3 << 20 && removed > 1 << 20, "{longest} bytes at most, {removed} removed");
    drop(labels);
    let labels = segmented(&dir);
    assert!(stays.iter().all(|id| labels.get(*id).is_some_and(|held| held.name() == "churn")));
    assert!(labels.len() < 40_000, "{}", labels.len());
    // What is not needed after a restart either goes as well, and nobody is copied twice.
    let gone: Vec<_> = labels.unused_since(u64::MAX).into_iter().map(SeriesId).collect();
    let gone: Vec<_> = gone.into_iter().filter(|id| !stays.contains(id)).collect();
    labels.release(&gone, 1_000);
    while labels.compact(|| Ok(())).unwrap().removed_bytes > 0 {}
    assert_eq!(labels.len(), 20);
    assert!(stays.iter().all(|id| labels.find_in_log(*id).unwrap().is_some()));
}

#[test]
fn a_series_log_counts_the_bytes_it_needs() {
    let dir = Dir::new();
    let labels = segmented(&dir);
    let ids: Vec<_> = (0..50).map(|n| intern_numbered(&labels, n, 1)).collect();
    labels.sync().unwrap();
    // Beside the records: the header, and a word on how far they are synced.
    let empty = 32 + MARK_BYTES;
    assert_eq!(labels.log_bytes() - empty, labels.log_bytes_needed());
    // Those released stay needed for a while, and once only when they come back.
    labels.release(&ids[..10], 5);
    assert_eq!(labels.log_bytes() - empty, labels.log_bytes_needed());
    (0..10).for_each(|n| assert_eq!(intern_numbered(&labels, n, 6), ids[n as usize]));
    assert_eq!(labels.log_bytes() - empty, labels.log_bytes_needed());
}

/// Copies the folder as it is, as a kill would leave it.
fn copy(from: &Dir) -> Dir {
    let to = Dir::new();
    fs::create_dir_all(to.path()).unwrap();
    for file in fs::read_dir(from.path()).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), to.path().join(file.file_name())).unwrap();
    }
    to
}

#[test]
fn no_kill_while_compacting_loses_a_series_that_is_needed() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut rng = fastrand::Rng::with_seed(seed);
    let dir = Dir::new();
    let labels = segmented(&dir);
    let mut known: std::collections::BTreeMap<u64, SeriesId> = Default::default();
    for epoch in 1..300_u64 {
        for _ in 0..20 {
            let n = rng.u64(..400);
            known.insert(n, intern_numbered(&labels, n, epoch));
        }
        labels.sync().unwrap();
        let freed: Vec<u64> = known.keys().copied().filter(|_| rng.u8(..) < 25).collect();
        let ids: Vec<_> = freed.iter().map(|n| known[n]).collect();
        labels.release(&ids, epoch + 1);
        known.retain(|n, _| !freed.contains(n));
        // The steps of compacting, with a kill after each.
        let needed = labels.log_bytes_needed();
        let Some((oldest, next)) = labels.log.lock().too_long(needed) else { continue };
        labels.copy_from(oldest).unwrap();
        let copied = copy(&dir);
        // A kill in the middle of the copies.
        let torn = copy(&dir);
        let last = fs::read_dir(torn.path()).unwrap().map(|file| file.unwrap().path()).max().unwrap();
        let length = fs::metadata(&last).unwrap().len();
        let file = fs::OpenOptions::new().write(true).open(&last).unwrap();
        let durable = length.min(32 + rng.u64(..=length.saturating_sub(32)));
        file.set_len(if length > 4_000 { length } else { durable }).unwrap();
        labels.log.lock().trimmer().remove_before(next).unwrap();
        for (what, killed) in [("copied", &copied), ("removed", &copy(&dir))] {
            let after = segmented(killed);
            for (n, id) in &known {
                let held = after.get(*id).unwrap_or_else(|| panic!("seed {seed}: {n} is gone when {what}"));
                assert_eq!(held.get("n"), Some(format!("{n:08}").as_str()));
            }
        }
        drop(segmented(&torn));
    }
}

#[test]
fn a_series_used_since_it_was_freed_is_registered_anew() {
    let dir = Dir::new();
    let labels = segmented(&dir);
    let id = intern_numbered(&labels, 1, 5);
    labels.sync().unwrap();
    // Found again, so only its spelling knows of the use.
    assert_eq!(labels.find(b"churn1", 50), Some(id));
    assert_eq!(labels.release(&[id], 20), 0);
    labels.sync().unwrap();
    drop(labels);
    // The next start computes the freeing again.
    let labels = segmented(&dir);
    let bytes = labels.log_bytes();
    assert_eq!((labels.release(&[id], 20), labels.len()), (0, 1));
    labels.sync().unwrap();
    assert_eq!(labels.log_bytes(), bytes, "registered once");
    assert_eq!(labels.release(&[id], 51), 1);
}

#[test]
fn a_series_is_either_found_and_kept_or_released() {
    let dir = Dir::new();
    let labels = Arc::new(segmented(&dir));
    for round in 0..200_u64 {
        let id = intern_numbered(&labels, round, 10);
        let other = labels.clone();
        let finder = std::thread::spawn(move || other.find(format!("churn{round}").as_bytes(), 20));
        let released = labels.release(&[id], 20);
        let found = finder.join().unwrap();
        assert_eq!((found.is_some(), labels.knows(id)), (released == 0, released == 0), "round {round}");
    }
}

#[test]
fn whoever_makes_room_is_asked_before_a_series_is_refused() {
    let dir = Dir::new();
    let limits = Limits { series: 2, ..Limits::default() };
    let metrics = Arc::new(Metrics::new());
    let labels = Arc::new(Labels::open(dir.path(), limits, metrics.clone()).unwrap());
    let ids: Vec<_> = (0..2).map(|n| intern_numbered(&labels, n, 1)).collect();
    let (weak, first) = (Arc::downgrade(&labels), ids[0]);
    labels.when_full(Box::new(move || weak.upgrade().is_some_and(|labels| labels.release(&[first], 9) > 0)));
    intern_numbered(&labels, 2, 2);
    assert!(!labels.knows(first));
    let refused = labels.intern(&mut vec![("__name__", "more")], None, 2).unwrap_err();
    assert_eq!(refused.reason(), "series_limit");
    assert!(metrics.text().contains("limits.series\"} 1"), "asked once in vain, counted once");
}

#[test]
fn a_full_disk_keeps_series_for_the_next_sync() {
    let dir = Dir::new();
    let faults: Arc<crate::disk::testing::Faults> = Arc::default();
    let labels =
        Labels::open(faults.folder(dir.path()), Limits::default(), Arc::new(Metrics::new())).unwrap();
    intern_numbered(&labels, 0, 1);
    labels.sync().unwrap();
    for room in [0, 1, 50, 90] {
        intern_numbered(&labels, room + 1, 2);
        faults.room(Some(room));
        assert!(labels.sync().is_err());
    }
    faults.room(None);
    intern_numbered(&labels, 7_000, 3);
    labels.sync().unwrap();
    let bytes = labels.log_bytes();
    labels.sync().unwrap();
    assert_eq!(labels.log_bytes(), bytes, "nothing is written twice");
    drop(labels);
    assert_eq!(open(&dir, Limits::default()).len(), 6);
}

/// The first commit may be the only one for days: what flips in it is no torn tail.
#[test]
fn damage_in_the_series_log_is_named_and_what_is_sent_again_is_known_at_once() {
    let dir = Dir::new();
    let labels = open(&dir, Limits::default());
    let ids: Vec<_> = (0..20).map(|n| intern_numbered(&labels, n, 1)).collect();
    labels.sync().unwrap();
    drop(labels);
    let path = dir.path().join(format!("{:020}.seg", 0));
    let whole = fs::read(&path).unwrap();
    let mark = MARK_BYTES as usize;
    let accepting = || Labels::open_accepting_loss(dir.path(), Limits::default(), Arc::new(Metrics::new()));
    for at in (0..whole.len() - mark).step_by(7) {
        let mut changed = whole.clone();
        changed[at] ^= 4;
        fs::write(&path, &changed).unwrap();
        let error = Labels::open(dir.path(), Limits::default(), Arc::new(Metrics::new()));
        let error = error.err().unwrap_or_else(|| panic!("byte {at} is not noticed")).to_string();
        let says = [&*path.display().to_string(), "is damaged at offset", "--accept-loss"];
        assert!(says.iter().all(|says| error.contains(says)), "byte {at}: {error}");
        assert_eq!(fs::read(&path).unwrap(), changed, "nothing is cut off");
        let labels = accepting().unwrap();
        // A header says nothing that its file's name does not.
        let lost: Vec<_> = (0..20).filter(|n| labels.get(ids[*n as usize]).is_none()).collect();
        assert_eq!(lost.len(), usize::from(at >= 32), "byte {at}: {lost:?}");
        if let [n] = lost[..] {
            assert!(labels.find_in_log(ids[n as usize]).unwrap().is_none());
            assert_eq!(intern_numbered(&labels, n, 2), ids[n as usize]);
            labels.sync().unwrap();
            assert!(labels.find_in_log(ids[n as usize]).unwrap().is_some());
        }
        drop(labels);
        // As long as what is damaged is there a start says so.
        assert_eq!(accepting().unwrap().len(), 20);
        assert_eq!(Labels::open(dir.path(), Limits::default(), Arc::new(Metrics::new())).is_ok(), at < 32);
    }
    // The mark itself proves nothing of itself, and is cut off.
    fs::write(&path, &whole[..whole.len() - 3]).unwrap();
    assert_eq!(open(&dir, Limits::default()).len(), 20);
}

#[test]
fn series_come_in_while_the_known_ones_are_judged() {
    let dir = Dir::new();
    let labels = open(&dir, Limits::default());
    labels.intern(&mut name("up"), None, 1).unwrap();
    let judged = labels.list(
        |set| {
            // As a push does, on another thread: it would wait for ever if the list held what it needs.
            let new = || labels.intern(&mut name("down"), None, 1).is_ok();
            std::thread::scope(|scope| {
                scope.spawn(new).join().unwrap().then_some(set.name() == "up").ok_or(())
            })
        },
        None,
        10,
    );
    assert_eq!((judged.unwrap().len(), labels.len()), (1, 2));
    assert_eq!(labels.list(|_| Err("not any more"), None, 10).unwrap_err(), "not any more");
}
