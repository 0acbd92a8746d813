//! An own sender of remote write 1.0 and 2.0: its messages are encoded by `protobuf`, independent of what the server reads
//! them with.

use super::http::{self, Answer, Client};
use super::protobuf::{bytes_into, label, sample, series, varint};

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
        self.0.extend(series(labels, samples));
        self
    }

    /// [`WriteRequest::series`] with native histograms.
    pub fn series_with(
        mut self,
        labels: &[(&str, &str)],
        samples: &[(i64, f64)],
        histograms: &[Histogram],
    ) -> WriteRequest {
        let mut series = Vec::new();
        labels.iter().for_each(|(name, value)| series.extend(label(name, value)));
        samples.iter().for_each(|(at_ms, value)| series.extend(sample(*at_ms, *value)));
        histograms.iter().for_each(|histogram| bytes_into(4, &histogram.message(), &mut series));
        bytes_into(1, &series, &mut self.0);
        self
    }

    /// Adds the type of a metric family.
    pub fn metadata(mut self, kind: u8, family: &str) -> WriteRequest {
        let mut metadata = vec![1 << 3, kind];
        bytes_into(2, family.as_bytes(), &mut metadata);
        bytes_into(3, &metadata, &mut self.0);
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

    /// [`WriteRequest::send`] by a client that keeps its connections.
    ///
    /// # Errors
    /// No answer came.
    pub fn send_by(&self, client: &Client, url: &str) -> Result<Answer, String> {
        client.post(url, &HEADERS, &snappy(self.message()))
    }
}

/// The headers Prometheus sends with 2.0.
pub const HEADERS_2: [(&str, &str); 4] = [
    ("Content-Encoding", "snappy"),
    ("Content-Type", "application/x-protobuf;proto=io.prometheus.write.v2.Request"),
    ("X-Prometheus-Remote-Write-Version", "2.0.0"),
    ("User-Agent", "tidewatch-test"),
];

/// One time series of 2.0; labels as given, nothing is sorted or checked.
#[derive(Clone, Debug, Default)]
pub struct Series2<'a> {
    pub labels: &'a [(&'a str, &'a str)],
    pub samples: &'a [(i64, f64)],
    /// How many exemplars it has.
    pub exemplars: usize,
    /// Its native histograms.
    pub histograms: &'a [Histogram],
    /// Further fields, encoded.
    pub fields: &'a [u8],
    /// The type and help of its metadata.
    pub metadata: Option<(u8, &'a str)>,
    /// The created timestamp, in the series as older senders have it and in each sample as newer ones do.
    pub created_ms: Option<i64>,
}

/// `io.prometheus.write.v2.Request`, built series by series.
#[derive(Clone, Debug)]
pub struct WriteRequest2 {
    symbols: Vec<String>,
    series: Vec<u8>,
}

impl Default for WriteRequest2 {
    fn default() -> WriteRequest2 {
        WriteRequest2 { symbols: vec![String::new()], series: Vec::new() }
    }
}

impl WriteRequest2 {
    /// Adds a time series.
    pub fn series(mut self, series: &Series2) -> WriteRequest2 {
        let mut message = Vec::new();
        let refs = self.refs(series.labels);
        bytes_into(1, &refs, &mut message);
        for (at_ms, value) in series.samples {
            let mut sample = vec![1 << 3 | 1];
            sample.extend_from_slice(&value.to_bits().to_le_bytes());
            sample.push(2 << 3);
            varint(*at_ms as u64, &mut sample);
            if let Some(created_ms) = series.created_ms {
                sample.push(3 << 3);
                varint(created_ms as u64, &mut sample);
            }
            bytes_into(2, &sample, &mut message);
        }
        series.histograms.iter().for_each(|one| bytes_into(3, &one.message(), &mut message));
        message.extend_from_slice(series.fields);
        for n in 0..series.exemplars {
            let refs = self.refs(&[("trace_id", &n.to_string())]);
            let mut exemplar = Vec::new();
            bytes_into(1, &refs, &mut exemplar);
            bytes_into(4, &exemplar, &mut message);
        }
        if let Some((kind, help)) = series.metadata {
            let mut metadata = vec![1 << 3, kind, 3 << 3];
            varint(self.symbol(help), &mut metadata);
            bytes_into(5, &metadata, &mut message);
        }
        if let Some(created_ms) = series.created_ms {
            message.push(6 << 3);
            varint(created_ms as u64, &mut message);
        }
        bytes_into(5, &message, &mut self.series);
        self
    }

    fn refs(&mut self, labels: &[(&str, &str)]) -> Vec<u8> {
        let mut refs = Vec::new();
        for (name, value) in labels {
            varint(self.symbol(name), &mut refs);
            varint(self.symbol(value), &mut refs);
        }
        refs
    }

    /// The number of a text in the table of symbols.
    fn symbol(&mut self, text: &str) -> u64 {
        let known = self.symbols.iter().position(|known| known == text);
        let number = known.unwrap_or(self.symbols.len());
        if known.is_none() {
            self.symbols.push(text.to_owned());
        }
        number as u64
    }

    /// The message as protobuf.
    pub fn message(&self) -> Vec<u8> {
        let mut message = Vec::new();
        self.symbols.iter().for_each(|symbol| bytes_into(4, symbol.as_bytes(), &mut message));
        [message, self.series.clone()].concat()
    }

    /// Compresses and sends it as Prometheus does.
    ///
    /// # Errors
    /// No answer came.
    pub fn send(&self, url: &str) -> Result<Answer, String> {
        http::post(url, &HEADERS_2, &snappy(&self.message()))
    }
}

/// A native histogram: the same message in both versions. The default is one of integers that holds nothing.
#[derive(Clone, Debug, Default)]
pub struct Histogram {
    pub at_ms: i64,
    pub sum: f64,
    /// All observations, and those around zero.
    pub count: u64,
    pub zero: u64,
    pub schema: i64,
    /// Buckets above zero, side by side from the first, each with its observations; below zero the same.
    pub positive: &'static [i64],
    pub negative: &'static [i64],
    /// Bounds of custom buckets.
    pub bounds: &'static [f64],
    /// Whether all numbers are sent as floats.
    pub floats: bool,
}

impl Histogram {
    /// The message as protobuf.
    pub fn message(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let number = |out: &mut Vec<u8>, field: u8, value: u64| {
            varint(u64::from(field) << 3, out);
            varint(value, out);
        };
        let double = |out: &mut Vec<u8>, field: u8, value: f64| {
            out.push(field << 3 | 1);
            out.extend_from_slice(&value.to_bits().to_le_bytes());
        };
        let zigzag = |number: i64| (number << 1 ^ number >> 63) as u64;
        let packed =
            |values: &[f64]| values.iter().flat_map(|v| v.to_bits().to_le_bytes()).collect::<Vec<u8>>();
        if self.floats {
            double(&mut out, 2, self.count as f64);
            double(&mut out, 7, self.zero as f64);
        } else {
            number(&mut out, 1, self.count);
            number(&mut out, 6, self.zero);
        }
        double(&mut out, 3, self.sum);
        number(&mut out, 4, zigzag(self.schema));
        for (first, buckets) in [(8, self.negative), (11, self.positive)] {
            if buckets.is_empty() {
                continue;
            }
            let mut span = Vec::new();
            number(&mut span, 2, buckets.len() as u64);
            bytes_into(first, &span, &mut out);
            if self.floats {
                let counts: Vec<f64> = buckets.iter().map(|count| *count as f64).collect();
                bytes_into(first + 2, &packed(&counts), &mut out);
            } else {
                let (mut deltas, mut before) = (Vec::new(), 0);
                for count in buckets {
                    varint(zigzag(count - before), &mut deltas);
                    before = *count;
                }
                bytes_into(first + 1, &deltas, &mut out);
            }
        }
        number(&mut out, 15, self.at_ms as u64);
        if !self.bounds.is_empty() {
            bytes_into(16, &packed(self.bounds), &mut out);
        }
        out
    }
}

/// Snappy's block format, which remote write asks for.
pub fn snappy(bytes: &[u8]) -> Vec<u8> {
    snap::raw::Encoder::new().compress_vec(bytes).unwrap()
}

#[test]
fn the_message_is_what_the_specification_says() {
    let request = WriteRequest::default().series(&[("__name__", "up")], &[(300, 1.0)]);
    let label = [&[0x0a, 8][..], b"__name__", &[0x12, 2], b"up"].concat();
    let sample = [&[0x09][..], &1.0f64.to_le_bytes(), &[0x10, 0xac, 0x02]].concat();
    let series = [&[0x0a, label.len() as u8][..], &label, &[0x12, sample.len() as u8], &sample].concat();
    assert_eq!(request.message(), [&[0x0a, series.len() as u8][..], &series].concat());
    let mut negative = Vec::new();
    varint(-1i64 as u64, &mut negative);
    assert_eq!(negative.len(), 10);
}

#[test]
fn the_message_of_2_0_is_what_the_specification_says() {
    let series = Series2 { labels: &[("__name__", "up")], samples: &[(300, 1.0)], ..Series2::default() };
    let symbols = [&[0x22, 0, 0x22, 8][..], b"__name__", &[0x22, 2], b"up"].concat();
    let sample = [&[0x09][..], &1.0f64.to_le_bytes(), &[0x10, 0xac, 0x02]].concat();
    let body = [&[0x0a, 2, 1, 2, 0x12, sample.len() as u8][..], &sample].concat();
    let want = [&symbols[..], &[0x2a, body.len() as u8], &body].concat();
    assert_eq!(WriteRequest2::default().series(&series).message(), want);
}
