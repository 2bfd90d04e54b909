//! The command line of the bench.

use crate::load::{Mode, Workload};

pub const USAGE: &str = "\
  next: cargo xtask bench proxy [--versus auto,pgbouncer,pgbouncer-unix,haproxy] [--rounds 5] [--seconds 5] [--clients 1,16,64]
                                [--modes simple,extended,prepared] [--idle-clients 1000] [--strace] [--json]
                                [--storm]   what a storm of SCRAM log-ins does to clients at work
                                [--pool-size 20]   servers of pgherd's and of PgBouncer's pool
                                [--threads 0]   of pgherd's proxy; 0 is its own default
                                [--tls]   with TLS between clients and proxies: pgherd, auto and pgbouncer alone
                                [--also \"NAME PROGRAM {listen} {server} …\"]   another proxy; the ports are put in,
                                and for {socket} the path of the server's socket";

#[derive(Debug)]
pub struct Options {
    pub rounds: usize,
    /// Of each run of pgbench.
    pub seconds: usize,
    pub workloads: Vec<Workload>,
    pub idle_clients: usize,
    /// PostgreSQL's processes beyond the cores bring nothing, so few.
    pub pool_size: usize,
    /// Of pgherd's proxy; 0: as many as it takes itself.
    pub threads: usize,
    pub versus: Vec<String>,
    /// Names and command lines.
    pub also: Vec<(String, String)>,
    /// Count system calls, after the first round's runs; strace slows what it watches, so those runs are not timed.
    pub strace: bool,
    /// Clients encrypt.
    pub tls: bool,
    pub storm: bool,
    pub json: bool,
}

impl Options {
    pub fn parse(arguments: &[String]) -> Result<Options, String> {
        let mut options = Options {
            rounds: 5,
            seconds: 5,
            workloads: Vec::new(),
            idle_clients: 1_000,
            pool_size: 20,
            threads: 0,
            versus: Vec::new(),
            also: Vec::new(),
            strace: false,
            tls: false,
            storm: false,
            json: false,
        };
        let (mut clients, mut modes) = (vec![1, 16, 64], Mode::ALL.to_vec());
        let mut words = arguments.iter();
        while let Some(word) = words.next() {
            match word.as_str() {
                "--json" => options.json = true,
                "--strace" => options.strace = true,
                "--tls" => options.tls = true,
                "--storm" => options.storm = true,
                name => {
                    let value = words.next().cloned().unwrap_or_default();
                    let list = || value.split(',').map(str::trim);
                    match name {
                        "--rounds" => options.rounds = number(&value)?,
                        "--seconds" => options.seconds = number(&value)?,
                        "--idle-clients" => options.idle_clients = number(&value)?,
                        "--pool-size" => options.pool_size = number(&value)?,
                        "--threads" => options.threads = number(&value)?,
                        "--clients" => clients = list().map(number).collect::<Result<_, _>>()?,
                        "--modes" => modes = list().map(Mode::named).collect::<Result<_, _>>()?,
                        "--also" => {
                            let parts =
                                value.split_once(' ').ok_or("--also wants a name and a command line")?;
                            options.also.push((parts.0.to_owned(), parts.1.to_owned()));
                        }
                        "--versus" => options.versus = list().map(known).collect::<Result<_, _>>()?,
                        _ => return Err(format!("unknown argument \"{name}\"")),
                    }
                }
            }
        }
        for mode in modes {
            options.workloads.extend(clients.iter().map(|&clients| Workload { mode, clients }));
        }
        Ok(options)
    }
}

fn number(value: &str) -> Result<usize, String> {
    let parsed = value.parse().ok().filter(|&number: &usize| number > 0);
    parsed.ok_or_else(|| format!("\"{value}\" is no number above 0"))
}

fn known(name: &str) -> Result<String, String> {
    let there = ["auto", "pgbouncer", "pgbouncer-unix", "haproxy"].contains(&name);
    there
        .then(|| name.to_owned())
        .ok_or_else(|| format!("\"{name}\": there are auto, pgbouncer, pgbouncer-unix and haproxy"))
}
