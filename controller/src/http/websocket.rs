//! WebSockets of clients (RFC 6455) at `/openvidu`: one task each, between the frames and the shell.
//!
//! A socket that stays silent for [`IDLE`] is pinged; one that does not answer that either is given up. Official clients
//! ping by JSON-RPC every 5 s, so neither happens to them. One that takes no frame for [`super::Patience::write`] is cut.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use hyper::body::Incoming;
use hyper::{Request, StatusCode, header};
use hyper_tungstenite::HyperWebsocket;
use hyper_tungstenite::tungstenite::protocol::{CloseFrame, WebSocketConfig, frame::coding::CloseCode};
use hyper_tungstenite::tungstenite::{Error, Message};
use tokio::time::timeout;

use super::outbox::{OutboxReader, Outgoing, outbox};
use super::reply::{self, Reply};
use super::{Event, MESSAGE_BYTES_MAX, Peer, Shared};
use crate::ids::ClientId;

/// Silence after which the client is pinged, and again until it is given up.
const IDLE: Duration = Duration::from_secs(45);
/// Longest message that is taken off a socket, bytes. Those between this and the longest one that can be used are answered by
/// JSON-RPC (-32600); a longer one ends its socket.
const READ_BYTES_MAX: usize = MESSAGE_BYTES_MAX + 64 * 1024;
/// How long a client may take to answer a close frame.
const CLOSE_WAIT: Duration = Duration::from_secs(3);

/// How a socket ended.
struct End {
    code: Option<u16>,
    reason: String,
    /// The client has still to be told.
    untold: bool,
}

impl End {
    fn broken(reason: impl Into<String>) -> Self {
        Self { code: None, reason: reason.into(), untold: false }
    }

    fn refused(code: u16, reason: &str) -> Self {
        Self { code: Some(code), reason: reason.to_owned(), untold: true }
    }
}

/// Answers an upgrade request and starts the socket's task.
pub fn serve(shared: &Arc<Shared>, mut request: Request<Incoming>, peer: Peer) -> Reply {
    let config = WebSocketConfig::default()
        .max_message_size(Some(READ_BYTES_MAX))
        .max_frame_size(Some(READ_BYTES_MAX))
        .read_buffer_size(8 * 1024)
        // Nothing is buffered but the text being sent, and that may be a long one: the outbox has the bound.
        .write_buffer_size(0);
    let agent = request.headers().get(header::USER_AGENT).and_then(|v| v.to_str().ok()).map(str::to_owned);
    let (response, socket) = match hyper_tungstenite::upgrade(&mut request, Some(config)) {
        Ok(upgraded) => upgraded,
        Err(_) => return reply::empty(StatusCode::BAD_REQUEST),
    };
    tokio::spawn(run(shared.clone(), socket, peer, agent));
    let (parts, _) = response.into_parts();
    let mut reply = reply::empty(parts.status);
    *reply.headers_mut() = parts.headers;
    reply
}

/// One socket from upgrade to end.
async fn run(shared: Arc<Shared>, socket: HyperWebsocket, peer: Peer, user_agent: Option<String>) {
    let Ok(Ok(socket)) = timeout(shared.patience.head, socket).await else { return };
    let client = shared.new_client();
    let (sender, reader) = outbox();
    let opened = Event::SocketOpened { client, remote_ip: peer.ip, user_agent, outbox: sender };
    if shared.events.send(opened).await.is_err() {
        return;
    }
    shared.metrics.sockets.inc();
    let cut = reader.cut();
    let (mut sink, stream) = socket.split();
    let end = tokio::select! {
        end = read(&shared, client, stream) => end,
        end = write(&shared, &mut sink, reader) => end,
        () = cut => {
            shared.metrics.sockets_cut.inc();
            End::broken("the client did not read")
        }
    };
    let end = match end.code.filter(|_| end.untold) {
        Some(code) => close(sink, code, end.reason).await,
        None => end,
    };
    shared.metrics.sockets.dec();
    tracing::debug!(client = client.0, code = end.code, reason = end.reason, "socket closed");
    let closed = Event::SocketClosed { client, code: end.code, reason: end.reason };
    drop(peer);
    // The shell being gone is how the process ends.
    let _ = shared.events.send(closed).await;
}

/// Frames in, until the client closes, breaks or falls silent.
async fn read<S>(shared: &Shared, client: ClientId, mut stream: S) -> End
where
    S: futures_util::Stream<Item = Result<Message, Error>> + Unpin,
{
    let mut silent = 0;
    loop {
        let text = match timeout(IDLE, stream.next()).await {
            Err(_) if silent == 2 => return End::broken("no frame for a long time"),
            Err(_) => {
                silent += 1;
                continue;
            }
            Ok(Some(Ok(Message::Text(text)))) => text.to_string(),
            Ok(Some(Ok(Message::Close(frame)))) => {
                let code = frame.as_ref().map(|f| f.code.into());
                // One more poll lets the library answer the close frame.
                let _ = timeout(CLOSE_WAIT, stream.next()).await;
                let reason = frame.map(|f| f.reason.to_string()).unwrap_or_default();
                return End { code, reason, untold: false };
            }
            Ok(Some(Ok(Message::Binary(_)))) => {
                return End::refused(1003, "binary frame");
            }
            Ok(Some(Ok(_))) => {
                silent = 0;
                continue;
            }
            Ok(Some(Err(Error::Capacity(_)))) => {
                shared.metrics.messages_too_long.inc();
                return End::refused(1009, "message is too long");
            }
            Ok(Some(Err(error))) => return End::broken(error.to_string()),
            Ok(None) => return End::broken("end of file"),
        };
        silent = 0;
        if shared.events.send(Event::SocketText { client, text }).await.is_err() {
            return End::broken("the server is stopping");
        }
    }
}

/// Texts out, with pings in between, until the shell closes the socket. A peer that takes no frame in time is cut, whatever
/// it sends meanwhile: behind a frame that does not get out, no close frame would either.
async fn write<S>(shared: &Shared, mut sink: S, mut reader: OutboxReader) -> End
where
    S: futures_util::Sink<Message, Error = Error> + Unpin,
{
    loop {
        let (message, length) = match timeout(IDLE, reader.next()).await {
            Err(_) => (Message::Ping(Default::default()), 0),
            Ok(Some(Outgoing::Text(text))) => {
                let length = text.len();
                (Message::text(&*text), length)
            }
            Ok(Some(Outgoing::Close { code, reason })) => return close(sink, code, reason).await,
            Ok(None) => return close(sink, 1001, "the server is stopping".into()).await,
        };
        match timeout(shared.patience.write, sink.send(message)).await {
            Ok(Ok(())) => reader.written(length),
            Ok(Err(error)) => return End::broken(error.to_string()),
            Err(_) => {
                shared.metrics.sockets_cut.inc();
                return End::broken("the client did not take a frame in time");
            }
        }
    }
}

async fn close<S>(mut sink: S, code: u16, reason: String) -> End
where
    S: futures_util::Sink<Message, Error = Error> + Unpin,
{
    // A control frame holds 125 bytes: two of code and the reason.
    let mut cut = reason.len().min(123);
    while !reason.is_char_boundary(cut) {
        cut -= 1;
    }
    let frame = CloseFrame { code: CloseCode::from(code), reason: reason[..cut].to_owned().into() };
    let _ = timeout(CLOSE_WAIT, sink.send(Message::Close(Some(frame)))).await;
    // The client answers with its own close frame, which `read` sees first; a client that does not is not waited for.
    tokio::time::sleep(CLOSE_WAIT).await;
    End { code: Some(code), reason, untold: false }
}
