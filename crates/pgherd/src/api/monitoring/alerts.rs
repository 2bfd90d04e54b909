//! The table of alerts, and `docs/monitoring/alerts.yml` made from it.

use std::fmt::Write;

/// One alerting rule of Prometheus.
pub struct Alert {
    pub name: &'static str,
    /// It fires while this has results.
    pub expr: &'static str,
    /// For so long, so that what is over by itself wakes nobody.
    hold: &'static str,
    severity: Severity,
    /// One line; Prometheus puts the labels of the result in.
    pub summary: &'static str,
    /// What it means, and what to type next.
    pub description: &'static str,
}

/// Who is told: somebody at once, somebody today, nobody.
#[derive(Clone, Copy)]
enum Severity {
    Critical,
    Warning,
    Info,
}

use Severity::{Critical, Info, Warning};

impl Severity {
    fn word(self) -> &'static str {
        match self {
            Critical => "critical",
            Warning => "warning",
            Info => "info",
        }
    }
}

/// A group of the file.
pub struct Group {
    name: &'static str,
    pub alerts: &'static [Alert],
}

pub const GROUPS: &[Group] = &[
    Group { name: "pgherd_cluster", alerts: CLUSTER },
    Group { name: "pgherd_node", alerts: NODE },
    Group { name: "pgherd_wal", alerts: WAL },
    Group { name: "pgherd_proxy", alerts: PROXY },
];

const CLUSTER: &[Alert] = &[
    Alert {
        name: "PgherdNoPrimary",
        expr: "min by (scope) (patroni_cluster_unlocked) == 1",
        hold: "30s",
        severity: Critical,
        summary: "Cluster {{ $labels.scope }} has no open primary",
        description: "Writes wait. Type `pgherd status`: it says what the cluster waits for, and `pgherd events` what has happened.",
    },
    Alert {
        name: "PgherdSeveralPrimaries",
        expr: "sum by (scope) (patroni_primary) > 1",
        hold: "1m",
        severity: Critical,
        summary: "{{ $value }} nodes of cluster {{ $labels.scope }} say that they are the open primary",
        description: "This must never be: at most one can acknowledge commits. Type `pgherd status` and `pgherd events` on each node, keep what they say, \
                      and tell pgherd's developers. Two clusters with one name look the same: give each a name of its own.",
    },
    Alert {
        name: "PgherdSyncDegraded",
        expr: "max by (scope) (pgherd_sync_degraded) == 1",
        hold: "0s",
        severity: Critical,
        summary: "Commits of cluster {{ $labels.scope }} are on the primary alone",
        description: "The last standby was lost, and [sync] on_last_standby_lost allows to go on: what is committed now is lost with the primary's \
                      disk. Type `pgherd status` to see which standby is missing and why.",
    },
    Alert {
        name: "PgherdSyncNotMet",
        expr: "sum by (scope) (pgherd_sync_member * pgherd_node_healthy and on (scope, name) patroni_primary == 1) \
               < on (scope) max by (scope) (pgherd_sync_k)",
        hold: "30s",
        severity: Critical,
        summary: "Only {{ $value }} standbys of the sync set of cluster {{ $labels.scope }} are healthy",
        description: "That is fewer than must flush a commit, so commits wait. Type `pgherd status` to see which standby is missing and why.",
    },
    Alert {
        name: "PgherdTakeover",
        expr: "max by (scope) (changes(pgherd_term[10m])) > 0",
        hold: "0s",
        severity: Info,
        summary: "Cluster {{ $labels.scope }} has a new term",
        description: "A takeover or a switchover. Type `pgherd history` for who is primary since when, and `pgherd events` for why.",
    },
    Alert {
        name: "PgherdStoreAway",
        expr: "time() - patroni_dcs_last_seen > 60 and patroni_dcs_last_seen > 0",
        hold: "30s",
        severity: Critical,
        summary: "Node {{ $labels.name }} of cluster {{ $labels.scope }} has not reached the store for {{ $value | humanizeDuration }}",
        description: "No majority of the voters is connected with it: a primary whose standbys answer serves on, and nobody could take over from it. Type \
                      `pgherd member list` for who votes, and `pgherd status` for who is silent.",
    },
    Alert {
        name: "PgherdPaused",
        expr: "max by (scope) (pgherd_paused) == 1",
        hold: "4h",
        severity: Info,
        summary: "Cluster {{ $labels.scope }} is paused",
        description: "Nothing is taken over or started by itself meanwhile. Type `pgherd resume` when the maintenance is over; `pgherd status` says when \
                      the pause ends by itself.",
    },
];

const NODE: &[Alert] = &[
    Alert {
        name: "PgherdAgentDown",
        expr: "up{job=\"pgherd\"} == 0",
        hold: "1m",
        severity: Critical,
        summary: "pgherd at {{ $labels.instance }} gives no answer",
        description: "Its process or its machine is down, or its HTTP port is not reached. On the machine type `systemctl status pgherd` and \
                      `journalctl -u pgherd`; on another node `pgherd status`.",
    },
    Alert {
        name: "PgherdAgentHangs",
        expr: "pgherd_decided_seconds > 30",
        hold: "0s",
        severity: Critical,
        summary: "The agent of {{ $labels.name }} in cluster {{ $labels.scope }} has decided nothing for {{ $value | humanizeDuration }}",
        description: "It answers HTTP and does not look after its server; the fencer ends a primary whose lease has run out. Type `pgherd status` on \
                      another node, and `pgherd relaunch` on this one: no session ends.",
    },
    Alert {
        name: "PgherdNodeUnhealthy",
        expr: "max by (scope, node) (pgherd_node_healthy) == 0",
        hold: "2m",
        severity: Warning,
        summary: "Node {{ $labels.node }} of cluster {{ $labels.scope }} is not healthy",
        description: "It is not heard, or its server does not run in its role. Type `pgherd status` for its state, `pgherd explain` for what would happen \
                      if another one died now.",
    },
    Alert {
        name: "PgherdNodeStuck",
        expr: "max by (scope, node) (pgherd_stuck) == 1",
        hold: "1m",
        severity: Warning,
        summary: "Node {{ $labels.node }} of cluster {{ $labels.scope }} has given up coming back",
        description: "Type `pgherd status`: it says why and what to type, such as `pgherd reinit` to copy its data directory anew.",
    },
    Alert {
        name: "PgherdQuarantined",
        expr: "max by (scope, node) (pgherd_quarantined) == 1",
        hold: "5m",
        severity: Warning,
        summary: "Node {{ $labels.node }} of cluster {{ $labels.scope }} admits no clients",
        description: "Its server runs in quarantine. Type `pgherd status` for the rule that its agent follows and the reasons.",
    },
    Alert {
        name: "PgherdPrimaryNotFenced",
        expr: "patroni_primary == 1 and on (scope, name) pgherd_fencer_armed == 0",
        hold: "1m",
        severity: Critical,
        summary: "No fencer watches over the primary {{ $labels.name }} of cluster {{ $labels.scope }}",
        description: "If its agent hung now, nothing would take the primary out of service at the end of its lease. Type `pgherd status`, and \
                      `pgherd relaunch` on the node.",
    },
    Alert {
        name: "PgherdFencerMissing",
        expr: "pgherd_fencer_running == 0",
        hold: "1m",
        severity: Warning,
        summary: "No fencer runs beside the agent of {{ $labels.name }} in cluster {{ $labels.scope }}",
        description: "The agent starts one again and again, and it ends. Its log says why; type `pgherd relaunch` on the node when the reason is gone.",
    },
    Alert {
        name: "PgherdDiskFull",
        expr: "max by (scope, node) (pgherd_disk_full) == 1",
        hold: "0s",
        severity: Critical,
        summary: "Node {{ $labels.node }} of cluster {{ $labels.scope }} has too little room",
        description: "It can not take over, nor take WAL anew. Make room where its data directory and WAL are; `pgherd status` names slots that hold WAL.",
    },
    Alert {
        name: "PgherdDiskFills",
        expr: "predict_linear(pgherd_free_bytes[2h], 12 * 3600) < 0",
        hold: "30m",
        severity: Warning,
        summary: "A disk of {{ $labels.name }} in cluster {{ $labels.scope }} is full within 12 hours if it goes on so",
        description: "Type `pgherd status`: it names slots that hold WAL; what else grows is in the data directory.",
    },
    Alert {
        name: "PgherdConnectionsExhausted",
        expr: "max by (scope, node) (pgherd_crowded) == 1",
        hold: "2m",
        severity: Warning,
        summary: "Clients hold every connection slot of {{ $labels.node }} in cluster {{ $labels.scope }}",
        description: "New sessions wait or are turned away. `psql … pgbouncer` and SHOW POOLS on the proxy says whose they are; raise max_connections with \
                      `pgherd config set`, or make the pools smaller.",
    },
    Alert {
        name: "PgherdPendingRestart",
        expr: "patroni_pending_restart == 1",
        hold: "1h",
        severity: Info,
        summary: "Settings of {{ $labels.name }} in cluster {{ $labels.scope }} wait for a restart",
        description: "`pgherd status` names them; type `pgherd restart {{ $labels.name }}` when it suits.",
    },
];

const WAL: &[Alert] = &[
    Alert {
        name: "PgherdReplicaLag",
        expr: "max by (scope, node) (pgherd_replay_lag_bytes) > 256 * 1024 * 1024",
        hold: "5m",
        severity: Warning,
        summary: "Replica {{ $labels.node }} of cluster {{ $labels.scope }} is {{ $value | humanize1024 }}B behind",
        description: "Reads there are old, and a takeover to it would take long. Type `pgherd status`: it says whether WAL is not received (network, disk) or \
                      not replayed (a long query, a slow disk).",
    },
    Alert {
        name: "PgherdReplicaNotStreaming",
        expr: "patroni_replica == 1 and on (scope, name) patroni_postgres_streaming == 0",
        hold: "5m",
        severity: Warning,
        summary: "Replica {{ $labels.name }} of cluster {{ $labels.scope }} does not stream",
        description: "Type `pgherd status`: it says what its WAL receiver complains of. If it cannot come back, `pgherd reinit {{ $labels.name }}`.",
    },
    Alert {
        name: "PgherdSlotHoldsWal",
        expr: "pgherd_slot_held_bytes > 0.8 * pgherd_slot_budget_bytes > 0",
        hold: "5m",
        severity: Warning,
        summary: "Slot {{ $labels.slot }} of {{ $labels.name }} holds {{ $value | humanize1024 }}B of WAL",
        description: "That is more than four fifths of its budget; above the budget it is given up. See what its reader does; `pgherd status` lists slots \
                      and owners.",
    },
    Alert {
        name: "PgherdSlotLost",
        expr: "pgherd_slot_lost == 1",
        hold: "1m",
        severity: Warning,
        summary: "Slot {{ $labels.slot }} of {{ $labels.name }} can be used no more",
        description: "`pgherd status` says why. Its reader has to begin anew, with a new slot.",
    },
    Alert {
        name: "PgherdSlotsNotReady",
        expr: "pgherd_slots_ready == 0",
        hold: "15m",
        severity: Warning,
        summary: "A takeover to {{ $labels.name }} of cluster {{ $labels.scope }} would not keep every slot",
        description: "`pgherd status` says which slot is missing there and why.",
    },
];

const PROXY: &[Alert] = &[
    Alert {
        name: "PgherdClientsQueue",
        expr: "pgherd_proxy_sessions_queued > 0",
        hold: "1m",
        severity: Warning,
        summary: "{{ $value }} sessions at {{ $labels.instance }} wait for a server to log in",
        description: "There is no primary to log in to, or it is slow. Type `pgherd status`.",
    },
    Alert {
        name: "PgherdClientsWait",
        expr: "sum by (instance, database, user) (pgherd_proxy_pool_sessions{state=\"waiting\"}) > 0",
        hold: "2m",
        severity: Warning,
        summary: "{{ $value }} sessions of {{ $labels.user }} at {{ $labels.instance }} wait for a server of the pool of {{ $labels.database }}",
        description: "All servers of the pool are lent: `psql … pgbouncer` and SHOW SERVERS says to whom. Long transactions end, or the pool is made larger: \
                      `pgherd config set proxy.pool_size=N`.",
    },
    Alert {
        name: "PgherdClientsTimeOut",
        expr: "increase(pgherd_proxy_queue_timeouts_total[5m]) > 0",
        hold: "0s",
        severity: Critical,
        summary: "Sessions at {{ $labels.instance }} have waited in vain for a server",
        description: "They got an error after [proxy] queue_timeout. Type `pgherd status` and look whether there is a primary and whether pools are full.",
    },
    Alert {
        name: "PgherdCommitsUnacknowledged",
        expr: "increase(pgherd_proxy_unacknowledged_total[10m]) > 0",
        hold: "0s",
        severity: Warning,
        summary: "Clients at {{ $labels.instance }} were told 08007: it is not known whether their commits stand",
        description: "Their wait for standbys was cancelled. Type `pgherd events` for what happened then; the applications must look and repeat.",
    },
];

/// `docs/monitoring/alerts.yml`.
pub fn page() -> String {
    let mut out = String::from(
        "# Alerting rules for Prometheus. Made from crates/pgherd/src/api/monitoring/alerts.rs. To renew:\n\
         # UPDATE_DOCS=1 cargo test -p pgherd --lib -- api::monitoring\n\
         groups:\n",
    );
    for group in GROUPS {
        // Writing to a string cannot fail.
        let _ = writeln!(out, "  - name: {}\n    rules:", group.name);
        for alert in group.alerts {
            let Alert { name, expr, hold, severity, summary, description } = alert;
            let _ =
                writeln!(out, "      - alert: {name}\n        expr: {}\n        for: {hold}", quoted(expr));
            let _ = writeln!(out, "        labels:\n          severity: {}", severity.word());
            let (summary, description) = (quoted(summary), quoted(description));
            let _ = writeln!(
                out,
                "        annotations:\n          summary: {summary}\n          description: {description}"
            );
        }
    }
    out
}

/// A string of YAML in single quotes.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}
