//! What is stored of a series' panes: rings of closed panes and partial tails, packed.
//!
//! A record has one *area* for each ring and each list of tails. All entries of an area have one width: that of the widest
//! that was ever written into it. An entry that is wider makes the area wider, which copies the record; after some panes no
//! series does that any more. A series that has no panes takes no memory, and what was written is freed with its slot.
//!
//! Not here: which panes there are and what they are merged into ([`super::panes`]).

use std::sync::Arc;

use crate::kernels::moments::Moments;
use crate::kernels::packed::{self, CELL, Cell, Packed, Place};
use crate::settings::WINDOWS_MAX;
use crate::shard::allocated;

/// Widths are multiples of this.
const WIDTH_STEP: usize = 2;
/// What a tail is wider than a pane: it may span more than a pane, and has more digits.
const TAIL_EXTRA: usize = 16;
const _: () = assert!(CELL + TAIL_EXTRA + WIDTH_STEP < 256, "a width is one byte");
/// Most areas: base panes, and for each window its panes and its tails.
const AREAS_MAX: usize = 1 + 2 * WINDOWS_MAX;

/// How many entries each area has: that of base panes first, then the other rings, then the tails.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct RecordShape {
    entries: Vec<u32>,
    rings: usize,
}

impl RecordShape {
    /// One more area of so many entries.
    fn add(&mut self, entries: i64) -> Area {
        assert!(self.entries.len() < AREAS_MAX, "settings bound the number of windows");
        self.entries.push(u32::try_from(entries).expect("a ring has few panes"));
        Area(self.entries.len() - 1)
    }

    /// One more ring of so many panes of this length. All rings come before the tails.
    pub fn add_ring(&mut self, length: i64, pane_ms: i64) -> Ring {
        self.rings += 1;
        Ring { area: self.add(length), length, pane_ms }
    }

    /// So many tails.
    pub fn add_tails(&mut self, entries: i64) -> Area {
        self.add(entries)
    }

    /// Entries of all areas.
    pub fn entries(&self) -> usize {
        self.entries.iter().map(|entries| *entries as usize).sum()
    }
}

/// A part of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Area(usize);

/// A ring of panes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ring {
    /// Where it lies.
    pub area: Area,
    /// How many panes it holds.
    pub length: i64,
    /// How long a pane is.
    pub pane_ms: i64,
}

impl Ring {
    #[inline]
    fn entry(&self, number: i64) -> usize {
        number.rem_euclid(self.length) as usize
    }

    #[inline]
    fn place(&self, number: i64) -> Place {
        Place::of(number, self.length, self.pane_ms)
    }

    /// The oldest pane that is held if the newest is this.
    pub fn oldest(&self, newest: i64) -> i64 {
        newest - self.length + 1
    }
}

/// The panes of one series.
#[derive(Clone, Debug)]
pub struct PaneRecord {
    shape: Arc<RecordShape>,
    /// The entries of all areas, then as many bytes as are read beyond the last. Nothing while no pane was written.
    bytes: Box<[u8]>,
    /// How wide the entries of each area are. Here, for they are needed to find any of them.
    widths: [u8; AREAS_MAX],
}

impl PaneRecord {
    /// Without panes.
    pub fn new(shape: &Arc<RecordShape>) -> PaneRecord {
        PaneRecord { shape: Arc::clone(shape), bytes: Box::default(), widths: [0; AREAS_MAX] }
    }

    /// Bytes held, as an allocator rounds them.
    pub fn bytes(&self) -> usize {
        allocated(self.bytes.len())
    }

    /// Where an area begins, and how wide its entries are.
    #[inline]
    fn area(&self, area: Area) -> (usize, usize) {
        let before = self.shape.entries.iter().zip(&self.widths).take(area.0);
        let first = before.map(|(entries, width)| *entries as usize * usize::from(*width)).sum();
        (first, self.widths[area.0].into())
    }

    #[inline(always)] // as a call, its result would be stored and read again at another width
    fn read(&self, area: Area, entry: usize, place: Place) -> Moments {
        self.read_at(self.area(area), entry, place)
    }

    #[inline(always)]
    fn read_at(&self, (first, width): (usize, usize), entry: usize, place: Place) -> Moments {
        if width == 0 {
            return Moments::EMPTY;
        }
        let at = first + entry * width;
        let cell: &Cell = self.bytes[at..at + CELL].try_into().expect("a cell");
        packed::unpack(cell, place)
    }

    fn write(&mut self, area: Area, entry: usize, place: Place, moments: &Moments) {
        let (mut first, mut width) = self.area(area);
        if moments.is_empty() {
            if width == 0 {
                return;
            }
            // As is one of which the first two bytes are zeroes.
            self.bytes[first + entry * width..][..width.min(2)].fill(0);
            return;
        }
        let packed = Packed::new(moments, place);
        if packed.len() > width {
            self.widen(area, packed.len().next_multiple_of(WIDTH_STEP));
            (first, width) = self.area(area);
        }
        packed.write(&mut self.bytes[first + entry * width..]);
    }

    /// Makes the entries of an area wider. With the first pane of another ring than that of base panes, all areas get their
    /// room: a series lives on, and each area for itself would copy the record once more.
    #[cold]
    fn widen(&mut self, wider: Area, to: usize) {
        let shape = Arc::clone(&self.shape);
        let mut widths = self.widths;
        let first = widths.iter().skip(1).all(|width| *width == 0);
        if first && wider.0 > 0 {
            let base = usize::from(widths[0]);
            for (area, width) in widths.iter_mut().enumerate().take(shape.entries.len()).skip(1) {
                // A tail that comes before the first pane says nothing of panes.
                let pane = if wider.0 < shape.rings { to } else { 0 };
                let guess = if area < shape.rings { pane.max(base + WIDTH_STEP) } else { base + TAIL_EXTRA };
                *width = guess.next_multiple_of(WIDTH_STEP) as u8;
            }
        }
        widths[wider.0] = widths[wider.0].max(to as u8);
        let entries = || shape.entries.iter().map(|entries| *entries as usize);
        let mut stored: usize =
            entries().zip(widths).map(|(entries, width)| entries * usize::from(width)).sum();
        // What an allocator would round up to anyhow makes entries wider now, so that it is needed less often later.
        let room = allocated(stored + CELL) - CELL;
        for (width, entries) in widths.iter_mut().zip(entries()).filter(|(width, _)| **width > 0) {
            if stored + entries * WIDTH_STEP <= room && usize::from(*width) < CELL {
                *width += WIDTH_STEP as u8;
                stored += entries * WIDTH_STEP;
            }
        }
        let areas = || entries().zip(widths.map(usize::from));
        let mut bytes = vec![0; stored + CELL].into_boxed_slice();
        let mut at = 0;
        for (area, (entries, width)) in areas().enumerate() {
            let (first, old) = self.area(Area(area));
            if old == width {
                bytes[at..at + entries * width].copy_from_slice(&self.bytes[first..first + entries * width]);
            } else if old > 0 {
                for entry in 0..entries {
                    let from = first + entry * old;
                    bytes[at + entry * width..][..old].copy_from_slice(&self.bytes[from..from + old]);
                }
            }
            at += entries * width;
        }
        (self.bytes, self.widths) = (bytes, widths);
    }

    /// Reads something of an entry, and nothing else: so that it is near when it is read.
    #[inline]
    pub fn approach(&self, ring: &Ring, number: i64) -> u8 {
        let (first, width) = self.area(ring.area);
        self.bytes.get(first + ring.entry(number) * width).copied().unwrap_or(0)
    }

    /// A pane of a ring; empty if the ring does not hold it.
    #[inline]
    pub fn pane(&self, ring: &Ring, number: i64) -> Moments {
        self.read(ring.area, ring.entry(number), ring.place(number))
    }

    /// Puts a pane into a ring, in place of the one that was there; none if it is empty.
    pub fn set_pane(&mut self, ring: &Ring, number: i64, pane: &Moments) {
        self.write(ring.area, ring.entry(number), ring.place(number), pane);
    }

    /// A partial tail; empty if none was written there.
    #[inline(always)]
    pub fn tail(&self, tails: Area, entry: i64) -> Moments {
        self.read(tails, entry as usize, Place::NONE)
    }

    /// Keeps a partial tail.
    pub fn set_tail(&mut self, tails: Area, entry: i64, tail: &Moments) {
        self.write(tails, entry as usize, Place::NONE, tail);
    }
}

/// Reads the panes of a ring one by one, with one division in all.
pub struct Walk {
    ring: Ring,
    number: i64,
    lap: i64,
    entry: usize,
    /// Panes at or before this one count as empty.
    floor: i64,
    /// Where the ring begins in the record, and how wide its entries are.
    area: (usize, usize),
}

impl Walk {
    /// From this pane of a record on.
    #[inline]
    pub fn from(record: &PaneRecord, ring: &Ring, number: i64, floor: i64) -> Walk {
        let (lap, entry) = (number.div_euclid(ring.length), ring.entry(number));
        Walk { ring: *ring, number, lap, entry, floor, area: record.area(ring.area) }
    }

    /// Something was written into the record, which may have moved the ring.
    pub fn written(&mut self, record: &PaneRecord) {
        self.area = record.area(self.ring.area);
    }

    /// The pane at hand.
    #[inline(always)]
    pub fn pane(&self, record: &PaneRecord) -> Moments {
        if self.number <= self.floor {
            return Moments::EMPTY;
        }
        let place = Place::in_lap(self.number, self.lap, self.ring.length, self.ring.pane_ms);
        record.read_at(self.area, self.entry, place)
    }

    /// To the next one.
    #[inline]
    pub fn forward(&mut self) {
        self.number += 1;
        self.entry += 1;
        if self.entry == self.ring.length as usize {
            (self.entry, self.lap) = (0, self.lap + 1);
        }
    }

    /// To the one before.
    #[inline]
    pub fn back(&mut self) {
        self.number -= 1;
        if self.entry == 0 {
            (self.entry, self.lap) = (self.ring.length as usize, self.lap - 1);
        }
        self.entry -= 1;
    }
}

/// For tests of who looks for what is wrong.
#[cfg(test)]
impl PaneRecord {
    /// Where the entries begin that are not empty, but for base panes.
    pub fn stored_entries(&self) -> Vec<usize> {
        let areas = self.shape.entries.iter().enumerate().skip(1);
        let entries = areas.flat_map(|(area, entries)| {
            let (first, width) = self.area(Area(area));
            (0..*entries as usize).filter(move |_| width > 0).map(move |entry| first + entry * width)
        });
        entries.filter(|at| self.bytes[*at] != 0 || self.bytes[at + 1] != 0).collect()
    }

    /// Changes the count of one of these entries.
    pub fn change_count(&mut self, entry: usize) {
        let at = self.stored_entries()[entry];
        let count = if self.bytes[at] != 0 { at } else { at + 14 };
        self.bytes[count] ^= 4;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::shapes::{Random, values};

    /// A record beside a plain list of what was written.
    #[test]
    fn a_record_holds_what_was_written_however_wide() {
        for seed in 0..300 {
            let mut random = Random::new(seed);
            let mut shape = RecordShape::default();
            let rings: Vec<Ring> = (0..1 + random.below(4))
                .map(|n| {
                    let (length, pane_ms) =
                        (2 + random.below(70) as i64, [1_000, 60_000, 720_000, 60_000][n]);
                    Ring { area: shape.add(length), length, pane_ms }
                })
                .collect();
            let tails = shape.add_tails(9);
            let shape = Arc::new(shape);
            let mut record = PaneRecord::new(&shape);
            assert_eq!((record.bytes(), record.pane(&rings[0], 7)), (0, Moments::EMPTY));
            let mut panes: Vec<Vec<Option<(i64, Moments)>>> =
                rings.iter().map(|ring| vec![None; ring.length as usize]).collect();
            let mut kept = vec![Moments::EMPTY; 9];
            let shapes: Vec<Vec<f64>> = (0..3).map(|_| values(&mut random)).collect();
            for step in 0..400 {
                let which = random.below(rings.len());
                let ring = &rings[which];
                let number = 1_700_000_000_000 / ring.pane_ms + step / 3;
                let mut pane = Moments { tag: number as u32, ..Moments::EMPTY };
                for (i, value) in shapes[random.below(3)].iter().take(random.below(9)).enumerate() {
                    pane.push((number - 1) * ring.pane_ms + 1 + i as i64, *value);
                }
                let pane = if pane.is_empty() { Moments::EMPTY } else { pane };
                record.set_pane(ring, number, &pane);
                panes[which][number.rem_euclid(ring.length) as usize] = Some((number, pane));
                if step % 5 == 0 {
                    let entry = random.below(9);
                    kept[entry] = Moments { tag: 0, ..pane };
                    record.set_tail(tails, entry as i64, &kept[entry]);
                }
                for (ring, panes) in rings.iter().zip(&panes) {
                    for (number, pane) in panes.iter().flatten() {
                        let read = record.pane(ring, *number);
                        assert_eq!(read.to_words(), pane.to_words(), "seed {seed} step {step}");
                        assert!(record.pane(ring, number + ring.length).is_empty());
                        assert!(record.pane(ring, number - ring.length).is_empty());
                    }
                }
                for (entry, tail) in kept.iter().enumerate() {
                    assert_eq!(record.tail(tails, entry as i64).to_words(), tail.to_words(), "seed {seed}");
                }
            }
        }
    }
}
