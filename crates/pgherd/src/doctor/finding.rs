//! What a check has found, as it goes over HTTP and as people read it.

use serde::{Deserialize, Serialize};

/// In the order of how much it matters.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Mark {
    Ok,
    /// It could not be found out here; no guess is made.
    Unknown,
    Warning,
    Error,
}

impl Mark {
    pub fn word(self) -> &'static str {
        match self {
            Mark::Ok => "ok",
            Mark::Unknown => "unknown",
            Mark::Warning => "warning",
            Mark::Error => "error",
        }
    }
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Finding {
    /// Id of the check, a row of [`super::CHECKS`] or [`super::BETWEEN`].
    pub check: String,
    pub mark: Mark,
    /// What was measured, with its unit.
    pub what: String,
    /// Why it matters; of warnings and errors.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// What to type, or to do; of warnings and errors.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

impl Finding {
    fn new(mark: Mark, what: impl Into<String>) -> Finding {
        Finding { check: String::new(), mark, what: what.into(), why: None, next: None }
    }

    pub(super) fn ok(what: impl Into<String>) -> Finding {
        Finding::new(Mark::Ok, what)
    }

    pub(super) fn unknown(what: impl Into<String>) -> Finding {
        Finding::new(Mark::Unknown, what)
    }

    pub(super) fn warning(
        what: impl Into<String>,
        why: impl Into<String>,
        next: impl Into<String>,
    ) -> Finding {
        Finding { why: Some(why.into()), next: Some(next.into()), ..Finding::new(Mark::Warning, what) }
    }

    pub(super) fn error(what: impl Into<String>, why: impl Into<String>, next: impl Into<String>) -> Finding {
        Finding { mark: Mark::Error, ..Finding::warning(what, why, next) }
    }

    pub(super) fn of(self, check: &str) -> Finding {
        Finding { check: check.to_owned(), ..self }
    }

    /// What makes a machine fit for production is not asked of nodes that all share one: that is a demo or a test.
    pub(super) fn unless_shared(self, shared: bool) -> Finding {
        match self.mark {
            Mark::Warning | Mark::Unknown if shared => {
                Finding::ok(format!("{}; not judged, since all nodes share this machine", self.what))
            }
            _ => self,
        }
    }
}

/// Bytes as people read them.
pub(super) fn size(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["kB", "MB", "GB", "TB"];
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if value < 10.0 { format!("{value:.1} {}", UNITS[unit]) } else { format!("{value:.0} {}", UNITS[unit]) }
}

/// Seconds as people read them.
pub(super) fn age(seconds: i64) -> String {
    match seconds {
        ..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} days", seconds / 86_400),
    }
}
