//! Reads paths out of Rust source: enough of the grammar for `use` trees and for paths in code, and no more.

use std::path::Path;

/// A path found in a file: its parts and its line, counted from 1.
#[derive(Debug, PartialEq)]
pub struct Found {
    pub parts: Vec<String>,
    pub line: usize,
    /// The name that a `use` brings in; none of other paths.
    pub brings: Option<String>,
    /// Whether it is of a `use` that is visible outside of the file.
    pub public: bool,
}

/// The module path of a file below `src`: `store/embedded.rs` is `[store, embedded]`, `lib.rs` and `mod.rs` add nothing.
pub fn module_of(file: &Path) -> Vec<String> {
    let mut parts: Vec<String> =
        file.with_extension("").iter().map(|part| part.to_string_lossy().into_owned()).collect();
    if parts.last().is_some_and(|last| last == "mod" || (last == "lib" && parts.len() == 1)) {
        parts.pop();
    }
    parts
}

/// The source without what is no code: comments and the insides of strings become blanks, lines stay where they are.
pub fn code_of(source: &str) -> String {
    let bytes = source.as_bytes();
    let mut code = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let end = skipped(bytes, at);
        if end > at {
            code.extend(bytes[at..end].iter().map(|b| if *b == b'\n' { b'\n' } else { b' ' }));
            at = end;
        } else {
            code.push(bytes[at]);
            at += 1;
        }
    }
    String::from_utf8_lossy(&code).into_owned()
}

/// Where the comment, string or character that begins here ends; `at` itself if none begins.
fn skipped(bytes: &[u8], at: usize) -> usize {
    let rest = &bytes[at..];
    let word_before = at > 0 && (bytes[at - 1].is_ascii_alphanumeric() || bytes[at - 1] == b'_');
    if rest.starts_with(b"//") {
        return at + rest.iter().position(|b| *b == b'\n').unwrap_or(rest.len());
    }
    if rest.starts_with(b"/*") {
        return at + comment(rest);
    }
    if rest[0] == b'"' {
        return at + quoted(rest, b'"');
    }
    let raw = rest.strip_prefix(b"b").unwrap_or(rest);
    if !word_before && raw.first() == Some(&b'r') {
        let hashes = raw[1..].iter().take_while(|b| **b == b'#').count();
        if raw.get(1 + hashes) == Some(&b'"') {
            let body = &raw[2 + hashes..];
            let close: Vec<u8> = std::iter::once(b'"').chain(std::iter::repeat_n(b'#', hashes)).collect();
            let end = body.windows(close.len()).position(|part| part == close).unwrap_or(body.len());
            return (bytes.len() - body.len() + end + close.len()).min(bytes.len());
        }
    }
    // A character, not a lifetime: 'x' or an escape.
    let character = rest[0] == b'\'' && (rest.get(1) == Some(&b'\\') || rest.get(2) == Some(&b'\''));
    if character { at + quoted(rest, b'\'') } else { at }
}

/// Length of the block comment these bytes begin with; block comments nest.
fn comment(bytes: &[u8]) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < bytes.len() {
        let rest = &bytes[at..];
        if rest.starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if rest.starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                break;
            }
        } else {
            at += 1;
        }
    }
    at
}

/// Length of the quoted text these bytes begin with, quotes included.
fn quoted(bytes: &[u8], quote: u8) -> usize {
    let mut at = 1;
    while at < bytes.len() && bytes[at] != quote {
        at += if bytes[at] == b'\\' { 2 } else { 1 };
    }
    (at + 1).min(bytes.len())
}

/// The code of a file without what is compiled for unit tests only.
///
/// Unit tests may use other rooms, the shipped code may not.
pub fn code_without_tests(source: &str) -> String {
    const FOR_TESTS: [&str; 7] = ["#", "[", "cfg", "(", "test", ")", "]"];
    let mut code = code_of(source).into_bytes();
    let tokens = Tokens::of(&code_of(source));
    let mut i = 0;
    while i < tokens.all.len() {
        if !tokens.is_at(i, &FOR_TESTS) {
            i += 1;
            continue;
        }
        let end = tokens.end_of_item(i + FOR_TESTS.len());
        let until = tokens.all.get(end).map_or(code.len(), |token| token.offset);
        code[tokens.all[i].offset..until].iter_mut().filter(|b| **b != b'\n').for_each(|b| *b = b' ');
        i = end;
    }
    String::from_utf8_lossy(&code).into_owned()
}

/// Words and marks of a source, with where they stand.
#[derive(Debug)]
pub struct Tokens {
    all: Vec<Token>,
}

#[derive(Debug)]
struct Token {
    text: String,
    line: usize,
    offset: usize,
}

impl Tokens {
    /// Splits code (without comments and strings) into words, `::` and single marks.
    pub fn of(code: &str) -> Tokens {
        let mut all = Vec::new();
        let mut line = 1;
        let mut rest = code.char_indices().peekable();
        while let Some((offset, c)) = rest.next() {
            let mut text = String::from(c);
            if c == '\n' {
                line += 1;
            }
            if c.is_whitespace() {
                continue;
            }
            if is_word(c) {
                while let Some((_, c)) = rest.next_if(|(_, c)| is_word(*c)) {
                    text.push(c);
                }
            } else if c == ':' && rest.next_if(|(_, c)| *c == ':').is_some() {
                text.push(':');
            }
            all.push(Token { text, line, offset });
        }
        Tokens { all }
    }

    /// The lines on which this sequence of tokens begins.
    pub fn find(&self, texts: &[&str]) -> Vec<usize> {
        let hits = (0..self.all.len()).filter(|i| self.is_at(*i, texts));
        hits.map(|i| self.all[i].line).collect()
    }

    /// All of them, in order.
    pub fn texts(&self) -> impl Iterator<Item = &str> {
        self.all.iter().map(|token| token.text.as_str())
    }

    /// The token behind the item, field or argument that begins at token `i`, attributes included.
    fn end_of_item(&self, mut i: usize) -> usize {
        let (mut depth, mut is_item) = (0, false);
        while i < self.all.len() {
            match self.text(i) {
                "fn" | "impl" | "struct" | "enum" | "trait" | "type" => is_item = true,
                "(" | "[" | "{" => depth += 1,
                ")" | "]" | "}" if depth == 0 => return i,
                "}" if depth == 1 => return i + 1,
                ")" | "]" | "}" => depth -= 1,
                ";" if depth == 0 => return i + 1,
                "," if depth == 0 && !is_item => return i + 1,
                _ => {}
            }
            i += 1;
        }
        i
    }

    fn is_at(&self, i: usize, texts: &[&str]) -> bool {
        self.all.len() - i >= texts.len()
            && texts.iter().zip(&self.all[i..]).all(|(text, token)| token.text == *text)
    }

    fn text(&self, i: usize) -> &str {
        self.all.get(i).map_or("", |token| &token.text)
    }
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Every path of two parts or more in the code, `use` trees spelled out; a `*` ends a glob.
pub fn paths_of(code: &str) -> Vec<Found> {
    let tokens = Tokens::of(code);
    let mut found = Vec::new();
    let mut i = 0;
    while i < tokens.all.len() {
        let starts =
            is_word(tokens.text(i).chars().next().unwrap_or(' ')) && (i == 0 || tokens.text(i - 1) != "::");
        let tree = starts && tokens.text(i) == "use";
        if tree {
            let public = i > 0 && ["pub", ")"].contains(&tokens.text(i - 1));
            i = tree_of(&tokens, i + 1, &[], public, &mut found);
        } else if starts && tokens.text(i + 1) == "::" {
            let line = tokens.all[i].line;
            let mut parts = vec![tokens.text(i).to_owned()];
            while tokens.text(i + 1) == "::" && is_word(tokens.text(i + 2).chars().next().unwrap_or(' ')) {
                parts.push(tokens.text(i + 2).to_owned());
                i += 2;
            }
            found.push(Found { parts, line, brings: None, public: false });
            i += 1;
        } else {
            i += 1;
        }
    }
    found
}

/// Reads one `use` tree from token `i` on, below `above`; gives the token after it.
fn tree_of(tokens: &Tokens, mut i: usize, above: &[String], public: bool, found: &mut Vec<Found>) -> usize {
    let (mut parts, mut other_name) = (above.to_vec(), None);
    let line = tokens.all.get(i).map_or(0, |token| token.line);
    loop {
        match tokens.text(i) {
            "::" => i += 1,
            "{" => {
                i += 1;
                while !["}", ""].contains(&tokens.text(i)) {
                    i = tree_of(tokens, i, &parts, public, found);
                    if tokens.text(i) == "," {
                        i += 1;
                    }
                }
                return i + 1;
            }
            "self" if !above.is_empty() => i += 1,
            "as" => {
                other_name = Some(tokens.text(i + 1).to_owned());
                i += 2;
            }
            "*" => i += 1,
            word if is_word(word.chars().next().unwrap_or(' ')) => {
                parts.push(word.to_owned());
                i += 1;
            }
            _ => {
                let brings = other_name.or_else(|| parts.last().cloned());
                found.push(Found { parts, line, brings, public });
                return i;
            }
        }
    }
}

#[test]
fn trees_are_spelled_out() {
    let spelled = |code: &str| paths_of(code).into_iter().map(|f| f.parts.join("::")).collect::<Vec<_>>();
    assert_eq!(
        spelled("use a::{b, c::{self, d as e}, f::*};\npub(crate) use g::h;"),
        ["a::b", "a::c", "a::c::d", "a::f", "g::h"]
    );
    assert_eq!(spelled("let x: Vec<a::B> = c::d::<e::F>(); y.z();"), ["a::B", "c::d", "e::F"]);
    assert_eq!(module_of(Path::new("store/mod.rs")), ["store"]);
    assert_eq!(module_of(Path::new("store/embedded.rs")), ["store", "embedded"]);
    assert!(module_of(Path::new("lib.rs")).is_empty());
}
