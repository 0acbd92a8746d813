//! Identities are kept, durable before use, bounded, and forgotten only when nobody used them.

use std::fs;

use super::*;
use crate::segments::tests::Dir;

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
    labels.stripe(hash).write().unwrap().insert(hash, squatter);
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
    for length in whole as usize..bytes.len() {
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
