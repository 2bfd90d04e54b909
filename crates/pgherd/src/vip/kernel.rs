//! What the kernel is asked: which addresses an interface has, to add one, to take one away.
//!
//! By netlink, without a runtime, since the fencer asks too. A call can wait for others that change interfaces.

use std::io;
use std::net::IpAddr;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkDeserializable, NetlinkHeader,
    NetlinkMessage, NetlinkPayload, NetlinkSerializable,
};
use netlink_packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage, CacheInfo};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_packet_sock_diag::SockDiagMessage;
use netlink_packet_sock_diag::constants::{AF_INET, AF_INET6, IPPROTO_TCP, SOCK_DESTROY};
use netlink_packet_sock_diag::inet::{ExtensionFlags, InetRequest, SocketId, StateFlags};
use netlink_sys::protocols::{NETLINK_ROUTE, NETLINK_SOCK_DIAG};
use netlink_sys::{Socket, SocketAddr};
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::LinkAddr;

use super::VirtualIp;
use super::frames::Mac;

/// An interface as it is now.
pub struct Link {
    pub index: u32,
    /// `None`: it has no neighbours that know it by an Ethernet address.
    pub mac: Option<Mac>,
    /// Where packets of this link are sent and received.
    pub packets: LinkAddr,
    /// It has the address that was looked for.
    pub has: bool,
}

/// Looks at the interface of `vip`; one that is not there is an error that says which there are.
pub fn look(vip: &VirtualIp) -> io::Result<Link> {
    let mut names = Vec::new();
    let (mut packets, mut has) = (None, false);
    for entry in getifaddrs()? {
        let Some(address) = entry.address else { continue };
        let is_ours = entry.interface_name == vip.interface;
        if let Some(link) = address.as_link_addr() {
            packets = packets.or(is_ours.then_some(*link));
            names.push(entry.interface_name);
            continue;
        }
        let v4 = address.as_sockaddr_in().map(|address| IpAddr::V4(address.ip()));
        let v6 = address.as_sockaddr_in6().map(|address| IpAddr::V6(address.ip()));
        has |= is_ours && v4.or(v6) == Some(vip.address);
    }
    let packets = packets.ok_or_else(|| {
        let text = format!(
            "there is no interface {}, only {}; correct [vip] interface and start again",
            vip.interface,
            names.join(", ")
        );
        io::Error::new(io::ErrorKind::NotFound, text)
    })?;
    let mac = packets.addr().filter(|mac| *mac != [0; 6]).map(Mac);
    Ok(Link { index: packets.ifindex() as u32, mac, packets, has })
}

/// Puts `vip` on the link, or prolongs its time there: the kernel itself takes it away after `lifetime` seconds, to the second or
/// two; `None` is for ever. Needs CAP_NET_ADMIN.
pub fn put(vip: &VirtualIp, link: &Link, lifetime: Option<u32>) -> io::Result<()> {
    let mut message = message(vip, link);
    message.attributes.push(AddressAttribute::Address(vip.address));
    let valid = lifetime.unwrap_or(u32::MAX);
    let mut cache = CacheInfo::default();
    (cache.ifa_preferred, cache.ifa_valid) = (valid, valid);
    if vip.address.is_ipv6() {
        // Usable at once: whether somebody else has it is asked afterwards, since nobody's writes shall wait for it.
        message.header.flags = AddressHeaderFlags::Nodad;
        // For those who come to it; connections from here go on with the node's own address.
        cache.ifa_preferred = 0;
    }
    message.attributes.push(AddressAttribute::CacheInfo(cache));
    let flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE;
    change(NETLINK_ROUTE, RouteNetlinkMessage::NewAddress(message), flags, None)
}

/// What taking the address away has done.
pub struct Taken {
    /// Connections at the address whose other ends were told that they are over.
    pub connections: usize,
    /// Why not all of them were.
    pub obstacle: Option<String>,
}

/// Takes `vip` from its interface, after its connections were ended; `None` when it is not there. Needs CAP_NET_ADMIN.
pub fn remove(vip: &VirtualIp) -> io::Result<Option<Taken>> {
    let link = look(vip)?;
    if !link.has {
        return Ok(None);
    }
    // While the address is still here, so that the resets go out. Without the address nobody would hear of the end: whoever
    // waits for an answer would wait as long as TCP does.
    let taken = match end_connections(vip.address) {
        Ok(connections) => Taken { connections, obstacle: None },
        Err(error) => Taken { connections: 0, obstacle: Some(error.to_string()) },
    };
    let message = RouteNetlinkMessage::DelAddress(message(vip, &link));
    match change(NETLINK_ROUTE, message, NLM_F_REQUEST | NLM_F_ACK, None) {
        // Somebody else was faster: the fencer beside the agent.
        Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => Ok(None),
        Err(error) => Err(error),
        Ok(()) => Ok(Some(taken)),
    }
}

fn message(vip: &VirtualIp, link: &Link) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = if vip.address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    message.header.prefix_len = vip.prefix;
    message.header.index = link.index;
    message.attributes.push(AddressAttribute::Local(vip.address));
    message
}

/// Ends every TCP connection that has `address` at this end, whichever process has it, as `ss --kill` does; how many.
fn end_connections(address: IpAddr) -> io::Result<usize> {
    let mut ended = 0;
    // A socket that listens on [::] has its IPv4 connections among those of IPv6.
    for family in [AF_INET, AF_INET6] {
        let request = |socket_id| InetRequest {
            family,
            protocol: IPPROTO_TCP,
            extensions: ExtensionFlags::empty(),
            states: StateFlags::all() - StateFlags::LISTEN - StateFlags::TIME_WAIT - StateFlags::CLOSE,
            socket_id,
        };
        let all = if family == AF_INET { SocketId::new_v4() } else { SocketId::new_v6() };
        for socket in list(request(all))? {
            if socket.source_address.to_canonical() != address {
                continue;
            }
            let message = SockDiagMessage::InetRequest(request(socket));
            match change(NETLINK_SOCK_DIAG, message, NLM_F_REQUEST | NLM_F_ACK, Some(SOCK_DESTROY)) {
                Ok(()) => ended += 1,
                // It has ended meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(ended)
}

fn list(request: InetRequest) -> io::Result<Vec<SocketId>> {
    let socket =
        ask(NETLINK_SOCK_DIAG, SockDiagMessage::InetRequest(request), NLM_F_REQUEST | NLM_F_DUMP, None)?;
    let mut found = Vec::new();
    loop {
        for message in answers(&socket)? {
            match message.payload {
                NetlinkPayload::Done(_) => return Ok(found),
                NetlinkPayload::Error(error) => return Err(error.to_io()),
                NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(response)) => {
                    found.push(response.header.socket_id)
                }
                _ => {}
            }
        }
    }
}

/// Asks for a change and waits until the kernel has made or refused it.
fn change<M: NetlinkSerializable + NetlinkDeserializable>(
    protocol: isize,
    message: M,
    flags: u16,
    kind: Option<u16>,
) -> io::Result<()> {
    let socket = ask(protocol, message, flags, kind)?;
    loop {
        for message in answers::<M>(&socket)? {
            if let NetlinkPayload::Error(answer) = message.payload {
                return if answer.code.is_none() { Ok(()) } else { Err(answer.to_io()) };
            }
        }
    }
}

/// Sends the message; `kind` is its type where that is another than its own.
fn ask<M: NetlinkSerializable>(
    protocol: isize,
    message: M,
    flags: u16,
    kind: Option<u16>,
) -> io::Result<Socket> {
    let mut socket = Socket::new(protocol)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let mut header = NetlinkHeader::default();
    header.flags = flags;
    let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(message));
    message.finalize();
    message.header.message_type = kind.unwrap_or(message.header.message_type);
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    socket.send(&bytes, 0)?;
    Ok(socket)
}

/// The messages of the next packet.
fn answers<M: NetlinkDeserializable>(socket: &Socket) -> io::Result<Vec<NetlinkMessage<M>>> {
    let (bytes, _) = socket.recv_from_full()?;
    let mut rest = bytes.as_slice();
    let mut messages = Vec::new();
    while !rest.is_empty() {
        let message = NetlinkMessage::deserialize(rest).map_err(io::Error::other)?;
        let length = (message.header.length as usize).next_multiple_of(4);
        rest = rest.get(length..).unwrap_or_default();
        messages.push(message);
    }
    Ok(messages)
}
