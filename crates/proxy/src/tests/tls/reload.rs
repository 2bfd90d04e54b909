//! Certificates that change while the proxy runs.

use std::os::unix::fs::PermissionsExt;

use super::super::fake::{Manner, Server};
use super::*;

/// The certificate that a new client is shown.
async fn shown(stand: &Stand, authority: &Authority) -> CertificateDer<'static> {
    let stream = encrypted(stand.read_write(), authority.trusting()).await.unwrap();
    stream.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn new_files_are_taken_and_bad_ones_are_not() {
    let authority = Authority::new();
    let server = Server::new(Manner::Trusting).await;
    let tls = authority.front(ClientTlsMode::Require);
    let stand = Stand::new(ProxyConfig { tls, ..config() }, topology(1, Some(&server.address), &[])).await;
    let first = shown(&stand, &authority).await;
    let mut old = encrypted(stand.read_write(), authority.trusting()).await.unwrap();
    log_in(&mut old).await;

    // A key of another certificate: what is in force stays, and is served on.
    let key = std::fs::read(authority.file("proxy.key")).unwrap();
    std::fs::write(authority.file("proxy.key"), KeyPair::generate().unwrap().serialize_pem()).unwrap();
    tokio::time::sleep(Duration::from_millis(4500)).await;
    assert_eq!(shown(&stand, &authority).await, first);
    std::fs::write(authority.file("proxy.key"), key).unwrap();

    authority.issue("proxy", &["localhost", "127.0.0.1"]);
    soon(async {
        while shown(&stand, &authority).await == first {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    old.write_all(&query("SELECT 1")).await.unwrap();
    rows(&mut old).await;
    assert_eq!(stand.proxy.counts().cuts, 0);
}

#[tokio::test]
async fn a_proxy_does_not_start_with_files_that_it_cannot_use() {
    let authority = Authority::new();
    let tls = authority.front(ClientTlsMode::Allow);
    let (cert, key) = (authority.file("proxy.crt"), authority.file("proxy.key"));
    let message = async |tls: &TlsConfig| {
        let (_sender, receiver) = watch::channel(topology(1, None, &[]));
        let config = ProxyConfig { tls: tls.clone(), ..config() };
        Proxy::start(config, receiver, Questions::default()).await.err().map(|error| error.to_string())
    };
    assert_eq!(message(&tls).await, None);
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
    let path = key.display();
    assert_eq!(
        message(&tls).await.unwrap(),
        format!(
            "TLS of the proxy: {path} may be read by others (mode 0644), so the key may be known to them; make new ones, \
             or type: chmod 600 {path}"
        )
    );
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
    std::fs::write(&key, KeyPair::generate().unwrap().serialize_pem()).unwrap();
    let mismatch = format!("the key in {path} does not belong to the certificate in {}", cert.display());
    assert!(message(&tls).await.unwrap().contains(&mismatch));
    std::fs::write(&cert, "nothing").unwrap();
    assert!(message(&tls).await.unwrap().contains("holds no certificate in PEM form"));
    let mut missing = tls.clone();
    if let Some(client) = &mut missing.client {
        client.client_ca = Some(authority.file("missing"));
    }
    assert!(message(&missing).await.is_some());
}
