//! The statistics of a window, in one table. The API's parameters, sorts and filters, the columns of JSON, CSV and the
//! API's description, and the comparisons with Prometheus and with the samples themselves read it.
//!
//! To add a statistic: a line here, its field in `rows/windows.rs`, and how it is had from the moments
//! (`kernels/moments.rs`, and the row of a window in `stages/window/mod.rs`).
//!
//! Not here: how a statistic is computed.

use crate::rows::WindowStats;
use crate::rows::columns::{Cell, CellType, Column};
use crate::settings::QUANTILES;

/// How closely a number has to agree with what the samples give.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Agreement {
    /// Copied or counted, never computed.
    Exact,
    /// So near, relative to the largest magnitude in the window: a sum is rounded at the size of what is summed.
    OfMagnitude(f64),
    /// So near, relative to the largest magnitude in the window times the count.
    OfMagnitudes(f64),
    /// So near, relative to itself.
    OfItself(f64),
    /// So near, relative to all that the values moved.
    OfSteps(f64),
    /// A quantile: so near, relative to itself, or to the largest magnitude where values lie on both sides of zero.
    OfQuantile(f64),
    /// Had from other numbers of the row, which are judged themselves.
    Derived,
}

impl Agreement {
    /// The most that two numbers may be apart.
    pub fn tolerance(self) -> f64 {
        match self {
            Agreement::Exact => 0.0,
            Agreement::OfMagnitude(most)
            | Agreement::OfMagnitudes(most)
            | Agreement::OfItself(most)
            | Agreement::OfSteps(most)
            | Agreement::OfQuantile(most) => most,
            Agreement::Derived => f64::INFINITY,
        }
    }
}

/// A statistic of a window.
#[derive(Clone, Copy, Debug)]
pub struct Statistic {
    /// Its column: name, unit and what it says. It is nullable if it is null below two samples.
    pub column: Column,
    /// Which rows show it.
    pub shown: Shown,
    /// The function of PromQL that gives the same for the samples of a range, if there is one.
    pub promql: Option<&'static str>,
    /// What that function takes before the range.
    pub quantile: Option<f64>,
    /// How closely it has to agree with what the samples give.
    pub agreement: Agreement,
    /// Whether a table with room for a few columns has one for it.
    pub overview: bool,
    /// Its value in a row, whatever the type of the series; none where the window has too few samples for it.
    pub value: fn(&WindowStats) -> Option<f64>,
}

/// Which rows show a statistic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shown {
    /// All.
    Always,
    /// Those of counters.
    Counters,
    /// Those of series for which it is set.
    Selected,
}

impl PartialEq for Statistic {
    fn eq(&self, other: &Self) -> bool {
        self.column.name == other.column.name
    }
}

impl Statistic {
    const fn new(column: Column, agreement: Agreement, value: fn(&WindowStats) -> Option<f64>) -> Statistic {
        Statistic {
            column,
            shown: Shown::Always,
            promql: None,
            quantile: None,
            agreement,
            overview: false,
            value,
        }
    }

    const fn promql(self, function: &'static str) -> Statistic {
        Statistic { promql: Some(function), ..self }
    }

    const fn of_counters(self) -> Statistic {
        Statistic { shown: Shown::Counters, column: self.column.or_absent(), ..self }
    }

    /// The quantile at a place of [`QUANTILES`], whose value `value` gives.
    const fn quantile(
        name: &'static str,
        about: &'static str,
        place: usize,
        value: fn(&WindowStats) -> Option<f64>,
    ) -> Statistic {
        let column = number(name, about).or_absent();
        // One in a hundred, and what the sketch rounds.
        let statistic = Statistic::new(column, Agreement::OfQuantile(0.010_001), value);
        let (promql, quantile) = (Some("quantile_over_time"), Some(QUANTILES[place]));
        Statistic { shown: Shown::Selected, promql, quantile, ..statistic }
    }

    const fn overview(self) -> Statistic {
        Statistic { overview: true, ..self }
    }

    /// The statistic of this name.
    pub fn named(name: &str) -> Option<&'static Statistic> {
        STATISTICS.iter().find(|statistic| statistic.column.name == name)
    }

    /// Its name, also that of its column.
    pub fn name(&self) -> &'static str {
        self.column.name
    }

    /// Whether only counters show it.
    pub fn is_of_counters(&self) -> bool {
        self.shown == Shown::Counters
    }

    /// Its value in a row of a counter, or of another series; none where the row shows none.
    pub fn of(&self, counter: bool, stats: &WindowStats) -> Option<f64> {
        let value = (self.value)(stats).filter(|value| value.is_finite());
        value.filter(|_| counter || !self.is_of_counters())
    }

    /// Its cell in such a row.
    pub fn cell(&self, counter: bool, stats: &WindowStats) -> Cell<'static> {
        if self.is_of_counters() && !counter {
            return Cell::Absent;
        }
        match ((self.value)(stats), self.column.of) {
            (None, _) if self.shown == Shown::Selected => Cell::Absent,
            (None, _) => Cell::Null,
            // Counts are whole, and far below 2^53.
            (Some(value), CellType::UInt) => Cell::UInt(value as u64),
            (Some(value), _) => Cell::Float(value),
        }
    }
}

const fn counted(name: &'static str, about: &'static str) -> Column {
    Column::new(name, CellType::UInt, about)
}

/// In the unit of the series.
const fn number(name: &'static str, about: &'static str) -> Column {
    Column::new(name, CellType::Float, about)
}

/// How often a row was corrected. The last of the table: rows that are open have none.
pub const REVISION: Statistic = Statistic::new(
    counted("revision", "How often late samples or a backfill corrected the row; 0 is the first answer."),
    Agreement::Exact,
    |row| Some(f64::from(row.revision)),
);

/// Statistics that every window shows: all but the revision.
pub const WINDOW_STATISTICS: usize = STATISTICS.len() - 1;

/// Every statistic, in the order of columns.
pub const STATISTICS: &[Statistic] = &[
    Statistic::new(counted("count", "Samples in it.").unit("samples"), Agreement::Exact, |row| {
        Some(f64::from(row.count))
    })
    .promql("count_over_time")
    .overview(),
    Statistic::new(number("min", "The smallest value."), Agreement::Exact, |row| Some(row.min))
        .promql("min_over_time")
        .overview(),
    Statistic::new(number("max", "The largest value."), Agreement::Exact, |row| Some(row.max))
        .promql("max_over_time")
        .overview(),
    Statistic::new(
        number("avg", "The mean of the values, each sample counting the same."),
        Agreement::OfMagnitude(1e-12),
        |row| Some(row.avg),
    )
    .promql("avg_over_time")
    .overview(),
    Statistic::new(
        number("std", "The population standard deviation (divided by count)."),
        Agreement::OfItself(1e-9),
        |row| Some(row.std),
    )
    .promql("stddev_over_time")
    .overview(),
    Statistic::new(
        number("std_sample", "The sample standard deviation (divided by count - 1); null for one sample."),
        Agreement::Derived,
        WindowStats::std_sample,
    ),
    Statistic::new(number("first", "The oldest value."), Agreement::Exact, |row| Some(row.first)),
    Statistic::new(number("last", "The newest value."), Agreement::Exact, |row| Some(row.last)).overview(),
    Statistic::new(
        number("sum", "The sum of the values; null beyond 1.8e308."),
        Agreement::OfMagnitudes(1e-12),
        |row| Some(row.sum),
    )
    .promql("sum_over_time"),
    Statistic::new(
        counted("changes", "How often a value differs from the one before."),
        Agreement::Exact,
        |row| Some(f64::from(row.changes)),
    )
    .promql("changes"),
    Statistic::new(
        number("increase", "Of a counter: by how much it grew, resets added; null below two samples."),
        Agreement::OfSteps(1e-10),
        |row| (row.count > 1).then_some(row.increase),
    )
    .of_counters(),
    Statistic::new(
        number("rate", "Of a counter: its increase per second between the first and the last sample.")
            .unit("1/s"),
        Agreement::Derived,
        WindowStats::rate,
    )
    .of_counters(),
    Statistic::new(
        counted("resets", "Of a counter: how often it fell, which is a reset."),
        Agreement::Exact,
        |row| Some(f64::from(row.resets)),
    )
    .promql("resets")
    .of_counters(),
    Statistic::quantile(
        "p5",
        "The quantile 0.05, within 1 % of itself; of series that `select` sets it for.",
        0,
        |row| row.quantile(0),
    ),
    Statistic::quantile(
        "p25",
        "The quantile 0.25, within 1 % of itself; of series that `select` sets it for.",
        1,
        |row| row.quantile(1),
    ),
    Statistic::quantile(
        "p50",
        "The quantile 0.5, within 1 % of itself; of series that `select` sets it for.",
        2,
        |row| row.quantile(2),
    ),
    Statistic::quantile(
        "p75",
        "The quantile 0.75, within 1 % of itself; of series that `select` sets it for.",
        3,
        |row| row.quantile(3),
    ),
    Statistic::quantile(
        "p90",
        "The quantile 0.9, within 1 % of itself; of series that `select` sets it for.",
        4,
        |row| row.quantile(4),
    ),
    Statistic::quantile(
        "p95",
        "The quantile 0.95, within 1 % of itself; of series that `select` sets it for.",
        5,
        |row| row.quantile(5),
    ),
    Statistic::quantile(
        "p99",
        "The quantile 0.99, within 1 % of itself; of series that `select` sets it for.",
        6,
        |row| row.quantile(6),
    ),
    Statistic::quantile(
        "p999",
        "The quantile 0.999, within 1 % of itself; of series that `select` sets it for.",
        7,
        |row| row.quantile(7),
    ),
    REVISION,
];
