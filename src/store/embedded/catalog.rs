//! Walking the catalog in the order (name, series), and the pages of names and series.

use std::cell::LazyCell;
use std::collections::HashMap;
use std::sync::Arc;

use rusqlite::types::Value;
use rusqlite::{Row, params_from_iter};

use super::values::{key_of, kind, series_of, signed, unsigned};
use super::view::View;
use crate::store::budget::BudgetExceeded;
use crate::store::row::{NameRow, SeriesRow};
use crate::store::selector::Selectors;
use crate::store::{CatalogQuery, NamesQuery, PAGE_BYTES_MAX, Page, SeriesKey, StoreError};

/// Series fetched at a time.
const CHUNK: usize = 512;

/// Most equalities that are looked for inside the statement; the rest is judged afterwards, as are these.
const EQUALITIES_MAX: usize = 4;

/// A series on the walk.
pub struct WalkedSeries {
    /// The catalog's row.
    pub series: Arc<SeriesRow>,
    /// Windows of this series end in these hours, from the first to the last.
    pub hours: (i64, i64),
}

/// A walk over the series that selectors mean, in the order (name, series).
pub struct CatalogWalk<'q, 'v, 's> {
    view: &'v View<'s>,
    select: &'q Selectors,
    /// Names still to visit, in falling order; none if the walk goes over all names.
    names: Option<Vec<&'q str>>,
    /// Where the next chunk begins.
    from: CatalogPlace,
    chunk: std::vec::IntoIter<WalkedSeries>,
    done: bool,
}

/// A place in the order (name, series).
struct CatalogPlace {
    name: String,
    /// As it is stored.
    series: i64,
    /// Whether this series is still to come.
    inclusive: bool,
    /// Whether series of this name are still to come.
    of_name: bool,
}

impl CatalogPlace {
    fn first_of(name: &str) -> CatalogPlace {
        CatalogPlace { name: name.to_owned(), series: i64::MIN, inclusive: true, of_name: true }
    }

    fn after(series: &SeriesRow) -> CatalogPlace {
        CatalogPlace {
            name: series.name.clone(),
            series: key_of(series.series),
            inclusive: false,
            of_name: true,
        }
    }
}

impl<'q, 'v, 's> CatalogWalk<'q, 'v, 's> {
    /// A walk from `from` on; `inclusive` says whether `from` itself belongs to it.
    pub fn new(view: &'v View<'s>, select: &'q Selectors, from: Option<&SeriesKey>, inclusive: bool) -> Self {
        let from = match from {
            Some(key) => {
                CatalogPlace { name: key.name.clone(), series: key_of(key.series), inclusive, of_name: true }
            }
            None => CatalogPlace::first_of(""),
        };
        let names = select.names().map(|mut names| {
            names.retain(|name| *name >= from.name.as_str());
            names.reverse();
            names
        });
        CatalogWalk { view, select, names, from, chunk: Vec::new().into_iter(), done: false }
    }

    /// The next series.
    pub fn next(&mut self) -> Result<Option<WalkedSeries>, StoreError> {
        loop {
            if let Some(found) = self.chunk.next() {
                return Ok(Some(found));
            }
            if self.done {
                return Ok(None);
            }
            self.view.in_time()?;
            self.fetch()?;
        }
    }

    fn fetch(&mut self) -> Result<(), StoreError> {
        if let Some(names) = &self.names {
            match names.last() {
                Some(name) if self.from.name != *name => self.from = CatalogPlace::first_of(name),
                Some(_) => {}
                None => {
                    self.done = true;
                    return Ok(());
                }
            }
        }
        let chunk = self.rows()?;
        match chunk.last() {
            Some(last) if chunk.len() == CHUNK => self.from = CatalogPlace::after(&last.series),
            _ => match &mut self.names {
                Some(names) => drop(names.pop()),
                None if self.from.of_name => self.from.of_name = false,
                None => self.done = true,
            },
        }
        let select = self.select;
        let mut meant = Vec::with_capacity(chunk.len());
        for found in chunk {
            if is_meant(select, &found.series)? {
                meant.push(found);
            }
        }
        self.chunk = meant.into_iter();
        Ok(())
    }

    /// At most one chunk of rows that may be meant, from where the walk stands.
    fn rows(&self) -> Result<Vec<WalkedSeries>, StoreError> {
        let fail = |e| self.view.fail("read the catalog", e);
        let mut values = vec![Value::from(self.from.name.clone())];
        // Not one comparison of (name, series): SQLite would look only the name up, and pass over its first series.
        let condition = if self.from.of_name {
            values.push(Value::from(self.from.series));
            if self.from.inclusive { "name = ?1 AND series >= ?2" } else { "name = ?1 AND series > ?2" }
        } else {
            "name > ?1"
        };
        let mut sql = format!(
            "SELECT series, name, labels, from_hour, to_hour, \
                     (SELECT metric_type FROM types WHERE types.series = catalog.series) FROM catalog WHERE {condition}"
        );
        for (label, value) in self.select.equalities().into_iter().take(EQUALITIES_MAX) {
            // A quote inside a string of JSON is escaped, so this text is found where the label is, and nowhere else.
            let pair = format!("{}:{}", serde_json::Value::from(label), serde_json::Value::from(value));
            values.push(Value::from(pair));
            sql.push_str(&format!(" AND instr(labels, ?{}) > 0", values.len()));
        }
        if let Some(only) = self.select.only() {
            values.push(Value::from(key_of(only)));
            sql.push_str(&format!(" AND series = ?{}", values.len()));
        }
        sql.push_str(&format!(" ORDER BY name, series LIMIT {CHUNK}"));
        let mut statement = self.view.conn().prepare_cached(&sql).map_err(fail)?;
        let rows = statement.query_map(params_from_iter(values), found).map_err(fail)?;
        rows.collect::<Result<_, _>>().map_err(fail)
    }
}

/// A series from the columns series, name, labels, from_hour, to_hour and type.
pub fn found(row: &Row<'_>) -> rusqlite::Result<WalkedSeries> {
    let series = SeriesRow {
        series: series_of(row.get(0)?),
        name: row.get(1)?,
        labels: row.get(2)?,
        kind: kind(row, 5)?,
    };
    Ok(WalkedSeries { series: Arc::new(series), hours: (row.get(3)?, row.get(4)?) })
}

/// Whether selectors mean a series.
///
/// # Errors
/// The budget of the selectors is over.
pub fn is_meant(select: &Selectors, series: &SeriesRow) -> Result<bool, BudgetExceeded> {
    if select.only().is_some_and(|only| only != series.series) {
        return Ok(false);
    }
    if select.is_every() {
        return Ok(true);
    }
    // Labels that cannot be read are as good as none: the row is still found by its name.
    // Selectors of a name alone ask for none of them.
    let labels = LazyCell::new(|| -> HashMap<String, String> {
        serde_json::from_str(&series.labels).unwrap_or_default()
    });
    select.matches(&series.name, |label| labels.get(label).map(String::as_str))
}

/// A page of the catalog.
pub fn page(view: &View<'_>, query: &CatalogQuery) -> Result<Page<SeriesRow>, StoreError> {
    let mut walk = CatalogWalk::new(view, &query.select, query.after.as_ref(), false);
    let mut rows = Vec::new();
    let mut bytes = 0;
    while let Some(found) = walk.next()? {
        if rows.len() == query.limit || bytes > PAGE_BYTES_MAX {
            return Ok(Page { rows, more: true });
        }
        bytes += found.series.printed_bytes();
        rows.push(Arc::unwrap_or_clone(found.series));
    }
    Ok(Page { rows, more: false })
}

/// A page of metric names; series without known labels have none.
pub fn names(view: &View<'_>, query: &NamesQuery) -> Result<Page<NameRow>, StoreError> {
    if query.select.is_every() {
        return all_names(view, query);
    }
    let last = SeriesKey { name: query.after.clone().unwrap_or_default(), series: series_of(i64::MAX) };
    let mut walk = CatalogWalk::new(view, &query.select, Some(&last), false);
    let mut rows: Vec<NameRow> = Vec::new();
    let mut bytes = 0;
    while let Some(found) = walk.next()? {
        let full = rows.len() == query.limit || bytes > PAGE_BYTES_MAX;
        match rows.last_mut() {
            Some(row) if row.name == found.series.name => row.series += 1,
            _ if full => return Ok(Page { rows, more: true }),
            _ => {
                bytes += found.series.name.len() + 64;
                rows.push(NameRow { name: found.series.name.clone(), series: 1 });
            }
        }
    }
    Ok(Page { rows, more: false })
}

fn all_names(view: &View<'_>, query: &NamesQuery) -> Result<Page<NameRow>, StoreError> {
    let fail = |e| view.fail("read the catalog", e);
    let sql = "SELECT name, count(*) FROM catalog WHERE name > ?1 GROUP BY name ORDER BY name LIMIT ?2";
    let mut statement = view.conn().prepare_cached(sql).map_err(fail)?;
    let after = query.after.as_deref().unwrap_or("");
    let most = signed(query.limit as u64).saturating_add(1);
    let mut found = statement.query((after, most)).map_err(fail)?;
    let (mut rows, mut bytes) = (Vec::new(), 0);
    while let Some(row) = found.next().map_err(fail)? {
        if rows.len() == query.limit || bytes > PAGE_BYTES_MAX {
            return Ok(Page { rows, more: true });
        }
        let read = || Ok(NameRow { name: row.get(0)?, series: unsigned(row, 1)? });
        let row = read().map_err(fail)?;
        bytes += row.name.len() + 64;
        rows.push(row);
    }
    Ok(Page { rows, more: false })
}
