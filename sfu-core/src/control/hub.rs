//! State of the control thread: who the controller is, which core owns which room, which answers are outstanding. Pure.
//!
//! ```text
//! text of the controller ─▶ handle_text ──┐                 ┌─▶ Send, Close      to the connection
//! reply or event of a shard ─▶ handle_event ─▶ [Effect] ────┼─▶ Command          to a shard
//! attach, detach, load, stop ─────────────┘                 └─▶ LoadInterval, Exit
//! ```
//!
//! One controller at a time: a second connection replaces the first. Losing it changes nothing for the media; the one that
//! returns is told what runs in the answer to its `hello`. Answers to a connection that is gone are dropped, the directory
//! still follows them.
#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::time::Duration;

use serde_json::{Value, json};

use super::proto::{
    MAX_ID_BYTES, NodeInfo, NodeLoad, Notification, Op, Request, RoomInfo, TransportState, VERSION,
    error_code,
};
use super::rpc::{self, Failure};
use crate::shard::{Answer, Command, Event, OpError};

/// Most requests that may wait for a shard at once.
const MAX_PENDING: usize = 65_536;
/// Most notifications held back while `hello` is being answered.
const MAX_HELD: usize = 4_096;
/// Most ops in one `apply`.
const MAX_OPS: usize = 4_096;
/// Shortest and longest interval of load reports.
const LOAD_INTERVAL_MS: std::ops::RangeInclusive<u64> = 100..=3_600_000;
/// Close code a replaced controller sees (RFC 6455 §7.4.2, private use).
pub const CLOSE_REPLACED: u16 = 4000;

/// Names one connection of a controller for as long as the process lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ConnId(pub u64);

/// What the caller has to do.
#[derive(Debug)]
pub enum Effect {
    /// Write a text frame.
    Send(ConnId, String),
    /// Close the connection with this code and reason.
    Close(ConnId, u16, &'static str),
    /// Hand a command to a core; call [`Hub::refuse`] with the token if its inbox is full.
    Command(u16, Command),
    /// Report load this often from now on.
    LoadInterval(Duration),
    /// Everything is closed: end the process.
    Exit,
}

/// See the module.
pub struct Hub {
    info: NodeInfo,
    max_rooms: usize,
    conn: Option<Conn>,
    rooms: HashMap<Box<str>, Room>,
    pending: HashMap<u64, Pending>,
    next_token: u64,
    next_generation: u64,
    stopping: bool,
    /// Cores that have not confirmed yet that all their rooms are closed.
    cores_to_close: usize,
    exited: bool,
}

/// The current controller.
struct Conn {
    id: ConnId,
    greeting: Greeting,
}

/// How far `hello` got.
enum Greeting {
    /// Nothing was said.
    Silent,
    /// The cores are being asked what they run; notifications wait behind the answer.
    Listing { call: Value, missing: usize, rooms: Vec<RoomInfo>, held: Vec<String> },
    /// Answered.
    Done,
}

/// Where a room lives.
struct Room {
    core: u16,
    /// Tells this room from an older one of the same name whose end is not confirmed yet.
    generation: u64,
    /// A shard said that it is open.
    open: bool,
    /// Commands on their way that may open it.
    opening: u32,
    /// The last command on its way ends with `CloseRoom`.
    closing: bool,
}

/// What the reply with a token is for.
enum Pending {
    Apply { origin: Origin, room: Box<str>, generation: u64, core: u16, changes: Vec<Presence> },
    Stats { origin: Origin },
    List { conn: ConnId },
    CloseAll,
}

/// Whom to answer.
#[derive(Clone)]
struct Origin {
    conn: Option<ConnId>,
    call: Value,
}

/// An op of an `apply` that opens or closes its room.
#[derive(Clone, Copy)]
struct Presence {
    index: usize,
    open: bool,
}

impl Hub {
    /// `info`: identity and cores of this node; `rooms` and `draining` in it are filled in later. `max_rooms`: rooms per
    /// node.
    pub fn new(info: NodeInfo, max_rooms: u32) -> Hub {
        Hub {
            info,
            max_rooms: max_rooms as usize,
            conn: None,
            rooms: HashMap::new(),
            pending: HashMap::new(),
            next_token: 0,
            next_generation: 0,
            stopping: false,
            cores_to_close: 0,
            exited: false,
        }
    }

    /// Rooms known to be open or opening.
    pub fn room_count(&self) -> usize {
        self.rooms.len()
    }

    /// Whether a controller is connected and has said hello.
    pub fn has_controller(&self) -> bool {
        self.conn.as_ref().is_some_and(|conn| matches!(conn.greeting, Greeting::Done))
    }

    /// Whether new rooms are refused.
    pub fn draining(&self) -> bool {
        self.info.draining
    }

    /// An authenticated controller connected.
    pub fn attach(&mut self, id: ConnId, out: &mut Vec<Effect>) {
        if let Some(old) = self.conn.replace(Conn { id, greeting: Greeting::Silent }) {
            out.push(Effect::Close(old.id, CLOSE_REPLACED, "another controller connected"));
        }
    }

    /// A connection is gone. Nothing else changes.
    pub fn detach(&mut self, id: ConnId) {
        self.conn.take_if(|conn| conn.id == id);
    }

    /// One text frame of a controller.
    pub fn handle_text(&mut self, conn: ConnId, text: &str, out: &mut Vec<Effect>) {
        if self.conn.as_ref().is_none_or(|current| current.id != conn) {
            return;
        }
        match rpc::parse(text) {
            Ok(call) => {
                if let Err(failure) = self.handle_request(conn, &call.id, call.request, out) {
                    out.push(Effect::Send(conn, rpc::error(&call.id, &failure)));
                }
            }
            Err((id, failure)) => out.push(Effect::Send(conn, rpc::error(&id, &failure))),
        }
    }

    /// A shard replied, or something happened on it.
    pub fn handle_event(&mut self, event: Event, out: &mut Vec<Effect>) {
        match event {
            Event::Reply { token, result } => self.handle_reply(token, result, out),
            Event::TransportState { room, transport, state, reason } => {
                self.notify_transport(&room, &transport, state, reason, out);
            }
        }
        self.exit_when_empty(out);
    }

    /// A command of [`Effect::Command`] found the inbox of its core full.
    pub fn refuse(&mut self, token: u64, out: &mut Vec<Effect>) {
        let message = "the core's command queue is full".to_owned();
        self.handle_reply(token, Err(OpError { code: error_code::OVERLOADED, message, op: 0 }), out);
    }

    /// Time for a load report.
    pub fn report_load(&mut self, load: NodeLoad, out: &mut Vec<Effect>) {
        if let Some(conn) = &self.conn
            && matches!(conn.greeting, Greeting::Done)
        {
            out.push(Effect::Send(conn.id, rpc::notification(&Notification::Load(load))));
        }
    }

    /// Refuses new rooms from now on; [`Effect::Exit`] follows when the last one is closed.
    pub fn drain(&mut self, out: &mut Vec<Effect>) {
        self.info.draining = true;
        self.exit_when_empty(out);
    }

    /// Closes everything; [`Effect::Exit`] follows when all cores have confirmed.
    pub fn stop(&mut self, out: &mut Vec<Effect>) {
        self.info.draining = true;
        if std::mem::replace(&mut self.stopping, true) {
            return;
        }
        self.cores_to_close = self.info.cores.len();
        for core in 0..self.info.cores.len() as u16 {
            let token = self.pend(Pending::CloseAll);
            out.push(Effect::Command(core, Command::CloseAll { token }));
        }
        self.exit_when_empty(out);
    }

    fn handle_request(
        &mut self,
        conn: ConnId,
        call: &Value,
        request: Request,
        out: &mut Vec<Effect>,
    ) -> Result<(), Failure> {
        if !matches!(request, Request::Hello { .. }) && !self.has_controller() {
            return Err(Failure::new(error_code::BAD_REQUEST, "hello must come first and be answered"));
        }
        if self.pending.len() >= MAX_PENDING {
            return Err(Failure::new(error_code::OVERLOADED, format!("{MAX_PENDING} requests are waiting")));
        }
        match request {
            Request::Hello { version, load_interval_ms } => {
                self.hello(conn, call, version, load_interval_ms, out)
            }
            Request::Apply { room, ops } => self.apply(conn, call, &room, ops, out),
            Request::RoomStats { room } => self.room_stats(conn, call, &room, out),
            Request::Drain {} => {
                out.push(Effect::Send(conn, rpc::result(call, &json!({}))));
                self.drain(out);
                Ok(())
            }
            Request::Shutdown {} => {
                out.push(Effect::Send(conn, rpc::result(call, &json!({}))));
                self.stop(out);
                Ok(())
            }
        }
    }

    fn hello(
        &mut self,
        conn: ConnId,
        call: &Value,
        version: u32,
        load_interval_ms: u64,
        out: &mut Vec<Effect>,
    ) -> Result<(), Failure> {
        if version != VERSION {
            let message = format!("version {version} asked for, this node speaks {VERSION}");
            return Err(Failure::new(error_code::VERSION, message));
        }
        if !LOAD_INTERVAL_MS.contains(&load_interval_ms) {
            let (min, max) = LOAD_INTERVAL_MS.into_inner();
            let message = format!("loadIntervalMs is {load_interval_ms}, allowed are {min} to {max}");
            return Err(Failure::new(error_code::INVALID, message));
        }
        if self.conn.as_ref().is_some_and(|conn| !matches!(conn.greeting, Greeting::Silent)) {
            return Err(Failure::new(error_code::BAD_REQUEST, "hello was said already"));
        }
        let cores = self.info.cores.len();
        if let Some(current) = &mut self.conn {
            current.greeting =
                Greeting::Listing { call: call.clone(), missing: cores, rooms: Vec::new(), held: Vec::new() };
        }
        out.push(Effect::LoadInterval(Duration::from_millis(load_interval_ms)));
        for core in 0..cores as u16 {
            let token = self.pend(Pending::List { conn });
            out.push(Effect::Command(core, Command::ListRooms { token }));
        }
        Ok(())
    }

    fn apply(
        &mut self,
        conn: ConnId,
        call: &Value,
        room: &str,
        ops: Vec<Op>,
        out: &mut Vec<Effect>,
    ) -> Result<(), Failure> {
        if room.is_empty() || room.len() > MAX_ID_BYTES {
            return Err(Failure::new(
                error_code::INVALID,
                format!("room must have 1 to {MAX_ID_BYTES} bytes"),
            ));
        }
        if ops.len() > MAX_OPS {
            return Err(Failure::new(error_code::INVALID, format!("more than {MAX_OPS} ops")));
        }
        if ops.is_empty() {
            out.push(Effect::Send(conn, rpc::result(call, &json!({}))));
            return Ok(());
        }
        let (core, generation) = self.locate(room, &ops[0])?;
        let changes = presence_changes(&ops);
        if let Some(entry) = self.rooms.get_mut(room) {
            entry.opening += u32::from(changes.iter().any(|change| change.open));
            entry.closing = changes.last().map_or(entry.closing, |change| !change.open);
        }
        let origin = Origin { conn: Some(conn), call: call.clone() };
        let token = self.pend(Pending::Apply { origin, room: room.into(), generation, core, changes });
        out.push(Effect::Command(core, Command::Apply { token, room: room.into(), ops }));
        Ok(())
    }

    /// Finds the core of a room, or enters a new room whose first op opens it.
    fn locate(&mut self, room: &str, first: &Op) -> Result<(u16, u64), Failure> {
        let asked = match first {
            Op::OpenRoom { core } => Some(*core),
            _ => None,
        };
        match (self.rooms.get(room), asked) {
            (Some(entry), None) => return Ok((entry.core, entry.generation)),
            (Some(entry), Some(core)) if entry.core == core => return Ok((entry.core, entry.generation)),
            // The old room is about to end; the new one of the same name may be anywhere.
            (Some(entry), Some(_)) if entry.closing => {}
            (Some(entry), Some(core)) => {
                let message = format!("room {room:?} is on core {}, not {core}", entry.core);
                return Err(Failure::of_op(error_code::CONFLICT, message, 0));
            }
            (None, None) => {
                let message = format!("room {room:?} does not exist");
                return Err(Failure::of_op(error_code::NOT_FOUND, message, 0));
            }
            (None, Some(_)) => {}
        }
        let core = asked.expect("the cases without a core have returned");
        self.admit(core)?;
        self.next_generation += 1;
        let generation = self.next_generation;
        self.rooms.insert(room.into(), Room { core, generation, open: false, opening: 0, closing: false });
        Ok((core, generation))
    }

    /// Whether a new room may be opened on `core`.
    fn admit(&self, core: u16) -> Result<(), Failure> {
        let cores = self.info.cores.len();
        if usize::from(core) >= cores {
            let message = format!("core is {core}, this node has {cores}");
            return Err(Failure::of_op(error_code::INVALID, message, 0));
        }
        if self.info.draining {
            return Err(Failure::of_op(error_code::OVERLOADED, "this node drains", 0));
        }
        if self.rooms.len() >= self.max_rooms {
            let message = format!("room limit of {} per node reached", self.max_rooms);
            return Err(Failure::of_op(error_code::OVERLOADED, message, 0));
        }
        Ok(())
    }

    fn room_stats(
        &mut self,
        conn: ConnId,
        call: &Value,
        room: &str,
        out: &mut Vec<Effect>,
    ) -> Result<(), Failure> {
        let Some(entry) = self.rooms.get(room) else {
            return Err(Failure::new(error_code::NOT_FOUND, format!("room {room:?} does not exist")));
        };
        let core = entry.core;
        let token = self.pend(Pending::Stats { origin: Origin { conn: Some(conn), call: call.clone() } });
        out.push(Effect::Command(core, Command::RoomStats { token, room: room.into() }));
        Ok(())
    }

    fn pend(&mut self, pending: Pending) -> u64 {
        self.next_token += 1;
        self.pending.insert(self.next_token, pending);
        self.next_token
    }

    fn handle_reply(&mut self, token: u64, result: Result<Answer, OpError>, out: &mut Vec<Effect>) {
        match self.pending.remove(&token) {
            Some(Pending::Apply { origin, room, generation, core, changes }) => {
                self.follow(&room, generation, core, &changes, result.as_ref().err(), out);
                self.answer(&origin, result, out);
            }
            Some(Pending::Stats { origin }) => self.answer(&origin, result, out),
            Some(Pending::List { conn }) => self.collect(conn, result, out),
            Some(Pending::CloseAll) => self.cores_to_close -= 1,
            None => {}
        }
        self.exit_when_empty(out);
    }

    /// Keeps the directory in step with what a core did to a room.
    fn follow(
        &mut self,
        room: &str,
        generation: u64,
        core: u16,
        changes: &[Presence],
        error: Option<&OpError>,
        out: &mut Vec<Effect>,
    ) {
        let applied = error.map_or(usize::MAX, |error| error.op);
        let outcome = changes.iter().rfind(|change| change.index < applied).map(|change| change.open);
        let may_open = changes.iter().any(|change| change.open);
        match self.rooms.get_mut(room) {
            Some(entry) if entry.generation == generation => {
                entry.opening -= u32::from(may_open);
                entry.open = outcome.unwrap_or(entry.open);
                if error.is_some() && changes.last().is_some_and(|change| !change.open) {
                    entry.closing = false;
                }
                if !entry.open && entry.opening == 0 {
                    self.rooms.remove(room);
                }
            }
            // The room was given to another core because its end was on the way here; it must not live on.
            _ if error.is_some() => {
                let origin = Origin { conn: None, call: Value::Null };
                let pending =
                    Pending::Apply { origin, room: room.into(), generation, core, changes: Vec::new() };
                if !changes.is_empty() {
                    let token = self.pend(pending);
                    out.push(Effect::Command(
                        core,
                        Command::Apply { token, room: room.into(), ops: vec![Op::CloseRoom] },
                    ));
                }
            }
            _ => {}
        }
    }

    fn answer(&self, origin: &Origin, result: Result<Answer, OpError>, out: &mut Vec<Effect>) {
        let Some(conn) =
            origin.conn.filter(|conn| self.conn.as_ref().is_some_and(|current| current.id == *conn))
        else {
            return;
        };
        let call = &origin.call;
        let text = match result {
            Ok(Answer::Done) => rpc::result(call, &json!({})),
            Ok(Answer::RoomStats(stats)) => rpc::result(call, &stats),
            Ok(Answer::Rooms(rooms)) => rpc::result(call, &rooms),
            Err(error) => rpc::error(call, &Failure::of_op(error.code, error.message, error.op)),
        };
        out.push(Effect::Send(conn, text));
    }

    /// One core told what it runs; the last one completes the answer to `hello`.
    fn collect(&mut self, id: ConnId, result: Result<Answer, OpError>, out: &mut Vec<Effect>) {
        let Some(conn) = self.conn.as_mut().filter(|conn| conn.id == id) else { return };
        let Greeting::Listing { call, missing, rooms, held } = &mut conn.greeting else { return };
        match result {
            Ok(Answer::Rooms(found)) => rooms.extend(found),
            // A controller that was told half the truth would close the other half: let it ask again.
            _ => {
                out.push(Effect::Close(id, 1013, "a core did not answer"));
                self.conn = None;
                return;
            }
        }
        *missing -= 1;
        if *missing > 0 {
            return;
        }
        self.info.rooms = std::mem::take(rooms);
        out.push(Effect::Send(id, rpc::result(call, &self.info)));
        out.extend(held.drain(..).map(|text| Effect::Send(id, text)));
        conn.greeting = Greeting::Done;
        let rooms = std::mem::take(&mut self.info.rooms);
        self.rebuild_directory(rooms);
    }

    /// Takes the cores' word for what is open. Every command of an older connection was answered before the lists were, so
    /// nothing of it is on its way; whatever an overflow lost is repaired here.
    fn rebuild_directory(&mut self, rooms: Vec<RoomInfo>) {
        self.pending.retain(|_, pending| matches!(pending, Pending::CloseAll));
        self.rooms.clear();
        for RoomInfo { room, core, .. } in rooms {
            self.next_generation += 1;
            let generation = self.next_generation;
            self.rooms.insert(room.into(), Room { core, generation, open: true, opening: 0, closing: false });
        }
    }

    fn notify_transport(
        &mut self,
        room: &str,
        transport: &str,
        state: TransportState,
        reason: &str,
        out: &mut Vec<Effect>,
    ) {
        let Some(conn) = &mut self.conn else { return };
        let text = || {
            rpc::notification(&Notification::TransportState {
                room: room.to_owned(),
                transport: transport.to_owned(),
                state,
                reason: reason.to_owned(),
            })
        };
        match &mut conn.greeting {
            Greeting::Silent => {}
            Greeting::Listing { held, .. } if held.len() < MAX_HELD => held.push(text()),
            Greeting::Listing { .. } => {
                out.push(Effect::Close(conn.id, 1013, "too many events before the answer to hello"));
                self.conn = None;
            }
            Greeting::Done => out.push(Effect::Send(conn.id, text())),
        }
    }

    fn exit_when_empty(&mut self, out: &mut Vec<Effect>) {
        let empty = if self.stopping { self.cores_to_close == 0 } else { self.rooms.is_empty() };
        if self.info.draining && empty && !std::mem::replace(&mut self.exited, true) {
            out.push(Effect::Exit);
        }
    }
}

fn presence_changes(ops: &[Op]) -> Vec<Presence> {
    let changes = ops.iter().enumerate().filter_map(|(index, op)| match op {
        Op::OpenRoom { .. } => Some(Presence { index, open: true }),
        Op::CloseRoom => Some(Presence { index, open: false }),
        _ => None,
    });
    changes.collect()
}

#[cfg(test)]
mod tests;
