//! One session: its users join, publish, watch everybody, and leave.

use std::collections::{HashMap, HashSet};
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
/// How long all users of a session may take to leave.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(5);
/// Failures that a session keeps: with so many it does not matter how many more there are.
const FAILURES_MAX: usize = 1_000;

/// What the users of a session share.
#[derive(Default)]
pub(crate) struct Shared {
    playing: AtomicU32,
    failures: Mutex<Failures>,
    join_ms: Mutex<Vec<f64>>,
    /// What each publisher notes, by the target's name of the participant.
    logs: Mutex<HashMap<String, Arc<SendLog>>>,
}

impl Shared {
    /// Streams that play, since the session began.
    pub(crate) fn playing(&self) -> u32 {
        self.playing.load(Ordering::Relaxed)
    }

    /// What went wrong.
    pub(crate) fn errors(&self) -> Vec<String> {
        let failures = lock(&self.failures);
        let counted = failures.all.iter().filter(|one| !failures.gone.contains(&one.publisher));
        counted.map(|one| one.text.clone()).collect()
    }

    /// How much that is.
    pub(crate) fn failed(&self) -> u32 {
        let failures = lock(&self.failures);
        failures.all.iter().filter(|one| !failures.gone.contains(&one.publisher)).count() as u32
    }

    /// Times from joining (or from the announcement, where the stream came later) to the first picture; taken once.
    pub(crate) fn take_join_ms(&self) -> Vec<f64> {
        std::mem::take(&mut *lock(&self.join_ms))
    }

    fn played(&self, since: Instant, at: Instant) {
        self.playing.fetch_add(1, Ordering::Relaxed);
        lock(&self.join_ms).push(at.saturating_duration_since(since).as_secs_f64() * 1e3);
    }

    /// `publisher`: whose stream it was about, if it was about one that is received.
    fn fail(&self, publisher: &str, text: String) {
        let all = &mut lock(&self.failures).all;
        if all.len() < FAILURES_MAX {
            all.push(Failure { publisher: publisher.to_owned(), text });
        }
    }

    fn gone(&self, publisher: &str) {
        lock(&self.failures).gone.insert(publisher.to_owned());
    }
}

/// Where people come and go, some streams end while others are about to watch them: who asks for such a stream is told that
/// it is not there, or its handshake ends halfway. That is no failure, whether it is noticed before the publisher's leaving
/// is announced or after.
#[derive(Default)]
struct Failures {
    all: Vec<Failure>,
    /// Publishers who have left.
    gone: HashSet<String>,
}

struct Failure {
    publisher: String,
    text: String,
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

    /// Everybody leaves and the room is closed, in the end also with those in it who did not manage to leave.
    pub(crate) async fn close(self) {
        for (_, _, stop) in &self.users {
            let _ = stop.send(true);
        }
        let left = async {
            for (_, task, _) in self.users {
                let _ = task.await;
            }
        };
        let _ = tokio::time::timeout(LEAVE_TIMEOUT, left).await;
        // The last one who left may have closed it.
        let _ = tokio::time::timeout(LEAVE_TIMEOUT, self.world.target.close_room(&self.room)).await;
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
        let outcome = self.live(&mut stopped).await;
        // Who was told to leave has nothing to complain about.
        if let Some(error) = outcome.err().filter(|_| !*stopped.borrow()) {
            self.shared.fail("", format!("{} {}: {error:#}", self.room, self.name));
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
        self.follow(opened, None, String::new());
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
                if let Err(error) = self.subscribe(&stream, participant, since).await {
                    let (room, name, publisher) = (&self.room, &self.name, &stream.publisher);
                    self.shared.fail(publisher, format!("{room} {name}, watching {publisher}: {error:#}"));
                }
            }
            RoomEvent::Offered(offer, streams) => {
                let only = if let [stream] = &streams[..] { Some(stream) } else { None };
                self.receive(&offer.pc, &offer.sdp, only, participant, since).await?;
            }
            RoomEvent::StreamRemoved(stream) => {
                self.shared.gone(&stream.publisher);
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

    async fn subscribe(
        &mut self,
        stream: &StreamRef,
        participant: &mut dyn Participant,
        since: Instant,
    ) -> Result<()> {
        match participant.subscribe(stream).await? {
            Some(offer) => self.receive(&offer.pc, &offer.sdp, Some(stream), participant, since).await,
            None => Ok(()),
        }
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
        self.follow(opened, Some(since), publisher);
        Ok(())
    }

    fn remember(&mut self, opened: &Opened, key: PcKey, publisher: String) {
        self.pcs.push(Pc { key, publisher, id: opened.id, local: opened.local.clone() });
    }

    /// Notes what becomes of a connection: of one that receives somebody's stream, or (without `since`) of our own.
    fn follow(&self, opened: Opened, since: Option<Instant>, publisher: String) {
        let (shared, name) = (self.shared.clone(), format!("{} {}", self.room, self.name));
        tokio::spawn(async move {
            match (opened.outcome.await, since) {
                (Ok(Ok(at)), Some(since)) => shared.played(since, at),
                (Ok(Err(error)), Some(_)) => {
                    shared.fail(&publisher, format!("{name}, watching {publisher}: {error}"));
                }
                (Ok(Err(error)), None) => shared.fail("", format!("{name}, publishing: {error}")),
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::media::Clip;
    use crate::run::fake::Fake;

    #[tokio::test]
    async fn a_stream_that_ends_while_somebody_asks_for_it_is_no_failure() {
        let fake = Arc::new(Fake::default());
        let clients = Clients::start(&[0], [127, 0, 0, 1].into(), None, Clip::load().unwrap(), 0.0).unwrap();
        let world = World { target: fake.clone(), clients: Arc::new(clients) };
        let mut session = Session::create(&world, 0).await.unwrap();
        session.join(false);
        session.join(false);
        let stream = |publisher: &str| StreamRef { id: String::new(), publisher: publisher.to_owned() };
        // The fake has none of these streams.
        for publisher in ["leaver", "stayer"] {
            fake.tell(&RoomEvent::StreamAdded(stream(publisher))).await;
        }
        until(|| session.shared.failed() == 4).await;
        fake.tell(&RoomEvent::StreamRemoved(stream("leaver"))).await;
        until(|| session.shared.failed() == 2).await;
        assert!(session.shared.errors().iter().all(|text| text.contains("watching stayer")));
        // The announcement may come first, too; and both are still there to be told.
        fake.tell(&RoomEvent::StreamAdded(stream("leaver"))).await;
        fake.tell(&RoomEvent::Closed("the end".into())).await;
        until(|| session.shared.errors().iter().filter(|text| text.contains("the end")).count() == 2).await;
        assert_eq!(session.shared.failed(), 4);
        session.close().await;
        assert_eq!(fake.rooms(), 0);
    }

    async fn until(condition: impl Fn() -> bool) {
        let waiting = async {
            while !condition() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(5), waiting).await.expect("in time");
    }
}
