//! Encodes requests for tests: what a sender does.

pub use crate::source::remote_write::wire::{bytes, sample, varint};

/// A request being built: its symbols and its series.
pub struct Request {
    /// The texts, in the order of their numbers; bytes, as a bad sender has them.
    pub symbols: Vec<Vec<u8>>,
    /// The encoded series.
    pub series: Vec<u8>,
}

impl Request {
    /// A request without series.
    pub fn new() -> Request {
        Request { symbols: vec![Vec::new()], series: Vec::new() }
    }

    /// The number of a text.
    pub fn symbol(&mut self, text: impl AsRef<[u8]>) -> u64 {
        let text = text.as_ref();
        let known = self.symbols.iter().position(|known| known == text);
        known.unwrap_or_else(|| {
            self.symbols.push(text.to_vec());
            self.symbols.len() - 1
        }) as u64
    }

    /// The `labels_refs` field of these labels.
    pub fn refs<T: AsRef<[u8]>>(&mut self, labels: &[(T, T)]) -> Vec<u8> {
        let mut packed = Vec::new();
        for (name, value) in labels {
            varint(self.symbol(name), &mut packed);
            varint(self.symbol(value), &mut packed);
        }
        bytes(1, &packed)
    }

    /// Adds a series made of fields.
    pub fn fields(mut self, fields: &[&[u8]]) -> Request {
        self.series.extend(bytes(5, &fields.concat()));
        self
    }

    /// Adds a series with samples, and `more` fields after them.
    pub fn series(mut self, labels: &[(&str, &str)], samples: &[(i64, f64)], more: &[&[u8]]) -> Request {
        let refs = self.refs(labels);
        let samples: Vec<u8> = samples.iter().flat_map(|(at, value)| sample(*at, *value)).collect();
        self.fields(&[&refs, &samples, &more.concat()])
    }

    /// The message.
    pub fn body(&self) -> Vec<u8> {
        let symbols = self.symbols.iter().flat_map(|text| bytes(4, text));
        symbols.chain(self.series.iter().copied()).collect()
    }
}
