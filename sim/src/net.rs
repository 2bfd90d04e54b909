//! Who can send to whom. Two networks over the same wires: the peer link, and PostgreSQL's port.
//!
//! What it is not: a queue; delays and losses are dice at the moment of sending. A cut of the wires closes both
//! networks, a cut of PostgreSQL's port or of the agents' only one (CHECKS B4).

#[derive(Clone, Default)]
pub struct Net {
    nodes: usize,
    wires: Vec<bool>,
    port: Vec<bool>,
    peers: Vec<bool>,
    /// Chance that a message between agents is lost, percent.
    pub loss_percent: u64,
    /// A factor on every delay.
    pub slowness: u64,
}

impl Net {
    pub fn new(nodes: usize) -> Net {
        Net {
            nodes,
            wires: vec![true; nodes * nodes],
            port: vec![true; nodes * nodes],
            peers: vec![true; nodes * nodes],
            loss_percent: 0,
            slowness: 1,
        }
    }

    pub fn heal(&mut self) {
        *self = Net::new(self.nodes);
    }

    pub fn cut(&mut self, from: usize, to: usize) {
        self.wires[from * self.nodes + to] = false;
    }

    pub fn cut_port(&mut self, from: usize, to: usize) {
        self.port[from * self.nodes + to] = false;
    }

    pub fn cut_peer(&mut self, from: usize, to: usize) {
        self.peers[from * self.nodes + to] = false;
    }

    /// An agent's message gets through.
    pub fn link(&self, from: usize, to: usize) -> bool {
        let pair = from * self.nodes + to;
        from == to || self.wires[pair] && self.peers[pair]
    }

    /// A packet of replication gets through.
    pub fn stream(&self, from: usize, to: usize) -> bool {
        from == to || self.wires[from * self.nodes + to] && self.port[from * self.nodes + to]
    }
}
