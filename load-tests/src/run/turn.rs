//! One target from its start to its end: sessions are added step by step, each step is held and measured.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use futures_util::future::join_all;

use super::measure::{self, Broken, Doubts, Meters};
use super::netns::Netns;
use super::ramp::{self, Point};
use super::session::{Session, World, wait_stable};
use crate::client::Clients;
use crate::client::stats::Stats;
use crate::report::model::{self, Step, Stop};
use crate::report::progress::Progress;
use crate::scenario::Scenario;
use crate::target::{Placement, Target};
use crate::witness;
use crate::{clock, host};

/// Media settles for so long before a step is measured.
const SETTLE: Duration = Duration::from_millis(1_500);
/// Between two looks at the clock while a step is measured.
const TICK: Duration = Duration::from_millis(250);
/// Most sessions that join together where the scenario does not say how fast.
const SESSIONS_AT_ONCE: usize = 4;
/// How often a disturbed step is measured.
const TRIES: u32 = 3;
/// How long tasks may take to let go of a target.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(5);

/// What a turn is run with.
pub(crate) struct Plan<'a> {
    pub(crate) scenario: &'a Scenario,
    /// Numbers of sessions; empty for the ramp.
    pub(crate) steps: Vec<u32>,
    pub(crate) max_sessions: u32,
    pub(crate) hold: Duration,
    /// Browsers that join one session after the last step.
    pub(crate) witnesses: u32,
    /// Streams that each receives; all without.
    pub(crate) witness_streams: Option<u32>,
    pub(crate) deadline: Instant,
    pub(crate) placement: &'a Placement,
    /// Start and stop the target.
    pub(crate) ours: bool,
    pub(crate) clients: &'a Arc<Clients>,
    /// Packets per second of one publisher.
    pub(crate) clip_rate: f64,
    pub(crate) progress: &'a Progress,
    /// The namespace of a target that has one.
    pub(crate) netns: Option<&'a Netns>,
}

impl Plan<'_> {
    /// Frames that the wire, where there is one, could not keep for us.
    fn wire_drops(&self) -> u64 {
        self.netns.and_then(Netns::wire_drops).unwrap_or(0)
    }
}

/// Runs one turn; what fails is its stop.
pub(crate) async fn run(
    plan: &Plan<'_>,
    mut target: Box<dyn Target>,
    name: model::Target,
    round: u32,
) -> model::Turn {
    plan.progress.begin_turn(&name.label(), round);
    let mut turn = model::Turn { target: name, round, steps: Vec::new(), stop: Stop::StepsDone };
    if plan.ours
        && let Err(error) = target.start(plan.placement).await
    {
        turn.stop = Stop::Failed { error: format!("{error:#}") };
        let _ = target.stop().await;
        return turn;
    }
    turn.target.version = target.version();
    turn.target.options = target.options().into_iter().collect();
    plan.progress.say(&format!("{} is ready", target.label()));
    let idle_bytes = target.media_pids().iter().filter_map(|pid| host::resident_bytes(*pid)).sum();
    let mut running = Running {
        plan,
        world: World { target: Arc::from(target), clients: plan.clients.clone() },
        sessions: Vec::new(),
        created: 0,
        idle_bytes,
    };
    let label = turn.target.label();
    turn.stop = match running.steps(&mut turn.steps, &label).await {
        Ok(stop) => stop,
        Err(error) => Stop::Failed { error: format!("{error:#}") },
    };
    if let (1.., Some(held)) = (plan.witnesses, turn.capacity().map(|step| step.sessions)) {
        match running.witness(held).await {
            Ok(step) => {
                plan.progress.end_step(&label, &step);
                turn.steps.push(step);
            }
            Err(error) => turn.doubt(format!("no witnesses: {error:#}")),
        }
    }
    running.end().await;
    plan.progress.end_turn(&turn);
    turn
}

struct Running<'a> {
    plan: &'a Plan<'a>,
    world: World,
    sessions: Vec<Session>,
    created: usize,
    /// The target's memory before anybody joined.
    idle_bytes: u64,
}

impl Running<'_> {
    async fn steps(&mut self, done: &mut Vec<Step>, label: &str) -> Result<Stop> {
        let (plan, limits) = (self.plan, self.plan.scenario.limits);
        let mut points: Vec<Point> = Vec::new();
        let mut stop = Stop::StepsDone;
        let mut given = plan.steps.iter().copied();
        loop {
            let next = if plan.steps.is_empty() {
                ramp::next(&points, plan.scenario.ramp_start, plan.max_sessions, limits.cpu)
            } else {
                given.next()
            };
            let Some(sessions) = next else { return Ok(stop) };
            if self.time_left().is_zero() {
                return Ok(Stop::TimeLimit);
            }
            if let Some(reason) = self.resize(sessions).await? {
                if matches!(reason, Stop::TimeLimit) || !plan.steps.is_empty() {
                    return Ok(reason);
                }
                points.push(Point { sessions, held: false, cpu: None });
                stop = reason;
                continue;
            }
            let (step, broken, full) = self.judged(sessions, label).await?;
            plan.progress.end_step(label, &step);
            points.push(Point {
                sessions,
                held: step.held,
                cpu: step.target_cpu_cores.map(|cpu| cpu / plan.placement.cores.len() as f64),
            });
            if let Some(broken) = broken {
                stop = if full { Stop::GeneratorFull } else { to_stop(broken, limits.stable_s) };
            }
            done.push(step);
            if broken.is_some() && !plan.steps.is_empty() {
                return Ok(stop);
            }
        }
    }

    /// Measures a step and compares it with the limits. One that breaks a limit while something else took the target's or the
    /// generator's core says nothing: it is measured again, and the last time counts.
    async fn judged(&mut self, sessions: u32, label: &str) -> Result<(Step, Option<Broken>, bool)> {
        let plan = self.plan;
        let mut tries = 1;
        loop {
            let (mut step, stats) = self.hold(sessions).await?;
            let (broken, doubts) = self.judge(&mut step, &stats);
            let disturbed = doubts.late || doubts.foreign;
            if broken.is_some() && disturbed && tries < TRIES && !self.time_left().is_zero() {
                tries += 1;
                plan.progress.say(&format!("{label}: {sessions} sessions disturbed ({broken:?}), once more"));
                continue;
            }
            return Ok((step, broken, doubts.full));
        }
    }

    /// Writes into a step whether it was held and what makes it doubtful; what broke it, and the doubts.
    fn judge(&self, step: &mut Step, stats: &Stats) -> (Option<Broken>, Doubts) {
        let plan = self.plan;
        let broken = measure::judge(step, stats, &plan.scenario.limits, plan.placement.cores.len());
        let doubts = measure::doubts(step, stats, plan.scenario, plan.clip_rate);
        step.held = broken.is_none();
        step.warnings.extend_from_slice(&doubts.warnings);
        (broken, doubts)
    }

    /// One more step, at 90 % of the sessions that were held, with browsers in the first session that say what they see.
    async fn witness(&mut self, held: u32) -> Result<Step> {
        let plan = self.plan;
        let sessions = (held * 9 / 10).max(1);
        anyhow::ensure!(
            self.resize(sessions).await?.is_none(),
            "{sessions} sessions did not become stable again"
        );
        let room = &self.sessions.first().context("no session")?.room;
        let mut tokens = Vec::new();
        for _ in 0..plan.witnesses {
            let token = self.world.target.witness_token(room).await?;
            tokens
                .push(token.with_context(|| format!("browsers cannot join {}", self.world.target.label()))?);
        }
        let streams =
            plan.witness_streams.map_or(plan.scenario.publishers, |few| few.min(plan.scenario.publishers));
        let order = witness::Order { tokens, streams, settle: SETTLE, seconds: plan.hold };
        plan.progress.say(&format!("{} browsers join one of {sessions} sessions", plan.witnesses));
        let watching = witness::Watching::begin(&order, &plan.placement.control_cores).await?;
        let (held, seen) = tokio::join!(self.hold(sessions), watching.end());
        let (mut step, stats) = held?;
        self.judge(&mut step, &stats);
        // The browsers' packets cost CPU and are not among those counted.
        step.cpu_ns_per_packet_out = None;
        step.witnesses = Some(seen?);
        Ok(step)
    }

    /// Until it is too late to begin a step.
    fn time_left(&self) -> Duration {
        self.plan.deadline.saturating_duration_since(clock::now() + SETTLE + self.plan.hold)
    }

    /// Brings the number of sessions to `wanted`; a reason to stop when they do not become stable, or not before the time is
    /// over. Sessions that lost somebody, or did not become stable, do not stay: the next step would not have what it says.
    async fn resize(&mut self, wanted: u32) -> Result<Option<Stop>> {
        let (whole, mut surplus): (Vec<_>, Vec<_>) =
            self.sessions.drain(..).partition(|session| session.shared.failed() == 0);
        self.sessions = whole;
        surplus.extend(self.sessions.drain(self.sessions.len().min(wanted as usize)..));
        join_all(surplus.into_iter().map(Session::close)).await;
        let scenario = self.plan.scenario;
        let limit = Duration::from_secs(u64::from(scenario.limits.stable_s));
        while self.sessions.len() < wanted as usize {
            // One after the other as in the published test, a few at a time once there are many.
            let missing = wanted as usize - self.sessions.len();
            // More at once would take the generator's core for their handshakes.
            let few = (self.sessions.len() / 8).clamp(1, SESSIONS_AT_ONCE);
            let group = scenario.joins_per_s.map_or(few, |_| missing).min(missing);
            let first = self.sessions.len();
            for _ in 0..group {
                self.sessions.push(Session::create(&self.world, self.created).await?);
                self.created += 1;
            }
            if !self.join(first).await {
                return Ok(Some(Stop::TimeLimit));
            }
            let shared: Vec<_> =
                self.sessions[first..].iter().map(|session| session.shared.clone()).collect();
            let connections = self.connections();
            let all = u64::from(connections) * u64::from(wanted);
            let before = u64::from(connections) * first as u64;
            let time_left = self.time_left();
            let unstable = wait_stable(&shared, connections, limit.min(time_left), |playing| {
                self.plan.progress.joining(wanted, before + playing, all);
            })
            .await;
            if unstable > 0 {
                for error in shared.iter().flat_map(|shared| shared.errors()).take(3) {
                    self.plan.progress.say(&error);
                }
                join_all(self.sessions.drain(first..).map(Session::close)).await;
                let in_time = time_left > limit || shared.iter().any(|shared| shared.failed() > 0);
                let limit_s = scenario.limits.stable_s;
                return Ok(Some(if in_time {
                    Stop::Unstable { streams: unstable, limit_s }
                } else {
                    Stop::TimeLimit
                }));
            }
        }
        Ok(None)
    }

    /// Peer connections of a session that must play: one a stream, or one a user who receives anything.
    fn connections(&self) -> u32 {
        let scenario = self.plan.scenario;
        match (self.world.target.bundles_streams(), scenario.publishers) {
            (false, _) => scenario.subscriptions(),
            (true, 0) => 0,
            (true, 1) => scenario.users() - 1,
            (true, _) => scenario.users(),
        }
    }

    /// Everybody joins the sessions from `first` on: at once, or at the scenario's rate in turns over the sessions. Whether
    /// there was time for it.
    async fn join(&mut self, first: usize) -> bool {
        let scenario = self.plan.scenario;
        let pause = scenario.joins_per_s.map(|rate| Duration::from_secs_f64(1.0 / rate.max(0.1)));
        let mut timer = pause.map(tokio::time::interval);
        for user in 0..scenario.users() {
            for number in first..self.sessions.len() {
                if self.time_left().is_zero() {
                    return false;
                }
                if let Some(timer) = &mut timer {
                    timer.tick().await;
                }
                self.sessions[number].join(user < scenario.publishers);
            }
        }
        true
    }

    /// Lets the sessions run and measures.
    async fn hold(&mut self, sessions: u32) -> Result<(Step, Stats)> {
        let plan = self.plan;
        tokio::time::sleep(SETTLE).await;
        let mut join_ms: Vec<f64> = Vec::new();
        let mut take = |sessions: &[Session]| {
            join_ms.extend(sessions.iter().flat_map(|session| session.shared.take_join_ms()));
        };
        take(&self.sessions);
        let (pids, control) = (self.world.target.media_pids(), self.world.target.control_pids());
        let cores = &plan.placement.cores;
        let dropped = plan.wire_drops();
        plan.clients.begin_interval()?;
        let before = Meters::read(&pids, &control, cores, clock::now());
        let began = clock::now();
        let (mut replaced, mut turn) = (0.0, 0);
        while began.elapsed() < plan.hold {
            let elapsed = began.elapsed().as_secs_f64();
            plan.progress.measuring(sessions, elapsed, plan.hold.as_secs_f64(), "");
            while replaced < elapsed * plan.scenario.replaced_per_s {
                replaced += 1.0;
                turn += 1;
                let count = self.sessions.len();
                let session = &mut self.sessions[turn % count];
                if let Some(publishes) = session.leave_oldest() {
                    session.join(publishes);
                }
            }
            tokio::time::sleep(TICK.min(plan.hold.saturating_sub(began.elapsed()))).await;
        }
        let after = Meters::read(&pids, &control, cores, clock::now());
        let mut stats = plan.clients.end_interval().await?;
        stats.overflowed += plan.wire_drops().saturating_sub(dropped);
        take(&self.sessions);
        let mut step = measure::step(plan.scenario, sessions, &stats, (&before, &after), &pids);
        if !plan.ours {
            // These are our cores, not those of a server elsewhere.
            step.core_busy.clear();
        }
        let errors: Vec<_> = self.sessions.iter().flat_map(|session| session.shared.errors()).collect();
        // What failed has no stream any more that could stall.
        let stats = Stats { stalled: stats.stalled + errors.len() as u64, ..stats };
        if let [first, ..] = &errors[..] {
            step.warnings.push(format!("{} users or streams failed, the first: {first}", errors.len()));
        }
        step.join_ms = measure::of_values(join_ms);
        let pcs = f64::from(step.publishers + step.subscribers);
        step.memory_per_pc_bytes =
            step.memory_bytes.map(|bytes| bytes.saturating_sub(self.idle_bytes) as f64 / pcs);
        Ok((step, stats))
    }

    /// Everybody leaves, the target ends.
    async fn end(mut self) {
        join_all(self.sessions.drain(..).map(Session::close)).await;
        if !self.plan.ours {
            return;
        }
        let began = clock::now();
        while began.elapsed() < RELEASE_TIMEOUT {
            if let Some(target) = Arc::get_mut(&mut self.world.target) {
                let _ = target.stop().await;
                return;
            }
            tokio::time::sleep(TICK).await;
        }
        // Somebody still holds it: its processes are killed when it is dropped.
    }
}

fn to_stop(broken: Broken, limit_s: u32) -> Stop {
    match broken {
        Broken::CpuFull(share) => Stop::CpuFull { share },
        Broken::Loss(share) => Stop::Loss { share },
        Broken::Delay(p99_ms) => Stop::Delay { p99_ms },
        Broken::Stalled(streams) => Stop::Unstable { streams, limit_s },
    }
}

/// Runs `future` on a runtime of one thread.
pub(crate) fn block_on<T>(future: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("starting the runtime")?
        .block_on(future)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::Clip;
    use crate::run::fake::Fake;
    use crate::target::RoomEvent;

    const STORM: &str = "about = \"\"\npublishers = 1\nlisteners = 200\njoins_per_s = 20.0\n";
    const PAIR: &str = "about = \"\"\npublishers = 1\nlisteners = 1\nlimits = { stable_s = 1 }\n";

    /// Runs `test` with a plan for a scenario, a step of it in a second, and `secs` for all.
    async fn with_plan<T>(scenario: &str, secs: f64, test: impl AsyncFnOnce(&Plan<'_>) -> T) -> T {
        let address = [127, 0, 0, 1].into();
        let plan = Plan {
            scenario: &Scenario::parse("test", scenario).unwrap(),
            steps: vec![1],
            max_sessions: 10,
            hold: Duration::from_secs(1),
            witnesses: 0,
            witness_streams: None,
            deadline: clock::now() + Duration::from_secs_f64(secs),
            placement: &Placement {
                cores: vec![0],
                control_cores: vec![0],
                address,
                media: address,
                netns: None,
                nice: 0,
                tcp_port: 0,
                udp_port: 0,
            },
            ours: false,
            clients: &Arc::new(Clients::start(&[0], address, None, Clip::load().unwrap(), 0.0).unwrap()),
            clip_rate: 140.0,
            progress: &Progress::new(1),
            netns: None,
        };
        test(&plan).await
    }

    fn running<'a>(plan: &'a Plan<'a>, fake: &Fake) -> Running<'a> {
        let world = World { target: Arc::new(fake.clone()), clients: plan.clients.clone() };
        Running { plan, world, sessions: Vec::new(), created: 0, idle_bytes: 0 }
    }

    #[tokio::test]
    async fn a_storm_ends_with_the_time() {
        let fake = Fake::default();
        let (name, options) = ("fake".to_owned(), std::collections::BTreeMap::new());
        let name = model::Target { name, variant: None, version: None, options };
        let turn = with_plan(STORM, 3.5, async |plan| run(plan, Box::new(fake.clone()), name, 1).await).await;
        assert_eq!((turn.stop, turn.steps.len()), (Stop::TimeLimit, 0));
        assert!((2..60).contains(&fake.joined()), "{} of 201", fake.joined());
        assert_eq!(fake.rooms(), 0);
    }

    #[tokio::test]
    async fn sessions_that_do_not_become_stable_do_not_stay() {
        let fake = Fake::default();
        with_plan(PAIR, 60.0, async |plan| {
            let mut running = running(plan, &fake);
            let stop = running.resize(1).await.unwrap();
            assert_eq!(stop, Some(Stop::Unstable { streams: 1, limit_s: 1 }));
            assert!(running.sessions.is_empty());
        })
        .await;
        assert_eq!((fake.joined(), fake.rooms()), (2, 0));
    }

    #[tokio::test]
    async fn a_session_that_lost_somebody_is_not_measured_again() {
        let fake = Fake::default();
        with_plan(PAIR, 60.0, async |plan| {
            let mut running = running(plan, &fake);
            for number in 0..3 {
                running.sessions.push(Session::create(&running.world, number).await.unwrap());
            }
            running.sessions[0].join(false);
            running.sessions[0].join(false);
            fake.tell(&RoomEvent::Closed("lost".into())).await;
            while running.sessions[0].shared.failed() < 2 {
                tokio::task::yield_now().await;
            }
            let (step, stats) = running.hold(3).await.unwrap();
            assert_eq!(stats.stalled, 2);
            assert!(step.warnings[0].contains("2 users") && step.warnings[0].contains("lost"));
            let kept = running.sessions[1].room.clone();
            assert_eq!(running.resize(1).await.unwrap(), None);
            assert_eq!((running.sessions.len(), &running.sessions[0].room), (1, &kept));
        })
        .await;
        assert_eq!(fake.rooms(), 1);
    }
}
