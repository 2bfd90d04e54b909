//! Who must have come before whom, and whether anybody came before itself.
//!
//! Three kinds of edges between committed transactions, read off the lists: *ww* (appended right after), *wr* (read a
//! list that ends with the other's value), *rw* (read a list that lacks the other's value, which comes next). A cycle
//! is an anomaly of Adya's; the strongly connected components (Tarjan) say where to look for one.

use std::collections::VecDeque;

use super::lists::Book;
use super::{Class, Report};
use crate::history::{Key, Level, Op, Outcome, Port};

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Kind {
    Ww,
    Wr,
    Rw,
}

#[derive(Clone, Copy, Debug)]
struct Edge {
    to: usize,
    kind: Kind,
    key: Key,
}

/// Edges from which a cycle is looked for in one component. Any edge inside lies on some cycle, so the cap can only make
/// a G-single be told as G2, which are violations alike; READ COMMITTED has components of thousands, where it saves minutes.
const STARTS_MAX: usize = 500;

/// By transaction.
type Graph = Vec<Vec<Edge>>;

pub fn check(book: &Book<'_>, level: Level, report: &mut Report) {
    let graph = graph(book, level);
    // From the narrowest set of edges to all: a component that one set explains is not told again with the next.
    for (kind, class) in [(Kind::Ww, Class::G0), (Kind::Wr, Class::G1c)] {
        for component in components(&graph, kind) {
            let cycle = find(&graph, &component, kind, kind);
            if let Some(cycle) = cycle {
                report.add(class, Some(level), words(book, &cycle));
            }
        }
    }
    for component in components(&graph, Kind::Rw) {
        if let Some(cycle) = find(&graph, &component, Kind::Rw, Kind::Wr) {
            report.add(Class::GSingle, Some(level), words(book, &cycle));
        } else if let Some(cycle) = find(&graph, &component, Kind::Rw, Kind::Rw) {
            report.add(Class::G2, Some(level), words(book, &cycle));
        }
    }
}

fn graph(book: &Book<'_>, level: Level) -> Graph {
    let mut graph: Graph = vec![Vec::new(); book.history.transactions.len()];
    let mut add = |from: Option<usize>, to: Option<usize>, kind, key| {
        if let (Some(from), Some(to)) = (from, to)
            && from != to
        {
            graph[from].push(Edge { to, kind, key });
        }
    };
    for ((_, key), order) in book.orders().filter(|((of, _), _)| *of == level) {
        for pair in order.windows(2) {
            add(book.writer(pair[0]), book.writer(pair[1]), Kind::Ww, key);
        }
    }
    let readings = book.readings(&[Port::ReadWrite]).filter(|reading| reading.place.0 == level);
    for reading in readings.filter(|reading| committed(book, reading.transaction)) {
        let (reader, key) = (Some(reading.transaction), reading.place.1);
        let order = book.order(reading.place);
        if !order.starts_with(reading.values) {
            continue; // Told already, and it has no place in the order.
        }
        add(reading.values.last().and_then(|value| book.writer(*value)), reader, Kind::Wr, key);
        add(reader, order.get(reading.values.len()).and_then(|value| book.writer(*value)), Kind::Rw, key);
    }
    graph
}

/// Acknowledged, or in doubt and seen to have taken effect.
fn committed(book: &Book<'_>, index: usize) -> bool {
    let transaction = book.transaction(index);
    let seen = |op: &Op| match op {
        Op::Append(key, value) => book.order((transaction.origin.level, *key)).contains(value),
        Op::Read(..) => false,
    };
    match transaction.outcome {
        Outcome::Ok => true,
        Outcome::Info => transaction.ops.iter().any(seen),
        Outcome::Fail => false,
    }
}

/// A short cycle in the component that has an edge of kind `first` and otherwise edges up to `others`.
fn find(graph: &Graph, component: &[usize], first: Kind, others: Kind) -> Option<Vec<(usize, Edge)>> {
    let inside = |node: usize| component.binary_search(&node).is_ok();
    let starts = component.iter().flat_map(|&from| {
        graph[from].iter().filter(|edge| edge.kind == first).map(move |edge| (from, *edge))
    });
    let starts = starts.filter(|(_, edge)| inside(edge.to)).take(STARTS_MAX);
    let cycles = starts.filter_map(|(from, edge)| {
        let mut cycle = vec![(from, edge)];
        cycle.extend(path(graph, edge.to, from, others, &inside)?);
        Some(cycle)
    });
    cycles.min_by_key(Vec::len)
}

/// Breadth first.
fn path(
    graph: &Graph,
    from: usize,
    to: usize,
    up_to: Kind,
    inside: &impl Fn(usize) -> bool,
) -> Option<Vec<(usize, Edge)>> {
    let mut came: std::collections::HashMap<usize, (usize, Edge)> = std::collections::HashMap::new();
    let mut queue = VecDeque::from([from]);
    while let Some(node) = queue.pop_front() {
        if node == to {
            let mut steps = Vec::new();
            let mut at = to;
            while at != from {
                let (before, edge) = came[&at];
                steps.push((before, edge));
                at = before;
            }
            steps.reverse();
            return Some(steps);
        }
        for edge in graph[node].iter().filter(|edge| edge.kind <= up_to && inside(edge.to)) {
            if edge.to != from && !came.contains_key(&edge.to) {
                came.insert(edge.to, (node, *edge));
                queue.push_back(edge.to);
            }
        }
    }
    None
}

/// Strongly connected components of more than one node over edges up to `up_to`, each sorted. Tarjan's algorithm with
/// a stack of its own: histories are deeper than a thread's.
fn components(graph: &Graph, up_to: Kind) -> Vec<Vec<usize>> {
    const UNSEEN: usize = usize::MAX;
    let count = graph.len();
    let (mut number, mut low) = (vec![UNSEEN; count], vec![0; count]);
    let (mut stacked, mut stack) = (vec![false; count], Vec::new());
    let (mut next, mut found) = (0, Vec::new());
    for root in 0..count {
        if number[root] != UNSEEN {
            continue;
        }
        let mut work = vec![(root, 0)];
        while let Some((node, place)) = work.pop() {
            if place == 0 {
                number[node] = next;
                low[node] = next;
                next += 1;
                stack.push(node);
                stacked[node] = true;
            }
            if let Some(edge) = graph[node].get(place) {
                work.push((node, place + 1));
                if edge.kind <= up_to && number[edge.to] == UNSEEN {
                    work.push((edge.to, 0));
                } else if edge.kind <= up_to && stacked[edge.to] {
                    low[node] = low[node].min(number[edge.to]);
                }
                continue;
            }
            if let Some(&(parent, _)) = work.last() {
                low[parent] = low[parent].min(low[node]);
            }
            if low[node] == number[node] {
                let start = stack.iter().rposition(|&other| other == node).unwrap_or(0);
                let mut component = stack.split_off(start);
                component.iter().for_each(|&member| stacked[member] = false);
                if component.len() > 1 {
                    component.sort_unstable();
                    found.push(component);
                }
            }
        }
    }
    found
}

fn words(book: &Book<'_>, cycle: &[(usize, Edge)]) -> String {
    let mut text = String::new();
    for (from, edge) in cycle {
        text.push_str(&format!("{} -{:?} on list {}-> ", book.name(*from), edge.kind, edge.key));
    }
    text.push_str(&format!("T{}", cycle[0].0));
    text
}
