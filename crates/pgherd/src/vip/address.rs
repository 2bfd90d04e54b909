//! The address itself, as it is written in the configuration and in the fencer's orders.

use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// The longest name of an interface, without the final zero (IFNAMSIZ, netdevice(7)).
const INTERFACE_BYTES_MAX: usize = 15;

/// An address with the length of its network's prefix, and the interface that is to have it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct VirtualIp {
    pub address: IpAddr,
    /// Bits.
    pub prefix: u8,
    pub interface: String,
}

/// `10.0.0.100/24`.
impl fmt::Display for VirtualIp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

/// Reads `address/prefix`; `Err` says what is wrong with it.
pub fn parse(text: &str) -> Result<(IpAddr, u8), String> {
    let wrong = || {
        format!(
            "expected an address with its prefix, such as \"10.0.0.100/24\" or \"fd00::100/64\", found {text:?}"
        )
    };
    let (address, prefix) = text.split_once('/').ok_or_else(wrong)?;
    let (address, prefix): (IpAddr, u8) =
        (address.parse().map_err(|_| wrong())?, prefix.parse().map_err(|_| wrong())?);
    let bits = if address.is_ipv4() { 32 } else { 128 };
    if !(1..=bits).contains(&prefix) {
        return Err(format!("the prefix of {address} is 1 to {bits}, found {prefix}"));
    }
    if address.is_unspecified() || address.is_loopback() || address.is_multicast() {
        return Err(format!("{address} is no address that one node can have for others"));
    }
    if let IpAddr::V4(v4) = address
        && prefix < 31
    {
        // Of a network's addresses the first is its name and the last means all of them (RFC 919).
        let host = u32::from(v4) & (u32::MAX >> prefix);
        if host == 0 || host == u32::MAX >> prefix {
            return Err(format!("{address} is no node's address in a network of /{prefix}"));
        }
    }
    Ok((address, prefix))
}

/// Why `text` can name no interface.
pub fn check_interface(text: &str) -> Result<(), String> {
    let allowed = |c: char| c.is_ascii_graphic() && c != '/' && c != ':';
    let good = (1..=INTERFACE_BYTES_MAX).contains(&text.len()) && text.chars().all(allowed);
    match good && text != "." && text != ".." {
        true => Ok(()),
        false => Err(format!(
            "expected the name of an interface, such as \"eth0\" (ip link shows them), found {text:?}"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_a_prefix_that_fits_it() {
        for good in ["10.0.0.100/24", "10.0.0.0/32", "10.0.0.0/31", "fd00::100/64", "fe80::1/128"] {
            let (address, prefix) = parse(good).unwrap();
            let vip = VirtualIp { address, prefix, interface: "eth0".to_owned() };
            assert_eq!(vip.to_string(), good);
        }
        for (wrong, why) in [
            ("10.0.0.100", "expected an address with its prefix"),
            ("10.0.0/24", "expected an address with its prefix"),
            ("10.0.0.100/x", "expected an address with its prefix"),
            ("10.0.0.100/33", "is 1 to 32, found 33"),
            ("fd00::1/0", "is 1 to 128, found 0"),
            ("127.0.0.1/8", "no address that one node can have"),
            ("224.0.0.1/24", "no address that one node can have"),
            ("0.0.0.0/24", "no address that one node can have"),
            ("10.0.0.0/24", "no node's address in a network of /24"),
            ("10.0.0.255/24", "no node's address in a network of /24"),
        ] {
            let error = parse(wrong).unwrap_err();
            assert!(error.contains(why), "{wrong}: {error}");
        }
    }

    #[test]
    fn an_interface_has_a_name_of_the_kernels() {
        for good in ["eth0", "bond0.100", "br-lan", "enp3s0f1np1"] {
            assert_eq!(check_interface(good), Ok(()));
        }
        for wrong in ["", "eth0:1", "a/b", "an interface", "sixteen-letters-", ".."] {
            assert!(check_interface(wrong).is_err(), "{wrong}");
        }
    }
}
