//! Whether what was printed is what a page says: equal, but for `…`, which stands for what differs from run to run.

use serde_json::Value;

/// What stands for anything.
const ANY: &str = "…";

/// Whether lines are those that are shown. White space counts as one space. `…` is anything within a line; a line of its
/// own, any lines. Where `numbers_differ`, every number is as good as any other.
pub fn lines_are_like(shown: &str, printed: &str, numbers_differ: bool) -> bool {
    let lines = |text: &str| -> Vec<String> {
        let text = if numbers_differ { without_numbers(text) } else { text.to_owned() };
        text.trim().lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
    };
    let (shown, printed) = (lines(shown), lines(printed));
    follow(&shown, &printed, |line| line == ANY, |shown, printed| text_is_like(shown, printed))
}

/// Whether JSON values, one after the other, are those that are shown: [`value_is_like`].
///
/// # Errors
/// One of the texts is no JSON.
pub fn json_is_like(shown: &str, printed: &str, numbers_differ: bool) -> Result<bool, String> {
    let values = |what: &str, text: &str| -> Result<Vec<Value>, String> {
        let values = serde_json::Deserializer::from_str(text).into_iter().collect::<Result<Vec<_>, _>>();
        let values = values.map_err(|error| format!("{what} is no JSON: {error}"))?;
        Ok(if numbers_differ { values.into_iter().map(value_without_numbers).collect() } else { values })
    };
    let (shown, printed) = (values("what is shown", &quoted(shown))?, values("what is printed", printed)?);
    Ok(follow(&shown, &printed, |value| value == ANY, value_is_like))
}

/// Whether a sequence is the one that is shown, where `any` items stand for any number of items.
fn follow<T>(shown: &[T], given: &[T], any: fn(&T) -> bool, like: fn(&T, &T) -> bool) -> bool {
    match shown.split_first() {
        None => given.is_empty(),
        Some((first, rest)) if any(first) => {
            (0..=given.len()).any(|skipped| follow(rest, &given[skipped..], any, like))
        }
        Some((first, rest)) => given
            .split_first()
            .is_some_and(|(next, others)| like(first, next) && follow(rest, others, any, like)),
    }
}

/// Whether a text is the one that is shown, where `…` stands for anything.
fn text_is_like(shown: &str, mut text: &str) -> bool {
    let Some((first, rest)) = shown.split_once(ANY) else { return shown == text };
    let Some(behind) = text.strip_prefix(first) else { return false };
    text = behind;
    let parts: Vec<&str> = rest.split(ANY).collect();
    let Some((last, middle)) = parts.split_last() else { return true };
    for part in middle {
        let Some(at) = text.find(part) else { return false };
        text = &text[at + part.len()..];
    }
    text.ends_with(last)
}

/// Whether a value is the one that is shown. The text `…` is any value, as a key any further keys.
fn value_is_like(shown: &Value, given: &Value) -> bool {
    match (shown, given) {
        (Value::String(any), _) if any == ANY => true,
        (Value::String(shown), Value::String(given)) => text_is_like(shown, given),
        (Value::Array(shown), Value::Array(given)) => {
            follow(shown, given, |value| value == ANY, value_is_like)
        }
        (Value::Object(shown), Value::Object(given)) => {
            let open = shown.contains_key(ANY);
            let named = || shown.iter().filter(|(key, _)| key.as_str() != ANY);
            (open || named().count() == given.len())
                && named().all(|(key, value)| given.get(key).is_some_and(|given| value_is_like(value, given)))
        }
        (shown, given) => shown == given,
    }
}

/// A text with a 0 for each number.
fn without_numbers(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(|c: char| c.is_ascii_digit()) {
        out.push_str(&rest[..at]);
        out.push('0');
        rest = rest[at..].trim_start_matches(|c: char| c.is_ascii_digit());
        // A point or a comma with a digit behind it is a part of the number.
        while let Some(more) =
            rest.strip_prefix(['.', ',']).filter(|more| more.starts_with(|c: char| c.is_ascii_digit()))
        {
            rest = more.trim_start_matches(|c: char| c.is_ascii_digit());
        }
    }
    out + rest
}

/// A value with a 0 for each number, and in each time.
fn value_without_numbers(value: Value) -> Value {
    match value {
        Value::Number(_) => Value::from(0),
        // 2026-01-02T03:04:05Z
        Value::String(text) if text.len() >= 20 && text.ends_with('Z') && text.as_bytes()[10] == b'T' => {
            Value::String(without_numbers(&text))
        }
        Value::Array(all) => all.into_iter().map(value_without_numbers).collect(),
        Value::Object(all) => {
            Value::Object(all.into_iter().map(|(key, value)| (key, value_without_numbers(value))).collect())
        }
        other => other,
    }
}

/// JSON with each bare `…` made a text, and in an object a key.
fn quoted(shown: &str) -> String {
    let mut text = String::with_capacity(shown.len());
    let (mut within, mut open, mut last) = (Vec::new(), false, ' ');
    let mut escaped = false;
    for c in shown.chars() {
        match c {
            '"' if !escaped => open = !open,
            '{' | '[' if !open => within.push(c),
            '}' | ']' if !open => drop(within.pop()),
            '…' if !open => {
                let key = within.last() == Some(&'{') && last != ':';
                text.push_str(if key { "\"…\":\"…\"" } else { "\"…\"" });
                last = c;
                continue;
            }
            _ => {}
        }
        escaped = c == '\\' && !escaped;
        if !c.is_whitespace() {
            last = c;
        }
        text.push(c);
    }
    text
}

#[test]
fn lines_may_hold_what_differs() {
    let cases = [
        ("a b\nc", "a   b \nc\n", true),
        ("a", "b", false),
        ("up … of … now", "up 1 of 2 now", true),
        ("up … of … now", "up 1 of 2 then", false),
        ("…s", "12 s", true),
        ("… s", "12 s", true),
        ("a\n…\nb", "a\nx\ny\nb", true),
        ("a\n…\nb", "a\nb", true),
        ("a\n…\nb", "a\nx", false),
        ("a\n…", "a\nx\ny", true),
        ("a", "a\nb", false),
    ];
    for (shown, printed, like) in cases {
        assert_eq!(lines_are_like(shown, printed, false), like, "{shown:?} {printed:?}");
    }
}

#[test]
fn json_may_hold_what_differs() {
    let cases = [
        (r#"{"a": 1}"#, r#"{"a":1}"#, true),
        (r#"{"a": 1}"#, r#"{"a":1.5}"#, false),
        (r#"{"a": 1}"#, r#"{"a":1,"b":2}"#, false),
        (r#"{"a": 1, …}"#, r#"{"b":2,"a":1}"#, true),
        (r#"{…, "a": 1}"#, r#"{"b":2}"#, false),
        (r#"{"a": …}"#, r#"{"a":[1]}"#, true),
        (r#"{"a": "x…z"}"#, r#"{"a":"xyz"}"#, true),
        (r#"{"a": "x…z"}"#, r#"{"a":"xy"}"#, false),
        ("[1, …]", "[1,2,3]", true),
        ("[1, …]", "[2]", false),
        (r#"{"a \"…\"": 1}"#, r#"{"a \"…\"": 1}"#, true),
        ("{\"a\":1}\n{\"a\":2}", "{\"a\":1}\n{\"a\":2}\n", true),
        ("{\"a\":1}\n…", "{\"a\":1}\n{\"a\":2}\n", true),
        ("{\"a\":1}", "{\"a\":1}\n{\"a\":2}\n", false),
    ];
    for (shown, printed, like) in cases {
        assert_eq!(json_is_like(shown, printed, false), Ok(like), "{shown:?} {printed:?}");
    }
    assert!(json_is_like("{}", "oops", false).is_err() && json_is_like("{", "{}", true).is_err());
}

#[test]
fn numbers_and_times_may_differ_where_it_is_said() {
    for (shown, printed, like) in [
        ("1,200 rows in 4.9 s, 2 of x.", "7 rows in 12 s, 3,000,000 of x.", true),
        ("1 row", "no row", false),
        ("1 row", "1 rows", false),
        ("at 1.5.", "at 1.", true),
    ] {
        assert_eq!(lines_are_like(shown, printed, true), like, "{shown:?} {printed:?}");
    }
    for (shown, printed, like) in [
        (r#"{"a": 1.5, "at": "2026-01-02T03:04:05Z"}"#, r#"{"a":2,"at":"2027-11-30T00:00:00Z"}"#, true),
        (r#"{"a": 1}"#, r#"{"a":null}"#, false),
        (r#"{"a": 1}"#, r#"{"b":1}"#, false),
        (r#"{"a": "12"}"#, r#"{"a":"13"}"#, false),
    ] {
        assert_eq!(json_is_like(shown, printed, true), Ok(like), "{shown:?} {printed:?}");
    }
}
