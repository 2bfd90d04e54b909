//! `pgherd config add`: the folder of a node that is to join a cluster that runs.

use std::path::{Path, PathBuf};

use clap::Args;

use super::super::failure::{Exit, Failure};
use super::super::print;
use super::init::{Member, check, member, write_node};
use super::wrong;
use crate::config::{self, Config, NodeKind, Peer};
use crate::peer::certificates::CertificateError;

#[derive(Args, Debug)]
#[command(after_help = "Example:
  pgherd config add n4=10.0.0.4 --like shop/n1/pgherd.toml --authority shop/authority --out shop/n4")]
pub struct AddArgs {
    /// The node's name and the host under which the others reach it
    #[arg(value_name = "NAME=HOST", value_parser = member)]
    node: Member,
    /// It only votes
    #[arg(long)]
    witness: bool,
    /// The configuration file of another node of the cluster: what is not the node's own is taken from it
    #[arg(long, value_name = "FILE")]
    like: PathBuf,
    /// The authority's folder, with its key
    #[arg(long, value_name = "DIR")]
    authority: PathBuf,
    /// Where the node keeps its files on its own machine; NAME stands for the node's name
    #[arg(long, value_name = "DIR", default_value = "/var/lib/pgherd/NAME")]
    node_dir: String,
    /// The folder to make; the node's name when not given
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

pub fn add(args: &AddArgs) -> Result<(), Failure> {
    let Member { name, host } = &args.node;
    let like = config::load(&args.like).map_err(wrong)?;
    let out = args.out.clone().unwrap_or_else(|| PathBuf::from(name));
    if out.exists() {
        return Err(Failure::new(Exit::Precondition, format!("{} is there already", out.display()))
            .next("--out DIR with another folder"));
    }
    if like.peers.contains_key(name) {
        let what = format!("{name} is a node of {} already", args.like.display());
        return Err(Failure::new(Exit::Usage, what).next("give the newcomer a name of its own"));
    }
    let config = newcomer(&like, args);
    check(&config)?;
    let failed = |error: CertificateError| Failure::new(Exit::Precondition, error.to_string());
    write_node(&config, &args.authority, &out, failed)?;
    let own = &config.peers[name];
    let postgres = match &own.postgres {
        Some(postgres) => format!("--postgres {postgres}"),
        None => "--witness".to_owned(),
    };
    let (dir, shown) = (config.node.dir.display(), out.display());
    let parent = config.node.dir.parent().unwrap_or(Path::new("/")).display();
    print(&format!(
        "Made {shown}. On any node, let it in; then copy the folder to its machine, and start it there:\n\n\
         \x20 pgherd member add {name} --peer {} {postgres}\n\
         \x20 ssh root@{host} mkdir -p {parent} && scp -rp {shown} root@{host}:{dir}\n\
         \x20 ssh root@{host} pgherd run --config {dir}/pgherd.toml\n\n\
         The proxies of {host} connect to PostgreSQL of the others: [postgres] hba of every node must let them in\n\
         (pgherd config show --all; pgherd config set postgres.hba=…).\n",
        own.peer
    ))
}

/// `like` with what is the newcomer's own.
fn newcomer(like: &Config, args: &AddArgs) -> Config {
    let Member { name, host } = &args.node;
    let dir = PathBuf::from(args.node_dir.replace("NAME", name));
    let alone = Config::alone(&like.cluster, name, &dir);
    let mut config = like.clone();
    (config.node, config.tls, config.tags) = (alone.node, alone.tls, alone.tags);
    config.node.advertise.clone_from(host);
    config.node.kind = if args.witness { NodeKind::Witness } else { NodeKind::Full };
    let peer = config::join_address(host, config.peer.port);
    let postgres = (!args.witness).then(|| config::join_address(host, config.postgres.port));
    config.peers.insert(name.clone(), Peer { peer, postgres, kind: config.node.kind });
    config
}

#[cfg(test)]
mod tests {
    use super::super::init::tests::{args as init_args, cluster_of};
    use super::*;

    #[test]
    fn a_newcomer_is_like_the_others_under_its_own_name() {
        let dir = tempfile::tempdir().unwrap();
        let shop = dir.path().join("shop");
        cluster_of(&init_args(&["n1=10.0.0.1", "n2=10.0.0.2", "n3=10.0.0.3"], &[], dir.path()));
        let args = AddArgs {
            node: member("n4=10.0.0.4").unwrap(),
            witness: false,
            like: shop.join("n1/pgherd.toml"),
            authority: shop.join("authority"),
            node_dir: "/srv/NAME".into(),
            out: Some(shop.join("n4")),
        };
        add(&args).unwrap();
        let made = config::load(&shop.join("n4/pgherd.toml")).unwrap();
        assert_eq!((made.node.name.as_str(), made.node.dir.as_path()), ("n4", Path::new("/srv/n4")));
        assert_eq!(made.peers.keys().collect::<Vec<_>>(), ["n1", "n2", "n3", "n4"]);
        assert_eq!(made.peers["n4"].postgres.as_deref(), Some("10.0.0.4:5432"));
        let tls = shop.join("n4/tls");
        let [ca, cert, key] = ["ca.crt", "node.crt", "node.key"].map(|file| tls.join(file));
        assert_eq!(crate::peer::Identity::load(&ca, &cert, &key).unwrap().name(), "n4");
        assert!(add(&args).unwrap_err().what.contains("is there already"));
        let taken = AddArgs { node: member("n2=10.0.0.9").unwrap(), out: Some(shop.join("x")), ..args };
        assert!(add(&taken).unwrap_err().what.contains("n2 is a node"));
    }
}
