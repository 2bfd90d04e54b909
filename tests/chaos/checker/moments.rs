//! What real time adds: the test has one monotonic clock, so "acknowledged before it began" is a fact.

use std::collections::HashMap;

use super::lists::Book;
use super::{Class, Report};
use crate::history::{Key, Level, Moment, Outcome, Port, Sample, Value};

pub fn check(book: &Book<'_>, report: &mut Report) {
    let acknowledged: HashMap<(Level, Key), Vec<Moment>> =
        book.orders().map(|(place, order)| (place, earliest_from(book, order))).collect();
    appended_in_order(book, &acknowledged, report);
    reads_are_fresh(book, &acknowledged, report);
    replicas_go_forward(book, report);
    one_writer(&book.history.samples, report);
}

/// For each position the earliest acknowledgement of it or anything after it.
fn earliest_from(book: &Book<'_>, order: &[Value]) -> Vec<Moment> {
    let mut earliest: Vec<Moment> = order
        .iter()
        .map(|value| match book.writer(*value).map(|writer| book.transaction(writer)) {
            Some(writer) if writer.outcome == Outcome::Ok => writer.ended,
            _ => Moment::MAX,
        })
        .collect();
    for position in (1..earliest.len()).rev() {
        earliest[position - 1] = earliest[position - 1].min(earliest[position]);
    }
    earliest
}

fn appended_in_order(
    book: &Book<'_>,
    acknowledged: &HashMap<(Level, Key), Vec<Moment>>,
    report: &mut Report,
) {
    for ((level, key), order) in book.orders() {
        let earliest = &acknowledged[&(level, key)];
        for (position, value) in order.iter().enumerate() {
            let Some(writer) = book.writer(*value) else { continue };
            let later = earliest.get(position + 1).copied().unwrap_or(Moment::MAX);
            if later < book.transaction(writer).invoked {
                let text = format!(
                    "{value} of {} stands in list {key} ({level:?}) before what was acknowledged at {:.3} s",
                    book.name(writer),
                    later as f64 / 1e6
                );
                report.add(Class::AppendOrder, None, text);
            }
        }
    }
}

fn reads_are_fresh(book: &Book<'_>, acknowledged: &HashMap<(Level, Key), Vec<Moment>>, report: &mut Report) {
    for reading in book.readings(&[Port::ReadWrite]) {
        let transaction = book.transaction(reading.transaction);
        let earliest = acknowledged.get(&reading.place);
        let missed = earliest.and_then(|earliest| earliest.get(reading.values.len()).copied());
        if transaction.outcome == Outcome::Ok && missed.is_some_and(|missed| missed < transaction.invoked) {
            let text = format!(
                "{} read list {} without {}, acknowledged at {:.3} s",
                book.name(reading.transaction),
                reading.place.1,
                book.order(reading.place)[reading.values.len()],
                missed.unwrap_or_default() as f64 / 1e6
            );
            report.add(Class::StaleRead, None, text);
        }
    }
}

/// The port spreads transactions over the replicas, of which one may be behind the other: each by itself goes forward.
fn replicas_go_forward(book: &Book<'_>, report: &mut Report) {
    let mut seen: HashMap<(u64, Option<&str>, Level, Key), usize> = HashMap::new();
    for reading in book.readings(&[Port::ReadOnly]) {
        let transaction = book.transaction(reading.transaction);
        let (session, server) = (transaction.origin.session, transaction.answered_by.as_deref());
        let before = seen.entry((session, server, reading.place.0, reading.place.1)).or_default();
        if reading.values.len() < *before {
            let text = format!(
                "{} read {} values of list {}, its session had read {before}",
                book.name(reading.transaction),
                reading.values.len(),
                reading.place.1
            );
            report.add(Class::ReplicaWentBack, None, text);
        }
        *before = reading.values.len().max(*before);
    }
}

/// A newer timeline has acknowledged: from now on no question to an older one may be acknowledged (I1).
fn one_writer(samples: &[Sample], report: &mut Report) {
    let (mut by_question, mut by_answer): (Vec<&Sample>, Vec<&Sample>) =
        (samples.iter().collect(), samples.iter().collect());
    by_question.sort_by_key(|sample| sample.invoked);
    by_answer.sort_by_key(|sample| sample.ended);
    let mut answers = by_answer.into_iter().peekable();
    let mut newest: Option<&Sample> = None;
    for sample in by_question {
        while let Some(answer) = answers.next_if(|answer| answer.ended < sample.invoked) {
            if newest.is_none_or(|newest| answer.timeline > newest.timeline) {
                newest = Some(answer);
            }
        }
        if let Some(newer) = newest.filter(|newer| newer.timeline > sample.timeline) {
            let text = format!(
                "{} acknowledged sample {} on timeline {}, asked at {:.3} s, after {} had on timeline {}",
                sample.node,
                sample.id,
                sample.timeline,
                sample.invoked as f64 / 1e6,
                newer.node,
                newer.timeline
            );
            report.add(Class::TwoWriters, None, text);
        }
    }
}
