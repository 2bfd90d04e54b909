//! Tells the neighbours where the address is now, and hears who else says that it has it.
//!
//! Sending never waits and hearing neither: what has come is read when it is asked for.

use std::io::{self, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddrV6};
use std::os::fd::AsRawFd;

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::VirtualIp;
use super::frames::{self, Arp, ETHERTYPE_ARP, Mac};
use super::kernel::Link;

/// What has come since the last look: a socket's buffer holds some hundreds.
const HEARD_MAX: usize = 1_000;
/// Neighbours take no word that could have come through a router (RFC 4861, 7.1).
const HOPS: u32 = 255;
/// The longest message that is looked at.
const MESSAGE_BYTES_MAX: usize = 256;

pub struct Announcer {
    mac: Mac,
    way: Way,
}

enum Way {
    Arp {
        address: Ipv4Addr,
        socket: Socket,
    },
    Neighbours {
        address: Ipv6Addr,
        index: u32,
        /// Speaks as the address.
        teller: Socket,
        /// Asks from another address of the interface: the answer to a question of the address itself would stay with whoever else has it.
        asker: Socket,
    },
}

impl Announcer {
    /// For the address that is on this link now; `mac` is the link's. Needs CAP_NET_RAW.
    pub fn open(vip: &VirtualIp, link: &Link, mac: Mac) -> io::Result<Announcer> {
        let way = match vip.address {
            IpAddr::V4(address) => {
                let arp = Protocol::from(i32::from(ETHERTYPE_ARP.to_be()));
                let socket = Socket::new(Domain::PACKET, Type::RAW, Some(arp))?;
                socket.set_nonblocking(true)?;
                nix::sys::socket::bind(socket.as_raw_fd(), &link.packets)?;
                Way::Arp { address, socket }
            }
            IpAddr::V6(address) => {
                let open = || -> io::Result<Socket> {
                    let socket = Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::ICMPV6))?;
                    socket.set_nonblocking(true)?;
                    socket.bind_device(Some(vip.interface.as_bytes()))?;
                    socket.set_multicast_if_v6(link.index)?;
                    socket.set_multicast_hops_v6(HOPS)?;
                    socket.set_multicast_loop_v6(false)?;
                    Ok(socket)
                };
                let (teller, asker) = (open()?, open()?);
                teller.bind(&SockAddr::from(SocketAddrV6::new(address, 0, 0, link.index)))?;
                Way::Neighbours { address, index: link.index, teller, asker }
            }
        };
        Ok(Announcer { mac, way })
    }

    /// Says that the address is here, then asks who else has it.
    pub fn announce(&self) -> io::Result<()> {
        match &self.way {
            Way::Arp { address, socket } => {
                for kind in [Arp::Announcement, Arp::Reply, Arp::Probe] {
                    socket.send(&frames::arp(kind, self.mac, *address))?;
                }
            }
            Way::Neighbours { address, index, teller, asker } => {
                let to = |group| SockAddr::from(SocketAddrV6::new(group, 0, 0, *index));
                teller.send_to(&frames::advertisement(self.mac, *address), &to(frames::ALL_NODES))?;
                let asked = frames::solicitation(self.mac, *address);
                asker.send_to(&asked, &to(frames::solicited_nodes(*address)))?;
            }
        }
        Ok(())
    }

    /// Who else has said since the last time that it has the address.
    pub fn rival(&self) -> Option<Mac> {
        let (Way::Arp { socket, .. } | Way::Neighbours { asker: socket, .. }) = &self.way;
        let mut socket: &Socket = socket;
        let holder = |heard: &[u8]| match &self.way {
            Way::Arp { address, .. } => frames::arp_holder(heard, *address),
            Way::Neighbours { address, .. } => frames::neighbour_holder(heard, *address),
        };
        let mut bytes = [0; MESSAGE_BYTES_MAX];
        let mut rival = None;
        for _ in 0..HEARD_MAX {
            let Ok(length) = socket.read(&mut bytes) else { break };
            rival = holder(&bytes[..length]).filter(|mac| *mac != self.mac).or(rival);
        }
        rival
    }
}
