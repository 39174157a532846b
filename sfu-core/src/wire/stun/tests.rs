//! RFC 5769 vectors, each way a request can be refused, round trips with the client side.

use std::net::SocketAddr;

use proptest::prelude::*;

use super::client::{Check, Response, parse_response, write_request};
use super::*;
use crate::wire::WriteError;

/// RFC 5769 §2.1: request with FINGERPRINT; its username is padded with spaces.
#[rustfmt::skip]
const REQUEST: [u8; 108] = [
    0x00, 0x01, 0x00, 0x58, 0x21, 0x12, 0xa4, 0x42, 0xb7, 0xe7, 0xa7, 0x01, 0xbc, 0x34, 0xd6, 0x86, 0xfa, 0x87, 0xdf, 0xae,
    0x80, 0x22, 0x00, 0x10, 0x53, 0x54, 0x55, 0x4e, 0x20, 0x74, 0x65, 0x73, 0x74, 0x20, 0x63, 0x6c, 0x69, 0x65, 0x6e, 0x74,
    0x00, 0x24, 0x00, 0x04, 0x6e, 0x00, 0x01, 0xff,
    0x80, 0x29, 0x00, 0x08, 0x93, 0x2f, 0xf9, 0xb1, 0x51, 0x26, 0x3b, 0x36,
    0x00, 0x06, 0x00, 0x09, 0x65, 0x76, 0x74, 0x6a, 0x3a, 0x68, 0x36, 0x76, 0x59, 0x20, 0x20, 0x20,
    0x00, 0x08, 0x00, 0x14, 0x9a, 0xea, 0xa7, 0x0c, 0xbf, 0xd8, 0xcb, 0x56, 0x78, 0x1e, 0xf2, 0xb5, 0xb2, 0xd3, 0xf2, 0x49,
    0xc1, 0xb5, 0x71, 0xa2,
    0x80, 0x28, 0x00, 0x04, 0xe5, 0x7a, 0x3b, 0xcf,
];

/// RFC 5769 §2.2: IPv4 response.
#[rustfmt::skip]
const RESPONSE_V4: [u8; 80] = [
    0x01, 0x01, 0x00, 0x3c, 0x21, 0x12, 0xa4, 0x42, 0xb7, 0xe7, 0xa7, 0x01, 0xbc, 0x34, 0xd6, 0x86, 0xfa, 0x87, 0xdf, 0xae,
    0x80, 0x22, 0x00, 0x0b, 0x74, 0x65, 0x73, 0x74, 0x20, 0x76, 0x65, 0x63, 0x74, 0x6f, 0x72, 0x20,
    0x00, 0x20, 0x00, 0x08, 0x00, 0x01, 0xa1, 0x47, 0xe1, 0x12, 0xa6, 0x43,
    0x00, 0x08, 0x00, 0x14, 0x2b, 0x91, 0xf5, 0x99, 0xfd, 0x9e, 0x90, 0xc3, 0x8c, 0x74, 0x89, 0xf9, 0x2a, 0xf9, 0xba, 0x53,
    0xf0, 0x6b, 0xe7, 0xd7,
    0x80, 0x28, 0x00, 0x04, 0xc0, 0x7d, 0x4c, 0x96,
];

/// RFC 5769 §2.3: IPv6 response.
#[rustfmt::skip]
const RESPONSE_V6: [u8; 92] = [
    0x01, 0x01, 0x00, 0x48, 0x21, 0x12, 0xa4, 0x42, 0xb7, 0xe7, 0xa7, 0x01, 0xbc, 0x34, 0xd6, 0x86, 0xfa, 0x87, 0xdf, 0xae,
    0x80, 0x22, 0x00, 0x0b, 0x74, 0x65, 0x73, 0x74, 0x20, 0x76, 0x65, 0x63, 0x74, 0x6f, 0x72, 0x20,
    0x00, 0x20, 0x00, 0x14, 0x00, 0x02, 0xa1, 0x47, 0x01, 0x13, 0xa9, 0xfa, 0xa5, 0xd3, 0xf1, 0x79, 0xbc, 0x25, 0xf4, 0xb5,
    0xbe, 0xd2, 0xb9, 0xd9,
    0x00, 0x08, 0x00, 0x14, 0xa3, 0x82, 0x95, 0x4e, 0x4b, 0xe6, 0x7b, 0xf1, 0x17, 0x84, 0xc9, 0x7c, 0x82, 0x92, 0xc2, 0x75,
    0xbf, 0xe3, 0xed, 0x41,
    0x80, 0x28, 0x00, 0x04, 0xc8, 0xfb, 0x0b, 0x4c,
];

const PASSWORD: &str = "VOkJxbRl1RmTxUk/WvJxBt";
const TRANSACTION: TransactionId =
    TransactionId([0xb7, 0xe7, 0xa7, 0x01, 0xbc, 0x34, 0xd6, 0x86, 0xfa, 0x87, 0xdf, 0xae]);

const CHECK: Check<'_> = Check {
    transaction: TransactionId(*b"transaction!"),
    local_ufrag: "peer",
    remote_ufrag: "ours",
    priority: 0x6e00_01ff,
    role: Role::Controlling(7),
    use_candidate: true,
};

fn request(check: &Check<'_>, password: &str) -> Vec<u8> {
    let mut out = vec![0; 256];
    let len = write_request(&mut out, check, password).unwrap();
    out.truncate(len);
    out
}

/// A message of raw attributes, sealed when there is a password.
fn message(kind: u16, attributes: &[(u16, &[u8])], password: Option<&str>) -> Vec<u8> {
    let mut message = Message::new();
    message.typ.read_value(kind);
    message.transaction_id.0 = TRANSACTION.0;
    message.write_header();
    for (kind, value) in attributes {
        message.add(::stun::attributes::AttrType(*kind), value);
    }
    let mut out = vec![0; 1024];
    let len = response::seal(message, password, &mut out).unwrap();
    out.truncate(len);
    out
}

#[test]
fn rfc5769_request() {
    assert_eq!(peek_username(&REQUEST), Some(("evtj", "h6vY")));
    let expected = BindingRequest {
        transaction: TRANSACTION,
        local_ufrag: "evtj",
        remote_ufrag: "h6vY",
        priority: Some(0x6e00_01ff),
        use_candidate: false,
        role: Some(Role::Controlled(0x932f_f9b1_5126_3b36)),
        unknown: UnknownAttributes::default(),
    };
    assert_eq!(parse_request(&REQUEST, PASSWORD), Ok(expected));
    assert_eq!(parse_request(&REQUEST, "wrong"), Err(Refused::Unauthenticated(TRANSACTION)));
}

#[test]
fn rfc5769_responses() {
    for (bytes, mapped) in [
        (&RESPONSE_V4[..], "192.0.2.1:32853"),
        (&RESPONSE_V6, "[2001:db8:1234:5678:11:2233:4455:6677]:32853"),
    ] {
        let mapped = mapped.parse().unwrap();
        let expected = Response::Success { transaction: TRANSACTION, mapped };
        assert_eq!(parse_response(bytes, PASSWORD), Some(expected));
        assert_eq!(parse_response(bytes, "wrong"), None);

        // Ours carries the same address in the same bytes; only SOFTWARE is left out.
        let mut out = [0; 128];
        let len = write_success(&mut out, TRANSACTION, mapped, PASSWORD).unwrap();
        assert_eq!(len, bytes.len() - 16);
        assert_eq!(out[20..len - 32], bytes[36..bytes.len() - 32]);
        assert_eq!(parse_response(&out[..len], PASSWORD), Some(expected));
    }
}

#[test]
fn mapped_ipv4_is_told_as_ipv4() {
    let mut out = [0; 128];
    let len = write_success(&mut out, TRANSACTION, "[::ffff:10.1.2.3]:9".parse().unwrap(), PASSWORD).unwrap();
    let mapped: SocketAddr = "10.1.2.3:9".parse().unwrap();
    let expected = Response::Success { transaction: TRANSACTION, mapped };
    assert_eq!(parse_response(&out[..len], PASSWORD), Some(expected));
}

#[test]
fn no_single_bit_can_change() {
    for (i, bit) in (0..REQUEST.len()).flat_map(|i| (0..8).map(move |bit| (i, bit))) {
        let mut bytes = REQUEST;
        bytes[i] ^= 1 << bit;
        assert!(parse_request(&bytes, PASSWORD).is_err(), "byte {i}, bit {bit}");
    }
}

#[test]
fn no_prefix_and_no_trailer_is_a_request() {
    for len in 0..REQUEST.len() {
        assert_eq!(parse_request(&REQUEST[..len], PASSWORD), Err(Refused::Malformed), "{len}");
        assert_eq!(peek_username(&REQUEST[..len]), None, "{len}");
    }
    let mut longer = REQUEST.to_vec();
    longer.extend([0; 4]);
    assert_eq!(parse_request(&longer, PASSWORD), Err(Refused::Malformed));
}

#[test]
fn fingerprint_is_demanded() {
    let mut message = decode(&request(&CHECK, PASSWORD)).unwrap();
    assert!(parse_request(&message.raw, PASSWORD).is_ok());
    message.attributes.0.pop();
    message.encode();
    assert_eq!(parse_request(&message.raw, PASSWORD), Err(Refused::Malformed));
}

#[test]
fn each_refusal() {
    let user: (u16, &[u8]) = (attribute::USERNAME, b"ours:peer");
    let bad = Err(Refused::BadRequest(TRANSACTION));
    for (name, bytes, expected) in [
        ("no integrity", message(BINDING_REQUEST, &[user], None), bad),
        ("no username", message(BINDING_REQUEST, &[], Some(PASSWORD)), bad),
        ("no colon", message(BINDING_REQUEST, &[(attribute::USERNAME, b"ours")], Some(PASSWORD)), bad),
        ("empty half", message(BINDING_REQUEST, &[(attribute::USERNAME, b":peer")], Some(PASSWORD)), bad),
        ("no text", message(BINDING_REQUEST, &[(attribute::USERNAME, b"\xff:x")], Some(PASSWORD)), bad),
        (
            "short priority",
            message(BINDING_REQUEST, &[user, (attribute::PRIORITY, &[0; 3])], Some(PASSWORD)),
            bad,
        ),
        (
            "long role",
            message(BINDING_REQUEST, &[user, (attribute::ICE_CONTROLLING, &[0; 9])], Some(PASSWORD)),
            bad,
        ),
        (
            "wrong password",
            message(BINDING_REQUEST, &[user], Some("other")),
            Err(Refused::Unauthenticated(TRANSACTION)),
        ),
        ("indication", message(0x0011, &[user], Some(PASSWORD)), Err(Refused::Malformed)),
        ("response", message(0x0101, &[user], Some(PASSWORD)), Err(Refused::Malformed)),
        ("allocate", message(0x0003, &[user], Some(PASSWORD)), Err(Refused::Malformed)),
        (
            "short integrity",
            message(BINDING_REQUEST, &[user, (attribute::MESSAGE_INTEGRITY, &[0; 16])], None),
            Err(Refused::Malformed),
        ),
        (
            "early fingerprint",
            message(BINDING_REQUEST, &[user, (attribute::FINGERPRINT, &[0; 4])], None),
            Err(Refused::Malformed),
        ),
    ] {
        assert_eq!(parse_request(&bytes, PASSWORD).map(drop), expected, "{name}");
    }
    assert_eq!(Refused::Malformed.drop_reason(), DropReason::StunMalformed);
    assert_eq!(Refused::Unauthenticated(TRANSACTION).drop_reason(), DropReason::StunBadIntegrity);
}

#[test]
fn only_requests_have_a_username_to_peek() {
    let user: &[(u16, &[u8])] = &[(attribute::USERNAME, b"ours:peer")];
    assert_eq!(peek_username(&message(BINDING_REQUEST, user, None)), Some(("ours", "peer")));
    assert_eq!(peek_username(&message(0x0101, user, None)), None);
    assert_eq!(peek_username(&RESPONSE_V4), None);
}

#[test]
fn attributes_behind_the_integrity_are_not_read() {
    // Whoever can change the datagram can add USE-CANDIDATE there and set the fingerprint right again.
    let mut forged = decode(&request(&Check { use_candidate: false, ..CHECK }, PASSWORD)).unwrap();
    forged.attributes.0.pop();
    forged.encode();
    forged.add(::stun::attributes::AttrType(attribute::USE_CANDIDATE), &[]);
    let mut bytes = [0; 256];
    let len = response::seal(forged, None, &mut bytes).unwrap();
    let bytes = &bytes[..len];
    let (_, _, attributes) = split_header(bytes).unwrap();
    assert!(attributes.map_while(Result::ok).any(|a| a.kind == attribute::USE_CANDIDATE));
    let read = parse_request(bytes, PASSWORD).unwrap();
    assert!(!read.use_candidate);
}

#[test]
fn unknown_attributes_are_named() {
    let attributes: Vec<(u16, &[u8])> =
        vec![(attribute::USERNAME, b"ours:peer"), (0x7fff, b"?"), (0xc057, &[0, 0, 0, 10]), (0x0003, &[])];
    let bytes = message(BINDING_REQUEST, &attributes, Some(PASSWORD));
    let read = parse_request(&bytes, PASSWORD).unwrap();
    assert_eq!(read.unknown.as_slice(), [0x7fff, 0x0003]);

    let many: Vec<(u16, &[u8])> =
        std::iter::once(attributes[0]).chain((0x30..0x50).map(|kind| (kind, &[][..]))).collect();
    let bytes = message(BINDING_REQUEST, &many, Some(PASSWORD));
    assert_eq!(parse_request(&bytes, PASSWORD).unwrap().unknown.as_slice().len(), UNKNOWN_MAX);
}

#[test]
fn error_responses() {
    for (error, password, code) in [
        (ErrorResponse::BadRequest, None, 400),
        (ErrorResponse::Unauthorized, None, 401),
        (ErrorResponse::UnknownAttribute(&[0x7fff, 3, 4]), Some(PASSWORD), 420),
        (ErrorResponse::RoleConflict, Some(PASSWORD), 487),
    ] {
        let mut out = [0; 128];
        let len = write_error(&mut out, TRANSACTION, error, password).unwrap();
        let expected = Response::Error { transaction: TRANSACTION, code, verified: password.is_some() };
        assert_eq!(parse_response(&out[..len], PASSWORD), Some(expected));
        // A wrong key spoils only what is sealed.
        assert_eq!(parse_response(&out[..len], "wrong").is_some(), password.is_none());
        assert_eq!(write_error(&mut out[..len - 1], TRANSACTION, error, password), Err(WriteError::NoSpace));
        if let ErrorResponse::UnknownAttribute(_) = error {
            let (_, _, attributes) = split_header(&out[..len]).unwrap();
            let named = attributes.map_while(Result::ok).find(|a| a.kind == attribute::UNKNOWN_ATTRIBUTES);
            assert_eq!(named.unwrap().value, [0x7f, 0xff, 0, 3, 0, 4]);
        }
    }
}

#[test]
fn success_responses_must_be_sealed() {
    let bytes = message(0x0101, &[(attribute::XOR_MAPPED_ADDRESS, &[0, 1, 0, 0, 1, 2, 3, 4])], None);
    assert_eq!(parse_response(&bytes, PASSWORD), None);
}

proptest! {
    #[test]
    fn request_round_trip(transaction: [u8; 12], local in "[a-zA-Z0-9+/]{4,256}", remote in "[a-zA-Z0-9+/]{4,256}",
                          priority: u32, tie: u64, controlling: bool, use_candidate: bool,
                          password in "[a-zA-Z0-9+/]{22,256}") {
        let role = if controlling { Role::Controlling(tie) } else { Role::Controlled(tie) };
        let check = Check {
            transaction: TransactionId(transaction), local_ufrag: &local, remote_ufrag: &remote, priority, role, use_candidate,
        };
        let mut out = [0; 1024];
        let len = write_request(&mut out, &check, &password).unwrap();
        let expected = BindingRequest {
            transaction: check.transaction, local_ufrag: &remote, remote_ufrag: &local, priority: Some(priority),
            use_candidate, role: Some(role), unknown: UnknownAttributes::default(),
        };
        prop_assert_eq!(parse_request(&out[..len], &password), Ok(expected));
        prop_assert_eq!(peek_username(&out[..len]), Some((&remote[..], &local[..])));
    }

    #[test]
    fn success_round_trip(transaction: [u8; 12], mapped: SocketAddr, password in "[a-z]{22}") {
        let mut out = [0; 128];
        let len = write_success(&mut out, TransactionId(transaction), mapped, &password).unwrap();
        let told = SocketAddr::new(mapped.ip().to_canonical(), mapped.port());
        let expected = Response::Success { transaction: TransactionId(transaction), mapped: told };
        prop_assert_eq!(parse_response(&out[..len], &password), Some(expected));
    }

    #[test]
    fn mangled_requests_do_not_pass(edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)) {
        let mut bytes = REQUEST;
        for (at, value) in edits {
            bytes[at.index(REQUEST.len())] = value;
        }
        prop_assert_eq!(parse_request(&bytes, PASSWORD).is_ok(), bytes == REQUEST);
        let _ = peek_username(&bytes);
        let _ = parse_response(&bytes, PASSWORD);
    }

    /// Any attributes under a right seal: read as far as they have the right form.
    #[test]
    fn any_sealed_attributes(kind in prop::sample::select(vec![0x0001u16, 0x0101, 0x0111, 0x0011]),
                             list in prop::collection::vec((0u16..0x30, any::<bool>(), prop::collection::vec(any::<u8>(), 0..24)), 0..8)) {
        let list: Vec<_> = list.iter().map(|(kind, high, value)| (*kind | u16::from(*high) << 15, &value[..])).filter(|(kind, _)| *kind != attribute::FINGERPRINT).collect();
        let bytes = message(kind, &list, Some(PASSWORD));
        let username = list.iter().find(|(kind, _)| *kind == attribute::USERNAME).map(|(_, value)| *value);
        match parse_request(&bytes, PASSWORD) {
            Ok(read) => {
                prop_assert_eq!(kind, BINDING_REQUEST);
                let joined = format!("{}:{}", read.local_ufrag, read.remote_ufrag);
                prop_assert_eq!(Some(joined.as_bytes()), username);
                prop_assert_eq!(peek_username(&bytes), Some((read.local_ufrag, read.remote_ufrag)));
            }
            Err(Refused::Unauthenticated(_)) => {
                // Only an earlier MESSAGE-INTEGRITY in the list can spoil ours.
                prop_assert!(list.iter().any(|(kind, _)| *kind == attribute::MESSAGE_INTEGRITY));
            }
            Err(_) => {}
        }
        if let Some(Response::Success { .. }) = parse_response(&bytes, PASSWORD) {
            prop_assert_eq!(kind, 0x0101);
        }
    }

    #[test]
    fn unsealed_bytes_are_refused(kind in prop::sample::select(vec![0x0001u16, 0x0101, 0x0111, 0x0011]),
                                     body in prop::collection::vec(any::<u8>(), 0..160), small in 0u8..8) {
        let mut bytes = message(kind, &[], None);
        bytes.truncate(HEADER_BYTES);
        bytes.extend(&body[..body.len() / 4 * 4]);
        // Attribute types and lengths low enough to be met.
        for word in bytes[HEADER_BYTES..].as_chunks_mut::<4>().0.iter_mut().step_by(3) {
            *word = [word[0] & 0x80, word[1] & 0x2f, 0, word[3] % 24 + small];
        }
        let length = (bytes.len() - HEADER_BYTES) as u16;
        bytes[2..4].copy_from_slice(&length.to_be_bytes());
        prop_assert!(parse_request(&bytes, PASSWORD).is_err());
        prop_assert_eq!(parse_response(&bytes, PASSWORD), None);
        let _ = peek_username(&bytes);
    }
}
