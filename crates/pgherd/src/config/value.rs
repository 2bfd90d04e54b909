//! The types of settings: what is accepted, from TOML and from the environment, and how it is written.

use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use toml::de::DeValue;

/// Longest name of a cluster or node: with incarnation and term it must fit PostgreSQL's 63 bytes of a name.
pub const NAME_BYTES_MAX: usize = 40;

#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// Of a cluster or node; fits certificates, slots and `application_name`.
    Name,
    Text,
    /// An absolute path.
    Directory,
    /// An absolute path.
    File,
    Host,
    /// Hosts with commas between, or `*`.
    Listen,
    /// `host:port`.
    Address,
    Port,
    Integer {
        min: i64,
        max: i64,
        unit: &'static str,
    },
    Duration {
        min: Duration,
        max: Duration,
    },
    /// An amount as PostgreSQL writes it: a whole number and MB, GB or TB, of 1024 each.
    Bytes,
    Choice(&'static [&'static str]),
    /// `true` or `false`.
    Flag,
    /// Lines of pg_hba.conf.
    Lines,
    /// Functions: `name`, in any schema, or `schema.name`.
    Functions,
    /// Rules of events; one may end in `*`.
    Rules,
    /// `address/prefix`.
    AddressInNetwork,
    /// The name of a network interface.
    Interface,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Value {
    Text(String),
    Integer(i64),
    Duration(Duration),
    Bytes(u64),
    Flag(bool),
    List(Vec<String>),
}

impl Kind {
    /// What is expected, for messages: "expected …".
    fn expected(self) -> String {
        match self {
            Kind::Name | Kind::Text => "a string".into(),
            Kind::Directory | Kind::File => "a path as a string".into(),
            Kind::Host | Kind::Listen => "a host or IP address as a string".into(),
            Kind::Address => "\"host:port\"".into(),
            Kind::Port => "a port, 1 to 65535".into(),
            Kind::Integer { min, max, unit } => {
                format!("a whole number, {min} to {max} {unit}").trim_end().to_owned()
            }
            Kind::Duration { .. } => "a duration such as \"250ms\", \"2s\" or \"5min\"".into(),
            Kind::Bytes => "an amount such as \"512MB\" or \"10GB\"".into(),
            Kind::Choice(choices) => {
                choices.iter().map(|choice| format!("{choice:?}")).collect::<Vec<_>>().join(" or ")
            }
            Kind::Flag => "true or false".into(),
            Kind::AddressInNetwork => "an address with its prefix as a string".into(),
            Kind::Interface => "the name of an interface as a string".into(),
            Kind::Lines | Kind::Functions | Kind::Rules => "a list of strings".into(),
        }
    }

    /// The column "type" of the reference page.
    pub fn describe(self) -> String {
        match self {
            Kind::Name => "name".into(),
            Kind::Text => "string".into(),
            Kind::Directory => "absolute path of a folder".into(),
            Kind::File => "absolute path of a file".into(),
            Kind::Host => "host".into(),
            Kind::Listen => "hosts".into(),
            Kind::Address => "`host:port`".into(),
            Kind::Port => "port".into(),
            Kind::Integer { min, max, unit } => format!("integer, {min}–{max} {unit}").trim_end().to_owned(),
            Kind::Duration { min, max } => {
                format!("duration, {}–{}", format_duration(min), format_duration(max))
            }
            Kind::Bytes => "amount, MB, GB or TB".into(),
            Kind::AddressInNetwork => "`address/prefix`".into(),
            Kind::Interface => "interface".into(),
            Kind::Choice(choices) => {
                choices.iter().map(|choice| format!("`{choice}`")).collect::<Vec<_>>().join(" or ")
            }
            Kind::Flag => "`true` or `false`".into(),
            Kind::Lines | Kind::Functions | Kind::Rules => "list of strings".into(),
        }
    }

    /// Takes a value from the file; `Err` says what is wrong with it.
    pub fn read_toml(self, value: &DeValue<'_>) -> Result<Value, String> {
        match (self, value) {
            (Kind::Port | Kind::Integer { .. }, DeValue::Integer(number)) => {
                let number = i64::from_str_radix(number.as_str(), number.radix());
                self.integer(number.map_err(|_| format!("expected {}", self.expected()))?)
            }
            (Kind::Lines | Kind::Functions | Kind::Rules, DeValue::Array(items)) => {
                let read = match self {
                    Kind::Lines => hba_line,
                    Kind::Functions => function,
                    _ => rule,
                };
                let items = items
                    .iter()
                    .map(|item| read(item.get_ref().as_str().ok_or_else(|| self.mismatch(item.get_ref()))?));
                Ok(Value::List(items.collect::<Result<_, _>>()?))
            }
            (Kind::Flag, DeValue::Boolean(truth)) => Ok(Value::Flag(*truth)),
            (
                Kind::Port | Kind::Integer { .. } | Kind::Lines | Kind::Functions | Kind::Rules | Kind::Flag,
                other,
            ) => Err(self.mismatch(other)),
            (_, DeValue::String(text)) => self.read_text(text),
            (_, other) => Err(self.mismatch(other)),
        }
    }

    /// Takes a value from the environment, or a string from the file.
    pub fn read_text(self, text: &str) -> Result<Value, String> {
        if text.chars().any(char::is_control) {
            return Err("control characters are not allowed".into());
        }
        let checked = match self {
            Kind::Name => name(text),
            Kind::Text if text.is_empty() => Err("must not be empty".into()),
            Kind::Text => Ok(()),
            Kind::Directory | Kind::File if Path::new(text).is_absolute() => Ok(()),
            Kind::Directory | Kind::File => Err(format!("expected an absolute path, found {text:?}")),
            Kind::Host => host(text),
            Kind::Listen if text == "*" => Ok(()),
            Kind::Listen => text.split(',').try_for_each(|part| host(part.trim())),
            Kind::Address => split_address(text).map(|_| ()),
            Kind::AddressInNetwork => crate::vip::parse(text).map(|_| ()),
            Kind::Interface => crate::vip::check_interface(text),
            Kind::Choice(choices) if choices.contains(&text) => Ok(()),
            Kind::Choice(_) => Err(format!("expected {}, found {text:?}", self.expected())),
            Kind::Bytes => return bytes(text).map(Value::Bytes),
            Kind::Duration { min, max } => return duration(text, min, max).map(Value::Duration),
            Kind::Port | Kind::Integer { .. } => match text.parse() {
                Ok(number) => return self.integer(number),
                Err(_) if text.starts_with("tcp://") => Err(format!(
                    "expected {}, found {text:?}, which Kubernetes sets for a service of this name: \
                     set enableServiceLinks: false in the pod",
                    self.expected()
                )),
                Err(_) => Err(format!("expected {}, found {text:?}", self.expected())),
            },
            Kind::Flag => match text {
                "true" => return Ok(Value::Flag(true)),
                "false" => return Ok(Value::Flag(false)),
                _ => Err(format!("expected {}, found {text:?}", self.expected())),
            },
            Kind::Lines | Kind::Functions | Kind::Rules => {
                Err("expected a list; it can be set in the file only".into())
            }
        };
        checked.map(|()| Value::Text(text.to_owned()))
    }

    fn integer(self, number: i64) -> Result<Value, String> {
        let fits = match self {
            Kind::Port => (1..=65535).contains(&number),
            Kind::Integer { min, max, .. } => (min..=max).contains(&number),
            _ => false,
        };
        if fits {
            Ok(Value::Integer(number))
        } else {
            Err(format!("expected {}, found {number}", self.expected()))
        }
    }

    fn mismatch(self, found: &DeValue<'_>) -> String {
        let shown = match found {
            DeValue::Integer(number) => format!(" {}", number.as_str()),
            DeValue::String(text) => format!(" {text:?}"),
            DeValue::Boolean(truth) => format!(" {truth}"),
            _ => String::new(),
        };
        format!("expected {}, found the {}{shown}", self.expected(), found.type_str())
    }
}

pub(super) fn name(text: &str) -> Result<(), String> {
    let allowed = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'_' || c == b'-';
    let bytes = text.as_bytes();
    let good = bytes.len() <= NAME_BYTES_MAX
        && bytes.first().is_some_and(u8::is_ascii_lowercase)
        && bytes.last().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.iter().copied().all(allowed);
    let rule = "a name has 1 to 40 characters, a-z, 0-9, _ and -, begins with a letter and ends with a letter or digit";
    if good { Ok(()) } else { Err(format!("{text:?} is no name: {rule}")) }
}

/// As PostgreSQL allows it, and none of the cluster's own.
pub(super) fn slot_name(text: &str) -> Result<(), String> {
    let allowed = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'_';
    let good = (1..=63).contains(&text.len()) && text.bytes().all(allowed);
    match good && !text.starts_with("pgherd_") {
        true => Ok(()),
        false => Err(format!(
            "{text:?} is no name for a slot: it has 1 to 63 characters, a-z, 0-9 and _, and does not begin with pgherd_"
        )),
    }
}

fn host(text: &str) -> Result<(), String> {
    let word = !text.is_empty()
        && text.len() <= 253
        && text.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'-' | b'_'));
    if word || text.parse::<IpAddr>().is_ok() {
        Ok(())
    } else {
        Err(format!("expected a host or IP address, found {text:?}"))
    }
}

/// `host:port` in its parts; an IPv6 address stands in brackets, which are taken off.
pub(super) fn split_address(text: &str) -> Result<(String, u16), String> {
    let wrong =
        || format!("expected \"host:port\", such as \"10.0.0.1:5432\" or \"[::1]:5432\", found {text:?}");
    let (address, port) = text.rsplit_once(':').ok_or_else(wrong)?;
    let port: u16 = port.parse().ok().filter(|port| *port > 0).ok_or_else(wrong)?;
    let bracketed = address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let name = bracketed.unwrap_or(address);
    if bracketed.is_none() && name.contains(':') {
        return Err(wrong());
    }
    host(name).map_err(|_| wrong())?;
    Ok((name.to_owned(), port))
}

fn duration(text: &str, min: Duration, max: Duration) -> Result<Duration, String> {
    let wrong =
        || format!("expected a whole number and one of ms, s, min, h, such as \"250ms\", found {text:?}");
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let milliseconds: u64 = match unit.trim_start() {
        "ms" => 1,
        "s" => 1000,
        "min" => 60_000,
        "h" => 3_600_000,
        _ => return Err(wrong()),
    };
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let value = Duration::from_millis(number.checked_mul(milliseconds).ok_or_else(wrong)?);
    if value < min {
        return Err(format!("must be at least {}, found {text}", format_duration(min)));
    }
    if value > max {
        return Err(format!("must be at most {}, found {text}", format_duration(max)));
    }
    Ok(value)
}

const BYTE_UNITS: [(&str, u64); 3] = [("TB", 1 << 40), ("GB", 1 << 30), ("MB", 1 << 20)];

fn bytes(text: &str) -> Result<u64, String> {
    let wrong = || format!("expected a whole number and one of MB, GB, TB, such as \"10GB\", found {text:?}");
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().ok().filter(|number| *number > 0).ok_or_else(wrong)?;
    let size = BYTE_UNITS.iter().find(|(name, _)| *name == unit.trim_start()).ok_or_else(wrong)?.1;
    number.checked_mul(size).filter(|bytes| *bytes <= 1 << 50).ok_or_else(wrong)
}

/// As it would be written in the file: the largest unit that leaves a whole number.
pub(super) fn format_bytes(bytes: u64) -> String {
    let unit = BYTE_UNITS.iter().find(|(_, size)| bytes.is_multiple_of(*size)).unwrap_or(&BYTE_UNITS[2]);
    format!("{}{}", bytes / unit.1, unit.0)
}

/// As it would be written in the file: the largest unit that leaves a whole number.
pub(super) fn format_duration(duration: Duration) -> String {
    let milliseconds = duration.as_millis();
    let units = [(3_600_000, "h"), (60_000, "min"), (1000, "s")];
    match units.iter().find(|(size, _)| milliseconds > 0 && milliseconds.is_multiple_of(*size)) {
        Some((size, unit)) => format!("{}{unit}", milliseconds / size),
        None => format!("{milliseconds}ms"),
    }
}

/// One record of pg_hba.conf: its words are PostgreSQL's to judge, but it must be one record, and no `include`.
/// As the catalog spells it: it is compared, not parsed.
fn rule(name: &str) -> Result<String, String> {
    let word = name.strip_suffix('*').unwrap_or(name);
    let fine = !name.is_empty() && word.chars().all(|c| c.is_ascii_lowercase() || "._-".contains(c));
    let why = || {
        format!(
            "expected a rule such as \"admit\", or the beginning of some such as \"takeover.*\", found {name:?}"
        )
    };
    if fine { Ok(name.to_owned()) } else { Err(why()) }
}

fn function(name: &str) -> Result<String, String> {
    let parts: Vec<&str> = name.split('.').collect();
    let fine = parts.len() <= 2 && parts.iter().all(|part| !part.is_empty());
    if !fine || name.chars().any(|c| c.is_control() || c == '(') {
        return Err(format!(
            "expected the name of a function, or schema.name, without arguments, found {name:?}"
        ));
    }
    Ok(name.to_owned())
}

pub(super) fn check_hba_line(line: &str) -> Result<(), String> {
    hba_line(line).map(drop)
}

fn hba_line(line: &str) -> Result<String, String> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let needed = match words.first().copied() {
        Some("local") => 4,
        Some("host" | "hostssl" | "hostnossl" | "hostgssenc" | "hostnogssenc") => 5,
        _ => {
            return Err(format!(
                "{line:?} is no line of pg_hba.conf: it begins with local, host, hostssl, hostnossl, hostgssenc or hostnogssenc"
            ));
        }
    };
    if line.chars().any(|c| c.is_control() && c != '\t') {
        return Err(format!("{line:?}: write one line of pg_hba.conf per string"));
    }
    if words.len() < needed {
        return Err(format!(
            "{line:?} is no line of pg_hba.conf: it needs {needed} words, such as \"local all all peer\" or \
             \"host all all 10.0.0.0/8 scram-sha-256\""
        ));
    }
    Ok(line.trim().to_owned())
}
