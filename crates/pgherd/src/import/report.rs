//! What has become of each line of the sources, for people and for programs.
//!
//! Invariant: no value of a source is in it but what was written to pgherd's configuration.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Serialize;

/// What becomes of one line.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Fate {
    /// As this, in TOML.
    Taken(String),
    Needless(String),
    /// Why, and what to do instead.
    Absent(String),
    /// Something else of the same source goes first, as it does for the tool itself.
    Overridden(String),
    /// Another source says something else.
    Conflict(String),
    /// The value has no place in pgherd's setting.
    Refused(String),
    Unknown,
}

impl Fate {
    pub fn noted(self, note: &str) -> Fate {
        match self {
            Fate::Taken(text) if !note.is_empty() => Fate::Taken(format!("{text} ({note})")),
            fate => fate,
        }
    }

    /// `(word, text)`.
    fn told(&self) -> (&'static str, &str) {
        match self {
            Fate::Taken(text) => ("taken", text),
            Fate::Needless(text) => ("needless", text),
            Fate::Absent(text) => ("absent", text),
            Fate::Overridden(text) => ("overridden", text),
            Fate::Conflict(text) => ("conflict", text),
            Fate::Refused(text) => ("refused", text),
            Fate::Unknown => ("unknown", "no documented key of this tool"),
        }
    }
}

/// In the order in which they are shown: what needs a look is nearest to the prompt.
const FATES: [(&str, &str); 7] = [
    ("taken", "taken over as"),
    ("needless", "needs nothing in pgherd, because"),
    ("overridden", "has no effect, because"),
    ("absent", "has no counterpart"),
    ("refused", "was not taken over: the value has no place in pgherd"),
    ("conflict", "was not taken over: another file says something else"),
    ("unknown", "unknown key"),
];

#[derive(Serialize, Clone, PartialEq, Eq, Debug)]
pub struct Line {
    /// One-based; 0 stands for the whole file.
    pub line: usize,
    pub key: String,
    /// One of `taken`, `needless`, `overridden`, `absent`, `refused`, `conflict`, `unknown`.
    pub fate: &'static str,
    pub told: String,
}

impl Line {
    pub fn new(line: usize, key: String, fate: &Fate) -> Line {
        let (word, text) = fate.told();
        Line { line, key, fate: word, told: text.to_owned() }
    }
}

#[derive(Serialize, Clone, PartialEq, Eq, Debug)]
pub struct FileReport {
    pub file: String,
    /// The tool's name.
    pub tool: &'static str,
    pub lines: Vec<Line>,
}

/// A setting that no source and no flag gives.
#[derive(Serialize, Clone, PartialEq, Eq, Debug)]
pub struct Missing {
    pub setting: String,
    pub why: String,
    /// The flags that give it.
    pub give: String,
}

/// A setting that is written although no line says so.
#[derive(Serialize, Clone, PartialEq, Eq, Debug)]
pub struct Chosen {
    pub setting: String,
    pub value: String,
    pub why: String,
}

#[derive(Serialize, Clone, PartialEq, Eq, Debug)]
pub struct Report {
    pub files: Vec<FileReport>,
    pub chosen: Vec<Chosen>,
    pub notes: Vec<String>,
    pub missing: Vec<Missing>,
    /// What `pgherd config check` would say, when nothing is missing.
    pub problems: Vec<String>,
    /// The configuration, with what is missing in comments.
    pub toml: String,
}

impl Report {
    pub fn is_complete(&self) -> bool {
        self.missing.is_empty() && self.problems.is_empty()
    }

    /// For people.
    pub fn text(&self) -> String {
        let mut out = String::new();
        for file in &self.files {
            let of = |word: &str| file.lines.iter().filter(|line| line.fate == word).count();
            let counts: Vec<String> = FATES
                .iter()
                .filter(|(word, _)| of(word) > 0)
                .map(|(word, _)| format!("{} {word}", of(word)))
                .collect();
            let _ = writeln!(out, "{} ({}): {}", file.file, file.tool, counts.join(", "));
            for (word, title) in FATES {
                let lines: Vec<&Line> = file.lines.iter().filter(|line| line.fate == word).collect();
                if lines.is_empty() {
                    continue;
                }
                let _ = writeln!(out, "\n  {title}");
                grouped(&mut out, &lines);
            }
            out.push('\n');
        }
        let list = |out: &mut String, title: &str, items: Vec<String>| {
            if !items.is_empty() {
                let _ = writeln!(out, "{title}");
                items.iter().for_each(|item| out.push_str(&format!("  - {item}\n")));
                out.push('\n');
            }
        };
        let chosen = self.chosen.iter().map(|c| format!("{} = {}: {}", c.setting, c.value, c.why)).collect();
        list(&mut out, "Written though no line says so", chosen);
        list(&mut out, "To know", self.notes.clone());
        list(&mut out, "Not right yet", self.problems.clone());
        let missing =
            self.missing.iter().map(|m| format!("{}: {}\n      give it by {}", m.setting, m.why, m.give));
        list(&mut out, "Missing", missing.collect());
        out
    }
}

/// Lines that are told the same stand together, once: two dozen settings of a log need no two dozen answers.
fn grouped(out: &mut String, lines: &[&Line]) {
    let mut seen: BTreeMap<&str, Vec<&Line>> = BTreeMap::new();
    let mut order = Vec::new();
    for line in lines {
        let group = seen.entry(&line.told).or_default();
        if group.is_empty() {
            order.push(line.told.as_str());
        }
        group.push(line);
    }
    for told in order {
        let group = &seen[told];
        let places: Vec<String> = group
            .iter()
            .map(|line| if line.line == 0 { line.key.clone() } else { format!("{} {}", line.line, line.key) })
            .collect();
        match places.as_slice() {
            [place] if group[0].fate == "taken" => out.push_str(&format!("    {place} → {told}\n")),
            places => out.push_str(&format!("    {}\n        {told}\n", places.join(", "))),
        }
    }
}
