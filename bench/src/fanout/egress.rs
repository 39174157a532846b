//! The peers' sockets, and a place where what is sent to them ends at little cost.
//!
//! | egress | how | what is measured |
//! |---|---|---|
//! | ideal NIC | own network namespace, an `ifb` device that frees every packet on transmit and segments runs itself | our send path alone |
//! | loopback | the peers' sockets drop in a socket filter | the send path and a receive softirq, charged to the sender |
//!
//! The first needs root. Peers speak from sockets with their own addresses in both, so that handshakes can be made before
//! the door is closed.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::process::Command;

use anyhow::{Context, bail};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use socket2::{Domain, SockFilter, SockRef, Socket, Type};

use super::{Shape, peer_of};

/// Destination addresses.
const ADDRESSES: usize = 42;
const DEVICE: &str = "ifb-bench";
/// `BPF_RET | BPF_K` with 0: take no byte of any packet.
const RETURN_NOTHING: u16 = 0x06;

/// Where packets go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Kind {
    /// `ideal` where the rights suffice, else `loopback`.
    Auto,
    /// Loopback sockets that drop.
    Loopback,
    /// An `ifb` device in a network namespace.
    Ideal,
}

/// The peers.
pub struct Egress {
    kind: Kind,
    /// How many there are.
    pub shape: Shape,
    /// The peers' end of each connection.
    pub sockets: Vec<UdpSocket>,
    /// Their addresses.
    pub addrs: Vec<SocketAddr>,
    /// Where the node's sockets are bound.
    pub node: SocketAddr,
}

impl Egress {
    /// Makes the peers. Call it before any thread is started: `ideal` moves the calling thread to a namespace.
    ///
    /// # Errors
    /// `ideal` was asked for and is not to be had.
    pub fn open(kind: Kind, shape: Shape) -> anyhow::Result<Egress> {
        let kind = match kind {
            Kind::Loopback => Kind::Loopback,
            Kind::Ideal => enter_namespace().map(|()| Kind::Ideal)?,
            Kind::Auto => match enter_namespace() {
                Ok(()) => Kind::Ideal,
                Err(error) => {
                    eprintln!("egress: no ideal NIC ({error:#}), using loopback");
                    Kind::Loopback
                }
            },
        };
        let (network, node) = match kind {
            Kind::Ideal => ([10, 1], Ipv4Addr::new(10, 0, 0, 1)),
            _ => ([127, 1], Ipv4Addr::LOCALHOST),
        };
        raise_file_limit(shape)?;
        let sockets: Vec<_> = (0..shape.connections())
            .map(|connection| {
                let host = (peer_of(connection) % ADDRESSES) as u8 + 1;
                peer_socket(Ipv4Addr::new(network[0], network[1], 0, host), kind == Kind::Ideal)
            })
            .collect::<anyhow::Result<_>>()?;
        let addrs = sockets.iter().map(UdpSocket::local_addr).collect::<Result<_, _>>()?;
        Ok(Egress { kind, shape, sockets, addrs, node: (node, 0).into() })
    }

    /// For people.
    pub fn describe(&self) -> &'static str {
        match self.kind {
            Kind::Ideal => {
                "ideal NIC: ifb device with UDP segmentation offload, frees what it gets, 42 addresses"
            }
            _ => {
                "loopback: 42 addresses, sockets that drop in a filter (their receive softirq is ours to pay)"
            }
        }
    }

    /// From now on nothing reaches the peers.
    ///
    /// # Errors
    /// The kernel's, or `ip`'s.
    pub fn close(&self) -> anyhow::Result<()> {
        if self.kind == Kind::Ideal {
            ip("route del local 10.1.0.0/16 dev lo")?;
            return ip(&format!("route add 10.1.0.0/16 dev {DEVICE}"));
        }
        let filter = [SockFilter::new(RETURN_NOTHING, 0, 0, 0)];
        for socket in &self.sockets {
            SockRef::from(socket).attach_filter(&filter)?;
        }
        Ok(())
    }
}

#[expect(deprecated, reason = "its unsafe successor is about memory-sharing flags, of which none is used")]
fn enter_namespace() -> anyhow::Result<()> {
    rustix::thread::unshare(rustix::thread::UnshareFlags::NEWNET).context("network namespace")?;
    ip("link set lo up")?;
    ip("addr add 10.0.0.1/32 dev lo")?;
    ip(&format!("link add {DEVICE} type ifb"))?;
    ip(&format!("link set {DEVICE} txqueuelen 10000 up"))?;
    // Local while the handshakes run.
    ip("route add local 10.1.0.0/16 dev lo")
}

/// Each variant that is fed has a copy of the peers' sockets.
fn raise_file_limit(shape: Shape) -> anyhow::Result<()> {
    let limit = getrlimit(Resource::Nofile);
    let wanted = shape.connections() as u64 * 8 + 100;
    let current = limit.maximum.map_or(wanted, |most| most.min(wanted));
    setrlimit(Resource::Nofile, Rlimit { current: Some(current), ..limit }).context("ulimit -n")
}

fn ip(words: &str) -> anyhow::Result<()> {
    let output = Command::new("ip").args(words.split(' ')).output().context("`ip` (iproute2) is needed")?;
    if !output.status.success() {
        bail!("ip {words}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

fn peer_socket(ip: Ipv4Addr, transparent: bool) -> anyhow::Result<UdpSocket> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
    if transparent {
        // The address stops being local when the door closes, and the peer goes on speaking.
        socket.set_ip_transparent_v4(true)?;
    }
    socket.bind(&SocketAddr::from((ip, 0)).into())?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}
