//! The console's tables of what was counted, by database.

use std::collections::BTreeMap;

use super::averages::Rate;
use super::table::{Table, row};
use super::tables::Scene;
use crate::tally::Tally;

/// What is counted, by the words between `total_` or `avg_` and the end.
const COUNTED: [&str; KINDS] = [
    "server_assignment_count",
    "xact_count",
    "query_count",
    "received",
    "sent",
    "xact_time",
    "query_time",
    "wait_time",
    "client_parse_count",
    "server_parse_count",
    "bind_count",
    "client_login_count",
];
const KINDS: usize = 12;

fn totals(tally: &Tally) -> [u64; KINDS] {
    [
        tally.assignments,
        tally.transactions,
        tally.queries,
        tally.received,
        tally.sent,
        tally.transaction.sum_us,
        tally.query.sum_us,
        tally.wait.sum_us,
        tally.client_parses,
        tally.server_parses,
        tally.binds,
        tally.logins,
    ]
}

impl Scene<'_> {
    fn by_database(&self) -> BTreeMap<&str, Tally> {
        let mut sums: BTreeMap<&str, Tally> = BTreeMap::new();
        for (owner, tally) in &self.report.tallies {
            sums.entry(&owner.database).or_default().merge(tally);
        }
        sums
    }

    pub(super) fn stats(&self) -> Table {
        let total = |name: &str| format!("total_{name}:n");
        let avg = |name: &str| format!("avg_{}:n", if name == "received" { "recv" } else { name });
        let columns = [COUNTED.map(total), COUNTED.map(avg)].concat().join(",");
        self.counted(&format!("database,{columns}"), |tally, rate| [totals(tally), averages(rate)].concat())
    }

    pub(super) fn stats_totals(&self) -> Table {
        self.counted(&bare_columns(), |tally, _| totals(tally).to_vec())
    }

    pub(super) fn stats_averages(&self) -> Table {
        self.counted(&bare_columns(), |_, rate| averages(rate).to_vec())
    }

    /// A row of numbers for each database.
    fn counted(&self, columns: &str, numbers: impl Fn(&Tally, &Rate) -> Vec<u64>) -> Table {
        let mut table = Table::new(columns);
        for (database, tally) in self.by_database() {
            let mut values = row![database];
            let numbers = numbers(&tally, &self.rates.of(database));
            values.extend(numbers.into_iter().map(|number| Some(number.to_string())));
            table.row(values);
        }
        table
    }

    pub(super) fn sums(&self) -> Table {
        let mut table = Table::new("name,value:n");
        let mut whole = Tally::default();
        self.report.tallies.iter().for_each(|(_, tally)| whole.merge(tally));
        let names = COUNTED.into_iter().zip(totals(&whole));
        names.for_each(|(name, total)| table.row(row![format!("total_{name}"), total]));
        table
    }
}

fn bare_columns() -> String {
    let column = |name: &str| match name {
        "received" | "sent" => format!("bytes_{name}:n"),
        other => format!("{other}:n"),
    };
    format!("database,{}", COUNTED.map(column).join(","))
}

fn averages(rate: &Rate) -> [u64; KINDS] {
    let tally = &rate.tally;
    let each = |total: u64, count: u64| total.checked_div(count).unwrap_or_default();
    let mut averages = totals(tally).map(|total| rate.per_second(total));
    averages[5] = each(tally.transaction.sum_us, tally.transactions);
    averages[6] = each(tally.query.sum_us, tally.queries);
    averages
}
