//! Sizes as Patroni's `?lag=` has them: a number of bytes, or a number with a unit of PostgreSQL's.

/// Powers of 1024, in PostgreSQL's spelling.
const UNITS: [(&str, u64); 5] =
    [("B", 1), ("kB", 1 << 10), ("MB", 1 << 20), ("GB", 1 << 30), ("TB", 1 << 40)];

/// `1048576`, `1MB`, `16 kB`, `1.5GB`; `None` for anything else.
pub(super) fn bytes(text: &str) -> Option<u64> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = (&text[..end], text[end..].trim());
    let factor = match unit {
        "" => 1,
        unit => UNITS.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit))?.1,
    };
    match number.parse::<u64>() {
        Ok(whole) => whole.checked_mul(factor),
        Err(_) => number.parse::<f64>().ok().map(|part| (part * factor as f64).round() as u64),
    }
}

#[cfg(test)]
mod tests {
    use super::bytes;

    #[test]
    fn sizes_are_bytes_or_have_postgresqls_units() {
        for (text, size) in [
            ("0", 0),
            ("1048576", 1 << 20),
            ("16kB", 16 << 10),
            ("16KB", 16 << 10),
            ("1MB", 1 << 20),
            ("1 MB", 1 << 20),
            ("1.5GB", 3 << 29),
            ("2TB", 2 << 40),
            ("7B", 7),
        ] {
            assert_eq!(bytes(text), Some(size), "{text}");
        }
        for text in ["", "much", "-1", "1 mile", "1.2.3", "MB", "99999999999TB"] {
            assert_eq!(bytes(text), None, "{text}");
        }
    }
}
