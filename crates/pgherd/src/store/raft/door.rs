//! Whether this directory may take part, and whether others may: seats, first starts, lost memories.
//!
//! A voter's word is worth what its disk remembers. Every frame says how many writes its directory holds; whoever hears
//! it keeps the highest number ([`Mark`]). A directory that opens with fewer writes than somebody has heard of (an older
//! copy put back, a disk that lost what it had acknowledged) is told so, gives its seat up, and comes back under a
//! new one as a learner. So an opened directory is silent until as many voters have answered that nothing is missing as,
//! with itself, make a majority: it could do nothing useful before, and any majority contains one of those.
//!
//! What it is not: the moving of seats (`steward.rs`) or the writing of anything (`disk.rs`).
//! Invariant: a directory that has not been let in neither votes, nor acknowledges, nor stands for election.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::frame::{Header, Hello, Verdict};
use crate::store::state::Seat;

/// A hello that was not repeated for this long is forgotten: ten repeats.
const FORGET: Duration = Duration::from_millis(2_500);

/// So long a first start waits for seeds that are missing, once a majority is there: one of them may belong to a store
/// already and be slow to say so. The peer link tries at least twice a second.
const FOUND_PATIENCE: Duration = Duration::from_secs(5);

/// The furthest that a seat's directory was heard to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Mark {
    pub boot: u64,
    pub run: u64,
    pub generation: u64,
}

/// What a frame's header says against the mark: an error when the directory that it comes from lacks writes. A frame of
/// an earlier life that was on its way for long looks the same; its sender knows by the run that it is not meant.
pub(super) fn judge(mark: Option<&Mark>, header: &Header) -> Result<(), String> {
    let Some(mark) = mark else { return Ok(()) };
    let same_life = (header.boot, header.run) == (mark.boot, mark.run);
    let later_life = header.boot > mark.boot && header.start >= mark.generation;
    if same_life || later_life {
        return Ok(());
    }
    Err(format!(
        "the store directory was opened with {} writes in it, but had confirmed {}: it was replaced by an older copy, \
         or its disk has lost what it had acknowledged",
        header.start, mark.generation
    ))
}

/// How this directory stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// It belongs to no store yet.
    Newborn,
    /// It has a seat; whether it remembers all is not known yet.
    Unproven,
    Seated,
    /// Its seat was removed, and its node is no member.
    Removed,
}

/// Somebody without a seat who wants one.
#[derive(Clone, Debug)]
pub(super) struct Applicant {
    pub seat: Seat,
    pub heard: Duration,
    first_start: bool,
    seeds: BTreeSet<String>,
}

pub(super) struct Door {
    pub place: Place,
    /// This node may found a store: nothing of it has ever been part of one.
    pub first_start: bool,
    pub seeds: BTreeSet<String>,
    pub applicants: BTreeMap<String, Applicant>,
    pub marks: BTreeMap<u64, Mark>,
    /// Ids of the seats that have found nothing missing here.
    vouchers: BTreeSet<u64>,
    /// Somebody belongs to a store: this node does not found another.
    others_seated: bool,
    majority_since: Option<Duration>,
}

impl Door {
    pub fn new(place: Place, first_start: bool, seeds: BTreeSet<String>, marks: BTreeMap<u64, Mark>) -> Self {
        Self {
            place,
            first_start,
            seeds,
            applicants: BTreeMap::new(),
            marks,
            vouchers: BTreeSet::new(),
            others_seated: false,
            majority_since: None,
        }
    }

    pub fn hello(&self) -> Hello {
        Hello { first_start: self.first_start && !self.others_seated, seeds: self.seeds.clone() }
    }

    /// Somebody without a seat knocks.
    pub fn knock(&mut self, now: Duration, seat: Seat, hello: Hello) {
        // Names come from certificates of this cluster, so they are few.
        let Hello { first_start, seeds } = hello;
        let name = seat.name.clone();
        self.applicants.insert(name, Applicant { seat, heard: now, first_start, seeds });
    }

    /// Keeps how far a seat was heard to be; true when it is in a new life, which is worth a write.
    pub fn heard(&mut self, id: u64, header: &Header) -> bool {
        let Header { boot, run, generation, .. } = *header;
        let mark = self.marks.entry(id).or_insert(Mark { boot: 0, run: 0, generation: 0 });
        let new_life = (mark.boot, mark.run) != (boot, run);
        *mark = Mark { boot, run, generation: generation.max(mark.generation) };
        new_life
    }

    pub fn answered(&mut self, by: u64, verdict: &Verdict) {
        self.others_seated = true;
        if *verdict == Verdict::Fine {
            self.vouchers.insert(by);
        }
    }

    /// Enough voters, with this one, have found nothing missing.
    pub fn proven(&self, own: u64, voters: &BTreeSet<u64>) -> bool {
        let others = voters.iter().filter(|id| **id != own);
        others.filter(|id| self.vouchers.contains(id)).count() >= voters.len() / 2
    }

    pub fn forget_old(&mut self, now: Duration) {
        self.applicants.retain(|_, applicant| now < applicant.heard + FORGET);
    }

    /// Whether this node founds the store now: it comes first by name among the seeds, and the others have nothing
    /// either. All of them say so, or a majority while the rest stays silent.
    pub fn founds(&mut self, now: Duration, name: &str) -> bool {
        let eligible = self.place == Place::Newborn && self.first_start && !self.others_seated;
        if !eligible || self.seeds.first().is_none_or(|first| first != name) {
            return false;
        }
        let agree = |seed: &&String| {
            let same = |applicant: &Applicant| applicant.first_start && applicant.seeds == self.seeds;
            *seed == name || self.applicants.get(*seed).is_some_and(same)
        };
        let agreeing = self.seeds.iter().filter(agree).count();
        if agreeing == self.seeds.len() {
            return true;
        }
        if agreeing <= self.seeds.len() / 2 {
            self.majority_since = None;
            return false;
        }
        now >= *self.majority_since.get_or_insert(now) + FOUND_PATIENCE
    }

    /// Seeds whose configuration names other seeds, for the log.
    pub fn disagreeing(&self) -> Vec<String> {
        let other =
            |(_, applicant): &(&String, &Applicant)| applicant.first_start && applicant.seeds != self.seeds;
        self.applicants.iter().filter(other).map(|(name, _)| name.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(boot: u64, run: u64, start: u64, generation: u64) -> Header {
        Header { store: 1, incarnation: 1, boot, run, start, generation, pace: 0 }
    }

    fn seeds(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn an_older_copy_is_told_apart_from_a_restart() {
        let mark = Mark { boot: 5, run: 50, generation: 300 };
        let fine = |header| judge(Some(&mark), &header).is_ok();
        assert!(fine(header(5, 50, 200, 290)), "the same life");
        assert!(fine(header(6, 60, 300, 301)), "a restart");
        assert!(fine(header(7, 60, 340, 341)), "a restart after unheard writes");
        assert!(!fine(header(4, 40, 100, 150)), "of an earlier life, or an old copy");
        assert!(!fine(header(6, 60, 299, 300)), "a copy of one write ago, started again");
        assert!(!fine(header(5, 51, 200, 201)), "a second copy that counts the same start");
        assert!(judge(None, &header(1, 1, 0, 0)).is_ok());
    }

    #[test]
    fn as_many_as_make_a_majority_must_vouch() {
        let mut door = Door::new(Place::Unproven, false, BTreeSet::new(), BTreeMap::new());
        let voters = BTreeSet::from([1, 2, 3]);
        assert!(!door.proven(1, &voters));
        door.answered(9, &Verdict::Fine);
        assert!(!door.proven(1, &voters), "a stranger's word");
        door.answered(2, &Verdict::Fine);
        assert!(door.proven(1, &voters));
        assert!(!door.proven(1, &BTreeSet::from([1, 2, 3, 4, 5])), "of five it takes two others");
        assert!(door.proven(1, &BTreeSet::from([1])), "who is alone asks nobody");
    }

    #[test]
    fn a_store_is_founded_once_and_by_the_first_seed() {
        let three = seeds(&["n1", "n2", "n3"]);
        let newborn = |name| {
            let mut door = Door::new(Place::Newborn, true, three.clone(), BTreeMap::new());
            for peer in three.iter().filter(|peer| *peer != name) {
                let hello = Hello { first_start: true, seeds: three.clone() };
                door.knock(Duration::ZERO, Seat { name: peer.clone(), incarnation: 1 }, hello);
            }
            door
        };
        assert!(newborn("n1").founds(Duration::ZERO, "n1"));
        assert!(!newborn("n2").founds(Duration::ZERO, "n2"));
        let mut late = newborn("n1");
        late.applicants.remove("n3");
        assert!(!late.founds(Duration::ZERO, "n1"), "n3 may yet say that there is a store");
        assert!(late.founds(FOUND_PATIENCE, "n1"));
        late.applicants.remove("n2");
        assert!(!late.founds(FOUND_PATIENCE * 9, "n1"), "one of three is no majority");
        let mut told = newborn("n1");
        told.answered(7, &Verdict::Fine);
        assert!(!told.founds(Duration::ZERO, "n1"), "n2 or n3 belongs to a store");
        let mut wiped = newborn("n1");
        wiped.first_start = false;
        assert!(!wiped.founds(Duration::ZERO, "n1"), "it has been part of one");
        let mut other = newborn("n1");
        for applicant in other.applicants.values_mut() {
            applicant.seeds.insert("n9".to_owned());
        }
        assert!(!other.founds(FOUND_PATIENCE * 9, "n1"), "configured differently");
        assert_eq!(other.disagreeing(), ["n2", "n3"]);
    }
}
