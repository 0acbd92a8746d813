//! What a person types to find series: words, all of which must occur.

use std::collections::BTreeMap;

/// Most bytes of a search.
pub const SEARCH_BYTES_MAX: usize = 256;

/// Words that must all occur in the name of a series or in one of its `label=value`, whatever their case.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Search {
    /// In lower case.
    words: Vec<String>,
    /// Of each word the longest part without `=`: wherever a word occurs, that does.
    parts: Vec<String>,
}

/// The text is too long for a search.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a search has at most {SEARCH_BYTES_MAX} bytes; got {0}")]
pub struct SearchError(pub usize);

impl Search {
    /// The words of a text, separated by spaces; none of them means every series.
    ///
    /// # Errors
    /// The text is longer than [`SEARCH_BYTES_MAX`].
    pub fn parse(text: &str) -> Result<Search, SearchError> {
        if text.len() > SEARCH_BYTES_MAX {
            return Err(SearchError(text.len()));
        }
        let words: Vec<String> = text.split_whitespace().map(str::to_lowercase).collect();
        let longest = |word: &String| word.split('=').max_by_key(|part| part.len()).unwrap_or("").to_owned();
        Ok(Search { parts: words.iter().map(longest).collect(), words })
    }

    /// The words, for a model that judges in its own way.
    #[cfg(test)]
    pub fn words(&self) -> &[String] {
        &self.words
    }

    /// Whether every series is meant.
    pub fn is_every(&self) -> bool {
        self.words.is_empty()
    }

    /// Whether a series is meant; `labels` is the text of a JSON object of strings, without the name.
    ///
    /// `text` is a buffer that is used again: this is asked of every series there is.
    pub fn means(&self, name: &str, labels: &str, text: &mut String) -> bool {
        if self.words.is_empty() {
            return true;
        }
        let escaped = labels.contains('\\');
        if name.is_ascii() && labels.is_ascii() && !escaped {
            // Most series are ruled out here, by their labels as they are stored.
            lower(&[name, labels], text);
            if !self.parts.iter().all(|part| text.contains(part.as_str())) {
                return false;
            }
        }
        text.clear();
        push_lower(name, text);
        text.push('\n');
        if escaped {
            // Labels that cannot be read are as good as none: the row is still found by its name.
            let labels: BTreeMap<String, String> = serde_json::from_str(labels).unwrap_or_default();
            for (label, value) in labels {
                push_pair(&label, &value, text);
            }
        } else {
            // Without an escape every quote begins or ends a string: {"label":"value","label":"value"}.
            let mut parts = labels.split('"').skip(1).step_by(2);
            while let (Some(label), Some(value)) = (parts.next(), parts.next()) {
                push_pair(label, value, text);
            }
        }
        self.words.iter().all(|word| text.contains(word.as_str()))
    }
}

/// Words have no line ends of their own, so none is found across two pairs.
fn push_pair(label: &str, value: &str, text: &mut String) {
    push_lower(label, text);
    text.push('=');
    push_lower(value, text);
    text.push('\n');
}

/// Plain texts in lower case, a line each.
fn lower(parts: &[&str], text: &mut String) {
    text.clear();
    for part in parts {
        text.push_str(part);
        text.push('\n');
    }
    text.make_ascii_lowercase();
}

fn push_lower(part: &str, text: &mut String) {
    let from = text.len();
    if part.is_ascii() {
        text.push_str(part);
        text[from..].make_ascii_lowercase();
    } else {
        text.push_str(&part.to_lowercase());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::row::labels_json;

    #[test]
    fn every_word_must_occur_in_the_name_or_in_one_pair() {
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let pairs = [pair("job", "Node \"a\\b\""), pair("instance", "host-7:9100"), pair("größe", "ÄÖ")];
        let (plain, quoted) = (labels_json(&pairs[1..2]), labels_json(&pairs));
        for (text, in_plain, in_quoted) in [
            ("", true, true),
            ("  ", true, true),
            ("load", true, true),
            ("LOAD Host-7", true, true),
            ("load host-8", false, false),
            ("instance=host", true, true),
            ("instance=HOST-7:9100 node_", true, true),
            ("stance=host-7", true, true),
            ("instance=", true, true),
            ("=", true, true),
            ("==", false, false),
            ("instance==host-7", false, false),
            ("\"", false, true),
            ("node \"a\\b\"", false, true),
            ("job=node", false, true),
            ("GRÖSSE=äö", false, false),
            ("GRÖßE=äö", false, true),
            // Not across pairs, and nothing of the JSON around them.
            ("9100job", false, false),
            ("{", false, false),
            (",", false, false),
            ("load1instance", false, false),
        ] {
            let search = Search::parse(text).unwrap();
            let mut buffer = String::new();
            assert_eq!(search.means("node_load1", &plain, &mut buffer), in_plain, "{text:?} in {plain}");
            assert_eq!(search.means("node_load1", &quoted, &mut buffer), in_quoted, "{text:?} in {quoted}");
        }
    }

    #[test]
    fn what_is_no_json_does_no_harm() {
        let search = Search::parse("a=b").unwrap();
        for labels in ["", "\"", "{\"a\":\"b", "{\"a\\\":\"b\"}", "[1,2]", "null"] {
            search.means("up", labels, &mut String::new());
        }
        assert_eq!(Search::parse(&"x".repeat(257)), Err(SearchError(257)));
    }
}
