//! Every regex of the table says what Go says, and nothing from outside is too much.

use super::*;
use crate::store::budget::Budget;

/// Its lines are told in its head.
const TABLE: &str = include_str!("table.tsv");

#[test]
fn regexes_mean_what_they_mean_to_go_and_prometheus() {
    let mut lines = TABLE.lines().filter(|line| !line.starts_with('#'));
    let values: Vec<String> = serde_json::from_str(lines.next().unwrap()).unwrap();
    let (mut taken, mut refused) = (0, 0);
    for line in lines {
        let (pattern, wanted) = line.split_once('\t').unwrap();
        let compiled = compile(pattern, 1 << 20);
        if wanted == "refused" {
            refused += 1;
            assert!(compiled.is_err(), "{pattern:?} is taken");
            continue;
        }
        taken += 1;
        let regex = compiled.unwrap_or_else(|why| panic!("{pattern:?}: {why}"));
        let got: Vec<String> = (0..values.len())
            .filter(|n| regex.is_match(&values[*n], &Budget::default()).unwrap())
            .map(|n| n.to_string())
            .collect();
        assert_eq!(got.join(" "), wanted, "{pattern:?} as {regex:?}, among {values:?}");
    }
    assert!(taken >= 90 && refused >= 40, "{taken} {refused}");
}

#[test]
fn what_is_refused_is_told_with_the_part() {
    let deep = format!("{}a{}", "(".repeat(4_000), ")".repeat(4_000));
    for (pattern, why) in [
        (r"a\C", r#"invalid escape sequence: "\\C""#),
        (r"\1", r#"invalid escape sequence: "\\1""#),
        (r"\Qa", r#"missing \E: "\\Qa""#),
        ("a**", r#"invalid nested repetition operator: "**""#),
        ("*", r#"missing argument to repetition operator: "*""#),
        ("(a{9}){200}", r#"invalid repeat count: "{200}""#),
        ("[b-a]", r#"invalid character class range: "b-a""#),
        ("[[:no:]]", r#"invalid character class range: "[:no:]""#),
        (r"\p{no}", r#"invalid character class range: "\\p{no}""#),
        (r"\p{No_script}", r"\p needs a category such as Lu, or a script such as Greek"),
        ("[a", r#"missing closing ]: "[a""#),
        ("(a", "missing closing )"),
        ("a)", "unexpected )"),
        ("(?=a)", r#"invalid or unsupported Perl syntax: "(?=""#),
        ("(?P<a-b>x)", r#"invalid named capture: "(?P<a-b>x)""#),
        (r"a\", "trailing backslash at end of expression"),
        (r"\pL{1000}", "it takes more than 524288 bytes when it is compiled"),
        (&deep, "it nests deeper than 250 parts"),
    ] {
        assert_eq!(compile(pattern, 1 << 20).expect_err(pattern), why);
    }
}

/// Any texts put together of what has a meaning are refused or taken, and what is translated is a regex.
#[test]
fn no_text_makes_translating_panic() {
    const PARTS: [&str; 34] = [
        "a",
        "é",
        "(",
        ")",
        "(?",
        "(?:",
        "(?i)",
        "(?-s:",
        "(?P<",
        "n>",
        "|",
        "*",
        "+",
        "?",
        "{",
        "2,",
        "}",
        "[",
        "^",
        "]",
        "-",
        "[:alpha:]",
        "\\",
        "d",
        "p",
        "{Greek}",
        "x",
        "{D800}",
        "\\Q",
        "\\E",
        "7",
        "&&",
        "$",
        ".",
    ];
    let seed = fastrand::u64(..);
    let rounds: usize = std::env::var("TEST_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(20_000);
    let mut random = fastrand::Rng::with_seed(seed);
    let mut taken = 0;
    for _ in 0..rounds {
        let parts = random.usize(1..10);
        let pattern: String = (0..parts).map(|_| PARTS[random.usize(0..PARTS.len())]).collect();
        if let Ok(translated) = translate(&pattern) {
            assert!(NFA::new(&translated).is_ok(), "seed {seed}: {pattern:?} as {translated:?}");
            taken += 1;
        }
    }
    assert!(taken > rounds / 20, "seed {seed}: {taken} of {rounds}");
}
