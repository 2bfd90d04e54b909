//! The agent of the primary stops, dies or comes back: the fencer ends what must end, and nothing that need not.

use std::fs;
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tests::ledger::{session_until_cut, value_at};
use tests::{Cluster, Ledger, Node, Prepared, processes, status, wait_for};

/// failure_timeout less the drift margin, at the defaults.
const LEASE: Duration = Duration::from_millis(1_900);
/// For a session to end and to be seen to have ended, beside other tests on two cores.
const MARGIN: Duration = Duration::from_secs(1);
/// Five failure_timeouts of grace, a fast stop and an immediate one.
const STOP_TIMEOUT: Duration = Duration::from_secs(60);
const TAKEOVER_TIMEOUT: Duration = Duration::from_secs(60);
/// 20 s without an agent, and what a busy machine adds.
const LONELY_TIMEOUT: Duration = Duration::from_secs(60);

/// The program without optimisation, all of it in memory, and little else; an allocator's arena alone would be a gigabyte.
const RESIDENT_MAX: u64 = 256 << 20;

/// A client's session with the server itself, past every proxy.
struct Direct {
    cut: Receiver<Instant>,
}

impl Direct {
    fn open(node: &Node) -> Direct {
        let (open, opened) = sync_channel(1);
        let (tell, cut) = sync_channel(1);
        let port = node.postgres;
        std::thread::spawn(move || {
            session_until_cut(port, || open.send(()).expect("the test waits"));
            // A test that is over needs to know no more.
            let _ = tell.send(Instant::now());
        });
        opened.recv_timeout(TAKEOVER_TIMEOUT).expect("a session with the primary");
        Direct { cut }
    }

    fn is_open(&self) -> bool {
        self.cut.try_recv().is_err()
    }

    #[track_caller]
    fn wait_for_cut(&self) -> Instant {
        self.cut.recv_timeout(TAKEOVER_TIMEOUT).expect("the session is cut")
    }
}

fn events(node: &Node) -> String {
    fs::read_to_string(node.dir.join("events.jsonl")).unwrap_or_default()
}

#[track_caller]
fn wait_for_event(node: &Node, rule: &str) {
    let rule = format!("\"rule\":\"{rule}\"");
    wait_for(&format!("an event with {rule}"), TAKEOVER_TIMEOUT, || {
        events(node).contains(&rule).then_some(())
    });
}

/// `silenced` is when the agent could not have sent a heartbeat any more.
fn expect_out_of_service(cluster: &Cluster, old: &Node, session: &Direct, silenced: Instant) {
    let server = old.postmaster_pid().expect("the server goes on");
    let cut = session.wait_for_cut();
    let after = cut.saturating_duration_since(silenced);
    assert!(after <= LEASE + MARGIN, "clients were served for {after:?} after the agent's last word");
    // Sessions go first, the door is closed next: until the lease ends somebody may still come between the two.
    wait_for("the refusal by pg_hba.conf", STOP_TIMEOUT, || {
        let asked = silenced.elapsed();
        let Err(error) = value_at(old.postgres, "SELECT 1") else {
            assert!(asked <= LEASE + MARGIN, "a client was let in {asked:?} after the agent's last word");
            return None;
        };
        let refused = format!("{error:#}");
        (refused.contains("db error") || refused.contains("pg_hba.conf")).then_some(())
    });
    assert_eq!(old.postmaster_pid(), Some(server), "reads are what it costs at first, not a restart");
    cluster.wait_for_primary_other_than(&old.name, TAKEOVER_TIMEOUT);
    wait_for("the server without an agent to be stopped", STOP_TIMEOUT, || {
        old.postmaster_pid().is_none().then_some(())
    });
}

#[test]
fn a_frozen_agents_primary_is_cut_off_at_the_leases_end_and_stopped_later() {
    let cluster = Cluster::start(3);
    let old = cluster.node(&cluster.wait_until_whole().primary.unwrap()).clone();
    let ledger = Ledger::start(&cluster);
    let session = Direct::open(&old);

    let agent = old.agent_pid().expect("the primary's agent");
    processes::signal(agent, Signal::STOP);
    expect_out_of_service(&cluster, &old, &session, Instant::now());
    ledger.wait_until_flowing();
    processes::signal(agent, Signal::CONT);
    cluster.wait_until_whole();
    wait_for_event(&old, "fencer.cut");
    wait_for_event(&old, "fencer.stop");
    ledger.finish_and_check(&cluster);
}

#[test]
fn a_dead_agents_primary_is_taken_out_of_service_and_its_fencer_goes_last() {
    let mut cluster = Cluster::start(3);
    let old = cluster.node(&cluster.wait_until_whole().primary.unwrap()).clone();
    let ledger = Ledger::start(&cluster);
    let session = Direct::open(&old);

    cluster.kill_agent(&old.name);
    expect_out_of_service(&cluster, &old, &session, Instant::now());
    ledger.wait_until_flowing();
    wait_for("the fencer to end when there is nothing left to fence", LONELY_TIMEOUT, || {
        processes::belonging_to(&old.dir).is_empty().then_some(())
    });
    cluster.start_agent(&old.name);
    cluster.wait_until_whole();
    wait_for_event(&old, "fencer.cut");
    wait_for_event(&old, "fencer.stop");
    ledger.finish_and_check(&cluster);
}

/// The deadline that the node's fencer keeps, counted from `since`.
fn kept_ms(node: &Node, since: Instant) -> Option<u64> {
    let status = status::ask(node.http)?;
    let fencer = status.node(&node.name)?.fencer.clone()?;
    let left_ms = fencer.left_ms.filter(|_| fencer.state == "armed")?;
    Some(since.elapsed().as_millis() as u64 + left_ms)
}

#[test]
fn an_agent_that_is_back_within_the_lease_goes_on_and_so_does_one_without_its_fencer() {
    const TIMEOUT_MS: u64 = 20_000;
    let prepared = Prepared::new(3);
    prepared.set("failover", "failure_timeout", |_| "\"20s\"".to_owned());
    let mut cluster = Cluster::start_prepared(prepared);
    let old = cluster.node(&cluster.wait_until_whole().primary.unwrap()).clone();
    let ledger = Ledger::start(&cluster);
    let session = Direct::open(&old);
    let (server, fencer) = (old.postmaster_pid(), old.fencer_pid());
    assert!(server.is_some() && fencer.is_some());

    for signal in [Signal::KILL, Signal::TERM] {
        let agent = old.agent_pid().expect("the primary's agent");
        processes::signal(agent, signal);
        wait_for("the agent to end", TAKEOVER_TIMEOUT, || processes::process(agent).is_none().then_some(()));
        let ended = Instant::now();
        cluster.start_agent(&old.name);
        // Beyond all that the agent before can have been answered: the new one has renewed the lease itself.
        wait_for("the new agent to extend the deadline", TAKEOVER_TIMEOUT, || {
            kept_ms(&old, ended).filter(|ms| *ms > TIMEOUT_MS)
        });
        assert!(session.is_open(), "{signal:?}: nobody noticed");
        assert_eq!(old.postmaster_pid(), server, "{signal:?}: adopted, not started again");
        assert_eq!(old.fencer_pid(), fencer, "{signal:?}: the fencer is adopted too");
        ledger.wait_until_flowing();
    }

    // One that is killed and one that is frozen are both replaced.
    for signal in [Signal::KILL, Signal::STOP] {
        let before = old.fencer_pid().expect("a fencer");
        processes::signal(before, signal);
        let begun = Instant::now();
        wait_for("another fencer, armed", TAKEOVER_TIMEOUT, || {
            old.fencer_pid().filter(|pid| *pid != before)?;
            kept_ms(&old, begun)
        });
        wait_for("one fencer and no more", TAKEOVER_TIMEOUT, || {
            processes::process(before).is_none().then_some(())
        });
        wait_for_event(&old, "fencer.missing");
        assert!(session.is_open(), "{signal:?}: nobody noticed");
    }
    assert_eq!(cluster.primary(), Some(old.name.clone()), "nobody took over");
    assert!(!events(&old).contains("fencer.cut"));
    ledger.finish_and_check(&cluster);
}

#[test]
fn agent_and_fencer_frozen_together_lose_nothing() {
    let cluster = Cluster::start(3);
    let old = cluster.node(&cluster.wait_until_whole().primary.unwrap()).clone();
    let ledger = Ledger::start(&cluster);
    let frozen = [old.agent_pid().expect("its agent"), old.fencer_pid().expect("its fencer")];

    frozen.iter().for_each(|pid| processes::signal(*pid, Signal::STOP));
    cluster.wait_for_primary_other_than(&old.name, TAKEOVER_TIMEOUT);
    ledger.wait_until_flowing();
    // Nobody fences this server, and it acknowledges nothing all the same: no standby flushes for it.
    let port = old.postgres;
    let lonely = std::thread::spawn(move || value_at(port, "INSERT INTO ledger VALUES (-1) RETURNING id"));
    assert!(lonely.join().expect("the attempt ends").is_err(), "acknowledged by nobody but itself");
    frozen.iter().for_each(|pid| processes::signal(*pid, Signal::CONT));
    cluster.wait_until_whole();
    ledger.finish_and_check(&cluster);
}

#[test]
fn a_fencer_locks_the_program_and_little_else() {
    let cluster = Cluster::start(1);
    let pid = cluster.nodes()[0].fencer_pid().expect("a fencer runs");
    let resident = processes::resident_bytes(pid).unwrap();
    assert!(resident < RESIDENT_MAX, "{} MB", resident >> 20);
}
