//! The section `[vip]`: the address that follows the primary.

use std::net::IpAddr;

use super::draft::Draft;
use super::error::Place;
use super::model::quote;
use super::value::split_address;
use crate::vip::{VirtualIp, parse};

const ADDRESS: &str = "vip.address";
const INTERFACE: &str = "vip.interface";
const LISTEN: &str = "proxy.listen";

pub(super) fn from_draft(draft: &Draft) -> Option<VirtualIp> {
    let (address, prefix) = parse(draft.text(ADDRESS)?).ok()?;
    Some(VirtualIp { address, prefix, interface: draft.text(INTERFACE)?.to_owned() })
}

/// As [`Config::written`](super::Config).
pub(super) fn written(vip: &VirtualIp, key: &str) -> Option<String> {
    match key {
        ADDRESS => Some(quote(&vip.to_string())),
        INTERFACE => Some(quote(&vip.interface)),
        _ => None,
    }
}

/// Address and interface go together, the address is no node's own, and the proxy answers at it.
pub(super) fn check(draft: &mut Draft) {
    let has = |draft: &Draft, key: &str| {
        draft.text(key).is_some() || draft.refused.iter().any(|refused| refused == key)
    };
    for (key, other) in [(ADDRESS, INTERFACE), (INTERFACE, ADDRESS)] {
        if draft.text(key).is_some() && !has(draft, other) {
            draft.problem_with(key, format!("{key} is of no use without {other}; add it"));
        }
    }
    let Some((address, _)) = draft.text(ADDRESS).and_then(|text| parse(text).ok()) else { return };
    let name = draft.text("node.name").unwrap_or_default();
    if draft.text(&format!("peers.{name}.kind")) == Some("witness") {
        draft.problem_with(ADDRESS, format!("{ADDRESS}: a witness never has the address; remove [vip]"));
    }
    let peers =
        draft.peers.keys().flat_map(|name| [format!("peers.{name}.peer"), format!("peers.{name}.postgres")]);
    let hosts = peers.filter_map(|key| Some((split_address(draft.text(&key)?).ok()?.0, key)));
    let advertised = draft.text("node.advertise").map(|host| (host.to_owned(), "node.advertise".to_owned()));
    let own = hosts.chain(advertised).find(|(host, _)| host.parse() == Ok(address));
    if let Some((_, key)) = own {
        let text = format!("{ADDRESS}: {address} is the address of {key}; choose one that no node has");
        draft.problem_with(ADDRESS, text);
    }
    let Some(listen) = draft.text(LISTEN).map(str::to_owned) else { return };
    let reached = match listen.parse::<IpAddr>() {
        Ok(IpAddr::V4(v4)) => v4.is_unspecified() && address.is_ipv4(),
        // Connections of either kind come to it.
        Ok(IpAddr::V6(v6)) => v6.is_unspecified(),
        Err(_) => false,
    };
    if !reached {
        let everywhere = if address.is_ipv4() { "0.0.0.0" } else { "::" };
        let text = format!(
            "{ADDRESS}: nobody would answer at {address}, since {LISTEN} is {listen:?}; set {LISTEN} = {everywhere:?}"
        );
        // Of the two, the one that somebody has set.
        let at = if draft.place(LISTEN) == Place::File { ADDRESS } else { LISTEN };
        draft.problem_with(at, text);
    }
}
