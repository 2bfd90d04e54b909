//! What a run says: kept whole for one seed, not even formatted for thousands.

use std::fmt::Write;

/// What to keep.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Detail {
    Nothing,
    Decisions,
    Messages,
}

pub struct Trace {
    detail: Detail,
    text: String,
}

impl Trace {
    pub fn new(detail: Detail) -> Trace {
        Trace { detail, text: String::new() }
    }

    pub fn wants(&self, detail: Detail) -> bool {
        self.detail >= detail
    }

    /// One line: virtual seconds, who, what.
    pub fn line(&mut self, now_us: u64, who: &str, what: std::fmt::Arguments<'_>) {
        // Writing to a String cannot fail.
        let _ = writeln!(self.text, "{:>10.3}  {who:<6} {what}", now_us as f64 / 1e6);
    }

    pub fn into_text(self) -> String {
        self.text
    }
}
