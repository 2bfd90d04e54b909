//! Hooks that are shell scripts.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use proxy::topology::Backend;
use tokio::task::JoinHandle;

use super::*;

struct Stand {
    dir: tempfile::TempDir,
    topology: watch::Sender<Topology>,
    events: Arc<EventLog>,
    task: JoinHandle<()>,
}

impl Drop for Stand {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn topology(term: u64, primary: Option<&str>) -> Topology {
    let backend = |node: &str| Backend { node: node.to_owned(), address: format!("{node}:5432") };
    Topology { term, primary: primary.map(backend), ..Topology::default() }
}

impl Stand {
    /// Node n1, with a hook of this text; `DIR` in it is the stand's folder.
    fn new(script: &str, events: &[&str], timeout: Duration) -> Stand {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("hook");
        let text = script.replace("DIR", &dir.path().display().to_string());
        fs::write(&program, format!("#!/bin/sh\n{text}\n")).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let log = Arc::new(EventLog::open(dir.path(), "n1").unwrap());
        let (topology, seen) = watch::channel(Topology::default());
        let config = HooksConfig {
            program,
            events: events.iter().map(|rule| (*rule).to_owned()).collect(),
            timeout,
            cluster: "shop".into(),
            node: "n1".into(),
            has_role: true,
        };
        let task = tokio::spawn(run(config, seen, log.clone()));
        Stand { dir, topology, events: log, task }
    }

    fn said(&self) -> String {
        fs::read_to_string(self.dir.path().join("said")).unwrap_or_default()
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }
}

async fn soon(condition: impl Fn() -> bool) {
    let holds = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(Duration::from_secs(20), holds).await.expect("it holds soon");
}

const NOTE: &str = "echo \"$@\" $(cat) >> DIR/said";
const LONG: Duration = Duration::from_secs(20);

#[tokio::test]
async fn roles_are_told_as_patroni_tells_them_and_each_once() {
    let stand = Stand::new(NOTE, &[], LONG);
    for (term, primary) in [(1, Some("n2")), (1, None), (2, Some("n1")), (3, Some("n1")), (4, Some("n2"))] {
        stand.topology.send_replace(topology(term, primary));
        let expected = if primary == Some("n1") { "replica shop" } else { "" };
        soon(|| stand.said().contains(expected)).await;
        let role = if primary == Some("n1") { "primary" } else { "replica" };
        soon(|| {
            stand
                .said()
                .lines()
                .last()
                .is_some_and(|line| line.starts_with(&format!("on_role_change {role} shop")))
        })
        .await;
    }
    let said = stand.said();
    let roles: Vec<&str> = said.lines().filter_map(|line| line.split(' ').nth(1)).collect();
    assert_eq!(roles, ["replica", "primary", "replica"]);
    let document: Value =
        serde_json::from_str(said.lines().nth(1).unwrap().splitn(4, ' ').nth(3).unwrap()).unwrap();
    assert_eq!(
        (&document["node"], &document["was"], &document["term"]),
        (&json!("n1"), &json!("replica"), &json!(2))
    );
}

#[tokio::test]
async fn the_wanted_events_are_told_in_order() {
    let stand = Stand::new(NOTE, &["takeover.*", "admit"], LONG);
    for rule in ["takeover.revoke", "restart", "admit", "takeover", "takeover.record"] {
        stand.events.note(3, rule, format!("it was {rule}"), vec!["so".into()]);
    }
    soon(|| stand.said().lines().count() == 3).await;
    let rules: Vec<String> =
        stand.said().lines().filter_map(|line| line.split(' ').nth(1).map(str::to_owned)).collect();
    assert_eq!(rules, ["takeover.revoke", "admit", "takeover.record"]);
    assert!(stand.said().contains("it was admit"));
}

#[tokio::test]
async fn a_hook_that_fails_or_hangs_is_an_event_and_holds_nobody_up() {
    let stand = Stand::new(
        "echo no room >&2; echo x >> DIR/said; [ $2 = a ] && exit 3; sleep 1000 & wait",
        &["a", "b"],
        Duration::from_millis(300),
    );
    stand.events.note(1, "a", "a", Vec::new());
    stand.events.note(1, "b", "b", Vec::new());
    let failures =
        || stand.events.after(0, 100).into_iter().filter(|event| event.rule == RULE).collect::<Vec<_>>();
    soon(|| failures().len() == 2).await;
    let told = failures();
    assert!(told[0].why[0].contains("exit status: 3: no room"), "{told:?}");
    assert!(told[1].why[0].contains("had not ended after 0.3 s"), "{told:?}");
    assert_eq!(stand.said().lines().count(), 2, "failures of hooks are told to no hook");
}

#[tokio::test]
async fn a_program_that_is_not_there_is_an_event() {
    let stand = Stand::new(NOTE, &["a"], LONG);
    fs::remove_file(stand.path().join("hook")).unwrap();
    stand.events.note(1, "a", "a", Vec::new());
    soon(|| {
        stand.events.after(0, 100).iter().any(|event| event.rule == RULE && event.what.ends_with("failed"))
    })
    .await;
}

#[tokio::test]
async fn a_slow_hook_is_told_the_newest_events() {
    let stand = Stand::new("cat > /dev/null; echo $2 >> DIR/said", &["e*"], LONG);
    // More than wait, before the first look.
    for n in 0..3 * WAITING_MAX {
        stand.events.note(1, &format!("e{n}"), "e", Vec::new());
    }
    soon(|| stand.said().lines().last() == Some(&format!("e{}", 3 * WAITING_MAX - 1))).await;
    assert!(stand.said().lines().count() <= WAITING_MAX + 1);
    assert!(stand.events.after(0, 1000).iter().any(|event| event.what.contains("events were not told")));
}
