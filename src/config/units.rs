//! Sizes as a user writes them; durations are `settings::parse_duration`.

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
    use super::*;

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
