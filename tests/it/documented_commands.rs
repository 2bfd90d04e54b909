//! Every command of pgherd in the README, the quick start and docs/operate is run, in its order, on a cluster.

use std::path::{Path, PathBuf};

use tests::Cluster;

/// Lines of `sh` blocks that are no client commands of a running cluster: how they begin, and what runs them instead.
const ELSEWHERE: &[(&str, &str)] = &[
    ("cargo xtask", "CI runs the tasks themselves, the demo too"),
    ("target/debug/pgherd status --watch", "it::demo_detach_and_stop; a view without an end"),
    ("pgherd config init", "cli::config::init, unit tests and it::package"),
    ("apt install", "it::package"),
    ("echo \"create_main_cluster", "it::package"),
    ("scp ", "other machines"),
    ("ssh ", "other machines"),
    ("mv /var/lib/pgherd", "it::package"),
    ("chown ", "it::package"),
    ("systemctl ", "it::package"),
    ("kill -INT", "PostgreSQL's own fast stop, where no unit of ours is"),
    ("pgherd status --config", "it::package"),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn pages() -> Vec<PathBuf> {
    let operate = std::fs::read_dir(root().join("docs/operate")).unwrap();
    let mut pages: Vec<PathBuf> = operate.map(|entry| entry.unwrap().path()).collect();
    pages.sort();
    pages.retain(|page| page.extension().is_some_and(|end| end == "md"));
    [vec![root().join("README.md"), root().join("docs/quickstart.md")], pages].concat()
}

/// The lines of the blocks that are marked as to be typed, without comments.
fn typed(page: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(page).unwrap();
    let mut lines = Vec::new();
    let mut is_typed = false;
    for line in text.lines() {
        match line.strip_prefix("```") {
            Some(kind) => is_typed = kind == "sh",
            None if is_typed => lines.push(line.split(" #").next().unwrap_or_default().trim().to_owned()),
            None => {}
        }
    }
    lines.retain(|line| !line.is_empty());
    lines
}

/// Its words; quotes keep blanks together.
fn words(line: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut quote = None;
    for char in line.chars() {
        match (char, quote) {
            ('\'' | '"', None) => quote = Some(char),
            (char, Some(open)) if char == open => quote = None,
            (' ', None) => words.push(String::new()),
            (char, _) => words.last_mut().unwrap().push(char),
        }
    }
    words
}

#[test]
fn what_the_pages_say_to_type_works() {
    let cluster = Cluster::start(3);
    cluster.wait_until_whole();
    let mut run = 0;
    for page in pages() {
        for line in typed(&page) {
            if ELSEWHERE.iter().any(|(beginning, _)| line.starts_with(beginning)) {
                continue;
            }
            let words = words(&line);
            let shown = format!("{}: {line}", page.display());
            assert_eq!(words[0], "pgherd", "{shown}: no test runs it; say in ELSEWHERE what does");
            // A view that goes on for ever is looked at once, and the cluster is this one.
            let endless = |word: &&str| matches!(*word, "--watch" | "--follow");
            let mut arguments: Vec<&str> =
                words[1..].iter().map(String::as_str).filter(|w| !endless(w)).collect();
            if let Some(at) = arguments.iter().position(|word| *word == "--dir") {
                arguments.drain(at..at + 2);
            }
            // The page says that the primary refuses it.
            if arguments == ["reinit", "n3"] && cluster.primary().as_deref() == Some("n3") {
                cluster.pgherd_ok(&["switchover"]);
                cluster.wait_until_whole();
            }
            let output = cluster.pgherd(&arguments);
            let said = [output.stdout, output.stderr].map(|said| String::from_utf8_lossy(&said).into_owned());
            assert!(output.status.success(), "{shown}: {}", said.concat());
            cluster.wait_until_whole();
            run += 1;
        }
    }
    assert!(run >= 20, "only {run} commands were found");
}
