//! Socket addresses as the kernel writes them: `sockaddr_in` and `sockaddr_in6`, encoded and decoded byte by byte.
//!
//! ```text
//!          0        2      4              8        20       24         28
//! IPv4     family   port   address        zero (8 bytes to 16)
//! IPv6     family   port   flow info      address (16 bytes, 8..24)    scope id (24..28)
//! ```
//!
//! Family, flow info and scope id are in host order, the rest in network order.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

/// Bytes of a `sockaddr_in`.
const V4_BYTES: usize = 16;
/// Bytes of a `sockaddr_in6`, the largest we use.
pub(super) const MAX_BYTES: usize = 28;

/// Room for either kind.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
pub(super) struct RawAddr {
    bytes: [u8; MAX_BYTES],
}

impl RawAddr {
    pub(super) const ZERO: RawAddr = RawAddr { bytes: [0; MAX_BYTES] };

    /// Writes `addr`; returns how many bytes the kernel is to read.
    pub(super) fn set(&mut self, addr: SocketAddr) -> usize {
        match addr {
            SocketAddr::V4(v4) => {
                self.bytes = [0; MAX_BYTES];
                self.bytes[..2].copy_from_slice(&(libc::AF_INET as u16).to_ne_bytes());
                self.bytes[2..4].copy_from_slice(&v4.port().to_be_bytes());
                self.bytes[4..8].copy_from_slice(&v4.ip().octets());
                V4_BYTES
            }
            SocketAddr::V6(v6) => {
                self.bytes[..2].copy_from_slice(&(libc::AF_INET6 as u16).to_ne_bytes());
                self.bytes[2..4].copy_from_slice(&v6.port().to_be_bytes());
                self.bytes[4..8].copy_from_slice(&v6.flowinfo().to_ne_bytes());
                self.bytes[8..24].copy_from_slice(&v6.ip().octets());
                self.bytes[24..28].copy_from_slice(&v6.scope_id().to_ne_bytes());
                MAX_BYTES
            }
        }
    }

    #[cfg(test)]
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(super) fn get(&self) -> Option<SocketAddr> {
        decode(&self.bytes)
    }
}

/// Reads what the kernel wrote; `None` for an address of another family.
pub(super) fn decode(bytes: &[u8]) -> Option<SocketAddr> {
    let family = u16::from_ne_bytes(*bytes.first_chunk()?);
    let port = u16::from_be_bytes(*bytes.get(2..)?.first_chunk()?);
    if family == libc::AF_INET as u16 {
        let ip: [u8; 4] = *bytes.get(4..)?.first_chunk()?;
        return Some(SocketAddrV4::new(Ipv4Addr::from(ip), port).into());
    }
    if family == libc::AF_INET6 as u16 {
        let flow = u32::from_ne_bytes(*bytes.get(4..)?.first_chunk()?);
        let ip: [u8; 16] = *bytes.get(8..)?.first_chunk()?;
        let scope = u32::from_ne_bytes(*bytes.get(24..)?.first_chunk()?);
        return Some(SocketAddrV6::new(Ipv6Addr::from(ip), port, flow, scope).into());
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_another_encoder() {
        for text in ["127.0.0.1:1", "203.0.113.7:65535", "[::1]:443", "[2001:db8::17]:5000"] {
            let addr: SocketAddr = text.parse().unwrap();
            let reference = socket2::SockAddr::from(addr);
            let mut raw = RawAddr::ZERO;
            assert_eq!(raw.set(addr), reference.len() as usize, "{text}");
            assert_eq!(raw.get(), Some(addr));
            assert_eq!(reference.as_socket(), Some(addr));
        }
        let scoped = SocketAddrV6::new("fe80::1".parse().unwrap(), 9, 0x1234, 7).into();
        let mut raw = RawAddr::ZERO;
        raw.set(scoped);
        assert_eq!(raw.get(), Some(scoped));
    }

    #[test]
    fn a_shorter_address_leaves_nothing_of_the_longer_one() {
        let mut raw = RawAddr::ZERO;
        raw.set("[2001:db8::17]:5000".parse().unwrap());
        raw.set("10.0.0.1:2".parse().unwrap());
        assert!(raw.bytes[8..].iter().all(|&b| b == 0));
    }

    #[test]
    fn other_families_and_short_bytes_are_none() {
        assert_eq!(decode(&[0; 28]), None);
        assert_eq!(decode(&[]), None);
        let mut raw = RawAddr::ZERO;
        raw.set("[::1]:1".parse().unwrap());
        assert_eq!(decode(&raw.bytes[..20]), None);
    }
}
