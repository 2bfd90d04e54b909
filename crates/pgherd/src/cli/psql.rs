//! `pgherd psql`: psql, connected to the cluster by the proxies of its nodes.
//!
//! What it is: the connection string that an application would use, and psql in the place of this process. What it is not: a
//! client; passwords, TLS and service files are psql's own business.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::Args;

use super::client::Client;
use super::failure::{Exit, Failure};
use super::print;
use super::target::TargetArgs;
use crate::agent::Doors;
use crate::api::{NodeReport, StatusReport};

#[derive(Args, Debug)]
#[command(after_help = "Examples:
  pgherd psql --dir DIR                                   the primary, wherever it is
  pgherd psql --url http://db1:8432 --auto -U app -d shop reads to replicas, writes to the primary
  pgherd psql --dir DIR -- -c 'SELECT 1' -At              psql's own arguments come after --")]
pub struct PsqlArgs {
    /// A replica, by the read-only ports
    #[arg(long, conflicts_with = "auto")]
    read_only: bool,
    /// Each statement where it may go, by the auto ports
    #[arg(long)]
    auto: bool,
    /// The database; psql's default when not given, in a demo postgres
    #[arg(short = 'd', long = "dbname", value_name = "NAME")]
    database: Option<String>,
    /// The role to log in as; psql's default when not given, in a demo postgres
    #[arg(short = 'U', long = "username", value_name = "ROLE")]
    role: Option<String>,
    /// Print the connection string instead
    #[arg(long)]
    print: bool,
    #[command(flatten)]
    target: TargetArgs,
    /// Arguments for psql
    #[arg(last = true, value_name = "ARGS")]
    rest: Vec<String>,
}

pub fn psql(args: &PsqlArgs) -> Result<(), Failure> {
    let report = Client::new(&args.target)?.status()?.report;
    let in_demo = args.target.dir.as_ref().map(|_| "postgres".to_owned());
    let door: fn(&Doors) -> &str = match (args.read_only, args.auto) {
        (true, _) => |doors| &doors.read_only,
        (_, true) => |doors| &doors.auto,
        _ => |doors| &doors.read_write,
    };
    let (database, role) = (args.database.clone().or(in_demo.clone()), args.role.clone().or(in_demo));
    let string = connection_string(&report, door, database.as_deref(), role.as_deref())?;
    if args.print {
        return print(&format!("{string}\n"));
    }
    let program = program()?;
    let error = Command::new(&program).arg(&string).args(&args.rest).exec();
    Err(Failure::new(Exit::General, format!("{} cannot be started", program.display())).why(error))
}

/// libpq's keywords and values: one host each for the nodes that have told where they are reached, those that are well first.
fn connection_string(
    report: &StatusReport,
    door: fn(&Doors) -> &str,
    database: Option<&str>,
    role: Option<&str>,
) -> Result<String, Failure> {
    let mut nodes: Vec<&NodeReport> = report.nodes.iter().filter(|node| node.doors.is_some()).collect();
    nodes.sort_by_key(|node| !node.healthy);
    let addresses: Vec<(&str, &str)> =
        nodes.iter().filter_map(|node| door(node.doors.as_ref()?).rsplit_once(':')).collect();
    if addresses.is_empty() {
        return Err(Failure::new(Exit::Unreachable, "no node has told where its proxy is reached")
            .why("they tell within a second of their start")
            .next("pgherd status"));
    }
    let join = |part: fn(&(&str, &str)) -> String| addresses.iter().map(part).collect::<Vec<_>>().join(",");
    let hosts = join(|(host, _)| host.trim_matches(['[', ']']).to_owned());
    let ports = join(|(_, port)| (*port).to_owned());
    let named = |keyword: &str, value: Option<&str>| {
        // libpq: a value in quotes, with \ before quotes and backslashes.
        let quoted = |value: &str| value.replace('\\', "\\\\").replace('\'', "\\'");
        value.map_or(String::new(), |value| format!(" {keyword}='{}'", quoted(value)))
    };
    Ok(format!("host={hosts} port={ports}{}{}", named("dbname", database), named("user", role)))
}

/// On the PATH, else the newest of Debian's.
fn program() -> Result<PathBuf, Failure> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let on_path = std::env::split_paths(&path).map(|dir| dir.join("psql"));
    let majors = crate::postgres::binaries::MAJORS.rev();
    let debian =
        majors.map(|major| Path::new("/usr/lib/postgresql").join(major.to_string()).join("bin/psql"));
    on_path.chain(debian).find(|program| program.is_file()).ok_or_else(|| {
        Failure::new(Exit::Precondition, "psql is not installed here")
            .why("it is neither on the PATH nor where Debian puts it")
            .next("apt-get install postgresql-client; or pgherd psql --print, for another client")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_doors(hosts: &[(&str, bool)]) -> StatusReport {
        let node = |(host, healthy): &(&str, bool)| {
            let doors = serde_json::json!({
                "http": "", "read_write": format!("{host}:6432"), "read_only": format!("{host}:6433"), "auto": "",
            });
            serde_json::json!({
                "name": host, "role": "replica", "state": "streaming", "sync": true, "healthy": healthy, "doors": doors,
            })
        };
        let nodes: Vec<_> = hosts.iter().map(node).collect();
        let sync = serde_json::json!({ "members": [], "k": 0, "mode": "async" });
        let report =
            serde_json::json!({ "cluster": "shop", "from": "n1", "term": 1, "sync": sync, "nodes": nodes });
        serde_json::from_value(report).unwrap()
    }

    #[test]
    fn all_nodes_are_named_and_those_that_are_well_come_first() {
        let report = with_doors(&[("db1", false), ("10.0.0.2", true), ("[fd00::3]", true)]);
        let string = |door: fn(&Doors) -> &str| connection_string(&report, door, Some("it's"), None).unwrap();
        assert_eq!(
            string(|doors| &doors.read_write),
            r"host=10.0.0.2,fd00::3,db1 port=6432,6432,6432 dbname='it\'s'"
        );
        assert!(string(|doors| &doors.read_only).contains("port=6433,6433,6433"));
        let silent = with_doors(&[]);
        let refused = connection_string(&silent, |doors| &doors.auto, None, None).unwrap_err();
        assert_eq!(refused.exit, Exit::Unreachable);
    }
}
