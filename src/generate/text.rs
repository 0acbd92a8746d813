//! Generated samples as text: Prometheus exposition format with timestamps, or CSV; `.gz` by the name.
//!
//! Every line is put together from pieces made once per series of an instance, so it costs no formatting of labels.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::str::FromStr;

use flate2::Compression;
use flate2::write::GzEncoder;

use super::catalogue::{Slot, label_names, slots};
use super::{Delivery, Generator, Point, instance_name};

/// Bytes gathered before they are written.
const CHUNK_BYTES: usize = 1 << 16;

/// A text format for samples.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// `name{label="value",...} value timestamp_ms`, one sample a line.
    #[default]
    Prometheus,
    /// A header row, then `name`, one column per label, `timestamp_ms`, `value`; an empty cell is a label not there.
    Csv,
}

impl Format {
    /// The format a file's name promises: CSV for `.csv` and `.csv.gz`, else Prometheus text.
    pub fn of(path: &Path) -> Format {
        let name = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
        if name.trim_end_matches(".gz").ends_with(".csv") { Format::Csv } else { Format::Prometheus }
    }
}

/// The word names no format.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("format must be prometheus or csv; got {0}")]
pub struct NotAFormat(String);

impl FromStr for Format {
    type Err = NotAFormat;

    fn from_str(word: &str) -> Result<Format, NotAFormat> {
        match word {
            "prometheus" => Ok(Format::Prometheus),
            "csv" => Ok(Format::Csv),
            _ => Err(NotAFormat(word.to_owned())),
        }
    }
}

/// What was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// Lines with a sample.
    pub samples: u64,
    /// Of these, delivered late.
    pub late: u64,
    /// Of these, delivered again unchanged.
    pub duplicates: u64,
    /// Of these, delivered again with another value.
    pub conflicts: u64,
    /// Bytes before compression.
    pub bytes: u64,
}

/// Where text goes: standard output or a file, compressed when its name ends in `.gz`.
#[derive(Debug)]
pub enum Output {
    /// Standard output.
    Stdout(io::Stdout),
    /// A file.
    Plain(BufWriter<File>),
    /// A compressed file.
    Gzip(Box<GzEncoder<BufWriter<File>>>),
}

impl Output {
    /// Opens the file of this name, made anew; `-` is standard output.
    ///
    /// # Errors
    /// The file cannot be made.
    pub fn create(path: &Path) -> io::Result<Output> {
        if path == Path::new("-") {
            return Ok(Output::Stdout(io::stdout()));
        }
        let file = BufWriter::new(File::create(path)?);
        let gz = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gz"));
        Ok(if gz {
            Output::Gzip(Box::new(GzEncoder::new(file, Compression::fast())))
        } else {
            Output::Plain(file)
        })
    }

    /// Writes what is left. Without it a compressed file is torn.
    ///
    /// # Errors
    /// The rest cannot be written.
    pub fn finish(self) -> io::Result<()> {
        match self {
            Output::Stdout(mut out) => out.flush(),
            Output::Plain(mut out) => out.flush(),
            Output::Gzip(out) => out.finish()?.flush(),
        }
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Output::Stdout(out) => out.write(bytes),
            Output::Plain(out) => out.write(bytes),
            Output::Gzip(out) => out.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Output::Stdout(out) => out.flush(),
            Output::Plain(out) => out.flush(),
            Output::Gzip(out) => out.flush(),
        }
    }
}

/// Writes everything the generator gives.
///
/// # Errors
/// The output does not take it; what was written before stays.
pub fn write(generator: &mut Generator, format: Format, out: &mut impl Write) -> io::Result<Written> {
    let pieces: Vec<Pieces> = slots().iter().map(|slot| Pieces::of(slot, format)).collect();
    let mut written = Written::default();
    let mut chunk = Vec::with_capacity(CHUNK_BYTES + 1024);
    if format == Format::Csv {
        chunk.extend_from_slice(format!("name,{},timestamp_ms,value\n", label_names().join(",")).as_bytes());
    }
    let mut instance = (u64::MAX, String::new());
    for point in generator {
        let number = point.series / pieces.len() as u64;
        if number != instance.0 {
            instance = (number, instance_name(number));
        }
        let slot = (point.series % pieces.len() as u64) as usize;
        pieces[slot].line(&mut chunk, &instance.1, format, &point);
        written.samples += 1;
        match point.delivery {
            Delivery::InTime => {}
            Delivery::Late => written.late += 1,
            Delivery::Duplicate => written.duplicates += 1,
            Delivery::Conflict => written.conflicts += 1,
        }
        if chunk.len() >= CHUNK_BYTES {
            written.bytes += chunk.len() as u64;
            out.write_all(&chunk)?;
            chunk.clear();
        }
    }
    written.bytes += chunk.len() as u64;
    out.write_all(&chunk)?;
    Ok(written)
}

/// The labels of a slot as text, before and after the instance's name. The catalogue holds nothing that needs escapes.
#[derive(Debug)]
struct Pieces {
    head: Vec<u8>,
    tail: Vec<u8>,
}

impl Pieces {
    fn of(slot: &Slot, format: Format) -> Pieces {
        let mut text = slot.family.name.to_owned();
        let own = |name: &str| slot.labels.iter().find(|(own, _)| *own == name).map(|(_, value)| *value);
        match format {
            Format::Prometheus => {
                let value = |name| match name {
                    "instance" => Some("\0"),
                    "job" => Some("node"),
                    _ => own(name),
                };
                let names = label_names();
                let pairs = names.iter().filter_map(|name| Some(format!("{name}=\"{}\"", value(name)?)));
                text += &format!("{{{}}} ", pairs.collect::<Vec<_>>().join(","));
            }
            Format::Csv => {
                for name in label_names() {
                    text.push(',');
                    text += match name {
                        "instance" => "\0",
                        "job" => "node",
                        _ => own(name).unwrap_or(""),
                    };
                }
                text.push(',');
            }
        }
        let (head, tail) = text.split_once('\0').expect("the instance's place was just put in");
        Pieces { head: head.into(), tail: tail.into() }
    }

    fn line(&self, out: &mut Vec<u8>, instance: &str, format: Format, point: &Point) {
        out.extend_from_slice(&self.head);
        out.extend_from_slice(instance.as_bytes());
        out.extend_from_slice(&self.tail);
        match format {
            Format::Prometheus => {
                decimal(out, point.digits, point.scale);
                out.push(b' ');
                decimal(out, point.at_ms, 0);
            }
            Format::Csv => {
                decimal(out, point.at_ms, 0);
                out.push(b',');
                decimal(out, point.digits, point.scale);
            }
        }
        out.push(b'\n');
    }
}

/// Appends `digits / 10^scale` as a decimal without trailing zeros. Never negative here.
pub(super) fn decimal(out: &mut Vec<u8>, digits: i64, scale: u8) {
    let (mut left, mut scale) = (digits.unsigned_abs(), usize::from(scale));
    while scale > 0 && left.is_multiple_of(10) {
        left /= 10;
        scale -= 1;
    }
    let mut text = [b'0'; 24];
    let mut at = text.len();
    let whole = text.len() - scale;
    while left > 0 || at >= whole {
        if at == whole && scale > 0 {
            at -= 1;
            text[at] = b'.';
        }
        at -= 1;
        text[at] = b'0' + (left % 10) as u8;
        left /= 10;
    }
    out.extend_from_slice(&text[at..]);
}
