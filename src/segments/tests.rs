//! What a reader may ever see: a prefix of what was written, or an error that names the place.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use super::*;
use crate::disk::testing::Faults;

/// A folder of its own, gone after the test.
pub(crate) struct Dir(tempfile::TempDir);

impl Dir {
    pub(crate) fn new() -> Dir {
        Dir(tempfile::tempdir().unwrap())
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }
}

type Records = Vec<(u8, Vec<u8>)>;

const LOG: &str = "test";

/// Records of many sizes; the kinds tell them apart.
fn records(n: usize) -> Records {
    let mut rng = fastrand::Rng::with_seed(1);
    let payload = |rng: &mut fastrand::Rng| (0..rng.usize(..40)).map(|_| rng.u8(..)).collect();
    (0..n).map(|i| (i as u8, payload(&mut rng))).collect()
}

/// Writes `records` with a sync after each, so that segments roll as often as they can.
fn write(dir: &Path, segment_bytes: u64, records: &Records) -> Position {
    let (mut log, _) = Segments::open(dir, LOG, segment_bytes, |_, _| true).unwrap();
    for (kind, payload) in records {
        log.append(*kind, payload);
        log.sync().unwrap();
    }
    log.end()
}

/// Everything a reader gets before `end`, and why it stopped early.
fn read(dir: &Path, end: Position) -> (Records, Option<SegmentsError>) {
    let mut seen = Records::new();
    let mut reader = match SegmentReader::open(dir, LOG) {
        Ok(Some(reader)) => reader,
        Ok(None) => return (seen, None),
        Err(error) => return (seen, Some(error)),
    };
    loop {
        match reader.next(end) {
            Ok(Some((kind, payload))) => seen.push((kind, payload.to_vec())),
            Ok(None) => return (seen, None),
            Err(error) => return (seen, Some(error)),
        }
    }
}

fn paths(dir: &Path) -> Vec<PathBuf> {
    list(dir).unwrap().into_iter().map(|first| path_of(&dir.into(), first)).collect()
}

#[test]
fn what_was_written_is_read_over_segments_and_after_reopening() {
    let dir = Dir::new();
    let all = records(60);
    let mut end = Position { segment: 0, offset: 0 };
    for some in all.chunks(7) {
        end = write(dir.path(), 200, &some.to_vec());
    }
    assert!(paths(dir.path()).len() > 5, "the segments are small enough to roll");
    let (seen, error) = read(dir.path(), end);
    assert!(error.is_none(), "{error:?}");
    assert_eq!(seen, all);
    let (log, recovered) = Segments::open(dir.path(), LOG, 200, |_, _| true).unwrap();
    assert_eq!((log.end(), recovered.truncated_bytes), (end, 0));
    let bytes: u64 = paths(dir.path()).iter().map(|path| fs::metadata(path).unwrap().len()).sum();
    assert_eq!(log.bytes(), bytes);
}

#[test]
fn a_log_cut_at_any_byte_keeps_its_whole_records_and_goes_on() {
    let source = Dir::new();
    let all = records(5);
    write(source.path(), 1 << 20, &all);
    let whole = fs::read(&paths(source.path())[0]).unwrap();
    let mut ends = vec![HEADER_BYTES as usize];
    for (_, payload) in &all {
        ends.push(ends.last().unwrap() + RECORD_HEADER + payload.len());
    }
    let dir = Dir::new();
    let path = path_of(&dir.path().into(), 0);
    for length in 0..=whole.len() {
        fs::write(&path, &whole[..length]).unwrap();
        let kept = ends.iter().filter(|end| **end <= length).count().saturating_sub(1);
        let mut visited = Records::new();
        let (mut log, recovered) = Segments::open(dir.path(), LOG, 1 << 20, |kind, payload| {
            visited.push((kind, payload.to_vec()));
            true
        })
        .unwrap();
        assert_eq!(visited, all[..kept], "cut at {length}");
        let torn = length - ends[kept].min(length);
        let expected = if length < HEADER_BYTES as usize { length } else { torn };
        assert_eq!(recovered.truncated_bytes, expected as u64, "cut at {length}");
        log.append(99, b"after");
        log.sync().unwrap();
        let (seen, error) = read(dir.path(), log.end());
        assert!(error.is_none(), "cut at {length}: {error:?}");
        assert_eq!(seen[..kept], all[..kept]);
        assert_eq!(seen[kept..], [(99, b"after".to_vec())], "cut at {length}");
    }
}

#[test]
fn a_flipped_bit_never_gives_a_changed_record() {
    let dir = Dir::new();
    let all = records(12);
    let end = write(dir.path(), 100, &all);
    let files = paths(dir.path());
    let (last, earlier) = files.split_last().unwrap();
    for path in &files {
        let whole = fs::read(path).unwrap();
        for bit in 0..whole.len() * 8 {
            let mut changed = whole.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            fs::write(path, &changed).unwrap();
            let (seen, error) = read(dir.path(), end);
            assert_eq!(seen, all[..seen.len()], "bit {bit} of {}", path.display());
            match error.expect("every bit is covered by a check") {
                SegmentsError::Damaged { path: named, offset, .. } => {
                    assert_eq!(&named, path);
                    assert!(offset <= bit as u64 / 8, "bit {bit}: named offset {offset}");
                }
                SegmentsError::Version { path: named, .. } => assert_eq!(&named, path),
                other => panic!("bit {bit} of {}: {other}", path.display()),
            }
        }
        fs::write(path, &whole).unwrap();
    }
    assert!(earlier.len() > 2, "several segments are before the last, {}", last.display());
}

#[test]
fn a_flipped_bit_in_the_last_segment_cuts_the_tail_when_opened_for_writing() {
    let source = Dir::new();
    let all = records(6);
    write(source.path(), 1 << 20, &all);
    let whole = fs::read(&paths(source.path())[0]).unwrap();
    let dir = Dir::new();
    let path = path_of(&dir.path().into(), 0);
    let mut rng = fastrand::Rng::with_seed(2);
    for at in 0..whole.len() {
        let mut changed = whole.clone();
        changed[at] ^= 1 << rng.u8(..8);
        fs::write(&path, &changed).unwrap();
        let mut visited = Records::new();
        let opened = Segments::open(dir.path(), LOG, 1 << 20, |kind, payload| {
            visited.push((kind, payload.to_vec()));
            true
        });
        assert_eq!(visited, all[..visited.len()], "byte {at}");
        if at < HEADER_BYTES as usize {
            assert!(opened.is_err(), "byte {at} is in the header");
            continue;
        }
        let (log, recovered) = opened.unwrap();
        assert!(recovered.truncated_bytes > 0 && visited.len() < all.len(), "byte {at}");
        assert_eq!(read(dir.path(), log.end()).0, visited);
    }
}

#[test]
fn whole_records_behind_a_bad_one_are_kept_beside_the_log() {
    let source = Dir::new();
    let all: Records = (0..6).map(|i| (i, vec![i; 30])).collect();
    write(source.path(), 1 << 20, &all);
    let whole = fs::read(&paths(source.path())[0]).unwrap();
    let second = HEADER_BYTES as usize + 39;
    // Its length, its checksum, its payload; then the same cut short in its middle, which is a torn tail.
    for (at, length, kept) in
        [(1, whole.len(), true), (5, whole.len(), true), (20, whole.len(), true), (20, second + 30, false)]
    {
        let dir = Dir::new();
        let mut changed = whole[..length].to_vec();
        changed[second + at] ^= 1;
        fs::write(path_of(&dir.path().into(), 0), &changed).unwrap();
        let (_, recovered) = Segments::open(dir.path(), LOG, 1 << 20, |_, _| true).unwrap();
        assert_eq!(recovered, RecoverySummary { truncated_bytes: (length - second) as u64, records: 1 });
        let beside = dir.path().join(format!("{:020}.seg.cut-{second}", 0));
        assert_eq!(fs::read(&beside).ok(), kept.then(|| changed[second..].to_vec()), "byte {at}");
        // It is no segment, and opening again finds a good log.
        let (_, again) = Segments::open(dir.path(), LOG, 1 << 20, |_, _| true).unwrap();
        assert_eq!(again, RecoverySummary { truncated_bytes: 0, records: 1 });
    }
}

#[test]
fn the_log_ends_where_the_caller_says_it_may() {
    let dir = Dir::new();
    write(dir.path(), 1 << 20, &vec![(1, vec![1]), (0, vec![2]), (1, vec![3]), (0, vec![4]), (0, vec![5])]);
    let (log, recovered) = Segments::open(dir.path(), LOG, 1 << 20, |kind, _| kind == 1).unwrap();
    assert_eq!(recovered, RecoverySummary { truncated_bytes: 20, records: 3 });
    assert_eq!(read(dir.path(), log.end()).0, [(1, vec![1]), (0, vec![2]), (1, vec![3])]);
}

#[test]
fn a_reader_follows_a_growing_log_and_sees_nothing_beyond_its_end() {
    let dir = Dir::new();
    let (mut log, _) = Segments::open(dir.path(), LOG, 150, |_, _| true).unwrap();
    let mut reader = SegmentReader::open(dir.path(), LOG).unwrap().unwrap();
    let mut rng = fastrand::Rng::with_seed(3);
    for round in 0..200_u32 {
        let before = log.end();
        let some = records(rng.usize(..5));
        for (kind, payload) in &some {
            log.append(*kind, payload);
        }
        log.write().unwrap();
        assert!(reader.next(before).unwrap().is_none(), "round {round}: written is not durable");
        log.sync().unwrap();
        for (kind, payload) in &some {
            assert_eq!(reader.next(log.end()).unwrap(), Some((*kind, payload.as_slice())), "round {round}");
        }
        assert!(reader.next(log.end()).unwrap().is_none());
        assert_eq!(reader.position(), log.end(), "round {round}");
    }
    assert!(log.end().segment > 50, "it rolled: {:?}", log.end());
}

#[test]
fn other_files_versions_and_gaps_are_errors_that_name_the_file() {
    let dir = Dir::new();
    let end = write(dir.path(), 60, &records(12));
    let files = paths(dir.path());
    assert!(files.len() > 3);

    let whole = fs::read(&files[1]).unwrap();
    let first = list(dir.path()).unwrap()[1];
    fs::write(
        &files[1],
        [header(LOG, VERSION + 1, first).as_slice(), &whole[HEADER_BYTES as usize..]].concat(),
    )
    .unwrap();
    let error = read(dir.path(), end).1.unwrap();
    assert!(matches!(&error, SegmentsError::Version { path, found: 3 } if *path == files[1]), "{error}");
    fs::write(
        &files[1],
        [header("other", VERSION, first).as_slice(), &whole[HEADER_BYTES as usize..]].concat(),
    )
    .unwrap();
    assert!(matches!(read(dir.path(), end).1, Some(SegmentsError::Damaged { path, .. }) if path == files[1]));

    fs::remove_file(&files[1]).unwrap();
    let error = read(dir.path(), end).1.unwrap();
    assert!(matches!(&error, SegmentsError::Missing { path } if *path == files[1]), "{error}");

    fs::write(&files[1], &whole[..whole.len() - 1]).unwrap();
    let error = read(dir.path(), end).1.unwrap();
    assert!(matches!(&error, SegmentsError::Damaged { path, .. } if *path == files[1]), "{error}");

    fs::write(dir.path().join("notes.txt"), "not a segment").unwrap();
    fs::write(&files[1], &whole).unwrap();
    assert!(read(dir.path(), end).1.is_none());
}

#[test]
fn a_failed_write_can_be_tried_again_or_undone() {
    for (room, undone) in (0..30).step_by(4).flat_map(|room| [(room, false), (room, true)]) {
        let dir = Dir::new();
        let faults = Arc::new(Faults::default());
        let (mut log, _) = Segments::open(faults.folder(dir.path()), LOG, 1 << 20, |_, _| true).unwrap();
        log.append(1, b"kept");
        log.sync().unwrap();
        let end = log.end();
        faults.room(Some(room));
        log.append(2, b"in the way");
        log.append(3, b"as well");
        let error = log.sync().unwrap_err();
        let named = error.to_string().contains(&path_of(log.folder(), 0).display().to_string());
        assert!(error.is_transient() && named, "{error}");
        assert_eq!((log.end(), log.probe(50).is_err()), (end, true));
        if undone {
            log.rewind().unwrap();
            assert_eq!(fs::metadata(path_of(log.folder(), 0)).unwrap().len(), end.offset);
        }
        faults.room(None);
        log.probe(1 << 16).unwrap();
        log.append(4, b"after");
        log.sync().unwrap();
        drop(log);
        let (log, recovered) = Segments::open(dir.path(), LOG, 1 << 20, |_, _| true).unwrap();
        assert_eq!(recovered.truncated_bytes, 0);
        let kinds: Vec<u8> = read(dir.path(), log.end()).0.into_iter().map(|(kind, _)| kind).collect();
        assert_eq!(kinds, if undone { vec![1, 4] } else { vec![1, 2, 3, 4] }, "room for {room}");
    }
}

#[test]
fn no_segment_is_begun_before_what_was_undone_is_cut_off() {
    let dir = Dir::new();
    let faults = Arc::new(Faults::default());
    let (mut log, _) = Segments::open(faults.folder(dir.path()), LOG, 40, |_, _| true).unwrap();
    log.append(1, b"kept");
    log.write().unwrap();
    log.keep();
    log.append(2, b"undone");
    log.write().unwrap();
    faults.no_cut.store(true, Relaxed);
    assert!(log.rewind().unwrap_err().is_transient());
    // Nothing is buffered, and the segment is full.
    assert!(log.sync().unwrap_err().is_transient());
    assert_eq!(list(dir.path()).unwrap(), [0]);
    faults.no_cut.store(false, Relaxed);
    log.sync().unwrap();
    log.append(3, b"after");
    log.sync().unwrap();
    assert_eq!(list(dir.path()).unwrap(), [0, 1, 2]);
    let kinds: Vec<u8> = read(dir.path(), log.end()).0.into_iter().map(|(kind, _)| kind).collect();
    assert_eq!(kinds, [1, 3]);
}

#[test]
fn what_was_kept_without_a_sync_is_not_undone() {
    let dir = Dir::new();
    let (mut log, _) = Segments::open(dir.path(), LOG, 1 << 20, |_, _| true).unwrap();
    log.append(1, b"kept");
    log.write().unwrap();
    assert!(log.synced() < log.end());
    log.keep();
    log.append(2, b"written");
    log.write().unwrap();
    log.append(3, b"buffered");
    log.rewind().unwrap();
    log.append(4, b"after");
    log.sync().unwrap();
    assert_eq!(log.synced(), log.end());
    assert_eq!(read(dir.path(), log.end()).0, [(1, b"kept".to_vec()), (4, b"after".to_vec())]);
}

#[test]
fn after_a_failed_sync_nothing_is_written_any_more() {
    let dir = Dir::new();
    let faults = Arc::new(Faults::default());
    let (mut log, _) = Segments::open(faults.folder(dir.path()), LOG, 1 << 20, |_, _| true).unwrap();
    faults.no_sync.store(true, Relaxed);
    log.append(1, b"lost or not");
    assert!(!log.sync().unwrap_err().is_transient());
    faults.no_sync.store(false, Relaxed);
    for again in [log.sync(), log.rewind(), log.probe(1)] {
        assert!(matches!(again, Err(SegmentsError::FailedBefore { .. })));
    }
}

#[test]
fn without_room_for_a_new_segment_the_log_goes_on_in_the_old_one() {
    let dir = Dir::new();
    let faults = Arc::new(Faults::default());
    let (mut log, _) = Segments::open(faults.folder(dir.path()), LOG, 1, |_, _| true).unwrap();
    let all = records(12);
    for (at, (kind, payload)) in all.iter().enumerate() {
        // In turn: no file can be made, and there is room for the record but not for the next header.
        faults.no_create.store(at / 3 == 1, Relaxed);
        faults.room((at / 3 == 2).then_some((RECORD_HEADER + payload.len()) as u64 + 10));
        log.append(*kind, payload);
        log.sync().unwrap();
        assert_eq!(read(dir.path(), log.end()).0, all[..=at]);
    }
    let names: Vec<u64> = list(dir.path()).unwrap();
    assert_eq!(names, [0, 1, 2, 3, 10, 11, 12]);
    let (again, _) = Segments::open(dir.path(), LOG, 1, |_, _| true).unwrap();
    assert_eq!((again.end(), again.bytes()), (log.end(), log.bytes()));
}

/// Files that are open, connections above all, must not end a log.
#[test]
fn without_a_descriptor_to_be_had_the_log_goes_on_in_the_old_segment() {
    let dir = Dir::new();
    let faults = Arc::new(Faults::default());
    let folder = faults.folder(dir.path());
    let (mut log, _) = Segments::open(folder.clone(), LOG, 1, |_, _| true).unwrap();
    let mut reader = SegmentReader::open(folder, LOG).unwrap().unwrap();
    let mut next = |end| reader.next(end).map(|read| read.map(|(kind, _)| kind));
    log.append(1, b"one");
    log.sync().unwrap();
    faults.no_descriptor.store(true, Relaxed);
    for kind in 2..5 {
        log.append(kind, b"more");
        log.sync().unwrap();
        log.trimmer().remove_before(0).unwrap();
    }
    assert_eq!(list(dir.path()).unwrap(), [0, 1]);
    assert_eq!(next(Position { segment: 1, offset: HEADER_BYTES }).unwrap(), Some(1));
    // A reader that needs one waits for it.
    let end = log.end();
    let (had, faults_) = (Arc::new(AtomicU32::new(0)), Arc::clone(&faults));
    let waits = std::thread::spawn({
        let had = Arc::clone(&had);
        move || {
            std::thread::sleep(Duration::from_millis(150));
            had.store(1, Relaxed);
            faults_.no_descriptor.store(false, Relaxed);
        }
    });
    assert_eq!((next(end).unwrap(), had.load(Relaxed)), (Some(2), 1));
    waits.join().unwrap();
    log.append(5, b"after");
    log.sync().unwrap();
    assert_eq!(list(dir.path()).unwrap(), [0, 1, 5]);
    assert_eq!(read(dir.path(), log.end()).0.len(), 5);
}

/// All that was to be kept is in the old segment, and synced.
#[test]
fn a_segment_whose_header_cannot_be_synced_is_taken_away_and_tried_again() {
    let dir = Dir::new();
    let faults = Arc::new(Faults::default());
    let (mut log, _) = Segments::open(faults.folder(dir.path()), LOG, 1, |_, _| true).unwrap();
    log.append(1, b"synced");
    log.sync().unwrap();
    log.append(2, b"synced");
    faults.syncs_left(1);
    log.sync().unwrap();
    assert_eq!((log.has_failed(), list(dir.path()).unwrap()), (false, vec![0, 1]));
    faults.no_sync.store(false, Relaxed);
    log.append(3, b"synced");
    log.sync().unwrap();
    assert_eq!(list(dir.path()).unwrap(), [0, 1, 3]);
    assert_eq!(read(dir.path(), log.end()).0.len(), 3);
}

#[test]
fn a_segment_whose_making_was_cut_short_is_taken_away() {
    for torn in 0..=HEADER_BYTES as usize {
        let dir = Dir::new();
        write(dir.path(), 1 << 20, &records(3));
        fs::write(path_of(&dir.path().into(), 3), vec![0; torn]).unwrap();
        let (mut log, recovered) = Segments::open(dir.path(), LOG, 1 << 20, |_, _| true).unwrap();
        assert_eq!(recovered, RecoverySummary { truncated_bytes: torn as u64, records: 3 });
        log.append(7, b"goes on in the one before");
        log.sync().unwrap();
        assert_eq!((list(dir.path()).unwrap(), read(dir.path(), log.end()).0.len()), (vec![0], 4));
    }
}

#[test]
fn old_segments_are_removed_and_the_rest_stays_a_log() {
    let dir = Dir::new();
    let all = records(40);
    write(dir.path(), 150, &all);
    let (mut log, _) = Segments::open(dir.path(), LOG, 150, |_, _| true).unwrap();
    let trimmer = log.trimmer();
    let mut whole = log.bytes();
    for before in [0, 1, 9, 9, 20, 39] {
        let freed = log.trimmer().remove_before(before).unwrap();
        whole -= freed;
        let first = log.trimmer().first_segment();
        assert!(trimmer.segments().iter().all(|segment| *segment >= before || *segment == log.end().segment));
        let bytes: u64 = paths(dir.path()).iter().map(|path| fs::metadata(path).unwrap().len()).sum();
        assert_eq!((log.bytes(), bytes, list(dir.path()).unwrap()), (whole, whole, trimmer.segments()));
        assert_eq!(read(dir.path(), log.end()).0, all[first as usize..], "before {before}");
    }
    log.trimmer().remove_before(u64::MAX).unwrap();
    assert_eq!(trimmer.segments(), [log.end().segment], "the one being written stays");
    log.append(1, b"more");
    log.sync().unwrap();
    let (again, _) = Segments::open(dir.path(), LOG, 150, |_, _| true).unwrap();
    assert_eq!((again.end(), again.bytes()), (log.end(), log.bytes()));
}

/// Everything a reader gets that goes round damage, and what it left out.
fn read_round(dir: &Path, end: Position) -> (Records, Vec<SkippedBytes>) {
    let mut reader = SegmentReader::open(dir, LOG).unwrap().unwrap();
    let (mut seen, mut skipped) = (Records::new(), vec![]);
    loop {
        match reader.next(end) {
            Ok(Some((kind, payload))) => seen.push((kind, payload.to_vec())),
            Ok(None) => return (seen, skipped),
            Err(_) => skipped.push(reader.resync(end, |_, _| true).unwrap()),
        }
    }
}

#[test]
fn who_can_do_without_a_damaged_record_gets_all_others() {
    let dir = Dir::new();
    let all: Records = records(60).into_iter().map(|(kind, payload)| (kind % 9 + 1, payload)).collect();
    let end = write(dir.path(), 300, &all);
    let files = paths(dir.path());
    assert!(files.len() > 3);
    let first_header = HEADER_BYTES as usize;
    for (number, path) in files.iter().enumerate() {
        let whole = fs::read(path).unwrap();
        for at in if number == 0 { first_header } else { 0 }..whole.len() {
            let mut changed = whole.clone();
            changed[at] ^= 0x11;
            fs::write(path, &changed).unwrap();
            if (16..20).contains(&at)
                && read(dir.path(), end).1.is_some_and(|e| !matches!(e, SegmentsError::Damaged { .. }))
            {
                continue;
            }
            let (seen, skipped) = read_round(dir.path(), end);
            let lost = usize::from(at >= first_header);
            assert_eq!((seen.len(), skipped.len()), (all.len() - lost, 1), "byte {at} of {}", path.display());
            let mut left = all.iter();
            assert!(seen.iter().all(|record| left.any(|one| one == record)), "in order");
            let bytes: u64 =
                if lost == 0 { HEADER_BYTES } else { skipped[0].to.offset - skipped[0].from.offset };
            assert_eq!(skipped[0].bytes, bytes);
        }
        fs::write(path, &whole).unwrap();
    }
    // A segment that is gone.
    let gone = list(dir.path()).unwrap();
    fs::remove_file(&files[1]).unwrap();
    let (seen, skipped) = read_round(dir.path(), end);
    assert_eq!((seen.len() as u64, skipped.len()), (all.len() as u64 - (gone[2] - gone[1]), 1));
}

fn proof(accept_loss: bool) -> TailProof {
    TailProof { plausible: |_, _| true, accept_loss }
}

#[test]
fn what_was_proven_synced_is_damaged_and_never_taken_for_a_torn_tail() {
    let source = Dir::new();
    let (mut log, _) = Segments::open(source.path(), LOG, 1 << 20, |_, _| true).unwrap();
    let mut ends = vec![];
    for at in 0..10_u8 {
        log.append(1, &[at; 20]);
        let synced = log.synced();
        log.append_with(KIND_SYNCED, |out| encode_synced(synced, out));
        log.sync().unwrap();
        ends.push(log.end().offset);
    }
    let whole = fs::read(path_of(log.folder(), 0)).unwrap();
    let dir = Dir::new();
    let path = path_of(&dir.path().into(), 0);
    for at in (HEADER_BYTES as usize..whole.len()).step_by(7) {
        let mut changed = whole.clone();
        changed[at] ^= 4;
        fs::write(&path, &changed).unwrap();
        let opened = Segments::open_proving(dir.path(), LOG, 1 << 20, Some(proof(false)), |_, _| true);
        // The last commit has nobody to speak for it.
        if at as u64 >= ends[8] {
            assert!(opened.unwrap().1.truncated_bytes > 0, "byte {at}");
            continue;
        }
        let error = opened.expect_err("it had been synced").to_string();
        assert!(error.contains("had been synced"), "byte {at}: {error}");
        let (mut log, recovered) =
            Segments::open_proving(dir.path(), LOG, 1 << 20, Some(proof(true)), |_, _| true).unwrap();
        assert_eq!((recovered.truncated_bytes, fs::read(&path).unwrap()), (0, changed), "byte {at}");
        log.append(5, b"on");
        log.sync().unwrap();
        let (seen, skipped) = read_round(dir.path(), log.end());
        assert_eq!((seen.len(), skipped.len()), (20, 1), "byte {at}");
    }
}

/// No commit need follow for what was synced to be proven so.
#[test]
fn what_was_marked_as_synced_is_proven_but_for_the_mark() {
    let source = Dir::new();
    let (mut log, _) = Segments::open(source.path(), LOG, 1 << 20, |_, _| true).unwrap();
    for at in 0..4_u8 {
        log.append(1, &[at; 20]);
        log.sync().unwrap();
        log.mark();
        // Once is enough, and costs no sync.
        let end = log.end();
        log.mark();
        log.sync().unwrap();
        log.mark();
        assert_eq!(log.end(), end);
    }
    let (end, mark) = (log.end().offset as usize, RECORD_HEADER + 16);
    let whole = fs::read(path_of(log.folder(), 0)).unwrap();
    assert_eq!((log.synced().offset as usize, whole.len()), (end - mark, end));
    let dir = Dir::new();
    let path = path_of(&dir.path().into(), 0);
    for at in HEADER_BYTES as usize..whole.len() {
        let mut changed = whole.clone();
        changed[at] ^= 4;
        fs::write(&path, &changed).unwrap();
        let opened = Segments::open_proving(dir.path(), LOG, 1 << 20, Some(proof(false)), |_, _| true);
        if at >= end - mark {
            assert_eq!(opened.unwrap().1.truncated_bytes, mark as u64, "byte {at}");
        } else {
            assert!(opened.expect_err("it had been synced").to_string().contains("had been synced"));
        }
    }
    // Opened again it is not written twice.
    fs::write(&path, &whole).unwrap();
    let (mut log, _) =
        Segments::open_proving(dir.path(), LOG, 1 << 20, Some(proof(false)), |_, _| true).unwrap();
    log.mark();
    assert_eq!(log.end().offset as usize, end);
    // A segment never ends with a mark that is not synced.
    let dir = Dir::new();
    let (mut log, _) = Segments::open(dir.path(), LOG, 50, |_, _| true).unwrap();
    log.append(1, b"12345");
    log.sync().unwrap();
    log.mark();
    log.sync().unwrap();
    assert_eq!(log.end(), Position { segment: 2, offset: HEADER_BYTES });
}

/// The name of the file says what was in it.
#[test]
fn a_damaged_header_is_named_and_written_anew_where_loss_is_accepted() {
    let dir = Dir::new();
    let all = records(40);
    let end = write(dir.path(), 300, &all);
    let files = paths(dir.path());
    assert!(files.len() > 3);
    for path in [&files[0], &files[1], files.last().unwrap()] {
        let good = fs::read(path).unwrap();
        for at in 0..HEADER_BYTES as usize {
            let mut changed = good.clone();
            changed[at] ^= 0x21;
            fs::write(path, &changed).unwrap();
            let open = |accept_loss| {
                Segments::open_proving(dir.path(), LOG, 300, Some(proof(accept_loss)), |_, _| true)
            };
            if path == files.last().unwrap() {
                let error = open(false).expect_err("its header is damaged").to_string();
                let says =
                    [path.to_str().unwrap(), "damaged at offset 0", "--accept-loss writes the header anew"];
                assert!(says.iter().all(|says| error.contains(says)), "byte {at}: {error}");
                assert_eq!(fs::read(path).unwrap(), changed, "byte {at}");
            }
            let (log, recovered) = open(true).unwrap();
            assert_eq!((log.end(), recovered.truncated_bytes), (end, 0), "byte {at}");
            assert_eq!((fs::read(path).unwrap() == good, read(dir.path(), end).0.len()), (true, all.len()));
            open(false).unwrap();
        }
    }
    // One that is whole and of another log is none of ours.
    let last = files.last().unwrap();
    let first = *list(dir.path()).unwrap().last().unwrap();
    fs::write(last, header("other", VERSION, first)).unwrap();
    assert!(Segments::open_proving(dir.path(), LOG, 300, Some(proof(true)), |_, _| true).is_err());
}

#[test]
fn a_segment_that_cannot_be_begun_fails_the_log() {
    let dir = Dir::new();
    let (mut log, _) = Segments::open(dir.path(), LOG, 1, |_, _| true).unwrap();
    File::create(path_of(&dir.path().into(), 1)).unwrap();
    log.append(1, b"full");
    assert!(matches!(log.sync(), Err(SegmentsError::Io { doing: "create", .. })));
    assert!(matches!(log.sync(), Err(SegmentsError::FailedBefore { .. })));
}

#[test]
fn those_who_wait_hear_of_every_advance_and_of_the_end() {
    let place = |offset| Position { segment: 0, offset };
    let durable = Arc::new(DurablePosition::new(place(32), None));
    assert_eq!(durable.wait_beyond(place(32), Duration::ZERO), place(32));
    let waiting = durable.clone();
    let waiter = std::thread::spawn(move || {
        let mut seen = vec![];
        let mut at = place(32);
        while !waiting.closed() || at < waiting.end() {
            at = waiting.wait_beyond(at, Duration::from_secs(60));
            seen.push(at);
        }
        seen
    });
    for offset in 33..100 {
        durable.advance(place(offset), Some(offset));
    }
    assert!(durable.wait_for_epoch(99, Duration::ZERO) && !durable.wait_for_epoch(100, Duration::ZERO));
    durable.close();
    let seen = waiter.join().unwrap();
    assert!(seen.is_sorted() && seen.last() == Some(&place(99)), "{seen:?}");
}
