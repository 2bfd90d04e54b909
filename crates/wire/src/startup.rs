//! The packets that open a connection, before the usual framing begins.
//!
//! What it is: parsing of the four packets without a type byte (start-up, SSLRequest, GSSENCRequest,
//! CancelRequest), borrowed from the bytes they came in. What it is not: the negotiation; nothing is answered here.
//! Invariant: a length is checked before a byte is reserved for it.

use std::fmt;

/// PostgreSQL's MAX_STARTUP_PACKET_LENGTH: the bytes after the length word.
pub const STARTUP_BODY_MAX: usize = 10_000;
/// PostgreSQL 18's MAX_CANCEL_KEY_LENGTH; protocol 3.0 has always 4 bytes.
pub const CANCEL_KEY_MAX: usize = 256;

const CANCEL_CODE: u32 = 80_877_102;
const SSL_CODE: u32 = 80_877_103;
const GSSENC_CODE: u32 = 80_877_104;

/// What a client may send first.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Opening<'a> {
    SslRequest,
    GssEncRequest,
    Cancel(CancelKey<'a>),
    Startup(Startup<'a>),
}

/// Names one running server process: what BackendKeyData gave and CancelRequest gives back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CancelKey<'a> {
    pub pid: u32,
    /// 1 to `CANCEL_KEY_MAX` bytes.
    pub secret: &'a [u8],
}

/// A start-up packet of protocol 3.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Startup<'a> {
    pub minor: u16,
    /// Pairs of texts that end in NUL; whole pairs only, without the final NUL.
    pairs: &'a [u8],
}

/// Why the first packet cannot be served.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OpeningError {
    /// The length word is below 8 or above the limit; also what TLS or HTTP on this port looks like.
    Length(u32),
    /// A protocol that is not 3.x.
    Version { major: u16, minor: u16 },
    /// The parameters are not pairs of texts with a NUL at the end.
    Parameters,
    /// A cancel key of no byte or more than `CANCEL_KEY_MAX`.
    CancelKey,
}

impl fmt::Display for OpeningError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OpeningError::Length(length) => write!(f, "invalid length of startup packet: {length}"),
            OpeningError::Version { major, minor } => {
                write!(f, "unsupported frontend protocol {major}.{minor}: only 3.x is spoken here")
            }
            OpeningError::Parameters => f.write_str("invalid startup packet layout"),
            OpeningError::CancelKey => f.write_str("invalid length of cancel key"),
        }
    }
}

impl std::error::Error for OpeningError {}

/// The bytes that follow the length word `word` of a first packet.
pub fn opening_body_length(word: [u8; 4]) -> Result<usize, OpeningError> {
    let length = u32::from_be_bytes(word);
    let body = (length as usize).checked_sub(4).ok_or(OpeningError::Length(length))?;
    if (4..=STARTUP_BODY_MAX).contains(&body) { Ok(body) } else { Err(OpeningError::Length(length)) }
}

/// Reads what follows the length word.
pub fn parse_opening(body: &[u8]) -> Result<Opening<'_>, OpeningError> {
    let Some((code, rest)) = body.split_first_chunk::<4>() else {
        return Err(OpeningError::Length(body.len() as u32 + 4));
    };
    match u32::from_be_bytes(*code) {
        SSL_CODE => Ok(Opening::SslRequest),
        GSSENC_CODE => Ok(Opening::GssEncRequest),
        CANCEL_CODE => CancelKey::parse(rest).map(Opening::Cancel).ok_or(OpeningError::CancelKey),
        version => {
            let (major, minor) = ((version >> 16) as u16, version as u16);
            if major != 3 {
                return Err(OpeningError::Version { major, minor });
            }
            Startup::parse(minor, rest).map(Opening::Startup)
        }
    }
}

impl<'a> CancelKey<'a> {
    /// The body of BackendKeyData, or of CancelRequest after its code.
    pub fn parse(body: &'a [u8]) -> Option<CancelKey<'a>> {
        let (pid, secret) = body.split_first_chunk::<4>()?;
        (1..=CANCEL_KEY_MAX)
            .contains(&secret.len())
            .then_some(CancelKey { pid: u32::from_be_bytes(*pid), secret })
    }

    /// The CancelRequest packet with this key.
    pub fn request(&self) -> Vec<u8> {
        let length = 12 + self.secret.len() as u32;
        let mut packet = Vec::with_capacity(length as usize);
        packet.extend_from_slice(&length.to_be_bytes());
        packet.extend_from_slice(&CANCEL_CODE.to_be_bytes());
        packet.extend_from_slice(&self.pid.to_be_bytes());
        packet.extend_from_slice(self.secret);
        packet
    }
}

impl<'a> Startup<'a> {
    fn parse(minor: u16, rest: &'a [u8]) -> Result<Startup<'a>, OpeningError> {
        let Some((0, pairs)) = rest.split_last() else {
            return Err(OpeningError::Parameters);
        };
        let texts_are_ended = pairs.last().is_none_or(|last| *last == 0);
        let texts = pairs.iter().filter(|byte| **byte == 0).count();
        let startup = Startup { minor, pairs };
        let names_are_given = startup.parameters().all(|(name, _)| !name.is_empty());
        if texts_are_ended && texts % 2 == 0 && names_are_given {
            Ok(startup)
        } else {
            Err(OpeningError::Parameters)
        }
    }

    /// Names and values as sent; their encoding is not known yet.
    pub fn parameters(&self) -> impl Iterator<Item = (&'a [u8], &'a [u8])> {
        let mut texts = self.pairs.split(|byte| *byte == 0);
        std::iter::from_fn(move || Some((texts.next()?, texts.next()?)))
    }

    /// The last value given for `name`, as PostgreSQL takes it.
    pub fn get(&self, name: &str) -> Option<&'a [u8]> {
        self.parameters().filter(|(key, _)| *key == name.as_bytes()).last().map(|(_, value)| value)
    }
}

impl Startup<'_> {
    /// The value that a session begins with for the setting `name`: a parameter of its own wins over `options`.
    pub fn setting(&self, name: &str) -> Option<Vec<u8>> {
        let own = self.parameters().filter(|(key, _)| key.eq_ignore_ascii_case(name.as_bytes())).last();
        match own {
            Some((_, value)) => Some(value.to_vec()),
            None => setting_in_options(self.get("options").unwrap_or_default(), name),
        }
    }
}

/// `-c name=value`, `-cname=value` and `--name=value`, divided as PostgreSQL's `pg_split_opts` does.
fn setting_in_options(options: &[u8], name: &str) -> Option<Vec<u8>> {
    let mut found = None;
    let mut after_c = false;
    for argument in split_options(options) {
        let assignment = match &argument[..] {
            _ if after_c => &argument[..],
            [b'-', b'-', rest @ ..] | [b'-', b'c', rest @ ..] => rest,
            _ => &[],
        };
        after_c = !after_c && argument == b"-c";
        let Some(equals) = assignment.iter().position(|byte| *byte == b'=') else { continue };
        let key: Vec<u8> =
            assignment[..equals].iter().map(|byte| if *byte == b'-' { b'_' } else { *byte }).collect();
        if key.eq_ignore_ascii_case(name.as_bytes()) {
            found = Some(assignment[equals + 1..].to_vec());
        }
    }
    found
}

fn split_options(options: &[u8]) -> Vec<Vec<u8>> {
    let mut arguments = vec![Vec::new()];
    let mut bytes = options.iter();
    while let Some(byte) = bytes.next() {
        let argument = arguments.len() - 1;
        match byte {
            b'\\' => arguments[argument].extend(bytes.next()),
            byte if byte.is_ascii_whitespace() || *byte == 0x0b => arguments.push(Vec::new()),
            byte => arguments[argument].push(*byte),
        }
    }
    arguments.retain(|argument| !argument.is_empty());
    arguments
}

/// `packet` with one more parameter, which wins over those before it; `None` when it becomes too long.
pub fn with_parameter(packet: &[u8], name: &str, value: &[u8]) -> Option<Vec<u8>> {
    let (0, pairs) = packet.split_last()? else { return None };
    let longer = [pairs, name.as_bytes(), b"\0", value, b"\0\0"].concat();
    let body = longer.len().checked_sub(4).filter(|body| *body <= STARTUP_BODY_MAX)?;
    let mut longer = longer;
    longer[..4].copy_from_slice(&(body as u32 + 4).to_be_bytes());
    Some(longer)
}

/// A start-up packet of protocol 3.`minor`, length word included.
pub fn startup_packet(minor: u16, parameters: &[(&str, &str)]) -> Vec<u8> {
    let mut packet = vec![0, 0, 0, 0, 0, 3];
    packet.extend_from_slice(&minor.to_be_bytes());
    for (name, value) in parameters {
        for text in [name, value] {
            packet.extend_from_slice(text.as_bytes());
            packet.push(0);
        }
    }
    packet.push(0);
    let length = packet.len() as u32;
    packet[..4].copy_from_slice(&length.to_be_bytes());
    packet
}

/// The packet that asks for TLS.
pub fn ssl_request() -> [u8; 8] {
    code_packet(SSL_CODE)
}

/// The packet that asks for GSSAPI encryption.
pub fn gssenc_request() -> [u8; 8] {
    code_packet(GSSENC_CODE)
}

fn code_packet(code: u32) -> [u8; 8] {
    let [a, b, c, d] = code.to_be_bytes();
    [0, 0, 0, 8, a, b, c, d]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chance::Chance;

    fn body(packet: &[u8]) -> &[u8] {
        let (word, rest) = packet.split_first_chunk::<4>().unwrap();
        assert_eq!(opening_body_length(*word), Ok(rest.len()));
        rest
    }

    #[test]
    fn a_startup_packet_gives_its_parameters() {
        let packet = startup_packet(2, &[("user", "ann"), ("options", ""), ("user", "bob")]);
        let Ok(Opening::Startup(startup)) = parse_opening(body(&packet)) else { panic!("no startup") };
        assert_eq!(startup.minor, 2);
        assert_eq!(startup.get("user"), Some(&b"bob"[..]));
        assert_eq!(startup.get("options"), Some(&b""[..]));
        assert_eq!(startup.get("database"), None);
        assert_eq!(startup.parameters().count(), 3);
    }

    #[test]
    fn settings_are_found_where_postgresql_finds_them() {
        let setting = |parameters: &[(&str, &str)]| {
            let packet = startup_packet(0, parameters);
            let Ok(Opening::Startup(startup)) = parse_opening(body(&packet)) else { panic!("no startup") };
            startup.setting("work_mem").map(|value| String::from_utf8(value).unwrap())
        };
        for options in ["-c work_mem=1MB", " -cwork_mem=1MB -d", "--work-mem=1MB", "-c a=b -c Work_Mem=1MB"] {
            assert_eq!(setting(&[("options", options)]).unwrap(), "1MB", "{options}");
        }
        assert_eq!(setting(&[("options", r"-c work_mem=1\ MB")]).unwrap(), "1 MB");
        assert_eq!(setting(&[("options", "-c a=work_mem=2")]), None);
        assert_eq!(setting(&[("WORK_MEM", "2MB"), ("options", "-c work_mem=1MB")]).unwrap(), "2MB");
    }

    #[test]
    fn a_parameter_is_added_as_the_last() {
        let packet = startup_packet(0, &[("user", "ann"), ("a", "1")]);
        let longer = with_parameter(&packet, "a", b"2").unwrap();
        let Ok(Opening::Startup(startup)) = parse_opening(body(&longer)) else { panic!("no startup") };
        assert_eq!((startup.get("user"), startup.get("a")), (Some(&b"ann"[..]), Some(&b"2"[..])));
        assert_eq!(with_parameter(&packet, "b", &[b'x'; STARTUP_BODY_MAX]), None);
    }

    #[test]
    fn requests_are_told_apart() {
        assert_eq!(parse_opening(body(&ssl_request())), Ok(Opening::SslRequest));
        assert_eq!(parse_opening(body(&gssenc_request())), Ok(Opening::GssEncRequest));
        for length in [1, 4, 32, CANCEL_KEY_MAX] {
            let secret = vec![7; length];
            let key = CancelKey { pid: 42, secret: &secret };
            assert_eq!(parse_opening(body(&key.request())), Ok(Opening::Cancel(key)));
        }
    }

    #[test]
    fn malformed_packets_are_refused() {
        for length in [0, 4, 7, STARTUP_BODY_MAX as u32 + 5, u32::MAX, 0x1603_0100] {
            assert_eq!(opening_body_length(length.to_be_bytes()), Err(OpeningError::Length(length)));
        }
        assert_eq!(parse_opening(&[0, 2, 0, 0]), Err(OpeningError::Version { major: 2, minor: 0 }));
        for parameters in [&b""[..], b"user", b"user\0ann\0", b"user\0\0\0", b"\0x\0\0", b"user\0ann"] {
            let packet = [&[0, 3, 0, 0], parameters].concat();
            if parameters == b"user\0\0\0" {
                assert!(parse_opening(&packet).is_ok(), "an empty value is a value");
            } else {
                assert_eq!(parse_opening(&packet), Err(OpeningError::Parameters), "{parameters:?}");
            }
        }
        let long = CancelKey { pid: 1, secret: &[0; CANCEL_KEY_MAX + 1] };
        assert_eq!(parse_opening(body(&long.request())), Err(OpeningError::CancelKey));
        assert_eq!(
            parse_opening(&CancelKey { pid: 1, secret: &[] }.request()[4..]),
            Err(OpeningError::CancelKey)
        );
    }

    #[test]
    fn random_bytes_never_panic() {
        let mut chance = Chance::new(1);
        for _ in 0..20_000 {
            let mut bytes = chance.bytes(64);
            let _ = parse_opening(&bytes);
            bytes.splice(..0, [0, 3, 0, 0]);
            if let Ok(Opening::Startup(startup)) = parse_opening(&bytes) {
                assert!(startup.parameters().count() <= bytes.len());
            }
        }
    }
}
