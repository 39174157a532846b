//! The controlling full agent of RFC 8445, as far as one host candidate needs it: checks with USE-CANDIDATE, consent
//! (RFC 7675), answers to the other side's checks. STUN messages after RFC 8489.

use std::net::{IpAddr, SocketAddr};

use aws_lc_rs::hmac;

const MAGIC: u32 = 0x2112_A442;
const HEADER: usize = 20;
const BINDING_REQUEST: u16 = 0x0001;
const BINDING_SUCCESS: u16 = 0x0101;
const BINDING_ERROR: u16 = 0x0111;
const USERNAME: u16 = 0x0006;
const MESSAGE_INTEGRITY: u16 = 0x0008;
const XOR_MAPPED_ADDRESS: u16 = 0x0020;
const PRIORITY: u16 = 0x0024;
const USE_CANDIDATE: u16 = 0x0025;
const FINGERPRINT: u16 = 0x8028;
const ICE_CONTROLLING: u16 = 0x802A;
/// Priority of our host candidate if it were peer-reflexive (RFC 8445 §7.1.1).
const PEER_REFLEXIVE_PRIORITY: u32 = (110 << 24) | (65_535 << 8) | 255;

/// Identifies a transaction.
pub(crate) type TransactionId = [u8; 12];

/// Short-term credentials of one side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Credentials {
    pub(crate) ufrag: String,
    pub(crate) pwd: String,
}

/// A STUN message as far as it matters here.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Message {
    /// A check of the other side.
    Request(TransactionId),
    /// Its answer to ours; `true` for success.
    Response(TransactionId, bool),
}

/// Key of a password, made once.
pub(crate) fn key(pwd: &str) -> hmac::Key {
    hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, pwd.as_bytes())
}

/// A check by the controlling side that also nominates (RFC 8445 §7.1, §8.1.1).
pub(crate) fn write_check(
    out: &mut Vec<u8>,
    id: TransactionId,
    username: &str,
    remote_key: &hmac::Key,
    tie_breaker: u64,
) {
    begin(out, BINDING_REQUEST, id);
    attribute(out, USERNAME, username.as_bytes());
    attribute(out, ICE_CONTROLLING, &tie_breaker.to_be_bytes());
    attribute(out, PRIORITY, &PEER_REFLEXIVE_PRIORITY.to_be_bytes());
    attribute(out, USE_CANDIDATE, &[]);
    finish(out, remote_key);
}

/// The answer to a check that came from `peer`.
pub(crate) fn write_response(out: &mut Vec<u8>, id: TransactionId, peer: SocketAddr, local_key: &hmac::Key) {
    begin(out, BINDING_SUCCESS, id);
    let port = peer.port() ^ (MAGIC >> 16) as u16;
    let mut value = vec![0, if peer.is_ipv4() { 1 } else { 2 }];
    value.extend_from_slice(&port.to_be_bytes());
    let mut mask = MAGIC.to_be_bytes().to_vec();
    mask.extend_from_slice(&id);
    let address = match peer.ip() {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    value.extend(address.iter().zip(&mask).map(|(a, b)| a ^ b));
    attribute(out, XOR_MAPPED_ADDRESS, &value);
    finish(out, local_key);
}

/// Reads a message whose integrity is proven by the key of its direction: requests by ours, responses by theirs.
pub(crate) fn read(packet: &[u8], local_key: &hmac::Key, remote_key: &hmac::Key) -> Option<Message> {
    if packet.len() < HEADER || packet[4..8] != MAGIC.to_be_bytes() {
        return None;
    }
    let kind = u16::from_be_bytes([packet[0], packet[1]]);
    let id: TransactionId = packet[8..20].try_into().ok()?;
    match kind {
        BINDING_REQUEST => integrity_holds(packet, local_key).then_some(Message::Request(id)),
        BINDING_SUCCESS => integrity_holds(packet, remote_key).then_some(Message::Response(id, true)),
        // An error may come without integrity (RFC 8489 §9.1.3); it only counts as "not yet".
        BINDING_ERROR => Some(Message::Response(id, false)),
        _ => None,
    }
}

fn begin(out: &mut Vec<u8>, kind: u16, id: TransactionId) {
    out.clear();
    out.extend_from_slice(&kind.to_be_bytes());
    out.extend_from_slice(&[0, 0]);
    out.extend_from_slice(&MAGIC.to_be_bytes());
    out.extend_from_slice(&id);
}

fn attribute(out: &mut Vec<u8>, kind: u16, value: &[u8]) {
    out.extend_from_slice(&kind.to_be_bytes());
    out.extend_from_slice(&(value.len() as u16).to_be_bytes());
    out.extend_from_slice(value);
    out.resize(out.len().next_multiple_of(4), 0);
}

fn set_length(out: &mut [u8], attributes: usize) {
    out[2..4].copy_from_slice(&(attributes as u16).to_be_bytes());
}

fn finish(out: &mut Vec<u8>, key: &hmac::Key) {
    let attributes = out.len() - HEADER + 24;
    set_length(out, attributes);
    let tag = hmac::sign(key, out);
    attribute(out, MESSAGE_INTEGRITY, tag.as_ref());
    set_length(out, attributes + 8);
    let sum = crc32(out) ^ 0x5354_554E;
    attribute(out, FINGERPRINT, &sum.to_be_bytes());
}

fn integrity_holds(packet: &[u8], key: &hmac::Key) -> bool {
    let mut at = HEADER;
    while at + 4 <= packet.len() {
        let kind = u16::from_be_bytes([packet[at], packet[at + 1]]);
        let length = usize::from(u16::from_be_bytes([packet[at + 2], packet[at + 3]]));
        if kind == MESSAGE_INTEGRITY {
            let Some(tag) = packet.get(at + 4..at + 4 + length) else { return false };
            let mut signed = packet[..at].to_vec();
            set_length(&mut signed, at - HEADER + 24);
            return hmac::verify(key, &signed, tag).is_ok();
        }
        at += 4 + length.next_multiple_of(4);
    }
    false
}

/// CRC-32 of ISO 3309, as FINGERPRINT wants it.
fn crc32(bytes: &[u8]) -> u32 {
    let step = |mut crc: u32| {
        for _ in 0..8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0xEDB8_8320 } else { crc >> 1 };
        }
        crc
    };
    !bytes.iter().fold(!0, |crc, byte| (crc >> 8) ^ step((crc ^ u32::from(*byte)) & 0xFF))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crc_check_value() {
        assert_eq!(crc32(b"123456789"), 0xCBF4_3926);
    }

    #[test]
    fn checks_and_answers_are_read_with_the_right_key_only() {
        let (local, remote, other) = (key("local-password"), key("remote-password"), key("other"));
        let mut packet = Vec::new();
        write_check(&mut packet, [7; 12], "theirs:ours", &remote, 42);
        assert_eq!(packet.len() % 4, 0);
        assert_eq!(usize::from(u16::from_be_bytes([packet[2], packet[3]])), packet.len() - HEADER);
        // The other side reads it: its local key is our remote one.
        assert_eq!(read(&packet, &remote, &local), Some(Message::Request([7; 12])));
        assert_eq!(read(&packet, &other, &local), None);
        let peer: SocketAddr = "192.0.2.1:4000".parse().expect("address");
        write_response(&mut packet, [7; 12], peer, &remote);
        assert_eq!(read(&packet, &local, &remote), Some(Message::Response([7; 12], true)));
        assert_eq!(read(&packet, &local, &other), None);
        packet[25] ^= 1;
        assert_eq!(read(&packet, &local, &remote), None);
    }

    #[test]
    fn rfc_5769_sample_request_is_authentic() {
        // RFC 5769 §2.1, password "VOkJxbRl1RmTxUk/WvJxBt".
        let text = "000100582112a442b7e7a701bc34d686fa87dfae802200105354554e207465737420636c69656e74002400046e0001ff\
            80290008932ff9b151263b36000600096576746a3a68367659202020000800149aeaa70cbfd8cb56781ef2b5b2d3f249c1b571a2\
            80280004e57a3bcf";
        let packet: Vec<u8> = (0..text.len() / 2)
            .map(|i| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).expect("hex"))
            .collect();
        let key = key("VOkJxbRl1RmTxUk/WvJxBt");
        assert!(matches!(read(&packet, &key, &key), Some(Message::Request(_))));
        let mut sum = packet[packet.len() - 4..].to_vec();
        sum.reverse();
        let expected = crc32(&packet[..packet.len() - 8]) ^ 0x5354_554E;
        assert_eq!(expected.to_le_bytes().to_vec(), sum);
    }

    #[test]
    fn garbage_is_no_message() {
        let key = key("x");
        for length in 0..64 {
            assert_eq!(read(&vec![0; length], &key, &key), None);
        }
    }
}
