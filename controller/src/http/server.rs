//! The accept loop: a place for the connection, first byte, TLS, hyper, graceful end.
//!
//! Which HTTP is spoken is agreed on in the TLS handshake (ALPN), and is HTTP/1.1 without one: finding it out from the
//! first bytes would be one more thing to wait for.

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use super::idle::{Activity, Watched};
use super::places::{Full, Place, Places};
use super::reply::Reply;
use super::{HEAD_BYTES_MAX, Peer, Shared, router};

/// First byte of a TLS record with a ClientHello (RFC 8446 §5.1).
const TLS_HANDSHAKE: u8 = 0x16;
/// How long requests in progress may take when the server stops.
const DRAIN: Duration = Duration::from_secs(2);
/// Requests one HTTP/2 connection may have open.
const H2_STREAMS_MAX: u32 = 128;
/// ALPN name of HTTP/2 (RFC 9113 §3.1).
const H2: &[u8] = b"h2";
/// Pause after a failed accept, which is nearly always "too many open files".
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// The client port, bound and ready to run.
pub struct Server {
    listeners: Vec<TcpListener>,
    shared: Arc<Shared>,
    tls: TlsAcceptor,
    /// UTC milliseconds, read by the shell's clock.
    now_ms: fn() -> u64,
}

impl Server {
    /// Binds the configured address. Where that is `127.0.0.1`, `::1` is bound as well if it can be, because "localhost" is
    /// either of them.
    ///
    /// # Errors
    /// The address cannot be bound.
    pub async fn bind(shared: Arc<Shared>, tls: TlsAcceptor, now_ms: fn() -> u64) -> io::Result<Self> {
        let first = TcpListener::bind(shared.config.listen).await?;
        let bound = first.local_addr()?;
        let mut listeners = vec![first];
        if bound.ip() == IpAddr::from([127, 0, 0, 1]) {
            listeners.extend(TcpListener::bind((Ipv6Addr::LOCALHOST, bound.port())).await.ok());
        }
        Ok(Self { listeners, shared, tls, now_ms })
    }

    /// The address that was bound.
    ///
    /// # Errors
    /// The operating system's.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listeners[0].local_addr()
    }

    /// Serves until `stop` turns true, then finishes what is under way, for two seconds at most.
    pub async fn run(self, stop: watch::Receiver<bool>) {
        let context = Arc::new(Context {
            places: Places::new(
                self.shared.config.max_connections,
                self.shared.config.max_connections_per_address,
            ),
            shared: self.shared,
            tls: self.tls,
            now_ms: self.now_ms,
            stop,
        });
        let mut loops = JoinSet::new();
        for listener in self.listeners {
            loops.spawn(accept_loop(listener, context.clone()));
        }
        while loops.join_next().await.is_some() {}
    }
}

struct Context {
    places: Arc<Places>,
    shared: Arc<Shared>,
    tls: TlsAcceptor,
    now_ms: fn() -> u64,
    /// Turns true when the server shall stop.
    stop: watch::Receiver<bool>,
}

impl Context {
    async fn stopped(&self) {
        // A sender that is gone tells the same.
        let _ = self.stop.clone().wait_for(|stopped| *stopped).await;
    }
}

async fn accept_loop(listener: TcpListener, context: Arc<Context>) {
    // Each connection holds a receiver until it is done.
    let (open, _) = watch::channel(());
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = context.stopped() => break,
        };
        let (stream, from) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "accept failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let metrics = &context.shared.metrics;
        let _before = match context.places.take(from.ip()) {
            Ok(place) => {
                tokio::spawn(connection(context.clone(), stream, from.ip(), place, open.subscribe()));
                continue;
            }
            Err(Full::All) => metrics.refused.inc(),
            Err(Full::Address) => metrics.refused_address.inc(),
        };
    }
    drop(listener);
    let _ = timeout(DRAIN, open.closed()).await;
}

type Outcome = Result<(), Box<dyn std::error::Error + Send + Sync>>;

/// One TCP connection.
async fn connection(
    context: Arc<Context>,
    stream: TcpStream,
    from: IpAddr,
    place: Place,
    _open: watch::Receiver<()>,
) {
    let metrics = &context.shared.metrics;
    metrics.connections.inc();
    if let Err(error) = serve(&context, stream, from.to_canonical(), place).await {
        metrics.failed.inc();
        tracing::debug!(%from, %error, "connection failed");
    }
    metrics.connections.dec();
}

async fn serve(context: &Arc<Context>, stream: TcpStream, ip: IpAddr, place: Place) -> Outcome {
    let patience = context.shared.patience.head;
    stream.set_nodelay(true)?;
    let loopback = stream.local_addr()?.ip().to_canonical().is_loopback();
    let mut first = [0];
    if timeout(patience, stream.peek(&mut first)).await?? == 0 {
        return Ok(());
    }
    let tls = first[0] == TLS_HANDSHAKE;
    let peer = Peer { ip, tls, loopback, place: Arc::new(place) };
    if !tls {
        return speak_http1(context, stream, peer).await;
    }
    let stream = timeout(patience, context.tls.accept(stream)).await??;
    if stream.get_ref().1.alpn_protocol() == Some(H2) {
        speak_http2(context, stream, peer).await
    } else {
        speak_http1(context, stream, peer).await
    }
}

async fn speak_http1<S>(context: &Arc<Context>, stream: S, peer: Peer) -> Outcome
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(context.shared.patience.head)
        .max_buf_size(HEAD_BYTES_MAX);
    let activity = Activity::default();
    let service = service_fn(answering(context, peer, &activity));
    let connection = builder.serve_connection(TokioIo::new(stream), service).with_upgrades();
    until_idle(context, connection, http1::UpgradeableConnection::graceful_shutdown, activity).await
}

async fn speak_http2<S>(context: &Arc<Context>, stream: S, peer: Peer) -> Outcome
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(H2_STREAMS_MAX)
        .max_header_list_size(HEAD_BYTES_MAX as u32)
        .keep_alive_interval(Duration::from_secs(20))
        .keep_alive_timeout(context.shared.patience.head);
    let activity = Activity::default();
    let service = service_fn(answering(context, peer, &activity));
    let connection = builder.serve_connection(TokioIo::new(stream), service);
    until_idle(context, connection, http2::Connection::graceful_shutdown, activity).await
}

/// Serves requests and notes that they, and the bodies of their answers, move on.
fn answering(
    context: &Arc<Context>,
    peer: Peer,
    activity: &Activity,
) -> impl Fn(Request<Incoming>) -> Answer + use<> {
    let (shared, now_ms, activity) = (context.shared.clone(), context.now_ms, activity.clone());
    move |request| {
        let (shared, peer, activity) = (shared.clone(), peer.clone(), activity.clone());
        Box::pin(async move {
            let under_way = activity.begin();
            let (parts, body) = router::serve(&shared, request, peer, now_ms()).await.into_parts();
            drop(under_way);
            let body = Watched::new(body, activity);
            Ok(Response::from_parts(parts, body.boxed_unsync()))
        })
    }
}

type Answer = Pin<Box<dyn Future<Output = Result<Reply, std::convert::Infallible>> + Send>>;

/// Runs a connection until it ends, or nothing happens on it for too long, or the server stops; what is under way then may
/// take [`DRAIN`]. A connection that became a WebSocket has ended here.
async fn until_idle<C>(
    context: &Context,
    connection: C,
    finish: fn(Pin<&mut C>),
    activity: Activity,
) -> Outcome
where
    C: Future<Output = hyper::Result<()>>,
{
    let mut connection = pin!(connection);
    tokio::select! {
        ended = &mut connection => return Ok(ended?),
        () = activity.none_for(context.shared.patience.idle) => drop(context.shared.metrics.idle.inc()),
        () = context.stopped() => {}
    }
    finish(connection.as_mut());
    match timeout(DRAIN, connection).await {
        Ok(ended) => Ok(ended?),
        Err(_) => Ok(()),
    }
}
