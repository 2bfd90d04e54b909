//! The virtual IP: an address that is on the open primary's interface and on no other node's. `[vip]`
//!
//! The keeper makes the interface be as the topology says: it puts the address there when this node has become the open
//! primary, tells the neighbours, and takes it away when this node is that no more. What somebody else changes is put right
//! within a second. The agent's death is the fencer's matter: it has the order to take the address away when the lease ends. And
//! that both die, the kernel's: the address is put there for little longer than the lease, and prolonged with it.
//!
//! What it is not: a part of any decision. Nothing waits for the address, and no takeover asks who has it; a second
//! holder is found afterwards and told. Invariants: the address is added and prolonged only before the end of the lease that
//! the fencer keeps; connections at the address are ended before it goes.

mod address;
mod announcer;
mod frames;
mod kernel;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustix::thread::CapabilitySet;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use self::announcer::Announcer;
use self::frames::Mac;
use self::kernel::Link;
use crate::agent::EventLog;
use crate::clock::boot_millis;
use proxy::topology::Topology;

pub use address::{VirtualIp, check_interface, parse};
pub use kernel::{Taken, remove};

/// The rules of its events.
const ADD: &str = "vip.add";
const REMOVE: &str = "vip.remove";
const CONFLICT: &str = "vip.conflict";
const FAILED: &str = "vip.failed";

/// How often the interface is looked at: what others did to it lasts no longer.
const LOOK: Duration = Duration::from_secs(1);

/// Pauses between the first announcements: one frame may be lost, and a switch may learn late.
const ANNOUNCE_FIRST: [Duration; 5] = [
    Duration::from_millis(100),
    Duration::from_millis(400),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(2),
];

/// From then on: who was cut off meanwhile learns where the address is.
const ANNOUNCE_LATER: Duration = Duration::from_secs(10);

/// Of so many other holders people are told; more are a flood.
const RIVALS_MAX: usize = 8;

/// For a kernel that is busy with interfaces; a node does not wait longer with its end.
const END_TIMEOUT: Duration = Duration::from_secs(2);

pub struct VipConfig {
    pub vip: VirtualIp,
    pub node: String,
    /// Boot milliseconds: a fencer stands by until then to take away what an earlier agent added, so it may stay until it is known
    /// whether this node still is the open primary.
    pub left_until_ms: u64,
    /// Boot milliseconds: the end of the lease that the fencer keeps.
    pub lease: watch::Receiver<u64>,
}

/// The running keeper.
pub struct Vip {
    end: watch::Sender<End>,
    task: JoinHandle<()>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum End {
    NotYet,
    /// The node stops.
    Remove,
    /// Another process of this node takes over.
    Leave,
}

impl Vip {
    /// Keeps the address from now on. `None`, which is an event, when this process is not allowed to.
    pub fn start(
        config: VipConfig,
        topology: watch::Receiver<Topology>,
        events: Arc<EventLog>,
    ) -> Option<Vip> {
        if let Some(why) = lacking() {
            let what = format!("this node does not keep the virtual IP {}", config.vip);
            events.note(0, FAILED, what, vec![why]);
            return None;
        }
        let (end, ended) = watch::channel(End::NotYet);
        let keeper = Keeper { config, topology, events, ended, settled: None, held: None, failure: None };
        Some(Vip { end, task: tokio::spawn(keeper.run()) })
    }

    /// Takes the address away, for a node that stops.
    pub async fn remove(self) {
        self.finish(End::Remove).await;
    }

    /// Leaves the address as it is to the process that takes over.
    pub async fn leave(self) {
        self.finish(End::Leave).await;
    }

    async fn finish(self, end: End) {
        self.end.send_replace(end);
        if timeout(END_TIMEOUT, self.task).await.is_err() {
            tracing::warn!("the kernel has not answered about the virtual IP; the fencer removes it");
        }
    }
}

/// Takes away what an earlier agent of this node kept by another configuration.
pub fn remove_former(former: VirtualIp, events: Arc<EventLog>) {
    tokio::task::spawn_blocking(move || match remove(&former) {
        Ok(Some(taken)) => {
            tell_removed(&events, 0, &former, &taken, "[vip] of this node says otherwise now".to_owned());
        }
        Ok(None) => {}
        // Its interface is gone, and it with it.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => {
            let what = format!("the former virtual IP {former} could not be taken from {}", former.interface);
            events.note(0, FAILED, what, vec![error.to_string()]);
        }
    });
}

/// Why this process may not keep an address, and what to do; `None` when it may.
fn lacking() -> Option<String> {
    let needed = [(CapabilitySet::NET_ADMIN, "CAP_NET_ADMIN"), (CapabilitySet::NET_RAW, "CAP_NET_RAW")];
    let has = rustix::thread::capabilities(None).ok()?.effective;
    let missing: Vec<&str> =
        needed.iter().filter(|(capability, _)| !has.contains(*capability)).map(|(_, name)| *name).collect();
    (!missing.is_empty()).then(|| {
        format!(
            "this process lacks {}; run pgherd as root, or add AmbientCapabilities=CAP_NET_ADMIN CAP_NET_RAW to its systemd \
             unit, and start it again",
            missing.join(" and ")
        )
    })
}

fn tell_removed(events: &EventLog, term: u64, vip: &VirtualIp, taken: &Taken, why: String) {
    let what = format!("the virtual IP {vip} was taken from {}", vip.interface);
    events.note(term, REMOVE, what, [why].into_iter().chain(words(taken)).collect());
}

/// What became of the connections at an address that was taken away, for people.
pub fn words(taken: &Taken) -> Option<String> {
    match (&taken.obstacle, taken.connections) {
        (Some(obstacle), _) => Some(format!(
            "its connections were not ended ({obstacle}): who waits for an answer there hears of it only by TCP's own timeouts"
        )),
        (None, 0) => None,
        (None, count) => Some(format!("{count} connections at it were ended")),
    }
}

/// What is to become of the address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Wish {
    Here,
    /// It is not known yet.
    AsItIs,
    Away,
}

fn wish(config: &VipConfig, topology: &Topology, lease_until_ms: u64, now_ms: u64) -> Wish {
    match &topology.primary {
        // An agent that was frozen may find an old topology: the lease is what counts.
        Some(primary) if primary.node == config.node && now_ms < lease_until_ms => Wish::Here,
        None if now_ms < config.left_until_ms => Wish::AsItIs,
        _ => Wish::Away,
    }
}

/// For how long, in seconds, the kernel is to keep an address that is put there now: as long as the lease, and for ever where nobody
/// else could take over. `None`: not at all any more.
fn lifetime(lease_until_ms: u64, now_ms: u64) -> Option<Option<u32>> {
    let left_ms = lease_until_ms.checked_sub(now_ms).filter(|left_ms| *left_ms > 0)?;
    // One more, so that the kernel, which counts in seconds, is never before agent and fencer.
    Some((lease_until_ms < u64::MAX).then(|| left_ms.div_ceil(1_000) as u32 + 1))
}

/// The address is on the interface by our doing.
struct Held {
    index: u32,
    mac: Option<Mac>,
    /// `None`: nobody to tell.
    announcer: Option<Announcer>,
    /// Announcements made.
    rounds: usize,
    due: Instant,
    /// Who else was heard to have the address; each is told once.
    rivals: Vec<Mac>,
    /// Why the last announcement failed, told once.
    failure: Option<String>,
}

impl Held {
    fn new(link: &Link, announcer: Option<Announcer>) -> Held {
        let (index, mac, due) = (link.index, link.mac, Instant::now());
        Held { index, mac, announcer, rounds: 0, due, rivals: Vec::new(), failure: None }
    }

    /// Until there is something to say.
    fn left(&self) -> Duration {
        let due = self.announcer.as_ref().map(|_| self.due);
        due.map_or(LOOK, |due| due.saturating_duration_since(Instant::now()))
    }
}

struct Keeper {
    config: VipConfig,
    topology: watch::Receiver<Topology>,
    events: Arc<EventLog>,
    ended: watch::Receiver<End>,
    /// What was carried out last, and when the interface was last looked at.
    settled: Option<(Wish, Instant)>,
    held: Option<Held>,
    /// The last failure, told once.
    failure: Option<String>,
}

impl Keeper {
    async fn run(mut self) {
        loop {
            let end = *self.ended.borrow_and_update();
            let topology = self.topology.borrow_and_update().clone();
            let until_ms = *self.config.lease.borrow_and_update();
            let wish = match end {
                End::Leave => return,
                End::Remove => Wish::Away,
                End::NotYet => wish(&self.config, &topology, until_ms, boot_millis()),
            };
            let due = self.settled.is_none_or(|(settled, at)| settled != wish || at.elapsed() >= LOOK);
            match wish {
                Wish::Here if due => self.keep(topology.term, until_ms).await,
                Wish::Away if due => {
                    let why = match (end, &topology.primary) {
                        (End::Remove, _) => "this node stops".to_owned(),
                        (_, Some(primary)) if primary.node == self.config.node => {
                            "the lease of this node as primary has ended".to_owned()
                        }
                        (_, Some(primary)) => format!("{} is the open primary", primary.node),
                        (_, None) => format!("this node is not the open primary: {}", topology.reason),
                    };
                    self.drop_it(topology.term, why).await;
                }
                _ => {}
            }
            if due {
                self.settled = Some((wish, Instant::now()));
            }
            if end == End::Remove {
                return;
            }
            self.announce(topology.term);
            let lease_left = Duration::from_millis(until_ms.saturating_sub(boot_millis()).max(1));
            let next = self.held.as_ref().map_or(LOOK, |held| lease_left.min(held.left()));
            tokio::select! {
                () = changed(&mut self.topology) => {}
                () = changed(&mut self.config.lease) => {}
                () = changed(&mut self.ended) => {}
                () = sleep(next.min(LOOK)) => {}
            }
        }
    }

    /// Sees to it that the address is here.
    async fn keep(&mut self, term: u64, until_ms: u64) {
        let vip = self.config.vip.clone();
        let put = blocking(move || {
            let link = kernel::look(&vip)?;
            // Right before it, since a process may be frozen anywhere; what comes too late for this look the fencer takes away.
            if let Some(lifetime) = lifetime(until_ms, boot_millis()) {
                kernel::put(&vip, &link, lifetime)?;
            }
            Ok(link)
        });
        let link = match put.await {
            Ok(link) => link,
            Err(error) => {
                self.held = None;
                return self.fail(term, "could not be put on", &error);
            }
        };
        let same = self.held.as_ref().is_some_and(|held| held.index == link.index && held.mac == link.mac);
        if !link.has {
            let vip = &self.config.vip;
            let why = match same {
                true => "it was gone: something other than pgherd took it away, or its time there ran out",
                false => "this node is the open primary",
            };
            let what = format!("the virtual IP {vip} was put on {}", vip.interface);
            self.events.note(term, ADD, what, vec![why.to_owned()]);
        }
        if same && link.has {
            self.failure = None;
            return;
        }
        let announcer = match link.mac.map(|mac| Announcer::open(&self.config.vip, &link, mac)).transpose() {
            Ok(announcer) => announcer,
            Err(error) => {
                self.held = None;
                return self.fail(term, "could not be announced on", &error);
            }
        };
        self.failure = None;
        self.held = Some(Held::new(&link, announcer));
    }

    /// Sees to it that the address is not here.
    async fn drop_it(&mut self, term: u64, why: String) {
        self.held = None;
        let vip = self.config.vip.clone();
        match blocking(move || remove(&vip)).await {
            Ok(Some(taken)) => tell_removed(&self.events, term, &self.config.vip, &taken, why),
            Ok(None) => {}
            Err(error) => return self.fail(term, "could not be taken from", &error),
        }
        self.failure = None;
    }

    /// Tells the neighbours when it is time, and people when somebody else has the address.
    fn announce(&mut self, term: u64) {
        let Some(held) = &mut self.held else { return };
        let Some(announcer) = &held.announcer else { return };
        let vip = &self.config.vip;
        let heard = announcer.rival().filter(|rival| !held.rivals.contains(rival));
        if let Some(rival) = heard.filter(|_| held.rivals.len() < RIVALS_MAX) {
            held.rivals.push(rival);
            let what = format!("the virtual IP {vip} is here, and {rival} says that it has it too");
            let why = "clients may reach either: find that machine (ip neigh, the tables of the switch) and take the address \
                       from it, or choose another in [vip]";
            self.events.note(term, CONFLICT, what, vec![why.to_owned()]);
            // Whoever believed the other learns better.
            held.due = Instant::now();
        }
        if Instant::now() < held.due {
            return;
        }
        let told = announcer.announce();
        held.due = Instant::now() + ANNOUNCE_FIRST.get(held.rounds).copied().unwrap_or(ANNOUNCE_LATER);
        held.rounds += 1;
        let failure = told.err().map(|error| error.to_string());
        if let Some(why) = failure.as_ref().filter(|_| held.failure != failure) {
            let what = format!("the virtual IP {vip} could not be announced on {}", vip.interface);
            self.events.note(term, FAILED, what, vec![why.clone()]);
        }
        held.failure = failure;
    }

    fn fail(&mut self, term: u64, what: &str, error: &io::Error) {
        let vip = &self.config.vip;
        // Without the interface it is the same whatever was to be done there.
        let what = if error.kind() == io::ErrorKind::NotFound { "cannot be kept on" } else { what };
        let text = format!("the virtual IP {vip} {what} {}", vip.interface);
        let failure = format!("{text}: {error}");
        if self.failure.as_ref() != Some(&failure) {
            self.events.note(term, FAILED, text, vec![error.to_string()]);
            self.failure = Some(failure);
        }
    }
}

/// On a thread that may wait for the kernel.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}

/// Until there is news; for ever when nobody is left to send some.
async fn changed<T>(watched: &mut watch::Receiver<T>) {
    if watched.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proxy::topology::Backend;

    #[test]
    fn the_kernel_keeps_it_a_second_or_two_longer_than_the_lease() {
        assert_eq!(lifetime(2_900, 1_000), Some(Some(3)));
        assert_eq!(lifetime(1_001, 1_000), Some(Some(2)));
        assert_eq!(lifetime(1_000, 1_000), None);
        assert_eq!(lifetime(500, 1_000), None);
        assert_eq!(lifetime(u64::MAX, 1_000), Some(None));
    }

    #[test]
    fn the_address_is_where_the_open_primary_is_and_stays_while_that_is_not_known() {
        let (_lease, lease) = watch::channel(0);
        let config = VipConfig {
            vip: VirtualIp {
                address: "10.0.0.100".parse().unwrap(),
                prefix: 24,
                interface: "eth0".to_owned(),
            },
            node: "n1".to_owned(),
            left_until_ms: 1_000,
            lease,
        };
        let topology = |primary: Option<&str>| Topology {
            primary: primary.map(|node| Backend { node: node.to_owned(), address: String::new() }),
            ..Topology::default()
        };
        for (primary, until_ms, now_ms, wanted) in [
            (Some("n1"), 2_000, 500, Wish::Here),
            (Some("n1"), 2_000, 2_000, Wish::Away),
            (Some("n1"), u64::MAX, 5_000, Wish::Here),
            (Some("n2"), 2_000, 500, Wish::Away),
            (None, 0, 999, Wish::AsItIs),
            (None, 0, 1_000, Wish::Away),
        ] {
            let found = wish(&config, &topology(primary), until_ms, now_ms);
            assert_eq!(found, wanted, "{primary:?}, lease until {until_ms}, now {now_ms}");
        }
    }
}
