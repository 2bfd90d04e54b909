//! What is said on the wire: ARP (RFC 826, RFC 5227) and neighbour discovery (RFC 4861), as bytes.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

/// An Ethernet address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mac(pub [u8; 6]);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

pub const ETHERTYPE_ARP: u16 = 0x0806;
/// An Ethernet header and an ARP packet.
pub const ARP_BYTES: usize = 14 + 28;
const EVERYBODY: Mac = Mac([0xff; 6]);
const NOBODY: Mac = Mac([0; 6]);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Arp {
    /// "I have this address": who knows of another holder believes this one now.
    Announcement,
    /// The same as an answer that nobody asked for: some switches and hosts take only the one, some only the other.
    Reply,
    /// "Who has it?", from nobody: the kernel of whoever has the address answers, and nobody learns anything by the question.
    Probe,
}

/// A frame about `address`, to everybody.
pub fn arp(kind: Arp, mac: Mac, address: Ipv4Addr) -> [u8; ARP_BYTES] {
    let (operation, sender, target) = match kind {
        Arp::Announcement => (1, address, NOBODY),
        Arp::Reply => (2, address, EVERYBODY),
        Arp::Probe => (1, Ipv4Addr::UNSPECIFIED, NOBODY),
    };
    let mut frame = [0; ARP_BYTES];
    frame[..6].copy_from_slice(&EVERYBODY.0);
    frame[6..12].copy_from_slice(&mac.0);
    frame[12..14].copy_from_slice(&ETHERTYPE_ARP.to_be_bytes());
    // Ethernet, IPv4, and how long their addresses are.
    frame[14..20].copy_from_slice(&[0, 1, 8, 0, 6, 4]);
    frame[21] = operation;
    frame[22..28].copy_from_slice(&mac.0);
    frame[28..32].copy_from_slice(&sender.octets());
    frame[32..38].copy_from_slice(&target.0);
    frame[38..42].copy_from_slice(&address.octets());
    frame
}

/// Who says in `frame` that it has `address`.
pub fn arp_holder(frame: &[u8], address: Ipv4Addr) -> Option<Mac> {
    let frame: &[u8; ARP_BYTES] = frame.get(..ARP_BYTES)?.try_into().ok()?;
    let is_arp = frame[12..14] == ETHERTYPE_ARP.to_be_bytes() && frame[14..20] == [0, 1, 8, 0, 6, 4];
    (is_arp && frame[28..32] == address.octets()).then_some(())?;
    Some(Mac(frame[22..28].try_into().ok()?))
}

/// All nodes on the link.
pub const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
/// An ICMPv6 message about neighbours, with one option of 8 bytes.
pub const NEIGHBOUR_BYTES: usize = 24 + 8;
const OPTION_SOURCE: u8 = 1;
const OPTION_TARGET: u8 = 2;
/// Replaces what a neighbour knows already.
const OVERRIDE: u8 = 0x20;

/// An advertisement that nobody asked for. The kernel fills in the checksum.
pub fn advertisement(mac: Mac, address: Ipv6Addr) -> [u8; NEIGHBOUR_BYTES] {
    neighbour(ADVERTISEMENT, OVERRIDE, OPTION_TARGET, mac, address)
}

/// The question who has it, to be sent from an address of one's own.
pub fn solicitation(mac: Mac, address: Ipv6Addr) -> [u8; NEIGHBOUR_BYTES] {
    neighbour(SOLICITATION, 0, OPTION_SOURCE, mac, address)
}

fn neighbour(kind: u8, flags: u8, option: u8, mac: Mac, address: Ipv6Addr) -> [u8; NEIGHBOUR_BYTES] {
    let mut message = [0; NEIGHBOUR_BYTES];
    message[0] = kind;
    message[4] = flags;
    message[8..24].copy_from_slice(&address.octets());
    message[24..26].copy_from_slice(&[option, 1]);
    message[26..].copy_from_slice(&mac.0);
    message
}

/// Where a question for `address` goes: those whose addresses end alike (RFC 4291, 2.7.1).
pub fn solicited_nodes(address: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = address.octets();
    Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | u16::from(a), u16::from_be_bytes([b, c]))
}

/// Who says in this ICMPv6 `message` that it has `address`.
pub fn neighbour_holder(message: &[u8], address: Ipv6Addr) -> Option<Mac> {
    let (head, mut options) = message.split_at_checked(24)?;
    (head[0] == ADVERTISEMENT && head[8..24] == address.octets()).then_some(())?;
    while let [kind, eights, ..] = *options {
        let length = usize::from(eights) * 8;
        let option = options.get(..length).filter(|option| !option.is_empty())?;
        if kind == OPTION_TARGET {
            return Some(Mac(option.get(2..8)?.try_into().ok()?));
        }
        options = &options[length..];
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: Mac = Mac([2, 0, 0, 0xab, 0xcd, 0xef]);

    #[test]
    fn an_announcement_is_as_rfc_5227_has_it() {
        let address = Ipv4Addr::new(10, 0, 0, 100);
        let frame = arp(Arp::Announcement, MAC, address);
        let wanted =
            "ffffffffffff 020000abcdef 0806 0001 0800 06 04 0001 020000abcdef 0a000064 000000000000 0a000064";
        let written: String = frame.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(written, wanted.replace(' ', ""));
        assert_eq!(arp_holder(&frame, address), Some(MAC));
        assert_eq!(arp_holder(&frame, Ipv4Addr::new(10, 0, 0, 101)), None);
        assert_eq!(arp_holder(&arp(Arp::Reply, MAC, address), address), Some(MAC));
        assert_eq!(arp_holder(&arp(Arp::Probe, MAC, address), address), None, "it only asks");
        assert_eq!(arp_holder(&frame[..30], address), None);
        assert_eq!(MAC.to_string(), "02:00:00:ab:cd:ef");
    }

    #[test]
    fn neighbours_are_told_and_asked_as_rfc_4861_has_it() {
        let address: Ipv6Addr = "fd00::12:3456".parse().unwrap();
        let told = advertisement(MAC, address);
        assert_eq!(told[..8], [136, 0, 0, 0, 0x20, 0, 0, 0]);
        assert_eq!(told[24..], [2, 1, 2, 0, 0, 0xab, 0xcd, 0xef]);
        assert_eq!(neighbour_holder(&told, address), Some(MAC));
        assert_eq!(neighbour_holder(&told, "fd00::1".parse().unwrap()), None);
        assert_eq!(neighbour_holder(&solicitation(MAC, address), address), None, "it only asks");
        let mut endless = told;
        endless[24..26].copy_from_slice(&[9, 0]);
        assert_eq!(neighbour_holder(&endless, address), None, "an option without a length");
        assert_eq!(solicited_nodes(address), "ff02::1:ff12:3456".parse::<Ipv6Addr>().unwrap());
    }
}
