//! Protobuf as a sender of remote write encodes it: one encoder for the unit tests, the tests of programs and the benches.

/// The bytes of a number.
pub fn varint(mut n: u64, out: &mut Vec<u8>) {
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

/// A field with a length.
pub fn bytes(number: u64, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    bytes_into(number, body, &mut out);
    out
}

/// [`bytes`], behind what is there.
pub fn bytes_into(number: u64, body: &[u8], out: &mut Vec<u8>) {
    varint(number << 3 | 2, out);
    varint(body.len() as u64, out);
    out.extend_from_slice(body);
}

/// A `Label` field of a series.
pub fn label(name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Vec<u8> {
    bytes(1, &[bytes(1, name.as_ref()), bytes(2, value.as_ref())].concat())
}

/// A `Sample` field of a series.
pub fn sample(at_ms: i64, value: f64) -> Vec<u8> {
    let mut body = vec![0x09];
    body.extend_from_slice(&value.to_bits().to_le_bytes());
    body.push(0x10);
    varint(at_ms.cast_unsigned(), &mut body);
    bytes(2, &body)
}

/// A `TimeSeries` field of a request.
pub fn series(labels: &[(&str, &str)], samples: &[(i64, f64)]) -> Vec<u8> {
    let labels = labels.iter().flat_map(|(name, value)| label(name, value));
    bytes(1, &labels.chain(samples.iter().flat_map(|(at, v)| sample(*at, *v))).collect::<Vec<u8>>())
}
