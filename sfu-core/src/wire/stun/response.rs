//! Responses to Binding requests, and what they share with the requests of [`client`](super::client).
#![forbid(unsafe_code)]

use std::net::SocketAddr;

use ::stun::attributes::AttrType;
use ::stun::error_code::{CODE_BAD_REQUEST, CODE_ROLE_CONFLICT, CODE_UNAUTHORIZED, CODE_UNKNOWN_ATTRIBUTE};
use ::stun::fingerprint::FINGERPRINT;
use ::stun::integrity::MessageIntegrity;
use ::stun::message::{BINDING_ERROR, BINDING_SUCCESS, Message, MessageType, Setter};
use ::stun::uattrs::UnknownAttributes as UnknownAttributesSetter;
use ::stun::xoraddr::XorMappedAddress;

use super::TransactionId;
use crate::wire::WriteError;

/// An error to answer with (RFC 8489 §14.8, RFC 8445 §7.3.1.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorResponse<'a> {
    /// 400: USERNAME or MESSAGE-INTEGRITY is missing.
    BadRequest,
    /// 401: MESSAGE-INTEGRITY is wrong.
    Unauthorized,
    /// 420, naming the attributes.
    UnknownAttribute(&'a [u16]),
    /// 487: both sides think they have the same role.
    RoleConflict,
}

/// Writes a success response with XOR-MAPPED-ADDRESS, MESSAGE-INTEGRITY and FINGERPRINT; returns its length in bytes
/// (64 for IPv4, 76 for IPv6).
///
/// `mapped`: the request's source address; an IPv4-mapped one is told as IPv4. `password`: the one that verified the
/// request.
/// # Errors
/// `NoSpace`.
pub fn write_success(
    out: &mut [u8],
    transaction: TransactionId,
    mapped: SocketAddr,
    password: &str,
) -> Result<usize, WriteError> {
    let mut message = begin(BINDING_SUCCESS, transaction);
    let address = XorMappedAddress { ip: mapped.ip().to_canonical(), port: mapped.port() };
    add(&mut message, &address)?;
    seal(message, Some(password), out)
}

/// Writes an error response with FINGERPRINT; returns its length in bytes.
///
/// `password`: for errors found after the request was verified (420, 487). 400 and 401 carry no integrity, as there is
/// no key both sides know (RFC 8489 §9.1.3).
/// # Errors
/// `NoSpace`.
pub fn write_error(
    out: &mut [u8],
    transaction: TransactionId,
    error: ErrorResponse<'_>,
    password: Option<&str>,
) -> Result<usize, WriteError> {
    let mut message = begin(BINDING_ERROR, transaction);
    let code = match error {
        ErrorResponse::BadRequest => CODE_BAD_REQUEST,
        ErrorResponse::Unauthorized => CODE_UNAUTHORIZED,
        ErrorResponse::UnknownAttribute(_) => CODE_UNKNOWN_ATTRIBUTE,
        ErrorResponse::RoleConflict => CODE_ROLE_CONFLICT,
    };
    add(&mut message, &code)?;
    if let ErrorResponse::UnknownAttribute(types) = error {
        add(&mut message, &UnknownAttributesSetter(types.iter().copied().map(AttrType).collect()))?;
    }
    seal(message, password, out)
}

/// A message with its header.
pub(super) fn begin(kind: MessageType, transaction: TransactionId) -> Message {
    let mut message = Message::new();
    message.typ = kind;
    message.transaction_id.0 = transaction.0;
    message.write_header();
    message
}

/// Appends one attribute.
pub(super) fn add(message: &mut Message, setter: &dyn Setter) -> Result<(), WriteError> {
    // The crate refuses values that are too long for their attribute, and codes without a default reason.
    setter.add_to(message).map_err(|_| WriteError::OutOfRange)
}

/// Adds MESSAGE-INTEGRITY (with a password) and FINGERPRINT, and copies the message to `out`.
pub(super) fn seal(
    mut message: Message,
    password: Option<&str>,
    out: &mut [u8],
) -> Result<usize, WriteError> {
    if let Some(password) = password {
        add(&mut message, &MessageIntegrity::new_short_term_integrity(password.to_owned()))?;
    }
    add(&mut message, &FINGERPRINT)?;
    out.get_mut(..message.raw.len()).ok_or(WriteError::NoSpace)?.copy_from_slice(&message.raw);
    Ok(message.raw.len())
}
