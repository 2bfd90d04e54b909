//! The list in a store.

use brain::{Position, PrimaryRecord, Term};
use wire::{Lsn, Timeline};

use super::*;
use crate::agent::failover::{Ballot, FailoverKind, Loss, Side};
use crate::store::MemoryStore;

fn report(term: u64, reason: &str) -> FailoverReport {
    let side = |node: &str| Side { node: node.into(), term, timeline: 2, opened: true };
    FailoverReport {
        term,
        kind: FailoverKind::Takeover,
        at: "2026-01-02T03:04:05Z".into(),
        from: side("n1"),
        to: side("n2"),
        reason: reason.into(),
        request: None,
        total_ms: 0,
        writes_paused_ms: None,
        phases: Vec::new(),
        ballot: Ballot::default(),
        loss: Loss { bytes: 0, why: String::new() },
        proxies: Vec::new(),
        silent_proxies: Vec::new(),
    }
}

async fn store_of(primary: &MemberId) -> Arc<dyn Store> {
    let store: Arc<dyn Store> = MemoryStore::new("n1");
    let record = PrimaryRecord {
        term: Term(2),
        node: primary.node(),
        member: primary.clone(),
        timeline: Timeline(2),
        from: Position { timeline: Timeline(1), lsn: Lsn(1) },
        head: false,
    };
    let value = serde_json::to_value(record).unwrap();
    store.commit(Transaction::new().put(Key::Primary.path(), value)).await.unwrap();
    store
}

fn terms(store: &Arc<dyn Store>) -> Vec<u64> {
    kept(&store.watch().borrow()).unwrap().iter().map(|report| report.term).collect()
}

#[tokio::test]
async fn the_list_is_bounded_in_number_and_in_bytes() {
    let own = MemberId("n2_1".into());
    let store = store_of(&own).await;
    for term in 1..=30 {
        assert!(keep(&store, &own, &report(term, "")).await.unwrap());
    }
    assert_eq!(terms(&store), (11..=30).collect::<Vec<u64>>());
    assert!(keep(&store, &own, &report(30, "")).await.unwrap(), "written already");
    assert_eq!(terms(&store).len(), REPORTS_MAX);
    for term in 31..=34 {
        assert!(keep(&store, &own, &report(term, &"x".repeat(BYTES_MAX / 3))).await.unwrap());
    }
    assert_eq!(terms(&store), [33, 34]);
}

#[tokio::test]
async fn who_has_been_replaced_writes_nothing() {
    let store = store_of(&MemberId("n3_1".into())).await;
    assert!(!keep(&store, &MemberId("n2_1".into()), &report(2, "")).await.unwrap());
    assert!(terms(&store).is_empty());
}

#[tokio::test]
async fn a_list_of_a_later_version_is_left_as_it_is() {
    let own = MemberId("n2_1".into());
    let store = store_of(&own).await;
    let later = serde_json::json!({ "format": 2 });
    store.commit(Transaction::new().put(FAILOVERS, later.clone())).await.unwrap();
    assert!(keep(&store, &own, &report(2, "")).await.is_err());
    assert_eq!(store.watch().borrow().get(FAILOVERS).unwrap().value, later);
}
