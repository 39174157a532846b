//! The writer over the store's double.

use serde_json::json;

use super::super::MemoryStore;
use super::*;
use crate::session::EventRecord;

fn event(n: u64) -> LoggedEvent {
    EventRecord::new("signalSent", n, json!({})).into()
}

fn batch(key: &str, events: &[u64]) -> Batch {
    let put = Change::Put { table: Table::Sessions, key: key.into(), value: b"x".into() };
    Batch { changes: vec![put], events: events.iter().map(|n| event(*n)).collect() }
}

fn at(seq: u64) -> Cursor {
    Cursor { seq, note: String::new() }
}

async fn until(writer: &mut Writer, number: u64) {
    while writer.committed() < number {
        writer.progress().await;
    }
}

async fn seqs(journal: &Journal, after: u64) -> Vec<u64> {
    journal.events(after).await.iter().map(|(seq, _)| *seq).collect()
}

#[tokio::test]
async fn batches_become_durable_in_order_and_several_at_a_time() {
    let store = Arc::new(MemoryStore::default());
    let (mut writer, journal) = Writer::start(store.clone(), &["cdr"], Bounds::default()).unwrap();
    store.fail(1);
    for n in 1..=200 {
        assert_eq!(writer.submit(batch(&format!("s{n}"), &[n])).unwrap(), n);
    }
    until(&mut writer, 200).await;
    assert_eq!(writer.in_flight(), 0);
    assert_eq!(store.rows(Table::Sessions).unwrap().len(), 200);
    assert!(store.commits() <= 4, "the first refused one held up the others: {}", store.commits());
    assert_eq!(writer.counters().failures.load(Ordering::Relaxed), 1);
    let read = journal.events(0).await;
    let expected: Vec<_> = (1..=200).map(|n| (n, event(n))).collect();
    assert_eq!(read, expected);
}

#[tokio::test]
async fn the_log_is_kept_for_the_slowest_reader() {
    let store = Arc::new(MemoryStore::default());
    let (mut writer, journal) = Writer::start(store.clone(), &["cdr", "webhook"], Bounds::default()).unwrap();
    writer.submit(batch("a", &[1, 2, 3, 4])).unwrap();
    until(&mut writer, 1).await;
    assert!(journal.advance_now("cdr", at(3)).await);
    assert_eq!(seqs(&journal, 0).await, [1, 2, 3, 4]);
    assert!(journal.advance_now("webhook", at(2)).await);
    assert_eq!(seqs(&journal, 0).await, [3, 4]);
    // A cursor never goes back.
    assert!(journal.advance_now("webhook", at(1)).await);
    drop((writer, journal));
    let (mut writer, journal) = Writer::start(store.clone(), &["cdr", "webhook"], Bounds::default()).unwrap();
    assert_eq!((journal.cursor("cdr").seq, journal.cursor("webhook").seq), (3, 2));
    writer.submit(batch("b", &[5])).unwrap();
    until(&mut writer, 1).await;
    assert_eq!(seqs(&journal, 0).await, [3, 4, 5]);
    drop((writer, journal));
    // A reader that is gone holds up nothing; a new one begins at the end.
    let (_writer, journal) = Writer::start(store, &["cdr", "other"], Bounds::default()).unwrap();
    assert_eq!(journal.cursor("other").seq, 5);
    assert!(journal.advance_now("cdr", at(5)).await);
    assert_eq!(seqs(&journal, 0).await, [0; 0]);
}

#[tokio::test]
async fn a_lazy_cursor_is_on_disk_soon() {
    let store = Arc::new(MemoryStore::default());
    let (mut writer, journal) = Writer::start(store.clone(), &["cdr"], Bounds::default()).unwrap();
    writer.submit(batch("a", &[1])).unwrap();
    until(&mut writer, 1).await;
    journal.advance("cdr", at(1));
    let written = async {
        while !store.events(0, 9, 99).unwrap().is_empty() {
            tokio::time::sleep(LAZY / 10).await;
        }
    };
    tokio::time::timeout(LAZY * 50, written).await.expect("written");
}

#[tokio::test]
async fn a_log_that_is_too_long_loses_its_oldest_and_counts_them() {
    let store = Arc::new(MemoryStore::default());
    let bounds = Bounds { events: 3, bytes: 1 << 20 };
    let (mut writer, journal) = Writer::start(store, &["webhook"], bounds).unwrap();
    writer.submit(batch("a", &[1, 2, 3, 4, 5])).unwrap();
    until(&mut writer, 1).await;
    assert_eq!(seqs(&journal, 0).await, [3, 4, 5]);
    assert_eq!(writer.counters().dropped.load(Ordering::Relaxed), 2);
    let store = Arc::new(MemoryStore::default());
    let size = event(1).encode().len() as u64;
    let (mut writer, journal) =
        Writer::start(store, &["webhook"], Bounds { events: 99, bytes: 2 * size }).unwrap();
    writer.submit(batch("a", &[1, 2, 3])).unwrap();
    until(&mut writer, 1).await;
    assert_eq!(seqs(&journal, 0).await, [2, 3]);
}

#[tokio::test]
async fn without_readers_events_are_only_numbered() {
    let store = Arc::new(MemoryStore::default());
    let (mut writer, journal) = Writer::start(store.clone(), &[], Bounds::default()).unwrap();
    writer.submit(batch("a", &[1, 2])).unwrap();
    until(&mut writer, 1).await;
    assert_eq!(seqs(&journal, 0).await, [0; 0]);
    drop((writer, journal));
    let (_writer, journal) = Writer::start(store, &["cdr"], Bounds::default()).unwrap();
    assert_eq!(journal.cursor("cdr").seq, 2);
}
