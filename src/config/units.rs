//! Durations and sizes as a user writes them.

/// Reads a duration as Prometheus writes it: whole numbers with falling units, `1h30m`, `250ms`, `0`.
pub fn parse_duration(text: &str) -> Option<i64> {
    const UNITS: [(&str, i64); 7] = [
        ("y", 365 * 86_400_000),
        ("w", 7 * 86_400_000),
        ("d", 86_400_000),
        ("h", 3_600_000),
        ("m", 60_000),
        ("s", 1_000),
        ("ms", 1),
    ];
    if text == "0" {
        return Some(0);
    }
    let (mut rest, mut total, mut units) = (text, 0_i64, &UNITS[..]);
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let letters = rest[digits..].bytes().take_while(u8::is_ascii_lowercase).count();
        let unit = units.iter().position(|(unit, _)| *unit == &rest[digits..digits + letters])?;
        let count: i64 = rest[..digits].parse().ok()?;
        total = total.checked_add(count.checked_mul(units[unit].1)?)?;
        units = &units[unit + 1..];
        rest = &rest[digits + letters..];
    }
    (!text.is_empty()).then_some(total)
}

const SIZE_UNITS: [(&str, u64); 5] =
    [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

/// Reads a size: a whole number with a binary unit, `32MiB`. KB and MB mean two things and are not read.
pub fn parse_size(text: &str) -> Option<u64> {
    let (unit, factor) = SIZE_UNITS.iter().find(|(unit, _)| text.ends_with(unit))?;
    let count = text[..text.len() - unit.len()].trim_end();
    if !count.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    count.parse::<u64>().ok()?.checked_mul(*factor)
}

/// Prints a size in the largest unit that divides it.
pub(super) fn size(bytes: u64) -> String {
    let unit = SIZE_UNITS.iter().find(|(_, factor)| bytes >= *factor && bytes.is_multiple_of(*factor));
    unit.map_or_else(|| "0B".to_owned(), |(unit, factor)| format!("{}{unit}", bytes / factor))
}

#[cfg(test)]
mod tests {
    use tidewatch_dataflows::settings::duration;

    use super::*;

    #[test]
    fn durations_read_back_as_printed() {
        for ms in [0, 1, 250, 1_000, 61_001, 5_400_000, 86_400_000, 31 * 86_400_000 + 1] {
            assert_eq!(parse_duration(&duration(ms)), Some(ms));
        }
        assert_eq!(parse_duration("1y1w1d"), Some(373 * 86_400_000));
        for text in
            ["", "1", "s", "-1s", "1m1h", "1s1s", "1.5h", "1h ", "1H", "+1s", "99999999999999999999s", "é"]
        {
            assert_eq!(parse_duration(text), None, "{text:?}");
        }
    }

    #[test]
    fn sizes_read_back_as_printed() {
        for bytes in [1, 1_023, 1 << 10, 3 << 20, (1 << 40) + 1] {
            assert_eq!(parse_size(&size(bytes)), Some(bytes));
        }
        for text in ["", "B", "1", "1KB", "1 M", "-1B", "+1B", "1.5GiB", "1kib", "é", "99999999999999999999B"]
        {
            assert_eq!(parse_size(text), None, "{text:?}");
        }
        assert_eq!(parse_size("32 MiB"), Some(32 << 20));
    }
}
