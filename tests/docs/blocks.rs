//! What a page of the docs says that a newcomer types, and what it says that is answered: read from its fenced blocks.
//!
//! A block ```` ```sh ```` is run. A block of text, JSON or CSV right behind it is what it prints. A comment on the line
//! before a block says how it is meant; [`Step`] has them all.
//!
//! Not here: how blocks are run (`mod.rs`) and compared (`likeness.rs`).

/// One thing that a page has its reader do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// `<!-- file: NAME -->` before a block: it is the content of that file.
    File { name: String, text: String },
    /// A block `sh`: it is run to its end.
    Command { script: String, printed: Option<Printed>, code: i32, until: bool },
    /// `<!-- in the background -->` before a block `sh`: it goes on until the page stops it.
    Background { script: String, printed: Option<Printed> },
    /// `<!-- Ctrl-C -->`: what was started last in the background is told to end, and ends well.
    Stop,
    /// `<!-- live -->`: what follows needs a real Prometheus.
    Live,
}

/// What a command is said to print.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Printed {
    pub text: String,
    /// It is JSON values, one after the other, in which `…` stands for any value, or for more of them. Else it is lines, in
    /// which `…` stands for anything within a line, or for any lines.
    pub json: bool,
    /// `<!-- numbers differ -->` before the command: numbers and times are those of one run, and any others are as good.
    pub numbers_differ: bool,
}

/// A step and the line of the page where it is.
pub type Place = (usize, Step);

/// What a comment before a block says of it.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Meaning {
    Plain,
    File(String),
    Background,
    Exit(i32),
    Until,
    NotRun,
}

/// A fenced block.
struct Block<'a> {
    language: &'a str,
    text: String,
    line: usize,
    /// The line behind it.
    end: usize,
}

/// The steps of a page, in order.
///
/// # Panics
/// A comment or a block is none of the known ones: what is not understood is not run, and nobody would see.
pub fn steps(page: &str) -> Vec<Place> {
    let lines: Vec<&str> = page.lines().collect();
    let mut steps: Vec<Place> = Vec::new();
    let mut meaning = Meaning::Plain;
    let mut numbers_differ = false;
    let mut at = 0;
    while at < lines.len() {
        let line = lines[at].trim();
        if let Some(language) = line.strip_prefix("```") {
            let block = block(&lines, at, language);
            at = block.end;
            let printed = matches!(block.language, "sh").then(|| printed(&lines, at)).flatten();
            let printed = printed.map(|(printed, end)| {
                at = end;
                Printed { numbers_differ: std::mem::take(&mut numbers_differ), ..printed }
            });
            assert!(!numbers_differ, "line {}: nothing is printed in which numbers could differ", block.line);
            steps.extend(step(&block, std::mem::replace(&mut meaning, Meaning::Plain), printed));
            continue;
        }
        if let Some(comment) = line.strip_prefix("<!-- ").and_then(|rest| rest.strip_suffix(" -->")) {
            match comment {
                "live" => steps.push((at + 1, Step::Live)),
                "Ctrl-C" => steps.push((at + 1, Step::Stop)),
                "numbers differ" => numbers_differ = true,
                _ => meaning = read(comment, at + 1).unwrap_or(Meaning::Plain),
            }
        } else if !line.is_empty() {
            assert_eq!(meaning, Meaning::Plain, "line {}: no block follows the comment", at + 1);
        }
        at += 1;
    }
    steps
}

/// What a comment means; none for those of generated parts.
fn read(comment: &str, line: usize) -> Option<Meaning> {
    if let Some(name) = comment.strip_prefix("file: ") {
        return Some(Meaning::File(name.to_owned()));
    }
    if let Some(reason) = comment.strip_prefix("not run: ") {
        assert!(reason.len() > 8, "line {line}: a block that is not run needs a reason");
        return Some(Meaning::NotRun);
    }
    if let Some(code) = comment.strip_prefix("exit ") {
        return Some(Meaning::Exit(code.parse().expect("a comment `exit` has a number")));
    }
    match comment {
        "in the background" => Some(Meaning::Background),
        "until" => Some(Meaning::Until),
        "end" => None,
        other if other.starts_with("generated: ") => None,
        other => panic!("line {line}: nobody knows the comment {other:?}"),
    }
}

/// The block that begins at this line.
fn block<'a>(lines: &[&'a str], begin: usize, language: &'a str) -> Block<'a> {
    let text: Vec<&str> =
        lines[begin + 1..].iter().copied().take_while(|line| line.trim() != "```").collect();
    assert!(begin + 1 + text.len() < lines.len(), "line {}: the block has no end", begin + 1);
    Block { language, text: text.join("\n"), line: begin + 1, end: begin + text.len() + 2 }
}

/// The block of what is printed that follows from this line on, and the line behind it.
fn printed(lines: &[&str], from: usize) -> Option<(Printed, usize)> {
    let begin = from + lines[from..].iter().take_while(|line| line.trim().is_empty()).count();
    let language = lines.get(begin)?.trim().strip_prefix("```")?;
    let block = block(lines, begin, language);
    let end = block.end;
    let json = language == "json";
    let printed = Printed { text: block.text, json, numbers_differ: false };
    (json || ["text", "csv"].contains(&language)).then_some((printed, end))
}

fn step(block: &Block, meaning: Meaning, printed: Option<Printed>) -> Option<Place> {
    let script = block.text.clone();
    let step = match (meaning, block.language) {
        (Meaning::NotRun, _) => return None,
        (Meaning::File(name), _) => Step::File { name, text: format!("{script}\n") },
        (Meaning::Plain, "sh") => Step::Command { script, printed, code: 0, until: false },
        (Meaning::Exit(code), "sh") => Step::Command { script, printed, code, until: false },
        (Meaning::Until, "sh") => Step::Command { script, printed, code: 0, until: true },
        (Meaning::Background, "sh") => Step::Background { script, printed },
        // A picture, or a part of a file that is shown elsewhere as a whole.
        (Meaning::Plain, "text") => return None,
        (meaning, language) => {
            panic!(
                "line {}: a block {language:?} that is {meaning:?} is neither run nor compared",
                block.line
            )
        }
    };
    Some((block.line, step))
}

#[test]
fn steps_are_read_in_order_with_what_they_print() {
    let page = "# Page\n\n<!-- file: a.csv -->\n```csv\nname,value\n```\n\n<!-- numbers differ -->\n```sh\necho 1\n```\n\n```text\n1\n```\nWords.\n\n\
                <!-- exit 2 -->\n```sh\nfalse\n```\n\n<!-- not run: it builds everything -->\n```sh\nmake\n```\n<!-- live -->\n\
                <!-- in the background -->\n```sh\nserve\n```\n<!-- Ctrl-C -->\n";
    let text = |text: &str| Some(Printed { text: text.to_owned(), json: false, numbers_differ: true });
    let command = |script: &str, printed, code| Step::Command {
        script: script.to_owned(),
        printed,
        code,
        until: false,
    };
    let expected = [
        (4, Step::File { name: "a.csv".to_owned(), text: "name,value\n".to_owned() }),
        (9, command("echo 1", text("1"), 0)),
        (19, command("false", None, 2)),
        (27, Step::Live),
        (29, Step::Background { script: "serve".to_owned(), printed: None }),
        (32, Step::Stop),
    ];
    assert_eq!(steps(page), expected);
}

#[test]
fn a_block_that_would_be_passed_over_is_told() {
    for page in [
        "```python\nx\n```",
        "<!-- numbers differ -->\n```sh\nx\n```",
        "<!-- forever -->\n```sh\nx\n```",
        "<!-- until -->\nWords\n",
        "```sh\nno end",
    ] {
        let read = std::panic::catch_unwind(|| steps(page));
        assert!(read.is_err(), "{page:?} gives {read:?}");
    }
}
