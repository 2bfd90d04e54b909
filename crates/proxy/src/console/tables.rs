//! What the console shows, column for column as PgBouncer 1.24 does (`admin.c`, `stats.c`), and Pgpool-II's `POOL_NODES`.
//!
//! What it is: a view of reports and configuration. What it is not: a measurement. What pgherd does not have (peers, a DNS cache)
//! is empty or 0, so that exporters and dashboards that ask for it go on.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Instant, SystemTime};

use jiff::Timestamp;

use super::averages::Rates;
use super::command::Show;
use super::table::{Table, row};
use crate::tally::Owner;
use crate::topology::{Backend, Topology};
use crate::worker::{Activity, Report, ServerReport, SessionReport};
use crate::{Counts, ProxyConfig};

/// All that can be shown, at one moment.
pub struct Scene<'a> {
    pub report: &'a Report,
    pub config: &'a ProxyConfig,
    pub topology: &'a Topology,
    pub counts: Counts,
    pub rates: &'a Rates,
    /// All databases, or these.
    pub paused_all: bool,
    pub paused: &'a BTreeSet<String>,
    pub now: Instant,
}

const POOLS: &str = "database,user,cl_active:i,cl_waiting:i,cl_active_cancel_req:i,cl_waiting_cancel_req:i,sv_active:i,\
    sv_active_cancel:i,sv_being_canceled:i,sv_idle:i,sv_used:i,sv_tested:i,sv_login:i,maxwait:i,maxwait_us:i,pool_mode,\
    load_balance_hosts";
const DATABASES: &str = "name,host,port:i,database,force_user,pool_size:i,min_pool_size:i,reserve_pool_size:i,server_lifetime:i,\
    pool_mode,load_balance_hosts,max_connections:i,current_connections:i,max_client_connections:i,current_client_connections:i,\
    paused:i,disabled:i";
const USERS: &str = "name,pool_size:i,reserve_pool_size:i,pool_mode,max_user_connections:i,current_connections:i,\
    max_user_client_connections:i,current_client_connections:i";
const ENDS: &str = "type,user,database,replication,state,addr,port:i,local_addr,local_port:i,connect_time,request_time,wait:i,\
    wait_us:i,close_needed:i,ptr,link,remote_pid:i,tls,application_name,prepared_statements:i,id:q";
const SOCKETS: &str = "type,user,database,replication,state,addr,port:i,local_addr,local_port:i,connect_time,request_time,wait:i,\
    wait_us:i,close_needed:i,ptr,link,remote_pid:i,tls,application_name,prepared_statements:i,id:q,recv_pos:i,pkt_pos:i,\
    pkt_remain:i,send_pos:i,send_remain:i,pkt_avail:i,send_avail:i";
const NODES: &str = "node_id,hostname,port,status,pg_status,lb_weight,role,pg_role,select_cnt,load_balance_node,\
    replication_delay,replication_state,replication_sync_state,last_status_change";

impl Scene<'_> {
    pub fn table(&self, show: Show) -> Table {
        match show {
            Show::Pools => self.pools(),
            Show::Databases => self.databases(),
            Show::Users => self.users(),
            Show::Clients => self.ends(ENDS, true, false),
            Show::Servers => self.ends(ENDS, false, true),
            Show::Sockets | Show::ActiveSockets => self.ends(SOCKETS, true, true),
            Show::Lists => self.lists(),
            Show::Config => self.config(),
            Show::State => self.state(),
            Show::Stats => self.stats(),
            Show::StatsTotals => self.stats_totals(),
            Show::StatsAverages => self.stats_averages(),
            Show::Totals => self.sums(),
            Show::PoolNodes => self.nodes(),
            Show::Mem => Table::new("name,size:i,used:i,free:i,memtotal:i"),
            Show::DnsHosts => Table::new("hostname,ttl:q,addrs"),
            Show::DnsZones => Table::new("zonename,serial:q,count:i"),
            Show::Version => {
                let mut table = Table::new("version");
                // Exporters read the second word as a number.
                table.row(row![concat!("PgBouncer 1.24.0 (pgherd ", env!("CARGO_PKG_VERSION"), ")")]);
                table
            }
            Show::Help => {
                let mut table = Table::new("command");
                let shows = Show::ALL.iter().map(|(word, _)| format!("SHOW {word}"));
                let orders = ["PAUSE [database]", "RESUME [database]", "RECONNECT [database]"];
                let ends = ["KILL [database]", "KILL_CLIENT id", "RELOAD"];
                let orders = orders.into_iter().chain(ends).map(str::to_owned);
                shows.chain(orders).for_each(|command| table.row(row![command]));
                table
            }
        }
    }

    fn owners(&self) -> BTreeSet<&Owner> {
        let sessions = self.report.sessions.iter().map(|session| &session.owner);
        sessions.chain(self.report.servers.iter().map(|server| &server.owner)).collect()
    }

    fn databases_known(&self) -> BTreeSet<&str> {
        let counted = self.report.tallies.iter().map(|(owner, _)| owner.database.as_str());
        self.owners().into_iter().map(|owner| owner.database.as_str()).chain(counted).collect()
    }

    fn mode(&self) -> &'static str {
        self.config.pool_mode.as_str()
    }

    fn pools(&self) -> Table {
        let mut table = Table::new(POOLS);
        for owner in self.owners() {
            let sessions = || self.report.sessions.iter().filter(|session| session.owner == *owner);
            let doing = |activity| sessions().filter(|session| session.activity == activity).count();
            let servers = || self.report.servers.iter().filter(|server| server.owner == *owner);
            let lent = servers().filter(|server| server.session.is_some()).count();
            let waited = sessions().filter_map(|session| session.waits_since).min();
            let waited_us = waited.map_or(0, |since| self.now.saturating_duration_since(since).as_micros());
            let logging_in = doing(Activity::LoggingIn);
            table.row(row![
                owner.database,
                owner.user,
                doing(Activity::Active),
                doing(Activity::Waiting),
                0,
                0,
                lent.saturating_sub(logging_in),
                0,
                0,
                servers().count() - lent,
                0,
                0,
                logging_in,
                waited_us / 1_000_000,
                waited_us % 1_000_000,
                self.mode(),
                "",
            ]);
        }
        table
    }

    fn databases(&self) -> Table {
        let mut table = Table::new(DATABASES);
        let primary = self.topology.primary.as_ref().map(host_and_port);
        let (host, port) = primary.unwrap_or_default();
        for database in self.databases_known() {
            let servers =
                self.report.servers.iter().filter(|server| server.owner.database == database).count();
            let clients =
                self.report.sessions.iter().filter(|session| session.owner.database == database).count();
            let mut values = row![
                database,
                host,
                port,
                database,
                "",
                self.config.pool_size,
                0,
                0,
                self.config.server_lifetime.as_secs(),
                self.mode(),
                "",
                0,
                servers,
                0,
                clients,
                u8::from(self.paused_all || self.paused.contains(database)),
                0,
            ];
            (values[4], values[10]) = (None, None);
            table.row(values);
        }
        table
    }

    fn users(&self) -> Table {
        let mut table = Table::new(USERS);
        let users: BTreeSet<&str> = self.owners().into_iter().map(|owner| owner.user.as_str()).collect();
        for user in users {
            let servers = self.report.servers.iter().filter(|server| server.owner.user == user).count();
            let clients = self.report.sessions.iter().filter(|session| session.owner.user == user).count();
            table.row(row![user, self.config.pool_size, 0, self.mode(), 0, servers, 0, clients]);
        }
        table
    }

    fn ends(&self, columns: &str, clients: bool, servers: bool) -> Table {
        let mut table = Table::new(columns);
        let is_socket = columns == SOCKETS;
        let mut add = |mut values: Vec<Option<String>>| {
            if is_socket {
                // What is under way in buffers is not counted.
                values.extend((0..7).map(|_| Some("0".to_owned())));
            }
            table.row(values);
        };
        let pids: BTreeMap<u64, u32> =
            self.report.servers.iter().map(|server| (server.id, server.pid)).collect();
        self.report.sessions.iter().filter(|_| clients).for_each(|session| add(self.client(session, &pids)));
        self.report.servers.iter().filter(|_| servers).for_each(|server| add(self.server(server)));
        table
    }

    fn client(&self, session: &SessionReport, pids: &BTreeMap<u64, u32>) -> Vec<Option<String>> {
        let waited_us =
            session.waits_since.map_or(0, |since| self.now.saturating_duration_since(since).as_micros());
        let state = match session.activity {
            Activity::Active => "active",
            Activity::Waiting => "waiting",
            Activity::LoggingIn => "login",
        };
        let (address, port) = end(session.client);
        let (local, local_port) = end(session.local);
        let link = session.server.map(pointer).unwrap_or_default();
        let began = self.ago(session.connected);
        row![
            "C",
            session.owner.user,
            session.owner.database,
            if session.replication { "logical" } else { "none" },
            state,
            address,
            port,
            local,
            local_port,
            began,
            session.waits_since.map_or_else(|| began.clone(), |since| self.ago(since)),
            waited_us / 1_000_000,
            waited_us % 1_000_000,
            0,
            pointer(session.id),
            link,
            session.server.and_then(|server| pids.get(&server)).copied().unwrap_or_default(),
            session.tls,
            session.application_name,
            0,
            session.id,
        ]
    }

    fn server(&self, server: &ServerReport) -> Vec<Option<String>> {
        let (address, port) = host_and_port_of(&server.address);
        let (local, local_port) = end(server.local);
        let opened = self.ago(server.opened);
        row![
            "S",
            server.owner.user,
            server.owner.database,
            "none",
            if server.session.is_some() { "active" } else { "idle" },
            address,
            port,
            local,
            local_port,
            opened,
            opened,
            0,
            0,
            0,
            pointer(server.id),
            server.session.map(pointer).unwrap_or_default(),
            server.pid,
            server.tls,
            server.application_name,
            server.prepared,
            server.id,
        ]
    }

    /// A moment as PgBouncer writes it, in UTC.
    fn ago(&self, since: Instant) -> String {
        let then = SystemTime::now() - self.now.saturating_duration_since(since);
        Timestamp::try_from(then).map_or_else(|_| String::new(), |at| at.strftime("%F %T UTC").to_string())
    }

    fn lists(&self) -> Table {
        let mut table = Table::new("list,items:i");
        let owners = self.owners();
        let users: BTreeSet<&str> = owners.iter().map(|owner| owner.user.as_str()).collect();
        let lent = self.report.servers.iter().filter(|server| server.session.is_some()).count();
        let logging_in =
            self.report.sessions.iter().filter(|session| session.activity == Activity::LoggingIn).count();
        let items = [
            ("databases", self.databases_known().len()),
            ("users", users.len()),
            ("peers", 0),
            ("pools", owners.len()),
            ("peer_pools", 0),
            ("free_clients", self.config.sessions_max.saturating_sub(self.counts.sessions)),
            ("used_clients", self.counts.sessions),
            ("login_clients", logging_in),
            ("free_servers", self.report.servers.len() - lent),
            ("used_servers", lent),
            ("dns_names", 0),
            ("dns_zones", 0),
            ("dns_queries", 0),
            ("dns_pending", 0),
        ];
        items.into_iter().for_each(|(name, count)| table.row(row![name, count]));
        table
    }

    fn config(&self) -> Table {
        let mut table = Table::new("key,value,default,changeable");
        let config = self.config;
        let seconds = |time: std::time::Duration| time.as_secs_f64().to_string();
        let items = [
            ("listen_addr", config.listen.clone()),
            ("listen_port", config.read_write_port.to_string()),
            ("max_client_conn", config.sessions_max.to_string()),
            // No limit of a user's own.
            ("max_user_connections", "0".to_owned()),
            ("default_pool_size", config.pool_size.to_string()),
            ("min_pool_size", "0".to_owned()),
            ("reserve_pool_size", "0".to_owned()),
            ("pool_mode", config.pool_mode.as_str().to_owned()),
            ("query_wait_timeout", seconds(config.queue_timeout)),
            ("server_idle_timeout", seconds(config.server_idle_timeout)),
            ("server_lifetime", seconds(config.server_lifetime)),
            ("server_connect_timeout", seconds(config.connect_timeout)),
            ("client_login_timeout", seconds(config.login_timeout)),
            ("queue_max", config.queue_max.to_string()),
            ("threads", config.threads.to_string()),
        ];
        items.into_iter().for_each(|(key, value)| {
            table.row(vec![Some(key.to_owned()), Some(value), None, Some("no".to_owned())])
        });
        table
    }

    fn state(&self) -> Table {
        let mut table = Table::new("key,value");
        let paused = self.paused_all;
        table.row(row!["active", if paused { "no" } else { "yes" }]);
        table.row(row!["paused", if paused { "yes" } else { "no" }]);
        table.row(row!["suspended", "no"]);
        table
    }

    fn nodes(&self) -> Table {
        let mut table = Table::new(NODES);
        let primary = self.topology.primary.iter().map(|backend| (backend, "primary"));
        let replicas = self.topology.replicas.iter().map(|backend| (backend, "standby"));
        for (number, (backend, role)) in primary.chain(replicas).enumerate() {
            let (host, port) = host_and_port(backend);
            let servers = self.report.servers.iter().filter(|server| server.node == backend.node).count();
            let state = if role == "standby" { "streaming" } else { "" };
            table.row(row![
                number, host, port, "up", "up", "1", role, role, servers, "false", "", state, "", "",
            ]);
        }
        table
    }
}

fn host_and_port(backend: &Backend) -> (String, String) {
    host_and_port_of(&backend.address)
}

fn host_and_port_of(address: &str) -> (String, String) {
    let (host, port) = address.rsplit_once(':').unwrap_or((address, "0"));
    (host.trim_matches(['[', ']']).to_owned(), port.to_owned())
}

/// Of a Unix socket as PgBouncer shows it; its ends have no address.
fn end(address: Option<std::net::SocketAddr>) -> (String, u16) {
    address.map_or_else(
        || ("unix".to_owned(), 0),
        |address| (address.ip().to_canonical().to_string(), address.port()),
    )
}

/// PgBouncer shows addresses of its memory; here it is the id.
fn pointer(id: u64) -> String {
    format!("0x{id:x}")
}
