//! Whole installations against the files that they become, and the tables against the tools' documented keys.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::*;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src/import/fixtures")
}

fn none(name: &str) -> Result<String, String> {
    Err(format!("{name} is not there"))
}

fn sources(folder: &str, files: &[&str]) -> Vec<Source> {
    let read = |file: &&str| {
        let text = std::fs::read_to_string(fixtures().join(folder).join(file)).unwrap();
        let format = Format::detect(&text).unwrap_or_else(|| panic!("{file} is nobody's"));
        Source { file: (*file).to_owned(), text, format }
    };
    files.iter().map(read).collect()
}

fn answers() -> Answers {
    Answers { node_dir: "/var/lib/pgherd/NAME".to_owned(), ..Answers::default() }
}

fn member(name: &str, host: &str) -> Member {
    Member { name: name.to_owned(), host: host.to_owned(), port: None }
}

fn one(format: Format, text: &str, answers: &Answers) -> Report {
    let source = Source { file: "f".to_owned(), text: text.to_owned(), format };
    import(&[source], answers, &none).unwrap_or_else(|error| panic!("{error}"))
}

fn fate<'a>(report: &'a Report, key: &str) -> (&'a str, &'a str) {
    let line = report.files.iter().flat_map(|file| &file.lines).find(|line| line.key == key);
    let line = line.unwrap_or_else(|| panic!("no line tells of {key}"));
    (line.fate, &line.told)
}

/// Compares with the committed file, or writes it.
fn golden(path: &Path, text: &str) {
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(path, text).unwrap();
    }
    let committed = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        committed == text,
        "{} is not what import says; type: UPDATE_DOCS=1 cargo test -p pgherd --lib -- import::",
        path.display()
    );
}

fn installation(folder: &str, files: &[&str], answers: &Answers) {
    let report = import(&sources(folder, files), answers, &none).unwrap();
    assert_eq!((report.missing.as_slice(), report.problems.as_slice()), (&[][..], &[][..]), "{folder}");
    config::parse(&report.toml, "pgherd.toml", &BTreeMap::new()).unwrap_or_else(|error| panic!("{error}"));
    golden(&fixtures().join(folder).join("expected.toml"), &report.toml);
    golden(&fixtures().join(folder).join("expected.txt"), &report.text());
    let json = serde_json::to_string(&report).unwrap();
    assert!(!json.contains("fixture-secret"), "a secret of {folder} is told");
}

#[test]
fn patroni_with_pgbouncer_and_haproxy() {
    let dynamic = std::fs::read_to_string(fixtures().join("patroni/dynamic.yml")).unwrap();
    let answers = Answers {
        dynamic: Some(("dynamic.yml".to_owned(), dynamic)),
        set: vec![("slots.feed.owner".to_owned(), "search: fills the index".to_owned())],
        ..answers()
    };
    installation("patroni", &["patroni.yml", "pgbouncer.ini", "haproxy.cfg"], &answers);
}

#[test]
fn pgpool_with_repmgr() {
    let answers = Answers {
        cluster: Some("shop".to_owned()),
        peers: vec![member("node3", "db3.example")],
        ..answers()
    };
    installation("pgpool", &["repmgr.conf", "pgpool.conf"], &answers);
}

#[test]
fn the_order_of_the_files_does_not_matter() {
    let report = |files: &[&str]| import(&sources("patroni", files), &answers(), &none).unwrap();
    let (first, second) = (report(&["patroni.yml", "haproxy.cfg"]), report(&["haproxy.cfg", "patroni.yml"]));
    assert_eq!(first, second);
}

#[test]
fn every_documented_key_has_a_row() {
    let mut asked = 0;
    for entry in std::fs::read_dir(fixtures().join("keys")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let format = match name.split('-').next().unwrap() {
            "patroni" => Format::Patroni,
            "pgbouncer" => Format::PgBouncer,
            "pgpool" => Format::PgPool,
            "repmgr" => Format::Repmgr,
            "haproxy" => Format::HaProxy,
            other => panic!("{other} is no tool"),
        };
        let unknown: Vec<String> = std::fs::read_to_string(&path)
            .unwrap()
            .lines()
            .inspect(|_| asked += 1)
            .filter(|key| {
                let path: Vec<String> = match format {
                    Format::HaProxy => vec![(*key).to_owned()],
                    _ => key.split('.').map(str::to_owned).collect(),
                };
                table::find(tables(format), &path).is_none()
            })
            .map(str::to_owned)
            .collect();
        assert!(unknown.is_empty(), "{name}: no row for {}", unknown.join(", "));
    }
    assert!(asked > 700, "{asked} keys");
}

#[test]
fn settings_that_tables_name_are_there() {
    for format in Format::ALL {
        for row in tables(format).iter().flat_map(|table| table.iter()) {
            if let table::Becomes::Setting { to, .. } = row.becomes {
                let known = config::settings::SETTINGS.iter().any(|setting| setting.key == to);
                assert!(known, "{}: {to} is no setting", row.key);
            }
        }
    }
}

#[test]
fn what_is_missing_is_asked_for_and_given_by_flags() {
    let report =
        one(Format::Patroni, "scope: Shop\nname: pg1.example\npostgresql:\n  listen: '*:5432'\n", &answers());
    let missing: Vec<&str> = report.missing.iter().map(|lack| lack.setting.as_str()).collect();
    assert_eq!(missing, ["cluster", "node.name", "[peers]: the other nodes"]);
    assert_eq!(fate(&report, "scope").0, "refused");
    assert!(report.toml.contains("# MISSING cluster"), "{}", report.toml);
    let given = Answers {
        cluster: Some("shop".to_owned()),
        name: Some("n1".to_owned()),
        peers: vec![member("n1", "10.0.0.1")],
        witnesses: vec![member("w", "10.0.0.9")],
        ..answers()
    };
    let report =
        one(Format::Patroni, "scope: Shop\nname: pg1.example\npostgresql:\n  listen: '*:5432'\n", &given);
    assert!(report.is_complete(), "{}", report.text());
    let config = config::parse(&report.toml, "f", &BTreeMap::new()).unwrap();
    assert_eq!((config.cluster.as_str(), config.peers.len()), ("shop", 2));
}

#[test]
fn patroni_replicates_as_it_says() {
    let alone = Answers { alone: true, ..answers() };
    let sync = |dcs: &str| {
        let text = format!(
            "scope: shop\nname: n1\npostgresql:\n  connect_address: 10.0.0.1:5432\nbootstrap:\n  dcs: {{{dcs}}}\n"
        );
        let report = one(Format::Patroni, &text, &alone);
        assert!(report.is_complete(), "{}", report.text());
        let sync = config::parse(&report.toml, "f", &BTreeMap::new()).unwrap().sync;
        (sync.standbys, format!("{:?} {:?}", sync.method, sync.on_last_standby_lost))
    };
    assert_eq!(sync("ttl: 30").0, 0);
    assert_eq!(sync("synchronous_mode: off").0, 0);
    assert_eq!(sync("synchronous_mode: on"), (1, "Priority Degrade".to_owned()));
    assert_eq!(
        sync("synchronous_mode: quorum, synchronous_node_count: 2, synchronous_mode_strict: true"),
        (2, "Quorum Block".to_owned())
    );
}

#[test]
fn a_standby_cluster_of_patroni() {
    let text = "scope: west\nname: n1\npostgresql:\n  connect_address: 10.1.0.1:5432\nbootstrap:\n  dcs:\n    standby_cluster:\n      \
                host: 10.0.0.1,10.0.0.2\n      port: 5433\n      primary_slot_name: west\n";
    let alone = Answers { alone: true, ..answers() };
    let report = one(Format::Patroni, text, &alone);
    assert_eq!(report.missing[0].setting, "standby_cluster.credentials");
    let key = ("standby_cluster.credentials".to_owned(), "/etc/pgherd/origin.json".to_owned());
    let report = one(Format::Patroni, text, &Answers { set: vec![key], ..alone });
    assert!(report.is_complete(), "{}", report.text());
    assert!(report.toml.contains("hosts = \"10.0.0.1:5433,10.0.0.2:5433\""), "{}", report.toml);
}

#[test]
fn pgbouncers_own_default_mode_is_kept() {
    let report = one(Format::PgBouncer, "[databases]\n* =\n[pgbouncer]\nlisten_port = 6432\n", &answers());
    assert!(report.toml.contains("pool_mode = \"session\""), "{}", report.toml);
    let twice = one(Format::PgBouncer, "[pgbouncer]\nlisten_port = 1\nlisten_port = 2\n", &answers());
    assert_eq!(fate(&twice, "[pgbouncer] listen_port"), ("overridden", "f:3 sets it again"));
    let zero =
        one(Format::PgBouncer, "[pgbouncer]\nquery_wait_timeout = 0\ndefault_pool_size = 0\n", &answers());
    assert_eq!(fate(&zero, "[pgbouncer] query_wait_timeout").0, "refused");
    assert_eq!(fate(&zero, "[pgbouncer] default_pool_size").0, "refused");
}

#[test]
fn listeners_of_haproxy_by_their_checks() {
    let text = "listen a\n bind 10.0.0.9:5000\n mode tcp\n option httpchk\n server n1 10.0.0.1:5432\nlisten b\n bind :5001\n \
                option httpchk GET /replica\nlisten c\n bind *:5002\n option pgsql-check user x\nfrontend web\n bind *:80\n mode http\n";
    let report = one(Format::HaProxy, text, &answers());
    assert_eq!(fate(&report, "listen a: bind").1, "[proxy] read_write_port = 5000");
    assert_eq!(fate(&report, "listen b: bind").0, "overridden", "another address than the first listener's");
    assert_eq!(fate(&report, "listen c: bind").0, "absent");
    assert_eq!(fate(&report, "frontend web: bind").0, "needless");
    assert!(report.toml.contains("read_only_port = 5001"), "{}", report.toml);
}

#[test]
fn pgpools_port_is_the_one_that_does_what_it_did() {
    let port = |mode: &str| {
        let text = format!("backend_hostname0 = 'a'\nport = 9999\nload_balance_mode = {mode}\n");
        let toml = one(Format::PgPool, &text, &answers()).toml;
        toml.lines().find(|line| line.contains("9999")).unwrap().split(' ').next().unwrap().to_owned()
    };
    assert_eq!((port("on"), port("off")), ("auto_port".to_owned(), "read_write_port".to_owned()));
}

#[test]
fn files_are_known_by_what_stands_in_them() {
    assert_eq!(Format::detect("global\n maxconn 1\n"), Some(Format::HaProxy));
    assert_eq!(Format::detect("#x\nnode_id=1\nconninfo='host=a'\n"), Some(Format::Repmgr));
    assert_eq!(Format::detect("num_init_children = 3\n"), Some(Format::PgPool));
    assert_eq!(Format::detect("[pgbouncer]\n"), Some(Format::PgBouncer));
    assert_eq!(Format::detect("scope: a\n"), Some(Format::Patroni));
    assert_eq!(Format::detect("hello\n"), None);
}

/// Pieces of output in the pages for newcomers, with `…` between, are pieces of what import really says.
#[test]
fn pages_quote_what_import_says() {
    let pages =
        [("patroni", "patroni"), ("pgbouncer", "patroni"), ("repmgr", "pgpool"), ("pgpool", "pgpool")];
    for (page, folder) in pages {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../../docs/coming-from/{page}.md"));
        let text = std::fs::read_to_string(&path).unwrap();
        let read = |name: &str| std::fs::read_to_string(fixtures().join(folder).join(name)).unwrap();
        let said = read("expected.txt") + &read("expected.toml");
        let blocks: Vec<&str> =
            text.split("```text\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
        assert!(!blocks.is_empty(), "{page} quotes nothing");
        for piece in blocks.iter().flat_map(|block| block.split("…\n")) {
            assert!(
                said.contains(piece),
                "docs/coming-from/{page}.md quotes what import does not say:\n{piece}"
            );
        }
    }
}
