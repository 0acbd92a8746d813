//! The state of a shard as bytes, and back: what a snapshot holds.
//!
//! A save has two parts. The *state* is everything small or changing, written anew each time. The *panes* are those
//! that no late sample can touch any more: each is in one save of its chain, and those before it need not be written
//! again. A chain is a sequence of saves that begins with a whole one; the panes of all of them in order, then the
//! state of the last, give the shard back. A shard has two chains, written in turn, so that each is complete without
//! the other.
//!
//! Numbers are little-endian. Bytes from outside never make the reader panic or reserve more than they are long.
//!
//! Not here: files, checksums and versions, which are the business of who keeps the bytes.

use crate::sample::EpochEnd;
use crate::settings::Settings;

/// Chains of a shard.
pub const CHAINS: usize = 2;

/// Bytes are not the state of a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadState(pub &'static str);

impl std::fmt::Display for BadState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for BadState {}

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

/// A shard's state as of the end of an epoch.
#[derive(Clone, Debug, PartialEq)]
pub struct ShardSnapshot {
    /// What was asked for; `whole` also where it was not asked for and had to be.
    pub save: SaveRequest,
    /// The epoch.
    pub end: EpochEnd,
    /// The settings in force.
    pub settings: Settings,
    /// Everything but the panes that no late sample touches.
    pub state: Vec<u8>,
    /// Of those panes the ones that the chain does not hold yet.
    pub panes: Vec<u8>,
}

impl ShardSnapshot {
    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.state.len() + self.panes.len()
    }
}

/// A shard to begin with: the last save of a chain.
#[derive(Clone, Debug)]
pub struct StoredShard<'a> {
    /// The epoch whose end this is the state of.
    pub end: EpochEnd,
    /// The settings it was computed under.
    pub settings: Settings,
    /// Its state.
    pub state: &'a [u8],
    /// The panes of the chain, save by save.
    pub panes: Vec<&'a [u8]>,
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

/// Reads what [`Put`] wrote.
pub(crate) struct StateReader<'a>(pub(crate) &'a [u8]);

const SHORT: BadState = BadState("it is cut short");

impl<'a> StateReader<'a> {
    fn bytes(&mut self, n: usize) -> Result<&'a [u8], BadState> {
        let (some, rest) = self.0.split_at_checked(n).ok_or(SHORT)?;
        self.0 = rest;
        Ok(some)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], BadState> {
        let (some, rest) = self.0.split_first_chunk::<N>().ok_or(SHORT)?;
        self.0 = rest;
        Ok(*some)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, BadState> {
        Ok(self.array::<1>()?[0])
    }

    pub(crate) fn flag(&mut self) -> Result<bool, BadState> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(BadState("a flag is neither 0 nor 1")),
        }
    }

    pub(crate) fn u32(&mut self) -> Result<u32, BadState> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Result<u64, BadState> {
        self.array().map(u64::from_le_bytes)
    }

    pub(crate) fn i64(&mut self) -> Result<i64, BadState> {
        self.array().map(i64::from_le_bytes)
    }

    /// A count of things that take at least `bytes` each.
    pub(crate) fn n(&mut self, bytes: usize) -> Result<usize, BadState> {
        let n = self.u32()? as usize;
        if n.checked_mul(bytes).is_none_or(|all| all > self.0.len()) { Err(SHORT) } else { Ok(n) }
    }

    pub(crate) fn i64s(&mut self) -> Result<Vec<i64>, BadState> {
        let n = self.n(8)?;
        (0..n).map(|_| self.i64()).collect()
    }

    pub(crate) fn text(&mut self) -> Result<String, BadState> {
        let n = self.n(1)?;
        let text = std::str::from_utf8(self.bytes(n)?);
        text.map(str::to_owned).map_err(|_| BadState("a text is not UTF-8"))
    }

    pub(crate) fn words<const N: usize>(&mut self) -> Result<[u64; N], BadState> {
        let bytes = self.bytes(8 * N)?;
        Ok(std::array::from_fn(|i| u64::from_le_bytes(bytes.as_chunks::<8>().0[i])))
    }

    /// A part that is read by itself.
    pub(crate) fn part(&mut self) -> Result<StateReader<'a>, BadState> {
        let n = usize::try_from(self.u64()?).map_err(|_| SHORT)?;
        self.bytes(n).map(StateReader)
    }

    pub(crate) fn end(&self) -> Result<(), BadState> {
        if self.0.is_empty() { Ok(()) } else { Err(BadState("something follows its end")) }
    }
}
