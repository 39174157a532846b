//! The other side of a check, for tests, `bench` and the load generator: Binding requests out, responses in.
#![forbid(unsafe_code)]

use std::net::SocketAddr;

use ::stun::attributes::{AttrType, RawAttribute};
use ::stun::error_code::ErrorCodeAttribute;
use ::stun::message::{BINDING_REQUEST, Getter};
use ::stun::textattrs::Username;
use ::stun::xoraddr::XorMappedAddress;

use super::{Layout, Role, TransactionId, attribute, decode, fingerprint_holds, integrity_holds, response};
use crate::wire::WriteError;

const BINDING_SUCCESS: u16 = 0x0101;
const BINDING_ERROR: u16 = 0x0111;

/// A connectivity check to be sent.
#[derive(Clone, Copy, Debug)]
pub struct Check<'a> {
    /// Random, and new for each request.
    pub transaction: TransactionId,
    /// User fragment of the side that sends this.
    pub local_ufrag: &'a str,
    /// User fragment of the side that shall answer.
    pub remote_ufrag: &'a str,
    /// Priority of a peer-reflexive candidate (RFC 8445 §5.1.2).
    pub priority: u32,
    /// The sender's role.
    pub role: Role,
    /// Nominates the pair.
    pub use_candidate: bool,
}

/// Writes a Binding request, sealed with the answering side's password; returns its length in bytes.
///
/// # Errors
/// `OutOfRange` when the user fragments exceed 513 bytes together, `NoSpace`.
pub fn write_request(out: &mut [u8], check: &Check<'_>, remote_password: &str) -> Result<usize, WriteError> {
    let mut message = response::begin(BINDING_REQUEST, check.transaction);
    let username = format!("{}:{}", check.remote_ufrag, check.local_ufrag);
    response::add(&mut message, &Username::new(AttrType(attribute::USERNAME), username))?;
    let (kind, tie_breaker) = match check.role {
        Role::Controlling(tie_breaker) => (attribute::ICE_CONTROLLING, tie_breaker),
        Role::Controlled(tie_breaker) => (attribute::ICE_CONTROLLED, tie_breaker),
    };
    response::add(&mut message, &raw(kind, &tie_breaker.to_be_bytes()))?;
    response::add(&mut message, &raw(attribute::PRIORITY, &check.priority.to_be_bytes()))?;
    if check.use_candidate {
        response::add(&mut message, &raw(attribute::USE_CANDIDATE, &[]))?;
    }
    response::seal(message, Some(remote_password), out)
}

fn raw(kind: u16, value: &[u8]) -> RawAttribute {
    RawAttribute { typ: AttrType(kind), length: value.len() as u16, value: value.to_vec() }
}

/// What the other side answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Response {
    /// It saw the request come from `mapped`.
    Success {
        /// Of the request answered.
        transaction: TransactionId,
        /// Our address as the other side sees it.
        mapped: SocketAddr,
    },
    /// It refused.
    Error {
        /// Of the request answered.
        transaction: TransactionId,
        /// 400, 401, 420, 487, ...
        code: u16,
        /// The response had MESSAGE-INTEGRITY, and it was right.
        verified: bool,
    },
}

/// Reads a response. A success must be sealed with `remote_password`; an error may come without integrity, but not with
/// a wrong one. `None` for everything else.
pub fn parse_response(datagram: &[u8], remote_password: &str) -> Option<Response> {
    let layout = Layout::check(datagram)?;
    if !fingerprint_holds(&layout, datagram) {
        return None;
    }
    let transaction = layout.transaction;
    let verified = layout.integrity_at.is_some();
    if verified && !integrity_holds(datagram, remote_password) {
        return None;
    }
    let message = decode(datagram)?;
    match layout.kind {
        BINDING_SUCCESS if verified => {
            let mut address = XorMappedAddress::default();
            address.get_from(&message).ok()?;
            Some(Response::Success { transaction, mapped: SocketAddr::new(address.ip, address.port) })
        }
        BINDING_ERROR => {
            let mut error = ErrorCodeAttribute::default();
            error.get_from(&message).ok()?;
            Some(Response::Error { transaction, code: error.code.0, verified })
        }
        _ => None,
    }
}
