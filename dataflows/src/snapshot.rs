//! The state of a shard as bytes, and back: what a snapshot holds.
//!
//! A save is made of *parts*, one for each stage, under the stage's name and version; they are put together by who takes
//! them ([`assemble`]). A part has two pieces. The *state* is everything small or changing, written anew each time. What is
//! *sealed* no late sample can touch any more: it is in one save of its chain, and need not be written again. A chain is a
//! sequence of saves that begins with a whole one; what is sealed in all of them in order, then the state of the last, give
//! the shard back. A shard has two chains, written in turn, so that each is complete without the other.
//!
//! ```text
//! state    version u8 = 1 | epochs of the chains, 2 x u64 (plus 1; 0 for none) | parts
//! sealed   version u8 = 1 | parts
//! parts    n u32 | n x (name: n u32, bytes | version u8 | piece: bytes u64, bytes)
//! ```
//! A part of a name that is not known is left out, and a stage without a part, or with one of another version, is built anew
//! from what the gate holds.
//!
//! Numbers are little-endian. Bytes from outside never make the reader panic or reserve more than they are long.
//!
//! Not here: files, checksums and versions of files, which are the business of who keeps the bytes.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::sample::EpochEnd;
use crate::settings::Settings;

/// Chains of a shard.
pub const CHAINS: usize = 2;

/// Bytes are not the state of a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StateError(pub &'static str);

impl std::fmt::Display for StateError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for StateError {}

/// Asks for a shard's state as of the end of the epoch it comes with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SaveRequest {
    /// The shard.
    pub shard: usize,
    /// The chain it is for, below [`CHAINS`].
    pub chain: usize,
    /// Whether the chain begins anew.
    pub whole: bool,
}

/// One stage's part of a save.
#[derive(Clone, Debug, PartialEq)]
pub struct SnapshotPart {
    /// What was asked for; `whole` also where it was not asked for and had to be.
    pub save: SaveRequest,
    /// The epoch.
    pub end: EpochEnd,
    /// The settings in force.
    pub settings: Arc<Settings>,
    /// The epochs of the last saves of both chains, this one included.
    pub chains: [Option<u64>; CHAINS],
    /// Name of the stage.
    pub stage: &'static str,
    /// Version of the stage's part.
    pub version: u8,
    /// What each save writes anew.
    pub state: Vec<u8>,
    /// What is sealed and was not in the chain yet.
    pub sealed: Vec<u8>,
}

/// Version of how parts are put together.
const PARTS_VERSION: u8 = 1;
/// Most stages whose parts are read.
const PARTS_MAX: usize = 64;

/// Puts the parts of one or more shards together, shard by shard in the order in which their first parts came.
pub fn assemble(parts: Vec<SnapshotPart>) -> Vec<ShardSnapshot> {
    let mut shards: Vec<Vec<SnapshotPart>> = Vec::new();
    for part in parts {
        let same = |of: &&mut Vec<SnapshotPart>| {
            (of[0].save.shard, of[0].end.epoch) == (part.save.shard, part.end.epoch)
        };
        match shards.iter_mut().find(same) {
            Some(of) => of.push(part),
            None => shards.push(vec![part]),
        }
    }
    shards.iter().map(|parts| assembled(parts)).collect()
}

/// The save that these parts of one shard are.
fn assembled(parts: &[SnapshotPart]) -> ShardSnapshot {
    let first = &parts[0];
    let bytes =
        |of: fn(&SnapshotPart) -> &[u8]| parts.iter().map(|part| of(part).len() + 32).sum::<usize>() + 32;
    let mut state = StateWriter(Vec::with_capacity(bytes(|part| &part.state)));
    state.u8(PARTS_VERSION);
    first.chains.iter().for_each(|epoch| state.u64(epoch.map_or(0, |epoch| epoch + 1)));
    put_parts(&mut state, parts, |part| &part.state);
    let mut sealed = StateWriter(Vec::with_capacity(bytes(|part| &part.sealed)));
    sealed.u8(PARTS_VERSION);
    put_parts(&mut sealed, parts, |part| &part.sealed);
    ShardSnapshot {
        save: first.save,
        end: first.end,
        settings: (*first.settings).clone(),
        state: state.0,
        sealed: sealed.0,
    }
}

fn put_parts(put: &mut StateWriter, parts: &[SnapshotPart], piece: fn(&SnapshotPart) -> &[u8]) {
    put.n(parts.len());
    for part in parts {
        put.text(part.stage);
        put.u8(part.version);
        put.part(piece(part));
    }
}

/// The pieces of parts by the name of their stage, each with its version.
pub(crate) type Pieces<'a> = BTreeMap<String, (u8, StateReader<'a>)>;

/// Reads what [`assemble`] made of the states: the epochs of the chains, and the pieces.
pub(crate) fn read_state(bytes: &[u8]) -> Result<([Option<u64>; CHAINS], Pieces<'_>), StateError> {
    let mut take = versioned(bytes)?;
    let mut chains = [None; CHAINS];
    for chain in &mut chains {
        *chain = take.u64()?.checked_sub(1);
    }
    Ok((chains, take_pieces(take)?))
}

/// Reads what [`assemble`] made of what one save sealed.
pub(crate) fn read_sealed(bytes: &[u8]) -> Result<Pieces<'_>, StateError> {
    take_pieces(versioned(bytes)?)
}

fn versioned(bytes: &[u8]) -> Result<StateReader<'_>, StateError> {
    let mut take = StateReader(bytes);
    match take.u8()? {
        PARTS_VERSION => Ok(take),
        _ => Err(StateError("its parts are put together in another way")),
    }
}

fn take_pieces(mut take: StateReader<'_>) -> Result<Pieces<'_>, StateError> {
    let n = take.n(13)?;
    if n > PARTS_MAX {
        return Err(StateError("it has more parts than there are stages"));
    }
    let mut pieces = Pieces::new();
    for _ in 0..n {
        let (name, version) = (take.text()?, take.u8()?);
        if pieces.insert(name, (version, take.part()?)).is_some() {
            return Err(StateError("a stage has two parts"));
        }
    }
    take.end()?;
    Ok(pieces)
}

/// A shard's state as of the end of an epoch.
#[derive(Clone, Debug, PartialEq)]
pub struct ShardSnapshot {
    /// What was asked for; `whole` also where it was not asked for and had to be.
    pub save: SaveRequest,
    /// The epoch.
    pub end: EpochEnd,
    /// The settings in force.
    pub settings: Settings,
    /// The states of all stages.
    pub state: Vec<u8>,
    /// What they sealed and the chain does not hold yet.
    pub sealed: Vec<u8>,
}

impl ShardSnapshot {
    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.state.len() + self.sealed.len()
    }
}

/// A shard to begin with: the last save of a chain.
#[derive(Clone, Debug)]
pub struct StoredShard<'a> {
    /// The epoch whose end this is the state of.
    pub end: EpochEnd,
    /// The settings it was computed under.
    pub settings: Settings,
    /// The states of its stages.
    pub state: &'a [u8],
    /// What is sealed in the chain, save by save.
    pub sealed: Vec<&'a [u8]>,
}

/// Writes plain values behind each other.
#[derive(Default)]
pub(crate) struct StateWriter(pub(crate) Vec<u8>);

impl StateWriter {
    pub(crate) fn u8(&mut self, value: u8) {
        self.0.push(value);
    }

    pub(crate) fn u32(&mut self, value: u32) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    pub(crate) fn u64(&mut self, value: u64) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    pub(crate) fn i64(&mut self, value: i64) {
        self.u64(value as u64);
    }

    /// A part that is read by itself, of any size.
    pub(crate) fn part(&mut self, part: &[u8]) {
        self.u64(part.len() as u64);
        self.0.extend_from_slice(part);
    }

    /// A count of what follows.
    pub(crate) fn n(&mut self, n: usize) {
        self.u32(u32::try_from(n).expect("a shard holds fewer than 2^32 of anything"));
    }

    pub(crate) fn i64s(&mut self, values: &[i64]) {
        self.n(values.len());
        values.iter().for_each(|value| self.i64(*value));
    }

    pub(crate) fn text(&mut self, text: &str) {
        self.n(text.len());
        self.0.extend_from_slice(text.as_bytes());
    }

    pub(crate) fn words<const N: usize>(&mut self, words: &[u64; N]) {
        self.0.extend_from_slice(words.map(u64::to_le_bytes).as_flattened());
    }
}

/// Reads what [`StateWriter`] wrote.
#[derive(Clone, Copy)]
pub(crate) struct StateReader<'a>(pub(crate) &'a [u8]);

const SHORT: StateError = StateError("it is cut short");

impl<'a> StateReader<'a> {
    fn bytes(&mut self, n: usize) -> Result<&'a [u8], StateError> {
        let (some, rest) = self.0.split_at_checked(n).ok_or(SHORT)?;
        self.0 = rest;
        Ok(some)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], StateError> {
        let (some, rest) = self.0.split_first_chunk::<N>().ok_or(SHORT)?;
        self.0 = rest;
        Ok(*some)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, StateError> {
        Ok(self.array::<1>()?[0])
    }

    pub(crate) fn flag(&mut self) -> Result<bool, StateError> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(StateError("a flag is neither 0 nor 1")),
        }
    }

    pub(crate) fn u32(&mut self) -> Result<u32, StateError> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Result<u64, StateError> {
        self.array().map(u64::from_le_bytes)
    }

    pub(crate) fn i64(&mut self) -> Result<i64, StateError> {
        self.array().map(i64::from_le_bytes)
    }

    /// A count of things that take at least `bytes` each.
    pub(crate) fn n(&mut self, bytes: usize) -> Result<usize, StateError> {
        let n = self.u32()? as usize;
        if n.checked_mul(bytes).is_none_or(|all| all > self.0.len()) { Err(SHORT) } else { Ok(n) }
    }

    pub(crate) fn i64s(&mut self) -> Result<Vec<i64>, StateError> {
        let n = self.n(8)?;
        (0..n).map(|_| self.i64()).collect()
    }

    pub(crate) fn text(&mut self) -> Result<String, StateError> {
        let n = self.n(1)?;
        let text = std::str::from_utf8(self.bytes(n)?);
        text.map(str::to_owned).map_err(|_| StateError("a text is not UTF-8"))
    }

    pub(crate) fn words<const N: usize>(&mut self) -> Result<[u64; N], StateError> {
        let bytes = self.bytes(8 * N)?;
        Ok(std::array::from_fn(|i| u64::from_le_bytes(bytes.as_chunks::<8>().0[i])))
    }

    /// A part that is read by itself.
    pub(crate) fn part(&mut self) -> Result<StateReader<'a>, StateError> {
        let n = usize::try_from(self.u64()?).map_err(|_| SHORT)?;
        self.bytes(n).map(StateReader)
    }

    pub(crate) fn end(&self) -> Result<(), StateError> {
        if self.0.is_empty() { Ok(()) } else { Err(StateError("something follows its end")) }
    }
}
