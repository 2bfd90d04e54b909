//! How long certificates are still valid. The files are read: what is in force may be older, until it is taken anew.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use proxy::tls::certificates;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::Subject;
use super::finding::Finding;

const DAY: i64 = 86_400;
/// Time for somebody to make new ones in working hours, and for who is on holiday.
const WARNING_DAYS: i64 = 30;
const ERROR_DAYS: i64 = 7;

const FOR_PEERS: &str = "pgherd certs renew --authority DIR --config FILE, on the node's machine";
const READ_ANEW: &str = "put a new one in its place; it is read anew within seconds";

pub(super) fn ages(subject: &Subject) -> Vec<Finding> {
    let config = &subject.config;
    let peers = "the nodes cannot talk to each other any more when it has expired: no takeover, no writes";
    let clients = "clients refuse the connection when it has expired";
    let file = |name, path: &PathBuf, why, next| (name, path.clone(), why, next);
    let mut files = vec![
        file("the node's certificate", &config.tls.cert, peers, FOR_PEERS),
        file("the cluster's authority", &config.tls.ca, peers, FOR_PEERS),
    ];
    if let Some(tls) = &config.http.tls {
        files.push(file("the HTTP server's certificate", &tls.cert, clients, READ_ANEW));
    }
    if let Some(tls) = &config.proxy.tls.client {
        files.push(file("the proxy's certificate", &tls.cert, clients, READ_ANEW));
        if let Some(ca) = &tls.client_ca {
            let why = "clients with its certificates are refused when it has expired";
            files.push(file("the authority of clients", ca, why, READ_ANEW));
        }
    }
    if let Some(ca) = &config.proxy.tls.server.ca {
        let why = "the proxy refuses PostgreSQL's certificates when it has expired";
        files.push(file("the authority of servers", ca, why, READ_ANEW));
    }
    // A demo has one certificate for all.
    let mut seen = BTreeSet::new();
    files.retain(|(_, path, ..)| seen.insert(path.clone()));
    let now = crate::clock::wall().as_second();
    let one = |(name, path, why, next): (&str, PathBuf, &str, &str)| match ends(&path) {
        Ok(end) => judge(name, &path, end - now, why, next),
        Err(reason) => {
            Finding::error(format!("{name} cannot be read ({}): {reason}", path.display()), why, next)
        }
    };
    files.into_iter().map(one).collect()
}

/// When the first of a file's certificates ends, in seconds since 1970.
fn ends(path: &Path) -> Result<i64, String> {
    let found = certificates(path).map_err(|error| error.to_string())?;
    let mut ends = Vec::new();
    for certificate in &found {
        let (_, parsed) = X509Certificate::from_der(certificate).map_err(|error| error.to_string())?;
        ends.push(parsed.validity().not_after.timestamp());
    }
    ends.into_iter().min().ok_or_else(|| "it holds no certificate".to_owned())
}

/// `left` in seconds; negative when it has expired.
fn judge(name: &str, path: &Path, left: i64, why: &str, next: &str) -> Finding {
    let (days, path) = (left.div_euclid(DAY), path.display());
    match days {
        ..0 => Finding::error(format!("{name} has expired {} days ago ({path})", -days), why, next),
        0..ERROR_DAYS => Finding::error(format!("{name} expires in {days} days ({path})"), why, next),
        ERROR_DAYS..WARNING_DAYS => {
            Finding::warning(format!("{name} expires in {days} days ({path})"), why, next)
        }
        _ => Finding::ok(format!("{name} is valid for {days} days ({path})")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Mark;
    use super::*;
    use crate::peer::certificates::{create_authority, issue};

    #[test]
    fn days_left_decide() {
        for (days, mark) in [
            (-1, Mark::Error),
            (0, Mark::Error),
            (6, Mark::Error),
            (7, Mark::Warning),
            (29, Mark::Warning),
            (30, Mark::Ok),
        ] {
            assert_eq!(judge("it", Path::new("/c"), days * DAY + 60, "w", "n").mark, mark, "{days}");
        }
        assert!(judge("it", Path::new("/c"), -60, "w", "n").what.contains("expired 1 days ago"));
    }

    #[test]
    fn the_end_is_read_from_the_file() {
        let dir = tempfile::tempdir().unwrap();
        create_authority(dir.path(), "demo").unwrap();
        issue(dir.path(), "n1", dir.path()).unwrap();
        let left = ends(&dir.path().join("node.crt")).unwrap() - crate::clock::wall().as_second();
        assert!(left > 9 * 365 * DAY, "{left}");
        assert!(ends(&dir.path().join("node.key")).is_err());
        assert!(ends(Path::new("/nonexistent")).is_err());
    }
}
