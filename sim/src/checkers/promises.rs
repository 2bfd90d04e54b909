//! The words that I1 and I2 rest on: a lease and a takeover's promises exclude each other, and to take WAL of a term is to
//! have promised it (DESIGN 4.2).

use brain::Term;

use crate::world::World;

/// A primary counts its members' leases while so many of them have promised a higher term that it can be taken over.
pub fn lease_and_takeover(world: &World, mut nodes: impl Iterator<Item = usize>) -> Option<(usize, String)> {
    nodes.find_map(|node| {
        let host = &world.nodes[node];
        let view = &host.agent.as_ref().filter(|_| !world.clock_excused(node))?.view;
        let (record, _) = view.serving()?;
        let sync = view.sync().filter(|sync| sync.term == record.value.term && sync.set.k > 0)?;
        let promised = |other: &&crate::world::Node| {
            let durable = &other.durable;
            let member = durable.member.as_ref().filter(|_| durable.promise > record.value.term);
            member.is_some_and(|member| sync.set.members.contains(member))
        };
        let promised = world.nodes.iter().filter(promised).count();
        let held = view.memory.leases_held(world.clock(node), &sync.set, &view.settings);
        (sync.set.k + promised > sync.set.members.len() && held >= sync.set.k).then(|| {
            let (term, set) = (record.value.term, &sync.set);
            (node, format!("{held} of {set} hold its lease of term {term}, and {promised} promised another"))
        })
    })
}

/// WAL of a term is taken by a node that has not promised that term.
pub fn unpromised(term: Term, promise: Term) -> Option<String> {
    (term > promise).then(|| format!("takes WAL of term {term}, having promised {promise}"))
}
