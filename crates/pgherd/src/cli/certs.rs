//! `pgherd certs`: the certificates of the link between the nodes: shown, made for a newcomer, renewed while the node runs.
//!
//! The authority that signs them is a folder that no node needs; whoever has its key can make himself a node.

use std::fs;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde::Serialize;

use super::failure::{Exit, Failure};
use super::relaunch;
use super::{OutputArgs, print, print_json};
use crate::config;
use crate::peer::certificates::{
    AUTHORITY_CERTIFICATE, CertificateError, NODE_CERTIFICATE, NODE_KEY, create_authority, issue,
};
use crate::peer::{CertificateFacts, certificate_facts};

#[derive(Args, Debug)]
#[command(after_help = "Examples:
  pgherd certs show --config /etc/pgherd/pgherd.toml
  pgherd certs renew --authority shop/authority --config /etc/pgherd/pgherd.toml
  pgherd certs issue n4 --authority shop/authority --out n4/tls

A new authority: make it (certs authority), append its ca.crt to that of every node and relaunch each, renew every node by
it, then take the old certificate out of each ca.crt and relaunch again.")]
pub struct CertsArgs {
    #[command(subcommand)]
    command: CertsCommand,
}

#[derive(Subcommand, Debug)]
enum CertsCommand {
    /// Whom the files of a node name, who signed them, and how long they are good
    Show {
        /// The node's configuration file
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Make certificate and key of a node
    Issue {
        node: String,
        /// The authority's folder, with its key
        #[arg(long, value_name = "DIR")]
        authority: PathBuf,
        /// The folder to make
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
    },
    /// Give a node here a new key and certificate, and relaunch it: no session ends
    Renew {
        /// The authority's folder, with its key
        #[arg(long, value_name = "DIR")]
        authority: PathBuf,
        /// The node's configuration file
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// The node takes them up when it is started or relaunched next
        #[arg(long)]
        no_relaunch: bool,
    },
    /// Make a new authority
    Authority {
        /// Name of the cluster
        #[arg(long, value_name = "NAME")]
        cluster: String,
        /// The folder to make
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
    },
}

pub fn certs(args: &CertsArgs) -> Result<(), Failure> {
    match &args.command {
        CertsCommand::Show { config, output } => show(config, output),
        CertsCommand::Issue { node, authority, out } => {
            issue(authority, node, out).map_err(failed)?;
            print(&format!(
                "{} is good for {node}; copy it there as tls/ below its node.dir\n",
                out.display()
            ))
        }
        CertsCommand::Renew { authority, config, no_relaunch } => renew(authority, config, *no_relaunch),
        CertsCommand::Authority { cluster, out } => {
            create_authority(out, cluster).map_err(failed)?;
            print(&format!("{} is made; keep it where nobody else can read it\n", out.display()))
        }
    }
}

fn failed(error: CertificateError) -> Failure {
    Failure::new(Exit::Precondition, error.to_string())
}

/// One certificate of a file, as it is shown.
#[derive(Serialize)]
struct Line {
    file: PathBuf,
    #[serde(flatten)]
    facts: CertificateFacts,
}

fn show(file: &Path, output: &OutputArgs) -> Result<(), Failure> {
    let tls = read(file)?.tls;
    let mut lines = Vec::new();
    for path in [tls.ca, tls.cert] {
        let facts =
            certificate_facts(&path).map_err(|error| Failure::new(Exit::Configuration, error.to_string()))?;
        lines.extend(facts.into_iter().map(|facts| Line { file: path.clone(), facts }));
    }
    if output.is_json() {
        return print_json(&lines);
    }
    let row = |Line { file, facts }: &Line| {
        let CertificateFacts { subject, issuer, until, days_left } = facts;
        format!("{}: {subject}, signed by {issuer}, good until {until} ({days_left} days)\n", file.display())
    };
    print(&lines.iter().map(row).collect::<String>())
}

fn read(file: &Path) -> Result<config::Config, Failure> {
    config::load(file).map_err(|error| Failure::new(Exit::Configuration, error.to_string()))
}

fn renew(authority: &Path, file: &Path, no_relaunch: bool) -> Result<(), Failure> {
    let config = read(file)?;
    let (name, tls) = (&config.node.name, &config.tls);
    let signed_by = fs::read_to_string(authority.join(AUTHORITY_CERTIFICATE))?;
    if !fs::read_to_string(&tls.ca)?.contains(signed_by.trim()) {
        let what = format!("{} does not have the authority in {}", tls.ca.display(), authority.display());
        return Err(Failure::new(Exit::Precondition, what)
            .why("the other nodes would refuse what it signs, and this node theirs")
            .next("append its ca.crt to that of every node, and pgherd relaunch each, first"));
    }
    let folder = tls.cert.parent().unwrap_or(Path::new("."));
    let new = tempfile::Builder::new().prefix(".renewed-").tempdir_in(folder)?;
    let out = new.path().join("tls");
    issue(authority, name, &out).map_err(failed)?;
    for (file, old) in [(NODE_KEY, &tls.key), (NODE_CERTIFICATE, &tls.cert)] {
        let before = fs::metadata(old)?;
        chown(out.join(file), Some(before.uid()), Some(before.gid()))?;
        fs::rename(out.join(file), old)?;
    }
    print(&format!("{name} has a new key and certificate\n"))?;
    if no_relaunch {
        return print(&format!("they are taken up by: pgherd relaunch --config {}\n", file.display()));
    }
    relaunch::node(file)
}
