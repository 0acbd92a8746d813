//! Generated samples as text: Prometheus exposition format with timestamps, OpenMetrics, or CSV; `.gz` by the name.
//!
//! OpenMetrics wants the series of a family together and their samples in order, as `promtool tsdb
//! create-blocks-from openmetrics` reads them: family by family, series by series, whatever the order of the generator.
//!
//! Every line is put together from pieces made once per series of an instance, so it costs no formatting of labels.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::str::FromStr;

use flate2::Compression;
use flate2::write::GzEncoder;

use super::catalog::{FAMILIES, Slot, label_names, slots};
use super::options::refused;
use super::{Delivery, GenerateOptions, GeneratedSample, Generator, OptionsError, instance_name, life};

/// Bytes gathered before they are written.
const CHUNK_BYTES: usize = 1 << 16;

/// A text format for samples.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TextFormat {
    /// `name{label="value",...} value timestamp_ms`, one sample a line.
    #[default]
    Prometheus,
    /// `# TYPE`, then `name{label="value",...} value timestamp` in seconds, and `# EOF` at the end.
    OpenMetrics,
    /// A header row, then `name`, one column per label, `timestamp_ms`, `value`; an empty cell is a label not there.
    Csv,
}

impl TextFormat {
    /// The format a file's name promises, with or without `.gz`: CSV for `.csv`, OpenMetrics for `.om` and
    /// `.openmetrics`, else Prometheus text.
    pub fn of(path: &Path) -> TextFormat {
        let name = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
        match name.trim_end_matches(".gz").rsplit_once('.') {
            Some((_, "csv")) => TextFormat::Csv,
            Some((_, "om" | "openmetrics")) => TextFormat::OpenMetrics,
            _ => TextFormat::Prometheus,
        }
    }
}

/// Whether a format can hold what these options deliver.
///
/// # Errors
/// OpenMetrics, which holds every sample once and in order, and an option that asks for something else.
pub fn judge(format: TextFormat, options: &GenerateOptions) -> Result<(), OptionsError> {
    let ratios = [
        ("late_ratio", options.late_ratio),
        ("duplicate_ratio", options.duplicate_ratio),
        ("conflict_ratio", options.conflict_ratio),
    ];
    match ratios.into_iter().find(|(_, ratio)| *ratio != 0.0) {
        Some((option, ratio)) if format == TextFormat::OpenMetrics => {
            refused(option, "0 in openmetrics, which holds every sample once and in order", ratio)
        }
        _ => Ok(()),
    }
}

/// The word names no format.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("format must be prometheus, openmetrics or csv; got {0}")]
pub struct NotAFormat(String);

impl FromStr for TextFormat {
    type Err = NotAFormat;

    fn from_str(word: &str) -> Result<TextFormat, NotAFormat> {
        match word {
            "prometheus" => Ok(TextFormat::Prometheus),
            "openmetrics" => Ok(TextFormat::OpenMetrics),
            "csv" => Ok(TextFormat::Csv),
            _ => Err(NotAFormat(word.to_owned())),
        }
    }
}

/// What was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TextSummary {
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
    /// The file cannot be made, or its name promises a compression that is not written.
    pub fn create(path: &Path) -> io::Result<Output> {
        if path == Path::new("-") {
            return Ok(Output::Stdout(io::stdout()));
        }
        if path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("zst")) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "what is compressed is written as .gz only",
            ));
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
/// The output does not take it, what was written before stays; or what [`judge`] says.
pub fn write(generator: &mut Generator, format: TextFormat, out: &mut impl Write) -> io::Result<TextSummary> {
    let mut lines = TextLines {
        pieces: slots().iter().map(|slot| LabelTexts::of(slot, format)).collect(),
        format,
        options: generator.options.clone(),
        instance: (u64::MAX, 0, String::new()),
        chunk: Vec::with_capacity(CHUNK_BYTES + 1024),
        written: TextSummary::default(),
    };
    match format {
        TextFormat::Prometheus => lines.points(generator, out)?,
        TextFormat::Csv => {
            let header = format!("name,{},timestamp_ms,value\n", label_names().join(","));
            lines.chunk.extend_from_slice(header.as_bytes());
            lines.points(generator, out)?;
        }
        TextFormat::OpenMetrics => {
            by_family(generator, &mut lines, out)?;
            lines.chunk.extend_from_slice(b"# EOF\n");
        }
    }
    lines.flush(out)?;
    Ok(lines.written)
}

/// Writes each series from a generator of its own, which gives the same samples as the one of all.
fn by_family(generator: &Generator, lines: &mut TextLines, out: &mut impl Write) -> io::Result<()> {
    let options = &generator.options;
    judge(TextFormat::OpenMetrics, options).map_err(io::Error::other)?;
    let slots = slots();
    let step = slots.len() as u64;
    for family in FAMILIES {
        lines.chunk.extend_from_slice(type_line(family.name).as_bytes());
        let of_family = (0_u64..).zip(&slots).filter(|(_, slot)| slot.family.name == family.name);
        for (slot, _) in of_family {
            let first = generator.part.start;
            // The first series of this slot that is not before the first of the part.
            let begin = first + (slot + step - first % step) % step;
            for series in (begin..generator.part.end).step_by(slots.len()) {
                let one = Generator::part(options.clone(), series..series + 1).map_err(io::Error::other)?;
                lines.points(one, out)?;
            }
        }
    }
    Ok(())
}

/// What the name of a metric tells of its type. A counter's family is its name without `_total`.
fn type_line(name: &str) -> String {
    match name.strip_suffix("_total") {
        Some(family) => format!("# TYPE {family} counter\n"),
        None if name.ends_with("_sum") || name.ends_with("_count") => format!("# TYPE {name} unknown\n"),
        None => format!("# TYPE {name} gauge\n"),
    }
}

/// Lines on their way out.
struct TextLines {
    pieces: Vec<LabelTexts>,
    format: TextFormat,
    options: GenerateOptions,
    /// The instance of the last line, its life, and its name.
    instance: (u64, i64, String),
    chunk: Vec<u8>,
    written: TextSummary,
}

impl TextLines {
    fn points(
        &mut self,
        points: impl IntoIterator<Item = GeneratedSample>,
        out: &mut impl Write,
    ) -> io::Result<()> {
        let slots = self.pieces.len() as u64;
        for point in points {
            let number = point.series / slots;
            let life = life(&self.options, number, point.at_ms);
            if (number, life) != (self.instance.0, self.instance.1) {
                self.instance = (number, life, instance_name(number, life));
            }
            let slot = (point.series % slots) as usize;
            self.pieces[slot].line(&mut self.chunk, &self.instance.2, self.format, &point);
            self.written.samples += 1;
            match point.delivery {
                Delivery::InTime => {}
                Delivery::Late => self.written.late += 1,
                Delivery::Duplicate => self.written.duplicates += 1,
                Delivery::Conflict => self.written.conflicts += 1,
            }
            if self.chunk.len() >= CHUNK_BYTES {
                self.flush(out)?;
            }
        }
        Ok(())
    }

    fn flush(&mut self, out: &mut impl Write) -> io::Result<()> {
        self.written.bytes += self.chunk.len() as u64;
        out.write_all(&self.chunk)?;
        self.chunk.clear();
        Ok(())
    }
}

/// The labels of a slot as text, before and after the instance's name. The catalog holds nothing that needs escapes.
#[derive(Debug)]
struct LabelTexts {
    head: Vec<u8>,
    tail: Vec<u8>,
}

impl LabelTexts {
    fn of(slot: &Slot, format: TextFormat) -> LabelTexts {
        let mut text = slot.family.name.to_owned();
        let own = |name: &str| slot.labels.iter().find(|(own, _)| *own == name).map(|(_, value)| *value);
        match format {
            TextFormat::Prometheus | TextFormat::OpenMetrics => {
                let value = |name| match name {
                    "instance" => Some("\0"),
                    "job" => Some("node"),
                    _ => own(name),
                };
                let names = label_names();
                let pairs = names.iter().filter_map(|name| Some(format!("{name}=\"{}\"", value(name)?)));
                text += &format!("{{{}}} ", pairs.collect::<Vec<_>>().join(","));
            }
            TextFormat::Csv => {
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
        LabelTexts { head: head.into(), tail: tail.into() }
    }

    fn line(&self, out: &mut Vec<u8>, instance: &str, format: TextFormat, point: &GeneratedSample) {
        out.extend_from_slice(&self.head);
        out.extend_from_slice(instance.as_bytes());
        out.extend_from_slice(&self.tail);
        match format {
            TextFormat::Prometheus => {
                decimal(out, point.digits, point.scale);
                out.push(b' ');
                decimal(out, point.at_ms, 0);
            }
            TextFormat::OpenMetrics => {
                decimal(out, point.digits, point.scale);
                out.push(b' ');
                decimal(out, point.at_ms, 3);
            }
            TextFormat::Csv => {
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
