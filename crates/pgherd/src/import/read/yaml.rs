//! YAML as Patroni's reader (PyYAML, YAML 1.1) understands it: the last of two equal keys counts, `<<` merges, and plain `on` and `yes` are true.
//!
//! Scalars stay the texts they are; what they mean is each key's matter.

use std::collections::BTreeMap;

use saphyr_parser::{Event, Parser, ScalarStyle};

use super::Unreadable;
use crate::import::plan::Entry;

/// Aliases may repeat a node, and one that repeats others repeats them all: no file of settings has so many.
const NODES_MAX: usize = 20_000;
const DEPTH_MAX: usize = 64;

#[derive(Clone, Debug)]
struct Node {
    line: usize,
    what: What,
}

#[derive(Clone, Debug)]
enum What {
    Scalar(String),
    List(Vec<Node>),
    Map(Vec<(Key, Node)>),
}

#[derive(Clone, Debug)]
struct Key {
    text: String,
    line: usize,
}

/// The leaves of the first document, `prefix` before their paths. An empty list or map is a leaf, too.
pub fn read(file: &str, text: &str, prefix: &[&str]) -> Result<Vec<Entry>, Unreadable> {
    let root =
        Loader { file, parser: Parser::new_from_str(text), anchors: BTreeMap::new(), nodes: 0 }.document()?;
    if !matches!(root.what, What::Map(_)) {
        let why = "expected keys and values at the top".to_owned();
        return Err(Unreadable { file: file.to_owned(), line: root.line, why });
    }
    let mut entries = Vec::new();
    let mut path = prefix.iter().map(|part| (*part).to_owned()).collect();
    flatten(file, &root, root.line, &mut path, &mut entries);
    Ok(entries)
}

struct Loader<'a> {
    file: &'a str,
    parser: Parser<'a, saphyr_parser::StrInput<'a>>,
    anchors: BTreeMap<usize, Node>,
    nodes: usize,
}

impl<'a> Loader<'a> {
    fn document(mut self) -> Result<Node, Unreadable> {
        loop {
            match self.next()? {
                (Event::StreamStart | Event::DocumentStart(_) | Event::Nothing, _) => {}
                (Event::StreamEnd | Event::DocumentEnd, line) => {
                    return Err(self.error(line, "the file is empty"));
                }
                (event, line) => return self.node(event, line, 0),
            }
        }
    }

    fn next(&mut self) -> Result<(Event<'a>, usize), Unreadable> {
        match self.parser.next_event() {
            Some(Ok((event, span))) => Ok((event, span.start.line())),
            Some(Err(error)) => Err(self.error(error.marker().line(), error.info())),
            None => Err(self.error(0, "the file ends in the middle")),
        }
    }

    fn node(&mut self, event: Event<'a>, line: usize, deep: usize) -> Result<Node, Unreadable> {
        self.nodes += 1;
        if self.nodes > NODES_MAX || deep > DEPTH_MAX {
            return Err(self.error(line, "more than a file of settings can hold"));
        }
        let (anchor, what) = match event {
            Event::Alias(id) => {
                let node = self.anchors.get(&id).cloned();
                let node = node.ok_or_else(|| self.error(line, "an alias of something that holds it"))?;
                self.nodes += size(&node);
                return Ok(node);
            }
            Event::Scalar(text, style, anchor, _) => {
                let null =
                    style == ScalarStyle::Plain && matches!(text.as_ref(), "~" | "null" | "Null" | "NULL");
                (anchor, What::Scalar(if null { String::new() } else { text.into_owned() }))
            }
            Event::SequenceStart(anchor, _) => {
                let mut items = Vec::new();
                loop {
                    match self.next()? {
                        (Event::SequenceEnd, _) => break,
                        (event, line) => items.push(self.node(event, line, deep + 1)?),
                    }
                }
                (anchor, What::List(items))
            }
            Event::MappingStart(anchor, _) => (anchor, What::Map(self.map(deep)?)),
            _ => return Err(self.error(line, "expected a value")),
        };
        let node = Node { line, what };
        if anchor > 0 {
            self.anchors.insert(anchor, node.clone());
        }
        Ok(node)
    }

    fn map(&mut self, deep: usize) -> Result<Vec<(Key, Node)>, Unreadable> {
        let (mut pairs, mut merged) = (Vec::<(Key, Node)>::new(), Vec::new());
        loop {
            let (event, line) = self.next()?;
            if event == Event::MappingEnd {
                break;
            }
            let What::Scalar(text) = self.node(event, line, deep + 1)?.what else {
                return Err(self.error(line, "a key that is a list or a map"));
            };
            let (event, at) = self.next()?;
            let value = self.node(event, at, deep + 1)?;
            match (text.as_str(), value.what) {
                ("<<", What::Map(below)) => merged.extend(below),
                ("<<", What::List(items)) => items.into_iter().for_each(|item| {
                    if let What::Map(below) = item.what {
                        merged.extend(below);
                    }
                }),
                (_, what) => {
                    pairs.retain(|(key, _)| key.text != text);
                    pairs.push((Key { text, line }, Node { line: value.line, what }));
                }
            }
        }
        for (key, node) in merged {
            if pairs.iter().all(|(own, _)| own.text != key.text) {
                pairs.push((key, node));
            }
        }
        Ok(pairs)
    }

    fn error(&self, line: usize, why: &str) -> Unreadable {
        Unreadable { file: self.file.to_owned(), line, why: format!("not YAML: {why}") }
    }
}

fn size(node: &Node) -> usize {
    match &node.what {
        What::Scalar(_) => 1,
        What::List(items) => 1 + items.iter().map(size).sum::<usize>(),
        What::Map(pairs) => 1 + pairs.iter().map(|(_, node)| size(node)).sum::<usize>(),
    }
}

/// An entry has the line of its key, or of the item in a list.
fn flatten(file: &str, node: &Node, line: usize, path: &mut Vec<String>, entries: &mut Vec<Entry>) {
    let mut leaf = |value: &str, path: &[String]| {
        entries.push(Entry {
            file: file.to_owned(),
            line,
            path: path.to_vec(),
            value: value.to_owned(),
            section: String::new(),
        });
    };
    match &node.what {
        What::Scalar(text) => leaf(text, path),
        What::List(items) if items.is_empty() => leaf("", path),
        What::Map(pairs) if pairs.is_empty() => leaf("", path),
        What::List(items) => {
            path.push("[]".to_owned());
            items.iter().for_each(|item| flatten(file, item, item.line, path, entries));
            path.pop();
        }
        What::Map(pairs) => {
            for (key, node) in pairs {
                path.push(key.text.clone());
                flatten(file, node, key.line, path, entries);
                path.pop();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(text: &str) -> Vec<String> {
        let entries = read("f", text, &[]).unwrap_or_else(|error| panic!("{error}"));
        entries.iter().map(|entry| format!("{} {}={}", entry.line, entry.key(), entry.value)).collect()
    }

    #[test]
    fn leaves_with_their_lines() {
        let text = "scope: shop\npostgresql:\n  parameters:\n    pg_stat_statements.max: 100\n    \"archive_mode\": 'on'\n  \
                    pg_hba:\n  - local all all peer\n  - host all all 10.0.0.0/8 md5 # c\ntags: {}\nnone: ~\n";
        let expected = [
            "1 scope=shop",
            "4 postgresql.parameters.pg_stat_statements.max=100",
            "5 postgresql.parameters.archive_mode=on",
            "7 postgresql.pg_hba[]=local all all peer",
            "8 postgresql.pg_hba[]=host all all 10.0.0.0/8 md5",
            "9 tags=",
            "10 none=",
        ];
        assert_eq!(told(text), expected);
    }

    #[test]
    fn anchors_merges_and_equal_keys() {
        let text = "a: &x {p: 1, q: 2}\nb:\n  <<: *x\n  q: 3\nb2: *x\nc: 1\nc: 2\n";
        // What an alias repeats has the lines of what it repeats.
        let expected = ["1 a.p=1", "1 a.q=2", "4 b.q=3", "1 b.p=1", "1 b2.p=1", "1 b2.q=2", "7 c=2"];
        assert_eq!(told(text), expected);
    }

    #[test]
    fn what_is_no_yaml_is_named_by_its_line() {
        assert!(read("f", "a: 1\n b: [\n", &[]).unwrap_err().to_string().starts_with("f:"));
        assert_eq!(read("f", "", &[]).unwrap_err().why, "not YAML: the file is empty");
        assert_eq!(read("f", "- a\n", &[]).unwrap_err().why, "expected keys and values at the top");
        let bomb = "a: &a [x,x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b,*b]\n\
                    d: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c,*c]\ne: [*d,*d,*d,*d,*d,*d,*d,*d,*d,*d]\n";
        assert!(read("f", bomb, &[]).unwrap_err().why.contains("more than"));
    }
}
