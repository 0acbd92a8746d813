//! The laws of what the worker reads back from its own disk: segments of the three logs, and snapshots.
//!
//! The first byte says what the others are: a whole file, what follows a good header, or records that are written well
//! and then changed at some places, so that checksums are met.
//!
//! Laws: whatever is read was written so, and in that order; nothing of a record that was changed; what was read, written
//! down again, reads the same; opening for writing keeps what a reader gets, and leaves a log that reads to its end.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use tidewatch::disk::{Disk, DiskDir, DiskFile, DiskFolder};
use tidewatch::journal::{self, JournalReader, Record};
use tidewatch::labels::Labels;
use tidewatch::metrics::Metrics;
use tidewatch::outbox::{self, Outbox, Tail};
use tidewatch::segments::{DurablePosition, HEADER_BYTES, Position, SegmentReader, Segments, SegmentsError};
use tidewatch::snapshots::format;
use tidewatch_dataflows::pipeline::ShardState;
use tidewatch_dataflows::snapshot::StoredShard;

use super::LIMITS;

/// Places that are changed in records written well, at most.
const CHANGES_MAX: usize = 3;
const SEGMENT: &str = "00000000000000000000.seg";

type Content = Arc<Mutex<Vec<u8>>>;

/// Files in memory, all in one folder.
#[derive(Debug, Default)]
struct Memory(Mutex<BTreeMap<PathBuf, Content>>);

#[derive(Debug)]
struct MemoryFile(Content);

#[derive(Debug)]
struct MemoryDir;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("a law that was broken ended the run")
}

impl Disk for Memory {
    fn list(&self, _: &Path) -> io::Result<Vec<String>> {
        let name = |path: &PathBuf| path.file_name().map(|name| name.to_string_lossy().into_owned());
        Ok(lock(&self.0).keys().filter_map(name).collect())
    }

    fn make_dir(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let content = Content::default();
        match lock(&self.0).insert(path.to_owned(), Arc::clone(&content)) {
            None => Ok(Box::new(MemoryFile(content))),
            Some(_) => Err(io::ErrorKind::AlreadyExists.into()),
        }
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let content = lock(&self.0).get(path).cloned().ok_or(io::ErrorKind::NotFound)?;
        Ok(Box::new(MemoryFile(content)))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut files = lock(&self.0);
        let content = files.remove(from).ok_or(io::ErrorKind::NotFound)?;
        files.insert(to.to_owned(), content);
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        lock(&self.0).remove(path).map(drop).ok_or(io::ErrorKind::NotFound.into())
    }

    fn open_dir(&self, _: &Path) -> io::Result<Box<dyn DiskDir>> {
        Ok(Box::new(MemoryDir))
    }
}

impl DiskDir for MemoryDir {
    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}

impl DiskFile for MemoryFile {
    fn len(&self) -> io::Result<u64> {
        Ok(lock(&self.0).len() as u64)
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let content = lock(&self.0);
        let held = usize::try_from(offset).ok().and_then(|from| content.get(from..)?.get(..buf.len()));
        buf.copy_from_slice(held.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let (mut content, from) = (lock(&self.0), offset as usize);
        let end = content.len().max(from + bytes.len());
        content.resize(end, 0);
        content[from..from + bytes.len()].copy_from_slice(bytes);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        lock(&self.0).resize(len as usize, 0);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}

/// A folder with one file.
fn folder_with(name: &str, content: &[u8]) -> DiskFolder {
    let folder = DiskFolder::on(Arc::new(Memory::default()), "log");
    put(&folder, name, content);
    folder
}

fn put(folder: &DiskFolder, name: &str, content: &[u8]) {
    let file = folder.create(name).expect("there is no such file yet");
    file.write_at(content, 0).expect("memory takes it");
}

/// A record: kind and payload.
type Plain = (u8, Vec<u8>);

fn header(log: &str) -> Vec<u8> {
    let mut header = b"tidewtch".to_vec();
    header.extend_from_slice(log.as_bytes());
    header.resize(16, 0);
    header.extend_from_slice(&tidewatch::segments::VERSION.to_le_bytes());
    let crc = crc32(&[header.as_slice(), &[0; 8]].concat());
    header.extend_from_slice(&crc.to_le_bytes());
    header.extend_from_slice(&[0; 8]);
    header
}

fn record((kind, payload): &Plain, out: &mut Vec<u8>) {
    let checked = [&[*kind], payload.as_slice()].concat();
    out.extend_from_slice(&(payload.len() as u32).to_le_bytes());
    out.extend_from_slice(&crc32(&checked).to_le_bytes());
    out.extend_from_slice(&checked);
}

/// The checksum of IEEE 802.3, bit by bit: written anew, so that it shares no mistake with the program's.
fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32, _| if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 };
    !bytes.iter().fold(!0, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), step))
}

/// A file as the bytes say it is.
struct Written {
    file: Vec<u8>,
    /// Records that were written well, and where each ends.
    records: Option<Vec<(Plain, usize)>>,
    /// The first place that was changed since.
    changed: usize,
}

fn written(log: &str, bytes: &[u8]) -> Written {
    let (how, rest) = bytes.split_first().map_or((0, bytes), |(how, rest)| (*how, rest));
    match how % 3 {
        0 => Written { file: rest.to_vec(), records: None, changed: 0 },
        1 => Written { file: [&header(log), rest].concat(), records: None, changed: 0 },
        _ => structured(log, rest),
    }
}

/// `changes u8 | changes x (place u16 | xor u8) | records: kind u8 | length u8 | payload`.
fn structured(log: &str, bytes: &[u8]) -> Written {
    let (n, mut rest) = bytes.split_first().map_or((0, bytes), |(n, rest)| (usize::from(*n), rest));
    let mut changes = Vec::new();
    for _ in 0..n % (CHANGES_MAX + 1) {
        let Some((change, after)) = rest.split_first_chunk::<3>() else { break };
        changes.push((usize::from(u16::from_le_bytes([change[0], change[1]])), change[2]));
        rest = after;
    }
    let (mut file, mut records) = (header(log), Vec::new());
    while let Some(([kind, length], after)) = rest.split_first_chunk::<2>() {
        let (payload, after) = after.split_at(after.len().min(usize::from(*length)));
        let plain = (*kind, payload.to_vec());
        record(&plain, &mut file);
        records.push((plain, file.len()));
        rest = after;
    }
    let mut changed = file.len();
    for (place, xor) in changes {
        let length = file.len();
        if xor != 0 {
            file[place % length] ^= xor;
            changed = changed.min(place % length);
        }
    }
    Written { file, records: Some(records), changed }
}

/// The records that a reader gets before the first damage; and that it goes round that to others, each as written.
fn read(log: &'static str, written: &Written) -> Vec<Plain> {
    let folder = folder_with(SEGMENT, &written.file);
    let Ok(mut reader) = SegmentReader::open_at(&folder, log, 0) else {
        assert!(written.records.is_none() || written.changed < HEADER_BYTES as usize, "a good header");
        return Vec::new();
    };
    let end = Position { segment: 0, offset: written.file.len() as u64 };
    let (mut got, mut damaged) = (Vec::new(), false);
    loop {
        match reader.next(end) {
            Ok(Some((kind, payload))) => {
                let plain: Plain = (kind, payload.to_vec());
                let (mut bytes, to) = (Vec::new(), reader.position().offset as usize);
                record(&plain, &mut bytes);
                assert!(written.file[..to].ends_with(&bytes), "it is what is written there");
                if !damaged {
                    got.push(plain);
                }
            }
            Ok(None) => break,
            Err(SegmentsError::Damaged { .. }) => {
                damaged = true;
                let before = reader.position();
                let skipped = reader.resync(end, |_, _| true).expect("memory can be read");
                assert!(skipped.to > before, "it goes on");
            }
            Err(other) => panic!("{other}"),
        }
    }
    if let Some(records) = &written.records {
        let whole = records.iter().take_while(|(_, end)| *end <= written.changed).count();
        let all: Vec<&Plain> = records.iter().map(|(plain, _)| plain).collect();
        // Changes may undo one another.
        assert!(got.len() >= whole && got.iter().eq(all[..got.len().min(all.len())].iter().copied()));
        assert_eq!(damaged, got.len() < all.len(), "damage is told");
    }
    // Who writes on keeps the same.
    let mut kept = Vec::new();
    let opened = Segments::open(&folder, log, 1 << 20, |kind, payload| {
        kept.push((kind, payload.to_vec()));
        true
    });
    let (segments, _) = opened.expect("the header is good");
    assert_eq!(kept, got, "recovered is what is read");
    let mut again = SegmentReader::open_at(&folder, log, 0).expect("it was opened");
    for plain in &got {
        let (kind, payload) = again.next(segments.end()).expect("it is good").expect("and there");
        assert_eq!((kind, payload), (plain.0, plain.1.as_slice()));
    }
    assert!(again.next(segments.end()).expect("it is good").is_none());
    got
}

fn all_of(file: &[u8]) -> Arc<DurablePosition> {
    let durable = Arc::new(DurablePosition::new(Position { segment: 0, offset: file.len() as u64 }, None));
    durable.close();
    durable
}

/// Any bytes as a segment of the journal.
pub fn journal(bytes: &[u8]) {
    let written = written("journal", bytes);
    for (kind, payload) in read("journal", &written) {
        let Ok(record) = journal::decode(kind, &payload) else { continue };
        let rewritten = rewritten(&record);
        if let Record::Samples(samples) = &record {
            assert!(samples.len() * 16 <= payload.len() && samples.at_ms.len() == samples.value.len());
        }
        if let Some((kind, payload)) = rewritten {
            let record = journal::decode(kind, &payload).expect("what was written is read");
            assert_eq!(self::rewritten(&record), Some((kind, payload)), "and reads the same");
        }
    }
    let folder = folder_with(SEGMENT, &written.file);
    let Ok(mut reader) = JournalReader::open(&folder, all_of(&written.file)) else { return };
    while let Ok(Some(_)) = reader.next_ready() {}
}

/// A record written down again; `None` for one that only the writer writes.
fn rewritten(record: &Record) -> Option<Plain> {
    let mut out = Vec::new();
    let kind = match record {
        Record::Samples(samples) => {
            journal::encode_samples(samples, &mut out);
            if samples.bootstrap == 0 { journal::KIND_SAMPLES } else { journal::KIND_BOOTSTRAP_SAMPLES }
        }
        Record::EpochEnd(end) => {
            journal::encode_epoch_end(end, &mut out);
            journal::KIND_EPOCH_END
        }
        Record::Settings(settings) => {
            journal::encode_settings(settings, &mut out);
            journal::KIND_SETTINGS
        }
        Record::Control(control) => journal::encode_control(control, &mut out),
        _ => return None,
    };
    Some((kind, out))
}

/// Any bytes as a segment of the outbox.
pub fn outbox(bytes: &[u8]) {
    let written = written("outbox", bytes);
    for (_, payload) in read("outbox", &written) {
        let Ok(batch) = outbox::decode(&payload) else { continue };
        let first = rows(batch);
        let again = rows(outbox::decode(&first).expect("what was written is read"));
        assert_eq!(first, again, "and reads the same");
    }
    let folder = folder_with(SEGMENT, &written.file);
    if let Ok(mut tail) = Tail::open(&folder, all_of(&written.file), None) {
        let mut before = None;
        while let Ok(Some(batch)) = tail.next() {
            assert!(Some(batch.epoch) > before, "epochs rise");
            before = Some(batch.epoch);
        }
    }
    if let Ok(outbox) = Outbox::open(&folder, outbox::OutboxOptions::default(), Arc::new(Metrics::new())) {
        let mut tail = Tail::open(&folder, outbox.durable(), None).expect("it was opened");
        while let Ok(Some(_)) = tail.next() {}
    }
}

fn rows(batch: outbox::OutboxBatch) -> Vec<u8> {
    let mut out = Vec::new();
    outbox::encode(batch.epoch, &batch.rows, &mut out);
    out
}

/// Any bytes as a segment of the series log.
pub fn series(bytes: &[u8]) {
    let written = written("series", bytes);
    let records = read("series", &written).len();
    let folder = folder_with(SEGMENT, &written.file);
    let Ok(labels) = Labels::open(&folder, LIMITS, Arc::new(Metrics::new())) else { return };
    assert!(labels.len() <= records, "no series without a record");
}

/// Any bytes as a manifest, or as the state or the panes of a shard.
pub fn snapshots(bytes: &[u8]) {
    let Some((how, rest)) = bytes.split_first() else { return };
    let magic = [b"tidemani", b"tidestat", b"tideseal"][usize::from(how % 3)];
    let file = if *how < 128 {
        // With a header that is right, so that what follows it is read.
        let version = format::VERSION.to_le_bytes();
        let crc = crc32(&[version.as_slice(), rest].concat());
        [magic, version.as_slice(), &crc.to_le_bytes(), rest].concat()
    } else {
        rest.to_vec()
    };
    let folder = folder_with("any", &file);
    if let Ok(entries) = format::read_manifest(&folder, "any") {
        assert_eq!(format::manifest(entries.into_iter()), file, "what was read is what was written");
    }
    if let Ok(state) = format::read_state(&folder, "any") {
        let rewritten = format::state(state.entry, &state.end, &state.settings, &state.state);
        put(&folder, "again", &rewritten);
        let again = format::read_state(&folder, "again").expect("what was written is read");
        assert_eq!((again.end, &again.settings, &again.state), (state.end, &state.settings, &state.state));
        // What looks like a state may be none, or one of which nothing is sealed.
        let held =
            StoredShard { end: state.end, settings: state.settings, state: &state.state, sealed: Vec::new() };
        drop(ShardState::load(state.entry.shard, &held));
    }
    let length = file.len() as u64;
    let entry = format::ManifestEntry {
        shard: 0,
        chain: 0,
        epoch: 0,
        begun: 0,
        sealed_bytes: length,
        whole_bytes: length,
        state_bytes: 0,
    };
    put(&folder, &entry.sealed_name(), &file);
    if let Ok(panes) = format::read_sealed(&folder, &entry) {
        let blocks = panes.blocks().into_iter().map(|panes| format::block(panes).expect("it was one"));
        let written: Vec<u8> = format::sealed_header(&entry).into_iter().chain(blocks.flatten()).collect();
        assert_eq!(written, file, "what was read is what was written");
    }
}
