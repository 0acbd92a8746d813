//! The samples of a demo in the order and at the times of their delivery, in batches, with series ids.

use std::sync::Arc;

use tidewatch_dataflows::sample::Samples;

use crate::generate::{GenerateOptions, GeneratedSample, Generator, OptionsError};
use crate::labels::Labels;
use crate::metrics::{Metrics, SourceLabels};
use crate::source::validate::{self, Refusals};

/// The name of the source in metrics.
pub const SOURCE: &str = "demo";

/// Most samples of a batch.
const BATCH_SAMPLES_MAX: usize = 4_096;

/// What is delivered next, and everything after it.
pub struct DemoFeed {
    generator: Generator,
    /// With the time at which it is delivered.
    next: Option<(GeneratedSample, i64)>,
    series: Vec<DemoLabels>,
    labels: Arc<Labels>,
    metrics: Arc<Metrics>,
}

/// Labels of a series as the gate wants them.
struct DemoLabels {
    pairs: Vec<(String, String)>,
    /// By which they are found again.
    encoded: Vec<u8>,
}

impl DemoFeed {
    /// Everything that is delivered after `sent_to_ms`.
    ///
    /// What comes before is made and thrown away: values depend on those before them. A day of 200 series takes a few
    /// hundredths of a second.
    ///
    /// # Errors
    /// Options outside their bounds.
    pub fn new(
        options: GenerateOptions,
        sent_to_ms: i64,
        labels: Arc<Labels>,
        metrics: Arc<Metrics>,
    ) -> Result<DemoFeed, OptionsError> {
        let mut generator = Generator::new(options)?;
        let series = generator.series().map(|series| DemoLabels::new(generator.labels(series))).collect();
        let next = loop {
            match deliver(&mut generator) {
                Some((_, due_ms)) if due_ms <= sent_to_ms => {}
                next => break next,
            }
        };
        Ok(DemoFeed { generator, next, series, labels, metrics })
    }

    /// When the next sample is to be delivered; none after ten years.
    pub fn next_ms(&self) -> Option<i64> {
        self.next.map(|(_, due_ms)| due_ms)
    }

    /// Appends to `batch` what is delivered up to `to_ms`, as far as it fits; gives the time up to which everything was
    /// given out now. `epoch` marks the last use of the series.
    pub fn take(&mut self, to_ms: i64, epoch: u64, batch: &mut Samples) -> i64 {
        let (mut received, mut refusals) = (0, Refusals::default());
        while batch.len() < BATCH_SAMPLES_MAX
            && let Some((point, due_ms)) = self.next
            && due_ms <= to_ms
        {
            received += 1;
            let labelled = &self.series[usize::try_from(point.series).expect("series are few")];
            match labelled.series(&self.labels, epoch) {
                Ok(series) => batch.push(series, point.at_ms, point.value()),
                Err((reason, sentence)) => refusals.add(reason, 1, || sentence),
            }
            self.next = deliver(&mut self.generator);
        }
        self.metrics.received.get_or_create(&SourceLabels { source: SOURCE }).inc_by(received);
        refusals.record(SOURCE, &self.metrics);
        self.next_ms().map_or(to_ms, |due_ms| to_ms.min(due_ms - 1))
    }
}

impl DemoLabels {
    fn new(pairs: Vec<(String, String)>) -> DemoLabels {
        let mut encoded = Vec::new();
        for text in pairs.iter().flat_map(|(name, value)| [name, value]) {
            encoded.extend_from_slice(text.as_bytes());
            encoded.push(0xff);
        }
        DemoLabels { pairs, encoded }
    }

    /// Looked up each time: a series that fell silent for long is forgotten.
    fn series(&self, labels: &Labels, epoch: u64) -> Result<u64, validate::SeriesRefusal> {
        if let Some(series) = labels.find(&self.encoded, epoch) {
            return Ok(series.0);
        }
        let mut pairs: Vec<(&str, &str)> =
            self.pairs.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        validate::intern(labels, &mut pairs, &self.encoded, epoch)
    }
}

fn deliver(generator: &mut Generator) -> Option<(GeneratedSample, i64)> {
    let point = generator.next()?;
    Some((point, generator.delivered_ms()))
}
