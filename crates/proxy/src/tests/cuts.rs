//! Sessions whose server is taken away, and what they are told; at a takeover: `takeover_table`.

use std::time::{Duration, Instant};

use super::fake::{Client, Manner, Server};
use super::*;

#[tokio::test]
async fn nothing_is_put_into_the_middle_of_a_message() {
    let server = Server::new(Manner::Trusting).await;
    let stand = Stand::new(config(), topology(1, Some(&server.address), &[])).await;
    let mut client = Client::login(stand.read_write()).await;
    client.send("SELECT half").await;
    let mut seen = [0; 8];
    soon(tokio::io::AsyncReadExt::read_exact(&mut client.stream, &mut seen)).await.unwrap();
    stand.topology.send_replace(topology(1, None, &[]));
    let rest = soon(tokio::io::AsyncReadExt::read(&mut client.stream, &mut [0; 64])).await;
    assert_eq!(rest.unwrap_or(0), 0);
}

#[tokio::test]
async fn a_closed_primary_and_a_dead_server_are_cuts_too() {
    let server = Server::new(Manner::Trusting).await;
    let stand = Stand::new(config(), topology(1, Some(&server.address), &[])).await;
    let mut client = Client::login(stand.read_write()).await;
    client.query("BEGIN").await.unwrap();
    let told = client.query("INSERT die").await.unwrap_err();
    assert_eq!(told.sqlstate, "40001");
    let mut client = Client::login(stand.read_write()).await;
    let told = client.query("INSERT die").await.unwrap_err();
    assert_eq!(told.sqlstate, "08007");
    assert!(told.text.contains("node n1 closed the connection"), "{told:?}");
    let mut client = Client::login(stand.read_write()).await;
    client.query("LISTEN x").await.unwrap();
    stand.topology.send_replace(topology(1, None, &[]));
    let told = client.last_words().await;
    assert_eq!(told.sqlstate, "57P01");
    assert!(told.text.contains("A takeover is under way."), "{told:?}");
    assert!(told.text.contains("could not be moved because of LISTEN"), "{told:?}");
}

#[tokio::test]
async fn replicas_share_the_reads_and_survive_a_term() {
    let servers = [Server::new(Manner::Trusting).await, Server::new(Manner::Trusting).await];
    let primary = Server::new(Manner::Trusting).await;
    let [a, b] = servers.each_ref().map(|server| server.address.as_str());
    let stand = Stand::new(config(), topology(1, Some(&primary.address), &[a, b])).await;
    let mut clients = Vec::new();
    for _ in 0..6 {
        clients.push(Client::login(stand.read_only()).await);
    }
    assert_eq!(servers.each_ref().map(Server::logins), [3, 3]);
    stand.topology.send_replace(topology(2, Some(&primary.address), &[a]));
    servers[1].until(|seen| seen.open == 0).await;
    let mut lost = 0;
    for client in &mut clients {
        match client.query("SELECT 1").await {
            Ok(()) => {}
            Err(told) => {
                assert_eq!(told.sqlstate, "57P01");
                lost += 1;
            }
        }
    }
    assert_eq!(lost, 3, "those of the replica that stayed noticed nothing");
    assert_eq!(primary.logins(), 0);
}

#[tokio::test]
async fn a_replica_that_cannot_be_opened_is_left_out_and_taken_back() {
    let (ill, well) = (Server::new(Manner::Refusing("57P03")).await, Server::new(Manner::Trusting).await);
    let primary = Server::new(Manner::Trusting).await;
    let replicas = [ill.address.as_str(), well.address.as_str()];
    let stand = Stand::new(config(), topology(1, Some(&primary.address), &replicas)).await;
    let begun = Instant::now();
    let mut clients = Vec::new();
    for _ in 0..30 {
        clients.push(Client::login(stand.read_only()).await);
    }
    // The second attempt comes after a second, the third after two more, and so on.
    let attempts_max = 1 + (begun.elapsed().as_secs() + 2).ilog2();
    assert!((1..=attempts_max).contains(&ill.logins()), "{} attempts", ill.logins());
    assert_eq!((well.logins(), primary.logins()), (30, 0));
    ill.manner.send_replace(Manner::Trusting);
    let attempts = ill.logins();
    soon(async {
        while ill.logins() == attempts {
            drop(Client::login(stand.read_only()).await);
        }
    })
    .await;
}

#[tokio::test]
async fn when_all_replicas_are_left_out_and_there_is_no_primary_they_are_tried_all_the_same() {
    let ill = Server::new(Manner::Refusing("57P03")).await;
    let stand = Stand::new(config(), topology(1, None, &[&ill.address])).await;
    let waiting = tokio::spawn(Client::login(stand.read_only()));
    ill.until(|seen| seen.logins >= 2).await;
    ill.manner.send_replace(Manner::Trusting);
    soon(waiting).await.unwrap();
}

#[tokio::test]
async fn reads_fall_back_to_the_primary_and_then_follow_its_rule() {
    let primary = Server::new(Manner::Trusting).await;
    let gone = Server::new(Manner::Trusting).await.address.clone();
    let stand = Stand::new(config(), topology(1, Some(&primary.address), &[&gone])).await;
    let mut client = Client::login(stand.read_only()).await;
    client.query("LISTEN x").await.unwrap();
    assert_eq!(primary.logins(), 1);
    stand.topology.send_replace(topology(2, Some(&primary.address), &[]));
    assert_eq!(client.last_words().await.sqlstate, "57P01");
}

#[tokio::test]
async fn a_silent_publisher_is_a_cut() {
    let server = Server::new(Manner::Trusting).await;
    let stand = Stand::new(config(), topology(1, Some(&server.address), &[])).await;
    let mut client = Client::login(stand.read_write()).await;
    let Stand { proxy, topology } = stand;
    drop(topology);
    assert!(client.last_words().await.text.contains("agent"));
    let told = Client::knock(proxy.addresses().read_write).await.last_words().await;
    assert_eq!(told.sqlstate, "57P01");
}

#[tokio::test]
async fn a_shutdown_lets_transactions_end() {
    let server = Server::new(Manner::Trusting).await;
    let stand = Stand::new(config(), topology(1, Some(&server.address), &[])).await;
    let mut idle = Client::login(stand.read_write()).await;
    let mut busy = Client::login(stand.read_write()).await;
    busy.query("BEGIN").await.unwrap();
    let address = stand.read_write();
    let shutdown = tokio::spawn(stand.proxy.shutdown(PATIENCE));
    assert_eq!(idle.last_words().await.sqlstate, "57P01");
    busy.query("INSERT").await.unwrap();
    busy.query("COMMIT").await.unwrap();
    assert_eq!(busy.last_words().await.sqlstate, "57P01");
    soon(shutdown).await.unwrap();
    assert!(tokio::net::TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn a_shutdown_ends_in_any_case() {
    let server = Server::new(Manner::Trusting).await;
    let stand = Stand::new(config(), topology(1, Some(&server.address), &[])).await;
    let mut busy = Client::login(stand.read_write()).await;
    busy.query("BEGIN").await.unwrap();
    soon(stand.proxy.shutdown(Duration::from_millis(50))).await;
    assert_eq!(busy.last_words().await.sqlstate, "40001");
}
