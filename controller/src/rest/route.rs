//! Method and path to operation.
#![forbid(unsafe_code)]

/// What a request asks for; borrowed ids are path segments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Route<'a> {
    Sessions,
    CreateSession,
    Session(&'a str),
    CloseSession(&'a str),
    Connections(&'a str),
    CreateConnection(&'a str),
    Connection(&'a str, &'a str),
    PatchConnection(&'a str, &'a str),
    CloseConnection(&'a str, &'a str),
    CloseStream(&'a str, &'a str),
    Signal,
    CreateToken,
    Health,
    MediaNodes,
    MediaNode(&'a str),
    AddMediaNode,
    FindMediaNodes,
    RemoveMediaNode(&'a str),
    PatchMediaNode(&'a str),
    StartBroadcast,
    StopBroadcast,
    /// A path of the contract that has no implementation; the text says so.
    NotBuilt(&'static str),
}

/// Status of a known path with a method it does not have: 405 up to 2.31, 403 from 2.32.
pub(super) const WRONG_METHOD: u16 = 403;

const SPEECH: &str = "speech to text is not available";

impl<'a> Route<'a> {
    /// The operation, or the status to refuse with: 404 for an unknown path, [`WRONG_METHOD`] otherwise. `HEAD` is as `GET`.
    pub(super) fn of(method: &str, path: &'a [String]) -> Result<Self, u16> {
        let segments: Vec<&'a str> = path.iter().map(String::as_str).collect();
        let method = if method == "HEAD" { "GET" } else { method };
        Ok(match (segments.as_slice(), method) {
            (["sessions"], "GET") => Self::Sessions,
            (["sessions"], "POST") => Self::CreateSession,
            (["sessions", id], "GET") => Self::Session(id),
            (["sessions", id], "DELETE") => Self::CloseSession(id),
            (["sessions", id, "connection"], "GET") => Self::Connections(id),
            (["sessions", id, "connection"], "POST") => Self::CreateConnection(id),
            (["sessions", id, "connection", connection], "GET") => Self::Connection(id, connection),
            (["sessions", id, "connection", connection], "PATCH") => Self::PatchConnection(id, connection),
            (["sessions", id, "connection", connection], "DELETE") => Self::CloseConnection(id, connection),
            (["sessions", id, "stream", stream], "DELETE") => Self::CloseStream(id, stream),
            (["signal"], "POST") => Self::Signal,
            (["tokens"], "POST") => Self::CreateToken,
            (["health"], "GET") => Self::Health,
            (["media-nodes"], "GET") => Self::MediaNodes,
            (["media-nodes", id], "GET") => Self::MediaNode(id),
            (["media-nodes"], "POST") => Self::AddMediaNode,
            (["media-nodes"], "PUT") => Self::FindMediaNodes,
            (["media-nodes", id], "DELETE") => Self::RemoveMediaNode(id),
            (["media-nodes", id], "PATCH") => Self::PatchMediaNode(id),
            (["broadcast", "start"], "POST") => Self::StartBroadcast,
            (["broadcast", "stop"], "POST") => Self::StopBroadcast,
            (["speech-to-text", "load" | "unload"], "POST") => Self::NotBuilt(SPEECH),
            (
                ["sessions" | "signal" | "tokens" | "health" | "restart" | "media-nodes"]
                | ["sessions" | "media-nodes", _]
                | ["sessions", _, "connection" | "stream"]
                | ["sessions", _, "connection" | "stream", _]
                | ["broadcast", "start" | "stop"]
                | ["speech-to-text", "load" | "unload"],
                _,
            ) => return Err(WRONG_METHOD),
            _ => return Err(404),
        })
    }
}
