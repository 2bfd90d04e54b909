//! Clients that come while there is no server for them.

use std::time::Duration;

use super::fake::{Client, Manner, Server};
use super::*;

#[tokio::test]
async fn clients_wait_for_a_primary() {
    let server = Server::new(Manner::Trusting).await;
    let stand = Stand::new(config(), topology(1, None, &[])).await;
    let address = stand.read_write();
    let clients: Vec<_> = (0..50).map(|_| tokio::spawn(Client::login(address))).collect();
    stand.until(|counts| counts.queued == 50).await;
    stand.topology.send_replace(topology(2, Some(&server.address), &[]));
    for client in clients {
        soon(client).await.unwrap().query("SELECT 1").await.unwrap();
    }
    stand.until(|counts| counts.queued == 0).await;
}

#[tokio::test]
async fn a_client_that_leaves_gives_its_place_back() {
    let stand = Stand::new(config(), topology(1, None, &[])).await;
    let client = Client::knock(stand.read_write()).await;
    stand.until(|counts| counts.queued == 1).await;
    drop(client);
    stand.until(|counts| counts.queued == 0 && counts.sessions == 0).await;
}

#[tokio::test]
async fn a_full_queue_refuses_at_once() {
    let stand = Stand::new(ProxyConfig { queue_max: 1, ..config() }, topology(1, None, &[])).await;
    let _waits = Client::knock(stand.read_write()).await;
    stand.until(|counts| counts.queued == 1).await;
    let told = Client::knock(stand.read_write()).await.last_words().await;
    assert_eq!(told.sqlstate, "53300");
    assert!(told.text.contains("queue"), "{told:?}");
    assert!(told.text.contains("A takeover is under way."), "{told:?}");
}

#[tokio::test]
async fn the_deadline_says_what_why_and_what_to_type() {
    let queue_timeout = Duration::from_millis(100);
    let stand = Stand::new(ProxyConfig { queue_timeout, ..config() }, topology(1, None, &[])).await;
    let told = Client::knock(stand.read_write()).await.last_words().await;
    assert_eq!(told.sqlstate, "57P03");
    let lines: Vec<&str> = told.text.lines().collect();
    assert_eq!(
        lines,
        [
            "no primary accepts connections within 0.1 s",
            "A takeover is under way.",
            "Run \"pgherd status\" to see the cluster."
        ]
    );
    assert_eq!(stand.proxy.counts().queue_timeouts, 1);
}

#[tokio::test]
async fn a_server_that_cannot_serve_yet_is_tried_again() {
    for manner in [Manner::Refusing("57P03"), Manner::Mute] {
        let server = Server::new(manner).await;
        let stand = Stand::new(config(), topology(1, Some(&server.address), &[])).await;
        let client = tokio::spawn(Client::login(stand.read_write()));
        server.until(|seen| seen.logins >= 2).await;
        server.manner.send_replace(Manner::Trusting);
        soon(client).await.unwrap().query("SELECT 1").await.unwrap();
    }
}

#[tokio::test]
async fn a_server_that_nobody_listens_for_is_named_in_the_error() {
    let gone = Server::new(Manner::Trusting).await.address.clone();
    let queue_timeout = Duration::from_millis(300);
    let stand = Stand::new(ProxyConfig { queue_timeout, ..config() }, topology(1, Some(&gone), &[])).await;
    let told = Client::knock(stand.read_write()).await.last_words().await;
    assert_eq!(told.sqlstate, "57P03");
    assert!(told.text.contains(&gone), "{told:?}");
}

#[tokio::test]
async fn a_refusal_of_pg_hba_is_shown_as_it_is() {
    let server = Server::new(Manner::Refusing("28000")).await;
    let stand = Stand::new(config(), topology(1, Some(&server.address), &[])).await;
    let told = Client::knock(stand.read_write()).await.last_words().await;
    assert_eq!((told.sqlstate.as_str(), told.text.trim()), ("28000", "the server says no"));
    assert_eq!(server.logins(), 1);
}

#[tokio::test]
async fn a_hung_server_is_not_stormed_and_left_when_the_topology_says_so() {
    let (hung, healthy) = (Server::new(Manner::Hung).await, Server::new(Manner::Trusting).await);
    let stand = Stand::new(config(), topology(1, Some(&hung.address), &[])).await;
    let address = stand.read_write();
    let clients: Vec<_> = (0..60).map(|_| tokio::spawn(Client::login(address))).collect();
    stand.until(|counts| counts.sessions == 60).await;
    hung.until(|seen| seen.logins == 32).await;
    stand.topology.send_replace(topology(2, Some(&healthy.address), &[]));
    for client in clients {
        soon(client).await.unwrap();
    }
    assert_eq!((hung.logins(), healthy.logins()), (32, 60), "32 openings at a time");
    hung.until(|seen| seen.open == 0).await;
}
