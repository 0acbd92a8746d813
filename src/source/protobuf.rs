//! Reads the fields of protobuf messages where they stand: nothing is copied, nothing is allocated.
//!
//! Not here: which fields there are (`remote_write`, `remote_write2`). Groups, which no message of ours has, are refused.

const VARINT: u8 = 0;
const FIXED64: u8 = 1;
const BYTES: u8 = 2;
const FIXED32: u8 = 5;

/// The body is not the message it should be. Sending it again cannot help.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("byte {at} of the decompressed body: {what}")]
pub struct DecodeError {
    /// Offset in the decompressed body.
    pub at: usize,
    /// What is wrong there.
    pub what: &'static str,
}

/// Reads protobuf fields of one message: `bytes` ends where the message ends, `at` counts from the body's start.
#[derive(Clone, Copy)]
pub(super) struct FieldCursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

/// One field: its number, and where its value is.
pub(super) struct Field<'a> {
    pub(super) number: u64,
    wire: u8,
    /// Offset of the tag.
    pub(super) at: usize,
    /// The value of a varint or fixed field.
    bits: u64,
    /// The value of a field with a length.
    body: FieldCursor<'a>,
}

impl<'a> FieldCursor<'a> {
    /// At the start of `body`.
    pub(super) fn new(body: &'a [u8]) -> FieldCursor<'a> {
        FieldCursor { bytes: body, at: 0 }
    }

    /// At the field of `body` that begins `at`.
    #[inline]
    pub(super) fn within(body: &'a [u8], at: usize) -> FieldCursor<'a> {
        FieldCursor { bytes: body, at }
    }

    /// Offset of the next field from the start of the body.
    pub(super) fn at(&self) -> usize {
        self.at
    }

    /// The next field, or `None` at the end of the message.
    #[inline]
    pub(super) fn field(&mut self) -> Result<Option<Field<'a>>, DecodeError> {
        if self.at == self.bytes.len() {
            return Ok(None);
        }
        let at = self.at;
        let tag = self.varint()?;
        let (number, wire) = (tag >> 3, (tag & 7) as u8);
        if number == 0 || number >= 1 << 29 {
            return Err(DecodeError { at, what: "a field number outside 1 to 536870911" });
        }
        let mut field = Field { number, wire, at, bits: 0, body: FieldCursor { bytes: &[], at: 0 } };
        match wire {
            BYTES => {
                let length = self.varint()?;
                let end = self.end_of(length, at)?;
                field.body = FieldCursor { bytes: &self.bytes[..end], at: self.at };
                self.at = end;
            }
            VARINT => field.bits = self.varint()?,
            FIXED64 => {
                let end = self.end_of(8, at)?;
                let value = self.bytes[self.at..end].try_into().expect("end_of gave eight bytes");
                field.bits = u64::from_le_bytes(value);
                self.at = end;
            }
            FIXED32 => self.at = self.end_of(4, at)?,
            3 | 4 => return Err(DecodeError { at, what: "a group, which remote write does not have" }),
            _ => return Err(DecodeError { at, what: "a wire type that protobuf does not have" }),
        }
        Ok(Some(field))
    }

    /// Where `length` bytes from here end; the field began `at`.
    #[inline]
    fn end_of(&self, length: u64, at: usize) -> Result<usize, DecodeError> {
        match usize::try_from(length) {
            Ok(length) if length <= self.bytes.len() - self.at => Ok(self.at + length),
            _ => Err(DecodeError { at, what: "a field that reaches past the end of its message" }),
        }
    }

    #[inline]
    fn varint(&mut self) -> Result<u64, DecodeError> {
        match self.bytes.get(self.at) {
            Some(&byte) if byte < 0x80 => {
                self.at += 1;
                Ok(u64::from(byte))
            }
            _ => self.long_varint(),
        }
    }

    fn long_varint(&mut self) -> Result<u64, DecodeError> {
        let begin = self.at;
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let Some(&byte) = self.bytes.get(self.at) else {
                return Err(DecodeError { at: begin, what: "a number that the end of its message cuts off" });
            };
            self.at += 1;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                // The tenth byte holds the highest bit only.
                let fits = shift < 63 || byte < 2;
                return if fits { Ok(value) } else { Err(DecodeError { at: begin, what: LONG_NUMBER }) };
            }
        }
        Err(DecodeError { at: begin, what: LONG_NUMBER })
    }

    /// Checks the fields of a message nobody uses.
    pub(super) fn skim(&mut self) -> Result<(), DecodeError> {
        while self.field()?.is_some() {}
        Ok(())
    }
}

/// The signed number that protobuf writes as this one.
pub(super) fn unzigzag(number: u64) -> i64 {
    (number >> 1).cast_signed() ^ -(number & 1).cast_signed()
}

const LONG_NUMBER: &str = "a number longer than 64 bits";

impl<'a> Field<'a> {
    #[inline]
    pub(super) fn message(&self) -> Result<FieldCursor<'a>, DecodeError> {
        match self.wire {
            BYTES => Ok(self.body),
            _ => Err(DecodeError { at: self.at, what: "a message was expected; its wire type is another" }),
        }
    }

    /// The bytes of a text. Whoever reads them judges whether they are UTF-8: that is no matter of the whole message.
    pub(super) fn text(&self) -> Result<&'a [u8], DecodeError> {
        match self.wire {
            BYTES => Ok(&self.body.bytes[self.body.at..]),
            _ => Err(DecodeError { at: self.at, what: "a text was expected; its wire type is another" }),
        }
    }

    /// The value of a field with a length, as it stands.
    #[inline]
    pub(super) fn bytes(&self) -> Result<&'a [u8], DecodeError> {
        self.message().map(|body| &body.bytes[body.at..])
    }

    /// Gives the numbers of a repeated field to `visit`, packed or not, each with its offset.
    #[inline]
    pub(super) fn numbers(
        &self,
        mut visit: impl FnMut(u64, usize) -> Result<(), DecodeError>,
    ) -> Result<(), DecodeError> {
        match self.wire {
            VARINT => visit(self.bits, self.at),
            BYTES => {
                let mut packed = self.body;
                while packed.at < packed.bytes.len() {
                    let at = packed.at;
                    visit(packed.varint()?, at)?;
                }
                Ok(())
            }
            _ => Err(DecodeError { at: self.at, what: "numbers were expected; their wire type is another" }),
        }
    }

    #[inline]
    pub(super) fn fixed64(&self) -> Result<u64, DecodeError> {
        match self.wire {
            FIXED64 => Ok(self.bits),
            _ => Err(DecodeError { at: self.at, what: "a double was expected; its wire type is another" }),
        }
    }

    /// Gives the bits of a repeated double to `visit`, packed or not.
    pub(super) fn doubles(&self, mut visit: impl FnMut(u64)) -> Result<(), DecodeError> {
        let what = "doubles were expected; their wire type or length is another";
        match self.wire {
            FIXED64 => visit(self.bits),
            BYTES => {
                let (packed, rest) = self.body.bytes[self.body.at..].as_chunks::<8>();
                if !rest.is_empty() {
                    return Err(DecodeError { at: self.at, what });
                }
                packed.iter().for_each(|bits| visit(u64::from_le_bytes(*bits)));
            }
            _ => return Err(DecodeError { at: self.at, what }),
        }
        Ok(())
    }

    /// A number that is written with its sign in the lowest bit.
    pub(super) fn sint64(&self) -> Result<i64, DecodeError> {
        self.int64().map(|number| unzigzag(number.cast_unsigned()))
    }

    #[inline]
    pub(super) fn int64(&self) -> Result<i64, DecodeError> {
        match self.wire {
            VARINT => Ok(self.bits.cast_signed()),
            _ => Err(DecodeError { at: self.at, what: "an int64 was expected; its wire type is another" }),
        }
    }
}
