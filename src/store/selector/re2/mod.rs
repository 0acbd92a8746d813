//! Regexes as Prometheus reads them, which is RE2's syntax in Go's reading, for `regex-automata`, the engines of the `regex` crate.
//!
//! The two agree on most patterns and differ in silence on others: `\d` `\w` `\s` `\b` are ASCII only, `&&` `--` `~~` and
//! `[` stand for themselves in a class, `\101` is an octal escape and `\Q..\E` a literal, a `{` that counts nothing is
//! itself. So no text of the pattern is handed on: it is parsed as Go's `regexp/syntax` parses it, and each piece is
//! written anew. A piece holds its own flags and stands for itself, so pieces can be repeated and joined as texts.
//!
//! As in Prometheus 3 the pattern is anchored at both ends and a dot matches line ends too.
//!
//! Memory: about 16 bytes for one of the pattern. Not here: running regexes.

use std::error::Error as _;

use regex_automata::nfa::thompson::NFA;
use regex_automata::util::syntax;

use super::pattern::Pattern;

/// Most bytes a compiled regex may take.
pub const REGEX_BYTES_MAX: usize = 512 << 10;
/// Most parts of a pattern that stand within each other; a group and a repetition are one each.
const NESTING_MAX: u32 = 250;
/// Most copies of anything that counted repetitions may ask for.
const COPIES_MAX: u32 = 1_000;

/// No character at all, such as a surrogate in UTF-8.
const NOTHING: &str = r"[^\x{0}-\x{10FFFF}]";
const ANYTHING: &str = r"[\x{0}-\x{10FFFF}]";
const SURROGATES: std::ops::RangeInclusive<u32> = 0xD800..=0xDFFF;
/// Names of scripts that are as long as the short codes of scripts, which RE2 does not know.
const SCRIPTS_OF_FOUR: [&str; 8] = ["Ahom", "Cham", "Kawi", "Lisu", "Modi", "Newa", "Thai", "Toto"];
const CATEGORIES: [&str; 37] = [
    "C", "Cc", "Cf", "Co", "Cs", "L", "Ll", "Lm", "Lo", "Lt", "Lu", "M", "Mc", "Me", "Mn", "N", "Nd", "Nl",
    "No", "P", "Pc", "Pd", "Pe", "Pf", "Pi", "Po", "Ps", "S", "Sc", "Sk", "Sm", "So", "Z", "Zl", "Zp", "Zs",
    "LC",
];
const POSIX: [&str; 14] = [
    "alnum", "alpha", "ascii", "blank", "cntrl", "digit", "graph", "lower", "print", "punct", "space",
    "upper", "word", "xdigit",
];

/// The regex of a pattern, anchored at both ends, with about so many bytes to match with.
///
/// # Errors
/// What RE2 refuses, and what is larger than we take, with the reason.
pub fn compile(pattern: &str, cache_bytes: usize) -> Result<Pattern, String> {
    let translated = translate(pattern)?;
    let config = NFA::config().nfa_size_limit(Some(REGEX_BYTES_MAX));
    let mut compiler = NFA::compiler();
    compiler.syntax(syntax::Config::new().nest_limit(NESTING_MAX)).configure(config);
    let nfa = compiler.build(&translated).map_err(|error| {
        if error.size_limit().is_some() {
            return format!("it takes more than {REGEX_BYTES_MAX} bytes when it is compiled");
        }
        let text = error.source().map_or_else(|| error.to_string(), ToString::to_string);
        match text.contains("property") {
            true => r"\p needs a category such as Lu, or a script such as Greek".to_owned(),
            false if text.contains("nest") => format!("it nests deeper than {NESTING_MAX} parts"),
            false => text.lines().last().unwrap_or(&text).trim().to_owned(),
        }
    })?;
    Pattern::new(pattern, nfa, cache_bytes)
}

/// The pattern in the syntax of the `regex` crate, anchored at both ends.
///
/// # Errors
/// What RE2 refuses, with the part and the reason.
fn translate(pattern: &str) -> Result<String, String> {
    let mut parser =
        Parser { rest: pattern, flags: RegexFlags { dot_all: true, ..RegexFlags::default() }, open: vec![] };
    parser.open.push(Group::new(parser.flags));
    // Where the repetition before this begins: two of them in a row are none.
    let mut repeated: Option<&str> = None;
    while !parser.rest.is_empty() {
        let begin = parser.rest;
        let is_repetition = parser.next(repeated)?;
        repeated = is_repetition.then_some(begin);
    }
    match (parser.open.pop(), parser.open.is_empty()) {
        (Some(whole), true) => Ok(format!(r"\A{}\z", whole.close().text)),
        _ => Err("missing closing )".to_owned()),
    }
}

/// What holds up to the end of a group.
#[derive(Clone, Copy, Default)]
struct RegexFlags {
    fold_case: bool,
    multi_line: bool,
    dot_all: bool,
}

/// A part that stands for itself.
struct RegexPiece {
    text: String,
    /// A repetition, which has to be put into a group before it is repeated again.
    repeated: bool,
    /// How many copies of its innermost part counted repetitions ask for.
    copies: u32,
}

/// A group that is not closed.
struct Group {
    /// Those before it.
    flags: RegexFlags,
    alternatives: Vec<String>,
    /// Of the alternative at work.
    pieces: Vec<RegexPiece>,
    copies: u32,
}

impl Group {
    fn new(flags: RegexFlags) -> Group {
        Group { flags, alternatives: Vec::new(), pieces: Vec::new(), copies: 1 }
    }

    fn end_alternative(&mut self) {
        let mut text = String::new();
        for piece in self.pieces.drain(..) {
            text.push_str(&piece.text);
            self.copies = self.copies.max(piece.copies);
        }
        self.alternatives.push(text);
    }

    fn close(mut self) -> RegexPiece {
        self.end_alternative();
        let text = format!("(?:{})", self.alternatives.join("|"));
        RegexPiece { text, repeated: false, copies: self.copies }
    }
}

struct Parser<'p> {
    rest: &'p str,
    flags: RegexFlags,
    /// The whole pattern, and the groups within each other.
    open: Vec<Group>,
}

impl<'p> Parser<'p> {
    /// Takes the next part; whether it was a repetition. There is more.
    fn next(&mut self, repeated: Option<&'p str>) -> Result<bool, String> {
        let begin = self.rest;
        let first = self.character().expect("there is more");
        match first {
            '(' if self.rest.starts_with('?') => self.flags_or_group(begin)?,
            '(' => self.open.push(Group::new(self.flags)),
            ')' => {
                let closed = self.open.pop().filter(|_| !self.open.is_empty());
                let closed = closed.ok_or_else(|| "unexpected )".to_owned())?;
                self.flags = closed.flags;
                let piece = closed.close();
                self.pieces().push(piece);
            }
            '|' => self.group().end_alternative(),
            '^' if self.flags.multi_line => self.push("(?m:^)"),
            '^' => self.push(r"(?:\A)"),
            '$' if self.flags.multi_line => self.push("(?m:$)"),
            '$' => self.push(r"(?:\z)"),
            '.' if self.flags.dot_all => self.push(ANYTHING),
            '.' => self.push(r"[^\n]"),
            '[' => self.class(begin)?,
            '*' | '+' | '?' => {
                self.repeat(begin, repeated, 1, &first.to_string())?;
                return Ok(true);
            }
            '{' => match counts(begin) {
                Some((counts, rest)) => {
                    self.rest = rest;
                    self.repeat_counted(begin, repeated, counts)?;
                    return Ok(true);
                }
                None => self.literal('{'),
            },
            '\\' => self.escaped(begin)?,
            other => self.literal(other),
        }
        Ok(false)
    }

    fn character(&mut self) -> Option<char> {
        let mut chars = self.rest.chars();
        let first = chars.next();
        self.rest = chars.as_str();
        first
    }

    /// The part of the pattern from `begin` up to here.
    fn since(&self, begin: &'p str) -> &'p str {
        &begin[..begin.len() - self.rest.len()]
    }

    fn group(&mut self) -> &mut Group {
        self.open.last_mut().expect("the pattern itself is open")
    }

    fn pieces(&mut self) -> &mut Vec<RegexPiece> {
        &mut self.group().pieces
    }

    fn push(&mut self, text: impl Into<String>) {
        self.pieces().push(RegexPiece { text: text.into(), repeated: false, copies: 1 });
    }

    fn literal(&mut self, character: char) {
        let text = of_class(character.into());
        match self.flags.fold_case && character.is_alphabetic() {
            true => self.push(format!("(?i:{text})")),
            false => self.push(text),
        }
    }

    /// `{n}`, `{n,}` or `{n,m}`.
    fn repeat_counted(
        &mut self,
        begin: &'p str,
        repeated: Option<&'p str>,
        (least, most): (u32, Option<u32>),
    ) -> Result<(), String> {
        if least > COPIES_MAX || most.is_some_and(|most| most > COPIES_MAX || most < least) {
            return Err(format!("invalid repeat count: {:?}", self.since(begin)));
        }
        // As Go counts: what is repeated no time has no copies, and `{0,}` repeats nothing for certain.
        let times = most.unwrap_or(least.max(1));
        let count = match most {
            Some(most) => format!("{{{least},{most}}}"),
            None => format!("{{{least},}}"),
        };
        self.repeat(begin, repeated, times, &count)
    }

    /// Repeats the piece before.
    fn repeat(
        &mut self,
        begin: &'p str,
        repeated: Option<&'p str>,
        times: u32,
        operator: &str,
    ) -> Result<(), String> {
        // Whether it takes as much or as little as it can is nothing to whether all matches.
        if let Some(rest) = self.rest.strip_prefix('?') {
            self.rest = rest;
        }
        if let Some(before) = repeated {
            return Err(format!("invalid nested repetition operator: {:?}", self.since(before)));
        }
        let since = self.since(begin);
        let Some(piece) = self.pieces().last_mut() else {
            return Err(format!("missing argument to repetition operator: {since:?}"));
        };
        let copies = piece.copies * times;
        if copies > COPIES_MAX {
            return Err(format!("invalid repeat count: {since:?}"));
        }
        if piece.repeated {
            piece.text = format!("(?:{})", piece.text);
        }
        piece.text.push_str(operator);
        (piece.repeated, piece.copies) = (true, copies.max(1));
        Ok(())
    }

    /// Behind `(`: flags such as `(?i)`, or a group with flags or a name.
    fn flags_or_group(&mut self, begin: &'p str) -> Result<(), String> {
        if let Some(named) = self.rest.strip_prefix("?P<").or_else(|| self.rest.strip_prefix("?<")) {
            let name = named.split_once('>').filter(|(name, _)| {
                !name.is_empty() && name.bytes().all(|byte| byte == b'_' || byte.is_ascii_alphanumeric())
            });
            let (_, rest) = name.ok_or_else(|| format!("invalid named capture: {:?}", start_of(begin)))?;
            self.open.push(Group::new(self.flags));
            self.rest = rest;
            return Ok(());
        }
        self.character();
        let (mut flags, mut value, mut any) = (self.flags, true, false);
        while let Some(character) = self.character() {
            match character {
                'i' => flags.fold_case = value,
                'm' => flags.multi_line = value,
                's' => flags.dot_all = value,
                // What is taken first: no difference to whether all matches.
                'U' => {}
                '-' if value => {
                    (value, any) = (false, false);
                    continue;
                }
                ':' | ')' if value || any => {
                    if character == ':' {
                        self.open.push(Group::new(self.flags));
                    }
                    self.flags = flags;
                    return Ok(());
                }
                _ => break,
            }
            any = true;
        }
        Err(format!("invalid or unsupported Perl syntax: {:?}", self.since(begin)))
    }

    /// Behind a backslash that is not in a class.
    fn escaped(&mut self, begin: &'p str) -> Result<(), String> {
        let after = self.rest;
        let second = self.character();
        match second {
            Some('A') => self.push(r"(?:\A)"),
            Some('z') => self.push(r"(?:\z)"),
            Some('b') => self.push(r"(?-u:\b)"),
            Some('B') => self.push(r"(?-u:\B)"),
            Some('Q') => {
                // Without its end it would reach over the anchors that Prometheus puts around the pattern.
                let literal = self.rest.split_once(r"\E");
                let (literal, rest) = literal.ok_or_else(|| format!(r"missing \E: {:?}", start_of(begin)))?;
                literal.chars().for_each(|character| self.literal(character));
                self.rest = rest;
            }
            _ => {
                self.rest = after;
                match self.set(begin)? {
                    Some(set) => {
                        let set = self.folded(format!("[{set}]"));
                        self.push(set);
                    }
                    None => {
                        let code = self.code(begin)?;
                        match char::from_u32(code) {
                            Some(character) => self.literal(character),
                            None => self.push(NOTHING),
                        }
                    }
                }
            }
        }
        Ok(())
    }

    fn folded(&self, class: String) -> String {
        if self.flags.fold_case { format!("(?i:{class})") } else { class }
    }

    /// Behind a backslash: a set of characters such as `\d` or `\pL`, as it is written within a class.
    fn set(&mut self, begin: &'p str) -> Result<Option<String>, String> {
        let after = self.rest;
        let set = match self.character() {
            Some('d') => "0-9",
            Some('D') => "[^0-9]",
            Some('s') => r"\t\n\x0C\r\x20",
            Some('S') => r"[^\t\n\x0C\r\x20]",
            Some('w') => "0-9A-Za-z_",
            Some('W') => "[^0-9A-Za-z_]",
            Some(letter @ ('p' | 'P')) => return self.property(begin, letter == 'P').map(Some),
            _ => {
                self.rest = after;
                return Ok(None);
            }
        };
        Ok(Some(set.to_owned()))
    }

    /// Behind `\p` or `\P`.
    fn property(&mut self, begin: &'p str, mut negated: bool) -> Result<String, String> {
        let unknown = |part: &str| format!("invalid character class range: {part:?}");
        let mut name = match self.rest.strip_prefix('{') {
            Some(braced) => {
                let (name, rest) = braced.split_once('}').ok_or_else(|| unknown(start_of(begin)))?;
                self.rest = rest;
                name
            }
            None => {
                let after = self.rest;
                self.character();
                self.since(after)
            }
        };
        if let Some(inner) = name.strip_prefix('^') {
            (name, negated) = (inner, !negated);
        }
        let letter = if negated { 'P' } else { 'p' };
        let capitalized = name.starts_with(|first: char| first.is_ascii_uppercase());
        let is_script = capitalized
            && name.bytes().all(|byte| byte == b'_' || byte.is_ascii_alphabetic())
            && (name.len() != 4 || SCRIPTS_OF_FOUR.contains(&name));
        match name {
            "Any" if negated => Ok(NOTHING.to_owned()),
            "Any" => Ok(ANYTHING.to_owned()),
            _ if CATEGORIES.contains(&name) => Ok(format!("\\{letter}{{gc={name}}}")),
            _ if is_script => Ok(format!("\\{letter}{{sc={name}}}")),
            _ => Err(unknown(self.since(begin))),
        }
    }

    /// Behind a backslash: the character it means, which need not be one of UTF-8.
    fn code(&mut self, begin: &'p str) -> Result<u32, String> {
        let Some(character) = self.character() else {
            return Err("trailing backslash at end of expression".to_owned());
        };
        let octal = |text: &str| text.bytes().take_while(|byte| (b'0'..=b'7').contains(byte)).count();
        let code = match character {
            'a' => Some(7),
            'f' => Some(12),
            'n' => Some(10),
            'r' => Some(13),
            't' => Some(9),
            'v' => Some(11),
            'x' => self.hexadecimal(),
            // A digit alone would be a back reference, which there is not.
            '0'..='7' if character == '0' || octal(self.rest) > 0 => {
                let more = octal(self.rest).min(2);
                let (digits, rest) = self.rest.split_at(more);
                self.rest = rest;
                u32::from_str_radix(&format!("{character}{digits}"), 8).ok()
            }
            _ if character.is_ascii() && !character.is_ascii_alphanumeric() => Some(character.into()),
            _ => None,
        };
        code.ok_or_else(|| format!("invalid escape sequence: {:?}", self.since(begin)))
    }

    /// Behind `\x`: two digits, or any number in braces.
    fn hexadecimal(&mut self) -> Option<u32> {
        let digits = match self.rest.strip_prefix('{') {
            Some(braced) => {
                let (digits, rest) = braced.split_once('}')?;
                self.rest = rest;
                digits
            }
            None => {
                let digits = self.rest.get(..2)?;
                self.rest = &self.rest[2..];
                digits
            }
        };
        let digits = Some(digits).filter(|all| all.bytes().all(|byte| byte.is_ascii_hexdigit()))?;
        u32::from_str_radix(digits, 16).ok().filter(|code| *code <= u32::from(char::MAX))
    }

    /// Behind `[`.
    fn class(&mut self, begin: &'p str) -> Result<(), String> {
        let missing = || format!("missing closing ]: {:?}", start_of(begin));
        let mut set = String::new();
        let negated = match self.rest.strip_prefix('^') {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        };
        let mut first = true;
        loop {
            if let Some(rest) = self.rest.strip_prefix(']').filter(|_| !first) {
                self.rest = rest;
                break;
            }
            first = false;
            if let Some(named) = self.posix()? {
                set.push_str(&named);
                continue;
            }
            let part = self.rest;
            if let Some(rest) = self.rest.strip_prefix('\\') {
                self.rest = rest;
                if let Some(of) = self.set(part)? {
                    set.push_str(&of);
                    continue;
                }
                self.rest = part;
            }
            let low = self.class_code().ok_or_else(missing)??;
            let mut high = low;
            // `[a-]` holds a hyphen.
            if let Some(rest) =
                self.rest.strip_prefix('-').filter(|rest| !rest.is_empty() && !rest.starts_with(']'))
            {
                self.rest = rest;
                high = self.class_code().ok_or_else(missing)??;
            }
            if high < low {
                return Err(format!("invalid character class range: {:?}", self.since(part)));
            }
            push_range(&mut set, low, high);
        }
        let class = match (negated, set.is_empty()) {
            (false, true) => NOTHING.to_owned(),
            (true, true) => ANYTHING.to_owned(),
            (false, false) => format!("[{set}]"),
            (true, false) => format!("[^{set}]"),
        };
        let class = self.folded(class);
        self.push(class);
        Ok(())
    }

    /// In a class: `[:alpha:]` and its kin.
    fn posix(&mut self) -> Result<Option<String>, String> {
        let begin = self.rest;
        let Some((name, rest)) = begin.strip_prefix("[:").and_then(|rest| rest.split_once(":]")) else {
            return Ok(None);
        };
        self.rest = rest;
        let known = POSIX.contains(&name.strip_prefix('^').unwrap_or(name));
        known
            .then(|| Some(format!("[:{name}:]")))
            .ok_or_else(|| format!("invalid character class range: {:?}", self.since(begin)))
    }

    /// In a class: the next character; none at the end of the pattern.
    fn class_code(&mut self) -> Option<Result<u32, String>> {
        let begin = self.rest;
        match self.character()? {
            '\\' => Some(self.code(begin)),
            other => Some(Ok(other.into())),
        }
    }
}

/// `{n}`, `{n,}` or `{n,m}` at the beginning of a text, and the rest; what is no number of these is a literal.
fn counts(text: &str) -> Option<((u32, Option<u32>), &str)> {
    let (inner, rest) = text.strip_prefix('{')?.split_once('}')?;
    let number = |digits: &str| {
        let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        // A number that is too large is none that is taken, but a number.
        (plain && (digits == "0" || !digits.starts_with('0'))).then(|| digits.parse().unwrap_or(u32::MAX))
    };
    let counts = match inner.split_once(',') {
        None => number(inner).map(|exactly| (exactly, Some(exactly))),
        Some((least, "")) => number(least).map(|least| (least, None)),
        Some((least, most)) => number(least).zip(number(most).map(Some)),
    };
    counts.map(|counts| (counts, rest))
}

/// A range without surrogates, as it is written within a class.
fn push_range(set: &mut String, low: u32, high: u32) {
    let (below, above) = (high.min(SURROGATES.start() - 1), low.max(SURROGATES.end() + 1));
    for (low, high) in [(low, below), (above, high)] {
        if low == high {
            set.push_str(&of_class(low));
        } else if low < high {
            set.push_str(&format!("{}-{}", of_class(low), of_class(high)));
        }
    }
}

/// A character as it stands for itself, also within a class.
fn of_class(code: u32) -> String {
    match char::from_u32(code) {
        Some(plain) if plain.is_ascii_alphanumeric() => plain.to_string(),
        _ => format!("\\x{{{code:X}}}"),
    }
}

/// What is shown of a part without an end.
fn start_of(text: &str) -> &str {
    text.char_indices().nth(40).map_or(text, |(end, _)| &text[..end])
}

#[cfg(test)]
mod tests;
