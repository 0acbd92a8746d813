//! Opens an input: what it is compressed by and how its characters are encoded is told by its first bytes.
//!
//! Not here: lines, and what they say.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Cursor, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::gzip::{self, Gzip};
use super::stream::{IgnoredBytes, head};
use super::utf16::{self, Utf16};
use super::zstd::{self, Zstd};

const BUFFER_BYTES: usize = 1 << 18;
/// Bytes that tell what an input is.
const HEAD_BYTES: usize = 6;
/// What begins so is compressed by something that is not read.
const NOT_READ: [(&[u8], &str); 4] = [
    (b"\xfd7zXZ\0", "xz"),
    (b"\x04\x22\x4d\x18", "lz4"),
    (b"\xff\x06\0\0sN", "snappy"),
    (b"PK\x03\x04", "zip"),
];

/// The compression that begins so and is not read.
fn not_read(begin: &[u8]) -> Option<&'static str> {
    // Of any level. A block follows, or the end; so a name of text that begins alike is text.
    if matches!(
        begin,
        [b'B', b'Z', b'h', b'1'..=b'9', 0x31, 0x41, ..] | [b'B', b'Z', b'h', b'1'..=b'9', 0x17, 0x72, ..]
    ) {
        return Some("bzip2");
    }
    NOT_READ.iter().find(|(magic, _)| begin.starts_with(magic)).map(|(_, compression)| *compression)
}

/// An opened input.
pub struct InputStream {
    /// Its text, as UTF-8.
    pub text: BufReader<Box<dyn Read + Send>>,
    /// What was left out behind its last compressed part.
    pub ignored: IgnoredBytes,
}

/// Counts what goes through.
struct CountingReader<R> {
    inner: R,
    bytes: Arc<AtomicU64>,
}

impl<R: Read> Read for CountingReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.bytes.fetch_add(n as u64, Ordering::Relaxed);
        Ok(n)
    }
}

/// Opens the input of this name; `counter` counts its bytes as they stand in it.
pub fn open(name: &str, counter: Arc<AtomicU64>) -> io::Result<InputStream> {
    let inner: Box<dyn Read + Send> = match name {
        "-" => Box::new(io::stdin()),
        _ => Box::new(File::open(name)?),
    };
    let mut source = BufReader::with_capacity(BUFFER_BYTES, CountingReader { inner, bytes: counter });
    let begin = head(&mut source, HEAD_BYTES)?;
    let ignored = IgnoredBytes::default();
    let decompressed = decompress(name, begin, source, &ignored)?;
    Ok(InputStream { text: BufReader::with_capacity(BUFFER_BYTES, decode(decompressed)?), ignored })
}

/// The decompressed bytes of a source whose first bytes are taken: they tell, and only then the name.
fn decompress(
    name: &str,
    begin: Vec<u8>,
    source: impl BufRead + Send + 'static,
    ignored: &IgnoredBytes,
) -> io::Result<Box<dyn Read + Send>> {
    let lower = name.to_ascii_lowercase();
    let (gzip, zstd) = (begin.starts_with(&gzip::MAGIC), zstd::begins_frame(&begin));
    let not_read = not_read(&begin);
    let whole = Cursor::new(begin).chain(source);
    if gzip {
        Ok(Box::new(Gzip::new(whole, ignored.clone())))
    } else if zstd {
        Ok(Box::new(Zstd::new(whole, ignored.clone())))
    } else if let Some(compression) = not_read {
        let why = format!(
            "it is compressed by {compression}, which is not read; gzip (.gz) and Zstandard (.zst) are"
        );
        Err(io::Error::new(io::ErrorKind::InvalidData, why))
    } else if lower.ends_with(".gz") {
        Ok(Box::new(Gzip::new(whole, ignored.clone())))
    } else if lower.ends_with(".zst") {
        Ok(Box::new(Zstd::new(whole, ignored.clone())))
    } else {
        Ok(Box::new(whole))
    }
}

/// The text as UTF-8.
fn decode(mut text: Box<dyn Read + Send>) -> io::Result<Box<dyn Read + Send>> {
    let begin = head(&mut text, 4)?;
    if begin == [0xff, 0xfe, 0, 0] || begin == [0, 0, 0xfe, 0xff] {
        let why = "it is UTF-32, which is not read; UTF-8 and UTF-16 are";
        return Err(io::Error::new(io::ErrorKind::InvalidData, why));
    }
    let order = utf16::order(&begin);
    let whole = Cursor::new(begin).chain(text);
    Ok(match order {
        Some(order) => Box::new(Utf16::new(whole, order)),
        None => Box::new(whole),
    })
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// Is interrupted before each read.
    pub struct Interrupted<'a> {
        rest: &'a [u8],
        next: bool,
    }

    impl<'a> Interrupted<'a> {
        pub fn new(rest: &'a [u8]) -> Interrupted<'a> {
            Interrupted { rest, next: false }
        }
    }

    impl Read for Interrupted<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.next = !self.next;
            if self.next { Err(io::ErrorKind::Interrupted.into()) } else { self.rest.read(buffer) }
        }
    }

    #[test]
    fn compressions_that_are_not_read_are_known_by_their_first_bytes() {
        for level in b'1'..=b'9' {
            for block in [b"1AY&SY", b"\x17\x72\x45\x38\x50\x90"] {
                assert_eq!(not_read(&[b"BZh", &[level][..], block].concat()), Some("bzip2"));
            }
        }
        for text in [&b"BZh9"[..], b"BZh0", b"BZh01AY&SY", b"BZh9_total 1", b"BZh91 5", b"BZh:1A", b"BZ", b""]
        {
            assert_eq!(not_read(text), None, "{}", text.escape_ascii());
        }
        for (magic, compression) in NOT_READ {
            assert_eq!(not_read(magic), Some(compression));
        }
    }
}
