//! Logging: readable lines on a terminal, one JSON object a line anywhere else.
//!
//! Everything goes to standard error, so that standard output stays free for what a command prints. `PGHERD_LOG`
//! sets the level, as one word (`debug`) or per part (`info,pgherd::peer=trace`). Events that users rely on
//! (takeovers, fencing) are written to the node's event file by the agent; logs are not that record.

use std::io::{self, IsTerminal};

use thiserror::Error;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::util::SubscriberInitExt;

/// Environment variable that holds the filter.
pub const LEVEL_VARIABLE: &str = "PGHERD_LOG";
const LEVEL_DEFAULT: &str = "info";

#[derive(Debug, Error)]
pub enum TelemetryError {
    #[error(
        "{LEVEL_VARIABLE}={value:?} is no log filter: {reason}\n  \
         set it to error, warn, info, debug or trace, or to a list such as \"info,pgherd::peer=debug\""
    )]
    Filter { value: String, reason: String },
    #[error("logging is already set up in this process")]
    Twice,
}

/// Sets the process up to log. To be called once, by `main`.
pub fn init() -> Result<(), TelemetryError> {
    let filter = filter(std::env::var(LEVEL_VARIABLE).ok().as_deref())?;
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    // The subscriber tells on stderr that stderr cannot be written, and that panics in whoever wanted to log: on a disk
    // that is full the lines are lost, and nothing else.
    let lines = lines.log_internal_errors(false);
    let set = if io::stderr().is_terminal() {
        lines.finish().try_init()
    } else {
        lines.with_ansi(false).json().flatten_event(true).finish().try_init()
    };
    set.map_err(|_| TelemetryError::Twice)
}

/// The filter that `value` asks for; an empty or absent one means the default.
fn filter(value: Option<&str>) -> Result<EnvFilter, TelemetryError> {
    let value = value.filter(|v| !v.trim().is_empty()).unwrap_or(LEVEL_DEFAULT);
    let refused = |reason: String| TelemetryError::Filter { value: value.to_owned(), reason };
    // EnvFilter takes any lone word that is no level for the name of a part, and would then log nothing.
    if !value.contains(['=', ',', '['])
        && value.parse::<tracing_subscriber::filter::LevelFilter>().is_err()
        && !value.contains("::")
    {
        return Err(refused("no such level".to_owned()));
    }
    EnvFilter::try_new(value).map_err(|error| refused(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_and_parts_are_understood() {
        for value in
            [None, Some(""), Some("debug"), Some("WARN"), Some("off"), Some("info,pgherd::peer=trace")]
        {
            assert!(filter(value).is_ok(), "{value:?}");
        }
    }

    #[test]
    fn nonsense_is_refused_with_the_way_out() {
        let error = filter(Some("loud")).unwrap_err().to_string();
        assert_eq!(
            error,
            "PGHERD_LOG=\"loud\" is no log filter: no such level\n  \
             set it to error, warn, info, debug or trace, or to a list such as \"info,pgherd::peer=debug\""
        );
        assert!(filter(Some("pgherd=loud")).is_err());
    }
}
