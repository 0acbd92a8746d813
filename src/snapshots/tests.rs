//! Snapshots: damage, versions, disks that fail, and behind what logs may be trimmed.

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering::SeqCst;

use tidewatch_dataflows::sample::SHARDS;

use super::*;
use crate::disk::testing::Faults;

/// A folder of its own that goes away.
struct Temporary(tempfile::TempDir);

impl Temporary {
    fn new() -> Temporary {
        Temporary(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn files(&self, suffix: &str) -> Vec<PathBuf> {
        let mut files: Vec<PathBuf> =
            std::fs::read_dir(self.path()).unwrap().map(|f| f.unwrap().path()).collect();
        files.retain(|file| file.to_string_lossy().ends_with(suffix));
        files.sort();
        files
    }
}

fn open(folder: impl Into<DiskFolder>) -> Snapshots {
    Snapshots::open(folder, Duration::from_secs(300), Arc::new(Metrics::new())).unwrap()
}

fn saved(shard: usize, chain: usize, whole: bool, epoch: u64) -> ShardSnapshot {
    ShardSnapshot {
        save: SaveRequest { shard, chain, whole },
        end: EpochEnd { epoch, processing_ms: 7, watermark_ms: 6, last_of_input: false },
        settings: Settings::default(),
        state: format!("state {epoch}").into_bytes(),
        sealed: vec![epoch as u8; 40],
    }
}

/// What a shard would begin with: epoch, state, sealed.
fn loaded(snapshots: &Snapshots, shard: usize) -> Option<(u64, Vec<u8>, Vec<Vec<u8>>)> {
    snapshots.load(shard).unwrap().map(|loaded| {
        let held = loaded.stored();
        assert_eq!((held.end.processing_ms, held.end.watermark_ms), (7, 6));
        (held.end.epoch, held.state.to_vec(), held.sealed.into_iter().map(<[u8]>::to_vec).collect())
    })
}

fn want(epoch: u64, sealed: &[u64]) -> Option<(u64, Vec<u8>, Vec<Vec<u8>>)> {
    let sealed = sealed.iter().map(|epoch| vec![*epoch as u8; 40]).collect();
    Some((epoch, format!("state {epoch}").into_bytes(), sealed))
}

/// Two chains of shard 9: the first with the saves 1, 3 and 5, the second with 2 and 4.
fn two_chains(folder: &Path) {
    let snapshots = open(folder);
    for epoch in 1..=5_u64 {
        snapshots.take(vec![saved(9, (epoch as usize + 1) % 2, epoch < 3, epoch)]);
    }
}

#[test]
fn what_was_taken_is_there_after_a_start_and_nothing_else() {
    let folder = Temporary::new();
    two_chains(folder.path());
    let snapshots = open(folder.path());
    assert_eq!(loaded(&snapshots, 9), want(5, &[1, 3, 5]));
    assert_eq!(loaded(&snapshots, 8), None);
    assert_eq!(snapshots.trim_epoch(), None, "other shards have none");
    assert_eq!(folder.files(".state").len(), 2);
    assert_eq!(folder.files(".sealed").len(), 2);
    let on_disk: u64 = folder.files("").iter().map(|f| f.metadata().unwrap().len()).sum();
    let manifest = folder.path().join(MANIFEST).metadata().unwrap().len();
    assert_eq!(snapshots.bytes(), on_disk - manifest);
    // A chain that begins anew has its own sealed only.
    snapshots.take(vec![saved(9, 0, true, 6)]);
    drop(snapshots);
    assert_eq!(loaded(&open(folder.path()), 9), want(6, &[6]));
    assert_eq!(folder.files(".sealed").len(), 2);
}

#[test]
fn every_damaged_byte_is_noticed_and_the_snapshot_before_is_used() {
    let folder = Temporary::new();
    two_chains(folder.path());
    let newest = folder.files(".state").into_iter().find(|f| f.to_string_lossy().contains("a-")).unwrap();
    let sealed = folder.files(".sealed").into_iter().find(|f| f.to_string_lossy().contains("a-")).unwrap();
    for file in [newest, sealed] {
        let good = std::fs::read(&file).unwrap();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1 << (at % 8);
            std::fs::write(&file, &bad).unwrap();
            match open(folder.path()).load(9) {
                Ok(Some(loaded)) => assert_eq!(loaded.stored().end.epoch, 4, "{} at {at}", file.display()),
                Ok(None) => panic!("{} at {at}: the other chain is good", file.display()),
                Err(other) => panic!("{} at {at}: {other}", file.display()),
            }
        }
        for length in 0..good.len() {
            std::fs::write(&file, &good[..length]).unwrap();
            assert_eq!(loaded(&open(folder.path()), 9), want(4, &[2, 4]), "the first {length} bytes");
        }
        std::fs::write(&file, &good).unwrap();
    }
    let metrics = Arc::new(Metrics::new());
    let snapshots = Snapshots::open(folder.path(), Duration::from_secs(1), Arc::clone(&metrics)).unwrap();
    assert_eq!(loaded(&snapshots, 9), want(5, &[1, 3, 5]));
    assert_eq!(metrics.snapshots_damaged.get(), 0);
    let files = folder.files("");
    files.iter().filter(|f| !f.ends_with(MANIFEST)).for_each(|f| std::fs::write(f, "x").unwrap());
    assert_eq!(loaded(&snapshots, 9), None);
    assert_eq!(metrics.snapshots_damaged.get(), 2);
}

#[test]
fn a_manifest_that_is_damaged_or_gone_is_made_again() {
    let folder = Temporary::new();
    two_chains(folder.path());
    let path = folder.path().join(MANIFEST);
    let good = std::fs::read(&path).unwrap();
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 0x10;
        std::fs::write(&path, &bad).unwrap();
        assert_eq!(loaded(&open(folder.path()), 9), want(5, &[1, 3, 5]), "byte {at}");
    }
    std::fs::remove_file(&path).unwrap();
    let snapshots = open(folder.path());
    assert_eq!(loaded(&snapshots, 9), want(5, &[1, 3, 5]));
    snapshots.begin(9, [Some(5), Some(4)]);
    snapshots.take(vec![saved(9, 1, false, 6)]);
    drop(snapshots);
    assert_eq!(loaded(&open(folder.path()), 9), want(6, &[2, 4, 6]));
}

#[test]
fn another_version_is_an_error_that_says_so() {
    let folder = Temporary::new();
    two_chains(folder.path());
    for file in folder.files("") {
        let good = std::fs::read(&file).unwrap();
        let mut newer = good.clone();
        newer[8] = 9;
        // The header of sealed is followed by blocks with checksums of their own.
        let sealed = file.to_string_lossy().ends_with(".sealed");
        let end = if sealed { format::SEALED_HEADER as usize } else { newer.len() };
        let crc = crc32fast::hash(&[&newer[8..12], &newer[16..end]].concat());
        newer[12..16].copy_from_slice(&crc.to_le_bytes());
        std::fs::write(&file, &newer).unwrap();
        let opened = Snapshots::open(folder.path(), Duration::from_secs(1), Arc::new(Metrics::new()));
        let error = opened.and_then(|snapshots| snapshots.load(9).map(|_| ())).map_err(|e| e.to_string());
        match error {
            // What to do as well: this may be met after an update.
            Err(text) => assert!(
                text.contains("has version 9 of the snapshot format; this program reads version 4. Start the program that wrote it, or move the folder away: "),
                "{text}"
            ),
            // The chain that is not asked for.
            Ok(()) => assert!(file.to_string_lossy().contains("b-"), "{}", file.display()),
        }
        std::fs::write(&file, &good).unwrap();
    }
}

/// Snapshots on a disk that can be told to fail.
fn open_on_faults(folder: &Path) -> (Arc<Faults>, Arc<Metrics>, Snapshots) {
    let (faults, metrics) = (Arc::new(Faults::default()), Arc::new(Metrics::new()));
    let every = Duration::from_secs(256);
    let snapshots = Snapshots::open(faults.folder(folder), every, Arc::clone(&metrics)).unwrap();
    (faults, metrics, snapshots)
}

/// Until so many saves are made or have failed.
fn wait(metrics: &Metrics, n: u64) {
    while metrics.snapshots.get() + metrics.snapshot_failures.get() < n {
        std::thread::yield_now();
    }
}

#[test]
fn what_fails_leaves_what_was_and_the_chain_begins_anew() {
    let folder = Temporary::new();
    let (faults, metrics, snapshots) = open_on_faults(folder.path());
    let wait = |n| wait(&metrics, n);
    snapshots.take(vec![saved(0, 0, true, 1), saved(0, 1, true, 2)]);
    wait(2);
    for (n, fail) in [true, false].into_iter().enumerate() {
        faults.room(fail.then_some(30));
        faults.no_sync.store(!fail, SeqCst);
        snapshots.take(vec![saved(0, 0, false, 3 + n as u64)]);
        wait(3 + n as u64);
        faults.room(None);
        faults.no_sync.store(false, SeqCst);
        assert_eq!(loaded(&snapshots, 0), want(2, &[2]));
        assert_eq!(loaded(&open(folder.path()), 0), want(2, &[2]));
    }
    assert_eq!((metrics.snapshots.get(), metrics.snapshot_failures.get()), (2, 2));
    let mut table = snapshots.table();
    let now = Instant::now();
    table.next(99, now);
    let next = table.next(99, now + Duration::from_secs(2)).unwrap();
    assert_eq!(next, SaveRequest { shard: 0, chain: 0, whole: true });
    drop(table);
    snapshots.take(vec![saved(0, 0, true, 6)]);
    wait(5);
    assert_eq!(loaded(&open(folder.path()), 0), want(6, &[6]));
}

#[test]
fn logs_may_be_trimmed_behind_the_older_snapshot_of_every_shard() {
    let folder = Temporary::new();
    let snapshots = open(folder.path());
    snapshots.take((0..SHARDS).map(|shard| saved(shard, 0, true, 10 + shard as u64)).collect());
    snapshots.take((1..SHARDS).map(|shard| saved(shard, 1, true, 500)).collect());
    drop(snapshots);
    assert_eq!(open(folder.path()).trim_epoch(), None);
    let snapshots = open(folder.path());
    snapshots.take(vec![saved(0, 1, true, 400)]);
    drop(snapshots);
    assert_eq!(open(folder.path()).trim_epoch(), Some(10));
}

#[test]
fn a_full_disk_is_not_filled_further_by_what_fails() {
    let folder = Temporary::new();
    let (faults, metrics, snapshots) = open_on_faults(folder.path());
    let wait = |n| wait(&metrics, n);
    snapshots.take(vec![saved(0, 0, true, 1), saved(0, 1, true, 2)]);
    wait(2);
    let before = folder.files("");
    for n in 0..60 {
        // Too little for sealed, for a state, for the manifest.
        faults.room(Some(10 + 40 * n));
        snapshots.take(vec![saved(0, 0, true, 3 + n)]);
        wait(3 + n);
        faults.room(None);
        if metrics.snapshots.get() > 2 {
            assert!(n > 5, "there was too little room for anything");
            return;
        }
        assert_eq!(folder.files(""), before, "with {} bytes of room", 10 + 40 * n);
        assert_eq!(loaded(&open(folder.path()), 0), want(2, &[2]));
    }
    panic!("there was never enough room");
}

#[test]
fn a_save_that_a_later_one_has_overtaken_is_not_appended_to_it() {
    let folder = Temporary::new();
    let snapshots = open(folder.path());
    snapshots.take(vec![saved(0, 0, true, 150)]);
    snapshots.take(vec![saved(0, 0, false, 60)]);
    snapshots.take(vec![saved(0, 0, true, 150)]);
    drop(snapshots);
    assert_eq!(loaded(&open(folder.path()), 0), want(150, &[150]));
}

#[test]
fn without_a_manifest_the_newest_state_that_has_its_panes_is_taken() {
    let folder = Temporary::new();
    let snapshots = open(folder.path());
    snapshots.take(vec![saved(0, 0, true, 1)]);
    drop(snapshots);
    let of_it = folder.files("").into_iter().filter(|file| !file.ends_with("manifest"));
    let older: Vec<_> = of_it.map(|file| (std::fs::read(&file).unwrap(), file)).collect();
    let snapshots = open(folder.path());
    snapshots.take(vec![saved(0, 0, true, 5)]);
    drop(snapshots);
    older.iter().for_each(|(content, file)| std::fs::write(file, content).unwrap());
    for file in folder.files("").iter().map(|file| file.to_string_lossy().into_owned()) {
        if file.ends_with("manifest") || file.ends_with("5.sealed") {
            std::fs::remove_file(file).unwrap();
        }
    }
    assert_eq!(loaded(&open(folder.path()), 0), want(1, &[1]));
}

#[test]
fn the_shard_that_has_waited_longest_comes_first() {
    let folder = Temporary::new();
    let snapshots = open(folder.path());
    for chain in 0..2 {
        snapshots.take((0..128).map(|shard| saved(shard, chain, true, 10 + chain as u64)).collect());
    }
    drop(snapshots);
    let snapshots = open(folder.path());
    let mut table = snapshots.table();
    let now = Instant::now();
    table.next(99, now);
    assert_eq!(table.next(99, now + Duration::from_secs(2)).unwrap().shard, 128);
}
