//! UTF-16 → UTF-8: what PowerShell's `>` and "Unicode text" of spreadsheets write.
//!
//! Half of a pair becomes bytes that are not UTF-8, so that its line is refused and no other.

use std::io::{self, Read};

const CHUNK_BYTES: usize = 1 << 14;

/// The order of the bytes of a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ByteOrder {
    Little,
    Big,
}

/// The order that the first four bytes of an input tell, with or without a mark; none if it is no UTF-16.
pub fn order(begin: &[u8]) -> Option<ByteOrder> {
    match begin {
        [0xff, 0xfe, ..] => Some(ByteOrder::Little),
        [0xfe, 0xff, ..] => Some(ByteOrder::Big),
        // Two characters of ASCII: no text in UTF-8 has zeros there.
        [1..=0x7f, 0, 1..=0x7f, 0, ..] => Some(ByteOrder::Little),
        [0, 1..=0x7f, 0, 1..=0x7f, ..] => Some(ByteOrder::Big),
        _ => None,
    }
}

/// The text of `source` as UTF-8; a mark at its begin stays.
pub struct Utf16<R> {
    source: R,
    order: ByteOrder,
    /// Bytes read that are no whole character yet.
    undecoded: Vec<u8>,
    text: Vec<u8>,
    handed_out: usize,
    ended: bool,
}

impl<R: Read> Utf16<R> {
    /// Reads nothing yet.
    pub fn new(source: R, order: ByteOrder) -> Utf16<R> {
        Utf16 { source, order, undecoded: Vec::new(), text: Vec::new(), handed_out: 0, ended: false }
    }

    /// Reads on, until there is text or the end.
    fn fill(&mut self) -> io::Result<()> {
        self.text.clear();
        self.handed_out = 0;
        while self.text.is_empty() && !self.ended {
            let begin = self.undecoded.len();
            self.undecoded.resize(begin + CHUNK_BYTES, 0);
            let read = self.source.read(&mut self.undecoded[begin..]);
            self.undecoded.truncate(begin + *read.as_ref().unwrap_or(&0));
            match read {
                Ok(n) => self.ended = n == 0,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            }
            self.take();
        }
        Ok(())
    }

    /// Makes text of what is held, but for the begin of a character that is not whole.
    fn take(&mut self) {
        let (pairs, _) = self.undecoded.as_chunks::<2>();
        let mut units: Vec<u16> = match self.order {
            ByteOrder::Little => pairs.iter().map(|pair| u16::from_le_bytes(*pair)).collect(),
            ByteOrder::Big => pairs.iter().map(|pair| u16::from_be_bytes(*pair)).collect(),
        };
        let high = units.last().is_some_and(|unit| (0xd800..0xdc00).contains(unit));
        if high && !self.ended {
            units.pop();
        }
        self.undecoded.drain(..2 * units.len());
        for read in char::decode_utf16(units) {
            match read {
                Ok(c) => self.text.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
                Err(half) => {
                    let half = half.unpaired_surrogate();
                    let [high, low] = [half >> 6 & 0x3f, half & 0x3f].map(|bits| 0x80 | bits as u8);
                    self.text.extend_from_slice(&[0xed, high, low]);
                }
            }
        }
    }
}

impl<R: Read> Read for Utf16<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.handed_out == self.text.len() {
            self.fill()?;
        }
        let n = buffer.len().min(self.text.len() - self.handed_out);
        buffer[..n].copy_from_slice(&self.text[self.handed_out..self.handed_out + n]);
        self.handed_out += n;
        if n == 0 && !buffer.is_empty() && !self.undecoded.is_empty() {
            self.undecoded.clear();
            let why = "it is cut off: it is UTF-16 and ends within a character";
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, why));
        }
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use std::io::BufReader;

    use super::*;

    fn encode(text: &str, order: ByteOrder) -> Vec<u8> {
        let unit =
            |unit: u16| if order == ByteOrder::Little { unit.to_le_bytes() } else { unit.to_be_bytes() };
        text.encode_utf16().flat_map(unit).collect()
    }

    #[test]
    fn both_orders_are_read_however_the_bytes_arrive() {
        let text = format!("\u{feff}{}", "up{a=\"é😀\u{ffff}\"} 1 5\r\n".repeat(3_000));
        for order in [ByteOrder::Little, ByteOrder::Big] {
            let bytes = encode(&text, order);
            assert_eq!(super::order(&bytes), Some(order));
            assert_eq!(super::order(&encode(&text[3..], order)), Some(order), "without a mark");
            for capacity in [1, 3, 4_099, 1 << 20] {
                let mut out = String::new();
                // A buffer that is smaller than what is asked for gives as much as it holds.
                let source = BufReader::with_capacity(capacity, Slow(&bytes, capacity));
                Utf16::new(source, order).read_to_string(&mut out).unwrap();
                assert!(out == text, "{order:?}, {capacity} bytes at once");
            }
        }
        for begin in [&b"up 1"[..], b"# HE", b"{__n", b"\xef\xbb\xbfu", b"", b"u", b"\0\0\0\0", b"u\0"] {
            assert_eq!(super::order(begin), None, "{}", begin.escape_ascii());
        }
    }

    /// Gives a few bytes at a time.
    struct Slow<'a>(&'a [u8], usize);

    impl Read for Slow<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let n = buffer.len().min(self.1);
            self.0.read(&mut buffer[..n])
        }
    }

    #[test]
    fn halves_are_not_utf_8_and_an_end_within_a_character_is_an_error() {
        let mut bytes = encode("a\n", ByteOrder::Little);
        bytes.extend([0x00, 0xd8, b'b', 0, 0x00, 0xdc, b'\n', 0, 0x3d, 0xd8]);
        let mut out = Vec::new();
        Utf16::new(&bytes[..], ByteOrder::Little).read_to_end(&mut out).unwrap();
        assert_eq!(out, b"a\n\xed\xa0\x80b\xed\xb0\x80\n\xed\xa0\xbd");
        bytes.push(b'c');
        let mut out = Vec::new();
        let error = Utf16::new(&bytes[..], ByteOrder::Little).read_to_end(&mut out).unwrap_err();
        assert_eq!(error.to_string(), "it is cut off: it is UTF-16 and ends within a character");
        assert!(out.starts_with(b"a\n"));
    }
}
