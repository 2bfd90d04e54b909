//! The lists themselves: who wrote what, in which order, and whether every read fits that order.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::{Class, Report};
use crate::history::{History, Key, Level, Op, Outcome, Port, Transaction, Value};

/// One list.
pub type Place = (Level, Key);

/// A history with its indexes.
pub struct Book<'a> {
    pub history: &'a History,
    /// The transaction that appended a value, and where.
    writers: HashMap<Value, (usize, Place)>,
    /// Each list's one true order: what the primary holds at the end, else the longest that was read.
    orders: BTreeMap<Place, Vec<Value>>,
    ended: bool,
}

/// A read that was answered.
pub struct Reading<'a> {
    pub transaction: usize,
    pub place: Place,
    pub values: &'a [Value],
    /// Number of the operation in its transaction.
    pub op: usize,
}

impl<'a> Book<'a> {
    pub fn new(history: &'a History) -> Book<'a> {
        let mut writers = HashMap::new();
        for (index, transaction) in history.transactions.iter().enumerate() {
            for op in &transaction.ops {
                if let Op::Append(key, value) = op {
                    writers.insert(*value, (index, (transaction.origin.level, *key)));
                }
            }
        }
        let mut book = Book { history, writers, orders: BTreeMap::new(), ended: false };
        book.orders = book.find_orders();
        book.ended = book.primary_lists().next().is_some();
        book
    }

    fn primary_lists(&self) -> impl Iterator<Item = (Place, &'a Vec<Value>)> + use<'a> {
        let primary = self.history.finals.iter().find(|holding| holding.primary);
        primary.into_iter().flat_map(|holding| {
            let of =
                move |level| holding.lists(level).iter().map(move |(key, values)| ((level, *key), values));
            Level::ALL.into_iter().flat_map(of)
        })
    }

    fn find_orders(&self) -> BTreeMap<Place, Vec<Value>> {
        let mut orders: BTreeMap<Place, Vec<Value>> = BTreeMap::new();
        let held: BTreeMap<Place, &Vec<Value>> = self.primary_lists().collect();
        if held.is_empty() {
            for reading in self.readings(&[Port::ReadWrite, Port::ReadOnly]) {
                let order = orders.entry(reading.place).or_default();
                if reading.values.len() > order.len() {
                    *order = reading.values.to_vec();
                }
            }
        } else {
            orders.extend(held.into_iter().map(|(place, values)| (place, values.clone())));
        }
        orders
    }

    pub fn orders(&self) -> impl Iterator<Item = (Place, &[Value])> {
        self.orders.iter().map(|(place, values)| (*place, values.as_slice()))
    }

    pub fn order(&self, place: Place) -> &[Value] {
        self.orders.get(&place).map_or(&[], Vec::as_slice)
    }

    pub fn writer(&self, value: Value) -> Option<usize> {
        self.writers.get(&value).map(|(transaction, _)| *transaction)
    }

    pub fn transaction(&self, index: usize) -> &'a Transaction {
        &self.history.transactions[index]
    }

    /// Every answered read of a transaction that did not fail, through these ports.
    pub fn readings(&self, ports: &[Port]) -> impl Iterator<Item = Reading<'a>> + use<'a> {
        let ports = ports.to_vec();
        let wanted = move |transaction: &Transaction| {
            transaction.outcome != Outcome::Fail && ports.contains(&transaction.origin.port)
        };
        let all = self.history.transactions.iter().enumerate();
        all.filter(move |(_, transaction)| wanted(transaction)).flat_map(|(index, transaction)| {
            let level = transaction.origin.level;
            transaction.ops.iter().enumerate().filter_map(move |(op, operation)| match operation {
                Op::Read(key, Some(values)) => {
                    Some(Reading { transaction: index, place: (level, *key), values, op })
                }
                _ => None,
            })
        })
    }

    /// For people: `T12 through n1 at 3.204 s`.
    pub fn name(&self, index: usize) -> String {
        let Transaction { origin, invoked, .. } = self.transaction(index);
        format!("T{index} (through {}, at {:.3} s)", origin.through, *invoked as f64 / 1e6)
    }

    pub fn check(&self, report: &mut Report) {
        self.acknowledged_is_there(report);
        for ((level, key), values) in self.orders() {
            self.values_are_legitimate(report, level, key, values, "at the end");
        }
        for holding in self.history.finals.iter().filter(|holding| !holding.primary) {
            self.same_as_the_primary(report, holding);
        }
        for reading in self.readings(&[Port::ReadWrite, Port::ReadOnly]) {
            self.reading_fits(report, &reading);
        }
    }

    fn acknowledged_is_there(&self, report: &mut Report) {
        for holding in &self.history.finals {
            let present: BTreeSet<Value> = Level::ALL
                .iter()
                .flat_map(|level| holding.lists(*level).values().flatten().copied())
                .collect();
            let committed = self.history.transactions.iter().enumerate();
            for (index, transaction) in committed.filter(|(_, t)| t.outcome == Outcome::Ok) {
                for op in &transaction.ops {
                    if let Op::Append(key, value) = op
                        && !present.contains(value)
                    {
                        let text = format!(
                            "{value} of list {key} ({:?}), acknowledged to {}, is not on {}",
                            transaction.origin.level,
                            self.name(index),
                            holding.node
                        );
                        report.add(Class::LostAcknowledged, None, text);
                    }
                }
            }
            let samples: BTreeSet<i64> = holding.samples.iter().copied().collect();
            for sample in self.history.samples.iter().filter(|sample| !samples.contains(&sample.id)) {
                let text = format!(
                    "sample {} that {} acknowledged directly is not on {}",
                    sample.id, sample.node, holding.node
                );
                report.add(Class::LostAcknowledged, None, text);
            }
        }
    }

    fn same_as_the_primary(&self, report: &mut Report, holding: &crate::history::Holding) {
        let Some(primary) = self.history.finals.iter().find(|holding| holding.primary) else { return };
        for level in Level::ALL {
            let (theirs, ours) = (primary.lists(level), holding.lists(level));
            let keys: BTreeSet<&Key> = theirs.keys().chain(ours.keys()).collect();
            for key in keys.into_iter().filter(|key| theirs.get(key) != ours.get(key)) {
                let text = format!(
                    "list {key} ({level:?}): {} has {:?}, {} has {:?}",
                    primary.node,
                    theirs.get(key),
                    holding.node,
                    ours.get(key)
                );
                report.add(Class::NodesDiffer, None, text);
            }
        }
    }

    fn values_are_legitimate(
        &self,
        report: &mut Report,
        level: Level,
        key: Key,
        values: &[Value],
        place: &str,
    ) {
        let mut seen = BTreeSet::new();
        for value in values {
            let text = |what: &str| format!("list {key} ({level:?}) has {value} {place}, {what}");
            if !seen.insert(*value) {
                report.add(Class::Duplicate, None, text("a second time"));
            }
            match self.writers.get(value) {
                Some((writer, home)) if *home == (level, key) => {
                    if self.transaction(*writer).outcome == Outcome::Fail {
                        let what = format!("which was aborted: {}", self.name(*writer));
                        report.add(Class::AbortedVisible, None, text(&what));
                    }
                }
                _ => report.add(Class::Phantom, None, text("which nobody appended there")),
            }
        }
    }

    fn reading_fits(&self, report: &mut Report, reading: &Reading<'_>) {
        let Reading { transaction, place: (level, key), .. } = *reading;
        let order = self.order(reading.place);
        let values = self.of_others_or_committed(reading);
        let reader = self.name(transaction);
        if !order.starts_with(values) {
            self.values_are_legitimate(report, level, key, values, &format!("as {reader} read it"));
            let through_primary = self.transaction(transaction).origin.port == Port::ReadWrite;
            let vanished = self.ended && values.iter().any(|value| !order.contains(value));
            let class = match (vanished, through_primary) {
                (true, true) => Class::LostRead,
                (true, false) => Class::ReplicaLostRead,
                (false, _) => Class::OrderContradiction,
            };
            let text = format!("{reader} read list {key} ({level:?}) as {values:?}, its order is {order:?}");
            report.add(class, None, text);
        }
        self.no_intermediate(report, reading);
        self.own_appends_are_seen(report, reading);
    }

    /// What was read, without the reader's own appends when its outcome was never told and it turns out to have been rolled
    /// back: nobody else has seen these.
    fn of_others_or_committed<'b>(&self, reading: &Reading<'b>) -> &'b [Value] {
        let own = self.own_before(reading);
        let doubtful = self.transaction(reading.transaction).outcome == Outcome::Info;
        let order = self.order(reading.place);
        match reading.values.strip_suffix(own.as_slice()) {
            Some(others) if doubtful && own.iter().all(|value| !order.contains(value)) => others,
            _ => reading.values,
        }
    }

    /// What the reader had appended to the list before it read.
    fn own_before(&self, reading: &Reading<'_>) -> Vec<Value> {
        let before = &self.transaction(reading.transaction).ops[..reading.op];
        let own = before.iter().filter_map(|op| match op {
            Op::Append(to, value) if *to == reading.place.1 => Some(*value),
            _ => None,
        });
        own.collect()
    }

    fn no_intermediate(&self, report: &mut Report, reading: &Reading<'_>) {
        let Some(last) = reading.values.last() else { return };
        let Some((writer, home)) = self.writers.get(last).copied() else { return };
        // A value in a list of another is a phantom, and told as one.
        if writer == reading.transaction || home != reading.place {
            return;
        }
        let key = reading.place.1;
        let mut appended = self.transaction(writer).ops.iter().filter_map(|op| match op {
            Op::Append(to, value) if *to == key => Some(*value),
            _ => None,
        });
        if appended.next_back().is_some_and(|final_one| final_one != *last) {
            let text = format!(
                "{} saw list {key} end with {last}, in the middle of {}",
                self.name(reading.transaction),
                self.name(writer)
            );
            report.add(Class::IntermediateRead, None, text);
        }
    }

    fn own_appends_are_seen(&self, report: &mut Report, reading: &Reading<'_>) {
        let key = reading.place.1;
        let own = self.own_before(reading);
        // The row is locked from the first append on, so they stand together at the end.
        if !reading.values.ends_with(&own) {
            let text = format!(
                "{} appended {own:?} to list {key} and then read {:?}",
                self.name(reading.transaction),
                reading.values
            );
            report.add(Class::Internal, None, text);
        }
    }
}
