//! STUN Binding for ICE-lite: requests are read and answered (RFC 8489, RFC 8445 §7.3).
//!
//! ```text
//! |0 0| type, 14 bits | length of attributes |      type 0x0001 Binding request, 0x0101 success, 0x0111 error
//! |         magic cookie 0x2112A442          |
//! |         transaction ID, 96 bits          |
//! |  attribute type  |  length  |  value, padded to a word  |  repeated
//! ```
//!
//! The path of a request: [`peek_username`] finds the transport it is for without allocating, [`parse_request`] verifies
//! it with that transport's password, [`write_success`] or [`write_error`] answers. Integrity, fingerprint and the
//! messages we send are the `stun` crate's work, which is named in this module only and sees nothing before the layout
//! was checked here: lengths add up, MESSAGE-INTEGRITY has 20 bytes, FINGERPRINT has four and comes last.
//!
//! Left out: long-term credentials, SHA-256 integrity, everything but Binding. [`client`] has the other side.
#![forbid(unsafe_code)]

pub mod client;
mod response;
#[cfg(test)]
mod tests;

pub use response::{ErrorResponse, write_error, write_success};

use ::stun::fingerprint::FINGERPRINT;
use ::stun::integrity::MessageIntegrity;
use ::stun::message::Message;

use crate::drop_reason::DropReason;

const HEADER_BYTES: usize = 20;
const MAGIC_COOKIE: [u8; 4] = [0x21, 0x12, 0xa4, 0x42];
const BINDING_REQUEST: u16 = 0x0001;
const INTEGRITY_BYTES: usize = 20;
const FINGERPRINT_BYTES: usize = 4;

/// Attribute types we look at (RFC 8489 §18.3, RFC 8445 §16.1).
mod attribute {
    pub(super) const MAPPED_ADDRESS: u16 = 0x0001;
    pub(super) const USERNAME: u16 = 0x0006;
    pub(super) const MESSAGE_INTEGRITY: u16 = 0x0008;
    pub(super) const ERROR_CODE: u16 = 0x0009;
    pub(super) const UNKNOWN_ATTRIBUTES: u16 = 0x000a;
    pub(super) const REALM: u16 = 0x0014;
    pub(super) const NONCE: u16 = 0x0015;
    pub(super) const MESSAGE_INTEGRITY_SHA256: u16 = 0x001c;
    pub(super) const XOR_MAPPED_ADDRESS: u16 = 0x0020;
    pub(super) const PRIORITY: u16 = 0x0024;
    pub(super) const USE_CANDIDATE: u16 = 0x0025;
    pub(super) const FINGERPRINT: u16 = 0x8028;
    pub(super) const ICE_CONTROLLED: u16 = 0x8029;
    pub(super) const ICE_CONTROLLING: u16 = 0x802a;
    /// From here on an attribute may be ignored by those who do not know it.
    pub(super) const OPTIONAL: u16 = 0x8000;
}

/// Identifies a request and its response.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct TransactionId(pub [u8; 12]);

/// What the peer believes its ICE role to be, with its tie-breaker (RFC 8445 §7.1.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The peer nominates. What an ICE-lite agent expects.
    Controlling(u64),
    /// The peer waits for us to nominate: a conflict with a lite agent, to be answered by 487.
    Controlled(u64),
}

/// Why a request is not served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// No Binding request whose lengths add up, or no right fingerprint: drop it silently.
    Malformed,
    /// USERNAME, MESSAGE-INTEGRITY or their form is missing: 400.
    BadRequest(TransactionId),
    /// MESSAGE-INTEGRITY does not verify with the password: 401.
    Unauthenticated(TransactionId),
}

impl Refused {
    /// The counter this datagram belongs to.
    pub fn drop_reason(self) -> DropReason {
        match self {
            Refused::Malformed | Refused::BadRequest(_) => DropReason::StunMalformed,
            Refused::Unauthenticated(_) => DropReason::StunBadIntegrity,
        }
    }
}

/// Most unknown attributes that a 420 response names.
const UNKNOWN_MAX: usize = 8;

/// Comprehension-required attributes that we do not comprehend; the first eight are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UnknownAttributes {
    types: [u16; UNKNOWN_MAX],
    len: usize,
}

impl UnknownAttributes {
    /// The attribute types in order.
    pub fn as_slice(&self) -> &[u16] {
        &self.types[..self.len]
    }

    fn push(&mut self, kind: u16) {
        if let Some(slot) = self.types.get_mut(self.len) {
            *slot = kind;
            self.len += 1;
        }
    }
}

/// A Binding request whose integrity was verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BindingRequest<'a> {
    /// To be repeated in the response.
    pub transaction: TransactionId,
    /// First half of USERNAME: our user fragment.
    pub local_ufrag: &'a str,
    /// Second half of USERNAME: the peer's user fragment.
    pub remote_ufrag: &'a str,
    /// Priority a peer-reflexive candidate would get.
    pub priority: Option<u32>,
    /// The peer nominates this pair.
    pub use_candidate: bool,
    /// The peer's role, when it says so.
    pub role: Option<Role>,
    /// Not empty: answer 420 instead of success.
    pub unknown: UnknownAttributes,
}

/// Finds out whom a Binding request is for: (our user fragment, the peer's). `None` for anything else.
///
/// Allocates nothing and verifies nothing; the layout is checked only up to USERNAME.
pub fn peek_username(datagram: &[u8]) -> Option<(&str, &str)> {
    let (kind, _, attributes) = split_header(datagram)?;
    if kind != BINDING_REQUEST {
        return None;
    }
    split_username(attributes.map_while(Result::ok).find(|a| a.kind == attribute::USERNAME)?.value)
}

/// Verifies a Binding request with `password`, our own ICE password, and reads it.
///
/// Attributes behind MESSAGE-INTEGRITY are not authentic and are not read. FINGERPRINT must be there, as ICE demands.
/// Allocates (`stun` crate).
/// # Errors
/// See [`Refused`].
pub fn parse_request<'a>(datagram: &'a [u8], password: &str) -> Result<BindingRequest<'a>, Refused> {
    let layout = Layout::check(datagram).ok_or(Refused::Malformed)?;
    let transaction = layout.transaction;
    if layout.kind != BINDING_REQUEST || !fingerprint_holds(&layout, datagram) {
        return Err(Refused::Malformed);
    }
    let mut username = None;
    let mut request = BindingRequest {
        transaction,
        local_ufrag: "",
        remote_ufrag: "",
        priority: None,
        use_candidate: false,
        role: None,
        unknown: UnknownAttributes::default(),
    };
    for Attribute { kind, value } in layout.authentic(datagram) {
        match kind {
            attribute::USERNAME if username.is_none() => username = Some(value),
            attribute::PRIORITY => request.priority = Some(u32::from_be_bytes(fixed(value, transaction)?)),
            attribute::USE_CANDIDATE => request.use_candidate = true,
            attribute::ICE_CONTROLLING => {
                request.role = Some(Role::Controlling(u64::from_be_bytes(fixed(value, transaction)?)));
            }
            attribute::ICE_CONTROLLED => {
                request.role = Some(Role::Controlled(u64::from_be_bytes(fixed(value, transaction)?)));
            }
            _ if !comprehended(kind) => request.unknown.push(kind),
            _ => {}
        }
    }
    let (local, remote) = username.and_then(split_username).ok_or(Refused::BadRequest(transaction))?;
    if layout.integrity_at.is_none() {
        return Err(Refused::BadRequest(transaction));
    }
    if !integrity_holds(datagram, password) {
        return Err(Refused::Unauthenticated(transaction));
    }
    Ok(BindingRequest { local_ufrag: local, remote_ufrag: remote, ..request })
}

/// A value that must have exactly `N` bytes.
fn fixed<const N: usize>(value: &[u8], transaction: TransactionId) -> Result<[u8; N], Refused> {
    value.try_into().map_err(|_| Refused::BadRequest(transaction))
}

/// USERNAME as ICE forms it: receiver's fragment, colon, sender's fragment (RFC 8445 §7.2.2).
fn split_username(value: &[u8]) -> Option<(&str, &str)> {
    let (local, remote) = std::str::from_utf8(value).ok()?.split_once(':')?;
    (!local.is_empty() && !remote.is_empty()).then_some((local, remote))
}

fn comprehended(kind: u16) -> bool {
    kind >= attribute::OPTIONAL
        || matches!(
            kind,
            attribute::MAPPED_ADDRESS
                | attribute::USERNAME
                | attribute::MESSAGE_INTEGRITY
                | attribute::ERROR_CODE
                | attribute::UNKNOWN_ATTRIBUTES
                | attribute::REALM
                | attribute::NONCE
                | attribute::MESSAGE_INTEGRITY_SHA256
                | attribute::XOR_MAPPED_ADDRESS
                | attribute::PRIORITY
                | attribute::USE_CANDIDATE
        )
}

/// One attribute, padding left out.
#[derive(Clone, Copy, Debug)]
struct Attribute<'a> {
    kind: u16,
    value: &'a [u8],
}

/// Walks attributes; an error when one does not fit, and the end after that.
#[derive(Clone, Debug)]
struct Attributes<'a> {
    rest: &'a [u8],
}

struct Torn;

impl<'a> Iterator for Attributes<'a> {
    type Item = Result<Attribute<'a>, Torn>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let taken = take_attribute(self.rest);
        self.rest = taken.as_ref().map_or(&[], |(_, rest)| rest);
        Some(taken.map(|(attribute, _)| attribute).ok_or(Torn))
    }
}

fn take_attribute(bytes: &[u8]) -> Option<(Attribute<'_>, &[u8])> {
    let (&[k0, k1, l0, l1], rest) = bytes.split_first_chunk()?;
    let len = usize::from(u16::from_be_bytes([l0, l1]));
    let (padded, rest) = rest.split_at_checked(len.next_multiple_of(4))?;
    Some((Attribute { kind: u16::from_be_bytes([k0, k1]), value: &padded[..len] }, rest))
}

/// Type, transaction and attributes of a message that fills its datagram.
fn split_header(datagram: &[u8]) -> Option<(u16, TransactionId, Attributes<'_>)> {
    let (&[k0, k1, l0, l1], rest) = datagram.split_first_chunk()?;
    let (cookie, rest) = rest.split_first_chunk::<4>()?;
    let (transaction, rest) = rest.split_first_chunk::<12>()?;
    let fills = usize::from(u16::from_be_bytes([l0, l1])) == rest.len() && rest.len().is_multiple_of(4);
    if *cookie != MAGIC_COOKIE || !fills {
        return None;
    }
    Some((u16::from_be_bytes([k0, k1]), TransactionId(*transaction), Attributes { rest }))
}

/// A message whose attributes add up, with the places of the two that cover others.
struct Layout {
    kind: u16,
    transaction: TransactionId,
    /// Offset of MESSAGE-INTEGRITY.
    integrity_at: Option<usize>,
    fingerprint: bool,
}

impl Layout {
    fn check(datagram: &[u8]) -> Option<Layout> {
        let (kind, transaction, mut attributes) = split_header(datagram)?;
        let mut layout = Layout { kind, transaction, integrity_at: None, fingerprint: false };
        loop {
            let at = datagram.len() - attributes.rest.len();
            let Some(attribute) = attributes.next() else { return Some(layout) };
            let Attribute { kind, value } = attribute.ok()?;
            let last = attributes.rest.is_empty();
            match kind {
                attribute::MESSAGE_INTEGRITY if layout.integrity_at.is_none() => {
                    layout.integrity_at = Some(at);
                    if value.len() != INTEGRITY_BYTES {
                        return None;
                    }
                }
                attribute::FINGERPRINT if !last || value.len() != FINGERPRINT_BYTES => return None,
                attribute::FINGERPRINT => layout.fingerprint = true,
                _ => {}
            }
        }
    }

    /// The attributes that MESSAGE-INTEGRITY covers; all of them when there is none.
    fn authentic<'a>(&self, datagram: &'a [u8]) -> impl Iterator<Item = Attribute<'a>> + use<'a> {
        let end = self.integrity_at.unwrap_or(datagram.len());
        Attributes { rest: &datagram[HEADER_BYTES..end] }.map_while(Result::ok)
    }
}

/// Whether FINGERPRINT is there and right (RFC 8489 §14.7; ICE demands it: RFC 8445 §7).
fn fingerprint_holds(layout: &Layout, datagram: &[u8]) -> bool {
    layout.fingerprint && decode(datagram).is_some_and(|message| FINGERPRINT.check(&message).is_ok())
}

/// Whether MESSAGE-INTEGRITY verifies with the short-term `password` (RFC 8489 §14.5).
fn integrity_holds(datagram: &[u8], password: &str) -> bool {
    let integrity = MessageIntegrity::new_short_term_integrity(password.to_owned());
    decode(datagram).is_some_and(|mut message| integrity.check(&mut message).is_ok())
}

/// Hands a message to the crate; its layout was checked before.
fn decode(datagram: &[u8]) -> Option<Message> {
    let mut message = Message::new();
    message.unmarshal_binary(datagram).ok()?;
    Some(message)
}
