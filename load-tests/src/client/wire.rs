//! The wire: a TAP device whose far end is this process. What the target sends over it is here as Ethernet frames, runs
//! (`UDP_SEGMENT`) still whole, and clients need no sockets of their own.
//!
//! Why: on one machine the kernel hands a packet to its receiver within the sender's system call, so with sockets behind a veth
//! pair the target pays for our clients' kernel. A wire ends where a network card would.
//!
//! ```text
//! target ─▶ its kernel ─▶ TAP queue ─┬─▶ Wire::receive ─▶ client by UDP port
//!   ▲                                │
//!   └── its kernel ◀── TAP ◀─────────┴── Wire::send
//! ```
//!
//! IPv4 only; both ends know each other's hardware address, so there is no ARP.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::ops::Range;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::sync::atomic::{AtomicU16, Ordering};

use anyhow::{Context as _, Result, ensure};
use nix::libc;

/// Hardware address of the target's end.
pub(crate) const TARGET_MAC: &str = "02:77:65:69:72:01";
/// Hardware address of our end.
pub(crate) const OUR_MAC: &str = "02:77:65:69:72:02";
const TARGET_MAC_BYTES: [u8; 6] = [0x02, 0x77, 0x65, 0x69, 0x72, 0x01];
const OUR_MAC_BYTES: [u8; 6] = [0x02, 0x77, 0x65, 0x69, 0x72, 0x02];

/// `virtio_net_hdr`, which stands before every frame.
const VIRTIO: usize = 10;
const ETHERNET: usize = 14;
const IPV4: usize = 20;
const UDP: usize = 8;
const HEADER: usize = VIRTIO + ETHERNET + IPV4 + UDP;
/// `VIRTIO_NET_HDR_F_NEEDS_CSUM`.
const NEEDS_CHECKSUM: u8 = 1;
/// `VIRTIO_NET_HDR_GSO_UDP_L4`.
const GSO_UDP: u8 = 5;
/// `TUN_F_USO4` and `TUN_F_USO6` of `linux/if_tun.h`, Linux 6.2; the kernel takes them together only.
const TUN_F_USO: libc::c_uint = 0x20 | 0x40;
/// Bytes of the largest frame.
const FRAME_MAX: usize = HEADER + 65_535;
/// Frames taken in at a time, so that nothing else waits for long.
const BATCH: usize = 256;
/// Frames that are read before one is delivered: so long its reader has to bring close what the delivery needs.
pub(crate) const STEPS: usize = 3;
/// First port of our clients.
const FIRST_PORT: u16 = 10_000;

mod tun {
    use nix::libc;

    nix::ioctl_write_ptr_bad!(set_interface, libc::TUNSETIFF, libc::ifreq);
    nix::ioctl_write_int_bad!(set_offload, libc::TUNSETOFFLOAD);
}

/// Our end of the wire.
pub(crate) struct Wire {
    device: File,
    address: Ipv4Addr,
    next_port: AtomicU16,
}

/// Who reads the wire.
pub(crate) trait Reader {
    /// A frame for this port will be delivered after `STEPS - step` others.
    fn approach(&mut self, port: u16, step: usize);
    /// What one frame brought.
    fn deliver(&mut self, delivery: Delivery<'_>);
}

/// Reused memory for receiving: the frame that is delivered and those behind it.
pub(crate) struct FrameBuffers([FrameBuffer; STEPS + 1]);

struct FrameBuffer {
    bytes: Box<[u8]>,
    found: Option<Found>,
}

/// Where in its buffer a frame's datagrams are.
struct Found {
    port: u16,
    from: SocketAddr,
    datagrams: Range<usize>,
    segment: usize,
}

impl FrameBuffers {
    pub(crate) fn new() -> FrameBuffers {
        FrameBuffers(std::array::from_fn(|_| FrameBuffer { bytes: vec![0; FRAME_MAX].into(), found: None }))
    }

    /// Takes all that is in here a step nearer to its delivery; frame `number` is the newest.
    fn pass(&mut self, number: usize, reader: &mut impl Reader) {
        let at = |back: usize| (number + STEPS + 1 - back) % (STEPS + 1);
        for step in 0..STEPS {
            if let Some(found) = &self.0[at(step)].found {
                reader.approach(found.port, step);
            }
        }
        let FrameBuffer { bytes, found } = &mut self.0[at(STEPS)];
        if let Some(Found { port, from, datagrams, segment }) = found.take() {
            reader.deliver(Delivery { port, from, bytes: &mut bytes[datagrams], segment });
        }
    }
}

/// What one frame brought.
pub(crate) struct Delivery<'a> {
    /// Port of ours it is for.
    pub(crate) port: u16,
    pub(crate) from: SocketAddr,
    /// One or more datagrams.
    pub(crate) bytes: &'a mut [u8],
    /// Size of each but the last.
    pub(crate) segment: usize,
}

impl Wire {
    /// Makes the device `name`; `address` is that of our end. The device still has to be given to the target.
    ///
    /// # Errors
    /// Without root, or with a kernel before 6.2.
    pub(crate) fn open(name: &str, address: Ipv4Addr) -> Result<Wire> {
        let device = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK)
            .open("/dev/net/tun")
            .context("opening /dev/net/tun")?;
        let name = CString::new(name).context("the device's name")?;
        ensure!(name.as_bytes().len() < libc::IFNAMSIZ, "the device's name is too long");
        // SAFETY: ifreq is plain data, for which zero is a value.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        for (to, from) in request.ifr_name.iter_mut().zip(name.as_bytes()) {
            *to = *from as libc::c_char;
        }
        request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR) as libc::c_short;
        // SAFETY: the descriptor is open and the request lives through the call.
        unsafe { tun::set_interface(device.as_raw_fd(), &raw const request) }
            .context("making a TAP device")?;
        let offloads = libc::TUN_F_CSUM | TUN_F_USO;
        // SAFETY: the descriptor is a TAP device and the argument a number.
        unsafe { tun::set_offload(device.as_raw_fd(), offloads as libc::c_int) }
            .context("UDP segmentation offload on a TAP device (Linux 6.2 or later)")?;
        Ok(Wire { device, address, next_port: AtomicU16::new(FIRST_PORT) })
    }

    /// An address for one more client; ports come round again after 55 000 of them.
    pub(crate) fn address(&self) -> SocketAddr {
        let port = self.next_port.fetch_add(1, Ordering::Relaxed).max(FIRST_PORT);
        if port == u16::MAX {
            self.next_port.store(FIRST_PORT, Ordering::Relaxed);
        }
        SocketAddr::new(IpAddr::V4(self.address), port)
    }

    /// Hands on what is there, a batch at most. Whether there may be more.
    pub(crate) fn receive(&self, buffers: &mut FrameBuffers, reader: &mut impl Reader) -> bool {
        let (mut number, mut end) = (0, BATCH);
        while number < end + STEPS {
            let buffer = &mut buffers.0[number % (STEPS + 1)];
            if number < end {
                match (&self.device).read(&mut buffer.bytes) {
                    Ok(length) => buffer.found = parse(&buffer.bytes[..length]),
                    // Would block, or the device is gone with its namespace: silence either way.
                    Err(_) => end = number,
                }
            }
            buffers.pass(number, reader);
            number += 1;
        }
        end == BATCH
    }

    /// Sends datagrams of `segment` bytes each (the last may be shorter) as one frame; whether it left.
    pub(crate) fn send(&self, from: u16, to: SocketAddr, train: &[u8], segment: usize) -> bool {
        let (SocketAddr::V4(to), Ok(segment)) = (to, u16::try_from(segment)) else { return false };
        let from = SocketAddrV4::new(self.address, from);
        let header = header(from, to, train.len(), segment);
        (&self.device).write_vectored(&[IoSlice::new(&header), IoSlice::new(train)]).is_ok()
    }
}

/// Finds the datagrams in a frame; `None` for anything but UDP in an unfragmented IPv4 packet.
fn parse(frame: &[u8]) -> Option<Found> {
    let is_run = frame.get(1)? & 0x7F == GSO_UDP;
    let size = usize::from(u16::from_ne_bytes([*frame.get(4)?, *frame.get(5)?]));
    let ip = frame.get(VIRTIO + ETHERNET..)?;
    let is_ipv4 = frame[VIRTIO + 12..VIRTIO + 14] == [0x08, 0x00] && ip.first()? >> 4 == 4;
    let ip_len = usize::from(ip[0] & 0x0F) * 4;
    let is_fragment = ip.get(6)? & 0x3F != 0 || *ip.get(7)? != 0;
    if !is_ipv4 || is_fragment || *ip.get(9)? != 17 {
        return None;
    }
    let source = Ipv4Addr::from(*ip.get(12..)?.first_chunk::<4>()?);
    let udp = ip.get(ip_len..)?;
    let word = |at: usize| Some(u16::from_be_bytes(*udp.get(at..)?.first_chunk::<2>()?));
    let (from, port) = (SocketAddr::new(source.into(), word(0)?), word(2)?);
    let start = VIRTIO + ETHERNET + ip_len + UDP;
    // A short frame has padding behind the datagram.
    let length = usize::from(word(4)?).checked_sub(UDP)?;
    frame.get(start..start + length)?;
    let segment = if is_run && size > 0 { size } else { length.max(1) };
    Some(Found { port, from, datagrams: start..start + length, segment })
}

/// Headers of a frame with `length` bytes of datagrams. The kernel, or the card it stands for, completes the checksum.
fn header(from: SocketAddrV4, to: SocketAddrV4, length: usize, segment: u16) -> [u8; HEADER] {
    let mut out = [0; HEADER];
    let is_run = length > usize::from(segment);
    out[0] = NEEDS_CHECKSUM;
    out[1] = if is_run { GSO_UDP } else { 0 };
    out[2..4].copy_from_slice(&((HEADER - VIRTIO) as u16).to_ne_bytes());
    out[4..6].copy_from_slice(&(if is_run { segment } else { 0 }).to_ne_bytes());
    out[6..8].copy_from_slice(&((ETHERNET + IPV4) as u16).to_ne_bytes());
    out[8..10].copy_from_slice(&6_u16.to_ne_bytes());
    let (_, frame) = out.split_at_mut(VIRTIO);
    frame[..6].copy_from_slice(&TARGET_MAC_BYTES);
    frame[6..12].copy_from_slice(&OUR_MAC_BYTES);
    frame[12..14].copy_from_slice(&[0x08, 0x00]);
    let (ip, udp) = frame[ETHERNET..].split_at_mut(IPV4);
    let udp_len = (UDP + length) as u16;
    ip[0] = 0x45;
    ip[2..4].copy_from_slice(&(IPV4 as u16 + udp_len).to_be_bytes());
    ip[8..10].copy_from_slice(&[64, 17]);
    ip[12..16].copy_from_slice(&from.ip().octets());
    ip[16..20].copy_from_slice(&to.ip().octets());
    let checksum = !folded_sum(ip, 0);
    ip[10..12].copy_from_slice(&checksum.to_be_bytes());
    udp[..2].copy_from_slice(&from.port().to_be_bytes());
    udp[2..4].copy_from_slice(&to.port().to_be_bytes());
    udp[4..6].copy_from_slice(&udp_len.to_be_bytes());
    udp[6..8].copy_from_slice(&folded_sum(&ip[12..20], 17 + u32::from(udp_len)).to_be_bytes());
    out
}

/// RFC 1071.
fn folded_sum(bytes: &[u8], mut sum: u32) -> u16 {
    sum += bytes.chunks_exact(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]]))).sum::<u32>();
    while sum > 0xFFFF {
        sum = (sum & 0xFFFF) + (sum >> 16);
    }
    sum as u16
}

/// Datagrams that the device has dropped since it was made, because we did not take them in time.
///
/// # Errors
/// The namespace or the device is gone.
pub(crate) fn dropped(netns: &str, device: &str) -> io::Result<u64> {
    let file = format!("/sys/class/net/{device}/statistics/tx_dropped");
    let output = std::process::Command::new("ip").args(["netns", "exec", netns, "cat", &file]).output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    text.trim().parse().map_err(|_| io::Error::other(format!("no counter in {file}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sent_is_what_is_parsed() {
        let from: SocketAddrV4 = "10.204.0.1:10000".parse().expect("an address");
        let to: SocketAddrV4 = "10.204.0.2:40000".parse().expect("an address");
        for (length, segment, expected) in [(300, 100, 100), (250, 100, 100), (100, 100, 100), (1, 1, 1)] {
            let mut frame = header(from, to, length, segment).to_vec();
            frame.extend(std::iter::repeat_n(7, length));
            assert_eq!(folded_sum(&frame[VIRTIO + ETHERNET..][..IPV4], 0), 0xFFFF);
            // Short frames are filled up to 60 bytes.
            frame.extend([0; 9]);
            let found = parse(&frame).expect("a datagram");
            assert_eq!((found.port, found.from), (40_000, SocketAddr::V4(from)));
            assert_eq!((found.datagrams.len(), found.segment), (length, expected));
            assert!(frame[found.datagrams].iter().all(|byte| *byte == 7));
        }
    }

    /// What a reader was told: (port, step), the delivery being the last step.
    #[derive(Default)]
    struct Told(Vec<(u16, usize)>);

    impl Reader for Told {
        fn approach(&mut self, port: u16, step: usize) {
            self.0.push((port, step));
        }

        fn deliver(&mut self, delivery: Delivery<'_>) {
            assert_eq!(*delivery.bytes, delivery.port.to_be_bytes());
            self.0.push((delivery.port, STEPS));
        }
    }

    #[test]
    fn every_frame_comes_nearer_step_by_step_and_is_delivered_in_order() {
        let from = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 1);
        let (mut buffers, mut told) = (FrameBuffers::new(), Told::default());
        for number in 0..7 + STEPS {
            if let Ok(port) = u16::try_from(number)
                && number < 7
            {
                let to = SocketAddrV4::new(Ipv4Addr::LOCALHOST, port);
                let frame = [&header(from, to, 2, 2)[..], &port.to_be_bytes()].concat();
                let buffer = &mut buffers.0[number % (STEPS + 1)];
                buffer.bytes[..frame.len()].copy_from_slice(&frame);
                buffer.found = parse(&frame);
            }
            buffers.pass(number, &mut told);
        }
        let of =
            |port| told.0.iter().filter(|(of, _)| *of == port).map(|(_, step)| *step).collect::<Vec<_>>();
        assert!((0..7).all(|port| of(port) == (0..=STEPS).collect::<Vec<_>>()));
        let delivered: Vec<_> =
            told.0.iter().filter(|(_, step)| *step == STEPS).map(|(port, _)| *port).collect();
        assert_eq!(delivered, (0..7).collect::<Vec<_>>());
    }

    #[test]
    fn other_frames_are_nothing() {
        let from = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 1);
        let whole = [&header(from, from, 4, 4)[..], &[0; 4]].concat();
        for length in 0..whole.len() {
            assert!(parse(&whole[..length]).is_none(), "{length} bytes");
        }
        for (at, byte) in [(VIRTIO + 12, 0x86), (VIRTIO + ETHERNET + 9, 6), (VIRTIO + ETHERNET + 6, 0x20)] {
            let mut other = whole.clone();
            other[at] = byte;
            assert!(parse(&other).is_none(), "byte {at}");
        }
    }
}
