//! The section `[proxy_tls]`: TLS between the proxy, its clients and the servers.

use std::path::{Path, PathBuf};

use proxy::tls::{ClientTls, ClientTlsMode, ServerTls, ServerTlsMode, TlsConfig, TlsVersion};

use super::draft::Draft;
use super::model::quote;

/// Without a certificate there is no TLS with clients, whatever else is said of it.
pub(super) fn from_draft(draft: &Draft) -> TlsConfig {
    let path = |key| draft.text(key).map(PathBuf::from);
    let word = |key| draft.text(key).unwrap_or_default();
    let client = path("proxy_tls.cert").zip(path("proxy_tls.key")).map(|(cert, key)| ClientTls {
        mode: ClientTlsMode::of(word("proxy_tls.mode")),
        cert,
        key,
        client_ca: path("proxy_tls.client_ca"),
        min_version: TlsVersion::of(word("proxy_tls.min_version")),
    });
    let server =
        ServerTls { mode: ServerTlsMode::of(word("proxy_tls.server_mode")), ca: path("proxy_tls.server_ca") };
    TlsConfig { client, server }
}

/// As [`Config::written`](super::Config).
pub(super) fn written(tls: &TlsConfig, key: &str) -> Option<String> {
    let path = |path: &Path| Some(quote(&path.to_string_lossy()));
    let client = tls.client.as_ref();
    match key {
        "proxy_tls.server_mode" => Some(quote(tls.server.mode.as_str())),
        "proxy_tls.server_ca" => path(tls.server.ca.as_ref()?),
        "proxy_tls.mode" => Some(quote(client.map_or(ClientTlsMode::Allow, |client| client.mode).as_str())),
        "proxy_tls.min_version" => {
            Some(quote(client.map_or(TlsVersion::V12, |client| client.min_version).as_str()))
        }
        "proxy_tls.cert" => path(&client?.cert),
        "proxy_tls.key" => path(&client?.key),
        "proxy_tls.client_ca" => path(client?.client_ca.as_ref()?),
        _ => None,
    }
}

/// A certificate and its key go together, and nothing is verified without an authority.
pub(super) fn check(draft: &mut Draft) {
    let needs = |draft: &mut Draft, key: &str, other: &str, why: &str| {
        if draft.text(other).is_none() && !draft.refused.iter().any(|refused| refused == other) {
            draft.problem_with(key, format!("{key} {why} {other}; add it"));
        }
    };
    for (key, other) in [("proxy_tls.cert", "proxy_tls.key"), ("proxy_tls.key", "proxy_tls.cert")] {
        if draft.text(key).is_some() {
            needs(draft, key, other, "is of no use without");
        }
    }
    let mode = draft.text("proxy_tls.mode").unwrap_or_default().to_owned();
    if matches!(mode.as_str(), "require" | "verify-ca") {
        needs(draft, "proxy_tls.mode", "proxy_tls.cert", &format!("= \"{mode}\" needs"));
    }
    if mode == "verify-ca" {
        needs(draft, "proxy_tls.mode", "proxy_tls.client_ca", "= \"verify-ca\" needs");
    }
    let mode = draft.text("proxy_tls.server_mode").unwrap_or_default().to_owned();
    if mode.starts_with("verify") {
        needs(draft, "proxy_tls.server_mode", "proxy_tls.server_ca", &format!("= \"{mode}\" needs"));
    }
}
