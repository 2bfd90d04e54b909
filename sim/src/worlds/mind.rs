//! All that the brain may decide on one node at one moment: over whom it hears, which timers have run out, which k the
//! settings ask for, and which names the nodes have. Answers are remembered by what the brain was shown.
//!
//! Invariant: the key holds everything that `Sight` puts into the view.

use std::hash::{DefaultHasher, Hash, Hasher};

use super::act::{Act, Naming};
use super::sight::{Mood, Sight};
use super::state::{Link, NODES, Role, State};

/// Rules that choose among equals by name. Who stands first for a candidacy is a matter of name too, but only until
/// the timers have run out.
const BY_NAME: [&str; 3] = ["takeover.record", "takeover.fetch", "sync.change"];

/// What was decided, and by which rule.
pub type Decided = (&'static str, Act);

#[expect(clippy::disallowed_types, reason = "looked up by key, never walked")]
type Table = std::collections::HashMap<(u64, u64), Box<[Decided]>>;

#[derive(Default)]
pub struct Mind {
    table: Table,
    /// How often the brain was asked.
    pub asked: u64,
}

/// What every mind of this world is given.
#[derive(Clone, Copy, Debug)]
pub struct Frame {
    /// The values of `standbys` that the settings may have, as bits.
    pub ks: u8,
    pub lies: bool,
    pub by_host: bool,
    /// At each decision any node may be tagged nofailover.
    pub tags: bool,
    /// Hear every set of peers in every mood, also where it cannot matter to a true brain.
    pub thorough: bool,
}

impl Mind {
    /// Every decision that `node` may come to, each once.
    pub fn decisions(&mut self, state: &State, node: usize, frame: Frame) -> Vec<Decided> {
        let mut all: Vec<Decided> = Vec::new();
        let own = own_key(state, node);
        let peers: Vec<Vec<u8>> = state.nodes().map(|peer| peer_key(state, peer)).collect();
        for heard in (0..1u8 << state.count).filter(|heard| heard & (1 << node) == 0) {
            for mood in [Mood::Calm, Mood::Late] {
                if frame.thorough || matters(state, node, heard, mood) {
                    self.recall(state, node, frame, (heard, mood), (&own, &peers), &mut all);
                }
            }
        }
        all
    }

    /// What `node` does when it is asked to promise `term`.
    pub fn asked(&mut self, state: &State, node: usize, frame: Frame, term: u8) -> Vec<Decided> {
        let mut all = Vec::new();
        let own = own_key(state, node);
        let peers: Vec<Vec<u8>> = state.nodes().map(|peer| peer_key(state, peer)).collect();
        let candidate = usize::from(node == 0);
        self.recall(state, node, frame, (1 << candidate, Mood::Asked(term)), (&own, &peers), &mut all);
        all.retain(|(_, act)| matches!(act, Act::Promise(_)));
        all
    }

    fn recall(
        &mut self,
        state: &State,
        node: usize,
        frame: Frame,
        (heard, mood): (u8, Mood),
        (own, peers): (&[u8], &[Vec<u8>]),
        all: &mut Vec<Decided>,
    ) {
        let hash = |seed: u8| {
            let mut hasher = DefaultHasher::new();
            (seed, node, heard, mood).hash(&mut hasher);
            hasher.write(own);
            for (_, peer) in peers.iter().enumerate().filter(|(peer, _)| heard & (1 << peer) != 0) {
                hasher.write(peer);
            }
            hasher.finish()
        };
        let key = (hash(0), hash(1));
        let asked = &mut self.asked;
        let found = self.table.entry(key).or_insert_with(|| {
            let mut found: Vec<Decided> = Vec::new();
            let ks = (0..8).filter(|k| frame.ks & (1 << k) != 0);
            let barring = frame.tags && state.nodes[node].role == Role::Standby;
            let barred = move |_: &u8| 0..if barring { 1 << state.count } else { 1 };
            for (k, barred) in ks.flat_map(|k| barred(&k).map(move |barred| (k, barred))) {
                for first in 0..state.count {
                    *asked += 1;
                    let naming = Naming(rotation(first, state.count));
                    let Frame { lies, by_host, .. } = frame;
                    let sight = Sight { state, node, heard, mood, k, naming, lies, by_host, barred };
                    let (rule, acts) = sight.decide();
                    found.extend(acts.into_iter().map(|act| (rule, act)));
                    if !BY_NAME.contains(&rule) {
                        break;
                    }
                }
            }
            found.sort_unstable();
            found.dedup();
            found.into()
        });
        for decided in found.iter() {
            if !all.iter().any(|(_, act)| *act == decided.1) {
                all.push(*decided);
            }
        }
    }
}

/// Whether hearing exactly these peers can lead to a decision that no other set leads to. In calm a node goes by the
/// primary's word, and others only hold it back. A primary goes by its walsenders and by the highest promise that it
/// hears of. Who has not promised is no answer to a candidate. A winner's first set is whom it hears: any.
fn matters(state: &State, node: usize, heard: u8, mood: Mood) -> bool {
    let (own, all) = (&state.nodes[node], ((1u8 << state.count) - 1) & !(1 << node));
    let era = &state.eras[usize::from(own.era)];
    if mood == Mood::Calm {
        return heard == all || own.role != Role::Primary && heard == (1 << era.node) & all;
    }
    match own.role {
        Role::Primary => heard == all || heard.count_ones() <= 1,
        Role::Standby if own.member == era.member => true,
        _ => state.nodes().all(|peer| heard & (1 << peer) == 0 || state.nodes[peer].promise > era.term),
    }
}

/// The naming by which node `first` comes before all others: ties go to the first by name.
fn rotation(first: u8, count: u8) -> [u8; NODES] {
    std::array::from_fn(|index| {
        let index = index as u8;
        if index < count { (index + count - first) % count } else { index }
    })
}

fn own_key(state: &State, index: usize) -> Vec<u8> {
    let node = &state.nodes[index];
    let mut key = peer_key(state, index);
    let flags = u8::from(node.doubt) | u8::from(node.rewound) << 1;
    key.extend([node.promoted, node.era, flags, state.count]);
    for era in &state.eras[..=usize::from(node.era)] {
        key.extend([era.term, era.node, era.member, era.timeline, era.from_timeline, era.from_len]);
        key.extend([era.sync_term, era.sync_primary, era.set.k]);
        key.extend(era.set.members.to_le_bytes());
    }
    key.extend(state.branches().iter().flat_map(|branch| [branch.parent, branch.fork, branch.timeline]));
    key
}

fn peer_key(state: &State, index: usize) -> Vec<u8> {
    let node = &state.nodes[index];
    let host = state.host_of(index);
    let streaming = host.map_or(0, |host| 1 + u8::from(state.nodes[host].senders[index].flush > 0));
    let flags = u8::from(node.unread) | u8::from(node.admitted) << 1 | u8::from(node.busy) << 2;
    let mut key =
        vec![index as u8, node.role as u8, node.log.branch, node.log.len, node.member, node.promise];
    let term = state.eras[usize::from(node.era)].term;
    key.extend([node.upstream, node.upstream_term, node.served, term, streaming, flags]);
    if node.role == Role::Primary {
        key.extend([u8::from(node.applied), node.lsn, node.names.term, node.names.set.k]);
        key.extend(node.names.set.members.to_le_bytes());
        for sender in node.senders.iter().filter(|sender| sender.link != Link::None) {
            key.extend([sender.member, sender.term, sender.flush]);
        }
        key.push(0xFF);
    }
    key
}
