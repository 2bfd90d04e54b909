//! Writes a configuration as a commented file: what differs from its default stands plain, the rest in comments.

use std::fmt::Write;

use super::model::{Config, quote, quote_list};
use super::settings::{Default, SECTIONS, SETTINGS, Setting};
use super::value::Kind;

const COMMENT_WIDTH: usize = 110;

/// The text of a file that [`super::parse`] reads back as the same configuration.
pub fn render(config: &Config) -> String {
    let mut out = String::from("# Configuration of one pgherd node. A line in comments shows a default.\n");
    for section in SECTIONS {
        out.push('\n');
        if section.name == "peers" {
            comment(&mut out, section.doc);
            peers(&mut out, config);
            continue;
        }
        if !section.name.is_empty() {
            comment(&mut out, section.doc);
            push(&mut out, &format!("[{}]", section.name));
        }
        for setting in SETTINGS.iter().filter(|setting| setting.section() == section.name) {
            comment(&mut out, setting.doc);
            push(&mut out, &line(setting, config));
        }
        if section.name == "postgres" {
            parameters(&mut out, config);
        }
    }
    out
}

/// How a default would be written in the file; `None` for one that has no fixed one.
pub(super) fn default_text(setting: &Setting) -> Option<String> {
    match (setting.default, setting.kind) {
        (Default::Value(text), Kind::Port | Kind::Integer { .. } | Kind::Flag) => Some(text.to_owned()),
        (Default::Value(text), _) => Some(quote(text)),
        (Default::List(lines), _) => Some(quote_list(lines.iter().copied())),
        (Default::Required | Default::Derived(_), _) => None,
    }
}

fn line(setting: &Setting, config: &Config) -> String {
    let name = setting.name();
    match (config.written(setting.key), default_text(setting)) {
        (Some(value), default) if Some(&value) != default.as_ref() => format!("{name} = {value}"),
        (_, Some(default)) => {
            format!("{name} = {default}").lines().map(|line| format!("# {line}\n")).collect()
        }
        (_, None) => format!("# {name} = {}", setting.example),
    }
}

fn parameters(out: &mut String, config: &Config) {
    out.push('\n');
    comment(out, "PostgreSQL's own parameters, as in postgresql.conf.");
    push(out, "[postgres.parameters]");
    for (name, value) in &config.postgres.parameters {
        // Quoted: a dot in a bare key would make it a table.
        push(out, &format!("{} = {}", quote(name), quote(value)));
    }
}

fn peers(out: &mut String, config: &Config) {
    for (name, peer) in &config.peers {
        push(out, &format!("[peers.{name}]"));
        push(out, &format!("peer = {}", quote(&peer.peer)));
        if let Some(postgres) = &peer.postgres {
            push(out, &format!("postgres = {}", quote(postgres)));
        }
        push(out, &format!("kind = {}", quote(peer.kind.as_str())));
    }
}

fn comment(out: &mut String, text: &str) {
    let mut line = String::from("#");
    for word in text.split_whitespace() {
        if line.chars().count() + 1 + word.chars().count() > COMMENT_WIDTH {
            push(out, &line);
            line = String::from("#");
        }
        // Writing to a String cannot fail.
        let _ = write!(line, " {word}");
    }
    if line.len() > 1 {
        push(out, &line);
    }
}

fn push(out: &mut String, text: &str) {
    out.push_str(text.trim_end());
    out.push('\n');
}
