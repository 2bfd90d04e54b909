//! The file of users: a line each, `name role secret`.
//!
//! The secret is what PostgreSQL stores of a password (SCRAM-SHA-256), so the file has no password. It is read anew when it has
//! changed. Invariants: one that others may read is refused; one that cannot be used lets nobody in, rather than those it had
//! before: somebody may have been taken out of it.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use proxy::auth::scram::{Mock, Verifier};
use proxy::tls::Stamp;
use sha2::{Digest, Sha256};

use super::UserRole;

const HEAD: &str = "# Users of pgherd's HTTP interface: name, role, secret. Written by `pgherd user`.\n";
const NAME_BYTES_MAX: usize = 63;
/// A secret can be guessed at by who has stolen the file; this many characters make that long.
pub const PASSWORD_CHARACTERS_MIN: usize = 8;
/// Far beyond any, and cheap to hash.
const PASSWORD_BYTES_MAX: usize = 1_024;
/// Passwords that were found right lately, so that a script's every request is not worth milliseconds.
const PROVEN_MAX: usize = 256;

/// Why the file cannot be used, or not be changed.
#[derive(Debug, thiserror::Error)]
pub enum UsersError {
    #[error("cannot read {}: {source}", .path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("cannot write {}: {source}", .path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("{} may be read by others (mode {mode:04o}); type: chmod 600 {}", .path.display(), .path.display())]
    Exposed { path: PathBuf, mode: u32 },
    #[error("{}, line {line}: {reason}", .path.display())]
    Line { path: PathBuf, line: usize, reason: String },
    #[error("{0}")]
    Unfit(String),
}

/// Somebody to be added.
pub struct NewUser<'a> {
    pub name: &'a str,
    pub role: UserRole,
    pub password: &'a [u8],
    /// Random.
    pub salt: [u8; 16],
}

#[derive(Clone)]
struct User {
    role: UserRole,
    verifier: Verifier,
}

type List = BTreeMap<String, User>;

/// The users of a node that runs.
pub struct Users {
    path: PathBuf,
    mock: Mock,
    /// Of this process, so that what is kept of a password tells nobody anything.
    key: [u8; 32],
    known: Mutex<Known>,
}

struct Known {
    stamp: Stamp,
    users: List,
    proven: HashSet<[u8; 32]>,
}

impl Users {
    pub fn open(path: &Path) -> Result<Users, UsersError> {
        let stamp = stamp(path);
        let known = Known { stamp, users: read(path)?, proven: HashSet::new() };
        let mock = Mock::new(rand::random(), 0);
        Ok(Users { path: path.to_owned(), mock, key: rand::random(), known: Mutex::new(known) })
    }

    fn mark(&self, name: &str, password: &[u8]) -> [u8; 32] {
        let mut mark = Sha256::new_with_prefix(self.key);
        mark.update((name.len() as u64).to_le_bytes());
        mark.chain_update(name).chain_update(password).finalize().into()
    }

    /// What this user may, if that was found to be his password lately and the file is as it was then.
    pub fn proven(&self, name: &str, password: &[u8]) -> Option<UserRole> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let is_proven = known.proven.contains(&self.mark(name, password)) && known.stamp == stamp(&self.path);
        known.users.get(name).filter(|_| is_proven).map(|user| user.role)
    }

    /// What this user may, if that is his password; `None` for a wrong one and for a stranger, after the same work.
    pub fn role(&self, name: &str, password: &[u8]) -> Result<Option<UserRole>, UsersError> {
        if password.len() > PASSWORD_BYTES_MAX || name.len() > NAME_BYTES_MAX {
            return Ok(None);
        }
        let mark = self.mark(name, password);
        let user = {
            let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            let now = stamp(&self.path);
            if known.stamp != now {
                // Nobody is let in by what the file said before, also when it cannot be read now.
                *known =
                    Known { stamp: Stamp::of([].into_iter()), users: List::new(), proven: HashSet::new() };
                known.users = read(&self.path)?;
                known.stamp = now;
            }
            known.users.get(name).cloned()
        };
        let verifier = user.as_ref().map_or_else(|| self.mock.verifier(name), |user| user.verifier.clone());
        let is_right = verifier.accepts_password(password).flatten().is_some();
        let Some(user) = user.filter(|_| is_right) else { return Ok(None) };
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.proven.len() == PROVEN_MAX {
            known.proven.clear();
        }
        // Of the list that he was checked by: in another he may have another password.
        let is_current = known
            .users
            .get(name)
            .is_some_and(|now| now.verifier.secret_text() == user.verifier.secret_text());
        if is_current {
            known.proven.insert(mark);
        }
        Ok(Some(user.role))
    }

    /// Names and roles, in order of the names. A file that is not there has none.
    pub fn list(path: &Path) -> Result<Vec<(String, UserRole)>, UsersError> {
        let users = read_if_there(path)?;
        Ok(users.into_iter().map(|(name, user)| (name, user.role)).collect())
    }

    /// Adds somebody, or gives him another password and role; true when he is new.
    pub fn add(path: &Path, new: &NewUser<'_>) -> Result<bool, UsersError> {
        let unfit = |text: &str| Err(UsersError::Unfit(text.to_owned()));
        let is_word = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.@".contains(&byte);
        if new.name.is_empty() || new.name.len() > NAME_BYTES_MAX || !new.name.bytes().all(is_word) {
            return unfit("a user's name has 1 to 63 letters, digits and _ - . @");
        }
        if String::from_utf8_lossy(new.password).chars().count() < PASSWORD_CHARACTERS_MIN {
            return unfit("a password has eight characters at least");
        }
        if new.password.len() > PASSWORD_BYTES_MAX {
            return unfit("a password has 1,024 bytes at most");
        }
        let mut users = read_if_there(path)?;
        let user = User { role: new.role, verifier: Verifier::new(new.password, new.salt) };
        let is_new = users.insert(new.name.to_owned(), user).is_none();
        write(path, &users)?;
        Ok(is_new)
    }

    /// Takes somebody out; false when he is not there.
    pub fn remove(path: &Path, name: &str) -> Result<bool, UsersError> {
        let mut users = read(path)?;
        let was_there = users.remove(name).is_some();
        if was_there {
            write(path, &users)?;
        }
        Ok(was_there)
    }
}

fn stamp(path: &Path) -> Stamp {
    Stamp::of([path].into_iter())
}

fn read_if_there(path: &Path) -> Result<List, UsersError> {
    if path.exists() { read(path) } else { Ok(List::new()) }
}

fn read(path: &Path) -> Result<List, UsersError> {
    let wrong = |source| UsersError::Read { path: path.to_owned(), source };
    let mode = fs::metadata(path).map_err(wrong)?.mode() & 0o7777;
    if mode & 0o037 != 0 {
        return Err(UsersError::Exposed { path: path.to_owned(), mode });
    }
    let text = fs::read_to_string(path).map_err(wrong)?;
    let mut users = List::new();
    for (number, line) in text.lines().enumerate() {
        let wrong = |reason: String| UsersError::Line { path: path.to_owned(), line: number + 1, reason };
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [name, role, secret] = fields[..] else {
            return Err(wrong(
                "expected a name, a role and a secret, as `pgherd user add` writes them".to_owned(),
            ));
        };
        let role = role.parse().map_err(wrong)?;
        let verifier = Verifier::parse(secret);
        let verifier = verifier.ok_or_else(|| wrong("the secret is no SCRAM-SHA-256 secret".to_owned()))?;
        if users.insert(name.to_owned(), User { role, verifier }).is_some() {
            return Err(wrong(format!("{name} is there twice")));
        }
    }
    Ok(users)
}

/// Whole or not at all; the owner and group of the file stay, so that the node can still read it.
fn write(path: &Path, users: &List) -> Result<(), UsersError> {
    let mut text = HEAD.to_owned();
    for (name, user) in users {
        text.push_str(&format!("{name} {} {}\n", user.role.word(), user.verifier.secret_text()));
    }
    let replace = || {
        let fresh = path.with_extension("new");
        let _ = fs::remove_file(&fresh);
        let before = fs::metadata(path).ok();
        let mode = before.as_ref().map_or(0o600, |before| before.mode() & 0o640);
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&fresh)?;
        if let Some(before) = before {
            std::os::unix::fs::fchown(&file, Some(before.uid()), Some(before.gid()))?;
        }
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&fresh, path)
    };
    replace().map_err(|source| UsersError::Write { path: path.to_owned(), source })
}
