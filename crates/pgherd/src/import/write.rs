//! The configuration as text: only what was given or chosen, each line with the place that it comes from.

use super::nodes::PeerTable;
use super::plan::{Given, Plan};
use super::report::Missing;
use crate::config::settings::{SECTIONS, SETTINGS};
use crate::config::{self, NodeKind, quote, write_setting};

const HEAD: &str = "# Configuration of one pgherd node, made by pgherd import. Behind each line stands where it comes from; what is not here has\n\
                    # its default (docs/reference/config.md).\n";

pub fn text(plan: &Plan, peers: &[PeerTable], missing: &[Missing]) -> String {
    let mut out = HEAD.to_owned();
    for lack in missing {
        out.push_str(&format!("# MISSING {}: {} ({})\n", lack.setting, lack.why, lack.give));
    }
    for section in SECTIONS {
        let body = match section.name {
            "peers" => peer_tables(peers),
            name => body(plan, name),
        };
        if body.is_empty() {
            continue;
        }
        out.push('\n');
        if !matches!(section.name, "" | "peers") && !body.starts_with('[') {
            out.push_str(&format!("[{}]\n", section.name));
        }
        out.push_str(&body);
    }
    out
}

fn body(plan: &Plan, section: &str) -> String {
    let mut out = String::new();
    for setting in
        SETTINGS.iter().filter(|setting| setting.section() == section && !setting.key.contains('*'))
    {
        if let Some(given) = plan.settings.get(setting.key) {
            out.push_str(&line(setting.name(), &write_setting(setting.key, &given.text), given));
        }
        let list = match setting.key {
            "postgres.hba" => &plan.hba,
            "proxy.hba" => &plan.proxy_hba,
            "proxy.primary_functions" => &plan.primary_functions,
            "proxy.replica_functions" => &plan.replica_functions,
            _ => continue,
        };
        if !list.is_empty() {
            out.push_str(&format!("{} = [\n", setting.name()));
            for item in list {
                out.push_str(&commented(&format!("  {},", quote(&item.text)), item));
            }
            out.push_str("]\n");
        }
    }
    match section {
        "postgres" if !plan.parameters.is_empty() => {
            if !out.is_empty() {
                out.push('\n');
            }
            out.push_str("[postgres.parameters]\n");
            for (name, given) in &plan.parameters {
                let name = if name.contains('.') { quote(name) } else { name.clone() };
                out.push_str(&line(&name, &quote(&given.text), given));
            }
        }
        "slots" => {
            let mut slots: Vec<&str> = plan.slots.iter().map(String::as_str).collect();
            slots.sort_unstable();
            for slot in slots {
                out.push_str(&format!("[slots.{slot}]\n"));
                for name in ["type", "owner", "database", "plugin", "wal_budget"] {
                    let key = format!("slots.{slot}.{name}");
                    if let Some(given) = plan.settings.get(&key) {
                        out.push_str(&line(name, &write_setting(&key, &given.text), given));
                    }
                }
            }
        }
        _ => {}
    }
    out
}

fn peer_tables(peers: &[PeerTable]) -> String {
    let mut out = String::new();
    for peer in peers {
        let given = Given { text: String::new(), from: peer.from.clone() };
        if !out.is_empty() {
            out.push('\n');
        }
        out.push_str(&commented(&format!("[peers.{}]", peer.name), &given));
        out.push_str(&format!("peer = {}\n", quote(&peer.peer)));
        if let Some(postgres) = &peer.postgres {
            out.push_str(&format!("postgres = {}\n", quote(postgres)));
        }
        if peer.kind == NodeKind::Witness {
            out.push_str(&format!("kind = {}\n", config::quote(peer.kind.as_str())));
        }
    }
    out
}

fn line(name: &str, value: &str, given: &Given) -> String {
    commented(&format!("{name} = {value}"), given)
}

fn commented(text: &str, given: &Given) -> String {
    match given.from.as_str() {
        "" => format!("{text:<48} # not from a file: see the report\n"),
        from => format!("{text:<48} # {}\n", from.replace(char::is_control, " ")),
    }
}
