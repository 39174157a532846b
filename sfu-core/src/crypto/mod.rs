//! Media protection: SRTP, SRTCP and the DTLS handshake that gives their keys.
//!
//! ```text
//!  dtls ──▶ keying material ──▶ profile (split) ──▶ kdf ──▶ SrtpRx / SrtpTx
//!                                                            │        │
//!                                    index, replay ◀─────────┘        └──▶ backend (ciphers)
//! ```
//!
//! Everything here works on slices and never on slots, reads no clock and allocates nothing per packet.
// `aws_lc` calls C; every other file forbids it for itself.
#![deny(unsafe_code)]

mod aws_lc;
pub mod backend;
pub mod certificate;
pub mod dtls;
pub mod gcm_key;
pub mod index;
pub mod kdf;
pub mod profile;
pub mod replay;
pub mod srtcp;
pub mod srtp;

pub use certificate::Certificate;
pub use dtls::{Dtls, DtlsEndpoint, DtlsError, DtlsOutput, DtlsVersion, Role};
pub use profile::{MasterKey, SrtpProfile, split_keying_material};
pub use srtp::{SrtpRx, SrtpTx};
