//! Who may read what: secrets for nobody else, folders open to those who need them.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::Subject;
use super::finding::Finding;
use crate::postgres::Layout;

pub(super) fn secrets(subject: &Subject) -> Vec<Finding> {
    let config = &subject.config;
    let mut files = vec![("the node's key", config.tls.key.clone())];
    files.extend(config.http.tls.as_ref().map(|tls| ("the HTTP server's key", tls.key.clone())));
    files.extend(config.proxy.tls.client.as_ref().map(|tls| ("the proxy's key", tls.key.clone())));
    files.extend(config.http.users.as_ref().map(|file| ("the users' file", file.clone())));
    files.push(("the file of the cluster's passwords", config.node.dir.join("credentials.json")));
    // A demo has one key for all.
    let mut seen = BTreeSet::new();
    files.retain(|(_, path)| seen.insert(path.clone()));
    files.into_iter().filter_map(|(name, path)| secret(name, &path)).collect()
}

/// `None`: there is no such file yet.
fn secret(name: &str, path: &Path) -> Option<Finding> {
    match fs::metadata(path) {
        Ok(metadata) => Some(judge_secret(name, path, metadata.mode() & 0o7777, metadata.uid() == 0)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => Some(Finding::unknown(format!("{name}, {}: {error}", path.display()))),
    }
}

/// libpq's rule for keys: 0600, or 0640 for a file of root.
fn judge_secret(name: &str, path: &Path, mode: u32, of_root: bool) -> Finding {
    let allowed = if of_root { 0o640 } else { 0o600 };
    let path = path.display();
    if mode & 0o077 & !allowed == 0 {
        return Finding::ok(format!("{name} is closed to others ({path}, {mode:04o})"));
    }
    Finding::error(
        format!("{name} may be read by others ({path}, mode {mode:04o})"),
        "who has it can speak for this node; and pgherd refuses the file at its next start",
        format!("chmod 600 {path}; make a new one if a stranger may have read it"),
    )
}

pub(super) fn folders(subject: &Subject) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Some(worker) = &subject.worker {
        let server = worker.server();
        let (layout, account) = (&server.layout, &server.account);
        match fs::metadata(&layout.data) {
            Ok(metadata) => {
                findings.push(judge_data(
                    &layout.data,
                    metadata.mode() & 0o7777,
                    metadata.uid(),
                    account.uid,
                ));
            }
            Err(error) => {
                findings.push(Finding::unknown(format!(
                    "the data directory, {}: {error}",
                    layout.data.display()
                )));
            }
        }
        let closed = Layout::closed_on_the_way(&layout.dir, account.uid);
        findings.push(judge_way(&layout.dir, closed, &account.name));
    }
    if let Some(folder) = &subject.config.proxy.socket_dir {
        findings
            .push(judge_sockets(folder, fs::metadata(folder).map(|metadata| metadata.mode() & 0o7777).ok()));
    }
    findings
}

/// PostgreSQL starts with 0700 and 0750 only, and in a directory of its own user.
fn judge_data(data: &Path, mode: u32, owner: u32, user: u32) -> Finding {
    let shown = data.display();
    match mode {
        _ if owner != user => Finding::error(
            format!("the data directory belongs to user {owner}, PostgreSQL runs as {user} ({shown})"),
            "PostgreSQL refuses to start there",
            format!("chown -R {user} {shown}"),
        ),
        0o700 | 0o750 => Finding::ok(format!("the data directory has mode {mode:04o} ({shown})")),
        _ => Finding::error(
            format!("the data directory has mode {mode:04o} ({shown})"),
            "PostgreSQL starts with 0700 or 0750 only: the next restart would fail",
            format!("chmod 700 {shown}"),
        ),
    }
}

fn judge_way(dir: &Path, closed: Option<PathBuf>, user: &str) -> Finding {
    let Some(closed) = closed else {
        return Finding::ok(format!("{user} can enter [node] dir ({})", dir.display()));
    };
    let closed = closed.display();
    Finding::error(
        format!("{closed} is closed to the user {user}, as whom PostgreSQL runs"),
        "the next start of PostgreSQL would fail",
        format!("chmod o+x {closed}"),
    )
}

/// `mode` of `None`: there is no such folder.
fn judge_sockets(folder: &Path, mode: Option<u32>) -> Finding {
    let shown = folder.display();
    match mode {
        Some(mode) if mode & 0o001 != 0 => {
            Finding::ok(format!("clients can enter [proxy] socket_dir ({shown})"))
        }
        Some(mode) => Finding::warning(
            format!("[proxy] socket_dir has mode {mode:04o} ({shown})"),
            "clients of other users cannot reach the proxy's sockets",
            format!("chmod o+x {shown}"),
        ),
        None => Finding::error(
            format!("[proxy] socket_dir is not there ({shown})"),
            "nobody reaches the proxy's sockets, and pgherd's next start fails",
            format!("mkdir {shown}, then: pgherd relaunch"),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Mark;
    use super::*;

    #[test]
    fn a_secret_is_for_its_owner_and_roots_for_a_group() {
        let path = Path::new("/k");
        for (mode, of_root, mark) in [
            (0o600, false, Mark::Ok),
            (0o400, false, Mark::Ok),
            (0o640, true, Mark::Ok),
            (0o640, false, Mark::Error),
            (0o644, true, Mark::Error),
        ] {
            assert_eq!(judge_secret("the key", path, mode, of_root).mark, mark, "{mode:o}");
        }
        assert!(judge_secret("the key", path, 0o644, false).next.unwrap().starts_with("chmod 600 /k"));
    }

    #[test]
    fn folders_are_as_postgresql_wants_them() {
        let data = Path::new("/d");
        assert_eq!(judge_data(data, 0o700, 5, 5).mark, Mark::Ok);
        assert_eq!(judge_data(data, 0o750, 5, 5).mark, Mark::Ok);
        assert_eq!(judge_data(data, 0o755, 5, 5).mark, Mark::Error);
        assert_eq!(judge_data(data, 0o700, 0, 5).mark, Mark::Error);
        assert_eq!(judge_way(data, None, "postgres").mark, Mark::Ok);
        assert_eq!(judge_way(data, Some("/root".into()), "postgres").next.unwrap(), "chmod o+x /root");
        assert_eq!(judge_sockets(data, Some(0o755)).mark, Mark::Ok);
        assert_eq!(judge_sockets(data, Some(0o700)).mark, Mark::Warning);
        assert_eq!(judge_sockets(data, None).mark, Mark::Error);
    }
}
