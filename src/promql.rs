//! PromQL as it is printed: texts in quotes, matchers, selectors.
//!
//! Not here: reading it (`store::selector`).

/// A text as it stands within double quotes.
pub fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// A label, an operator such as `=~`, and a text. Names in quotes may hold anything, but only newer servers know them, so
/// none is quoted without need.
pub fn matcher(label: &str, operator: &str, value: &str) -> String {
    let plain = label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        && !label.starts_with(|first: char| first.is_ascii_digit())
        && !label.is_empty();
    match plain {
        true => format!("{label}{operator}\"{}\"", escaped(value)),
        false => format!("\"{}\"{operator}\"{}\"", escaped(label), escaped(value)),
    }
}

/// The selector of what has exactly these values.
pub fn selector<'a>(labels: impl IntoIterator<Item = (&'a str, &'a str)>) -> String {
    let all: Vec<String> = labels.into_iter().map(|(label, value)| matcher(label, "=", value)).collect();
    format!("{{{}}}", all.join(","))
}

/// A series as people write it: `up{job="x", mode="y"}`.
pub fn series<'a>(name: &str, labels: impl IntoIterator<Item = (&'a str, &'a str)>) -> String {
    let all: Vec<String> = labels.into_iter().map(|(label, value)| matcher(label, "=", value)).collect();
    format!("{name}{{{}}}", all.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_series_is_selected_by_all_its_labels() {
        let labels = [("__name__", "up"), ("a.b", "x"), ("job", "say \"no\"\\\n"), ("9", "")];
        let want = r#"{__name__="up","a.b"="x",job="say \"no\"\\\n","9"=""}"#;
        assert_eq!(selector(labels), want);
        assert_eq!(selector([]), "{}");
        assert_eq!(series("up", [("job", "x"), ("a.b", "y")]), r#"up{job="x", "a.b"="y"}"#);
        assert_eq!(matcher("", "=~", "a|b"), r#"""=~"a|b""#);
    }
}
