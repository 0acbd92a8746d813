//! Whether what was printed is what a page says: equal, but for `…`, which stands for what differs from run to run.

use serde_json::Value;

/// What stands for anything.
const ANY: &str = "…";

/// Whether lines are those that are shown. White space counts as one space. `…` is anything within a line; a line of its
/// own, any lines.
pub fn lines_are_like(shown: &str, printed: &str) -> bool {
    let lines = |text: &str| -> Vec<String> {
        text.trim().lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
    };
    let (shown, printed) = (lines(shown), lines(printed));
    follow(&shown, &printed, |line| line == ANY, |shown, printed| text_is_like(shown, printed))
}

/// Whether JSON values, one after the other, are those that are shown: [`value_is_like`].
///
/// # Errors
/// One of the texts is no JSON.
pub fn json_is_like(shown: &str, printed: &str) -> Result<bool, String> {
    let values = |what: &str, text: &str| -> Result<Vec<Value>, String> {
        let values = serde_json::Deserializer::from_str(text).into_iter().collect::<Result<_, _>>();
        values.map_err(|error| format!("{what} is no JSON: {error}"))
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
        assert_eq!(lines_are_like(shown, printed), like, "{shown:?} {printed:?}");
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
        assert_eq!(json_is_like(shown, printed), Ok(like), "{shown:?} {printed:?}");
    }
    assert!(json_is_like("{}", "oops").is_err() && json_is_like("{", "{}").is_err());
}
