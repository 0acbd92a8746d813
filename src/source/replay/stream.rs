//! The bytes of an input: its first ones, and those behind its last compressed part that belong to none.

use std::io::{self, BufRead, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Counts bytes behind the last part of a compressed input that belong to none.
#[derive(Clone, Debug, Default)]
pub struct IgnoredBytes(Arc<AtomicU64>);

impl IgnoredBytes {
    /// How many there were so far.
    pub fn bytes(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Counts these, and all that follows.
    pub fn rest(&self, begin: &[u8], source: &mut impl Read) -> io::Result<()> {
        let rest = io::copy(source, &mut io::sink())?;
        self.0.fetch_add(begin.len() as u64 + rest, Ordering::Relaxed);
        Ok(())
    }
}

/// Takes the first bytes of a source, fewer only if it ends; a pipe may give them one by one.
pub fn head(source: &mut impl Read, bytes: usize) -> io::Result<Vec<u8>> {
    let mut begin = Vec::new();
    source.take(bytes as u64).read_to_end(&mut begin)?;
    Ok(begin)
}

/// Passes over zeros.
pub fn skip_zeros(source: &mut impl BufRead) -> io::Result<()> {
    loop {
        let bytes = source.fill_buf()?;
        let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
        let all = zeros == bytes.len();
        let ended = bytes.is_empty();
        source.consume(zeros);
        if ended || !all {
            return Ok(());
        }
    }
}
