//! Cursors: where a page ended, as opaque text that belongs to one question.
//!
//! A cursor holds the key of the last row shown, not a place in a result, so it stays good while rows are written.

use tidewatch_dataflows::sample::SeriesId;

use super::error::Problem;
use super::params::Params;

/// Longest cursor taken; a name is bounded by the limits of labels.
const CURSOR_BYTES_MAX: usize = 64 << 10;

/// Bytes before the name.
const FIXED: usize = 4 + 8 + 8 + 8;

/// The key of the last row of a page; what a resource does not use is 0.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PageCursor {
    /// Metric name.
    pub name: String,
    /// Series.
    pub series: SeriesId,
    /// First further number of the key.
    pub a: i64,
    /// Second further number of the key.
    pub b: i64,
}

impl PageCursor {
    /// The cursor of a request, if it has one.
    ///
    /// # Errors
    /// 400 if it is not one that this question was answered with.
    pub fn of(params: &Params) -> Result<Option<PageCursor>, Problem> {
        let Some(text) = params.cursor() else { return Ok(None) };
        let cursor = decode(text, &params.question());
        let bound = "the next of an answer to the same question";
        cursor.map(Some).ok_or_else(|| Problem::parameter("cursor", bound, text))
    }

    /// The cursor of a sorted list: the number of the last row, if it shows one, and whose it is.
    pub fn of_place(value: Option<f64>, name: String, series: SeriesId) -> PageCursor {
        let a = value.map_or(0, |value| value.to_bits().cast_signed());
        PageCursor { name, series, a, b: i64::from(value.is_some()) }
    }

    /// Where a sorted list goes on.
    pub fn into_place(self) -> (Option<f64>, String, SeriesId) {
        ((self.b != 0).then(|| f64::from_bits(self.a.cast_unsigned())), self.name, self.series)
    }

    /// The text of a cursor that belongs to a question.
    pub fn encode(&self, params: &Params) -> String {
        let mut bytes = vec![0; 4];
        bytes.extend(self.series.0.to_be_bytes());
        bytes.extend(self.a.to_be_bytes());
        bytes.extend(self.b.to_be_bytes());
        bytes.extend(self.name.as_bytes());
        let check = check(&params.question(), &bytes[4..]);
        bytes[..4].copy_from_slice(&check);
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

fn decode(text: &str, question: &[u8]) -> Option<PageCursor> {
    if !text.is_ascii() || !text.len().is_multiple_of(2) || text.len() > CURSOR_BYTES_MAX {
        return None;
    }
    let digits =
        text.as_bytes().chunks(2).map(|pair| u8::from_str_radix(str::from_utf8(pair).ok()?, 16).ok());
    let bytes: Vec<u8> = digits.collect::<Option<_>>()?;
    let (fixed, name) = bytes.split_at_checked(FIXED)?;
    if fixed[..4] != check(question, &bytes[4..]) {
        return None;
    }
    let number = |at: usize| fixed[at..at + 8].try_into().ok().map(i64::from_be_bytes);
    Some(PageCursor {
        name: String::from_utf8(name.to_vec()).ok()?,
        series: SeriesId(number(4)?.cast_unsigned()),
        a: number(12)?,
        b: number(20)?,
    })
}

fn check(question: &[u8], key: &[u8]) -> [u8; 4] {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(question);
    hasher.update(&[0xff]);
    hasher.update(key);
    hasher.finalize().to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::Uri;

    use crate::api::names::NAMES;

    fn params(uri: &'static str) -> Params {
        Params::read(&Uri::from_static(uri), &NAMES).unwrap()
    }

    #[test]
    fn a_cursor_belongs_to_one_question() {
        let cursor = PageCursor { name: "naïve".into(), series: SeriesId(u64::MAX - 5), a: -1, b: i64::MAX };
        let text = cursor.encode(&params("/x?match[]=up"));
        for same in ["/x?match[]=up", "/x?limit=5&match[]=up&cursor=zz"] {
            assert_eq!(decode(&text, &params(same).question()), Some(cursor.clone()), "{same}");
        }
        for other in ["/x", "/y?match[]=up", "/x?match[]=down"] {
            assert_eq!(decode(&text, &params(other).question()), None, "{other}");
        }
    }

    #[test]
    fn whatever_is_no_cursor_is_refused() {
        let question = params("/x").question();
        let text = PageCursor { name: "up".into(), ..PageCursor::default() }.encode(&params("/x"));
        for i in 0..text.len() {
            let mut broken = text.clone().into_bytes();
            broken[i] = if broken[i] == b'0' { b'1' } else { b'0' };
            assert_eq!(decode(&String::from_utf8(broken).unwrap(), &question), None, "digit {i}");
            assert_eq!(decode(&text[..i], &question), None, "{i} digits");
        }
        for text in ["", "zz", "+1+1", "é", "0", &"0".repeat(CURSOR_BYTES_MAX + 2)] {
            assert_eq!(decode(text, &question), None);
        }
    }
}
