//! Which child of the postmaster serves a client: by its title, as no SQL is to be had.
//!
//! `update_process_title` and `cluster_name` are pgherd's own settings, so titles are `postgres: NODE: …`
//! (`ps_status.c`, `backend_startup.c`): a backend is `user database host(port) activity`, a walsender `walsender user
//! [database] host(port) activity`. The private socket shows as `[local]`; by it come the agent, as its own role, and the proxy for
//! its clients. Everything else (checkpointer, workers, the startup process) has no address and is never touched.

use crate::postgres::{REPLICATION_ROLE, REWIND_ROLE, SUPERUSER};

/// In the place of an address: who comes by the Unix socket.
const LOCAL: &str = "[local]";

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Client,
    /// Forked a moment ago: whoever it is has not said so.
    Untitled,
    /// The cluster's own, or no session at all.
    Own,
}

pub fn kind(title: &str) -> Kind {
    if title.is_empty() {
        // Ended, and not collected yet.
        return Kind::Own;
    }
    let Some(rest) = title.strip_prefix("postgres: ") else { return Kind::Untitled };
    let rest = rest.split_once(": ").map_or(rest, |(_, rest)| rest);
    let words: Vec<&str> = rest.split_whitespace().collect();
    let Some(at) = words.iter().position(|word| *word == LOCAL || is_address(word)) else {
        return if rest.ends_with("startup packet") { Kind::Untitled } else { Kind::Own };
    };
    match words.as_slice() {
        // A database may be called like an address; a worker does nothing else, so its title ends there.
        ["autovacuum", "worker", _] => Kind::Own,
        // The agent, whatever database it asks.
        [SUPERUSER, _, LOCAL, ..] | ["walsender", SUPERUSER, LOCAL, ..] => Kind::Own,
        ["walsender", user, ..] | [user, ..] if at >= 2 && is_own(user) => Kind::Own,
        _ => Kind::Client,
    }
}

fn is_own(user: &str) -> bool {
    [REPLICATION_ROLE, REWIND_ROLE].contains(&user)
}

/// `127.0.0.1(40512)`, `::1(40512)`, `host.example(40512)`.
fn is_address(word: &str) -> bool {
    let parts = word.strip_suffix(')').and_then(|word| word.rsplit_once('('));
    parts.is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn titles_of_fifteen_to_eighteen() {
        for (title, wanted) in [
            ("postgres: n1: postgres postgres 127.0.0.1(40512) idle", Kind::Client),
            ("postgres: n1: app shop ::1(40512) UPDATE waiting", Kind::Client),
            ("postgres: n1: app shop host.example(40512) authentication", Kind::Client),
            ("postgres: n1: archiver db 10.0.0.1(1) idle in transaction", Kind::Client),
            ("postgres: n1: John Doe my db 10.0.0.1(1) SELECT", Kind::Client),
            ("postgres: n1: walsender debezium shop 10.0.0.1(1) START_REPLICATION", Kind::Client),
            ("postgres: n1: walsender backup 10.0.0.1(1) sending backup \"x\"", Kind::Client),
            ("postgres: n1: walsender pgherd_replication 10.0.0.1(1) streaming 0/3000148", Kind::Own),
            ("postgres: n1: pgherd_rewind postgres 10.0.0.1(1) idle", Kind::Own),
            ("postgres: n1: postgres postgres [local] idle", Kind::Own),
            ("postgres: n1: postgres shop [local] authentication", Kind::Own),
            ("postgres: n1: walsender postgres [local] idle", Kind::Own),
            ("postgres: n1: app shop [local] UPDATE", Kind::Client),
            ("postgres: n1: app postgres [local] idle in transaction", Kind::Client),
            ("postgres: n1: postgres x shop [local] SELECT", Kind::Client),
            ("postgres: n1: walsender backup [local] sending backup \"x\"", Kind::Client),
            ("postgres: n1: autovacuum worker [local]", Kind::Own),
            ("postgres: n1: checkpointer ", Kind::Own),
            ("postgres: n1: autovacuum worker db(1)", Kind::Own),
            ("postgres: n1: autovacuum launcher ", Kind::Own),
            ("postgres: n1: archiver last was 000000010000000000000003", Kind::Own),
            ("postgres: n1: parallel worker for PID 4711 ", Kind::Own),
            ("postgres: n1: logical replication apply worker for subscription 16394 ", Kind::Own),
            ("postgres: n1: client backend startup packet", Kind::Untitled),
            ("/usr/lib/postgresql/17/bin/postgres -D /srv/n1/data -c port=5432", Kind::Untitled),
            ("", Kind::Own),
        ] {
            assert_eq!(kind(title), wanted, "{title}");
        }
    }
}
