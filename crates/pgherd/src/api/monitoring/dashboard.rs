//! The table of panels, and `docs/monitoring/grafana.json` made from it. A panel's help is that of the metrics it shows.

use serde_json::{Value, json};

use super::promql;

/// How a panel shows its numbers.
#[derive(Clone, Copy)]
enum Shape {
    /// Lines over time.
    Lines,
    /// The last value.
    Number,
    /// The last value's name: who it is.
    Name,
    /// Which of them was it when.
    States,
}

use Shape::{Lines, Name, Number, States};

pub struct Panel {
    pub title: &'static str,
    shape: Shape,
    /// Grafana's name of it.
    unit: &'static str,
    /// Expressions, each with its legend.
    pub shows: &'static [(&'static str, &'static str)],
}

const fn panel(
    shape: Shape,
    title: &'static str,
    unit: &'static str,
    shows: &'static [(&'static str, &'static str)],
) -> Panel {
    Panel { title, shape, unit, shows }
}

/// A headline with its panels.
pub struct Row {
    title: &'static str,
    pub panels: &'static [Panel],
}

pub const ROWS: &[Row] = &[
    Row { title: "Cluster", panels: CLUSTER },
    Row { title: "Failover", panels: FAILOVER },
    Row { title: "Proxy", panels: PROXY },
    Row { title: "PostgreSQL, WAL and slots", panels: POSTGRES },
    Row { title: "Disks and fencer", panels: MACHINE },
];

const CLUSTER: &[Panel] = &[
    panel(Name, "Primary", "none", &[("max by (node) (pgherd_open_primary{scope=\"$scope\"})", "{{node}}")]),
    panel(Number, "Term", "none", &[("max(pgherd_term{scope=\"$scope\"})", "term")]),
    panel(Name, "Sync set", "none", &[("max by (node) (pgherd_sync_member{scope=\"$scope\"})", "{{node}}")]),
    panel(Number, "Must flush (k)", "none", &[("max(pgherd_sync_k{scope=\"$scope\"})", "k")]),
    panel(
        States,
        "Healthy",
        "none",
        &[("max by (node) (pgherd_node_healthy{scope=\"$scope\"})", "{{node}}")],
    ),
    panel(
        Lines,
        "Behind, received",
        "bytes",
        &[("max by (node) (pgherd_lag_bytes{scope=\"$scope\"})", "{{node}}")],
    ),
    panel(
        Lines,
        "Behind, replayed",
        "bytes",
        &[("max by (node) (pgherd_replay_lag_bytes{scope=\"$scope\"})", "{{node}}")],
    ),
    panel(
        States,
        "Degraded, paused",
        "none",
        &[
            ("max(pgherd_sync_degraded{scope=\"$scope\"})", "degraded"),
            ("max(pgherd_paused{scope=\"$scope\"})", "paused"),
        ],
    ),
];

const FAILOVER: &[Panel] = &[
    panel(
        States,
        "Open primary",
        "none",
        &[("patroni_primary{scope=\"$scope\"} + patroni_standby_leader{scope=\"$scope\"}", "{{name}}")],
    ),
    panel(Lines, "Term", "none", &[("max(pgherd_term{scope=\"$scope\"})", "term")]),
    panel(
        Lines,
        "Silent for",
        "s",
        &[("min by (node) (pgherd_node_silent_seconds{scope=\"$scope\"})", "{{node}}")],
    ),
    panel(Lines, "Last decision ago", "s", &[("pgherd_decided_seconds{scope=\"$scope\"}", "{{name}}")]),
    panel(
        Lines,
        "Store last reached ago",
        "s",
        &[("time() - patroni_dcs_last_seen{scope=\"$scope\"}", "{{name}}")],
    ),
    panel(
        Lines,
        "Requests under way",
        "none",
        &[("max(pgherd_requests_active{scope=\"$scope\"})", "requests")],
    ),
];

const PROXY: &[Panel] = &[
    panel(
        Lines,
        "Sessions",
        "none",
        &[
            ("sum(pgherd_proxy_sessions{instance=~\"$instance\"})", "all"),
            ("sum(pgherd_proxy_sessions_queued{instance=~\"$instance\"})", "wait to log in"),
            ("sum(pgherd_proxy_sessions_parked{instance=~\"$instance\"})", "wait for a switchover"),
        ],
    ),
    panel(
        Lines,
        "Pools: sessions",
        "none",
        &[(
            "sum by (database, user, state) (pgherd_proxy_pool_sessions{instance=~\"$instance\"})",
            "{{database}} {{user}} {{state}}",
        )],
    ),
    panel(
        Lines,
        "Pools: servers",
        "none",
        &[(
            "sum by (database, user, state) (pgherd_proxy_pool_servers{instance=~\"$instance\"})",
            "{{database}} {{user}} {{state}}",
        )],
    ),
    panel(
        Lines,
        "Transactions and queries a second",
        "ops",
        &[
            (
                "sum(rate(pgherd_proxy_transactions_total{instance=~\"$instance\"}[$__rate_interval]))",
                "transactions",
            ),
            ("sum(rate(pgherd_proxy_queries_total{instance=~\"$instance\"}[$__rate_interval]))", "queries"),
            ("sum(rate(pgherd_proxy_logins_total{instance=~\"$instance\"}[$__rate_interval]))", "logins"),
        ],
    ),
    panel(
        Lines,
        "Wait for a server",
        "s",
        &[
            (
                "histogram_quantile(0.5, sum by (le) (rate(pgherd_proxy_wait_seconds_bucket{instance=~\"$instance\"}[$__rate_interval])))",
                "half",
            ),
            (
                "histogram_quantile(0.99, sum by (le) (rate(pgherd_proxy_wait_seconds_bucket{instance=~\"$instance\"}[$__rate_interval])))",
                "99 of 100",
            ),
        ],
    ),
    panel(
        Lines,
        "Query",
        "s",
        &[
            (
                "histogram_quantile(0.5, sum by (le) (rate(pgherd_proxy_query_seconds_bucket{instance=~\"$instance\"}[$__rate_interval])))",
                "half",
            ),
            (
                "histogram_quantile(0.99, sum by (le) (rate(pgherd_proxy_query_seconds_bucket{instance=~\"$instance\"}[$__rate_interval])))",
                "99 of 100",
            ),
        ],
    ),
    panel(
        Lines,
        "Transaction",
        "s",
        &[
            (
                "histogram_quantile(0.5, sum by (le) (rate(pgherd_proxy_transaction_seconds_bucket{instance=~\"$instance\"}[$__rate_interval])))",
                "half",
            ),
            (
                "histogram_quantile(0.99, sum by (le) (rate(pgherd_proxy_transaction_seconds_bucket{instance=~\"$instance\"}[$__rate_interval])))",
                "99 of 100",
            ),
        ],
    ),
    panel(
        Lines,
        "Errors that clients saw",
        "ops",
        &[
            (
                "sum(rate(pgherd_proxy_refused_total{instance=~\"$instance\"}[$__rate_interval]))",
                "turned away",
            ),
            (
                "sum(rate(pgherd_proxy_queue_timeouts_total{instance=~\"$instance\"}[$__rate_interval]))",
                "waited in vain",
            ),
            ("sum(rate(pgherd_proxy_cuts_total{instance=~\"$instance\"}[$__rate_interval]))", "cut"),
            (
                "sum(rate(pgherd_proxy_overdue_total{instance=~\"$instance\"}[$__rate_interval]))",
                "over a limit in time",
            ),
            (
                "sum(rate(pgherd_proxy_unacknowledged_total{instance=~\"$instance\"}[$__rate_interval]))",
                "told 08007",
            ),
        ],
    ),
    panel(
        Lines,
        "Spared: moved and repeated",
        "ops",
        &[
            (
                "sum(rate(pgherd_proxy_moved_total{instance=~\"$instance\"}[$__rate_interval]))",
                "sessions moved",
            ),
            (
                "sum(rate(pgherd_proxy_reads_repeated_total{instance=~\"$instance\"}[$__rate_interval]))",
                "reads repeated",
            ),
        ],
    ),
    panel(
        Lines,
        "Reads of the auto port",
        "ops",
        &[
            (
                "sum(rate(pgherd_proxy_reads_by_replicas_total{instance=~\"$instance\"}[$__rate_interval]))",
                "by replicas",
            ),
            (
                "sum(rate(pgherd_proxy_reads_by_primary_total{instance=~\"$instance\"}[$__rate_interval]))",
                "by the primary",
            ),
        ],
    ),
    panel(
        Lines,
        "Traffic",
        "Bps",
        &[
            (
                "sum(rate(pgherd_proxy_received_bytes_total{instance=~\"$instance\"}[$__rate_interval]))",
                "from clients",
            ),
            (
                "sum(rate(pgherd_proxy_sent_bytes_total{instance=~\"$instance\"}[$__rate_interval]))",
                "from servers",
            ),
        ],
    ),
    panel(
        Lines,
        "Prepared statements",
        "ops",
        &[
            (
                "sum(rate(pgherd_proxy_client_parses_total{instance=~\"$instance\"}[$__rate_interval]))",
                "Parse of clients",
            ),
            (
                "sum(rate(pgherd_proxy_server_parses_total{instance=~\"$instance\"}[$__rate_interval]))",
                "parsed by servers",
            ),
        ],
    ),
];

const POSTGRES: &[Panel] = &[
    panel(
        Lines,
        "WAL written by the primary",
        "Bps",
        &[(
            "sum(rate(patroni_xlog_location{scope=\"$scope\"}[$__rate_interval]) and patroni_primary{scope=\"$scope\"} == 1)",
            "WAL",
        )],
    ),
    panel(
        Lines,
        "WAL replayed",
        "Bps",
        &[(
            "rate(patroni_xlog_replayed_location{scope=\"$scope\"}[$__rate_interval]) and patroni_replica{scope=\"$scope\"} == 1",
            "{{name}}",
        )],
    ),
    panel(States, "Runs", "none", &[("patroni_postgres_running{scope=\"$scope\"}", "{{name}}")]),
    panel(
        States,
        "Admits no clients",
        "none",
        &[("max by (node) (pgherd_quarantined{scope=\"$scope\"})", "{{node}}")],
    ),
    panel(
        Lines,
        "WAL held by slots",
        "bytes",
        &[("pgherd_slot_held_bytes{scope=\"$scope\"}", "{{name}} {{slot}}")],
    ),
    panel(
        Lines,
        "Slots: share of the budget",
        "percentunit",
        &[(
            "pgherd_slot_held_bytes{scope=\"$scope\"} / (pgherd_slot_budget_bytes{scope=\"$scope\"} > 0)",
            "{{name}} {{slot}}",
        )],
    ),
    panel(
        States,
        "A takeover keeps every slot",
        "none",
        &[("pgherd_slots_ready{scope=\"$scope\"}", "{{name}}")],
    ),
    panel(
        States,
        "Settings wait for a restart",
        "none",
        &[("patroni_pending_restart{scope=\"$scope\"}", "{{name}}")],
    ),
];

const MACHINE: &[Panel] = &[
    panel(Lines, "Free on the fullest disk", "bytes", &[("pgherd_free_bytes{scope=\"$scope\"}", "{{name}}")]),
    panel(States, "Disk full", "none", &[("max by (node) (pgherd_disk_full{scope=\"$scope\"})", "{{node}}")]),
    panel(
        States,
        "Fencer",
        "none",
        &[
            ("pgherd_fencer_running{scope=\"$scope\"}", "{{name}} runs"),
            ("pgherd_fencer_armed{scope=\"$scope\"}", "{{name}} armed"),
        ],
    ),
    panel(
        States,
        "Crowded, stuck",
        "none",
        &[
            ("max by (node) (pgherd_crowded{scope=\"$scope\"})", "{{node}} crowded"),
            ("max by (node) (pgherd_stuck{scope=\"$scope\"})", "{{node}} stuck"),
        ],
    ),
];

/// Grafana's grid has 24 columns: two panels of lines, or four numbers, side by side.
const COLUMNS: u64 = 24;

/// `docs/monitoring/grafana.json`; `help` says what a metric is.
pub fn page(help: impl Fn(&str) -> String) -> String {
    let mut panels = Vec::new();
    let mut y = 0;
    for row in ROWS {
        let at = json!({ "h": 1, "w": COLUMNS, "x": 0, "y": y });
        panels.push(json!({ "id": panels.len() + 1, "type": "row", "title": row.title, "collapsed": false, "gridPos": at, "panels": [] }));
        y += 1;
        let (mut x, mut height) = (0, 0);
        for panel in row.panels {
            let (w, h) =
                if matches!(panel.shape, Number | Name) { (COLUMNS / 4, 4) } else { (COLUMNS / 2, 8) };
            if x + w > COLUMNS {
                (x, y, height) = (0, y + height, 0);
            }
            let at = json!({ "h": h, "w": w, "x": x, "y": y });
            panels.push(object(panel, panels.len() + 1, &at, &help));
            (x, height) = (x + w, height.max(h));
        }
        y += height;
    }
    let document = json!({
        "uid": "pgherd",
        "title": "pgherd",
        "description": "A cluster of pgherd: who is primary, what its commits count on, its proxies, its servers. Made from \
                        crates/pgherd/src/api/monitoring/dashboard.rs.",
        "tags": ["pgherd", "postgresql"],
        "schemaVersion": 39,
        "editable": true,
        "graphTooltip": 1,
        "refresh": "10s",
        "time": { "from": "now-1h", "to": "now" },
        "timezone": "",
        "templating": { "list": variables() },
        "panels": panels,
    });
    serde_json::to_string_pretty(&document).unwrap() + "\n"
}

fn variables() -> Value {
    let asked = |name: &str, label: &str, query: &str, several: bool| {
        let source = json!({ "type": "prometheus", "uid": "${datasource}" });
        json!({
            "name": name, "label": label, "type": "query", "datasource": source, "refresh": 2, "sort": 1,
            "query": { "query": query, "refId": name }, "definition": query, "multi": several, "includeAll": several,
            "current": if several { json!({ "text": "All", "value": "$__all" }) } else { json!({}) },
        })
    };
    json!([
        { "name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus", "current": {} },
        asked("scope", "Cluster", SCOPES, false),
        asked("instance", "Proxy of", INSTANCES, true),
    ])
}

/// The clusters, and the nodes of the chosen one as Prometheus calls them: the proxy's metrics have no label of the cluster.
const SCOPES: &str = "label_values(pgherd_term, scope)";
const INSTANCES: &str = "label_values(pgherd_term{scope=\"$scope\"}, instance)";

fn object(panel: &Panel, id: usize, at: &Value, help: impl Fn(&str) -> String) -> Value {
    let kind = match panel.shape {
        Lines => "timeseries",
        Number | Name => "stat",
        States => "state-timeline",
    };
    let mut metrics: Vec<String> = panel
        .shows
        .iter()
        .flat_map(|(expr, _)| promql::read(expr).unwrap().metrics)
        .map(|used| used.name)
        .collect();
    metrics.dedup();
    let description: Vec<String> = metrics.iter().map(|name| format!("`{name}`: {}", help(name))).collect();
    let is_last = matches!(panel.shape, Number | Name);
    let target = |(number, (expr, legend)): (usize, &(&str, &str))| {
        let letter = char::from(b'A' + u8::try_from(number).unwrap());
        json!({ "refId": letter.to_string(), "expr": expr, "legendFormat": legend, "instant": is_last, "range": !is_last })
    };
    let mut object = json!({
        "id": id,
        "type": kind,
        "title": panel.title,
        "description": description.join("\n\n"),
        "datasource": { "type": "prometheus", "uid": "${datasource}" },
        "gridPos": at,
        "fieldConfig": { "defaults": { "unit": panel.unit, "min": 0 }, "overrides": [] },
        "targets": panel.shows.iter().enumerate().map(target).collect::<Vec<_>>(),
    });
    match panel.shape {
        Lines => object["options"] = json!({ "tooltip": { "mode": "multi", "sort": "desc" } }),
        Name => {
            object["options"] = json!({ "textMode": "name", "graphMode": "none", "reduceOptions": { "calcs": ["lastNotNull"] } })
        }
        Number => {
            object["options"] = json!({ "textMode": "value", "graphMode": "none", "reduceOptions": { "calcs": ["lastNotNull"] } });
        }
        States => {
            let yes_or_no =
                json!({ "0": { "text": "no", "color": "text" }, "1": { "text": "yes", "color": "blue" } });
            object["fieldConfig"]["defaults"]["mappings"] =
                json!([{ "type": "value", "options": yes_or_no }]);
            object["options"] = json!({ "showValue": "never", "mergeValues": true });
        }
    }
    object
}
