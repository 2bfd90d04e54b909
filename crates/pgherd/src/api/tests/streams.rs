//! The stream, and the files of the dashboard, over real sockets.

use std::io::{BufRead, BufReader};
use std::time::{Duration, Instant};

use super::super::stream::STREAMS_MAX;
use super::*;

/// For anything that a stream says or a server does here.
const PATIENCE: Duration = Duration::from_secs(20);

struct Reader(Box<dyn BufRead + Send>);

/// One message: its event, its id, its data.
#[derive(PartialEq, Eq, Debug, Default)]
struct Message {
    event: String,
    id: String,
    data: String,
}

impl Reader {
    fn open(base: &str, last: &str) -> Result<Reader, u16> {
        let config = ureq::Agent::config_builder().http_status_as_error(false).max_idle_connections(0);
        let agent: ureq::Agent = config.timeout_recv_body(Some(PATIENCE)).build().into();
        let mut question = agent.get(format!("{base}/api/v1/stream"));
        if !last.is_empty() {
            question = question.header("Last-Event-ID", last);
        }
        let answer = question.call().unwrap();
        match answer.status().as_u16() {
            200 => {
                assert_eq!(answer.headers()["content-type"], "text/event-stream");
                assert_eq!(answer.headers()["cache-control"], "no-store");
                Ok(Reader(Box::new(BufReader::new(answer.into_body().into_reader()))))
            }
            code => Err(code),
        }
    }

    /// `None` when the stream has ended.
    fn next(&mut self) -> Option<Message> {
        let mut message = Message::default();
        for line in (&mut self.0).lines().map_while(Result::ok) {
            match line.split_once(": ") {
                Some(("event", event)) => message.event = event.to_owned(),
                Some(("id", id)) => message.id = id.to_owned(),
                Some(("data", data)) => message.data = data.to_owned(),
                _ if line.is_empty() && !message.data.is_empty() => return Some(message),
                _ => {}
            }
        }
        None
    }

    fn next_status(&mut self) -> StatusReport {
        loop {
            let message = self.next().expect("a status");
            if message.event == "status" {
                return serde_json::from_str(&message.data).unwrap();
            }
        }
    }
}

#[test]
fn the_status_comes_at_once_and_then_the_events_with_their_cursor() {
    with_server(report("n1"), |base| {
        let mut reader = Reader::open(base, "").unwrap();
        let first = reader.next().unwrap();
        assert_eq!((first.event.as_str(), first.id.as_str()), ("status", ""));
        assert_eq!(serde_json::from_str::<StatusReport>(&first.data).unwrap(), report("n1"));
        for id in 4_991..=5_000 {
            let message = reader.next().unwrap();
            assert_eq!((message.event, message.id), ("event".to_owned(), format!("n1={id}")));
            assert_eq!(serde_json::from_str::<EventRecord>(&message.data).unwrap().id, id);
        }
    });
}

#[test]
fn who_comes_back_is_told_what_he_missed() {
    with_server(report("n1"), |base| {
        let mut reader = Reader::open(base, "n1=4998").unwrap();
        assert_eq!(reader.next().unwrap().event, "status");
        assert_eq!([reader.next().unwrap().id, reader.next().unwrap().id], ["n1=4999", "n1=5000"]);
    });
}

#[test]
fn only_what_has_changed_is_told_again() {
    let view = Arc::new(Told::new(report("n1")));
    let told = view.clone();
    with_view(view, move |base| {
        let mut reader = Reader::open(base, "n1=5000").unwrap();
        reader.next_status();
        // An age is no news; the reader would be told of it first.
        told.report.lock().unwrap().nodes[1].last_contact_ms = Some(77);
        let begun = Instant::now();
        while begun.elapsed() < 3 * super::super::stream::LOOK_INTERVAL {
            std::thread::yield_now();
        }
        told.report.lock().unwrap().primary = None;
        let next = reader.next_status();
        assert_eq!((next.primary, next.nodes[1].last_contact_ms), (None, Some(77)));
    });
}

#[test]
fn there_is_a_seat_for_so_many_and_who_leaves_gives_his_back() {
    with_server(report("n1"), |base| {
        let mut readers: Vec<Reader> = (0..STREAMS_MAX).map(|_| Reader::open(base, "").unwrap()).collect();
        assert_eq!(Reader::open(base, "").err(), Some(503));
        readers.pop();
        let begun = Instant::now();
        while Reader::open(base, "").is_err() {
            assert!(begun.elapsed() < PATIENCE, "the seat was not given back");
        }
    });
}

#[test]
fn an_open_stream_ends_with_its_server() {
    let (ended, end) = std::sync::mpsc::sync_channel(1);
    with_server(report("n1"), move |base| {
        let mut reader = Reader::open(base, "").unwrap();
        reader.next_status();
        std::thread::spawn(move || {
            while reader.next().is_some() {}
            let _ = ended.send(());
        });
    });
    // The server has ended already, with the stream open.
    end.recv_timeout(PATIENCE).unwrap();
}

#[test]
fn the_dashboard_comes_with_its_policy_and_is_not_sent_twice() {
    with_server(report("n1"), |base| {
        let agent = agent();
        for (path, kind) in [
            ("/dashboard", "text/html; charset=utf-8"),
            ("/dashboard/", "text/html; charset=utf-8"),
            ("/dashboard/app.js", "text/javascript; charset=utf-8"),
            ("/dashboard/style.css", "text/css; charset=utf-8"),
            ("/dashboard/icon.svg", "image/svg+xml"),
        ] {
            let answer = agent.get(format!("{base}{path}")).call().unwrap();
            let header = |name: &str| answer.headers()[name].to_str().unwrap().to_owned();
            assert_eq!((answer.status().as_u16(), header("content-type").as_str()), (200, kind), "{path}");
            let policy = header("content-security-policy");
            assert!(policy.starts_with("default-src 'self';") && !policy.contains("unsafe"), "{policy}");
            assert!(policy.contains("frame-ancestors 'none'"), "{policy}");
            assert_eq!(
                (header("x-frame-options"), header("x-content-type-options")),
                ("DENY".into(), "nosniff".into())
            );
            let again = agent.get(format!("{base}{path}")).header("If-None-Match", header("etag"));
            assert_eq!(again.call().unwrap().status(), 304, "{path}");
        }
        for path in ["/dashboard/mod.rs", "/dashboard/..%2fmod.rs", "/dashboard/none.js"] {
            assert_eq!(agent.get(format!("{base}{path}")).call().unwrap().status(), 404, "{path}");
        }
    });
}
