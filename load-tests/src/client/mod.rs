//! Light and full WebRTC clients.
