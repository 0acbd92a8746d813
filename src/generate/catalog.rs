//! What a generated instance exports: metric families like those of a node exporter, with the shape of their values.
//!
//! A table and its expansion into series. Not here: times, randomness, text.

/// How the values of a family behave. Levels and rates are in the unit of the metric, amplitudes are parts of the level.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ValueShape {
    /// A level with a daily and an hourly season and noise.
    Gauge { level: f64, daily: f64, hourly: f64, noise: f64 },
    /// Grows, faster by day than by night; begins at 0 again when its instance restarts.
    Counter { per_second: f64, daily: f64 },
    /// A random walk between two walls.
    Walk { low: f64, high: f64, step: f64 },
    /// The same value for ever.
    Constant { value: f64 },
    /// A noisy level that is there at one tick in `every` only.
    Sparse { level: f64, noise: f64, every: u64 },
}

/// A label's name and value.
pub type LabelPair = (&'static str, &'static str);

/// A metric name, the shape of its values and the label sets it has on one instance.
#[derive(Debug)]
pub struct MetricFamily {
    /// The metric's name.
    pub name: &'static str,
    /// Decimals its values are printed with, at most 3.
    pub scale: u8,
    /// How its values behave.
    pub shape: ValueShape,
    /// One entry per series of an instance: labels beside `instance` and `job`, sorted by name.
    pub members: &'static [&'static [LabelPair]],
}

const PLAIN: &[&[LabelPair]] = &[&[]];
const CPUS: &[&[LabelPair]] = &[&[("cpu", "0")], &[("cpu", "1")], &[("cpu", "2")], &[("cpu", "3")]];
const CPU_MODES: &[&[LabelPair]] = &[
    &[("cpu", "0"), ("mode", "idle")],
    &[("cpu", "0"), ("mode", "system")],
    &[("cpu", "0"), ("mode", "user")],
    &[("cpu", "1"), ("mode", "idle")],
    &[("cpu", "1"), ("mode", "system")],
    &[("cpu", "1"), ("mode", "user")],
    &[("cpu", "2"), ("mode", "idle")],
    &[("cpu", "2"), ("mode", "system")],
    &[("cpu", "2"), ("mode", "user")],
    &[("cpu", "3"), ("mode", "idle")],
    &[("cpu", "3"), ("mode", "system")],
    &[("cpu", "3"), ("mode", "user")],
];
const DISKS: &[&[LabelPair]] = &[&[("device", "nvme0n1")], &[("device", "sda")]];
const NICS: &[&[LabelPair]] = &[&[("device", "eth0")], &[("device", "lo")]];
const MOUNTS: &[&[LabelPair]] = &[
    &[("device", "/dev/nvme0n1p2"), ("fstype", "ext4"), ("mountpoint", "/")],
    &[("device", "/dev/nvme0n1p1"), ("fstype", "vfat"), ("mountpoint", "/boot/efi")],
    &[("device", "/dev/sda1"), ("fstype", "xfs"), ("mountpoint", "/var/lib/data")],
];
const SENSORS: &[&[LabelPair]] = &[
    &[("chip", "platform_coretemp_0"), ("sensor", "temp1")],
    &[("chip", "platform_coretemp_0"), ("sensor", "temp2")],
    &[("chip", "nvme_nvme0"), ("sensor", "temp1")],
];
const COLLECTORS: &[&[LabelPair]] = &[
    &[("collector", "cpu")],
    &[("collector", "diskstats")],
    &[("collector", "filesystem")],
    &[("collector", "netdev")],
];
const CODES: &[&[LabelPair]] = &[&[("code", "200")], &[("code", "500")]];
const BACKUPS: &[&[LabelPair]] = &[&[("backup", "home")], &[("backup", "database")]];

const fn gauge(level: f64, daily: f64, hourly: f64, noise: f64) -> ValueShape {
    ValueShape::Gauge { level, daily, hourly, noise }
}

const fn counter(per_second: f64, daily: f64) -> ValueShape {
    ValueShape::Counter { per_second, daily }
}

const fn walk(low: f64, high: f64, step: f64) -> ValueShape {
    ValueShape::Walk { low, high, step }
}

const fn constant(value: f64) -> ValueShape {
    ValueShape::Constant { value }
}

const fn sparse(level: f64, noise: f64, every: u64) -> ValueShape {
    ValueShape::Sparse { level, noise, every }
}

const fn family(
    name: &'static str,
    scale: u8,
    shape: ValueShape,
    members: &'static [&'static [LabelPair]],
) -> MetricFamily {
    MetricFamily { name, scale, shape, members }
}

/// Every family of an instance; each shape occurs among the first five, so a handful of series shows all of them.
pub const FAMILIES: &[MetricFamily] = &[
    family("node_cpu_seconds_total", 2, counter(0.3, 0.6), CPU_MODES),
    family("node_load1", 2, gauge(1.8, 0.5, 0.25, 0.2), PLAIN),
    family("node_memory_MemAvailable_bytes", 0, walk(2.0e9, 1.4e10, 3.0e7), PLAIN),
    family("node_backup_last_duration_seconds", 3, sparse(312.0, 0.3, 20), BACKUPS),
    family("up", 0, constant(1.0), PLAIN),
    family("node_network_receive_bytes_total", 0, counter(2.5e5, 0.8), NICS),
    family("node_network_transmit_bytes_total", 0, counter(1.8e5, 0.8), NICS),
    family("node_network_receive_packets_total", 0, counter(310.0, 0.8), NICS),
    family("node_network_transmit_packets_total", 0, counter(270.0, 0.8), NICS),
    family("node_network_receive_errs_total", 0, counter(0.0005, 0.0), NICS),
    family("node_disk_read_bytes_total", 0, counter(4.0e4, 0.5), DISKS),
    family("node_disk_written_bytes_total", 0, counter(1.2e5, 0.5), DISKS),
    family("node_disk_io_time_seconds_total", 3, counter(0.04, 0.5), DISKS),
    family("node_hwmon_temp_celsius", 1, gauge(46.0, 0.08, 0.04, 0.02), SENSORS),
    family("node_cpu_scaling_frequency_hertz", 0, walk(8.0e8, 3.6e9, 2.0e8), CPUS),
    family("node_filesystem_avail_bytes", 0, walk(1.0e9, 9.0e10, 4.0e7), MOUNTS),
    family("node_filesystem_size_bytes", 0, constant(105_089_261_568.0), MOUNTS),
    family("node_filesystem_readonly", 0, constant(0.0), MOUNTS),
    family("node_load5", 2, gauge(1.7, 0.5, 0.2, 0.1), PLAIN),
    family("node_load15", 2, gauge(1.6, 0.5, 0.1, 0.05), PLAIN),
    family("node_memory_MemFree_bytes", 0, walk(2.0e8, 4.0e9, 2.0e7), PLAIN),
    family("node_memory_Cached_bytes", 0, gauge(5.2e9, 0.2, 0.02, 0.01), PLAIN),
    family("node_memory_Buffers_bytes", 0, gauge(3.1e8, 0.1, 0.05, 0.02), PLAIN),
    family("node_memory_MemTotal_bytes", 0, constant(16_658_239_488.0), PLAIN),
    family("node_context_switches_total", 0, counter(5200.0, 0.5), PLAIN),
    family("node_forks_total", 0, counter(3.0, 0.3), PLAIN),
    family("node_intr_total", 0, counter(2900.0, 0.5), PLAIN),
    family("node_procs_running", 0, gauge(3.0, 0.4, 0.3, 0.6), PLAIN),
    family("node_procs_blocked", 0, sparse(1.0, 1.0, 40), PLAIN),
    family("node_sockstat_TCP_inuse", 0, walk(12.0, 900.0, 9.0), PLAIN),
    family("node_entropy_available_bits", 0, constant(256.0), PLAIN),
    family("node_scrape_collector_success", 0, constant(1.0), COLLECTORS),
    family("promhttp_metric_handler_requests_total", 0, counter(0.066, 0.0), CODES),
    family("go_goroutines", 0, walk(7.0, 60.0, 2.0), PLAIN),
    family("go_gc_duration_seconds_sum", 3, counter(0.0002, 0.2), PLAIN),
    family("go_gc_duration_seconds_count", 0, counter(0.02, 0.2), PLAIN),
    family("process_resident_memory_bytes", 0, walk(1.6e7, 4.8e7, 4.0e5), PLAIN),
    family("process_cpu_seconds_total", 2, counter(0.01, 0.2), PLAIN),
];

/// One series of an instance: its family and its labels beside `instance` and `job`.
#[derive(Clone, Copy, Debug)]
pub struct Slot {
    /// The family.
    pub family: &'static MetricFamily,
    /// Its own labels, sorted by name.
    pub labels: &'static [LabelPair],
}

/// The series of one instance: the first member of every family, then every second member, and so on.
pub fn slots() -> Vec<Slot> {
    let rounds = FAMILIES.iter().map(|f| f.members.len()).max().unwrap_or(0);
    let round = |r: usize| {
        FAMILIES.iter().filter_map(move |family| family.members.get(r).map(|labels| Slot { family, labels }))
    };
    (0..rounds).flat_map(round).collect()
}

/// Every label name of the catalog, `instance` and `job` included, sorted.
pub fn label_names() -> Vec<&'static str> {
    let own = FAMILIES
        .iter()
        .flat_map(|f| f.members.iter().flat_map(|labels| labels.iter().map(|(name, _)| *name)));
    let mut names: Vec<_> = own.chain(["instance", "job"]).collect();
    names.sort_unstable();
    names.dedup();
    names
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_slot_has_its_own_labels_sorted_and_free_of_what_needs_escapes() {
        let mut seen = BTreeSet::new();
        for slot in slots() {
            assert!(seen.insert((slot.family.name, slot.labels)), "twice: {slot:?}");
            assert!(slot.labels.windows(2).all(|pair| pair[0].0 < pair[1].0), "not sorted: {slot:?}");
            assert!(slot.family.scale <= 3);
            for (name, value) in slot.labels {
                // A label `name` could not be told from the metric's name in a CSV header.
                assert!(!["instance", "job", "name", "__name__"].contains(name));
                assert!(
                    !value.is_empty() && !value.contains(['"', '\\', '\n', ',']),
                    "needs escapes: {value}"
                );
            }
        }
    }

    #[test]
    fn no_name_holds_more_than_a_sixth_of_the_series() {
        // A million series have to fit the default bound of 200,000 series per name, and 1.2 million too.
        let all = slots().len();
        for family in FAMILIES {
            assert!(family.members.len() * 6 <= all, "{}: {} of {all}", family.name, family.members.len());
        }
    }

    #[test]
    fn the_first_five_series_show_every_shape() {
        let shapes: BTreeSet<_> = slots()
            .iter()
            .take(5)
            .map(|slot| format!("{:?}", std::mem::discriminant(&slot.family.shape)))
            .collect();
        assert_eq!(shapes.len(), 5);
    }
}
