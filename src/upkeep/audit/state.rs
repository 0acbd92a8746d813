//! What the audit knows of the series it follows, as a file: a restart goes on with it and reads the journal on.
//!
//! ```text
//! crc32 u32 of the rest | length of the head u32 | head, JSON | samples of all series, as a record of the journal
//! ```
//! It is not synced, and a file that cannot be used is given up: then the audit begins anew. Not here: where in the
//! journal that is.

use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};
use tidewatch_dataflows::sample::Samples;
use tidewatch_dataflows::settings::Settings;

use super::followed::FollowedSeries;
use crate::journal::{KIND_SAMPLES, Record, decode, encode_samples};

/// Version of the file.
const VERSION: u32 = 1;
/// No file that was written is longer.
const BYTES_MAX: u64 = 16 << 20;

/// The state of the audit at the end of an epoch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AuditState {
    /// The epoch.
    pub epoch: u64,
    /// The settings that it was computed under.
    pub settings: Settings,
    /// The series.
    pub followed: Vec<FollowedSeries>,
}

/// What comes before the samples.
#[derive(Serialize, Deserialize)]
struct AuditHeader<T> {
    version: u32,
    /// How many samples each series has.
    samples: Vec<usize>,
    state: T,
}

/// Writes it aside and renames it.
///
/// # Errors
/// The disk's; what was there before stays.
pub fn write(path: &Path, kept: &AuditState) -> io::Result<()> {
    let mut samples = Samples::default();
    for followed in &kept.followed {
        followed.samples.iter().for_each(|(at_ms, value)| samples.push(followed.series.0, *at_ms, *value));
    }
    let counts = kept.followed.iter().map(|followed| followed.samples.len()).collect();
    let head = serde_json::to_vec(&AuditHeader { version: VERSION, samples: counts, state: kept })?;
    let mut bytes = vec![0; 4];
    bytes.extend_from_slice(&u32::try_from(head.len()).map_err(io::Error::other)?.to_le_bytes());
    bytes.extend_from_slice(&head);
    encode_samples(&samples, &mut bytes);
    let crc = crc32fast::hash(&bytes[4..]);
    bytes[..4].copy_from_slice(&crc.to_le_bytes());
    let next = path.with_extension("next");
    std::fs::write(&next, bytes)?;
    std::fs::rename(next, path)
}

/// Reads it; `None` where there is none.
///
/// # Errors
/// A file that cannot be read, or was not written by this version; in words.
pub fn read(path: &Path) -> Result<Option<AuditState>, String> {
    match std::fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.to_string()),
        Ok(file) if file.len() > BYTES_MAX => {
            return Err(format!("it has {} bytes; at most {BYTES_MAX} were written", file.len()));
        }
        Ok(_) => {}
    }
    let bytes = std::fs::read(path).map_err(|error| error.to_string())?;
    decode_all(&bytes).map(Some)
}

fn decode_all(bytes: &[u8]) -> Result<AuditState, String> {
    let short = || "it is cut off".to_owned();
    let (crc, rest) = bytes.split_first_chunk::<4>().ok_or_else(short)?;
    if crc32fast::hash(rest) != u32::from_le_bytes(*crc) {
        return Err("its checksum is wrong".to_owned());
    }
    let (length, rest) = rest.split_first_chunk::<4>().ok_or_else(short)?;
    let (head, samples) = rest.split_at_checked(u32::from_le_bytes(*length) as usize).ok_or_else(short)?;
    let head: AuditHeader<AuditState> = serde_json::from_slice(head).map_err(|error| error.to_string())?;
    let AuditHeader { version, samples: counts, state: mut kept } = head;
    if version != VERSION {
        return Err(format!("its version is {version}; this program reads {VERSION}"));
    }
    // They were in force: bounds that became tighter since are no matter.
    kept.settings = kept.settings.computable().map_err(|error| error.to_string())?;
    let Ok(Record::Samples(samples)) = decode(KIND_SAMPLES, samples) else {
        return Err("its samples cannot be read".to_owned());
    };
    if counts.len() != kept.followed.len() {
        return Err("it counts the samples of other series".to_owned());
    }
    let mut from = 0;
    for (followed, count) in kept.followed.iter_mut().zip(counts) {
        let range = from..count.checked_add(from).filter(|to| *to <= samples.len()).ok_or_else(short)?;
        from = range.end;
        followed.samples = range.map(|i| (samples.at_ms[i], samples.value[i])).collect();
        if !followed.is_sound() {
            return Err(format!("what it has of series {} makes no sense", followed.series));
        }
    }
    Ok(kept)
}

#[cfg(test)]
mod tests {
    use tidewatch_dataflows::sample::{EpochEnd, SeriesId};

    use super::super::followed::AdmitRules;
    use super::*;

    fn kept() -> AuditState {
        let settings = Settings::default().validated().unwrap();
        let rules = AdmitRules::of(&settings, 1_000);
        let followed = [3, 700].map(|id| {
            let mut followed = FollowedSeries::join(SeriesId(id), 1_700_000_000_000, 1, 1_800_000_000_000);
            for epoch in 1..5 {
                let at = |i: i64| 1_700_000_000_000 + epoch * 60_000 + i * 1_000;
                (0..id as i64 % 40).for_each(|i| followed.record(at(i), 0.1 * i as f64));
                let end = EpochEnd {
                    epoch: epoch as u64,
                    processing_ms: at(60),
                    watermark_ms: at(60),
                    last_of_input: false,
                };
                followed.end(end, &rules);
            }
            followed
        });
        AuditState { epoch: 77, settings, followed: followed.to_vec() }
    }

    #[test]
    fn it_comes_back_as_it_was_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit");
        assert_eq!(read(&path), Ok(None));
        let mut of_wider_bounds = kept();
        of_wider_bounds.settings.allowed_lateness_ms = 30 * 86_400_000;
        assert!(of_wider_bounds.settings.clone().validated().is_err());
        for kept in [kept(), AuditState { followed: Vec::new(), ..kept() }, of_wider_bounds] {
            write(&path, &kept).unwrap();
            assert_eq!(read(&path), Ok(Some(kept)));
        }
    }

    #[test]
    fn a_head_without_names_as_it_was_written_once_is_read() {
        let text = serde_json::to_vec(&(VERSION, vec![3_usize, 4], kept())).unwrap();
        let head: AuditHeader<AuditState> = serde_json::from_slice(&text).unwrap();
        assert_eq!((head.version, head.samples), (VERSION, vec![3, 4]));
        assert_eq!(head.state.epoch, kept().epoch);
    }

    #[test]
    fn settings_that_nothing_can_be_computed_with_are_not_taken() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit");
        let mut kept = kept();
        kept.settings.windows.clear();
        write(&path, &kept).unwrap();
        let why = read(&path).unwrap_err();
        assert!(why.contains("windows"), "{why}");
    }

    #[test]
    fn no_bytes_make_reading_panic_and_none_that_differ_are_taken() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit");
        write(&path, &kept()).unwrap();
        let good = std::fs::read(&path).unwrap();
        assert!(decode_all(&good).is_ok());
        let mut rng = fastrand::Rng::with_seed(5);
        for _ in 0..2_000 {
            let mut bytes = good.clone();
            match rng.u8(..3) {
                0 => bytes.truncate(rng.usize(..bytes.len())),
                1 => bytes[rng.usize(..good.len())] ^= 1 << rng.u8(..8),
                _ => {
                    // The checksum is right, so that what is behind it is read.
                    let at = rng.usize(8..good.len());
                    bytes[at] ^= 1 << rng.u8(..8);
                    let crc = crc32fast::hash(&bytes[4..]);
                    bytes[..4].copy_from_slice(&crc.to_le_bytes());
                    let _ = decode_all(&bytes);
                    continue;
                }
            }
            assert!(decode_all(&bytes).is_err());
        }
    }
}
