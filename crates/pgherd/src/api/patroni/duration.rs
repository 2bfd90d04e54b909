//! Seconds as Patroni takes them in the body of a restart: a number, or a number with a unit of PostgreSQL's.

use std::time::Duration;

use serde_json::Value;

/// `30`, `"30"`, `"30s"`, `"2min"`, `"1500ms"`; `None` for anything else, and for nothing at all.
pub(super) fn seconds(value: &Value) -> Option<Duration> {
    let text = match value {
        Value::Number(number) => number.to_string(),
        Value::String(text) => text.trim().to_owned(),
        _ => return None,
    };
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text[..end].parse().ok()?;
    let milliseconds = match text[end..].trim() {
        "" | "s" => 1_000,
        "ms" => 1,
        "min" => 60_000,
        "h" => 3_600_000,
        _ => return None,
    };
    Some(Duration::from_millis(number.checked_mul(milliseconds)?)).filter(|duration| !duration.is_zero())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::seconds;

    #[test]
    fn seconds_are_a_number_or_have_a_unit() {
        for (value, ms) in
            [(json!(30), 30_000), (json!("30"), 30_000), (json!("2min"), 120_000), (json!("5 ms"), 5)]
        {
            assert_eq!(seconds(&value).map(|found| found.as_millis()), Some(ms), "{value}");
        }
        for value in [json!(0), json!(-1), json!("soon"), json!(null), json!([1])] {
            assert_eq!(seconds(&value), None, "{value}");
        }
    }
}
