//! A session of the auto port: which of its two pools the next request goes to.
//!
//! What it is: the choice between primary and replicas, for one request or one transaction, from what the request is (`routes`)
//! and what it must see. What it is not: that knowledge, nor the choice of a server within a pool. Invariants: nothing goes to a
//! replica but a request of which every text is a read, asked outside of a block, by a session that nothing binds to its server;
//! what a session wrote it reads (unless `eventual`).

use std::sync::Arc;
use std::time::{Duration, Instant};

use wire::startup::{Opening, parse_opening};

use super::{Around, Phase, Session};
use crate::backend::Role;
use crate::doors;
use crate::login::Login;
use crate::refusal::{CutCause, Refusal};
use crate::relay::Failed;
use crate::routes::{Cell, Consistency, Moment, Request, Trust};
use crate::{Counters, Port, Shared};

/// With `cluster`, for a replica to have caught up with now. Then the primary is asked.
const CATCH_UP_TIMEOUT: Duration = Duration::from_millis(50);
/// A setting of the client's session, known to nobody but the proxy.
const ROUTE: &str = "pgherd.route";

pub struct Directed {
    catalog: Arc<Cell>,
    /// Of the start-up packet.
    trust: Trust,
    pools: Option<Pools>,
    aim: Aim,
    /// The request was asked before and failed.
    again: Option<Again>,
    /// It was last answered by a primary that it may have written to, not later.
    wrote: Moment,
    /// With `cluster`: what the request must see, and until when it waits for a replica that shows it.
    asked: Option<(Moment, Instant)>,
    /// It waits for that, now.
    catches_up: bool,
}

#[derive(Clone, Copy)]
struct Pools {
    primary: u32,
    replica: u32,
}

/// What the request is, and where it goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Aim {
    Write,
    Read(Role, Moment),
}

/// Where a read goes that is asked again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Again {
    Anywhere,
    Primary,
    /// The same, and no server has had it yet.
    FirstOfPrimary,
    /// A replica has refused it: it may write.
    Doubted,
}

/// What comes of a look at a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    /// More of it is needed.
    More,
    /// It waits; the session is woken.
    Later,
    Known,
}

impl Directed {
    pub fn new(shared: &Shared, login: &Login) -> Directed {
        let trust = match parse_opening(login.startup.get(4..).unwrap_or_default()) {
            Ok(Opening::Startup(packet)) => packet.setting(ROUTE).map_or(Trust::Auto, |value| trust(&value)),
            _ => Trust::Auto,
        };
        Directed {
            catalog: shared.databases.of(&login.owner().database),
            trust,
            pools: None,
            aim: Aim::Write,
            again: None,
            wrote: Moment::default(),
            asked: None,
            catches_up: false,
        }
    }

    /// A server has failed what it asks.
    pub fn asks_again(&self) -> bool {
        self.again.is_some_and(|again| again != Again::FirstOfPrimary)
    }

    /// What it was about to ask was taken back.
    pub fn ask_nothing(&mut self) {
        (self.again, self.asked, self.catches_up) = (None, None, false);
    }

    /// Until when it waits for a replica.
    pub fn deadline(&self) -> Option<Instant> {
        self.asked.filter(|_| self.catches_up).map(|(_, until)| until)
    }
}

/// Of the last word of a value, or of the SET that gives it.
fn trust(text: &[u8]) -> Trust {
    let mut words = text.split(|byte| !byte.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    match words.next_back() {
        Some(word) if word.eq_ignore_ascii_case(b"primary") => Trust::Primary,
        Some(word) if word.eq_ignore_ascii_case(b"replica") => Trust::Replica,
        _ => Trust::Auto,
    }
}

impl Session {
    /// The port whose servers it uses now.
    pub(super) fn way(&self) -> Port {
        match self.directed.as_deref().map(|directed| directed.aim) {
            None => self.port,
            Some(Aim::Read(Role::Replica, _)) => Port::ReadOnly,
            Some(_) => Port::ReadWrite,
        }
    }

    /// What a replica must have that serves it now.
    pub(super) fn must_see(&self) -> Moment {
        match self.directed.as_deref().map(|directed| directed.aim) {
            Some(Aim::Read(Role::Replica, since)) => since,
            _ => Moment::default(),
        }
    }

    /// Makes it one of the pool that its servers come from, or of both.
    pub(super) fn join(&mut self, around: &mut Around<'_>) -> u32 {
        let startup = &self.login.startup;
        let mut join = |port| around.pools.join(&doors::key(port, startup));
        let pool = match &mut self.directed {
            None => join(self.port),
            Some(directed) => {
                let pools = Pools { primary: join(Port::ReadWrite), replica: join(Port::ReadOnly) };
                directed.pools = Some(pools);
                pools.primary
            }
        };
        self.pool = Some(pool);
        pool
    }

    /// The other pool, if there are two.
    pub(super) fn other_pool(&self) -> Option<u32> {
        let pools = self.directed.as_ref()?.pools?;
        [pools.primary, pools.replica].into_iter().find(|pool| Some(*pool) != self.pool)
    }

    /// Chooses the pool for the request that the client has sent.
    pub(super) fn direct(&mut self, around: &mut Around<'_>) -> Direction {
        let Some(directed) = &mut self.directed else { return Direction::Known };
        let trust = self.relay.books.ties.setting(ROUTE.as_bytes()).map_or(directed.trust, trust);
        let is_read = directed.again.is_some() || {
            let judge = around.guide.judges.of(&directed.catalog);
            match self.relay.request(|text| judge.is_read(text, trust)) {
                Request::Read => true,
                Request::Unfinished if !self.relay.is_full() => return Direction::More,
                Request::Unfinished | Request::Write => false,
            }
        };
        directed.catches_up = false;
        directed.aim = match directed.again {
            _ if !is_read => Aim::Write,
            Some(Again::Primary | Again::FirstOfPrimary | Again::Doubted) => {
                Aim::Read(Role::Primary, Moment::default())
            }
            Some(Again::Anywhere) | None => {
                let consistency = around.shared.config.read_consistency;
                let now = || (around.shared.freshness.now(), Instant::now() + CATCH_UP_TIMEOUT);
                let since = match consistency {
                    Consistency::Eventual => Moment::default(),
                    Consistency::Session => directed.wrote,
                    Consistency::Cluster => directed.asked.get_or_insert_with(now).0,
                };
                let topology = around.shared.topology.borrow();
                let seen = &around.guide.seen;
                let serves = topology.replicas.iter().any(|replica| seen.serves(&replica.address, since));
                if !serves && !topology.replicas.is_empty() && topology.primary.is_some() {
                    around.shared.freshness.ask();
                    let is_early = directed.asked.is_some_and(|(_, until)| Instant::now() < until);
                    // Who is in a pool's queue already takes what it gets there.
                    if is_early && matches!(self.phase, Phase::Resting) {
                        directed.catches_up = true;
                        around.guide.wait(around.id);
                        return Direction::Later;
                    }
                }
                Aim::Read(if serves { Role::Replica } else { Role::Primary }, since)
            }
        };
        let Some(pools) = directed.pools else { return Direction::Known };
        let pool =
            if matches!(directed.aim, Aim::Read(Role::Replica, _)) { pools.replica } else { pools.primary };
        self.change_pool(pool, around);
        Direction::Known
    }

    /// Its pool has no replica that it may read from: the primary serves it this time.
    pub(super) fn turn_to_primary(&mut self, around: &mut Around<'_>) {
        around.shared.freshness.ask();
        if let Some(directed) = &mut self.directed {
            directed.again = Some(match directed.again {
                None | Some(Again::FirstOfPrimary) => Again::FirstOfPrimary,
                Some(_) => Again::Primary,
            });
        }
    }

    /// It stays with a primary, whatever it asks next.
    pub(super) fn stay(&mut self) {
        if let Some(directed) = &mut self.directed {
            directed.aim = Aim::Write;
        }
    }

    /// Something keeps it on a server that its next request may not go to.
    pub(super) fn leave_replica(&mut self, around: &mut Around<'_>) -> bool {
        let Phase::Relaying { server, .. } = &self.phase else { return true };
        let node = server.choice.backend.node.clone();
        let reason = self.relay.books.ties.bound().unwrap_or_default().to_owned();
        self.lose_server(around);
        self.strand(&Refusal::cut(CutCause::NotTaken { node, reason }), around)
    }

    fn change_pool(&mut self, pool: u32, around: &mut Around<'_>) {
        let Some(was) = self.pool.replace(pool).filter(|was| *was != pool) else { return };
        if let Phase::Waiting { .. } = self.phase {
            around.pools.unqueue(was, around.id, around.again);
            self.phase = Phase::Resting;
        }
    }

    /// It has a server now.
    pub(super) fn begin_turn(&mut self, role: Role, shared: &Shared) {
        let Some(directed) = &mut self.directed else { return };
        directed.asked = None;
        let is_read = matches!(directed.aim, Aim::Read(..));
        if is_read {
            Counters::add(match role {
                Role::Replica => &shared.counters.reads_by_replicas,
                Role::Primary => &shared.counters.reads_by_primary,
            });
        }
        self.relay.begin_turn(is_read, role == Role::Replica);
    }

    /// It leaves a server of this role, or has lost it.
    pub(super) fn end_turn(&mut self, role: Role, shared: &Shared) {
        let Some(directed) = &mut self.directed else { return };
        let may_write = directed.aim == Aim::Write || directed.again == Some(Again::Doubted);
        // What the primary has answered happened before now.
        if may_write && !self.relay.has_only_set() && role == Role::Primary {
            directed.wrote = shared.freshness.now();
        }
    }

    /// The request is answered, or lost: has it asked again if it is a read that its server failed.
    pub(super) fn ask_again(&mut self, around: &mut Around<'_>) {
        let Some(directed) = &mut self.directed else { return };
        directed.again = None;
        let Some(failed) = self.relay.ask_again() else { return };
        directed.again = Some(match failed {
            Failed::Lost => Again::Anywhere,
            Failed::NotThere => Again::Primary,
            Failed::Refused => Again::Doubted,
        });
        if failed == Failed::Refused {
            let judge = around.guide.judges.of(&directed.catalog);
            self.relay.request(|text| {
                judge.correct(text);
                true
            });
        }
        Counters::add(&around.shared.counters.repeated);
        tracing::debug!(?failed, "a read is asked again of another server");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_word_says_whom_a_session_trusts() {
        let said = |text: &str| trust(text.as_bytes());
        assert_eq!(said("SET pgherd.route = 'replica'"), Trust::Replica);
        assert_eq!(said("set pgherd.route to Primary ;"), Trust::Primary);
        for text in ["SET pgherd.route TO DEFAULT", "RESET pgherd.route", "SET pgherd.route = 'x'", ""] {
            assert_eq!(said(text), Trust::Auto, "{text}");
        }
    }
}
