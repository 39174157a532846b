//! The accept loop: connection cap, first byte, TLS, hyper, graceful end.

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use super::{HEAD_BYTES_MAX, HEAD_TIMEOUT, Peer, Shared, router};

/// First byte of a TLS record with a ClientHello (RFC 8446 §5.1).
const TLS_HANDSHAKE: u8 = 0x16;
/// How long requests in progress may take when the server stops.
const DRAIN: Duration = Duration::from_secs(2);
/// Requests one HTTP/2 connection may have open.
const H2_STREAMS_MAX: u32 = 128;
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
            permits: Arc::new(Semaphore::new(self.shared.config.max_connections)),
            shared: self.shared,
            tls: self.tls,
            now_ms: self.now_ms,
        });
        let mut loops = JoinSet::new();
        for listener in self.listeners {
            loops.spawn(accept_loop(listener, context.clone(), stop.clone()));
        }
        while loops.join_next().await.is_some() {}
    }
}

struct Context {
    permits: Arc<Semaphore>,
    shared: Arc<Shared>,
    tls: TlsAcceptor,
    now_ms: fn() -> u64,
}

async fn accept_loop(listener: TcpListener, context: Arc<Context>, mut stop: watch::Receiver<bool>) {
    let graceful = GracefulShutdown::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stop.wait_for(|stopped| *stopped) => break,
        };
        let (stream, from) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "accept failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        match context.permits.clone().try_acquire_owned() {
            Ok(permit) => {
                tokio::spawn(connection(context.clone(), stream, from.ip(), permit, graceful.watcher()));
            }
            Err(_) => {
                context.shared.metrics.refused.inc();
            }
        }
    }
    drop(listener);
    let _ = timeout(DRAIN, graceful.shutdown()).await;
}

/// One TCP connection.
async fn connection(
    context: Arc<Context>,
    stream: TcpStream,
    from: IpAddr,
    permit: OwnedSemaphorePermit,
    watcher: Watcher,
) {
    let metrics = &context.shared.metrics;
    metrics.connections.inc();
    if let Err(error) = serve(&context, stream, from.to_canonical(), permit, watcher).await {
        metrics.failed.inc();
        tracing::debug!(%from, %error, "connection failed");
    }
    metrics.connections.dec();
}

async fn serve(
    context: &Arc<Context>,
    stream: TcpStream,
    ip: IpAddr,
    permit: OwnedSemaphorePermit,
    watcher: Watcher,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    stream.set_nodelay(true)?;
    let loopback = stream.local_addr()?.ip().to_canonical().is_loopback();
    let mut first = [0];
    if timeout(HEAD_TIMEOUT, stream.peek(&mut first)).await?? == 0 {
        return Ok(());
    }
    let tls = first[0] == TLS_HANDSHAKE;
    let peer = Peer { ip, tls, loopback, permit: Arc::new(permit) };
    if tls {
        let stream = timeout(HEAD_TIMEOUT, context.tls.accept(stream)).await??;
        speak_http(context, stream, peer, watcher).await
    } else {
        speak_http(context, stream, peer, watcher).await
    }
}

async fn speak_http<S>(
    context: &Arc<Context>,
    stream: S,
    peer: Peer,
    watcher: Watcher,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEAD_BYTES_MAX)
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(H2_STREAMS_MAX)
        .max_header_list_size(HEAD_BYTES_MAX as u32)
        .keep_alive_interval(Duration::from_secs(20))
        .keep_alive_timeout(HEAD_TIMEOUT);
    let (shared, now_ms) = (context.shared.clone(), context.now_ms);
    let service = service_fn(move |request| {
        let (shared, peer) = (shared.clone(), peer.clone());
        async move { Ok::<_, std::convert::Infallible>(router::serve(&shared, request, peer, now_ms()).await) }
    });
    let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
    watcher.watch(connection.into_owned()).await
}
