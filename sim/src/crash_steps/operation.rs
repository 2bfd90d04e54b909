//! The operations that are interrupted: how each begins, and by what its end is known.
//!
//! What they are not: executed here; the cluster carries them out by its rules.

use brain::{Ask, OnLastStandbyLost, SyncSet, Term};

use super::rest;
use crate::event::Event;
use crate::plan::{Kind, Plan};
use crate::requests::Request;
use crate::scenarios::stage::{LONG, SECOND, Shape, Stage};
use crate::world::World;

/// How an operation ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// Somebody went on with it, or did it again, to its end.
    Resumed,
    /// All is as it was before, and whoever asked was told.
    Undone,
}

/// What was before it began.
pub struct Before {
    pub primary: usize,
    pub term: Term,
    pub set: SyncSet,
}

pub struct Operation {
    pub name: &'static str,
    shape: Shape,
    newcomers: usize,
    change: fn(&mut Plan),
    /// Leads the calm cluster to where the operation begins.
    lead: fn(&mut Stage) -> Option<()>,
    /// What begins it.
    begin: fn(&mut Stage),
    /// What people ask for, one after another; the rest is not asked for when one has failed.
    pub asks: &'static [Request],
    /// Steps that an undisturbed run takes, or it was another operation.
    pub through: &'static [&'static str],
    /// `None` while it is neither done nor undone.
    pub outcome: fn(&World, &Before) -> Option<Outcome>,
}

impl Operation {
    pub fn named(name: &str) -> Option<&'static Operation> {
        OPERATIONS.iter().find(|operation| operation.name == name)
    }

    /// The stage at the moment before it begins; `None` when the die did not bring it about.
    pub fn stage(
        &self,
        seed: u64,
        telling: (crate::Detail, Option<crate::sabotage::Sabotage>),
    ) -> Option<(Stage, Before)> {
        let mut stage = Stage::set_with(seed, self.shape, self.newcomers, telling, |plan| {
            plan.storm_us = u64::MAX / 2;
            plan.settings.on_last_standby_lost = OnLastStandbyLost::Block;
            (self.change)(plan);
        })?;
        (self.lead)(&mut stage)?;
        let primary = stage.world.recorded_primary()?;
        let store = stage.world.store.newest();
        let before = Before {
            primary,
            term: store.primary.as_ref()?.value.term,
            set: store.sync.as_ref()?.value.set.clone(),
        };
        Some((stage, before))
    }

    pub fn begin(&self, stage: &mut Stage) {
        (self.begin)(stage);
    }
}

const NOTHING: fn(&mut Plan) = |_| {};
const AT_ONCE: fn(&mut Stage) -> Option<()> = |_| Some(());
const ASK: fn(&mut Stage) = |_| {};

macro_rules! operation {
    ($name:literal, $shape:expr, $($field:ident : $value:expr),* $(,)?) => {
        Operation {
            name: $name,
            shape: $shape,
            $($field: $value,)*
            ..Operation {
                name: "",
                shape: Shape(3, 0, 1),
                newcomers: 0,
                change: NOTHING,
                lead: AT_ONCE,
                begin: ASK,
                asks: &[],
                through: &[],
                outcome: whole,
            }
        }
    };
}

pub const OPERATIONS: &[Operation] = &[
    operation!("takeover, PostgreSQL killed", Shape(3, 0, 1),
        begin: |stage| drop_fault(stage.strike(Kind::KillPostgres, stage.primary, 0, 1_000)),
        through: &["promised", "detach", "stored", "promote", "promoted", "admit"],
        outcome: taken_over),
    operation!("takeover, node killed", Shape(3, 0, 1),
        begin: |stage| drop_fault(stage.strike(Kind::KillNode, stage.primary, 0, LONG)),
        through: &["promised", "detach", "stored", "promote", "promoted", "admit"],
        outcome: taken_over),
    operation!("takeover, node killed, k = 2", Shape(4, 0, 2),
        begin: |stage| drop_fault(stage.strike(Kind::KillNode, stage.primary, 0, LONG)),
        through: &["promised", "detach", "stored", "promote", "promoted", "admit"],
        outcome: taken_over),
    operation!("takeover, agents cut", Shape(3, 0, 1),
        begin: |stage| drop_fault(stage.strike(Kind::CutPeers, stage.primary, 0, LONG)),
        through: &["promised", "detach", "stored", "promote", "promoted", "admit"],
        outcome: taken_over),
    operation!("takeover, WAL fetched first", Shape(3, 0, 1),
        lead: lead_to_fetch_first,
        begin: |stage| {
            come_back(stage);
            stage.strike(Kind::KillNode, stage.primary, 0, LONG);
        },
        through: &["fetch", "promote", "promoted", "admit"],
        outcome: taken_over),
    operation!("switchover", Shape(3, 0, 1),
        asks: &[Request::Switchover { to: Some(0), force: false, in_s: 0 }],
        through: &["checkpoint", "stop", "promote", "promoted", "admit"],
        outcome: answered),
    operation!("failover by hand", Shape(4, 1, 1),
        lead: lead_to_failover,
        asks: &[Request::Failover { replica: 0 }],
        through: &["promote", "promoted", "admit"],
        outcome: answered),
    operation!("restart, rolling", Shape(3, 0, 1),
        asks: &[
            Request::RestartReplica { replica: 0, force: false },
            Request::RestartReplica { replica: 1, force: false },
            Request::RestartPrimary { force: false },
        ],
        through: &["restart", "started", "stop", "promoted"],
        outcome: answered),
    operation!("reinit", Shape(3, 0, 1),
        asks: &[Request::Reinit { replica: 0 }],
        through: &["give-up", "clone", "started", "follow"],
        outcome: answered),
    operation!("rejoin by follow", Shape(3, 0, 1),
        lead: lead_to_follow,
        begin: come_back,
        through: &["start-detached", "follow", "apply-sync"],
        outcome: whole),
    operation!("rejoin by rewind", Shape(3, 0, 1),
        lead: lead_to_rewind,
        begin: come_back,
        through: &["rewind", "started", "apply-sync"],
        outcome: whole),
    operation!("rejoin by clone", Shape(3, 0, 1),
        lead: lead_to_clone,
        begin: come_back,
        through: &["clone", "started", "follow", "apply-sync"],
        outcome: whole),
    operation!("rejoin, WAL fetched from a peer", Shape(3, 0, 1),
        lead: lead_to_fetch,
        begin: ASK,
        through: &["fetch"],
        outcome: fetched),
    operation!("sync set: add", Shape(3, 0, 1),
        lead: |stage| without_sync(stage, stage.others[0]),
        begin: |stage| nosync(stage, stage.others[0], false),
        through: &["apply-sync", "stored"],
        outcome: whole),
    operation!("sync set: remove", Shape(5, 0, 2),
        begin: |stage| nosync(stage, stage.others[0], true),
        through: &["apply-sync", "stored"],
        outcome: whole),
    operation!("sync set: replace", Shape(4, 0, 2),
        lead: lead_to_replace,
        begin: replace,
        through: &["apply-sync", "stored"],
        outcome: whole),
    operation!("k: raise", Shape(4, 0, 1),
        asks: &[Request::Standbys(2)],
        through: &["apply-sync", "stored"],
        outcome: |world, before| wanted(world, before.set.k + 1)),
    operation!("k: lower", Shape(4, 0, 2),
        asks: &[Request::Standbys(1)],
        through: &["apply-sync", "stored"],
        outcome: |world, before| wanted(world, before.set.k - 1)),
    operation!("degrade to k = 0", Shape(2, 1, 1),
        change: |plan| plan.settings.on_last_standby_lost = OnLastStandbyLost::Degrade,
        begin: |stage| drop_fault(stage.strike(Kind::KillNode, stage.others[0], 0, LONG)),
        through: &["apply-sync", "stored"],
        outcome: degraded),
    operation!("return from k = 0", Shape(2, 1, 1),
        change: |plan| plan.settings.on_last_standby_lost = OnLastStandbyLost::Degrade,
        lead: lead_to_return,
        begin: come_back,
        through: &["follow", "apply-sync", "stored"],
        outcome: |world, _| wanted(world, 1)),
    operation!("add node", Shape(3, 0, 1),
        newcomers: 1,
        begin: |stage| stage.world.join(3),
        through: &["seated", "clone", "started", "slots", "follow", "apply-sync"],
        outcome: |world, before| wanted(world, before.set.k)),
    operation!("add node, from one to two", Shape(1, 1, 1),
        newcomers: 1,
        begin: |stage| stage.world.join(1),
        through: &["seated", "clone", "started", "slots", "follow", "apply-sync"],
        outcome: |world, _| wanted(world, 1)),
    operation!("remove node", Shape(4, 0, 1),
        begin: |stage| stage.world.leave(stage.others[0]),
        through: &["apply-sync", "slots", "detach"],
        outcome: removed),
    operation!("remove node, from two to one", Shape(2, 1, 1),
        begin: |stage| stage.world.leave(stage.others[0]),
        through: &["apply-sync", "slots", "detach"],
        outcome: removed),
];

fn drop_fault(_: usize) {}

// How each is led to.

/// The faults that were struck on the way there end.
pub fn come_back(stage: &mut Stage) {
    for index in 0..stage.world.plan.faults.len() {
        stage.world.heal(index);
    }
}

/// The cluster has found its rest without who is away.
fn calm(stage: &mut Stage) -> Option<()> {
    stage.until(40 * SECOND, |world| rest::unrest(world).is_none())
}

/// A standby is away for long enough to be taken out of the set.
fn lead_to_follow(stage: &mut Stage) -> Option<()> {
    stage.strike(Kind::KillNode, stage.others[0], 0, LONG);
    stage.wait(2 * SECOND);
    calm(stage)
}

/// The old primary has written what nobody else has when its machine dies.
fn lead_to_rewind(stage: &mut Stage) -> Option<()> {
    let old = stage.primary;
    let port = stage.strike(Kind::CutPort, old, 0, LONG);
    stage.wait(SECOND * 3 / 10);
    stage.strike(Kind::KillNode, old, 0, LONG);
    stage.world.heal(port);
    stage.until(20 * SECOND, |world| world.recorded_primary() != Some(old))?;
    calm(stage)
}

fn lead_to_clone(stage: &mut Stage) -> Option<()> {
    let member = stage.others[0];
    stage.strike(Kind::KillNode, member, 0, LONG);
    stage.wait(2 * SECOND);
    calm(stage)?;
    stage.world.nodes[member].durable.needs_clone = true;
    Some(())
}

/// A standby does not reach the primary's server any more, and falls more than a segment behind its peer.
fn lead_to_fetch(stage: &mut Stage) -> Option<()> {
    let (primary, member) = (stage.primary, stage.others[0]);
    stage.strike(Kind::CutStream, member, primary, LONG);
    stage.wait(4 * SECOND);
    Some(())
}

/// The standby with the most WAL may not be primary; the other one is cut off from replication for a moment.
fn lead_to_fetch_first(stage: &mut Stage) -> Option<()> {
    let (primary, behind, ahead) = (stage.primary, stage.others[0], stage.others[1]);
    stage.world.nodes[ahead].tags.nofailover = true;
    stage.world.after(1_000, Event::Settings { node: ahead });
    stage.wait(SECOND / 5);
    stage.strike(Kind::CutStream, behind, primary, LONG);
    stage.wait(SECOND / 2);
    Some(())
}

/// Two machines of four are lost: too few members are left to choose by themselves, and a person takes the word.
fn lead_to_failover(stage: &mut Stage) -> Option<()> {
    stage.strike(Kind::KillNode, stage.primary, 0, LONG);
    stage.strike(Kind::KillNode, stage.others[1], 0, LONG);
    stage.wait(4 * SECOND);
    Some(())
}

fn lead_to_replace(stage: &mut Stage) -> Option<()> {
    stage.strike(Kind::KillNode, stage.others[2], 0, LONG);
    stage.wait(2 * SECOND);
    calm(stage)
}

/// The spare comes back in the moment that a member is lost.
fn replace(stage: &mut Stage) {
    come_back(stage);
    stage.strike(Kind::KillNode, stage.others[1], 0, LONG);
}

fn lead_to_return(stage: &mut Stage) -> Option<()> {
    stage.strike(Kind::KillNode, stage.others[0], 0, LONG);
    stage.until(20 * SECOND, |world| wanted(world, 0).is_some() && rest::unrest(world).is_none())
}

fn nosync(stage: &mut Stage, node: usize, nosync: bool) {
    stage.world.nodes[node].tags.nosync = nosync;
    stage.world.after(1_000, Event::Settings { node });
}

fn without_sync(stage: &mut Stage, node: usize) -> Option<()> {
    nosync(stage, node, true);
    stage.wait(SECOND / 2);
    calm(stage)
}

// By what each end is known; that the cluster is at rest is asked besides.

/// Rest is all.
fn whole(_: &World, _: &Before) -> Option<Outcome> {
    Some(Outcome::Resumed)
}

fn taken_over(world: &World, before: &Before) -> Option<Outcome> {
    let changed = world.recorded_primary() != Some(before.primary);
    Some(if changed { Outcome::Resumed } else { Outcome::Undone })
}

/// Every request that was made has said how it ended.
fn answered(world: &World, _: &Before) -> Option<Outcome> {
    let requests = &world.store.newest().requests.as_ref()?.value.list;
    let failed = requests.iter().any(|request| request.stage == brain::Stage::Failed);
    Some(if failed { Outcome::Undone } else { Outcome::Resumed })
}

/// The store has this k. Who is in the set is a matter of rest.
fn wanted(world: &World, k: usize) -> Option<Outcome> {
    (world.store.newest().sync.as_ref()?.value.set.k == k).then_some(Outcome::Resumed)
}

/// The primary goes on alone, or its standby had to come back before it could.
fn degraded(world: &World, _: &Before) -> Option<Outcome> {
    let back = rest::away(world).is_empty();
    if back { wanted(world, 1).map(|_| Outcome::Undone) } else { wanted(world, 0) }
}

fn fetched(world: &World, _: &Before) -> Option<Outcome> {
    let primary = world.recorded_primary()?;
    let longest = world.nodes[primary].server.flushed();
    // What is written while the peer is left again is less than what a fetch begins with.
    let near = |node: usize| longest < world.nodes[node].server.length() + crate::wal::SEGMENT_RECORDS;
    let parted = (0..world.nodes.len()).filter(|node| !world.net.stream(*node, primary));
    parted.into_iter().all(near).then_some(Outcome::Resumed)
}

fn removed(world: &World, _: &Before) -> Option<Outcome> {
    let members = &world.store.newest().members.as_ref()?.value;
    let decided = members.nodes.values().all(|record| !record.leaving);
    let detached = |node: usize| world.nodes[node].server.receiver.is_none();
    let mut gone = (0..world.nodes.len()).filter(|node| !world.stays(*node));
    // Who was to leave has become the primary, and stays.
    let kept = gone.clone().next().is_none();
    let outcome = if kept { Outcome::Undone } else { Outcome::Resumed };
    (decided && gone.all(detached)).then_some(outcome)
}

/// Requests of this kind change a setting, not the store.
pub fn is_setting(ask: &Request) -> bool {
    matches!(ask, Request::Standbys(_))
}

/// Some request is under way.
pub fn asking(world: &World) -> bool {
    world.store.newest().requests.iter().any(|requests| requests.value.active().next().is_some())
}

/// A request has failed.
pub fn refused(world: &World) -> bool {
    let failed =
        |ask: &brain::Request| ask.stage == brain::Stage::Failed && !matches!(ask.ask, Ask::Reload { .. });
    world.store.newest().requests.iter().any(|requests| requests.value.list.iter().any(failed))
}
