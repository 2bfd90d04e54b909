//! What a user of the demo types next, ready to paste.

use std::fmt::Write;

use super::layout::Layout;

/// Databases and users of the demo; loopback is trusted for this user.
const USER_AND_DATABASE: &str = "-U postgres postgres";

pub fn connection_lines(layout: &Layout, primary: &str, detached: bool) -> String {
    let mut text = String::new();
    let dir = layout.dir.display();
    let read_write: Vec<u16> = layout.nodes.iter().map(|node| node.ports.read_write).collect();
    let first = read_write.first().copied().unwrap_or_default();
    let hosts: Vec<String> = read_write.iter().map(|port| format!("127.0.0.1:{port}")).collect();
    // Writing to a String cannot fail.
    let _ = writeln!(
        text,
        "
The cluster is up: {count} nodes, {primary} is primary.

  psql -h 127.0.0.1 -p {first} {USER_AND_DATABASE}
  postgresql://postgres@127.0.0.1:{first}/postgres
  postgresql://postgres@{all}/postgres        any node, whichever answers

  node  read-write  read-only  PostgreSQL  HTTP",
        count = layout.nodes.len(),
        all = hosts.join(","),
    );
    for node in &layout.nodes {
        let ports = node.ports;
        let _ = writeln!(
            text,
            "  {:<4}  {:<10}  {:<9}  {:<10}  http://127.0.0.1:{}",
            node.name, ports.read_write, ports.read_only, ports.postgres, ports.http
        );
    }
    let _ = writeln!(
        text,
        "
Watch it:          pgherd status --watch --dir {dir}
Kill the primary:  kill -9 $(head -1 {dir}/{primary}/data/postmaster.pid)
What happened:     pgherd events --dir {dir}"
    );
    let _ = if detached {
        writeln!(text, "Stop:              pgherd demo --stop --dir {dir}")
    } else {
        writeln!(text, "\nCtrl-C stops everything; `pgherd demo --dir {dir}` resumes it.")
    };
    text
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn the_lines_can_be_pasted() {
        let layout = Layout::plan(Path::new("/tmp/no-such-demo"), None, None).unwrap();
        let text = connection_lines(&layout, "n1", true);
        for line in [
            "psql -h 127.0.0.1 -p 17001 -U postgres postgres",
            "postgresql://postgres@127.0.0.1:17001,127.0.0.1:17011,127.0.0.1:17021/postgres",
            "kill -9 $(head -1 /tmp/no-such-demo/n1/data/postmaster.pid)",
            "pgherd demo --stop --dir /tmp/no-such-demo",
        ] {
            assert!(text.contains(line), "{line} is missing in\n{text}");
        }
    }
}
