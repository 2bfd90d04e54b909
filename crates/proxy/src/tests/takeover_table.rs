//! The table of docs/concepts/sessions.md: what a client sees when the primary changes. A test per row, for both columns.

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use wire::startup::startup_packet;

use super::fake::{Client, Manner, Server, Told};
use super::login::{Known, impostor};
use super::two::{Two, frame, held, later, mode, queries, query};
use super::*;

const MODES: [PoolMode; 2] = [PoolMode::Session, PoolMode::Transaction];

/// Both columns, the planned change first, in both modes.
fn columns() -> impl Iterator<Item = (PoolMode, bool)> {
    MODES.into_iter().flat_map(|mode| [(mode, true), (mode, false)])
}

/// Nobody waits long.
fn hasty(pool_mode: PoolMode) -> ProxyConfig {
    let short = Duration::from_millis(300);
    ProxyConfig { queue_timeout: short, connect_timeout: short, ..mode(pool_mode) }
}

fn says_why(told: &Told, why: &str) {
    assert_eq!(told.sqlstate, "57P01", "{told:?}");
    assert!(told.text.contains("could not be moved because of") && told.text.contains(why), "{told:?}");
}

#[tokio::test]
async fn idle_without_a_server() {
    for planned in [true, false] {
        let (two, first) = Two::of(mode(PoolMode::Transaction)).await;
        let mut clients = vec![first];
        for _ in 1..5 {
            clients.push(Client::login(two.stand.read_write()).await);
        }
        two.begin(planned).await;
        for client in &mut clients {
            client.send("SELECT 1").await;
        }
        if planned {
            two.parked(5).await;
        }
        two.end(planned).await;
        for client in &mut clients {
            client.ready().await.unwrap();
        }
        assert_eq!(queries(&two.new), ["SELECT 1"; 5]);
        assert!(queries(&two.old).is_empty());
        assert_eq!(two.stand.proxy.counts().cuts, 0);
    }
}

#[tokio::test]
async fn idle_and_movable() {
    for planned in [true, false] {
        for asks in [true, false] {
            let (two, mut client) = Two::of(config()).await;
            for sql in ["SELECT 1", "BEGIN", "COMMIT"] {
                client.query(sql).await.unwrap();
            }
            two.begin(planned).await;
            if planned {
                two.parked(1).await;
            }
            if asks {
                client.send("SELECT asked").await;
            }
            two.end(planned).await;
            match asks {
                true => client.ready().await.unwrap(),
                false => two.moved(1).await,
            }
            client.query("SELECT 2").await.unwrap();
            let asked = if asks { &["SELECT asked", "SELECT 2"][..] } else { &["SELECT 2"] };
            assert_eq!(queries(&two.new), asked);
            assert_eq!(queries(&two.old).len(), 3);
            let counts = two.stand.proxy.counts();
            assert_eq!((counts.moved, counts.cuts, counts.parked), (1, 0, 0));
        }
    }
}

#[tokio::test]
async fn idle_and_not_movable() {
    for (manner, before, why) in [
        (Manner::Asking, &["SELECT 1"][..], "a login with a secret"),
        (Manner::Trusting, &["LISTEN x"], "LISTEN"),
        (Manner::Trusting, &["BEGIN", "LISTEN x", "COMMIT"], "LISTEN"),
        (Manner::Trusting, &["SELECT pg_advisory_lock(1)"], "advisory lock"),
    ] {
        for (pool_mode, planned) in columns() {
            let two = Two::with(mode(pool_mode)).await;
            two.old.manner.send_replace(manner);
            let mut client = Client::knock(two.stand.read_write()).await;
            if manner == Manner::Asking {
                client.send_bytes(&frame(b'p', b"secret\0")).await;
            }
            client.ready().await.unwrap();
            for sql in before {
                client.query(sql).await.unwrap();
            }
            if planned {
                two.hold();
                two.parked(1).await;
                two.stop();
            } else {
                two.take_over();
            }
            says_why(&client.last_words().await, why);
            assert_eq!((two.new.logins(), two.stand.proxy.counts().cuts), (0, 1));
        }
    }
}

#[tokio::test]
async fn in_a_transaction() {
    for pool_mode in MODES {
        let (two, mut client) = Two::with_asked(pool_mode, &["BEGIN"], "INSERT hang").await;
        two.hold();
        two.old.answers.send_replace(true);
        client.ready().await.unwrap();
        client.query("COMMIT").await.unwrap();
        client.send("BEGIN").await;
        two.parked(1).await;
        assert_eq!(queries(&two.old), ["BEGIN", "INSERT hang", "COMMIT"]);
        two.switch_over().await;
        client.ready().await.unwrap();
        assert_eq!(queries(&two.new), ["BEGIN"]);
        client.query("COMMIT").await.unwrap();
        // What is left when the primary stops: that it does is heard from itself, or from the agent.
        for hears_it in [true, false] {
            let (two, mut client) = Two::of(mode(pool_mode)).await;
            client.query("BEGIN").await.unwrap();
            two.hold();
            if hears_it {
                two.stop()
            } else {
                two.close()
            }
            let told = client.last_words().await;
            let own = told.sqlstate == "57P01" && told.text.trim() == "the server says no";
            assert!(if hears_it { own } else { told.sqlstate == "40001" }, "{told:?}");
        }
        for last in ["INSERT", "INSERT hang"] {
            let (two, mut client) = Two::with_asked(pool_mode, &["BEGIN"], last).await;
            if last == "INSERT" {
                client.ready().await.unwrap();
            }
            assert_eq!(two.taken_over(&mut client).await, "40001", "{last}");
        }
    }
}

#[tokio::test]
async fn a_commit_or_a_statement_outside_a_transaction_under_way() {
    for pool_mode in MODES {
        for (before, last) in [(&["BEGIN", "INSERT"][..], "COMMIT hang"), (&[], "INSERT hang")] {
            let (two, mut client) = Two::with_asked(pool_mode, before, last).await;
            two.hold();
            two.old.answers.send_replace(true);
            client.ready().await.unwrap();
            two.ends_well_for(client).await;
            let (two, mut client) = Two::with_asked(pool_mode, before, last).await;
            assert_eq!(two.taken_over(&mut client).await, "08007", "{last}");
        }
    }
}

#[tokio::test]
async fn reading_the_start_up() {
    for planned in [true, false] {
        let two = Two::new().await;
        let packet = startup_packet(2, &[("user", "ann")]);
        let mut stream = TcpStream::connect(two.stand.read_write()).await.unwrap();
        stream.write_all(&packet[..6]).await.unwrap();
        two.stand.until(|counts| counts.sessions == 1).await;
        two.begin(planned).await;
        stream.write_all(&packet[6..]).await.unwrap();
        two.stand.until(|counts| counts.queued == 1).await;
        two.take_over();
        let mut client = Client { stream, key: Default::default(), notices: Vec::new() };
        client.ready().await.unwrap();
        assert_eq!((two.old.logins(), two.new.logins()), (0, 1));
    }
}

#[tokio::test]
async fn authenticating() {
    // The client has been asked by the server.
    for planned in [true, false] {
        let two = Two::new().await;
        two.old.manner.send_replace(Manner::Asking);
        let mut client = Client::knock(two.stand.read_write()).await;
        client.until(b'R').await;
        if planned {
            two.hold();
            client.send_bytes(&frame(b'p', b"secret\0")).await;
            client.ready().await.unwrap();
            two.parked(1).await;
            two.stop();
            says_why(&client.last_words().await, "a login with a secret");
        } else {
            assert_eq!(two.taken_over(&mut client).await, "57P01");
        }
    }
    // By the proxy, in the server's place; then nobody has asked yet.
    let known = Arc::new(Known::default());
    let zeros = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
    *known.0.lock().unwrap() = Some(format!("SCRAM-SHA-256$4096:c2FsdA==${zeros}:{zeros}"));
    let user = [("user", "postgres")];
    let (address, task) = impostor("c2FsdA==".to_owned(), false).await;
    let stand = Stand::knowing(config(), topology(1, Some(&address), &[]), known.clone()).await;
    let mut client = Client::knock_with(stand.read_write(), &user).await;
    client.until(b'R').await;
    stand.topology.send_replace(topology(2, None, &[]));
    assert_eq!(client.last_words().await.sqlstate, "57P01");
    task.abort();
    let (old, new) = (Server::new(Manner::Offering).await, Server::new(Manner::Trusting).await);
    let stand = Stand::knowing(config(), topology(1, Some(&old.address), &[]), known).await;
    let mut client = Client::knock_with(stand.read_write(), &user).await;
    old.until(|seen| seen.begun == 1).await;
    stand.topology.send_replace(topology(2, None, &[]));
    stand.until(|counts| counts.queued == 1).await;
    stand.topology.send_replace(topology(2, Some(&new.address), &[]));
    client.ready().await.unwrap();
}

#[tokio::test]
async fn connecting() {
    for (planned, comes) in [(true, true), (true, false), (false, true), (false, false)] {
        let two = Two::with(if comes { config() } else { hasty(PoolMode::Session) }).await;
        two.begin(planned).await;
        let mut client = Client::knock(two.stand.read_write()).await;
        if comes {
            two.stand.until(|counts| counts.queued == 1).await;
            two.take_over();
            client.ready().await.unwrap();
        } else {
            let told = client.last_words().await;
            let why = if planned { "A switchover is under way." } else { "A takeover is under way." };
            assert!(told.sqlstate == "57P03" && told.text.contains(why), "{told:?}");
        }
        assert_eq!(two.old.logins(), 0);
    }
}

#[tokio::test]
async fn a_copy_under_way() {
    for (pool_mode, before) in MODES.into_iter().flat_map(|mode| [(mode, &[][..]), (mode, &["BEGIN"])]) {
        let (two, mut client) = Two::with_asked(pool_mode, before, "COPY t FROM STDIN").await;
        client.until(b'G').await;
        two.hold();
        client.send_bytes(&[frame(b'd', b"row\n"), frame(b'c', b"")].concat()).await;
        client.ready().await.unwrap();
        if !before.is_empty() {
            client.query("COMMIT").await.unwrap();
        }
        two.ends_well_for(client).await;
        let (two, mut client) = Two::with_asked(pool_mode, before, "COPY t FROM STDIN").await;
        client.until(b'G').await;
        client.send_bytes(&frame(b'd', b"row\n")).await;
        let truth = if before.is_empty() { "08007" } else { "40001" };
        assert_eq!(two.taken_over(&mut client).await, truth, "{before:?}");
    }
}

#[tokio::test]
async fn a_message_half_sent_of_which_the_server_has_nothing() {
    for (pool_mode, planned) in columns() {
        let (two, mut client) = Two::of(mode(pool_mode)).await;
        let whole = query("INSERT");
        client.send_bytes(&whole[..9]).await;
        two.begin(planned).await;
        client.send_bytes(&whole[9..]).await;
        if planned {
            two.parked(1).await;
        }
        two.end(planned).await;
        client.ready().await.unwrap();
        assert_eq!((queries(&two.old).len(), queries(&two.new)), (0, vec!["INSERT".to_owned()]));
        assert_eq!(two.stand.proxy.counts().cuts, 0);
    }
}

/// Sends `first`, of which the server gets so many messages at least in part: after a switchover has begun the `rest` and what
/// else ends the transaction, to be answered; or what is told at a takeover.
async fn interrupted(
    pool_mode: PoolMode,
    before: &[&str],
    (first, messages): (&[u8], u32),
    rest: Option<&[u8]>,
) -> (Two, Client, String) {
    let (two, mut client) = Two::of(mode(pool_mode)).await;
    for sql in before {
        client.query(sql).await.unwrap();
    }
    let begun = two.old.seen.borrow().begun;
    client.send_bytes(first).await;
    two.old.until(|seen| seen.begun == begun + messages).await;
    let Some(rest) = rest else {
        let told = two.taken_over(&mut client).await;
        return (two, client, told);
    };
    two.hold();
    client.send_bytes(rest).await;
    client.ready().await.unwrap();
    if !before.is_empty() {
        client.query("COMMIT").await.unwrap();
    }
    (two, client, String::new())
}

#[tokio::test]
async fn a_message_half_sent_of_which_the_server_has_a_part() {
    let long = query(&format!("INSERT '{}'", "x".repeat(40_000)));
    let (first, rest) = long.split_at(39_000);
    for (pool_mode, before) in MODES.into_iter().flat_map(|mode| [(mode, &[][..]), (mode, &["BEGIN"])]) {
        let (two, mut client, _) = interrupted(pool_mode, before, (first, 1), Some(rest)).await;
        assert_eq!(queries(&two.old)[before.len()].len(), long.len() - 6);
        two.parked(1).await;
        two.stop();
        // Now it is idle, and not movable.
        says_why(&client.last_words().await, "a query text too long");
        let (.., told) = interrupted(pool_mode, before, (first, 1), None).await;
        assert_eq!(told, "40001", "{before:?}");
    }
}

#[tokio::test]
async fn a_pipeline_without_its_sync() {
    let (parse, sync) = (frame(b'P', b"\0INSERT\0\0\0"), frame(b'S', b""));
    let executes = [&parse[..], &frame(b'B', &[0; 8]), &frame(b'E', &[0; 5])].concat();
    for pool_mode in MODES {
        for (before, first, messages, truth) in
            [(&[][..], &parse, 1, "40001"), (&["BEGIN"], &executes, 3, "40001"), (&[], &executes, 3, "08007")]
        {
            let (two, client, _) = interrupted(pool_mode, before, (first, messages), Some(&sync)).await;
            two.ends_well_for(client).await;
            let (.., told) = interrupted(pool_mode, before, (first, messages), None).await;
            assert_eq!(told, truth, "{before:?}");
        }
    }
}

#[tokio::test]
async fn on_a_replica() {
    for (pool_mode, planned) in columns() {
        for (last, truth) in [(None, "57P01"), (Some("BEGIN"), "40001"), (Some("SELECT hang"), "40001")] {
            let (one, other) = (Server::new(Manner::Trusting).await, Server::new(Manner::Trusting).await);
            let two = Two::with(mode(pool_mode)).await;
            let before = topology(1, Some(&two.old.address), &[&one.address]);
            two.stand.topology.send_replace(before.clone());
            let mut client = Client::login(two.stand.read_only()).await;
            client.query("SELECT 1").await.unwrap();
            // It is read from all the time.
            let begun = if planned { held(before, later()) } else { before };
            let closed = Topology { primary: None, ..begun.clone() };
            for seen in [begun, closed, topology(2, Some(&two.new.address), &[&one.address])] {
                two.stand.topology.send_replace(seen);
                client.query("SELECT 1").await.unwrap();
                Client::login(two.stand.read_only()).await.query("SELECT 1").await.unwrap();
            }
            // It is the one that is promoted.
            if let Some(last) = last {
                client.send(last).await;
                one.until(|seen| seen.queries.iter().any(|sql| sql == last)).await;
            }
            if last == Some("BEGIN") {
                client.ready().await.unwrap();
            }
            two.stand.topology.send_replace(topology(3, Some(&one.address), &[&other.address]));
            if last.is_none() && pool_mode == PoolMode::Transaction {
                client.query("SELECT 2").await.unwrap();
                assert_eq!(queries(&other), ["SELECT 2"]);
            } else {
                assert_eq!(client.last_words().await.sqlstate, truth, "{pool_mode:?} {last:?}");
            }
        }
    }
}

#[tokio::test]
async fn no_new_primary_within_queue_timeout() {
    for (pool_mode, planned) in columns() {
        let (two, mut client) = Two::of(hasty(pool_mode)).await;
        two.begin(planned).await;
        if planned {
            two.stop();
            two.close();
        }
        if pool_mode == PoolMode::Transaction {
            client.send("SELECT 1").await;
        }
        let told = client.last_words().await;
        let why = told.text.contains("no primary took the session") && told.text.contains("is under way.");
        assert!(told.sqlstate == "57P01" && why, "{pool_mode:?} {planned} {told:?}");
    }
}
