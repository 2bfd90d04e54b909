//! PostgreSQL's md5 secrets: `md5` and the hash of password and user name.
//!
//! What it is: checks a client's answer, and makes the answer for a server. What it is not: safe; whoever reads such a
//! secret can log in with it, here as in PostgreSQL, which is why the stored secret is all the proxy needs to log in at a
//! server. Invariant: no `Debug` shows a secret, and every comparison takes the same time whatever differs.

use std::fmt;

use md5::{Digest, Md5};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// The 32 digits after `md5`.
#[derive(Clone, PartialEq, Eq)]
pub struct Md5Secret(Zeroizing<[u8; DIGITS]>);

const DIGITS: usize = 32;
const PREFIX: &[u8] = b"md5";

impl fmt::Debug for Md5Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Md5Secret(..)")
    }
}

impl Md5Secret {
    /// What `pg_authid.rolpassword` holds; PostgreSQL knows it by its length and its lower case digits.
    pub fn parse(text: &str) -> Option<Md5Secret> {
        let digits: [u8; DIGITS] = text.as_bytes().strip_prefix(PREFIX)?.try_into().ok()?;
        let are_digits = digits.iter().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'));
        are_digits.then(|| Md5Secret(Zeroizing::new(digits)))
    }

    /// The secret of this user with this password.
    pub fn of_password(password: &[u8], user: &str) -> Md5Secret {
        Md5Secret(digits_of(&[password, user.as_bytes()]))
    }

    /// What a PasswordMessage holds when the secret is known and this salt was asked for.
    pub fn answer(&self, salt: [u8; 4]) -> Zeroizing<Vec<u8>> {
        let digits = digits_of(&[&self.0[..], &salt]);
        Zeroizing::new([PREFIX, &digits[..]].concat())
    }

    /// Is this the answer of somebody who knows the secret?
    pub fn accepts(&self, salt: [u8; 4], answer: &[u8]) -> bool {
        self.answer(salt)[..].ct_eq(answer).into()
    }

    pub fn accepts_password(&self, password: &[u8], user: &str) -> bool {
        self.0[..].ct_eq(&Md5Secret::of_password(password, user).0[..]).into()
    }
}

fn digits_of(parts: &[&[u8]]) -> Zeroizing<[u8; DIGITS]> {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let mut hash = Md5::new();
    for part in parts {
        hash.update(part);
    }
    let mut digits = Zeroizing::new([0; DIGITS]);
    for (pair, byte) in digits.chunks_exact_mut(2).zip(hash.finalize()) {
        pair.copy_from_slice(&[HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
    }
    digits
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `printf passwordmd5_user | md5sum` prints, as PostgreSQL stores it.
    const STORED: &str = "md57cd2b9a92689eab2e58caf2da80afa15";

    #[test]
    fn only_whole_lower_case_digits_are_a_secret() {
        assert!(Md5Secret::parse(STORED).is_some());
        for text in ["", "md5", &STORED[1..], &STORED[..34], &format!("{STORED}0"), &STORED.to_uppercase()] {
            assert!(Md5Secret::parse(text).is_none(), "{text}");
        }
        assert!(Md5Secret::parse("md5zzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzz").is_none());
        assert!(!format!("{:?}", Md5Secret::parse(STORED)).contains("7cd2"));
    }

    #[test]
    fn the_answer_is_that_of_libpq() {
        // The vector of postgres-protocol's `md5_hash`, made with libpq.
        let secret = Md5Secret::of_password(b"password", "md5_user");
        let salt = [0x2a, 0x3d, 0x8f, 0xe0];
        assert!(Some(&secret) == Md5Secret::parse(STORED).as_ref());
        assert_eq!(&secret.answer(salt)[..], b"md562af4dd09bbb41884907a838a3233294");
        assert!(secret.accepts(salt, b"md562af4dd09bbb41884907a838a3233294"));
        assert!(!secret.accepts([0; 4], b"md562af4dd09bbb41884907a838a3233294"));
        for answer in [&b""[..], b"md5", b"password", b"md562af4dd09bbb41884907a838a323329"] {
            assert!(!secret.accepts(salt, answer));
        }
        assert!(secret.accepts_password(b"password", "md5_user"));
        assert!(!secret.accepts_password(b"password", "md5_users"));
        assert!(!secret.accepts_password(b"Password", "md5_user"));
    }
}
