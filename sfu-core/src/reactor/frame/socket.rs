//! A packet socket that only sends.

use std::io;
use std::os::fd::{AsRawFd as _, RawFd};

use socket2::{Domain, Protocol, Type};

use super::Hop;
use crate::reactor::socket::{set_int, set_send_buffer};

/// A socket of `packet(7)` whose frames begin with a `virtio_net_hdr`. It receives nothing: it is bound to no protocol.
#[derive(Debug)]
pub(crate) struct PacketSocket {
    inner: socket2::Socket,
}

impl PacketSocket {
    /// Opens it.
    ///
    /// # Errors
    /// `EPERM` without `CAP_NET_RAW`.
    pub(super) fn open() -> io::Result<PacketSocket> {
        let inner = socket2::Socket::new(Domain::PACKET, Type::RAW.nonblocking(), Some(Protocol::from(0)))?;
        set_int(&inner, libc::SOL_PACKET, PACKET_VNET_HDR, 1)?;
        set_send_buffer(&inner)?;
        Ok(PacketSocket { inner })
    }

    pub(crate) fn raw(&self) -> RawFd {
        self.inner.as_raw_fd()
    }
}

/// `PACKET_VNET_HDR` of `linux/if_packet.h`.
const PACKET_VNET_HDR: i32 = 15;

/// A `sockaddr_ll`: the interface a frame leaves by.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(crate) struct LinkAddr(libc::sockaddr_ll);

impl LinkAddr {
    /// Bytes the kernel is to read.
    pub(crate) const BYTES: usize = size_of::<libc::sockaddr_ll>();

    /// No interface.
    pub(crate) const ZERO: LinkAddr = LinkAddr(libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: 0,
        sll_ifindex: 0,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 6,
        sll_addr: [0; 8],
    });

    /// The interface of `hop`, for frames of IPv4 or IPv6.
    pub(crate) fn new(hop: &Hop, ipv4: bool) -> LinkAddr {
        let protocol = if ipv4 { libc::ETH_P_IP } else { libc::ETH_P_IPV6 };
        LinkAddr(libc::sockaddr_ll {
            sll_protocol: (protocol as u16).to_be(),
            sll_ifindex: hop.interface as i32,
            ..Self::ZERO.0
        })
    }
}
