//! The same with tokio-uring 0.5: receives in flight together, copies sent together, webrtc-srtp.

use std::rc::Rc;

use anyhow::Context as _;
use bytes::Bytes;
use futures_util::future::join_all;
use tokio_uring::Runtime;
use tokio_uring::net::UdpSocket;

use super::egress::Egress;
use super::feeder::{Feeder, fixed_keys};
use super::naive::Forwarder;
use super::{FAN_OUT, Sent, Variant, others};

/// Receives in flight.
const RECEIVES: usize = 32;
/// Sends joined.
const SENDS: usize = 64;

/// tokio-uring + webrtc-srtp.
pub struct RingRuntime {
    runtime: Runtime,
    socket: Rc<UdpSocket>,
    forwarder: Forwarder,
    feeder: Feeder,
    buffers: Vec<Vec<u8>>,
}

impl RingRuntime {
    /// Starts a ring and binds its socket.
    ///
    /// # Errors
    /// The kernel refuses io_uring.
    pub fn new(egress: &Egress) -> anyhow::Result<RingRuntime> {
        let runtime = Runtime::new(tokio_uring::builder().entries(256)).context("tokio-uring")?;
        let bound = sfu_core::reactor::Socket::bind(egress.node)?;
        let to = bound.local_addr();
        let socket = runtime.block_on(async { UdpSocket::from_std(bound.into_std()) });
        Ok(RingRuntime {
            runtime,
            socket: Rc::new(socket),
            forwarder: Forwarder::new(egress.shape, &egress.addrs)?,
            feeder: Feeder::new(&fixed_keys(egress.shape.peers(), 0), egress, to)?,
            buffers: vec![vec![0; 2048]; RECEIVES],
        })
    }
}

impl Variant for RingRuntime {
    fn name(&self) -> &'static str {
        "tokio-uring"
    }

    fn feed(&mut self, count: usize) -> anyhow::Result<usize> {
        self.feeder.feed(count)
    }

    fn forward(&mut self, count: usize) -> anyhow::Result<Sent> {
        let RingRuntime { runtime, socket, forwarder, buffers, .. } = self;
        runtime.block_on(async {
            let mut left = count;
            while left > 0 {
                let at_once = left.min(RECEIVES);
                left -= at_once;
                let receives = buffers.drain(..at_once).map(|buffer| socket.recv_from(buffer));
                let mut waiting = Vec::with_capacity(at_once * FAN_OUT);
                for (result, buffer) in join_all(receives).await {
                    let (len, from) = result?;
                    let publisher = forwarder.publisher(from)?;
                    let plain = forwarder.open(publisher, &buffer[..len])?;
                    for subscriber in others(publisher) {
                        waiting.push(forwarder.copy(&plain, publisher, subscriber)?);
                    }
                    buffers.push(buffer);
                }
                send(socket, waiting).await?;
            }
            let packets = (count * FAN_OUT) as u64;
            Ok(Sent { packets, datagrams: packets, messages: packets })
        })
    }
}

async fn send(socket: &UdpSocket, packets: Vec<(std::net::SocketAddr, Bytes)>) -> anyhow::Result<()> {
    let mut packets = packets.into_iter().peekable();
    while packets.peek().is_some() {
        let sends = packets.by_ref().take(SENDS).map(|(to, bytes)| socket.send_to(Vec::from(bytes), to));
        for (result, _) in join_all(sends).await {
            result?;
        }
    }
    Ok(())
}
