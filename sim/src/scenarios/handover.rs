//! Hand-overs in a calm world, and a takeover by a node from outside the set.

use brain::Stage as Progress;

use super::Cast;
use super::stage::{LONG, SECOND, Shape, Stage};
use crate::plan::Kind;
use crate::requests::Request;
use crate::world::World;

/// A transaction of a session that is there already; the drain waits for it.
const OPEN_US: u64 = 3 * SECOND / 2;

/// Between two acknowledged commits. The slowest that the model draws: the transaction, a promotion of 3.5 s or, where the
/// old primary is needed to open, its start of 3 s and its reading of WAL of 2 s; a second for all messages.
const PAUSE_US_MAX: u64 = OPEN_US + 6 * SECOND;

/// A checkpoint ahead of up to 6 s, and the pause.
const ENDS_US_MAX: u64 = 6 * SECOND + PAUSE_US_MAX;

fn failed(world: &World) -> u64 {
    world.nodes.iter().map(|node| node.server.failed).sum()
}

/// The session's transaction was ended before its own end, which it comes to some time after the hold has begun.
fn transaction_was_cut(world: &mut World, primary: usize, held_us: &mut Option<u64>) -> bool {
    let now_us = world.now_us;
    if held_us.is_none() && world.parks(primary) {
        *held_us = Some(now_us);
        let transaction = &mut world.nodes[primary].server.transaction;
        *transaction = transaction.map(|(since_us, _)| (since_us, now_us + OPEN_US));
    }
    let server = &world.nodes[primary].server;
    let open = held_us.is_some_and(|held_us| now_us < held_us + OPEN_US);
    open && server.stopping
}

/// The request's stage, when it has ended.
fn end(world: &World) -> Option<(Progress, String)> {
    let requests = world.store.newest().requests.as_ref()?;
    let request = requests.value.list.iter().find(|request| request.stage.is_final())?;
    Some((request.stage, request.note.clone()))
}

/// Without faults a switchover is done, in its time, and no write is lost or fails.
pub fn a_calm_switchover_costs_nothing(cast: &Cast) -> Option<Stage> {
    let shapes = [Shape(3, 0, 1), Shape(2, 1, 1), Shape(3, 0, 2), Shape(4, 0, 2), Shape(5, 0, 1)];
    let mut stage = cast.stage(shapes[(cast.seed % 5) as usize])?;
    (stage.world.plan.busy_percent, stage.world.plan.hang_percent) = (0, 0);
    let to = (!cast.seed.is_multiple_of(3)).then_some(cast.seed as usize % stage.others.len());
    let (primary, asked_us, failed_before) = (stage.primary, stage.world.now_us, failed(&stage.world));
    stage.world.ask(Request::Switchover { to, force: false, in_s: 0 });
    let busy = cast.seed % 2 == 1;
    if busy {
        stage.world.nodes[primary].server.transaction = Some((asked_us, asked_us + 7 * SECOND));
    }
    let (mut last_us, mut pause_us) = (stage.world.checkers.acknowledged_us(), 0);
    let (mut held_us, mut cut) = (None, false);
    while stage.world.now_us < asked_us + ENDS_US_MAX && stage.world.step() {
        let world = &mut stage.world;
        let acknowledged_us = world.checkers.acknowledged_us();
        pause_us = pause_us.max(acknowledged_us - last_us);
        last_us = acknowledged_us;
        cut |= busy && transaction_was_cut(world, primary, &mut held_us);
        let writes =
            world.recorded_primary() != Some(primary) && acknowledged_us + SECOND / 10 > world.now_us;
        if end(world).is_some_and(|(stage, _)| stage != Progress::Done || writes) {
            break;
        }
    }
    let world = &mut stage.world;
    let seconds = (world.now_us - asked_us) as f64 / 1e6;
    match end(world) {
        Some((Progress::Done, _)) if seconds * 1e6 < ENDS_US_MAX as f64 => {}
        Some((stage, note)) => {
            let what = format!("a calm switchover is {} after {seconds:.1} s: {note}", stage.word());
            world.violate("I5", primary, what);
        }
        None => world.violate("I5", primary, format!("a calm switchover has no end after {seconds:.1} s")),
    }
    let failures = failed(world) - failed_before + u64::from(cut);
    if failures > 0 {
        world.violate("I4", primary, format!("{failures} write(s) failed in a calm switchover"));
    }
    if pause_us > PAUSE_US_MAX {
        let pause = pause_us as f64 / 1e6;
        world.violate("I4", primary, format!("writes paused for {pause:.1} s in a calm switchover"));
    }
    Some(stage)
}

/// The successor's agent starts anew while the sessions are held: it owes a lease that it does not know, and promises later
/// than the others, whose answers would suffice. It is the successor all the same.
pub fn a_successor_that_promises_late_wins(cast: &Cast) -> Option<Stage> {
    let mut stage = cast.stage([Shape(3, 0, 0), Shape(3, 0, 2)][(cast.seed % 2) as usize])?;
    (stage.world.plan.busy_percent, stage.world.plan.hang_percent) = (0, 0);
    let (primary, to) = (stage.primary, cast.seed as usize / 2 % stage.others.len());
    let successor = stage.others[to];
    stage.world.ask(Request::Switchover { to: Some(to), force: false, in_s: 0 });
    let latest_us = stage.world.now_us + 10 * SECOND;
    while !stage.world.parks(primary) {
        (stage.world.now_us < latest_us && stage.world.step()).then_some(())?;
    }
    stage.strike(Kind::KillAgent, successor, primary, SECOND / 100);
    stage.until(20 * SECOND, |world| world.recorded_primary() != Some(primary))?;
    let winner = stage.world.recorded_primary()?;
    if winner != successor {
        let what = format!("n{} won, and n{} was to take over", winner + 1, successor + 1);
        stage.world.violate("I5", winner, what);
    }
    Some(stage)
}

/// The only member may not be primary, and another, which is no member and lags, may: it wins with the member's WAL or
/// not at all.
pub fn a_stranger_fetches_before_it_wins(cast: &Cast) -> Option<Stage> {
    let mut stage = cast.stage(Shape(3, 0, 1))?;
    let (primary, member, stranger) = (stage.primary, stage.others[0], stage.others[1]);
    stage.strike(Kind::CutPort, stranger, primary, LONG);
    stage.until(20 * SECOND, |world| {
        let sync = world.store.newest().sync.as_ref().map(|sync| &sync.value.set);
        let named = |node: usize| world.nodes[node].durable.member.clone();
        sync.is_some_and(|set| named(stranger).is_some_and(|id| !set.members.contains(&id)))
    })?;
    stage.world.nodes[member].tags.nofailover = true;
    stage.world.read_settings(member);
    stage.wait(SECOND + cast.seed % 7 * 40_000);
    stage.strike(Kind::KillNode, primary, member, LONG);
    stage.wait(SECOND / 10);
    for index in 0..stage.world.plan.faults.len() {
        if stage.world.plan.faults[index].kind == Kind::CutPort {
            stage.world.heal(index);
        }
    }
    stage.until(20 * SECOND, |world| world.recorded_primary() == Some(stranger))?;
    Some(stage)
}
