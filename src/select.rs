//! What is set for which series: the entries of `select`, read by the parser of the store, told to the labels and the journal.

use std::sync::Arc;

use tidewatch_dataflows::settings::{SelectEntry, SeriesOptions};

use crate::journal::{DescribeSeries, NewSeries};
use crate::labels::{FindOptions, Labels, NAME};
use crate::store::selector::{SelectorError, Selectors};

/// An entry has a selector that is none.
#[derive(Debug, thiserror::Error)]
#[error("select[{at}].match")]
pub struct SelectError {
    at: usize,
    source: SelectorError,
}

/// Has the labels ask `select` about every series; nothing where it sets nothing.
///
/// # Errors
/// A selector that is none, by the number of its entry.
pub fn find(labels: &Labels, select: &[SelectEntry]) -> Result<(), SelectError> {
    if !select.is_empty() {
        labels.find_options(finder(select)?);
    }
    Ok(())
}

/// The first entry that means a series holds.
fn finder(select: &[SelectEntry]) -> Result<FindOptions, SelectError> {
    let mut parsed: Vec<(Selectors, SeriesOptions)> = Vec::with_capacity(select.len());
    for (at, entry) in select.iter().enumerate() {
        let selector = Selectors::parse(&[&entry.matching]).map_err(|source| SelectError { at, source })?;
        parsed.push((selector, entry.options));
    }
    Ok(Box::new(move |labels| {
        let get = |wanted: &str| {
            let found = labels.iter().find(|(name, _)| *name == wanted);
            found.map(|(_, value)| *value)
        };
        let name = get(NAME).unwrap_or("");
        // Without a budget nothing fails.
        let first = parsed.iter().find(|(selector, _)| selector.matches(name, get).unwrap_or(false));
        first.map_or_else(SeriesOptions::default, |(_, options)| *options)
    }))
}

/// What series are by their names and labels, for the journal.
pub struct FromLabels(pub Arc<Labels>);

impl DescribeSeries for FromLabels {
    fn take(&self) -> NewSeries {
        NewSeries { types: self.0.take_named(), options: self.0.take_options() }
    }

    fn give_back(&self, series: NewSeries) {
        self.0.defer_named(&series.types);
        self.0.defer_options(series.options);
    }
}

#[cfg(test)]
mod tests {
    use tidewatch_dataflows::settings::Transform;

    use super::*;

    #[test]
    fn the_first_entry_that_means_a_series_holds() {
        let entry = |matching: &str, transform| SelectEntry {
            matching: matching.to_owned(),
            options: SeriesOptions { transform, ..SeriesOptions::default() },
        };
        let select = [
            entry("{job=\"a\",__name__=~\"x.*\"}", Transform::Auto),
            entry("{job=\"a\"}", Transform::Rate),
            entry("{job=~\"a|b\"}", Transform::Raw),
        ];
        let find = finder(&select).unwrap();
        let of = |name, job| find(&[("__name__", name), ("job", job)]).transform;
        assert_eq!(of("x1", "a"), Transform::Auto);
        assert_eq!(of("y", "a"), Transform::Rate);
        assert_eq!(of("x1", "b"), Transform::Raw);
        assert_eq!(of("x1", "c"), Transform::Auto);
        let broken = finder(&[entry("{", Transform::Raw)]).err().unwrap();
        assert_eq!(broken.to_string(), "select[0].match");
    }
}
