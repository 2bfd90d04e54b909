//! `pgherd config init`: from names and addresses to a folder for each node that only has to be copied there.
//!
//! Invariant: nothing that is there is written over; a folder appears whole, its configuration last.

use std::fs;
use std::io::{IsTerminal, Write as _};
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use clap::Args;

use super::super::failure::{Exit, Failure};
use super::super::print;
use super::questions::ask;
use super::wrong;
use crate::config::{self, Config, NodeKind, Peer};
use crate::peer::certificates::{CertificateError, create_authority, issue};

#[derive(Args, Debug)]
#[command(after_help = "Examples:
  pgherd config init                                        asks
  pgherd config init --cluster shop --node n1=10.0.0.1 --node n2=10.0.0.2 --node n3=10.0.0.3 --out shop
  pgherd config init --cluster shop --node n1=db1 --node n2=db2 --witness w=app1 --out shop

With a witness two servers with PostgreSQL are enough: it votes, and holds no data.")]
pub struct InitArgs {
    /// Name of the cluster
    #[arg(long, value_name = "NAME")]
    cluster: Option<String>,
    /// A node with PostgreSQL: its name and the host under which the others reach it
    #[arg(long = "node", value_name = "NAME=HOST", value_parser = member)]
    nodes: Vec<Member>,
    /// A node that only votes
    #[arg(long = "witness", value_name = "NAME=HOST", value_parser = member)]
    witnesses: Vec<Member>,
    /// Where each node keeps its files on its own machine; NAME stands for the node's name
    #[arg(long, value_name = "DIR", default_value = "/var/lib/pgherd/NAME")]
    node_dir: String,
    /// Major version of PostgreSQL, where several are installed
    #[arg(long, value_parser = clap::value_parser!(u32).range(15..=18))]
    major: Option<u32>,
    /// The folder to make; the cluster's name when not given
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Member {
    pub name: String,
    pub host: String,
}

pub(super) fn member(text: &str) -> Result<Member, String> {
    let (name, host) = text.split_once('=').ok_or("expected NAME=HOST, such as n1=10.0.0.1")?;
    config::check_name(name)?;
    let bare = host.trim_matches(['[', ']']);
    config::check_address(&config::join_address(bare, 1))?;
    Ok(Member { name: name.to_owned(), host: bare.to_owned() })
}

/// All that is needed, by flags or by answers.
struct Plan {
    cluster: String,
    nodes: Vec<Member>,
    witnesses: Vec<Member>,
}

pub fn init(args: &InitArgs) -> Result<(), Failure> {
    let plan = plan(args)?;
    let out = args.out.clone().unwrap_or_else(|| PathBuf::from(&plan.cluster));
    if out.exists() {
        return Err(Failure::new(Exit::Precondition, format!("{} is there already", out.display()))
            .why("the files of a cluster are made in a new folder only")
            .next("--out DIR with another folder"));
    }
    let configs: Vec<Config> = plan.members().map(|(me, kind)| plan.config(me, kind, args)).collect();
    configs.iter().try_for_each(check)?;
    let failed = |error: CertificateError| {
        Failure::new(Exit::General, "the certificates of the nodes cannot be made").why(error)
    };
    create_authority(&out.join("authority"), &plan.cluster).map_err(failed)?;
    for config in &configs {
        write_node(config, &out.join("authority"), &out.join(&config.node.name), failed)?;
    }
    print(&plan.next_steps(&out, &configs))
}

/// The file is read back as the node will read it, before anything is written.
pub(super) fn check(config: &Config) -> Result<(), Failure> {
    config::parse(&config::render(config), &config.node.name, &Default::default()).map(drop).map_err(wrong)
}

/// Makes a node's folder: its certificate, then its configuration.
pub(super) fn write_node(
    config: &Config,
    authority: &Path,
    dir: &Path,
    failed: impl Fn(CertificateError) -> Failure,
) -> Result<(), Failure> {
    // PostgreSQL's user must be able to pass; what is secret in it has its own mode.
    fs::DirBuilder::new().recursive(true).mode(0o755).create(dir)?;
    issue(authority, &config.node.name, &dir.join("tls")).map_err(failed)?;
    let mut open = fs::OpenOptions::new();
    let mut file = open.write(true).create_new(true).mode(0o640).open(dir.join("pgherd.toml"))?;
    Ok(file.write_all(config::render(config).as_bytes())?)
}

fn plan(args: &InitArgs) -> Result<Plan, Failure> {
    let (mut nodes, witnesses) = (args.nodes.clone(), args.witnesses.clone());
    if args.cluster.is_some() && !nodes.is_empty() {
        return checked(Plan { cluster: args.cluster.clone().unwrap_or_default(), nodes, witnesses });
    }
    if !std::io::stdin().is_terminal() {
        return Err(Failure::new(Exit::Usage, "the cluster's name or its nodes are missing")
            .why("without a terminal nothing can be asked")
            .next(
                "pgherd config init --cluster shop --node n1=10.0.0.1 --node n2=10.0.0.2 --node n3=10.0.0.3",
            ));
    }
    let (mut input, mut output) = (std::io::stdin().lock(), std::io::stdout());
    let cluster = match &args.cluster {
        Some(cluster) => cluster.clone(),
        None => {
            let name = |text: &str| config::check_name(text).map(|()| text.to_owned());
            ask("Name of the cluster", "main", name, &mut input, &mut output)?
        }
    };
    if nodes.is_empty() {
        writeln!(output, "Three nodes are usual: any one of them may die. An empty line ends the list.")?;
    }
    while args.nodes.is_empty() && nodes.len() < 5 {
        let number = nodes.len() + 1;
        let host = |text: &str| match text {
            "" if nodes.is_empty() => Err("one node is needed at least".to_owned()),
            "" => Ok(None),
            host => member(&format!("n{number}={host}")).map(Some),
        };
        match ask(&format!("Host of node n{number}"), "", host, &mut input, &mut output)? {
            Some(member) => nodes.push(member),
            None => break,
        }
    }
    checked(Plan { cluster, nodes, witnesses })
}

fn checked(plan: Plan) -> Result<Plan, Failure> {
    config::check_name(&plan.cluster)
        .map_err(|why| Failure::new(Exit::Usage, format!("--cluster: {why}")))?;
    let mut names: Vec<&str> = plan.members().map(|(member, _)| member.name.as_str()).collect();
    names.sort_unstable();
    if let Some(twice) = names.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(Failure::new(Exit::Usage, format!("{} is named twice", twice[0])));
    }
    Ok(plan)
}

impl Plan {
    fn members(&self) -> impl Iterator<Item = (&Member, NodeKind)> {
        let full = self.nodes.iter().map(|member| (member, NodeKind::Full));
        full.chain(self.witnesses.iter().map(|member| (member, NodeKind::Witness)))
    }

    fn config(&self, me: &Member, kind: NodeKind, args: &InitArgs) -> Config {
        let dir = PathBuf::from(args.node_dir.replace("NAME", &me.name));
        let mut config = Config::alone(&self.cluster, &me.name, &dir);
        let peer = |(member, kind): (&Member, NodeKind)| {
            let postgres =
                (kind == NodeKind::Full).then(|| config::join_address(&member.host, config.postgres.port));
            let peer = config::join_address(&member.host, config.peer.port);
            (member.name.clone(), Peer { peer, postgres, kind })
        };
        config.peers = self.members().map(peer).collect();
        let everywhere = if me.host.contains(':') { "::" } else { "0.0.0.0" };
        config.node.kind = kind;
        config.node.advertise.clone_from(&me.host);
        config.postgres.listen = "*".to_owned();
        config.postgres.version = args.major;
        config.postgres.hba = self.hba();
        for listen in [&mut config.proxy.listen, &mut config.http.listen, &mut config.peer.listen] {
            everywhere.clone_into(listen);
        }
        // One standby must have each commit, where there is one.
        config.sync.standbys = u32::from(self.nodes.len() > 1);
        config
    }

    /// The superuser from the machine itself, and the proxies of all nodes; clients come by these.
    fn hba(&self) -> Vec<String> {
        let from = |member: &Member| match member.host.parse::<IpAddr>() {
            Ok(IpAddr::V4(ip)) => format!("host all all {ip}/32 scram-sha-256"),
            Ok(IpAddr::V6(ip)) => format!("host all all {ip}/128 scram-sha-256"),
            Err(_) => format!("host all all {} scram-sha-256", member.host),
        };
        let own = [
            "local all all peer",
            "host all all 127.0.0.1/32 scram-sha-256",
            "host all all ::1/128 scram-sha-256",
        ];
        own.into_iter().map(str::to_owned).chain(self.members().map(|(member, _)| from(member))).collect()
    }

    fn next_steps(&self, out: &Path, configs: &[Config]) -> String {
        let shown = out.display();
        let mut text =
            format!("Made {shown}. Copy each node's folder to its machine, and start it there:\n\n");
        for config in configs {
            let (name, dir, host) = (&config.node.name, config.node.dir.display(), &config.node.advertise);
            let parent = config.node.dir.parent().unwrap_or(Path::new("/")).display();
            text.push_str(&format!(
                "  ssh root@{host} mkdir -p {parent} && scp -rp {shown}/{name} root@{host}:{dir}\n\
                 \x20 ssh root@{host} pgherd run --config {dir}/pgherd.toml\n"
            ));
        }
        let (first, file) =
            (configs[0].node.dir.display(), format!("{}/pgherd.toml", configs[0].node.dir.display()));
        text.push_str(&format!(
            "\nWith the Debian package systemd runs it, as the user postgres, instead of the second line; on {} for one:\n\
             \x20 mv {file} /etc/pgherd/ && chown -R postgres: {first} && chown root:postgres /etc/pgherd/pgherd.toml\n\
             \x20 systemctl start pgherd\n",
            configs[0].node.name
        ));
        let hosts: Vec<String> =
            self.nodes.iter().map(|node| config::join_address(&node.host, 6432)).collect();
        text.push_str(&format!(
            "\nThe first start makes the cluster; on any node: pgherd status --config {file}\n\
             A first user, on the primary's machine as the system user postgres:\n\
             \x20 createuser --pwprompt --createdb app -h {}/run\n\
             Applications connect to: postgresql://app@{}/postgres\n\n\
             Keep {shown}/authority where nobody else can read it: it signs the nodes of this cluster.\n",
            configs[0].node.dir.display(),
            hosts.join(",")
        ));
        text
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub fn args(nodes: &[&str], witnesses: &[&str], out: &Path) -> InitArgs {
        let members = |texts: &[&str]| texts.iter().map(|text| member(text).unwrap()).collect();
        InitArgs {
            cluster: Some("shop".into()),
            nodes: members(nodes),
            witnesses: members(witnesses),
            node_dir: "/var/lib/pgherd/NAME".into(),
            major: Some(17),
            out: Some(out.join("shop")),
        }
    }

    pub fn cluster_of(args: &InitArgs) {
        init(args).unwrap();
    }

    #[test]
    fn each_node_gets_a_file_that_it_can_read_and_certificates() {
        let dir = tempfile::tempdir().unwrap();
        init(&args(&["n1=10.0.0.1", "n2=db2.example"], &["w=fd00::3"], dir.path())).unwrap();
        for name in ["n1", "n2", "w"] {
            let folder = dir.path().join("shop").join(name);
            let config = config::load(&folder.join("pgherd.toml")).unwrap();
            assert_eq!((config.node.name.as_str(), config.peers.len()), (name, 3));
            assert_eq!(config.node.dir, Path::new("/var/lib/pgherd").join(name));
            assert_eq!(config.sync.standbys, 1);
            assert!(folder.join("tls/node.key").exists());
            let hba = config.postgres.hba.join("\n");
            for from in ["10.0.0.1/32", "db2.example", "fd00::3/128"] {
                assert!(hba.contains(&format!("host all all {from} scram-sha-256")), "{hba}");
            }
        }
        let witness = config::load(&dir.path().join("shop/w/pgherd.toml")).unwrap();
        assert_eq!((witness.node.kind, witness.peer.listen.as_str()), (NodeKind::Witness, "::"));
        assert_eq!(witness.peers["w"].peer, "[fd00::3]:7432");
    }

    #[test]
    fn nothing_is_written_over_and_nothing_is_named_twice() {
        let dir = tempfile::tempdir().unwrap();
        let twice = args(&["n1=10.0.0.1", "n1=10.0.0.2"], &[], dir.path());
        assert_eq!(init(&twice).unwrap_err().exit, Exit::Usage);
        fs::create_dir(dir.path().join("shop")).unwrap();
        assert_eq!(init(&args(&["n1=10.0.0.1"], &[], dir.path())).unwrap_err().exit, Exit::Precondition);
        assert!(member("n1").is_err() && member("N 1=h").is_err() && member("n1=").is_err());
    }
}
