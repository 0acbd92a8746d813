//! Spans of time that are asked for.

/// Shortest piece a span is halved to.
pub const PIECE_MS_MIN: i64 = 60_000;

/// The times in `(after_ms, to_ms]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadSpan {
    /// The last millisecond before it.
    pub after_ms: i64,
    /// Its last millisecond.
    pub to_ms: i64,
}

impl ReadSpan {
    pub(super) fn length_ms(self) -> i64 {
        self.to_ms - self.after_ms
    }

    /// Both halves, the earlier first.
    pub(super) fn halves(self) -> [ReadSpan; 2] {
        let middle = self.after_ms + self.length_ms() / 2;
        [ReadSpan { to_ms: middle, ..self }, ReadSpan { after_ms: middle, ..self }]
    }

    /// Its last, its first and its middle minute.
    pub(super) fn minutes(self) -> [ReadSpan; 3] {
        let (first, middle) =
            (self.after_ms + PIECE_MS_MIN, self.after_ms + (self.length_ms() + PIECE_MS_MIN) / 2);
        [self.to_ms, first, middle].map(|to_ms| ReadSpan { after_ms: to_ms - PIECE_MS_MIN, to_ms })
    }

    /// The beginning of the span up to the next multiple of `chunk_ms`.
    pub fn chunk(self, chunk_ms: i64) -> ReadSpan {
        let end = (self.after_ms.div_euclid(chunk_ms) + 1) * chunk_ms;
        ReadSpan { to_ms: end.min(self.to_ms), ..self }
    }
}
