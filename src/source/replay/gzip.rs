//! Gzip, member after member. What stands behind the last one is zeros, with which tapes and object stores fill up, or
//! foreign bytes, which are counted and left out, as gzip(1) does.
//!
//! The members are taken apart here because a reader over [`Decompress`] can give out everything that came before damage.

use std::io::{self, BufRead, Read};

use flate2::{Crc, Decompress, FlushDecompress, Status};

use super::stream::{IgnoredBytes, head, skip_zeros};

/// What a member begins with.
pub const MAGIC: [u8; 2] = [0x1f, 0x8b];
/// The only method there is.
const DEFLATE: u8 = 8;
const HEADER_SUM: u8 = 1 << 1;
const EXTRA: u8 = 1 << 2;
const NAME: u8 = 1 << 3;
const COMMENT: u8 = 1 << 4;
const RESERVED: u8 = 0b1110_0000;

enum MemberPart {
    /// Before a member; whether it is the first.
    Begin {
        first: bool,
    },
    Body,
    Sums,
    /// What was read before is given out, and this is next.
    Damage(io::Error),
    End,
}

/// The decompressed bytes of all members.
pub struct Gzip<R> {
    source: R,
    inflate: Decompress,
    sum: Crc,
    at: MemberPart,
    ignored: IgnoredBytes,
}

impl<R: BufRead> Gzip<R> {
    /// Reads nothing yet; bytes behind the last member are counted in `ignored`.
    pub fn new(source: R, ignored: IgnoredBytes) -> Gzip<R> {
        let (inflate, sum, at) = (Decompress::new(false), Crc::new(), MemberPart::Begin { first: true });
        Gzip { source, inflate, sum, at, ignored }
    }

    /// Begins the next member, if there is one.
    fn begin(&mut self, first: bool) -> io::Result<MemberPart> {
        if !first {
            skip_zeros(&mut self.source)?;
        }
        let begin = head(&mut self.source, MAGIC.len())?;
        if begin != MAGIC {
            if !first {
                self.ignored.rest(&begin, &mut self.source)?;
                return Ok(MemberPart::End);
            }
            return Err(if begin.is_empty() { cut_off() } else { no_header() });
        }
        self.header()?;
        self.inflate.reset(false);
        self.sum.reset();
        Ok(MemberPart::Body)
    }

    /// Passes over the header, whose magic is taken.
    fn header(&mut self) -> io::Result<()> {
        let mut fixed = [0; 8];
        self.source.read_exact(&mut fixed).map_err(cut)?;
        let [method, flags, ..] = fixed;
        if method != DEFLATE || flags & RESERVED != 0 {
            return Err(no_header());
        }
        if flags & EXTRA != 0 {
            let mut length = [0; 2];
            self.source.read_exact(&mut length).map_err(cut)?;
            self.pass(u16::from_le_bytes(length).into())?;
        }
        for text in [NAME, COMMENT] {
            if flags & text != 0 {
                self.source.skip_until(0)?;
            }
        }
        if flags & HEADER_SUM != 0 {
            self.pass(2)?;
        }
        Ok(())
    }

    fn pass(&mut self, bytes: u64) -> io::Result<()> {
        let passed = io::copy(&mut (&mut self.source).take(bytes), &mut io::sink())?;
        if passed < bytes { Err(cut_off()) } else { Ok(()) }
    }

    /// Decompresses into `buffer`: the number of bytes, and where the member is after them.
    fn inflate(&mut self, buffer: &mut [u8]) -> io::Result<(usize, MemberPart)> {
        loop {
            let input = self.source.fill_buf()?;
            let (before, ended) = ((self.inflate.total_in(), self.inflate.total_out()), input.is_empty());
            let status = self.inflate.decompress(input, buffer, FlushDecompress::None);
            let consumed = (self.inflate.total_in() - before.0) as usize;
            let n = (self.inflate.total_out() - before.1) as usize;
            self.source.consume(consumed);
            self.sum.update(&buffer[..n]);
            return match status {
                Ok(Status::StreamEnd) => Ok((n, MemberPart::Sums)),
                Ok(_) if n > 0 => Ok((n, MemberPart::Body)),
                Ok(_) if ended => Ok((0, MemberPart::Damage(cut_off()))),
                Ok(_) if consumed > 0 => continue,
                Ok(_) | Err(_) => Ok((n, MemberPart::Damage(invalid("corrupt deflate stream")))),
            };
        }
    }

    /// One step from where it is: how many bytes it gave, none if there is another step to do.
    fn step(&mut self, at: MemberPart, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        match at {
            MemberPart::Begin { first } => self.at = self.begin(first)?,
            MemberPart::Body => {
                let (n, at) = self.inflate(buffer)?;
                self.at = at;
                return Ok((n > 0).then_some(n));
            }
            MemberPart::Sums => {
                self.judge()?;
                self.at = MemberPart::Begin { first: false };
            }
            MemberPart::Damage(error) => return Err(error),
            MemberPart::End => return Ok(Some(0)),
        }
        Ok(None)
    }

    /// Holds what was given out against what the member says of itself.
    fn judge(&mut self) -> io::Result<()> {
        let mut sums = [0; 8];
        self.source.read_exact(&mut sums).map_err(cut)?;
        let found = [self.sum.sum().to_le_bytes(), self.sum.amount().to_le_bytes()].concat();
        if sums[..] == found[..] {
            return Ok(());
        }
        Err(invalid("corrupt gzip stream does not have a matching checksum"))
    }
}

impl<R: BufRead> Read for Gzip<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            let at = std::mem::replace(&mut self.at, MemberPart::End);
            let begun = match &at {
                MemberPart::Begin { first } => MemberPart::Begin { first: *first },
                MemberPart::Body => MemberPart::Body,
                MemberPart::Sums => MemberPart::Sums,
                MemberPart::Damage(_) | MemberPart::End => MemberPart::End,
            };
            match self.step(at, buffer) {
                Ok(Some(n)) => return Ok(n),
                Ok(None) => {}
                Err(error) => {
                    // An interrupted read took nothing, and is done again by who asked.
                    if error.kind() == io::ErrorKind::Interrupted {
                        self.at = begun;
                    }
                    return Err(error);
                }
            }
        }
    }
}

fn invalid(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

fn no_header() -> io::Error {
    invalid("invalid gzip header")
}

fn cut_off() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "it is cut off: it ends within a gzip member")
}

/// An early end, in our words.
fn cut(error: io::Error) -> io::Error {
    if error.kind() == io::ErrorKind::UnexpectedEof { cut_off() } else { error }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::{Compression, GzBuilder};

    use super::super::open::tests::Interrupted;
    use super::*;

    fn member(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    /// What is given out before the end or an error, and how many bytes were ignored.
    fn read(bytes: &[u8]) -> (Vec<u8>, u64, Result<(), String>) {
        let (mut out, ignored) = (Vec::new(), IgnoredBytes::default());
        // A small buffer, as a pipe may give, and a large one: the same comes out.
        let small = io::BufReader::with_capacity(1, bytes);
        let mut again = Vec::new();
        let other = Gzip::new(small, IgnoredBytes::default()).read_to_end(&mut again);
        let done = Gzip::new(bytes, ignored.clone()).read_to_end(&mut out).map_err(|e| e.to_string());
        assert_eq!(other.map_err(|error| error.to_string()), done);
        assert_eq!(again, out);
        (out, ignored.bytes(), done.map(drop))
    }

    #[test]
    fn an_interrupted_read_is_done_again_and_loses_nothing() {
        let full = GzBuilder::new().extra("extra").filename("name").comment("comment");
        let mut full = full.write(Vec::new(), Compression::best());
        full.write_all(b"full").unwrap();
        let (text, zeros) = (text(), vec![0; 512]);
        let bytes =
            [&member(&text)[..], &full.finish().unwrap(), &zeros, &member(b"end"), &zeros, b"x"].concat();
        for piece in [1, 7, 4_096] {
            let (mut out, ignored) = (Vec::new(), IgnoredBytes::default());
            let source = io::BufReader::with_capacity(piece, Interrupted::new(&bytes));
            Gzip::new(source, ignored.clone()).read_to_end(&mut out).unwrap();
            assert!(out == [&text[..], b"fullend"].concat(), "{piece}: {} bytes", out.len());
            assert_eq!(ignored.bytes(), 1);
        }
        // What is no interruption still ends it.
        let mut cut = Gzip::new(&bytes[..30], IgnoredBytes::default());
        let error = cut.read_to_end(&mut Vec::new()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        assert_eq!(cut.read(&mut [0; 9]).unwrap(), 0);
    }

    fn text() -> Vec<u8> {
        (0..100_000_u32).flat_map(|n| format!("{}\n", n % 8_713 * n % 977).into_bytes()).collect()
    }

    #[test]
    fn members_follow_one_another_and_zeros_and_foreign_bytes_are_left_out() {
        let full = GzBuilder::new().extra("extra").filename("name").comment("comment");
        let mut full = full.write(Vec::new(), Compression::best());
        full.write_all(b"full").unwrap();
        let (full, text) = (full.finish().unwrap(), text());
        let zeros = vec![0; 100_000];
        let cases: [(Vec<u8>, Vec<u8>, u64); 9] = [
            (member(b""), vec![], 0),
            (full.clone(), b"full".to_vec(), 0),
            ([member(&text), member(b""), full.clone()].concat(), [&text[..], b"full"].concat(), 0),
            ([member(&text), vec![0; 512]].concat(), text.clone(), 0),
            ([member(b"one"), zeros.clone()].concat(), b"one".to_vec(), 0),
            ([member(b"one"), zeros.clone(), full].concat(), b"onefull".to_vec(), 0),
            ([&member(b"one")[..], b"tail"].concat(), b"one".to_vec(), 4),
            ([&member(b"one")[..], &zeros, b"tail", &zeros].concat(), b"one".to_vec(), 100_004),
            ([&member(b"one")[..], &[0x1f]].concat(), b"one".to_vec(), 1),
        ];
        for (bytes, want, ignored) in cases {
            let got = read(&bytes);
            assert!(got.0 == want, "{} of {} bytes", got.0.len(), want.len());
            assert_eq!((got.1, got.2), (ignored, Ok(())));
        }
    }

    #[test]
    fn everything_before_damage_is_given_out() {
        let text = text();
        let whole = member(&text);
        let cut = read(&whole[..whole.len() / 2]);
        assert!(text.starts_with(&cut.0) && cut.0.len() > text.len() / 3, "{} bytes", cut.0.len());
        assert_eq!(cut.2, Err("it is cut off: it ends within a gzip member".to_owned()));
        // Damage in the second member: the first is whole, and of the second what comes before.
        let mut wrong = [member(b"first\n"), whole.clone()].concat();
        let at = wrong.len() - whole.len() / 2;
        wrong[at..at + 50].fill(0xff);
        let got = read(&wrong);
        assert!(got.2.is_err() && got.0.starts_with(b"first\n"), "{got:?}");
        let same = got.0[6..].iter().zip(&text).take_while(|(a, b)| a == b).count();
        assert!(same > text.len() / 3, "{same} of {} bytes", text.len());
        let mut sum = whole.clone();
        let at = whole.len() - 8;
        sum[at] ^= 1;
        let got = read(&sum);
        assert!(got.0 == text);
        assert_eq!(got.2, Err("corrupt gzip stream does not have a matching checksum".to_owned()));
        for (bytes, why) in [
            (&b"up 1 1714521600000\n"[..], "invalid gzip header"),
            (&[0x1f, 0x8b, 7, 0, 0, 0, 0, 0, 0, 0], "invalid gzip header"),
            (b"", "it is cut off: it ends within a gzip member"),
            (&whole[..5], "it is cut off: it ends within a gzip member"),
            (&whole[..whole.len() - 3], "it is cut off: it ends within a gzip member"),
        ] {
            assert_eq!(read(bytes).2, Err(why.to_owned()));
        }
    }

    #[test]
    fn no_bytes_make_decoding_panic() {
        let good = [member(&text()[..20_000]), member(b"tail")].concat();
        let mut random = fastrand::Rng::with_seed(23);
        for _ in 0..1_000 {
            let mut bad = good.clone();
            for _ in 0..random.usize(1..5) {
                let at = random.usize(..bad.len());
                bad[at] = random.u8(..);
            }
            bad.truncate(random.usize(..=bad.len()));
            let mut out = Vec::new();
            drop(Gzip::new(&bad[..], IgnoredBytes::default()).read_to_end(&mut out));
        }
    }
}
