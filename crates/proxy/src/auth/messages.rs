//! The messages of authentication, both ways.
//!
//! What it is: the bodies behind the type bytes `R` and `p`, written and read. What it is not: an exchange.
//! Invariant: every parser is total over its input, and none looks at more than `ANSWER_BYTES_MAX`.

use wire::message::{backend, frontend, put_frame, split_text};

/// PostgreSQL's `PG_MAX_AUTH_TOKEN_LENGTH`: no answer of a client may be longer. A reader of the socket refuses a frame by
/// its header alone, so that an unknown client costs at most this.
pub const ANSWER_BYTES_MAX: usize = 65_535;

/// PostgreSQL's `PG_MAX_SASL_MESSAGE_LENGTH`: no message of SCRAM is longer.
pub const SASL_BYTES_MAX: usize = 1024;

/// What a server asks of a client, or says to it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Authentication<'a> {
    Ok,
    CleartextPassword,
    Md5Password {
        salt: [u8; 4],
    },
    /// The names of mechanisms, each ended by NUL, the best first.
    Sasl {
        mechanisms: &'a [u8],
    },
    SaslContinue(&'a [u8]),
    SaslFinal(&'a [u8]),
    /// Kerberos, GSSAPI, SSPI and what may come.
    Other(u32),
}

impl<'a> Authentication<'a> {
    /// Appends the whole message, type byte included.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let (code, rest): (u32, &[u8]) = match self {
            Authentication::Ok => (0, &[]),
            Authentication::CleartextPassword => (3, &[]),
            Authentication::Md5Password { salt } => (5, salt),
            Authentication::Sasl { mechanisms } => (10, mechanisms),
            Authentication::SaslContinue(data) => (11, data),
            Authentication::SaslFinal(data) => (12, data),
            Authentication::Other(code) => (*code, &[]),
        };
        let mut body = code.to_be_bytes().to_vec();
        body.extend_from_slice(rest);
        if matches!(self, Authentication::Sasl { .. }) {
            body.push(0);
        }
        put_frame(out, backend::AUTHENTICATION, &body);
    }

    /// The body of a server's message; `None` when it is none.
    pub fn parse(body: &'a [u8]) -> Option<Authentication<'a>> {
        let (code, rest) = body.split_first_chunk::<4>().filter(|_| body.len() <= ANSWER_BYTES_MAX)?;
        Some(match (u32::from_be_bytes(*code), rest) {
            (0, []) => Authentication::Ok,
            (3, []) => Authentication::CleartextPassword,
            (5, salt) => Authentication::Md5Password { salt: salt.try_into().ok()? },
            (10, [mechanisms @ .., 0]) => Authentication::Sasl { mechanisms },
            (11, data) => Authentication::SaslContinue(data),
            (12, data) => Authentication::SaslFinal(data),
            (0 | 3 | 10, _) => return None,
            (other, _) => Authentication::Other(other),
        })
    }

    /// Does a server that sent `Sasl` offer this mechanism?
    pub fn offers(&self, mechanism: &str) -> bool {
        match self {
            Authentication::Sasl { mechanisms } => {
                mechanisms.split(|byte| *byte == 0).any(|name| name == mechanism.as_bytes())
            }
            _ => false,
        }
    }
}

/// A client's PasswordMessage: the password without its NUL. `None`: it has no NUL at its end, or one before.
pub fn password(body: &[u8]) -> Option<&[u8]> {
    if body.len() > ANSWER_BYTES_MAX {
        return None;
    }
    split_text(body).filter(|(_, rest)| rest.is_empty()).map(|(password, _)| password)
}

/// Appends a PasswordMessage, without a copy of the password on the way.
pub fn put_password(out: &mut Vec<u8>, password: &[u8]) {
    out.push(frontend::PASSWORD);
    out.extend_from_slice(&(password.len() as u32 + 5).to_be_bytes());
    out.extend_from_slice(password);
    out.push(0);
}

/// A client's SASLInitialResponse.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SaslInitial<'a> {
    pub mechanism: &'a [u8],
    /// `None`: the client wants to be asked for it by an empty challenge.
    pub data: Option<&'a [u8]>,
}

impl<'a> SaslInitial<'a> {
    pub fn parse(body: &'a [u8]) -> Option<SaslInitial<'a>> {
        if body.len() > SASL_BYTES_MAX {
            return None;
        }
        let (mechanism, rest) = split_text(body)?;
        let (length, data) = rest.split_first_chunk::<4>()?;
        let data = match u32::from_be_bytes(*length) {
            u32::MAX if data.is_empty() => None,
            length => Some(data).filter(|data| data.len() == length as usize).map(Some)?,
        };
        Some(SaslInitial { mechanism, data })
    }

    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut body = [self.mechanism, &[0]].concat();
        match self.data {
            None => body.extend_from_slice(&u32::MAX.to_be_bytes()),
            Some(data) => {
                body.extend_from_slice(&(data.len() as u32).to_be_bytes());
                body.extend_from_slice(data);
            }
        }
        put_frame(out, frontend::PASSWORD, &body);
    }
}

/// A client's SASLResponse: its body is the data.
pub fn sasl_response(body: &[u8]) -> Option<&[u8]> {
    Some(body).filter(|body| body.len() <= SASL_BYTES_MAX)
}

pub fn put_sasl_response(out: &mut Vec<u8>, data: &[u8]) {
    put_frame(out, frontend::PASSWORD, data);
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let messages = [
            Authentication::Ok,
            Authentication::CleartextPassword,
            Authentication::Md5Password { salt: [1, 2, 0, 4] },
            Authentication::Sasl { mechanisms: b"SCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0" },
            Authentication::SaslContinue(b"r=1"),
            Authentication::SaslFinal(b""),
            Authentication::Other(7),
        ];
        for message in messages {
            let mut out = Vec::new();
            message.encode(&mut out);
            assert_eq!(out[0], b'R');
            assert_eq!(u32::from_be_bytes(out[1..5].try_into().unwrap()) as usize, out.len() - 1);
            assert_eq!(Authentication::parse(&out[5..]), Some(message));
        }
        assert!(messages[3].offers("SCRAM-SHA-256") && !messages[3].offers("SCRAM-SHA"));
        assert!(!messages[0].offers(""));
        for data in [None, Some(&b""[..]), Some(b"n,,n=,r=x")] {
            let initial = SaslInitial { mechanism: b"SCRAM-SHA-256", data };
            let mut out = Vec::new();
            initial.encode(&mut out);
            assert_eq!(SaslInitial::parse(&out[5..]), Some(initial));
        }
        let mut out = Vec::new();
        put_password(&mut out, b"secret");
        assert_eq!(out, b"p\0\0\0\x0bsecret\0");
        assert_eq!(password(&out[5..]), Some(&b"secret"[..]));
    }

    #[test]
    fn what_is_too_long_or_cut_is_refused() {
        assert_eq!(password(b"secret"), None);
        assert_eq!(password(b"sec\0ret\0"), None);
        assert_eq!(password(b""), None);
        assert_eq!(password(&[vec![b'a'; ANSWER_BYTES_MAX], vec![0]].concat()), None);
        assert_eq!(sasl_response(&[0; SASL_BYTES_MAX + 1]), None);
        for body in [
            &b"SCRAM"[..],
            b"SCRAM\0",
            b"SCRAM\0\0\0\0\x02a",
            b"SCRAM\0\xff\xff\xff\xffa",
            b"\0\x7f\xff\xff\xff",
        ] {
            assert_eq!(SaslInitial::parse(body), None);
        }
        assert_eq!(Authentication::parse(&[0, 0, 0, 5, 1, 2, 3]), None);
        assert_eq!(Authentication::parse(&[0, 0, 0, 0, 9]), None);
        assert_eq!(Authentication::parse(&[0, 0, 0]), None);
    }

    #[test]
    fn random_bytes_never_panic() {
        let mut random = StdRng::seed_from_u64(11);
        for _ in 0..20_000 {
            let bytes: Vec<u8> = (0..random.random_range(0..40))
                .map(|_| random.random::<u8>() & 0x7f)
                .map(|b| if b < 40 { 0 } else { b })
                .collect();
            let _ = (Authentication::parse(&bytes), password(&bytes), SaslInitial::parse(&bytes));
        }
    }
}
