//! What must hold at every moment of what is on the disk, not only when somebody opens it again.
//!
//! Read with a reader of its own, record by record: a law that trusted the program's reader would share its mistakes.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::{Arc, Mutex};

use tidewatch::journal::{self, Record};
use tidewatch::segments::HEADER_BYTES;
use tidewatch_dataflows::sample::SHARDS;

use super::disk::{Look, Watch};

/// A record as it lies in a segment.
pub struct Raw<'a> {
    pub kind: u8,
    pub payload: &'a [u8],
}

/// The whole records of a segment, up to the first that is none.
pub fn records(segment: &[u8]) -> Vec<Raw<'_>> {
    let mut records = Vec::new();
    let mut rest = segment.get(HEADER_BYTES as usize..).unwrap_or_default();
    while let Some((header, after)) = rest.split_at_checked(9) {
        let length = u32::from_le_bytes(header[..4].try_into().unwrap()) as usize;
        let Some((payload, behind)) = after.split_at_checked(length) else { break };
        if crc32fast::hash(&rest[8..9 + length]).to_le_bytes() != header[4..8] {
            break;
        }
        records.push(Raw { kind: header[8], payload });
        rest = behind;
    }
    records
}

/// The epochs that end in a segment of the outbox.
fn outbox_epochs(segment: &[u8]) -> impl Iterator<Item = u64> {
    let whole = records(segment).into_iter().filter(|record| record.kind == 1 && record.payload[0] & 1 == 1);
    whole.map(|record| u64::from_le_bytes(record.payload[1..9].try_into().unwrap()))
}

/// What is durable of the logs, by all that was ever synced.
#[derive(Clone, Default)]
pub struct Durable {
    /// Epoch ends in the journal.
    pub ends: BTreeSet<u64>,
    /// Epochs in the outbox.
    pub outbox: BTreeSet<u64>,
    /// Ids in the series log.
    pub series: HashSet<u64>,
    /// A bit was flipped: what lies there is not the program's work alone.
    pub damaged: bool,
    /// Samples in each segment of the journal.
    samples: BTreeMap<String, usize>,
    /// The first and the last epoch in each segment of the outbox.
    ranges: BTreeMap<String, (u64, u64)>,
    /// Segments that have one after them and were read: they no longer change.
    read: HashSet<(String, String)>,
}

impl Durable {
    pub fn samples(&self) -> usize {
        self.samples.values().sum()
    }

    /// Another process: the log may go on in a segment whose successor never had a record.
    pub fn begin(&mut self) {
        self.read.clear();
    }

    fn note(&mut self, folder: &str, name: &str, content: &[u8]) -> Result<(), String> {
        match folder {
            "journal" => {
                let mut samples = 0;
                for raw in records(content) {
                    match journal::decode(raw.kind, raw.payload) {
                        Ok(Record::EpochEnd(end)) => drop(self.ends.insert(end.epoch)),
                        Ok(Record::Samples(some)) => samples += some.len(),
                        _ => {}
                    }
                }
                self.samples.insert(name.to_owned(), samples);
            }
            "outbox" => {
                let epochs: Vec<u64> = outbox_epochs(content).collect();
                if let (Some(first), Some(last)) = (epochs.first(), epochs.last()) {
                    self.ranges.insert(name.to_owned(), (*first, *last));
                }
                let within = epochs.windows(2).find(|two| two[0] >= two[1]).map(|two| two[1]);
                let mut ranges = self.ranges.values().zip(self.ranges.values().skip(1));
                let again = within.or_else(|| ranges.find(|(a, b)| a.1 >= b.0).map(|(_, b)| b.0));
                self.outbox.extend(epochs);
                if let Some(epoch) = again {
                    return Err(format!("epoch {epoch} is in the outbox behind itself or a later one"));
                }
            }
            _ => {
                let ids = records(content).into_iter().filter(|record| record.kind == 1);
                self.series.extend(ids.map(|raw| u64::from_le_bytes(raw.payload[..8].try_into().unwrap())));
            }
        }
        Ok(())
    }
}

/// What a manifest says of a chain.
struct Listed {
    shard: u16,
    chain: u8,
    epoch: u64,
    begun: u64,
    sealed_bytes: u64,
    state_bytes: u64,
}

/// Whether a manifest is as it was written: version and entries have its checksum.
fn is_whole(manifest: &[u8]) -> bool {
    let crc = |bytes: &[u8]| crc32fast::hash(&[&bytes[8..12], &bytes[16..]].concat()).to_le_bytes();
    manifest.len() >= 16 && crc(manifest) == manifest[12..16]
}

/// The chains in a manifest; none if this is no manifest, or one of which a bit flipped.
fn listed(file: &[u8]) -> impl Iterator<Item = Listed> {
    let body = if file.starts_with(b"tidemani") && is_whole(file) { &file[16..] } else { &[] };
    body.as_chunks::<43>().0.iter().map(|entry| {
        let word = |at: usize| u64::from_le_bytes(entry[at..at + 8].try_into().unwrap());
        Listed {
            shard: u16::from_le_bytes([entry[0], entry[1]]),
            chain: entry[2],
            epoch: word(3),
            begun: word(11),
            sealed_bytes: word(19),
            state_bytes: word(35),
        }
    })
}

/// The epoch that the older of two durable snapshots of each shard has reached.
fn older_snapshot(look: &Look<'_>) -> Option<u64> {
    let manifest = look.files("snapshots").find(|(name, _)| *name == "manifest")?.1;
    let mut chains = vec![Vec::new(); SHARDS];
    listed(manifest).for_each(|listed| chains[usize::from(listed.shard)].push(listed.epoch));
    let older = chains.iter().map(|epochs| epochs.iter().min().copied().filter(|_| epochs.len() == 2));
    older.min().flatten()
}

/// What the durable manifest lists is durable.
fn snapshots_are_whole(look: &Look<'_>) -> Result<(), String> {
    let files: BTreeMap<&str, &[u8]> = look.files("snapshots").collect();
    let Some(manifest) = files.get("manifest") else { return Ok(()) };
    if !is_whole(manifest) {
        return Err("the durable manifest is not whole".to_owned());
    }
    for Listed { shard, chain, epoch, begun, sealed_bytes, state_bytes } in listed(manifest) {
        let chain = ["a", "b"][usize::from(chain)];
        let length = |name: String| files.get(name.as_str()).map_or(0, |content| content.len() as u64);
        let state = length(format!("{shard:03}{chain}-{epoch:020}.state"));
        let sealed = length(format!("{shard:03}{chain}-{begun:020}.sealed"));
        if state != state_bytes || sealed < sealed_bytes {
            let of_it = format!("{shard:03}");
            let there = files.iter().filter(|(name, _)| name.starts_with(&of_it));
            let there: Vec<_> = there.map(|(name, content)| (name, content.len())).collect();
            return Err(format!(
                "the manifest lists shard {shard} at epoch {epoch}, begun at {begun}, with {state_bytes} bytes of state and \
                 {sealed_bytes} that are sealed, and of it these files are durable: {there:?}"
            ));
        }
    }
    Ok(())
}

/// Shared with the one who runs the world.
pub type Shared = Arc<Mutex<Durable>>;

/// Holds the order of durability.
pub struct Laws(pub Shared);

impl Watch for Laws {
    fn written(&mut self, _: &Look<'_>, folder: &str, file: &[u8]) -> Result<(), String> {
        let durable = self.0.lock().unwrap();
        match folder {
            "outbox" => {
                let ahead = outbox_epochs(file).find(|epoch| !durable.ends.contains(epoch));
                ahead.map_or(Ok(()), |epoch| {
                    Err(format!(
                        "epoch {epoch} is written to the outbox, and its end is not durable in the journal"
                    ))
                })
            }
            "journal" => {
                let samples = records(file).into_iter().filter_map(|raw| {
                    match journal::decode(raw.kind, raw.payload) {
                        Ok(Record::Samples(samples)) => Some(samples.series),
                        _ => None,
                    }
                });
                let unknown = samples.flatten().find(|series| !durable.series.contains(series));
                unknown.map_or(Ok(()), |series| {
                    Err(format!("series {series} is written to the journal, and its labels are not durable"))
                })
            }
            "snapshots" => {
                let ahead = listed(file).find(|listed| !durable.outbox.contains(&listed.epoch));
                ahead.map_or(Ok(()), |listed| {
                    let Listed { shard, epoch, .. } = listed;
                    Err(format!("shard {shard} enters the manifest at epoch {epoch}, and the outbox does not hold that"))
                })
            }
            _ => Ok(()),
        }
    }

    fn removed(&mut self, look: &Look<'_>, folder: &str, content: &[u8]) -> Result<(), String> {
        let ends =
            records(content).into_iter().filter_map(|raw| match journal::decode(raw.kind, raw.payload) {
                Ok(Record::EpochEnd(end)) if folder == "journal" => Some(end.epoch),
                _ => None,
            });
        let damaged = self.0.lock().unwrap().damaged;
        match (ends.max(), older_snapshot(look)) {
            (Some(end), needed) if needed.is_none_or(|needed| end > needed) && !damaged => Err(format!(
                "the journal is trimmed up to epoch {end}, and the older of two snapshots is at {needed:?}"
            )),
            _ => Ok(()),
        }
    }

    fn settled(&mut self, look: &Look<'_>, folder: &str, names: bool) -> Result<(), String> {
        match folder {
            "journal" | "outbox" | "series" => {}
            "snapshots" if names && !self.0.lock().unwrap().damaged => return snapshots_are_whole(look),
            _ => return Ok(()),
        }
        let mut durable = self.0.lock().unwrap();
        let segments: Vec<_> = look.files(folder).filter(|(name, _)| name.ends_with(".seg")).collect();
        for (n, (name, content)) in segments.iter().enumerate() {
            let key = (folder.to_owned(), (*name).to_owned());
            if durable.read.contains(&key) {
                continue;
            }
            durable.note(folder, name, content)?;
            // One without records may be one that could not be begun: the log goes on in the one before.
            let begun = |(_, next): &(&str, &[u8])| next.len() > HEADER_BYTES as usize;
            if segments[n + 1..].iter().any(begun) {
                durable.read.insert(key);
            }
        }
        Ok(())
    }
}
