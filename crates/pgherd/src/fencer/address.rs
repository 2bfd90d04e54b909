//! The virtual IP goes when the lease has ended, on a thread of its own: the kernel may make it wait.
//!
//! It does so whether PostgreSQL lives or not: a node whose processes were killed must not go on answering for the address. And
//! again and again while it is due, as an agent that wakes may be in the middle of adding it.

use std::io;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};

use super::cell::VipOrder;
use crate::vip::{self, VirtualIp};

type Answer = Result<Option<vip::Taken>, String>;

#[derive(Default)]
pub struct Address {
    jobs: Option<SyncSender<VirtualIp>>,
    answer: Arc<Mutex<Option<Answer>>>,
    /// It has been looked for since it became due.
    looked: bool,
    failure: Option<String>,
}

impl Address {
    /// Acts on the agent's last word; says what has been done since the last time, and why.
    pub fn keep(&mut self, order: Option<&VipOrder>, now_ms: u64) -> Option<(String, Vec<String>)> {
        let order = order?;
        if self.jobs.is_none() {
            // Before it is needed: at the end of a lease there may be no memory for it.
            self.jobs = self.start().ok();
        }
        if !is_due(order, now_ms) {
            (self.looked, self.failure) = (false, None);
            return None;
        }
        let answer = self.answer.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.looked |= answer.is_some();
        // One that is under way is waited for.
        let asked = self.jobs.as_ref().is_some_and(|jobs| jobs.try_send(order.vip.clone()).is_ok());
        if !asked && self.jobs.is_none() {
            self.looked = true;
        }
        self.tell(order, answer?, now_ms)
    }

    fn tell(&mut self, order: &VipOrder, answer: Answer, now_ms: u64) -> Option<(String, Vec<String>)> {
        let VipOrder { vip, until_ms } = order;
        let late_ms = now_ms.saturating_sub(until_ms.unwrap_or(now_ms));
        match answer {
            Ok(None) => None,
            Ok(Some(taken)) => {
                let what = format!("the virtual IP {vip} was taken from {}", vip.interface);
                let why = format!("no newer lease {late_ms} ms after its end");
                Some((what, [why].into_iter().chain(vip::words(&taken)).collect()))
            }
            Err(error) if self.failure.as_ref() != Some(&error) => {
                self.failure = Some(error.clone());
                let what = format!("the virtual IP {vip} could not be taken from {}", vip.interface);
                Some((what, vec![error]))
            }
            Err(_) => None,
        }
    }

    /// The fencer is needed for it yet: it may become due, or has not been looked for since it is.
    pub fn waits(&self, order: Option<&VipOrder>, now_ms: u64) -> bool {
        order.is_some_and(|order| order.until_ms.is_some() && !(is_due(order, now_ms) && self.looked))
    }

    fn start(&self) -> io::Result<SyncSender<VirtualIp>> {
        let (jobs, coming) = sync_channel::<VirtualIp>(0);
        let answers = self.answer.clone();
        std::thread::Builder::new().name("pgherd-fencer-a".into()).spawn(move || {
            while let Ok(wanted) = coming.recv() {
                let answer = match vip::remove(&wanted) {
                    // Without the interface there is no address; the agent tells that.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
                    answer => answer.map_err(|error| error.to_string()),
                };
                *answers.lock().unwrap_or_else(PoisonError::into_inner) = Some(answer);
            }
        })?;
        Ok(jobs)
    }
}

fn is_due(order: &VipOrder, now_ms: u64) -> bool {
    order.until_ms.is_some_and(|until_ms| now_ms >= until_ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(until_ms: Option<u64>) -> VipOrder {
        let interface = "no-such-link".to_owned();
        VipOrder { vip: VirtualIp { address: "192.0.2.1".parse().unwrap(), prefix: 32, interface }, until_ms }
    }

    #[test]
    fn it_is_due_at_the_leases_end_and_never_where_nobody_could_take_over() {
        assert!(!is_due(&order(Some(1_000)), 999));
        assert!(is_due(&order(Some(1_000)), 1_000));
        assert!(!is_due(&order(None), u64::MAX));
        let address = Address::default();
        assert!(address.waits(Some(&order(Some(1_000))), 999), "it may become due");
        assert!(address.waits(Some(&order(Some(1_000))), 1_000), "it has not been looked for");
        assert!(!address.waits(Some(&order(None)), 1_000));
        assert!(!address.waits(None, 1_000));
    }

    #[test]
    fn one_that_is_gone_is_not_waited_for_and_a_failure_is_told_once() {
        let mut address = Address::default();
        let order = order(Some(1_000));
        while address.waits(Some(&order), 1_250) {
            assert_eq!(address.keep(Some(&order), 1_250), None, "there is no such interface");
            std::thread::yield_now();
        }
        let (what, why) = address.tell(&order, Err("no".to_owned()), 1_250).expect("a failure is told");
        assert_eq!(what, "the virtual IP 192.0.2.1/32 could not be taken from no-such-link");
        assert_eq!(why, ["no"]);
        assert_eq!(address.tell(&order, Err("no".to_owned()), 1_350), None);
        let taken = vip::Taken { connections: 3, obstacle: None };
        let (_, why) = address.tell(&order, Ok(Some(taken)), 1_250).expect("what was done is told");
        assert_eq!(why, ["no newer lease 250 ms after its end", "3 connections at it were ended"]);
        address.keep(Some(&VipOrder { until_ms: Some(5_000), ..order.clone() }), 1_300);
        assert!(address.waits(Some(&order), 1_300), "the lease was back");
    }
}
