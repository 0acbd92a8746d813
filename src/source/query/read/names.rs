//! A selector narrowed to metric names, and one without some.
//!
//! Only selectors in braces alone can be: `{job="x"}`, not `up`.

use crate::promql::{escaped, matcher};

/// Most bytes of a selector with names: VictoriaMetrics takes 16 KiB by default.
pub const SELECTOR_BYTES_MAX: usize = 8 << 10;

/// The selector narrowed to these names.
pub fn with(selector: &str, names: &[String]) -> Option<String> {
    match names {
        [name] => narrowed(selector, "=", name),
        _ => narrowed(selector, "=~", &alternatives(names)),
    }
}

/// The selector without these names.
pub fn without(selector: &str, names: &[String]) -> Option<String> {
    match names {
        [] => Some(selector.to_owned()),
        [name] => narrowed(selector, "!=", name),
        _ => narrowed(selector, "!~", &alternatives(names)),
    }
}

/// Whether names can be added to it.
pub fn is_nameable(selector: &str) -> bool {
    narrowed(selector, "=", "").is_some()
}

/// The names in parts that fit into [`SELECTOR_BYTES_MAX`]; a name that does not fit is a part of its own.
pub fn parts(selector: &str, names: Vec<String>) -> Vec<Vec<String>> {
    let (mut parts, mut part, mut bytes) = (Vec::new(), Vec::new(), 0);
    // 16 for the matcher around them.
    let room = SELECTOR_BYTES_MAX.saturating_sub(selector.len() + 16);
    for name in names {
        let more = escaped(&quoted(&name)).len() + 1;
        if bytes + more > room && !part.is_empty() {
            parts.push(std::mem::take(&mut part));
            bytes = 0;
        }
        bytes += more;
        part.push(name);
    }
    if !part.is_empty() {
        parts.push(part);
    }
    parts
}

fn narrowed(selector: &str, operator: &str, value: &str) -> Option<String> {
    let inner = selector.trim().strip_prefix('{')?.strip_suffix('}')?.trim_end();
    let gap = if inner.is_empty() || inner.ends_with(',') { "" } else { "," };
    Some(format!("{{{inner}{gap}{}}}", matcher("__name__", operator, value)))
}

/// A regex of exactly these texts.
fn alternatives(names: &[String]) -> String {
    names.iter().map(|name| quoted(name)).collect::<Vec<_>>().join("|")
}

/// A text as a regex of RE2.
fn quoted(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len());
    for char in text.chars() {
        if r"\.+*?()|[]{}^$".contains(char) {
            quoted.push('\\');
        }
        quoted.push(char);
    }
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_added_where_there_are_none() {
        let one = vec!["n\"\\".to_owned()];
        let two = vec!["a.b".to_owned(), "c\nd".to_owned()];
        for (selector, alone, both, neither) in [
            (
                "{a=\"b\"}",
                "{a=\"b\",__name__=\"n\\\"\\\\\"}",
                "{a=\"b\",__name__=~\"a\\\\.b|c\\nd\"}",
                "{a=\"b\",__name__!~\"a\\\\.b|c\\nd\"}",
            ),
            (
                "{ a=\"}\" , }",
                "{ a=\"}\" ,__name__=\"n\\\"\\\\\"}",
                "{ a=\"}\" ,__name__=~\"a\\\\.b|c\\nd\"}",
                "{ a=\"}\" ,__name__!~\"a\\\\.b|c\\nd\"}",
            ),
            (
                "{}",
                "{__name__=\"n\\\"\\\\\"}",
                "{__name__=~\"a\\\\.b|c\\nd\"}",
                "{__name__!~\"a\\\\.b|c\\nd\"}",
            ),
        ] {
            assert_eq!(with(selector, &one).as_deref(), Some(alone));
            assert_eq!(with(selector, &two).as_deref(), Some(both));
            assert_eq!(without(selector, &two).as_deref(), Some(neither));
            assert_eq!(without(selector, &[]).as_deref(), Some(selector));
        }
        for selector in ["up", "up{a=\"b\"}"] {
            assert!(!is_nameable(selector) && with(selector, &two).is_none(), "{selector}");
        }
    }

    #[test]
    fn parts_fit_and_hold_every_name_once() {
        let selector = format!("{{a=\"{}\"}}", "b".repeat(1_000));
        let mut names: Vec<String> = (0..5_000).map(|n| format!("name.with.dots.{n}")).collect();
        names.push("x".repeat(SELECTOR_BYTES_MAX));
        names.push("last".to_owned());
        let parts = parts(&selector, names.clone());
        assert_eq!(parts.concat(), names);
        for part in &parts {
            let bytes = with(&selector, part).unwrap().len();
            assert!(bytes <= SELECTOR_BYTES_MAX || part.len() == 1, "{bytes}");
        }
        assert!(parts.len() < 40, "{}", parts.len());
        assert!(super::parts("{}", Vec::new()).is_empty());
    }
}
