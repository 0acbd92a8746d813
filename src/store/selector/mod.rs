//! Which series are meant: Prometheus selectors such as `up{job=~"node.*"}`, parsed and judged.
//!
//! As in Prometheus a regex is RE2's (`re2`) and anchored at both ends, a label that is absent equals the empty string,
//! and several `match[]` mean any of them. Only selectors are taken: no functions, ranges, offsets or arithmetic.

mod pattern;
mod re2;

use promql_parser::label::{MatchOp, Matcher};
use promql_parser::parser::{Expr, parse};
use tidewatch_dataflows::sample::SeriesId;

use self::pattern::Pattern;
use super::budget::{Budget, BudgetExceeded};

/// Most selectors of one question.
pub const SELECTORS_MAX: usize = 64;

/// Most bytes of one selector.
pub const SELECTOR_BYTES_MAX: usize = 8_192;

/// Most regexes of one question.
pub const REGEXES_MAX: usize = 32;

/// Bytes that the regexes of one question share to match with, and the most that one of them gets.
const CACHE_BYTES: usize = 8 << 20;
const CACHE_BYTES_OF_ONE: usize = 2 << 20;

/// The text is not a selector we take.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SelectorError(String);

/// Any of some selectors; without one, every series.
#[derive(Clone, Debug, Default)]
pub struct Selectors {
    /// Each is a conjunction of conditions.
    any: Vec<Vec<Condition>>,
    /// And of those this one alone.
    only: Option<SeriesId>,
    /// How long may be looked for them.
    budget: Budget,
}

/// What one label must be.
#[derive(Clone, Debug)]
struct Condition {
    label: String,
    test: Test,
}

#[derive(Clone, Debug)]
enum Test {
    Is(String),
    IsNot(String),
    Fits(Pattern),
    FitsNot(Pattern),
}

impl Condition {
    fn holds(&self, value: &str, budget: &Budget) -> Result<bool, BudgetExceeded> {
        Ok(match &self.test {
            Test::Is(wanted) => value == wanted,
            Test::IsNot(unwanted) => value != unwanted,
            Test::Fits(regex) => regex.is_match(value, budget)?,
            Test::FitsNot(regex) => !regex.is_match(value, budget)?,
        })
    }
}

impl Selectors {
    /// Parses selectors.
    ///
    /// # Errors
    /// The first that is not one, with its text and what is wrong.
    pub fn parse<T: AsRef<str>>(texts: &[T]) -> Result<Selectors, SelectorError> {
        if texts.len() > SELECTORS_MAX {
            return Err(SelectorError(format!(
                "at most {SELECTORS_MAX} selectors are taken; got {}",
                texts.len()
            )));
        }
        // Before any is compiled: that may take tens of milliseconds and megabytes.
        let mut regexes = 0;
        for text in texts {
            regexes += marked(text.as_ref())?.1;
            if regexes > REGEXES_MAX {
                let why = format!("at most {REGEXES_MAX} regexes are taken in one question");
                return Err(refuse(text.as_ref(), &why));
            }
        }
        let cache_bytes = (CACHE_BYTES / regexes.max(1)).min(CACHE_BYTES_OF_ONE);
        let mut any = Vec::new();
        for text in texts {
            any.extend(conjunctions(text.as_ref(), cache_bytes)?);
        }
        Ok(Selectors { any, ..Selectors::default() })
    }

    /// One series, which bears this name.
    pub fn one(series: SeriesId, name: &str) -> Selectors {
        let name = Condition { label: "__name__".to_owned(), test: Test::Is(name.to_owned()) };
        Selectors { any: vec![vec![name]], only: Some(series), budget: Budget::default() }
    }

    /// The same, looked for within a budget.
    pub fn within(self, budget: &Budget) -> Selectors {
        Selectors { budget: budget.clone(), ..self }
    }

    /// How long may be looked for them.
    pub fn budget(&self) -> &Budget {
        &self.budget
    }

    /// The only series that is meant, where one is named by its id. Labels do not tell it: see [`Selectors::matches`].
    pub fn only(&self) -> Option<SeriesId> {
        self.only
    }

    /// Whether every series is meant.
    pub fn is_every(&self) -> bool {
        self.any.is_empty()
    }

    /// Whether the series of this name, whose other labels `label` tells, is meant.
    ///
    /// # Errors
    /// The budget is over. Without one nothing can fail.
    pub fn matches<'a>(
        &self,
        name: &'a str,
        label: impl Fn(&str) -> Option<&'a str>,
    ) -> Result<bool, BudgetExceeded> {
        let value = |wanted: &str| if wanted == "__name__" { name } else { label(wanted).unwrap_or("") };
        'any: for all in &self.any {
            for condition in all {
                if !condition.holds(value(&condition.label), &self.budget)? {
                    continue 'any;
                }
            }
            return Ok(true);
        }
        Ok(self.any.is_empty())
    }

    /// The names that the series meant can have, sorted; none if they can have any.
    ///
    /// Only equality is looked through: the answer may hold names too many, never too few.
    pub fn names(&self) -> Option<Vec<&str>> {
        let mut names = Vec::with_capacity(self.any.len());
        for all in &self.any {
            names.push(all.iter().find_map(|condition| match &condition.test {
                Test::Is(name) if condition.label == "__name__" => Some(name.as_str()),
                _ => None,
            })?);
        }
        names.sort_unstable();
        names.dedup();
        (!names.is_empty()).then_some(names)
    }

    /// The label values, other than the name, that every series meant has.
    ///
    /// Only the equalities of a single selector are looked through.
    pub fn equalities(&self) -> Vec<(&str, &str)> {
        let [all] = self.any.as_slice() else { return Vec::new() };
        let equal = all.iter().filter_map(|condition| match &condition.test {
            Test::Is(value) if condition.label != "__name__" && !value.is_empty() => {
                Some((condition.label.as_str(), value.as_str()))
            }
            _ => None,
        });
        equal.collect()
    }
}

fn refuse(text: &str, why: &str) -> SelectorError {
    let shown: String = text.chars().take(200).collect();
    SelectorError(format!("{shown:?} is not a selector: {why}"))
}

/// A selector of bounded length as [`mark`] writes it, and how many regexes it has.
fn marked(text: &str) -> Result<(String, usize), SelectorError> {
    if text.len() > SELECTOR_BYTES_MAX {
        let why = format!("it has {} bytes; at most {SELECTOR_BYTES_MAX} are taken", text.len());
        return Err(refuse(text, &why));
    }
    mark(text).map_err(|why| refuse(text, &why))
}

/// The conjunctions one selector consists of: one, or one per side of `or`.
fn conjunctions(text: &str, cache_bytes: usize) -> Result<Vec<Vec<Condition>>, SelectorError> {
    let refuse = |why: &str| refuse(text, why);
    let (marked, _) = marked(text)?;
    let selector = match parse(&marked).map_err(|why| refuse(why.trim()))? {
        Expr::VectorSelector(selector) => selector,
        _ => return Err(refuse("only series selectors are taken, such as up{job=\"node\"}")),
    };
    if selector.offset.is_some() || selector.at.is_some() {
        return Err(refuse("offset and @ are not taken; use start and end"));
    }
    let mut any = selector.matchers.or_matchers;
    if !selector.matchers.matchers.is_empty() || any.is_empty() {
        any.push(selector.matchers.matchers);
    }
    let mut parsed = Vec::with_capacity(any.len());
    for all in any {
        let mut conditions = Vec::with_capacity(all.len() + 1);
        if let Some(name) = &selector.name {
            conditions.push(Condition { label: "__name__".to_owned(), test: Test::Is(name.clone()) });
        }
        for matcher in all {
            conditions.push(condition(matcher, cache_bytes).map_err(|why| refuse(&why))?);
        }
        let unbounded = Budget::default();
        if conditions.iter().all(|condition| condition.holds("", &unbounded) == Ok(true)) {
            return Err(refuse("at least one condition must not hold for the empty string"));
        }
        parsed.push(conditions);
    }
    Ok(parsed)
}

/// What a marked value begins with: its operator.
const IS: char = '=';
const IS_NOT: char = '!';
const FITS: char = '~';
const FITS_NOT: char = '-';

/// The selector with equality alone, because the parser would compile regexes in another syntax than theirs, and judge
/// by them what fits the empty string: `=~"x"` becomes `="~x"`, `!="x"` becomes `="!x"` and `="x"` becomes `="=x"`, as
/// does a name that stands alone, `{"x"}`. Texts in backticks get quotes. Counts the regexes.
///
/// Refuses what only a larger expression has, before the parser builds a tree as deep as the text is long.
fn mark(text: &str) -> Result<(String, usize), String> {
    let mut marked = String::with_capacity(text.len() + 16);
    let (mut quote, mut escaped, mut regexes) = (None, false, 0);
    // The operator before, without blanks: its value comes next.
    let mut operator = String::new();
    // Where a text begins that may be a name alone: what follows tells.
    let mut alone: Option<usize> = None;
    for c in text.chars() {
        if quote.is_none()
            && !c.is_whitespace()
            && let Some(at) = alone.take()
            && !matches!(c, '=' | '!' | '~')
        {
            marked.insert(at, IS);
        }
        match quote {
            // The parser reads escapes there, too, and Prometheus does not: as a text with the same meaning.
            Some('`') => match c {
                '`' => {
                    quote = None;
                    marked.push('"');
                }
                '\\' | '"' => marked.extend(['\\', c]),
                '\n' => marked.push_str("\\n"),
                _ => marked.push(c),
            },
            Some(open) => {
                if escaped {
                    escaped = false;
                } else if c == '\\' {
                    escaped = true;
                } else if c == open {
                    quote = None;
                }
                marked.push(c);
            }
            None if matches!(c, '"' | '\'' | '`') => {
                quote = Some(c);
                let mark = match std::mem::take(&mut operator).as_str() {
                    "=" => Some(IS),
                    "!=" => Some(IS_NOT),
                    "=~" => Some(FITS),
                    "!~" => Some(FITS_NOT),
                    _ => None,
                };
                regexes += usize::from(matches!(mark, Some(FITS | FITS_NOT)));
                if mark.is_some_and(|mark| mark != IS) {
                    make_equality(&mut marked);
                }
                marked.push(if c == '`' { '"' } else { c });
                alone = mark.is_none().then_some(marked.len());
                marked.extend(mark);
            }
            None if matches!(
                c,
                '(' | ')' | '[' | ']' | '+' | '-' | '*' | '/' | '%' | '^' | '@' | '#' | '<' | '>'
            ) =>
            {
                return Err(format!("{c:?} has no place in a series selector such as up{{job=\"node\"}}"));
            }
            None => {
                match c {
                    '=' | '!' | '~' => operator.push(c),
                    // A blank within an operator is left for the parser to refuse.
                    _ if !c.is_whitespace() => operator.clear(),
                    _ => {}
                }
                marked.push(c);
            }
        }
    }
    Ok((marked, regexes))
}

/// Makes the operator at the end of a text, of two characters and before blanks, one of equality.
fn make_equality(marked: &mut String) {
    let end = marked.trim_end().len();
    let blanks = marked.split_off(end);
    // A blank within it is left for the parser to refuse.
    if ["!=", "=~", "!~"].iter().any(|operator| marked.ends_with(operator)) {
        marked.truncate(end - 2);
        marked.push('=');
    }
    marked.push_str(&blanks);
}

/// A matcher with its regex compiled as Prometheus reads it.
fn condition(matcher: Matcher, cache_bytes: usize) -> Result<Condition, String> {
    let mut value = matcher.value.chars();
    let mark = value.next();
    let value = value.as_str();
    let regex = || {
        let compiled = re2::compile(value, cache_bytes);
        compiled.map_err(|why| format!("the regex {value:?} is not one of RE2: {why}"))
    };
    let test = match (&matcher.op, mark) {
        (MatchOp::Equal, Some(IS)) => Test::Is(value.to_owned()),
        (MatchOp::Equal, Some(IS_NOT)) => Test::IsNot(value.to_owned()),
        (MatchOp::Equal, Some(FITS)) => Test::Fits(regex()?),
        (MatchOp::Equal, Some(FITS_NOT)) => Test::FitsNot(regex()?),
        // As the parser does not have it where all values are marked.
        (op, _) => return Err(format!("the operator {op} is not taken here")),
    };
    Ok(Condition { label: matcher.name, test })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERIES: [&[(&str, &str)]; 5] = [
        &[("__name__", "up"), ("job", "node"), ("instance", "a:1")],
        &[("__name__", "up"), ("job", "prometheus")],
        &[("__name__", "node_load1"), ("job", "node"), ("note", "two\nlines")],
        &[("__name__", "with.dot"), ("label with space", "x")],
        &[("__name__", "up_down"), ("job", "")],
    ];

    /// Which of the series above the selectors mean.
    fn check(texts: &[&str], wanted: &[usize]) {
        let selectors = Selectors::parse(texts).unwrap();
        let meant: Vec<usize> = (0..SERIES.len())
            .filter(|i| {
                let get = |wanted: &str| {
                    SERIES[*i].iter().find(|(name, _)| *name == wanted).map(|(_, value)| *value)
                };
                selectors.matches(get("__name__").unwrap(), get).unwrap()
            })
            .collect();
        assert_eq!(meant, wanted, "{texts:?}");
        if let Some(names) = selectors.names() {
            assert!(
                meant.iter().all(|i| names.contains(&SERIES[*i][0].1)),
                "{texts:?} may only mean {names:?}"
            );
        }
    }

    #[test]
    fn selectors_mean_what_they_mean_to_prometheus() {
        check(&[], &[0, 1, 2, 3, 4]);
        check(&["up"], &[0, 1]);
        check(&["up{job=\"node\"}"], &[0]);
        check(&["{__name__=~\"up.*\"}"], &[0, 1, 4]);
        check(&["{__name__=~\"u\"}"], &[]);
        check(&["{__name__=~\"up|with\"}"], &[0, 1]);
        check(&["{job=~\"node|prom\"}"], &[0, 2]);
        check(&["{__name__!=\"\",job=\"\"}"], &[3, 4]);
        check(&["{__name__=~\".+\",instance!=\"\"}"], &[0]);
        check(&["{__name__=~\".+\",job!~\"node|\"}"], &[1]);
        check(&["{note=~\"two.lines\"}"], &[2]);
        check(&["up{instance=\"a:1\"}", "node_load1"], &[0, 2]);
        check(&["{job=\"prometheus\" or note!=\"\"}"], &[1, 2]);
        check(&["{\"with.dot\"}"], &[3]);
        check(&["{\"label with space\"='x'}"], &[3]);
        check(&["{job=~\"no{de\" or job=\"node\"}"], &[0, 2]);
        check(&["{job=~'n\\\\w+' , job !~ `\\Qprom\\E.*`}"], &[0, 2]);
        check(&["{__name__!=\"\"}"], &[0, 1, 2, 3, 4]);
        check(&["{instance!=\"\"}", "{note !~ \"\"}"], &[0, 2]);
        check(&["{job!=\"\",job!=\"node\"}", "{job!~\"|node\"}"], &[1]);
        check(&["{__name__=~`u[p]`,instance=~`a[:]\\d\"?`}", "{`with.dot`}"], &[0, 3]);
        check(&["{ \"with.dot\" , 'label with space' =~ \"[x&&y]\"}"], &[3]);
        check(&["{\"up\",job=\"node\"}", "{\"=up\"}", "{\"~up\"}"], &[0]);
        check(&["{job=\"~node\"}", "{job=\"=node\"}", "{__name__=\"up\",job=~\"=node\"}"], &[]);
    }

    #[test]
    fn what_the_store_may_look_through_is_found() {
        let selectors = Selectors::parse(&["b{x=\"1\",y=~\"2\",z=\"\"}"]).unwrap();
        assert_eq!(selectors.names(), Some(vec!["b"]));
        assert_eq!(selectors.equalities(), [("x", "1")]);
        let selectors = Selectors::parse(&["b{x=\"1\"}", "a", "b"]).unwrap();
        assert_eq!(selectors.names(), Some(vec!["a", "b"]));
        assert!(selectors.equalities().is_empty());
        assert_eq!(Selectors::parse(&["a", "{x=\"1\"}"]).unwrap().names(), None);
    }

    #[test]
    fn what_is_not_a_selector_is_refused_with_its_text() {
        let deep = format!("{}up{}", "(".repeat(4_000), ")".repeat(4_000));
        let long = format!("up{{a=\"{}\"}}", "x".repeat(SELECTOR_BYTES_MAX));
        let hungry = "up{a=~\"((x{1000}){1000}){1000}\"}";
        for text in [
            "",
            " ",
            "{}",
            "{job=~\".*\"}",
            "{job=\"\"}",
            "up{",
            "up{job=}",
            "up{job~\"x\"}",
            "1",
            "\"up\"",
            "sum(up)",
            "up[5m]",
            "up offset 5m",
            "up @ 0",
            "up + up",
            "up and up",
            "-up",
            "up{__name__=\"x\"}",
            "up{job=~\"(\"}",
            "{job=~\"a)|(b\"}",
            "{job=\"a\" or job=~\".*\"}",
            "up{job= ~\"x\"}",
            "up{job! =\"x\"}",
            "{job!=\"x\"}",
            "{job!~\"x\"}",
            "up{job!=~\"x\"}",
            "up{job=~=\"x\"}",
            "up{job==\"x\"}",
            "up{job=~\"\\\\C\"}",
            "up{job=~\"\\C\"}",
            "up{job=~\"a**\"}",
            "{\"up\" \"down\"}",
            "up{job=`x}",
            "{\"up\"",
            "# up",
            &deep,
            &long,
            hungry,
            "up{job=\"",
            "\u{0}",
        ] {
            let error = Selectors::parse(&[text]).expect_err(text).to_string();
            let start: String = text.chars().take(20).collect();
            let quoted = format!("{start:?}");
            assert!(error.starts_with(quoted.trim_end_matches('"')), "{error}");
            assert!(error.contains("is not a selector: ") && error.len() < 600, "{error}");
        }
        let many = vec!["up"; SELECTORS_MAX + 1];
        assert_eq!(
            Selectors::parse(&many).unwrap_err().to_string(),
            "at most 64 selectors are taken; got 65"
        );
    }

    #[test]
    fn regexes_of_one_question_are_bounded() {
        let selector = format!("up{{{}}}", vec![r#"a=~"\\w{80}""#; 500].join(","));
        let refused = Selectors::parse(&[&selector; 8]);
        assert!(refused.unwrap_err().to_string().contains("regexes"));
        let each = format!("up{{{}}}", vec![r#"a!~"x""#; REGEXES_MAX].join(","));
        assert!(Selectors::parse(&[&each]).is_ok());
        assert!(Selectors::parse(&[&each, "up{a=~\"y\"}"]).is_err());
        // An operator inside a text is none.
        assert!(Selectors::parse(&[format!("up{{a=\"{}\"}}", "=~".repeat(99))]).is_ok());
    }
}
