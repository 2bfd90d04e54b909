//! `pgherd import`: other tools' configuration files in, pgherd's out, and a report of every line.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};

use super::failure::{Exit, Failure};
use super::{print, print_json};
use crate::config;
use crate::import::{Answers, Format, Member, Report, Source, import as read_all};

#[derive(Args, Debug)]
#[command(after_help = "Examples:
  pgherd import /etc/patroni/config.yml                     says what is missing, and how to give it
  patronictl show-config > dynamic.yml
  pgherd import patroni.yml pgbouncer.ini haproxy.cfg --dynamic dynamic.yml -O n1.toml
  pgherd import repmgr.conf --cluster shop --peer n2=10.0.0.2 --peer n3=10.0.0.3 -O n1.toml

Files of one machine that are given together become one configuration, for the node of that machine. The
configuration goes to standard output or to --output, the report to standard error. Passwords in the files
are neither written nor shown. The exit code is 3 while something is missing or wrong. Certificates for the
nodes come from pgherd config init.")]
pub struct ImportArgs {
    /// patroni.yml, pgbouncer.ini, repmgr.conf, pgpool.conf or haproxy.cfg, all of one machine
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Whose format the files have, where their contents do not say it
    #[arg(long, value_enum)]
    format: Option<FormatArg>,
    /// Patroni's dynamic configuration, as patronictl show-config prints it
    #[arg(long, value_name = "FILE")]
    dynamic: Option<PathBuf>,
    /// Name of the cluster
    #[arg(long, value_name = "NAME")]
    cluster: Option<String>,
    /// Name of the node that the configuration is for
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Where the node keeps its files; NAME stands for the node's name
    #[arg(long, value_name = "DIR", default_value = "/var/lib/pgherd/NAME")]
    node_dir: String,
    /// A node with PostgreSQL, or the name of one that the files know by its host; the port is PostgreSQL's
    #[arg(long = "peer", value_name = "NAME=HOST[:PORT]", value_parser = member)]
    peers: Vec<Member>,
    /// A node that only votes
    #[arg(long = "witness", value_name = "NAME=HOST", value_parser = member)]
    witnesses: Vec<Member>,
    /// There is no other node
    #[arg(long, conflicts_with_all = ["peers", "witnesses"])]
    alone: bool,
    /// A setting of pgherd, whatever the files say
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = assignment)]
    set: Vec<(String, String)>,
    /// The file to write; standard output when not given
    #[arg(long, short = 'O', value_name = "FILE")]
    output: Option<PathBuf>,
    /// Write over a file that is there
    #[arg(long, requires = "output")]
    force: bool,
    /// Print report and configuration as JSON, to standard output
    #[arg(long)]
    json: bool,
}

#[derive(ValueEnum, Clone, Copy, Debug)]
enum FormatArg {
    Patroni,
    Pgbouncer,
    Pgpool,
    Repmgr,
    Haproxy,
}

impl FormatArg {
    fn format(self) -> Format {
        match self {
            FormatArg::Patroni => Format::Patroni,
            FormatArg::Pgbouncer => Format::PgBouncer,
            FormatArg::Pgpool => Format::PgPool,
            FormatArg::Repmgr => Format::Repmgr,
            FormatArg::Haproxy => Format::HaProxy,
        }
    }
}

fn member(text: &str) -> Result<Member, String> {
    let (name, address) = text.split_once('=').ok_or("expected NAME=HOST, such as n2=10.0.0.2")?;
    config::check_name(name)?;
    let (host, port) = match config::split_address(address) {
        Ok((host, port)) => (host, Some(port)),
        Err(_) => (address.trim_matches(['[', ']']).to_owned(), None),
    };
    config::check_address(&config::join_address(&host, 1))?;
    Ok(Member { name: name.to_owned(), host, port })
}

fn assignment(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("expected KEY=VALUE, such as sync.standbys=1")?;
    if key.starts_with("peers.") {
        return Err("nodes are named by --peer NAME=HOST".to_owned());
    }
    config::check_setting(key, value).map_err(|why| format!("{key}: {why}"))?;
    Ok((key.to_owned(), value.to_owned()))
}

pub fn import(args: &ImportArgs) -> Result<(), Failure> {
    for (flag, name) in [("--cluster", &args.cluster), ("--name", &args.name)] {
        if let Some(Err(why)) = name.as_deref().map(config::check_name) {
            return Err(Failure::new(Exit::Usage, format!("{flag}: {why}")));
        }
    }
    if let Some(output) = args.output.as_ref().filter(|output| !args.force && output.exists()) {
        return Err(Failure::new(Exit::Precondition, format!("{} is there already", output.display()))
            .next("--force to write over it, or --output with another name"));
    }
    let sources = args.files.iter().map(|file| source(file, args.format)).collect::<Result<Vec<_>, _>>()?;
    let of_patroni: Vec<&Source> = sources.iter().filter(|source| source.format == Format::Patroni).collect();
    if let [first, second, ..] = of_patroni.as_slice() {
        let what = format!("{} and {} are both Patroni's", first.file, second.file);
        return Err(Failure::new(Exit::Usage, what)
            .why("the files of one machine become the configuration of its node")
            .next("the same command for each node; --dynamic FILE for what patronictl show-config prints"));
    }
    let dynamic =
        args.dynamic.as_ref().map(|file| Ok::<_, Failure>((file.display().to_string(), text(file)?)));
    let dynamic = dynamic.transpose()?;
    if dynamic.is_some() && !sources.iter().any(|source| source.format == Format::Patroni) {
        return Err(Failure::new(Exit::Usage, "--dynamic belongs to Patroni, and no file is Patroni's")
            .next("give Patroni's own file, too"));
    }
    let answers = Answers {
        cluster: args.cluster.clone(),
        name: args.name.clone(),
        node_dir: args.node_dir.clone(),
        peers: args.peers.clone(),
        witnesses: args.witnesses.clone(),
        alone: args.alone,
        set: args.set.clone(),
        dynamic,
    };
    let folders: Vec<&Path> = args.files.iter().filter_map(|file| file.parent()).collect();
    let load = |name: &str| included(name, &folders);
    let report = read_all(&sources, &answers, &load).map_err(|error| {
        Failure::new(Exit::Configuration, error.to_string()).next("mend the file, or leave it out")
    })?;
    write(args, &report)?;
    match report.is_complete() {
        true => Ok(()),
        false => Err(incomplete(args, &report)),
    }
}

fn write(args: &ImportArgs, report: &Report) -> Result<(), Failure> {
    if let Some(output) = &args.output {
        let mut open = fs::OpenOptions::new();
        open.write(true).mode(0o640);
        let open = if args.force { open.create(true).truncate(true) } else { open.create_new(true) };
        let failed = |error: std::io::Error| {
            Failure::new(Exit::General, format!("{} cannot be written", output.display())).why(error)
        };
        open.open(output).and_then(|mut file| file.write_all(report.toml.as_bytes())).map_err(failed)?;
    }
    if args.json {
        return print_json(report);
    }
    // The report goes first, so that on a terminal the configuration stands last.
    std::io::stderr().lock().write_all(report.text().as_bytes())?;
    match &args.output {
        None => print(&report.toml),
        Some(output) if report.is_complete() => {
            let shown = output.display();
            eprintln!("{shown} is written, and right: pgherd config check --config {shown}");
            Ok(())
        }
        Some(_) => Ok(()),
    }
}

fn incomplete(args: &ImportArgs, report: &Report) -> Failure {
    let (what, next) = match report.missing.len() {
        0 => ("the configuration is not right yet".to_owned(), "the list above says what, line by line"),
        count => (
            format!(
                "{count} {} missing in the configuration",
                if count == 1 { "thing is" } else { "things are" }
            ),
            "the same command with the flags above",
        ),
    };
    let failure = Failure::new(Exit::Configuration, what);
    match &args.output {
        Some(_) if !args.force => failure.next(format!("{next}, and --force")),
        _ => failure.next(next),
    }
}

fn source(file: &Path, format: Option<FormatArg>) -> Result<Source, Failure> {
    let text = text(file)?;
    let format = format.map(FormatArg::format).or_else(|| Format::detect(&text)).ok_or_else(|| {
        Failure::new(Exit::Usage, format!("whose file {} is, its contents do not say", file.display()))
            .next("--format patroni, pgbouncer, pgpool, repmgr or haproxy")
    })?;
    Ok(Source { file: file.display().to_string(), text, format })
}

fn text(file: &Path) -> Result<String, Failure> {
    fs::read_to_string(file).map_err(|error| {
        Failure::new(Exit::Configuration, format!("{} cannot be read", file.display())).why(error)
    })
}

/// A file that another one includes: by its path, or beside one of those that were given.
fn included(name: &str, folders: &[&Path]) -> Result<String, String> {
    let direct = fs::read_to_string(name);
    let beside = folders.iter().filter_map(|folder| fs::read_to_string(folder.join(name)).ok()).next();
    match (direct, beside) {
        (Ok(text), _) | (Err(_), Some(text)) => Ok(text),
        (Err(error), None) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, Command};

    fn run(arguments: &[&str]) -> Result<(), Failure> {
        let all = ["pgherd", "import"].iter().chain(arguments);
        match Cli::try_parse_from(all).unwrap_or_else(|error| panic!("{error}")).command {
            Command::Import(args) => import(&args),
            _ => panic!("not import"),
        }
    }

    #[test]
    fn a_file_is_written_once_complete_or_not_and_never_over_another() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name).display().to_string();
        let (ini, out) = (path("pgbouncer.ini"), path("n1.toml"));
        fs::write(&ini, "[pgbouncer]\nlisten_addr = *\n%include more.ini\n").unwrap();
        fs::write(path("more.ini"), "pool_mode = transaction\n").unwrap();
        assert_eq!(run(&[&ini, "-O", &out]).unwrap_err().exit, Exit::Configuration, "no cluster, no node");
        assert!(fs::read_to_string(&out).unwrap().contains("# MISSING cluster"));
        let flags =
            ["--cluster", "shop", "--name", "n1", "--peer", "n1=10.0.0.1", "--peer", "n2=[fd00::2]:5433"];
        let again: Vec<&str> = [ini.as_str(), "-O", &out].into_iter().chain(flags).collect();
        assert_eq!(run(&again).unwrap_err().exit, Exit::Precondition);
        run(&[again, vec!["--force"]].concat()).unwrap();
        let config = config::load(Path::new(&out)).unwrap();
        assert_eq!(config.peers["n2"].postgres.as_deref(), Some("[fd00::2]:5433"));
        assert_eq!(config.proxy.pool_mode, proxy::PoolMode::Transaction);
    }

    #[test]
    fn what_cannot_be_read_says_where_and_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("f").display().to_string();
        fs::write(&file, "hello\n").unwrap();
        let failure = run(&[&file]).unwrap_err();
        assert!(failure.exit == Exit::Usage && failure.next.unwrap().starts_with("--format"));
        let failure = run(&[&file, "--format", "pgbouncer"]).unwrap_err();
        assert_eq!(
            (failure.exit, failure.what),
            (Exit::Configuration, format!("{file}:1: expected key = value"))
        );
        assert_eq!(run(&[&file, "--format", "pgpool", "--dynamic", &file]).unwrap_err().exit, Exit::Usage);
        assert!(assignment("sync.standbys=9").is_err() && assignment("peers.n1.kind=witness").is_err());
        fs::write(&file, "scope: a\n").unwrap();
        assert!(run(&[&file, &file]).unwrap_err().what.ends_with("are both Patroni's"));
    }
}
