//! The simulation: a queue of instants, and the cluster under it.
#![forbid(unsafe_code)]

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

use super::{Scenario, Session};
use crate::autoscaler::{self, Decision, NodeView, View};
use crate::cluster::{Cluster, Event, Status};
use crate::ids::NodeId;
use crate::placement::{CoreState, NodeState, Pin, Placement};

/// Loads are counted in whole millionths of a percent, so that sums come out as they were written.
const MICRO: f64 = 1e6;

/// What one run of the autoscaler saw and did.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// Seconds since the beginning.
    pub time_s: u64,
    /// Load of all nodes, percent of one.
    pub total_load: f64,
    /// `total_load` by active nodes before the action.
    pub avg_load: f64,
    /// Nodes in `running` after the action.
    pub running: usize,
    /// Nodes in `launching` after the action.
    pub launching: usize,
    /// Nodes in `waiting-idle-to-terminate` after the action.
    pub waiting: usize,
    /// Nodes in `canceled` after the action.
    pub canceled: usize,
    /// Nodes in `terminating` after the action.
    pub terminating: usize,
    /// `none`, `launch N` or `terminate N`.
    pub action: String,
}

/// What came of a scenario.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// One per run of the autoscaler.
    pub rows: Vec<Row>,
    /// Sessions that found a node.
    pub placed: u64,
    /// Sessions that found none.
    pub refused: u64,
    /// Most sessions on one node at one time.
    pub most_on_a_node: u32,
    /// Time that nodes spent in `running` or `waiting-idle-to-terminate`, seconds.
    pub node_seconds: u64,
}

/// What may happen; the order within one instant is that of the variants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Happening {
    LaunchDone(usize),
    Gone(usize),
    Report,
    Tick,
    End(usize),
    Start(usize),
}

struct Host {
    id: NodeId,
    cores: Vec<HostCore>,
    /// In the last report, percent.
    reported: f64,
    /// Since when it runs, seconds.
    running_since: u64,
}

#[derive(Clone, Copy, Default)]
struct HostCore {
    /// Millionths of a percent of the node.
    load: i64,
    sessions: u32,
    reported: CoreState,
}

/// Where a session runs and what it adds there now.
struct Running {
    host: usize,
    core: usize,
    load: i64,
}

struct Simulation<'a> {
    scenario: &'a Scenario,
    queue: BinaryHeap<Reverse<(u64, Happening)>>,
    cluster: Cluster,
    placement: Placement,
    hosts: Vec<Host>,
    by_id: HashMap<NodeId, usize>,
    running: HashMap<usize, Running>,
    rising: Vec<usize>,
    outcome: Outcome,
}

/// Runs a scenario to its end.
pub fn simulate(scenario: &Scenario) -> Outcome {
    let mut simulation = Simulation::new(scenario);
    while let Some(Reverse((now_s, happening))) = simulation.queue.pop() {
        if now_s > scenario.duration_s {
            break;
        }
        simulation.step(now_s, happening);
    }
    simulation.finish()
}

impl<'a> Simulation<'a> {
    fn new(scenario: &'a Scenario) -> Self {
        let starts = scenario.sessions.iter().enumerate();
        let mut queue: BinaryHeap<_> =
            starts.map(|(session, start)| Reverse((start.start_s, Happening::Start(session)))).collect();
        queue.extend([Reverse((0, Happening::Report)), Reverse((0, Happening::Tick))]);
        let mut simulation = Self {
            scenario,
            queue,
            cluster: Cluster::default(),
            placement: Placement::new(scenario.strategy),
            hosts: Vec::new(),
            by_id: HashMap::new(),
            running: HashMap::new(),
            rising: Vec::new(),
            outcome: Outcome { rows: Vec::new(), placed: 0, refused: 0, most_on_a_node: 0, node_seconds: 0 },
        };
        for _ in 0..scenario.nodes {
            let host = simulation.launch(0);
            simulation.on_launch_done(0, host);
        }
        simulation
    }

    fn step(&mut self, now_s: u64, happening: Happening) {
        let scenario = self.scenario;
        match happening {
            Happening::LaunchDone(host) => self.on_launch_done(now_s, host),
            Happening::Gone(host) => self.on_gone(now_s, host),
            Happening::Report => {
                self.on_report(now_s);
                self.queue.push(Reverse((now_s + scenario.report_s, Happening::Report)));
            }
            Happening::Tick => {
                self.on_tick(now_s);
                self.queue.push(Reverse((now_s + scenario.step_s, Happening::Tick)));
            }
            Happening::End(session) => self.on_end(now_s, session),
            Happening::Start(session) => self.on_start(now_s, session),
        }
    }

    fn finish(mut self) -> Outcome {
        let end_s = self.scenario.duration_s;
        for host in &self.hosts {
            let status = self.cluster.get(host.id.as_str()).map(|node| node.status());
            if status.is_some_and(Status::can_have_load) {
                self.outcome.node_seconds += end_s.saturating_sub(host.running_since);
            }
        }
        self.outcome
    }

    /// Orders a node; returns its number, from 0.
    fn launch(&mut self, now_s: u64) -> usize {
        let host = self.hosts.len();
        let id = NodeId::from(format!("node-{}", host + 1));
        let launched = self.cluster.launch(now_s * 1000, id.clone());
        assert!(launched.is_some(), "numbers are given once");
        let cores = (0..self.scenario.cores).map(|core| HostCore {
            reported: CoreState { core, ..Default::default() },
            ..Default::default()
        });
        let cores = cores.collect();
        self.by_id.insert(id.clone(), host);
        self.hosts.push(Host { id, cores, reported: 0.0, running_since: now_s });
        host
    }

    fn on_launch_done(&mut self, now_s: u64, host: usize) {
        match self.apply(now_s, host, Event::LaunchDone) {
            Status::Running => {
                self.hosts[host].running_since = now_s;
                self.tell_placement(host, None);
            }
            _ => self.shut_down(now_s, host),
        }
    }

    fn on_gone(&mut self, now_s: u64, host: usize) {
        self.apply(now_s, host, Event::Gone);
        let id = &self.hosts[host].id;
        self.cluster.remove(id.as_str());
        self.placement.remove(id);
    }

    /// Every node tells its load up to now.
    fn on_report(&mut self, now_s: u64) {
        self.raise(now_s);
        let loaded = self.cluster.iter().filter(|node| node.status().can_have_load());
        let hosts: Vec<usize> = loaded.map(|node| self.by_id[node.id.as_str()]).collect();
        for host in hosts {
            let cores = self.scenario.cores;
            let there = &mut self.hosts[host];
            let total: i64 = there.cores.iter().map(|core| core.load).sum();
            there.reported = total as f64 / MICRO;
            for core in &mut there.cores {
                core.reported.load = core.load as f64 / MICRO * f64::from(cores);
                core.reported.reported_sessions = core.sessions;
            }
            self.tell_placement(host, Some(now_s));
        }
    }

    /// Brings the load of sessions that have not yet all of it up to now.
    fn raise(&mut self, now_s: u64) {
        let (scenario, hosts, running) = (self.scenario, &mut self.hosts, &mut self.running);
        self.rising.retain(|session| {
            let Some(there) = running.get_mut(session) else { return false };
            let spec = &scenario.sessions[*session];
            let load = load_at(spec, now_s);
            hosts[there.host].cores[there.core].load += load - there.load;
            there.load = load;
            now_s < spec.start_s + spec.ramp_s
        });
    }

    fn on_tick(&mut self, now_s: u64) {
        let view = self.view();
        let totals = view.totals();
        let decision = self.scenario.limits.and_then(|_| autoscaler::tick(&view, now_s * 1000));
        if let Some(decision) = &decision {
            self.carry_out(now_s, decision);
        }
        let count = |status| self.cluster.count(status);
        self.outcome.rows.push(Row {
            time_s: now_s,
            total_load: totals.load,
            avg_load: totals.avg,
            running: count(Status::Running),
            launching: count(Status::Launching),
            waiting: count(Status::WaitingIdleToTerminate),
            canceled: count(Status::Canceled),
            terminating: count(Status::Terminating),
            action: action(decision.as_ref()),
        });
    }

    fn view(&self) -> View {
        let off = autoscaler::Limits { max_nodes: 0, min_nodes: 0, max_avg_load: 100.0, min_avg_load: 0.0 };
        let nodes = self.cluster.iter().map(|node| {
            let host = &self.hosts[self.by_id[node.id.as_str()]];
            NodeView {
                id: node.id.clone(),
                environment_id: None,
                ip: None,
                status: node.status(),
                load: host.reported,
                busy: host.sessions() > 0,
                launched_at_ms: node.launched_at_ms,
            }
        });
        View { limits: self.scenario.limits.unwrap_or(off), nodes: nodes.collect() }
    }

    fn carry_out(&mut self, now_s: u64, decision: &Decision) {
        let changes = [
            (&decision.resume, Event::Resume),
            (&decision.relaunch, Event::Relaunch),
            (&decision.cancel, Event::Cancel),
            (&decision.drain, Event::Drain),
            (&decision.terminate, Event::Terminate),
        ];
        for (ids, event) in changes {
            for id in ids {
                let host = self.by_id[id.as_str()];
                let status = self.apply(now_s, host, event);
                match status {
                    Status::Terminating => self.shut_down(now_s, host),
                    Status::Running | Status::WaitingIdleToTerminate => self.tell_placement(host, None),
                    _ => {}
                }
            }
        }
        for _ in 0..decision.new_nodes {
            let host = self.launch(now_s);
            self.queue.push(Reverse((now_s + self.scenario.launch_s, Happening::LaunchDone(host))));
        }
    }

    fn on_start(&mut self, now_s: u64, session: usize) {
        let spec = self.scenario.sessions[session];
        let pinned = spec.node.map(|number| NodeId::from(format!("node-{number}")));
        let pin = pinned.as_ref().map(|node| Pin { node, core: None });
        let Ok((node, core)) = self.placement.place(now_s * 1000, pin) else {
            self.outcome.refused += 1;
            return;
        };
        self.outcome.placed += 1;
        let (host, core) = (self.by_id[node.as_str()], usize::from(core));
        let load = load_at(&spec, now_s);
        let there = &mut self.hosts[host];
        there.cores[core].load += load;
        there.cores[core].sessions += 1;
        self.outcome.most_on_a_node = self.outcome.most_on_a_node.max(there.sessions());
        self.running.insert(session, Running { host, core, load });
        if spec.ramp_s > 0 {
            self.rising.push(session);
        }
        if let Some(end_s) = spec.end_s {
            self.queue.push(Reverse((end_s.max(now_s), Happening::End(session))));
        }
    }

    fn on_end(&mut self, now_s: u64, session: usize) {
        let Some(ended) = self.running.remove(&session) else { return };
        let there = &mut self.hosts[ended.host];
        let core = &mut there.cores[ended.core];
        core.load -= ended.load;
        core.sessions -= 1;
        let idle = there.sessions() == 0;
        let node = self.cluster.get(there.id.as_str());
        if idle && node.is_some_and(|node| node.status() == Status::WaitingIdleToTerminate) {
            self.apply(now_s, ended.host, Event::Idle);
            return self.shut_down(now_s, ended.host);
        }
        self.tell_placement(ended.host, None);
    }

    /// A node that just became `terminating`.
    fn shut_down(&mut self, now_s: u64, host: usize) {
        assert_eq!(self.hosts[host].sessions(), 0, "no node goes while sessions live there");
        self.tell_placement(host, None);
        self.queue.push(Reverse((now_s + self.scenario.terminate_s, Happening::Gone(host))));
    }

    fn apply(&mut self, now_s: u64, host: usize, event: Event) -> Status {
        let id = self.hosts[host].id.clone();
        let change = self.cluster.apply(now_s * 1000, id.as_str(), event);
        let change = change.expect("only what the table has is asked for").expect("the node is there");
        if change.old.is_some_and(Status::can_have_load) && !change.new.can_have_load() {
            self.outcome.node_seconds += now_s - self.hosts[host].running_since;
        }
        change.new
    }

    /// `reported_s`: this is a load report, made now.
    fn tell_placement(&mut self, host: usize, reported_s: Option<u64>) {
        let there = &self.hosts[host];
        let status = self.cluster.get(there.id.as_str()).map(|node| node.status());
        let cores = there.cores.iter().map(|core| CoreState { sessions: core.sessions, ..core.reported });
        let state = NodeState {
            eligible: status == Some(Status::Running),
            reported_at_ms: reported_s.map(|seconds| seconds * 1000),
            cores: cores.collect(),
        };
        self.placement.update(&there.id, &state);
    }
}

impl Host {
    fn sessions(&self) -> u32 {
        self.cores.iter().map(|core| core.sessions).sum()
    }
}

/// Load of a session that runs at `now_s`, millionths of a percent of a node.
fn load_at(session: &Session, now_s: u64) -> i64 {
    let full = session.load * MICRO;
    let age_s = now_s - session.start_s;
    if age_s >= session.ramp_s {
        return full.round() as i64;
    }
    (full * age_s as f64 / session.ramp_s as f64).round() as i64
}

fn action(decision: Option<&Decision>) -> String {
    match decision {
        None => "none".into(),
        Some(decision) if decision.launched() > 0 => format!("launch {}", decision.launched()),
        Some(decision) => format!("terminate {}", decision.ended()),
    }
}
