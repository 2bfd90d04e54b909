//! The stream that the dashboard lives from: the status and everybody's events as they change, as server-sent events.
//!
//! ```text
//! event: status          the StatusReport, at once and whenever it has changed, at most each LOOK_INTERVAL
//! event: event           an EventRecord; its id says how far each node's events have been told: n1=12,n2=40
//! : (a comment)          when nothing else was said for KEEP_ALIVE
//! ```
//! A client that comes back with `Last-Event-ID` is told what it missed, as far as the nodes still know it.
//! Invariant: one message at most waits for a reader. One that is slow skips statuses, one that takes nothing for
//! `READER_PATIENCE` is dropped, and there are `STREAMS_MAX` readers at most.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::extract::State;
use axum::http::header::{CACHE_CONTROL, RETRY_AFTER};
use axum::http::{HeaderMap, StatusCode};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};

use super::change::error;
use super::report::{EventRecord, StatusReport};
use super::routes::View;

/// Open dashboards of one node: each costs four looks a second and some 10 kB of status when it changes.
pub const STREAMS_MAX: usize = 32;

/// At most four statuses a second.
pub const LOOK_INTERVAL: Duration = Duration::from_millis(250);

/// A page that hears nothing for a few of these takes the node for gone.
const KEEP_ALIVE: Duration = Duration::from_secs(2);

/// A message fits into the socket's buffer unless the reader has taken nothing for long.
const READER_PATIENCE: Duration = Duration::from_secs(20);

/// Of each node, at a look; who missed more than this is told the latest.
const EVENTS_PER_LOOK: usize = 100;

/// What all streams of a node share.
#[derive(Clone)]
pub struct Streams {
    seats: Arc<Semaphore>,
    ended: watch::Receiver<bool>,
}

impl Streams {
    pub fn new(ended: watch::Receiver<bool>) -> Streams {
        Streams { seats: Arc::new(Semaphore::new(STREAMS_MAX)), ended }
    }
}

pub async fn stream(
    State(view): State<View>,
    Extension(streams): Extension<Streams>,
    headers: HeaderMap,
) -> Response {
    let Ok(seat) = streams.seats.try_acquire_owned() else {
        let text = format!("{STREAMS_MAX} streams are open, which is the most; close a dashboard");
        return ([(RETRY_AFTER, "5")], error(StatusCode::SERVICE_UNAVAILABLE, &text)).into_response();
    };
    let last = headers.get("last-event-id").and_then(|id| id.to_str().ok()).unwrap_or_default();
    let (tell, told) = mpsc::channel(1);
    let teller = Teller { view, tell, cursor: Cursor::parse(last), status: None };
    tokio::spawn(teller.run(streams.ended, seat));
    let messages = stream::unfold(told, |mut told| async move { Some((told.recv().await?, told)) });
    let sse = Sse::new(messages).keep_alive(KeepAlive::new().interval(KEEP_ALIVE));
    ([(CACHE_CONTROL, "no-store")], sse).into_response()
}

/// How far each node's events have been told.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct Cursor(BTreeMap<String, u64>);

impl Cursor {
    /// What cannot be read is as if nothing had been told.
    fn parse(text: &str) -> Cursor {
        // No more nodes than a cluster can have had; the header comes from anybody.
        let parts = text.split(',').take(32).filter_map(|part| part.split_once('='));
        Cursor(parts.filter_map(|(node, id)| Some((node.to_owned(), id.parse().ok()?))).collect())
    }

    fn text(&self) -> String {
        let parts: Vec<String> = self.0.iter().map(|(node, id)| format!("{node}={id}")).collect();
        parts.join(",")
    }
}

type Message = Result<Event, Infallible>;

struct Teller {
    view: View,
    tell: mpsc::Sender<Message>,
    cursor: Cursor,
    /// The last that was told, without what changes with every moment.
    status: Option<StatusReport>,
}

impl Teller {
    async fn run(mut self, mut ended: watch::Receiver<bool>, _seat: OwnedSemaphorePermit) {
        let mut looks = tokio::time::interval(LOOK_INTERVAL);
        looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let gone = self.tell.clone();
        loop {
            tokio::select! {
                _ = ended.wait_for(|ended| *ended) => return,
                () = gone.closed() => return,
                _ = looks.tick() => {}
            }
            if self.look().await.is_none() {
                return;
            }
        }
    }

    /// Tells what is new; `None` when the reader is not there any more.
    async fn look(&mut self) -> Option<()> {
        let report = self.view.status();
        let lasting = lasting(&report);
        if self.status.as_ref() != Some(&lasting) {
            self.send(Event::default().event("status").json_data(&report)).await?;
            self.status = Some(lasting);
        }
        for event in self.view.events_of_all(&self.cursor.0, EVENTS_PER_LOOK) {
            self.pass(&event).await?;
        }
        Some(())
    }

    async fn pass(&mut self, event: &EventRecord) -> Option<()> {
        self.cursor.0.insert(event.node.clone(), event.id);
        let id = self.cursor.text();
        self.send(Event::default().event("event").id(id).json_data(event)).await
    }

    async fn send(&self, event: Result<Event, axum::Error>) -> Option<()> {
        // Reports have a JSON form.
        let event = event.ok()?;
        self.tell.send_timeout(Ok(event), READER_PATIENCE).await.ok()
    }
}

/// Without ages, which are never the same twice.
fn lasting(report: &StatusReport) -> StatusReport {
    let mut report = report.clone();
    for node in &mut report.nodes {
        node.last_contact_ms = None;
        if let Some(fencer) = &mut node.fencer {
            fencer.left_ms = None;
        }
    }
    report
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_what_its_text_says() {
        let text = "n1=12,n2=40";
        assert_eq!(Cursor::parse(text).text(), text);
        for odd in ["", "7", "n1", "n1=x", "=", ",,,"] {
            assert_eq!(Cursor::parse(odd).0.values().sum::<u64>(), 0, "{odd}");
        }
        assert_eq!(Cursor::parse(&"a=1,".repeat(10_000)).0.len(), 1);
    }
}
