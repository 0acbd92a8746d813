//! Zstandard, frame after frame: a file may be several put together, with frames between that are to be skipped. What
//! stands behind the last one is zeros, or is counted and left out, as with gzip.
//!
//! A frame may ask for [`WINDOW_BYTES_MAX`] of memory, as much as `zstd -d` gives it; one that asks for more is refused
//! before anything is reserved. What a frame says about itself (length, checksum) is checked at its end.

use std::io::{self, BufRead, Read};

use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

use super::stream::{IgnoredBytes, head, skip_zeros};

const MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// What ends the frame at hand for the decoder: an empty last block, and room for a checksum.
const END: [u8; 7] = [1, 0, 0, 0, 0, 0, 0];

/// Whether a frame begins so, be it one that is to be skipped.
pub fn begins_frame(begin: &[u8]) -> bool {
    begin.starts_with(&MAGIC) || matches!(begin, [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..])
}

/// Most memory that a frame may ask for: what `zstd` takes without being told otherwise.
pub const WINDOW_BYTES_MAX: u64 = 128 << 20;

/// The decompressed bytes of all frames.
pub struct Zstd<R> {
    source: R,
    decoder: FrameDecoder,
    /// Bytes given out of the frame at hand; none between frames.
    frame_bytes: Option<u64>,
    frames: u64,
    /// What went wrong in the frame at hand, until all that came before is given out.
    damage: Option<io::Error>,
    ignored: IgnoredBytes,
}

impl<R: BufRead> Zstd<R> {
    /// Reads nothing yet; bytes behind the last frame are counted in `ignored`.
    pub fn new(source: R, ignored: IgnoredBytes) -> Zstd<R> {
        let mut decoder = FrameDecoder::new();
        decoder.set_max_window_size(WINDOW_BYTES_MAX);
        Zstd { source, decoder, frame_bytes: None, frames: 0, damage: None, ignored }
    }

    /// Begins the next frame; false at the end of the input.
    fn begin(&mut self) -> io::Result<bool> {
        if self.frames > 0 {
            skip_zeros(&mut self.source)?;
        }
        let begin = head(&mut self.source, MAGIC.len())?;
        if self.frames == 0 && begin.is_empty() {
            return Err(damaged("there is no frame"));
        }
        if self.frames > 0 && !begins_frame(&begin) {
            self.ignored.rest(&begin, &mut self.source)?;
            return Ok(false);
        }
        self.frames += 1;
        match self.decoder.init(begin.as_slice().chain(&mut self.source)) {
            Ok(()) => self.frame_bytes = Some(0),
            Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame {
                length, ..
            })) => {
                let skipped = io::copy(&mut (&mut self.source).take(length.into()), &mut io::sink())?;
                if skipped < length.into() {
                    return Err(damaged("it ends within a frame"));
                }
            }
            Err(error) => return Err(refused(&error)),
        }
        Ok(true)
    }

    /// Notes damage; what the decoder keeps to look back at can then be given out.
    fn damage(&mut self, error: io::Error) {
        self.damage = Some(error);
        if self.decoder.decode_blocks(&END[..], BlockDecodingStrategy::UptoBlocks(1)).is_err() {
            // Then nothing more can be given out.
            self.frame_bytes = None;
        }
    }

    /// Holds what was given out against what the frame says of itself.
    fn end(&mut self, given: u64) -> io::Result<()> {
        self.frame_bytes = None;
        // 0 stands for a length that is not told.
        let length = self.decoder.content_size();
        if length != 0 && length != given {
            return Err(damaged(&format!("a frame of {length} bytes gave {given}")));
        }
        match (self.decoder.get_checksum_from_data(), self.decoder.get_calculated_checksum()) {
            (Some(told), Some(found)) if told != found => Err(damaged("the checksum of a frame is wrong")),
            _ => Ok(()),
        }
    }
}

impl<R: BufRead> Read for Zstd<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            let Some(given) = self.frame_bytes else {
                if let Some(error) = self.damage.take() {
                    return Err(error);
                }
                match self.begin()? {
                    true => continue,
                    false => return Ok(0),
                }
            };
            if self.decoder.can_collect() > 0 {
                let n = self.decoder.read(buffer)?;
                self.frame_bytes = Some(given + n as u64);
                return Ok(n);
            }
            if self.damage.is_some() {
                self.frame_bytes = None;
                continue;
            }
            if self.decoder.is_finished() {
                self.end(given)?;
                continue;
            }
            let one = BlockDecodingStrategy::UptoBlocks(1);
            if let Err(error) = self.decoder.decode_blocks(&mut self.source, one) {
                self.damage(refused(&error));
            }
        }
    }
}

fn damaged(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("it is damaged, or no Zstandard: {why}"))
}

/// An error of the decoder, in our words where it has a bound or says little.
fn refused(error: &FrameDecoderError) -> io::Error {
    match error {
        FrameDecoderError::WindowSizeTooBig { requested, max } => {
            let why = format!("a frame asks for {requested} bytes of memory; at most {max} are given");
            io::Error::new(io::ErrorKind::InvalidData, why)
        }
        FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::BadMagicNumber(_)) => {
            damaged("what begins there is no frame")
        }
        other => damaged(&other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use ruzstd::encoding::{CompressionLevel, compress_to_vec};

    use super::super::open::tests::Interrupted;
    use super::*;

    fn packed(bytes: &[u8]) -> Vec<u8> {
        compress_to_vec(bytes, CompressionLevel::Fastest)
    }

    fn read(bytes: &[u8]) -> Result<Vec<u8>, String> {
        let mut out = Vec::new();
        Zstd::new(bytes, IgnoredBytes::default()).read_to_end(&mut out).map_err(|error| error.to_string())?;
        Ok(out)
    }

    #[test]
    fn zeros_and_foreign_bytes_behind_the_last_frame_are_left_out() {
        let (one, zeros) = (packed(b"one"), vec![0; 513]);
        let cases: [(Vec<u8>, &[u8], u64); 5] = [
            ([&one[..], &zeros].concat(), b"one", 0),
            ([&one[..], &zeros, &one].concat(), b"oneone", 0),
            ([&one[..], b"tail"].concat(), b"one", 4),
            ([&one[..], &zeros, b"x", &zeros].concat(), b"one", 514),
            ([&one[..], &MAGIC[..3]].concat(), b"one", 3),
        ];
        for (bytes, want, ignored) in cases {
            let (mut out, counted) = (Vec::new(), IgnoredBytes::default());
            // A pipe may give byte by byte.
            let source = io::BufReader::with_capacity(1, &bytes[..]);
            Zstd::new(source, counted.clone()).read_to_end(&mut out).unwrap();
            assert_eq!((&out[..], counted.bytes()), (want, ignored));
        }
    }

    #[test]
    fn an_interrupted_read_is_done_again_and_loses_nothing() {
        let text: Vec<u8> = (0..300_000_u32).flat_map(|n| (n % 977).to_le_bytes()).collect();
        let (skippable, zeros) = ([&[0x5a, 0x2a, 0x4d, 0x18, 3, 0, 0, 0][..], b"abc"].concat(), vec![0; 512]);
        let bytes =
            [&skippable[..], &packed(&text), &zeros, &rle(0x50, 3), &zeros, &packed(b"end"), b"x"].concat();
        for piece in [1, 7, 4_096] {
            let (mut out, ignored) = (Vec::new(), IgnoredBytes::default());
            let source = io::BufReader::with_capacity(piece, Interrupted::new(&bytes));
            Zstd::new(source, ignored.clone()).read_to_end(&mut out).unwrap();
            let want = [&text[..], &vec![b'x'; 3 * (128 << 10)], b"end"].concat();
            assert!(out == want, "{piece}: {} of {} bytes", out.len(), want.len());
            assert_eq!(ignored.bytes(), 1);
        }
    }

    #[test]
    fn everything_before_damage_is_given_out() {
        let text: Vec<u8> = (0..300_000_u32).flat_map(|n| (n % 977).to_le_bytes()).collect();
        let whole = packed(&text);
        let mut wrong = whole.clone();
        let middle = whole.len() / 2;
        wrong[middle..middle + 200].fill(0xff);
        // Its checksum is cut off, and nothing else.
        let sum = whole[..whole.len() - 1].to_vec();
        for (bytes, least) in [(whole[..middle].to_vec(), 3), (wrong, 3), (sum, 1)] {
            let mut out = Vec::new();
            let done = Zstd::new(&bytes[..], IgnoredBytes::default()).read_to_end(&mut out);
            let same = out.iter().zip(&text).take_while(|(a, b)| a == b).count();
            assert!(done.is_err() && same >= text.len() / least, "{same} of {} bytes: {done:?}", text.len());
        }
    }

    /// A frame by hand: blocks of 128 KiB of `x`, each as one byte, without length and checksum.
    fn rle(window_descriptor: u8, blocks: usize) -> Vec<u8> {
        let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0x00, window_descriptor];
        for block in 0..blocks {
            let header = u32::from(block + 1 == blocks) | 1 << 1 | (128 << 10) << 3;
            frame.extend_from_slice(&header.to_le_bytes()[..3]);
            frame.push(b'x');
        }
        frame
    }

    #[test]
    fn frames_follow_one_another_and_some_are_skipped() {
        let skippable = [&[0x5a, 0x2a, 0x4d, 0x18, 3, 0, 0, 0][..], b"abc"].concat();
        let text: Vec<u8> = (0..300_000_u32).flat_map(|n| (n % 977).to_le_bytes()).collect();
        let cases: [(Vec<u8>, Vec<u8>); 6] = [
            (packed(b""), vec![]),
            (packed(b"one"), b"one".to_vec()),
            ([packed(b"one"), packed(b"two")].concat(), b"onetwo".to_vec()),
            ([packed(b""), packed(b"one"), packed(b"")].concat(), b"one".to_vec()),
            (
                [&skippable[..], &packed(&text), &skippable, &packed(b"x"), &skippable].concat(),
                [&text[..], b"x"].concat(),
            ),
            (rle(0x50, 16), vec![b'x'; 16 * (128 << 10)]),
        ];
        for (bytes, want) in cases {
            assert!(read(&bytes).as_ref() == Ok(&want), "{} bytes", bytes.len());
        }
    }

    #[test]
    fn what_is_damaged_is_said() {
        let whole = packed(&b"up 1 1714521600000\n".repeat(1_000));
        let mut wrong = whole.clone();
        *wrong.last_mut().unwrap() ^= 1;
        // The window of this frame is 2 GiB, behind it are a few bytes.
        let bomb = rle(0xa8, 1);
        assert_eq!(
            read(&bomb).unwrap_err(),
            "a frame asks for 2147483648 bytes of memory; at most 134217728 are given"
        );
        let cases: [(&[u8], &str); 6] = [
            (b"", "there is no frame"),
            (b"up 1 1714521600000\n", "what begins there is no frame"),
            (&whole[..whole.len() / 2], ""),
            (&whole[..whole.len() - 1], ""),
            (&wrong, "the checksum of a frame is wrong"),
            (&[0x50, 0x2a, 0x4d, 0x18, 9, 0, 0, 0, 1], "it ends within a frame"),
        ];
        for (bytes, words) in cases {
            let error = read(bytes).unwrap_err();
            assert!(
                error.starts_with("it is damaged, or no Zstandard: ") && error.contains(words),
                "{error}"
            );
        }
    }

    #[test]
    fn no_bytes_make_decoding_panic() {
        let text: Vec<u8> = (0..20_000_u32).flat_map(|n| (n % 977).to_le_bytes()).collect();
        let good = packed(&text);
        let seed = 17;
        let mut random = fastrand::Rng::with_seed(seed);
        for _ in 0..2_000 {
            let mut bad = good.clone();
            for _ in 0..random.usize(1..5) {
                let at = random.usize(..bad.len());
                bad[at] = random.u8(..);
            }
            bad.truncate(random.usize(..=bad.len()));
            // Damage may go unseen where there is no checksum any more; it must only not be met with a panic.
            drop(read(&bad));
        }
    }
}
