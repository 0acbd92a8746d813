//! Why an input cannot be read, or not to its end.

use std::io;

/// Why an input cannot be read, or not to its end; only [`ReplayError::is_strict`] ends reading. All definite.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// The format cannot be guessed.
    #[error(
        "the format of {input} cannot be guessed from its name (.prom, .txt, .om, .csv, each also with .gz or .zst); give --format prometheus, openmetrics or csv"
    )]
    UnknownFormat {
        /// The input as named.
        input: String,
    },
    /// There is nothing to read.
    #[error("there is no input; name files, or - for standard input")]
    NoInput,
    /// An input cannot be opened or read.
    #[error("reading {input}: {error}{}", before(*.lines))]
    Read {
        /// The input as named.
        input: String,
        /// What the system said.
        error: io::Error,
        /// How many lines were read before.
        lines: u64,
    },
    /// The header row of a CSV file cannot be used.
    #[error("{input} line {line}: {message}")]
    Header {
        /// The input as named.
        input: String,
        /// Counted from 1.
        line: u64,
        /// What is wrong.
        message: String,
    },
    /// OpenMetrics without its last line.
    #[error(
        "{input} is cut off: it ends after line {lines} without the line # EOF; what came before is taken"
    )]
    CutOff {
        /// The input as named.
        input: String,
        /// How many lines it has.
        lines: u64,
    },
    /// Every line that should hold a sample was refused.
    #[error("nothing of {} can be taken: {refused} of {refused} lines are refused; {first}", first.input)]
    NothingTaken {
        /// How many lines should hold a sample.
        refused: u64,
        /// The first of them.
        first: BadLine,
    },
    /// The first refused line, in strict reading.
    #[error("{0}")]
    Strict(BadLine),
}

impl ReplayError {
    /// Whether reading ends here, and not only one input.
    pub fn is_strict(&self) -> bool {
        matches!(self, ReplayError::Strict(_))
    }
}

/// How many lines were read before an error.
fn before(lines: u64) -> String {
    match lines {
        0 => String::new(),
        1 => "; 1 line before it was read".to_owned(),
        n => format!("; {n} lines before it were read"),
    }
}

/// A line that was not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{input} line {line}: {message}")]
pub struct BadLine {
    /// The input as named.
    pub input: String,
    /// Counted from 1.
    pub line: u64,
    /// The reason's word.
    pub reason: &'static str,
    /// What is wrong.
    pub message: String,
}
