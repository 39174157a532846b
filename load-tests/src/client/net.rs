//! A client's socket: a UDP socket with trains out by `UDP_SEGMENT`, trains in by `UDP_GRO`, arrival times and overflow from
//! the kernel; or a port of the wire.

use std::cell::Cell;
use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::sync::Arc;

use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, MultiHeaders, SockaddrStorage, recvmmsg, sendmsg,
    setsockopt, sockopt,
};

/// Asked receive buffer: 300 ms of one subscription's key frames, so that a pause of the generator loses nothing.
const RECEIVE_BUFFER: usize = 1 << 20;
use super::wire::Wire;

/// Largest UDP payload with GRO.
const TRAIN_MAX: usize = 65_535;
/// Messages per receive call.
const BATCH: usize = 8;
/// Space for control messages: segment size, time, overflow.
const CONTROL: usize = 96;

/// One client's socket.
pub(crate) enum Socket {
    /// Of the kernel's.
    Udp(UdpSocket),
    /// A port of the wire; what comes in is delivered by who reads the wire.
    Wire { wire: Arc<Wire>, local: SocketAddr, peer: Cell<Option<SocketAddr>> },
}

/// What one receive brought.
pub(crate) struct Train<'a> {
    /// One or more datagrams of one sender.
    pub(crate) bytes: &'a mut [u8],
    /// Size of each but the last.
    pub(crate) segment: usize,
    /// Arrival at the socket, nanoseconds since the epoch.
    pub(crate) arrival_ns: Option<u64>,
    /// Datagrams that this socket's full buffer refused, since it was opened.
    pub(crate) overflowed: Option<u32>,
    pub(crate) from: Option<SocketAddr>,
}

/// Reused memory for receiving.
pub(crate) struct Buffers {
    bytes: Vec<Vec<u8>>,
}

impl Buffers {
    pub(crate) fn new() -> Buffers {
        Buffers { bytes: (0..BATCH).map(|_| vec![0; TRAIN_MAX]).collect() }
    }
}

impl Socket {
    /// A non-blocking socket on any port of an address.
    ///
    /// # Errors
    /// What the kernel says.
    pub(crate) fn bind(address: IpAddr) -> io::Result<Socket> {
        let inner = UdpSocket::bind((address, 0))?;
        inner.set_nonblocking(true)?;
        setsockopt(&inner, sockopt::UdpGroSegment, &true)?;
        setsockopt(&inner, sockopt::ReceiveTimestampns, &true)?;
        setsockopt(&inner, sockopt::RxqOvfl, &1)?;
        // Without the right to force it the kernel's limit holds; overflow is counted and reported either way.
        if setsockopt(&inner, sockopt::RcvBufForce, &RECEIVE_BUFFER).is_err() {
            setsockopt(&inner, sockopt::RcvBuf, &RECEIVE_BUFFER)?;
        }
        Ok(Socket::Udp(inner))
    }

    /// A port of the wire.
    pub(crate) fn on_wire(wire: Arc<Wire>) -> Socket {
        let local = wire.address();
        Socket::Wire { wire, local, peer: Cell::new(None) }
    }

    /// Port by which the wire's deliveries are told apart.
    pub(crate) fn wire_port(&self) -> Option<u16> {
        match self {
            Socket::Udp(_) => None,
            Socket::Wire { local, .. } => Some(local.port()),
        }
    }

    /// Own address.
    pub(crate) fn local_address(&self) -> io::Result<SocketAddr> {
        match self {
            Socket::Udp(socket) => socket.local_addr(),
            Socket::Wire { local, .. } => Ok(*local),
        }
    }

    /// From now on only this peer.
    pub(crate) fn connect(&self, peer: SocketAddr) -> io::Result<()> {
        match self {
            Socket::Udp(socket) => socket.connect(peer),
            Socket::Wire { peer: connected, .. } => {
                connected.set(Some(peer));
                Ok(())
            }
        }
    }

    /// One datagram to the connected peer; whether it left.
    pub(crate) fn send(&self, datagram: &[u8]) -> bool {
        match self {
            Socket::Udp(socket) => socket.send(datagram).is_ok(),
            Socket::Wire { peer, .. } => peer.get().is_some_and(|peer| self.send_to(datagram, peer)),
        }
    }

    /// One datagram to anybody; whether it left.
    pub(crate) fn send_to(&self, datagram: &[u8], peer: SocketAddr) -> bool {
        match self {
            Socket::Udp(socket) => socket.send_to(datagram, peer).is_ok(),
            Socket::Wire { wire, local, .. } => wire.send(local.port(), peer, datagram, datagram.len()),
        }
    }

    /// Datagrams of `segment` bytes each (the last may be shorter) to the connected peer, as one message.
    pub(crate) fn send_train(&self, train: &[u8], segment: usize) -> bool {
        if train.len() <= segment {
            return self.send(train);
        }
        let Ok(size) = u16::try_from(segment) else { return false };
        match self {
            Socket::Udp(socket) => {
                let control = [ControlMessage::UdpGsoSegments(&size)];
                sendmsg::<()>(socket.as_raw_fd(), &[IoSlice::new(train)], &control, MsgFlags::empty(), None)
                    .is_ok()
            }
            Socket::Wire { wire, local, peer } => {
                peer.get().is_some_and(|peer| wire.send(local.port(), peer, train, segment))
            }
        }
    }

    /// Hands on everything that is there.
    ///
    /// # Errors
    /// What `on_train` says.
    pub(crate) fn receive<E>(
        &self,
        buffers: &mut Buffers,
        mut on_train: impl FnMut(Train<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        let Socket::Udp(socket) = self else { return Ok(()) };
        loop {
            let mut found = [Found::default(); BATCH];
            let count = receive_batch(socket, buffers, &mut found);
            for (found, bytes) in found.iter().zip(&mut buffers.bytes).take(count) {
                let segment = if found.segment == 0 { found.length.max(1) } else { found.segment };
                on_train(Train {
                    bytes: &mut bytes[..found.length],
                    segment,
                    arrival_ns: found.arrival_ns,
                    overflowed: found.overflowed,
                    from: found.from,
                })?;
            }
            if count < BATCH {
                return Ok(());
            }
        }
    }
}

/// One system call; how many messages it brought. An error (a port that is not reachable yet says so once) is like silence:
/// checks and timers decide.
fn receive_batch(socket: &UdpSocket, buffers: &mut Buffers, found: &mut [Found; BATCH]) -> usize {
    // Made anew each time: the kernel shortens the control lengths of the one before.
    let mut headers = MultiHeaders::<SockaddrStorage>::preallocate(BATCH, Some(Vec::with_capacity(CONTROL)));
    let mut slices: Vec<[IoSliceMut<'_>; 1]> =
        buffers.bytes.iter_mut().map(|bytes| [IoSliceMut::new(bytes)]).collect();
    let fd = socket.as_raw_fd();
    let Ok(messages) = recvmmsg(fd, &mut headers, slices.iter_mut(), MsgFlags::empty(), None) else {
        return 0;
    };
    let mut count = 0;
    for (message, found) in messages.zip(found) {
        found.length = message.bytes;
        found.from = message.address.and_then(to_std);
        for control in message.cmsgs().into_iter().flatten() {
            found.note(&control);
        }
        count += 1;
    }
    count
}

/// What is known of a message before its bytes are looked at.
#[derive(Clone, Copy, Default)]
struct Found {
    length: usize,
    segment: usize,
    arrival_ns: Option<u64>,
    overflowed: Option<u32>,
    from: Option<SocketAddr>,
}

impl Found {
    fn note(&mut self, control: &ControlMessageOwned) {
        match control {
            ControlMessageOwned::UdpGroSegments(size) => self.segment = usize::try_from(*size).unwrap_or(0),
            ControlMessageOwned::ScmTimestampns(time) => {
                let seconds = u64::try_from(time.tv_sec()).unwrap_or(0);
                self.arrival_ns = Some(seconds * 1_000_000_000 + u64::try_from(time.tv_nsec()).unwrap_or(0));
            }
            ControlMessageOwned::RxqOvfl(count) => self.overflowed = Some(*count),
            _ => {}
        }
    }
}

fn to_std(address: SockaddrStorage) -> Option<SocketAddr> {
    if let Some(v4) = address.as_sockaddr_in() {
        return Some(SocketAddr::new(IpAddr::V4(v4.ip()), v4.port()));
    }
    address.as_sockaddr_in6().map(|v6| SocketAddr::new(IpAddr::V6(v6.ip()), v6.port()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    #[test]
    fn a_train_crosses_loopback_whole() {
        let localhost = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let (a, b) = (Socket::bind(localhost).expect("socket"), Socket::bind(localhost).expect("socket"));
        a.connect(b.local_address().expect("address")).expect("connect");
        let mut buffers = Buffers::new();
        let mut seen = Vec::new();
        let mut look = || {
            let outcome = b.receive::<()>(&mut buffers, |train| {
                let sizes: Vec<_> = train.bytes.chunks(train.segment).map(<[u8]>::len).collect();
                seen.push((sizes, train.arrival_ns.expect("stamped"), train.from));
                Ok(())
            });
            assert_eq!(outcome, Ok(()));
            std::mem::take(&mut seen)
        };
        assert_eq!(look(), []);
        for _ in 0..10 {
            assert!(a.send(&[7; 10]));
        }
        assert!(a.send_train(&[7; 2_500], 1_000));
        let seen = look();
        assert_eq!(seen.len(), 11);
        assert_eq!((&seen[0].0[..], &seen[10].0[..]), (&[10][..], &[1_000, 1_000, 500][..]));
        assert_eq!(seen[10].2, a.local_address().ok());
        assert!(crate::clock::wall_ns().abs_diff(seen[10].1) < 1_000_000_000);
    }
}
