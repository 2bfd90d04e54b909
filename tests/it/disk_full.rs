//! The disk under the WAL is full: PostgreSQL ends with a PANIC. One takeover to a node that has room, none where no node
//! has; and with room again everything comes back by itself.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tests::ledger::value_at;
use tests::machine::{SmallDisk, move_wal};
use tests::status::Condition;
use tests::{Cluster, Ledger, Node, wait_for};

/// Ten times the bound for the p99: this is about safety, the bench measures speed.
const TAKEOVER_TIMEOUT: Duration = Duration::from_secs(60);
/// The disks are looked at each second.
const NOTICED_TIMEOUT: Duration = Duration::from_secs(20);
/// Each node has its first WAL, some 100 MB, and a reserve on it.
const DISK: &str = "300m";
/// A failover loop has gone round several times by then.
const STEADY: Duration = Duration::from_secs(15);

/// A cluster whose nodes have their WAL on small disks; `None` where mounting is not allowed.
struct Small {
    disks: Vec<(PathBuf, SmallDisk)>,
    cluster: Cluster,
}

impl Small {
    fn start() -> Option<Small> {
        let cluster = Cluster::start(3);
        let mut small = Small { disks: Vec::new(), cluster };
        let names = small.cluster.names();
        small.cluster.kill_nodes(&names);
        for name in &names {
            let at = small.cluster.dir().join(format!("disk-{name}"));
            std::fs::create_dir_all(&at).unwrap();
            let disk = SmallDisk::mount(&at, DISK)?;
            small.disks.push((at.clone(), disk));
            move_wal(&small.cluster.node(name).data(), &at);
        }
        names.iter().for_each(|name| small.cluster.start_agent(name));
        small.cluster.wait_until_whole();
        Some(small)
    }

    fn disk_of(&self, name: &str) -> &Path {
        let suffix = format!("disk-{name}");
        self.disks.iter().map(|(at, _)| at.as_path()).find(|at| at.ends_with(&suffix)).unwrap()
    }

    /// Leaves no byte free there, and waits until the node says so.
    fn fill(&self, name: &str) {
        wait_for("the reserve to be there", NOTICED_TIMEOUT, || {
            let reserve = self.disk_of(name).join("pgherd.reserve").metadata().ok()?;
            (reserve.len() > 0).then_some(())
        });
        let mut ballast = File::create(self.disk_of(name).join("ballast")).unwrap();
        let block = [0; 64 << 10];
        while ballast.write_all(&block).is_ok() {}
        wait_for("the node to say that its disk is full", NOTICED_TIMEOUT, || {
            self.condition(name).filter(|condition| condition.disk_full)
        });
    }

    fn make_room(&self, name: &str) {
        std::fs::remove_file(self.disk_of(name).join("ballast")).unwrap();
    }

    fn condition(&self, name: &str) -> Option<Condition> {
        let status = tests::status::ask(self.cluster.node(name).http)?;
        Some(status.node(name)?.condition.clone())
    }

    /// Asks for segment after segment until PostgreSQL ends for want of one.
    fn exhaust(&self, node: &Node) {
        let postmaster = node.postmaster_pid().unwrap();
        wait_for("PostgreSQL to end on its full disk", TAKEOVER_TIMEOUT, || {
            let write = "SELECT pg_logical_emit_message(false, 'test', 'x'); SELECT pg_switch_wal()";
            let _ = value_at(node.postgres, write);
            (node.postmaster_pid() != Some(postmaster)).then_some(())
        });
    }
}

#[test]
fn a_primary_on_a_full_disk_is_replaced_once_and_comes_back_with_room() {
    let Some(small) = Small::start() else { return };
    let cluster = &small.cluster;
    let before = cluster.wait_until_whole();
    let old = before.primary.unwrap();
    let ledger = Ledger::start(cluster);

    small.fill(&old);
    small.exhaust(cluster.node(&old));
    let new = cluster.wait_for_primary_other_than(&old, TAKEOVER_TIMEOUT);
    ledger.wait_until_flowing();
    // It recovers out of its reserve, and takes no WAL meanwhile.
    wait_for("the old primary to have recovered", TAKEOVER_TIMEOUT, || {
        let status = cluster.status()?;
        let node = status.node(&old)?;
        (node.role == "replica" && node.condition.disk_full).then_some(())
    });
    let changed = tests::wait::wait_at_most(STEADY, || {
        cluster.status().filter(|status| status.primary.as_deref() != Some(&new))
    });
    assert!(changed.is_none(), "one takeover is enough: {changed:?}");

    small.make_room(&old);
    let after = cluster.wait_until_whole();
    assert_eq!(after.term, before.term + 1);
    wait_for("the reserve to be there again", NOTICED_TIMEOUT, || {
        let reserve = small.disk_of(&old).join("pgherd.reserve").metadata().ok()?;
        (reserve.len() > 0).then_some(())
    });
    ledger.finish_and_check(cluster);
}

#[test]
fn where_every_disk_is_full_nobody_takes_over_until_there_is_room() {
    let Some(small) = Small::start() else { return };
    let cluster = &small.cluster;
    let before = cluster.wait_until_whole();
    let old = before.primary.clone().unwrap();
    let ledger = Ledger::start(cluster);

    cluster.names().iter().for_each(|name| small.fill(name));
    small.exhaust(cluster.node(&old));
    wait_for("everybody to know", NOTICED_TIMEOUT, || cluster.status().filter(|s| s.primary.is_none()));
    let changed = tests::wait::wait_at_most(STEADY, || {
        cluster.status().filter(|status| status.term != before.term || status.primary.is_some())
    });
    assert!(changed.is_none(), "a takeover helps nobody: {changed:?}");

    cluster.names().iter().for_each(|name| small.make_room(name));
    ledger.wait_until_flowing();
    let after = cluster.wait_until_whole();
    assert_eq!(after.term, before.term + 1);
    ledger.finish_and_check(cluster);
}
