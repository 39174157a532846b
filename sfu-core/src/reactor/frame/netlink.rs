//! What the kernel would do with a packet: its route, the neighbour it goes to, and the interface, by rtnetlink(7).

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::time::Duration;

use netlink_packet_core::{NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkLayerType, LinkMessage};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteMessage, RouteMetric, RouteType, RouteVia,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::Socket;
use netlink_sys::protocols::NETLINK_ROUTE;
use socket2::SockRef;

use super::Hop;
use crate::reactor::clock;
use crate::time::Timestamp;

/// The kernel answers at once; this is for an answer that was lost.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long what is known of an interface is taken for granted.
const INTERFACE_LIFETIME: Duration = Duration::from_secs(1);
/// Interfaces remembered at a time.
const INTERFACES: usize = 64;
/// Bytes of the largest answer: an interface with all its attributes.
const ANSWER_BYTES: usize = 1 << 16;

/// An rtnetlink socket.
pub(super) struct Kernel {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
    interfaces: HashMap<u32, (Timestamp, Option<Interface>)>,
}

/// An Ethernet interface that is up.
#[derive(Clone, Copy)]
struct Interface {
    address: [u8; 6],
    mtu: u32,
    /// Whether it has neighbours: an `ifb` or a `dummy` has none, and takes frames to anybody.
    resolves: bool,
}

/// Where a packet goes.
struct Route {
    interface: u32,
    /// Who is to be asked for the hardware address: the gateway, or the destination itself.
    neighbour: IpAddr,
    mtu: Option<u32>,
}

impl Kernel {
    pub(super) fn open() -> io::Result<Kernel> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&netlink_sys::SocketAddr::new(0, 0))?;
        SockRef::from(&socket).set_read_timeout(Some(PATIENCE))?;
        Ok(Kernel {
            socket,
            sequence: 0,
            buffer: Vec::with_capacity(ANSWER_BYTES),
            interfaces: HashMap::new(),
        })
    }

    /// The hop from a local address to a destination. `None`: another medium than Ethernet, this machine itself, or a
    /// neighbour the kernel does not know (yet).
    ///
    /// # Errors
    /// The kernel's: no route, no such interface.
    pub(super) fn hop(&mut self, from: IpAddr, to: IpAddr) -> io::Result<Option<Hop>> {
        let Some(route) = self.route(from, to)? else { return Ok(None) };
        let Some(interface) = self.interface(route.interface)? else { return Ok(None) };
        let target = match interface.resolves {
            true => self.neighbour(route.interface, route.neighbour)?,
            false => Some(interface.address),
        };
        Ok(target.map(|target| Hop {
            interface: route.interface,
            source: interface.address,
            target,
            mtu: route.mtu.unwrap_or(interface.mtu).min(interface.mtu),
        }))
    }

    fn route(&mut self, from: IpAddr, to: IpAddr) -> io::Result<Option<Route>> {
        let mut question = RouteMessage::default();
        question.header.address_family = family(to);
        question.header.destination_prefix_length = if to.is_ipv4() { 32 } else { 128 };
        question.header.source_prefix_length = question.header.destination_prefix_length;
        question.attributes =
            vec![RouteAttribute::Destination(to.into()), RouteAttribute::Source(from.into())];
        let RouteNetlinkMessage::NewRoute(answer) = self.ask(RouteNetlinkMessage::GetRoute(question))? else {
            return Ok(None);
        };
        Ok(read_route(&answer, to))
    }

    fn neighbour(&mut self, interface: u32, ip: IpAddr) -> io::Result<Option<[u8; 6]>> {
        let mut question = NeighbourMessage::default();
        question.header.family = family(ip);
        question.header.ifindex = interface;
        let address = match ip {
            IpAddr::V4(ip) => NeighbourAddress::Inet(ip),
            IpAddr::V6(ip) => NeighbourAddress::Inet6(ip),
        };
        question.attributes = vec![NeighbourAttribute::Destination(address)];
        match self.ask(RouteNetlinkMessage::GetNeighbour(question)) {
            Ok(RouteNetlinkMessage::NewNeighbour(answer)) => Ok(read_neighbour(&answer)),
            Ok(_) => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn interface(&mut self, index: u32) -> io::Result<Option<Interface>> {
        let now = clock::now();
        if let Some((until, known)) = self.interfaces.get(&index)
            && now < *until
        {
            return Ok(*known);
        }
        let mut question = LinkMessage::default();
        question.header.index = index;
        let known = match self.ask(RouteNetlinkMessage::GetLink(question))? {
            RouteNetlinkMessage::NewLink(answer) => read_interface(&answer),
            _ => None,
        };
        if self.interfaces.len() >= INTERFACES {
            self.interfaces.clear();
        }
        self.interfaces.insert(index, (now + INTERFACE_LIFETIME, known));
        Ok(known)
    }

    /// One question, one answer.
    fn ask(&mut self, question: RouteNetlinkMessage) -> io::Result<RouteNetlinkMessage> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST;
        header.sequence_number = self.sequence;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::from(question));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.socket.send(&bytes, 0)?;
        loop {
            self.buffer.clear();
            let size = self.socket.recv(&mut self.buffer, 0)?;
            let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&self.buffer[..size])
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?;
            if answer.header.sequence_number != self.sequence {
                // The answer to a question that was given up.
                continue;
            }
            return match answer.payload {
                NetlinkPayload::InnerMessage(inner) => Ok(inner),
                NetlinkPayload::Error(error) => Err(error.to_io()),
                _ => Err(io::Error::from(io::ErrorKind::InvalidData)),
            };
        }
    }
}

fn family(ip: IpAddr) -> AddressFamily {
    if ip.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

/// `None` for anything but a plain unicast route: what is encapsulated or local is the kernel's to send.
fn read_route(answer: &RouteMessage, to: IpAddr) -> Option<Route> {
    if answer.header.kind != RouteType::Unicast {
        return None;
    }
    let mut route = Route { interface: 0, neighbour: to, mtu: None };
    for attribute in &answer.attributes {
        match attribute {
            RouteAttribute::Oif(index) => route.interface = *index,
            RouteAttribute::Gateway(RouteAddress::Inet(ip)) => route.neighbour = (*ip).into(),
            RouteAttribute::Gateway(RouteAddress::Inet6(ip)) => route.neighbour = (*ip).into(),
            RouteAttribute::Via(RouteVia::Inet6(ip)) => route.neighbour = (*ip).into(),
            RouteAttribute::Via(_) | RouteAttribute::Encap(_) | RouteAttribute::EncapType(_) => return None,
            RouteAttribute::Metrics(metrics) => {
                route.mtu = metrics.iter().find_map(|metric| match metric {
                    RouteMetric::Mtu(mtu) => Some(*mtu),
                    _ => None,
                });
            }
            _ => {}
        }
    }
    (route.interface != 0).then_some(route)
}

fn read_neighbour(answer: &NeighbourMessage) -> Option<[u8; 6]> {
    use NeighbourState::{Delay, Noarp, Permanent, Probe, Reachable, Stale};
    let valid = matches!(answer.header.state, Reachable | Stale | Delay | Probe | Permanent | Noarp);
    answer.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::LinkLayerAddress(address) if valid => address.as_slice().try_into().ok(),
        _ => None,
    })
}

fn read_interface(answer: &LinkMessage) -> Option<Interface> {
    let flags = answer.header.flags;
    if answer.header.link_layer_type != LinkLayerType::Ether || !flags.contains(LinkFlags::Up) {
        return None;
    }
    let (mut address, mut mtu) = (None, None);
    for attribute in &answer.attributes {
        match attribute {
            LinkAttribute::Address(bytes) => address = bytes.as_slice().try_into().ok(),
            LinkAttribute::Mtu(bytes) => mtu = Some(*bytes),
            _ => {}
        }
    }
    Some(Interface { address: address?, mtu: mtu?, resolves: !flags.contains(LinkFlags::Noarp) })
}
