//! The formats of files, and the bounds of their lines.

/// The reason of a line that cannot be read.
pub const MALFORMED: &str = "malformed";

/// Most bytes of a line, and of the lines of one CSV row.
pub const LINE_BYTES_MAX: usize = 1 << 20;

/// Most lines of one CSV row.
pub const ROW_LINES_MAX: usize = 64;

/// A format of files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileFormat {
    /// Prometheus text 0.0.4 with timestamps.
    Prometheus,
    /// OpenMetrics text 1.0 with timestamps.
    OpenMetrics,
    /// Comma-separated values with a header row.
    Csv,
}

impl std::str::FromStr for FileFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<FileFormat, String> {
        match text {
            "prometheus" => Ok(FileFormat::Prometheus),
            "openmetrics" => Ok(FileFormat::OpenMetrics),
            "csv" => Ok(FileFormat::Csv),
            _ => Err(format!("format must be prometheus, openmetrics or csv; got {text:?}")),
        }
    }
}
