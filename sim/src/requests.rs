//! What people ask of a cluster while it runs, faults or none. Operations of the product (switchover, a new node) belong here.
//!
//! What they are not: faults; the cluster has to carry them out.

use crate::dice::Dice;
use crate::event::Event;
use crate::trace::Detail;
use crate::world::World;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Request {
    /// The setting `standbys`: how many must flush a commit.
    Standbys(usize),
}

/// Half of the larger clusters' seeds stay as they were made.
pub fn draw(dice: &mut Dice, full: usize, storm_us: u64) -> Vec<(u64, Request)> {
    if full < 3 || dice.percent(85) {
        return Vec::new();
    }
    let count = 1 + dice.index(2);
    (0..count).map(|_| (dice.within(0..storm_us), Request::Standbys(1 + dice.index(full - 1)))).collect()
}

impl World {
    pub fn schedule_requests(&mut self) {
        for index in 0..self.plan.requests.len() {
            let at_us = self.plan.warm_us + self.plan.requests[index].0;
            self.after(at_us, Event::Request { index });
        }
    }

    pub fn request(&mut self, index: usize) {
        let (_, request) = self.plan.requests[index];
        self.note(Detail::Decisions, 0, format_args!("*** asked for: {request:?}"));
        match request {
            Request::Standbys(standbys) => {
                self.plan.settings.standbys = standbys;
                for node in 0..self.nodes.len() {
                    let delay = if self.dice.percent(90) {
                        self.dice.millis(1..50)
                    } else {
                        self.dice.millis(50..1_500)
                    };
                    self.after(delay, Event::Settings { node });
                }
            }
        }
    }

    /// An agent reads the settings that hold now.
    pub fn read_settings(&mut self, node: usize) {
        let settings = self.plan.settings.clone();
        if let Some(agent) = self.agent(node) {
            agent.view.settings = settings;
            self.turn(node);
        }
    }
}
