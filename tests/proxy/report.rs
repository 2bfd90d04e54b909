//! The tables of a run, for people, and the same as JSON.

use std::fmt::Write as _;

use anyhow::Result;
use serde::Serialize;

use crate::contender::Contender;
use crate::options::Options;

/// Everything of one call of the bench.
#[derive(Serialize)]
pub struct Report {
    pub command: String,
    pub machine: String,
    pub contenders: Vec<(String, String)>,
    pub rounds: Vec<Round>,
    pub idle: Vec<Idle>,
    pub storms: Vec<Storm>,
    pub left_out: Vec<String>,
}

/// One run of pgbench.
#[derive(Serialize)]
pub struct Round {
    pub contender: String,
    pub workload: String,
    pub transactions_per_second: f64,
    pub p50_us: u64,
    pub p99_us: u64,
    pub p999_us: u64,
    /// Of the proxy alone; none for a direct connection.
    pub proxy_cpu_s_per_thousand: Option<f64>,
    pub server_cpu_s_per_thousand: f64,
    /// Of the proxy, for each transaction, counted in a run of its own.
    pub system_calls: Option<f64>,
}

#[derive(Serialize)]
pub struct Idle {
    pub contender: String,
    pub clients: usize,
    pub bytes_per_client: f64,
}

/// Clients at work, quiet and while others log in.
#[derive(Serialize)]
pub struct Storm {
    pub contender: String,
    pub log_ins_per_second: f64,
    pub quiet_p99_us: u64,
    pub p99_us: u64,
    pub quiet_per_second: f64,
    pub per_second: f64,
}

impl Storm {
    pub fn line(&self) -> String {
        format!(
            "storm  {:<17} {:>6.0} log-ins a second; p99 {} µs, before {} µs; {:.0} tps, before {:.0}",
            self.contender,
            self.log_ins_per_second,
            self.p99_us,
            self.quiet_p99_us,
            self.per_second,
            self.quiet_per_second
        )
    }
}

impl Round {
    pub fn line(&self) -> String {
        let cpu = self.proxy_cpu_s_per_thousand.map_or_else(|| "-".to_owned(), |cpu| format!("{cpu:.4}"));
        format!(
            "{:<22} {:<10} {:>8.0} tps  p50 {:>6} µs  p99 {:>6} µs  p99.9 {:>6} µs  proxy {cpu} s, PostgreSQL {:.4} s per 1,000",
            self.workload,
            self.contender,
            self.transactions_per_second,
            self.p50_us,
            self.p99_us,
            self.p999_us,
            self.server_cpu_s_per_thousand
        )
    }
}

impl Report {
    pub fn new(arguments: &[String], options: &Options, contenders: &[Contender]) -> Result<Report> {
        let refused = contenders.iter().filter_map(|contender| Some((&contender.name, contender.refuses?)));
        let mut left_out: Vec<String> =
            refused.map(|(name, (mode, why))| format!("{name}: {}: {why}", mode.name())).collect();
        for (contender, workload) in
            contenders.iter().flat_map(|c| options.workloads.iter().map(move |w| (c, w)))
        {
            if workload.clients > contender.clients_max {
                left_out.push(format!("{}: {}: a server for each client", contender.name, workload.name()));
            }
        }
        Ok(Report {
            command: format!("cargo xtask bench proxy {}", arguments.join(" ")).trim_end().to_owned(),
            machine: tests::bench::machine_line()?,
            contenders: contenders
                .iter()
                .map(|contender| (contender.name.clone(), contender.description.clone()))
                .collect(),
            rounds: Vec::new(),
            idle: Vec::new(),
            storms: Vec::new(),
            left_out,
        })
    }

    pub fn markdown(&self) -> String {
        let mut text = format!("# What a proxy costs\n\nMade by `{}`.\n\n{}\n\n", self.command, self.machine);
        for (name, description) in &self.contenders {
            let _ = writeln!(text, "- **{name}**: {description}");
        }
        for left_out in &self.left_out {
            let _ = writeln!(text, "- LEFT OUT: {left_out}");
        }
        text.push_str(
            "\npgbench -S. Medians over the rounds. CPU is user and system seconds per 1,000 transactions.\n\n\
             | workload | proxy | tps | p50 µs | p99 µs | p99.9 µs | proxy CPU | PostgreSQL CPU | system calls |\n\
             |---|---|---|---|---|---|---|---|---|\n",
        );
        let mut told: Vec<(&str, &str)> = Vec::new();
        for round in &self.rounds {
            let row = (round.workload.as_str(), round.contender.as_str());
            if !told.contains(&row) {
                told.push(row);
                let _ = writeln!(text, "{}", self.row(row));
            }
        }
        text.push_str("\n| idle clients | proxy | bytes per client |\n|---|---|---|\n");
        for idle in &self.idle {
            let _ =
                writeln!(text, "| {} | {} | {:.0} |", idle.clients, idle.contender, idle.bytes_per_client);
        }
        if !self.storms.is_empty() {
            text.push_str(
                "\n| storm: proxy | log-ins a second | p99 µs | quiet | tps | quiet |\n|---|---|---|---|---|---|\n",
            );
        }
        for storm in &self.storms {
            let _ = writeln!(
                text,
                "| {} | {:.0} | {} | {} | {:.0} | {:.0} |",
                storm.contender,
                storm.log_ins_per_second,
                storm.p99_us,
                storm.quiet_p99_us,
                storm.per_second,
                storm.quiet_per_second
            );
        }
        text
    }

    fn row(&self, (workload, contender): (&str, &str)) -> String {
        let rounds =
            || self.rounds.iter().filter(|round| round.workload == workload && round.contender == contender);
        let of = |figure: fn(&Round) -> Option<f64>| median(rounds().filter_map(figure).collect());
        let shown = |figure: Option<f64>, digits: usize| {
            figure.map_or_else(|| "-".to_owned(), |figure| format!("{figure:.digits$}"))
        };
        format!(
            "| {workload} | {contender} | {} | {} | {} | {} | {} | {} | {} |",
            shown(of(|round| Some(round.transactions_per_second)), 0),
            shown(of(|round| Some(round.p50_us as f64)), 0),
            shown(of(|round| Some(round.p99_us as f64)), 0),
            shown(of(|round| Some(round.p999_us as f64)), 0),
            shown(of(|round| round.proxy_cpu_s_per_thousand), 4),
            shown(of(|round| Some(round.server_cpu_s_per_thousand)), 4),
            shown(of(|round| round.system_calls), 2)
        )
    }
}

fn median(mut figures: Vec<f64>) -> Option<f64> {
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied()
}
