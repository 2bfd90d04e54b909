//! The section `[http]`: where the HTTP server listens, and who may change something there.

use std::path::{Path, PathBuf};

use super::draft::Draft;
use super::model::quote;

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Http {
    pub listen: String,
    pub port: u16,
    /// `None`: in clear.
    pub tls: Option<HttpTls>,
    /// The file of users; `None`: there are none.
    pub users: Option<PathBuf>,
    /// Who comes from this machine needs no user.
    pub trusts_loopback: bool,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HttpTls {
    pub cert: PathBuf,
    pub key: PathBuf,
}

pub(super) fn from_draft(draft: &Draft, listen: String, port: u16) -> Http {
    let path = |key| draft.text(key).map(PathBuf::from);
    let tls = path("http.cert").zip(path("http.key")).map(|(cert, key)| HttpTls { cert, key });
    let trusts_loopback = draft.text("http.loopback") != Some("users");
    Http { listen, port, tls, users: path("http.users"), trusts_loopback }
}

/// As [`Config::written`](super::Config).
pub(super) fn written(http: &Http, key: &str) -> Option<String> {
    let path = |path: &Path| Some(quote(&path.to_string_lossy()));
    match key {
        "http.listen" => Some(quote(&http.listen)),
        "http.port" => Some(http.port.to_string()),
        "http.cert" => path(&http.tls.as_ref()?.cert),
        "http.key" => path(&http.tls.as_ref()?.key),
        "http.users" => path(http.users.as_ref()?),
        "http.loopback" => Some(quote(if http.trusts_loopback { "trust" } else { "users" })),
        _ => None,
    }
}

/// A certificate and its key go together, nobody is locked out of changes altogether, and a password is not sent in clear.
pub(super) fn check(draft: &mut Draft) {
    let has = |draft: &Draft, key: &str| {
        draft.text(key).is_some() || draft.refused.iter().any(|refused| refused == key)
    };
    for (key, other) in [("http.cert", "http.key"), ("http.key", "http.cert")] {
        if draft.text(key).is_some() && !has(draft, other) {
            draft.problem_with(key, format!("{key} is of no use without {other}; add it"));
        }
    }
    if draft.text("http.loopback") == Some("users") && !has(draft, "http.users") {
        let text = "http.loopback = \"users\" without http.users lets nobody change anything; add http.users";
        draft.problem_with("http.loopback", text);
    }
    let listen = draft.text("http.listen").unwrap_or_default();
    let is_local =
        listen == "localhost" || listen.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback());
    if has(draft, "http.users") && !is_local && !has(draft, "http.cert") {
        let text = format!(
            "http.users: passwords would cross the network in clear, since http.listen is {listen:?}; add http.cert and http.key, \
             or listen on 127.0.0.1"
        );
        draft.problem_with("http.users", text);
    }
}
