//! The worlds that are walked by default, and those that take long.

use super::World;

/// Three nodes, S = {n1, n2}, k = 1, one commit, one takeover, nothing else.
pub const SMALL: World = World {
    nodes: 3,
    members: 2,
    k: 1,
    commits: 1,
    changes: 0,
    takeovers: 1,
    crashes: 0,
    disks: 0,
    late: 0,
    cuts: 0,
    any_k: false,
    stale: false,
    ghosts: false,
    slow: false,
    tags: false,
    thorough: false,
};

/// Within a minute on two cores.
pub fn short() -> Vec<World> {
    let k2 = World { k: 2, ..SMALL };
    vec![
        World { thorough: true, ..SMALL },
        World { changes: 1, late: 1, cuts: 1, ..SMALL },
        World { changes: 1, late: 1, cuts: 1, ..k2 },
        World { any_k: true, changes: 1, ..SMALL },
        World { crashes: 1, late: 1, ..SMALL },
        World { disks: 1, ..k2 },
        World { takeovers: 2, ..SMALL },
        World { takeovers: 2, ..k2 },
        World { takeovers: 2, changes: 1, ..SMALL },
        World { takeovers: 2, changes: 1, slow: true, ..SMALL },
        World { takeovers: 2, slow: true, ..k2 },
        World { takeovers: 2, stale: true, slow: true, ..SMALL },
        World { takeovers: 2, crashes: 1, ..SMALL },
        World { nodes: 4, members: 3, k: 2, ..SMALL },
        World { nodes: 4, members: 3, k: 2, takeovers: 2, slow: true, ..SMALL },
        World { nodes: 4, members: 3, k: 3, takeovers: 2, ..SMALL },
        World { nodes: 4, members: 3, changes: 1, slow: true, ..SMALL },
        World { nodes: 5, members: 4, k: 2, ..SMALL },
        World { tags: true, ..SMALL },
        World { members: 1, tags: true, takeovers: 2, ..SMALL },
        World { members: 1, tags: true, crashes: 1, late: 1, ..SMALL },
        World { nodes: 4, tags: true, ..k2 },
    ]
}

/// For a night, with some 16 bytes of memory for each state and some 200 for each that waits.
pub fn long() -> Vec<World> {
    let k2 = World { k: 2, ..SMALL };
    vec![
        World { takeovers: 2, changes: 1, ..k2 },
        World { changes: 2, late: 2, cuts: 2, commits: 2, ..SMALL },
        World { crashes: 2, late: 1, cuts: 1, ..k2 },
        World { takeovers: 2, stale: true, ghosts: true, cuts: 1, ..k2 },
        World { takeovers: 3, ..SMALL },
        World { takeovers: 3, ..k2 },
        World { nodes: 4, members: 2, takeovers: 2, ..SMALL },
        World { nodes: 4, members: 3, k: 2, takeovers: 2, changes: 1, ..SMALL },
        World { nodes: 4, members: 3, k: 2, takeovers: 3, ..SMALL },
        World { nodes: 5, members: 4, k: 2, changes: 1, ..SMALL },
    ]
}
