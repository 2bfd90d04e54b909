//! Nodes placed in the test's own network ([`crate::network`]), before anything of them runs.

use toml::{Table, Value};

use crate::cluster::Prepared;
use crate::network;

/// Puts each node into the namespace that has its name.
pub fn place(prepared: &mut Prepared) {
    let bases: Vec<u16> = prepared.nodes.iter().map(|node| node.postgres).collect();
    for (index, node) in prepared.nodes.iter_mut().enumerate() {
        node.host = network::address(index);
        node.namespaced = true;
        node.edit_config(|config| place_one(config, index, &bases));
    }
}

/// Listens everywhere, is reached at the node's address, and lets the test in.
fn place_one(config: &mut Table, index: usize, bases: &[u16]) {
    for name in ["postgres", "proxy", "http", "peer"] {
        section(config, name).insert("listen".into(), "0.0.0.0".into());
    }
    section(config, "node").insert("advertise".into(), network::address(index).into());
    let trusted = ["local all all trust".to_owned(), format!("host all all {} trust", network::EVERYBODY)];
    section(config, "postgres").insert("hba".into(), trusted.map(Value::from).to_vec().into());
    for (number, base) in bases.iter().enumerate() {
        let peer = section(section(config, "peers"), &format!("n{}", number + 1));
        for key in ["peer", "postgres"] {
            let port =
                peer[key].as_str().and_then(|old| old.rsplit_once(':')).map(|(_, port)| port.to_owned());
            let port = port.unwrap_or_else(|| base.to_string());
            peer.insert(key.into(), format!("{}:{port}", network::address(number)).into());
        }
    }
}

/// The table of this name, made when there is none.
pub fn section<'a>(config: &'a mut Table, name: &str) -> &'a mut Table {
    let entry = config.entry(name).or_insert_with(|| Table::new().into());
    entry.as_table_mut().expect("a table")
}
