//! One session: its users join, publish, watch everybody, and leave.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use crate::client::sdp::Local;
use crate::client::units::SendLog;
use crate::client::{Clients, Opened, PcId};
use crate::clock;
use crate::target::{Participant, PcKey, RoomEvent, StreamRef, Target};

/// Between two looks at a session that is being joined.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);
/// Error texts that a session keeps.
const ERRORS_MAX: usize = 8;

/// What the users of a session share.
#[derive(Default)]
pub(crate) struct Shared {
    playing: AtomicU32,
    failed: AtomicU32,
    errors: Mutex<Vec<String>>,
    join_ms: Mutex<Vec<f64>>,
    /// What each publisher notes, by the target's name of the participant.
    logs: Mutex<HashMap<String, Arc<SendLog>>>,
}

impl Shared {
    /// Streams that play, since the session began.
    pub(crate) fn playing(&self) -> u32 {
        self.playing.load(Ordering::Relaxed)
    }

    /// Things that went wrong.
    pub(crate) fn failed(&self) -> u32 {
        self.failed.load(Ordering::Relaxed)
    }

    /// The first few of them.
    pub(crate) fn errors(&self) -> Vec<String> {
        lock(&self.errors).clone()
    }

    /// Times from joining (or from the announcement, where the stream came later) to the first picture; taken once.
    pub(crate) fn take_join_ms(&self) -> Vec<f64> {
        std::mem::take(&mut *lock(&self.join_ms))
    }

    fn played(&self, since: Instant, at: Instant) {
        self.playing.fetch_add(1, Ordering::Relaxed);
        lock(&self.join_ms).push(at.saturating_duration_since(since).as_secs_f64() * 1e3);
    }

    fn fail(&self, error: String) {
        self.failed.fetch_add(1, Ordering::Relaxed);
        let mut errors = lock(&self.errors);
        if errors.len() < ERRORS_MAX {
            errors.push(error);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// What a run lends to its sessions.
#[derive(Clone)]
pub(crate) struct World {
    pub(crate) target: Arc<dyn Target>,
    pub(crate) clients: Arc<Clients>,
}

/// A running session.
pub(crate) struct Session {
    pub(crate) room: String,
    number: usize,
    world: World,
    users: Vec<(bool, JoinHandle<()>, watch::Sender<bool>)>,
    pub(crate) shared: Arc<Shared>,
    joined: u32,
}

impl Session {
    /// Makes the room; nobody is in it yet.
    ///
    /// # Errors
    /// When the target makes none.
    pub(crate) async fn create(world: &World, number: usize) -> Result<Session> {
        let room =
            world.target.create_room(&format!("load-{number}-{:06x}", rand::random::<u32>() >> 8)).await?;
        let shared = Arc::new(Shared::default());
        Ok(Session { room, number, world: world.clone(), users: Vec::new(), shared, joined: 0 })
    }

    /// One more user joins, in a task of its own.
    pub(crate) fn join(&mut self, publishes: bool) {
        let (stop, stopped) = watch::channel(false);
        self.joined += 1;
        let user = User {
            world: self.world.clone(),
            shared: self.shared.clone(),
            room: self.room.clone(),
            number: self.number,
            name: format!("user-{}", self.joined),
            publishes,
            pcs: Vec::new(),
        };
        self.users.push((publishes, tokio::spawn(user.run(stopped)), stop));
    }

    /// The user who has been there longest leaves; whether that one published.
    pub(crate) fn leave_oldest(&mut self) -> Option<bool> {
        if self.users.is_empty() {
            return None;
        }
        let (publishes, _, stop) = self.users.remove(0);
        let _ = stop.send(true);
        Some(publishes)
    }

    /// Everybody leaves and the room is closed.
    pub(crate) async fn close(self) -> Result<()> {
        for (_, _, stop) in &self.users {
            let _ = stop.send(true);
        }
        for (_, task, _) in self.users {
            let _ = task.await;
        }
        // The last one who left may have closed it.
        let _ = self.world.target.close_room(&self.room).await;
        Ok(())
    }
}

/// Waits until `streams` play in each session; how many do not in time, or have failed.
pub(crate) async fn wait_stable(
    sessions: &[Arc<Shared>],
    streams: u32,
    limit: Duration,
    mut on_look: impl FnMut(u64),
) -> u32 {
    let began = clock::now();
    loop {
        let playing: u32 = sessions.iter().map(|shared| shared.playing().min(streams)).sum();
        let wanted = streams * sessions.len() as u32;
        on_look(u64::from(playing));
        let failed: u32 = sessions.iter().map(|shared| shared.failed()).sum();
        if playing >= wanted || failed > 0 || began.elapsed() > limit {
            return (wanted - playing).max(failed);
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}

/// A peer connection of a user.
struct Pc {
    /// The target's name of it; the publishing one has none.
    key: PcKey,
    /// Whose stream it carries, where it is one participant's.
    publisher: String,
    id: PcId,
    local: Option<Local>,
}

/// One user of a session.
struct User {
    world: World,
    shared: Arc<Shared>,
    room: String,
    number: usize,
    name: String,
    publishes: bool,
    pcs: Vec<Pc>,
}

impl User {
    async fn run(mut self, mut stopped: watch::Receiver<bool>) {
        if let Err(error) = self.live(&mut stopped).await {
            self.shared.fail(format!("{} {}: {error:#}", self.room, self.name));
        }
        for pc in self.pcs {
            let _ = self.world.clients.close(pc.id);
        }
    }

    async fn live(&mut self, stopped: &mut watch::Receiver<bool>) -> Result<()> {
        let began = clock::now();
        let joined =
            self.world.target.join(&self.room, &self.name, self.publishes).await.context("joining")?;
        let (mut participant, mut events) = (joined.participant, joined.events);
        if self.publishes {
            self.publish(&joined.id, &mut *participant).await.context("publishing")?;
        }
        // What was there before us counts from our joining, what comes later from its announcement.
        for stream in joined.streams {
            self.on_event(RoomEvent::StreamAdded(stream), &mut *participant, began).await?;
        }
        while let Ok(event) = events.try_recv() {
            self.on_event(event, &mut *participant, began).await?;
        }
        loop {
            tokio::select! {
                _ = stopped.changed() => break,
                event = events.recv() => match event {
                    Some(event) => self.on_event(event, &mut *participant, clock::now()).await?,
                    None => anyhow::bail!("signaling ended"),
                },
            }
        }
        // Some servers close the socket before they answer a goodbye.
        let _ = participant.leave().await;
        drain(&mut events);
        Ok(())
    }

    async fn publish(&mut self, id: &str, participant: &mut dyn Participant) -> Result<()> {
        let pc = self.world.clients.offer(self.number)?;
        lock(&self.shared.logs).insert(id.to_owned(), pc.log.clone());
        let answer = participant.publish(&pc.offer).await?;
        let opened = self.world.clients.answered(pc, &answer)?;
        self.remember(&opened, String::new(), String::new());
        self.follow(opened, None, "publishing".to_owned());
        Ok(())
    }

    async fn on_event(
        &mut self,
        event: RoomEvent,
        participant: &mut dyn Participant,
        since: Instant,
    ) -> Result<()> {
        match event {
            RoomEvent::StreamAdded(stream) => {
                if let Some(offer) = participant.subscribe(&stream).await? {
                    self.receive(&offer.pc, &offer.sdp, Some(&stream), participant, since).await?;
                }
            }
            RoomEvent::Offered(offer, streams) => {
                let only = if let [stream] = &streams[..] { Some(stream) } else { None };
                self.receive(&offer.pc, &offer.sdp, only, participant, since).await?;
            }
            RoomEvent::StreamRemoved(stream) => {
                let clients = &self.world.clients;
                self.pcs.retain(|pc| {
                    let stays = pc.publisher != stream.publisher;
                    if !stays {
                        let _ = clients.close(pc.id);
                    }
                    stays
                });
            }
            RoomEvent::Candidate(key, candidate) => {
                if let Some(pc) = self.pcs.iter().find(|pc| pc.key == key) {
                    self.world.clients.add_candidate(pc.id, &candidate)?;
                }
            }
            RoomEvent::Closed(reason) => anyhow::bail!("closed by the server: {reason}"),
        }
        Ok(())
    }

    async fn receive(
        &mut self,
        key: &PcKey,
        offer: &str,
        stream: Option<&StreamRef>,
        participant: &mut dyn Participant,
        since: Instant,
    ) -> Result<()> {
        if let Some(pc) = self.pcs.iter().find(|pc| pc.key == *key) {
            let local = pc.local.as_ref().context("full clients do not renegotiate")?;
            let answer = self.world.clients.renegotiate(pc.id, local, offer)?;
            return participant.answer(key, &answer).await.context("answering");
        }
        let publisher = stream.map(|stream| stream.publisher.clone()).unwrap_or_default();
        let log = lock(&self.shared.logs).get(&publisher).cloned();
        let (opened, answer) = self.world.clients.receive(self.number, offer, log)?;
        self.remember(&opened, key.clone(), publisher.clone());
        participant.answer(key, &answer).await.context("answering")?;
        self.follow(opened, Some(since), format!("watching {publisher}"));
        Ok(())
    }

    fn remember(&mut self, opened: &Opened, key: PcKey, publisher: String) {
        self.pcs.push(Pc { key, publisher, id: opened.id, local: opened.local.clone() });
    }

    /// Notes what becomes of a connection.
    fn follow(&self, opened: Opened, since: Option<Instant>, what: String) {
        let (shared, name) = (self.shared.clone(), format!("{} {}", self.room, self.name));
        tokio::spawn(async move {
            match (opened.outcome.await, since) {
                (Ok(Ok(at)), Some(since)) => shared.played(since, at),
                (Ok(Err(error)), _) => shared.fail(format!("{name}, {what}: {error}")),
                // Published, or closed by ourselves.
                _ => {}
            }
        });
    }
}

/// Empties a queue, so that nobody waits for a place in it.
fn drain(events: &mut mpsc::Receiver<RoomEvent>) {
    events.close();
    while events.try_recv().is_ok() {}
}
