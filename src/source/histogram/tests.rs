//! Unit tests of this module.

use super::wire::{Histogram as Wire, zigzag};
use super::*;

const AT: i64 = 1_714_521_600_000;

fn judge(wire: &Wire) -> Result<CountAndSum, String> {
    read(FieldCursor::new(&wire.0)).unwrap()
}

fn base() -> Wire {
    Wire::at(AT, 7.5)
}

/// Custom buckets: two bounds, three buckets.
fn custom() -> Wire {
    base().number(4, zigzag(-53)).doubles(16, &[0.5, 2.0]).number(1, 6).span(11, 0, 3).ints(12, &[1, 1, 1])
}

#[test]
fn of_a_good_histogram_the_count_and_the_sum_are_kept() {
    let ints = Wire::ten(AT, 7.5);
    let floats = base().double(2, 1.75).double(7, 0.25).span(11, 0, 1).span(11, 3, 1);
    let floats = floats.doubles(13, &[0.5, 1.0]);
    // Fields in several parts and not packed; a span that holds nothing; the largest schema.
    let parts = base().number(1, 5).number(12, zigzag(2)).span(11, -7, 1).span(11, 1, 0).span(11, 0, 1);
    let parts = parts.ints(12, &[1]).number(4, zigzag(8)).number(14, 3).number(17, 1);
    let rounded = base().double(2, 0.3).span(11, 0, 2).doubles(13, &[0.1, 0.2]);
    let unplaced = Wire::at(AT, f64::NAN).number(1, 10).span(11, 0, 1).ints(12, &[3]);
    let table = [
        (base(), 0.0),
        (ints, 10.0),
        (floats, 1.75),
        (parts, 5.0),
        (custom(), 6.0),
        (rounded, 0.3),
        (base().number(4, zigzag(-4)), 0.0),
        (unplaced, 10.0),
        (base().number(1, u64::MAX).number(6, u64::MAX), 18_446_744_073_709_551_615.0),
        (base().double(2, 2.0).double(7, 2.0), 2.0),
    ];
    for (wire, count) in table {
        let kept = judge(&wire).unwrap();
        assert_eq!((kept.at_ms, kept.count), (AT, count), "{:02x?}", wire.0);
        assert!(kept.sum == 7.5 || kept.sum.is_nan());
    }
    let stale = judge(&Wire::at(AT, f64::from_bits(STALE_NAN_BITS))).unwrap();
    assert_eq!((stale.count.to_bits(), stale.sum.to_bits()), (STALE_NAN_BITS, STALE_NAN_BITS));
}

#[test]
fn what_does_not_add_up_is_refused_with_field_value_and_bound() {
    let one = |wire: Wire| wire.span(11, 0, 1);
    let max = i64::MAX;
    let table: [(Wire, &str); 27] = [
        (one(base().number(1, 4)).ints(12, &[3]), "count must be equal to the sum of its buckets (3); got 4"),
        (
            one(Wire::at(AT, f64::NAN).number(1, 2)).ints(12, &[3]),
            "count must be at least the sum of its buckets (3); got 2",
        ),
        (base().number(6, 1), "count must be equal to the sum of its buckets (1); got 0"),
        (
            one(base().double(2, 1.0)).doubles(13, &[1.1]),
            "count must be equal to the sum of its buckets (1.1); got 1",
        ),
        (
            one(Wire::at(AT, f64::NAN).double(2, 1.0)).doubles(13, &[1.1]),
            "count must be at least the sum of its buckets (1.1); got 1",
        ),
        (
            one(base().number(1, 3)).ints(12, &[1, 1]),
            "positive_deltas must be as many as positive_spans announce (1); got 2",
        ),
        (
            base().number(1, 1).span(8, 0, 2).ints(9, &[1]),
            "negative_deltas must be as many as negative_spans announce (2); got 1",
        ),
        (
            base().number(1, 0).span(11, 0, u64::from(u32::MAX)),
            "positive_deltas must be as many as positive_spans announce (4294967295); got 0",
        ),
        // The buckets of the other kind are none.
        (
            one(base().double(2, 3.0)).ints(12, &[3]),
            "positive_counts must be as many as positive_spans announce (1); got 0",
        ),
        (one(base().number(1, 0)).ints(12, &[-1]), "positive_deltas must give no bucket below 0; got -1"),
        (
            base().span(8, 0, 3).ints(9, &[max, max, i64::MIN]),
            "count must be equal to the sum of its buckets (36893488147419103227); got 0",
        ),
        (
            one(base().span(11, -1, 1)).ints(12, &[0, 0]).span(11, -2, 0),
            "positive_spans must not go back after the first; got an offset of -2",
        ),
        (one(base().double(2, 1.0)).doubles(13, &[f64::NAN]), "positive_counts must be 0 or more; got NaN"),
        (one(base().double(2, 1.0)).doubles(13, &[-1.0]), "positive_counts must be 0 or more; got -1"),
        (base().double(2, 1.0).double(7, f64::NAN), "zero_count must be 0 or more; got NaN"),
        (base().double(2, -1.0).double(7, -1.0), "zero_count must be 0 or more; got -1"),
        (base().double(2, f64::NAN), "count must be 0 or more; got NaN"),
        (base().double(2, 1.0).number(6, 1), "zero_count must be a float as count is; got an integer"),
        (base().number(1, 1).double(7, 1.0), "zero_count must be an integer as count is; got a float"),
        (base().number(4, zigzag(9)), "schema must be -4 to 8, or -53 for custom buckets; got 9"),
        (base().number(4, zigzag(-5)), "schema must be -4 to 8, or -53 for custom buckets; got -5"),
        (
            base().number(4, zigzag(i64::MIN)),
            "schema must be -4 to 8, or -53 for custom buckets; got -9223372036854775808",
        ),
        (base().doubles(16, &[1.0]), "custom_values belong to schema -53; got 1 with schema 0"),
        (custom().doubles(16, &[2.0]), "custom_values must rise and be below +Inf; got 2 after 2"),
        (custom().doubles(16, &[f64::NAN]), "custom_values must rise and be below +Inf; got NaN after 2"),
        (custom().span(11, 0, 1), "positive_spans reach over at most 3 custom buckets; got 4"),
        (custom().number(6, 1), "zero_count and zero_threshold must be 0 with custom buckets; got 1 and 0"),
    ];
    for (wire, sentence) in table {
        assert_eq!(judge(&wire).unwrap_err(), format!("histogram.{sentence}"), "{:02x?}", wire.0);
    }
    let below = base().number(4, zigzag(-53)).span(8, 0, 0);
    assert!(judge(&below).unwrap_err().contains("negative_spans must be empty"));
    let back = base().number(4, zigzag(-53)).span(11, -1, 0);
    assert!(judge(&back).unwrap_err().contains("begin at offset 0 or above; got -1"));
}

#[test]
fn no_bytes_make_reading_panic() {
    let mut random = fastrand::Rng::with_seed(1);
    let (mut good, mut bad) = (0, 0);
    for round in 0..50_000 {
        let mut bytes = if round % 2 == 0 { Wire::ten(AT, 7.5).0 } else { custom().0 };
        for _ in 0..random.usize(1..4) {
            let at = random.usize(..bytes.len());
            bytes[at] = random.u8(..);
        }
        match read(FieldCursor::new(&bytes)) {
            Ok(Ok(_)) => good += 1,
            Ok(Err(_)) => bad += 1,
            Err(undecodable) => assert!(undecodable.at <= bytes.len()),
        }
    }
    assert!(good > 1_000 && bad > 1_000, "{good} good, {bad} bad");
    let packed = "doubles were expected; their wire type or length is another";
    for wire in [Wire(vec![13 << 3 | 2, 1, 0]), Wire::default().number(16, 1)] {
        let undecodable = read(FieldCursor::new(&wire.0)).unwrap_err();
        assert_eq!(undecodable, DecodeError { at: 0, what: packed });
    }
}
