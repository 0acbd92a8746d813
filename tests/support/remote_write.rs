//! An own sender of remote write 1.0: the messages by hand, independent of what the worker reads them with.

use super::http::{self, Answer};

/// The headers Prometheus sends.
pub const HEADERS: [(&str, &str); 4] = [
    ("Content-Encoding", "snappy"),
    ("Content-Type", "application/x-protobuf"),
    ("X-Prometheus-Remote-Write-Version", "0.1.0"),
    ("User-Agent", "tidewatch-test"),
];

/// `prometheus.WriteRequest`, built series by series.
#[derive(Clone, Debug, Default)]
pub struct WriteRequest(Vec<u8>);

impl WriteRequest {
    /// Adds a time series: labels as given (nothing is sorted or checked) and its `(at_ms, value)`.
    pub fn series(mut self, labels: &[(&str, &str)], samples: &[(i64, f64)]) -> WriteRequest {
        let mut series = Vec::new();
        for (name, value) in labels {
            let mut label = Vec::new();
            bytes_field(&mut label, 1, name.as_bytes());
            bytes_field(&mut label, 2, value.as_bytes());
            bytes_field(&mut series, 1, &label);
        }
        for (at_ms, value) in samples {
            let mut sample = vec![1 << 3 | 1];
            sample.extend_from_slice(&value.to_bits().to_le_bytes());
            sample.push(2 << 3);
            varint(&mut sample, *at_ms as u64);
            bytes_field(&mut series, 2, &sample);
        }
        bytes_field(&mut self.0, 1, &series);
        self
    }

    /// The message as protobuf.
    pub fn message(&self) -> &[u8] {
        &self.0
    }

    /// Compresses and sends it as Prometheus does.
    ///
    /// # Errors
    /// No answer came.
    pub fn send(&self, url: &str) -> Result<Answer, String> {
        http::post(url, &HEADERS, &snappy(self.message()))
    }
}

/// Snappy's block format, which remote write asks for.
pub fn snappy(bytes: &[u8]) -> Vec<u8> {
    snap::raw::Encoder::new().compress_vec(bytes).unwrap()
}

fn bytes_field(out: &mut Vec<u8>, field: u8, bytes: &[u8]) {
    out.push(field << 3 | 2);
    varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

#[test]
fn the_message_is_what_the_specification_says() {
    let request = WriteRequest::default().series(&[("__name__", "up")], &[(300, 1.0)]);
    let label = [&[0x0a, 8][..], b"__name__", &[0x12, 2], b"up"].concat();
    let sample = [&[0x09][..], &1.0f64.to_le_bytes(), &[0x10, 0xac, 0x02]].concat();
    let series = [&[0x0a, label.len() as u8][..], &label, &[0x12, sample.len() as u8], &sample].concat();
    assert_eq!(request.message(), [&[0x0a, series.len() as u8][..], &series].concat());
    let mut negative = Vec::new();
    varint(&mut negative, -1i64 as u64);
    assert_eq!(negative.len(), 10);
}
