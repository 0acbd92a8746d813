//! The format CSV (RFC 4180): a header row, then one sample per row.
//!
//! ```text
//! name,instance,job,timestamp,value
//! up,a:9100,node,2024-05-01T00:00:00Z,1
//! up,a:9100,,1714521615.5,1              an empty label cell: the label is absent
//! ```
//!
//! Cells are separated by `,`, or by `;` or tabs if the header is a header only so. A first line `sep=;` says which, as
//! spreadsheets write it. Where `;` separates, numbers may have a comma before their decimals: such files are written where
//! that is the custom.
//!
//! Columns: `name` (or `__name__`); `timestamp` (RFC 3339 or Unix seconds) or `timestamp_ms`; `value`; every other
//! column is a label. The key of a row is its labels in the order of the columns, each `name 0xFF value 0xFF` after a
//! leading zero byte: rows of files with different headers never share a key by accident, and no key of another format
//! begins with a zero byte.

use std::borrow::Cow;
use std::ops::Range;
use std::str;

use crate::labels::NAME;
use crate::source::exposition::number;

/// Most columns of a file.
const COLUMNS_MAX: usize = 1_024;
/// What may separate cells, the first choice first, and its name.
const SEPARATORS: [(u8, &str); 3] = [(b',', ","), (b';', ";"), (b'\t', "tab")];

#[derive(Clone, Debug, PartialEq, Eq)]
enum CsvColumn {
    /// The label's name, followed by 0xFF as in the key.
    Label(String, Vec<u8>),
    /// RFC 3339 or Unix seconds.
    Time,
    TimeMs,
    Value,
}

impl CsvColumn {
    fn label(name: &str) -> CsvColumn {
        CsvColumn::Label(name.to_owned(), [name.as_bytes(), &[0xff]].concat())
    }
}

/// The rows under one header; holds the row read last.
#[derive(Debug)]
pub struct CsvTable {
    columns: Vec<CsvColumn>,
    cells: CsvCells,
    key: Vec<u8>,
}

/// Why a row is not a sample.
#[derive(Debug, PartialEq, Eq)]
pub enum CsvError {
    /// A quoted cell is still open at the end: the row goes on in the next line, if there is one.
    Open,
    /// What is wrong.
    Malformed(String),
}

/// Time and value of a row; its labels are the table's key and pairs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CsvRow {
    /// Event time, Unix milliseconds.
    pub at_ms: i64,
    /// Value.
    pub value: f64,
}

impl CsvTable {
    /// Reads the header row, which tells what separates its columns.
    ///
    /// # Errors
    /// What is missing, empty or there twice.
    pub fn new(header: &[u8]) -> Result<CsvTable, String> {
        let by_comma = match CsvTable::separated(header, b',') {
            Ok(table) => return Ok(table),
            Err(why) => why,
        };
        let others = &SEPARATORS[1..];
        if let Some(table) = others.iter().find_map(|(other, _)| CsvTable::separated(header, *other).ok()) {
            return Ok(table);
        }
        if header.contains(&b',') || header.trim_ascii().is_empty() {
            return Err(by_comma);
        }
        // The complaint is about the columns as they were meant.
        match others.iter().find(|(other, _)| header.contains(other)) {
            Some((other, name)) => {
                let why = CsvTable::separated(header, *other).err().unwrap_or_default();
                Err(format!("columns separated by {name}: {why}"))
            }
            None => Err(format!("{by_comma}; columns must be separated by , or ; or tab")),
        }
    }

    /// Reads the header row, whose columns are separated by `separator`.
    ///
    /// # Errors
    /// What is missing, empty or there twice.
    pub fn separated(header: &[u8], separator: u8) -> Result<CsvTable, String> {
        let mut cells = CsvCells::new(separator);
        match cells.split(header) {
            Ok(()) => {}
            Err(CsvError::Open) => return Err("a quoted cell of the header is not closed".to_owned()),
            Err(CsvError::Malformed(why)) => return Err(why),
        }
        if cells.ranges.len() > COLUMNS_MAX {
            return Err(format!(
                "the header cannot have more than {COLUMNS_MAX} columns; got {}",
                cells.ranges.len()
            ));
        }
        let mut columns = Vec::new();
        for at in 0..cells.ranges.len() {
            let name = str::from_utf8(cells.get(at))
                .map_err(|_| format!("column {} of the header is not UTF-8", at + 1))?;
            let column = match name.trim() {
                "" => return Err(format!("column {} of the header has no name", at + 1)),
                "name" | "__name__" => CsvColumn::label(NAME),
                "timestamp" => CsvColumn::Time,
                "timestamp_ms" => CsvColumn::TimeMs,
                "value" => CsvColumn::Value,
                label => CsvColumn::label(label),
            };
            if columns.contains(&column) {
                return Err(format!("the header has the column {} twice", shown(name.trim().as_bytes())));
            }
            columns.push(column);
        }
        let has = |column: &CsvColumn| columns.contains(column);
        let missing = match () {
            () if !has(&CsvColumn::label(NAME)) => "a column name",
            () if !has(&CsvColumn::Value) => "a column value",
            () if has(&CsvColumn::Time) == has(&CsvColumn::TimeMs) => {
                "one of the columns timestamp and timestamp_ms"
            }
            () => return Ok(CsvTable { columns, cells, key: Vec::new() }),
        };
        Err(format!("the header needs {missing}; got {}", shown(header)))
    }

    /// Whether times are in the column `timestamp`, whose numbers are seconds.
    pub fn in_seconds(&self) -> bool {
        self.columns.contains(&CsvColumn::Time)
    }

    /// Reads a row.
    ///
    /// # Errors
    /// What is wrong with it, or that it is not complete.
    pub fn read(&mut self, row: &[u8]) -> Result<CsvRow, CsvError> {
        let malformed = |why: String| Err(CsvError::Malformed(why));
        self.cells.split(row)?;
        let decimal_comma = self.cells.separator == b';';
        let (got, wanted) = (self.cells.ranges.len(), self.columns.len());
        if got != wanted {
            return malformed(format!("a row has {wanted} cells as the header; got {got}"));
        }
        let mut row = CsvRow { at_ms: 0, value: 0.0 };
        self.key.clear();
        self.key.push(0);
        for (at, column) in self.columns.iter().enumerate() {
            let cell = self.cells.get(at);
            match column {
                CsvColumn::Label(..) if cell.is_empty() => {}
                CsvColumn::Label(_, begin) => {
                    self.key.extend_from_slice(begin);
                    self.key.extend_from_slice(cell);
                    self.key.push(0xff);
                }
                CsvColumn::Value => {
                    match text(cell).and_then(|text| number(&with_point(text, decimal_comma))) {
                        Some(value) => row.value = value,
                        None => {
                            let point = if cell.contains(&b',') { " with a decimal point" } else { "" };
                            return malformed(format!(
                                "value must be a number{point}, NaN, +Inf or -Inf; got {}",
                                shown(cell)
                            ));
                        }
                    }
                }
                CsvColumn::TimeMs => match text(cell).and_then(|text| text.parse().ok()) {
                    Some(at_ms) => row.at_ms = at_ms,
                    None => {
                        return malformed(format!(
                            "timestamp_ms must be whole milliseconds; got {}",
                            shown(cell)
                        ));
                    }
                },
                CsvColumn::Time => match text(cell).and_then(|text| time(&with_point(text, decimal_comma))) {
                    Some(at_ms) => row.at_ms = at_ms,
                    None => {
                        let wanted = "RFC 3339 with an offset, or Unix seconds";
                        return malformed(format!("timestamp must be {wanted}; got {}", shown(cell)));
                    }
                },
            }
        }
        Ok(row)
    }

    /// The bytes that name the series of the row read last.
    pub fn key(&self) -> &[u8] {
        &self.key
    }

    /// The labels of the row read last; not yet judged.
    ///
    /// # Errors
    /// A cell that is not UTF-8.
    pub fn pairs(&self) -> Result<Vec<(&str, &str)>, String> {
        let mut pairs = Vec::new();
        for (at, column) in self.columns.iter().enumerate() {
            let CsvColumn::Label(name, _) = column else { continue };
            let cell = self.cells.get(at);
            let value = str::from_utf8(cell).map_err(|_| {
                format!("the cell of {} is not UTF-8; got {}", shown(name.as_bytes()), shown(cell))
            })?;
            if !value.is_empty() {
                pairs.push((name.as_str(), value));
            }
        }
        Ok(pairs)
    }
}

/// What separates the columns, if a line says so as spreadsheets do: `sep=;`.
pub fn separator_of(line: &[u8]) -> Option<Result<u8, String>> {
    let (begin, said) = line.split_at_checked(4)?;
    let sep = begin.eq_ignore_ascii_case(b"sep=");
    let known = SEPARATORS.iter().find(|(separator, _)| said == [*separator]);
    let wrong = || Err(format!("sep= must be followed by , or ; or a tab; got {}", shown(said)));
    sep.then(|| known.map_or_else(wrong, |(separator, _)| Ok(*separator)))
}

/// A number whose decimals may follow a comma, with a point in its place. Where there are both, none is for decimals.
fn with_point(text: &str, decimal_comma: bool) -> Cow<'_, str> {
    match decimal_comma && text.contains(',') && !text.contains('.') {
        true => Cow::Owned(text.replacen(',', ".", 1)),
        false => Cow::Borrowed(text),
    }
}

fn text(cell: &[u8]) -> Option<&str> {
    str::from_utf8(cell.trim_ascii()).ok()
}

/// The time in milliseconds: Unix seconds, or RFC 3339 with an offset.
fn time(text: &str) -> Option<i64> {
    match text.parse::<f64>() {
        Ok(seconds) => {
            let at_ms = (seconds * 1_000.0).round();
            // Beyond this a float has no exact milliseconds; years are then unbelievable anyway.
            (at_ms.abs() < 9e15).then_some(at_ms as i64)
        }
        Err(_) => text.parse::<jiff::Timestamp>().ok().map(|time| time.as_millisecond()),
    }
}

/// The beginning of bytes from outside, fit for a message.
fn shown(bytes: &[u8]) -> String {
    const SHOWN_MAX: usize = 80;
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(SHOWN_MAX)]);
    format!("{text:?}{}", if bytes.len() > SHOWN_MAX { "..." } else { "" })
}

/// The cells of one row, without their quotes.
#[derive(Debug)]
struct CsvCells {
    separator: u8,
    bytes: Vec<u8>,
    ranges: Vec<Range<usize>>,
}

impl CsvCells {
    fn new(separator: u8) -> CsvCells {
        CsvCells { separator, bytes: Vec::new(), ranges: Vec::new() }
    }

    fn get(&self, at: usize) -> &[u8] {
        &self.bytes[self.ranges[at].clone()]
    }

    /// Splits a row, without its line end, into cells.
    fn split(&mut self, row: &[u8]) -> Result<(), CsvError> {
        self.bytes.clear();
        self.ranges.clear();
        let (mut begin, mut quotes) = (0, false);
        for (at, byte) in row.iter().enumerate() {
            quotes |= *byte == b'"';
            if *byte == self.separator {
                self.ranges.push(begin..at);
                begin = at + 1;
            }
        }
        self.ranges.push(begin..row.len());
        if quotes {
            return self.split_quoted(row);
        }
        self.bytes.extend_from_slice(row);
        Ok(())
    }

    /// As [`Cells::split`], for rows with quotes.
    fn split_quoted(&mut self, row: &[u8]) -> Result<(), CsvError> {
        self.ranges.clear();
        let mut at = 0;
        loop {
            let begin = self.bytes.len();
            if row.get(at) == Some(&b'"') {
                at = self.quoted(row, at + 1)?;
            } else {
                let length = row[at..].iter().position(|b| *b == self.separator).unwrap_or(row.len() - at);
                self.bytes.extend_from_slice(&row[at..at + length]);
                at += length;
            }
            self.ranges.push(begin..self.bytes.len());
            match row.get(at) {
                None => return Ok(()),
                Some(byte) if *byte == self.separator => at += 1,
                Some(_) => {
                    return Err(CsvError::Malformed(format!(
                        "cell {} goes on after its closing quote",
                        self.ranges.len()
                    )));
                }
            }
        }
    }

    /// Copies a quoted cell whose content begins `at`; gives the place after its closing quote.
    fn quoted(&mut self, row: &[u8], mut at: usize) -> Result<usize, CsvError> {
        loop {
            let length = row[at..].iter().position(|b| *b == b'"').ok_or(CsvError::Open)?;
            self.bytes.extend_from_slice(&row[at..at + length]);
            at += length + 1;
            if row.get(at) != Some(&b'"') {
                return Ok(at);
            }
            self.bytes.push(b'"');
            at += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Pairs = &'static [(&'static str, &'static str)];

    fn table(header: &str) -> CsvTable {
        CsvTable::new(header.as_bytes()).unwrap()
    }

    #[test]
    fn rows_become_labels_time_and_value() {
        let mut t = table("name,job,timestamp,value,zone");
        let rows: [(&str, Pairs, i64, f64); 7] = [
            ("up,x,1714521600,1,", &[("__name__", "up"), ("job", "x")], 1_714_521_600_000, 1.0),
            (
                "up,,1714521600.1234,-2.5e3,z",
                &[("__name__", "up"), ("zone", "z")],
                1_714_521_600_123,
                -2_500.0,
            ),
            (
                "up,\"a,\"\"b\"\"\n\",2024-05-01T00:00:00Z,+Inf,",
                &[("__name__", "up"), ("job", "a,\"b\"\n")],
                1_714_521_600_000,
                f64::INFINITY,
            ),
            (
                "up,x,2024-05-01T02:00:00.25+02:00, 1 ,",
                &[("__name__", "up"), ("job", "x")],
                1_714_521_600_250,
                1.0,
            ),
            (
                "\"up\",\"\",\"2024-05-01 00:00:00+00:00\",\"1\",\"\"",
                &[("__name__", "up")],
                1_714_521_600_000,
                1.0,
            ),
            (
                "up,a\"b,1714521600,1,é",
                &[("__name__", "up"), ("job", "a\"b"), ("zone", "é")],
                1_714_521_600_000,
                1.0,
            ),
            (",x,1714521600,1,", &[("job", "x")], 1_714_521_600_000, 1.0),
        ];
        for (text, pairs, at_ms, value) in rows {
            assert_eq!(t.read(text.as_bytes()), Ok(CsvRow { at_ms, value }), "{text}");
            assert_eq!(t.pairs().unwrap(), pairs, "{text}");
        }
        let mut t = table("timestamp_ms,value,__name__");
        assert_eq!(t.read(b"-5,NaN,up").unwrap().at_ms, -5);
        assert_eq!((t.pairs().unwrap(), t.in_seconds()), (vec![("__name__", "up")], false));
    }

    #[test]
    fn the_header_tells_what_separates_cells() {
        for (header, row) in [
            ("name;job;timestamp;value", "up;a,b;1714521600,5;-1,5"),
            ("name;job;timestamp;value", "up;\"a,b\";1714521600.5;-1.5"),
            ("name\tjob\ttimestamp\tvalue", "up\ta,b\t1714521600.5\t-1.5"),
            ("name,job,timestamp,value", "up,\"a,b\",1714521600.5,-1.5"),
        ] {
            let mut t = table(header);
            assert_eq!(t.read(row.as_bytes()), Ok(CsvRow { at_ms: 1_714_521_600_500, value: -1.5 }), "{row}");
            assert_eq!(t.pairs().unwrap(), [("__name__", "up"), ("job", "a,b")], "{row}");
        }
        // Commas are the first choice.
        let mut t = table("name,a;b,timestamp_ms,value");
        assert_eq!(t.read(b"up,x;y,5,1").map(|row| row.value), Ok(1.0));
        assert_eq!(t.pairs().unwrap(), [("__name__", "up"), ("a;b", "x;y")]);
        for (said, want) in [("sep=,", b','), ("sep=;", b';'), ("SEP=\t", b'\t')] {
            assert_eq!(separator_of(said.as_bytes()), Some(Ok(want)), "{said}");
        }
        for said in ["sep=", "sep=|", "sep=;;"] {
            let why = format!("sep= must be followed by , or ; or a tab; got {:?}", &said[4..]);
            assert_eq!(separator_of(said.as_bytes()), Some(Err(why)));
        }
        assert_eq!((separator_of(b"name,sep=;"), separator_of(b"sep")), (None, None));
    }

    #[test]
    fn a_comma_before_decimals_is_one_only_where_semicolons_separate() {
        let refused = |point: &str, got: &str| {
            Err(CsvError::Malformed(format!("value must be a number{point}, NaN, +Inf or -Inf; got {got:?}")))
        };
        let point = " with a decimal point";
        for (header, row, want) in [
            ("name;timestamp_ms;value", "up;5;1,5e3", Ok(1_500.0)),
            ("name;timestamp_ms;value", "up;5;1.234,5", refused(point, "1.234,5")),
            ("name;timestamp_ms;value", "up;5;1,234,5", refused(point, "1,234,5")),
            ("name;timestamp_ms;value", "up;5;one", refused("", "one")),
            ("name,timestamp_ms,value", "up,5,\"1,5\"", refused(point, "1,5")),
            ("name\ttimestamp_ms\tvalue", "up\t5\t1,234", refused(point, "1,234")),
        ] {
            assert_eq!(table(header).read(row.as_bytes()).map(|row| row.value), want, "{row}");
        }
    }

    #[test]
    fn bad_rows_are_refused_with_cell_and_value() {
        let times = "timestamp must be RFC 3339 with an offset, or Unix seconds; got ";
        let rows: [(&[u8], String); 14] = [
            (b"up,x,1", "a row has 4 cells as the header; got 3".into()),
            (b"up,x,1,1,1", "a row has 4 cells as the header; got 5".into()),
            (b"", "a row has 4 cells as the header; got 1".into()),
            (b"up,x,1,one", "value must be a number, NaN, +Inf or -Inf; got \"one\"".into()),
            (b"up,x,1,", "value must be a number, NaN, +Inf or -Inf; got \"\"".into()),
            (b"up,x,1,\xff", "value must be a number, NaN, +Inf or -Inf; got \"\u{fffd}\"".into()),
            (b"up,x,,1", format!("{times}\"\"")),
            (b"up,x,yesterday,1", format!("{times}\"yesterday\"")),
            (b"up,x,2024-05-01T00:00:00,1", format!("{times}\"2024-05-01T00:00:00\"")),
            (b"up,x,2024-02-30T00:00:00Z,1", format!("{times}\"2024-02-30T00:00:00Z\"")),
            (b"up,x,NaN,1", format!("{times}\"NaN\"")),
            (b"up,x,inf,1", format!("{times}\"inf\"")),
            (b"up,x,1e300,1", format!("{times}\"1e300\"")),
            (b"up,\"x\"y,1,1", "cell 2 goes on after its closing quote".into()),
        ];
        for (text, message) in rows {
            let got = table("name,job,timestamp,value").read(text);
            assert_eq!(got, Err(CsvError::Malformed(message)), "{}", text.escape_ascii());
        }
        assert_eq!(table("name,job,timestamp,value").read(b"up,\"x,1,1"), Err(CsvError::Open));
        let got = table("name,timestamp_ms,value").read(b"up,1.5,1");
        assert_eq!(
            got,
            Err(CsvError::Malformed("timestamp_ms must be whole milliseconds; got \"1.5\"".into()))
        );
        let mut t = table("name,job,timestamp,value");
        assert!(t.read(b"up,\xff,1,1").is_ok(), "labels are looked at only when their bytes are not known");
        assert_eq!(t.pairs(), Err("the cell of \"job\" is not UTF-8; got \"\u{fffd}\"".to_owned()));
    }

    #[test]
    fn messages_are_short_however_long_the_cells() {
        let name = "é".repeat(100_000);
        for header in [format!("{name},{name}"), name.clone()] {
            let message = CsvTable::new(header.as_bytes()).unwrap_err();
            assert!(message.len() < 400, "{} bytes", message.len());
        }
        let mut t = table(&format!("name,{name},timestamp,value"));
        t.read(b"up,\xff,1,1").unwrap();
        assert!(t.pairs().unwrap_err().len() < 400);
    }

    #[test]
    fn bad_headers_are_refused() {
        let one = "the header needs one of the columns timestamp and timestamp_ms; got ";
        let separators = "; columns must be separated by , or ; or tab";
        let headers = [
            ("", "column 1 of the header has no name".to_owned()),
            ("name,,value", "column 2 of the header has no name".to_owned()),
            ("name,value", format!("{one}\"name,value\"")),
            ("name,value,timestamp,timestamp_ms", format!("{one}\"name,value,timestamp,timestamp_ms\"")),
            ("value,timestamp", "the header needs a column name; got \"value,timestamp\"".to_owned()),
            ("name,timestamp", "the header needs a column value; got \"name,timestamp\"".to_owned()),
            ("name,__name__,timestamp,value", "the header has the column \"__name__\" twice".to_owned()),
            ("name,a,a,timestamp,value", "the header has the column \"a\" twice".to_owned()),
            ("\"name,", "a quoted cell of the header is not closed".to_owned()),
            (
                "up{a=\"b\"} 1 1714521600000",
                format!("the header needs a column name; got \"up{{a=\\\"b\\\"}} 1 1714521600000\"{separators}"),
            ),
            ("name|value", format!("the header needs a column name; got \"name|value\"{separators}")),
            (
                "name;job;value",
                "columns separated by ;: the header needs one of the columns timestamp and timestamp_ms; got \"name;job;value\"".to_owned(),
            ),
            ("name\tvalue\tname", "columns separated by tab: the header has the column \"name\" twice".to_owned()),
        ];
        for (header, message) in headers {
            assert_eq!(CsvTable::new(header.as_bytes()).unwrap_err(), message, "{header}");
        }
        let many = "x,".repeat(2_000);
        assert_eq!(
            CsvTable::new(many.as_bytes()).unwrap_err(),
            "the header cannot have more than 1024 columns; got 2001"
        );
        assert!(CsvTable::new(b"\xff,b").unwrap_err().starts_with("column 1 of the header is not UTF-8"));
    }

    #[test]
    fn keys_tell_label_sets_apart_whatever_the_header() {
        let key = |header: &str, row: &str| {
            let mut t = table(header);
            t.read(row.as_bytes()).unwrap();
            t.key().to_vec()
        };
        let one = key("name,a,b,timestamp,value", "up,1,,5,1");
        assert_ne!(one, key("name,b,a,timestamp,value", "up,1,,5,1"), "the same cells under other names");
        assert_eq!(one, key("name,timestamp_ms,value,a", "up,9,7,1"));
        assert_ne!(one, key("name,a,b,timestamp,value", "up,,1,5,1"));
        assert!(one.starts_with(&[0]));
    }

    /// What the split takes, the csv crate reads the same.
    #[test]
    fn cells_are_as_the_csv_crate_reads_them() {
        let seed = 5;
        let mut random = fastrand::Rng::with_seed(seed);
        let mut taken = 0;
        for round in 0..50_000 {
            let separator = random.choice(SEPARATORS).unwrap().0;
            let bytes = [b'a', separator, b'"', b' '];
            let row: Vec<u8> = (0..random.usize(1..12)).map(|_| random.choice(bytes).unwrap()).collect();
            let mut cells = CsvCells::new(separator);
            if cells.split(&row).is_err() {
                continue;
            }
            let mut reader = ::csv::ReaderBuilder::new();
            let mut reader = reader.has_headers(false).delimiter(separator).from_reader(&row[..]);
            let record = reader.byte_records().next().unwrap().unwrap();
            let ours: Vec<&[u8]> = (0..cells.ranges.len()).map(|at| cells.get(at)).collect();
            assert_eq!(
                ours,
                record.iter().collect::<Vec<_>>(),
                "seed {seed}, round {round}: {}",
                row.escape_ascii()
            );
            taken += 1;
        }
        assert!(taken > 10_000, "{taken} rows were compared");
    }
}
