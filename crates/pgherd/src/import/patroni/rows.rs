//! Patroni's keys, to 4.1.

use super::super::convert::{flag, same};
use super::super::table::{Row, absent, absent_always, needless, secret, setting, several};
use super::{
    callback, certfile, connect_address, keyfile, name, parameter, pg_hba, postgresql_listen, raft_partner,
    remembered, restapi_listen, scope, slot_database, slot_plugin, slot_type, standby_host, watchdog_mode,
};

const LOGS: &str = "pgherd logs to standard error, as text or JSON: PGHERD_LOG sets the level, systemd or a container keeps the lines";
const OWN_ROLES: &str = "pgherd makes the roles it needs, with passwords of their own (credentials.json)";
const CREATE_USER: &str = "roles are yours to make, once, on the primary: CREATE ROLE";
const HOOKS_ONLY: &str =
    "nothing waits for a program of yours; [hooks] program is told afterwards (docs/concepts/hooks.md)";
const COPIES: &str =
    "a new replica copies another node with PostgreSQL's own means; there is no replica from a backup yet";
const STORE: &str = "the store is in pgherd (Raft between the nodes): there is none to reach";

pub const LOCAL: &[Row] = &[
    several("scope", "[cluster] as `cluster`", scope),
    several("name", "[node] name", name),
    needless("namespace", "a store of pgherd's own has one cluster"),
    absent("log.**", LOGS),
    absent("log", LOGS),
    needless("ctl.**|ctl", "pgherd's commands find the node by --config, or by --url and --ca"),
    several("restapi.listen", "[http] listen and port", restapi_listen),
    needless("restapi.connect_address", "the host in [peers] and [http] port are the address"),
    several("restapi.certfile", "[http] cert", certfile),
    several("restapi.keyfile", "[http] key", keyfile),
    secret("restapi.keyfile_password", "[http] key is read without a password: store it decrypted, 0600"),
    absent(
        "restapi.cafile|restapi.verify_client",
        "no certificates of clients: changes need a user of the file [http] users, or come from the node itself",
    ),
    absent("restapi.ciphers", "TLS 1.2 and 1.3 with the safe ciphers alone; none can be chosen"),
    absent(
        "restapi.authentication.username",
        "pgherd user add NAME --role admin --file FILE, and [http] users = FILE",
    ),
    secret(
        "restapi.authentication.password",
        "pgherd user add asks for it, and stores what PostgreSQL stores of a password",
    ),
    absent(
        "restapi.allowlist|restapi.allowlist.[]|restapi.allowlist_include_members",
        "changes are taken from the node's own machine, and from users with a role (docs/concepts/access.md)",
    ),
    absent(
        "restapi.http_extra_headers|restapi.https_extra_headers|restapi.http_extra_headers.*|restapi.https_extra_headers.*",
        "no headers can be added",
    ),
    needless("restapi.request_queue_size|restapi.server_tokens", "pgherd's own server needs no such setting"),
    absent("citus.**", "pgherd shards nothing"),
    several("watchdog.mode", "[fencing] watchdog", watchdog_mode),
    setting("watchdog.device", "fencing.device", same, ""),
    needless(
        "watchdog.safety_margin",
        "the fencer keeps the device alive only while it can end the primary in time",
    ),
    setting("tags.nofailover", "tags.nofailover", flag, ""),
    setting("tags.noloadbalance", "tags.noloadbalance", flag, ""),
    setting("tags.clonefrom", "tags.clonefrom", flag, ""),
    setting("tags.nosync", "tags.nosync", flag, ""),
    setting("tags.replicatefrom", "tags.replicatefrom", same, ""),
    setting("tags.failover_priority", "tags.failover_priority", same, "among those with the same WAL"),
    absent_always(
        "tags.sync_priority",
        "0 is nosync; otherwise with [sync] method = \"priority\" failover_priority and the name are the order",
    ),
    absent("tags.nostream", "every replica streams"),
    absent("tags.*", "there are no tags of your own; [tags] zone is one for places"),
    needless("tags", "no tag is set"),
    needless(
        "bootstrap.method|bootstrap.dcs|bootstrap",
        "the first start makes the cluster, or copies the one that is followed",
    ),
    absent(
        "bootstrap.initdb.**|bootstrap.initdb",
        "the first start runs initdb itself, with UTF-8, the locale C.UTF-8 and data checksums; locale and encoding are chosen for a database by CREATE DATABASE",
    ),
    several("bootstrap.pg_hba.[]", "[postgres] hba", pg_hba),
    secret("bootstrap.users.*.password", CREATE_USER),
    absent_always("bootstrap.users.**|bootstrap.users", CREATE_USER),
    absent(
        "bootstrap.post_init|bootstrap.post_bootstrap",
        "run it once by hand when the cluster is there: pgherd psql",
    ),
    absent(
        "bootstrap.*.command|bootstrap.*.keep_existing_recovery_conf|bootstrap.*.no_params|bootstrap.*.recovery_conf.**|bootstrap.*.no_leader|bootstrap.*.recovery_conf",
        "a cluster begins empty, or as a standby cluster of a running one: docs/concepts/standby_cluster.md",
    ),
];

/// `postgresql`, local; the dynamic one is below.
pub const POSTGRESQL: &[Row] = &[
    several("postgresql.listen", "[postgres] listen and port", postgresql_listen),
    several("postgresql.connect_address", "[peers.NAME] postgres of this node", connect_address),
    needless("postgresql.proxy_address", "clients come by pgherd's own proxy"),
    absent_always(
        "postgresql.data_dir",
        "the data directory is data below [node] dir, and made anew; a running server is not taken over in place: follow it as a standby cluster, then promote",
    ),
    setting("postgresql.bin_dir", "postgres.bin_dir", same, ""),
    absent("postgresql.bin_name.**", "PostgreSQL's programs have their own names in [postgres] bin_dir"),
    needless(
        "postgresql.config_dir|postgresql.pgpass|postgresql.use_unix_socket|postgresql.use_unix_socket_repl",
        "pgherd has its own files and sockets below [node] dir",
    ),
    absent("postgresql.custom_conf", "PostgreSQL's parameters stand in [postgres.parameters]"),
    needless(
        "postgresql.authentication.superuser.username|postgresql.authentication.replication.username|postgresql.authentication.rewind.username",
        OWN_ROLES,
    ),
    secret("postgresql.authentication.*.password", OWN_ROLES),
    secret("postgresql.authentication.*.sslpassword", OWN_ROLES),
    absent(
        "postgresql.authentication.*.*",
        "pgherd's own connections use TLS where the server has it; no certificate of a client is used",
    ),
    needless("postgresql.krbsrvname|postgresql.gssencmode|postgresql.channel_binding", OWN_ROLES),
    several(
        "postgresql.callbacks.*|bootstrap.dcs.postgresql.callbacks.*",
        "[hooks] program, for on_role_change",
        callback,
    ),
    needless("postgresql.callbacks", "none is set"),
    several(
        "postgresql.parameters.*|bootstrap.dcs.postgresql.parameters.*",
        "[postgres.parameters]",
        parameter,
    ),
    needless("postgresql.parameters|bootstrap.dcs.postgresql.parameters", "none is set"),
    absent(
        "postgresql.parameters_primary.*|postgresql.parameters_replica.*|postgresql.parameters_standby_leader.*|bootstrap.dcs.postgresql.parameters_primary.*|bootstrap.dcs.postgresql.parameters_replica.*|bootstrap.dcs.postgresql.parameters_standby_leader.*",
        "a node has the same parameters in every role: what differs can be set by ALTER ROLE or ALTER DATABASE",
    ),
    several("postgresql.pg_hba.[]|bootstrap.dcs.postgresql.pg_hba.[]", "[postgres] hba", pg_hba),
    needless("postgresql.pg_hba|bootstrap.dcs.postgresql.pg_hba|bootstrap.pg_hba", "none is set"),
    absent(
        "postgresql.pg_ident.**|bootstrap.dcs.postgresql.pg_ident.**|postgresql.pg_ident",
        "there is no pg_ident.conf: lines of hba without map=",
    ),
    several(
        "postgresql.recovery_conf.*|bootstrap.dcs.postgresql.recovery_conf.*",
        "[postgres.parameters]",
        parameter,
    ),
    needless(
        "postgresql.use_pg_rewind|bootstrap.dcs.postgresql.use_pg_rewind",
        "an old primary is always rewound where it can be, and what it alone had is kept",
    ),
    needless(
        "postgresql.remove_data_directory_on_rewind_failure|postgresql.remove_data_directory_on_diverged_timelines|bootstrap.dcs.postgresql.remove_data_directory_on_rewind_failure|bootstrap.dcs.postgresql.remove_data_directory_on_diverged_timelines",
        "where no rewind helps the data is copied anew, and the old directory moved aside",
    ),
    needless("postgresql.use_slots|bootstrap.dcs.postgresql.use_slots", "replicas always have slots"),
    absent(
        "postgresql.pre_promote|postgresql.before_stop|bootstrap.dcs.postgresql.pre_promote|bootstrap.dcs.postgresql.before_stop",
        HOOKS_ONLY,
    ),
    absent_always(
        "postgresql.create_replica_methods.[]|postgresql.create_replica_methods|postgresql.create_replica_method.[]|postgresql.create_replica_method|bootstrap.dcs.postgresql.create_replica_methods.[]",
        COPIES,
    ),
    absent(
        "postgresql.basebackup.**|postgresql.basebackup|bootstrap.dcs.postgresql.basebackup.**",
        "the options of the copy are pgherd's own",
    ),
    absent(
        "postgresql.pg_ctl_timeout|bootstrap.dcs.postgresql.pg_ctl_timeout",
        "starts and stops have deadlines of pgherd's own",
    ),
    needless(
        "bootstrap.dcs.postgresql.use_unix_socket|bootstrap.dcs.postgresql.use_unix_socket_repl",
        "pgherd has its own sockets below [node] dir",
    ),
    absent("bootstrap.dcs.postgresql.bin_dir", "[postgres] bin_dir of each node's file"),
    secret("postgresql.*.password", COPIES),
    absent_always(
        "postgresql.*.command|postgresql.*.no_params|postgresql.*.no_leader|postgresql.*.no_master|postgresql.*.keep_data|postgresql.*.keep_existing_recovery_conf|postgresql.*.threshold_megabytes|postgresql.*.threshold_backup_size_percentage|postgresql.*.use_iam|postgresql.*.envdir|postgresql.*.retries|postgresql.*.recovery_conf.**",
        COPIES,
    ),
    needless("postgresql|bootstrap.dcs.postgresql", "nothing is set"),
];

pub const DYNAMIC: &[Row] = &[
    needless(
        "bootstrap.dcs.ttl",
        "[failover] failure_timeout (2s) is its counterpart: no takeover hangs on a lease in a store, so pgherd need not wait as long. \"30s\" would be as slow as Patroni",
    ),
    needless(
        "bootstrap.dcs.loop_wait",
        "[failover] heartbeat (250ms) is its counterpart; nodes act when something happens",
    ),
    needless(
        "bootstrap.dcs.retry_timeout",
        "there is no store outside whose outages would have to be endured",
    ),
    needless("bootstrap.dcs.check_timeline", "a node whose history left the primary's is never promoted"),
    needless(
        "bootstrap.dcs.failsafe_mode",
        "an outage of the store does not end a primary that its standbys confirm",
    ),
    setting(
        "bootstrap.dcs.maximum_lag_on_failover",
        "sync.maximum_lag_on_failover",
        same,
        "counts with asynchronous replication alone: a synchronous takeover loses nothing",
    ),
    absent_always(
        "bootstrap.dcs.maximum_lag_on_syncnode",
        "a member of the sync set that stops confirming leaves it by itself; there is no limit in bytes",
    ),
    several("bootstrap.dcs.synchronous_mode", "[sync] standbys and method", remembered),
    several("bootstrap.dcs.synchronous_mode_strict", "[sync] on_last_standby_lost", remembered),
    several("bootstrap.dcs.synchronous_node_count", "[sync] standbys", remembered),
    absent_always(
        "bootstrap.dcs.primary_start_timeout|bootstrap.dcs.master_start_timeout",
        "a crashed primary is replaced as soon as somebody may, and comes back as a replica",
    ),
    absent_always(
        "bootstrap.dcs.primary_stop_timeout|bootstrap.dcs.master_stop_timeout",
        "deadlines of a stop are pgherd's own; the fencer ends a primary past its lease",
    ),
    needless(
        "bootstrap.dcs.member_slots_ttl",
        "the slot of a replica that is away is kept within max_slot_wal_keep_size",
    ),
    needless(
        "bootstrap.dcs.ignore_slots.**|bootstrap.dcs.ignore_slots",
        "slots that nobody declared are left alone",
    ),
    needless("bootstrap.dcs.pause", "a pause is no setting: pgherd pause, which ends by itself"),
    several("bootstrap.dcs.slots.*.type", "[slots.NAME] type", slot_type),
    several("bootstrap.dcs.slots.*.database", "[slots.NAME] database", slot_database),
    several("bootstrap.dcs.slots.*.plugin", "[slots.NAME] plugin", slot_plugin),
    absent("bootstrap.dcs.slots.*.cluster_type", "a slot is kept in a standby cluster, too"),
    needless("bootstrap.dcs.slots|slots", "none is declared"),
    several(
        "bootstrap.dcs.standby_cluster.host|bootstrap.dcs.standby_cluster.port",
        "[standby_cluster] hosts",
        standby_host,
    ),
    setting(
        "bootstrap.dcs.standby_cluster.primary_slot_name",
        "standby_cluster.slot",
        same,
        "a permanent physical slot of the origin",
    ),
    absent(
        "bootstrap.dcs.standby_cluster.restore_command|bootstrap.dcs.standby_cluster.archive_cleanup_command|bootstrap.dcs.standby_cluster.recovery_min_apply_delay",
        "the head streams; an archive or a delay can be set for every node in [postgres.parameters]",
    ),
    absent_always(
        "bootstrap.dcs.standby_cluster.create_replica_methods.[]|bootstrap.dcs.standby_cluster.create_replica_methods",
        COPIES,
    ),
    needless("bootstrap.dcs.standby_cluster", "it is none"),
];

pub const STORES: &[Row] = &[
    secret(
        "etcd.password|etcd3.password|consul.token|zookeeper.key_password|zookeeper.auth_data.**|raft.password",
        STORE,
    ),
    several("raft.partner_addrs.[]|raft.partner_addrs", "[peers], the hosts of the others", raft_partner),
    needless(
        "etcd.**|etcd3.**|consul.**|zookeeper.**|exhibitor.**|raft.**|etcd|etcd3|consul|zookeeper|exhibitor|raft",
        STORE,
    ),
    absent(
        "kubernetes.**|kubernetes",
        "pgherd asks no Kubernetes: its proxy leads to the primary, and probes can use the same paths as Patroni's",
    ),
];
