//! The controller's side door: typed messages ([`proto`]) and the socket that carries them.
pub mod proto;
