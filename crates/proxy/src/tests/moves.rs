//! Sessions that are held, moved to another server, or answered with the truth; by their state: `takeover_table`.

use std::pin::Pin;
use std::time::Duration;

use tokio::time::Instant;

use super::fake::{Client, Manner, Server};
use super::two::{Two, held, queries};
use super::*;

#[tokio::test]
async fn the_key_of_the_old_server_means_the_new_one() {
    let two = Two::new().await;
    let mut client = Client::login(two.stand.read_write()).await;
    two.take_over();
    two.moved(1).await;
    client.send("SELECT hang").await;
    two.new.until(|seen| seen.queries.len() == 1).await;
    client.cancel(two.stand.read_only()).await;
    two.new.until(|seen| seen.cancels.len() == 1).await;
    assert_ne!(
        two.new.seen.borrow().cancels[0].1,
        client.key.lock().unwrap()[4..],
        "the new server's own key"
    );
    assert!(two.old.seen.borrow().cancels.is_empty());
}

#[tokio::test]
async fn settings_and_prepared_statements_go_along() {
    let two = Two::new().await;
    let mut client = Client::login(two.stand.read_write()).await;
    client.query("SET a = 1").await.unwrap();
    client.prepare("s", "SELECT $1").await.unwrap();
    client.prepare("", "SELECT 0").await.unwrap();
    two.take_over();
    two.moved(1).await;
    assert_eq!(queries(&two.new), ["SET a = 1", "s: SELECT $1", ": SELECT 0"]);
    client.query("SELECT 2").await.unwrap();
}

#[tokio::test]
async fn a_server_that_will_not_have_the_session_is_named() {
    for (manner, why) in [(Manner::Asking, "secret"), (Manner::Refusing("28000"), "the server says no")] {
        let two = Two::new().await;
        let mut client = Client::login(two.stand.read_write()).await;
        two.new.manner.send_replace(manner);
        two.take_over();
        let told = client.last_words().await;
        assert_eq!(told.sqlstate, "57P01");
        assert!(told.text.contains("did not take the session") && told.text.contains(why), "{told:?}");
    }
}

#[tokio::test]
async fn a_pipeline_is_held_between_two_transactions() {
    let two = Two::new().await;
    let mut client = Client::login(two.stand.read_write()).await;
    client.query("BEGIN").await.unwrap();
    two.hold();
    let mut out = Vec::new();
    for sql in ["INSERT\0", "COMMIT\0", "SELECT after\0"] {
        wire::message::put_frame(&mut out, b'Q', sql.as_bytes());
    }
    tokio::io::AsyncWriteExt::write_all(&mut client.stream, &out).await.unwrap();
    client.ready().await.unwrap();
    client.ready().await.unwrap();
    two.stand.until(|counts| counts.parked == 1).await;
    assert_eq!(queries(&two.old), ["BEGIN", "INSERT", "COMMIT"]);
    two.take_over();
    client.ready().await.unwrap();
    assert_eq!(queries(&two.new), ["SELECT after"]);
}

#[tokio::test]
async fn a_hold_ends_by_itself_or_by_word() {
    let two = Two::new().await;
    let mut client = Client::login(two.stand.read_write()).await;
    let until = Instant::now() + Duration::from_millis(300);
    two.stand.topology.send_replace(held(topology(1, Some(&two.old.address), &[]), until));
    let newcomer = tokio::spawn(Client::login(two.stand.read_write()));
    client.query("SELECT 1").await.unwrap();
    assert!(Instant::now() >= until, "not before");
    let _newcomer = soon(newcomer).await.unwrap();
    two.hold();
    two.stand.until(|counts| counts.parked == 2).await;
    client.send("SELECT 2").await;
    two.stand.topology.send_replace(topology(1, Some(&two.old.address), &[]));
    client.ready().await.unwrap();
    assert_eq!(queries(&two.old), ["SELECT 1", "SELECT 2"]);
    assert_eq!(two.stand.proxy.counts().moved, 0);
}

#[tokio::test]
async fn a_client_that_leaves_while_parked_leaves_nothing() {
    let two = Two::new().await;
    let client = Client::login(two.stand.read_write()).await;
    two.hold();
    two.stand.until(|counts| counts.parked == 1).await;
    drop(client);
    two.stand.until(|counts| counts.sessions == 0 && counts.parked == 0).await;
    two.old.until(|seen| seen.open == 0).await;
    let client = Client::login(two.stand.read_write());
    two.stand.topology.send_replace(topology(1, Some(&two.old.address), &[]));
    let client = client.await;
    two.stand.topology.send_replace(topology(1, None, &[]));
    two.old.until(|seen| seen.open == 0).await;
    drop(client);
    two.stand.until(|counts| counts.sessions == 0).await;
}

#[tokio::test]
async fn an_idle_session_waits_for_its_server_to_come_back() {
    let two = Two::new().await;
    let mut client = Client::login(two.stand.read_write()).await;
    // It is gone before anybody says so, and comes back as it was.
    two.old.manner.send_replace(Manner::Refusing("57P03"));
    two.old.ends.send_replace(Some("57P02"));
    two.old.until(|seen| seen.open == 0 && seen.logins > 2).await;
    two.old.ends.send_replace(None);
    two.old.manner.send_replace(Manner::Trusting);
    client.query("SELECT again").await.unwrap();
    assert_eq!(two.stand.proxy.counts().moved, 1);
}

#[tokio::test]
async fn a_session_that_somebody_ended_is_ended() {
    let two = Two::new().await;
    let mut client = Client::login(two.stand.read_write()).await;
    two.old.ends.send_replace(Some("57P01"));
    let told = client.last_words().await;
    assert_eq!((told.sqlstate.as_str(), told.text.trim()), ("57P01", "the server says no"));
    assert_eq!(two.stand.proxy.counts().moved, 0);
}

#[tokio::test]
async fn a_session_that_has_said_good_bye_is_not_moved() {
    let two = Two::new().await;
    let mut client = Client::login(two.stand.read_write()).await;
    let mut out = Vec::new();
    wire::message::put_frame(&mut out, b'X', b"");
    tokio::io::AsyncWriteExt::write_all(&mut client.stream, &out).await.unwrap();
    two.stand.until(|counts| counts.sessions == 0).await;
    // The same for one whose server has said why it ends: not by a shutdown.
    let mut client = Client::login(two.stand.read_write()).await;
    two.old.ends.send_replace(Some("57P05"));
    assert_eq!(client.last_words().await.sqlstate, "57P05");
    two.stand.until(|counts| counts.sessions == 0).await;
    assert_eq!((two.old.logins(), two.stand.proxy.counts().moved), (2, 0));
}

#[tokio::test]
async fn a_renewed_term_disturbs_nobody() {
    let two = Two::new().await;
    let mut busy = Client::login(two.stand.read_write()).await;
    busy.query("BEGIN").await.unwrap();
    let renewed = Topology { timeline: 1, ..topology(2, Some(&two.old.address), &[]) };
    two.stand.topology.send_replace(renewed);
    busy.query("INSERT").await.unwrap();
    busy.query("COMMIT").await.unwrap();
    two.take_over();
    two.moved(1).await;
    assert_eq!(two.stand.proxy.counts().cuts, 0);
}

#[tokio::test]
async fn a_cancelled_wait_is_never_told_as_success() {
    let two = Two::new().await;
    let mut client = Client::login(two.stand.read_write()).await;
    let told = client.query("INSERT lie").await.unwrap_err();
    assert_eq!(told.sqlstate, "08007");
    assert!(told.text.contains("wait for synchronous replication was cancelled"), "{told:?}");
    client.ready().await.expect("ReadyForQuery follows the error");
    client.query("SELECT 1").await.unwrap();
    assert_eq!(two.stand.proxy.counts().unacknowledged, 1);
}

/// Answers each question alike.
struct Says(Option<bool>);

impl SyncWaits for Says {
    fn waits<'a>(&'a self, _: &'a str, pid: u32) -> Pin<Box<dyn Future<Output = Option<bool>> + Send + 'a>> {
        assert_eq!(pid, 9);
        Box::pin(std::future::ready(self.0))
    }
}

#[tokio::test]
async fn a_statement_that_may_have_committed_is_cancelled_only_after_a_question() {
    for (says, reaches) in [(Some(false), true), (Some(true), false), (None, false)] {
        let server = Server::new(Manner::Trusting).await;
        let stand =
            Stand::with(config(), topology(1, Some(&server.address), &[]), Some(Arc::new(Says(says)))).await;
        let mut client = Client::login(stand.read_write()).await;
        client.send("INSERT hang").await;
        server.until(|seen| seen.queries.len() == 1).await;
        client.cancel(stand.read_write()).await;
        stand.until(|counts| counts.cancels + counts.withheld_cancels == 1).await;
        let sent = server.seen.borrow().cancels.len();
        assert_eq!((sent == 1, stand.proxy.counts().cancels == 1), (reaches, reaches), "{says:?}");
        // Inside a transaction nothing can commit by itself: no question.
        let mut client = Client::login(stand.read_write()).await;
        client.query("BEGIN").await.unwrap();
        client.send("INSERT hang").await;
        server.until(|seen| seen.queries.len() == 3).await;
        client.cancel(stand.read_write()).await;
        server.until(|seen| seen.cancels.len() == sent + 1).await;
    }
}

#[tokio::test]
async fn a_lowered_synchronous_commit_is_refused_or_warned_of() {
    let server = Server::new(Manner::Trusting).await;
    let start = |lowered_commit| {
        Stand::new(ProxyConfig { lowered_commit, ..config() }, topology(1, Some(&server.address), &[]))
    };
    let lowered = [("user", "ann"), ("options", "-c synchronous_commit=off")];
    let stand = start(LoweredCommit::Forbid).await;
    let told = Client::knock_with(stand.read_write(), &lowered).await.last_words().await;
    assert_eq!(told.sqlstate, "42501");
    assert!(told.text.contains("lowered_commit"), "{told:?}");
    let mut client = Client::login(stand.read_write()).await;
    client.query("SET synchronous_commit = off").await.unwrap();
    client.prepare("s", "SET synchronous_commit = local").await.unwrap();
    client.query("SET synchronous_commit = on").await.unwrap();
    let seen = queries(&server);
    assert!(seen[0].starts_with("DO ") && seen[1].starts_with("s: DO "), "{seen:?}");
    assert_eq!(seen[2], "SET synchronous_commit = on");
    let stand = start(LoweredCommit::Warn).await;
    let mut client = Client::knock_with(stand.read_write(), &lowered).await;
    client.ready().await.unwrap();
    client.query("SET synchronous_commit = off").await.unwrap();
    assert_eq!(stand.proxy.counts().lowered_commits, 2);
    assert_eq!(client.notices, ["01000", "01000"]);
}
