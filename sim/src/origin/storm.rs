//! What happens to an origin and its lines while it is followed, and what people ask of the cluster that follows.
//!
//! Invariant: an origin lives or is gone for good when all faults have ended, as its course says; all lines are open then.

use brain::OriginRecord;

use super::{Origin, Role};
use crate::dice::Dice;
use crate::event::Event;
use crate::plan::{Plan, Target};
use crate::requests::{Asked, Request};
use crate::world::World;

/// How it came to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Came {
    /// This cluster is made as its copy.
    First,
    /// It was made from this cluster, and appears so many microseconds after the warm-up, without the last records.
    Later { at_us: u64, loses: usize },
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Blow {
    /// Another host is its primary, without so many records; the old one is dead for a while, or goes on unknowing.
    TakeOver {
        loses: usize,
        goes_on: bool,
    },
    /// All of its hosts.
    Die,
    /// They give no answer, and refuse none.
    Hang,
    /// Its primary ends and comes back as it was.
    Restart,
    /// It has no WAL any more that is older than a segment; lines are cut for as long.
    CutAndRecycle,
    /// Nobody's receiver and copy is let in.
    Refuse,
    /// The lines of one node, of all nodes, of all to one host.
    CutNode(Target),
    CutAll,
    CutHost(usize),
}

#[derive(Clone, Debug)]
pub struct Strike {
    pub blow: Blow,
    /// After the warm-up, or, with a rule, after that decision.
    pub at_us: u64,
    pub trigger: Option<&'static str>,
    pub lasts_us: u64,
    struck: bool,
    /// The host that it has struck.
    host: usize,
    active: bool,
}

/// All that an origin goes through.
#[derive(Clone, Debug)]
pub struct Course {
    pub hosts: usize,
    pub came: Came,
    pub pace_us: u64,
    pub strikes: Vec<Strike>,
    /// It lives when all faults have ended.
    pub lives: bool,
}

impl Course {
    /// For the head of a trace.
    pub fn line(&self) -> String {
        let strike = |it: &Strike| {
            let when = it
                .trigger
                .map_or_else(|| format!("+{:.1}s", it.at_us as f64 / 1e6), |rule| format!("at {rule}"));
            format!(", {:?} {when} for {:.1}s", it.blow, it.lasts_us as f64 / 1e6)
        };
        let strikes: String = self.strikes.iter().map(strike).collect();
        let (hosts, came, end) = (self.hosts, self.came, if self.lives { "lives" } else { "ends" });
        format!("; an origin of {hosts} ({came:?}), which {end}{strikes}")
    }
}

/// Decisions of a standby cluster at which something may happen.
const TRIGGERS: &[&str] = &[
    "head.follow",
    "head.rewind",
    "head.promise",
    "head.clone",
    "head.stalled",
    "head.slots",
    "standby.clone",
    "standby.follow",
    "standby.admit",
    "promote.check",
    "demote.check",
    "promote",
    "promote.detach",
    "takeover.revoke",
    "takeover.record",
    "start",
    "switchover.stop",
];

fn strike(dice: &mut Dice, plan: &Plan) -> Strike {
    let host = dice.index(3);
    let blow = match dice.within(0..100) {
        0..18 => Blow::TakeOver { loses: dice.index(12), goes_on: dice.percent(40) },
        18..26 => Blow::TakeOver { loses: 0, goes_on: dice.percent(40) },
        26..42 => Blow::Die,
        42..50 => Blow::Hang,
        50..58 => Blow::Restart,
        58..66 => Blow::CutAndRecycle,
        66..72 => Blow::Refuse,
        72..84 => {
            let target =
                if dice.percent(60) { Target::Primary } else { Target::Node(dice.index(plan.nodes.len())) };
            Blow::CutNode(target)
        }
        84..94 => Blow::CutAll,
        _ => Blow::CutHost(host),
    };
    let trigger = dice.percent(35).then(|| TRIGGERS[dice.index(TRIGGERS.len())]);
    let at_us = if trigger.is_some() { dice.within(0..40_000) } else { dice.within(0..plan.storm_us) };
    let lasts_us = match dice.within(0..10) {
        0..3 => dice.millis(10..500),
        3..6 => dice.millis(500..4_000),
        _ => dice.millis(4_000..12_000),
    };
    Strike { blow, at_us, trigger, lasts_us, struck: false, host: 0, active: false }
}

/// The origin of one seed, and what people ask because of it.
pub fn draw(dice: &mut Dice, plan: &mut Plan) {
    let (first, hosts) = (dice.percent(70), 1 + dice.index(3));
    plan.single = false;
    let came = if first {
        Came::First
    } else {
        Came::Later { at_us: dice.within(0..plan.storm_us / 2), loses: dice.index(12) }
    };
    let count = dice.index(6);
    let strikes = (0..count).map(|_| strike(dice, plan)).collect();
    let lives = dice.percent(65);
    let course = Course { hosts, came, pace_us: dice.millis(20..90), strikes, lives };
    if first {
        let record = OriginRecord { hosts: Origin::addresses(hosts), slot: None, left: None };
        plan.settings.origin = Some(record);
    }
    for fault in plan.faults.iter_mut().filter(|fault| fault.trigger.is_some()) {
        if dice.percent(60) {
            fault.trigger = Some(TRIGGERS[dice.index(TRIGGERS.len())]);
        }
    }
    plan.requests.extend(wishes(dice, plan.storm_us, &course));
    plan.origin = Some(course);
}

fn wishes(dice: &mut Dice, storm_us: u64, course: &Course) -> Vec<Asked> {
    let mut asked = Vec::new();
    let mut ask =
        |at_us: u64, request| asked.push(Asked { at_us: at_us.min(storm_us), moment: None, request });
    match course.came {
        Came::First => {
            // After its death, or wrongly while it lives.
            let death = course.strikes.iter().find(|it| it.blow == Blow::Die && it.trigger.is_none());
            if let Some(death) = death.filter(|_| dice.percent(70)) {
                ask(death.at_us + dice.millis(100..4_000), Request::Promote { force: dice.percent(15) });
            }
            if dice.percent(35) {
                ask(dice.within(0..storm_us), Request::Promote { force: dice.percent(50) });
            }
            if dice.percent(40) {
                ask(dice.within(storm_us / 2..storm_us), Request::Demote { raised: dice.percent(75) });
            }
        }
        Came::Later { at_us, .. } => {
            ask(at_us + dice.millis(0..6_000), Request::Demote { raised: dice.percent(50) });
            if dice.percent(40) {
                ask(at_us + dice.millis(4_000..12_000), Request::Promote { force: dice.percent(50) });
            }
            if dice.percent(30) {
                ask(at_us + dice.millis(8_000..16_000), Request::Demote { raised: true });
            }
        }
    }
    for _ in 0..dice.index(4) {
        let (at_us, replica) = (dice.within(0..storm_us), dice.index(4));
        let request = match dice.within(0..100) {
            0..30 => Request::RestartPrimary { force: dice.percent(30) },
            30..50 => Request::RestartReplica { replica, force: dice.percent(30) },
            50..68 => Request::Reinit { replica },
            68..72 => Request::Reload { replica },
            72..80 => Request::Switchover { to: None, force: false, in_s: 0 },
            80..86 => Request::Cancel,
            86..92 => Request::Pause { seconds: 2 + dice.within(0..12) },
            _ => Request::NoFailover { replica },
        };
        ask(at_us, request);
    }
    asked
}

impl World {
    /// With the first fault of the cluster's own.
    pub fn schedule_strikes(&mut self) {
        let Some(course) = self.plan.origin.clone() else { return };
        if let Came::Later { at_us, .. } = course.came {
            self.after(self.plan.warm_us + at_us, Event::OriginAppears);
        }
        for (index, strike) in course.strikes.iter().enumerate() {
            if strike.trigger.is_none() {
                self.after(self.plan.warm_us + strike.at_us, Event::OriginStruck { index });
            }
        }
    }

    pub fn origin_appears(&mut self) {
        let Some(Came::Later { loses, .. }) = self.plan.origin.as_ref().map(|course| course.came) else {
            return;
        };
        if self.checkers.healed_us.is_some() && self.plan.origin.as_ref().is_some_and(|course| !course.lives)
        {
            return;
        }
        if self.appear(loses) {
            self.trace.line(self.now_us, "origin", format_args!("*** another cluster goes on from here"));
        } else if self.checkers.healed_us.is_none() {
            self.after(500_000, Event::OriginAppears);
        }
    }

    /// A node has come to another rule.
    pub fn origin_moment(&mut self, rule: &str) {
        let Some(course) = &mut self.plan.origin else { return };
        let mut due = Vec::new();
        for (index, strike) in course.strikes.iter_mut().enumerate() {
            if strike.trigger == Some(rule) && !strike.struck {
                strike.trigger = None;
                due.push((index, strike.at_us));
            }
        }
        for (index, at_us) in due {
            self.after(at_us, Event::OriginStruck { index });
        }
    }

    pub fn origin_struck(&mut self, index: usize) {
        let Some(strike) = self.plan.origin.as_ref().map(|course| course.strikes[index].clone()) else {
            return;
        };
        let exists = self.origin.as_ref().is_some_and(Origin::exists);
        if self.checkers.healed_us.is_some() || strike.struck || !exists {
            return;
        }
        let cut_node = match strike.blow {
            Blow::CutNode(target) => Some(self.resolve(target)),
            _ => None,
        };
        let id = self.next_id();
        let (now_us, lasts_us) = (self.now_us, strike.lasts_us);
        let Some(origin) = &mut self.origin else { return };
        let host = origin.newest().map_or(0, |(host, _)| host);
        match strike.blow {
            Blow::TakeOver { loses, goes_on } => origin.take_over(loses, goes_on, id),
            Blow::Die => (0..origin.hosts.len()).for_each(|host| origin.stop_host(host)),
            Blow::Hang => origin.hosts.iter_mut().for_each(|host| host.frozen = host.up),
            Blow::Restart => origin.stop_host(host),
            Blow::Refuse => {
                origin.refuses = true;
                origin.feeds.clear();
            }
            Blow::CutNode(_) => origin.cuts.push((index, cut_node, None)),
            Blow::CutAll | Blow::CutAndRecycle => origin.cuts.push((index, None, None)),
            Blow::CutHost(host) => origin.cuts.push((index, None, Some(host % origin.hosts.len()))),
        }
        if let Some(strike) = self.plan.origin.as_mut().map(|course| &mut course.strikes[index]) {
            (strike.struck, strike.active, strike.host) = (true, true, host);
        }
        self.note_reach();
        let seconds = lasts_us as f64 / 1e6;
        self.trace.line(now_us, "origin", format_args!("*** {:?} for {seconds:.2} s", strike.blow));
        self.after(lasts_us, Event::OriginHealed { index });
    }

    pub fn origin_healed(&mut self, index: usize) {
        let Some(strike) = self.plan.origin.as_mut().map(|course| &mut course.strikes[index]) else { return };
        if !std::mem::take(&mut strike.active) {
            return;
        }
        let (blow, host) = (strike.blow, strike.host);
        let Some(origin) = &mut self.origin else { return };
        origin.cuts.retain(|(strike, ..)| *strike != index);
        match blow {
            Blow::TakeOver { .. } | Blow::Restart => origin.start_host(host),
            Blow::Die => (0..origin.hosts.len()).for_each(|host| origin.start_host(host)),
            Blow::Hang => origin.hosts.iter_mut().for_each(|host| host.frozen = false),
            Blow::CutAndRecycle => origin.recycle(),
            Blow::Refuse => origin.refuses = false,
            Blow::CutNode(_) | Blow::CutAll | Blow::CutHost(_) => {}
        }
        self.note_reach();
        self.trace.line(self.now_us, "origin", format_args!("*** {blow:?} ends"));
    }

    /// All faults have ended: it lives with one primary, or is gone.
    pub fn settle_origin(&mut self) {
        let Some(course) = self.plan.origin.clone() else { return };
        for index in 0..course.strikes.len() {
            self.origin_healed(index);
        }
        let Some(origin) = &mut self.origin else { return };
        for host in 0..origin.hosts.len() {
            let deposed = matches!(origin.hosts[host].role, Role::Primary(_))
                && origin.newest().is_some_and(|(newest, _)| newest != host);
            let up = origin.hosts[host].up;
            if !course.lives && up {
                origin.stop_host(host);
            } else if course.lives && origin.exists() && (!up || deposed) {
                origin.start_host(host);
            }
        }
        self.note_reach();
        let word = if course.lives { "lives" } else { "is gone for good" };
        self.trace.line(self.now_us, "origin", format_args!("*** it {word}"));
    }
}
