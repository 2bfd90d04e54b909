//! Each kind of bad input with the exact message users read, and that good input comes out as it went in.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::settings::{Default, SECTIONS, SETTINGS};
use super::*;

const GOOD: &str = r#"cluster = "demo"
[node]
name = "n1"
dir = "/var/lib/pgherd/n1"
[peers.n1]
peer = "127.0.0.1:7432"
postgres = "127.0.0.1:5432"
[peers.n2]
peer = "127.0.0.1:7442"
postgres = "127.0.0.1:5442"
[peers.n3]
peer = "127.0.0.1:7452"
kind = "witness"
"#;

fn read_with(text: &str, environment: &[(&str, &str)]) -> Result<Config, ConfigError> {
    let environment = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    parse(text, "F", &environment.collect())
}

fn read(text: &str) -> Config {
    read_with(text, &[]).unwrap_or_else(|error| panic!("{error}"))
}

/// The message for [`GOOD`] with `more` added at the end.
fn refused(more: &str) -> String {
    read_with(&format!("{GOOD}{more}"), &[]).expect_err(more).to_string()
}

/// The message for [`GOOD`] with a piece of it replaced.
fn refused_with(old: &str, new: &str) -> String {
    assert!(GOOD.contains(old));
    read_with(&GOOD.replacen(old, new, 1), &[]).expect_err(new).to_string()
}

fn refused_environment(name: &str, value: &str) -> String {
    read_with(GOOD, &[(name, value)]).expect_err(name).to_string()
}

#[test]
fn defaults_are_those_of_the_table() {
    let config = read(GOOD);
    assert_eq!(config.node.kind, NodeKind::Full);
    assert_eq!(config.node.advertise, "127.0.0.1");
    assert_eq!(config.tls, Tls::below(Path::new("/var/lib/pgherd/n1")));
    assert_eq!(config.failover.heartbeat, Duration::from_millis(250));
    assert_eq!(config.failover.failure_timeout, Duration::from_secs(2));
    assert_eq!(config.proxy.queue_timeout, Duration::from_secs(15));
    assert_eq!((config.sync.standbys, config.proxy.read_write_port), (1, 6432));
    assert_eq!((config.postgres.version, config.postgres.bin_dir.clone()), (None, None));
    assert_eq!(config.peers["n3"].kind, NodeKind::Witness);
    assert_eq!(config.data_dir(), PathBuf::from("/var/lib/pgherd/n1/data"));
    assert_eq!(config.peer_listen_address(), "127.0.0.1:7432");
}

#[test]
fn the_file_overrides_defaults_and_the_environment_the_file() {
    let text = format!("{GOOD}[failover]\nheartbeat = \"100ms\"\nfailure_timeout = \"1s\"\n");
    assert_eq!(read(&text).failover.heartbeat, Duration::from_millis(100));
    let environment = [
        ("PGHERD_FAILOVER_HEARTBEAT", "200ms"),
        ("PGHERD_POSTGRES_VERSION", "17"),
        ("PGHERD_LOG", "debug"),
        ("PGHERD_URL", "http://127.0.0.1:8432"),
        ("PGHERD_PROXY_SERVICE_HOST", "10.0.0.7"),
        ("PGHERD_PROXY_PORT_6432_TCP", "tcp://10.0.0.7:6432"),
        ("HOME", "/root"),
    ];
    let config = read_with(&text, &environment).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(config.failover.heartbeat, Duration::from_millis(200));
    assert_eq!(config.failover.failure_timeout, Duration::from_secs(1));
    assert_eq!(config.postgres.version, Some(17));
}

#[test]
fn unknown_keys_are_refused_with_a_suggestion() {
    for (more, message) in [
        (
            "[failover]\nhearbeat = \"1s\"\n",
            "F:15:1: unknown setting failover.hearbeat; did you mean failover.heartbeat?",
        ),
        (
            "[sync]\nheartbeat = \"1s\"\n",
            "F:15:1: unknown setting sync.heartbeat; did you mean failover.heartbeat?",
        ),
        ("[proxi]\nlisten = \"::1\"\n", "F:14:2: unknown setting proxi; did you mean proxy?"),
        ("[elephant]\n", "F:14:2: unknown setting elephant"),
        ("[node.trunk]\n", "F:14:7: unknown setting node.trunk"),
        (
            "postgress = \"x:1\"\n",
            "F:14:1: unknown setting peers.n3.postgress; did you mean peers.n3.postgres?",
        ),
        (
            "[postgres]\nparameter = 1\n",
            "F:15:1: unknown setting postgres.parameter; did you mean postgres.parameters?",
        ),
    ] {
        assert_eq!(refused(more), message);
    }
    assert_eq!(
        refused_with("cluster", "clutser"),
        "2 problems:\n  F:1:1: unknown setting clutser; did you mean cluster?\n  \
         F: cluster is missing; add cluster = \"demo\" at the top, or set PGHERD_CLUSTER"
    );
}

#[test]
fn wrong_types_and_values_are_refused() {
    for (more, message) in [
        (
            "[failover]\nheartbeat = 250\n",
            "F:15:13: failover.heartbeat: expected a duration such as \"250ms\", \"2s\" or \"5min\", found the integer 250",
        ),
        (
            "[failover]\nheartbeat = \"1m\"\n",
            "F:15:13: failover.heartbeat: expected a whole number and one of ms, s, min, h, such as \"250ms\", found \"1m\"",
        ),
        (
            "[failover]\nfailure_timeout = \"100ms\"\n",
            "F:15:19: failover.failure_timeout: must be at least 500ms, found 100ms",
        ),
        (
            "[failover]\nfailure_timeout = \"1h\"\n",
            "F:15:19: failover.failure_timeout: must be at most 1min, found 1h",
        ),
        (
            "[failover]\nheartbeat = \"1500ms\"\n",
            "F:15:13: failover.failure_timeout is 2s, but one lost heartbeat must not cost a primary: \
             it must be at least twice failover.heartbeat (1500ms)",
        ),
        ("[http]\nport = 70000\n", "F:15:8: http.port: expected a port, 1 to 65535, found 70000"),
        (
            "[http]\nport = \"8432\"\n",
            "F:15:8: http.port: expected a port, 1 to 65535, found the string \"8432\"",
        ),
        ("[http]\nlisten = \"a b\"\n", "F:15:10: http.listen: expected a host or IP address, found \"a b\""),
        ("[http]\nport = 6432\n", "F:15:8: http.port: 6432 is proxy.read_write_port already"),
        (
            "[failover]\ndrift_percent = 50\n",
            "F:15:17: failover.drift_percent: expected a whole number, 1 to 25 %, found 50",
        ),
        (
            "[postgres]\nversion = 14\n",
            "F:15:11: postgres.version: expected a whole number, 15 to 18, found 14",
        ),
        (
            "[postgres]\nbin_dir = \"bin\"\n",
            "F:15:11: postgres.bin_dir: expected an absolute path, found \"bin\"",
        ),
        (
            "[postgres]\nhba = [\"all all trust\"]\n",
            "F:15:7: postgres.hba: \"all all trust\" is no line of pg_hba.conf: it begins with local, host, hostssl, \
             hostnossl, hostgssenc or hostnogssenc",
        ),
        (
            "[postgres]\nhba = [\"host all all trust\"]\n",
            "F:15:7: postgres.hba: \"host all all trust\" is no line of pg_hba.conf: it needs 5 words, such as \
             \"local all all peer\" or \"host all all 10.0.0.0/8 scram-sha-256\"",
        ),
        (
            "[postgres]\nhba = [\"local all all peer\\nhost all all all trust\"]\n",
            "F:15:7: postgres.hba: \"local all all peer\\nhost all all all trust\": write one line of pg_hba.conf per string",
        ),
        (
            "[sync]\non_last_standby_lost = \"ignore\"\n",
            "F:15:24: sync.on_last_standby_lost: expected \"block\" or \"degrade\", found \"ignore\"",
        ),
        (
            "[proxy]\nqueue_max = -1\n",
            "F:15:13: proxy.queue_max: expected a whole number, 0 to 1000000 sessions, found -1",
        ),
    ] {
        assert_eq!(refused(more), message);
    }
}

#[test]
fn the_file_as_a_whole() {
    assert_eq!(
        refused("[http\n").lines().next().unwrap().split(": ").take(2).collect::<Vec<_>>(),
        ["F:14:6", "not TOML"]
    );
    assert!(refused("cluster = 1\ncluster = 2\n").starts_with("F:15:1: not TOML: "));
    let missing = load(Path::new("/nonexistent/pgherd.toml")).unwrap_err().to_string();
    assert_eq!(
        missing,
        "cannot read the configuration /nonexistent/pgherd.toml: No such file or directory (os error 2)"
    );
    assert_eq!(
        read_with("", &[]).unwrap_err().to_string(),
        "4 problems:\n  \
         F: cluster is missing; add cluster = \"demo\" at the top, or set PGHERD_CLUSTER\n  \
         F: node.name is missing; add name = \"n1\" under [node], or set PGHERD_NODE_NAME\n  \
         F: node.dir is missing; add dir = \"/var/lib/pgherd/n1\" under [node], or set PGHERD_NODE_DIR\n  \
         F: peers is missing; add [peers.n1] with peer = \"host:port\" and postgres = \"host:port\" for each node, \
         this one included"
    );
}

#[test]
fn names_and_peers_must_fit() {
    let rule = "a name has 1 to 40 characters, a-z, 0-9, _ and -, begins with a letter and ends with a letter or digit";
    assert_eq!(
        refused_with("\"demo\"", "\"De mo\""),
        format!("F:1:11: cluster: \"De mo\" is no name: {rule}")
    );
    let long = "n".repeat(41);
    assert_eq!(refused(&format!("[peers.{long}]\n")), format!("F:14:8: peers: {long:?} is no name: {rule}"));
    for (old, new, message) in [
        ("\"n1\"", "\"n9\"", "F:3:8: node.name: \"n9\" has no table in [peers] (there are: n1, n2, n3)"),
        (
            "\"127.0.0.1:7432\"",
            "\"7432\"",
            "F:6:8: peers.n1.peer: expected \"host:port\", such as \"10.0.0.1:5432\" or \"[::1]:5432\", found \"7432\"",
        ),
        ("7432", "7433", "F:6:8: peers.n1.peer has port 7433, but peer.port of this node is 7432"),
        ("5432", "5433", "F:7:12: peers.n1.postgres has port 5433, but postgres.port of this node is 5432"),
        ("7442", "7452", "F:12:8: peers.n3.peer: 127.0.0.1:7452 is peers.n2.peer already"),
        (
            "postgres = \"127.0.0.1:5442\"\n",
            "",
            "F:8:8: peers.n2.postgres is missing; add postgres = \"host:port\" under [peers.n2]",
        ),
        (
            "kind = \"witness\"",
            "kind = \"witness\"\npostgres = \"h:1\"",
            "F:14:12: peers.n3.postgres: a witness has no PostgreSQL; remove this",
        ),
        (
            "name = \"n1\"",
            "name = \"n1\"\nkind = \"witness\"",
            "F:4:8: node.kind is \"witness\", but peers.n1.kind is \"full\"",
        ),
        (
            "name = \"n1\"",
            "name = \"n1\"\nadvertise = \"h1\"",
            "F:4:13: node.advertise is \"h1\", but peers.n1.postgres has host \"127.0.0.1\"",
        ),
        (
            "[peers.n2]",
            "[peers.n-2]\npeer = \"h:1\"\npostgres = \"h:2\"\n[peers.n_2]",
            "F:11:8: peers.n_2 and peers.n-2 differ only in _ and -; rename one",
        ),
        ("\"/var/lib/pgherd/n1\"", "\"n1\"", "F:4:7: node.dir: expected an absolute path, found \"n1\""),
    ] {
        assert_eq!(refused_with(old, new), message);
    }
    let dir = format!("/{}", "d".repeat(90));
    assert_eq!(
        refused_with("/var/lib/pgherd/n1", &dir),
        "F:4:7: node.dir has 91 bytes, at most 83 leave room for the name of PostgreSQL's socket in it"
    );
    let more: String =
        (4..=6).map(|n| format!("[peers.n{n}]\npeer = \"h{n}:1\"\nkind = \"witness\"\n")).collect();
    assert_eq!(refused(&more), "F: peers has 6 nodes, at most 5 can vote");
}

#[test]
fn a_single_node_may_want_a_standby() {
    let single = "cluster = \"demo\"\nnode = { name = \"n1\", dir = \"/n1\" }\n\
                  peers.n1 = { peer = \"[::1]:7432\", postgres = \"[::1]:5432\" }\n";
    assert_eq!(read(single).sync.standbys, 1, "it waits for one as soon as there is one");
    let config = read(&format!("{single}sync.standbys = 0\n"));
    assert_eq!((config.sync.standbys, config.node.advertise.as_str()), (0, "::1"));
}

#[test]
fn parameters_pass_unless_pgherd_owns_them() {
    let config = read(&format!(
        "{GOOD}[postgres.parameters]\nshared_buffers = \"1GB\"\nMax_Connections = 300\nJIT = false\n\
         random_page_cost = 1.1\npg_stat_statements.max = 5000\n\"auto_explain.log_analyze\" = true\n"
    ));
    let expected = [
        ("auto_explain.log_analyze", "on"),
        ("jit", "off"),
        ("max_connections", "300"),
        ("pg_stat_statements.max", "5000"),
        ("random_page_cost", "1.1"),
        ("shared_buffers", "1GB"),
    ];
    assert!(config.postgres.parameters.iter().map(|(n, v)| (n.as_str(), v.as_str())).eq(expected));
    for (line, message) in [
        ("port = 5433", "F:15:1: postgres.parameters.port belongs to pgherd: set postgres.port"),
        (
            "Synchronous_Standby_Names = '*'",
            "F:15:1: postgres.parameters.synchronous_standby_names belongs to pgherd: set sync.standbys; pgherd chooses \
             the standbys",
        ),
        (
            "recovery_target_lsn = '0/0'",
            "F:15:1: postgres.parameters.recovery_target_lsn belongs to pgherd: restoring to a point in time is not \
             something a running cluster does",
        ),
        ("\"a = 1\\nfsync\" = 1", "F:15:1: postgres.parameters: \"a = 1\\nfsync\" is no name of a parameter"),
        ("a = \"1\\nfsync = off\"", "F:15:5: postgres.parameters.a: control characters are not allowed"),
        (
            "a = [1]",
            "F:15:5: postgres.parameters.a: expected a string, decimal number or boolean, found array",
        ),
        (
            "jit = true\nJIT = false",
            "F:15:1: postgres.parameters.jit is set twice (upper and lower case are the same)",
        ),
    ] {
        assert_eq!(refused(&format!("[postgres.parameters]\n{line}\n")), message);
    }
    let owned = [
        "synchronous_standby_names",
        "primary_conninfo",
        "primary_slot_name",
        "hba_file",
        "port",
        "listen_addresses",
        "unix_socket_directories",
        "restart_after_crash",
        "lc_messages",
        "synchronized_standby_slots",
        "hot_standby",
    ];
    assert!(owned.iter().all(|name| parameter_owner(name).is_some()));
}

#[test]
fn slots_are_declared_with_an_owner() {
    let config = read(&format!(
        "{GOOD}[slots]\nwal_budget = \"2GB\"\n[slots.feed]\ntype = \"logical\"\ndatabase = \"app\"\nowner = \"search\"\n\
         [slots.tape]\ntype = \"physical\"\nowner = \"archive\"\nwal_budget = \"10 GB\"\n"
    ));
    assert_eq!(config.slots.wal_budget, Some(2 << 30));
    let feed = &config.slots.declared["feed"];
    assert_eq!(feed.logical, Some(Logical { database: "app".into(), plugin: "pgoutput".into() }));
    assert_eq!(config.slots.declared["tape"].wal_budget, Some(10 << 30));
    for (text, message) in [
        (
            "[slots.a]\ntype = \"physical\"\n",
            "slots.a.owner is missing; add owner = \"billing: change feed to the warehouse\" under [slots.a]",
        ),
        (
            "[slots.a]\ntype = \"logical\"\nowner = \"x\"\n",
            "slots.a.database is missing; add database = \"NAME\" under [slots.a]",
        ),
        (
            "[slots.a]\ntype = \"physical\"\nowner = \"x\"\nplugin = \"p\"\n",
            "slots.a.plugin: a physical slot has none; remove this",
        ),
        ("[slots.pgherd_a]\n", "\"pgherd_a\" is no name for a slot: it has 1 to 63 characters"),
        ("[slots.a]\nkind = 1\n", "unknown setting slots.a.kind"),
        (
            "[slots]\ngate = \"stop\"\n",
            "slots.gate: expected \"off\" or \"warn\" or \"wait\", found \"stop\"",
        ),
        (
            "[slots]\nwal_budget = \"2 PB\"\n",
            "slots.wal_budget: expected a whole number and one of MB, GB, TB",
        ),
        (
            "[postgres.parameters]\nwal_level = \"minimal\"\n",
            "postgres.parameters.wal_level: expected \"replica\" or \"logical\"",
        ),
        (
            "[slots.a]\ntype = \"logical\"\nowner = \"x\"\ndatabase = \"d\"\n[postgres.parameters]\nhot_standby_feedback = \"off\"\n",
            "without feedback the primary removes rows",
        ),
        ("[postgres.parameters]\nmax_replication_slots = 1\n", "the nodes and the declared slots need"),
    ] {
        let said = parse(&format!("{GOOD}{text}"), "F", &BTreeMap::new()).unwrap_err().to_string();
        assert!(said.contains(message), "{text}: {said}");
    }
}

#[test]
fn the_environment_is_strict_too() {
    for (name, value, message) in [
        ("PGHERD_HTTP_PORT", "http", "http.port: expected a port, 1 to 65535, found \"http\""),
        ("PGHERD_FAILOVER_HEARBEAT", "1s", "no such setting; did you mean PGHERD_FAILOVER_HEARTBEAT?"),
        ("PGHERD_POSTGRES_HBA", "x", "no such setting, or one that can be set in the file only"),
        (
            "PGHERD_PEER_PORT",
            "tcp://10.0.0.1:7432",
            "peer.port: expected a port, 1 to 65535, found \"tcp://10.0.0.1:7432\", which Kubernetes sets for a \
             service of this name: set enableServiceLinks: false in the pod",
        ),
    ] {
        assert_eq!(refused_environment(name, value), format!("environment variable {name}: {message}"));
    }
}

#[test]
fn what_render_writes_reads_back_the_same() {
    let alone = Config::alone("demo", "n1", Path::new("/tmp/demo/n1"));
    assert_eq!(read(&render(&alone)), alone);
    let mut config = read(&format!(
        "{GOOD}[postgres.parameters]\npg_stat_statements.max = 5000\nsearch_path = \"\\\"a\\\", 'b'\"\n"
    ));
    config.postgres.hba = vec![];
    config.postgres.version = Some(15);
    config.postgres.bin_dir = Some("/usr/lib/postgresql/15/bin".into());
    config.proxy.queue_timeout = Duration::from_millis(1500);
    config.http.port = 17004;
    config.tls.key = "/etc/n1.key".into();
    config.slots.wal_budget = Some(512 << 20);
    config.slots.drop_over_budget = true;
    let logical = Some(Logical { database: "app".into(), plugin: "pgoutput".into() });
    let slot = DeclaredSlot { logical, owner: "search: \"index\"".into(), wal_budget: Some(3 << 40) };
    config.slots.declared.insert("gate".into(), slot);
    let slot = DeclaredSlot { logical: None, owner: "archive".into(), wal_budget: None };
    config.slots.declared.insert("receivewal".into(), slot);
    let text = render(&config);
    assert_eq!(read(&text), config);
    assert!(text.contains("\nport = 17004\n") && text.contains("\n# port = 5432\n"), "{text}");
    assert!(text.contains("\nqueue_timeout = \"1500ms\"\n"), "{text}");
}

#[test]
fn the_table_is_whole() {
    for setting in SETTINGS {
        assert!(SECTIONS.iter().any(|section| section.name == setting.section()), "{}", setting.key);
        assert!(setting.doc.ends_with('.') && !setting.doc.contains('|'), "{}", setting.key);
        let example = format!("x = {}", setting.example);
        let table = toml::de::DeTable::parse(&example).unwrap();
        let value = table.get_ref().values().next().unwrap();
        assert!(setting.kind.read_toml(value.get_ref()).is_ok(), "example of {}", setting.key);
        if let Default::Value(text) = setting.default {
            assert!(setting.kind.read_text(text).is_ok(), "default of {}", setting.key);
        }
    }
    // Every setting reaches the model: changed in the file, it changes what is written.
    let plain = Config::alone("demo", "n1", Path::new("/n1"));
    for setting in SETTINGS.iter().filter(|setting| !setting.key.contains('*')) {
        let derived = matches!(setting.default, Default::Derived(_));
        assert!(plain.written(setting.key).is_some() || derived, "{}", setting.key);
    }
    let variables: BTreeMap<_, _> =
        SETTINGS.iter().filter_map(|setting| Some((setting.variable()?, setting.key))).collect();
    assert_eq!(variables.len(), SETTINGS.iter().filter(|setting| setting.variable().is_some()).count());
}

#[test]
fn a_node_streams_from_another_one_with_postgresql() {
    let tagged = |name: &str| format!("[tags]\nreplicatefrom = \"{name}\"\n");
    let config = read(&format!("{GOOD}{}", tagged("n2")));
    assert_eq!(config.tags.replicatefrom, Some("n2".into()));
    assert_eq!(read(GOOD).tags.replicatefrom, None);
    assert_eq!(
        refused(&tagged("n1")),
        "F:15:17: tags.replicatefrom names this node itself; name the replica that it is to stream from, or remove this"
    );
    assert_eq!(
        refused(&tagged("n9")),
        "F:15:17: tags.replicatefrom: \"n9\" has no table in [peers] (there are: n1, n2, n3); correct the name, or add \
         [peers.n9]"
    );
    assert_eq!(
        refused(&tagged("n3")),
        "F:15:17: tags.replicatefrom: n3 is a witness, which has no PostgreSQL to stream from"
    );
}

#[test]
fn tls_of_the_proxy_is_whole_or_refused() {
    let files = "cert = \"/tls/p.crt\"\nkey = \"/tls/p.key\"\n";
    assert_eq!(read(GOOD).proxy.tls, proxy::tls::TlsConfig::default());
    let tls =
        read(&format!("{GOOD}[proxy_tls]\n{files}mode = \"require\"\nmin_version = \"TLSv1.3\"\n")).proxy.tls;
    let client = tls.client.expect("a certificate is given");
    assert_eq!((client.mode.as_str(), client.min_version.as_str()), ("require", "TLSv1.3"));
    assert_eq!(tls.server.mode.as_str(), "disable");
    for (more, text) in [
        ("cert = \"/tls/p.crt\"", "proxy_tls.cert is of no use without proxy_tls.key; add it"),
        ("key = \"/tls/p.key\"", "proxy_tls.key is of no use without proxy_tls.cert; add it"),
        ("mode = \"require\"", "proxy_tls.mode = \"require\" needs proxy_tls.cert; add it"),
        (
            "server_mode = \"verify-full\"",
            "proxy_tls.server_mode = \"verify-full\" needs proxy_tls.server_ca; add it",
        ),
        (
            &format!("{files}mode = \"verify-ca\""),
            "proxy_tls.mode = \"verify-ca\" needs proxy_tls.client_ca; add it",
        ),
    ] {
        let told = refused(&format!("[proxy_tls]\n{more}\n"));
        assert!(told.contains(text), "{told}");
    }
}

#[test]
fn a_virtual_ip_is_whole_and_answered_at() {
    let everywhere = "[proxy]\nlisten = \"0.0.0.0\"\n";
    let vip = "[vip]\naddress = \"10.0.0.100/24\"\ninterface = \"eth0\"\n";
    assert_eq!(read(GOOD).vip, None);
    let read_vip = read(&format!("{GOOD}{everywhere}{vip}")).vip.expect("it is given");
    assert_eq!((read_vip.to_string().as_str(), read_vip.interface.as_str()), ("10.0.0.100/24", "eth0"));
    read(&format!("{GOOD}[proxy]\nlisten = \"::\"\n{vip}"));
    assert_eq!(
        refused(vip),
        "F:15:11: vip.address: nobody would answer at 10.0.0.100, since proxy.listen is \"127.0.0.1\"; set proxy.listen = \"0.0.0.0\""
    );
    for (more, text) in [
        (
            "[proxy]\nlisten = \"0.0.0.0\"\n[vip]\naddress = \"fd00::100/64\"\ninterface = \"eth0\"",
            "F:15:10: vip.address: nobody would answer at fd00::100, since proxy.listen is \"0.0.0.0\"; set proxy.listen = \"::\"",
        ),
        ("[vip]\ninterface = \"eth0\"", "vip.interface is of no use without vip.address; add it"),
        (
            "[proxy]\nlisten = \"::\"\n[vip]\naddress = \"10.0.0.100/24\"",
            "vip.address is of no use without vip.interface; add it",
        ),
        ("[vip]\naddress = \"10.0.0.100\"", "vip.address: expected an address with its prefix"),
        ("[vip]\ninterface = \"eth0:1\"", "vip.interface: expected the name of an interface"),
    ] {
        let told = refused(more);
        assert!(told.contains(text), "{told}");
    }
    let own = format!("{GOOD}{everywhere}{vip}").replace("127.0.0.1:7442", "10.0.0.100:7442");
    let told = read_with(&own, &[]).expect_err("a node's own").to_string();
    assert!(told.contains("vip.address: 10.0.0.100 is the address of peers.n2.peer; choose one"), "{told}");
    let witness = format!("{GOOD}{everywhere}{vip}").replace("name = \"n1\"", "name = \"n3\"");
    let told = read_with(&witness, &[]).expect_err("a witness").to_string();
    assert!(told.contains("vip.address: a witness never has the address; remove [vip]"), "{told}");
}
