//! What a row is made of: the fields that are stored, and the columns that are shown.
//!
//! A kind of row lists its fields once, in `row_fields!`. Its binary encoding and its columns in a
//! store follow from that list. All numbers are little-endian, without padding; a NaN is always written as
//! `0x7ff8000000000000`, for which NaN arithmetic gives is up to the processor.
//!
//! Not here: which kinds there are (`mod.rs`), and how cells are written as JSON or CSV.

use std::ops::Deref;

use super::verdicts::{AdfStatus, ProfileChange, ProfileStatus, Verdict};
use crate::sample::{MetricType, Reason, SeriesId};

/// The bits of every NaN that is written.
pub const NAN_BITS: u64 = 0x7ff8_0000_0000_0000;

/// What a store keeps of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldType {
    /// A whole number.
    Int,
    /// A whole number from 0, of up to 64 bits.
    UInt,
    /// A number; one that is not finite may come back as NaN.
    Float,
    /// A series.
    Series,
    /// A list of numbers; those that are not finite may come back as NaN.
    Floats,
}

/// The value of a field on its way to or from a store.
#[derive(Clone, Debug, PartialEq)]
pub enum FieldValue {
    /// A whole number.
    Int(i64),
    /// A whole number from 0.
    UInt(u64),
    /// A number.
    Float(f64),
    /// A series.
    Series(SeriesId),
    /// A list of numbers.
    Floats(Vec<f64>),
}

/// A field of a kind of row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowField {
    /// Its name, also that of the column in a store.
    pub name: &'static str,
    /// What it holds.
    pub of: FieldType,
}

/// What a field of a row can be.
pub trait FieldCodec: Sized {
    /// What a store keeps of it.
    const OF: FieldType;
    /// Its bytes.
    const BYTES: usize;

    /// Writes its bytes to `place`, which has just room for them.
    fn put(self, place: &mut [u8]);

    /// Reads it from its bytes; else what is wrong with them.
    ///
    /// # Errors
    /// Bytes that [`FieldCodec::put`] does not write.
    fn get(bytes: &[u8]) -> Result<Self, String>;

    /// Its value.
    fn value(self) -> FieldValue;

    /// From its value; none if it is of no use.
    fn from_value(value: &FieldValue) -> Option<Self>;
}

/// The first `N` bytes; callers give as many as the field has.
fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    *bytes.first_chunk().expect("a field is given all of its bytes")
}

macro_rules! number_fields {
    ($($field:ty, $bytes:literal, $of:ident;)*) => {$(
        impl FieldCodec for $field {
            const OF: FieldType = FieldType::$of;
            const BYTES: usize = $bytes;

            #[inline]
            fn put(self, place: &mut [u8]) {
                place.copy_from_slice(&self.to_le_bytes());
            }

            #[inline]
            fn get(bytes: &[u8]) -> Result<Self, String> {
                Ok(<$field>::from_le_bytes(array(bytes)))
            }

            fn value(self) -> FieldValue {
                FieldValue::$of(self.into())
            }

            fn from_value(value: &FieldValue) -> Option<Self> {
                match *value {
                    FieldValue::$of(value) => value.try_into().ok(),
                    _ => None,
                }
            }
        }
    )*};
}

number_fields! {
    u32, 4, UInt;
    u64, 8, UInt;
    i64, 8, Int;
}

impl FieldCodec for f64 {
    const OF: FieldType = FieldType::Float;
    const BYTES: usize = 8;

    #[inline]
    fn put(self, place: &mut [u8]) {
        let bits = if self.is_nan() { NAN_BITS } else { self.to_bits() };
        place.copy_from_slice(&bits.to_le_bytes());
    }

    #[inline]
    fn get(bytes: &[u8]) -> Result<Self, String> {
        Ok(f64::from_bits(u64::from_le_bytes(array(bytes))))
    }

    fn value(self) -> FieldValue {
        FieldValue::Float(self)
    }

    fn from_value(value: &FieldValue) -> Option<Self> {
        match *value {
            FieldValue::Float(value) => Some(value),
            _ => None,
        }
    }
}

impl FieldCodec for SeriesId {
    const OF: FieldType = FieldType::Series;
    const BYTES: usize = 8;

    #[inline]
    fn put(self, place: &mut [u8]) {
        self.0.put(place);
    }

    #[inline]
    fn get(bytes: &[u8]) -> Result<Self, String> {
        u64::get(bytes).map(SeriesId)
    }

    fn value(self) -> FieldValue {
        FieldValue::Series(self)
    }

    fn from_value(value: &FieldValue) -> Option<Self> {
        match *value {
            FieldValue::Series(series) => Some(series),
            _ => None,
        }
    }
}

/// A list of at most `MOST` numbers, such as an autocorrelation by lag.
///
/// Rows keep their size: its bytes are the length in two, then `MOST` numbers, of which those behind the length are zeros.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Floats<const MOST: usize>(Vec<f64>);

impl<const MOST: usize> Floats<MOST> {
    /// A list of these; none if there are too many.
    pub fn new(values: Vec<f64>) -> Option<Floats<MOST>> {
        (values.len() <= MOST).then_some(Floats(values))
    }
}

impl<const MOST: usize> Deref for Floats<MOST> {
    type Target = [f64];

    fn deref(&self) -> &[f64] {
        &self.0
    }
}

impl<const MOST: usize> FieldCodec for Floats<MOST> {
    const OF: FieldType = FieldType::Floats;
    const BYTES: usize = {
        assert!(MOST <= u16::MAX as usize, "two bytes have no room for the length");
        2 + 8 * MOST
    };

    fn put(self, place: &mut [u8]) {
        let (length, numbers) = place.split_at_mut(2);
        length.copy_from_slice(&(self.len() as u16).to_le_bytes());
        numbers.fill(0);
        for (value, place) in self.0.into_iter().zip(numbers.chunks_exact_mut(8)) {
            value.put(place);
        }
    }

    fn get(bytes: &[u8]) -> Result<Self, String> {
        let (length, numbers) = bytes.split_at(2);
        let length = usize::from(u16::from_le_bytes(array(length)));
        if length > MOST {
            return Err(format!("a list has {length} numbers; it may have {MOST}"));
        }
        let (numbers, rest) = numbers.split_at(8 * length);
        if rest.iter().any(|byte| *byte != 0) {
            return Err(format!("a list of {length} numbers has more behind them"));
        }
        numbers.chunks_exact(8).map(f64::get).collect::<Result<_, _>>().map(Floats)
    }

    fn value(self) -> FieldValue {
        FieldValue::Floats(self.0)
    }

    fn from_value(value: &FieldValue) -> Option<Self> {
        match value {
            FieldValue::Floats(values) => Floats::new(values.clone()),
            _ => None,
        }
    }
}

/// The bytes of a list in a store: eight for each number.
pub fn list_bytes(values: &[f64]) -> Vec<u8> {
    let mut bytes = vec![0; 8 * values.len()];
    values.iter().zip(bytes.chunks_exact_mut(8)).for_each(|(value, place)| value.put(place));
    bytes
}

/// The list of such bytes; none if they are not whole numbers of eight.
pub fn list_of(bytes: &[u8]) -> Option<Vec<f64>> {
    let (numbers, rest) = bytes.as_chunks::<8>();
    let numbers = numbers.iter().map(|bytes| f64::from_le_bytes(*bytes));
    rest.is_empty().then(|| numbers.collect())
}

macro_rules! code_fields {
    ($($field:ty, $code:expr, $known:expr, $wrong:literal;)*) => {$(
        impl FieldCodec for $field {
            const OF: FieldType = FieldType::UInt;
            const BYTES: usize = 1;

            #[inline]
            fn put(self, place: &mut [u8]) {
                place[0] = $code(self);
            }

            #[inline]
            fn get(bytes: &[u8]) -> Result<Self, String> {
                $known(bytes[0]).ok_or_else(|| format!($wrong, bytes[0]))
            }

            fn value(self) -> FieldValue {
                FieldValue::UInt($code(self).into())
            }

            fn from_value(value: &FieldValue) -> Option<Self> {
                match *value {
                    FieldValue::UInt(code) => $known(code.try_into().ok()?),
                    _ => None,
                }
            }
        }
    )*};
}

code_fields! {
    bool, u8::from, |code: u8| (code < 2).then_some(code == 1), "a flag is {}; it must be 0 or 1";
    Reason, |reason| reason as u8, Reason::from_code, "there is no reject reason {}";
    MetricType, |kind| kind as u8, MetricType::from_code, "there is no type of metrics {}";
    Verdict, |verdict| verdict as u8, Verdict::from_code, "there is no verdict {}";
    ProfileChange, |change| change as u8, ProfileChange::from_code, "there is no change of profiles {}";
    ProfileStatus, |status| status as u8, ProfileStatus::from_code, "there is no status of profiles {}";
    AdfStatus, |status| status as u8, AdfStatus::from_code, "there is no status of ADF tests {}";
}

/// The fields of a kind of row, by which it is written and read.
pub trait RowFields: Sized {
    /// Its fields, in the order of its bytes.
    const FIELDS: &'static [RowField];
    /// Bytes of a row.
    const BYTES: usize;

    /// Writes its bytes to `place`, which has just room for them.
    fn put(&self, place: &mut [u8]);

    /// Reads it from its bytes; else what is wrong with them.
    ///
    /// # Errors
    /// Bytes that [`RowFields::put`] does not write.
    fn get(bytes: &[u8]) -> Result<Self, String>;

    /// Hands the value of each field to `each`, in order.
    ///
    /// # Errors
    /// The first that `each` returns.
    fn values<E>(&self, each: impl FnMut(FieldValue) -> Result<(), E>) -> Result<(), E>;

    /// From the value of each field, in order; `wrong` makes the error of one that is of no use.
    ///
    /// # Errors
    /// The first that `next` returns, or one of `wrong`.
    fn from_values<E>(
        next: impl FnMut(FieldType) -> Result<FieldValue, E>,
        wrong: impl Fn(&'static str, FieldValue) -> E,
    ) -> Result<Self, E>;
}

/// Lists the fields of a kind of row, in the order of its bytes. A field is had from the one of the same name, or as `=`
/// says; what stands behind `=>` makes a row of all of them.
macro_rules! row_fields {
    ($kind:ty, |$row:ident| { $($field:ident: $of:ty $(= $get:expr)?),* $(,)? } => $make:expr) => {
        impl $crate::rows::columns::RowFields for $kind {
            const FIELDS: &'static [$crate::rows::columns::RowField] = &[$($crate::rows::columns::RowField {
                name: stringify!($field),
                of: <$of as $crate::rows::columns::FieldCodec>::OF,
            }),*];
            const BYTES: usize = 0 $(+ <$of as $crate::rows::columns::FieldCodec>::BYTES)*;

            #[inline]
            fn put(&self, place: &mut [u8]) {
                use $crate::rows::columns::FieldCodec;
                let ($row, rest) = (self, place);
                $(
                    let (now, rest) = rest.split_at_mut(<$of as FieldCodec>::BYTES);
                    FieldCodec::put(row_fields!(@get $row $field $($get)?), now);
                )*
                debug_assert!(rest.is_empty());
            }

            #[inline]
            fn get(bytes: &[u8]) -> Result<Self, String> {
                use $crate::rows::columns::FieldCodec;
                let rest = bytes;
                $(
                    let (now, rest) = rest.split_at(<$of as FieldCodec>::BYTES);
                    let $field = <$of as FieldCodec>::get(now)
                        .map_err(|why| format!("{}: {why}", stringify!($field)))?;
                )*
                debug_assert!(rest.is_empty());
                Ok($make)
            }

            fn values<E>(
                &self,
                mut each: impl FnMut($crate::rows::columns::FieldValue) -> Result<(), E>,
            ) -> Result<(), E> {
                use $crate::rows::columns::FieldCodec;
                let $row = self;
                $(each(FieldCodec::value(row_fields!(@get $row $field $($get)?)))?;)*
                Ok(())
            }

            fn from_values<E>(
                mut next: impl FnMut($crate::rows::columns::FieldType) -> Result<$crate::rows::columns::FieldValue, E>,
                wrong: impl Fn(&'static str, $crate::rows::columns::FieldValue) -> E,
            ) -> Result<Self, E> {
                use $crate::rows::columns::FieldCodec;
                $(
                    let value = next(<$of as FieldCodec>::OF)?;
                    let $field = <$of as FieldCodec>::from_value(&value)
                        .ok_or_else(|| wrong(stringify!($field), value))?;
                )*
                Ok($make)
            }
        }
    };
    (@get $row:ident $field:ident) => { $row.$field };
    (@get $row:ident $field:ident $get:expr) => { $get };
}

/// What the cells of a column are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CellType {
    /// Text.
    Text,
    /// A JSON object of strings; in CSV its text.
    Labels,
    /// A series id, 16 hex digits.
    Series,
    /// The length of a window, such as `1h30m`.
    Window,
    /// RFC 3339.
    Time,
    /// A whole number.
    Int,
    /// A whole number from 0.
    UInt,
    /// A number; `null` if it is not finite.
    Float,
    /// Numbers in an array, `null` where one is not finite; in CSV its text.
    Floats {
        /// Most of them.
        most: usize,
    },
    /// `true` or `false`.
    Bool,
    /// `true`, or left out.
    True,
}

/// One column of a kind of row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Column {
    /// Its name in JSON and CSV.
    pub name: &'static str,
    /// What its cells are.
    pub of: CellType,
    /// The unit of its numbers, if they have one of their own: `ms`, `samples`.
    pub unit: &'static str,
    /// Whether a cell may be known to be unknown.
    pub nullable: bool,
    /// Whether it does not apply to every row.
    pub optional: bool,
    /// What it says.
    pub about: &'static str,
}

impl Column {
    /// A column that every row shows.
    pub const fn new(name: &'static str, of: CellType, about: &'static str) -> Column {
        let (nullable, optional) = (matches!(of, CellType::Float), matches!(of, CellType::True));
        Column { name, of, unit: "", nullable, optional, about }
    }

    /// Its numbers are of this unit.
    pub const fn unit(self, unit: &'static str) -> Column {
        Column { unit, ..self }
    }

    /// It may be `null`.
    pub const fn or_null(self) -> Column {
        Column { nullable: true, ..self }
    }

    /// It does not apply to every row.
    pub const fn or_absent(self) -> Column {
        Column { optional: true, ..self }
    }
}

/// The columns of a kind of row, in order, as lists that are put together.
pub type Columns = &'static [&'static [Column]];

impl From<Verdict> for Cell<'static> {
    fn from(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Unknown => Cell::Null,
            Verdict::No => Cell::Bool(false),
            Verdict::Yes => Cell::Bool(true),
        }
    }
}

/// One cell of a row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Cell<'a> {
    /// Text.
    Text(&'a str),
    /// Text that is JSON already.
    Json(&'a str),
    /// A series id, 16 hex digits.
    Series(SeriesId),
    /// A window's length in milliseconds, shown as `1h30m`.
    Window(i64),
    /// Unix milliseconds, shown as RFC 3339.
    Time(i64),
    /// A whole number.
    Int(i64),
    /// A whole number.
    UInt(u64),
    /// A number; `null` if it is not finite.
    Float(f64),
    /// A list of numbers, each `null` if it is not finite.
    Floats(&'a [f64]),
    /// Whether it is so.
    Bool(bool),
    /// What is left out where it is not so.
    True,
    /// Known to be unknown.
    Null,
    /// Does not apply to this row.
    Absent,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A kind of row with a list, as one of autocorrelations will be.
    #[derive(Clone, Debug, PartialEq)]
    struct Lags {
        series: SeriesId,
        at_ms: i64,
        by_lag: Floats<5>,
        strongest: u32,
    }

    row_fields!(Lags, |row| {
        series: SeriesId,
        at_ms: i64,
        by_lag: Floats<5> = row.by_lag.clone(),
        strongest: u32,
    } => Lags { series, at_ms, by_lag, strongest });

    fn lags(values: &[f64]) -> Lags {
        let by_lag = Floats::new(values.to_vec()).unwrap();
        Lags { series: SeriesId(7), at_ms: -3, by_lag, strongest: 2 }
    }

    fn bytes_of(row: &Lags) -> Vec<u8> {
        let mut bytes = vec![0xaa; Lags::BYTES];
        row.put(&mut bytes);
        bytes
    }

    /// Through its bytes, through its values, and in a store.
    #[test]
    fn a_row_with_a_list_comes_back_as_it_was() {
        assert_eq!(Lags::BYTES, 8 + 8 + (2 + 5 * 8) + 4);
        // Every length, and numbers of every size, by a step that has no period here.
        let mut bits = 0x9e37_79b9_7f4a_7c15_u64;
        let mut next = || {
            bits = bits.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
            Some(f64::from_bits(bits)).filter(|value| !value.is_nan()).unwrap_or(0.5)
        };
        for round in 0..600 {
            let values: Vec<f64> = (0..round % 6).map(|_| next()).collect();
            let row = lags(&values);
            assert_eq!(Lags::get(&bytes_of(&row)), Ok(row.clone()), "{values:?}");
            let mut all = Vec::new();
            row.values(|value| {
                all.push(value);
                Ok::<(), ()>(())
            })
            .unwrap();
            let types: Vec<FieldType> = Lags::FIELDS.iter().map(|field| field.of).collect();
            let (mut given, mut asked) = (all.into_iter(), Vec::new());
            let again = Lags::from_values(
                |of| {
                    asked.push(of);
                    given.next().ok_or("there is no more".to_owned())
                },
                |name, value| format!("{name} cannot be {value:?}"),
            );
            assert_eq!((again, asked), (Ok(row), types));
            assert_eq!(list_of(&list_bytes(&values)), Some(values));
        }
    }

    #[test]
    fn a_list_has_a_bound_and_nothing_behind_its_end() {
        assert_eq!(Floats::<2>::new(vec![1.0; 3]), None);
        assert_eq!(Floats::<2>::from_value(&FieldValue::Floats(vec![1.0; 3])), None);
        assert_eq!(Floats::<2>::from_value(&FieldValue::Float(1.0)), None);
        let nan = bytes_of(&lags(&[f64::NAN, -f64::NAN]));
        assert_eq!(nan[18..26], nan[26..34], "every NaN is written as the same");
        let good = bytes_of(&lags(&[1.0, 2.0]));
        for (place, byte, why) in [
            (16, 6, "by_lag: a list has 6 numbers; it may have 5"),
            (17, 1, "by_lag: a list has 258 numbers; it may have 5"),
            (57, 1, "by_lag: a list of 2 numbers has more behind them"),
            (16, 1, "by_lag: a list of 1 numbers has more behind them"),
        ] {
            let mut bad = good.clone();
            bad[place] = byte;
            assert_eq!(Lags::get(&bad).unwrap_err(), why);
        }
        assert_eq!(list_of(&[0; 15]), None);
    }
}
