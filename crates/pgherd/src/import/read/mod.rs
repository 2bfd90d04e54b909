//! The sources' formats: from text to keys with their lines. What a key means is not known here.

pub mod assignments;
pub mod haproxy;
pub mod ini;
pub mod yaml;

use std::fmt;

/// Why a file cannot be read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Unreadable {
    pub file: String,
    /// One-based; 0 stands for the whole file.
    pub line: usize,
    pub why: String,
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}: {}", self.file, self.why),
            line => write!(f, "{}:{line}: {}", self.file, self.why),
        }
    }
}

impl std::error::Error for Unreadable {}
