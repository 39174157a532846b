//! What stands before the payload of a frame: `virtio_net_hdr`, Ethernet, IPv4 or IPv6, UDP.
//!
//! ```text
//!             0      10         24                44 (64)      52 (72)
//! IPv4 (v6)   virtio | Ethernet | IPv4 20 (v6 40) | UDP 8      | payload: one datagram, or a run
//! ```
//!
//! The checksum field of UDP holds the sum of the pseudo header only, and `virtio_net_hdr` tells the kernel to add the
//! rest, or to have the device do it; for a run it does so for every segment, with the lengths and IPv4 identifications
//! each of them needs (`include/uapi/linux/virtio_net.h`, `Documentation/networking/segmentation-offloads.rst`).

use std::net::{IpAddr, SocketAddr};

use super::Hop;

/// Bytes of the largest header.
pub(crate) const MAX_BYTES: usize = VIRTIO + ETHERNET + IPV6 + UDP;

const VIRTIO: usize = 10;
const ETHERNET: usize = 14;
const IPV4: usize = 20;
const IPV6: usize = 40;
const UDP: usize = 8;

/// `VIRTIO_NET_HDR_F_NEEDS_CSUM`.
const NEEDS_CHECKSUM: u8 = 1;
/// `VIRTIO_NET_HDR_GSO_UDP_L4`, Linux 6.2.
const GSO_UDP: u8 = 5;
const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86DD;
const PROTOCOL_UDP: u8 = 17;
/// Linux' own default (`net.ipv4.ip_default_ttl`).
const HOPS: u8 = 64;

/// Bytes of IP and UDP header before a payload to `ip`.
pub(super) fn ip_and_udp_bytes(ip: IpAddr) -> u32 {
    (if ip.is_ipv4() { IPV4 + UDP } else { IPV6 + UDP }) as u32
}

/// Room for one header.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
pub(crate) struct FrameHeader {
    bytes: [u8; MAX_BYTES],
}

/// The payload behind a header.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Payload {
    /// Bytes of all datagrams.
    pub(crate) len: u32,
    /// Bytes of each datagram but the last.
    pub(crate) segment: u16,
    /// How many datagrams.
    pub(crate) datagrams: u16,
    /// IPv4 identification of the first.
    pub(crate) identification: u16,
}

impl FrameHeader {
    pub(crate) const ZERO: FrameHeader = FrameHeader { bytes: [0; MAX_BYTES] };

    /// Writes the header of `payload`; both addresses are of one family, and the payload is below 65 000 bytes. Returns
    /// how many bytes it has.
    pub(crate) fn set(&mut self, hop: &Hop, from: SocketAddr, to: SocketAddr, payload: Payload) -> usize {
        let udp_len = UDP as u16 + payload.len as u16;
        let (ip_len, ethertype) = match (from.ip(), to.ip()) {
            (IpAddr::V4(source), IpAddr::V4(target)) => {
                let ip: &mut [u8; IPV4] = array(&mut self.bytes, VIRTIO + ETHERNET);
                write_ipv4(ip, source.octets(), target.octets(), udp_len, payload.identification);
                let pseudo = sum(&ip[12..20]) + u64::from(PROTOCOL_UDP) + u64::from(udp_len);
                write_udp(array(&mut self.bytes, VIRTIO + ETHERNET + IPV4), from, to, udp_len, pseudo);
                (IPV4, ETHERTYPE_IPV4)
            }
            (source, target) => {
                let ip: &mut [u8; IPV6] = array(&mut self.bytes, VIRTIO + ETHERNET);
                write_ipv6(ip, v6(source), v6(target), udp_len);
                let pseudo = sum(&ip[8..40]) + u64::from(PROTOCOL_UDP) + u64::from(udp_len);
                write_udp(array(&mut self.bytes, VIRTIO + ETHERNET + IPV6), from, to, udp_len, pseudo);
                (IPV6, ETHERTYPE_IPV6)
            }
        };
        let ethernet: &mut [u8; ETHERNET] = array(&mut self.bytes, VIRTIO);
        ethernet[..6].copy_from_slice(&hop.target);
        ethernet[6..12].copy_from_slice(&hop.source);
        ethernet[12..].copy_from_slice(&ethertype.to_be_bytes());
        write_virtio(array(&mut self.bytes, 0), ip_len, payload);
        VIRTIO + ETHERNET + ip_len + UDP
    }

    pub(crate) fn as_mut_ptr(&mut self) -> *mut u8 {
        self.bytes.as_mut_ptr()
    }

    #[cfg(test)]
    pub(crate) fn bytes(&self) -> &[u8; MAX_BYTES] {
        &self.bytes
    }
}

fn array<const N: usize>(bytes: &mut [u8; MAX_BYTES], at: usize) -> &mut [u8; N] {
    bytes[at..].first_chunk_mut().expect("every header fits")
}

fn v6(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
        IpAddr::V6(ip) => ip.octets(),
    }
}

/// Fields in host order, as packet sockets have them.
fn write_virtio(out: &mut [u8; VIRTIO], ip_len: usize, payload: Payload) {
    let before_udp = (ETHERNET + ip_len) as u16;
    let run = payload.datagrams > 1;
    out[0] = NEEDS_CHECKSUM;
    out[1] = if run { GSO_UDP } else { 0 };
    out[2..4].copy_from_slice(&(before_udp + UDP as u16).to_ne_bytes());
    out[4..6].copy_from_slice(&(if run { payload.segment } else { 0 }).to_ne_bytes());
    out[6..8].copy_from_slice(&before_udp.to_ne_bytes());
    out[8..10].copy_from_slice(&6_u16.to_ne_bytes());
}

/// RFC 791 §3.1. No "don't fragment", as on our UDP sockets: a router with a narrow link may cut it up.
fn write_ipv4(out: &mut [u8; IPV4], source: [u8; 4], target: [u8; 4], udp_len: u16, identification: u16) {
    *out = [0; IPV4];
    out[0] = 0x45;
    out[2..4].copy_from_slice(&(IPV4 as u16 + udp_len).to_be_bytes());
    out[4..6].copy_from_slice(&identification.to_be_bytes());
    out[8] = HOPS;
    out[9] = PROTOCOL_UDP;
    out[12..16].copy_from_slice(&source);
    out[16..20].copy_from_slice(&target);
    let checksum = !fold(sum(out));
    out[10..12].copy_from_slice(&checksum.to_be_bytes());
}

/// RFC 8200 §3.
fn write_ipv6(out: &mut [u8; IPV6], source: [u8; 16], target: [u8; 16], udp_len: u16) {
    *out = [0; IPV6];
    out[0] = 0x60;
    out[4..6].copy_from_slice(&udp_len.to_be_bytes());
    out[6] = PROTOCOL_UDP;
    out[7] = HOPS;
    out[8..24].copy_from_slice(&source);
    out[24..40].copy_from_slice(&target);
}

/// RFC 768, with the sum of the pseudo header in the checksum's place.
fn write_udp(out: &mut [u8; UDP], from: SocketAddr, to: SocketAddr, len: u16, pseudo: u64) {
    out[..2].copy_from_slice(&from.port().to_be_bytes());
    out[2..4].copy_from_slice(&to.port().to_be_bytes());
    out[4..6].copy_from_slice(&len.to_be_bytes());
    out[6..].copy_from_slice(&fold(pseudo).to_be_bytes());
}

/// Sum of big-endian 16-bit words (RFC 1071), not folded yet. An even number of bytes.
fn sum(bytes: &[u8]) -> u64 {
    bytes.chunks_exact(2).map(|word| u64::from(u16::from_be_bytes([word[0], word[1]]))).sum()
}

fn fold(mut sum: u64) -> u16 {
    while sum > 0xFFFF {
        sum = (sum & 0xFFFF) + (sum >> 16);
    }
    sum as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOP: Hop = Hop { interface: 3, source: [1; 6], target: [2; 6], mtu: 1500 };

    fn header(from: &str, to: &str, payload: Payload) -> Vec<u8> {
        let mut header = FrameHeader { bytes: [0xEE; MAX_BYTES] };
        let len = header.set(&HOP, from.parse().unwrap(), to.parse().unwrap(), payload);
        header.bytes()[..len].to_vec()
    }

    const SINGLE: Payload = Payload { len: 100, segment: 100, datagrams: 1, identification: 0x1234 };
    const RUN: Payload = Payload { len: 3420, segment: 1140, datagrams: 3, identification: 0xFFFF };

    #[test]
    fn ipv4_is_laid_out_as_in_the_picture() {
        let header = header("10.0.0.1:40000", "203.0.113.7:5000", SINGLE);
        assert_eq!(header.len(), 52);
        let host = |at: usize| u16::from_ne_bytes([header[at], header[at + 1]]);
        assert_eq!((header[0], header[1], host(2), host(4), host(6), host(8)), (1, 0, 42, 0, 34, 6));
        assert_eq!(header[10..24], [2, 2, 2, 2, 2, 2, 1, 1, 1, 1, 1, 1, 8, 0]);
        let ip = &header[24..44];
        assert_eq!(ip[..10], [0x45, 0, 0, 128, 0x12, 0x34, 0, 0, 64, 17]);
        assert_eq!(ip[12..], [10, 0, 0, 1, 203, 0, 113, 7]);
        // A header with its checksum in place sums up to all ones (RFC 1071 §1).
        assert_eq!(fold(sum(ip)), 0xFFFF);
        assert_eq!(header[44..50], [0x9C, 0x40, 0x13, 0x88, 0, 108]);
    }

    #[test]
    fn ipv6_is_laid_out_as_in_the_picture() {
        let header = header("[2001:db8::1]:40000", "[2001:db8::2]:5000", RUN);
        assert_eq!(header.len(), 72);
        let host = |at: usize| u16::from_ne_bytes([header[at], header[at + 1]]);
        assert_eq!((header[0], header[1], host(2), host(4), host(6), host(8)), (1, 5, 62, 1140, 54, 6));
        assert_eq!(header[22..24], [0x86, 0xDD]);
        assert_eq!(header[24..32], [0x60, 0, 0, 0, 0x0D, 0x64, 17, 64]);
        assert_eq!((header[47], header[63]), (1, 2));
        assert_eq!(header[68..70], [0x0D, 0x64]);
    }

    /// What the kernel or the device does with the partial checksum gives what RFC 768 wants.
    #[test]
    fn the_partial_checksum_completes_to_the_real_one() {
        for (from, to) in [("10.9.8.7:65535", "192.0.2.33:1"), ("[2001:db8::1]:1", "[2001:db8:ffff::9]:2")] {
            let payload: Vec<u8> = (0..100).map(|i| (i * 37) as u8).collect();
            let header = header(from, to, SINGLE);
            let udp = header.len() - UDP;
            let completed = !fold(sum(&header[udp..]) + sum(&payload));

            let mut reference = Vec::new();
            match (from.parse::<SocketAddr>().unwrap().ip(), to.parse::<SocketAddr>().unwrap().ip()) {
                (IpAddr::V4(a), IpAddr::V4(b)) => {
                    reference.extend_from_slice(&[a.octets(), b.octets()].concat());
                    reference.extend_from_slice(&[0, 17, 0, 108]);
                }
                (IpAddr::V6(a), IpAddr::V6(b)) => {
                    reference.extend_from_slice(&[a.octets(), b.octets()].concat());
                    reference.extend_from_slice(&[0, 0, 0, 108, 0, 0, 0, 17]);
                }
                _ => unreachable!("one family"),
            }
            reference.extend_from_slice(&header[udp..udp + 6]);
            reference.extend_from_slice(&[0, 0]);
            reference.extend_from_slice(&payload);
            assert_eq!(completed, !fold(sum(&reference)), "{from} to {to}");
        }
    }

    #[test]
    fn sizes_count_against_the_mtu() {
        assert_eq!(ip_and_udp_bytes("10.0.0.1".parse().unwrap()), 28);
        assert_eq!(ip_and_udp_bytes("2001:db8::1".parse().unwrap()), 48);
    }
}
