//! Golden scripts: a scenario per file, commands above `---`, the decisions they lead to below.
//!
//! `BLESS=1 cargo test -p brain --test golden` rewrites the expected halves; review them as a diff.

mod world;

use std::path::Path;

use world::World;

#[test]
#[expect(clippy::disallowed_methods, reason = "scripts are files")]
fn every_script_leads_to_its_trace() {
    let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/scripts");
    let bless = std::env::var("BLESS").is_ok();
    let mut paths: Vec<_> = std::fs::read_dir(scripts).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    assert!(!paths.is_empty());
    for path in paths {
        let text = String::from_utf8(std::fs::read(&path).unwrap()).unwrap();
        let (commands, expected) = text.split_once("---\n").unwrap_or((&text, ""));
        let trace = run(commands);
        if bless {
            std::fs::write(&path, format!("{commands}---\n{trace}")).unwrap();
        } else {
            assert_eq!(trace, expected, "{}", path.display());
        }
    }
}

/// Runs the commands of a script, one a line; `#` starts a comment.
fn run(commands: &str) -> String {
    let mut world = World::default();
    for line in commands.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            ["cluster", settings @ ..] => world = World::new(settings),
            ["run", milliseconds] => world.run(milliseconds.parse().unwrap()),
            ["kill", "postgres", node] => world.kill_postgres(node),
            ["refuse", node] => world.refuse(node, true),
            ["let", "in", node] => world.refuse(node, false),
            ["lose", node] => world.lose(node),
            ["hang", "postgres", node] => world.hang_postgres(node, true),
            ["wake", "postgres", node] => world.hang_postgres(node, false),
            ["kill", "node", node] => world.kill_node(node),
            ["kill", "agent", node] => world.kill_agent(node),
            ["start", "node", node] => world.start_agent(node),
            ["add", node] => world.add_member(node),
            ["remove", node] => world.leave(node),
            ["outgrow", node] => world.outgrow(node),
            ["disk", node, state] => world.disk(node, state),
            ["cut", from, to] => world.cut(from, to),
            ["withhold", from, to] => world.withhold(from, to),
            ["heal"] => world.heal(),
            ["hold", "commits", node] => world.hold_commits(node),
            ["pass", "commits", node] => world.pass_commits(node),
            ["deliver", "commits", node] => world.deliver_commits(node),
            ["write", node, bytes] => world.write(node, bytes.parse().unwrap()),
            ["slots", node, "restart", reason @ ..] => world.slots(node, true, reason),
            ["slots", node, reason @ ..] => world.slots(node, false, reason),
            ["misconfigure", node, reason @ ..] => world.misconfigure(node, reason),
            ["ask", words @ ..] => world.ask(words),
            ["origin", words @ ..] => world.origin(words),
            ["busy", node, count] => world.busy_sessions(node, count.parse().unwrap()),
            ["tag", node, tag] => world.tag(node, tag),
            ["quiet"] => world.quiet = true,
            ["loud"] => world.quiet = false,
            ["show"] => world.show(),
            ["why", node] => world.why(node),
            _ => panic!("unknown command: {line}"),
        }
    }
    world.trace
}
