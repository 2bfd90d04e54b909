//! What a user of the demo types next, ready to paste.

use std::fmt::Write;
use std::path::Path;

use super::layout::Layout;

/// Databases and users of the demo; loopback is trusted for this user.
const USER_AND_DATABASE: &str = "-U postgres postgres";

/// How this program is called from the shell that started it: by name when the shell would find it, else by path.
pub fn own_command() -> String {
    let Ok(own) = std::env::current_exe() else { return "pgherd".to_owned() };
    let found = std::env::var_os("PATH").is_some_and(|path| {
        let same = |dir: &Path| std::fs::canonicalize(dir.join("pgherd")).is_ok_and(|found| found == own);
        std::env::split_paths(&path).any(|dir| same(&dir))
    });
    if found {
        return "pgherd".to_owned();
    }
    let here = std::env::current_dir().ok();
    let short = here.and_then(|here| own.strip_prefix(here).map(Path::to_owned).ok());
    short.unwrap_or(own).display().to_string()
}

pub fn connection_lines(layout: &Layout, primary: &str, detached: bool, pgherd: &str) -> String {
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

  node  read-write  read-only  auto   PostgreSQL  HTTP",
        count = layout.nodes.len(),
        all = hosts.join(","),
    );
    for node in &layout.nodes {
        let ports = node.ports;
        let _ = writeln!(
            text,
            "  {:<4}  {:<10}  {:<9}  {:<5}  {:<10}  http://127.0.0.1:{}",
            node.name, ports.read_write, ports.read_only, ports.auto, ports.postgres, ports.http
        );
    }
    let _ = writeln!(
        text,
        "
Watch it:          {pgherd} status --watch --dir {dir}
In a browser:      http://127.0.0.1:{http}/dashboard
Kill the primary:  kill -9 $(head -1 {dir}/{primary}/data/postmaster.pid)
What happened:     {pgherd} events --dir {dir}",
        http = layout.nodes.first().map_or(0, |node| node.ports.http),
    );
    let _ = if detached {
        writeln!(text, "Stop:              {pgherd} demo --stop --dir {dir}")
    } else {
        writeln!(text, "\nCtrl-C stops everything; `{pgherd} demo --dir {dir}` resumes it.")
    };
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lines_can_be_pasted() {
        let layout = Layout::plan(Path::new("/tmp/no-such-demo"), None, None).unwrap();
        let text = connection_lines(&layout, "n1", true, "target/debug/pgherd");
        for line in [
            "psql -h 127.0.0.1 -p 17001 -U postgres postgres",
            "postgresql://postgres@127.0.0.1:17001,127.0.0.1:17011,127.0.0.1:17021/postgres",
            "kill -9 $(head -1 /tmp/no-such-demo/n1/data/postmaster.pid)",
            "target/debug/pgherd demo --stop --dir /tmp/no-such-demo",
        ] {
            assert!(text.contains(line), "{line} is missing in\n{text}");
        }
    }
}
