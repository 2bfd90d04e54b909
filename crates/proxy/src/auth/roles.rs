//! What is known of the cluster's roles: `pg_authid` and `pg_auth_members`, as far as a log-in needs them.
//!
//! What it is not: fresh by itself; who reads the catalogs makes a new one. Invariants: no `Debug` shows a secret;
//! membership is closed over once, when it is made, so that a question costs a look-up.

use std::collections::HashMap;
use std::fmt;

use super::md5::Md5Secret;
use super::scram::Verifier;

/// What `rolpassword` holds.
#[derive(Clone)]
pub enum Secret {
    /// NULL: no password lets this role in.
    None,
    Md5(Md5Secret),
    Scram(Verifier),
    /// Neither; PostgreSQL writes no such text, and nothing matches it.
    Unknown,
}

impl Secret {
    pub fn parse(rolpassword: Option<&str>) -> Secret {
        let Some(text) = rolpassword else { return Secret::None };
        match (Md5Secret::parse(text), Verifier::parse(text)) {
            (Some(secret), _) => Secret::Md5(secret),
            (None, Some(verifier)) => Secret::Scram(verifier),
            (None, None) => Secret::Unknown,
        }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Secret::None => "None",
            Secret::Md5(_) => "Md5(..)",
            Secret::Scram(_) => "Scram(..)",
            Secret::Unknown => "Unknown(..)",
        })
    }
}

#[derive(Clone, Debug)]
pub struct Role {
    pub can_login: bool,
    pub superuser: bool,
    pub secret: Secret,
    /// Of the password, in microseconds since 1970; `None` and `i64::MAX` are for ever.
    pub valid_until: Option<i64>,
    /// The roles that this one was granted directly.
    pub member_of: Vec<String>,
}

/// All roles of a cluster.
#[derive(Clone, Debug, Default)]
pub struct Roles {
    entries: HashMap<String, Entry>,
}

#[derive(Clone, Debug)]
struct Entry {
    number: u32,
    role: Role,
    /// Numbers of all roles that it is a member of, itself included; sorted.
    member_of: Vec<u32>,
}

impl Roles {
    pub fn new(roles: impl IntoIterator<Item = (String, Role)>) -> Roles {
        let entries = (0..)
            .zip(roles)
            .map(|(number, (name, role))| (name, Entry { number, role, member_of: Vec::new() }));
        let mut entries: HashMap<String, Entry> = entries.collect();
        let direct: HashMap<u32, Vec<u32>> = entries
            .values()
            .map(|entry| {
                let granted = entry.role.member_of.iter().filter_map(|name| Some(entries.get(name)?.number));
                (entry.number, granted.collect())
            })
            .collect();
        for entry in entries.values_mut() {
            entry.member_of = closure(entry.number, &direct);
        }
        Roles { entries }
    }

    pub fn get(&self, name: &str) -> Option<&Role> {
        self.entries.get(name).map(|entry| &entry.role)
    }

    /// As pg_hba.conf means it: directly or not, a role is a member of itself, and a superuser of nothing by being one.
    pub fn is_member(&self, user: &str, of: &str) -> bool {
        match (self.entries.get(user), self.entries.get(of)) {
            (Some(user), Some(of)) => user.member_of.binary_search(&of.number).is_ok(),
            _ => false,
        }
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

/// Everything that can be reached; a ring, which PostgreSQL refuses to make, ends it too.
fn closure(from: u32, direct: &HashMap<u32, Vec<u32>>) -> Vec<u32> {
    let mut found = std::collections::BTreeSet::from([from]);
    let mut open = vec![from];
    while let Some(number) = open.pop() {
        let granted = direct.get(&number).into_iter().flatten();
        open.extend(granted.copied().filter(|granted| found.insert(*granted)));
    }
    found.into_iter().collect()
}

#[cfg(test)]
pub fn role(secret: Secret, member_of: &[&str]) -> Role {
    let member_of = member_of.iter().map(|name| (*name).to_owned()).collect();
    Role { can_login: true, superuser: false, secret, valid_until: None, member_of }
}

/// Roles without secrets, each with what it was granted; `root` is a superuser.
#[cfg(test)]
pub fn granted(grants: &[(&str, &[&str])]) -> Roles {
    Roles::new(grants.iter().map(|(name, of)| {
        ((*name).to_owned(), Role { superuser: *name == "root", ..role(Secret::None, of) })
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn membership_is_transitive_and_never_by_being_superuser() {
        let roles = granted(&[
            ("a", &["b"]),
            ("b", &["c", "gone"]),
            ("c", &[]),
            ("root", &[]),
            ("x", &["y"]),
            ("y", &["x"]),
        ]);
        for (user, of) in [("a", "a"), ("a", "b"), ("a", "c"), ("b", "c"), ("x", "y"), ("y", "x")] {
            assert!(roles.is_member(user, of), "{user} {of}");
        }
        for (user, of) in [("c", "a"), ("root", "c"), ("nobody", "nobody"), ("b", "gone"), ("a", "x")] {
            assert!(!roles.is_member(user, of), "{user} {of}");
        }
        assert_eq!(roles.len(), 6);
    }

    #[test]
    fn a_secret_is_known_by_its_form_and_never_shown() {
        let scram = "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=";
        let md5 = "md562af4dd09bbb41884907a838a3233294";
        let cases = [
            (None, "None"),
            (Some(scram), "Scram(..)"),
            (Some(md5), "Md5(..)"),
            (Some("hunter2"), "Unknown(..)"),
            (Some(""), "Unknown(..)"),
        ];
        for (text, shown) in cases {
            let secret = Secret::parse(text);
            assert_eq!(format!("{secret:?}"), shown);
            let all = format!("{:?}", Roles::new([("u".to_owned(), role(secret, &[]))]));
            assert!(text.is_none_or(|text| text.is_empty() || !all.contains(text)));
            assert!(!all.contains("WG5d8") && !all.contains("62af4"));
        }
    }
}
