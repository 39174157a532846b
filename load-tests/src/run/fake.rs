//! A target without media: rooms and people, and what a test lets it say.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Result, bail};
use async_trait::async_trait;
use tokio::sync::mpsc;

use crate::target::{Joined, Offer, Participant, PcKey, Placement, RoomEvent, StreamRef, Target};

/// How long it takes to refuse a publisher.
const PUBLISHING: Duration = Duration::from_secs(2);

/// Takes everybody into any room; there are no streams.
#[derive(Clone, Default)]
pub(crate) struct Fake {
    people: Arc<Mutex<Vec<mpsc::Sender<RoomEvent>>>>,
    rooms: Arc<AtomicU32>,
}

impl Fake {
    /// Tells all who have ever joined, once these are two.
    pub(crate) async fn tell(&self, event: &RoomEvent) {
        while self.joined() < 2 {
            tokio::task::yield_now().await;
        }
        let people = self.people.lock().unwrap().clone();
        for person in people {
            let _ = person.send(event.clone()).await;
        }
    }

    /// How many have ever joined.
    pub(crate) fn joined(&self) -> usize {
        self.people.lock().unwrap().len()
    }

    /// Rooms that were made and not closed.
    pub(crate) fn rooms(&self) -> u32 {
        self.rooms.load(Ordering::Relaxed)
    }
}

#[async_trait]
impl Target for Fake {
    fn label(&self) -> String {
        "fake".to_owned()
    }

    async fn start(&mut self, _placement: &Placement) -> Result<()> {
        Ok(())
    }

    async fn stop(&mut self) -> Result<()> {
        Ok(())
    }

    fn media_pids(&self) -> Vec<u32> {
        Vec::new()
    }

    async fn create_room(&self, name: &str) -> Result<String> {
        self.rooms.fetch_add(1, Ordering::Relaxed);
        Ok(name.to_owned())
    }

    async fn join(&self, _room: &str, name: &str, _publishes: bool) -> Result<Joined> {
        let (sender, events) = mpsc::channel(8);
        self.people.lock().unwrap().push(sender);
        Ok(Joined { id: name.to_owned(), streams: Vec::new(), participant: Box::new(Person), events })
    }

    async fn close_room(&self, _room: &str) -> Result<()> {
        self.rooms.fetch_sub(1, Ordering::Relaxed);
        Ok(())
    }
}

struct Person;

#[async_trait]
impl Participant for Person {
    async fn publish(&mut self, _offer: &str) -> Result<String> {
        tokio::time::sleep(PUBLISHING).await;
        bail!("nothing can be published")
    }

    async fn subscribe(&mut self, stream: &StreamRef) -> Result<Option<Offer>> {
        bail!("{} has no stream", stream.publisher)
    }

    async fn answer(&mut self, _pc: &PcKey, _answer: &str) -> Result<()> {
        Ok(())
    }

    async fn leave(&mut self) -> Result<()> {
        Ok(())
    }
}
