//! One UDP socket of a shard: bound to a concrete address, large buffers, never blocking.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::time::Duration;

use rustix::net::sockopt;
use socket2::{Domain, Protocol, Type};

/// Kernel receive buffer asked for, in bytes: some 40 ms of 100 Mbit/s at the kernel's own accounting of small packets.
pub const RECEIVE_BUFFER: usize = 8 << 20;

/// Kernel send buffer asked for, in bytes: one full turn must fit, or its tail is refused.
pub const SEND_BUFFER: usize = 8 << 20;

/// How long `EADDRINUSE` is tried again: a ring that just ended holds its port until the kernel has torn it down, up to
/// 2 s after its process is gone.
const BIND_PATIENCE: Duration = Duration::from_secs(3);
const BIND_PAUSE: Duration = Duration::from_millis(50);

/// Why a shard's socket could not be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BindError {
    /// Somebody else holds the port.
    #[error("UDP {addr} is in use: stop what listens there, or choose another port")]
    InUse {
        /// What was asked for.
        addr: SocketAddr,
    },
    /// No interface has the address.
    #[error("UDP {addr}: no interface of this machine has that address")]
    NotLocal {
        /// What was asked for.
        addr: SocketAddr,
    },
    /// Anything else.
    #[error("UDP {addr}: {what}: {source}")]
    Refused {
        /// What was asked for.
        addr: SocketAddr,
        /// The step that failed.
        what: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
}

/// A bound, non-blocking UDP socket.
#[derive(Debug)]
pub struct Socket {
    inner: socket2::Socket,
    local: SocketAddr,
}

impl Socket {
    /// Binds `addr`. An address in use is tried again for three seconds. With port 0 the kernel chooses one.
    ///
    /// Bind concrete addresses: a wildcard socket answers from whichever address the route prefers.
    ///
    /// # Errors
    /// [`BindError`], with what to do.
    pub fn bind(addr: SocketAddr) -> Result<Socket, BindError> {
        let refused = |what| move |source| BindError::Refused { addr, what, source };
        let domain = if addr.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
        let inner = socket2::Socket::new(domain, Type::DGRAM.nonblocking(), Some(Protocol::UDP))
            .map_err(refused("socket"))?;
        set_options(&inner, addr).map_err(refused("socket options"))?;
        bind_patiently(&inner, addr)?;
        let local = inner.local_addr().map_err(refused("local address"))?;
        let local = local.as_socket().expect("an IP socket has an IP address");
        Ok(Socket { inner, local })
    }

    /// The address it is bound to, with the real port.
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// Bytes the kernel will queue for us, by its own (doubled) accounting.
    pub fn receive_buffer(&self) -> usize {
        self.inner.recv_buffer_size().unwrap_or(0)
    }

    /// Gives the socket away.
    pub fn into_std(self) -> std::net::UdpSocket {
        self.inner.into()
    }

    pub(super) fn raw(&self) -> RawFd {
        self.inner.as_raw_fd()
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inner.as_fd()
    }
}

fn bind_patiently(socket: &socket2::Socket, addr: SocketAddr) -> Result<(), BindError> {
    let mut attempts = BIND_PATIENCE.as_millis() / BIND_PAUSE.as_millis();
    loop {
        let Err(error) = socket.bind(&addr.into()) else { return Ok(()) };
        match error.kind() {
            io::ErrorKind::AddrInUse if attempts > 0 => attempts -= 1,
            io::ErrorKind::AddrInUse => return Err(BindError::InUse { addr }),
            io::ErrorKind::AddrNotAvailable => return Err(BindError::NotLocal { addr }),
            _ => return Err(BindError::Refused { addr, what: "bind", source: error }),
        }
        pause(BIND_PAUSE);
    }
}

fn set_options(socket: &socket2::Socket, addr: SocketAddr) -> io::Result<()> {
    set_buffers(socket)?;
    match addr {
        // OMIT: no DF, ICMP's word on the path MTU is not taken, larger than the interface's MTU is fragmented. So a
        // forged "fragmentation needed" cannot make our GSO runs fail, and no send ends in EMSGSIZE.
        SocketAddr::V4(_) => set_int(socket, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_OMIT),
        // IPv6 routers never fragment, so the path MTU has to be believed (it cannot go below 1280) and we fragment.
        SocketAddr::V6(_) => {
            socket.set_only_v6(true)?;
            set_int(socket, libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_DONT)
        }
    }
}

/// Asks past the sysctl limits first, which root may, then within them.
fn set_buffers(socket: &socket2::Socket) -> io::Result<()> {
    if sockopt::set_socket_recv_buffer_size_force(socket, RECEIVE_BUFFER).is_err() {
        socket.set_recv_buffer_size(RECEIVE_BUFFER)?;
    }
    set_send_buffer(socket)
}

/// [`SEND_BUFFER`], or what the system's limit allows.
pub(super) fn set_send_buffer(socket: &socket2::Socket) -> io::Result<()> {
    if sockopt::set_socket_send_buffer_size_force(socket, SEND_BUFFER).is_err() {
        socket.set_send_buffer_size(SEND_BUFFER)?;
    }
    Ok(())
}

pub(super) fn set_int(socket: &socket2::Socket, level: i32, name: i32, value: i32) -> io::Result<()> {
    // SAFETY: the option value is an int that lives through the call, and its size is given.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            std::ptr::from_ref(&value).cast(),
            size_of::<i32>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[expect(clippy::disallowed_methods, reason = "at start-up, before any shard runs")]
fn pause(time: Duration) {
    std::thread::sleep(time);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn binds_both_families_with_a_port_of_the_kernels_choice() {
        for text in ["127.0.0.1:0", "[::1]:0"] {
            let socket = Socket::bind(text.parse().unwrap()).unwrap();
            assert_ne!(socket.local_addr().port(), 0, "{text}");
            assert!(socket.receive_buffer() > 200_000, "{}", socket.receive_buffer());
        }
    }

    #[test]
    fn waits_for_a_port_that_comes_free() {
        let first = Socket::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let addr = first.local_addr();
        let second = std::thread::spawn(move || Socket::bind(addr));
        pause(Duration::from_millis(150));
        drop(first);
        assert_eq!(second.join().unwrap().unwrap().local_addr(), addr);
    }

    #[test]
    fn says_what_is_wrong() {
        let foreign = Socket::bind("192.0.2.1:0".parse().unwrap()).unwrap_err();
        assert!(matches!(foreign, BindError::NotLocal { .. }), "{foreign}");
        let held = Socket::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let busy = Socket::bind(held.local_addr()).unwrap_err();
        assert!(matches!(busy, BindError::InUse { .. }), "{busy}");
    }
}
