//! The Grafana dashboard and Prometheus' alerting rules of `docs/monitoring`, made from tables and held against the tables of
//! metrics: a metric that has another name or lacks a label fails a test before it fails an operator.

mod alerts;
mod dashboard;
mod promql;

use std::collections::{BTreeMap, BTreeSet};

use clap::CommandFactory;

use super::patroni::{self, metrics};
use super::reference::is_up_to_date;

/// What Prometheus adds to every sample.
const OF_SCRAPE: [&str; 2] = ["instance", "job"];

/// Of a metric: what it is, and its labels.
#[derive(Default)]
struct Known {
    help: String,
    labels: BTreeSet<String>,
}

/// Every name that a sample can have, from the texts themselves.
fn known() -> BTreeMap<String, Known> {
    let text = metrics::text(&patroni::tests::told_of_everything()) + &proxy::metric_families();
    let mut known: BTreeMap<String, Known> = BTreeMap::new();
    let mut help = String::new();
    for line in text.lines() {
        if let Some(head) = line.strip_prefix("# HELP ") {
            let (name, words) = head.split_once(' ').unwrap();
            help = words.to_owned();
            known.insert(name.to_owned(), Known { help: help.clone(), ..Known::default() });
        } else if !line.starts_with('#') {
            let series = line.rsplit_once(' ').unwrap().0;
            let (name, labels) = series.split_once('{').unwrap_or((series, ""));
            let metric = known.entry(name.to_owned()).or_default();
            metric.help.clone_from(&help);
            let labels = labels.trim_end_matches('}').split(',').filter_map(|label| label.split_once('='));
            metric.labels.extend(labels.map(|(label, _)| label.to_owned()));
        }
    }
    // Those that only a proxy with sessions has.
    for name in ["pgherd_proxy_pool_sessions", "pgherd_proxy_pool_servers"] {
        let metric = known.get_mut(name).unwrap();
        metric.labels.extend(["database", "user", "state"].map(str::to_owned));
    }
    known.insert(
        "up".to_owned(),
        Known { help: "1 if the last scrape succeeded.".to_owned(), ..Known::default() },
    );
    known.values_mut().for_each(|metric| metric.labels.extend(OF_SCRAPE.map(str::to_owned)));
    known
}

/// The names are in the tables, with the labels that the expression takes them to have.
fn hold_against(known: &BTreeMap<String, Known>, of: &str, expr: &str) {
    let spoken = promql::read(expr).unwrap_or_else(|error| panic!("{of}: {error}"));
    assert!(!spoken.metrics.is_empty(), "{of}: {expr} has no metric");
    for used in &spoken.metrics {
        let metric = known.get(&used.name);
        let metric = metric.unwrap_or_else(|| panic!("{of}: there is no metric {} ({expr})", used.name));
        for label in used.labels.iter().chain(&spoken.grouped) {
            assert!(metric.labels.contains(label), "{of}: {} has no label {label} ({expr})", used.name);
        }
    }
}

/// Labels that the result of a rule has: those that it is grouped by, or all of its first metric.
fn labels_of_result(known: &BTreeMap<String, Known>, expr: &str) -> BTreeSet<String> {
    let spoken = promql::read(expr).unwrap();
    match expr.split_once(" by (").and_then(|(_, rest)| rest.split_once(')')) {
        Some((labels, _)) => labels.split(", ").map(str::to_owned).collect(),
        None => known[&spoken.metrics[0].name].labels.clone(),
    }
}

#[test]
fn the_alerting_rules_are_up_to_date() {
    is_up_to_date("../monitoring/alerts.yml", &alerts::page());
}

#[test]
fn the_dashboard_for_grafana_is_up_to_date() {
    let known = known();
    is_up_to_date("../monitoring/grafana.json", &dashboard::page(|name| known[name].help.clone()));
}

#[test]
fn panels_show_metrics_that_there_are() {
    let known = known();
    for panel in dashboard::ROWS.iter().flat_map(|row| row.panels) {
        for (expr, legend) in panel.shows {
            hold_against(&known, panel.title, expr);
            let metric = &known[&promql::read(expr).unwrap().metrics[0].name];
            for label in legend.split("{{").skip(1).filter_map(|part| part.split_once("}}")) {
                assert!(metric.labels.contains(label.0), "{}: {legend}", panel.title);
            }
        }
    }
}

#[test]
fn alerts_are_about_metrics_that_there_are_and_say_what_to_type() {
    let known = known();
    let commands = crate::cli::Cli::command();
    let commands: BTreeSet<&str> = commands.get_subcommands().map(clap::Command::get_name).collect();
    let mut names = BTreeSet::new();
    for alert in alerts::GROUPS.iter().flat_map(|group| group.alerts) {
        let alerts::Alert { name, expr, summary, description, .. } = alert;
        assert!(names.insert(name), "{name} is there twice");
        hold_against(&known, name, expr);
        let labels = labels_of_result(&known, expr);
        for text in [summary, description] {
            for part in text.split("$labels.").skip(1) {
                let label = part.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').next().unwrap();
                assert!(labels.contains(label), "{name}: its result has no label {label}");
            }
        }
        let mut typed = description.split("`pgherd ").skip(1).peekable();
        assert!(typed.peek().is_some(), "{name} does not say what to type next");
        for command in typed {
            let word = command.split([' ', '`']).next().unwrap();
            assert!(commands.contains(word), "{name}: there is no pgherd {word}");
        }
    }
}
