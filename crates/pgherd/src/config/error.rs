//! What users read when the configuration is wrong.

use std::fmt;
use std::io;
use std::path::PathBuf;

/// Why there is no configuration. `Display` is the whole message for the user.
#[derive(Debug)]
pub enum ConfigError {
    Read { path: PathBuf, source: io::Error },
    Invalid { file: String, problems: Vec<Problem> },
}

/// One thing that is wrong.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Problem {
    pub place: Place,
    pub text: String,
}

/// Where a value or a problem comes from; ordered as problems are shown.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Place {
    /// One-based; the column counts characters.
    Line {
        line: usize,
        column: usize,
    },
    /// Of the cluster's configuration; as above.
    Cluster {
        line: usize,
        column: usize,
    },
    Environment(String),
    /// The file as a whole: something is missing, or a default does not fit.
    File,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ConfigError::Read { path, source } => {
                write!(f, "cannot read the configuration {}: {source}", path.display())
            }
            ConfigError::Invalid { file, problems } => {
                let lines: Vec<String> = problems.iter().map(|problem| problem.line(file)).collect();
                match lines.as_slice() {
                    [line] => f.write_str(line),
                    lines => write!(f, "{} problems:\n  {}", lines.len(), lines.join("\n  ")),
                }
            }
        }
    }
}

impl std::error::Error for ConfigError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        None // `Display` has told it.
    }
}

impl Problem {
    fn line(&self, file: &str) -> String {
        let Problem { place, text } = self;
        match place {
            Place::Line { line, column } => format!("{file}:{line}:{column}: {text}"),
            Place::Cluster { line, column } => format!("the cluster's configuration:{line}:{column}: {text}"),
            Place::Environment(variable) => format!("environment variable {variable}: {text}"),
            Place::File => format!("{file}: {text}"),
        }
    }
}
