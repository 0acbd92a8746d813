//! Moments as few bytes: what a closed pane is stored as. Every bit comes back.
//!
//! # Format
//! ```text
//!  narrow   count u8 | changes u8 | resets u8 | lap u24 | first and last time before the end, 20 bits each | codes u32 | fields
//!  wide     0 | 1 | lap u32 | first and last time u32 each | count, changes, resets u32 each | codes u32 | fields
//!  empty    0 | 0
//! ```
//! Each field is the XOR of its bits with those of a guess, without the zero bytes at both ends: the newest value is guessed
//! to be the oldest, the smallest and the largest to be one of these, the sum to be that of a straight line, the increase to
//! be the difference of newest and oldest. A code of four bits names the bytes that are stored ([`CODES`]).
//!
//! # Size
//! With the tags of a ring: 20 bytes where all values are equal, about 30 of a counter of whole numbers, 44 of one of seconds,
//! 47 of a gauge of bytes, 62 to 70 of a gauge with all digits; at most 94. A [`Moments`] has 88.
//!
//! # Cost
//! About 10 ns either way: no branch but that between narrow and wide.

use super::moments::Moments;

/// Bytes that packed moments are read from, and written into.
pub const CELL: usize = 104;
/// Where packed moments are read from.
pub type Cell = [u8; CELL];

/// By code: stored bytes, and zero bytes below them. Chosen on real and made-up series, for the least bytes in all.
const CODES: [(u8, u8); 16] = [
    (0, 0),
    (8, 0),
    (7, 0),
    (6, 0),
    (5, 0),
    (4, 0),
    (2, 6),
    (3, 5),
    (4, 4),
    (5, 3),
    (6, 2),
    (4, 2),
    (3, 3),
    (3, 2),
    (2, 4),
    (1, 0),
];
/// By zero bytes above and below: the code of the least bytes. Of no bits at all it is asked for seven of each.
const CODE: [[u8; 8]; 8] = best_codes();
/// By code: how its bytes are read.
const READ: [ReadCode; 16] = read_codes();
const HEADER: usize = 15;
const WIDE_HEADER: usize = 30;
const FIELDS: usize = 8;
const OFFSET_BITS: u32 = 20;
const LAP_MASK: u32 = 0xFF_FFFF;

/// How the bytes of a field are read.
#[derive(Clone, Copy)]
struct ReadCode {
    /// The bits that are stored.
    mask: u64,
    /// What moves them to where they belong. A shift by a number that is not known before takes longer.
    factor: u64,
    /// What moves them to the top.
    to_top: u64,
    /// Bytes stored.
    bytes: usize,
}

const fn read_codes() -> [ReadCode; 16] {
    let mut table = [ReadCode { mask: 0, factor: 1, to_top: 1, bytes: 0 }; 16];
    let mut code = 1;
    while code < 16 {
        let (stored, zeroes) = CODES[code];
        table[code] = ReadCode {
            mask: u64::MAX >> (64 - 8 * stored as u32),
            factor: 1 << (8 * zeroes as u32),
            to_top: 1 << (64 - 8 * (stored + zeroes) as u32),
            bytes: stored as usize,
        };
        code += 1;
    }
    table
}

const fn best_codes() -> [[u8; 8]; 8] {
    let mut table = [[0; 8]; 8];
    let mut above = 0;
    while above < 8 {
        let mut below = 0;
        while above + below < 8 {
            let (mut code, mut best) = (1, 1);
            while code < 16 {
                let (stored, zeroes) = CODES[code];
                let fits = zeroes as usize <= below && stored as usize + zeroes as usize >= 8 - above;
                if fits && stored < CODES[best].0 {
                    best = code;
                }
                code += 1;
            }
            table[above][below] = best as u8;
            below += 1;
        }
        above += 1;
    }
    table
}

/// What is guessed of fields from those that are known before.
struct Guess;

impl Guess {
    #[inline(always)]
    fn bounds(first: f64, last: f64) -> (f64, f64) {
        if last < first { (last, first) } else { (first, last) }
    }

    #[inline(always)]
    fn sum(count: u32, min: f64, max: f64) -> f64 {
        (min + max) * (f64::from(count) * 0.5)
    }
}

/// Where a pane stands: what its times are stored relative to, and what tells it from others in its entry of a ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its number.
    pub number: i64,
    /// How often the ring was filled before it. The entry says the rest of the number.
    pub lap: i64,
    /// Its end, the low 32 bits of Unix milliseconds.
    pub end_at: u32,
    /// Whether the lowest 24 bits of the lap tell it from all others.
    pub short: bool,
}

impl Place {
    /// The pane with this number of a ring of so many panes of this length.
    #[inline]
    pub fn of(number: i64, length: i64, pane_ms: i64) -> Place {
        Place::in_lap(number, number.div_euclid(length), length, pane_ms)
    }

    /// The same, where the lap is known.
    #[inline]
    pub fn in_lap(number: i64, lap: i64, length: i64, pane_ms: i64) -> Place {
        // 2^24 laps of half an hour are 950 years.
        let short = length * pane_ms >= 1_800_000;
        Place { number, lap, end_at: number.wrapping_mul(pane_ms) as u32, short }
    }

    /// Of moments that are no pane of a ring.
    pub const NONE: Place = Place { number: 0, lap: 0, end_at: 0, short: false };
}

/// Moments on their way to bytes.
pub struct Packed<'a> {
    moments: &'a Moments,
    place: Place,
    narrow: bool,
    /// The bits of each field that differ from the guess.
    bits: [u64; FIELDS],
    codes: u32,
    len: usize,
}

impl<'a> Packed<'a> {
    /// The bytes of moments, which are of at least one sample. Their tag is that of the place.
    #[inline]
    pub fn new(moments: &'a Moments, place: Place) -> Packed<'a> {
        let before_end = |at: u32| place.end_at.wrapping_sub(at) < 1 << OFFSET_BITS;
        let near = before_end(moments.first_at) && before_end(moments.last_at);
        let narrow = place.short && (moments.count | moments.changes | moments.resets) < 256 && near;
        let (least, most) = Guess::bounds(moments.first, moments.last);
        let fields: [(f64, f64); FIELDS] = [
            (moments.first, 0.0),
            (moments.last, moments.first),
            (moments.min, least),
            (moments.max, most),
            (moments.sum_hi, Guess::sum(moments.count, moments.min, moments.max)),
            (moments.sum_lo, 0.0),
            (moments.m2, 0.0),
            (moments.increase, moments.last - moments.first),
        ];
        let bits = fields.map(|(field, guess)| field.to_bits() ^ guess.to_bits());
        let (mut codes, mut len) = (0, if narrow { HEADER } else { WIDE_HEADER });
        for (n, bits) in bits.iter().enumerate() {
            let (above, below) = ((bits | 1).leading_zeros(), (bits | 1 << 63).trailing_zeros());
            let code = CODE[above as usize / 8][below as usize / 8];
            codes |= u32::from(code) << (4 * n);
            len += READ[code as usize & 15].bytes;
        }
        Packed { moments, place, narrow, bits, codes, len }
    }

    /// How many bytes they are.
    #[expect(clippy::len_without_is_empty, reason = "there are always some")]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Writes them to the beginning of these bytes, and nothing behind them. There are [`CELL`] bytes.
    ///
    /// From the end on, eight bytes at a time, each over what the one before has no need of: so nothing is read, and memory
    /// that is far is not waited for.
    #[inline]
    pub fn write(&self, bytes: &mut [u8]) {
        let cell: &mut Cell = (&mut bytes[..CELL]).try_into().expect("a cell");
        let (moments, place) = (self.moments, self.place);
        let mut end = self.len;
        for (n, bits) in self.bits.iter().enumerate().rev() {
            let code = READ[(self.codes >> (4 * n)) as usize & 15];
            // Whatever the codes are, this stays inside.
            let from = end.clamp(8, CELL) - 8;
            cell[from..from + 8].copy_from_slice(&bits.wrapping_mul(code.to_top).to_le_bytes());
            end -= code.bytes;
        }
        if self.narrow {
            let back = |at: u32| u64::from(place.end_at.wrapping_sub(at));
            let offsets = back(moments.first_at) | back(moments.last_at) << OFFSET_BITS;
            let counts = u64::from(moments.count | moments.changes << 8 | moments.resets << 16);
            let lap = u64::from(place.lap as u32 & LAP_MASK);
            cell[..8].copy_from_slice(&(counts | lap << 24 | offsets << 48).to_le_bytes());
            cell[7..15].copy_from_slice(&(offsets >> 8 | u64::from(self.codes) << 32).to_le_bytes());
            return;
        }
        cell[..2].copy_from_slice(&[0, 1]);
        let words = [
            place.lap as u32,
            moments.first_at,
            moments.last_at,
            moments.count,
            moments.changes,
            moments.resets,
            self.codes,
        ];
        for (word, bytes) in words.iter().zip(cell[2..].chunks_exact_mut(4)) {
            bytes.copy_from_slice(&word.to_le_bytes());
        }
    }
}

/// The moments that were packed for this place; empty if the bytes are another's.
#[inline(always)] // see `Moments::then`
pub fn unpack(cell: &Cell, place: Place) -> Moments {
    let word = |at: usize| u32::from_le_bytes([cell[at], cell[at + 1], cell[at + 2], cell[at + 3]]);
    let moments = if cell[0] != 0 {
        if word(3) & LAP_MASK != place.lap as u32 & LAP_MASK {
            return Moments::EMPTY;
        }
        let offsets = u64_at(cell, 6);
        let back = |offset: u64| place.end_at.wrapping_sub(offset as u32 & ((1 << OFFSET_BITS) - 1));
        Moments {
            first_at: back(offsets),
            last_at: back(offsets >> OFFSET_BITS),
            count: cell[0].into(),
            changes: cell[1].into(),
            resets: cell[2].into(),
            ..Moments::EMPTY
        }
    } else if cell[1] != 0 && word(2) == place.lap as u32 {
        Moments {
            first_at: word(6),
            last_at: word(10),
            count: word(14),
            changes: word(18),
            resets: word(22),
            ..Moments::EMPTY
        }
    } else {
        return Moments::EMPTY;
    };
    let header = if cell[0] != 0 { HEADER } else { WIDE_HEADER };
    fields(cell, header, Moments { tag: place.number as u32, ..moments })
}

/// The moments with their fields, which begin at `at`.
#[inline(always)]
fn fields(cell: &Cell, mut at: usize, moments: Moments) -> Moments {
    let mut codes = u32::from_le_bytes([cell[at - 4], cell[at - 3], cell[at - 2], cell[at - 1]]);
    let mut next = || {
        let ReadCode { mask, factor, bytes, .. } = READ[(codes & 15) as usize];
        let bits = (u64_at(cell, at) & mask).wrapping_mul(factor);
        codes >>= 4;
        at += bytes;
        bits
    };
    let field = |bits: u64, guess: f64| f64::from_bits(bits ^ guess.to_bits());
    let first = field(next(), 0.0);
    let last = field(next(), first);
    let (least, most) = Guess::bounds(first, last);
    let min = field(next(), least);
    let max = field(next(), most);
    let sum_hi = field(next(), Guess::sum(moments.count, min, max));
    let sum_lo = field(next(), 0.0);
    let m2 = field(next(), 0.0);
    let increase = field(next(), last - first);
    Moments { first, last, min, max, sum_hi, sum_lo, m2, increase, ..moments }
}

#[inline(always)]
fn u64_at(cell: &Cell, at: usize) -> u64 {
    // Whatever the bytes are, this stays inside.
    let at = at.min(CELL - 8);
    u64::from_le_bytes(cell[at..at + 8].try_into().expect("eight bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::shapes::{Random, values};

    const MINUTE: i64 = 60_000;

    fn moments(values: &[f64], number: i64, pane_ms: i64) -> Moments {
        let mut all = Moments { tag: number as u32, ..Moments::EMPTY };
        let step = pane_ms / values.len().max(1) as i64;
        let start = (number - 1) * pane_ms;
        values.iter().enumerate().for_each(|(i, x)| all.push(start + 1 + i as i64 * step, *x));
        all
    }

    fn pack(moments: &Moments, place: Place, cell: &mut Cell) -> usize {
        let packed = Packed::new(moments, place);
        packed.write(cell);
        packed.len()
    }

    /// Every bit, as text shows them: two zeros differ, and what is not finite is equal to itself.
    fn bits(moments: &Moments) -> String {
        let words: Vec<String> = moments.to_words().iter().map(|word| format!("{word:x}")).collect();
        words.join(" ")
    }

    #[test]
    fn every_bit_comes_back_of_panes_of_any_shape_and_length() {
        let (mut longest, mut cell) = (0, [7; CELL]);
        for seed in 0..4_000 {
            let mut random = Random::new(seed);
            let values = values(&mut random);
            for pane_ms in [1_000, 15_000, MINUTE, 3 * MINUTE, 720_000, 3_600_000, 86_400_000] {
                let number = 1_700_000_000_000 / pane_ms + random.below(1 << 26) as i64;
                let part = &values[..random.below(values.len()) + 1];
                let all = moments(part, number, pane_ms);
                let place = Place::of(number, 72, pane_ms);
                cell.fill(seed as u8);
                let n = pack(&all, place, &mut cell);
                assert!(
                    n <= CELL - 8 && cell[n..].iter().all(|byte| *byte == seed as u8),
                    "seed {seed}: {n}"
                );
                assert_eq!(bits(&unpack(&cell, place)), bits(&all), "seed {seed}, {pane_ms} ms");
                let untagged = Moments { tag: 0, ..all };
                let n = pack(&untagged, Place::NONE, &mut cell);
                assert_eq!(bits(&unpack(&cell, Place::NONE)), bits(&untagged), "seed {seed}, {pane_ms} ms");
                longest = longest.max(n);
            }
        }
        assert!(longest > 80, "{longest}");
    }

    #[test]
    fn a_pane_of_another_number_is_empty() {
        let mut cell = [7; CELL];
        // Those of the same entry, however far away.
        for (pane_ms, length) in [(MINUTE, 72), (MINUTE, 64), (1_000, 4), (30_000, 128), (90_000, 70)] {
            for count in [1, 4, 255, 256, 1_000] {
                let values: Vec<f64> = (0..count).map(f64::from).collect();
                let number = 1_700_000_000_000 / pane_ms;
                let place = |number| Place::of(number, length, pane_ms);
                pack(&moments(&values, number, pane_ms), place(number), &mut cell);
                for laps in [1, 1 << 8, 1 << 16, (1 << 24) - 1, 1 << 20] {
                    for other in [number - laps * length, number + laps * length] {
                        assert!(unpack(&cell, place(other)).is_empty(), "{pane_ms} {count} {other}");
                    }
                }
                let far = number + (1 << 24) * if length == 4 { 4 } else { 1 };
                assert!(unpack(&cell, place(far)).is_empty(), "{pane_ms} {count} {far}");
            }
        }
        assert!(unpack(&[0; CELL], Place::of(0, 72, MINUTE)).is_empty());
    }

    #[test]
    fn bytes_that_nobody_wrote_are_read_without_a_panic() {
        let mut random = Random::new(9);
        for _ in 0..200_000 {
            let cell: Cell = std::array::from_fn(|_| random.below(256) as u8);
            let number = i64::from(cell[3]) | i64::from(cell[4]) << 8 | i64::from(cell[5]) << 16;
            std::hint::black_box(unpack(&cell, Place::of(number * 72, 72, MINUTE)));
        }
    }

    #[test]
    fn ordinary_series_take_few_bytes() {
        let mut random = Random::new(1);
        let mut size = |values: &dyn Fn(usize, &mut Random) -> f64| {
            let mut sizes = 0;
            for pane in 0..1_000 {
                let values: Vec<f64> = (0..4).map(|i| values(pane * 4 + i, &mut random)).collect();
                let place = Place::of(28_333_333, 72, MINUTE);
                sizes += pack(&moments(&values, 28_333_333, MINUTE), place, &mut [0; CELL]);
            }
            sizes / 1_000
        };
        let constant = size(&|_, _| 16_777_215.0);
        let requests = size(&|i, random| (i * 1_000 + random.below(1_000)) as f64);
        let seconds = size(&|i, random| i as f64 * 15.0 + random.below(1_000) as f64 / 100.0);
        let bytes = size(&|_, random| 8e9 + random.below(1 << 20) as f64 * 4_096.0);
        let ratio = size(&|_, random| random.unit());
        let sizes = [constant, requests, seconds, bytes, ratio];
        for (size, most) in sizes.into_iter().zip([21, 34, 45, 48, 64]) {
            assert!(size <= most, "{sizes:?}");
        }
    }
}
