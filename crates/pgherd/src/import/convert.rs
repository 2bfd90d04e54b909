//! Values of other tools as pgherd writes them.

use std::time::Duration;

use super::read::assignments::unquoted;

/// As it is.
pub fn same(text: &str) -> Result<String, String> {
    Ok(text.trim().to_owned())
}

/// `on`, `yes`, `true` or 1, and their opposites.
pub fn truth(text: &str) -> Result<bool, String> {
    match text.trim().to_ascii_lowercase().as_str() {
        "on" | "yes" | "true" | "1" | "y" | "t" => Ok(true),
        "off" | "no" | "false" | "0" | "n" | "f" | "" => Ok(false),
        other => Err(format!("expected on or off, found {other:?}")),
    }
}

pub fn flag(text: &str) -> Result<String, String> {
    truth(text).map(|truth| truth.to_string())
}

/// Seconds, maybe with a fraction; or a number with a unit.
pub fn seconds(text: &str) -> Result<String, String> {
    time(text, 1000.0)
}

/// Milliseconds; or a number with a unit.
pub fn milliseconds(text: &str) -> Result<String, String> {
    time(text, 1.0)
}

/// A time as pgherd writes it; `unit` are the milliseconds of a bare number.
fn time(text: &str, unit: f64) -> Result<String, String> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, word) = text.split_at(digits);
    let number: f64 = number.parse().map_err(|_| format!("expected a time, found {text:?}"))?;
    let unit = match word.trim() {
        "" => unit,
        "us" => 0.001,
        "ms" => 1.0,
        "s" => 1000.0,
        "m" | "min" => 60_000.0,
        "h" => 3_600_000.0,
        "d" => 86_400_000.0,
        other => return Err(format!("{other:?} is no unit of time")),
    };
    let time = number * unit;
    match (0.0..1e15).contains(&time) {
        true if time < 0.5 => Ok("0s".to_owned()),
        true => Ok(crate::config::format_duration(Duration::from_millis(time.round() as u64))),
        false => Err(format!("{text:?} is no time that can be set")),
    }
}

/// Bytes, in whole megabytes and never less than they are: pgherd writes no smaller amounts.
pub fn megabytes(text: &str) -> Result<String, String> {
    let bytes: u64 =
        text.trim().parse().map_err(|_| format!("expected a number of bytes, found {text:?}"))?;
    match bytes {
        0 => Err("0 sets no limit, which is the default".to_owned()),
        bytes => Ok(format!("{}MB", bytes.div_ceil(1 << 20))),
    }
}

/// An address to listen on. `*` is all of IPv4, as `pgherd config init` writes it.
pub fn listen(text: &str) -> Result<String, String> {
    match text.trim().trim_matches(['[', ']']) {
        "*" | "" => Ok("0.0.0.0".to_owned()),
        "localhost" => Ok("127.0.0.1".to_owned()),
        several if several.contains(',') => {
            Err("the proxy listens on one address, or on all: 0.0.0.0".to_owned())
        }
        one => Ok(one.to_owned()),
    }
}

/// A host and a port where there is one; IPv6 in brackets.
pub fn host_and_port(text: &str) -> (String, Option<u16>) {
    let text = text.trim();
    if let Ok((host, port)) = crate::config::split_address(text) {
        return (host, Some(port));
    }
    match text.rsplit_once(':') {
        Some((host, port))
            if port.parse::<u16>().is_ok() && (host.starts_with('[') || !host.contains(':')) =>
        {
            (host.trim_matches(['[', ']']).to_owned(), port.parse().ok())
        }
        _ => (text.trim_matches(['[', ']']).to_owned(), None),
    }
}

/// `key=value` pairs of a connection string, as libpq reads them: values may stand in single quotes.
pub fn connection(text: &str) -> Vec<(String, String)> {
    let mut pairs = Vec::new();
    let mut rest = text.trim();
    while let Some((key, value)) = rest.split_once('=') {
        let value = value.trim_start();
        let (value, after) = match value.strip_prefix('\'') {
            Some(quoted) => {
                let (value, after) = unquoted(quoted);
                (value, after.unwrap_or_default())
            }
            None => {
                let end = value.find(char::is_whitespace).unwrap_or(value.len());
                (value[..end].to_owned(), &value[end..])
            }
        };
        pairs.push((key.trim().to_owned(), value));
        rest = after.trim_start();
    }
    pairs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_keep_their_meaning() {
        assert_eq!(seconds("600").unwrap(), "10min");
        assert_eq!(seconds("0.5").unwrap(), "500ms");
        assert_eq!(milliseconds("30m").unwrap(), "30min");
        assert_eq!(seconds("0").unwrap(), "0s");
        assert!(seconds("soon").is_err() && seconds("5 parsecs").is_err());
    }

    #[test]
    fn connection_strings_as_libpq_reads_them() {
        let pairs = connection("host=10.0.0.1 connect_query='SELECT ''a b''' port = 5432 dbname=");
        let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        assert_eq!(
            pairs,
            [
                pair("host", "10.0.0.1"),
                pair("connect_query", "SELECT 'a b'"),
                pair("port", "5432"),
                pair("dbname", "")
            ]
        );
    }

    #[test]
    fn hosts_with_and_without_a_port() {
        assert_eq!(host_and_port("*:5000"), ("*".to_owned(), Some(5000)));
        assert_eq!(host_and_port("[::1]:5000"), ("::1".to_owned(), Some(5000)));
        assert_eq!(host_and_port("db1"), ("db1".to_owned(), None));
        assert_eq!(host_and_port(":5000"), (String::new(), Some(5000)));
    }
}
