//! Seeded series like those of node exporters, for `generate`, `demo`, tests and benches.
//!
//! Pure given its [`Options`]: the same options give the same bytes on every machine (own generator of random numbers,
//! own wave, values that are decimals), and no clock is read. In memory are 24 bytes a series, a little per instance and
//! the samples held back to be late; the samples themselves stream.
//!
//! ```text
//! Options ──► Generator (iterator of Point) ──► text::write ──► Prometheus text | OpenMetrics | CSV, .gz by the name
//! ```
//!
//! An instance is scraped as a whole, each at its own offset within the step, so its series share their times.
//! What is *in* a series depends on the seed alone; lateness, duplicates and order only change how it is delivered.
//! Hence "same samples, other delivery" is two runs that differ in these options.

mod catalog;
mod numbers;
mod options;
mod text;

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::ops::Range;

use catalog::{Slot, ValueShape};
use numbers::{below, centred, hash, next, round, unit, wave};
pub use options::{ALLOWED_LATENESS_MS, GenerateOptions, OptionsError, Order, SERIES_MAX, SPAN_MS_MAX, span};
use options::{DAY_MS, HOUR_MS, refused};
pub use text::{Output, TextFormat, TextSummary, judge, write};

/// Most samples held back at once to be delivered late; beyond it a sample is delivered in time.
pub const HELD_MAX: usize = 1 << 20;
/// Sets the choices of delivery apart from those of values.
const DELIVERY: u64 = 0x6465_6c69_7665_7279;
const OUTAGE_MS: Range<i64> = 60_000..2_400_000;

/// How a point comes to be delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Delivery {
    /// For the first time, before anything newer of its series.
    InTime,
    /// For the first time, held back: after something newer of its series, unless that fell silent meanwhile.
    Late,
    /// Again, unchanged.
    Duplicate,
    /// Again, with another value.
    Conflict,
}

/// One delivered sample. Its value is a decimal, so that its text and its `f64` are exactly the same number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GeneratedSample {
    /// Index of the series, for [`Generator::labels`].
    pub series: u64,
    /// Event time, Unix milliseconds.
    pub at_ms: i64,
    /// The value's digits: value = digits / 10^scale.
    pub digits: i64,
    /// Decimals of the value.
    pub scale: u8,
    /// How it comes to be delivered.
    pub delivery: Delivery,
}

/// Powers of ten a value may be divided by.
const TENS: [f64; 4] = [1.0, 10.0, 100.0, 1_000.0];

impl GeneratedSample {
    /// The value; digits are below 2^53 and the quotient is correctly rounded, so parsing the text gives the same bits.
    pub fn value(&self) -> f64 {
        self.digits as f64 / TENS[usize::from(self.scale)]
    }
}

/// What one series remembers between two ticks.
#[derive(Clone, Debug)]
struct SeriesGenerator {
    random: u64,
    /// Counter or walk, in digits.
    level: f64,
    /// How much larger or smaller than its family this series is.
    factor: f64,
}

/// One instance of this generator: its series and when in the step it is scraped.
#[derive(Clone, Debug)]
struct Instance {
    number: u64,
    /// Its first series here.
    first: u64,
    /// Indices into the states.
    states: Range<usize>,
    phase_ms: i64,
}

/// What holds for all series of an instance at one tick.
#[derive(Clone, Copy, Debug, Default)]
struct Scrape {
    at_ms: i64,
    silent: bool,
    restarted: bool,
    /// -1 to 1, where in the day.
    day: f64,
    /// -1 to 1, where in the hour.
    hour: f64,
}

/// A point held back until its series has got past tick `due`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct DelayedSample {
    due: i64,
    instance: usize,
    order: u64,
    point: GeneratedSample,
}

/// The stream of samples: an iterator over [`Point`].
#[derive(Debug)]
pub struct Generator {
    options: GenerateOptions,
    slots: Vec<Slot>,
    part: Range<u64>,
    /// Series not begun yet, in series-major order; empty in time-major order.
    waiting: Range<u64>,
    states: Vec<SeriesGenerator>,
    instances: Vec<Instance>,
    held: BinaryHeap<Reverse<DelayedSample>>,
    held_ever: u64,
    ticks: i64,
    tick: i64,
    instance: usize,
    next_state: usize,
    scrape: Scrape,
}

impl Generator {
    /// All series of the options.
    ///
    /// # Errors
    /// The first option outside its bounds.
    pub fn new(options: GenerateOptions) -> Result<Generator, OptionsError> {
        let part = 0..options.series;
        Generator::part(options, part)
    }

    /// The series with these indices only: parts that cover all series give together what the whole gives.
    ///
    /// # Errors
    /// The first option outside its bounds, or a part beyond the series.
    pub fn part(options: GenerateOptions, part: Range<u64>) -> Result<Generator, OptionsError> {
        let options = options.validated()?;
        if part.is_empty() || part.end > options.series {
            return refused("part", format!("a range within 0..{}", options.series), format!("{part:?}"));
        }
        let waiting = match options.order {
            Order::TimeMajor => part.end..part.end,
            Order::SeriesMajor => part.start + 1..part.end,
        };
        let ticks = (options.end_ms - options.start_ms) / options.step_ms + 1;
        let mut generator = Generator {
            slots: catalog::slots(),
            states: Vec::new(),
            instances: Vec::new(),
            held: BinaryHeap::new(),
            held_ever: 0,
            ticks,
            tick: 0,
            instance: 0,
            next_state: 0,
            scrape: Scrape::default(),
            part: part.clone(),
            waiting: waiting.clone(),
            options,
        };
        generator.begin(part.start..waiting.start.min(part.end));
        Ok(generator)
    }

    /// The series this generator delivers.
    pub fn series(&self) -> Range<u64> {
        self.part.clone()
    }

    /// The labels of a series in its first life, sorted by name, `__name__` included.
    pub fn labels(&self, series: u64) -> Vec<(String, String)> {
        self.labels_at(series, self.options.start_ms)
    }

    /// The labels that a series has at a time: others in each life, if there is churn.
    pub fn labels_at(&self, series: u64, at_ms: i64) -> Vec<(String, String)> {
        let (instance, slot) = self.place(series);
        let life = life(&self.options, instance, at_ms);
        let own = slot.labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let fixed =
            [("__name__", slot.family.name), ("job", "node")].map(|(n, v)| (n.to_owned(), v.to_owned()));
        let mut labels: Vec<_> =
            own.chain(fixed).chain([("instance".to_owned(), instance_name(instance, life))]).collect();
        labels.sort_unstable();
        labels
    }

    /// When the point given last is delivered, in order of time: at its own time, or later if it was held back.
    ///
    /// It never goes back, so it tells how far the stream is. What is still held back at the end comes then.
    pub fn delivered_ms(&self) -> i64 {
        self.scrape.at_ms.min(self.options.end_ms)
    }

    fn place(&self, series: u64) -> (u64, Slot) {
        let per_instance = self.slots.len() as u64;
        (series / per_instance, self.slots[(series % per_instance) as usize])
    }

    /// Sets the state for a run over `series` from the first tick.
    fn begin(&mut self, series: Range<u64>) {
        let seed = self.options.seed;
        let per_instance = self.slots.len() as u64;
        self.states.clear();
        self.instances.clear();
        let mut next = series.start;
        while next < series.end {
            let number = next / per_instance;
            let end = ((number + 1) * per_instance).min(series.end);
            let first_state = self.states.len();
            for index in next..end {
                let family = self.slots[(index % per_instance) as usize].family;
                self.states.push(SeriesGenerator::new(hash(seed, index, 1), &family.shape, family.scale));
            }
            let phase_ms = below(hash(seed, number, 2), self.options.step_ms);
            self.instances.push(Instance {
                number,
                first: next,
                states: first_state..self.states.len(),
                phase_ms,
            });
            next = end;
        }
        self.instances.sort_unstable_by_key(|instance| (instance.phase_ms, instance.number));
        (self.tick, self.instance) = (0, 0);
        self.visit();
    }

    /// Arrives at the current instance and tick.
    fn visit(&mut self) {
        let instance = &self.instances[self.instance];
        self.next_state = instance.states.start;
        let at_ms = self.options.start_ms + instance.phase_ms + self.tick * self.options.step_ms;
        self.scrape = scrape(&self.options, instance.number, at_ms);
    }

    /// Goes on to the next instance or tick.
    fn advance(&mut self) {
        self.instance += 1;
        if self.instance == self.instances.len() {
            (self.tick, self.instance) = (self.tick + 1, 0);
        }
        if self.tick < self.ticks {
            self.visit();
        }
    }

    /// The sample of one series at this tick, if there is one and it is not held back.
    fn sample(&mut self, state: usize) -> Option<GeneratedSample> {
        let instance = &self.instances[self.instance];
        let series = instance.first + (state - instance.states.start) as u64;
        let slot = series - instance.number * self.slots.len() as u64;
        let family = self.slots[slot as usize].family;
        let digits =
            self.states[state].advance(&family.shape, family.scale, &self.scrape, self.options.step_ms)?;
        let at_ms = self.scrape.at_ms;
        if self.scrape.silent || at_ms > self.options.end_ms {
            return None;
        }
        let point =
            GeneratedSample { series, at_ms, digits, scale: family.scale, delivery: Delivery::InTime };
        self.deliver(point)
    }

    /// Decides how a point is delivered: now, later, or both. Depends on the point alone, not on what came before.
    fn deliver(&mut self, point: GeneratedSample) -> Option<GeneratedSample> {
        let o = &self.options;
        if o.late_ratio == 0.0 && o.duplicate_ratio == 0.0 && o.conflict_ratio == 0.0 {
            return Some(point);
        }
        let (duplicate_ratio, conflict_ratio) = (o.duplicate_ratio, o.conflict_ratio);
        let mut random = hash(o.seed ^ DELIVERY, point.series, point.at_ms as u64);
        let ticks_max = o.allowed_lateness_ms / o.step_ms;
        let late = unit(next(&mut random)) < o.late_ratio && ticks_max > 0;
        let delay = 1 + below(next(&mut random), ticks_max);
        // The first delivery is held before its copies, and they are due no earlier, so it comes before them.
        let held = late && self.hold(delay, GeneratedSample { delivery: Delivery::Late, ..point });
        let earliest = if held { delay } else { 0 };
        for (ratio, delivery, digits) in [
            (duplicate_ratio, Delivery::Duplicate, point.digits),
            (conflict_ratio, Delivery::Conflict, point.digits + 1),
        ] {
            let chosen = unit(next(&mut random)) < ratio;
            let again = earliest + below(next(&mut random), ticks_max - earliest + 1);
            if chosen {
                self.hold(again, GeneratedSample { digits, delivery, ..point });
            }
        }
        (!held).then_some(point)
    }

    /// Holds a point back for some ticks, if there is room.
    fn hold(&mut self, ticks: i64, point: GeneratedSample) -> bool {
        if self.held.len() >= HELD_MAX {
            return false;
        }
        self.held_ever += 1;
        let due = self.tick + ticks;
        self.held.push(Reverse(DelayedSample { due, instance: self.instance, order: self.held_ever, point }));
        true
    }

    /// The next held point that is due: everything once the ticks are over.
    fn due(&mut self) -> Option<GeneratedSample> {
        let Reverse(held) = self.held.peek()?;
        let over = self.tick >= self.ticks;
        if !over && (held.due, held.instance) > (self.tick, self.instance) {
            return None;
        }
        self.held.pop().map(|Reverse(held)| held.point)
    }
}

impl Iterator for Generator {
    type Item = GeneratedSample;

    fn next(&mut self) -> Option<GeneratedSample> {
        loop {
            if self.tick >= self.ticks {
                // The ticks are over: what is still held back comes now, then the next series of a series-major run.
                if let Some(point) = self.due() {
                    return Some(point);
                }
                let series = self.waiting.next()?;
                self.begin(series..series + 1);
            }
            while self.next_state < self.instances[self.instance].states.end {
                let state = self.next_state;
                self.next_state += 1;
                if let Some(point) = self.sample(state) {
                    return Some(point);
                }
            }
            if let Some(point) = self.due() {
                return Some(point);
            }
            self.advance();
        }
    }
}

impl SeriesGenerator {
    fn new(mut random: u64, shape: &ValueShape, scale: u8) -> SeriesGenerator {
        let factor = 0.5 + unit(next(&mut random));
        let start = unit(next(&mut random));
        let level = match *shape {
            // Up to a month of growth has been before.
            ValueShape::Counter { per_second, .. } => per_second * factor * start * 30.0 * 86_400.0,
            ValueShape::Walk { low, high, .. } => low + start * (high - low),
            ValueShape::Gauge { .. } | ValueShape::Constant { .. } | ValueShape::Sparse { .. } => 0.0,
        };
        SeriesGenerator { random, level: round(level * TENS[usize::from(scale)]), factor }
    }

    /// The digits of the value at the next tick; none where a sparse series has no sample.
    ///
    /// Every tick is advanced through, silent ones too: an instance out of reach goes on working.
    fn advance(&mut self, shape: &ValueShape, scale: u8, scrape: &Scrape, step_ms: i64) -> Option<i64> {
        let tens = TENS[usize::from(scale)];
        let drawn = match shape {
            ValueShape::Constant { .. } => 0,
            _ => next(&mut self.random),
        };
        let value = match *shape {
            ValueShape::Gauge { level, daily, hourly, noise } => {
                let season = 1.0 + daily * scrape.day + hourly * scrape.hour;
                level * self.factor * tens * (season + noise * centred(drawn))
            }
            ValueShape::Counter { per_second, daily } => {
                if scrape.restarted {
                    self.level = 0.0;
                }
                let busy =
                    per_second * self.factor * (1.0 + daily * scrape.day) * (1.0 + 0.5 * centred(drawn));
                // The fraction of the last digit is drawn, so that slow counters grow at their rate as well.
                let grown = busy * (step_ms as f64 / 1_000.0) * tens + unit(drawn << 24);
                self.level += grown as i64 as f64;
                self.level
            }
            ValueShape::Walk { low, high, step } => {
                let (low, high) = (low * tens, high * tens);
                let next = self.level + step * tens * centred(drawn);
                let inside = if next < low { 2.0 * low - next } else { next };
                let inside = if inside > high { 2.0 * high - inside } else { inside };
                self.level = inside.max(low);
                self.level
            }
            ValueShape::Constant { value } => value * tens,
            ValueShape::Sparse { level, noise, every } => {
                if drawn % every != 0 {
                    return None;
                }
                level * self.factor * tens * (1.0 + noise * centred(drawn))
            }
        };
        Some(round(value) as i64)
    }
}

/// What happens to an instance at a time: a function of both alone, so that any part of the data has the same outages.
fn scrape(options: &GenerateOptions, instance: u64, at_ms: i64) -> Scrape {
    let before_ms = at_ms - options.step_ms;
    let (mut silent, mut restarted) = (false, false);
    let hour = at_ms.div_euclid(HOUR_MS);
    for hour in [hour - 1, hour] {
        let mut random = hash(options.seed, instance, hour as u64);
        let (chance, length, begin, kind) =
            (next(&mut random), next(&mut random), next(&mut random), next(&mut random));
        if unit(chance) < options.outage_ratio {
            let length_ms = OUTAGE_MS.start + below(length, OUTAGE_MS.end - OUTAGE_MS.start);
            let begin_ms = hour * HOUR_MS + below(begin, HOUR_MS - length_ms);
            silent |= (begin_ms..begin_ms + length_ms).contains(&at_ms);
            restarted |= kind >> 63 == 1 && before_ms < begin_ms && begin_ms <= at_ms;
        }
        if unit(next(&mut random)) < options.restart_ratio {
            let restart_ms = hour * HOUR_MS + below(next(&mut random), HOUR_MS);
            restarted |= before_ms < restart_ms && restart_ms <= at_ms;
        }
    }
    let part = |of_ms: i64| at_ms.rem_euclid(of_ms) as f64 / of_ms as f64;
    // The day is at its height at 15:00 and at its low at 03:00.
    Scrape { at_ms, silent, restarted, day: wave(part(DAY_MS) + 0.625), hour: wave(part(HOUR_MS)) }
}

/// In which life an instance is: the first is 0, and not all end at once.
fn life(options: &GenerateOptions, instance: u64, at_ms: i64) -> i64 {
    if options.churn_ms == 0 {
        return 0;
    }
    let lived_ms = below(hash(options.seed, instance, 3), options.churn_ms);
    (at_ms - options.start_ms + lived_ms).div_euclid(options.churn_ms)
}

fn instance_name(number: u64, life: i64) -> String {
    let address = format!("10.{}.{}.{}", number >> 16 & 255, number >> 8 & 255, number & 255);
    if life == 0 { format!("{address}:9100") } else { format!("{address}-{life}:9100") }
}

#[cfg(test)]
mod tests;
