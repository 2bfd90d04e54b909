//! A rewind was cut short while it changed the data directory: what is left is worth nothing, and is copied anew.

use std::fs;

use tests::{Cluster, Ledger};

#[test]
fn a_data_directory_that_is_half_rewound_is_copied_anew() {
    let mut cluster = Cluster::start(3);
    let primary = cluster.wait_until_whole().primary.unwrap();
    let ledger = Ledger::start(&cluster);
    let half = cluster.names().into_iter().find(|name| *name != primary).unwrap();
    cluster.kill_node(&half);
    let node = cluster.node(&half).clone();
    // What an agent leaves that dies, or loses its source, in the middle of pg_rewind.
    fs::write(node.dir.join("conf/rewind-unfinished"), "").unwrap();
    let words = node.dir.join("member.json");
    let text = fs::read_to_string(&words).unwrap();
    let rewound = text.replace("\"rewound\": false", "\"rewound\": true");
    assert_ne!(rewound, text, "no such word in {text}");
    fs::write(&words, rewound).unwrap();
    fs::write(node.data().join("global/pg_control"), "half of it").unwrap();

    cluster.start_agent(&half);
    cluster.wait_until_whole();
    ledger.finish_and_check(&cluster);
}
