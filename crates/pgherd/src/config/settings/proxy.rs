//! The sections `[proxy]` and `[proxy_tls]` of the table.

use std::time::Duration;

use super::{Default, LOCALHOST, MILLISECOND, PORT, Setting, setting};
use crate::config::value::Kind;

const CROWD: Kind = Kind::Integer { min: 0, max: 1_000_000, unit: "" };
/// Of a proxy's client; zero is none.
const LIMIT: Kind = Kind::Duration { min: Duration::ZERO, max: Duration::from_secs(604_800) };

pub(super) const PROXY: &[Setting] = &[
    setting("proxy.listen", Kind::Host, LOCALHOST, "\"0.0.0.0\"", "Address the proxy listens on."),
    setting("proxy.read_write_port", PORT, Default::Value("6432"), "6432", "Port that leads to the primary."),
    setting(
        "proxy.read_only_port",
        PORT,
        Default::Value("6433"),
        "6433",
        "Port that leads to a replica, to the primary when none is fit.",
    ),
    setting(
        "proxy.auto_port",
        PORT,
        Default::Value("6434"),
        "6434",
        "Port that splits reads from writes: each statement goes where it may, see docs/concepts/routing.md. With pool_mode = \
         \"session\" it behaves as the read-write port.",
    ),
    setting(
        "proxy.socket_dir",
        Kind::Directory,
        Default::Derived("none: clients come by TCP alone"),
        "\"/run/postgresql\"",
        "Folder in which the three ports have Unix sockets, too, for programs on this machine: `psql -h DIR -p 6432`. Who may \
         connect is said by the folder's mode, and by the lines of `hba` for local. A transaction costs less there than over TCP.",
    ),
    setting(
        "proxy.hba",
        Kind::Lines,
        Default::List(&[]),
        "[\"hostssl all all 10.0.0.0/8 scram-sha-256\", \"host all all 127.0.0.1/32 trust\"]",
        "Lines of pg_hba.conf about the clients' own addresses, which PostgreSQL does not see: the first that matches decides, beside what \
         PostgreSQL decides by [postgres] hba. Methods: trust (PostgreSQL's rules are enough), scram-sha-256, md5 and password (a password is proven, \
         to the proxy where PostgreSQL asks for none), cert (the user's, by [proxy_tls] client_ca), peer (the operating system's user, at a Unix \
         socket), reject.",
    ),
    setting(
        "proxy.local_socket",
        Kind::Flag,
        Default::Value("false"),
        "true",
        "Servers of a pool on this node are reached by PostgreSQL's Unix socket, which costs less than TCP, once the client has been let \
         in over TCP. They are judged by the lines of [postgres] hba for local; where these do not let somebody in, TCP is used.",
    ),
    setting(
        "proxy.read_consistency",
        Kind::Choice(&["session", "cluster", "eventual"]),
        Default::Value("session"),
        "\"cluster\"",
        "What a read of the auto port sees on a replica: all that its own session has written; all that anybody's commit was \
         acknowledged before; or what the replica has. The primary answers where no replica has that.",
    ),
    setting(
        "proxy.replica_lag_max",
        Kind::Duration { min: MILLISECOND, max: Duration::from_secs(86_400) },
        Default::Value("10s"),
        "\"1min\"",
        "A replica that is further behind is not read from, by either port, while there is a primary.",
    ),
    setting(
        "proxy.replica_lag_bytes_max",
        Kind::Bytes,
        Default::Derived("none: replica_lag_max alone counts"),
        "\"64MB\"",
        "Nor is one that has not replayed more than so much of the primary's WAL.",
    ),
    setting(
        "proxy.primary_functions",
        Kind::Functions,
        Default::List(&[]),
        "[\"next_ticket\", \"shop.price_now\"]",
        "Functions whose calls the auto port sends to the primary, though the catalog calls them STABLE or IMMUTABLE: such as \
         write all the same. `name` means it in every schema.",
    ),
    setting(
        "proxy.replica_functions",
        Kind::Functions,
        Default::List(&proxy::HARMLESS_FUNCTIONS),
        "[\"pg_catalog.random\", \"audit.current_actor\"]",
        "Functions that replicas may run though the catalog calls them VOLATILE, as it does with each that says nothing.",
    ),
    setting(
        "proxy.sessions_max",
        Kind::Integer { min: 1, max: 1_000_000, unit: "sessions" },
        Default::Value("5000"),
        "5000",
        "Client sessions at once; further ones are refused with an error.",
    ),
    setting(
        "proxy.queue_max",
        Kind::Integer { min: 0, max: 1_000_000, unit: "sessions" },
        Default::Value("1000"),
        "1000",
        "Sessions that may wait while there is no server for them; further ones are refused with an error.",
    ),
    setting(
        "proxy.queue_timeout",
        Kind::Duration { min: MILLISECOND, max: Duration::from_secs(3600) },
        Default::Value("15s"),
        "\"15s\"",
        "How long a session waits for a server before it gets an error. A takeover takes a few seconds.",
    ),
    setting(
        "proxy.threads",
        Kind::Integer { min: 0, max: 64, unit: "threads" },
        Default::Value("0"),
        "2",
        "Threads that move the sessions' bytes; 0: one for every four cores of the machine, and one at least.",
    ),
    setting(
        "proxy.pool_mode",
        Kind::Choice(&["transaction", "session", "statement"]),
        Default::Value("transaction"),
        "\"session\"",
        "For how long a session has a server: for a transaction (and until DISCARD ALL when it leaves something there that \
         cannot be carried to another, LISTEN or a temporary table for instance), until it ends, or for a statement: then transaction \
         blocks are refused (0A000).",
    ),
    setting(
        "proxy.pool_size",
        Kind::Integer { min: 1, max: 100_000, unit: "servers" },
        Default::Value("20"),
        "40",
        "Servers that all sessions with one user, database and start-up settings may have at once, on each node's proxy; \
         further ones wait. While clients log in there may be more for a moment. Not for pool_mode = \"session\".",
    ),
    setting(
        "proxy.pool_min",
        Kind::Integer { min: 0, max: 100_000, unit: "servers" },
        Default::Value("0"),
        "5",
        "Servers of a pool that stay open though nobody uses them, while it has sessions.",
    ),
    setting(
        "proxy.pool_reserve",
        Kind::Integer { min: 0, max: 100_000, unit: "servers" },
        Default::Value("0"),
        "5",
        "Servers beyond pool_size for sessions that have waited for pool_reserve_after.",
    ),
    setting(
        "proxy.pool_reserve_after",
        Kind::Duration { min: MILLISECOND, max: Duration::from_secs(3600) },
        Default::Value("5s"),
        "\"1s\"",
        "See pool_reserve.",
    ),
    setting(
        "proxy.user_servers_max",
        CROWD,
        Default::Value("0"),
        "50",
        "Connections to servers that one user may have by this node's proxy, in all pools and those of log-ins included; who needs one \
         more gets an idle one's place, or waits. 0: no limit.",
    ),
    setting("proxy.database_servers_max", CROWD, Default::Value("0"), "80", "The same for one database."),
    setting(
        "proxy.servers_max",
        CROWD,
        Default::Value("0"),
        "90",
        "The same for all together: PostgreSQL's max_connections, less what others need, shared by the proxies of all nodes.",
    ),
    setting(
        "proxy.user_sessions_max",
        CROWD,
        Default::Value("0"),
        "1000",
        "Client sessions of one user by this node's proxy; further ones are refused with an error. 0: no limit.",
    ),
    setting("proxy.database_sessions_max", CROWD, Default::Value("0"), "2000", "The same for one database."),
    setting(
        "proxy.server_idle_timeout",
        Kind::Duration { min: MILLISECOND, max: Duration::from_secs(86_400) },
        Default::Value("10min"),
        "\"1min\"",
        "A server of a pool that nobody has used for so long is closed.",
    ),
    setting(
        "proxy.server_lifetime",
        Kind::Duration { min: MILLISECOND, max: Duration::from_secs(604_800) },
        Default::Value("1h"),
        "\"30min\"",
        "A server of a pool that is older is closed after its transaction: its memory grows with what it has seen.",
    ),
    setting(
        "proxy.leaks",
        Kind::Choice(&["pin", "refuse", "allow"]),
        Default::Value("pin"),
        "\"refuse\"",
        "In transaction mode, for a statement that leaves what cannot be carried to another server (LISTEN, temporary tables, session \
         advisory locks, PREPARE …): its session keeps the server until DISCARD ALL; it fails (0A000); or whoever has the server \
         next finds it there, as with PgBouncer.",
    ),
    setting(
        "proxy.share_unnamed",
        Kind::Flag,
        Default::Value("false"),
        "true",
        "A text that clients prepare without a name again and again is prepared once on each server and shared, as named ones are: \
         PostgreSQL parses it once. It may then choose a generic plan for it (plan_cache_mode).",
    ),
    setting(
        "proxy.client_idle_timeout",
        LIMIT,
        Default::Value("0s"),
        "\"8h\"",
        "A client that asks nothing for so long is sent away (57P05). 0s: never.",
    ),
    setting(
        "proxy.transaction_idle_timeout",
        LIMIT,
        Default::Value("0s"),
        "\"5min\"",
        "The same within a transaction, which is rolled back (25P03). 0s: never.",
    ),
    setting(
        "proxy.transaction_timeout",
        LIMIT,
        Default::Value("0s"),
        "\"1h\"",
        "A transaction that takes longer is rolled back, and its session ended (25P04). 0s: never.",
    ),
    setting(
        "proxy.query_timeout",
        LIMIT,
        Default::Value("0s"),
        "\"10min\"",
        "A request that takes longer is cancelled (57014), as by its client; a session that has no answer five seconds later is ended. \
         0s: never.",
    ),
    setting(
        "proxy.relaunch_timeout",
        LIMIT,
        Default::Value("1h"),
        "\"10min\"",
        "After `pgherd relaunch` sessions go on in the old process until their clients leave; after this they end, each with its transaction \
         (57P01).",
    ),
    setting(
        "proxy_tls.cert",
        Kind::File,
        Default::Derived("none: a client that asks for encryption is told that there is none"),
        "\"/etc/pgherd/proxy.crt\"",
        "Certificate that clients are shown (PEM), followed by those that lead to its authority.",
    ),
    setting(
        "proxy_tls.key",
        Kind::File,
        Default::Derived("none"),
        "\"/etc/pgherd/proxy.key\"",
        "Its key (PEM). Refused when others may read the file.",
    ),
    setting(
        "proxy_tls.mode",
        Kind::Choice(&["disable", "allow", "require", "verify-ca"]),
        Default::Value("allow"),
        "\"require\"",
        "What clients must do: `allow` encrypts the sessions of those who ask for it (PgBouncer's `allow` and `prefer`), \
         `require` refuses sessions in clear, `verify-ca` also those without a certificate of `client_ca`; `disable` \
         encrypts nothing.",
    ),
    setting(
        "proxy_tls.client_ca",
        Kind::File,
        Default::Derived("none: clients are asked for no certificate"),
        "\"/etc/pgherd/clients.crt\"",
        "Authorities of clients' certificates (PEM). A certificate of another is refused; none is refused by `verify-ca` alone.",
    ),
    setting(
        "proxy_tls.min_version",
        Kind::Choice(&["TLSv1.2", "TLSv1.3"]),
        Default::Value("TLSv1.2"),
        "\"TLSv1.3\"",
        "The lowest version of TLS that is spoken with clients.",
    ),
    setting(
        "proxy_tls.server_mode",
        Kind::Choice(&["disable", "prefer", "require", "verify-ca", "verify-full"]),
        Default::Value("disable"),
        "\"verify-full\"",
        "What the proxy asks of servers, as libpq's `sslmode`: nothing, encryption where there is some, encryption, a \
         certificate of `server_ca`, or one that also names the host in [peers]. Servers get theirs by `ssl`, \
         `ssl_cert_file` and `ssl_key_file` in [postgres.parameters].",
    ),
    setting(
        "proxy_tls.server_ca",
        Kind::File,
        Default::Derived("none; required for `verify-ca` and `verify-full`"),
        "\"/etc/pgherd/servers.crt\"",
        "Authorities of the servers' certificates, or these themselves (PEM).",
    ),
];
