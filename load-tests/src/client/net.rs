//! A client's UDP socket: trains out by `UDP_SEGMENT`, trains in by `UDP_GRO`, arrival times and overflow from the kernel.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd as _;

use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, sendmsg, setsockopt, sockopt,
};

/// Asked receive buffer: 300 ms of one subscription's key frames, so that a pause of the generator loses nothing.
const RECEIVE_BUFFER: usize = 1 << 20;
/// Largest UDP payload with GRO.
const TRAIN_MAX: usize = 65_535;

/// One client's socket.
pub(crate) struct Socket {
    inner: UdpSocket,
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
    bytes: Vec<u8>,
    control: Vec<u8>,
}

impl Buffers {
    pub(crate) fn new() -> Buffers {
        Buffers { bytes: vec![0; TRAIN_MAX], control: vec![0; 256] }
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
        Ok(Socket { inner })
    }

    /// Own address.
    pub(crate) fn local_address(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }

    /// From now on only this peer.
    pub(crate) fn connect(&self, peer: SocketAddr) -> io::Result<()> {
        self.inner.connect(peer)
    }

    /// One datagram to the connected peer; whether it left.
    pub(crate) fn send(&self, datagram: &[u8]) -> bool {
        self.inner.send(datagram).is_ok()
    }

    /// One datagram to anybody; whether it left.
    pub(crate) fn send_to(&self, datagram: &[u8], peer: SocketAddr) -> bool {
        self.inner.send_to(datagram, peer).is_ok()
    }

    /// Datagrams of `segment` bytes each (the last may be shorter) to the connected peer, as one message.
    pub(crate) fn send_train(&self, train: &[u8], segment: usize) -> bool {
        if train.len() <= segment {
            return self.send(train);
        }
        let Ok(size) = u16::try_from(segment) else { return false };
        let control = [ControlMessage::UdpGsoSegments(&size)];
        sendmsg::<()>(self.inner.as_raw_fd(), &[IoSlice::new(train)], &control, MsgFlags::empty(), None)
            .is_ok()
    }

    /// Whatever is there next, `None` when nothing is.
    pub(crate) fn receive<'a>(&self, buffers: &'a mut Buffers) -> Option<Train<'a>> {
        let fd = self.inner.as_raw_fd();
        let (length, mut segment, arrival_ns, overflowed, from) = {
            let mut slices = [IoSliceMut::new(&mut buffers.bytes)];
            // An error (a port that is not reachable yet says so once) is like silence: the checks and timers decide.
            let control = Some(&mut buffers.control[..]);
            let message = recvmsg::<SockaddrStorage>(fd, &mut slices, control, MsgFlags::empty()).ok()?;
            let (mut segment, mut arrival, mut overflowed) = (0, None, None);
            for control in message.cmsgs().into_iter().flatten() {
                match control {
                    ControlMessageOwned::UdpGroSegments(size) => segment = usize::try_from(size).unwrap_or(0),
                    ControlMessageOwned::ScmTimestampns(time) => {
                        let seconds = u64::try_from(time.tv_sec()).unwrap_or(0);
                        arrival = Some(seconds * 1_000_000_000 + u64::try_from(time.tv_nsec()).unwrap_or(0));
                    }
                    ControlMessageOwned::RxqOvfl(count) => overflowed = Some(count),
                    _ => {}
                }
            }
            (message.bytes, segment, arrival, overflowed, message.address.and_then(to_std))
        };
        if segment == 0 {
            segment = length.max(1);
        }
        Some(Train { bytes: &mut buffers.bytes[..length], segment, arrival_ns, overflowed, from })
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
        assert!(b.receive(&mut buffers).is_none());
        assert!(a.send_train(&[7; 2_500], 1_000));
        let train = b.receive(&mut buffers).expect("arrived");
        let sizes: Vec<_> = train.bytes.chunks(train.segment).map(<[u8]>::len).collect();
        assert_eq!(sizes, [1_000, 1_000, 500]);
        assert_eq!(train.from, a.local_address().ok());
        let age = crate::clock::wall_ns().abs_diff(train.arrival_ns.expect("stamped"));
        assert!(age < 1_000_000_000, "{age}");
        assert!(a.send_train(&[7; 10], 1_000));
        let train = b.receive(&mut buffers).expect("arrived");
        assert_eq!((train.bytes.len(), train.segment), (10, 10));
    }
}
