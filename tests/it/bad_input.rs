//! What a node refuses at its start: a clear error, the right exit code, data untouched.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use tests::cluster::{pgherd, program};
use tests::machine::{SmallDisk, bin_under_test, fingerprint, initdb, is_root, skipped};
use tests::{Cluster, Node, Ports, Prepared, wait_for};

/// A refusal is a matter of moments; a full disk shows only while initdb writes.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(60);

const CONFIGURATION: Option<i32> = Some(3);
const PRECONDITION: Option<i32> = Some(5);

/// The exit code and the words of a node that must not start.
fn refused(command: &mut Command) -> (Option<i32>, String) {
    let folder = tests::cluster::folder();
    let said = folder.path().join("said");
    let file = fs::File::create(&said).unwrap();
    let errors = file.try_clone().unwrap();
    let mut child = command.stdin(Stdio::null()).stdout(file).stderr(errors).spawn().unwrap();
    let started = std::time::Instant::now();
    let status = wait_for("the node to refuse or the patience to end", 2 * REFUSAL_TIMEOUT, || {
        if started.elapsed() > REFUSAL_TIMEOUT {
            child.kill().unwrap();
        }
        child.try_wait().unwrap()
    });
    (status.code(), fs::read_to_string(&said).unwrap())
}

fn run_refused(config: &Path) -> (Option<i32>, String) {
    refused(Command::new(program()).arg("run").arg("--config").arg(config))
}

fn edit(node: &Node, from: &str, to: &str) {
    let text = fs::read_to_string(node.config()).unwrap();
    assert!(text.contains(from), "{from} is in {text}");
    fs::write(node.config(), text.replacen(from, to, 1)).unwrap();
}

#[track_caller]
fn assert_says(said: &str, words: &[&str]) {
    let lower = said.to_lowercase();
    for word in words {
        assert!(lower.contains(&word.to_lowercase()), "\"{word}\" is missing in:\n{said}");
    }
}

#[test]
fn an_unknown_key_is_named_with_a_suggestion() {
    let prepared = Prepared::new(1);
    let node = &prepared.nodes[0];
    edit(node, "read_write_port", "read_wirte_port");
    let (code, said) = run_refused(&node.config());
    assert_eq!(code, CONFIGURATION, "{said}");
    assert_says(&said, &["read_wirte_port", "read_write_port"]);
    assert!(!node.data().exists());
}

#[test]
fn a_missing_or_broken_file_is_a_configuration_error() {
    let prepared = Prepared::new(1);
    let node = &prepared.nodes[0];
    let (code, said) = run_refused(&prepared.dir().join("nowhere.toml"));
    assert_eq!(code, CONFIGURATION, "{said}");
    assert_says(&said, &["nowhere.toml"]);
    edit(node, "cluster = ", "cluster ");
    let (code, said) = run_refused(&node.config());
    assert_eq!(code, CONFIGURATION, "{said}");
    assert!(!node.data().exists());
}

#[test]
fn a_value_of_the_wrong_kind_is_a_configuration_error() {
    let prepared = Prepared::new(1);
    let node = &prepared.nodes[0];
    edit(node, &format!("port = {}", node.postgres), "port = \"many\"");
    let (code, said) = run_refused(&node.config());
    assert_eq!(code, CONFIGURATION, "{said}");
    assert_says(&said, &["port"]);
    assert!(!node.data().exists());
}

#[test]
fn every_port_in_use_is_named() {
    let prepared = Prepared::new(1);
    let node = &prepared.nodes[0];
    for port in [node.postgres, node.read_write, node.read_only, node.http, node.peer] {
        let _holder = TcpListener::bind(("127.0.0.1", port)).unwrap();
        let (code, said) = run_refused(&node.config());
        assert_eq!(code, PRECONDITION, "port {port}: {said}");
        assert_says(&said, &[&port.to_string(), "in use"]);
    }
}

#[test]
fn a_demo_names_the_port_in_use_and_its_holder() {
    let folder = tests::cluster::folder();
    let ports = Ports::claim(3);
    let base = ports.base;
    let _holder = TcpListener::bind(("127.0.0.1", base + 14)).unwrap();
    let dir = folder.path().join("demo");
    let output =
        pgherd(&["demo", "--detach", "--dir", dir.to_str().unwrap(), "--base-port", &base.to_string()]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), PRECONDITION, "{said}");
    let holder = format!("pid {}", std::process::id());
    assert_says(&said, &[&format!("port {} is in use", base + 14), &holder, "--base-port"]);
    assert!(!dir.exists(), "nothing is made before the ports are known to be free");
}

#[test]
fn without_postgresql_the_package_is_named() {
    if let Some(bin) = bin_under_test() {
        skipped(format_args!("no package is looked for when {} is named", bin.display()));
        return;
    }
    if !is_root() {
        skipped("hiding PostgreSQL from a process needs root");
        return;
    }
    let prepared = Prepared::new(1);
    let node = &prepared.nodes[0];
    let script = "mount -t tmpfs none /usr/lib/postgresql && exec \"$0\" run --config \"$1\"";
    let mut hidden = Command::new("unshare");
    hidden.args(["--mount", "sh", "-c", script]).arg(program()).arg(node.config());
    let (code, said) = refused(&mut hidden);
    if said.contains("unshare failed") || said.contains("mount:") {
        skipped(format_args!("no mount namespaces here: {said}"));
        return;
    }
    assert_eq!(code, PRECONDITION, "{said}");
    assert_says(&said, &["PostgreSQL", "apt-get install"]);
    assert!(!node.data().exists());
}

#[test]
fn a_node_directory_that_is_closed_to_us_is_refused() {
    if is_root() {
        // Root passes every mode: here the way is closed to the user postgres instead.
        let prepared = Prepared::new(1);
        let node = &prepared.nodes[0];
        fs::set_permissions(&node.dir, fs::Permissions::from_mode(0o700)).unwrap();
        let (code, said) = run_refused(&node.config());
        assert_eq!(code, PRECONDITION, "{said}");
        assert_says(&said, &["postgres", node.dir.to_str().unwrap()]);
        return;
    }
    let prepared = Prepared::new(1);
    let node = &prepared.nodes[0];
    fs::set_permissions(&node.dir, fs::Permissions::from_mode(0o500)).unwrap();
    let (code, said) = run_refused(&node.config());
    fs::set_permissions(&node.dir, fs::Permissions::from_mode(0o700)).unwrap();
    assert_eq!(code, PRECONDITION, "{said}");
    assert_says(&said, &["permission", node.dir.to_str().unwrap()]);
}

#[test]
fn a_data_directory_with_the_wrong_mode_or_of_another_cluster_is_refused_untouched() {
    let mut cluster = Cluster::start(3);
    let primary = cluster.wait_until_whole().primary.unwrap();
    let victim = cluster.names().into_iter().find(|name| *name != primary).unwrap();
    cluster.kill_node(&victim);
    let node = cluster.node(&victim);
    let place = node.data().to_str().unwrap().to_owned();

    fs::set_permissions(node.data(), fs::Permissions::from_mode(0o777)).unwrap();
    let before = fingerprint(&node.data());
    let (code, said) = run_refused(&node.config());
    assert_eq!(code, PRECONDITION, "{said}");
    assert_says(&said, &["permission", &place]);
    assert_eq!(fingerprint(&node.data()), before);

    fs::rename(node.data(), node.dir.join("own-data")).unwrap();
    initdb(&node.data());
    let before = fingerprint(&node.data());
    let (code, said) = run_refused(&node.config());
    assert_eq!(code, PRECONDITION, "{said}");
    assert_says(&said, &["cluster", &place]);
    assert_eq!(fingerprint(&node.data()), before);
}

#[test]
fn a_data_directory_of_a_major_that_is_not_installed_is_refused_untouched() {
    let prepared = Prepared::new(1);
    let node = &prepared.nodes[0];
    initdb(&node.data());
    fs::write(node.data().join("PG_VERSION"), "9.6\n").unwrap();
    let before = fingerprint(&node.data());
    let (code, said) = run_refused(&node.config());
    assert_eq!(code, PRECONDITION, "{said}");
    assert_says(&said, &["9.6", node.data().to_str().unwrap()]);
    assert_eq!(fingerprint(&node.data()), before);
}

#[test]
fn a_directory_with_something_else_in_it_is_refused_untouched() {
    let prepared = Prepared::new(1);
    let node = &prepared.nodes[0];
    fs::create_dir(node.data()).unwrap();
    fs::write(node.data().join("thesis.tex"), "the only copy").unwrap();
    let before = fingerprint(&node.data());
    let (code, said) = run_refused(&node.config());
    assert_eq!(code, PRECONDITION, "{said}");
    assert_says(&said, &[node.data().to_str().unwrap()]);
    assert_eq!(fingerprint(&node.data()), before);
}

#[test]
fn a_full_disk_at_the_start_is_named_and_leaves_no_half_cluster() {
    let prepared = Prepared::new(1);
    let node = prepared.nodes[0].clone();
    let files: Vec<_> = fingerprint(&node.dir).into_keys().filter(|path| path.is_file()).collect();
    let kept: Vec<(_, _)> = files.iter().map(|path| (path.clone(), fs::read(path).unwrap())).collect();
    // A new cluster takes some 40 MB.
    let Some(_disk) = SmallDisk::mount(&node.dir, "12m") else { return };
    for (path, content) in kept {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let mode = if path.extension().is_some_and(|end| end == "key") { 0o600 } else { 0o644 };
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    }
    let (code, said) = run_refused(&node.config());
    assert_eq!(code, PRECONDITION, "{said}");
    assert_says(&said, &["no space left"]);
    assert!(!node.data().join("PG_VERSION").exists(), "a half-made cluster must not look like one");
}
