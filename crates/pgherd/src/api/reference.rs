//! The pages `docs/reference/http.md` and `docs/reference/metrics.md`, made from the tables of routes and metrics.

use super::ROUTES;
use super::patroni::metrics::METRICS;

const HTTP: &str = "\
# HTTP

<!-- Made from crates/pgherd/src/api/routes.rs. To renew: UPDATE_DOCS=1 cargo test -p pgherd --lib -- api::reference -->

Each node answers on `[http] listen` and `port` ([configuration](config.md)). Reading is open to whoever reaches the port;
changes are taken from the node's own machine and from users with a role ([access](../concepts/access.md)). Below `/api/v1` is pgherd's own interface; the others are Patroni's, with
its status codes ([coming from Patroni](../concepts/patroni.md)). Answers are JSON, those to Patroni's changes a line of
text. HEAD and OPTIONS have the code and no body. The same for programs, with parameters, bodies, codes and roles, is the
[OpenAPI document](openapi.json).

| path | methods | what it is |
|---|---|---|
";

const METRICS_HEAD: &str = "\
# Metrics

<!-- Made from crates/pgherd/src/api/patroni/metrics.rs and crates/proxy/src/metrics.rs. To renew: UPDATE_DOCS=1 cargo test
-p pgherd --lib -- api::reference -->

`/metrics` of each node, in Prometheus' text format. What begins with `patroni_` has Patroni's names, so that its dashboards
and alerts go on, and as there 0 stands for what is not known; elsewhere such a value has no sample. Each of the node's
metrics has the labels `scope` (the cluster) and `name` (the node that answers); one that is about several nodes also
`node`. Those of the proxy have `database` and `user`, where they are counted by them; those of a replication slot `slot`.

| metric | type | what it is |
|---|---|---|
";

fn http_page() -> String {
    let row = |route: &super::Route| format!("| `{}` | {} | {} |\n", route.path, route.methods, route.doc);
    HTTP.to_owned() + &ROUTES.iter().map(row).collect::<String>()
}

fn metrics_page() -> String {
    let row = |(name, kind, help): (&str, &str, &str)| format!("| `{name}` | {kind} | {help} |\n");
    let own = METRICS.iter().map(|metric| row((metric.name, metric.kind, metric.help)));
    let heads = proxy::metric_families();
    let of_proxy = families(&heads).map(row);
    METRICS_HEAD.to_owned() + &own.chain(of_proxy).collect::<String>()
}

/// Name, type and help of each family of a text in which they stand before their samples.
fn families(text: &str) -> impl Iterator<Item = (&str, &str, &str)> {
    let helps = text.lines().filter_map(|line| line.strip_prefix("# HELP ")?.split_once(' '));
    let kinds = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    helps.zip(kinds).map(|((name, help), (_, kind))| (name, kind, help))
}

/// `file` is `page`, seen from `docs/reference`; with `UPDATE_DOCS` set it is made so.
pub(super) fn is_up_to_date(file: &str, page: &str) {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/reference").join(file);
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, page).unwrap();
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        committed == page,
        "docs/reference/{file} is not what the table says; type: UPDATE_DOCS=1 cargo test -p pgherd --lib -- api::"
    );
}

#[test]
fn the_page_of_routes_is_up_to_date() {
    is_up_to_date("http.md", &http_page());
}

#[test]
fn the_openapi_document_is_up_to_date() {
    is_up_to_date("openapi.json", &super::openapi::page());
}

#[test]
fn the_page_of_metrics_is_up_to_date() {
    is_up_to_date("metrics.md", &metrics_page());
}
