//! One rule: its fields, and whether a client matches them.

use std::net::IpAddr;

use super::tokens::{Field, Token};
use super::{Interface, Origin, Outcome, Password, Replication, Request};
use crate::auth::roles::Roles;

/// What can be said of a field or a rule.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Match {
    Yes,
    No,
    /// Because of this.
    Unknown(String),
}

impl Match {
    fn when(is_so: bool) -> Match {
        if is_so { Match::Yes } else { Match::No }
    }

    /// One No is enough, and Yes takes all.
    fn and(self, other: impl FnOnce() -> Match) -> Match {
        match self {
            Match::No => Match::No,
            Match::Yes => other(),
            Match::Unknown(why) => {
                if other() == Match::No {
                    Match::No
                } else {
                    Match::Unknown(why)
                }
            }
        }
    }

    /// One Yes is enough, and No takes all.
    fn or(self, other: impl FnOnce() -> Match) -> Match {
        match self {
            Match::Yes => Match::Yes,
            Match::No => other(),
            Match::Unknown(why) => {
                if other() == Match::Yes {
                    Match::Yes
                } else {
                    Match::Unknown(why)
                }
            }
        }
    }
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Connection {
    Local,
    Host,
    Ssl,
    NoSsl,
    GssEnc,
    NoGssEnc,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Address {
    All,
    SameHost,
    SameNet,
    Net {
        address: IpAddr,
        mask: IpAddr,
    },
    /// A host name, or a number that `getaddrinfo` reads in a way of its own.
    Name(String),
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Kind {
    Rule {
        connection: Connection,
        databases: Field,
        users: Field,
        address: Address,
        outcome: Outcome,
    },
    /// `include`: other rules stand here, and one of them may match.
    Include,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rule {
    line: usize,
    kind: Kind,
}

impl Rule {
    /// `fields` has one at least.
    pub fn parse(line: usize, fields: &[Field]) -> Result<Rule, String> {
        let mut fields = fields.iter();
        let first = one(fields.next(), "connection type")?;
        if matches!(first.text.as_str(), "include" | "include_if_exists" | "include_dir") {
            return Ok(Rule { line, kind: Kind::Include });
        }
        let connection = match first.text.as_str() {
            "local" => Connection::Local,
            "host" => Connection::Host,
            "hostssl" => Connection::Ssl,
            "hostnossl" => Connection::NoSsl,
            "hostgssenc" => Connection::GssEnc,
            "hostnogssenc" => Connection::NoGssEnc,
            other => return Err(format!("invalid connection type \"{other}\"")),
        };
        let databases = fields.next().ok_or("end-of-line before database specification")?.clone();
        let users = fields.next().ok_or("end-of-line before role specification")?.clone();
        let address = match connection {
            Connection::Local => Address::All,
            _ => address(&mut fields)?,
        };
        let method = one(fields.next(), "authentication method")?;
        let options = options(fields)?;
        let outcome = outcome(&connection, &method.text, &options)?;
        Ok(Rule { line, kind: Kind::Rule { connection, databases, users, address, outcome } })
    }

    pub fn line(&self) -> usize {
        self.line
    }

    pub fn outcome(&self) -> Outcome {
        match &self.kind {
            Kind::Rule { outcome, .. } => outcome.clone(),
            Kind::Include => Outcome::Elsewhere("an included file".to_owned()),
        }
    }

    /// What of it needs more than the client's packet, address and certificate.
    pub fn undecidable(&self) -> Option<String> {
        let Kind::Rule { databases, users, address, outcome, .. } = &self.kind else {
            return Some("an included file".to_owned());
        };
        let roles =
            |token: &Token| !token.is_quoted && matches!(token.text.as_str(), "samerole" | "samegroup");
        let group = |token: &Token| !token.is_quoted && token.text.starts_with('+');
        let read = databases.iter().chain(users).find_map(unreadable);
        match (read, outcome, address) {
            (Some(Match::Unknown(why)), ..) => Some(why),
            (_, Outcome::Elsewhere(why), _) => Some(why.clone()),
            _ if databases.iter().any(roles) || users.iter().any(group) => {
                Some("what roles are members of".to_owned())
            }
            (.., Address::Name(name)) => Some(format!("the host name \"{name}\"")),
            (.., Address::SameHost | Address::SameNet) => Some("this machine's addresses".to_owned()),
            _ => None,
        }
    }

    pub fn matches(&self, request: &Request<'_>, roles: &Roles, interfaces: Option<&[Interface]>) -> Match {
        let Kind::Rule { connection, databases, users, address, .. } = &self.kind else { return Match::Yes };
        Match::when(connection_matches(connection, request.origin))
            .and(|| address_matches(address, request.origin, interfaces))
            .and(|| any(databases, |token| database_matches(token, request, roles)))
            .and(|| any(users, |token| user_matches(token, request.user, roles)))
    }
}

fn connection_matches(connection: &Connection, origin: Origin) -> bool {
    match (connection, origin) {
        (Connection::Local, Origin::Local) => true,
        (Connection::Host | Connection::NoGssEnc, Origin::Host { .. }) => true,
        (Connection::Ssl, Origin::Host { tls, .. }) => tls,
        (Connection::NoSsl, Origin::Host { tls, .. }) => !tls,
        // This proxy declines encryption by GSSAPI, so nobody comes with it.
        (Connection::GssEnc, _) => false,
        (_, Origin::Local) | (Connection::Local, _) => false,
    }
}

fn address_matches(address: &Address, origin: Origin, interfaces: Option<&[Interface]>) -> Match {
    let Origin::Host { address: client, .. } = origin else { return Match::Yes };
    // A socket for both families shows IPv4 clients as IPv6; PostgreSQL's, of one family each, does not.
    let client = client.to_canonical();
    let on_interfaces = |keyword: &str, whole: bool| match interfaces {
        None => Match::Unknown(format!("\"{keyword}\", as this machine's addresses are not known")),
        Some(interfaces) => Match::when(interfaces.iter().any(|interface| {
            let bits = if whole { 128 } else { interface.prefix };
            is_inside(client, interface.address, mask(interface.address, bits))
        })),
    };
    match address {
        Address::All => Match::Yes,
        Address::SameHost => on_interfaces("samehost", true),
        Address::SameNet => on_interfaces("samenet", false),
        Address::Net { address, mask } => Match::when(is_inside(client, *address, *mask)),
        Address::Name(name) => Match::Unknown(format!("the host name \"{name}\"")),
    }
}

fn is_inside(client: IpAddr, net: IpAddr, mask: IpAddr) -> bool {
    match (client, net, mask) {
        (IpAddr::V4(client), IpAddr::V4(net), IpAddr::V4(mask)) => {
            (client.to_bits() ^ net.to_bits()) & mask.to_bits() == 0
        }
        (IpAddr::V6(client), IpAddr::V6(net), IpAddr::V6(mask)) => {
            (client.to_bits() ^ net.to_bits()) & mask.to_bits() == 0
        }
        _ => false,
    }
}

/// The mask of so many bits, of the same family; more bits than it has are all.
fn mask(family: IpAddr, bits: u8) -> IpAddr {
    let bits = u32::from(bits);
    match family {
        IpAddr::V4(_) => IpAddr::V4(u32::MAX.checked_shl(32u32.saturating_sub(bits)).unwrap_or(0).into()),
        IpAddr::V6(_) => IpAddr::V6(u128::MAX.checked_shl(128u32.saturating_sub(bits)).unwrap_or(0).into()),
    }
}

fn any(field: &Field, matches: impl Fn(&Token) -> Match) -> Match {
    field.iter().fold(Match::No, |found, token| found.or(|| matches(token)))
}

fn database_matches(token: &Token, request: &Request<'_>, roles: &Roles) -> Match {
    if let Some(unknown) = unreadable(token) {
        // An expression never matches a physical replication connection; a file may hold the keyword.
        let is_expression = token.text.starts_with('/');
        return if is_expression && request.replication == Replication::Physical {
            Match::No
        } else {
            unknown
        };
    }
    if request.replication == Replication::Physical {
        return Match::when(token.is_keyword("replication"));
    }
    Match::when(match token.text.as_str() {
        _ if token.is_quoted => token.text == request.database,
        "all" => true,
        "sameuser" => request.database == request.user,
        "samerole" | "samegroup" => roles.is_member(request.user, request.database),
        "replication" => false,
        name => name == request.database,
    })
}

fn user_matches(token: &Token, user: &str, roles: &Roles) -> Match {
    if let Some(unknown) = unreadable(token) {
        return unknown;
    }
    Match::when(match token.text.strip_prefix('+').filter(|_| !token.is_quoted) {
        Some(role) => roles.is_member(user, role),
        None => token.is_keyword("all") || token.text == user,
    })
}

/// A quote before a slash changes nothing (`regcomp_auth_token` does not look at it), one before `@` makes a name of it.
fn unreadable(token: &Token) -> Option<Match> {
    match token.text.as_bytes() {
        [b'/', ..] => Some(Match::Unknown(format!("the regular expression \"{}\"", token.text))),
        [b'@', _, ..] if !token.is_quoted => Some(Match::Unknown(format!("the file \"{}\"", token.text))),
        _ => None,
    }
}

fn one<'f>(field: Option<&'f Field>, what: &str) -> Result<&'f Token, String> {
    match field.map(Vec::as_slice) {
        Some([token]) => Ok(token),
        Some(_) => Err(format!("multiple values specified for {what}")),
        None => Err(format!("end-of-line before {what}")),
    }
}

fn address<'f>(fields: &mut impl Iterator<Item = &'f Field>) -> Result<Address, String> {
    let token = one(fields.next(), "host address")?;
    for (keyword, address) in
        [("all", Address::All), ("samehost", Address::SameHost), ("samenet", Address::SameNet)]
    {
        if token.is_keyword(keyword) {
            return Ok(address);
        }
    }
    let (text, bits) =
        token.text.split_once('/').map_or((token.text.as_str(), None), |(text, bits)| (text, Some(bits)));
    match (text.parse::<IpAddr>(), bits) {
        (Ok(address), Some(bits)) => {
            let most = if address.is_ipv4() { 32 } else { 128 };
            let bits = bits.parse::<u8>().ok().filter(|bits| *bits <= most);
            let bits = bits.ok_or_else(|| format!("invalid CIDR mask in address \"{}\"", token.text))?;
            Ok(Address::Net { address, mask: mask(address, bits) })
        }
        (Ok(address), None) => {
            let token = one(fields.next(), "netmask")?;
            let mask =
                token.text.parse::<IpAddr>().map_err(|_| format!("invalid IP mask \"{}\"", token.text))?;
            if mask.is_ipv4() != address.is_ipv4() {
                return Err("IP address and mask do not match".to_owned());
            }
            Ok(Address::Net { address, mask })
        }
        (Err(_), bits) if looks_numeric(text) => {
            if bits.is_none() {
                one(fields.next(), "netmask")?;
            }
            Ok(Address::Name(token.text.clone()))
        }
        (Err(_), Some(_)) => {
            Err(format!("specifying both host name and CIDR mask is invalid: \"{}\"", token.text))
        }
        (Err(_), None) => Ok(Address::Name(text.to_owned())),
    }
}

/// What `getaddrinfo` takes for an address and we do not: `10.1`, `0x7f.1`, `010.0.0.1`, `fe80::1%eth0`.
fn looks_numeric(text: &str) -> bool {
    let is_number = |part: &str| {
        let hex = part.strip_prefix("0x").or_else(|| part.strip_prefix("0X"));
        let digits = hex.unwrap_or(part);
        digits
            .bytes()
            .all(|byte| if hex.is_some() { byte.is_ascii_hexdigit() } else { byte.is_ascii_digit() })
            && !(digits.is_empty() && hex.is_none())
    };
    text.contains(':') || text.split('.').all(is_number)
}

fn options<'f>(fields: impl Iterator<Item = &'f Field>) -> Result<Vec<(&'f str, &'f str)>, String> {
    let split = |token: &'f Token| {
        let text = &token.text;
        text.split_once('=').ok_or_else(|| format!("authentication option not in name=value format: {text}"))
    };
    fields.flatten().map(split).collect()
}

fn outcome(connection: &Connection, method: &str, options: &[(&str, &str)]) -> Result<Outcome, String> {
    let outcome = match method {
        "trust" => Outcome::Trust,
        "reject" => Outcome::Reject,
        "scram-sha-256" => Outcome::Password(Password::ScramSha256),
        "md5" => Outcome::Password(Password::Md5),
        "password" => Outcome::Password(Password::Password),
        "cert" if *connection != Connection::Ssl => {
            return Err("cert authentication is only supported on hostssl connections".to_owned());
        }
        "cert" => Outcome::Cert,
        // PostgreSQL takes the one for the other on Unix sockets.
        "peer" | "ident" if *connection == Connection::Local => Outcome::Peer,
        "peer" => return Err("peer authentication is only supported on local sockets".to_owned()),
        "gss" if *connection == Connection::Local => {
            return Err("gssapi authentication is not supported on local sockets".to_owned());
        }
        "ident" | "gss" | "sspi" | "pam" | "bsd" | "ldap" | "radius" | "oauth" => {
            return Ok(Outcome::Elsewhere(format!("the method \"{method}\"")));
        }
        other => return Err(format!("invalid authentication method \"{other}\"")),
    };
    let mut elsewhere = None;
    for (name, value) in options {
        elsewhere = option(connection, &outcome, name, value)?.or(elsewhere);
    }
    Ok(elsewhere.map_or(outcome, Outcome::Elsewhere))
}

/// Why a rule with this option is not decided here, if it is not.
fn option(
    connection: &Connection,
    outcome: &Outcome,
    name: &str,
    value: &str,
) -> Result<Option<String>, String> {
    let is_ssl = *connection == Connection::Ssl;
    match (name, value) {
        ("map", _) if matches!(outcome, Outcome::Cert | Outcome::Peer) => Ok(Some(format!("the user map \"{value}\""))),
        ("map", _) => {
            Err("authentication option \"map\" is only valid for authentication methods ident, peer, gssapi, sspi, and cert"
                .to_owned())
        }
        ("clientcert", _) if !is_ssl => Err("clientcert can only be configured for \"hostssl\" rows".to_owned()),
        ("clientcert", "verify-full") if *outcome == Outcome::Cert => Ok(None),
        ("clientcert", "verify-ca") if *outcome == Outcome::Cert => {
            Err("clientcert only accepts \"verify-full\" when using \"cert\" authentication".to_owned())
        }
        ("clientcert", "verify-ca" | "verify-full") => Ok(Some(format!("the option clientcert={value}"))),
        ("clientcert", _) => Err(format!("invalid value for clientcert: \"{value}\"")),
        ("clientname", _) if !is_ssl => Err("clientname can only be configured for \"hostssl\" rows".to_owned()),
        ("clientname", "CN") => Ok(None),
        ("clientname", "DN") => Ok(Some("the option clientname=DN".to_owned())),
        ("clientname", _) => Err(format!("invalid value for clientname: \"{value}\"")),
        _ => Err(format!("unrecognized authentication option name: \"{name}\"")),
    }
}
